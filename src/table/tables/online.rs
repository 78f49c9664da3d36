//! Building an index while others write (CREATE INDEX CONCURRENTLY).
//!
//! ```text
//! 1 announce  the index is committed as Building: from now on writers keep its entries, as far as they are there
//! 2 wait      for transactions that may not know of it
//! 3 fill      row by row, under the row's lock, in short transactions: the entry of its newest version
//! 4 wait      for snapshots that see rows whose entries they don't see
//! 5 finish    Ready
//! ```
//! A row's lock makes filling and writing of a row exclude each other: whoever comes second finds what the first has done. Rows that come behind the last
//! row of step 3's beginning are their writers' business. If it fails on the way, the index stays, Building: DROP INDEX or REINDEX
//! mends that. It works in transactions of its own, so it can't be part of one.

use std::ops::Bound;
use std::sync::Arc;

use super::change::add_entry;
use super::define::{IndexSpec, own_tree, relation_id};
use super::lookup::Relation;
use super::{Tables, TablesError, entry};
use crate::table::Direction;
use crate::table::catalog::{self, Index, IndexState, Named, Table};
use crate::table::datum::row::decode_row;
use crate::table::rows::{Changed, Interrupt, OnConflict, Row, RowError, Transaction};
use crate::txn::{Isolation, TableLock};

/// Rows filled in by one transaction: others wait for their locks no longer than that takes.
const BATCH_ROWS: usize = 200;
/// How often in a row a batch may lose against others in a circle of waits.
const DEADLOCKS_MAX: u32 = 100;

/// What became of a batch.
enum Filled {
    /// Everything up to this key is done.
    UpTo(Vec<u8>),
    /// This row is held by someone else: wait for it without holding anything. What comes before it is done.
    Held(Box<Row>),
    /// There is no more.
    All,
    /// Someone else has completed the index: it was rebuilt, or its table emptied.
    Superseded,
}

impl Tables {
    /// Makes an index while others write the table. `interrupt` stops it. It waits for every transaction that is under way: the caller must have
    /// none itself.
    ///
    /// # Errors
    /// As [`Tables::create_index`]; after the first steps the index stays, incomplete.
    pub async fn create_index_online(&self, spec: &IndexSpec, interrupt: &Interrupt) -> Result<Index, TablesError> {
        let index = self.announce(spec, interrupt).await?;
        self.rows().wait_for_older(interrupt).await?;
        self.fill(&index, interrupt).await?;
        self.rows().wait_for_older(interrupt).await?;
        self.complete(&index, interrupt).await
    }

    /// A transaction with a statement under way.
    pub(super) fn begin(&self, interrupt: &Interrupt) -> Transaction {
        let mut txn = self.rows().begin(Isolation::ReadCommitted, interrupt.clone());
        txn.begin_statement();
        txn
    }

    /// Step 1.
    async fn announce(&self, spec: &IndexSpec, interrupt: &Interrupt) -> Result<Index, TablesError> {
        let mut txn = self.begin(interrupt);
        let announced = self.announce_in(&mut txn, spec).await;
        end(txn, announced).await
    }

    async fn announce_in(&self, txn: &mut Transaction, spec: &IndexSpec) -> Result<Index, TablesError> {
        let table = self.open(txn, &spec.table, TableLock::ShareUpdateExclusive, OnConflict::Wait).await?;
        let mut index = self.draft_index(txn, &table, spec).await?;
        if self.relation(txn, &index.name).await?.is_some() {
            return Err(TablesError::DuplicateRelation { name: index.name });
        }
        index.tree = own_tree(txn).await?;
        index.id = relation_id(index.tree);
        self.touch(txn, table.id);
        self.take_name(txn, &index.name, Named::Index { table: table.id, index: index.id }).await?;
        catalog::put_index(txn, table.id, &index).await?;
        Ok(index)
    }

    /// The index as it is now, and its table, which is kept from being defined anew.
    async fn current(&self, txn: &mut Transaction, index: &Index) -> Result<(Arc<Table>, Index), TablesError> {
        loop {
            let gone = || TablesError::UndefinedIndex { name: index.name.clone() };
            let Some(Relation::Index(table, _)) = self.relation(txn, &index.name).await? else { return Err(gone()) };
            let Some(table) = self.lock(txn, table, TableLock::ShareUpdateExclusive, OnConflict::Wait).await? else { continue };
            let now = table.indexes.iter().find(|other| other.id == index.id).cloned().ok_or_else(gone)?;
            return Ok((table, now));
        }
    }

