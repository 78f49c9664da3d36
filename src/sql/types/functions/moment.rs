//! Functions of dates, times and intervals.

use super::super::calendar;
use super::super::interval::Interval;
use super::super::operators::{arity, on};
use super::super::resolve::{Function, Volatility};
use super::super::zone::Zone;
use super::super::{Context, Datum, SqlError, SqlType, datetime, fail};
use super::{row, unstable};

const TEXT: SqlType = SqlType::TEXT;
const DATE: SqlType = SqlType::DATE;
const TIMESTAMP: SqlType = SqlType::TIMESTAMP;
const TIMESTAMPTZ: SqlType = SqlType::TIMESTAMPTZ;
const INTERVAL: SqlType = SqlType::Interval;
const NUMERIC: SqlType = SqlType::NUMERIC;
const FLOAT8: SqlType = SqlType::FLOAT8;
const BOOL: SqlType = SqlType::BOOL;
const INT4: SqlType = SqlType::INT4;

fn extract(_: SqlType, arguments: &[Datum], context: &Context<'_>) -> Result<Datum, SqlError> {
    let east = context.formats.zone.east_seconds;
    let value = match arguments {
        [Datum::Text(field), Datum::Date(days)] => {
            // Dates reach further than timestamps: those get an infinity's answer or the range's error.
            datetime::extract_timestamp(field, datetime::date_to_timestamp(*days)?, DATE, 0)?
        }
        [Datum::Text(field), Datum::Timestamp(moment)] => datetime::extract_timestamp(field, *moment, TIMESTAMP, 0)?,
        [Datum::Text(field), Datum::TimestampTz(moment)] => datetime::extract_timestamp(field, *moment, TIMESTAMPTZ, east)?,
        [Datum::Text(field), span @ Datum::Bytea(_)] => Some(datetime::extract_interval(field, Interval::from_datum(span)?)?),
        _ => return arity(arguments),
    };
    Ok(value.map_or(Datum::Null, Datum::Numeric))
}

fn date_part(_: SqlType, arguments: &[Datum], context: &Context<'_>) -> Result<Datum, SqlError> {
    let east = context.formats.zone.east_seconds;
    match arguments {
        [Datum::Text(field), Datum::Date(days)] => datetime::date_part_timestamp(field, datetime::date_to_timestamp(*days)?, TIMESTAMP, 0),
        [Datum::Text(field), Datum::Timestamp(moment)] => datetime::date_part_timestamp(field, *moment, TIMESTAMP, 0),
        [Datum::Text(field), Datum::TimestampTz(moment)] => datetime::date_part_timestamp(field, *moment, TIMESTAMPTZ, east),
        [Datum::Text(field), span @ Datum::Bytea(_)] => datetime::date_part_interval(field, Interval::from_datum(span)?),
        _ => arity(arguments),
    }
}

fn zone_named(name: &str) -> Result<Zone, SqlError> {
    if let Some(east_seconds) = datetime_abbreviation(name) {
        return Ok(Zone { name: name.to_owned(), east_seconds });
    }
    match Zone::named(name) {
        Some(zone) => Ok(zone),
        None => fail("22023", format!("time zone \"{name}\" not recognized")),
    }
}

fn datetime_abbreviation(name: &str) -> Option<i32> {
    datetime::abbreviation(&name.to_ascii_lowercase())
}

fn date_trunc(_: SqlType, arguments: &[Datum], context: &Context<'_>) -> Result<Datum, SqlError> {
    let zoned = |field: &str, moment: i64, zone: &Zone| {
        if datetime::infinite(moment) {
            return datetime::date_trunc_timestamp(field, moment, TIMESTAMPTZ).map(Datum::TimestampTz);
        }
        let local = datetime::date_trunc_timestamp(field, datetime::to_local(moment, zone)?, TIMESTAMPTZ)?;
        datetime::from_local(local, zone).map(Datum::TimestampTz)
    };
    match arguments {
        [Datum::Text(field), Datum::Timestamp(moment)] => datetime::date_trunc_timestamp(field, *moment, TIMESTAMP).map(Datum::Timestamp),
        [Datum::Text(field), Datum::TimestampTz(moment)] => zoned(field, *moment, &context.formats.zone),
        [Datum::Text(field), Datum::TimestampTz(moment), Datum::Text(zone)] => zoned(field, *moment, &zone_named(zone)?),
        [Datum::Text(field), span @ Datum::Bytea(_)] => {
            datetime::date_trunc_interval(field, Interval::from_datum(span)?).map(Interval::datum)
        }
        _ => arity(arguments),
    }
}

