//! L11: commands, one file each. `clusterctl` and `regroupd` are thin mains over this.
//!
//! ```text
//! init (template: regroup.toml)      start  stop  status  fence  voting  checkpoint  connect  logs      verify  superblock  salvage  demo
//!        \                                 \       |      /                                /
//!         layout: what lies where in D      observe: what an instance is doing, from outside
//!                                             /           |            \
//!                            process: which one      admin: its socket   its control block
//!                                             \           |
//! guard: the guard's process     serve (door: PostgreSQL clients): the instance's own, its child     link: the interconnect
//!                                                                                           config, settings: the configuration     size: 64MiB
//! ```
//! Exit codes: 0 done, 1 it ran and found something wrong, 2 it could not run, or not do what was asked. For operators: `docs/clusterctl.md`.

pub mod admin;
pub mod checkpoint;
pub mod config;
pub mod connect;
pub mod demo;
pub mod devices;
mod door;
pub mod fence;
mod guard;
pub mod init;
pub mod layout;
mod link;
pub mod logs;
mod member;
pub mod observe;
pub mod process;
pub mod salvage;
pub mod serve;
pub mod settings;
pub mod size;
pub mod start;
pub mod status;
pub mod stop;
pub mod superblock;
pub mod template;
pub mod verify;
mod votes;
pub mod voting;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A command's failure, as told to the caller.
pub type CommandError = Box<dyn std::error::Error + Send + Sync>;

/// Told when a cluster is made and when it is started.
const WHO_MAY_ENTER: &str = "role \"regroup\" may use database \"regroup\" without a password, from this host only";

/// What follows the list of commands.
const EXAMPLES: &str = "\
Examples:
  clusterctl --dir /srv/db init                 make a cluster
  clusterctl --dir /srv/db start                start it, recovering what crashed
  clusterctl --dir /srv/db status               see how it is
  clusterctl --dir /srv/db connect              open psql on it
  clusterctl --dir /srv/db verify               check every page, tree and index
  clusterctl --dir /srv/db stop                 close and stop it

Exit codes: 0 done; 1 it ran and found something wrong; 2 it could not run, or not do what was asked (the message says why).
The cluster's directory can also be given in the environment variable REGROUP_DIR.";

/// Administers a Regroup cluster.
#[derive(Parser)]
#[command(name = "clusterctl", version, about, long_about = None, arg_required_else_help = true, after_help = EXAMPLES)]
struct Clusterctl {
    /// The cluster's directory.
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a new cluster in the directory.
    Init(init::Args),
    /// Starts instances and waits until they are open; recovers those that crashed.
    Start(start::Args),
    /// Stops instances and waits until they are gone.
    Stop(stop::Args),
    /// Shows what the instances are doing.
    Status(status::Args),
    /// Checks every page, tree and index: live when an instance is open, else offline.
    Verify(verify::Args),
    /// Opens psql on an instance; what follows -- goes to psql.
    Connect(connect::Args),
    /// Shows what an instance's process said last, or follows it.
    Logs(logs::Args),
    /// Has an instance write its dirty pages now, so that a crash soon after is recovered fast.
    Checkpoint(checkpoint::Args),
    /// Shows the configuration that is in effect, with all defaults.
    Config(settings::Args),
    /// Crash demonstration: a process under load is killed with kill -9 again and again, recovered, and every acknowledged write checked
    /// by a separate process from a journal kept outside.
    Demo(demo::Args),
    /// Shows a storage file's superblock copies; with --restore, rewrites a damaged one from the other.
    Superblock(superblock::Args),
    /// Reads what can be read from storage whose log is damaged, without writing anything to it.
    Salvage(salvage::Args),
    /// Shows fences that are not confirmed, and confirms one by an operator's word.
    Fence(fence::Args),
    /// Shows the voting files, and puts another file in the place of one.
    Voting(voting::Args),
    /// Runs one instance under its guard, as `regroupd` does.
    Run(serve::Args),
    #[command(hide = true)]
    DemoLoad(demo::load::Args),
    #[command(hide = true)]
    DemoCheck(demo::check::Args),
}

/// The main of `clusterctl`.
pub fn clusterctl() -> ExitCode {
    let Clusterctl { dir, command } = Clusterctl::parse();
    let long = matches!(command, Command::Demo(_) | Command::Run(_) | Command::Salvage(_) | Command::DemoLoad(_) | Command::DemoCheck(_));
    start_logging(if long { "info" } else { "warn" });
    if let Command::Run(args) = command {
        return serve::run(&args);
    }
    finish(match command {
        Command::Init(args) => init::run(dir, &args),
        Command::Start(args) => start::run(dir, &args),
        Command::Stop(args) => stop::run(dir, &args),
        Command::Status(args) => status::run(dir, &args),
        Command::Verify(args) => verify::run(dir, &args),
        Command::Connect(args) => connect::run(dir, &args),
        Command::Logs(args) => logs::run(dir, &args),
        Command::Checkpoint(args) => checkpoint::run(dir, &args),
        Command::Config(args) => settings::run(dir, &args),
        Command::Demo(args) => demo::run(args),
        Command::Fence(args) => fence::run(dir, &args),
        Command::Voting(args) => voting::run(dir, &args),
        Command::Superblock(args) => superblock::run(&args),
        Command::Salvage(args) => salvage::run(dir, args),
        // Has an exit code of its own.
        Command::Run(_) => Ok(true),
        Command::DemoLoad(args) => demo::load::run(args),
        Command::DemoCheck(args) => demo::check::run(args),
    })
}

/// Guards one instance of a Regroup cluster: runs it as a child process, which opens the storage, recovers it if need be, and serves; starts it
/// again when it dies, and kills it when the cluster has evicted it. SIGTERM closes both.
#[derive(Parser)]
#[command(name = "regroupd", version, about, long_about = None)]
struct Regroupd {
    #[command(flatten)]
    args: serve::Args,
}

/// The main of `regroupd`.
pub fn regroupd() -> ExitCode {
    let args = Regroupd::parse().args;
    start_logging("info");
    serve::run(&args)
}

/// Logs go to standard error; `RUST_LOG` sets the level, `usual` is it otherwise.
fn start_logging(usual: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(usual));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
}

fn finish(outcome: Result<bool, CommandError>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // Standard error may be a file on a full disk: the exit code is the answer then.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs `main` on a new runtime with the disk that `kind` names.
fn on_runtime<T>(
    kind: crate::base::options::DiskKind,
    main: impl AsyncFnOnce(crate::base::Seams, std::sync::Arc<dyn crate::disk::Disk>) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let seams = crate::base::threads::ThreadsRuntime::start(runtime.handle().clone(), 0)?;
    let disk = crate::disk::open_disk(kind)?;
    runtime.block_on(main(seams, disk))
}
