//! One client's conversation with the database: statements, portals, transactions, settings.
//!
//! Callers: the wire protocol (`sql::wire`) and tests. The engine is shared by all sessions of the process; a session belongs to one
//! client and runs one statement at a time.
//!
//! How the simple protocol runs `"a; b"`: [`Session::split`], then for each [`RawStatement`] [`Session::start`] and
//! [`Session::execute`] until [`Progress::Complete`]; at the end, or after the first error, [`Session::sync`].
//! The extended protocol: [`Session::prepare`] (Parse), [`Session::portal`] (Bind), [`Session::execute`] (Execute), [`Session::sync`]
//! (Sync). After an error in either, nothing but `sync` until the client's Sync or the end of its query.

mod compile;
mod copy;
mod ddl;
mod portal;
mod transaction;
mod utility;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::error::{Notice, Severity, SqlError};
use super::exec::memory::Pool;
use super::parse::{self, Parsed};
use super::sequence::Sequences;
use super::settings::{Mark, Settings};
use super::world::{Client, Clients, Outer, Snapshot, Stop, World, clock};
use crate::base::Seams;
use crate::base::runtime::BoxFuture;
use crate::table::rows::{self, Rows, Transaction};
use crate::table::tables::Tables;
use crate::txn::Isolation;

pub use compile::Statement;
pub use copy::CopyIn;
pub use portal::Portal;

/// What statements ask of the instance, and the layers below `sql` don't know.
pub trait Admin: Send + Sync + 'static {
    /// Writes all dirty pages and moves the checkpoint position (`CHECKPOINT`).
    fn checkpoint(&self) -> BoxFuture<Result<(), String>>;
}

/// What an engine is opened with.
#[derive(Clone)]
pub struct EngineOptions {
    /// The only database's name.
    pub database: String,
    /// The only role's name.
    pub role: String,
    /// Shown as `max_connections`; the wire protocol counts.
    pub connections_max: u32,
    /// How much memory one sort or hash table of a statement may take.
    pub work_bytes_max: usize,
    /// How much memory sorts and hash tables of all statements together may take.
    pub work_total_bytes_max: usize,
    /// Names and values of settings whose default is the instance's, not PostgreSQL's.
    pub settings: Vec<(String, String)>,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        let regroup = || "regroup".to_string();
        EngineOptions {
            database: regroup(),
            role: regroup(),
            connections_max: 500,
            work_bytes_max: 64 << 20,
            work_total_bytes_max: 256 << 20,
            settings: Vec::new(),
        }
    }
}

struct Shared {
    tables: Tables,
    seams: Seams,
    admin: Arc<dyn Admin>,
    options: Arc<EngineOptions>,
    clients: Clients,
    sequences: Sequences,
    memory: Pool,
    /// The catalog as someone saw it last.
    catalog: Mutex<Arc<Snapshot>>,
    next_pid: AtomicI32,
    next_transaction: AtomicU64,
    since: i64,
}

/// The SQL engine of an instance. Clones share everything.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// Where a session stands between statements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing is open, or only an implicit transaction, until the next [`Session::sync`].
    Implicit,
    /// In a transaction block.
    Block,
    /// In a transaction block that failed.
    Failed,
}

/// A place that ROLLBACK TO goes back to.
struct NamedSavepoint {
    name: String,
    place: rows::Savepoint,
    settings: Mark,
}

/// A statement prepared by PREPARE.
#[derive(Clone)]
struct Prepared {
    statement: Statement,
}

/// A client's session.
pub struct Session {
    engine: Engine,
    world: World,
    /// The transaction, once a statement has needed it.
    txn: Option<Transaction>,
    phase: Phase,
    /// An implicit transaction failed: what follows until `sync` is for nothing.
    doomed: bool,
    isolation: Isolation,
    read_only: bool,
    savepoints: Vec<NamedSavepoint>,
    /// Settings before the transaction, once it has changed any.
    settings: Option<Mark>,
    prepared: BTreeMap<String, Prepared>,
    deallocated: Vec<String>,
    /// Bodies of rows are put together here.
    buffer: Vec<u8>,
    /// How long waits for locks may take, as the interrupt was told last.
    lock_timeout: Option<Duration>,
}

/// What a session tells its client of its transaction: for ReadyForQuery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionStatus {
    /// No transaction block (`I`).
    Idle,
    /// In a transaction block (`T`).
    InTransaction,
    /// In a transaction block that has failed (`E`).
    Failed,
}

impl TransactionStatus {
    /// The byte of ReadyForQuery.
    pub fn byte(self) -> u8 {
        match self {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InTransaction => b'T',
            TransactionStatus::Failed => b'E',
        }
    }
}

/// A column of a result, as RowDescription tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ColumnDesc {
    /// Its name.
    pub name: String,
    /// Its type's OID in PostgreSQL.
    pub type_oid: u32,
    /// Its type's length; -1: varies.
    pub type_len: i16,
    /// Its type's modifier; -1: none.
    pub typmod: i32,
    /// The table that it comes from; 0: none.
    pub table_oid: u32,
    /// Its number in that table, from 1; 0: none.
    pub column: i16,
}

