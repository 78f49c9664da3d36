//! Putting keys behind the end of a tree, whole leaves at a time.
//!
//! ```text
//! before   P: .. | k -> L          after   P: .. | k -> L | S1 -> R1 | S2 -> R2
//!          L: low ..               L: low .. S1, right R1     R1: S1 .. S2, right R2     R2: S2 ..
//! ```
//! What fits into the last leaf goes there; the rest goes into new leaves, each formatted with its cells in one operation, and all of them in one
//! change group with their cells in the parents. A full leaf keeps room for the fence that it gets when it isn't the last one any more. Callers: loads.
//! Keys that aren't behind the end are put where they belong, one by one.

use super::Trees;
use super::batch::Batch;
use super::change::Change;
use super::error::TableError;
use super::node::Draft;
use super::split::Cell;
use crate::base::limits::{INLINE_MAX, PAGE_SIZE};
use crate::base::{PageId, TreeId};
use crate::cache::wait::Footprint;
use crate::page::slotted;
use crate::redo::record::Op;

/// Most new leaves of one change group.
const LEAVES_MAX: usize = 24;

/// Bytes of pairs that make as many leaves full as one change group takes, whatever lies in the tree's last leaf.
pub(super) const GROUP_FILL: usize = (LEAVES_MAX + 1) * PAGE_SIZE;

/// A leaf to be made.
struct Leaf {
    draft: Draft,
    low: Vec<u8>,
}

impl Trees {
    /// Puts the pairs of `batch` from `from` on, whose keys ascend and lie above all others of `tree`, into it, as many as one change group takes;
    /// returns how many.
    ///
    /// # Errors
    /// As [`Trees::apply`].
    pub(super) async fn append(&self, tree: TreeId, batch: &Batch, from: usize) -> Result<usize, TableError> {
        if from >= batch.len() {
            return Ok(0);
        }
        let (key_bytes, value_bytes) = (batch.key(from).len(), batch.value(from).len());
        if key_bytes + value_bytes > INLINE_MAX {
            return Err(TableError::ValueTooLarge { key_bytes, value_bytes });
        }
        let most = LEAVES_MAX * PAGE_SIZE;
        let cells = (from..batch.len()).scan(0, |bytes, at| {
            *bytes += slotted::cell_size(batch.key(at).len(), batch.value(at).len());
            (*bytes < most).then_some(*bytes)
        });
        let leaves = cells.last().unwrap_or(most) / PAGE_SIZE + 2;
        let bytes = leaves.min(LEAVES_MAX) * (PAGE_SIZE + 256) + super::SPLIT_BYTES;
        let mut taken = 0;
        let once = |change: &mut Change<'_>| {
            taken = change.append(tree, batch, from)?;
            Ok(())
        };
        self.change(Footprint::Group, bytes, once).await?;
        Ok(taken)
    }
}

/// What parts `below` from `above`: the shortest beginning of `above` that is greater than `below`.
fn separator<'k>(below: &[u8], above: &'k [u8]) -> &'k [u8] {
    let common = below.iter().zip(above).take_while(|(one, other)| one == other).count();
    &above[..(common + 1).min(above.len())]
}

/// Bytes that the cell of pair `at` must leave free: those of the fence that may come behind it.
fn fence_room(batch: &Batch, at: usize) -> usize {
    batch.key(if at + 1 < batch.len() { at + 1 } else { at }).len()
}

/// Whether the cell of pair `at` goes into `page`, so that a fence before the next one still fits.
fn goes_in(page: &[u8], batch: &Batch, at: usize) -> bool {
    let (key, value) = (batch.key(at).len(), batch.value(at).len());
    key + value <= INLINE_MAX && slotted::cell_size(key, value) + fence_room(batch, at) <= slotted::free(page)
}

