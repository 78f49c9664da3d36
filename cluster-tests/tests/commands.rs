//! `clusterctl` on real processes, as an operator or a script uses it (issue 3, item 7).

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cluster_tests::commands::{Cluster, Ran, clusterctl, run};
use cluster_tests::waiting::wait_within;
use serde_json::Value;

/// Writes to the storage of a cluster that isn't running (recovering it, if need be) with the demonstration's load until it has said that so many
/// transactions are committed, kills it in mid-write, and waits until its I/O has drained.
fn load_and_kill(cluster: &Cluster, commits: usize) {
    cluster.run(&["stop"]).expect(0);
    let mut load = Command::new(clusterctl())
        .args(["demo-load", "--seed", "5", "--clients", "4", "--rows", "500", "--config"])
        .arg(cluster.path().join("regroup.toml"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the load can be started");
    let (said, done) = (load.stdout.take().expect("it is piped"), Arc::new(AtomicUsize::new(0)));
    let counted = done.clone();
    std::thread::spawn(move || {
        BufReader::new(said).lines().map_while(Result::ok).for_each(|_| _ = counted.fetch_add(1, Ordering::Relaxed))
    });
    wait_for("the load to commit", || done.load(Ordering::Relaxed) >= commits);
    assert!(load.try_wait().expect("it can be asked for").is_none(), "the load ended by itself");
    load.kill().expect("it can be killed");
    load.wait().expect("it ends");
    cluster.run(&["stop"]).expect(0);
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[track_caller]
fn wait_for(what: &str, holds: impl FnMut() -> bool) {
    wait_within(Duration::from_secs(60), what, holds);
}

/// Flips one bit of the byte at `at`.
fn flip(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("the byte is there");
    file.write_all_at(&[byte[0] ^ 4], at).expect("it can be written");
}

#[test]
fn a_life_from_init_over_a_crash_to_a_damaged_page() {
    let cluster = Cluster::new(&[]);
    let status = cluster.status();
    assert_eq!(keys(&status), ["cluster", "coordinator", "epoch", "instances", "recovery", "view", "voting"]);
    assert_eq!(keys(&status["instances"][0]), ["guard_pid", "heartbeats", "id", "incarnation", "parked", "pid", "postgres", "state"]);
    assert_eq!(status["instances"].as_array().expect("a list").len(), 1);
    assert_eq!((&status["instances"][0]["state"], &status["instances"][0]["pid"]), (&"stopped".into(), &Value::Null));
    assert_eq!((&status["coordinator"], &status["recovery"]), (&Value::Null, &Value::Null));
    let id = status["cluster"].as_str().expect("a string").to_string();
    assert_eq!(id.len(), 32);
    cluster.run(&["verify"]).expect(0);

    let started = cluster.run(&["start"]).expect(0);
    assert!(started.said.contains("role \"regroup\""), "{}", started.said);
    let status = cluster.status();
    assert_eq!((&status["cluster"], &status["coordinator"]), (&Value::from(id), &Value::from(1)));
    let instance = &status["instances"][0];
    assert_eq!((&instance["id"], &instance["state"]), (&1.into(), &"open".into()));
    assert!(instance["guard_pid"].is_u64() && instance["guard_pid"] != instance["pid"], "{instance}");
    assert!(instance["postgres"].as_str().expect("a string").starts_with("127.0.0.1:"));
    let first_life = instance["incarnation"].as_u64().expect("a number");
    let first_epoch = status["epoch"].as_u64().expect("a number");

    cluster.run(&["stop", "--kill"]).expect(0);
    assert_eq!((cluster.state().as_str(), cluster.pid()), ("dead", None));
    load_and_kill(&cluster, 300);
    assert_eq!(cluster.state(), "dead");
    let refused = cluster.run(&["verify"]).expect(2);
    assert!(refused.complained.contains("--recover"), "{}", refused.complained);

    cluster.run(&["start"]).expect(0);
    let status = cluster.status();
    let recovery = &status["recovery"];
    assert_eq!((&recovery["under_way"], &recovery["instance"]), (&Value::Bool(false), &Value::from(1)));
    assert!(recovery["log_bytes"].as_u64().expect("a number") > 0, "{recovery}");
    assert!(status["instances"][0]["incarnation"].as_u64() > Some(first_life));
    assert!(status["epoch"].as_u64() > Some(first_epoch));
    let live = cluster.run(&["verify", "--json"]).expect(0).json();
    assert_eq!((&live["live"], &live["clean"]), (&Value::Bool(true), &Value::Bool(true)));
    assert!(live["keys"].as_u64().expect("a number") > 0, "{live}");
    cluster.run(&["checkpoint"]).expect(0);
    cluster.run(&["stop"]).expect(0);
    assert_eq!(cluster.state(), "stopped");
    assert!(!cluster.status()["recovery"].is_null(), "the last report is kept");

    let offline = cluster.run(&["verify", "--json"]).expect(0).json();
    assert_eq!((&offline["live"], &offline["findings_total"]), (&Value::Bool(false), &Value::from(0)));
    finds_a_flipped_bit(&cluster);
}

/// The last page of a tree that is neither the catalog's nor one that an instance needs to open: docs/formats/page.md has the places of kind and tree.
fn last_page_of_a_table(file: &File) -> u64 {
    let pages = file.metadata().expect("it is there").len() / 8192 - 1;
    let of_a_table = |page: &u64| {
        let mut head = [0; 64];
        file.read_exact_at(&mut head, 8192 * (1 + page)).expect("it is as long as it says");
        let tree = u32::from_le_bytes(head[56..60].try_into().expect("four bytes"));
        head[4] == 3 && (17..u32::MAX - 1024).contains(&tree)
    };
    (0..pages).rev().find(of_a_table).expect("there is a table")
}

/// One bit of a page in use, flipped behind everybody's back, is found offline and live, with page and file; put back, all is clean again.
fn finds_a_flipped_bit(cluster: &Cluster) {
    let path = cluster.path().join("storage/data.0");
    let file = File::options().read(true).write(true).open(&path).expect("the data file is there");
    let page = last_page_of_a_table(&file);
    let at = 8192 * (1 + page) + 5000;
    flip(&file, at);
    let found = cluster.run(&["verify"]).expect(1);
    assert!(found.said.contains(&format!("p0:{page} at offset {} of {}", 8192 * (1 + page), path.display())), "{}", found.said);
    cluster.run(&["start"]).expect(0);
    let live = cluster.run(&["verify", "--json"]).expect(1).json();
    let places: Vec<&str> = live["findings"].as_array().expect("a list").iter().filter_map(|found| found["place"].as_str()).collect();
    assert!(places.iter().any(|place| place.contains(&format!("p0:{page} at offset"))), "{live}");
    cluster.run(&["stop"]);
    flip(&file, at);
    cluster.run(&["verify", "--recover"]).expect(0);
}

#[test]
fn verify_recovers_when_asked() {
    let cluster = Cluster::new(&[]);
    load_and_kill(&cluster, 200);
    cluster.run(&["verify"]).expect(2);
    let done = cluster.run(&["verify", "--recover", "--json"]).expect(0).json();
    assert!(done["clean"] == true && done["keys"].as_u64() > Some(0), "{done}");
    assert_eq!(cluster.state(), "stopped");
    assert_eq!(cluster.status()["recovery"]["under_way"], false);
}

#[test]
fn damaged_superblocks_and_control_blocks_are_findings() {
    let cluster = Cluster::new(&[]);
    let redo = File::options().read(true).write(true).open(cluster.path().join("storage/redo.1")).expect("the redo file is there");
    flip(&redo, 8192 + 100);
    let found = cluster.run(&["verify"]).expect(1);
    assert!(found.said.contains("control") && found.said.contains("slot 0"), "{}", found.said);
    flip(&redo, 12288 + 100);
    let found = cluster.run(&["verify"]).expect(1);
    assert!(found.said.contains("neither slot is whole"), "{}", found.said);
    assert_eq!(cluster.state(), "dead", "it can't be told that it was closed");
    flip(&redo, 8192 + 100);
    flip(&redo, 12288 + 100);
    flip(&redo, 4096 + 60);
    let found = cluster.run(&["verify"]).expect(1);
    assert!(found.said.contains("superblock") && found.said.contains("redo.1"), "{}", found.said);
    flip(&redo, 4096 + 60);
    cluster.run(&["verify"]).expect(0);
}

#[test]
fn starting_and_stopping_are_idempotent_also_at_once() {
    let cluster = Cluster::new(&[]);
    cluster.run(&["stop"]).expect(0);
    let starts: Vec<Ran> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..5).map(|_| scope.spawn(|| cluster.run(&["start"]))).collect();
        starts.into_iter().map(|start| start.join().expect("it doesn't panic")).collect()
    });
    let pid = format!("pid {}", cluster.pid().expect("it runs"));
    let mut fresh = 0;
    for start in starts {
        let start = start.expect(0);
        assert!(start.said.contains(&pid), "{} isn't {pid}", start.said);
        fresh += usize::from(start.said.contains("open after"));
    }
    assert_eq!(fresh, 1, "one start started it");
    std::thread::scope(|scope| {
        let stops: Vec<_> = (0..3).map(|_| scope.spawn(|| cluster.run(&["stop", "1"]))).collect();
        for stop in stops {
            stop.join().expect("it doesn't panic").expect(0);
        }
    });
    assert_eq!(cluster.state(), "stopped");
    assert!(cluster.run(&["stop"]).expect(0).said.contains("stopped already"));
    cluster.run(&["start", "2"]).expect(2);
}

