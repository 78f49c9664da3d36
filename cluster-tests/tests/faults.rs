//! A failing I/O at every index of a workload (issue 2, item 15; rule 14).
//!
//! The workload is run once without faults to learn its I/O, then again for each of them with that one failing. Whatever happens: no wrong
//! answer, no hang; nothing acknowledged is lost and nothing else is there after a crash. Own redo failing ends all commits; a page's home
//! failing ends nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster_tests::model::Model;
use cluster_tests::seeds::scaled;
use cluster_tests::test_named;
use cluster_tests::workload::{Load, Subject, changes, filled};
use cluster_tests::world::{DATA, REDO, TREES, close, contents, open, small, sound};
use parking_lot::Mutex;
use regroup::base::options::Options;
use regroup::base::sim::Sim;
use regroup::base::{Random, TreeId};
use regroup::cache::CacheError;
use regroup::disk::memory::{Event, Fault, FaultKind, Journal, MemoryMedia};
use regroup::node::store::{Store, StoreError};
use regroup::page::{Kind, header, slotted};
use regroup::redo::LogError;
use regroup::table::TableError;

const LOAD: Load = Load {
    clients: 1,
    groups: 30,
    keys: 4000,
    group_keys: 10,
    value_bytes: 1500,
    deletions: 0.1,
    pause_us: 0,
    checkpoints: 0.1,
    reads: 0.5,
};

fn options() -> Options {
    Options { checkpoint_interval_ms: 1000, ..small() }
}

/// Media to start from again and again, always the same, and what is on them.
struct Start {
    journal: Journal,
    model: Model,
}

impl Start {
    fn new(seed: u64, load: &Load) -> Start {
        let (media, model) = filled(seed, load);
        media.record();
        Start { journal: media.journal().expect("it was recorded"), model }
    }

    fn media(&self) -> MemoryMedia {
        self.journal.image_at(0, 0)
    }
}

/// What became of a run.
#[derive(Default)]
struct Run {
    /// Opening failed.
    not_opened: Option<StoreError>,
    /// Commits that failed, with the number of those that were tried before.
    failed: Vec<(u64, TableError)>,
    /// Reads that failed.
    failed_reads: Vec<TableError>,
    /// Checkpoints that failed.
    failed_checkpoints: u64,
    /// Pages in quarantine at the end.
    quarantined: usize,
    /// Whether the log had ended by then.
    log_ended: bool,
}

/// Runs the workload on `media` and crashes it. A commit that fails is followed by others.
fn run(media: &MemoryMedia, model: &Arc<Mutex<Model>>, seed: u64) -> Run {
    let sim = Sim::new(seed);
    let mut run = Run::default();
    sim.run(async {
        let store = match open(&sim.runtime(), media, &options()).await {
            Ok(store) => store,
            Err(error) => return run.not_opened = Some(error),
        };
        let subject = Subject { seams: sim.runtime(), store, model: model.clone(), media: media.clone() };
        let mut random = Random::new(seed);
        for step in 0..LOAD.groups {
            if let Err(error) = subject.commit(changes(&mut random, &LOAD, seed << 32 | step)).await {
                run.failed.push((step, error));
            }
            if let Err(error) = subject.read(random.below(LOAD.keys)).await {
                run.failed_reads.push(error);
            }
            if step % 7 == 6 && subject.checkpoint().await.is_err() {
                run.failed_checkpoints += 1;
            }
        }
        let storage = subject.store.storage();
        run.quarantined = storage.cache().quarantined().len();
        run.log_ended = storage.log().reserve(0).is_err();
    });
    media.crash(seed);
    sim.kill_all();
    run
}

/// Opens what is left without faults and holds it against the model; closes it and looks again.
fn survives(media: &MemoryMedia, model: &Model, what: &str) {
    media.clear_faults();
    let sim = Sim::new(7);
    sim.run(async {
        for life in ["recovered", "closed"] {
            let store = open(&sim.runtime(), media, &options()).await.unwrap_or_else(|error| panic!("{what}, {life}: {error}"));
            sound(&store, &format!("{what}, {life}")).await;
            let found = contents(&store).await.unwrap_or_else(|error| panic!("{what}, {life}: {error}"));
            model.matches(model.acknowledged, &found).unwrap_or_else(|why| panic!("{what}, {life}: {why}"));
            close(store).await.unwrap_or_else(|error| panic!("{what}, {life}: {error}"));
        }
    });
}

