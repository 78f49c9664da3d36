//! Misses: getting pages into frames.
//!
//! One load per page at a time; others wait for it. A load asks the directory for the page (`asking`), unless the frame lacks only what is at home, and
//! puts what comes into the frame that has, or had, the page, else into a free one (`free`). Neighbouring pages asked for together
//! ([`Cache::load_many`]) are asked for at once and read with one I/O as far as their contents are at home. Every page that enters is verified (rule 16); one
//! that fails is quarantined and stays an error for everyone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::asking::{LoadEntry, Place, Taken, Want};
use super::frame::Pin;
use super::free::FreeFrame;
use super::grants::Mode;
use super::wait::{CacheError, Load};
use super::{Cache, CacheShared};
use crate::base::limits::PAGE_SIZE;
use crate::base::runtime::join_all;
use crate::base::{BoxFuture, PageId};
use crate::disk::Buffer;
use crate::page::header;
use crate::page::{PageFault, verify};
use crate::redo::LogError;

/// Most neighbouring pages read with one I/O.
const RUN_MAX: usize = 16;
/// Loads begun together, in multiples of the I/O depth: enough that the last ones' end doesn't leave the device idle for long.
pub const PARTS_AHEAD: usize = 16;

/// Loads under way.
pub(crate) type Loading = BTreeMap<PageId, Arc<LoadEntry>>;

/// Ends a load under way, however its future ends.
struct LoadGuard {
    shared: Arc<CacheShared>,
    page: PageId,
    entry: Arc<LoadEntry>,
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.shared.loading.lock().remove(&self.page);
        self.entry.over.notify_waiters();
    }
}

/// What a load found of its page.
enum Found {
    /// All that was asked for.
    Ready(Pin),
    /// The grant, without contents: they are at home.
    Granted(Taken),
    /// A frame without enough of a grant.
    Weak(Pin),
    /// No frame.
    Nothing,
}

/// A page of a run, and what became of it.
type Outcome = Result<Option<Pin>, CacheError>;

impl Cache {
    /// Makes `page` resident in at least `mode`, pins and holds it. `spare`: a frame to be used when the page has none, so that none is waited for.
    ///
    /// # Errors
    /// Why the page can't be had.
    pub(crate) async fn load(&self, page: PageId, mode: Mode, load: Load, mut spare: Option<FreeFrame>) -> Result<Pin, CacheError> {
        loop {
            if let Some(pin) = self.hold_resident(page, mode, load) {
                return Ok(pin);
            }
            self.shared.admit(page, load)?;
            let Some(guard) = self.begin_load(page).await else { continue };
            let cache = self.clone();
            let frame = spare.take();
            let loaded = self.to_its_end(async move {
                let pin = cache.load_one(&guard, mode, load, frame).await;
                drop(guard);
                pin
            });
            if let Some(pin) = loaded.await?? {
                return Ok(pin);
            }
        }
    }

    /// Runs `work` in a task of its own: whoever wants the pages may be dropped midway, but their frames must not come free while their buffers
    /// are with the disk, and what was granted must be taken in.
    async fn to_its_end<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, CacheError> {
        let (tell, done) = tokio::sync::oneshot::channel();
        let task = async move {
            // Whoever asked may have gone.
            let _ = tell.send(work.await);
        };
        self.shared.seams.spawn("page load", Box::pin(task));
        // The task is dropped only with its runtime.
        done.await.map_err(|_| LogError::Closed.into())
    }

    /// One try to get the page of `guard`; None when it was given away again before it was there.
    async fn load_one(&self, guard: &LoadGuard, mode: Mode, load: Load, spare: Option<FreeFrame>) -> Outcome {
        let (shared, page) = (&self.shared, guard.page);
        let taken = match shared.find(page, mode, load).await {
            Found::Ready(pin) => return Ok(Some(pin)),
            Found::Granted(taken) => taken,
            Found::Weak(pin) => guard.entry.ask(shared, page, Want { mode, load, hold: true, place: Place::Own(pin) }).await?,
            Found::Nothing => {
                let frame = match spare {
                    Some(frame) => frame,
                    None => shared.take_frame().await?,
                };
                guard.entry.ask(shared, page, Want { mode, load, hold: true, place: Place::Free(frame) }).await?
            }
        };
        let Taken { pin, read } = taken;
        let Some(buffer) = read else { return Ok(Some(pin)) };
        shared.count_read(1);
        let (buffer, outcome) = shared.volume.read(page, buffer).await;
        shared.enter(page, pin, buffer, load, outcome.map_err(CacheError::from))
    }

