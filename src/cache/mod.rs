//! L4: pages in memory, and the only way to change them.
//!
//! ```text
//! frame    a page in memory under its latch            group        an atomic change to several pages: redo, then stamp
//! table    page id -> frame                            page_writer  dirty pages to their homes, oldest first
//! load     misses: single-flight, coalesced, verified  double_write torn pages stay recoverable
//! wait     why synchronous code can't go on, and how   checkpoint   moves the start of replay
//! patience what it has got, and how it keeps that      pace         keeps predicted recovery short
//! dirty    dirty pages by first unwritten position     unwritable   pages whose homes fail
//! grants   the seam to the global directory            asking       what a load asked it for, and taking that in
//! yielding what the directory asks of the cache        free         frames for pages that come: eviction
//! ```
//! Code above works synchronously on latched, resident pages; what it lacks it names in a [`Wait`] and is run again ([`Cache::run`]),
//! so that nobody waits for log space, a frame or a grant while holding a latch (rule 19, `docs/decisions/0003`).

mod asking;
pub mod checkpoint;
pub mod dirty;
pub mod double_write;
pub mod frame;
mod free;
pub mod grants;
pub mod group;
pub mod load;
mod pace;
pub mod page_writer;
mod patience;
pub mod recovered;
pub mod table;
#[cfg(test)]
mod tests;
mod unwritable;
pub mod wait;
mod yielding;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, Semaphore};

pub use frame::PageRead;
pub use grants::{Contents, Grant, Grants, LocalGrants, Mode, Yielded};
pub use group::{Committed, Group};
pub use wait::{CacheError, Halt, Halts, Load, Wait};

use crate::base::limits::{CACHE_FRAMES_MIN, GROUP_PAGES_MAX, PAGE_SIZE};

const _: () = assert!(CACHE_FRAMES_MIN / 2 >= GROUP_PAGES_MAX, "half of the frames can be pinned by waiting operations");

use crate::base::{Lsn, PageId, Scn, Seams};
use crate::disk::BufferPool;
use crate::page::volume::Volume;
use crate::redo::LogWriter;
use frame::Frame;
use table::PageTable;

/// What a cache is made from.
pub struct CacheSetup {
    /// Clock, tasks, workers.
    pub seams: Seams,
    /// Where pages live.
    pub volume: Arc<Volume>,
    /// Who may hold which page.
    pub grants: Arc<dyn Grants>,
    /// Frames; at least [`crate::base::limits::CACHE_FRAMES_MIN`].
    pub frames: usize,
    /// Reads or writes of pages in flight at once.
    pub io_depth: usize,
    /// Whether pages go through the double-write area.
    pub double_write: bool,
    /// The instance's Lamport clock.
    pub clock: Arc<AtomicU64>,
}

/// Counters since opening.
#[derive(Debug, Default)]
pub struct CacheCounters {
    /// Pages read from disk.
    pub pages_read: AtomicU64,
    /// Read I/Os.
    pub reads: AtomicU64,
    /// Pages written home.
    pub pages_written: AtomicU64,
    /// Double-write batches.
    pub batches: AtomicU64,
    /// Frames taken from clean pages for others.
    pub evictions: AtomicU64,
    /// Change groups.
    pub groups: AtomicU64,
    /// Operations that became patient, as other instances had taken away too much of what they had got.
    pub patient: AtomicU64,
}

/// Pages in memory. Clones share them.
#[derive(Clone)]
pub struct Cache {
    pub(crate) shared: Arc<CacheShared>,
}

pub(crate) struct CacheShared {
    pub(crate) seams: Seams,
    pub(crate) volume: Arc<Volume>,
    pub(crate) grants: Arc<dyn Grants>,
    pub(crate) io_depth: usize,
    pub(crate) double_write: bool,
    pub(crate) clock: Arc<AtomicU64>,
    /// Set once redo is over: until then nothing is changed but by redo.
    pub(crate) log: OnceLock<LogWriter>,
    pub(crate) frames: Vec<Frame>,
    pub(crate) table: PageTable,
    pub(crate) pool: BufferPool,
    /// Frames without a page.
    pub(crate) free: Mutex<Vec<u32>>,
    /// Next frame that eviction looks at.
    pub(crate) hand: AtomicUsize,
    pub(crate) loading: Mutex<load::Loading>,
    pub(crate) dirty: Mutex<dirty::DirtyTable>,
    /// Pages that are damaged or can't be written, with the reason.
    pub(crate) quarantine: Mutex<BTreeMap<PageId, CacheError>>,
    /// Pages not looked at since recovery, because the log says that they are durable at home in at least this version.
    pub(crate) expected: Mutex<FxHashMap<PageId, Scn>>,
    /// Frames that waiting operations may pin: half of all.
    pub(crate) pins: Arc<Semaphore>,
    /// A frame has become free, clean or unpinned.
    pub(crate) freed: Notify,
    /// Somebody waits for a frame.
    pub(crate) wanted: AtomicBool,
    /// When the writes of other instances were last asked for, in nanoseconds of the runtime; 0: not since one of them was heard of.
    pub(crate) asked: AtomicU64,
    /// A yield took its page, or may take it.
    pub(crate) yielded: Notify,
    /// A past image is void, so that the checkpoint may move.
    pub(crate) image_gone: Notify,
    /// Pages that are to be written because somebody elsewhere waits for that.
    pub(crate) urgent: Mutex<BTreeSet<PageId>>,
    /// Wakes the page writer.
    pub(crate) write: Notify,
    /// The page writer has done a round or ended.
    pub(crate) written: Notify,
    /// The page writer writes pages whose first unwritten position lies before this.
    pub(crate) goal: AtomicU64,
    pub(crate) closing: AtomicBool,
    pub(crate) writer_gone: AtomicBool,
    /// Why no page is written any more, or not for now: who needs a frame hears it.
    pub(crate) stuck: Mutex<Option<CacheError>>,
    pub(crate) counters: CacheCounters,
}

