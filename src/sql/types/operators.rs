//! The operators there are.

use std::cmp::Ordering;

use super::cast::pad;
use super::compare::compare;
use super::interval::Interval;
use super::resolve::{Call, Function, Volatility};
use super::{Context, Datum, SqlError, SqlType, Type, datetime, fail, mismatch, numeric, pattern, regex};

const BOOL: SqlType = SqlType::BOOL;
const INT2: SqlType = SqlType::INT2;
const INT4: SqlType = SqlType::INT4;
const INT8: SqlType = SqlType::INT8;
const FLOAT8: SqlType = SqlType::FLOAT8;
const NUMERIC: SqlType = SqlType::NUMERIC;
const TEXT: SqlType = SqlType::TEXT;
const BYTEA: SqlType = SqlType::BYTEA;
const DATE: SqlType = SqlType::DATE;
const TIMESTAMP: SqlType = SqlType::TIMESTAMP;
const TIMESTAMPTZ: SqlType = SqlType::TIMESTAMPTZ;
const INTERVAL: SqlType = SqlType::Interval;
const ANY: SqlType = SqlType::AnyElement;

const fn row(name: &'static str, arguments: &'static [SqlType], result: SqlType, call: Call) -> Function {
    Function { name, arguments, result, strict: true, volatility: Volatility::Immutable, call }
}

/// Types with an order, each compared with itself; mixed ones meet at the wider type.
static COMPARABLE: &[[SqlType; 2]] = &[
    [BOOL, BOOL],
    [INT2, INT2],
    [INT4, INT4],
    [INT8, INT8],
    [FLOAT8, FLOAT8],
    [NUMERIC, NUMERIC],
    [TEXT, TEXT],
    [SqlType::BPCHAR, SqlType::BPCHAR],
    [BYTEA, BYTEA],
    [DATE, DATE],
    [TIMESTAMP, TIMESTAMP],
    [TIMESTAMPTZ, TIMESTAMPTZ],
    [INTERVAL, INTERVAL],
    [SqlType::UUID, SqlType::UUID],
    [SqlType::Name, SqlType::Name],
    [SqlType::Name, TEXT],
    [TEXT, SqlType::Name],
    [SqlType::Oid, SqlType::Oid],
    [SqlType::InternalChar, SqlType::InternalChar],
    [DATE, TIMESTAMP],
    [DATE, TIMESTAMPTZ],
    [TIMESTAMP, DATE],
    [TIMESTAMP, TIMESTAMPTZ],
    [TIMESTAMPTZ, DATE],
    [TIMESTAMPTZ, TIMESTAMP],
];

/// The operators called `name` with that many operands.
pub(crate) fn candidates(name: &str, operands: usize) -> Vec<Function> {
    let mut found: Vec<Function> =
        TABLES.iter().flat_map(|table| table.iter()).filter(|f| f.name == name && f.arguments.len() == operands).copied().collect();
    let comparison: Option<(&'static str, Call)> = match name {
        "=" => Some(("=", |ty, a, c| comparison(ty, a, c, |o| o == Ordering::Equal))),
        "<>" => Some(("<>", |ty, a, c| comparison(ty, a, c, |o| o != Ordering::Equal))),
        "<" => Some(("<", |ty, a, c| comparison(ty, a, c, |o| o == Ordering::Less))),
        "<=" => Some(("<=", |ty, a, c| comparison(ty, a, c, |o| o != Ordering::Greater))),
        ">" => Some((">", |ty, a, c| comparison(ty, a, c, |o| o == Ordering::Greater))),
        ">=" => Some((">=", |ty, a, c| comparison(ty, a, c, |o| o != Ordering::Less))),
        _ => None,
    };
    if let (Some((name, call)), 2) = (comparison, operands) {
        found.extend(COMPARABLE.iter().map(|pair| row(name, pair, BOOL, call)));
    }
    found
}

fn comparison(ty: SqlType, arguments: &[Datum], context: &Context<'_>, test: fn(Ordering) -> bool) -> Result<Datum, SqlError> {
    let [a, b] = arguments else { return arity(arguments) };
    let ordering = match (a, b) {
        // The hot ones first, without a call.
        (Datum::Int4(a), Datum::Int4(b)) => a.cmp(b),
        (Datum::Int8(a), Datum::Int8(b)) => a.cmp(b),
        (Datum::Date(_) | Datum::Timestamp(_) | Datum::TimestampTz(_), Datum::Date(_) | Datum::Timestamp(_) | Datum::TimestampTz(_)) => {
            moments(a, b, context)
        }
        _ => compare(ty, a, b)?,
    };
    Ok(Datum::Bool(test(ordering)))
}

