//! One instance's storage core, from opening to closing.
//!
//! ```text
//! open     lock and check files -> control block -> (recover, unless closed) -> new incarnation, durable -> log open
//! close    all pages written -> log closed -> double-write voided -> control block says closed
//! ```
//! Nothing is written before every file has been checked and locked, and no redo is written before the new incarnation is durable in
//! both control slots (rule 6). What a killed process left in caches is flushed before anything is read: what is decided from bytes must not
//! outlive them. Dropping a [`Storage`] without closing is a crash: the next open recovers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::base::limits::{LOG_BLOCK, PAGE_SIZE};
use crate::base::options::{DoubleWrite as DoubleWriteOption, OptionError, Options};
use crate::base::runtime::join_all;
use crate::base::{BoxFuture, Epoch, Incarnation, Instant, Lsn, Scn, Seams, ThreadId, Writer};
use crate::cache::checkpoint::{CheckpointReport, CheckpointSetup, Checkpointer, CountTransactions, OnCheckpoint};
use crate::cache::double_write::DoubleWrite;
use crate::cache::{Cache, CacheError, CacheSetup, Grants, LocalGrants};
use crate::disk::{Access, Disk, DiskError, FileId};
use crate::page::superblock::{FileKind, Shape, StorageError, StorageFault};
use crate::page::volume::{StoragePaths, Volume};
use crate::recovery::{self, OnProgress, Recovery, RecoveryError, RecoveryReport, probe};
use crate::redo::block::LogIdentity;
use crate::redo::control::{Control, ControlError, ControlFile, ThreadState};
use crate::redo::forecast::{Foretold, Sample};
use crate::redo::writer::LogPlace;
use crate::redo::{LogError, LogWriter};

/// Time between two tries to let go of all pages.
const LET_GO_AGAIN: Duration = Duration::from_millis(2);

/// Why a storage core can't be opened, or stopped working.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A storage file isn't what it must be.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An option is out of range.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The control block can't be read.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Recovery stopped.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The cache or its log failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A thread of instances that share their caches has something to recover, which its instance can't do by itself.
    #[error(
        "redo thread {} was not closed, and other instances may have changed the same pages: all threads have to be recovered together, which this version \
         can't do yet. Stop all instances in an orderly way before they share their caches",
        thread.0
    )]
    NotClosed {
        /// The thread.
        thread: ThreadId,
    },
}

impl From<LogError> for OpenError {
    fn from(error: LogError) -> OpenError {
        OpenError::Cache(error.into())
    }
}

/// What is needed to open.
pub struct Opening {
    /// Clock, tasks, workers.
    pub seams: Seams,
    /// The disk driver.
    pub disk: Arc<dyn Disk>,
    /// Where the files are.
    pub paths: StoragePaths,
    /// Whose storage core.
    pub thread: ThreadId,
    /// How it behaves.
    pub options: Options,
    /// Told how far recovery is.
    pub on_progress: Option<OnProgress>,
    /// Told of each checkpoint.
    pub on_checkpoint: Option<OnCheckpoint>,
}

/// What is needed to open files that are open already; fields as in [`Opening`].
pub struct OpeningVolume {
    /// Clock, tasks, workers.
    pub seams: Seams,
    /// The storage files.
    pub volume: Volume,
    /// Whose storage core.
    pub thread: ThreadId,
    /// How it behaves.
    pub options: Options,
    /// Told how far recovery is.
    pub on_progress: Option<OnProgress>,
    /// Told of each checkpoint.
    pub on_checkpoint: Option<OnCheckpoint>,
}

/// The life in which a member opens its thread, as membership gave it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    /// Above every earlier one of the instance.
    pub incarnation: Incarnation,
    /// The epoch in which it became a member.
    pub epoch: Epoch,
}

/// What a storage core has in common with those of other instances.
pub struct Part {
    /// The Lamport clock, which messages move too.
    pub clock: Arc<AtomicU64>,
    /// Who may hold which page.
    pub grants: Arc<dyn Grants>,
}

impl Part {
    /// Nothing: it is alone.
    fn alone() -> Part {
        Part { clock: Arc::default(), grants: Arc::new(LocalGrants) }
    }
}

/// Ends the tasks of a storage core that is dropped without being closed, or was never quite open, so that its files become free.
struct Tasks {
    cache: Cache,
    log: Option<LogWriter>,
    checkpointer: Option<Arc<Notify>>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        if let Some(log) = &self.log {
            log.abandon();
        }
        self.cache.abandon();
        if let Some(checkpointer) = &self.checkpointer {
            checkpointer.notify_one();
        }
    }
}

