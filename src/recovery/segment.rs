//! A stretch of log in memory, its changes chained page by page, and what is known of each page of the log.
//!
//! [`Pages`] outlives segments: per page the newest version in the log and the newest version that a notice says is durable at home.
//! [`Segment`] holds as much log as its budget allows. One hash look-up a change: an entry of `Pages` also holds the ends of the page's
//! chain in the present segment. Memory is bounded (rule 19): when `Pages` is full, further pages are forgotten after each
//! segment and just lose the benefit of notices.

use std::ops::RangeInclusive;

use rustc_hash::FxHashMap;

use crate::base::limits::PAGE_SIZE;
use crate::base::{Lsn, PageId, Scn, Writer};
use crate::redo::reader::LogGroup;
use crate::redo::record::{CHANGE_HEADER, Change, Changes, GroupKind, RecordFault, WRITTEN_ITEM, written_items};

/// Ends a chain.
const NONE: u32 = u32::MAX;
/// Memory of one entry with its place in the hash table, in bytes.
const ENTRY_BYTES: usize = 64;

/// What is known of one page.
#[derive(Clone, Copy, Debug)]
struct Entry {
    page: PageId,
    /// Newest version in the log.
    last: Scn,
    /// Newest version that is durable at home.
    written: Scn,
    /// Newest version that was formatted: what lies before doesn't matter.
    formatted: Scn,
    /// Its chain in the segment, or [`NONE`].
    chain: u32,
}

impl Entry {
    fn change(&mut self, change: &Change<'_>, scn: Scn) {
        self.last = self.last.max(scn);
        if change.formats() {
            self.formatted = self.formatted.max(scn);
        }
    }
}

/// Every page that the log concerns.
pub struct Pages {
    index: FxHashMap<PageId, u32>,
    entries: Vec<Entry>,
    most: usize,
    /// Entries from here on are forgotten after the segment.
    lasting: usize,
}

impl Pages {
    /// Room for `memory` bytes of pages.
    pub fn new(memory: usize) -> Pages {
        Pages { index: FxHashMap::default(), entries: Vec::new(), most: (memory / ENTRY_BYTES).max(1024), lasting: 0 }
    }

