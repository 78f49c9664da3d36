//! What the directory asks of the cache: to give pages away, and what it hears of their writes.
//!
//! ```text
//! yield: holds end -> mode down, under the latch -> own log up to the page's last change (rule 7) -> no write in flight -> past image, or frame free
//! ```
//! A yield waits for nothing of another instance: for latches and holds, which end by themselves ([`super::wait`] says when), for the own log, for a write
//! that is under way; the page writer begins no new one once the mode is down.
//!
//! **Past images.** A page that is given away before its changes are durable at home keeps its frame and its position, but isn't read, written or evicted
//! any more. It ends when the directory says that its version or a newer one is durable ([`Cache::written_elsewhere`]), or when the page comes back (`asking`),
//! which inherits the position (rule 9).
//!
//! **Pages that can't be written from here** (rule 14, `unwritable`) are given away like others: with the copy goes the duty, and the image keeps the position
//! of the redo that has their contents. What is quarantined is the home as written by this instance. When another one's write of that version or a newer one
//! is durable, the home is whole again, and the quarantine ends with the image. If that one can't write it either, both keep their redo, and the page goes on
//! being served from memory. If the page comes back before it was written, it is held as before: not written from here. While it is away its redo
//! can't be carried forward, so the checkpoint stays where it is, like for any image.
//!
//! When the own log has failed nothing may leave any more: the yield says so, and the instance stops.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::frame::{Body, Frame, Pin};
use super::grants::{Mode, Yielded};
use super::wait::CacheError;
use super::{Cache, CacheShared};
use crate::base::{Lsn, PageId, Scn, checksum};
use crate::disk::Buffer;
use crate::page::{PageHeader, header};

/// A yield that waits for holds: no new ones are taken meanwhile.
struct Waiting<'a> {
    shared: &'a CacheShared,
    frame: &'a Frame,
}

impl<'a> Waiting<'a> {
    fn new(shared: &'a CacheShared, frame: &'a Frame) -> Waiting<'a> {
        frame.yielding.fetch_add(1, Ordering::SeqCst);
        Waiting { shared, frame }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.frame.yielding.fetch_sub(1, Ordering::SeqCst);
        self.shared.yielded.notify_waiters();
    }
}

/// A page whose mode has gone down.
struct Lowered {
    /// Its frame isn't given to another page before it has left.
    pin: Pin,
    /// Its contents are in memory.
    loaded: bool,
    /// Its write was owed elsewhere.
    unwritten: bool,
}

/// A page as it leaves.
struct Leaving {
    version: Scn,
    /// Newer than its home perhaps, and owed elsewhere.
    unwritten: bool,
    /// Dirty: owed here until now.
    dirty: bool,
    /// A past image stays.
    image: bool,
    /// The log up to here must be durable before it leaves.
    redo: Lsn,
    copy: Option<Buffer>,
}

impl Cache {
    /// Goes down to `to`, with a sealed copy if `copy` says so. When it returns, nothing here uses the page above `to`, and this instance's changes of it
    /// are durable in its log (rule 7); down to [`Mode::None`] no write of it is in flight any more, and a past image is kept if it wasn't durable at
    /// home. None when nothing is granted here.
    ///
    /// The page must not be granted again before the answer was given to the directory, and the future is to be driven to its end: whoever drops it
    /// midway doesn't learn what became of the page.
    ///
    /// # Errors
    /// The log has failed: the page must not leave, and this instance stops.
    pub async fn yield_page(&self, page: PageId, to: Mode, copy: bool) -> Result<Option<Yielded>, CacheError> {
        let shared = &self.shared;
        shared.take_in_answer(page);
        let Some(lowered) = shared.lower(page, to).await? else { return Ok(None) };
        if to == Mode::None {
            shared.no_write_in_flight(lowered.pin.frame).await?;
        }
        let leaving = shared.leave(&lowered, to, copy);
        if let Some(log) = shared.log.get() {
            log.force(leaving.redo).await?;
        }
        let number = lowered.pin.frame;
        drop(lowered);
        if to == Mode::None && !leaving.image {
            shared.clear(page, number);
        }
        let Leaving { version, unwritten, dirty, image, copy, .. } = leaving;
        Ok(Some(Yielded { version, dirty, unwritten: unwritten || dirty, image, copy }))
    }

