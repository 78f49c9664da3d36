//! What a verification finds and sums up, for people and programs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::{Instant, Seams};
use crate::ops::scrub;

/// Shortest time between two reports of progress.
const STEP_EVERY: Duration = Duration::from_millis(500);

/// Most findings that are told one by one; all are counted.
pub const TOLD_MAX: u64 = 10_000;

/// Something wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// In which structure: `storage`, `control`, `double-write`, `page`, `tree`, `index`.
    pub part: String,
    /// Where: a page with its file and offset, a tree, a file.
    pub place: String,
    /// What is wrong, with the evidence.
    pub what: String,
}

/// How far a part is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// `pages`, `trees`, `indexes`.
    pub part: String,
    /// So much is done, in the part's unit: bytes of data files, nodes, rows.
    pub done: u64,
    /// Of so much, where that is known.
    pub total: Option<u64>,
    /// Time left at the present rate, in seconds, where that is known.
    pub seconds_left: Option<f64>,
}

/// The end of a verification.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Whether an open instance checked itself.
    pub live: bool,
    /// Nothing was found.
    pub clean: bool,
    /// How much was found, told or not.
    pub findings_total: u64,
    /// Pages of all data files, by kind.
    pub pages: Option<scrub::Counts>,
    /// Trees checked; null when they were not looked at.
    pub trees: Option<u64>,
    /// Keys in all trees.
    pub keys: u64,
    /// Tables checked against their indexes; null when they were not looked at.
    pub tables: Option<u64>,
    /// Rows in all tables.
    pub rows: u64,
    /// Entries in all complete indexes.
    pub index_entries: u64,
    /// What is no damage, but left undone: indexes whose build was cut off.
    pub notices: Vec<String>,
    /// Time, in seconds.
    pub seconds: f64,
}

/// Who is told while it goes on.
pub trait Listener: Send + Sync {
    /// Something wrong.
    fn finding(&mut self, finding: &Finding);
    /// How far it is.
    fn step(&mut self, step: &Step);
}

/// Counts what is found and tells the first of it, and how far it is, once a second.
pub struct Findings<'l> {
    listener: &'l mut dyn Listener,
    seams: Seams,
    told: Instant,
    count: u64,
}

impl<'l> Findings<'l> {
    /// Nothing found yet.
    pub fn new(listener: &'l mut dyn Listener, seams: &Seams) -> Findings<'l> {
        Findings { listener, told: seams.now(), seams: seams.clone(), count: 0 }
    }

    /// So many.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Something wrong, in `part`, at `place`.
    pub fn add(&mut self, part: &str, place: impl ToString, what: impl ToString) {
        self.count += 1;
        if self.count <= TOLD_MAX {
            self.listener.finding(&Finding { part: part.into(), place: place.to_string(), what: what.to_string() });
        }
    }

    /// How far it is.
    pub fn step(&mut self, step: &Step) {
        let now = self.seams.now();
        if now.since(self.told) >= STEP_EVERY {
            self.told = now;
            self.listener.step(step);
        }
    }
}

impl Summary {
    /// In a few lines.
    pub fn show(&self) -> String {
        let mut text = String::new();
        if let Some(pages) = &self.pages {
            let scrub::Counts { tree, space, free, undo, blank, mendable, newer_in_cache, bad, pages } = pages;
            text += &format!(
                "{pages} pages: {tree} in trees, {space} space maps, {undo} of undo, {free} free, {blank} never written, {mendable} to be mended \
                 by recovery, {newer_in_cache} newer in the cache, {bad} bad\n"
            );
        }
        match self.trees {
            Some(trees) => text += &format!("{trees} trees with {} keys\n", self.keys),
            None => text += "trees were not checked\n",
        }
        match self.tables {
            Some(tables) => text += &format!("{tables} tables with {} rows, {} index entries\n", self.rows, self.index_entries),
            None => text += "indexes were not checked: that takes sound pages and trees\n",
        }
        for notice in &self.notices {
            text += &format!("notice: {notice}\n");
        }
        let how = if self.live { "live" } else { "offline" };
        let took = format!("checked {how} in {:.1} s", self.seconds);
        let result = if self.clean { "clean".to_string() } else { format!("{} findings", self.findings_total) };
        text + &format!("{result}; {took}")
    }
}
