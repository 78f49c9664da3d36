//! A frame: one page in memory, its latch, its pins and what is known of its way to disk.
//!
//! The latch ([`Frame::body`]) guards the bytes. [`WriteState`] has a lock of its own, taken for a few instructions with or without
//! the latch, as the page writer marks a page as being written while readers hold the latch. Order: latch, then write state, then
//! the dirty table.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::grants::Mode;
use super::wait::{Halt, Load, Wait};
use super::{Cache, CacheShared};
use crate::base::{Lsn, PageId};
use crate::disk::Buffer;

/// Longest wait for a frame's latch before its page is looked up again. A frame may be given to another page between look-up and latch;
/// waiting for that page's latch without end could close a circle that the order of pages rules out.
const LATCH_PATIENCE: Duration = Duration::from_millis(1);

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
    /// The log from `dirty` on makes the page anew, so a torn home needs no image.
    pub(crate) made_anew: bool,
    /// The same from `redirtied` on.
    pub(crate) remade: bool,
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
    /// The page latched for reading; waits while it is latched exclusively.
    #[inline]
    pub(crate) fn read(&self, page: PageId) -> Result<PageRead<'_>, Halt> {
        self.read_by(page, true)
    }

    /// As [`CacheShared::read`] without waiting.
    pub(crate) fn try_read(&self, page: PageId) -> Result<PageRead<'_>, Halt> {
        self.read_by(page, false)
    }

    #[inline]
    fn read_by(&self, page: PageId, may_wait: bool) -> Result<PageRead<'_>, Halt> {
        if let Some(frame) = self.frames.get(self.table.hint(page) as usize)
            && let Some(guard) = frame.body.try_read()
            && guard.id == page
        {
            return readable(frame, guard, page);
        }
        self.read_by_table(page, may_wait)
    }

    fn read_by_table(&self, page: PageId, may_wait: bool) -> Result<PageRead<'_>, Halt> {
        loop {
            let Some(number) = self.table.get(page) else { return Err(missing(page, Mode::Shared, Load::Contents)) };
            let frame = &self.frames[number as usize];
            let guard = match frame.body.try_read() {
                Some(guard) => guard,
                None if !may_wait => return Err(Halt::Wait(Wait::Latch)),
                None => match frame.body.try_read_for(LATCH_PATIENCE) {
                    Some(guard) => guard,
                    None => continue,
                },
            };
            if guard.id == page {
                return readable(frame, guard, page);
            }
        }
    }

    /// The frame of `page` latched exclusively. `may_wait`: whether to wait for the latch.
    pub(crate) fn latch(&self, page: PageId, load: Load, may_wait: bool) -> Result<(u32, RwLockWriteGuard<'_, Body>), Halt> {
        loop {
            let Some(number) = self.table.get(page) else { return Err(missing(page, Mode::Exclusive, load)) };
            let frame = &self.frames[number as usize];
            let guard = match frame.body.try_write() {
                Some(guard) => guard,
                None if !may_wait => return Err(Halt::Wait(Wait::Latch)),
                None => match frame.body.try_write_for(LATCH_PATIENCE) {
                    Some(guard) => guard,
                    None => continue,
                },
            };
            if guard.id != page {
                continue;
            }
            if (guard.fresh && load == Load::Contents) || guard.mode < Mode::Exclusive {
                return Err(missing(page, Mode::Exclusive, load));
            }
            frame.referenced.store(true, Ordering::Relaxed);
            return Ok((number, guard));
        }
    }
}

fn missing(page: PageId, mode: Mode, load: Load) -> Halt {
    Halt::Wait(Wait::Page { page, mode, load })
}

#[inline]
fn readable<'a>(frame: &Frame, guard: RwLockReadGuard<'a, Body>, page: PageId) -> Result<PageRead<'a>, Halt> {
    if guard.fresh || guard.mode < Mode::Shared {
        return Err(missing(page, Mode::Shared, Load::Contents));
    }
    if !frame.referenced.load(Ordering::Relaxed) {
        frame.referenced.store(true, Ordering::Relaxed);
    }
    Ok(PageRead { guard })
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
