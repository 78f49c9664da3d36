//! The bank workload: money moves between accounts, and the sum never changes in any snapshot.
//!
//! Repeatable read transfers write balances that they computed from what they read, so a lost update shows as money made or lost. Each
//! transfer leaves a row, so that at the end balances can be reckoned from those, and each acknowledged transfer must be there exactly
//! once.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use regroup::base::Random;
use tokio_postgres::{Client, Error};

use super::Level;
use super::arena::{ANSWER_WITHIN, Arena, Crashable};
use super::history::Outcome;
use super::lists::Load;
use super::outcome;
use crate::wire;

/// Accounts.
pub const ACCOUNTS: i32 = 12;
/// In each at first.
pub const OPENING: i64 = 1000;

/// A transfer that was tried.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Unique.
    pub id: i64,
    /// As far as its client knows.
    pub outcome: Outcome,
}

/// A snapshot that was read: balances by account.
pub type Snapshot = BTreeMap<i32, i64>;

/// What clients saw.
#[derive(Clone, Default, Debug)]
pub struct Ledger {
    /// All transfers tried.
    pub transfers: Vec<Transfer>,
    /// All snapshots read.
    pub snapshots: Vec<Snapshot>,
}

/// What is there when all is over.
#[derive(Clone, Default, Debug)]
pub struct Books {
    /// Balances by account.
    pub balances: Snapshot,
    /// Rows of transfers: id, from, to, amount.
    pub transfers: Vec<(i64, i32, i32, i64)>,
}

/// What is wrong.
pub fn findings(ledger: &Ledger, books: &Books) -> Vec<String> {
    let mut findings = Vec::new();
    let total = i64::from(ACCOUNTS) * OPENING;
    for snapshot in ledger.snapshots.iter().chain([&books.balances]) {
        let sum: i64 = snapshot.values().sum();
        if sum != total || snapshot.len() != ACCOUNTS as usize {
            findings.push(format!("{} accounts with {sum} in all, not {ACCOUNTS} with {total}: {snapshot:?}", snapshot.len()));
        }
    }
    let mut rows: BTreeMap<i64, u64> = BTreeMap::new();
    let mut expected: Snapshot = (0..ACCOUNTS).map(|account| (account, OPENING)).collect();
    for &(id, from, to, amount) in &books.transfers {
        *rows.entry(id).or_default() += 1;
        *expected.entry(from).or_default() -= amount;
        *expected.entry(to).or_default() += amount;
    }
    if expected != books.balances {
        findings.push(format!("by the transfers that are there balances are {expected:?}, but they are {:?}", books.balances));
    }
    for transfer in &ledger.transfers {
        let found = rows.remove(&transfer.id).unwrap_or(0);
        let right = match transfer.outcome {
            Outcome::Committed => found == 1,
            Outcome::Failed => found == 0,
            Outcome::Unknown => found <= 1,
        };
        if !right {
            findings.push(format!("transfer {} ended {:?} and is there {found} times", transfer.id, transfer.outcome));
        }
    }
    findings.extend(rows.keys().map(|id| format!("transfer {id} is there, but nobody made it")));
    findings
}

struct Clerk {
    arena: Arena,
    ledger: Arc<Mutex<Ledger>>,
    random: Random,
    level: Level,
    number: i64,
    made: i64,
}

impl Clerk {
    async fn move_money(&mut self, client: &Client, id: i64) -> Result<Outcome, (Error, bool)> {
        let before = |error| (error, false);
        let from = self.random.below(ACCOUNTS as u64) as i32;
        let to = (from + 1 + self.random.below(ACCOUNTS as u64 - 1) as i32) % ACCOUNTS;
        let amount = self.random.within(1..50) as i64;
        client.batch_execute(self.level.begin()).await.map_err(before)?;
        let mut changes = [(from, -amount), (to, amount)];
        // Mostly in one order, since deadlocks are slow; but some.
        if self.random.chance(0.85) {
            changes.sort_unstable();
        }
        for (account, change) in changes {
            match self.level {
                Level::ReadCommitted => {
                    let sql = "UPDATE accounts SET balance = balance + $2 WHERE id = $1";
                    client.execute(sql, &[&account, &change]).await.map_err(before)?;
                }
                Level::RepeatableRead => {
                    let row = client.query_one("SELECT balance FROM accounts WHERE id = $1", &[&account]).await.map_err(before)?;
                    let balance = row.get::<_, i64>(0) + change;
                    client.execute("UPDATE accounts SET balance = $2 WHERE id = $1", &[&account, &balance]).await.map_err(before)?;
                }
            }
        }
        let sql = "INSERT INTO transfers (id, source, target, amount) VALUES ($1, $2, $3, $4)";
        client.execute(sql, &[&id, &from, &to, &amount]).await.map_err(before)?;
        if self.random.chance(0.1) {
            client.batch_execute("ROLLBACK").await.map_err(before)?;
            return Ok(Outcome::Failed);
        }
        client.batch_execute("COMMIT").await.map_err(|error| (error, true))?;
        Ok(Outcome::Committed)
    }