impl Change<'_> {
    /// Returns how many pairs were taken.
    fn append(&mut self, tree: TreeId, batch: &Batch, from: usize) -> Result<usize, TableError> {
        let (first, value) = (batch.key(from), batch.value(from));
        if self.is_patient() {
            self.latch_root(tree)?;
        }
        let leaf = self.leaf(tree, first, None)?;
        let page = self.page(leaf);
        let behind = slotted::count(page).checked_sub(1).is_none_or(|last| slotted::key(page, last) < first);
        if slotted::high(page).is_some() || !behind {
            self.put(tree, leaf, first, value)?;
            return Ok(1);
        }
        let mut next = from;
        while next < batch.len() && goes_in(self.page(leaf), batch, next) {
            self.apply(leaf, Op::Append { key: batch.key(next), value: batch.value(next) })?;
            next += 1;
        }
        let leaves = self.fill_leaves(tree, leaf, batch, from, &mut next);
        let fence = leaves.first().map_or(0, |leaf| leaf.low.len());
        if leaves.is_empty() || fence > slotted::free(self.page(leaf)) {
            // Too large for the usual way, or the leaf was filled by others: the first of them goes there as any key does.
            if next == from || !leaves.is_empty() {
                next -= leaves.iter().map(|leaf| leaf.count()).sum::<usize>();
                let (key, value) = (batch.key(next), batch.value(next));
                let leaf = self.leaf(tree, key, Some(leaf))?;
                self.put(tree, leaf, key, value)?;
                next += 1;
            }
            return Ok(next - from);
        }
        self.attach(tree, leaf, leaves)?;
        Ok(next - from)
    }

    /// New leaves with the pairs from `next` on, behind `last`; those of the batch from `from` on are in there already.
    fn fill_leaves(&self, tree: TreeId, last: PageId, batch: &Batch, from: usize, next: &mut usize) -> Vec<Leaf> {
        let mut leaves: Vec<Leaf> = Vec::new();
        while *next < batch.len() && leaves.len() < LEAVES_MAX {
            let page = self.page(last);
            let below = match next.checked_sub(1).filter(|before| *before >= from) {
                Some(before) => batch.key(before),
                None if slotted::count(page) > 0 => slotted::key(page, slotted::count(page) - 1),
                None => break,
            };
            let low = separator(below, batch.key(*next)).to_vec();
            let mut draft = Draft::node(tree, 0);
            let mut filled = 0;
            if slotted::set_low(draft.bytes(), &low).is_ok() {
                let cells = (*next..batch.len()).map_while(|at| {
                    let (key, value) = (batch.key(at), batch.value(at));
                    (key.len() + value.len() <= INLINE_MAX).then(|| (key, value, fence_room(batch, at)))
                });
                filled = slotted::append_all(draft.bytes(), cells);
            }
            if filled == 0 {
                break;
            }
            *next += filled;
            leaves.push(Leaf { draft, low });
        }
        leaves
    }

    /// Hangs `leaves` behind `last`, the tree's last leaf, which has room for their first fence.
    fn attach(&mut self, tree: TreeId, last: PageId, leaves: Vec<Leaf>) -> Result<(), TableError> {
        let last = if self.is_root(last, tree) { self.move_root_down(tree, last)? } else { last };
        let mut pages = Vec::with_capacity(leaves.len());
        for _ in &leaves {
            let near = pages.last().copied().unwrap_or(last);
            pages.push(self.allocate(Some(near))?);
        }
        let mut lows: Vec<Vec<u8>> = Vec::with_capacity(leaves.len());
        let nexts: Vec<Option<(Vec<u8>, PageId)>> =
            (1..=leaves.len()).map(|next| Some((leaves.get(next)?.low.clone(), *pages.get(next)?))).collect();
        for ((mut leaf, page), next) in leaves.into_iter().zip(&pages).zip(nexts) {
            let (high, right) = next.as_ref().map_or((None, PageId::NONE), |(high, right)| (Some(high.as_slice()), *right));
            let bounded = slotted::set_bounds(leaf.draft.bytes(), high, right);
            debug_assert!(bounded.is_ok(), "a leaf keeps room for its fence");
            bounded.map_err(|_| super::node::damaged(tree, *page, super::Damage::Unsplittable))?;
            self.apply(*page, leaf.draft.op())?;
            lows.push(leaf.low);
        }
        if let (Some(low), Some(page)) = (lows.first(), pages.first()) {
            self.apply(last, Op::SetBounds { right: *page, high: Some(low) })?;
        }
        let mut left = last;
        for (low, page) in lows.iter().zip(pages) {
            let (parent, slot) = self.parent(tree, low, 1, left)?;
            let pointer = page.0.to_le_bytes();
            self.insert(tree, parent, Cell { slot: slot + 1, key: low, value: &pointer, in_order: true })?;
            left = page;
        }
        Ok(())
    }
}

impl Leaf {
    fn count(&self) -> usize {
        slotted::count(self.draft.peek())
    }
}
