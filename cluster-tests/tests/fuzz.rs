//! Every fuzz target under seeded mutations of its corpus: the short run that CI does, on any toolchain.
//!
//! Not guided by coverage: that is `fuzz/` (`bash tools/fuzz`). `REGROUP_FUZZ_RUNS` is the number of runs per target; a failure prints the
//! command that repeats just the failing one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cluster_tests::fuzz::{TARGETS, corpus};
use regroup::base::Random;
use regroup::base::random::mix;

const RUNS: u64 = 20_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

/// Numbers at which decoders go wrong.
const EDGES: [u64; 12] = [0, 1, 7, 8, 63, 64, 4095, 4096, 8191, 8192, 0x7fff_ffff, u64::MAX];

fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..1 + random.index(6) {
        let length = bytes.len().max(1);
        // Headers matter more than what lies behind.
        let at = if random.chance(0.5) { random.index(length.min(128)) } else { random.index(length) };
        match random.index(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.index(8),
            1 if at < bytes.len() => bytes[at] = random.bits() as u8,
            2 | 3 => {
                let width = [1, 2, 4, 8][random.index(4)];
                let value = random.pick(&EDGES).wrapping_add(random.below(3)).wrapping_sub(1).to_le_bytes();
                for (to, from) in bytes.iter_mut().skip(at).zip(&value[..width]) {
                    *to = *from;
                }
            }
            4 => bytes.truncate(at),
            5 => {
                let take = random.index(other.len().min(64) + 1);
                let from = random.index(other.len() - take + 1);
                let at = at.min(bytes.len());
                bytes.splice(at..at, other[from..from + take].iter().copied());
            }
            6 => {
                let take = random.index(other.len().min(64) + 1);
                let from = random.index(other.len() - take + 1);
                for (to, byte) in bytes.iter_mut().skip(at).zip(&other[from..from + take]) {
                    *to = *byte;
                }
            }
            _ => {
                let end = (at + random.index(32)).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
        }
    }
}

fn input(name: &str, seed: u64, run: u64) -> Vec<u8> {
    let mut random = Random::new(mix(seed) ^ run);
    let corpus = corpus(name);
    let mut bytes = random.pick(&corpus).clone();
    let other = random.pick(&corpus).clone();
    if run > 0 {
        mutate(&mut bytes, &other, &mut random);
    }
    bytes
}

fn fuzz(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(found, _)| *found == name).expect("a target of that name");
    let seed = number("REGROUP_FUZZ_SEED").unwrap_or(1);
    let runs = match number("REGROUP_FUZZ_RUN") {
        Some(run) => run..run + 1,
        None => 0..number("REGROUP_FUZZ_RUNS").unwrap_or(RUNS),
    };
    for run in runs {
        let bytes = input(name, seed, run);
        if catch_unwind(AssertUnwindSafe(|| target(&bytes))).is_err() {
            panic!(
                "failed with seed {seed}, run {run}; replay: REGROUP_FUZZ_SEED={seed} REGROUP_FUZZ_RUN={run} cargo test --release -p cluster-tests --test fuzz {name}"
            );
        }
    }
}

/// What the corpus holds is accepted: otherwise mutations of it would all be refused at the first look.
#[test]
fn the_corpus_is_whole() {
    for (name, target) in TARGETS {
        assert!(!corpus(name).is_empty());
        corpus(name).iter().for_each(|bytes| target(bytes));
    }
}

#[test]
fn log_block() {
    fuzz("log_block");
}

#[test]
fn group() {
    fuzz("group");
}

#[test]
fn page() {
    fuzz("page");
}

#[test]
fn superblock() {
    fuzz("superblock");
}

#[test]
fn control() {
    fuzz("control");
}

#[test]
fn double_write() {
    fuzz("double_write");
}

#[test]
fn sector() {
    fuzz("sector");
}

#[test]
fn configuration() {
    fuzz("configuration");
}

#[test]
fn frontend() {
    fuzz("frontend");
}

#[test]
fn frame() {
    fuzz("frame");
}