/// Dates and timestamps of different kinds, without the range that a conversion has.
fn moments(a: &Datum, b: &Datum, context: &Context<'_>) -> Ordering {
    if let (Datum::Date(a), Datum::Date(b)) = (a, b) {
        return a.cmp(b);
    }
    let zoned = matches!(a, Datum::TimestampTz(_)) || matches!(b, Datum::TimestampTz(_));
    let east = i128::from(context.formats.zone.east_seconds) * i128::from(super::calendar::SECOND);
    let place = |value: &Datum| match value {
        Datum::Date(i32::MIN) | Datum::Timestamp(i64::MIN) | Datum::TimestampTz(i64::MIN) => i128::MIN,
        Datum::Date(i32::MAX) | Datum::Timestamp(i64::MAX) | Datum::TimestampTz(i64::MAX) => i128::MAX,
        Datum::Date(days) => i128::from(*days) * i128::from(super::calendar::DAY) - if zoned { east } else { 0 },
        Datum::Timestamp(local) => i128::from(*local) - if zoned { east } else { 0 },
        Datum::TimestampTz(moment) => i128::from(*moment),
        _ => 0,
    };
    place(a).cmp(&place(b))
}

/// A function got arguments it wasn't resolved for.
pub(crate) fn arity<T>(arguments: &[Datum]) -> Result<T, SqlError> {
    fail("XX000", format!("unexpected arguments {arguments:?}"))
}

/// A call on arguments of known variants.
macro_rules! on {
    ($($kind:ident($name:ident)),+ => $result:expr) => {
        |_ty: SqlType, arguments: &[Datum], _context: &Context<'_>| match arguments {
            [$(Datum::$kind($name)),+] => $result,
            _ => arity(arguments),
        }
    };
}
pub(crate) use on;

/// The operators of one integer type.
macro_rules! integers {
    ($kind:ident, $ty:expr, $name:literal) => {
        [
            row("+", &[$ty, $ty], $ty, on!($kind(a), $kind(b) => whole(a.checked_add(*b), $name).map(Datum::$kind))),
            row("-", &[$ty, $ty], $ty, on!($kind(a), $kind(b) => whole(a.checked_sub(*b), $name).map(Datum::$kind))),
            row("*", &[$ty, $ty], $ty, on!($kind(a), $kind(b) => whole(a.checked_mul(*b), $name).map(Datum::$kind))),
            row("/", &[$ty, $ty], $ty, on!($kind(a), $kind(b) => {
                if *b == 0 { division_by_zero() } else { whole(a.checked_div(*b), $name).map(Datum::$kind) }
            })),
            row("%", &[$ty, $ty], $ty, on!($kind(a), $kind(b) => {
                if *b == 0 { division_by_zero() } else { Ok(Datum::$kind(a.wrapping_rem(*b))) }
            })),
            row("&", &[$ty, $ty], $ty, on!($kind(a), $kind(b) => Ok(Datum::$kind(a & b)))),
            row("|", &[$ty, $ty], $ty, on!($kind(a), $kind(b) => Ok(Datum::$kind(a | b)))),
            row("#", &[$ty, $ty], $ty, on!($kind(a), $kind(b) => Ok(Datum::$kind(a ^ b)))),
            row("<<", &[$ty, INT4], $ty, on!($kind(a), Int4(b) => Ok(Datum::$kind(a.wrapping_shl(*b as u32))))),
            row(">>", &[$ty, INT4], $ty, on!($kind(a), Int4(b) => Ok(Datum::$kind(a.wrapping_shr(*b as u32))))),
            row("~", &[$ty], $ty, on!($kind(a) => Ok(Datum::$kind(!a)))),
            row("-", &[$ty], $ty, on!($kind(a) => whole(a.checked_neg(), $name).map(Datum::$kind))),
            row("+", &[$ty], $ty, on!($kind(a) => Ok(Datum::$kind(*a)))),
            row("@", &[$ty], $ty, on!($kind(a) => whole(a.checked_abs(), $name).map(Datum::$kind))),
        ]
    };
}

pub(crate) fn whole<T>(value: Option<T>, name: &str) -> Result<T, SqlError> {
    match value {
        Some(value) => Ok(value),
        None => fail("22003", format!("{name} out of range")),
    }
}

pub(crate) fn division_by_zero<T>() -> Result<T, SqlError> {
    fail("22012", "division by zero")
}

