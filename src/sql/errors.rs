//! Errors of the layers below as clients are told them.

use super::error::SqlError;
use super::types::{Datum, SqlType, text};
use super::world::World;
use crate::table::catalog::Table;
use crate::table::rows::RowError;
use crate::table::tables::{Duplicate, TablesError};

/// How many characters of a value an error shows.
const SHOWN: usize = 64;

impl From<TablesError> for SqlError {
    fn from(error: TablesError) -> SqlError {
        let told = SqlError::new(error.sqlstate(), error.to_string());
        match &error {
            TablesError::NotNull { table, column } => told.column(column, table),
            TablesError::Row(RowError::Deadlock { circle }) => SqlError::new("40P01", "deadlock detected").detail(circle.clone()),
            TablesError::Row(RowError::Cancelled) => SqlError::new("57014", "canceling statement due to user request"),
            TablesError::Row(RowError::SnapshotTooOld) => SqlError::new("72000", "snapshot too old").detail(error.to_string()),
            _ => told,
        }
    }
}

impl From<RowError> for SqlError {
    fn from(error: RowError) -> SqlError {
        TablesError::Row(error).into()
    }
}

/// The type that shows which variant a value is, when nothing else is known of it.
pub fn type_of(value: &Datum) -> SqlType {
    match value {
        Datum::Null | Datum::Text(_) => SqlType::TEXT,
        Datum::Bool(_) => SqlType::BOOL,
        Datum::Int2(_) => SqlType::INT2,
        Datum::Int4(_) => SqlType::INT4,
        Datum::Int8(_) => SqlType::INT8,
        Datum::Float8(_) => SqlType::FLOAT8,
        Datum::Numeric(_) => SqlType::NUMERIC,
        Datum::Bytea(_) => SqlType::BYTEA,
        Datum::Timestamp(_) => SqlType::TIMESTAMP,
        Datum::TimestampTz(_) => SqlType::TIMESTAMPTZ,
        Datum::Date(_) => SqlType::DATE,
        Datum::Uuid(_) => SqlType::UUID,
    }
}

/// A value in an error's detail.
pub fn shown(value: &Datum, world: &World) -> String {
    match value {
        Datum::Null => "null".into(),
        value => {
            let text = text::to_string(type_of(value), value, &world.formats);
            match text.char_indices().nth(SHOWN) {
                Some((cut, _)) => format!("{}...", &text[..cut]),
                None => text,
            }
        }
    }
}

/// 23505.
pub fn duplicate(found: &Duplicate, table: &Table, world: &World) -> SqlError {
    let values: Vec<String> = found.values.iter().map(|value| shown(value, world)).collect();
    let message = format!("duplicate key value violates unique constraint \"{}\"", found.constraint);
    let detail = format!("Key ({})=({}) already exists.", found.columns.join(", "), values.join(", "));
    SqlError::new("23505", message).detail(detail).constraint(&found.constraint, &table.name)
}

/// 23505, while an index or key is built over rows that are there.
pub fn duplicated(found: &Duplicate, table: &str, world: &World) -> SqlError {
    let values: Vec<String> = found.values.iter().map(|value| shown(value, world)).collect();
    let message = format!("could not create unique index \"{}\"", found.constraint);
    let detail = format!("Key ({})=({}) is duplicated.", found.columns.join(", "), values.join(", "));
    SqlError::new("23505", message).detail(detail).constraint(&found.constraint, table)
}
