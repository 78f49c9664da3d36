//! How far recovery is, for people who wait.

use std::time::Duration;

use super::report::PhaseReport;
use crate::base::{Instant, Seams};

/// Shortest time between two reports of one phase.
const EVERY: Duration = Duration::from_millis(100);

/// How far a phase is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// `scan`, `restore`, `redo`.
    pub phase: &'static str,
    /// What is counted: `bytes`, `pages`.
    pub unit: &'static str,
    /// So many are done.
    pub done: u64,
    /// Of so many, as far as that is known; the scan only knows what was durable at the last checkpoint.
    pub total: Option<u64>,
    /// Time in this phase.
    pub elapsed: Duration,
    /// Time left at the present rate.
    pub left: Option<Duration>,
}

/// Called now and then, and at the start and end of each phase.
pub type OnProgress = Box<dyn Fn(&Progress) + Send + Sync>;

/// Measures phases.
pub(super) struct Meter {
    seams: Seams,
    tell: Option<OnProgress>,
    phase: &'static str,
    unit: &'static str,
    started: Instant,
    told: Instant,
    done: u64,
    total: Option<u64>,
}

impl Meter {
    pub(super) fn new(seams: Seams, tell: Option<OnProgress>) -> Meter {
        let now = seams.now();
        Meter { seams, tell, phase: "", unit: "", started: now, told: now, done: 0, total: None }
    }

    /// Starts a phase.
    pub(super) fn begin(&mut self, phase: &'static str, unit: &'static str, total: Option<u64>) {
        (self.phase, self.unit, self.total, self.done) = (phase, unit, total, 0);
        self.started = self.seams.now();
        self.tell();
    }

    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// So many are done.
    pub(super) fn at(&mut self, done: u64) {
        self.done = done;
        if self.tell.is_some() && self.seams.now().since(self.told) >= EVERY {
            self.tell();
        }
    }

    /// Ends the phase, which was predicted to take so long.
    pub(super) fn end(&mut self, predicted: Duration) -> PhaseReport {
        self.tell();
        let took = self.seams.now().since(self.started);
        let rate = if took.is_zero() { 0.0 } else { self.done as f64 / took.as_secs_f64() };
        PhaseReport {
            name: self.phase.to_string(),
            unit: self.unit.to_string(),
            done: self.done,
            seconds: took.as_secs_f64(),
            predicted_seconds: predicted.as_secs_f64(),
            per_second: rate,
        }
    }

    fn tell(&mut self) {
        let Some(tell) = &self.tell else { return };
        let now = self.seams.now();
        self.told = now;
        let elapsed = now.since(self.started);
        let left = self.total.filter(|total| self.done > 0 && *total >= self.done).map(|total| {
            let per_unit = elapsed.as_secs_f64() / self.done as f64;
            Duration::from_secs_f64(per_unit * (total - self.done) as f64)
        });
        tell(&Progress { phase: self.phase, unit: self.unit, done: self.done, total: self.total, elapsed, left });
    }
}
