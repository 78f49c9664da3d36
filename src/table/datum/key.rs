//! Values as bytes that sort as they do: keys of tables and indexes.
//!
//! Order: ascending, nulls last, column by column; strings by their bytes (collation "C"), NaN above all numbers, as PostgreSQL orders
//! them. Equal values have equal keys: 1.0 and 1.00, -0.0 and 0.0. No key is the beginning of another one of the same columns, so keys may be
//! strung together, and the rows with a given prefix are a range. Format: `docs/formats/row.md`.

use std::ops::Bound;

use bigdecimal::BigDecimal;
use num_bigint::{BigInt, Sign};

use super::codec::{CodecError, Reader, SCALE_MAX, shorten};
use super::{Datum, Type};

/// Before each value; nulls sort behind.
const VALUE: u8 = 1;
const NULL: u8 = 2;
/// Ends a string: below every escaped byte.
const END: [u8; 2] = [0, 1];
/// A zero byte within a string.
const ESCAPED_ZERO: [u8; 2] = [0, 0xff];
const WHAT: &str = "a key";

/// Appends the key of `values`, of as many types.
///
/// # Errors
/// [`CodecError::Mismatch`], [`CodecError::Scale`]; `out` has part of it then.
pub fn encode_key(values: &[Datum], types: &[Type], out: &mut Vec<u8>) -> Result<(), CodecError> {
    if values.len() > types.len() {
        return Err(CodecError::Columns { expected: types.len(), found: values.len() });
    }
    values.iter().zip(types).try_for_each(|(datum, ty)| encode_part(datum, *ty, out))
}

/// Appends one value's part of a key.
///
/// # Errors
/// As [`encode_key`].
pub fn encode_part(datum: &Datum, ty: Type, out: &mut Vec<u8>) -> Result<(), CodecError> {
    if *datum == Datum::Null {
        out.push(NULL);
        return Ok(());
    }
    out.push(VALUE);
    match (ty, datum) {
        (Type::Bool, Datum::Bool(value)) => out.push(u8::from(*value)),
        (Type::Int2, Datum::Int2(value)) => out.extend((*value as u16 ^ 1 << 15).to_be_bytes()),
        (Type::Int4, Datum::Int4(value)) | (Type::Date, Datum::Date(value)) => out.extend((*value as u32 ^ 1 << 31).to_be_bytes()),
        (Type::Int8, Datum::Int8(value)) | (Type::Timestamp, Datum::Timestamp(value)) | (Type::TimestampTz, Datum::TimestampTz(value)) => {
            out.extend((*value as u64 ^ 1 << 63).to_be_bytes())
        }
        (Type::Float8, Datum::Float8(value)) => out.extend(float_bits(*value).to_be_bytes()),
        (Type::Text | Type::Varchar(_), Datum::Text(value)) => put_string(value.as_bytes(), out),
        (Type::Char(_), Datum::Text(value)) => put_string(value.trim_end_matches(' ').as_bytes(), out),
        (Type::Bytea, Datum::Bytea(value)) => put_string(value, out),
        (Type::Uuid, Datum::Uuid(value)) => out.extend(value),
        (Type::Numeric(_), Datum::Numeric(value)) => put_numeric(value, out)?,
        _ => return Err(CodecError::Mismatch { ty, found: shorten(datum) }),
    }
    Ok(())
}