/// What the I/O of the workload without faults is: by number, the operation and the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Io {
    Read,
    WriteRedo,
    WriteData,
    Sync,
    Grow,
}

fn learn(start: &Start, seed: u64) -> BTreeMap<u64, Io> {
    let media = start.media();
    media.record();
    let model = Arc::new(Mutex::new(start.model.clone()));
    let first = media.io_count();
    let done = run(&media, &model, seed);
    assert!(done.failed.is_empty() && done.not_opened.is_none());
    let mut ios: BTreeMap<u64, Io> = (first..media.io_count()).map(|io| (io, Io::Read)).collect();
    let redo = media.paths().iter().position(|path| path.as_os_str() == REDO).expect("there is a redo file") as u32;
    for event in media.journal().expect("it was recorded").events() {
        match event {
            Event::WriteSubmitted { io, file, .. } => drop(ios.insert(*io, if *file == redo { Io::WriteRedo } else { Io::WriteData })),
            Event::SyncSubmitted { io, .. } => drop(ios.insert(*io, Io::Sync)),
            Event::GrowSubmitted { io, .. } => drop(ios.insert(*io, Io::Grow)),
            _ => {}
        }
    }
    survives(&media, &model.lock(), "without a fault");
    ios
}

fn is_log_failure(error: &TableError) -> bool {
    matches!(error, TableError::Cache(CacheError::Log(LogError::Failed(_))))
}

/// Runs the workload once for each I/O of one of `kinds`, with `fault` striking it, and judges.
fn each(seed: u64, kinds: &[Io], fault: FaultKind, judge: impl Fn(Io, &Run, &str)) -> usize {
    let start = Start::new(seed, &LOAD);
    let ios = learn(&start, seed);
    let struck: Vec<_> = ios.into_iter().filter(|(_, io)| kinds.contains(io)).collect();
    for (number, io) in &struck {
        let what = format!("seed {seed}, {fault:?} at I/O {number} ({io:?})");
        let media = start.media();
        media.inject(Fault::new(fault).from_io(*number));
        let model = Arc::new(Mutex::new(start.model.clone()));
        let run = run(&media, &model, seed);
        judge(*io, &run, &what);
        survives(&media, &model.lock(), &what);
    }
    println!("seed {seed}: {} I/Os struck by {fault:?}", struck.len());
    struck.len()
}

/// Own redo failed: from the first failure on every commit fails. A page's home failed: none does.
fn judge_write(io: Io, run: &Run, what: &str) {
    if run.not_opened.is_some() {
        return;
    }
    match io {
        Io::WriteRedo => {
            assert!(run.log_ended, "{what}: the log goes on after a failed write of the instance's own redo file");
            if let Some((first, _)) = run.failed.first() {
                assert_eq!(run.failed.len() as u64, LOAD.groups - first, "{what}: a commit succeeded after one had failed");
            }
            assert!(run.failed.iter().all(|(_, error)| is_log_failure(error)), "{what}: {:?}", run.failed);
        }
        _ => {
            assert!(run.failed.is_empty() && run.failed_reads.is_empty(), "{what}: {:?} {:?}", run.failed, run.failed_reads);
            assert!(!run.log_ended, "{what}: a page's home ended the log");
            assert!(run.quarantined > 0, "{what}: the page isn't in quarantine");
        }
    }
}

fn writes(test: cluster_tests::seeds::Test, fault: FaultKind) {
    test.seeds(1, |seed| assert!(each(seed, &[Io::WriteRedo, Io::WriteData], fault, judge_write) > 50));
}

#[test]
fn failed_writes() {
    writes(test_named!("failed_writes"), FaultKind::WriteError);
}

#[test]
fn short_writes() {
    writes(test_named!("short_writes"), FaultKind::ShortWrite);
}

#[test]
fn writes_without_room() {
    writes(test_named!("writes_without_room"), FaultKind::Full);
}

