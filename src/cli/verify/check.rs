//! The checks themselves, of an open store and of files that no instance uses.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::findings::{Findings, Listener, Step, Summary};
use crate::base::limits::CACHE_FRAMES_MIN;
use crate::base::options::Options;
use crate::base::{PageId, Seams, ThreadId};
use crate::cache::double_write::DoubleWrite;
use crate::cache::{Cache, CacheSetup, LocalGrants};
use crate::cli::CommandError;
use crate::cli::config::Config;
use crate::disk::overlay::OverlayDisk;
use crate::disk::{Access, Disk, open_disk};
use crate::node::storage::Opening;
use crate::node::store::Store;
use crate::ops::scrub::{self, Evidence, Heard, Scrub};
use crate::page::superblock::StorageError;
use crate::page::volume::Volume;
use crate::redo::control::{Control, ControlError, ControlFile, ThreadState};
use crate::table::Trees;
use crate::table::rows::Interrupt;
use crate::table::tables::{Tables, TablesProgress};

/// Reads of pages in flight while trees are walked.
const READS: usize = 32;
/// Most memory offline, in bytes: for walking trees, and then for a cache and for what an open store writes to itself.
const MEMORY_MAX: usize = 64 << 20;

/// Why files that no instance uses can't be verified.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// Pages aren't up to date.
    #[error("instance {instance} crashed ({state}): its pages aren't up to date. Start it, or verify with --recover")]
    NeedsRecovery {
        /// Whose redo thread.
        instance: u16,
        /// By its control block.
        state: ThreadState,
    },
    /// An instance has used them meanwhile.
    #[error("instance {instance} was started while its files were checked: verify again")]
    Used {
        /// Which.
        instance: u16,
    },
}

/// Checks the store of the instance that runs in this process, while it serves.
///
/// # Errors
/// The check can't go on: the log or disk has failed.
pub async fn live(store: &Store, listener: &mut dyn Listener) -> Result<Summary, CommandError> {
    let trees = store.trees();
    let began = trees.cache().seams().now();
    let mut findings = Findings::new(listener, trees.cache().seams());
    let mut summary = Summary { live: true, ..Summary::default() };
    let pages = Scrub::live(trees.cache()).run(|heard| hear(heard, &mut findings)).await;
    summary.pages = Some(pages);
    structure(trees, &mut findings, &mut summary).await?;
    indexes(store, &mut findings, &mut summary).await?;
    for (page, why) in trees.cache().quarantined() {
        findings.add("page", place(trees.cache().volume(), page), format!("set apart: {why}"));
    }
    finish(&mut summary, &findings, trees.cache().seams(), began);
    Ok(summary)
}

/// Checks files that no instance uses: superblocks, control blocks, double-write areas, pages, trees.
///
/// # Errors
/// [`OfflineError`]; a file can't be opened. What is wrong with files is a finding.
pub async fn offline(seams: &Seams, disk: Arc<dyn Disk>, config: &Config, listener: &mut dyn Listener) -> Result<Summary, CommandError> {
    let began = seams.now();
    let mut findings = Findings::new(listener, seams);
    let mut summary = Summary::default();
    if let Some((volume, before)) = storage(disk, config, &mut findings).await? {
        let evidence =
            Evidence { log_ends: before.iter().map(|(thread, control)| (*thread, control.end)).collect(), ..Evidence::default() };
        let pages = Scrub::offline(seams.clone(), &volume, evidence).run(|heard| hear(heard, &mut findings)).await;
        summary.pages = Some(pages);
        let volume = Arc::new(volume);
        match Trees::open(reading(seams, &volume), ThreadId(1)).await {
            Ok(trees) => structure(&trees, &mut findings, &mut summary).await?,
            Err(error) => findings.add("tree", "trees", format!("not checked: {error}")),
        }
        if findings.count() == 0 {
            indexes_of_files(seams, config, &mut findings, &mut summary).await?;
        }
        for (thread, control) in before {
            // Every opening writes the control block.
            if read_control(&volume, thread).await?.1.generation != control.generation {
                return Err(OfflineError::Used { instance: thread.0 }.into());
            }
        }
    }
    finish(&mut summary, &findings, seams, began);
    Ok(summary)
}

fn finish(summary: &mut Summary, findings: &Findings<'_>, seams: &Seams, began: crate::base::Instant) {
    (summary.findings_total, summary.clean) = (findings.count(), findings.count() == 0);
    summary.seconds = seams.now().since(began).as_secs_f64();
}

/// What an open volume consists of, with the control block of each thread.
type Opened = (Volume, BTreeMap<ThreadId, Control>);

