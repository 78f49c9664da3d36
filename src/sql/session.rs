//! One client's conversation with the database: statements, portals, transactions, settings.
//!
//! Callers: the wire protocol (`sql::wire`) and tests. The engine is shared by all sessions of the process; a session belongs to one
//! client and runs one statement at a time.
//!
//! How the simple protocol runs `"a; b"`: [`Session::split`], then for each [`RawStatement`] [`Session::start`] and
//! [`Session::execute`] until [`Progress::Complete`]; at the end, or after the first error, [`Session::sync`].
//! The extended protocol: [`Session::prepare`] (Parse), [`Session::portal`] (Bind), [`Session::execute`] (Execute), [`Session::sync`]
//! (Sync). After an error in either, nothing but `sync` until the client's Sync or the end of its query.

use std::sync::Arc;
use std::time::Duration;

use super::error::{Notice, SqlError};
use crate::base::Seams;
use crate::base::runtime::BoxFuture;
use crate::table::rows::Rows;

/// What statements ask of the instance, and the layers below `sql` don't know.
pub trait Admin: Send + Sync + 'static {
    /// Writes all dirty pages and moves the checkpoint position (`CHECKPOINT`).
    fn checkpoint(&self) -> BoxFuture<Result<(), String>>;
    /// Frees what no snapshot needs any more (`VACUUM`).
    fn vacuum(&self) -> BoxFuture<Result<(), String>>;
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
    /// Names and values of settings whose default is the instance's, not PostgreSQL's.
    pub settings: Vec<(String, String)>,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        let regroup = || "regroup".to_string();
        EngineOptions { database: regroup(), role: regroup(), connections_max: 500, work_bytes_max: 64 << 20, settings: Vec::new() }
    }
}

struct Shared {
    rows: Rows,
    seams: Seams,
    admin: Arc<dyn Admin>,
    options: EngineOptions,
}

/// The SQL engine of an instance. Clones share everything.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// A client's session.
pub struct Session {
    engine: Engine,
}

/// What to do in which order to end a session's transaction: for ReadyForQuery.
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
    text: String,
    last: bool,
}

/// A statement that was parsed and bound to the tables it names.
#[derive(Clone)]
pub struct Statement {
    params: Vec<u32>,
    columns: Option<Vec<ColumnDesc>>,
}

impl Statement {
    /// OIDs of its parameters' types.
    pub fn params(&self) -> &[u32] {
        &self.params
    }

    /// What its rows look like; `None`: it gives no rows.
    pub fn columns(&self) -> Option<&[ColumnDesc]> {
        self.columns.as_deref()
    }
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

/// A statement with its parameters, under way or not yet begun.
pub struct Portal {
    columns: Option<Vec<ColumnDesc>>,
    formats: Vec<Format>,
}

impl Portal {
    /// What its rows look like; `None`: it gives no rows.
    pub fn columns(&self) -> Option<&[ColumnDesc]> {
        self.columns.as_deref()
    }

    /// The format of each column.
    pub fn formats(&self) -> &[Format] {
        &self.formats
    }
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

/// A `COPY .. FROM STDIN` under way.
pub struct CopyIn {
    columns: usize,
}

impl CopyIn {
    /// How many columns, all in text format.
    pub fn columns(&self) -> usize {
        self.columns
    }
}

/// Stops what a session does; kept by whoever may want to.
#[derive(Clone)]
pub struct Canceller {}

impl Canceller {
    /// Cancels the statement under way (57014); when there is none, nothing happens.
    pub fn cancel(&self) {}

    /// Has the session end: the statement under way fails with 57P01, and the door closes when [`Canceller::terminated`] completes.
    pub fn terminate(&self) {}

    /// Completes when someone has called [`Canceller::terminate`] (`pg_terminate_backend`).
    pub async fn terminated(&self) {
        std::future::pending::<()>().await;
    }
}

impl Engine {
    /// Opens the engine over an instance's rows; reads the catalog.
    ///
    /// # Errors
    /// The catalog can't be read.
    pub async fn open(rows: Rows, seams: Seams, admin: Arc<dyn Admin>, options: EngineOptions) -> Result<Engine, SqlError> {
        Ok(Engine { shared: Arc::new(Shared { rows, seams, admin, options }) })
    }

    /// A new session of `user` in `database`; `options` are the other parameters of the startup message.
    ///
    /// # Errors
    /// 28000, no such role; 3D000, no such database; 22023 and the like, an option that can't be.
    pub fn session(&self, user: &str, database: &str, options: &[(String, String)]) -> Result<Session, SqlError> {
        let _ = (user, database, options, &self.shared.rows, &self.shared.seams, &self.shared.admin, &self.shared.options);
        Ok(Session { engine: self.clone() })
    }

    /// A cancel request: stops the statement under way of the session with that process number and secret; nothing happens when there is none.
    pub fn cancel(&self, pid: i32, secret: i32) {
        let _ = (pid, secret);
    }
}

impl Session {
    /// Its number, for BackendKeyData, `pg_backend_pid()` and cancel requests.
    pub fn pid(&self) -> i32 {
        0
    }

