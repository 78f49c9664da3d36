//! The figures of docs/PERFORMANCE.md: each is a ratio of two measurements of one run, or a rate, as the median of five runs.
//!
//! `cargo bench --bench figures -- [--only NAME] [--runs N] [--dir FOLDER] [--json FILE]`
//!
//! A figure's function measures once and returns named numbers; the first is the one that the table quotes.

#![allow(clippy::disallowed_methods, reason = "benchmarks run on real time and real threads")]

mod commit;
mod exchange;
mod heartbeats;
mod log;
mod memory;
mod rig;
mod rows;

use std::path::PathBuf;

use clap::Parser;
use serde_json::json;

use rig::{Numbers, Rig};

#[derive(Parser)]
struct Args {
    /// Only figures whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Runs of each figure.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Where storage files go; a temporary folder when left out.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Every measurement goes here as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Size of what is measured, against the standard.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Recovers the store in this folder and tells its memory: what the figure `growth` starts.
    #[arg(long, hide = true)]
    recover: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Name, what it is, floor, go, how to measure once.
type Figure = (&'static str, &'static str, f64, f64, fn(&Rig) -> Numbers);

const FIGURES: &[Figure] = &[
    ("scan", "log scan / sequential O_DIRECT read", 0.85, 0.95, log::scan),
    ("apply", "records applied a second, warm", 4e6, 8e6, log::apply),
    ("recovery", "cold recovery / (log/seqread + pages/randread)", 1.5, 1.15, log::recovery),
    ("growth", "resident MB beyond the cache, recovering 4 GiB of log", 100.0, 64.0, log::growth),
    ("verify", "page verification / memory sweep, 2 threads", 0.85, 0.95, memory::verify),
    ("commit-1", "durable commit, one client / 4 KiB durable write", 1.5, 1.1, commit::one_client),
    ("commit-64", "64 tasks / one task, commits a second", 20.0, 50.0, commit::sixty_four),
    ("reads", "cached point reads a second, 2 threads", 1e6, 3e6, memory::reads),
    ("rollback", "operations undone a second", 1000.0, 1e5, rows::rollback),
    ("exchange-1", "8 KiB exchange p50 / bare QUIC", 1.5, 1.1, exchange::one),
    ("exchange-64", "8 KiB exchanges a second, 64 in flight / bare QUIC", 0.6, 0.9, exchange::many),
    ("heartbeats", "share of a core, heartbeats of a mesh of four, idle", 0.01, 0.002, heartbeats::idle),
    ("checkpoint", "throughput lost to checkpointing", 0.05, 0.01, commit::checkpoint),
];

fn main() {
    let args = Args::parse();
    if let Some(folder) = &args.recover {
        log::recover_once(folder);
        return;
    }
    let rig = Rig::new(args.dir.as_deref(), args.scale);
    let mut all = Vec::new();
    println!("{:<12} {:>14} {:>14} {:>14}  {:>10} {:>10}  figure", "name", "min", "median", "max", "floor", "go");
    for (name, what, floor, go, measure) in FIGURES {
        if args.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let runs: Vec<Numbers> = (0..args.runs).map(|_| measure(&rig)).collect();
        let mut values: Vec<f64> = runs.iter().map(|run| run[0].1).collect();
        values.sort_by(f64::total_cmp);
        let median = values[values.len() / 2];
        println!("{name:<12} {:>14.4} {median:>14.4} {:>14.4}  {floor:>10} {go:>10}  {what}", values[0], values[values.len() - 1]);
        let raw: Vec<_> = runs
            .iter()
            .map(|run| run.iter().map(|(name, value)| (name.to_string(), json!(value))).collect::<serde_json::Map<_, _>>())
            .collect();
        all.push(json!({ "name": name, "what": what, "floor": floor, "go": go, "median": median, "runs": raw }));
    }
    if let Some(file) = args.json {
        let text = serde_json::to_string_pretty(&all).expect("numbers are JSON");
        std::fs::write(&file, text + "\n").unwrap_or_else(|error| panic!("can't write {}: {error}", file.display()));
    }
}
