//! Which pages are free: space maps on disk, and in memory where to look first.
//!
//! A group of 4096 pages has its map in its first page and belongs to one redo thread, which alone allocates there. What is kept in
//! memory are hints, corrected under the map's latch: the own groups that may have room, and how many groups each file has.
//! Allocating sets a bit and formats the page, freeing clears it, both in the change group that links or unlinks the page. Files grow in
//! steps; bits beyond a file's present end can't be taken. One that can't grow is asked again after a while.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;

use super::change::Change;
use super::error::{Damage, TableError, raced};
use super::node::{Draft, damaged};
use crate::base::limits::{PAGE_SIZE, SPACE_GROUP_PAGES};
use crate::base::runtime::{Instant, join_all};
use crate::base::{BoxFuture, PageId, ThreadId, TreeId};
use crate::cache::Cache;
use crate::disk::{Buffer, IoOutcome};
use crate::page::header::{self, Kind};
use crate::page::{space, verify};
use crate::redo::record::Op;

/// Smallest and largest step that a file grows by, in pages.
const GROW_MIN: u64 = 128;
const GROW_MAX: u64 = SPACE_GROUP_PAGES;
/// Step below which a file that has no room for it counts as full, in pages.
const GROW_LEAST: u64 = 8;
/// Time until a full file is asked again.
const FULL_FOR: Duration = Duration::from_secs(1);
/// Maps read at once when opening.
const READ_AT_ONCE: usize = 32;

struct FileSpace {
    /// Groups claimed by anyone, or about to be.
    groups: u64,
    /// Groups below that nobody has claimed after all.
    unclaimed: Vec<u64>,
    /// Most pages to grow by, after a step that the device had no room for.
    step_max: u64,
    /// When it last had no room for the least step.
    full_since: Option<Instant>,
}

struct State {
    /// Maps of own groups that may have a free page, or may get one when their file grows.
    roomy: BTreeSet<PageId>,
    files: Vec<FileSpace>,
}

/// The space hints of one instance.
pub(super) struct Space {
    cache: Cache,
    thread: ThreadId,
    state: Mutex<State>,
}

/// What a look at a group gave.
enum Found {
    Page(PageId),
    /// Nothing free as far as its file reaches.
    Nothing,
}

impl Space {
    /// The hints of a new cluster, none of whose groups is claimed.
    pub(super) fn empty(cache: Cache, thread: ThreadId) -> Space {
        let file = |_| FileSpace { groups: 0, unclaimed: Vec::new(), step_max: GROW_MAX, full_since: None };
        let files = (0..cache.volume().shape().data_files).map(file).collect();
        Space { cache, thread, state: Mutex::new(State { roomy: BTreeSet::new(), files }) }
    }

    /// Reads every space map that there is. One that can't be read is left out: its group has no room then.
    pub(super) async fn open(cache: Cache, thread: ThreadId) -> Result<Space, TableError> {
        let space = Space::empty(cache.clone(), thread);
        for file in 0..cache.volume().shape().data_files {
            let groups = cache.volume().pages(file).div_ceil(SPACE_GROUP_PAGES);
            let numbers: Vec<u64> = (0..groups).collect();
            for part in numbers.chunks(READ_AT_ONCE) {
                let looks: Vec<BoxFuture<Result<MapState, TableError>>> = part
                    .iter()
                    .map(|group| {
                        let (cache, map) = (cache.clone(), PageId::new(file, group * SPACE_GROUP_PAGES));
                        Box::pin(async move { look_at(&cache, map).await }) as BoxFuture<_>
                    })
                    .collect();
                let found = join_all(looks).await;
                let mut state = space.state.lock();
                for (group, look) in part.iter().zip(found) {
                    match look? {
                        MapState::Claimed { owner, full } if owner == thread && !full => {
                            state.roomy.insert(PageId::new(file, group * SPACE_GROUP_PAGES));
                        }
                        MapState::Claimed { .. } | MapState::Unreadable => {}
                        MapState::Blank => state.files[usize::from(file)].unclaimed.push(*group),
                    }
                }
            }
            let mut state = space.state.lock();
            let known = &mut state.files[usize::from(file)];
            known.groups = groups;
            // Lowest first, as they are taken from the end.
            known.unclaimed.reverse();
        }
        Ok(space)
    }

