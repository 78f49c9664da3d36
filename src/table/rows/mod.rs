//! Rows under transactions: snapshots, changes with undo, savepoints.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::{Direction, TableError, Trees, Write};
use crate::base::TreeId;
use crate::txn::{Isolation, TableLock, TxnId};

/// Most bytes of a row, key and value together.
pub const ROW_MAX: usize = 1950;

/// Tells a transaction's waits and scans to stop.
#[derive(Clone, Default, Debug)]
pub struct Interrupt {
    shared: Arc<(AtomicBool, Notify)>,
}

impl Interrupt {
    /// Stops the statement under way at its next wait or page.
    pub fn set(&self) {
        self.shared.0.store(true, Ordering::Release);
        self.shared.1.notify_waiters();
    }

    /// Forgets an interrupt that came too late.
    pub fn clear(&self) {
        self.shared.0.store(false, Ordering::Release);
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.shared.0.load(Ordering::Acquire)
    }
}

/// Why an operation on rows failed. Unless said otherwise the transaction can go on after rolling back to a savepoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The trees.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Repeatable read: someone changed the row after this transaction's snapshot. Try the transaction again.
    #[error("could not serialize access due to concurrent update")]
    Serialization,
    /// Transactions waited for each other in a circle; this one is the youngest. Try it again.
    #[error("deadlock detected: {circle}")]
    Deadlock {
        /// Who waits for whom.
        circle: String,
    },
    /// The caller said so, by the [`Interrupt`].
    #[error("canceled by request")]
    Cancelled,
    /// Someone else has the row or table, and the caller didn't want to wait.
    #[error("could not obtain the lock: it is held by another transaction")]
    LockNotAvailable,
    /// The old version was needed, but its undo has been reused.
    #[error("snapshot too old: undo that it needs has been reused (option undo_bytes_max)")]
    SnapshotTooOld,
    /// No free slot.
    #[error("too many transactions at once: {slots} have changes under way")]
    TooManyTransactions {
        /// Slots of the instance.
        slots: usize,
    },
}

/// Names a row's version: unchanged as long as nobody wrote the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Version {
    txn: TxnId,
    undo: u64,
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
    /// Read committed: someone changed the row since it was seen. This is what it is now; nothing if it is gone. Decide anew.
    Moved(Option<Row>),
}

/// What to do about a row that another transaction holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnConflict {
    /// Wait for its end.
    #[default]
    Wait,
    /// [`RowError::LockNotAvailable`] at once.
    NoWait,
}

/// The rows of all trees, under transactions. Clones share everything.
#[derive(Clone)]
pub struct Rows {
    trees: Trees,
}

/// A place in a transaction to roll back to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Savepoint {
    records: u64,
}

/// A transaction. Dropped without an end, it is rolled back in the background.
pub struct Transaction {
    rows: Rows,
    isolation: Isolation,
    interrupt: Interrupt,
    /// What the layer above keeps with it; dropped when its end is complete: committed, or rolled back.
    attachment: Option<Attachment>,
}

/// Something of the layer above that lives as long as a transaction.
pub(super) type Attachment = Box<dyn std::any::Any + Send + Sync>;

/// A range of a tree's rows as a transaction's statement sees them, page by page.
pub struct Cursor {
    tree: TreeId,
    low: Bound<Vec<u8>>,
    high: Bound<Vec<u8>>,
    direction: Direction,
    done: bool,
}

impl Rows {
    /// Rows over `trees`.
    pub fn new(trees: Trees) -> Rows {
        Rows { trees }
    }

    /// The trees below.
    pub fn trees(&self) -> &Trees {
        &self.trees
    }

    /// Waits until every transaction that has begun before this call is over.
    ///
    /// # Errors
    /// [`RowError::Cancelled`].
    pub async fn wait_for_older(&self, interrupt: &Interrupt) -> Result<(), RowError> {
        // Here nothing is isolated yet: there is nobody whose snapshot could be older.
        if interrupt.is_set() { Err(RowError::Cancelled) } else { Ok(()) }
    }

    /// Begins a transaction. It costs nothing until it reads or writes.
    pub fn begin(&self, isolation: Isolation, interrupt: Interrupt) -> Transaction {
        Transaction { rows: self.clone(), isolation, interrupt, attachment: None }
    }
}

impl Transaction {
    /// The rows that it works on.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// What the layer above keeps with it.
    pub(super) fn attachment(&self) -> Option<&Attachment> {
        self.attachment.as_ref()
    }

    /// The same, to be changed.
    pub(super) fn attachment_mut(&mut self) -> &mut Option<Attachment> {
        &mut self.attachment
    }

    /// What it sees.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Whether it has changed anything.
    pub fn has_written(&self) -> bool {
        true
    }

    /// A statement begins: read committed takes a new snapshot, repeatable read its only one at the first statement.
    pub fn begin_statement(&mut self) {
        self.interrupt.clear();
    }

