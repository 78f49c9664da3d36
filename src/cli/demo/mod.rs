//! `clusterctl demo`: the crash demonstration.
//!
//! ```text
//! make storage -> [ start load -> journal its acknowledgements here -> kill -9 -> checker recovers and compares ] x kills -> table
//! ```
//! Load and checker are processes of their own (this same binary); the journal is written by this one, from what the load said before it
//! was killed. Exit status 0 only if every round's check held.

pub mod check;
pub mod load;
pub mod plan;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args as ClapArgs;
use serde::Serialize;

/// Longest wait for a killed process's I/O. The disk has stalled when it takes longer, and the demonstration says so.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

use super::config::Config;
use super::init::{new_cluster_id, parse_disk};
use super::{CommandError, on_runtime};
use crate::base::Seams;
use crate::base::options::{DiskKind, Options};
use crate::base::random::Random;
use crate::disk::lock;
use crate::node::store::Store;
use crate::page::superblock::Shape;
use crate::page::volume::StoragePaths;
use check::Outcome;

/// How to demonstrate.
#[derive(ClapArgs)]
pub struct Args {
    /// How often the process is killed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    kills: u32,
    /// Longest time of load before a kill, in seconds; each kill comes at a random moment up to it.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Concurrent clients.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    clients: u32,
    /// Rows of each client.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rows: u64,
    /// Page cache, in MiB.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..=65536))]
    cache_mib: u64,
    /// Redo ring, in MiB.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(8..=65536))]
    ring_mib: u64,
    /// Disk driver: auto, uring, threads.
    #[arg(long, default_value = "auto", value_parser = parse_disk)]
    disk: DiskKind,
    /// Decides what is written and when the kills come; drawn and shown when left out.
    #[arg(long)]
    seed: Option<u64>,
    /// Folder for the storage files and the journal; a new temporary one when left out.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Keep the folder.
    #[arg(long)]
    keep: bool,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

/// One kill.
#[derive(Serialize)]
struct Round {
    kill: u32,
    load_seconds: f64,
    acknowledged: u64,
    check: Outcome,
}

/// All of them.
#[derive(Serialize)]
struct Summary {
    seed: u64,
    folder: PathBuf,
    rounds: Vec<Round>,
    held: bool,
}

/// Demonstrates; false when a check didn't hold.
///
/// # Errors
/// Something could not be run.
pub fn run(args: Args) -> Result<bool, CommandError> {
    if !(0.05..=3600.0).contains(&args.seconds) {
        return Err(format!("--seconds is {}, but must be 0.05 to 3600", args.seconds).into());
    }
    let folder = Folder::new(args.dir.clone(), args.keep)?;
    let config = write_config(&args, &folder.path)?;
    let paths = Config::load(&config)?.storage;
    on_runtime(args.disk, async |seams, disk| {
        let seed = args.seed.unwrap_or_else(|| seams.random());
        let shape = Shape {
            cluster: new_cluster_id(&seams),
            threads: 1,
            data_files: 1,
            ring_bytes: args.ring_mib << 20,
            data_bytes: 1 << 20,
            grow: true,
            created_ms: seams.wall_ms(),
        };
        Store::create(seams.clone(), disk, &paths.paths(), shape).await?;
        if !args.json {
            println!("seed {seed}; storage and journal in {}", folder.path.display());
        }
        let rounds = kill_repeatedly(&args, &config, &folder.path, seed, &seams).await?;
        let held = rounds.iter().all(|round| round.check.findings.is_empty());
        let summary = Summary { seed, folder: folder.path.clone(), rounds, held };
        if args.json {
            println!("{}", serde_json::to_string(&summary)?);
        } else {
            conclude(&summary, &args);
        }
        Ok(held)
    })
}

/// The folder of the demonstration, removed at the end unless it is to be kept.
struct Folder {
    path: PathBuf,
    remove: bool,
}

impl Folder {
    fn new(wanted: Option<PathBuf>, keep: bool) -> Result<Folder, CommandError> {
        let path = wanted.unwrap_or_else(|| std::env::temp_dir().join(format!("regroup-demo-{}", std::process::id())));
        if path.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(format!("{} isn't empty: give another folder with --dir", path.display()).into());
        }
        std::fs::create_dir_all(&path).map_err(|error| format!("can't make {}: {error}", path.display()))?;
        Ok(Folder { path, remove: !keep })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.remove
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("can't remove {}: {error}", self.path.display());
        }
    }
}

fn write_config(args: &Args, folder: &Path) -> Result<PathBuf, CommandError> {
    let storage = StoragePaths { redo: vec!["redo.1".into()], data: vec!["data.0".into()] };
    let options = Options { cache_bytes: args.cache_mib << 20, disk: args.disk, checkpoint_interval_ms: 1000, ..Options::default() };
    let file = folder.join("regroup.toml");
    std::fs::write(&file, toml::to_string(&Config::alone(storage, options))?)?;
    Ok(file)
}

