//! One instance's membership state machine: it ties heartbeats, voting files, suspicion, Disk Paxos and the lease together.
//!
//! ```text
//! Reading    reads a majority of voting files: newest view, own last life, is its death proven?         (start.rs)
//! Announcing writes its new life into a majority; only then it has an identity                           (start.rs)
//! Joining    beats, and waits for a view with it; where nobody of the view lives, proposes one           (propose.rs)
//! Member     beats, watches, proposes, fences; serves while its lease holds, else is parked              (lease.rs, watch.rs)
//! Gone       a view without it was decided and it had asked for that: last heartbeat, drained writes
//! Stopped    writes nothing any more
//! ```
//! Protocol, timelines and proofs: `docs/protocols/membership.md`.

mod files;
mod lease;
mod peers;
mod propose;
mod pump;
mod read;
mod start;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::files::File;
use self::peers::Peer;
use super::heartbeat::{Heartbeat, Host};
use super::io::{Event, FenceOutcome, Input, Output, ParkReason, StopReason};
use super::options::Options;
use super::paxos::Paxos;
use super::sector::VotingId;
use super::survey::Snapshot;
use super::view::{Identity, Method, View};
use crate::base::{ClusterId, Epoch, Incarnation, Instant, Random, ThreadId};

/// What a life starts from. The driver holds this identity's locks on every storage file, voting files included, before it makes a
/// [`Member`]: on the same host that proves that older lives are dead and drained.
#[derive(Clone, Debug)]
pub struct Start {
    /// The cluster.
    pub cluster: ClusterId,
    /// This instance.
    pub id: ThreadId,
    /// Instances that the cluster has room for (the shape's redo threads).
    pub threads: u16,
    /// Where this process runs.
    pub host: Host,
    /// The voting files that are open, by the numbers in their superblocks.
    pub files: Vec<VotingId>,
    /// No lower than any incarnation found elsewhere (redo control block).
    pub incarnation_floor: Incarnation,
    /// An operator's word that lives of this identity up to this one are dead and drained, wherever they ran.
    pub confirmed: Option<Incarnation>,
    /// Random bits, for back-off.
    pub random: u64,
    /// Options, validated.
    pub options: Options,
}

/// Where a life stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    Reading,
    Announcing,
    Joining,
    Member,
    Gone,
    Stopped,
}

/// The fence of one evicted life, as this instance pursues it.
#[derive(Clone, Copy, Debug)]
struct Pursuit {
    /// Epoch in which it was asked for last.
    asked: Epoch,
    /// When to ask again; `None` while an outcome is awaited.
    again: Option<Instant>,
}

/// One instance's membership.
pub struct Member {
    start: Start,
    stage: Stage,
    incarnation: Incarnation,
    address: Option<SocketAddr>,
    /// Newest decided view known.
    view: Option<Arc<View>>,
    files: BTreeMap<VotingId, File>,
    paxos: Paxos<View>,
    peers: BTreeMap<ThreadId, Peer>,
    random: Random,
    tickets: u64,

    /// The clock when last looked at.
    looked: Instant,
    /// Silence of others counts from here on: the end of the last stall of this process or of its voting I/O (rule 4).
    fresh: Instant,
    /// Whether a majority of voting files answers.
    healthy: bool,

    /// The heartbeat as written last, its number, and when the next is due.
    beat: Heartbeat,
    beat_epoch: Epoch,
    beat_sequence: u64,
    beat_due: Instant,
    /// Numbers of view sector writes.
    view_sequence: u64,
    /// Network heartbeats.
    net_sequence: u64,
    net_due: Instant,

    park: Option<ParkReason>,
    lease: Option<Instant>,
    /// Why this process may have missed its lease: it didn't run.
    stalled: bool,

    /// Since when this instance sees a reason for a new view.
    needed: Option<Instant>,
    /// No proposal before.
    attempt: Instant,
    collisions: u32,
    /// An epoch that a block shows to be decided, maybe, and that isn't known yet.
    hint: Option<Epoch>,
    split: watch::Split,
    pursuits: BTreeMap<Identity, Pursuit>,
    confirmations: BTreeMap<Identity, Method>,
    replacing: Option<(u8, VotingId)>,
    leaving: bool,
    /// Own heartbeat of an unproven older life: its age when first seen, and when that was.
    watched: Option<((Incarnation, u64), Instant)>,
}