/// `timezone(zone, moment)`: what AT TIME ZONE calls.
fn at_zone(_: SqlType, arguments: &[Datum], _: &Context<'_>) -> Result<Datum, SqlError> {
    let zone = match arguments.first() {
        Some(Datum::Text(name)) => zone_named(name)?,
        Some(span @ Datum::Bytea(_)) => {
            let span = Interval::from_datum(span)?;
            if span.months != 0 || span.days != 0 {
                return fail("22023", "interval time zone must not include months or days");
            }
            Zone::fixed((span.micros / calendar::SECOND) as i32)
        }
        _ => return arity(arguments),
    };
    match arguments {
        [_, Datum::Timestamp(local)] => datetime::from_local(*local, &zone).map(Datum::TimestampTz),
        [_, Datum::TimestampTz(moment)] => datetime::to_local(*moment, &zone).map(Datum::Timestamp),
        _ => arity(arguments),
    }
}

fn today(context: &Context<'_>) -> Result<i64, SqlError> {
    Ok(datetime::to_local(context.transaction_start, &context.formats.zone)?.div_euclid(calendar::DAY) * calendar::DAY)
}

fn span(value: Result<Interval, SqlError>) -> Result<Datum, SqlError> {
    value.map(Interval::datum)
}

fn make_timestamp(_: SqlType, arguments: &[Datum], _: &Context<'_>) -> Result<Datum, SqlError> {
    let [Datum::Int4(year), Datum::Int4(month), Datum::Int4(day), Datum::Int4(hour), Datum::Int4(minute), Datum::Float8(second)] =
        arguments
    else {
        return arity(arguments);
    };
    let date = datetime::make_date(*year, *month, *day)?;
    let micros = (second * 1e6).round_ties_even();
    let whole = i64::from(*hour) * calendar::HOUR + i64::from(*minute) * calendar::MINUTE + micros as i64;
    if !(0..=24).contains(hour) || !(0..60).contains(minute) || !(0.0..=60.0).contains(second) || whole > calendar::DAY {
        return fail("22008", format!("time field value out of range: {hour}:{minute:02}:{second:02}"));
    }
    match datetime::date_to_timestamp(date)?.checked_add(whole) {
        Some(moment) if calendar::in_range(moment) => Ok(Datum::Timestamp(moment)),
        _ => fail("22008", "timestamp out of range"),
    }
}

fn local_now(_: SqlType, _: &[Datum], context: &Context<'_>) -> Result<Datum, SqlError> {
    datetime::to_local(context.transaction_start, &context.formats.zone).map(Datum::Timestamp)
}

fn now(_: SqlType, _: &[Datum], context: &Context<'_>) -> Result<Datum, SqlError> {
    Ok(Datum::TimestampTz(context.transaction_start))
}

