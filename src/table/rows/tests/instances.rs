//! Rows of several instances: two at once over one cache, which is then a perfect one of many instances, and one after the other on the
//! same files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{OnceLock, Weak};

use super::*;
use crate::base::random::Random;
use crate::base::{BoxFuture, PageId, Scn, ThreadId};
use crate::table::rows::{Savepoint, Shared, undo_tree};
use crate::table::tests::harness::Files;
use crate::txn::TxnId;
use crate::txn::book::Live;
use crate::txn::elsewhere::Elsewhere;
use crate::txn::waits::WaitError;

/// The only other instance.
#[derive(Default)]
struct Peer(OnceLock<Weak<Shared>>);

impl Peer {
    fn rows(&self) -> Option<Rows> {
        self.0.get().and_then(Weak::upgrade).map(|shared| Rows { shared })
    }
}

impl Elsewhere for Peer {
    fn wait_end(&self, _waiter: Arc<Live>, txn: TxnId) -> BoxFuture<Result<(), WaitError>> {
        let rows = self.rows();
        Box::pin(async move {
            match rows {
                Some(rows) => rows.wait_ended(txn).await,
                None => return Err(WaitError::Unrecovered { txn }),
            }
            Ok(())
        })
    }

    fn oldest_snapshot(&self) -> Scn {
        self.rows().map_or(Scn(0), |rows| rows.oldest_snapshot())
    }
}

/// Two instances with one page of slots each, over one cache.
async fn two(store: &Store, options: &Options) -> [Rows; 2] {
    let peers = [Arc::new(Peer::default()), Arc::new(Peer::default())];
    let open = |at: usize| {
        let (trees, peer) = (store.trees.clone(), peers[at].clone());
        async move { Rows::open_for(trees, ThreadId(at as u16 + 1), options, peer, 1).await.unwrap() }
    };
    let rows = [open(0).await, open(1).await];
    for at in 0..2 {
        assert!(peers[at].0.set(Arc::downgrade(&rows[1 - at].shared)).is_ok());
    }
    rows
}

fn with_two<F: Future<Output = ()>>(seed: u64, options: Options, test: impl FnOnce(Seams, Store, [Rows; 2]) -> F) {
    with_two_in(seed, options, Plan::default(), test);
}

fn with_two_in<F: Future<Output = ()>>(seed: u64, options: Options, plan: Plan, test: impl FnOnce(Seams, Store, [Rows; 2]) -> F) {
    let sim = Sim::new(seed);
    let media = MemoryMedia::new(seed);
    sim.run(async {
        let open = || Arc::new(MemoryDisk::new(&media, sim.runtime())) as Arc<dyn Disk>;
        let store = harness::create(sim.runtime(), open, plan).await;
        store.trees.create_tree(TREE).await.unwrap();
        let rows = two(&store, &options).await;
        test(sim.runtime(), store, rows.clone()).await;
        for rows in rows {
            rows.close().await;
        }
    });
}

type Values = BTreeMap<String, String>;

/// A transaction of the model beside the real one.
struct Open {
    txn: Transaction,
    repeatable: bool,
    /// What was committed when its snapshot was taken, and how many commits that were.
    base: Option<(Values, u64)>,
    /// Its changes, in order.
    changes: Vec<(String, Option<String>)>,
    savepoints: Vec<(Savepoint, usize)>,
}

/// What is committed, and which commit touched each key last.
#[derive(Default)]
struct Model {
    committed: Values,
    touched: BTreeMap<String, u64>,
    commits: u64,
}

impl Open {
    fn begin(rows: &Rows, repeatable: bool) -> Open {
        let isolation = if repeatable { Isolation::RepeatableRead } else { Isolation::ReadCommitted };
        let txn = rows.begin(isolation, Interrupt::default());
        Open { txn, repeatable, base: None, changes: Vec::new(), savepoints: Vec::new() }
    }

    fn statement(&mut self, model: &Model) {
        self.txn.begin_statement();
        if !self.repeatable || self.base.is_none() {
            self.base = Some((model.committed.clone(), model.commits));
        }
    }

