//! Recorded runs, crashed at every durable write and every sync; recoveries crashed in turn, three deep (issue 2, item 13; rule 17).
//!
//! One run is recorded; for each of its points the media as a crash there leaves them are recovered in a new simulation. What is there
//! must be what a prefix of the groups gives that has every group acknowledged before the point. The same image recovered again, with
//! other timing, and images of crashed recoveries must give the same pages, byte for byte.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster_tests::model::{Model, apply};
use cluster_tests::seeds::Test;
use cluster_tests::test_named;
use cluster_tests::workload::{Load, Subject, filled};
use cluster_tests::world::{DATA, REDO, close, contents, open, pages, shape, small, sound};
use parking_lot::Mutex;
use regroup::base::limits::{LOG_BLOCK, PAGE_SIZE};
use regroup::base::options::{LogMode, Options};
use regroup::base::sim::Sim;
use regroup::base::{PageId, Random, ThreadId};
use regroup::cache::double_write;
use regroup::disk::memory::{Journal, MemoryMedia};
use regroup::page::superblock::{DOUBLE_WRITE_AT, PAGES_AT};
use regroup::page::{PageFault, verify};

/// A run, and what its groups were.
struct Recording {
    journal: Journal,
    model: Model,
    options: Options,
}

fn options(random: &mut Random, mode: LogMode) -> Options {
    Options {
        log_mode: mode,
        log_batch_interval_ms: 20,
        checkpoint_interval_ms: 40,
        page_io_depth: *random.pick(&[2, 64]),
        recovery_workers: *random.pick(&[1, 4]),
        ..small()
    }
}

fn record(seed: u64, mode: LogMode) -> Recording {
    let mut random = Random::new(seed);
    let load = Load {
        clients: 3,
        groups: 10,
        keys: 4000,
        group_keys: 12,
        value_bytes: 1500,
        deletions: 0.2,
        pause_us: *random.pick(&[0, 3000, 12_000]),
        checkpoints: 0.1,
        reads: 0.1,
    };
    let (media, model) = filled(seed, &load);
    let options = options(&mut random, mode);
    let model = Arc::new(Mutex::new(model));
    media.record();
    let sim = Sim::new(seed ^ 1);
    sim.run(async {
        let store = open(&sim.runtime(), &media, &options).await.expect("the store can be opened");
        let subject = Subject { seams: sim.runtime(), store, model: model.clone(), media: media.clone() };
        subject.run(load, seed).await.into_iter().for_each(|outcome| outcome.expect("a commit succeeds"));
        sim.runtime().sleep(Duration::from_millis(random.below(200))).await;
        let Subject { store, .. } = subject;
        close(store).await.expect("the store can be closed");
    });
    drop(sim);
    let journal = media.journal().expect("it was recorded");
    let model = Arc::into_inner(model).expect("the run is over").into_inner();
    Recording { journal, model, options }
}

/// What a recovery made of an image.
struct Recovered {
    /// It holds what so many groups give.
    groups: usize,
    pages: BTreeMap<u64, Vec<u8>>,
    journal: Journal,
}

/// Recovers `image` (a copy of it) and checks what is there.
fn recover(image: &MemoryMedia, seed: u64, options: &Options, model: &Model, least: usize, what: &str) -> Recovered {
    let media = image.clone_image();
    media.record();
    let sim = Sim::new(seed);
    let (groups, pages) = sim.run(async {
        let store = open(&sim.runtime(), &media, options).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        sound(&store, what).await;
        let found = contents(&store).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let groups = model.matches(least, &found).unwrap_or_else(|why| panic!("{what}: {why}"));
        let pages = pages(&store).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        (groups, pages)
    });
    drop(sim);
    let journal = media.journal().expect("it was recorded");
    Recovered { groups, pages, journal }
}

fn same_pages(one: &Recovered, other: &Recovered, what: &str) {
    assert_eq!(one.groups, other.groups, "{what}: another prefix of the groups is there");
    let differing: Vec<&u64> =
        one.pages.keys().chain(other.pages.keys()).filter(|page| one.pages.get(page) != other.pages.get(page)).collect();
    if let Some(page) = differing.first() {
        let at = match (one.pages.get(page), other.pages.get(page)) {
            (Some(one), Some(other)) => one.iter().zip(other).position(|(one, other)| one != other).map(|at| at + 4),
            _ => None,
        };
        panic!("{what}: {} pages differ, the first is {page}, from byte {at:?} on", differing.len());
    }
}

/// Crashes at a few points of a recovery, and of the recovery from that, and so on.
fn nest(random: &mut Random, before: &Recovered, options: &Options, model: &Model, least: usize, what: &str, depth: u32) -> u64 {
    if depth == 0 {
        return 0;
    }
    let points = before.journal.crash_points();
    if points.is_empty() {
        return 0;
    }
    let mut count = 0;
    for _ in 0..if depth == 3 { 2 } else { 1 } {
        let (point, subset) = (*random.pick(&points), random.below(1000));
        let what = format!("{what}, its recovery crashed at {point} of {} (subset {subset})", before.journal.events().len());
        let again = recover(&before.journal.image_at(point, subset), random.bits(), options, model, least, &what);
        same_pages(before, &again, &what);
        count += 1 + nest(random, &again, options, model, least, &what, depth - 1);
    }
    count
}

