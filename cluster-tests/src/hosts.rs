//! A cluster whose instances run in network namespaces, each as if on a host of its own; the storage is shared, and the voting files can lie on the
//! faulty disk. What real partitions, stopped processes and cut storage are tried on (issue 4 item 11).

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::commands::Cluster;
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
    disk: Option<FuseDisk>,
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
        let disk = faulty_voting.then(|| mount(&cluster));
        let config = cluster.path().join("regroup.toml");
        let mut text = std::fs::read_to_string(&config).expect("a configuration");
        for id in 1..=count {
            let plain = format!("id = {id}\n");
            assert!(text.contains(&plain), "{text}");
            let address = Network::address(id);
            text = text.replace(&plain, &format!("{plain}interconnect = \"{address}:0\"\n"));
        }
        if faulty_voting {
            text = text.replace("\"storage/voting.", "\"faulty/voting.");
        }
        std::fs::write(&config, text).expect("the configuration can be changed");
        let guards = (0..count).map(|_| None).collect();
        let mut hosts = Hosts { network, guards, disk, cluster, count };
        (1..=count).for_each(|id| hosts.start_guard(id));
        hosts.whole();
        hosts
    }

    /// Starts the guard of `id` on its host.
    ///
    /// # Panics
    /// It can't be started.
    pub fn start_guard(&mut self, id: u16) {
        let mut command = self.network.command(id, &program("regroupd"));
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
        self.disk.as_ref().expect("the voting files are on the faulty disk").control()
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

/// Moves the voting files to a folder of their own, and mounts that through the faulty disk.
fn mount(cluster: &Cluster) -> FuseDisk {
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

impl Drop for Hosts {
    fn drop(&mut self) {
        if let Some(disk) = &self.disk {
            disk.control().restore();
        }
        for guard in self.guards.iter_mut().flatten() {
            // It may have ended by itself.
            let _ = guard.kill().and_then(|()| guard.wait());
        }
    }
}