    fn sees(&self) -> Values {
        let mut values = self.base.clone().unwrap_or_default().0;
        for (key, value) in &self.changes {
            match value {
                Some(value) => drop(values.insert(key.clone(), value.clone())),
                None => drop(values.remove(key)),
            }
        }
        values
    }

    fn holds(&self, key: &str) -> bool {
        self.changes.iter().any(|(changed, _)| changed == key)
    }

    async fn check(&mut self, model: &Model, context: &str) {
        self.statement(model);
        let expected: Vec<String> = self.sees().iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(scan(&self.txn).await, expected, "{context}");
    }

    /// Changes `key`, which nobody else has; false when it must be rolled back.
    async fn change(&mut self, model: &Model, key: &str, value: Option<&str>) -> bool {
        self.statement(model);
        let seen = self.txn.get(TREE, key.as_bytes()).await.unwrap();
        let expected = self.sees().get(key).cloned();
        assert_eq!(seen.as_ref().map(|row| row.value.clone()), expected.map(String::into_bytes), "{key}");
        let since = self.base.as_ref().map_or(0, |(_, commits)| *commits);
        let newer = self.repeatable && !self.holds(key) && model.touched.get(key).is_some_and(|commit| *commit > since);
        let Some(seen) = seen else {
            let Some(value) = value else { return true };
            match self.txn.insert(TREE, key.as_bytes(), value.as_bytes()).await.unwrap() {
                Inserted::Done => self.changes.push((key.into(), Some(value.into()))),
                Inserted::Exists(row) => {
                    assert!(newer && !self.holds(key));
                    assert_eq!(Some(&String::from_utf8(row.value).unwrap()), model.committed.get(key));
                }
            }
            return true;
        };
        let done = match value {
            Some(value) => self.txn.update(TREE, key.as_bytes(), seen.version, value.as_bytes()).await,
            None => self.txn.delete(TREE, key.as_bytes(), seen.version).await,
        };
        match done {
            Ok(Changed::Done(_)) => assert!(!newer, "{key} has changed since the snapshot"),
            Err(RowError::Serialization) => {
                assert!(newer);
                return false;
            }
            // Its newest version is a deletion that was taken out since.
            Ok(Changed::Moved(None)) => {
                assert!(newer && !model.committed.contains_key(key));
                return false;
            }
            other => panic!("{key}: {other:?}"),
        }
        self.changes.push((key.into(), value.map(Into::into)));
        true
    }

    async fn commit(self, model: &mut Model) {
        self.txn.commit().await.unwrap();
        model.commits += 1;
        for (key, value) in self.changes {
            model.touched.insert(key.clone(), model.commits);
            match value {
                Some(value) => drop(model.committed.insert(key, value)),
                None => drop(model.committed.remove(&key)),
            }
        }
    }
}

async fn scan(txn: &Transaction) -> Vec<String> {
    let mut cursor = txn.cursor(TREE, Bound::Unbounded, Bound::Unbounded, Direction::Up);
    let mut found = Vec::new();
    loop {
        let rows = cursor.next(txn).await.unwrap();
        if rows.is_empty() {
            return found;
        }
        found.extend(
            rows.into_iter().map(|row| format!("{}={}", String::from_utf8(row.key).unwrap(), String::from_utf8(row.value).unwrap())),
        );
    }
}

