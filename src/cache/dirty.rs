//! The dirty page table: pages whose newest change isn't durable at home, by the first log position they need replayed.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{Lsn, PageId};

/// Dirty pages, oldest first. A page is in at most one of the three.
#[derive(Default)]
pub(crate) struct DirtyTable {
    by_position: BTreeSet<(Lsn, PageId)>,
    /// Pages that can't be written: they hold back the checkpoint and aren't picked again.
    held: BTreeMap<PageId, Lsn>,
    /// Pages whose write is owed elsewhere, as they were given away before they were written: they hold back the checkpoint until somebody says that
    /// they are durable (rule 9).
    images: BTreeMap<PageId, Lsn>,
}

impl DirtyTable {
    pub(crate) fn len(&self) -> usize {
        self.by_position.len() + self.held.len() + self.images.len()
    }

    /// Pages that can be written.
    pub(crate) fn writable(&self) -> usize {
        self.by_position.len()
    }

    /// The oldest position that a dirty page needs replayed.
    pub(crate) fn oldest(&self) -> Option<Lsn> {
        let writable = self.by_position.first().map(|(position, _)| *position);
        writable.into_iter().chain(self.held.values().copied()).chain(self.images.values().copied()).min()
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
        self.images.remove(&page);
    }

    /// The write of `page` is owed elsewhere from now on: keep its position, don't pick it.
    pub(crate) fn make_image(&mut self, position: Lsn, page: PageId) {
        self.remove(position, page);
        self.images.insert(page, position);
    }

    /// Pages whose write is owed elsewhere and that need the log from before `position`.
    pub(crate) fn images_before(&self, position: Lsn) -> Vec<PageId> {
        self.images.iter().filter(|(_, image)| **image < position).map(|(page, _)| *page).collect()
    }

    /// Whether `page`, dirty from `position` on, is one of those to be written.
    pub(crate) fn is_writable(&self, position: Lsn, page: PageId) -> bool {
        self.by_position.contains(&(position, page))
    }

    /// `page` can't be written: keep its position, don't pick it again.
    pub(crate) fn hold(&mut self, position: Lsn, page: PageId) {
        self.remove(position, page);
        self.held.insert(page, position);
    }

    /// `page`, which wasn't written, needs no log any more.
    pub(crate) fn let_go(&mut self, page: PageId) {
        self.held.remove(&page);
    }

    /// Pages that can't be written and need the log from before `position`.
    pub(crate) fn held_before(&self, position: Lsn) -> Vec<PageId> {
        self.held.iter().filter(|(_, held)| **held < position).map(|(page, _)| *page).collect()
    }

    /// Whether `page` can't be written, or not be recovered.
    pub(crate) fn is_held(&self, page: PageId) -> bool {
        self.held.contains_key(&page)
    }

    /// The oldest pages are to be written up to the result, in batches of `batch` until `enough` of the oldest position and the number of pages
    /// that would be left; no more than `batches`, and none that became dirty at `young` or later. None when there is no such page.
    pub(crate) fn goal(&self, batch: usize, batches: usize, young: Lsn, enough: impl Fn(Option<Lsn>, usize) -> bool) -> Option<Lsn> {
        let held = self.held.values().chain(self.images.values()).min().copied();
        let mut goal = None;
        let mut old = self.by_position.iter().take_while(|(position, _)| *position < young).take(batch * batches).enumerate().peekable();
        while let Some((index, (position, _))) = old.next() {
            goal = Some(Lsn(position.0 + 1));
            if (index + 1) % batch == 0 || old.peek().is_none() {
                let next = old
                    .peek()
                    .map(|(_, (position, _))| *position)
                    .or_else(|| self.by_position.iter().nth(index + 1).map(|(next, _)| *next));
                if enough(next.into_iter().chain(held).min(), self.len() - index - 1) {
                    break;
                }
            }
        }
        goal
    }

    /// The page at `position` that can't be written, if there is one.
    pub(crate) fn held_at(&self, position: Lsn) -> Option<PageId> {
        self.held.iter().find(|(_, held)| **held == position).map(|(page, _)| *page)
    }

    /// Up to `most` of the oldest pages that can be written.
    pub(crate) fn pick(&self, most: usize) -> Vec<PageId> {
        self.by_position.iter().take(most).map(|(_, page)| *page).collect()
    }
}
