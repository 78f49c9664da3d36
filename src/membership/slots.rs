//! The slot table: 1024 slots of the resource directory, each mastered by one member.
//!
//! A new table moves as few slots as balance allows: those of members that are gone, and what a member has too many of. When members
//! only go, only their slots move, so that the rest of the directory is served on (thaw 1).

use std::sync::Arc;

use crate::base::ThreadId;

/// Slots of the directory.
pub const SLOTS: usize = 1024;

/// Which instance masters which slot; 0 where nobody does (no members).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Slots(Arc<[u8; SLOTS]>);

impl Default for Slots {
    fn default() -> Slots {
        Slots(Arc::new([0; SLOTS]))
    }
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut counts = std::collections::BTreeMap::new();
        for master in self.0.iter() {
            *counts.entry(*master).or_insert(0usize) += 1;
        }
        f.debug_map().entries(counts).finish()
    }
}

impl Slots {
    /// The table as bytes: one instance number each.
    pub fn bytes(&self) -> &[u8; SLOTS] {
        &self.0
    }

    /// The table of these bytes; whether the instances are members is for [`super::view::View::validate`] to say.
    pub fn from_bytes(bytes: &[u8; SLOTS]) -> Slots {
        Slots(Arc::new(*bytes))
    }

    /// The master of `slot`.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn master(&self, slot: usize) -> ThreadId {
        ThreadId(self.0[slot].into())
    }

    /// All masters, by slot.
    pub fn masters(&self) -> impl Iterator<Item = ThreadId> {
        self.0.iter().map(|master| ThreadId((*master).into()))
    }

    /// This table for `members` (sorted): everybody has as many slots as everybody else, give or take one, and no other table with that
    /// property differs from this one in fewer slots.
    pub fn assigned_to(&self, members: &[ThreadId]) -> Slots {
        if members.is_empty() {
            return Slots::default();
        }
        let had = |id: ThreadId| self.masters().filter(|master| *master == id).count();
        let mut order: Vec<(usize, ThreadId)> = members.iter().map(|id| (had(*id), *id)).collect();
        // Who has most keeps the odd ones: that moves least.
        order.sort_by_key(|(count, id)| (std::cmp::Reverse(*count), *id));
        let (share, odd) = (SLOTS / members.len(), SLOTS % members.len());
        let mut room = [0usize; 256];
        for (at, (_, id)) in order.iter().enumerate() {
            room[usize::from(id.0 & 0xff)] = share + usize::from(at < odd);
        }
        let mut table = *self.0;
        let mut free = Vec::new();
        for (slot, master) in table.iter_mut().enumerate() {
            let room = &mut room[usize::from(*master)];
            if *master != 0 && *room > 0 {
                *room -= 1;
            } else {
                *master = 0;
                free.push(slot);
            }
        }
        // One each in turn, so that a dead member's load spreads.
        let mut turn = members.iter().cycle();
        for slot in free {
            let taker =
                turn.by_ref().take(members.len()).find(|id| room[usize::from(id.0 & 0xff)] > 0).expect("shares add up to all slots");
            room[usize::from(taker.0 & 0xff)] -= 1;
            table[slot] = taker.0 as u8;
        }
        Slots(Arc::new(table))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(slots: &Slots, members: &[ThreadId]) -> Vec<usize> {
        members.iter().map(|id| slots.masters().filter(|master| master == id).count()).collect()
    }

    fn ids(bits: u64) -> Vec<ThreadId> {
        (1..=64).filter(|id| bits >> (id - 1) & 1 == 1).map(ThreadId).collect()
    }

    proptest! {
        #[test]
        fn tables_are_balanced_and_move_least(steps in prop::collection::vec(any::<u64>(), 1..8), sparse: u64) {
            let mut slots = Slots::default();
            for bits in steps {
                let members = ids(bits & (sparse | 1));
                let next = slots.assigned_to(&members);
                if members.is_empty() {
                    prop_assert_eq!(&next, &Slots::default());
                    continue;
                }
                let (before, after) = (counts(&slots, &members), counts(&next, &members));
                prop_assert_eq!(after.iter().sum::<usize>(), SLOTS);
                prop_assert!(after.iter().max().unwrap() - after.iter().min().unwrap() <= 1);
                // The least possible: everybody keeps up to the share, and the odd slots stay with those who have more than it.
                let (share, odd) = (SLOTS / members.len(), SLOTS % members.len());
                let over = before.iter().filter(|count| **count > share).count();
                let kept = before.iter().map(|count| *count.min(&share)).sum::<usize>() + over.min(odd);
                let same = slots.masters().zip(next.masters()).filter(|(a, b)| a == b).count();
                prop_assert_eq!(same, kept);
                slots = next;
            }
        }

        #[test]
        fn when_members_only_go_only_their_slots_move(all: u64, gone: u64) {
            let (members, left) = (ids(all | 1), ids((all | 1) & !(gone & !1)));
            let before = Slots::default().assigned_to(&members);
            let after = before.assigned_to(&left);
            for (old, new) in before.masters().zip(after.masters()) {
                prop_assert!(old == new || !left.contains(&old), "a slot of {old} moved to {new}");
            }
        }
    }

    #[test]
    fn one_member_has_all() {
        assert!(Slots::default().assigned_to(&[ThreadId(7)]).masters().all(|master| master == ThreadId(7)));
    }
}