/// An open storage core.
pub struct Storage {
    cache: Cache,
    log: LogWriter,
    checkpointer: Checkpointer,
    area: DoubleWrite,
    writer: Writer,
    recovery: Option<RecoveryReport>,
    _tasks: Tasks,
}

/// Makes the storage files of a new cluster, with a closed control block for every thread. Pages come with the first open.
///
/// # Errors
/// [`OpenError`]; the files made so far are left for the caller to remove.
pub async fn create(disk: Arc<dyn Disk>, paths: &StoragePaths, shape: Shape) -> Result<Volume, OpenError> {
    let volume = Volume::create(disk.clone(), paths, shape).await?;
    for number in 1..=shape.threads {
        let thread = ThreadId(number);
        let file = redo_file(&volume, thread)?;
        let control_file = ControlFile::new(disk.clone(), file, volume.tag(), thread);
        control_file.write_both(&mut Control::new(thread)).await?;
    }
    Ok(volume)
}

fn redo_file(volume: &Volume, thread: ThreadId) -> Result<FileId, StorageError> {
    volume.redo_file(thread).ok_or_else(|| StorageError::Fault {
        file: Default::default(),
        offset: 0,
        fault: StorageFault::Count { kind: FileKind::Redo, expected: thread.0.into(), found: volume.shape().threads.into() },
    })
}

/// The log of `thread`.
pub fn log_identity(volume: &Volume, thread: ThreadId) -> LogIdentity {
    LogIdentity { cluster: volume.tag(), thread, ring_blocks: volume.shape().ring_bytes / LOG_BLOCK as u64 }
}

fn new_cache(seams: &Seams, volume: &Arc<Volume>, options: &Options, part: Part) -> Cache {
    Cache::new(CacheSetup {
        seams: seams.clone(),
        volume: volume.clone(),
        grants: part.grants,
        frames: options.cache_frames(),
        io_depth: options.page_io_depth,
        double_write: options.double_write == DoubleWriteOption::On || volume.atomic_write_max() < PAGE_SIZE,
        clock: part.clock,
    })
}

/// Recovers, and lets `control` learn from it how fast that goes here. Opening began at `began`.
async fn recover(recovery: Recovery, control: &mut Control, clock: &AtomicU64, began: Instant) -> Result<RecoveryReport, RecoveryError> {
    let seams = recovery.seams.clone();
    let done = recovery.run(*control).await?;
    clock.fetch_max(done.clock.0, Ordering::AcqRel);
    *control = done.control;
    let mut report = done.report;
    let open = report.opened(seams.now().since(began));
    control.forecast.rates.learn(&Sample { open, ..done.sample });
    Ok(report)
}

/// Measures the disk, if nobody knows yet how fast recovery would be here. Returns how long that took.
async fn learn_disk(seams: &Seams, volume: &Volume, file: FileId, depth: usize, control: &mut Control) -> Duration {
    if !control.forecast.rates.are_unknown() {
        return Duration::ZERO;
    }
    let began = seams.now();
    match probe::probe(seams, volume.disk().as_ref(), file, volume.shape().ring_bytes, depth).await {
        Ok(rates) => control.forecast.rates = rates,
        Err(error) => tracing::warn!(%error, "the disk can't be measured now: how long recovery takes is predicted from assumed rates"),
    }
    seams.now().since(began)
}

/// `part`, or that of a storage core that is alone; its clock is at least what every thread has written down.
async fn part_of(volume: &Volume, control: &Control, thread: ThreadId, part: Option<Part>) -> Result<Part, OpenError> {
    if part.is_some() && control.state != ThreadState::Closed {
        return Err(OpenError::NotClosed { thread });
    }
    let part = part.unwrap_or_else(Part::alone);
    let others = clock_of_others(volume, thread).await?;
    part.clock.fetch_max(control.clock.max(others).0, Ordering::AcqRel);
    Ok(part)
}

/// The highest clock that another thread has written down. All that an instance which was closed has committed is at or before its own, so that snapshots
/// here see it; instances that are up say theirs with every message.
async fn clock_of_others(volume: &Volume, own: ThreadId) -> Result<Scn, OpenError> {
    let mut reads: Vec<BoxFuture<Result<Scn, ControlError>>> = Vec::new();
    for thread in (1..=volume.shape().threads).map(ThreadId).filter(|thread| *thread != own) {
        let slots = ControlFile::new(volume.disk().clone(), redo_file(volume, thread)?, volume.tag(), thread);
        reads.push(Box::pin(async move { slots.read().await.map(|found| found.control.clock) }));
    }
    let mut highest = Scn(0);
    for clock in join_all(reads).await {
        highest = highest.max(clock?);
    }
    Ok(highest)
}

