//! Dropping whole trees.
//!
//! ```text
//! condemn  one group: the root's cells move to a new page, the root is freed, the directory's entry becomes one of a condemned tree
//! free     group by group: some children of the last node above the leaves, then the node itself, ... at last the entry
//! ```
//! From the first group on the tree is gone for everyone: its root page is no root. Each later group takes from their parent the children
//! that it frees, so that a crash in between loses no page: [`Trees::finish_drops`] goes on. Leaves are freed without being read.

use super::change::Change;
use super::descend::root;
use super::directory::condemned_key;
use super::error::{Damage, TableError, raced};
use super::node::{self, Draft, LEVEL_MAX, Pages, damaged};
use super::{DIRECTORY, SPLIT_BYTES, Trees};
use crate::base::{PageId, TreeId};
use crate::cache::Committed;
use crate::cache::wait::Footprint;
use crate::page::header::{self, Kind};
use crate::page::slotted;
use crate::redo::record::Op;

/// Most children freed by one group.
const FREED_MAX: usize = 24;

impl Trees {
    /// Drops a tree with all that is in it. Returns when its pages are free; it is gone, atomically, at the group returned.
    ///
    /// # Errors
    /// [`TableError::UnknownTree`], [`TableError::ReservedTree`], the cache's; when some of its pages couldn't be freed,
    /// [`Trees::finish_drops`] tries again.
    pub async fn drop_tree(&self, tree: TreeId) -> Result<Committed, TableError> {
        if tree == DIRECTORY || tree == TreeId(0) {
            return Err(TableError::ReservedTree { tree });
        }
        let committed = self.change(Footprint::Path, SPLIT_BYTES, |change| change.condemn(tree)).await?;
        self.finish_drops().await?;
        Ok(committed)
    }

    /// Frees what is left of trees that were dropped, also before a crash.
    ///
    /// # Errors
    /// [`TableError::Damaged`], the cache's.
    pub async fn finish_drops(&self) -> Result<(), TableError> {
        let _one_at_a_time = self.shared.dropping.lock().await;
        for entry in self.directory().await?.into_iter().filter(|entry| entry.condemned) {
            let mut left = true;
            while left {
                let free = |change: &mut Change<'_>| {
                    left = change.free_some(entry.tree, entry.root)?;
                    Ok(())
                };
                self.change(Footprint::Group, SPLIT_BYTES, free).await?;
            }
        }
        Ok(())
    }
}

impl Change<'_> {
    fn condemn(&mut self, tree: TreeId) -> Result<(), TableError> {
        if self.is_patient() {
            self.latch_root(DIRECTORY)?;
        }
        let (key, condemned) = (tree.0.to_be_bytes(), condemned_key(tree));
        let leaf = self.leaf(DIRECTORY, &key, None)?;
        let Ok(slot) = slotted::search(self.page(leaf), &key) else { return Err(TableError::UnknownTree { tree }) };
        let (page, view) = root(self, &self.shared.roots, tree)?;
        drop(view);
        self.latch(page)?;
        if !self.is_root(page, tree) {
            return Err(raced());
        }
        let level = slotted::level(self.page(page));
        if level > 0 {
            let moved = self.allocate(Some(page))?;
            let mut copy = Draft::node(tree, level);
            copy.bytes().copy_from_slice(self.page(page));
            self.apply(moved, copy.op())?;
            let behind = self.leaf(DIRECTORY, &condemned, Some(leaf))?;
            self.put(DIRECTORY, behind, &condemned, &moved.0.to_le_bytes())?;
        }
        self.free(page)?;
        // The entry may have moved to another leaf, when that one was split.
        let leaf = self.leaf(DIRECTORY, &key, Some(leaf))?;
        let slot = slotted::search(self.page(leaf), &key).unwrap_or(slot);
        self.remove(DIRECTORY, leaf, slot, &key)
    }

    /// Frees some pages of a condemned tree under `top`; false when nothing is left.
    fn free_some(&mut self, tree: TreeId, top: PageId) -> Result<bool, TableError> {
        let path = self.last_path(tree, top)?;
        let Some((&node, above)) = path.split_last() else { return Ok(false) };
        self.latch(node)?;
        self.need_condemned(tree, node)?;
        let count = slotted::count(self.page(node));
        if slotted::level(self.page(node)) == 1 {
            for slot in (count.saturating_sub(FREED_MAX)..count).rev() {
                let child = node::child(self.page(node), tree, node, slot)?;
                self.latch_fresh(child)?;
                self.apply(child, Op::Format { kind: Kind::Free, tree: TreeId(0), low: &[], heap: &[] })?;
                self.unmark(child)?;
                self.apply(node, Op::Delete { slot: slot as u16 })?;
            }
            if count > FREED_MAX {
                return Ok(true);
            }
        }
        self.free(node)?;
        let Some(&parent) = above.last() else {
            let key = condemned_key(tree);
            let leaf = self.leaf(DIRECTORY, &key, None)?;
            if let Ok(slot) = slotted::search(self.page(leaf), &key) {
                self.remove(DIRECTORY, leaf, slot, &key)?;
            }
            return Ok(false);
        };
        self.latch(parent)?;
        self.need_condemned(tree, parent)?;
        let last = slotted::count(self.page(parent)).saturating_sub(1);
        self.apply(parent, Op::Delete { slot: last as u16 })?;
        Ok(true)
    }

    /// From `top` to the last node that has no children to go on to, or only leaves.
    fn last_path(&self, tree: TreeId, top: PageId) -> Result<Vec<PageId>, TableError> {
        let mut path = vec![top];
        let mut page = top;
        for _ in 0..=LEVEL_MAX {
            let view = self.view(page)?;
            let count = slotted::count(&view);
            if header::of(&view).kind() != Some(Kind::Tree) || slotted::level(&view) <= 1 || count == 0 {
                return Ok(path);
            }
            page = node::child(&view, tree, page, count - 1)?;
            path.push(page);
        }
        Err(damaged(tree, top, Damage::TooHigh { found: LEVEL_MAX }))
    }

    fn need_condemned(&self, tree: TreeId, page: PageId) -> Result<(), TableError> {
        let bytes = self.page(page);
        let level = slotted::level(bytes);
        let header = header::of(bytes);
        if header.kind() != Some(Kind::Tree) {
            return Err(damaged(tree, page, Damage::Kind { found: header.kind }));
        }
        if header.tree() != tree {
            return Err(damaged(tree, page, Damage::Tree { found: header.tree() }));
        }
        if level == 0 { Err(damaged(tree, page, Damage::Level { expected: 1, found: 0 })) } else { Ok(()) }
    }
}
