//! Suspicion by accrual (N. Hayashibara et al., "The phi accrual failure detector", SRDS 2004): how unlikely is a silence of this length,
//! given the intervals seen lately?
//!
//! The paper takes the intervals as normally distributed. Under a starved CPU they aren't: most are short and a few are very long. So
//! the longest interval in the window counts too, half as much again; and the result stays between a floor (a lucky quiet time must
//! not make the next hiccup look like a death) and a ceiling. Knows no clock; silence is measured by its caller, who may start it anew
//! after a stall of its own (rule 4).

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::Instant;

/// Intervals that count.
const WINDOW: usize = 128;

/// What one kind of heartbeat is tuned to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Tuning {
    /// Interval that the sender keeps, as configured.
    pub interval: Duration,
    /// Least silence.
    pub floor: Duration,
    /// Most silence.
    pub ceiling: Duration,
    /// Level at which a silence is suspect: its chance is `10^-phi`.
    pub phi: f64,
}

/// The history of one sender's heartbeats.
#[derive(Clone, Debug)]
pub struct Accrual {
    tuning: Tuning,
    /// Milliseconds; oldest first.
    intervals: VecDeque<f64>,
    last: Option<Instant>,
    /// Silence that is suspect at present.
    limit: Duration,
}

impl Accrual {
    /// Nothing heard yet.
    pub fn new(tuning: Tuning) -> Accrual {
        let mut accrual = Accrual { tuning, intervals: VecDeque::new(), last: None, limit: Duration::ZERO };
        accrual.limit = accrual.computed();
        accrual
    }

    /// A heartbeat arrived. `fresh` is the moment from which silence counts: an interval that began before it tells about the observer, not
    /// about the sender, and isn't learned from.
    pub fn heard(&mut self, now: Instant, fresh: Instant) {
        if let Some(last) = self.last
            && last >= fresh
        {
            // One long silence must not double the limit more than once.
            let interval = now.since(last).min(self.limit);
            if self.intervals.len() == WINDOW {
                self.intervals.pop_front();
            }
            self.intervals.push_back(interval.as_secs_f64() * 1000.0);
            self.limit = self.computed();
        }
        self.last = Some(now);
    }

    /// When the last heartbeat arrived.
    pub fn last(&self) -> Option<Instant> {
        self.last
    }

    /// Silence that counts at `now`: since the last heartbeat, or since `fresh` when that is later.
    pub fn silence(&self, now: Instant, fresh: Instant) -> Duration {
        now.since(self.last.unwrap_or_default().max(fresh))
    }

    /// Silence that is suspect.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether the silence at `now` is suspect.
    pub fn is_suspect(&self, now: Instant, fresh: Instant) -> bool {
        self.silence(now, fresh) >= self.limit
    }

    /// The level of a silence, for people: minus the decimal logarithm of its chance, by the normal distribution (logistic approximation).
    pub fn phi(&self, silence: Duration) -> f64 {
        let (mean, deviation) = self.moments();
        let y = (silence.as_secs_f64() * 1000.0 - mean) / deviation;
        let odds = (-y * (1.5976 + 0.070_566 * y * y)).exp();
        if odds.is_infinite() { 0.0 } else { ((1.0 + odds) / odds.max(f64::MIN_POSITIVE)).log10() }
    }

    /// Mean and deviation in milliseconds; the configured interval counts as much as a few samples, so that the first don't rule.
    fn moments(&self) -> (f64, f64) {
        let configured = self.tuning.interval.as_secs_f64() * 1000.0;
        let weight = 4.0;
        let count = weight + self.intervals.len() as f64;
        let mean = (weight * configured + self.intervals.iter().sum::<f64>()) / count;
        let squares = self.intervals.iter().map(|interval| (interval - mean).powi(2)).sum::<f64>() + weight * (configured / 4.0).powi(2);
        (mean, (squares / count).sqrt().max(1.0))
    }

