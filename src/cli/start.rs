//! `clusterctl start`: starts the processes of instances, detached, and waits until they are open.
//!
//! One start of an instance at a time (a lock in its directory); a second one waits for the first and then finds the instance running, so
//! starting is idempotent. Instances are started in parallel. What is started is the guard (`clusterctl run`, this same binary), in a session of
//! its own, with its output in the instance's directory; it runs the instance.

use std::fs::File;
use std::io::{IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::Args as ClapArgs;
use serde_json::Value;

use super::admin::State;
use super::config::Config;
use super::layout::{ClusterDir, InstanceDir};
use super::observe::{Observed, observe};
use super::process::Identity;
use super::{CommandError, on_runtime};
use crate::base::options::DiskKind;
use crate::base::runtime::join_all;
use crate::base::{BoxFuture, Instant, Seams, ThreadId};
use crate::disk::{Disk, DiskError, lock};

/// Between two looks at an instance.
const EVERY: Duration = Duration::from_millis(50);
/// A log longer than this is put aside at the next start.
const LOG_MAX: u64 = 16 << 20;
/// So much of the log's end is shown when an instance doesn't open.
const LAST_LINES: usize = 15;

/// Which instances to start.
#[derive(ClapArgs)]
pub struct Args {
    /// The instances; all of the cluster when left out.
    #[arg(value_name = "ID")]
    ids: Vec<u16>,
    /// Longest wait until all are open, in seconds. Recovery of a long log takes long; when time is up, the process goes on.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

/// Starts and waits.
///
/// # Errors
/// An instance can't be started, or isn't open in time.
pub fn run(dir: Option<PathBuf>, args: &Args) -> Result<bool, CommandError> {
    let cluster = ClusterDir::open(dir)?;
    let ids = cluster.chosen(&args.ids)?;
    on_runtime(DiskKind::Threads, async |seams, disk| {
        let deadline = seams.now() + Duration::from_secs(args.timeout);
        let start = Arc::new(Start { cluster, seams, disk, deadline, timeout: args.timeout });
        // At once: members wait for each other, and recoveries need not.
        let all = ids.into_iter().map(|id| {
            let start = start.clone();
            Box::pin(async move { start.instance(id).await }) as BoxFuture<Result<(), CommandError>>
        });
        let mut failed = join_all(all.collect()).await.into_iter().filter_map(Result::err).collect::<Vec<_>>();
        if let Some(last) = failed.pop() {
            for error in failed {
                eprintln!("error: {error}");
            }
            return Err(last);
        }
        println!("{}", super::WHO_MAY_ENTER);
        Ok(true)
    })
}

struct Start {
    cluster: ClusterDir,
    seams: Seams,
    disk: Arc<dyn Disk>,
    deadline: Instant,
    timeout: u64,
}

impl Start {
    async fn instance(&self, id: u16) -> Result<(), CommandError> {
        let config = self.cluster.config(id)?;
        let home = self.cluster.instance(id);
        home.make()?;
        let path = home.start_file();
        let made = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path);
        made.map_err(|error| format!("can't write {}: {error}", path.display()))?;
        let left = self.deadline.since(self.seams.now());
        let _only_start = match lock::wait_free(&self.seams, &path, ThreadId(id), left).await {
            Err(DiskError::InUse { .. }) => {
                return Err(format!("instance {id}: another start of it is at work, and not done after {} s", self.timeout).into());
            }
            other => other?,
        };
        let began = self.seams.now();
        let mut child = None;
        let seen = self.wait(&config, &home, &mut child).await?;
        self.tell(&seen, child.is_some(), self.seams.now().since(began));
        Ok(())
    }

    async fn look(&self, config: &Config) -> Result<Observed, CommandError> {
        observe(&self.seams, &self.disk, &self.cluster, config).await
    }

    /// Waits until it is open; starts it when no process runs it (any more: one that was being stopped or killed may have been there).
    async fn wait(&self, config: &Config, home: &InstanceDir, child: &mut Option<Spawned>) -> Result<Observed, CommandError> {
        let id = home.id;
        let mut shown = Shown::default();
        let mut ended = None;
        loop {
            let seen = self.look(config).await?;
            match seen.state {
                // One that has lost its guard, or whose guard was just killed, is about to end: then it is started.
                State::Open if seen.complaint.is_none() && seen.guard.as_ref().is_some_and(Identity::stays) => {
                    shown.end();
                    return Ok(seen);
                }
                State::Recovering => shown.progress(id, seen.recovery.as_ref(), self.seams.now()),
                State::Stopped | State::Dead if child.is_none() => {
                    *child = Some(Spawned::spawn(&self.cluster, home)?);
                    continue;
                }
                _ => {}
            }
            // Only if it had ended before it was looked at: it may have been seen in an earlier state otherwise.
            if let Some(status) = ended {
                shown.end();
                let said = child.as_ref().map_or_else(String::new, Spawned::last_lines);
                let where_ = home.log_file();
                return Err(format!("instance {id} didn't open ({status}). The end of {}:\n{said}", where_.display()).into());
            }
            if let Some(spawned) = child {
                ended = spawned.child.try_wait()?;
            }
            if self.seams.now() >= self.deadline {
                shown.end();
                let why = seen.complaint.map_or_else(String::new, |complaint| format!(" ({complaint})"));
                return Err(
                    format!("instance {id} is {} after {} s{why}; it goes on: see `clusterctl status`", seen.state, self.timeout).into()
                );
            }
            self.seams.sleep(EVERY).await;
        }
    }

    fn tell(&self, seen: &Observed, started: bool, took: Duration) {
        let pid = seen.process.as_ref().map_or_else(String::new, |process| format!(", pid {}", process.pid));
        let clients = match seen.postgres {
            // Until instances share their caches.
            _ if seen.id != 1 => "a member; clients are served by instance 1".to_string(),
            None => "serves no clients".to_string(),
            Some(address) => format!("clients: {address}"),
        };
        let how = if started { format!("open after {:.1} s", took.as_secs_f64()) } else { "running already".to_string() };
        println!("instance {}: {how}{pid}, {clients}", seen.id);
    }
}

/// A process that was started here.
struct Spawned {
    child: Child,
    log: PathBuf,
    /// Where its part of the log begins.
    log_from: u64,
}

impl Spawned {
    fn spawn(cluster: &ClusterDir, home: &InstanceDir) -> Result<Spawned, CommandError> {
        let log = home.log_file();
        let (stderr, log_from) = append(&log)?;
        let (stdout, _) = append(&home.events_file())?;
        let program = std::env::current_exe()?;
        let mut command = Command::new(&program);
        command.arg("run").arg("--dir").arg(cluster.path()).args(["--instance", &home.id.to_string()]);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).current_dir(home.path());
        // SAFETY: between fork and exec only system calls are made, no memory is allocated and no lock taken.
        unsafe { command.pre_exec(detach) };
        let child = command.spawn().map_err(|error| format!("can't run {}: {error}", program.display()))?;
        Ok(Spawned { child, log, log_from })
    }

    /// The end of what it has said.
    fn last_lines(&self) -> String {
        let mut text = Vec::new();
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.log_from))?;
            file.take(1 << 20).read_to_end(&mut text)
        });
        if let Err(error) = read {
            return format!("(can't be read: {error})");
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].iter().map(|line| format!("  {line}\n")).collect::<String>();
        if last.is_empty() { "  (it said nothing)".into() } else { last.trim_end().into() }
    }
}

