//! Counters in random pages, added to by random groups of several instances with few frames: at each step the copies of a page agree with what was
//! committed, and the logs keep what they must; at the end nothing was lost.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::harness::{Cluster, Plan, add, counter, make, read};
use crate::base::limits::PAGE_SIZE;
use crate::base::sim::Sim;
use crate::base::{Instant, Lsn, PageId, Random, Scn};
use crate::cache::Mode;
use crate::cache::frame::WriteState;
use crate::disk::memory::MemoryMedia;
use crate::page::header;
use crate::page::superblock::PAGES_AT;

/// What was committed.
#[derive(Default)]
struct Record {
    /// Version and counter of each page.
    newest: BTreeMap<PageId, (Scn, u64)>,
    /// Of each instance, its groups that may not be durable at home: where they end, and their pages' version.
    groups: Vec<VecDeque<(Lsn, Vec<PageId>, Scn)>>,
}

impl Record {
    fn committed(&mut self, instance: usize, pages: &[PageId], version: Scn, end: Lsn) {
        for page in pages {
            let (newest, counter) = self.newest.entry(*page).or_default();
            assert!(*newest < version, "{page} goes from {newest} to {version}");
            (*newest, *counter) = (version, *counter + 1);
        }
        self.groups[instance].push_back((end, pages.to_vec(), version));
    }
}

/// Modes, versions and checkpoints at this moment.
fn check(cluster: &Cluster, record: &mut Record) {
    let mut modes: BTreeMap<PageId, Vec<Mode>> = BTreeMap::new();
    for (number, instance) in cluster.instances.iter().enumerate() {
        for frame in &instance.cache.shared.frames {
            let body = frame.body.try_read().expect("no latch is held between two steps");
            if body.held_as() > Mode::None {
                modes.entry(body.id).or_default().push(body.held_as());
            }
            if body.mode > Mode::None && !body.fresh {
                let (version, counter) = (header::of(body.page()).version(), counter(body.page()));
                let expected = record.newest.get(&body.id).copied().unwrap_or_default();
                assert_eq!((version, counter + 1), expected, "{} at instance {number}", body.id);
            }
            let state = frame.state.lock();
            assert!(state.image.is_none() || state.dirty.is_some(), "an image holds a position");
            assert!(body.id.is_some() || state.dirty.is_none() && !state.unwritten, "nothing is lost with a frame");
        }
        let durable = cluster.directory.durable.lock();
        let groups = &mut record.groups[number];
        let is_durable = |page: &PageId, version: Scn| durable.get(page).is_some_and(|durable| *durable >= version);
        while groups.front().is_some_and(|(_, pages, version)| pages.iter().all(|page| is_durable(page, *version))) {
            groups.pop_front();
        }
        if let Some((end, pages, version)) = groups.front() {
            let checkpoint = instance.log.checkpoint();
            assert!(
                checkpoint < *end,
                "the checkpoint of instance {number} is {checkpoint}, past {end}: {pages:?} aren't durable in {version}"
            );
        }
    }
    for (page, modes) in modes {
        let alone = !modes.contains(&Mode::Exclusive) || modes.len() == 1;
        assert!(alone, "{page} is held as {modes:?}");
    }
}

/// What stands where, for whoever looks for the reason of a standstill.
fn describe(cluster: &Cluster) {
    for (number, instance) in cluster.instances.iter().enumerate() {
        let shared = &instance.cache.shared;
        let loading: Vec<PageId> = shared.loading.lock().keys().copied().collect();
        eprintln!(
            "instance {number}: loading {loading:?}, {} frames free, permits {}",
            shared.free.lock().len(),
            shared.pins.available_permits()
        );
        for frame in &shared.frames {
            let (body, state) = (frame.body.read(), frame.state.lock());
            let count = |count: &std::sync::atomic::AtomicU32| count.load(std::sync::atomic::Ordering::Relaxed);
            let (pins, holds, yielding) = (count(&frame.pins), count(&frame.holds), count(&frame.yielding));
            let (mode, granted, image, unwritten) = (body.mode, body.granted, state.image, state.unwritten);
            let WriteState { dirty, writing, .. } = *state;
            eprintln!(
                "  {} {mode:?}/{granted:?} pins {pins} holds {holds} yielding {yielding} dirty {dirty:?} writing {writing} image {image:?} unwritten {unwritten}",
                body.id
            );
        }
    }
    cluster.directory.describe();
}

