//! Random groups of concurrent clients against an in-memory model, over several lives that end in any way (issue 2, item 13).

use std::sync::Arc;
use std::time::Duration;

use cluster_tests::model::Model;
use cluster_tests::test_named;
use cluster_tests::workload::{Load, Subject};
use cluster_tests::world::{self, close, contents, open, shape, small, sound};
use parking_lot::Mutex;
use regroup::base::Random;
use regroup::base::options::{DoubleWrite, LogMode, Options};
use regroup::base::sim::Sim;
use regroup::disk::memory::MemoryMedia;

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

/// What a batch mode may be late by: writes in flight when the interval ends, the slowest I/O.
const LATE: Duration = Duration::from_millis(15);

fn options(random: &mut Random) -> Options {
    Options {
        log_mode: *random.pick(&[LogMode::Commit, LogMode::Commit, LogMode::Batch, LogMode::None]),
        log_batch_interval_ms: *random.pick(&[1, 20, 100]),
        checkpoint_interval_ms: *random.pick(&[10, 50, 1000]),
        checkpoint_log_percent: *random.pick(&[5, 30, 80]),
        double_write: *random.pick(&[DoubleWrite::Auto, DoubleWrite::On]),
        page_io_depth: *random.pick(&[1, 8, 64]),
        recovery_workers: *random.pick(&[0, 1, 7]),
        ..small()
    }
}

/// What the lives of one seed share.
struct Lives {
    random: Random,
    media: MemoryMedia,
    model: Arc<Mutex<Model>>,
    mode: LogMode,
    interval: Duration,
}

impl Lives {
    /// Opens the store, holds it against the model, puts it under load, ends it.
    fn live(&mut self, sim: &Sim, life: u64) {
        let options = options(&mut self.random);
        let load = Load::random(&mut self.random);
        let end = *self.random.pick(&[End::Closed, End::Crash, End::Crash, End::Killed]);
        println!("life {life}: {options:?}\n  {load:?}, ends {end:?}");
        let (media, model, random) = (self.media.clone(), self.model.clone(), &mut self.random);
        let store = sim.run(async {
            let store = open(&sim.runtime(), &media, &options).await.unwrap_or_else(|error| panic!("life {life}: {error}"));
            sound(&store, &format!("life {life}")).await;
            let found = contents(&store).await.expect("what is there can be read");
            let mut model = model.lock();
            let least = model.acknowledged;
            let number = model.matches(least, &found).unwrap_or_else(|why| panic!("life {life}, mode {:?}: {why}", self.mode));
            model.settle(number);
            store
        });
        (self.mode, self.interval) = (options.log_mode, options.log_batch_interval());
        let subject = Subject { seams: sim.runtime(), store, model: model.clone(), media: media.clone() };
        // Counted in events of the media: any of its states may be the last.
        let stop_at =
            if end == End::Closed { u64::MAX } else { media.event_count() + random.below(*random.clone().pick(&[50, 500, 5000])) };
        let seed = random.bits();
        let idle = Duration::from_micros(*random.pick(&[0, 300, 4000, 30_000, 300_000]));
        let ended = sim.run_until(
            async {
                for outcome in subject.run(load, seed).await {
                    outcome.expect("a commit succeeds");
                }
                let Subject { store, .. } = subject;
                if end == End::Closed {
                    close(store).await.expect("the store can be closed");
                } else {
                    sim.runtime().sleep(idle).await;
                }
            },
            |_| media.event_count() >= stop_at,
        );
        let now = sim.now();
        match end {
            End::Closed => {
                assert_eq!(ended, Some(()));
                let mut model = model.lock();
                model.acknowledged = model.groups.len();
            }
            End::Crash => {
                media.crash(random.bits());
                sim.kill_all();
            }
            End::Killed => {
                sim.kill_all();
                media.settle(random.bits());
            }
        }
        if self.mode == LogMode::Batch {
            model.lock().durable_by_age(now, self.interval + LATE);
        }
    }
}

fn lives(seed: u64, count: u64) -> u64 {
    let mut random = Random::new(seed);
    let media = world::create(seed, shape(64, true));
    let atomic = *random.pick(&[0, 0, 8192]);
    media.set_atomic_write(atomic);
    println!("seed {seed}: atomic writes of {atomic} bytes");
    let model = Arc::new(Mutex::new(Model::default()));
    let mut lives = Lives { random, media, model: model.clone(), mode: LogMode::Commit, interval: Duration::ZERO };
    let sim = Sim::new(seed).step_limit(200_000_000);
    for life in 0..count {
        lives.live(&sim, life);
    }
    model.lock().acknowledged_ever
}

#[test]
fn what_is_there_is_always_a_prefix_with_all_that_was_acknowledged() {
    let acknowledged = std::cell::Cell::new(0);
    test_named!("what_is_there_is_always_a_prefix_with_all_that_was_acknowledged")
        .seeds(50, |seed| acknowledged.set(acknowledged.get() + lives(seed, 6)));
    assert!(acknowledged.get() > 0);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [1, 2] {
        let hash = || {
            let media = world::create(seed, shape(64, true));
            let sim = Sim::new(seed);
            let model = Arc::new(Mutex::new(Model::default()));
            let mut lives = Lives { random: Random::new(seed), media, model, mode: LogMode::Commit, interval: Duration::ZERO };
            (0..3).for_each(|life| lives.live(&sim, life));
            (sim.trace_hash(), lives.media.trace_hash())
        };
        assert_eq!(hash(), hash());
    }
}