    /// Pages known.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether some pages were left out for want of memory.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.most
    }

    /// Pages whose newest version is known to be durable at home.
    pub fn struck(&self) -> usize {
        self.entries.iter().filter(|entry| entry.written >= entry.last).count()
    }

    /// The newest version of `page` known to be durable at home.
    pub fn written(&self, page: PageId) -> Scn {
        self.index.get(&page).map_or(Scn(0), |at| self.entries[*at as usize].written)
    }

    /// Pages that redo looks at, in page order.
    fn looked_at(&self) -> Vec<PageId> {
        let mut pages: Vec<PageId> = self.entries.iter().filter(|entry| entry.written < entry.last).map(|entry| entry.page).collect();
        pages.sort_unstable();
        pages
    }

    /// Divides the pages that redo looks at into ranges of at most `most` pages that together are all pages: with several ranges the log is
    /// read for each, but no page twice. One range, when pages were left out or when that is less work: `log` bytes of log are read in
    /// `segments` segments, each of which may concern every page.
    pub(super) fn windows(&self, most: usize, log: u64, segments: u64) -> Vec<RangeInclusive<PageId>> {
        let everything = PageId(0)..=PageId::NONE;
        let pages = self.looked_at();
        let count = pages.len().div_ceil(most) as u64;
        // A page that comes back is read, and was written twice before.
        let again = segments * pages.len() as u64 * 3 * PAGE_SIZE as u64;
        if count <= 1 || self.is_full() || count * log > log + again {
            return vec![everything];
        }
        let firsts: Vec<PageId> = pages.chunks(most).map(|part| part[0]).collect();
        let last_of = |index: usize| firsts.get(index + 1).map_or(PageId::NONE, |next| PageId(next.0 - 1));
        (0..firsts.len()).map(|index| if index == 0 { PageId(0)..=last_of(0) } else { firsts[index]..=last_of(index) }).collect()
    }

    /// Pages that redo doesn't look at, with the version that home must have.
    pub(super) fn not_looked_at(&self) -> impl Iterator<Item = (PageId, Scn)> {
        self.entries.iter().filter(|entry| entry.written >= entry.last).map(|entry| (entry.page, entry.written))
    }

    /// Pages with the newest version in the log, in page order.
    pub fn versions(&self) -> Vec<(PageId, Scn)> {
        let mut all: Vec<_> = self.entries.iter().map(|entry| (entry.page, entry.last)).collect();
        all.sort_unstable();
        all
    }

    #[inline]
    fn place(&mut self, page: PageId) -> u32 {
        let next = self.entries.len() as u32;
        let at = *self.index.entry(page).or_insert(next);
        if at == next {
            self.entries.push(Entry { page, last: Scn(0), written: Scn(0), formatted: Scn(0), chain: NONE });
            if self.entries.len() <= self.most {
                self.lasting = self.entries.len();
            }
        }
        at
    }

    /// Notes the pages of `group` without keeping its changes.
    ///
    /// # Errors
    /// The group's body is malformed.
    pub fn note(&mut self, group: &LogGroup<'_>) -> Result<(), RecordFault> {
        if group.header.kind == GroupKind::Written {
            self.note_written(group.body);
            return Ok(());
        }
        for change in Changes::new(group.body, group.header.items) {
            let change = change?;
            let page = change.page;
            if !self.is_full() || self.index.contains_key(&page) {
                let at = self.place(page);
                self.entries[at as usize].change(&change, group.header.scn);
            }
        }
        Ok(())
    }

    fn note_written(&mut self, body: &[u8]) {
        debug_assert!(body.len().is_multiple_of(WRITTEN_ITEM));
        for (page, version) in written_items(body) {
            if let Some(at) = self.index.get(&page) {
                let entry = &mut self.entries[*at as usize];
                entry.written = entry.written.max(version);
            }
        }
    }

    /// Forgets what there was no lasting room for.
    fn forget(&mut self) {
        for entry in self.entries.drain(self.lasting..) {
            self.index.remove(&entry.page);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct GroupAt {
    scn: Scn,
    end: Lsn,
    writer: Writer,
}

#[derive(Clone, Copy, Debug)]
struct ChangeAt {
    /// Of its header in the segment's bytes.
    offset: u32,
    group: u32,
    chain: u32,
}

/// A page's place in the segment.
#[derive(Clone, Copy, Debug)]
struct ChainAt {
    /// Of its entry in `Pages`.
    place: u32,
    changes: u32,
}

/// Bytes that a change takes beside its own, at worst.
const CHANGE_BYTES: usize = size_of::<ChangeAt>() + size_of::<u32>() + size_of::<ChainAt>();

/// A stretch of log, or what it says of some pages.
pub struct Segment {
    budget: Budget,
    window: RangeInclusive<PageId>,
    bytes: Vec<u8>,
    groups: Vec<GroupAt>,
    changes: Vec<ChangeAt>,
    chains: Vec<ChainAt>,
    /// Numbers of changes, chain by chain, each in the order of the log.
    order: Vec<u32>,
    start: Lsn,
}

/// Memory for a segment, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// In any case.
    pub own: usize,
    /// The page cache, as long as recovered pages don't need it: it is empty when recovery begins.
    pub cache: usize,
    /// No log is longer.
    pub log_max: usize,
}

impl Budget {
    fn bytes(&self, pages: usize) -> usize {
        (self.own + self.cache.saturating_sub(pages * PAGE_SIZE)).min(u32::MAX as usize)
    }
}

/// A page with changes to redo.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// The page.
    pub page: PageId,
    /// Whether its first change to redo makes it anew.
    pub formats: bool,
    /// The log from here on concerns it.
    pub position: Lsn,
    /// Home must have at least this version.
    pub written: Scn,
    /// Its changes, in the segment's order.
    from: u32,
    to: u32,
}

/// One change of a chain.
pub struct Link<'a> {
    /// The change.
    pub change: Change<'a>,
    /// The version that it leads to.
    pub new: Scn,
    /// Behind its group.
    pub end: Lsn,
    /// Who made it.
    pub writer: Writer,
}

impl Segment {
    /// An empty segment for changes of any page.
    pub fn new(budget: Budget) -> Segment {
        Segment {
            budget,
            window: PageId(0)..=PageId::NONE,
            bytes: Vec::new(),
            groups: Vec::new(),
            changes: Vec::new(),
            chains: Vec::new(),
            order: Vec::new(),
            start: Lsn(0),
        }
    }

    /// Starts it at `start`, for changes of the pages in `window` only.
    pub fn begin(&mut self, start: Lsn, window: RangeInclusive<PageId>) {
        self.start = start;
        self.window = window;
    }

