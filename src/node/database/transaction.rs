//! A transaction of the embedding API.

use std::sync::Arc;

use super::DatabaseError;
use super::scan::{Range, Scan};
use crate::table::catalog::{Index, Table};
use crate::table::datum::Datum;
use crate::table::datum::key::encode_key;
use crate::table::datum::row::decode_row;
use crate::table::rows::{self, Changed, OnConflict, Row, RowError, Savepoint};
use crate::table::tables::{Added, IndexSpec, KeySpec, Removed, TableSpec, Tables, TablesError, Updated};
use crate::txn::TableLock;

/// A transaction. Each operation is a statement: when it fails, what it did is undone, and the transaction may go on, unless the error is one of
/// `40001` and `40P01`, which only a new transaction gets around. Operations that change a row wait for whoever has it. An operation whose
/// future is dropped before its end may be half done: roll back then, at least to a savepoint.
pub struct Transaction {
    tables: Tables,
    txn: rows::Transaction,
}

impl Transaction {
    pub(super) fn new(tables: Tables, txn: rows::Transaction) -> Transaction {
        Transaction { tables, txn }
    }

    /// Begins a statement.
    pub(super) fn start(&mut self) -> Savepoint {
        self.txn.begin_statement();
        self.txn.savepoint()
    }

    /// Ends a statement; undoes it if it failed.
    async fn finish<T>(&mut self, before: Savepoint, outcome: Result<T, TablesError>) -> Result<T, DatabaseError> {
        let undone = match &outcome {
            Ok(_) => Ok(()),
            Err(_) => self.txn.rollback_to(before).await,
        };
        self.txn.end_statement();
        undone?;
        Ok(outcome?)
    }

    /// Makes a table.
    ///
    /// # Errors
    /// As [`Tables::create_table`].
    pub async fn create_table(&mut self, spec: TableSpec) -> Result<Arc<Table>, DatabaseError> {
        let before = self.start();
        let outcome = self.tables.create_table(&mut self.txn, spec).await;
        self.finish(before, outcome).await
    }

    /// Drops a table with its indexes.
    ///
    /// # Errors
    /// As [`Tables::drop_table`].
    pub async fn drop_table(&mut self, name: &str) -> Result<(), DatabaseError> {
        let before = self.start();
        let outcome = self.tables.drop_table(&mut self.txn, name).await;
        self.finish(before, outcome).await
    }

    /// Makes an index over the rows that are there.
    ///
    /// # Errors
    /// As [`Tables::create_index`].
    pub async fn create_index(&mut self, spec: &IndexSpec) -> Result<Index, DatabaseError> {
        let before = self.start();
        let outcome = self.tables.create_index(&mut self.txn, spec).await;
        self.finish(before, outcome).await
    }

    /// Drops an index.
    ///
    /// # Errors
    /// As [`Tables::drop_index`].
    pub async fn drop_index(&mut self, name: &str) -> Result<(), DatabaseError> {
        let before = self.start();
        let outcome = self.tables.drop_index(&mut self.txn, name).await;
        self.finish(before, outcome).await
    }

    /// Gives a table a primary key.
    ///
    /// # Errors
    /// As [`Tables::add_primary_key`].
    pub async fn add_primary_key(&mut self, table: &str, key: &KeySpec) -> Result<Arc<Table>, DatabaseError> {
        let before = self.start();
        let outcome = self.tables.add_primary_key(&mut self.txn, table, key).await;
        self.finish(before, outcome).await
    }

    /// The definition of a table; nothing if there is none of that name.
    ///
    /// # Errors
    /// As [`Tables::table`].
    pub async fn table(&mut self, name: &str) -> Result<Option<Arc<Table>>, DatabaseError> {
        let before = self.start();
        let outcome = self.tables.table(&self.txn, name).await;
        self.finish(before, outcome).await
    }

    /// Inserts a row, one value for each column, of the column's type.
    ///
    /// # Errors
    /// [`TablesError::Taken`] when another row has the same values in the primary key or a unique index; as [`Tables::insert`].
    pub async fn insert(&mut self, table: &str, row: &[Datum]) -> Result<(), DatabaseError> {
        let before = self.start();
        let outcome = self.insert_in(table, row).await;
        self.finish(before, outcome).await
    }

