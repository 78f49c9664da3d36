//! The instance's own process: joins the cluster, opens the instance's storage, recovers it if need be, and serves PostgreSQL clients until SIGTERM
//! or SIGINT; then it ends their sessions, closes the storage and leaves. Run by its guard (`cli::guard`), whose child it is.
//!
//! ```text
//! locks on all storage files -> membership on a thread of its own (member) -> a view with us -> the store -> clients, behind the park gate
//! evicted: exits at once with a code by which its guard starts it again (node::guard::core::exit); parked: the gate holds answers back
//! ```
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
use super::fence;
use super::layout::{ClusterDir, InstanceDir};
use super::member::{self, Seen, StartError};
use super::observe::read_control;
use super::process::Presence;
use super::{CommandError, on_runtime};
use crate::base::{Gate, Incarnation, Seams, Writer};
use crate::disk::{Access, Disk, lock};
use crate::membership::StopReason;
use crate::node::guard::core::exit;
use crate::node::guard::leash::Leash;
use crate::node::member::{Member, MemberError, Standing};
use crate::node::storage::{Life, Opening, OpeningVolume};
use crate::node::store::Store;
use crate::page::volume::Volume;
use crate::recovery::{OnProgress, Progress};

/// Between two tries to be the only user of the store, when stopping.
const EVERY: Duration = Duration::from_millis(5);

/// Until instances share their caches, only this one serves SQL.
pub(super) const SERVES_SQL: u16 = 1;

