//! Change groups and page operations, as bytes.
//!
//! Layout in `docs/formats/log.md`. A group is all or nothing; a page occurs once in it (rule 8). Decoding trusts nothing: lengths are
//! checked before use and a malformed record is a typed error, though blocks have been checksummed (rule 20).

use crate::base::limits::{GROUP_BYTES_MAX, GROUP_PAGES_MAX, NUMBER_MAX};
use crate::base::{PageId, Scn, TreeId};
use crate::page::Kind;

/// Bytes of a group's header.
pub const GROUP_HEADER: usize = 16;
/// Bytes of a change's header.
pub const CHANGE_HEADER: usize = 20;
/// Bytes of an operation's header.
pub const OP_HEADER: usize = 4;
/// Bytes of one item of a written notice.
pub const WRITTEN_ITEM: usize = 16;
/// Most items of a written notice.
pub const WRITTEN_MAX: usize = 1024;

/// What a group is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum GroupKind {
    /// Changes to pages.
    Changes = 1,
    /// Pages that are durable at home in this version: their older changes need no redo.
    Written = 2,
}

/// A malformed record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed redo record: {what} is {found}")]
pub struct RecordFault {
    /// Which number.
    pub what: &'static str,
    /// Its value.
    pub found: u64,
}

fn fault<T>(what: &'static str, found: impl TryInto<u64>) -> Result<T, RecordFault> {
    Err(RecordFault { what, found: found.try_into().unwrap_or(u64::MAX) })
}

#[inline]
fn u16_of(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
fn u32_of(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
fn u64_of(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

/// A group's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    /// Whole length, header included, in bytes.
    pub length: usize,
    /// What it is.
    pub kind: GroupKind,
    /// Changes or notices in it.
    pub items: usize,
    /// Its place in the cluster's order.
    pub scn: Scn,
}

impl Group {
    /// Reads the header at the start of `bytes`, which holds at least [`GROUP_HEADER`] bytes.
    ///
    /// # Errors
    /// [`RecordFault`] for a length or kind that can't be.
    pub fn decode(bytes: &[u8]) -> Result<Group, RecordFault> {
        let length = u32_of(bytes, 0) as usize;
        if !(GROUP_HEADER..=GROUP_BYTES_MAX).contains(&length) {
            return fault("group length", length);
        }
        let items = usize::from(u16_of(bytes, 6));
        let kind = match bytes[4] {
            1 if items <= GROUP_PAGES_MAX => GroupKind::Changes,
            2 if items <= WRITTEN_MAX && length == GROUP_HEADER + items * WRITTEN_ITEM => GroupKind::Written,
            1 | 2 => return fault("items of a group", items),
            other => return fault("group kind", other),
        };
        let scn = u64_of(bytes, 8);
        if bytes[5] != 0 {
            return fault("reserved byte of a group", bytes[5]);
        }
        if scn > NUMBER_MAX {
            return fault("scn of a group", scn);
        }
        Ok(Group { length, kind, items, scn: Scn(scn) })
    }

    /// Writes the header over the first [`GROUP_HEADER`] bytes.
    pub fn encode(&self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&(self.length as u32).to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = 0;
        bytes[6..8].copy_from_slice(&(self.items as u16).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.scn.0.to_le_bytes());
    }
}

/// One page's change in a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change<'a> {
    /// The page.
    pub page: PageId,
    /// Its version before.
    pub previous: Scn,
    /// Its operations, encoded.
    pub ops: &'a [u8],
}

impl Change<'_> {
    /// Whether the first operation formats the page, so that its old contents don't matter.
    pub fn formats(&self) -> bool {
        self.ops.first() == Some(&(Code::Format as u8))
    }
}

/// The changes of a group's body (the bytes behind its header).
pub struct Changes<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Changes<'a> {
    /// Reads `items` changes from `body`.
    pub fn new(body: &'a [u8], items: usize) -> Changes<'a> {
        Changes { rest: body, left: items }
    }
}

impl<'a> Iterator for Changes<'a> {
    type Item = Result<Change<'a>, RecordFault>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let rest = std::mem::take(&mut self.rest);
            return (!rest.is_empty()).then(|| fault("bytes behind a group's last change", rest.len()));
        }
        self.left -= 1;
        if self.rest.len() < CHANGE_HEADER {
            self.left = 0;
            return Some(fault("bytes left for a change", std::mem::take(&mut self.rest).len()));
        }
        let length = u32_of(self.rest, 16) as usize;
        if length > self.rest.len() - CHANGE_HEADER || length < OP_HEADER {
            self.left = 0;
            self.rest = &[];
            return Some(fault("length of a change", length));
        }
        let (page, previous) = (PageId(u64_of(self.rest, 0)), Scn(u64_of(self.rest, 8)));
        let ops = &self.rest[CHANGE_HEADER..CHANGE_HEADER + length];
        self.rest = &self.rest[CHANGE_HEADER + length..];
        Some(Ok(Change { page, previous, ops }))
    }
}

