//! The figures: what is run on either side, in turn, and what comes out.
//!
//! Both servers stay open; while one is measured the other is halted (SIGSTOP), after a checkpoint, so that neither disturbs the other. The
//! order changes from pair to pair. For a restart each side is brought to its crash once, and every pair starts copies of that.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::process::run;
use super::side::{Side, first_answer, restart};

/// Beyond the time that a run is meant to take.
const SLACK: Duration = Duration::from_secs(300);
/// Longest filling, copying, and run of a counted number of transactions.
const LONG: Duration = Duration::from_secs(7200);
/// Transactions of one step towards the log that a restart has to redo.
const STEP: u64 = 50_000;

/// What is to be compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Figure {
    /// Wall time of `pgbench -i`.
    Init,
    /// TPC-B-like transactions a second, prepared, 8 clients.
    #[value(name = "tpcb-8")]
    #[serde(rename = "tpcb-8")]
    Tpcb8,
    /// The same with 64 clients.
    #[value(name = "tpcb-64")]
    #[serde(rename = "tpcb-64")]
    Tpcb64,
    /// Point selects a second (`pgbench -S`), prepared, 8 clients.
    Select,
    /// Row updates rolled back a second, in one transaction.
    Rollback,
    /// kill -9, caches dropped, start: time to the last page redone, and to the first client served.
    Restart,
}

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// Numbers of one figure; a restart gives two.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Numbers {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    /// What the second side must reach against the first, and what it aims at.
    pub(crate) floor: f64,
    pub(crate) go: f64,
    /// First and second side, pair by pair.
    pub(crate) pairs: Vec<(f64, f64)>,
    /// What else was said, run by run.
    pub(crate) raw: Vec<Value>,
}

impl Numbers {
    fn new(name: &'static str, unit: &'static str, better: Better, floor: f64, go: f64) -> Numbers {
        Numbers { name, unit, better, floor, go, pairs: Vec::new(), raw: Vec::new() }
    }

    /// How many times better the second side is, pair by pair.
    pub(crate) fn ratios(&self) -> Vec<f64> {
        let ratio = |(first, second): &(f64, f64)| if self.better == Better::Higher { second / first } else { first / second };
        self.pairs.iter().map(ratio).collect()
    }
}

/// How much is run.
pub(crate) struct Extent {
    pub(crate) pairs: usize,
    pub(crate) scale: u64,
    pub(crate) seconds: u64,
    /// Log that the first side has to redo, in bytes; and transactions instead of that.
    pub(crate) log_bytes: u64,
    pub(crate) transactions: Option<u64>,
    pub(crate) clients: u64,
    pub(crate) rows: u64,
    pub(crate) folder: PathBuf,
}

/// Both sides and what to do with them.
pub(crate) struct Bench {
    pub(crate) sides: [Box<dyn Side>; 2],
    pub(crate) extent: Extent,
    pub(crate) filled: bool,
}

impl Bench {
    /// Makes both clusters.
    pub(crate) fn create(&mut self) -> Result<(), String> {
        for side in &mut self.sides {
            eprintln!("{}: making a cluster", side.name());
            side.create()?;
            side.pause();
        }
        Ok(())
    }

    /// Closes both.
    pub(crate) fn close(mut self) -> Result<(), String> {
        self.sides.iter_mut().try_for_each(|side| {
            side.resume();
            side.stop().map_err(|error| format!("{}: {error}", side.name()))
        })
    }

    /// Measures one figure.
    pub(crate) fn measure(&mut self, figure: Figure) -> Result<Vec<Numbers>, String> {
        use Better::{Higher, Lower};
        if figure != Figure::Init && !self.filled {
            self.fill()?;
        }
        let seconds = self.extent.seconds;
        let one = match figure {
            Figure::Init => self.pairs(Numbers::new("pgbench -i", "s", Lower, 1.0, 2.0), Bench::init)?,
            Figure::Tpcb8 => self.pairs(Numbers::new("TPC-B, 8 clients", "tps", Higher, 1.0, 2.0), |bench, side| {
                bench.pgbench(side, &["-c", "8"], seconds)
            })?,
            Figure::Tpcb64 => self.pairs(Numbers::new("TPC-B, 64 clients", "tps", Higher, 1.0, 2.0), |bench, side| {
                bench.pgbench(side, &["-c", "64"], seconds)
            })?,
            Figure::Select => {
                let warm = (seconds / 3).max(1);
                for side in 0..2 {
                    self.alone(side, |bench| bench.pgbench(side, &["-S", "-c", "8"], warm))?;
                }
                let numbers = Numbers::new("select, 8 clients", "tps", Higher, 1.0, 2.0);
                self.pairs(numbers, |bench, side| bench.pgbench(side, &["-S", "-c", "8"], seconds))?
            }
            // Against PostgreSQL, which leaves the rows to VACUUM, a ratio tells nothing: what counts is the number itself.
            Figure::Rollback => self.pairs(Numbers::new("rollback", "rows/s", Higher, 0.0, 0.0), Bench::rollback)?,
            Figure::Restart => return self.restarts(),
        };
        Ok(vec![one])
    }

