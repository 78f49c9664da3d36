//! Roots, powers, logarithms: computed with guard digits and rounded to the scale that PostgreSQL shows.

use bigdecimal::BigDecimal;
use num_bigint::BigInt;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::arithmetic::{division_by_zero, head};
use super::{DISPLAY_SCALE_MAX, SIGNIFICANT_MIN, make, overflow, parts, rescale, round_div, ten};
use crate::sql::types::{SqlError, fail};

/// Beyond it e^x is refused, or 0.
const EXP_MAX: f64 = 6000.0;

/// The square root.
pub fn sqrt(a: &BigDecimal) -> Result<BigDecimal, SqlError> {
    let (digits, from) = parts(a);
    if digits.is_negative() {
        return fail("2201F", "cannot take square root of a negative number");
    }
    let weight = head(a).0;
    let places = if weight >= 0 { weight * 2 + 1 } else { 1 - (-weight) * 2 };
    let scale = (SIGNIFICANT_MIN - places).max(from).clamp(0, DISPLAY_SCALE_MAX);
    sqrt_to(a, scale)
}

/// The square root with `scale` digits behind the point; `a` isn't negative.
pub(crate) fn sqrt_to(a: &BigDecimal, scale: i64) -> Result<BigDecimal, SqlError> {
    let (digits, from) = parts(a);
    // One digit more than shown, an even number behind the point.
    let guard = scale + 1;
    let wide = if guard * 2 >= from { digits.as_ref() * ten(guard * 2 - from) } else { digits.as_ref() / ten(from - guard * 2) };
    let root = wide.sqrt();
    make(rescale(&root, guard, scale), scale)
}

/// Where a number has few digits: an approximation of log10 of its size. The number isn't 0.
fn log10(value: &BigDecimal) -> f64 {
    let (digits, scale) = parts(value);
    let count = super::digit_count(&digits);
    let drop = (count - 17).max(0);
    let lead = (digits.abs() / ten(drop)).to_f64().unwrap_or(1.0);
    lead.log10() + (drop - scale) as f64
}

/// base ^ exponent.
pub fn power(base: &BigDecimal, exponent: &BigDecimal) -> Result<BigDecimal, SqlError> {
    let (base_digits, base_scale) = parts(base);
    let (exponent_digits, exponent_scale) = parts(exponent);
    if base_digits.is_zero() && exponent_digits.is_negative() {
        return fail("2201F", "zero raised to a negative power is undefined");
    }
    let whole = (exponent_digits.as_ref() % ten(exponent_scale)).is_zero();
    if base_digits.is_negative() && !whole {
        return fail("2201F", "a negative number raised to a non-integer power yields a complex result");
    }
    if whole && let Some(times) = (exponent_digits.as_ref() / ten(exponent_scale)).to_i32() {
        return whole_power(base, times);
    }
    if base_digits.is_zero() {
        return make(BigInt::zero(), SIGNIFICANT_MIN);
    }
    let (negative, size) = if base_digits.is_negative() { (true, super::negate(base)) } else { (false, base.clone()) };
    // ln(result) by doubles first, for the scale.
    let estimate = log10(&size) * super::to_float_or_infinity(exponent);
    if estimate * std::f64::consts::LN_10 > EXP_MAX * 1.003 {
        return overflow();
    }
    if estimate * std::f64::consts::LN_10 < -EXP_MAX * 1.003 {
        return make(BigInt::zero(), DISPLAY_SCALE_MAX);
    }
    let scale = (SIGNIFICANT_MIN - estimate.trunc() as i64).max(base_scale).max(exponent_scale).clamp(0, DISPLAY_SCALE_MAX);
    // ln is multiplied by the exponent, and so is its error.
    let guard = scale + estimate.max(0.0) as i64 + 20 + (super::digit_count(&exponent_digits) - exponent_scale).max(0);
    let log = fixed_ln(&size, guard);
    let product = round_div(&(log * exponent_digits.as_ref()), &ten(exponent_scale));
    let result = fixed_exp(&product, guard);
    let odd = negative && (exponent_digits.as_ref() / ten(exponent_scale) % 2u32) != BigInt::zero();
    let rounded = rescale(&result, guard, scale);
    make(if odd { -rounded } else { rounded }, scale)
}

