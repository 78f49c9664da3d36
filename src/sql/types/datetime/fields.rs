//! `extract`, `date_part` and `date_trunc`.

use bigdecimal::BigDecimal;

use super::super::calendar::{self, DAY, HOUR, MINUTE, Parts, SECOND};
use super::super::interval::Interval;
use super::super::number::trim;
use super::super::{Datum, SqlError, SqlType, fail};
use super::infinite;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Field {
    Microseconds,
    Milliseconds,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
    Decade,
    Century,
    Millennium,
    DayOfWeek,
    IsoDayOfWeek,
    DayOfYear,
    IsoYear,
    Julian,
    Epoch,
    Timezone,
    TimezoneHour,
    TimezoneMinute,
}

fn field(name: &str, ty: SqlType) -> Result<Field, SqlError> {
    let lower = trim(name).to_ascii_lowercase();
    Ok(match lower.as_str() {
        "us" | "usec" | "usecs" | "useconds" | "usecond" | "microsecond" | "microseconds" | "microsecon" => Field::Microseconds,
        "ms" | "msec" | "msecs" | "mseconds" | "msecond" | "millisecond" | "milliseconds" | "millisecon" => Field::Milliseconds,
        "s" | "sec" | "secs" | "second" | "seconds" => Field::Second,
        "m" | "min" | "mins" | "minute" | "minutes" => Field::Minute,
        "h" | "hr" | "hrs" | "hour" | "hours" => Field::Hour,
        "d" | "day" | "days" => Field::Day,
        "w" | "week" | "weeks" => Field::Week,
        "mon" | "mons" | "month" | "months" => Field::Month,
        "qtr" | "quarter" => Field::Quarter,
        "y" | "yr" | "yrs" | "year" | "years" => Field::Year,
        "dec" | "decs" | "decade" | "decades" => Field::Decade,
        "c" | "cent" | "century" | "centuries" => Field::Century,
        "mil" | "mils" | "millennium" | "millennia" => Field::Millennium,
        "dow" => Field::DayOfWeek,
        "isodow" => Field::IsoDayOfWeek,
        "doy" => Field::DayOfYear,
        "isoyear" => Field::IsoYear,
        "j" | "jd" | "julian" => Field::Julian,
        "epoch" => Field::Epoch,
        "timezone" => Field::Timezone,
        "timezone_h" | "timezone_hour" => Field::TimezoneHour,
        "timezone_m" | "timezone_minute" => Field::TimezoneMinute,
        _ => return unrecognized(name, ty),
    })
}

fn unrecognized<T>(name: &str, ty: SqlType) -> Result<T, SqlError> {
    fail("22023", format!("unit \"{}\" not recognized for type {}", trim(name).to_ascii_lowercase(), ty.display_name()))
}

/// What can be extracted but is no unit to cut down to.
fn reserved(what: Field) -> bool {
    use Field::{DayOfWeek, DayOfYear, Epoch, IsoDayOfWeek, IsoYear, Julian};
    matches!(what, DayOfWeek | IsoDayOfWeek | DayOfYear | IsoYear | Julian | Epoch)
}

fn unsupported<T>(name: &str, ty: SqlType) -> Result<T, SqlError> {
    fail("0A000", format!("unit \"{}\" not supported for type {}", trim(name).to_ascii_lowercase(), ty.display_name()))
}

fn century(year: i32, length: i32) -> i32 {
    if year > 0 { (year + length - 1) / length } else { -((length - 1 - (year - 1)) / length) }
}

/// The first year of year 1's century, millennium and so on: 2001 for 2025 and 1000.
fn first_of(year: i32, length: i32) -> i32 {
    if year > 0 { (year + length - 1) / length * length - (length - 1) } else { -((length - 1 - (year - 1)) / length) * length + 1 }
}

fn decade(year: i32) -> i32 {
    if year >= 0 { year / 10 } else { -((8 - (year - 1)) / 10) }
}

/// A number with a scale.
fn number(value: i128, scale: i64) -> BigDecimal {
    BigDecimal::new(value.into(), scale)
}

