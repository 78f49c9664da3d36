//! How long to wait before connecting again: doubling, with jitter, so that peers of a restarted process don't all come at once.

use std::time::Duration;

/// First wait.
const FIRST: Duration = Duration::from_millis(10);
/// Longest wait: a peer that comes back is reached again within this time.
const LONGEST: Duration = Duration::from_millis(500);

/// The waits so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait now: between half of the doubled time and all of it, as `random` says.
    pub(super) fn next(&mut self, random: u64) -> Duration {
        let whole = (FIRST * (1 << self.failures.min(10))).min(LONGEST);
        self.failures += 1;
        whole / 2 + Duration::from_nanos(random % (whole.as_nanos() as u64 / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_longest_with_jitter() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..20).map(|n| backoff.next(crate::base::random::mix(n)).as_millis()).collect();
        assert!((5..10).contains(&waits[0]) && (20..40).contains(&waits[2]), "{waits:?}");
        assert!(waits[8..].iter().all(|wait| (250..500).contains(wait)), "{waits:?}");
    }
}
