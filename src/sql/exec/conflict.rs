//! INSERT .. ON CONFLICT: what becomes of a row that is there already.

use rustc_hash::FxHashSet;

use super::change::{Tally, changed, failing_row};
use super::scan::decode;
use super::{Cx, keep};
use crate::sql::error::SqlError;
use crate::sql::errors::duplicate;
use crate::sql::plan::{Conflict, Insert, Row};
use crate::table::catalog::Table;
use crate::table::rows::{self, Changed, OnConflict, Version};
use crate::table::tables::{Added, Duplicate, Updated};

/// Whether the constraint that was violated is the one that ON CONFLICT names.
fn is_meant(conflict: &Conflict, table: &Table, found: &Duplicate) -> bool {
    match conflict.target {
        None => true,
        Some(None) => table.key.as_ref().is_some_and(|key| key.name == found.constraint),
        Some(Some(index)) => table.indexes[index].name == found.constraint,
    }
}

/// The newest version of the row that is in the way; nothing when it is gone.
async fn newest(table: &Table, found: &Duplicate, cx: &mut Cx<'_>) -> Result<Option<rows::Row>, SqlError> {
    if let Some(row) = &found.row {
        return Ok(Some(row.clone()));
    }
    if let Some(row) = cx.tables.get(cx.txn, table, &found.key).await? {
        return Ok(Some(row));
    }
    // The snapshot doesn't see it: ask for it by locking a version that never was.
    let never = rows::Row { key: found.key.clone(), value: Vec::new(), version: Version::default() };
    match cx.tables.lock_row(cx.txn, table, &never, OnConflict::Wait).await? {
        Changed::Moved(row) => Ok(row),
        Changed::Done(_) => Ok(None),
    }
}

/// Does what ON CONFLICT says for `row`, which is refused because of `found`.
pub(super) async fn resolve(
    insert: &Insert,
    conflict: &Conflict,
    row: Row,
    mut found: Duplicate,
    touched: &mut FxHashSet<Vec<u8>>,
    tally: &mut Tally<'_>,
    cx: &mut Cx<'_>,
) -> Result<(), SqlError> {
    let table = &insert.table;
    loop {
        if !is_meant(conflict, table, &found) {
            // It is in the way of several: the one that is named counts.
            let named = match conflict.target {
                Some(index) => cx.tables.conflicting(cx.txn, table, index, &row).await?,
                None => None,
            };
            found = match named {
                Some(named) => named,
                None => return Err(duplicate(&found, table, cx.world)),
            };
        }
        let Some(set) = &conflict.update else { return Ok(()) };
        if touched.contains(&found.key) {
            let message = "ON CONFLICT DO UPDATE command cannot affect row a second time";
            let hint = "Ensure that no rows proposed for insertion within the same command have duplicate constrained values.";
            return Err(SqlError::new("21000", message).hint(hint));
        }
        let mut there = newest(table, &found, cx).await?;
        while let Some(stored) = there.take() {
            let wanted: Vec<u16> = (0..table.columns.len() as u16).collect();
            let old = decode(table, &wanted, &stored.value)?;
            let both: Row = old.into_iter().chain(row.iter().cloned()).collect();
            let Some(both) = keep(vec![both], conflict.condition.as_ref(), cx).await?.pop() else {
                match cx.tables.lock_row(cx.txn, table, &stored, OnConflict::Wait).await? {
                    Changed::Done(_) => return Ok(()),
                    Changed::Moved(newer) => there = newer,
                }
                continue;
            };
            let new = changed(table, set, &both, cx).await?;
            match cx.tables.update(cx.txn, table, &stored, &new).await.map_err(|error| failing_row(error, &new, cx))? {
                Updated::Done { key, .. } => {
                    touched.insert(key);
                    return tally.count(&new, cx).await;
                }
                Updated::Moved(newer) => there = newer,
                Updated::Duplicate(other) => return Err(duplicate(&other, table, cx.world)),
            }
        }
        // It is gone: there may be room now.
        match cx.tables.insert(cx.txn, table, &row).await.map_err(|error| failing_row(error, &row, cx))? {
            Added::Done(key) => {
                touched.insert(key);
                return tally.count(&row, cx).await;
            }
            Added::Duplicate(next) => found = *next,
        }
        cx.check()?;
    }
}
