//! Spans of time: months, days and microseconds, kept apart because months and days aren't always as long.

use super::calendar::{DAY, HOUR, MINUTE, SECOND};
use super::datetime::write_fraction;
use super::number::{blank, write_int};
use super::{Datum, SqlError, fail};

/// A span of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interval {
    /// Months; 12 are a year.
    pub months: i32,
    /// Days.
    pub days: i32,
    /// Microseconds.
    pub micros: i64,
}

impl Interval {
    /// As a value: 16 bytes, as PostgreSQL's binary format.
    pub fn datum(self) -> Datum {
        let mut bytes = Vec::with_capacity(16);
        self.write_binary(&mut bytes);
        Datum::Bytea(bytes)
    }

    /// From a value's bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Interval> {
        let micros = i64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
        let days = i32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?);
        let months = i32::from_be_bytes(bytes.get(12..16)?.try_into().ok()?);
        (bytes.len() == 16).then_some(Interval { months, days, micros })
    }

    /// From a value.
    pub fn from_datum(value: &Datum) -> Result<Interval, SqlError> {
        match value {
            Datum::Bytea(bytes) => Interval::from_bytes(bytes).map_or_else(|| super::mismatch("an interval", value), Ok),
            _ => super::mismatch("an interval", value),
        }
    }

    /// Appends the binary format: microseconds i64, days i32, months i32.
    pub fn write_binary(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.micros.to_be_bytes());
        out.extend_from_slice(&self.days.to_be_bytes());
        out.extend_from_slice(&self.months.to_be_bytes());
    }

    /// Reads the binary format.
    pub fn read_binary(bytes: &[u8]) -> Result<Interval, SqlError> {
        match Interval::from_bytes(bytes) {
            Some(interval) => Ok(interval),
            None if bytes.len() < 16 => fail("08P01", "insufficient data left in message"),
            None => fail("22P03", "incorrect binary data format"),
        }
    }

    /// For comparisons: microseconds, a month being 30 days and a day 24 hours.
    pub fn span(self) -> i128 {
        i128::from(self.micros) + (i128::from(self.days) + i128::from(self.months) * 30) * i128::from(DAY)
    }

    /// Part by part.
    pub fn plus(self, other: Interval) -> Result<Interval, SqlError> {
        let months = self.months.checked_add(other.months);
        let days = self.days.checked_add(other.days);
        let micros = self.micros.checked_add(other.micros);
        match (months, days, micros) {
            (Some(months), Some(days), Some(micros)) => Ok(Interval { months, days, micros }),
            _ => out_of_range(),
        }
    }

    /// Part by part.
    pub fn negate(self) -> Result<Interval, SqlError> {
        match (self.months.checked_neg(), self.days.checked_neg(), self.micros.checked_neg()) {
            (Some(months), Some(days), Some(micros)) => Ok(Interval { months, days, micros }),
            _ => out_of_range(),
        }
    }

    /// Times a number; what is left of months goes to days, of days to microseconds (`interval_mul`).
    pub fn scale(self, factor: f64) -> Result<Interval, SqlError> {
        let months = f64::from(self.months) * factor;
        let days = f64::from(self.days) * factor;
        if !months.is_finite() || !days.is_finite() || months.abs() >= 2_147_483_648.0 || days.abs() >= 2_147_483_648.0 {
            return out_of_range();
        }
        let round = |value: f64| (value * 1e6).round_ties_even() / 1e6;
        let mut month_rest_days = round((months - months.trunc()) * 30.0);
        let mut second_rest = round((days - days.trunc() + month_rest_days - month_rest_days.trunc()) * 86_400.0);
        let mut whole_days = days.trunc() as i64;
        if second_rest.abs() >= 86_400.0 {
            whole_days += (second_rest / 86_400.0) as i64;
            second_rest -= (second_rest / 86_400.0).trunc() * 86_400.0;
        }
        month_rest_days = month_rest_days.trunc();
        whole_days += month_rest_days as i64;
        let micros = (self.micros as f64 * factor + second_rest * 1e6).round_ties_even();
        match i32::try_from(whole_days) {
            Ok(days) if micros.abs() < 9.223_372_036_854_775e18 => {
                Ok(Interval { months: months.trunc() as i32, days, micros: micros as i64 })
            }
            _ => out_of_range(),
        }
    }

    /// Appends the text: intervalstyle postgres.
    pub fn write(self, out: &mut Vec<u8>) {
        let (mut any, mut before) = (false, false);
        for (value, unit) in [(self.months / 12, "year"), (self.months % 12, "mon"), (self.days, "day")] {
            if value == 0 {
                continue;
            }
            if any {
                out.push(b' ');
            }
            if before && value > 0 {
                out.push(b'+');
            }
            write_int(out, i64::from(value));
            out.push(b' ');
            out.extend_from_slice(unit.as_bytes());
            if value != 1 {
                out.push(b's');
            }
            before = value < 0;
            any = true;
        }
        if any && self.micros == 0 {
            return;
        }
        if any {
            out.push(b' ');
        }
        if self.micros < 0 {
            out.push(b'-');
        } else if before {
            out.push(b'+');
        }
        let size = self.micros.unsigned_abs();
        let two = |out: &mut Vec<u8>, value: u64| {
            if value < 10 {
                out.push(b'0');
            }
            write_int(out, value as i64);
        };
        two(out, size / HOUR as u64);
        out.push(b':');
        two(out, size / MINUTE as u64 % 60);
        out.push(b':');
        two(out, size / SECOND as u64 % 60);
        write_fraction(out, (size % SECOND as u64) as i32);
    }

    /// Reads a text: `1 day 02:03:04`, `2 weeks ago`, `1-2`, `P1Y2MT3H`.
    pub fn parse(text: &str) -> Result<Interval, SqlError> {
        let syntax = || SqlError::new("22007", format!("invalid input syntax for type interval: \"{text}\""));
        let mut sum = Sum::default();
        let trimmed = text.trim_matches(|c: char| c.is_ascii() && blank(c as u8));
        let read = if let Some(rest) = trimmed.strip_prefix('P') { sum.iso(rest) } else { sum.words(trimmed) };
        read.ok_or_else(syntax)?;
        sum.finish().ok_or_else(|| SqlError::new("22015", format!("interval field value out of range: \"{text}\"")))
    }
}

