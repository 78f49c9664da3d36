//! Writes dirty pages to their homes: oldest first, in page order within a batch.
//!
//! ```text
//! pick oldest -> copy under shared latch, seal -> force log (rule 7) -> double-write -> homes, neighbours together -> sync
//!             -> clean, unless changed meanwhile -> notice in the log
//! ```
//! It works when a checkpoint asks (up to its goal), when too many frames are dirty, when somebody wants a frame, and for pages that other instances
//! wait for. It writes what this instance owes, held alone or beside readers; what was given away is written by whoever has it. A page whose home
//! can't be written, or whose sync failed, is quarantined: kept in its frame, never written there again (rule 14);
//! `unwritable` keeps its contents in the log, which is kept from there on.
//! A failed double-write or log stops the instance, as both lie in its own redo file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::double_write::{DoubleWrite, IMAGES};
use super::grants::Mode;
use super::wait::CacheError;
use super::{Cache, CacheShared};
use crate::base::limits::{DOUBLE_WRITE_PAGES, PAGE_SIZE};
use crate::base::runtime::join_all;
use crate::base::{BoxFuture, Lsn, PageId, Scn, checksum};
use crate::disk::{Buffer, DiskError, IoOutcome};
use crate::page::header;
use crate::redo::LogError;
use crate::redo::record::encode_written;

/// Most neighbouring pages written with one I/O, when a torn one can be restored.
const RUN_MAX: usize = 32;
/// Idle time after which a completed double-write batch is voided.
const VOID_AFTER: Duration = Duration::from_millis(100);

/// A copy of a page on its way home.
struct Copy {
    page: PageId,
    frame: u32,
    version: Scn,
}

/// What became of copying a page.
enum Copied {
    Done(Copy),
    /// It is made anew by the log, or isn't, other than was asked for.
    OtherKind,
    /// It isn't dirty any more.
    Gone,
}

impl Cache {
    /// Starts the page writer; `area` is the instance's double-write area.
    pub fn start_page_writer(&self, area: DoubleWrite) {
        // Where no page goes through the area, what an earlier life left there must not outlive the first home that this one writes.
        let unvoided = !self.shared.double_write;
        let writer = PageWriter { shared: self.shared.clone(), area, unvoided, spare: None, doubtful: Vec::new() };
        self.shared.seams.spawn("page writer", Box::pin(writer.run()));
    }

    /// Asks for every page whose first unwritten position lies before `position` to be written, and waits until none is left that can be.
    ///
    /// # Errors
    /// The log has failed.
    pub async fn write_before(&self, position: Lsn) -> Result<(), CacheError> {
        let shared = &self.shared;
        loop {
            let round = shared.written.notified();
            tokio::pin!(round);
            round.as_mut().enable();
            if shared.dirty.lock().oldest_writable().is_none_or(|oldest| oldest >= position) {
                return Ok(());
            }
            if shared.writer_gone.load(Ordering::Acquire) {
                return Err(shared.log_error());
            }
            shared.goal.fetch_max(position.0, Ordering::AcqRel);
            shared.write.notify_one();
            round.await;
        }
    }

    /// Asks for the writes of pages whose first unwritten position lies before `position` and that others owe since they were given away.
    pub(super) fn want_images_before(&self, position: Lsn) {
        let images = self.shared.dirty.lock().images_before(position);
        images.into_iter().for_each(|page| self.shared.grants.want_written(page));
    }

    /// Ends the page writer after its present round; whoever waits for it hears that it is gone.
    pub async fn stop_page_writer(&self) {
        let shared = &self.shared;
        shared.closing.store(true, Ordering::Release);
        loop {
            let round = shared.written.notified();
            tokio::pin!(round);
            round.as_mut().enable();
            if shared.writer_gone.load(Ordering::Acquire) {
                return;
            }
            shared.write.notify_one();
            round.await;
        }
    }
}

impl CacheShared {
    pub(super) fn log_error(&self) -> CacheError {
        let error = self.log.get().and_then(|log| log.reserve(0).err());
        error.unwrap_or(LogError::Closed).into()
    }

    /// Whether there is something to write now.
    fn write_due(&self) -> bool {
        if !self.urgent.lock().is_empty() {
            return true;
        }
        let dirty = self.dirty.lock();
        let goal = Lsn(self.goal.load(Ordering::Acquire));
        let crowded = dirty.writable() * 8 >= self.frames.len() * 3 || self.wanted.load(Ordering::Acquire);
        dirty.oldest_writable().is_some_and(|oldest| crowded || oldest < goal)
    }
}

