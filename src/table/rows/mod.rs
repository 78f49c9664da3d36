//! Rows under transactions: snapshots, changes with undo, savepoints, rollback of what a crash left.
//!
//! ```text
//! transaction  what callers hold                 undo     applying records: savepoints, rollback, losers
//! write        one change of one row             space    undo pages: found, taken, given back; numbers of trees
//! read         what a snapshot sees              janitor  deletions taken out, trees dropped, in the background
//! slots        what became of whose transaction  load     rows of new trees, without undo
//! ```
//! Callers: `tables`, node. A tree of rows has keys as any tree, and values that begin with a row header ([`crate::txn::undo::RowHeader`]). Protocol:
//! `docs/protocols/transactions.md`; bytes: `docs/formats/undo.md`. Not here: columns, indexes, catalog.

mod error;
mod janitor;
mod load;
mod read;
mod slots;
mod space;
#[cfg(test)]
mod tests;
mod transaction;
mod undo;
mod write;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

pub use error::RowError;
pub(super) use load::frozen_header;
pub use read::Cursor;
pub(in crate::table) use space::pages as undo_pages;
pub use transaction::{Savepoint, Transaction};

use super::Trees;
use crate::base::limits::{INLINE_MAX, THREADS_MAX};
use crate::base::options::{LogMode, Options};
use crate::base::{Lsn, Scn, ThreadId, TreeId};
use crate::redo::LogWriter;
use crate::txn::book::{Book, Ending, Outcome};
use crate::txn::elsewhere::Elsewhere;
use crate::txn::undo::{ROW_HEADER_MAX, RowHeader};
use crate::txn::waits::Waits;
pub use crate::txn::{Interrupt, Isolation, TableLock};
use crate::txn::{TxnId, UndoPtr};
use slots::{SlotPlace, Slots, Threads};
use space::Segment;

/// The tree of what all instances share: the number that the next tree gets.
pub const COMMON: TreeId = TreeId(u32::MAX - 1);
/// Longest key plus value of a row, in bytes.
pub const ROW_MAX: usize = INLINE_MAX - ROW_HEADER_MAX;
/// First number that [`Transaction::create_tree`] gives; those below are for fixed trees.
pub const FIRST_TREE: TreeId = TreeId(1024);

/// Pages of slots that a thread gets: so many times [`crate::txn::slot::SLOTS_PER_PAGE`] transactions may have changes under way.
const SLOT_PAGES: u16 = 16;

/// UNDO of `thread`: the tree that names its undo pages and slot pages. Only its own instance changes it.
pub const fn undo_tree(thread: ThreadId) -> TreeId {
    TreeId(COMMON.0 - thread.0 as u32)
}

/// Whether `tree` is some thread's UNDO.
pub fn is_undo_tree(tree: TreeId) -> bool {
    undo_tree(ThreadId(THREADS_MAX)) <= tree && tree < COMMON
}

/// Names a row's version: unchanged as long as nobody wrote the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Version {
    txn: TxnId,
    undo: UndoPtr,
}

impl Version {
    fn of(header: &RowHeader) -> Version {
        Version { txn: header.txn, undo: header.undo }
    }
}

/// A row as a snapshot sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// Which version this is.
    pub version: Version,
}

/// What became of an insertion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Inserted {
    /// It is there.
    Done,
    /// There is such a row already, committed or this transaction's own: this is its newest version, which the snapshot may not see.
    Exists(Row),
}

/// What became of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Changed {
    /// Done; the row's version now.
    Done(Version),
    /// Someone changed the row since it was seen: in read committed anyone, else only this transaction itself. This is what it is now;
    /// nothing if it is gone. Decide anew.
    Moved(Option<Row>),
}

/// What to do about a row or table that another transaction holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnConflict {
    /// Wait for its end.
    #[default]
    Wait,
    /// [`RowError::LockNotAvailable`] at once.
    NoWait,
}

/// Counts of what transactions did and hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RowsStatus {
    /// Transactions with changes whose ends some snapshot may still tell apart.
    pub transactions: usize,
    /// Snapshots in use.
    pub snapshots: usize,
    /// Transactions that wait for a row or a table.
    pub waiting: usize,
    /// Losers of a crash not yet undone.
    pub losers: usize,
    /// Undo pages.
    pub undo_pages: u64,
    /// Deleted rows not yet taken out.
    pub garbage: usize,
}