pub(crate) fn out_of_range<T>() -> Result<T, SqlError> {
    fail("22008", "interval out of range")
}

/// Larger than any field's limit.
const WHOLE_MAX: i128 = 100_000_000_000_000_000_000;

/// What has been read so far. Whole parts are exact; fractions go down to the next smaller part as PostgreSQL lets them.
#[derive(Default)]
struct Sum {
    months: i128,
    days: i128,
    micros: i128,
    /// Units that were there: none may come twice.
    seen: Vec<&'static str>,
}

/// A number with its fraction: `-1.5` is whole -1, fraction -0.5.
#[derive(Clone, Copy)]
struct Number {
    whole: i128,
    fraction: f64,
}

impl Number {
    fn read(text: &str) -> Option<Number> {
        let (negative, digits) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all = whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit());
        if !all || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let sign = if negative { -1 } else { 1 };
        // More digits than any field can hold: as many as are surely out of range, so that sums stay within 128 bits.
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().unwrap_or(WHOLE_MAX).min(WHOLE_MAX) };
        let fraction: f64 = if fraction.is_empty() { 0.0 } else { format!("0.{fraction}").parse().ok()? };
        Some(Number { whole: whole * sign, fraction: fraction * f64::from(sign as i32) })
    }
}

impl Sum {
    fn finish(&self) -> Option<Interval> {
        Some(Interval { months: self.months.try_into().ok()?, days: self.days.try_into().ok()?, micros: self.micros.try_into().ok()? })
    }

    fn add_micros(&mut self, number: Number, unit: i64) {
        self.micros += number.whole * i128::from(unit) + (number.fraction * unit as f64).round_ties_even() as i128;
    }

    /// A fraction of so many days.
    fn add_day_fraction(&mut self, days: f64) {
        self.days += days.trunc() as i128;
        self.micros += ((days - days.trunc()) * DAY as f64).round_ties_even() as i128;
    }

    /// Notes a unit; None where it was there already.
    fn once(&mut self, unit: &'static str) -> Option<()> {
        if self.seen.contains(&unit) {
            return None;
        }
        self.seen.push(unit);
        Some(())
    }

    fn unit(&mut self, number: Number, unit: &str) -> Option<()> {
        let years = match unit {
            "y" | "yr" | "yrs" | "year" | "years" => 1,
            "dec" | "decs" | "decade" | "decades" => 10,
            "c" | "cent" | "century" | "centuries" => 100,
            "mil" | "mils" | "millennium" | "millennia" => 1000,
            _ => 0,
        };
        if years > 0 {
            self.once(match years {
                1 => "year",
                10 => "decade",
                100 => "century",
                _ => "millennium",
            })?;
            self.months += number.whole * 12 * years + (number.fraction * 12.0 * years as f64).round_ties_even() as i128;
            return Some(());
        }
        match unit {
            "mon" | "mons" | "month" | "months" => {
                self.once("month")?;
                self.months += number.whole;
                self.add_day_fraction(number.fraction * 30.0);
            }
            "w" | "week" | "weeks" => {
                self.once("week")?;
                self.days += number.whole * 7;
                self.add_day_fraction(number.fraction * 7.0);
            }
            "d" | "day" | "days" => {
                self.once("day")?;
                self.days += number.whole;
                self.micros += (number.fraction * DAY as f64).round_ties_even() as i128;
            }
            "h" | "hr" | "hrs" | "hour" | "hours" => {
                self.once("hour")?;
                self.add_micros(number, HOUR);
            }
            "m" | "min" | "mins" | "minute" | "minutes" => {
                self.once("minute")?;
                self.add_micros(number, MINUTE);
            }
            "" | "s" | "sec" | "secs" | "second" | "seconds" => {
                self.once("second")?;
                self.add_micros(number, SECOND);
            }
            "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" | "msecond" | "mseconds" => self.add_micros(number, 1000),
            "us" | "usec" | "usecs" | "microsecond" | "microseconds" | "usecond" | "useconds" => self.add_micros(number, 1),
            _ => return None,
        }
        Some(())
    }

