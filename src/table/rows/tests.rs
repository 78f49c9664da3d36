//! Rows under transactions, on a simulated disk.

mod instances;

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::{Changed, Inserted, Interrupt, Isolation, OnConflict, Row, RowError, Rows, TableLock, Transaction};
use crate::base::options::Options;
use crate::base::sim::Sim;
use crate::base::{Seams, TreeId};
use crate::disk::Disk;
use crate::disk::memory::{MemoryDisk, MemoryMedia};
use crate::table::Direction;
use crate::table::tests::harness::{self, Plan, Store};
use crate::txn::elsewhere::Alone;

const TREE: TreeId = TreeId(7);

async fn rows_of(seams: Seams, media: &MemoryMedia, options: &Options) -> (Store, Rows) {
    let open = || Arc::new(MemoryDisk::new(media, seams.clone())) as Arc<dyn Disk>;
    let store = harness::create(seams.clone(), open, Plan::default()).await;
    store.trees.create_tree(TREE).await.unwrap();
    let rows = Rows::open(store.trees.clone(), options, Arc::new(Alone)).await.unwrap();
    (store, rows)
}

fn with_rows<F: Future<Output = ()>>(seed: u64, options: Options, test: impl FnOnce(Seams, Store, Rows) -> F) {
    let sim = Sim::new(seed);
    let media = MemoryMedia::new(seed);
    sim.run(async {
        let (store, rows) = rows_of(sim.runtime(), &media, &options).await;
        test(sim.runtime(), store, rows.clone()).await;
        rows.close().await;
    });
}

fn begin(rows: &Rows, isolation: Isolation) -> Transaction {
    let mut txn = rows.begin(isolation, Interrupt::default());
    txn.begin_statement();
    txn
}

fn rc(rows: &Rows) -> Transaction {
    begin(rows, Isolation::ReadCommitted)
}

async fn put(txn: &mut Transaction, key: &str, value: &str) {
    match txn.get(TREE, key.as_bytes()).await.unwrap() {
        None => assert_eq!(txn.insert(TREE, key.as_bytes(), value.as_bytes()).await, Ok(Inserted::Done)),
        Some(row) => {
            let changed = txn.update(TREE, key.as_bytes(), row.version, value.as_bytes()).await.unwrap();
            assert!(matches!(changed, Changed::Done(_)));
        }
    }
}

async fn see(txn: &mut Transaction, key: &str) -> Option<String> {
    txn.begin_statement();
    txn.get(TREE, key.as_bytes()).await.unwrap().map(|row| String::from_utf8(row.value).unwrap())
}

async fn all(txn: &mut Transaction) -> Vec<String> {
    txn.begin_statement();
    let mut cursor = txn.cursor(TREE, Bound::Unbounded, Bound::Unbounded, Direction::Up);
    let mut found = Vec::new();
    loop {
        let rows = cursor.next(txn).await.unwrap();
        if rows.is_empty() {
            return found;
        }
        found.extend(
            rows.into_iter()
                .map(|Row { key, value, .. }| format!("{}={}", String::from_utf8(key).unwrap(), String::from_utf8(value).unwrap())),
        );
    }
}

#[test]
fn others_see_a_commit_whole_and_a_snapshot_keeps_what_it_saw() {
    with_rows(1, Options::default(), |_, _store, rows| async move {
        let mut one = rc(&rows);
        put(&mut one, "a", "1").await;
        put(&mut one, "b", "1").await;
        let mut old = begin(&rows, Isolation::RepeatableRead);
        assert_eq!(all(&mut old).await, Vec::<String>::new());
        assert_eq!(all(&mut one).await, ["a=1", "b=1"]);
        one.commit().await.unwrap();
        assert_eq!(all(&mut old).await, Vec::<String>::new());
        let mut middle = begin(&rows, Isolation::RepeatableRead);
        let mut two = rc(&rows);
        put(&mut two, "a", "2").await;
        let seen = two.get(TREE, b"b").await.unwrap().unwrap();
        assert!(matches!(two.delete(TREE, b"b", seen.version).await, Ok(Changed::Done(_))));
        assert_eq!(all(&mut two).await, ["a=2"]);
        assert_eq!(all(&mut middle).await, ["a=1", "b=1"]);
        two.commit().await.unwrap();
        assert_eq!((all(&mut old).await, all(&mut middle).await), (vec![], vec!["a=1".to_string(), "b=1".to_string()]));
        assert_eq!(all(&mut rc(&rows)).await, ["a=2"]);
    });
}

