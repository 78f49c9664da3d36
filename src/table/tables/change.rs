//! Inserting, updating and deleting rows, with their index entries.
//!
//! The row comes first, then its entries: so whoever changes entries of a row has its lock, and nobody else does. Only entries whose bytes change are
//! touched. A duplicate leaves nothing behind.

use super::entry::{self, Entry};
use super::error::{Duplicate, TablesError};
use super::{Tables, newest};
use crate::table::catalog::{Index, IndexState, Table};
use crate::table::datum::Datum;
use crate::table::rows::{Changed, Inserted, OnConflict, Row, Transaction, Version};

/// What became of an insertion.
#[derive(Clone, PartialEq, Debug)]
pub enum Added {
    /// It is there, under this key.
    Done(Vec<u8>),
    /// Another row has the same values in a primary key or unique index. Nothing was changed.
    Duplicate(Box<Duplicate>),
}

/// What became of an update.
#[derive(Clone, PartialEq, Debug)]
pub enum Updated {
    /// Done: its key now, and which version it is (the default one when the key has changed).
    Done {
        /// The row's key.
        key: Vec<u8>,
        /// Its version.
        version: Version,
    },
    /// Read committed: someone changed the row since it was seen. This is what it is now; nothing if it is gone. Decide anew.
    Moved(Option<Row>),
    /// Another row has the same values in a primary key or unique index. Nothing was changed.
    Duplicate(Box<Duplicate>),
}

/// What became of a deletion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Removed {
    /// Done.
    Done,
    /// As [`Updated::Moved`].
    Moved(Option<Row>),
}

impl Tables {
    /// Inserts a row, one value for each column, of the column's type. Waits for others that have a row of the same key under way.
    ///
    /// # Errors
    /// [`TablesError::NotNull`], [`TablesError::RowTooLarge`], [`TablesError::EntryTooLarge`], [`TablesError::Row`].
    pub async fn insert(&self, txn: &mut Transaction, table: &Table, row: &[Datum]) -> Result<Added, TablesError> {
        entry::check_row(table, row)?;
        let key = match &table.key {
            Some(primary) => entry::primary_key(table, &primary.columns, row)?,
            None => self.row_numbers(table.tree, 1).await?.to_be_bytes().to_vec(),
        };
        let value = entry::row_value(table, row, key.len())?;
        let before = txn.savepoint();
        if let Inserted::Exists(there) = txn.insert(table.tree, &key, &value).await? {
            return Ok(Added::Duplicate(Box::new(self.key_taken(table, row, there)?)));
        }
        for index in &table.indexes {
            let entry = entry::entry(table, index, row, &key)?;
            if let Some(duplicate) = add_entry(txn, table, index, entry, row).await? {
                txn.rollback_to(before).await?;
                return Ok(Added::Duplicate(Box::new(duplicate)));
            }
        }
        Ok(Added::Done(key))
    }

    /// Gives the row seen as `seen` new values. Waits for another transaction that has it under way.
    ///
    /// # Errors
    /// As [`Tables::insert`].
    pub async fn update(&self, txn: &mut Transaction, table: &Table, seen: &Row, new: &[Datum]) -> Result<Updated, TablesError> {
        entry::check_row(table, new)?;
        let key = match &table.key {
            Some(primary) => entry::primary_key(table, &primary.columns, new)?,
            None => seen.key.clone(),
        };
        let value = entry::row_value(table, new, key.len())?;
        let before = txn.savepoint();
        let version = if key == seen.key {
            match txn.update(table.tree, &key, seen.version, &value).await? {
                Changed::Done(version) => version,
                Changed::Moved(newest) => return Ok(Updated::Moved(newest)),
            }
        } else {
            if let Changed::Moved(newest) = txn.delete(table.tree, &seen.key, seen.version).await? {
                return Ok(Updated::Moved(newest));
            }
            if let Inserted::Exists(there) = txn.insert(table.tree, &key, &value).await? {
                txn.rollback_to(before).await?;
                return Ok(Updated::Duplicate(Box::new(self.key_taken(table, new, there)?)));
            }
            Version::default()
        };
        for index in &table.indexes {
            let old = entry::entry_of_value(table, index, &seen.value, &seen.key)?;
            let entry = entry::entry(table, index, new, &key)?;
            if old == entry {
                continue;
            }
            remove_entry(txn, table, index, &old).await?;
            if let Some(duplicate) = add_entry(txn, table, index, entry, new).await? {
                txn.rollback_to(before).await?;
                return Ok(Updated::Duplicate(Box::new(duplicate)));
            }
        }
        Ok(Updated::Done { key, version })
    }

