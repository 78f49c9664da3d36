//! Statements without plans: transactions, settings, maintenance, prepared statements.

use std::sync::Arc;

use super::{Portal, Prepared, Progress, RowSink, Session, Statement};
use crate::sql::bind::{self, data_type};
use crate::sql::error::{Severity, SqlError};
use crate::sql::exec;
use crate::sql::exec::{Cx, Run, State, change};
use crate::sql::parse::{Parsed, SetTo, Utility};
use crate::sql::plan::{Action, explain};
use crate::sql::settings;
use crate::sql::types::{Datum, SqlType};
use crate::table::TableError;
use crate::table::catalog::Table;
use crate::table::rows::{OnConflict, RowError};

fn text(value: impl Into<String>) -> Datum {
    Datum::Text(value.into())
}

impl Session {
    /// Runs a statement without a plan.
    pub(super) async fn run_utility(
        &mut self,
        parsed: &Parsed,
        portal: &mut Portal,
        max_rows: usize,
        sink: &mut dyn RowSink,
    ) -> Result<Progress, SqlError> {
        let Parsed::Utility(utility) = parsed else {
            Session::done(portal);
            return self.run_definition(parsed, portal).await.map(|tag| Progress::Complete(tag.to_string()));
        };
        match utility {
            Utility::Empty => return Ok(Progress::Empty),
            Utility::Show(name) => {
                let value = self.world.client.state.lock().settings.get(name).ok_or_else(|| settings::missing(name))?;
                return self.give(portal, vec![vec![text(value)]], "SHOW", max_rows, sink).await;
            }
            Utility::ShowAll => {
                let all = self.world.client.state.lock().settings.all();
                let rows = all.into_iter().map(|(name, value, about)| vec![text(name), text(value), text(about)]).collect();
                return self.give(portal, rows, "SHOW", max_rows, sink).await;
            }
            Utility::Explain { analyze, statement } => {
                let rows = self.explain(*analyze, statement, &portal.sql()).await?;
                return self.give(portal, rows, "EXPLAIN", max_rows, sink).await;
            }
            Utility::Copy(copy) => return self.begin_copy(copy, portal, max_rows, sink).await,
            Utility::Execute { name, arguments } => {
                let statement = self.named(name)?.clone();
                let types = statement.param_types().to_vec();
                if types.len() != arguments.len() {
                    return Err(SqlError::new("42601", format!("wrong number of parameters for prepared statement \"{name}\""))
                        .detail(format!("Expected {} parameters but got {}.", types.len(), arguments.len())));
                }
                let mut params = Vec::with_capacity(types.len());
                let sql = portal.sql();
                self.refresh_catalog().await?;
                self.transaction().begin_statement();
                for (argument, ty) in arguments.iter().zip(types) {
                    let bound = bind::bind_constant(&sql, argument, ty, &self.world)?;
                    params.push(self.value_of(&bound).await?);
                }
                return self.run_named(portal, (statement, params), max_rows, sink).await;
            }
            _ => {}
        }
        Session::done(portal);
        self.run_command(utility, portal).await.map(|tag| Progress::Complete(tag.to_string()))
    }

