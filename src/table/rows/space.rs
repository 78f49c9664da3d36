//! Undo pages and transaction slots: where they are, who uses them, when they are free again.
//!
//! A segment is used by one transaction at a time, so the transactions in its pages ended in the order of the pages. Its first page is taken
//! again when the last transaction in it is behind the horizon, else it gets a new page. The tree UNDO says on disk which pages there are.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::Ordering;

use super::{FIRST_TREE, Loser, RowError, Rows, UNDO};
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
use crate::txn::slot::{SLOTS_PER_PAGE, Slot, SlotState};
use crate::txn::{TxnId, UndoPtr};

/// Slot pages of an instance: so many times [`SLOTS_PER_PAGE`] transactions may have changes under way.
const SLOT_PAGES: u16 = 16;
/// Segments that an instance may have.
const SEGMENTS_MAX: usize = SLOT_PAGES as usize * SLOTS_PER_PAGE;

/// Where a slot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SlotPlace {
    pub(super) page: PageId,
    pub(super) slot: u16,
}

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
    /// Of losers, by segment.
    lost: Vec<Segment>,
}

/// What opening found.
pub(super) struct Found {
    pub(super) next: u64,
    pub(super) free: VecDeque<SlotPlace>,
    pub(super) losers: Vec<(TxnId, Loser)>,
    pub(super) segments: Segments,
    /// No tree has had this number or a higher one; it is written down that those below it may have been given.
    pub(super) next_tree: u32,
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
        if usize::from(self.next) >= SEGMENTS_MAX {
            return None;
        }
        self.next += 1;
        Some(Segment { number: self.next - 1, pages: VecDeque::new() })
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

fn slots_key(thread: ThreadId, number: u16) -> Vec<u8> {
    [&[1][..], &thread.0.to_be_bytes(), &number.to_be_bytes()].concat()
}

fn page_key(thread: ThreadId, segment: u16, sequence: u64) -> Vec<u8> {
    [&[2][..], &thread.0.to_be_bytes(), &segment.to_be_bytes(), &sequence.to_be_bytes()].concat()
}

/// The entry of a tree that is to be dropped.
pub(super) fn drop_key(tree: TreeId) -> Vec<u8> {
    [&[3][..], &tree.0.to_be_bytes()].concat()
}

/// The entry that says below which number trees may have been made.
const TREES_KEY: [u8; 1] = [4];
/// Numbers of trees written down at once.
const TREES_AT_ONCE: u32 = 64;

fn malformed(what: usize) -> TableError {
    damaged(UNDO, PageId::NONE, Damage::DirectoryEntry { slot: 0, key: what, value: 0 })
}

fn number_of(value: &[u8]) -> Result<u64, TableError> {
    value.try_into().map(u64::from_le_bytes).map_err(|_| malformed(value.len()))
}

/// The image of a new page with a slotted body.
fn image_of(kind: Kind, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = vec![0; crate::base::limits::PAGE_SIZE];
    header::format(&mut bytes, PageId(0), kind, UNDO, 0);
    slotted::init(&mut bytes, 0);
    fill(&mut bytes);
    bytes
}

fn format_op(kind: Kind, bytes: &[u8]) -> Op<'_> {
    let (low, heap) = apply::image(bytes);
    Op::Format { kind, tree: UNDO, low, heap }
}

fn put_entry(change: &mut Change<'_>, key: &[u8], value: u64) -> Result<(), TableError> {
    let leaf = change.leaf(UNDO, key, None)?;
    change.put(UNDO, leaf, key, &value.to_le_bytes())
}

fn take_entry(change: &mut Change<'_>, key: &[u8]) -> Result<(), TableError> {
    let leaf = change.leaf(UNDO, key, None)?;
    match slotted::search(change.page(leaf), key) {
        Ok(slot) => change.remove(UNDO, leaf, slot, key),
        Err(_) => Ok(()),
    }
}

