//! A real `regroupd` and clients that don't follow the protocol, or overdo it (issue 3, item 13): nothing they do ends the instance, stops
//! somebody else, or leaves anything behind.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use cluster_tests::conversation::{bind, cancel, corpus, execute, message, mutate, opening, parse, query, startup, sync};
use cluster_tests::endpoint::Listener;
use cluster_tests::isolation::arena::Crashable;
use cluster_tests::regroup::{Regroup, Setup};
use cluster_tests::waiting::wait_within;
use cluster_tests::{seeds, test_named, wire};
use regroup::base::Random;

/// How long anything may take that should happen at once: machines that run all tests are slow.
const SOON: Duration = Duration::from_secs(30);

/// A running instance whose section `[postgres]` has these values, too.
fn start(options: &[(&str, i64)]) -> Regroup {
    let mut regroup = Regroup::make(Setup::default());
    let file = regroup.home().join("regroup.toml");
    let text = std::fs::read_to_string(&file).expect("the configuration can be read");
    let mut table: toml::Table = toml::from_str(&text).expect("the configuration is TOML");
    let section = table.get_mut("postgres").and_then(toml::Value::as_table_mut).expect("init wrote a section postgres");
    section.extend(options.iter().map(|(name, value)| (name.to_string(), (*value).into())));
    std::fs::write(&file, toml::to_string(&table).expect("TOML can be written")).expect("the configuration can be written");
    regroup.open();
    regroup
}

fn connect(regroup: &Regroup) -> TcpStream {
    let Listener::Tcp(port) = regroup.endpoint().listener else { panic!("regroupd listens on TCP") };
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(SOON))).expect("a socket has options");
    stream
}

/// Reads until there is nothing more for `quiet`, or the end: what came, and whether it was the end.
fn hear(stream: &mut TcpStream, quiet: Duration) -> (Vec<u8>, bool) {
    stream.set_read_timeout(Some(quiet)).expect("a socket has options");
    let mut heard = Vec::new();
    let mut piece = [0; 8192];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return (heard, true),
            Ok(count) => heard.extend_from_slice(&piece[..count]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => return (heard, false),
            // It closed with our bytes unread.
            Err(_) => return (heard, true),
        }
    }
}

/// Whether `heard` has an error of that SQLSTATE.
fn has_code(heard: &[u8], code: &str) -> bool {
    let field = [b"C", code.as_bytes(), b"\0"].concat();
    heard.windows(field.len()).any(|window| window == field)
}

/// What the process holds.
#[derive(Clone, Copy, Debug)]
struct Footprint {
    files: usize,
    threads: usize,
    resident_kib: u64,
}

