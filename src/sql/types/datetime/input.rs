//! Reads dates and timestamps: DateStyle ISO, MDY.
//!
//! A small version of PostgreSQL's `ParseDateTime` and `DecodeDateTime`: the text falls into tokens, each of which says year, month and
//! day, time of day, zone, or a word with a meaning of its own.

use super::super::calendar::{self, Parts};
use super::super::number::blank;
use super::super::zone;
use super::super::{Context, SqlError, fail};

/// What a text says.
enum Moment {
    Infinity,
    MinusInfinity,
    /// A moment, local unless a zone came with it (seconds east).
    At(i64, Option<i32>),
}

/// Why a text can't be read.
enum Bad {
    Syntax,
    Field,
    /// A field that would be fine in another order of day and month.
    Order,
    Zone(String),
    Displacement,
}

#[derive(Default)]
struct Fields {
    year: Option<i32>,
    month: Option<i32>,
    day: Option<i32>,
    short_year: bool,
    time: Option<(i32, i32, i32, i32)>,
    zone: Option<i32>,
    before_christ: bool,
    afternoon: Option<bool>,
    time_next: bool,
    /// A moment given by a word (`now`), or a day (`today`).
    whole: Option<Moment>,
    day_word: Option<i32>,
}

/// Reads a date.
pub fn input_date(text: &str, context: &Context<'_>) -> Result<i32, SqlError> {
    match read(text, context).map_err(|bad| report(bad, text, "date"))? {
        Moment::Infinity => Ok(i32::MAX),
        Moment::MinusInfinity => Ok(i32::MIN),
        Moment::At(days, _) => {
            // Dates reach further than timestamps: `read` gives days here, see `assemble`.
            match i32::try_from(days) {
                Ok(days) if (calendar::DATE_MIN..calendar::DATE_END).contains(&days) => Ok(days),
                _ => fail("22008", format!("date out of range: \"{text}\"")),
            }
        }
    }
}

/// Reads a timestamp without zone; a zone in the text is ignored.
pub fn input_timestamp(text: &str, context: &Context<'_>) -> Result<i64, SqlError> {
    match read_moment(text, context).map_err(|bad| report(bad, text, "timestamp"))? {
        Some(Moment::Infinity) => Ok(i64::MAX),
        Some(Moment::MinusInfinity) => Ok(i64::MIN),
        Some(Moment::At(local, _)) if calendar::in_range(local) => Ok(local),
        _ => fail("22008", format!("timestamp out of range: \"{text}\"")),
    }
}

/// Reads a timestamp with zone; without one in the text the session's holds.
pub fn input_timestamptz(text: &str, context: &Context<'_>) -> Result<i64, SqlError> {
    match read_moment(text, context).map_err(|bad| report(bad, text, "timestamp with time zone"))? {
        Some(Moment::Infinity) => Ok(i64::MAX),
        Some(Moment::MinusInfinity) => Ok(i64::MIN),
        Some(Moment::At(local, zone)) => {
            let east = zone.unwrap_or(context.formats.zone.east_seconds);
            let moment = local - i64::from(east) * calendar::SECOND;
            if calendar::in_range(moment) { Ok(moment) } else { fail("22008", format!("timestamp out of range: \"{text}\"")) }
        }
        None => fail("22008", format!("timestamp out of range: \"{text}\"")),
    }
}

fn report(bad: Bad, text: &str, name: &str) -> SqlError {
    match bad {
        Bad::Syntax => SqlError::new("22007", format!("invalid input syntax for type {name}: \"{text}\"")),
        Bad::Field => SqlError::new("22008", format!("date/time field value out of range: \"{text}\"")),
        Bad::Order => {
            let mut error = SqlError::new("22008", format!("date/time field value out of range: \"{text}\""));
            error.hint = Some("Perhaps you need a different \"datestyle\" setting.".into());
            error
        }
        Bad::Zone(zone) => SqlError::new("22023", format!("time zone \"{zone}\" not recognized")),
        Bad::Displacement => SqlError::new("22009", format!("time zone displacement out of range: \"{text}\"")),
    }
}