/// One statement of a simple query's text.
#[derive(Clone, Debug)]
pub struct RawStatement {
    text: Arc<str>,
    shown: Arc<str>,
    parsed: Arc<Parsed>,
    last: bool,
}

/// Text or binary, as Bind and RowDescription number them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(i16)]
pub enum Format {
    /// 0
    #[default]
    Text = 0,
    /// 1
    Binary = 1,
}

/// Takes a statement's rows.
pub trait RowSink: Send {
    /// The body of a DataRow message: number of columns (i16), then for each its length (i32, -1: null) and bytes.
    fn row(&mut self, body: &[u8]);

    /// `COPY .. TO STDOUT` begins: the number of columns, all text. Called once, before [`RowSink::copy_data`].
    fn copy_out(&mut self, columns: usize);

    /// The body of a CopyData message: `COPY .. TO STDOUT`. The caller of `execute` sends CopyDone before CommandComplete.
    fn copy_data(&mut self, body: &[u8]);

    /// Whether it has taken as much as it can hold for now: `execute` then returns [`Progress::Suspended`], to be called again soon.
    fn full(&self) -> bool {
        false
    }
}

/// How far an execution got.
pub enum Progress {
    /// As many rows as asked for were given, there may be more (PortalSuspended). The simple protocol goes on at once.
    Suspended,
    /// Done: the tag of CommandComplete.
    Complete(String),
    /// The text had no statement in it (EmptyQueryResponse).
    Empty,
    /// `COPY .. FROM STDIN`: send CopyInResponse, then give [`Session::copy_data`] what comes, and [`Session::copy_done`] or
    /// [`Session::copy_fail`] the end.
    CopyIn(CopyIn),
}

/// Stops what a session does; kept by whoever may want to.
#[derive(Clone)]
pub struct Canceller {
    client: Arc<Client>,
}

impl Canceller {
    /// Cancels the statement under way (57014); when there is none, nothing happens.
    pub fn cancel(&self) {
        self.client.stop(Stop::Cancel);
    }

    /// Has the session end: the statement under way fails with 57P01, and the door closes when [`Canceller::terminated`] completes.
    pub fn terminate(&self) {
        self.client.stop(Stop::Terminate);
    }

    /// Completes when someone has called [`Canceller::terminate`] (`pg_terminate_backend`).
    pub async fn terminated(&self) {
        loop {
            let ended = self.client.ended.notified();
            if self.client.is_ended() {
                return;
            }
            ended.await;
        }
    }
}

impl Engine {
    /// Opens the engine over an instance's rows.
    ///
    /// # Errors
    /// The catalog can't be read.
    pub async fn open(rows: Rows, seams: Seams, admin: Arc<dyn Admin>, options: EngineOptions) -> Result<Engine, SqlError> {
        let since = clock(&seams);
        let shared = Shared {
            tables: Tables::new(rows),
            seams,
            admin,
            clients: Clients::default(),
            sequences: Sequences::default(),
            memory: Pool::new(options.work_total_bytes_max),
            options: Arc::new(options),
            catalog: Mutex::default(),
            next_pid: AtomicI32::new(1),
            next_transaction: AtomicU64::new(1),
            since,
        };
        let engine = Engine { shared: Arc::new(shared) };
        let mut txn = engine.shared.tables.rows().begin(Isolation::ReadCommitted, rows::Interrupt::default());
        txn.begin_statement();
        let read = engine.shared.tables.tables(&txn).await;
        txn.end_statement();
        read?;
        txn.commit().await?;
        Ok(engine)
    }

    /// The typed tables below.
    pub fn tables(&self) -> &Tables {
        &self.shared.tables
    }

