//! Loads under way: one per page, what it asked the directory for, and taking in the answer.
//!
//! An answer counts from the moment that the directory gave it, which may be before the load's task runs again. So whoever gives a page away
//! looks first whether such an answer waits ([`CacheShared::take_in_answer`]): what was granted is put into the frame then, by whoever comes first, and
//! the page is given away from there. Contents that are at home are read after that, into memory that isn't the frame's: the frame has the page's grant
//! ([`super::frame::Body::granted`]) and no bytes, and when it is given away meanwhile the read isn't used.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::CacheShared;
use super::frame::{Body, Frame, Pin};
use super::free::FreeFrame;
use super::grants::{Contents, Grant, Mode};
use super::wait::{CacheError, Load};
use crate::base::{BoxFuture, Lsn, PageId, Scn, TreeId};
use crate::disk::Buffer;
use crate::page::header::{self, Kind};
use crate::page::{PageFault, verify};

/// Where a load puts its page: never in a second frame (rule 9).
pub(crate) enum Place {
    /// The frame that has the page, or had it.
    Own(Pin),
    /// One without a page.
    Free(FreeFrame),
}

/// What a load wants of its page.
pub(crate) struct Want {
    pub(crate) mode: Mode,
    pub(crate) load: Load,
    /// Whether it is to be held for whoever asked. Not where several are asked for at once: these must be free to go while the others are awaited.
    pub(crate) hold: bool,
    /// Where it is put.
    pub(crate) place: Place,
}

/// A page that was granted.
pub(crate) struct Taken {
    pub(crate) pin: Pin,
    /// Its contents are at home: they are to be read into this.
    pub(crate) read: Option<Buffer>,
}

/// What the directory was asked for.
struct Asked {
    answer: BoxFuture<Result<Grant, CacheError>>,
    /// Who is to be woken by it, once it was polled.
    waker: Option<Waker>,
    want: Want,
}

#[derive(Default)]
enum Asking {
    #[default]
    Nothing,
    Asked(Asked),
    TakenIn(Result<Taken, CacheError>),
}

/// A load under way.
#[derive(Default)]
pub(crate) struct LoadEntry {
    /// It has ended.
    pub(crate) over: Notify,
    asking: Mutex<Asking>,
}

