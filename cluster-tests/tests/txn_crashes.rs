//! Recorded runs of transactions, crashed at every durable write and sync, two deep, and with a fault at every I/O (issue 3, item 8; rules
//! 13, 14, 17, 18).
//!
//! The images of one run are each recovered: a new transaction must see, at once, exactly what the transactions wrote that committed, all of
//! each, everyone acknowledged before the point among them; losers' rows must be free at once; when undo is done, the trees must
//! hold nothing else. Recovery and undo are crashed in turn, and must come to the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use cluster_tests::test_named;
use cluster_tests::txn_load::{FIXED, Load, Subject};
use cluster_tests::txn_model::{History, Rows, difference};
use cluster_tests::txn_world::{prepare, quiet, tidy, visible};
use cluster_tests::world::{REDO, close, open, small};
use parking_lot::Mutex;
use regroup::base::options::{LogMode, Options};
use regroup::base::sim::Sim;
use regroup::base::{Random, TreeId};
use regroup::disk::memory::{Event, Fault, FaultKind, Journal, MemoryMedia};
use regroup::node::store::Store;
use regroup::table::rows::{Changed, Inserted, Interrupt, Isolation};

fn options(mode: LogMode) -> Options {
    Options { log_mode: mode, log_batch_interval_ms: 5, checkpoint_interval_ms: 15, ..small() }
}

/// A run and what happened in it.
struct Recording {
    journal: Journal,
    history: History,
    mode: LogMode,
}

fn record(seed: u64, mode: LogMode, load: Load) -> Recording {
    let media = prepare(seed);
    let history: Arc<Mutex<History>> = Arc::default();
    media.record();
    let sim = Sim::new(seed ^ 1);
    sim.run(async {
        let store = open(&sim.runtime(), &media, &options(mode)).await.expect("the store can be opened");
        // As the first transaction of a life, which looks at what is there.
        visible(&store).await.expect("what is there can be read");
        history.lock().settle(Rows::new());
        let subject = Subject { seams: sim.runtime(), store, history: history.clone(), media: media.clone(), load };
        subject.run(seed).await;
        quiet(&subject.store, &subject.seams, "recorded run").await;
        let Subject { store, .. } = subject;
        close(store).await.expect("the store can be closed");
    });
    drop(sim);
    let journal = media.journal().expect("it was recorded");
    let history = history.lock().clone();
    Recording { journal, history, mode }
}

