//! Many tasks at once, caches and files that are too small.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::harness::{Plan, Store, simulate};
use crate::base::runtime::join_all;
use crate::base::{BoxFuture, Random, TreeId};
use crate::table::{Direction, TableError, Write};

const TREE: TreeId = TreeId(1);

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Keys of different tasks lie between each other.
fn key_of(task: u64, number: u64) -> Vec<u8> {
    let mut key = number.to_be_bytes()[5..].to_vec();
    key.resize(3 + (number * 13 % 90) as usize, b'.');
    key.extend_from_slice(&task.to_be_bytes());
    key
}

async fn work(store: Arc<Store>, task: u64, seed: u64, rounds: u64) -> Model {
    let mut random = Random::new(seed * 100 + task);
    let mut model = Model::new();
    for round in 0..rounds {
        let key = key_of(task, random.below(300));
        if random.chance(if round < rounds / 2 { 0.8 } else { 0.3 }) {
            let value = vec![round as u8; random.index(700)];
            store.trees.apply(&[Write::Put { tree: TREE, key: &key, value: &value }]).await.unwrap();
            model.insert(key, value);
        } else {
            store.trees.apply(&[Write::Delete { tree: TREE, key: &key }]).await.unwrap();
            model.remove(&key);
        }
        if round % 50 == 49 {
            let direction = if random.chance(0.5) { Direction::Up } else { Direction::Down };
            let mut seen = store.trees.range(TREE, (Bound::Unbounded, Bound::Unbounded), direction, usize::MAX).await.unwrap();
            seen.retain(|(key, _)| key.ends_with(&task.to_be_bytes()));
            if direction == Direction::Down {
                seen.reverse();
            }
            assert!(seen.into_iter().eq(model.clone()), "task {task} sees its own keys");
        }
    }
    model
}

#[test]
fn many_tasks_beside_each_other() {
    for seed in 100..106 {
        simulate(seed, Plan { data_files: 3, ..Plan::default() }, move |store| async move {
            store.trees.create_tree(TREE).await.unwrap();
            let checks = {
                let store = store.clone();
                Box::pin(async move {
                    for _ in 0..10 {
                        assert_eq!(store.trees.check(|_| {}).await.unwrap().findings, []);
                    }
                    Model::new()
                }) as BoxFuture<Model>
            };
            let mut tasks: Vec<BoxFuture<Model>> = vec![checks];
            for task in 0..40 {
                tasks.push(Box::pin(work(store.clone(), task, seed, 150)));
            }
            let model: Model = join_all(tasks).await.into_iter().flatten().collect();
            let all = store.trees.range(TREE, (Bound::Unbounded, Bound::Unbounded), Direction::Up, usize::MAX).await.unwrap();
            assert!(all.into_iter().eq(model));
            assert_eq!(store.trees.check(|_| {}).await.unwrap().findings, []);
        });
    }
}

#[test]
fn data_twenty_times_the_cache() {
    simulate(200, Plan::default(), |store| async move {
        const KEYS: u64 = 36_000;
        let trees = &store.trees;
        trees.create_tree(TREE).await.unwrap();
        let mut random = Random::new(200);
        let mut order: Vec<u64> = (0..KEYS).collect();
        random.shuffle(&mut order);
        for number in &order {
            trees.apply(&[Write::Put { tree: TREE, key: &number.to_be_bytes(), value: &[*number as u8; 900] }]).await.unwrap();
        }
        let report = trees.check(|_| {}).await.unwrap();
        assert_eq!(report.findings, []);
        assert!(report.pages > 20 * 256, "{} pages", report.pages);
        for number in order.iter().take(3000) {
            assert_eq!(trees.get(TREE, &number.to_be_bytes()).await.unwrap(), Some(vec![*number as u8; 900]));
        }
        let all = trees.range(TREE, (Bound::Unbounded, Bound::Unbounded), Direction::Down, usize::MAX).await.unwrap();
        assert!(all.iter().rev().map(|(key, _)| key.clone()).eq((0..KEYS).map(|number| number.to_be_bytes().to_vec())));
    });
}

#[test]
fn full_files_say_so_and_take_more_once_something_is_deleted() {
    let plan = Plan { data_files: 2, data_pages: 100, grow: false, ..Plan::default() };
    simulate(300, plan, |store| async move {
        let trees = &store.trees;
        trees.create_tree(TREE).await.unwrap();
        let mut fill = Vec::new();
        for round in 0..3u32 {
            let mut number = 0u32;
            let error = loop {
                let write = Write::Put { tree: TREE, key: &number.to_be_bytes(), value: &[round as u8; 500] };
                match trees.apply(&[write]).await {
                    Ok(_) => number += 1,
                    Err(error) => break error,
                }
            };
            assert_eq!(error, TableError::Full { files: 2 });
            assert_eq!(trees.check(|_| {}).await.unwrap().findings, []);
            fill.push(number);
            for key in 0..number {
                trees.apply(&[Write::Delete { tree: TREE, key: &key.to_be_bytes() }]).await.unwrap();
            }
        }
        assert!(fill[0] > 2500 && fill.iter().all(|number| *number == fill[0]), "{fill:?}");
    });
}

#[test]
fn what_is_refused_changes_nothing() {
    simulate(400, Plan::default(), |store| async move {
        let trees = &store.trees;
        trees.create_tree(TREE).await.unwrap();
        let good = Write::Put { tree: TREE, key: b"a", value: b"b" };
        for (bad, why) in [
            (Write::Put { tree: TREE, key: &[1; 2001], value: b"" }, TableError::KeyTooLong { bytes: 2001 }),
            (
                Write::Put { tree: TREE, key: &[1; 1000], value: &[1; 1001] },
                TableError::ValueTooLarge { key_bytes: 1000, value_bytes: 1001 },
            ),
            (Write::Delete { tree: TreeId(9), key: b"" }, TableError::UnknownTree { tree: TreeId(9) }),
            (Write::Delete { tree: TreeId(0), key: b"" }, TableError::ReservedTree { tree: TreeId(0) }),
        ] {
            assert_eq!(trees.apply(&[good, bad]).await, Err(why));
        }
        assert_eq!(trees.get(TREE, b"a").await.unwrap(), None);
        assert_eq!(trees.create_tree(TREE).await, Err(TableError::TreeExists { tree: TREE }));
        assert_eq!(trees.drop_tree(TreeId(5)).await, Err(TableError::UnknownTree { tree: TreeId(5) }));
    });
}
