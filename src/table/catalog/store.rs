//! The catalog's rows, read and written under a transaction.
//!
//! Callers: [`crate::table::tables`]. Who changes a table's definition holds its lock, so that its rows don't change meanwhile; a name is
//! taken by inserting its row, for which another transaction that takes the same name is waited for. What it doesn't do: locks, trees.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use serde::Serialize;

use super::records::{self, Named, Record, TableRecord};
use super::{CATALOG, Index, Table};
use crate::table::Direction;
use crate::table::datum::key::KeyRange;
use crate::table::rows::{Inserted, ROW_MAX, Row, RowError, Transaction};
use crate::table::tables::TablesError;
use crate::table::tables::newest;

/// All definitions, at one moment.
#[derive(Default, Debug)]
pub struct Catalog {
    /// Tables by number.
    pub tables: BTreeMap<u32, std::sync::Arc<Table>>,
    /// What each name stands for.
    pub names: FxHashMap<String, Named>,
}

fn damaged(key: &[u8], reason: impl Into<String>) -> TablesError {
    let key = key.iter().map(|byte| format!("{byte:02x}")).collect();
    TablesError::Catalog { key, reason: reason.into() }
}

/// A value for the row `key`, of the relation called `name`, checked for its length.
fn encode<T: Serialize>(name: &str, key: &[u8], record: &T) -> Result<Vec<u8>, TablesError> {
    let value = records::encode(record).map_err(|reason| damaged(key, reason))?;
    let bytes = key.len() + value.len();
    if bytes > ROW_MAX {
        return Err(TablesError::DefinitionTooLarge { name: name.to_owned(), bytes, most: ROW_MAX });
    }
    Ok(value)
}

async fn put<T: Serialize>(txn: &mut Transaction, name: &str, key: &[u8], record: &T) -> Result<(), TablesError> {
    let value = encode(name, key, record)?;
    newest::put(txn, CATALOG, key, &value).await?;
    Ok(())
}

/// Takes a name.
///
/// # Errors
/// [`TablesError::DuplicateRelation`].
pub(in crate::table) async fn take_name(txn: &mut Transaction, name: &str, named: Named) -> Result<(), TablesError> {
    let key = records::name_key(name);
    let value = encode(name, &key, &named)?;
    match txn.insert(CATALOG, &key, &value).await? {
        Inserted::Done => Ok(()),
        Inserted::Exists(_) => Err(TablesError::DuplicateRelation { name: name.to_owned() }),
    }
}

/// Gives a name back.
pub(in crate::table) async fn release_name(txn: &mut Transaction, name: &str) -> Result<(), TablesError> {
    newest::delete(txn, CATALOG, &records::name_key(name)).await?;
    Ok(())
}

/// Writes a table's own row.
pub(in crate::table) async fn put_table(txn: &mut Transaction, table: &Table) -> Result<(), TablesError> {
    let record = TableRecord { name: table.name.clone(), tree: table.tree, key: table.key.clone() };
    put(txn, &table.name, &records::table_key(table.id), &record).await
}

/// Writes the row of the column at `position`.
pub(in crate::table) async fn put_column(txn: &mut Transaction, table: &Table, position: u16) -> Result<(), TablesError> {
    let column = &table.columns[usize::from(position)];
    put(txn, &table.name, &records::column_key(table.id, position), column).await
}

/// Writes an index's row.
pub(in crate::table) async fn put_index(txn: &mut Transaction, table: u32, index: &Index) -> Result<(), TablesError> {
    put(txn, &index.name, &records::index_key(table, index.id), index).await
}

/// Takes an index's row out.
pub(in crate::table) async fn remove_index(txn: &mut Transaction, table: u32, index: u32) -> Result<(), TablesError> {
    newest::delete(txn, CATALOG, &records::index_key(table, index)).await?;
    Ok(())
}

/// Takes all rows of a table out, but its names.
pub(in crate::table) async fn remove_table(txn: &mut Transaction, table: &Table) -> Result<(), TablesError> {
    for index in &table.indexes {
        remove_index(txn, table.id, index.id).await?;
    }
    for position in 0..table.columns.len() {
        newest::delete(txn, CATALOG, &records::column_key(table.id, position as u16)).await?;
    }
    newest::delete(txn, CATALOG, &records::table_key(table.id)).await?;
    Ok(())
}

/// Which definitions are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::table) enum Seen {
    /// Those committed now, and the transaction's own: for who has their lock, as rows that are read one after the other may be of different moments.
    Now,
    /// Those of the statement's snapshot, all of one moment.
    Snapshot,
}

async fn get(txn: &Transaction, key: &[u8], seen: Seen) -> Result<Option<Row>, RowError> {
    match seen {
        Seen::Now => txn.get_latest(CATALOG, key).await,
        Seen::Snapshot => txn.get(CATALOG, key).await,
    }
}

