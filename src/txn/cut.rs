//! The argument of two-part snapshots (`docs/protocols/transactions.md`, "Several instances"), tried out on an abstract cluster: a writer and
//! a reader with clocks of their own, which only pages that change hands carry along.

use std::collections::BTreeMap;

use super::slot::{Judged, Slot, SlotState};
use super::{TxnId, UndoPtr};
use crate::base::random::Random;
use crate::base::{Scn, ThreadId};

const ROWS: usize = 3;
const SLOTS: u64 = 2;
/// The page of slots, behind the rows' leaves.
const SLOT_PAGE: usize = ROWS;

/// A row's versions, newest last: the transaction of each.
type Versions = Vec<u64>;

/// A row as a reader has it, and the versions that it has still to ask for.
struct Read {
    row: usize,
    versions: Versions,
}

#[derive(Default)]
struct Snapshot {
    at: Scn,
    reads: Vec<Read>,
}

/// The writer changes rows and slots, the reader looks.
struct World {
    /// Whether a page that changes hands carries the clock of who had it.
    carries: bool,
    writer: u64,
    reader: u64,
    /// Pages of which the reader has a copy.
    copies: [bool; ROWS + 1],
    rows: [Versions; ROWS],
    slots: [Slot; SLOTS as usize],
    /// What each transaction found in its slot.
    earlier: BTreeMap<u64, Slot>,
    open: BTreeMap<u64, Vec<usize>>,
    next: u64,
    /// Committed: when, and which rows.
    committed: BTreeMap<u64, (Scn, Vec<usize>)>,
    /// All versions that rows had in the order of their commits.
    history: [Vec<u64>; ROWS],
    /// What was seen: snapshot, row, transaction (0: none).
    seen: Vec<(Scn, usize, u64)>,
}

impl World {
    fn new(carries: bool) -> World {
        World {
            carries,
            writer: 1,
            reader: 1,
            copies: [false; ROWS + 1],
            rows: Default::default(),
            slots: [Slot::FREE; SLOTS as usize],
            earlier: BTreeMap::new(),
            open: BTreeMap::new(),
            next: 1,
            committed: BTreeMap::new(),
            history: Default::default(),
            seen: Vec::new(),
        }
    }

    /// The writer gets `page` alone: the reader's copy goes, and its clock comes.
    fn take(&mut self, page: usize) {
        if std::mem::take(&mut self.copies[page]) && self.carries {
            self.writer = self.writer.max(self.reader);
        }
    }

    /// The reader gets a copy of `page`, and with it the writer's clock.
    fn copy(&mut self, page: usize) {
        if !std::mem::replace(&mut self.copies[page], true) {
            self.reader = self.reader.max(self.writer);
        }
    }

    fn write(&mut self, random: &mut Random) {
        let row = random.index(ROWS);
        let holder = self.rows[row].last().copied().filter(|txn| self.open.contains_key(txn));
        let known: Vec<u64> = self.open.keys().copied().collect();
        let txn = match random.chance(0.5) && !known.is_empty() {
            true => *random.pick(&known),
            false => match (self.next..self.next + SLOTS).find(|number| !known.iter().any(|other| other % SLOTS == number % SLOTS)) {
                Some(number) => number,
                None => return,
            },
        };
        if holder.is_some() {
            return;
        }
        self.take(row);
        if !known.contains(&txn) {
            self.take(SLOT_PAGE);
            let slot = &mut self.slots[(txn % SLOTS) as usize];
            self.earlier.insert(txn, *slot);
            let state = SlotState::Active;
            *slot = Slot { txn: TxnId::new(ThreadId(1), txn), state, scn: Scn(0), before: slot.scn, first: UndoPtr::NONE, earlier: true };
            self.next = txn + 1;
        }
        self.open.entry(txn).or_default().push(row);
        self.rows[row].push(txn);
    }

