//! `regroupd`: opens one instance's storage, recovers it if need be, and serves PostgreSQL clients until SIGTERM or SIGINT; then it ends
//! their sessions and closes the storage.
//!
//! Standard output gets one JSON object a line: `starting`, `recovering` (with progress), `recovered` (with the report), `open`, `stopping`,
//! `closed`. As instance of a cluster's directory (`--dir`) it also holds the instance's process file and answers on its admin socket;
//! started with a configuration file alone (`--config`) it does neither. Told to stop while it recovers, it ends at once: the next start
//! recovers anew.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args as ClapArgs;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::admin::server::{Board, show_report};
use super::config::Config;
use super::door::Door;
use super::layout::{ClusterDir, InstanceDir};
use super::process::Presence;
use super::{CommandError, on_runtime};
use crate::base::{Gate, Seams};
use crate::disk::lock;
use crate::node::storage::Opening;
use crate::node::store::Store;
use crate::recovery::Progress;

/// Between two tries to be the only user of the store, when stopping.
const EVERY: Duration = Duration::from_millis(5);

/// Longest wait for the I/O of an earlier process of the instance.
pub(super) const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

/// What to run.
#[derive(ClapArgs)]
pub struct Args {
    /// The cluster's directory, as `clusterctl init` made it.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    dir: Option<PathBuf>,
    /// A configuration file, instead of a cluster's directory.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which instance to run; left out, the one that the configuration names, or 1.
    #[arg(long, value_name = "ID")]
    instance: Option<u16>,
}

impl Args {
    fn resolve(self) -> Result<(Config, Option<InstanceDir>), CommandError> {
        if let Some(file) = self.config {
            return Ok((Config::load_as(&file, self.instance)?, None));
        }
        let cluster = ClusterDir::open(self.dir)?;
        let config = Config::load_as(&cluster.config_file(), self.instance)?;
        let home = cluster.instance(config.instance);
        Ok((config, Some(home)))
    }
}

/// Says something on standard output as a line of JSON. A full disk or a closed pipe there must not end an instance.
pub(super) fn say(event: &serde_json::Value) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{event}").and_then(|()| out.flush()) {
        tracing::warn!(%error, %event, "an event can't be written to standard output");
    }
}

pub(super) fn say_progress(progress: &Progress) {
    say(&json!({
        "event": "recovering", "phase": progress.phase, "unit": progress.unit, "done": progress.done, "total": progress.total,
        "seconds": progress.elapsed.as_secs_f64(), "seconds_left": progress.left.map(|left| left.as_secs_f64()),
    }));
}

/// Completes when the process is told to stop.
struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignal {
    fn new() -> Result<StopSignal, CommandError> {
        Ok(StopSignal { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs until told to stop.
///
/// # Errors
/// The configuration or the storage can't be used, or another process runs the instance.
pub fn run(args: Args) -> Result<bool, CommandError> {
    let (config, home) = args.resolve()?;
    on_runtime(config.options.disk, async move |seams, disk| {
        let mut stop = StopSignal::new()?;
        let instance = config.instance;
        let board = Board::new();
        // In this order, and given up in the other.
        let _presence = match &home {
            Some(home) => Some(Presence::announce(home, &seams).await?),
            None => None,
        };
        let _socket = home.as_ref().map(|home| board.listen(home, &seams)).transpose()?;
        let door = Door::listen(&config, &seams, Gate::always_open(seams.clone())).await?;
        say(&json!({
            "event": "starting", "instance": instance, "pid": std::process::id(), "version": env!("CARGO_PKG_VERSION"),
            "postgres": door.address(),
        }));
        if home.is_some() {
            drained(&config, &seams, &mut stop).await?;
        }
        let (shown, knocked) = (board.clone(), door.clone());
        let opening = Opening {
            seams: seams.clone(),
            disk,
            paths: config.storage.paths(),
            thread: config.thread(),
            options: config.options.clone(),
            on_progress: Some(Box::new(move |progress| {
                shown.recovering(progress);
                knocked.recovering(progress);
                say_progress(progress);
            })),
            on_checkpoint: None,
        };
        let store = tokio::select! {
            biased;
            opened = Store::open(opening) => Arc::new(opened?),
            () = stop.received() => {
                say(&json!({ "event": "interrupted", "instance": instance }));
                tracing::info!("told to stop before the storage was open: the next start begins anew");
                return Ok(true);
            }
        };
        serve(store, &board, &door, instance, home.as_ref(), &seams, &mut stop).await?;
        say(&json!({ "event": "closed", "instance": instance }));
        Ok(true)
    })
}

/// Waits until the I/O of the process that ran this instance before has drained: it may be gone, and its writes still under way. What else
/// is wrong with the files shows when they are opened.
async fn drained(config: &Config, seams: &Seams, stop: &mut StopSignal) -> Result<(), CommandError> {
    for path in config.files() {
        if matches!(lock::is_held(path, config.thread()), Ok(true)) {
            tracing::info!(file = %path.display(), "still in use by a process that ran this instance, or by its I/O: waiting");
            tokio::select! {
                biased;
                free = lock::wait_free(seams, path, config.thread(), DRAIN_PATIENCE) => drop(free?),
                () = stop.received() => return Err("told to stop while waiting for the storage files".into()),
            }
        }
    }
    Ok(())
}

/// Serves until told to stop, then closes the store.
async fn serve(
    store: Arc<Store>,
    board: &Board,
    door: &Door,
    instance: u16,
    home: Option<&InstanceDir>,
    seams: &Seams,
    stop: &mut StopSignal,
) -> Result<(), CommandError> {
    if let Some(report) = store.storage().recovery() {
        board.recovered(report);
        say(&json!({ "event": "recovered", "report": report }));
        keep_report(home, &show_report(report));
    }
    let writer = store.storage().writer();
    door.open(&store, seams).await?;
    let postgres = door.address();
    board.open(writer, store.clone(), postgres);
    say(&json!({
        "event": "open", "instance": instance, "incarnation": writer.incarnation.0, "epoch": writer.epoch.0, "postgres": postgres,
    }));
    stop.received().await;
    say(&json!({ "event": "stopping", "instance": instance }));
    board.stopping();
    door.close().await;
    close(store, seams).await
}

/// Closes the store when those who work on the admin socket have let go of it; they have been told.
async fn close(mut store: Arc<Store>, seams: &Seams) -> Result<(), CommandError> {
    loop {
        match Arc::try_unwrap(store) {
            Ok(only) => return Ok(only.close().await?),
            Err(shared) => store = shared,
        }
        seams.sleep(EVERY).await;
    }
}

/// Leaves the report where `clusterctl status` finds it when this process is gone.
pub(super) fn keep_report(home: Option<&InstanceDir>, report: &serde_json::Value) {
    let Some(home) = home else { return };
    let (file, new) = (home.recovery_file(), home.recovery_file().with_extension("json.new"));
    if let Err(error) = std::fs::write(&new, report.to_string()).and_then(|()| std::fs::rename(&new, &file)) {
        tracing::warn!(file = %file.display(), %error, "the recovery report can't be kept in a file; standard output has it");
    }
}