/// A double that a computation gave: infinite or zero only where that follows from what went in.
pub(crate) fn float(value: f64, infinite_ok: bool, zero_ok: bool) -> Result<Datum, SqlError> {
    if value.is_infinite() && !infinite_ok {
        return fail("22003", "value out of range: overflow");
    }
    if value == 0.0 && !zero_ok {
        return fail("22003", "value out of range: underflow");
    }
    Ok(Datum::Float8(value))
}

fn float_div(a: f64, b: f64) -> Result<Datum, SqlError> {
    if b == 0.0 && !a.is_nan() {
        return division_by_zero();
    }
    float(a / b, a.is_infinite(), a == 0.0 || b.is_infinite())
}

/// base ^ exponent for doubles: `dpow`.
pub(crate) fn float_power(a: f64, b: f64) -> Result<Datum, SqlError> {
    if a.is_nan() {
        return Ok(Datum::Float8(if b == 0.0 { 1.0 } else { f64::NAN }));
    }
    if b.is_nan() {
        return Ok(Datum::Float8(if a == 1.0 { 1.0 } else { f64::NAN }));
    }
    if a == 0.0 && b < 0.0 {
        return fail("2201F", "zero raised to a negative power is undefined");
    }
    if a < 0.0 && b.floor() != b {
        return fail("2201F", "a negative number raised to a non-integer power yields a complex result");
    }
    float(a.powf(b), a.is_infinite() || b.is_infinite(), a == 0.0 || a.is_infinite() || b.is_infinite())
}

fn interval(span: Result<Interval, SqlError>) -> Result<Datum, SqlError> {
    span.map(Interval::datum)
}

fn scaled(span: &[u8], factor: f64) -> Result<Datum, SqlError> {
    interval(Interval::read_binary(span)?.scale(factor))
}

/// A date or timestamp plus or minus an interval.
fn moment_span(_: SqlType, arguments: &[Datum], context: &Context<'_>, minus: bool) -> Result<Datum, SqlError> {
    let (moment, span) = match arguments {
        [moment, span @ Datum::Bytea(_)] => (moment, span),
        [span @ Datum::Bytea(_), moment] => (moment, span),
        _ => return arity(arguments),
    };
    let span = Interval::from_datum(span)?;
    let span = if minus { span.negate()? } else { span };
    match moment {
        Datum::Date(days) => datetime::timestamp_add(datetime::date_to_timestamp(*days)?, span).map(Datum::Timestamp),
        Datum::Timestamp(moment) => datetime::timestamp_add(*moment, span).map(Datum::Timestamp),
        Datum::TimestampTz(moment) => datetime::timestamptz_add(*moment, span, &context.formats.zone).map(Datum::TimestampTz),
        _ => arity(arguments),
    }
}

/// The text on the left as patterns see it: `char(n)` with its blanks.
fn shown(ty: SqlType, text: &str) -> std::borrow::Cow<'_, str> {
    match ty {
        SqlType::Stored(Type::Char(length)) => {
            let mut padded = text.to_owned();
            pad(&mut padded, length);
            padded.into()
        }
        _ => text.into(),
    }
}

fn like(ty: SqlType, arguments: &[Datum], fold: bool, wanted: bool) -> Result<Datum, SqlError> {
    match arguments {
        [Datum::Text(text), Datum::Text(like)] => Ok(Datum::Bool(pattern::like(&shown(ty, text), like, Some('\\'), fold)? == wanted)),
        _ => arity(arguments),
    }
}

fn matches(ty: SqlType, arguments: &[Datum], fold: bool, wanted: bool) -> Result<Datum, SqlError> {
    match arguments {
        [Datum::Text(text), Datum::Text(pattern)] => {
            Ok(Datum::Bool(regex::Regex::new(pattern, fold)?.is_match(&shown(ty, text)) == wanted))
        }
        _ => arity(arguments),
    }
}

fn add_span(_: SqlType, arguments: &[Datum], context: &Context<'_>) -> Result<Datum, SqlError> {
    moment_span(SqlType::Void, arguments, context, false)
}

fn subtract_span(_: SqlType, arguments: &[Datum], context: &Context<'_>) -> Result<Datum, SqlError> {
    moment_span(SqlType::Void, arguments, context, true)
}

fn joined(_: SqlType, arguments: &[Datum], _: &Context<'_>) -> Result<Datum, SqlError> {
    match arguments {
        [Datum::Text(a), Datum::Text(b)] => {
            let mut text = String::with_capacity(a.len() + b.len());
            text.push_str(a);
            text.push_str(b);
            Ok(Datum::Text(text))
        }
        [Datum::Bytea(a), Datum::Bytea(b)] => Ok(Datum::Bytea([a.as_slice(), b].concat())),
        _ => mismatch("two texts", arguments.first().unwrap_or(&Datum::Null)),
    }
}