    /// Lets `side` go on, alone, for `work`.
    fn alone<T>(&mut self, side: usize, work: impl FnOnce(&mut Bench) -> Result<T, String>) -> Result<T, String> {
        self.sides[side].resume();
        let done = work(self).map_err(|error| format!("{}: {error}", self.sides[side].name()));
        if done.is_err() {
            // Why it failed may be that the server has ended.
            self.sides[side].check()?;
        }
        let done = done?;
        self.sides[side].door().connect()?.query("checkpoint")?;
        self.sides[side].pause();
        Ok(done)
    }

    fn pairs(
        &mut self,
        mut numbers: Numbers,
        mut work: impl FnMut(&mut Bench, usize) -> Result<(f64, Value), String>,
    ) -> Result<Numbers, String> {
        for pair in 0..self.extent.pairs {
            let mut found = [0.0; 2];
            for side in order(pair) {
                let (number, raw) = self.alone(side, |bench| work(bench, side))?;
                eprintln!("{}: {}: {number:.1} {}", numbers.name, self.sides[side].name(), numbers.unit);
                found[side] = number;
                numbers.raw.push(json!({ "pair": pair, "side": self.sides[side].name(), "number": number, "said": raw }));
            }
            numbers.pairs.push((found[0], found[1]));
        }
        Ok(numbers)
    }

    fn fill(&mut self) -> Result<(), String> {
        for side in 0..2 {
            eprintln!("{}: filling, scale {}", self.sides[side].name(), self.extent.scale);
            self.alone(side, |bench| bench.init(side))?;
        }
        Ok(())
    }

    fn init(&mut self, side: usize) -> Result<(f64, Value), String> {
        let began = Instant::now();
        let said = self.sides[side].door().pgbench(&["-i", "-q", "-s", &self.extent.scale.to_string()], LONG)?;
        let took = began.elapsed().as_secs_f64();
        self.filled = true;
        Ok((took, json!(said.lines().last())))
    }

    fn pgbench(&mut self, side: usize, arguments: &[&str], seconds: u64) -> Result<(f64, Value), String> {
        let seconds_text = seconds.to_string();
        let all = [&["-n", "-M", "prepared", "-j", "2", "-T", &seconds_text][..], arguments].concat();
        let said = self.sides[side].door().pgbench(&all, Duration::from_secs(seconds) + SLACK)?;
        Ok((number_after(&said, "tps = ")?, json!(said)))
    }

    fn rollback(&mut self, side: usize) -> Result<(f64, Value), String> {
        let rows = self.extent.rows.min(self.extent.scale * 100_000);
        let mut client = self.sides[side].door().connect()?;
        let sum = format!("select sum(abalance) from pgbench_accounts where aid <= {rows}");
        let before = client.query(&sum)?;
        client.query("begin")?;
        let began = Instant::now();
        client.query(&format!("update pgbench_accounts set abalance = abalance + 1 where aid <= {rows}"))?;
        let updating = began.elapsed().as_secs_f64();
        let began = Instant::now();
        client.query("rollback")?;
        let took = began.elapsed().as_secs_f64();
        let after = client.query(&sum)?;
        if before != after {
            return Err(format!("after rollback the sum is {after:?}, and was {before:?}"));
        }
        Ok((rows as f64 / took, json!({ "rows": rows, "update_seconds": updating, "rollback_seconds": took })))
    }

    /// Runs `count` TPC-B-like transactions.
    fn transactions(&mut self, side: usize, count: u64) -> Result<u64, String> {
        let clients = self.extent.clients.min(count).max(1);
        let each = count.div_ceil(clients);
        let (clients_text, each_text) = (clients.to_string(), each.to_string());
        let said = self.sides[side].door().pgbench(&["-n", "-M", "prepared", "-j", "2", "-c", &clients_text, "-t", &each_text], LONG)?;
        let failed = number_after(&said, "number of failed transactions: ")?;
        if failed > 0.0 {
            return Err(format!("transactions failed:\n{said}"));
        }
        Ok(clients * each)
    }

