//! What is printed: lines for people or JSON objects for programs, and the number of findings, which makes the exit code.

use std::io::Write;
use std::process::ExitCode;

use serde_json::{Value, json};

/// Where everything that a command has to say goes.
pub(crate) struct Output {
    json: bool,
    only_findings: bool,
    findings: u64,
    /// Standard output is gone (a closed pipe): nothing more is written.
    closed: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Output {
        Output { json, only_findings: false, findings: 0, closed: false }
    }

    /// From now on only findings and summaries are printed.
    pub(crate) fn only_findings(&mut self) {
        self.only_findings = true;
    }

    /// A fact: `text` for people, `object` for programs.
    pub(crate) fn fact(&mut self, text: &str, object: Value) {
        if !self.only_findings {
            self.print(text, object);
        }
    }

    /// The last word of a part; printed always.
    pub(crate) fn summary(&mut self, text: &str, object: Value) {
        self.print(text, object);
    }

    /// Something wrong, in `part` of `place`.
    pub(crate) fn finding(&mut self, part: &str, place: &str, what: &str) {
        self.findings += 1;
        self.print(&format!("FINDING  {part}  {place}: {what}"), json!({ "finding": part, "place": place, "what": what }));
    }

    fn print(&mut self, text: &str, object: Value) {
        let mut line = if self.json { object.to_string() } else { text.to_string() };
        line.push('\n');
        self.closed = self.closed || std::io::stdout().write_all(line.as_bytes()).is_err();
    }

    /// Whether nobody reads any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// The exit code.
    pub(crate) fn finish(mut self) -> ExitCode {
        if self.only_findings || self.findings > 0 {
            let (text, found) = (format!("{} findings", self.findings), self.findings);
            self.print(&text, json!({ "findings": found }));
        }
        if self.findings == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
    }
}
