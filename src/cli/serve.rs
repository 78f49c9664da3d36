//! `regroupd`: opens one instance's storage, recovers it if need be, and serves PostgreSQL clients until SIGTERM or SIGINT; then it ends
//! their sessions and closes the storage.
//!
//! Standard output gets one JSON object a line: `starting`, `recovering` (with progress), `recovered` (with the report), `open`, `stopping`,
//! `closed`. As instance of a cluster's directory (`--dir`) it also holds the instance's process file and answers on its admin socket;
//! started with a configuration file alone (`--config`) it does neither. Told to stop while it recovers, it ends at once: the next start
//! recovers anew.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
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
use crate::base::{Gate, Incarnation, Seams};
use crate::disk::{Disk, lock};
use crate::node::guard::core::exit;
use crate::node::guard::leash::Leash;
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
    /// The cluster's directory, as `clusterctl init` made it. A host of a cluster over several hosts has one of its own, with `regroup.toml`, `tls` and
    /// the directories of its instances in it.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    dir: Option<PathBuf>,
    /// A configuration file without voting files, instead of a cluster's directory: one instance alone, without a guard.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which instance to run; left out, the one that the configuration names, or 1.
    #[arg(long, value_name = "ID")]
    instance: Option<u16>,
    /// Given by the guard to the instance that it runs: the descriptor of the line between them.
    #[arg(long, value_name = "DESCRIPTOR", hide = true)]
    child: Option<i32>,
    /// Given by the guard: every incarnation up to this one is dead.
    #[arg(long, value_name = "INCARNATION", hide = true, default_value_t = 0)]
    above: u64,
}

/// The directory of the instance and its cluster's, unless it runs from a configuration file alone.
type Home = Option<(ClusterDir, InstanceDir)>;

impl Args {
    fn resolve(&self) -> Result<(Config, Home), CommandError> {
        if let Some(file) = &self.config {
            let config = Config::load_as(file, self.instance)?;
            if config.is_clustered() {
                let why = "it has voting files, so its instances run under guards, in the cluster's directory: use --dir";
                return Err(format!("{} can't be used with --config: {why}", file.display()).into());
            }
            return Ok((config, None));
        }
        let cluster = ClusterDir::open(self.dir.clone())?;
        let config = Config::load_as(&cluster.config_file(), self.instance)?;
        let home = cluster.instance(config.instance);
        Ok((config, Some((cluster, home))))
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
pub(super) struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignal {
    pub(super) fn new() -> Result<StopSignal, CommandError> {
        Ok(StopSignal { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn received(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A failure with the exit code by which the guard knows what to do (`node::guard::core::exit`).
struct Failed {
    code: i32,
    error: CommandError,
}

/// Turns errors into failures with `code`.
fn with<E: Into<CommandError>>(code: i32) -> impl Fn(E) -> Failed {
    move |error| Failed { code, error: error.into() }
}

/// Runs the guard of an instance, or, as its child, the instance itself, until told to stop. Returns the exit code.
pub fn run(args: &Args) -> ExitCode {
    let outcome = match args.resolve() {
        Err(error) => Err(Failed { code: exit::UNUSABLE, error }),
        Ok((config, Some((cluster, home)))) if args.child.is_none() => {
            super::guard::run(&config, &cluster, &home).map_err(with(exit::UNUSABLE))
        }
        Ok((config, home)) => instance(args, config, home.map(|(_, home)| home)),
    };
    let code = outcome.unwrap_or_else(|Failed { code, error }| {
        let _ = writeln!(std::io::stderr(), "error: {error}");
        code
    });
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// The instance's own process.
fn instance(args: &Args, config: Config, home: Option<InstanceDir>) -> Result<i32, Failed> {
    // From here on the guard's end is ours.
    let leash = args.child.map(Leash::take).transpose().map_err(with(exit::UNUSABLE))?;
    let kind = config.options.disk;
    let above = Incarnation(args.above);
    let ran = on_runtime(kind, async move |seams, disk| {
        let run = Run { config, home, leash, above, seams, disk };
        Ok(run.to_its_end().await)
    });
    ran.map_err(with(exit::NOT_OPENED))?
}

/// One life of the instance.
struct Run {
    config: Config,
    home: Option<InstanceDir>,
    leash: Option<Leash>,
    above: Incarnation,
    seams: Seams,
    disk: Arc<dyn Disk>,
}

impl Run {
    async fn to_its_end(self) -> Result<i32, Failed> {
        let Run { config, home, leash, above: _, seams, disk } = self;
        let unopened = with::<CommandError>(exit::NOT_OPENED);
        let mut stop = StopSignal::new().map_err(&unopened)?;
        let instance = config.instance;
        let board = Board::new();
        // In this order, and given up in the other.
        let _presence = match &home {
            Some(home) => Some(Presence::announce(home, &seams).await.map_err(with(exit::UNUSABLE))?),
            None => None,
        };
        let _socket = home.as_ref().map(|home| board.listen(home, &seams)).transpose().map_err(&unopened)?;
        let gate = Gate::always_open(seams.clone());
        let door = Door::listen(&config, &seams, gate).await.map_err(&unopened)?;
        say(&json!({
            "event": "starting", "instance": instance, "pid": std::process::id(), "version": env!("CARGO_PKG_VERSION"),
            "postgres": door.address(),
        }));
        if home.is_some() {
            drained(&config, &seams, &mut stop).await.map_err(&unopened)?;
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
            opened = Store::open(opening) => Arc::new(opened.map_err(with(exit::NOT_OPENED))?),
            () = stop.received() => {
                say(&json!({ "event": "interrupted", "instance": instance }));
                tracing::info!("told to stop before the storage was open: the next start begins anew");
                return Ok(exit::CLEAN);
            }
        };
        if let Some(leash) = &leash {
            let writer = store.storage().writer();
            leash.announced(writer.incarnation);
            leash.joined(writer.epoch);
        }
        serve(store, &board, &door, instance, home.as_ref(), &seams, &mut stop).await.map_err(with(exit::BROKEN))?;
        say(&json!({ "event": "closed", "instance": instance }));
        Ok(exit::CLEAN)
    }
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
