//! Rows as bytes: the value side of a table's tree.
//!
//! Format: `docs/formats/row.md`. Values lie one behind the other, so that reading a column walks over those before it; fixed
//! widths make that cheap. A row may have fewer columns than its table: the last ones are null then (room for ADD COLUMN). Callers:
//! [`super::super::tables`] writes rows; SQL reads columns of them, lazily. Nothing here knows about keys or transactions.

use bigdecimal::BigDecimal;
use num_bigint::BigInt;

use super::codec::{CodecError, Reader, SCALE_MAX, put_length, shorten};
use super::{Datum, Type};
use crate::table::catalog::Column;

/// First byte of each row.
pub const ROW_FORMAT: u8 = 1;

const WHAT: &str = "a row";

/// Appends the bytes of a row of `columns` to `out`.
///
/// # Errors
/// [`CodecError::Columns`], [`CodecError::Mismatch`], [`CodecError::Scale`]: `out` has part of it then.
pub fn encode_row(row: &[Datum], columns: &[Column], out: &mut Vec<u8>) -> Result<(), CodecError> {
    if row.len() != columns.len() {
        return Err(CodecError::Columns { expected: columns.len(), found: row.len() });
    }
    out.push(ROW_FORMAT);
    put_length(row.len(), out);
    let bitmap = out.len();
    out.resize(bitmap + row.len().div_ceil(8), 0);
    for (position, (datum, column)) in row.iter().zip(columns).enumerate() {
        if *datum == Datum::Null {
            out[bitmap + position / 8] |= 1 << (position % 8);
        } else {
            encode_value(datum, column.ty, out)?;
        }
    }
    Ok(())
}

/// Appends the bytes of a value that isn't null.
fn encode_value(datum: &Datum, ty: Type, out: &mut Vec<u8>) -> Result<(), CodecError> {
    match (ty, datum) {
        (Type::Bool, Datum::Bool(value)) => out.push(u8::from(*value)),
        (Type::Int2, Datum::Int2(value)) => out.extend(value.to_le_bytes()),
        (Type::Int4, Datum::Int4(value)) | (Type::Date, Datum::Date(value)) => out.extend(value.to_le_bytes()),
        (Type::Int8, Datum::Int8(value)) | (Type::Timestamp, Datum::Timestamp(value)) | (Type::TimestampTz, Datum::TimestampTz(value)) => {
            out.extend(value.to_le_bytes())
        }
        (Type::Float8, Datum::Float8(value)) => out.extend(value.to_bits().to_le_bytes()),
        (Type::Text | Type::Varchar(_) | Type::Char(_), Datum::Text(value)) => put_bytes(value.as_bytes(), out),
        (Type::Bytea, Datum::Bytea(value)) => put_bytes(value, out),
        (Type::Uuid, Datum::Uuid(value)) => out.extend(value),
        (Type::Numeric(_), Datum::Numeric(value)) => put_numeric(value, out)?,
        _ => return Err(CodecError::Mismatch { ty, found: shorten(datum) }),
    }
    Ok(())
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_length(bytes.len(), out);
    out.extend(bytes);
}

fn put_numeric(value: &BigDecimal, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let (digits, scale) = value.as_bigint_and_exponent();
    if !(-SCALE_MAX..=SCALE_MAX).contains(&scale) {
        return Err(CodecError::Scale { scale });
    }
    let digits = digits.to_signed_bytes_be();
    put_length(4 + digits.len(), out);
    out.extend((scale as i32).to_le_bytes());
    out.extend(digits);
    Ok(())
}

/// Where a row's values begin, and which are null.
struct Head<'a> {
    nulls: &'a [u8],
    columns: usize,
    values: Reader<'a>,
}

impl<'a> Head<'a> {
    fn read(row: &'a [u8], expected: usize) -> Result<Head<'a>, CodecError> {
        let mut reader = Reader::new(WHAT, row);
        let format = row.first().copied().unwrap_or(0);
        if format != ROW_FORMAT {
            return Err(CodecError::Format { expected: ROW_FORMAT, found: format });
        }
        reader.take(1, Type::Bytea)?;
        let columns = reader.length(Type::Int4)?;
        if columns > expected {
            return Err(CodecError::Columns { expected, found: columns });
        }
        let nulls = reader.take(columns.div_ceil(8), Type::Bytea)?;
        Ok(Head { nulls, columns, values: reader })
    }

    fn is_null(&self, position: usize) -> bool {
        position >= self.columns || self.nulls[position / 8] >> (position % 8) & 1 == 1
    }

    /// The bytes of the next value, of type `ty`.
    fn next(&mut self, ty: Type) -> Result<&'a [u8], CodecError> {
        let length = match ty {
            Type::Bool => 1,
            Type::Int2 => 2,
            Type::Int4 | Type::Date => 4,
            Type::Int8 | Type::Float8 | Type::Timestamp | Type::TimestampTz => 8,
            Type::Uuid => 16,
            Type::Numeric(_) | Type::Text | Type::Varchar(_) | Type::Char(_) | Type::Bytea => self.values.length(ty)?,
        };
        self.values.take(length, ty)
    }
}

