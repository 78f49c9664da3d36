//! What one cache does with grants and notifications, step by step: the test is the directory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::harness::{Instance, Plan, add, counter, make, make_files, open, read};
use crate::base::limits::PAGE_SIZE;
use crate::base::sim::Sim;
use crate::base::{BoxFuture, Lsn, PageId, Scn, ThreadId, checksum};
use crate::cache::wait::{Footprint, yield_now};
use crate::cache::{CacheError, Contents, Grant, Grants, Halt, Load, Mode};
use crate::disk::Buffer;
use crate::disk::memory::{Fault, FaultKind, MemoryMedia, Operation};
use crate::page::header;
use crate::page::superblock::PAGES_AT;
use crate::redo::LogError;

const PAGE: PageId = PageId(3);
const FRAMES: usize = 24;

type Answer = Result<Grant, CacheError>;

type Asked = (Mode, bool, oneshot::Sender<Answer>);

/// What a script answers, and what it hears.
#[derive(Default)]
struct Script {
    /// Requests that nobody has answered: the mode, and whether a copy is there.
    asked: Mutex<Vec<Asked>>,
    /// Pages that the test answers by hand; all others are granted from disk at once.
    by_hand: Mutex<Vec<PageId>>,
    news: Notify,
    written: Mutex<BTreeMap<PageId, Scn>>,
    released: Mutex<Vec<PageId>>,
    wants: Mutex<Vec<PageId>>,
}

struct Seat(Arc<Script>);

impl Grants for Seat {
    fn acquire(&self, page: PageId, mode: Mode, have: bool) -> BoxFuture<Answer> {
        if !self.0.by_hand.lock().contains(&page) {
            return Box::pin(std::future::ready(Ok(from_disk(Mode::Exclusive))));
        }
        let (tell, answer) = oneshot::channel();
        self.0.asked.lock().push((mode, have, tell));
        self.0.news.notify_one();
        Box::pin(async move { answer.await.unwrap_or(Err(LogError::Closed.into())) })
    }

    fn released(&self, page: PageId) {
        self.0.released.lock().push(page);
    }

    fn written(&self, pages: &[(PageId, Scn)]) {
        self.0.written.lock().extend(pages.iter().copied());
    }

    fn want_written(&self, page: PageId) {
        self.0.wants.lock().push(page);
    }
}

fn from_disk(mode: Mode) -> Grant {
    Grant { mode, contents: Contents::Disk, unwritten: false }
}

impl Script {
    /// The next request.
    async fn next(&self) -> Asked {
        loop {
            if let Some(asked) = self.asked.lock().pop() {
                return asked;
            }
            self.news.notified().await;
        }
    }
}

/// One instance, whose directory is a script.
struct World {
    instance: Instance,
    script: Arc<Script>,
    media: MemoryMedia,
}

impl World {
    /// Starts `work` in a task; the result says when it has ended.
    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> oneshot::Receiver<T> {
        let (tell, done) = oneshot::channel();
        self.instance.cache.seams().spawn(
            "test",
            Box::pin(async move {
                drop(tell.send(work.await));
            }),
        );
        done
    }

    /// A task that reads [`PAGE`].
    fn read(&self) -> oneshot::Receiver<(u64, Scn)> {
        let cache = self.instance.cache.clone();
        self.spawn(async move { read(&cache, PAGE).await })
    }

    /// A task that adds one to [`PAGE`].
    fn add(&self) -> oneshot::Receiver<Scn> {
        let cache = self.instance.cache.clone();
        self.spawn(async move { add(&cache, &[PAGE], |_| ()).await.scn })
    }

    async fn pause(&self, ms: u64) {
        self.instance.cache.seams().sleep(Duration::from_millis(ms)).await;
    }

    fn dirty_from(&self) -> Option<Lsn> {
        self.instance.cache.dirty().1
    }

    fn home(&self) -> Vec<u8> {
        self.media.peek("data0", PAGES_AT + PAGE.0 * PAGE_SIZE as u64, PAGE_SIZE)
    }

    fn by_hand(&self) {
        self.script.by_hand.lock().push(PAGE);
    }

    async fn yields(&self, to: Mode) -> crate::cache::Yielded {
        self.instance.cache.yield_page(PAGE, to, true).await.unwrap().expect("it is held")
    }

    async fn checkpoint(&self) -> (Lsn, Lsn) {
        let report = self.instance.checkpointer.checkpoint().await.unwrap();
        (report.from, report.to)
    }
}

