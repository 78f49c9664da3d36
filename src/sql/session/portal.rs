//! Portals: statements with their parameters, run piece by piece.

use std::sync::Arc;

use super::compile::Compiled;
use super::{ColumnDesc, Format, Phase, Progress, RawStatement, RowSink, Session, Statement};
use crate::sql::error::SqlError;
use crate::sql::exec::{self, Cx, Run, State, change, output};
use crate::sql::parse::Parsed;
use crate::sql::plan::builtins::regclass;
use crate::sql::plan::{Action, Row};
use crate::sql::types::{Datum, SqlType, input, input_binary, utf8};
use crate::sql::world::{Stop, clock};
use crate::txn::Alarm;

/// A statement with its parameters, under way or not yet begun.
pub struct Portal {
    statement: Statement,
    params: Vec<Datum>,
    columns: Option<Arc<[ColumnDesc]>>,
    formats: Vec<Format>,
    stage: Stage,
    /// Rows given so far.
    given: u64,
    /// The last of a simple query: its implicit transaction ends with it.
    last: bool,
    /// It is a query.
    is_query: bool,
}

/// How far a portal is.
pub(super) enum Stage {
    /// Not begun.
    New,
    /// A query under way: rows that wait, and where the others come from.
    Query { compiled: Arc<Compiled>, state: Box<State>, run: Run, waiting: std::vec::IntoIter<Row> },
    /// Rows that are all there, of those types, and the tag that comes after them, with or without how many there were.
    Rows { rows: std::vec::IntoIter<Row>, types: Vec<SqlType>, tag: &'static str, counted: bool },
    /// Rows of COPY TO under way.
    Copy { compiled: Arc<Compiled>, state: Box<State>, run: Run, writer: exec::copy::Writer },
    /// Over.
    Done,
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

    /// Whether the implicit transaction ends with it.
    pub(super) fn is_last(&self) -> bool {
        self.last
    }

    /// The statement's text.
    pub(super) fn sql(&self) -> Arc<str> {
        self.statement.inner.sql.clone()
    }

    fn new(statement: Statement, params: Vec<Datum>, formats: Vec<Format>, last: bool) -> Portal {
        let columns = statement.shared_columns();
        let is_query = matches!(&*statement.inner.parsed, Parsed::Query(_));
        Portal { statement, params, columns, formats, stage: Stage::New, given: 0, last, is_query }
    }
}

/// The format of each of `count` values, as Bind gives them.
fn one_of<'f>(formats: &'f [Format], count: usize, what: &str) -> Result<impl Fn(usize) -> Format + use<'f>, SqlError> {
    let given = formats.len();
    if given > 1 && given != count {
        return Err(SqlError::new("08P01", format!("bind message has {given} {what} formats but query has {count} {what}s")));
    }
    Ok(move |at: usize| match formats {
        [] => Format::Text,
        [all] => *all,
        each => each.get(at).copied().unwrap_or_default(),
    })
}

impl Session {
    /// A statement begins: what others see of this client.
    pub(super) fn starts(&mut self, query: &Arc<str>) {
        let client = &self.world.client;
        client.begin();
        let now = clock(&self.world.seams);
        self.world.statement_start = now;
        let mut state = client.state.lock();
        if self.world.formats != *state.settings.formats() {
            self.world.formats = state.settings.formats().clone();
        }
        state.query = query.clone();
        state.doing = "active";
        state.times.1 = now;
        state.times.2 = now;
    }

    /// Starts a statement of a simple query: all columns in text.
    ///
    /// # Errors
    /// It can't be bound.
    pub async fn start(&mut self, raw: &RawStatement) -> Result<Portal, SqlError> {
        self.starts(&raw.shown);
        let found = self.compile(raw.text.clone(), raw.parsed.clone(), &[]).await;
        let statement = Box::pin(self.settled(found)).await?;
        if !statement.params().is_empty() {
            return Err(self.failed(SqlError::new("42P02", "there is no parameter $1"), None).await);
        }
        let count = statement.columns().map_or(0, <[_]>::len);
        Ok(Portal::new(statement, Vec::new(), vec![Format::Text; count], raw.last))
    }