    /// Bytes of log that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn cost(&self) -> usize {
        self.bytes.len() + self.groups.len() * size_of::<GroupAt>() + self.changes.len() * CHANGE_BYTES
    }

    /// Adds a group; false when there is no room for it.
    ///
    /// # Errors
    /// The group's body is malformed.
    pub fn add(&mut self, group: &LogGroup<'_>, pages: &mut Pages) -> Result<bool, RecordFault> {
        if group.header.kind == GroupKind::Written {
            pages.note_written(group.body);
            return Ok(true);
        }
        let forgettable = (pages.entries.len() - pages.lasting) * ENTRY_BYTES;
        let worst = group.body.len() + group.header.items * CHANGE_BYTES + size_of::<GroupAt>();
        let budget = self.budget.bytes(pages.len());
        if self.cost() + forgettable + worst > budget && !self.groups.is_empty() {
            return Ok(false);
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(budget.min(self.budget.log_max));
        }
        let number = self.groups.len() as u32;
        let mut kept = false;
        let mut at = 0;
        for change in Changes::new(group.body, group.header.items) {
            let change = change?;
            let length = CHANGE_HEADER + change.ops.len();
            if self.window.contains(&change.page) {
                let offset = self.bytes.len() as u32;
                self.bytes.extend_from_slice(&group.body[at..at + length]);
                let chain = self.chain_of(&change, group.header.scn, pages);
                self.changes.push(ChangeAt { offset, group: number, chain });
                kept = true;
            }
            at += length;
        }
        if kept {
            self.groups.push(GroupAt { scn: group.header.scn, end: group.end, writer: group.writer });
        }
        Ok(true)
    }

    /// The chain that `change` belongs to, counted.
    fn chain_of(&mut self, change: &Change<'_>, scn: Scn, pages: &mut Pages) -> u32 {
        let place = pages.place(change.page);
        let entry = &mut pages.entries[place as usize];
        entry.change(change, scn);
        if entry.chain == NONE {
            entry.chain = self.chains.len() as u32;
            self.chains.push(ChainAt { place, changes: 0 });
        }
        self.chains[entry.chain as usize].changes += 1;
        entry.chain
    }

    /// Empties it, to go on behind its last group.
    pub fn clear(&mut self, pages: &mut Pages) {
        for chain in self.chains.drain(..) {
            pages.entries[chain.place as usize].chain = NONE;
        }
        self.start = self.groups.last().map_or(self.start, |group| group.end);
        self.bytes.clear();
        self.groups.clear();
        self.changes.clear();
        pages.forget();
    }

    /// Gives its memory back, when it is empty.
    pub fn release(&mut self) {
        debug_assert!(self.groups.is_empty());
        (self.bytes, self.groups, self.changes, self.order) = Default::default();
    }

    /// The pages with changes that home may not have, in page order.
    pub fn chains(&mut self, pages: &Pages) -> Vec<Chain> {
        // Sorted by counting: changes of a page lie together and can be fetched ahead, which a list through the segment could not.
        let mut next = 0;
        let mut places: Vec<u32> = Vec::with_capacity(self.chains.len());
        for chain in &self.chains {
            places.push(next);
            next += chain.changes;
        }
        self.order.clear();
        self.order.resize(self.changes.len(), 0);
        for (number, change) in self.changes.iter().enumerate() {
            let place = &mut places[change.chain as usize];
            self.order[*place as usize] = number as u32;
            *place += 1;
        }
        let chains = self.chains.iter().zip(places).filter_map(|(chain, to)| self.chain(chain, to, pages));
        let mut chains: Vec<Chain> = chains.collect();
        chains.sort_unstable_by_key(|chain| chain.page);
        chains
    }

    /// What there is to redo of the page at `at`, whose changes end at `to` in the order.
    fn chain(&self, at: &ChainAt, to: u32, pages: &Pages) -> Option<Chain> {
        let entry = &pages.entries[at.place as usize];
        let needed = |number: &u32| {
            let scn = self.groups[self.changes[*number as usize].group as usize].scn;
            scn > entry.written && scn >= entry.formatted
        };
        let all = &self.order[(to - at.changes) as usize..to as usize];
        let skipped = all.iter().position(needed)?;
        let first = all[skipped];
        let group = self.changes[first as usize].group as usize;
        let position = if group == 0 { self.start } else { self.groups[group - 1].end };
        let (formats, written) = (self.link(first).change.formats(), entry.written);
        Some(Chain { page: entry.page, formats, position, written, from: to - at.changes + skipped as u32, to })
    }

    fn link(&self, number: u32) -> Link<'_> {
        let at = &self.changes[number as usize];
        let mut one = Changes::new(&self.bytes[at.offset as usize..], 1);
        let change = one.next().and_then(Result::ok).expect("it was decoded when it was added");
        let group = &self.groups[at.group as usize];
        Link { change, new: group.scn, end: group.end, writer: group.writer }
    }

    /// The changes of `chain`, in order.
    pub fn links(&self, chain: &Chain) -> impl Iterator<Item = Link<'_>> {
        self.order[chain.from as usize..chain.to as usize].iter().map(|number| self.link(*number))
    }

    /// Touches the changes of `chain`, so that the processor fetches them from memory side by side instead of one by one.
    pub fn fetch(&self, chain: &Chain) {
        let numbers = &self.order[chain.from as usize..chain.to as usize];
        let sum = numbers.iter().fold(0u8, |sum, number| {
            let at = &self.changes[*number as usize];
            sum ^ self.bytes[at.offset as usize] ^ self.groups[at.group as usize].scn.0 as u8
        });
        std::hint::black_box(sum);
    }
}
