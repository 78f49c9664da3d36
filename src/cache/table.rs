//! Which frame holds a page. Sharded so that readers of different pages don't meet, with hints in front that take no lock.

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use crate::base::PageId;

const SHARDS: usize = 64;

/// Page id -> frame number.
pub(crate) struct PageTable {
    shards: Vec<RwLock<FxHashMap<PageId, u32>>>,
    /// Where a page with this hash was last found: whoever follows a hint looks at the frame's page id.
    hints: Box<[AtomicU32]>,
}

#[inline]
fn hash(page: PageId) -> u64 {
    // Fibonacci hashing: neighbours are spread.
    page.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl PageTable {
    pub(crate) fn new(frames: usize) -> PageTable {
        let shard = || RwLock::new(FxHashMap::with_capacity_and_hasher(frames / SHARDS + 8, Default::default()));
        let hints = (0..(frames * 2).next_power_of_two()).map(|_| AtomicU32::new(u32::MAX)).collect();
        PageTable { shards: (0..SHARDS).map(|_| shard()).collect(), hints }
    }

    #[inline]
    fn shard(&self, page: PageId) -> &RwLock<FxHashMap<PageId, u32>> {
        &self.shards[(hash(page) >> 58) as usize]
    }

    #[inline]
    fn hint_of(&self, page: PageId) -> &AtomicU32 {
        // The high bits are the well mixed ones; the shard's are left to the shards.
        &self.hints[(hash(page) >> 20) as usize & (self.hints.len() - 1)]
    }

    /// The frame that may hold `page`, or one that doesn't exist.
    #[inline]
    pub(crate) fn hint(&self, page: PageId) -> u32 {
        self.hint_of(page).load(Ordering::Relaxed)
    }

    /// The frame that holds `page`.
    pub(crate) fn get(&self, page: PageId) -> Option<u32> {
        let found = self.shard(page).read().get(&page).copied();
        if let Some(frame) = found {
            self.hint_of(page).store(frame, Ordering::Relaxed);
        }
        found
    }

    pub(crate) fn insert(&self, page: PageId, frame: u32) {
        let before = self.shard(page).write().insert(page, frame);
        debug_assert!(before.is_none(), "{page} had a frame already");
    }

    pub(crate) fn remove(&self, page: PageId) {
        self.shard(page).write().remove(&page);
    }
}
