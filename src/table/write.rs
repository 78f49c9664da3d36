//! Atomic changes to the contents of trees.

use super::Trees;
use super::change::Change;
use super::error::TableError;
use super::split::Cell;
use super::{DIRECTORY, TreeId};
use crate::base::PageId;
use crate::base::limits::INLINE_MAX;
use crate::cache::Committed;
use crate::cache::wait::Footprint;
use crate::page::slotted;
use crate::redo::record::{CHANGE_HEADER, GROUP_HEADER, OP_HEADER, Op};

/// One change to a tree's contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write<'a> {
    /// Gives `key` a value, whether it had one or not.
    Put {
        /// In this tree.
        tree: TreeId,
        /// Up to [`INLINE_MAX`] bytes together with the value; may be empty.
        key: &'a [u8],
        /// Its value; may be empty.
        value: &'a [u8],
    },
    /// Takes `key` out, if it is there.
    Delete {
        /// Of this tree.
        tree: TreeId,
        /// The key.
        key: &'a [u8],
    },
}

impl<'a> Write<'a> {
    fn place(&self) -> (TreeId, &'a [u8]) {
        match *self {
            Write::Put { tree, key, .. } | Write::Delete { tree, key } => (tree, key),
        }
    }

    fn validate(&self) -> Result<(), TableError> {
        let (tree, key) = self.place();
        if tree == DIRECTORY || tree == TreeId(0) {
            return Err(TableError::ReservedTree { tree });
        }
        if key.len() > INLINE_MAX {
            return Err(TableError::KeyTooLong { bytes: key.len() });
        }
        match self {
            Write::Put { value, .. } if key.len() + value.len() > INLINE_MAX => {
                Err(TableError::ValueTooLarge { key_bytes: key.len(), value_bytes: value.len() })
            }
            _ => Ok(()),
        }
    }

    /// Most redo that it takes where its cell fits, alone in its page.
    fn redo_max(&self) -> usize {
        let cell = match self {
            Write::Put { key, value, .. } => 4 + key.len() + value.len(),
            Write::Delete { .. } => 2,
        };
        CHANGE_HEADER + OP_HEADER + cell
    }
}

impl Trees {
    /// Makes all of `writes` happen at once, or none. Later writes of a key win. Doesn't wait until they are durable: force the log up to
    /// [`Committed::end`] for that.
    ///
    /// # Errors
    /// [`TableError::KeyTooLong`], [`TableError::ValueTooLarge`], [`TableError::UnknownTree`], [`TableError::ReservedTree`];
    /// [`crate::cache::CacheError::GroupTooLarge`]; [`TableError::Full`]; the cache's.
    pub async fn apply(&self, writes: &[Write<'_>]) -> Result<Committed, TableError> {
        writes.iter().try_for_each(Write::validate)?;
        let bytes = GROUP_HEADER + writes.iter().map(Write::redo_max).sum::<usize>();
        if let [write] = writes {
            return self.change(Footprint::Path, bytes, |change| change.write_all(std::iter::once(write))).await;
        }
        let order = in_order(writes);
        self.change(Footprint::Group, bytes, |change| change.write_all(order.iter().map(|at| &writes[*at as usize]))).await
    }
}

/// The order of `writes` by tree and key, only the last one of each key.
fn in_order(writes: &[Write<'_>]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..writes.len() as u32).collect();
    let place = |at: &u32| writes[*at as usize].place();
    // Last first among equals, as `dedup` keeps the first.
    order.sort_unstable_by(|one, other| place(one).cmp(&place(other)).then(other.cmp(one)));
    order.dedup_by(|one, other| place(one) == place(other));
    order
}

impl Change<'_> {
    fn write_all<'w>(&mut self, writes: impl Iterator<Item = &'w Write<'w>> + Clone) -> Result<(), TableError> {
        if self.is_patient() {
            let mut last = None;
            for (tree, _) in writes.clone().map(Write::place) {
                if last.replace(tree) != Some(tree) {
                    self.latch_root(tree)?;
                }
            }
        }
        let mut last = None;
        for write in writes {
            last = Some(self.write(write, last)?);
        }
        Ok(())
    }

    /// Does one write; returns the leaf, to be looked at first for the next.
    fn write(&mut self, write: &Write<'_>, last: Option<PageId>) -> Result<PageId, TableError> {
        let (tree, key) = write.place();
        let leaf = self.leaf(tree, key, last)?;
        match write {
            Write::Put { value, .. } => self.put(tree, leaf, key, value)?,
            Write::Delete { .. } => {
                if let Ok(slot) = slotted::search(self.page(leaf), key) {
                    self.remove(tree, leaf, slot, key)?;
                }
            }
        }
        Ok(leaf)
    }

    /// Gives `key` a value in `leaf`, which covers it.
    pub(super) fn put(&mut self, tree: TreeId, leaf: PageId, key: &[u8], value: &[u8]) -> Result<(), TableError> {
        let bytes = self.page(leaf);
        match slotted::search(bytes, key) {
            Err(slot) => self.insert(tree, leaf, Cell { slot, key, value, in_order: true }),
            Ok(slot) => {
                let free = slotted::free(bytes) + slotted::cell_size(key.len(), slotted::value(bytes, slot).len());
                if let Some((at, bytes)) = difference(slotted::value(bytes, slot), value) {
                    return self.apply(leaf, Op::Patch { slot: slot as u16, at, bytes });
                }
                if slotted::cell_size(key.len(), value.len()) <= free {
                    return self.apply(leaf, Op::SetValue { slot: slot as u16, value });
                }
                self.apply(leaf, Op::Delete { slot: slot as u16 })?;
                self.insert(tree, leaf, Cell { slot, key, value, in_order: false })
            }
        }
    }
}

/// Where `new` differs from `old`, and with what, if that is worth less than the whole: they are as long as each other.
fn difference<'v>(old: &[u8], new: &'v [u8]) -> Option<(u16, &'v [u8])> {
    if old.len() != new.len() {
        return None;
    }
    let same = |pair: &(&u8, &u8)| pair.0 == pair.1;
    let before = old.iter().zip(new).take_while(same).count();
    let behind = old[before..].iter().rev().zip(new[before..].iter().rev()).take_while(same).count();
    let part = &new[before..new.len() - behind];
    (part.len() + 2 < new.len()).then_some((before as u16, part))
}
