//! Scans of the embedding API.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use super::DatabaseError;
use super::transaction::values;
use crate::table::Direction;
use crate::table::catalog::{Index, Table};
use crate::table::datum::Datum;
use crate::table::datum::key::KeyRange;
use crate::table::rows::{self, Row};
use crate::table::tables::{IndexCursor, TableCursor, Tables, TablesError};

/// Rows read at once through an index.
const BATCH: usize = 64;

/// Which rows of a key or index, and in which order.
#[derive(Clone, Debug)]
pub struct Range {
    /// Values of the first columns.
    pub equal: Vec<Datum>,
    /// Where the next column begins.
    pub low: Bound<Datum>,
    /// Where it ends.
    pub high: Bound<Datum>,
    /// Up or down.
    pub direction: Direction,
}

impl Range {
    /// All rows, upwards.
    pub const ALL: Range = Range { equal: Vec::new(), low: Bound::Unbounded, high: Bound::Unbounded, direction: Direction::Up };

    fn keys(&self, table: &Table, columns: &[u16]) -> Result<KeyRange, TablesError> {
        KeyRange::between(&self.equal, self.low.as_ref(), self.high.as_ref(), &table.types(columns))
            .map_err(|error| TablesError::Codec { table: table.name.clone(), error })
    }
}

pub(super) enum Source {
    Table(Arc<Table>, TableCursor),
    Index(Arc<Table>, IndexCursor),
}

/// Rows being read: what the statement's snapshot sees. The transaction does nothing else meanwhile.
pub struct Scan<'t> {
    txn: &'t mut rows::Transaction,
    source: Source,
    rows: VecDeque<Row>,
    ended: bool,
}

impl<'t> Scan<'t> {
    pub(super) fn new(txn: &'t mut rows::Transaction, source: Source) -> Scan<'t> {
        Scan { txn, source, rows: VecDeque::new(), ended: false }
    }

    pub(super) fn of_table(tables: &Tables, txn: &rows::Transaction, table: Arc<Table>, range: &Range) -> Result<Source, TablesError> {
        let columns = table.key.as_ref().map_or(&[][..], |key| &key.columns);
        let cursor = tables.scan(txn, &table, range.keys(&table, columns)?, range.direction);
        Ok(Source::Table(table, cursor))
    }

    pub(super) fn of_index(
        tables: &Tables,
        txn: &rows::Transaction,
        table: &Arc<Table>,
        index: &Index,
        range: &Range,
    ) -> Result<Source, TablesError> {
        let cursor = tables.index_scan(txn, table, index, range.keys(table, &index.columns)?, range.direction);
        Ok(Source::Index(table.clone(), cursor))
    }

    /// The next row; nothing at the end.
    ///
    /// # Errors
    /// [`TablesError::Row`], [`TablesError::Codec`], [`TablesError::IndexDisagrees`].
    pub async fn next(&mut self) -> Result<Option<Vec<Datum>>, DatabaseError> {
        if self.rows.is_empty() && !self.ended {
            let more = match &mut self.source {
                Source::Table(_, cursor) => cursor.next(self.txn).await?,
                Source::Index(_, cursor) => cursor.next(self.txn, BATCH).await?,
            };
            self.ended = more.is_empty();
            self.rows.extend(more);
        }
        let Some(row) = self.rows.pop_front() else { return Ok(None) };
        let (Source::Table(table, _) | Source::Index(table, _)) = &self.source;
        Ok(Some(values(table, &row)?))
    }
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        self.txn.end_statement();
    }
}
