//! Indexes and primary keys over rows that are there, within a transaction.
//!
//! Building sees every committed row, so it takes a new snapshot once it has the table's lock; an old snapshot that must be kept (repeatable read) can
//! build only over a table that the same transaction has made. What is built is visible to each snapshot with the commit; who reads an
//! index asks [`Tables::readable`] first.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use super::attachment::{own, own_mut};
use super::define::{IndexSpec, KeySpec, positions, primary_key_id, relation_id};
use super::sort::{SortError, Sorter};
use super::{Duplicate, Tables, TablesError, entry};
use crate::base::TreeId;
use crate::table::Direction;
use crate::table::catalog::{self, Index, IndexState, Named, PrimaryKey, Table};
use crate::table::datum::key::{decode_key, encode_part};
use crate::table::datum::row::decode_column;
use crate::table::datum::{Datum, Type};
use crate::table::rows::{OnConflict, Transaction};
use crate::txn::{Isolation, TableLock};

/// What to say about a key that came twice.
fn twice(table: &Table, constraint: &str, columns: &[u16], error: SortError) -> TablesError {
    let key = match error {
        SortError::Twice(key) => key,
        SortError::Tables(error) => return error,
    };
    match decode_key(&key, &table.types(columns)) {
        Ok((values, _)) => {
            let duplicate: Duplicate = entry::duplicate(table, constraint, columns, values, Vec::new());
            TablesError::Duplicate { table: table.name.clone(), duplicate: Box::new(duplicate) }
        }
        Err(error) => TablesError::codec(table, error),
    }
}

impl Tables {
    /// Makes sure that the next scan of `table`, which is locked, sees every committed row.
    fn see_all(txn: &mut Transaction, table: &Table, what: &'static str) -> Result<(), TablesError> {
        if own(txn).is_some_and(|own| own.trees.contains(&table.tree)) {
            return Ok(());
        }
        if txn.isolation() == Isolation::RepeatableRead {
            return Err(TablesError::NeedsReadCommitted { what });
        }
        txn.end_statement();
        txn.begin_statement();
        Ok(())
    }

    /// A new tree with the entries of `index`.
    async fn entries(&self, txn: &mut Transaction, table: &Table, index: &Index) -> Result<TreeId, TablesError> {
        let twice = |error| twice(table, &index.name, &index.columns, error);
        let mut sorter = Sorter::new(self);
        // Nobody else writes the table: the index is of what is there now, whatever this transaction's snapshot sees.
        let mut cursor = txn.cursor_latest(table.tree, Bound::Unbounded, Bound::Unbounded, Direction::Up);
        let push = |sorter: &mut Sorter, key: &[u8], value: &[u8]| {
            let entry = entry::entry_of_value(table, index, value, key)?;
            sorter.push(&entry.value, |out| {
                out.extend_from_slice(&entry.key);
                Ok(())
            })
        };
        while cursor.each::<TablesError>(txn, |key, value| push(&mut sorter, key, value)).await? {
            sorter.settle(txn).await.map_err(twice)?;
        }
        let tree = sorter.finish(txn).await.map_err(twice)?;
        if txn.isolation() == Isolation::RepeatableRead && !own(txn).is_some_and(|own| own.trees.contains(&table.tree)) {
            own_mut(txn).readable.insert(tree, false);
        }
        Ok(tree)
    }

    /// An index as `spec` says, without its tree and number.
    pub(super) async fn draft_index(&self, txn: &Transaction, table: &Table, spec: &IndexSpec) -> Result<Index, TablesError> {
        let columns = positions(table, &spec.columns)?;
        let name = match &spec.name {
            Some(name) => name.clone(),
            None => self.free_name(txn, &format!("{}_{}_idx", table.name, spec.columns.join("_")), &BTreeSet::new()).await?,
        };
        Ok(Index { id: 0, name, tree: TreeId(0), columns, unique: spec.unique, state: IndexState::Building })
    }

    /// Makes an index over the rows that are there; nobody else writes the table until the transaction is over.
    ///
    /// # Errors
    /// [`TablesError::DuplicateRelation`], [`TablesError::UndefinedTable`], [`TablesError::UndefinedColumn`],
    /// [`TablesError::Duplicate`], [`TablesError::EntryTooLarge`], [`TablesError::NeedsReadCommitted`], [`TablesError::Row`].
    pub async fn create_index(&self, txn: &mut Transaction, spec: &IndexSpec) -> Result<Index, TablesError> {
        let table = self.open(txn, &spec.table, TableLock::Share, OnConflict::Wait).await?;
        let mut index = self.draft_index(txn, &table, spec).await?;
        if self.relation(txn, &index.name).await?.is_some() {
            return Err(TablesError::DuplicateRelation { name: index.name });
        }
        index.tree = self.entries(txn, &table, &index).await?;
        index.id = relation_id(index.tree);
        index.state = IndexState::Ready;
        self.touch(txn, table.id);
        self.take_name(txn, &index.name, Named::Index { table: table.id, index: index.id }).await?;
        catalog::put_index(txn, table.id, &index).await?;
        Ok(index)
    }

