//! Values in and out as text.

use super::interval::Interval;
use super::number::{read_float, read_int, trim, write_float, write_int};
use super::{Context, Datum, Formats, SqlError, SqlType, Type, array, datetime, fail, numeric};

/// Reads a value of `ty`: what `'...'::ty` does, except that lengths are kept as when a column is written (22001, not cut off).
pub fn input(ty: SqlType, text: &str, context: &Context<'_>) -> Result<Datum, SqlError> {
    Ok(match ty {
        SqlType::Stored(stored) => return input_stored(stored, text, context),
        SqlType::Interval => Interval::parse(text)?.datum(),
        SqlType::Oid | SqlType::Regclass | SqlType::Regtype | SqlType::Regproc | SqlType::Regnamespace => input_oid(ty, text)?,
        SqlType::Name => Datum::Text(cut_bytes(text, 63).to_owned()),
        SqlType::InternalChar => Datum::Text(text.chars().next().map(String::from).unwrap_or_default()),
        SqlType::Array(element) => array::input(element, text, context)?,
        SqlType::Unknown | SqlType::Int2Vector | SqlType::OidVector => Datum::Text(text.to_owned()),
        SqlType::Void => Datum::Text(String::new()),
        SqlType::Any | SqlType::AnyElement => {
            return fail("0A000", format!("cannot accept a value of type {}", ty.display_name()));
        }
    })
}

fn input_stored(ty: Type, text: &str, context: &Context<'_>) -> Result<Datum, SqlError> {
    Ok(match ty {
        Type::Bool => Datum::Bool(input_bool(text)?),
        Type::Int2 => Datum::Int2(read_int(text, i16::MIN.into(), i16::MAX.into(), "smallint")? as i16),
        Type::Int4 => Datum::Int4(read_int(text, i32::MIN.into(), i32::MAX.into(), "integer")? as i32),
        Type::Int8 => Datum::Int8(read_int(text, i64::MIN, i64::MAX, "bigint")?),
        Type::Float8 => Datum::Float8(read_float(text)?),
        Type::Numeric(limit) => Datum::Numeric(numeric::input(text, limit)?),
        Type::Text => Datum::Text(text.to_owned()),
        Type::Varchar(None) => Datum::Text(text.to_owned()),
        Type::Varchar(Some(limit)) => Datum::Text(limited(text, limit, ty)?.to_owned()),
        Type::Char(0) => Datum::Text(text.to_owned()),
        Type::Char(limit) => Datum::Text(limited(text, limit, ty)?.trim_end_matches(' ').to_owned()),
        Type::Bytea => Datum::Bytea(input_bytea(text)?),
        Type::Timestamp => Datum::Timestamp(datetime::input_timestamp(text, context)?),
        Type::TimestampTz => Datum::TimestampTz(datetime::input_timestamptz(text, context)?),
        Type::Date => Datum::Date(datetime::input_date(text, context)?),
        Type::Uuid => Datum::Uuid(input_uuid(text)?),
    })
}

/// The text where it has at most `limit` characters, without what is too much where that is all blanks; 22001 otherwise.
/// A limit of 0 is none.
pub(crate) fn limited(text: &str, limit: u32, ty: Type) -> Result<&str, SqlError> {
    let limit = limit as usize;
    if limit == 0 || text.len() <= limit {
        return Ok(text);
    }
    match text.char_indices().nth(limit) {
        None => Ok(text),
        Some((at, _)) if text[at..].bytes().all(|b| b == b' ') => Ok(&text[..at]),
        Some(_) => fail("22001", format!("value too long for type {}", SqlType::Stored(ty).format_type())),
    }
}

/// The first characters, at most `limit` bytes.
pub(crate) fn cut_bytes(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn input_bool(text: &str) -> Result<bool, SqlError> {
    let word = trim(text).to_ascii_lowercase();
    let begins = |whole: &str, least: usize| word.len() >= least && whole.starts_with(&word);
    if begins("true", 1) || begins("yes", 1) || word == "on" || word == "1" {
        return Ok(true);
    }
    if begins("false", 1) || begins("no", 1) || begins("off", 2) || word == "0" {
        return Ok(false);
    }
    fail("22P02", format!("invalid input syntax for type boolean: \"{text}\""))
}

/// An oid by number; the names that `regclass` and its like take are the virtual catalog's matter.
fn input_oid(ty: SqlType, text: &str) -> Result<Datum, SqlError> {
    let name = ty.display_name();
    let trimmed = trim(text);
    let digits = trimmed.strip_prefix('-').unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return fail("22P02", format!("invalid input syntax for type {name}: \"{text}\""));
    }
    match trimmed.parse::<i64>() {
        Ok(value) if (i64::from(i32::MIN)..=i64::from(u32::MAX)).contains(&value) => Ok(Datum::Int8(i64::from(value as u32))),
        _ => fail("22003", format!("value \"{text}\" is out of range for type {name}")),
    }
}

