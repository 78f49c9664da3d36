//! The view: what one epoch is. Members, slot table, coordinator, voting files, whose fence isn't confirmed, ends of dead logs.
//!
//! Decided once per epoch (`paxos`), kept in every member's view sector, never changed. Byte table in `docs/formats/voting.md`.

use std::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::heartbeat::{number, zero};
use super::sector::{BODY, Head, Place, SECTOR, Sector, SectorFault, VOTING_MAX, VotingId, at_most, encode, equal};
use super::slots::{SLOTS, Slots};
use crate::base::limits::{LOG_BLOCK, THREADS_MAX};
use crate::base::{Epoch, Incarnation, Lsn, ThreadId};

/// Instances that a view has room for.
const IDS: usize = THREADS_MAX as usize;
/// Bytes of an encoded view.
pub const VIEW_BYTES: usize = 3264;

/// One life of an instance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Identity {
    /// The instance.
    pub id: ThreadId,
    /// Its life; at least 1.
    pub incarnation: Incarnation,
}

impl Identity {
    /// The life `incarnation` of `id`.
    pub fn new(id: ThreadId, incarnation: Incarnation) -> Identity {
        Identity { id, incarnation }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instance {} ({})", self.id.0, self.incarnation)
    }
}

/// By what the death and drain of an evicted life is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Method {
    /// Its guard said so, holding its locks on all storage files.
    Guard,
    /// The fencer obtained its locks on the same host.
    Locks,
    /// A newer life of the same identity is there, which writes nothing before it has that proof (rule 6).
    Successor,
    /// Its lease must have run out on its own clock; accepted by name in the configuration.
    Lease,
    /// An operator said so; the number is the code of the reason given.
    Operator(u8),
}

impl Method {
    /// Codes of [`Method::Operator`] reach to here.
    pub const REASON_MAX: u8 = 63;

    fn number(self) -> u8 {
        match self {
            Method::Guard => 1,
            Method::Locks => 2,
            Method::Successor => 3,
            Method::Lease => 4,
            Method::Operator(code) => 192 + code.min(Method::REASON_MAX),
        }
    }

    fn from_number(number: u8) -> Result<Method, SectorFault> {
        Ok(match number {
            1 => Method::Guard,
            2 => Method::Locks,
            3 => Method::Successor,
            4 => Method::Lease,
            192.. => Method::Operator(number - 192),
            other => return Err(SectorFault::Field { field: "method of confirmation", expected: 4, found: other.into() }),
        })
    }
}

/// A fence that a view records as confirmed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Confirmation {
    /// The evicted instance.
    pub id: ThreadId,
    /// The evicted life.
    pub incarnation: Incarnation,
    /// By what.
    pub method: Method,
}

/// Where a dead life's log ends, recorded before its first redo (rule 12).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LogEnd {
    /// The redo thread.
    pub thread: ThreadId,
    /// The dead life.
    pub incarnation: Incarnation,
    /// The first position that isn't part of the log.
    pub end: Lsn,
}

/// One epoch's membership. Lists are sorted by instance and have each instance once.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct View {
    /// Its number; 0 for the view that a cluster is made with.
    pub epoch: Epoch,
    /// Who proposed it; 0 in epoch 0. Usually a member: not where the last one left, or where somebody finished a dead proposer's work.
    pub coordinator: ThreadId,
    /// Who belongs.
    pub members: Vec<Identity>,
    /// Evicted, fence not confirmed yet: nothing of theirs is recovered, and their instance isn't a member, until they are struck out.
    pub unconfirmed: Vec<Identity>,
    /// Fence confirmed: the newest evicted life of each instance that hasn't returned since. Its log may be recovered, its identity return.
    pub confirmed: Vec<Confirmation>,
    /// Which member masters which slot.
    pub slots: Slots,
    /// Version of the configuration.
    pub configuration: u64,
    /// The voting files that decide the next epoch, by position: 1, 3 or 5.
    pub voting: Vec<VotingId>,
    /// Ends of logs under recovery.
    pub log_ends: Vec<LogEnd>,
}

