//! Reading what is left of a store that can't be opened, because its log is damaged before its known end. Never writes.
//!
//! ```text
//! control slot -> log from the checkpoint up to the damage -> pages changed by it, in memory (overlay) -> pages, rows
//! ```
//! Called by `clusterctl salvage`, on files opened with [`crate::disk::Access::Read`]. What comes out is *not* a state that the store ever had:
//! changes behind the damage are missing, but pages that were written home after them are newer. So every row comes with its page and
//! that page's version; where a key comes twice (a split caught half way), the higher version is the later one. Rows are read from
//! leaves alone, so that a broken inner node hides none. Everything that could not be read is named. Memory is bounded: the overlay
//! holds only pages that the log changes beyond their homes (rule 19).
//!
//! Not here: putting the rows anywhere, and the logs of other threads (one thread writes, so far).

mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use rows::{Row, Rows, RowsProgress};

use crate::base::limits::{LOG_BLOCK, PAGE_SIZE};
use crate::base::runtime::join_all;
use crate::base::{BoxFuture, Lsn, PageId, Scn, ThreadId, TreeId, Writer, checksum};
use crate::cache::CacheError;
use crate::cache::double_write::{Batch, DoubleWrite};
use crate::disk::{Buffer, DiskError, FileId, IoOutcome};
use crate::page::header::{self, Kind};
use crate::page::verify::verify_stamped;
use crate::page::volume::Volume;
use crate::page::{PageFault, verify};
use crate::redo::apply::{Redone, redo};
use crate::redo::block::LogIdentity;
use crate::redo::control::{Control, ControlError, ControlFile, ThreadState};
use crate::redo::reader::{LogGroup, LogSource};
use crate::redo::record::{Change, Changes, GroupKind, RecordFault, written_items};
use crate::redo::{LogFault, LogReader};

/// Reads of homes in flight.
const READ_DEPTH: usize = 64;
/// What an entry of the overlay takes beside its page, in bytes.
const ENTRY_BYTES: u64 = 128;
/// Smallest memory for the overlay, in bytes: some hundred pages.
pub const MEMORY_MIN: u64 = 4 << 20;

/// Why nothing can be salvaged.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// The log changes more pages than memory was allowed for.
    #[error(
        "salvage needs memory for more than {pages} changed pages, but was allowed {allowed} bytes; \
         at most {most} bytes are needed for this store: raise --memory-bytes and run it again"
    )]
    Memory {
        /// Changed pages in memory.
        pages: usize,
        /// In bytes.
        allowed: u64,
        /// Upper bound of what could be needed, in bytes.
        most: u64,
    },
    /// The cluster has no such thread.
    #[error("there is no redo thread {thread}: the cluster has {threads}")]
    NoThread {
        /// Asked for.
        thread: ThreadId,
        /// Present.
        threads: u16,
    },
    /// The disk failed in a way that isn't confined to the bytes read.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A page that could not be salvaged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnreadablePage {
    /// Its id.
    pub page: String,
    /// The evidence.
    pub why: String,
}

/// What was found in the log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SalvageReport {
    /// The redo thread.
    pub thread: u16,
    /// What the thread's owner was doing; nothing when neither control slot is whole.
    pub state: Option<String>,
    /// First log position read; 0 when no log was read.
    pub log_from: u64,
    /// Where reading ended: at the damage, or at the log's end.
    pub log_to: u64,
    /// What ended it, with position and evidence; nothing when the log was read to its end.
    pub damage: Option<String>,
    /// Change groups redone.
    pub groups: u64,
    /// Changes that pages lacked.
    pub changes_applied: u64,
    /// Changes that pages had.
    pub changes_skipped: u64,
    /// Pages that are newer in memory than at home.
    pub pages_changed: u64,
    /// Pages whose torn home is replaced by the double-write area's image.
    pub pages_restored: u64,
    /// Pages of the log that are lost.
    pub unreadable: Vec<UnreadablePage>,
}

/// What is known of a page that the log changes.
enum Overlaid {
    /// Its contents; `changed` when they are not those of its home.
    Page { bytes: Buffer, changed: bool },
    /// Lost: only formatting helps.
    Bad(CacheError),
}

/// A store opened for salvage.
pub struct Salvage {
    volume: Arc<Volume>,
    area: DoubleWrite,
    batch: Option<Batch>,
    overlay: BTreeMap<PageId, Overlaid>,
    /// Pages of the batch: the highest version that the log says was written home.
    written: BTreeMap<PageId, Scn>,
    memory: u64,
    report: SalvageReport,
}

/// A group of the log, kept while the pages that it changes are read.
struct OwnedGroup {
    scn: Scn,
    end: Lsn,
    writer: Writer,
    items: usize,
    body: Vec<u8>,
}

