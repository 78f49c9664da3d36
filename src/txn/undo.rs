//! Undo records and row headers, as bytes. Layout: `docs/formats/undo.md`. Decoding trusts nothing (rule 20).

use super::slot::{SLOT_BYTES, Slot};
use super::{TxnId, UndoPtr};
use crate::base::TreeId;

/// Most bytes that a row's header takes.
pub const ROW_HEADER_MAX: usize = 1 + 8 + UndoPtr::BYTES;
/// Bytes of an undo record before its key.
const RECORD_HEADER: usize = 18;
/// Bytes of a record of what a slot was before.
pub const EARLIER_BYTES: usize = RECORD_HEADER + SLOT_BYTES;

const DELETED: u8 = 1;
const LOCKED: u8 = 2;
const HAS_TXN: u8 = 4;
const HAS_UNDO: u8 = 8;

/// Bytes that aren't what they must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}: {found}")]
pub struct UndoFault {
    /// Row header or undo record.
    pub what: &'static str,
    /// The offending number.
    pub found: u64,
}

/// What stands before a row's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RowHeader {
    /// Who changed it; frozen: visible to everyone.
    pub txn: TxnId,
    /// What it was before.
    pub undo: UndoPtr,
    /// This version is a deletion.
    pub deleted: bool,
    /// The transaction has only locked it: the value is that of the version before.
    pub locked: bool,
}

impl RowHeader {
    /// The row's bytes: header and value.
    pub fn row(&self, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(ROW_HEADER_MAX + value.len());
        let flags = (u8::from(self.deleted) * DELETED)
            | (u8::from(self.locked) * LOCKED)
            | (u8::from(self.txn != TxnId::FROZEN) * HAS_TXN)
            | (u8::from(self.undo.is_some()) * HAS_UNDO);
        out.push(flags);
        if self.txn != TxnId::FROZEN {
            out.extend_from_slice(&self.txn.0.to_le_bytes());
        }
        if self.undo.is_some() {
            self.undo.encode(&mut out);
        }
        out.extend_from_slice(value);
        out
    }

    /// Header and value of a row.
    ///
    /// # Errors
    /// [`UndoFault`].
    #[inline]
    pub fn of(row: &[u8]) -> Result<(RowHeader, &[u8]), UndoFault> {
        let fault = |found: u64| UndoFault { what: "row header", found };
        let (&flags, mut rest) = row.split_first().ok_or(fault(0))?;
        if flags > 15 || flags & (HAS_TXN | HAS_UNDO) == HAS_UNDO {
            return Err(fault(flags.into()));
        }
        let mut header = RowHeader { deleted: flags & DELETED != 0, locked: flags & LOCKED != 0, ..RowHeader::default() };
        if flags & HAS_TXN != 0 {
            let (txn, behind) = rest.split_first_chunk().ok_or(fault(row.len() as u64))?;
            (header.txn, rest) = (TxnId(u64::from_le_bytes(*txn)), behind);
        }
        if flags & HAS_UNDO != 0 {
            header.undo = UndoPtr::decode(rest).ok_or(fault(row.len() as u64))?;
            rest = &rest[UndoPtr::BYTES..];
        }
        Ok((header, rest))
    }
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action<'a> {
    /// A row was changed; this is what it was, header and value; nothing when there was none.
    Row {
        /// Its key.
        key: &'a [u8],
        /// What it was.
        before: Option<&'a [u8]>,
    },
    /// The tree was made.
    MadeTree,
    /// The tree is to be dropped after the commit.
    DropTree,
    /// The transaction took its slot, which was this. Nothing is undone by it: it tells of those that had the slot before.
    TookSlot(Slot),
}

/// An undo record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Whose.
    pub txn: TxnId,
    /// The transaction's record before this one.
    pub previous: UndoPtr,
    /// In this tree.
    pub tree: TreeId,
    /// What was done.
    pub action: Action<'a>,
}

impl<'a> Record<'a> {
    /// The value of its cell; the cell's key is the transaction.
    pub fn encode(&self) -> Vec<u8> {
        let slot;
        let (kind, key, before) = match self.action {
            Action::Row { key, before } => (1, key, before),
            Action::MadeTree => (2, &[][..], None),
            Action::DropTree => (3, &[][..], None),
            Action::TookSlot(was) => {
                slot = was.encode();
                (4, &slot[..], None)
            }
        };
        let mut out = Vec::with_capacity(RECORD_HEADER + key.len() + before.map_or(0, <[u8]>::len));
        out.extend_from_slice(&[kind, before.is_some().into()]);
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.tree.0.to_le_bytes());
        self.previous.encode(&mut out);
        out.extend_from_slice(key);
        out.extend_from_slice(before.unwrap_or_default());
        out
    }

    /// Reads a cell of an undo page.
    ///
    /// # Errors
    /// [`UndoFault`].
    pub fn decode(cell_key: &[u8], bytes: &'a [u8]) -> Result<Record<'a>, UndoFault> {
        let fault = |found: u64| UndoFault { what: "undo record", found };
        let txn = TxnId(u64::from_le_bytes(cell_key.try_into().map_err(|_| fault(cell_key.len() as u64))?));
        let Some((head, rest)) = bytes.split_first_chunk::<RECORD_HEADER>() else { return Err(fault(bytes.len() as u64)) };
        let key_len = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let tree = TreeId(u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
        let previous = UndoPtr::decode(&head[8..]).unwrap_or_default();
        if key_len > rest.len() {
            return Err(fault(key_len as u64));
        }
        let (key, before) = rest.split_at(key_len);
        let action = match (head[0], head[1]) {
            (1, 1) => Action::Row { key, before: Some(before) },
            (1, 0) if before.is_empty() => Action::Row { key, before: None },
            (2, 0) if rest.is_empty() => Action::MadeTree,
            (3, 0) if rest.is_empty() => Action::DropTree,
            (4, 0) if before.is_empty() => Action::TookSlot(Slot::decode(key).map_err(|slot| fault(slot.found))?),
            (kind, _) => return Err(fault(kind.into())),
        };
        Ok(Record { txn, previous, tree, action })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::PageId;

    proptest! {
        #[test]
        fn rows_and_records_read_back(txn in 0u64..3, page in 0u64..3, slot: u16, deleted: bool, locked: bool, value: Vec<u8>, key: Vec<u8>,
            before in prop::option::of(any::<Vec<u8>>())) {
            let undo = if txn > 0 && page > 0 { UndoPtr { page: PageId(page), slot } } else { UndoPtr::NONE };
            let header = RowHeader { txn: TxnId(txn), undo, deleted, locked };
            let row = header.row(&value);
            prop_assert_eq!(RowHeader::of(&row), Ok((header, &value[..])));
            for action in [Action::Row { key: &key, before: before.as_deref() }, Action::MadeTree, Action::DropTree, Action::TookSlot(Slot::FREE)] {
                let record = Record { txn: TxnId(txn), previous: undo, tree: TreeId(7), action };
                let (name, bytes) = (txn.to_le_bytes(), record.encode());
                prop_assert_eq!(Record::decode(&name, &bytes), Ok(record));
                prop_assert!(!matches!(action, Action::TookSlot(_)) || bytes.len() == EARLIER_BYTES);
            }
        }

        #[test]
        fn hostile_bytes_never_panic(key: Vec<u8>, bytes: Vec<u8>) {
            let _ = (RowHeader::of(&bytes), Record::decode(&key, &bytes), Record::decode(&[1; 8], &bytes));
        }
    }
}
