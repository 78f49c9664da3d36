//! Our own checker of list-append histories: each rule read straight off the reads, no graphs. Independent of crate adya.
//!
//! Judged are all reads that were answered, also those of transactions that failed later: nobody may be shown nonsense.

use std::collections::{BTreeMap, BTreeSet};

use super::Level;
use super::history::{History, Micro, Outcome, Transaction};

/// What is wrong with a history. Transactions are named by client and moment of BEGIN.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each variant's text says what its fields are")]
pub enum Violation {
    NeverWritten { reader: Name, key: i64, value: i64 },
    Aborted { reader: Name, writer: Name, key: i64, value: i64 },
    Intermediate { reader: Name, writer: Name, key: i64, value: i64 },
    Twice { reader: Name, key: i64, value: i64 },
    Disordered { reader: Name, key: i64, found: Vec<i64>, order: Vec<i64> },
    MissesAcknowledged { reader: Name, writer: Name, key: i64, value: i64 },
    MissesOwn { reader: Name, key: i64, value: i64 },
    Fractured { reader: Name, writer: Name, seen: i64, missed: i64 },
    Unrepeatable { reader: Name, key: i64, before: Vec<i64>, after: Vec<i64> },
    LostUpdate { writer: Name, key: i64, read: Option<i64>, overwrote: Option<i64> },
    Lost { writer: Name, key: i64, value: i64 },
    HalfThere { writer: Name, there: i64, missing: i64 },
}

/// A transaction: its client and the moment of its BEGIN.
pub type Name = (u64, u64);

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let t = |name: &Name| format!("T{}@{}", name.0, name.1);
        match self {
            Violation::NeverWritten { reader, key, value } => write!(f, "{} read {value} in list {key}, which nobody wrote", t(reader)),
            Violation::Aborted { reader, writer, key, value } => {
                write!(f, "{} read {value} in list {key} of {}, which failed (G1a)", t(reader), t(writer))
            }
            Violation::Intermediate { reader, writer, key, value } => {
                write!(f, "{} read list {key} up to {value}, after which {} appended more (G1b)", t(reader), t(writer))
            }
            Violation::Twice { reader, key, value } => write!(f, "{} read {value} twice in list {key}", t(reader)),
            Violation::Disordered { reader, key, found, order } => {
                write!(f, "{} read list {key} as {found:?}, but its order is {order:?}", t(reader))
            }
            Violation::MissesAcknowledged { reader, writer, key, value } => {
                write!(f, "{} did not see {value} in list {key}, though {} was acknowledged before", t(reader), t(writer))
            }
            Violation::MissesOwn { reader, key, value } => write!(f, "{} did not see its own {value} in list {key}", t(reader)),
            Violation::Fractured { reader, writer, seen, missed } => {
                write!(f, "{} saw what {} did to list {seen} but not what it did to list {missed}", t(reader), t(writer))
            }
            Violation::Unrepeatable { reader, key, before, after } => {
                write!(f, "{} read list {key} as {before:?}, then as {after:?}", t(reader))
            }
            Violation::LostUpdate { writer, key, read, overwrote } => {
                write!(f, "{} read list {key} up to {read:?}, but appended after {overwrote:?} (lost update)", t(writer))
            }
            Violation::Lost { writer, key, value } => write!(f, "{} of {} in list {key} was acknowledged and is gone", value, t(writer)),
            Violation::HalfThere { writer, there, missing } => {
                write!(f, "of {}, what it did to list {there} is there, what it did to list {missing} is not", t(writer))
            }
        }
    }
}

fn name(transaction: &Transaction) -> Name {
    (transaction.client, transaction.began)
}

/// A history, and what follows from it about lists.
struct Lists<'a> {
    history: &'a History,
    /// Who appended what, to which list; and which of its appends to that list it was, from the end: 0 is its last.
    writers: BTreeMap<(i64, i64), (&'a Transaction, usize)>,
    /// Longest list that anybody saw, by key.
    order: BTreeMap<i64, Vec<i64>>,
    violations: Vec<Violation>,
}

