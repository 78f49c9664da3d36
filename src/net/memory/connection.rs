//! One simulated connection: made by one process, on which it sends to another; and how each lane's frames travel on it.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};

use super::link::End;
use super::{Fate, Wires};
use crate::base::{Epoch, Instant, Seams, ThreadId};
use crate::net::frame::{Class, HEADER, Head};
use crate::net::hello::Hello;
use crate::net::inbox::{Culprit, Incoming, Share, count};
use crate::net::{Answer, Arrival, DownReason, Lane, Refusal, Reply, RequestError, SendError};

/// Control frames that may be on their way at once, and their bytes.
const FLYING_MAX: (usize, usize) = (1024, 4 << 20);
/// Requests that may be in flight at once.
const REQUESTS_MAX: usize = 256;

/// See the module's description.
pub(super) struct Connection {
    pub(super) lane: Lane,
    wires: Arc<Wires>,
    /// Who made it and sends on it.
    from: Weak<End>,
    from_host: ThreadId,
    /// Whom it was made to.
    to: Weak<End>,
    to_host: ThreadId,
    to_seams: Seams,
    /// What `to` said in its hello.
    pub(super) answer: Hello,
    incoming: Incoming,
    /// Why it is over, for its maker.
    ended: watch::Sender<Option<DownReason>>,
    /// Taken by requests in flight.
    pub(super) slots: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Over for the one it was made to: nothing more is accepted.
    refused: bool,
    sequence: u64,
    /// Control frames with the time at which they are due, in order.
    flying: VecDeque<(Instant, Vec<u8>)>,
    flying_bytes: usize,
    pumping: bool,
}

/// An answer on its way: the frame, or why there is none.
pub(super) type Answered = Result<Vec<u8>, RequestError>;

impl Connection {
    /// A connection from `from` to `to` on which `hello` was accepted and `answer` given.
    pub(super) fn new(from: &Arc<End>, to: &Arc<End>, hello: &Hello, answer: Hello) -> Arc<Connection> {
        Arc::new(Connection {
            lane: hello.lane,
            wires: from.wires.clone(),
            from: Arc::downgrade(from),
            from_host: from.host(),
            to: Arc::downgrade(to),
            to_host: to.host(),
            to_seams: to.seams.clone(),
            answer,
            incoming: Incoming::new(hello, to.quota(hello.from)),
            ended: watch::Sender::new(None),
            slots: Arc::new(Semaphore::new(REQUESTS_MAX)),
            state: Mutex::default(),
        })
    }

    /// Who made it.
    pub(super) fn maker(&self) -> Culprit {
        Culprit::Peer(self.incoming.peer)
    }

    /// Who made it, if that process still lives.
    pub(super) fn maker_end(&self) -> Option<Arc<End>> {
        self.from.upgrade().filter(|maker| maker.is_alive())
    }

    /// Whether it was made by `peer` in another incarnation than `incarnation`.
    pub(super) fn is_from_before(&self, peer: crate::net::Peer, incarnation: crate::base::Incarnation) -> bool {
        self.incoming.peer == peer && self.incoming.incarnation < incarnation
    }

    /// Whether its path leads from `one` to `other` or back.
    pub(super) fn joins(&self, one: ThreadId, other: ThreadId) -> bool {
        [(one, other), (other, one)].contains(&(self.from_host, self.to_host))
    }

    pub(super) fn is_open(&self) -> bool {
        self.ended.borrow().is_none()
    }

    /// Ends it for its maker; the first reason stands. Says whether it was open.
    pub(super) fn end(&self, reason: DownReason) -> bool {
        self.ended.send_if_modified(|ended| {
            let open = ended.is_none();
            *ended = ended.or(Some(reason));
            open
        })
    }

    /// Ends it for the one it was made to.
    pub(super) fn refuse(&self) {
        self.state.lock().refused = true;
    }

    fn is_refused(&self) -> bool {
        self.state.lock().refused
    }

    /// Waits until it is over.
    pub(super) async fn over(&self) -> DownReason {
        let mut ended = self.ended.subscribe();
        loop {
            if let Some(reason) = *ended.borrow_and_update() {
                return reason;
            }
            if ended.changed().await.is_err() {
                return DownReason::Closed;
            }
        }
    }