/// What the next view changes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// Members put out, with the proof of their death where there is one already.
    pub evict: Vec<(Identity, Option<Method>)>,
    /// Members that leave; they are quiet.
    pub leave: Vec<Identity>,
    /// New members. One whose instance would still be a member or unconfirmed stays out.
    pub join: Vec<Identity>,
    /// Fences confirmed.
    pub confirm: Vec<Confirmation>,
    /// A voting file that takes a place.
    pub replace: Option<(u8, VotingId)>,
}

impl Change {
    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        *self == Change::default()
    }
}

impl View {
    /// The view of epoch 0: nobody belongs, these voting files decide.
    pub fn genesis(voting: &[VotingId]) -> View {
        View {
            epoch: Epoch(0),
            coordinator: ThreadId(0),
            members: Vec::new(),
            unconfirmed: Vec::new(),
            confirmed: Vec::new(),
            slots: Slots::default(),
            configuration: 1,
            voting: voting.to_vec(),
            log_ends: Vec::new(),
        }
    }

    /// The next view with these changes, as `proposer` proposes it.
    pub fn next(&self, proposer: ThreadId, change: &Change) -> View {
        let mut next = self.clone();
        next.epoch = Epoch(self.epoch.0 + 1);
        next.coordinator = proposer;
        let out = |member: &Identity| change.leave.contains(member) || change.evict.iter().any(|(evicted, _)| evicted == member);
        next.members.retain(|member| !out(member));
        for (evicted, proof) in change.evict.iter().filter(|(evicted, _)| self.members.contains(evicted)) {
            match proof {
                Some(method) => next.confirm(Confirmation { id: evicted.id, incarnation: evicted.incarnation, method: *method }),
                None => next.unconfirmed.push(*evicted),
            }
        }
        for confirmation in &change.confirm {
            let whose = Identity::new(confirmation.id, confirmation.incarnation);
            if let Some(at) = next.unconfirmed.iter().position(|identity| *identity == whose) {
                next.unconfirmed.remove(at);
                next.confirm(*confirmation);
            }
        }
        for join in &change.join {
            if !next.members.iter().chain(&next.unconfirmed).any(|identity| identity.id == join.id) {
                next.members.push(*join);
                next.confirmed.retain(|confirmation| confirmation.id != join.id);
            }
        }
        next.members.sort_unstable();
        next.unconfirmed.sort_unstable();
        next.confirmed.sort_unstable_by_key(|confirmation| confirmation.id);
        if let Some((position, file)) = change.replace
            && let Some(slot) = next.voting.get_mut(usize::from(position))
            && !self.voting.contains(&file)
        {
            *slot = file;
            next.configuration += 1;
        }
        let ids: Vec<ThreadId> = next.members.iter().map(|member| member.id).collect();
        next.slots = self.slots.assigned_to(&ids);
        next
    }

    fn confirm(&mut self, confirmation: Confirmation) {
        self.confirmed.retain(|older| older.id != confirmation.id);
        self.confirmed.push(confirmation);
    }

    /// Whether the fence of this life, or of a later one of its instance, is confirmed here.
    pub fn proves(&self, identity: Identity) -> bool {
        self.confirmed.iter().any(|confirmation| confirmation.id == identity.id && confirmation.incarnation >= identity.incarnation)
    }

    /// The member with this number.
    pub fn member(&self, id: ThreadId) -> Option<Identity> {
        self.members.iter().copied().find(|member| member.id == id)
    }

    /// Whether this life belongs.
    pub fn has(&self, identity: Identity) -> bool {
        self.members.contains(&identity)
    }

    /// How many voting files are a majority.
    pub fn majority(&self) -> usize {
        self.voting.len() / 2 + 1
    }

