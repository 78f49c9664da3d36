//! PostgreSQL 15's answers. Lines: expression, tab, type, tab, value; or expression, tab, `!` SQLSTATE, tab, message. `@zone` sets
//! the session's time zone for the lines after it. `\n`, `\t`, `\\` stand for themselves, `\N` for null.

use super::super::{Formats, SqlError, Zone, text};
use super::context;
use super::evaluate::evaluate;

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t")
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => {}
            },
            (c, false) => out.push(c),
        }
    }
    out
}

/// What we make of an expression, as the golden file would have it.
fn answer(expression: &str, formats: &Formats) -> String {
    let result: Result<String, SqlError> = evaluate(expression, &context(formats)).map(|(ty, value)| {
        let shown = if value == super::super::Datum::Null { "\\N".to_owned() } else { escape(&text::to_string(ty, &value, formats)) };
        format!("{}\t{shown}", ty.display_name())
    });
    result.unwrap_or_else(|error| format!("!{}\t{}", error.code, escape(&error.message)))
}

fn differences(file: &str) -> (usize, Vec<String>) {
    let mut formats = Formats::default();
    let (mut count, mut differences) = (0, Vec::new());
    for line in file.lines() {
        if let Some(zone) = line.strip_prefix("@zone ") {
            formats.zone = Zone::parse(zone).expect("a zone we know");
            continue;
        }
        let (expression, expected) = line.split_once('\t').expect("a tab");
        let found = answer(&unescape(expression), &formats);
        count += 1;
        if found != expected {
            differences.push(format!("{expression}\n    expected {expected}\n    found    {found}"));
        }
    }
    (count, differences)
}

#[test]
fn as_postgresql() {
    let (count, differences) = differences(include_str!("golden.txt"));
    assert!(differences.is_empty(), "{} of {count} differ:\n{}", differences.len(), differences.join("\n"));
}

/// Where we mean to differ: the expected side is ours.
#[test]
fn where_we_differ() {
    let (count, differences) = differences(include_str!("ours.txt"));
    assert!(differences.is_empty(), "{} of {count} differ:\n{}", differences.len(), differences.join("\n"));
}
