//! A simulated process's end of the network.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::Wires;
use super::connection::Connection;
use super::dial;
use crate::base::{BoxFuture, Epoch, Incarnation, Seams, ThreadId};
use crate::net::frame::{Class, Head};
use crate::net::hello::Local;
use crate::net::inbox::{Culprit, Inbox, Quota};
use crate::net::{Arrival, Counters, DownReason, Lane, Link, Peer, QuotaLimits, Refusal, RequestError, SendError};

/// What a link's tasks share; lives as long as the process.
pub(super) struct End {
    pub(super) wires: Arc<Wires>,
    pub(super) seams: Seams,
    pub(super) local: Local,
    pub(super) inbox: Inbox,
    address: SocketAddr,
    alive: watch::Sender<bool>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    calls: BTreeMap<Peer, Call>,
    turns: u64,
    /// Connections that others made to this process.
    taken: Vec<Weak<Connection>>,
    quotas: BTreeMap<Peer, Quota>,
}

/// A peer that this process connects to.
struct Call {
    address: SocketAddr,
    /// Which giving of an address made it: tasks of earlier ones end.
    turn: u64,
    connections: BTreeMap<Lane, Arc<Connection>>,
    told: BTreeMap<Lane, (Refusal, Epoch)>,
}

impl End {
    pub(super) fn start(wires: Arc<Wires>, seams: Seams, local: Local, address: SocketAddr, epoch: Epoch) -> Arc<End> {
        let alive = watch::Sender::new(true);
        let end = Arc::new(End { wires, seams, local, inbox: Inbox::new(local, epoch), address, alive, state: Mutex::default() });
        let life = Life { end: end.clone() };
        end.seams.spawn("link", Box::pin(life.last()));
        end
    }

    pub(super) fn host(&self) -> ThreadId {
        self.local.peer.instance
    }

    pub(super) fn is_alive(&self) -> bool {
        *self.alive.borrow()
    }

    /// The share that `peer` has of this process's inbox, on all its connections together.
    pub(super) fn quota(&self, peer: Peer) -> Quota {
        self.state.lock().quotas.entry(peer).or_insert_with(|| Quota::new(QuotaLimits::default())).clone()
    }

    pub(super) fn is_turn(&self, peer: Peer, turn: u64) -> bool {
        self.is_alive() && self.state.lock().calls.get(&peer).is_some_and(|call| call.turn == turn)
    }

    /// Puts a connection to use, unless the peer's address was given anew or a newer incarnation said hello meanwhile.
    pub(super) fn use_connection(&self, peer: Peer, turn: u64, connection: &Arc<Connection>) -> bool {
        let mut state = self.state.lock();
        let current = self.inbox.admission.lock().is_current(peer, connection.answer.incarnation);
        let Some(call) = state.calls.get_mut(&peer).filter(|call| call.turn == turn && current) else { return false };
        call.told.remove(&connection.lane);
        call.connections.insert(connection.lane, connection.clone());
        true
    }

    /// Keeps a connection that was made to this process. It replaces an earlier one of the same maker for the same lane.
    pub(super) fn take_connection(&self, connection: &Arc<Connection>) {
        let (_, taken) = self.connections();
        for old in taken.iter().filter(|old| old.lane == connection.lane && old.maker() == connection.maker()) {
            old.refuse();
            old.end(DownReason::Superseded);
        }
        let mut state = self.state.lock();
        state.taken.retain(|taken| taken.upgrade().is_some_and(|taken| taken.is_open()));
        state.taken.push(Arc::downgrade(connection));
    }

    pub(super) fn tell_refused(&self, peer: Peer, lane: Lane, reason: Refusal, epoch: Epoch) {
        let news = {
            let mut state = self.state.lock();
            let Some(call) = state.calls.get_mut(&peer) else { return };
            call.told.insert(lane, (reason, epoch)) != Some((reason, epoch))
        };
        if news && lane == Lane::Control {
            self.inbox.put(Arrival::Refused { peer, reason, epoch }, None);
        }
    }

