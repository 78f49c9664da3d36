//! What comes on connections that peers made: each frame is judged, then put into the inbox.

use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quinn::{ReadExactError, ReadToEndError, RecvStream, SendStream};

use super::{Core, transport};
use crate::base::{BoxFuture, Epoch};
use crate::net::frame::{Class, HEADER, Head};
use crate::net::inbox::{Culprit, Incoming, Share, count};
use crate::net::{Answer, Arrival, Lane, Refusal, Reply, SendError};

/// Offset of the lane in a header: needed before it is known which lane's header it must be.
pub(super) const LANE_AT: usize = 11;

/// Receives until the connection is over. `stream` is the one that the hello came on.
pub(super) async fn receive(core: &Arc<Core>, connection: &quinn::Connection, incoming: Arc<Incoming>, stream: RecvStream) {
    let wrong = match incoming.lane {
        Lane::Heartbeat => heartbeats(core, connection, &incoming).await,
        Lane::Control => control(core, &incoming, stream).await,
        Lane::Block => requests(core, connection, &incoming).await,
    };
    if let Some(reason) = wrong {
        core.refuse(Culprit::Peer(incoming.peer), connection, reason);
    }
    // A connection whose stream has ended carries nothing any more.
    transport::close(connection, core.inbox.epoch());
}

async fn heartbeats(core: &Core, connection: &quinn::Connection, incoming: &Incoming) -> Option<Refusal> {
    let culprit = Culprit::Peer(incoming.peer);
    while let Ok(datagram) = connection.read_datagram().await {
        let judged = Head::decode(&datagram, Lane::Heartbeat, core.local.cluster.tag())
            .and_then(|(head, _)| Ok((head.kind, incoming.judge(&head, &core.inbox)?)));
        let (kind, from) = match judged {
            Ok(judged) => judged,
            // Datagrams stand each for itself: the next may be good.
            Err(reason) => {
                core.inbox.refuse(culprit, reason);
                continue;
            }
        };
        let body = datagram.slice(HEADER..);
        let Some(share) = incoming.quota.try_take(body.len()) else {
            core.inbox.refuse(culprit, Refusal::Quota);
            continue;
        };
        core.inbox.put(Arrival::Frame { from, lane: Lane::Heartbeat, kind, body, reply: None }, Some(share));
    }
    None
}

async fn control(core: &Core, incoming: &Incoming, mut stream: RecvStream) -> Option<Refusal> {
    let mut header = [0; HEADER];
    loop {
        match stream.read_exact(&mut header).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(0) | ReadExactError::ReadError(_)) => return None,
            Err(ReadExactError::FinishedEarly(_)) => return Some(Refusal::Garbage),
        }
        let (head, length) = match Head::parse(&header, Lane::Control) {
            Ok(parsed) => parsed,
            Err(reason) => return Some(reason),
        };
        // What finds no room here stays with its sender, by QUIC's flow control.
        let share = incoming.quota.take(length).await;
        let mut body = vec![0; length];
        match stream.read_exact(&mut body).await {
            Ok(()) => {}
            Err(ReadExactError::ReadError(_)) => return None,
            Err(ReadExactError::FinishedEarly(_)) => return Some(Refusal::Garbage),
        }
        let judged = Head::verify(&header, &body, core.local.cluster.tag()).and_then(|()| incoming.judge(&head, &core.inbox));
        match judged {
            Ok(from) => {
                let (kind, body) = (head.kind, body.into());
                core.inbox.put(Arrival::Frame { from, lane: Lane::Control, kind, body, reply: None }, Some(share));
            }
            // Its sender is behind, not broken.
            Err(Refusal::StaleEpoch) => core.inbox.refuse(Culprit::Peer(incoming.peer), Refusal::StaleEpoch),
            Err(reason) => return Some(reason),
        }
    }
}

