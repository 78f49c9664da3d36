//! Undo pages: where they are, who uses them, when they are free again; and numbers of trees.
//!
//! A segment is used by one transaction at a time, so the transactions in its pages ended in the order of the pages. Its first page is taken
//! again when the last transaction in it is behind the horizon, else it gets a new page. The tree UNDO of the thread says on disk which pages there are;
//! nobody but its instance changes it. What all instances share is in the tree COMMON.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::Ordering;

use super::slots::Own;
use super::{COMMON, FIRST_TREE, RowError, Rows, undo_tree};
use crate::base::limits::THREADS_MAX;
use crate::base::{PageId, Scn, ThreadId, TreeId};
use crate::cache::CacheError;
use crate::cache::wait::Footprint;
use crate::page::header::{self, Kind};
use crate::page::slotted;
use crate::redo::apply;
use crate::redo::record::Op;
use crate::table::change::Change;
use crate::table::error::{Damage, TableError};
use crate::table::node::damaged;
use crate::table::{Direction, SPLIT_BYTES, Trees};
use crate::txn::slot::Slot;
use crate::txn::{TxnId, UndoPtr};

/// First byte of the keys in UNDO that name undo pages.
const UNDO_PAGE: u8 = 2;
/// First byte of the keys in UNDO of trees to be dropped.
const DROP: u8 = 3;

/// A page of a segment.
#[derive(Clone, Copy, Debug)]
struct UndoPage {
    sequence: u64,
    page: PageId,
    /// When the last transaction in it ended; nothing while it is under way.
    ended: Option<Scn>,
}

/// A list of undo pages; the last one is written.
#[derive(Debug)]
pub(super) struct Segment {
    number: u16,
    pages: VecDeque<UndoPage>,
}

/// All segments that nobody uses, and how many there are.
#[derive(Debug, Default)]
pub(super) struct Segments {
    free: Vec<Segment>,
    next: u16,
    /// As many as transactions with changes may be under way.
    max: usize,
    /// Of losers, by segment.
    lost: Vec<Segment>,
}

/// What opening found.
pub(super) struct Found {
    pub(super) own: Own,
    pub(super) segments: Segments,
    /// Trees whose drop was committed.
    pub(super) condemned: Vec<TreeId>,
}

impl Segment {
    /// Sequence of the page that is written.
    pub(super) fn tail_sequence(&self) -> u64 {
        self.pages.back().map_or(0, |page| page.sequence)
    }

    /// The page that is written; none in a new segment.
    pub(super) fn tail(&self) -> Option<PageId> {
        self.pages.back().map(|page| page.page)
    }

    /// A transaction begins to use it.
    pub(super) fn begin(&mut self) {
        if let Some(tail) = self.pages.back_mut() {
            tail.ended = None;
        }
    }
}

impl Segments {
    pub(super) fn pages(&self) -> u64 {
        self.free.iter().chain(&self.lost).map(|segment| segment.pages.len() as u64).sum()
    }

    /// A segment for a transaction.
    pub(super) fn take(&mut self) -> Option<Segment> {
        // The one used last: its pages are in memory.
        if let Some(segment) = self.free.pop() {
            return Some(segment);
        }
        if usize::from(self.next) >= self.max {
            return None;
        }
        self.next += 1;
        Some(Segment { number: self.next - 1, pages: VecDeque::new() })
    }

    /// A segment that was taken wasn't used.
    pub(super) fn put_back(&mut self, segment: Segment) {
        self.free.push(segment);
    }

    /// A transaction that wrote the pages from sequence `from` on has ended.
    pub(super) fn give_back(&mut self, mut segment: Segment, from: u64, ended: Scn) {
        segment.pages.iter_mut().filter(|page| page.sequence >= from).for_each(|page| page.ended = Some(ended));
        self.free.push(segment);
    }

    /// The pages of a loser from the one with its first record on, in order.
    pub(super) fn of_loser(&self, first: PageId) -> Option<Vec<PageId>> {
        let segment = self.lost.iter().find(|segment| segment.pages.iter().any(|page| page.page == first))?;
        Some(segment.pages.iter().map(|page| page.page).skip_while(|page| *page != first).collect())
    }

    /// A loser has been undone: its segment is free.
    pub(super) fn loser_ended(&mut self, first: PageId, ended: Scn) {
        if let Some(at) = self.lost.iter().position(|segment| segment.pages.iter().any(|page| page.page == first)) {
            let mut segment = self.lost.swap_remove(at);
            segment.pages.iter_mut().for_each(|page| page.ended = Some(ended));
            self.free.push(segment);
        }
    }
}

