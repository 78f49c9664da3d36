//! What every link keeps, real or simulated: the current epoch, arrivals that wait for [`super::Link::next`], each peer's share of them, counters.
//!
//! Invariants:
//! - The epoch only grows, and so does each peer's incarnation. A frame is judged against both twice: when it arrives ([`Incoming::judge`])
//!   and when it is handed out (rule 6).
//! - What waits of one peer is bounded by its [`Quota`], so that one peer can't use up the memory of all (rule 19).
//! - A refusal is counted always, and logged once for each peer and reason.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::frame::{Class, Head};
use super::hello::{Admission, Hello, Local};
use super::sequence::Sequences;
use super::{Arrival, Counters, Identity, Lane, Peer, Refusal};
use crate::base::{BoxFuture, Epoch, Incarnation};

/// Most pairs of peer and reason that are remembered as logged; what comes after is counted only.
const LOGGED_MAX: usize = 1024;

/// Frames and bytes of one peer that may wait here at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuotaLimits {
    /// Frames, requests that are being worked on included. Default 1024.
    pub frames: u32,
    /// Bytes of their bodies. Default 8 MiB. At least the longest body.
    pub bytes: u32,
}

impl Default for QuotaLimits {
    fn default() -> Self {
        QuotaLimits { frames: 1024, bytes: 8 << 20 }
    }
}

/// One peer's share of the inbox.
#[derive(Clone, Debug)]
pub(super) struct Quota {
    frames: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// Held for as long as a frame counts against its peer's quota.
#[derive(Debug)]
pub(super) struct Share {
    _frame: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Quota {
    pub(super) fn new(limits: QuotaLimits) -> Quota {
        let bytes = (limits.bytes as usize).max(Lane::Block.body_max());
        Quota { frames: Arc::new(Semaphore::new(limits.frames.max(1) as usize)), bytes: Arc::new(Semaphore::new(bytes)) }
    }

    /// A share for a body of this length, if there is room at once.
    pub(super) fn try_take(&self, bytes: usize) -> Option<Share> {
        let frame = self.frames.clone().try_acquire_owned().ok()?;
        let bytes = self.bytes.clone().try_acquire_many_owned(bytes as u32).ok()?;
        Some(Share { _frame: frame, _bytes: bytes })
    }

    /// A share for a body of this length, once there is room: what is behind it stays with the sender.
    pub(super) async fn take(&self, bytes: usize) -> Share {
        let frame = self.frames.clone().acquire_owned().await.expect("the semaphore is never closed");
        let bytes = self.bytes.clone().acquire_many_owned(bytes as u32).await.expect("the semaphore is never closed");
        Share { _frame: frame, _bytes: bytes }
    }
}

/// An arrival that waits.
struct Waiting {
    arrival: Arrival,
    /// Given back when the arrival is handed out; a request's lives on in its reply.
    _share: Option<Share>,
}

/// Whose doing something was, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Culprit {
    /// Its certificate says so.
    Peer(Peer),
    /// Nobody that has a name yet.
    Address(IpAddr),
}

impl std::fmt::Display for Culprit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Culprit::Peer(peer) => peer.fmt(f),
            Culprit::Address(address) => address.fmt(f),
        }
    }
}

/// One accepted connection: whose frames come on it, and which came already.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) peer: Peer,
    pub(super) incarnation: Incarnation,
    pub(super) lane: Lane,
    pub(super) quota: Quota,
    sequences: Mutex<Sequences>,
}

impl Incoming {
    /// The connection that `hello` was accepted for.
    pub(super) fn new(hello: &Hello, quota: Quota) -> Incoming {
        let sequences = Mutex::new(Sequences::new(hello.lane));
        Incoming { peer: hello.from, incarnation: hello.incarnation, lane: hello.lane, quota, sequences }
    }

    /// Whether a frame with this header counts; its checksum was verified. Accepted, its sequence number is used up; so it is when it is
    /// refused for its epoch, as its sender did nothing wrong.
    pub(super) fn judge(&self, head: &Head, inbox: &Inbox) -> Result<Identity, Refusal> {
        let class = if self.lane == Lane::Block { Class::Request } else { Class::Message };
        if head.class != class || head.incarnation != self.incarnation {
            return Err(Refusal::Garbage);
        }
        if !inbox.admission.lock().is_current(self.peer, self.incarnation) {
            return Err(Refusal::OldIncarnation);
        }
        self.sequences.lock().accept(head.sequence)?;
        if head.epoch < inbox.epoch() {
            return Err(Refusal::StaleEpoch);
        }
        Ok(Identity { peer: self.peer, incarnation: self.incarnation, epoch: head.epoch })
    }
}

