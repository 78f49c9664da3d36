//! One session's conversation with its client, from the greeting to the end.
//!
//! Rules that hold throughout:
//! - ReadyForQuery comes once for each Query and each Sync, and says the session's true transaction status.
//! - After an error in the extended protocol everything up to the next Sync is skipped.
//! - Output is sent at ReadyForQuery, Flush, an error, and whenever a bound is reached; never in between.
//! - Statements without a name live until the next one or a Query; portals until the end of their transaction.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::io::{AsyncRead, AsyncWrite};

use super::backend::Gravity;
use super::frontend::{Bind, Malformed, Message, Target, decode};
use super::port::{Port, Step, Stopper};
use super::stream::{End, Guard, Patience, Stream, Timeout, watch};
use crate::base::Seams;
use crate::sql::error::SqlError;
use crate::sql::session::TransactionStatus;

/// How long a client may take to hear why its session ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Capacity that the buffer of a message's body keeps.
const KEEP: usize = 32 << 10;

/// What stops a message's work.
pub(super) enum Trouble {
    /// The statement has failed, and the session has dealt with that; it goes on.
    Error(SqlError),
    /// The message can't be followed, which the session has to be told.
    Refusal(SqlError),
    /// The session is over.
    End(End),
}

impl From<SqlError> for Trouble {
    fn from(error: SqlError) -> Trouble {
        Trouble::Error(error)
    }
}

impl From<End> for Trouble {
    fn from(end: End) -> Trouble {
        Trouble::End(end)
    }
}

impl From<Malformed> for Trouble {
    fn from(malformed: Malformed) -> Trouble {
        let message = malformed.to_string();
        match malformed {
            Malformed::Encoding(_) => Trouble::Refusal(SqlError::new("22021", message)),
            Malformed::Format(_) => Trouble::Refusal(SqlError::new("22023", message)),
            other => Trouble::End(End::Malformed(other)),
        }
    }
}

/// How a portal's execution ended.
enum Done<C> {
    Suspended,
    Complete(String),
    Empty,
    CopyIn { copy: C, columns: usize },
}

