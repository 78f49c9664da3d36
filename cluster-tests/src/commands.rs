//! A cluster under `clusterctl`, as an operator has it: real processes in a temporary directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::regroup::program;

/// `clusterctl`, which lies beside the test binaries' folder when the workspace was built.
///
/// # Panics
/// When it isn't there.
pub fn clusterctl() -> PathBuf {
    program("clusterctl")
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub said: String,
    /// Standard error.
    pub complained: String,
}

impl Ran {
    /// From the output of a process.
    pub fn of(output: &Output) -> Ran {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { code: output.status.code(), said: text(&output.stdout), complained: text(&output.stderr) }
    }

    /// The same, if it ended with `code`.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[track_caller]
    pub fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.said, self.complained);
        self
    }

    /// What it said, as JSON.
    ///
    /// # Panics
    /// When it isn't.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.said.trim()).unwrap_or_else(|error| panic!("{error}: {:?}", self.said))
    }
}

/// Runs `clusterctl` with `arguments`.
///
/// # Panics
/// When it can't be started.
pub fn run<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ran {
    let output = Command::new(clusterctl()).args(arguments).env_remove("REGROUP_DIR").env_remove("RUST_LOG").output();
    Ran::of(&output.expect("clusterctl can be started"))
}

/// A cluster in a directory of its own. Dropped, its processes are killed and the directory is removed.
pub struct Cluster {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Cluster {
    /// A new cluster with a small ring and any free port, made with further `arguments` for `init`.
    ///
    /// # Panics
    /// When it can't be made.
    #[track_caller]
    pub fn new(arguments: &[&str]) -> Cluster {
        let cluster = Cluster::unmade();
        let mut all = vec!["init", "--ring-size", "8MiB", "--cache", "8MiB"];
        if !arguments.contains(&"--listen") {
            all.extend(["--listen", "127.0.0.1:0"]);
        }
        all.extend(arguments);
        cluster.run(&all).expect(0);
        cluster
    }

    /// A directory for a cluster.
    ///
    /// # Panics
    /// When there is no room for temporary directories.
    pub fn unmade() -> Cluster {
        let place = clusterctl().parent().and_then(Path::parent).expect("binaries lie in target/<profile>").join("tmp");
        std::fs::create_dir_all(&place).expect("the folder for temporary files can be made");
        let folder = tempfile::tempdir_in(place).expect("a temporary directory can be made");
        let path = folder.path().join("cluster");
        Cluster { _folder: folder, path }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `clusterctl --dir` its directory with `arguments`.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let mut all: Vec<&std::ffi::OsStr> = vec!["--dir".as_ref(), self.path.as_os_str()];
        all.extend(arguments.iter().map(std::ffi::OsStr::new));
        run(all)
    }

    /// `status --json`.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.run(&["status", "--json"]).expect(0).json()
    }

    /// The state of instance 1.
    ///
    /// # Panics
    /// When status fails.
    #[track_caller]
    pub fn state(&self) -> String {
        self.status()["instances"][0]["state"].as_str().expect("a state is a string").to_string()
    }

    /// The process of instance 1, if one lives.
    ///
    /// # Panics
    /// When status fails.
    #[track_caller]
    pub fn pid(&self) -> Option<i32> {
        self.status()["instances"][0]["pid"].as_i64().map(|pid| i32::try_from(pid).expect("a process id is small"))
    }

    /// What `status` says of instance `id`.
    ///
    /// # Panics
    /// When status fails, or there is no such instance.
    #[track_caller]
    pub fn instance(&self, id: u16) -> Value {
        self.status()["instances"][usize::from(id) - 1].clone()
    }

    /// The process of instance `id`, if one lives.
    ///
    /// # Panics
    /// When status fails.
    #[track_caller]
    pub fn pid_of(&self, id: u16) -> Option<i32> {
        self.instance(id)["pid"].as_i64().map(|pid| i32::try_from(pid).expect("a process id is small"))
    }

    /// The guard of instance `id`, if one lives.
    ///
    /// # Panics
    /// When status fails.
    #[track_caller]
    pub fn guard_pid(&self, id: u16) -> Option<i32> {
        self.instance(id)["guard_pid"].as_i64().map(|pid| i32::try_from(pid).expect("a process id is small"))
    }

    /// Sends `signal` to the guard of instance `id`.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn signal_guard(&self, id: u16, signal: i32) {
        send(self.guard_pid(id).expect("it has a guard"), signal);
    }

    /// Sends `signal` to the process of instance `id`.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn signal_instance(&self, id: u16, signal: i32) {
        send(self.pid_of(id).expect("it has a process"), signal);
    }

    /// Sends `signal` to the process of instance 1.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn signal(&self, signal: i32) {
        send(self.pid().expect("instance 1 has a process"), signal);
    }
}

#[track_caller]
fn send(pid: i32, signal: i32) {
    // SAFETY: `kill` takes two numbers and touches no memory.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "process {pid} can be signalled");
}

/// Whether a process of this id runs: not gone, and not the remains of one (a zombie).
pub fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rfind(')').and_then(|end| stat[end + 1..].split_ascii_whitespace().next()).is_some_and(|state| !matches!(state, "Z" | "X"))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.path.join("regroup.toml").exists() {
            let ran = self.run(&["stop", "--kill", "--timeout", "60"]);
            if ran.code != Some(0) {
                eprintln!("a process of {} may be left: {}", self.path.display(), ran.complained);
            }
        }
    }
}
