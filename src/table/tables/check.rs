//! Do indexes agree with their tables, and definitions with each other?
//!
//! Each table is looked at in one snapshot, while others go on writing; only its definition is locked. Every row must be readable, lie under the key
//! of its values, and have its entry in each complete index. As different rows have different entries, an index with as many entries as there
//! are rows has no others; if the numbers differ, each entry is looked at. The trees below have their own check
//! ([`crate::table::Trees::check`]). Memory: a page at a time; it names so many findings at most.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use super::{Tables, TablesError, entry};
use crate::base::TreeId;
use crate::table::Direction;
use crate::table::catalog::{self, Catalog, Index, IndexState, Named, Seen, Table};
use crate::table::datum::row::decode_row;
use crate::table::datum::{CodecError, Datum};
use crate::table::rows::{Interrupt, OnConflict, Row, RowError, Transaction};
use crate::txn::{Isolation, TableLock};

/// Findings that are kept; those behind are counted.
const FINDINGS_MAX: usize = 1000;

/// Something wrong. Keys are in hexadecimal.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TableFinding {
    /// The definitions can't be read.
    #[error("the catalog can't be read: {error}")]
    Catalog {
        /// Why.
        error: TablesError,
    },
    /// A name that leads nowhere.
    #[error("the name \"{name}\" stands for a relation that isn't there")]
    DanglingName {
        /// The name.
        name: String,
    },
    /// A relation that can't be found by its name.
    #[error("\"{name}\", relation {id}, can't be found by its name")]
    Nameless {
        /// The name that it should have.
        name: String,
        /// Its number.
        id: u32,
    },
    /// A relation without its tree.
    #[error("\"{name}\" has no {tree}")]
    NoTree {
        /// The table or index.
        name: String,
        /// The tree that it names.
        tree: TreeId,
    },
    /// A table that could not be looked at to its end.
    #[error("table \"{table}\" could not be checked to its end: {error}")]
    Stopped {
        /// The table.
        table: String,
        /// Why.
        error: TablesError,
    },
    /// A row that can't be read.
    #[error("table \"{table}\", row {key}: {error}")]
    UnreadableRow {
        /// The table.
        table: String,
        /// The row's key.
        key: String,
        /// What is wrong with it.
        error: CodecError,
    },
    /// A row in the wrong place.
    #[error("table \"{table}\", row {key}: its place should be {expected}")]
    WrongKey {
        /// The table.
        table: String,
        /// The key that it has.
        key: String,
        /// The key that it should have.
        expected: String,
    },
    /// A null where none may be.
    #[error("table \"{table}\", row {key}: null in column \"{column}\", which is NOT NULL")]
    Null {
        /// The table.
        table: String,
        /// The row's key.
        key: String,
        /// The column.
        column: String,
    },
    /// A row that an index doesn't lead to.
    #[error("index \"{index}\" of table \"{table}\" has no entry for row {key}")]
    NoEntry {
        /// The table.
        table: String,
        /// The index.
        index: String,
        /// The row's key.
        key: String,
    },
    /// Two rows with the same values.
    #[error("unique index \"{index}\" of table \"{table}\": row {key} has the same values as row {other}, which has the entry")]
    TwoRows {
        /// The table.
        table: String,
        /// The index.
        index: String,
        /// The row's key.
        key: String,
        /// The other row's.
        other: String,
    },
    /// An entry that leads to no row, or to one with other values.
    #[error("index \"{index}\" of table \"{table}\": entry {entry} {what}")]
    StrayEntry {
        /// The table.
        table: String,
        /// The index.
        index: String,
        /// The entry's key.
        entry: String,
        /// How so.
        what: &'static str,
    },
    /// An online build that was cut off; nobody reads the index.
    #[error("index \"{index}\" of table \"{table}\" is incomplete: its build was cut off, or is under way; REINDEX or DROP INDEX mends it")]
    Incomplete {
        /// The table.
        table: String,
        /// The index.
        index: String,
    },
}

impl TableFinding {
    /// Whether nothing is damaged: only something left undone.
    pub fn is_notice(&self) -> bool {
        matches!(self, TableFinding::Incomplete { .. })
    }
}

/// What a table was found to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableCheck {
    /// Its name.
    pub table: String,
    /// Rows seen.
    pub rows: u64,
    /// Entries of each complete index.
    pub entries: Vec<(String, u64)>,
}

/// What the check found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TablesReport {
    /// The tables, in order of their numbers.
    pub tables: Vec<TableCheck>,
    /// What is wrong, the first of it.
    pub findings: Vec<TableFinding>,
    /// How many findings there were in all.
    pub found: u64,
}