    /// Gives a statement its parameters (Bind). `param_formats` and `result_formats` as in the message: none (all text), one for all, or
    /// one each. Nothing is waited for; an error has to be told to [`Session::refuse`].
    ///
    /// # Errors
    /// 08P01, numbers that don't agree; 22P02, 22P03, a parameter that can't be read; 25P02.
    pub fn portal(
        &mut self,
        statement: &Statement,
        params: &[Option<&[u8]>],
        param_formats: &[Format],
        result_formats: &[Format],
    ) -> Result<Portal, SqlError> {
        let ends = matches!(&*statement.inner.parsed, Parsed::Utility(utility) if utility.ends_transaction());
        self.may_run(ends)?;
        let types = statement.param_types();
        if params.len() != types.len() {
            let message = format!("bind message supplies {} parameters, but prepared statement requires {}", params.len(), types.len());
            return Err(SqlError::new("08P01", message));
        }
        let format = one_of(param_formats, params.len(), "parameter")?;
        let mut values = Vec::with_capacity(params.len());
        for (at, (bytes, ty)) in params.iter().zip(types).enumerate() {
            values.push(match *bytes {
                None => Datum::Null,
                Some(bytes) => match format(at) {
                    Format::Binary => input_binary(*ty, bytes, &self.world.context())?,
                    Format::Text => match utf8(bytes)? {
                        text if *ty == SqlType::Regclass => regclass(text, &self.world)?,
                        text => input(*ty, text, &self.world.context())?,
                    },
                },
            });
        }
        let count = statement.columns().map_or(0, <[_]>::len);
        let format = one_of(result_formats, count, "result")?;
        Ok(Portal::new(statement.clone(), values, (0..count).map(format).collect(), false))
    }

    /// What [`Session::portal`] refused has failed: the transaction is dealt with.
    pub async fn refuse(&mut self, error: SqlError) -> SqlError {
        self.failed(error, None).await
    }

    /// Goes on with a portal (Execute) until `max_rows` rows were given (0: all of them).
    ///
    /// # Errors
    /// What the statement died of. The session has dealt with its transaction: see [`Session::status`].
    pub async fn execute(&mut self, portal: &mut Portal, max_rows: usize, sink: &mut dyn RowSink) -> Result<Progress, SqlError> {
        self.starts(&portal.statement.inner.shown);
        if self.doomed {
            return Err(SqlError::new("25P02", "current transaction is aborted, commands ignored until end of transaction block"));
        }
        let place = match (&portal.stage, self.phase) {
            (Stage::New, Phase::Block) => Some(self.transaction().savepoint()),
            _ => None,
        };
        let (timeout, locks) = {
            let state = self.world.client.state.lock();
            (state.settings.time("statement_timeout"), state.settings.time("lock_timeout"))
        };
        self.limit_locks(locks);
        let outcome = match timeout {
            None => self.run(portal, max_rows, sink).await,
            Some(timeout) => {
                let client = self.world.client.clone();
                let alarm = self.world.seams.sleep(timeout);
                let mut work = Box::pin(self.run(portal, max_rows, sink));
                tokio::select! {
                    biased;
                    outcome = &mut work => outcome,
                    () = alarm => {
                        client.stop(Stop::Timeout);
                        work.await
                    }
                }
            }
        };
        let outcome = match outcome {
            Ok(Progress::Complete(tag)) if portal.last && self.phase == Phase::Implicit => {
                self.commit().await.map(|()| Progress::Complete(tag))
            }
            outcome => outcome,
        };
        match outcome {
            Ok(progress) => Ok(progress),
            Err(error) => {
                portal.stage = Stage::Done;
                Err(Box::pin(self.failed(error, place)).await)
            }
        }
    }

    /// Waits for locks take no longer than this.
    fn limit_locks(&mut self, limit: Option<std::time::Duration>) {
        if self.lock_timeout == limit {
            return;
        }
        self.lock_timeout = limit;
        let seams = self.world.seams.clone();
        let alarm = limit.map(|limit| Alarm(Arc::new(move || seams.sleep(limit))));
        self.world.client.interrupt.limit(alarm);
    }