/// A field of a timestamp (or of a date, `ty` saying so); None where an infinity has none. `east_seconds` for timestamptz.
pub fn extract_timestamp(name: &str, moment: i64, ty: SqlType, east_seconds: i32) -> Result<Option<BigDecimal>, SqlError> {
    let what = field(name, ty)?;
    let date = ty == SqlType::DATE;
    let with_zone = ty == SqlType::TIMESTAMPTZ;
    let clock = matches!(what, Field::Microseconds | Field::Milliseconds | Field::Second | Field::Minute | Field::Hour);
    let zoned = matches!(what, Field::Timezone | Field::TimezoneHour | Field::TimezoneMinute);
    if date && (clock || zoned) {
        return unsupported(name, ty);
    }
    if infinite(moment) {
        let grows = matches!(
            what,
            Field::Year | Field::Decade | Field::Century | Field::Millennium | Field::IsoYear | Field::Julian | Field::Epoch
        );
        return if grows { fail("0A000", "NaN and infinity are not supported for type numeric") } else { Ok(None) };
    }
    if zoned && !with_zone {
        return unsupported(name, ty);
    }
    let local = moment + i64::from(east_seconds) * SECOND;
    let parts = calendar::split(local);
    let day = local.div_euclid(DAY) as i32;
    let whole = |value: i32| number(value.into(), 0);
    let display_year = |year: i32| if year > 0 { year } else { year - 1 };
    let seconds = i128::from(parts.second) * 1_000_000 + i128::from(parts.micros);
    Ok(Some(match what {
        Field::Microseconds => number(seconds, 0),
        Field::Milliseconds => number(seconds, 3),
        Field::Second => number(seconds, 6),
        Field::Minute => whole(parts.minute),
        Field::Hour => whole(parts.hour),
        Field::Day => whole(parts.day),
        Field::Week => whole(calendar::iso_week(day).1),
        Field::Month => whole(parts.month),
        Field::Quarter => whole((parts.month - 1) / 3 + 1),
        Field::Year => whole(display_year(parts.year)),
        Field::Decade => whole(decade(parts.year)),
        Field::Century => whole(century(parts.year, 100)),
        Field::Millennium => whole(century(parts.year, 1000)),
        Field::DayOfWeek => whole(calendar::weekday(day)),
        Field::IsoDayOfWeek => whole((calendar::weekday(day) + 6) % 7 + 1),
        Field::DayOfYear => whole(day - calendar::days(parts.year, 1, 1) + 1),
        Field::IsoYear => whole(display_year(calendar::iso_week(day).0)),
        Field::Julian if date => whole(day + calendar::EPOCH_JULIAN),
        Field::Julian => julian(local, day)?,
        Field::Epoch if date => number(i128::from(day - calendar::UNIX_EPOCH) * 86_400, 0),
        Field::Epoch => number(i128::from(moment) - i128::from(calendar::UNIX_EPOCH) * i128::from(DAY), 6),
        Field::Timezone => whole(east_seconds),
        Field::TimezoneHour => whole(east_seconds / 3600),
        Field::TimezoneMinute => whole(east_seconds / 60 % 60),
    }))
}

/// Julian day with the time of day as its fraction.
fn julian(local: i64, day: i32) -> Result<BigDecimal, SqlError> {
    let time = number(local.rem_euclid(DAY).into(), 6);
    let fraction = super::super::numeric::div(&time, &number(86_400, 0))?;
    super::super::numeric::add(&number((day + calendar::EPOCH_JULIAN).into(), 0), &fraction)
}

/// A field of an interval.
pub fn extract_interval(name: &str, span: Interval) -> Result<BigDecimal, SqlError> {
    let what = field(name, SqlType::Interval)?;
    let seconds = i128::from(span.micros % MINUTE);
    let whole = |value: i64| number(value.into(), 0);
    let (years, months) = (span.months / 12, span.months % 12);
    Ok(match what {
        Field::Microseconds => number(seconds, 0),
        Field::Milliseconds => number(seconds, 3),
        Field::Second => number(seconds, 6),
        Field::Minute => whole(span.micros / MINUTE % 60),
        Field::Hour => whole(span.micros / HOUR),
        Field::Day => whole(span.days.into()),
        Field::Month => whole(months.into()),
        Field::Quarter => whole((months / 3 + 1).into()),
        Field::Year => whole(years.into()),
        Field::Decade => whole((years / 10).into()),
        Field::Century => whole((years / 100).into()),
        Field::Millennium => whole((years / 1000).into()),
        Field::Epoch => {
            // A year is 365.25 days, a month left over 30.
            let days = i128::from(years) * 1461 * i128::from(DAY) / 4 + (i128::from(months) * 30 + i128::from(span.days)) * i128::from(DAY);
            number(days + i128::from(span.micros), 6)
        }
        _ => return unsupported(name, SqlType::Interval),
    })
}

