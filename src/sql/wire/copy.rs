//! `COPY .. FROM STDIN`: the client sends data until it says that it is done, or gives up.
//!
//! When a row can't be taken, the error goes out at once, and what the client still sends is ignored by the conversation.

use pgwire::messages::{copy, extendedquery};
use tokio::io::{AsyncRead, AsyncWrite};

use super::conversation::{Conversation, Trouble};
use super::frontend::{FRAME_HEADER, Malformed, Message, decode};
use super::port::Port;
use super::stream::{End, watch};

/// Data is handed on in pieces of about this size.
const PIECE: usize = 64 << 10;

impl<S: AsyncRead + AsyncWrite + Unpin + Send, P: Port> Conversation<S, P> {
    /// Takes the data of `copy`; gives the tag of CommandComplete.
    pub(super) async fn copy_in(&mut self, mut copy: P::Copy, columns: usize) -> Result<String, Trouble> {
        self.stream.out.copy_in(columns);
        self.stream.flush(&mut self.guard).await?;
        let mut data = Vec::new();
        loop {
            let patience = self.guard.stall();
            let frame = self.stream.frame(&mut self.guard, patience).await?;
            match frame.kind {
                copy::MESSAGE_TYPE_BYTE_COPY_DATA => {
                    data.clear();
                    data.shrink_to(2 * PIECE);
                    self.stream.line.input.take(frame, &mut data);
                    // A client sends a message for each row: those that are there go together.
                    while data.len() < PIECE
                        && let Some(next) = self.stream.frame_there()?
                        && next.kind == copy::MESSAGE_TYPE_BYTE_COPY_DATA
                    {
                        self.stream.line.input.take(next, &mut data);
                    }
                    watch(&mut self.stream.line, &*self.stopper, Box::pin(self.session.copy_data(&mut copy, &data))).await?;
                }
                // Clients that end each message of the extended protocol with one.
                extendedquery::MESSAGE_TYPE_BYTE_FLUSH | extendedquery::MESSAGE_TYPE_BYTE_SYNC => {
                    self.stream.line.input.skip(FRAME_HEADER + frame.body);
                }
                copy::MESSAGE_TYPE_BYTE_COPY_DONE => {
                    self.stream.line.input.skip(FRAME_HEADER + frame.body);
                    return Ok(watch(&mut self.stream.line, &*self.stopper, Box::pin(self.session.copy_done(copy))).await?);
                }
                copy::MESSAGE_TYPE_BYTE_COPY_FAIL => {
                    data.clear();
                    self.stream.line.input.take(frame, &mut data);
                    let reason = match decode(frame.kind, &data) {
                        Ok(Message::CopyFail { reason }) => reason,
                        Err(Malformed::Encoding(_)) => "(a reason that isn't UTF-8)",
                        Ok(_) => return Err(End::Malformed(Malformed::Type(frame.kind)).into()),
                        Err(malformed) => return Err(End::Malformed(malformed).into()),
                    };
                    let failing = Box::pin(self.session.copy_fail(copy, reason));
                    return Err(watch(&mut self.stream.line, &*self.stopper, failing).await.into());
                }
                other => return Err(End::Malformed(Malformed::DuringCopy(other)).into()),
            }
        }
    }
}