pub(super) struct PageWriter {
    pub(super) shared: Arc<CacheShared>,
    area: DoubleWrite,
    /// The last batch is complete but not voided, or one of an earlier life may not be.
    unvoided: bool,
    /// The batch's memory, between rounds.
    spare: Option<Buffer>,
    /// Pages of the last batch whose homes are in doubt: their images must be in the log before the area is used again.
    pub(super) doubtful: Vec<(PageId, DiskError)>,
}

impl PageWriter {
    async fn run(mut self) {
        while !self.shared.closing.load(Ordering::Acquire) {
            let outcome = if self.shared.write_due() { self.round().await } else { self.idle().await };
            if let Err(error) = outcome {
                // The log carries the reason; without it nothing can be written any more.
                tracing::error!(%error, "the page writer stops");
                *self.shared.stuck.lock() = Some(error);
                break;
            }
        }
        self.shared.writer_gone.store(true, Ordering::Release);
        self.shared.written.notify_waiters();
        self.shared.freed.notify_waiters();
    }

    async fn idle(&mut self) -> Result<(), CacheError> {
        if !self.unvoided {
            self.shared.write.notified().await;
            return Ok(());
        }
        let late = self.shared.seams.sleep(VOID_AFTER);
        let quiet = tokio::select! {
            biased;
            () = self.shared.write.notified() => false,
            () = late => true,
        };
        if quiet && !self.shared.write_due() {
            self.void().await?;
        }
        Ok(())
    }

    async fn void(&mut self) -> Result<(), CacheError> {
        self.area.void().await.map_err(|error| self.fatal(error))?;
        self.unvoided = false;
        Ok(())
    }

    /// One batch.
    async fn round(&mut self) -> Result<(), CacheError> {
        let mut pages = self.urgent();
        let oldest = self.shared.dirty.lock().pick(DOUBLE_WRITE_PAGES - pages.len());
        pages.extend(oldest);
        pages.sort_unstable();
        pages.dedup();
        let area = self.spare.take().unwrap_or_else(|| Buffer::zeroed(IMAGES + DOUBLE_WRITE_PAGES * PAGE_SIZE));
        let mut area = area;
        area.set_len(IMAGES + DOUBLE_WRITE_PAGES * PAGE_SIZE);
        let (copies, protected, newest) = self.copy(&pages, &mut area);
        if let Some(log) = self.shared.log.get() {
            log.force(newest).await?;
        }
        if self.shared.double_write && protected > 0 {
            let (filled, outcome) = self.area.fill(area, protected).await;
            area = filled;
            area.set_len(IMAGES + DOUBLE_WRITE_PAGES * PAGE_SIZE);
            outcome.map_err(|error| self.fatal(error))?;
            self.unvoided = true;
        } else if self.unvoided && !copies.is_empty() {
            // An image must not outlive its batch: homes are written past it from here on.
            self.void().await?;
        }
        let failed = self.write_homes(&copies, &area).await;
        self.spare = Some(area);
        self.finish(&copies, &failed);
        self.doubtful.extend(failed);
        self.preserve().await
    }

    /// Pages that other instances wait for.
    fn urgent(&self) -> Vec<PageId> {
        let mut urgent = self.shared.urgent.lock();
        let some: Vec<PageId> = urgent.iter().take(DOUBLE_WRITE_PAGES / 2).copied().collect();
        urgent.retain(|page| !some.contains(page));
        some
    }

    /// Copies and seals the pages under shared latches and marks them as being written: first those whose torn homes need an image, then those that the log
    /// makes anew from their first unwritten position on, so that redo needs nothing of their homes. Returns the copies, how many of them
    /// need an image, and their newest redo position.
    fn copy(&self, pages: &[PageId], area: &mut Buffer) -> (Vec<Copy>, usize, Lsn) {
        let mut copies = Vec::with_capacity(pages.len());
        let mut anew = Vec::new();
        let mut newest = Lsn(0);
        for page in pages {
            match self.copy_one(*page, false, copies.len(), area, &mut newest) {
                Copied::Done(copy) => copies.push(copy),
                Copied::OtherKind => anew.push(*page),
                Copied::Gone => {}
            }
        }
        let protected = copies.len();
        for page in anew {
            if let Copied::Done(copy) = self.copy_one(page, true, copies.len(), area, &mut newest) {
                copies.push(copy);
            }
        }
        (copies, protected, newest)
    }