fn as_float(value: Option<BigDecimal>) -> Result<Datum, SqlError> {
    match value {
        None => Ok(Datum::Null),
        Some(value) => Ok(Datum::Float8(super::super::numeric::to_float(&value)?)),
    }
}

/// `date_part`: as extract, a double.
pub fn date_part_timestamp(name: &str, moment: i64, ty: SqlType, east_seconds: i32) -> Result<Datum, SqlError> {
    if infinite(moment) {
        let grows = ["year", "years", "decade", "century", "millennium", "isoyear", "julian", "epoch"].contains(&name);
        field(name, ty)?;
        return Ok(if !grows { Datum::Null } else { Datum::Float8(if moment < 0 { f64::NEG_INFINITY } else { f64::INFINITY }) });
    }
    as_float(extract_timestamp(name, moment, ty, east_seconds)?)
}

/// `date_part` of an interval.
pub fn date_part_interval(name: &str, span: Interval) -> Result<Datum, SqlError> {
    if field(name, SqlType::Interval)? == Field::Epoch {
        // In doubles and in PostgreSQL's order, so that the last digit is the same.
        let day = 86_400.0;
        let years = 365.25 * day * f64::from(span.months / 12);
        let months = 30.0 * day * f64::from(span.months % 12);
        return Ok(Datum::Float8(span.micros as f64 / 1e6 + years + months + day * f64::from(span.days)));
    }
    as_float(Some(extract_interval(name, span)?))
}

/// A moment cut down to a field.
pub fn date_trunc_timestamp(name: &str, moment: i64, ty: SqlType) -> Result<i64, SqlError> {
    if infinite(moment) {
        return Ok(moment);
    }
    let what = field(name, ty)?;
    let unit = |size: i64| moment.div_euclid(size) * size;
    let parts = calendar::split(moment);
    let start = |year: i32, month: i32| {
        let parts = Parts { year, month, day: 1, ..Parts::default() };
        calendar::join(&parts).map_or_else(|| fail("22008", "timestamp out of range"), Ok)
    };
    if reserved(what) {
        return unrecognized(name, ty);
    }
    if matches!(what, Field::Timezone | Field::TimezoneHour | Field::TimezoneMinute) {
        return unsupported(name, ty);
    }
    Ok(match what {
        Field::Microseconds => moment,
        Field::Milliseconds => unit(1000),
        Field::Second => unit(SECOND),
        Field::Minute => unit(MINUTE),
        Field::Hour => unit(HOUR),
        Field::Day => unit(DAY),
        Field::Week => {
            let day = moment.div_euclid(DAY);
            (day - i64::from((calendar::weekday(day as i32) + 6) % 7)) * DAY
        }
        Field::Month => start(parts.year, parts.month)?,
        Field::Quarter => start(parts.year, (parts.month - 1) / 3 * 3 + 1)?,
        Field::Year => start(parts.year, 1)?,
        Field::Decade => start(if parts.year > 0 { parts.year / 10 * 10 } else { -((8 - (parts.year - 1)) / 10) * 10 }, 1)?,
        Field::Century => start(first_of(parts.year, 100), 1)?,
        _ => start(first_of(parts.year, 1000), 1)?,
    })
}

/// An interval cut down to a field.
pub fn date_trunc_interval(name: &str, span: Interval) -> Result<Interval, SqlError> {
    let what = field(name, SqlType::Interval)?;
    if reserved(what) {
        return unrecognized(name, SqlType::Interval);
    }
    let time = |size: i64| Interval { micros: span.micros / size * size, ..span };
    let months = |size: i32| Interval { months: span.months / size * size, days: 0, micros: 0 };
    Ok(match what {
        Field::Microseconds => span,
        Field::Milliseconds => time(1000),
        Field::Second => time(SECOND),
        Field::Minute => time(MINUTE),
        Field::Hour => time(HOUR),
        Field::Day => Interval { micros: 0, ..span },
        Field::Month => months(1),
        Field::Quarter => months(3),
        Field::Year => months(12),
        Field::Decade => months(120),
        Field::Century => months(1200),
        Field::Millennium => months(12_000),
        Field::Week => {
            let mut error = SqlError::new("0A000", "unit \"week\" not supported for type interval");
            error.detail = Some("Months usually have fractional weeks.".into());
            return Err(error);
        }
        _ => return unsupported(name, SqlType::Interval),
    })
}