fn play<F: Future<Output = ()>>(seed: u64, test: impl FnOnce(Arc<World>) -> F) {
    let sim = Sim::new(seed);
    let media = MemoryMedia::new(seed);
    let plan = Plan { instances: 1, frames: FRAMES, pages: 64 };
    sim.run(async {
        make_files(&sim, &media, plan).await;
        let script = Arc::new(Script::default());
        let instance = open(&sim, &media, ThreadId(1), plan, Arc::new(Seat(script.clone()))).await;
        let world = Arc::new(World { instance, script, media: media.clone() });
        make(&world.instance.cache, PAGE).await;
        test(world).await;
    });
}

/// A newer copy of `page`, as another instance would have changed it.
fn newer(copy: &Buffer, by: u64) -> Buffer {
    let mut newer = Buffer::copy_of(copy);
    let version = header::of(&newer).version();
    let header = header::of_mut(&mut newer);
    header.version.set(version.0 + by);
    header.thread.set(2);
    checksum::seal(&mut newer);
    newer
}

fn copy(copy: Buffer, mode: Mode, unwritten: bool) -> Answer {
    Ok(Grant { mode, contents: Contents::Copy(copy), unwritten })
}

#[test]
fn what_leaves_is_in_the_own_log_first_and_stays_as_an_image() {
    for seed in 0..10 {
        play(seed, async |world| {
            let position = world.dirty_from().unwrap();
            let log = world.instance.log.clone();
            assert!(log.durable() < log.appended(), "the page's redo isn't durable yet");
            let appended = log.appended();
            let yielded = world.yields(Mode::None).await;
            assert!(log.durable() >= appended, "rule 7");
            assert!(yielded.dirty && yielded.image && yielded.unwritten);
            let copy_of = yielded.copy.unwrap();
            assert_eq!(counter(&copy_of), 0);
            assert!(world.instance.cache.read(PAGE).is_err(), "an image isn't read");
            // The checkpoint asks for it, doesn't wait for it, and doesn't pass it.
            assert_eq!(world.checkpoint().await.1, position);
            assert_eq!(*world.script.wants.lock(), [PAGE]);
            assert!(world.script.written.lock().is_empty(), "an image isn't written");
            // A version that is older says nothing; the image's own does.
            world.instance.cache.written_elsewhere(PAGE, Scn(yielded.version.0 - 1));
            assert_eq!(world.dirty_from(), Some(position));
            world.instance.cache.written_elsewhere(PAGE, yielded.version);
            assert_eq!(world.dirty_from(), None);
            // The checkpoint that fell short goes on by itself.
            world.pause(100).await;
            assert!(log.checkpoint() > position);
            assert!(world.instance.cache.yield_page(PAGE, Mode::None, true).await.unwrap().is_none());
        });
    }
}

#[test]
fn a_page_that_comes_back_keeps_its_oldest_position_and_no_claim_to_be_made_anew() {
    play(1, async |world| {
        let cache = &world.instance.cache;
        let position = world.dirty_from().unwrap();
        let yielded = world.yields(Mode::None).await;
        make(cache, PageId(4)).await;
        world.by_hand();
        let adding = world.add();
        let (mode, have, tell) = world.script.next().await;
        assert_eq!((mode, have), (Mode::Exclusive, false));
        let back = newer(&yielded.copy.unwrap(), 500);
        drop(tell.send(copy(back, Mode::Exclusive, true)));
        let version = adding.await.unwrap();
        assert!(version.0 > yielded.version.0 + 500, "the clock has moved with the copy");
        assert_eq!(world.dirty_from(), Some(position), "rule 9");
        assert!(state_of(&world, |state| !state.made_anew && state.image.is_none()));
        // A late notice of the version that was given away changes nothing.
        cache.written_elsewhere(PAGE, yielded.version);
        assert_eq!(world.dirty_from(), Some(position));
        world.checkpoint().await;
        assert_eq!(world.script.written.lock()[&PAGE], version);
        assert_eq!(header::of(&world.home()).version(), version);
    });
}