fn footprint(regroup: &Regroup) -> Footprint {
    let event = regroup.event("starting").expect("it said who it is");
    let process = format!("/proc/{}", event["pid"].as_u64().expect("pid is a number"));
    let count = |what: &str| std::fs::read_dir(format!("{process}/{what}")).expect("the process runs").count();
    let status = std::fs::read_to_string(format!("{process}/status")).expect("the process runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    let resident_kib = resident.trim().trim_end_matches(" kB").parse().expect("a number of kB");
    Footprint { files: count("fd"), threads: count("task"), resident_kib }
}

/// Waits until the process holds no more than `before`, but for `spare_kib` of memory; and it still serves.
fn back_to(regroup: &mut Regroup, before: Footprint, spare_kib: u64) {
    let deadline = Instant::now() + SOON;
    loop {
        let now = footprint(regroup);
        if now.files <= before.files && now.threads <= before.threads && now.resident_kib <= before.resident_kib + spare_kib {
            break;
        }
        assert!(Instant::now() < deadline, "before {before:?}, now {now:?}:\n{}", regroup.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(regroup.runs(), "it ended:\n{}", regroup.log());
    assert_eq!(regroup.client().value("SELECT 1").expect("it serves"), "1");
    assert!(!regroup.log().contains("panicked"), "{}", regroup.log());
}

/// The instance after its first clients, so that what is allocated once is there.
fn warm(regroup: &mut Regroup) -> Footprint {
    for conversation in corpus() {
        let mut stream = connect(regroup);
        stream.write_all(&conversation).expect("it listens");
        hear(&mut stream, Duration::from_millis(200));
    }
    // Once nobody is connected any more, and the memory of the cache is there: a thread of low priority makes that, so on a loaded machine it takes long.
    wait_until("only the listener has a socket", || sockets(regroup) == 1);
    wait_until("the cache's memory is there", || !has_thread(regroup, "disk-memory"));
    footprint(regroup)
}

/// Whether the process has a thread called `name`.
fn has_thread(regroup: &Regroup, name: &str) -> bool {
    let event = regroup.event("starting").expect("it said who it is");
    let tasks = std::fs::read_dir(format!("/proc/{}/task", event["pid"].as_u64().expect("pid is a number"))).expect("the process runs");
    // A thread that ends meanwhile has no name any more.
    tasks.flatten().any(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name))
}

/// Waits until something holds that should hold soon.
#[track_caller]
fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    wait_within(SOON, what, holds);
}

/// Connections that the process's port has, its listener among them, by `/proc/net/tcp`: how many bytes each has not read yet.
fn unread(regroup: &Regroup) -> Vec<u64> {
    let Listener::Tcp(port) = regroup.endpoint().listener else { panic!("regroupd listens on TCP") };
    let own = format!("0100007F:{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux lists its sockets");
    let lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    // Local address, peer, state (01 established, 08 the peer has closed, 0A listening), bytes to send and to read.
    let lines = lines.filter(|line| line.len() > 4 && line[1] == own && ["01", "08", "0A"].contains(&line[3]));
    lines.map(|line| line[4].split_once(':').and_then(|(_, read)| u64::from_str_radix(read, 16).ok()).expect("two counts")).collect()
}

fn sockets(regroup: &Regroup) -> usize {
    unread(regroup).len()
}

/// How many sessions `pg_stat_activity` shows for which `condition` is true.
fn sessions_where(client: &mut wire::Client, condition: &str) -> u64 {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE {condition}");
    client.value(&sql).expect("sessions can be listed").parse().expect("a number")
}

/// Those that wait for another's transaction.
const WAITING: &str = "wait_event_type = 'Lock'";

#[test]
fn mutated_conversations_end_and_leave_nothing() {
    test_named!("mutated_conversations_end_and_leave_nothing").seeds(1, |seed| {
        let mut regroup = start(&[]);
        let before = warm(&mut regroup);
        let corpus = corpus();
        let mut random = Random::new(seed);
        for number in 0..seeds::scaled(400) {
            let mut bytes = random.pick(&corpus).clone();
            let other = random.pick(&corpus).clone();
            mutate(&mut bytes, &other, &mut random);
            let mut stream = connect(&regroup);
            let (first, second) = bytes.split_at(random.index(bytes.len() + 1));
            // It may have closed after the first half.
            let _ = stream.write_all(first).and_then(|()| stream.write_all(second));
            let (_, ended) = hear(&mut stream, Duration::from_millis(10));
            let _ = stream.shutdown(std::net::Shutdown::Write);
            assert!(ended || hear(&mut stream, SOON).1, "conversation {number} of seed {seed} doesn't end: {bytes:?}\n{}", regroup.log());
        }
        back_to(&mut regroup, before, 32 << 10);
        regroup.stop();
    });
}

#[test]
fn announced_lengths_take_no_memory() {
    let mut regroup = start(&[("message_bytes_max", 1 << 28)]);
    let before = warm(&mut regroup);
    let hold: Vec<TcpStream> = (0..50)
        .map(|number| {
            let mut stream = connect(&regroup);
            let head = [&[b"QPBd"[number % 4]][..], &(1u32 << 28).to_be_bytes(), &[b'x'; 1000]].concat();
            stream.write_all(&[startup(), head].concat()).expect("it listens");
            stream
        })
        .collect();
    wait_until("what came is read", || unread(&regroup).iter().filter(|bytes| **bytes == 0).count() == 51);
    let during = footprint(&regroup);
    assert!(during.resident_kib < before.resident_kib + (16 << 10), "before {before:?}, with 50 announced messages of 256 MiB {during:?}");
    drop(hold);
    // One byte more than may be, and the longest and shortest there are.
    for (kind, length) in [(b'Q', (1 << 28) + 1), (b'd', u32::MAX >> 1), (b'B', u32::MAX), (b'P', 3), (b'S', 10_001), (b'Q', 0)] {
        let mut stream = connect(&regroup);
        stream.write_all(&[startup(), [&[kind][..], &length.to_be_bytes()].concat()].concat()).expect("it listens");
        let (heard, ended) = hear(&mut stream, SOON);
        assert!(ended && has_code(&heard, "08P01"), "{} of {length} bytes", char::from(kind));
    }
    for length in [0u32, 7, 10_001, 1 << 31, u32::MAX] {
        let mut stream = connect(&regroup);
        stream.write_all(&[length.to_be_bytes(), (3u32 << 16).to_be_bytes()].concat()).expect("it listens");
        let (heard, ended) = hear(&mut stream, SOON);
        assert!(ended && has_code(&heard, "08P01"), "a startup packet of {length} bytes");
    }
    // Counts inside of messages.
    for body in [&b"\0\0\xff\xff"[..], b"\0\0\0\0\xff\xff", b"\0\0\0\0\0\x01\x7f\xff\xff\xff", b"\0\0\0\0\0\x01\x80\0\0\0"] {
        let mut stream = connect(&regroup);
        stream.write_all(&[startup(), message(b'B', body)].concat()).expect("it listens");
        let (heard, ended) = hear(&mut stream, SOON);
        assert!(ended && has_code(&heard, "08P01"), "{body:?}");
    }
    // A message that is really long is taken, and its memory given back.
    let mut client = regroup.client();
    let sql = format!("SELECT 1 -- {}", "x".repeat(20 << 20));
    assert_eq!(client.value(&sql).expect("a long statement is possible"), "1");
    drop(client);
    back_to(&mut regroup, before, 32 << 10);
    regroup.stop();
}

#[test]
fn half_open_and_silent_connections_are_closed() {
    let options = [("authentication_timeout_ms", 500), ("idle_in_transaction_session_timeout_ms", 500), ("idle_session_timeout_ms", 1500)];
    let mut regroup = start(&options);
    let before = warm(&mut regroup);
    // Nothing, half a length, half a packet, encryption refused and then nothing.
    let beginnings = [vec![], vec![0, 0], startup()[..20].to_vec(), opening(80_877_103, b"")];
    let mut waiting: Vec<TcpStream> = (0..40)
        .map(|number| {
            let mut stream = connect(&regroup);
            stream.write_all(&beginnings[number % 4]).expect("it listens");
            stream
        })
        .collect();
    for stream in &mut waiting {
        let (heard, ended) = hear(stream, SOON);
        assert!(ended && has_code(&heard, "08P01"), "an unfinished beginning");
    }
    let mut idle = connect(&regroup);
    idle.write_all(&startup()).expect("it listens");
    let (heard, ended) = hear(&mut idle, SOON);
    assert!(ended && has_code(&heard, "57P05"), "an idle session");
    regroup.client().simple("CREATE TABLE held (id int PRIMARY KEY); INSERT INTO held VALUES (1)", &[]).expect("a table can be made");
    let mut holder = connect(&regroup);
    holder.write_all(&[startup(), query("BEGIN; DELETE FROM held WHERE id = 1")].concat()).expect("it listens");
    let (heard, ended) = hear(&mut holder, SOON);
    assert!(ended && has_code(&heard, "25P03"), "a session that is idle in its transaction");
    let mut other = regroup.client();
    assert_eq!(other.value("DELETE FROM held WHERE id = 1 RETURNING id").expect("the row is free, and there"), "1");
    drop((waiting, other));
    back_to(&mut regroup, before, 32 << 10);
    regroup.stop();
}

/// A client, let in as soon as there is a place: those that have left are noticed a moment later.
fn enter(regroup: &Regroup) -> wire::Client {
    let deadline = Instant::now() + SOON;
    loop {
        match regroup.endpoint().wire(SOON) {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline && error.to_string().contains("53300"), "{error}"),
        }
    }
}