pub(crate) static FUNCTIONS: &[Function] = &[
    unstable("now", &[], TIMESTAMPTZ, Volatility::Stable, now),
    unstable("transaction_timestamp", &[], TIMESTAMPTZ, Volatility::Stable, now),
    unstable("current_timestamp", &[], TIMESTAMPTZ, Volatility::Stable, now),
    unstable("localtimestamp", &[], TIMESTAMP, Volatility::Stable, local_now),
    unstable("current_date", &[], DATE, Volatility::Stable, |_, _, context| Ok(Datum::Date(datetime::timestamp_to_date(today(context)?)))),
    unstable("statement_timestamp", &[], TIMESTAMPTZ, Volatility::Stable, |_, _, context| Ok(Datum::TimestampTz(context.statement_start))),
    unstable("clock_timestamp", &[], TIMESTAMPTZ, Volatility::Volatile, |_, _, context| Ok(Datum::TimestampTz(context.outside.clock()))),
    row("extract", &[TEXT, DATE], NUMERIC, extract),
    row("extract", &[TEXT, TIMESTAMP], NUMERIC, extract),
    unstable("extract", &[TEXT, TIMESTAMPTZ], NUMERIC, Volatility::Stable, extract),
    row("extract", &[TEXT, INTERVAL], NUMERIC, extract),
    row("date_part", &[TEXT, DATE], FLOAT8, date_part),
    row("date_part", &[TEXT, TIMESTAMP], FLOAT8, date_part),
    unstable("date_part", &[TEXT, TIMESTAMPTZ], FLOAT8, Volatility::Stable, date_part),
    row("date_part", &[TEXT, INTERVAL], FLOAT8, date_part),
    row("date_trunc", &[TEXT, TIMESTAMP], TIMESTAMP, date_trunc),
    unstable("date_trunc", &[TEXT, TIMESTAMPTZ], TIMESTAMPTZ, Volatility::Stable, date_trunc),
    row("date_trunc", &[TEXT, TIMESTAMPTZ, TEXT], TIMESTAMPTZ, date_trunc),
    row("date_trunc", &[TEXT, INTERVAL], INTERVAL, date_trunc),
    row("timezone", &[TEXT, TIMESTAMP], TIMESTAMPTZ, at_zone),
    row("timezone", &[TEXT, TIMESTAMPTZ], TIMESTAMP, at_zone),
    row("timezone", &[INTERVAL, TIMESTAMP], TIMESTAMPTZ, at_zone),
    row("timezone", &[INTERVAL, TIMESTAMPTZ], TIMESTAMP, at_zone),
    row("age", &[TIMESTAMP, TIMESTAMP], INTERVAL, on!(Timestamp(a), Timestamp(b) => span(datetime::age(*a, *b)))),
    unstable("age", &[TIMESTAMPTZ, TIMESTAMPTZ], INTERVAL, Volatility::Stable, |_, arguments, context| match arguments {
        [Datum::TimestampTz(a), Datum::TimestampTz(b)] => {
            let zone = &context.formats.zone;
            span(datetime::age(datetime::to_local(*a, zone)?, datetime::to_local(*b, zone)?))
        }
        _ => arity(arguments),
    }),
    unstable("age", &[TIMESTAMP], INTERVAL, Volatility::Stable, |_, arguments, context| match arguments {
        [Datum::Timestamp(a)] => span(datetime::age(today(context)?, *a)),
        _ => arity(arguments),
    }),
    unstable("age", &[TIMESTAMPTZ], INTERVAL, Volatility::Stable, |_, arguments, context| match arguments {
        [Datum::TimestampTz(a)] => span(datetime::age(today(context)?, datetime::to_local(*a, &context.formats.zone)?)),
        _ => arity(arguments),
    }),
    row("make_date", &[INT4, INT4, INT4], DATE, on!(Int4(y), Int4(m), Int4(d) => datetime::make_date(*y, *m, *d).map(Datum::Date))),
    row("make_timestamp", &[INT4, INT4, INT4, INT4, INT4, FLOAT8], TIMESTAMP, make_timestamp),
    row("to_timestamp", &[FLOAT8], TIMESTAMPTZ, on!(Float8(a) => datetime::from_unix(*a).map(Datum::TimestampTz))),
    row("justify_hours", &[INTERVAL], INTERVAL, on!(Bytea(a) => span(datetime::justify(Interval::read_binary(a)?, true, false)))),
    row("justify_days", &[INTERVAL], INTERVAL, on!(Bytea(a) => span(datetime::justify(Interval::read_binary(a)?, false, true)))),
    row("justify_interval", &[INTERVAL], INTERVAL, on!(Bytea(a) => span(datetime::justify(Interval::read_binary(a)?, true, true)))),
    row("isfinite", &[DATE], BOOL, on!(Date(a) => Ok(Datum::Bool(*a != i32::MIN && *a != i32::MAX)))),
    row("isfinite", &[TIMESTAMP], BOOL, on!(Timestamp(a) => Ok(Datum::Bool(!datetime::infinite(*a))))),
    row("isfinite", &[TIMESTAMPTZ], BOOL, on!(TimestampTz(a) => Ok(Datum::Bool(!datetime::infinite(*a))))),
    row("isfinite", &[INTERVAL], BOOL, |_, _, _| Ok(Datum::Bool(true))),
];