#[test]
fn a_reader_of_an_unwritten_copy_keeps_it_until_it_is_written() {
    play(2, async |world| {
        let cache = &world.instance.cache;
        world.checkpoint().await;
        let yielded = world.yields(Mode::None).await;
        assert!(!yielded.dirty && !yielded.image && !yielded.unwritten, "it was written");
        world.by_hand();
        let reading = world.read();
        let (_, _, tell) = world.script.next().await;
        let unwritten = newer(&yielded.copy.unwrap(), 5);
        let version = header::of(&unwritten).version();
        drop(tell.send(copy(unwritten, Mode::Shared, true)));
        assert_eq!(reading.await.unwrap().1, version);
        assert_eq!(cache.dirty(), (0, None), "the write is owed elsewhere");
        let others: Vec<PageId> = (10..10 + 2 * FRAMES as u64).map(PageId).collect();
        for page in others {
            make(cache, page).await;
        }
        assert!(cache.read(PAGE).is_ok(), "it isn't evicted");
        assert!(!world.script.released.lock().contains(&PAGE));
        cache.written_elsewhere(PAGE, Scn(version.0 - 1));
        for page in (10..10 + 2 * FRAMES as u64).map(PageId) {
            make(cache, page).await;
        }
        assert!(cache.read(PAGE).is_ok(), "an older version doesn't count");
        cache.written_elsewhere(PAGE, version);
        for page in (10..10 + 2 * FRAMES as u64).map(PageId) {
            make(cache, page).await;
        }
        assert!(world.script.released.lock().contains(&PAGE), "now it is");
    });
}

#[test]
fn when_only_such_frames_are_left_their_writes_are_asked_for() {
    play(3, async |world| {
        let cache = world.instance.cache.clone();
        let pages: Vec<PageId> = (10..10 + FRAMES as u64).map(PageId).collect();
        let mut images = Vec::new();
        world.checkpoint().await;
        drop(world.yields(Mode::None).await);
        for page in &pages {
            make(&cache, *page).await;
            images.push(cache.yield_page(*page, Mode::None, false).await.unwrap().unwrap());
        }
        let another = cache.clone();
        let mut making = world.spawn(async move { make(&another, PageId(5)).await });
        world.pause(1000).await;
        assert!(making.try_recv().is_err(), "there is no frame");
        let wants = world.script.wants.lock().len();
        assert!((1..16 * 11).contains(&wants), "it asks, and not all the time: {wants}");
        assert!(world.script.wants.lock().iter().all(|page| pages.contains(page)));
        cache.written_elsewhere(pages[0], images[0].version);
        making.await.unwrap();
    });
}

#[test]
fn a_grant_that_was_answered_is_seen_by_a_yield_before_its_load() {
    for seed in 0..20 {
        play(seed, async |world| {
            let cache = &world.instance.cache;
            world.checkpoint().await;
            drop(world.yields(Mode::None).await);
            world.by_hand();
            let mut reading = world.read();
            let (mode, _, tell) = world.script.next().await;
            assert_eq!(mode, Mode::Shared);
            assert!(cache.yield_page(PAGE, Mode::None, true).await.unwrap().is_none(), "nothing was granted yet");
            drop(tell.send(Ok(from_disk(Mode::Exclusive))));
            // In the same moment, or while it is being read.
            for _ in 0..seed {
                yield_now().await;
            }
            let yielded = cache.yield_page(PAGE, Mode::None, true).await.unwrap().expect("it was granted");
            assert!(!yielded.dirty && !yielded.image);
            // What is read after that doesn't count: the page is asked for again, unless it was read by then.
            if yielded.copy.is_none() {
                assert!(reading.try_recv().is_err());
                let (_, have, tell) = world.script.next().await;
                assert!(!have);
                drop(tell.send(Ok(from_disk(Mode::Shared))));
            }
            assert_eq!(reading.await.unwrap().0, 0);
        });
    }
}

#[test]
fn what_is_read_ahead_and_given_away_meanwhile_is_not_used() {
    play(10, async |world| {
        let cache = world.instance.cache.clone();
        world.checkpoint().await;
        drop(world.yields(Mode::None).await);
        world.by_hand();
        let ahead = cache.clone();
        let reading = world.spawn(async move { ahead.read_ahead(&[PAGE]).await });
        let (mode, _, tell) = world.script.next().await;
        assert_eq!(mode, Mode::Shared, "a hint takes nothing from readers elsewhere");
        drop(tell.send(Ok(from_disk(Mode::Shared))));
        assert!(world.yields(Mode::None).await.copy.is_none(), "nobody waits for what nobody asked for");
        reading.await.unwrap();
        assert!(cache.read(PAGE).is_err(), "nothing is known of what was read");
    });
}