    /// Runs a statement that gives no rows: its tag.
    async fn run_command(&mut self, utility: &Utility, portal: &Portal) -> Result<&'static str, SqlError> {
        match utility {
            Utility::Begin { modes, start } => self.begin_block(*modes).map(|()| if *start { "START TRANSACTION" } else { "BEGIN" }),
            Utility::Commit { chain } => self.commit_block(*chain).await,
            Utility::Rollback { chain } => self.rollback_block(*chain).await.map(|()| "ROLLBACK"),
            Utility::Savepoint(name) => self.define_savepoint(name).map(|()| "SAVEPOINT"),
            Utility::Release(name) => self.release(name).map(|()| "RELEASE"),
            Utility::RollbackTo(name) => self.rollback_to(name).await.map(|()| "ROLLBACK"),
            Utility::SetTransaction(modes) => self.set_transaction(*modes).map(|()| "SET"),
            Utility::SetCharacteristics(modes) => {
                let mut settings = self.settings();
                if let Some(isolation) = modes.isolation {
                    let name = match isolation {
                        crate::txn::Isolation::ReadCommitted => "read committed",
                        crate::txn::Isolation::RepeatableRead => "repeatable read",
                    };
                    settings.set("default_transaction_isolation", Some(name), false)?;
                }
                if let Some(read_only) = modes.read_only {
                    settings.set("default_transaction_read_only", Some(if read_only { "on" } else { "off" }), false)?;
                }
                Ok("SET")
            }
            Utility::Set { local, name, to } => self.set(*local, name, to).map(|()| "SET"),
            Utility::Reset(name) => self.settings().set(name, None, false).map(|()| "RESET"),
            Utility::ResetAll => {
                self.settings().reset_all();
                Ok("RESET")
            }
            Utility::Checkpoint => {
                let admin = self.engine.shared.admin.clone();
                admin.checkpoint().await.map_err(|why| SqlError::new("58030", format!("checkpoint request failed: {why}")))?;
                Ok("CHECKPOINT")
            }
            Utility::Vacuum { tables } => {
                if self.status() != super::TransactionStatus::Idle {
                    return Err(SqlError::new("25001", "VACUUM cannot run inside a transaction block"));
                }
                self.must_exist(tables).await?;
                self.vacuum(tables).await?;
                Ok("VACUUM")
            }
            Utility::Analyze { tables } => {
                // The planner goes by keys and indexes alone: there are no statistics to gather.
                self.must_exist(tables).await?;
                Ok("ANALYZE")
            }
            Utility::DiscardAll => {
                if self.status() != super::TransactionStatus::Idle {
                    return Err(SqlError::new("25001", "DISCARD ALL cannot run inside a transaction block"));
                }
                self.settings().reset_all();
                self.prepared.clear();
                let mut state = self.world.client.state.lock();
                state.sequences.clear();
                state.last_sequence = None;
                Ok("DISCARD ALL")
            }
            Utility::DiscardNothing(tag) => Ok(tag),
            Utility::Deallocate(name) => self.deallocate(name.as_deref()),
            Utility::Prepare { name, types, statement } => self.prepare_named(name, types, statement, portal).await.map(|()| "PREPARE"),
            Utility::Lock { tables, mode, nowait } => self.lock_tables(tables, *mode, *nowait).await.map(|()| "LOCK TABLE"),
            Utility::Unlisten => Ok("UNLISTEN"),
            other => self.run_definition_utility(other).await,
        }
    }

    fn set(&mut self, local: bool, name: &str, to: &SetTo) -> Result<(), SqlError> {
        if local && self.status() == super::TransactionStatus::Idle {
            self.notice(Severity::Warning, SqlError::new("25P01", "SET LOCAL can only be used in transaction blocks"));
        }
        let value = match to {
            SetTo::Value(value) => Some(value.as_str()),
            SetTo::Default => None,
        };
        if name.eq_ignore_ascii_case("transaction_isolation") || name.eq_ignore_ascii_case("transaction_read_only") {
            let modes = match (name.to_lowercase().as_str(), value.map(str::to_lowercase).as_deref()) {
                ("transaction_isolation", Some("read committed" | "read uncommitted")) => {
                    crate::sql::parse::Modes { isolation: Some(crate::txn::Isolation::ReadCommitted), read_only: None }
                }
                ("transaction_isolation", Some("repeatable read")) => {
                    crate::sql::parse::Modes { isolation: Some(crate::txn::Isolation::RepeatableRead), read_only: None }
                }
                ("transaction_isolation", Some("serializable")) => return Err(crate::sql::parse::serializable()),
                ("transaction_read_only", Some("on" | "true" | "1")) => crate::sql::parse::Modes { isolation: None, read_only: Some(true) },
                ("transaction_read_only", Some("off" | "false" | "0")) => {
                    crate::sql::parse::Modes { isolation: None, read_only: Some(false) }
                }
                _ => return Err(SqlError::new("22023", format!("invalid value for parameter \"{name}\""))),
            };
            return self.set_transaction(modes);
        }
        self.settings().set(name, value, local)
    }

    /// All of `tables` are there.
    /// Takes deleted rows that no snapshot sees out of tables and their indexes; out of all tables when none is named.
    async fn vacuum(&mut self, names: &[String]) -> Result<(), SqlError> {
        let (catalog, interrupt) = (self.world.catalog.clone(), self.world.client.interrupt.clone());
        let named = |table: &&Arc<Table>| names.is_empty() || names.contains(&table.name);
        for table in catalog.tables.iter().filter(named) {
            for tree in std::iter::once(table.tree).chain(table.indexes.iter().map(|index| index.tree)) {
                match self.engine.shared.tables.rows().vacuum(tree, &interrupt).await {
                    // Dropped, emptied or rebuilt meanwhile.
                    Ok(_) | Err(RowError::Table(TableError::UnknownTree { .. })) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    async fn must_exist(&mut self, tables: &[String]) -> Result<(), SqlError> {
        self.refresh_catalog().await?;
        match tables.iter().find(|name| self.world.catalog.table(name).is_none()) {
            Some(missing) => Err(SqlError::new("42P01", format!("relation \"{missing}\" does not exist"))),
            None => Ok(()),
        }
    }

    fn deallocate(&mut self, name: Option<&str>) -> Result<&'static str, SqlError> {
        let Some(name) = name else {
            self.prepared.clear();
            return Ok("DEALLOCATE ALL");
        };
        // Names of the extended protocol's statements are the door's: it looks for this one too.
        self.prepared.remove(name);
        self.deallocated.push(name.to_string());
        Ok("DEALLOCATE")
    }

    async fn prepare_named(
        &mut self,
        name: &str,
        types: &[sqlparser::ast::DataType],
        parsed: &Parsed,
        portal: &Portal,
    ) -> Result<(), SqlError> {
        if self.prepared.contains_key(name) {
            return Err(SqlError::new("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        let types = types.iter().map(data_type).collect::<Result<Vec<SqlType>, _>>()?;
        let statement: Statement = self.compile(portal.sql(), Arc::new(parsed.clone()), &types).await?;
        self.prepared.insert(name.to_string(), Prepared { statement });
        Ok(())
    }

    async fn lock_tables(&mut self, names: &[String], mode: crate::txn::TableLock, nowait: bool) -> Result<(), SqlError> {
        if self.status() == super::TransactionStatus::Idle {
            return Err(SqlError::new("25P01", "LOCK TABLE can only be used in transaction blocks"));
        }
        let conflict = if nowait { OnConflict::NoWait } else { OnConflict::Wait };
        let tables = self.engine.shared.tables.clone();
        self.refresh_catalog().await?;
        for name in names {
            tables.open(self.transaction(), name, mode, conflict).await.map_err(|error| match SqlError::from(error) {
                error if error.code == "55P03" => SqlError::new("55P03", format!("could not obtain lock on relation \"{name}\"")),
                error => error,
            })?;
        }
        Ok(())
    }

    /// EXPLAIN; with ANALYZE the statement is run.
    async fn explain(&mut self, analyze: bool, parsed: &Parsed, sql: &Arc<str>) -> Result<Vec<Vec<Datum>>, SqlError> {
        let statement = match parsed {
            Parsed::Utility(Utility::Execute { name, .. }) => self.named(name)?.clone(),
            Parsed::Query(_) | Parsed::Insert(_) | Parsed::Update(_) | Parsed::Delete(_) => {
                self.compile(sql.clone(), Arc::new(parsed.clone()), &[]).await?
            }
            _ => return Err(SqlError::unsupported("EXPLAIN of this statement", "It has no plan.")),
        };
        let compiled = self.plan(&statement).await?;
        let program = &compiled.bound.program;
        let mut lines = explain::lines(program);
        if analyze {
            if !statement.params().is_empty() {
                return Err(SqlError::unsupported("EXPLAIN ANALYZE of a statement with parameters", "Write the values into it."));
            }
            let seams = self.world.seams.clone();
            let Some(txn) = &mut self.txn else { return Err(SqlError::new("XX000", "a statement without a transaction")) };
            txn.begin_statement();
            let started = seams.now();
            let mut run = Run::default();
            let mut cx = Cx { txn, tables: &self.engine.shared.tables, program, run: &mut run, world: &self.world };
            let rows = match &program.action {
                Action::Query(plan) => {
                    let mut state = State::new(plan);
                    let mut count = 0;
                    loop {
                        let rows = exec::next(plan, &mut state, &mut cx).await?;
                        cx.check()?;
                        if rows.is_empty() {
                            break count;
                        }
                        count += rows.len() as u64;
                    }
                }
                action => change::run(action, &mut cx).await?.count,
            };
            let took = seams.now().since(started);
            if let Some(txn) = &mut self.txn {
                txn.end_statement();
            }
            lines.push(format!("Rows: {rows}"));
            lines.push(format!("Execution Time: {:.3} ms", took.as_secs_f64() * 1000.0));
        }
        Ok(lines.into_iter().map(|line| vec![text(line)]).collect())
    }
}