    /// Checks what no decoder may let through (rule 20) and no proposer may propose.
    ///
    /// # Errors
    /// The first field that can't be.
    pub fn validate(&self) -> Result<(), SectorFault> {
        if !matches!(self.voting.len(), 1 | 3 | 5) {
            return Err(SectorFault::Field { field: "number of voting files", expected: 3, found: self.voting.len() as u64 });
        }
        for (at, file) in self.voting.iter().enumerate() {
            equal(
                "number of a voting file named twice, or 0",
                0,
                if file.0 == 0 || self.voting[..at].contains(file) { file.0.max(1) } else { 0 },
            )?;
        }
        for list in [&self.members, &self.unconfirmed] {
            for (at, identity) in list.iter().enumerate() {
                let sorted = at == 0 || list[at - 1].id < identity.id;
                let possible = sorted && (1..=THREADS_MAX).contains(&identity.id.0) && identity.incarnation.0 > 0;
                equal("impossible identity", 0, if possible { 0 } else { u64::from(identity.id.0).max(1) })?;
            }
        }
        let both = self.members.iter().filter(|member| self.unconfirmed.iter().any(|out| out.id == member.id)).count();
        equal("members with an unconfirmed fence", 0, both as u64)?;
        at_most("coordinator", THREADS_MAX.into(), self.coordinator.0.into())?;
        if self.members.is_empty() {
            return equal("slots that nobody masters", 0, self.slots.masters().filter(|master| master.0 != 0).count() as u64);
        }
        let strangers = self.slots.masters().filter(|master| self.member(*master).is_none()).count();
        equal("slots without a member", 0, strangers as u64)
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "view {} by instance {}: members", self.epoch, self.coordinator.0)?;
        for member in &self.members {
            write!(f, " {}({})", member.id.0, member.incarnation)?;
        }
        for out in &self.unconfirmed {
            write!(f, ", {out} not fenced yet")?;
        }
        Ok(())
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ViewLayout {
    epoch: U64,
    configuration: U64,
    coordinator: U16,
    voting_files: u8,
    zero: u8,
    reserved: U32,
    voting: [U64; VOTING_MAX],
    slots: [u8; SLOTS],
    standing: [u8; IDS],
    method: [u8; IDS],
    incarnation: [U64; IDS],
    confirmed: [U64; IDS],
    log_incarnation: [U64; IDS],
    log_end: [U64; IDS],
}

const _: () = assert!(size_of::<ViewLayout>() == VIEW_BYTES);

const MEMBER: u8 = 1;
const UNCONFIRMED: u8 = 2;

fn index(id: ThreadId) -> usize {
    usize::from(id.0) - 1
}

impl ViewLayout {
    /// Writes `view`, which [`View::validate`] accepts, over zeroes.
    pub(super) fn set(&mut self, view: &View) {
        self.epoch.set(view.epoch.0);
        self.configuration.set(view.configuration);
        self.coordinator.set(view.coordinator.0);
        self.voting_files = view.voting.len() as u8;
        for (slot, file) in self.voting.iter_mut().zip(&view.voting) {
            slot.set(file.0);
        }
        self.slots = *view.slots.bytes();
        for (list, standing) in [(&view.members, MEMBER), (&view.unconfirmed, UNCONFIRMED)] {
            for identity in list {
                self.standing[index(identity.id)] = standing;
                self.incarnation[index(identity.id)].set(identity.incarnation.0);
            }
        }
        for confirmation in &view.confirmed {
            self.method[index(confirmation.id)] = confirmation.method.number();
            self.confirmed[index(confirmation.id)].set(confirmation.incarnation.0);
        }
        for end in &view.log_ends {
            self.log_incarnation[index(end.thread)].set(end.incarnation.0);
            self.log_end[index(end.thread)].set(end.end.0);
        }
    }

