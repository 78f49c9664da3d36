//! Guards and members on real processes of one host (issue 4, items 4, 6, 7 and 8): whoever is killed, nobody is left behind unguarded, nothing is
//! started before the old life is dead and drained, and the others hear of it.

use std::time::Duration;

use cluster_tests::commands::{Cluster, runs};
use cluster_tests::waiting::wait_within;
use serde_json::Value;

/// Longest wait for anything: a loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(120);

#[track_caller]
fn wait_for(what: &str, holds: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, holds);
}

/// Three members, started.
fn three(more: &[&str]) -> Cluster {
    let cluster = Cluster::new(&[&["--instances", "3"], more].concat());
    cluster.run(&["start"]).expect(0);
    cluster
}

/// The incarnations that the newest view has as members, by instance; nothing for one that isn't.
fn members(status: &Value) -> [Option<u64>; 3] {
    let members = status["view"]["members"].as_array().cloned().unwrap_or_default();
    [1, 2, 3].map(|id| members.iter().find(|member| member["id"] == id).and_then(|member| member["incarnation"].as_u64()))
}

fn epoch(status: &Value) -> u64 {
    status["view"]["epoch"].as_u64().expect("an epoch is a number")
}

fn unfenced(status: &Value) -> usize {
    status["view"]["evicted"].as_array().expect("a list").len()
}

#[test]
fn three_members_start_show_themselves_and_stop() {
    let cluster = three(&["--voting-files", "3"]);
    let status = cluster.status();
    assert!(members(&status).iter().all(Option::is_some), "{status}");
    assert_eq!((unfenced(&status), status["voting"].as_array().expect("a list").len()), (0, 3));
    assert!(status["voting"].as_array().expect("a list").iter().all(|file| file["state"] == "ok"), "{status}");
    assert!((1..=3).contains(&status["coordinator"].as_u64().expect("a number")));
    for id in 1..=3 {
        let instance = cluster.instance(id);
        assert_eq!((&instance["state"], &instance["parked"]), (&"open".into(), &Value::Null), "{instance}");
        assert_eq!(instance["incarnation"].as_u64(), members(&status)[usize::from(id) - 1], "{instance}");
        let (pid, guard) = (cluster.pid_of(id).expect("a process"), cluster.guard_pid(id).expect("a guard"));
        let parent = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        let parent = parent[parent.rfind(')').expect("a name") + 1..].split_ascii_whitespace().nth(1).expect("a parent").to_string();
        assert_eq!(parent, guard.to_string());
    }
    wait_for("everybody hears everybody", || {
        (1..=3).all(|id| {
            let beats = cluster.instance(id)["heartbeats"].as_array().cloned().unwrap_or_default();
            beats.len() == 2
                && beats.iter().all(|beat| beat["network_age_ms"].is_u64() && beat["disk_age_ms"].is_u64() && beat["suspected"] == false)
        })
    });
    let shown = cluster.run(&["status"]).expect(0).said;
    assert!(shown.contains("members 1 (incarnation") && shown.contains("voting.3: ok") && shown.contains("instance 2 hears 3"), "{shown}");
    cluster.run(&["start"]).expect(0);
    // One leaves by a view change; the others stay.
    cluster.run(&["stop", "3"]).expect(0);
    // It knows of the view before the others have written it down, and needn't wait for that.
    wait_for("the view without it to be written down", || members(&cluster.status())[2].is_none());
    let status = cluster.status();
    assert_eq!((unfenced(&status), &status["instances"][2]["state"]), (0, &"stopped".into()), "{status}");
    cluster.run(&["start", "3"]).expect(0);
    assert!(members(&cluster.status())[2].is_some());
    cluster.run(&["stop"]).expect(0);
    let status = cluster.status();
    assert!(status["instances"].as_array().expect("a list").iter().all(|instance| instance["state"] == "stopped"), "{status}");
    cluster.run(&["verify"]).expect(0);
}

#[test]
fn only_instance_1_serves_sql_and_the_others_say_so() {
    let cluster = three(&[]);
    let connect = |id: u16| {
        let address = cluster.instance(id)["postgres"].as_str().expect("an address").to_string();
        let port = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        cluster_tests::endpoint::Endpoint {
            listener: cluster_tests::endpoint::Listener::Tcp(port),
            user: "regroup".into(),
            database: "regroup".into(),
        }
        .wire(Duration::from_secs(30))
    };
    assert!(connect(1).is_ok());
    let refused = format!("{:?}", connect(2).err().expect("instance 2 serves no SQL"));
    assert!(refused.contains("57P03"), "{refused}");
}