    fn copy_one(&self, page: PageId, made_anew: bool, index: usize, area: &mut Buffer, newest: &mut Lsn) -> Copied {
        let Some(number) = self.shared.table.get(page) else { return Copied::Gone };
        let frame = &self.shared.frames[number as usize];
        let body = frame.body.read();
        let mut state = frame.state.lock();
        // Not what was given away, nor what can't be written from here.
        let owed = |position| body.mode > Mode::None && self.shared.dirty.lock().is_writable(position, page);
        if body.id != page || !state.dirty.is_some_and(owed) {
            return Copied::Gone;
        }
        if state.made_anew != made_anew {
            return Copied::OtherKind;
        }
        state.writing = true;
        drop(state);
        let at = IMAGES + index * PAGE_SIZE;
        let image = &mut area[at..at + PAGE_SIZE];
        image.copy_from_slice(body.page());
        drop(body);
        checksum::seal(image);
        let header = header::of(image);
        *newest = self.shared.own_redo(header).max(*newest);
        Copied::Done(Copy { page, frame: number, version: header.version() })
    }

    /// Writes the images to their homes and makes them durable. Returns the pages for which that failed or is in doubt.
    async fn write_homes(&self, copies: &[Copy], area: &Buffer) -> BTreeMap<PageId, DiskError> {
        // What isn't protected by the double-write area relies on the device's atomic writes, and these end at a page.
        let most = if self.shared.double_write { RUN_MAX } else { 1 };
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for index in 0..copies.len() {
            match runs.last_mut() {
                Some((start, count)) if *count < most && copies[*start].page.0 + *count as u64 == copies[index].page.0 => {
                    *count += 1;
                }
                _ => runs.push((index, 1)),
            }
        }
        let mut failed = BTreeMap::new();
        for part in runs.chunks(self.shared.io_depth) {
            let writes: Vec<BoxFuture<IoOutcome>> = part
                .iter()
                .map(|(start, count)| {
                    let at = IMAGES + start * PAGE_SIZE;
                    let buffer = Buffer::copy_of(&area[at..at + count * PAGE_SIZE]);
                    let (shared, first) = (self.shared.clone(), copies[*start].page);
                    Box::pin(async move { shared.volume.write(first, buffer).await }) as BoxFuture<IoOutcome>
                })
                .collect();
            for ((start, count), (_, outcome)) in part.iter().zip(join_all(writes).await) {
                if let Err(error) = outcome {
                    failed.extend(copies[*start..start + count].iter().map(|copy| (copy.page, error.clone())));
                }
            }
        }
        let files: BTreeSet<u16> = copies.iter().map(|copy| copy.page.file()).collect();
        for file in files {
            if let Err((file, error)) = self.shared.volume.sync([file]).await {
                failed.extend(copies.iter().filter(|copy| copy.page.file() == file).map(|copy| (copy.page, error.clone())));
            }
        }
        failed
    }

    /// Marks the written pages clean, or dirty from their next change on, and notes them in the log.
    fn finish(&self, copies: &[Copy], failed: &BTreeMap<PageId, DiskError>) {
        let shared = &self.shared;
        let mut written = Vec::with_capacity(copies.len());
        for copy in copies {
            let mut state = shared.frames[copy.frame as usize].state.lock();
            let position = state.dirty.expect("a page being written is dirty");
            let mut dirty = shared.dirty.lock();
            if let Some(error) = failed.get(&copy.page) {
                // It leaves when its contents are in the log (`unwritable`).
                state.doubtful = true;
                if state.image.is_some() {
                    dirty.make_image(position, copy.page);
                } else {
                    state.writing = false;
                    dirty.hold(position, copy.page);
                }
                (state.redirtied, state.made_anew) = (None, std::mem::take(&mut state.remade));
                drop(dirty);
                drop(state);
                shared.quarantine_page(copy.page, CacheError::Unwritable { page: copy.page, error: error.clone() });
                continue;
            }
            state.writing = false;
            state.made_anew = std::mem::take(&mut state.remade);
            state.dirty = state.redirtied.take();
            dirty.remove(position, copy.page);
            match state.dirty {
                // It is leaving, and its newest changes with it.
                Some(next) if state.image.is_some() => dirty.make_image(next, copy.page),
                Some(next) => dirty.insert(next, copy.page),
                None => state.image = None,
            }
            written.push((copy.page, copy.version));
        }
        if !written.is_empty() {
            shared.grants.written(&written);
        }
        shared.counters.pages_written.fetch_add(written.len() as u64, Ordering::Relaxed);
        shared.counters.batches.fetch_add(1, Ordering::Relaxed);
        if let Some(log) = shared.log.get()
            && !written.is_empty()
        {
            // Best effort: without the notice recovery reads these pages and finds them newer. An ended log shows elsewhere.
            let _ = log.append_notice(&mut encode_written(&written));
        }
        shared.wanted.store(false, Ordering::Release);
        shared.freed.notify_waiters();
        shared.written.notify_waiters();
    }

    pub(super) fn fatal(&self, error: DiskError) -> CacheError {
        if let Some(log) = self.shared.log.get() {
            log.fail(error.clone());
        }
        error.into()
    }
}
