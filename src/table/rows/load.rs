//! Loading a tree that nobody else sees yet, without undo.

use super::{RowError, Transaction};
use crate::base::TreeId;
use crate::txn::undo::RowHeader;
use crate::txn::{TxnId, UndoPtr};

impl Transaction {
    /// Inserts rows, in ascending order of keys above all in the tree, into a tree that this transaction created and nobody else sees:
    /// without undo, many at once. `frozen`: they are visible to every snapshot that finds the tree.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn load(&mut self, tree: TreeId, rows: &[(Vec<u8>, Vec<u8>)], frozen: bool) -> Result<(), RowError> {
        let all = self.rows().clone();
        let writes = self.writing().await?;
        if !writes.made.iter().any(|(_, made)| *made == tree) {
            return Err(RowError::NotPrivate { tree });
        }
        let txn = if frozen { TxnId::FROZEN } else { writes.txn };
        let header = RowHeader { txn, undo: UndoPtr::NONE, deleted: false, locked: false };
        let values: Vec<(&[u8], Vec<u8>)> = rows.iter().map(|(key, value)| (&key[..], header.row(value))).collect();
        let mut rest = &values[..];
        while !rest.is_empty() {
            self.check_interrupt()?;
            let taken = all.trees().append(tree, rest).await?;
            rest = &rest[taken..];
        }
        Ok(())
    }
}
