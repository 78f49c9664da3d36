//! Transaction slots: where they are, how they are taken and ended, and what they say of transactions that the book doesn't know.
//!
//! Number n of a thread has slot n modulo the number of its slots, on pages that its UNDO names and that never move: so any instance finds
//! the slot of any row's transaction, and judges it from the disk ([`Rows::judge`]). What is remembered here is final only: numbers that had ended before
//! every snapshot there is or will be. Callers: `read`, `write`, `janitor`. Protocol: `docs/protocols/transactions.md`, "Several instances".

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::space::{OwnedAction, entries, format_op, image_of, malformed, need_kind, put_entry};
use super::write::Writes;
use super::{Held, Loser, RowError, Rows, undo_tree};
use crate::base::limits::THREADS_MAX;
use crate::base::{Lsn, PageId, Scn, ThreadId, TreeId};
use crate::cache::wait::Footprint;
use crate::page::header::Kind;
use crate::page::slotted;
use crate::redo::record::Op;
use crate::table::change::Change;
use crate::table::error::{Damage, TableError};
use crate::table::node::damaged;
use crate::table::{SPLIT_BYTES, Trees};
use crate::txn::book::{Ending, Live};
use crate::txn::slot::{Judged, SLOTS_PER_PAGE, Slot, SlotFault, SlotState};
use crate::txn::{TxnId, UndoPtr};

/// First byte of the keys in UNDO that name slot pages.
const SLOT_PAGE: u8 = 1;

/// Where a slot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SlotPlace {
    pub(super) page: PageId,
    pub(super) slot: u16,
}

/// The slots of one thread.
#[derive(Debug)]
pub(super) struct Slots {
    thread: ThreadId,
    pages: Box<[PageId]>,
    /// Per slot: all its numbers up to this one had ended before every snapshot. Only grows.
    settled: Box<[AtomicU64]>,
}

/// The slots of all threads, as far as somebody has asked for them.
#[derive(Debug)]
pub(super) struct Threads {
    slots: Box<[OnceLock<Arc<Slots>>]>,
}

/// What the own slots said at the opening.
pub(super) struct Own {
    pub(super) slots: Arc<Slots>,
    /// No transaction has had this number or a higher one.
    pub(super) next: u64,
    pub(super) losers: Vec<(TxnId, Loser)>,
}

impl Slots {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.settled.len()
    }

    fn index(&self, number: u64) -> usize {
        (number % self.count() as u64) as usize
    }

    /// Where the slot of `number` is.
    pub(super) fn place(&self, number: u64) -> SlotPlace {
        let index = self.index(number);
        SlotPlace { page: self.pages[index / SLOTS_PER_PAGE], slot: (index % SLOTS_PER_PAGE) as u16 }
    }

    fn is_settled(&self, number: u64) -> bool {
        number <= self.settled[self.index(number)].load(Ordering::Acquire)
    }

    /// Reads a slot out of its page.
    fn read(&self, bytes: &[u8], place: SlotPlace) -> Result<Slot, RowError> {
        let (thread, tree, at) = (self.thread, undo_tree(self.thread), usize::from(place.slot));
        need_kind(bytes, tree, place.page, Kind::Slots)?;
        if slotted::count(bytes) != SLOTS_PER_PAGE {
            return Err(damaged(tree, place.page, Damage::Slot { found: slotted::count(bytes) as u64 }).into());
        }
        let slot = Slot::decode(slotted::value(bytes, at)).map_err(|fault| RowError::Slot { thread, fault })?;
        let has_its_place = slot.txn.thread() == thread && self.place(slot.txn.number()) == place;
        if slot.state != SlotState::Free && !has_its_place {
            return Err(RowError::Slot { thread, fault: SlotFault { what: "transaction", found: slot.txn.0 } });
        }
        Ok(slot)
    }
}

impl Threads {
    /// Those of `own` are known.
    pub(super) fn new(own: Arc<Slots>) -> Threads {
        let slots: Box<[OnceLock<Arc<Slots>>]> = (0..=THREADS_MAX).map(|_| OnceLock::new()).collect();
        let at = usize::from(own.thread.0);
        slots[at].get_or_init(|| own);
        Threads { slots }
    }

    /// Whether `txn` ended before every snapshot, by what is quickly known. A row that names it was committed then.
    #[inline]
    pub(super) fn is_settled(&self, txn: TxnId) -> bool {
        let slots = self.slots.get(usize::from(txn.thread().0)).and_then(OnceLock::get);
        slots.is_some_and(|slots| slots.is_settled(txn.number()))
    }
}

