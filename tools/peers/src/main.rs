//! Runs PostgreSQL and Regroup side by side, on the same file system, in alternating pairs, and compares them (issue 3, figures).
//!
//! `figures` says what is measured, `side` what either server has to do for it, `postgres` and `regroup` how they do it. Everything is made
//! in a folder of its own and removed at the end; every process that was started is ended, whatever happens. `docs/PERFORMANCE.md` says how
//! to run it.

mod client;
mod figures;
mod machine;
mod postgres;
mod process;
mod regroup;
mod side;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};

use figures::{Bench, Extent, Figure, Numbers};
use side::Side;

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Kind {
    Postgres,
    Regroup,
}

/// Compares Regroup with PostgreSQL, both durable, with the same cache, in the same run.
///
/// Both are set up from nothing in a new folder under --dir. Figures are taken in pairs, one side after the other in changing order, the idle
/// side halted; medians, ratios and the spread are printed, everything is in the JSON. A ratio above 1 means that the second side is better.
///
/// Run it as root, so that PostgreSQL gets a user of its own and caches can be dropped before a restart. Build Regroup with
/// `cargo build --release` first, and let nothing else run.
///
///   peers --figure tpcb-8 --figure select --json result.json    two figures, five pairs of 30 s each
///   peers --sides postgres,postgres --pairs 1 --scale 1 --seconds 2    does the tool itself work here?
///   peers --figure restart    about an hour: 2 GiB of WAL behind the checkpoint first
#[derive(Parser)]
#[command(version, verbatim_doc_comment)]
struct Arguments {
    /// What to measure; all when left out.
    #[arg(long, value_enum)]
    figure: Vec<Figure>,
    /// Which two to compare, with a comma between.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Postgres, Kind::Regroup])]
    sides: Vec<Kind>,
    /// Runs of each side.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    pairs: u64,
    /// pgbench's scale: 100000 accounts each.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    scale: u64,
    /// Length of a run, where it isn't decided by work.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Cache of either side, in MiB: shared_buffers, cache_bytes.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    cache_mib: u64,
    /// Restart: log that PostgreSQL has to have written since its checkpoint, in MiB; how many transactions that takes is found out.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    wal_mib: u64,
    /// Restart: so many transactions instead.
    #[arg(long)]
    transactions: Option<u64>,
    /// Restart: clients of the load before the crash.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=100))]
    clients: u64,
    /// Rollback: rows updated by the transaction.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rows: u64,
    /// Regroup's redo ring, in MiB.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(8..=1 << 20))]
    ring_mib: u64,
    /// Where to make the folder for all data; needs about 30 GiB for a restart at scale 50. The system's folder for temporary files when left out.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// PostgreSQL's programs.
    #[arg(long, default_value = "/usr/lib/postgresql/15/bin")]
    pg_bin: PathBuf,
    /// The folder of `clusterctl`; this program's own when left out.
    #[arg(long)]
    regroup: Option<PathBuf>,
    /// An option of PostgreSQL, over what is set here.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pg_option: Vec<(String, String)>,
    /// A line of Regroup's `[options]`.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    regroup_option: Vec<(String, String)>,
    /// Write everything there.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.trim().to_string(), value.trim().to_string()))
}

impl Arguments {
    fn side(&self, number: usize, folder: &std::path::Path) -> Result<Box<dyn Side>, String> {
        let home = folder.join(format!("side-{number}"));
        let again = number.min(usize::from(number == 1 && self.sides[0] == self.sides[1]));
        Ok(match self.sides[number] {
            Kind::Postgres => Box::new(postgres::Postgres::new(again, &self.pg_bin, home, self.cache_mib, &self.pg_option)?),
            Kind::Regroup => {
                let setup = regroup::Setup {
                    clusterctl: regroup::clusterctl(self.regroup.as_deref())?,
                    programs: self.pg_bin.clone(),
                    cache_mib: self.cache_mib,
                    ring_mib: self.ring_mib,
                    options: self.regroup_option.clone(),
                };
                Box::new(regroup::Regroup::new(again, setup, home)?)
            }
        })
    }

