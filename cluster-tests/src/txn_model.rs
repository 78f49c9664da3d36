//! What transactions may see and what must be left of them: per row the writes in the order in which they succeeded, and every read.
//!
//! Clients note a write in the step in which it succeeds, a read with the snapshot it was made under, an end when they hear of it
//! ([`History`]). Which transactions committed, and when, is known at the end of a life: from `commit()`, and for those that never heard,
//! from the marker row that each has inserted under itself. Then everything is judged at once ([`History::settle`]): a read must have found
//! the last write committed at or before its snapshot; a change must have followed the version that it was made from; of two that change
//! a row the second one has seen the first one's commit; what is there afterwards is what the committed ones wrote, all of it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use regroup::base::{Instant, Scn};
use regroup::txn::TableLock;

/// A row: tree and key.
pub type Cell = (u32, Vec<u8>);
/// Its value; nothing when there is no such row.
pub type Value = Option<Vec<u8>>;
/// All rows of all trees.
pub type Rows = BTreeMap<Cell, Vec<u8>>;

/// The tree of marker rows: one for each transaction that has written.
pub const MARKS: u32 = 31;
/// The tree that names trees made by transactions.
pub const CATALOG: u32 = 32;
/// First number of a tree made by a transaction.
pub const FIRST_MADE: u32 = 1024;

/// The marker row of transaction `id`.
pub fn mark_of(id: u64) -> Cell {
    (MARKS, id.to_be_bytes().to_vec())
}

/// How far a transaction is, as its client knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Under way.
    Open,
    /// `commit()` was called and has not answered, or with an error.
    Unknown,
    /// `commit()` said so.
    Committed(Scn),
    /// Rolled back or dropped.
    Undone,
}

/// A write or a lock that succeeded.
#[derive(Clone, Debug)]
struct Entry {
    txn: u64,
    value: Value,
    /// Only locked: `value` is that of the version before.
    lock: bool,
    /// What the row was when it was looked at.
    seen: Value,
    /// The snapshot of a repeatable read transaction, unless it is an insertion.
    snapshot: Option<Scn>,
    made: u64,
    /// When it was rolled back to a savepoint before it.
    undone: Option<u64>,
}

#[derive(Clone, Debug)]
struct Read {
    txn: u64,
    cell: Cell,
    snapshot: Scn,
    found: Value,
}

/// What is known of a transaction at the end of a life.
#[derive(Clone, Copy, Debug)]
enum Class {
    Known(Scn),
    /// It may have committed at any time.
    Maybe,
    Never,
}

/// A transaction that waits, or may.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Since when.
    pub since: Instant,
}

/// All that happened in a life, on what was there before.
#[derive(Clone, Default)]
pub struct History {
    /// What was there when the life began.
    pub base: Rows,
    chains: BTreeMap<Cell, Vec<Entry>>,
    txns: BTreeMap<u64, Fate>,
    reads: Vec<Read>,
    /// Rows shown to someone who looked at them without a snapshot.
    shown: Vec<(u64, Cell, Vec<u8>)>,
    tables: Vec<(u32, TableLock, u64)>,
    next: u64,
    sequence: u64,
    newest: Scn,
    /// Calls under way, by the age of their transactions.
    pub calls: BTreeMap<u64, Call>,
    /// When a transaction's last call ended, by its age.
    pub ended_calls: BTreeMap<u64, Instant>,
    /// Ages of transactions whose calls were cut off or failed.
    pub disturbed: BTreeSet<u64>,
    /// Transactions begun in this life.
    pub starts: u64,
    /// Counts, for tests that want to know what happened at all.
    pub counts: BTreeMap<&'static str, u64>,
}

/// What bounds the time of a commit that nobody heard of.
#[derive(Default)]
struct Bounds {
    seen_from: BTreeMap<u64, Scn>,
    missed_to: BTreeMap<u64, Scn>,
}

impl Bounds {
    fn seen(&mut self, txn: u64, at: Scn) {
        let from = self.seen_from.entry(txn).or_insert(at);
        *from = (*from).min(at);
    }

    fn missed(&mut self, txn: u64, at: Scn) {
        let to = self.missed_to.entry(txn).or_insert(at);
        *to = (*to).max(at);
    }
}