impl TablesReport {
    /// Whether nothing is damaged.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(TableFinding::is_notice)
    }

    fn add(&mut self, finding: TableFinding) {
        self.found += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

/// How far the check is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablesProgress {
    /// The table being looked at.
    pub table: String,
    /// The index, while its own entries are looked at.
    pub index: Option<String>,
    /// Which table of how many, from 1.
    pub number: usize,
    /// How many tables there are.
    pub tables: usize,
    /// Rows or entries of it seen.
    pub done: u64,
}

/// A table being checked.
struct One<'c> {
    table: &'c Table,
    report: &'c mut TablesReport,
    progress: &'c mut (dyn FnMut(&TablesProgress) + Send),
    at: TablesProgress,
}

impl Tables {
    /// Checks all tables against their indexes; see the module. `interrupt` stops it.
    ///
    /// # Errors
    /// [`TablesError::Row`] with [`RowError::Cancelled`]; whatever else goes wrong is a finding.
    pub async fn check(
        &self,
        interrupt: &Interrupt,
        progress: &mut (dyn FnMut(&TablesProgress) + Send),
    ) -> Result<TablesReport, TablesError> {
        let mut report = TablesReport::default();
        let mut txn = self.begin(interrupt);
        let read = catalog::read_all(&txn).await;
        txn.end_statement();
        drop(txn);
        let catalog = match read {
            Ok(catalog) => catalog,
            Err(error) => {
                report.add(TableFinding::Catalog { error });
                return Ok(report);
            }
        };
        self.check_names(&catalog, &mut report).await?;
        let tables = catalog.tables.len();
        for (number, table) in catalog.tables.values().enumerate() {
            let at = TablesProgress { table: table.name.clone(), index: None, number: number + 1, tables, done: 0 };
            self.check_table(table, at, interrupt, &mut report, progress).await?;
        }
        Ok(report)
    }

    /// Names against relations, relations against trees.
    async fn check_names(&self, catalog: &Catalog, report: &mut TablesReport) -> Result<(), TablesError> {
        let trees = self.rows().trees().trees().await.map_err(RowError::Table)?;
        let trees: BTreeSet<TreeId> = trees.into_iter().map(|(tree, _)| tree).collect();
        for (name, named) in &catalog.names {
            let there = catalog.tables.get(&named.table()).is_some_and(|table| match named {
                Named::Table { .. } => table.name == *name,
                Named::Index { index, .. } => table.indexes.iter().any(|other| other.id == *index && other.name == *name),
                Named::PrimaryKey { .. } => table.key.as_ref().is_some_and(|key| key.name == *name),
            });
            if !there {
                report.add(TableFinding::DanglingName { name: name.clone() });
            }
        }
        for table in catalog.tables.values() {
            let indexes = table.indexes.iter().map(|index| (&index.name, index.id, index.tree));
            for (name, id, tree) in std::iter::once((&table.name, table.id, table.tree)).chain(indexes) {
                let found = match catalog.names.get(name) {
                    Some(Named::Table { table }) => *table == id,
                    Some(Named::Index { index, .. }) => *index == id,
                    _ => false,
                };
                if !found {
                    report.add(TableFinding::Nameless { name: name.clone(), id });
                }
                if !trees.contains(&tree) {
                    report.add(TableFinding::NoTree { name: name.clone(), tree });
                }
            }
        }
        Ok(())
    }

