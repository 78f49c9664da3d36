//! Loading a tree that nobody else sees yet, without undo.

use super::{RowError, Transaction};
use crate::base::TreeId;
use crate::table::Batch;
use crate::table::append::GROUP_FILL;
use crate::txn::undo::RowHeader;
use crate::txn::{TxnId, UndoPtr};

/// What stands before the value of a row that is visible to everyone who finds its tree.
pub(in crate::table) fn frozen_header() -> Vec<u8> {
    header_of(TxnId::FROZEN)
}

fn header_of(txn: TxnId) -> Vec<u8> {
    RowHeader { txn, undo: UndoPtr::NONE, deleted: false, locked: false }.row(&[])
}

impl Transaction {
    /// Inserts rows, in ascending order of keys above all in the tree, into a tree that this transaction created and nobody else sees:
    /// without undo, many at once. `frozen`: they are visible to every snapshot that finds the tree.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn load(&mut self, tree: TreeId, rows: &[(Vec<u8>, Vec<u8>)], frozen: bool) -> Result<(), RowError> {
        let header = self.loaded_header(frozen).await?;
        let mut batch = Batch::default();
        for (key, value) in rows {
            batch.push_parts(key, &header, value);
        }
        self.load_batch(tree, &batch).await
    }

    /// What stands before the value of a row that this transaction loads.
    ///
    /// # Errors
    /// [`RowError`].
    pub(in crate::table) async fn loaded_header(&mut self, frozen: bool) -> Result<Vec<u8>, RowError> {
        Ok(header_of(if frozen { TxnId::FROZEN } else { self.writing().await?.txn }))
    }

    /// As [`Transaction::load`] for rows whose values have their headers already ([`Transaction::loaded_header`]).
    ///
    /// # Errors
    /// [`RowError`].
    pub(in crate::table) async fn load_batch(&mut self, tree: TreeId, batch: &Batch) -> Result<(), RowError> {
        self.load_some(tree, batch, 0).await.map(drop)
    }

    /// As [`Transaction::load_batch`] for a batch that more rows will follow: only as many as fill whole leaves, and takes them out of it. A leaf that is
    /// made in one piece costs the log least. Returns the last key that was loaded.
    ///
    /// # Errors
    /// [`RowError`].
    pub(in crate::table) async fn load_front(&mut self, tree: TreeId, batch: &mut Batch) -> Result<Option<Vec<u8>>, RowError> {
        let taken = self.load_some(tree, batch, GROUP_FILL).await?;
        let last = taken.checked_sub(1).map(|last| batch.key(last).to_vec());
        batch.drop_front(taken);
        Ok(last)
    }

    /// Loads as long as more than `leave` bytes are left; returns how many rows that were.
    async fn load_some(&mut self, tree: TreeId, batch: &Batch, leave: usize) -> Result<usize, RowError> {
        let all = self.rows().clone();
        if !self.writing().await?.made.iter().any(|(_, made)| *made == tree) {
            return Err(RowError::NotPrivate { tree });
        }
        let mut from = 0;
        while from < batch.len() && (leave == 0 || batch.bytes_from(from) > leave) {
            self.check_interrupt()?;
            from += all.trees().append(tree, batch, from).await?;
        }
        Ok(from)
    }
}