/// See the module's description.
pub(super) struct Inbox {
    own: Peer,
    pub(super) admission: Arc<Mutex<Admission>>,
    arrivals: mpsc::UnboundedSender<Waiting>,
    waiting: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Waiting>>>,
    epoch: watch::Sender<Epoch>,
    tally: Arc<Tally>,
}

/// Counters as they are counted.
#[derive(Default)]
pub(super) struct Tally {
    refused: [AtomicU64; Refusal::ALL.len()],
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) connected: AtomicU64,
    pub(super) accepted: AtomicU64,
    logged: Mutex<BTreeSet<(Culprit, Refusal)>>,
}

/// Counts one more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Tally {
    fn count_refusal(&self, reason: Refusal) {
        count(&self.refused[reason as usize - 1]);
    }

    fn read(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            refused: std::array::from_fn(|index| read(&self.refused[index])),
            sent: read(&self.sent),
            received: read(&self.received),
            dropped: read(&self.dropped),
            connected: read(&self.connected),
            accepted: read(&self.accepted),
        }
    }
}

impl Inbox {
    pub(super) fn new(local: Local, epoch: Epoch) -> Inbox {
        let (arrivals, waiting) = mpsc::unbounded_channel();
        let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
        let admission = Arc::new(Mutex::new(Admission::new(local)));
        Inbox { own: local.peer, admission, arrivals, waiting, epoch: watch::Sender::new(epoch), tally: Arc::default() }
    }

    /// The current epoch.
    pub(super) fn epoch(&self) -> Epoch {
        *self.epoch.borrow()
    }

    /// Does something at one point in time at which the epoch doesn't change: [`Inbox::set_epoch`] comes before or after it. `act` must not ask for
    /// the epoch by itself.
    pub(super) fn in_epoch<T>(&self, act: impl FnOnce(Epoch) -> T) -> T {
        act(*self.epoch.borrow())
    }

    /// Gives what is of `epoch` to the transport: begins `writing` only if that epoch is not over, at one point as [`Inbox::in_epoch`] has it; nothing
    /// otherwise. Once begun it is finished, as half a frame would be none. `writing` must not ask for the epoch.
    pub(super) async fn hand_over<T>(&self, epoch: Epoch, writing: impl Future<Output = T>) -> Option<T> {
        let mut writing = pin!(writing);
        let mut begun = false;
        poll_fn(|context| {
            self.in_epoch(|current| {
                if !begun && epoch < current {
                    return Poll::Ready(None);
                }
                begun = true;
                writing.as_mut().poll(context).map(Some)
            })
        })
        .await
    }

    /// Tells of each epoch that is entered.
    pub(super) fn epochs(&self) -> watch::Receiver<Epoch> {
        self.epoch.subscribe()
    }

