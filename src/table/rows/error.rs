//! Why an operation on rows failed.

use crate::base::{ThreadId, TreeId};
use crate::cache::{Halt, Halts, Wait};
use crate::table::TableError;
use crate::txn::slot::SlotFault;
use crate::txn::undo::UndoFault;
use crate::txn::waits::WaitError;
use crate::txn::{TxnId, UndoPtr};

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
    /// The caller said so, by the interrupt.
    #[error("canceled by request")]
    Cancelled,
    /// Someone else has the row or table, and the caller didn't want to wait.
    #[error("could not obtain the lock: it is held by another transaction")]
    LockNotAvailable,
    /// The row is locked by a transaction that nobody can end at present.
    #[error(
        "the row is locked by {txn}, which instance {instance} left unfinished: that instance is down and was not recovered. Start it, and it undoes what it \
         left unfinished",
        instance = txn.thread().0
    )]
    HeldElsewhere {
        /// Who has it.
        txn: TxnId,
    },
    /// The old version was needed, but its undo has been reused.
    #[error("snapshot too old: undo that it needs has been reused (option undo_bytes_max)")]
    SnapshotTooOld,
    /// No free slot.
    #[error("too many transactions at once: {slots} have changes under way")]
    TooManyTransactions {
        /// Slots of the instance.
        slots: usize,
    },
    /// Key and value are too long together.
    #[error("a row of {bytes} bytes is too large: key and value together may have {}", super::ROW_MAX)]
    RowTooLarge {
        /// Key and value.
        bytes: usize,
    },
    /// A row or an undo record that isn't one.
    #[error("{tree}: {fault}")]
    Damaged {
        /// Its tree.
        tree: TreeId,
        /// What is wrong.
        fault: UndoFault,
    },
    /// A transaction slot that isn't one.
    #[error("transaction table of redo {thread}: {fault}")]
    Slot {
        /// Whose table.
        thread: ThreadId,
        /// What is wrong.
        fault: SlotFault,
    },
    /// A row of a transaction that no instance has made.
    #[error("{tree}: a row names {txn}, but the transaction table of its redo thread knows nothing of it")]
    Foreign {
        /// Where.
        tree: TreeId,
        /// Whose.
        txn: TxnId,
    },
    /// A rollback that found other than what it must: nothing is guessed, the transaction's rows stay locked.
    #[error("rollback of {txn}: {tree}: the row of undo record {at} still belongs to the transaction, but doesn't name the record")]
    RollbackMismatch {
        /// The transaction.
        txn: TxnId,
        /// The tree.
        tree: TreeId,
        /// The record.
        at: UndoPtr,
    },
    /// Only a tree that the transaction has made itself can be loaded.
    #[error("{tree} was not made by this transaction: it can't be loaded without undo")]
    NotPrivate {
        /// The tree.
        tree: TreeId,
    },
}

impl From<Halt> for RowError {
    fn from(halt: Halt) -> RowError {
        TableError::from(halt).into()
    }
}

impl Halts for RowError {
    fn into_wait(self) -> Result<Wait, RowError> {
        match self {
            RowError::Table(error) => error.into_wait().map_err(RowError::Table),
            other => Err(other),
        }
    }
}

impl From<WaitError> for RowError {
    fn from(error: WaitError) -> RowError {
        match error {
            WaitError::Deadlock { circle } => RowError::Deadlock { circle },
            WaitError::Cancelled => RowError::Cancelled,
            WaitError::NotAvailable => RowError::LockNotAvailable,
            WaitError::Unrecovered { txn } => RowError::HeldElsewhere { txn },
        }
    }
}
