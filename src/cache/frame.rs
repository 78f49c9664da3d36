//! A frame: one page in memory, its latch, its pins and what is known of its way to disk.
//!
//! The latch ([`Frame::body`]) guards the bytes. [`WriteState`] has a lock of its own, taken for a few instructions with or without
//! the latch, as the page writer marks a page as being written while readers hold the latch. Order: latch, then write state, then
//! the dirty table.
//!
//! ```text
//! mode     dirty   image   unwritten
//! X        maybe   -       -           current; dirty: this instance owes the write
//! S        maybe   -       -           a reader's copy, durable at home; dirty: the owner's, which others read too
//! S        maybe   maybe   yes         a reader's copy, newer than the home; the write is owed elsewhere: not evicted
//! none     yes     yes     -           a past image: not read, written or evicted; its position holds back the checkpoint
//! none     -       -       -           nothing of value: a frame that was pinned, or is being read into (`granted`)
//! ```
//! A pin keeps a page in its frame and refuses nobody the page. A *hold* is a pin that a yield waits for too.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::grants::Mode;
use super::wait::{Halt, Load, Wait};
use super::{Cache, CacheShared};
use crate::base::{Lsn, PageId, Scn};
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
    /// How it may be used here; never above what the directory granted.
    pub(crate) mode: Mode,
    /// The mode that it gets once its contents have been read: lowered when the page is given away meanwhile.
    pub(crate) granted: Mode,
    /// The bytes are not the page's contents, only its identity: it is about to be formatted.
    pub(crate) fresh: bool,
}

impl Default for Body {
    fn default() -> Self {
        Body { id: PageId::NONE, bytes: None, mode: Mode::None, granted: Mode::None, fresh: false }
    }
}

impl Body {
    pub(crate) fn page(&self) -> &[u8] {
        self.bytes.as_ref().expect("a frame with a page has bytes")
    }

    pub(crate) fn page_mut(&mut self) -> &mut [u8] {
        self.bytes.as_mut().expect("a frame with a page has bytes")
    }

    /// Whether it can be used as `mode` and `load` ask for.
    pub(crate) fn serves(&self, mode: Mode, load: Load) -> bool {
        self.mode >= mode && !(self.fresh && load == Load::Contents)
    }

    /// How this instance holds the page, whether or not its contents are there yet.
    pub(crate) fn held_as(&self) -> Mode {
        self.mode.max(self.granted)
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
    /// The write is owed elsewhere since this version was given away: any version from this one on that is durable at home makes `dirty` void.
    pub(crate) image: Option<Scn>,
    /// The image was given away by the only one who had the page.
    pub(crate) alone: bool,
    /// The copy may be newer than the home, and somebody else owes the write.
    pub(crate) unwritten: bool,
    /// The home is in doubt after a failed write, and what the page holds isn't saved in the log yet: it doesn't leave.
    pub(crate) doubtful: bool,
}

/// A place for a page.
#[derive(Default)]
pub(crate) struct Frame {
    pub(crate) body: RwLock<Body>,
    pub(crate) state: Mutex<WriteState>,
    /// Operations that need the page to stay resident.
    pub(crate) pins: AtomicU32,
    /// Those of the pins that a yield waits for. Taken under the latch.
    pub(crate) holds: AtomicU32,
    /// Yields that wait for holds: no new ones are taken.
    pub(crate) yielding: AtomicU32,
    /// Used since eviction last looked.
    pub(crate) referenced: AtomicBool,
}

/// Keeps a page resident; it may be read and changed by others meanwhile, and given away unless it is held.
pub(crate) struct Pin {
    shared: Arc<CacheShared>,
    pub(crate) frame: u32,
    held: bool,
}

impl Pin {
    /// Pins the page in frame `number`; the caller has its latch.
    pub(crate) fn new(shared: &Arc<CacheShared>, number: u32) -> Pin {
        let frame = &shared.frames[number as usize];
        frame.pins.fetch_add(1, Ordering::AcqRel);
        frame.referenced.store(true, Ordering::Relaxed);
        Pin { shared: shared.clone(), frame: number, held: false }
    }

    /// Makes yields wait; the caller has the latch.
    pub(crate) fn hold(mut self) -> Pin {
        if !self.held {
            self.shared.frames[self.frame as usize].holds.fetch_add(1, Ordering::SeqCst);
            self.held = true;
        }
        self
    }

    /// Ends the hold; the page stays pinned.
    pub(crate) fn let_go(&mut self) {
        let frame = &self.shared.frames[self.frame as usize];
        // In this order, as a yield counts itself before it looks at the holds: one of the two sees the other.
        if std::mem::take(&mut self.held) && frame.holds.fetch_sub(1, Ordering::SeqCst) == 1 && frame.yielding.load(Ordering::SeqCst) > 0 {
            self.shared.yielded.notify_waiters();
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.let_go();
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

    /// The frame of `page` latched exclusively, if the page is held in at least `mode`. `may_wait`: whether to wait for the latch.
    pub(crate) fn latch(&self, page: PageId, mode: Mode, load: Load, may_wait: bool) -> Result<(u32, RwLockWriteGuard<'_, Body>), Halt> {
        loop {
            let Some(number) = self.table.get(page) else { return Err(missing(page, mode, load)) };
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
            if !guard.serves(mode, load) {
                return Err(missing(page, mode, load));
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
        self.shared.pin_if(page, |_, body| body.serves(mode, load))
    }

    /// As [`Cache::pin_resident`], held; not while a yield waits for others' holds.
    pub(crate) fn hold_resident(&self, page: PageId, mode: Mode, load: Load) -> Option<Pin> {
        let free = |frame: &Frame| frame.yielding.load(Ordering::SeqCst) == 0;
        let mut held = None;
        self.shared.look_at(page, |number, frame, body| {
            held = (body.serves(mode, load) && free(frame)).then(|| Pin::new(&self.shared, number).hold());
        });
        held
    }
}

impl CacheShared {
    /// Pins the frame of `page` if there is one and it is as `fits` says.
    pub(crate) fn pin_if(self: &Arc<Self>, page: PageId, fits: impl Fn(&Frame, &Body) -> bool) -> Option<Pin> {
        let mut pin = None;
        self.look_at(page, |number, frame, body| pin = fits(frame, body).then(|| Pin::new(self, number)));
        pin
    }

    /// Shows the frame of `page` to `look`, latched for reading, if there is one.
    fn look_at(&self, page: PageId, look: impl FnOnce(u32, &Frame, &Body)) {
        while let Some(number) = self.table.get(page) {
            let frame = &self.frames[number as usize];
            let guard = frame.body.read();
            if guard.id == page {
                return look(number, frame, &guard);
            }
        }
    }
}