/// One random step of some open transaction.
async fn step(rows: &[Rows], open: &mut Vec<Open>, model: &mut Model, random: &mut Random, number: usize) {
    let at = random.index(open.len());
    let key = format!("{:02}", random.below(40));
    match random.below(20) {
        0..=8 => {
            if open.iter().enumerate().any(|(other, txn)| other != at && txn.holds(&key)) {
                open[at].statement(model);
                if let Some(row) = open[at].txn.get(TREE, key.as_bytes()).await.unwrap() {
                    let locked = open[at].txn.lock(TREE, key.as_bytes(), row.version, OnConflict::NoWait).await;
                    assert_eq!(locked, Err(RowError::LockNotAvailable));
                }
                return;
            }
            let filler = "x".repeat(random.index(200));
            let value = random.chance(0.75).then(|| format!("{number}{filler}"));
            let mut txn = open.swap_remove(at);
            if txn.change(model, &key, value.as_deref()).await {
                open.push(txn);
            } else {
                txn.txn.rollback().await.unwrap();
            }
        }
        9 | 10 => {
            let mark = (open[at].txn.savepoint(), open[at].changes.len());
            open[at].savepoints.push(mark);
        }
        11 => {
            let txn = &mut open[at];
            if !txn.savepoints.is_empty() {
                let to = random.index(txn.savepoints.len());
                txn.savepoints.truncate(to + 1);
                let (savepoint, changes) = txn.savepoints[to];
                txn.txn.rollback_to(savepoint).await.unwrap();
                txn.changes.truncate(changes);
            }
        }
        12..=15 => open.swap_remove(at).commit(model).await,
        16 => open.swap_remove(at).txn.rollback().await.unwrap(),
        17 => {
            let vacuumed = random.pick(rows).vacuum(TREE, &Interrupt::default()).await.unwrap();
            assert!(vacuumed.1 <= vacuumed.0);
        }
        _ => open[at].check(model, &format!("step {number}")).await,
    }
}

#[test]
fn two_at_once_see_what_a_model_says_through_many_reuses_of_their_slots() {
    for seed in 0..12 {
        with_two(seed, Options::default(), |_, store, rows| async move {
            let mut random = Random::new(seed);
            let (mut model, mut open) = (Model::default(), Vec::new());
            // Snapshots kept through many reuses of slots.
            let mut old: Vec<Open> = Vec::new();
            for number in 0..4000 {
                while open.len() < 5 {
                    open.push(Open::begin(random.pick(&rows), random.chance(0.4)));
                }
                step(&rows, &mut open, &mut model, &mut random, number).await;
                if number % 400 == 200 {
                    let mut txn = Open::begin(random.pick(&rows), true);
                    txn.check(&model, "new").await;
                    old.push(txn);
                }
                if number % 100 == 0 {
                    for txn in &mut old {
                        txn.check(&model, &format!("seed {seed}, old snapshot, step {number}")).await;
                    }
                    if old.len() > 4 {
                        let at = random.index(old.len());
                        old.swap_remove(at).txn.commit().await.unwrap();
                    }
                }
            }
            assert!(model.commits > 300, "slots were reused: {}", model.commits);
            drop((open, old));
            let check = store.trees.check(|_| {}).await.unwrap();
            assert!(check.is_sound(), "{:?}", check.findings);
        });
    }
}

#[test]
fn a_writer_waits_for_another_instances_transaction_and_then_decides_anew() {
    with_two(1, Options::default(), |seams, _store, [one, two]| async move {
        for (isolation, ends_in_commit) in [
            (Isolation::ReadCommitted, true),
            (Isolation::ReadCommitted, false),
            (Isolation::RepeatableRead, true),
            (Isolation::RepeatableRead, false),
        ] {
            let mut setup = rc(&one);
            put(&mut setup, "a", "0").await;
            setup.commit().await.unwrap();
            let mut holder = rc(&one);
            put(&mut holder, "a", "held").await;
            let (two, told) = (two.clone(), Arc::new(parking_lot::Mutex::new(None)));
            let tell = told.clone();
            seams.spawn(
                "waiter",
                Box::pin(async move {
                    let mut waiter = begin(&two, isolation);
                    let seen = waiter.get(TREE, b"a").await.unwrap().unwrap();
                    assert_eq!(seen.value, b"0");
                    *tell.lock() = Some(waiter.update(TREE, b"a", seen.version, b"waited").await);
                    waiter.rollback().await.unwrap();
                }),
            );
            seams.sleep(Duration::from_millis(50)).await;
            assert!(told.lock().is_none(), "the row is held");
            match ends_in_commit {
                true => assert!(holder.commit().await.unwrap().is_some()),
                false => holder.rollback().await.unwrap(),
            }
            seams.sleep(Duration::from_millis(50)).await;
            let outcome = told.lock().take().expect("the waiter went on");
            match (isolation, ends_in_commit) {
                (Isolation::ReadCommitted, true) => assert!(matches!(outcome, Ok(Changed::Moved(Some(row))) if row.value == b"held")),
                (Isolation::RepeatableRead, true) => assert_eq!(outcome, Err(RowError::Serialization)),
                (_, false) => assert!(matches!(outcome, Ok(Changed::Done(_)))),
            }
        }
    });
}