/// base ^ times: `power_var_int`.
fn whole_power(base: &BigDecimal, times: i32) -> Result<BigDecimal, SqlError> {
    let (digits, base_scale) = parts(base);
    let scale = SIGNIFICANT_MIN.max(base_scale).min(DISPLAY_SCALE_MAX);
    if digits.is_zero() {
        if times < 0 {
            return division_by_zero();
        }
        return make(if times == 0 { ten(scale) } else { BigInt::zero() }, scale);
    }
    let estimate = f64::from(times) * log10(base);
    if estimate > f64::from(i32::from(i16::MAX) + 1) * 4.0 {
        return overflow();
    }
    if estimate + 1.0 < -(scale as f64) {
        return make(BigInt::zero(), scale);
    }
    let count = times.unsigned_abs();
    // Multiplied out where that stays small, else with guard digits: relative errors of the products add up.
    if super::digit_count(&digits) * i64::from(count) < 200_000 {
        let power = num_traits::pow::Pow::pow(digits.as_ref(), count);
        let power_scale = base_scale * i64::from(count);
        if times >= 0 {
            return make(rescale(&power, power_scale, scale), scale);
        }
        return make(round_div(&ten(scale + power_scale), &power), scale);
    }
    // Places behind the point of the power itself, so that it has enough significant digits even where it is tiny.
    let places = (scale + 30).max(base_scale) + if times >= 0 { estimate.abs() as i64 } else { (estimate.abs() as i64) * 2 };
    let power = fixed_power(&digits, base_scale, count, places);
    if times >= 0 {
        return make(rescale(&power, places, scale), scale);
    }
    make(round_div(&ten(scale + places), &power), scale)
}

/// A power as fixed point with `places` behind the point.
fn fixed_power(digits: &BigInt, base_scale: i64, count: u32, places: i64) -> BigInt {
    let unit = ten(places);
    let mut square = rescale(digits, base_scale, places);
    let mut result = unit.clone();
    let mut rest = count;
    while rest > 0 {
        if rest & 1 == 1 {
            result = round_div(&(&result * &square), &unit);
        }
        rest >>= 1;
        if rest > 0 {
            square = round_div(&(&square * &square), &unit);
        }
    }
    result
}

/// e^x for fixed-point x with `scale` digits behind the point.
fn fixed_exp(x: &BigInt, scale: i64) -> BigInt {
    let unit = ten(scale);
    // Halved until small, then squared as often; each squaring doubles the error, so some digits more.
    let mut halvings = 0u32;
    let mut small = x.abs();
    while small > unit {
        small /= 2u32;
        halvings += 1;
    }
    let halvings = halvings + 8;
    let extra = i64::from(halvings) / 3 + 5;
    let wide = ten(scale + extra);
    let reduced = (x * ten(extra)) / (BigInt::one() << halvings);
    let (mut sum, mut term, mut n) = (wide.clone(), wide.clone(), 1u32);
    while !term.is_zero() {
        term = &term * &reduced / &wide / n;
        sum += &term;
        n += 1;
    }
    for _ in 0..halvings {
        sum = &sum * &sum / &wide;
    }
    rescale(&sum, scale + extra, scale)
}

/// ln of a positive number as fixed point with `scale` digits behind the point.
fn fixed_ln(value: &BigDecimal, scale: i64) -> BigInt {
    let (digits, from) = parts(value);
    let scale = scale + 10;
    let unit = ten(scale);
    // value = m * 10^e with m near 1..10; ln = ln m + e ln 10.
    let exponent = super::digit_count(&digits) - from - 1;
    let shift = scale - from - exponent;
    let mantissa = if shift >= 0 { digits.as_ref() * ten(shift) } else { digits.as_ref() / ten(-shift) };
    let tens = if exponent == 0 { BigInt::zero() } else { near_ln(&(&unit * 10u32), scale) * exponent };
    rescale(&(near_ln(&mantissa, scale) + tens), scale, scale - 10)
}

