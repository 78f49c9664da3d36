//! L6: B+trees over cached pages.
//!
//! ```text
//! node     what is in a page        split, merge  structure changes       space    free pages
//! descend  from tree to leaf        write         puts and deletes        scan     ranges, both ways
//! drop     whole trees                append  whole leaves behind a tree's end (batch: what goes into them)
//! change   one atomic change group  directory     which trees there are   check    is all of it sound
//! ```
//! Callers: recovery and node, later transactions. Everything here is synchronous over latched pages and is restarted when it has to wait
//! ([`crate::cache::wait`]). Nodes have fences and a link to their right sibling; a tree's root never changes its page. All changes are
//! change groups, so redo repeats them. What this layer doesn't do: transactions, durability (callers force the log), values
//! over [`crate::base::limits::INLINE_MAX`]. Format: `docs/formats/tree.md`.

mod append;
mod batch;
pub mod catalog;
mod change;
pub mod check;
pub mod datum;
mod descend;
mod directory;
mod drop;
mod error;
mod merge;
mod node;
pub mod rows;
mod scan;
mod space;
mod split;
pub mod tables;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;

pub use batch::Batch;
pub use error::{Damage, TableError};
pub use scan::{Direction, Pairs};
pub use write::Write;

use crate::base::{PageId, ThreadId, TreeId};
use crate::cache::wait::Footprint;
use crate::cache::{Cache, CacheError, Committed, Wait};
use crate::page::slotted;
use change::{Attempt, Change};
use descend::{Roots, Toward, descend};
use space::Space;

/// The tree of trees: tree number (u32, big-endian) -> root page. Its own number.
pub const DIRECTORY: TreeId = TreeId(u32::MAX);
/// Where the directory's root is.
pub const DIRECTORY_ROOT: PageId = PageId(1);
/// Extra room for redo when a change turns out larger than its first estimate: about one split.
const SPLIT_BYTES: usize = 24 << 10;

struct Shared {
    cache: Cache,
    roots: Roots,
    space: Space,
    /// Held by whoever frees the pages of dropped trees: one at a time.
    dropping: tokio::sync::Mutex<()>,
}

/// The trees of a store, as one instance sees them. Clones share everything.
#[derive(Clone)]
pub struct Trees {
    shared: Arc<Shared>,
}

impl Trees {
    /// Makes the first pages of a new cluster: a space map, owned by `thread`, and an empty directory.
    ///
    /// # Errors
    /// [`TableError::Full`] when the first data file has no room for two pages; the cache's.
    pub async fn bootstrap(cache: Cache, thread: ThreadId) -> Result<(), TableError> {
        let space = Space::empty(cache.clone(), thread);
        let trees = Trees::new(cache, space);
        trees.change(Footprint::Path, SPLIT_BYTES, |change| change.make_directory()).await.map(drop)
    }

    /// Opens the trees of a store that was bootstrapped, for the instance that writes redo thread `thread`: reads the space maps.
    ///
    /// # Errors
    /// The disk's. A space map that is damaged is no error: its group has no room then.
    pub async fn open(cache: Cache, thread: ThreadId) -> Result<Trees, TableError> {
        let space = Space::open(cache.clone(), thread).await?;
        Ok(Trees::new(cache, space))
    }

    fn new(cache: Cache, space: Space) -> Trees {
        Trees { shared: Arc::new(Shared { cache, roots: Roots::new(), space, dropping: tokio::sync::Mutex::new(()) }) }
    }

    /// The cache below.
    pub fn cache(&self) -> &Cache {
        &self.shared.cache
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`TableError::UnknownTree`], [`TableError::Damaged`], the cache's.
    pub async fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        self.get_with(tree, key, |value| value.map(<[u8]>::to_vec)).await
    }

    /// What `look` makes of the value of `key`. The page is latched meanwhile: `look` should be short.
    ///
    /// # Errors
    /// As [`Trees::get`].
    ///
    /// # Panics
    /// As `look`.
    pub async fn get_with<R>(&self, tree: TreeId, key: &[u8], look: impl FnOnce(Option<&[u8]>) -> R) -> Result<R, TableError> {
        let mut look = Some(look);
        let shared = &*self.shared;
        let once = || {
            let (_, leaf) = descend(&shared.cache, &shared.roots, tree, Toward::Key(key), 0)?;
            let value = slotted::search(&leaf, key).ok().map(|slot| slotted::value(&leaf, slot));
            let look = look.take().expect("a try that got here is the last");
            Ok(look(value))
        };
        shared.cache.run(Footprint::Path, once).await
    }

    /// Runs `operation` on a change until it can be committed. `bytes` is a first guess of its redo.
    async fn change(
        &self,
        footprint: Footprint,
        bytes: usize,
        mut operation: impl FnMut(&mut Change<'_>) -> Result<(), TableError>,
    ) -> Result<Committed, TableError> {
        let shared = &*self.shared;
        let attempt = Attempt::new(bytes);
        loop {
            let once = || {
                let mut change = Change::begin(shared, &attempt)?;
                let outcome = operation(&mut change).and_then(|()| change.commit());
                if outcome == Err(TableError::Wait(Wait::Latch)) {
                    attempt.lost_race();
                }
                outcome
            };
            let outcome = shared.cache.run(footprint, once).await;
            let growing = attempt.take_growing();
            match outcome {
                Err(TableError::Cache(CacheError::GroupTooLarge { bytes, pages })) if attempt.enlarge(bytes, pages) => {}
                Err(TableError::Cache(CacheError::Disk(error))) if error.is_full() && growing.is_some() => {
                    let (file, pages) = growing.unwrap_or_default();
                    shared.space.could_not_grow(file, pages);
                }
                other => {
                    if let (Some((file, _)), Ok(_)) = (growing, &other) {
                        shared.space.grew(file);
                    }
                    return other;
                }
            }
        }
    }
}
