//! How often somebody may knock: token buckets, for addresses before their handshake and for certificates after it (rule 19).

use std::collections::BTreeMap;

use crate::base::Instant;

/// Most whose rate is followed at once. When as many are short of tokens, others are refused.
const FOLLOWED_MAX: usize = 4096;

/// A rate: so many at once, so many a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// A second, in the long run.
    pub per_second: u32,
}

/// Rates of many, by whatever names them.
#[derive(Debug)]
pub(super) struct Rates<Name> {
    rate: Rate,
    /// Tokens left, and when that was; who isn't here has a full bucket.
    buckets: BTreeMap<Name, (f64, Instant)>,
}

impl<Name: Ord + Copy> Rates<Name> {
    pub(super) fn new(rate: Rate) -> Rates<Name> {
        Rates { rate, buckets: BTreeMap::new() }
    }

    /// Whether `name` may, once more, at `now`.
    pub(super) fn admit(&mut self, name: Name, now: Instant) -> bool {
        let full = f64::from(self.rate.burst);
        let refill = |tokens: f64, at: Instant| (tokens + now.since(at).as_secs_f64() * f64::from(self.rate.per_second)).min(full);
        if self.buckets.len() >= FOLLOWED_MAX && !self.buckets.contains_key(&name) {
            self.buckets.retain(|_, (tokens, at)| refill(*tokens, *at) < full);
            if self.buckets.len() >= FOLLOWED_MAX {
                return false;
            }
        }
        let bucket = self.buckets.entry(name).or_insert((full, now));
        *bucket = (refill(bucket.0, bucket.1), now);
        let admitted = bucket.0 >= 1.0;
        if admitted {
            bucket.0 -= 1.0;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_then_the_rate_for_each_by_itself() {
        let mut rates = Rates::new(Rate { burst: 3, per_second: 10 });
        let start = Instant(0);
        assert_eq!([1, 1, 1, 1, 2].map(|name| rates.admit(name, start)), [true, true, true, false, true]);
        let later = start + Duration::from_millis(100);
        assert_eq!([1, 1].map(|name| rates.admit(name, later)), [true, false]);
        assert!((0..3).all(|_| rates.admit(1, later + Duration::from_secs(9))));
        assert!(!rates.admit(1, later + Duration::from_secs(9)));
    }

    #[test]
    fn what_is_followed_is_bounded() {
        let mut rates = Rates::new(Rate { burst: 1, per_second: 1 });
        let admitted = (0..FOLLOWED_MAX + 10).filter(|name| rates.admit(*name, Instant(0))).count();
        assert_eq!(admitted, FOLLOWED_MAX);
        assert!(rates.admit(FOLLOWED_MAX + 1, Instant(2_000_000_000)), "full buckets are forgotten");
        assert!(rates.buckets.len() < 3);
    }
}
