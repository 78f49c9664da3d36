//! A real PostgreSQL 15 for one test: its own folder, a Unix socket there, no network, ended with the value.
//!
//! Used by the differential test and by the self-checks of checkers. PostgreSQL refuses to run as root, so there it runs as `postgres`,
//! or as `nobody`. It dies with the thread that started it. Its writes are not forced
//! to disk, which its own crashes survive.

use std::ffi::CStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::endpoint::{Endpoint, Listener};
use crate::isolation::arena::Crashable;

/// The number in the socket's name; nobody listens on a port.
const PORT: u16 = 5432;

/// A running server.
pub struct Postgres {
    server: Child,
    folder: tempfile::TempDir,
}

/// Where PostgreSQL 15's programs are: `REGROUP_POSTGRES_BIN`, or where Debian's package has them.
///
/// # Panics
/// They aren't there: names the package.
pub fn programs() -> PathBuf {
    let folder = std::env::var_os("REGROUP_POSTGRES_BIN").map_or_else(|| PathBuf::from("/usr/lib/postgresql/15/bin"), PathBuf::from);
    assert!(
        folder.join("initdb").exists(),
        "no PostgreSQL 15 in {}: install package postgresql-15 (Debian's name), or name its programs' folder in REGROUP_POSTGRES_BIN",
        folder.display()
    );
    folder
}

/// As whom to run it, when we are root.
fn unprivileged() -> Option<(u32, u32)> {
    // SAFETY: no arguments, no memory.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    let named = |name: &CStr| {
        // SAFETY: a terminated name; the result is read before anything else asks for a user.
        unsafe { libc::getpwnam(name.as_ptr()).as_ref().map(|entry| (entry.pw_uid, entry.pw_gid)) }
    };
    Some(named(c"postgres").or_else(|| named(c"nobody")).expect("there is a user postgres or nobody"))
}

/// A program that runs as that user and gets `signal` when the thread that started it ends.
fn command(program: &Path, user: Option<(u32, u32)>, signal: libc::c_int) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null()).env_clear().env("PATH", "/usr/bin:/bin").env("TZ", "UTC").env("LC_ALL", "C");
    if let Some((user, group)) = user {
        command.uid(user).gid(group);
    }
    let end_with_us = move || {
        // SAFETY: prctl with these arguments touches no memory and may be called between fork and exec.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(end_with_us) };
    command
}

/// Starts the server of the cluster in `folder`.
fn launch(folder: &Path) -> Child {
    let log = std::fs::File::create(folder.join("log")).expect("a file can be made");
    let mut server = command(&programs().join("postgres"), unprivileged(), libc::SIGQUIT);
    server.arg("-D").arg(folder.join("data")).arg("-k").arg(folder).arg("-p").arg(PORT.to_string());
    for option in
        ["listen_addresses=", "fsync=off", "shared_buffers=64MB", "max_connections=60", "timezone=UTC", "jit=off", "deadlock_timeout=10ms"]
    {
        server.arg("-c").arg(option);
    }
    server.stdout(Stdio::null()).stderr(log).spawn().expect("postgres can be started")
}

impl Postgres {
    /// Makes a cluster (UTF-8, order of bytes, letters of Unicode, UTC) and starts it.
    ///
    /// # Panics
    /// It isn't installed, or doesn't start within 30 s; with what it said.
    pub fn start() -> Postgres {
        let programs = programs();
        let user = unprivileged();
        // Sockets' paths are short, so not where the build lies.
        let folder = tempfile::Builder::new().prefix("regroup-pg").tempdir().expect("a temporary directory can be made");
        std::os::unix::fs::chown(folder.path(), user.map(|user| user.0), user.map(|user| user.1)).expect("it can be given away");
        let data = folder.path().join("data");
        let made = command(&programs.join("initdb"), user, libc::SIGKILL)
            .args(["--encoding=UTF8", "--locale=C", "--lc-ctype=C.UTF-8", "--auth=trust", "--username=regroup", "--no-sync", "--pgdata"])
            .arg(&data)
            .output()
            .expect("initdb can be started");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let server = launch(folder.path());
        let postgres = Postgres { server, folder };
        postgres.wait();
        postgres
    }
    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) = self.endpoint().wire(Duration::from_secs(10)) {
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "PostgreSQL doesn't start: {error}\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where it listens.
    pub fn endpoint(&self) -> Endpoint {
        let listener = Listener::Unix(self.folder.path().to_path_buf(), PORT);
        Endpoint { listener, user: "regroup".into(), database: "postgres".into() }
    }
}

impl Postgres {
    /// Ends it at once, without a checkpoint.
    fn quit(&mut self) {
        // SAFETY: the id of a child that nobody has waited for, so it is still that process.
        unsafe { libc::kill(self.server.id() as libc::pid_t, libc::SIGQUIT) };
        drop(self.server.wait());
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.quit();
    }
}

impl Crashable for Postgres {
    fn endpoint(&self) -> Endpoint {
        Postgres::endpoint(self)
    }

    fn crash(&mut self) {
        self.quit();
        self.server = launch(self.folder.path());
        self.wait();
    }
}
