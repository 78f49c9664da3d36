//! L8: bringing pages up to date from the log of a thread that wasn't closed.
//!
//! ```text
//! scan     read the log from the checkpoint, validate every block, find the end, note which pages it concerns     (set)
//! decide   the end is recorded in the control block before the first page changes (rule 12)
//! restore  torn homes come back from the double-write area (rule 15)                                                (restore)
//! redo     what the scan kept, or the log again in bounded segments, for as many pages at a time as the cache holds;
//!          each page gets all of a segment's changes at once, by parallel jobs                                       (segment, redo)
//! ```
//! Every step can be cut off and done again (rule 17): pages carry their version, the end is decided once, and the checkpoint moves
//! only later, when pages are durable. A damaged page is quarantined alone; a damaged log stops recovery and nothing is written.
//! What can't be recovered for a damaged log can be read at least: `salvage`. What each phase was predicted to take stands beside what it
//! took ([`RecoveryReport`]); `probe` measures a new store's disk, so that there is something to predict from.
//! Not here: the other threads' logs, rollback, and who may do all this.

pub mod probe;
pub mod progress;
pub mod redo;
pub mod report;
pub mod restore;
pub mod salvage;
pub mod segment;

use std::sync::Arc;

pub use progress::{OnProgress, Progress};
pub use report::{PhaseReport, RecoveryReport};

use crate::base::limits::{LOG_BLOCK, PAGE_SIZE};
use crate::base::{Lsn, PageId, Scn, Seams};
use crate::cache::double_write::DoubleWrite;
use crate::cache::{Cache, CacheError};
use crate::disk::{DiskError, FileId};
use crate::page::volume::Volume;
use crate::redo::block::LogIdentity;
use crate::redo::control::{Control, ControlFile, ThreadState};
use crate::redo::forecast::{Means, Sample, Work};
use crate::redo::reader::{LogEnd, LogSource};
use crate::redo::record::RecordFault;
use crate::redo::{LogFault, LogReader};
use progress::Meter;
use segment::{Budget, Pages, Segment};

/// Why recovery stopped. The thread stays as it is; nothing acknowledged is lost by trying again.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The log can't be read to its end.
    #[error(transparent)]
    Log(#[from] LogFault),
    /// A page proves that the log was longer than it is now.
    #[error(
        "page {page} was written with redo up to {redo}, but the log ends at {end}: durable redo is missing. \
         The database stays closed: restore the redo file from a copy, or read what is left with `clusterctl salvage`"
    )]
    LogTooShort {
        /// The page.
        page: PageId,
        /// Its redo position.
        redo: Lsn,
        /// Where the log ends.
        end: Lsn,
    },
    /// A valid record that isn't one.
    #[error("{0}")]
    Record(RecordFault),
    /// The cache can't go on.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What recovery works with.
pub struct Recovery {
    /// Clock, tasks, workers.
    pub seams: Seams,
    /// Where pages and logs lie.
    pub volume: Arc<Volume>,
    /// Where redone pages go; its page writer is started here.
    pub cache: Cache,
    /// The thread's redo file.
    pub file: FileId,
    /// The thread's log.
    pub identity: LogIdentity,
    /// Its control slots.
    pub control_file: ControlFile,
    /// Its double-write area: read first, then filled by the page writer.
    pub area: DoubleWrite,
    /// Memory beyond the cache, in bytes.
    pub memory: usize,
    /// Parallel redo jobs.
    pub workers: usize,
    /// Told how far it is.
    pub on_progress: Option<OnProgress>,
}

/// What recovery leaves for opening.
pub struct Recovered {
    /// The control block as it is on disk now: `Recovering`, with the log's end.
    pub control: Control,
    /// The highest SCN seen.
    pub clock: Scn,
    /// What was done.
    pub report: RecoveryReport,
    /// What it tells about this machine, but for the time of opening.
    pub sample: Sample,
}

/// What recovery of a store has to work with: `memory` bytes beyond a cache of `frames` pages.
pub fn means(memory: usize, frames: usize) -> Means {
    let log_bytes = (memory / 8 * 3 + frames * PAGE_SIZE / 8 * 7) as u64;
    Means { log_bytes, part_pages: redo::part_pages(frames) as u64 }
}

