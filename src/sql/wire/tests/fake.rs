//! A session that does what its statements say by their first word: the protocol's rules without a database.
//!
//! `begin`, `commit`, `error` (22012), `rows N [BYTES]`, `give $1`, `note`, `set X`, `forget [STATEMENT]`, `copy`, `copyout`, `wait` (until
//! it is stopped), nothing (an empty statement).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::base::BoxFuture;
use crate::sql::error::{Notice, Severity, SqlError};
use crate::sql::session::{ColumnDesc, Format, RowSink, TransactionStatus};
use crate::sql::wire::port::{Port, Step, Stopper};

/// What tests look at from outside.
#[derive(Default)]
pub(super) struct Witness {
    /// What the session did, in order.
    pub(super) log: Mutex<Vec<String>>,
    /// Rows given so far.
    pub(super) given: Mutex<usize>,
    stop: AtomicBool,
    changed: Notify,
}

impl Stopper for Arc<Witness> {
    fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    fn stopped(&self) -> BoxFuture<()> {
        let witness = self.clone();
        Box::pin(async move { witness.wait().await })
    }
}

impl Witness {
    async fn wait(&self) {
        loop {
            let changed = self.changed.notified();
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            changed.await;
        }
    }

    pub(super) fn said(&self, what: impl Into<String>) {
        self.log.lock().push(what.into());
    }
}

pub(super) struct Fake {
    pub(super) witness: Arc<Witness>,
    pub(super) status: TransactionStatus,
    pub(super) idle: Option<Duration>,
    failed: bool,
    notices: Vec<Notice>,
    parameters: Vec<(&'static str, String)>,
    deallocated: Vec<String>,
}

impl Fake {
    pub(super) fn new(witness: &Arc<Witness>, idle: Option<Duration>) -> Fake {
        let status = TransactionStatus::Idle;
        Fake { witness: witness.clone(), status, idle, failed: false, notices: Vec::new(), parameters: Vec::new(), deallocated: Vec::new() }
    }
}

pub(super) struct FakeStatement {
    text: String,
    columns: Option<Vec<ColumnDesc>>,
}

pub(super) struct FakePortal {
    text: String,
    columns: Option<Vec<ColumnDesc>>,
    formats: Vec<Format>,
    value: Vec<u8>,
    given: usize,
    since: usize,
}

fn columns(text: &str) -> Option<Vec<ColumnDesc>> {
    let column = ColumnDesc { name: "n".into(), type_oid: 25, type_len: -1, typmod: -1, table_oid: 0, column: 0 };
    (text.starts_with("rows") || text.starts_with("give")).then(|| vec![column])
}

fn number(text: &str, word: usize, default: usize) -> usize {
    text.split(' ').nth(word).and_then(|word| word.parse().ok()).unwrap_or(default)
}

impl Port for Fake {
    type Raw = String;
    type Statement = FakeStatement;
    type Portal = FakePortal;
    type Copy = Vec<u8>;
    type Progress = Step<Vec<u8>>;

    fn pid(&self) -> i32 {
        7
    }

    fn secret(&self) -> i32 {
        77
    }

    fn stopper(&self) -> Arc<dyn Stopper> {
        Arc::new(self.witness.clone())
    }

    fn parameters(&self) -> Vec<(String, String)> {
        vec![("server_version".into(), "15.0".into())]
    }

    fn take_parameters(&mut self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.parameters)
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn take_deallocated(&mut self) -> Vec<String> {
        std::mem::take(&mut self.deallocated)
    }

    fn status(&self) -> TransactionStatus {
        self.status
    }

    fn idle_timeout(&self) -> Option<Duration> {
        self.idle
    }

    fn params(statement: &FakeStatement) -> &[u32] {
        if statement.text.contains("$1") { &[25] } else { &[] }
    }

    fn columns(statement: &FakeStatement) -> Option<&[ColumnDesc]> {
        statement.columns.as_deref()
    }

    fn portal_columns(portal: &FakePortal) -> Option<&[ColumnDesc]> {
        portal.columns.as_deref()
    }

    fn portal_formats(portal: &FakePortal) -> &[Format] {
        &portal.formats
    }

    fn split(&mut self, sql: &str) -> Result<Vec<String>, SqlError> {
        Ok(sql.split(';').map(|text| text.trim().to_string()).filter(|text| !text.is_empty()).collect())
    }

    async fn start(&mut self, raw: &String) -> Result<FakePortal, SqlError> {
        Ok(FakePortal { text: raw.clone(), columns: columns(raw), formats: vec![], value: vec![], given: 0, since: 0 })
    }