    fn computed(&self) -> Duration {
        let (mean, deviation) = self.moments();
        // Quantile of the normal distribution at 1 - 10^-phi, by the tail's asymptotic form.
        let bits = 2.0 * std::f64::consts::LN_10 * self.tuning.phi;
        let quantile = (bits - (2.0 * std::f64::consts::PI * bits).ln()).max(1.0).sqrt();
        let longest = self.intervals.iter().copied().fold(0.0, f64::max);
        let limit = (mean + quantile * deviation).max(1.5 * longest);
        Duration::from_secs_f64(limit / 1000.0).clamp(self.tuning.floor, self.tuning.ceiling)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TUNING: Tuning =
        Tuning { interval: Duration::from_millis(100), floor: Duration::from_millis(600), ceiling: Duration::from_secs(5), phi: 8.0 };

    fn after(intervals_ms: &[u64]) -> (Accrual, Instant) {
        let mut accrual = Accrual::new(TUNING);
        let mut now = Instant(1);
        accrual.heard(now, Instant(0));
        for interval in intervals_ms {
            now = now + Duration::from_millis(*interval);
            accrual.heard(now, Instant(0));
        }
        (accrual, now)
    }

    #[test]
    fn steady_beats_are_suspected_at_the_floor() {
        let (accrual, now) = after(&[100; 300]);
        assert_eq!(accrual.limit(), TUNING.floor);
        assert!(!accrual.is_suspect(now + Duration::from_millis(599), Instant(0)));
        assert!(accrual.is_suspect(now + Duration::from_millis(600), Instant(0)));
    }

    #[test]
    fn one_long_gap_among_many_short_ones_is_remembered() {
        let mut gaps = vec![100; 100];
        gaps[50] = 560;
        let (accrual, _) = after(&gaps);
        assert_eq!(accrual.limit(), Duration::from_millis(840));
        gaps.extend([100; WINDOW]);
        assert_eq!(after(&gaps).0.limit(), TUNING.floor, "and forgotten");
    }

    #[test]
    fn a_death_and_return_raises_the_limit_by_half_at_most() {
        let mut gaps = vec![100; 100];
        gaps.push(60_000);
        assert_eq!(after(&gaps).0.limit(), Duration::from_millis(900));
    }

    #[test]
    fn an_interval_across_the_observers_own_stall_teaches_nothing() {
        let (mut accrual, now) = after(&[100; 50]);
        let woken = now + Duration::from_secs(9);
        assert!(!accrual.is_suspect(woken, woken));
        accrual.heard(woken + Duration::from_millis(5), woken);
        assert_eq!(accrual.limit(), TUNING.floor);
    }

    #[test]
    fn phi_grows_with_silence() {
        let (accrual, _) = after(&[100; 50]);
        let levels: Vec<f64> = [50, 100, 150, 300, 5000].map(|ms| accrual.phi(Duration::from_millis(ms))).to_vec();
        assert!(levels.is_sorted() && levels[0] < 0.4 && levels[3] > 8.0 && levels[4].is_finite(), "{levels:?}");
    }

    proptest! {
        #[test]
        fn the_limit_keeps_its_bounds_and_covers_what_was_seen(gaps in prop::collection::vec(0u64..20_000, 0..300)) {
            let (accrual, _) = after(&gaps);
            prop_assert!(accrual.limit() >= TUNING.floor && accrual.limit() <= TUNING.ceiling);
            let (mut accrual, mut now) = after(&[]);
            let mut suspected = 0;
            // Gaps of up to 1.4 times the longest so far are never suspected once the longest is in the window.
            let mut longest = 400u64;
            for gap in &gaps {
                let gap = gap % (longest * 14 / 10);
                now = now + Duration::from_millis(gap);
                suspected += u32::from(accrual.is_suspect(now, Instant(0)));
                accrual.heard(now, Instant(0));
                longest = longest.max(gap).min(3000);
            }
            prop_assert!(gaps.len() > WINDOW || suspected == 0);
        }
    }
}