async fn kill_repeatedly(args: &Args, config: &Path, folder: &Path, seed: u64, seams: &Seams) -> Result<Vec<Round>, CommandError> {
    let journal_path = folder.join("journal");
    let mut random = Random::new(seed);
    let mut rounds = Vec::new();
    let mut acknowledged = 0;
    for kill in 1..=args.kills {
        let load_for = Duration::from_secs_f64(args.seconds * (0.2 + 0.8 * random.below(1000) as f64 / 1000.0));
        let journal = File::options().create(true).append(true).open(&journal_path)?;
        let mut load =
            Command::new(std::env::current_exe()?).arg("demo-load").args(common(args, config, seed)).stdout(Stdio::piped()).spawn()?;
        let said = load.stdout.take().expect("standard output is a pipe");
        let (tell, journalled) = tokio::sync::oneshot::channel();
        seams.work(Box::new(move || drop(tell.send(keep_journal(BufReader::new(said), journal)))));
        seams.sleep(load_for).await;
        let ended_early = load.try_wait()?;
        load.kill()?;
        load.wait()?;
        wait_until_drained(config, seams).await?;
        let total = acknowledged + journalled.await??;
        if let Some(status) = ended_early {
            return Err(format!("the load ended by itself before the kill ({status}); see its message above").into());
        }
        let check = check(args, config, &journal_path, seed)?;
        let round = Round { kill, load_seconds: load_for.as_secs_f64(), acknowledged: total - acknowledged, check };
        acknowledged = total;
        if !args.json {
            tell_round(&round, kill == 1);
        }
        rounds.push(round);
    }
    Ok(rounds)
}

/// Waits until the killed process's I/O has drained: `wait` doesn't prove that with io_uring, obtaining its locks does.
async fn wait_until_drained(config: &Path, seams: &Seams) -> Result<(), CommandError> {
    let config = Config::load(config)?;
    for path in config.files() {
        lock::wait_free(seams, path, config.thread(), DRAIN_PATIENCE).await?;
    }
    Ok(())
}

/// Copies acknowledgements into the journal until the pipe ends; a last line cut short by the kill was not said. Returns how many.
fn keep_journal(mut said: impl BufRead, mut journal: File) -> std::io::Result<u64> {
    let mut lines = 0;
    let mut line = String::new();
    while said.read_line(&mut line)? > 0 {
        if line.ends_with('\n') {
            journal.write_all(line.as_bytes())?;
            lines += 1;
        }
        line.clear();
    }
    journal.sync_all()?;
    Ok(lines)
}

fn common(args: &Args, config: &Path, seed: u64) -> Vec<std::ffi::OsString> {
    let mut words: Vec<std::ffi::OsString> = vec!["--config".into(), config.into()];
    for (name, value) in [("--seed", seed), ("--clients", args.clients.into()), ("--rows", args.rows)] {
        words.extend([name.into(), value.to_string().into()]);
    }
    words
}

/// Runs the checker process.
fn check(args: &Args, config: &Path, journal: &Path, seed: u64) -> Result<Outcome, CommandError> {
    let output = Command::new(std::env::current_exe()?)
        .arg("demo-check")
        .args(common(args, config, seed))
        .arg("--journal")
        .arg(journal)
        .stderr(Stdio::inherit())
        .output()?;
    if !matches!(output.status.code(), Some(0 | 1)) {
        return Err(format!("the checker could not run ({}); see its message above", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn tell_round(round: &Round, first: bool) {
    if first {
        println!(
            "{:>5} {:>8} {:>9} {:>10} {:>9} {:>8} {:>9} {:>9}  check",
            "kill", "load s", "acked", "log MiB", "changes", "pages", "scan ms", "redo ms"
        );
    }
    let report = round.check.recovery.as_ref();
    let ms = |name: &str| {
        let phases = report.iter().flat_map(|report| &report.phases);
        phases.filter(|phase| phase.name == name).map(|phase| phase.seconds * 1000.0).sum::<f64>()
    };
    let findings = &round.check.findings;
    println!(
        "{:>5} {:>8.2} {:>9} {:>10.2} {:>9} {:>8} {:>9.1} {:>9.1}  {}",
        round.kill,
        round.load_seconds,
        round.acknowledged,
        report.map_or(0.0, |report| report.log_bytes as f64 / f64::from(1 << 20)),
        report.map_or(0, |report| report.changes),
        report.map_or(0, |report| report.pages_in_log),
        ms("scan"),
        ms("redo"),
        if findings.is_empty() { "held".to_string() } else { format!("FAILED: {}", findings.join("; ")) },
    );
}

fn conclude(summary: &Summary, args: &Args) {
    let acknowledged: u64 = summary.rounds.iter().map(|round| round.acknowledged).sum();
    if summary.held {
        println!(
            "all held: {acknowledged} acknowledged steps survived {} kills; nothing half done, nothing else changed",
            summary.rounds.len()
        );
    } else {
        println!(
            "FAILED. To replay: clusterctl demo --seed {} --kills {} --seconds {} --clients {} --rows {} --keep",
            summary.seed, args.kills, args.seconds, args.clients, args.rows
        );
    }
}
