//! Sums and differences of dates, timestamps and intervals; conversions between them.

use super::super::calendar::{self, DAY, SECOND};
use super::super::interval::Interval;
use super::super::zone::Zone;
use super::super::{SqlError, fail};

fn date_range<T>() -> Result<T, SqlError> {
    fail("22008", "date out of range")
}

fn timestamp_range<T>() -> Result<T, SqlError> {
    fail("22008", "timestamp out of range")
}

fn date_infinite(date: i32) -> bool {
    date == i32::MIN || date == i32::MAX
}

/// Whether a timestamp is one of the infinities.
pub fn infinite(moment: i64) -> bool {
    moment == i64::MIN || moment == i64::MAX
}

/// date + days.
pub fn date_add(date: i32, days: i64) -> Result<i32, SqlError> {
    if date_infinite(date) {
        return Ok(date);
    }
    match i32::try_from(i64::from(date) + days) {
        Ok(sum) if (calendar::DATE_MIN..calendar::DATE_END).contains(&sum) => Ok(sum),
        _ => date_range(),
    }
}

/// Days between two dates.
pub fn date_diff(a: i32, b: i32) -> Result<i32, SqlError> {
    if date_infinite(a) || date_infinite(b) {
        return fail("22008", "cannot subtract infinite dates");
    }
    a.checked_sub(b).map_or_else(date_range, Ok)
}

/// A date's first moment.
pub fn date_to_timestamp(date: i32) -> Result<i64, SqlError> {
    match date {
        i32::MIN => Ok(i64::MIN),
        i32::MAX => Ok(i64::MAX),
        days => match i64::from(days).checked_mul(DAY) {
            Some(moment) if calendar::in_range(moment) => Ok(moment),
            _ => fail("22008", "date out of range for timestamp"),
        },
    }
}

/// A timestamp's day.
pub fn timestamp_to_date(moment: i64) -> i32 {
    match moment {
        i64::MIN => i32::MIN,
        i64::MAX => i32::MAX,
        _ => moment.div_euclid(DAY) as i32,
    }
}

/// What the clocks of a zone show.
pub fn to_local(moment: i64, zone: &Zone) -> Result<i64, SqlError> {
    shift(moment, i64::from(zone.east_seconds))
}

/// When the clocks of a zone show that.
pub fn from_local(local: i64, zone: &Zone) -> Result<i64, SqlError> {
    shift(local, -i64::from(zone.east_seconds))
}

fn shift(moment: i64, seconds: i64) -> Result<i64, SqlError> {
    if infinite(moment) {
        return Ok(moment);
    }
    match moment.checked_add(seconds * SECOND) {
        Some(moment) if calendar::in_range(moment) => Ok(moment),
        _ => timestamp_range(),
    }
}

/// timestamp + interval: months first (the day cut to the month's last), then days, then the rest.
pub fn timestamp_add(moment: i64, span: Interval) -> Result<i64, SqlError> {
    if infinite(moment) {
        return Ok(moment);
    }
    let mut moment = moment;
    if span.months != 0 {
        let mut parts = calendar::split(moment);
        let months = i64::from(parts.year) * 12 + i64::from(parts.month) - 1 + i64::from(span.months);
        let Ok(year) = i32::try_from(months.div_euclid(12)) else { return timestamp_range() };
        parts.year = year;
        parts.month = months.rem_euclid(12) as i32 + 1;
        parts.day = parts.day.min(calendar::month_days(parts.year, parts.month));
        match calendar::join(&parts) {
            Some(sum) => moment = sum,
            None => return timestamp_range(),
        }
    }
    let sum = i64::from(span.days).checked_mul(DAY).and_then(|days| moment.checked_add(days)).and_then(|m| m.checked_add(span.micros));
    match sum {
        Some(sum) if calendar::in_range(sum) => Ok(sum),
        _ => timestamp_range(),
    }
}

/// timestamptz + interval: months and days by the session's calendar.
pub fn timestamptz_add(moment: i64, span: Interval, zone: &Zone) -> Result<i64, SqlError> {
    // With fixed offsets every day has 24 hours, so only months need the local calendar.
    if infinite(moment) {
        return Ok(moment);
    }
    let local = moment + i64::from(zone.east_seconds) * SECOND;
    let sum = timestamp_add(local, span)? - i64::from(zone.east_seconds) * SECOND;
    if calendar::in_range(sum) { Ok(sum) } else { timestamp_range() }
}

