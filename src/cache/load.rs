//! Misses: getting pages into frames.
//!
//! One load per page at a time; others wait for it. Neighbouring pages asked for together ([`Cache::load_many`]) are read with one
//! I/O. Every page that enters is verified (rule 16); one that fails is quarantined and stays an error for everyone. A frame comes from
//! the free list or from the clock sweep over clean, unpinned pages; when all are dirty or pinned the page writer is called.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::Notify;

use super::frame::{Body, Pin};
use super::grants::Mode;
use super::wait::{CacheError, Load, yield_now};
use super::{Cache, CacheShared};
use crate::base::limits::PAGE_SIZE;
use crate::base::runtime::join_all;
use crate::base::{BoxFuture, PageId, TreeId};
use crate::disk::Buffer;
use crate::page::header::{self, Kind};
use crate::page::{PageFault, verify};
use crate::redo::LogError;

/// Most neighbouring pages read with one I/O.
const RUN_MAX: usize = 16;
/// Loads begun together, in multiples of the I/O depth: enough that the last ones' end doesn't leave the device idle for long.
pub const PARTS_AHEAD: usize = 16;

/// Loads under way, each with a way to wait for its end.
pub(crate) type Loading = BTreeMap<PageId, Arc<Notify>>;

/// Ends a load under way, however its future ends.
struct LoadGuard {
    shared: Arc<CacheShared>,
    page: PageId,
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        let over = self.shared.loading.lock().remove(&self.page);
        if let Some(over) = over {
            over.notify_waiters();
        }
    }
}

impl Cache {
    /// Makes `page` resident in at least `mode` and pins it.
    ///
    /// # Errors
    /// Why the page can't be had.
    pub(crate) async fn load(&self, page: PageId, mode: Mode, load: Load) -> Result<Pin, CacheError> {
        loop {
            if let Some(pin) = self.pin_resident(page, mode, load) {
                return Ok(pin);
            }
            self.admit(page, load)?;
            let Some(guard) = self.begin_load(page).await else { continue };
            // Another load may have ended between the first look and this one's begin.
            if let Some(pin) = self.pin_resident(page, mode, load) {
                return Ok(pin);
            }
            let mut read = self.to_its_end(vec![guard], page, mode, load).await?;
            read.pop().expect("one page was asked for")?;
        }
    }

    /// Loads the neighbours from `first` on whose loads `guards` have begun, in a task of its own: whoever wants them may be dropped midway, but
    /// their frames must not come free while their buffers are with the disk.
    async fn to_its_end(
        &self,
        guards: Vec<LoadGuard>,
        first: PageId,
        mode: Mode,
        load: Load,
    ) -> Result<Vec<Result<(), CacheError>>, CacheError> {
        let (tell, done) = tokio::sync::oneshot::channel();
        let cache = self.clone();
        let task = async move {
            if guards.len() == 1 {
                cache.drop_unusable(first).await;
            }
            let read = cache.read_run(first, guards.len(), mode, load).await;
            drop(guards);
            // Whoever asked may have gone.
            let _ = tell.send(read);
        };
        self.shared.seams.spawn("page load", Box::pin(task));
        // The task is dropped only with its runtime.
        done.await.map_err(|_| LogError::Closed.into())
    }

    /// Makes all of `pages` resident, held exclusively, as far as they can be, and pins them. Results are in the order given; neighbours
    /// in ascending order are read together, up to the I/O depth at once.
    pub(crate) async fn load_many(&self, pages: &[(PageId, Load)]) -> Vec<Result<Pin, CacheError>> {
        let mut results = Vec::with_capacity(pages.len());
        for part in pages.chunks(self.shared.io_depth.max(1) * PARTS_AHEAD) {
            let mut runs: Vec<BoxFuture<()>> = Vec::new();
            let mut at = 0;
            while at < part.len() {
                let (first, load) = part[at];
                let mut count = 1;
                while at + count < part.len() && count < RUN_MAX && part[at + count] == (PageId(first.0 + count as u64), load) {
                    count += 1;
                }
                let cache = self.clone();
                runs.push(Box::pin(async move { cache.load_run(first, count, load).await }));
                at += count;
            }
            join_all(runs).await;
            for (page, load) in part {
                results.push(self.load(*page, Mode::Exclusive, *load).await);
            }
        }
        results
    }

    /// Reads those of `pages` that aren't resident, as a hint: neighbours together, at most a sixteenth of the cache. Errors come up again
    /// when a page is needed.
    pub async fn read_ahead(&self, pages: &[PageId]) {
        let most = self.frames() / 16;
        let mut absent: Vec<(PageId, Load)> =
            pages.iter().filter(|page| self.shared.table.get(**page).is_none()).take(most).map(|page| (*page, Load::Contents)).collect();
        absent.sort_unstable();
        drop(self.load_many(&absent).await);
    }

