//! What an instance is doing, seen from outside: its process if one lives, else what its storage says.
//!
//! ```text
//! process file locked?  yes -> admin socket: starting, recovering, open, stopping
//!                       no  -> guard file locked?  yes -> starting: its guard is about to start it (again)
//!                                                  no  -> control block of its redo file: closed = stopped, anything else = dead
//! ```
//! A process that lives but doesn't answer is shown in the state that its storage tells, with a complaint. Read-only; takes no lock.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::CommandError;
use super::admin::client::{self, AskError};
use super::admin::{State, Status};
use super::config::Config;
use super::layout::{ClusterDir, InstanceDir};
use super::process::{self, Found, Identity};
use crate::base::{ClusterId, Seams};
use crate::disk::{Access, Disk};
use crate::page::superblock::{COPIES, Shape};
use crate::page::volume::{StoragePaths, read_copy};
use crate::redo::control::{Control, ControlFile, ThreadState};

/// How long a process may hold its lock without having its admin socket, before that is taken for its state: it makes the socket right
/// after taking the lock, and a killed one may keep the lock for a moment.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at it.
const EVERY: Duration = Duration::from_millis(5);

/// One instance, as seen now.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Which.
    pub id: u16,
    /// What it is doing.
    pub state: State,
    /// Its process, if one lives.
    pub process: Option<Identity>,
    /// Its guard, if one lives.
    pub guard: Option<Identity>,
    /// What it says of its membership, if it is asked and has any.
    pub member: Option<Value>,
    /// Its present incarnation, or its last one; nothing when the storage can't be read.
    pub incarnation: Option<u64>,
    /// The epoch that it writes in, or last wrote in.
    pub epoch: Option<u64>,
    /// Where clients find it, or would.
    pub postgres: Option<SocketAddr>,
    /// Recovery under way, or the last one.
    pub recovery: Option<Value>,
    /// What an operator should know about this observation.
    pub complaint: Option<String>,
}

/// Looks at instance `config.instance` of `cluster`.
///
/// # Errors
/// Its directory can't be looked at.
pub async fn observe(seams: &Seams, disk: &Arc<dyn Disk>, cluster: &ClusterDir, config: &Config) -> Result<Observed, CommandError> {
    let home = cluster.instance(config.instance);
    // Before the instance itself: a guard that ends in between has no instance left.
    let guard = process::find_guard(&home)?;
    let mut seen = observe_instance(seams, disk, &home, config).await?;
    if let Found::Somebody(identity) = guard {
        if seen.process.is_none() && matches!(seen.state, State::Stopped | State::Dead) {
            seen.state = State::Starting;
        }
        seen.guard = identity;
    }
    Ok(seen)
}

async fn observe_instance(seams: &Seams, disk: &Arc<dyn Disk>, home: &InstanceDir, config: &Config) -> Result<Observed, CommandError> {
    let began = seams.now();
    loop {
        let process = match process::find(home)? {
            Found::Nobody => return Ok(from_storage(disk, home, config, None, None).await),
            Found::Somebody(process) => process,
        };
        match client::status(seams, &home.socket()).await {
            Ok(status) => return Ok(from_process(home, config, process, status)),
            // Between its first two steps, or its last two: either way this ends at once.
            Err(AskError::Absent(_) | AskError::Broken(_)) if seams.now().since(began) < PATIENCE => seams.sleep(EVERY).await,
            Err(error) => return Ok(from_storage(disk, home, config, process, Some(&error)).await),
        }
    }
}

fn from_process(home: &InstanceDir, config: &Config, process: Option<Identity>, status: Status) -> Observed {
    Observed {
        id: home.id,
        state: status.state,
        process,
        incarnation: status.incarnation,
        epoch: status.epoch,
        postgres: status.postgres.or_else(|| config.listen()),
        recovery: status.recovery.or_else(|| last_recovery(home)),
        guard: None,
        member: status.member,
        complaint: None,
    }
}

async fn from_storage(
    disk: &Arc<dyn Disk>,
    home: &InstanceDir,
    config: &Config,
    process: Option<Identity>,
    silence: Option<&AskError>,
) -> Observed {
    let control = read_control(disk, config).await;
    let closed = matches!(&control, Ok(Control { state: ThreadState::Closed, .. }));
    let state = match silence {
        None if closed => State::Stopped,
        None => State::Dead,
        // Its socket is the first thing that it makes.
        Some(AskError::Absent(_)) => State::Starting,
        Some(_) => match &control {
            Ok(Control { state: ThreadState::Recovering, .. }) => State::Recovering,
            Ok(Control { state: ThreadState::Open, .. }) => State::Open,
            _ => State::Starting,
        },
    };
    let complaint = match (silence, &control) {
        (Some(AskError::Absent(_)) | None, Ok(_)) => None,
        (Some(error), _) => Some(format!("instance {}: {error}", home.id)),
        (None, Err(error)) => Some(format!("instance {}: its storage can't be read: {error}", home.id)),
    };
    let control = control.ok();
    Observed {
        id: home.id,
        state,
        process,
        incarnation: control.map(|control| control.writer.incarnation.0),
        epoch: control.map(|control| control.writer.epoch.0),
        postgres: config.listen(),
        recovery: last_recovery(home),
        guard: None,
        member: None,
        complaint,
    }
}

/// The report of the last recovery, as the process left it.
fn last_recovery(home: &InstanceDir) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(home.recovery_file()).ok()?).ok()
}

/// The control block of the instance's redo thread.
///
/// # Errors
/// Its redo file can't be read, or isn't one.
pub async fn read_control(disk: &Arc<dyn Disk>, config: &Config) -> Result<Control, CommandError> {
    let path = config.storage.redo.get(usize::from(config.instance) - 1).ok_or("the instance has no redo file")?;
    let file = disk.open(path, Access::Read)?;
    let shape = read_shape(disk, path).await?;
    let found = ControlFile::new(disk.clone(), file, shape.cluster.tag(), config.thread()).read().await?;
    Ok(found.control)
}

/// The cluster's shape, as the first storage file tells it that can.
///
/// # Errors
/// None can.
pub async fn read_shape_of(disk: &Arc<dyn Disk>, config: &Config) -> Result<Shape, CommandError> {
    let mut why = "no storage files are configured".into();
    for path in config.storage.redo.iter().chain(&config.storage.data) {
        match read_shape(disk, path).await {
            Ok(shape) => return Ok(shape),
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// The first storage file that can tell which cluster this is.
///
/// # Errors
/// None can.
pub async fn read_cluster(disk: &Arc<dyn Disk>, paths: &StoragePaths) -> Result<ClusterId, CommandError> {
    let mut why = "no storage files are configured".into();
    for path in paths.redo.iter().chain(&paths.data) {
        match read_shape(disk, path).await {
            Ok(shape) => return Ok(shape.cluster),
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// The shape that the first whole superblock copy in `path` tells.
async fn read_shape(disk: &Arc<dyn Disk>, path: &Path) -> Result<Shape, CommandError> {
    let file = disk.open(path, Access::Read)?;
    let mut why = String::new();
    for at in COPIES {
        match read_copy(disk, file, at).await? {
            Ok(found) => return Ok(found.shape),
            Err(fault) => why = fault.to_string(),
        }
    }
    Err(format!("{}: no whole superblock: {why}", path.display()).into())
}