/// Bits that sort as floats do.
fn float_bits(value: f64) -> u64 {
    // One zero and one NaN, that with the sign bit clear.
    let bits = if value == 0.0 {
        0
    } else if value.is_nan() {
        f64::NAN.to_bits() & !(1 << 63)
    } else {
        value.to_bits()
    };
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

fn float_of(bits: u64) -> f64 {
    f64::from_bits(if bits >> 63 == 1 { bits & !(1 << 63) } else { !bits })
}

fn put_string(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(zero) = rest.iter().position(|byte| *byte == 0) {
        out.extend(&rest[..zero]);
        out.extend(ESCAPED_ZERO);
        rest = &rest[zero + 1..];
    }
    out.extend(rest);
    out.extend(END);
}

/// Sign, exponent, digits: the value is 0.d1d2d3... x 10^exponent, without zeros at either end.
fn put_numeric(value: &BigDecimal, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let (number, scale) = value.as_bigint_and_exponent();
    if !(-SCALE_MAX..=SCALE_MAX).contains(&scale) {
        return Err(CodecError::Scale { scale });
    }
    let (sign, digits) = (number.sign(), number.magnitude().to_radix_be(10));
    if sign == Sign::NoSign {
        out.push(1);
        return Ok(());
    }
    let exponent = digits.len() as i64 - scale;
    let significant = digits.iter().rposition(|digit| *digit != 0).map_or(0, |last| last + 1);
    let start = out.len() + 1;
    out.push(if sign == Sign::Minus { 0 } else { 2 });
    match exponent {
        -100..=100 => out.push((128 + exponent) as u8),
        _ => {
            out.push(if exponent < 0 { 0 } else { 0xff });
            out.extend((exponent as u64 ^ 1 << 63).to_be_bytes());
        }
    }
    for pair in digits[..significant].chunks(2) {
        out.push(1 + pair[0] * 10 + pair.get(1).copied().unwrap_or(0));
    }
    out.push(0);
    if sign == Sign::Minus {
        out[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }
    Ok(())
}

fn read_numeric(reader: &mut Reader<'_>, ty: Type) -> Result<BigDecimal, CodecError> {
    let at = reader.at();
    let flip = match reader.byte(ty)? {
        0 => 0xff,
        1 => return Ok(BigDecimal::new(BigInt::ZERO, 0)),
        2 => 0,
        _ => return Err(reader.value_error(ty, at)),
    };
    let exponent = match reader.byte(ty)? ^ flip {
        byte @ 28..=228 => i64::from(byte) - 128,
        0 | 0xff => {
            let bytes: [u8; 8] = reader.array(ty)?;
            (u64::from_be_bytes(bytes.map(|byte| byte ^ flip)) ^ 1 << 63) as i64
        }
        _ => return Err(reader.value_error(ty, at)),
    };
    let mut digits = Vec::new();
    loop {
        match reader.byte(ty)? ^ flip {
            0 => break,
            pair @ 1..=100 => digits.extend([(pair - 1) / 10, (pair - 1) % 10]),
            _ => return Err(reader.value_error(ty, at)),
        }
    }
    let scale = (digits.len() as i64).checked_sub(exponent).filter(|scale| (-2 * SCALE_MAX..=2 * SCALE_MAX).contains(scale));
    let Some(scale) = scale else { return Err(reader.value_error(ty, at)) };
    let sign = if flip == 0 { Sign::Plus } else { Sign::Minus };
    let number = BigInt::from_radix_be(sign, &digits, 10).ok_or_else(|| reader.value_error(ty, at))?;
    Ok(BigDecimal::new(number, scale).normalized())
}

fn read_string(reader: &mut Reader<'_>, ty: Type) -> Result<Vec<u8>, CodecError> {
    let at = reader.at();
    let mut string = Vec::new();
    loop {
        match reader.byte(ty)? {
            0 => match reader.byte(ty)? {
                1 => return Ok(string),
                0xff => string.push(0),
                _ => return Err(reader.value_error(ty, at)),
            },
            byte => string.push(byte),
        }
    }
}

fn read_part(reader: &mut Reader<'_>, ty: Type) -> Result<Datum, CodecError> {
    let at = reader.at();
    match reader.byte(ty)? {
        VALUE => {}
        NULL => return Ok(Datum::Null),
        _ => return Err(reader.value_error(ty, at)),
    }
    let int8 = |reader: &mut Reader<'_>| Ok((u64::from_be_bytes(reader.array(ty)?) ^ 1 << 63) as i64);
    let int4 = |reader: &mut Reader<'_>| Ok((u32::from_be_bytes(reader.array(ty)?) ^ 1 << 31) as i32);
    Ok(match ty {
        Type::Bool => match reader.byte(ty)? {
            byte @ (0 | 1) => Datum::Bool(byte == 1),
            _ => return Err(reader.value_error(ty, at)),
        },
        Type::Int2 => Datum::Int2((u16::from_be_bytes(reader.array(ty)?) ^ 1 << 15) as i16),
        Type::Int4 => Datum::Int4(int4(reader)?),
        Type::Date => Datum::Date(int4(reader)?),
        Type::Int8 => Datum::Int8(int8(reader)?),
        Type::Timestamp => Datum::Timestamp(int8(reader)?),
        Type::TimestampTz => Datum::TimestampTz(int8(reader)?),
        Type::Float8 => Datum::Float8(float_of(u64::from_be_bytes(reader.array(ty)?))),
        Type::Text | Type::Varchar(_) | Type::Char(_) => {
            Datum::Text(String::from_utf8(read_string(reader, ty)?).map_err(|_| reader.value_error(ty, at))?)
        }
        Type::Bytea => Datum::Bytea(read_string(reader, ty)?),
        Type::Uuid => Datum::Uuid(reader.array(ty)?),
        Type::Numeric(_) => Datum::Numeric(read_numeric(reader, ty)?),
    })
}

/// Reads the values of a key of `types` from its beginning; what follows them is returned too. Numerics come back without trailing
/// zeros.
///
/// # Errors
/// [`CodecError`]: no such key.
pub fn decode_key<'a>(key: &'a [u8], types: &[Type]) -> Result<(Vec<Datum>, &'a [u8]), CodecError> {
    let mut reader = Reader::new(WHAT, key);
    let values = types.iter().map(|ty| read_part(&mut reader, *ty)).collect::<Result<_, _>>()?;
    Ok((values, reader.left()))
}

/// A range of keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRange {
    /// Where it begins.
    pub low: Bound<Vec<u8>>,
    /// Where it ends.
    pub high: Bound<Vec<u8>>,
}

