//! Index entries, row keys and row values as bytes.
//!
//! An entry's key is the row's indexed columns, then the row's key; its value is empty. In a unique index, when no column is null, the
//! row's key is the entry's value instead, so that two rows with the same columns meet in one key. Nulls are distinct. Format:
//! `docs/formats/row.md`.

use super::error::{Duplicate, TablesError};
use crate::table::catalog::{Index, Table};
use crate::table::datum::key::{decode_key, encode_part};
use crate::table::datum::row::{decode_column, encode_row};
use crate::table::datum::{CodecError, Datum};
use crate::table::rows::ROW_MAX;

/// An entry of an index.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Entry {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// The entry of a row whose key is `row_key`; `column` gives its values.
fn entry_with<'d>(
    table: &Table,
    index: &Index,
    row_key: &[u8],
    mut column: impl FnMut(usize) -> Result<std::borrow::Cow<'d, Datum>, CodecError>,
) -> Result<Entry, TablesError> {
    let mut key = Vec::with_capacity(32);
    let mut distinct = !index.unique;
    for position in index.columns.iter().map(|position| usize::from(*position)) {
        let datum = column(position).map_err(|error| TablesError::codec(table, error))?;
        distinct |= *datum == Datum::Null;
        encode_part(&datum, table.columns[position].ty, &mut key).map_err(|error| TablesError::codec(table, error))?;
    }
    let value = if distinct {
        key.extend(row_key);
        Vec::new()
    } else {
        row_key.to_vec()
    };
    let bytes = key.len() + value.len();
    if bytes > ROW_MAX {
        return Err(TablesError::EntryTooLarge { index: index.name.clone(), bytes, most: ROW_MAX });
    }
    Ok(Entry { key, value })
}

/// The entry of `row`.
pub(super) fn entry(table: &Table, index: &Index, row: &[Datum], row_key: &[u8]) -> Result<Entry, TablesError> {
    entry_with(table, index, row_key, |position| Ok(std::borrow::Cow::Borrowed(&row[position])))
}

/// The entry of a row given as bytes.
pub(super) fn entry_of_value(table: &Table, index: &Index, value: &[u8], row_key: &[u8]) -> Result<Entry, TablesError> {
    entry_with(table, index, row_key, |position| decode_column(value, &table.columns, position).map(std::borrow::Cow::Owned))
}

/// Key of the row that an entry belongs to.
pub(super) fn row_key_of<'e>(
    table: &Table,
    index: &Index,
    types: &[crate::table::datum::Type],
    key: &'e [u8],
    value: &'e [u8],
) -> Result<&'e [u8], TablesError> {
    if !value.is_empty() {
        return Ok(value);
    }
    match decode_key(key, types) {
        Ok((_, row_key)) if !row_key.is_empty() => Ok(row_key),
        _ => Err(TablesError::IndexDisagrees { table: table.name.clone(), index: index.name.clone(), what: "an entry names no row" }),
    }
}

/// The key of `row` in a table that has a primary key.
pub(super) fn primary_key(table: &Table, columns: &[u16], row: &[Datum]) -> Result<Vec<u8>, TablesError> {
    let mut key = Vec::with_capacity(16);
    put_primary_key(table, columns, row, &mut key)?;
    Ok(key)
}

/// As [`primary_key`], appended to `out`.
pub(super) fn put_primary_key(table: &Table, columns: &[u16], row: &[Datum], out: &mut Vec<u8>) -> Result<(), TablesError> {
    for position in columns.iter().map(|position| usize::from(*position)) {
        encode_part(&row[position], table.columns[position].ty, out).map_err(|error| TablesError::codec(table, error))?;
    }
    Ok(())
}

/// The value of `row`, checked for length; `key_bytes` are those of its key.
pub(super) fn row_value(table: &Table, row: &[Datum], key_bytes: usize) -> Result<Vec<u8>, TablesError> {
    let mut value = Vec::with_capacity(64);
    put_row(table, row, &mut value)?;
    check_row_bytes(table, key_bytes + value.len())?;
    Ok(value)
}

/// Appends the value of `row` to `out`.
pub(super) fn put_row(table: &Table, row: &[Datum], out: &mut Vec<u8>) -> Result<(), TablesError> {
    encode_row(row, &table.columns, out).map_err(|error| TablesError::codec(table, error))
}

/// Refuses a row whose key and value have too many bytes.
pub(super) fn check_row_bytes(table: &Table, bytes: usize) -> Result<(), TablesError> {
    if bytes > ROW_MAX {
        return Err(TablesError::RowTooLarge { table: table.name.clone(), bytes, most: ROW_MAX });
    }
    Ok(())
}

/// Refuses a row of the wrong shape, or with nulls where none may be.
pub(super) fn check_row(table: &Table, row: &[Datum]) -> Result<(), TablesError> {
    if row.len() != table.columns.len() {
        return Err(TablesError::codec(table, CodecError::Columns { expected: table.columns.len(), found: row.len() }));
    }
    match table.columns.iter().zip(row).find(|(column, datum)| column.not_null && **datum == Datum::Null) {
        Some((column, _)) => Err(TablesError::NotNull { table: table.name.clone(), column: column.name.clone() }),
        None => Ok(()),
    }
}

/// What to say about a row that has the same values in `columns` as the row at `key`.
pub(super) fn duplicate(table: &Table, constraint: &str, columns: &[u16], values: Vec<Datum>, key: Vec<u8>) -> Duplicate {
    let columns = columns.iter().map(|position| table.columns[usize::from(*position)].name.clone()).collect();
    Duplicate { constraint: constraint.to_owned(), columns, values, key, row: None }
}
