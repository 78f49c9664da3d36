//! Names of transactions and of undo records.

use std::fmt;

use crate::base::{PageId, ThreadId};

/// A transaction that has written: redo thread (high 16 bits) and number in it. Zero is "long ago": visible to everyone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TxnId(pub u64);

impl TxnId {
    /// Long ago: visible to everyone.
    pub const FROZEN: TxnId = TxnId(0);

    /// Number `number` of `thread`.
    pub fn new(thread: ThreadId, number: u64) -> TxnId {
        debug_assert!(number < 1 << 48);
        TxnId(u64::from(thread.0) << 48 | number)
    }

    /// The redo thread of its instance.
    pub fn thread(self) -> ThreadId {
        ThreadId((self.0 >> 48) as u16)
    }

    /// Its number there, from 1, never given again.
    pub fn number(self) -> u64 {
        self.0 & 0xffff_ffff_ffff
    }
}

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "txn {}.{}", self.thread().0, self.number())
    }
}

impl fmt::Debug for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where an undo record is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UndoPtr {
    /// Its page.
    pub page: PageId,
    /// Its cell.
    pub slot: u16,
}

impl UndoPtr {
    /// No record.
    pub const NONE: UndoPtr = UndoPtr { page: PageId::NONE, slot: u16::MAX };
    /// Bytes of its encoding.
    pub const BYTES: usize = 10;

    /// False for [`UndoPtr::NONE`].
    pub fn is_some(self) -> bool {
        self.page.is_some()
    }

    /// Appends its bytes.
    pub fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.page.0.to_le_bytes());
        out.extend_from_slice(&self.slot.to_le_bytes());
    }

    /// Reads it from the first bytes of `bytes`; nothing when they are too few.
    pub fn decode(bytes: &[u8]) -> Option<UndoPtr> {
        let page = PageId(u64::from_le_bytes(*bytes.first_chunk()?));
        Some(UndoPtr { page, slot: u16::from_le_bytes(*bytes.get(8..)?.first_chunk()?) })
    }
}

impl Default for UndoPtr {
    fn default() -> Self {
        UndoPtr::NONE
    }
}

impl fmt::Display for UndoPtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.page, self.slot)
    }
}

impl fmt::Debug for UndoPtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
