//! Joins: the right side in memory, found by hash or tried row by row; or read again for each row of the left, which depends on it or are few.

use rustc_hash::FxHashMap;

use super::memory::Memory;
use super::sets::hash_key;
use super::{Cx, State, all, next, subplan};
use crate::sql::error::SqlError;
use crate::sql::plan::{Expr, Join, JoinKind, Plan, Row};
use crate::sql::types::Datum;

/// How far a join is.
pub struct JoinState {
    left: State,
    right: State,
    built: Option<Built>,
    /// Rows of the left that wait.
    rows: std::vec::IntoIter<Row>,
    /// The left has ended: rows of the right without a pair come out.
    ended: bool,
    /// The left has no more rows than those that wait.
    last: bool,
    /// The right is looked for row by row.
    looks_up: bool,
}

/// For so many rows of the left the right is looked for by key or index; for more it is read whole.
const LOOKUPS_MAX: usize = 200;

struct Built {
    rows: Vec<Row>,
    /// By keys; nothing when there are no keys.
    by_key: Option<FxHashMap<Vec<u8>, Vec<usize>>>,
    /// Which rows had a pair, for a full join.
    paired: Vec<bool>,
}

impl JoinState {
    /// At the beginning.
    pub fn new(join: &Join) -> JoinState {
        let (left, right) = (State::new(&join.left), State::new(&join.right));
        JoinState { left, right, built: None, rows: Vec::new().into_iter(), ended: false, last: false, looks_up: false }
    }

    /// The next pairs.
    pub async fn next(&mut self, join: &Join, cx: &mut Cx<'_>) -> Result<Vec<Row>, SqlError> {
        if self.built.is_none() && !join.lateral && !self.looks_up && !self.has_few(join, cx).await? {
            self.built = Some(build(join, &mut self.right, cx).await?);
        }
        let mut out = Vec::new();
        while out.len() < super::BATCH {
            let Some(left) = self.rows.next() else {
                let more = if self.ended || self.last { Vec::new() } else { next(&join.left, &mut self.left, cx).await? };
                if !more.is_empty() {
                    self.rows = more.into_iter();
                    continue;
                }
                if !std::mem::replace(&mut self.ended, true) && join.kind == JoinKind::Full {
                    self.unpaired(join, &mut out);
                }
                break;
            };
            cx.check()?;
            let before = out.len();
            match &mut self.built {
                Some(built) => pairs(join, &left, built, &mut out, cx).await?,
                None => lateral(join, join.lookup.as_ref().unwrap_or(&join.right), &left, &mut out, cx).await?,
            }
            if out.len() == before && join.kind != JoinKind::Inner {
                out.push(joined(&left, &vec![Datum::Null; join.right_width]));
            }
        }
        Ok(out)
    }

    /// Decides how the right is found, by how many rows the left has: true if they are so few that each is looked for.
    async fn has_few(&mut self, join: &Join, cx: &mut Cx<'_>) -> Result<bool, SqlError> {
        if join.lookup.is_none() {
            return Ok(false);
        }
        let mut rows = Vec::new();
        while rows.len() <= LOOKUPS_MAX && !self.last {
            let more = next(&join.left, &mut self.left, cx).await?;
            self.last = more.is_empty();
            rows.extend(more);
        }
        self.looks_up = rows.len() <= LOOKUPS_MAX;
        self.rows = rows.into_iter();
        Ok(self.looks_up)
    }

    fn unpaired(&mut self, join: &Join, out: &mut Vec<Row>) {
        let Some(built) = &self.built else { return };
        let nulls = vec![Datum::Null; join.left_width];
        let alone = built.rows.iter().zip(&built.paired).filter(|(_, paired)| !**paired);
        out.extend(alone.map(|(right, _)| joined(&nulls, right)));
    }
}

fn joined(left: &[Datum], right: &[Datum]) -> Row {
    let mut row = Row::with_capacity(left.len() + right.len());
    row.extend_from_slice(left);
    row.extend_from_slice(right);
    row
}

/// The bytes that equal values share; nothing when one is null, which equals nothing.
async fn key<'x>(exprs: impl Iterator<Item = &'x Expr> + Clone, row: &[Datum], cx: &mut Cx<'_>) -> Result<Option<Vec<u8>>, SqlError> {
    subplan::answer(exprs.clone(), row, cx).await?;
    let env = cx.env();
    let mut bytes = Vec::new();
    for expr in exprs {
        let value = expr.value(row, &env)?;
        if *value == Datum::Null {
            return Ok(None);
        }
        hash_key(&value, &mut bytes);
    }
    Ok(Some(bytes))
}

async fn build(join: &Join, state: &mut State, cx: &mut Cx<'_>) -> Result<Built, SqlError> {
    let rows = all(&join.right, state, cx).await?;
    let mut by_key = None;
    if !join.keys.is_empty() {
        let mut map: FxHashMap<Vec<u8>, Vec<usize>> = FxHashMap::default();
        let mut memory = Memory::new(cx.world);
        for (at, row) in rows.iter().enumerate() {
            if let Some(key) = key(join.keys.iter().map(|(_, right)| right), row, cx).await? {
                memory.take(&[Datum::Int8(0)])?;
                map.entry(key).or_default().push(at);
            }
        }
        by_key = Some(map);
        cx.run.memory.push(memory);
    }
    let paired = vec![false; if join.kind == JoinKind::Full { rows.len() } else { 0 }];
    Ok(Built { rows, by_key, paired })
}

async fn pairs(join: &Join, left: &[Datum], built: &mut Built, out: &mut Vec<Row>, cx: &mut Cx<'_>) -> Result<(), SqlError> {
    let found: Vec<usize> = match &built.by_key {
        None => (0..built.rows.len()).collect(),
        Some(map) => match key(join.keys.iter().map(|(left, _)| left), left, cx).await? {
            Some(key) => map.get(&key).cloned().unwrap_or_default(),
            None => Vec::new(),
        },
    };
    for at in found {
        let row = joined(left, &built.rows[at]);
        if satisfies(join, &row, cx).await? {
            if let Some(paired) = built.paired.get_mut(at) {
                *paired = true;
            }
            out.push(row);
        }
    }
    Ok(())
}

async fn satisfies(join: &Join, row: &[Datum], cx: &mut Cx<'_>) -> Result<bool, SqlError> {
    let Some(condition) = &join.condition else { return Ok(true) };
    subplan::answer([condition], row, cx).await?;
    condition.holds(row, &cx.env())
}

/// Pairs with what `right` gives with this row of the left as its outer one.
async fn lateral(join: &Join, right: &Plan, left: &[Datum], out: &mut Vec<Row>, cx: &mut Cx<'_>) -> Result<(), SqlError> {
    cx.run.outer.push(left.to_vec());
    let memory = cx.run.memory.len();
    let found = all(right, &mut State::new(right), cx).await;
    cx.run.memory.truncate(memory);
    cx.run.outer.pop();
    for right in found? {
        let row = joined(left, &right);
        if satisfies(join, &row, cx).await? {
            out.push(row);
        }
    }
    Ok(())
}