    async fn check_table(
        &self,
        table: &Arc<Table>,
        at: TablesProgress,
        interrupt: &Interrupt,
        report: &mut TablesReport,
        progress: &mut (dyn FnMut(&TablesProgress) + Send),
    ) -> Result<(), TablesError> {
        let mut guard = self.begin(interrupt);
        guard.lock_table(table.id, TableLock::AccessShare, OnConflict::Wait).await?;
        // The snapshot is taken once the definition stays as it is; what it sees of the definition fits what it sees of rows.
        let mut txn = self.rows().begin(Isolation::RepeatableRead, interrupt.clone());
        txn.begin_statement();
        let outcome = match catalog::read_table(&txn, table.id, Seen::Snapshot).await {
            Ok(Some(table)) => One { table: &table, report: &mut *report, progress, at }.check(&txn).await,
            // Dropped meanwhile.
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        txn.end_statement();
        guard.end_statement();
        match outcome {
            Err(error @ TablesError::Row(RowError::Cancelled)) => Err(error),
            Err(error) => {
                report.add(TableFinding::Stopped { table: table.name.clone(), error });
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

impl One<'_> {
    async fn check(mut self, txn: &Transaction) -> Result<(), TablesError> {
        let mut check = TableCheck { table: self.table.name.clone(), rows: 0, entries: Vec::new() };
        for index in self.table.indexes.iter().filter(|index| index.state == IndexState::Building) {
            self.report.add(TableFinding::Incomplete { table: self.table.name.clone(), index: index.name.clone() });
        }
        let complete: Vec<&Index> = self.table.indexes.iter().filter(|index| index.state == IndexState::Ready).collect();
        let mut cursor = txn.cursor(self.table.tree, Bound::Unbounded, Bound::Unbounded, Direction::Up);
        loop {
            let rows = cursor.next(txn).await?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                self.check_row(txn, &complete, row).await?;
            }
            check.rows += rows.len() as u64;
            self.say(None, check.rows);
        }
        for index in complete {
            let entries = self.count(txn, index).await?;
            if entries != check.rows {
                self.check_entries(txn, index).await?;
            }
            check.entries.push((index.name.clone(), entries));
        }
        self.report.tables.push(check);
        Ok(())
    }

    fn say(&mut self, index: Option<&Index>, done: u64) {
        self.at.done = done;
        self.at.index = index.map(|index| index.name.clone());
        (self.progress)(&self.at);
    }

    fn stray(&mut self, index: &Index, entry: &[u8], what: &'static str) {
        let (table, index) = (self.table.name.clone(), index.name.clone());
        self.report.add(TableFinding::StrayEntry { table, index, entry: hex(entry), what });
    }

    /// A row by itself, and its entries.
    async fn check_row(&mut self, txn: &Transaction, indexes: &[&Index], row: &Row) -> Result<(), TablesError> {
        let table = self.table;
        let key = hex(&row.key);
        let values = match decode_row(&row.value, &table.columns) {
            Ok(values) => values,
            Err(error) => {
                self.report.add(TableFinding::UnreadableRow { table: table.name.clone(), key, error });
                return Ok(());
            }
        };
        for (column, datum) in table.columns.iter().zip(&values) {
            if column.not_null && *datum == Datum::Null {
                let (table, column) = (table.name.clone(), column.name.clone());
                self.report.add(TableFinding::Null { table, key: key.clone(), column });
            }
        }
        if let Some(primary) = &table.key {
            let expected = entry::primary_key(table, &primary.columns, &values)?;
            if expected != row.key {
                self.report.add(TableFinding::WrongKey { table: table.name.clone(), key: key.clone(), expected: hex(&expected) });
            }
        }
        if table.key.is_none() && row.key.len() != size_of::<u64>() {
            let expected = "a row number of 8 bytes".to_owned();
            self.report.add(TableFinding::WrongKey { table: table.name.clone(), key: key.clone(), expected });
        }
        for index in indexes {
            let entry = entry::entry(table, index, &values, &row.key)?;
            let (table, index_name) = (table.name.clone(), index.name.clone());
            match txn.get(index.tree, &entry.key).await? {
                Some(found) if found.value == entry.value => {}
                Some(found) => {
                    let other = hex(&found.value);
                    self.report.add(TableFinding::TwoRows { table, index: index_name, key: key.clone(), other });
                }
                None => self.report.add(TableFinding::NoEntry { table, index: index_name, key: key.clone() }),
            }
        }
        Ok(())
    }

    async fn count(&mut self, txn: &Transaction, index: &Index) -> Result<u64, TablesError> {
        let mut cursor = txn.cursor(index.tree, Bound::Unbounded, Bound::Unbounded, Direction::Up);
        let mut entries = 0;
        loop {
            match cursor.next(txn).await?.len() {
                0 => return Ok(entries),
                more => entries += more as u64,
            }
            self.say(Some(index), entries);
        }
    }

    /// Each entry of an index against the row that it leads to.
    async fn check_entries(&mut self, txn: &Transaction, index: &Index) -> Result<(), TablesError> {
        let table = self.table;
        let types = table.types(&index.columns);
        let mut cursor = txn.cursor(index.tree, Bound::Unbounded, Bound::Unbounded, Direction::Up);
        loop {
            let entries = cursor.next(txn).await?;
            if entries.is_empty() {
                return Ok(());
            }
            for found in entries {
                let Ok(row_key) = entry::row_key_of(table, index, &types, &found.key, &found.value) else {
                    self.stray(index, &found.key, "can't be read");
                    continue;
                };
                match txn.get(table.tree, row_key).await? {
                    None => self.stray(index, &found.key, "leads to a row that isn't there"),
                    Some(row) => match entry::entry_of_value(table, index, &row.value, &row.key) {
                        Ok(entry) if entry.key == found.key && entry.value == found.value => {}
                        Ok(_) => self.stray(index, &found.key, "leads to a row with other values"),
                        // The row itself has been found to be unreadable.
                        Err(TablesError::Codec { .. }) => {}
                        Err(error) => return Err(error),
                    },
                }
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
