//! Clients that insert numbered rows and keep a journal, outside the server, of what was acknowledged: after crashes each row must be
//! there as often as the journal says.
//!
//! A row goes into a table with a key and into one without (which could hold it twice). Some rows are rolled back to a savepoint within a
//! transaction that commits, some belong to single statements without a transaction block.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use regroup::base::Random;
use tokio_postgres::{Client, Error};

use crate::isolation::arena::{ANSWER_WITHIN, Arena, Crashable};
use crate::isolation::history::Outcome;
use crate::isolation::lists::Load;
use crate::isolation::outcome;
use crate::wire;

/// What is expected of a row.
pub type Journal = BTreeMap<i64, Outcome>;

struct Writer {
    arena: Arena,
    journal: Arc<Mutex<Journal>>,
    random: Random,
    number: i64,
    made: i64,
}

/// What one transaction is to do.
struct Plan {
    /// In one statement, without a block.
    alone: bool,
    /// Rows to keep.
    kept: Vec<i64>,
    /// Rows between a savepoint and the rollback to it.
    undone: Vec<i64>,
}

impl Writer {
    fn id(&mut self) -> i64 {
        self.made += 1;
        self.made * 100 + self.number
    }

    fn plan(&mut self) -> Plan {
        let alone = self.random.chance(0.3);
        let rows = self.random.within(1..5);
        let undone = if alone || self.random.chance(0.6) { 0 } else { self.random.within(1..4) };
        Plan { alone, kept: (0..rows).map(|_| self.id()).collect(), undone: (0..undone).map(|_| self.id()).collect() }
    }

    async fn perform(plan: &Plan, client: &Client) -> Result<(), (Error, bool)> {
        let before = |error| (error, false);
        let rows = |ids: &[i64]| ids.iter().map(|id| format!("({id}, 'row {id}')")).collect::<Vec<_>>().join(", ");
        if plan.alone {
            // The statement is the transaction: an answer lost leaves it unknown.
            let sql = format!("INSERT INTO named (id, what) VALUES {}", rows(&plan.kept));
            return client.execute(&sql, &[]).await.map(|_| ()).map_err(|error| (error, true));
        }
        client.batch_execute("BEGIN").await.map_err(before)?;
        for table in ["named", "nameless"] {
            client.execute(&format!("INSERT INTO {table} (id, what) VALUES {}", rows(&plan.kept)), &[]).await.map_err(before)?;
        }
        if !plan.undone.is_empty() {
            client.batch_execute("SAVEPOINT here").await.map_err(before)?;
            for table in ["named", "nameless"] {
                client.execute(&format!("INSERT INTO {table} (id, what) VALUES {}", rows(&plan.undone)), &[]).await.map_err(before)?;
            }
            client.execute("DELETE FROM named WHERE id = $1", &[&plan.kept[0]]).await.map_err(before)?;
            client.batch_execute("ROLLBACK TO SAVEPOINT here").await.map_err(before)?;
        }
        client.batch_execute("COMMIT").await.map_err(|error| (error, true))
    }

    /// One transaction. False when the connection is of no use any more.
    async fn transaction(&mut self, client: &Client) -> bool {
        let plan = self.plan();
        let (outcome, usable) = match tokio::time::timeout(ANSWER_WITHIN, Writer::perform(&plan, client)).await {
            Ok(Ok(())) => (Outcome::Committed, true),
            Ok(Err((error, committing))) => {
                if !outcome::is_expected(&error) {
                    self.arena.unexpected(format!("writer {}: {error:?}", self.number));
                }
                (outcome::of(&error, committing), false)
            }
            Err(_) => {
                self.arena.unexpected(format!("writer {} had no answer within {ANSWER_WITHIN:?}", self.number));
                (Outcome::Unknown, false)
            }
        };
        let mut journal = self.journal.lock();
        journal.extend(plan.kept.iter().map(|id| (*id, outcome)));
        journal.extend(plan.undone.iter().map(|id| (*id, Outcome::Failed)));
        usable
    }

    async fn work(mut self) {
        while !self.arena.stopping() {
            let Some(connection) = self.arena.connect().await else { return };
            while !self.arena.stopping() && self.transaction(&connection.client).await {}
        }
    }
}

/// How often each row is in a table; and rows that aren't what was written.
fn present(plain: &mut wire::Client, table: &str, findings: &mut Vec<String>) -> BTreeMap<i64, u64> {
    let mut counts = BTreeMap::new();
    for row in plain.rows(&format!("SELECT id, what FROM {table}")).expect("the table can be read") {
        let id: i64 = row[0].as_deref().and_then(|text| text.parse().ok()).expect("an id");
        if row[1].as_deref() != Some(&format!("row {id}")) {
            findings.push(format!("{table}: row {id} reads {:?}", row[1]));
        }
        *counts.entry(id).or_default() += 1;
    }
    counts
}

/// Runs the writers under crashes; what is wrong afterwards, and how many rows were acknowledged.
///
/// # Panics
/// The server can't be prepared for it, or can't be read afterwards.
pub fn run(server: &mut dyn Crashable, seed: u64, load: Load) -> (Vec<String>, usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be made");
    let mut plain = server.endpoint().wire(ANSWER_WITHIN).expect("the server can be reached");
    for sql in ["CREATE TABLE named (id bigint PRIMARY KEY, what text)", "CREATE TABLE nameless (id bigint, what text)"] {
        plain.rows(sql).expect("a table can be made");
    }
    let arena = Arena::new(server.endpoint());
    let journal = Arc::new(Mutex::new(Journal::new()));
    let mut random = Random::new(seed);
    let writer = |number| Writer { arena: arena.clone(), journal: journal.clone(), random: random.fork(), number: number as i64, made: 0 };
    let writers: Vec<_> = (0..load.clients).map(writer).map(Writer::work).collect();
    arena.run(server, &runtime, load.between, load.crashes, writers);
    let mut plain = server.endpoint().wire(ANSWER_WITHIN).expect("the server can be reached");
    let mut findings = arena.complaints();
    let mut named = present(&mut plain, "named", &mut findings);
    let mut nameless = present(&mut plain, "nameless", &mut findings);
    let journal = journal.lock().clone();
    for (id, outcome) in &journal {
        let (one, other) = (named.remove(id).unwrap_or(0), nameless.remove(id).unwrap_or(0));
        let right = match outcome {
            Outcome::Committed => one == 1 && other <= 1,
            Outcome::Failed => one == 0 && other == 0,
            Outcome::Unknown => one <= 1 && other <= one,
        };
        if !right {
            findings.push(format!("row {id} ended {outcome:?}; with a key it is there {one} times, without {other} times"));
        }
    }
    findings.extend(named.keys().chain(nameless.keys()).map(|id| format!("row {id} is there, but nobody wrote it")));
    (findings, journal.values().filter(|outcome| **outcome == Outcome::Committed).count())
}
