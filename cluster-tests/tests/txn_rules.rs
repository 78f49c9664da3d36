//! Rules 13, 18 and 19 for transactions, where random runs reach them too rarely: each test breaks one on purpose.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cluster_tests::txn_load::{CROWDED, LONG};
use cluster_tests::txn_model::Rows;
use cluster_tests::txn_world::{prepare, quiet, raw, visible};
use cluster_tests::world::{REDO, open, small, sound};
use parking_lot::Mutex;
use regroup::base::options::Options;
use regroup::base::sim::Sim;
use regroup::base::{Random, Seams, ThreadId, TreeId};
use regroup::disk::memory::{Fault, FaultKind, MemoryMedia, Operation};
use regroup::node::store::Store;
use regroup::table::rows::{Changed, Inserted, Interrupt, Isolation, OnConflict, RowError, TableLock, Transaction};
use regroup::txn::book::Book;
use regroup::txn::waits::{WaitError, Waits};

const TREE: TreeId = TreeId(CROWDED[0]);
/// Transactions that may have changes at once.
const SLOTS: usize = 2048;

fn begin(store: &Store, isolation: Isolation) -> Transaction {
    let mut tx = store.rows().begin(isolation, Interrupt::default());
    tx.begin_statement();
    tx
}

fn rc(store: &Store) -> Transaction {
    begin(store, Isolation::ReadCommitted)
}

async fn put(tx: &mut Transaction, tree: TreeId, key: &[u8], value: &[u8]) {
    tx.begin_statement();
    match tx.get(tree, key).await.expect("a row can be read") {
        None => assert_eq!(tx.insert(tree, key, value).await, Ok(Inserted::Done)),
        Some(row) => assert!(matches!(tx.update(tree, key, row.version, value).await, Ok(Changed::Done(_)))),
    }
}

async fn see(store: &Store, key: &[u8]) -> Option<Vec<u8>> {
    rc(store).get(TREE, key).await.expect("a row can be read").map(|row| row.value)
}

/// Opens the store of `media`, lets `run` use it, and pulls the plug.
fn life<F: Future<Output = ()>>(media: &MemoryMedia, seed: u64, options: &Options, run: impl FnOnce(Seams, Arc<Store>) -> F) {
    let sim = Sim::new(seed).step_limit(100_000_000);
    sim.run(async {
        let store = open(&sim.runtime(), media, options).await.expect("the store can be opened");
        run(sim.runtime(), store).await;
    });
    media.crash(seed);
    sim.kill_all();
}

/// What a call gives within a millisecond; nothing if it still waits then.
async fn soon<T>(seams: &Seams, call: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = call => Some(done),
        () = seams.sleep(Duration::from_millis(1)) => None,
    }
}

#[test]
fn rule_13_what_anyone_has_seen_survives() {
    // The log is slow: a commit is on its way for long. Whoever sees it pulls the plug at once.
    for seed in 0..20 {
        let media = prepare(seed);
        life(&media, seed, &small(), |seams, store| {
            let media = media.clone();
            async move {
                media.inject(Fault::new(FaultKind::Slow(30)).on(Operation::Write).file(REDO).forever());
                let writer = store.clone();
                let task = async move {
                    for number in 1..10u8 {
                        let mut tx = rc(&writer);
                        put(&mut tx, TREE, b"a", &[number]).await;
                        put(&mut tx, TREE, b"b", &[number]).await;
                        tx.commit().await.expect("a commit is possible");
                    }
                };
                seams.spawn("writer", Box::pin(task));
                let mut random = Random::new(seed);
                let least = 1 + random.below(4) as u8;
                loop {
                    seams.sleep(Duration::from_micros(200 + random.below(3000))).await;
                    if let Some(seen) = see(&store, b"a").await.filter(|seen| seen[0] >= least) {
                        media.mark(seen[0].into());
                        *SEEN.lock() = seen[0];
                        return;
                    }
                }
            }
        });
        media.clear_faults();
        let seen = *SEEN.lock();
        life(&media, seed, &small(), |_, store| async move {
            let (one, other) = (see(&store, b"a").await, see(&store, b"b").await);
            assert_eq!(one, other, "seed {seed}: half a commit");
            assert!(one.is_some_and(|one| one[0] >= seen), "seed {seed}: {seen} was seen, and is gone");
        });
    }
}

