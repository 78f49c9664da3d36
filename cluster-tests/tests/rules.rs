//! Single rules, each in the situation in which breaking it shows: what random runs meet too rarely to rely on.
//!
//! `tools/mutate` breaks these rules in the product one by one and names the test here that notices.

use std::sync::Arc;

use cluster_tests::model::Model;
use cluster_tests::test_named;
use cluster_tests::workload::{Load, Subject};
use cluster_tests::world::{self, DATA, REDO, contents, open, shape, small};
use parking_lot::Mutex;
use regroup::base::limits::DOUBLE_WRITE_PAGES;
use regroup::base::options::{DoubleWrite, LogMode, Options};
use regroup::base::sim::Sim;
use regroup::base::{PageId, Random, ThreadId, TreeId};
use regroup::cache::double_write;
use regroup::disk::memory::{Event, Fault, FaultKind, MemoryMedia, Operation};
use regroup::node::store::Store;
use regroup::page::superblock::{CONTROL_SLOTS, DOUBLE_WRITE_AT, PAGES_AT};
use regroup::redo::control::{Control, ThreadState};
use regroup::table::Write;

const PAGE: u64 = 8192;
const TREE: TreeId = TreeId(11);
const KEYS: u64 = 150;

/// Puts `value` under every key, a group each.
async fn fill(store: &Store, value: u8) {
    for number in 0..KEYS {
        let (key, value) = (number.to_be_bytes(), [value; 300]);
        store.commit(&[Write::Put { tree: TREE, key: &key, value: &value }]).await.expect("a commit succeeds");
    }
}

/// Every key must have `value`, or be an error; returns how many were errors.
async fn all_are(store: &Store, value: u8, what: &str) -> u64 {
    let mut errors = 0;
    for number in 0..KEYS {
        match store.trees().get(TREE, &number.to_be_bytes()).await {
            Ok(found) => assert_eq!(found.map(|found| found[0]), Some(value), "{what}: key {number}"),
            Err(_) => errors += 1,
        }
    }
    errors
}

/// Opens, does `work`, loses its power.
fn life<'s, F: Future<Output = ()> + 's>(media: &MemoryMedia, seed: u64, options: &Options, work: impl FnOnce(Arc<Store>) -> F) {
    let sim = Sim::new(seed);
    sim.run(async {
        let store = open(&sim.runtime(), media, options).await.expect("the store can be opened");
        work(store).await;
    });
    media.crash(seed);
    sim.kill_all();
}

/// The double-write area: its pages and its bytes.
fn area(media: &MemoryMedia, tag: u64) -> (Vec<PageId>, Vec<u8>) {
    let bytes = media.peek(REDO, DOUBLE_WRITE_AT, double_write::IMAGES + DOUBLE_WRITE_PAGES * PAGE as usize);
    let batch = double_write::decode(&bytes[..4096], tag, ThreadId(1)).expect("there is a whole batch");
    assert!(!batch.voided && !batch.items.is_empty(), "the batch is still of use");
    (batch.items.into_iter().map(|(page, _)| page).collect(), bytes)
}

fn with(double_write: DoubleWrite) -> Options {
    Options { double_write, checkpoint_interval_ms: 10_000, ..small() }
}

/// A store whose keys have value 1, with the double-write area that wrote them still in force: its pages and bytes.
fn with_area(seed: u64) -> (MemoryMedia, Vec<PageId>, Vec<u8>) {
    let media = world::create(seed, shape(64, true));
    let tag = Mutex::new(0);
    life(&media, seed, &with(DoubleWrite::On), |store| {
        let tag = &tag;
        async move {
            // Twice: pages that are new go home without an image.
            for _ in 0..2 {
                fill(&store, 1).await;
                store.storage().checkpoint().await.expect("a checkpoint is possible");
            }
            *tag.lock() = store.storage().cache().volume().tag();
        }
    });
    let (pages, bytes) = area(&media, *tag.lock());
    media.set_atomic_write(PAGE as usize);
    (media, pages, bytes)
}

fn home(page: PageId) -> u64 {
    PAGES_AT + page.index() * PAGE
}

#[test]
fn an_image_never_replaces_a_whole_home() {
    // An area that a dead instance left behind (rule 15): its images are older than the homes, and the redo in between is gone.
    let (media, _, old) = with_area(1);
    life(&media, 2, &with(DoubleWrite::Auto), |store| async move {
        fill(&store, 2).await;
        store.storage().checkpoint().await.expect("a checkpoint is possible");
    });
    media.poke(REDO, DOUBLE_WRITE_AT, &old);
    life(&media, 3, &with(DoubleWrite::Auto), |store| async move {
        assert_eq!(all_are(&store, 2, "with an old area").await, 0);
    });
}