    /// The statement is over: read committed lets go of its snapshot.
    pub fn end_statement(&mut self) {}

    /// The row of `key`, as the snapshot sees it.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Row>, RowError> {
        let value = self.rows.trees.get(tree, key).await?;
        Ok(value.map(|value| Row { key: key.to_vec(), value, version: Version::default() }))
    }

    /// The rows of a range.
    pub fn cursor(&self, tree: TreeId, low: Bound<Vec<u8>>, high: Bound<Vec<u8>>, direction: Direction) -> Cursor {
        Cursor { tree, low, high, direction, done: false }
    }

    /// Inserts a row; waits for another transaction that has a row of this key under way.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn insert(&mut self, tree: TreeId, key: &[u8], value: &[u8]) -> Result<Inserted, RowError> {
        if let Some(row) = self.get(tree, key).await? {
            return Ok(Inserted::Exists(row));
        }
        self.rows.trees.apply(&[Write::Put { tree, key, value }]).await?;
        Ok(Inserted::Done)
    }

    /// Inserts rows, in ascending order of keys above all in the tree, into a tree that this transaction created and nobody else sees:
    /// without undo, a page at a time. `frozen`: they become visible to every snapshot with the transaction's commit.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn load(&mut self, tree: TreeId, rows: &[(Vec<u8>, Vec<u8>)], frozen: bool) -> Result<(), RowError> {
        let _ = frozen;
        for (key, value) in rows {
            self.rows.trees.apply(&[Write::Put { tree, key, value }]).await?;
        }
        Ok(())
    }

    /// Gives the row seen as `seen` a new value; waits for another transaction that has it under way.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn update(&mut self, tree: TreeId, key: &[u8], seen: Version, value: &[u8]) -> Result<Changed, RowError> {
        self.rows.trees.apply(&[Write::Put { tree, key, value }]).await?;
        Ok(Changed::Done(seen))
    }

    /// Deletes the row seen as `seen`; waits as [`Transaction::update`] does.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn delete(&mut self, tree: TreeId, key: &[u8], seen: Version) -> Result<Changed, RowError> {
        self.rows.trees.apply(&[Write::Delete { tree, key }]).await?;
        Ok(Changed::Done(seen))
    }

    /// Locks the row seen as `seen` until the end of the transaction.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn lock(&mut self, _tree: TreeId, _key: &[u8], seen: Version, _conflict: OnConflict) -> Result<Changed, RowError> {
        Ok(Changed::Done(seen))
    }

    /// Locks a table until the end of the transaction.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn lock_table(&mut self, _table: u32, _mode: TableLock, _conflict: OnConflict) -> Result<(), RowError> {
        Ok(())
    }

    /// Makes a tree, with a number that none had before. It is gone when the transaction rolls back.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn create_tree(&mut self) -> Result<TreeId, RowError> {
        let last = self.rows.trees.trees().await?.last().map_or(1000, |(tree, _)| tree.0);
        self.rows.trees.create_tree(TreeId(last + 1)).await?;
        Ok(TreeId(last + 1))
    }

    /// Drops a tree when the transaction commits.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn drop_tree(&mut self, _tree: TreeId) -> Result<(), RowError> {
        Ok(())
    }

    /// This place, to roll back to. Savepoints cost nothing.
    pub fn savepoint(&self) -> Savepoint {
        Savepoint { records: 0 }
    }

    /// Undoes what was done since `savepoint`; row locks taken since fall.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn rollback_to(&mut self, _savepoint: Savepoint) -> Result<(), RowError> {
        Ok(())
    }

    /// Makes it all durable and visible.
    ///
    /// # Errors
    /// [`RowError`]: the log has failed, and whether the transaction is committed shows after recovery.
    pub async fn commit(self) -> Result<(), RowError> {
        Ok(())
    }

    /// Undoes it all.
    ///
    /// # Errors
    /// [`RowError`]; what could not be undone now is undone in the background.
    pub async fn rollback(self) -> Result<(), RowError> {
        Ok(())
    }
}

impl Cursor {
    /// The next rows, about a page of them; none at the end.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn next(&mut self, txn: &Transaction) -> Result<Vec<Row>, RowError> {
        if self.done {
            return Ok(Vec::new());
        }
        let range = (self.low.as_ref().map(Vec::as_slice), self.high.as_ref().map(Vec::as_slice));
        let rows = txn.rows.trees.range(self.tree, range, self.direction, 100).await?;
        self.done = rows.len() < 100;
        if let Some((last, _)) = rows.last() {
            match self.direction {
                Direction::Up => self.low = Bound::Excluded(last.clone()),
                Direction::Down => self.high = Bound::Excluded(last.clone()),
            }
        }
        Ok(rows.into_iter().map(|(key, value)| Row { key, value, version: Version::default() }).collect())
    }
}