async fn worker(cluster: Arc<Cluster>, record: Arc<Mutex<Record>>, instance: usize, mut random: Random, plan: Plan, operations: usize) {
    let cache = cluster.cache(instance);
    for _ in 0..operations {
        // A few pages are everybody's.
        let near = if random.chance(0.5) { 5 } else { plan.pages };
        let mut pages: Vec<PageId> = (0..1 + random.index(4)).map(|_| PageId(random.below(near))).collect();
        let mut seen = std::collections::BTreeSet::new();
        pages.retain(|page| seen.insert(*page));
        if random.chance(0.3) {
            for page in &pages {
                let (found, version) = read(cache, *page).await;
                let (newest, counted) = record.lock().newest[page];
                assert!(version <= newest && found < counted, "{page} was read as {found} of {version}, before {newest}");
            }
            continue;
        }
        let done = |committed: crate::cache::Committed| record.lock().committed(instance, &pages, committed.scn, committed.end);
        add(cache, &pages, done).await;
        if random.chance(0.05) {
            cluster.instances[instance].checkpointer.checkpoint().await.unwrap();
        }
        if random.chance(0.05) {
            cache.read_ahead(&(0..8).map(|at| PageId(near / 2 + at)).filter(|page| page.0 < plan.pages).collect::<Vec<_>>()).await;
        }
    }
}

/// Everything is written, and the disk says what was committed.
async fn settle(cluster: &Cluster, media: &MemoryMedia, record: &Mutex<Record>) {
    for _ in 0..2 {
        for instance in &cluster.instances {
            instance.checkpointer.checkpoint().await.unwrap();
        }
        cluster.instances[0].cache.seams().sleep(Duration::from_secs(1)).await;
    }
    for (number, instance) in cluster.instances.iter().enumerate() {
        assert_eq!(instance.cache.dirty(), (0, None), "instance {number} has written everything, and its images are void");
    }
    for (page, (version, count)) in &record.lock().newest {
        let home = media.peek("data0", PAGES_AT + page.0 * PAGE_SIZE as u64, PAGE_SIZE);
        assert_eq!((header::of(&home).version(), counter(&home) + 1), (*version, *count), "{page} on disk");
    }
}

/// What happened in a run, to see that it was what it is meant to be.
#[derive(Default, Debug)]
struct Seen {
    transfers: u64,
    evictions: u64,
    images: u64,

    wants: u64,
}

fn run(seed: u64) -> Seen {
    let mut random = Random::new(seed);
    let plan = Plan { instances: 2 + random.below(3) as u16, frames: 24 + random.index(20), pages: 30 + random.below(50) };
    let sim = Sim::new(seed);
    let media = MemoryMedia::new(seed);
    let record = Arc::new(Mutex::new(Record { groups: vec![VecDeque::new(); plan.instances.into()], ..Record::default() }));
    let ready: Rc<RefCell<Option<Arc<Cluster>>>> = Rc::default();
    let (checked, told) = (record.clone(), ready.clone());
    let seen = Rc::new(RefCell::new(Seen::default()));
    let counted = seen.clone();
    let test = async {
        let cluster = Arc::new(Cluster::create(&sim, &media, plan).await);
        for page in (0..plan.pages).map(PageId) {
            let instance = random.index(plan.instances.into());
            let committed = make(cluster.cache(instance), page).await;
            record.lock().committed(instance, &[page], committed.scn, committed.end);
        }
        *told.borrow_mut() = Some(cluster.clone());
        let (tell, mut ended) = tokio::sync::mpsc::unbounded_channel();
        let workers = usize::from(plan.instances) * 3;
        for worker_number in 0..workers {
            let instance = worker_number % usize::from(plan.instances);
            let work = worker(cluster.clone(), record.clone(), instance, random.fork(), plan, 25);
            let tell = tell.clone();
            let seams = cluster.cache(instance).seams().clone();
            seams.spawn(
                "worker",
                Box::pin(async move {
                    work.await;
                    tell.send(()).unwrap();
                }),
            );
        }
        for _ in 0..workers {
            ended.recv().await.unwrap();
        }
        settle(&cluster, &media, &record).await;
        cluster
    };
    let cluster = sim.run_until(test, |sim| {
        if sim.now() > Instant::default() + Duration::from_secs(600) {
            ready.borrow().iter().for_each(|cluster| describe(cluster));
            panic!("it stands still");
        }
        if let Some(cluster) = &*ready.borrow() {
            check(cluster, &mut checked.lock());
            let mut seen = counted.borrow_mut();
            for instance in &cluster.instances {
                seen.images += u64::from(!instance.cache.shared.dirty.lock().images_before(Lsn(u64::MAX)).is_empty());
            }
        }
        false
    });
    let cluster = cluster.expect("it is never stopped");
    let mut seen = seen.take();
    seen.transfers = *cluster.directory.transfers.lock();
    seen.wants = *cluster.directory.wants.lock();
    for instance in &cluster.instances {
        seen.evictions += instance.cache.counters().evictions.load(std::sync::atomic::Ordering::Relaxed);
    }
    seen
}

