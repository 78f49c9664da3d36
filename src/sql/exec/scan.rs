//! Tables read: all of them, ranges of their keys or indexes, single rows; locked if asked for.

use std::collections::VecDeque;
use std::ops::Bound;

use super::memory::Memory;
use super::{Cx, keep, subplan};
use crate::sql::arrays;
use crate::sql::error::SqlError;
use crate::sql::plan::{Access, Among, KeyRange as PlannedRange, Row, RowLock, Scan};
use crate::sql::types::{Datum, Type};
use crate::table::Direction;
use crate::table::catalog::{Index, Table};
use crate::table::datum::key::{KeyRange, encode_key, encode_part};
use crate::table::datum::row::{decode_column, decode_columns, decode_row};
use crate::table::rows::{self, Changed, OnConflict, RowError};
use crate::table::tables::{IndexCursor, TableCursor, TablesError};

/// How far a scan is.
#[derive(Default)]
pub struct ScanState {
    source: Source,
    /// Parts of the key or index that come after the one that is read.
    ranges: std::vec::IntoIter<KeyRange>,
    /// Rows read but not yet locked.
    waiting: VecDeque<rows::Row>,
}

#[derive(Default)]
enum Source {
    #[default]
    New,
    Row(rows::Row),
    Table(TableCursor),
    Index(Box<IndexCursor>),
    Gathered(std::vec::IntoIter<rows::Row>),
    End,
}

/// The rows' columns that a scan needs, the others null.
pub fn decode(table: &Table, wanted: &[u16], value: &[u8]) -> Result<Row, SqlError> {
    let columns = &table.columns;
    let damaged = |error| SqlError::from(TablesError::Codec { table: table.name.clone(), error });
    if wanted.is_empty() {
        return Ok(Row::new());
    }
    if wanted.len() == columns.len() {
        return decode_row(value, columns).map_err(damaged);
    }
    let mut found = Vec::with_capacity(wanted.len());
    decode_columns(value, columns, wanted, &mut found).map_err(damaged)?;
    let mut row = vec![Datum::Null; columns.len()];
    for (position, datum) in wanted.iter().zip(found) {
        row[usize::from(*position)] = datum;
    }
    Ok(row)
}

/// A value compared with a key's column, as that column's type has it.
enum Fitted {
    Value(Datum),
    /// Comparisons with null are never true.
    Null,
    /// Below all values of the type.
    Below,
    /// Above.
    Above,
}

fn fit(value: Datum, ty: Type) -> Fitted {
    let integer = match &value {
        Datum::Null => return Fitted::Null,
        Datum::Int2(value) => i64::from(*value),
        Datum::Int4(value) => i64::from(*value),
        Datum::Int8(value) => *value,
        _ => return Fitted::Value(value),
    };
    let beyond = if integer < 0 { Fitted::Below } else { Fitted::Above };
    match ty {
        Type::Int2 => i16::try_from(integer).map_or(beyond, |value| Fitted::Value(Datum::Int2(value))),
        Type::Int4 => i32::try_from(integer).map_or(beyond, |value| Fitted::Value(Datum::Int4(value))),
        Type::Int8 => Fitted::Value(Datum::Int8(integer)),
        _ => Fitted::Value(value),
    }
}

/// The value as the column's type has it; nothing when no row can have it.
pub(super) fn fitting(value: Datum, ty: Type) -> Option<Datum> {
    match fit(value, ty) {
        Fitted::Value(value) => Some(value),
        _ => None,
    }
}

