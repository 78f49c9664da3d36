//! From a tree's number to the node for a key: the root by a hint or the directory, then down, parent and child latched together.
//!
//! Whoever holds a latch waits only for one further down, so nobody waits in a circle (rule 19). While the parent is latched its children
//! can't be freed, split or moved, as that changes the parent in the same group: a child that isn't what its parent says is damage.

use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{Damage, TableError, raced};
use super::node::{self, LEVEL_MAX, Pages, damaged};
use super::{DIRECTORY, DIRECTORY_ROOT};
use crate::base::{PageId, TreeId};
use crate::page::slotted;

/// Trees whose roots are remembered.
const HINTS: usize = 1024;

/// Where roots were last seen, without a lock: a hint that is wrong shows at the page.
pub(super) struct Roots {
    slots: Box<[AtomicU64]>,
}

impl Roots {
    pub(super) fn new() -> Roots {
        Roots { slots: (0..HINTS).map(|_| AtomicU64::new(PageId::NONE.0)).collect() }
    }

    fn hint(&self, tree: TreeId) -> PageId {
        PageId(self.slots[tree.0 as usize % HINTS].load(Ordering::Relaxed))
    }

    pub(super) fn learn(&self, tree: TreeId, root: PageId) {
        self.slots[tree.0 as usize % HINTS].store(root.0, Ordering::Relaxed);
    }
}

/// Which way to go at an inner node.
#[derive(Clone, Copy)]
pub(super) enum Toward<'k> {
    /// The node that covers the key.
    Key(&'k [u8]),
    /// The node that holds what comes just before the key.
    Below(&'k [u8]),
    /// The last node.
    Last,
}

impl Toward<'_> {
    #[inline]
    pub(super) fn slot(self, bytes: &[u8]) -> usize {
        match self {
            Toward::Key(key) => node::slot_for(bytes, key),
            Toward::Below(key) => node::slot_below(bytes, key),
            Toward::Last => slotted::count(bytes).saturating_sub(1),
        }
    }
}

/// The root of `tree`, latched.
#[inline]
pub(super) fn root<'p, P: Pages>(pages: &'p P, roots: &Roots, tree: TreeId) -> Result<(PageId, P::View<'p>), TableError> {
    if tree == DIRECTORY {
        let view = pages.view(DIRECTORY_ROOT)?;
        if let Some(damage) = node::fault(&view, tree, slotted::level(&view)) {
            return Err(damaged(tree, DIRECTORY_ROOT, damage));
        }
        return Ok((DIRECTORY_ROOT, view));
    }
    let hint = roots.hint(tree);
    if hint.is_some() {
        let view = pages.view(hint)?;
        if node::is_root(&view, tree) {
            return Ok((hint, view));
        }
    }
    look_up(pages, roots, tree)
}

#[cold]
fn look_up<'p, P: Pages>(pages: &'p P, roots: &Roots, tree: TreeId) -> Result<(PageId, P::View<'p>), TableError> {
    let key = tree.0.to_be_bytes();
    let root = {
        let (page, leaf) = descend(pages, roots, DIRECTORY, Toward::Key(&key), 0)?;
        let Ok(slot) = slotted::search(&leaf, &key) else { return Err(TableError::UnknownTree { tree }) };
        node::child(&leaf, DIRECTORY, page, slot)?
    };
    let view = pages.view(root)?;
    if let Some(damage) = node::fault(&view, tree, slotted::level(&view)) {
        // The directory's leaf isn't latched any more: the tree may have been dropped meanwhile. A second look tells. The page may
        // even belong to the directory by now, and no page is latched twice.
        drop(view);
        let (_, leaf) = descend(pages, roots, DIRECTORY, Toward::Key(&key), 0)?;
        let still = slotted::search(&leaf, &key).is_ok_and(|slot| slotted::value(&leaf, slot) == root.0.to_le_bytes());
        return Err(if still { damaged(tree, root, damage) } else { raced() });
    }
    roots.learn(tree, root);
    Ok((root, view))
}

/// The node of `tree` at `level` that lies toward a key, latched.
///
/// # Errors
/// [`TableError::Damaged`]; a wait; a wait for a latch when the tree isn't that high (any more).
#[inline]
pub(super) fn descend<'p, P: Pages>(
    pages: &'p P,
    roots: &Roots,
    tree: TreeId,
    toward: Toward<'_>,
    level: u8,
) -> Result<(PageId, P::View<'p>), TableError> {
    let (mut page, mut view) = root(pages, roots, tree)?;
    let mut at = slotted::level(&view);
    if at > LEVEL_MAX {
        return Err(damaged(tree, page, Damage::TooHigh { found: at }));
    }
    if at < level {
        return Err(raced());
    }
    while at > level {
        let child = node::child(&view, tree, page, toward.slot(&view))?;
        let below = pages.view(child)?;
        at -= 1;
        if let Some(damage) = node::fault(&below, tree, at) {
            return Err(damaged(tree, child, damage));
        }
        (page, view) = (child, below);
    }
    Ok((page, view))
}
