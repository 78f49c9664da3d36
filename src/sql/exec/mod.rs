//! Running plans: batches of rows, pulled.
//!
//! ```text
//! run (here)  scan  join  aggregate  sort  sets        queries
//! change      insert, update, delete                   copy       COPY both ways
//! output      rows as DataRow bodies                   memory     what sorts and hash tables may take
//! ```
//! A [`State`] tree mirrors a plan and keeps what one execution needs, so that a portal can stop between batches. Each node gives rows a
//! batch at a time, an empty one at the end. Caller: `session`.

pub mod aggregate;
pub mod change;
pub mod conflict;
pub mod copy;
pub mod join;
pub mod memory;
pub mod output;
pub mod point;
pub mod scan;
pub mod series;
pub mod sets;
pub mod sort;
pub mod subplan;

use std::future::Future;
use std::pin::Pin;

use super::error::SqlError;
use super::plan::expr::{Answer, Env};
use super::plan::{Expr, Limit, Plan, Program, Row};
use super::types::Datum;
use super::world::World;
use crate::table::rows::Transaction;
use crate::table::tables::Tables;

/// How many rows a node that makes them itself gives at a time.
pub const BATCH: usize = 100;

/// The future of a node's next batch.
pub type Batch<'e> = Pin<Box<dyn Future<Output = Result<Vec<Row>, SqlError>> + Send + 'e>>;

/// What an execution has beside its plan's state.
#[derive(Default)]
pub struct Run {
    /// Parameters.
    pub params: Vec<Datum>,
    /// Answers of subplans.
    pub answers: Vec<Option<Answer>>,
    /// Rows of enclosing queries.
    pub outer: Vec<Row>,
    /// Memory of what sorts, groups and joins have gathered, until the execution is over.
    pub memory: Vec<memory::Memory>,
}

/// What nodes work with.
pub struct Cx<'a> {
    /// The transaction.
    pub txn: &'a mut Transaction,
    /// Tables.
    pub tables: &'a Tables,
    /// The statement.
    pub program: &'a Program,
    /// This execution.
    pub run: &'a mut Run,
    /// Session and catalog.
    pub world: &'a World,
}

impl Cx<'_> {
    /// What expressions are evaluated with.
    pub fn env(&self) -> Env<'_> {
        Env {
            params: &self.run.params,
            context: self.world.context(),
            outer: &self.run.outer,
            answers: &self.run.answers,
            world: self.world,
        }
    }

    /// Fails when someone wants the statement to stop.
    pub fn check(&self) -> Result<(), SqlError> {
        self.world.client.check()
    }

    /// A non-negative number of rows, of LIMIT or OFFSET.
    fn rows(&self, expr: Option<&Expr>, what: &str, code: &'static str) -> Result<Option<u64>, SqlError> {
        let Some(expr) = expr else { return Ok(None) };
        match expr.eval(&[], &self.env())? {
            Datum::Null => Ok(None),
            Datum::Int8(rows) => match u64::try_from(rows) {
                Ok(rows) => Ok(Some(rows)),
                Err(_) => Err(SqlError::new(code, format!("{what} must not be negative"))),
            },
            other => Err(SqlError::new("XX000", format!("{what} is {other:?}"))),
        }
    }
}

/// How far a plan's execution is.
pub enum State {
    /// Nothing yet, for nodes that need no more; or everything.
    Once(bool),
    /// Rows that are there, from the next one on.
    Rows(std::vec::IntoIter<Row>),
    /// How many rows of VALUES were given.
    Values(usize),
    /// A table.
    Scan(Box<scan::ScanState>),
    /// A function that gives rows.
    Series(Box<series::SeriesState>),
    /// A node over another.
    Over(Box<State>),
    /// Rows of a node over another, that wait.
    Waiting(Box<State>, std::vec::IntoIter<Row>),
    /// A join.
    Join(Box<join::JoinState>),
    /// Everything below was read: the rows come out.
    Gathered(Box<State>, Option<std::vec::IntoIter<Row>>),
    /// Rows that were there already.
    Distinct(Box<State>, sets::Seen),
    /// How many rows to pass over and to give still; nothing before the first.
    Limit(Box<State>, Option<(u64, u64)>),
    /// Which input it is at.
    Append(Vec<State>, usize),
    /// INTERSECT, EXCEPT.
    Combine(Box<(State, State)>, Option<std::vec::IntoIter<Row>>),
}