/// A text as days (the time of day is dropped).
fn read(text: &str, context: &Context<'_>) -> Result<Moment, Bad> {
    let mut fields = parse(text)?;
    match fields.whole.take() {
        // `epoch` has its zone with it, `now` doesn't.
        Some(Moment::At(moment, Some(_))) => Ok(Moment::At(moment.div_euclid(calendar::DAY), None)),
        Some(Moment::At(..)) => Ok(Moment::At(local_now(context).div_euclid(calendar::DAY), None)),
        Some(infinite) => Ok(infinite),
        None => {
            time(&fields)?;
            Ok(Moment::At(i64::from(day(&fields, context)?), None))
        }
    }
}

/// A text as microseconds; None where they don't fit.
fn read_moment(text: &str, context: &Context<'_>) -> Result<Option<Moment>, Bad> {
    let mut fields = parse(text)?;
    match fields.whole.take() {
        // `now` and `epoch`.
        Some(Moment::At(0, None)) => return Ok(Some(Moment::At(local_now(context), None))),
        Some(other) => return Ok(Some(other)),
        None => {}
    }
    let days = day(&fields, context)?;
    let (hour, minute, second, micros) = time(&fields)?;
    let parts = Parts { hour, minute, second, micros, ..Parts::default() };
    let time = i64::from(parts.hour) * calendar::HOUR
        + i64::from(parts.minute) * calendar::MINUTE
        + i64::from(parts.second) * calendar::SECOND
        + i64::from(parts.micros);
    let moment = i64::from(days).checked_mul(calendar::DAY).and_then(|day| day.checked_add(time));
    Ok(moment.map(|moment| Moment::At(moment, fields.zone)))
}

fn local_now(context: &Context<'_>) -> i64 {
    context.transaction_start + i64::from(context.formats.zone.east_seconds) * calendar::SECOND
}

/// The day that the fields name.
fn day(fields: &Fields, context: &Context<'_>) -> Result<i32, Bad> {
    if let Some(offset) = fields.day_word {
        return Ok(local_now(context).div_euclid(calendar::DAY) as i32 + offset);
    }
    let (Some(mut year), Some(month), Some(day)) = (fields.year, fields.month, fields.day) else {
        return Err(Bad::Syntax);
    };
    if fields.before_christ {
        if year <= 0 {
            return Err(Bad::Field);
        }
        year = 1 - year;
    } else if fields.short_year {
        year += if year < 70 {
            2000
        } else if year < 100 {
            1900
        } else {
            0
        };
    } else if year <= 0 {
        return Err(Bad::Field);
    }
    if !(1..=12).contains(&month) {
        return Err(Bad::Order);
    }
    if !(1..=31).contains(&day) {
        return Err(Bad::Order);
    }
    if day > calendar::month_days(year, month) {
        return Err(Bad::Field);
    }
    // Far outside of all types: whoever asked reports it as out of range.
    if !(-4713..=5_874_897).contains(&year) {
        return Ok(i32::MIN);
    }
    Ok(calendar::days(year, month, day))
}

fn time(fields: &Fields) -> Result<(i32, i32, i32, i32), Bad> {
    let (mut hour, minute, second, micros) = fields.time.unwrap_or_default();
    if let Some(afternoon) = fields.afternoon {
        if hour > 12 {
            return Err(Bad::Field);
        }
        hour = hour % 12 + if afternoon { 12 } else { 0 };
    }
    let whole = hour * 3600 + minute * 60 + second;
    if minute > 59 || second > 60 || hour > 24 || (hour == 24 && (whole > 86_400 || micros > 0)) {
        return Err(Bad::Field);
    }
    Ok((hour, minute, second, micros))
}