    /// Step 3.
    async fn fill(&self, index: &Index, interrupt: &Interrupt) -> Result<(), TablesError> {
        let mut txn = self.begin(interrupt);
        let table = self.current(&mut txn, index).await;
        let (table, _) = end(txn, table).await?;
        let all = (Bound::Unbounded, Bound::Unbounded);
        let last = self.rows().trees().range(table.tree, all, Direction::Down, 1).await.map_err(RowError::Table)?;
        let Some((last, _)) = last.into_iter().next() else { return Ok(()) };
        let mut from = Bound::Unbounded;
        let mut held = None;
        let mut deadlocks = 0;
        loop {
            let mut txn = self.begin(interrupt);
            let filled = self.fill_some(&mut txn, index, table.tree, (&from, &last), held.as_ref()).await;
            match end(txn, filled).await {
                Ok(Filled::UpTo(key)) => {
                    from = Bound::Excluded(key);
                    held = None;
                }
                Ok(Filled::Held(row)) => {
                    from = Bound::Included(row.key.clone());
                    held = Some(*row);
                }
                Ok(Filled::All | Filled::Superseded) => return Ok(()),
                Err(TablesError::Row(RowError::Deadlock { .. })) if deadlocks < DEADLOCKS_MAX => {
                    deadlocks += 1;
                    continue;
                }
                Err(error) => return Err(error),
            }
            deadlocks = 0;
        }
    }

    async fn fill_some(
        &self,
        txn: &mut Transaction,
        index: &Index,
        tree: crate::base::TreeId,
        (from, last): (&Bound<Vec<u8>>, &[u8]),
        held: Option<&Row>,
    ) -> Result<Filled, TablesError> {
        let (table, now) = self.current(txn, index).await?;
        if now.state == IndexState::Ready || now.tree != index.tree || table.tree != tree {
            return Ok(Filled::Superseded);
        }
        if let Some(row) = held {
            self.fill_row(txn, &table, index, row.clone(), OnConflict::Wait).await?;
            return Ok(Filled::UpTo(row.key.clone()));
        }
        let mut cursor = txn.cursor(table.tree, from.clone(), Bound::Included(last.to_vec()), Direction::Up);
        let mut rows = 0;
        loop {
            let batch = cursor.next(txn).await?;
            if batch.is_empty() {
                return Ok(Filled::All);
            }
            for row in batch {
                match self.fill_row(txn, &table, index, row.clone(), OnConflict::NoWait).await {
                    Err(TablesError::Row(RowError::LockNotAvailable)) => return Ok(Filled::Held(Box::new(row))),
                    other => other?,
                }
                rows += 1;
                if rows == BATCH_ROWS {
                    return Ok(Filled::UpTo(row.key));
                }
            }
        }
    }

    /// Makes sure that the newest version of a row has its entry.
    async fn fill_row(
        &self,
        txn: &mut Transaction,
        table: &Table,
        index: &Index,
        mut row: Row,
        conflict: OnConflict,
    ) -> Result<(), TablesError> {
        loop {
            match txn.lock(table.tree, &row.key, row.version, conflict).await? {
                Changed::Done(_) => break,
                Changed::Moved(Some(newest)) => row = newest,
                Changed::Moved(None) => return Ok(()),
            }
        }
        let values = decode_row(&row.value, &table.columns).map_err(|error| TablesError::codec(table, error))?;
        let entry = entry::entry(table, index, &values, &row.key)?;
        match add_entry(txn, table, index, entry, &values).await? {
            None => Ok(()),
            Some(duplicate) => Err(TablesError::Duplicate { table: table.name.clone(), duplicate: Box::new(duplicate) }),
        }
    }

    /// Step 5.
    async fn complete(&self, index: &Index, interrupt: &Interrupt) -> Result<Index, TablesError> {
        let mut txn = self.begin(interrupt);
        let completed = self.complete_in(&mut txn, index).await;
        end(txn, completed).await
    }

    async fn complete_in(&self, txn: &mut Transaction, index: &Index) -> Result<Index, TablesError> {
        let (table, mut now) = self.current(txn, index).await?;
        if now.state == IndexState::Building {
            now.state = IndexState::Ready;
            self.touch(txn, table.id);
            catalog::put_index(txn, table.id, &now).await?;
        }
        Ok(now)
    }
}

/// Commits when `outcome` is good, rolls back when it isn't.
async fn end<T>(mut txn: Transaction, outcome: Result<T, TablesError>) -> Result<T, TablesError> {
    txn.end_statement();
    match outcome {
        Ok(done) => {
            txn.commit().await?;
            Ok(done)
        }
        Err(error) => {
            // What can't be undone now is undone in the background; the first error is the one to tell.
            if let Err(second) = txn.rollback().await {
                tracing::warn!(error = %second, "an index build's transaction is rolled back later");
            }
            Err(error)
        }
    }
}