    /// Takes a free page, near `near` if there is one, marks it and latches it to be formatted.
    pub(super) fn allocate(&self, change: &mut Change<'_>, near: Option<PageId>) -> Result<PageId, TableError> {
        let home = near.map(space::map_of);
        if let Some(map) = home.filter(|map| self.state.lock().roomy.contains(map))
            && let Found::Page(page) = self.take_from(change, map, near)?
        {
            return Ok(page);
        }
        let mut after = None;
        while let Some(map) = self.next_roomy(after) {
            if Some(map) != home
                && let Found::Page(page) = self.take_from(change, map, None)?
            {
                return Ok(page);
            }
            after = Some(map);
        }
        self.extend(change, home)
    }

    fn next_roomy(&self, after: Option<PageId>) -> Option<PageId> {
        let state = self.state.lock();
        match after {
            None => state.roomy.first().copied(),
            Some(after) => state.roomy.range(PageId(after.0 + 1)..).next().copied(),
        }
    }

    /// Pages of the group of `map` that its file reaches.
    fn reached(&self, map: PageId) -> usize {
        (self.cache.volume().pages(map.file()).saturating_sub(map.index())).min(SPACE_GROUP_PAGES) as usize
    }

    fn take_from(&self, change: &mut Change<'_>, map: PageId, near: Option<PageId>) -> Result<Found, TableError> {
        change.latch(map)?;
        let reached = self.reached(map);
        let bytes = change.page(map);
        need_map(bytes, map)?;
        let start = near.map_or(1, space::bit_of);
        // A page that this very group freed is not taken: it occurs once in the group, and freeing it was its change.
        let free_from = |from: usize, to: usize| {
            let mut from = from;
            while let Some(bit) = space::find_free(bytes, from).filter(|bit| *bit < to) {
                let page = page_of(map, bit);
                if !change.holds(page) && !self.cache.is_unwritable(page) {
                    return Some(bit);
                }
                from = bit + 1;
            }
            None
        };
        let Some(bit) = free_from(start, reached).or_else(|| free_from(1, start.min(reached))) else {
            if reached == SPACE_GROUP_PAGES as usize && space::find_free(bytes, 1).is_none() {
                // Under the map's latch: whoever frees a page here later says so later.
                self.state.lock().roomy.remove(&map);
            }
            change.unlatch(map);
            return Ok(Found::Nothing);
        };
        let page = page_of(map, bit);
        change.latch_fresh(page)?;
        change.apply(map, Op::SetBit { bit: bit as u16, used: true })?;
        Ok(Found::Page(page))
    }

    /// No group has a free page: claims the next group, or asks for a file to grow.
    fn extend(&self, change: &mut Change<'_>, home: Option<PageId>) -> Result<PageId, TableError> {
        let now = self.cache.seams().now();
        if let Some((map, pages)) = self.growable(home, now) {
            return Err(change.ask_to_grow(map.file(), pages));
        }
        let Some((file, group)) = self.claimable(now) else {
            return Err(TableError::Full { files: self.cache.volume().shape().data_files });
        };
        let map = PageId::new(file, group * SPACE_GROUP_PAGES);
        change.claim(map);
        let reached = self.reached(map);
        if reached < 2 {
            let pages = map.index() + self.step(file);
            return Err(change.ask_to_grow(file, pages));
        }
        // What another instance claimed may be at home already, whoever held it last.
        change.latch_if_any(map)?;
        if header::of(change.page(map)).kind == Kind::Space as u8 {
            // It has an owner already, who was not known here.
            change.disclaim(map);
            return Err(raced());
        }
        let page = page_of(map, 1);
        change.latch_fresh(page)?;
        change.apply(map, Draft::map(self.thread).op())?;
        change.apply(map, Op::SetBit { bit: 1, used: true })?;
        Ok(page)
    }

    /// An own group that its file doesn't reach to the end, and how many pages the file should have: the home group first.
    fn growable(&self, home: Option<PageId>, now: Instant) -> Option<(PageId, u64)> {
        let state = self.state.lock();
        let candidates = home.into_iter().filter(|map| state.roomy.contains(map)).chain(state.roomy.iter().copied());
        for map in candidates {
            let have = self.cache.volume().pages(map.file());
            let file = &state.files[usize::from(map.file())];
            if have < map.index() + SPACE_GROUP_PAGES && !file.is_full(now) {
                return Some((map, (have + file.step(have)).min(map.index() + SPACE_GROUP_PAGES)));
            }
        }
        None
    }

    fn step(&self, file: u16) -> u64 {
        self.state.lock().files[usize::from(file)].step(self.cache.volume().pages(file))
    }