static SEEN: Mutex<u8> = Mutex::new(0);

#[test]
fn rule_18_a_loser_is_undone_by_any_number_of_rollers() {
    // Two writers undo it on the spot, in any order, while the background does the same.
    for seed in 0..30 {
        let media = prepare(seed);
        life(&media, seed, &small(), |_, store| async move {
            let mut first = rc(&store);
            for key in 0..40u8 {
                put(&mut first, TREE, &[key], b"first").await;
            }
            first.commit().await.expect("a commit is possible");
            let mut loser = rc(&store);
            for round in 0..4u8 {
                for key in 0..60u8 {
                    put(&mut loser, TREE, &[key], &[round; 100]).await;
                }
            }
            for key in (0..60u8).step_by(3) {
                let row = loser.get(TREE, &[key]).await.expect("it can be read").expect("it is there");
                assert!(matches!(loser.delete(TREE, &[key], row.version).await, Ok(Changed::Done(_))));
            }
            let mut other = rc(&store);
            put(&mut other, TREE, b"other", b"makes it durable").await;
            other.commit().await.expect("a commit is possible");
            std::mem::forget(loser);
        });
        life(&media, seed, &small(), |seams, store| async move {
            assert!(store.rows().status().losers == 1);
            let (tell, mut done) = tokio::sync::mpsc::unbounded_channel::<()>();
            let written = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
            for client in 0..2u64 {
                let (store, tell, second) = (store.clone(), tell.clone(), written.clone());
                let mut random = Random::new(seed * 2 + client);
                let task = async move {
                    for _ in 0..30 {
                        let key = [random.below(60) as u8];
                        let mut tx = rc(&store);
                        let row = tx.get(TREE, &key).await.expect("it can be read");
                        let seen = row.as_ref().map(|row| row.value.clone());
                        let was = (key[0] < 40).then(|| b"first".to_vec());
                        assert!(seen == was || seen.as_deref() == Some(b"second"), "seed {seed}: {seen:?}");
                        let done = match row {
                            None => matches!(tx.insert(TREE, &key, b"second").await, Ok(Inserted::Done)),
                            Some(row) => matches!(tx.update(TREE, &key, row.version, b"second").await, Ok(Changed::Done(_))),
                        };
                        // What is committed over a loser's row stays, whoever comes late to undo it.
                        if done && random.chance(0.5) {
                            tx.commit().await.expect("a commit is possible");
                            second.lock().insert(key[0]);
                        } else {
                            tx.rollback().await.expect("a rollback is possible");
                        }
                    }
                    drop((store, tell));
                };
                seams.spawn("roller", Box::pin(task));
            }
            drop(tell);
            while done.recv().await.is_some() {}
            quiet(&store, &seams, "after all rollers").await;
            let (rows, _) = raw(&store, &[TREE.0]).await.expect("the tree can be read");
            let second = written.lock().clone();
            for key in 0..60u8 {
                let expected = if second.contains(&key) { Some(&b"second"[..]) } else { (key < 40).then_some(&b"first"[..]) };
                assert_eq!(rows.get(&(TREE.0, vec![key])).map(|value| &value[..]), expected, "seed {seed}, key {key}");
            }
        });
    }
}