#[test]
fn five_hundred_sessions_and_not_one_more() {
    let mut regroup = start(&[("max_connections", 500)]);
    let before = warm(&mut regroup);
    for _ in 0..2 {
        let mut clients: Vec<wire::Client> = (0..500).map(|_| enter(&regroup)).collect();
        let Err(refused) = regroup.endpoint().wire(SOON) else { panic!("a 501st session") };
        assert!(refused.to_string().contains("53300: sorry, too many clients already"), "{refused}");
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.value(&format!("SELECT {number}")).expect("every session is served"), number.to_string());
        }
        // A place is free as soon as a client has left.
        clients.pop();
        drop(enter(&regroup));
    }
    // A storm of clients that leave without a word, some in the middle of a transaction or of a message.
    for number in 0..2000 {
        let mut stream = connect(&regroup);
        let words = match number % 4 {
            0 => startup(),
            1 => [startup(), query("BEGIN; SELECT 1")].concat(),
            2 => [startup(), query("SELECT 1")[..8].to_vec()].concat(),
            _ => [startup(), parse("", "SELECT 1", &[]), bind("", "", 0, &[]), execute("", 0), sync()].concat(),
        };
        stream.write_all(&words).expect("it listens");
    }
    back_to(&mut regroup, before, 64 << 10);
    regroup.stop();
}