    fn end(&mut self, random: &mut Random) {
        let known: Vec<u64> = self.open.keys().copied().collect();
        if known.is_empty() {
            return;
        }
        let txn = *random.pick(&known);
        let rows = self.open.remove(&txn).unwrap_or_default();
        let commits = random.chance(0.5);
        if !commits {
            for row in &rows {
                self.take(*row);
                self.rows[*row].pop();
            }
        }
        self.take(SLOT_PAGE);
        self.writer += 1;
        let (scn, slot) = (Scn(self.writer), &mut self.slots[(txn % SLOTS) as usize]);
        *slot = slot.ended(if commits { SlotState::Committed } else { SlotState::RolledBack }, scn);
        if commits {
            rows.iter().for_each(|row| self.history[*row].push(txn));
            self.committed.insert(txn, (scn, rows));
        }
    }

    /// Asks for the newest version that `read` has; false when it is done.
    fn ask(&mut self, at: Scn, read: &mut Read) -> bool {
        let Some(txn) = read.versions.last().copied() else {
            self.seen.push((at, read.row, 0));
            return false;
        };
        self.copy(SLOT_PAGE);
        let mut slot = self.slots[(txn % SLOTS) as usize];
        let mut judged = slot.judge(txn, at);
        while judged == Judged::Earlier {
            slot = self.earlier[&slot.txn.number()];
            judged = slot.judge(txn, at);
        }
        match judged {
            Judged::Before => {
                self.seen.push((at, read.row, txn));
                return false;
            }
            Judged::After | Judged::Active => drop(read.versions.pop()),
            Judged::Undone | Judged::Earlier => {
                self.copy(read.row);
                read.versions.clone_from(&self.rows[read.row]);
            }
        }
        true
    }

    fn look(&mut self, snapshot: &mut Snapshot, random: &mut Random) {
        if random.chance(0.4) {
            let row = random.index(ROWS);
            self.copy(row);
            snapshot.reads.push(Read { row, versions: self.rows[row].clone() });
        } else if !snapshot.reads.is_empty() {
            let at = random.index(snapshot.reads.len());
            let mut read = snapshot.reads.swap_remove(at);
            if self.ask(snapshot.at, &mut read) {
                snapshot.reads.push(read);
            }
        }
    }

    /// What was seen that isn't the newest version of those that had committed by the snapshot.
    fn wrong(&self) -> usize {
        let of = |at: Scn, row: usize| self.history[row].iter().rev().find(|txn| self.committed[*txn].0 <= at).copied().unwrap_or(0);
        self.seen.iter().filter(|(at, row, txn)| of(*at, *row) != *txn).count()
    }
}

/// Runs a random history; returns how much was seen, and how much of it wrongly.
fn run(seed: u64, carries: bool) -> (usize, usize) {
    let (mut world, mut random) = (World::new(carries), Random::new(seed));
    let mut snapshots: Vec<Snapshot> = Vec::new();
    for _ in 0..400 {
        match random.below(10) {
            0..=2 => world.write(&mut random),
            3 => world.end(&mut random),
            4 => world.reader += random.below(8),
            5 if snapshots.len() < 4 => snapshots.push(Snapshot { at: Scn(world.reader), ..Snapshot::default() }),
            6 if snapshots.len() > 3 => drop(snapshots.remove(0)),
            _ if snapshots.is_empty() => {}
            _ => {
                let at = random.index(snapshots.len());
                world.look(&mut snapshots[at], &mut random);
            }
        }
    }
    (world.seen.len(), world.wrong())
}

#[test]
fn a_snapshot_is_a_cut_because_pages_carry_clocks_and_only_therefore() {
    let (mut seen, mut wrong_without) = (0, 0);
    for seed in 0..3000 {
        let (looked, wrong) = run(seed, true);
        assert_eq!(wrong, 0, "seed {seed}");
        seen += looked;
        wrong_without += run(seed, false).1;
    }
    assert!(seen > 50_000, "{seen}");
    assert!(wrong_without > 0, "the test would find it");
}
