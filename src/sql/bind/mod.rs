//! From syntax to plans: names become columns, operators become functions, types agree.
//!
//! ```text
//! select, from, group   queries            dml     INSERT, UPDATE, DELETE
//! expr, calls, coerce   expressions        names   scopes, types by name
//! ```
//! Binding is synchronous: it sees the catalog as a [`Snapshot`]. What PostgreSQL has and this hasn't is refused with 0A000, by name.
//! Caller: `session`.

mod calls;
mod coerce;
mod dml;
mod expr;
mod from;
mod group;
mod names;
mod operators;
mod order;
mod select;

pub use names::data_type;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sqlparser::ast;
use sqlparser::tokenizer::Span;

use super::error::SqlError;
use super::parse::{self, Parsed};
use super::plan::{Action, AggregateCall, Expr, Plan, Program, Subplan};
use super::session::ColumnDesc;
use super::types::SqlType;
use super::world::{Snapshot, World};
use crate::table::catalog::Table;
use crate::txn::TableLock;
use names::Scope;

/// An expression and its type.
#[derive(Clone, Debug)]
pub struct Typed {
    /// The expression.
    pub expr: Expr,
    /// Its type.
    pub ty: SqlType,
}

/// A column of a query's result.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: SqlType,
    /// The table and the column's number there, if it is one.
    pub origin: Option<(u32, i16)>,
}

impl Output {
    /// As clients are told.
    pub fn describe(&self) -> ColumnDesc {
        let (table_oid, column) = self.origin.unwrap_or_default();
        let (type_oid, type_len, typmod) = (self.ty.oid(), self.ty.len(), self.ty.typmod());
        ColumnDesc { name: self.name.clone(), type_oid, type_len, typmod, table_oid, column }
    }
}

/// A query bound.
#[derive(Debug)]
pub struct Query {
    /// Gives its rows.
    pub plan: Plan,
    /// What they look like.
    pub columns: Vec<Output>,
}

/// A statement bound.
#[derive(Debug)]
pub struct Bound {
    /// What to run.
    pub program: Program,
    /// Types of the parameters.
    pub params: Vec<SqlType>,
    /// What its rows look like; nothing if it gives none.
    pub columns: Option<Vec<Output>>,
    /// Tables to lock, and how, in order of their numbers.
    pub locks: Vec<(Arc<Table>, TableLock)>,
}

/// Binds one statement.
pub struct Binder<'a> {
    sql: &'a str,
    world: &'a World,
    catalog: &'a Snapshot,
    params: Vec<Option<SqlType>>,
    /// Parameters that the statement names.
    met: BTreeSet<usize>,
    subplans: Vec<Subplan>,
    locks: BTreeMap<u32, (Arc<Table>, TableLock)>,
    /// Queries of WITH, by name, the innermost last.
    with: Vec<(String, Arc<ast::Query>, Vec<String>)>,
    /// Aggregates found at this level; nothing where there can't be any.
    aggregates: Option<Vec<AggregateCall>>,
    /// Where aggregates are refused: what to call the place.
    place: &'static str,
    /// How deep the expression at hand lies.
    depth: usize,
    /// How far out the columns met so far reach: 0, the query's own.
    reach: usize,
}