    async fn run(&mut self, portal: &mut Portal, max_rows: usize, sink: &mut dyn RowSink) -> Result<Progress, SqlError> {
        self.world.client.check()?;
        if let Stage::New = portal.stage {
            let parsed = portal.statement.inner.parsed.clone();
            let ends = matches!(&*parsed, Parsed::Utility(utility) if utility.ends_transaction());
            self.may_run(ends)?;
            if let Parsed::Query(_) | Parsed::Insert(_) | Parsed::Update(_) | Parsed::Delete(_) = &*parsed {
                if let Some(done) = self.begin_planned(portal, sink).await? {
                    return Ok(done);
                }
            } else {
                return Box::pin(self.run_utility(&parsed, portal, max_rows, sink)).await;
            }
        }
        self.proceed(portal, max_rows, sink).await
    }

    /// EXECUTE becomes the portal of what it names.
    pub(super) async fn run_named(
        &mut self,
        portal: &mut Portal,
        (statement, params): (Statement, Vec<Datum>),
        max_rows: usize,
        sink: &mut dyn RowSink,
    ) -> Result<Progress, SqlError> {
        portal.statement = statement;
        portal.params = params;
        if let Some(done) = self.begin_planned(portal, sink).await? {
            return Ok(done);
        }
        self.proceed(portal, max_rows, sink).await
    }

    /// The first steps of a statement with a plan; a short one is done at once.
    async fn begin_planned(&mut self, portal: &mut Portal, sink: &mut dyn RowSink) -> Result<Option<Progress>, SqlError> {
        let compiled = self.plan(&portal.statement).await?;
        let Some(txn) = &mut self.txn else { return Err(SqlError::new("XX000", "a statement without a transaction")) };
        txn.begin_statement();
        let program = &compiled.bound.program;
        let mut run = Run { params: std::mem::take(&mut portal.params), ..Run::default() };
        let mut cx = Cx { txn, tables: &self.engine.shared.tables, program, run: &mut run, world: &self.world };
        if let Action::Query(plan) = &program.action {
            if let Some(point) = &compiled.point {
                let found = point.run(&compiled.types, &portal.formats, &self.world.formats, &mut self.buffer, &mut cx).await?;
                if found {
                    sink.row(&self.buffer);
                }
                portal.stage = Stage::Done;
                if let Some(txn) = &mut self.txn {
                    txn.end_statement();
                }
                return Ok(Some(Progress::Complete(if found { "SELECT 1" } else { "SELECT 0" }.into())));
            }
            let state = Box::new(State::new(plan));
            portal.stage = Stage::Query { compiled, state, run, waiting: Vec::new().into_iter() };
            return Ok(None);
        }
        let done = Box::pin(change::run(&program.action, &mut cx)).await?;
        if let Some(txn) = &mut self.txn {
            txn.end_statement();
        }
        let tag = match program.action {
            Action::Insert(_) => "INSERT 0 ",
            Action::Update(_) => "UPDATE ",
            _ => "DELETE ",
        };
        if compiled.bound.columns.is_none() {
            portal.stage = Stage::Done;
            return Ok(Some(Progress::Complete(format!("{tag}{}", done.count))));
        }
        portal.stage = Stage::Rows { rows: done.returned.into_iter(), types: compiled.types.clone(), tag, counted: true };
        Ok(None)
    }

    /// Gives rows that a utility statement has made, all text.
    pub(super) async fn give(
        &mut self,
        portal: &mut Portal,
        rows: Vec<Row>,
        tag: &'static str,
        max_rows: usize,
        sink: &mut dyn RowSink,
    ) -> Result<Progress, SqlError> {
        let columns = portal.columns.as_ref().map_or(0, |columns| columns.len());
        portal.stage = Stage::Rows { rows: rows.into_iter(), types: vec![SqlType::TEXT; columns], tag, counted: false };
        self.proceed(portal, max_rows, sink).await
    }