/// What a transaction appended to `key`, in order.
fn appended(transaction: &Transaction, key: i64) -> Vec<i64> {
    let values = transaction.micros.iter().filter_map(|micro| match micro {
        Micro::Append { key: other, value } if *other == key => Some(*value),
        _ => None,
    });
    values.collect()
}

/// Checks a history of transactions of one level. `last` holds the lists as read when all was over and no transaction was open any more.
pub fn violations(history: &History, level: Level, last: &BTreeMap<i64, Vec<i64>>) -> Vec<Violation> {
    let mut lists = Lists { history, writers: BTreeMap::new(), order: last.clone(), violations: Vec::new() };
    lists.collect();
    for transaction in &history.transactions {
        lists.reads(transaction, level);
        if level == Level::RepeatableRead {
            lists.fractured(transaction);
            lists.repeatable(transaction);
            lists.lost_updates(transaction);
        }
        lists.present(transaction, last);
    }
    for (key, found) in last {
        lists.plausible((u64::MAX, u64::MAX), None, *key, found);
    }
    lists.violations
}

impl<'a> Lists<'a> {
    fn collect(&mut self) {
        for transaction in &self.history.transactions {
            for micro in &transaction.micros {
                match micro {
                    Micro::Append { key, value } => {
                        let mine = appended(transaction, *key);
                        let from_end = mine.iter().rev().position(|other| other == value).unwrap_or(0);
                        self.writers.insert((*key, *value), (transaction, from_end));
                    }
                    // A transaction's own appends may be undone later, so they say nothing about the order of all.
                    Micro::Read { key, found: Some(found), .. } => {
                        let foreign = found.len() - own_tail(transaction, *key, found);
                        let longest = self.order.entry(*key).or_default();
                        if foreign > longest.len() {
                            *longest = found[..foreign].to_vec();
                        }
                    }
                    Micro::Read { found: None, .. } => {}
                }
            }
        }
    }

    /// A list as `reader` found it: elements that were written, once, by transactions that did not fail, not half of what one appended.
    fn plausible(&mut self, reader: Name, own: Option<&Transaction>, key: i64, found: &[i64]) {
        let mut seen = BTreeSet::new();
        for (position, &value) in found.iter().enumerate() {
            if !seen.insert(value) {
                self.violations.push(Violation::Twice { reader, key, value });
            }
            let Some(&(writer, from_end)) = self.writers.get(&(key, value)) else {
                self.violations.push(Violation::NeverWritten { reader, key, value });
                continue;
            };
            if own.is_some_and(|own| name(own) == name(writer)) {
                continue;
            }
            if writer.outcome == Outcome::Failed {
                self.violations.push(Violation::Aborted { reader, writer: name(writer), key, value });
            } else if from_end > 0 && position + 1 == found.len() {
                self.violations.push(Violation::Intermediate { reader, writer: name(writer), key, value });
            }
        }
    }

    fn reads(&mut self, transaction: &'a Transaction, level: Level) {
        let reader = name(transaction);
        let mut own: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for micro in &transaction.micros {
            let (key, asked, found) = match micro {
                Micro::Append { key, value } => {
                    own.entry(*key).or_default().push(*value);
                    continue;
                }
                Micro::Read { key, asked, found: Some(found) } => (*key, *asked, found),
                Micro::Read { found: None, .. } => continue,
            };
            self.plausible(reader, Some(transaction), key, found);
            let mine = own.get(&key).cloned().unwrap_or_default();
            if !found.ends_with(&mine) {
                let value = mine.iter().copied().find(|value| !found.contains(value)).unwrap_or(mine[0]);
                self.violations.push(Violation::MissesOwn { reader, key, value });
            }
            let foreign = &found[..found.len().saturating_sub(mine.len())];
            let order = self.order.get(&key).cloned().unwrap_or_default();
            if !order.starts_with(foreign) {
                self.violations.push(Violation::Disordered { reader, key, found: found.clone(), order });
            }
            let snapshot = if level == Level::RepeatableRead { transaction.began } else { asked };
            self.acknowledged(reader, key, found, snapshot);
        }
    }