#[test]
fn failed_syncs() {
    test_named!("failed_syncs").seeds(2, |seed| {
        each(seed, &[Io::Sync], FaultKind::SyncError, |_, run, what| {
            if run.not_opened.is_none() {
                judge_write(Io::WriteData, run, what);
            }
        });
    });
}

#[test]
fn failed_reads_are_errors_to_their_callers_only() {
    test_named!("failed_reads_are_errors_to_their_callers_only").seeds(1, |seed| {
        let count = each(seed, &[Io::Read], FaultKind::ReadError, |_, run, what| {
            assert!(!run.log_ended && run.failed_checkpoints == 0 && run.quarantined == 0, "{what}");
            let errors: Vec<_> = run.failed.iter().map(|(_, error)| error).chain(&run.failed_reads).collect();
            // One caller, or nobody when the read was a hint.
            assert!(errors.len() <= 1, "{what}: {errors:?}");
            assert!(errors.iter().all(|error| matches!(error, TableError::Cache(CacheError::Disk(_)))), "{what}: {errors:?}");
        });
        assert!(count > 50);
    });
}

#[test]
fn growth_that_fails_is_a_typed_error_and_service_goes_on() {
    for fault in [FaultKind::Full, FaultKind::GrowError] {
        let start = Start::new(5, &Load { keys: 300, ..LOAD });
        let media = start.media();
        let model = Arc::new(Mutex::new(start.model.clone()));
        let sim = Sim::new(5);
        sim.run(async {
            let store = open(&sim.runtime(), &media, &options()).await.expect("it can be opened");
            let subject = Subject { seams: sim.runtime(), store, model: model.clone(), media: media.clone() };
            media.inject(Fault::new(fault).on(regroup::disk::memory::Operation::Grow).forever());
            let mut random = Random::new(5);
            let grows = Load { keys: 1_000_000, value_bytes: 1900, deletions: 0.0, ..LOAD };
            let mut errors = 0;
            for step in 0..400 {
                match subject.commit(changes(&mut random, &grows, step)).await {
                    Ok(()) => {}
                    Err(TableError::Full { .. }) if fault == FaultKind::Full => errors += 1,
                    Err(TableError::Cache(CacheError::Disk(error))) if fault == FaultKind::GrowError && !error.is_full() => errors += 1,
                    Err(other) => panic!("{fault:?}: {other}"),
                }
                if errors > 20 {
                    break;
                }
            }
            assert!(errors > 20, "{fault:?}: the device never filled up");
            // What needs no new page goes on.
            for number in 0..20 {
                subject.read(number).await.expect("reading goes on");
            }
            let deletion = subject.model.lock().now.keys().next().cloned().expect("there is a key");
            subject.commit(vec![(deletion.0, deletion.1, None)]).await.expect("deleting goes on");
            subject.checkpoint().await.expect("a checkpoint is possible");
            media.clear_faults();
            // A file that was full is asked again after a second.
            subject.seams.sleep(Duration::from_millis(1100)).await;
            let mut done = 0;
            for step in 1000..1040 {
                done += u64::from(subject.commit(changes(&mut random, &grows, step)).await.is_ok());
            }
            assert!(done > 30, "{fault:?}: with room again only {done} of 40 commits succeeded");
        });
        media.crash(5);
        sim.kill_all();
        survives(&media, &model.lock(), "after failed growth");
    }
}

/// Where leaves of [`TREES`] are at home: so many offsets in the data file.
fn homes(media: &MemoryMedia, count: usize) -> Vec<u64> {
    let end = media.file_length(DATA).expect("there is a data file");
    let ours = |at: &u64| {
        let bytes = media.peek(DATA, *at, 8192);
        let header = header::of(&bytes);
        header.kind() == Some(Kind::Tree) && TREES.contains(&header.tree().0) && slotted::level(&bytes) == 0
    };
    let homes: Vec<u64> = (1..end / 8192).map(|page| page * 8192).filter(ours).take(count).collect();
    assert_eq!(homes.len(), count, "there are too few leaves");
    homes
}

