//! `regroup-inspect`: what storage files hold, and whether they hold together. Offline and read-only.
//!
//! Every command opens files for reading only and takes no lock. Used on files that an instance is writing, it may report what is merely
//! half written. Exit codes: 0 nothing wrong, 1 something was found, 2 it could not run. One module per structure; `files` opens,
//! `output` prints.

mod control;
mod double_write;
mod files;
mod log;
mod output;
mod pages;
mod superblock;
mod trees;
mod voting;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use files::{Files, Store};
use output::Output;
use regroup::ops::scrub::Evidence;
use serde_json::json;

/// Shows and checks Regroup's storage files, offline and read-only.
///
/// Files are given by an instance's configuration file (--config) or one by one (--redo, --data, --voting). Nothing is ever written and no lock is
/// taken: stop the instance first, or findings may be writes in flight. Exit code 0: nothing wrong; 1: something was found; 2: it could
/// not run.
#[derive(Parser)]
#[command(name = "regroup-inspect", version, arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    files: Files,
    /// Print JSON, one object per line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Both superblock copies of every file: what the file is, and the cluster's shape.
    Superblock,
    /// Both control slots of every redo file: state, incarnation, checkpoint, log end.
    Control,
    /// Log blocks, groups and operations from the checkpoint on; checks the log up to its end.
    Log(log::Args),
    /// One page: header and decoded body.
    Page(pages::PageArgs),
    /// Verifies every page of every data file: checksum, identity, layout. Progress goes to standard error.
    Pages,
    /// The double-write area's header, and whether its images are whole.
    DoubleWrite,
    /// Sectors of the voting files: each instance's heartbeat, ballot, view and guard record.
    Voting,
    /// Trees of a closed store: checks order, fences, links and space maps of all, or shows the keys of one (--dump).
    Trees(trees::Args),
    /// All of it: superblocks, control slots, voting sectors, log, double-write areas, pages, each against the others, and the trees if the store was closed.
    /// Prints what is wrong, and a summary.
    Check,
}

/// Runs the command.
///
/// # Errors
/// What made it impossible; findings are no error.
async fn run(arguments: Arguments, out: &mut Output) -> Result<(), String> {
    if matches!(arguments.command, Command::Superblock) {
        return superblock::show(&arguments.files.open().await?, out).await;
    }
    let store = Store::new(arguments.files.open().await?, out).await?;
    match arguments.command {
        Command::Superblock => Ok(()),
        Command::Control => control::show(&store, out).await.map(|_| ()),
        Command::Log(args) => {
            let controls = control::read(&store, out).await?;
            log::show(&store, &controls, &args, out).await.map(|_| ())
        }
        Command::Page(args) => pages::show_one(&store, &args, out).await,
        Command::Pages => pages::verify_all(&store, Evidence::default(), out).await,
        Command::DoubleWrite => double_write::show(&store, out).await.map(|_| ()),
        Command::Voting => voting::show(&store, out).await,
        Command::Trees(args) => {
            let controls = control::read(&store, out).await?;
            trees::show(&store, &controls, &args, out).await
        }
        Command::Check => check(&store, out).await,
    }
}

async fn check(store: &Store, out: &mut Output) -> Result<(), String> {
    out.only_findings();
    superblock::show(&store.opened, out).await?;
    voting::show(store, out).await?;
    let controls = control::show(store, out).await?;
    let log::Said { ends: log_ends, made_anew } = log::show(store, &controls, &log::Args::default(), out).await?;
    let images = double_write::show(store, out).await?;
    pages::verify_all(store, Evidence { log_ends, images, made_anew }, out).await?;
    if let Some(control) = trees::unclosed(&controls) {
        let (thread, state) = (control.writer.thread, control.state);
        let text = format!("trees: not checked, as redo thread {thread} is {state} and its pages are not up to date");
        out.summary(&text, json!({ "trees": null, "thread": thread.0, "state": state.to_string() }));
        return Ok(());
    }
    if let Err(error) = trees::show(store, &controls, &trees::Args::default(), out).await {
        out.finding("tree", "trees", &format!("not checked: {error}"));
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = Output::new(arguments.json);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("regroup-inspect: can't start: {error}");
            return ExitCode::from(2);
        }
    };
    match runtime.block_on(run(arguments, &mut out)) {
        Ok(()) => out.finish(),
        Err(error) => {
            eprintln!("regroup-inspect: {error}");
            ExitCode::from(2)
        }
    }
}
