//! Transactions of a session: implicit ones, blocks, savepoints, and what an error does to them.

use super::{NamedSavepoint, Phase, Session};
use crate::sql::error::{Severity, SqlError};
use crate::sql::parse::Modes;
use crate::sql::settings::Settings;
use crate::sql::world::clock;
use crate::table::rows::Transaction;
use crate::txn::Isolation;

fn named(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::ReadCommitted => "read committed",
        Isolation::RepeatableRead => "repeatable read",
    }
}

impl Session {
    /// Whether an error leaves the transaction block as it was before the statement.
    pub(super) fn goes_on(&self) -> bool {
        self.world.client.state.lock().settings.switch("regroup.on_error_rollback")
    }

    /// The transaction, begun if there is none.
    pub(super) fn transaction(&mut self) -> &mut Transaction {
        let world = &mut self.world;
        let (engine, isolation) = (&self.engine, self.isolation);
        let in_block = self.phase == Phase::Block;
        let read_only = &mut self.read_only;
        self.txn.get_or_insert_with(|| {
            let shared = &engine.shared;
            let isolation = if in_block {
                isolation
            } else {
                let state = world.client.state.lock();
                *read_only = state.settings.switch("default_transaction_read_only");
                world.transaction_start = world.statement_start;
                state.settings.default_isolation()
            };
            world.transaction = shared.next_transaction.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            shared.tables.rows().begin(isolation, world.client.interrupt.clone())
        })
    }

