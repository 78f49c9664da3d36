//! The whole cluster's membership in the simulator: seeds of several faults each (issue 4 item 10).

use std::collections::BTreeMap;
use std::time::Duration;

use cluster_tests::cluster::trouble::{Trouble, inflict};
use cluster_tests::cluster::{Cluster, Plan};
use cluster_tests::seeds::{asked_for, scaled};
use cluster_tests::test_named;
use parking_lot::Mutex;
use regroup::base::Random;

/// Until all serve after a start from cold.
const FORMED_WITHIN: Duration = Duration::from_secs(20);
/// Until all serve when all faults are over.
const WHOLE_WITHIN: Duration = Duration::from_secs(90);

/// Makes a cluster, inflicts at least three faults, some of them over each other, and lets it become whole again.
fn run(seed: u64) -> BTreeMap<&'static str, u64> {
    let cluster = Cluster::new(seed, Plan::drawn(seed));
    let mut random = Random::new(seed ^ 0x7472_6f75);
    cluster.sim.run(async {
        cluster.start_all();
        cluster.whole(FORMED_WITHIN).await;
        for _ in 0..3 + random.below(4) {
            // Every kind comes up: the first of a seed goes through all of them, the others are drawn.
            let first = *random.pick(&Trouble::ALL);
            let second = *random.pick(&Trouble::ALL);
            let mut other = random.fork();
            if random.chance(0.4) {
                let (one, two) = (inflict(&cluster, first, &mut random), inflict(&cluster, second, &mut other));
                tokio::join!(biased; one, two);
            } else {
                inflict(&cluster, first, &mut random).await;
            }
            cluster.clock.sleep(Duration::from_millis(random.below(3000))).await;
        }
        cluster.network.heal();
        cluster.media.clear_faults();
        cluster.hosts.iter().for_each(|host| host.start());
        cluster.whole(WHOLE_WITHIN).await;
    });
    assert!(cluster.oracle.answers() > 0, "somebody was served");
    cluster.oracle.counts()
}

/// Adds up what came up in all seeds.
#[derive(Default)]
struct Coverage(Mutex<BTreeMap<&'static str, u64>>);

impl Coverage {
    fn add(&self, counts: BTreeMap<&'static str, u64>) {
        let mut all = self.0.lock();
        for (what, count) in counts {
            *all.entry(what).or_default() += count;
        }
    }

    /// Every one of these came up.
    fn has(&self, names: &[&'static str]) {
        let all = self.0.lock();
        println!("{:#?}", *all);
        let missing: Vec<_> = names.iter().filter(|name| !all.contains_key(*name)).collect();
        assert!(missing.is_empty(), "never came up: {missing:?}");
    }
}

/// Seeds run beside each other.
const THREADS: u64 = 4;

#[test]
fn membership_holds_under_faults() {
    let (test, count) = (test_named!("membership_holds_under_faults"), scaled(300));
    let coverage = Coverage::default();
    if let Some(seed) = asked_for() {
        return test.seed(seed, || drop(run(seed)));
    }
    std::thread::scope(|scope| {
        for first in 0..THREADS {
            let coverage = &coverage;
            scope.spawn(move || (first..count).step_by(THREADS as usize).for_each(|seed| coverage.add(test.seed(seed, || run(seed)))));
        }
    });
    if count >= 300 {
        let faults: Vec<&'static str> = Trouble::ALL.iter().map(|trouble| trouble.name()).collect();
        coverage.has(&faults);
        coverage.has(&[
            "announced",
            "installed",
            "parked: no majority",
            "parked: stalled",
            "parked: losing side",
            "unparked",
            "suspected",
            "cleared",
            "voting file failed",
            "voting file back",
            "stopped: evicted",
            "stopped: left",
            "guard ended: clean",
        ]);
    }
}

/// Rule 4: storage that hangs for everybody is nobody's failure.
#[test]
fn a_storage_outage_evicts_nobody() {
    test_named!("a_storage_outage_evicts_nobody").seeds(20, |seed| {
        let cluster = Cluster::new(seed, Plan::drawn(seed));
        let mut random = Random::new(seed);
        cluster.sim.run(async {
            cluster.start_all();
            cluster.whole(FORMED_WITHIN).await;
            let before = cluster.oracle.evictions();
            for _ in 0..4 {
                inflict(&cluster, Trouble::StallAll, &mut random).await;
                cluster.clock.sleep(Duration::from_millis(random.below(2000))).await;
            }
            cluster.whole(WHOLE_WITHIN).await;
            assert_eq!(cluster.oracle.evictions(), before, "nobody is evicted for a storage outage");
        });
    });
}

/// The same seed gives the same run.
#[test]
fn a_seed_decides_everything() {
    let hash = |seed| {
        let cluster = Cluster::new(seed, Plan::drawn(seed));
        let mut random = Random::new(seed);
        cluster.sim.run(async {
            cluster.start_all();
            cluster.whole(FORMED_WITHIN).await;
            inflict(&cluster, Trouble::Partition, &mut random).await;
            inflict(&cluster, Trouble::KillGuard, &mut random).await;
            cluster.whole(WHOLE_WITHIN).await;
        });
        cluster.sim.trace_hash()
    };
    assert_eq!(hash(5), hash(5));
    assert_ne!(hash(5), hash(6));
}