/// Whether a process has ended; it may not have been waited for yet.
fn has_ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rfind(')').is_none_or(|at| matches!(stat[at + 1..].trim_start().as_bytes().first(), Some(b'Z' | b'X')))
}

/// A kill leaves the instance, its socket and its I/O for a moment; starting as soon as the guard is dead must not stumble over any of them.
#[test]
fn kills_and_starts_in_quick_succession() {
    let cluster = Cluster::new(&[]);
    for _ in 0..10 {
        cluster.run(&["start"]).expect(0);
        let guard = cluster.guard_pid(1).expect("it has a guard");
        cluster.signal_guard(1, libc::SIGKILL);
        wait_for("the killed guard to be dead", || has_ended(guard));
    }
    cluster.run(&["start"]).expect(0);
    cluster.run(&["stop"]).expect(0);
    cluster.run(&["verify"]).expect(0);
}

#[test]
fn a_process_file_that_names_someone_else_misleads_nobody() {
    let cluster = Cluster::new(&[]);
    let mut bystander = Command::new("sleep").arg("600").spawn().expect("sleep can be started");
    let text = format!("{{\"pid\":{},\"started\":1,\"boot\":\"x\"}}", bystander.id());
    std::fs::write(cluster.path().join("instance-1/process"), text).expect("it can be written");
    assert_eq!((cluster.state().as_str(), cluster.pid()), ("stopped", None));
    cluster.run(&["stop", "--kill"]).expect(0);
    cluster.run(&["start"]).expect(0);
    assert_ne!(cluster.pid(), Some(i32::try_from(bystander.id()).expect("small")));
    cluster.run(&["stop"]).expect(0);
    assert!(bystander.try_wait().expect("it can be asked for").is_none(), "the bystander lives");
    bystander.kill().expect("it can be killed");
    bystander.wait().expect("it ends");
    std::fs::write(cluster.path().join("instance-1/process"), [0xff; 1000]).expect("it can be written");
    cluster.run(&["start"]).expect(0);
    assert_eq!(cluster.state(), "open");
}

