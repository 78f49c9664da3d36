//! The same statements on PostgreSQL 15 and on Regroup have the same answers (issue 3, item 12): the comparison itself, and scripts that once differed.
//!
//! 2000 statements, in scripts of 100, and one script more whose seed nobody has chosen; `REGROUP_SQL_STATEMENTS` sets another number. Many more, each
//! difference shrunk: `cargo run --release -p cluster-tests --bin differential`.

use std::cell::RefCell;
use std::time::Duration;

use cluster_tests::differential::run::{Pair, Tally};
use cluster_tests::differential::script::{Protocol, Step};
use cluster_tests::postgres::Postgres;
use cluster_tests::regroup::{Regroup, Setup};
use cluster_tests::{seeds, test_named};

/// Statements of one script.
const SCRIPT: u64 = 100;

fn statements() -> u64 {
    std::env::var("REGROUP_SQL_STATEMENTS").ok().map_or(2000, |text| text.parse().expect("REGROUP_SQL_STATEMENTS is a number"))
}

/// Regroup against PostgreSQL: the same rows, types, order and SQLSTATEs.
#[test]
fn regroup_agrees_with_postgres() {
    let postgres = Postgres::start();
    let mut regroup = Regroup::start(Setup::default());
    let tally = {
        let reference = postgres.endpoint();
        let pair = RefCell::new(Pair { reference: &reference, subject: &mut regroup });
        let tally = RefCell::new(Tally::default());
        let script = |seed: u64| {
            let (mut pair, mut tally) = (pair.borrow_mut(), tally.borrow_mut());
            if let Err(difference) = pair.generated(seed, SCRIPT, &mut tally) {
                panic!("seed {seed} differs; shrunk:\n{}", pair.shrunk(*difference, SCRIPT));
            }
        };
        let test = test_named!("regroup_agrees_with_postgres");
        test.seeds(statements() / SCRIPT, script);
        tally.into_inner()
    };
    println!("{tally:?}");
    regroup.stop();
    regroup.verify();
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
const INCIDENTS: [(&str, &[&str]); 19] = [
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
    (
        "char(n) keeps its blanks where its length gets lost",
        &[
            "CREATE TABLE t1 (c char(5), d char(20))",
            "INSERT INTO t1 VALUES ('a', 'a'), ('b', 'a'), (NULL, 'b ')",
            "SELECT max(c), min(d), max(c) || '.', length(max(d)), octet_length(max(d)) FROM t1",
            "SELECT coalesce(c, d), coalesce(c, 'x'), CASE WHEN c = d THEN c END, nullif(c, d), greatest(c, d) FROM t1",
            "SELECT c FROM t1 UNION SELECT d FROM t1 ORDER BY 1",
            "SELECT c FROM t1 INTERSECT SELECT d FROM t1",
            "SELECT coalesce(c, 'b'), count(*), count(DISTINCT d) FROM t1 GROUP BY 1 ORDER BY 1",
            "SELECT DISTINCT coalesce(c, 'b  ') FROM t1 ORDER BY 1",
            "SELECT x.c, y.d FROM t1 x JOIN t1 y ON coalesce(x.c, 'z') = y.d",
            "SELECT 'a  '::bpchar, 'a  '::bpchar = 'a', 'a  '::bpchar::text || '.', 'a  '::char(2)::bpchar::char(5), 'ab'::text::bpchar = 'ab  '",
            "SELECT c FROM t1 WHERE c IN ('a   ', 'q') OR c = 'b  '::text OR d LIKE 'b%  '",
            "CREATE INDEX i1 ON t1 (c)",
            "SELECT c FROM t1 WHERE c = 'b      '",
        ],
    ),
    (
        "a name that several columns have is ambiguous in ORDER BY",
        &[
            "CREATE TABLE t1 (a int, b int)",
            "SELECT a, b AS a FROM t1 ORDER BY a",
            "SELECT a, a FROM t1 ORDER BY a",
            "SELECT a, a::text FROM t1 ORDER BY a",
            "SELECT a, b AS a FROM t1 GROUP BY a, b",
            "SELECT a + 1 AS x, b AS x FROM t1 GROUP BY x",
            "SELECT a, b AS a FROM t1 UNION SELECT a, b FROM t1 ORDER BY a",
        ],
    ),
    (
        "an index built in repeatable read",
        &[
            "CREATE TABLE t1 (a int, b text)",
            "INSERT INTO t1 VALUES (3, 'c'), (1, 'a'), (NULL, 'n'), (2, 'b'), (2, 'd')",
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "SELECT count(*) FROM t1",
            "CREATE INDEX i1 ON t1 (a, b)",
            "SELECT * FROM t1 WHERE a > 1 ORDER BY a, b",
            "SELECT * FROM t1 ORDER BY a DESC, b DESC LIMIT 3",
            "UPDATE t1 SET b = b || '!' WHERE a = 2 RETURNING *",
            "SELECT * FROM t1 WHERE a = 2 FOR UPDATE",
            "DELETE FROM t1 WHERE a >= 2 RETURNING *",
            "COMMIT",
            "SELECT * FROM t1",
        ],
    ),
    (
        "what NULL and literals do to lengths",
        &[
            "CREATE TABLE t1 (c char(5), v varchar(8), n numeric(6,2))",
            "INSERT INTO t1 VALUES ('a', 'b', 1.5)",
            "SELECT CASE WHEN n > 1 THEN c ELSE NULL END, CASE WHEN n > 1 THEN v ELSE v END, CASE WHEN n > 2 THEN n END FROM t1",
            "SELECT c FROM t1 UNION ALL SELECT NULL",
            "SELECT v FROM t1 UNION ALL SELECT v FROM t1",
            "SELECT * FROM (VALUES ('a'::char(3)), ('b')) AS x(y)",
            "SELECT * FROM (VALUES ('a'::char(3)), ('b'::char(3))) AS x(y)",
        ],
    ),
    (
        "integers of an IN list beside numerics and texts",
        &[
            "CREATE TABLE t1 (a smallint, n numeric, t text, v varchar(4))",
            "INSERT INTO t1 VALUES (7, 2.50, 'x', 'y'), (8, NULL, '7', '8')",
            "SELECT a FROM t1 WHERE a IN (7.0, 9) ORDER BY 1",
            "SELECT a FROM t1 WHERE n IN (2.5, '1') AND v NOT IN ('q', NULL)",
            "SELECT a FROM t1 WHERE t IN (v, 'x', '9') ORDER BY 1",
            "SELECT a FROM t1 WHERE t IN (7, 8)",
            "SELECT a FROM t1 WHERE a IN ('7', 'x')",
        ],
    ),
    (
        "repeatable read and a key made anew",
        &[
            "CREATE TABLE t1 (a int NOT NULL)",
            "BEGIN",
            "SELECT * FROM t1",
            "ALTER TABLE t1 ADD PRIMARY KEY (a)",
            "SELECT * FROM t1",
            "COMMIT",
        ],
    ),
    (
        "levels are set outside of savepoints",
        &[
            "BEGIN",
            "SAVEPOINT a",
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "ROLLBACK TO a",
            "RELEASE a",
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "SHOW transaction_isolation",
            "COMMIT",
        ],
    ),
    (
        "rows that COPY put into a new table go with the savepoint before them",
        &[
            "CREATE TABLE t1 (a int PRIMARY KEY)",
            "BEGIN",
            "TRUNCATE t1",
            "SAVEPOINT s1",
            "COPY t1 FROM STDIN",
            "SELECT count(*) FROM t1",
            "ROLLBACK TO s1",
            "SELECT count(*) FROM t1",
            "COPY t1 FROM STDIN",
            "COMMIT",
            "SELECT count(*) FROM t1",
        ],
    ),
    (
        "a row in the way of several constraints",
        &[
            "CREATE TABLE t1 (a int PRIMARY KEY, b int, c int)",
            "CREATE UNIQUE INDEX i1 ON t1 (b)",
            "INSERT INTO t1 VALUES (1, 1, 1), (2, 2, 2)",
            "INSERT INTO t1 VALUES (1, 1, 5) ON CONFLICT (b) DO NOTHING",
            "INSERT INTO t1 VALUES (1, 1, 6) ON CONFLICT (a) DO UPDATE SET c = excluded.c RETURNING *",
            "INSERT INTO t1 VALUES (1, 2, 7) ON CONFLICT (b) DO UPDATE SET c = excluded.c RETURNING *",
            "INSERT INTO t1 VALUES (1, 2, 8) ON CONFLICT (a) DO UPDATE SET c = excluded.c RETURNING *",
            "INSERT INTO t1 VALUES (1, 3, 9) ON CONFLICT (b) DO NOTHING",
            "SELECT * FROM t1 ORDER BY a",
        ],
    ),
    ("letters have the case that Unicode gives them", &["SELECT upper('é'), lower('É日本'), 'É' ILIKE 'é', initcap('éa b')"]),
    (
        "several duplicates",
        &[
            "CREATE TABLE t1 (a int PRIMARY KEY)",
            "INSERT INTO t1 VALUES (1), (2), (2), ('x')",
            "INSERT INTO t1 VALUES (1), (1)",
            "SELECT * FROM t1",
        ],
    ),
];

#[test]
fn what_differed_once_agrees_now() {
    let postgres = Postgres::start();
    let mut regroup = Regroup::start(Setup::default());
    let mut pair = Pair { reference: &postgres.endpoint(), subject: &mut regroup };
    let mut findings = Vec::new();
    for (what, script) in INCIDENTS {
        let step = |sql: &&str| {
            let mut step = Step::plain(sql);
            if let (true, Protocol::Simple { copy }) = (sql.starts_with("COPY"), &mut step.protocol) {
                copy.extend_from_slice(b"7\n10\n-1\n153\n");
            }
            step
        };
        let steps: Vec<Step> = script.iter().map(step).collect();
        findings.extend(pair.replayed(&steps, 1).map(|difference| format!("{what}:\n{difference}")));
    }
    assert!(findings.is_empty(), "{}", findings.join("\n\n"));
}