impl Salvage {
    /// Reads the log of `thread` as far as it goes and redoes it in at most `memory` bytes. `volume` is best opened for reading only: then nobody
    /// is locked out, and nothing can be written.
    ///
    /// # Errors
    /// [`SalvageError`]. Damage is no error: [`Salvage::report`] names it.
    pub async fn open(volume: Arc<Volume>, thread: ThreadId, memory: u64) -> Result<Salvage, SalvageError> {
        let threads = volume.shape().threads;
        let file = volume.redo_file(thread).ok_or(SalvageError::NoThread { thread, threads })?;
        let area = DoubleWrite::new(volume.disk().clone(), file, volume.tag(), thread);
        let batch = match area.read().await {
            Ok(batch) => batch.filter(|batch| !batch.voided),
            Err(DiskError::Io { .. } | DiskError::Short { .. }) => None,
            Err(other) => return Err(other.into()),
        };
        let written = batch.iter().flat_map(|batch| batch.items.iter().map(|(page, _)| (*page, Scn(0)))).collect();
        let report = SalvageReport { thread: thread.0, ..SalvageReport::default() };
        let memory = memory.max(MEMORY_MIN);
        let mut salvage = Salvage { volume, area, batch, overlay: BTreeMap::new(), written, memory, report };
        match ControlFile::new(salvage.volume.disk().clone(), file, salvage.volume.tag(), thread).read().await {
            Ok(read) => {
                salvage.report.state = Some(read.control.state.to_string());
                if read.control.state != ThreadState::Closed {
                    salvage.read_log(file, thread, &read.control).await?;
                }
            }
            Err(ControlError::Disk(error)) if !confined(&error) => return Err(error.into()),
            Err(error) => salvage.report.damage = Some(error.to_string()),
        }
        salvage.finish();
        Ok(salvage)
    }

    /// What was found in the log.
    pub fn report(&self) -> &SalvageReport {
        &self.report
    }

