//! What is said of mutations: the list, a line while running, the table at the end.

use std::fmt::Write;

use serde::Serialize;

use crate::list::Mutation;

/// What became of a mutation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// A test noticed.
    Killed {
        /// Which.
        by: String,
    },
    /// No test noticed: the suite has a hole.
    Survived {
        /// So many tests passed.
        tests: usize,
    },
    /// It doesn't compile, which shows nothing.
    Invalid,
}

/// A mutation that was tried.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// The mutation.
    pub(crate) name: String,
    /// The rules that it breaks.
    pub(crate) rules: Vec<u8>,
    /// What became of it.
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
    /// How long it took, with the build.
    pub(crate) seconds: f64,
}

fn numbers(rules: &[u8]) -> String {
    rules.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

fn said(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Killed { by } => by.clone(),
        Outcome::Survived { tests } => format!("SURVIVED {tests} tests"),
        Outcome::Invalid => "INVALID: doesn't compile".into(),
    }
}

/// One mutation in one line.
pub(crate) fn line(row: &Row) -> String {
    format!("{} (rules {}): {} ({:.0} s)", row.name, numbers(&row.rules), said(&row.outcome), row.seconds)
}

/// The table that a run ends with.
pub(crate) fn table(rows: &[Row]) -> String {
    let name = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max(8);
    let rules = rows.iter().map(|row| numbers(&row.rules).len()).max().unwrap_or(0).max(5);
    let mut text = format!("{:<name$}  {:<rules$}  seconds  killed by\n", "mutation", "rules");
    for row in rows {
        // Writing to a string doesn't fail.
        let _ = writeln!(text, "{:<name$}  {:<rules$}  {:>7.0}  {}", row.name, numbers(&row.rules), row.seconds, said(&row.outcome));
    }
    let killed = rows.iter().filter(|row| matches!(row.outcome, Outcome::Killed { .. })).count();
    let _ = writeln!(text, "{killed} of {} killed", rows.len());
    text
}

/// The rows as JSON.
pub(crate) fn json(rows: &[Row]) -> String {
    serde_json::to_string_pretty(rows).expect("rows are plain data")
}

/// The list, for reading.
pub(crate) fn list(mutations: &[Mutation]) -> String {
    let mut text = String::new();
    for Mutation { name, rules, file, wrong, test, .. } in mutations {
        let _ = writeln!(text, "{name} (rules {}; {file})\n    {}\n    {test}", numbers(rules), wrong.trim());
    }
    text
}

/// The list as JSON.
pub(crate) fn list_json(mutations: &[Mutation]) -> String {
    serde_json::to_string_pretty(mutations).expect("mutations are plain data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_counts_only_what_was_killed() {
        let row = |name: &str, outcome| Row { name: name.into(), rules: vec![7, 14], outcome, seconds: 2.4 };
        let rows = [
            row("one", Outcome::Killed { by: "model a".into() }),
            row("two", Outcome::Survived { tests: 3 }),
            row("three", Outcome::Invalid),
        ];
        let table = table(&rows);
        assert!(table.contains("one       7, 14        2  model a\n") && table.ends_with("1 of 3 killed\n"), "{table}");
        assert!(table.contains("SURVIVED 3 tests") && table.contains("INVALID"));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json(&rows)).unwrap()[0]["by"], "model a");
    }
}
