//! Isolation through SQL under `kill -9` (issue 3, item 10): list-append and bank histories.
//!
//! Read committed has no G0 and no G1; repeatable read is snapshot isolation with real-time order and without lost updates. Judged by crate
//! adya and by our own checker, which `checkers` tests with histories that are known to be bad. `REGROUP_SECONDS` sets how long each run
//! takes between two kills; 1 in CI.

use std::time::Duration;

use cluster_tests::isolation::arena::Crashable;
use cluster_tests::isolation::checks::violations;
use cluster_tests::isolation::history::{Outcome, adya_findings};
use cluster_tests::isolation::lists::{self, Load};
use cluster_tests::isolation::{Level, bank};
use cluster_tests::postgres::Postgres;
use cluster_tests::regroup::{Regroup, Setup};

fn load(crashes: u32) -> Load {
    let seconds = std::env::var("REGROUP_SECONDS").ok().map_or(1.0, |text| text.parse().expect("REGROUP_SECONDS is a number"));
    Load { clients: 8, between: Duration::from_secs_f64(seconds), crashes }
}

/// Runs lists and judges them.
fn lists(server: &mut dyn Crashable, seed: u64, level: Level, crashes: u32) {
    let run = lists::run(server, seed, level, load(crashes));
    let model = match level {
        Level::ReadCommitted => "strong-read-committed",
        Level::RepeatableRead => "strong-snapshot-isolation",
    };
    let mut findings = run.complaints;
    findings.extend(violations(&run.history, level, &run.last).iter().map(ToString::to_string));
    findings.extend(adya_findings(&run.history, model));
    let [committed, failed, unknown] = [Outcome::Committed, Outcome::Failed, Outcome::Unknown].map(|outcome| run.history.count(outcome));
    println!("{level:?} lists: {committed} committed, {failed} failed, {unknown} unknown");
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings[..findings.len().min(40)].join("\n"));
    assert!(committed > 100, "only {committed} transactions were committed: that proves nothing");
}

/// Runs the bank and judges it.
fn bank(server: &mut dyn Crashable, seed: u64, level: Level, crashes: u32) {
    let (ledger, books, mut findings) = bank::run(server, seed, level, load(crashes));
    findings.extend(bank::findings(&ledger, &books));
    println!(
        "{level:?} bank: {} transfers tried, {} there, {} snapshots",
        ledger.transfers.len(),
        books.transfers.len(),
        ledger.snapshots.len()
    );
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings[..findings.len().min(40)].join("\n"));
    assert!(books.transfers.len() > 100 && ledger.snapshots.len() > 30, "too little happened to prove anything");
}

/// The checkers have nothing against PostgreSQL, which is known to be right: they don't cry wolf.
#[test]
fn postgres_passes_the_checkers() {
    let mut server = Postgres::start();
    for level in [Level::ReadCommitted, Level::RepeatableRead] {
        lists(&mut server, 1, level, 1);
        bank(&mut server, 1, level, 1);
    }
}

/// A small cache and ring, so that pages are evicted and checkpoints taken all the while.
fn regroup() -> Regroup {
    let options = vec![("checkpoint_interval_ms", 200.into())];
    Regroup::start(Setup { cache_mib: 4, ring_mib: 8, options, ..Setup::default() })
}

fn finish(mut server: Regroup) {
    server.stop();
    server.verify();
}

#[test]
fn read_committed_lists_under_kills() {
    let mut server = regroup();
    lists(&mut server, 2, Level::ReadCommitted, 3);
    finish(server);
}

#[test]
fn repeatable_read_lists_under_kills() {
    let mut server = regroup();
    lists(&mut server, 3, Level::RepeatableRead, 3);
    finish(server);
}

#[test]
fn read_committed_bank_under_kills() {
    let mut server = regroup();
    bank(&mut server, 4, Level::ReadCommitted, 3);
    finish(server);
}

#[test]
fn repeatable_read_bank_under_kills() {
    let mut server = regroup();
    bank(&mut server, 5, Level::RepeatableRead, 3);
    finish(server);
}