    /// A new session of `user` in `database`; `options` are the other parameters of the startup message.
    ///
    /// # Errors
    /// 28000, no such role; 3D000, no such database; 22023 and the like, an option that can't be.
    pub fn session(&self, user: &str, database: &str, options: &[(String, String)]) -> Result<Session, SqlError> {
        let shared = &self.shared;
        if user != shared.options.role {
            return Err(SqlError::new("28000", format!("role \"{user}\" does not exist")));
        }
        if database != shared.options.database {
            return Err(SqlError::new("3D000", format!("database \"{database}\" does not exist")));
        }
        let fixed = [("session_authorization", user.to_string()), ("max_connections", shared.options.connections_max.to_string())];
        let mut settings = Settings::new(&fixed);
        for (name, value) in shared.options.settings.iter().chain(options) {
            settings.set(name, Some(value), false)?;
        }
        settings.begin_session();
        let now = clock(&shared.seams);
        let secret = shared.seams.random() as i32;
        let mut clients = shared.clients.lock();
        let pid = loop {
            let pid = shared.next_pid.fetch_add(1, Ordering::Relaxed) & i32::MAX;
            if pid > 0 && !clients.contains_key(&pid) {
                break pid;
            }
        };
        let formats = settings.formats().clone();
        let client = Arc::new(Client::new(pid, secret, user.to_string(), now, settings));
        clients.insert(pid, client.clone());
        drop(clients);
        let world = World {
            client,
            clients: shared.clients.clone(),
            options: shared.options.clone(),
            seams: shared.seams.clone(),
            catalog: shared.catalog.lock().clone(),
            sequences: shared.sequences.clone(),
            memory: shared.memory.clone(),
            formats,
            transaction_start: now,
            statement_start: now,
            transaction: 0,
            engine_start: shared.since,
            outer: Outer(shared.seams.clone()),
        };
        Ok(Session {
            engine: self.clone(),
            world,
            txn: None,
            phase: Phase::Implicit,
            doomed: false,
            isolation: Isolation::ReadCommitted,
            read_only: false,
            savepoints: Vec::new(),
            settings: None,
            prepared: BTreeMap::new(),
            deallocated: Vec::new(),
            buffer: Vec::new(),
            lock_timeout: None,
        })
    }

    /// A cancel request: stops the statement under way of the session with that process number and secret; nothing happens when there is
    /// none.
    pub fn cancel(&self, pid: i32, secret: i32) {
        let client = self.shared.clients.lock().get(&pid).cloned();
        if let Some(client) = client.filter(|client| client.secret == secret) {
            client.stop(Stop::Cancel);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.engine.shared.clients.lock().remove(&self.world.client.pid);
    }
}

impl Session {
    /// Its number, for BackendKeyData, `pg_backend_pid()` and cancel requests.
    pub fn pid(&self) -> i32 {
        self.world.client.pid
    }

    /// What a cancel request must know.
    pub fn secret(&self) -> i32 {
        self.world.client.secret
    }

    /// The engine that it belongs to.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its canceller: stays valid while statements run.
    pub fn canceller(&self) -> Canceller {
        Canceller { client: self.world.client.clone() }
    }

    /// ParameterStatus messages for the start of the session.
    pub fn parameters(&self) -> Vec<(String, String)> {
        self.world.client.state.lock().settings.reported()
    }

    /// Settings that have changed since this was last asked and that clients are told of (ParameterStatus): ask before ReadyForQuery.
    pub fn take_parameters(&mut self) -> Vec<(&'static str, String)> {
        self.world.client.state.lock().settings.take_changed()
    }

    /// Notices since this was last asked: ask after each statement, before its CommandComplete.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.world.client.state.lock().notices)
    }

    /// Prepared statements whose names `DEALLOCATE` said since this was last asked: the names are the caller's business. For
    /// `DEALLOCATE ALL` and `DISCARD ALL` the tag is enough.
    pub fn take_deallocated(&mut self) -> Vec<String> {
        std::mem::take(&mut self.deallocated)
    }

    fn notice(&self, severity: Severity, what: SqlError) {
        self.world.client.state.lock().notices.push(Notice { severity, what });
    }

    /// For ReadyForQuery.
    pub fn status(&self) -> TransactionStatus {
        match self.phase {
            Phase::Implicit => TransactionStatus::Idle,
            Phase::Block => TransactionStatus::InTransaction,
            Phase::Failed => TransactionStatus::Failed,
        }
    }

    /// How long the client may stay silent now before the door ends the session (`idle_in_transaction_session_timeout`, code 25P03, or
    /// `idle_session_timeout`, 57P05, by [`Session::status`]).
    pub fn idle_timeout(&self) -> Option<Duration> {
        let name = if self.phase == Phase::Implicit { "idle_session_timeout" } else { "idle_in_transaction_session_timeout" };
        self.world.client.state.lock().settings.time(name)
    }

    /// The statements of a simple query's text. They make one implicit transaction, unless they say otherwise.
    ///
    /// # Errors
    /// 42601: it can't be read.
    pub fn split(&mut self, sql: &str) -> Result<Vec<RawStatement>, SqlError> {
        let all = match parse::statements(sql) {
            Ok(all) => all,
            Err(error) => {
                self.fail();
                return Err(error);
            }
        };
        let text: Arc<str> = sql.into();
        let (count, shown) = (all.len(), compile::shown(&text));
        let raw = |(at, parsed)| RawStatement { text: text.clone(), shown: shown.clone(), parsed: Arc::new(parsed), last: at + 1 == count };
        Ok(all.into_iter().enumerate().map(raw).collect())
    }

    /// The client was told of an error that the session knows nothing of (no such portal, text that isn't UTF-8): the transaction block
    /// fails as after any other.
    pub fn fail(&mut self) {
        let goes_on = self.goes_on();
        match self.phase {
            Phase::Implicit => self.doomed = true,
            Phase::Block if !goes_on => self.phase = Phase::Failed,
            Phase::Block | Phase::Failed => {}
        }
    }
}