/// Goes through the tokens.
fn parse(text: &str) -> Result<Fields, Bad> {
    let bytes = text.as_bytes();
    let mut fields = Fields::default();
    let mut at = 0;
    let mut any = false;
    while at < bytes.len() {
        let byte = bytes[at];
        if blank(byte) || byte == b',' {
            at += 1;
            continue;
        }
        any = true;
        let start = at;
        if byte.is_ascii_digit() {
            at = number_end(bytes, at);
            number(&mut fields, &text[start..at])?;
        } else if byte.is_ascii_alphabetic() {
            at = word_end(bytes, at, fields.time.is_some());
            // "Jan-08-1999" is a date, not a word.
            if bytes.get(at).is_some_and(|b| matches!(b, b'-' | b'/'))
                && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)
                && month(&text[start..at]).is_some()
            {
                at = number_end(bytes, at);
                date(&mut fields, &text[start..at])?;
            } else {
                word(&mut fields, &text[start..at])?;
            }
        } else if matches!(byte, b'+' | b'-') {
            at += 1;
            while at < bytes.len() && blank(bytes[at]) {
                at += 1;
            }
            let inner = at;
            if bytes.get(at).is_some_and(u8::is_ascii_alphabetic) {
                at = word_end(bytes, at, false);
                sign_word(&mut fields, byte, &text[inner..at])?;
            } else {
                while at < bytes.len() && (bytes[at].is_ascii_digit() || bytes[at] == b':') {
                    at += 1;
                }
                let written = format!("{}{}", byte as char, &text[inner..at]);
                offset(&mut fields, &written)?;
            }
        } else {
            return Err(Bad::Syntax);
        }
    }
    if !any || (fields.whole.is_some() && (fields.year.is_some() || fields.day_word.is_some())) {
        return Err(Bad::Syntax);
    }
    Ok(fields)
}

/// A `-` or `+` before a word: only `-infinity` and `+infinity`.
fn sign_word(fields: &mut Fields, sign: u8, word: &str) -> Result<(), Bad> {
    if !word.eq_ignore_ascii_case("infinity") || fields.whole.is_some() {
        return Err(Bad::Syntax);
    }
    fields.whole = Some(if sign == b'-' { Moment::MinusInfinity } else { Moment::Infinity });
    Ok(())
}

fn offset(fields: &mut Fields, written: &str) -> Result<(), Bad> {
    let digits = written.len() > 1;
    if !digits || fields.zone.is_some() || (fields.time.is_none() && fields.year.is_none()) {
        return Err(Bad::Syntax);
    }
    fields.zone = Some(zone::offset(written).ok_or(Bad::Displacement)?);
    Ok(())
}

/// Where a word ends; a zone's name, which can come behind a time of day, may have more than letters.
fn word_end(bytes: &[u8], mut at: usize, zone: bool) -> usize {
    while at < bytes.len() && (bytes[at].is_ascii_alphabetic() || (zone && matches!(bytes[at], b'/' | b'_'))) {
        at += 1;
    }
    at
}

/// Where a token that begins with a digit ends: digits, and separators with more digits or a month's name behind them.
fn number_end(bytes: &[u8], mut at: usize) -> usize {
    loop {
        while at < bytes.len() && bytes[at].is_ascii_alphanumeric() {
            // Letters belong to it only behind a separator: "08-Jan-1999", not "10:00Z".
            if bytes[at].is_ascii_alphabetic()
                && (at == 0 || !(bytes[at - 1].is_ascii_alphabetic() || matches!(bytes[at - 1], b'-' | b'/')))
            {
                return at;
            }
            at += 1;
        }
        let joins = |b: &u8| matches!(b, b'-' | b'/' | b'.' | b':');
        if !bytes.get(at).is_some_and(joins) {
            return at;
        }
        // A sign behind a time of day is a zone.
        let so_far = bytes[..at].iter().rposition(|b| blank(*b) || b.is_ascii_alphabetic()).map_or(0, |p| p + 1);
        let clock = bytes[so_far..at].contains(&b':');
        if bytes[at] == b'-' && (clock || bytes[so_far..at].iter().filter(|b| **b == b'-').count() >= 2) {
            return at;
        }
        let follows = bytes.get(at + 1).copied().unwrap_or(b' ');
        let month = matches!(bytes[at], b'-' | b'/') && follows.is_ascii_alphabetic();
        if !follows.is_ascii_digit() && !month {
            // A point or colon at the end belongs to it ("10:00:00."), and makes it invalid or not there.
            return if bytes[at] == b':' || bytes[at] == b'.' { at + 1 } else { at };
        }
        at += 1;
    }
}

