//! Order: all rows in memory, or the first so many.

use std::cmp::Ordering;

use super::memory::Memory;
use super::{Cx, State, next, subplan};
use crate::sql::error::SqlError;
use crate::sql::plan::{Limit, Plan, Row, SortKey};
use crate::sql::types::{Datum, SqlType, compare};

/// Where rows over the limit are thrown away: at this many more than twice the limit.
const SLACK: usize = 1000;

/// Compares by `keys`.
pub fn order(keys: &[SortKey], types: &[SqlType], left: &[Datum], right: &[Datum]) -> Ordering {
    for (at, key) in keys.iter().enumerate() {
        let (left, right) = (&left[at], &right[at]);
        let order = match (left == &Datum::Null, right == &Datum::Null) {
            (true, true) => Ordering::Equal,
            (true, false) if key.nulls_first => Ordering::Less,
            (true, false) => Ordering::Greater,
            (false, true) if key.nulls_first => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                // Both have the key's type, or the binder is wrong: then any order will do.
                let order = compare(types[at], left, right).unwrap_or(Ordering::Equal);
                if key.descending { order.reverse() } else { order }
            }
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

/// The keys of a row.
pub async fn keys_of(keys: &[SortKey], row: &[Datum], cx: &mut Cx<'_>) -> Result<Vec<Datum>, SqlError> {
    subplan::answer(keys.iter().map(|key| &key.expr), row, cx).await?;
    let env = cx.env();
    keys.iter().map(|key| key.expr.eval(row, &env)).collect()
}

/// All rows in order; with a limit only as many as it lets through.
pub async fn sorted(
    input: &Plan,
    state: &mut State,
    keys: &[SortKey],
    limit: Option<&Limit>,
    cx: &mut Cx<'_>,
) -> Result<Vec<Row>, SqlError> {
    let most = match limit {
        None => usize::MAX,
        Some(limit) => {
            subplan::answer(limit.count.iter().chain(&limit.offset), &[], cx).await?;
            let count = cx.rows(limit.count.as_ref(), "LIMIT", "2201W")?;
            let offset = cx.rows(limit.offset.as_ref(), "OFFSET", "2201X")?.unwrap_or(0);
            count.and_then(|count| usize::try_from(count.saturating_add(offset)).ok()).unwrap_or(usize::MAX)
        }
    };
    let types: Vec<SqlType> = keys.iter().map(|key| key.ty).collect();
    let by = |left: &(Vec<Datum>, Row), right: &(Vec<Datum>, Row)| order(keys, &types, &left.0, &right.0);
    let mut memory = Memory::new(cx.world);
    let mut rows: Vec<(Vec<Datum>, Row)> = Vec::new();
    loop {
        let more = next(input, state, cx).await?;
        if more.is_empty() {
            break;
        }
        for row in more {
            let key = keys_of(keys, &row, cx).await?;
            memory.take(&row)?;
            memory.take(&key)?;
            rows.push((key, row));
        }
        if rows.len() > most.saturating_mul(2).saturating_add(SLACK) {
            rows.sort_by(by);
            rows.truncate(most);
            memory.reset();
            for (key, row) in &rows {
                memory.take(row)?;
                memory.take(key)?;
            }
        }
        cx.check()?;
    }
    rows.sort_by(by);
    rows.truncate(most);
    cx.run.memory.push(memory);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}