    /// All connections of this process: those it made, and those made to it.
    fn connections(&self) -> (Vec<Arc<Connection>>, Vec<Arc<Connection>>) {
        let state = self.state.lock();
        let made = state.calls.values().flat_map(|call| call.connections.values().cloned()).filter(|made| made.is_open()).collect();
        let taken = state.taken.iter().filter_map(Weak::upgrade).filter(|taken| taken.is_open()).collect();
        (made, taken)
    }

    /// Ends what belongs to incarnations of `peer` before `incarnation`.
    pub(super) fn supersede(&self, peer: Peer, incarnation: Incarnation) {
        let (made, taken) = self.connections();
        for connection in made {
            if connection.answer.from == peer && connection.answer.incarnation < incarnation {
                connection.end(DownReason::Superseded);
            }
        }
        for connection in taken.iter().filter(|taken| taken.is_from_before(peer, incarnation)) {
            connection.refuse();
            connection.end(DownReason::Refused(Refusal::OldIncarnation));
        }
    }

    /// Breaks the connections between two hosts once the path between them has been cut for as long as they bear.
    pub(super) fn starve(self: &Arc<Self>, from: ThreadId, to: ThreadId, cut: u64) {
        for connection in self.connections().0.into_iter().filter(|made| made.joins(from, to)) {
            let (wires, sleep) = (self.wires.clone(), self.seams.sleep(self.wires.faults().idle));
            let task = async move {
                sleep.await;
                if wires.is_cut_since(from, to, cut) && connection.end(DownReason::Silent) {
                    connection.refuse();
                    wires.happened(|happened| happened.silent += 1);
                }
            };
            self.seams.spawn("silence", Box::pin(task));
        }
    }

    /// Ends everything in an orderly way.
    fn close(&self) {
        if !self.alive.send_replace(false) {
            return;
        }
        let (made, taken) = self.connections();
        for connection in made {
            connection.end(DownReason::Closed);
            connection.refuse();
        }
        self.wires.happened(|happened| happened.closed += taken.len() as u64);
        self.part(taken, DownReason::Closed, true);
        self.state.lock().calls.clear();
    }

    /// The process was killed: nobody is told by it.
    fn die(&self) {
        if !self.alive.send_replace(false) {
            return;
        }
        let (_, taken) = self.connections();
        let reset = self.wires.chance(|faults| faults.reset);
        self.part(taken, if reset { DownReason::Reset } else { DownReason::Silent }, reset);
        self.state.lock().calls.clear();
    }

    /// Lets the makers of connections to this process know that they are over: soon, if the path carries the word, or when nothing came for long.
    fn part(&self, taken: Vec<Arc<Connection>>, reason: DownReason, soon: bool) {
        let faults = self.wires.faults();
        for connection in taken {
            connection.refuse();
            let Some(maker) = connection.maker_end() else { continue };
            let told = soon && !self.wires.is_cut(self.host(), maker.host());
            let (wait, reason) = if told { (faults.delay.end, reason) } else { (faults.idle, DownReason::Silent) };
            let (wires, sleep) = (self.wires.clone(), maker.seams.sleep(wait));
            let task = async move {
                sleep.await;
                if connection.end(reason) {
                    wires.happened(|happened| match reason {
                        DownReason::Reset => happened.reset += 1,
                        DownReason::Silent => happened.silent += 1,
                        _ => {}
                    });
                }
            };
            maker.seams.spawn("parting", Box::pin(task));
        }
    }
}

/// Notices the death of the process: its task is dropped then.
struct Life {
    end: Arc<End>,
}

impl Life {
    async fn last(self) {
        let mut alive = self.end.alive.subscribe();
        while *alive.borrow_and_update() {
            if alive.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.end.die();
    }
}

/// See [`super::MemoryNetwork::attach`].
pub(super) struct MemoryLink {
    end: Arc<End>,
}

impl MemoryLink {
    pub(super) fn new(end: Arc<End>) -> MemoryLink {
        MemoryLink { end }
    }

    fn connection(&self, to: Peer, lane: Lane) -> Option<Arc<Connection>> {
        let state = self.end.state.lock();
        state.calls.get(&to)?.connections.get(&lane).filter(|connection| connection.is_open()).cloned()
    }
}

impl Link for MemoryLink {
    fn address(&self) -> SocketAddr {
        self.end.address
    }