    /// Gives rows until there are `max_rows`, the sink is full, or no more.
    pub(super) async fn proceed(&mut self, portal: &mut Portal, max_rows: usize, sink: &mut dyn RowSink) -> Result<Progress, SqlError> {
        let most = if max_rows == 0 { usize::MAX } else { max_rows };
        let mut given = 0;
        let Portal { stage, formats, .. } = portal;
        let tag = match stage {
            Stage::New => return Err(SqlError::new("XX000", "a portal that was never begun")),
            // A query that has given all gives nothing more; other statements are done once.
            Stage::Done if portal.is_query => return Ok(Progress::Complete("SELECT 0".into())),
            Stage::Done => return Err(SqlError::new("55000", "portal cannot be run anymore")),
            Stage::Rows { rows, types, tag, counted } => {
                for row in rows.by_ref() {
                    output::encode(&row, types, formats, &self.world.formats, &mut self.buffer)?;
                    sink.row(&self.buffer);
                    portal.given += 1;
                    given += 1;
                    if given == most || sink.full() {
                        portal.given *= u64::from(given != most);
                        return Ok(Progress::Suspended);
                    }
                }
                if *counted { format!("{tag}{}", portal.given) } else { (*tag).to_string() }
            }
            Stage::Query { compiled, state, run, waiting } => {
                let program = &compiled.bound.program;
                let Action::Query(plan) = &program.action else { return Err(SqlError::new("XX000", "a query that is none")) };
                let Some(txn) = &mut self.txn else { return Err(SqlError::new("34000", "the portal's transaction is over")) };
                let mut cx = Cx { txn, tables: &self.engine.shared.tables, program, run, world: &self.world };
                loop {
                    if waiting.as_slice().is_empty() {
                        cx.check()?;
                        *waiting = exec::next(plan, state, &mut cx).await?.into_iter();
                    }
                    let Some(row) = waiting.next() else { break };
                    output::encode(&row, &compiled.types, formats, &self.world.formats, &mut self.buffer)?;
                    sink.row(&self.buffer);
                    portal.given += 1;
                    given += 1;
                    if given == most || sink.full() {
                        // The tag counts rows since the client's last limit, as PostgreSQL's does.
                        portal.given *= u64::from(given != most);
                        return Ok(Progress::Suspended);
                    }
                }
                format!("SELECT {}", portal.given)
            }
            Stage::Copy { compiled, state, run, writer } => {
                let program = &compiled.bound.program;
                let Action::Query(plan) = &program.action else { return Err(SqlError::new("XX000", "a query that is none")) };
                let Some(txn) = &mut self.txn else { return Err(SqlError::new("34000", "the portal's transaction is over")) };
                let mut cx = Cx { txn, tables: &self.engine.shared.tables, program, run, world: &self.world };
                if portal.given == 0 && !writer.begun() {
                    sink.copy_out(compiled.types.len());
                    let names: Vec<&str> = compiled.bound.columns.iter().flatten().map(|column| column.name.as_str()).collect();
                    writer.begin(&names, sink);
                }
                loop {
                    cx.check()?;
                    let rows = exec::next(plan, state, &mut cx).await?;
                    if rows.is_empty() {
                        break;
                    }
                    for row in rows {
                        writer.row(&row, &compiled.types, &self.world.formats, sink);
                        portal.given += 1;
                    }
                    if sink.full() {
                        return Ok(Progress::Suspended);
                    }
                }
                format!("COPY {}", portal.given)
            }
        };
        *stage = Stage::Done;
        if let Some(txn) = &mut self.txn {
            txn.end_statement();
        }
        Ok(Progress::Complete(tag))
    }

    /// `COPY .. TO STDOUT` begins.
    pub(super) async fn begin_copy_out(
        &mut self,
        portal: &mut Portal,
        (statement, writer): (Statement, exec::copy::Writer),
        max_rows: usize,
        sink: &mut dyn RowSink,
    ) -> Result<Progress, SqlError> {
        let compiled = self.plan(&statement).await?;
        if let Some(txn) = &mut self.txn {
            txn.begin_statement();
        }
        let Action::Query(plan) = &compiled.bound.program.action else { return Err(SqlError::new("XX000", "a query that is none")) };
        let state = Box::new(State::new(plan));
        portal.stage = Stage::Copy { compiled, state, run: Run::default(), writer };
        self.proceed(portal, max_rows, sink).await
    }

    /// The portal has done all it had to.
    pub(super) fn done(portal: &mut Portal) {
        portal.stage = Stage::Done;
    }
}
