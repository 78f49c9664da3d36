//! The second half of a check: undo pages, and space maps against the pages that were reached.

use super::{Check, Finding, Progress};
use crate::base::limits::{PAGE_SIZE, SPACE_GROUP_PAGES};
use crate::base::{PageId, Scn, TreeId};
use crate::cache::CacheError;
use crate::cache::wait::Footprint;
use crate::page::{PageFault, header, space};
use crate::table::DIRECTORY;
use crate::table::error::{Damage, TableError};
use crate::table::rows::{is_undo_tree, undo_pages};
use crate::table::space::{MapState, look_at};

impl<P: FnMut(&Progress)> Check<'_, P> {
    /// Looks at the undo and slot pages.
    pub(in crate::table::check) async fn undo_pages(&mut self) -> Result<(), TableError> {
        let known = match self.trees.trees().await {
            Ok(known) => known,
            // Reported when the directory was walked; its pages can't be judged then.
            Err(TableError::Damaged { .. } | TableError::Cache(CacheError::Page(_))) => return Ok(()),
            Err(other) => return Err(other),
        };
        for (tree, _) in known.into_iter().filter(|(tree, _)| is_undo_tree(*tree)) {
            self.undo_pages_of(tree).await?;
        }
        Ok(())
    }

    async fn undo_pages_of(&mut self, tree: TreeId) -> Result<(), TableError> {
        let pages = match undo_pages(self.trees, tree).await {
            Ok(pages) => pages,
            Err(TableError::Damaged { tree: of, page, damage }) => {
                self.report.findings.push(Finding::Node { tree: of, page, damage });
                self.partial.insert(tree);
                return Ok(());
            }
            Err(TableError::Cache(CacheError::Page(_))) => {
                // Reported when the tree was walked.
                self.partial.insert(tree);
                return Ok(());
            }
            Err(other) => return Err(other),
        };
        for (kind, page) in pages {
            if self.reached.mark(page) {
                self.report.findings.push(Finding::Twice { tree, page });
            }
            self.report.pages += 1;
            match self.copy(page).await {
                Ok(bytes) if header::of(&bytes).kind == kind as u8 => {}
                // Given back meanwhile, and in use for something else.
                Ok(bytes) if header::of(&bytes).version() > self.began => {}
                Ok(bytes) => {
                    let damage = Damage::Kind { found: header::of(&bytes).kind };
                    self.report.findings.push(Finding::Node { tree, page, damage });
                }
                Err(TableError::Cache(error @ (CacheError::Page(_) | CacheError::Disk(_)))) => {
                    self.report.findings.push(Finding::Unreadable { tree, page, error });
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Looks at the maps of all groups that were claimed.
    pub(super) async fn space_maps(&mut self) -> Result<(), TableError> {
        let cache = self.trees.shared.cache.clone();
        for file in 0..cache.volume().shape().data_files {
            for group in 0..cache.volume().pages(file).div_ceil(SPACE_GROUP_PAGES) {
                let map = PageId::new(file, group * SPACE_GROUP_PAGES);
                if matches!(look_at(&cache, map).await?, MapState::Blank) {
                    continue;
                }
                match self.copy(map).await {
                    Ok(bytes) if header::of(&bytes).kind() == Some(header::Kind::Space) => self.space_map(map, &bytes).await?,
                    Ok(bytes) => {
                        let fault = PageFault::Unknown { page: map, what: "kind of a space map", found: header::of(&bytes).kind };
                        self.report.findings.push(Finding::Map { page: map, error: fault.into() });
                    }
                    Err(TableError::Cache(error @ CacheError::Page(_))) => {
                        self.report.findings.push(Finding::Map { page: map, error });
                    }
                    Err(other) => return Err(other),
                }
            }
        }
        Ok(())
    }

    async fn copy(&self, page: PageId) -> Result<Vec<u8>, TableError> {
        let cache = &self.trees.shared.cache;
        cache.run(Footprint::Path, || Ok(cache.read(page)?.to_vec())).await
    }

    async fn space_map(&mut self, map: PageId, bytes: &[u8]) -> Result<(), TableError> {
        debug_assert_eq!(bytes.len(), PAGE_SIZE);
        self.report.pages_marked += space::count_used(bytes);
        let cache = self.trees.shared.cache.clone();
        for bit in 1..SPACE_GROUP_PAGES as usize {
            let page = PageId::new(map.file(), map.index() + bit as u64);
            if !space::used(bytes, bit) || self.reached.has(page) {
                continue;
            }
            if !cache.volume().contains(page) {
                self.report.findings.push(Finding::BeyondEnd { map, page });
                break;
            }
            let (tree, version) = match self.copy(page).await {
                Ok(bytes) => (header::of(&bytes).tree(), header::of(&bytes).version()),
                Err(TableError::Cache(CacheError::Page(_) | CacheError::Disk(_))) => (TreeId(0), Scn(0)),
                Err(other) => return Err(other),
            };
            let unknowable = self.partial.contains(&tree) || self.partial.contains(&DIRECTORY);
            // Freed meanwhile, or taken: then it has changed, or is marked differently now.
            let moved = version > self.began || !space::used(&self.copy(map).await?, bit);
            if !moved && !unknowable {
                self.report.findings.push(Finding::Lost { tree, page });
            }
        }
        Ok(())
    }
}
