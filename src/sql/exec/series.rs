//! Functions that give rows: generate_series, unnest and their like, in FROM and among columns.

use super::{BATCH, Cx, State, next, subplan};
use crate::sql::arrays;
use crate::sql::error::SqlError;
use crate::sql::plan::{Expr, Plan, Projected, Row, SetFunction};
use crate::sql::types::{Datum, SqlType};

/// What a call still has to give.
#[derive(Default)]
pub enum SeriesState {
    /// Not called yet.
    #[default]
    New,
    /// Integers: the next one, the last, the step, how many were given.
    Integers { at: Option<i64>, end: i64, step: i64, ty: SqlType, given: i64 },
    /// Values that are there.
    Values(std::vec::IntoIter<Datum>, i64),
}

fn integer(value: &Datum) -> Option<i64> {
    match value {
        Datum::Int2(value) => Some(i64::from(*value)),
        Datum::Int4(value) => Some(i64::from(*value)),
        Datum::Int8(value) => Some(*value),
        _ => None,
    }
}

fn start(function: &SetFunction, args: &[Datum], cx: &Cx<'_>) -> Result<SeriesState, SqlError> {
    let values = match function {
        SetFunction::Series(_) | SetFunction::Unnest(_) | SetFunction::Subscripts(_) if args.contains(&Datum::Null) => Vec::new(),
        SetFunction::Series(ty) => {
            let step = args.get(2).map_or(Some(1), integer).unwrap_or(1);
            if step == 0 {
                return Err(SqlError::new("22023", "step size cannot equal zero"));
            }
            let (Some(from), Some(end)) = (args.first().and_then(integer), args.get(1).and_then(integer)) else {
                return Err(SqlError::new("XX000", "generate_series of what is no integer"));
            };
            return Ok(SeriesState::Integers { at: Some(from), end, step, ty: *ty, given: 0 });
        }
        SetFunction::Unnest(ty) => arrays::elements(*ty, &args[0], &cx.world.context())?,
        SetFunction::Subscripts(ty) => {
            let length = arrays::elements(*ty, &args[0], &cx.world.context())?.len() as i32;
            let first = arrays::lower_bound(*ty);
            (first..first + length).map(Datum::Int4).collect()
        }
        SetFunction::Pieces(function) => {
            let found = function.call(args, &cx.world.context())?;
            if found == Datum::Null { Vec::new() } else { arrays::elements(arrays::array_of(SqlType::TEXT), &found, &cx.world.context())? }
        }
    };
    Ok(SeriesState::Values(values.into_iter(), 0))
}

impl SeriesState {
    /// The next value and its number.
    fn one(&mut self) -> Option<(Datum, i64)> {
        match self {
            SeriesState::New => None,
            SeriesState::Values(values, given) => {
                *given += 1;
                values.next().map(|value| (value, *given))
            }
            SeriesState::Integers { at, end, step, ty, given } => {
                let now = at.filter(|now| if *step > 0 { *now <= *end } else { *now >= *end })?;
                *at = now.checked_add(*step);
                *given += 1;
                let value = if *ty == SqlType::INT4 { Datum::Int4(i32::try_from(now).ok()?) } else { Datum::Int8(now) };
                Some((value, *given))
            }
        }
    }

    /// The next rows of a call in FROM.
    pub async fn next(&mut self, function: &SetFunction, args: &[Expr], ordinality: bool, cx: &mut Cx<'_>) -> Result<Vec<Row>, SqlError> {
        if let SeriesState::New = self {
            subplan::answer(args, &[], cx).await?;
            let env = cx.env();
            let values = args.iter().map(|arg| arg.eval(&[], &env)).collect::<Result<Vec<_>, _>>()?;
            *self = start(function, &values, cx)?;
        }
        cx.check()?;
        let mut rows = Vec::with_capacity(BATCH);
        while rows.len() < BATCH {
            let Some((value, number)) = self.one() else { break };
            rows.push(if ordinality { vec![value, Datum::Int8(number)] } else { vec![value] });
        }
        Ok(rows)
    }
}

/// Each row of the input as many times as the longest of its sets has values.
pub async fn project(
    input: &Plan,
    state: &mut State,
    columns: &[Projected],
    waiting: &mut std::vec::IntoIter<Row>,
    cx: &mut Cx<'_>,
) -> Result<Vec<Row>, SqlError> {
    loop {
        let out: Vec<Row> = waiting.by_ref().take(BATCH).collect();
        if !out.is_empty() {
            return Ok(out);
        }
        let rows = next(input, state, cx).await?;
        if rows.is_empty() {
            return Ok(rows);
        }
        let mut made = Vec::new();
        for row in rows {
            expand(columns, &row, &mut made, cx).await?;
        }
        *waiting = made.into_iter();
    }
}

async fn expand(columns: &[Projected], row: &[Datum], made: &mut Vec<Row>, cx: &mut Cx<'_>) -> Result<(), SqlError> {
    enum Source {
        One(Datum),
        Set(SeriesState),
    }
    for column in columns {
        match column {
            Projected::One(expr) => subplan::answer([expr], row, cx).await?,
            Projected::Set(_, args) => subplan::answer(args, row, cx).await?,
        }
    }
    let env = cx.env();
    let mut sources = Vec::with_capacity(columns.len());
    for column in columns {
        sources.push(match column {
            Projected::One(expr) => Source::One(expr.eval(row, &env)?),
            Projected::Set(function, args) => {
                let values = args.iter().map(|arg| arg.eval(row, &env)).collect::<Result<Vec<_>, _>>()?;
                Source::Set(start(function, &values, cx)?)
            }
        });
    }
    loop {
        let mut any = false;
        let made_now: Row = sources
            .iter_mut()
            .map(|source| match source {
                Source::One(value) => value.clone(),
                Source::Set(series) => series.one().map_or(Datum::Null, |(value, _)| {
                    any = true;
                    value
                }),
            })
            .collect();
        if !any {
            return Ok(());
        }
        made.push(made_now);
        cx.check()?;
    }
}