#[test]
fn a_killed_instance_is_drained_and_started_again_in_a_new_life() {
    let cluster = three(&["--voting-files", "3"]);
    let before = cluster.status();
    let guard = cluster.guard_pid(2);
    cluster.signal_instance(2, libc::SIGKILL);
    wait_for("a new life of instance 2", || members(&cluster.status())[1] > members(&before)[1]);
    let after = cluster.status();
    assert!(epoch(&after) > epoch(&before), "{after}");
    assert_eq!(unfenced(&after), 0, "its guard has proven the old life's death");
    assert_eq!((members(&after)[0], members(&after)[2]), (members(&before)[0], members(&before)[2]), "nobody else was touched");
    wait_for("it serves", || cluster.instance(2)["state"] == "open");
    assert_eq!(cluster.guard_pid(2), guard, "the guard is the same");
    let log = cluster.run(&["logs", "2", "-n", "200"]).expect(0).said;
    assert!(log.contains("dead and drained"), "{log}");
}

#[test]
fn the_guards_death_is_the_instances_death_also_of_a_stopped_one() {
    let cluster = three(&[]);
    for (id, stopped) in [(2, false), (3, true)] {
        let pid = cluster.pid_of(id).expect("it runs");
        if stopped {
            cluster.signal_instance(id, libc::SIGSTOP);
        }
        cluster.signal_guard(id, libc::SIGKILL);
        wait_for("the instance to die with its guard", || !runs(pid));
        assert_eq!(cluster.guard_pid(id), None);
    }
    // Guard and instance are gone together: the locks of this host prove it to the survivor.
    wait_for("the survivor to be alone, and both fences to be confirmed", || {
        let status = cluster.status();
        let [first, second, third] = members(&status);
        first.is_some() && second.is_none() && third.is_none() && unfenced(&status) == 0
    });
    assert_eq!(cluster.instance(1)["state"], "open");
    assert_eq!(cluster.run(&["fence", "list"]).expect(0).complained, "");
    cluster.run(&["start"]).expect(0);
    assert!(members(&cluster.status()).iter().all(Option::is_some));
}

#[test]
fn a_stopped_instance_is_evicted_killed_by_its_guard_and_comes_back() {
    let cluster = three(&["--voting-files", "3"]);
    let before = cluster.status();
    let pid = cluster.pid_of(2).expect("it runs");
    cluster.signal_instance(2, libc::SIGSTOP);
    wait_for("the stopped process to be killed", || !runs(pid));
    wait_for("a new life of instance 2", || members(&cluster.status())[1] > members(&before)[1]);
    wait_for("every fence to be confirmed", || unfenced(&cluster.status()) == 0);
    let after = cluster.status();
    assert_eq!((members(&after)[0], members(&after)[2]), (members(&before)[0], members(&before)[2]), "nobody else was touched");
    let log = cluster.run(&["logs", "2", "-n", "200"]).expect(0).said;
    assert!(log.contains("killing it"), "{log}");
}

#[test]
fn an_identity_runs_once() {
    let cluster = three(&[]);
    let second = cluster.run(&["run", "--instance", "2"]).expect(2);
    assert!(second.complained.contains("running already"), "{}", second.complained);
    // From another directory, as another host has it: the storage itself tells.
    let text = std::fs::read_to_string(cluster.path().join("regroup.toml")).expect("the configuration can be read");
    let elsewhere = cluster.path().parent().expect("it lies in a folder").join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("it can be made");
    let text = text.replace("\"storage/", &format!("\"{}/storage/", cluster.path().display()));
    std::fs::write(elsewhere.join("regroup.toml"), text).expect("it can be written");
    let path = elsewhere.to_str().expect("a path of ours is text");
    let second = cluster_tests::commands::run(["--dir", path, "run", "--instance", "2"]).expect(2);
    assert!(second.complained.contains("another guard of instance 2"), "{}", second.complained);
    assert!(members(&cluster.status()).iter().all(Option::is_some), "nobody was disturbed");
}

#[test]
fn a_voting_file_is_replaced_while_the_cluster_runs() {
    let cluster = three(&["--voting-files", "3"]);
    let before = cluster.status();
    cluster.run(&["voting", "list"]).expect(0);
    let new = cluster.path().join("storage/voting.new");
    let new = new.to_str().expect("a path of ours is text");
    cluster.run(&["voting", "replace", "9", new]).expect(2);
    let replaced = cluster.run(&["voting", "replace", "2", new]).expect(0);
    assert!(replaced.said.contains("voting.new has the place of") && replaced.said.contains("voting.2 since epoch"), "{}", replaced.said);
    let after = cluster.status();
    assert!(epoch(&after) > epoch(&before));
    assert_eq!(after["voting"][1]["path"], new, "the configuration names it");
    assert!(after["voting"].as_array().expect("a list").iter().all(|file| file["state"] == "ok"), "{after}");
    cluster.run(&["voting", "replace", "2", new]).expect(2);
    cluster.run(&["stop"]).expect(0);
    cluster.run(&["start"]).expect(0);
    assert!(members(&cluster.status()).iter().all(Option::is_some));
}