    /// All balances: in one statement, which has a snapshot in any level, or in two of one repeatable read transaction.
    async fn look(&mut self, client: &Client) -> Result<(), Error> {
        let mut snapshot = Snapshot::new();
        if self.level == Level::ReadCommitted || self.random.chance(0.5) {
            let rows = client.query("SELECT id, balance FROM accounts", &[]).await?;
            snapshot.extend(rows.iter().map(|row| (row.get::<_, i32>(0), row.get::<_, i64>(1))));
        } else {
            client.batch_execute(self.level.begin()).await?;
            for half in [(0, ACCOUNTS / 2), (ACCOUNTS / 2, ACCOUNTS)] {
                let rows = client.query("SELECT id, balance FROM accounts WHERE id >= $1 AND id < $2", &[&half.0, &half.1]).await?;
                snapshot.extend(rows.iter().map(|row| (row.get::<_, i32>(0), row.get::<_, i64>(1))));
            }
            client.batch_execute("COMMIT").await?;
        }
        self.ledger.lock().snapshots.push(snapshot);
        Ok(())
    }

    /// One transaction. False when the connection is of no use any more.
    async fn transaction(&mut self, client: &Client) -> bool {
        if self.random.chance(0.3) {
            return match tokio::time::timeout(ANSWER_WITHIN, self.look(client)).await {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    self.complain(&error);
                    false
                }
                Err(_) => self.silence(),
            };
        }
        self.made += 1;
        let id = self.made * 100 + self.number;
        let performed = tokio::time::timeout(ANSWER_WITHIN, self.move_money(client, id)).await;
        let (outcome, usable) = match performed {
            Err(_) => (Outcome::Unknown, self.silence()),
            Ok(Ok(outcome)) => (outcome, true),
            Ok(Err((error, committing))) => {
                self.complain(&error);
                let usable = !outcome::is_end_of_connection(&error) && client.batch_execute("ROLLBACK").await.is_ok();
                (outcome::of(&error, committing), usable)
            }
        };
        self.ledger.lock().transfers.push(Transfer { id, outcome });
        usable
    }

    fn complain(&self, error: &Error) {
        if !outcome::is_expected(error) {
            self.arena.unexpected(format!("clerk {}: {error:?}", self.number));
        }
    }

    fn silence(&self) -> bool {
        self.arena.unexpected(format!("clerk {} had no answer within {ANSWER_WITHIN:?}", self.number));
        false
    }

    async fn work(mut self) {
        while !self.arena.stopping() {
            let Some(connection) = self.arena.connect().await else { return };
            while !self.arena.stopping() && self.transaction(&connection.client).await {}
        }
    }
}

fn read_books(plain: &mut wire::Client) -> Books {
    let number = |field: &Option<String>| field.as_deref().unwrap_or_default().parse::<i64>().expect("a number");
    let balances = plain.rows("SELECT id, balance FROM accounts").expect("accounts can be read");
    let transfers = plain.rows("SELECT id, source, target, amount FROM transfers").expect("transfers can be read");
    Books {
        balances: balances.iter().map(|row| (number(&row[0]) as i32, number(&row[1]))).collect(),
        transfers: transfers.iter().map(|row| (number(&row[0]), number(&row[1]) as i32, number(&row[2]) as i32, number(&row[3]))).collect(),
    }
}

/// Runs the workload: what clients saw, what is left, and what should never have been said.
///
/// # Panics
/// The server can't be prepared for it, or can't be read afterwards.
pub fn run(server: &mut dyn Crashable, seed: u64, level: Level, load: Load) -> (Ledger, Books, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be made");
    let mut plain = server.endpoint().wire(ANSWER_WITHIN).expect("the server can be reached");
    let rows: Vec<_> = (0..ACCOUNTS).map(|account| format!("({account}, {OPENING})")).collect();
    for sql in [
        "DROP TABLE IF EXISTS accounts",
        "DROP TABLE IF EXISTS transfers",
        "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL)",
        "CREATE TABLE transfers (id bigint PRIMARY KEY, source int, target int, amount bigint)",
        &format!("INSERT INTO accounts VALUES {}", rows.join(", ")),
    ] {
        plain.rows(sql).expect("the workload's tables can be made");
    }
    let arena = Arena::new(server.endpoint());
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let mut random = Random::new(seed);
    let clerk =
        |number| Clerk { arena: arena.clone(), ledger: ledger.clone(), random: random.fork(), level, number: number as i64, made: 0 };
    let clerks: Vec<_> = (0..load.clients).map(clerk).map(Clerk::work).collect();
    arena.run(server, &runtime, load.between, load.crashes, clerks);
    let books = read_books(&mut server.endpoint().wire(ANSWER_WITHIN).expect("the server can be reached"));
    let ledger = ledger.lock().clone();
    (ledger, books, arena.complaints())
}