#[test]
fn savepoints_undo_exactly_what_came_after_them() {
    with_rows(2, Options::default(), |_, _store, rows| async move {
        let mut txn = rc(&rows);
        put(&mut txn, "a", "1").await;
        let first = txn.savepoint();
        put(&mut txn, "a", "2").await;
        put(&mut txn, "b", "2").await;
        let second = txn.savepoint();
        let seen = txn.get(TREE, b"a").await.unwrap().unwrap();
        txn.delete(TREE, b"a", seen.version).await.unwrap();
        assert_eq!(all(&mut txn).await, ["b=2"]);
        txn.rollback_to(second).await.unwrap();
        assert_eq!(all(&mut txn).await, ["a=2", "b=2"]);
        txn.rollback_to(first).await.unwrap();
        assert_eq!(all(&mut txn).await, ["a=1"]);
        put(&mut txn, "c", "3").await;
        txn.commit().await.unwrap();
        assert_eq!(all(&mut rc(&rows)).await, ["a=1", "c=3"]);
        let mut undone = rc(&rows);
        put(&mut undone, "a", "9").await;
        put(&mut undone, "d", "9").await;
        undone.rollback().await.unwrap();
        assert_eq!(all(&mut rc(&rows)).await, ["a=1", "c=3"]);
        let mut dropped = rc(&rows);
        put(&mut dropped, "a", "9").await;
        drop(dropped);
        assert_eq!(see(&mut rc(&rows), "a").await.unwrap(), "1");
    });
}

#[test]
fn a_writer_waits_for_the_row_and_then_decides_anew() {
    with_rows(3, Options::default(), |seams, _store, rows| async move {
        let mut setup = rc(&rows);
        put(&mut setup, "a", "0").await;
        setup.commit().await.unwrap();
        for (isolation, ends_in_commit) in [
            (Isolation::ReadCommitted, true),
            (Isolation::ReadCommitted, false),
            (Isolation::RepeatableRead, true),
            (Isolation::RepeatableRead, false),
        ] {
            let before = see(&mut rc(&rows), "a").await.unwrap();
            let mut holder = rc(&rows);
            put(&mut holder, "a", "held").await;
            let (rows2, order) = (rows.clone(), Arc::new(parking_lot::Mutex::new(Vec::new())));
            let done = order.clone();
            seams.spawn(
                "waiter",
                Box::pin(async move {
                    let mut waiter = begin(&rows2, isolation);
                    let seen = waiter.get(TREE, b"a").await.unwrap().unwrap();
                    let changed = waiter.update(TREE, b"a", seen.version, b"waited").await;
                    done.lock().push(changed);
                    waiter.rollback().await.unwrap();
                }),
            );
            seams.sleep(Duration::from_millis(50)).await;
            assert!(order.lock().is_empty(), "the row is held");
            match ends_in_commit {
                true => assert!(holder.commit().await.unwrap().is_some()),
                false => holder.rollback().await.unwrap(),
            }
            seams.sleep(Duration::from_millis(50)).await;
            let outcome = order.lock().pop().expect("the waiter went on");
            match (isolation, ends_in_commit) {
                (Isolation::ReadCommitted, true) => {
                    assert!(matches!(outcome, Ok(Changed::Moved(Some(row))) if row.value == b"held"));
                }
                (Isolation::RepeatableRead, true) => assert_eq!(outcome, Err(RowError::Serialization)),
                (_, false) => {
                    assert!(matches!(outcome, Ok(Changed::Done(_))));
                    assert_eq!(see(&mut rc(&rows), "a").await.unwrap(), before);
                }
            }
        }
    });
}

#[test]
fn a_circle_is_broken_at_once_by_its_youngest() {
    with_rows(4, Options::default(), |seams, _store, rows| async move {
        let mut setup = rc(&rows);
        put(&mut setup, "a", "0").await;
        put(&mut setup, "b", "0").await;
        setup.commit().await.unwrap();
        let (mut old, mut young) = (rc(&rows), rc(&rows));
        put(&mut old, "a", "old").await;
        put(&mut young, "b", "young").await;
        let failed = Arc::new(parking_lot::Mutex::new(None));
        let told = failed.clone();
        seams.spawn(
            "young",
            Box::pin(async move {
                let seen = young.get(TREE, b"a").await.unwrap().unwrap();
                *told.lock() = Some(young.update(TREE, b"a", seen.version, b"young").await);
                young.rollback().await.unwrap();
            }),
        );
        seams.sleep(Duration::from_millis(10)).await;
        let seen = old.get(TREE, b"b").await.unwrap().unwrap();
        let started = seams.now();
        assert!(matches!(old.update(TREE, b"b", seen.version, b"old").await, Ok(Changed::Done(_))));
        assert!(seams.now().since(started) < Duration::from_secs(1));
        assert!(matches!(failed.lock().take(), Some(Err(RowError::Deadlock { .. }))));
        old.commit().await.unwrap();
        assert_eq!(all(&mut rc(&rows)).await, ["a=old", "b=old"]);
    });
}

