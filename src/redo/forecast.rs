//! How long a recovery would take: measured rates, the work that a crash would leave, and what follows from both.
//!
//! ```text
//! scan     log bytes / scan rate
//! restore  a fixed time
//! redo     the longer of  pages / read rate  and  group bytes / apply rate,  plus the shorter one's share that nothing overlaps,
//!          plus another scan when the groups don't fit into memory
//! open     a fixed time
//! ```
//! Where the numbers come from: [`Rates::probed`] measures the disk when a store is made, processor rates are assumed then; every recovery
//! that was large enough to tell something refines them ([`Rates::learn`]). They lie in the control block (`docs/formats/control.md`), so
//! that the next life knows them. The checkpointer predicts with them while it can still do something about it, recovery says afterwards
//! what was predicted and what it took. Pure: no clock and no disk here. Rollback isn't counted: it goes on behind an open store.

use std::time::Duration;

use crate::base::limits::{NUMBER_MAX, PAGE_SIZE};

/// Bytes a second that one processor validates and decodes, before anything was measured: what the slowest machine tried did.
const DECODE_ASSUMED: u64 = 300_000_000;
/// As [`Rates`], for what nobody has measured yet: a plain hard disk on a slow machine.
const ASSUMED: Rates = Rates { scan_bytes: 100_000_000, read_pages: 1000, apply_bytes: 200_000_000, restore_us: 50_000, open_us: 200_000 };
/// A recovery that scanned less says nothing about the rate.
const LOG_SAMPLE: u64 = 4 << 20;
/// One that read fewer pages says nothing about that rate.
const PAGES_SAMPLE: u64 = 512;
/// Highest rate believed, a second; keeps times above zero.
const RATE_MAX: u64 = 1 << 40;

/// What this machine's recoveries manage. A zero is a number that was never measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rates {
    /// Log bytes read and decoded, a second.
    pub scan_bytes: u64,
    /// Pages read from their homes, a second, many at once.
    pub read_pages: u64,
    /// Bytes of change groups applied to pages in memory, a second, by all workers together.
    pub apply_bytes: u64,
    /// Restoring torn pages, in microseconds.
    pub restore_us: u64,
    /// From the start of opening to service, beside the other phases, in microseconds.
    pub open_us: u64,
}

/// What a prediction was when it was last written to the control block, for comparison after a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Foretold {
    /// Predicted in all, in microseconds; 0 when nothing was predicted.
    pub total_us: u64,
    /// Pages that were dirty.
    pub pages: u64,
    /// Where the log ended.
    pub position: u64,
    /// The option in force, in milliseconds; 0 for none.
    pub target_ms: u64,
}

/// What the control block keeps for predictions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Forecast {
    /// What this machine's recoveries manage.
    pub rates: Rates,
    /// The newest prediction that was written.
    pub foretold: Foretold,
}

/// What recovery has to work with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Means {
    /// Bytes of log that recovery can keep in memory when it has no page in the cache.
    pub log_bytes: u64,
    /// Pages whose reading overlaps the applying of as many before.
    pub part_pages: u64,
}

/// What a crash would leave to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Work {
    /// Log behind the checkpoint, in bytes of blocks.
    pub log_bytes: u64,
    /// Change groups in it, in bytes: blocks are seldom full.
    pub group_bytes: u64,
    /// Pages whose newest change isn't durable at home.
    pub pages: u64,
}

/// How long recovery would take, phase by phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Prediction {
    /// Reading the log to its end.
    pub scan: Duration,
    /// Restoring torn pages.
    pub restore: Duration,
    /// Bringing pages up to date.
    pub redo: Duration,
    /// The rest of opening.
    pub open: Duration,
}

/// What a recovery did, measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sample {
    /// Log bytes scanned.
    pub log_bytes: u64,
    /// In this time.
    pub scan: Duration,
    /// Pages read.
    pub pages: u64,
    /// Time in which reads were under way.
    pub reading: Duration,
    /// Bytes of change groups applied.
    pub applied_bytes: u64,
    /// Time in which changes were being applied.
    pub applying: Duration,
    /// The phase.
    pub restore: Duration,
    /// From the start of opening to service, beside the other phases.
    pub open: Duration,
}

