//! Change groups: atomic changes to several pages.
//!
//! A group reserves log room, latches its pages exclusively, applies operations (the very ones that redo will apply) and commits: its
//! redo is appended, its pages are stamped with its SCN, its latches fall. Dropped before that, it puts every page back. Only the
//! first latch may block; while any is held, further ones are tried, and a miss makes the caller start over (no circle, rule 19).
//! A group is synchronous: it never lives across an `.await`.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::Ordering;

use parking_lot::RwLockWriteGuard;

use super::frame::{Body, PageRead};
use super::grants::Mode;
use super::wait::{CacheError, Halt, Load, Wait};
use super::{Cache, CacheShared};
use crate::base::limits::{GROUP_BYTES_MAX, GROUP_PAGES_MAX, PAGE_SIZE};
use crate::base::{Lsn, PageId, Scn, TreeId};
use crate::page::header::{self, Kind};
use crate::redo::apply::{ApplyFault, apply_op};
use crate::redo::record::{CHANGE_HEADER, Change, GROUP_HEADER, Group as GroupHeader, GroupKind, Op};
use crate::redo::writer::Reservation;

/// What a committed group was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Its place in the cluster's order: the version of its pages.
    pub scn: Scn,
    /// Durable when the log is durable up to here.
    pub end: Lsn,
}

/// A page of a group.
struct Held<'c> {
    page: PageId,
    frame: u32,
    body: RwLockWriteGuard<'c, Body>,
    /// The version that the group found. The page's own isn't that any more once it was formatted.
    version: Scn,
    /// The page as it was, once it is changed; nothing for one that had no contents.
    before: Option<Box<[u8; PAGE_SIZE]>>,
    was_fresh: bool,
    ops: Vec<u8>,
}

impl Held<'_> {
    /// Whether its change starts the page anew.
    fn is_made_anew(&self) -> bool {
        Change { page: self.page, previous: Scn(0), ops: &self.ops }.formats()
    }

    /// Puts the page back as the group found it.
    fn restore(&mut self) {
        if self.ops.is_empty() {
            return;
        }
        if let Some(before) = &self.before {
            self.body.page_mut().copy_from_slice(&before[..]);
        } else {
            let page = self.body.page_mut();
            let cluster = header::of(page).cluster.get();
            header::format(page, self.page, Kind::Free, TreeId(0), cluster);
            header::of_mut(page).version.set(self.version.0);
        }
        self.body.fresh = self.was_fresh;
    }
}

/// A change group under way.
pub struct Group<'c> {
    shared: &'c CacheShared,
    reservation: Reservation,
    bytes_max: usize,
    bytes: usize,
    pages: Vec<Held<'c>>,
    /// Latches belong to the thread.
    _not_send: PhantomData<Cell<()>>,
}

impl Cache {
    /// Begins a group of at most `bytes_max` bytes of redo.
    ///
    /// # Errors
    /// [`Wait::Log`] when the log has no room at present; the log's own error.
    pub fn begin(&self, bytes_max: usize) -> Result<Group<'_>, Halt> {
        let bytes_max = bytes_max.min(GROUP_BYTES_MAX);
        match self.log()?.reserve(bytes_max)? {
            Err(no_room) => Err(Halt::Wait(Wait::Log { bytes: no_room.bytes })),
            Ok(reservation) => {
                Ok(Group { shared: &self.shared, reservation, bytes_max, bytes: GROUP_HEADER, pages: Vec::new(), _not_send: PhantomData })
            }
        }
    }
}

impl<'c> Group<'c> {
    /// Latches `page` exclusively, if the group doesn't hold it already.
    ///
    /// # Errors
    /// [`Wait::Page`], [`Wait::Latch`]; [`CacheError::GroupTooLarge`].
    pub fn latch(&mut self, page: PageId) -> Result<(), Halt> {
        self.latch_for(page, Mode::Exclusive, Load::Contents)
    }

    /// As [`Group::latch`] for a page whose contents are about to be replaced: it isn't read.
    ///
    /// # Errors
    /// As [`Group::latch`].
    pub fn latch_fresh(&mut self, page: PageId) -> Result<(), Halt> {
        self.latch_for(page, Mode::Exclusive, Load::Fresh)
    }

    /// As [`Group::latch`] for a page whose home may never have been written: then it is an empty one of kind `Free`.
    ///
    /// # Errors
    /// As [`Group::latch`].
    pub fn latch_if_any(&mut self, page: PageId) -> Result<(), Halt> {
        self.latch_for(page, Mode::Exclusive, Load::IfAny)
    }

    /// As [`Group::latch`] for a page that is about to leave, and that nobody has while the page writer isn't done with it.
    pub(super) fn latch_leaving(&mut self, page: PageId) -> Result<(), Halt> {
        self.latch_for(page, Mode::None, Load::Contents)
    }

    fn latch_for(&mut self, page: PageId, mode: Mode, load: Load) -> Result<(), Halt> {
        if self.find(page).is_some() {
            return Ok(());
        }
        if self.pages.len() == GROUP_PAGES_MAX {
            return Err(CacheError::GroupTooLarge { bytes: self.bytes, pages: self.pages.len() + 1 }.into());
        }
        let (frame, body) = self.shared.latch(page, mode, load, self.pages.is_empty())?;
        let (was_fresh, version) = (body.fresh, header::of(body.page()).version());
        self.pages.push(Held { page, frame, body, version, before: None, was_fresh, ops: Vec::new() });
        Ok(())
    }