impl Cache {
    /// An empty cache.
    ///
    /// # Panics
    /// With fewer than [`crate::base::limits::CACHE_FRAMES_MIN`] frames: options are validated before.
    pub fn new(setup: CacheSetup) -> Cache {
        assert!(setup.frames >= CACHE_FRAMES_MIN, "a cache of {} frames is too small", setup.frames);
        Cache::with(setup)
    }

    /// A cache of any size.
    pub(crate) fn with(setup: CacheSetup) -> Cache {
        let pool = BufferPool::new(setup.frames, PAGE_SIZE);
        let shared = CacheShared {
            frames: (0..setup.frames).map(|_| Frame::default()).collect(),
            table: PageTable::new(setup.frames),
            free: Mutex::new((0..setup.frames as u32).rev().collect()),
            pins: Arc::new(Semaphore::new(setup.frames / 2)),
            seams: setup.seams,
            volume: setup.volume,
            grants: setup.grants,
            io_depth: setup.io_depth,
            double_write: setup.double_write,
            clock: setup.clock,
            log: OnceLock::new(),
            pool,
            hand: AtomicUsize::new(0),
            loading: Mutex::default(),
            dirty: Mutex::default(),
            quarantine: Mutex::default(),
            freed: Notify::new(),
            wanted: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            yielded: Notify::new(),
            image_gone: Notify::new(),
            urgent: Mutex::default(),
            write: Notify::new(),
            written: Notify::new(),
            goal: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            writer_gone: AtomicBool::new(false),
            stuck: Mutex::default(),
            expected: Mutex::default(),
            counters: CacheCounters::default(),
        };
        Cache { shared: Arc::new(shared) }
    }

    /// Opens the cache for changes, which go to `log`, and registers its memory with the disk.
    ///
    /// # Panics
    /// When called twice.
    pub fn open_for_changes(&self, log: LogWriter) {
        assert!(self.shared.log.set(log).is_ok(), "a cache is opened for changes once");
        // Not before recovery: pinning the whole cache costs more time than recovery gains by it.
        self.shared.volume.disk().register(&self.shared.pool);
        // It may be waiting for a log.
        self.shared.write.notify_one();
    }

    /// Ends the page writer without writing more: whoever owned the cache is gone.
    pub fn abandon(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.write.notify_one();
    }

    /// Where pages live.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.shared.volume
    }

    /// The log that changes go to.
    ///
    /// # Errors
    /// [`CacheError::ReadOnly`] before redo is over.
    pub fn log(&self) -> Result<&LogWriter, CacheError> {
        self.shared.log.get().ok_or(CacheError::ReadOnly)
    }

    /// The clock's present SCN.
    pub fn now(&self) -> Scn {
        Scn(self.shared.clock.load(Ordering::Acquire))
    }

    /// Clock, tasks, workers.
    pub fn seams(&self) -> &Seams {
        &self.shared.seams
    }

    /// Counters since opening.
    pub fn counters(&self) -> &CacheCounters {
        &self.shared.counters
    }

    /// Dirty pages, and the oldest position that one of them needs replayed.
    pub fn dirty(&self) -> (usize, Option<Lsn>) {
        let dirty = self.shared.dirty.lock();
        (dirty.len(), dirty.oldest())
    }

    /// Frames in all.
    pub fn frames(&self) -> usize {
        self.shared.frames.len()
    }

    /// Pages that are damaged or can't be written, with the reason.
    pub fn quarantined(&self) -> Vec<(PageId, CacheError)> {
        self.shared.quarantine.lock().iter().map(|(page, why)| (*page, why.clone())).collect()
    }

    /// Whether `page` can't be written to its home, so that nothing new should be put there.
    pub fn is_unwritable(&self, page: PageId) -> bool {
        self.shared.dirty.lock().is_held(page)
    }

    /// Whether `page` is, or was, resident with changes that aren't known to be durable at home yet: what its home holds doesn't count then.
    pub fn is_dirty(&self, page: PageId) -> bool {
        let Some(number) = self.shared.table.get(page) else { return false };
        let frame = &self.shared.frames[number as usize];
        let holds_it = frame.body.read().id == page;
        let state = frame.state.lock();
        holds_it && (state.dirty.is_some() || state.unwritten)
    }

    /// Puts `page` into quarantine: every later access gets `why`, nothing is written to its home.
    pub fn quarantine(&self, page: PageId, why: CacheError) {
        self.shared.quarantine_page(page, why);
    }

    /// The latched page, for reading.
    ///
    /// # Errors
    /// [`Wait::Page`] when it isn't resident.
    #[inline]
    pub fn read(&self, page: PageId) -> Result<PageRead<'_>, Halt> {
        self.shared.read(page)
    }
}

impl CacheShared {
    pub(crate) fn quarantine_page(&self, page: PageId, why: CacheError) {
        tracing::error!(%page, %why, "page quarantined");
        self.quarantine.lock().entry(page).or_insert(why);
    }
}