static INT2_OPERATORS: [Function; 14] = integers!(Int2, INT2, "smallint");
static INT4_OPERATORS: [Function; 14] = integers!(Int4, INT4, "integer");
static INT8_OPERATORS: [Function; 14] = integers!(Int8, INT8, "bigint");

static NUMBER_OPERATORS: &[Function] = &[
    row("+", &[FLOAT8, FLOAT8], FLOAT8, on!(Float8(a), Float8(b) => float(a + b, a.is_infinite() || b.is_infinite(), true))),
    row("-", &[FLOAT8, FLOAT8], FLOAT8, on!(Float8(a), Float8(b) => float(a - b, a.is_infinite() || b.is_infinite(), true))),
    row(
        "*",
        &[FLOAT8, FLOAT8],
        FLOAT8,
        on!(Float8(a), Float8(b) => float(a * b, a.is_infinite() || b.is_infinite(), *a == 0.0 || *b == 0.0)),
    ),
    row("/", &[FLOAT8, FLOAT8], FLOAT8, on!(Float8(a), Float8(b) => float_div(*a, *b))),
    row("^", &[FLOAT8, FLOAT8], FLOAT8, on!(Float8(a), Float8(b) => float_power(*a, *b))),
    row("-", &[FLOAT8], FLOAT8, on!(Float8(a) => Ok(Datum::Float8(-a)))),
    row("+", &[FLOAT8], FLOAT8, on!(Float8(a) => Ok(Datum::Float8(*a)))),
    row("@", &[FLOAT8], FLOAT8, on!(Float8(a) => Ok(Datum::Float8(a.abs())))),
    row("+", &[NUMERIC, NUMERIC], NUMERIC, on!(Numeric(a), Numeric(b) => numeric::add(a, b).map(Datum::Numeric))),
    row("-", &[NUMERIC, NUMERIC], NUMERIC, on!(Numeric(a), Numeric(b) => numeric::sub(a, b).map(Datum::Numeric))),
    row("*", &[NUMERIC, NUMERIC], NUMERIC, on!(Numeric(a), Numeric(b) => numeric::mul(a, b).map(Datum::Numeric))),
    row("/", &[NUMERIC, NUMERIC], NUMERIC, on!(Numeric(a), Numeric(b) => numeric::div(a, b).map(Datum::Numeric))),
    row("%", &[NUMERIC, NUMERIC], NUMERIC, on!(Numeric(a), Numeric(b) => numeric::modulo(a, b).map(Datum::Numeric))),
    row("^", &[NUMERIC, NUMERIC], NUMERIC, on!(Numeric(a), Numeric(b) => numeric::power(a, b).map(Datum::Numeric))),
    row("-", &[NUMERIC], NUMERIC, on!(Numeric(a) => Ok(Datum::Numeric(numeric::negate(a))))),
    row("+", &[NUMERIC], NUMERIC, on!(Numeric(a) => Ok(Datum::Numeric(a.clone())))),
    row("@", &[NUMERIC], NUMERIC, on!(Numeric(a) => Ok(Datum::Numeric(a.abs())))),
];

static TEXT_OPERATORS: &[Function] = &[
    row("||", &[TEXT, TEXT], TEXT, joined),
    row("||", &[TEXT, ANY], TEXT, joined),
    row("||", &[ANY, TEXT], TEXT, joined),
    row("||", &[BYTEA, BYTEA], BYTEA, joined),
    row("~~", &[TEXT, TEXT], BOOL, |ty, a, _| like(ty, a, false, true)),
    row("!~~", &[TEXT, TEXT], BOOL, |ty, a, _| like(ty, a, false, false)),
    row("~~*", &[TEXT, TEXT], BOOL, |ty, a, _| like(ty, a, true, true)),
    row("!~~*", &[TEXT, TEXT], BOOL, |ty, a, _| like(ty, a, true, false)),
    row("~", &[TEXT, TEXT], BOOL, |ty, a, _| matches(ty, a, false, true)),
    row("!~", &[TEXT, TEXT], BOOL, |ty, a, _| matches(ty, a, false, false)),
    row("~*", &[TEXT, TEXT], BOOL, |ty, a, _| matches(ty, a, true, true)),
    row("!~*", &[TEXT, TEXT], BOOL, |ty, a, _| matches(ty, a, true, false)),
    row("~~", &[SqlType::BPCHAR, TEXT], BOOL, |ty, a, _| like(ty, a, false, true)),
    row("!~~", &[SqlType::BPCHAR, TEXT], BOOL, |ty, a, _| like(ty, a, false, false)),
    row("~~*", &[SqlType::BPCHAR, TEXT], BOOL, |ty, a, _| like(ty, a, true, true)),
    row("!~~*", &[SqlType::BPCHAR, TEXT], BOOL, |ty, a, _| like(ty, a, true, false)),
    row("~", &[SqlType::BPCHAR, TEXT], BOOL, |ty, a, _| matches(ty, a, false, true)),
    row("!~", &[SqlType::BPCHAR, TEXT], BOOL, |ty, a, _| matches(ty, a, false, false)),
    row("~*", &[SqlType::BPCHAR, TEXT], BOOL, |ty, a, _| matches(ty, a, true, true)),
    row("!~*", &[SqlType::BPCHAR, TEXT], BOOL, |ty, a, _| matches(ty, a, true, false)),
    row("^@", &[TEXT, TEXT], BOOL, on!(Text(a), Text(b) => Ok(Datum::Bool(a.starts_with(b.as_str()))))),
];

