//! Exact decimals: PostgreSQL's `numeric`.
//!
//! A value is digits and a scale (how many of them are behind the point); the scale is kept, so `1.10` stays `1.10`. Which scale a
//! result has follows src/backend/utils/adt/numeric.c of PostgreSQL 15. NaN and infinities are not supported.

mod arithmetic;
mod power;
mod text;

pub use arithmetic::{add, ceil, compare, div, div_trunc, floor, modulo, mul, negate, round, sign, sub, trunc};
pub(crate) use power::sqrt_to;
pub use power::{exp, ln, log, power, sqrt};
pub use text::{input, read_binary, write, write_binary};

use std::borrow::Cow;

use bigdecimal::BigDecimal;
use num_bigint::{BigInt, Sign};
use num_traits::{Pow, ToPrimitive, Zero};

use super::{SqlError, fail};

/// A result shows at least so many significant digits where it can't be exact.
pub(crate) const SIGNIFICANT_MIN: i64 = 16;
/// Most digits behind the point that a computed result shows.
pub(crate) const DISPLAY_SCALE_MAX: i64 = 1000;
/// Most digits behind the point.
pub(crate) const SCALE_MAX: i64 = 16_383;
/// Most digits before the point.
pub(crate) const WHOLE_MAX: i64 = 131_072;

/// 10^n.
pub(crate) fn ten(n: i64) -> BigInt {
    match u32::try_from(n) {
        Ok(n @ 0..=18) => BigInt::from(10i64.pow(n)),
        _ => BigInt::from(10).pow(n.max(0) as u64),
    }
}

/// Digits and scale; a negative scale (never made here) is written out.
pub(crate) fn parts(value: &BigDecimal) -> (Cow<'_, BigInt>, i64) {
    let (digits, scale) = value.as_bigint_and_scale();
    if scale >= 0 {
        return (digits, scale);
    }
    (Cow::Owned(digits.as_ref() * ten(-scale)), 0)
}

/// How many digits a number has; 0 has one.
pub(crate) fn digit_count(digits: &BigInt) -> i64 {
    if let Some(small) = digits.to_i64() {
        return small.unsigned_abs().checked_ilog10().map_or(1, |log| i64::from(log) + 1);
    }
    // An estimate from the number of bits, at most one too high.
    let bits = digits.bits();
    let high = ((bits as f64) * std::f64::consts::LOG10_2).floor() as i64 + 1;
    if digits.magnitude() < ten(high - 1).magnitude() { high - 1 } else { high }
}

/// The number with `to` digits behind the point instead of `from`; half goes away from zero.
pub(crate) fn rescale(digits: &BigInt, from: i64, to: i64) -> BigInt {
    if to >= from {
        return digits * ten(to - from);
    }
    if from - to > digit_count(digits) {
        return BigInt::zero();
    }
    round_div(digits, &ten(from - to))
}

/// Quotient rounded to the nearest, half away from zero; the divisor isn't 0.
pub(crate) fn round_div(dividend: &BigInt, divisor: &BigInt) -> BigInt {
    let negative = (dividend.sign() == Sign::Minus) != (divisor.sign() == Sign::Minus);
    let (dividend, divisor) = (dividend.magnitude(), divisor.magnitude());
    let (quotient, rest) = num_integer_div_rem(dividend, divisor);
    let up = &rest * 2u32 >= *divisor;
    let quotient = if up { quotient + 1u32 } else { quotient };
    BigInt::from_biguint(if negative { Sign::Minus } else { Sign::Plus }, quotient)
}

fn num_integer_div_rem(a: &num_bigint::BigUint, b: &num_bigint::BigUint) -> (num_bigint::BigUint, num_bigint::BigUint) {
    let quotient = a / b;
    let rest = a - &quotient * b;
    (quotient, rest)
}

/// A value from digits and scale, refused where PostgreSQL's format ends.
pub(crate) fn make(digits: BigInt, scale: i64) -> Result<BigDecimal, SqlError> {
    let (digits, scale) = if scale > SCALE_MAX { (rescale(&digits, scale, SCALE_MAX), SCALE_MAX) } else { (digits, scale) };
    if digits.bits() > 400_000 && digit_count(&digits) - scale > WHOLE_MAX {
        return overflow();
    }
    Ok(BigDecimal::new(digits, scale))
}

pub(crate) fn overflow<T>() -> Result<T, SqlError> {
    fail("22003", "value overflows numeric format")
}

/// Fits a value into `numeric(precision, scale)`: rounds, then checks.
pub fn fit(value: BigDecimal, limit: Option<(u16, i16)>) -> Result<BigDecimal, SqlError> {
    let Some((precision, scale)) = limit else { return Ok(value) };
    let (precision, scale) = (i64::from(precision), i64::from(scale));
    let (digits, from) = parts(&value);
    let rounded = rescale(&digits, from, scale);
    let rounded_scale = scale;
    if !rounded.is_zero() && digit_count(&rounded) > precision {
        let power = precision - scale;
        let (lead, exponent) = if power != 0 { ("10^", power.to_string()) } else { ("", "1".to_owned()) };
        let mut error = SqlError::new("22003", "numeric field overflow");
        error.detail =
            Some(format!("A field with precision {precision}, scale {scale} must round to an absolute value less than {lead}{exponent}."));
        return Err(error);
    }
    if rounded_scale >= 0 { make(rounded, rounded_scale) } else { make(rounded * ten(-rounded_scale), 0) }
}

/// As an integer between `min` and `max`, half rounded away from zero.
pub fn to_int(value: &BigDecimal, min: i64, max: i64, name: &str) -> Result<i64, SqlError> {
    let (digits, scale) = parts(value);
    match rescale(&digits, scale, 0).to_i64() {
        Some(whole) if (min..=max).contains(&whole) => Ok(whole),
        _ => fail("22003", format!("{name} out of range")),
    }
}

/// As a double: read back from its text, as PostgreSQL does.
pub fn to_float(value: &BigDecimal) -> Result<f64, SqlError> {
    let mut text = Vec::new();
    write(&mut text, value);
    let text = String::from_utf8_lossy(&text);
    super::number::read_float(&text)
}

/// As a double, infinite where it has none so large.
pub(crate) fn to_float_or_infinity(value: &BigDecimal) -> f64 {
    let mut text = Vec::new();
    write(&mut text, value);
    String::from_utf8_lossy(&text).parse().unwrap_or(f64::INFINITY)
}

/// From a double: 15 significant digits, as PostgreSQL does.
pub fn from_float(value: f64) -> Result<BigDecimal, SqlError> {
    if !value.is_finite() {
        return fail("0A000", "NaN and infinity are not supported for type numeric");
    }
    input(&format!("{value:.14e}"), None).map(|wide| {
        let (digits, scale) = parts(&wide);
        // %.15g drops trailing zeros behind the point.
        let mut digits = digits.into_owned();
        let mut scale = scale;
        while scale > 0 && (&digits % 10u32).is_zero() {
            digits /= 10u32;
            scale -= 1;
        }
        BigDecimal::new(digits, scale)
    })
}
