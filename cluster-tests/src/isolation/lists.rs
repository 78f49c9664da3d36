//! The list-append workload: lists are rows of text, appended to by UPDATE and by INSERT .. ON CONFLICT, read by key, index and range.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regroup::base::Random;
use tokio_postgres::{Client, Error, Statement};

use super::Level;
use super::arena::{ANSWER_WITHIN, Arena, Crashable};
use super::history::{History, Micro, Outcome, Recorder, Transaction};
use super::outcome;
use crate::endpoint::Connection;

/// Lists that are in use at a time.
const HOT: u64 = 6;
/// Transactions before a list is left for a new one: a row must hold it.
const TRANSACTIONS_PER_LIST: u64 = 60;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Concurrent clients.
    pub clients: u64,
    /// Between crashes.
    pub between: Duration,
    /// How many.
    pub crashes: u32,
}

/// What a run left.
pub struct Run {
    /// What clients saw.
    pub history: History,
    /// The lists when all was over.
    pub last: BTreeMap<i64, Vec<i64>>,
    /// What should never have been said.
    pub complaints: Vec<String>,
}

struct Statements {
    update: Statement,
    upsert: Statement,
    reads: [Statement; 3],
}

impl Statements {
    async fn prepare(client: &Client) -> Result<Statements, Error> {
        Ok(Statements {
            update: client.prepare("UPDATE lists SET v = v || $2 WHERE k = $1").await?,
            upsert: client
                .prepare("INSERT INTO lists (k, tag, v) VALUES ($1, $2, $3) ON CONFLICT (k) DO UPDATE SET v = lists.v || excluded.v")
                .await?,
            reads: [
                client.prepare("SELECT v FROM lists WHERE k = $1").await?,
                client.prepare("SELECT v FROM lists WHERE tag = $1::bigint + 1000000").await?,
                client.prepare("SELECT v FROM lists WHERE k >= $1 AND k < $1 + 1").await?,
            ],
        })
    }

    async fn append(&self, client: &Client, random: &mut Random, key: i64, value: i64) -> Result<(), Error> {
        let text = format!("{value},");
        if random.chance(0.5) && client.execute(&self.update, &[&key, &text]).await? == 1 {
            return Ok(());
        }
        client.execute(&self.upsert, &[&key, &(key + 1_000_000), &text]).await.map(|_| ())
    }

    async fn read(&self, client: &Client, random: &mut Random, key: i64) -> Result<Vec<i64>, Error> {
        let rows = client.query(random.pick(&self.reads), &[&key]).await?;
        // A list that is there twice is read as both, one after the other: the checkers see its elements twice.
        Ok(rows.iter().flat_map(|row| elements(row.get(0))).collect())
    }
}

/// A list's elements. What isn't a number was never written: it is shown as a value that nobody appends.
fn elements(text: &str) -> Vec<i64> {
    text.split_terminator(',').map(|element| element.parse().unwrap_or(i64::MIN)).collect()
}

struct Player {
    arena: Arena,
    recorder: Arc<Recorder>,
    random: Random,
    level: Level,
    number: u64,
    values: i64,
}

impl Player {
    /// What a transaction is going to do, to lists that move on as the run does.
    fn plan(&mut self) -> Vec<Micro> {
        let round = self.recorder.count() as u64 / TRANSACTIONS_PER_LIST;
        let count = self.random.within(1..6);
        let micros = (0..count).map(|_| {
            let key = (round + self.random.below(HOT)) as i64;
            if self.random.chance(0.5) {
                self.values += 1;
                Micro::Append { key, value: self.values * 100 + self.number as i64 }
            } else {
                Micro::Read { key, asked: 0, found: None }
            }
        });
        let mut micros: Vec<Micro> = micros.collect();
        // Mostly in one order, since deadlocks are slow; but some.
        if self.random.chance(0.85) {
            micros.sort_by_key(Micro::key);
        }
        micros
    }

