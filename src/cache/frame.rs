//! A frame: one page in memory, its latch, its pins and what is known of its way to disk.
//!
//! The latch ([`Frame::body`]) guards the bytes. [`WriteState`] has a lock of its own, taken for a few instructions with or without
//! the latch, as the page writer marks a page as being written while readers hold the latch. Order: latch, then write state, then
//! the dirty table.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::grants::Mode;
use super::wait::{Halt, Load, Wait};
use super::{Cache, CacheShared};
use crate::base::{Lsn, PageId};
use crate::disk::Buffer;

/// What the latch guards.
pub(crate) struct Body {
    /// The page, or [`PageId::NONE`].
    pub(crate) id: PageId,
    /// Its bytes; nothing in an empty frame.
    pub(crate) bytes: Option<Buffer>,
    /// How this instance holds it.
    pub(crate) mode: Mode,
    /// The bytes are not the page's contents, only its identity: it is about to be formatted.
    pub(crate) fresh: bool,
}

impl Default for Body {
    fn default() -> Self {
        Body { id: PageId::NONE, bytes: None, mode: Mode::None, fresh: false }
    }
}

impl Body {
    pub(crate) fn page(&self) -> &[u8] {
        self.bytes.as_ref().expect("a frame with a page has bytes")
    }

    pub(crate) fn page_mut(&mut self) -> &mut [u8] {
        self.bytes.as_mut().expect("a frame with a page has bytes")
    }
}

/// Where a frame's page is on its way to disk.
#[derive(Default)]
pub(crate) struct WriteState {
    /// First log position that must be replayed for this page; none when clean.
    pub(crate) dirty: Option<Lsn>,
    /// A copy is on its way to disk.
    pub(crate) writing: bool,
    /// First position of a change made since that copy.
    pub(crate) redirtied: Option<Lsn>,
}

/// A place for a page.
#[derive(Default)]
pub(crate) struct Frame {
    pub(crate) body: RwLock<Body>,
    pub(crate) state: Mutex<WriteState>,
    /// Operations that need the page to stay resident.
    pub(crate) pins: AtomicU32,
    /// Used since eviction last looked.
    pub(crate) referenced: AtomicBool,
}

/// Keeps a page resident; it may be read and changed by others meanwhile.
pub(crate) struct Pin {
    shared: Arc<CacheShared>,
    pub(crate) frame: u32,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let frame = &self.shared.frames[self.frame as usize];
        if frame.pins.fetch_sub(1, Ordering::AcqRel) == 1 && self.shared.wanted.load(Ordering::Acquire) {
            self.shared.freed.notify_waiters();
        }
    }
}

/// A page latched for reading.
pub struct PageRead<'a> {
    guard: RwLockReadGuard<'a, Body>,
}

impl Deref for PageRead<'_> {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        self.guard.page()
    }
}

impl CacheShared {
    /// The page latched for reading; blocks while it is latched exclusively.
    #[inline]
    pub(crate) fn read(&self, page: PageId) -> Result<PageRead<'_>, Halt> {
        let hinted = &self.frames[self.table.hint(page) as usize];
        // Only tried: the frame may hold another page, for which the caller must not wait here, or which it holds already.
        if let Some(guard) = hinted.body.try_read()
            && guard.id == page
            && !guard.fresh
            && guard.mode >= Mode::Shared
        {
            if !hinted.referenced.load(Ordering::Relaxed) {
                hinted.referenced.store(true, Ordering::Relaxed);
            }
            return Ok(PageRead { guard });
        }
        self.read_by(page, |frame| Some(frame.body.read()))
    }

    /// As [`CacheShared::read`] without blocking.
    pub(crate) fn try_read(&self, page: PageId) -> Result<PageRead<'_>, Halt> {
        self.read_by(page, |frame| frame.body.try_read())
    }

    #[inline]
    fn read_by<'a>(&'a self, page: PageId, latch: impl Fn(&'a Frame) -> Option<RwLockReadGuard<'a, Body>>) -> Result<PageRead<'a>, Halt> {
        loop {
            let Some(number) = self.table.get(page) else {
                return Err(Halt::Wait(Wait::Page { page, mode: Mode::Shared, load: Load::Contents }));
            };
            let frame = &self.frames[number as usize];
            let Some(guard) = latch(frame) else { return Err(Halt::Wait(Wait::Latch)) };
            if guard.id != page {
                // Evicted in between: look it up again.
                continue;
            }
            if guard.fresh || guard.mode < Mode::Shared {
                return Err(Halt::Wait(Wait::Page { page, mode: Mode::Shared, load: Load::Contents }));
            }
            if !frame.referenced.load(Ordering::Relaxed) {
                frame.referenced.store(true, Ordering::Relaxed);
            }
            self.table.learn(page, number);
            return Ok(PageRead { guard });
        }
    }

    /// The frame of `page` latched exclusively. `may_block`: whether to wait for the latch.
    pub(crate) fn latch(&self, page: PageId, load: Load, may_block: bool) -> Result<(u32, RwLockWriteGuard<'_, Body>), Halt> {
        loop {
            let missing = Halt::Wait(Wait::Page { page, mode: Mode::Exclusive, load });
            let Some(number) = self.table.get(page) else { return Err(missing) };
            let frame = &self.frames[number as usize];
            let guard = if may_block { frame.body.write() } else { frame.body.try_write().ok_or(Halt::Wait(Wait::Latch))? };
            if guard.id != page {
                continue;
            }
            if (guard.fresh && load == Load::Contents) || guard.mode < Mode::Exclusive {
                return Err(missing);
            }
            frame.referenced.store(true, Ordering::Relaxed);
            return Ok((number, guard));
        }
    }
}

impl Cache {
    /// Pins `page` if it is resident with what `mode` and `load` ask for.
    pub(crate) fn pin_resident(&self, page: PageId, mode: Mode, load: Load) -> Option<Pin> {
        loop {
            let number = self.shared.table.get(page)?;
            let frame = &self.shared.frames[number as usize];
            let guard = frame.body.read();
            if guard.id != page {
                continue;
            }
            if (guard.fresh && load == Load::Contents) || guard.mode < mode {
                return None;
            }
            frame.pins.fetch_add(1, Ordering::AcqRel);
            frame.referenced.store(true, Ordering::Relaxed);
            return Some(Pin { shared: self.shared.clone(), frame: number });
        }
    }
}
