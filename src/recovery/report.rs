//! What a recovery found and did: kept by the caller, shown to people, checked again offline.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::segment::Pages;
use crate::base::{Lsn, PageId, Scn};
use crate::cache::Cache;
use crate::redo::control::Control;
use crate::redo::forecast::{Foretold, Sample};
use crate::redo::reader::{LogEnd, LogGroup};
use crate::redo::record::GroupKind;

/// One phase's work.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PhaseReport {
    /// `scan`, `restore`, `redo`; `open` is the rest, from the start of opening to service.
    pub name: String,
    /// What was counted: `bytes`, `pages`, `opens`.
    pub unit: String,
    /// So many.
    pub done: u64,
    /// In seconds.
    pub seconds: f64,
    /// As predicted from the rates that were known before the crash and from the work that it left, in seconds.
    pub predicted_seconds: f64,
    /// Units a second.
    pub per_second: f64,
}

/// What the dead instance had written down about its recovery, at most a tenth of its target ago.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ForetoldReport {
    /// Predicted in all, in seconds.
    pub seconds: f64,
    /// Pages that were dirty.
    pub pages: u64,
    /// Where the log ended then.
    pub log_position: u64,
    /// Option `recovery_time_target_ms` in force; 0 for none.
    pub target_ms: u64,
}

/// A page that could not be recovered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QuarantinedPage {
    /// Its id.
    pub page: String,
    /// The evidence.
    pub why: String,
}

/// What a recovery found and did.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RecoveryReport {
    /// The redo thread.
    pub thread: u16,
    /// The incarnation that was recovered.
    pub incarnation: u64,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// Whether an earlier recovery had begun already.
    pub resumed: bool,
    /// First log position read.
    pub log_from: u64,
    /// Where the log ends.
    pub log_end: u64,
    /// Log bytes between.
    pub log_bytes: u64,
    /// Everything before this was known durable.
    pub log_durable: u64,
    /// How often the log was read: once when it fits into memory; else again, for as many pages at a time as the cache holds.
    pub readings: u32,
    /// Bytes of change groups in the log; the rest is block headers and what blocks left free.
    pub group_bytes: u64,
    /// Change groups in the log.
    pub groups: u64,
    /// Page changes in the log.
    pub changes: u64,
    /// Changes applied.
    pub changes_applied: u64,
    /// Changes that pages had already.
    pub changes_skipped: u64,
    /// Pages that the log concerns, as far as memory allowed to count them.
    pub pages_in_log: u64,
    /// Of these, pages not looked at because the log says that they are durable at home.
    pub pages_struck: u64,
    /// Pages changed by redo (in each segment).
    pub pages_changed: u64,
    /// Pages read from their homes.
    pub pages_read: u64,
    /// Torn pages restored from the double-write area.
    pub pages_restored: u64,
    /// Pages that could not be recovered; everything else is served.
    pub quarantined: Vec<QuarantinedPage>,
    /// The highest SCN in the log.
    pub scn: u64,
    /// xxHash3 over (page, version) of every page that the log concerns, in page order.
    pub digest: String,
    /// Times.
    pub phases: Vec<PhaseReport>,
    /// Whole time, in seconds.
    pub seconds: f64,
    /// As predicted from what was known before the crash, in seconds.
    pub predicted_seconds: f64,
    /// What the dead instance itself predicted last, as far as it got round to that.
    pub foretold: Option<ForetoldReport>,
}

impl RecoveryReport {
    pub(super) fn new(control: &Control, started_ms: u64) -> RecoveryReport {
        RecoveryReport {
            thread: control.writer.thread.0,
            incarnation: control.writer.incarnation.0,
            started_ms,
            resumed: control.state == crate::redo::control::ThreadState::Recovering,
            log_from: control.checkpoint.0,
            log_end: 0,
            log_bytes: 0,
            log_durable: 0,
            readings: 0,
            group_bytes: 0,
            groups: 0,
            changes: 0,
            changes_applied: 0,
            changes_skipped: 0,
            pages_in_log: 0,
            pages_struck: 0,
            pages_changed: 0,
            pages_read: 0,
            pages_restored: 0,
            quarantined: Vec::new(),
            scn: control.clock.0,
            digest: String::new(),
            phases: Vec::new(),
            seconds: 0.0,
            predicted_seconds: 0.0,
            foretold: ForetoldReport::of(&control.forecast.foretold),
        }
    }

    pub(super) fn count(&mut self, group: &LogGroup<'_>) {
        self.scn = self.scn.max(group.header.scn.0);
        self.group_bytes += group.header.length as u64;
        if group.header.kind == GroupKind::Changes {
            self.groups += 1;
            self.changes += group.header.items as u64;
        }
    }

