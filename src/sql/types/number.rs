//! Integers and doubles as text.

use num_bigint::BigInt;
use num_traits::Pow;

use super::{SqlError, fail};

const PAIRS: &[u8; 200] = b"0001020304050607080910111213141516171819\
2021222324252627282930313233343536373839\
4041424344454647484950515253545556575859\
6061626364656667686970717273747576777879\
8081828384858687888990919293949596979899";

/// Appends an integer in decimal.
pub(crate) fn write_int(out: &mut Vec<u8>, value: i64) {
    let mut buffer = [0u8; 20];
    let mut at = buffer.len();
    let mut rest = value.unsigned_abs();
    while rest >= 100 {
        let pair = (rest % 100) as usize * 2;
        rest /= 100;
        at -= 2;
        buffer[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    }
    if rest >= 10 {
        let pair = rest as usize * 2;
        at -= 2;
        buffer[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    } else {
        at -= 1;
        buffer[at] = b'0' + rest as u8;
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&buffer[at..]);
}

/// PostgreSQL's `isspace` in the C locale.
pub(crate) fn blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Without blanks around.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii() && blank(c as u8))
}

/// Reads an integer between `min` and `max`; `name` is its type's, for messages.
pub(crate) fn read_int(text: &str, min: i64, max: i64, name: &str) -> Result<i64, SqlError> {
    let trimmed = trim(text);
    let (negative, digits) = match trimmed.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return fail("22P02", format!("invalid input syntax for type {name}: \"{text}\""));
    }
    let mut value = 0i64;
    for digit in digits {
        let digit = i64::from(digit - b'0');
        // Counted downwards: the negative side reaches one further.
        value = match value.checked_mul(10).and_then(|v| v.checked_sub(digit)) {
            Some(value) => value,
            None => return out_of_range(text, name),
        };
    }
    let value = if negative { Some(value) } else { value.checked_neg() };
    match value {
        Some(value) if (min..=max).contains(&value) => Ok(value),
        _ => out_of_range(text, name),
    }
}

fn out_of_range<T>(text: &str, name: &str) -> Result<T, SqlError> {
    fail("22003", format!("value \"{text}\" is out of range for type {name}"))
}

/// Reads a double.
pub(crate) fn read_float(text: &str) -> Result<f64, SqlError> {
    let trimmed = trim(text);
    let syntax = || fail("22P02", format!("invalid input syntax for type double precision: \"{text}\""));
    let (sign, bare) = match trimmed.as_bytes() {
        [b'-', ..] => (-1.0, &trimmed[1..]),
        [b'+', ..] => (1.0, &trimmed[1..]),
        _ => (1.0, trimmed),
    };
    if bare.eq_ignore_ascii_case("nan") {
        return Ok(f64::NAN);
    }
    if bare.eq_ignore_ascii_case("infinity") || bare.eq_ignore_ascii_case("inf") {
        return Ok(sign * f64::INFINITY);
    }
    // Rust reads the rest as C does, but also words like "infinity" after a sign, which are gone by now.
    if !bare.bytes().next().is_some_and(|b| b.is_ascii_digit() || b == b'.') {
        return syntax();
    }
    let Ok(value) = bare.parse::<f64>() else { return syntax() };
    let zero_digits = bare.bytes().take_while(|b| !matches!(b, b'e' | b'E')).all(|b| matches!(b, b'0' | b'.'));
    if value.is_infinite() || (value == 0.0 && !zero_digits) {
        return fail("22003", format!("\"{trimmed}\" is out of range for type double precision"));
    }
    Ok(sign * value)
}