#[test]
fn an_upgrade_uses_the_copy_that_is_there_and_one_that_was_taken_away_meanwhile_comes_anew() {
    play(4, async |world| {
        let cache = &world.instance.cache;
        world.checkpoint().await;
        drop(world.yields(Mode::Shared).await);
        world.by_hand();
        let adding = world.add();
        let (mode, have, tell) = world.script.next().await;
        assert_eq!((mode, have), (Mode::Exclusive, true));
        let reads = cache.counters().pages_read.load(Ordering::Relaxed);
        drop(tell.send(Ok(Grant { mode: Mode::Exclusive, contents: Contents::Own, unwritten: false })));
        adding.await.unwrap();
        assert_eq!(cache.counters().pages_read.load(Ordering::Relaxed), reads);
        // Once more, and another instance is first.
        let owned = world.yields(Mode::Shared).await;
        assert!(owned.dirty && !owned.image, "it goes on owing the write");
        let adding = world.add();
        let (_, have, tell) = world.script.next().await;
        assert!(have);
        let taken = world.yields(Mode::None).await;
        assert!(taken.dirty && taken.image);
        drop(tell.send(copy(newer(&taken.copy.unwrap(), 9), Mode::Exclusive, true)));
        assert!(adding.await.unwrap().0 > taken.version.0 + 9);
        let (dirty, from) = cache.dirty();
        assert!(dirty == 1 && from.is_some());
    });
}

#[test]
fn a_yield_waits_for_a_write_in_flight_and_none_begins_after_it() {
    for seed in 0..20 {
        play(seed, async |world| {
            let cache = world.instance.cache.clone();
            let writing = world.spawn({
                let world = world.clone();
                async move { world.checkpoint().await }
            });
            while !state_of(&world, |state| state.writing) {
                yield_now().await;
            }
            if seed % 2 == 0 {
                // Changed since: what is written isn't the newest.
                add(&cache, &[PAGE], |_| ()).await;
            }
            let yielded = world.yields(Mode::None).await;
            let home = header::of(&world.home()).version();
            if seed % 2 == 0 {
                assert!(yielded.image && home < yielded.version);
            } else {
                assert!(!yielded.image && home == yielded.version, "the write was durable first");
            }
            let written = world.script.written.lock().clone();
            assert_eq!(written[&PAGE], home);
            writing.await.unwrap();
            world.checkpoint().await;
            assert_eq!(*world.script.written.lock(), written, "nothing is written after it was given away");
        });
    }
}

fn state_of<T>(world: &World, look: impl FnOnce(&crate::cache::frame::WriteState) -> T) -> T {
    let shared = &world.instance.cache.shared;
    look(&shared.frames[shared.table.get(PAGE).expect("it has a frame") as usize].state.lock())
}

#[test]
fn what_is_owed_is_written_when_somebody_waits_for_it_beside_readers_too() {
    play(5, async |world| {
        let cache = &world.instance.cache;
        let shared = world.yields(Mode::Shared).await;
        assert!(shared.dirty && !shared.image);
        cache.write_soon(PAGE);
        world.pause(100).await;
        assert_eq!(world.script.written.lock().get(&PAGE), Some(&shared.version));
        assert_eq!(cache.dirty(), (0, None));
        cache.write_soon(PAGE);
        cache.write_soon(PageId(60));
        world.pause(100).await;
        assert_eq!(world.script.written.lock().len(), 1, "what isn't dirty isn't written");
    });
}

#[test]
fn a_transfer_that_never_arrived_is_undone() {
    play(6, async |world| {
        let cache = &world.instance.cache;
        let position = world.dirty_from();
        assert!(!cache.reinstate(PAGE), "it is held");
        drop(world.yields(Mode::None).await);
        assert!(cache.reinstate(PAGE));
        assert_eq!(world.dirty_from(), position);
        assert_eq!(read(cache, PAGE).await.0, 0);
        add(cache, &[PAGE], |_| ()).await;
        world.checkpoint().await;
        assert_eq!(counter(&world.home()), 1);
        drop(world.yields(Mode::None).await);
        assert!(!cache.reinstate(PAGE), "what was clean is at home");
    });
}

#[test]
fn a_damaged_copy_is_not_taken_for_the_page() {
    play(7, async |world| {
        let cache = world.instance.cache.clone();
        world.checkpoint().await;
        let yielded = world.yields(Mode::None).await;
        world.by_hand();
        let mut bad = newer(&yielded.copy.unwrap(), 1);
        bad[5000] ^= 1;
        let loading = cache.clone();
        let outcome = world.spawn(async move { loading.load(PAGE, Mode::Shared, Load::Contents, None).await.map(drop) });
        let (_, _, tell) = world.script.next().await;
        drop(tell.send(copy(bad, Mode::Shared, false)));
        assert!(matches!(outcome.await.unwrap(), Err(CacheError::Page(_))), "rule 16");
        assert_eq!(cache.quarantined().len(), 1);
        assert!(cache.read(PAGE).is_err());
    });
}