    pub(super) fn scanned(&mut self, control: &Control, end: &LogEnd, pages: &Pages) {
        self.log_end = end.at.0;
        self.log_bytes = end.at.0.saturating_sub(control.checkpoint.0);
        self.log_durable = end.durable.0;
        self.readings = 1;
        self.pages_in_log = pages.len() as u64;
        self.pages_struck = pages.struck() as u64;
    }

    pub(super) fn clock(&self) -> Scn {
        Scn(self.scn)
    }

    pub(super) fn finish(&mut self, pages: &Pages, cache: &Cache, open: Duration) {
        self.pages_read = cache.counters().pages_read.load(std::sync::atomic::Ordering::Relaxed);
        self.quarantined =
            cache.quarantined().into_iter().map(|(page, why)| QuarantinedPage { page: page.to_string(), why: why.to_string() }).collect();
        self.digest = format!("{:016x}", digest(&pages.versions()));
        let (name, unit, predicted_seconds) = ("open".to_string(), "opens".to_string(), open.as_secs_f64());
        self.phases.push(PhaseReport { name, unit, done: 0, seconds: 0.0, predicted_seconds, per_second: 0.0 });
        self.sum();
    }

    fn sum(&mut self) {
        self.seconds = self.phases.iter().map(|phase| phase.seconds).sum();
        self.predicted_seconds = self.phases.iter().map(|phase| phase.predicted_seconds).sum();
    }

    /// Which part of the log is change groups; 1 when there is no log.
    pub fn payload_share(&self) -> f64 {
        if self.log_bytes == 0 { 1.0 } else { self.group_bytes as f64 / self.log_bytes as f64 }
    }

    /// Opening took so long in all, recovery included; returns how much of it was opening alone.
    pub fn opened(&mut self, took: Duration) -> Duration {
        let others: f64 = self.phases.iter().filter(|phase| phase.name != "open").map(|phase| phase.seconds).sum();
        let open = (took.as_secs_f64() - others).max(0.0);
        if let Some(phase) = self.phases.iter_mut().find(|phase| phase.name == "open") {
            (phase.done, phase.seconds, phase.per_second) = (1, open, if open > 0.0 { 1.0 / open } else { 0.0 });
        }
        self.sum();
        Duration::from_secs_f64(open)
    }

    /// What was measured, with what redo measured itself.
    pub(super) fn sample(&self, redo: Sample) -> Sample {
        let took = |name: &str| self.phases.iter().filter(|phase| phase.name == name).map(|phase| phase.seconds).sum();
        let time = |name: &str| Duration::from_secs_f64(took(name));
        Sample { log_bytes: self.log_bytes, scan: time("scan"), pages: self.pages_read, restore: time("restore"), ..redo }
    }

    /// Logs the result for people.
    pub fn tell(&self) {
        tracing::info!("{self}");
    }

    /// Where the log ends.
    pub fn end(&self) -> Lsn {
        Lsn(self.log_end)
    }
}

impl ForetoldReport {
    fn of(foretold: &Foretold) -> Option<ForetoldReport> {
        let Foretold { total_us, pages, position, target_ms } = *foretold;
        (total_us > 0).then(|| ForetoldReport { seconds: total_us as f64 / 1e6, pages, log_position: position, target_ms })
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RecoveryReport { thread, incarnation, log_bytes, groups, changes_applied, pages_changed, pages_restored, .. } = self;
        write!(
            f,
            "recovered thread {thread}, incarnation {incarnation}, in {:.3} s (predicted {:.3} s): {log_bytes} bytes of log, {groups} groups, \
             {changes_applied} changes applied to {pages_changed} pages, {pages_restored} torn pages restored, {} given up",
            self.seconds,
            self.predicted_seconds,
            self.quarantined.len()
        )?;
        for phase in &self.phases {
            let PhaseReport { name, unit, done, seconds, predicted_seconds, per_second } = phase;
            write!(f, "; {name} {seconds:.3} s (predicted {predicted_seconds:.3} s), {done} {unit}, {per_second:.0} a second")?;
        }
        if let Some(ForetoldReport { seconds, pages, target_ms, .. }) = &self.foretold {
            write!(f, "; shortly before the crash the instance foretold {seconds:.3} s with {pages} dirty pages, target {target_ms} ms")?;
        }
        Ok(())
    }
}

/// xxHash3 over pages and versions.
pub fn digest(versions: &[(PageId, Scn)]) -> u64 {
    let mut hash = Xxh3::new();
    for (page, version) in versions {
        hash.update(&page.0.to_le_bytes());
        hash.update(&version.0.to_le_bytes());
    }
    hash.digest()
}
