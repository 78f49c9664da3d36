//! Which trees there are.

use super::change::Change;
use super::descend::{Toward, descend};
use super::error::{Damage, TableError};
use super::node::{self, Draft, damaged};
use super::{DIRECTORY, DIRECTORY_ROOT, SPLIT_BYTES, Trees};
use crate::base::{PageId, TreeId};
use crate::cache::Committed;
use crate::cache::wait::Footprint;
use crate::page::{slotted, space};

impl Trees {
    /// Makes an empty tree.
    ///
    /// # Errors
    /// [`TableError::TreeExists`], [`TableError::ReservedTree`], [`TableError::Full`], the cache's.
    pub async fn create_tree(&self, tree: TreeId) -> Result<Committed, TableError> {
        if tree == DIRECTORY || tree == TreeId(0) {
            return Err(TableError::ReservedTree { tree });
        }
        match self.change(Footprint::Path, SPLIT_BYTES, |change| change.create_tree(tree)).await {
            Err(TableError::BeingDropped { .. }) => {
                self.finish_drops().await?;
                self.change(Footprint::Path, SPLIT_BYTES, |change| change.create_tree(tree)).await
            }
            other => other,
        }
    }

    /// The trees and their roots, in order of their numbers.
    ///
    /// # Errors
    /// [`TableError::Damaged`], the cache's.
    pub async fn trees(&self) -> Result<Vec<(TreeId, PageId)>, TableError> {
        let entries = self.directory().await?;
        Ok(entries.into_iter().filter(|entry| !entry.condemned).map(|entry| (entry.tree, entry.root)).collect())
    }

    /// All entries of the directory.
    pub(super) async fn directory(&self) -> Result<Vec<Entry>, TableError> {
        let shared = &*self.shared;
        let mut found = Vec::new();
        let mut from = Some(Vec::new());
        while let Some(key) = from.take() {
            let batch = || {
                let (page, leaf) = descend(&shared.cache, &shared.roots, DIRECTORY, Toward::Key(&key), 0)?;
                let start = slotted::search(&leaf, &key).unwrap_or_else(|slot| slot);
                let entries: Result<Vec<_>, TableError> = (start..slotted::count(&leaf)).map(|slot| entry(&leaf, page, slot)).collect();
                Ok::<_, TableError>((entries?, slotted::high(&leaf).map(<[u8]>::to_vec)))
            };
            let (entries, next) = shared.cache.run(Footprint::Path, batch).await?;
            found.extend(entries);
            from = next;
        }
        Ok(found)
    }
}

/// An entry of the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) tree: TreeId,
    pub(super) root: PageId,
    /// The tree was dropped; these pages are still to be freed.
    pub(super) condemned: bool,
}

/// The key of a dropped tree whose pages aren't all free yet: behind all others, as no tree has the directory's number.
pub(super) fn condemned_key(tree: TreeId) -> [u8; 8] {
    (u64::from(DIRECTORY.0) << 32 | u64::from(tree.0)).to_be_bytes()
}

fn entry(leaf: &[u8], page: PageId, slot: usize) -> Result<Entry, TableError> {
    let (key, value) = (slotted::key(leaf, slot), slotted::value(leaf, slot));
    let number = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
    let (tree, condemned) = match (key.len(), number(key), key.get(4..).and_then(number)) {
        (4, Some(tree), _) if tree != DIRECTORY.0 => (tree, false),
        (8, _, Some(tree)) if number(&key[..4]) == Some(DIRECTORY.0) => (tree, true),
        _ => return Err(damaged(DIRECTORY, page, Damage::DirectoryEntry { slot, key: key.len(), value: value.len() })),
    };
    Ok(Entry { tree: TreeId(tree), root: node::child(leaf, DIRECTORY, page, slot)?, condemned })
}

impl Change<'_> {
    /// Formats the first space map and the directory of a new cluster.
    pub(super) fn make_directory(&mut self) -> Result<(), TableError> {
        let page = self.allocate(None)?;
        debug_assert_eq!((page, space::map_of(page)), (DIRECTORY_ROOT, PageId(0)));
        self.apply(page, Draft::node(DIRECTORY, 0).op())
    }

    fn create_tree(&mut self, tree: TreeId) -> Result<(), TableError> {
        let key = tree.0.to_be_bytes();
        if self.is_patient() {
            self.latch_root(DIRECTORY)?;
        }
        let condemned = condemned_key(tree);
        let leaf = self.leaf(DIRECTORY, &condemned, None)?;
        if slotted::search(self.page(leaf), &condemned).is_ok() {
            return Err(TableError::BeingDropped { tree });
        }
        let leaf = self.leaf(DIRECTORY, &key, Some(leaf))?;
        if slotted::search(self.page(leaf), &key).is_ok() {
            return Err(TableError::TreeExists { tree });
        }
        let root = self.allocate(None)?;
        self.apply(root, Draft::node(tree, 0).op())?;
        self.put(DIRECTORY, leaf, &key, &root.0.to_le_bytes())
    }
}