/// A token that begins with a digit.
fn number(fields: &mut Fields, token: &str) -> Result<(), Bad> {
    if token.contains(':') {
        return clock(fields, token);
    }
    if token.bytes().any(|b| matches!(b, b'-' | b'/')) || token.bytes().filter(|b| *b == b'.').count() == 2 {
        return date(fields, token);
    }
    let (digits, fraction) = token.split_once('.').map_or((token, None), |(whole, fraction)| (whole, Some(fraction)));
    let have_date = fields.year.is_some() && fields.month.is_some() && fields.day.is_some();
    if fields.time_next || (have_date && fields.time.is_none() && matches!(digits.len(), 4 | 6)) {
        return compact_time(fields, digits, fraction);
    }
    if fraction.is_some() || digits.len() > 8 {
        return Err(if fraction.is_some() { Bad::Syntax } else { Bad::Field });
    }
    let part = |range: std::ops::Range<usize>| digits[range].parse::<i32>().map_err(|_| Bad::Field);
    match digits.len() {
        8 if fields.year.is_none() && fields.month.is_none() => {
            (fields.year, fields.month, fields.day) = (Some(part(0..4)?), Some(part(4..6)?), Some(part(6..8)?));
            Ok(())
        }
        6 if fields.year.is_none() && fields.month.is_none() => {
            (fields.year, fields.month, fields.day) = (Some(part(0..2)?), Some(part(2..4)?), Some(part(4..6)?));
            fields.short_year = true;
            Ok(())
        }
        _ => {
            // Beside a month's name: the day, then the year.
            let value: i32 = digits.parse().map_err(|_| Bad::Field)?;
            if fields.day.is_none() && digits.len() <= 2 {
                fields.day = Some(value);
            } else if fields.year.is_none() {
                fields.year = Some(value);
                fields.short_year = digits.len() <= 2;
            } else {
                return Err(Bad::Syntax);
            }
            Ok(())
        }
    }
}

/// Digits behind the point, as microseconds.
fn micros(fraction: &str) -> Result<i32, Bad> {
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Bad::Syntax);
    }
    if fraction.is_empty() {
        return Ok(0);
    }
    let value: f64 = format!("0.{fraction}").parse().map_err(|_| Bad::Syntax)?;
    Ok((value * 1e6).round_ties_even() as i32)
}

fn compact_time(fields: &mut Fields, digits: &str, fraction: Option<&str>) -> Result<(), Bad> {
    if fields.time.is_some() || !matches!(digits.len(), 2 | 4 | 6) {
        return Err(Bad::Syntax);
    }
    let part = |at: usize| digits.get(at..at + 2).map_or(Ok(0), |two| two.parse::<i32>().map_err(|_| Bad::Field));
    fields.time = Some((part(0)?, part(2)?, part(4)?, micros(fraction.unwrap_or(""))?));
    fields.time_next = false;
    Ok(())
}

/// `hh:mm[:ss[.ffffff]]`.
fn clock(fields: &mut Fields, token: &str) -> Result<(), Bad> {
    if fields.time.is_some() {
        return Err(Bad::Syntax);
    }
    let mut parts = token.splitn(3, ':');
    let mut whole = |required: bool| match parts.next() {
        None if !required => Ok(("0", "")),
        None => Err(Bad::Syntax),
        Some(part) => Ok(part.split_once('.').unwrap_or((part, ""))),
    };
    let number = |text: &str| {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            Err(Bad::Syntax)
        } else {
            text.parse::<i32>().map_err(|_| Bad::Field)
        }
    };
    let (hour, _) = whole(true)?;
    let (minute, minute_rest) = whole(true)?;
    let (second, fraction) = whole(false)?;
    if !minute_rest.is_empty() {
        return Err(Bad::Syntax);
    }
    fields.time = Some((number(hour)?, number(minute)?, number(second)?, micros(fraction)?));
    fields.time_next = false;
    Ok(())
}