/// The items of a written notice's body.
pub fn written_items(body: &[u8]) -> impl Iterator<Item = (PageId, Scn)> + '_ {
    body.chunks_exact(WRITTEN_ITEM).map(|item| (PageId(u64_of(item, 0)), Scn(u64_of(item, 8))))
}

/// Encodes a written notice; its scn is filled in when it is appended.
pub fn encode_written(items: &[(PageId, Scn)]) -> Vec<u8> {
    debug_assert!(items.len() <= WRITTEN_MAX);
    let mut bytes = vec![0; GROUP_HEADER];
    for (page, version) in items {
        bytes.extend_from_slice(&page.0.to_le_bytes());
        bytes.extend_from_slice(&version.0.to_le_bytes());
    }
    Group { length: bytes.len(), kind: GroupKind::Written, items: items.len(), scn: Scn(0) }.encode(&mut bytes);
    bytes
}

/// Operation codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Code {
    Format = 1,
    Insert = 2,
    Delete = 3,
    SetValue = 4,
    SplitOff = 5,
    Append = 6,
    SetBounds = 7,
    Free = 8,
    SetBits = 9,
    Patch = 10,
}

/// What is done to one page. Slots are those of [`crate::page::slotted`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op<'a> {
    /// Start the page anew with this body: the only operation that carries a whole page (`low` from offset 64 on, `heap` up to the end,
    /// zeroes between).
    Format {
        /// What the page becomes.
        kind: Kind,
        /// Whose it becomes.
        tree: TreeId,
        /// Body bytes from offset 64 on.
        low: &'a [u8],
        /// Body bytes that end at offset 8192.
        heap: &'a [u8],
    },
    /// Put a cell before a slot.
    Insert {
        /// Before this one.
        slot: u16,
        /// Key bytes.
        key: &'a [u8],
        /// Value bytes.
        value: &'a [u8],
    },
    /// Take out a cell.
    Delete {
        /// This one.
        slot: u16,
    },
    /// Give a cell another value.
    SetValue {
        /// This one.
        slot: u16,
        /// Value bytes.
        value: &'a [u8],
    },
    /// Replace some bytes of a cell's value; its length stays.
    Patch {
        /// This one.
        slot: u16,
        /// Offset in the value, in bytes.
        at: u16,
        /// What stands there now.
        bytes: &'a [u8],
    },
    /// Drop the cells from a slot on, set upper fence and right sibling.
    SplitOff {
        /// The first to go.
        from: u16,
        /// The sibling that has them now.
        right: PageId,
        /// Upper fence; none is unbounded.
        high: Option<&'a [u8]>,
    },
    /// Put a cell behind the last.
    Append {
        /// Key bytes.
        key: &'a [u8],
        /// Value bytes.
        value: &'a [u8],
    },
    /// Set upper fence and right sibling.
    SetBounds {
        /// The sibling.
        right: PageId,
        /// Upper fence; none is unbounded.
        high: Option<&'a [u8]>,
    },
    /// The page belongs to nobody any more.
    Free,
    /// Mark a page of a space group as in use or not.
    SetBit {
        /// Which page of the group.
        bit: u16,
        /// In use.
        used: bool,
    },
}

impl Op<'_> {
    /// Appends the operation's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let code = match *self {
            Op::Format { .. } => Code::Format,
            Op::Insert { .. } => Code::Insert,
            Op::Delete { .. } => Code::Delete,
            Op::SetValue { .. } => Code::SetValue,
            Op::Patch { .. } => Code::Patch,
            Op::SplitOff { .. } => Code::SplitOff,
            Op::Append { .. } => Code::Append,
            Op::SetBounds { .. } => Code::SetBounds,
            Op::Free => Code::Free,
            Op::SetBit { .. } => Code::SetBits,
        };
        out.extend_from_slice(&[code as u8, 0, 0, 0]);
        match *self {
            Op::Format { kind, tree, low, heap } => {
                out.extend_from_slice(&[kind as u8, 0]);
                out.extend_from_slice(&(low.len() as u16).to_le_bytes());
                out.extend_from_slice(&tree.0.to_le_bytes());
                out.extend_from_slice(low);
                out.extend_from_slice(heap);
            }
            Op::Insert { slot, key, value } => {
                out.extend_from_slice(&slot.to_le_bytes());
                put_cell(out, key, value);
            }
            Op::Delete { slot } => out.extend_from_slice(&slot.to_le_bytes()),
            Op::SetValue { slot, value } => {
                out.extend_from_slice(&slot.to_le_bytes());
                out.extend_from_slice(value);
            }
            Op::Patch { slot, at, bytes } => {
                out.extend_from_slice(&slot.to_le_bytes());
                out.extend_from_slice(&at.to_le_bytes());
                out.extend_from_slice(bytes);
            }
            Op::SplitOff { from, right, high } => {
                out.extend_from_slice(&from.to_le_bytes());
                put_bounds(out, right, high);
            }
            Op::Append { key, value } => put_cell(out, key, value),
            Op::SetBounds { right, high } => put_bounds(out, right, high),
            Op::Free => {}
            Op::SetBit { bit, used } => {
                out.extend_from_slice(&bit.to_le_bytes());
                out.push(used.into());
            }
        }
        let length = (out.len() - start - OP_HEADER) as u16;
        out[start + 2..start + 4].copy_from_slice(&length.to_le_bytes());
    }
}

