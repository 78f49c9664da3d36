//! A cluster whose instances run in network namespaces, each as if on a host of its own; the storage is shared. The voting files can lie on the
//! faulty disk; or each host reaches all storage files over a faulty disk of its own, under the same path in a mount namespace of its own, has locks
//! that no other host sees, as they are kept per mount, and another boot id. What real partitions, stopped processes and cut storage are tried on
//! (issue 4 item 11).

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::commands::{Cluster, Ran};
use crate::fuse_disk::{Control, FuseDisk};
use crate::netns::Network;
use crate::regroup::program;
use crate::waiting::wait_within;

/// Longest wait for anything: a loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// The cluster. Dropped, guards are killed, which takes their instances along, and network and mount are removed.
pub struct Hosts {
    /// Links between the hosts.
    pub network: Network,
    guards: Vec<Option<Child>>,
    /// The voting files'; or, for each host, the one over which it reaches the storage.
    disks: Vec<FuseDisk>,
    /// Each host has its own disk.
    own_storage: bool,
    cluster: Cluster,
    count: u16,
}

/// Waits until `holds`.
///
/// # Panics
/// When that takes too long.
#[track_caller]
pub fn wait_for(what: &str, holds: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, holds);
}

impl Hosts {
    /// A cluster of `count` instances with three voting files, on the faulty disk if asked for; all started and members.
    ///
    /// # Panics
    /// Not root, or something can't be made.
    pub fn start(count: u16, faulty_voting: bool) -> Hosts {
        let network = Network::new(count);
        let cluster = Cluster::new(&["--instances", &count.to_string(), "--voting-files", "3"]);
        let disks = if faulty_voting { vec![mount_voting(&cluster)] } else { Vec::new() };
        if faulty_voting {
            change_configuration(&cluster, |text| text.replace("\"storage/voting.", "\"faulty/voting."));
        }
        Hosts::begin(network, cluster, count, disks, false)
    }

    /// A cluster of `count` instances with three voting files, each host with a way of its own to all storage files.
    ///
    /// # Panics
    /// Not root, or something can't be made.
    pub fn with_own_storage(count: u16) -> Hosts {
        let network = Network::new(count);
        let cluster = Cluster::new(&["--instances", &count.to_string(), "--voting-files", "3"]);
        let disks = (1..=count).map(|id| mount_for(&cluster, id)).collect();
        Hosts::begin(network, cluster, count, disks, true)
    }

    fn begin(network: Network, cluster: Cluster, count: u16, disks: Vec<FuseDisk>, own_storage: bool) -> Hosts {
        let with_addresses = |mut text: String| {
            for id in 1..=count {
                let plain = format!("id = {id}\n");
                assert!(text.contains(&plain), "{text}");
                let address = Network::address(id);
                text = text.replace(&plain, &format!("{plain}interconnect = \"{address}:0\"\n"));
            }
            // Who is killed on purpose again and again isn't in a crash loop.
            for (default, here) in
                [("# restarts_max = 8\n", "restarts_max = 1000000\n"), ("# restart_pause_max_ms = 10000\n", "restart_pause_max_ms = 200\n")]
            {
                assert!(text.contains(default), "{text}");
                text = text.replace(default, here);
            }
            text
        };
        change_configuration(&cluster, with_addresses);
        let guards = (0..count).map(|_| None).collect();
        let mut hosts = Hosts { network, guards, disks, own_storage, cluster, count };
        (1..=count).for_each(|id| hosts.start_guard(id));
        hosts.whole();
        hosts
    }

