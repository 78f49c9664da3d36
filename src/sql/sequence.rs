//! Sequences: numbers that are given once, whatever becomes of the transaction.
//!
//! A sequence is a table of one row with columns that no other table has ([`COLUMNS`]). An instance reserves numbers in blocks, each in a
//! transaction of its own, and gives them from memory; what is left of a block is lost when the instance ends. A sequence that this
//! transaction has made, and nobody else sees, is counted up in the transaction itself.

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::error::SqlError;
use super::exec::Cx;
use super::types::Datum;
use super::world::{Snapshot, World};
use crate::table::Direction;
use crate::table::catalog::Table;
use crate::table::datum::key::KeyRange;
use crate::table::datum::row::decode_row;
use crate::table::rows::{Interrupt, Transaction};
use crate::table::tables::{Tables, TablesError, Updated};
use crate::txn::Isolation;

/// Names of a sequence's columns, all bigint but `is_called`, boolean.
pub const COLUMNS: [&str; 5] = ["last_value", "log_cnt", "is_called", "start_value", "increment_by"];
/// Numbers reserved at a time.
const BLOCK: i64 = 256;

/// Numbers reserved: the next one and how many there are.
#[derive(Default)]
struct Reserved {
    next: i64,
    left: i64,
    increment: i64,
}

/// Sequences in use, by number. Clones share everything.
#[derive(Clone, Default)]
pub struct Sequences {
    all: Arc<Mutex<FxHashMap<u32, Arc<tokio::sync::Mutex<Reserved>>>>>,
}

impl Sequences {
    fn of(&self, id: u32) -> Arc<tokio::sync::Mutex<Reserved>> {
        self.all.lock().entry(id).or_default().clone()
    }

    /// What was reserved is forgotten: the sequence was set, or is gone.
    pub fn forget(&self, id: u32) {
        self.all.lock().remove(&id);
    }
}

/// Whether a table is a sequence.
pub fn is_sequence(table: &Table) -> bool {
    table.columns.len() == COLUMNS.len() && table.columns.iter().zip(COLUMNS).all(|(column, name)| column.name == name)
}

/// The sequence that a column's default takes numbers from.
pub fn named_in(default: &str) -> Option<&str> {
    default.strip_prefix("nextval('")?.split('\'').next()
}

/// The first row of a new sequence.
pub fn first_row(start: i64, increment: i64) -> Vec<Datum> {
    vec![Datum::Int8(start), Datum::Int8(0), Datum::Bool(false), Datum::Int8(start), Datum::Int8(increment)]
}

fn find(wanted: &Datum, catalog: &Snapshot) -> Result<Arc<Table>, SqlError> {
    let missing = |name: &str| SqlError::new("42P01", format!("relation \"{name}\" does not exist"));
    let table = match wanted {
        Datum::Int8(id) => u32::try_from(*id).ok().and_then(|id| catalog.by_id(id)).ok_or_else(|| missing(&id.to_string()))?,
        Datum::Text(name) => {
            let bare = name.strip_prefix("public.").unwrap_or(name).trim_matches('"');
            catalog.table(bare).ok_or_else(|| missing(name))?
        }
        _ => return Err(SqlError::new("22004", "a sequence has no name")),
    };
    match is_sequence(table) {
        true => Ok(table.clone()),
        false => Err(SqlError::new("42809", format!("\"{}\" is not a sequence", table.name))),
    }
}

/// What a change makes of a sequence's row: the new row and what it gives.
type Change<'f, T> = &'f (dyn Fn(&mut [Datum]) -> Result<T, SqlError> + Sync);

/// Changes the sequence's row; nothing when the transaction sees none.
async fn change<T>(tables: &Tables, txn: &mut Transaction, table: &Table, change: Change<'_, T>) -> Result<Option<T>, SqlError> {
    let mut cursor = tables.scan(txn, table, KeyRange::ALL, Direction::Up);
    let mut found = cursor.next(txn).await?.into_iter().next();
    while let Some(stored) = found.take() {
        let damaged = |error| SqlError::from(TablesError::Codec { table: table.name.clone(), error });
        let mut row = decode_row(&stored.value, &table.columns).map_err(damaged)?;
        let given = change(&mut row)?;
        match tables.update(txn, table, &stored, &row).await? {
            Updated::Done { .. } => return Ok(Some(given)),
            Updated::Moved(newest) => found = newest,
            Updated::Duplicate(_) => break,
        }
    }
    Ok(None)
}