/// Those homes can't be written.
fn unwritable(media: &MemoryMedia, homes: &[u64]) {
    for home in homes {
        media.inject(Fault::new(FaultKind::WriteError).file(DATA).range(*home..home + 8192).forever());
    }
}

#[test]
fn a_home_that_can_never_be_written_keeps_its_page_and_its_redo() {
    let start = Start::new(6, &LOAD);
    for count in [4, 20] {
        let media = start.media();
        unwritable(&media, &homes(&media, count));
        let model = Arc::new(Mutex::new(start.model.clone()));
        let done = run(&media, &model, 6);
        assert!(done.failed.is_empty() && done.failed_reads.is_empty() && !done.log_ended, "{:?}", done.failed);
        assert!(done.quarantined > 0);
        survives(&media, &model.lock(), &format!("{count} pages could not be written"));
    }
}

#[test]
fn a_home_that_can_never_be_written_does_not_keep_the_ring() {
    // Incident: such a page held the checkpoint where it was first changed; when the ring was full, commits waited for ever, without an error.
    let start = Start::new(8, &LOAD);
    let media = start.media();
    unwritable(&media, &homes(&media, 6));
    let model = Arc::new(Mutex::new(start.model.clone()));
    let sim = Sim::new(8);
    let (model_of, media_of) = (model.clone(), media.clone());
    sim.run(async {
        let store = open(&sim.runtime(), &media_of, &small()).await.expect("it opens");
        let ring = store.storage().log().usage().1;
        let from = store.storage().log().appended().0;
        let subject = Subject { seams: sim.runtime(), store, model: model_of, media: media_of };
        let mut random = Random::new(8);
        let mut step = 0;
        while subject.store.storage().log().appended().0 - from < 3 * ring {
            subject.commit(changes(&mut random, &LOAD, step)).await.unwrap_or_else(|error| panic!("step {step}: {error}"));
            step += 1;
        }
        assert!(!subject.store.storage().cache().quarantined().is_empty(), "no page was unwritable");
    });
    media.crash(8);
    sim.kill_all();
    survives(&media, &model.lock(), "some pages could not be written for three laps of the ring");
}

#[test]
fn a_page_that_recovery_gave_up_ends_waiting_for_the_ring_with_an_error_that_names_it() {
    // Incident: nothing but a repair can move the checkpoint then; when the ring was full, commits waited without an error.
    let start = Start::new(9, &LOAD);
    let media = start.media();
    let model = Arc::new(Mutex::new(start.model.clone()));
    let options = Options { cache_bytes: 16 << 20, checkpoint_interval_ms: 3_600_000, ..small() };
    let sim = Sim::new(9);
    sim.run(async {
        let store = open(&sim.runtime(), &media, &options).await.expect("it opens");
        let subject = Subject { seams: sim.runtime(), store, model: model.clone(), media: media.clone() };
        let mut random = Random::new(9);
        for step in 0..100 {
            subject.commit(changes(&mut random, &LOAD, step)).await.expect("a commit succeeds");
        }
    });
    media.crash(9);
    sim.kill_all();
    let homes: Vec<(u64, Vec<u8>)> = homes(&media, 20).into_iter().map(|at| (at, media.peek(DATA, at, 8192))).collect();
    homes.iter().for_each(|(at, _)| media.flip(DATA, at + 4000, 1));

    let sim = Sim::new(10);
    sim.run(async {
        let store = open(&sim.runtime(), &media, &options).await.expect("it opens without the damaged pages");
        assert!(!store.storage().cache().quarantined().is_empty(), "no page was given up");
        let ring = store.storage().log().usage().1;
        let from = store.storage().log().appended().0;
        let subject = Subject { seams: sim.runtime(), store, model: model.clone(), media: media.clone() };
        let (mut random, mut refused, mut step) = (Random::new(10), 0, 1000);
        while refused < 20 {
            match subject.commit(changes(&mut random, &LOAD, step)).await {
                Ok(()) => {}
                Err(TableError::Cache(CacheError::Log(LogError::Held { held, ring: said }))) => {
                    assert_eq!(said, ring);
                    assert!(homes.iter().any(|(at, _)| *at == 8192 + 8192 * held.page.index()), "{held:?}");
                    refused += 1;
                }
                Err(TableError::Cache(CacheError::Page(_))) => {}
                Err(other) => panic!("step {step}: {other}"),
            }
            step += 1;
            assert!(step < 200_000, "the ring never fills");
            assert!(subject.store.storage().log().appended().0 - from <= ring, "the ring was reused over what the page needs");
        }
        assert!(subject.store.storage().log().appended().0 - from > ring / 2, "the ring wasn't full");
        let model = subject.model.lock().clone();
        assert!(never_wrong(&subject.store, &model, "with a full ring").await > 0);
    });
    media.crash(10);
    sim.kill_all();
    // What the error advises.
    homes.iter().for_each(|(at, bytes)| media.poke(DATA, *at, bytes));
    survives(&media, &model.lock(), "after the pages were put back");
}