/// What `name` stands for.
pub(in crate::table) async fn read_name(txn: &Transaction, name: &str, seen: Seen) -> Result<Option<Named>, TablesError> {
    let key = records::name_key(name);
    let Some(row) = get(txn, &key, seen).await? else { return Ok(None) };
    records::decode(&row.value).map(Some).map_err(|reason| damaged(&key, reason))
}

/// An index's definition.
pub(in crate::table) async fn read_index(txn: &Transaction, table: u32, index: u32, seen: Seen) -> Result<Option<Index>, TablesError> {
    let key = records::index_key(table, index);
    let Some(row) = get(txn, &key, seen).await? else { return Ok(None) };
    match read_row(&row)? {
        Record::Index(_, index) => Ok(Some(index)),
        _ => Err(damaged(&key, "it is no index")),
    }
}

async fn rows_of(txn: &Transaction, range: KeyRange, seen: Seen) -> Result<Vec<Row>, RowError> {
    let mut cursor = match seen {
        Seen::Now => txn.cursor_latest(CATALOG, range.low, range.high, Direction::Up),
        Seen::Snapshot => txn.cursor(CATALOG, range.low, range.high, Direction::Up),
    };
    let mut rows = Vec::new();
    loop {
        let batch = cursor.next(txn).await?;
        if batch.is_empty() {
            return Ok(rows);
        }
        rows.extend(batch);
    }
}

fn read_row(row: &Row) -> Result<Record, TablesError> {
    records::read(&row.key, &row.value).map_err(|reason| damaged(&row.key, reason))
}

/// The table of number `id`.
pub(in crate::table) async fn read_table(txn: &Transaction, id: u32, seen: Seen) -> Result<Option<Table>, TablesError> {
    let Some(row) = get(txn, &records::table_key(id), seen).await? else { return Ok(None) };
    let mut catalog = Assembly::default();
    catalog.add(&row)?;
    for prefix in [records::columns_prefix(id), records::indexes_prefix(id)] {
        for row in rows_of(txn, KeyRange::prefix(prefix), seen).await? {
            catalog.add(&row)?;
        }
    }
    Ok(catalog.finish()?.tables.into_values().next())
}

/// All definitions that are committed now, and the transaction's own.
pub(in crate::table) async fn read_all(txn: &Transaction) -> Result<Catalog, TablesError> {
    let mut assembly = Assembly::default();
    for row in rows_of(txn, KeyRange::ALL, Seen::Now).await? {
        assembly.add(&row)?;
    }
    let assembly = assembly.finish()?;
    let tables = assembly.tables.into_iter().map(|(id, table)| (id, std::sync::Arc::new(table))).collect();
    Ok(Catalog { tables, names: assembly.names })
}

/// Definitions being put together from rows in the order of their keys.
#[derive(Default)]
struct Assembly {
    tables: BTreeMap<u32, Table>,
    names: FxHashMap<String, Named>,
}

impl Assembly {
    fn add(&mut self, row: &Row) -> Result<(), TablesError> {
        match read_row(row)? {
            Record::Name(name, named) => {
                self.names.insert(name, named);
            }
            Record::Table(id, TableRecord { name, tree, key }) => {
                self.tables.insert(id, Table { id, name, tree, columns: Vec::new(), key, indexes: Vec::new() });
            }
            Record::Column(id, position, column) => {
                let table = self.table(row, id)?;
                if table.columns.len() != usize::from(position) {
                    return Err(damaged(&row.key, format!("a column before position {position} is missing")));
                }
                table.columns.push(column);
            }
            Record::Index(id, index) => {
                let table = self.table(row, id)?;
                check_positions(table, &index.columns).map_err(|reason| damaged(&row.key, reason))?;
                table.indexes.push(index);
            }
        }
        Ok(())
    }

    fn table(&mut self, row: &Row, id: u32) -> Result<&mut Table, TablesError> {
        self.tables.get_mut(&id).ok_or_else(|| damaged(&row.key, format!("there is no table {id}")))
    }

    /// The definitions, whole.
    fn finish(self) -> Result<Self, TablesError> {
        for table in self.tables.values() {
            if let Some(key) = &table.key {
                check_positions(table, &key.columns).map_err(|reason| damaged(&records::table_key(table.id), reason))?;
            }
        }
        Ok(self)
    }
}

fn check_positions(table: &Table, positions: &[u16]) -> Result<(), String> {
    let beyond = positions.iter().find(|position| usize::from(**position) >= table.columns.len());
    beyond.map_or(Ok(()), |position| Err(format!("it names column {position} of {}", table.columns.len())))
}