/// Rows that are to be taken out: tree and key.
type Deleted = Vec<(TreeId, Vec<u8>)>;

/// What a transaction holds until its end is published.
#[derive(Debug)]
struct Held {
    segment: Option<Segment>,
    /// Sequence of the first undo page that it wrote.
    from: u64,
    garbage: Deleted,
    drops: Vec<TreeId>,
    /// Dropped with it.
    _attachment: Option<transaction::Attachment>,
}

/// A transaction that a crash left unfinished.
#[derive(Clone, Copy, Debug)]
struct Loser {
    slot: SlotPlace,
    first: UndoPtr,
}

struct Shared {
    trees: Trees,
    log: LogWriter,
    thread: ThreadId,
    book: Arc<Book<Held>>,
    waits: Waits,
    elsewhere: Arc<dyn Elsewhere>,
    /// The own ones.
    slots: Arc<Slots>,
    threads: Threads,
    segments: Mutex<space::Segments>,
    undo_pages: AtomicU64,
    undo_pages_max: u64,
    losers: Mutex<BTreeMap<TxnId, Loser>>,
    /// A loser has been undone.
    undone: Notify,
    garbage: Mutex<VecDeque<(Scn, Deleted)>>,
    dropped: Mutex<Vec<TreeId>>,
    /// Background tasks under way, and the word to stop.
    background: Arc<Background>,
}

/// Background tasks of the rows.
#[derive(Default)]
struct Background {
    stop: AtomicBool,
    running: AtomicU64,
    wake: Notify,
    idle: Notify,
}

/// Counts a background task.
struct Running(Arc<Background>);

impl Running {
    fn start(background: &Arc<Background>) -> Running {
        background.running.fetch_add(1, Ordering::AcqRel);
        Running(background.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.background.stop.store(true, Ordering::Release);
        self.background.wake.notify_one();
    }
}

/// The rows of all trees, under transactions. Clones share everything.
#[derive(Clone)]
pub struct Rows {
    shared: Arc<Shared>,
}

impl Rows {
    /// Opens the rows of `trees` for changes: reads the transaction table. What a crash left unfinished is undone in the background; until then
    /// its rows are locked, and undone at once for whoever waits for them. Only the own thread is looked at: what other instances left is theirs, or their
    /// recovery's. The clock must have taken in theirs.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn open(trees: Trees, options: &Options, elsewhere: Arc<dyn Elsewhere>) -> Result<Rows, RowError> {
        let thread = trees.cache().log().map_err(super::TableError::from)?.writer().thread;
        Rows::open_for(trees, thread, options, elsewhere, SLOT_PAGES).await
    }

    /// As [`Rows::open`] for `thread`, which gets so many pages of slots when it is opened for the first time.
    async fn open_for(
        trees: Trees,
        thread: ThreadId,
        options: &Options,
        elsewhere: Arc<dyn Elsewhere>,
        slot_pages: u16,
    ) -> Result<Rows, RowError> {
        let cache = trees.cache().clone();
        let log = cache.log().map_err(super::TableError::from)?.clone();
        let found = space::open(&trees, thread, cache.now(), slot_pages).await?;
        let slots::Own { slots, next, losers } = found.own;
        let losers: BTreeMap<TxnId, Loser> = losers.into_iter().collect();
        let names: Vec<TxnId> = losers.keys().copied().collect();
        let book = Arc::new(Book::new(thread, cache.shared.clock.clone(), slots.count(), next, &names));
        let shared = Shared {
            trees,
            log,
            thread,
            book,
            waits: Waits::default(),
            elsewhere,
            threads: Threads::new(slots.clone()),
            slots,
            undo_pages: AtomicU64::new(found.segments.pages()),
            segments: Mutex::new(found.segments),
            undo_pages_max: options.undo_bytes_max / crate::base::limits::PAGE_SIZE as u64,
            losers: Mutex::new(losers),
            undone: Notify::new(),
            garbage: Mutex::default(),
            dropped: Mutex::default(),
            background: Arc::default(),
        };
        let rows = Rows { shared: Arc::new(shared) };
        if !names.is_empty() {
            tracing::info!(losers = names.len(), "open; undoing in the background what the crash left unfinished");
        }
        rows.start_janitor();
        rows.start_undoing(names, found.condemned);
        Ok(rows)
    }

