//! INSERT, UPDATE, DELETE: row by row, with what has changed meanwhile looked at anew.

use rustc_hash::FxHashSet;

use super::memory::Memory;
use super::scan::{ScanState, decode};
use super::{Cx, State, all, conflict, keep, next, subplan};
use crate::sql::error::SqlError;
use crate::sql::errors::duplicate;
use crate::sql::plan::{Action, Expr, Insert, Row, Scan, Target};
use crate::sql::types::Datum;
use crate::table::catalog::Table;
use crate::table::rows;
use crate::table::tables::{Added, Removed, Updated};

/// What a statement has done.
#[derive(Default)]
pub struct Done {
    /// How many rows.
    pub count: u64,
    /// What RETURNING gives.
    pub returned: Vec<Row>,
}

/// Rows done and given back, within the statement's memory.
pub(super) struct Tally<'p> {
    pub(super) done: Done,
    returning: Option<&'p [Expr]>,
    memory: Memory,
}

impl<'p> Tally<'p> {
    fn new(returning: Option<&'p Vec<Expr>>, cx: &Cx<'_>) -> Tally<'p> {
        Tally { done: Done::default(), returning: returning.map(Vec::as_slice), memory: Memory::new(cx.world) }
    }

    /// One more row.
    pub(super) async fn count(&mut self, row: &[Datum], cx: &mut Cx<'_>) -> Result<(), SqlError> {
        self.done.count += 1;
        if let Some(exprs) = self.returning {
            subplan::answer(exprs, row, cx).await?;
            let env = cx.env();
            let given = exprs.iter().map(|expr| expr.eval(row, &env)).collect::<Result<Row, _>>()?;
            self.memory.take(&given)?;
            self.done.returned.push(given);
        }
        Ok(())
    }
}

/// Runs a statement that changes rows.
///
/// # Errors
/// What it died of; the caller rolls back to before it.
pub async fn run(action: &Action, cx: &mut Cx<'_>) -> Result<Done, SqlError> {
    match action {
        Action::Insert(insert) => run_insert(insert, cx).await,
        Action::Update(update) => run_change(&update.target, Some(&update.set), update.returning.as_ref(), cx).await,
        Action::Delete(delete) => run_change(&delete.target, None, delete.returning.as_ref(), cx).await,
        Action::Query(_) => Err(SqlError::new("XX000", "a query changes nothing")),
    }
}

async fn run_insert(insert: &Insert, cx: &mut Cx<'_>) -> Result<Done, SqlError> {
    let mut state = State::new(&insert.source);
    let mut tally = Tally::new(insert.returning.as_ref(), cx);
    let mut touched = FxHashSet::default();
    if insert.own {
        let rows = all(&insert.source, &mut state, cx).await?;
        insert_rows(insert, rows, &mut touched, &mut tally, cx).await?;
        return Ok(tally.done);
    }
    loop {
        let rows = next(&insert.source, &mut state, cx).await?;
        if rows.is_empty() {
            return Ok(tally.done);
        }
        insert_rows(insert, rows, &mut touched, &mut tally, cx).await?;
        cx.check()?;
    }
}

async fn insert_rows(
    insert: &Insert,
    rows: Vec<Row>,
    touched: &mut FxHashSet<Vec<u8>>,
    tally: &mut Tally<'_>,
    cx: &mut Cx<'_>,
) -> Result<(), SqlError> {
    for row in rows {
        match cx.tables.insert(cx.txn, &insert.table, &row).await.map_err(|error| failing_row(error, &row, cx))? {
            Added::Done(key) => {
                if insert.conflict.as_ref().is_some_and(|conflict| conflict.update.is_some()) {
                    touched.insert(key);
                }
                tally.count(&row, cx).await?;
            }
            Added::Duplicate(found) => match &insert.conflict {
                None => return Err(duplicate(&found, &insert.table, cx.world)),
                Some(wanted) => conflict::resolve(insert, wanted, row, *found, touched, tally, cx).await?,
            },
        }
    }
    Ok(())
}

/// Adds the row to an error about nulls, as PostgreSQL does.
pub(super) fn failing_row(error: crate::table::tables::TablesError, row: &[Datum], cx: &Cx<'_>) -> SqlError {
    let error = SqlError::from(error);
    match error.code {
        "23502" => {
            let shown: Vec<String> = row.iter().map(|value| crate::sql::errors::shown(value, cx.world)).collect();
            error.detail(format!("Failing row contains ({}).", shown.join(", ")))
        }
        _ => error,
    }
}

/// Rows to change: as stored, and with all their columns and what FROM adds.
struct Found {
    stored: rows::Row,
    row: Row,
}

/// Reads the rows to change, a batch at a time.
struct Finder<'p> {
    target: &'p Target,
    state: ScanState,
    /// Rows of other tables, once read.
    others: Option<Vec<Row>>,
    collected: bool,
}

