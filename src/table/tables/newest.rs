//! Changes of rows whose newest version is the one that counts: entries of indexes and definitions, which nobody else changes while the
//! caller has the row or table that they belong to.

use crate::base::TreeId;
use crate::table::rows::{Changed, Inserted, OnConflict, RowError, Transaction, Version};

/// Deletes the newest version of a row; false when there is none.
///
/// # Errors
/// [`RowError`].
pub(in crate::table) async fn delete(txn: &mut Transaction, tree: TreeId, key: &[u8]) -> Result<bool, RowError> {
    // A row that the snapshot doesn't see has a version, but not this one: rows from long ago are seen by all.
    let mut seen = txn.get_latest(tree, key).await?.map_or(Version::default(), |row| row.version);
    loop {
        match txn.delete_latest(tree, key, seen).await? {
            Changed::Done(_) => return Ok(true),
            Changed::Moved(Some(row)) => seen = row.version,
            Changed::Moved(None) => return Ok(false),
        }
    }
}

/// The same, but leaves a row alone whose value isn't `value`; false when it was left alone, or there is none.
///
/// # Errors
/// [`RowError`].
pub(in crate::table) async fn delete_value(txn: &mut Transaction, tree: TreeId, key: &[u8], value: &[u8]) -> Result<bool, RowError> {
    let mut seen = txn.get_latest(tree, key).await?.map(|row| (row.version, row.value == value));
    loop {
        let (version, matches) = seen.unwrap_or((Version::default(), true));
        let changed = match matches {
            true => txn.delete_latest(tree, key, version).await?,
            false => txn.lock(tree, key, version, OnConflict::Wait).await?,
        };
        match changed {
            Changed::Done(_) => return Ok(matches),
            Changed::Moved(Some(row)) => seen = Some((row.version, row.value == value)),
            Changed::Moved(None) => return Ok(false),
        }
    }
}

/// Gives the row a value, whether there is one or not.
///
/// # Errors
/// [`RowError`].
pub(in crate::table) async fn put(txn: &mut Transaction, tree: TreeId, key: &[u8], value: &[u8]) -> Result<(), RowError> {
    loop {
        let Inserted::Exists(mut row) = txn.insert(tree, key, value).await? else { return Ok(()) };
        loop {
            match txn.update_latest(tree, key, row.version, value).await? {
                Changed::Done(_) => return Ok(()),
                Changed::Moved(Some(newer)) => row = newer,
                Changed::Moved(None) => break,
            }
        }
    }
}