/// Takes `count` numbers: the first one and the distance.
fn take(row: &mut [Datum], count: i64, name: &str) -> Result<(i64, i64), SqlError> {
    let [Datum::Int8(last), _, Datum::Bool(called), _, Datum::Int8(increment)] = row else {
        return Err(SqlError::new("XX001", format!("sequence \"{name}\" has a row that is none of a sequence")));
    };
    let exhausted = || SqlError::new("2200H", format!("nextval: reached maximum value of sequence \"{name}\" ({})", i64::MAX));
    let first = if *called { last.checked_add(*increment) } else { Some(*last) }.ok_or_else(exhausted)?;
    let end = increment.checked_mul(count - 1).and_then(|distance| first.checked_add(distance)).ok_or_else(exhausted)?;
    let distance = *increment;
    row[0] = Datum::Int8(end);
    row[2] = Datum::Bool(true);
    Ok((first, distance))
}

/// Does `work` in a transaction of its own; nothing when that doesn't see the sequence.
async fn apart<T>(tables: &Tables, table: &Table, work: Change<'_, T>) -> Result<Option<T>, SqlError> {
    let mut txn = tables.rows().begin(Isolation::ReadCommitted, Interrupt::default());
    txn.begin_statement();
    let given = change(tables, &mut txn, table, work).await;
    txn.end_statement();
    match given {
        Ok(Some(given)) => {
            txn.commit().await?;
            Ok(Some(given))
        }
        // A tree that another transaction doesn't see is one that this one has made.
        Ok(None) => {
            txn.rollback().await?;
            Ok(None)
        }
        Err(error) => {
            txn.rollback().await?;
            Err(error)
        }
    }
}

fn gave(world: &World, id: u32, value: i64) -> Datum {
    let mut state = world.client.state.lock();
    state.sequences.insert(id, value);
    state.last_sequence = Some(id);
    Datum::Int8(value)
}

/// `nextval`.
///
/// # Errors
/// 42P01, 42809, 2200H.
pub async fn next(wanted: &Datum, cx: &mut Cx<'_>) -> Result<Datum, SqlError> {
    if *wanted == Datum::Null {
        return Ok(Datum::Null);
    }
    let table = find(wanted, &cx.world.catalog)?;
    let reserved = cx.world.sequences.of(table.id);
    let mut reserved = reserved.lock().await;
    if reserved.left == 0 {
        let name = table.name.clone();
        match apart(cx.tables, &table, &|row| take(row, BLOCK, &name)).await? {
            Some((first, increment)) => *reserved = Reserved { next: first, left: BLOCK, increment },
            None => {
                let given = change(cx.tables, cx.txn, &table, &|row| take(row, 1, &name)).await?;
                let (value, _) = given.ok_or_else(|| SqlError::new("55000", format!("sequence \"{name}\" has no row")))?;
                return Ok(gave(cx.world, table.id, value));
            }
        }
    }
    let value = reserved.next;
    reserved.left -= 1;
    reserved.next = value.saturating_add(reserved.increment);
    Ok(gave(cx.world, table.id, value))
}

/// `setval(sequence, value [, is_called])`.
///
/// # Errors
/// 42P01, 42809.
pub async fn set(args: &[Datum], cx: &mut Cx<'_>) -> Result<Datum, SqlError> {
    let [wanted, Datum::Int8(value), rest @ ..] = args else { return Ok(Datum::Null) };
    let called = !matches!(rest, [Datum::Bool(false)]);
    let table = find(wanted, &cx.world.catalog)?;
    let reserved = cx.world.sequences.of(table.id);
    let mut reserved = reserved.lock().await;
    let put = |row: &mut [Datum]| {
        row[0] = Datum::Int8(*value);
        row[2] = Datum::Bool(called);
        Ok(())
    };
    if apart(cx.tables, &table, &put).await?.is_none() {
        change(cx.tables, cx.txn, &table, &put).await?;
    }
    *reserved = Reserved::default();
    Ok(if called { gave(cx.world, table.id, *value) } else { Datum::Int8(*value) })
}

/// `currval`, `lastval`.
///
/// # Errors
/// 55000: it has given nothing yet in this session.
pub fn current(wanted: Option<&Datum>, world: &World) -> Result<Datum, SqlError> {
    let state = world.client.state.lock();
    let Some(wanted) = wanted else {
        let last = state.last_sequence.and_then(|id| state.sequences.get(&id));
        return last.map(|value| Datum::Int8(*value)).ok_or_else(|| SqlError::new("55000", "lastval is not yet defined in this session"));
    };
    let table = find(wanted, &world.catalog)?;
    let value = state.sequences.get(&table.id).map(|value| Datum::Int8(*value));
    value.ok_or_else(|| SqlError::new("55000", format!("currval of sequence \"{}\" is not yet defined in this session", table.name)))
}
