//! A slot: what the transaction table on disk says of a transaction, and of those that had its place before. Layout: `docs/formats/undo.md`.
//!
//! A transaction's number names its slot, and numbers only rise. So whoever finds a number in a row finds its slot, and learns from it what became of the
//! transaction ([`Slot::judge`]), also when the slot has gone to a later one. Callers: `table::rows`. Not here: where slots are.

use std::cmp::Ordering;

use super::{TxnId, UndoPtr};
use crate::base::Scn;

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 40;
/// Slots of one page.
pub const SLOTS_PER_PAGE: usize = 128;

/// How far a transaction is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SlotState {
    /// Never used.
    Free = 0,
    /// Under way; after a crash: a loser.
    Active = 1,
    /// Committed.
    Committed = 2,
    /// Undone altogether.
    RolledBack = 3,
}

/// One transaction's entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Whose.
    pub txn: TxnId,
    /// How far it is.
    pub state: SlotState,
    /// When it ended.
    pub scn: Scn,
    /// All that had the slot before had ended by then.
    pub before: Scn,
    /// Its first undo record.
    pub first: UndoPtr,
    /// Its first undo record is the slot as it was before: some snapshot may need to tell apart those that had it.
    pub earlier: bool,
}

/// What a slot says of a transaction whose number belongs to it, for those who see what ended up to some SCN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judged {
    /// Committed up to then; or undone up to then, and no row names it.
    Before,
    /// Committed later.
    After,
    /// Under way.
    Active,
    /// Undone: who has read a row that names it reads again.
    Undone,
    /// Not said here: the slot as it was before says it.
    Earlier,
}

/// A slot that isn't one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed transaction slot: {what} is {found}")]
pub struct SlotFault {
    /// Which field.
    pub what: &'static str,
    /// Its value.
    pub found: u64,
}

impl Slot {
    /// A slot that nobody has used.
    pub const FREE: Slot =
        Slot { txn: TxnId::FROZEN, state: SlotState::Free, scn: Scn(0), before: Scn(0), first: UndoPtr::NONE, earlier: false };

    /// What it says of number `number` of its thread to those who see what ended up to `at`.
    pub fn judge(&self, number: u64, at: Scn) -> Judged {
        match (self.txn.number().cmp(&number), self.state) {
            // Its changes and its name in the slot are one group: what named it was undone by a crash before it was durable.
            (Ordering::Less, _) | (Ordering::Equal, SlotState::RolledBack | SlotState::Free) => Judged::Undone,
            (Ordering::Equal, SlotState::Active) => Judged::Active,
            (Ordering::Equal, SlotState::Committed) if self.scn <= at => Judged::Before,
            (Ordering::Equal, SlotState::Committed) => Judged::After,
            (Ordering::Greater, _) if self.before <= at => Judged::Before,
            (Ordering::Greater, _) => Judged::Earlier,
        }
    }

    /// All numbers of the slot up to this one had ended by `at`.
    pub fn ended_by(&self, at: Scn) -> u64 {
        match self.state {
            SlotState::Committed | SlotState::RolledBack if self.scn <= at => self.txn.number(),
            _ if self.before <= at => self.txn.number().saturating_sub(1),
            _ => 0,
        }
    }

    /// The same slot with the transaction's end.
    pub fn ended(self, state: SlotState, scn: Scn) -> Slot {
        Slot { state, scn, ..self }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(&self.txn.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.scn.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.before.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.page.0.to_le_bytes());
        bytes[32..34].copy_from_slice(&self.first.slot.to_le_bytes());
        bytes[34] = self.state as u8;
        bytes[35] = self.earlier.into();
        bytes
    }

    /// Reads a slot.
    ///
    /// # Errors
    /// [`SlotFault`].
    pub fn decode(bytes: &[u8]) -> Result<Slot, SlotFault> {
        let fault = |what, found| Err(SlotFault { what, found });
        let Ok(bytes) = <&[u8; SLOT_BYTES]>::try_from(bytes) else { return fault("length", bytes.len() as u64) };
        let eight = |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| bytes[at + byte]));
        let state = match bytes[34] {
            0 => SlotState::Free,
            1 => SlotState::Active,
            2 => SlotState::Committed,
            3 => SlotState::RolledBack,
            other => return fault("state", other.into()),
        };
        let earlier = match bytes[35] {
            0 => false,
            1 => true,
            other => return fault("flag", other.into()),
        };
        if bytes[36..].iter().any(|byte| *byte != 0) {
            return fault("reserved bytes", 1);
        }
        let first = UndoPtr::decode(&bytes[24..]).unwrap_or_default();
        Ok(Slot { txn: TxnId(eight(0)), state, scn: Scn(eight(8)), before: Scn(eight(16)), first, earlier })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{PageId, ThreadId};

    const THREAD: ThreadId = ThreadId(3);

    fn slot(number: u64, state: SlotState, scn: u64, before: u64) -> Slot {
        let first = UndoPtr { page: PageId(77), slot: 5 };
        Slot { txn: TxnId::new(THREAD, number), state, scn: Scn(scn), before: Scn(before), first, earlier: before > 0 }
    }

    #[test]
    fn a_slot_reads_back_and_hostile_bytes_are_refused() {
        for slot in [slot(9, SlotState::Active, 0, 4), slot(1 << 47, SlotState::Committed, 8, 0), Slot::FREE] {
            assert_eq!(Slot::decode(&slot.encode()), Ok(slot));
        }
        for at in 34..40 {
            let mut bytes = slot(9, SlotState::Active, 4, 2).encode();
            bytes[at] = 9;
            assert!(Slot::decode(&bytes).is_err(), "byte {at}");
        }
        assert!(Slot::decode(&Slot::FREE.encode()[..39]).is_err());
    }

    #[test]
    fn the_bytes_are_those_of_the_document() {
        let expected = "0900000000000300 0600000000000000 0400000000000000 4d000000000000000500 0201 00000000".replace(' ', "");
        let found: String = slot(9, SlotState::Committed, 6, 4).encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_slot_tells_of_its_own_transaction_of_those_before_and_of_none_that_came_later() {
        use SlotState::{Active, Committed, RolledBack};
        let seen = |state, scn, before, number, at| slot(9, state, scn, before).judge(number, Scn(at));
        assert_eq!(seen(Active, 0, 4, 9, 100), Judged::Active);
        assert_eq!((seen(Committed, 7, 4, 9, 7), seen(Committed, 7, 4, 9, 6)), (Judged::Before, Judged::After));
        assert_eq!(seen(RolledBack, 7, 4, 9, 100), Judged::Undone);
        for state in [Active, Committed, RolledBack] {
            assert_eq!((seen(state, 7, 4, 8, 4), seen(state, 7, 4, 8, 3)), (Judged::Before, Judged::Earlier));
            assert_eq!(seen(state, 7, 4, 10, 100), Judged::Undone);
        }
        assert_eq!(Slot::FREE.judge(1, Scn(100)), Judged::Undone);
        let ended = |state, at| slot(9, state, 7, 4).ended_by(Scn(at));
        assert_eq!((ended(Committed, 7), ended(RolledBack, 7), ended(Active, 7)), (9, 9, 8));
        assert_eq!((ended(Committed, 6), ended(Active, 4), ended(Active, 3), Slot::FREE.ended_by(Scn(0))), (8, 8, 0, 0));
    }
}