/// Binds a query or a change. `params`: types that are known, 0 for those that aren't.
///
/// # Errors
/// Class 42, 0A000, 22 for literals that can't be read.
pub fn bind(sql: &str, parsed: &Parsed, params: &[SqlType], world: &World) -> Result<Bound, SqlError> {
    let known = params.iter().map(|ty| (*ty != SqlType::Unknown).then_some(*ty)).collect();
    let mut binder = Binder {
        sql,
        world,
        catalog: &world.catalog,
        params: known,
        met: BTreeSet::new(),
        subplans: Vec::new(),
        locks: BTreeMap::new(),
        with: Vec::new(),
        aggregates: None,
        place: "this place",
        reach: 0,
        depth: 0,
    };
    let (action, columns) = match parsed {
        Parsed::Query(query) => {
            let query = binder.query(query, &Scope::top())?;
            let query = binder.finished(query);
            (Action::Query(query.plan), Some(query.columns))
        }
        Parsed::Insert(insert) => binder.insert(insert)?,
        Parsed::Update(update) => binder.update(update)?,
        Parsed::Delete(delete) => binder.delete(delete)?,
        _ => return Err(SqlError::new("XX000", "a statement that has no plan")),
    };
    if let Some(lost) = (0..binder.params.len()).find(|at| binder.params[*at].is_none() && !binder.met.contains(at)) {
        return Err(SqlError::new("42P18", format!("could not determine data type of parameter ${}", lost + 1)));
    }
    let params = binder.params.iter().map(|ty| ty.unwrap_or(SqlType::TEXT)).collect();
    let program = Program { action, subplans: binder.subplans };
    Ok(Bound { program, params, columns, locks: binder.locks.into_values().collect() })
}

/// Binds an expression without columns: an argument of EXECUTE, a default.
///
/// # Errors
/// As [`bind`].
pub fn bind_constant(sql: &str, expr: &ast::Expr, ty: SqlType, world: &World) -> Result<Bound, SqlError> {
    let mut binder = Binder {
        sql,
        world,
        catalog: &world.catalog,
        params: Vec::new(),
        met: BTreeSet::new(),
        subplans: Vec::new(),
        locks: BTreeMap::new(),
        with: Vec::new(),
        aggregates: None,
        place: "DEFAULT expressions",
        reach: 0,
        depth: 0,
    };
    let found = binder.expr(expr, &Scope::top())?;
    let value = binder.assigned(found, ty, "", "")?;
    let program = Program { action: Action::Query(Plan::Values(vec![vec![value]])), subplans: binder.subplans };
    let columns = vec![Output { name: "?column?".into(), ty, origin: None }];
    Ok(Bound { program, params: Vec::new(), columns: Some(columns), locks: Vec::new() })
}

/// How deep expressions and subqueries may be nested: each level takes some of the thread's stack, when it is bound and when it runs.
const DEPTH_MAX: usize = 100;

impl Binder<'_> {
    /// Does `work` one level deeper.
    fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, SqlError>) -> Result<T, SqlError> {
        if self.depth >= DEPTH_MAX {
            let hint = format!("Expressions and subqueries may be nested {DEPTH_MAX} deep; AND and OR may be as long as they like.");
            return Err(SqlError::new("54001", "stack depth limit exceeded").hint(hint));
        }
        self.depth += 1;
        let found = work(self);
        self.depth -= 1;
        found
    }

    /// `error` at the place of `span`.
    fn at(&self, error: SqlError, span: Span) -> SqlError {
        match parse::place(self.sql, span) {
            Some(position) if error.position.is_none() => error.at(position),
            _ => error,
        }
    }

    /// A table is read or written: it is locked before the statement runs.
    fn lock(&mut self, table: &Arc<Table>, lock: TableLock) {
        let entry = self.locks.entry(table.id).or_insert_with(|| (table.clone(), lock));
        entry.1 = entry.1.max(lock);
    }

    /// A subquery's number.
    fn subplan(&mut self, subplan: Subplan) -> usize {
        self.subplans.push(subplan);
        self.subplans.len() - 1
    }

    /// Columns of no type are text, oids shown as names are text: what goes to the client.
    fn finished(&mut self, mut query: Query) -> Query {
        let plain = query.columns.iter().all(|column| !coerce::is_shown_otherwise(column.ty) && column.ty != SqlType::Unknown);
        if plain {
            return query;
        }
        let exprs = query.columns.iter().enumerate().map(|(at, column)| coerce::shown(Expr::Column(at), column.ty));
        query.plan = Plan::Project(Box::new(query.plan), exprs.collect());
        for column in &mut query.columns {
            if column.ty == SqlType::Unknown || coerce::is_shown_otherwise(column.ty) {
                column.ty = SqlType::TEXT;
            }
        }
        query
    }
}
