//! L5: transactions, as far as no tree is needed: names, slots and undo records as bytes, outcomes, snapshots, waits.
//!
//! ```text
//! ids    names of transactions and undo records        book       own outcomes, snapshots, commits in the order of the log
//! slot   the transaction table on disk                 waits      row queues, table locks, circles
//! undo   undo records                                  elsewhere  the seam to other instances' transactions
//! ```
//! Callers: `table::rows`, which joins this to trees. Nothing here does I/O or waits with a latch. Protocol:
//! `docs/protocols/transactions.md`; bytes: `docs/formats/undo.md`.

pub mod book;
#[cfg(test)]
mod cut;
pub mod elsewhere;
mod ids;
mod interrupt;
pub mod slot;
pub mod undo;
pub mod waits;

pub use ids::{TxnId, UndoPtr};
pub use interrupt::{Alarm, Interrupt};

/// What a transaction's statements see of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    /// Each statement sees what was committed when it began.
    #[default]
    ReadCommitted,
    /// All statements see what was committed when the first of them began; the first updater of a row wins.
    RepeatableRead,
}

/// How a table is locked; who excludes whom is PostgreSQL's table of table-level locks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TableLock {
    /// Reads.
    AccessShare,
    /// Locks rows (`FOR UPDATE`).
    RowShare,
    /// Changes rows.
    RowExclusive,
    /// Builds an index while others write; vacuums.
    ShareUpdateExclusive,
    /// Builds an index while nobody writes.
    Share,
    /// Changes the table's definition or drops it.
    AccessExclusive,
}

impl TableLock {
    /// Whether two transactions can't hold these at once.
    pub fn excludes(self, other: TableLock) -> bool {
        use TableLock::{AccessExclusive, AccessShare, RowExclusive, RowShare, Share, ShareUpdateExclusive};
        match (self.min(other), self.max(other)) {
            (_, AccessExclusive) => true,
            (RowExclusive, Share) | (ShareUpdateExclusive, ShareUpdateExclusive | Share) => true,
            (AccessShare | RowShare | RowExclusive | ShareUpdateExclusive | Share | AccessExclusive, _) => false,
        }
    }
}