/// A new life of the thread: a new incarnation, open, nothing foretold. Returns where its log starts.
fn begin_life(control: &mut Control, life: Option<Life>) -> Lsn {
    let Writer { thread, incarnation, epoch } = control.writer;
    control.state = ThreadState::Open;
    control.writer = match life {
        // Neither goes back along a thread, also where an offline tool has opened it without membership in between.
        Some(life) => Writer { thread, incarnation: life.incarnation.max(Incarnation(incarnation.0 + 1)), epoch: life.epoch.max(epoch) },
        None => Writer { thread, incarnation: Incarnation(incarnation.0 + 1), epoch: Epoch(epoch.0 + 1) },
    };
    control.forecast.foretold = Foretold::default();
    control.end
}

impl Storage {
    /// Opens the storage core, recovering it first if it wasn't closed.
    ///
    /// # Errors
    /// [`OpenError`]. Before recovery decides on the log's end, nothing has been written.
    pub async fn open(opening: Opening) -> Result<Storage, OpenError> {
        opening.options.validate()?;
        let began = opening.seams.now();
        let volume = Volume::open(opening.disk, &opening.paths, Access::Write(opening.thread)).await?;
        let Opening { seams, thread, options, on_progress, on_checkpoint, .. } = opening;
        Storage::open_since(OpeningVolume { seams, volume, thread, options, on_progress, on_checkpoint }, None, None, began).await
    }

    /// As [`Storage::open`] for files that are open already.
    ///
    /// # Errors
    /// As [`Storage::open`].
    pub async fn open_volume(opening: OpeningVolume) -> Result<Storage, OpenError> {
        let began = opening.seams.now();
        Storage::open_since(opening, None, None, began).await
    }

    /// As [`Storage::open_volume`] for a member of a cluster, which has its incarnation and epoch from membership.
    ///
    /// # Errors
    /// As [`Storage::open`].
    pub async fn open_member(opening: OpeningVolume, life: Life) -> Result<Storage, OpenError> {
        let began = opening.seams.now();
        Storage::open_since(opening, Some(life), None, began).await
    }

    /// As [`Storage::open_member`] for one of several that share their caches: a page is used as `part` grants it. Its thread must have been closed.
    ///
    /// # Errors
    /// As [`Storage::open`]; [`OpenError::NotClosed`].
    pub async fn open_part(opening: OpeningVolume, life: Life, part: Part) -> Result<Storage, OpenError> {
        let began = opening.seams.now();
        Storage::open_since(opening, Some(life), Some(part), began).await
    }

    /// As [`Storage::open_volume`]; opening began at `began`.
    async fn open_since(opening: OpeningVolume, life: Option<Life>, part: Option<Part>, began: Instant) -> Result<Storage, OpenError> {
        let OpeningVolume { seams, volume, thread, options, on_progress, on_checkpoint } = opening;
        let volume = Arc::new(volume);
        let disk = volume.disk().clone();
        let file = redo_file(&volume, thread)?;
        let slots = || ControlFile::new(disk.clone(), file, volume.tag(), thread);
        volume.flush(file).await?;
        let control_file = slots();
        let found = control_file.read().await?;
        if let Some((slot, fault)) = &found.damaged {
            tracing::warn!(%thread, slot, %fault, "a control slot isn't whole: torn by a crash, or damaged; the other one is used");
        }
        let part = part_of(&volume, &found.control, thread, part).await?;
        let clock = part.clock.clone();
        let cache = new_cache(&seams, &volume, &options, part);
        let mut tasks = Tasks { cache: cache.clone(), log: None, checkpointer: None };
        let mut area = DoubleWrite::new(disk.clone(), file, volume.tag(), thread);
        area.resume().await?;
        let identity = log_identity(&volume, thread);
        let mut control = found.control;
        let mut recovered: Option<RecoveryReport> = None;
        if control.state == ThreadState::Closed {
            tracing::info!(%thread, "storage had been closed: nothing to recover");
            cache.start_page_writer(area.again());
        } else {
            tracing::info!(%thread, state = %control.state, checkpoint = %control.checkpoint, "storage had not been closed: recovering");
            let workers = if options.recovery_workers == 0 { seams.workers() } else { options.recovery_workers };
            let recovery = Recovery {
                seams: seams.clone(),
                volume: volume.clone(),
                cache: cache.clone(),
                file,
                identity,
                control_file: slots(),
                memory: options.recovery_memory_bytes as usize,
                workers,
                area: area.again(),
                on_progress,
            };
            let report = recover(recovery, &mut control, &clock, began).await?;
            recovered = Some(report);
        }
        let probing = learn_disk(&seams, &volume, file, options.page_io_depth, &mut control).await;
        let start = begin_life(&mut control, life);
        control_file.write_both(&mut control).await?;
        let place = LogPlace {
            disk,
            file,
            identity,
            writer: control.writer,
            checkpoint: control.checkpoint,
            start,
            start_crc: control.end_crc,
            fill_percent: options.checkpoint_log_percent,
        };
        let log = LogWriter::start(seams.clone(), place, options.log_mode, options.log_batch_interval(), clock);
        tasks.log = Some(log.clone());
        cache.open_for_changes(log.clone());
        if control.forecast.rates.open_us == 0 {
            // Until a recovery tells better: it opens as a closed store does, but for writing down where the log ends.
            control.forecast.rates.open_us = (seams.now().since(began) - probing).as_micros() as u64;
        }
        let writer = control.writer;
        let checkpointer = Checkpointer::start(CheckpointSetup {
            cache: cache.clone(),
            log: log.clone(),
            file: control_file,
            control,
            interval: options.checkpoint_interval(),
            recovery_time_target: options.recovery_time_target(),
            means: recovery::means(options.recovery_memory_bytes as usize, cache.frames()),
            payload_share: recovered.as_ref().map_or(1.0, RecoveryReport::payload_share),
            on_checkpoint,
        });
        tasks.checkpointer = Some(checkpointer.stopper());
        if let Some(report) = &mut recovered {
            report.opened(seams.now().since(began));
            report.tell();
        }
        Ok(Storage { cache, log, checkpointer, area, writer, recovery: recovered, _tasks: tasks })
    }

