//! Which part of a table a scan reads, by which key or index, and in what order the rows come.

use std::ops::Bound;
use std::sync::Arc;

use super::expr::{Aggregator, Compare, Comparison};
use super::{Access, AggregateCall, Among, Expr, KeyRange, Limit, Plan, Scan, SortKey};
use crate::sql::types::{Datum, SqlType};
use crate::table::catalog::{IndexState, Table};

/// One condition on a column that a key can serve.
struct Usable {
    column: usize,
    compare: Compare,
    value: Expr,
    /// Which of the conditions it is.
    from: usize,
}

fn is_integer(ty: SqlType) -> bool {
    matches!(ty, SqlType::INT2 | SqlType::INT4 | SqlType::INT8)
}

/// `column compare value`, from either side, if the column's keys are ordered as the comparison orders.
fn usable(condition: &Expr, from: usize, table: &Table) -> Option<Usable> {
    let Expr::Compare(compare, ty, left, right) = condition else { return None };
    let (column, compare, value) = match (&**left, &**right) {
        (Expr::Column(column), value) if value.is_fixed() => (*column, *compare, value),
        (value, Expr::Column(column)) if value.is_fixed() => (*column, compare.mirrored(), value),
        _ => return None,
    };
    (fits(column, *ty, table) && compare != Compare::Ne).then(|| Usable { column, compare, value: value.clone(), from })
}

/// Whether keys with that column are ordered as values of type `ty` are compared.
fn fits(column: usize, ty: SqlType, table: &Table) -> bool {
    let Some(own) = table.columns.get(column).map(|column| SqlType::from(column.ty)) else { return false };
    own.base() == ty.base()
        || (is_integer(own) && is_integer(ty))
        || (own.is_text() && own.base() != SqlType::BPCHAR && ty == SqlType::TEXT)
}

/// A condition that a column has one of several values: an IN list, `= ANY (array)`.
struct OneOf {
    column: usize,
    among: Among,
    /// Which of the conditions it is.
    from: usize,
}

fn one_of(condition: &Expr, from: usize, table: &Table) -> Option<OneOf> {
    match condition {
        Expr::Or(all) => {
            let all =
                all.iter().map(|one| usable(one, from, table).filter(|one| one.compare == Compare::Eq)).collect::<Option<Vec<_>>>()?;
            let column = all.first()?.column;
            let same = all.iter().all(|one| one.column == column);
            same.then(|| OneOf { column, among: Among::List(all.into_iter().map(|one| one.value).collect()), from })
        }
        Expr::Any { compare, left, array, ty, all: false } => match (&**compare, &**left) {
            (Comparison::Plain(Compare::Eq, element), Expr::Column(column)) if array.is_fixed() && fits(*column, *element, table) => {
                Some(OneOf { column: *column, among: Among::Array((**array).clone(), *ty), from })
            }
            _ => None,
        },
        _ => None,
    }
}

/// A way to read, and how good it is.
struct Way {
    range: KeyRange,
    used: Vec<usize>,
    score: usize,
}