/// timestamp - timestamp: whole days and the rest.
pub fn timestamp_diff(a: i64, b: i64) -> Result<Interval, SqlError> {
    if infinite(a) || infinite(b) {
        return fail("22008", "cannot subtract infinite timestamps");
    }
    let Some(micros) = a.checked_sub(b) else { return super::super::interval::out_of_range() };
    Ok(Interval { months: 0, days: (micros / DAY) as i32, micros: micros % DAY })
}

/// `age(a, b)`: years, months, days and time between, as a person counts.
pub fn age(a: i64, b: i64) -> Result<Interval, SqlError> {
    if infinite(a) || infinite(b) {
        return fail("22008", "timestamp out of range");
    }
    let negative = a < b;
    let (later, earlier) = if negative { (b, a) } else { (a, b) };
    let (l, e) = (calendar::split(later), calendar::split(earlier));
    let mut months = (l.year - e.year) * 12 + l.month - e.month;
    let mut days = l.day - e.day;
    let mut micros = later.rem_euclid(DAY) - earlier.rem_euclid(DAY);
    if micros < 0 {
        micros += DAY;
        days -= 1;
    }
    if days < 0 {
        // PostgreSQL borrows the length of the earlier moment's month when counting forwards, of the later one's otherwise.
        let (year, month) = if negative { (l.year, l.month) } else { (e.year, e.month) };
        let borrowed = if negative { calendar::month_days(e.year, e.month) } else { calendar::month_days(year, month) };
        days += borrowed;
        months -= 1;
    }
    let span = Interval { months, days, micros };
    if negative { span.negate() } else { Ok(span) }
}

/// `justify_hours`, `justify_days` and both: 24 hours to a day, 30 days to a month.
pub fn justify(span: Interval, hours: bool, days: bool) -> Result<Interval, SqlError> {
    let mut months = i64::from(span.months);
    let mut day_count = i64::from(span.days);
    let mut micros = span.micros;
    if hours {
        day_count += micros / DAY;
        micros %= DAY;
    }
    if days {
        months += day_count / 30;
        day_count %= 30;
    }
    if days && months > 0 && (day_count < 0 || (day_count == 0 && micros < 0)) {
        day_count += 30;
        months -= 1;
    } else if days && months < 0 && (day_count > 0 || (day_count == 0 && micros > 0)) {
        day_count -= 30;
        months += 1;
    }
    if hours && day_count > 0 && micros < 0 {
        micros += DAY;
        day_count -= 1;
    } else if hours && day_count < 0 && micros > 0 {
        micros -= DAY;
        day_count += 1;
    }
    match (i32::try_from(months), i32::try_from(day_count)) {
        (Ok(months), Ok(days)) => Ok(Interval { months, days, micros }),
        _ => super::super::interval::out_of_range(),
    }
}

/// `make_date(year, month, day)`; negative years are BC.
pub fn make_date(year: i32, month: i32, day: i32) -> Result<i32, SqlError> {
    let wrong = || fail("22008", format!("date field value out of range: {year}-{month:02}-{day:02}"));
    let calendar_year = if year < 0 { year.saturating_add(1) } else { year };
    if year == 0 || !(1..=12).contains(&month) || day < 1 || day > calendar::month_days(calendar_year, month) {
        return wrong();
    }
    if !(-4713..=5_874_897).contains(&year) {
        return fail("22008", format!("date out of range: {year}-{month:02}-{day:02}"));
    }
    let days = calendar::days(calendar_year, month, day);
    if days < calendar::DATE_MIN { fail("22008", format!("date out of range: {year}-{month:02}-{day:02}")) } else { Ok(days) }
}

/// `to_timestamp(seconds since 1970)`.
pub fn from_unix(seconds: f64) -> Result<i64, SqlError> {
    if seconds.is_nan() {
        return fail("22008", "timestamp cannot be NaN");
    }
    if seconds.is_infinite() {
        return Ok(if seconds < 0.0 { i64::MIN } else { i64::MAX });
    }
    let out = || {
        let mut shown = Vec::new();
        super::super::number::write_float(&mut shown, seconds, 1);
        fail("22008", format!("timestamp out of range: \"{}\"", String::from_utf8_lossy(&shown)))
    };
    if !(-210_866_803_200.0..9_224_318_016_000.0).contains(&seconds) {
        return out();
    }
    let shifted = seconds - 946_684_800.0;
    let moment = (shifted * 1e6).round_ties_even() as i64;
    if calendar::in_range(moment) { Ok(moment) } else { out() }
}
