//! Creating, dropping and emptying tables; taking indexes away. What is built over rows that are there stands in [`super::build`].
//!
//! Each takes the locks that it needs, for the rest of the transaction. Relations are numbered by the trees made for them, whose numbers
//! are never given again.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::attachment::{changing, own_mut};
use super::lookup::Relation;
use super::{Tables, TablesError};
use crate::base::TreeId;
use crate::table::catalog::{self, COLUMNS_MAX, Column, Index, IndexState, KEY_COLUMNS_MAX, Named, PrimaryKey, Table};
use crate::table::rows::{OnConflict, Transaction};
use crate::txn::TableLock;

/// Where numbers of relations begin: smaller ones are PostgreSQL's own.
const RELATIONS: u32 = 16384;
/// A primary key has its table's tree: its number is set apart by this bit.
const PRIMARY_KEY: u32 = 1 << 30;

/// A primary key to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeySpec {
    /// The constraint's name; `TABLE_pkey` by default.
    pub name: Option<String>,
    /// Names of its columns.
    pub columns: Vec<String>,
}

/// A table to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableSpec {
    /// Its name.
    pub name: String,
    /// Its columns. Those of the key become NOT NULL.
    pub columns: Vec<Column>,
    /// Its key, if any.
    pub key: Option<KeySpec>,
    /// Names and columns of its unique constraints; `TABLE_COLUMN.._key` by default.
    pub unique: Vec<KeySpec>,
}

/// An index to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexSpec {
    /// Its name; `TABLE_COLUMN.._idx` by default, with a number if that is taken.
    pub name: Option<String>,
    /// The table's name.
    pub table: String,
    /// Names of its columns.
    pub columns: Vec<String>,
    /// Whether two rows with the same values, none null, are refused.
    pub unique: bool,
}

/// The number of a relation whose first tree is `tree`.
pub(super) fn relation_id(tree: TreeId) -> u32 {
    RELATIONS + tree.0
}

/// The number of a primary key made with `tree`.
pub(super) fn primary_key_id(tree: TreeId) -> u32 {
    PRIMARY_KEY | relation_id(tree)
}

/// Positions of the columns called `names`, each once.
pub(super) fn positions(table: &Table, names: &[String]) -> Result<Vec<u16>, TablesError> {
    if names.len() > KEY_COLUMNS_MAX {
        return Err(TablesError::TooMany { what: "columns in an index", found: names.len(), most: KEY_COLUMNS_MAX });
    }
    let mut positions = Vec::with_capacity(names.len());
    for name in names {
        let Some(position) = table.column(name) else {
            return Err(TablesError::UndefinedColumn { table: table.name.clone(), column: name.clone() });
        };
        if positions.contains(&(position as u16)) {
            return Err(TablesError::DuplicateColumn { name: name.clone() });
        }
        positions.push(position as u16);
    }
    Ok(positions)
}

/// Makes a tree that only `txn` sees.
pub(super) async fn own_tree(txn: &mut Transaction) -> Result<TreeId, TablesError> {
    let tree = txn.create_tree().await?;
    own_mut(txn).trees.insert(tree);
    Ok(tree)
}

impl Tables {
    /// Notes that `txn` changes `table`'s definition.
    pub(super) fn touch(&self, txn: &mut Transaction, table: u32) {
        changing(txn, &self.shared.cache).tables.insert(table);
    }

    /// Takes a name for the rest of the transaction.
    pub(super) async fn take_name(&self, txn: &mut Transaction, name: &str, named: Named) -> Result<(), TablesError> {
        changing(txn, &self.shared.cache).names.insert(name.to_owned());
        catalog::take_name(txn, name, named).await
    }

    async fn release_name(&self, txn: &mut Transaction, name: &str) -> Result<(), TablesError> {
        changing(txn, &self.shared.cache).names.insert(name.to_owned());
        catalog::release_name(txn, name).await
    }

    /// Drops a tree with the transaction.
    pub(super) async fn drop_tree(&self, txn: &mut Transaction, tree: TreeId) -> Result<(), TablesError> {
        txn.drop_tree(tree).await?;
        self.shared.numbers.forget(tree);
        Ok(())
    }

    /// A name that is free now, made from `stem`: with a number behind it if need be.
    pub(super) async fn free_name(&self, txn: &Transaction, stem: &str, also: &BTreeSet<String>) -> Result<String, TablesError> {
        let mut name = stem.to_owned();
        let mut number = 0u32;
        while also.contains(&name) || self.relation(txn, &name).await?.is_some() {
            number += 1;
            name = format!("{stem}{number}");
        }
        Ok(name)
    }