    /// The one atomic point of [`super::Link::set_epoch`].
    pub(super) fn set_epoch(&self, epoch: Epoch) {
        self.epoch.send_if_modified(|current| {
            let newer = *current < epoch;
            *current = epoch.max(*current);
            newer
        });
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(super) fn counters(&self) -> Counters {
        self.tally.read()
    }

    /// Counts a refusal, and logs it if it is the first of its kind from there.
    pub(super) fn refuse(&self, culprit: Culprit, reason: Refusal) {
        self.tally.count_refusal(reason);
        let news = {
            let mut logged = self.tally.logged.lock();
            logged.len() < LOGGED_MAX && logged.insert((culprit, reason))
        };
        if news {
            tracing::warn!(own = %self.own, from = %culprit, epoch = %self.epoch(), "refused: {reason}; further ones are only counted");
        }
    }

    /// Leaves an arrival for [`super::Link::next`].
    pub(super) fn put(&self, arrival: Arrival, share: Option<Share>) {
        // The receiver lives as long as the inbox.
        let _ = self.arrivals.send(Waiting { arrival, _share: share });
    }

    /// See [`super::Link::next`].
    pub(super) fn next(&self) -> BoxFuture<Arrival> {
        let (waiting, epochs, tally, admission) = (self.waiting.clone(), self.epochs(), self.tally.clone(), self.admission.clone());
        Box::pin(async move {
            let mut waiting = waiting.lock().await;
            loop {
                let Some(Waiting { arrival, .. }) = waiting.recv().await else {
                    // The link is gone: nothing more will come.
                    std::future::pending::<()>().await;
                    continue;
                };
                if let Arrival::Frame { from, .. } = &arrival {
                    // It came in its time, but the epoch was crossed, or a newer incarnation heard, while it waited here.
                    if from.epoch < *epochs.borrow() {
                        tally.count_refusal(Refusal::StaleEpoch);
                        continue;
                    }
                    if !admission.lock().is_current(from.peer, from.incarnation) {
                        tally.count_refusal(Refusal::OldIncarnation);
                        continue;
                    }
                    count(&tally.received);
                }
                return arrival;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::base::sim::Sim;
    use crate::base::{ClusterId, ThreadId};

    fn inbox(epoch: u64) -> Inbox {
        let (cluster, peer) = (ClusterId([1; 16]), Peer::instance(ThreadId(1)));
        Inbox::new(Local { cluster, peer, incarnation: Incarnation(1) }, Epoch(epoch))
    }

    fn frame(epoch: u64) -> Arrival {
        let from = Identity { peer: Peer::instance(ThreadId(2)), incarnation: Incarnation(1), epoch: Epoch(epoch) };
        Arrival::Frame { from, lane: Lane::Control, kind: epoch as u16, body: Bytes::new(), reply: None }
    }

    #[test]
    fn what_waited_across_an_epoch_is_not_handed_out() {
        let inbox = inbox(4);
        for epoch in [4, 5, 4, 6] {
            inbox.put(frame(epoch), None);
        }
        inbox.set_epoch(Epoch(5));
        inbox.set_epoch(Epoch(3));
        assert_eq!(inbox.epoch(), Epoch(5));
        let kinds = Sim::new(1).run(async {
            let mut kinds = Vec::new();
            while kinds.len() < 2 {
                if let Arrival::Frame { kind, .. } = inbox.next().await {
                    kinds.push(kind);
                }
            }
            kinds
        });
        assert_eq!(kinds, [5, 6]);
        assert_eq!((inbox.counters().received, inbox.counters().refused(Refusal::StaleEpoch)), (2, 2));
    }

    #[test]
    fn what_was_not_begun_before_an_epoch_is_not_begun_after_it() {
        let inbox = inbox(4);
        Sim::new(1).run(async {
            assert_eq!(inbox.hand_over(Epoch(4), async { 1 }).await, Some(1));
            let (send, receive) = tokio::sync::oneshot::channel();
            let begun = inbox.hand_over(Epoch(4), receive);
            let crossing = async {
                inbox.set_epoch(Epoch(5));
                send.send(2).expect("awaited");
            };
            assert_eq!(tokio::join!(begun, crossing).0, Some(Ok(2)));
            assert_eq!(inbox.hand_over(Epoch(4), async { panic!("begun") }).await, None::<()>);
        });
    }

    #[test]
    fn refusals_are_counted_each_and_logged_once_for_each_peer_and_reason() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        let log = tracing_subscriber::fmt().with_writer(move || Lines(sink.clone())).with_ansi(false).finish();
        let inbox = inbox(4);
        tracing::subscriber::with_default(log, || {
            for _ in 0..100 {
                for instance in [2, 3] {
                    let culprit = Culprit::Peer(Peer::instance(ThreadId(instance)));
                    inbox.refuse(culprit, Refusal::Replay);
                    inbox.refuse(culprit, Refusal::Garbage);
                }
            }
        });
        assert_eq!((inbox.counters().refused(Refusal::Replay), inbox.counters().refusals()), (200, 400));
        let text = String::from_utf8(lines.lock().clone()).unwrap();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("from=instance 3") && text.contains("a repeated sequence number"), "{text}");
    }

    /// Where log lines go in tests.
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_share_is_given_back_when_its_frame_is_handed_out() {
        let inbox = inbox(1);
        let quota = Quota::new(QuotaLimits { frames: 2, bytes: 1 << 20 });
        let shares = [quota.try_take(1 << 19), quota.try_take(1 << 19)];
        assert!(shares.iter().all(Option::is_some) && quota.try_take(0).is_none());
        shares.into_iter().for_each(|share| inbox.put(frame(1), share));
        Sim::new(1).run(inbox.next());
        assert!(quota.try_take((1 << 19) + 1).is_none(), "no room for as many bytes");
        assert!(quota.try_take(1 << 19).is_some());
    }
}
