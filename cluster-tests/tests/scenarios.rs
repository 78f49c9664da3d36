//! What can happen to an instance, each a named test, through SQL, with a real process and `kill -9` (issue 3, item 9; T8, R10).
//!
//! Each ends with the storage verified offline. `REGROUP_LOSER_ROWS` sets the size of the big loser; 10^6 in CI.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cluster_tests::isolation::arena::Crashable;
use cluster_tests::regroup::{Regroup, Setup};
use cluster_tests::stock::{self, eventually, must};
use cluster_tests::wire::Client;
use regroup::base::limits::PAGE_SIZE;
use regroup::page::superblock::{DOUBLE_WRITE_AT, DOUBLE_WRITE_IMAGES_AT, PAGES_AT};

/// A small cluster that checkpoints only when told to, or when the ring fills.
fn quiet() -> Setup {
    Setup { cache_mib: 16, ring_mib: 64, options: vec![("checkpoint_interval_ms", 3_600_000.into())], ..Setup::default() }
}

fn finish(mut server: Regroup) {
    server.stop();
    server.verify();
}

/// Sends a statement from a thread of its own, which gives back the answer's SQLSTATE or what became of the connection.
fn in_background(server: &Regroup, sql: &'static str) -> std::thread::JoinHandle<std::io::Result<Option<String>>> {
    let mut client = server.client();
    std::thread::spawn(move || client.sqlstate(sql))
}

/// Waits until a statement has begun, or has ended already.
fn under_way(server: &Regroup, sql: &str) {
    let mut witness = server.client();
    let deadline = Instant::now() + Duration::from_secs(30);
    let asked = format!("SELECT count(*) FROM pg_stat_activity WHERE query = '{sql}'");
    while witness.value(&asked).expect("sessions can be listed") == "0" {
        assert!(Instant::now() < deadline, "{sql} doesn't begin");
    }
}

/// Chooses when the process is killed, and nothing else: rounds try one moment after the other, and what must hold holds after each.
fn moment(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

#[test]
fn plain_crash() {
    let mut server = Regroup::start(quiet());
    let mut client = server.client();
    stock::make(&mut client);
    stock::fill(&mut client, 0..2000, 50);
    must(&mut client, "BEGIN");
    must(&mut client, "UPDATE stock SET amount = amount + 1000000, label = 'lost'");
    must(&mut client, "DELETE FROM stock WHERE id < 500");
    stock::fill(&mut client, 2000..2500, 50);
    // A commit behind it makes the loser's redo durable.
    must(&mut server.client(), "CREATE TABLE later (a int)");
    server.crash();
    stock::holds(&mut server.client(), 0..2000);
    assert_eq!(server.client().value("SELECT count(*) FROM later").unwrap(), "0");
    finish(server);
}

#[test]
fn crash_during_a_checkpoint() {
    let mut server = Regroup::start(quiet());
    let mut client = server.client();
    stock::make(&mut client);
    let (mut rows, mut hits) = (0, 0);
    for round in 0..12 {
        let mut client = server.client();
        stock::fill(&mut client, rows..rows + 3000, 400);
        rows += 3000;
        let checkpoint = in_background(&server, "CHECKPOINT");
        under_way(&server, "CHECKPOINT");
        moment(round % 6 * 3);
        server.crash();
        // It had no answer: it was under way.
        hits += u32::from(checkpoint.join().unwrap().is_err());
        stock::holds(&mut server.client(), 0..rows);
        if hits >= 4 {
            break;
        }
    }
    assert!(hits >= 2, "only {hits} checkpoints were under way when the process was killed");
    finish(server);
}

#[test]
fn many_active_transactions() {
    const CLIENTS: u64 = 80;
    let mut server = Regroup::start(quiet());
    let mut client = server.client();
    stock::make(&mut client);
    stock::fill(&mut client, 0..CLIENTS * 10, 50);
    let mut open: Vec<Client> = (0..CLIENTS).map(|_| server.client()).collect();
    for (number, client) in (0..CLIENTS).zip(&mut open) {
        must(client, "BEGIN");
        must(client, &format!("UPDATE stock SET amount = amount + 7000 WHERE id >= {} AND id < {}", number * 10, number * 10 + 10));
        let added = 10_000 + number * 10;
        must(client, &stock::insertion(added..added + 10, 50));
        must(client, "SAVEPOINT s");
        must(client, &format!("DELETE FROM stock WHERE id = {}", number * 10));
    }
    // Half commit: the even ones, of which a quarter first undo their savepoint.
    for (number, client) in (0..CLIENTS).zip(&mut open) {
        if number % 4 == 0 {
            must(client, "ROLLBACK TO s");
        }
        if number % 2 == 0 {
            must(client, "COMMIT");
        }
    }
    server.crash();
    let mut client = server.client();
    for number in 0..CLIENTS {
        let count = |client: &mut Client, filter: &str| client.value(&format!("SELECT count(*) FROM stock WHERE {filter}")).unwrap();
        let old = format!("id >= {} AND id < {}", number * 10, number * 10 + 10);
        let new = format!("id >= {} AND id < {}", 10_000 + number * 10, 10_010 + number * 10);
        let changed = count(&mut client, &format!("{old} AND amount >= 7000"));
        let found = (count(&mut client, &old), changed, count(&mut client, &new));
        let expected = match number % 4 {
            0 => ("10", "10", "10"),
            2 => ("9", "9", "10"),
            _ => ("10", "0", "0"),
        };
        assert_eq!((found.0.as_str(), found.1.as_str(), found.2.as_str()), expected, "transaction {number}");
    }
    // What losers had locked can be changed.
    must(&mut client, "UPDATE stock SET amount = 0");
    finish(server);
}

/// Where `needle` is in a file, from `from` on.
fn find(file: &Path, from: u64, needle: &str) -> Vec<u64> {
    let bytes = std::fs::read(file).expect("a storage file can be read");
    let from = from as usize;
    let found = bytes[from..].windows(needle.len()).enumerate().filter(|(_, window)| *window == needle.as_bytes());
    found.map(|(position, _)| (from + position) as u64).collect()
}

fn flip(file: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).expect("a storage file can be opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it can be read");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("it can be written");
}

