//! `clusterctl stop`: has instances close their storage, or kills them.
//!
//! An instance counts as stopped when its process is gone *and* its I/O has drained: when the in-use locks of its storage files are free
//! (`disk::lock`). Stopping one that isn't running is no error.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args as ClapArgs;

use super::admin::State;
use super::config::Config;
use super::layout::{ClusterDir, InstanceDir};
use super::observe::{Observed, observe};
use super::process::{self, Found, Identity};
use super::{CommandError, on_runtime};
use crate::base::options::DiskKind;
use crate::base::{Instant, Seams};
use crate::disk::{Disk, DiskError, lock};

/// Between two looks at an instance.
const EVERY: Duration = Duration::from_millis(20);

/// Which instances to stop, and how.
#[derive(ClapArgs)]
pub struct Args {
    /// The instances; all of the cluster when left out.
    #[arg(value_name = "ID")]
    ids: Vec<u16>,
    /// Kill the processes as a crash would (SIGKILL): nothing is closed, and the next start recovers.
    #[arg(long)]
    kill: bool,
    /// Longest wait until all are gone, in seconds. When time is up, they go on stopping.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

/// Stops and waits; false when an instance ended without closing its storage.
///
/// # Errors
/// An instance can't be signalled, or isn't gone in time.
pub fn run(dir: Option<PathBuf>, args: &Args) -> Result<bool, CommandError> {
    let cluster = ClusterDir::open(dir)?;
    let ids = cluster.chosen(&args.ids)?;
    on_runtime(DiskKind::Threads, async |seams, disk| {
        let deadline = seams.now() + Duration::from_secs(args.timeout);
        let stop = Stop { cluster, seams, disk, deadline, args };
        let mut running = Vec::new();
        for id in ids {
            let config = stop.cluster.config(id)?;
            let signalled = stop.signal(&config).await?;
            running.push((config, signalled));
        }
        let mut clean = true;
        for (config, signalled) in running {
            clean &= stop.wait(&config, signalled).await?;
        }
        Ok(clean)
    })
}

/// Looks for one of an instance's processes.
type Find = fn(&InstanceDir) -> Result<Found, CommandError>;

struct Stop<'a> {
    cluster: ClusterDir,
    seams: Seams,
    disk: Arc<dyn Disk>,
    deadline: Instant,
    args: &'a Args,
}

impl Stop<'_> {
    /// Tells the instance's guard to end it, if there is one, else its process. To kill, first the guard, that it doesn't start it again.
    async fn signal(&self, config: &Config) -> Result<bool, CommandError> {
        let home = self.cluster.instance(config.instance);
        let signal = if self.args.kill { libc::SIGKILL } else { libc::SIGTERM };
        let guarded = self.signal_found(&home, process::find_guard, signal).await?;
        if guarded && !self.args.kill {
            return Ok(true);
        }
        Ok(self.signal_found(&home, process::find, signal).await? || guarded)
    }

    async fn signal_found(&self, home: &InstanceDir, find: Find, signal: libc::c_int) -> Result<bool, CommandError> {
        loop {
            match find(home)? {
                Found::Nobody => return Ok(false),
                Found::Somebody(Some(process)) if process.is_alive() => return process.signal(signal),
                // It has the lock, but hasn't said yet who it is; or it is gone, and its lock will be at once.
                Found::Somebody(other) => self.late(home.id, other.as_ref(), "holds its lock")?,
            }
            self.seams.sleep(EVERY).await;
        }
    }

    /// Waits until its process is gone and its I/O has drained. True unless it should have closed its storage, but didn't.
    async fn wait(&self, config: &Config, signalled: bool) -> Result<bool, CommandError> {
        let id = config.instance;
        let home = self.cluster.instance(id);
        for find in [process::find_guard, process::find] {
            while let Found::Somebody(process) = find(&home)? {
                self.late(id, process.as_ref(), "has not ended")?;
                self.seams.sleep(EVERY).await;
            }
        }
        for path in config.files() {
            let left = self.deadline.since(self.seams.now());
            match lock::wait_free(&self.seams, path, config.thread(), left).await {
                Ok(_) => {}
                // A file that isn't there has no I/O.
                Err(DiskError::Open { errno: libc::ENOENT, .. }) => {}
                Err(error) => return Err(format!("instance {id}: its process is gone, but its I/O hasn't drained: {error}").into()),
            }
        }
        let seen: Observed = observe(&self.seams, &self.disk, &self.cluster, config).await?;
        let text = match (seen.state, signalled) {
            (State::Stopped, true) => "stopped".to_string(),
            (State::Stopped, false) => "stopped already".to_string(),
            (State::Dead, true) if self.args.kill => "killed; the next start recovers it".to_string(),
            (State::Dead, true) => {
                format!("ended without closing its storage; the next start recovers it. See {}", home.log_file().display())
            }
            (State::Dead, false) => "dead already; the next start recovers it".to_string(),
            (other, _) => format!("is {other}: somebody has started it again"),
        };
        println!("instance {id}: {text}");
        Ok(!(signalled && !self.args.kill && seen.state == State::Dead))
    }

    fn late(&self, id: u16, process: Option<&Identity>, what: &str) -> Result<(), CommandError> {
        if self.seams.now() < self.deadline {
            return Ok(());
        }
        let who = process.map_or_else(String::new, |process| format!(" (pid {})", process.pid));
        let hint = if self.args.kill { "" } else { "; `clusterctl status` shows what it does, --kill ends it as a crash would" };
        Err(format!("instance {id}: its process{who} {what} after {} s{hint}", self.args.timeout).into())
    }
}
