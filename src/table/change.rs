//! One atomic change to trees: a change group, with what must be said once it is committed.
//!
//! Everything is done at once under latches; a wait or an error drops the group, which puts every page back. The first latch may block,
//! all others are tried. An operation that lost too many of those races is *patient*: it latches the roots of its trees first, so that
//! nobody new comes in, and tries each latch for a while before it gives up.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::descend::{Toward, descend, root};
use super::error::{TableError, raced};
use super::node::{self, Pages};
use super::{SPLIT_BYTES, Shared};
use crate::base::limits::{GROUP_BYTES_MAX, GROUP_PAGES_MAX};
use crate::base::{PageId, TreeId};
use crate::cache::{Committed, Group, Halt, PageRead, Wait};
use crate::page::{slotted, space};
use crate::redo::record::Op;

/// Races lost that make an operation patient.
const PATIENT_FROM: u32 = 8;
/// Tries of a latch by a patient operation.
const TRIES: u32 = 256;

/// What an operation keeps from one try to the next. Its tries may run on different threads, one after the other.
pub(super) struct Attempt {
    /// Redo to reserve, in bytes.
    bytes: AtomicUsize,
    /// Races lost.
    races: AtomicU32,
    /// The file that was asked to grow, and to how many pages.
    growing: Mutex<Option<(u16, u64)>>,
}

/// Space groups that a change claims; nobody's again unless it is committed.
struct Claims<'c> {
    shared: &'c Shared,
    maps: Vec<PageId>,
}

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        self.maps.drain(..).for_each(|map| self.shared.space.not_claimed(map));
    }
}

/// A change under way.
pub(super) struct Change<'c> {
    pub(super) shared: &'c Shared,
    group: Group<'c>,
    patient: bool,
    attempt: &'c Attempt,
    claims: Claims<'c>,
    freed: Vec<PageId>,
}

/// A page of the change, or one latched for reading.
pub(super) enum View<'v> {
    Held(&'v [u8]),
    Read(PageRead<'v>),
}

impl Deref for View<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            View::Held(bytes) => bytes,
            View::Read(page) => page,
        }
    }
}

impl Pages for Change<'_> {
    type View<'v>
        = View<'v>
    where
        Self: 'v;

    fn view(&self, page: PageId) -> Result<View<'_>, Halt> {
        if self.group.holds(page) {
            return Ok(View::Held(self.group.page(page)));
        }
        self.patiently(|| self.group.read(page)).map(View::Read)
    }
}

