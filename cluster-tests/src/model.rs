//! What a store must hold: groups in the order of the log, and the map that any prefix of them gives.
//!
//! Clients note a group in the same step in which it was appended ([`Model::appended`]), so the order of notes is the order of the log,
//! and nothing is appended without a note. After a crash the store must hold exactly what some prefix gives that has every
//! acknowledged group ([`Model::matches`]).

use std::collections::BTreeMap;
use std::time::Duration;

use regroup::base::{Instant, Lsn, Scn, TreeId};
use regroup::cache::Committed;
use regroup::table::Write;

/// A change to one key: tree, key, and its value unless it is deleted.
pub type Change = (u32, Vec<u8>, Option<Vec<u8>>);

/// All keys of all trees, with their values.
pub type Contents = BTreeMap<(u32, Vec<u8>), Vec<u8>>;

/// Borrows `changes` for a store.
pub fn writes(changes: &[Change]) -> Vec<Write<'_>> {
    changes
        .iter()
        .map(|(tree, key, value)| match value {
            Some(value) => Write::Put { tree: TreeId(*tree), key, value },
            None => Write::Delete { tree: TreeId(*tree), key },
        })
        .collect()
}

/// Does `changes` to `contents`.
pub fn apply(contents: &mut Contents, changes: &[Change]) {
    for (tree, key, value) in changes {
        match value {
            Some(value) => contents.insert((*tree, key.clone()), value.clone()),
            None => contents.remove(&(*tree, key.clone())),
        };
    }
}

/// A group that is in the log.
#[derive(Clone, Debug)]
pub struct Appended {
    /// Its place in the cluster's order.
    pub scn: Scn,
    /// Behind its redo.
    pub end: Lsn,
    /// When it was appended.
    pub at: Instant,
    /// What it does.
    pub changes: Vec<Change>,
}

/// What a store must hold.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// What was certain when the store was opened.
    pub base: Contents,
    /// Groups since then, in order.
    pub groups: Vec<Appended>,
    /// All of them done.
    pub now: Contents,
    /// So many of the groups must survive.
    pub acknowledged: usize,
    /// Groups ever acknowledged, over all lives.
    pub acknowledged_ever: u64,
}

impl Model {
    /// A store that holds `base`.
    pub fn new(base: Contents) -> Model {
        Model { now: base.clone(), base, ..Model::default() }
    }

    /// Notes a group that was just appended; returns its number.
    ///
    /// # Panics
    /// When its SCN breaks the order of the log.
    pub fn appended(&mut self, committed: Committed, at: Instant, changes: Vec<Change>) -> usize {
        if let Some(last) = self.groups.last() {
            assert!(last.scn <= committed.scn, "SCN {} was given after {}", committed.scn, last.scn);
            assert!(last.end <= committed.end, "a group ends at {} behind one that ends at {}", committed.end, last.end);
        }
        apply(&mut self.now, &changes);
        self.groups.push(Appended { scn: committed.scn, end: committed.end, at, changes });
        self.groups.len() - 1
    }

    /// Group `number` was acknowledged, and so everything before it.
    pub fn acknowledge(&mut self, number: usize) {
        self.acknowledged = self.acknowledged.max(number + 1);
        self.acknowledged_ever += 1;
    }

    /// The log is durable up to `position`.
    pub fn durable(&mut self, position: Lsn) {
        let durable = self.groups.partition_point(|group| group.end <= position);
        self.acknowledged = self.acknowledged.max(durable);
    }

    /// Groups appended at least `age` before `now` must survive.
    pub fn durable_by_age(&mut self, now: Instant, age: Duration) {
        let old = self.groups.partition_point(|group| group.at + age <= now);
        self.acknowledged = self.acknowledged.max(old);
    }

    /// After how many groups `found` is what is there, if that is at least `least`.
    ///
    /// # Errors
    /// Says how `found` differs from what the least prefix gives.
    pub fn matches(&self, least: usize, found: &Contents) -> Result<usize, String> {
        let mut contents = self.base.clone();
        self.groups[..least].iter().for_each(|group| apply(&mut contents, &group.changes));
        let first = difference(&contents, found);
        for (number, group) in self.groups.iter().enumerate().skip(least) {
            if contents == *found {
                return Ok(number);
            }
            apply(&mut contents, &group.changes);
        }
        if contents == *found {
            return Ok(self.groups.len());
        }
        let earlier = self.prefixes_below(least, found);
        Err(format!(
            "what is there is no prefix of the {} groups with all {least} acknowledged ones; against just those: {first}; {earlier}",
            self.groups.len(),
        ))
    }

    /// Says whether an earlier prefix is what is there: acknowledged groups were lost.
    fn prefixes_below(&self, least: usize, found: &Contents) -> String {
        let mut contents = self.base.clone();
        for (number, group) in self.groups[..least].iter().enumerate() {
            if contents == *found {
                return format!("it is what the first {number} groups give: {} acknowledged ones were lost", least - number);
            }
            apply(&mut contents, &group.changes);
        }
        "nor is it any shorter prefix".to_string()
    }

    /// The store was found to hold what the first `number` groups give: that is certain now.
    pub fn settle(&mut self, number: usize) {
        for group in self.groups.drain(..).take(number) {
            apply(&mut self.base, &group.changes);
        }
        self.now = self.base.clone();
        self.acknowledged = 0;
    }
}

/// The first few keys in which two stores differ, in words.
pub fn difference(expected: &Contents, found: &Contents) -> String {
    let mut said = Vec::new();
    let short = |value: Option<&Vec<u8>>| {
        value.map_or("nothing".to_string(), |value| format!("{:02x?}..({})", &value[..value.len().min(12)], value.len()))
    };
    let keys: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let mut count = 0;
    for key in keys {
        let (wanted, is) = (expected.get(key), found.get(key));
        if wanted != is {
            count += 1;
            if said.len() < 4 {
                said.push(format!(
                    "tree {} key {:02x?}: expected {}, found {}",
                    key.0,
                    &key.1[..key.1.len().min(16)],
                    short(wanted),
                    short(is)
                ));
            }
        }
    }
    format!("{count} keys differ: {}", said.join("; "))
}