    /// Makes all of `pages` resident, held exclusively, as far as they can be, and pins them. Results are in the order given; neighbours
    /// in ascending order are read together, up to the I/O depth at once.
    pub(crate) async fn load_many(&self, pages: &[(PageId, Load)]) -> Vec<Result<Pin, CacheError>> {
        let mut results = Vec::with_capacity(pages.len());
        for part in pages.chunks(self.shared.io_depth.max(1) * PARTS_AHEAD) {
            self.load_runs(part, Mode::Exclusive).await;
            for (page, load) in part {
                let pin = self.load(*page, Mode::Exclusive, *load, None).await;
                results.push(pin.map(|mut pin| {
                    pin.let_go();
                    pin
                }));
            }
        }
        results
    }

    /// Reads those of `pages` that aren't resident, as a hint: neighbours together, at most a sixteenth of the cache. Errors come up again
    /// when a page is needed.
    pub async fn read_ahead(&self, pages: &[PageId]) {
        let most = self.frames() / 16;
        let mut absent: Vec<(PageId, Load)> =
            pages.iter().filter(|page| self.shared.table.get(**page).is_none()).take(most).map(|page| (*page, Load::Contents)).collect();
        absent.sort_unstable();
        for part in absent.chunks(self.shared.io_depth.max(1) * PARTS_AHEAD) {
            self.load_runs(part, Mode::Shared).await;
        }
    }

    /// Loads the runs of neighbours in `part`, as far as that needs nobody else's load.
    async fn load_runs(&self, part: &[(PageId, Load)], mode: Mode) {
        let mut runs: Vec<BoxFuture<()>> = Vec::new();
        let mut at = 0;
        while at < part.len() {
            let (first, load) = part[at];
            let mut count = 1;
            while at + count < part.len() && count < RUN_MAX && part[at + count] == (PageId(first.0 + count as u64), load) {
                count += 1;
            }
            let cache = self.clone();
            runs.push(Box::pin(async move { cache.load_run(first, count, mode, load).await }));
            at += count;
        }
        join_all(runs).await;
    }

    /// Reads `count` neighbours if none of them is resident or being loaded; otherwise leaves it to whoever needs them.
    async fn load_run(&self, first: PageId, count: usize, mode: Mode, load: Load) {
        let pages = (0..count as u64).map(|offset| PageId(first.0 + offset));
        let mut guards = Vec::new();
        for page in pages {
            let absent = self.shared.table.get(page).is_none() && self.shared.admit(page, load).is_ok();
            let guard = if absent { self.try_begin_load(page).ok() } else { None };
            let Some(guard) = guard else { return };
            guards.push(guard);
        }
        // Errors are kept in quarantine, or come up again when the page is loaded by itself.
        let cache = self.clone();
        drop(self.to_its_end(async move { cache.read_run(guards, mode, load).await }).await);
    }

    /// Becomes the one that loads `page`, or waits until another load of it is over.
    async fn begin_load(&self, page: PageId) -> Option<LoadGuard> {
        match self.try_begin_load(page) {
            Ok(guard) => Some(guard),
            Err(entry) => {
                let ended = entry.over.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if self.shared.loading.lock().get(&page).is_some_and(|now| Arc::ptr_eq(now, &entry)) {
                    ended.await;
                }
                None
            }
        }
    }

    fn try_begin_load(&self, page: PageId) -> Result<LoadGuard, Arc<LoadEntry>> {
        let mut loading = self.shared.loading.lock();
        if let Some(entry) = loading.get(&page) {
            return Err(entry.clone());
        }
        let entry = Arc::new(LoadEntry::default());
        loading.insert(page, entry.clone());
        Ok(LoadGuard { shared: self.shared.clone(), page, entry })
    }

    /// Gets the neighbours whose loads `guards` are: asks for all at once, reads together what is at home.
    async fn read_run(&self, guards: Vec<LoadGuard>, mode: Mode, load: Load) -> Result<(), CacheError> {
        let shared = &self.shared;
        let mut frames = Vec::with_capacity(guards.len());
        for _ in &guards {
            frames.push(shared.take_frame().await?);
        }
        let asked = guards.iter().zip(frames).map(|(guard, frame)| {
            let (shared, page, entry) = (shared.clone(), guard.page, guard.entry.clone());
            let ask = async move {
                // A load that ended before this one began may have left it.
                let absent = shared.table.get(page).is_none();
                let want = Want { mode, load, hold: false, place: Place::Free(frame) };
                if absent { entry.ask(&shared, page, want).await.ok() } else { None }
            };
            Box::pin(ask) as BoxFuture<Option<Taken>>
        });
        let mut at_home: Vec<(PageId, Pin, Buffer)> = Vec::new();
        let mut reads: Vec<BoxFuture<()>> = Vec::new();
        for (guard, taken) in guards.iter().zip(join_all(asked.collect()).await) {
            let next = match taken {
                Some(Taken { pin, read: Some(buffer) }) => Some((guard.page, pin, buffer)),
                _ => None,
            };
            let ends = next.as_ref().is_none_or(|(page, ..)| at_home.last().is_some_and(|(last, ..)| last.0 + 1 != page.0));
            if ends && !at_home.is_empty() {
                reads.push(read_stretch(shared.clone(), std::mem::take(&mut at_home)));
            }
            at_home.extend(next);
        }
        if !at_home.is_empty() {
            reads.push(read_stretch(shared.clone(), at_home));
        }
        join_all(reads).await;
        Ok(())
    }
}

