//! Redo of segments: pages in parallel, each with all of a segment's changes at once.
//!
//! Pages of a segment are taken in page order, in parts: while one part's changes are applied by jobs on the worker pool, the next
//! part's pages are read, neighbours together; pages that the log makes anew aren't read. Versions are checked before each change and the
//! layout afterwards (rule 8). A page that fails is given up alone.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::progress::Meter;
use super::report::RecoveryReport;
use super::segment::{Chain, Pages, Segment};
use super::{Recovery, RecoveryError};
use crate::base::runtime::{join_all, run_job};
use crate::base::{BoxFuture, Lsn, PageId, Seams, Writer};
use crate::cache::frame::Pin;
use crate::cache::{Cache, CacheError, Load};
use crate::page::verify::verify_stamped;
use crate::page::{PageFault, header};
use crate::redo::LogReader;
use crate::redo::apply::{Redone, redo_unstamped};
use crate::redo::control::Control;
use crate::redo::forecast::Sample;
use crate::redo::reader::LogGroup;
use crate::redo::record::Group;

/// Most pages of one part.
const PART_PAGES: usize = 1024;

/// Pages of one part, for a cache of so many frames.
pub(super) fn part_pages(frames: usize) -> usize {
    PART_PAGES.min(frames / 8).max(1)
}

/// Redo under way.
pub(super) struct Redo<'a> {
    pub(super) recovery: &'a Recovery,
    /// Where the log ends.
    pub(super) end: Lsn,
    pub(super) report: &'a mut RecoveryReport,
    /// Reading, applying: what was done in which time.
    pub(super) sample: Sample,
}

/// A group that waits for the next segment.
struct OwnedGroup {
    header: Group,
    body: Vec<u8>,
    end: Lsn,
    writer: Writer,
}

impl OwnedGroup {
    fn of(group: &LogGroup<'_>) -> OwnedGroup {
        OwnedGroup { header: group.header, body: group.body.to_vec(), end: group.end, writer: group.writer }
    }

    fn borrow(&self) -> LogGroup<'_> {
        LogGroup { header: self.header, body: &self.body, end: self.end, writer: self.writer }
    }
}

type Loaded = Vec<(Chain, Result<Pin, CacheError>)>;

/// What a job did.
#[derive(Default)]
struct Done {
    applied: u64,
    skipped: u64,
    changed: u64,
    given_up: Vec<(Pin, Chain, CacheError)>,
    too_short: Option<(PageId, Lsn)>,
}

impl Redo<'_> {
    /// Reads the log again, segment by segment, as it doesn't fit into memory at once, and redoes the pages of `window`.
    pub(super) async fn read_again(
        &mut self,
        control: &Control,
        filling: &mut Arc<Segment>,
        window: RangeInclusive<PageId>,
        pages: &mut Pages,
        meter: &mut Meter,
    ) -> Result<(), RecoveryError> {
        let mut reader = LogReader::new(self.recovery.source(control));
        let segment = Arc::get_mut(filling).expect("no job is under way");
        segment.clear(pages);
        segment.begin(control.checkpoint, window);
        loop {
            // A stretch that was read but didn't fit waits here, as owned groups can't be put back into the reader.
            let mut overflow: Vec<OwnedGroup> = Vec::new();
            let segment = Arc::get_mut(filling).expect("no job is under way");
            let more = reader
                .read(|group| {
                    if !overflow.is_empty() || !segment.add(&group, pages)? {
                        overflow.push(OwnedGroup::of(&group));
                    }
                    Ok(())
                })
                .await?;
            for group in &overflow {
                let segment = Arc::get_mut(filling).expect("no job is under way");
                if !segment.add(&group.borrow(), pages).map_err(RecoveryError::Record)? {
                    self.segment(filling, pages, meter).await?;
                    let segment = Arc::get_mut(filling).expect("no job is under way");
                    segment.clear(pages);
                    segment.add(&group.borrow(), pages).map_err(RecoveryError::Record)?;
                }
            }
            if !more {
                break;
            }
        }
        self.segment(filling, pages, meter).await?;
        Arc::get_mut(filling).expect("no job is under way").clear(pages);
        Ok(())
    }

    /// Redoes one segment.
    pub(super) async fn segment(&mut self, segment: &mut Arc<Segment>, pages: &mut Pages, meter: &mut Meter) -> Result<(), RecoveryError> {
        let chains = Arc::get_mut(segment).expect("no job is under way").chains(pages);
        let before = meter.done();
        let mut parts = chains.chunks(part_pages(self.recovery.cache.frames()));
        let seams = &self.recovery.seams;
        let mut loaded = match parts.next() {
            Some(part) => {
                let (loaded, took) = timed(seams, load(self.recovery.cache.clone(), part.to_vec())).await;
                self.sample.reading += took;
                loaded
            }
            None => Vec::new(),
        };
        self.sample.applied_bytes += segment.bytes() as u64;
        let mut finished = 0;
        while !loaded.is_empty() {
            let next = parts.next().map(<[Chain]>::to_vec).unwrap_or_default();
            finished += loaded.len();
            let reading = timed(seams, load(self.recovery.cache.clone(), next));
            let ((done, applying), (read, reading)) = both(timed(seams, self.apply(loaded, segment)), reading).await;
            done?;
            self.sample.applying += applying;
            self.sample.reading += reading;
            loaded = read;
            meter.at(before + (segment.bytes() * finished / chains.len()) as u64);
        }
        meter.at(before + segment.bytes() as u64);
        Ok(())
    }

    /// Applies a part's changes with parallel jobs.
    async fn apply(&mut self, loaded: Loaded, segment: &Arc<Segment>) -> Result<(), RecoveryError> {
        let recovery = self.recovery;
        let mut ready = Vec::with_capacity(loaded.len());
        for (chain, pin) in loaded {
            match pin {
                Ok(pin) => ready.push((chain, pin)),
                Err(why @ (CacheError::Page(_) | CacheError::Disk(_) | CacheError::Redo(_))) => {
                    recovery.cache.hold(chain.page, chain.position, why);
                }
                Err(other) => return Err(other.into()),
            }
        }
        let share = ready.len().div_ceil(recovery.workers.max(1)).max(1);
        let mut jobs: Vec<BoxFuture<Done>> = Vec::new();
        while !ready.is_empty() {
            let part = ready.split_off(ready.len().saturating_sub(share));
            let (cache, segment, end) = (recovery.cache.clone(), segment.clone(), self.end);
            let seams = recovery.seams.clone();
            jobs.push(Box::pin(async move { run_job(&seams, move || redo_pages(&cache, &segment, part, end)).await }));
        }
        for done in join_all(jobs).await {
            self.report.changes_applied += done.applied;
            self.report.changes_skipped += done.skipped;
            self.report.pages_changed += done.changed;
            if let Some((page, redo)) = done.too_short {
                return Err(RecoveryError::LogTooShort { page, redo, end: self.end });
            }
            for (pin, chain, why) in done.given_up {
                recovery.cache.give_up(pin, chain.page, chain.position, why).await;
            }
        }
        Ok(())
    }
}

