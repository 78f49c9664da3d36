//! The dirty page table: pages whose newest change isn't durable at home, by the first log position they need replayed.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{Lsn, PageId};

/// Dirty pages, oldest first.
#[derive(Default)]
pub(crate) struct DirtyTable {
    by_position: BTreeSet<(Lsn, PageId)>,
    /// Pages that can't be written: they hold back the checkpoint and aren't picked again.
    held: BTreeMap<PageId, Lsn>,
}

impl DirtyTable {
    pub(crate) fn len(&self) -> usize {
        self.by_position.len() + self.held.len()
    }

    /// Pages that can be written.
    pub(crate) fn writable(&self) -> usize {
        self.by_position.len()
    }

    /// The oldest position that a dirty page needs replayed.
    pub(crate) fn oldest(&self) -> Option<Lsn> {
        let writable = self.by_position.first().map(|(position, _)| *position);
        writable.into_iter().chain(self.held.values().copied()).min()
    }

    /// The oldest position of a page that can be written.
    pub(crate) fn oldest_writable(&self) -> Option<Lsn> {
        self.by_position.first().map(|(position, _)| *position)
    }

    pub(crate) fn insert(&mut self, position: Lsn, page: PageId) {
        self.by_position.insert((position, page));
    }

    pub(crate) fn remove(&mut self, position: Lsn, page: PageId) {
        self.by_position.remove(&(position, page));
        self.held.remove(&page);
    }

    /// `page` can't be written: keep its position, don't pick it again.
    pub(crate) fn hold(&mut self, position: Lsn, page: PageId) {
        self.by_position.remove(&(position, page));
        self.held.insert(page, position);
    }

    /// Pages that can't be written and need the log from before `position`.
    pub(crate) fn held_before(&self, position: Lsn) -> Vec<PageId> {
        self.held.iter().filter(|(_, held)| **held < position).map(|(page, _)| *page).collect()
    }

    /// Whether `page` can't be written, or not be recovered.
    pub(crate) fn is_held(&self, page: PageId) -> bool {
        self.held.contains_key(&page)
    }

    /// Up to `most` of the oldest pages that can be written.
    pub(crate) fn pick(&self, most: usize) -> Vec<PageId> {
        self.by_position.iter().take(most).map(|(_, page)| *page).collect()
    }
}
