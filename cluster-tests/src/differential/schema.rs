//! What the generator knows of tables: enough to write statements that make sense.

use super::value::{Kind, Value};

/// A column.
#[derive(Clone, Debug)]
pub struct Column {
    /// `c0`, `c1` ...
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// NOT NULL, also when by the key.
    pub not_null: bool,
    /// DEFAULT.
    pub default: Option<Value>,
}

/// An index.
#[derive(Clone, Debug)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// UNIQUE.
    pub unique: bool,
    /// Positions of its columns.
    pub columns: Vec<usize>,
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    /// `t0`, `t1` ...
    pub name: String,
    /// At least one.
    pub columns: Vec<Column>,
    /// Positions of the primary key's columns; empty for none.
    pub key: Vec<usize>,
    /// Its secondary indexes.
    pub indexes: Vec<Index>,
}

impl Table {
    /// Every column by which rows can be told apart: the key, or all, where equal rows look equal.
    pub fn identity(&self) -> Vec<usize> {
        if self.key.is_empty() { (0..self.columns.len()).collect() } else { self.key.clone() }
    }

    /// Sets of columns that ON CONFLICT may name.
    pub fn arbiters(&self) -> Vec<Vec<usize>> {
        let keys = (!self.key.is_empty()).then(|| self.key.clone());
        keys.into_iter().chain(self.indexes.iter().filter(|index| index.unique).map(|index| index.columns.clone())).collect()
    }

    /// Names of these columns, with commas.
    pub fn names(&self, columns: &[usize]) -> String {
        columns.iter().map(|&column| self.columns[column].name.clone()).collect::<Vec<_>>().join(", ")
    }
}

/// All tables there are.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// By no particular order.
    pub tables: Vec<Table>,
}

impl Schema {
    /// The table of that name.
    pub fn table_mut(&mut self, name: &str) -> Option<&mut Table> {
        self.tables.iter_mut().find(|table| table.name == name)
    }
}
