//! A slot: what the transaction table on disk says of one transaction. Layout: `docs/formats/undo.md`.

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
    /// Its first undo record.
    pub first: UndoPtr,
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
    pub const FREE: Slot = Slot { txn: TxnId::FROZEN, state: SlotState::Free, scn: Scn(0), first: UndoPtr::NONE };

    /// Its bytes.
    pub fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(&self.txn.0.to_le_bytes());
        bytes[8] = self.state as u8;
        bytes[16..24].copy_from_slice(&self.scn.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.page.0.to_le_bytes());
        bytes[32..34].copy_from_slice(&self.first.slot.to_le_bytes());
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
        let state = match bytes[8] {
            0 => SlotState::Free,
            1 => SlotState::Active,
            2 => SlotState::Committed,
            3 => SlotState::RolledBack,
            other => return fault("state", other.into()),
        };
        if bytes[9..16].iter().chain(&bytes[34..]).any(|byte| *byte != 0) {
            return fault("reserved bytes", 1);
        }
        let first = UndoPtr::decode(&bytes[24..]).unwrap_or_default();
        Ok(Slot { txn: TxnId(eight(0)), state, scn: Scn(eight(16)), first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{PageId, ThreadId};

    #[test]
    fn a_slot_reads_back_and_hostile_bytes_are_refused() {
        let first = UndoPtr { page: PageId(77), slot: 5 };
        let slot = Slot { txn: TxnId::new(ThreadId(3), 9), state: SlotState::Active, scn: Scn(4), first };
        assert_eq!(Slot::decode(&slot.encode()), Ok(slot));
        assert_eq!(Slot::decode(&Slot::FREE.encode()), Ok(Slot::FREE));
        for at in 8..16 {
            let mut bytes = slot.encode();
            bytes[at] = 9;
            assert!(Slot::decode(&bytes).is_err(), "byte {at}");
        }
        assert!(Slot::decode(&slot.encode()[..39]).is_err());
    }
}