fn input_bytea(text: &str) -> Result<Vec<u8>, SqlError> {
    if let Some(hex) = text.strip_prefix("\\x") {
        return decode_hex(hex);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at..] {
            [b'\\', b'\\', ..] => {
                out.push(b'\\');
                at += 2;
            }
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                at += 4;
            }
            [b'\\', ..] => return fail("22P02", "invalid input syntax for type bytea"),
            [byte, ..] => {
                out.push(byte);
                at += 1;
            }
            [] => {}
        }
    }
    Ok(out)
}

/// Reads pairs of hexadecimal digits; blanks between pairs are skipped.
pub(crate) fn decode_hex(text: &str) -> Result<Vec<u8>, SqlError> {
    let mut out = Vec::with_capacity(text.len() / 2);
    let mut high: Option<u32> = None;
    for c in text.chars() {
        match (c.to_digit(16), high) {
            (Some(digit), None) => high = Some(digit),
            (Some(digit), Some(first)) => {
                out.push((first * 16 + digit) as u8);
                high = None;
            }
            (None, None) if matches!(c, ' ' | '\n' | '\t' | '\r') => {}
            (None, _) => return fail("22023", format!("invalid hexadecimal digit: \"{c}\"")),
        }
    }
    if high.is_some() { fail("22023", "invalid hexadecimal data: odd number of digits") } else { Ok(out) }
}

fn input_uuid(text: &str) -> Result<[u8; 16], SqlError> {
    let syntax = || fail("22P02", format!("invalid input syntax for type uuid: \"{text}\""));
    let bare = match text.strip_prefix('{') {
        Some(rest) => match rest.strip_suffix('}') {
            Some(inner) => inner,
            None => return syntax(),
        },
        None => text,
    };
    let bytes = bare.as_bytes();
    let mut uuid = [0u8; 16];
    let mut at = 0;
    for (index, byte) in uuid.iter_mut().enumerate() {
        let pair = bytes.get(at..at + 2).and_then(|two| Some(((two[0] as char).to_digit(16)?, (two[1] as char).to_digit(16)?)));
        let Some((high, low)) = pair else { return syntax() };
        *byte = (high * 16 + low) as u8;
        at += 2;
        if index % 2 == 1 && index < 15 && bytes.get(at) == Some(&b'-') {
            at += 1;
        }
    }
    if at == bytes.len() { Ok(uuid) } else { syntax() }
}

/// Appends a value as text; for null nothing: who frames values says so. A value that isn't carried as its type says is
/// written as what it is.
pub fn output_text(ty: SqlType, value: &Datum, formats: &Formats, out: &mut Vec<u8>) {
    match value {
        Datum::Null => {}
        Datum::Bool(value) => out.push(if *value { b't' } else { b'f' }),
        Datum::Int2(value) => write_int(out, i64::from(*value)),
        Datum::Int4(value) => write_int(out, i64::from(*value)),
        Datum::Int8(value) => write_int(out, *value),
        Datum::Float8(value) => write_float(out, *value, formats.extra_float_digits),
        Datum::Numeric(value) => numeric::write(out, value),
        Datum::Text(value) => {
            out.extend_from_slice(value.as_bytes());
            if let SqlType::Stored(Type::Char(length)) = ty {
                let have = value.chars().count();
                out.extend(std::iter::repeat_n(b' ', (length as usize).saturating_sub(have)));
            }
        }
        Datum::Bytea(value) if ty == SqlType::Interval => match Interval::from_bytes(value) {
            Some(interval) => interval.write(out),
            None => write_bytea(out, value, false),
        },
        Datum::Bytea(value) => write_bytea(out, value, formats.bytea_escape),
        Datum::Timestamp(value) => datetime::write_timestamp(out, *value),
        Datum::TimestampTz(value) => datetime::write_timestamptz(out, *value, &formats.zone),
        Datum::Date(value) => datetime::write_date(out, *value),
        Datum::Uuid(value) => write_uuid(out, value),
    }
}

/// A value as text in a string of its own.
pub fn to_string(ty: SqlType, value: &Datum, formats: &Formats) -> String {
    let mut out = Vec::new();
    output_text(ty, value, formats, &mut out);
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends bytes as pairs of hexadecimal digits.
pub(crate) fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.push(HEX[usize::from(byte >> 4)]);
        out.push(HEX[usize::from(byte & 15)]);
    }
}

fn write_bytea(out: &mut Vec<u8>, bytes: &[u8], escape: bool) {
    if !escape {
        out.extend_from_slice(b"\\x");
        return write_hex(out, bytes);
    }
    for &byte in bytes {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x20..=0x7e => out.push(byte),
            _ => out.extend_from_slice(&[b'\\', b'0' + (byte >> 6), b'0' + (byte >> 3 & 7), b'0' + (byte & 7)]),
        }
    }
}

fn write_uuid(out: &mut Vec<u8>, uuid: &[u8; 16]) {
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        write_hex(out, &[*byte]);
    }
}
