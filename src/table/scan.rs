//! Ranges of a tree, in order, up or down.
//!
//! A scan takes one leaf at a time: it copies the leaf under its latch, lets go, and hands out the cells of the copy; then it descends
//! again for the leaf beyond the fence that it has come to. So nothing is latched while the visitor works, and whatever happens to
//! the tree meanwhile, each key that is there all the time is seen once, and in order. A leaf is seen as it was at one moment; leaves are
//! seen one after the other. From the second leaf on, the parent's next children are read ahead, more each time.

use std::ops::{Bound, ControlFlow};

use super::descend::{Toward, descend};
use super::error::TableError;
use super::{Trees, node};
use crate::base::limits::PAGE_SIZE;
use crate::base::{PageId, TreeId};
use crate::cache::wait::Footprint;
use crate::page::slotted;

/// Most leaves read ahead at once.
const AHEAD_MAX: usize = 64;

/// Keys and values, owned.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Which way a scan goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the lower bound up.
    Up,
    /// From the upper bound down.
    Down,
}

/// What is left of a scan.
pub(super) struct Position {
    low: Bound<Vec<u8>>,
    high: Bound<Vec<u8>>,
    /// The fence that the scan has come to: going up, the first key not seen; going down, the last key seen or above it.
    fence: Option<Vec<u8>>,
    direction: Direction,
}

/// A scan, leaf by leaf.
pub(super) struct Walk {
    tree: TreeId,
    position: Position,
    /// Leaves that are being read ahead.
    ahead: Vec<PageId>,
    window: usize,
    done: bool,
}

impl Position {
    /// The way to the next leaf.
    fn toward(&self) -> Toward<'_> {
        match (self.direction, &self.fence) {
            (Direction::Up, Some(fence)) => Toward::Key(fence),
            (Direction::Down, Some(fence)) => Toward::Below(fence),
            (Direction::Up, None) => match &self.low {
                Bound::Included(key) | Bound::Excluded(key) => Toward::Key(key),
                Bound::Unbounded => Toward::Key(&[]),
            },
            (Direction::Down, None) => match &self.high {
                Bound::Included(key) => Toward::Key(key),
                Bound::Excluded(key) if key.is_empty() => Toward::Key(&[]),
                Bound::Excluded(key) => Toward::Below(key),
                Bound::Unbounded => Toward::Last,
            },
        }
    }

    /// The slots of `leaf` that are still to be seen.
    fn slots(&self, leaf: &[u8]) -> std::ops::Range<usize> {
        let before = |key: &[u8]| slotted::search(leaf, key).unwrap_or_else(|slot| slot);
        let behind = |key: &[u8]| slotted::search(leaf, key).map_or_else(|slot| slot, |slot| slot + 1);
        let mut from = match &self.low {
            Bound::Included(key) => before(key),
            Bound::Excluded(key) => behind(key),
            Bound::Unbounded => 0,
        };
        let mut to = match &self.high {
            Bound::Included(key) => behind(key),
            Bound::Excluded(key) => before(key),
            Bound::Unbounded => slotted::count(leaf),
        };
        if let Some(fence) = &self.fence {
            match self.direction {
                Direction::Up => from = from.max(before(fence)),
                Direction::Down => to = to.min(before(fence)),
            }
        }
        from..to.max(from)
    }

    /// Goes on beyond `leaf`; false when the range ends there.
    fn advance(&mut self, leaf: &[u8]) -> bool {
        match self.direction {
            Direction::Up => {
                let Some(high) = slotted::high(leaf) else { return false };
                self.fence = Some(high.to_vec());
                match &self.high {
                    Bound::Included(key) => high <= &key[..],
                    Bound::Excluded(key) => high < &key[..],
                    Bound::Unbounded => true,
                }
            }
            Direction::Down => {
                let Some(low) = slotted::low(leaf) else { return false };
                self.fence = Some(low.to_vec());
                match &self.low {
                    Bound::Included(key) | Bound::Excluded(key) => &key[..] < low,
                    Bound::Unbounded => true,
                }
            }
        }
    }
}

