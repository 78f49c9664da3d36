//! Dates and timestamps as text: DateStyle ISO.

use super::super::calendar::{self, Parts};
use super::super::number::write_int;
use super::super::zone::{Zone, write_offset};

/// Appends a number with at least `width` digits.
fn padded(out: &mut Vec<u8>, value: i32, width: usize) {
    let mut digits = Vec::with_capacity(8);
    write_int(&mut digits, i64::from(value));
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(digits.len())));
    out.extend_from_slice(&digits);
}

/// Appends `.ffffff` without trailing zeros; nothing for 0.
pub(crate) fn write_fraction(out: &mut Vec<u8>, micros: i32) {
    if micros == 0 {
        return;
    }
    let mut text = [b'.', b'0', b'0', b'0', b'0', b'0', b'0'];
    let mut rest = micros;
    for place in (1..7).rev() {
        text[place] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let end = text.iter().rposition(|&b| b != b'0').map_or(1, |at| at + 1);
    out.extend_from_slice(&text[..end]);
}

fn write_day(out: &mut Vec<u8>, year: i32, month: i32, day: i32) {
    padded(out, if year > 0 { year } else { 1 - year }, 4);
    out.push(b'-');
    padded(out, month, 2);
    out.push(b'-');
    padded(out, day, 2);
}

fn write_time(out: &mut Vec<u8>, parts: &Parts) {
    padded(out, parts.hour, 2);
    out.push(b':');
    padded(out, parts.minute, 2);
    out.push(b':');
    padded(out, parts.second, 2);
    write_fraction(out, parts.micros);
}

/// Appends a date.
pub fn write_date(out: &mut Vec<u8>, days: i32) {
    match days {
        i32::MIN => out.extend_from_slice(b"-infinity"),
        i32::MAX => out.extend_from_slice(b"infinity"),
        _ => {
            let (year, month, day) = calendar::date(days);
            write_day(out, year, month, day);
            if year <= 0 {
                out.extend_from_slice(b" BC");
            }
        }
    }
}

/// Appends a timestamp without zone.
pub fn write_timestamp(out: &mut Vec<u8>, moment: i64) {
    write(out, moment, None);
}

/// Appends a timestamp as the clocks of a zone show it.
pub fn write_timestamptz(out: &mut Vec<u8>, moment: i64, zone: &Zone) {
    write(out, moment, Some(zone.east_seconds));
}

fn write(out: &mut Vec<u8>, moment: i64, east_seconds: Option<i32>) {
    match moment {
        i64::MIN => return out.extend_from_slice(b"-infinity"),
        i64::MAX => return out.extend_from_slice(b"infinity"),
        _ => {}
    }
    let local = moment.saturating_add(i64::from(east_seconds.unwrap_or(0)) * calendar::SECOND);
    let parts = calendar::split(local);
    write_day(out, parts.year, parts.month, parts.day);
    out.push(b' ');
    write_time(out, &parts);
    if let Some(east) = east_seconds {
        let mut text = String::new();
        write_offset(&mut text, east);
        out.extend_from_slice(text.as_bytes());
    }
    if parts.year <= 0 {
        out.extend_from_slice(b" BC");
    }
}
