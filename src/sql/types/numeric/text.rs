//! Numbers in and out: text, and PostgreSQL's binary format.
//!
//! Binary: `ndigits u16, weight i16, sign u16 (0 or 0x4000), dscale u16`, then ndigits digits u16 in base 10000, big-endian; the first
//! digit counts 10000^weight; no zeros at either end.

use bigdecimal::BigDecimal;
use num_bigint::{BigInt, Sign};
use num_traits::{ToPrimitive, Zero};

use super::{SCALE_MAX, WHOLE_MAX, fit, overflow, parts, ten};
use crate::sql::types::number::{trim, write_int};
use crate::sql::types::{SqlError, fail};

fn syntax<T>(text: &str) -> Result<T, SqlError> {
    fail("22P02", format!("invalid input syntax for type numeric: \"{text}\""))
}

/// Reads a number and fits it into `limit` (precision, scale).
pub fn input(text: &str, limit: Option<(u16, i16)>) -> Result<BigDecimal, SqlError> {
    let trimmed = trim(text);
    let bytes = trimmed.as_bytes();
    let (negative, rest) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    if special(rest) {
        return fail("0A000", "NaN and infinity are not supported for type numeric");
    }
    let mantissa_end = rest.iter().position(|b| matches!(b, b'e' | b'E')).unwrap_or(rest.len());
    let mantissa = &rest[..mantissa_end];
    let point = mantissa.iter().position(|&b| b == b'.').unwrap_or(mantissa.len());
    let (whole, fraction) = (&mantissa[..point], mantissa.get(point + 1..).unwrap_or(&[]));
    let all_digits = whole.iter().chain(fraction).all(u8::is_ascii_digit);
    if !all_digits || (whole.is_empty() && fraction.is_empty()) {
        return syntax(text);
    }
    let exponent = match rest.get(mantissa_end + 1..) {
        None => 0,
        Some(exponent) => match read_exponent(exponent) {
            Some(exponent) => exponent,
            None => return syntax(text),
        },
    };
    if exponent.abs() > i64::from(i32::MAX) / 2 {
        return overflow();
    }
    // Short numbers, the usual, without big ones.
    let digits = if whole.len() + fraction.len() <= 18 {
        let value = whole.iter().chain(fraction).fold(0i64, |value, digit| value * 10 + i64::from(digit - b'0'));
        BigInt::from(if negative { -value } else { value })
    } else {
        let joined: Vec<u8> = whole.iter().chain(fraction).copied().collect();
        let Some(value) = BigInt::parse_bytes(&joined, 10) else { return syntax(text) };
        if negative { -value } else { value }
    };
    let scale = fraction.len() as i64 - exponent;
    let leading = whole.iter().chain(fraction).take_while(|&&b| b == b'0').count() as i64;
    let places = whole.len() as i64 + exponent - leading;
    if !digits.is_zero() && places > WHOLE_MAX || scale > SCALE_MAX {
        return overflow();
    }
    let value = match (scale >= 0, digits.is_zero()) {
        (true, _) => BigDecimal::new(digits, scale),
        (false, true) => BigDecimal::new(digits, 0),
        (false, false) => BigDecimal::new(digits * ten(-scale), 0),
    };
    fit(value, limit)
}

fn special(word: &[u8]) -> bool {
    ["nan", "inf", "infinity"].iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
}

fn read_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0i64, |value, digit| (value * 10 + i64::from(digit - b'0')).min(i64::from(i32::MAX)));
    Some(if negative { -value } else { value })
}

