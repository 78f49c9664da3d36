//! Which frame holds a page. Sharded so that readers of different pages don't meet.

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use crate::base::PageId;

const SHARDS: usize = 64;

/// Page id -> frame number.
pub(crate) struct PageTable {
    shards: Vec<RwLock<FxHashMap<PageId, u32>>>,
}

impl PageTable {
    pub(crate) fn new(frames: usize) -> PageTable {
        let shard = || RwLock::new(FxHashMap::with_capacity_and_hasher(frames / SHARDS + 8, Default::default()));
        PageTable { shards: (0..SHARDS).map(|_| shard()).collect() }
    }

    #[inline]
    fn shard(&self, page: PageId) -> &RwLock<FxHashMap<PageId, u32>> {
        // Fibonacci hashing: neighbours go to different shards.
        &self.shards[(page.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize]
    }

    #[inline]
    pub(crate) fn get(&self, page: PageId) -> Option<u32> {
        self.shard(page).read().get(&page).copied()
    }

    pub(crate) fn insert(&self, page: PageId, frame: u32) {
        let before = self.shard(page).write().insert(page, frame);
        debug_assert!(before.is_none(), "{page} had a frame already");
    }

    pub(crate) fn remove(&self, page: PageId) {
        self.shard(page).write().remove(&page);
    }
}
