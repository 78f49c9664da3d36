//! Loading a tree that nobody else sees yet, without undo.

use super::{RowError, Transaction};
use crate::base::TreeId;
use crate::table::Write;
use crate::txn::undo::RowHeader;
use crate::txn::{TxnId, UndoPtr};

/// Bytes of rows that go into one change group.
const GROUP: usize = 96 << 10;

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
        let mut rest = rows;
        while !rest.is_empty() {
            self.check_interrupt()?;
            let mut bytes = 0;
            let count = rest.iter().take_while(|(key, value)| {
                bytes += key.len() + value.len() + 32;
                bytes <= GROUP
            });
            let (now, later) = rest.split_at(count.count().max(1));
            let values: Vec<Vec<u8>> = now.iter().map(|(_, value)| header.row(value)).collect();
            let puts: Vec<Write<'_>> = now.iter().zip(&values).map(|((key, _), value)| Write::Put { tree, key, value }).collect();
            all.trees().apply(&puts).await?;
            rest = later;
        }
        Ok(())
    }
}