    /// Changes settings; they are put back when the transaction rolls back.
    pub(super) fn settings(&mut self) -> parking_lot::MappedMutexGuard<'_, Settings> {
        let state = self.world.client.state.lock();
        if self.settings.is_none() {
            self.settings = Some(state.settings.mark());
        }
        parking_lot::MutexGuard::map(state, |state| &mut state.settings)
    }

    fn ended(&mut self, committed: bool) {
        let mut state = self.world.client.state.lock();
        if let (Some(mark), false) = (self.settings.take(), committed) {
            state.settings.back_to(&mark);
        }
        state.settings.end_transaction();
        state.times.0 = None;
        drop(state);
        self.settings = None;
        self.savepoints.clear();
        self.phase = Phase::Implicit;
        self.doomed = false;
        self.read_only = false;
    }

    /// Commits what is open.
    pub(super) async fn commit(&mut self) -> Result<(), SqlError> {
        let outcome = match self.txn.take() {
            Some(txn) => txn.commit().await.map(drop),
            None => Ok(()),
        };
        self.ended(outcome.is_ok());
        Ok(outcome?)
    }

    /// Rolls back what is open.
    pub(super) async fn rollback(&mut self) -> Result<(), SqlError> {
        let outcome = match self.txn.take() {
            Some(txn) => txn.rollback().await,
            None => Ok(()),
        };
        self.ended(false);
        Ok(outcome?)
    }

    /// A statement failed with `error`, from before which `place` is: what becomes of the transaction.
    pub(super) async fn failed(&mut self, error: SqlError, place: Option<crate::table::rows::Savepoint>) -> SqlError {
        // A wait that was cut off says only that it was: the client's side knows why.
        let error = match error.code {
            "57014" => match self.world.client.check() {
                Err(told) => told,
                Ok(()) if self.world.client.interrupt.take_late() => SqlError::new("55P03", "canceling statement due to lock timeout"),
                Ok(()) => error,
            },
            _ => error,
        };
        if let Some(txn) = &mut self.txn {
            txn.end_statement();
        }
        let outcome = match self.phase {
            Phase::Implicit => {
                let outcome = self.rollback().await;
                self.doomed = true;
                outcome
            }
            Phase::Block if self.goes_on() => match (&mut self.txn, place) {
                (Some(txn), Some(place)) => txn.rollback_to(place).await.map_err(SqlError::from),
                _ => Ok(()),
            },
            Phase::Block => {
                self.phase = Phase::Failed;
                match (self.savepoints.last(), &mut self.txn) {
                    (Some(last), Some(txn)) => txn.rollback_to(last.place).await.map_err(SqlError::from),
                    // Nothing of it can be kept: others needn't wait for its locks until the client says ROLLBACK.
                    _ => match self.txn.take() {
                        Some(txn) => txn.rollback().await.map_err(SqlError::from),
                        None => Ok(()),
                    },
                }
            }
            Phase::Failed => Ok(()),
        };
        if let Err(worse) = outcome {
            tracing::error!(statement = %error, rollback = %worse, "what a failed statement had done could not be undone at once");
            if self.phase == Phase::Block {
                self.phase = Phase::Failed;
            }
        }
        error
    }

    /// 25P02, unless the statement may run in a failed block.
    pub(super) fn may_run(&self, ends_transaction: bool) -> Result<(), SqlError> {
        if self.phase == Phase::Failed && !ends_transaction {
            let message = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(SqlError::new("25P02", message));
        }
        Ok(())
    }

    fn warn(&self, code: &'static str, message: &str) {
        self.notice(Severity::Warning, SqlError::new(code, message));
    }

    pub(super) fn begin_block(&mut self, modes: Modes) -> Result<(), SqlError> {
        if self.phase == Phase::Block {
            self.warn("25001", "there is already a transaction in progress");
            return self.set_modes(modes);
        }
        if self.txn.is_some() {
            // The implicit transaction of what came before in the same query becomes the block.
            self.phase = Phase::Block;
            return self.set_modes(modes);
        }
        self.phase = Phase::Block;
        self.world.transaction_start = self.world.statement_start;
        let state = self.world.client.state.lock();
        self.isolation = state.settings.default_isolation();
        self.read_only = state.settings.switch("default_transaction_read_only");
        drop(state);
        self.world.client.state.lock().times.0 = Some(self.world.transaction_start);
        self.set_modes(modes)
    }

    /// SET TRANSACTION, and what BEGIN says.
    pub(super) fn set_modes(&mut self, modes: Modes) -> Result<(), SqlError> {
        if let Some(isolation) = modes.isolation {
            match &self.txn {
                Some(txn) if txn.isolation() != isolation && !txn.is_fresh() => {
                    return Err(SqlError::new("25001", "SET TRANSACTION ISOLATION LEVEL must be called before any query"));
                }
                _ if self.isolation != isolation && !self.savepoints.is_empty() => {
                    return Err(SqlError::new("25001", "SET TRANSACTION ISOLATION LEVEL must not be called in a subtransaction"));
                }
                _ => {
                    // One that has done nothing yet is begun anew, when the first statement comes.
                    self.txn = self.txn.take().filter(|txn| txn.isolation() == isolation);
                    self.isolation = isolation;
                }
            }
        }
        if let Some(read_only) = modes.read_only {
            if !read_only && self.read_only && self.txn.is_some() {
                return Err(SqlError::new("25001", "transaction read-write mode must be set before any query"));
            }
            self.read_only = read_only;
        }
        if self.phase == Phase::Block {
            let (isolation, read_only) = (self.isolation, self.read_only);
            let mut settings = self.settings();
            settings.set("transaction_isolation", Some(named(isolation)), true)?;
            settings.set("transaction_read_only", Some(if read_only { "on" } else { "off" }), true)?;
        }
        Ok(())
    }

    /// SET TRANSACTION as a statement.
    pub(super) fn set_transaction(&mut self, modes: Modes) -> Result<(), SqlError> {
        if self.phase == Phase::Implicit {
            self.warn("25P01", "SET TRANSACTION can only be used in transaction blocks");
            return Ok(());
        }
        self.set_modes(modes)
    }

    /// COMMIT: the tag.
    pub(super) async fn commit_block(&mut self, chain: bool) -> Result<&'static str, SqlError> {
        let modes = Modes { isolation: Some(self.isolation), read_only: Some(self.read_only) };
        let tag = match self.phase {
            Phase::Failed => {
                self.rollback().await?;
                "ROLLBACK"
            }
            phase => {
                if phase == Phase::Implicit {
                    self.warn("25P01", "there is no transaction in progress");
                }
                self.commit().await?;
                "COMMIT"
            }
        };
        if chain {
            self.begin_block(modes)?;
        }
        Ok(tag)
    }

    /// ROLLBACK.
    pub(super) async fn rollback_block(&mut self, chain: bool) -> Result<(), SqlError> {
        let modes = Modes { isolation: Some(self.isolation), read_only: Some(self.read_only) };
        if self.phase == Phase::Implicit {
            self.warn("25P01", "there is no transaction in progress");
        }
        self.rollback().await?;
        if chain {
            self.begin_block(modes)?;
        }
        Ok(())
    }

    fn in_block(&self, what: &str) -> Result<(), SqlError> {
        match self.phase {
            Phase::Implicit => Err(SqlError::new("25P01", format!("{what} can only be used in transaction blocks"))),
            _ => Ok(()),
        }
    }

    pub(super) fn define_savepoint(&mut self, name: &str) -> Result<(), SqlError> {
        self.in_block("SAVEPOINT")?;
        let place = self.transaction().savepoint();
        let settings = self.settings().mark();
        self.savepoints.push(NamedSavepoint { name: name.to_string(), place, settings });
        Ok(())
    }

    fn find_savepoint(&self, name: &str) -> Result<usize, SqlError> {
        let found = self.savepoints.iter().rposition(|savepoint| savepoint.name == name);
        found.ok_or_else(|| SqlError::new("3B001", format!("savepoint \"{name}\" does not exist")))
    }

    pub(super) fn release(&mut self, name: &str) -> Result<(), SqlError> {
        self.in_block("RELEASE SAVEPOINT")?;
        let at = self.find_savepoint(name)?;
        self.savepoints.truncate(at);
        Ok(())
    }

    pub(super) async fn rollback_to(&mut self, name: &str) -> Result<(), SqlError> {
        self.in_block("ROLLBACK TO SAVEPOINT")?;
        let at = self.find_savepoint(name)?;
        self.savepoints.truncate(at + 1);
        let savepoint = &self.savepoints[at];
        if let Some(txn) = &mut self.txn {
            txn.rollback_to(savepoint.place).await?;
        }
        self.world.client.state.lock().settings.back_to(&savepoint.settings);
        self.phase = Phase::Block;
        Ok(())
    }

    /// Ends a round (Sync, or the end of a simple query): commits the implicit transaction, or rolls it back after an error.
    ///
    /// # Errors
    /// The commit failed: tell the client before ReadyForQuery.
    pub async fn sync(&mut self) -> Result<(), SqlError> {
        let outcome = match (self.phase, self.doomed) {
            (Phase::Implicit, true) => self.rollback().await,
            (Phase::Implicit, false) if self.txn.is_some() || self.settings.is_some() => self.commit().await,
            _ => Ok(()),
        };
        self.doomed = false;
        let mut state = self.world.client.state.lock();
        state.doing = match self.phase {
            Phase::Implicit => "idle",
            Phase::Block => "idle in transaction",
            Phase::Failed => "idle in transaction (aborted)",
        };
        state.times.2 = clock(&self.world.seams);
        outcome
    }

    /// Ends the session: what is open is rolled back.
    pub async fn close(mut self) {
        if let Err(error) = self.rollback().await {
            tracing::error!(%error, pid = self.pid(), "a session's transaction could not be rolled back at its end");
        }
    }
}