fn slots_key(number: u16) -> Vec<u8> {
    [&[SLOT_PAGE][..], &number.to_be_bytes()].concat()
}

/// Makes the slots of a thread that has none, all at once: their number stays.
async fn make(trees: &Trees, tree: TreeId, pages: u16) -> Result<(), RowError> {
    let free = Slot::FREE.encode();
    let image = image_of(tree, Kind::Slots, |page| {
        for slot in 0..SLOTS_PER_PAGE {
            slotted::insert(page, slot, &[], &free).expect("a page has room for its slots");
        }
    });
    let make = |change: &mut Change<'_>| {
        for number in 0..pages {
            let page = change.allocate(None)?;
            change.apply(page, format_op(tree, Kind::Slots, &image))?;
            put_entry(change, tree, &slots_key(number), page.0)?;
        }
        Ok(())
    };
    let bytes = SPLIT_BYTES + usize::from(pages) * crate::base::limits::PAGE_SIZE;
    trees.change(Footprint::Group, bytes, make).await?;
    Ok(())
}

/// Finds the slots of `thread`; none when it was never opened.
async fn find(trees: &Trees, thread: ThreadId) -> Result<Option<Slots>, RowError> {
    let tree = undo_tree(thread);
    let entries = match entries(trees, tree, &[SLOT_PAGE]).await {
        Err(RowError::Table(TableError::UnknownTree { .. })) => return Ok(None),
        other => other?,
    };
    let mut pages = Vec::new();
    for (key, page) in entries {
        if key != slots_key(pages.len() as u16) {
            return Err(malformed(tree, key.len()).into());
        }
        pages.push(PageId(page));
    }
    let settled = (0..pages.len() * SLOTS_PER_PAGE).map(|_| AtomicU64::new(0)).collect();
    Ok((!pages.is_empty()).then(|| Slots { thread, pages: pages.into(), settled }))
}

/// Reads the own slots; makes `pages` pages of them at the first opening.
pub(super) async fn open(trees: &Trees, thread: ThreadId, pages: u16) -> Result<Own, RowError> {
    let slots = match find(trees, thread).await? {
        Some(slots) => slots,
        None => {
            make(trees, undo_tree(thread), pages).await?;
            find(trees, thread).await?.ok_or_else(|| malformed(undo_tree(thread), 0))?
        }
    };
    let cache = trees.cache();
    let mut own = Own { slots: Arc::new(slots), next: 1, losers: Vec::new() };
    for page in &own.slots.pages {
        let bytes = cache.run(Footprint::Path, || Ok::<_, TableError>(cache.read(*page)?.to_vec())).await?;
        for slot in 0..SLOTS_PER_PAGE as u16 {
            let place = SlotPlace { page: *page, slot };
            let found = own.slots.read(&bytes, place)?;
            own.next = own.next.max(found.txn.number() + 1);
            if found.state == SlotState::Active {
                own.losers.push((found.txn, Loser { slot: place, first: found.first }));
            }
        }
    }
    own.losers.sort_unstable_by_key(|(txn, _)| *txn);
    Ok(own)
}

/// What the slot was that a transaction is about to take; latches its page.
pub(super) fn latch_slot(change: &mut Change<'_>, writes: &Writes) -> Result<Slot, TableError> {
    let (place, tree) = (writes.slot, undo_tree(writes.txn.thread()));
    change.latch(place.page)?;
    let bytes = change.page(place.page);
    need_kind(bytes, tree, place.page, Kind::Slots)?;
    let malformed = |found| damaged(tree, place.page, Damage::Slot { found });
    let cell = (usize::from(place.slot) < slotted::count(bytes)).then(|| slotted::value(bytes, usize::from(place.slot)));
    let was = Slot::decode(cell.ok_or(malformed(u64::from(place.slot)))?).map_err(|fault| malformed(fault.found))?;
    // Taken over, the transaction in it would be lost.
    if was.state == SlotState::Active { Err(malformed(was.txn.0)) } else { Ok(was) }
}