#[test]
fn an_interrupt_ends_a_wait_for_another_instance() {
    with_two(2, Options::default(), |seams, _store, [one, two]| async move {
        let mut holder = rc(&one);
        put(&mut holder, "a", "held").await;
        let interrupt = Interrupt::default();
        let mut waiter = two.begin(Isolation::ReadCommitted, interrupt.clone());
        let later = seams.sleep(Duration::from_millis(20));
        seams.spawn(
            "interrupt",
            Box::pin(async move {
                later.await;
                interrupt.set();
            }),
        );
        waiter.begin_statement();
        assert_eq!(waiter.insert(TREE, b"a", b"mine").await, Err(RowError::Cancelled));
        holder.commit().await.unwrap();
    });
}

#[test]
fn a_snapshot_of_another_instance_keeps_undo_slots_and_deleted_rows() {
    with_two(3, Options::default(), |seams, _store, [one, two]| async move {
        let mut setup = rc(&one);
        for number in 0..50 {
            put(&mut setup, &format!("{number:02}"), "old").await;
        }
        setup.commit().await.unwrap();
        let mut old = begin(&two, Isolation::RepeatableRead);
        let before = all(&mut old).await;
        let mut deleted = rc(&one);
        for number in 0..25 {
            let key = format!("{number:02}");
            let seen = deleted.get(TREE, key.as_bytes()).await.unwrap().unwrap();
            deleted.delete(TREE, key.as_bytes(), seen.version).await.unwrap();
        }
        deleted.commit().await.unwrap();
        // Several times around all slots.
        for round in 0..600 {
            let mut txn = rc(&one);
            put(&mut txn, &format!("{:02}", 25 + round % 25), &format!("{round}")).await;
            txn.commit().await.unwrap();
        }
        seams.sleep(Duration::from_secs(1)).await;
        assert_eq!(one.vacuum(TREE, &Interrupt::default()).await, Ok((25, 25)));
        assert_eq!(two.vacuum(TREE, &Interrupt::default()).await, Ok((25, 25)));
        assert_eq!(all(&mut old).await, before);
        let pages = one.status().undo_pages;
        old.rollback().await.unwrap();
        assert_eq!(two.vacuum(TREE, &Interrupt::default()).await, Ok((25, 0)));
        for round in 0..600 {
            let mut txn = rc(&one);
            put(&mut txn, &format!("{:02}", 25 + round % 25), &format!("{round}")).await;
            txn.commit().await.unwrap();
        }
        assert!(one.status().undo_pages <= pages + 1, "undo is used again");
    });
}

#[test]
fn a_snapshot_whose_slots_history_was_taken_is_too_old_and_never_wrong() {
    let options = Options { undo_bytes_max: 1 << 20, ..Options::default() };
    with_two(4, options, |_, _store, [one, two]| async move {
        let mut setup = rc(&one);
        put(&mut setup, "a", "first").await;
        setup.commit().await.unwrap();
        let old = begin(&two, Isolation::RepeatableRead);
        let filler = "x".repeat(1000);
        for round in 0..3000 {
            let mut txn = rc(&one);
            put(&mut txn, "a", &format!("{round} {filler}")).await;
            txn.commit().await.unwrap();
        }
        assert_eq!(old.get(TREE, b"a").await, Err(RowError::SnapshotTooOld));
        drop(old);
        assert!(see(&mut rc(&two), "a").await.unwrap().starts_with("2999"));
    });
}

