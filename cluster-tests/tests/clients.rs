//! Unmodified clients against a real `regroupd` (issue 3, item 6): psql, pgbench, sysbench, psycopg, psycopg2, SQLAlchemy.
//!
//! `tools/test` installs what is missing; here it is named.

use std::path::PathBuf;
use std::process::{Command, Output};

use cluster_tests::endpoint::Endpoint;
use cluster_tests::isolation::arena::Crashable;
use cluster_tests::regroup::{Regroup, Setup};

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs `command`, which package `package` brings.
fn output(command: &mut Command, package: &str) -> Output {
    let name = command.get_program().to_string_lossy().into_owned();
    command.output().unwrap_or_else(|error| {
        panic!("{name} can't be run ({error}): install package {package} (Debian's name), or run tools/test as root")
    })
}

/// Runs `command`, which must succeed; gives what it said.
fn run(command: &mut Command, package: &str) -> String {
    let output = output(command, package);
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, said(&output));
    said(&output)
}

/// Standard output of psql, unaligned and without headers, for those statements.
fn psql(endpoint: &Endpoint, statements: &[&str]) -> String {
    let mut command = endpoint.program("psql");
    command.args(["-XAtq", "-v", "ON_ERROR_STOP=1"]);
    for statement in statements {
        command.args(["-c", statement]);
    }
    run(&mut command, "postgresql-client")
}

#[test]
fn psql_works() {
    let mut regroup = Regroup::start(Setup::default());
    let endpoint = regroup.endpoint();
    let create =
        "CREATE TABLE shop (id int PRIMARY KEY, name varchar(20) NOT NULL, price numeric(8,2)); CREATE INDEX shop_name ON shop (name)";
    let lines = psql(
        &endpoint,
        &[
            create,
            "INSERT INTO shop VALUES (1, 'apple', 1.5), (2, 'pear', 2), (3, 'plum', NULL)",
            "SELECT * FROM shop ORDER BY id",
            "BEGIN; DELETE FROM shop; SELECT count(*) FROM shop; ROLLBACK; SELECT count(*) FROM shop",
            "\\echo :SERVER_VERSION_NUM",
        ],
    );
    let version = lines.strip_prefix("1|apple|1.50\n2|pear|2.00\n3|plum|\n0\n3\n").unwrap_or_else(|| panic!("{lines}"));
    assert!(version.starts_with("1500"), "drivers take it for PostgreSQL 15: {version}");
    // As a terminal's user sees it: tags, headers, the number of rows; from standard input, with a COPY in it.
    let script = "\\set QUIET off\nUPDATE shop SET price = price * 2 WHERE price > 1;\n\\copy shop from stdin\n4\tfig\t0.25\n\\.\n\
                  SELECT id, price FROM shop WHERE name = 'fig';\n\\gset\nCHECKPOINT;\nVACUUM;\nANALYZE shop;\n";
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let file = folder.path().join("script.sql");
    std::fs::write(&file, script).expect("a file can be written");
    let shown = run(endpoint.program("psql").arg("-X").arg("-v").arg("ON_ERROR_STOP=1").arg("-f").arg(&file), "postgresql-client");
    for expected in ["UPDATE 2", "COPY 1", " id | price \n----+-------\n  4 |  0.25\n(1 row)\n", "CHECKPOINT", "VACUUM", "ANALYZE"] {
        assert!(shown.contains(expected), "no {expected:?} in:\n{shown}");
    }
    // Errors as psql shows them, and its exit status.
    let failed = output(
        endpoint.program("psql").args(["-X", "-v", "VERBOSITY=verbose", "-v", "ON_ERROR_STOP=1", "-c", "SELECT nme FROM shop"]),
        "postgresql-client",
    );
    let shown = said(&failed);
    assert!(
        !failed.status.success()
            && shown.contains("ERROR:  42703: column \"nme\" does not exist\nLINE 1: SELECT nme FROM shop\n               ^"),
        "{shown}"
    );
    for (user, database, expected) in
        [("nobody", "regroup", "role \"nobody\" does not exist"), ("regroup", "nothing", "database \"nothing\" does not exist")]
    {
        let refused = output(endpoint.program("psql").args(["-X", "-U", user, "-d", database, "-c", "SELECT 1"]), "postgresql-client");
        assert!(!refused.status.success() && said(&refused).contains(expected), "{}", said(&refused));
    }
    let tables = psql(&endpoint, &["\\dt"]);
    assert!(tables.contains("public|shop|table|regroup"), "{tables}");
    regroup.stop();
}

/// What pgbench says of its run: transactions that were processed; none may have failed.
fn transactions(report: &str) -> u64 {
    let number = |prefix: &str| -> Option<u64> {
        let line = report.lines().find_map(|line| line.strip_prefix(prefix))?;
        line.split(|character: char| !character.is_ascii_digit()).find(|digits| !digits.is_empty())?.parse().ok()
    };
    assert_eq!(number("number of failed transactions: "), Some(0), "{report}");
    number("number of transactions actually processed: ").unwrap_or_else(|| panic!("no number of transactions in:\n{report}"))
}