fn per_second(units: u64, time: Duration) -> u64 {
    let rate = units as f64 / time.as_secs_f64().max(1e-6);
    (rate as u64).clamp(1, RATE_MAX)
}

/// `old` and `new` weigh the same: one odd recovery doesn't spoil the next prediction, and two make an old machine forgotten.
fn blend(old: &mut u64, new: u64) {
    *old = if *old == 0 { new } else { *old / 2 + new / 2 }.max(1);
}

/// At most thirty years, so that sums don't overflow.
fn at_rate(units: u64, rate: u64) -> Duration {
    Duration::from_secs_f64((units as f64 / rate.max(1) as f64).min(1e9))
}

impl Rates {
    /// First numbers from a disk that reads so many bytes a second in sequence and so many pages a second at random.
    pub fn probed(bytes: u64, pages: u64) -> Rates {
        Rates { scan_bytes: bytes.clamp(1, DECODE_ASSUMED), read_pages: pages.clamp(1, RATE_MAX), ..Rates::default() }
    }

    /// Whether nothing was ever measured.
    pub fn are_unknown(&self) -> bool {
        *self == Rates::default()
    }

    /// Takes in what a recovery did, as far as it was large enough to tell something.
    pub fn learn(&mut self, sample: &Sample) {
        if sample.log_bytes >= LOG_SAMPLE {
            blend(&mut self.scan_bytes, per_second(sample.log_bytes, sample.scan));
        }
        if sample.pages >= PAGES_SAMPLE {
            blend(&mut self.read_pages, per_second(sample.pages, sample.reading));
        }
        if sample.applied_bytes >= LOG_SAMPLE {
            blend(&mut self.apply_bytes, per_second(sample.applied_bytes, sample.applying));
        }
        blend(&mut self.restore_us, sample.restore.as_micros() as u64);
        blend(&mut self.open_us, sample.open.as_micros() as u64);
    }

    /// How long `work` would take.
    pub fn predict(&self, work: Work, means: Means) -> Prediction {
        let known = |measured: u64, assumed: u64| if measured == 0 { assumed } else { measured };
        let scan = at_rate(work.log_bytes, known(self.scan_bytes, ASSUMED.scan_bytes));
        let reading = at_rate(work.pages, known(self.read_pages, ASSUMED.read_pages));
        let applying = at_rate(work.group_bytes, known(self.apply_bytes, ASSUMED.apply_bytes));
        // Reading part n overlaps applying part n - 1: the first is read and the last applied alone.
        let parts = work.pages.div_ceil(means.part_pages.max(1)).clamp(1, u64::from(u32::MAX)) as u32;
        let mut redo = reading.max(applying) + reading.min(applying) / parts;
        // A page in the cache is memory that the log doesn't get. Groups take about half as much again there.
        let room = means.log_bytes.saturating_sub(work.pages.saturating_mul(PAGE_SIZE as u64));
        if work.group_bytes / 2 * 3 > room {
            redo += scan;
        }
        Prediction {
            scan,
            restore: Duration::from_micros(known(self.restore_us, ASSUMED.restore_us)),
            redo,
            open: Duration::from_micros(known(self.open_us, ASSUMED.open_us)),
        }
    }
}

impl Prediction {
    /// All phases together.
    pub fn total(&self) -> Duration {
        self.scan + self.restore + self.redo + self.open
    }
}

impl Forecast {
    /// The numbers in the order of the control block.
    pub(super) fn numbers(&self) -> [u64; 9] {
        let Forecast { rates, foretold } = self;
        [
            rates.scan_bytes,
            rates.read_pages,
            rates.apply_bytes,
            rates.restore_us,
            rates.open_us,
            foretold.total_us,
            foretold.pages,
            foretold.position,
            foretold.target_ms,
        ]
    }

