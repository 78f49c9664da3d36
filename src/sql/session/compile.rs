//! Statements prepared: syntax kept for good, plans as long as the catalog stays as it was.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{ColumnDesc, Phase, Session};
use crate::sql::bind::{self, Bound, Output};
use crate::sql::error::SqlError;
use crate::sql::exec::point;
use crate::sql::parse::{self, Parsed, Utility};
use crate::sql::plan::Action;
use crate::sql::settings::Settings;
use crate::sql::types::SqlType;
use crate::sql::world::Snapshot;
use crate::table::rows::OnConflict;

/// A statement bound to the catalog as it was.
pub(super) struct Compiled {
    /// Which state of the catalog; nothing: of one that was being changed, good once.
    stamp: Option<u64>,
    pub(super) bound: Bound,
    /// Types of its columns.
    pub(super) types: Vec<SqlType>,
    /// It looks for one row by its key, in this way.
    pub(super) point: Option<point::Point>,
}

pub(super) struct Inner {
    pub(super) sql: Arc<str>,
    /// As others see it.
    pub(super) shown: Arc<str>,
    pub(super) parsed: Arc<Parsed>,
    params: Vec<u32>,
    param_types: Vec<SqlType>,
    columns: Option<Arc<[ColumnDesc]>>,
    compiled: Mutex<Option<Arc<Compiled>>>,
}

/// A statement that was parsed and bound to the tables it names. Clones share everything.
#[derive(Clone)]
pub struct Statement {
    pub(super) inner: Arc<Inner>,
}

impl Statement {
    /// OIDs of its parameters' types.
    pub fn params(&self) -> &[u32] {
        &self.inner.params
    }

    /// What its rows look like; `None`: it gives no rows.
    pub fn columns(&self) -> Option<&[ColumnDesc]> {
        self.inner.columns.as_deref()
    }

    pub(super) fn param_types(&self) -> &[SqlType] {
        &self.inner.param_types
    }

    pub(super) fn shared_columns(&self) -> Option<Arc<[ColumnDesc]>> {
        self.inner.columns.clone()
    }
}

/// Whether the statement has a plan.
fn is_planned(parsed: &Parsed) -> bool {
    matches!(parsed, Parsed::Query(_) | Parsed::Insert(_) | Parsed::Update(_) | Parsed::Delete(_))
}

fn described(columns: &[Output]) -> Arc<[ColumnDesc]> {
    columns.iter().map(Output::describe).collect()
}

/// Most bytes of a statement that others see.
const SHOWN_BYTES: usize = 1024;

/// A statement as others see it: not all of a long one, so that nobody keeps that.
pub(super) fn shown(sql: &Arc<str>) -> Arc<str> {
    match sql.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= SHOWN_BYTES).last() {
        _ if sql.len() <= SHOWN_BYTES => sql.clone(),
        end => sql[..end.unwrap_or(0)].into(),
    }
}

fn text_column(name: &str) -> ColumnDesc {
    Output { name: name.to_string(), ty: SqlType::TEXT, origin: None }.describe()
}

impl Session {
    /// The catalog as statements see it now.
    pub(super) async fn refresh_catalog(&mut self) -> Result<Option<u64>, SqlError> {
        self.transaction();
        let Some(txn) = &mut self.txn else { return Ok(None) };
        let shared = &self.engine.shared;
        let stamp = shared.tables.stamp(txn);
        if stamp.is_some() && self.world.catalog.stamp == stamp {
            return Ok(stamp);
        }
        let known = shared.catalog.lock().clone();
        if stamp.is_some() && known.stamp == stamp {
            self.world.catalog = known;
            return Ok(stamp);
        }
        // Definitions that this transaction has changed are read under it.
        txn.begin_statement();
        let tables = Box::pin(shared.tables.tables(txn)).await?;
        // Whoever changed it in between makes this state a good one of no stamp.
        let stamp = stamp.filter(|stamp| shared.tables.stamp(txn) == Some(*stamp));
        let catalog = Arc::new(Snapshot::new(stamp, tables));
        if stamp.is_some() {
            *shared.catalog.lock() = catalog.clone();
        }
        self.world.catalog = catalog;
        Ok(stamp)
    }

    /// Binds a statement to the catalog as it is.
    async fn bind(&mut self, sql: &str, parsed: &Parsed, types: &[SqlType]) -> Result<Arc<Compiled>, SqlError> {
        let stamp = self.refresh_catalog().await?;
        let bound = bind::bind(sql, parsed, types, &self.world)?;
        let types = bound.columns.iter().flatten().map(|column| column.ty).collect();
        let point = point::of(&bound.program);
        Ok(Arc::new(Compiled { stamp, bound, types, point }))
    }

    /// A statement of this syntax.
    pub(super) async fn compile(&mut self, sql: Arc<str>, parsed: Arc<Parsed>, types: &[SqlType]) -> Result<Statement, SqlError> {
        let ends = matches!(&*parsed, Parsed::Utility(utility) if utility.ends_transaction());
        self.may_run(ends)?;
        if !is_planned(&parsed) {
            let columns = self.utility_columns(&parsed)?;
            let inner =
                Inner { shown: shown(&sql), sql, parsed, params: Vec::new(), param_types: Vec::new(), columns, compiled: Mutex::new(None) };
            return Ok(Statement { inner: Arc::new(inner) });
        }
        let compiled = self.bind(&sql, &parsed, types).await?;
        let param_types = compiled.bound.params.clone();
        let params = param_types.iter().map(|ty| ty.oid()).collect();
        let columns = compiled.bound.columns.as_deref().map(described);
        let inner = Inner { shown: shown(&sql), sql, parsed, params, param_types, columns, compiled: Mutex::new(Some(compiled)) };
        Ok(Statement { inner: Arc::new(inner) })
    }

