//! A walk over every page of every data file as it lies on disk: checksum, identity, layout (`page::verify`), and what the space maps and
//! logs say of it.
//!
//! Called by `clusterctl verify` (offline, and live in an instance's process) and by the offline inspection tool. Reads only, past the
//! cache, in large reads with several in flight; memory is bounded by these. A page that was never written is no finding unless its space
//! map says that it is in use. Live, homes may be older than what the cache holds, or be half written at the moment they are read: a
//! bad home is read again for a while, and excused while the cache holds a newer page that isn't durable yet.
//!
//! Not here: whether pages belong together (`table::check`), and whether a page is its newest version (rule 8: that takes redo).

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::limits::PAGE_SIZE;
use crate::base::{Instant, Lsn, PageId, Scn, Seams, ThreadId};
use crate::cache::Cache;
use crate::disk::{Buffer, Disk, DiskError, FileId, IoOutcome};
use crate::page::superblock::PAGES_AT;
use crate::page::volume::Volume;
use crate::page::{Kind, PageFault, header, space, verify};

/// Pages of one read: 1 MiB.
const READ_PAGES: u64 = 128;
/// Reads in flight.
const READ_DEPTH: usize = 4;
/// Between two reports of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// How often a bad home of a live store is read again. Once would do, were it not written again in that very moment: a page on its way
/// home counts as dirty until it is there.
const LIVE_TRIES: u32 = 5;
/// Before each such reading.
const LIVE_PAUSE: Duration = Duration::from_millis(20);

/// A data file to be walked.
#[derive(Clone, Copy, Debug)]
pub struct DataFile {
    /// Its number in the cluster.
    pub number: u16,
    /// Where it is open.
    pub file: FileId,
    /// Its length in pages.
    pub pages: u64,
}

/// What other structures say of pages.
#[derive(Clone, Default, Debug)]
pub struct Evidence {
    /// Where each thread's log ends: no page may have redo behind it.
    pub log_ends: BTreeMap<ThreadId, Lsn>,
    /// Whole images in double-write areas: recovery mends these homes.
    pub images: BTreeMap<PageId, Scn>,
    /// Pages that logs make anew behind their checkpoints, in these versions: recovery needs nothing of these homes.
    pub made_anew: BTreeMap<PageId, Scn>,
}

impl Evidence {
    /// Whether the next recovery mends the home of `page`.
    fn is_mended(&self, page: PageId) -> bool {
        self.images.contains_key(&page) || self.made_anew.contains_key(&page)
    }
}

/// What is wrong with a page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It isn't the page that it should be.
    #[error(transparent)]
    Page(#[from] PageFault),
    /// It can't be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It was written with redo that isn't in the log.
    #[error("has redo up to {redo}, but the log of {thread} ends at {end}: durable redo is missing")]
    Ahead {
        /// The page's redo position.
        redo: Lsn,
        /// Whose log.
        thread: ThreadId,
        /// Where that ends.
        end: Lsn,
    },
}

/// A bad page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{page} at offset {offset} of {}: {trouble}", file.display())]
pub struct BadPage {
    /// Which.
    pub page: PageId,
    /// Its data file.
    pub file: PathBuf,
    /// Where its home begins, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub trouble: Trouble,
}

/// How far the walk is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Of so many.
    pub total: u64,
    /// Time so far.
    pub elapsed: Duration,
    /// Time left at the present rate.
    pub left: Duration,
}

/// Told while it goes on.
#[derive(Clone, Debug)]
pub enum Heard {
    /// Every second.
    Progress(Progress),
    /// A bad page.
    Bad(BadPage),
}

/// What was seen, in pages.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Nodes of trees.
    pub tree: u64,
    /// Space maps.
    pub space: u64,
    /// Formatted, but free.
    pub free: u64,
    /// Undo, and slots of transactions.
    pub undo: u64,
    /// Never written.
    pub blank: u64,
    /// Torn, with a double-write image, or a log that makes it anew: the next recovery mends it.
    pub mendable: u64,
    /// Bad at home, but newer and not yet durable in the cache.
    pub newer_in_cache: u64,
    /// Bad.
    pub bad: u64,
    /// All.
    pub pages: u64,
}

/// A walk to be made.
pub struct Scrub<'c> {
    seams: Seams,
    disk: Arc<dyn Disk>,
    /// The cluster's tag.
    cluster: u64,
    files: Vec<DataFile>,
    evidence: Evidence,
    /// The cache of the live instance.
    live: Option<&'c Cache>,
}

impl Scrub<'_> {
    /// Of files that were opened one by one.
    pub fn files(seams: Seams, disk: Arc<dyn Disk>, cluster: u64, files: Vec<DataFile>, evidence: Evidence) -> Scrub<'static> {
        Scrub { seams, disk, cluster, files, evidence, live: None }
    }

    /// Of a volume that no instance writes.
    pub fn offline(seams: Seams, volume: &Volume, evidence: Evidence) -> Scrub<'static> {
        Scrub::files(seams, volume.disk().clone(), volume.tag(), data_files(volume), evidence)
    }

    /// Of the volume below `cache`, while this instance writes it.
    pub fn live(cache: &Cache) -> Scrub<'_> {
        let volume = cache.volume();
        Scrub {
            seams: cache.seams().clone(),
            disk: volume.disk().clone(),
            cluster: volume.tag(),
            files: data_files(volume),
            evidence: Evidence::default(),
            live: Some(cache),
        }
    }

    /// Walks.
    pub async fn run(self, hear: impl FnMut(Heard)) -> Counts {
        let total = self.files.iter().map(|file| file.pages).sum::<u64>() * PAGE_SIZE as u64;
        let now = self.seams.now();
        let mut walk = Walk { scrub: &self, hear, counts: Counts::default(), map: None, total, started: now, told: now };
        for file in &self.files {
            walk.file(*file).await;
        }
        walk.counts
    }
}