#[test]
fn a_snapshot_outlives_another_instances_restart() {
    with_two(8, Options::default(), |_, store, [one, two]| async move {
        for round in 0..100 {
            let mut txn = rc(&one);
            put(&mut txn, &format!("{:02}", round % 10), &format!("{round} {}", "x".repeat(500))).await;
            txn.commit().await.unwrap();
        }
        let mut old = begin(&two, Isolation::RepeatableRead);
        let before = all(&mut old).await;
        let mut txn = rc(&one);
        for key in 0..10 {
            put(&mut txn, &format!("{key:02}"), "new").await;
        }
        txn.commit().await.unwrap();
        one.close().await;
        drop(one);
        let peer = Arc::new(Peer::default());
        assert!(peer.0.set(Arc::downgrade(&two.shared)).is_ok());
        let one = Rows::open_for(store.trees.clone(), ThreadId(1), &Options::default(), peer, 1).await.unwrap();
        for round in 0..400 {
            let mut txn = rc(&one);
            put(&mut txn, &format!("{:02}", round % 10), &format!("{round} {}", "y".repeat(500))).await;
            txn.commit().await.unwrap();
        }
        assert_eq!(all(&mut old).await, before);
        one.close().await;
    });
}

#[test]
fn a_cursor_sees_with_the_snapshot_of_each_statement() {
    with_two(9, Options::default(), |_, _store, [one, two]| async move {
        let filler = "x".repeat(500);
        let mut txn = rc(&one);
        for key in 0..100 {
            put(&mut txn, &format!("{key:03}"), &format!("old {filler}")).await;
        }
        txn.commit().await.unwrap();
        let mut reader = rc(&two);
        let mut cursor = reader.cursor(TREE, Bound::Unbounded, Bound::Unbounded, Direction::Up);
        let mut txn = rc(&one);
        for key in 0..100 {
            put(&mut txn, &format!("{key:03}"), &format!("new {filler}")).await;
        }
        txn.commit().await.unwrap();
        let mut pages = Vec::new();
        loop {
            let rows = cursor.next(&reader).await.unwrap();
            if rows.is_empty() {
                break;
            }
            let words: BTreeSet<Vec<u8>> = rows.into_iter().map(|row| row.value[..3].to_vec()).collect();
            pages.push(words.into_iter().map(|word| String::from_utf8(word).unwrap()).collect::<Vec<_>>().join(","));
            reader.begin_statement();
        }
        assert!(pages.len() > 2, "{pages:?}");
        assert_eq!(pages.remove(0), "old");
        assert!(pages.iter().all(|page| page == "new"), "{pages:?}");
    });
}

#[test]
fn a_durable_commit_is_published_before_its_slot_page_may_leave() {
    let plan = Plan { mode: crate::base::options::LogMode::Commit, ..Plan::default() };
    with_two_in(10, Options::default(), plan, |_, store, [one, _two]| async move {
        let mut setup = rc(&one);
        put(&mut setup, "a", "0").await;
        setup.commit().await.unwrap();
        let mut txn = rc(&one);
        put(&mut txn, "a", "1").await;
        let mut commit = Box::pin(txn.commit());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(commit.as_mut().poll(&mut context).is_pending());
        let log = store.cache.log().unwrap();
        one.publish_durable();
        assert_eq!(see(&mut rc(&one), "a").await.unwrap(), "0", "appended, not durable");
        // What is done before a page leaves. The commit's own task hasn't heard yet that the log is durable.
        log.force(log.appended()).await.unwrap();
        one.publish_durable();
        assert_eq!(see(&mut rc(&one), "a").await.unwrap(), "1");
        assert!(commit.await.unwrap().is_some());
    });
}

#[test]
fn no_tree_number_is_given_twice() {
    with_two(5, Options::default(), |_, store, rows| async move {
        let mut given = BTreeSet::new();
        for round in 0..20 {
            let (mut one, mut two) = (rc(&rows[0]), rc(&rows[1]));
            let trees = make_both(&mut one, &mut two).await;
            for tree in trees {
                assert!(given.insert(tree), "{tree} was given before");
            }
            if round % 2 == 0 {
                one.commit().await.unwrap();
                two.rollback().await.unwrap();
            } else {
                one.rollback().await.unwrap();
                two.commit().await.unwrap();
            }
        }
        let known: BTreeSet<TreeId> = store.trees.trees().await.unwrap().into_iter().map(|(tree, _)| tree).collect();
        assert_eq!(known.intersection(&given).count(), 20);
        assert!(known.contains(&undo_tree(ThreadId(1))) && known.contains(&undo_tree(ThreadId(2))));
    });
}

