//! What tables, columns and indexes there are.

use serde::{Deserialize, Serialize};

use super::datum::Type;
use crate::base::TreeId;

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