/// A process that is stopped by a debugger, or whose host is overloaded.
#[test]
fn a_process_that_does_not_answer_is_said_to_be_so_and_can_be_killed() {
    let cluster = Cluster::new(&[]);
    cluster.run(&["start"]).expect(0);
    let pid = cluster.pid();
    cluster.signal(libc::SIGSTOP);
    let status = cluster.run(&["status", "--json"]).expect(0);
    assert!(status.complained.contains("doesn't answer"), "{}", status.complained);
    assert_eq!((&status.json()["instances"][0]["state"], cluster.pid()), (&"open".into(), pid));
    let late = cluster.run(&["stop", "--timeout", "1"]).expect(2);
    assert!(late.complained.contains("--kill"), "{}", late.complained);
    cluster.run(&["stop", "--kill"]).expect(0);
    assert_eq!(cluster.state(), "dead");
}

#[test]
fn a_started_process_is_on_its_own() {
    let cluster = Cluster::new(&[]);
    cluster.run(&["start"]).expect(0);
    let pid = cluster.pid().expect("it runs");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let session = stat[stat.rfind(')').expect("a name in parentheses") + 1..].split_ascii_whitespace().nth(3).expect("a session");
    let guard = cluster.guard_pid(1).expect("it is guarded");
    assert_eq!(session, guard.to_string(), "its guard has a session of its own");
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its files can be listed") {
        let to = std::fs::read_link(entry.expect("an entry").path()).unwrap_or_default();
        let to = to.to_string_lossy().into_owned();
        let ours = to.starts_with("socket:") || to.starts_with("anon_inode:") || to.starts_with("pipe:") || to == "/dev/null";
        let known = ours || to.contains("/cluster/") || to.is_empty() || to.starts_with("/proc/") || to.starts_with("/memfd:");
        assert!(known, "it holds {to} open");
    }
}

