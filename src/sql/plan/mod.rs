//! Plans: how a statement's rows are found and made.
//!
//! The binder (`bind`) builds them straight from the syntax, [`access`] chooses how tables are read, `exec` runs them. A plan holds no
//! values of one execution, so it is kept with a prepared statement as long as the catalog stays as it was.

pub mod access;
pub mod builtins;
pub mod explain;
pub mod expr;

use std::ops::Bound;
use std::sync::Arc;

use super::types::{FunctionRef, SqlType};
use super::views::View;
use crate::table::catalog::Table;
pub use expr::{AggregateCall, Expr, Row};

/// A statement ready to run.
#[derive(Debug)]
pub struct Program {
    /// What it does.
    pub action: Action,
    /// Its subqueries, by number.
    pub subplans: Vec<Subplan>,
}

/// What a statement does.
#[derive(Debug)]
pub enum Action {
    /// Gives rows.
    Query(Plan),
    /// Puts rows into a table.
    Insert(Box<Insert>),
    /// Changes rows.
    Update(Box<Update>),
    /// Deletes rows.
    Delete(Box<Delete>),
}

/// What a subplan is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Its only row's only value; null without a row.
    Scalar,
    /// Whether there is a row.
    Exists,
    /// All values.
    List,
    /// All values, as an array.
    Array(SqlType),
    /// No query: the next number of a sequence, by the name or number that is the first argument.
    NextValue,
    /// No query: what the sequence, or without an argument any, has given last. It waits for nothing, but keeps its place among those.
    CurrentValue,
    /// No query: a sequence is set.
    SetValue,
    /// No query: time passes, as many seconds as the first argument says.
    Sleep,
}

impl Wanted {
    /// Whether it is no query but a function that waits, called each time.
    pub fn is_function(self) -> bool {
        matches!(self, Wanted::NextValue | Wanted::CurrentValue | Wanted::SetValue | Wanted::Sleep)
    }
}

/// A part of an expression that has to wait for something.
#[derive(Debug)]
pub struct Subplan {
    /// Where the answer comes from.
    pub plan: Plan,
    /// What is asked.
    pub wanted: Wanted,
    /// For what is no query.
    pub args: Vec<Expr>,
    /// Whether it needs rows of the query around it, and so another answer for each.
    pub correlated: bool,
}

/// One key of an order.
#[derive(Clone, Debug)]
pub struct SortKey {
    /// The value.
    pub expr: Expr,
    /// Its type.
    pub ty: SqlType,
    /// Downwards.
    pub descending: bool,
    /// Nulls come first.
    pub nulls_first: bool,
}

/// Which rows of a table a scan reads.
#[derive(Clone, Debug)]
pub enum Access {
    /// All, in key order.
    All,
    /// A range of the key or an index.
    Range(Box<KeyRange>),
}

/// Values of a key's column, one of which a row must have.
#[derive(Clone, Debug)]
pub enum Among {
    /// These.
    List(Vec<Expr>),
    /// The elements of an array of that type.
    Array(Expr, SqlType),
}

/// A range of a key: its first columns equal to values, the next one perhaps one of several or within bounds.
#[derive(Clone, Debug)]
pub struct KeyRange {
    /// Which of the table's indexes; none: the primary key.
    pub index: Option<usize>,
    /// Values of the first columns.
    pub equal: Vec<Expr>,
    /// Values that the next may have; then it has no bounds.
    pub among: Option<Among>,
    /// Lower bound of the next.
    pub low: Bound<Expr>,
    /// Upper bound of the next.
    pub high: Bound<Expr>,
}

/// How rows are locked as they are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowLock {
    /// Waiting for whoever has them.
    Wait,
    /// Not waiting: 55P03 (NOWAIT).
    NoWait,
    /// Leaving out those that someone has (SKIP LOCKED).
    Skip,
}

/// A table that is read.
#[derive(Clone, Debug)]
pub struct Scan {
    /// Which.
    pub table: Arc<Table>,
    /// Its name in the statement.
    pub alias: String,
    /// Positions of the columns needed, ascending; the others are null in the rows.
    pub wanted: Vec<u16>,
    /// Which part.
    pub access: Access,
    /// Downwards.
    pub backward: bool,
    /// What rows must satisfy that the access doesn't ensure.
    pub filter: Option<Expr>,
    /// What rows must satisfy, all of it: for a row that has changed meanwhile.
    pub condition: Option<Expr>,
    /// Rows are locked.
    pub lock: Option<RowLock>,
}

/// How rows of two sides come together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JoinKind {
    /// Pairs only.
    Inner,
    /// Rows of the left without a pair too.
    Left,
    /// Rows of either side without a pair too.
    Full,
}