fn page_key(segment: u16, sequence: u64) -> Vec<u8> {
    [&[UNDO_PAGE][..], &segment.to_be_bytes(), &sequence.to_be_bytes()].concat()
}

/// The entry of a tree that is to be dropped.
fn drop_key(tree: TreeId) -> Vec<u8> {
    [&[DROP][..], &tree.0.to_be_bytes()].concat()
}

pub(super) fn malformed(tree: TreeId, what: usize) -> TableError {
    damaged(tree, PageId::NONE, Damage::DirectoryEntry { slot: 0, key: what, value: 0 })
}

/// Key in COMMON of the number that the next tree gets.
const NEXT_TREE: [u8; 1] = [1];

fn number_of(tree: TreeId, value: &[u8]) -> Result<u64, TableError> {
    value.try_into().map(u64::from_le_bytes).map_err(|_| malformed(tree, value.len()))
}

/// The image of a new page with a slotted body.
pub(super) fn image_of(tree: TreeId, kind: Kind, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = vec![0; crate::base::limits::PAGE_SIZE];
    header::format(&mut bytes, PageId(0), kind, tree, 0);
    slotted::init(&mut bytes, 0);
    fill(&mut bytes);
    bytes
}

pub(super) fn format_op(tree: TreeId, kind: Kind, bytes: &[u8]) -> Op<'_> {
    let (low, heap) = apply::image(bytes);
    Op::Format { kind, tree, low, heap }
}

pub(super) fn put_entry(change: &mut Change<'_>, tree: TreeId, key: &[u8], value: u64) -> Result<(), TableError> {
    let leaf = change.leaf(tree, key, None)?;
    change.put(tree, leaf, key, &value.to_le_bytes())
}

fn take_entry(change: &mut Change<'_>, tree: TreeId, key: &[u8]) -> Result<(), TableError> {
    let leaf = change.leaf(tree, key, None)?;
    match slotted::search(change.page(leaf), key) {
        Ok(slot) => change.remove(tree, leaf, slot, key),
        Err(_) => Ok(()),
    }
}