#[test]
fn lease_alone_is_refused_unless_its_assumptions_are_accepted_by_name() {
    let cluster = Cluster::new(&["--instances", "2"]);
    let file = cluster.path().join("regroup.toml");
    let good = std::fs::read_to_string(&file).expect("it is there");
    let with = |fence: &str| std::fs::write(&file, good.replace("[fence]", &format!("[fence]\n{fence}"))).expect("it can be written");
    with("methods = [\"lease\"]");
    let refused = cluster.run(&["start"]).expect(2);
    for name in ["clock-rate", "no-pause", "bounded-io"] {
        assert!(refused.complained.contains(name), "{}", refused.complained);
    }
    with("methods = [\"lease\"]\naccept_lease_assumptions = [\"clock-rate\", \"no-pause\", \"bounded-io\"]");
    cluster.run(&["start"]).expect(0);
    cluster.run(&["stop"]).expect(0);
}

/// Nobody is left who could prove the death: the guard is dead, too, and the locks on one file can't be looked at.
#[test]
fn an_unknown_fence_blocks_until_an_operator_confirms_it() {
    let cluster = three(&[]);
    let life = members(&cluster.status())[1].expect("a member");
    let (there, away) = (cluster.path().join("storage/redo.2"), cluster.path().join("storage/away"));
    std::fs::rename(&there, &away).expect("it can be moved");
    cluster.signal_guard(2, libc::SIGKILL);
    wait_for("instance 2 to be evicted", || unfenced(&cluster.status()) == 1);
    let listed = cluster.run(&["fence", "list"]).expect(1).said;
    let command = format!("clusterctl fence confirm 2 --incarnation {life} --reason");
    assert!(listed.contains(&command), "{listed}");
    // Whoever leads pursues the fence.
    let logged = |id: &str| cluster.run(&["logs", id, "-n", "1000"]).said.contains("redo.2");
    wait_for("the reason to be logged", || logged("1") || logged("3"));
    assert_eq!(unfenced(&cluster.status()), 1, "timed out is not fenced (rule 1)");
    let other = (life + 1).to_string();
    let refused = cluster.run(&["fence", "confirm", "2", "--incarnation", &other, "--reason", "pulled the plug"]).expect(2);
    assert!(refused.complained.contains(&format!("is incarnation {life}")), "{}", refused.complained);
    let life = life.to_string();
    cluster.run(&["fence", "confirm", "2", "--incarnation", &life, "--reason", "pulled the plug, jd"]).expect(0);
    assert_eq!(unfenced(&cluster.status()), 0);
    let record = std::fs::read_to_string(cluster.path().join("fences.jsonl")).expect("it was written down");
    assert!(record.contains("pulled the plug, jd") && record.lines().count() == 1, "{record}");
    std::fs::rename(&away, &there).expect("it can be moved");
    cluster.run(&["start"]).expect(0);
    assert!(members(&cluster.status())[1] > life.parse().ok());
}

#[test]
fn confirming_a_fence_needs_one_that_waits_and_a_reason() {
    let cluster = three(&[]);
    let refused = cluster.run(&["fence", "confirm", "2", "--incarnation", "1", "--reason", "off"]).expect(2);
    assert!(refused.complained.contains("isn't waiting"), "{}", refused.complained);
    assert_eq!(cluster.run(&["fence", "confirm", "2", "--incarnation", "1"]).code, Some(2));
    assert_eq!(cluster.run(&["fence", "confirm", "2", "--incarnation", "1", "--reason", "  "]).code, Some(2));
    assert!(!cluster.path().join("fences.jsonl").exists(), "nothing was confirmed");
}

/// A guard that was just killed holds its locks for a moment, and so does its instance, which still answers: `start` took that for running, and
/// left nobody behind.
#[test]
fn a_start_right_after_a_kill_starts() {
    let cluster = Cluster::new(&["--instances", "2"]);
    cluster.run(&["start"]).expect(0);
    for round in 0..5 {
        let before = [1, 2].map(|id| cluster.instance(id)["incarnation"].as_u64());
        let guards = [1, 2].map(|id| cluster.guard_pid(id));
        cluster.signal_guard(1, libc::SIGKILL);
        cluster.signal_guard(2, libc::SIGKILL);
        cluster.run(&["start"]).expect(0);
        for (id, at) in [(1, 0), (2, 1)] {
            let instance = cluster.instance(id);
            assert_eq!(instance["state"], "open", "round {round}: {instance}");
            assert!(instance["incarnation"].as_u64() > before[at] && cluster.guard_pid(id) != guards[at], "round {round}: {instance}");
        }
    }
}

/// Whoever opens the storage without being a member does so only where nobody is one.
#[test]
fn nobody_opens_the_storage_beside_a_member() {
    let cluster = Cluster::new(&["--instances", "2"]);
    cluster.run(&["start"]).expect(0);
    cluster.signal_guard(1, libc::SIGKILL);
    wait_for("instance 1 to be dead", || cluster.instance(1)["state"] == "dead");
    let config = cluster.path().join("regroup.toml");
    let load = ["demo-load", "--seed", "1", "--clients", "1", "--rows", "10", "--config", config.to_str().expect("a path")];
    let refused = cluster_tests::commands::run(load).expect(2);
    assert!(refused.complained.contains("instance 2 lives"), "{}", refused.complained);
    cluster.run(&["stop", "2"]).expect(0);
    cluster.run(&["verify", "--recover"]).expect(0);
}