/// The bytes of the value at `position`, without looking at what they say; nothing when it is null. [`decode_value`] reads them.
///
/// # Errors
/// [`CodecError`]: not a row of these columns.
pub fn raw_column<'a>(row: &'a [u8], columns: &[Column], position: usize) -> Result<Option<&'a [u8]>, CodecError> {
    let mut head = Head::read(row, columns.len())?;
    if head.is_null(position) {
        return Ok(None);
    }
    for (before, column) in columns[..position].iter().enumerate() {
        if !head.is_null(before) {
            head.next(column.ty)?;
        }
    }
    head.next(columns[position].ty).map(Some)
}

/// Shows `visit` the raw bytes of every column of a row in order, nothing for null, without copying.
///
/// # Errors
/// [`CodecError`]: not a row of these columns; or what `visit` says.
pub fn for_each_raw<'a, E: From<CodecError>>(
    row: &'a [u8],
    columns: &[Column],
    mut visit: impl FnMut(usize, Option<&'a [u8]>) -> Result<(), E>,
) -> Result<(), E> {
    let mut head = Head::read(row, columns.len())?;
    for (position, column) in columns.iter().enumerate() {
        let raw = if head.is_null(position) { None } else { Some(head.next(column.ty)?) };
        visit(position, raw)?;
    }
    match head.values.left() {
        [] => Ok(()),
        rest => Err(CodecError::Long { what: WHAT, bytes: rest.len() }.into()),
    }
}

/// The value at `position` of a row.
///
/// # Errors
/// [`CodecError`]: not a row of these columns.
pub fn decode_column(row: &[u8], columns: &[Column], position: usize) -> Result<Datum, CodecError> {
    match raw_column(row, columns, position)? {
        Some(raw) => decode_value(columns[position].ty, raw),
        None => Ok(Datum::Null),
    }
}

/// All values of a row.
///
/// # Errors
/// [`CodecError`]: not a row of these columns.
pub fn decode_row(row: &[u8], columns: &[Column]) -> Result<Vec<Datum>, CodecError> {
    let mut values = Vec::with_capacity(columns.len());
    for_each_raw(row, columns, |position, raw| {
        values.push(match raw {
            Some(raw) => decode_value(columns[position].ty, raw)?,
            None => Datum::Null,
        });
        Ok::<(), CodecError>(())
    })?;
    Ok(values)
}

/// The values at `wanted`, ascending positions, in one walk, appended to `out`.
///
/// # Errors
/// [`CodecError`]: not a row of these columns.
pub fn decode_columns(row: &[u8], columns: &[Column], wanted: &[u16], out: &mut Vec<Datum>) -> Result<(), CodecError> {
    let mut head = Head::read(row, columns.len())?;
    let mut at = 0;
    for &position in wanted {
        let position = usize::from(position);
        debug_assert!(position >= at, "positions ascend");
        for (before, column) in columns.iter().enumerate().take(position).skip(at) {
            if !head.is_null(before) {
                head.next(column.ty)?;
            }
        }
        out.push(if head.is_null(position) { Datum::Null } else { decode_value(columns[position].ty, head.next(columns[position].ty)?)? });
        at = position + 1;
    }
    Ok(())
}

/// Reads the bytes of one value of type `ty`, as [`raw_column`] gives them.
///
/// # Errors
/// [`CodecError`]: they are no such value.
pub fn decode_value(ty: Type, raw: &[u8]) -> Result<Datum, CodecError> {
    let mut reader = Reader::new("a value", raw);
    let datum = match ty {
        Type::Bool => match reader.byte(ty)? {
            byte @ (0 | 1) => Datum::Bool(byte == 1),
            _ => return Err(reader.value_error(ty, 0)),
        },
        Type::Int2 => Datum::Int2(i16::from_le_bytes(reader.array(ty)?)),
        Type::Int4 => Datum::Int4(i32::from_le_bytes(reader.array(ty)?)),
        Type::Date => Datum::Date(i32::from_le_bytes(reader.array(ty)?)),
        Type::Int8 => Datum::Int8(i64::from_le_bytes(reader.array(ty)?)),
        Type::Timestamp => Datum::Timestamp(i64::from_le_bytes(reader.array(ty)?)),
        Type::TimestampTz => Datum::TimestampTz(i64::from_le_bytes(reader.array(ty)?)),
        Type::Float8 => Datum::Float8(f64::from_bits(u64::from_le_bytes(reader.array(ty)?))),
        Type::Uuid => Datum::Uuid(reader.array(ty)?),
        Type::Text | Type::Varchar(_) | Type::Char(_) => match std::str::from_utf8(raw) {
            Ok(text) => return Ok(Datum::Text(text.to_owned())),
            Err(error) => return Err(reader.value_error(ty, error.valid_up_to())),
        },
        Type::Bytea => return Ok(Datum::Bytea(raw.to_vec())),
        Type::Numeric(_) => {
            let scale = i64::from(i32::from_le_bytes(reader.array(ty)?));
            if !(-SCALE_MAX..=SCALE_MAX).contains(&scale) {
                return Err(CodecError::Scale { scale });
            }
            return Ok(Datum::Numeric(BigDecimal::new(BigInt::from_signed_bytes_be(reader.left()), scale)));
        }
    };
    match reader.left() {
        [] => Ok(datum),
        rest => Err(CodecError::Long { what: "a value", bytes: rest.len() }),
    }
}
