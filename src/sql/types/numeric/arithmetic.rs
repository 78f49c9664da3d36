//! Sums, products, quotients, rounding.

use std::cmp::Ordering;

use bigdecimal::BigDecimal;
use num_bigint::{BigInt, Sign};
use num_traits::{Signed, ToPrimitive, Zero};

use super::{DISPLAY_SCALE_MAX, SCALE_MAX, SIGNIFICANT_MIN, digit_count, make, parts, rescale, round_div, ten};
use crate::sql::types::{SqlError, fail};

/// Both numbers' digits at the larger of the two scales.
fn aligned(a: &BigDecimal, b: &BigDecimal) -> (BigInt, BigInt, i64) {
    let ((a, a_scale), (b, b_scale)) = (parts(a), parts(b));
    let scale = a_scale.max(b_scale);
    let widen = |digits: std::borrow::Cow<'_, BigInt>, from: i64| {
        if from == scale { digits.into_owned() } else { digits.as_ref() * ten(scale - from) }
    };
    (widen(a, a_scale), widen(b, b_scale), scale)
}

/// a + b.
pub fn add(a: &BigDecimal, b: &BigDecimal) -> Result<BigDecimal, SqlError> {
    let (a, b, scale) = aligned(a, b);
    make(a + b, scale)
}

/// a - b.
pub fn sub(a: &BigDecimal, b: &BigDecimal) -> Result<BigDecimal, SqlError> {
    let (a, b, scale) = aligned(a, b);
    make(a - b, scale)
}

/// a * b.
pub fn mul(a: &BigDecimal, b: &BigDecimal) -> Result<BigDecimal, SqlError> {
    let ((a, a_scale), (b, b_scale)) = (parts(a), parts(b));
    make(a.as_ref() * b.as_ref(), a_scale + b_scale)
}

/// -a.
pub fn negate(a: &BigDecimal) -> BigDecimal {
    let (digits, scale) = parts(a);
    BigDecimal::new(-digits.into_owned(), scale)
}

/// Weight (in base 10000) and first digit of a number, as PostgreSQL holds it; zero is (0, 0).
pub(crate) fn head(value: &BigDecimal) -> (i64, i64) {
    let (digits, scale) = parts(value);
    if digits.is_zero() {
        return (0, 0);
    }
    let count = digit_count(&digits);
    // The decimal place of the first digit: 0 for units.
    let place = count - scale - 1;
    let weight = place.div_euclid(4);
    // All digits from the group's lowest place up.
    let drop = weight * 4 + scale;
    let first = if drop >= 0 { digits.as_ref() / ten(drop) } else { digits.as_ref() * ten(-drop) };
    (weight, first.abs().to_i64().unwrap_or(0))
}

/// `select_div_scale`: the scale of a quotient.
pub(crate) fn div_scale(a: &BigDecimal, b: &BigDecimal) -> i64 {
    let ((weight_a, first_a), (weight_b, first_b)) = (head(a), head(b));
    let mut weight = weight_a - weight_b;
    if first_a <= first_b {
        weight -= 1;
    }
    (SIGNIFICANT_MIN - weight * 4).max(parts(a).1).max(parts(b).1).clamp(0, DISPLAY_SCALE_MAX)
}

pub(crate) fn division_by_zero<T>() -> Result<T, SqlError> {
    fail("22012", "division by zero")
}

/// a / b, rounded to PostgreSQL's scale for it.
pub fn div(a: &BigDecimal, b: &BigDecimal) -> Result<BigDecimal, SqlError> {
    if b.is_zero() {
        return division_by_zero();
    }
    let scale = div_scale(a, b);
    div_to(a, b, scale)
}

/// a / b rounded to `scale`; b isn't 0.
pub(crate) fn div_to(a: &BigDecimal, b: &BigDecimal, scale: i64) -> Result<BigDecimal, SqlError> {
    let ((a, a_scale), (b, b_scale)) = (parts(a), parts(b));
    let shift = scale + b_scale - a_scale;
    let quotient = if shift >= 0 { round_div(&(a.as_ref() * ten(shift)), &b) } else { round_div(&a, &(b.as_ref() * ten(-shift))) };
    make(quotient, scale)
}

/// `div(a, b)`: the whole part of the quotient.
pub fn div_trunc(a: &BigDecimal, b: &BigDecimal) -> Result<BigDecimal, SqlError> {
    if b.is_zero() {
        return division_by_zero();
    }
    let (a, b, _) = aligned(a, b);
    make(a / b, 0)
}

/// a % b, with a's sign.
pub fn modulo(a: &BigDecimal, b: &BigDecimal) -> Result<BigDecimal, SqlError> {
    if b.is_zero() {
        return division_by_zero();
    }
    let (a, b, scale) = aligned(a, b);
    make(a % b, scale)
}

/// By size; the scale doesn't matter.
pub fn compare(a: &BigDecimal, b: &BigDecimal) -> Ordering {
    let ((a_digits, a_scale), (b_digits, b_scale)) = (parts(a), parts(b));
    if a_scale == b_scale {
        return a_digits.as_ref().cmp(b_digits.as_ref());
    }
    let (a, b, _) = aligned(a, b);
    a.cmp(&b)
}

/// -1, 0 or 1.
pub fn sign(a: &BigDecimal) -> BigDecimal {
    let (digits, _) = parts(a);
    BigDecimal::from(match digits.sign() {
        Sign::Minus => -1,
        Sign::NoSign => 0,
        Sign::Plus => 1,
    })
}

/// Rounded to `places` behind the point (before it, where negative), half away from zero.
pub fn round(a: &BigDecimal, places: i64) -> Result<BigDecimal, SqlError> {
    let places = places.clamp(-SCALE_MAX.max(super::WHOLE_MAX), SCALE_MAX);
    let (digits, scale) = parts(a);
    let rounded = rescale(&digits, scale, places);
    if places >= 0 { make(rounded, places) } else { make(rounded * ten(-places), 0) }
}

/// Cut off behind `places`.
pub fn trunc(a: &BigDecimal, places: i64) -> Result<BigDecimal, SqlError> {
    let places = places.clamp(-super::WHOLE_MAX, SCALE_MAX);
    let (digits, scale) = parts(a);
    if places >= scale {
        return make(digits.as_ref() * ten(places - scale), places);
    }
    let cut = if scale - places > digit_count(&digits) { BigInt::zero() } else { digits.as_ref() / ten(scale - places) };
    if places >= 0 { make(cut, places) } else { make(cut * ten(-places), 0) }
}

/// The next integer up.
pub fn ceil(a: &BigDecimal) -> Result<BigDecimal, SqlError> {
    let whole = trunc(a, 0)?;
    if compare(&whole, a) == Ordering::Less { add(&whole, &BigDecimal::from(1)) } else { Ok(whole) }
}

/// The next integer down.
pub fn floor(a: &BigDecimal) -> Result<BigDecimal, SqlError> {
    let whole = trunc(a, 0)?;
    if compare(&whole, a) == Ordering::Greater { sub(&whole, &BigDecimal::from(1)) } else { Ok(whole) }
}