#[test]
fn damaged_log_record() {
    let mut server = Regroup::start(quiet());
    let mut client = server.client();
    stock::make(&mut client);
    stock::fill(&mut client, 0..100, 50);
    must(&mut client, "CREATE TABLE marked (id int PRIMARY KEY, what text)");
    must(&mut client, "INSERT INTO marked VALUES (1, 'needle-in-the-log')");
    stock::fill(&mut client, 100..3000, 50);
    server.kill();
    let redo = server.storage("redo.1");
    let places = find(&redo, DOUBLE_WRITE_IMAGES_AT + 128 * PAGE_SIZE as u64, "needle-in-the-log");
    assert!(!places.is_empty(), "the log has no such record");
    flip(&redo, places[0]);
    // Before the end: nothing is skipped, nothing opened, and it says where.
    server.launch();
    let log = server.opened().expect_err("a damaged log must not be opened");
    assert!(log.contains("redo.1"), "the message must name the file:\n{log}");
    flip(&redo, places[0]);
    server.open();
    stock::holds(&mut server.client(), 0..3000);
    assert_eq!(server.client().value("SELECT what FROM marked WHERE id = 1").unwrap(), "needle-in-the-log");
    finish(server);
}

/// The page indexes of the batch in the double-write area, unless it is voided.
fn double_written(redo: &Path) -> Vec<u64> {
    let mut header = vec![0; 4096];
    OpenOptions::new()
        .read(true)
        .open(redo)
        .and_then(|file| file.read_exact_at(&mut header, DOUBLE_WRITE_AT))
        .expect("the area can be read");
    let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    if header[28] != 0 {
        return Vec::new();
    }
    let item = |index: usize| {
        let at = 32 + 16 * index;
        let id = u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        regroup::base::PageId(id).index()
    };
    (0..usize::from(u16_at(26))).map(item).collect()
}

