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
/// [`ApplyFault`]; the page is then unchanged, unless a formatted body was refused: then its contents are not to be used.
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
            // Later operations of the same change trust the layout, and this one came from a log (rule 20).
            match kind {
                Kind::Tree | Kind::Slots | Kind::Undo => slotted::check(page),
                Kind::Space => space::check(page),
                Kind::Free => Ok(()),
            }
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
            if bit == 0 && !used {
                let fault = SlotError::Damaged { what: "a space map would free itself: bit", found: 0 };
                return Err(ApplyFault::Content { page: id, fault });
            }
            space::set(page, bit.into(), used);
            Ok(())
        }
        _ if !Kind::from_raw(kind).is_some_and(Kind::is_slotted) => return Err(wrong()),
        Op::Insert { slot, key, value } => slotted::insert(page, slot.into(), key, value),
        Op::Delete { slot } => slotted::delete(page, slot.into()),
        Op::SetValue { slot, value } => slotted::set_value(page, slot.into(), value),
        Op::Patch { slot, at, bytes } => slotted::patch(page, slot.into(), at.into(), bytes),
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
pub fn redo(page: &mut [u8], change: &Change<'_>, new: Scn, end: Lsn, writer: Writer) -> Result<Redone, ApplyFault> {
    let done = redo_unstamped(page, header::of(page).version(), change, new)?;
    if done == Redone::Applied {
        header::stamp(page, new, end, writer);
    }
    Ok(done)
}

/// As [`redo`] for a page whose version is `found`, whatever its header says; the caller stamps it when it has no more changes.
///
/// # Errors
/// As [`redo`].
#[inline]
pub fn redo_unstamped(page: &mut [u8], found: Scn, change: &Change<'_>, new: Scn) -> Result<Redone, ApplyFault> {
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
    Ok(Redone::Applied)
}

