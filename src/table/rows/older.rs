//! Waiting for what is older: who still has a table, and whose snapshot is from before.
//!
//! Callers: index builds beside writers. These waits hold nothing, so nobody can wait for them: no circles. They look again from time to time.

use std::time::Duration;

use super::{Interrupt, RowError, Rows, TableLock};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

impl Rows {
    /// Waits until every transaction is over that has a lock on `table` now which `mode` excludes. Later ones aren't waited for.
    ///
    /// # Errors
    /// [`RowError::Cancelled`].
    pub async fn wait_for_holders(&self, table: u32, mode: TableLock, interrupt: &Interrupt) -> Result<(), RowError> {
        let mut left = self.shared.waits.holders(table, mode);
        while !left.is_empty() {
            self.look_later(interrupt).await?;
            let now = self.shared.waits.holders(table, mode);
            left.retain(|holder| now.contains(holder));
        }
        Ok(())
    }

    /// Waits until every snapshot in use sees all that is committed now.
    ///
    /// # Errors
    /// [`RowError::Cancelled`].
    pub async fn wait_for_snapshots(&self, interrupt: &Interrupt) -> Result<(), RowError> {
        let now = self.shared.book.visible();
        while self.shared.book.oldest_snapshot().is_some_and(|oldest| oldest < now) {
            self.look_later(interrupt).await?;
        }
        Ok(())
    }

    async fn look_later(&self, interrupt: &Interrupt) -> Result<(), RowError> {
        if interrupt.is_set() {
            return Err(RowError::Cancelled);
        }
        self.shared.trees.cache().seams().sleep(LOOK).await;
        Ok(())
    }
}
