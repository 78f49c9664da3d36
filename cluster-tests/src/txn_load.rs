//! Clients that run random transactions over few rows and note everything in a [`History`].
//!
//! A client's transaction does a few steps (read, scan, change, lock, lock a table, make or drop a tree, set a savepoint, go back to one),
//! any of which may be interrupted, or given up by dropping its future; then it commits, rolls back or is just dropped.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use regroup::base::options::LogMode;
use regroup::base::{Random, Scn, Seams, TreeId};
use regroup::disk::memory::MemoryMedia;
use regroup::node::store::Store;
use regroup::table::Direction;
use regroup::table::rows::{Changed, Inserted, Interrupt, Isolation, OnConflict, Row, RowError, Savepoint, TableLock, Transaction};

use crate::txn_model::{CATALOG, Call, Cell, FIRST_MADE, History, MARKS, Value, mark_of, tree_named};
use crate::workload::key_of;

/// Trees of rows that clients fight for.
pub const CROWDED: [u32; 2] = [21, 22];
/// The tree of long transactions.
pub const LONG: u32 = 23;
/// All trees that are always there.
pub const FIXED: [u32; 5] = [21, 22, LONG, MARKS, CATALOG];
/// Numbers of tables that are locked for no reason.
const TABLES: u64 = 3;
/// Longest time that any call may take, however crowded it is.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// So many at once.
    pub clients: u64,
    /// Transactions of each.
    pub transactions: u64,
    /// Most steps of each.
    pub steps: u64,
    /// Rows that there may be in [`CROWDED`].
    pub keys: u64,
    /// Longest value, in bytes.
    pub value_bytes: u64,
    /// Longest pause between two steps, in microseconds.
    pub pause_us: u64,
    /// Chance that a call is interrupted or given up.
    pub cuts: f64,
    /// Chance of a commit at the end.
    pub commits: f64,
    /// Chance of a step that locks a table.
    pub tables: f64,
    /// Chance of a step that makes, uses or drops a tree.
    pub trees: f64,
    /// Rows that each transaction of one more client changes; 0 for none such.
    pub long: u64,
    /// Old snapshots may find their undo reused.
    pub too_old: bool,
    /// Anything may fail: I/O does.
    pub faults: bool,
}

impl Load {
    /// Few rows, all kinds of steps.
    pub fn usual() -> Load {
        Load {
            clients: 5,
            transactions: 12,
            steps: 8,
            keys: 12,
            value_bytes: 200,
            pause_us: 300,
            cuts: 0.05,
            commits: 0.7,
            tables: 0.1,
            trees: 0.05,
            long: 0,
            too_old: false,
            faults: false,
        }
    }

    /// Anything that is allowed.
    pub fn random(random: &mut Random) -> Load {
        Load {
            clients: 2 + random.below(8),
            transactions: 4 + random.below(20),
            steps: *random.pick(&[3, 8, 20]),
            keys: *random.pick(&[3, 8, 30, 300]),
            value_bytes: *random.pick(&[16, 200, 1500]),
            pause_us: *random.pick(&[0, 100, 3000]),
            cuts: *random.pick(&[0.0, 0.05, 0.2]),
            commits: *random.pick(&[0.4, 0.75, 1.0]),
            tables: *random.pick(&[0.0, 0.05, 0.3]),
            trees: *random.pick(&[0.0, 0.05, 0.2]),
            long: *random.pick(&[0, 0, 50, 400]),
            ..Load::usual()
        }
    }
}

/// A store under load.
#[derive(Clone)]
pub struct Subject {
    /// Clock and tasks.
    pub seams: Seams,
    /// The store.
    pub store: Arc<Store>,
    /// What happened.
    pub history: Arc<Mutex<History>>,
    /// Told the number of each transaction that is acknowledged for good.
    pub media: MemoryMedia,
    /// What is done.
    pub load: Load,
}

/// A transaction of the clients.
pub struct Tx {
    /// The real one.
    pub inner: Transaction,
    /// Its number in the history.
    pub id: u64,
    start: u64,
    isolation: Isolation,
    interrupt: Interrupt,
    saves: Vec<(Savepoint, u64)>,
    stamps: u64,
    wrote: bool,
}