impl KeyRange {
    /// All keys.
    pub const ALL: KeyRange = KeyRange { low: Bound::Unbounded, high: Bound::Unbounded };

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: Vec<u8>) -> KeyRange {
        let high = successor(prefix.clone());
        KeyRange { low: Bound::Included(prefix), high }
    }

    /// Keys whose first values are `equal` and whose next value lies between `low` and `high`; types are those of the key's columns.
    /// With a bound on either side, nulls are outside, as comparisons with null aren't true. Unbounded on both sides: every value, null too.
    ///
    /// # Errors
    /// As [`encode_key`]. More values than types is the caller's mistake, and an error too.
    pub fn between(equal: &[Datum], low: Bound<&Datum>, high: Bound<&Datum>, types: &[Type]) -> Result<KeyRange, CodecError> {
        let mut prefix = Vec::new();
        encode_key(equal, types, &mut prefix)?;
        if (low, high) == (Bound::Unbounded, Bound::Unbounded) {
            return Ok(KeyRange::prefix(prefix));
        }
        let Some(ty) = types.get(equal.len()).copied() else {
            return Err(CodecError::Columns { expected: types.len(), found: equal.len() + 1 });
        };
        let with = |datum: &Datum| {
            let mut key = prefix.clone();
            encode_part(datum, ty, &mut key).map(|()| key)
        };
        let marked = |mark: u8| prefix.iter().copied().chain([mark]).collect::<Vec<u8>>();
        let low = match low {
            Bound::Included(datum) => Bound::Included(with(datum)?),
            // Beyond every key that begins so.
            Bound::Excluded(datum) => match successor(with(datum)?) {
                Bound::Excluded(key) => Bound::Included(key),
                other => other,
            },
            Bound::Unbounded => Bound::Included(marked(VALUE)),
        };
        let high = match high {
            Bound::Included(datum) => successor(with(datum)?),
            Bound::Excluded(datum) => Bound::Excluded(with(datum)?),
            Bound::Unbounded => Bound::Excluded(marked(NULL)),
        };
        Ok(KeyRange { low, high })
    }

    /// The bounds, borrowed.
    pub fn as_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (self.low.as_ref().map(Vec::as_slice), self.high.as_ref().map(Vec::as_slice))
    }

    /// Whether a key lies in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        std::ops::RangeBounds::<[u8]>::contains(&self.as_bounds(), key)
    }

    /// Whether no key can lie in it.
    pub fn is_empty(&self) -> bool {
        match (&self.low, &self.high) {
            (Bound::Included(low), Bound::Included(high)) => low > high,
            (Bound::Included(low) | Bound::Excluded(low), Bound::Excluded(high) | Bound::Included(high)) => low >= high,
            _ => false,
        }
    }
}

/// The end of the keys that begin with `prefix`.
fn successor(mut prefix: Vec<u8>) -> Bound<Vec<u8>> {
    while let Some(last) = prefix.pop() {
        if last < 0xff {
            prefix.push(last + 1);
            return Bound::Excluded(prefix);
        }
    }
    Bound::Unbounded
}
