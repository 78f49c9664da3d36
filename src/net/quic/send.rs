//! What goes out on connections that this process made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use quinn::{ReadError, ReadToEndError, SendStream};
use tokio::sync::{Semaphore, mpsc};

use super::{Core, transport};
use crate::base::Epoch;
use crate::net::frame::{Class, HEADER, Head};
use crate::net::inbox::{Culprit, count};
use crate::net::{DownReason, Identity, Lane, Refusal, RequestError, SendError};

/// A control frame that waits: the epoch in which it was queued, its kind, its body.
pub(super) type Queued = (Epoch, u16, Bytes);

/// A connection that this process made and whose hello was answered.
pub(super) struct Outgoing {
    pub(super) lane: Lane,
    /// Who answered.
    pub(super) identity: Identity,
    pub(super) connection: quinn::Connection,
    /// Why this side ended it.
    ended: Mutex<Option<DownReason>>,
    queue: mpsc::Sender<Queued>,
    queued_bytes: AtomicUsize,
    /// The last sequence number given; a heartbeat is given to QUIC under its lock, so that numbers go out in order.
    beats: Mutex<u64>,
    requests: AtomicU64,
    in_flight: Arc<Semaphore>,
}

impl Outgoing {
    /// The connection, and the other end of its queue.
    pub(super) fn new(lane: Lane, identity: Identity, connection: quinn::Connection, frames: usize) -> (Outgoing, mpsc::Receiver<Queued>) {
        let (queue, queued) = mpsc::channel(frames);
        let outgoing = Outgoing {
            lane,
            identity,
            connection,
            ended: Mutex::new(None),
            queue,
            queued_bytes: AtomicUsize::new(0),
            beats: Mutex::new(0),
            requests: AtomicU64::new(0),
            in_flight: Arc::new(Semaphore::new(transport::REQUESTS_MAX as usize)),
        };
        (outgoing, queued)
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Ends the connection.
    pub(super) fn end(&self, reason: DownReason, epoch: Epoch) {
        self.ended.lock().get_or_insert(reason);
        transport::close(&self.connection, epoch);
    }

    /// Waits for its end.
    pub(super) async fn over(&self) -> DownReason {
        let error = self.connection.closed().await;
        self.ended.lock().unwrap_or_else(|| transport::down_reason(&error))
    }

    /// Sends a heartbeat; if the path is congested, an older one that still waits is dropped.
    pub(super) fn beat(&self, core: &Core, kind: u16, body: &[u8]) -> Result<(), SendError> {
        let mut beats = self.beats.lock();
        *beats += 1;
        let (incarnation, sequence) = (core.local.incarnation, *beats);
        let sent = core.inbox.in_epoch(|epoch| {
            let head = Head { lane: Lane::Heartbeat, class: Class::Message, kind, epoch, incarnation, sequence };
            let mut frame = BytesMut::with_capacity(HEADER + body.len());
            frame.put_slice(&head.encode(body, core.local.cluster.tag()));
            frame.put_slice(body);
            self.connection.send_datagram(frame.freeze())
        });
        drop(beats);
        sent.map_err(|_| SendError::NotConnected(self.identity.peer))?;
        count(&core.inbox.tally().sent);
        Ok(())
    }

    /// Queues a control frame.
    pub(super) fn queue(&self, core: &Core, kind: u16, body: Bytes) -> Result<(), SendError> {
        let full = SendError::Full(self.identity.peer);
        let bytes = body.len();
        if self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > core.options.queue_bytes {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(full);
        }
        self.queue.try_send((core.inbox.epoch(), kind, body)).map_err(|error| {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            match error {
                mpsc::error::TrySendError::Full(_) => full,
                mpsc::error::TrySendError::Closed(_) => SendError::NotConnected(self.identity.peer),
            }
        })
    }

    /// Writes queued control frames until the connection is over.
    pub(super) async fn write(&self, core: &Core, mut queued: mpsc::Receiver<Queued>, mut stream: SendStream) {
        let mut sequence = 1;
        while let Some((epoch, kind, body)) = queued.recv().await {
            let bytes = body.len();
            let head = Head { lane: Lane::Control, class: Class::Message, kind, epoch, incarnation: core.local.incarnation, sequence };
            let header = Bytes::copy_from_slice(&head.encode(&body, core.local.cluster.tag()));
            match core.inbox.hand_over(epoch, stream.write_all_chunks(&mut [header, body])).await {
                Some(Ok(())) => {
                    sequence += 1;
                    count(&core.inbox.tally().sent);
                }
                Some(Err(_)) => {
                    count(&core.inbox.tally().dropped);
                    break;
                }
                // Its epoch ended while it waited.
                None => count(&core.inbox.tally().dropped),
            }
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        queued.close();
        while queued.try_recv().is_ok() {
            count(&core.inbox.tally().dropped);
        }
    }
}

/// Sends a request and waits for its answer.
pub(super) async fn request(core: Arc<Core>, outgoing: Arc<Outgoing>, kind: u16, body: Bytes) -> Result<Bytes, RequestError> {
    let to = outgoing.identity.peer;
    let _slot = outgoing.in_flight.clone().try_acquire_owned().map_err(|_| RequestError::Full(to))?;
    let mut epochs = core.inbox.epochs();
    let epoch = *epochs.borrow_and_update();
    let exchange = async {
        let (mut send, mut receive) = outgoing.connection.open_bi().await.map_err(|_| RequestError::Broken(to))?;
        let sequence = outgoing.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let head = Head { lane: Lane::Block, class: Class::Request, kind, epoch, incarnation: core.local.incarnation, sequence };
        let header = Bytes::copy_from_slice(&head.encode(&body, core.local.cluster.tag()));
        let written = core.inbox.hand_over(epoch, send.write_all_chunks(&mut [header, body])).await;
        written.ok_or(RequestError::EpochOver(to))?.map_err(|_| RequestError::Broken(to))?;
        send.finish().map_err(|_| RequestError::Broken(to))?;
        count(&core.inbox.tally().sent);
        let answer = match receive.read_to_end(HEADER + Lane::Block.body_max()).await {
            Ok(answer) => answer,
            Err(error) => return Err(unanswered(&core, &outgoing, &error)),
        };
        Ok((head, Bytes::from(answer)))
    };
    let (asked, answer) = tokio::select! {
        biased;
        exchanged = exchange => exchanged?,
        _ = epochs.changed() => return Err(RequestError::EpochOver(to)),
    };
    match judge(&core, &outgoing, &asked, &answer) {
        Ok(()) => {
            count(&core.inbox.tally().received);
            Ok(answer.slice(HEADER..))
        }
        Err(reason) => {
            core.inbox.refuse(Culprit::Peer(to), reason);
            Err(RequestError::BadAnswer(to, reason))
        }
    }
}

/// Whether `answer` is one to the request with the header `asked`.
fn judge(core: &Core, outgoing: &Outgoing, asked: &Head, answer: &[u8]) -> Result<(), Refusal> {
    let (head, _) = Head::decode(answer, Lane::Block, core.local.cluster.tag())?;
    let expected = Head { class: Class::Answer, epoch: head.epoch, incarnation: outgoing.identity.incarnation, ..*asked };
    if head != expected {
        return Err(Refusal::Garbage);
    }
    if head.epoch < core.inbox.epoch() {
        return Err(Refusal::StaleEpoch);
    }
    if !core.inbox.admission.lock().is_current(outgoing.identity.peer, head.incarnation) {
        return Err(Refusal::OldIncarnation);
    }
    Ok(())
}

/// What it means that no answer came.
fn unanswered(core: &Core, outgoing: &Outgoing, error: &ReadToEndError) -> RequestError {
    let to = outgoing.identity.peer;
    match error {
        ReadToEndError::Read(ReadError::Reset(code)) => match Refusal::from_number(code.into_inner()) {
            Some(reason) => RequestError::BadAnswer(to, reason),
            None => RequestError::NoAnswer(to),
        },
        ReadToEndError::Read(_) => RequestError::Broken(to),
        ReadToEndError::TooLong => {
            core.inbox.refuse(Culprit::Peer(to), Refusal::Oversized);
            RequestError::BadAnswer(to, Refusal::Oversized)
        }
    }
}
