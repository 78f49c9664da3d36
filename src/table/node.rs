//! Reading tree nodes, with every assumption about their contents checked.
//!
//! ```text
//! leaf (level 0)     key -> value
//! inner (level n)    lower bound of the child's keys -> child (u64), the first bound left empty: it is the node's own low fence
//! ```
//! Nodes of one level part the key space by their fences: a node of the right tree and level whose fences cover a key is the one for
//! that key, however it was found. Layout: `docs/formats/tree.md`.

use std::ops::Deref;

use super::error::{Damage, TableError};
use crate::base::limits::PAGE_SIZE;
use crate::base::{PageId, TreeId};
use crate::cache::{Cache, Halt, PageRead};
use crate::page::header::{self, Kind};
use crate::page::{slotted, space};
use crate::redo::apply;
use crate::redo::record::Op;

/// Highest level of a node. A tree of the longest keys has a fan-out of 2 at worst.
pub(super) const LEVEL_MAX: u8 = 31;
/// Length of a child pointer.
pub(super) const POINTER: usize = 8;

/// Gives access to pages: to latch them for reading, or to look at those that a change group holds.
pub(super) trait Pages {
    /// A page that doesn't change while it is held.
    type View<'v>: Deref<Target = [u8]>
    where
        Self: 'v;

    /// `page`, for reading.
    fn view(&self, page: PageId) -> Result<Self::View<'_>, Halt>;
}

impl Pages for Cache {
    type View<'v> = PageRead<'v>;

    #[inline]
    fn view(&self, page: PageId) -> Result<PageRead<'_>, Halt> {
        self.read(page)
    }
}

/// The error for `page`, walked through for `tree`.
pub(super) fn damaged(tree: TreeId, page: PageId, damage: Damage) -> TableError {
    TableError::Damaged { tree, page, damage }
}

/// What is wrong with `bytes` as a node of `tree` at `level`.
#[inline]
pub(super) fn fault(bytes: &[u8], tree: TreeId, level: u8) -> Option<Damage> {
    let header = header::of(bytes);
    if header.kind != Kind::Tree as u8 {
        return Some(Damage::Kind { found: header.kind });
    }
    if header.tree() != tree {
        return Some(Damage::Tree { found: header.tree() });
    }
    let found = slotted::level(bytes);
    if found != level {
        return Some(Damage::Level { expected: level, found });
    }
    if found > 0 && slotted::count(bytes) == 0 {
        return Some(Damage::NoChildren);
    }
    None
}

/// Whether `bytes` is the node of `tree` at `level` for `key`.
pub(super) fn is_for(bytes: &[u8], tree: TreeId, level: u8, key: &[u8]) -> bool {
    fault(bytes, tree, level).is_none() && slotted::covers(bytes, key)
}

/// Whether `bytes` is the root of `tree`: only a root has no fences.
#[inline]
pub(super) fn is_root(bytes: &[u8], tree: TreeId) -> bool {
    let header = header::of(bytes);
    header.kind == Kind::Tree as u8 && header.tree() == tree && slotted::low(bytes).is_none() && slotted::high(bytes).is_none()
}

/// The slot of the child for `key` in an inner node.
#[inline]
pub(super) fn slot_for(bytes: &[u8], key: &[u8]) -> usize {
    slotted::search(bytes, key).unwrap_or_else(|slot| slot.saturating_sub(1))
}

/// The slot of the child that holds the keys just below `key`, which is above the node's low fence.
pub(super) fn slot_below(bytes: &[u8], key: &[u8]) -> usize {
    let (Ok(slot) | Err(slot)) = slotted::search(bytes, key);
    slot.saturating_sub(1)
}

/// The child in `slot` of the inner node `bytes`, which is `page`.
///
/// # Errors
/// [`TableError::Damaged`] when there is no child pointer, or one to where no node can be.
#[inline]
pub(super) fn child(bytes: &[u8], tree: TreeId, page: PageId, slot: usize) -> Result<PageId, TableError> {
    if slot >= slotted::count(bytes) {
        return Err(damaged(tree, page, Damage::NoChildren));
    }
    let value = slotted::value(bytes, slot);
    let Ok(eight) = <[u8; POINTER]>::try_from(value) else {
        return Err(damaged(tree, page, Damage::ChildPointer { slot, length: value.len() }));
    };
    let child = PageId(u64::from_le_bytes(eight));
    if !child.is_some() || child == page || space::is_map(child) {
        return Err(damaged(tree, page, Damage::ChildPlace { slot, child }));
    }
    Ok(child)
}

/// A page under construction, outside the cache.
pub(super) struct Draft {
    bytes: Box<[u8; PAGE_SIZE]>,
    kind: Kind,
    tree: TreeId,
}

impl Draft {
    /// An empty node.
    pub(super) fn node(tree: TreeId, level: u8) -> Draft {
        let mut bytes = Box::new([0; PAGE_SIZE]);
        // Identity and cluster come from the frame that the draft is put into.
        header::format(&mut bytes[..], PageId(0), Kind::Tree, tree, 0);
        slotted::init(&mut bytes[..], level);
        Draft { bytes, kind: Kind::Tree, tree }
    }

    /// A new space map.
    pub(super) fn map(owner: crate::base::ThreadId) -> Draft {
        let mut bytes = Box::new([0; PAGE_SIZE]);
        header::format(&mut bytes[..], PageId(0), Kind::Space, TreeId(0), 0);
        space::init(&mut bytes[..], owner);
        Draft { bytes, kind: Kind::Space, tree: TreeId(0) }
    }

    /// The bytes so far.
    pub(super) fn peek(&self) -> &[u8] {
        &self.bytes[..]
    }

    /// The bytes, to fill in.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[..]
    }

    /// The operation that makes a page of it.
    pub(super) fn op(&self) -> Op<'_> {
        let (low, heap) = apply::image(&self.bytes[..]);
        Op::Format { kind: self.kind, tree: self.tree, low, heap }
    }
}