/// Longest wait for a view without this instance when it stops.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

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
        Ok(run.live().await)
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
    async fn live(self) -> Result<i32, Failed> {
        let unopened = with::<CommandError>(exit::NOT_OPENED);
        let mut stop = StopSignal::new().map_err(&unopened)?;
        let board = Board::new();
        // In this order, and given up in the other.
        let _presence = match &self.home {
            Some(home) => Some(Presence::announce(home, &self.seams).await.map_err(with(exit::UNUSABLE))?),
            None => None,
        };
        let _socket = self.home.as_ref().map(|home| board.listen(home, &self.seams)).transpose().map_err(&unopened)?;
        if self.config.is_clustered() { self.member(&board, &mut stop).await } else { self.alone(&board, &mut stop).await }
    }

    /// One instance alone: its incarnation and epoch are counted in its redo file.
    async fn alone(&self, board: &Board, stop: &mut StopSignal) -> Result<i32, Failed> {
        let Run { config, seams, disk, .. } = self;
        let unopened = with::<CommandError>(exit::NOT_OPENED);
        let door = Door::listen(config, seams, Gate::always_open(seams.clone())).await.map_err(&unopened)?;
        self.say_starting(&door);
        if self.home.is_some() {
            drained(config, seams, stop).await.map_err(&unopened)?;
        }
        let opening = Opening {
            seams: seams.clone(),
            disk: disk.clone(),
            paths: config.storage.paths(),
            thread: config.thread(),
            options: config.options.clone(),
            on_progress: Some(self.on_progress(board, &door)),
            on_checkpoint: None,
        };
        let store = tokio::select! {
            biased;
            opened = Store::open(opening) => Arc::new(opened.map_err(with(exit::NOT_OPENED))?),
            () = stop.received() => return Ok(self.interrupted()),
        };
        if let Some(leash) = &self.leash {
            let writer = store.storage().writer();
            leash.announced(writer.incarnation);
            leash.joined(writer.epoch);
        }
        self.open(&store, board, &door).await.map_err(with(exit::NOT_OPENED))?;
        stop.received().await;
        self.close(store, board, &door).await.map_err(with(exit::BROKEN))?;
        self.say_closed();
        Ok(exit::CLEAN)
    }

    /// A member of a cluster.
    async fn member(&self, board: &Board, stop: &mut StopSignal) -> Result<i32, Failed> {
        let Run { config, seams, disk, .. } = self;
        let unopened = with::<CommandError>(exit::NOT_OPENED);
        drained(config, seams, stop).await.map_err(&unopened)?;
        // From here on this process holds the instance's locks: it has an identity only with all of them (rule 6).
        let volume =
            Volume::open(disk.clone(), &config.storage.paths(), Access::Write(config.thread())).await.map_err(with(exit::NOT_OPENED))?;
        let control = read_control(disk, config).await.map_err(&unopened)?;
        let above = self.above.max(control.writer.incarnation);
        let words = self.home.as_ref().map_or(Ok(Vec::new()), |home| fence::words(&home.cluster())).map_err(&unopened)?;
        let member = match member::start(config, volume.shape(), above, &words).await {
            Ok(member) => member,
            Err(StartError::Thread(error)) => return Err(unopened(error)),
            Err(StartError::Member(error)) => return Err(self.no_member(error)),
        };
        board.takes_part(Arc::new(Seen(member.clone())));
        let door = Door::listen(config, seams, member.gate()).await.map_err(&unopened)?;
        self.say_starting(&door);
        let standing = tokio::select! {
            biased;
            joined = member.join() => joined.map_err(|error| self.no_member(error))?,
            () = stop.received() => return Ok(self.interrupted()),
        };
        if let Some(leash) = &self.leash {
            leash.announced(standing.incarnation);
            leash.joined(standing.epoch);
        }
        self.follow_views(&member, board);
        member::carry_out(&member, words, seams);
        let Standing { incarnation, epoch } = standing;
        let served = async {
            if config.instance != SERVES_SQL {
                door.elsewhere(config);
                board.member(Writer { thread: config.thread(), incarnation, epoch }, door.address());
                say(&json!({
                    "event": "open", "instance": config.instance, "incarnation": incarnation.0, "epoch": epoch.0, "postgres": door.address(),
                }));
                stop.received().await;
                say(&json!({ "event": "stopping", "instance": config.instance }));
                board.stopping();
                door.close().await;
                return Ok(true);
            }
            let opening = OpeningVolume {
                seams: seams.clone(),
                volume,
                thread: config.thread(),
                options: config.options.clone(),
                on_progress: Some(self.on_progress(board, &door)),
                on_checkpoint: None,
            };
            let store = tokio::select! {
                biased;
                opened = Store::open_member(opening, Life { incarnation, epoch }) => Arc::new(opened.map_err(with(exit::NOT_OPENED))?),
                () = stop.received() => return Ok(false),
            };
            self.open(&store, board, &door).await.map_err(with(exit::NOT_OPENED))?;
            stop.received().await;
            self.close(store, board, &door).await.map_err(with(exit::BROKEN))?;
            Ok(true)
        };
        let closed = tokio::select! {
            biased;
            reason = member.stopped() => self.thrown_out(reason),
            closed = served => closed?,
        };
        if !closed {
            // Told to stop while it recovered: what it leaves is as a crash left it, and the next start begins anew.
            return Ok(self.interrupted());
        }
        self.leave(&member).await;
        self.say_closed();
        Ok(exit::CLEAN)
    }

    /// This life is over by the cluster's decision: nothing more is written, nothing more is answered.
    fn thrown_out(&self, reason: StopReason) -> ! {
        let Failed { code, error } = self.no_member(MemberError::Stopped { instance: self.config.thread(), reason: Box::new(reason) });
        say(&json!({ "event": "evicted", "instance": self.config.instance, "why": error.to_string() }));
        let _ = writeln!(std::io::stderr(), "error: {error}");
        // Not a return: that would write what is dirty.
        std::process::exit(code)
    }

    fn no_member(&self, error: MemberError) -> Failed {
        let code = match &error {
            MemberError::LiveIdentity { .. } => exit::UNUSABLE,
            MemberError::Stopped { reason, .. } => match **reason {
                StopReason::LiveIdentity { .. } | StopReason::Unproven { .. } => exit::UNUSABLE,
                _ => exit::EVICTED,
            },
            _ => exit::NOT_OPENED,
        };
        Failed { code, error: error.into() }
    }

    /// Leaves the cluster, so that nobody has to find out that this instance is gone.
    async fn leave(&self, member: &Member) {
        if let Some(leash) = &self.leash {
            leash.leaving();
        }
        tokio::select! {
            biased;
            left = member.leave() => if let Err(error) = left {
                tracing::warn!(%error, "did not leave the cluster in order; there is nothing to recover");
            },
            () = self.seams.sleep(LEAVE_PATIENCE) => {
                tracing::warn!("no view without this instance within {} s: the others will evict it, and find nothing to recover", LEAVE_PATIENCE.as_secs());
            }
        }
    }

    /// Shows the epoch of each view.
    fn follow_views(&self, member: &Member, board: &Board) {
        let (mut view, board) = (member.view(), board.clone());
        let follow = async move {
            while view.changed().await.is_ok() {
                let epoch = view.borrow_and_update().as_ref().map(|view| view.epoch);
                if let Some(epoch) = epoch {
                    board.in_epoch(epoch);
                }
            }
        };
        self.seams.spawn("views on the board", Box::pin(follow));
    }

    fn on_progress(&self, board: &Board, door: &Door) -> OnProgress {
        let (shown, knocked) = (board.clone(), door.clone());
        Box::new(move |progress| {
            shown.recovering(progress);
            knocked.recovering(progress);
            say_progress(progress);
        })
    }

    fn say_starting(&self, door: &Door) {
        say(&json!({
            "event": "starting", "instance": self.config.instance, "pid": std::process::id(), "version": env!("CARGO_PKG_VERSION"),
            "postgres": door.address(),
        }));
    }

    fn interrupted(&self) -> i32 {
        say(&json!({ "event": "interrupted", "instance": self.config.instance }));
        tracing::info!("told to stop before the storage was open: the next start begins anew");
        exit::CLEAN
    }

    fn say_closed(&self) {
        say(&json!({ "event": "closed", "instance": self.config.instance }));
    }

    /// Lets clients in.
    async fn open(&self, store: &Arc<Store>, board: &Board, door: &Door) -> Result<(), CommandError> {
        if let Some(report) = store.storage().recovery() {
            board.recovered(report);
            say(&json!({ "event": "recovered", "report": report }));
            keep_report(self.home.as_ref(), &show_report(report));
        }
        let writer = store.storage().writer();
        door.open(store, &self.seams).await?;
        let postgres = door.address();
        board.open(writer, store.clone(), postgres);
        say(&json!({
            "event": "open", "instance": self.config.instance, "incarnation": writer.incarnation.0, "epoch": writer.epoch.0, "postgres": postgres,
        }));
        Ok(())
    }

    /// Ends sessions and closes the store.
    async fn close(&self, store: Arc<Store>, board: &Board, door: &Door) -> Result<(), CommandError> {
        say(&json!({ "event": "stopping", "instance": self.config.instance }));
        board.stopping();
        door.close().await;
        close(store, &self.seams).await
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