#[test]
fn locks_of_tables_exclude_and_wait_and_end() {
    with_rows(5, Options::default(), |seams, _store, rows| async move {
        let mut reader = rc(&rows);
        reader.lock_table(1, TableLock::AccessShare, OnConflict::Wait).await.unwrap();
        let mut owner = rc(&rows);
        let refused = owner.lock_table(1, TableLock::AccessExclusive, OnConflict::NoWait).await;
        assert_eq!(refused, Err(RowError::LockNotAvailable));
        let (rows2, got) = (rows.clone(), Arc::new(parking_lot::Mutex::new(false)));
        let told = got.clone();
        seams.spawn(
            "owner",
            Box::pin(async move {
                let mut owner = rc(&rows2);
                owner.lock_table(1, TableLock::AccessExclusive, OnConflict::Wait).await.unwrap();
                *told.lock() = true;
                owner.commit().await.unwrap();
            }),
        );
        seams.sleep(Duration::from_millis(10)).await;
        assert!(!*got.lock());
        // Behind the one who waits, not past him.
        let mut late = rc(&rows);
        assert_eq!(late.lock_table(1, TableLock::AccessShare, OnConflict::NoWait).await, Err(RowError::LockNotAvailable));
        reader.commit().await.unwrap();
        seams.sleep(Duration::from_millis(10)).await;
        assert!(*got.lock());
        late.lock_table(1, TableLock::AccessShare, OnConflict::NoWait).await.unwrap();
    });
}

#[test]
fn undo_is_used_again_and_a_snapshot_that_needs_it_says_so() {
    let options = Options { undo_bytes_max: 1 << 20, ..Options::default() };
    with_rows(6, options, |_, _store, rows| async move {
        let mut setup = rc(&rows);
        put(&mut setup, "a", "first").await;
        setup.commit().await.unwrap();
        let old = begin(&rows, Isolation::RepeatableRead);
        let filler = "x".repeat(1000);
        for round in 0..3000 {
            let mut txn = rc(&rows);
            put(&mut txn, "a", &format!("{round} {filler}")).await;
            txn.commit().await.unwrap();
        }
        assert!(rows.status().undo_pages < 200, "{:?}", rows.status());
        assert_eq!(old.get(TREE, b"a").await, Err(RowError::SnapshotTooOld));
        drop(old);
        let before = rows.status().undo_pages;
        for round in 0..1000 {
            let mut txn = rc(&rows);
            put(&mut txn, "a", &format!("{round} {filler}")).await;
            txn.commit().await.unwrap();
        }
        assert_eq!(rows.status().undo_pages, before);
    });
}

#[test]
fn deleted_rows_are_taken_out_and_trees_follow_their_transaction() {
    with_rows(7, Options::default(), |seams, store, rows| async move {
        let mut txn = rc(&rows);
        for number in 0..500 {
            put(&mut txn, &format!("{number:04}"), "x").await;
        }
        txn.commit().await.unwrap();
        let mut txn = rc(&rows);
        for number in 0..500 {
            let key = format!("{number:04}");
            let seen = txn.get(TREE, key.as_bytes()).await.unwrap().unwrap();
            txn.delete(TREE, key.as_bytes(), seen.version).await.unwrap();
        }
        let gone = txn.create_tree().await.unwrap();
        txn.load(gone, &[(b"k".to_vec(), b"v".to_vec())], false).await.unwrap();
        txn.rollback().await.unwrap();
        assert_eq!(all(&mut rc(&rows)).await.len(), 500);
        let trees = || async { store.trees.trees().await.unwrap().into_iter().map(|(tree, _)| tree).collect::<Vec<_>>() };
        assert!(!trees().await.contains(&gone));
        let mut txn = rc(&rows);
        for number in 0..500 {
            let key = format!("{number:04}");
            let seen = txn.get(TREE, key.as_bytes()).await.unwrap().unwrap();
            txn.delete(TREE, key.as_bytes(), seen.version).await.unwrap();
        }
        let kept = txn.create_tree().await.unwrap();
        assert!(kept > gone);
        txn.commit().await.unwrap();
        seams.sleep(Duration::from_secs(2)).await;
        assert_eq!(rows.status().garbage, 0);
        let whole = (Bound::Unbounded, Bound::Unbounded);
        assert_eq!(store.trees.range(TREE, whole, Direction::Up, 10).await.unwrap(), []);
        let mut txn = rc(&rows);
        txn.drop_tree(kept).await.unwrap();
        txn.rollback().await.unwrap();
        assert!(trees().await.contains(&kept));
        let mut txn = rc(&rows);
        txn.drop_tree(kept).await.unwrap();
        txn.commit().await.unwrap();
        seams.sleep(Duration::from_secs(1)).await;
        assert!(!trees().await.contains(&kept));
        assert!(store.trees.check(|_| {}).await.unwrap().is_sound());
    });
}
