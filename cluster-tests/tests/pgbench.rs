//! Stock pgbench under `kill -9` and restart, and an own client that keeps a journal of what was acknowledged (issue 3, item 11).
//!
//! `REGROUP_KILLS` sets the kills per test; 6 in CI.

use std::time::Duration;

use cluster_tests::identities;
use cluster_tests::isolation::arena::Crashable;
use cluster_tests::isolation::lists::Load;
use cluster_tests::pgbench::{self, Run};
use cluster_tests::postgres::Postgres;
use cluster_tests::regroup::{Regroup, Setup};

const CLIENTS: u32 = 8;

fn kills() -> u32 {
    std::env::var("REGROUP_KILLS").ok().map_or(6, |text| text.parse().expect("REGROUP_KILLS is a number"))
}

/// pgbench in every protocol mode, killed under again and again.
fn pgbench_under_kills(server: &mut dyn Crashable, kills: u32) {
    pgbench::init(&server.endpoint(), 1);
    let patience = Duration::from_secs(60);
    let mut rows = 0;
    for cycle in 0..kills {
        let mode = ["prepared", "simple", "extended"][cycle as usize % 3];
        let run = Run::start(&server.endpoint(), mode, CLIENTS, 60);
        std::thread::sleep(Duration::from_millis(900));
        server.crash();
        let (acknowledged, said) = run.acknowledged(patience);
        let sums = pgbench::sums(&mut server.endpoint().wire(patience).expect("the server can be reached"));
        assert!(sums.agree(), "cycle {cycle}: sums differ: {sums:?}");
        let most = rows + acknowledged + u64::from(CLIENTS);
        let least = rows + acknowledged;
        assert!((least..=most).contains(&sums.history), "cycle {cycle}: history has {} rows, not {least} to {most}", sums.history);
        assert!(acknowledged > 20, "cycle {cycle}: only {acknowledged} transactions:\n{said}");
        println!("{mode}: {acknowledged} acknowledged, {} rows in the history", sums.history);
        rows = sums.history;
    }
}

fn identities_under_kills(server: &mut dyn Crashable, kills: u32) {
    let load = Load { clients: 8, between: Duration::from_millis(600), crashes: kills };
    let (findings, acknowledged) = identities::run(server, 1, load);
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings[..findings.len().min(40)].join("\n"));
    println!("{acknowledged} rows acknowledged, all there, once");
    assert!(acknowledged > 100, "only {acknowledged} rows were acknowledged: that proves nothing");
}

/// What is asked of Regroup is what PostgreSQL does.
#[test]
fn postgres_passes_both() {
    let mut server = Postgres::start();
    pgbench_under_kills(&mut server, 1);
    identities_under_kills(&mut server, 1);
}

#[test]
fn pgbench_under_kills_keeps_its_sums() {
    let mut server = Regroup::start(Setup::default());
    pgbench_under_kills(&mut server, kills());
    server.stop();
    server.verify();
}

#[test]
fn every_acknowledged_row_is_there_once() {
    let mut server = Regroup::start(Setup { cache_mib: 4, ring_mib: 8, ..Setup::default() });
    identities_under_kills(&mut server, kills());
    server.stop();
    server.verify();
}

/// A server that acknowledges before its redo is durable loses rows to a kill, and the journal shows it: the proof above can fail.
#[test]
fn a_server_that_does_not_wait_is_caught() {
    let options = vec![("log_mode", "none".into())];
    let mut server = Regroup::start(Setup { options, ..Setup::default() });
    let load = Load { clients: 8, between: Duration::from_millis(600), crashes: 1 };
    let (findings, _) = identities::run(&mut server, 1, load);
    assert!(findings.iter().any(|finding| finding.contains("ended Committed")), "{findings:?}");
}