    async fn insert_in(&mut self, table: &str, row: &[Datum]) -> Result<(), TablesError> {
        let table = self.open(table, TableLock::RowExclusive).await?;
        match self.tables.insert(&mut self.txn, &table, row).await? {
            Added::Done(_) => Ok(()),
            Added::Duplicate(duplicate) => Err(TablesError::Taken { table: table.name.clone(), duplicate }),
        }
    }

    /// The row with these values in its primary key.
    ///
    /// # Errors
    /// [`TablesError::NoPrimaryKey`]; as [`Tables::get`].
    pub async fn get(&mut self, table: &str, key: &[Datum]) -> Result<Option<Vec<Datum>>, DatabaseError> {
        let before = self.start();
        let outcome = self.get_in(table, key).await;
        self.finish(before, outcome).await
    }

    async fn get_in(&mut self, table: &str, key: &[Datum]) -> Result<Option<Vec<Datum>>, TablesError> {
        let table = self.open(table, TableLock::AccessShare).await?;
        let row = self.find(&table, key).await?;
        row.map(|row| values(&table, &row)).transpose()
    }

    /// The same, and keeps the row from being changed by others until the end of the transaction.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub async fn get_for_update(&mut self, table: &str, key: &[Datum]) -> Result<Option<Vec<Datum>>, DatabaseError> {
        let before = self.start();
        let outcome = self.lock_in(table, key).await;
        self.finish(before, outcome).await
    }

    async fn lock_in(&mut self, table: &str, key: &[Datum]) -> Result<Option<Vec<Datum>>, TablesError> {
        let table = self.open(table, TableLock::RowShare).await?;
        let mut found = self.find(&table, key).await?;
        while let Some(row) = found {
            match self.tables.lock_row(&mut self.txn, &table, &row, OnConflict::Wait).await? {
                Changed::Done(_) => return values(&table, &row).map(Some),
                Changed::Moved(newest) => found = newest,
            }
        }
        Ok(None)
    }

    /// Changes the row with these values in its primary key; whether there is one. Read committed: `change` is called again, with what the row is then,
    /// when someone else has changed the row meanwhile.
    ///
    /// # Errors
    /// As [`Transaction::insert`] and [`Transaction::get`].
    pub async fn update(&mut self, table: &str, key: &[Datum], change: impl FnMut(&mut Vec<Datum>)) -> Result<bool, DatabaseError> {
        let before = self.start();
        let outcome = self.update_in(table, key, change).await;
        self.finish(before, outcome).await
    }

    async fn update_in(&mut self, table: &str, key: &[Datum], mut change: impl FnMut(&mut Vec<Datum>)) -> Result<bool, TablesError> {
        let table = self.open(table, TableLock::RowExclusive).await?;
        let mut found = self.find(&table, key).await?;
        while let Some(row) = found {
            let mut new = values(&table, &row)?;
            change(&mut new);
            match self.tables.update(&mut self.txn, &table, &row, &new).await? {
                Updated::Done { .. } => return Ok(true),
                Updated::Moved(newest) => found = newest,
                Updated::Duplicate(duplicate) => return Err(TablesError::Taken { table: table.name.clone(), duplicate }),
            }
        }
        Ok(false)
    }

    /// Deletes the row with these values in its primary key; whether there was one.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub async fn delete(&mut self, table: &str, key: &[Datum]) -> Result<bool, DatabaseError> {
        let before = self.start();
        let outcome = self.delete_in(table, key).await;
        self.finish(before, outcome).await
    }

    async fn delete_in(&mut self, table: &str, key: &[Datum]) -> Result<bool, TablesError> {
        let table = self.open(table, TableLock::RowExclusive).await?;
        let mut found = self.find(&table, key).await?;
        while let Some(row) = found {
            match self.tables.delete(&mut self.txn, &table, &row).await? {
                Removed::Done => return Ok(true),
                Removed::Moved(newest) => found = newest,
            }
        }
        Ok(false)
    }

    /// The rows of a range of the table's primary key, in its order; of a table without one, all rows in the order of insertion.
    ///
    /// # Errors
    /// [`TablesError::UndefinedTable`], [`TablesError::Codec`] for bounds that aren't of the columns' types.
    pub async fn scan(&mut self, table: &str, range: Range) -> Result<Scan<'_>, DatabaseError> {
        let before = self.start();
        let opened = match self.open(table, TableLock::AccessShare).await {
            Ok(table) => Scan::of_table(&self.tables, &self.txn, table, &range),
            Err(error) => Err(error),
        };
        match opened {
            Ok(source) => Ok(Scan::new(&mut self.txn, source)),
            Err(error) => self.finish(before, Err(error)).await,
        }
    }

    /// The rows of a range of an index, in its order.
    ///
    /// # Errors
    /// [`TablesError::UndefinedIndex`]; [`TablesError::TableReplaced`] for an index that the snapshot is too old for; as
    /// [`Transaction::scan`].
    pub async fn scan_index(&mut self, table: &str, index: &str, range: Range) -> Result<Scan<'_>, DatabaseError> {
        let before = self.start();
        let opened = self.open_index_scan(table, index, &range).await;
        match opened {
            Ok(source) => Ok(Scan::new(&mut self.txn, source)),
            Err(error) => self.finish(before, Err(error)).await,
        }
    }

    async fn open_index_scan(&mut self, table: &str, index: &str, range: &Range) -> Result<super::scan::Source, TablesError> {
        let table = self.open(table, TableLock::AccessShare).await?;
        let Some(index) = table.index(index) else { return Err(TablesError::UndefinedIndex { name: index.to_owned() }) };
        if !self.tables.readable(&mut self.txn, &table, index).await? {
            return Err(TablesError::TableReplaced { tree: index.tree });
        }
        Scan::of_index(&self.tables, &self.txn, &table, index, range)
    }

    async fn open(&mut self, table: &str, lock: TableLock) -> Result<Arc<Table>, TablesError> {
        self.tables.open(&mut self.txn, table, lock, OnConflict::Wait).await
    }

    async fn find(&self, table: &Table, key: &[Datum]) -> Result<Option<Row>, TablesError> {
        let Some(primary) = &table.key else { return Err(TablesError::NoPrimaryKey { table: table.name.clone() }) };
        if key.len() != primary.columns.len() {
            return Err(TablesError::KeyColumns { table: table.name.clone(), expected: primary.columns.len(), found: key.len() });
        }
        let mut bytes = Vec::with_capacity(16);
        let encoded = encode_key(key, &table.key_types(), &mut bytes);
        encoded.map_err(|error| TablesError::Codec { table: table.name.clone(), error })?;
        self.tables.get(&self.txn, table, &bytes).await
    }

    /// This place, to roll back to. Costs nothing.
    pub fn savepoint(&self) -> Savepoint {
        self.txn.savepoint()
    }

    /// Undoes what was done since `savepoint`.
    ///
    /// # Errors
    /// [`RowError`]: then the transaction can only be rolled back.
    pub async fn rollback_to(&mut self, savepoint: Savepoint) -> Result<(), DatabaseError> {
        Ok(self.txn.rollback_to(savepoint).await?)
    }

    /// Makes it all durable and visible.
    ///
    /// # Errors
    /// [`RowError`]: the log has failed, and whether the transaction is committed shows after recovery.
    pub async fn commit(self) -> Result<(), DatabaseError> {
        let committed: Result<_, RowError> = self.txn.commit().await;
        committed?;
        Ok(())
    }

    /// Undoes it all.
    ///
    /// # Errors
    /// [`RowError`]; what could not be undone now is undone by the next opening.
    pub async fn rollback(self) -> Result<(), DatabaseError> {
        Ok(self.txn.rollback().await?)
    }
}

/// The values of a row.
pub(super) fn values(table: &Table, row: &Row) -> Result<Vec<Datum>, TablesError> {
    decode_row(&row.value, &table.columns).map_err(|error| TablesError::Codec { table: table.name.clone(), error })
}
