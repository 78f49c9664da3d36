//! The virtual catalog: tables of `pg_catalog` and `information_schema`, made from the real one when they are read.
//!
//! Drivers, psql and SQLAlchemy ask them with ordinary queries; what they ask of, and nothing more, is here. Columns that nothing fills are
//! null or empty. Callers: the binder, which finds them by name, and the executor.

mod catalog;
mod information;
mod relations;

use super::error::SqlError;
use super::plan::Row;
use super::types::{Datum, SqlType};
use super::world::World;

/// Number of schema `pg_catalog`.
pub const PG_CATALOG: u32 = 11;
/// Number of schema `public`.
pub const PUBLIC: u32 = 2200;
/// Number of schema `information_schema`.
pub const INFORMATION: u32 = 13000;
/// Number of the role.
pub const ROLE: u32 = 10;
/// Number of the database.
pub const DATABASE: u32 = 5;

/// A virtual table.
pub struct View {
    /// Its schema.
    pub schema: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its number.
    pub oid: u32,
    /// Its columns.
    pub columns: &'static [(&'static str, SqlType)],
    make: fn(&World) -> Vec<Row>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

impl View {
    /// Its rows.
    ///
    /// # Errors
    /// XX000: they don't have its columns.
    pub fn rows(&self, world: &World) -> Result<Vec<Row>, SqlError> {
        let rows = (self.make)(world);
        match rows.iter().all(|row| row.len() == self.columns.len()) {
            true => Ok(rows),
            false => Err(SqlError::new("XX000", format!("view {} has rows of other columns", self.name))),
        }
    }
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static View> {
    catalog::VIEWS.iter().chain(relations::VIEWS).chain(information::VIEWS)
}

/// The one of that name; without a schema those of `pg_catalog` only.
pub fn find(schema: Option<&str>, name: &str) -> Option<&'static View> {
    all().find(|view| view.name == name && view.schema == schema.unwrap_or("pg_catalog"))
}

/// The name of a virtual table, by number.
pub fn name_of(oid: u32) -> Option<String> {
    all().find(|view| view.oid == oid).map(|view| view.name.to_string())
}

/// Whether a number is that of a table of `information_schema`.
pub fn is_information(oid: u32) -> bool {
    information::VIEWS.iter().any(|view| view.oid == oid)
}

/// The number of a virtual table, by name with or without its schema.
pub fn number_of(name: &str) -> Option<u32> {
    let (schema, name) = name.split_once('.').map_or((None, name), |(schema, name)| (Some(schema), name));
    find(schema, name).map(|view| view.oid)
}

pub(super) const OID: SqlType = SqlType::Oid;
pub(super) const NAME: SqlType = SqlType::Name;
pub(super) const TEXT: SqlType = SqlType::TEXT;
pub(super) const BOOL: SqlType = SqlType::BOOL;
pub(super) const INT2: SqlType = SqlType::INT2;
pub(super) const INT4: SqlType = SqlType::INT4;
pub(super) const INT8: SqlType = SqlType::INT8;
pub(super) const FLOAT8: SqlType = SqlType::FLOAT8;
pub(super) const CHAR: SqlType = SqlType::InternalChar;
pub(super) const TEXTS: SqlType = SqlType::Array(super::types::Type::Text);
pub(super) const INT8S: SqlType = SqlType::Array(super::types::Type::Int8);

pub(super) const NULL: Datum = Datum::Null;
pub(super) const TRUE: Datum = Datum::Bool(true);
pub(super) const FALSE: Datum = Datum::Bool(false);

pub(super) fn oid(value: u32) -> Datum {
    Datum::Int8(i64::from(value))
}

pub(super) fn text(value: impl Into<String>) -> Datum {
    Datum::Text(value.into())
}

pub(super) fn int2(value: i16) -> Datum {
    Datum::Int2(value)
}

pub(super) fn int4(value: i32) -> Datum {
    Datum::Int4(value)
}

pub(super) fn nothing(_: &World) -> Vec<Row> {
    Vec::new()
}
