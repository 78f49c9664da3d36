//! Which side of a split is best connected: the largest set of instances that all hear each other, by the bitmaps that they wrote to the
//! voting files; of equals, the one with the lowest instance.
//!
//! Only policy: sides may see different bitmaps and answer differently, and Disk Paxos still decides one view.

use std::collections::BTreeMap;

use crate::base::ThreadId;

/// Steps of the search. Real splits need a few hundred; a hostile matrix can't hold up a decision (rule 19): the best found counts.
const STEPS: usize = 100_000;

/// The bit of an instance in a bitmap.
pub fn bit(id: ThreadId) -> u64 {
    if (1..=64).contains(&id.0) { 1 << (id.0 - 1) } else { 0 }
}

/// The instances of a bitmap, lowest first.
pub fn ids(bits: u64) -> impl Iterator<Item = ThreadId> {
    (1..=64).map(ThreadId).filter(move |id| bits & bit(*id) != 0)
}

/// Who hears whom mutually among `hears`' instances, by instance.
pub fn mutual(hears: &BTreeMap<ThreadId, u64>) -> BTreeMap<ThreadId, u64> {
    let pair = |one: ThreadId, other: ThreadId| one == other || (hears[&one] & bit(other) != 0 && hears[&other] & bit(one) != 0);
    hears.keys().map(|one| (*one, hears.keys().filter(|other| pair(*one, **other)).fold(0, |bits, other| bits | bit(*other)))).collect()
}

/// The best connected side, as a bitmap; 0 when there is nobody.
pub fn best_side(hears: &BTreeMap<ThreadId, u64>) -> u64 {
    let mut search = Search { mutual: mutual(hears), best: 0, steps: STEPS };
    let all = hears.keys().fold(0, |bits, id| bits | bit(*id));
    search.extend(0, all);
    search.best
}

struct Search {
    mutual: BTreeMap<ThreadId, u64>,
    best: u64,
    steps: usize,
}

impl Search {
    /// Adds to `side` from `candidates`, all of which hear all of it. Lowest first, so that of equal sides the lowest is found first and
    /// only a larger one replaces it.
    fn extend(&mut self, side: u64, candidates: u64) {
        if side.count_ones() > self.best.count_ones() {
            self.best = side;
        }
        if (side | candidates).count_ones() <= self.best.count_ones() || self.steps == 0 {
            return;
        }
        self.steps -= 1;
        let Some(lowest) = ids(candidates).next() else { return };
        let hears = self.mutual.get(&lowest).copied().unwrap_or(0);
        self.extend(side | bit(lowest), candidates & hears & !bit(lowest));
        // Without it only where it stands in somebody's way.
        if candidates & !hears != 0 {
            self.extend(side, candidates & !bit(lowest));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matrix(rows: &[(u16, &[u16])]) -> BTreeMap<ThreadId, u64> {
        rows.iter().map(|(id, heard)| (ThreadId(*id), heard.iter().fold(0, |bits, other| bits | bit(ThreadId(*other))))).collect()
    }

    fn side(rows: &[(u16, &[u16])]) -> Vec<u16> {
        ids(best_side(&matrix(rows))).map(|id| id.0).collect()
    }

    #[test]
    fn all_when_all_hear_each_other() {
        assert_eq!(side(&[(1, &[2, 3]), (2, &[1, 3]), (3, &[1, 2])]), [1, 2, 3]);
    }

    #[test]
    fn the_larger_side_wins_and_on_a_tie_the_lowest() {
        assert_eq!(side(&[(1, &[]), (2, &[3]), (3, &[2])]), [2, 3]);
        assert_eq!(side(&[(1, &[2]), (2, &[1]), (3, &[4]), (4, &[3])]), [1, 2]);
        assert_eq!(side(&[(5, &[]), (9, &[])]), [5]);
    }

    #[test]
    fn one_broken_link_takes_out_the_higher_end() {
        assert_eq!(side(&[(1, &[2, 3]), (2, &[1]), (3, &[1])]), [1, 2]);
    }

    #[test]
    fn one_way_is_not_mutual() {
        assert_eq!(side(&[(1, &[2]), (2, &[])]), [1]);
        assert_eq!(side(&[(1, &[]), (2, &[1, 3]), (3, &[1, 2])]), [2, 3]);
    }

    #[test]
    fn nobody() {
        assert_eq!(best_side(&BTreeMap::new()), 0);
    }

    #[test]
    fn a_hostile_matrix_ends() {
        // Moon and Moser's graph: 21 groups of three that don't hear their own group have 3^21 maximal sides.
        let rows = (1..=63u16).map(|id| {
            (ThreadId(id), ids(u64::MAX).filter(|other| (other.0 - 1) / 3 != (id - 1) / 3).fold(0, |bits, other| bits | bit(other)))
        });
        assert_eq!(best_side(&rows.collect()).count_ones(), 21);
    }

    proptest! {
        #[test]
        fn agrees_with_trying_every_set(rows in prop::collection::vec(any::<u64>(), 1..10)) {
            let hears: BTreeMap<ThreadId, u64> = (1..).map(ThreadId).zip(rows).collect();
            let mutual = mutual(&hears);
            let all = (1u64 << hears.len()) - 1;
            let whole = |set: u64| ids(set).all(|id| mutual[&id] & set == set);
            let best = (1..=all).filter(|set| whole(*set)).max_by_key(|set| (set.count_ones(), set.reverse_bits())).unwrap();
            prop_assert_eq!(best_side(&hears), best);
        }
    }
}
