//! What tables, columns and indexes there are.
//!
//! Definitions are rows of a tree of their own, under the same transactions as all rows, so that changes of definitions roll back like others.
//! `records` has them as bytes, `store` reads and writes them, `cache` keeps what is committed. Callers: [`super::tables`], which also knows
//! about locks and trees; SQL reads definitions.

mod records;
mod store;

pub use records::Named;
pub use store::Catalog;
pub(in crate::table) use store::{
    Seen, put_column, put_index, put_table, read_all, read_index, read_name, read_table, release_name, remove_index, remove_table,
    take_name,
};

use serde::{Deserialize, Serialize};

use super::datum::Type;
use crate::base::TreeId;

/// The catalog's own tree; made with the store.
pub const CATALOG: TreeId = TreeId(16);
/// Most columns of a table.
pub const COLUMNS_MAX: usize = 1600;
/// Most columns of an index or key.
pub const KEY_COLUMNS_MAX: usize = 32;

/// A column.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Whether null is refused.
    pub not_null: bool,
    /// The SQL expression of its default.
    pub default: Option<String>,
}

/// Whether an index can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum IndexState {
    /// Kept up by writers, not complete: its online build is under way or was cut off.
    Building,
    /// Complete.
    Ready,
}

/// A secondary index.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Index {
    /// Its number among tables and indexes; never given again.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its entries.
    pub tree: TreeId,
    /// Positions of its columns in the table.
    pub columns: Vec<u16>,
    /// Whether two rows with the same values, none null, are refused.
    pub unique: bool,
    /// Whether it can be read.
    pub state: IndexState,
}

/// The primary key: the order of the table's tree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PrimaryKey {
    /// The constraint's name.
    pub name: String,
    /// Its number among tables and indexes.
    pub id: u32,
    /// Positions of its columns in the table.
    pub columns: Vec<u16>,
}

/// A table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Table {
    /// Its number among tables and indexes; never given again.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its rows.
    pub tree: TreeId,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its key; rows of a table without are ordered by a hidden row number.
    pub key: Option<PrimaryKey>,
    /// Its secondary indexes.
    pub indexes: Vec<Index>,
}

impl Table {
    /// Position of the column called `name`.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Types of the columns at `positions`.
    pub fn types(&self, positions: &[u16]) -> Vec<Type> {
        positions.iter().map(|position| self.columns[usize::from(*position)].ty).collect()
    }

    /// Types of the primary key's columns; none without one.
    pub fn key_types(&self) -> Vec<Type> {
        self.key.as_ref().map_or_else(Vec::new, |key| self.types(&key.columns))
    }

    /// The index called `name`.
    pub fn index(&self, name: &str) -> Option<&Index> {
        self.indexes.iter().find(|index| index.name == name)
    }
}
