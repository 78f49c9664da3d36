//! Frames for pages that come: from the free list, or by eviction.
//!
//! The clock sweep takes clean, unpinned frames. What is dirty is for the page writer, which is called when there is nothing to take. A copy that
//! another instance has to write first ([`super::frame`]) stays until it says so: when only these are left, it is asked to, and again after a while,
//! as the master that was asked may be gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::frame::{Body, Frame, Pin};
use super::grants::Mode;
use super::wait::CacheError;
use super::{Cache, CacheShared};
use crate::base::PageId;
use crate::disk::Buffer;

/// Time after which the writes of other instances are asked for again, when nothing came of it.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Pages whose write is asked for at once.
const ASKED_MAX: usize = 16;

/// A frame without a page and a buffer for it; goes back to the free list unless a page is installed.
pub(crate) struct FreeFrame {
    shared: Arc<CacheShared>,
    number: u32,
    pub(crate) buffer: Buffer,
    used: bool,
}

impl FreeFrame {
    /// Makes it the frame of `page`, pinned: `body` gets the buffer.
    pub(crate) fn install(mut self, page: PageId, body: impl FnOnce(Buffer) -> Body) -> Pin {
        let buffer = std::mem::replace(&mut self.buffer, Buffer::zeroed(0));
        let mut guard = self.shared.frames[self.number as usize].body.write();
        *guard = body(buffer);
        let pin = Pin::new(&self.shared, self.number);
        drop(guard);
        self.shared.table.insert(page, self.number);
        self.used = true;
        pin
    }
}

impl Drop for FreeFrame {
    fn drop(&mut self) {
        if !self.used {
            // The buffer first: whoever takes the frame takes one too.
            drop(std::mem::replace(&mut self.buffer, Buffer::zeroed(0)));
            self.shared.give_back(self.number);
        }
    }
}

/// What a sweep found.
enum Swept {
    Frame(u32),
    /// Nothing to take; the writes of these pages, which are owed elsewhere, would change that.
    Nothing(Vec<PageId>),
}

impl Cache {
    /// Evicts every page that may go, and asks for the writes of those that may not because others owe them. True when nothing is left that is granted or
    /// kept. For an instance that leaves: nothing is used any more.
    pub fn let_go_all(&self) -> bool {
        let shared = &self.shared;
        let (mut elsewhere, mut left) = (Vec::new(), 0usize);
        for (number, frame) in shared.frames.iter().enumerate() {
            let mut body = frame.body.write();
            if !body.id.is_some() {
                continue;
            }
            if frame.pins.load(Ordering::Acquire) > 0 || shared.is_kept(frame, &body, &mut elsewhere) {
                left += 1;
                continue;
            }
            shared.empty(&mut body);
            drop(body);
            shared.give_back(number as u32);
        }
        elsewhere.iter().for_each(|page| shared.grants.want_written(*page));
        left == 0
    }
}

impl CacheShared {
    /// Frame `number`, which is empty, may be taken.
    pub(crate) fn give_back(&self, number: u32) {
        self.free.lock().push(number);
        self.freed.notify_waiters();
    }

    /// A frame without a page, waiting for writes when every page is dirty, pinned or to be written elsewhere.
    ///
    /// # Errors
    /// The page writer can't make room any more.
    pub(crate) async fn take_frame(self: &Arc<Self>) -> Result<FreeFrame, CacheError> {
        loop {
            if let Ok(frame) = self.sweep() {
                return Ok(frame);
            }
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            self.wanted.store(true, Ordering::Release);
            let elsewhere = match self.sweep() {
                Ok(frame) => return Ok(frame),
                Err(elsewhere) => elsewhere,
            };
            if let Some(why) = &*self.stuck.lock() {
                return Err(why.clone());
            }
            self.write.notify_one();
            if elsewhere.is_empty() {
                freed.await;
                continue;
            }
            self.ask_for_writes(&elsewhere);
            let late = self.seams.sleep(ASK_AGAIN);
            tokio::select! {
                biased;
                () = freed => {}
                () = late => {}
            }
        }
    }

    /// A frame without a page, if one can be had at once.
    pub(crate) fn try_take_frame(self: &Arc<Self>) -> Option<FreeFrame> {
        self.sweep().ok()
    }

    fn sweep(self: &Arc<Self>) -> Result<FreeFrame, Vec<PageId>> {
        let popped = self.free.lock().pop();
        let number = match popped.map_or_else(|| self.evict(), Swept::Frame) {
            Swept::Frame(number) => number,
            Swept::Nothing(elsewhere) => return Err(elsewhere),
        };
        let buffer = self.pool.take().expect("there are as many buffers as frames, and an empty frame holds none");
        Ok(FreeFrame { shared: self.clone(), number, buffer, used: false })
    }

    /// Empties the next clean, unpinned frame that was not used since the last sweep; two rounds at most.
    fn evict(&self) -> Swept {
        let mut elsewhere = Vec::new();
        for _ in 0..2 * self.frames.len() {
            let number = self.hand.fetch_add(1, Ordering::Relaxed) % self.frames.len();
            let frame = &self.frames[number];
            if frame.pins.load(Ordering::Acquire) > 0 || frame.referenced.swap(false, Ordering::Relaxed) {
                continue;
            }
            let Some(mut body) = frame.body.try_write() else { continue };
            // Pins are taken under the latch, so none can appear now.
            if !body.id.is_some() || frame.pins.load(Ordering::Acquire) > 0 || self.is_kept(frame, &body, &mut elsewhere) {
                continue;
            }
            self.empty(&mut body);
            drop(body);
            self.counters.evictions.fetch_add(1, Ordering::Relaxed);
            return Swept::Frame(number as u32);
        }
        Swept::Nothing(elsewhere)
    }

    /// Whether the page in `frame` must stay; one whose write is owed elsewhere is added to `elsewhere`.
    fn is_kept(&self, frame: &Frame, body: &Body, elsewhere: &mut Vec<PageId>) -> bool {
        let state = frame.state.lock();
        if (state.unwritten || state.image.is_some()) && elsewhere.len() < ASKED_MAX && !elsewhere.contains(&body.id) {
            elsewhere.push(body.id);
        }
        // One being written after it was given away is clean when that is over, not before.
        state.dirty.is_some() || state.unwritten || state.writing
    }

    /// Takes the page out of its frame, which is latched by `body`.
    pub(crate) fn empty(&self, body: &mut Body) {
        if body.held_as() > Mode::None {
            // Before the table forgets the page, so that nobody asks for it anew before this is said.
            self.grants.released(body.id);
        }
        self.table.remove(body.id);
        *body = Body::default();
    }

    /// Asks for the writes of pages that others owe, once in a while.
    fn ask_for_writes(&self, pages: &[PageId]) {
        let now = self.seams.now().0 + 1;
        let last = self.asked.load(Ordering::Acquire);
        let due = last == 0 || now.saturating_sub(last) >= ASK_AGAIN.as_nanos() as u64;
        if due && self.asked.compare_exchange(last, now, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            pages.iter().for_each(|page| self.grants.want_written(*page));
        }
    }
}
