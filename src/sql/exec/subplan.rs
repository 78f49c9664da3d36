//! Answers of subqueries and of functions that wait, before the expressions around them are evaluated.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::{Cx, State, all, next};
use crate::sql::arrays;
use crate::sql::error::SqlError;
use crate::sql::plan::expr::Answer;
use crate::sql::plan::{Expr, Subplan, Wanted};
use crate::sql::sequence;
use crate::sql::types::Datum;

/// Answers all subplans that `exprs` need for `row`.
///
/// # Errors
/// What the subqueries say; 21000, more than one row where one is wanted.
pub async fn answer<'x>(exprs: impl IntoIterator<Item = &'x Expr>, row: &[Datum], cx: &mut Cx<'_>) -> Result<(), SqlError> {
    if cx.program.subplans.is_empty() {
        return Ok(());
    }
    let mut wanted = Vec::new();
    for expr in exprs {
        expr.walk(&mut |expr| match expr {
            Expr::Answer(subplan) | Expr::InAnswer { subplan, .. } => wanted.push(*subplan),
            _ => {}
        });
    }
    for id in wanted {
        let program = cx.program;
        let subplan = program.subplans.get(id).ok_or_else(|| SqlError::new("XX000", "no such subquery"))?;
        if cx.run.answers.len() < program.subplans.len() {
            cx.run.answers.resize(program.subplans.len(), None);
        }
        let volatile = subplan.wanted.is_function();
        if subplan.correlated || volatile || cx.run.answers[id].is_none() {
            let answer = one(subplan, row, cx).await?;
            cx.run.answers[id] = Some(answer);
        }
    }
    Ok(())
}

fn one<'e>(
    subplan: &'e Subplan,
    row: &'e [Datum],
    cx: &'e mut Cx<'_>,
) -> Pin<Box<dyn Future<Output = Result<Answer, SqlError>> + Send + 'e>> {
    Box::pin(async move {
        if subplan.wanted.is_function() {
            answer(subplan.args.iter(), row, cx).await?;
            let env = cx.env();
            let values = subplan.args.iter().map(|arg| arg.eval(row, &env)).collect::<Result<Vec<_>, _>>()?;
            let first = values.first().unwrap_or(&Datum::Null);
            return Ok(Answer::Value(match subplan.wanted {
                Wanted::Sleep => sleep(first, cx).await?,
                Wanted::CurrentValue => sequence::current(values.first(), cx.world)?,
                Wanted::SetValue => sequence::set(&values, cx).await?,
                _ => sequence::next(first, cx).await?,
            }));
        }
        cx.run.outer.push(row.to_vec());
        let memory = cx.run.memory.len();
        let found = query(subplan, cx).await;
        if subplan.correlated {
            cx.run.memory.truncate(memory);
        }
        cx.run.outer.pop();
        found
    })
}

async fn query(subplan: &Subplan, cx: &mut Cx<'_>) -> Result<Answer, SqlError> {
    let mut state = State::new(&subplan.plan);
    let first = |row: Vec<Datum>| row.into_iter().next().unwrap_or(Datum::Null);
    Ok(match subplan.wanted {
        Wanted::Exists => Answer::Value(Datum::Bool(!next(&subplan.plan, &mut state, cx).await?.is_empty())),
        Wanted::Scalar => {
            let mut rows = next(&subplan.plan, &mut state, cx).await?;
            if rows.len() > 1 || (rows.len() == 1 && !next(&subplan.plan, &mut state, cx).await?.is_empty()) {
                return Err(SqlError::new("21000", "more than one row returned by a subquery used as an expression"));
            }
            Answer::Value(rows.pop().map_or(Datum::Null, first))
        }
        Wanted::Array(element) => {
            let values: Vec<Datum> = all(&subplan.plan, &mut state, cx).await?.into_iter().map(first).collect();
            Answer::Value(arrays::build(element, &values, cx.world.context().formats))
        }
        _ => Answer::List(all(&subplan.plan, &mut state, cx).await?.into_iter().map(first).collect()),
    })
}

/// `pg_sleep`: in slices, so that it can be cancelled.
async fn sleep(seconds: &Datum, cx: &mut Cx<'_>) -> Result<Datum, SqlError> {
    let Datum::Float8(seconds) = seconds else { return Ok(Datum::Null) };
    let runtime = cx.world.seams.clone();
    let end = runtime.now() + Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::from_secs(1 << 30));
    loop {
        cx.check()?;
        let left = end.since(runtime.now());
        if left.is_zero() {
            return Ok(Datum::Text(String::new()));
        }
        runtime.sleep(left.min(Duration::from_millis(10))).await;
    }
}
