//! COPY: rows from the client, rows to it.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Portal, Progress, RowSink, Session};
use crate::sql::bind;
use crate::sql::describe::quoted;
use crate::sql::error::SqlError;
use crate::sql::exec::copy::{Lines, Style, WholeLines, Writer};
use crate::sql::exec::{self, Cx, Run, State};
use crate::sql::parse::{self, Copy, Parsed};
use crate::sql::plan::Action;
use crate::sql::types::{Datum, SqlType, input};
use crate::table::catalog::Table;
use crate::table::datum::Type;
use crate::table::rows::OnConflict;
use crate::table::tables::{Loader, TablesError};
use crate::txn::TableLock;

/// A `COPY .. FROM STDIN` under way.
pub struct CopyIn(Box<Copying>);

struct Copying {
    table: Arc<Table>,
    /// Positions of the columns that come.
    targets: Vec<usize>,
    style: Style,
    lines: Lines,
    /// Memory for whole lines.
    whole: WholeLines,
    loader: Loader,
    /// Defaults of the columns that don't come.
    defaults: Vec<(usize, bind::Bound)>,
    /// Lines read.
    line: u64,
    batch: Batch,
    last: bool,
}

/// Rows read but not yet put. They are put together, as PostgreSQL does it: a line that makes no sense is told before a duplicate in the lines
/// ahead of it.
#[derive(Default)]
struct Batch {
    /// The first `used` of them wait; the others are kept for their memory.
    rows: Vec<Vec<Datum>>,
    used: usize,
    /// Bytes of their lines.
    bytes: usize,
}

/// Most rows, and about how many bytes of lines, that wait to be put (MAX_BUFFERED_TUPLES, MAX_BUFFERED_BYTES in copyfrom.c).
const BATCH_ROWS: usize = 1000;
const BATCH_BYTES: usize = 65_535;

impl Batch {
    /// The row that the next line fills, of so many columns.
    fn next(&mut self, columns: usize) -> &mut Vec<Datum> {
        if self.used == self.rows.len() {
            self.rows.push(vec![Datum::Null; columns]);
        }
        &mut self.rows[self.used]
    }

    fn is_full(&self) -> bool {
        self.used >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }
}

/// Whether `field` is a number that `integer` holds, of digits alone: what most loads consist of.
fn is_plain(field: &[u8]) -> bool {
    (1..=9).contains(&field.len()) && field.iter().all(u8::is_ascii_digit)
}

/// The number that `field` is.
fn plain(field: &[u8]) -> i32 {
    field.iter().fold(0, |number, digit| number * 10 + i32::from(digit - b'0'))
}

impl CopyIn {
    /// How many columns, all in text format.
    pub fn columns(&self) -> usize {
        self.0.targets.len()
    }
}

impl Session {
    /// Begins COPY.
    pub(super) async fn begin_copy(
        &mut self,
        copy: &Copy,
        portal: &mut Portal,
        max_rows: usize,
        sink: &mut dyn RowSink,
    ) -> Result<Progress, SqlError> {
        let style = Style::of(copy)?;
        if copy.from {
            return self.begin_copy_in(copy, style, portal.is_last()).await.map(Progress::CopyIn);
        }
        let parsed = match (&copy.query, &copy.table) {
            (Some(query), _) => Parsed::Query(query.clone()),
            (None, Some(table)) => {
                let names: Vec<String> = copy.columns.iter().map(|column| quoted(column)).collect();
                let columns = if names.is_empty() { "*".to_string() } else { names.join(", ") };
                parse::single(&format!("select {columns} from {}", quoted(table)))?
            }
            (None, None) => return Err(SqlError::new("42601", "COPY of nothing")),
        };
        let sql = portal.sql();
        let statement = self.compile(sql, Arc::new(parsed), &[]).await?;
        self.begin_copy_out(portal, (statement, Writer::new(style)), max_rows, sink).await
    }

    async fn begin_copy_in(&mut self, copy: &Copy, style: Style, last: bool) -> Result<CopyIn, SqlError> {
        self.refuse_read_only("COPY FROM")?;
        self.refresh_catalog().await?;
        let name = copy.table.as_deref().unwrap_or_default();
        let tables = self.engine.shared.tables.clone();
        let whole = self.savepoints.is_empty() && !self.goes_on();
        let txn = self.transaction();
        let table = tables.open(txn, name, TableLock::RowExclusive, OnConflict::Wait).await?;
        txn.begin_statement();
        let mut targets = Vec::new();
        for column in &copy.columns {
            let at = table
                .column(column)
                .ok_or_else(|| SqlError::new("42703", format!("column \"{column}\" of relation \"{}\" does not exist", table.name)))?;
            if targets.contains(&at) {
                return Err(SqlError::new("42701", format!("column \"{column}\" specified more than once")));
            }
            targets.push(at);
        }
        if targets.is_empty() {
            targets = (0..table.columns.len()).collect();
        }
        let loader = tables.loader(txn, &table, copy.freeze, whole).await?;
        let mut defaults = Vec::new();
        for (at, column) in table.columns.iter().enumerate().filter(|(at, _)| !targets.contains(at)) {
            if let Some(text) = &column.default {
                let parsed = parse::expression(text)?;
                defaults.push((at, bind::bind_constant(text, &parsed, column.ty.into(), &self.world)?));
            }
        }
        let (lines, whole, line) = (Lines::new(style.clone()), WholeLines::default(), 0);
        Ok(CopyIn(Box::new(Copying { table, targets, style, lines, whole, loader, defaults, line, batch: Batch::default(), last })))
    }