    /// The next group to claim: of the file with the fewest groups that has or can get room for one.
    fn claimable(&self, now: Instant) -> Option<(u16, u64)> {
        let mut state = self.state.lock();
        let (number, _) = state
            .files
            .iter()
            .enumerate()
            .filter(|(number, file)| {
                let next = file.unclaimed.last().copied().unwrap_or(file.groups);
                !file.is_full(now) || self.cache.volume().pages(*number as u16) >= next * SPACE_GROUP_PAGES + 2
            })
            .min_by_key(|(_, file)| file.groups - file.unclaimed.len() as u64)?;
        let file = &mut state.files[number];
        let group = file.unclaimed.pop().unwrap_or_else(|| {
            file.groups += 1;
            file.groups - 1
        });
        Some((number as u16, group))
    }

    /// `map` is claimed by a committed group.
    pub(super) fn claimed(&self, map: PageId) {
        self.state.lock().roomy.insert(map);
    }

    /// The group that was to claim `map` came to nothing.
    pub(super) fn not_claimed(&self, map: PageId) {
        let group = map.index() / SPACE_GROUP_PAGES;
        let mut state = self.state.lock();
        let unclaimed = &mut state.files[usize::from(map.file())].unclaimed;
        unclaimed.push(group);
        unclaimed.sort_unstable_by(|one, other| other.cmp(one));
    }

    /// A committed group has freed a page of `map`'s group, which belongs to `owner`.
    pub(super) fn freed(&self, map: PageId, owner: ThreadId) {
        if owner == self.thread {
            self.state.lock().roomy.insert(map);
        }
    }

    /// `file` could not grow to `pages` pages.
    pub(super) fn could_not_grow(&self, file: u16, pages: u64) {
        let now = self.cache.seams().now();
        let by = pages.saturating_sub(self.cache.volume().pages(file));
        let mut state = self.state.lock();
        let file = &mut state.files[usize::from(file)];
        if by <= GROW_LEAST || !self.cache.volume().shape().grow {
            file.full_since = Some(now);
            file.step_max = GROW_LEAST;
        } else {
            file.step_max = (by / 4).max(GROW_LEAST);
        }
    }

    /// `file` has grown.
    pub(super) fn grew(&self, file: u16) {
        let mut state = self.state.lock();
        let file = &mut state.files[usize::from(file)];
        file.full_since = None;
        file.step_max = (file.step_max * 2).min(GROW_MAX);
    }

    /// Marks `page` as free in its map.
    pub(super) fn free(&self, change: &mut Change<'_>, page: PageId) -> Result<(), TableError> {
        let map = space::map_of(page);
        change.latch(map)?;
        need_map(change.page(map), map)?;
        change.apply(map, Op::SetBit { bit: space::bit_of(page) as u16, used: false })
    }
}

impl FileSpace {
    fn is_full(&self, now: Instant) -> bool {
        self.full_since.is_some_and(|since| now.since(since) < FULL_FOR)
    }

    /// How many pages to grow by, having `have`.
    fn step(&self, have: u64) -> u64 {
        (have / 8).clamp(GROW_MIN, GROW_MAX).min(self.step_max)
    }
}

fn page_of(map: PageId, bit: usize) -> PageId {
    PageId::new(map.file(), map.index() + bit as u64)
}

fn need_map(bytes: &[u8], map: PageId) -> Result<(), TableError> {
    let found = header::of(bytes).kind;
    if found == Kind::Space as u8 { Ok(()) } else { Err(damaged(TreeId(0), map, Damage::NotAMap { found })) }
}

/// What lies where a space map should be.
pub(super) enum MapState {
    /// Never written: nobody has claimed the group.
    Blank,
    Claimed {
        owner: ThreadId,
        full: bool,
    },
    /// Damaged, or being written: loading it through the cache tells.
    Unreadable,
}

/// Looks at a map, in the cache if it is there, else on disk, without a place in the cache for it.
pub(super) async fn look_at(cache: &Cache, map: PageId) -> Result<MapState, TableError> {
    let judge = |bytes: &[u8]| {
        if header::of(bytes).kind != Kind::Space as u8 {
            return MapState::Unreadable;
        }
        MapState::Claimed { owner: space::owner(bytes), full: space::find_free(bytes, 1).is_none() }
    };
    if let Ok(page) = cache.read(map) {
        return Ok(judge(&page));
    }
    let (bytes, outcome): IoOutcome = cache.volume().read(map, Buffer::zeroed(PAGE_SIZE)).await;
    outcome.map_err(|error| TableError::Cache(error.into()))?;
    Ok(match verify(&bytes, map, cache.volume().tag()) {
        Ok(()) => judge(&bytes),
        Err(verify::PageFault::Blank { .. }) => MapState::Blank,
        // Not for quarantine yet: on a live store it may have been loaded, changed and be on its way home meanwhile.
        Err(_) => MapState::Unreadable,
    })
}