    /// Back from [`Forecast::numbers`]; `None` when one is beyond anything real.
    pub(super) fn of(numbers: [u64; 9]) -> Option<Forecast> {
        if numbers.iter().any(|number| *number > NUMBER_MAX) {
            return None;
        }
        let [scan_bytes, read_pages, apply_bytes, restore_us, open_us, total_us, pages, position, target_ms] = numbers;
        let rates = Rates { scan_bytes, read_pages, apply_bytes, restore_us, open_us };
        Some(Forecast { rates, foretold: Foretold { total_us, pages, position, target_ms } })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEANS: Means = Means { log_bytes: 1 << 30, part_pages: 1024 };
    const RATES: Rates = Rates { scan_bytes: 100_000_000, read_pages: 10_000, apply_bytes: 200_000_000, restore_us: 5000, open_us: 20_000 };

    fn predict(log_bytes: u64, pages: u64) -> Prediction {
        RATES.predict(Work { log_bytes, group_bytes: log_bytes, pages }, MEANS)
    }

    #[test]
    fn each_phase_takes_its_work_at_its_rate() {
        let log_bound = predict(100_000_000, 10);
        assert_eq!(log_bound.scan, Duration::from_secs(1));
        assert_eq!(log_bound.redo, Duration::from_millis(501), "applying, and reading ten pages before it");
        let page_bound = predict(100_000_000, 20_480);
        assert_eq!(page_bound.redo, Duration::from_millis(2048 + 25), "reading, and applying the last of 20 parts");
        assert_eq!(page_bound.total(), Duration::from_millis(1000 + 5 + 2073 + 20));
    }

    #[test]
    fn a_log_that_does_not_fit_into_memory_is_read_twice() {
        let (fits, does_not) = (predict(680 << 20, 0), predict(690 << 20, 0));
        assert!(does_not.redo - fits.redo > does_not.scan, "{fits:?} {does_not:?}");
        assert!(
            predict(600 << 20, 40_000).redo > predict(600 << 20, 0).redo + predict(600 << 20, 0).scan,
            "pages take memory from the log"
        );
    }

    #[test]
    fn what_was_too_small_to_tell_something_changes_no_rate() {
        let mut rates = RATES;
        let tiny = Sample { log_bytes: 4096, scan: Duration::from_secs(1), pages: 3, reading: Duration::from_secs(9), ..Sample::default() };
        rates.learn(&tiny);
        assert_eq!((rates.scan_bytes, rates.read_pages, rates.apply_bytes), (RATES.scan_bytes, RATES.read_pages, RATES.apply_bytes));
    }

    #[test]
    fn recoveries_pull_the_rates_to_what_they_were() {
        let mut rates = Rates::probed(1 << 40, 1);
        assert_eq!(rates.scan_bytes, DECODE_ASSUMED, "the disk may be faster than the processor");
        let second = Duration::from_secs(1);
        let sample = Sample {
            log_bytes: 50_000_000,
            scan: second,
            pages: 5000,
            reading: second,
            applied_bytes: 50_000_000,
            applying: Duration::ZERO,
            restore: second,
            open: second,
        };
        for _ in 0..12 {
            rates.learn(&sample);
        }
        assert!(rates.scan_bytes.abs_diff(50_000_000) < 500_000 && rates.read_pages.abs_diff(5000) < 50, "{rates:?}");
        assert!(rates.apply_bytes <= RATE_MAX && rates.restore_us.abs_diff(1_000_000) < 10 && rates.open_us > 0, "{rates:?}");
    }

    proptest! {
        #[test]
        fn more_work_never_takes_less_time(log in 0u64..1 << 40, pages in 0u64..1 << 32, more_log in 0u64..1 << 36, more_pages in 0u64..1 << 30,
            numbers in prop::array::uniform5(0u64..=NUMBER_MAX)) {
            let [scan_bytes, read_pages, apply_bytes, restore_us, open_us] = numbers;
            let rates = Rates { scan_bytes, read_pages, apply_bytes, restore_us: restore_us % (1 << 40), open_us: open_us % (1 << 40) };
            let less = rates.predict(Work { log_bytes: log, group_bytes: log, pages }, MEANS);
            let more_work = Work { log_bytes: log + more_log, group_bytes: log, pages: pages + more_pages };
            let more = rates.predict(more_work, MEANS);
            prop_assert!(less.scan <= more.scan && less.total() <= more.total() + less.redo);
        }

        #[test]
        fn any_numbers_come_back(numbers in prop::array::uniform9(0u64..=NUMBER_MAX)) {
            prop_assert_eq!(Forecast::of(numbers).map(|forecast| forecast.numbers()), Some(numbers));
        }
    }
}
