//! L5: transactions: who they are, what they see, whom they wait for.
//!
//! Callers: `table`, whose rows carry the transaction that changed them.

/// A transaction that has written: redo thread (high 16 bits) and number in it. Zero is "long ago": visible to everyone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct TxnId(pub u64);

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