#[test]
fn rule_18_a_transaction_larger_than_ring_and_cache_commits_and_rolls_back() {
    let media = prepare(1);
    let tree = TreeId(LONG);
    let fill = async |store: &Store, tag: u8| {
        let mut tx = rc(store);
        for number in 0..3500u64 {
            let value = [tag; 1500];
            put(&mut tx, tree, &number.to_be_bytes(), &value).await;
        }
        tx
    };
    let holds = async |store: &Store, tag: u8, what: &str| {
        let rows: Rows = visible(store).await.expect("it can be read");
        assert_eq!(rows.len(), 3500, "{what}");
        assert!(rows.values().all(|value| value[0] == tag), "{what}");
    };
    life(&media, 1, &small(), |seams, store| async move {
        fill(&store, 1).await.commit().await.expect("a commit is possible");
        holds(&store, 1, "after the commit").await;
        let ring = store.storage().log().usage().1;
        let from = store.storage().log().appended().0;
        let updates = fill(&store, 2).await;
        assert!(store.storage().log().appended().0 - from > ring, "it is larger than the ring");
        updates.rollback().await.expect("a rollback is possible");
        quiet(&store, &seams, "after the rollback").await;
        holds(&store, 1, "after the rollback").await;
        let loser = fill(&store, 3).await;
        store.storage().log().force(store.storage().log().appended()).await.expect("the log goes on");
        std::mem::forget(loser);
    });
    // Undo is cut off twice.
    for (seed, millis) in [(2, 3), (3, 20)] {
        life(&media, seed, &small(), |seams, store| async move {
            holds(&store, 1, "while it is undone").await;
            seams.sleep(Duration::from_millis(millis)).await;
        });
    }
    life(&media, 4, &small(), |seams, store| async move {
        quiet(&store, &seams, "after the last crash").await;
        holds(&store, 1, "after the last crash").await;
        let (rows, _) = raw(&store, &[LONG]).await.expect("it can be read");
        assert!(rows.len() == 3500 && rows.values().all(|value| value[0] == 1));
        sound(&store, "after the last crash").await;
    });
}

#[test]
fn rule_19_when_the_slots_run_out_there_is_an_error_and_then_service_again() {
    let media = prepare(1);
    let key = |number: usize| (number as u64).to_be_bytes();
    life(&media, 1, &small(), |_, store| async move {
        let mut open = Vec::new();
        for number in 0..SLOTS {
            let mut tx = rc(&store);
            assert_eq!(tx.insert(TREE, &key(number), b"x").await, Ok(Inserted::Done), "{number}");
            open.push(tx);
        }
        let mut late = rc(&store);
        assert_eq!(late.insert(TREE, b"late", b"x").await, Err(RowError::TooManyTransactions { slots: SLOTS }));
        assert_eq!(late.get(TREE, b"late").await, Ok(None), "reading goes on");
        open.pop().expect("there are some").commit().await.expect("a commit is possible");
        assert_eq!(late.insert(TREE, b"late", b"x").await, Ok(Inserted::Done), "a slot is free again");
        late.rollback().await.expect("a rollback is possible");
        store.storage().log().force(store.storage().log().appended()).await.expect("the log goes on");
        open.into_iter().for_each(std::mem::forget);
    });
    life(&media, 2, &small(), |seams, store| async move {
        assert_eq!(store.rows().status().losers, SLOTS - 1);
        let found = visible(&store).await.expect("it can be read");
        assert_eq!(found.len(), 1);
        quiet(&store, &seams, "after all were undone").await;
        let mut open = Vec::new();
        for number in 0..SLOTS - 1 {
            let mut tx = rc(&store);
            assert_eq!(tx.insert(TREE, &key(number), b"x").await, Ok(Inserted::Done), "{number}");
            open.push(tx);
        }
    });
}