/// The shortest digits that read back as `value`, in `1.5e3` notation. PostgreSQL doesn't take a decimal that lies exactly between two
/// doubles, though reading rounds it to the even one; Rust does: then more digits are shown.
fn shortest_digits(value: f64) -> String {
    let written = format!("{value:e}");
    let digits = written.bytes().take_while(|b| *b != b'e').filter(u8::is_ascii_digit).count();
    // A decimal between two doubles has about as many digits as these.
    if digits < 15 || !between(&written, value) {
        return written;
    }
    for more in digits..17 {
        let longer = format!("{value:.more$e}");
        if longer.parse() == Ok(value) && !between(&longer, value) {
            return longer;
        }
    }
    written
}

/// Whether a decimal lies exactly between `value` and one of its neighbours.
fn between(written: &str, value: f64) -> bool {
    let Some((mantissa, exponent)) = written.split_once('e') else { return false };
    let behind = mantissa.split_once('.').map_or(0, |(_, fraction)| fraction.len() as i32);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let (Ok(digits), Ok(exponent)) = (digits.parse::<u64>(), exponent.parse::<i32>()) else { return false };
    let tens = exponent - behind;
    let bits = value.to_bits();
    let raw = (bits >> 52 & 0x7ff) as i32;
    // Powers of ten beyond can't divide a number of 54 bits.
    if raw == 0 || !(-2..=23).contains(&tens) {
        return false;
    }
    let binary = bits & ((1 << 52) - 1) | 1 << 52;
    // The middles are odd multiples of 2^twos; at a power of two the lower neighbour is nearer.
    let (twos, middles) = (raw - 1076, [binary * 2 + 1, binary * 2 - 1]);
    let ten = BigInt::from(10);
    let decimal = BigInt::from(digits) * if tens > 0 { Pow::pow(&ten, tens as u32) } else { BigInt::from(1) };
    let scale = if tens < 0 { Pow::pow(&ten, tens.unsigned_abs()) } else { BigInt::from(1) };
    middles.into_iter().any(|middle| {
        let middle = BigInt::from(middle) * &scale;
        if twos >= 0 { decimal == (middle << twos as u32) } else { (&decimal << twos.unsigned_abs()) == middle }
    })
}

/// Appends a double: the shortest digits that read back as it (`extra` > 0), else 15 + `extra` significant digits.
pub(crate) fn write_float(out: &mut Vec<u8>, value: f64, extra: i8) {
    if value.is_nan() {
        return out.extend_from_slice(b"NaN");
    }
    if value.is_infinite() {
        return out.extend_from_slice(if value < 0.0 { b"-Infinity" } else { b"Infinity" });
    }
    let shortest = extra > 0;
    let written = if shortest {
        shortest_digits(value)
    } else {
        let digits = (15 + i32::from(extra)).max(1) as usize;
        format!("{value:.*e}", digits - 1)
    };
    let (mantissa, exponent) = written.split_once('e').unwrap_or((written.as_str(), "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let mut digits: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).collect();
    while digits.len() > 1 && digits.last() == Some(&b'0') {
        digits.pop();
    }
    if negative {
        out.push(b'-');
    }
    let limit = if shortest { 15 } else { (15 + i32::from(extra)).max(1) };
    if (-4..limit).contains(&exponent) {
        return plain(out, &digits, exponent);
    }
    out.push(digits[0]);
    if digits.len() > 1 {
        out.push(b'.');
        out.extend_from_slice(&digits[1..]);
    }
    out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
    if exponent.abs() < 10 {
        out.push(b'0');
    }
    write_int(out, i64::from(exponent.abs()));
}

/// Digits without an exponent: the first stands for 10^`exponent`.
fn plain(out: &mut Vec<u8>, digits: &[u8], exponent: i32) {
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', (-exponent - 1) as usize));
        return out.extend_from_slice(digits);
    }
    let whole = exponent as usize + 1;
    if digits.len() <= whole {
        out.extend_from_slice(digits);
        return out.extend(std::iter::repeat_n(b'0', whole - digits.len()));
    }
    out.extend_from_slice(&digits[..whole]);
    out.push(b'.');
    out.extend_from_slice(&digits[whole..]);
}
