//! The same statements on PostgreSQL 15 and on Regroup have the same answers (issue 3, item 12).
//!
//! 2000 statements in CI, in scripts of 100; `REGROUP_SQL_STATEMENTS` sets another number.

use cluster_tests::differential::run::{Pair, Tally};
use cluster_tests::postgres::Postgres;
use cluster_tests::seeds;

/// Statements of one script.
const SCRIPT: u64 = 100;

fn statements() -> u64 {
    std::env::var("REGROUP_SQL_STATEMENTS").ok().map_or(2000, |text| text.parse().expect("REGROUP_SQL_STATEMENTS is a number"))
}

/// PostgreSQL against itself: the generator only writes what has one right answer, and covers what it should.
#[test]
fn postgres_agrees_with_itself() {
    let (one, two) = (Postgres::start(), Postgres::start());
    let (reference, subject) = (one.endpoint(), two.endpoint());
    let pair = Pair { reference: &reference, subject: &subject };
    let mut tally = Tally::default();
    let seeds = seeds::asked_for().map_or(0..statements() / SCRIPT / 2, |seed| seed..seed + 1);
    for seed in seeds {
        if let Err(difference) = pair.generated(seed, SCRIPT, &mut tally) {
            panic!("seed {seed}: PostgreSQL differs from itself\n{}", pair.shrunk(*difference, SCRIPT));
        }
    }
    println!("{tally:?}");
}