impl Recovery {
    /// Recovers the thread that `control` describes.
    ///
    /// # Errors
    /// [`RecoveryError`]: trying again starts over, safely.
    pub async fn run(mut self, mut control: Control) -> Result<Recovered, RecoveryError> {
        let mut report = RecoveryReport::new(&control, self.seams.wall_ms());
        let mut meter = Meter::new(self.seams.clone(), self.on_progress.take());
        let mut pages = Pages::new(self.memory / 4);
        let frames = self.cache.frames();
        let budget =
            Budget { own: self.memory * 3 / 8, cache: frames * PAGE_SIZE / 8 * 7, log_max: self.identity.ring_blocks as usize * LOG_BLOCK };
        let mut segment = Segment::new(budget);

        meter.begin("scan", "bytes", (control.durable.0 - control.checkpoint.0).into());
        let (end, kept) = self.scan(&control, &mut pages, &mut segment, &mut report, &mut meter).await?;
        report.scanned(&control, &end, &pages);
        let work = Work { log_bytes: report.log_bytes, group_bytes: report.group_bytes, pages: report.pages_in_log - report.pages_struck };
        let predicted = control.forecast.rates.predict(work, means(self.memory, frames));
        report.phases.push(meter.end(predicted.scan));

        self.decide(&mut control, &end).await?;
        meter.begin("restore", "pages", None);
        report.pages_restored = restore::restore(&self.volume, &self.area, &pages, &mut meter).await?;
        report.phases.push(meter.end(predicted.restore));
        // Not before: it fills the area that was just read.
        self.cache.start_page_writer(self.area.again());

        meter.begin("redo", "bytes", Some(report.log_bytes));
        let mut redo = redo::Redo { recovery: &self, end: end.at, report: &mut report, sample: Sample::default() };
        let mut segment = Arc::new(segment);
        if kept {
            redo.segment(&mut segment, &mut pages, &mut meter).await?;
        } else {
            let log = redo.report.log_bytes;
            for window in pages.windows(frames / 4 * 3, log, log / budget.own as u64 + 1) {
                redo.report.readings += 1;
                redo.read_again(&control, &mut segment, window, &mut pages, &mut meter).await?;
            }
        }
        let sample = redo.sample;
        report.phases.push(meter.end(predicted.redo));
        self.cache.expect(pages.not_looked_at());
        report.finish(&pages, &self.cache, predicted.open);
        let sample = report.sample(sample);
        Ok(Recovered { control, clock: report.clock(), report, sample })
    }

    fn source(&self, control: &Control) -> LogSource {
        LogSource::of(control, self.volume.disk().clone(), self.file, self.identity)
    }

    /// First reading: validates the log and notes its pages; keeps the changes too while they fit. Returns where the log ends and whether
    /// `segment` holds all of it.
    async fn scan(
        &self,
        control: &Control,
        pages: &mut Pages,
        segment: &mut Segment,
        report: &mut RecoveryReport,
        meter: &mut Meter,
    ) -> Result<(LogEnd, bool), RecoveryError> {
        let mut reader = LogReader::new(self.source(control));
        let mut kept = true;
        segment.begin(control.checkpoint, PageId(0)..=PageId::NONE);
        loop {
            let more = reader
                .read(|group| {
                    report.count(&group);
                    if kept && !segment.add(&group, pages)? {
                        kept = false;
                        segment.clear(pages);
                        segment.release();
                    }
                    if kept { Ok(()) } else { pages.note(&group) }
                })
                .await?;
            if !more {
                break;
            }
            meter.at(reader.position().0 - control.checkpoint.0.min(reader.position().0));
        }
        let end = reader.end().expect("reading is over");
        Ok((end, kept))
    }

    /// Records where the log ends, before anything is changed: whatever lies behind is not part of it any more (rule 12).
    async fn decide(&self, control: &mut Control, end: &LogEnd) -> Result<(), RecoveryError> {
        if control.state == ThreadState::Recovering {
            return Ok(());
        }
        control.state = ThreadState::Recovering;
        control.end = end.at;
        control.end_crc = if end.crc == 0 { control.end_crc } else { end.crc };
        control.durable = end.at;
        self.control_file.write_both(control).await?;
        Ok(())
    }
}