    /// `[@] 1 year 2 mons -3 days 04:05:06.7 [ago]`.
    fn words(&mut self, text: &str) -> Option<()> {
        let mut rest = text.strip_prefix('@').unwrap_or(text).trim_start();
        let mut any = false;
        while !rest.is_empty() {
            if rest.eq_ignore_ascii_case("ago") {
                (self.months, self.days, self.micros) = (-self.months, -self.days, -self.micros);
                return any.then_some(());
            }
            let sign = usize::from(rest.starts_with(['+', '-']));
            let end = rest[sign..].find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ':'))).map_or(rest.len(), |at| at + sign);
            let token = &rest[..end];
            rest = &rest[end..];
            if token.contains(':') {
                self.clock(token)?;
            } else if let Some(months) = rest.strip_prefix('-').filter(|r| r.starts_with(|c: char| c.is_ascii_digit())) {
                let end = months.find(|c: char| !c.is_ascii_digit()).unwrap_or(months.len());
                let (years, months_value) = (Number::read(token)?.whole, Number::read(&months[..end])?.whole);
                if months_value > 11 {
                    return None;
                }
                self.months += years * 12 + if token.starts_with('-') { -months_value } else { months_value };
                rest = &months[end..];
                if !rest.is_empty() && !rest.starts_with(|c: char| c.is_ascii() && blank(c as u8)) {
                    return None;
                }
            } else {
                let number = Number::read(token)?;
                rest = rest.trim_start();
                let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
                let unit = rest[..end].to_ascii_lowercase();
                if unit == "ago" || unit.is_empty() {
                    // A bare number: days before a time of day, else seconds.
                    let before_clock = rest.split_whitespace().next().is_some_and(|next| next.contains(':'));
                    self.unit(number, if before_clock { "day" } else { "second" })?;
                } else {
                    self.unit(number, &unit)?;
                    rest = &rest[end..];
                }
            }
            any = true;
            rest = rest.trim_start_matches(|c: char| c.is_ascii() && blank(c as u8) || c == ',');
        }
        any.then_some(())
    }

    /// `[-]hh:mm[:ss[.f]]`.
    fn clock(&mut self, token: &str) -> Option<()> {
        let negative = token.starts_with('-');
        let parts: Vec<&str> = token.trim_start_matches(['-', '+']).split(':').collect();
        let (hours, minutes, seconds) = match parts.as_slice() {
            [minutes, seconds] if seconds.contains('.') => ("0", *minutes, *seconds),
            [hours, minutes] => (*hours, *minutes, "0"),
            [hours, minutes, seconds] => (*hours, *minutes, *seconds),
            _ => return None,
        };
        let mut time = Sum::default();
        time.add_micros(Number::read(hours)?, HOUR);
        time.add_micros(Number::read(minutes).filter(|n| n.whole < 60)?, MINUTE);
        time.add_micros(Number::read(seconds).filter(|n| n.whole <= 60)?, SECOND);
        self.micros += if negative { -time.micros } else { time.micros };
        Some(())
    }

    /// What follows `P`: `1Y2M3W4DT5H6M7.8S`.
    fn iso(&mut self, text: &str) -> Option<()> {
        let (mut rest, mut time, mut any) = (text, false, false);
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('T') {
                (time, rest) = (true, after);
                continue;
            }
            let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
            let number = Number::read(&rest[..end])?;
            let unit = match (rest.as_bytes()[end], time) {
                (b'Y', false) => "year",
                (b'M', false) => "month",
                (b'W', false) => "week",
                (b'D', false) => "day",
                (b'H', true) => "hour",
                (b'M', true) => "minute",
                (b'S', true) => "second",
                _ => return None,
            };
            self.unit(number, unit)?;
            any = true;
            rest = &rest[end + 1..];
        }
        any.then_some(())
    }
}