    /// Everything acknowledged before `snapshot` must be among what was found.
    fn acknowledged(&mut self, reader: Name, key: i64, found: &[i64], snapshot: u64) {
        let found: BTreeSet<i64> = found.iter().copied().collect();
        for (&(_, value), (writer, _)) in self.writers.range((key, i64::MIN)..=(key, i64::MAX)) {
            if writer.outcome == Outcome::Committed && writer.ended < snapshot && !found.contains(&value) {
                self.violations.push(Violation::MissesAcknowledged { reader, writer: name(writer), key, value });
            }
        }
    }

    /// Of another transaction, a snapshot has all or nothing.
    fn fractured(&mut self, transaction: &Transaction) {
        let first_reads = first_reads(transaction);
        for (&seen, found) in &first_reads {
            for value in found {
                let Some((writer, _)) = self.writers.get(&(seen, *value)) else { continue };
                if name(writer) == name(transaction) {
                    continue;
                }
                for (&missed, other) in &first_reads {
                    if appended(writer, missed).iter().any(|value| !other.contains(value)) {
                        self.violations.push(Violation::Fractured { reader: name(transaction), writer: name(writer), seen, missed });
                    }
                }
            }
        }
    }

    /// Reads of the same list differ by the reader's own appends only.
    fn repeatable(&mut self, transaction: &Transaction) {
        let mut expected: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for micro in &transaction.micros {
            match micro {
                Micro::Append { key, value } => {
                    if let Some(list) = expected.get_mut(key) {
                        list.push(*value);
                    }
                }
                Micro::Read { key, found: Some(found), .. } => {
                    let before = expected.entry(*key).or_insert_with(|| found.clone()).clone();
                    if before != *found {
                        let reader = name(transaction);
                        self.violations.push(Violation::Unrepeatable { reader, key: *key, before, after: found.clone() });
                    }
                }
                Micro::Read { found: None, .. } => {}
            }
        }
    }

    /// Who read a list and then appended to it appended to what it had read.
    fn lost_updates(&mut self, transaction: &Transaction) {
        if transaction.outcome != Outcome::Committed {
            return;
        }
        for (key, found) in first_reads(transaction) {
            let Some(&first) = appended(transaction, key).first() else { continue };
            let Some(position) = self.order.get(&key).and_then(|order| order.iter().position(|&value| value == first)) else { continue };
            let overwrote = position.checked_sub(1).map(|before| self.order[&key][before]);
            if found.last().copied() != overwrote {
                let read = found.last().copied();
                self.violations.push(Violation::LostUpdate { writer: name(transaction), key, read, overwrote });
            }
        }
    }

    /// At the end, what was acknowledged is there, and of what is unknown all or nothing.
    fn present(&mut self, transaction: &Transaction, last: &BTreeMap<i64, Vec<i64>>) {
        let mut there = None;
        let mut missing = None;
        for micro in &transaction.micros {
            let Micro::Append { key, value } = micro else { continue };
            if last.get(key).is_some_and(|list| list.contains(value)) {
                there = Some(*key);
            } else {
                missing = Some(*key);
                if transaction.outcome == Outcome::Committed {
                    self.violations.push(Violation::Lost { writer: name(transaction), key: *key, value: *value });
                }
            }
        }
        if let (Outcome::Unknown, Some(there), Some(missing)) = (transaction.outcome, there, missing) {
            self.violations.push(Violation::HalfThere { writer: name(transaction), there, missing });
        }
    }
}

/// How many elements at the end of what it found are the transaction's own.
fn own_tail(transaction: &Transaction, key: i64, found: &[i64]) -> usize {
    let own = appended(transaction, key);
    found.iter().rev().take_while(|value| own.contains(value)).count()
}

/// What a transaction found at its first read of each list, without its own appends.
fn first_reads(transaction: &Transaction) -> BTreeMap<i64, Vec<i64>> {
    let mut reads = BTreeMap::new();
    for micro in &transaction.micros {
        if let Micro::Read { key, found: Some(found), .. } = micro {
            let foreign = found.len() - own_tail(transaction, *key, found);
            reads.entry(*key).or_insert_with(|| found[..foreign].to_vec());
        }
    }
    reads
}