#[test]
fn a_page_that_can_not_be_written_here_is_saved_given_away_and_written_there() {
    for seed in 0..10 {
        play(seed, async |world| {
            let cache = &world.instance.cache;
            let at = PAGES_AT + PAGE.0 * PAGE_SIZE as u64;
            let broken = Fault::new(FaultKind::WriteError).on(Operation::Write).file("data0").range(at..at + PAGE_SIZE as u64);
            world.media.inject(broken.forever().disk(world.instance.disk));
            let leaving = seed % 2 == 0;
            let writing = world.spawn({
                let world = world.clone();
                async move { world.checkpoint().await }
            });
            while leaving && !state_of(&world, |state| state.writing) {
                yield_now().await;
            }
            if !leaving {
                writing.await.unwrap();
            }
            let yielded = world.yields(Mode::None).await;
            assert!(yielded.dirty && yielded.image);
            assert!(matches!(cache.quarantined()[..], [(PAGE, CacheError::Unwritable { .. })]));
            let sent = yielded.copy.unwrap();
            assert_eq!((counter(&sent), header::of(&sent).version()), (0, yielded.version));
            assert!(header::of(&sent).redo() <= world.instance.log.durable(), "what was saved in the log counts as a change");
            // It comes back unwritten: held as before.
            world.by_hand();
            let adding = world.add();
            let (_, _, tell) = world.script.next().await;
            drop(tell.send(copy(newer(&sent, 3), Mode::Exclusive, true)));
            adding.await.unwrap();
            assert!(cache.is_unwritable(PAGE));
            // It goes again, and another instance writes it.
            let again = world.yields(Mode::None).await;
            assert!(!cache.is_unwritable(PAGE) && again.image);
            cache.written_elsewhere(PAGE, again.version);
            assert_eq!((cache.dirty(), cache.quarantined().len()), ((0, None), 0));
        });
    }
}

#[test]
fn the_page_that_just_came_stays_for_one_try_and_no_longer() {
    play(8, async |world| {
        let cache = world.instance.cache.clone();
        make(&cache, PageId(4)).await;
        world.checkpoint().await;
        for page in [PAGE, PageId(4)] {
            drop(cache.yield_page(page, Mode::None, false).await.unwrap());
            world.script.by_hand.lock().push(page);
        }
        let both = cache.clone();
        let reading = world.spawn(async move {
            let once = || -> Result<u64, Halt> { Ok(counter(&both.read(PAGE)?) + counter(&both.read(PageId(4))?)) };
            both.run(Footprint::Path, once).await.unwrap()
        });
        let (_, _, tell) = world.script.next().await;
        drop(tell.send(Ok(from_disk(Mode::Shared))));
        let (_, _, second) = world.script.next().await;
        // It waits for the other page by now, and holds nothing.
        drop(world.yields(Mode::None).await);
        drop(second.send(Ok(from_disk(Mode::Shared))));
        let (_, _, tell) = world.script.next().await;
        drop(tell.send(Ok(from_disk(Mode::Shared))));
        assert_eq!(reading.await.unwrap(), 0);
    });
}

#[test]
fn a_yield_waits_for_a_hold_and_new_holds_for_the_yield() {
    play(9, async |world| {
        let cache = world.instance.cache.clone();
        world.checkpoint().await;
        let mut pin = cache.load(PAGE, Mode::Exclusive, Load::Contents, None).await.unwrap();
        let yielding = world.spawn({
            let world = world.clone();
            async move { world.yields(Mode::None).await }
        });
        world.pause(50).await;
        assert!(cache.read(PAGE).is_ok(), "it is held");
        assert!(cache.hold_resident(PAGE, Mode::Shared, Load::Contents).is_none(), "nobody gets in before the yield");
        world.by_hand();
        let reading = world.read();
        reading.await.expect("what is there may be used");
        let loading = cache.clone();
        let loaded = world.spawn(async move { loading.load(PAGE, Mode::Shared, Load::Contents, None).await.map(drop) });
        world.pause(50).await;
        assert!(world.script.asked.lock().is_empty());
        pin.let_go();
        assert!(yielding.await.unwrap().copy.is_some());
        let (mode, have, tell) = world.script.next().await;
        assert_eq!((mode, have), (Mode::Shared, false));
        drop(tell.send(Ok(from_disk(Mode::Shared))));
        loaded.await.unwrap().unwrap();
    });
}
