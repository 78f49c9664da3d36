//! Rows as members of sets: DISTINCT, INTERSECT, EXCEPT.

use rustc_hash::{FxHashMap, FxHashSet};

use super::memory::Memory;
use super::{Cx, State, all, next, subplan};
use crate::sql::error::SqlError;
use crate::sql::plan::expr::Env;
use crate::sql::plan::{Expr, Plan, Row};
use crate::sql::types::Datum;

/// Rows that were there already.
#[derive(Default)]
pub struct Seen {
    keys: FxHashSet<Vec<u8>>,
    memory: Option<Memory>,
}

/// Appends bytes that equal values share and others don't have; null is equal to null.
pub fn hash_key(value: &Datum, out: &mut Vec<u8>) {
    let mut put = |tag: u8, bytes: &[u8]| {
        out.push(tag);
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Datum::Null => put(0, &[]),
        Datum::Bool(value) => put(1, &[u8::from(*value)]),
        Datum::Int2(value) => put(2, &i64::from(*value).to_le_bytes()),
        Datum::Int4(value) => put(2, &i64::from(*value).to_le_bytes()),
        Datum::Int8(value) => put(2, &value.to_le_bytes()),
        // -0 equals 0, all NaNs are equal.
        Datum::Float8(value) if value.is_nan() => put(3, &f64::NAN.to_bits().to_le_bytes()),
        Datum::Float8(value) => put(3, &(value + 0.0).to_bits().to_le_bytes()),
        Datum::Numeric(value) => put(4, value.normalized().to_string().as_bytes()),
        Datum::Text(value) => put(5, value.as_bytes()),
        Datum::Bytea(value) => put(6, value),
        Datum::Timestamp(value) | Datum::TimestampTz(value) => put(7, &value.to_le_bytes()),
        Datum::Date(value) => put(8, &value.to_le_bytes()),
        Datum::Uuid(value) => put(9, value),
    }
}

/// The same of a row.
pub fn row_key(row: &[Datum]) -> Vec<u8> {
    let mut key = Vec::new();
    row.iter().for_each(|value| hash_key(value, &mut key));
    key
}

/// The same of what the row is told apart by.
pub fn key_on(on: Option<&[Expr]>, row: &[Datum], env: &Env<'_>) -> Result<Vec<u8>, SqlError> {
    let Some(on) = on else { return Ok(row_key(row)) };
    let mut key = Vec::new();
    for expr in on {
        hash_key(&*expr.value(row, env)?, &mut key);
    }
    Ok(key)
}

/// Each row, or each value of `on`, once.
pub async fn distinct(
    input: &Plan,
    state: &mut State,
    on: Option<&[Expr]>,
    seen: &mut Seen,
    cx: &mut Cx<'_>,
) -> Result<Vec<Row>, SqlError> {
    let mut memory = seen.memory.take().unwrap_or_else(|| Memory::new(cx.world));
    let kept = loop {
        let rows = next(input, state, cx).await?;
        if rows.is_empty() {
            break rows;
        }
        let mut kept = Vec::with_capacity(rows.len());
        for row in rows {
            let key = match on {
                None => row_key(&row),
                Some(exprs) => {
                    subplan::answer(exprs, &row, cx).await?;
                    let env = cx.env();
                    key_on(Some(exprs), &row, &env)?
                }
            };
            if seen.keys.insert(key) {
                memory.take(&row)?;
                kept.push(row);
            }
        }
        if !kept.is_empty() {
            break kept;
        }
        cx.check()?;
    };
    seen.memory = Some(memory);
    Ok(kept)
}

/// Rows of the left that the right has too, or with `except` hasn't.
pub async fn combine(
    left: &Plan,
    right: &Plan,
    states: &mut (State, State),
    (except, whole): (bool, bool),
    on: Option<&[Expr]>,
    cx: &mut Cx<'_>,
) -> Result<Vec<Row>, SqlError> {
    let mut counts: FxHashMap<Vec<u8>, usize> = FxHashMap::default();
    for row in all(right, &mut states.1, cx).await? {
        *counts.entry(key_on(on, &row, &cx.env())?).or_default() += 1;
    }
    let mut given: FxHashSet<Vec<u8>> = FxHashSet::default();
    let mut rows = all(left, &mut states.0, cx).await?;
    let mut keys = rows.iter().map(|row| key_on(on, row, &cx.env())).collect::<Result<Vec<_>, _>>()?.into_iter();
    rows.retain(|_| {
        let key = keys.next().unwrap_or_default();
        let count = counts.get_mut(&key);
        if !whole {
            return (count.is_some() != except) && given.insert(key);
        }
        match count {
            Some(left @ 1..) => {
                *left -= 1;
                !except
            }
            _ => except,
        }
    });
    Ok(rows)
}
