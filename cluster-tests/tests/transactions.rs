//! Random transactions of concurrent clients against a model with snapshots, over several lives that end in any way (issue 3, item 8).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cluster_tests::test_named;
use cluster_tests::txn_load::{CROWDED, LONG, Load, Subject};
use cluster_tests::txn_model::{History, difference};
use cluster_tests::txn_world::{prepare, quiet, tidy, visible};
use cluster_tests::world::{close, open, small};
use parking_lot::Mutex;
use regroup::base::Random;
use regroup::base::options::{DoubleWrite, LogMode, Options};
use regroup::base::sim::Sim;
use regroup::disk::memory::MemoryMedia;
use regroup::node::store::Store;
use regroup::table::rows::Isolation;

/// How a life ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// Everything done, closed.
    Closed,
    /// Power failure.
    Crash,
    /// SIGKILL: the machine goes on.
    Killed,
}

fn options(random: &mut Random) -> Options {
    Options {
        log_mode: *random.pick(&[LogMode::Commit, LogMode::Commit, LogMode::Commit, LogMode::Batch, LogMode::None]),
        log_batch_interval_ms: *random.pick(&[1, 20, 100]),
        checkpoint_interval_ms: *random.pick(&[10, 50, 1000]),
        double_write: *random.pick(&[DoubleWrite::Auto, DoubleWrite::On]),
        page_io_depth: *random.pick(&[1, 8, 64]),
        undo_bytes_max: *random.pick(&[4 << 30, 4 << 30, 1 << 20]),
        ..small()
    }
}

/// Waits until nobody has anything left to do; what is there then is what committed, and nothing else.
async fn becomes_quiet(subject: &Subject, what: &str) {
    let store = &subject.store;
    quiet(store, &subject.seams, what).await;
    let found = visible(store).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let history = subject.history.lock().clone();
    let survivors = history.survivors(&found, &history.acknowledged()).unwrap_or_else(|why| panic!("{what}: {why}"));
    let expected = history.expected(&survivors);
    assert!(found == expected, "{what}: {}", difference(&expected, &found));
    tidy(store, &subject.seams, &expected, what).await;
}

/// A new transaction, at once, while losers are still there: sees what committed. The life before is judged by it.
async fn judge(store: &Store, history: &mut History, must: &BTreeSet<u64>, waived: bool, what: &str) {
    let found = visible(store).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let survivors = history.survivors(&found, must).unwrap_or_else(|why| panic!("{what}: {why}"));
    let expected = history.expected(&survivors);
    assert!(found == expected, "{what}: {}", difference(&expected, &found));
    history.judge(&survivors, waived).unwrap_or_else(|why| panic!("{what}: {why}"));
    history.settle(found);
}

/// What the lives of one seed share.
struct Lives {
    random: Random,
    media: MemoryMedia,
    history: Arc<Mutex<History>>,
    /// Who must be there at the next opening; and whether commits were acknowledged before they were durable.
    must: BTreeSet<u64>,
    waived: bool,
}

impl Lives {
    fn new(seed: u64) -> Lives {
        let mut random = Random::new(seed);
        let media = prepare(seed);
        media.set_atomic_write(*random.pick(&[0, 0, 8192]));
        Lives { random, media, history: Arc::default(), must: BTreeSet::new(), waived: false }
    }