static MOMENT_OPERATORS: &[Function] = &[
    row("+", &[DATE, INT4], DATE, on!(Date(a), Int4(b) => datetime::date_add(*a, i64::from(*b)).map(Datum::Date))),
    row("+", &[INT4, DATE], DATE, on!(Int4(b), Date(a) => datetime::date_add(*a, i64::from(*b)).map(Datum::Date))),
    row("-", &[DATE, INT4], DATE, on!(Date(a), Int4(b) => datetime::date_add(*a, -i64::from(*b)).map(Datum::Date))),
    row("-", &[DATE, DATE], INT4, on!(Date(a), Date(b) => datetime::date_diff(*a, *b).map(Datum::Int4))),
    row("+", &[DATE, INTERVAL], TIMESTAMP, add_span),
    row("+", &[TIMESTAMP, INTERVAL], TIMESTAMP, add_span),
    row("+", &[TIMESTAMPTZ, INTERVAL], TIMESTAMPTZ, add_span),
    row("+", &[INTERVAL, DATE], TIMESTAMP, add_span),
    row("+", &[INTERVAL, TIMESTAMP], TIMESTAMP, add_span),
    row("+", &[INTERVAL, TIMESTAMPTZ], TIMESTAMPTZ, add_span),
    row("-", &[DATE, INTERVAL], TIMESTAMP, subtract_span),
    row("-", &[TIMESTAMP, INTERVAL], TIMESTAMP, subtract_span),
    row("-", &[TIMESTAMPTZ, INTERVAL], TIMESTAMPTZ, subtract_span),
    row("-", &[TIMESTAMP, TIMESTAMP], INTERVAL, on!(Timestamp(a), Timestamp(b) => interval(datetime::timestamp_diff(*a, *b)))),
    row("-", &[TIMESTAMPTZ, TIMESTAMPTZ], INTERVAL, on!(TimestampTz(a), TimestampTz(b) => interval(datetime::timestamp_diff(*a, *b)))),
    row(
        "+",
        &[INTERVAL, INTERVAL],
        INTERVAL,
        on!(Bytea(a), Bytea(b) => interval(Interval::read_binary(a)?.plus(Interval::read_binary(b)?))),
    ),
    row(
        "-",
        &[INTERVAL, INTERVAL],
        INTERVAL,
        on!(Bytea(a), Bytea(b) => interval(Interval::read_binary(a)?.plus(Interval::read_binary(b)?.negate()?))),
    ),
    row("-", &[INTERVAL], INTERVAL, on!(Bytea(a) => interval(Interval::read_binary(a)?.negate()))),
    row("*", &[INTERVAL, FLOAT8], INTERVAL, on!(Bytea(a), Float8(b) => scaled(a, *b))),
    row("*", &[FLOAT8, INTERVAL], INTERVAL, on!(Float8(b), Bytea(a) => scaled(a, *b))),
    row(
        "/",
        &[INTERVAL, FLOAT8],
        INTERVAL,
        on!(Bytea(a), Float8(b) => {
            if *b == 0.0 { division_by_zero() } else { scaled(a, 1.0 / *b) }
        }),
    ),
];

static TABLES: &[&[Function]] = &[&INT2_OPERATORS, &INT4_OPERATORS, &INT8_OPERATORS, NUMBER_OPERATORS, TEXT_OPERATORS, MOMENT_OPERATORS];

/// All operators but comparisons, for tests.
#[cfg(test)]
pub(crate) fn tables() -> impl Iterator<Item = &'static [Function]> {
    TABLES.iter().copied()
}
