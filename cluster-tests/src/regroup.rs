//! A real cluster of one instance for one test: its own directory, any free port, killed with `kill -9`, ended with the value.
//!
//! Used by the black-box proofs of SQL. Made by `clusterctl init`; the instance's guard is a `regroupd` that we start ourselves, so that we hold
//! its process: it dies with the thread that started it, the instance with it, and nobody else's is ever touched.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;

use crate::endpoint::{Endpoint, Listener};
use crate::isolation::arena::Crashable;
use crate::waiting::wait_within;
use crate::wire;

/// How long a start may take, recovery included.
const OPEN_WITHIN: Duration = Duration::from_secs(120);
/// How long a stop may take.
const CLOSED_WITHIN: Duration = Duration::from_secs(60);

/// What a cluster is made like.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Redo ring, in MiB; 8 at least.
    pub ring_mib: u64,
    /// Page cache, in MiB; 2 at least.
    pub cache_mib: u64,
    /// Lines of the configuration's `[options]`.
    pub options: Vec<(&'static str, toml::Value)>,
    /// Limits of the process (`RLIMIT_..`), in its units.
    pub limits: Vec<(libc::__rlimit_resource_t, u64)>,
    /// Where to make it; a new temporary directory if not given.
    pub directory: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { ring_mib: 32, cache_mib: 32, options: Vec::new(), limits: Vec::new(), directory: None }
    }
}

/// What a process says.
#[derive(Default)]
struct Heard {
    /// Standard output: a JSON object a line.
    events: Vec<Value>,
    /// Standard error.
    log: Vec<String>,
    /// Of its two streams, those that have ended.
    ended: u32,
}

/// A running process.
struct Daemon {
    child: Child,
    heard: Arc<Mutex<Heard>>,
    started: Instant,
}

/// The cluster.
pub struct Regroup {
    /// Kept for its end.
    _temporary: Option<tempfile::TempDir>,
    home: PathBuf,
    setup: Setup,
    daemon: Option<Daemon>,
    /// Log lines of earlier processes, for a test's failure.
    past: Vec<String>,
}

/// A program of ours: it lies beside the test binaries' folder when the workspace was built.
///
/// # Panics
/// It isn't there.
pub fn program(name: &str) -> PathBuf {
    let binary = built().join(name);
    assert!(binary.exists(), "{} isn't there: cargo build --release -p regroup --bins", binary.display());
    binary
}

/// The folder of the profile's programs.
fn built() -> PathBuf {
    let here = std::env::current_exe().expect("a test knows where it is");
    let folder = here.parent().expect("a program lies in a folder");
    // Tests lie in target/<profile>/deps, programs in target/<profile>.
    if folder.ends_with("deps") { folder.parent().expect("deps lies in a folder").to_path_buf() } else { folder.to_path_buf() }
}

/// A new directory where the build lies: on a disk that takes direct I/O, as /tmp may not.
///
/// # Panics
/// It can't be made.
pub fn directory() -> tempfile::TempDir {
    let folder = built().join("tmp");
    std::fs::create_dir_all(&folder).and_then(|()| tempfile::tempdir_in(&folder)).expect("a temporary directory can be made")
}

/// Passes on what a process says, line by line, until it ends.
fn listen(stream: impl io::Read + Send + 'static, heard: Arc<Mutex<Heard>>, keep: fn(&mut Heard, String)) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            keep(&mut heard.lock(), line);
        }
        heard.lock().ended += 1;
    });
}