async fn load(cache: Cache, part: Vec<Chain>) -> Loaded {
    let wanted: Vec<(PageId, Load)> =
        part.iter().map(|chain| (chain.page, if chain.formats { Load::Fresh } else { Load::Contents })).collect();
    part.iter().filter(|chain| chain.formats).for_each(|chain| cache.forgive(chain.page));
    let pins = cache.load_many(&wanted).await;
    part.into_iter().zip(pins).collect()
}

/// What `work` gives, and how long that took.
async fn timed<T>(seams: &Seams, work: impl Future<Output = T>) -> (T, Duration) {
    let started = seams.now();
    let done = work.await;
    (done, seams.now().since(started))
}

/// Drives both futures to their ends.
async fn both<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    let (mut one, mut other) = (std::pin::pin!(one), std::pin::pin!(other));
    let (mut first, mut second) = (None, None);
    std::future::poll_fn(move |context| {
        if first.is_none()
            && let std::task::Poll::Ready(value) = one.as_mut().poll(context)
        {
            first = Some(value);
        }
        if second.is_none()
            && let std::task::Poll::Ready(value) = other.as_mut().poll(context)
        {
            second = Some(value);
        }
        match (first.take(), second.take()) {
            (Some(a), Some(b)) => std::task::Poll::Ready((a, b)),
            (a, b) => {
                (first, second) = (a, b);
                std::task::Poll::Pending
            }
        }
    })
    .await
}

/// The work of one job.
fn redo_pages(cache: &Cache, segment: &Segment, pages: Vec<(Chain, Pin)>, end: Lsn) -> Done {
    let mut done = Done::default();
    for (chain, pin) in pages {
        let (mut applied, mut skipped) = (0, 0);
        let mut too_short = None;
        let outcome = cache.redo(&pin, chain.position, |bytes| {
            let stamp = header::of(bytes);
            if !chain.formats && stamp.thread.get() == segment_thread(segment, &chain) && stamp.redo() > end {
                too_short = Some((chain.page, stamp.redo()));
                return Ok(false);
            }
            if !chain.formats && stamp.version() < chain.written {
                let (expected, found) = (chain.written, stamp.version());
                return Err(PageFault::Stale { page: chain.page, expected, found }.into());
            }
            segment.fetch(&chain);
            let mut version = stamp.version();
            let mut last = None;
            for link in segment.links(&chain) {
                match redo_unstamped(bytes, version, &link.change, link.new)? {
                    Redone::Applied => {
                        applied += 1;
                        version = link.new;
                        last = Some((link.end, link.writer));
                    }
                    Redone::Skipped => skipped += 1,
                }
            }
            if let Some((end, writer)) = last {
                header::stamp(bytes, version, end, writer);
                verify_stamped(bytes, chain.page, cache.volume().tag())?;
            }
            Ok(last.is_some())
        });
        done.applied += applied;
        done.skipped += skipped;
        done.too_short = done.too_short.or(too_short);
        match outcome {
            Ok(changed) => done.changed += u64::from(changed),
            Err(why) => done.given_up.push((pin, chain, why)),
        }
    }
    done
}

fn segment_thread(segment: &Segment, chain: &Chain) -> u16 {
    segment.links(chain).next().map_or(0, |link| link.writer.thread.0)
}