    /// Reads a view.
    pub(super) fn get(&self) -> Result<View, SectorFault> {
        equal("reserved bytes of a view", 0, u64::from(self.zero) + u64::from(self.reserved.get()))?;
        let files = usize::from(self.voting_files);
        at_most("number of voting files", VOTING_MAX as u64, files as u64)?;
        let (voting, rest) = self.voting.split_at(files);
        equal("unused voting files", 0, rest.iter().filter(|file| file.get() != 0).count() as u64)?;
        let mut view = View::genesis(&voting.iter().map(|file| VotingId(file.get())).collect::<Vec<_>>());
        view.epoch = Epoch(number("epoch of a view", self.epoch.get())?);
        view.coordinator = ThreadId(self.coordinator.get());
        view.configuration = number("configuration version", self.configuration.get())?;
        view.slots = Slots::from_bytes(&self.slots);
        for (at, id) in (1..=THREADS_MAX).map(ThreadId).enumerate() {
            let incarnation = Incarnation(number("incarnation in a view", self.incarnation[at].get())?);
            match self.standing[at] {
                0 => equal("incarnation of nobody", 0, incarnation.0)?,
                MEMBER => view.members.push(Identity { id, incarnation }),
                UNCONFIRMED => view.unconfirmed.push(Identity { id, incarnation }),
                other => return Err(SectorFault::Field { field: "standing in a view", expected: 2, found: other.into() }),
            }
            let incarnation = Incarnation(number("confirmed incarnation", self.confirmed[at].get())?);
            match self.method[at] {
                0 => equal("confirmed incarnation of nobody", 0, incarnation.0)?,
                method => view.confirmed.push(Confirmation { id, incarnation, method: Method::from_number(method)? }),
            }
            let incarnation = Incarnation(number("incarnation of a dead log", self.log_incarnation[at].get())?);
            let end = Lsn(number("end of a dead log", self.log_end[at].get())?);
            if incarnation.0 > 0 {
                equal("end of a dead log inside a block", 0, end.0 % LOG_BLOCK as u64)?;
                view.log_ends.push(LogEnd { thread: id, incarnation, end });
            } else {
                equal("end of no log", 0, end.0)?;
            }
        }
        view.validate()?;
        Ok(view)
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    present: u8,
    zero: [u8; 7],
    view: ViewLayout,
    rest: [u8; BODY - 8 - VIEW_BYTES],
}

const _: () = assert!(size_of::<Layout>() == BODY);

/// Writes a view sector's body over zeroes.
pub fn encode_into(view: Option<&View>, body: &mut [u8; BODY]) {
    let layout = Layout::mut_from_bytes(body).expect("a body has the layout's size");
    if let Some(view) = view {
        layout.present = 1;
        layout.view.set(view);
    }
}

/// The view sector of `place`.
pub fn encode_sector(view: Option<&View>, place: &Place, head: &Head) -> Box<[u8; SECTOR]> {
    let mut body = [0; BODY];
    encode_into(view, &mut body);
    encode(place, head, &body)
}

/// Reads a view sector's body: `None` when its instance knows none yet.
///
/// # Errors
/// The first [`SectorFault`].
pub fn decode_body(sector: &Sector<'_>) -> Result<Option<View>, SectorFault> {
    let layout = Layout::ref_from_bytes(sector.body).expect("a body has the layout's size");
    zero("reserved bytes set", &layout.zero)?;
    zero("reserved bytes set", &layout.rest)?;
    match layout.present {
        0 => {
            zero("bytes of no view", layout.view.as_bytes())?;
            Ok(None)
        }
        1 => Ok(Some(layout.view.get()?)),
        other => Err(SectorFault::Field { field: "view present", expected: 1, found: other.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(id: u16, incarnation: u64) -> Identity {
        Identity::new(ThreadId(id), Incarnation(incarnation))
    }

    fn three() -> View {
        let change = Change { join: vec![life(3, 1), life(1, 4), life(2, 9)], ..Change::default() };
        View::genesis(&[VotingId(1), VotingId(2), VotingId(3)]).next(ThreadId(1), &change)
    }

    #[test]
    fn who_is_evicted_without_proof_is_unconfirmed_and_stays_out_until_a_view_says_otherwise() {
        let view = three().next(ThreadId(1), &Change { evict: vec![(life(2, 9), None)], ..Change::default() });
        assert_eq!((view.epoch, view.coordinator), (Epoch(2), ThreadId(1)));
        assert_eq!(view.unconfirmed, [life(2, 9)]);
        assert!(view.confirmed.is_empty() && !view.proves(life(2, 9)));
        let back = Change { join: vec![life(2, 10)], ..Change::default() };
        assert_eq!(view.next(ThreadId(1), &back).members, [life(1, 4), life(3, 1)], "not before its fence is confirmed");
        let confirmation = Confirmation { id: ThreadId(2), incarnation: Incarnation(9), method: Method::Operator(3) };
        let view = view.next(ThreadId(3), &Change { confirm: vec![confirmation], ..Change::default() });
        assert!(view.unconfirmed.is_empty() && view.confirmed == [confirmation] && view.proves(life(2, 9)) && !view.proves(life(2, 10)));
        let view = view.next(ThreadId(3), &Change::default());
        assert_eq!(view.confirmed, [confirmation], "remembered until it returns");
        let view = view.next(ThreadId(3), &back);
        assert_eq!(view.members, [life(1, 4), life(2, 10), life(3, 1)]);
        assert!(view.confirmed.is_empty());
        assert_eq!(view.validate(), Ok(()));
    }

    #[test]
    fn a_confirmation_of_another_life_strikes_nobody_out() {
        let view = three().next(ThreadId(1), &Change { evict: vec![(life(2, 9), None)], ..Change::default() });
        let other = Confirmation { id: ThreadId(2), incarnation: Incarnation(8), method: Method::Guard };
        let next = view.next(ThreadId(1), &Change { confirm: vec![other], ..Change::default() });
        assert_eq!(next.unconfirmed, [life(2, 9)]);
        assert!(next.confirmed.is_empty());
    }

    #[test]
    fn who_leaves_needs_no_fence() {
        let view = three().next(ThreadId(1), &Change { leave: vec![life(1, 4)], ..Change::default() });
        assert_eq!(view.members, [life(2, 9), life(3, 1)]);
        assert!(view.unconfirmed.is_empty() && view.confirmed.is_empty());
    }

    #[test]
    fn a_file_takes_anothers_place_once() {
        let view = three();
        let next = view.next(ThreadId(1), &Change { replace: Some((1, VotingId(9))), ..Change::default() });
        assert_eq!((next.voting.as_slice(), next.configuration), (&[VotingId(1), VotingId(9), VotingId(3)][..], view.configuration + 1));
        for bad in [(1, VotingId(3)), (7, VotingId(9))] {
            assert_eq!(view.next(ThreadId(1), &Change { replace: Some(bad), ..Change::default() }).voting, view.voting);
        }
    }

    #[test]
    fn impossible_views_are_refused() {
        let good = three();
        assert_eq!(good.validate(), Ok(()));
        let bad = [
            View { voting: vec![VotingId(1), VotingId(2)], ..good.clone() },
            View { voting: vec![VotingId(1); 3], ..good.clone() },
            View { members: vec![life(2, 1), life(1, 1)], ..good.clone() },
            View { members: vec![life(65, 1)], ..good.clone() },
            View { members: vec![life(1, 0)], ..good.clone() },
            View { members: vec![life(1, 4)], ..good.clone() },
            View { unconfirmed: vec![life(1, 3)], ..good.clone() },
            View { slots: Slots::default(), ..good.clone() },
            View { members: Vec::new(), ..good },
        ];
        for view in bad {
            assert!(view.validate().is_err(), "{view:?}");
        }
    }
}