impl<'c> Change<'c> {
    /// Begins a change with the room that `attempt` asks for.
    pub(super) fn begin(shared: &'c Shared, attempt: &'c Attempt) -> Result<Change<'c>, TableError> {
        let group = shared.cache.begin(attempt.bytes.load(Ordering::Relaxed))?;
        let claims = Claims { shared, maps: Vec::new() };
        Ok(Change { shared, group, patient: attempt.races.load(Ordering::Relaxed) >= PATIENT_FROM, attempt, claims, freed: Vec::new() })
    }

    /// Whether the change has lost so many races that it should shut others out.
    pub(super) fn is_patient(&self) -> bool {
        self.patient
    }

    fn patiently<T>(&self, mut once: impl FnMut() -> Result<T, Halt>) -> Result<T, Halt> {
        if !self.patient {
            return once();
        }
        for _ in 0..TRIES {
            match once() {
                Err(Halt::Wait(Wait::Latch)) => std::thread::yield_now(),
                other => return other,
            }
        }
        once()
    }

    fn latch_by(&mut self, once: impl Fn(&mut Group<'c>) -> Result<(), Halt>) -> Result<(), TableError> {
        let tries = if self.patient { TRIES } else { 0 };
        for _ in 0..tries {
            match once(&mut self.group) {
                Err(Halt::Wait(Wait::Latch)) => std::thread::yield_now(),
                other => return Ok(other?),
            }
        }
        Ok(once(&mut self.group)?)
    }

    /// Latches `page` exclusively.
    pub(super) fn latch(&mut self, page: PageId) -> Result<(), TableError> {
        self.latch_by(|group| group.latch(page))
    }

    /// Latches `page`, whose contents are about to be replaced.
    pub(super) fn latch_fresh(&mut self, page: PageId) -> Result<(), TableError> {
        self.latch_by(|group| group.latch_fresh(page))
    }

    /// Latches `page`, which may never have been written.
    pub(super) fn latch_if_any(&mut self, page: PageId) -> Result<(), TableError> {
        self.latch_by(|group| group.latch_if_any(page))
    }

    /// Gives up the latch of an unchanged page.
    pub(super) fn unlatch(&mut self, page: PageId) {
        self.group.unlatch(page);
    }

    /// Whether the change holds `page`.
    pub(super) fn holds(&self, page: PageId) -> bool {
        self.group.holds(page)
    }

    /// The bytes of a page that the change holds.
    pub(super) fn page(&self, page: PageId) -> &[u8] {
        self.group.page(page)
    }

    /// Does `op` to a page that the change holds.
    pub(super) fn apply(&mut self, page: PageId, op: Op<'_>) -> Result<(), TableError> {
        Ok(self.group.apply(page, op)?)
    }

    /// Takes a page into use, latched, to be formatted.
    pub(super) fn allocate(&mut self, near: Option<PageId>) -> Result<PageId, TableError> {
        self.shared.space.allocate(self, near)
    }

    /// Gives `page` back, which the change holds.
    pub(super) fn free(&mut self, page: PageId) -> Result<(), TableError> {
        self.apply(page, Op::Free)?;
        self.unmark(page)
    }

    /// Marks `page` as not in use.
    pub(super) fn unmark(&mut self, page: PageId) -> Result<(), TableError> {
        self.shared.space.free(self, page)?;
        self.freed.push(space::map_of(page));
        Ok(())
    }

    /// The error that makes the caller wait until `file` has `pages` pages.
    pub(super) fn ask_to_grow(&mut self, file: u16, pages: u64) -> TableError {
        *self.attempt.growing.lock() = Some((file, pages));
        TableError::Wait(Wait::Space { file, pages })
    }

    /// The change claims the space group of `map`.
    pub(super) fn claim(&mut self, map: PageId) {
        self.claims.maps.push(map);
    }

    /// The space group of `map` has an owner already.
    pub(super) fn disclaim(&mut self, map: PageId) {
        self.claims.maps.retain(|claim| *claim != map);
    }

    /// The leaf of `tree` for `key`, latched exclusively. `last` is the leaf of an earlier key, looked at first.
    pub(super) fn leaf(&mut self, tree: TreeId, key: &[u8], last: Option<PageId>) -> Result<PageId, TableError> {
        if let Some(page) = last.filter(|page| self.holds(*page) && node::is_for(self.page(*page), tree, 0, key)) {
            return Ok(page);
        }
        let (page, view) = descend(self, &self.shared.roots, tree, Toward::Key(key), 0)?;
        drop(view);
        self.latch(page)?;
        // Not latched for a moment: it may have been split, merged or given away.
        if node::is_for(self.page(page), tree, 0, key) { Ok(page) } else { Err(raced()) }
    }

    /// The parent of `child`, a node of `tree` that the change holds and that covers `key` at the level below `level`; latched
    /// exclusively. Also the child's slot in it.
    pub(super) fn parent(&mut self, tree: TreeId, key: &[u8], level: u8, child: PageId) -> Result<(PageId, usize), TableError> {
        let (page, view) = descend(self, &self.shared.roots, tree, Toward::Key(key), level)?;
        drop(view);
        self.latch(page)?;
        if !node::is_for(self.page(page), tree, level, key) {
            return Err(raced());
        }
        let slot = node::slot_for(self.page(page), key);
        if node::child(self.page(page), tree, page, slot)? == child { Ok((page, slot)) } else { Err(raced()) }
    }

    /// Whether `page` of `tree`, which the change holds, is the root.
    pub(super) fn is_root(&self, page: PageId, tree: TreeId) -> bool {
        node::is_root(self.page(page), tree)
    }

    /// Latches the root of `tree` exclusively.
    pub(super) fn latch_root(&mut self, tree: TreeId) -> Result<PageId, TableError> {
        let (page, view) = root(self, &self.shared.roots, tree)?;
        drop(view);
        self.latch(page)?;
        if self.is_root(page, tree) { Ok(page) } else { Err(raced()) }
    }

    /// Whether a cell fits into `page`.
    pub(super) fn fits(&self, page: PageId, key: &[u8], value: &[u8]) -> bool {
        slotted::fits(self.page(page), key.len(), value.len())
    }

    /// Makes the change happen.
    pub(super) fn commit(mut self) -> Result<Committed, TableError> {
        let freed: Vec<_> = self.freed.iter().map(|map| (*map, space::owner(self.page(*map)))).collect();
        let committed = self.group.commit()?;
        for map in std::mem::take(&mut self.claims.maps) {
            self.shared.space.claimed(map);
        }
        freed.into_iter().for_each(|(map, owner)| self.shared.space.freed(map, owner));
        Ok(committed)
    }
}

impl Attempt {
    /// The first try, with room for `bytes` bytes of redo.
    pub(super) fn new(bytes: usize) -> Attempt {
        Attempt { bytes: AtomicUsize::new(bytes), races: AtomicU32::new(0), growing: Mutex::new(None) }
    }

    /// Another operation was faster at a latch.
    pub(super) fn lost_race(&self) {
        self.races.fetch_add(1, Ordering::Relaxed);
    }

    /// The file that was asked to grow since the last look.
    pub(super) fn take_growing(&self) -> Option<(u16, u64)> {
        self.growing.lock().take()
    }

    /// Makes room for a group that grew to `bytes` bytes over `pages` pages; false when that is over the limits.
    pub(super) fn enlarge(&self, bytes: usize, pages: usize) -> bool {
        let grown = (bytes + SPLIT_BYTES).min(GROUP_BYTES_MAX);
        let can = bytes <= GROUP_BYTES_MAX && pages <= GROUP_PAGES_MAX && grown > self.bytes.load(Ordering::Relaxed);
        if can {
            self.bytes.store(grown, Ordering::Relaxed);
        }
        can
    }
}
