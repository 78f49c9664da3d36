//! `regroupd`, and `clusterctl run`: the guard process of one instance, which runs the instance itself as its child (`node::guard`).
//!
//! ```text
//! clusterctl start -> guard: clusterctl run --dir D --instance I            process file D/instance-I/guard
//!                       -> instance: the same ... --above N --child FD      process file D/instance-I/process, admin socket   (cli::serve)
//! ```
//! The guard is light: one thread for everything but disk I/O, no page cache. Both write to the same log and the same events. Its exit codes: 0 the
//! instance was stopped and closed; 1 it crashed too often, or while it was being stopped; 2 it can't run, for the reason said.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::json;
use tokio::sync::mpsc;

use super::CommandError;
use super::config::Config;
use super::layout::{ClusterDir, InstanceDir};
use super::process::Presence;
use super::serve::{StopSignal, say};
use crate::base::threads::ThreadsRuntime;
use crate::base::{Incarnation, Seams};
use crate::disk::{Disk, open_disk};
use crate::fence::HostId;
use crate::fence::locks::FileLocks;
use crate::membership::sector::VOTING_MAX;
use crate::net::Role;
use crate::node::guard::child::Processes;
use crate::node::guard::{ClusterSetup, Connect, Setup};

/// Workers of the guard's runtime: one looks at locks, and each voting file may hang while it is opened.
const WORKERS: usize = 1 + VOTING_MAX;

/// Guards instance `config.instance` of `cluster` until it is not to run any more; returns the exit code.
///
/// # Errors
/// It can't be guarded: another guard is there, the voting files or the interconnect can't be used.
pub(super) fn run(config: &Config, cluster: &ClusterDir, home: &InstanceDir) -> Result<i32, CommandError> {
    // Everything that matters happens on this thread: the kernel kills the child when the thread that started it ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seams = ThreadsRuntime::start(runtime.handle().clone(), WORKERS)?;
    let disk = open_disk(config.options.disk)?;
    runtime.block_on(guard(config, cluster, home, seams, disk))
}

async fn guard(config: &Config, cluster: &ClusterDir, home: &InstanceDir, seams: Seams, disk: Arc<dyn Disk>) -> Result<i32, CommandError> {
    let mut signal = StopSignal::new()?;
    let _presence = Presence::announce_guard(home, &seams).await?;
    say(&json!({ "event": "guarding", "instance": config.instance, "pid": std::process::id(), "version": env!("CARGO_PKG_VERSION") }));
    let (tell, stop) = mpsc::channel(1);
    let listen = async move {
        loop {
            signal.received().await;
            // One that waits to be heard is enough.
            let _ = tell.try_send(());
        }
    };
    seams.spawn("stop signal", Box::pin(listen));
    let in_cluster = if config.is_clustered() { Some(cluster_setup(config, disk, &seams)?) } else { None };
    let (program, dir, instance) = (std::env::current_exe()?, cluster.path().to_path_buf(), config.instance);
    let setup = Setup {
        seams: seams.clone(),
        id: config.thread(),
        options: config.guard.clone(),
        host: Box::new(Processes { command: move |above| child(&program, &dir, instance, above) }),
        locks: Arc::new(FileLocks { seams: seams.clone(), files: config.locks() }),
        cluster: in_cluster,
        stop,
    };
    let ended = crate::node::guard::run(setup).await?;
    if let Some(why) = &ended.why {
        tracing::error!(instance, "{why}");
    }
    say(&json!({ "event": "unguarded", "instance": instance, "code": ended.code, "why": ended.why }));
    Ok(ended.code)
}

/// How the instance is started; the descriptor of the line to the guard follows as the last argument.
fn child(program: &Path, dir: &PathBuf, instance: u16, above: Incarnation) -> Command {
    let mut command = Command::new(program);
    if program.file_name().is_none_or(|name| name != "regroupd") {
        command.arg("run");
    }
    command.arg("--dir").arg(dir).args(["--instance", &instance.to_string(), "--above", &above.0.to_string(), "--child"]);
    command
}

fn cluster_setup(config: &Config, disk: Arc<dyn Disk>, seams: &Seams) -> Result<ClusterSetup, CommandError> {
    let connect: Connect = {
        let (config, seams) = (config.clone(), seams.clone());
        Box::new(move |cluster, life, epoch| {
            super::link::connect(&config, cluster, Role::Guard, life, epoch, &seams).map_err(|error| error.to_string())
        })
    };
    Ok(ClusterSetup {
        disk,
        voting: config.storage.voting.clone(),
        interval: std::time::Duration::from_millis(config.membership.disk_interval_ms),
        boot: HostId::own()?,
        machine: HostId::machine(),
        connect,
    })
}