impl LoadEntry {
    /// Asks for `page` and takes in what comes.
    pub(crate) async fn ask(&self, shared: &Arc<CacheShared>, page: PageId, want: Want) -> Result<Taken, CacheError> {
        let have = match &want.place {
            Place::Own(pin) => shared.frames[pin.frame as usize].body.read().serves(Mode::Shared, Load::Contents),
            Place::Free(_) => false,
        };
        let answer = shared.grants.acquire(page, want.mode, have);
        *self.asking.lock() = Asking::Asked(Asked { answer, waker: None, want });
        std::future::poll_fn(|context| {
            let mut asking = self.asking.lock();
            if let Asking::Asked(asked) = &mut *asking {
                asked.waker = Some(context.waker().clone());
            }
            // Its own waker: this task is awake.
            drop(look(&mut asking, shared, page));
            match std::mem::take(&mut *asking) {
                Asking::TakenIn(outcome) => Poll::Ready(outcome),
                still => {
                    *asking = still;
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// Takes in the answer if it has come; returns whom to wake then. Polled with the load's waker, so that its task hears of an answer that comes later.
fn look(asking: &mut Asking, shared: &Arc<CacheShared>, page: PageId) -> Option<Waker> {
    let Asking::Asked(asked) = asking else { return None };
    let waker = asked.waker.as_ref()?;
    // Without a budget: an answer that is there must be seen, or the page would be given away from under it.
    let answer = std::pin::pin!(tokio::task::unconstrained(&mut asked.answer)).poll(&mut Context::from_waker(waker));
    let Poll::Ready(answer) = answer else { return None };
    let Asking::Asked(Asked { want, waker, .. }) = std::mem::take(asking) else { return None };
    *asking = Asking::TakenIn(answer.and_then(|grant| shared.take_in(page, want, grant)));
    waker
}

impl CacheShared {
    /// Takes in what the directory has answered to a load of `page`, if it has and nobody did yet.
    pub(crate) fn take_in_answer(self: &Arc<Self>, page: PageId) {
        let entry = self.loading.lock().get(&page).cloned();
        let waker = entry.and_then(|entry| look(&mut entry.asking.lock(), self, page));
        waker.into_iter().for_each(Waker::wake);
    }

    fn take_in(self: &Arc<Self>, page: PageId, want: Want, grant: Grant) -> Result<Taken, CacheError> {
        let Want { load, hold, place, .. } = want;
        let Grant { mode, contents, unwritten } = grant;
        let at_home = matches!(contents, Contents::Disk);
        if let Contents::Copy(copy) = &contents {
            self.check(page, copy)?;
            self.clock.fetch_max(header::of(copy).version().0, Ordering::AcqRel);
        }
        let pin = match place {
            Place::Own(pin) => pin,
            Place::Free(frame) => {
                frame.install(page, |buffer| Body { id: page, bytes: Some(buffer), mode: Mode::None, granted: Mode::None, fresh: false })
            }
        };
        let frame = &self.frames[pin.frame as usize];
        let mut body = frame.body.write();
        let mut read = None;
        match contents {
            Contents::Own => assert!(body.serves(Mode::Shared, Load::Contents), "{page} was granted from a copy that isn't here"),
            Contents::Copy(copy) => {
                body.page_mut().copy_from_slice(&copy);
                body.fresh = false;
            }
            Contents::Disk if load == Load::Fresh => {
                header::format(body.page_mut(), page, Kind::Free, TreeId(0), self.volume.tag());
                body.fresh = true;
            }
            Contents::Disk => read = body.bytes.take(),
        }
        if read.is_some() {
            (body.mode, body.granted, body.fresh) = (Mode::None, mode, false);
        } else {
            (body.mode, body.granted) = (mode, Mode::None);
        }
        self.settle_duty(frame, page, mode, unwritten && !at_home);
        // Still latched, so that no yield comes in between.
        Ok(Taken { pin: if hold { pin.hold() } else { pin }, read })
    }

    /// Who owes the write of a page that was granted in `mode` and is newer than its home, or isn't. The frame is latched.
    fn settle_duty(&self, frame: &Frame, page: PageId, mode: Mode, unwritten: bool) {
        let mut state = frame.state.lock();
        if state.image.is_some() || state.dirty.is_none() {
            // What others changed meanwhile isn't in the own log, whatever that has from the kept position on.
            (state.made_anew, state.remade) = (false, false);
        }
        if !unwritten {
            state.unwritten = false;
            if state.image.take().is_some()
                && let Some(position) = state.dirty.take()
            {
                // A newer version is durable.
                self.dirty.lock().remove(position, page);
                self.forget_unwritable(page);
                self.image_gone.notify_one();
            }
        } else if mode == Mode::Exclusive {
            state.unwritten = false;
            self.take_duty(&mut state, page);
        } else if state.dirty.is_none() || state.image.is_some() {
            state.unwritten = true;
        }
    }

    /// This instance owes the write of `page` from now on: from the log's present end on, or from where its past image needs it (rule 9).
    pub(crate) fn take_duty(&self, state: &mut super::frame::WriteState, page: PageId) {
        if state.dirty.is_some() && state.image.is_none() {
            return;
        }
        state.image = None;
        let position = *state.dirty.get_or_insert_with(|| self.log.get().map_or(Lsn(0), crate::redo::LogWriter::appended));
        let unwritable = matches!(self.quarantine.lock().get(&page), Some(CacheError::Unwritable { .. }));
        let mut dirty = self.dirty.lock();
        if unwritable {
            dirty.hold(position, page);
        } else {
            dirty.remove(position, page);
            dirty.insert(position, page);
        }
    }

    /// Puts what was read of a granted page into its frame. False when it was given away meanwhile: then nothing is known of what was read.
    pub(crate) fn put_read(
        &self,
        page: PageId,
        pin: &Pin,
        mut bytes: Buffer,
        load: Load,
        read: Result<(), CacheError>,
    ) -> Result<bool, CacheError> {
        let frame = &self.frames[pin.frame as usize];
        let mut body = frame.body.write();
        let granted = std::mem::take(&mut body.granted);
        let blank = load == Load::IfAny && read.is_ok() && matches!(verify(&bytes, page, self.volume.tag()), Err(PageFault::Blank { .. }));
        if blank {
            header::format(&mut bytes, page, Kind::Free, TreeId(0), self.volume.tag());
        }
        let checked = || if blank { Ok(()) } else { self.check(page, &bytes) };
        let outcome = if granted == Mode::None { Ok(false) } else { read.and_then(|()| checked()).map(|()| true) };
        body.fresh = blank && outcome == Ok(true);
        body.bytes = Some(bytes);
        match outcome {
            Ok(true) => body.mode = granted,
            Ok(false) => {}
            Err(_) => body.granted = granted,
        }
        outcome
    }

    /// Gives up the frame of a page that can't be read, with its grant.
    pub(crate) fn drop_unread(&self, page: PageId, pin: Pin) {
        let number = pin.frame;
        drop(pin);
        let frame = &self.frames[number as usize];
        let mut body = frame.body.write();
        let idle = body.id == page && body.mode == Mode::None && frame.pins.load(Ordering::Acquire) == 0;
        if idle && frame.state.lock().dirty.is_none() {
            self.empty(&mut body);
            // The buffer is free by now: whoever takes the frame takes one too.
            drop(body);
            self.give_back(number);
        }
    }

    /// The version of the page that `body` has, 0 when its contents aren't in memory.
    pub(crate) fn version_of(body: &Body) -> Scn {
        match &body.bytes {
            Some(bytes) if body.mode > Mode::None && !body.fresh => header::of(bytes).version(),
            _ => Scn(0),
        }
    }
}