    /// Reads `count` neighbours if none of them is resident or being loaded; otherwise leaves it to whoever needs them.
    async fn load_run(&self, first: PageId, count: usize, load: Load) {
        let pages = (0..count as u64).map(|offset| PageId(first.0 + offset));
        let mut guards = Vec::new();
        for page in pages {
            let absent = self.shared.table.get(page).is_none() && self.admit(page, load).is_ok();
            let guard = if absent { self.try_begin_load(page).ok() } else { None };
            let Some(guard) = guard else { return };
            guards.push(guard);
        }
        // Errors are kept in quarantine, or come up again when the page is loaded by itself.
        drop(self.to_its_end(guards, first, Mode::Exclusive, load).await);
    }

    /// Refuses a quarantined page. One that was merely found damaged is let through when its contents are to be replaced: that heals it.
    fn admit(&self, page: PageId, load: Load) -> Result<(), CacheError> {
        let mut quarantine = self.shared.quarantine.lock();
        let Some(why) = quarantine.get(&page) else { return Ok(()) };
        let healing = load == Load::Fresh && matches!(why, CacheError::Page(_)) && !self.shared.dirty.lock().is_held(page);
        if !healing {
            return Err(why.clone());
        }
        quarantine.remove(&page);
        Ok(())
    }

    /// Becomes the one that loads `page`, or waits until another load of it is over.
    async fn begin_load(&self, page: PageId) -> Option<LoadGuard> {
        match self.try_begin_load(page) {
            Ok(guard) => Some(guard),
            Err(over) => {
                let ended = over.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if self.shared.loading.lock().contains_key(&page) {
                    ended.await;
                }
                None
            }
        }
    }

    fn try_begin_load(&self, page: PageId) -> Result<LoadGuard, Arc<Notify>> {
        let mut loading = self.shared.loading.lock();
        if let Some(over) = loading.get(&page) {
            return Err(over.clone());
        }
        loading.insert(page, Arc::new(Notify::new()));
        Ok(LoadGuard { shared: self.shared.clone(), page })
    }

    /// Throws out a resident frame of `page` that has no contents or too weak a mode, so that it can be loaded.
    async fn drop_unusable(&self, page: PageId) {
        while let Some(number) = self.shared.table.get(page) {
            let frame = &self.shared.frames[number as usize];
            let gone = frame.body.try_write().filter(|body| body.id == page && frame.pins.load(Ordering::Acquire) == 0).map(|mut body| {
                self.shared.table.remove(page);
                *body = Body::default();
            });
            if gone.is_some() {
                self.shared.free.lock().push(number);
                return;
            }
            yield_now().await;
        }
    }

    /// Reads `count` neighbours from `first` on into frames. The caller has begun their loads.
    async fn read_run(&self, first: PageId, count: usize, mode: Mode, load: Load) -> Vec<Result<(), CacheError>> {
        let shared = &self.shared;
        let mut frames = Vec::with_capacity(count);
        for _ in 0..count {
            match shared.take_frame().await {
                Ok(frame) => frames.push(frame),
                Err(error) => return vec![Err(error); count],
            }
        }
        let pages: Vec<PageId> = (0..count as u64).map(|offset| PageId(first.0 + offset)).collect();
        let mut results = Vec::with_capacity(count);
        let mut copies = Vec::new();
        for page in &pages {
            let grant = shared.grants.acquire(*page, mode).await;
            copies.push((grant.mode, grant.copy));
        }
        let bytes = match load {
            Load::Fresh => Ok(None),
            Load::Contents => self.read_bytes(first, count, &mut frames).await.map(Some),
        };
        for (index, ((mut frame, page), (mode, copy))) in frames.into_iter().zip(pages).zip(copies).enumerate() {
            let outcome = match (&bytes, copy) {
                (_, Some(copy)) => {
                    frame.buffer = copy;
                    self.check(page, &frame.buffer)
                }
                (Ok(None), None) => {
                    header::format(&mut frame.buffer, page, Kind::Free, TreeId(0), shared.volume.tag());
                    Ok(())
                }
                (Ok(Some(run)), None) => {
                    if let Some(run) = run {
                        frame.buffer.copy_from_slice(&run[index * PAGE_SIZE..(index + 1) * PAGE_SIZE]);
                    }
                    self.check(page, &frame.buffer)
                }
                (Err(error), None) => Err(error.clone()),
            };
            if outcome.is_ok() {
                frame.install(page, mode, load == Load::Fresh);
            }
            results.push(outcome);
        }
        results
    }