/// Crashes a recorded run everywhere. Returns how many images were recovered.
fn everywhere(seed: u64, mode: LogMode, subsets: u64) -> u64 {
    let recording = record(seed, mode);
    let mut random = Random::new(seed);
    let points = recording.journal.crash_points();
    let mut recoveries = 0;
    for point in &points {
        let least = recording.journal.marks_before(*point).into_iter().max().unwrap_or(0) as usize;
        for _ in 0..subsets {
            let subset = random.below(1000);
            let what = format!("seed {seed}, {mode:?}, crashed at {point} of {} (subset {subset})", recording.journal.events().len());
            let image = recording.journal.image_at(*point, subset);
            let options =
                Options { recovery_workers: *random.pick(&[1, 3, 8]), page_io_depth: *random.pick(&[1, 16]), ..recording.options.clone() };
            let first = recover(&image, random.bits(), &options, &recording.model, least, &what);
            recoveries += 1;
            if random.chance(0.1) {
                let again = recover(&image, random.bits(), &recording.options, &recording.model, least, &what);
                same_pages(&first, &again, &format!("{what}, recovered a second time"));
                recoveries += 1;
            }
            if random.chance(0.1) {
                recoveries += nest(&mut random, &first, &options, &recording.model, least, &what, 3);
            }
        }
    }
    println!("seed {seed}, {mode:?}: {} groups, {} points, {recoveries} recoveries", recording.model.groups.len(), points.len());
    recoveries
}

fn suite(test: Test, mode: LogMode) {
    test.seeds(1, |seed| assert!(everywhere(seed, mode, 1) > 100));
}

#[test]
fn commit_mode_survives_a_crash_at_every_point() {
    suite(test_named!("commit_mode_survives_a_crash_at_every_point"), LogMode::Commit);
}

#[test]
fn batch_mode_survives_a_crash_at_every_point() {
    suite(test_named!("batch_mode_survives_a_crash_at_every_point"), LogMode::Batch);
}

#[test]
fn mode_none_survives_a_crash_at_every_point() {
    suite(test_named!("mode_none_survives_a_crash_at_every_point"), LogMode::None);
}

/// Pages of `image` whose homes are torn and of which the double-write area has no image.
fn torn_without_image(image: &MemoryMedia) -> u64 {
    let tag = shape(64, true).cluster.tag();
    let header = image.peek(REDO, DOUBLE_WRITE_AT, LOG_BLOCK);
    let batch = double_write::decode(&header, tag, ThreadId(1)).filter(|batch| !batch.voided);
    let images: Vec<PageId> = batch.into_iter().flat_map(|batch| batch.items).map(|(page, _)| page).collect();
    let length = image.file_length(DATA).expect("there is a data file");
    let pages = (length - PAGES_AT) / PAGE_SIZE as u64;
    let torn = |page: &PageId| {
        let home = image.peek(DATA, PAGES_AT + page.index() * PAGE_SIZE as u64, PAGE_SIZE);
        let whole = verify(&home, *page, tag);
        whole.is_err() && !matches!(whole, Err(PageFault::Blank { .. })) && !images.contains(page)
    };
    (0..pages).map(|index| PageId::new(0, index)).filter(torn).count() as u64
}

#[test]
fn torn_homes_without_an_image_are_made_anew_from_the_log() {
    // Rule 15: a page that the log makes anew goes home without an image.
    test_named!("torn_homes_without_an_image_are_made_anew_from_the_log").seeds(3, |seed| {
        let recording = record(seed, LogMode::Commit);
        let (mut images, mut pages) = (0, 0);
        for point in recording.journal.crash_points() {
            let least = recording.journal.marks_before(point).into_iter().max().unwrap_or(0) as usize;
            for subset in 0..8 {
                let image = recording.journal.image_at(point, subset);
                let torn = torn_without_image(&image);
                if torn > 0 && images < 60 {
                    (images, pages) = (images + 1, pages + torn);
                    let what = format!("seed {seed}, crashed at {point} (subset {subset}), {torn} torn homes without an image");
                    recover(&image, seed, &recording.options, &recording.model, least, &what);
                }
            }
        }
        println!("seed {seed}: {images} crashes with {pages} torn homes without an image");
        assert!(images > 0, "no crash tore what this test is about");
    });
}

#[test]
fn every_prefix_of_the_recording_is_another_store() {
    // Otherwise "some prefix" would prove nothing.
    let recording = record(3, LogMode::Commit);
    let mut contents = recording.model.base.clone();
    for group in &recording.model.groups {
        let before = contents.clone();
        apply(&mut contents, &group.changes);
        assert!(contents != before || group.changes.iter().all(|(_, _, value)| value.is_none()));
    }
}