fn put_cell(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

fn put_bounds(out: &mut Vec<u8>, right: PageId, high: Option<&[u8]>) {
    out.extend_from_slice(&right.0.to_le_bytes());
    out.push(high.is_some().into());
    out.extend_from_slice(high.unwrap_or_default());
}

/// The operations of a change.
pub struct Ops<'a> {
    rest: &'a [u8],
}

impl<'a> Ops<'a> {
    /// Reads the operations encoded in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Ops<'a> {
        Ops { rest: bytes }
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Result<Op<'a>, RecordFault>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        if rest.len() < OP_HEADER {
            return Some(fault("bytes left for an operation", rest.len()));
        }
        let length = usize::from(u16_of(rest, 2));
        if length > rest.len() - OP_HEADER {
            return Some(fault("length of an operation", length));
        }
        if rest[1] != 0 {
            return Some(fault("reserved byte of an operation", rest[1]));
        }
        let op = decode_op(rest[0], &rest[OP_HEADER..OP_HEADER + length]);
        if op.is_ok() {
            self.rest = &rest[OP_HEADER + length..];
        }
        Some(op)
    }
}

#[inline]
fn decode_op(code: u8, payload: &[u8]) -> Result<Op<'_>, RecordFault> {
    let need = |bytes: usize| if payload.len() < bytes { fault("length of an operation", payload.len()) } else { Ok(()) };
    Ok(match code {
        2 => {
            need(4)?;
            let (key, value) = cell_of(&payload[2..])?;
            Op::Insert { slot: u16_of(payload, 0), key, value }
        }
        3 => {
            need(2)?;
            Op::Delete { slot: u16_of(payload, 0) }
        }
        4 => {
            need(2)?;
            Op::SetValue { slot: u16_of(payload, 0), value: &payload[2..] }
        }
        6 => {
            need(2)?;
            let (key, value) = cell_of(payload)?;
            Op::Append { key, value }
        }
        1 => {
            need(8)?;
            let Some(kind) = Kind::from_raw(payload[0]) else { return fault("kind of a formatted page", payload[0]) };
            let split = usize::from(u16_of(payload, 2));
            let body = &payload[8..];
            if payload[1] != 0 || split > body.len() || body.len() > crate::base::limits::PAGE_SIZE - crate::page::header::HEADER {
                return fault("body of a formatted page", body.len());
            }
            Op::Format { kind, tree: TreeId(u32_of(payload, 4)), low: &body[..split], heap: &body[split..] }
        }
        5 => {
            need(11)?;
            let (right, high) = bounds_of(&payload[2..])?;
            Op::SplitOff { from: u16_of(payload, 0), right, high }
        }
        7 => {
            need(9)?;
            let (right, high) = bounds_of(payload)?;
            Op::SetBounds { right, high }
        }
        10 => {
            need(4)?;
            Op::Patch { slot: u16_of(payload, 0), at: u16_of(payload, 2), bytes: &payload[4..] }
        }
        8 => Op::Free,
        9 => {
            need(3)?;
            match payload[2] {
                flag @ (0 | 1) => Op::SetBit { bit: u16_of(payload, 0), used: flag == 1 },
                other => return fault("flag of a space map bit", other),
            }
        }
        other => return fault("operation code", other),
    })
}

fn cell_of(bytes: &[u8]) -> Result<(&[u8], &[u8]), RecordFault> {
    let key = usize::from(u16_of(bytes, 0));
    if key > bytes.len() - 2 { fault("length of a key", key) } else { Ok(bytes[2..].split_at(key)) }
}