/// Reads neighbours with one I/O: a page into its frame's own buffer, several into one from which they are copied.
fn read_stretch(shared: Arc<CacheShared>, mut pages: Vec<(PageId, Pin, Buffer)>) -> BoxFuture<()> {
    Box::pin(async move {
        shared.count_read(pages.len());
        let first = pages[0].0;
        if pages.len() == 1 {
            let Some((page, pin, buffer)) = pages.pop() else { return };
            let (buffer, outcome) = shared.volume.read(page, buffer).await;
            // Kept in quarantine, or comes up again.
            drop(shared.enter(page, pin, buffer, Load::Contents, outcome.map_err(CacheError::from)));
            return;
        }
        let (run, outcome) = shared.volume.read(first, Buffer::zeroed(pages.len() * PAGE_SIZE)).await;
        let outcome = outcome.map_err(CacheError::from);
        for (index, (page, pin, mut buffer)) in pages.into_iter().enumerate() {
            if outcome.is_ok() {
                buffer.copy_from_slice(&run[index * PAGE_SIZE..(index + 1) * PAGE_SIZE]);
            }
            drop(shared.enter(page, pin, buffer, Load::Contents, outcome.clone()));
        }
    })
}

impl CacheShared {
    /// Refuses a quarantined page. One that was merely found damaged is let through when its contents are to be replaced: that heals it. One that can't be
    /// written from here and was given away comes back like any other.
    fn admit(&self, page: PageId, load: Load) -> Result<(), CacheError> {
        let mut quarantine = self.quarantine.lock();
        let Some(why) = quarantine.get(&page) else { return Ok(()) };
        if matches!(why, CacheError::Unwritable { .. }) && self.table.get(page).is_some() {
            return Ok(());
        }
        let healing = load == Load::Fresh && matches!(why, CacheError::Page(_)) && !self.dirty.lock().is_held(page);
        if !healing {
            return Err(why.clone());
        }
        quarantine.remove(&page);
        Ok(())
    }

    /// What there is of `page`, whose load the caller is.
    async fn find(self: &Arc<Self>, page: PageId, mode: Mode, load: Load) -> Found {
        while let Some(number) = self.table.get(page) {
            let frame = &self.frames[number as usize];
            let going = self.yielded.notified();
            tokio::pin!(going);
            going.as_mut().enable();
            {
                let mut body = frame.body.write();
                if body.id != page {
                    continue;
                }
                let pin = Pin::new(self, number);
                if body.held_as() < mode {
                    return Found::Weak(pin);
                }
                if frame.yielding.load(Ordering::SeqCst) == 0 {
                    if body.serves(mode, load) {
                        return Found::Ready(pin.hold());
                    }
                    // Held well enough, but without contents.
                    let read = body.bytes.take();
                    (body.granted, body.mode, body.fresh) = (body.held_as(), Mode::None, false);
                    return Found::Granted(Taken { pin: pin.hold(), read });
                }
            }
            going.await;
        }
        Found::Nothing
    }

    fn count_read(&self, pages: usize) {
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        self.counters.pages_read.fetch_add(pages as u64, Ordering::Relaxed);
    }

    /// Puts what was read of a page into its frame, which `pin` pins. None when it was given away meanwhile.
    fn enter(&self, page: PageId, pin: Pin, bytes: Buffer, load: Load, outcome: Result<(), CacheError>) -> Outcome {
        match self.put_read(page, &pin, bytes, load, outcome) {
            Ok(usable) => Ok(usable.then_some(pin)),
            Err(error) => {
                self.drop_unread(page, pin);
                Err(error)
            }
        }
    }

    /// Makes sure that `bytes` are `page` as it must be; quarantines it otherwise.
    pub(crate) fn check(&self, page: PageId, bytes: &[u8]) -> Result<(), CacheError> {
        let whole = verify(bytes, page, self.volume.tag());
        let (expected, found) = (self.expected.lock().remove(&page), header::of(bytes).version());
        let fault = match (whole, expected) {
            (Err(fault), _) => fault,
            (Ok(()), Some(expected)) if found < expected => PageFault::Stale { page, expected, found },
            (Ok(()), _) => return Ok(()),
        };
        let why = CacheError::Page(fault);
        self.quarantine_page(page, why.clone());
        Err(why)
    }
}