    /// The trees below.
    pub fn trees(&self) -> &Trees {
        &self.shared.trees
    }

    /// Begins a transaction. It costs nothing until it reads or writes.
    pub fn begin(&self, isolation: Isolation, interrupt: Interrupt) -> Transaction {
        Transaction::new(self.clone(), isolation, interrupt)
    }

    /// Publishes what is durable. Before a slot page leaves this instance, by transfer or eviction, and after its redo was made durable: then whoever finds
    /// a commit on it can't be answered earlier than those who ask here (rule 13).
    pub fn publish_durable(&self) {
        self.settle(match self.shared.log.mode() {
            LogMode::Commit => self.shared.log.durable(),
            LogMode::Batch | LogMode::None => Lsn(u64::MAX),
        });
    }

    /// No snapshot here is older than this, or will ever be: what the other instances' horizon must not pass.
    pub fn oldest_snapshot(&self) -> Scn {
        self.shared.book.horizon()
    }

    /// Waits until own transaction `txn` is over: what another instance waits for whose row it has.
    pub async fn wait_ended(&self, txn: TxnId) {
        loop {
            let undone = self.shared.undone.notified();
            tokio::pin!(undone);
            undone.as_mut().enable();
            match self.shared.book.outcome(txn) {
                Outcome::Active(live) => live.wait_end().await,
                Outcome::Loser => undone.await,
                Outcome::Everyone | Outcome::Committed(_) | Outcome::RolledBack | Outcome::Elsewhere => return,
            }
        }
    }

    /// Waits until every transaction of this instance that has begun before this call is over.
    ///
    /// # Errors
    /// [`RowError::Cancelled`].
    pub async fn wait_for_older(&self, interrupt: &Interrupt) -> Result<(), RowError> {
        for live in self.shared.book.live() {
            tokio::select! {
                biased;
                () = interrupt.wait() => return Err(RowError::Cancelled),
                () = live.wait_end() => {}
            }
        }
        Ok(())
    }

    /// Tells how many transactions have changes under way; nobody's any more counts as none.
    pub fn counter(&self) -> Box<dyn Fn() -> usize + Send + Sync> {
        let shared = Arc::downgrade(&self.shared);
        Box::new(move || shared.upgrade().map_or(0, |shared| shared.book.writing() + shared.losers.lock().len()))
    }

    /// Counts for status displays.
    pub fn status(&self) -> RowsStatus {
        let (transactions, snapshots) = self.shared.book.counts();
        RowsStatus {
            transactions,
            snapshots,
            waiting: self.shared.waits.counts().0,
            losers: self.shared.losers.lock().len(),
            undo_pages: self.shared.undo_pages.load(Ordering::Relaxed),
            garbage: self.shared.garbage.lock().iter().map(|(_, rows)| rows.len()).sum(),
        }
    }

    /// Ends the background tasks; what they leave is done after the next opening. Call it before the storage is closed.
    pub async fn close(&self) {
        let background = self.shared.background.clone();
        background.stop.store(true, Ordering::Release);
        background.wake.notify_one();
        loop {
            let idle = background.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if background.running.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Waits until everything before `end` is acknowledgeable, and publishes commits up to there.
    async fn make_durable(&self, end: Lsn) -> Result<(), RowError> {
        let durable = match self.shared.log.mode() {
            LogMode::Commit => {
                self.shared.log.force(end).await.map_err(|error| super::TableError::Cache(error.into()))?;
                self.shared.log.durable()
            }
            LogMode::Batch | LogMode::None => Lsn(u64::MAX),
        };
        self.settle(durable);
        Ok(())
    }

    /// Publishes commits up to `durable` and takes back what they held.
    fn settle(&self, durable: Lsn) {
        let published = self.shared.book.publish(durable);
        let mut work = false;
        for Ending { live, scn, held, committed, .. } in published {
            if let Some(segment) = held.segment {
                self.shared.segments.lock().give_back(segment, held.from, scn);
            }
            if committed && !held.garbage.is_empty() {
                self.shared.garbage.lock().push_back((scn, held.garbage));
                work = true;
            }
            if committed && !held.drops.is_empty() {
                self.shared.dropped.lock().extend(held.drops);
                work = true;
            }
            if let Some(live) = live {
                self.shared.waits.ended(&live);
            }
        }
        if work {
            self.shared.background.wake.notify_one();
        }
    }
}