/// Appends a number in decimal with all of its scale.
pub fn write(out: &mut Vec<u8>, value: &BigDecimal) {
    let (digits, scale) = parts(value);
    let mut plain = Vec::new();
    match digits.to_i64() {
        Some(small) if small != i64::MIN => write_int(&mut plain, small.abs()),
        _ => plain = digits.magnitude().to_str_radix(10).into_bytes(),
    }
    if digits.sign() == Sign::Minus {
        out.push(b'-');
    }
    let scale = scale as usize;
    if scale == 0 {
        return out.extend_from_slice(&plain);
    }
    if plain.len() <= scale {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', scale - plain.len()));
        return out.extend_from_slice(&plain);
    }
    let whole = plain.len() - scale;
    out.extend_from_slice(&plain[..whole]);
    out.push(b'.');
    out.extend_from_slice(&plain[whole..]);
}

/// Appends the binary format.
pub fn write_binary(out: &mut Vec<u8>, value: &BigDecimal) {
    let (digits, scale) = parts(value);
    // To a whole number of groups behind the point.
    let pad = (4 - scale % 4) % 4;
    let groups_behind = (scale + pad) / 4;
    let mut text = (digits.as_ref() * ten(pad)).magnitude().to_str_radix(10).into_bytes();
    while !text.len().is_multiple_of(4) {
        text.insert(0, b'0');
    }
    let groups: Vec<u16> = text.chunks(4).map(|four| four.iter().fold(0, |value, b| value * 10 + u16::from(b - b'0'))).collect();
    let mut weight = groups.len() as i64 - groups_behind - 1;
    let first = groups.iter().position(|&g| g != 0).unwrap_or(groups.len());
    let last = groups.iter().rposition(|&g| g != 0).map_or(first, |at| at + 1);
    weight -= first as i64;
    let kept = &groups[first..last];
    if kept.is_empty() {
        weight = 0;
    }
    out.extend_from_slice(&(kept.len() as u16).to_be_bytes());
    out.extend_from_slice(&(weight as i16).to_be_bytes());
    out.extend_from_slice(&(if digits.sign() == Sign::Minus { 0x4000u16 } else { 0 }).to_be_bytes());
    out.extend_from_slice(&(scale as u16).to_be_bytes());
    for group in kept {
        out.extend_from_slice(&group.to_be_bytes());
    }
}

/// Reads the binary format.
pub fn read_binary(bytes: &[u8], limit: Option<(u16, i16)>) -> Result<BigDecimal, SqlError> {
    let word = |at: usize| bytes.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
    let short = || SqlError::new("08P01", "insufficient data left in message");
    let bad = |what: &str| SqlError::new("22P03", format!("invalid {what} in external \"numeric\" value"));
    let count = word(0).ok_or_else(short)?;
    let weight = i64::from(word(2).ok_or_else(short)? as i16);
    let sign = word(4).ok_or_else(short)?;
    let scale = word(6).ok_or_else(short)?;
    match sign {
        0 | 0x4000 => {}
        0xc000 | 0xd000 | 0xf000 => return fail("0A000", "NaN and infinity are not supported for type numeric"),
        _ => return Err(bad("sign")),
    }
    if scale > 0x3fff {
        return Err(bad("scale"));
    }
    let mut text = Vec::with_capacity(usize::from(count) * 4 + 1);
    for index in 0..usize::from(count) {
        let digit = word(8 + index * 2).ok_or_else(short)?;
        if digit >= 10_000 {
            return Err(bad("digit"));
        }
        text.extend_from_slice(format!("{digit:04}").as_bytes());
    }
    if bytes.len() != 8 + usize::from(count) * 2 {
        return fail("22P03", "incorrect binary data format");
    }
    text.insert(0, b'0');
    let digits = BigInt::parse_bytes(&text, 10).ok_or_else(|| bad("digit"))?;
    let digits = if sign == 0x4000 { -digits } else { digits };
    // The last group counts 10000^(weight - count + 1). Digits behind the scale are cut off, as PostgreSQL does.
    let have = (i64::from(count) - weight - 1) * 4;
    let scale = i64::from(scale);
    let digits = match have {
        _ if digits.is_zero() => digits,
        have if have > scale => digits / ten(have - scale),
        have => digits * ten(scale - have),
    };
    fit(BigDecimal::new(digits, scale), limit)
}
