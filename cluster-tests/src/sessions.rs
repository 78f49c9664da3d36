//! SQL through sessions, without the wire: an engine over a store in the simulator, statements and what came of them.

use std::sync::Arc;

use regroup::base::BoxFuture;
use regroup::base::Seams;
use regroup::base::sim::Sim;
use regroup::node::store::Store;
use regroup::sql::error::SqlError;
use regroup::sql::session::{Admin, Engine, EngineOptions, Format, Progress, RowSink, Session, Statement};

use crate::world;

/// Nothing to do for CHECKPOINT and VACUUM.
struct NoAdmin;

impl Admin for NoAdmin {
    fn checkpoint(&self) -> BoxFuture<Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

/// Rows as text, nulls as `NULL`, columns with `|` between.
#[derive(Default, Debug)]
pub struct Taken {
    /// What rows said.
    pub rows: Vec<String>,
    /// What COPY gave.
    pub copied: Vec<u8>,
}

impl RowSink for Taken {
    fn row(&mut self, body: &[u8]) {
        let columns = i16::from_be_bytes([body[0], body[1]]);
        let mut rest = &body[2..];
        let mut row = Vec::new();
        for _ in 0..columns {
            let length = i32::from_be_bytes(rest[..4].try_into().expect("four bytes"));
            rest = &rest[4..];
            match usize::try_from(length) {
                Ok(length) => {
                    row.push(String::from_utf8(rest[..length].to_vec()).expect("text"));
                    rest = &rest[length..];
                }
                Err(_) => row.push("NULL".into()),
            }
        }
        assert!(rest.is_empty(), "a row's body has more than its columns");
        self.rows.push(row.join("|"));
    }

    fn copy_out(&mut self, _columns: usize) {}

    fn copy_data(&mut self, body: &[u8]) {
        self.copied.extend_from_slice(body);
    }
}

/// A client of the engine.
pub struct Client {
    /// Its session.
    pub session: Session,
}

/// An engine, and the store below.
pub struct Database {
    /// The engine.
    pub engine: Engine,
    /// The store.
    pub store: Arc<Store>,
    /// Clock and tasks.
    pub seams: Seams,
}

impl Database {
    /// A client of the only role.
    pub fn client(&self) -> Client {
        Client { session: self.engine.session("regroup", "regroup", &[]).expect("the role and the database are there") }
    }
}

/// Runs `test` over a new store.
pub fn simulate<F: Future<Output = ()>>(seed: u64, test: impl FnOnce(Database) -> F) {
    let media = world::create(seed, world::shape(400, true));
    let sim = Sim::new(seed);
    sim.run(async {
        let seams = sim.runtime();
        let store = world::open(&seams, &media, &world::small()).await.expect("a new store can be opened");
        let options = EngineOptions { work_bytes_max: 1 << 20, ..EngineOptions::default() };
        let engine = Engine::open(store.rows().clone(), seams.clone(), Arc::new(NoAdmin), options).await;
        let engine = engine.expect("the engine opens");
        test(Database { engine, store, seams }).await;
    });
}

impl Client {
    /// Runs a simple query: rows of its last statement, and its tag.
    ///
    /// # Errors
    /// What the first statement that failed says.
    pub async fn query(&mut self, sql: &str) -> Result<(Vec<String>, String), SqlError> {
        let mut last = (Vec::new(), String::new());
        let outcome = self.statements(sql, &mut last).await;
        let synced = self.session.sync().await;
        outcome.and(synced).map(|()| last)
    }

    async fn statements(&mut self, sql: &str, last: &mut (Vec<String>, String)) -> Result<(), SqlError> {
        for raw in self.session.split(sql)? {
            let mut portal = self.session.start(&raw).await?;
            let mut taken = Taken::default();
            let tag = loop {
                match self.session.execute(&mut portal, 0, &mut taken).await? {
                    Progress::Suspended => {}
                    Progress::Complete(tag) => break tag,
                    Progress::Empty => break String::new(),
                    Progress::CopyIn(copy) => break self.session.copy_done(copy).await?,
                }
            };
            *last = (taken.rows, tag);
        }
        Ok(())
    }

    /// Rows of a statement that succeeds.
    pub async fn rows(&mut self, sql: &str) -> Vec<String> {
        self.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).0
    }

    /// The tag of a statement that succeeds.
    pub async fn run(&mut self, sql: &str) -> String {
        self.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).1
    }

    /// The error of a statement that fails.
    pub async fn error(&mut self, sql: &str) -> SqlError {
        match self.query(sql).await {
            Ok(found) => panic!("{sql} gave {found:?}"),
            Err(error) => error,
        }
    }

    /// Prepares a statement.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn prepare(&mut self, sql: &str) -> Result<Statement, SqlError> {
        let found = self.session.prepare(sql, &[]).await;
        self.session.sync().await?;
        found
    }

    /// Runs a prepared statement with parameters as text, all its rows; then Sync.
    ///
    /// # Errors
    /// What it died of.
    pub async fn execute(&mut self, statement: &Statement, params: &[Option<&str>]) -> Result<(Vec<String>, String), SqlError> {
        let params: Vec<Option<&[u8]>> = params.iter().map(|param| param.map(str::as_bytes)).collect();
        let mut taken = Taken::default();
        let outcome = async {
            let mut portal = match self.session.portal(statement, &params, &[Format::Text], &[Format::Text]) {
                Ok(portal) => portal,
                Err(error) => return Err(self.session.refuse(error).await),
            };
            loop {
                match self.session.execute(&mut portal, 0, &mut taken).await? {
                    Progress::Complete(tag) => return Ok(tag),
                    Progress::Suspended => {}
                    _ => panic!("a prepared statement that gives no rows and no tag"),
                }
            }
        }
        .await;
        let synced = self.session.sync().await;
        outcome.and_then(|tag| synced.map(|()| (taken.rows, tag)))
    }

    /// Copies `data` into a table, in pieces of `piece` bytes.
    ///
    /// # Errors
    /// What is wrong with the data.
    pub async fn copy_in(&mut self, sql: &str, data: &[u8], piece: usize) -> Result<String, SqlError> {
        let outcome = async {
            let raw = self.session.split(sql)?;
            let mut portal = self.session.start(&raw[0]).await?;
            let Progress::CopyIn(mut copy) = self.session.execute(&mut portal, 0, &mut Taken::default()).await? else {
                panic!("{sql} is no COPY FROM");
            };
            for piece in data.chunks(piece) {
                self.session.copy_data(&mut copy, piece).await?;
            }
            self.session.copy_done(copy).await
        }
        .await;
        let synced = self.session.sync().await;
        outcome.and_then(|tag| synced.map(|()| tag))
    }

    /// What `COPY .. TO STDOUT` gives.
    pub async fn copy_out(&mut self, sql: &str) -> String {
        let raw = self.session.split(sql).expect("a statement");
        let mut portal = self.session.start(&raw[0]).await.expect("it can be bound");
        let mut taken = Taken::default();
        while let Progress::Suspended = self.session.execute(&mut portal, 0, &mut taken).await.expect("rows") {}
        self.session.sync().await.expect("it ends");
        String::from_utf8(taken.copied).expect("text")
    }
}