impl Member {
    /// A life that begins now.
    pub fn new(start: Start, now: Instant) -> Member {
        let files = start.files.iter().map(|id| (*id, File::new())).collect();
        Member {
            stage: Stage::Reading,
            incarnation: Incarnation(0),
            address: None,
            view: None,
            files,
            paxos: Paxos::new(start.id),
            peers: BTreeMap::new(),
            random: Random::new(start.random),
            tickets: 0,
            looked: now,
            fresh: now,
            healthy: false,
            beat: Heartbeat::default(),
            beat_epoch: Epoch(0),
            beat_sequence: 0,
            beat_due: now,
            view_sequence: 1,
            net_sequence: 0,
            net_due: now,
            park: Some(ParkReason::Starting),
            lease: None,
            stalled: false,
            needed: None,
            attempt: now,
            collisions: 0,
            hint: None,
            split: watch::Split::default(),
            pursuits: BTreeMap::new(),
            confirmations: BTreeMap::new(),
            replacing: None,
            leaving: false,
            watched: None,
            start,
        }
    }

    /// The newest decided view that this instance knows.
    pub fn view(&self) -> Option<&Arc<View>> {
        self.view.as_ref()
    }

    /// What the last read of a voting file said, if that was believed.
    pub fn snapshot(&self, file: VotingId) -> Option<&Arc<Snapshot>> {
        self.files.get(&file)?.snapshot.as_ref()
    }

    /// This life; 0 before [`Event::Announced`].
    pub fn incarnation(&self) -> Incarnation {
        if self.stage > Stage::Announcing { self.incarnation } else { Incarnation(0) }
    }

    /// Until when this instance may serve; `None` while it may not.
    pub fn serving_until(&self) -> Option<Instant> {
        self.lease.filter(|_| self.stage == Stage::Member && self.park.is_none())
    }

    /// Whether this life has ended.
    pub fn is_stopped(&self) -> bool {
        self.stage == Stage::Stopped
    }

