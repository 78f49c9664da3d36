//! Functions of numbers, and random ones.

use bigdecimal::BigDecimal;

use super::super::operators::arity;
use super::super::operators::{division_by_zero, float, float_power, on, whole};
use super::super::resolve::{Function, Volatility};
use super::super::{Context, Datum, SqlError, SqlType, fail, numeric};
use super::{row, unstable};

const INT2: SqlType = SqlType::INT2;
const INT4: SqlType = SqlType::INT4;
const INT8: SqlType = SqlType::INT8;
const FLOAT8: SqlType = SqlType::FLOAT8;
const NUMERIC: SqlType = SqlType::NUMERIC;

fn number(value: Result<BigDecimal, SqlError>) -> Result<Datum, SqlError> {
    value.map(Datum::Numeric)
}

fn real(value: f64) -> Result<Datum, SqlError> {
    Ok(Datum::Float8(value))
}

/// A function on doubles that may not leave its domain.
fn within(value: f64, input: f64) -> Result<Datum, SqlError> {
    if value.is_nan() && !input.is_nan() {
        return fail("22003", "input is out of range");
    }
    float(value, input.is_infinite(), true)
}

fn float_log(value: f64, log: fn(f64) -> f64) -> Result<Datum, SqlError> {
    if value == 0.0 {
        return fail("2201E", "cannot take logarithm of zero");
    }
    if value < 0.0 {
        return fail("2201E", "cannot take logarithm of a negative number");
    }
    float(log(value), value.is_infinite(), value == 1.0)
}

