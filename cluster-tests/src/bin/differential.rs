//! Statements by seed on PostgreSQL 15 and on Regroup: says where the answers differ, each shrunk, and fails if any do (issue 3, item 12).
//!
//! `differential [SCRIPTS [FIRST_SEED]]`: scripts of 100 statements, 20 when left out.

use std::process::ExitCode;

use cluster_tests::differential::run::{Pair, Tally};
use cluster_tests::postgres::Postgres;
use cluster_tests::regroup::{Regroup, Setup};

/// Statements of one script.
const SCRIPT: u64 = 100;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Ok(scripts), Ok(first)) = (numbers.next().unwrap_or(Ok(20)), numbers.next().unwrap_or(Ok(0))) else {
        eprintln!("usage: differential [SCRIPTS [FIRST_SEED]]");
        return ExitCode::from(2);
    };
    let postgres = Postgres::start();
    let mut regroup = Regroup::start(Setup::default());
    let mut pair = Pair { reference: &postgres.endpoint(), subject: &mut regroup };
    let (mut tally, mut differ) = (Tally::default(), 0);
    for seed in first..first + scripts {
        if let Err(difference) = pair.generated(seed, SCRIPT, &mut tally) {
            differ += 1;
            println!("seed {seed} differs; shrunk:\n{}", pair.shrunk(*difference, SCRIPT));
        }
    }
    println!("{differ} of {scripts} scripts differ; {tally:?}");
    regroup.stop();
    regroup.verify();
    if differ == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