/// Every key of the model: right, or an error. Returns how many were errors.
async fn never_wrong(store: &Store, model: &Model, what: &str) -> usize {
    let mut errors = 0;
    for tree in TREES {
        for (_, key) in model.now.keys().filter(|(of, _)| *of == tree) {
            match store.trees().get(TreeId(tree), key).await {
                Ok(found) => assert!(
                    found.as_ref() == model.now.get(&(tree, key.clone())),
                    "{what}: tree {tree} key {key:02x?} is wrong: {found:02x?}"
                ),
                Err(_) => errors += 1,
            }
        }
    }
    errors
}

/// A page write of the workload is lost or goes elsewhere; the process crashes before the log that covers it is reused.
fn silent(seed: u64, fault: FaultKind) {
    let start = Start::new(seed, &LOAD);
    let ios = learn(&start, seed);
    let last = *ios.keys().next_back().expect("there is I/O");
    let (mut found, mut struck) = (0, 0);
    for number in (0..last).step_by(3) {
        let what = format!("seed {seed}, {fault:?} at I/O {number}");
        let media = start.media();
        media.inject(Fault::new(fault).from_io(number).file(DATA));
        let model = Arc::new(Mutex::new(start.model.clone()));
        let sim = Sim::new(seed);
        // No checkpoint, so that the log covers everything; no reads: a page that was evicted and read again can't be judged without
        // remembering its version. Page writes come from a crowded cache.
        let covered = Options { checkpoint_interval_ms: 3_600_000, checkpoint_log_percent: 80, ..small() };
        let (model_of, media_of, what_of) = (model.clone(), media.clone(), what.clone());
        sim.run(async {
            let Ok(store) = open(&sim.runtime(), &media_of, &covered).await else { return };
            let subject = Subject { seams: sim.runtime(), store, model: model_of, media: media_of };
            let mut random = Random::new(seed);
            let mut left = 1 + number % 5;
            for step in 0..4 * LOAD.groups {
                subject.commit(changes(&mut random, &LOAD, step)).await.unwrap_or_else(|error| panic!("{what_of}: {error}"));
                let counters = subject.media.counters();
                if counters.lost_writes + counters.misdirected_writes > 0 {
                    left -= 1;
                    if left == 0 {
                        break;
                    }
                }
            }
        });
        struck += media.counters().lost_writes + media.counters().misdirected_writes;
        media.crash(seed);
        sim.kill_all();
        media.clear_faults();
        let model = model.lock().clone();
        let sim = Sim::new(9);
        sim.run(async {
            let Ok(store) = open(&sim.runtime(), &media, &options()).await else { return };
            found += never_wrong(&store, &model, &what).await;
        });
    }
    println!("seed {seed}: {fault:?} at {struck} page writes, {found} keys were errors");
    assert!(struck > 10);
}

#[test]
fn lost_page_writes_never_give_wrong_data() {
    test_named!("lost_page_writes_never_give_wrong_data").seeds(scaled(1), |seed| silent(seed, FaultKind::LostWrite));
}

#[test]
fn misdirected_page_writes_never_give_wrong_data() {
    test_named!("misdirected_page_writes_never_give_wrong_data").seeds(scaled(1), |seed| silent(seed, FaultKind::MisdirectedWrite));
}