    /// Makes a table. It is gone when the transaction rolls back.
    ///
    /// # Errors
    /// [`TablesError::DuplicateRelation`], [`TablesError::DuplicateColumn`], [`TablesError::UndefinedColumn`], [`TablesError::TooMany`],
    /// [`TablesError::Row`].
    pub async fn create_table(&self, txn: &mut Transaction, spec: TableSpec) -> Result<Arc<Table>, TablesError> {
        if spec.columns.len() > COLUMNS_MAX {
            return Err(TablesError::TooMany { what: "columns in a table", found: spec.columns.len(), most: COLUMNS_MAX });
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = spec.columns.iter().find(|column| !names.insert(&column.name)) {
            return Err(TablesError::DuplicateColumn { name: twice.name.clone() });
        }
        let TableSpec { name, columns, key, unique } = spec;
        let mut table = Table { id: 0, name, tree: TreeId(0), columns, key: None, indexes: Vec::new() };
        if let Some(key) = &key {
            let columns = positions(&table, &key.columns)?;
            columns.iter().for_each(|position| table.columns[usize::from(*position)].not_null = true);
            table.key = Some(PrimaryKey { name: String::new(), id: 0, columns });
        }
        for constraint in &unique {
            positions(&table, &constraint.columns)?;
        }
        if self.relation(txn, &table.name).await?.is_some() {
            return Err(TablesError::DuplicateRelation { name: table.name });
        }
        table.tree = own_tree(txn).await?;
        table.id = relation_id(table.tree);
        self.touch(txn, table.id);
        self.take_name(txn, &table.name, Named::Table { table: table.id }).await?;
        txn.lock_table(table.id, TableLock::AccessExclusive, OnConflict::Wait).await?;
        if let (Some(primary), Some(spec)) = (&mut table.key, key) {
            primary.id = primary_key_id(table.tree);
            primary.name = match spec.name {
                Some(name) => name,
                None => self.free_name(txn, &format!("{}_pkey", table.name), &BTreeSet::new()).await?,
            };
            let name = primary.name.clone();
            self.take_name(txn, &name, Named::PrimaryKey { table: table.id }).await?;
        }
        for KeySpec { name, columns } in unique {
            let positions = positions(&table, &columns)?;
            let name = match name {
                Some(name) => name,
                None => self.free_name(txn, &format!("{}_{}_key", table.name, columns.join("_")), &BTreeSet::new()).await?,
            };
            let tree = own_tree(txn).await?;
            let index = Index { id: relation_id(tree), name, tree, columns: positions, unique: true, state: IndexState::Ready };
            self.take_name(txn, &index.name, Named::Index { table: table.id, index: index.id }).await?;
            table.indexes.push(index);
        }
        self.write_definition(txn, &table).await?;
        Ok(Arc::new(table))
    }

    async fn write_definition(&self, txn: &mut Transaction, table: &Table) -> Result<(), TablesError> {
        catalog::put_table(txn, table).await?;
        for position in 0..table.columns.len() {
            catalog::put_column(txn, table, position as u16).await?;
        }
        for index in &table.indexes {
            catalog::put_index(txn, table.id, index).await?;
        }
        Ok(())
    }

    /// Drops a table with its indexes, when the transaction commits.
    ///
    /// # Errors
    /// [`TablesError::UndefinedTable`], [`TablesError::NotATable`], [`TablesError::Row`].
    pub async fn drop_table(&self, txn: &mut Transaction, name: &str) -> Result<(), TablesError> {
        let table = self.open(txn, name, TableLock::AccessExclusive, OnConflict::Wait).await?;
        self.touch(txn, table.id);
        self.release_name(txn, &table.name).await?;
        if let Some(key) = &table.key {
            self.release_name(txn, &key.name).await?;
        }
        for index in &table.indexes {
            self.release_name(txn, &index.name).await?;
        }
        catalog::remove_table(txn, &table).await?;
        self.drop_tree(txn, table.tree).await?;
        for index in &table.indexes {
            self.drop_tree(txn, index.tree).await?;
        }
        Ok(())
    }

    /// Empties a table: it gets new trees, the old ones are dropped with the commit. Snapshots from before see the table empty too.
    ///
    /// # Errors
    /// As [`Tables::drop_table`].
    pub async fn truncate(&self, txn: &mut Transaction, name: &str) -> Result<Arc<Table>, TablesError> {
        let old = self.open(txn, name, TableLock::AccessExclusive, OnConflict::Wait).await?;
        self.touch(txn, old.id);
        let mut table = (*old).clone();
        table.tree = own_tree(txn).await?;
        for index in &mut table.indexes {
            index.tree = own_tree(txn).await?;
            // Complete, as there is nothing to be in it: also an index whose build was cut off.
            index.state = IndexState::Ready;
        }
        catalog::put_table(txn, &table).await?;
        for index in &table.indexes {
            catalog::put_index(txn, table.id, index).await?;
        }
        self.drop_tree(txn, old.tree).await?;
        for index in &old.indexes {
            self.drop_tree(txn, index.tree).await?;
        }
        Ok(Arc::new(table))
    }

    /// The table of the index called `name`, locked, and the index's place in its list.
    pub(super) async fn open_index(&self, txn: &mut Transaction, name: &str, lock: TableLock) -> Result<(Arc<Table>, usize), TablesError> {
        loop {
            let (table, index) = match self.relation(txn, name).await? {
                Some(Relation::Index(table, place)) => {
                    let index = table.indexes[place].id;
                    (table, index)
                }
                Some(Relation::PrimaryKey(table)) => {
                    return Err(TablesError::IsPrimaryKey { name: name.to_owned(), table: table.name.clone() });
                }
                _ => return Err(TablesError::UndefinedIndex { name: name.to_owned() }),
            };
            let Some(table) = self.lock(txn, table, lock, OnConflict::Wait).await? else { continue };
            if let Some(place) = table.indexes.iter().position(|other| other.id == index) {
                return Ok((table, place));
            }
        }
    }

    /// Drops an index, when the transaction commits.
    ///
    /// # Errors
    /// [`TablesError::UndefinedIndex`], [`TablesError::IsPrimaryKey`], [`TablesError::Row`].
    pub async fn drop_index(&self, txn: &mut Transaction, name: &str) -> Result<(), TablesError> {
        let (table, place) = self.open_index(txn, name, TableLock::AccessExclusive).await?;
        let index = &table.indexes[place];
        self.touch(txn, table.id);
        self.release_name(txn, &index.name).await?;
        catalog::remove_index(txn, table.id, index.id).await?;
        self.drop_tree(txn, index.tree).await
    }
}
