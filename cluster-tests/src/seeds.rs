//! Which seeds a randomised test runs, and what is said when one fails.
//!
//! `REGROUP_SIM_SEEDS` scales how many seeds are run (50, the default, is what CI runs), `REGROUP_SEED` runs one. Seeds that once failed
//! are kept in `seeds.txt`, a line each: test binary, test, seed, and why; they are run first, always.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// A randomised test: its binary and its name there, as `cargo test` wants them.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// As in `--test`.
    pub binary: &'static str,
    /// As behind `--`.
    pub name: &'static str,
}

/// The test around this line: `test!("model", "name_of_function")`.
#[macro_export]
macro_rules! test_named {
    ($name:literal) => {
        $crate::seeds::Test { binary: env!("CARGO_CRATE_NAME"), name: $name }
    };
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let text = text.trim();
    let parsed = text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16));
    Some(parsed.unwrap_or_else(|_| panic!("{variable} is {text:?}, but must be a number, decimal or with 0x")))
}

/// `count` for CI, scaled by `REGROUP_SIM_SEEDS`; at least 1.
pub fn scaled(count: u64) -> u64 {
    let scale = number("REGROUP_SIM_SEEDS").unwrap_or(50);
    (count * scale / 50).max(1)
}

/// The one seed asked for, if one is.
pub fn asked_for() -> Option<u64> {
    number("REGROUP_SEED")
}

fn kept(test: Test) -> Vec<u64> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds.txt")).expect("seeds.txt lies beside Cargo.toml");
    let mut seeds = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let mut words = line.split_ascii_whitespace();
        let (Some(binary), Some(name), Some(seed)) = (words.next(), words.next(), words.next()) else {
            panic!("seeds.txt has a line without test and seed: {line:?}");
        };
        if (binary, name) == (test.binary, test.name) {
            seeds.push(seed.parse().unwrap_or_else(|_| panic!("seeds.txt has a seed that is no number: {line:?}")));
        }
    }
    seeds
}

impl Test {
    /// Runs `run` for the kept seeds of this test and `count` more (as CI has it; scaled), or for the one that was asked for.
    ///
    /// # Panics
    /// As `run` does, after saying how to replay it.
    pub fn seeds(self, count: u64, run: impl Fn(u64)) {
        let seeds = match asked_for() {
            Some(seed) => vec![seed],
            None => kept(self).into_iter().chain(0..scaled(count)).collect(),
        };
        for seed in seeds {
            self.seed(seed, || run(seed));
        }
    }

    /// Runs `run`, which `seed` decides.
    ///
    /// # Panics
    /// As `run` does, after saying how to replay it.
    pub fn seed<T>(self, seed: u64, run: impl FnOnce() -> T) -> T {
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(value) => value,
            Err(payload) => {
                let Test { binary, name } = self;
                eprintln!(
                    "seed {seed} fails. Replay: REGROUP_SEED={seed} cargo test --release -p cluster-tests --test {binary} -- --exact {name}"
                );
                eprintln!("Keep it: echo '{binary} {name} {seed} why' >> cluster-tests/seeds.txt");
                std::panic::resume_unwind(payload)
            }
        }
    }
}
