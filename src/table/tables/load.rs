//! Many rows at once: COPY.
//!
//! Into a tree that the same transaction has made and nobody else sees, rows that come in ascending order of keys go in batches, without undo. From the
//! first one that doesn't on, and into all other tables, they are inserted one by one.

use std::ops::Bound;
use std::sync::Arc;

use super::attachment::own;
use super::change::{Added, add_entry};
use super::{Tables, TablesError, entry};
use crate::table::catalog::Table;
use crate::table::datum::Datum;
use crate::table::rows::{RowError, Transaction};
use crate::table::{Batch, Direction};

/// Bytes of a batch: little more than one change group takes, so that they are still in the processor's cache when they go into leaves.
const BATCH_BYTES: usize = 256 << 10;

/// Row numbers set aside at once. Those left over at the end are never used.
const NUMBERS: u64 = 1024;

/// Rows on their way into a table.
pub struct Loader {
    tables: Tables,
    table: Arc<Table>,
    /// What stands before each row's value.
    header: Vec<u8>,
    /// Whether rows still go in batches.
    batches: bool,
    /// Row numbers set aside: the next one, and the end of them.
    numbers: (u64, u64),
    /// Highest key of the tree, without the batch.
    last: Vec<u8>,
    batch: Batch,
    rows: u64,
}

impl Tables {
    /// Begins to load rows into `table`, locked for writing. `frozen`: a snapshot from before the transaction that looks into the table later sees
    /// them too (COPY's FREEZE). `whole`: only the whole transaction can be rolled back, no part of it that began before the rows come: rows of
    /// a table that it has made go in batches then, which nothing but the end of that table undoes.
    ///
    /// # Errors
    /// [`TablesError::Row`].
    pub async fn loader(&self, txn: &mut Transaction, table: &Arc<Table>, frozen: bool, whole: bool) -> Result<Loader, TablesError> {
        let batches = whole && own(txn).is_some_and(|own| own.trees.contains(&table.tree));
        let (mut last, mut header) = (Vec::new(), Vec::new());
        if batches {
            header = txn.loaded_header(frozen).await?;
            // Whatever lies in the tree, deleted rows too.
            let all = (Bound::Unbounded, Bound::Unbounded);
            let found = self.rows().trees().range(table.tree, all, Direction::Down, 1).await.map_err(RowError::Table)?;
            last = found.into_iter().next().map(|(key, _)| key).unwrap_or_default();
        }
        let (tables, table) = (self.clone(), table.clone());
        Ok(Loader { tables, table, header, batches, numbers: (0, 0), last, batch: Batch::default(), rows: 0 })
    }
}

impl Loader {
    /// Takes a row, one value for each column, if that is possible without waiting; else false, and [`Loader::push`] takes it.
    ///
    /// # Errors
    /// As [`Loader::push`].
    pub fn take(&mut self, row: &[Datum]) -> Result<bool, TablesError> {
        if !self.batches || !self.table.indexes.is_empty() || self.batch.bytes() >= BATCH_BYTES {
            return Ok(false);
        }
        if self.table.key.is_none() && self.numbers.0 == self.numbers.1 {
            return Ok(false);
        }
        self.put(row)
    }

    /// Takes a row, one value for each column. It may be written later.
    ///
    /// # Errors
    /// [`TablesError::Taken`], also for a row pushed before; as [`Tables::insert`].
    pub async fn push(&mut self, txn: &mut Transaction, row: &[Datum]) -> Result<(), TablesError> {
        if self.batches {
            if self.batch.bytes() >= BATCH_BYTES {
                self.flush(txn).await?;
            }
            if self.table.key.is_none() && self.numbers.0 == self.numbers.1 {
                let first = self.tables.row_numbers(self.table.tree, NUMBERS).await?;
                self.numbers = (first, first + NUMBERS);
            }
            if self.put(row)? {
                return self.add_entries(txn, row).await;
            }
            self.flush_all(txn).await?;
            self.batches = false;
        }
        self.rows += 1;
        insert(&self.tables, txn, &self.table, row).await
    }

    /// Puts a row into the batch; false when its key doesn't lie behind all others.
    fn put(&mut self, row: &[Datum]) -> Result<bool, TablesError> {
        let table = &self.table;
        entry::check_row(table, row)?;
        let mut begun = self.batch.begin();
        match &table.key {
            Some(primary) => entry::put_primary_key(table, &primary.columns, row, begun.out())?,
            None => {
                begun.out().extend_from_slice(&self.numbers.0.to_be_bytes());
                self.numbers.0 += 1;
            }
        }
        begun.key_is_whole();
        if begun.key() <= &self.last[..] || !begun.ascends() {
            return Ok(false);
        }
        begun.out().extend_from_slice(&self.header);
        entry::put_row(table, row, begun.out())?;
        entry::check_row_bytes(table, begun.key().len() + begun.value_bytes() - self.header.len())?;
        begun.finish();
        self.rows += 1;
        Ok(true)
    }

    /// The index entries of the row that was put last.
    async fn add_entries(&mut self, txn: &mut Transaction, row: &[Datum]) -> Result<(), TablesError> {
        for index in &self.table.indexes {
            let entry = entry::entry(&self.table, index, row, self.batch.last_key().unwrap_or_default())?;
            if let Some(duplicate) = add_entry(txn, &self.table, index, entry, row).await? {
                return Err(TablesError::Taken { table: self.table.name.clone(), duplicate: Box::new(duplicate) });
            }
        }
        Ok(())
    }

    /// Writes what fills whole leaves.
    async fn flush(&mut self, txn: &mut Transaction) -> Result<(), TablesError> {
        if let Some(last) = txn.load_front(self.table.tree, &mut self.batch).await? {
            self.last = last;
        }
        Ok(())
    }

    /// Writes all of the batch.
    async fn flush_all(&mut self, txn: &mut Transaction) -> Result<(), TablesError> {
        // Into a tree of others nothing goes in batches, not even nothing.
        if let Some(last) = self.batch.last_key() {
            self.last = last.to_vec();
            txn.load_batch(self.table.tree, &self.batch).await?;
            self.batch.clear();
        }
        Ok(())
    }

    /// Writes what is left; returns how many rows were loaded.
    ///
    /// # Errors
    /// As [`Loader::push`].
    pub async fn finish(mut self, txn: &mut Transaction) -> Result<u64, TablesError> {
        self.flush_all(txn).await?;
        Ok(self.rows)
    }
}

async fn insert(tables: &Tables, txn: &mut Transaction, table: &Table, row: &[Datum]) -> Result<(), TablesError> {
    match tables.insert(txn, table, row).await? {
        Added::Done(_) => Ok(()),
        Added::Duplicate(duplicate) => Err(TablesError::Taken { table: table.name.clone(), duplicate }),
    }
}