    /// In an order in which each leaves to the next what that needs.
    fn figures(&self) -> Vec<Figure> {
        let all = [Figure::Init, Figure::Tpcb8, Figure::Tpcb64, Figure::Select, Figure::Rollback, Figure::Restart];
        all.into_iter().filter(|figure| self.figure.is_empty() || self.figure.contains(figure)).collect()
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

fn show(numbers: &Numbers) -> Value {
    let ratios = numbers.ratios();
    let (low, high) = ratios.iter().fold((f64::INFINITY, 0.0f64), |(low, high), ratio| (low.min(*ratio), high.max(*ratio)));
    let first = median(&numbers.pairs.iter().map(|pair| pair.0).collect::<Vec<_>>());
    let second = median(&numbers.pairs.iter().map(|pair| pair.1).collect::<Vec<_>>());
    let ratio = median(&ratios);
    let Numbers { name, unit, floor, go, .. } = numbers;
    println!(
        "{name:<28} {unit:>7} {first:>12.2} {second:>12.2} {ratio:>8.2} {low:>7.2}..{high:<7.2} {floor:>6.1} {go:>6.1} {:>5}",
        ratios.len()
    );
    json!({ "numbers": numbers, "ratios": ratios, "median_first": first, "median_second": second, "median_ratio": ratio, "range": [low, high] })
}

fn go(arguments: &Arguments) -> Result<(), String> {
    if arguments.sides.len() != 2 {
        return Err(format!("--sides names {}, but must name two, as in postgres,regroup", arguments.sides.len()));
    }
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new().prefix("peers-").tempdir_in(&parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    // PostgreSQL's user must get in.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).map_err(|error| error.to_string())?;
    let extent = Extent {
        pairs: arguments.pairs as usize,
        scale: arguments.scale,
        seconds: arguments.seconds,
        log_bytes: arguments.wal_mib << 20,
        transactions: arguments.transactions,
        clients: arguments.clients,
        rows: arguments.rows,
        folder: folder.path().to_path_buf(),
    };
    let sides = [arguments.side(0, folder.path())?, arguments.side(1, folder.path())?];
    let described = sides.iter().map(|side| side.describe()).collect::<Result<Vec<_>, _>>()?;
    let machine = machine::describe(folder.path());
    let mut bench = Bench { sides, extent, filled: false };
    bench.create()?;
    let names: Vec<String> = bench.sides.iter().map(|side| side.name()).collect();
    let mut figures = Vec::new();
    let mut failed = None;
    for figure in arguments.figures() {
        match bench.measure(figure) {
            Ok(all) => figures.extend(all),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let closed = if failed.is_none() { bench.close() } else { Ok(()) };
    println!(
        "{:<28} {:>7} {:>12} {:>12} {:>8} {:>16} {:>6} {:>6} {:>5}",
        "figure", "unit", names[0], names[1], "ratio", "range", "floor", "go", "pairs"
    );
    let shown: Vec<Value> = figures.iter().map(show).collect();
    if let Some(file) = &arguments.json {
        let command: Vec<String> = std::env::args().collect();
        let all = json!({ "command": command, "machine": machine, "sides": described, "figures": shown, "failed": failed });
        std::fs::write(file, format!("{all:#}\n")).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    failed.map_or(closed, Err)
}

fn main() -> ExitCode {
    match go(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0])), (2.0, 2.5));
    }

    #[test]
    fn arguments_are_understood_and_two_sides_are_two() {
        let arguments = Arguments::try_parse_from(["peers", "--sides", "postgres,postgres", "--figure", "tpcb-8", "--pg-option", "a=b"]);
        let arguments = arguments.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((arguments.sides.len(), arguments.figures()), (2, vec![Figure::Tpcb8]));
        let one = Arguments::try_parse_from(["peers", "--sides", "postgres"]).unwrap_or_else(|error| panic!("{error}"));
        assert!(go(&one).unwrap_err().contains("must name two"));
        assert!(Arguments::try_parse_from(["peers", "--pg-option", "a"]).is_err());
    }
}