#[test]
fn rule_18_a_stale_undo_pointer_is_too_old_never_another_row() {
    let options = Options { undo_bytes_max: 1 << 20, ..small() };
    for seed in 0..4 {
        let media = prepare(seed);
        life(&media, seed, &options, |_, store| async move {
            let mut random = Random::new(seed);
            let mut setup = rc(&store);
            for key in 0..50u8 {
                put(&mut setup, TREE, &[key], &[key; 30]).await;
            }
            setup.commit().await.expect("a commit is possible");
            let old = begin(&store, Isolation::RepeatableRead);
            let (mut kept, mut too_old) = (0, 0);
            for round in 0..1800u64 {
                let mut tx = rc(&store);
                // Records of all lengths, so that slots of a page used again stand for other rows.
                let key = [random.below(25) as u8 + if round > 1200 { 25 } else { 0 }];
                let mut value = vec![0; 100 + random.index(1700)];
                random.bytes(&mut value);
                put(&mut tx, TREE, &key, &value).await;
                if random.chance(0.2) {
                    tx.rollback().await.expect("possible")
                } else {
                    let _ = tx.commit().await.expect("possible");
                }
                if round % 20 == 0 {
                    let key = random.below(50) as u8;
                    match old.get(TREE, &[key]).await {
                        Ok(row) => {
                            assert_eq!(row.expect("it was there").value, [key; 30], "seed {seed}: another row");
                            kept += 1;
                        }
                        Err(RowError::SnapshotTooOld) => too_old += 1,
                        Err(other) => panic!("seed {seed}: {other}"),
                    }
                }
            }
            assert!(kept > 5 && too_old > 5, "seed {seed}: {kept} kept, {too_old} too old");
        });
    }
}

#[test]
fn rule_18_locks_let_go_by_others_dont_move_a_row_of_repeatable_read() {
    // The row was seen under one lock that had been let go; a later one, let go too, made its version another one.
    let media = prepare(1);
    life(&media, 1, &small(), |_, store| async move {
        let mut setup = rc(&store);
        put(&mut setup, TREE, b"a", b"0").await;
        setup.commit().await.expect("a commit is possible");
        let lock = async || {
            let mut tx = rc(&store);
            let row = tx.get(TREE, b"a").await.expect("it can be read").expect("it is there");
            assert!(matches!(tx.lock(TREE, b"a", row.version, OnConflict::Wait).await, Ok(Changed::Done(_))));
            tx.commit().await.expect("a commit is possible");
        };
        lock().await;
        let mut reader = begin(&store, Isolation::RepeatableRead);
        let seen = reader.get(TREE, b"a").await.expect("it can be read").expect("it is there");
        lock().await;
        lock().await;
        let changed = reader.update(TREE, b"a", seen.version, b"1").await;
        assert!(matches!(changed, Ok(Changed::Done(_))), "{changed:?}");
        reader.commit().await.expect("a commit is possible");
        assert_eq!(see(&store, b"a").await, Some(b"1".to_vec()));
    });
}

#[test]
fn rule_18_a_trees_number_is_never_given_again() {
    // A loser's record of a tree that never came to be, or is gone, dropped the tree that got its number.
    let media = prepare(1);
    let numbers = Arc::new(Mutex::new(BTreeMap::new()));
    for seed in 0..6 {
        let numbers = numbers.clone();
        life(&media, seed, &small(), |seams, store| async move {
            let mut tx = rc(&store);
            let mut trees = Vec::new();
            for _ in 0..if seed == 2 { 150 } else { 3 } {
                let tree = tx.create_tree().await.expect("a tree can be made");
                assert_eq!(numbers.lock().insert(tree, seed), None, "{tree} is given again");
                trees.push(tree);
            }
            quiet_but(&store, &seams).await;
            let there: Vec<TreeId> = store.trees().trees().await.expect("they can be listed").into_iter().map(|(tree, _)| tree).collect();
            assert!(trees.iter().all(|tree| there.contains(tree)), "a loser's undo dropped a new tree");
            store.storage().log().force(store.storage().log().appended()).await.expect("the log goes on");
            if seed % 2 == 0 {
                std::mem::forget(tx);
            } else {
                tx.rollback().await.expect("a rollback is possible");
                // Also that they are gone survives: nothing but a note tells that these numbers were given.
                store.storage().log().force(store.storage().log().appended()).await.expect("the log goes on");
            }
        });
    }
}

