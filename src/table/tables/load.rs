//! Many rows at once: COPY.
//!
//! Into a tree that the same transaction has made and nobody else sees, rows that come in ascending order of keys go in batches, without undo. From the
//! first one that doesn't on, and into all other tables, they are inserted one by one.

use std::ops::Bound;
use std::sync::Arc;

use super::attachment::own;
use super::change::{Added, add_entry};
use super::{Tables, TablesError, entry};
use crate::table::Direction;
use crate::table::catalog::Table;
use crate::table::datum::Datum;
use crate::table::rows::{RowError, Transaction};

/// Bytes of a batch.
const BATCH_BYTES: usize = 1 << 20;

/// Row numbers set aside at once. Those left over at the end are never used.
const NUMBERS: u64 = 1024;

/// Rows on their way into a table.
pub struct Loader {
    tables: Tables,
    table: Arc<Table>,
    frozen: bool,
    /// Whether rows still go in batches.
    batches: bool,
    /// Row numbers set aside: the next one, and the end of them.
    numbers: (u64, u64),
    /// Highest key of the tree and the batch.
    last: Vec<u8>,
    batch: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
    rows: u64,
}

impl Tables {
    /// Begins to load rows into `table`, locked for writing. `frozen`: a snapshot from before the transaction that looks into the table later sees
    /// them too (COPY's FREEZE). `whole`: only the whole transaction can be rolled back, no part of it that began before the rows come: rows of
    /// a table that it has made go in batches then, which nothing but the end of that table undoes.
    ///
    /// # Errors
    /// [`TablesError::Row`].
    pub async fn loader(&self, txn: &Transaction, table: &Arc<Table>, frozen: bool, whole: bool) -> Result<Loader, TablesError> {
        let batches = whole && own(txn).is_some_and(|own| own.trees.contains(&table.tree));
        let mut last = Vec::new();
        if batches {
            // Whatever lies in the tree, deleted rows too.
            let all = (Bound::Unbounded, Bound::Unbounded);
            let found = self.rows().trees().range(table.tree, all, Direction::Down, 1).await.map_err(RowError::Table)?;
            last = found.into_iter().next().map(|(key, _)| key).unwrap_or_default();
        }
        let (tables, table) = (self.clone(), table.clone());
        Ok(Loader { tables, table, frozen, batches, numbers: (0, 0), last, batch: Vec::new(), bytes: 0, rows: 0 })
    }
}

impl Loader {
    /// Takes a row, one value for each column. It may be written later.
    ///
    /// # Errors
    /// [`TablesError::Taken`], also for a row pushed before; as [`Tables::insert`].
    pub async fn push(&mut self, txn: &mut Transaction, row: &[Datum]) -> Result<(), TablesError> {
        if !self.batches {
            self.rows += 1;
            return insert(&self.tables, txn, &self.table, row).await;
        }
        entry::check_row(&self.table, row)?;
        let key = match &self.table.key {
            Some(primary) => entry::primary_key(&self.table, &primary.columns, row)?,
            None => self.row_number().await?.to_be_bytes().to_vec(),
        };
        if key <= self.last {
            self.flush(txn).await?;
            self.batches = false;
            self.rows += 1;
            return insert(&self.tables, txn, &self.table, row).await;
        }
        let value = entry::row_value(&self.table, row, key.len())?;
        for index in &self.table.indexes {
            let entry = entry::entry(&self.table, index, row, &key)?;
            if let Some(duplicate) = add_entry(txn, &self.table, index, entry, row).await? {
                return Err(TablesError::Taken { table: self.table.name.clone(), duplicate: Box::new(duplicate) });
            }
        }
        self.last.clear();
        self.last.extend(&key);
        self.bytes += key.len() + value.len();
        self.rows += 1;
        self.batch.push((key, value));
        if self.bytes >= BATCH_BYTES { self.flush(txn).await } else { Ok(()) }
    }

    async fn row_number(&mut self) -> Result<u64, TablesError> {
        if self.numbers.0 == self.numbers.1 {
            let first = self.tables.row_numbers(self.table.tree, NUMBERS).await?;
            self.numbers = (first, first + NUMBERS);
        }
        self.numbers.0 += 1;
        Ok(self.numbers.0 - 1)
    }

    async fn flush(&mut self, txn: &mut Transaction) -> Result<(), TablesError> {
        txn.load(self.table.tree, &self.batch, self.frozen).await?;
        self.batch.clear();
        self.bytes = 0;
        Ok(())
    }

    /// Writes what is left; returns how many rows were loaded.
    ///
    /// # Errors
    /// As [`Loader::push`].
    pub async fn finish(mut self, txn: &mut Transaction) -> Result<u64, TablesError> {
        if !self.batch.is_empty() {
            self.flush(txn).await?;
        }
        Ok(self.rows)
    }
}

async fn insert(tables: &Tables, txn: &mut Transaction, table: &Table, row: &[Datum]) -> Result<(), TablesError> {
    match tables.insert(txn, table, row).await? {
        Added::Done(_) => Ok(()),
        Added::Duplicate(duplicate) => Err(TablesError::Taken { table: table.name.clone(), duplicate }),
    }
}