fn way(columns: &[u16], index: Option<usize>, unique: bool, conditions: &[Usable], lists: &[OneOf]) -> Way {
    let mut range = KeyRange { index, equal: Vec::new(), among: None, low: Bound::Unbounded, high: Bound::Unbounded };
    let mut used = Vec::new();
    for column in columns {
        let here = |wanted: &[Compare]| conditions.iter().find(|one| one.column == usize::from(*column) && wanted.contains(&one.compare));
        if let Some(equal) = here(&[Compare::Eq]) {
            range.equal.push(equal.value.clone());
            used.push(equal.from);
            continue;
        }
        if let Some(list) = lists.iter().find(|list| list.column == usize::from(*column)) {
            range.among = Some(list.among.clone());
            used.push(list.from);
            break;
        }
        if let Some(low) = here(&[Compare::Gt, Compare::Ge]) {
            let value = low.value.clone();
            range.low = if low.compare == Compare::Ge { Bound::Included(value) } else { Bound::Excluded(value) };
            used.push(low.from);
        }
        if let Some(high) = here(&[Compare::Lt, Compare::Le]) {
            let value = high.value.clone();
            range.high = if high.compare == Compare::Le { Bound::Included(value) } else { Bound::Excluded(value) };
            used.push(high.from);
        }
        break;
    }
    let bounds = usize::from(!matches!(range.low, Bound::Unbounded)) + usize::from(!matches!(range.high, Bound::Unbounded));
    let whole = range.equal.len() == columns.len() && unique;
    let each = range.among.is_some() && range.equal.len() + 1 == columns.len() && unique;
    // A whole unique key gives one row; each equal column is worth more than any bounds; the table itself more than an index on it.
    let score = if range.equal.is_empty() && range.among.is_none() && bounds == 0 {
        0
    } else {
        let several = usize::from(range.among.is_some()) * 80 + usize::from(each) * 500;
        usize::from(whole) * 1000 + range.equal.len() * 100 + several + bounds * 20 + usize::from(index.is_none()) * 10
    };
    Way { range, used, score }
}

/// The best access for `conditions` over the table's own columns, and which of them it makes unnecessary.
pub fn choose(table: &Table, conditions: &[Expr]) -> (Access, Vec<usize>) {
    let usable: Vec<Usable> = conditions.iter().enumerate().filter_map(|(at, one)| usable(one, at, table)).collect();
    let lists: Vec<OneOf> = conditions.iter().enumerate().filter_map(|(at, one)| one_of(one, at, table)).collect();
    let mut best: Option<Way> = None;
    let key = table.key.iter().map(|key| (key.columns.as_slice(), None, true));
    let ready = table.indexes.iter().enumerate().filter(|(_, index)| index.state == IndexState::Ready);
    let indexes = ready.map(|(at, index)| (index.columns.as_slice(), Some(at), index.unique));
    for (columns, index, unique) in key.chain(indexes) {
        let found = way(columns, index, unique, &usable, &lists);
        if found.score > best.as_ref().map_or(0, |best| best.score) {
            best = Some(found);
        }
    }
    match best {
        Some(way) => (Access::Range(Box::new(way.range)), way.used),
        None => (Access::All, Vec::new()),
    }
}

/// A scan of `table` for rows that satisfy all of `conditions`.
pub fn scan(table: &Arc<Table>, alias: &str, conditions: Vec<Expr>) -> Scan {
    let (access, used) = choose(table, &conditions);
    let rest = conditions.iter().enumerate().filter(|(at, _)| !used.contains(at)).map(|(_, one)| one.clone()).collect();
    Scan {
        table: table.clone(),
        alias: alias.to_string(),
        wanted: (0..table.columns.len() as u16).collect(),
        access,
        backward: false,
        filter: all(rest),
        condition: all(conditions),
        lock: None,
    }
}

/// All of them; nothing when there are none.
pub fn all(mut conditions: Vec<Expr>) -> Option<Expr> {
    match conditions.len() {
        0 => None,
        1 => conditions.pop(),
        _ => Some(Expr::And(conditions)),
    }
}

/// The conditions that must all be true.
pub fn conjuncts(condition: Expr, out: &mut Vec<Expr>) {
    match condition {
        Expr::And(all) => all.into_iter().for_each(|one| conjuncts(one, out)),
        Expr::Const(crate::sql::types::Datum::Bool(true)) => {}
        one => out.push(one),
    }
}

fn ordered_as(key: &SortKey, table: &Table, backward: bool) -> Option<u16> {
    let Expr::Column(column) = key.expr else { return None };
    let not_null = table.columns.get(column)?.not_null;
    let direction = key.descending == backward && (not_null || key.nulls_first == backward);
    // char(n) and text alike are ordered by their bytes, as keys are.
    direction.then_some(column as u16)
}