#[test]
fn torn_page() {
    let mut server = Regroup::start(quiet());
    let mut client = server.client();
    stock::make(&mut client);
    let mut rows = 0;
    let mut torn = 0;
    for round in 0..40 {
        let mut client = server.client();
        stock::fill(&mut client, rows..rows + 1500, 400);
        rows += 1500;
        let checkpoint = in_background(&server, "CHECKPOINT");
        under_way(&server, "CHECKPOINT");
        moment(round % 5);
        server.kill();
        drop(checkpoint.join());
        let pages = double_written(&server.storage("redo.1"));
        let data = OpenOptions::new().read(true).write(true).open(server.storage("data.0")).expect("it can be opened");
        let length = data.metadata().expect("it has a length").len();
        for index in &pages {
            // Half of it as if the power had gone: whatever was there before, here nothing.
            let half = PAGES_AT + index * PAGE_SIZE as u64 + 4096;
            assert!(half < length, "page {index} has a home");
            data.write_all_at(&[0; 4096], half).expect("it can be written");
        }
        server.open();
        if !pages.is_empty() {
            let report = server.event("recovered").expect("it was recovered");
            let restored = report["report"]["pages_restored"].as_u64().expect("a number");
            assert_eq!(report["report"]["quarantined"].as_array().map(Vec::len), Some(0), "{report}");
            torn += restored;
        }
        stock::holds(&mut server.client(), 0..rows);
        if torn > 0 {
            break;
        }
    }
    assert!(torn > 0, "no page was caught between the double-write area and its home");
    finish(server);
}

/// The smallest ring and a small cache: 24 MB of rows are several times as much as either holds.
fn tight() -> Setup {
    Setup { cache_mib: 4, ring_mib: 8, ..Setup::default() }
}

#[test]
fn very_long_transaction() {
    let mut server = Regroup::start(tight());
    let mut client = server.client();
    stock::make(&mut client);
    stock::fill(&mut client, 0..1000, 1000);
    // More redo than the ring, more pages than the cache: it commits.
    must(&mut client, "BEGIN");
    stock::fill(&mut client, 1000..24_000, 1000);
    must(&mut client, "COMMIT");
    stock::holds(&mut client, 0..24_000);
    // Another is undone.
    must(&mut client, "BEGIN");
    must(&mut client, "UPDATE stock SET amount = amount + 5, pad = 'short'");
    must(&mut client, "DELETE FROM stock WHERE id >= 12000");
    assert_eq!(stock::totals(&mut client).0, 12_000);
    must(&mut client, "ROLLBACK");
    stock::holds(&mut client, 0..24_000);
    // A third is killed in the middle; others work beside it.
    must(&mut client, "BEGIN");
    stock::fill(&mut client, 24_000..44_000, 1000);
    must(&mut server.client(), "CREATE TABLE beside (a int)");
    must(&mut server.client(), "INSERT INTO beside VALUES (1)");
    server.crash();
    stock::holds(&mut server.client(), 0..24_000);
    assert_eq!(server.client().value("SELECT count(*) FROM beside").unwrap(), "1");
    finish(server);
}

#[test]
fn low_memory() {
    // Less address space than a scan that kept its rows would need, and the smallest cache.
    let limits = vec![(libc::RLIMIT_DATA, 400 << 20)];
    let options = vec![("recovery_memory_bytes", (16 << 20).into())];
    let mut server = Regroup::start(Setup { cache_mib: 2, ring_mib: 8, limits, options, ..Setup::default() });
    let mut client = server.client();
    stock::make(&mut client);
    stock::fill(&mut client, 0..20_000, 1000);
    // Forty clients at once, each with its own transaction.
    let mut clients: Vec<Client> = (0..40).map(|_| server.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        must(client, "BEGIN");
        must(client, &format!("UPDATE stock SET amount = amount WHERE id >= {} AND id < {}", number * 100, number * 100 + 100));
    }
    for client in &mut clients {
        must(client, "COMMIT");
    }
    stock::holds(&mut client, 0..20_000);
    // Twenty times 20 MB to sort at once are more than there is: 53200 for those that can't have it, or a slower answer; never the end.
    let sorts: Vec<_> = (0..20).map(|_| in_background(&server, "SELECT a.* FROM stock a ORDER BY a.pad, a.label DESC")).collect();
    for sort in sorts {
        let state = sort.join().unwrap().expect("the connection outlives a lack of memory");
        assert!(state.is_none() || state.as_deref() == Some("53200"), "{state:?}");
    }
    must(&mut client, "INSERT INTO stock VALUES (20000, 20000, 'l20000', '')");
    server.crash();
    stock::holds(&mut server.client(), 0..20_001);
    finish(server);
}

