//! What tables there are, as a transaction sees it.
//!
//! A transaction sees what is committed *now*, whatever its snapshot, and its own changes: definitions that it has changed are locked, so they
//! are read under the transaction itself; all others come from the cache, or from a short transaction of their own.

use std::sync::Arc;

use super::attachment::{has_changed, own, own_mut};
use super::cache::Cached;
use super::{Tables, TablesError};
use crate::table::catalog::{self, Catalog, Index, IndexState, Named, Seen, Table};
use crate::table::rows::{Interrupt, OnConflict, Transaction};
use crate::txn::{Isolation, TableLock};

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Relation {
    /// A table.
    Table(Arc<Table>),
    /// A secondary index: its place in the table's list.
    Index(Arc<Table>, usize),
    /// A primary key.
    PrimaryKey(Arc<Table>),
}

impl Tables {
    /// Names the definitions that statements see now: as long as it stays the same, what was looked up before is good. Nothing while
    /// definitions are being changed: then everything has to be looked up each time.
    pub fn stamp(&self, txn: &Transaction) -> Option<u64> {
        if has_changed(txn) { None } else { self.shared.cache.generation() }
    }

    /// The table called `name`, unlocked: it may change at any moment.
    ///
    /// # Errors
    /// [`TablesError::Row`], [`TablesError::Catalog`].
    pub async fn table(&self, txn: &Transaction, name: &str) -> Result<Option<Arc<Table>>, TablesError> {
        Ok(match self.relation(txn, name).await? {
            Some(Relation::Table(table)) => Some(table),
            _ => None,
        })
    }

    /// The table of number `id`.
    ///
    /// # Errors
    /// As [`Tables::table`].
    pub async fn table_by_id(&self, txn: &Transaction, id: u32) -> Result<Option<Arc<Table>>, TablesError> {
        if own(txn).is_some_and(|own| own.tables.contains(&id)) {
            return Ok(catalog::read_table(txn, id, Seen::Now).await?.map(Arc::new));
        }
        match self.committed().await? {
            Committed::All(catalog) => Ok(catalog.tables.get(&id).cloned()),
            Committed::Under(mut txn) => {
                let table = catalog::read_table(&txn, id, Seen::Snapshot).await;
                txn.end_statement();
                Ok(table?.map(Arc::new))
            }
        }
    }

    /// What `name` stands for.
    ///
    /// # Errors
    /// As [`Tables::table`].
    pub async fn relation(&self, txn: &Transaction, name: &str) -> Result<Option<Relation>, TablesError> {
        let named = if own(txn).is_some_and(|own| own.names.contains(name)) {
            catalog::read_name(txn, name, Seen::Now).await?
        } else {
            match self.committed().await? {
                Committed::All(catalog) => catalog.names.get(name).copied(),
                Committed::Under(mut txn) => {
                    let named = catalog::read_name(&txn, name, Seen::Snapshot).await;
                    txn.end_statement();
                    named?
                }
            }
        };
        let Some(named) = named else { return Ok(None) };
        let Some(table) = self.table_by_id(txn, named.table()).await? else { return Ok(None) };
        Ok(match named {
            Named::Table { .. } => Some(Relation::Table(table)),
            Named::PrimaryKey { .. } => Some(Relation::PrimaryKey(table)),
            Named::Index { index, .. } => {
                let place = table.indexes.iter().position(|other| other.id == index);
                place.map(|place| Relation::Index(table, place))
            }
        })
    }

    /// All tables, in order of their numbers.
    ///
    /// # Errors
    /// As [`Tables::table`].
    pub async fn tables(&self, txn: &Transaction) -> Result<Vec<Arc<Table>>, TablesError> {
        let catalog = match self.committed().await? {
            Committed::All(catalog) => catalog,
            Committed::Under(mut txn) => {
                let catalog = catalog::read_all(&txn).await;
                txn.end_statement();
                Arc::new(catalog?)
            }
        };
        let mut tables = catalog.tables.clone();
        for id in own(txn).map(|own| own.tables.clone()).unwrap_or_default() {
            match catalog::read_table(txn, id, Seen::Now).await? {
                Some(table) => tables.insert(id, Arc::new(table)),
                None => tables.remove(&id),
            };
        }
        Ok(tables.into_values().collect())
    }

    /// The table called `name`, locked until the end of the transaction.
    ///
    /// # Errors
    /// [`TablesError::UndefinedTable`], [`TablesError::NotATable`]; as [`Tables::table`].
    pub async fn open(&self, txn: &mut Transaction, name: &str, lock: TableLock, conflict: OnConflict) -> Result<Arc<Table>, TablesError> {
        loop {
            let table = match self.relation(txn, name).await? {
                Some(Relation::Table(table)) => table,
                Some(_) => return Err(TablesError::NotATable { name: name.to_owned() }),
                None => return Err(TablesError::UndefinedTable { name: name.to_owned() }),
            };
            if let Some(table) = self.lock(txn, table, lock, conflict).await? {
                return Ok(table);
            }
        }
    }

    /// Locks `table`, looked up before; nothing when its definition has changed until the lock was there: look it up again.
    ///
    /// # Errors
    /// As [`Tables::table`].
    pub async fn lock(
        &self,
        txn: &mut Transaction,
        table: Arc<Table>,
        lock: TableLock,
        conflict: OnConflict,
    ) -> Result<Option<Arc<Table>>, TablesError> {
        txn.lock_table(table.id, lock, conflict).await?;
        let now = self.table_by_id(txn, table.id).await?;
        Ok(now.filter(|now| Arc::ptr_eq(now, &table) || **now == *table))
    }

    /// Whether what `txn` sees now can be read through `index`: an index that became complete after the snapshot was taken lacks entries of
    /// rows that the snapshot sees.
    ///
    /// # Errors
    /// As [`Tables::table`].
    pub async fn readable(&self, txn: &mut Transaction, table: &Table, index: &Index) -> Result<bool, TablesError> {
        if index.state != IndexState::Ready {
            return Ok(false);
        }
        let repeatable = txn.isolation() == Isolation::RepeatableRead;
        if let (true, Some(readable)) = (repeatable, own(txn).and_then(|own| own.readable.get(&index.tree))) {
            return Ok(*readable);
        }
        let seen = catalog::read_index(txn, table.id, index.id, Seen::Snapshot).await?;
        let readable = seen.is_some_and(|seen| seen.state == IndexState::Ready && seen.tree == index.tree);
        if repeatable {
            own_mut(txn).readable.insert(index.tree, readable);
        }
        Ok(readable)
    }

    /// Definitions that are committed: all of them, or a transaction to read them under.
    async fn committed(&self) -> Result<Committed, TablesError> {
        let begin = || {
            let mut txn = self.shared.rows.begin(Isolation::ReadCommitted, Interrupt::default());
            txn.begin_statement();
            txn
        };
        match self.shared.cache.get() {
            Cached::Current(catalog) => Ok(Committed::All(catalog)),
            Cached::Changing => Ok(Committed::Under(Box::new(begin()))),
            Cached::Absent(generation) => {
                let mut txn = begin();
                let catalog = catalog::read_all(&txn).await;
                txn.end_statement();
                let catalog = Arc::new(catalog?);
                self.shared.cache.fill(generation, catalog.clone());
                Ok(Committed::All(catalog))
            }
        }
    }
}

enum Committed {
    All(Arc<Catalog>),
    Under(Box<Transaction>),
}