async fn make_both(one: &mut Transaction, two: &mut Transaction) -> [TreeId; 2] {
    let (one, two) = tokio::join!(one.create_tree(), two.create_tree());
    [one.unwrap(), two.unwrap()]
}

#[test]
fn a_row_of_nobody_is_an_error_that_names_it() {
    with_two(6, Options::default(), |_, store, rows| async move {
        for txn in [TxnId::new(ThreadId(1), 1 << 40), TxnId::new(ThreadId(3), 5), TxnId::new(ThreadId(999), 5)] {
            let header = crate::txn::undo::RowHeader { txn, ..Default::default() };
            let row = header.row(b"x");
            store.trees.apply(&[crate::table::Write::Put { tree: TREE, key: b"a", value: &row }]).await.unwrap();
            if txn.thread() == ThreadId(1) {
                // The instance itself takes an unknown number for an old one; another one asks the slot.
                assert_eq!(rc(&rows[1]).insert(TREE, b"a", b"y").await, Err(RowError::Foreign { tree: TREE, txn }));
                continue;
            }
            assert_eq!(rc(&rows[1]).get(TREE, b"a").await, Err(RowError::Foreign { tree: TREE, txn }));
            assert_eq!(rc(&rows[0]).insert(TREE, b"a", b"y").await, Err(RowError::Foreign { tree: TREE, txn }));
        }
    });
}

/// Instances that are up one after the other.
struct Turns {
    files: Files,
    media: MemoryMedia,
    seams: Seams,
}

impl Turns {
    async fn new(seed: u64, seams: Seams) -> Turns {
        let media = MemoryMedia::new(seed);
        let open = || Arc::new(MemoryDisk::new(&media, seams.clone())) as Arc<dyn Disk>;
        let files = Files::create(seams.clone(), open, Plan::default(), 2).await;
        let mut turns = Turns { files, media, seams };
        let (store, rows) = turns.open(1).await;
        store.trees.create_tree(TREE).await.unwrap();
        turns.close(store, rows).await;
        turns
    }

    async fn open(&mut self, thread: u16) -> (Store, Rows) {
        self.open_in(self.seams.clone(), thread).await
    }

    async fn open_in(&mut self, seams: Seams, thread: u16) -> (Store, Rows) {
        let disk = Arc::new(MemoryDisk::new(&self.media, seams.clone())) as Arc<dyn Disk>;
        let store = self.files.open(seams, disk, ThreadId(thread)).await;
        let rows = Rows::open_for(store.trees.clone(), ThreadId(thread), &Options::default(), Arc::new(Alone), 1).await.unwrap();
        (store, rows)
    }

    async fn close(&mut self, store: Store, rows: Rows) {
        rows.close().await;
        drop(rows);
        self.files.close(store).await;
    }
}

#[test]
fn one_after_the_other_reads_changes_and_takes_out_what_the_other_wrote() {
    for seed in 0..6 {
        let sim = Sim::new(seed);
        sim.run(async {
            let mut turns = Turns::new(seed, sim.runtime()).await;
            let (mut random, mut model) = (Random::new(seed), Model::default());
            let mut numbers = BTreeSet::new();
            for turn in 0..16 {
                let (store, rows) = turns.open(1 + turn % 2).await;
                Open::begin(&rows, true).check(&model, &format!("seed {seed}, turn {turn}")).await;
                let mut open = Vec::new();
                for number in 0..300 {
                    while open.len() < 4 {
                        open.push(Open::begin(&rows, random.chance(0.4)));
                    }
                    step(std::slice::from_ref(&rows), &mut open, &mut model, &mut random, number).await;
                    let mine = open.iter().filter_map(|txn| txn.txn.id());
                    numbers.extend(mine.filter(|txn| txn.thread() == ThreadId(1)).map(TxnId::number));
                }
                for txn in open {
                    txn.txn.rollback().await.unwrap();
                }
                let check = store.trees.check(|_| {}).await.unwrap();
                assert!(check.is_sound(), "{:?}", check.findings);
                turns.close(store, rows).await;
            }
            assert!(numbers.len() > 256, "slots were reused: {}", numbers.len());
        });
    }
}