    /// Bytes of a `COPY .. FROM STDIN`; they may be cut anywhere.
    ///
    /// # Errors
    /// A row that can't be read or put: the copy is over, the statement has failed. Drop `copy`, drain what the client still sends.
    pub async fn copy_data(&mut self, copy: &mut CopyIn, data: &[u8]) -> Result<(), SqlError> {
        copy.0.lines.push(data);
        let outcome = self.take_lines(&mut copy.0, false).await;
        self.settled(outcome).await
    }

    async fn take_lines(&mut self, copy: &mut Copying, all: bool) -> Result<(), SqlError> {
        let mut whole = std::mem::take(&mut copy.whole);
        copy.lines.whole(all, &mut whole);
        let mut fields = Vec::with_capacity(copy.targets.len());
        for line in whole.iter() {
            copy.line += 1;
            if copy.line == 1 && copy.style.has_header() {
                continue;
            }
            self.world.client.check()?;
            copy.style.fields(line, &mut fields)?;
            self.read_row(copy, &fields)?;
            for (at, default) in &copy.defaults {
                copy.batch.rows[copy.batch.used][*at] = self.value_of(default).await?;
            }
            self.add_to_batch(copy, line.len())?;
            if copy.batch.is_full() {
                self.put_batch(copy).await?;
            }
        }
        copy.whole = whole;
        Ok(())
    }

    /// The row that was just read is one of the batch.
    fn add_to_batch(&mut self, copy: &mut Copying, bytes: usize) -> Result<(), SqlError> {
        let row = &copy.batch.rows[copy.batch.used];
        if let Some((column, _)) = copy.table.columns.iter().zip(row).find(|(column, value)| column.not_null && **value == Datum::Null) {
            let (table, column) = (copy.table.name.clone(), column.name.clone());
            return Err(self.told(TablesError::NotNull { table, column }));
        }
        copy.batch.used += 1;
        copy.batch.bytes += bytes;
        Ok(())
    }

    async fn put_batch(&mut self, copy: &mut Copying) -> Result<(), SqlError> {
        let Some(txn) = &mut self.txn else { return Err(SqlError::new("XX000", "COPY without a transaction")) };
        let mut outcome = Ok(());
        for row in &copy.batch.rows[..copy.batch.used] {
            outcome = match copy.loader.take(row) {
                Ok(true) => Ok(()),
                Ok(false) => copy.loader.push(txn, row).await,
                Err(error) => Err(error),
            };
            if outcome.is_err() {
                break;
            }
        }
        outcome.map_err(|error| self.told(error))?;
        (copy.batch.used, copy.batch.bytes) = (0, 0);
        Ok(())
    }

    /// The values of a line's fields.
    fn read_row(&self, copy: &mut Copying, fields: &[Option<Cow<'_, [u8]>>]) -> Result<(), SqlError> {
        if fields.len() > copy.targets.len() {
            return Err(SqlError::new("22P04", "extra data after last expected column"));
        }
        let row = copy.batch.next(copy.table.columns.len());
        for (field, at) in fields.iter().zip(&copy.targets) {
            let column = &copy.table.columns[*at];
            row[*at] = match field {
                None => Datum::Null,
                Some(bytes) if column.ty == Type::Int4 && is_plain(bytes) => Datum::Int4(plain(bytes)),
                Some(bytes) => match std::str::from_utf8(bytes) {
                    Ok(text) => input(SqlType::from(column.ty), text, &self.world.context())?,
                    Err(_) => return Err(SqlError::new("22021", "invalid byte sequence for encoding \"UTF8\"")),
                },
            };
        }
        if let Some(missing) = copy.targets.get(fields.len()) {
            let column = &copy.table.columns[*missing].name;
            return Err(SqlError::new("22P04", format!("missing data for column \"{column}\"")));
        }
        Ok(())
    }

    /// The value of a constant expression, which may have to wait.
    pub(super) async fn value_of(&mut self, bound: &bind::Bound) -> Result<Datum, SqlError> {
        let program = &bound.program;
        let Action::Query(plan) = &program.action else { return Err(SqlError::new("XX000", "a value that is none")) };
        self.transaction();
        let Some(txn) = &mut self.txn else { return Err(SqlError::new("XX000", "a value without a transaction")) };
        let mut run = Run::default();
        let mut cx = Cx { txn, tables: &self.engine.shared.tables, program, run: &mut run, world: &self.world };
        let rows = exec::next(plan, &mut State::new(plan), &mut cx).await?;
        Ok(rows.into_iter().flatten().next().unwrap_or(Datum::Null))
    }

    /// The client has sent everything: the tag of CommandComplete.
    ///
    /// # Errors
    /// As [`Session::copy_data`].
    pub async fn copy_done(&mut self, mut copy: CopyIn) -> Result<String, SqlError> {
        let outcome = self.take_lines(&mut copy.0, true).await;
        let outcome = match outcome {
            Ok(()) => match self.put_batch(&mut copy.0).await {
                Ok(()) => self.finish_copy(*copy.0).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        self.settled(outcome).await
    }

    async fn finish_copy(&mut self, copy: Copying) -> Result<String, SqlError> {
        let Some(txn) = &mut self.txn else { return Err(SqlError::new("XX000", "COPY without a transaction")) };
        let count = copy.loader.finish(txn).await;
        let count = count.map_err(|error| self.told(error))?;
        if let Some(txn) = &mut self.txn {
            txn.end_statement();
        }
        if copy.last && self.status() == super::TransactionStatus::Idle {
            self.commit().await?;
        }
        Ok(format!("COPY {count}"))
    }

    /// The client gives up (CopyFail), or what it sent made no sense: the statement has failed with the error returned (57014).
    pub async fn copy_fail(&mut self, copy: CopyIn, message: &str) -> SqlError {
        drop(copy);
        self.failed(SqlError::new("57014", format!("COPY from stdin failed: {message}")), None).await
    }
}