    /// Gives up the latch of a page that the group hasn't changed; does nothing otherwise.
    pub fn unlatch(&mut self, page: PageId) {
        self.pages.retain(|held| held.page != page || !held.ops.is_empty());
    }

    fn find(&self, page: PageId) -> Option<usize> {
        self.pages.iter().position(|held| held.page == page)
    }

    /// The bytes of a page that the group holds.
    ///
    /// # Panics
    /// When it doesn't hold it.
    pub fn page(&self, page: PageId) -> &[u8] {
        let at = self.find(page).expect("the group holds the page");
        self.pages[at].body.page()
    }

    /// Whether the group holds `page`.
    pub fn holds(&self, page: PageId) -> bool {
        self.find(page).is_some()
    }

    /// Latches a page that the group doesn't hold for reading, without blocking while it holds any.
    ///
    /// # Errors
    /// [`Wait::Page`], [`Wait::Latch`].
    pub fn read(&self, page: PageId) -> Result<PageRead<'c>, Halt> {
        debug_assert!(self.find(page).is_none(), "the group holds {page} exclusively");
        if self.pages.is_empty() { self.shared.read(page) } else { self.shared.try_read(page) }
    }

    /// Applies `op` to `page`, which the group holds, and notes it for the log.
    ///
    /// # Errors
    /// [`CacheError::Redo`] when it doesn't fit the page: callers look first; [`CacheError::GroupTooLarge`].
    ///
    /// # Panics
    /// When the group doesn't hold the page.
    pub fn apply(&mut self, page: PageId, op: Op<'_>) -> Result<(), Halt> {
        let at = self.find(page).expect("the group holds the page");
        let held = &mut self.pages[at];
        let ops_before = held.ops.len();
        if let Op::Format { low, heap, .. } = op {
            held.ops.reserve(low.len() + heap.len() + CHANGE_HEADER);
        }
        op.encode(&mut held.ops);
        let header = if ops_before == 0 { CHANGE_HEADER } else { 0 };
        let grown = self.bytes + held.ops.len() - ops_before + header;
        if grown > self.bytes_max {
            held.ops.truncate(ops_before);
            return Err(CacheError::GroupTooLarge { bytes: grown, pages: self.pages.len() }.into());
        }
        if held.before.is_none() && !held.was_fresh {
            let bytes: &[u8; PAGE_SIZE] = held.body.page().try_into().expect("a page is 8192 bytes");
            held.before = Some(Box::new(*bytes));
        }
        if let Err(fault) = apply_op(held.body.page_mut(), &op) {
            if ops_before == 0 {
                held.restore();
            }
            held.ops.truncate(ops_before);
            return Err(CacheError::from(fault).into());
        }
        held.body.fresh = false;
        self.bytes = grown;
        Ok(())
    }

    /// Appends the group's redo, stamps its pages and lets go of them. A group that changed nothing returns the present.
    ///
    /// # Errors
    /// The log has ended: nothing happened.
    pub fn commit(mut self) -> Result<Committed, Halt> {
        let log = self.shared.log.get().ok_or(CacheError::ReadOnly)?;
        self.pages.retain(|held| !held.ops.is_empty());
        if self.pages.is_empty() {
            return Ok(Committed { scn: Scn(self.shared.clock.load(Ordering::Acquire)), end: log.appended() });
        }
        let mut redo = self.encode();
        let floor = self.pages.iter().map(|held| held.version).max().unwrap_or_default();
        // Before the append, so that a checkpoint taken in between can't overlook these pages; the position can only be too early.
        let position = log.appended();
        for held in &self.pages {
            self.shared.mark_dirty(held.frame, held.page, position, held.is_made_anew());
        }
        let appended = log.append(&mut redo, floor, &self.reservation)?;
        let writer = log.writer();
        for mut held in self.pages.drain(..) {
            header::stamp(held.body.page_mut(), appended.scn, appended.end, writer);
        }
        self.shared.counters.groups.fetch_add(1, Ordering::Relaxed);
        Ok(Committed { scn: appended.scn, end: appended.end })
    }

    fn encode(&self) -> Vec<u8> {
        let mut redo = Vec::with_capacity(self.bytes);
        redo.resize(GROUP_HEADER, 0);
        for held in &self.pages {
            redo.extend_from_slice(&held.page.0.to_le_bytes());
            redo.extend_from_slice(&held.version.0.to_le_bytes());
            redo.extend_from_slice(&(held.ops.len() as u32).to_le_bytes());
            redo.extend_from_slice(&held.ops);
        }
        GroupHeader { length: redo.len(), kind: GroupKind::Changes, items: self.pages.len(), scn: Scn(0) }.encode(&mut redo);
        redo
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        self.pages.iter_mut().for_each(Held::restore);
    }
}

impl From<ApplyFault> for Halt {
    fn from(fault: ApplyFault) -> Halt {
        Halt::Failed(fault.into())
    }
}

impl CacheShared {
    /// Notes that the page in `frame`, latched exclusively, needs the log from `position` on.
    /// `made_anew`: the change formats it.
    pub(crate) fn mark_dirty(&self, frame: u32, page: PageId, position: Lsn, made_anew: bool) {
        let mut state = self.frames[frame as usize].state.lock();
        if state.writing {
            state.redirtied.get_or_insert(position);
            state.remade |= made_anew;
            return;
        }
        state.made_anew |= made_anew;
        if state.dirty.is_none() {
            state.dirty = Some(position);
            let mut dirty = self.dirty.lock();
            dirty.insert(position, page);
            if dirty.writable() * 8 == self.frames.len() * 3 {
                self.write.notify_one();
            }
        }
    }
}
