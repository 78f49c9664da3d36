//! Taking cells out, and putting what is left of nodes together.
//!
//! ```text
//! before   P: .. | k -> L | S -> R | ..        after   P: .. | k -> L | ..        R: free
//!          L: low .. S     R: S .. high                L: low .. high, with the cells of both
//! ```
//! A node that falls under a quarter is merged with a sibling under the same parent when both fit into one with room to spare, so
//! that the next insert doesn't split it again. A root with one child takes that child's cells over and becomes a level lower.

use super::change::Change;
use super::error::TableError;
use super::node::{self, Draft};
use crate::base::{PageId, TreeId};
use crate::page::slotted::{self, CAPACITY};
use crate::redo::record::Op;

/// Most bytes in use in a merged node.
const MERGED_MAX: usize = CAPACITY * 7 / 8;

/// Whether taking out a cell has brought a node from `before` to `after` bytes in use so that a merge should be tried: at some marks
/// only, as a sibling that is full stays so for a while.
fn is_due(before: usize, after: usize, cells: usize) -> bool {
    cells == 0 || [4, 8, 16, 32].iter().any(|part| before >= CAPACITY / part && after < CAPACITY / part)
}

impl Change<'_> {
    /// Takes the cell in `slot` out of `page`, a node of `tree` that the change holds and that covers `key`.
    pub(super) fn remove(&mut self, tree: TreeId, page: PageId, slot: usize, key: &[u8]) -> Result<(), TableError> {
        let before = slotted::used(self.page(page));
        self.apply(page, Op::Delete { slot: slot as u16 })?;
        let bytes = self.page(page);
        let only_child = slotted::level(bytes) > 0 && slotted::count(bytes) == 1;
        if only_child || is_due(before, slotted::used(bytes), slotted::count(bytes)) {
            self.merge(tree, page, key)?;
        }
        Ok(())
    }

    /// Merges `page` with a sibling if they fit together.
    fn merge(&mut self, tree: TreeId, page: PageId, key: &[u8]) -> Result<(), TableError> {
        if self.is_root(page, tree) {
            return self.pull_up(tree, page);
        }
        let level = slotted::level(self.page(page));
        let (mut parent, mut slot) = self.parent(tree, key, level + 1, page)?;
        if slotted::count(self.page(parent)) == 1 && !self.is_root(parent, tree) {
            // No sibling here: the parent's sibling has some, when those two fit together.
            self.merge(tree, parent, key)?;
            (parent, slot) = self.parent(tree, key, level + 1, page)?;
        }
        let count = slotted::count(self.page(parent));
        for right_slot in [slot + 1, slot] {
            if right_slot == 0 || right_slot >= count {
                continue;
            }
            let left = node::child(self.page(parent), tree, parent, right_slot - 1)?;
            let right = node::child(self.page(parent), tree, parent, right_slot)?;
            let sibling = if left == page { right } else { left };
            self.latch(sibling)?;
            if let Some(damage) = node::fault(self.page(sibling), tree, level) {
                return Err(node::damaged(tree, sibling, damage));
            }
            if !self.fit_together(left, right) {
                self.unlatch(sibling);
                continue;
            }
            self.join(left, right)?;
            return self.remove(tree, parent, right_slot, key);
        }
        Ok(())
    }

    fn fit_together(&self, left: PageId, right: PageId) -> bool {
        let (left, right) = (self.page(left), self.page(right));
        let low = slotted::low(right).map_or(0, <[u8]>::len);
        let high = slotted::high(left).map_or(0, <[u8]>::len);
        // Of an inner node the right one's lower fence becomes its first cell's key.
        let kept = if slotted::level(left) > 0 { low } else { 0 };
        slotted::used(left) - high + slotted::used(right) - low + kept <= MERGED_MAX
    }

    /// Appends the cells of `right` to `left` and frees `right`.
    fn join(&mut self, left: PageId, right: PageId) -> Result<(), TableError> {
        let mut bytes = [0; crate::base::limits::PAGE_SIZE];
        bytes.copy_from_slice(self.page(right));
        self.apply(left, Op::SetBounds { right: slotted::right(&bytes), high: slotted::high(&bytes) })?;
        let inner = slotted::level(&bytes) > 0;
        for slot in 0..slotted::count(&bytes) {
            let low = slotted::low(&bytes).unwrap_or_default();
            let key = if inner && slot == 0 { low } else { slotted::key(&bytes, slot) };
            self.apply(left, Op::Append { key, value: slotted::value(&bytes, slot) })?;
        }
        self.free(right)
    }

    /// While the root has one child, takes over that child's cells.
    fn pull_up(&mut self, tree: TreeId, root: PageId) -> Result<(), TableError> {
        while slotted::level(self.page(root)) > 0 && slotted::count(self.page(root)) == 1 {
            let level = slotted::level(self.page(root));
            let child = node::child(self.page(root), tree, root, 0)?;
            self.latch(child)?;
            if let Some(damage) = node::fault(self.page(child), tree, level - 1) {
                return Err(node::damaged(tree, child, damage));
            }
            let mut moved = Draft::node(tree, level - 1);
            moved.bytes().copy_from_slice(self.page(child));
            self.apply(root, moved.op())?;
            self.free(child)?;
        }
        Ok(())
    }
}
