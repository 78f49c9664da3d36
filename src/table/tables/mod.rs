//! Typed tables: definitions, rows with their index entries, scans, builds, checks.
//!
//! ```text
//! lookup   what tables there are, as a transaction sees it      cache, attachment   committed definitions; a transaction's own
//! define   create, drop, truncate                               build, online, sort indexes and keys over rows that are there
//! change   insert, update, delete                               load                many rows at once
//! entry    index entries as bytes                               scan                tables and indexes, in order
//! numbers  keys for tables without one                          check               indexes against tables
//! ```
//! Callers: SQL, the embedding API. A table's rows lie in its tree by primary key, or by a hidden row number; a secondary index is a tree of
//! entries, changed under the same transaction as the row, so that each snapshot sees exactly the entries of the rows that it sees.
//!
//! Invariants: who changes a row's entries has changed the row first, so it has the row's lock; who uses a table has locked it
//! ([`Tables::open`]), so its definition stays. What this layer doesn't do: SQL's types and expressions, checks but NOT NULL and uniqueness.

mod attachment;
mod build;
mod cache;
mod change;
mod check;
mod define;
mod entry;
mod error;
mod load;
mod lookup;
pub(in crate::table) mod newest;
mod numbers;
mod online;
mod scan;
mod sort;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use change::{Added, Removed, Updated};
pub use check::{TableCheck, TableFinding, TablesProgress, TablesReport};
pub use define::{IndexSpec, KeySpec, TableSpec};
pub use error::{Duplicate, TablesError};
pub use load::Loader;
pub use lookup::Relation;
pub use scan::{IndexCursor, TableCursor};

use super::rows::Rows;
use crate::base::Seams;

struct Shared {
    rows: Rows,
    cache: Arc<cache::Cache>,
    numbers: numbers::Numbers,
}

/// The typed tables of one instance. Clones share everything. All who write must use clones of one: definitions that are cached and row numbers
/// that are given out are known to that one alone.
#[derive(Clone)]
pub struct Tables {
    shared: Arc<Shared>,
}

impl Tables {
    /// Tables over `rows`.
    pub fn new(rows: Rows) -> Tables {
        Tables { shared: Arc::new(Shared { rows, cache: Arc::default(), numbers: numbers::Numbers::default() }) }
    }

    /// The rows below.
    pub fn rows(&self) -> &Rows {
        &self.shared.rows
    }

    fn seams(&self) -> &Seams {
        self.shared.rows.trees().cache().seams()
    }
}