#[test]
fn an_image_below_a_version_known_written_is_not_used() {
    // As above, but the newer homes are damaged, and the log still tells that they were written: better no page than an old one.
    let (media, pages, old) = with_area(1);
    let held = pages[pages.len() - 1];
    media.inject(Fault::new(FaultKind::WriteError).file(DATA).range(home(held)..home(held) + PAGE).forever());
    life(&media, 2, &with(DoubleWrite::Auto), |store| async move {
        fill(&store, 2).await;
        let report = store.storage().checkpoint().await.expect("a checkpoint is possible");
        assert!(report.dirty > 0, "one page holds the checkpoint, so that the notices stay in the log");
        fill(&store, 2).await;
    });
    media.clear_faults();
    media.poke(REDO, DOUBLE_WRITE_AT, &old);
    for page in &pages {
        media.flip(DATA, home(*page) + 4000, 1);
    }
    life(&media, 3, &with(DoubleWrite::Auto), |store| async move {
        all_are(&store, 2, "with damaged homes and an old area").await;
    });
}

#[test]
fn a_home_older_than_the_log_says_is_not_an_answer() {
    // The device lost the newest write of each home after it had said that it was durable; the log still has the notices of them.
    let (media, pages, _) = with_area(1);
    let (_, lost) = pages.split_last().expect("there are pages");
    let old: Vec<_> = lost.iter().map(|page| media.peek(DATA, home(*page), PAGE as usize)).collect();
    life(&media, 2, &with(DoubleWrite::Auto), |store| async move {
        let log = store.storage().log();
        let from = log.checkpoint();
        fill(&store, 3).await;
        fill(&store, 2).await;
        store.storage().cache().write_before(log.appended()).await.expect("pages are written");
        log.force(log.appended()).await.expect("the log goes on");
        assert_eq!(log.checkpoint(), from, "no checkpoint has passed the notices");
    });
    lost.iter().zip(&old).for_each(|(page, bytes)| media.poke(DATA, home(*page), bytes));
    life(&media, 3, &with(DoubleWrite::Auto), |store| async move {
        let errors = all_are(&store, 2, "with old homes").await;
        assert!(errors > 0, "the lost writes are found");
    });
}

#[test]
fn an_area_out_of_use_restores_nothing() {
    // The device writes pages atomically from the second life on, so nothing is put into the area any more; what the first life left there
    // replaced a page damaged much later.
    let (media, pages, _) = with_area(1);
    life(&media, 2, &with(DoubleWrite::Auto), |store| async move {
        fill(&store, 2).await;
        store.storage().checkpoint().await.expect("a checkpoint is possible");
    });
    for page in &pages {
        media.flip(DATA, home(*page) + 4000, 1);
    }
    life(&media, 3, &with(DoubleWrite::Auto), |store| async move {
        let errors = all_are(&store, 2, "with damaged homes").await;
        assert!(errors > 0, "damage is found");
    });
}

#[test]
fn either_control_slot_alone_tells_that_the_thread_was_open() {
    // The slot that was not written on opening still said "closed": with the other one damaged, the log was dropped.
    for moment in 0..3 {
        let media = world::create(4, shape(64, true));
        life(&media, 4, &with(DoubleWrite::Auto), |store| async move {
            fill(&store, 1).await;
            if moment > 0 {
                store.storage().checkpoint().await.expect("a checkpoint is possible");
                fill(&store, 2).await;
            }
            if moment > 1 {
                store.storage().checkpoint().await.expect("a checkpoint is possible");
            }
        });
        for slot in CONTROL_SLOTS {
            let image = media.clone_image();
            image.flip(REDO, slot + 40, 1);
            let what = format!("moment {moment}, the slot at {slot} is damaged");
            life(&image, 5, &with(DoubleWrite::Auto), |store| async move {
                assert_eq!(all_are(&store, if moment > 0 { 2 } else { 1 }, &what).await, 0, "{what}");
            });
        }
    }
}

#[test]
fn a_flipped_bit_in_a_page_is_never_an_answer() {
    test_named!("a_flipped_bit_in_a_page_is_never_an_answer").seeds(1, |seed| {
        let media = world::create(seed, shape(64, true));
        let sim = Sim::new(seed);
        sim.run(async {
            let store = open(&sim.runtime(), &media, &small()).await.expect("the store can be opened");
            fill(&store, 1).await;
            world::close(store).await.expect("the store can be closed");
        });
        sim.kill_all();
        let mut random = Random::new(seed);
        let mut found = 0;
        for _ in 0..60 {
            let at = home(PageId::new(0, random.below(30))) + random.below(PAGE);
            let image = media.clone_image();
            image.flip(DATA, at, random.below(8) as u8);
            let sim = Sim::new(seed);
            found += sim.run(async {
                // Opening reads some pages: it may be what finds the damage.
                match open(&sim.runtime(), &image, &small()).await {
                    Ok(store) => u64::from(all_are(&store, 1, &format!("seed {seed}, flip at {at}")).await > 0),
                    Err(_) => 1,
                }
            });
        }
        assert!(found > 0, "no flip met a page that is in use");
    });
}