impl Cx<'_> {
    /// The range with its values; nothing when no row can be in it.
    pub fn range(&self, planned: &PlannedRange, types: &[Type]) -> Result<Option<KeyRange>, SqlError> {
        let env = self.env();
        let mut equal = Vec::with_capacity(planned.equal.len());
        for (expr, ty) in planned.equal.iter().zip(types) {
            match fit(expr.eval(&[], &env)?, *ty) {
                Fitted::Value(value) => equal.push(value),
                _ => return Ok(None),
            }
        }
        let ty = types.get(equal.len()).copied().unwrap_or(Type::Bool);
        let bound = |bound: &Bound<crate::sql::plan::Expr>| -> Result<Bound<Fitted>, SqlError> {
            Ok(match bound {
                Bound::Included(expr) => Bound::Included(fit(expr.eval(&[], &env)?, ty)),
                Bound::Excluded(expr) => Bound::Excluded(fit(expr.eval(&[], &env)?, ty)),
                Bound::Unbounded => Bound::Unbounded,
            })
        };
        let mut nulls_out = false;
        let mut side = |found: Bound<Fitted>, inside: fn(&Fitted) -> bool| match found {
            Bound::Unbounded => Some(Bound::Unbounded),
            Bound::Included(Fitted::Value(value)) => Some(Bound::Included(value)),
            Bound::Excluded(Fitted::Value(value)) => Some(Bound::Excluded(value)),
            Bound::Included(fitted) | Bound::Excluded(fitted) if inside(&fitted) => {
                nulls_out = true;
                Some(Bound::Unbounded)
            }
            _ => None,
        };
        let Some(low) = side(bound(&planned.low)?, |fitted| matches!(fitted, Fitted::Below)) else { return Ok(None) };
        let Some(high) = side(bound(&planned.high)?, |fitted| matches!(fitted, Fitted::Above)) else { return Ok(None) };
        let mut high = high;
        if nulls_out && matches!((&low, &high), (Bound::Unbounded, Bound::Unbounded)) {
            // Every value, but no null.
            high = Bound::Included(most(ty));
        }
        let range = KeyRange::between(&equal, low.as_ref(), high.as_ref(), types);
        let range = range.map_err(|error| SqlError::new("XX000", format!("a key's bounds: {error}")))?;
        Ok((!range.is_empty()).then_some(range))
    }
}

fn most(ty: Type) -> Datum {
    match ty {
        Type::Int2 => Datum::Int2(i16::MAX),
        Type::Int4 => Datum::Int4(i32::MAX),
        _ => Datum::Int8(i64::MAX),
    }
}

/// Types of the columns of the key or index that a range is of.
pub fn range_types(table: &Table, index: Option<usize>) -> Vec<Type> {
    match index {
        None => table.key_types(),
        Some(index) => table.types(&table.indexes[index].columns),
    }
}

impl ScanState {
    /// The next rows that satisfy the scan's filter.
    pub async fn next(&mut self, scan: &Scan, cx: &mut Cx<'_>) -> Result<Vec<Row>, SqlError> {
        if let Some(lock) = scan.lock {
            return Ok(self.next_locked(scan, lock, cx).await?.into_iter().collect());
        }
        loop {
            let found = self.raw(scan, cx).await?;
            if found.is_empty() {
                return Ok(Vec::new());
            }
            let rows = found.iter().map(|row| decode(&scan.table, &scan.wanted, &row.value)).collect::<Result<Vec<_>, _>>()?;
            let kept = keep(rows, scan.filter.as_ref(), cx).await?;
            if !kept.is_empty() {
                return Ok(kept);
            }
            cx.check()?;
        }
    }

    /// The next row, locked: one at a time, so that a limit locks no more than it gives.
    async fn next_locked(&mut self, scan: &Scan, lock: RowLock, cx: &mut Cx<'_>) -> Result<Option<Row>, SqlError> {
        let conflict = if lock == RowLock::Wait { OnConflict::Wait } else { OnConflict::NoWait };
        loop {
            let Some(mut seen) = self.waiting.pop_front() else {
                let found = self.raw(scan, cx).await?;
                if found.is_empty() {
                    return Ok(None);
                }
                self.waiting.extend(found);
                continue;
            };
            let mut condition = scan.filter.as_ref();
            loop {
                let row = decode(&scan.table, &scan.wanted, &seen.value)?;
                let Some(row) = keep(vec![row], condition, cx).await?.pop() else { break };
                let outcome = match cx.tables.lock_row(cx.txn, &scan.table, &seen, conflict).await {
                    Err(TablesError::Row(RowError::LockNotAvailable)) if lock == RowLock::Skip => break,
                    outcome => outcome?,
                };
                match outcome {
                    Changed::Done(_) => return Ok(Some(row)),
                    Changed::Moved(None) => break,
                    Changed::Moved(Some(newest)) => {
                        seen = newest;
                        condition = scan.condition.as_ref();
                    }
                }
            }
        }
    }