    fn set_peer(&self, peer: Peer, address: Option<SocketAddr>) {
        if !self.end.is_alive() || peer == self.end.local.peer {
            return;
        }
        let (old, turn) = {
            let mut state = self.end.state.lock();
            if state.calls.get(&peer).map(|call| call.address) == address {
                return;
            }
            let old = state.calls.remove(&peer);
            state.turns += 1;
            let turn = state.turns;
            if let Some(address) = address {
                state.calls.insert(peer, Call { address, turn, connections: BTreeMap::new(), told: BTreeMap::new() });
            }
            (old, turn)
        };
        for connection in old.iter().flat_map(|call| call.connections.values()) {
            connection.end(DownReason::Moved);
        }
        let Some(address) = address else { return };
        for lane in Lane::ALL.into_iter().filter(|lane| lane.joins(self.end.local.peer.role, peer.role)) {
            let task = dial::keep_connected(self.end.clone(), peer, lane, address, turn);
            self.end.seams.spawn("connect", Box::pin(task));
        }
    }

    fn set_epoch(&self, epoch: Epoch) {
        self.end.inbox.set_epoch(epoch);
    }

    fn epoch(&self) -> Epoch {
        self.end.inbox.epoch()
    }

    fn refuse_below(&self, peer: Peer, oldest: Incarnation) {
        if self.end.inbox.admission.lock().refuse_below(peer, oldest) {
            self.end.supersede(peer, oldest);
        }
    }

    fn send(&self, to: Peer, lane: Lane, kind: u16, body: Bytes) -> Result<(), SendError> {
        if lane == Lane::Block || !lane.joins(self.end.local.peer.role, to.role) {
            return Err(SendError::WrongLane);
        }
        let max = lane.body_max();
        if body.len() > max {
            return Err(SendError::TooLong { bytes: body.len(), max });
        }
        let connection = self.connection(to, lane).ok_or(SendError::NotConnected(to))?;
        if lane == Lane::Heartbeat {
            connection.beat(&self.end, kind, &body);
            return Ok(());
        }
        connection.control(&self.end, kind, &body)
    }

    fn request(&self, to: Peer, kind: u16, body: Bytes) -> BoxFuture<Result<Bytes, RequestError>> {
        let max = Lane::Block.body_max();
        if body.len() > max {
            return Box::pin(async move { Err(RequestError::TooLong { bytes: body.len(), max }) });
        }
        let Some(connection) = self.connection(to, Lane::Block) else {
            return Box::pin(async move { Err(RequestError::NotConnected(to)) });
        };
        let end = self.end.clone();
        Box::pin(async move {
            let _slot = connection.slots.clone().try_acquire_owned().map_err(|_| RequestError::Full(to))?;
            let mut epochs = end.inbox.epochs();
            let asked = *epochs.borrow_and_update();
            let (answered, answer) = oneshot::channel();
            let sequence = connection.request(&end, kind, &body, answered);
            let answer = tokio::select! {
                biased;
                Ok(answer) = answer => answer?,
                _ = epochs.changed() => return Err(RequestError::EpochOver(to)),
                _ = connection.over() => return Err(RequestError::Broken(to)),
            };
            let bad = |reason| {
                end.inbox.refuse(Culprit::Peer(to), reason);
                RequestError::BadAnswer(to, reason)
            };
            let (head, body) = Head::decode(&answer, Lane::Block, end.local.cluster.tag()).map_err(bad)?;
            if (head.class, head.sequence, head.kind) != (Class::Answer, sequence, kind) {
                return Err(bad(Refusal::Garbage));
            }
            if head.epoch < asked {
                return Err(bad(Refusal::StaleEpoch));
            }
            Ok(Bytes::copy_from_slice(body))
        })
    }

    fn next(&self) -> BoxFuture<Arrival> {
        self.end.inbox.next()
    }

    fn counters(&self) -> Counters {
        self.end.inbox.counters()
    }

    fn close(&self) {
        self.end.close();
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        // Of a process that is being killed nothing is spawned any more: that is the difference between a kill and an orderly end.
        let end = self.end.clone();
        self.end.seams.spawn("close", Box::pin(async move { end.close() }));
    }
}