impl State {
    /// The beginning of `plan`.
    pub fn new(plan: &Plan) -> State {
        let over = |plan: &Plan| Box::new(State::new(plan));
        match plan {
            Plan::Once => State::Once(false),
            Plan::Values(_) => State::Values(0),
            Plan::Scan(_) => State::Scan(Box::default()),
            Plan::View(_) => State::Once(false),
            Plan::Series { .. } => State::Series(Box::default()),
            Plan::Filter(input, _) | Plan::Project(input, _) => State::Over(over(input)),
            Plan::ProjectSet(input, _) => State::Waiting(over(input), Vec::new().into_iter()),
            Plan::Join(join) => State::Join(Box::new(join::JoinState::new(join))),
            Plan::Aggregate(aggregate) => State::Gathered(over(&aggregate.input), None),
            Plan::Sort(input, ..) => State::Gathered(over(input), None),
            Plan::Distinct(input, _) => State::Distinct(over(input), sets::Seen::default()),
            Plan::Limit(input, _) => State::Limit(over(input), None),
            Plan::Append(inputs) => State::Append(inputs.iter().map(State::new).collect(), 0),
            Plan::Combine { left, right, .. } => State::Combine(Box::new((State::new(left), State::new(right))), None),
        }
    }
}

/// The next rows of `plan`; none at the end.
pub fn next<'e>(plan: &'e Plan, state: &'e mut State, cx: &'e mut Cx<'_>) -> Batch<'e> {
    match (plan, state) {
        (Plan::Once, State::Once(done)) => {
            let row = if std::mem::replace(done, true) { Vec::new() } else { vec![Row::new()] };
            Box::pin(std::future::ready(Ok(row)))
        }
        (Plan::View(view), state) => Box::pin(async move {
            if let State::Once(_) = state {
                *state = State::Rows(view.rows(cx.world)?.into_iter());
            }
            let State::Rows(rows) = state else { return Err(lost()) };
            Ok(rows.by_ref().take(BATCH).collect())
        }),
        (Plan::Values(rows), State::Values(at)) => Box::pin(values(rows, at, cx)),
        (Plan::Scan(scan), State::Scan(state)) => Box::pin(state.next(scan, cx)),
        (Plan::Series { function, args, ordinality }, State::Series(state)) => Box::pin(state.next(function, args, *ordinality, cx)),
        (Plan::Filter(input, condition), State::Over(state)) => Box::pin(filter(input, state, condition, cx)),
        (Plan::Project(input, exprs), State::Over(state)) => Box::pin(project(input, state, exprs, cx)),
        (Plan::ProjectSet(input, columns), State::Waiting(state, rows)) => Box::pin(series::project(input, state, columns, rows, cx)),
        (Plan::Join(join), State::Join(state)) => Box::pin(state.next(join, cx)),
        (Plan::Aggregate(aggregate), State::Gathered(state, rows)) => Box::pin(async move {
            if rows.is_none() {
                *rows = Some(aggregate::gather(aggregate, state, cx).await?.into_iter());
            }
            Ok(rows.iter_mut().flatten().take(BATCH).collect())
        }),
        (Plan::Sort(input, keys, limit), State::Gathered(state, rows)) => Box::pin(async move {
            if rows.is_none() {
                *rows = Some(sort::sorted(input, state, keys, limit.as_deref(), cx).await?.into_iter());
            }
            Ok(rows.iter_mut().flatten().take(BATCH).collect())
        }),
        (Plan::Distinct(input, on), State::Distinct(state, seen)) => Box::pin(sets::distinct(input, state, on.as_deref(), seen, cx)),
        (Plan::Limit(input, limit), State::Limit(state, left)) => Box::pin(limited(input, state, limit, left, cx)),
        (Plan::Append(inputs), State::Append(states, at)) => Box::pin(async move {
            while let (Some(plan), Some(state)) = (inputs.get(*at), states.get_mut(*at)) {
                let rows = next(plan, state, cx).await?;
                if !rows.is_empty() {
                    return Ok(rows);
                }
                *at += 1;
            }
            Ok(Vec::new())
        }),
        (Plan::Combine { left, right, except, all, on }, State::Combine(states, rows)) => Box::pin(async move {
            if rows.is_none() {
                *rows = Some(sets::combine(left, right, states, (*except, *all), on.as_deref(), cx).await?.into_iter());
            }
            Ok(rows.iter_mut().flatten().take(BATCH).collect())
        }),
        _ => Box::pin(std::future::ready(Err(lost()))),
    }
}