/// A session that waits for a row which another transaction holds.
struct Waiting {
    client: wire::Client,
    key: (i32, i32),
}

/// Starts to wait for the row `id`; the answer comes by itself when the session is cancelled.
fn wait_for(regroup: &Regroup, id: u32) -> (Waiting, std::thread::JoinHandle<(wire::Client, Option<String>)>) {
    let mut client = regroup.client();
    let key = client.key.expect("a session has a key");
    let spare = regroup.client();
    let thread = std::thread::spawn(move || {
        let code = client.sqlstate(&format!("UPDATE storm SET n = n + 1 WHERE id = {id}")).expect("the session lives");
        (client, code)
    });
    (Waiting { client: spare, key }, thread)
}

fn cancel_request(regroup: &Regroup, pid: i32, secret: i32) {
    let mut stream = connect(regroup);
    stream.write_all(&cancel(pid, secret)).expect("it listens");
    let (heard, ended) = hear(&mut stream, SOON);
    assert!(ended && heard.is_empty(), "a cancel request has no answer");
}

#[test]
fn cancel_storms_stop_only_whom_they_name() {
    let mut regroup = start(&[]);
    let before = warm(&mut regroup);
    let mut holder = regroup.client();
    holder
        .simple("CREATE TABLE storm (id int PRIMARY KEY, n int); INSERT INTO storm VALUES (1, 0), (2, 0)", &[])
        .expect("a table can be made");
    holder.simple("BEGIN; UPDATE storm SET n = 0", &[]).expect("rows can be locked");
    let (first, first_thread) = wait_for(&regroup, 1);
    let (second, second_thread) = wait_for(&regroup, 2);
    let mut witness = regroup.client();
    wait_until("both wait for their row", || sessions_where(&mut witness, WAITING) == 2);
    let mut random = Random::new(7);
    for number in 0..1000 {
        let (pid, secret) = (second.key.0, second.key.1);
        match number % 4 {
            0 => cancel_request(&regroup, pid, random.bits() as i32),
            1 => cancel_request(&regroup, pid.wrapping_add(1 + random.below(50) as i32), secret),
            2 => cancel_request(&regroup, first.key.0, secret),
            _ => cancel_request(&regroup, random.bits() as i32, random.bits() as i32),
        }
    }
    // Each of the requests was carried out before its connection closed: whoever was named would have stopped to wait.
    for _ in 0..50 {
        assert_eq!(sessions_where(&mut witness, WAITING), 2, "somebody was cancelled by a request that didn't know the secret");
    }
    assert!(!first_thread.is_finished() && !second_thread.is_finished(), "somebody was cancelled by a request that didn't know the secret");
    cancel_request(&regroup, first.key.0, first.key.1);
    let (mut cancelled, code) = first_thread.join().expect("the client's thread lives");
    assert_eq!(code.as_deref(), Some("57014"));
    // A late request, for a session that does nothing, doesn't hurt the next statement.
    for _ in 0..50 {
        cancel_request(&regroup, first.key.0, first.key.1);
    }
    assert_eq!(cancelled.value("SELECT 5").expect("the session goes on"), "5");
    assert!(!second_thread.is_finished(), "the other one waits on");
    holder.simple("COMMIT", &[]).expect("the holder commits");
    let (other, code) = second_thread.join().expect("the client's thread lives");
    assert_eq!(code, None);
    drop((holder, cancelled, other, witness, first.client, second.client));
    back_to(&mut regroup, before, 32 << 10);
    regroup.stop();
}