    fn frame(&self, end: &End, class: Class, kind: u16, body: &[u8]) -> (u64, Vec<u8>) {
        let sequence = {
            let mut state = self.state.lock();
            state.sequence += 1;
            state.sequence
        };
        let head = Head { lane: self.lane, class, kind, epoch: end.inbox.epoch(), incarnation: end.local.incarnation, sequence };
        count(&end.inbox.tally().sent);
        (sequence, [&head.encode(body, end.local.cluster.tag())[..], body].concat())
    }

    /// Sends a heartbeat: once, twice or in vain.
    pub(super) fn beat(self: &Arc<Self>, end: &End, kind: u16, body: &[u8]) {
        let (_, bytes) = self.frame(end, Class::Message, kind, body);
        let Fate::Arrives { after, again } = self.wires.fate(self.from_host, self.to_host) else { return };
        for (after, twice) in [(Some(after), false), (again, true)] {
            let Some(after) = after else { continue };
            let (connection, bytes) = (self.clone(), bytes.clone());
            let sleep = self.to_seams.sleep(after);
            let task = async move {
                sleep.await;
                connection.wires.happened(|happened| {
                    happened.carried += 1;
                    happened.duplicated += u64::from(twice);
                });
                connection.deliver_beat(&bytes);
            };
            self.to_seams.spawn("heartbeat on its way", Box::pin(task));
        }
    }

    fn deliver_beat(&self, bytes: &[u8]) {
        let Some((to, arrival)) = self.judge(bytes, None) else { return };
        match self.incoming.quota.try_take(bytes.len() - HEADER) {
            Some(share) => to.inbox.put(arrival, Some(share)),
            None => to.inbox.refuse(self.maker(), Refusal::Quota),
        }
    }

    /// Sends a control frame behind those that are on their way.
    pub(super) fn control(self: &Arc<Self>, end: &End, kind: u16, body: &[u8]) -> Result<(), SendError> {
        {
            let state = self.state.lock();
            if state.flying.len() >= FLYING_MAX.0 || state.flying_bytes + body.len() > FLYING_MAX.1 {
                return Err(SendError::Full(self.answer.from));
            }
        }
        let (_, bytes) = self.frame(end, Class::Message, kind, body);
        let after = match self.wires.fate(self.from_host, self.to_host) {
            Fate::Arrives { after, .. } => after,
            Fate::Lost => self.wires.faults().retransmit,
        };
        let pump = {
            let mut state = self.state.lock();
            let due = (end.seams.now() + after).max(state.flying.back().map_or(Instant(0), |(due, _)| *due));
            state.flying_bytes += bytes.len();
            state.flying.push_back((due, bytes));
            !std::mem::replace(&mut state.pumping, true)
        };
        if pump {
            self.to_seams.spawn("control frames on their way", Box::pin(self.clone().pump()));
        }
        Ok(())
    }

    async fn pump(self: Arc<Self>) {
        loop {
            let due = {
                let mut state = self.state.lock();
                let due = state.flying.front().map(|(due, _)| *due);
                state.pumping = due.is_some();
                due
            };
            let Some(due) = due else { return };
            self.to_seams.sleep(due.since(self.to_seams.now())).await;
            if !self.gets_through().await {
                return;
            }
            let bytes = {
                let mut state = self.state.lock();
                let Some((_, bytes)) = state.flying.pop_front() else { return };
                state.flying_bytes -= bytes.len();
                bytes
            };
            let Some((to, arrival)) = self.judge(&bytes, None) else { continue };
            let share = self.incoming.quota.take(bytes.len() - HEADER).await;
            to.inbox.put(arrival, Some(share));
        }
    }

    /// Waits, while its path is cut, until something that is sent again and again gets through; false when the connection is over first.
    async fn gets_through(&self) -> bool {
        while self.wires.is_cut(self.from_host, self.to_host) {
            self.to_seams.sleep(self.wires.faults().retransmit).await;
            let sender_lives = self.from.upgrade().is_some_and(|from| from.is_alive());
            if !sender_lives || self.is_refused() || !self.is_open() {
                return false;
            }
        }
        self.wires.happened(|happened| happened.carried += 1);
        !self.is_refused()
    }

