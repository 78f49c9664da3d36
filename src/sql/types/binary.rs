//! Values in and out in PostgreSQL's binary format: numbers big-endian, timestamps in microseconds and dates in days since 2000-01-01.

use super::interval::Interval;
use super::text::limited;
use super::{Context, Datum, Formats, SqlError, SqlType, Type, array, calendar, fail, mismatch, numeric, text};

/// Appends a value in binary; for null nothing.
pub fn output_binary(ty: SqlType, value: &Datum, formats: &Formats, out: &mut Vec<u8>) -> Result<(), SqlError> {
    match (ty, value) {
        (_, Datum::Null) => {}
        (SqlType::Array(element), Datum::Text(text)) => array::write_binary(element, text, formats, out)?,
        (SqlType::Int2Vector | SqlType::OidVector, Datum::Text(text)) => array::write_vector_binary(ty, text, out)?,
        (_, Datum::Bool(value)) => out.push(u8::from(*value)),
        (_, Datum::Int2(value)) => out.extend_from_slice(&value.to_be_bytes()),
        (_, Datum::Int4(value)) => out.extend_from_slice(&value.to_be_bytes()),
        (_, Datum::Int8(value)) if ty.is_oid() => out.extend_from_slice(&(*value as u32).to_be_bytes()),
        (_, Datum::Int8(value)) => out.extend_from_slice(&value.to_be_bytes()),
        (_, Datum::Float8(value)) => out.extend_from_slice(&value.to_bits().to_be_bytes()),
        (_, Datum::Numeric(value)) => numeric::write_binary(out, value),
        (_, Datum::Text(_)) => text::output_text(ty, value, formats, out),
        (SqlType::Interval, Datum::Bytea(bytes)) => match Interval::from_bytes(bytes) {
            Some(interval) => interval.write_binary(out),
            None => return mismatch("interval", value),
        },
        (_, Datum::Bytea(value)) => out.extend_from_slice(value),
        (_, Datum::Timestamp(value) | Datum::TimestampTz(value)) => out.extend_from_slice(&value.to_be_bytes()),
        (_, Datum::Date(value)) => out.extend_from_slice(&value.to_be_bytes()),
        (_, Datum::Uuid(value)) => out.extend_from_slice(value),
    }
    Ok(())
}

/// Exactly N bytes.
fn exact<const N: usize>(bytes: &[u8]) -> Result<[u8; N], SqlError> {
    match bytes.try_into() {
        Ok(array) => Ok(array),
        Err(_) if bytes.len() < N => fail("08P01", "insufficient data left in message"),
        Err(_) => fail("22P03", "incorrect binary data format"),
    }
}

/// UTF-8 without zero bytes.
pub fn utf8(bytes: &[u8]) -> Result<&str, SqlError> {
    let sequence = |at: usize| {
        // As many bytes as the first one asks for, as PostgreSQL's report_invalid_encoding shows them.
        let want = match bytes[at] {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            _ => 1,
        };
        let shown: Vec<String> = bytes[at..bytes.len().min(at + want)].iter().map(|b| format!("0x{b:02x}")).collect();
        fail("22021", format!("invalid byte sequence for encoding \"UTF8\": {}", shown.join(" ")))
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => match bytes.iter().position(|&b| b == 0) {
            None => Ok(text),
            Some(at) => sequence(at),
        },
        Err(error) => match bytes[..error.valid_up_to()].iter().position(|&b| b == 0) {
            Some(at) => sequence(at),
            None => sequence(error.valid_up_to()),
        },
    }
}

/// Reads a value of `ty`.
pub fn input_binary(ty: SqlType, bytes: &[u8], context: &Context<'_>) -> Result<Datum, SqlError> {
    Ok(match ty {
        SqlType::Stored(stored) => return input_stored(stored, bytes),
        SqlType::Interval => Interval::read_binary(bytes)?.datum(),
        SqlType::Oid | SqlType::Regclass | SqlType::Regtype | SqlType::Regproc | SqlType::Regnamespace => {
            Datum::Int8(u32::from_be_bytes(exact(bytes)?).into())
        }
        SqlType::Array(element) => array::read_binary(element, bytes, context)?,
        SqlType::Unknown | SqlType::Name | SqlType::InternalChar => text::input(ty, utf8(bytes)?, context)?,
        SqlType::Int2Vector | SqlType::OidVector | SqlType::Void | SqlType::Any | SqlType::AnyElement => {
            return fail("0A000", format!("cannot accept a binary value of type {}", ty.display_name()));
        }
    })
}

fn input_stored(ty: Type, bytes: &[u8]) -> Result<Datum, SqlError> {
    Ok(match ty {
        Type::Bool => Datum::Bool(exact::<1>(bytes)?[0] != 0),
        Type::Int2 => Datum::Int2(i16::from_be_bytes(exact(bytes)?)),
        Type::Int4 => Datum::Int4(i32::from_be_bytes(exact(bytes)?)),
        Type::Int8 => Datum::Int8(i64::from_be_bytes(exact(bytes)?)),
        Type::Float8 => Datum::Float8(f64::from_bits(u64::from_be_bytes(exact(bytes)?))),
        Type::Numeric(limit) => Datum::Numeric(numeric::read_binary(bytes, limit)?),
        Type::Text | Type::Varchar(None) | Type::Char(0) => Datum::Text(utf8(bytes)?.to_owned()),
        Type::Varchar(Some(limit)) => Datum::Text(limited(utf8(bytes)?, limit, ty)?.to_owned()),
        Type::Char(limit) => Datum::Text(limited(utf8(bytes)?, limit, ty)?.trim_end_matches(' ').to_owned()),
        Type::Bytea => Datum::Bytea(bytes.to_vec()),
        Type::Timestamp => Datum::Timestamp(moment(bytes)?),
        Type::TimestampTz => Datum::TimestampTz(moment(bytes)?),
        Type::Date => {
            let days = i32::from_be_bytes(exact(bytes)?);
            let finite = (calendar::DATE_MIN..calendar::DATE_END).contains(&days);
            if !finite && days != i32::MIN && days != i32::MAX {
                return fail("22008", "date out of range");
            }
            Datum::Date(days)
        }
        Type::Uuid => Datum::Uuid(exact(bytes)?),
    })
}

fn moment(bytes: &[u8]) -> Result<i64, SqlError> {
    let moment = i64::from_be_bytes(exact(bytes)?);
    if !calendar::in_range(moment) && moment != i64::MIN && moment != i64::MAX {
        return fail("22008", "timestamp out of range");
    }
    Ok(moment)
}