/// Reads what there is; makes the tree and the slots at the first opening.
pub(super) async fn open(trees: &Trees) -> Result<Found, RowError> {
    let thread = trees.cache().log().map_err(TableError::from)?.writer().thread;
    let known = trees.trees().await?;
    if !known.iter().any(|(tree, _)| *tree == UNDO) {
        trees.create_tree(UNDO).await?;
    }
    let highest = known.iter().map(|(tree, _)| tree.0).filter(|tree| *tree < UNDO.0).max().unwrap_or(0);
    let mut found = Found {
        next: 1,
        free: VecDeque::new(),
        losers: Vec::new(),
        segments: Segments::default(),
        next_tree: highest.max(FIRST_TREE.0 - 1) + 1,
        condemned: Vec::new(),
    };
    let mut pages = entries(trees, &slots_key(thread, 0)[..3]).await?;
    if pages.is_empty() {
        make_slots(trees, thread).await?;
        pages = entries(trees, &slots_key(thread, 0)[..3]).await?;
    }
    let mut slots = Vec::new();
    for (_, page) in pages {
        read_slots(trees, PageId(page), &mut slots).await?;
    }
    slots.sort_unstable_by_key(|(slot, _)| slot.txn);
    for (slot, place) in &slots {
        found.next = found.next.max(slot.txn.number() + 1);
        match slot.state {
            SlotState::Active => found.losers.push((slot.txn, Loser { slot: *place, first: slot.first })),
            SlotState::Free | SlotState::Committed | SlotState::RolledBack => found.free.push_back(*place),
        }
    }
    read_segments(trees, thread, &mut found).await?;
    for (key, number) in entries(trees, &TREES_KEY).await? {
        // A loser may still have a record of a tree that isn't there.
        found.next_tree = found.next_tree.max(u32::try_from(number).map_err(|_| malformed(key.len()))?);
    }
    for (key, txn) in entries(trees, &[3]).await? {
        let tree = key.get(1..).and_then(|tree| tree.try_into().ok()).map(u32::from_be_bytes).ok_or(malformed(key.len()))?;
        found.next_tree = found.next_tree.max(tree + 1);
        // Of a rollback the entry would be gone before its slot was.
        if !found.losers.iter().any(|(loser, _)| loser.0 == txn) {
            found.condemned.push(TreeId(tree));
        }
    }
    Ok(found)
}

async fn read_segments(trees: &Trees, thread: ThreadId, found: &mut Found) -> Result<(), RowError> {
    let mut segments: BTreeMap<u16, Segment> = BTreeMap::new();
    for (key, page) in entries(trees, &page_key(thread, 0, 0)[..3]).await? {
        let (Some(number), Some(sequence)) = (key.get(3..5), key.get(5..13)) else { return Err(malformed(key.len()).into()) };
        let number = u16::from_be_bytes([number[0], number[1]]);
        let sequence = sequence.try_into().map(u64::from_be_bytes).map_err(|_| malformed(key.len()))?;
        let segment = segments.entry(number).or_insert_with(|| Segment { number, pages: VecDeque::new() });
        segment.pages.push_back(UndoPage { sequence, page: PageId(page), ended: Some(Scn(0)) });
    }
    found.segments.next = segments.last_key_value().map_or(0, |(number, _)| number + 1);
    for segment in segments.into_values() {
        let lost = found.losers.iter().any(|(_, loser)| segment.pages.iter().any(|page| page.page == loser.first.page));
        if lost { &mut found.segments.lost } else { &mut found.segments.free }.push(segment);
    }
    Ok(())
}

/// Entries of UNDO whose key begins with `prefix`.
async fn entries(trees: &Trees, prefix: &[u8]) -> Result<Vec<(Vec<u8>, u64)>, RowError> {
    let mut found = Vec::new();
    let mut bad = None;
    let range = (Bound::Included(prefix), Bound::Unbounded);
    let visit = |key: &[u8], value: &[u8]| {
        if !key.starts_with(prefix) {
            return std::ops::ControlFlow::Break(());
        }
        match number_of(value) {
            Ok(number) => found.push((key.to_vec(), number)),
            Err(error) => bad = Some(error),
        }
        std::ops::ControlFlow::Continue(())
    };
    trees.scan(UNDO, range, Direction::Up, visit).await?;
    bad.map_or(Ok(found), |error| Err(error.into()))
}