/// The body of `page` as [`Op::Format`] carries it: what lies below and above the free space.
pub fn image(page: &[u8]) -> (&[u8], &[u8]) {
    match header::of(page).kind() {
        Some(Kind::Tree | Kind::Slots | Kind::Undo) => slotted::live_parts(page),
        Some(Kind::Space) => (&page[HEADER..space::BITS_END], &[]),
        Some(Kind::Free) | None => (&[], &[]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::{ThreadId, TreeId};
    use crate::page::verify::verify_stamped;

    const PAGE: PageId = PageId(77);
    const TAG: u64 = 9;

    fn tree_page() -> Vec<u8> {
        let mut page = vec![0; PAGE_SIZE];
        header::format(&mut page, PAGE, Kind::Tree, TreeId(5), TAG);
        slotted::init(&mut page, 0);
        page
    }

    fn body(slots: u16, heap: u16) -> [u8; 40] {
        let mut low = [0; 40];
        low[..2].copy_from_slice(&slots.to_le_bytes());
        low[2..4].copy_from_slice(&heap.to_le_bytes());
        low
    }

    #[test]
    fn a_hostile_formatted_body_is_refused_before_anything_trusts_it() {
        // A change that was whole by its checksum formatted a page with more slots than it has room for; the insert behind it then
        // took a length from outside the page.
        for low in [body(3000, 8192), body(2, 96), body(1, 64), [0xff; 40]] {
            let mut ops = Vec::new();
            Op::Format { kind: Kind::Tree, tree: TreeId(1), low: &low, heap: &[] }.encode(&mut ops);
            Op::Insert { slot: 0, key: b"key", value: b"value" }.encode(&mut ops);
            let mut page = tree_page();
            let writer = Writer::default();
            let fault = redo(&mut page, &Change { page: PAGE, previous: Scn(0), ops: &ops }, Scn(1), Lsn(1), writer).unwrap_err();
            assert!(matches!(fault, ApplyFault::Content { fault: SlotError::Damaged { .. }, .. }), "{fault}");
        }
        let mut page = tree_page();
        let unowned = Op::Format { kind: Kind::Space, tree: TreeId(0), low: &[0; 32], heap: &[] };
        assert!(matches!(apply_op(&mut page, &unowned), Err(ApplyFault::Content { .. })));
    }

    #[test]
    fn a_space_map_never_frees_itself() {
        let mut page = tree_page();
        header::format(&mut page, PAGE, Kind::Space, TreeId(0), TAG);
        space::init(&mut page, ThreadId(1));
        assert!(apply_op(&mut page, &Op::SetBit { bit: 0, used: false }).is_err());
        assert!(apply_op(&mut page, &Op::SetBit { bit: 4096, used: true }).is_err());
        apply_op(&mut page, &Op::SetBit { bit: 4095, used: true }).unwrap();
        assert_eq!(verify_stamped(&page, PAGE, TAG), Ok(()));
    }

    #[test]
    fn a_change_applies_only_to_the_version_that_it_was_made_on() {
        let mut insert = Vec::new();
        Op::Insert { slot: 0, key: b"key", value: b"value" }.encode(&mut insert);
        let at = |version: u64, previous: u64, new: u64, ops: &[u8]| {
            let mut page = tree_page();
            header::stamp(&mut page, Scn(version), Lsn(1), Writer::default());
            let before = page.clone();
            let done = redo(&mut page, &Change { page: PAGE, previous: Scn(previous), ops }, Scn(new), Lsn(2), Writer::default());
            assert_eq!(page != before, done == Ok(Redone::Applied));
            done
        };
        assert_eq!(at(5, 5, 9, &insert), Ok(Redone::Applied));
        assert_eq!(at(9, 5, 9, &insert), Ok(Redone::Skipped));
        assert_eq!(at(10, 5, 9, &insert), Ok(Redone::Skipped));
        // The page's write from 4 to 5 was lost; or redo before this change is missing.
        for version in [0, 4, 6, 8] {
            let fault = ApplyFault::Gap { page: PAGE, found: Scn(version), previous: Scn(5), new: Scn(9) };
            assert_eq!(at(version, 5, 9, &insert), Err(fault));
        }
        // Formatting starts the chain anew, whatever lies there, unless it is newer.
        let page = tree_page();
        let (low, heap) = image(&page);
        let mut format = Vec::new();
        Op::Format { kind: Kind::Tree, tree: TreeId(5), low, heap }.encode(&mut format);
        assert_eq!(at(3, 5, 9, &format), Ok(Redone::Applied));
        assert_eq!(at(9, 5, 9, &format), Ok(Redone::Skipped));
    }

    #[test]
    fn a_page_formatted_from_an_image_holds_the_same() {
        let mut page = tree_page();
        for at in 0..50u8 {
            slotted::insert(&mut page, at.into(), &[at], &[at; 20]).unwrap();
        }
        slotted::delete(&mut page, 7).unwrap();
        let (low, heap) = image(&page);
        let mut copy = tree_page();
        apply_op(&mut copy, &Op::Format { kind: Kind::Tree, tree: TreeId(5), low, heap }).unwrap();
        // What lies between, as old contents left it, isn't carried.
        assert!(image(&copy) == image(&page) && copy[..HEADER] == page[..HEADER]);
    }

    fn any_op() -> impl Strategy<Value = Vec<u8>> {
        let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
        (0u8..10, 0u16..12, bytes(30), bytes(900), any::<bool>()).prop_map(|(which, slot, key, value, flag)| {
            let mut out = Vec::new();
            let (right, high) = (PageId(slot.into()), flag.then_some(&key[..]));
            match which {
                0 => Op::Delete { slot },
                1 => Op::SetValue { slot, value: &value },
                2 => Op::SplitOff { from: slot, right, high },
                3 => Op::Append { key: &key, value: &value },
                4 => Op::SetBounds { right, high },
                5 => Op::SetBit { bit: slot, used: flag },
                7 => Op::Patch { slot, at: key.len() as u16, bytes: &value[..value.len() / 8] },
                6 if flag => Op::Format { kind: Kind::Tree, tree: TreeId(1), low: &key, heap: &value },
                _ => Op::Insert { slot, key: &key, value: &value },
            }
            .encode(&mut out);
            out
        })
    }

    proptest! {
        /// What is refused leaves the page as it was (but for a refused format); what is applied leaves a page that verifies.
        #[test]
        fn every_operation_is_applied_whole_or_not_at_all(ops in prop::collection::vec(any_op(), 1..60)) {
            let mut page = tree_page();
            for bytes in ops {
                let before = page.clone();
                let op = Ops::new(&bytes).next().unwrap().unwrap();
                match apply_op(&mut page, &op) {
                    Ok(()) => {}
                    Err(_) if matches!(op, Op::Format { .. }) => page = before,
                    Err(_) => prop_assert!(page == before),
                }
                prop_assert_eq!(verify_stamped(&page, PAGE, TAG), Ok(()));
            }
        }
    }
}