    /// Where pages live.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Every row of every leaf that can be read, in page order.
    pub fn rows(&self) -> Rows<'_> {
        Rows::new(self)
    }

    /// The newest contents of `page` that can be had, verified and sealed.
    ///
    /// # Errors
    /// Why there are none: [`CacheError::Page`] for a home that isn't whole, [`CacheError::Redo`] for redo that doesn't fit, [`CacheError::Disk`].
    pub async fn page(&self, page: PageId) -> Result<Buffer, CacheError> {
        match self.overlay.get(&page) {
            Some(Overlaid::Page { bytes, .. }) => Ok(Buffer::copy_of(bytes)),
            Some(Overlaid::Bad(why)) => Err(why.clone()),
            None => {
                let (bytes, outcome) = self.volume.read(page, Buffer::zeroed(PAGE_SIZE)).await;
                let whole = outcome.map_err(CacheError::from).and_then(|()| self.verified(page, &bytes));
                match whole {
                    Ok(()) => Ok(bytes),
                    Err(why) => self.image(page).await.ok_or(why),
                }
            }
        }
    }

    fn verified(&self, page: PageId, bytes: &[u8]) -> Result<(), CacheError> {
        Ok(verify(bytes, page, self.volume.tag())?)
    }

    /// The whole image of `page` in the double-write area, if its home may be replaced by it (rule 15).
    async fn image(&self, page: PageId) -> Option<Buffer> {
        let items = &self.batch.as_ref()?.items;
        let index = items.iter().position(|(found, _)| *found == page)?;
        let image = self.area.read_image(index).await.ok()?;
        let whole = verify(&image, page, self.volume.tag()).is_ok() && header::of(&image).version() == items[index].1;
        let stale = self.written.get(&page).is_some_and(|written| *written > items[index].1);
        (whole && !stale).then_some(image)
    }

    async fn read_log(&mut self, file: FileId, thread: ThreadId, control: &Control) -> Result<(), SalvageError> {
        let disk = self.volume.disk().clone();
        let identity = LogIdentity { cluster: self.volume.tag(), thread, ring_blocks: self.volume.shape().ring_bytes / LOG_BLOCK as u64 };
        let mut reader = LogReader::new(LogSource::of(control, disk, file, identity));
        self.report.log_from = control.checkpoint.0;
        loop {
            let mut stretch = Vec::new();
            let outcome = reader.read(|group| keep(&mut stretch, &mut self.written, &group)).await;
            self.redo(&stretch).await?;
            self.report.log_to = reader.position().0;
            match outcome {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(LogFault::Disk(error)) if !confined(&error) => return Err(error.into()),
                Err(fault) => {
                    self.report.damage = Some(fault.to_string());
                    return Ok(());
                }
            }
        }
    }

    /// Redoes groups that follow each other in the log.
    async fn redo(&mut self, groups: &[OwnedGroup]) -> Result<(), SalvageError> {
        let mut wanted: Vec<PageId> = Vec::new();
        for group in groups {
            wanted.extend(Changes::new(&group.body, group.items).filter_map(Result::ok).map(|change| change.page));
        }
        wanted.sort_unstable();
        wanted.dedup();
        // In parts, so that homes which turn out to be new enough don't add up.
        for part in wanted.chunks(READ_DEPTH * 4) {
            let missing: Vec<PageId> = part.iter().copied().filter(|page| !self.overlay.contains_key(page)).collect();
            self.read_homes(&missing).await?;
            for group in groups {
                for change in Changes::new(&group.body, group.items).filter_map(Result::ok) {
                    if part.binary_search(&change.page).is_ok() {
                        self.apply(group, &change);
                    }
                }
            }
            for page in missing {
                if matches!(self.overlay.get(&page), Some(Overlaid::Page { changed: false, .. })) {
                    self.overlay.remove(&page);
                }
            }
            self.check_memory()?;
        }
        self.report.groups += groups.len() as u64;
        Ok(())
    }

    /// Puts the homes of `pages`, or what stands for them, into the overlay.
    async fn read_homes(&mut self, pages: &[PageId]) -> Result<(), SalvageError> {
        for part in pages.chunks(READ_DEPTH) {
            let reads = part.iter().map(|page| {
                let (volume, page) = (self.volume.clone(), *page);
                Box::pin(async move { volume.read(page, Buffer::zeroed(PAGE_SIZE)).await }) as BoxFuture<IoOutcome>
            });
            for (page, (bytes, outcome)) in part.iter().zip(join_all(reads.collect()).await) {
                let home = match outcome {
                    Err(error) if !confined(&error) => return Err(error.into()),
                    Err(error) => Err(error.into()),
                    Ok(()) => self.verified(*page, &bytes),
                };
                let entry = match home {
                    Ok(()) => Overlaid::Page { bytes, changed: false },
                    Err(why) => match self.image(*page).await {
                        Some(bytes) => {
                            self.report.pages_restored += 1;
                            Overlaid::Page { bytes, changed: true }
                        }
                        None => Overlaid::Bad(why),
                    },
                };
                self.overlay.insert(*page, entry);
            }
        }
        Ok(())
    }

    fn apply(&mut self, group: &OwnedGroup, change: &Change<'_>) {
        let Some(entry) = self.overlay.get_mut(&change.page) else { return };
        if matches!(entry, Overlaid::Bad(_)) {
            if !change.formats() {
                return;
            }
            // Formatting needs no more than the page's identity.
            let mut blank = Buffer::zeroed(PAGE_SIZE);
            header::format(&mut blank, change.page, Kind::Free, TreeId(0), self.volume.tag());
            *entry = Overlaid::Page { bytes: blank, changed: true };
        }
        let Overlaid::Page { bytes, changed } = entry else { return };
        match redo(bytes, change, group.scn, group.end, group.writer) {
            Ok(Redone::Applied) => {
                *changed = true;
                self.report.changes_applied += 1;
            }
            Ok(Redone::Skipped) => self.report.changes_skipped += 1,
            Err(fault) => *entry = Overlaid::Bad(fault.into()),
        }
    }

    fn check_memory(&self) -> Result<(), SalvageError> {
        let pages = self.overlay.len();
        let each = PAGE_SIZE as u64 + ENTRY_BYTES;
        if pages as u64 * each <= self.memory {
            return Ok(());
        }
        let in_store: u64 = (0..self.volume.shape().data_files).map(|file| self.volume.pages(file)).sum();
        Err(SalvageError::Memory { pages, allowed: self.memory, most: in_store * each })
    }

    /// Verifies and seals every page in memory, and names those that are lost.
    fn finish(&mut self) {
        let tag = self.volume.tag();
        for (page, entry) in &mut self.overlay {
            if let Overlaid::Page { bytes, .. } = entry {
                match verify_stamped(bytes, *page, tag) {
                    Ok(()) => {
                        checksum::seal(bytes);
                        self.report.pages_changed += 1;
                    }
                    Err(fault) => *entry = Overlaid::Bad(fault.into()),
                }
            }
            if let Overlaid::Bad(why) = entry {
                self.report.unreadable.push(UnreadablePage { page: page.to_string(), why: why.to_string() });
            }
        }
    }
}

/// Whether an error says something of the bytes read rather than of the disk.
fn confined(error: &DiskError) -> bool {
    matches!(error, DiskError::Io { .. } | DiskError::Short { .. })
}

/// Keeps a group until its stretch is read; notes what notices say of the double-write area's pages.
fn keep(stretch: &mut Vec<OwnedGroup>, written: &mut BTreeMap<PageId, Scn>, group: &LogGroup<'_>) -> Result<(), RecordFault> {
    if group.header.kind == GroupKind::Written {
        for (page, version) in written_items(group.body) {
            if let Some(known) = written.get_mut(&page) {
                *known = version.max(*known);
            }
        }
        return Ok(());
    }
    Changes::new(group.body, group.header.items).try_for_each(|change| change.map(|_| ()))?;
    let (scn, items) = (group.header.scn, group.header.items);
    stretch.push(OwnedGroup { scn, end: group.end, writer: group.writer, items, body: group.body.to_vec() });
    Ok(())
}

/// Whether a page was just never written, rather than damaged.
fn never_written(error: &CacheError) -> bool {
    matches!(error, CacheError::Page(PageFault::Blank { .. }))
}