#[test]
fn without_a_cluster_there_is_a_hint() {
    let nowhere = Cluster::unmade();
    for command in ["start", "stop", "status", "verify", "connect", "logs", "checkpoint", "config"] {
        let ran = nowhere.run(&[command]).expect(2);
        assert!(ran.complained.contains("can't open the cluster's directory"), "{command}: {}", ran.complained);
        let ran = run([command]).expect(2);
        assert!(ran.complained.contains("--dir") && ran.complained.contains("REGROUP_DIR"), "{command}: {}", ran.complained);
    }
    std::fs::create_dir(nowhere.path()).expect("it can be made");
    let ran = nowhere.run(&["start"]).expect(2);
    assert!(ran.complained.contains("clusterctl init"), "{}", ran.complained);
    assert_eq!(std::fs::read_dir(nowhere.path()).expect("it is there").count(), 0, "looking leaves nothing");
}

#[test]
fn init_refuses_what_it_can_not_do_and_leaves_nothing() {
    let cluster = Cluster::unmade();
    for (arguments, complaint) in [
        (&["--instances", "65"][..], "must be 1 to 64"),
        (&["--instances", "0"], "must be 1 to 64"),
        (&["--instances", "2", "--listen", "127.0.0.1:65535"], "one each"),
        (&["--voting-files", "2"], "none of 1, 3, 5"),
        (&["--ring-size", "1MiB"], "ring_bytes"),
        (&["--ring-size", "64MB"], "64MiB"),
        (&["--cache", "1MiB"], "cache_bytes"),
        (&["--data-files", "0"], "data_files"),
        (&["--data-size", "1KiB"], "data_bytes"),
        // More than the file system has.
        (&["--ring-size", "15TiB"], "redo.1"),
        (&["--data-size", "900TiB"], "data.0"),
    ] {
        let ran = cluster.run(&[&["init"], arguments].concat()).expect(2);
        assert!(ran.complained.contains(complaint), "{arguments:?}: {}", ran.complained);
        assert!(!cluster.path().exists(), "{arguments:?} left something");
    }
    std::fs::create_dir(cluster.path()).expect("it can be made");
    std::fs::write(cluster.path().join("mine"), "keep me").expect("it can be written");
    cluster.run(&["init", "--ring-size", "15TiB"]).expect(2);
    let left: Vec<_> = std::fs::read_dir(cluster.path()).expect("it is there").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left, ["mine"]);
    cluster.run(&["init", "--ring-size", "8MiB"]).expect(0);
    let before = std::fs::read(cluster.path().join("regroup.toml")).expect("it is there");
    let again = cluster.run(&["init"]).expect(2);
    assert!(again.complained.contains("already"), "{}", again.complained);
    assert_eq!(std::fs::read(cluster.path().join("regroup.toml")).expect("it is there"), before);
    // A configuration that got lost is no reason to overwrite the data.
    std::fs::rename(cluster.path().join("regroup.toml"), cluster.path().join("away")).expect("it can be moved");
    assert!(cluster.run(&["init"]).expect(2).complained.contains("storage files"));
    std::fs::rename(cluster.path().join("away"), cluster.path().join("regroup.toml")).expect("it can be moved");
    cluster.run(&["verify"]).expect(0);
}

#[test]
fn an_init_that_was_killed_is_cleaned_up_by_the_next() {
    let cluster = Cluster::unmade();
    let arguments = ["init", "--ring-size", "2GiB"];
    let mut init =
        Command::new(clusterctl()).arg("--dir").arg(cluster.path()).args(arguments).stderr(Stdio::null()).spawn().expect("it starts");
    wait_for("the redo file to be made", || cluster.path().join("storage/redo.1").exists());
    let second = cluster.run(&["init"]).expect(2);
    assert!(second.complained.contains("at work"), "{}", second.complained);
    init.kill().expect("it can be killed");
    init.wait().expect("it ends");
    assert!(!cluster.path().join("regroup.toml").exists(), "two gibibytes of zeroes are written in less time than it takes to kill");
    assert!(cluster.run(&["start"]).expect(2).complained.contains("init"));
    let again = cluster.run(&["init", "--ring-size", "8MiB"]).expect(0);
    assert!(again.complained.contains("cut off"), "{}", again.complained);
    cluster.run(&["verify"]).expect(0);
}