fn data_files(volume: &Volume) -> Vec<DataFile> {
    let of = |number| {
        let pages = volume.pages(number);
        // A file without pages has no home to ask for, and nothing to walk.
        let (file, _) = volume.home(PageId::new(number, 0)).ok()?;
        Some(DataFile { number, file, pages })
    };
    (0..volume.shape().data_files).filter_map(of).collect()
}

/// A page that may be read again.
struct Suspect {
    page: PageId,
    trouble: Trouble,
}

struct Walk<'s, H> {
    scrub: &'s Scrub<'s>,
    hear: H,
    counts: Counts,
    /// The space map of the present group, if it is whole.
    map: Option<Vec<u8>>,
    total: u64,
    started: Instant,
    told: Instant,
}

impl<H: FnMut(Heard)> Walk<'_, H> {
    async fn file(&mut self, data: DataFile) {
        let mut starts = (0..data.pages).step_by(READ_PAGES as usize);
        let mut reads = VecDeque::new();
        loop {
            while reads.len() < READ_DEPTH
                && let Some(first) = starts.next()
            {
                let count = READ_PAGES.min(data.pages - first);
                reads.push_back((first, count, self.read(data, first, count)));
            }
            let Some((first, count, outcome)) = reads.pop_front() else { return };
            let (bytes, outcome): IoOutcome = outcome.await;
            for index in 0..count {
                let page = PageId::new(data.number, first + index);
                let found = if outcome.is_ok() {
                    let from = index as usize * PAGE_SIZE;
                    self.page(page, &bytes[from..from + PAGE_SIZE])
                } else {
                    // One bad sector costs one page, not its neighbours.
                    self.read_one(data, page).await
                };
                if let Err(trouble) = found {
                    self.suspect(data, Suspect { page, trouble }).await;
                }
                self.counts.pages += 1;
            }
            self.tell();
        }
    }

    fn read(&self, data: DataFile, first: u64, count: u64) -> crate::base::BoxFuture<IoOutcome> {
        let buffer = Buffer::zeroed(count as usize * PAGE_SIZE);
        self.scrub.disk.read(data.file, PAGES_AT + first * PAGE_SIZE as u64, buffer)
    }

    async fn read_one(&mut self, data: DataFile, page: PageId) -> Result<(), Trouble> {
        let (bytes, outcome) = self.read(data, page.index(), 1).await;
        outcome?;
        self.page(page, &bytes)
    }

    /// A page that looked bad: of a live store it is looked at again.
    async fn suspect(&mut self, data: DataFile, suspect: Suspect) {
        let Suspect { page, mut trouble } = suspect;
        if let Some(cache) = self.scrub.live {
            for _ in 0..LIVE_TRIES {
                if cache.is_dirty(page) {
                    self.counts.newer_in_cache += 1;
                    return;
                }
                self.scrub.seams.sleep(LIVE_PAUSE).await;
                match self.read_one(data, page).await {
                    Ok(()) => return,
                    Err(again) => trouble = again,
                }
            }
        }
        self.counts.bad += 1;
        let (file, offset) = (self.scrub.disk.path(data.file), PAGES_AT + page.index() * PAGE_SIZE as u64);
        (self.hear)(Heard::Bad(BadPage { page, file, offset, trouble }));
    }

    /// Verifies one page, and counts it if it isn't bad.
    fn page(&mut self, page: PageId, bytes: &[u8]) -> Result<(), Trouble> {
        if space::is_map(page) {
            self.map = None;
        }
        match verify(bytes, page, self.scrub.cluster) {
            Ok(()) => {}
            Err(PageFault::Blank { .. }) if !self.in_use(page) => {
                self.counts.blank += 1;
                return Ok(());
            }
            Err(_) if self.scrub.evidence.is_mended(page) => {
                self.counts.mendable += 1;
                return Ok(());
            }
            Err(fault) => return Err(fault.into()),
        }
        let stamp = header::of(bytes);
        let thread = stamp.writer().thread;
        if let Some(end) = self.scrub.evidence.log_ends.get(&thread)
            && stamp.redo() > *end
        {
            return Err(Trouble::Ahead { redo: stamp.redo(), thread, end: *end });
        }
        let counts = &mut self.counts;
        let counter = match stamp.kind() {
            Some(Kind::Tree) => &mut counts.tree,
            Some(Kind::Space) => &mut counts.space,
            Some(Kind::Slots | Kind::Undo) => &mut counts.undo,
            Some(Kind::Free) | None => &mut counts.free,
        };
        *counter += 1;
        if stamp.kind() == Some(Kind::Space) {
            self.map = Some(bytes.to_vec());
        }
        Ok(())
    }

    fn in_use(&self, page: PageId) -> bool {
        self.map.as_ref().is_some_and(|map| space::used(map, space::bit_of(page)))
    }

    fn tell(&mut self) {
        let now = self.scrub.seams.now();
        if now.since(self.told) < PROGRESS_EVERY {
            return;
        }
        self.told = now;
        let (done, elapsed) = (self.counts.pages * PAGE_SIZE as u64, now.since(self.started));
        let left = elapsed.mul_f64(self.total.saturating_sub(done) as f64 / done.max(1) as f64);
        (self.hear)(Heard::Progress(Progress { done, total: self.total, elapsed, left }));
    }
}
