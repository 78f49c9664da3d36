//! A stretch of log in memory, its changes chained page by page, and what is known of each page of the log.
//!
//! [`Pages`] outlives segments: per page the newest version in the log and the newest version that a notice says is durable at home.
//! [`Segment`] holds as much log as its budget allows. One hash look-up a change: an entry of `Pages` also holds the ends of the page's
//! chain in the present segment. Memory is bounded (rule 19): when `Pages` is full, further pages are forgotten after each
//! segment and just lose the benefit of notices.

use rustc_hash::FxHashMap;

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
    /// Ends of its chain in the segment.
    first_change: u32,
    last_change: u32,
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
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no page is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
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
            let (first_change, last_change) = (NONE, NONE);
            self.entries.push(Entry { page, last: Scn(0), written: Scn(0), formatted: Scn(0), first_change, last_change });
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
    next: u32,
}

/// A stretch of log.
pub struct Segment {
    budget: usize,
    bytes: Vec<u8>,
    groups: Vec<GroupAt>,
    changes: Vec<ChangeAt>,
    /// Entries of `Pages` with a chain here.
    touched: Vec<u32>,
    start: Lsn,
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
    first: u32,
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
    /// An empty segment that holds up to `budget` bytes, everything counted.
    pub fn new(budget: usize) -> Segment {
        Segment { budget, bytes: Vec::new(), groups: Vec::new(), changes: Vec::new(), touched: Vec::new(), start: Lsn(0) }
    }

    /// Starts it at `start`.
    pub fn begin(&mut self, start: Lsn) {
        self.start = start;
    }

    /// Whether it holds nothing to redo.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of log that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn cost(&self) -> usize {
        self.bytes.len() + self.groups.len() * size_of::<GroupAt>() + self.changes.len() * size_of::<ChangeAt>() + self.touched.len() * 4
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
        let worst = group.body.len() + group.header.items * (size_of::<ChangeAt>() + 4) + size_of::<GroupAt>();
        if self.cost() + forgettable + worst > self.budget && !self.groups.is_empty() {
            return Ok(false);
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(self.budget);
        }
        let base = self.bytes.len();
        let number = self.groups.len() as u32;
        self.bytes.extend_from_slice(group.body);
        self.groups.push(GroupAt { scn: group.header.scn, end: group.end, writer: group.writer });
        let mut at = base;
        for change in Changes::new(group.body, group.header.items) {
            let change = change?;
            let index = self.changes.len() as u32;
            self.changes.push(ChangeAt { offset: at as u32, group: number, next: NONE });
            at += CHANGE_HEADER + change.ops.len();
            let place = pages.place(change.page);
            let entry = &mut pages.entries[place as usize];
            entry.change(&change, group.header.scn);
            if entry.first_change == NONE {
                entry.first_change = index;
                self.touched.push(place);
            } else {
                self.changes[entry.last_change as usize].next = index;
            }
            entry.last_change = index;
        }
        Ok(true)
    }

    /// Empties it, to go on behind its last group.
    pub fn clear(&mut self, pages: &mut Pages) {
        for at in self.touched.drain(..) {
            let entry = &mut pages.entries[at as usize];
            (entry.first_change, entry.last_change) = (NONE, NONE);
        }
        self.start = self.groups.last().map_or(self.start, |group| group.end);
        self.bytes.clear();
        self.groups.clear();
        self.changes.clear();
        pages.forget();
    }

    /// The pages with changes that home may not have, in page order.
    pub fn chains(&self, pages: &Pages) -> Vec<Chain> {
        let mut chains = Vec::with_capacity(self.touched.len());
        for at in &self.touched {
            let entry = &pages.entries[*at as usize];
            let mut first = entry.first_change;
            while first != NONE && (self.group(first).scn <= entry.written || self.group(first).scn < entry.formatted) {
                first = self.changes[first as usize].next;
            }
            if first == NONE {
                continue;
            }
            let group = self.changes[first as usize].group as usize;
            let position = if group == 0 { self.start } else { self.groups[group - 1].end };
            chains.push(Chain { page: entry.page, formats: self.change(first).formats(), position, written: entry.written, first });
        }
        chains.sort_unstable_by_key(|chain| chain.page);
        chains
    }

    fn group(&self, change: u32) -> &GroupAt {
        &self.groups[self.changes[change as usize].group as usize]
    }

    fn change(&self, change: u32) -> Change<'_> {
        let at = self.changes[change as usize].offset as usize;
        let mut one = Changes::new(&self.bytes[at..], 1);
        one.next().and_then(Result::ok).expect("it was decoded when it was added")
    }

    /// The changes of `chain`, in order.
    pub fn links(&self, chain: &Chain) -> impl Iterator<Item = Link<'_>> {
        let mut next = chain.first;
        std::iter::from_fn(move || {
            if next == NONE {
                return None;
            }
            let at = next;
            next = self.changes[at as usize].next;
            let group = self.group(at);
            Some(Link { change: self.change(at), new: group.scn, end: group.end, writer: group.writer })
        })
    }
}