fn gcd(a: i128, b: i128) -> i128 {
    let (mut a, mut b) = (a.abs(), b.abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn lcm(a: i128, b: i128) -> i128 {
    if a == 0 || b == 0 { 0 } else { (a / gcd(a, b) * b).abs() }
}

pub(crate) static FUNCTIONS: &[Function] = &[
    row("abs", &[INT2], INT2, on!(Int2(a) => whole(a.checked_abs(), "smallint").map(Datum::Int2))),
    row("abs", &[INT4], INT4, on!(Int4(a) => whole(a.checked_abs(), "integer").map(Datum::Int4))),
    row("abs", &[INT8], INT8, on!(Int8(a) => whole(a.checked_abs(), "bigint").map(Datum::Int8))),
    row("abs", &[FLOAT8], FLOAT8, on!(Float8(a) => real(a.abs()))),
    row("abs", &[NUMERIC], NUMERIC, on!(Numeric(a) => Ok(Datum::Numeric(a.abs())))),
    row(
        "mod",
        &[INT2, INT2],
        INT2,
        on!(Int2(a), Int2(b) => if *b == 0 { division_by_zero() } else { Ok(Datum::Int2(a.wrapping_rem(*b))) }),
    ),
    row(
        "mod",
        &[INT4, INT4],
        INT4,
        on!(Int4(a), Int4(b) => if *b == 0 { division_by_zero() } else { Ok(Datum::Int4(a.wrapping_rem(*b))) }),
    ),
    row(
        "mod",
        &[INT8, INT8],
        INT8,
        on!(Int8(a), Int8(b) => if *b == 0 { division_by_zero() } else { Ok(Datum::Int8(a.wrapping_rem(*b))) }),
    ),
    row("mod", &[NUMERIC, NUMERIC], NUMERIC, on!(Numeric(a), Numeric(b) => number(numeric::modulo(a, b)))),
    row("div", &[NUMERIC, NUMERIC], NUMERIC, on!(Numeric(a), Numeric(b) => number(numeric::div_trunc(a, b)))),
    row(
        "gcd",
        &[INT4, INT4],
        INT4,
        on!(Int4(a), Int4(b) => whole(i32::try_from(gcd((*a).into(), (*b).into())).ok(), "integer").map(Datum::Int4)),
    ),
    row(
        "gcd",
        &[INT8, INT8],
        INT8,
        on!(Int8(a), Int8(b) => whole(i64::try_from(gcd((*a).into(), (*b).into())).ok(), "bigint").map(Datum::Int8)),
    ),
    row(
        "lcm",
        &[INT4, INT4],
        INT4,
        on!(Int4(a), Int4(b) => whole(i32::try_from(lcm((*a).into(), (*b).into())).ok(), "integer").map(Datum::Int4)),
    ),
    row(
        "lcm",
        &[INT8, INT8],
        INT8,
        on!(Int8(a), Int8(b) => whole(i64::try_from(lcm((*a).into(), (*b).into())).ok(), "bigint").map(Datum::Int8)),
    ),
    row("ceil", &[NUMERIC], NUMERIC, on!(Numeric(a) => number(numeric::ceil(a)))),
    row("ceil", &[FLOAT8], FLOAT8, on!(Float8(a) => real(a.ceil()))),
    row("ceiling", &[NUMERIC], NUMERIC, on!(Numeric(a) => number(numeric::ceil(a)))),
    row("ceiling", &[FLOAT8], FLOAT8, on!(Float8(a) => real(a.ceil()))),
    row("floor", &[NUMERIC], NUMERIC, on!(Numeric(a) => number(numeric::floor(a)))),
    row("floor", &[FLOAT8], FLOAT8, on!(Float8(a) => real(a.floor()))),
    row("round", &[NUMERIC], NUMERIC, on!(Numeric(a) => number(numeric::round(a, 0)))),
    row("round", &[FLOAT8], FLOAT8, on!(Float8(a) => real(a.round_ties_even()))),
    row("round", &[NUMERIC, INT4], NUMERIC, on!(Numeric(a), Int4(places) => number(numeric::round(a, i64::from(*places))))),
    row("trunc", &[NUMERIC], NUMERIC, on!(Numeric(a) => number(numeric::trunc(a, 0)))),
    row("trunc", &[FLOAT8], FLOAT8, on!(Float8(a) => real(a.trunc()))),
    row("trunc", &[NUMERIC, INT4], NUMERIC, on!(Numeric(a), Int4(places) => number(numeric::trunc(a, i64::from(*places))))),
    row("sign", &[NUMERIC], NUMERIC, on!(Numeric(a) => Ok(Datum::Numeric(numeric::sign(a))))),
    row("sign", &[FLOAT8], FLOAT8, on!(Float8(a) => real(if *a > 0.0 { 1.0 } else if *a < 0.0 { -1.0 } else { 0.0 }))),
    row("power", &[FLOAT8, FLOAT8], FLOAT8, on!(Float8(a), Float8(b) => float_power(*a, *b))),
    row("power", &[NUMERIC, NUMERIC], NUMERIC, on!(Numeric(a), Numeric(b) => number(numeric::power(a, b)))),
    row("pow", &[FLOAT8, FLOAT8], FLOAT8, on!(Float8(a), Float8(b) => float_power(*a, *b))),
    row("pow", &[NUMERIC, NUMERIC], NUMERIC, on!(Numeric(a), Numeric(b) => number(numeric::power(a, b)))),
    row("sqrt", &[NUMERIC], NUMERIC, on!(Numeric(a) => number(numeric::sqrt(a)))),
    row(
        "sqrt",
        &[FLOAT8],
        FLOAT8,
        on!(Float8(a) => {
            if *a < 0.0 { fail("2201F", "cannot take square root of a negative number") } else { real(a.sqrt()) }
        }),
    ),
    row("cbrt", &[FLOAT8], FLOAT8, on!(Float8(a) => real(a.cbrt()))),
    row("exp", &[NUMERIC], NUMERIC, on!(Numeric(a) => number(numeric::exp(a)))),
    row("exp", &[FLOAT8], FLOAT8, on!(Float8(a) => float(a.exp(), a.is_infinite(), *a == f64::NEG_INFINITY))),
    row("ln", &[NUMERIC], NUMERIC, on!(Numeric(a) => number(numeric::ln(a)))),
    row("ln", &[FLOAT8], FLOAT8, on!(Float8(a) => float_log(*a, f64::ln))),
    row("log", &[NUMERIC], NUMERIC, on!(Numeric(a) => number(numeric::log(&BigDecimal::from(10), a)))),
    row("log", &[FLOAT8], FLOAT8, on!(Float8(a) => float_log(*a, f64::log10))),
    row("log10", &[NUMERIC], NUMERIC, on!(Numeric(a) => number(numeric::log(&BigDecimal::from(10), a)))),
    row("log10", &[FLOAT8], FLOAT8, on!(Float8(a) => float_log(*a, f64::log10))),
    row("log", &[NUMERIC, NUMERIC], NUMERIC, on!(Numeric(a), Numeric(b) => number(numeric::log(a, b)))),
    row("scale", &[NUMERIC], INT4, on!(Numeric(a) => Ok(Datum::Int4(a.fractional_digit_count().max(0) as i32)))),
    row("degrees", &[FLOAT8], FLOAT8, on!(Float8(a) => float(a / 0.017_453_292_519_943_295, a.is_infinite(), *a == 0.0))),
    row("radians", &[FLOAT8], FLOAT8, on!(Float8(a) => real(a * 0.017_453_292_519_943_295))),
    row("sin", &[FLOAT8], FLOAT8, on!(Float8(a) => within(a.sin(), *a))),
    row("cos", &[FLOAT8], FLOAT8, on!(Float8(a) => within(a.cos(), *a))),
    row("tan", &[FLOAT8], FLOAT8, on!(Float8(a) => within(a.tan(), *a))),
    row("asin", &[FLOAT8], FLOAT8, on!(Float8(a) => within(a.asin(), *a))),
    row("acos", &[FLOAT8], FLOAT8, on!(Float8(a) => within(a.acos(), *a))),
    row("atan", &[FLOAT8], FLOAT8, on!(Float8(a) => within(a.atan(), *a))),
    row("atan2", &[FLOAT8, FLOAT8], FLOAT8, on!(Float8(a), Float8(b) => real(a.atan2(*b)))),
    row("pi", &[], FLOAT8, |_, _, _| real(std::f64::consts::PI)),
    unstable("random", &[], FLOAT8, Volatility::Volatile, |_, _, context| {
        real((context.outside.bits() >> 11) as f64 / 9_007_199_254_740_992.0)
    }),
    unstable("gen_random_uuid", &[], SqlType::UUID, Volatility::Volatile, |_, _, context| {
        let mut uuid = [0u8; 16];
        uuid[..8].copy_from_slice(&context.outside.bits().to_be_bytes());
        uuid[8..].copy_from_slice(&context.outside.bits().to_be_bytes());
        // RFC 4122: version 4, variant 1.
        uuid[6] = uuid[6] & 0x0f | 0x40;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        Ok(Datum::Uuid(uuid))
    }),
];