fn lost() -> SqlError {
    SqlError::new("XX000", "an execution's state is not its plan's")
}

async fn values(rows: &[Vec<Expr>], at: &mut usize, cx: &mut Cx<'_>) -> Result<Vec<Row>, SqlError> {
    let end = rows.len().min(*at + BATCH);
    let mut out = Vec::with_capacity(end - *at);
    for row in &rows[*at..end] {
        subplan::answer(row.iter(), &[], cx).await?;
        let env = cx.env();
        out.push(row.iter().map(|expr| expr.eval(&[], &env)).collect::<Result<Row, _>>()?);
    }
    *at = end;
    Ok(out)
}

async fn filter(input: &Plan, state: &mut State, condition: &Expr, cx: &mut Cx<'_>) -> Result<Vec<Row>, SqlError> {
    loop {
        let rows = next(input, state, cx).await?;
        if rows.is_empty() {
            return Ok(rows);
        }
        let kept = keep(rows, Some(condition), cx).await?;
        if !kept.is_empty() {
            return Ok(kept);
        }
        cx.check()?;
    }
}

/// Those of `rows` for which `condition` is true.
pub async fn keep(mut rows: Vec<Row>, condition: Option<&Expr>, cx: &mut Cx<'_>) -> Result<Vec<Row>, SqlError> {
    let Some(condition) = condition else { return Ok(rows) };
    if cx.program.subplans.is_empty() {
        let env = cx.env();
        let mut failed = None;
        rows.retain(|row| {
            failed.is_none()
                && condition.holds(row, &env).unwrap_or_else(|error| {
                    failed = Some(error);
                    false
                })
        });
        return failed.map_or(Ok(rows), Err);
    }
    let mut kept = Vec::with_capacity(rows.len());
    for row in rows {
        subplan::answer([condition], &row, cx).await?;
        if condition.holds(&row, &cx.env())? {
            kept.push(row);
        }
    }
    Ok(kept)
}

async fn project(input: &Plan, state: &mut State, exprs: &[Expr], cx: &mut Cx<'_>) -> Result<Vec<Row>, SqlError> {
    let rows = next(input, state, cx).await?;
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        subplan::answer(exprs.iter(), &row, cx).await?;
        let env = cx.env();
        out.push(exprs.iter().map(|expr| expr.eval(&row, &env)).collect::<Result<Row, _>>()?);
    }
    Ok(out)
}

async fn limited(
    input: &Plan,
    state: &mut State,
    limit: &Limit,
    left: &mut Option<(u64, u64)>,
    cx: &mut Cx<'_>,
) -> Result<Vec<Row>, SqlError> {
    let (mut skip, mut give) = match *left {
        Some(left) => left,
        None => {
            subplan::answer(limit.count.iter().chain(&limit.offset), &[], cx).await?;
            let give = cx.rows(limit.count.as_ref(), "LIMIT", "2201W")?.unwrap_or(u64::MAX);
            (cx.rows(limit.offset.as_ref(), "OFFSET", "2201X")?.unwrap_or(0), give)
        }
    };
    let mut rows = Vec::new();
    while give > 0 && rows.is_empty() {
        rows = next(input, state, cx).await?;
        if rows.is_empty() {
            break;
        }
        let skipped = skip.min(rows.len() as u64);
        skip -= skipped;
        rows.drain(..skipped as usize);
        rows.truncate(usize::try_from(give).unwrap_or(usize::MAX));
    }
    give -= rows.len() as u64;
    *left = Some((skip, give));
    Ok(rows)
}

/// All rows of a plan, within the statement's memory.
pub async fn all(plan: &Plan, state: &mut State, cx: &mut Cx<'_>) -> Result<Vec<Row>, SqlError> {
    let mut memory = memory::Memory::new(cx.world);
    let mut all = Vec::new();
    loop {
        let rows = next(plan, state, cx).await?;
        if rows.is_empty() {
            cx.run.memory.push(memory);
            return Ok(all);
        }
        rows.iter().try_for_each(|row| memory.take(row))?;
        all.extend(rows);
        cx.check()?;
    }
}
