//! The Gregorian calendar, carried on before its beginning, as PostgreSQL counts: days and microseconds since 2000-01-01.
//!
//! Year 0 is 1 BC. The algorithms are PostgreSQL's `date2j` and `j2date` (src/backend/utils/adt/datetime.c).

/// Microseconds in a day.
pub const DAY: i64 = 86_400_000_000;
/// Microseconds in an hour.
pub const HOUR: i64 = 3_600_000_000;
/// Microseconds in a minute.
pub const MINUTE: i64 = 60_000_000;
/// Microseconds in a second.
pub const SECOND: i64 = 1_000_000;
/// 2000-01-01 as a Julian day.
pub const EPOCH_JULIAN: i32 = 2_451_545;
/// 1970-01-01 in days since 2000-01-01.
pub const UNIX_EPOCH: i32 = -10_957;
/// 4713-11-24 BC, the first day there is.
pub const DATE_MIN: i32 = -EPOCH_JULIAN;
/// The first day after the last date (5874898-01-01).
pub const DATE_END: i32 = 2_147_483_494 - EPOCH_JULIAN;
/// The first moment of a timestamp: 4713-11-24 BC.
pub const TIMESTAMP_MIN: i64 = -211_813_488_000_000_000;
/// The first moment after the last timestamp (294277-01-01).
pub const TIMESTAMP_END: i64 = 9_223_371_331_200_000_000;

/// A day and a time of day, broken into parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parts {
    /// Year; 0 is 1 BC.
    pub year: i32,
    /// Month from 1.
    pub month: i32,
    /// Day of the month from 1.
    pub day: i32,
    /// Hour.
    pub hour: i32,
    /// Minute.
    pub minute: i32,
    /// Second.
    pub second: i32,
    /// Microseconds of the second.
    pub micros: i32,
}

/// Days since 2000-01-01 of a day.
pub fn days(year: i32, month: i32, day: i32) -> i32 {
    // In 64 bits: the last date's year times 365 is near the limit of 32.
    let (year, month) = (i64::from(year), i64::from(month));
    let (month, year) = if month > 2 { (month + 1, year + 4800) } else { (month + 13, year + 4799) };
    let century = year / 100;
    let julian = year * 365 - 32167 + year / 4 - century + century / 4 + 7834 * month / 256 + i64::from(day);
    (julian - i64::from(EPOCH_JULIAN)) as i32
}

/// Year, month and day of a number of days since 2000-01-01.
pub fn date(days: i32) -> (i32, i32, i32) {
    let mut julian = (days.wrapping_add(EPOCH_JULIAN) as u32).wrapping_add(32044);
    let mut quad = julian / 146_097;
    let extra = (julian - quad * 146_097) * 4 + 3;
    julian = julian.wrapping_add(60 + quad * 3 + extra / 146_097);
    quad = julian / 1461;
    julian -= quad * 1461;
    let mut y = (julian * 4 / 1461) as i32;
    julian = (if y != 0 { (julian + 305) % 365 } else { (julian + 306) % 366 }) + 123;
    y += (quad * 4) as i32;
    let quad = julian * 2141 / 65536;
    (y - 4800, ((quad + 10) % 12 + 1) as i32, (julian - 7834 * quad / 256) as i32)
}

/// Whether a year has a 29th of February.
pub fn leap(year: i32) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days in a month from 1.
pub fn month_days(year: i32, month: i32) -> i32 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// 0 for Sunday.
pub fn weekday(days: i32) -> i32 {
    // 2000-01-01 was a Saturday.
    (days.rem_euclid(7) + 6) % 7
}

/// The Monday of ISO week 1 of a year, in days since 2000-01-01.
fn iso_year_start(year: i32) -> i32 {
    let fourth = days(year, 1, 4);
    fourth - (weekday(fourth) + 6) % 7
}

/// ISO 8601 year and week of a day.
pub fn iso_week(day: i32) -> (i32, i32) {
    let (mut year, _, _) = date(day);
    if day < iso_year_start(year) {
        year -= 1;
    } else if day >= iso_year_start(year + 1) {
        year += 1;
    }
    (year, (day - iso_year_start(year)) / 7 + 1)
}

/// Takes a moment apart.
pub fn split(timestamp: i64) -> Parts {
    let (day, time) = (timestamp.div_euclid(DAY), timestamp.rem_euclid(DAY));
    let (year, month, day) = date(day as i32);
    Parts {
        year,
        month,
        day,
        hour: (time / HOUR) as i32,
        minute: (time / MINUTE % 60) as i32,
        second: (time / SECOND % 60) as i32,
        micros: (time % SECOND) as i32,
    }
}

/// Puts a moment together; None where it is out of a timestamp's range.
pub fn join(parts: &Parts) -> Option<i64> {
    if !(-4800..=294_276).contains(&parts.year) {
        return None;
    }
    let time = i64::from(parts.hour) * HOUR + i64::from(parts.minute) * MINUTE + i64::from(parts.second) * SECOND + i64::from(parts.micros);
    let moment = i64::from(days(parts.year, parts.month, parts.day)).checked_mul(DAY)?.checked_add(time)?;
    in_range(moment).then_some(moment)
}

/// Whether a timestamp is one that PostgreSQL has, infinities apart.
pub fn in_range(timestamp: i64) -> bool {
    (TIMESTAMP_MIN..TIMESTAMP_END).contains(&timestamp)
}