/// A file system of a certain size, in memory.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(mib: u32) -> SmallDisk {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let size = format!("size={mib}m");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory.path()).status();
        assert!(done.expect("mount can be run").success(), "mounting needs root");
        SmallDisk(directory)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached, in case a failing test left something open.
        drop(Command::new("umount").arg("--lazy").arg(self.0.path()).status());
    }
}

#[test]
fn full_disk() {
    let disk = SmallDisk::new(64);
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 8 << 20]).expect("there is room at first");
    let mut server = Regroup::start(Setup { ring_mib: 8, cache_mib: 4, directory: Some(disk.0.path().into()), ..Setup::default() });
    let (mut client, mut other) = (server.client(), server.client());
    stock::make(&mut client);
    must(&mut client, "CREATE TABLE beside (id int PRIMARY KEY, n int)");
    must(&mut client, "INSERT INTO beside VALUES (1, 0)");
    let mut rows = 0;
    let state = loop {
        match client.sqlstate(&stock::insertion(rows..rows + 200, 1500)).expect("a full disk ends no connection") {
            None => rows += 200,
            Some(state) => break state,
        }
        assert!(rows < 200_000, "64 MiB can't hold that");
    };
    assert_eq!(state, "53100", "after {rows} rows");
    // The statement is undone, and service goes on: reading, small changes in place, transactions, rollback.
    stock::holds(&mut client, 0..rows);
    for round in 1..=20 {
        must(&mut other, "UPDATE beside SET n = n + 1 WHERE id = 1");
        assert_eq!(other.value("SELECT n FROM beside WHERE id = 1").unwrap(), round.to_string());
    }
    must(&mut client, "BEGIN");
    must(&mut client, "UPDATE beside SET n = 1000 WHERE id = 1");
    assert_eq!(client.sqlstate(&stock::insertion(rows..rows + 200, 1500)).unwrap().as_deref(), Some("53100"));
    assert_eq!(client.sqlstate("SELECT 1").unwrap().as_deref(), Some("25P02"));
    must(&mut client, "ROLLBACK");
    assert_eq!(client.value("SELECT n FROM beside WHERE id = 1").unwrap(), "20");
    // A crash on the full disk.
    server.crash();
    let mut client = server.client();
    stock::holds(&mut client, 0..rows);
    assert_eq!(client.value("SELECT n FROM beside WHERE id = 1").unwrap(), "20");
    // Room again.
    std::fs::remove_file(&ballast).expect("it can be removed");
    stock::fill(&mut client, rows..rows + 400, 1500);
    stock::holds(&mut client, 0..rows + 400);
    finish(server);
}

#[test]
fn repeated_crashes() {
    let mut server = Regroup::start(tight());
    let mut client = server.client();
    stock::make(&mut client);
    stock::fill(&mut client, 0..20_000, 100);
    // A loser whose rollback takes longer than the server will live.
    must(&mut client, "BEGIN");
    must(&mut client, "UPDATE stock SET amount = amount + 1000000, label = 'lost'");
    stock::fill(&mut client, 20_000..60_000, 100);
    must(&mut server.client(), "CREATE TABLE later (a int)");
    for round in 0..8u64 {
        server.kill();
        server.launch();
        if round % 2 == 0 {
            // While it recovers.
            moment(5 + 10 * round);
            continue;
        }
        // While it rolls back; and what it shows meanwhile is right.
        server.open();
        assert_eq!(server.client().value("SELECT amount FROM stock WHERE id = 19999").unwrap(), "19999", "round {round}");
        must(&mut server.client(), &format!("INSERT INTO later VALUES ({round})"));
        moment(10 * round);
    }
    server.kill();
    server.open();
    stock::holds(&mut server.client(), 0..20_000);
    assert_eq!(server.client().value("SELECT count(*) FROM later").unwrap(), "4");
    // Nothing is locked any more, or is set free for who asks.
    must(&mut server.client(), "UPDATE stock SET amount = amount + 1");
    finish(server);
}

fn loser_rows() -> u64 {
    std::env::var("REGROUP_LOSER_ROWS").ok().map_or(1_000_000, |text| text.parse().expect("REGROUP_LOSER_ROWS is a number"))
}

/// From exec until the first client has an answer.
fn served(server: &mut Regroup) -> Duration {
    server.kill();
    server.launch();
    server.open();
    assert_eq!(server.client().value("SELECT 1").unwrap(), "1");
    server.started().elapsed()
}