    /// Pages in memory.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The instance's log.
    pub fn log(&self) -> &LogWriter {
        &self.log
    }

    /// Who this is.
    pub fn writer(&self) -> Writer {
        self.writer
    }

    /// What recovery did when this was opened, if there was one.
    pub fn recovery(&self) -> Option<&RecoveryReport> {
        self.recovery.as_ref()
    }

    /// How long recovery would take after a crash now, from the start of opening to service, as last predicted.
    pub fn predicted_recovery(&self) -> Duration {
        self.checkpointer.predicted()
    }

    /// From now on `count` tells checkpoints how many transactions are under way. The first one given stays.
    pub fn count_transactions(&self, count: CountTransactions) {
        self.checkpointer.count_transactions(count);
    }

    /// Waits until everything before `end` is acknowledgeable in the log's mode.
    ///
    /// # Errors
    /// The log has failed: what it held since the last success may be lost.
    pub async fn committed(&self, end: Lsn) -> Result<(), CacheError> {
        match self.log.mode() {
            crate::base::options::LogMode::Commit => Ok(self.log.force(end).await?),
            crate::base::options::LogMode::Batch | crate::base::options::LogMode::None => Ok(()),
        }
    }

    /// Takes a checkpoint of all that is dirty now.
    ///
    /// # Errors
    /// The log has failed.
    pub async fn checkpoint(&self) -> Result<CheckpointReport, CacheError> {
        self.checkpointer.checkpoint().await
    }

    /// Writes all that this instance owes, waits until others have written what keeps pages here, and lets go of every page: then no other instance waits
    /// for this one. Nothing may be used meanwhile.
    ///
    /// # Errors
    /// The log has failed.
    pub async fn let_go(&self) -> Result<(), CacheError> {
        loop {
            // All that is owed, also what was taken over at the log's very end, which no checkpoint of the log before that asks for.
            self.cache.write_before(Lsn(u64::MAX)).await?;
            self.checkpoint().await?;
            if self.cache.let_go_all() {
                return Ok(());
            }
            self.cache.seams().sleep(LET_GO_AGAIN).await;
        }
    }

    /// Closes the storage core: everything written, nothing to recover. Pages that can't be written keep it from being closed clean; then the
    /// next open recovers them.
    ///
    /// # Errors
    /// The log or the disk failed: the next open recovers.
    pub async fn close(mut self) -> Result<(), OpenError> {
        self.checkpointer.checkpoint().await?;
        self.cache.stop_page_writer().await;
        let (control_file, mut control) = self.checkpointer.stop().await;
        let (end, end_crc) = self.log.close().await?;
        let (dirty, _) = self.cache.dirty();
        if dirty > 0 {
            tracing::warn!(dirty, "not closed clean: some pages could not be written; the next open recovers them");
            return Ok(());
        }
        self.area.resume().await?;
        self.area.void().await?;
        control.state = ThreadState::Closed;
        (control.checkpoint, control.durable, control.end, control.end_crc) = (end, end, end, end_crc);
        control.clock = self.cache.now();
        control_file.write_both(&mut control).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
