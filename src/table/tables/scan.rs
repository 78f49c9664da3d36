//! Rows in the order of a table or an index.

use std::collections::VecDeque;
use std::sync::Arc;

use super::change::disagrees;
use super::{Tables, TablesError, entry};
use crate::table::Direction;
use crate::table::catalog::{Index, Table};
use crate::table::datum::Type;
use crate::table::datum::key::KeyRange;
use crate::table::rows::{Cursor, Row, Transaction};

/// Rows of a table in the order of its key.
pub struct TableCursor {
    cursor: Cursor,
}

impl TableCursor {
    /// The next rows, about a page of them; none at the end.
    ///
    /// # Errors
    /// [`TablesError::Row`].
    pub async fn next(&mut self, txn: &Transaction) -> Result<Vec<Row>, TablesError> {
        Ok(self.cursor.next(txn).await?)
    }
}

/// Rows of a table in the order of an index.
pub struct IndexCursor {
    table: Arc<Table>,
    index: Index,
    types: Vec<Type>,
    cursor: Cursor,
    entries: VecDeque<Row>,
    ended: bool,
}

impl IndexCursor {
    /// The next entry's index key and row key, without reading the row; nothing at the end.
    ///
    /// # Errors
    /// [`TablesError::Row`], [`TablesError::IndexDisagrees`].
    pub async fn next_key(&mut self, txn: &Transaction) -> Result<Option<(Vec<u8>, Vec<u8>)>, TablesError> {
        while self.entries.is_empty() && !self.ended {
            self.entries.extend(self.cursor.next(txn).await?);
            self.ended = self.entries.is_empty();
        }
        let Some(found) = self.entries.pop_front() else { return Ok(None) };
        let row_key = entry::row_key_of(&self.table, &self.index, &self.types, &found.key, &found.value)?.to_vec();
        Ok(Some((found.key, row_key)))
    }

    /// The next rows, `most` at most; none at the end.
    ///
    /// # Errors
    /// [`TablesError::Row`], [`TablesError::IndexDisagrees`]: an entry without its row.
    pub async fn next(&mut self, txn: &Transaction, most: usize) -> Result<Vec<Row>, TablesError> {
        let mut rows = Vec::with_capacity(most.min(64));
        while rows.len() < most {
            let Some((entry, key)) = self.next_key(txn).await? else { break };
            match txn.get(self.table.tree, &key).await? {
                Some(row) => rows.push(row),
                // Entries come a page at a time; the transaction itself may have deleted the row meanwhile, and its entry.
                None if txn.get(self.index.tree, &entry).await?.is_none() => {}
                None => return Err(disagrees(&self.table, &self.index, "an entry's row is missing")),
            }
        }
        Ok(rows)
    }
}

impl Tables {
    /// Rows of a table, of a range of its keys ([`KeyRange::between`] of its primary key's columns).
    pub fn scan(&self, txn: &Transaction, table: &Table, range: KeyRange, direction: Direction) -> TableCursor {
        TableCursor { cursor: txn.cursor(table.tree, range.low, range.high, direction) }
    }

    /// Rows of a table by a range of an index ([`KeyRange::between`] of the index's columns), which must be
    /// [readable](Tables::readable).
    pub fn index_scan(&self, txn: &Transaction, table: &Arc<Table>, index: &Index, range: KeyRange, direction: Direction) -> IndexCursor {
        IndexCursor {
            types: table.types(&index.columns),
            table: table.clone(),
            index: index.clone(),
            cursor: txn.cursor(index.tree, range.low, range.high, direction),
            entries: VecDeque::new(),
            ended: false,
        }
    }
}