/// Reads what there is of the own thread; makes its tree and `slot_pages` pages of slots at the first opening.
pub(super) async fn open(trees: &Trees, thread: ThreadId, now: Scn, slot_pages: u16) -> Result<Found, RowError> {
    let (known, tree) = (trees.trees().await?, undo_tree(thread));
    for needed in [COMMON, tree] {
        if !known.iter().any(|(tree, _)| *tree == needed) {
            match trees.create_tree(needed).await {
                // Another instance was faster.
                Ok(_) | Err(TableError::TreeExists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let own = super::slots::open(trees, thread, slot_pages).await?;
    let mut segments = read_segments(trees, tree, &own, now).await?;
    segments.max = own.slots.count();
    let mut condemned = Vec::new();
    for (key, txn) in entries(trees, tree, &[DROP]).await? {
        let dropped = key.get(1..).and_then(|key| key.try_into().ok()).map(u32::from_be_bytes).ok_or(malformed(tree, key.len()))?;
        // Of a rollback the entry would be gone before its slot was.
        if !own.losers.iter().any(|(loser, _)| loser.0 == txn) {
            condemned.push(TreeId(dropped));
        }
    }
    Ok(Found { own, segments, condemned })
}

async fn read_segments(trees: &Trees, tree: TreeId, own: &Own, now: Scn) -> Result<Segments, RowError> {
    let mut segments: BTreeMap<u16, Segment> = BTreeMap::new();
    for (key, page) in entries(trees, tree, &[UNDO_PAGE]).await? {
        let (Some(number), Some(sequence)) = (key.get(1..3), key.get(3..11)) else { return Err(malformed(tree, key.len()).into()) };
        let number = u16::from_be_bytes([number[0], number[1]]);
        let sequence = sequence.try_into().map(u64::from_be_bytes).map_err(|_| malformed(tree, key.len()))?;
        let segment = segments.entry(number).or_insert_with(|| Segment { number, pages: VecDeque::new() });
        // When exactly isn't known any more; another instance may have a snapshot that needs it.
        segment.pages.push_back(UndoPage { sequence, page: PageId(page), ended: Some(now) });
    }
    let mut found = Segments { next: segments.last_key_value().map_or(0, |(number, _)| number + 1), ..Segments::default() };
    for segment in segments.into_values() {
        let lost = own.losers.iter().any(|(_, loser)| segment.pages.iter().any(|page| page.page == loser.first.page));
        if lost { &mut found.lost } else { &mut found.free }.push(segment);
    }
    Ok(found)
}

impl Rows {
    /// A number that no tree ever had, whichever instance made it, also if the one that gets it is dropped. The number is read and counted on in one group, with
    /// the entry's page held exclusively: so none is given twice.
    pub(super) async fn new_tree_number(&self) -> Result<TreeId, RowError> {
        let mut given = FIRST_TREE;
        let count = |change: &mut Change<'_>| {
            let leaf = change.leaf(COMMON, &NEXT_TREE, None)?;
            let next = match slotted::search(change.page(leaf), &NEXT_TREE) {
                Ok(slot) => number_of(COMMON, slotted::value(change.page(leaf), slot))?,
                Err(_) => u64::from(FIRST_TREE.0),
            };
            given = u32::try_from(next).map(TreeId).map_err(|_| malformed(COMMON, NEXT_TREE.len()))?;
            if given >= undo_tree(ThreadId(THREADS_MAX)) {
                return Err(TableError::ReservedTree { tree: given });
            }
            change.put(COMMON, leaf, &NEXT_TREE, &(next + 1).to_le_bytes())
        };
        self.shared.trees.change(Footprint::Path, SPLIT_BYTES, count).await?;
        Ok(given)
    }
}

/// Entries of `tree` whose key begins with `prefix`.
pub(super) async fn entries(trees: &Trees, tree: TreeId, prefix: &[u8]) -> Result<Vec<(Vec<u8>, u64)>, RowError> {
    let mut found = Vec::new();
    let mut bad = None;
    let range = (Bound::Included(prefix), Bound::Unbounded);
    let visit = |key: &[u8], value: &[u8]| {
        if !key.starts_with(prefix) {
            return std::ops::ControlFlow::Break(());
        }
        match number_of(tree, value) {
            Ok(number) => found.push((key.to_vec(), number)),
            Err(error) => bad = Some(error),
        }
        std::ops::ControlFlow::Continue(())
    };
    trees.scan(tree, range, Direction::Up, visit).await?;
    bad.map_or(Ok(found), |error| Err(error.into()))
}

/// Whether `bytes`, which is `page`, is of the kind that its place in `tree` says.
pub(super) fn need_kind(bytes: &[u8], tree: TreeId, page: PageId, kind: Kind) -> Result<(), TableError> {
    let found = header::of(bytes).kind;
    if found == kind as u8 { Ok(()) } else { Err(damaged(tree, page, Damage::Kind { found })) }
}

impl Rows {
    /// Gives `segment` a page to write: its first one if nobody needs it any more, else a new one.
    pub(super) async fn extend(&self, segment: &mut Segment) -> Result<(), RowError> {
        let (trees, tree) = (&self.shared.trees, undo_tree(self.shared.thread));
        let horizon = self.horizon();
        let over = self.shared.undo_pages.load(Ordering::Relaxed) >= self.shared.undo_pages_max;
        let first = segment.pages.front().copied();
        let reused = first.filter(|first| segment.pages.len() > 1 && first.ended.is_some_and(|ended| ended <= horizon || over));
        let sequence = segment.tail_sequence() + 1;
        let (old, new) = (reused.map(|page| page_key(segment.number, page.sequence)), page_key(segment.number, sequence));
        let image = image_of(tree, Kind::Undo, |_| ());
        let mut taken = PageId::NONE;
        let make = |change: &mut Change<'_>| {
            taken = match reused {
                Some(page) => page.page,
                None => change.allocate(segment.tail())?,
            };
            change.latch_fresh(taken)?;
            change.apply(taken, format_op(tree, Kind::Undo, &image))?;
            if let Some(old) = &old {
                take_entry(change, tree, old)?;
            }
            put_entry(change, tree, &new, taken.0)
        };
        trees.change(Footprint::Path, SPLIT_BYTES, make).await?;
        match reused {
            Some(_) => drop(segment.pages.pop_front()),
            None => drop(self.shared.undo_pages.fetch_add(1, Ordering::Relaxed)),
        }
        segment.pages.push_back(UndoPage { sequence, page: taken, ended: None });
        Ok(())
    }

    /// Notes that `tree` is to be dropped when `txn` commits, or that it isn't any more.
    pub(super) async fn condemn(&self, tree: TreeId, by: Option<TxnId>) -> Result<(), RowError> {
        let (key, undo) = (drop_key(tree), undo_tree(self.shared.thread));
        let note = |change: &mut Change<'_>| match by {
            Some(txn) => put_entry(change, undo, &key, txn.0),
            None => take_entry(change, undo, &key),
        };
        self.shared.trees.change(Footprint::Path, SPLIT_BYTES, note).await?;
        Ok(())
    }
}

/// The pages that `tree`, which is some thread's UNDO, names, for the structure check: kind and page.
pub(in crate::table) async fn pages(trees: &Trees, tree: TreeId) -> Result<Vec<(Kind, PageId)>, TableError> {
    let mut found = Vec::new();
    for (prefix, kind) in [(1u8, Kind::Slots), (UNDO_PAGE, Kind::Undo)] {
        match entries(trees, tree, &[prefix]).await {
            Ok(entries) => found.extend(entries.into_iter().map(|(_, page)| (kind, PageId(page)))),
            Err(RowError::Table(error)) => return Err(error),
            Err(_) => return Err(malformed(tree, 0)),
        }
    }
    Ok(found)
}

/// The undo record at `at`, owned, if it is one of `txn`.
pub(super) struct OwnedRecord {
    pub(super) at: UndoPtr,
    pub(super) txn: TxnId,
    pub(super) previous: UndoPtr,
    pub(super) tree: TreeId,
    pub(super) action: OwnedAction,
}

/// [`crate::txn::undo::Action`], owned.
pub(super) enum OwnedAction {
    Row { key: Vec<u8>, before: Option<Vec<u8>> },
    MadeTree,
    DropTree,
    TookSlot(Slot),
}

impl Rows {
    /// Reads the record at `at`; nothing when another transaction's is there, or none.
    pub(super) async fn record(&self, at: UndoPtr, txn: TxnId) -> Result<Option<OwnedRecord>, RowError> {
        let cache = self.shared.trees.cache();
        let once = || {
            let page = cache.read(at.page)?;
            let slot = usize::from(at.slot);
            if header::of(&page).kind != Kind::Undo as u8 || slot >= slotted::count(&page) {
                return Ok(None);
            }
            let tree = header::of(&page).tree();
            owned(tree, at, slotted::key(&page, slot), slotted::value(&page, slot))
                .map(|record| Some(record).filter(|record| record.txn == txn))
        };
        match cache.run(Footprint::Path, once).await {
            // A page that was given back and never used again.
            Err(RowError::Table(TableError::Cache(CacheError::Page(crate::page::PageFault::Blank { .. })))) => Ok(None),
            other => other,
        }
    }

    /// The records of `txn` in `page` from slot `from` on, in order.
    pub(super) async fn records(&self, page: PageId, txn: TxnId, from: u16) -> Result<Vec<OwnedRecord>, RowError> {
        let cache = self.shared.trees.cache();
        let once = || {
            let bytes = cache.read(page)?;
            need_kind(&bytes, undo_tree(txn.thread()), page, Kind::Undo)?;
            let mut found = Vec::new();
            for slot in usize::from(from)..slotted::count(&bytes) {
                let at = UndoPtr { page, slot: slot as u16 };
                let record = owned(header::of(&bytes).tree(), at, slotted::key(&bytes, slot), slotted::value(&bytes, slot))?;
                if record.txn == txn {
                    found.push(record);
                }
            }
            Ok(found)
        };
        cache.run(Footprint::Path, once).await
    }
}

fn owned(tree: TreeId, at: UndoPtr, key: &[u8], value: &[u8]) -> Result<OwnedRecord, RowError> {
    use crate::txn::undo::{Action, Record};
    let record = Record::decode(key, value).map_err(|fault| RowError::Damaged { tree, fault })?;
    let action = match record.action {
        Action::Row { key, before } => OwnedAction::Row { key: key.to_vec(), before: before.map(<[u8]>::to_vec) },
        Action::MadeTree => OwnedAction::MadeTree,
        Action::DropTree => OwnedAction::DropTree,
        Action::TookSlot(was) => OwnedAction::TookSlot(was),
    };
    Ok(OwnedRecord { at, txn: record.txn, previous: record.previous, tree: record.tree, action })
}