impl Daemon {
    fn start(home: &Path, limits: &[(libc::__rlimit_resource_t, u64)]) -> Daemon {
        let mut command = Command::new(program("regroupd"));
        command.arg("--dir").arg(home).env("RUST_LOG", "info").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let limits = limits.to_vec();
        let prepare = move || {
            // SAFETY: prctl with these arguments touches no memory and may be called between fork and exec.
            if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
                return Err(io::Error::last_os_error());
            }
            for &(resource, value) in &limits {
                let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
                // SAFETY: a whole rlimit, which the call only reads.
                if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: the closure only makes system calls and allocates nothing.
        unsafe { command.pre_exec(prepare) };
        let started = Instant::now();
        let mut child = command.spawn().expect("regroupd can be started");
        let heard = Arc::new(Mutex::new(Heard::default()));
        let keep_event = |heard: &mut Heard, line: String| match serde_json::from_str(&line) {
            Ok(event) => heard.events.push(event),
            Err(_) => heard.log.push(line),
        };
        listen(child.stdout.take().expect("it is piped"), heard.clone(), keep_event);
        listen(child.stderr.take().expect("it is piped"), heard.clone(), |heard, line| heard.log.push(line));
        Daemon { child, heard, started }
    }

    fn event(&self, name: &str) -> Option<Value> {
        self.heard.lock().events.iter().find(|event| event["event"] == name).cloned()
    }

    /// Waits for an event; none when the process ended before.
    fn wait_for(&mut self, name: &str, within: Duration) -> Option<Value> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(event) = self.event(name) {
                return Some(event);
            }
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                // What it said last may still be on its way.
                while self.heard.lock().ended < 2 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                return self.event(name);
            }
            assert!(Instant::now() < deadline, "no {name:?} within {within:?}:\n{}", self.heard.lock().log.join("\n"));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: the id of a child that nobody has waited for, so it is still that process.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }
}

impl Regroup {
    /// Makes a cluster; starts nothing.
    ///
    /// # Panics
    /// `clusterctl init` fails.
    pub fn make(setup: Setup) -> Regroup {
        let temporary = setup.directory.is_none().then(directory);
        let parent = temporary.as_ref().map_or_else(|| setup.directory.clone().unwrap_or_default(), |folder| folder.path().to_path_buf());
        let regroup = Regroup { _temporary: temporary, home: parent.join("cluster"), setup, daemon: None, past: Vec::new() };
        let ring = format!("{}MiB", regroup.setup.ring_mib);
        let cache = format!("{}MiB", regroup.setup.cache_mib);
        let made = regroup.clusterctl(&["init", "--instances", "1", "--ring-size", &ring, "--cache", &cache, "--listen", "127.0.0.1:0"]);
        assert!(made.status.success(), "clusterctl init: {}", String::from_utf8_lossy(&made.stderr));
        regroup.configure(&regroup.setup.options);
        regroup
    }

    /// Makes a cluster and starts it.
    ///
    /// # Panics
    /// It can't be made, or doesn't open.
    pub fn start(setup: Setup) -> Regroup {
        let mut regroup = Regroup::make(setup);
        regroup.open();
        regroup
    }