/// Three parts, separated by `-`, `/` or `.`.
fn date(fields: &mut Fields, token: &str) -> Result<(), Bad> {
    if fields.year.is_some() || fields.month.is_some() || fields.day.is_some() {
        return Err(Bad::Syntax);
    }
    let parts: Vec<&str> = token.split(['-', '/', '.']).collect();
    let [a, b, c] = parts.as_slice() else { return Err(Bad::Syntax) };
    let number = |text: &str| {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            Err(Bad::Syntax)
        } else {
            text.parse::<i32>().map_err(|_| Bad::Field)
        }
    };
    let named = |text: &str| month(text);
    let (year, month, day) = if let Some(month) = named(a) {
        (c, Some(month), b)
    } else if let Some(month) = named(b) {
        if a.len() >= 3 { (a, Some(month), c) } else { (c, Some(month), a) }
    } else if a.len() >= 3 {
        fields.month = Some(number(b)?);
        (a, None, c)
    } else {
        fields.month = Some(number(a)?);
        (c, None, b)
    };
    if month.is_some() {
        fields.month = month;
    }
    fields.year = Some(number(year)?);
    fields.short_year = year.len() <= 2;
    fields.day = Some(number(day)?);
    Ok(())
}

fn month(word: &str) -> Option<i32> {
    const MONTHS: [&str; 12] =
        ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"];
    let word = word.to_ascii_lowercase();
    let at = MONTHS.iter().position(|month| *month == word || month[..3] == word || (word == "sept" && *month == "september"))?;
    Some(at as i32 + 1)
}

fn word(fields: &mut Fields, token: &str) -> Result<(), Bad> {
    let lower = token.to_ascii_lowercase();
    if let Some(month) = month(&lower) {
        if fields.month.is_some() {
            return Err(Bad::Syntax);
        }
        fields.month = Some(month);
        return Ok(());
    }
    let whole = |fields: &mut Fields, moment| {
        if fields.whole.is_some() {
            return Err(Bad::Syntax);
        }
        fields.whole = Some(moment);
        Ok(())
    };
    match lower.as_str() {
        "t" => fields.time_next = true,
        "infinity" | "inf" if lower == "infinity" => return whole(fields, Moment::Infinity),
        "now" => return whole(fields, Moment::At(0, None)),
        "epoch" => return whole(fields, Moment::At(i64::from(calendar::UNIX_EPOCH) * calendar::DAY, Some(0))),
        "today" => fields.day_word = Some(0),
        "tomorrow" => fields.day_word = Some(1),
        "yesterday" => fields.day_word = Some(-1),
        "allballs" => fields.time = Some((0, 0, 0, 0)),
        "bc" => fields.before_christ = true,
        "ad" => {}
        "am" => fields.afternoon = Some(false),
        "pm" => fields.afternoon = Some(true),
        "on" | "at" => {}
        _ if weekday(&lower) => {}
        _ => match abbreviation(&lower) {
            Some(east) if fields.zone.is_none() => fields.zone = Some(east),
            Some(_) => return Err(Bad::Syntax),
            // Where a zone could stand, PostgreSQL looks it up in the database of zones.
            None if fields.time.is_some() && lower.len() > 3 => return Err(Bad::Zone(lower)),
            None => return Err(Bad::Syntax),
        },
    }
    Ok(())
}

fn weekday(word: &str) -> bool {
    const DAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
    DAYS.iter().any(|day| *day == word || day[..3] == *word) || matches!(word, "tues" | "weds" | "thur" | "thurs")
}

/// Zones by their usual abbreviations: seconds east.
pub(crate) fn abbreviation(word: &str) -> Option<i32> {
    let hours = match word {
        "z" | "zulu" | "utc" | "gmt" | "ut" | "uct" | "wet" => 0.0,
        "cet" | "bst" | "met" => 1.0,
        "cest" | "eet" | "mest" => 2.0,
        "eest" | "msk" => 3.0,
        "jst" | "kst" => 9.0,
        "est" | "cdt" => -5.0,
        "edt" => -4.0,
        "cst" | "mdt" => -6.0,
        "mst" | "pdt" => -7.0,
        "pst" => -8.0,
        _ => return None,
    };
    Some((hours * 3600.0) as i32)
}