/// Takes the slot, whose page is latched; `first` is the transaction's first record.
pub(super) fn take_slot(change: &mut Change<'_>, writes: &Writes, was: &Slot, first: UndoPtr, earlier: bool) -> Result<(), TableError> {
    let slot = Slot { txn: writes.txn, state: SlotState::Active, scn: Scn(0), before: was.scn, first, earlier };
    change.apply(writes.slot.page, Op::SetValue { slot: writes.slot.slot, value: &slot.encode() })
}

impl Rows {
    /// Writes a transaction's end into its slot and queues it in the same order as the log's; what it holds is handed over at that moment.
    /// Without a place the transaction wrote nothing. Returns both places.
    pub(super) async fn end_slot(
        &self,
        place: Option<SlotPlace>,
        (txn, state): (TxnId, SlotState),
        live: Option<Arc<Live>>,
        mut hand_over: impl FnMut() -> Option<Held>,
    ) -> Result<(Scn, Lsn), RowError> {
        let cache = self.shared.trees.cache();
        let once = || {
            let mut group = match place {
                Some(place) => {
                    let mut group = cache.begin(256)?;
                    group.latch(place.page)?;
                    let slot = self.shared.slots.read(group.page(place.page), place)?;
                    if slot.txn != txn {
                        return Err(RowError::Slot {
                            thread: self.shared.thread,
                            fault: SlotFault { what: "transaction", found: slot.txn.0 },
                        });
                    }
                    Some((group, place, slot))
                }
                None => None,
            };
            // The SCN is drawn with the page held exclusively: above the clocks of all who had to give up their copy (rule 13).
            let append = |scn| match group.take() {
                None => Ok::<_, RowError>(Lsn(0)),
                Some((mut group, place, slot)) => {
                    let value = slot.ended(state, scn).encode();
                    group.apply(place.page, Op::SetValue { slot: place.slot, value: &value })?;
                    Ok(group.commit()?.end)
                }
            };
            let ending = |scn, end| {
                let held = hand_over().expect("an end is queued once");
                Ending { live: live.clone(), txn, scn, committed: state == SlotState::Committed, end, held }
            };
            self.shared.book.queue(ending, append)
        };
        cache.run(Footprint::Path, once).await
    }

    /// Everything that ended up to this is seen alike by all snapshots of all instances.
    pub(super) fn horizon(&self) -> Scn {
        self.shared.book.horizon().min(self.shared.elsewhere.oldest_snapshot())
    }

    /// The slots of `txn`'s thread.
    async fn slots_of(&self, tree: TreeId, txn: TxnId) -> Result<&Arc<Slots>, RowError> {
        let foreign = RowError::Foreign { tree, txn };
        let thread = txn.thread();
        let place = self.shared.threads.slots.get(usize::from(thread.0)).filter(|_| thread.0 > 0).ok_or(foreign.clone())?;
        if let Some(slots) = place.get() {
            return Ok(slots);
        }
        let found = find(&self.shared.trees, thread).await?.ok_or(foreign)?;
        Ok(place.get_or_init(|| Arc::new(found)))
    }

    /// What became of `txn`, which a row of `tree` names, for those who see what ended up to `at`; from the disk alone, whatever its thread. Only to be
    /// believed as said there: a row that names the transaction *after* this was asked, or that was read under a snapshot that sees up to `at`. Judged::Earlier:
    /// what would say it is gone.
    pub(super) async fn judge(&self, tree: TreeId, txn: TxnId, at: Scn) -> Result<Judged, RowError> {
        let slots = self.slots_of(tree, txn).await?;
        let (number, place) = (txn.number(), slots.place(txn.number()));
        let cache = self.shared.trees.cache();
        let mut last = None;
        loop {
            // Before the slot is read: what it says is final for those who see less, too.
            let horizon = self.horizon();
            let slot = cache.run(Footprint::Path, || slots.read(&cache.read(place.page)?, place)).await?;
            slots.settled[slots.index(number)].fetch_max(slot.ended_by(horizon), Ordering::AcqRel);
            let mut entry = slot;
            loop {
                match entry.judge(number, at) {
                    Judged::Earlier if entry.earlier => {}
                    judged => return Ok(judged),
                }
                let record = self.record(entry.first, entry.txn).await?;
                let Some(OwnedAction::TookSlot(was)) = record.map(|record| record.action) else { break };
                entry = was;
            }
            // The record is gone: taken over `undo_bytes_max`, unless the slot has gone on meanwhile.
            if last == Some(slot) {
                return Ok(Judged::Earlier);
            }
            last = Some(slot);
        }
    }
}