#[test]
fn a_loser_of_a_million_rows_does_not_delay_opening() {
    let rows = loser_rows();
    let mut server = Regroup::start(Setup { cache_mib: 128, ring_mib: 512, ..quiet() });
    let mut client = server.client();
    must(&mut client, "CREATE TABLE mass (id bigint PRIMARY KEY, n int)");
    must(&mut client, "CREATE TABLE beside (id int PRIMARY KEY, n int)");
    must(&mut client, "INSERT INTO beside VALUES (1, 1), (2, 2)");
    must(&mut client, "INSERT INTO mass VALUES (0, 0)");
    must(&mut client, "CHECKPOINT");
    let without = served(&mut server);
    let mut client = server.client();
    must(&mut client, "BEGIN");
    must(&mut client, "UPDATE beside SET n = 100");
    let data: String = (1..=rows).map(|id| format!("{id}\t1\n")).collect();
    let events = client.simple("COPY mass FROM STDIN", data.as_bytes()).expect("COPY is answered");
    assert!(
        events.iter().any(|event| matches!(event, cluster_tests::wire::Event::Complete(tag) if *tag == format!("COPY {rows}"))),
        "{events:?}"
    );
    // So that redo is short: what is measured is the loser.
    must(&mut server.client(), "CHECKPOINT");
    let with = served(&mut server);
    println!("first client after {without:?} without a loser, after {with:?} with one of {rows} rows");
    assert!(with < without + Duration::from_secs(2), "opening took {with:?} with a loser of {rows} rows, {without:?} without");
    // Someone who meets the loser's rows gets them at once, with all others still waiting for their turn.
    let mut client = server.client();
    let asked = Instant::now();
    must(&mut client, "UPDATE beside SET n = n + 10 WHERE id = 1");
    must(&mut client, &format!("INSERT INTO mass VALUES ({}, 2)", rows / 2));
    let waited = asked.elapsed();
    assert!(waited < Duration::from_secs(1), "the loser's rows were held for {waited:?}");
    assert_eq!(client.value("SELECT n FROM beside WHERE id = 1").unwrap(), "11");
    assert_eq!(client.value("SELECT n FROM beside WHERE id = 2").unwrap(), "2");
    assert_eq!(client.value("SELECT count(*) FROM mass").unwrap(), "2");
    eventually("the loser is rolled back, so that its table can be dropped", Duration::from_secs(60), || {
        server.client().sqlstate("DROP TABLE mass").unwrap().is_none()
    });
    finish(server);
}

#[test]
fn a_waiter_gets_the_losers_row_first() {
    let mut server = Regroup::start(Setup { cache_mib: 64, ring_mib: 128, ..quiet() });
    let mut client = server.client();
    stock::make(&mut client);
    stock::fill(&mut client, 0..60_000, 20);
    must(&mut client, "BEGIN");
    must(&mut client, "UPDATE stock SET amount = amount + 5, label = 'lost'");
    must(&mut server.client(), "CHECKPOINT");
    server.kill();
    server.launch();
    server.open();
    // Rows from all over, by several clients at once, each in its own order.
    let waiters: Vec<_> = (0..4u64)
        .map(|number| {
            let mut client = server.client();
            std::thread::spawn(move || {
                let mut longest = Duration::ZERO;
                for step in 0..25 {
                    let id = (number * 15_000 + step * 7919) % 60_000 / 4 * 4 + number;
                    let asked = Instant::now();
                    must(&mut client, &format!("UPDATE stock SET amount = amount + 1000000 WHERE id = {id}"));
                    longest = longest.max(asked.elapsed());
                    assert_eq!(client.value(&format!("SELECT amount FROM stock WHERE id = {id}")).unwrap(), (id + 1_000_000).to_string());
                }
                longest
            })
        })
        .collect();
    let longest = waiters.into_iter().map(|waiter| waiter.join().unwrap()).max().unwrap();
    println!("longest wait for a loser's row: {longest:?}");
    assert!(longest < Duration::from_secs(1), "a loser's row was held for {longest:?}");
    let sum: u64 = (0..60_000u64).sum::<u64>() + 100 * 1_000_000;
    eventually("the loser is rolled back", Duration::from_secs(60), || stock::totals(&mut server.client()) == (60_000, sum));
    finish(server);
}
