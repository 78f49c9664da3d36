//! Time zones with a fixed distance from UTC: the only ones there are here. Names that need the time zone database are refused by
//! who parses them.

/// A zone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zone {
    /// Its name as `SHOW TimeZone` gives it.
    pub name: String,
    /// Seconds east of UTC.
    pub east_seconds: i32,
}

impl Zone {
    /// UTC.
    pub fn utc() -> Zone {
        Zone { name: "UTC".into(), east_seconds: 0 }
    }

    /// The zone called `name` in `SET TimeZone`: hours east as a number, or what [`Zone::named`] knows.
    pub fn parse(name: &str) -> Option<Zone> {
        match name.trim().parse::<f64>() {
            Ok(hours) if hours.abs() <= 167.0 => Some(Zone::fixed((hours * 3600.0).round() as i32)),
            Ok(_) => None,
            Err(_) if name.trim().eq_ignore_ascii_case("default") => Some(Zone::utc()),
            Err(_) => Zone::named(name),
        }
    }

    /// The zone called `name`: UTC and its aliases, `Etc/GMT+h`, and POSIX's `ABC+h[:mm[:ss]]`, `<name>-h`, `+h`, all of which count
    /// hours west. None if it isn't known.
    pub fn named(name: &str) -> Option<Zone> {
        let trimmed = name.trim();
        let upper = trimmed.to_ascii_uppercase();
        let known = ["UTC", "GMT", "ZULU", "UCT", "ETC/UTC", "ETC/GMT", "UNIVERSAL", "ETC/UCT", "GMT0", "GREENWICH", "ETC/ZULU"];
        let place = upper.strip_prefix("ETC/");
        if known.contains(&upper.as_str()) {
            let name = place.map_or(upper.clone(), |rest| format!("Etc/{rest}"));
            return Some(Zone { name, east_seconds: 0 });
        }
        if let Some(hours) = place.and_then(|rest| rest.strip_prefix("GMT")) {
            let hours: i32 = hours.parse().ok().filter(|hours: &i32| (-14..=12).contains(hours))?;
            return Some(Zone { name: format!("Etc/GMT{hours:+}"), east_seconds: -hours * 3600 });
        }
        let west = match trimmed.strip_prefix('<') {
            Some(rest) => rest.split_once('>')?.1,
            None => {
                let letters = trimmed.find(|c: char| !c.is_ascii_alphabetic())?;
                if letters == 1 || letters == 2 {
                    return None;
                }
                &trimmed[letters..]
            }
        };
        let signed = if west.starts_with(['+', '-']) { west.to_owned() } else { format!("+{west}") };
        let east_seconds = -offset(&signed)?;
        Some(Zone { name: trimmed.to_owned(), east_seconds })
    }

    /// The zone so many seconds east of UTC, named as PostgreSQL names it.
    pub fn fixed(east_seconds: i32) -> Zone {
        let mut east = String::new();
        write_offset(&mut east, east_seconds);
        let mut west = String::new();
        write_offset(&mut west, -east_seconds);
        Zone { name: format!("<{east}>{west}"), east_seconds }
    }
}

/// Reads `+hh`, `+hhmm`, `+hh:mm` or `+hh:mm:ss`: seconds east of UTC.
pub(crate) fn offset(text: &str) -> Option<i32> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let digits = |part: &str| (!part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse::<i32>().ok()).flatten();
    let parts: Vec<&str> = rest.split(':').collect();
    let (hours, minutes, seconds) = match parts.as_slice() {
        [one] if one.len() <= 2 => (digits(one)?, 0, 0),
        [one] if one.len() <= 4 && one.is_ascii() => (digits(&one[..one.len() - 2])?, digits(&one[one.len() - 2..])?, 0),
        [one] if one.len() <= 6 && one.is_ascii() => {
            let at = one.len() - 4;
            (digits(&one[..at])?, digits(&one[at..at + 2])?, digits(&one[at + 2..])?)
        }
        [hours, minutes] => (digits(hours)?, digits(minutes)?, 0),
        [hours, minutes, seconds] => (digits(hours)?, digits(minutes)?, digits(seconds)?),
        _ => return None,
    };
    // PostgreSQL's limit: MAX_TZDISP_HOUR.
    (hours <= 15 && minutes < 60 && seconds < 60).then_some(sign * (hours * 3600 + minutes * 60 + seconds))
}

/// Writes `+hh[:mm[:ss]]`.
pub(crate) fn write_offset(out: &mut String, east_seconds: i32) {
    use std::fmt::Write;
    let size = east_seconds.unsigned_abs();
    let (hours, minutes, seconds) = (size / 3600, size / 60 % 60, size % 60);
    out.push(if east_seconds < 0 { '-' } else { '+' });
    let _ = write!(out, "{hours:02}");
    if minutes != 0 || seconds != 0 {
        let _ = write!(out, ":{minutes:02}");
    }
    if seconds != 0 {
        let _ = write!(out, ":{seconds:02}");
    }
}