    /// Builds an index anew, also one that was left incomplete or disagrees with its table.
    ///
    /// # Errors
    /// [`TablesError::UndefinedIndex`], [`TablesError::IsPrimaryKey`]; as [`Tables::create_index`].
    pub async fn reindex(&self, txn: &mut Transaction, name: &str) -> Result<(), TablesError> {
        let (table, place) = self.open_index(txn, name, TableLock::AccessExclusive).await?;
        self.rebuild(txn, &table, &table.indexes[place]).await.map(drop)
    }

    /// Builds all secondary indexes of a table anew.
    ///
    /// # Errors
    /// As [`Tables::reindex`].
    pub async fn reindex_table(&self, txn: &mut Transaction, name: &str) -> Result<(), TablesError> {
        let table = self.open(txn, name, TableLock::AccessExclusive, OnConflict::Wait).await?;
        for index in &table.indexes {
            self.rebuild(txn, &table, index).await?;
        }
        Ok(())
    }

    /// Gives `index` a new tree with the entries of `table`'s rows.
    async fn rebuild(&self, txn: &mut Transaction, table: &Table, index: &Index) -> Result<Index, TablesError> {
        let tree = self.entries(txn, table, index).await?;
        self.touch(txn, table.id);
        let rebuilt = Index { tree, state: IndexState::Ready, ..index.clone() };
        catalog::put_index(txn, table.id, &rebuilt).await?;
        self.drop_tree(txn, index.tree).await?;
        Ok(rebuilt)
    }

    /// Gives a table a primary key: its rows move to a new tree in the key's order, its indexes are built anew.
    ///
    /// # Errors
    /// [`TablesError::SecondPrimaryKey`], [`TablesError::NotNull`], [`TablesError::Duplicate`], [`TablesError::RowTooLarge`]; as
    /// [`Tables::create_index`].
    pub async fn add_primary_key(&self, txn: &mut Transaction, table: &str, spec: &KeySpec) -> Result<Arc<Table>, TablesError> {
        let old = self.open(txn, table, TableLock::AccessExclusive, OnConflict::Wait).await?;
        if old.key.is_some() {
            return Err(TablesError::SecondPrimaryKey { table: old.name.clone() });
        }
        let columns = positions(&old, &spec.columns)?;
        let name = match &spec.name {
            Some(name) => name.clone(),
            None => self.free_name(txn, &format!("{}_pkey", old.name), &BTreeSet::new()).await?,
        };
        if self.relation(txn, &name).await?.is_some() {
            return Err(TablesError::DuplicateRelation { name });
        }
        Self::see_all(txn, &old, "ALTER TABLE ADD PRIMARY KEY")?;
        let mut table = (*old).clone();
        columns.iter().for_each(|position| table.columns[usize::from(*position)].not_null = true);
        table.tree = self.clustered(txn, &old, &name, &columns).await?;
        self.touch(txn, table.id);
        let id = primary_key_id(table.tree);
        self.take_name(txn, &name, Named::PrimaryKey { table: table.id }).await?;
        for position in &columns {
            catalog::put_column(txn, &table, *position).await?;
        }
        table.key = Some(PrimaryKey { name, id, columns });
        catalog::put_table(txn, &table).await?;
        self.drop_tree(txn, old.tree).await?;
        for place in 0..table.indexes.len() {
            table.indexes[place] = self.rebuild(txn, &table, &table.indexes[place].clone()).await?;
        }
        Ok(Arc::new(table))
    }

    /// A new tree with the rows of `table` in the order of `columns`.
    async fn clustered(&self, txn: &mut Transaction, table: &Table, constraint: &str, columns: &[u16]) -> Result<TreeId, TablesError> {
        let types = table.types(columns);
        let twice = |error| twice(table, constraint, columns, error);
        let mut sorter = Sorter::new(self);
        let mut cursor = txn.cursor(table.tree, Bound::Unbounded, Bound::Unbounded, Direction::Up);
        let push = |sorter: &mut Sorter, value: &[u8]| {
            sorter.push(value, |out| {
                let before = out.len();
                put_new_key(table, value, columns, &types, out)?;
                entry::check_row_bytes(table, out.len() - before + value.len())
            })
        };
        while cursor.each::<TablesError>(txn, |_, value| push(&mut sorter, value)).await? {
            sorter.settle(txn).await.map_err(twice)?;
        }
        sorter.finish(txn).await.map_err(twice)
    }
}

/// Appends the key that the row of `value` has in the order of `columns`, none of which may be null.
fn put_new_key(table: &Table, value: &[u8], columns: &[u16], types: &[Type], out: &mut Vec<u8>) -> Result<(), TablesError> {
    for (position, ty) in columns.iter().zip(types) {
        let position = usize::from(*position);
        let datum = decode_column(value, &table.columns, position).map_err(|error| TablesError::codec(table, error))?;
        if datum == Datum::Null {
            return Err(TablesError::ContainsNull { table: table.name.clone(), column: table.columns[position].name.clone() });
        }
        encode_part(&datum, *ty, out).map_err(|error| TablesError::codec(table, error))?;
    }
    Ok(())
}