    /// What a cancel request must know.
    pub fn secret(&self) -> i32 {
        0
    }

    /// The engine that it belongs to.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its canceller: stays valid while statements run.
    pub fn canceller(&self) -> Canceller {
        Canceller {}
    }

    /// ParameterStatus messages for the start of the session.
    pub fn parameters(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Settings that have changed since this was last asked and that clients are told of (ParameterStatus): ask before ReadyForQuery.
    pub fn take_parameters(&mut self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Notices since this was last asked: ask after each statement, before its CommandComplete.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        Vec::new()
    }

    /// Prepared statements whose names `DEALLOCATE` said since this was last asked: the names are the caller's business. For
    /// `DEALLOCATE ALL` and `DISCARD ALL` the tag is enough.
    pub fn take_deallocated(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// For ReadyForQuery.
    pub fn status(&self) -> TransactionStatus {
        TransactionStatus::Idle
    }

    /// How long the client may stay silent now before the door ends the session (`idle_in_transaction_session_timeout`, code 25P03, or
    /// `idle_session_timeout`, 57P05, by [`Session::status`]).
    pub fn idle_timeout(&self) -> Option<Duration> {
        None
    }

    /// The statements of a simple query's text. They make one implicit transaction, unless they say otherwise.
    ///
    /// # Errors
    /// 42601: it can't be read.
    pub fn split(&mut self, sql: &str) -> Result<Vec<RawStatement>, SqlError> {
        Ok(vec![RawStatement { text: sql.to_string(), last: true }])
    }

    /// Starts a statement of a simple query: all columns in text.
    ///
    /// # Errors
    /// It can't be bound.
    pub async fn start(&mut self, raw: &RawStatement) -> Result<Portal, SqlError> {
        let _ = raw.last;
        Err(SqlError::unsupported(&raw.text, "wait for it"))
    }

    /// Parses and binds a statement (Parse). `param_types`: OIDs that the client knows, 0 for those to find out; there may be fewer than
    /// parameters. Names of statements are the caller's business.
    ///
    /// # Errors
    /// 42601 and others of class 42: what is wrong with it. In a failed transaction 25P02, unless it ends that.
    pub async fn prepare(&mut self, sql: &str, param_types: &[u32]) -> Result<Statement, SqlError> {
        let _ = param_types;
        Err(SqlError::unsupported(sql, "wait for it"))
    }

    /// Gives a statement its parameters (Bind). `param_formats` and `result_formats` as in the message: none (all text), one for all, or
    /// one each.
    ///
    /// # Errors
    /// 08P01, numbers that don't agree; 22P02, 22P03, a parameter that can't be read; 25P02.
    pub async fn portal(
        &mut self,
        statement: &Statement,
        params: Vec<Option<Vec<u8>>>,
        param_formats: &[Format],
        result_formats: &[Format],
    ) -> Result<Portal, SqlError> {
        let _ = (params, param_formats);
        Ok(Portal { columns: statement.columns.clone(), formats: result_formats.to_vec() })
    }

    /// Goes on with a portal (Execute) until `max_rows` rows were given (0: all of them).
    ///
    /// # Errors
    /// What the statement died of. The session has dealt with its transaction: see [`Session::status`].
    pub async fn execute(&mut self, portal: &mut Portal, max_rows: usize, sink: &mut dyn RowSink) -> Result<Progress, SqlError> {
        let _ = (portal, max_rows, sink);
        Err(SqlError::unsupported("execution", "wait for it"))
    }

    /// Bytes of a `COPY .. FROM STDIN`; they may be cut anywhere.
    ///
    /// # Errors
    /// A row that can't be read or put: the copy is over, the statement has failed. Drop `copy`, drain what the client still sends.
    pub async fn copy_data(&mut self, copy: &mut CopyIn, data: &[u8]) -> Result<(), SqlError> {
        let _ = (copy, data);
        Ok(())
    }

    /// The client has sent everything: the tag of CommandComplete.
    ///
    /// # Errors
    /// As [`Session::copy_data`].
    pub async fn copy_done(&mut self, copy: CopyIn) -> Result<String, SqlError> {
        let _ = copy;
        Ok("COPY 0".into())
    }

    /// The client gives up (CopyFail), or what it sent made no sense: the statement has failed with the error returned (57014).
    pub async fn copy_fail(&mut self, copy: CopyIn, message: &str) -> SqlError {
        let _ = copy;
        SqlError::new("57014", format!("COPY from stdin failed: {message}"))
    }

    /// The client was told of an error that the session knows nothing of (no such portal, text that isn't UTF-8): the transaction block
    /// fails as after any other.
    pub fn fail(&mut self) {}

    /// Ends a round (Sync, or the end of a simple query): commits the implicit transaction, or rolls it back after an error.
    ///
    /// # Errors
    /// The commit failed: tell the client before ReadyForQuery.
    pub async fn sync(&mut self) -> Result<(), SqlError> {
        Ok(())
    }

    /// Ends the session: what is open is rolled back.
    pub async fn close(self) {}
}