#[test]
fn what_a_dead_instance_left_is_not_seen_and_not_touched_until_it_is_back() {
    let sim = Sim::new(9);
    sim.run(async {
        let mut turns = Turns::new(9, sim.runtime()).await;
        let process = sim.process("dies");
        let (store, rows) = turns.open_in(process.seams(), 1).await;
        let mut setup = rc(&rows);
        for key in ["a", "b", "c", "d"] {
            put(&mut setup, key, "old").await;
        }
        setup.commit().await.unwrap();
        let mut loser = rc(&rows);
        put(&mut loser, "a", "lost").await;
        let seen = loser.get(TREE, b"b").await.unwrap().unwrap();
        loser.delete(TREE, b"b", seen.version).await.unwrap();
        put(&mut loser, "e", "lost").await;
        let id = loser.id().unwrap();
        // Never ended: as a crash leaves it, but for the log, which isn't needed as all pages are written.
        turns.close(store, rows).await;
        process.kill();
        drop(loser);

        for _ in 0..2 {
            let (store, rows) = turns.open(2).await;
            assert_eq!(rows.status().losers, 0, "not its own");
            let mut txn = rc(&rows);
            assert_eq!(all(&mut txn).await, ["a=old", "b=old", "c=old", "d=old"]);
            for key in [b"a", b"b"] {
                let seen = txn.get(TREE, key).await.unwrap().unwrap();
                assert_eq!(txn.update(TREE, key, seen.version, b"new").await, Err(RowError::HeldElsewhere { txn: id }));
                assert_eq!(txn.lock(TREE, key, seen.version, OnConflict::NoWait).await, Err(RowError::LockNotAvailable));
            }
            assert_eq!(txn.insert(TREE, b"e", b"new").await, Err(RowError::HeldElsewhere { txn: id }));
            assert!(RowError::HeldElsewhere { txn: id }.to_string().contains("instance 1"));
            let seen = txn.get(TREE, b"c").await.unwrap().unwrap();
            assert!(matches!(txn.update(TREE, b"c", seen.version, b"old").await, Ok(Changed::Done(_))));
            txn.commit().await.unwrap();
            assert_eq!(rows.vacuum(TREE, &Interrupt::default()).await, Ok((1, 1)));
            turns.close(store, rows).await;
        }

        let (store, rows) = turns.open(1).await;
        sim.runtime().sleep(Duration::from_secs(1)).await;
        assert_eq!(rows.status().losers, 0, "undone");
        let mut txn = rc(&rows);
        put(&mut txn, "d", "new").await;
        txn.commit().await.unwrap();
        turns.close(store, rows).await;

        let (store, rows) = turns.open(2).await;
        let mut txn = rc(&rows);
        for key in ["a", "b", "e"] {
            put(&mut txn, key, "mine").await;
        }
        txn.commit().await.unwrap();
        assert_eq!(all(&mut rc(&rows)).await, ["a=mine", "b=mine", "c=old", "d=new", "e=mine"]);
        assert!(store.trees.check(|_| {}).await.unwrap().is_sound());
        turns.close(store, rows).await;
    });
}

#[test]
fn undo_pages_stay_where_their_thread_has_them() {
    with_two(7, Options::default(), |_, store, rows| async move {
        for (at, rows) in rows.iter().enumerate() {
            let mut txn = rc(rows);
            put(&mut txn, &format!("{at}"), "x").await;
            txn.commit().await.unwrap();
        }
        let pages = |thread| crate::table::rows::undo_pages(&store.trees, undo_tree(ThreadId(thread)));
        let (one, two) = (pages(1).await.unwrap(), pages(2).await.unwrap());
        let names = |pages: &[(crate::page::header::Kind, PageId)]| pages.iter().map(|(_, page)| *page).collect::<BTreeSet<_>>();
        assert_eq!((one.len(), two.len()), (2, 2));
        assert!(names(&one).is_disjoint(&names(&two)));
    });
}