    /// `version` of `page` is durable at home, written by another instance: a past image that isn't newer is void, a copy that isn't newer may be evicted.
    pub fn written_elsewhere(&self, page: PageId, version: Scn) {
        let shared = &self.shared;
        shared.take_in_answer(page);
        let Some(pin) = shared.pin_if(page, |_, _| true) else { return };
        let number = pin.frame;
        let frame = &shared.frames[number as usize];
        let body = frame.body.write();
        let mut state = frame.state.lock();
        // While it is being written here, that write's end says the same.
        if !state.writing && state.image.is_some_and(|image| image <= version) {
            state.image = None;
            if let Some(position) = state.dirty.take() {
                shared.dirty.lock().remove(position, page);
            }
            (state.made_anew, state.remade) = (false, false);
            shared.forget_unwritable(page);
            shared.image_gone.notify_one();
        }
        if CacheShared::version_of(&body) <= version {
            state.unwritten = false;
        }
        drop((state, body, pin));
        shared.asked.store(0, Ordering::Release);
        shared.clear(page, number);
        shared.freed.notify_waiters();
    }

    /// Somebody elsewhere waits for `page`, which this instance owes, to be durable at home.
    pub fn write_soon(&self, page: PageId) {
        let shared = &self.shared;
        let owed = shared.pin_if(page, |frame, _| {
            let state = frame.state.lock();
            state.dirty.is_some_and(|position| shared.dirty.lock().is_writable(position, page))
        });
        if owed.is_some() {
            shared.urgent.lock().insert(page);
            shared.write.notify_one();
        }
    }

    /// This instance owes the write of `page`: its past image is the current copy again, held exclusively and dirty from its kept position, as the transfer never
    /// arrived; or its copy in [`Mode::Shared`] is as new as any, and whoever owed the write gave its own up. False when there is neither.
    pub fn reinstate(&self, page: PageId) -> bool {
        let shared = &self.shared;
        shared.take_in_answer(page);
        let Some(pin) = shared.pin_if(page, |_, body| body.bytes.is_some()) else { return false };
        let frame = &shared.frames[pin.frame as usize];
        let mut body = frame.body.write();
        let mut state = frame.state.lock();
        match body.held_as() {
            Mode::None if state.image.is_some() => body.mode = Mode::Exclusive,
            Mode::Shared if state.unwritten => state.unwritten = false,
            _ => return false,
        }
        shared.take_duty(&mut state, page);
        drop(state);
        shared.yielded.notify_waiters();
        shared.write.notify_one();
        true
    }

    /// The version of `page`, if it is held here and durable at home.
    pub fn written_version(&self, page: PageId) -> Option<Scn> {
        let shared = &self.shared;
        let pin = shared.pin_if(page, |_, body| body.held_as() > Mode::None && body.bytes.is_some())?;
        let frame = &shared.frames[pin.frame as usize];
        let body = frame.body.read();
        let state = frame.state.lock();
        let version = CacheShared::version_of(&body);
        let durable = body.id == page && state.dirty.is_none() && !state.unwritten && !body.fresh;
        (durable && version > Scn(0)).then_some(version)
    }
}

impl CacheShared {
    /// Lowers the mode of `page`, if it is above `to`, when nobody holds it. None when there is none.
    async fn lower(self: &Arc<Self>, page: PageId, to: Mode) -> Result<Option<Lowered>, CacheError> {
        loop {
            let Some(number) = self.table.get(page) else { return Ok(None) };
            let frame = &self.frames[number as usize];
            let waiting = Waiting::new(self, frame);
            let (unheld, round) = (self.yielded.notified(), self.written.notified());
            tokio::pin!(unheld, round);
            unheld.as_mut().enable();
            round.as_mut().enable();
            let doubtful = {
                let mut body = frame.body.write();
                if body.id != page {
                    continue;
                }
                if body.held_as() == Mode::None {
                    return Ok(None);
                }
                if body.held_as() <= to {
                    let unwritten = frame.state.lock().unwritten;
                    return Ok(Some(Lowered { pin: Pin::new(self, number), loaded: CacheShared::version_of(&body) > Scn(0), unwritten }));
                }
                let doubtful = frame.state.lock().doubtful;
                if !doubtful && frame.holds.load(Ordering::SeqCst) == 0 {
                    return Ok(Some(self.lower_latched(number, &mut body, to)));
                }
                doubtful
            };
            if !doubtful {
                unheld.await;
            } else if self.writer_gone.load(Ordering::Acquire) {
                return Err(self.log_error());
            } else {
                round.await;
            }
            drop(waiting);
        }
    }