    /// Brings the first side to as much log behind its checkpoint as asked for, and the second through as many transactions.
    fn crash(&mut self) -> Result<(u64, Option<u64>), String> {
        let mut done = 0;
        let mut log = None;
        for side in 0..2 {
            self.sides[side].resume();
            self.sides[side].door().connect()?.query("checkpoint")?;
            let from = self.sides[side].log_bytes()?;
            let wanted = self.extent.transactions.or((side == 1).then_some(done));
            if wanted.is_none() && from.is_none() {
                return Err(format!("{} doesn't tell how long its log is: say --transactions", self.sides[side].name()));
            }
            let mut count = 0;
            loop {
                let written = self.sides[side].log_bytes()?.zip(from).map(|(now, from)| now - from);
                if side == 0 {
                    log = written;
                }
                if count > 0 {
                    let name = self.sides[side].name();
                    eprintln!("restart: {name}: {count} transactions, {} MiB of log", written.unwrap_or(0) >> 20);
                }
                let enough = wanted.map_or_else(|| written >= Some(self.extent.log_bytes), |wanted| count >= wanted);
                if enough {
                    break;
                }
                let step = wanted.map_or(STEP, |wanted| STEP.min(wanted - count));
                count += self.transactions(side, step)?;
            }
            done = if side == 0 { count } else { done };
            self.sides[side].kill()?;
        }
        Ok((done, log))
    }

    fn restarts(&mut self) -> Result<Vec<Numbers>, String> {
        let (transactions, log_bytes) = self.crash()?;
        let images: Vec<PathBuf> = (0..2).map(|side| self.extent.folder.join(format!("crashed-{side}"))).collect();
        for (side, image) in self.sides.iter().zip(&images) {
            copy(&side.data(), image)?;
        }
        let mut redone = Numbers::new("restart: last page redone", "s", Better::Lower, 4.5, 7.0);
        let mut served = Numbers::new("restart: first client served", "s", Better::Lower, 8.0, 20.0);
        redone.raw.push(json!({ "transactions": transactions, "log_bytes_of_first_side": log_bytes }));
        for pair in 0..self.extent.pairs {
            let mut found = [(0.0, 0.0); 2];
            for side in order(pair) {
                let data = self.sides[side].data();
                std::fs::remove_dir_all(&data).map_err(|error| format!("{}: {error}", data.display()))?;
                copy(&images[side], &data)?;
                let dropped = drop_caches();
                let restart = restart(self.sides[side].as_mut()).map_err(|error| format!("{}: {error}", self.sides[side].name()))?;
                let name = self.sides[side].name();
                eprintln!("restart: {name}: redone after {:.2} s, served after {:.2} s", restart.redone, restart.served);
                found[side] = (restart.redone, restart.served);
                redone.raw.push(json!({
                    "pair": pair, "side": name, "redone": restart.redone, "served": restart.served, "caches_dropped": dropped, "said": restart.said,
                }));
                self.sides[side].kill()?;
            }
            redone.pairs.push((found[0].0, found[1].0));
            served.pairs.push((found[0].1, found[1].1));
        }
        // Open again for what comes next.
        for side in &mut self.sides {
            side.start()?;
            first_answer(side.as_mut(), super::side::START_LIMIT)?;
            side.pause();
        }
        Ok(vec![redone, served])
    }
}

fn order(pair: usize) -> [usize; 2] {
    if pair.is_multiple_of(2) { [0, 1] } else { [1, 0] }
}

/// The number that follows `label` in what pgbench said.
fn number_after(said: &str, label: &str) -> Result<f64, String> {
    let rest = said.split(label).nth(1).ok_or_else(|| format!("pgbench didn't say {label:?}:\n{said}"))?;
    let number: String = rest.chars().take_while(|char| char.is_ascii_digit() || *char == '.').collect();
    number.parse().map_err(|error| format!("{label}{number}: {error}"))
}

/// Copies a folder with owners, modes and times.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    run(Command::new("cp").arg("-a").arg("--reflink=auto").arg(from).arg(to), LONG).map(drop)
}

/// Writes back and forgets what the system keeps of files; false when that isn't ours to do.
fn drop_caches() -> bool {
    // SAFETY: takes nothing and can't fail.
    unsafe { libc::sync() };
    let dropped = std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok();
    if !dropped {
        eprintln!("restart: caches can't be dropped (root only): both sides start warm");
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pgbench_output_is_understood() {
        let said = "latency average = 3.2 ms\ntps = 2461.523 (without initial connection time)\n";
        assert_eq!(number_after(said, "tps = "), Ok(2461.523));
        assert!(number_after("nothing", "tps = ").is_err());
    }

    #[test]
    fn ratios_say_how_many_times_better_the_second_side_is() {
        let of = |better| Numbers { pairs: vec![(10.0, 5.0)], ..Numbers::new("", "", better, 1.0, 2.0) }.ratios();
        assert_eq!((of(Better::Higher), of(Better::Lower)), (vec![0.5], vec![2.0]));
    }
}