/// A session and its client.
pub(super) struct Conversation<S, P: Port> {
    pub(super) seams: Seams,
    pub(super) stream: Stream<S>,
    pub(super) guard: Guard,
    pub(super) stopper: Arc<dyn Stopper>,
    pub(super) session: P,
    statements: FxHashMap<Box<str>, P::Statement>,
    portals: FxHashMap<Box<str>, P::Portal>,
    /// An error in the extended protocol: up to the next Sync nothing counts.
    skipping: bool,
    /// Messages of the extended protocol have come since the last ReadyForQuery.
    in_round: bool,
    /// The body of the message at work; kept for its room.
    pub(super) body: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send, P: Port> Conversation<S, P> {
    pub(super) fn new(seams: Seams, stream: Stream<S>, mut guard: Guard, session: P) -> Conversation<S, P> {
        let stopper = session.stopper();
        guard.stopped_by(stopper.stopped());
        let (statements, portals) = (FxHashMap::default(), FxHashMap::default());
        Conversation { seams, stream, guard, stopper, session, statements, portals, skipping: false, in_round: false, body: Vec::new() }
    }

    /// Talks until the end, which it logs as coming from `peer`, and closes the session.
    pub(super) async fn run(mut self, peer: IpAddr) {
        let Err(end) = self.talk().await else { return };
        let status = self.session.status();
        let pid = self.session.pid();
        // First the locks fall, then the client is told: who hears that the session is over may count on it.
        self.portals.clear();
        self.statements.clear();
        let Conversation { seams, mut stream, guard, session, .. } = self;
        session.close().await;
        match &end {
            End::Quit => tracing::debug!(pid, %peer, "the client has closed its session"),
            End::Gone if status == TransactionStatus::Idle => tracing::debug!(pid, %peer, "the client is gone"),
            End::Gone => tracing::info!(pid, %peer, "the client went away in the middle of a transaction, which is rolled back"),
            other => {
                let why = last_words(other);
                tracing::info!(pid, %peer, code = why.code, why = why.message, "session ended");
                stream.out.error(Gravity::Fatal, &why);
                stream.flush_last(&seams, LAST_WORDS, &guard.gate).await;
            }
        }
    }

    /// Never returns without an [`End`].
    async fn talk(&mut self) -> Result<(), End> {
        self.stream.out.authentication_ok();
        for (name, value) in self.session.parameters() {
            self.stream.out.parameter(&name, &value);
        }
        self.stream.out.key(self.session.pid(), self.session.secret());
        self.ready().await?;
        loop {
            let frame = match self.stream.frame_there()? {
                Some(frame) => frame,
                None => {
                    let patience = self.patience();
                    self.stream.frame(&mut self.guard, patience).await?
                }
            };
            let mut body = std::mem::take(&mut self.body);
            body.clear();
            self.stream.line.input.take(frame, &mut body);
            let outcome = self.message(frame.kind, &body).await;
            body.shrink_to(KEEP);
            self.body = body;
            outcome?;
        }
    }

    /// With the client that is to send the next message. In the middle of a message or a round it owes the rest.
    fn patience(&self) -> Patience {
        if self.in_round || !self.stream.line.input.unread().is_empty() {
            return self.guard.stall();
        }
        let timeout = match self.session.status() {
            TransactionStatus::Idle => Timeout::IdleSession,
            TransactionStatus::InTransaction | TransactionStatus::Failed => Timeout::IdleInTransaction,
        };
        Patience::quiet(self.session.idle_timeout(), timeout)
    }

    async fn message(&mut self, kind: u8, body: &[u8]) -> Result<(), End> {
        use pgwire::messages::{extendedquery, simplequery, terminate};
        if self.skipping && !matches!(kind, extendedquery::MESSAGE_TYPE_BYTE_SYNC | terminate::MESSAGE_TYPE_BYTE_TERMINATE) {
            return Ok(());
        }
        self.in_round |= matches!(
            kind,
            extendedquery::MESSAGE_TYPE_BYTE_PARSE
                | extendedquery::MESSAGE_TYPE_BYTE_BIND
                | extendedquery::MESSAGE_TYPE_BYTE_DESCRIBE
                | extendedquery::MESSAGE_TYPE_BYTE_EXECUTE
                | extendedquery::MESSAGE_TYPE_BYTE_CLOSE
        );
        if kind != terminate::MESSAGE_TYPE_BYTE_TERMINATE {
            self.guard.parked().await?;
        }
        let outcome = match decode(kind, body) {
            Ok(message) => self.act(message).await,
            Err(malformed) => Err(malformed.into()),
        };
        let error = match outcome {
            Ok(()) => return Ok(()),
            Err(Trouble::End(end)) => return Err(end),
            Err(Trouble::Error(error)) => error,
            Err(Trouble::Refusal(error)) => {
                self.session.fail();
                error
            }
        };
        self.error(&error)?;
        if kind == simplequery::MESSAGE_TYPE_BYTE_QUERY {
            return self.round().await;
        }
        self.skipping = true;
        self.stream.flush(&mut self.guard).await
    }

    async fn act(&mut self, message: Message<'_>) -> Result<(), Trouble> {
        match message {
            Message::Query { sql } => self.query(sql).await?,
            Message::Parse { name, sql, types } => self.parse(name, sql, &types).await?,
            Message::Bind(bind) => self.bind(&bind).await?,
            Message::Describe { target, name } => self.describe(target, name)?,
            Message::Execute { portal, max_rows } => self.execute(portal, usize::try_from(max_rows).unwrap_or(0)).await?,
            Message::Close { target, name } => {
                match target {
                    Target::Statement => drop(self.statements.remove(name)),
                    Target::Portal => drop(self.portals.remove(name)),
                }
                self.stream.out.close_complete();
            }
            Message::Flush => self.stream.flush(&mut self.guard).await?,
            Message::Sync => {
                self.skipping = false;
                self.round().await?;
            }
            // Left over from a COPY that has failed.
            Message::CopyData(_) | Message::CopyDone | Message::CopyFail { .. } => {}
            Message::FunctionCall => {
                self.session.fail();
                self.error(&SqlError::unsupported("a function call message", "call the function in a SELECT"))?;
                self.round().await?;
            }
            Message::Password => return Err(Malformed::Type(b'p').into()),
            Message::Terminate => return Err(End::Quit.into()),
        }
        Ok(())
    }

    /// A simple query: its statements one after the other, up to the first error.
    async fn query(&mut self, sql: &str) -> Result<(), Trouble> {
        self.statements.remove("");
        self.portals.remove("");
        let statements = self.session.split(sql)?;
        if statements.is_empty() {
            self.stream.out.empty_query();
        }
        for statement in &statements {
            let mut portal = watch(&mut self.stream.line, &*self.stopper, Box::pin(self.session.start(statement))).await?;
            if let Some(columns) = P::portal_columns(&portal) {
                self.stream.out.columns(Some(columns), P::portal_formats(&portal));
            }
            let before = self.session.status();
            let done = drive(&mut self.stream, &mut self.guard, &*self.stopper, &mut self.session, &mut portal, 0).await?;
            self.done(done).await?;
            self.forget_portals(before);
        }
        Ok(self.round().await?)
    }

    async fn parse(&mut self, name: &str, sql: &str, types: &[u32]) -> Result<(), Trouble> {
        if !name.is_empty() && self.statements.contains_key(name) {
            return Err(refused("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        self.statements.remove(name);
        let statement = watch(&mut self.stream.line, &*self.stopper, Box::pin(self.session.prepare(sql, types))).await?;
        self.statements.insert(name.into(), statement);
        self.stream.out.parse_complete();
        Ok(())
    }

    async fn bind(&mut self, bind: &Bind<'_>) -> Result<(), Trouble> {
        let statement = self.statements.get(bind.statement).ok_or_else(|| no_statement(bind.statement))?;
        if bind.portal.is_empty() {
            self.portals.remove("");
        } else if self.portals.contains_key(bind.portal) {
            return Err(refused("42P03", format!("cursor \"{}\" already exists", bind.portal)));
        }
        let portal = match self.session.portal(statement, &bind.params, &bind.param_formats, &bind.result_formats) {
            Ok(portal) => portal,
            Err(error) => return Err(watch(&mut self.stream.line, &*self.stopper, Box::pin(self.session.refuse(error))).await.into()),
        };
        self.portals.insert(bind.portal.into(), portal);
        self.stream.out.bind_complete();
        Ok(())
    }

    fn describe(&mut self, target: Target, name: &str) -> Result<(), Trouble> {
        match target {
            Target::Statement => {
                let statement = self.statements.get(name).ok_or_else(|| no_statement(name))?;
                self.stream.out.parameter_types(P::params(statement));
                self.stream.out.columns(P::columns(statement), &[]);
            }
            Target::Portal => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                self.stream.out.columns(P::portal_columns(portal), P::portal_formats(portal));
            }
        }
        Ok(())
    }

    async fn execute(&mut self, name: &str, max_rows: usize) -> Result<(), Trouble> {
        let before = self.session.status();
        let portal = self.portals.get_mut(name).ok_or_else(|| no_portal(name))?;
        let done = match drive(&mut self.stream, &mut self.guard, &*self.stopper, &mut self.session, portal, max_rows).await {
            Ok(done) => done,
            Err(trouble) => {
                self.portals.remove(name);
                return Err(trouble);
            }
        };
        self.done(done).await?;
        self.forget_portals(before);
        Ok(())
    }

    /// Says how an execution ended, after what the session had to remark.
    async fn done(&mut self, done: Done<P::Copy>) -> Result<(), Trouble> {
        let done = match done {
            Done::CopyIn { copy, columns } => Done::Complete(Box::pin(self.copy_in(copy, columns)).await?),
            other => other,
        };
        self.notices();
        match done {
            Done::Complete(tag) => {
                self.forget_statements(&tag);
                self.stream.out.complete(&tag);
            }
            Done::Suspended => self.stream.out.portal_suspended(),
            Done::Empty | Done::CopyIn { .. } => self.stream.out.empty_query(),
        }
        Ok(())
    }

    /// `DEALLOCATE` and `DISCARD ALL` are statements, but the names are kept here.
    fn forget_statements(&mut self, tag: &str) {
        match tag {
            "DEALLOCATE ALL" | "DISCARD ALL" => self.statements.clear(),
            "DEALLOCATE" => {
                for name in self.session.take_deallocated() {
                    self.statements.remove(&*name);
                }
            }
            _ => {}
        }
    }

    fn notices(&mut self) {
        for notice in self.session.take_notices() {
            self.stream.out.notice(&notice);
        }
    }

    /// Portals don't outlive the transaction block that they were made in.
    fn forget_portals(&mut self, before: TransactionStatus) {
        if before != TransactionStatus::Idle && self.session.status() == TransactionStatus::Idle {
            self.portals.clear();
        }
    }

    fn error(&mut self, error: &SqlError) -> Result<(), End> {
        if self.stream.line.gone {
            return Err(End::Gone);
        }
        if error.code == STOPPED {
            return Err(End::Stopped);
        }
        self.notices();
        self.stream.out.error(Gravity::Error, error);
        Ok(())
    }

    /// Ends a round: its implicit transaction, then ReadyForQuery.
    async fn round(&mut self) -> Result<(), End> {
        let ended = watch(&mut self.stream.line, &*self.stopper, Box::pin(self.session.sync())).await;
        if let Err(error) = ended {
            self.error(&error)?;
        }
        if self.session.status() == TransactionStatus::Idle {
            self.portals.clear();
        }
        self.ready().await
    }

    async fn ready(&mut self) -> Result<(), End> {
        self.notices();
        for (name, value) in self.session.take_parameters() {
            self.stream.out.parameter(name, &value);
        }
        self.in_round = false;
        self.stream.out.ready(self.session.status());
        self.stream.flush(&mut self.guard).await
    }
}

/// Runs a portal until it is done or has given `max_rows` (0: all) rows; when much output waits, the statement waits for the client.
async fn drive<S: AsyncRead + AsyncWrite + Unpin, P: Port>(
    stream: &mut Stream<S>,
    guard: &mut Guard,
    stopper: &dyn Stopper,
    session: &mut P,
    portal: &mut P::Portal,
    max_rows: usize,
) -> Result<Done<P::Copy>, Trouble> {
    let mut left = max_rows;
    stream.out.take_rows();
    loop {
        let step = watch(&mut stream.line, stopper, Box::pin(session.execute(portal, left, &mut stream.out))).await;
        if stream.line.gone {
            return Err(End::Gone.into());
        }
        match P::step(step?) {
            Step::Complete(tag) => return Ok(Done::Complete(tag)),
            Step::Empty => return Ok(Done::Empty),
            Step::CopyIn { copy, columns } => return Ok(Done::CopyIn { copy, columns }),
            Step::Suspended => {}
        }
        let given = stream.out.take_rows();
        if max_rows > 0 {
            left = left.saturating_sub(given);
            if left == 0 {
                return Ok(Done::Suspended);
            }
        }
        if stream.out.is_full() {
            stream.flush(guard).await?;
        }
    }
}

/// SQLSTATE of a session that is told to end.
const STOPPED: &str = "57P01";

fn refused(code: &'static str, message: String) -> Trouble {
    Trouble::Refusal(SqlError::new(code, message))
}

fn no_statement(name: &str) -> Trouble {
    let message = match name {
        "" => "unnamed prepared statement does not exist".to_string(),
        name => format!("prepared statement \"{name}\" does not exist"),
    };
    refused("26000", message)
}

fn no_portal(name: &str) -> Trouble {
    refused("34000", format!("portal \"{name}\" does not exist"))
}

/// What a client is told when its connection ends and it didn't ask for that.
pub(super) fn last_words(end: &End) -> SqlError {
    match end {
        End::Stopped => SqlError::new(STOPPED, "terminating connection due to administrator command"),
        End::Timeout(Timeout::IdleInTransaction) => SqlError::new("25P03", "terminating connection due to idle-in-transaction timeout"),
        End::Timeout(Timeout::IdleSession) => SqlError::new("57P05", "terminating connection due to idle-session timeout"),
        End::Timeout(Timeout::Authentication) => SqlError::new("08P01", "canceling authentication due to timeout"),
        End::Timeout(Timeout::Stalled) => SqlError::new("08006", "terminating connection: the client neither takes nor sends what is due"),
        End::Malformed(malformed) => SqlError::new("08P01", malformed.to_string()),
        End::Gone | End::Quit => SqlError::new("08006", "the client is gone"),
    }
}
