//! A list-append history: transactions that append unique numbers to lists and read whole lists.
//!
//! Moments are numbers from one counter: what has a smaller one was sent (or answered) before what has a greater one, for certain.

use std::sync::atomic::{AtomicU64, Ordering};

use adya::history::{Interner, Mop, Op, OpType, ReadValue, Scalar};
use parking_lot::Mutex;

/// A moment of the run.
pub type Moment = u64;

/// An operation of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Micro {
    /// `value`, which nobody else appends to `key`, was appended.
    Append {
        /// Which list.
        key: i64,
        /// What.
        value: i64,
    },
    /// The list was read.
    Read {
        /// Which list.
        key: i64,
        /// Just before it was asked for.
        asked: Moment,
        /// Its elements in order; none if there was no answer.
        found: Option<Vec<i64>>,
    },
}

impl Micro {
    /// Which list.
    pub fn key(&self) -> i64 {
        match self {
            Micro::Append { key, .. } | Micro::Read { key, .. } => *key,
        }
    }
}

/// How a transaction ended, as far as its client knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Its commit was acknowledged.
    Committed,
    /// It is not there: it failed, or the connection was lost before COMMIT was sent.
    Failed,
    /// COMMIT was sent and never answered.
    Unknown,
}

/// A transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// Whose.
    pub client: u64,
    /// Just before BEGIN was sent.
    pub began: Moment,
    /// Just after the end was known.
    pub ended: Moment,
    /// How.
    pub outcome: Outcome,
    /// What it did, in order. Of one that failed: what was tried.
    pub micros: Vec<Micro>,
}

/// All transactions of a run, in no particular order.
#[derive(Clone, Default, Debug)]
pub struct History {
    /// The transactions.
    pub transactions: Vec<Transaction>,
}

/// Collects a history from many clients.
#[derive(Default)]
pub struct Recorder {
    clock: AtomicU64,
    transactions: Mutex<Vec<Transaction>>,
}

impl Recorder {
    /// Now.
    pub fn now(&self) -> Moment {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Keeps a transaction that ended.
    pub fn keep(&self, transaction: Transaction) {
        self.transactions.lock().push(transaction);
    }

    /// How many are kept.
    pub fn count(&self) -> usize {
        self.transactions.lock().len()
    }

    /// All that was kept.
    pub fn history(&self) -> History {
        History { transactions: self.transactions.lock().clone() }
    }
}

fn mops(interner: &mut Interner, transaction: &Transaction, answered: bool) -> Vec<Mop> {
    let mut id = |number: i64| interner.intern(Scalar::Int(number));
    let micros = transaction.micros.iter().map(|micro| match micro {
        Micro::Append { key, value } => Mop::Append { key: id(*key), value: id(*value) },
        Micro::Read { key, found, .. } => {
            let value = match found {
                Some(found) if answered => ReadValue::List(found.iter().map(|&element| id(element)).collect()),
                _ => ReadValue::Nil,
            };
            Mop::Read { key: id(*key), value }
        }
    });
    micros.collect()
}

impl History {
    /// As crate adya wants it. A client whose transaction ended unknown goes on as another process, since to adya that one may still run.
    pub fn for_adya(&self) -> adya::History {
        let mut interner = Interner::default();
        let mut events = Vec::new();
        let mut ordered: Vec<&Transaction> = self.transactions.iter().collect();
        ordered.sort_by_key(|transaction| transaction.began);
        let mut lives = std::collections::BTreeMap::<u64, i64>::new();
        for transaction in ordered {
            let life = lives.entry(transaction.client).or_default();
            let process = Some(transaction.client as i64 + *life * 10_000);
            let kind = match transaction.outcome {
                Outcome::Committed => OpType::Ok,
                Outcome::Failed => OpType::Fail,
                Outcome::Unknown => OpType::Info,
            };
            *life += i64::from(transaction.outcome == Outcome::Unknown);
            let asked = mops(&mut interner, transaction, false);
            let answered = mops(&mut interner, transaction, transaction.outcome == Outcome::Committed);
            events.push((transaction.began, OpType::Invoke, process, asked));
            events.push((transaction.ended, kind, process, answered));
        }
        events.sort_by_key(|event| event.0);
        let op = |(index, (time, kind, process, value)): (usize, (Moment, OpType, Option<i64>, Vec<Mop>))| Op {
            index: index as u64,
            kind,
            process,
            value,
            time: Some(time as i64),
        };
        adya::History::from_ops(events.into_iter().enumerate().map(op).collect(), interner)
    }

    /// Transactions that ended so.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.transactions.iter().filter(|transaction| transaction.outcome == outcome).count()
    }
}

/// What adya has against the history under `model`, explained; empty when the history is valid. A history that adya can't judge (nothing
/// in it, out of time) is not valid.
pub fn adya_findings(history: &History, model: &str) -> Vec<String> {
    let options = adya::Opts { models: vec![model.into()], timeout: std::time::Duration::from_secs(20), ..adya::Opts::default() };
    let report = adya::check(&history.for_adya(), adya::Workload::ListAppend, &options);
    if report.valid == adya::Valid::True {
        return Vec::new();
    }
    let mut findings: Vec<String> = report
        .anomalies
        .iter()
        .flat_map(|(kind, all)| all.iter().map(move |anomaly| format!("adya: {kind}: {}", anomaly.explanation)))
        .collect();
    findings.push(format!("adya: {model} does not hold: {:?}", report.anomaly_types));
    findings
}
