//! What a transaction has done to definitions: kept with it until its end is complete.
//!
//! As long as any transaction has changed definitions and isn't over, nobody uses the cache of committed ones ([`super::cache`]): between
//! its commit and the moment when the cache hears of it, the cache would be wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::cache::Cache;
use crate::base::TreeId;
use crate::table::rows::Transaction;

/// Definitions and trees that a transaction has changed, made or looked at.
#[derive(Default)]
pub(super) struct Own {
    /// Set once it changes definitions: tells the cache at the end.
    changing: Option<Changing>,
    /// Names that it gave or took.
    pub(super) names: BTreeSet<String>,
    /// Tables that it made, dropped or changed.
    pub(super) tables: BTreeSet<u32>,
    /// Trees that it made, which nobody else sees.
    pub(super) trees: BTreeSet<TreeId>,
    /// Repeatable read: whether its snapshot may read an index.
    pub(super) readable: BTreeMap<TreeId, bool>,
}

/// Holds the cache off.
struct Changing {
    cache: Arc<Cache>,
}

impl Drop for Changing {
    fn drop(&mut self) {
        self.cache.change_over();
    }
}

/// What is attached to `txn`.
pub(super) fn own(txn: &Transaction) -> Option<&Own> {
    txn.attachment()?.downcast_ref()
}

/// The same, made if need be.
pub(super) fn own_mut(txn: &mut Transaction) -> &mut Own {
    let attachment = txn.attachment_mut().get_or_insert_with(|| Box::new(Own::default()));
    attachment.downcast_mut().expect("only this module attaches anything")
}

/// Notes that `txn` changes definitions.
pub(super) fn changing<'t>(txn: &'t mut Transaction, cache: &Arc<Cache>) -> &'t mut Own {
    let own = own_mut(txn);
    if own.changing.is_none() {
        cache.change_begins();
        own.changing = Some(Changing { cache: cache.clone() });
    }
    own
}

/// Whether `txn` has changed definitions.
pub(super) fn has_changed(txn: &Transaction) -> bool {
    own(txn).is_some_and(|own| own.changing.is_some())
}