    /// Reads the bytes: of one page into its frame's own buffer, of several into one that is returned.
    async fn read_bytes(&self, first: PageId, count: usize, frames: &mut [FreeFrame]) -> Result<Option<Buffer>, CacheError> {
        let shared = &self.shared;
        shared.counters.reads.fetch_add(1, Ordering::Relaxed);
        shared.counters.pages_read.fetch_add(count as u64, Ordering::Relaxed);
        if count > 1 {
            let (run, outcome) = shared.volume.read(first, Buffer::zeroed(count * PAGE_SIZE)).await;
            outcome?;
            return Ok(Some(run));
        }
        let own = std::mem::replace(&mut frames[0].buffer, Buffer::zeroed(0));
        let (own, outcome) = shared.volume.read(first, own).await;
        frames[0].buffer = own;
        outcome?;
        Ok(None)
    }

    fn check(&self, page: PageId, bytes: &[u8]) -> Result<(), CacheError> {
        let whole = verify(bytes, page, self.shared.volume.tag());
        let (expected, found) = (self.shared.expected.lock().remove(&page), header::of(bytes).version());
        let fault = match (whole, expected) {
            (Err(fault), _) => fault,
            (Ok(()), Some(expected)) if found < expected => PageFault::Stale { page, expected, found },
            (Ok(()), _) => return Ok(()),
        };
        let why = CacheError::Page(fault);
        self.quarantine(page, why.clone());
        Err(why)
    }
}

/// A frame without a page and a buffer for it; goes back to the free list unless a page is installed.
struct FreeFrame {
    shared: Arc<CacheShared>,
    number: u32,
    buffer: Buffer,
    used: bool,
}

impl FreeFrame {
    fn install(mut self, page: PageId, mode: Mode, fresh: bool) {
        let buffer = std::mem::replace(&mut self.buffer, Buffer::zeroed(0));
        let frame = &self.shared.frames[self.number as usize];
        *frame.body.write() = Body { id: page, bytes: Some(buffer), mode, fresh };
        frame.referenced.store(true, Ordering::Relaxed);
        self.shared.table.insert(page, self.number);
        self.used = true;
    }
}

impl Drop for FreeFrame {
    fn drop(&mut self) {
        if !self.used {
            // The buffer first: whoever takes the frame takes one too.
            drop(std::mem::replace(&mut self.buffer, Buffer::zeroed(0)));
            self.shared.free.lock().push(self.number);
            self.shared.freed.notify_waiters();
        }
    }
}

impl CacheShared {
    /// A frame without a page, waiting for the page writer when every page is dirty or pinned.
    ///
    /// # Errors
    /// The page writer can't make room any more.
    async fn take_frame(self: &Arc<Self>) -> Result<FreeFrame, CacheError> {
        loop {
            if let Some(frame) = self.try_take_frame() {
                return Ok(frame);
            }
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            self.wanted.store(true, Ordering::Release);
            if let Some(frame) = self.try_take_frame() {
                return Ok(frame);
            }
            if let Some(why) = &*self.stuck.lock() {
                return Err(why.clone());
            }
            self.write.notify_one();
            freed.await;
        }
    }

    fn try_take_frame(self: &Arc<Self>) -> Option<FreeFrame> {
        let popped = self.free.lock().pop();
        let number = popped.or_else(|| self.evict())?;
        let buffer = self.pool.take().expect("there are as many buffers as frames, and an empty frame holds none");
        Some(FreeFrame { shared: self.clone(), number, buffer, used: false })
    }

    /// Empties the next clean, unpinned frame that was not used since the last sweep; two rounds at most.
    fn evict(&self) -> Option<u32> {
        for _ in 0..2 * self.frames.len() {
            let number = self.hand.fetch_add(1, Ordering::Relaxed) % self.frames.len();
            let frame = &self.frames[number];
            if frame.pins.load(Ordering::Acquire) > 0 || frame.referenced.swap(false, Ordering::Relaxed) {
                continue;
            }
            let Some(mut body) = frame.body.try_write() else { continue };
            // Pins are taken under the latch, so none can appear now.
            if !body.id.is_some() || frame.pins.load(Ordering::Acquire) > 0 || frame.state.lock().dirty.is_some() {
                continue;
            }
            let page = body.id;
            self.table.remove(page);
            *body = Body::default();
            drop(body);
            self.grants.evicted(page);
            self.counters.evictions.fetch_add(1, Ordering::Relaxed);
            return Some(number as u32);
        }
        None
    }
}