fn bounds_of(bytes: &[u8]) -> Result<(PageId, Option<&[u8]>), RecordFault> {
    match bytes[8] {
        0 if bytes.len() == 9 => Ok((PageId(u64_of(bytes, 0)), None)),
        1 => Ok((PageId(u64_of(bytes, 0)), Some(&bytes[9..]))),
        other => fault("fence flag", other),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ops_back(ops: &[Op<'_>]) {
        let mut bytes = Vec::new();
        ops.iter().for_each(|op| op.encode(&mut bytes));
        let back: Vec<_> = Ops::new(&bytes).collect::<Result<_, _>>().unwrap();
        assert_eq!(back, ops);
    }

    #[test]
    fn operations_read_back() {
        ops_back(&[
            Op::Format { kind: Kind::Tree, tree: TreeId(9), low: &[1, 2, 3], heap: &[4; 100] },
            Op::Insert { slot: 3, key: b"key", value: b"value" },
            Op::Delete { slot: 65535 },
            Op::Patch { slot: 2, at: 7, bytes: b"part" },
            Op::SetValue { slot: 1, value: b"" },
            Op::SplitOff { from: 4, right: PageId(7), high: Some(b"m") },
            Op::Append { key: b"", value: b"x" },
            Op::SetBounds { right: PageId::NONE, high: None },
            Op::Free,
            Op::SetBit { bit: 4095, used: true },
        ]);
    }

    proptest! {
        #[test]
        fn inserts_read_back(slot: u16, key in prop::collection::vec(any::<u8>(), 0..500), value in prop::collection::vec(any::<u8>(), 0..1500)) {
            ops_back(&[Op::Insert { slot, key: &key, value: &value }, Op::SetValue { slot, value: &value }]);
        }

        #[test]
        fn every_operation_reads_back(slot: u16, page: u64, key in prop::collection::vec(any::<u8>(), 0..60), value in prop::collection::vec(any::<u8>(), 0..600), tree: u32, flag: bool) {
            let (right, high, kind) = (PageId(page), flag.then_some(&key[..]), if flag { Kind::Tree } else { Kind::Free });
            ops_back(&[
                Op::Format { kind, tree: TreeId(tree), low: &key, heap: &value },
                Op::Delete { slot },
                Op::SplitOff { from: slot, right, high },
                Op::Append { key: &key, value: &value },
                Op::SetBounds { right, high },
                Op::Free,
                Op::SetBit { bit: slot, used: flag },
            ]);
        }

        #[test]
        fn groups_read_back(scn in 0..NUMBER_MAX, changes in prop::collection::vec((any::<u64>(), any::<u64>(), 0u16..9), 0..64)) {
            let mut bytes = vec![0; GROUP_HEADER];
            let mut ops = Vec::new();
            for (page, previous, slot) in &changes {
                ops.clear();
                Op::Delete { slot: *slot }.encode(&mut ops);
                bytes.extend_from_slice(&page.to_le_bytes());
                bytes.extend_from_slice(&previous.to_le_bytes());
                bytes.extend_from_slice(&(ops.len() as u32).to_le_bytes());
                bytes.extend_from_slice(&ops);
            }
            let group = Group { length: bytes.len(), kind: GroupKind::Changes, items: changes.len(), scn: Scn(scn) };
            group.encode(&mut bytes);
            prop_assert_eq!(Group::decode(&bytes), Ok(group));
            let back: Vec<_> = Changes::new(&bytes[GROUP_HEADER..], group.items).map(|change| change.unwrap()).collect();
            prop_assert_eq!(back.len(), changes.len());
            for (found, (page, previous, slot)) in back.iter().zip(&changes) {
                prop_assert_eq!((found.page.0, found.previous.0), (*page, *previous));
                prop_assert_eq!(Ops::new(found.ops).next(), Some(Ok(Op::Delete { slot: *slot })));
            }
        }

        #[test]
        fn notices_read_back(items in prop::collection::vec((any::<u64>(), any::<u64>()), 0..=WRITTEN_MAX)) {
            let items: Vec<_> = items.into_iter().map(|(page, version)| (PageId(page), Scn(version))).collect();
            let bytes = encode_written(&items);
            let group = Group::decode(&bytes).unwrap();
            prop_assert_eq!((group.kind, group.items, group.length), (GroupKind::Written, items.len(), bytes.len()));
            prop_assert_eq!(written_items(&bytes[GROUP_HEADER..]).collect::<Vec<_>>(), items);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 16..200)) {
            let mut bytes = bytes;
            for op in Ops::new(&bytes) { let _ = op; }
            if let Ok(group) = Group::decode(&bytes) {
                for change in Changes::new(&bytes[GROUP_HEADER..], group.items).flatten() { Ops::new(change.ops).for_each(|op| { let _ = op; }); }
            }
            bytes[0] %= 10;
            for op in Ops::new(&bytes) { let _ = op; }
        }
    }
}