    /// Opens the store, judges the life before, does something to rows of losers, puts it under load, ends it.
    fn live(&mut self, sim: &Sim, life: u64) {
        let options = options(&mut self.random);
        let load = Load { too_old: options.undo_bytes_max < 4 << 30, ..Load::random(&mut self.random) };
        let end = *self.random.pick(&[End::Closed, End::Crash, End::Crash, End::Killed]);
        println!("life {life}: {options:?}\n  {load:?}, ends {end:?}");
        let what = format!("life {life}");
        let (media, history, random) = (self.media.clone(), self.history.clone(), &mut self.random);
        let (must, waived) = (std::mem::take(&mut self.must), self.waived);
        let subject = sim.run(async {
            let store = open(&sim.runtime(), &media, &options).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            let fought_for = history.lock().open_cells();
            let mut taken = history.lock().clone();
            judge(&store, &mut taken, &must, waived, &what).await;
            *history.lock() = taken;
            let subject = Subject { seams: sim.runtime(), store, history: history.clone(), media: media.clone(), load };
            let calm = Subject { load: Load { cuts: 0.0, ..load }, ..subject.clone() };
            write_over_losers(&calm, random, &fought_for).await;
            subject
        });
        let stop_at =
            if end == End::Closed { u64::MAX } else { media.event_count() + random.below(*random.clone().pick(&[50, 1000, 5000])) };
        let (seed, rests) = (random.bits(), random.chance(0.5));
        let ended = sim.run_until(
            async {
                subject.run(seed).await;
                if end == End::Closed || rests {
                    becomes_quiet(&subject, &format!("end of {what}")).await;
                }
                let Subject { store, .. } = subject;
                if end == End::Closed {
                    close(store).await.expect("the store can be closed");
                }
            },
            |_| media.event_count() >= stop_at,
        );
        match end {
            End::Closed => assert_eq!(ended, Some(())),
            End::Crash => {
                media.crash(random.bits());
                sim.kill_all();
            }
            End::Killed => {
                sim.kill_all();
                media.settle(random.bits());
            }
        }
        if end == End::Closed || options.log_mode == LogMode::Commit {
            self.must = self.history.lock().acknowledged();
        }
        self.waived = end != End::Closed && options.log_mode != LogMode::Commit;
    }
}

/// Rows that losers have changed can be changed at once by others.
async fn write_over_losers(subject: &Subject, random: &mut Random, cells: &BTreeSet<(u32, Vec<u8>)>) {
    // Not rows that stand for something: markers, names of trees.
    let cells: Vec<_> = cells.iter().filter(|cell| CROWDED.contains(&cell.0) || cell.0 == LONG).filter(|_| random.chance(0.2)).collect();
    for cell in cells.into_iter().take(5) {
        let mut tx = subject.begin(Isolation::ReadCommitted);
        let since = subject.seams.now();
        let mut again = random.fork();
        subject.write(&mut tx, &mut again, cell, false).await.expect("a loser's row can be changed");
        let took = subject.seams.now().since(since);
        assert!(took < Duration::from_secs(1), "a loser's row was free only after {took:?}");
        subject.mark(&mut tx).await.expect("it can be marked");
        subject.commit(tx, &mut again).await.expect("it can be committed");
        subject.history.lock().count("rows of losers");
    }
}

fn lives(seed: u64, count: u64) -> std::collections::BTreeMap<&'static str, u64> {
    let mut lives = Lives::new(seed);
    let sim = Sim::new(seed).step_limit(200_000_000);
    for life in 0..count {
        lives.live(&sim, life);
    }
    let counts = lives.history.lock().counts.clone();
    println!("seed {seed}: {counts:?}");
    counts
}

#[test]
fn what_transactions_see_and_leave_is_what_the_model_says() {
    let all = Mutex::new(std::collections::BTreeMap::new());
    test_named!("what_transactions_see_and_leave_is_what_the_model_says").seeds(50, |seed| {
        for (what, count) in lives(seed, 5) {
            *all.lock().entry(what).or_insert(0) += count;
        }
    });
    let all = all.into_inner();
    println!("{all:?}");
    // What never happens isn't tested.
    if cluster_tests::seeds::asked_for().is_none() && cluster_tests::seeds::scaled(50) >= 50 {
        for what in ["40001", "40P01", "57014", "55P03", "23505", "moved", "rows of losers", "trees dropped", "commits given up"] {
            assert!(all.get(what).is_some_and(|count| *count > 3), "{what}: {all:?}");
        }
    }
}
