//! What a conversation asks of a session.
//!
//! [`Session`] does it. A trait, so that the protocol's own rules (what is skipped after an error, who waits for whom, what a lost client
//! sets off) are tested against a stand-in that waits and fails when told to.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::base::BoxFuture;
use crate::sql::error::{Notice, SqlError};
use crate::sql::session::{
    Canceller, ColumnDesc, CopyIn, Format, Portal, Progress, RawStatement, RowSink, Session, Statement, TransactionStatus,
};

/// Ends what a session does, from outside of it.
pub(super) trait Stopper: Send + Sync {
    /// The statement under way fails soon, later ones at once, with 57P01.
    fn stop(&self);
    /// Completes when [`Stopper::stop`] has been called, by whomever.
    fn stopped(&self) -> BoxFuture<()>;
}

/// How far an execution got; see [`Progress`].
pub(super) enum Step<C> {
    Suspended,
    Complete(String),
    Empty,
    CopyIn { copy: C, columns: usize },
}

/// A session as the protocol sees it. For what the methods do see those of [`Session`] by the same names; they hand its futures on as they
/// are, without a layer of their own that would have to hold them.
pub(super) trait Port: Send + 'static {
    type Raw: Send + Sync;
    type Statement: Send + Sync;
    type Portal: Send + Sync;
    type Copy: Send;
    type Progress: Send;

    fn pid(&self) -> i32;
    fn secret(&self) -> i32;
    fn stopper(&self) -> Arc<dyn Stopper>;
    fn parameters(&self) -> Vec<(String, String)>;
    fn take_parameters(&mut self) -> Vec<(&'static str, String)>;
    fn take_notices(&mut self) -> Vec<Notice>;
    fn take_deallocated(&mut self) -> Vec<String>;
    fn status(&self) -> TransactionStatus;
    fn idle_timeout(&self) -> Option<Duration>;

    fn params(statement: &Self::Statement) -> &[u32];
    fn columns(statement: &Self::Statement) -> Option<&[ColumnDesc]>;
    fn portal_columns(portal: &Self::Portal) -> Option<&[ColumnDesc]>;
    fn portal_formats(portal: &Self::Portal) -> &[Format];

    fn split(&mut self, sql: &str) -> Result<Vec<Self::Raw>, SqlError>;
    fn start(&mut self, raw: &Self::Raw) -> impl Future<Output = Result<Self::Portal, SqlError>> + Send;
    fn prepare(&mut self, sql: &str, types: &[u32]) -> impl Future<Output = Result<Self::Statement, SqlError>> + Send;
    fn portal(
        &mut self,
        statement: &Self::Statement,
        params: &[Option<&[u8]>],
        param_formats: &[Format],
        result_formats: &[Format],
    ) -> Result<Self::Portal, SqlError>;
    fn refuse(&mut self, error: SqlError) -> impl Future<Output = SqlError> + Send;
    fn execute(
        &mut self,
        portal: &mut Self::Portal,
        max_rows: usize,
        sink: &mut dyn RowSink,
    ) -> impl Future<Output = Result<Self::Progress, SqlError>> + Send;
    fn step(progress: Self::Progress) -> Step<Self::Copy>;
    fn copy_data(&mut self, copy: &mut Self::Copy, data: &[u8]) -> impl Future<Output = Result<(), SqlError>> + Send;
    fn copy_done(&mut self, copy: Self::Copy) -> impl Future<Output = Result<String, SqlError>> + Send;
    fn copy_fail(&mut self, copy: Self::Copy, message: &str) -> impl Future<Output = SqlError> + Send;
    fn fail(&mut self);
    fn sync(&mut self) -> impl Future<Output = Result<(), SqlError>> + Send;
    fn close(self) -> impl Future<Output = ()> + Send;
}

impl Stopper for Canceller {
    fn stop(&self) {
        self.terminate();
    }

    fn stopped(&self) -> BoxFuture<()> {
        let canceller = self.clone();
        Box::pin(async move { canceller.terminated().await })
    }
}

impl Port for Session {
    type Raw = RawStatement;
    type Statement = Statement;
    type Portal = Portal;
    type Copy = CopyIn;
    type Progress = Progress;

    fn pid(&self) -> i32 {
        Session::pid(self)
    }

    fn secret(&self) -> i32 {
        Session::secret(self)
    }

    fn stopper(&self) -> Arc<dyn Stopper> {
        Arc::new(self.canceller())
    }

    fn parameters(&self) -> Vec<(String, String)> {
        Session::parameters(self)
    }

    fn take_parameters(&mut self) -> Vec<(&'static str, String)> {
        Session::take_parameters(self)
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        Session::take_notices(self)
    }

    fn take_deallocated(&mut self) -> Vec<String> {
        Session::take_deallocated(self)
    }

    fn status(&self) -> TransactionStatus {
        Session::status(self)
    }

    fn idle_timeout(&self) -> Option<Duration> {
        Session::idle_timeout(self)
    }

    fn params(statement: &Statement) -> &[u32] {
        statement.params()
    }

    fn columns(statement: &Statement) -> Option<&[ColumnDesc]> {
        statement.columns()
    }

    fn portal_columns(portal: &Portal) -> Option<&[ColumnDesc]> {
        portal.columns()
    }

    fn portal_formats(portal: &Portal) -> &[Format] {
        portal.formats()
    }

    fn split(&mut self, sql: &str) -> Result<Vec<RawStatement>, SqlError> {
        Session::split(self, sql)
    }

    fn start(&mut self, raw: &RawStatement) -> impl Future<Output = Result<Portal, SqlError>> + Send {
        Session::start(self, raw)
    }

    fn prepare(&mut self, sql: &str, types: &[u32]) -> impl Future<Output = Result<Statement, SqlError>> + Send {
        Session::prepare(self, sql, types)
    }

    fn portal(
        &mut self,
        statement: &Statement,
        params: &[Option<&[u8]>],
        param_formats: &[Format],
        result_formats: &[Format],
    ) -> Result<Portal, SqlError> {
        Session::portal(self, statement, params, param_formats, result_formats)
    }

    fn refuse(&mut self, error: SqlError) -> impl Future<Output = SqlError> + Send {
        Session::refuse(self, error)
    }

    fn execute(
        &mut self,
        portal: &mut Portal,
        max_rows: usize,
        sink: &mut dyn RowSink,
    ) -> impl Future<Output = Result<Progress, SqlError>> + Send {
        Session::execute(self, portal, max_rows, sink)
    }

    fn step(progress: Progress) -> Step<CopyIn> {
        match progress {
            Progress::Suspended => Step::Suspended,
            Progress::Complete(tag) => Step::Complete(tag),
            Progress::Empty => Step::Empty,
            Progress::CopyIn(copy) => {
                let columns = copy.columns();
                Step::CopyIn { copy, columns }
            }
        }
    }

    fn copy_data(&mut self, copy: &mut CopyIn, data: &[u8]) -> impl Future<Output = Result<(), SqlError>> + Send {
        Session::copy_data(self, copy, data)
    }

    fn copy_done(&mut self, copy: CopyIn) -> impl Future<Output = Result<String, SqlError>> + Send {
        Session::copy_done(self, copy)
    }

    fn copy_fail(&mut self, copy: CopyIn, message: &str) -> impl Future<Output = SqlError> + Send {
        Session::copy_fail(self, copy, message)
    }

    fn fail(&mut self) {
        Session::fail(self);
    }

    fn sync(&mut self) -> impl Future<Output = Result<(), SqlError>> + Send {
        Session::sync(self)
    }

    fn close(self) -> impl Future<Output = ()> + Send {
        Session::close(self)
    }
}