#[test]
fn operations_that_need_the_same_pages_in_crossing_orders_all_end() {
    let mut patient = 0;
    for seed in 0..10 {
        let sim = Sim::new(seed);
        let media = MemoryMedia::new(seed);
        let plan = Plan { instances: 4, frames: 24, pages: 6 };
        patient += sim.run(async {
            let cluster = Arc::new(Cluster::create(&sim, &media, plan).await);
            for page in (0..plan.pages).map(PageId) {
                make(cluster.cache(0), page).await;
            }
            let (tell, mut ended) = tokio::sync::mpsc::unbounded_channel();
            for instance in 0..4 {
                let (cluster, tell) = (cluster.clone(), tell.clone());
                let seams = cluster.cache(instance).seams().clone();
                let work = async move {
                    let mut pages: Vec<PageId> = (0..plan.pages).map(PageId).collect();
                    for round in 0..10 {
                        match instance {
                            0 => pages.sort_unstable(),
                            1 => pages.sort_unstable_by_key(|page| std::cmp::Reverse(*page)),
                            _ => Random::new(seed + round).shuffle(&mut pages),
                        }
                        add(cluster.cache(instance), &pages, |_| ()).await;
                    }
                    tell.send(()).unwrap();
                };
                seams.spawn("worker", Box::pin(work));
            }
            for _ in 0..4 {
                ended.recv().await.unwrap();
            }
            for page in (0..plan.pages).map(PageId) {
                assert_eq!(read(cluster.cache(0), page).await.0, 40);
            }
            let patient =
                |instance: &super::harness::Instance| instance.cache.counters().patient.load(std::sync::atomic::Ordering::Relaxed);
            cluster.instances.iter().map(patient).sum::<u64>()
        });
    }
    println!("{patient} operations of 400 became patient");
    assert!(patient > 10, "{patient} operations had to hold what they got");
}

/// `CACHE_SEED=n` runs that seed alone, `CACHE_SEEDS=n` as many from 0 on.
fn seeds() -> Vec<u64> {
    match std::env::var("CACHE_SEED") {
        Ok(seed) => vec![seed.parse().expect("a seed is a number")],
        Err(_) => (0..std::env::var("CACHE_SEEDS").map_or(50, |count| count.parse().expect("a count"))).collect(),
    }
}

#[test]
fn no_copy_and_no_change_is_lost_between_instances() {
    let seeds = seeds();
    let mut all = Seen::default();
    for seed in &seeds {
        let seen = std::panic::catch_unwind(|| run(*seed)).unwrap_or_else(|cause| {
            eprintln!("failed with seed {seed}: CACHE_SEED={seed} cargo test --release no_copy_and_no_change");
            std::panic::resume_unwind(cause)
        });
        all.transfers += seen.transfers;
        all.evictions += seen.evictions;
        all.images += seen.images;
        all.wants += seen.wants;
    }
    println!("{} seeds: {all:?}", seeds.len());
    let each = seeds.len() as u64 * 5;
    assert!(all.transfers > each && all.evictions > each && all.images > 0 && all.wants > 0, "{all:?}");
}
