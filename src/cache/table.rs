//! Which frame holds a page. Sharded so that readers of different pages don't meet.

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use crate::base::PageId;

const SHARDS: usize = 64;

/// Page id -> frame number.
pub(crate) struct PageTable {
    shards: Vec<RwLock<FxHashMap<PageId, u32>>>,
    /// Where a page with this hash was put last: right or wrong, found without a lock.
    hints: Vec<AtomicU32>,
}

impl PageTable {
    pub(crate) fn new(frames: usize) -> PageTable {
        let shard = || RwLock::new(FxHashMap::with_capacity_and_hasher(frames / SHARDS + 8, Default::default()));
        let hints = (0..(2 * frames).next_power_of_two()).map(|_| AtomicU32::new(0)).collect();
        PageTable { shards: (0..SHARDS).map(|_| shard()).collect(), hints }
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

    fn hint_slot(&self, page: PageId) -> &AtomicU32 {
        &self.hints[(page.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as usize & (self.hints.len() - 1)]
    }

    /// A frame that probably holds `page`, if any does: to be checked under its latch.
    #[inline]
    pub(crate) fn hint(&self, page: PageId) -> u32 {
        self.hint_slot(page).load(Ordering::Relaxed)
    }

    /// `page` is in `frame`.
    pub(crate) fn learn(&self, page: PageId, frame: u32) {
        self.hint_slot(page).store(frame, Ordering::Relaxed);
    }

    pub(crate) fn insert(&self, page: PageId, frame: u32) {
        let before = self.shard(page).write().insert(page, frame);
        debug_assert!(before.is_none(), "{page} had a frame already");
    }

    pub(crate) fn remove(&self, page: PageId) {
        self.shard(page).write().remove(&page);
    }
}