    /// Sets options in the configuration file; they count from the next start on.
    ///
    /// # Panics
    /// The file isn't what `clusterctl init` wrote.
    pub fn configure(&self, options: &[(&'static str, toml::Value)]) {
        let file = self.home.join("regroup.toml");
        let text = std::fs::read_to_string(&file).expect("the configuration can be read");
        let mut table: toml::Table = toml::from_str(&text).expect("the configuration is TOML");
        let section = table.entry("options").or_insert_with(|| toml::Table::new().into());
        let section = section.as_table_mut().expect("options is a table");
        section.extend(options.iter().map(|(name, value)| (name.to_string(), value.clone())));
        std::fs::write(&file, toml::to_string(&table).expect("TOML can be written")).expect("the configuration can be written");
    }

    /// Runs `clusterctl` on this cluster.
    pub fn clusterctl(&self, arguments: &[&str]) -> Output {
        Command::new(program("clusterctl")).arg("--dir").arg(&self.home).args(arguments).output().expect("clusterctl can be run")
    }

    /// Its directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A storage file of it.
    pub fn storage(&self, name: &str) -> PathBuf {
        self.home.join("storage").join(name)
    }

    /// Starts the process, without waiting for it to open.
    ///
    /// # Panics
    /// It runs already.
    pub fn launch(&mut self) {
        assert!(self.daemon.is_none(), "it runs already");
        self.daemon = Some(Daemon::start(&self.home, &self.setup.limits));
    }

    /// Starts the process and waits until it is open.
    ///
    /// # Panics
    /// It ends before, or takes too long; with its log.
    pub fn open(&mut self) {
        if self.daemon.is_none() {
            self.launch();
        }
        if let Err(log) = self.opened() {
            panic!("regroupd ended before it was open:\n{log}");
        }
    }

    /// Waits until the process is open, or has ended: then its log.
    ///
    /// # Errors
    /// The log.
    ///
    /// # Panics
    /// Neither within two minutes.
    pub fn opened(&mut self) -> Result<(), String> {
        let daemon = self.daemon.as_mut().expect("it was launched");
        match daemon.wait_for("open", OPEN_WITHIN) {
            Some(_) => Ok(()),
            None => {
                let log = self.log();
                self.reap();
                Err(log)
            }
        }
    }

    /// The event of that name that the running process said.
    pub fn event(&self, name: &str) -> Option<Value> {
        self.daemon.as_ref().and_then(|daemon| daemon.event(name))
    }

    /// When the running process was started.
    ///
    /// # Panics
    /// None runs.
    pub fn started(&self) -> Instant {
        self.daemon.as_ref().expect("it runs").started
    }

    /// What the running process wrote to its log, or else the last one.
    pub fn log(&self) -> String {
        match &self.daemon {
            Some(daemon) => daemon.heard.lock().log.join("\n"),
            None => self.past.join("\n"),
        }
    }

    /// The process is still there.
    pub fn runs(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|daemon| matches!(daemon.child.try_wait(), Ok(None)))
    }

    fn reap(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            drop(daemon.child.wait());
            // Its guard is gone; the instance, which the kernel ends with it, is when nobody has its ends of these streams any more.
            if !std::thread::panicking() {
                wait_within(CLOSED_WITHIN, "the instance ends with its guard", || daemon.heard.lock().ended == 2);
            }
            self.past = daemon.heard.lock().log.clone();
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(daemon) = &self.daemon {
            daemon.signal(libc::SIGKILL);
        }
        self.reap();
    }

    /// Tells it to stop and waits until it did, in order.
    ///
    /// # Panics
    /// It doesn't within a minute, or ends otherwise; with its log.
    pub fn stop(&mut self) {
        let daemon = self.daemon.as_mut().expect("it runs");
        daemon.signal(libc::SIGTERM);
        let closed = daemon.wait_for("closed", CLOSED_WITHIN);
        let status = daemon.child.wait().expect("a child can be waited for");
        let log = self.log();
        self.reap();
        assert!(closed.is_some() && status.success(), "it did not stop in order ({status}):\n{log}");
    }

    /// A blocking client.
    ///
    /// # Panics
    /// It isn't let in.
    pub fn client(&self) -> wire::Client {
        self.endpoint().wire(Duration::from_secs(60)).unwrap_or_else(|error| panic!("no client is let in: {error}\n{}", self.log()))
    }

    /// Checks every page, tree and index offline.
    ///
    /// # Panics
    /// Something is wrong.
    pub fn verify(&self) {
        assert!(self.daemon.is_none(), "offline means that it doesn't run");
        let output = self.clusterctl(&["verify"]);
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "clusterctl verify: {}\n{}\n{}", output.status, said(&output.stdout), said(&output.stderr));
    }
}

impl Crashable for Regroup {
    fn endpoint(&self) -> Endpoint {
        let daemon = self.daemon.as_ref().expect("it runs");
        let address = ["open", "starting"].iter().find_map(|name| Some(daemon.event(name)?["postgres"].as_str()?.to_owned()));
        let address = address.expect("it said where it listens");
        let port = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("an address has a port");
        Endpoint { listener: Listener::Tcp(port), user: "regroup".into(), database: "regroup".into() }
    }

    fn crash(&mut self) {
        self.kill();
        self.open();
    }
}

impl Drop for Regroup {
    fn drop(&mut self) {
        self.kill();
    }
}
