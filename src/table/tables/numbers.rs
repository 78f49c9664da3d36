//! Row numbers: the hidden keys of tables without a primary key.
//!
//! A number has the redo thread of the instance that gave it in its high 16 bits and a count below, so that instances don't meet.
//! The count goes on behind the last one in the tree, which is looked for at the first use, whatever became of that row.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use tokio::sync::OnceCell;

use super::{Tables, TablesError};
use crate::base::TreeId;
use crate::table::rows::RowError;
use crate::table::{Direction, TableError};

/// Bits of the count.
const COUNT_BITS: u32 = 48;

type Counter = Arc<OnceCell<AtomicU64>>;

/// The next number of each tree.
#[derive(Default)]
pub(super) struct Numbers {
    counters: RwLock<FxHashMap<TreeId, Counter>>,
}

impl Numbers {
    fn counter(&self, tree: TreeId) -> Counter {
        if let Some(counter) = self.counters.read().get(&tree) {
            return counter.clone();
        }
        self.counters.write().entry(tree).or_default().clone()
    }

    /// Forgets a tree that was dropped; if the drop is rolled back, the number is looked for again.
    pub(super) fn forget(&self, tree: TreeId) {
        self.counters.write().remove(&tree);
    }
}

impl Tables {
    /// `count` new row numbers of `tree`, one after the other; the first is returned.
    pub(super) async fn row_numbers(&self, tree: TreeId, count: u64) -> Result<u64, TablesError> {
        let counter = self.shared.numbers.counter(tree);
        let next = counter.get_or_try_init(|| self.first_number(tree)).await?;
        Ok(next.fetch_add(count, Ordering::Relaxed))
    }

    /// The first number that `tree` never had from this instance.
    async fn first_number(&self, tree: TreeId) -> Result<AtomicU64, TablesError> {
        let trees = self.shared.rows.trees();
        let log = trees.cache().log().map_err(|error| RowError::Table(TableError::Cache(error)))?;
        let low = u64::from(log.writer().thread.0) << COUNT_BITS;
        let (low_key, high_key) = (low.to_be_bytes(), (low + (1 << COUNT_BITS)).to_be_bytes());
        let range = (Bound::Included(&low_key[..]), Bound::Excluded(&high_key[..]));
        let last = trees.range(tree, range, Direction::Down, 1).await.map_err(RowError::Table)?;
        let number = match last.first() {
            Some((key, _)) => match <[u8; 8]>::try_from(key.as_slice()) {
                Ok(key) => u64::from_be_bytes(key) + 1,
                // Not a row number: whatever it is, it is refused where it is read.
                Err(_) => low + 1,
            },
            None => low + 1,
        };
        Ok(AtomicU64::new(number))
    }
}
