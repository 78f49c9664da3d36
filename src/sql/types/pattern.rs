//! LIKE and ILIKE.

use super::{SqlError, fail};

enum Step {
    /// `_`.
    One,
    /// `%`.
    Any,
    Just(char),
}

/// Whether `text` is like `pattern`. `escape` is the character before one that is meant literally (`\` unless ESCAPE says
/// otherwise, None for ESCAPE ''); `fold` ignores case (ILIKE).
///
/// # Errors
/// 22025 where the pattern ends with the escape character.
pub fn like(text: &str, pattern: &str, escape: Option<char>, fold: bool) -> Result<bool, SqlError> {
    let lower = |c: char| if fold { simple_lower(c) } else { c };
    let mut steps = Vec::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    let mut broken = false;
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            match chars.next() {
                Some(next) => steps.push(Step::Just(lower(next))),
                None => broken = true,
            }
        } else {
            match c {
                '_' => steps.push(Step::One),
                '%' if matches!(steps.last(), Some(Step::Any)) => {}
                '%' => steps.push(Step::Any),
                _ => steps.push(Step::Just(lower(c))),
            }
        }
    }
    let matched = walk(text, &steps, lower, broken);
    match matched {
        Some(result) => Ok(result),
        None => fail("22025", "LIKE pattern must not end with escape character"),
    }
}

/// Matches greedily, coming back to the last `%`. None when a broken end of the pattern was reached with text left, which is when
/// PostgreSQL notices.
fn walk(text: &str, steps: &[Step], lower: impl Fn(char) -> char, broken: bool) -> Option<bool> {
    let (mut at, mut step) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        let next = text[at..].chars().next();
        let fits = match (steps.get(step), next) {
            (Some(Step::Any), _) => {
                if step + 1 == steps.len() && !broken {
                    return Some(true);
                }
                back = Some((at, step));
                step += 1;
                continue;
            }
            (None, None) => return Some(!broken),
            (None, Some(_)) if broken => return None,
            (Some(Step::One), Some(c)) => Some(c),
            (Some(Step::Just(want)), Some(c)) if lower(c) == *want => Some(c),
            _ => None,
        };
        match (fits, back) {
            (Some(c), _) => {
                at += c.len_utf8();
                step += 1;
            }
            (None, Some((from, any))) => match text[from..].chars().next() {
                Some(skipped) => {
                    let from = from + skipped.len_utf8();
                    back = Some((from, any));
                    at = from;
                    step = any + 1;
                }
                None => return Some(false),
            },
            (None, None) => return Some(false),
        }
    }
}

/// The characters every match of a pattern begins with, and whether the pattern is nothing but these: for an index scan.
pub fn literal_prefix(pattern: &str, escape: Option<char>) -> (String, bool) {
    let mut prefix = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            match chars.next() {
                Some(next) => prefix.push(next),
                None => return (prefix, false),
            }
        } else if matches!(c, '_' | '%') {
            return (prefix, false);
        } else {
            prefix.push(c);
        }
    }
    (prefix, true)
}

/// ESCAPE's character: none for '', 22025 for more than one.
///
/// # Errors
/// 22025.
pub fn escape(text: &str) -> Result<Option<char>, SqlError> {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (first, None) => Ok(first),
        _ => {
            let mut error = SqlError::new("22025", "invalid escape string");
            error.hint = Some("Escape string must be empty or one character.".into());
            Err(error)
        }
    }
}

/// Lower case where it is one character.
pub(crate) fn simple_lower(c: char) -> char {
    let mut lower = c.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

/// Upper case where it is one character.
pub(crate) fn simple_upper(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}