impl<'p> Finder<'p> {
    fn new(target: &'p Target) -> Finder<'p> {
        Finder { target, state: ScanState::default(), others: None, collected: false }
    }

    async fn next(&mut self, cx: &mut Cx<'_>) -> Result<Vec<Found>, SqlError> {
        if !self.target.collect {
            return self.batch(cx).await;
        }
        if std::mem::replace(&mut self.collected, true) {
            return Ok(Vec::new());
        }
        let mut memory = Memory::new(cx.world);
        let mut found = Vec::new();
        loop {
            let more = self.batch(cx).await?;
            if more.is_empty() {
                return Ok(found);
            }
            for one in more {
                memory.take(&one.row)?;
                found.push(one);
            }
        }
    }

    async fn batch(&mut self, cx: &mut Cx<'_>) -> Result<Vec<Found>, SqlError> {
        loop {
            let stored = self.state.raw(&self.target.scan, cx).await?;
            if stored.is_empty() {
                return Ok(Vec::new());
            }
            let mut found = Vec::with_capacity(stored.len());
            for stored in stored {
                if let Some(row) = self.matching(&stored, self.target.scan.filter.as_ref(), cx).await? {
                    found.push(Found { stored, row });
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
            cx.check()?;
        }
    }

    /// The row, with the first row of FROM that fits, if it satisfies `filter` and the statement's condition.
    async fn matching(&mut self, stored: &rows::Row, filter: Option<&Expr>, cx: &mut Cx<'_>) -> Result<Option<Row>, SqlError> {
        let Scan { table, wanted, .. } = &self.target.scan;
        let row = decode(table, wanted, &stored.value)?;
        let Some(row) = keep(vec![row], filter, cx).await?.pop() else { return Ok(None) };
        let Some(from) = &self.target.from else {
            return Ok(keep(vec![row], self.target.condition.as_ref(), cx).await?.pop());
        };
        if self.others.is_none() {
            self.others = Some(all(from, &mut State::new(from), cx).await?);
        }
        for other in self.others.iter().flatten() {
            let both = row.iter().chain(other).cloned().collect();
            if let Some(both) = keep(vec![both], self.target.condition.as_ref(), cx).await?.pop() {
                return Ok(Some(both));
            }
        }
        Ok(None)
    }

    /// What has become of a row, if it is still to be changed.
    async fn again(&mut self, newest: Option<rows::Row>, cx: &mut Cx<'_>) -> Result<Option<Found>, SqlError> {
        let Some(stored) = newest else { return Ok(None) };
        let row = self.matching(&stored, self.target.scan.condition.as_ref(), cx).await?;
        Ok(row.map(|row| Found { stored, row }))
    }
}

/// The row with the columns that SET names changed.
pub(super) async fn changed(table: &Table, set: &[(u16, Expr)], row: &[Datum], cx: &mut Cx<'_>) -> Result<Row, SqlError> {
    subplan::answer(set.iter().map(|(_, expr)| expr), row, cx).await?;
    let env = cx.env();
    let mut new = row[..table.columns.len()].to_vec();
    for (column, expr) in set {
        new[usize::from(*column)] = expr.eval(row, &env)?;
    }
    Ok(new)
}

/// What became of one row.
enum Outcome {
    /// It is done: the row that RETURNING sees.
    Done(Row),
    /// Somebody has changed it since it was seen.
    Moved(Option<rows::Row>),
}

async fn update_one(table: &Table, set: &[(u16, Expr)], found: &Found, cx: &mut Cx<'_>) -> Result<Outcome, SqlError> {
    let Found { stored, row } = found;
    let mut new = changed(table, set, row, cx).await?;
    match cx.tables.update(cx.txn, table, stored, &new).await.map_err(|error| failing_row(error, &new, cx))? {
        Updated::Done { .. } => {
            // With what FROM has added.
            new.extend_from_slice(row.get(table.columns.len()..).unwrap_or_default());
            Ok(Outcome::Done(new))
        }
        Updated::Moved(newest) => Ok(Outcome::Moved(newest)),
        Updated::Duplicate(other) => Err(duplicate(&other, table, cx.world)),
    }
}

async fn delete_one(table: &Table, found: Found, cx: &mut Cx<'_>) -> Result<Outcome, SqlError> {
    Ok(match cx.tables.delete(cx.txn, table, &found.stored).await? {
        Removed::Done => Outcome::Done(found.row),
        Removed::Moved(newest) => Outcome::Moved(newest),
    })
}

/// UPDATE with what SET says, DELETE without.
async fn run_change(
    target: &Target,
    set: Option<&[(u16, Expr)]>,
    returning: Option<&Vec<Expr>>,
    cx: &mut Cx<'_>,
) -> Result<Done, SqlError> {
    let table = &target.scan.table;
    let mut tally = Tally::new(returning, cx);
    let mut finder = Finder::new(target);
    loop {
        let batch = finder.next(cx).await?;
        if batch.is_empty() {
            return Ok(tally.done);
        }
        for found in batch {
            let mut next = Some(found);
            while let Some(found) = next.take() {
                let outcome = match set {
                    Some(set) => update_one(table, set, &found, cx).await?,
                    None => delete_one(table, found, cx).await?,
                };
                match outcome {
                    Outcome::Done(row) => tally.count(&row, cx).await?,
                    Outcome::Moved(newest) => next = finder.again(newest, cx).await?,
                }
            }
        }
        cx.check()?;
    }
}