#[test]
fn pgbench_works_in_every_protocol_mode() {
    let mut regroup = Regroup::start(Setup { ring_mib: 64, cache_mib: 64, ..Setup::default() });
    let endpoint = regroup.endpoint();
    let package = "postgresql-15";
    for steps in ["dtgvp", "dtGp"] {
        run(endpoint.program("pgbench").args(["-i", "-s", "2", "-q", "-I", steps]), package);
        assert_eq!(psql(&endpoint, &["SELECT count(*) FROM pgbench_accounts"]).trim(), "200000");
    }
    let mut history = 0;
    for mode in ["simple", "extended", "prepared"] {
        for script in [vec![], vec!["-S"], vec!["-N"]] {
            let mut command = endpoint.program("pgbench");
            let report = run(command.args(["-n", "-M", mode, "-c", "8", "-j", "2", "-t", "50"]).args(&script), package);
            assert_eq!(transactions(&report), 400, "{mode} {script:?}:\n{report}");
            history += if script == ["-S"] { 0 } else { 400 };
        }
    }
    assert_eq!(psql(&endpoint, &["SELECT count(*) FROM pgbench_history"]).trim(), history.to_string());
    let sums = psql(&endpoint, &["SELECT sum(abalance) FROM pgbench_accounts", "SELECT sum(delta) FROM pgbench_history"]);
    let sums: Vec<&str> = sums.lines().collect();
    assert_eq!(sums[0], sums[1]);
    regroup.stop();
    regroup.verify();
}

#[test]
fn sysbench_works() {
    let mut regroup = Regroup::start(Setup { ring_mib: 64, cache_mib: 64, ..Setup::default() });
    let endpoint = regroup.endpoint();
    let sysbench = |script: &str, what: &str| {
        let port =
            endpoint.program("psql").get_envs().find_map(|(name, value)| (name == "PGPORT").then_some(value?)).map(ToOwned::to_owned);
        let mut command = Command::new("sysbench");
        command.arg(script).args(["--db-driver=pgsql", "--pgsql-host=127.0.0.1", "--pgsql-user=regroup", "--pgsql-db=regroup"]);
        command.arg(format!("--pgsql-port={}", port.expect("an endpoint has a port").to_string_lossy()));
        command.args(["--tables=2", "--table-size=5000", "--threads=4", "--events=400", "--time=0", what]);
        run(&mut command, "sysbench")
    };
    sysbench("oltp_read_write", "prepare");
    for script in ["oltp_point_select", "oltp_read_write", "oltp_write_only", "oltp_read_only"] {
        let report = sysbench(script, "run");
        let line = |name: &str| report.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
        let events = line("total number of events:").unwrap_or_else(|| panic!("{report}"));
        assert_eq!(events, "400", "{script}:\n{report}");
    }
    assert_eq!(psql(&endpoint, &["SELECT count(*) FROM sbtest1", "SELECT count(*) FROM sbtest2"]), "5000\n5000\n");
    sysbench("oltp_read_write", "cleanup");
    regroup.stop();
    regroup.verify();
}

/// A Python that has the drivers: `REGROUP_PYTHON`, else the one that `tools/test` makes beside the build, else the system's.
fn python() -> PathBuf {
    let here = std::env::current_exe().expect("a test knows where it is");
    let made = here.ancestors().nth(3).expect("tests lie in target/<profile>/deps").join("python/bin/python");
    match std::env::var_os("REGROUP_PYTHON") {
        Some(python) => python.into(),
        None if made.exists() => made,
        None => "python3".into(),
    }
}

/// Runs a script of `clients/` that needs Python's `modules`, brought by `packages` of PyPI.
fn script(name: &str, modules: &str, packages: &str) {
    let python = python();
    let present = output(Command::new(&python).args(["-c", &format!("import {modules}")]), "python3-venv");
    assert!(
        present.status.success(),
        "{} lacks {modules}: run tools/test, or pip install {packages}\n{}",
        python.display(),
        said(&present)
    );
    let mut regroup = Regroup::start(Setup::default());
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name);
    let mut command = Command::new(&python);
    for (variable, value) in regroup.endpoint().program("psql").get_envs() {
        command.env(variable, value.unwrap_or_default());
    }
    let said = run(command.arg("-B").arg(path), "python3");
    println!("{said}");
    assert!(said.trim_end().ends_with("ok"), "{said}");
    regroup.stop();
    regroup.verify();
}

#[test]
fn psycopg_works() {
    script("with_psycopg.py", "psycopg", "'psycopg[binary]'");
}

#[test]
fn psycopg2_works() {
    script("with_psycopg2.py", "psycopg2", "psycopg2-binary");
}

#[test]
fn sqlalchemy_works() {
    script("with_sqlalchemy.py", "psycopg, psycopg2, sqlalchemy", "'psycopg[binary]' psycopg2-binary SQLAlchemy");
}