async fn make_slots(trees: &Trees, thread: ThreadId) -> Result<(), RowError> {
    let free = Slot::FREE.encode();
    let image = image_of(Kind::Slots, |page| {
        for slot in 0..SLOTS_PER_PAGE {
            slotted::insert(page, slot, &[], &free).expect("a page has room for its slots");
        }
    });
    for number in 0..SLOT_PAGES {
        let make = |change: &mut Change<'_>| {
            let page = change.allocate(None)?;
            change.apply(page, format_op(Kind::Slots, &image))?;
            put_entry(change, &slots_key(thread, number), page.0)
        };
        trees.change(Footprint::Path, SPLIT_BYTES, make).await?;
    }
    Ok(())
}

async fn read_slots(trees: &Trees, page: PageId, slots: &mut Vec<(Slot, SlotPlace)>) -> Result<(), RowError> {
    let cache = trees.cache();
    let bytes = cache.run(Footprint::Path, || Ok::<_, TableError>(cache.read(page)?.to_vec())).await?;
    need_kind(&bytes, page, Kind::Slots)?;
    for slot in 0..slotted::count(&bytes) {
        let read = Slot::decode(slotted::value(&bytes, slot)).map_err(|fault| RowError::Slot { fault })?;
        slots.push((read, SlotPlace { page, slot: slot as u16 }));
    }
    Ok(())
}

/// Whether `bytes`, which is `page`, is of the kind that its place in UNDO says.
pub(super) fn need_kind(bytes: &[u8], page: PageId, kind: Kind) -> Result<(), TableError> {
    let found = header::of(bytes).kind;
    if found == kind as u8 { Ok(()) } else { Err(damaged(UNDO, page, Damage::Kind { found })) }
}

impl Rows {
    /// Gives `segment` a page to write: its first one if nobody needs it any more, else a new one.
    pub(super) async fn extend(&self, segment: &mut Segment) -> Result<(), RowError> {
        let (trees, thread) = (&self.shared.trees, self.shared.thread);
        let horizon = self.shared.book.horizon();
        let over = self.shared.undo_pages.load(Ordering::Relaxed) >= self.shared.undo_pages_max;
        let first = segment.pages.front().copied();
        let reused = first.filter(|first| segment.pages.len() > 1 && first.ended.is_some_and(|ended| ended <= horizon || over));
        let sequence = segment.tail_sequence() + 1;
        let (old, new) = (reused.map(|page| page_key(thread, segment.number, page.sequence)), page_key(thread, segment.number, sequence));
        let image = image_of(Kind::Undo, |_| ());
        let mut taken = PageId::NONE;
        let make = |change: &mut Change<'_>| {
            taken = match reused {
                Some(page) => page.page,
                None => change.allocate(segment.tail())?,
            };
            change.latch_fresh(taken)?;
            change.apply(taken, format_op(Kind::Undo, &image))?;
            if let Some(old) = &old {
                take_entry(change, old)?;
            }
            put_entry(change, &new, taken.0)
        };
        trees.change(Footprint::Path, SPLIT_BYTES, make).await?;
        match reused {
            Some(_) => drop(segment.pages.pop_front()),
            None => drop(self.shared.undo_pages.fetch_add(1, Ordering::Relaxed)),
        }
        segment.pages.push_back(UndoPage { sequence, page: taken, ended: None });
        Ok(())
    }

    /// A number that no tree ever had: undo records of trees that are gone, or never came to be, would meet another one under it.
    pub(super) async fn new_tree(&self) -> Result<TreeId, RowError> {
        let number = self.shared.next_tree.fetch_add(1, Ordering::Relaxed);
        if number >= self.shared.trees_noted.load(Ordering::Acquire) {
            let until = number.saturating_add(TREES_AT_ONCE);
            let note = |change: &mut Change<'_>| {
                let leaf = change.leaf(UNDO, &TREES_KEY, None)?;
                let noted = slotted::search(change.page(leaf), &TREES_KEY)
                    .map_or(Ok(0), |slot| number_of(slotted::value(change.page(leaf), slot)))?;
                if noted < until.into() { change.put(UNDO, leaf, &TREES_KEY, &u64::from(until).to_le_bytes()) } else { Ok(()) }
            };
            self.shared.trees.change(Footprint::Path, SPLIT_BYTES, note).await?;
            self.shared.trees_noted.fetch_max(until, Ordering::AcqRel);
        }
        Ok(TreeId(number))
    }

    /// Notes that `tree` is to be dropped when `txn` commits, or that it isn't any more.
    pub(super) async fn condemn(&self, tree: TreeId, by: Option<TxnId>) -> Result<(), RowError> {
        let key = drop_key(tree);
        let note = |change: &mut Change<'_>| match by {
            Some(txn) => put_entry(change, &key, txn.0),
            None => take_entry(change, &key),
        };
        self.shared.trees.change(Footprint::Path, SPLIT_BYTES, note).await?;
        Ok(())
    }

    /// Writes a slot and queues the transaction's end in the same order as the log's; what it holds is handed over at that moment. Returns
    /// both places.
    pub(super) async fn end_slot(
        &self,
        place: Option<SlotPlace>,
        slot: Slot,
        live: Option<std::sync::Arc<crate::txn::book::Live>>,
        mut hand_over: impl FnMut() -> Option<super::Held>,
    ) -> Result<(Scn, crate::base::Lsn), RowError> {
        let cache = self.shared.trees.cache();
        let committed = slot.state == SlotState::Committed;
        let once = || {
            let mut group = match place {
                Some(place) => {
                    let mut group = cache.begin(256)?;
                    group.latch(place.page)?;
                    Some((group, place))
                }
                None => None,
            };
            let append = |scn| match group.take() {
                None => Ok::<_, RowError>(crate::base::Lsn(0)),
                Some((mut group, place)) => {
                    let value = Slot { scn, ..slot }.encode();
                    group.apply(place.page, Op::SetValue { slot: place.slot, value: &value })?;
                    Ok(group.commit()?.end)
                }
            };
            let ending = |scn, end| {
                let held = hand_over().expect("an end is queued once");
                crate::txn::book::Ending { live: live.clone(), txn: slot.txn, scn, committed, end, held }
            };
            self.shared.book.queue(ending, append)
        };
        cache.run(Footprint::Path, once).await
    }
}