    /// Deletes the row seen as `seen`. Waits for another transaction that has it under way.
    ///
    /// # Errors
    /// [`TablesError::Row`], [`TablesError::Codec`], [`TablesError::IndexDisagrees`].
    pub async fn delete(&self, txn: &mut Transaction, table: &Table, seen: &Row) -> Result<Removed, TablesError> {
        if let Changed::Moved(newest) = txn.delete(table.tree, &seen.key, seen.version).await? {
            return Ok(Removed::Moved(newest));
        }
        for index in &table.indexes {
            let entry = entry::entry_of_value(table, index, &seen.value, &seen.key)?;
            remove_entry(txn, table, index, &entry).await?;
        }
        Ok(Removed::Done)
    }

    /// Which row has the same values as `row` in the primary key, or in a unique index of that number, as far as this transaction sees or has
    /// written.
    ///
    /// # Errors
    /// [`TablesError::Row`], [`TablesError::Codec`].
    pub async fn conflicting(
        &self,
        txn: &Transaction,
        table: &Table,
        index: Option<usize>,
        row: &[Datum],
    ) -> Result<Option<Duplicate>, TablesError> {
        // Without a key, row numbers tell rows apart: nothing has that of a new one.
        let key = table.key.as_ref().map_or(Ok(Vec::new()), |primary| entry::primary_key(table, &primary.columns, row))?;
        let Some(index) = index.map(|index| &table.indexes[index]) else {
            return match txn.get_latest(table.tree, &key).await? {
                Some(there) if table.key.is_some() => self.key_taken(table, row, there).map(Some),
                _ => Ok(None),
            };
        };
        let entry = entry::entry(table, index, row, &key)?;
        let values = || index.columns.iter().map(|position| row[usize::from(*position)].clone()).collect();
        let there = txn.get_latest(index.tree, &entry.key).await?;
        Ok(there.map(|there| entry::duplicate(table, &index.name, &index.columns, values(), there.value)))
    }

    /// Locks the row seen as `seen` until the end of the transaction.
    ///
    /// # Errors
    /// [`TablesError::Row`].
    pub async fn lock_row(&self, txn: &mut Transaction, table: &Table, seen: &Row, conflict: OnConflict) -> Result<Changed, TablesError> {
        Ok(txn.lock(table.tree, &seen.key, seen.version, conflict).await?)
    }

    /// The row with this key, as the snapshot sees it.
    ///
    /// # Errors
    /// [`TablesError::Row`].
    pub async fn get(&self, txn: &Transaction, table: &Table, key: &[u8]) -> Result<Option<Row>, TablesError> {
        Ok(txn.get(table.tree, key).await?)
    }

    fn key_taken(&self, table: &Table, row: &[Datum], there: Row) -> Result<Duplicate, TablesError> {
        let Some(primary) = &table.key else {
            // Row numbers are given once: something else wrote into the tree.
            return Err(TablesError::IndexDisagrees {
                table: table.name.clone(),
                index: table.name.clone(),
                what: "a new row number is taken",
            });
        };
        let values = primary.columns.iter().map(|position| row[usize::from(*position)].clone()).collect();
        let mut duplicate = entry::duplicate(table, &primary.name, &primary.columns, values, there.key.clone());
        duplicate.row = Some(there);
        Ok(duplicate)
    }
}

/// Adds an entry; returns what is there instead, if another row has the same values in a unique index.
pub(super) async fn add_entry(
    txn: &mut Transaction,
    table: &Table,
    index: &Index,
    entry: Entry,
    row: &[Datum],
) -> Result<Option<Duplicate>, TablesError> {
    let Inserted::Exists(there) = txn.insert(index.tree, &entry.key, &entry.value).await? else { return Ok(None) };
    if there.value == entry.value {
        // The same row's: the online build has been here before. In a complete index that can't be.
        return if index.state == IndexState::Building { Ok(None) } else { Err(disagrees(table, index, "an entry is there already")) };
    }
    let values = index.columns.iter().map(|position| row[usize::from(*position)].clone()).collect();
    Ok(Some(entry::duplicate(table, &index.name, &index.columns, values, there.value)))
}

/// Takes an entry out, of a row that the transaction has.
pub(super) async fn remove_entry(txn: &mut Transaction, table: &Table, index: &Index, entry: &Entry) -> Result<(), TablesError> {
    if index.state == IndexState::Building {
        // Another row may have the same values, and its entry be there: the build hasn't found out yet, and will fail.
        newest::delete_value(txn, index.tree, &entry.key, &entry.value).await?;
        return Ok(());
    }
    match newest::delete(txn, index.tree, &entry.key).await? {
        true => Ok(()),
        false => Err(disagrees(table, index, "an entry is missing")),
    }
}

pub(super) fn disagrees(table: &Table, index: &Index, what: &'static str) -> TablesError {
    TablesError::IndexDisagrees { table: table.name.clone(), index: index.name.clone(), what }
}
