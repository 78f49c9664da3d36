//! What a change does to a page: a pure function, the same when the change is made and when it is redone.
//!
//! [`apply_op`] is called by change groups as they change a page and by redo; so redo can't differ from what happened.
//! [`redo`] adds the version rule (rule 8): apply exactly when the page has the previous version, skip when it has the new one or a
//! newer, anything else is a gap. Formatting starts the chain anew.

use super::record::{Change, Op, Ops, RecordFault};
use crate::base::limits::{PAGE_SIZE, SPACE_GROUP_PAGES};
use crate::base::{Lsn, PageId, Scn, Writer};
use crate::page::header::{self, HEADER, Kind};
use crate::page::slotted::{self, SlotError};
use crate::page::space;

/// Why a change can't be applied to a page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyFault {
    /// The version chain is broken: a write was lost, or a change is missing.
    #[error("page {page} has version {found}, but the change from {previous} to {new} is next: a lost write, or missing redo")]
    Gap {
        /// The page.
        page: PageId,
        /// Its version.
        found: Scn,
        /// What the change expects.
        previous: Scn,
        /// What it leads to.
        new: Scn,
    },
    /// The operation doesn't fit the page's contents, though the versions agree.
    #[error("page {page}: redo doesn't fit its contents: {fault}")]
    Content {
        /// The page.
        page: PageId,
        /// Why.
        fault: SlotError,
    },
    /// The operation is for another kind of page.
    #[error("page {page}: redo for a page of another kind (kind {kind})")]
    WrongKind {
        /// The page.
        page: PageId,
        /// Its kind.
        kind: u8,
    },
    /// The record itself is malformed.
    #[error("page {page}: {fault}")]
    Record {
        /// The page.
        page: PageId,
        /// Why.
        fault: RecordFault,
    },
}

/// Applies one operation to `page`, which must have the identity of its home already.
///
/// # Errors
/// [`ApplyFault`]; the page is then unchanged.
#[inline]
pub fn apply_op(page: &mut [u8], op: &Op<'_>) -> Result<(), ApplyFault> {
    let header = header::of(page);
    let (id, kind) = (header.id(), header.kind);
    let wrong = || ApplyFault::WrongKind { page: id, kind };
    let done = match *op {
        Op::Format { kind, tree, low, heap } => {
            let cluster = header.cluster.get();
            header::format(page, id, kind, tree, cluster);
            page[HEADER..HEADER + low.len()].copy_from_slice(low);
            page[PAGE_SIZE - heap.len()..].copy_from_slice(heap);
            Ok(())
        }
        Op::Free => {
            let (cluster, version) = (header.cluster.get(), header.version());
            header::format(page, id, Kind::Free, Default::default(), cluster);
            header::of_mut(page).version.set(version.0);
            Ok(())
        }
        Op::SetBit { bit, used } => {
            if kind != Kind::Space as u8 || u64::from(bit) >= SPACE_GROUP_PAGES {
                return Err(wrong());
            }
            space::set(page, bit.into(), used);
            Ok(())
        }
        _ if kind != Kind::Tree as u8 => return Err(wrong()),
        Op::Insert { slot, key, value } => slotted::insert(page, slot.into(), key, value),
        Op::Delete { slot } => slotted::delete(page, slot.into()),
        Op::SetValue { slot, value } => slotted::set_value(page, slot.into(), value),
        Op::SplitOff { from, right, high } => slotted::split_off(page, from.into(), high, right),
        Op::Append { key, value } => slotted::insert(page, slotted::count(page), key, value),
        Op::SetBounds { right, high } => slotted::set_bounds(page, high, right),
    };
    done.map_err(|fault| ApplyFault::Content { page: id, fault })
}

/// What [`redo`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Redone {
    /// The change was applied.
    Applied,
    /// The page had it already.
    Skipped,
}

/// Redoes `change` of the group with SCN `new` that ends at `end`, if the page needs it.
///
/// # Errors
/// [`ApplyFault`]; the page's contents are then not to be used.
#[inline]
pub fn redo(page: &mut [u8], change: &Change<'_>, new: Scn, end: Lsn, writer: Writer) -> Result<Redone, ApplyFault> {
    let found = header::of(page).version();
    if found >= new {
        return Ok(Redone::Skipped);
    }
    if found != change.previous && !change.formats() {
        return Err(ApplyFault::Gap { page: change.page, found, previous: change.previous, new });
    }
    for op in Ops::new(change.ops) {
        let op = op.map_err(|fault| ApplyFault::Record { page: change.page, fault })?;
        apply_op(page, &op)?;
    }
    header::stamp(page, new, end, writer);
    Ok(Redone::Applied)
}

/// The body of `page` as [`Op::Format`] carries it: what lies below and above the free space.
pub fn image(page: &[u8]) -> (&[u8], &[u8]) {
    match header::of(page).kind() {
        Some(Kind::Tree) => slotted::live_parts(page),
        Some(Kind::Space) => (&page[HEADER..space::BITS_END], &[]),
        Some(Kind::Free) | None => (&[], &[]),
    }
}
