//! Groups and what is computed of them, in one pass over the input.

use rustc_hash::{FxHashMap, FxHashSet};

use super::memory::Memory;
use super::sets::{key_on, row_key};
use super::{Cx, State, next, sort, subplan};
use crate::sql::arrays;
use crate::sql::error::SqlError;
use crate::sql::plan::expr::Aggregator;
use crate::sql::plan::{Aggregate, AggregateCall, Expr, Row};
use crate::sql::types::aggregate::State as Plain;
use crate::sql::types::{Datum, SqlType};

struct Group {
    keys: Row,
    calls: Vec<Under>,
}

/// What an aggregate has seen.
enum Sum {
    Plain(Plain),
    Array(Vec<Datum>),
}

impl Sum {
    fn new(function: &Aggregator) -> Sum {
        match function {
            Aggregator::Plain(function) => Sum::Plain(function.init()),
            Aggregator::Array(_) => Sum::Array(Vec::new()),
        }
    }

    fn step(&mut self, function: &Aggregator, args: &[Datum]) -> Result<(), SqlError> {
        match (self, function) {
            (Sum::Plain(state), Aggregator::Plain(function)) => function.step(state, args),
            (Sum::Array(values), _) => {
                values.extend(args.first().cloned());
                Ok(())
            }
            _ => Err(SqlError::new("XX000", "an aggregate's state is not its own")),
        }
    }

    fn finish(self, function: &Aggregator, cx: &Cx<'_>) -> Result<Datum, SqlError> {
        match (self, function) {
            (Sum::Plain(state), Aggregator::Plain(function)) => function.finish(state),
            (Sum::Array(values), Aggregator::Array(_)) if values.is_empty() => Ok(Datum::Null),
            (Sum::Array(values), Aggregator::Array(element)) => Ok(arrays::build(*element, &values, &cx.world.formats)),
            _ => Err(SqlError::new("XX000", "an aggregate's state is not its own")),
        }
    }
}

/// One aggregate of a group.
struct Under {
    state: Sum,
    seen: FxHashSet<Vec<u8>>,
    /// Arguments that wait to be put in order.
    ordered: Vec<(Vec<Datum>, Vec<Datum>)>,
}

fn new_group(aggregate: &Aggregate, keys: Row) -> Group {
    let calls =
        aggregate.calls.iter().map(|call| Under { state: Sum::new(&call.function), seen: FxHashSet::default(), ordered: Vec::new() });
    Group { keys, calls: calls.collect() }
}

/// All groups' rows, in the order in which groups were met.
pub async fn gather(aggregate: &Aggregate, state: &mut State, cx: &mut Cx<'_>) -> Result<Vec<Row>, SqlError> {
    let mut memory = Memory::new(cx.world);
    let mut groups = Vec::new();
    let mut by_key: FxHashMap<Vec<u8>, usize> = FxHashMap::default();
    if aggregate.whole {
        groups.push(new_group(aggregate, Row::new()));
    }
    loop {
        let rows = next(&aggregate.input, state, cx).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let at = if aggregate.whole {
                0
            } else {
                subplan::answer(&aggregate.keys, &row, cx).await?;
                let env = cx.env();
                let keys = aggregate.keys.iter().map(|key| key.eval(&row, &env)).collect::<Result<Row, _>>()?;
                let key = key_on(aggregate.on.as_deref(), &keys, &env)?;
                match by_key.get(&key) {
                    Some(at) => *at,
                    None => {
                        memory.take(&keys)?;
                        groups.push(new_group(aggregate, keys));
                        by_key.insert(key, groups.len() - 1);
                        groups.len() - 1
                    }
                }
            };
            for (call, under) in aggregate.calls.iter().zip(&mut groups[at].calls) {
                step(call, under, &row, &mut memory, cx).await?;
            }
        }
        cx.check()?;
    }
    cx.run.memory.push(memory);
    groups.into_iter().map(|group| finish(aggregate, group, cx)).collect()
}

async fn step(call: &AggregateCall, under: &mut Under, row: &[Datum], memory: &mut Memory, cx: &mut Cx<'_>) -> Result<(), SqlError> {
    if let Some(filter) = &call.filter {
        subplan::answer([filter], row, cx).await?;
        if !filter.holds(row, &cx.env())? {
            return Ok(());
        }
    }
    subplan::answer(&call.args, row, cx).await?;
    let env = cx.env();
    if let ([Expr::Column(column)], false, true) = (call.args.as_slice(), call.distinct, call.order.is_empty()) {
        return under.state.step(&call.function, std::slice::from_ref(&row[*column]));
    }
    let args = call.args.iter().map(|arg| arg.eval(row, &env)).collect::<Result<Vec<_>, _>>()?;
    if call.distinct {
        let key = row_key(&args);
        if under.seen.contains(&key) {
            return Ok(());
        }
        memory.take(&args)?;
        under.seen.insert(key);
    }
    if call.order.is_empty() {
        return under.state.step(&call.function, &args);
    }
    let keys = sort::keys_of(&call.order, row, cx).await?;
    memory.take(&args)?;
    memory.take(&keys)?;
    under.ordered.push((keys, args));
    Ok(())
}

fn finish(aggregate: &Aggregate, group: Group, cx: &Cx<'_>) -> Result<Row, SqlError> {
    let mut row = group.keys;
    for (call, mut under) in aggregate.calls.iter().zip(group.calls) {
        if !call.order.is_empty() {
            let types: Vec<SqlType> = call.order.iter().map(|key| key.ty).collect();
            under.ordered.sort_by(|left, right| sort::order(&call.order, &types, &left.0, &right.0));
            for (_, args) in &under.ordered {
                under.state.step(&call.function, args)?;
            }
        }
        row.push(under.state.finish(&call.function, cx)?);
    }
    Ok(row)
}
