//! Rows from leaf pages alone, in page order, with what the log changed.
//!
//! Walks every page of every data file, in large reads, some in flight. Free pages and inner nodes hold no rows; a page that was never
//! written is passed over, unless the space map says that it is in use: then its contents are lost, and it is reported like any other
//! page that can't be read.

use std::collections::VecDeque;

use super::{Salvage, UnreadablePage, never_written};
use crate::base::limits::PAGE_SIZE;
use crate::base::{BoxFuture, PageId, Scn, TreeId};
use crate::cache::CacheError;
use crate::disk::{Buffer, IoOutcome};
use crate::page::header::{self, Kind};
use crate::page::{slotted, space, verify};

/// Pages of one read: 1 MiB.
const READ_PAGES: u64 = 128;
/// Reads in flight.
const READ_DEPTH: usize = 4;

/// One row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Whose it is.
    pub tree: TreeId,
    /// The leaf that holds it.
    pub page: PageId,
    /// That leaf's version: of two rows with the same key, the one with the higher is the later.
    pub version: Scn,
    /// Key bytes.
    pub key: Vec<u8>,
    /// Value bytes.
    pub value: Vec<u8>,
}

/// How far a walk is and what it met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RowsProgress {
    /// Pages looked at.
    pub pages: u64,
    /// Pages in all.
    pub pages_total: u64,
    /// Leaves among them.
    pub leaves: u64,
    /// Rows given.
    pub rows: u64,
}

/// Pages read together.
struct Stretch {
    first: PageId,
    pages: u64,
    read: BoxFuture<IoOutcome>,
}

/// The rows of a store, one after the other.
pub struct Rows<'s> {
    salvage: &'s Salvage,
    /// Next page to read.
    next: PageId,
    reads: VecDeque<Stretch>,
    /// Pages read but not looked at, in order.
    pending: VecDeque<(PageId, Result<Buffer, CacheError>)>,
    /// The leaf being given out.
    leaf: Option<(PageId, Buffer, usize)>,
    /// The space map of the group that the walk is in, if it can be read.
    map: Option<Buffer>,
    progress: RowsProgress,
    unreadable: Vec<UnreadablePage>,
}

impl<'s> Rows<'s> {
    pub(super) fn new(salvage: &'s Salvage) -> Rows<'s> {
        let files = salvage.volume.shape().data_files;
        let pages_total = (0..files).map(|file| salvage.volume.pages(file)).sum();
        Rows {
            salvage,
            next: PageId::new(0, 0),
            reads: VecDeque::new(),
            pending: VecDeque::new(),
            leaf: None,
            map: None,
            progress: RowsProgress { pages_total, ..RowsProgress::default() },
            unreadable: Vec::new(),
        }
    }

    /// The next row; nothing at the end.
    pub async fn next(&mut self) -> Option<Row> {
        loop {
            if let Some((page, bytes, slot)) = &mut self.leaf {
                if *slot < slotted::count(bytes) {
                    let (stamp, at) = (header::of(bytes), *slot);
                    *slot += 1;
                    self.progress.rows += 1;
                    let (key, value) = (slotted::key(bytes, at).to_vec(), slotted::value(bytes, at).to_vec());
                    return Some(Row { tree: stamp.tree(), page: *page, version: stamp.version(), key, value });
                }
                self.leaf = None;
            }
            let (page, contents) = self.next_page().await?;
            self.look_at(page, contents);
        }
    }

    /// How far it is.
    pub fn progress(&self) -> RowsProgress {
        self.progress
    }

    /// Pages met so far whose contents are lost: they may have held rows.
    pub fn unreadable(&self) -> &[UnreadablePage] {
        &self.unreadable
    }

    fn look_at(&mut self, page: PageId, contents: Result<Buffer, CacheError>) {
        self.progress.pages += 1;
        if space::is_map(page) {
            self.map = None;
        }
        match contents {
            Ok(bytes) => match header::of(&bytes).kind() {
                Some(Kind::Space) => self.map = Some(bytes),
                Some(Kind::Tree) if slotted::level(&bytes) == 0 => {
                    self.progress.leaves += 1;
                    self.leaf = Some((page, bytes, 0));
                }
                Some(_) | None => {}
            },
            Err(why) => {
                let expected = self.map.as_ref().is_some_and(|map| space::used(map, space::bit_of(page)));
                if expected || !never_written(&why) {
                    self.unreadable.push(UnreadablePage { page: page.to_string(), why: why.to_string() });
                }
            }
        }
    }

    async fn next_page(&mut self) -> Option<(PageId, Result<Buffer, CacheError>)> {
        while self.pending.is_empty() {
            while self.reads.len() < READ_DEPTH
                && let Some((first, pages)) = self.next_stretch()
            {
                let (volume, buffer) = (&self.salvage.volume, Buffer::zeroed(pages as usize * PAGE_SIZE));
                // Not by the volume's method, which begins only when it is waited for.
                let read: BoxFuture<IoOutcome> = match volume.home(first) {
                    Ok((file, offset)) => volume.disk().read(file, offset, buffer),
                    Err(error) => Box::pin(std::future::ready((buffer, Err(error)))),
                };
                self.reads.push_back(Stretch { first, pages, read });
            }
            let Stretch { first, pages, read } = self.reads.pop_front()?;
            let (bytes, outcome) = read.await;
            for index in 0..pages {
                let page = PageId::new(first.file(), first.index() + index);
                let home = &bytes[index as usize * PAGE_SIZE..(index as usize + 1) * PAGE_SIZE];
                let contents = self.contents(page, outcome.is_ok().then_some(home)).await;
                self.pending.push_back((page, contents));
            }
        }
        self.pending.pop_front()
    }

    fn next_stretch(&mut self) -> Option<(PageId, u64)> {
        let volume = &self.salvage.volume;
        while self.next.index() >= volume.pages(self.next.file()) {
            if self.next.file() + 1 >= volume.shape().data_files {
                return None;
            }
            self.next = PageId::new(self.next.file() + 1, 0);
        }
        let first = self.next;
        let pages = READ_PAGES.min(volume.pages(first.file()) - first.index());
        self.next = PageId::new(first.file(), first.index() + pages);
        Some((first, pages))
    }

    /// The newest contents of `page`. A stretch that could not be read is read page by page, so that one bad sector costs one page.
    async fn contents(&self, page: PageId, home: Option<&[u8]>) -> Result<Buffer, CacheError> {
        let overlaid = self.salvage.overlay.contains_key(&page);
        match home {
            Some(home) if !overlaid && verify(home, page, self.salvage.volume.tag()).is_ok() => Ok(Buffer::copy_of(home)),
            _ => self.salvage.page(page).await,
        }
    }
}