    async fn prepare(&mut self, sql: &str, _types: &[u32]) -> Result<FakeStatement, SqlError> {
        if sql.starts_with("unreadable") {
            return Err(SqlError::new("42601", "syntax error"));
        }
        Ok(FakeStatement { text: sql.to_string(), columns: columns(sql) })
    }

    fn portal(
        &mut self,
        statement: &FakeStatement,
        params: &[Option<&[u8]>],
        _param_formats: &[Format],
        result_formats: &[Format],
    ) -> Result<FakePortal, SqlError> {
        let value = params.first().copied().flatten().unwrap_or_default().to_vec();
        let (text, columns) = (statement.text.clone(), statement.columns.clone());
        Ok(FakePortal { text, columns, formats: result_formats.to_vec(), value, given: 0, since: 0 })
    }

    async fn refuse(&mut self, error: SqlError) -> SqlError {
        error
    }

    async fn execute(&mut self, portal: &mut FakePortal, max_rows: usize, sink: &mut dyn RowSink) -> Result<Step<Vec<u8>>, SqlError> {
        let text = portal.text.clone();
        self.witness.said(text.clone());
        let tag = match text.split(' ').next().unwrap_or_default() {
            "" => return Ok(Step::Empty),
            "begin" => {
                self.status = TransactionStatus::InTransaction;
                "BEGIN"
            }
            "commit" => {
                self.status = TransactionStatus::Idle;
                "COMMIT"
            }
            "error" => {
                self.fail();
                return Err(SqlError::new("22012", "division by zero").detail("more").hint("less"));
            }
            "rows" => return Ok(self.rows(portal, max_rows, sink)),
            "give" => {
                let mut row = [&1i16.to_be_bytes()[..], &(portal.value.len() as i32).to_be_bytes()].concat();
                row.extend_from_slice(&portal.value);
                sink.row(&row);
                "SELECT 1"
            }
            "note" => {
                self.notices.push(Notice { severity: Severity::Warning, what: SqlError::new("01000", "take note") });
                "NOTE"
            }
            "set" => {
                self.parameters.push(("application_name", text[4..].to_string()));
                "SET"
            }
            "forget" if text == "forget" => "DEALLOCATE ALL",
            "forget" => {
                self.deallocated.push(text[7..].to_string());
                "DEALLOCATE"
            }
            "copy" => return Ok(Step::CopyIn { copy: Vec::new(), columns: 2 }),
            "copyout" => {
                sink.copy_out(1);
                sink.copy_data(b"line\n");
                "COPY 1"
            }
            "wait" => {
                self.witness.wait().await;
                self.witness.said("waited");
                return Err(SqlError::new("57P01", "stopped"));
            }
            other => return Err(SqlError::new("42601", format!("no such word: {other}"))),
        };
        Ok(Step::Complete(tag.to_string()))
    }

    fn step(progress: Step<Vec<u8>>) -> Step<Vec<u8>> {
        progress
    }

    async fn copy_data(&mut self, copy: &mut Vec<u8>, data: &[u8]) -> Result<(), SqlError> {
        copy.extend_from_slice(data);
        if data.windows(3).any(|window| window == b"bad") {
            self.fail();
            return Err(SqlError::new("22P02", "bad line"));
        }
        Ok(())
    }

    async fn copy_done(&mut self, copy: Vec<u8>) -> Result<String, SqlError> {
        Ok(format!("COPY {}", copy.iter().filter(|byte| **byte == b'\n').count()))
    }

    async fn copy_fail(&mut self, _copy: Vec<u8>, message: &str) -> SqlError {
        self.fail();
        SqlError::new("57014", format!("COPY from stdin failed: {message}"))
    }

    fn fail(&mut self) {
        self.failed = true;
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
    }

    async fn sync(&mut self) -> Result<(), SqlError> {
        let how = if std::mem::take(&mut self.failed) { "sync after failure" } else { "sync" };
        self.witness.said(how);
        Ok(())
    }

    async fn close(self) {
        self.witness.said("closed");
    }
}

impl Fake {
    fn rows(&mut self, portal: &mut FakePortal, max_rows: usize, sink: &mut dyn RowSink) -> Step<Vec<u8>> {
        let (rows, bytes) = (number(&portal.text, 1, 1), number(&portal.text, 2, 1));
        let row = [&1i16.to_be_bytes()[..], &(bytes as i32).to_be_bytes(), &vec![b'r'; bytes]].concat();
        let mut given = 0;
        while portal.given < rows {
            if max_rows > 0 && given == max_rows {
                portal.since = 0;
                return Step::Suspended;
            }
            if given > 0 && sink.full() {
                return Step::Suspended;
            }
            sink.row(&row);
            given += 1;
            portal.given += 1;
            portal.since += 1;
            *self.witness.given.lock() += 1;
        }
        Step::Complete(format!("SELECT {}", portal.since))
    }
}