/// Opens the files and checks all that isn't pages. Nothing when they are too damaged to go on.
async fn storage(disk: Arc<dyn Disk>, config: &Config, findings: &mut Findings<'_>) -> Result<Option<Opened>, CommandError> {
    let volume = match Volume::open(disk, &config.storage.paths(), Access::Read).await {
        Ok(volume) => volume,
        Err(StorageError::Fault { file, offset, fault }) => {
            findings.add("storage", format!("{} at offset {offset}", file.display()), format!("{fault}; {}", fault.remedy()));
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let mut controls = BTreeMap::new();
    for number in 1..=volume.shape().threads {
        let thread = ThreadId(number);
        let (path, control) = match read_control(&volume, thread).await {
            Ok((damaged, control)) => {
                let path = redo_path(&volume, thread);
                if let Some((slot, fault)) = damaged {
                    findings.add("control", format!("{} slot {slot}", path.display()), fault);
                }
                (path, control)
            }
            Err(ControlError::Damaged { file, first, second }) => {
                findings.add("control", file.display(), format!("neither slot is whole: {first}; {second}"));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if control.state != ThreadState::Closed {
            return Err(OfflineError::NeedsRecovery { instance: number, state: control.state }.into());
        }
        if let Some(file) = volume.redo_file(thread)
            && let Some(batch) = DoubleWrite::new(volume.disk().clone(), file, volume.tag(), thread).read().await?
            && !batch.voided
        {
            findings.add("double-write", path.display(), format!("batch {} isn't voided, though the instance was closed", batch.batch));
        }
        controls.insert(thread, control);
    }
    // Without a control block nothing says whether pages are up to date.
    Ok((controls.len() == usize::from(volume.shape().threads)).then_some((volume, controls)))
}

type DamagedSlot = Option<(u8, crate::redo::control::ControlFault)>;

async fn read_control(volume: &Volume, thread: ThreadId) -> Result<(DamagedSlot, Control), ControlError> {
    let file = volume.redo_file(thread).expect("an open volume has a redo file for each of its threads");
    let read = ControlFile::new(volume.disk().clone(), file, volume.tag(), thread).read().await?;
    Ok((read.damaged, read.control))
}

fn redo_path(volume: &Volume, thread: ThreadId) -> PathBuf {
    volume.redo_file(thread).map_or_else(PathBuf::new, |file| volume.disk().path(file))
}

/// A cache for reading a volume that nobody writes.
fn reading(seams: &Seams, volume: &Arc<Volume>) -> Cache {
    let pages: u64 = (0..volume.shape().data_files).map(|file| volume.pages(file)).sum();
    let most = (MEMORY_MAX / crate::base::limits::PAGE_SIZE) as u64;
    Cache::new(CacheSetup {
        seams: seams.clone(),
        volume: volume.clone(),
        grants: Arc::new(LocalGrants),
        frames: (pages.min(most) as usize).max(CACHE_FRAMES_MIN),
        io_depth: READS,
        double_write: true,
        clock: Arc::new(AtomicU64::new(0)),
    })
}

/// Trees and indexes.
async fn structure(trees: &Trees, findings: &mut Findings<'_>, summary: &mut Summary) -> Result<(), CommandError> {
    let total = summary.pages.map(|counts| counts.tree);
    let tell = |progress: &crate::table::check::Progress| {
        let step = Step { part: "trees".into(), done: progress.pages, total, seconds_left: None };
        findings.step(&step);
    };
    let report = trees.check(tell).await?;
    for finding in &report.findings {
        findings.add("tree", "trees", finding);
    }
    summary.trees = Some(report.trees.len() as u64);
    summary.keys = report.trees.iter().map(|tree| tree.entries).sum();
    Ok(())
}

/// Tables against their indexes.
async fn indexes(store: &Store, findings: &mut Findings<'_>, summary: &mut Summary) -> Result<(), CommandError> {
    let mut before = (0, 0);
    let mut done = 0;
    let mut tell = |progress: &TablesProgress| {
        // Counted anew for each table and index.
        let now = (progress.number, progress.done);
        done += if now.0 == before.0 { now.1.saturating_sub(before.1) } else { now.1 };
        before = now;
        findings.step(&Step { part: "rows".into(), done, total: None, seconds_left: None });
    };
    let report = Tables::new(store.rows().clone()).check(&Interrupt::default(), &mut tell).await?;
    for finding in &report.findings {
        if finding.is_notice() {
            summary.notices.push(finding.to_string());
        } else {
            findings.add("index", "tables", finding);
        }
    }
    summary.tables = Some(report.tables.len() as u64);
    summary.rows = report.tables.iter().map(|table| table.rows).sum();
    summary.index_entries = report.tables.iter().flat_map(|table| &table.entries).map(|(_, entries)| entries).sum();
    Ok(())
}

/// Tables against their indexes in files that no instance uses. Rows are read by transactions, and these need a store that is open for
/// changes: it is opened over the files, without writing to them.
async fn indexes_of_files(seams: &Seams, config: &Config, findings: &mut Findings<'_>, summary: &mut Summary) -> Result<(), CommandError> {
    let over = Arc::new(OverlayDisk::new(open_disk(config.options.disk)?, MEMORY_MAX));
    let cache_bytes = config.options.cache_bytes.min(MEMORY_MAX as u64);
    let opening = Opening {
        seams: seams.clone(),
        disk: over,
        paths: config.storage.paths(),
        thread: config.thread(),
        options: Options { cache_bytes, ..config.options.clone() },
        on_progress: None,
        on_checkpoint: None,
    };
    match Store::open(opening).await {
        Ok(store) => indexes(&store, findings, summary).await,
        Err(error) => {
            findings.add("index", "tables", format!("not checked, as the storage can't be opened: {error}"));
            Ok(())
        }
    }
}

fn hear(heard: Heard, findings: &mut Findings<'_>) {
    match heard {
        Heard::Progress(scrub::Progress { done, total, left, .. }) => {
            findings.step(&Step { part: "pages".into(), done, total: Some(total), seconds_left: Some(left.as_secs_f64()) });
        }
        Heard::Bad(bad) => findings.add("page", format!("{} at offset {} of {}", bad.page, bad.offset, bad.file.display()), &bad.trouble),
    }
}

/// A page, its file and where it lies there.
fn place(volume: &Volume, page: PageId) -> String {
    match volume.home(page) {
        Ok((file, offset)) => format!("{page} at offset {offset} of {}", volume.disk().path(file).display()),
        Err(_) => page.to_string(),
    }
}