impl Walk {
    /// A scan of a range of `tree`.
    pub(super) fn new(tree: TreeId, low: Bound<Vec<u8>>, high: Bound<Vec<u8>>, direction: Direction) -> Walk {
        let position = Position { low, high, fence: None, direction };
        Walk { tree, position, ahead: Vec::new(), window: 0, done: false }
    }

    /// Which way it goes.
    pub(super) fn direction(&self) -> Direction {
        self.position.direction
    }

    /// Copies the next leaf into `leaf`, a page's bytes, and says which of its slots belong to the scan; nothing at the end.
    pub(super) async fn next(&mut self, trees: &Trees, leaf: &mut [u8]) -> Result<Option<std::ops::Range<usize>>, TableError> {
        if self.done {
            return Ok(None);
        }
        let shared = &*trees.shared;
        if self.position.fence.is_some() && self.ahead.pop().is_none() {
            self.window = (self.window * 2).clamp(4, AHEAD_MAX.min(shared.cache.frames() / 32));
            self.ahead = trees.next_children(self.tree, &self.position, self.window).await?;
            shared.cache.read_ahead(&self.ahead).await;
            // This leaf is the first of them.
            self.ahead.pop();
        }
        let copy = || {
            let (_, page) = descend(&shared.cache, &shared.roots, self.tree, self.position.toward(), 0)?;
            leaf.copy_from_slice(&page);
            Ok::<_, TableError>(())
        };
        shared.cache.run(Footprint::Path, copy).await?;
        let slots = self.position.slots(leaf);
        self.done = !self.position.advance(leaf);
        Ok(Some(slots))
    }
}

impl Trees {
    /// Shows `visit` every key of `tree` in the range, with its value, in order, until it breaks off. Nothing is latched meanwhile.
    ///
    /// # Errors
    /// [`TableError::UnknownTree`], [`TableError::Damaged`], the cache's; `visit` has then seen what comes before.
    pub async fn scan(
        &self,
        tree: TreeId,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        direction: Direction,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), TableError> {
        let mut walk = Walk::new(tree, range.0.map(<[u8]>::to_vec), range.1.map(<[u8]>::to_vec), direction);
        let mut leaf = vec![0; PAGE_SIZE];
        while let Some(slots) = walk.next(self, &mut leaf).await? {
            let mut show = |slot| visit(slotted::key(&leaf, slot), slotted::value(&leaf, slot));
            let flow = match direction {
                Direction::Up => slots.into_iter().try_for_each(&mut show),
                Direction::Down => slots.into_iter().rev().try_for_each(&mut show),
            };
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Up to `most` keys and values of a range, in order.
    ///
    /// # Errors
    /// As [`Trees::scan`].
    pub async fn range(
        &self,
        tree: TreeId,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        direction: Direction,
        most: usize,
    ) -> Result<Pairs, TableError> {
        let mut pairs = Pairs::new();
        if most == 0 {
            return Ok(pairs);
        }
        let keep = |key: &[u8], value: &[u8]| {
            pairs.push((key.to_vec(), value.to_vec()));
            if pairs.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        self.scan(tree, range, direction, keep).await?;
        Ok(pairs)
    }

    /// The next leaves of a scan, as far as they have the same parent.
    async fn next_children(&self, tree: TreeId, position: &Position, most: usize) -> Result<Vec<PageId>, TableError> {
        let shared = &*self.shared;
        let look = || {
            let (parent, bytes) = match descend(&shared.cache, &shared.roots, tree, position.toward(), 1) {
                // The tree has become a single leaf: nothing to read ahead.
                Err(TableError::Wait(crate::cache::Wait::Latch)) => return Ok(Vec::new()),
                other => other?,
            };
            let slot = position.toward().slot(&bytes);
            let slots = match position.direction {
                Direction::Up => slot..slotted::count(&bytes).min(slot + most),
                Direction::Down => (slot + 1).saturating_sub(most)..(slot + 1).min(slotted::count(&bytes)),
            };
            slots.map(|slot| node::child(&bytes, tree, parent, slot)).collect::<Result<Vec<_>, TableError>>()
        };
        shared.cache.run(Footprint::Path, look).await
    }
}