/// Someone changes rows that losers have, at once, and gives up again.
async fn barge_in(store: &Store, random: &mut Random, cells: &[(u32, Vec<u8>)], what: &str) {
    for _ in 0..cells.len().min(3) {
        let (tree, key) = random.pick(cells).clone();
        let tree = TreeId(tree);
        let mut tx = store.rows().begin(Isolation::ReadCommitted, Interrupt::default());
        tx.begin_statement();
        let done = match tx.get(tree, &key).await.unwrap_or_else(|error| panic!("{what}: {error}")) {
            None => tx.insert(tree, &key, b"barged in").await.map(|done| matches!(done, Inserted::Done)),
            Some(row) => tx.update(tree, &key, row.version, b"barged in").await.map(|done| matches!(done, Changed::Done(_))),
        };
        assert_eq!(done, Ok(true), "{what}: a loser's row can be changed at once");
        if random.chance(0.5) {
            tx.rollback().await.unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
}

struct Recovered {
    survivors: BTreeSet<u64>,
    journal: Journal,
}

/// Recovers a copy of `image`, judges what is there, waits for undo, judges again.
fn recover(image: &MemoryMedia, seed: u64, of: &Recording, must: &BTreeSet<u64>, what: &str) -> Recovered {
    let media = image.clone_image();
    media.record();
    let sim = Sim::new(seed);
    let mut random = Random::new(seed);
    let survivors = sim.run(async {
        let store = open(&sim.runtime(), &media, &options(of.mode)).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = visible(&store).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let survivors = of.history.survivors(&found, must).unwrap_or_else(|why| panic!("{what}: {why}"));
        let expected = of.history.expected(&survivors);
        assert!(found == expected, "{what}: {}", difference(&expected, &found));
        let cells: Vec<_> = of.history.cells_of_others(&survivors).into_iter().filter(|cell| FIXED.contains(&cell.0)).collect();
        barge_in(&store, &mut random, &cells, what).await;
        quiet(&store, &sim.runtime(), what).await;
        tidy(&store, &sim.runtime(), &expected, what).await;
        survivors
    });
    drop(sim);
    Recovered { survivors, journal: media.journal().expect("it was recorded") }
}

/// Crashes a recorded run everywhere, and one recovery in so many once more. Returns how many images were recovered.
fn everywhere(seed: u64, mode: LogMode) -> u64 {
    let load = Load { clients: 3, transactions: 5, long: 60, trees: 0.1, cuts: 0.1, pause_us: 2000, ..Load::usual() };
    let recording = record(seed, mode, load);
    let mut random = Random::new(seed);
    let points = recording.journal.crash_points();
    let mut recoveries = 0;
    for point in &points {
        let must: BTreeSet<u64> = recording.journal.marks_before(*point).into_iter().collect();
        let what = format!("seed {seed}, {mode:?}, crashed at {point} of {}", recording.journal.events().len());
        let image = recording.journal.image_at(*point, random.below(1000));
        let first = recover(&image, random.bits(), &recording, &must, &what);
        recoveries += 1;
        let again = first.journal.crash_points();
        for _ in 0..if random.chance(0.3) && !again.is_empty() { 2 } else { 0 } {
            let point = *random.pick(&again);
            let what = format!("{what}, its recovery and undo at {point} of {}", first.journal.events().len());
            let second = recover(&first.journal.image_at(point, random.below(1000)), random.bits(), &recording, &first.survivors, &what);
            assert_eq!(first.survivors, second.survivors, "{what}: others are there");
            recoveries += 1;
        }
    }
    println!("seed {seed}, {mode:?}: {} points, {recoveries} recoveries, {:?}", points.len(), recording.history.counts);
    recoveries
}

#[test]
fn transactions_survive_a_crash_at_every_point() {
    test_named!("transactions_survive_a_crash_at_every_point").seeds(3, |seed| {
        let mode = [LogMode::Commit, LogMode::Batch, LogMode::None][(seed % 3) as usize];
        assert!(everywhere(seed, mode) > 20);
    });
}

/// Runs the clients on a copy of `start` and crashes it; returns what happened and the number of I/Os.
fn run(start: &MemoryMedia, seed: u64, fault: Option<Fault>) -> (MemoryMedia, History) {
    let media = start.clone_image();
    media.record();
    if let Some(fault) = fault {
        media.inject(fault);
    }
    let history: Arc<Mutex<History>> = Arc::default();
    let load = Load {
        clients: 4,
        transactions: 6,
        long: 300,
        trees: 0.1,
        pause_us: 4000,
        value_bytes: 1500,
        faults: true,
        too_old: true,
        ..Load::usual()
    };
    let sim = Sim::new(seed);
    sim.run(async {
        let Ok(store) = open(&sim.runtime(), &media, &options(LogMode::Commit)).await else { return };
        if visible(&store).await.is_err() {
            return;
        }
        history.lock().settle(Rows::new());
        let subject = Subject { seams: sim.runtime(), store, history: history.clone(), media: media.clone(), load };
        subject.run(seed).await;
    });
    media.crash(seed);
    sim.kill_all();
    media.clear_faults();
    let history = history.lock().clone();
    (media, history)
}

#[test]
fn transactions_with_a_fault_at_every_io() {
    test_named!("transactions_with_a_fault_at_every_io").seeds(1, |seed| {
        let start = prepare(seed);
        let first = start.io_count();
        let (learned, _) = run(&start, seed, None);
        let last = learned.io_count();
        let redo = learned.paths().iter().position(|path| path.as_os_str() == REDO).expect("there is a redo file") as u32;
        let events = learned.journal().expect("it was recorded");
        let mut kinds: std::collections::BTreeMap<u64, FaultKind> = (first..last).map(|io| (io, FaultKind::ReadError)).collect();
        let mut redo_writes = 0;
        for event in events.events() {
            match event {
                Event::WriteSubmitted { io, file, .. } => {
                    redo_writes += u64::from(*file == redo);
                    kinds.insert(*io, FaultKind::WriteError);
                }
                Event::SyncSubmitted { io, .. } => drop(kinds.insert(*io, FaultKind::SyncError)),
                Event::GrowSubmitted { io, .. } => drop(kinds.insert(*io, FaultKind::GrowError)),
                _ => {}
            }
        }
        for (io, kind) in &kinds {
            let what = format!("seed {seed}, {kind:?} at I/O {io}");
            let (media, mut history) = run(&start, seed, Some(Fault::new(*kind).from_io(*io)));
            let sim = Sim::new(seed ^ 3);
            sim.run(async {
                let store = open(&sim.runtime(), &media, &options(LogMode::Commit)).await.unwrap_or_else(|error| panic!("{what}: {error}"));
                let found = visible(&store).await.unwrap_or_else(|error| panic!("{what}: {error}"));
                let survivors = history.survivors(&found, &history.acknowledged()).unwrap_or_else(|why| panic!("{what}: {why}"));
                let expected = history.expected(&survivors);
                assert!(found == expected, "{what}: {}", difference(&expected, &found));
                history.judge(&survivors, false).unwrap_or_else(|why| panic!("{what}: {why}"));
                history.settle(found);
                quiet(&store, &sim.runtime(), &what).await;
                tidy(&store, &sim.runtime(), &expected, &what).await;
            });
        }
        println!("seed {seed}: {} I/Os struck, {redo_writes} of them writes of redo", kinds.len());
        assert!(kinds.len() > 15 && redo_writes > 5);
    });
}