    fn lower_latched(self: &Arc<Self>, number: u32, body: &mut Body, to: Mode) -> Lowered {
        let (page, version, before) = (body.id, CacheShared::version_of(body), body.held_as());
        (body.mode, body.granted) = (body.mode.min(to), body.granted.min(to));
        let mut state = self.frames[number as usize].state.lock();
        let unwritten = state.unwritten;
        if to == Mode::None {
            state.unwritten = false;
            // Where the page writer has a copy under way, it finds this when it is done.
            if let Some(position) = state.dirty
                && state.image.is_none()
            {
                state.image = Some(version);
                state.alone = before == Mode::Exclusive;
                (state.made_anew, state.remade) = (false, false);
                if !state.writing {
                    self.dirty.lock().make_image(position, page);
                }
            }
        }
        Lowered { pin: Pin::new(self, number), loaded: version > Scn(0), unwritten }
    }

    /// What leaves: the mode is down, and nothing changes the page any more.
    fn leave(&self, lowered: &Lowered, to: Mode, copy: bool) -> Leaving {
        let Lowered { ref pin, loaded, unwritten } = *lowered;
        let frame = &self.frames[pin.frame as usize];
        let body = frame.body.read();
        let version = if loaded { header::of(body.page()).version() } else { Scn(0) };
        let copy = (copy && loaded).then(|| {
            let mut copy = Buffer::copy_of(body.page());
            checksum::seal(&mut copy);
            copy
        });
        let redo = if loaded { self.own_redo(header::of(body.page())) } else { Lsn(0) };
        let state = frame.state.lock();
        let image = to == Mode::None && state.image.is_some();
        Leaving { version, unwritten, dirty: state.dirty.is_some() && !unwritten, image, redo, copy }
    }

    /// Up to where this instance's log must be durable before the page leaves, to its home or to a peer: what others changed last is durable in theirs,
    /// or they wouldn't have given it away. A former life's log is durable, or recovery would have found the page too new.
    pub(crate) fn own_redo(&self, header: &PageHeader) -> Lsn {
        let (writer, own) = (header.writer(), self.log.get().map(crate::redo::LogWriter::writer));
        let ours = own.is_some_and(|own| own.thread == writer.thread && own.incarnation == writer.incarnation);
        if ours { header.redo() } else { Lsn(0) }
    }

    /// Waits until no write of the page in frame `number`, which has no mode any more, is in flight.
    async fn no_write_in_flight(&self, number: u32) -> Result<(), CacheError> {
        loop {
            let round = self.written.notified();
            tokio::pin!(round);
            round.as_mut().enable();
            if !self.frames[number as usize].state.lock().writing {
                return Ok(());
            }
            if self.writer_gone.load(Ordering::Acquire) {
                return Err(self.log_error());
            }
            round.await;
        }
    }

    /// Gives up the frame of `page`, which has no mode any more and needs no write.
    fn clear(&self, page: PageId, number: u32) {
        let frame = &self.frames[number as usize];
        let mut body = frame.body.write();
        let worthless = body.id == page && body.held_as() == Mode::None && frame.pins.load(Ordering::Acquire) == 0;
        if worthless && frame.state.lock().dirty.is_none() {
            self.empty(&mut body);
            drop(body);
            self.give_back(number);
        }
    }

    /// A version of `page` that another instance wrote is durable: what this one couldn't write doesn't count any more.
    pub(crate) fn forget_unwritable(&self, page: PageId) {
        let mut quarantine = self.quarantine.lock();
        if matches!(quarantine.get(&page), Some(CacheError::Unwritable { .. })) {
            tracing::info!(%page, "written home by another instance: no longer quarantined");
            quarantine.remove(&page);
        }
    }
}
