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
        self.change(Footprint::Path, SPLIT_BYTES, |change| change.create_tree(tree)).await
    }

    /// The trees and their roots, in order of their numbers.
    ///
    /// # Errors
    /// [`TableError::Damaged`], the cache's.
    pub async fn trees(&self) -> Result<Vec<(TreeId, PageId)>, TableError> {
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

/// The tree in `slot` of the directory's leaf `page`.
pub(super) fn entry(leaf: &[u8], page: PageId, slot: usize) -> Result<(TreeId, PageId), TableError> {
    let (key, value) = (slotted::key(leaf, slot), slotted::value(leaf, slot));
    let Ok(number) = <[u8; 4]>::try_from(key) else {
        return Err(damaged(DIRECTORY, page, Damage::DirectoryEntry { slot, key: key.len(), value: value.len() }));
    };
    Ok((TreeId(u32::from_be_bytes(number)), node::child(leaf, DIRECTORY, page, slot)?))
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
        let leaf = self.leaf(DIRECTORY, &key, None)?;
        if slotted::search(self.page(leaf), &key).is_ok() {
            return Err(TableError::TreeExists { tree });
        }
        let root = self.allocate(None)?;
        self.apply(root, Draft::node(tree, 0).op())?;
        self.put(DIRECTORY, leaf, &key, &root.0.to_le_bytes())
    }
}