/// ln of a number in 1..=10, fixed point: roots until near 1, then the series of artanh.
fn near_ln(mantissa: &BigInt, scale: i64) -> BigInt {
    let extra = 10;
    let unit = ten(scale + extra);
    let mut near = mantissa * ten(extra);
    let mut roots = 0u32;
    let limit = &unit + &unit / 1000u32;
    while near > limit {
        near = (near * &unit).sqrt();
        roots += 1;
    }
    let ratio = (&near - &unit) * &unit / (&near + &unit);
    let square = &ratio * &ratio / &unit;
    let (mut sum, mut term, mut n) = (BigInt::zero(), ratio, 1u32);
    while !term.is_zero() {
        sum += &term / n;
        term = term * &square / &unit;
        n += 2;
    }
    rescale(&(sum * (BigInt::one() << (roots + 1))), scale + extra, scale)
}

/// `estimate_ln_dweight`: about the decimal place of the first digit of ln(a).
fn ln_weight(a: &BigDecimal) -> Result<i64, SqlError> {
    let near = |tenths: i64| BigDecimal::new(BigInt::from(tenths), 1);
    if super::compare(a, &near(9)).is_lt() || super::compare(a, &near(11)).is_gt() {
        let size = log10(a) * std::f64::consts::LN_10;
        return Ok(if size == 0.0 { 0 } else { size.abs().log10() as i64 });
    }
    // ln(x) is about x - 1.
    let (weight, first) = head(&super::sub(a, &BigDecimal::from(1))?);
    Ok(if first == 0 { 0 } else { weight * 4 + i64::from(first.unsigned_abs().ilog10()) })
}

/// The natural logarithm.
pub fn ln(a: &BigDecimal) -> Result<BigDecimal, SqlError> {
    let from = positive(a)?;
    let scale = (SIGNIFICANT_MIN - ln_weight(a)?).max(from).clamp(0, DISPLAY_SCALE_MAX);
    let guard = scale + 20;
    make(rescale(&fixed_ln(a, guard), guard, scale), scale)
}

/// The logarithm of a in base b.
pub fn log(b: &BigDecimal, a: &BigDecimal) -> Result<BigDecimal, SqlError> {
    let scale_b = positive(b)?;
    let scale_a = positive(a)?;
    let weight = ln_weight(a)? - ln_weight(b)?;
    let scale = (SIGNIFICANT_MIN - weight).max(scale_a).max(scale_b).clamp(0, DISPLAY_SCALE_MAX);
    let guard = scale + 30;
    let base = fixed_ln(b, guard);
    if base.is_zero() {
        return division_by_zero();
    }
    make(round_div(&(fixed_ln(a, guard) * ten(scale)), &base), scale)
}

/// e^a.
pub fn exp(a: &BigDecimal) -> Result<BigDecimal, SqlError> {
    let (digits, from) = parts(a);
    let value = super::to_float_or_infinity(a);
    // PostgreSQL's guard: three times the largest scale of a result.
    if value >= EXP_MAX {
        return overflow();
    }
    let estimate = (value * std::f64::consts::LOG10_E).max(-2000.0);
    if value <= -EXP_MAX {
        return make(BigInt::zero(), DISPLAY_SCALE_MAX);
    }
    let scale = (SIGNIFICANT_MIN - estimate.trunc() as i64).max(from).clamp(0, DISPLAY_SCALE_MAX);
    let guard = (scale + estimate.max(0.0) as i64 + 20).max(from);
    make(rescale(&fixed_exp(&rescale(&digits, from, guard), guard), guard, scale), scale)
}

/// The scale of a number that has a logarithm.
fn positive(a: &BigDecimal) -> Result<i64, SqlError> {
    let (digits, scale) = parts(a);
    if digits.is_zero() {
        return fail("2201E", "cannot take logarithm of zero");
    }
    if digits.is_negative() {
        return fail("2201E", "cannot take logarithm of a negative number");
    }
    Ok(scale)
}