    /// The next rows of the table's part that is read, as they are stored; none at the end.
    pub async fn raw(&mut self, scan: &Scan, cx: &mut Cx<'_>) -> Result<Vec<rows::Row>, SqlError> {
        if let Source::New = self.source {
            (self.source, self.ranges) = open(scan, cx).await?;
        }
        loop {
            let found = match &mut self.source {
                Source::Table(cursor) => cursor.next(cx.txn).await?,
                Source::Index(cursor) => cursor.next(cx.txn, super::BATCH).await?,
                Source::Row(_) => match std::mem::replace(&mut self.source, Source::End) {
                    Source::Row(row) => vec![row],
                    _ => Vec::new(),
                },
                Source::Gathered(rows) => rows.take(super::BATCH).collect(),
                Source::New | Source::End => Vec::new(),
            };
            if !found.is_empty() {
                return Ok(found);
            }
            let Some(range) = self.ranges.next() else { return Ok(found) };
            self.source = part(scan, range, cx);
            cx.check()?;
        }
    }
}

/// The cursor over a part of the key or index that the scan goes by.
fn part(scan: &Scan, range: KeyRange, cx: &Cx<'_>) -> Source {
    let direction = if scan.backward { Direction::Down } else { Direction::Up };
    let index = match &scan.access {
        Access::Range(planned) => planned.index,
        Access::All => None,
    };
    match index {
        None => Source::Table(cx.tables.scan(cx.txn, &scan.table, range, direction)),
        Some(index) => {
            let index = &scan.table.indexes[index];
            Source::Index(Box::new(cx.tables.index_scan(cx.txn, &scan.table, index, range, direction)))
        }
    }
}

/// Parts of a key whose next column has one of several values, in the key's order.
fn parts(planned: &PlannedRange, among: &Among, types: &[Type], cx: &Cx<'_>) -> Result<Vec<KeyRange>, SqlError> {
    let env = cx.env();
    let mut equal = Vec::with_capacity(types.len());
    for (expr, ty) in planned.equal.iter().zip(types) {
        match fitting(expr.eval(&[], &env)?, *ty) {
            Some(value) => equal.push(value),
            None => return Ok(Vec::new()),
        }
    }
    let values = match among {
        Among::List(all) => all.iter().map(|expr| expr.eval(&[], &env)).collect::<Result<Vec<_>, _>>()?,
        Among::Array(array, ty) => match array.eval(&[], &env)? {
            Datum::Null => Vec::new(),
            array => arrays::elements(*ty, &array, &env.context)?,
        },
    };
    let ty = types.get(equal.len()).copied().unwrap_or(Type::Bool);
    let mut prefixes = Vec::with_capacity(values.len());
    let failed = |error| SqlError::new("XX000", format!("a key's values: {error}"));
    let mut first = Vec::new();
    encode_key(&equal, types, &mut first).map_err(failed)?;
    for value in values.into_iter().filter_map(|value| fitting(value, ty)) {
        let mut prefix = first.clone();
        encode_part(&value, ty, &mut prefix).map_err(failed)?;
        prefixes.push(prefix);
    }
    prefixes.sort_unstable();
    prefixes.dedup();
    Ok(prefixes.into_iter().map(KeyRange::prefix).collect())
}

