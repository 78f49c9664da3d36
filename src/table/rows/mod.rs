//! Rows under transactions: snapshots, changes with undo, savepoints, rollback of what a crash left.
//!
//! ```text
//! transaction  what callers hold                 undo     applying records: savepoints, rollback, losers
//! write        one change of one row             space    undo pages and slots: found, taken, given back
//! read         what a snapshot sees              janitor  deletions taken out, trees dropped, in the background
//! ```
//! Callers: `tables`, node. A tree of rows has keys as any tree, and values that begin with a row header ([`crate::txn::undo::RowHeader`]). Protocol:
//! `docs/protocols/transactions.md`; bytes: `docs/formats/undo.md`. Not here: columns, indexes, catalog.

mod error;
mod janitor;
mod load;
mod read;
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
pub(super) use space::pages as undo_pages;
pub use transaction::{Savepoint, Transaction};

use super::Trees;
use crate::base::limits::INLINE_MAX;
use crate::base::options::{LogMode, Options};
use crate::base::{Lsn, Scn, ThreadId, TreeId};
use crate::redo::LogWriter;
use crate::txn::book::{Book, Ending};
use crate::txn::undo::{ROW_HEADER_MAX, RowHeader};
use crate::txn::waits::Waits;
pub use crate::txn::{Interrupt, Isolation, TableLock};
use crate::txn::{TxnId, UndoPtr};
use space::{Segment, SlotPlace};

/// The tree that names undo pages and slot pages.
pub const UNDO: TreeId = TreeId(u32::MAX - 1);
/// Longest key plus value of a row, in bytes.
pub const ROW_MAX: usize = INLINE_MAX - ROW_HEADER_MAX;
/// First number that [`Transaction::create_tree`] gives; those below are for fixed trees.
pub const FIRST_TREE: TreeId = TreeId(1024);

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
    slot: Option<SlotPlace>,
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
    slots: Mutex<VecDeque<SlotPlace>>,
    segments: Mutex<space::Segments>,
    undo_pages: AtomicU64,
    undo_pages_max: u64,
    losers: Mutex<BTreeMap<TxnId, Loser>>,
    /// The next tree's number; kept in UNDO too, so that none is given twice.
    next_tree: tokio::sync::Mutex<u32>,
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
    /// its rows are locked, and undone at once for whoever waits for them.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn open(trees: Trees, options: &Options) -> Result<Rows, RowError> {
        let found = space::open(&trees).await?;
        let cache = trees.cache().clone();
        let log = cache.log().map_err(super::TableError::from)?.clone();
        let thread = log.writer().thread;
        let losers: BTreeMap<TxnId, Loser> = found.losers.into_iter().collect();
        let names: Vec<TxnId> = losers.keys().copied().collect();
        let book = Arc::new(Book::new(thread, cache.shared.clock.clone(), found.next, &names));
        let shared = Shared {
            trees,
            log,
            thread,
            book,
            waits: Waits::default(),
            slots: Mutex::new(found.free),
            undo_pages: AtomicU64::new(found.segments.pages()),
            segments: Mutex::new(found.segments),
            undo_pages_max: options.undo_bytes_max / crate::base::limits::PAGE_SIZE as u64,
            losers: Mutex::new(losers),
            next_tree: tokio::sync::Mutex::new(found.next_tree),
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

    /// Waits until every transaction that has begun before this call is over.
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
            if let Some(slot) = held.slot {
                self.shared.slots.lock().push_back(slot);
            }
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