    /// Starts the guard of `id` on its host.
    ///
    /// # Panics
    /// It can't be started.
    pub fn start_guard(&mut self, id: u16) {
        let mut command = if self.own_storage {
            let mut command = self.network.command(id, Path::new("/bin/sh"));
            let (ways, storage) = (way(&self.cluster, id), self.cluster.path().join("storage"));
            command.args(["-c", AS_A_HOST, "sh"]).arg(ways.join("boot")).arg(ways.join("machine")).arg(ways.join("storage")).arg(storage);
            command.arg(program("regroupd"));
            command
        } else {
            self.network.command(id, &program("regroupd"))
        };
        command.arg("--dir").arg(self.cluster.path()).args(["--instance", &id.to_string()]);
        let log = |name: &str| {
            let path = self.cluster.path().join(format!("{name}-{id}.log"));
            std::fs::File::options().create(true).append(true).open(path).expect("a log can be written")
        };
        command.env("RUST_LOG", "info").stdin(Stdio::null()).stdout(log("events")).stderr(log("host"));
        // SAFETY: prctl with these arguments touches no memory and may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
            });
        }
        self.guards[usize::from(id) - 1] = Some(command.spawn().expect("a guard can be started"));
    }

    /// Kills the guard of `id`; its instance dies with it.
    ///
    /// # Panics
    /// There is none.
    pub fn kill_guard(&mut self, id: u16) {
        let mut guard = self.guards[usize::from(id) - 1].take().expect("it has a guard");
        guard.kill().and_then(|()| guard.wait()).expect("a guard can be killed");
    }

    /// Sends a signal to the instance's process.
    pub fn signal(&self, id: u16, signal: i32) {
        self.cluster.signal_instance(id, signal);
    }

    /// Stops the instance's process for a while: it can't be asked for its number meanwhile.
    ///
    /// # Panics
    /// It has none.
    pub fn stop_for(&self, id: u16, time: Duration) {
        let pid = self.cluster.pid_of(id).expect("it has a process");
        for signal in [libc::SIGSTOP, libc::SIGCONT] {
            // SAFETY: a process of ours, which its guard waits for: the number is its own as long as it isn't killed, and this is too short for that.
            unsafe { libc::kill(pid, signal) };
            if signal == libc::SIGSTOP {
                std::thread::sleep(time);
            }
        }
    }

    /// Sends a signal to the guard of `id` and to its instance's process, known before so that both get it.
    ///
    /// # Panics
    /// One of them isn't there.
    pub fn signal_both(&self, id: u16, signal: i32) {
        let instance = self.cluster.pid_of(id);
        if let Some(guard) = &self.guards[usize::from(id) - 1] {
            // SAFETY: a process that we started and have not waited for.
            unsafe { libc::kill(guard.id() as i32, signal) };
        }
        if let Some(instance) = instance {
            // SAFETY: its guard, which holds it as a child, was just signalled: the number is still its own.
            unsafe { libc::kill(instance, signal) };
        }
    }

    /// When `observer` logged a view that doesn't have `life`, after `since`; both in milliseconds since 1970.
    pub fn installed_without(&self, observer: u16, since: f64, life: &str) -> Option<f64> {
        let log = std::fs::read_to_string(self.cluster.path().join(format!("host-{observer}.log"))).unwrap_or_default();
        let views = log.lines().filter(|line| line.contains("view installed") && !line.contains(life));
        views.filter_map(logged_ms).find(|at| *at >= since)
    }

    /// psql on instance 1's host, asking this of instance 1; it waits for ever for an answer.
    ///
    /// # Panics
    /// Instance 1 isn't open.
    pub fn asking(&self, sql: &str) -> std::process::Command {
        let status = self.status();
        let address = status["instances"][0]["postgres"].as_str().expect("instance 1 serves clients");
        let port = address.rsplit(':').next().expect("an address has a port").to_string();
        let mut command = self.network.command(1, std::path::Path::new("psql"));
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "regroup", "-d", "regroup", "-X", "-q", "-c", sql]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// The faulty disk under the voting files.
    ///
    /// # Panics
    /// They don't lie on one.
    pub fn storage(&self) -> Control {
        self.disks.first().expect("the voting files are on the faulty disk").control()
    }

    /// The way of host `id` to the storage.
    ///
    /// # Panics
    /// It has none of its own.
    pub fn storage_of(&self, id: u16) -> Control {
        assert!(self.own_storage, "all hosts have one way");
        self.disks[usize::from(id) - 1].control()
    }

    /// What `psql` on host 1 says to a statement, if it gets an answer within `seconds`.
    ///
    /// # Panics
    /// psql or timeout can't be run.
    pub fn ask(&self, sql: &str, seconds: u32) -> Result<String, String> {
        let address = self.status()["instances"][0]["postgres"].as_str().map(str::to_owned);
        let Some((host, port)) = address.as_deref().and_then(|address| address.rsplit_once(':')) else { return Err("no address".into()) };
        let mut command = self.network.command(1, Path::new("timeout"));
        command.args(["-k", "1", &seconds.to_string()]).arg(crate::postgres::programs().join("psql"));
        command.args(["-X", "-A", "-t", "-w", "-h", host, "-p", port, "-U", "regroup", "-d", "regroup", "-c", sql]);
        let output = command.stdin(Stdio::null()).output().expect("psql can be run");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(format!("{}: {}", output.status, text(&output.stderr))) }
    }

    /// `clusterctl` with these arguments, beside all hosts.
    pub fn clusterctl(&self, arguments: &[&str]) -> Ran {
        self.cluster.run(arguments)
    }

    /// `clusterctl status`.
    pub fn status(&self) -> Value {
        self.cluster.status()
    }

    /// Epoch, and the members' incarnations by instance, of the newest view.
    pub fn view(&self) -> (u64, Vec<Option<u64>>) {
        let status = self.status();
        let members = status["view"]["members"].as_array().cloned().unwrap_or_default();
        let incarnation = |id: u16| members.iter().find(|member| member["id"] == id).and_then(|member| member["incarnation"].as_u64());
        (status["view"]["epoch"].as_u64().unwrap_or(0), (1..=self.count).map(incarnation).collect())
    }

    /// Waits until all are members that serve and hear each other.
    ///
    /// # Panics
    /// When that takes too long.
    #[track_caller]
    pub fn whole(&self) {
        let mut last = Value::Null;
        let begun = Instant::now();
        loop {
            last = if begun.elapsed() > PATIENCE { panic!("not whole: {last}\n{}", self.logs()) } else { self.status() };
            let view = &last["view"];
            let instances = last["instances"].as_array().cloned().unwrap_or_default();
            let serves = |instance: &Value| instance["state"] == "open" && instance["parked"].is_null() && hears_all(instance, self.count);
            if view["members"].as_array().is_some_and(|members| members.len() == usize::from(self.count))
                && view["evicted"].as_array().is_some_and(Vec::is_empty)
                && instances.iter().all(serves)
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The end of each host's log, for a failing test.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for id in 1..=self.count {
            let log = std::fs::read_to_string(self.cluster.path().join(format!("host-{id}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            all += &format!("== host {id}\n{}\n", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        all
    }
}

/// The moment that a line of a log begins with, in milliseconds since 1970.
fn logged_ms(line: &str) -> Option<f64> {
    let at = chrono::DateTime::parse_from_rfc3339(line.split_ascii_whitespace().next()?).ok()?;
    Some(at.timestamp_micros() as f64 / 1000.0)
}

fn hears_all(instance: &Value, count: u16) -> bool {
    let beats = instance["heartbeats"].as_array().cloned().unwrap_or_default();
    beats.len() == usize::from(count) - 1 && beats.iter().all(|beat| beat["network_age_ms"].as_u64().is_some_and(|age| age < 2000))
}

/// Rewrites the configuration.
fn change_configuration(cluster: &Cluster, change: impl FnOnce(String) -> String) {
    let file = cluster.path().join("regroup.toml");
    let text = std::fs::read_to_string(&file).expect("a configuration");
    std::fs::write(&file, change(text)).expect("the configuration can be changed");
}

/// Moves the voting files to a folder of their own, and mounts that through the faulty disk.
fn mount_voting(cluster: &Cluster) -> FuseDisk {
    let (backing, mounted): (PathBuf, PathBuf) = (cluster.path().join("backing"), cluster.path().join("faulty"));
    for folder in [&backing, &mounted] {
        std::fs::create_dir(folder).expect("a folder can be made");
    }
    for number in 1..=3 {
        let name = format!("voting.{number}");
        std::fs::rename(cluster.path().join("storage").join(&name), backing.join(&name)).expect("a voting file can be moved");
    }
    FuseDisk::mount(&backing, &mounted).expect("the faulty disk can be mounted: root and /dev/fuse are needed")
}

/// In a mount namespace that `ip netns exec` has made: another boot id, another machine id, and the host's own way to the storage; then the program.
const AS_A_HOST: &str = "mount --bind \"$1\" /proc/sys/kernel/random/boot_id && { [ ! -e /etc/machine-id ] || mount --bind \"$2\" /etc/machine-id; } \
                         && mount --bind \"$3\" \"$4\" && shift 4 && exec \"$@\"";

/// Where what is host `id`'s own lies.
fn way(cluster: &Cluster, id: u16) -> PathBuf {
    cluster.path().join(format!("way-{id}"))
}

/// Mounts the storage through a faulty disk for host `id`, and names its boot and machine.
fn mount_for(cluster: &Cluster, id: u16) -> FuseDisk {
    let folder = way(cluster, id);
    std::fs::create_dir_all(folder.join("storage")).expect("a folder can be made");
    for (name, text) in [("boot", format!("{id:08}-b007-4000-8000-000000000000\n")), ("machine", format!("{id:032}\n"))] {
        std::fs::write(folder.join(name), text).expect("a file can be written");
    }
    let mounted = FuseDisk::mount(&cluster.path().join("storage"), &folder.join("storage"));
    mounted.expect("the faulty disk can be mounted: root and /dev/fuse are needed")
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for disk in &self.disks {
            disk.control().restore();
        }
        for guard in self.guards.iter_mut().flatten() {
            // It may have ended by itself.
            let _ = guard.kill().and_then(|()| guard.wait());
        }
    }
}
