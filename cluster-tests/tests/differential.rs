//! The same statements on PostgreSQL 15 and on Regroup have the same answers (issue 3, item 12): the comparison itself, and scripts that once differed.
//!
//! PostgreSQL against itself takes 2000 statements, in scripts of 100; `REGROUP_SQL_STATEMENTS` sets another number. Against Regroup they are run by a
//! command of their own, `cargo run --release -p cluster-tests --bin differential`, as long as differences are open (docs/protocols/postgres.md).

use std::time::Duration;

use cluster_tests::differential::run::{Pair, Tally};
use cluster_tests::differential::script::Step;
use cluster_tests::postgres::Postgres;
use cluster_tests::regroup::{Regroup, Setup};
use cluster_tests::seeds;

/// Statements of one script.
const SCRIPT: u64 = 100;

fn statements() -> u64 {
    std::env::var("REGROUP_SQL_STATEMENTS").ok().map_or(2000, |text| text.parse().expect("REGROUP_SQL_STATEMENTS is a number"))
}

/// PostgreSQL against itself: the generator only writes what has one right answer, and covers what it should.
#[test]
fn postgres_agrees_with_itself() {
    let (one, mut two) = (Postgres::start(), Postgres::start());
    let mut pair = Pair { reference: &one.endpoint(), subject: &mut two };
    let mut tally = Tally::default();
    let seeds = seeds::asked_for().map_or(0..statements() / SCRIPT, |seed| seed..seed + 1);
    for seed in seeds {
        if let Err(difference) = pair.generated(seed, SCRIPT, &mut tally) {
            panic!("seed {seed}: PostgreSQL differs from itself\n{}", pair.shrunk(*difference, SCRIPT));
        }
    }
    println!("{tally:?}");
    // The classes of errors that issue 3 names, and those of transactions, all come up.
    for state in ["23505", "23502", "22003", "22012", "22P02", "25P02", "40001", "3B001", "42601", "42P01", "42703", "42804", "42883"] {
        assert!(seeds::asked_for().is_some() || tally.states.contains(state), "{state} never came up: {:?}", tally.states);
    }
    assert!(tally.rows > tally.statements / 4, "too few rows were compared");
}

/// A difference is found, and what is shown is short: the subject is a PostgreSQL that writes dates otherwise.
#[test]
fn a_difference_is_found_and_shrunk() {
    let (one, mut two) = (Postgres::start(), Postgres::start());
    two.endpoint().wire(Duration::from_secs(10)).unwrap().rows("ALTER ROLE regroup SET DateStyle = 'German'").unwrap();
    let mut pair = Pair { reference: &one.endpoint(), subject: &mut two };
    let difference = (0..20).find_map(|seed| pair.generated(seed, SCRIPT, &mut Tally::default()).err()).expect("it shows");
    let before = difference.steps.len();
    let shrunk = pair.shrunk(*difference, SCRIPT);
    assert!(shrunk.steps.len() <= 4, "{} steps of {before} are left:\n{shrunk}", shrunk.steps.len());
    assert_ne!(shrunk.expected, shrunk.found);
}

/// Scripts that once had different answers, each with what it was about.
const INCIDENTS: [(&str, &[&str]); 8] = [
    ("tags say what was asked for", &["START TRANSACTION", "ROLLBACK"]),
    (
        "int2 and int4 beside int8 above a scan",
        &[
            "CREATE TABLE t1 (a smallint, b integer, c bigint)",
            "INSERT INTO t1 VALUES (1, 2, 3), (1, 5, 8)",
            "SELECT a FROM t1 GROUP BY a HAVING count(*) > 1",
            "SELECT x.b FROM t1 x JOIN t1 y ON x.b = y.b WHERE 3 < y.c AND x.a = 1",
        ],
    ),
    ("names of constants", &["SELECT true, NULL, 1.5, 'a', 1 = 1, true AS b"]),
    (
        "modifiers of expressions",
        &["CREATE TABLE t1 (c char(5), n numeric(10,3))", "SELECT max(c), max(n), coalesce(c, 'x'), n + 1, -n FROM t1 GROUP BY c, n"],
    ),
    (
        "levels may be set until the first query",
        &[
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SHOW transaction_isolation",
            "COMMIT",
        ],
    ),
    (
        "several statements are one transaction",
        &["CREATE TABLE t1 (a int)", "INSERT INTO t1 VALUES (1); INSERT INTO t1 VALUES (2); SELECT 1 / 0", "SELECT count(*) FROM t1"],
    ),
    (
        "indexes in repeatable read",
        &["CREATE TABLE t1 (a int NOT NULL)", "BEGIN ISOLATION LEVEL REPEATABLE READ", "CREATE INDEX i1 ON t1 (a)", "COMMIT"],
    ),
    (
        "IN finds its type with all of its elements",
        &["CREATE TABLE t1 (a smallint)", "INSERT INTO t1 VALUES (7)", "SELECT a FROM t1 WHERE a IN (7, 70000, -1)"],
    ),
];

#[test]
fn what_differed_once_agrees_now() {
    let postgres = Postgres::start();
    let mut regroup = Regroup::start(Setup::default());
    let mut pair = Pair { reference: &postgres.endpoint(), subject: &mut regroup };
    let mut findings = Vec::new();
    for (what, script) in INCIDENTS {
        let steps: Vec<Step> = script.iter().map(|sql| Step::plain(sql)).collect();
        findings.extend(pair.replayed(&steps, 1).map(|difference| format!("{what}:\n{difference}")));
    }
    assert!(findings.is_empty(), "{}", findings.join("\n\n"));
}