/// Where rows come from.
#[derive(Debug)]
pub enum Plan {
    /// One row without columns.
    Once,
    /// Rows written out.
    Values(Vec<Vec<Expr>>),
    /// A table.
    Scan(Box<Scan>),
    /// A virtual table of the catalog.
    View(&'static View),
    /// A function that gives rows: one column, and perhaps their number.
    Series { function: SetFunction, args: Vec<Expr>, ordinality: bool },
    /// Those for which the expression is true.
    Filter(Box<Plan>, Expr),
    /// Other columns.
    Project(Box<Plan>, Vec<Expr>),
    /// Each row as many times as set-returning functions among its columns give values; the others repeat.
    ProjectSet(Box<Plan>, Vec<Projected>),
    /// Pairs.
    Join(Box<Join>),
    /// Groups.
    Aggregate(Box<Aggregate>),
    /// In order; only the first so many are needed, if the limit stands right above.
    Sort(Box<Plan>, Vec<SortKey>, Option<Box<Limit>>),
    /// Each row once; the first so many columns count.
    Distinct(Box<Plan>, Option<Vec<Expr>>),
    /// Some of them.
    Limit(Box<Plan>, Box<Limit>),
    /// One after the other.
    Append(Vec<Plan>),
    /// INTERSECT, EXCEPT; `on`: what rows are told apart by, if not by their columns.
    Combine { left: Box<Plan>, right: Box<Plan>, except: bool, all: bool, on: Option<Vec<Expr>> },
}

/// A column of [`Plan::ProjectSet`].
#[derive(Debug)]
pub enum Projected {
    /// A value.
    One(Expr),
    /// Several.
    Set(SetFunction, Vec<Expr>),
}

/// How many rows.
#[derive(Clone, Debug, Default)]
pub struct Limit {
    /// At most.
    pub count: Option<Expr>,
    /// Passed over first.
    pub offset: Option<Expr>,
}

/// Functions that give rows.
#[derive(Clone, Debug)]
pub enum SetFunction {
    /// `generate_series` of integers, carried as that type.
    Series(SqlType),
    /// The elements of an array.
    Unnest(SqlType),
    /// The subscripts of an array.
    Subscripts(SqlType),
    /// Pieces of a text between matches: `regexp_split_to_table`, `string_to_table`.
    Pieces(Box<FunctionRef>),
}

/// Two sides and how they are joined. Rows are the left's columns, then the right's.
#[derive(Debug)]
pub struct Join {
    /// Read once.
    pub left: Plan,
    /// Kept in memory, or read again for each row of the left when it depends on it.
    pub right: Plan,
    /// How many columns the left has.
    pub left_width: usize,
    /// How many columns the right has.
    pub right_width: usize,
    /// Which.
    pub kind: JoinKind,
    /// Equal on both sides: expressions over the left's row, and over the right's alone. Empty: every pair is tried.
    pub keys: Vec<(Expr, Expr)>,
    /// What else a pair must satisfy, over the joined row.
    pub condition: Option<Expr>,
    /// The right depends on the left's row, as its next outer row.
    pub lateral: bool,
    /// The right found by key or index for one row of the left, which is its next outer row: for few rows of the left.
    pub lookup: Option<Plan>,
}

/// Groups: rows are the keys, then the aggregates.
#[derive(Debug)]
pub struct Aggregate {
    /// What is grouped.
    pub input: Plan,
    /// By what; empty: one group, even of no rows.
    pub keys: Vec<Expr>,
    /// What groups are told apart by, over the keys; if not by the keys as they are.
    pub on: Option<Vec<Expr>>,
    /// What is computed of each.
    pub calls: Vec<AggregateCall>,
    /// Whether rows without GROUP BY make one group of all.
    pub whole: bool,
}

/// Where inserted rows come from, what to do when they exist.
#[derive(Debug)]
pub struct Insert {
    /// Into.
    pub table: Arc<Table>,
    /// Gives whole rows of the table, in its types.
    pub source: Plan,
    /// When a row of the key exists.
    pub conflict: Option<Conflict>,
    /// What of each row is given back: over the table's columns.
    pub returning: Option<Vec<Expr>>,
    /// The source reads the table that is written.
    pub own: bool,
}

/// `ON CONFLICT`.
#[derive(Debug)]
pub struct Conflict {
    /// Which key: the table's indexes by number, `None` the primary key; nothing: any.
    pub target: Option<Option<usize>>,
    /// What to change instead; nothing: leave the row as it is. Over the table's columns, then those of the row refused.
    pub update: Option<Vec<(u16, Expr)>>,
    /// Only if.
    pub condition: Option<Expr>,
}

/// UPDATE.
#[derive(Debug)]
pub struct Update {
    /// Which rows: the table's columns, first, then those of other tables in FROM.
    pub target: Target,
    /// What becomes of which columns, over the same row.
    pub set: Vec<(u16, Expr)>,
    /// As of INSERT, over the new row and what FROM had.
    pub returning: Option<Vec<Expr>>,
}

/// DELETE.
#[derive(Debug)]
pub struct Delete {
    /// Which rows.
    pub target: Target,
    /// As of INSERT.
    pub returning: Option<Vec<Expr>>,
}

/// Rows to change.
#[derive(Debug)]
pub struct Target {
    /// How they are found. Reads every column.
    pub scan: Scan,
    /// Other tables: rows are joined with what is found; the first match counts.
    pub from: Option<Plan>,
    /// What a joined row must satisfy.
    pub condition: Option<Expr>,
    /// The scan may meet rows that the statement has changed: find all first.
    pub collect: bool,
}
