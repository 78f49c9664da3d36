//! Rows as the bodies of DataRow messages.

use crate::sql::error::SqlError;
use crate::sql::session::Format;
use crate::sql::types::{Datum, Formats, SqlType, output_binary, output_text};

/// Replaces `out` by the body of a DataRow: number of columns (i16), then for each its length (i32, -1: null) and bytes.
///
/// # Errors
/// 0A000: a type without a binary format.
pub fn encode(row: &[Datum], types: &[SqlType], formats: &[Format], settings: &Formats, out: &mut Vec<u8>) -> Result<(), SqlError> {
    out.clear();
    out.extend((types.len() as i16).to_be_bytes());
    for ((value, ty), format) in row.iter().zip(types).zip(formats) {
        column(value, *ty, *format, settings, out)?;
    }
    Ok(())
}

/// Appends one column.
///
/// # Errors
/// As [`encode`].
pub fn column(value: &Datum, ty: SqlType, format: Format, settings: &Formats, out: &mut Vec<u8>) -> Result<(), SqlError> {
    if *value == Datum::Null {
        out.extend((-1_i32).to_be_bytes());
        return Ok(());
    }
    let at = out.len();
    out.extend([0; 4]);
    match format {
        Format::Text => output_text(ty, value, settings, out),
        Format::Binary => output_binary(ty, value, settings, out)?,
    }
    let length = (out.len() - at - 4) as i32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}