    /// What rows a statement without a plan gives.
    fn utility_columns(&self, parsed: &Parsed) -> Result<Option<Arc<[ColumnDesc]>>, SqlError> {
        let Parsed::Utility(utility) = parsed else { return Ok(None) };
        Ok(match utility {
            Utility::Show(name) => Some(Arc::new([text_column(&Settings::proper_name(name))])),
            Utility::ShowAll => Some(Arc::new([text_column("name"), text_column("setting"), text_column("description")])),
            Utility::Explain { .. } => Some(Arc::new([text_column("QUERY PLAN")])),
            Utility::Execute { name, .. } => self.named(name)?.shared_columns(),
            _ => None,
        })
    }

    /// The statement that PREPARE gave that name.
    pub(super) fn named(&self, name: &str) -> Result<&Statement, SqlError> {
        let found = self.prepared.get(name).map(|prepared| &prepared.statement);
        found.ok_or_else(|| SqlError::new("26000", format!("prepared statement \"{name}\" does not exist")))
    }

    /// The statement's plan, bound to the catalog as it is now, its tables locked.
    pub(super) async fn plan(&mut self, statement: &Statement) -> Result<Arc<Compiled>, SqlError> {
        let inner = &statement.inner;
        loop {
            let stamp = self.refresh_catalog().await?;
            let known = inner.compiled.lock().clone();
            let compiled = match known {
                Some(compiled) if stamp.is_some() && compiled.stamp == stamp => compiled,
                _ => {
                    let compiled = Box::pin(self.bind(&inner.sql, &inner.parsed, &inner.param_types)).await?;
                    if compiled.bound.columns.as_deref().map(described).as_deref() != inner.columns.as_deref() {
                        return Err(SqlError::new("0A000", "cached plan must not change result type").hint("Prepare the statement again."));
                    }
                    *inner.compiled.lock() = Some(compiled.clone());
                    compiled
                }
            };
            self.check_read_only(&compiled)?;
            let Some(txn) = &mut self.txn else { return Err(SqlError::new("XX000", "a statement without a transaction")) };
            let mut locked = true;
            for (table, lock) in &compiled.bound.locks {
                let still = self.engine.shared.tables.lock(txn, table.clone(), *lock, OnConflict::Wait).await?;
                locked &= still.is_some();
            }
            if locked {
                return Ok(compiled);
            }
            // A definition changed until the lock was there: bind anew.
            self.world.catalog = Arc::default();
            *inner.compiled.lock() = None;
        }
    }

    fn check_read_only(&self, compiled: &Compiled) -> Result<(), SqlError> {
        let what = match &compiled.bound.program.action {
            Action::Insert(_) => "INSERT",
            Action::Update(_) => "UPDATE",
            Action::Delete(_) => "DELETE",
            Action::Query(_) => return Ok(()),
        };
        self.refuse_read_only(what)
    }

    /// 25006 in a read-only transaction.
    pub(super) fn refuse_read_only(&self, what: &str) -> Result<(), SqlError> {
        let read_only = self.read_only
            || (self.phase == Phase::Implicit && self.world.client.state.lock().settings.switch("default_transaction_read_only"));
        match read_only {
            true => Err(SqlError::new("25006", format!("cannot execute {what} in a read-only transaction"))),
            false => Ok(()),
        }
    }

    /// Parses and binds a statement (Parse). `param_types`: OIDs that the client knows, 0 for those to find out; there may be fewer than
    /// parameters. Names of statements are the caller's business.
    ///
    /// # Errors
    /// 42601 and others of class 42: what is wrong with it. In a failed transaction 25P02, unless it ends that.
    pub async fn prepare(&mut self, sql: &str, param_types: &[u32]) -> Result<Statement, SqlError> {
        let sql: Arc<str> = sql.into();
        self.starts(&shown(&sql));
        let found = Box::pin(self.try_prepare(&sql, param_types)).await;
        if let Some(txn) = &mut self.txn {
            txn.end_statement();
        }
        self.settled(found).await
    }

    async fn try_prepare(&mut self, sql: &Arc<str>, param_types: &[u32]) -> Result<Statement, SqlError> {
        let parsed = parse::single(sql)?;
        let mut types = Vec::with_capacity(param_types.len());
        for oid in param_types {
            types.push(match oid {
                0 => SqlType::Unknown,
                oid => SqlType::from_oid(*oid).ok_or_else(|| {
                    let hint = "Leave it open: Regroup finds the type of a parameter by its place.";
                    SqlError::unsupported(format!("a parameter of the type with oid {oid}"), hint)
                })?,
            });
        }
        self.compile(sql.clone(), Arc::new(parsed), &types).await
    }

    /// What came of something that isn't a statement's execution.
    pub(super) async fn settled<T>(&mut self, found: Result<T, SqlError>) -> Result<T, SqlError> {
        match found {
            Ok(found) => Ok(found),
            Err(error) => Err(Box::pin(self.failed(error, None)).await),
        }
    }
}