/// In the child: a session of its own, so that a terminal's signals don't reach it, and no files of ours.
fn detach() -> std::io::Result<()> {
    // SAFETY: `setsid` takes nothing and touches no memory.
    if unsafe { libc::setsid() } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let close_on_exec: libc::c_uint = 1 << 2;
    // SAFETY: marks descriptors; the standard three stay open. Where the kernel is too old for it (before 5.11), what we inherited stays open, too.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, close_on_exec) };
    Ok(())
}

/// Opens a log for appending, and says where it ends; a long one is put aside first.
fn append(path: &Path) -> Result<(File, u64), CommandError> {
    let can_not = |error: std::io::Error| format!("can't write {}: {error}", path.display());
    if path.metadata().is_ok_and(|found| found.len() > LOG_MAX) {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        std::fs::rename(path, aside).map_err(can_not)?;
    }
    let file = File::options().append(true).create(true).mode(0o600).open(path).map_err(can_not)?;
    let length = file.metadata().map_err(can_not)?.len();
    Ok((file, length))
}

/// Progress of recovery on standard error: one line that changes on a terminal, a line a second elsewhere.
#[derive(Default)]
struct Shown {
    told: Option<Instant>,
    unfinished: bool,
}

impl Shown {
    fn progress(&mut self, id: u16, recovery: Option<&Value>, now: Instant) {
        let terminal = std::io::stderr().is_terminal();
        let every = Duration::from_millis(if terminal { 100 } else { 1000 });
        if self.told.is_some_and(|told| now.since(told) < every) {
            return;
        }
        let Some(recovery) = recovery else { return };
        self.told = Some(now);
        let line = format!("instance {id}: recovering: {}", super::status::show_recovery(recovery));
        // Progress is for people who watch: it doesn't matter if nobody does.
        let _ = if terminal { write!(std::io::stderr(), "\r\x1b[K{line}") } else { writeln!(std::io::stderr(), "{line}") };
        self.unfinished = terminal;
    }

    fn end(&mut self) {
        if self.unfinished {
            self.unfinished = false;
            let _ = writeln!(std::io::stderr());
        }
    }
}