    async fn perform(&mut self, client: &Client, statements: &Statements, micros: &mut [Micro]) -> Result<Outcome, (Error, bool)> {
        let before = |error| (error, false);
        client.batch_execute(self.level.begin()).await.map_err(before)?;
        for micro in micros {
            match micro {
                Micro::Append { key, value } => statements.append(client, &mut self.random, *key, *value).await.map_err(before)?,
                Micro::Read { key, asked, found } => {
                    *asked = self.recorder.now();
                    *found = Some(statements.read(client, &mut self.random, *key).await.map_err(before)?);
                }
            }
        }
        if self.random.chance(0.05) {
            client.batch_execute("ROLLBACK").await.map_err(before)?;
            return Ok(Outcome::Failed);
        }
        client.batch_execute("COMMIT").await.map_err(|error| (error, true))?;
        Ok(Outcome::Committed)
    }

    /// One transaction. False when the connection is of no use any more.
    async fn transaction(&mut self, client: &Client, statements: &Statements) -> bool {
        let mut micros = self.plan();
        let began = self.recorder.now();
        let performed = tokio::time::timeout(ANSWER_WITHIN, self.perform(client, statements, &mut micros)).await;
        let (outcome, usable) = match performed {
            Err(_) => {
                self.arena.unexpected(format!("client {} had no answer within {ANSWER_WITHIN:?}", self.number));
                (Outcome::Unknown, false)
            }
            Ok(Ok(outcome)) => return self.keep(began, outcome, micros),
            Ok(Err((error, committing))) => {
                if !outcome::is_expected(&error) || (self.level == Level::ReadCommitted && code(&error) == "40001") {
                    self.arena.unexpected(format!("client {}: {error:?}", self.number));
                }
                (outcome::of(&error, committing), !outcome::is_end_of_connection(&error))
            }
        };
        self.keep(began, outcome, micros);
        usable && client.batch_execute("ROLLBACK").await.is_ok()
    }

    fn keep(&self, began: u64, outcome: Outcome, micros: Vec<Micro>) -> bool {
        let ended = self.recorder.now();
        self.recorder.keep(Transaction { client: self.number, began, ended, outcome, micros });
        true
    }

    async fn play(mut self) {
        while !self.arena.stopping() {
            let Some(connection) = self.arena.connect().await else { return };
            let Connection { client, .. } = &connection;
            let Ok(statements) = Statements::prepare(client).await else { continue };
            while !self.arena.stopping() && self.transaction(client, &statements).await {}
        }
    }
}

fn code(error: &Error) -> &str {
    error.code().map_or("", |code| code.code())
}

/// Runs the workload.
///
/// # Panics
/// The server can't be prepared for it, or can't be read afterwards.
pub fn run(server: &mut dyn Crashable, seed: u64, level: Level, load: Load) -> Run {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be made");
    let mut plain = server.endpoint().wire(ANSWER_WITHIN).expect("the server can be reached");
    for sql in [
        "DROP TABLE IF EXISTS lists",
        "CREATE TABLE lists (k bigint PRIMARY KEY, tag bigint, v text)",
        "CREATE INDEX lists_tag ON lists (tag)",
    ] {
        plain.rows(sql).expect("the workload's table can be made");
    }
    let arena = Arena::new(server.endpoint());
    let recorder = Arc::new(Recorder::default());
    let mut random = Random::new(seed);
    let player = |number| Player { arena: arena.clone(), recorder: recorder.clone(), random: random.fork(), level, number, values: 0 };
    let players: Vec<_> = (0..load.clients).map(player).map(Player::play).collect();
    arena.run(server, &runtime, load.between, load.crashes, players);
    let mut plain = server.endpoint().wire(ANSWER_WITHIN).expect("the server can be reached");
    let rows = plain.rows("SELECT k, v FROM lists").expect("the lists can be read");
    let last = rows.iter().map(|row| {
        let field = |index: usize| row[index].as_deref().unwrap_or_default();
        (field(0).parse().expect("a list's number"), elements(field(1)))
    });
    Run { history: recorder.history(), last: last.collect(), complaints: arena.complaints() }
}