#[test]
fn the_end_of_the_log_is_on_record_before_a_page_changes() {
    // Otherwise a recovery that is cut off leaves changed pages, and the next one may find another end (rule 12).
    let media = world::create(6, shape(64, true));
    let tag = Mutex::new(0);
    let unwritten = Options { cache_bytes: 32 << 20, ..with(DoubleWrite::Auto) };
    life(&media, 6, &unwritten, |store| {
        let tag = &tag;
        async move {
            *tag.lock() = store.storage().cache().volume().tag();
            for number in 0..1200u64 {
                let (key, value) = (number.to_be_bytes(), [3; 1500]);
                store.trees().apply(&[Write::Put { tree: TREE, key: &key, value: &value }]).await.expect("a change is possible");
            }
            store.storage().log().force(store.storage().log().appended()).await.expect("the log goes on");
        }
    });
    media.record();
    life(&media, 7, &small(), |_| async {});
    let journal = media.journal().expect("it was recorded");
    let data = media.paths().iter().position(|path| path.as_os_str() == DATA).expect("there is a data file") as u32;
    let is_page_write = |event: &Event| matches!(event, Event::WriteSubmitted { file, .. } if *file == data);
    let first = journal.events().iter().position(is_page_write).expect("recovery with a small cache writes pages");
    let image = journal.image_at(first, 0);
    let states: Vec<ThreadState> = (0..2)
        .map(|slot| {
            let bytes = image.peek(REDO, CONTROL_SLOTS[usize::from(slot)], 4096);
            Control::decode(&bytes, *tag.lock(), ThreadId(1), slot).expect("both slots are whole").state
        })
        .collect();
    assert_eq!(states, [ThreadState::Recovering; 2]);
}

#[test]
fn a_full_ring_is_reused_only_behind_a_durable_control_block() {
    // Many clients wait for room. Power fails while a control block is on its way: replay starts where the block before says.
    test_named!("a_full_ring_is_reused_only_behind_a_durable_control_block").seeds(1, |seed| {
        let media = world::create(seed, shape(64, true));
        let options = Options { checkpoint_log_percent: 80, log_mode: LogMode::Commit, checkpoint_interval_ms: 10_000, ..small() };
        let model = Arc::new(Mutex::new(Model::default()));
        let load = Load {
            clients: 8,
            groups: 250,
            // Few enough to stay in the cache: nobody waits for homes but the checkpointer.
            keys: 240,
            group_keys: 20,
            value_bytes: 1900,
            deletions: 0.1,
            pause_us: 0,
            checkpoints: 0.0,
            reads: 0.0,
        };
        // Homes are written so slowly that the ring fills up, and control blocks so that there is time to do harm meanwhile.
        media.inject(Fault::new(FaultKind::Slow(200)).on(Operation::Write).file(DATA).forever());
        for slot in CONTROL_SLOTS {
            media.inject(Fault::new(FaultKind::Slow(40)).on(Operation::Write).file(REDO).range(slot..slot + 4096).forever());
        }
        media.record();
        let sim = Sim::new(seed);
        sim.run(async {
            let store = open(&sim.runtime(), &media, &options).await.expect("the store can be opened");
            let subject = Subject { seams: sim.runtime(), store, model: model.clone(), media: media.clone() };
            subject.run(load, seed).await.into_iter().for_each(|outcome| outcome.expect("a commit succeeds"));
            let counters = subject.store.storage().log().counters();
            assert!(counters.bytes > 16 << 20, "the ring went round: {counters:?}");
        });
        drop(sim);
        let model = Arc::into_inner(model).expect("the run is over").into_inner();
        let journal = media.journal().expect("it was recorded");
        let redo = media.paths().iter().position(|path| path.as_os_str() == REDO).expect("there is a redo file") as u32;
        let mut under_way = Vec::new();
        let mut crashes = 0;
        for (index, event) in journal.events().iter().enumerate() {
            match event {
                Event::WriteSubmitted { io, file, offset, .. } if *file == redo && CONTROL_SLOTS.contains(offset) => under_way.push(*io),
                Event::WriteCompleted { io, .. } if under_way.contains(io) => {
                    under_way.retain(|other| other != io);
                    let least = journal.marks_before(index).into_iter().max().unwrap_or(0) as usize;
                    // Whether the control block itself landed is drawn.
                    for subset in 0..8 {
                        let image = journal.image_at(index, subset);
                        let what = format!("seed {seed}, crashed at {index} (subset {subset}), before a control block was durable");
                        let sim = Sim::new(seed ^ 2);
                        sim.run(async {
                            let store = open(&sim.runtime(), &image, &options).await.unwrap_or_else(|error| panic!("{what}: {error}"));
                            let found = contents(&store).await.unwrap_or_else(|error| panic!("{what}: {error}"));
                            model.matches(least, &found).unwrap_or_else(|why| panic!("{what}: {why}"));
                        });
                        crashes += 1;
                    }
                }
                _ => {}
            }
        }
        assert!(crashes > 24, "only {crashes} crashes");
    });
}