/// The pages that UNDO names, for the structure check: kind and page.
pub(in crate::table) async fn pages(trees: &Trees) -> Result<Vec<(Kind, PageId)>, TableError> {
    let unwrap = |error| match error {
        RowError::Table(error) => error,
        _ => malformed(0),
    };
    let mut found = Vec::new();
    match trees.trees().await {
        Ok(known) if !known.iter().any(|(tree, _)| *tree == UNDO) => return Ok(found),
        other => drop(other?),
    }
    for (prefix, kind) in [(1u8, Kind::Slots), (2, Kind::Undo)] {
        found.extend(entries(trees, &[prefix]).await.map_err(unwrap)?.into_iter().map(|(_, page)| (kind, PageId(page))));
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
            owned(at, slotted::key(&page, slot), slotted::value(&page, slot)).map(|record| Some(record).filter(|record| record.txn == txn))
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
            need_kind(&bytes, page, Kind::Undo)?;
            let mut found = Vec::new();
            for slot in usize::from(from)..slotted::count(&bytes) {
                let at = UndoPtr { page, slot: slot as u16 };
                let record = owned(at, slotted::key(&bytes, slot), slotted::value(&bytes, slot))?;
                if record.txn == txn {
                    found.push(record);
                }
            }
            Ok(found)
        };
        cache.run(Footprint::Path, once).await
    }
}

fn owned(at: UndoPtr, key: &[u8], value: &[u8]) -> Result<OwnedRecord, RowError> {
    use crate::txn::undo::{Action, Record};
    let record = Record::decode(key, value).map_err(|fault| RowError::Damaged { tree: UNDO, fault })?;
    let action = match record.action {
        Action::Row { key, before } => OwnedAction::Row { key: key.to_vec(), before: before.map(<[u8]>::to_vec) },
        Action::MadeTree => OwnedAction::MadeTree,
        Action::DropTree => OwnedAction::DropTree,
    };
    Ok(OwnedRecord { at, txn: record.txn, previous: record.previous, tree: record.tree, action })
}