/// Whether columns with those of `equal` fixed come in the order of `keys`.
fn gives(columns: &[u16], equal: usize, keys: &[SortKey], table: &Table, backward: bool) -> bool {
    let fixed = &columns[..equal.min(columns.len())];
    let mut left = columns[fixed.len()..].iter();
    keys.iter().all(|key| match &key.expr {
        Expr::Column(column) if fixed.contains(&(*column as u16)) => true,
        _ => ordered_as(key, table, backward).is_some_and(|column| left.next() == Some(&column)),
    })
}

/// Makes `scan` give rows in the order of `keys`, if its access can, or if it has none yet and an index has that order. `limited`: few
/// rows are wanted, so that an index is worth it.
pub fn order(scan: &mut Scan, keys: &[SortKey], limited: bool) -> bool {
    let table = scan.table.clone();
    let by_key = table.key.as_ref().map(|key| key.columns.as_slice());
    match &scan.access {
        Access::Range(range) => {
            let columns = match range.index {
                None => by_key.unwrap_or_default(),
                Some(index) => &table.indexes[index].columns,
            };
            for backward in [false, true] {
                if gives(columns, range.equal.len(), keys, &table, backward) {
                    scan.backward = backward;
                    return true;
                }
            }
            false
        }
        Access::All => {
            let ready = table.indexes.iter().enumerate().filter(|(_, index)| limited && index.state == IndexState::Ready);
            let ways =
                by_key.map(|columns| (columns, None)).into_iter().chain(ready.map(|(at, index)| (index.columns.as_slice(), Some(at))));
            for (columns, index) in ways {
                for backward in [false, true] {
                    if gives(columns, 0, keys, &table, backward) {
                        if index.is_some() {
                            let range = KeyRange { index, equal: Vec::new(), among: None, low: Bound::Unbounded, high: Bound::Unbounded };
                            scan.access = Access::Range(Box::new(range));
                        }
                        scan.backward = backward;
                        return true;
                    }
                }
            }
            false
        }
    }
}

/// The input of an aggregate that is alone: of `min` and `max` of a column in whose order a key or index is, the first row.
pub fn extreme(input: Plan, call: &AggregateCall) -> Plan {
    let (Aggregator::Plain(function), [Expr::Column(column)], None) = (&call.function, call.args.as_slice(), &call.filter) else {
        return input;
    };
    let (descending, column) = match function.name {
        "min" => (false, *column),
        "max" => (true, *column),
        _ => return input,
    };
    let Plan::Scan(mut scan) = input else { return input };
    let ty = scan.table.columns.get(column).map_or(SqlType::Unknown, |column| column.ty.into());
    let key = SortKey { expr: Expr::Column(column), ty, descending, nulls_first: descending };
    // Rows that a filter refuses would have to be passed over one by one.
    if scan.filter.is_some() || !order(&mut scan, &[key], true) {
        return Plan::Scan(scan);
    }
    let known = scan.table.columns.get(column).is_some_and(|column| column.not_null);
    let scan = Plan::Scan(scan);
    let rows = if known { scan } else { Plan::Filter(Box::new(scan), Expr::Not(Box::new(Expr::IsNull(Box::new(Expr::Column(column)))))) };
    let limit = Limit { count: Some(Expr::Const(Datum::Int8(1))), offset: None };
    Plan::Limit(Box::new(rows), Box::new(limit))
}

/// Whether a scan that goes by key or index over one of `columns` could meet rows that the statement has moved.
pub fn could_meet(scan: &Scan, columns: &[u16]) -> bool {
    let table = &scan.table;
    let key = table.key.as_ref().map(|key| key.columns.as_slice()).unwrap_or_default();
    let by = match &scan.access {
        Access::Range(range) => match range.index {
            Some(index) => &table.indexes[index].columns,
            None => key,
        },
        Access::All => key,
    };
    let one = |range: &KeyRange| range.index.is_none() && range.equal.len() == key.len();
    !matches!(&scan.access, Access::Range(range) if one(range)) && columns.iter().any(|column| by.contains(column))
}