async fn requests(core: &Arc<Core>, connection: &quinn::Connection, incoming: &Arc<Incoming>) -> Option<Refusal> {
    // As many as there can be streams.
    let mut reading = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(read) = reading.next(), if !reading.is_empty() => {
                if let Err(reason) = read {
                    return Some(reason);
                }
            }
            opened = connection.accept_bi() => match opened {
                Ok((send, stream)) => reading.push(request(core, incoming, send, stream)),
                Err(_) => return None,
            },
        }
    }
}

/// Reads one request and hands it over.
async fn request(core: &Arc<Core>, incoming: &Arc<Incoming>, mut send: SendStream, mut stream: RecvStream) -> Result<(), Refusal> {
    let bytes = match stream.read_to_end(HEADER + Lane::Block.body_max()).await {
        Ok(bytes) => Bytes::from(bytes),
        Err(ReadToEndError::TooLong) => return Err(Refusal::Oversized),
        // Given up by its sender.
        Err(ReadToEndError::Read(_)) => return Ok(()),
    };
    let (head, body) = Head::decode(&bytes, Lane::Block, core.local.cluster.tag())?;
    let share = match incoming.quota.try_take(body.len()) {
        Some(share) => share,
        None => incoming.quota.take(body.len()).await,
    };
    let from = match incoming.judge(&head, &core.inbox) {
        Ok(from) => from,
        Err(Refusal::StaleEpoch) => {
            core.inbox.refuse(Culprit::Peer(incoming.peer), Refusal::StaleEpoch);
            // Already over if this fails.
            let _ = send.reset((Refusal::StaleEpoch as u32).into());
            return Ok(());
        }
        Err(reason) => return Err(reason),
    };
    let body = bytes.slice(HEADER..);
    let answer = QuicAnswer { core: core.clone(), incoming: incoming.clone(), send: Some(send), head, _share: share };
    core.inbox.put(Arrival::Frame { from, lane: Lane::Block, kind: head.kind, body, reply: Some(Reply::new(answer)) }, None);
    Ok(())
}

/// See [`Reply`].
struct QuicAnswer {
    core: Arc<Core>,
    incoming: Arc<Incoming>,
    send: Option<SendStream>,
    /// The request's header.
    head: Head,
    _share: Share,
}

impl QuicAnswer {
    /// Gives the answer to QUIC in this `epoch`. Nearly always it is written at once; what remains is for a task to finish.
    fn begin(&mut self, epoch: Epoch, body: Bytes) -> Result<Option<BoxFuture<()>>, SendError> {
        if self.head.epoch < epoch {
            return Err(SendError::Stale);
        }
        let mut send = self.send.take().ok_or(SendError::NotConnected(self.incoming.peer))?;
        let head = Head { class: Class::Answer, epoch, incarnation: self.core.local.incarnation, ..self.head };
        let header = Bytes::copy_from_slice(&head.encode(&body, self.core.local.cluster.tag()));
        let mut writing: BoxFuture<()> = Box::pin(async move {
            // If this fails the connection is gone, and the asker knows.
            if send.write_all_chunks(&mut [header, body]).await.is_ok() {
                let _ = send.finish();
            }
        });
        let polled = writing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        Ok(polled.is_pending().then_some(writing))
    }
}

impl Answer for QuicAnswer {
    fn send(mut self: Box<Self>, body: Bytes) -> Result<(), SendError> {
        let max = Lane::Block.body_max();
        if body.len() > max {
            return Err(SendError::TooLong { bytes: body.len(), max });
        }
        let core = self.core.clone();
        let begun = core.inbox.in_epoch(|epoch| self.begin(epoch, body));
        match begun {
            Ok(None) => {}
            Ok(Some(rest)) => core.seams.spawn("answer", rest),
            Err(error) => {
                count(&core.inbox.tally().dropped);
                return Err(error);
            }
        }
        count(&core.inbox.tally().sent);
        Ok(())
    }
}

impl Drop for QuicAnswer {
    fn drop(&mut self) {
        if let Some(mut send) = self.send.take() {
            // Dropping a stream would finish it; an answer that isn't given must not look like an empty one.
            let _ = send.reset(0u32.into());
        }
    }
}
