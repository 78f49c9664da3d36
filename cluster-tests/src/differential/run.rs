//! Performs scripts on the reference server and on the one under test, compares what they say, and shrinks a script that shows a
//! difference.

use std::io;
use std::time::Duration;

use super::generate::Generator;
use super::script::{Protocol, Step, never_blocks};
use crate::endpoint::Endpoint;
use crate::isolation::arena::Crashable;
use crate::wire::{Client, Event};

/// Most runs that shrinking may take.
const SHRINK_RUNS: usize = 400;
/// How long an answer may take before the server counts as stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// Both sessions on one server, with nothing there.
pub struct Server {
    sessions: [Client; 2],
}

impl Server {
    /// Connects twice and drops every table of earlier scripts.
    ///
    /// # Errors
    /// The server can't be reached or can't be emptied.
    pub fn fresh(endpoint: &Endpoint, leftovers: u64) -> io::Result<Server> {
        let mut sessions = [endpoint.wire(PATIENCE)?, endpoint.wire(PATIENCE)?];
        // Row by row, so that a server without IF EXISTS over several tables can be tested too.
        for number in 1..=leftovers {
            sessions[0].rows(&format!("DROP TABLE IF EXISTS t{number}"))?;
        }
        sessions[0].rows("DROP TABLE IF EXISTS broken")?;
        Ok(Server { sessions })
    }

    /// Performs a step.
    ///
    /// # Errors
    /// The connection broke, was silent, or spoke another protocol.
    pub fn perform(&mut self, step: &Step) -> io::Result<Vec<Event>> {
        let client = &mut self.sessions[step.session];
        match &step.protocol {
            Protocol::Simple { copy } => client.simple(&step.sql, copy),
            Protocol::Extended { types, parameters, format, rows } => client.extended(&step.sql, types, parameters, *format, *rows),
        }
    }
}

/// An answer as it is compared: no notices, errors by SQLSTATE, rows that come in any order sorted. Of a statement that fails only how it
/// fails: how many rows come before, and in the extended protocol which of the messages is refused (a constant that can't be
/// reckoned may be found out by Parse, Bind or Execute), depends on plans.
fn comparable(events: io::Result<Vec<Event>>, step: &Step) -> Vec<String> {
    let events = match events {
        Ok(events) => events,
        Err(error) => return vec![format!("  the connection failed: {error}")],
    };
    let extended = matches!(step.protocol, Protocol::Extended { .. });
    let mut lines: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    for event in events {
        match event {
            Event::Notice(_) => continue,
            Event::Row(row) => {
                let shown: Vec<_> = row.iter().map(|value| value.as_ref().map_or("null".into(), |bytes| readable(bytes))).collect();
                rows.push(format!("  row {}", shown.join(" | ")));
                continue;
            }
            Event::Failure(report) => {
                rows.clear();
                if extended {
                    lines.clear();
                } else {
                    lines.pop_if(|line| line.starts_with("  columns"));
                }
                lines.push(format!("  {} {}", report.severity, report.code));
            }
            Event::Ready(status) => lines.push(format!("  ready {}", status as char)),
            Event::Columns(fields) => {
                let shown = fields.iter().map(|field| {
                    format!(
                        "{} type {} length {} modifier {} format {}",
                        field.name, field.type_oid, field.type_len, field.typmod, field.format
                    )
                });
                lines.push(format!("  columns {}", shown.collect::<Vec<_>>().join(", ")));
            }
            other => {
                flush(&mut rows, &mut lines, step.ordered);
                lines.push(format!("  {other:?}"));
            }
        }
    }
    flush(&mut rows, &mut lines, step.ordered);
    lines
}

fn flush(rows: &mut Vec<String>, lines: &mut Vec<String>, ordered: bool) {
    if !ordered {
        rows.sort();
    }
    lines.append(rows);
}

fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{text:?}"),
        _ => format!("{bytes:02x?}"),
    }
}

/// A difference: the steps up to it, and both answers to the last.
#[derive(Debug)]
pub struct Difference {
    /// What leads to it.
    pub steps: Vec<Step>,
    /// What PostgreSQL said.
    pub expected: Vec<String>,
    /// What the server under test said.
    pub found: Vec<String>,
    /// What the server under test said in words, if it failed.
    pub words: String,
}

impl Difference {
    /// What it is about, in a line: for telling differences apart.
    pub fn gist(&self) -> String {
        let unlike = self.expected.iter().zip(&self.found).find(|(expected, found)| expected != found);
        let shown = unlike.map_or_else(|| (self.expected.last(), self.found.last()), |(expected, found)| (Some(expected), Some(found)));
        let words: String = self.words.chars().filter(|character| !character.is_ascii_digit()).collect();
        format!("{:?} / {:?} / {words}", shown.0.map(|line| line.trim()), shown.1.map(|line| line.trim()))
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        writeln!(f, "PostgreSQL:\n{}", self.expected.join("\n"))?;
        writeln!(f, "under test:\n{}", self.found.join("\n"))?;
        write!(f, "{}", self.words)
    }
}

