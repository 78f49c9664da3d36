//! When dirty pages are written so that recovery would stay short, and which.
//!
//! The checkpointer asks every fortieth of the target. From two thirds of what the target leaves beside the fixed times on, the oldest pages
//! are written until two fifths of it would be left: so a pass has much to write in page order, and the next one is far off. A page that is changed all
//! the time is written at most four times in a target's time for this: what became dirty later than a quarter of it ago is let be,
//! even when the target is missed for it, and that is said once. Nobody who commits is slowed down for the target.
//! Pure: positions and times come in, a goal comes out.

use std::collections::VecDeque;
use std::time::Duration;

use super::dirty::DirtyTable;
use crate::base::limits::DOUBLE_WRITE_PAGES;
use crate::base::{Instant, Lsn};
use crate::redo::forecast::{Means, Prediction, Rates, Work};

/// Most batches of pages written in one pass, so that whoever asks for a checkpoint gets a turn.
const BATCHES_MAX: usize = 32;

/// How fast recovery is, how long it may take, and how old pages are.
pub(super) struct Pace {
    target: Option<Duration>,
    rates: Rates,
    means: Means,
    /// Which part of the log's blocks is groups.
    share: f64,
    /// Where the log ended when, oldest first; the first is the newest that is older than a quarter of the target.
    past: VecDeque<(Instant, Lsn)>,
    /// It was said that the target is missed.
    told: bool,
}

impl Pace {
    /// `target` is none when recovery may take as long as it takes. At `now` the log ends at `position`.
    pub(super) fn new(target: Option<Duration>, rates: Rates, means: Means, now: Instant, position: Lsn) -> Pace {
        Pace { target, rates, means, share: 1.0, past: VecDeque::from([(now, position)]), told: false }
    }

    /// Time between two looks; none without a target.
    pub(super) fn every(&self) -> Option<Duration> {
        self.target.map(|target| (target / 40).clamp(Duration::from_millis(10), Duration::from_secs(1)))
    }

    /// Which part of the log's blocks is groups.
    pub(super) fn learn_share(&mut self, share: f64) {
        self.share = share.clamp(0.0, 1.0);
    }

    /// How long a crash now would keep the store closed: the log from `checkpoint` to `end`, and so many dirty pages.
    pub(super) fn predict(&self, checkpoint: Lsn, end: Lsn, pages: usize) -> Prediction {
        let log_bytes = end.0.saturating_sub(checkpoint.0);
        let group_bytes = (log_bytes as f64 * self.share) as u64;
        self.rates.predict(Work { log_bytes, group_bytes, pages: pages as u64 }, self.means)
    }

    /// Whether a prediction of `new` instead of `old`, which is on disk, is worth writing down.
    pub(super) fn is_news(&self, old: Duration, new: Duration) -> bool {
        self.target.is_some_and(|target| old.abs_diff(new) >= target / 10)
    }

    /// The option, in milliseconds; 0 for none.
    pub(super) fn target_ms(&self) -> u64 {
        self.target.map_or(0, |target| target.as_millis() as u64)
    }

    /// Pages whose first unwritten position lies before the result are to be written now.
    pub(super) fn goal(&mut self, now: Instant, checkpoint: Lsn, end: Lsn, dirty: &DirtyTable) -> Option<Lsn> {
        let target = self.target?;
        let settled = self.settled(now, end, target / 4);
        let prediction = self.predict(checkpoint, end, dirty.len());
        self.tell(target, &prediction, dirty.len());
        // Where the fixed times leave next to nothing, writing can't help much: then it isn't worth everything.
        let budget = target.saturating_sub(prediction.restore + prediction.open).max(target / 10);
        if prediction.scan + prediction.redo < budget * 2 / 3 {
            return None;
        }
        dirty.goal(DOUBLE_WRITE_PAGES, BATCHES_MAX, settled, |oldest, pages| {
            let left = self.predict(oldest.unwrap_or(end), end, pages);
            left.scan + left.redo <= budget * 2 / 5
        })
    }

    /// Where the log ended `age` ago.
    fn settled(&mut self, now: Instant, end: Lsn, age: Duration) -> Lsn {
        self.past.push_back((now, end));
        while self.past.get(1).is_some_and(|(then, _)| now.since(*then) >= age) {
            self.past.pop_front();
        }
        self.past.front().map_or(end, |(_, position)| *position)
    }

    fn tell(&mut self, target: Duration, prediction: &Prediction, pages: usize) {
        let total = prediction.total();
        if total > target && !self.told {
            self.told = true;
            let Prediction { scan, restore, redo, open } = prediction;
            tracing::warn!(
                predicted = ?total, ?target, ?scan, ?restore, ?redo, ?open, pages,
                "recovery would take longer than recovery_time_target_ms allows: pages are written as fast as is worth it; \
                 a faster disk, a smaller cache or a longer target helps"
            );
        } else if total < target * 3 / 4 {
            self.told = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PageId;

    const MEANS: Means = Means { log_bytes: 1 << 30, part_pages: 1024 };
    /// A page a millisecond; the log counts for nothing.
    const RATES: Rates = Rates { scan_bytes: 1 << 40, read_pages: 1000, apply_bytes: 1 << 40, restore_us: 1, open_us: 1 };
    const TARGET: Duration = Duration::from_secs(1);

    fn after(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    /// Pages 0, 1, ... dirty from positions 100, 200, ... on.
    fn dirty(pages: u64) -> DirtyTable {
        let mut dirty = DirtyTable::default();
        (0..pages).for_each(|number| dirty.insert(Lsn((number + 1) * 100), PageId(number)));
        dirty
    }

    #[test]
    fn nothing_is_written_before_two_thirds_and_then_down_to_two_fifths() {
        let mut pace = Pace::new(Some(TARGET), RATES, MEANS, after(0), Lsn(1 << 20));
        assert_eq!(pace.goal(after(25), Lsn(100), Lsn(1 << 20), &dirty(666)), None);
        let goal = pace.goal(after(50), Lsn(100), Lsn(1 << 20), &dirty(680)).expect("two thirds are reached");
        let left = 680 - (goal.0 - 1) / 100;
        assert!((400 - DOUBLE_WRITE_PAGES as u64..=400).contains(&left), "{left} pages are left");
    }

    #[test]
    fn a_page_that_became_dirty_a_moment_ago_is_let_be() {
        let mut pace = Pace::new(Some(TARGET), RATES, MEANS, after(0), Lsn(0));
        assert_eq!(pace.goal(after(249), Lsn(100), Lsn(1 << 20), &dirty(2000)), None, "all are younger than a quarter of the target");
        assert!(pace.goal(after(500), Lsn(100), Lsn(1 << 20), &dirty(2000)).is_some());
        assert!(pace.past.len() <= 3);
    }

    #[test]
    fn fixed_times_beyond_the_target_do_not_make_it_write_everything_at_once() {
        let slow = Rates { open_us: 5_000_000, ..RATES };
        let mut pace = Pace::new(Some(TARGET), slow, MEANS, after(0), Lsn(1 << 20));
        assert_eq!(pace.goal(after(25), Lsn(100), Lsn(1 << 20), &dirty(60)), None);
        assert!(pace.goal(after(50), Lsn(100), Lsn(1 << 20), &dirty(80)).is_some());
    }

    #[test]
    fn without_a_target_nothing_is_asked_for() {
        let mut pace = Pace::new(None, RATES, MEANS, after(0), Lsn(1 << 20));
        assert_eq!((pace.every(), pace.goal(after(25), Lsn(100), Lsn(1 << 20), &dirty(100_000))), (None, None));
    }
}