impl Tx {
    fn new_value(&mut self, random: &mut Random, most: u64) -> Vec<u8> {
        self.stamps += 1;
        let mut value = vec![0; 8 + random.below(most.max(1)) as usize];
        random.bytes(&mut value);
        value[..8].copy_from_slice(&(self.id << 24 | self.stamps).to_le_bytes());
        value
    }

    fn snapshot(&self) -> Scn {
        self.inner.snapshot_scn().expect("a statement is under way")
    }

    fn if_repeatable(&self) -> Option<Scn> {
        (self.isolation == Isolation::RepeatableRead).then(|| self.snapshot())
    }
}

/// A call under way, for those who look for circles.
struct Calling<'s>(&'s Subject, u64);

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        let mut history = self.0.history.lock();
        history.calls.remove(&self.1);
        history.ended_calls.insert(self.1, self.0.seams.now());
    }
}

/// Why a transaction's steps ended early.
#[derive(Debug)]
pub enum Stop {
    /// An error.
    Failed(RowError),
    /// The call's future was dropped.
    GivenUp,
}

impl From<RowError> for Stop {
    fn from(error: RowError) -> Stop {
        Stop::Failed(error)
    }
}

impl Subject {
    /// Begins a transaction.
    pub fn begin(&self, isolation: Isolation) -> Tx {
        let interrupt = Interrupt::default();
        let (id, start) = self.history.lock().begin();
        let inner = self.store.rows().begin(isolation, interrupt.clone());
        Tx { inner, id, start, isolation, interrupt, saves: Vec::new(), stamps: 0, wrote: false }
    }

    fn statement(&self, tx: &mut Tx) {
        let had = tx.inner.snapshot_scn().is_some() && tx.isolation == Isolation::RepeatableRead;
        tx.inner.begin_statement();
        if !had {
            self.history.lock().snapshot(tx.snapshot());
        }
    }

    /// Runs a call of `tx`, perhaps cut off.
    async fn call<T>(
        &self,
        (start, interrupt): (u64, Interrupt),
        random: &mut Random,
        call: impl Future<Output = Result<T, RowError>>,
    ) -> Result<T, Stop> {
        self.history.lock().calls.insert(start, Call { since: self.seams.now() });
        let calling = Calling(self, start);
        tokio::pin!(call);
        let outcome = if random.chance(self.load.cuts) {
            let gives_up = random.chance(0.5);
            let after = Duration::from_micros(random.below(*random.clone().pick(&[2, 200, 5000])));
            tokio::select! {
                biased;
                outcome = &mut call => outcome,
                () = self.seams.sleep(after) => {
                    self.history.lock().disturbed.insert(start);
                    if gives_up {
                        self.history.lock().count("calls given up");
                        return Err(Stop::GivenUp);
                    }
                    self.history.lock().count("interrupts");
                    interrupt.set();
                    self.patiently(start, &interrupt, call).await
                }
            }
        } else {
            self.patiently(start, &interrupt, call).await
        };
        interrupt.clear();
        if outcome.is_err() {
            self.history.lock().disturbed.insert(start);
        }
        if let Err(error) = &outcome {
            self.may_fail(start, error);
        }
        drop(calling);
        Ok(outcome?)
    }

    async fn patiently<T>(
        &self,
        start: u64,
        interrupt: &Interrupt,
        mut call: impl Future<Output = Result<T, RowError>> + Unpin,
    ) -> Result<T, RowError> {
        tokio::select! {
            biased;
            outcome = &mut call => return outcome,
            () = self.seams.sleep(PATIENCE) => {}
        }
        assert!(self.load.faults, "the transaction of age {start} waits for ever; {:?}", self.store.rows().status());
        interrupt.set();
        call.await
    }