    /// Something happened; what is to be done is appended to `out`.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        if self.stage == Stage::Stopped {
            return;
        }
        self.look(now);
        self.take(now, input, out);
        if self.stage != Stage::Stopped {
            self.drive(now, out);
        }
    }

    /// Looks at the clock: a step that is later than the ticks allow means that this process stood still, not the others.
    fn look(&mut self, now: Instant) {
        if now.since(self.looked) > Duration::from_millis(self.start.options.stall_ms) {
            self.fresh = now;
            self.stalled = true;
            // What was to be proposed rests on what was seen before.
            self.paxos.abandon();
        }
        self.looked = now.max(self.looked);
    }

    fn take(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Tick => {}
            Input::Address { instance } => self.address = Some(instance),
            Input::Beat { from, beat } => self.heard(now, from, &beat),
            Input::PeerDied { id, incarnation, drained } => {
                if id != self.start.id && self.is_instance(id) {
                    let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id, &self.start.options));
                    let drained = drained || peer.died == Some((incarnation, true));
                    peer.died = peer.died.filter(|(known, _)| *known > incarnation).or(Some((incarnation, drained)));
                }
            }
            Input::Read { file, ticket, result } => self.read(now, file, ticket, result, out),
            Input::Written { file, kind, sequence, result } => self.written(file, kind, sequence, result, out),
            Input::Fenced { id, incarnation, outcome } => self.fenced(now, Identity { id, incarnation }, &outcome),
            Input::Leave => self.leaving = true,
            Input::Replace { position, file } => {
                self.files.entry(file).or_insert_with(File::new);
                self.replacing = Some((position, file));
            }
            Input::Opened { file } => {
                self.files.entry(file).or_insert_with(File::new);
            }
        }
    }

    /// All that follows from the state and the time.
    fn drive(&mut self, now: Instant, out: &mut Vec<Output>) {
        for peer in self.peers.values_mut() {
            peer.listen(now, self.fresh);
        }
        self.starting(now, out);
        self.leave_if_alone(out);
        if self.stage == Stage::Stopped {
            return;
        }
        self.keep_lease(now, out);
        self.watch(now, out);
        self.propose(now, out);
        self.pursue(now, out);
        self.pump(now, out);
        self.send_beats(now, out);
    }

    fn heard(&mut self, now: Instant, from: ThreadId, beat: &super::messages::Beat) {
        if from == self.start.id || !self.is_instance(from) || self.stage < Stage::Joining {
            return;
        }
        let peer = self.peers.entry(from).or_insert_with(|| Peer::new(from, &self.start.options));
        peer.beat(beat, now, self.fresh, &self.start.options);
        if self.view.as_ref().is_some_and(|view| beat.epoch > view.epoch) {
            // It knows a newer view: the voting files tell (rule 3), at once rather than with the next heartbeat.
            self.files.values_mut().for_each(|file| file.read_wanted = true);
        }
    }

    fn fenced(&mut self, now: Instant, whom: Identity, outcome: &FenceOutcome) {
        match outcome {
            FenceOutcome::Confirmed(method) => {
                self.confirmations.insert(whom, *method);
            }
            FenceOutcome::Failed | FenceOutcome::Unknown => {
                if let Some(pursuit) = self.pursuits.get_mut(&whom) {
                    pursuit.again = Some(now + Duration::from_millis(self.start.options.fence_retry_ms));
                }
            }
        }
    }

    /// A decided view is known. The one point at which the epoch is crossed (rule 6).
    fn learn(&mut self, view: View, out: &mut Vec<Output>) {
        if self.view.as_ref().is_some_and(|known| known.epoch >= view.epoch) {
            return;
        }
        let view = Arc::new(view);
        self.view = Some(view.clone());
        self.view_sequence += 1;
        self.collisions = 0;
        self.needed = None;
        self.net_due = self.looked;
        if self.paxos.proposing().is_some_and(|epoch| epoch <= view.epoch) {
            self.paxos.abandon();
        }
        self.hint = self.hint.filter(|hint| *hint > view.epoch);
        if self.replacing.is_some_and(|(_, file)| view.voting.contains(&file)) {
            self.replacing = None;
        }
        self.confirmations.retain(|whom, _| view.unconfirmed.contains(whom) || view.has(*whom));
        self.pursuits.retain(|whom, _| view.unconfirmed.contains(whom));
        self.belong(&view, out);
    }

    /// What a newer view means for this life.
    fn belong(&mut self, view: &Arc<View>, out: &mut Vec<Output>) {
        if self.stage < Stage::Joining {
            return;
        }
        if view.has(self.identity()) {
            self.stage = Stage::Member;
            out.push(Output::Event(Event::Installed(view.clone())));
        } else if let Some(newer) = view.member(self.start.id).filter(|member| member.incarnation > self.incarnation) {
            self.stop(StopReason::Displaced { by: newer.incarnation }, out);
        } else if self.stage == Stage::Member && self.leaving {
            self.stage = Stage::Gone;
        } else if self.stage == Stage::Member || view.unconfirmed.contains(&self.identity()) || view.proves(self.identity()) {
            self.stop(StopReason::Evicted { by: view.clone() }, out);
        }
    }

    /// Asked to leave: whoever isn't a member goes at once. The last heartbeat says so, written when no other write is in flight.
    fn leave_if_alone(&mut self, out: &mut Vec<Output>) {
        if self.leaving && matches!(self.stage, Stage::Reading | Stage::Announcing | Stage::Joining) {
            self.stage = Stage::Gone;
        }
        if self.stage != Stage::Gone {
            return;
        }
        let said = |id: &&VotingId| self.files.get(*id).is_some_and(|file| file.says_gone(self.beat_sequence, &self.beat));
        let said_enough = self.view.as_ref().is_some_and(|view| view.voting.iter().filter(said).count() >= view.majority());
        if self.is_drained() && (said_enough || self.incarnation.0 == 0) {
            let by = self.view.clone();
            self.stop(StopReason::Left { by }, out);
        }
    }

    /// Whether no write is in flight.
    fn is_drained(&self) -> bool {
        self.files.values().all(|file| file.lost || file.is_quiet())
    }

    fn stop(&mut self, reason: StopReason, out: &mut Vec<Output>) {
        self.stage = Stage::Stopped;
        self.lease = None;
        out.push(Output::Event(Event::Stop(reason)));
    }

    fn identity(&self) -> Identity {
        Identity { id: self.start.id, incarnation: self.incarnation }
    }

    fn is_instance(&self, id: ThreadId) -> bool {
        (1..=self.start.threads).contains(&id.0)
    }

    /// The voting files that decide the next epoch, as far as they are open.
    fn voters(&self) -> impl Iterator<Item = &File> {
        let voting = self.view.as_ref().map_or(&[][..], |view| &view.voting);
        voting.iter().filter_map(|id| self.files.get(id))
    }

    /// The newest of `moment` that a majority of the view's voting files reached.
    fn majority_of(&self, moment: impl Fn(&File) -> Option<Instant>) -> Option<Instant> {
        let view = self.view.as_ref()?;
        let mut moments: Vec<Instant> = self.voters().filter(|file| !file.lost).filter_map(moment).collect();
        moments.sort_unstable_by(|one, other| other.cmp(one));
        moments.get(view.majority() - 1).copied()
    }
}