#[test]
fn a_client_that_dies_in_a_statement_holds_nothing() {
    let mut regroup = start(&[]);
    let before = warm(&mut regroup);
    let mut holder = regroup.client();
    holder
        .simple("CREATE TABLE gone (id int PRIMARY KEY, n int); INSERT INTO gone VALUES (1, 0), (2, 0)", &[])
        .expect("a table can be made");
    holder.simple("BEGIN; UPDATE gone SET n = 1 WHERE id = 1", &[]).expect("a row can be locked");
    let mut dying = connect(&regroup);
    dying
        .write_all(&[startup(), query("BEGIN; UPDATE gone SET n = 2 WHERE id = 2; UPDATE gone SET n = 2 WHERE id = 1")].concat())
        .expect("it listens");
    let mut other = regroup.client();
    wait_until("it waits for the row", || sessions_where(&mut other, WAITING) == 1);
    drop(dying);
    // Its row is free although the one that it waited for is not.
    assert_eq!(other.value("UPDATE gone SET n = n + 5 WHERE id = 2 RETURNING n").expect("the row becomes free"), "5");
    drop((holder, other));
    back_to(&mut regroup, before, 32 << 10);
    regroup.stop();
}

#[test]
fn an_instance_that_stops_tells_its_sessions_and_rolls_them_back() {
    let mut regroup = start(&[]);
    regroup.client().simple("CREATE TABLE last (id int PRIMARY KEY)", &[]).expect("a table can be made");
    let mut sessions: Vec<TcpStream> = (0..20)
        .map(|number| {
            let mut stream = connect(&regroup);
            let doing = match number % 2 {
                0 => query("SELECT 1"),
                _ => query(&format!("BEGIN; INSERT INTO last VALUES ({})", number % 4)),
            };
            stream.write_all(&[startup(), doing].concat()).expect("it listens");
            stream
        })
        .collect();
    // Of those who insert, two are first, and the others wait for them.
    let mut witness = regroup.client();
    wait_until("all have done what they can", || {
        let asked = sessions_where(&mut witness, "state = 'idle' AND query = 'SELECT 1'");
        let begun = sessions_where(&mut witness, "state = 'idle in transaction' AND query LIKE 'BEGIN; INSERT%'");
        (asked, begun, sessions_where(&mut witness, WAITING)) == (10, 2, 8)
    });
    regroup.stop();
    for stream in &mut sessions {
        let (heard, ended) = hear(stream, SOON);
        assert!(ended && has_code(&heard, "57P01"), "{:?}", String::from_utf8_lossy(&heard));
    }
    regroup.open();
    assert_eq!(regroup.client().value("SELECT count(*) FROM last").expect("it serves"), "0");
    regroup.stop();
}