    /// Judges an error that a client gets.
    fn may_fail(&self, start: u64, error: &RowError) {
        let mut history = self.history.lock();
        match error {
            RowError::Serialization => history.count("40001"),
            RowError::Cancelled => history.count("57014"),
            RowError::LockNotAvailable => history.count("55P03"),
            RowError::SnapshotTooOld => {
                assert!(self.load.too_old, "a snapshot is too old though there is room for undo");
                history.count("too old");
            }
            RowError::Deadlock { circle } => {
                history.count("40P01");
                let ages: Vec<u64> =
                    circle.split("; ").filter_map(|edge| edge.strip_prefix("transaction ")?.split(' ').next()?.parse().ok()).collect();
                assert!(ages.len() > 1 && ages.iter().max() == Some(&start), "{start} isn't the youngest of {circle}");
                let mut newest = history.calls[&start].since;
                for age in ages.iter().filter(|age| **age != start && !history.disturbed.contains(age)) {
                    // The victim has left its queue when it hears of it: others may have gone on.
                    let went_on = history.ended_calls.get(age).is_some_and(|at| self.seams.now().since(*at) < Duration::from_millis(1));
                    assert!(went_on || history.calls.contains_key(age), "transaction {age} doesn't wait at all: {circle}");
                    newest = newest.max(history.calls.get(age).map_or(newest, |call| call.since));
                }
                let late = self.seams.now().since(newest);
                assert!(late < Duration::from_secs(1), "a circle was found {late:?} after its last wait began: {circle}");
            }
            other => assert!(self.load.faults, "the transaction of age {start} failed: {other}"),
        }
    }

    async fn get(&self, tx: &mut Tx, random: &mut Random, cell: &Cell) -> Result<Option<Row>, Stop> {
        let found = self.call((tx.start, tx.interrupt.clone()), random, tx.inner.get(TreeId(cell.0), &cell.1)).await?;
        let value = found.as_ref().map(|row| row.value.clone());
        self.history.lock().read(tx.id, cell.clone(), tx.snapshot(), value);
        Ok(found)
    }