/// Waits until losers are undone.
async fn quiet_but(store: &Store, seams: &Seams) {
    while store.rows().status().losers > 0 {
        seams.sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn rule_19_a_place_in_a_queue_is_given_up_with_the_call() {
    let media = prepare(1);
    life(&media, 1, &small(), |seams, store| async move {
        let mut setup = rc(&store);
        put(&mut setup, TREE, b"a", b"0").await;
        setup.commit().await.expect("a commit is possible");
        let mut holder = rc(&store);
        put(&mut holder, TREE, b"a", b"1").await;
        let mut gives_up = rc(&store);
        let row = gives_up.get(TREE, b"a").await.expect("it can be read").expect("it is there");
        assert!(soon(&seams, gives_up.update(TREE, b"a", row.version, b"2")).await.is_none());
        let mut next = rc(&store);
        let mut waiting = pin!(next.update(TREE, b"a", row.version, b"3"));
        assert!(soon(&seams, &mut waiting).await.is_none());
        holder.rollback().await.expect("a rollback is possible");
        // The one before it is still open, but no longer stands in line.
        let done = soon(&seams, waiting).await;
        assert!(matches!(done, Some(Ok(Changed::Done(_)))), "{done:?}");
        drop(gives_up);
    });
}

#[test]
fn rule_19_a_table_got_at_the_moment_of_giving_up_is_given_back() {
    let media = prepare(1);
    life(&media, 1, &small(), |seams, store| async move {
        let mut reader = rc(&store);
        reader.lock_table(1, TableLock::AccessShare, OnConflict::Wait).await.expect("it is free");
        let mut owner = rc(&store);
        {
            let mut asking = Box::pin(owner.lock_table(1, TableLock::AccessExclusive, OnConflict::Wait));
            assert!(soon(&seams, &mut asking).await.is_none());
            // Granted here, before anyone hears of it.
            reader.commit().await.expect("a commit is possible");
        }
        drop(owner);
        let mut next = rc(&store);
        assert_eq!(next.lock_table(1, TableLock::AccessShare, OnConflict::NoWait).await, Ok(()));
    });
}

#[test]
fn rule_19_only_real_circles_are_found_and_the_youngest_goes() {
    let book = Arc::new(Book::<()>::new(ThreadId(1), Arc::new(AtomicU64::new(10)), SLOTS, 1, &[]));
    let (old, young, third) = (book.begin(), book.begin(), book.begin());
    let (waits, interrupt) = (Waits::default(), Interrupt::default());
    let mut context = Context::from_waker(Waker::noop());
    let mut young_waits = Box::pin(waits.row(&young, TREE, b"a", &old, &interrupt));
    assert!(young_waits.as_mut().poll(&mut context).is_pending());
    let mut third_waits = Box::pin(waits.row(&third, TREE, b"a", &old, &interrupt));
    assert!(third_waits.as_mut().poll(&mut context).is_pending());
    // The older one goes back to a savepoint: its row is free, though the younger one hasn't looked yet.
    waits.rows_freed(&old);
    let mut old_waits = Box::pin(waits.row(&old, TREE, b"b", &young, &interrupt));
    assert!(old_waits.as_mut().poll(&mut context).is_pending());
    assert_eq!(young_waits.as_mut().poll(&mut context), Poll::Ready(Ok(())));
    // It looks, and finds the row taken by the older one again: now there is a circle.
    let mut young_again = Box::pin(waits.row(&young, TREE, b"a", &old, &interrupt));
    let found = young_again.as_mut().poll(&mut context);
    assert!(matches!(found, Poll::Ready(Err(WaitError::Deadlock { .. }))), "{found:?}");
    // The third one has moved up, and stands before nobody's holder but the old one.
    assert_eq!(third_waits.as_mut().poll(&mut context), Poll::Ready(Ok(())));
    // One that stands further back is part of circles, though it has been let know as the head was: it is not its turn.
    let (barger, behind) = (book.begin(), book.begin());
    let mut third_again = Box::pin(waits.row(&third, TREE, b"a", &old, &interrupt));
    assert!(third_again.as_mut().poll(&mut context).is_pending());
    let mut behind_waits = Box::pin(waits.row(&behind, TREE, b"a", &old, &interrupt));
    assert!(behind_waits.as_mut().poll(&mut context).is_pending());
    waits.rows_freed(&old);
    assert_eq!(third_again.as_mut().poll(&mut context), Poll::Ready(Ok(())));
    let mut third_last = Box::pin(waits.row(&third, TREE, b"a", &barger, &interrupt));
    assert!(third_last.as_mut().poll(&mut context).is_pending());
    let mut barger_waits = Box::pin(waits.row(&barger, TREE, b"c", &behind, &interrupt));
    assert!(barger_waits.as_mut().poll(&mut context).is_pending());
    let found = behind_waits.as_mut().poll(&mut context);
    assert!(matches!(found, Poll::Ready(Err(WaitError::Deadlock { .. }))), "{found:?}");
    assert!(old_waits.as_mut().poll(&mut context).is_pending());
}

#[test]
fn rule_18_undo_is_kept_for_the_oldest_snapshot() {
    let media = prepare(1);
    life(&media, 1, &small(), |seams, store| async move {
        let mut setup = rc(&store);
        for key in 0..20u8 {
            put(&mut setup, TREE, &[key], &[key; 30]).await;
        }
        setup.commit().await.expect("a commit is possible");
        let old = begin(&store, Isolation::RepeatableRead);
        for round in 0..400u64 {
            let mut tx = rc(&store);
            let key = [(round % 20) as u8];
            if round >= 380 && key[0] < 10 {
                let row = tx.get(TREE, &key).await.expect("it can be read").expect("it is there");
                assert!(matches!(tx.delete(TREE, &key, row.version).await, Ok(Changed::Done(_))));
            } else {
                put(&mut tx, TREE, &key, &[99; 1000]).await;
            }
            tx.commit().await.expect("a commit is possible");
        }
        assert_eq!(store.rows().vacuum(TREE, &Interrupt::default()).await, Ok((10, 10)), "deletions that a snapshot doesn't see stay");
        for key in 0..20u8 {
            let row = old.get(TREE, &[key]).await.unwrap_or_else(|error| panic!("key {key}: {error}"));
            assert_eq!(row.map(|row| row.value), Some(vec![key; 30]), "key {key}");
        }
        drop(old);
        quiet(&store, &seams, "after the old snapshot").await;
        assert_eq!(store.rows().vacuum(TREE, &Interrupt::default()).await, Ok((0, 0)));
    });
}

#[test]
fn rule_18_a_scan_never_takes_a_row_rolled_back_meanwhile_for_a_committed_one() {
    // The cursor has a copy of the leaf; while it fetches the history of one row, the others are rolled back.
    for seed in 0..20 {
        let media = prepare(seed);
        life(&media, seed, &small(), |seams, store| async move {
            let mut setup = rc(&store);
            for key in 0..60u8 {
                put(&mut setup, TREE, &[key], b"first").await;
            }
            setup.commit().await.expect("a commit is possible");
            let mut random = Random::new(seed);
            for _ in 0..10 {
                let mut undone = rc(&store);
                for key in 0..60u8 {
                    put(&mut undone, TREE, &[key], b"never").await;
                }
                // Its undo goes out of the cache, so that looking for it takes time.
                let mut filler = rc(&store);
                for number in 0..900u64 {
                    put(&mut filler, TreeId(LONG), &number.to_be_bytes(), &[7; 1800]).await;
                }
                filler.commit().await.expect("a commit is possible");
                let reader = begin(&store, Isolation::ReadCommitted);
                let after = Duration::from_micros(random.below(400));
                let sleeper = seams.clone();
                let task = async move {
                    sleeper.sleep(after).await;
                    undone.rollback().await.expect("a rollback is possible");
                };
                seams.spawn("rollback", Box::pin(task));
                let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
                let mut cursor = reader.cursor(TREE, all.0, all.1, regroup::table::Direction::Up);
                let rows = cursor.next(&reader).await.expect("it can be read");
                assert!(!rows.is_empty() && rows.iter().all(|row| row.value == b"first"), "seed {seed}");
            }
        });
    }
}