fn say(value: &Value) -> String {
    match value {
        None => "nothing".into(),
        Some(value) => match value.first_chunk::<8>() {
            Some(head) => format!("{}.{}", u64::from_le_bytes(*head) >> 24, u64::from_le_bytes(*head) & 0xff_ffff),
            None => format!("{value:02x?}"),
        },
    }
}

impl History {
    /// Counts something.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// A transaction begins; returns its number and its age.
    pub fn begin(&mut self) -> (u64, u64) {
        self.next += 1;
        self.starts += 1;
        self.txns.insert(self.next, Fate::Open);
        (self.next, self.starts)
    }

    fn tick(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// This moment, for [`History::rolled_back_to`].
    pub fn moment(&mut self) -> u64 {
        self.tick()
    }

    /// A write or lock succeeded just now.
    pub fn wrote(&mut self, txn: u64, cell: Cell, value: Value, lock: bool, seen: Value, snapshot: Option<Scn>) {
        let made = self.tick();
        self.count(match (lock, &value, &seen) {
            (true, ..) => "locks",
            (false, None, _) => "deletions",
            (false, Some(_), None) => "insertions",
            (false, Some(_), Some(_)) => "updates",
        });
        self.chains.entry(cell).or_default().push(Entry { txn, value, lock, seen, snapshot, made, undone: None });
    }

    /// `txn` has undone what it did since `moment`.
    pub fn rolled_back_to(&mut self, txn: u64, moment: u64) {
        let now = self.tick();
        let entries = self.chains.values_mut().flatten();
        entries
            .filter(|entry| entry.txn == txn && entry.made > moment && entry.undone.is_none())
            .for_each(|entry| entry.undone = Some(now));
    }

    /// What `txn` itself has made of a row; nothing if it hasn't touched it.
    pub fn own(&self, txn: u64, cell: &Cell) -> Option<Value> {
        let own = |entry: &&Entry| entry.txn == txn && entry.undone.is_none() && !entry.lock;
        Some(self.chains.get(cell)?.iter().rev().find(own)?.value.clone())
    }

    /// `txn` has read a row under `snapshot`.
    ///
    /// # Panics
    /// When it didn't find what it has written itself.
    pub fn read(&mut self, txn: u64, cell: Cell, snapshot: Scn, found: Value) {
        match self.own(txn, &cell) {
            Some(own) => assert!(
                own == found,
                "transaction {txn} has written {} to {cell:02x?}, but reads {}: {}",
                say(&own),
                say(&found),
                self.tell(&cell)
            ),
            None => self.reads.push(Read { txn, cell, snapshot, found }),
        }
    }

    /// Rows of `tree` that there are or ever were in this life, from `low` to `high`.
    pub fn universe(&self, tree: u32, low: &[u8], high: &[u8]) -> BTreeSet<Vec<u8>> {
        let of_range = |cell: &&Cell| cell.0 == tree && &cell.1[..] >= low && &cell.1[..] <= high;
        self.chains.keys().chain(self.base.keys()).filter(of_range).map(|cell| cell.1.clone()).collect()
    }

    /// `txn` was shown a row without a snapshot: it must be committed.
    pub fn was_shown(&mut self, txn: u64, cell: Cell, value: Vec<u8>) {
        self.shown.push((txn, cell, value));
    }

    /// A snapshot was taken.
    ///
    /// # Panics
    /// When it misses a commit that was acknowledged before.
    pub fn snapshot(&self, scn: Scn) {
        assert!(scn >= self.newest, "a snapshot of {scn} misses the commit {} that was acknowledged before", self.newest);
    }

    /// `txn` got a table's lock.
    ///
    /// # Panics
    /// When someone under way has one that excludes it.
    pub fn locked_table(&mut self, txn: u64, table: u32, mode: TableLock) {
        self.count("table locks");
        for (other, has, holder) in &self.tables {
            let conflict = *other == table && *holder != txn && has.excludes(mode) && self.txns.get(holder) == Some(&Fate::Open);
            assert!(!conflict, "transaction {txn} got {mode:?} on table {table}, which {holder} has locked as {has:?}");
        }
        self.tables.push((table, mode, txn));
    }

    /// `commit()` is called.
    pub fn committing(&mut self, txn: u64) {
        self.txns.insert(txn, Fate::Unknown);
    }

    /// `commit()` has answered.
    ///
    /// # Panics
    /// When it had changes and has no place in the order, or one before a commit acknowledged before it began.
    pub fn committed(&mut self, txn: u64, scn: Option<Scn>) {
        self.count("commits");
        match scn {
            Some(scn) => {
                self.newest = self.newest.max(scn);
                self.txns.insert(txn, Fate::Committed(scn));
            }
            None => {
                let wrote = self.chains.values().flatten().any(|entry| entry.txn == txn);
                assert!(!wrote, "transaction {txn} has changed rows, but its commit says it hasn't");
                self.txns.insert(txn, Fate::Undone);
            }
        }
    }

    /// It is rolled back or dropped.
    pub fn undone(&mut self, txn: u64) {
        self.count("rollbacks");
        self.txns.insert(txn, Fate::Undone);
    }

    /// Transactions whose commits were acknowledged.
    pub fn acknowledged(&self) -> BTreeSet<u64> {
        self.txns.iter().filter(|(_, fate)| matches!(fate, Fate::Committed(_))).map(|(txn, _)| *txn).collect()
    }

    /// Rows that transactions still under way have changed.
    pub fn open_cells(&self) -> BTreeSet<Cell> {
        let open = |entry: &Entry| entry.undone.is_none() && self.txns.get(&entry.txn) == Some(&Fate::Open);
        self.chains.iter().filter(|(_, chain)| chain.iter().any(open)).map(|(cell, _)| cell.clone()).collect()
    }

    /// Rows that transactions not among `survivors` have changed.
    pub fn cells_of_others(&self, survivors: &BTreeSet<u64>) -> BTreeSet<Cell> {
        let other = |entry: &Entry| !survivors.contains(&entry.txn);
        self.chains.iter().filter(|(cell, chain)| cell.0 != MARKS && chain.iter().any(other)).map(|(cell, _)| cell.clone()).collect()
    }

    fn tell(&self, cell: &Cell) -> String {
        let mut said = format!("the row's writes, first {}", say(&self.base.get(cell).cloned()));
        for entry in self.chains.get(cell).into_iter().flatten() {
            let what = if entry.lock { "locked" } else { "wrote" };
            let undone = entry.undone.map_or(String::new(), |at| format!(", undone at {at}"));
            let _ = write!(said, "; {}: {} {what} {}{undone} ({:?})", entry.made, entry.txn, say(&entry.value), self.txns.get(&entry.txn));
        }
        said
    }

    /// Which transactions survived, by the marker rows of `found`; judges whether they may.
    ///
    /// # Errors
    /// Says which must or must not have.
    pub fn survivors(&self, found: &Rows, must: &BTreeSet<u64>) -> Result<BTreeSet<u64>, String> {
        let is_new = |cell: &&Cell| cell.0 == MARKS && !self.base.contains_key(*cell);
        let marks: BTreeSet<u64> = found.keys().filter(is_new).map(|cell| cell.1[..].try_into().map_or(0, u64::from_be_bytes)).collect();
        for txn in &marks {
            match self.txns.get(txn) {
                Some(Fate::Unknown | Fate::Committed(_)) => {}
                other => return Err(format!("transaction {txn} is there, but was {other:?}")),
            }
        }
        // A log keeps a prefix: whoever is there has everyone before him there too.
        let scn_of = |txn: &u64| if let Some(Fate::Committed(scn)) = self.txns.get(txn) { Some(*scn) } else { None };
        let last = marks.iter().filter_map(scn_of).max().unwrap_or(Scn(0));
        let marked = |txn: u64| self.chains.get(&mark_of(txn)).is_some_and(|chain| chain.iter().any(|entry| entry.undone.is_none()));
        for txn in self.acknowledged().into_iter().filter(|txn| marked(*txn) && !marks.contains(txn)) {
            if must.contains(&txn) {
                return Err(format!("transaction {txn} was acknowledged, and is lost"));
            }
            if scn_of(&txn).is_some_and(|scn| scn < last) {
                return Err(format!("transaction {txn} is lost, though one that committed after it is there"));
            }
        }
        Ok(marks)
    }

    /// What must be there when `survivors` committed.
    pub fn expected(&self, survivors: &BTreeSet<u64>) -> Rows {
        let mut rows = self.base.clone();
        for (cell, chain) in &self.chains {
            let counts = |entry: &&Entry| !entry.lock && entry.undone.is_none() && survivors.contains(&entry.txn);
            if let Some(entry) = chain.iter().rev().find(counts) {
                match &entry.value {
                    Some(value) => rows.insert(cell.clone(), value.clone()),
                    None => rows.remove(cell),
                };
            }
        }
        let named: BTreeSet<u32> = rows.keys().filter(|cell| cell.0 == CATALOG).filter_map(tree_named).collect();
        rows.retain(|cell, _| cell.0 < FIRST_MADE || named.contains(&cell.0));
        rows
    }

    /// Judges everything that happened. `waived`: commits are acknowledged before they are durable.
    ///
    /// # Errors
    /// Says what was wrong.
    pub fn judge(&self, survivors: &BTreeSet<u64>, waived: bool) -> Result<(), String> {
        let class = |txn: u64| match self.txns.get(&txn) {
            Some(Fate::Committed(scn)) => Class::Known(*scn),
            Some(Fate::Unknown) if waived || survivors.contains(&txn) => Class::Maybe,
            _ => Class::Never,
        };
        let bounds = RefCell::new(Bounds::default());
        for (cell, chain) in &self.chains {
            self.judge_chain(cell, chain, &class, &mut bounds.borrow_mut(), waived)?;
        }
        for read in &self.reads {
            let chain = self.chains.get(&read.cell).map_or(&[][..], |chain| chain);
            self.judge_read(read, chain, &class, &mut bounds.borrow_mut()).map_err(|why| {
                let Read { txn, cell, snapshot, found } = read;
                format!("transaction {txn} read {} in {cell:02x?} under snapshot {snapshot}: {why}; {}", say(found), self.tell(cell))
            })?;
        }
        for (txn, cell, value) in &self.shown {
            let is = |entry: &&Entry| entry.value.as_ref() == Some(value) && !entry.lock;
            let writer = self.chains.get(cell).and_then(|chain| chain.iter().find(is));
            let fine = match writer {
                Some(writer) => writer.txn == *txn || (writer.undone.is_none() && !matches!(class(writer.txn), Class::Never)),
                None => self.base.get(cell) == Some(value),
            };
            if !fine {
                return Err(format!("transaction {txn} was shown {} in {cell:02x?}; {}", say(&Some(value.clone())), self.tell(cell)));
            }
        }
        let bounds = bounds.into_inner();
        for (txn, seen) in &bounds.seen_from {
            if bounds.missed_to.get(txn).is_some_and(|missed| missed >= seen) {
                return Err(format!("transaction {txn} was seen by snapshot {seen} and missed by {}", bounds.missed_to[txn]));
            }
        }
        Ok(())
    }

    /// The writes of a row follow each other as locks and first-updater-wins demand.
    fn judge_chain(
        &self,
        cell: &Cell,
        chain: &[Entry],
        class: &impl Fn(u64) -> Class,
        bounds: &mut Bounds,
        waived: bool,
    ) -> Result<(), String> {
        let wrong = |why: String| Err(format!("{why} in {cell:02x?}; {}", self.tell(cell)));
        let mut last = (0, Scn(0));
        for (at, entry) in chain.iter().enumerate() {
            if let (None, Class::Known(scn)) = (entry.undone, class(entry.txn)) {
                if scn < last.1 || (scn == last.1 && entry.txn != last.0) {
                    return wrong(format!("transaction {} wrote after {}, but committed before it", entry.txn, last.0));
                }
                last = (entry.txn, scn);
            }
            let counts = |before: &&Entry| is_before(before, entry, class);
            self.judge_seen(cell, chain, at, class, waived).or_else(wrong)?;
            // Over an own version nothing is to be judged: an insertion over a deletion may be there, whoever made that.
            let other = chain[..at].iter().rev().find(counts).filter(|before| before.txn != entry.txn);
            if let (Some(snapshot), Some(other)) = (entry.snapshot, other) {
                match class(other.txn) {
                    Class::Known(scn) if scn > snapshot => {
                        return wrong(format!(
                            "transaction {} with snapshot {snapshot} changed what {} had changed since",
                            entry.txn, other.txn
                        ));
                    }
                    Class::Maybe if !waived => bounds.seen(other.txn, snapshot),
                    Class::Known(_) | Class::Maybe | Class::Never => {}
                }
            }
        }
        Ok(())
    }

    /// A change was made from the version that was there.
    fn judge_seen(&self, cell: &Cell, chain: &[Entry], at: usize, class: &impl Fn(u64) -> Class, waived: bool) -> Result<(), String> {
        let entry = &chain[at];
        let mut was = self.base.get(cell).cloned();
        for before in chain[..at].iter().rev().filter(|before| is_before(before, entry, class)) {
            let unsure = waived && before.txn != entry.txn && matches!(class(before.txn), Class::Maybe);
            if before.value == entry.seen || !unsure {
                was.clone_from(&before.value);
                break;
            }
        }
        if was == entry.seen {
            return Ok(());
        }
        Err(format!("transaction {} changed a row seen as {}, which was {}", entry.txn, say(&entry.seen), say(&was)))
    }

    fn judge_read(&self, read: &Read, chain: &[Entry], class: &impl Fn(u64) -> Class, bounds: &mut Bounds) -> Result<(), String> {
        let counts = |entry: &&Entry| !entry.lock && entry.undone.is_none() && entry.txn != read.txn;
        let mut may_be = Vec::new();
        let mut sure = self.base.get(&read.cell).cloned();
        for entry in chain.iter().rev().filter(counts) {
            match class(entry.txn) {
                Class::Known(scn) if scn <= read.snapshot => {
                    sure.clone_from(&entry.value);
                    break;
                }
                Class::Known(_) | Class::Never => {}
                // Only its last write counts.
                Class::Maybe if may_be.last().is_some_and(|(txn, _)| *txn == entry.txn) => {}
                Class::Maybe => may_be.push((entry.txn, entry.value.clone())),
            }
        }
        if may_be.is_empty() {
            return if read.found == sure { Ok(()) } else { Err(format!("it should be {}", say(&sure))) };
        }
        let candidates = || may_be.iter().map(|(_, value)| value).chain([&sure]);
        match candidates().filter(|value| **value == read.found).count() {
            0 => Err(format!("it should be one of {:?}", candidates().map(say).collect::<Vec<_>>())),
            1 => {
                for (txn, value) in &may_be {
                    if *value == read.found {
                        bounds.seen(*txn, read.snapshot);
                        break;
                    }
                    bounds.missed(*txn, read.snapshot);
                }
                Ok(())
            }
            // Two deletions: either.
            _ => Ok(()),
        }
    }

    /// The life is over, and `found` is what the first transaction of the next one has found.
    pub fn settle(&mut self, found: Rows) {
        *self = History { base: found, next: self.next, starts: 1, counts: std::mem::take(&mut self.counts), ..History::default() };
    }
}

/// Whether `before` was in the row when `entry` was made, if it comes before it.
fn is_before(before: &Entry, entry: &Entry, class: &impl Fn(u64) -> Class) -> bool {
    let own = before.txn == entry.txn && before.undone.is_none_or(|undone| undone > entry.made);
    let other = before.txn != entry.txn && before.undone.is_none() && !matches!(class(before.txn), Class::Never);
    !before.lock && (own || other)
}

/// The tree that a row of [`CATALOG`] names.
pub fn tree_named(cell: &Cell) -> Option<u32> {
    cell.1[..].try_into().ok().map(u32::from_be_bytes)
}

/// The first few rows in which two stores differ, in words.
pub fn difference(expected: &Rows, found: &Rows) -> String {
    let cells: BTreeSet<&Cell> = expected.keys().chain(found.keys()).collect();
    let differing: Vec<_> = cells.into_iter().filter(|cell| expected.get(*cell) != found.get(*cell)).collect();
    let mut said = format!("{} rows differ", differing.len());
    for cell in differing.iter().take(5) {
        let (expected, found) = (expected.get(*cell).cloned(), found.get(*cell).cloned());
        let _ = write!(said, "; {:?} {:02x?}: expected {}, found {}", cell.0, &cell.1[..cell.1.len().min(12)], say(&expected), say(&found));
    }
    said
}