    /// Reads a range and holds every row of it against the history.
    async fn scan(
        &self,
        tx: &mut Tx,
        random: &mut Random,
        tree: u32,
        low: Vec<u8>,
        high: Vec<u8>,
        direction: Direction,
    ) -> Result<(), Stop> {
        let mut cursor = tx.inner.cursor(TreeId(tree), Bound::Included(low.clone()), Bound::Included(high.clone()), direction);
        let mut found: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut last: Option<Vec<u8>> = None;
        loop {
            let rows = self.call((tx.start, tx.interrupt.clone()), random, cursor.next(&tx.inner)).await?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                let in_order = last.as_ref().is_none_or(|last| (*last < row.key) == (direction == Direction::Up) && *last != row.key);
                assert!(in_order, "tree {tree}: {:02x?} after {last:02x?}, going {direction:?}", row.key);
                last = Some(row.key.clone());
                found.insert(row.key, row.value);
            }
        }
        let mut history = self.history.lock();
        history.count("scans");
        let mut universe = history.universe(tree, &low, &high);
        universe.extend(found.keys().cloned());
        for key in universe {
            let value = found.get(&key).cloned();
            history.read(tx.id, (tree, key), tx.snapshot(), value);
        }
        Ok(())
    }

    /// Inserts a row.
    async fn insert(&self, tx: &mut Tx, random: &mut Random, cell: &Cell, value: &[u8]) -> Result<bool, Stop> {
        let done = self.call((tx.start, tx.interrupt.clone()), random, tx.inner.insert(TreeId(cell.0), &cell.1, value)).await?;
        let mut history = self.history.lock();
        match done {
            Inserted::Done => {
                tx.wrote = true;
                history.wrote(tx.id, cell.clone(), Some(value.to_vec()), false, None, None);
                Ok(true)
            }
            Inserted::Exists(row) => {
                history.count("23505");
                history.was_shown(tx.id, cell.clone(), row.value);
                Ok(false)
            }
        }
    }

    /// Inserts, updates, deletes or locks a row, deciding anew when it has moved. True when it did.
    pub async fn write(&self, tx: &mut Tx, random: &mut Random, cell: &Cell, deletes: bool) -> Result<bool, Stop> {
        self.statement(tx);
        let mut seen = self.get(tx, random, cell).await?;
        for _ in 0..20 {
            let value = tx.new_value(random, self.load.value_bytes.min(1600));
            let Some(row) = seen else { return self.insert(tx, random, cell, &value).await };
            let (tree, key, call) = (TreeId(cell.0), &cell.1, (tx.start, tx.interrupt.clone()));
            let conflict = if random.chance(0.1) { OnConflict::NoWait } else { OnConflict::Wait };
            let (new, is_lock): (Value, bool) = match random.below(100) {
                0..20 => (Some(row.value.clone()), true),
                20..45 if deletes => (None, false),
                _ => (Some(value), false),
            };
            let own = tx.inner.id().is_some() && self.history.lock().own(tx.id, cell).is_some();
            let changed = match &new {
                _ if is_lock => self.call(call, random, tx.inner.lock(tree, key, row.version, conflict)).await?,
                None => self.call(call, random, tx.inner.delete(tree, key, row.version)).await?,
                Some(value) => self.call(call, random, tx.inner.update(tree, key, row.version, value)).await?,
            };
            let mut history = self.history.lock();
            match changed {
                Changed::Done(_) => {
                    tx.wrote = true;
                    history.wrote(tx.id, cell.clone(), new, is_lock, Some(row.value), tx.if_repeatable());
                    return Ok(true);
                }
                Changed::Moved(now) => {
                    history.count("moved");
                    assert!(tx.isolation == Isolation::ReadCommitted && !own, "a row moved under transaction {}", tx.id);
                    if let Some(now) = &now {
                        history.was_shown(tx.id, cell.clone(), now.value.clone());
                    }
                    let Some(now) = now else { return Ok(false) };
                    seen = Some(now);
                }
            }
        }
        Ok(false)
    }

    /// The marker row of a transaction that changes something.
    pub async fn mark(&self, tx: &mut Tx) -> Result<(), RowError> {
        self.statement(tx);
        let cell = mark_of(tx.id);
        let done = tx.inner.insert(TreeId(MARKS), &cell.1, b"committed").await?;
        assert_eq!(done, Inserted::Done, "nobody else has this key");
        tx.wrote = true;
        self.history.lock().wrote(tx.id, cell, Some(b"committed".to_vec()), false, None, None);
        Ok(())
    }

    async fn back_to(&self, tx: &mut Tx, save: (Savepoint, u64)) -> Result<(), RowError> {
        tx.inner.rollback_to(save.0).await?;
        let mut history = self.history.lock();
        history.count("rollbacks to savepoints");
        history.rolled_back_to(tx.id, save.1);
        Ok(())
    }

    fn save(&self, tx: &Tx) -> (Savepoint, u64) {
        (tx.inner.savepoint(), self.history.lock().moment())
    }

    /// Rolls back to a savepoint; a first try may be given up.
    async fn step_back(&self, tx: &mut Tx, random: &mut Random) -> Result<(), Stop> {
        let Some(at) = (!tx.saves.is_empty()).then(|| random.index(tx.saves.len())) else { return Ok(()) };
        tx.saves.truncate(at + 1);
        let save = tx.saves[at];
        if random.chance(self.load.cuts) {
            let after = Duration::from_micros(random.below(300));
            tokio::select! {
                biased;
                done = tx.inner.rollback_to(save.0) => done?,
                () = self.seams.sleep(after) => self.history.lock().count("rollbacks given up"),
            }
        }
        Ok(self.back_to(tx, save).await?)
    }

    async fn lock_table(&self, tx: &mut Tx, random: &mut Random, table: u32, mode: TableLock) -> Result<(), Stop> {
        let conflict = if random.chance(0.1) { OnConflict::NoWait } else { OnConflict::Wait };
        self.call((tx.start, tx.interrupt.clone()), random, tx.inner.lock_table(table, mode, conflict)).await?;
        self.history.lock().locked_table(tx.id, table, mode);
        Ok(())
    }

    async fn make_tree(&self, tx: &mut Tx, random: &mut Random) -> Result<(), Stop> {
        self.statement(tx);
        let tree = self.call((tx.start, tx.interrupt.clone()), random, tx.inner.create_tree()).await?;
        assert!(tree.0 >= FIRST_MADE);
        tx.wrote = true;
        let name: Cell = (CATALOG, tree.0.to_be_bytes().to_vec());
        let rows: Vec<(Vec<u8>, Vec<u8>)> = (0..random.below(300))
            .map(|number: u64| (number.to_be_bytes().to_vec(), tx.new_value(random, self.load.value_bytes)))
            .collect();
        // Frozen rows would be seen by snapshots that don't see the tree's name; nobody looks there.
        self.call((tx.start, tx.interrupt.clone()), random, tx.inner.load(tree, &rows, random.clone().chance(0.5))).await?;
        {
            let mut history = self.history.lock();
            history.count("trees made");
            rows.into_iter().for_each(|(key, value)| history.wrote(tx.id, (tree.0, key), Some(value), false, None, None));
        }
        let value = tx.new_value(random, 8);
        let done = self.insert(tx, random, &name, &value).await?;
        assert!(done, "tree {tree} was made twice");
        Ok(())
    }

    /// Uses or drops a tree that someone has made.
    async fn use_tree(&self, tx: &mut Tx, random: &mut Random) -> Result<(), Stop> {
        let known = self.history.lock().universe(CATALOG, &[], &[0xff; 8]);
        let known: Vec<Vec<u8>> = known.into_iter().collect();
        if known.is_empty() {
            return Ok(());
        }
        let name: Cell = (CATALOG, random.pick(&known).clone());
        let tree = tree_named(&name).expect("names are numbers");
        let drops = random.chance(0.3);
        self.lock_table(tx, random, tree, if drops { TableLock::AccessExclusive } else { TableLock::RowExclusive }).await?;
        self.statement(tx);
        let Some(row) = self.get(tx, random, &name).await? else { return Ok(()) };
        if !drops {
            let key = random.below(300).to_be_bytes().to_vec();
            self.write(tx, random, &(tree, key), true).await?;
            self.statement(tx);
            return self.scan(tx, random, tree, Vec::new(), vec![0xff; 9], Direction::Up).await;
        }
        let changed = self.call((tx.start, tx.interrupt.clone()), random, tx.inner.delete(TreeId(CATALOG), &name.1, row.version)).await?;
        assert!(matches!(changed, Changed::Done(_)), "someone changed the name of a locked tree: {changed:?}");
        tx.wrote = true;
        self.history.lock().wrote(tx.id, name, None, false, Some(row.value), tx.if_repeatable());
        self.call((tx.start, tx.interrupt.clone()), random, tx.inner.drop_tree(TreeId(tree))).await?;
        self.history.lock().count("trees dropped");
        Ok(())
    }

    async fn step(&self, tx: &mut Tx, random: &mut Random) -> Result<(), Stop> {
        let number = random.below(self.load.keys);
        let cell: Cell = (CROWDED[(number % 2) as usize], key_of(number));
        if random.chance(self.load.tables) {
            use TableLock::{AccessExclusive, AccessShare, RowExclusive, RowShare, Share, ShareUpdateExclusive};
            let mode = *random.pick(&[AccessShare, RowShare, RowExclusive, ShareUpdateExclusive, Share, AccessExclusive]);
            let table = random.below(TABLES) as u32;
            return self.lock_table(tx, random, table, mode).await;
        }
        if random.chance(self.load.trees) && tx.isolation == Isolation::ReadCommitted {
            return if random.chance(0.4) { self.make_tree(tx, random).await } else { self.use_tree(tx, random).await };
        }
        match random.below(100) {
            0..15 => {
                tx.saves.push(self.save(tx));
                Ok(())
            }
            15..25 => self.step_back(tx, random).await,
            25..40 => {
                self.statement(tx);
                self.get(tx, random, &cell).await.map(drop)
            }
            40..50 => {
                self.statement(tx);
                let (one, other) = (key_of(number), key_of(random.below(self.load.keys)));
                let (low, high) = if one <= other { (one, other) } else { (other, one) };
                let direction = *random.pick(&[Direction::Up, Direction::Down]);
                self.scan(tx, random, cell.0, low, high, direction).await
            }
            _ => self.write(tx, random, &cell, true).await.map(drop),
        }
    }

    /// Steps, each with a savepoint before it; one that fails is undone, and sometimes ends it all. False when it must be rolled back.
    async fn steps(&self, tx: &mut Tx, random: &mut Random) -> bool {
        for _ in 0..1 + random.below(self.load.steps) {
            if self.load.pause_us > 0 {
                self.seams.sleep(Duration::from_micros(random.below(self.load.pause_us))).await;
            }
            let before = self.save(tx);
            let outcome = self.step(tx, random).await;
            if random.chance(0.3) {
                tx.inner.end_statement();
            }
            if let Err(stop) = outcome {
                if random.chance(0.4) || matches!(&stop, Stop::Failed(RowError::SnapshotTooOld)) {
                    return false;
                }
                tx.saves.retain(|save| save.1 <= before.1);
                if let Err(error) = self.back_to(tx, before).await {
                    assert!(self.load.faults, "a rollback failed: {error}");
                    return false;
                }
            }
        }
        true
    }

    /// Commits, noting it.
    ///
    /// # Errors
    /// As the store.
    pub async fn commit(&self, tx: Tx, random: &mut Random) -> Result<(), RowError> {
        let Tx { inner, id, .. } = tx;
        self.history.lock().committing(id);
        let cut = random.chance(self.load.cuts);
        let after = Duration::from_micros(random.below(*random.clone().pick(&[2, 300])));
        let outcome = tokio::select! {
            biased;
            outcome = inner.commit() => outcome,
            () = self.seams.sleep(after), if cut => {
                self.history.lock().count("commits given up");
                return Ok(());
            }
        };
        let scn = outcome?;
        self.history.lock().committed(id, scn);
        if scn.is_some() && self.store.storage().log().mode() == LogMode::Commit {
            self.media.mark(id);
        }
        Ok(())
    }

    /// Ends it in one of the ways that there are.
    async fn end(&self, mut tx: Tx, random: &mut Random, may_commit: bool) -> Result<(), RowError> {
        if may_commit && random.chance(self.load.commits) {
            let marked = if tx.wrote { self.mark(&mut tx).await } else { Ok(()) };
            match marked {
                Ok(()) => return self.commit(tx, random).await,
                Err(error) => assert!(self.load.faults, "a marker row can't be inserted: {error}"),
            }
        }
        self.history.lock().undone(tx.id);
        match random.below(3) {
            0 => drop(tx),
            1 if random.chance(self.load.cuts) => {
                let after = Duration::from_micros(random.below(300));
                tokio::select! {
                    biased;
                    done = tx.inner.rollback() => done?,
                    () = self.seams.sleep(after) => {}
                }
            }
            _ => tx.inner.rollback().await?,
        }
        Ok(())
    }

    async fn client(&self, seed: u64) {
        let mut random = Random::new(seed);
        for _ in 0..self.load.transactions {
            let isolation = *random.pick(&[Isolation::ReadCommitted, Isolation::RepeatableRead]);
            let mut tx = self.begin(isolation);
            let may_commit = self.steps(&mut tx, &mut random).await;
            if let Err(error) = self.end(tx, &mut random, may_commit).await {
                assert!(self.load.faults, "an end failed: {error}");
            }
            if random.chance(0.05) {
                let tree = *random.pick(&FIXED);
                if let Err(error) = self.store.rows().vacuum(TreeId(tree), &Interrupt::default()).await {
                    assert!(self.load.faults, "a vacuum failed: {error}");
                }
            }
        }
    }

    /// Changes many rows in one transaction, with savepoints, and ends it in any way.
    async fn long_client(&self, seed: u64) {
        let mut random = Random::new(seed);
        for _ in 0..2 {
            let mut tx = self.begin(Isolation::ReadCommitted);
            let mut may_commit = true;
            for step in 0..self.load.long {
                if step % 50 == 49 && random.chance(0.3) {
                    tx.saves.push(self.save(&tx));
                }
                let cell: Cell = (LONG, random.below(self.load.long).to_be_bytes().to_vec());
                let before = self.save(&tx);
                let failed = self.write(&mut tx, &mut random, &cell, true).await.is_err();
                if failed && self.back_to(&mut tx, before).await.is_err() {
                    assert!(self.load.faults, "a rollback failed");
                    may_commit = false;
                    break;
                }
                if random.chance(0.003) && self.step_back(&mut tx, &mut random).await.is_err() {
                    assert!(self.load.faults, "a rollback failed");
                    may_commit = false;
                    break;
                }
            }
            if let Err(error) = self.end(tx, &mut random, may_commit).await {
                assert!(self.load.faults, "an end failed: {error}");
            }
        }
    }

    /// Runs the clients to their ends.
    pub async fn run(&self, seed: u64) {
        let mut random = Random::new(seed);
        let (tell, mut done) = tokio::sync::mpsc::unbounded_channel::<()>();
        for client in 0..self.load.clients + u64::from(self.load.long > 0) {
            let (subject, seed, tell) = (self.clone(), random.bits(), tell.clone());
            let task = async move {
                if client < subject.load.clients {
                    subject.client(seed).await
                } else {
                    subject.long_client(seed).await
                }
                drop((subject, tell));
            };
            self.seams.spawn("client", Box::pin(task));
        }
        drop(tell);
        while done.recv().await.is_some() {}
    }
}