#[test]
fn an_instance_that_does_not_open_says_why() {
    let cluster = Cluster::new(&[]);
    let file = cluster.path().join("regroup.toml");
    let good = std::fs::read_to_string(&file).expect("it is there");
    std::fs::write(&file, good.replace("[options]", "[options]\npage_io_dept = 3")).expect("it can be written");
    let ran = cluster.run(&["start"]).expect(2);
    assert!(ran.complained.contains("page_io_dept") && ran.complained.contains("line"), "{}", ran.complained);
    std::fs::write(&file, good.replace("[options]", "[options]\npage_io_depth = 0")).expect("it can be written");
    let ran = cluster.run(&["start"]).expect(2);
    assert!(ran.complained.contains("page_io_depth is 0") && ran.complained.contains("1 to 1024"), "{}", ran.complained);
    std::fs::write(&file, &good).expect("it can be written");
    std::fs::rename(cluster.path().join("storage/data.0"), cluster.path().join("storage/away")).expect("it can be moved");
    let ran = cluster.run(&["start"]).expect(2);
    assert!(ran.complained.contains("didn't open") && ran.complained.contains("data.0"), "{}", ran.complained);
    std::fs::rename(cluster.path().join("storage/away"), cluster.path().join("storage/data.0")).expect("it can be moved");
    cluster.run(&["start"]).expect(0);
    let logs = cluster.run(&["logs", "-n", "100"]).expect(0);
    assert!(logs.said.contains("data.0"), "{}", logs.said);
    assert!(!logs.said.contains('\x1b'), "no colours in a file");
    assert!(cluster.run(&["logs", "--events"]).expect(0).said.contains("\"open\""));
    let settings = cluster.run(&["config", "--json"]).expect(0).json();
    assert_eq!(settings["options"]["cache_bytes"], 8 << 20);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = taken.local_addr().expect("it has an address").to_string();
    let cluster = Cluster::new(&["--listen", &address]);
    assert_eq!(cluster.status()["instances"][0]["postgres"], address.as_str());
    let ran = cluster.run(&["start"]).expect(2);
    assert!(ran.complained.contains(&address) && ran.complained.contains("postgres.listen"), "{}", ran.complained);
    assert_eq!(cluster.state(), "stopped", "it had not touched the storage");
    drop(taken);
    cluster.run(&["start"]).expect(0);
    assert_eq!(cluster.status()["instances"][0]["postgres"], address.as_str());
}

/// Anything may connect to the admin socket that runs as the same user: a mistyped tool, a scan.
#[test]
fn the_admin_socket_survives_whatever_comes_in() {
    let cluster = Cluster::new(&[]);
    cluster.run(&["start"]).expect(0);
    let path = cluster.path().join("instance-1/admin.sock");
    let short = |bytes: &[u8]| {
        let mut stream = connect(&path);
        // The other side may hang up in the middle of it.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    for hostile in [
        &b"\n"[..],
        b"null\n",
        b"{}\n",
        b"{\"ask\":\"status\",\"more\":1}\n",
        b"{\"ask\":\"explode\"}\n",
        b"{\"ask\":\"status\"",
        b"\xff\xfe\x00\n",
        &[b'['; 1 << 20],
        &[b'x'; 5000],
    ] {
        let answer = short(hostile);
        assert!(answer.is_empty() || answer.starts_with("{\"error\":"), "{answer}");
    }
    assert!(short(b"{\"ask\":\"status\"}\n").contains("\"open\""));
    // Idle ones hold a place each for ten seconds at most; others come in when they are gone.
    let idle: Vec<UnixStream> = (0..8).map(|_| connect(&path)).collect();
    assert_eq!(cluster.state(), "open");
    drop(idle);
    assert_eq!(cluster.state(), "open");
    cluster.run(&["stop"]).expect(0);
}

fn connect(path: &std::path::Path) -> UnixStream {
    // The path itself may be too long for a socket's name.
    let folder = File::open(path.parent().expect("it lies in a folder")).expect("the folder is there");
    let short = format!("/proc/self/fd/{}/admin.sock", std::os::fd::AsRawFd::as_raw_fd(&folder));
    let stream = UnixStream::connect(short).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout can be set");
    stream
}

#[test]
fn a_directory_may_have_a_long_name() {
    let cluster = Cluster::unmade();
    let deep = cluster.path().join("d".repeat(200)).join("e".repeat(200));
    let in_deep = |arguments: &[&str]| {
        let mut all: Vec<&std::ffi::OsStr> = vec!["--dir".as_ref(), deep.as_os_str()];
        all.extend(arguments.iter().map(std::ffi::OsStr::new));
        run(all)
    };
    in_deep(&["init", "--ring-size", "8MiB", "--listen", "127.0.0.1:0"]).expect(0);
    in_deep(&["start"]).expect(0);
    assert_eq!(in_deep(&["status", "--json"]).expect(0).json()["instances"][0]["state"], "open");
    in_deep(&["stop"]).expect(0);
}