/// What the steps of a script tell: how many there were, and by what they ended.
#[derive(Debug, Default)]
pub struct Tally {
    /// Statements performed.
    pub statements: u64,
    /// Of them, those that PostgreSQL refused.
    pub refused: u64,
    /// SQLSTATEs met.
    pub states: std::collections::BTreeSet<String>,
    /// Rows compared.
    pub rows: u64,
}

/// Both servers.
pub struct Pair<'a> {
    /// PostgreSQL.
    pub reference: &'a Endpoint,
    /// Under test.
    pub subject: &'a mut dyn Crashable,
}

impl Pair<'_> {
    fn fresh(&mut self, leftovers: u64) -> (Server, Server) {
        let reference = Server::fresh(self.reference, leftovers).expect("PostgreSQL can be emptied");
        let subject = Server::fresh(&self.subject.endpoint(), leftovers).or_else(|_| {
            // It died of an earlier script, which was told as that script's difference.
            self.subject.crash();
            Server::fresh(&self.subject.endpoint(), leftovers)
        });
        (reference, subject.unwrap_or_else(|error| panic!("the server under test can't be emptied: {error}")))
    }

    /// Performs `count` generated statements; stops at the first difference.
    ///
    /// # Errors
    /// The difference, not yet shrunk.
    pub fn generated(&mut self, seed: u64, count: u64, tally: &mut Tally) -> Result<(), Box<Difference>> {
        let (mut reference, mut subject) = self.fresh(count);
        let mut generator = Generator::new(seed);
        let mut steps = Vec::new();
        for _ in 0..count {
            let step = generator.next_step();
            let expected = reference.perform(&step).unwrap_or_else(|error| panic!("seed {seed}: PostgreSQL fails at {step}: {error}"));
            generator.learn(&step, &expected);
            tally.take(&expected);
            steps.push(step.clone());
            compare(&mut subject, &step, expected).map_err(|found| Box::new(found.after(&steps)))?;
        }
        Ok(())
    }

    /// Performs a script; the first difference, if there is one.
    pub fn replayed(&mut self, steps: &[Step], leftovers: u64) -> Option<Difference> {
        let (mut reference, mut subject) = self.fresh(leftovers);
        for (index, step) in steps.iter().enumerate() {
            let expected = reference.perform(step).ok()?;
            if let Err(found) = compare(&mut subject, step, expected) {
                return Some(found.after(&steps[..=index]));
            }
        }
        None
    }

    /// A shorter script with a difference at its end: leaves out as many steps as it can, halves first.
    pub fn shrunk(&mut self, difference: Difference, leftovers: u64) -> Difference {
        let mut best = difference;
        let mut chunk = best.steps.len() / 2;
        let mut runs = 0;
        while chunk > 0 && runs < SHRINK_RUNS {
            let mut start = 0;
            // The last step shows the difference and stays.
            while start + 1 < best.steps.len() && runs < SHRINK_RUNS {
                let end = (start + chunk).min(best.steps.len() - 1);
                let fewer: Vec<Step> = best.steps[..start].iter().chain(&best.steps[end..]).cloned().collect();
                if never_blocks(&fewer) {
                    runs += 1;
                    if let Some(found) = self.replayed(&fewer, leftovers) {
                        best = found;
                        continue;
                    }
                }
                start += chunk;
            }
            chunk /= 2;
        }
        best
    }
}

/// What a comparison found, before it is known what led to it.
struct Found {
    expected: Vec<String>,
    found: Vec<String>,
    words: String,
}

impl Found {
    fn after(self, steps: &[Step]) -> Difference {
        Difference { steps: steps.to_vec(), expected: self.expected, found: self.found, words: self.words }
    }
}

fn compare(subject: &mut Server, step: &Step, expected: Vec<Event>) -> Result<(), Found> {
    let answer = subject.perform(step);
    let words = answer.iter().flatten().chain(&expected).find_map(|event| match event {
        Event::Failure(report) => Some(format!("{}: {}", report.code, report.message)),
        _ => None,
    });
    let (expected, found) = (comparable(Ok(expected), step), comparable(answer, step));
    if expected == found { Ok(()) } else { Err(Found { expected, found, words: words.unwrap_or_default() }) }
}

impl Tally {
    fn take(&mut self, events: &[Event]) {
        self.statements += 1;
        for event in events {
            match event {
                Event::Failure(report) => {
                    self.refused += 1;
                    self.states.insert(report.code.clone());
                }
                Event::Row(_) => self.rows += 1,
                _ => {}
            }
        }
    }
}
