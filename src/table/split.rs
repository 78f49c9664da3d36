//! Putting a cell into a node where it doesn't fit: the node is split, and its parent gets a cell for the new right sibling.
//!
//! ```text
//! before   P: .. | k -> N | ..          after   P: .. | k -> N | S -> R | ..
//!          N: low .. high, right X              N: low .. S, right R     R: S .. high, right X     (X isn't touched)
//! ```
//! N keeps its page. R is formatted with its cells in one operation. The separator S is the shortest that parts leaves; between inner
//! nodes it is the first key of R, whose own first key becomes empty. A root first moves its cells into a new page and becomes that
//! page's parent: a root never changes its page. Where a cell goes to a node's end, the split is there too, so that keys
//! that come in order, up or down, fill their pages.

use super::change::Change;
use super::error::{Damage, TableError};
use super::node::{Draft, LEVEL_MAX, damaged};
use crate::base::{PageId, TreeId};
use crate::page::slotted::{self, CAPACITY};
use crate::redo::record::Op;

/// A cell on its way into a node.
#[derive(Clone, Copy)]
pub(super) struct Cell<'a> {
    pub(super) slot: usize,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    /// Cells may follow on the same side: split at the end where this one goes.
    pub(super) in_order: bool,
}

/// The cells of a node together with the one that is put in, by their place afterwards.
struct Cells<'a> {
    bytes: &'a [u8],
    new: Cell<'a>,
}

impl Cells<'_> {
    fn count(&self) -> usize {
        slotted::count(self.bytes) + 1
    }

    fn key(&self, at: usize) -> &[u8] {
        match at.cmp(&self.new.slot) {
            std::cmp::Ordering::Less => slotted::key(self.bytes, at),
            std::cmp::Ordering::Equal => self.new.key,
            std::cmp::Ordering::Greater => slotted::key(self.bytes, at - 1),
        }
    }

    fn value(&self, at: usize) -> &[u8] {
        match at.cmp(&self.new.slot) {
            std::cmp::Ordering::Less => slotted::value(self.bytes, at),
            std::cmp::Ordering::Equal => self.new.value,
            std::cmp::Ordering::Greater => slotted::value(self.bytes, at - 1),
        }
    }

    fn size(&self, at: usize) -> usize {
        slotted::cell_size(self.key(at).len(), self.value(at).len())
    }

    /// What parts the cells before `at` from those behind.
    fn separator(&self, at: usize, leaf: bool) -> &[u8] {
        let (below, above) = (self.key(at - 1), self.key(at));
        if !leaf {
            return above;
        }
        let common = below.iter().zip(above).take_while(|(one, other)| one == other).count();
        &above[..(common + 1).min(above.len())]
    }

    /// Where to split so that both halves fit: at the end for cells in order, else as near to the middle as can be.
    fn split_at(&self, leaf: bool) -> Option<usize> {
        let count = self.count();
        let mut before = Vec::with_capacity(count + 1);
        before.push(0);
        for at in 0..count {
            before.push(before[at] + self.size(at));
        }
        let whole = before[count];
        let (low, high) = (slotted::low(self.bytes).map_or(0, <[u8]>::len), slotted::high(self.bytes).map_or(0, <[u8]>::len));
        let fits = |at: &usize| {
            let separator = self.separator(*at, leaf).len();
            let emptied = if leaf { 0 } else { self.key(*at).len() };
            low + separator + before[*at] <= CAPACITY && separator + high + (whole - before[*at]) - emptied <= CAPACITY
        };
        if self.new.in_order && self.new.slot == count - 1 {
            return (1..count).rev().find(fits);
        }
        if self.new.in_order && self.new.slot == 0 {
            return (1..count).find(fits);
        }
        let middle = before.partition_point(|size| *size < whole / 2).clamp(1, count - 1);
        (0..count).flat_map(|off| [middle.checked_sub(off), Some(middle + off)]).flatten().filter(|at| (1..count).contains(at)).find(fits)
    }
}

/// A node's right half, and how the left one is cut.
struct Halves {
    right: Draft,
    separator: Vec<u8>,
    /// The first cell that leaves the left half.
    from: usize,
    /// Whether the new cell is in the right half.
    new_is_right: bool,
}

fn halve(bytes: &[u8], tree: TreeId, page: PageId, new: Cell<'_>) -> Result<Halves, TableError> {
    let level = slotted::level(bytes);
    let leaf = level == 0;
    let cells = Cells { bytes, new };
    let unsplittable = || damaged(tree, page, Damage::Unsplittable);
    let at = cells.split_at(leaf).ok_or_else(unsplittable)?;
    let separator = cells.separator(at, leaf).to_vec();
    let mut right = Draft::node(tree, level);
    let draft = right.bytes();
    slotted::set_low(draft, &separator).map_err(|_| unsplittable())?;
    slotted::set_bounds(draft, slotted::high(bytes), slotted::right(bytes)).map_err(|_| unsplittable())?;
    for cell in at..cells.count() {
        let key = if cell == at && !leaf { &[] } else { cells.key(cell) };
        slotted::insert(draft, cell - at, key, cells.value(cell)).map_err(|_| unsplittable())?;
    }
    let new_is_right = at <= new.slot;
    Ok(Halves { right, separator, from: if new_is_right { at } else { at - 1 }, new_is_right })
}

impl Change<'_> {
    /// Puts `new` into `page`, a node of `tree` that the change holds, splitting it when it doesn't fit.
    pub(super) fn insert(&mut self, tree: TreeId, page: PageId, new: Cell<'_>) -> Result<(), TableError> {
        if self.fits(page, new.key, new.value) {
            return self.apply(page, Op::Insert { slot: new.slot as u16, key: new.key, value: new.value });
        }
        let page = if self.is_root(page, tree) { self.move_root_down(tree, page)? } else { page };
        let level = slotted::level(self.page(page));
        let halves = halve(self.page(page), tree, page, new)?;
        let right = self.allocate(Some(page))?;
        self.apply(right, halves.right.op())?;
        self.apply(page, Op::SplitOff { from: halves.from as u16, right, high: Some(&halves.separator) })?;
        if !halves.new_is_right {
            self.apply(page, Op::Insert { slot: new.slot as u16, key: new.key, value: new.value })?;
        }
        let (parent, slot) = self.parent(tree, &halves.separator, level + 1, page)?;
        let pointer = right.0.to_le_bytes();
        self.insert(tree, parent, Cell { slot: slot + 1, key: &halves.separator, value: &pointer, in_order: new.in_order })
    }

    /// Moves the cells of the root into a new page and makes the root that page's parent.
    pub(super) fn move_root_down(&mut self, tree: TreeId, root: PageId) -> Result<PageId, TableError> {
        let level = slotted::level(self.page(root));
        if level >= LEVEL_MAX {
            return Err(damaged(tree, root, Damage::TooHigh { found: level }));
        }
        let below = self.allocate(Some(root))?;
        let mut moved = Draft::node(tree, level);
        moved.bytes().copy_from_slice(self.page(root));
        self.apply(below, moved.op())?;
        let mut raised = Draft::node(tree, level + 1);
        slotted::insert(raised.bytes(), 0, &[], &below.0.to_le_bytes()).map_err(|_| damaged(tree, root, Damage::Unsplittable))?;
        self.apply(root, raised.op())?;
        Ok(below)
    }
}
