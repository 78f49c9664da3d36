//! Sizes as people write them: `64MiB`, `2 GiB`, `8192`. Used by options of commands and in what they print.

/// The units, smallest first.
const UNITS: [(&str, u32); 5] = [("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

/// Bytes that `text` names: a whole number, then nothing or one of B, KiB, MiB, GiB, TiB (also K, M, G, T, in either case).
///
/// # Errors
/// What is wrong with it, for the person who typed it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at(digits);
    let wrong = || format!("{text:?} is no size: give a whole number and a unit, such as 64MiB, 2GiB or 8192 (bytes)");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim();
    let names = |(name, _): &&(&str, u32)| name.eq_ignore_ascii_case(unit) || (name.len() == 3 && name[..1].eq_ignore_ascii_case(unit));
    let shift = if unit.is_empty() { 0 } else { UNITS.iter().find(names).ok_or_else(wrong)?.1 };
    number.checked_mul(1 << shift).filter(|bytes| *bytes < 1 << 63).ok_or_else(|| format!("{text:?} is too large"))
}

/// `bytes` in the largest unit that keeps it a whole number.
pub fn show_size(bytes: u64) -> String {
    let fits = |(_, shift): &&(&str, u32)| bytes.is_multiple_of(1 << shift) && bytes > 0;
    let (unit, shift) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[0]);
    format!("{} {unit}", bytes >> shift)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_shown_reads_back(bytes in 0u64..1 << 63) {
            prop_assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }

        #[test]
        fn hostile_text_never_panics(text in "\\PC{0,30}") {
            let _ = parse_size(&text);
        }
    }

    #[test]
    fn the_usual_spellings_mean_what_people_expect() {
        for (text, bytes) in
            [("8192", 8192), ("64MiB", 64 << 20), ("64 mib", 64 << 20), ("2G", 2 << 30), ("1k", 1024), ("3B", 3), ("1TiB", 1 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "64MB", "1 PiB", "99999999999999999999", "16777216TiB", "1 MiB MiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(show_size(64 << 20), "64 MiB");
        assert_eq!(show_size((64 << 20) + 1), "67108865 B");
        assert_eq!(show_size(0), "0 B");
    }
}