    /// Sends a request; what comes of it arrives at `answered`.
    pub(super) fn request(self: &Arc<Self>, end: &End, kind: u16, body: &[u8], answered: oneshot::Sender<Answered>) -> u64 {
        let (sequence, bytes) = self.frame(end, Class::Request, kind, body);
        let connection = self.clone();
        let task = async move {
            connection.travel().await;
            if !connection.gets_through().await {
                return;
            }
            let share = connection.incoming.quota.take(bytes.len() - HEADER).await;
            let reply = (answered, sequence, kind, share);
            if let Some((to, arrival)) = connection.judge(&bytes, Some((&connection, reply))) {
                to.inbox.put(arrival, None);
            }
        };
        self.to_seams.spawn("request on its way", Box::pin(task));
        sequence
    }

    /// Time on the way, what is lost sent again.
    async fn travel(&self) {
        let after = match self.wires.fate(self.from_host, self.to_host) {
            Fate::Arrives { after, .. } => after,
            Fate::Lost => self.wires.faults().retransmit,
        };
        self.to_seams.sleep(after).await;
    }

    /// What a real link does with a frame that came: nothing, or an arrival.
    fn judge(&self, bytes: &[u8], request: Option<(&Arc<Connection>, Asked)>) -> Option<(Arc<End>, Arrival)> {
        let to = self.to.upgrade().filter(|to| to.is_alive() && !self.is_refused())?;
        let judged = Head::decode(bytes, self.lane, to.local.cluster.tag())
            .and_then(|(head, body)| Ok((self.incoming.judge(&head, &to.inbox)?, head, body)));
        match judged {
            Ok((from, head, body)) => {
                let reply = request.map(|(connection, (answered, sequence, kind, share))| {
                    let connection = connection.clone();
                    let answer = Some(answered);
                    Reply::new(MemoryAnswer { connection, answer, sequence, kind, epoch: head.epoch, _share: share })
                });
                let body = Bytes::copy_from_slice(body);
                Some((to, Arrival::Frame { from, lane: self.lane, kind: head.kind, body, reply }))
            }
            Err(reason) => {
                to.inbox.refuse(self.maker(), reason);
                None
            }
        }
    }
}

/// To answer a request: where, its sequence number and kind, its share of the quota.
type Asked = (oneshot::Sender<Answered>, u64, u16, Share);

/// See [`Reply`].
struct MemoryAnswer {
    connection: Arc<Connection>,
    answer: Option<oneshot::Sender<Answered>>,
    sequence: u64,
    kind: u16,
    /// The epoch of the request.
    epoch: Epoch,
    _share: Share,
}

impl MemoryAnswer {
    fn give(&mut self, answered: Answered) {
        let Some(answer) = self.answer.take() else { return };
        let connection = self.connection.clone();
        let task = async move {
            let after = match connection.wires.fate(connection.to_host, connection.from_host) {
                Fate::Arrives { after, .. } => after,
                Fate::Lost => connection.wires.faults().retransmit,
            };
            connection.to_seams.sleep(after).await;
            while connection.wires.is_cut(connection.to_host, connection.from_host) {
                connection.to_seams.sleep(connection.wires.faults().retransmit.max(Duration::from_micros(1))).await;
                if !connection.is_open() {
                    return;
                }
            }
            connection.wires.happened(|happened| happened.carried += 1);
            // The asker may have given up.
            let _ = answer.send(answered);
        };
        // In a process that was killed meanwhile nothing is spawned: the asker hears nothing until the connection breaks.
        self.connection.to_seams.spawn("answer on its way", Box::pin(task));
    }
}

impl Answer for MemoryAnswer {
    fn send(mut self: Box<Self>, body: Bytes) -> Result<(), SendError> {
        let max = Lane::Block.body_max();
        if body.len() > max {
            return Err(SendError::TooLong { bytes: body.len(), max });
        }
        let Some(end) = self.connection.to.upgrade() else { return Err(SendError::NotConnected(self.connection.incoming.peer)) };
        let epoch = end.inbox.epoch();
        if self.epoch < epoch {
            count(&end.inbox.tally().dropped);
            return Err(SendError::Stale);
        }
        let (kind, sequence, incarnation) = (self.kind, self.sequence, end.local.incarnation);
        let head = Head { lane: Lane::Block, class: Class::Answer, kind, epoch, incarnation, sequence };
        let bytes = [&head.encode(&body, end.local.cluster.tag())[..], &body].concat();
        count(&end.inbox.tally().sent);
        self.give(Ok(bytes));
        Ok(())
    }
}

impl Drop for MemoryAnswer {
    fn drop(&mut self) {
        self.give(Err(RequestError::NoAnswer(self.connection.answer.from)));
    }
}