/// What is read first, and the parts that come after it.
async fn open(scan: &Scan, cx: &mut Cx<'_>) -> Result<(Source, std::vec::IntoIter<KeyRange>), SqlError> {
    let table = &scan.table;
    let none = || Vec::new().into_iter();
    let Access::Range(planned) = &scan.access else { return Ok((part(scan, KeyRange::ALL, cx), none())) };
    let bounds = [&planned.low, &planned.high].into_iter().filter_map(|bound| match bound {
        Bound::Included(expr) | Bound::Excluded(expr) => Some(expr),
        Bound::Unbounded => None,
    });
    subplan::answer(planned.equal.iter().chain(bounds), &[], cx).await?;
    let types = range_types(table, planned.index);
    if planned.index.is_none() && planned.equal.len() == types.len() {
        return Ok((point(planned, &types, table, cx).await?, none()));
    }
    let mut ranges = match &planned.among {
        Some(among) => {
            match among {
                Among::List(all) => subplan::answer(all, &[], cx).await?,
                Among::Array(array, _) => subplan::answer([array], &[], cx).await?,
            }
            parts(planned, among, &types, cx)?
        }
        None => cx.range(planned, &types)?.into_iter().collect(),
    };
    if ranges.is_empty() {
        return Ok((Source::End, none()));
    }
    if let Some(index) = planned.index.map(|index| &table.indexes[index])
        && !cx.tables.readable(cx.txn, table, index).await?
    {
        let direction = if scan.backward { Direction::Down } else { Direction::Up };
        let rows = gathered(table, index, &ranges, direction, cx).await?;
        return Ok((Source::Gathered(rows.into_iter()), none()));
    }
    if scan.backward {
        ranges.reverse();
    }
    let mut ranges = ranges.into_iter();
    let first = ranges.next().map_or(Source::End, |range| part(scan, range, cx));
    Ok((first, ranges))
}

/// The rows that an index would give, without it: it was built after the snapshot, and lacks entries of rows that the snapshot sees. The plan counts
/// on their order.
async fn gathered(
    table: &Table,
    index: &Index,
    ranges: &[KeyRange],
    direction: Direction,
    cx: &mut Cx<'_>,
) -> Result<Vec<rows::Row>, SqlError> {
    let damaged = |error| SqlError::from(TablesError::Codec { table: table.name.clone(), error });
    let mut memory = Memory::new(cx.world);
    let mut found: Vec<(Vec<u8>, rows::Row)> = Vec::new();
    let mut cursor = cx.tables.scan(cx.txn, table, KeyRange::ALL, Direction::Up);
    loop {
        let rows = cursor.next(cx.txn).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let mut key = Vec::with_capacity(32);
            for position in index.columns.iter().map(|position| usize::from(*position)) {
                let value = decode_column(&row.value, &table.columns, position).map_err(damaged)?;
                encode_part(&value, table.columns[position].ty, &mut key).map_err(damaged)?;
            }
            key.extend(&row.key);
            if ranges.iter().any(|range| range.contains(&key)) {
                memory.take_bytes(key.len() + row.key.len() + row.value.len())?;
                found.push((key, row));
            }
        }
        cx.check()?;
    }
    found.sort_unstable_by(|left, right| left.0.cmp(&right.0));
    if direction == Direction::Down {
        found.reverse();
    }
    cx.run.memory.push(memory);
    Ok(found.into_iter().map(|(_, row)| row).collect())
}

async fn point(planned: &PlannedRange, types: &[Type], table: &Table, cx: &mut Cx<'_>) -> Result<Source, SqlError> {
    let mut values = Vec::with_capacity(types.len());
    for (expr, ty) in planned.equal.iter().zip(types) {
        match fitting(expr.eval(&[], &cx.env())?, *ty) {
            Some(value) => values.push(value),
            None => return Ok(Source::End),
        }
    }
    let mut key = Vec::with_capacity(16);
    encode_key(&values, types, &mut key).map_err(|error| SqlError::new("XX000", format!("a key's values: {error}")))?;
    Ok(cx.tables.get(cx.txn, table, &key).await?.map_or(Source::End, Source::Row))
}
