//! Keys put behind a tree's end, whole leaves at a time.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::harness::{Plan, simulate};
use crate::base::{Random, TreeId};
use crate::table::{Batch, Direction, Write};

const TREE: TreeId = TreeId(7);

fn batch(pairs: &[(Vec<u8>, Vec<u8>)]) -> Batch {
    let mut batch = Batch::default();
    pairs.iter().for_each(|(key, value)| batch.push(key, value));
    batch
}

#[test]
fn appended_keys_are_all_there_and_the_tree_is_sound() {
    for seed in 0..40 {
        simulate(seed, Plan::default(), async |store| {
            let mut random = Random::new(seed);
            store.trees.create_tree(TREE).await.unwrap();
            let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            let largest = [8, 60, 400, 1990][random.below(4) as usize];
            let mut number = 0u32;
            for round in 0..20 {
                // Others may have filled or emptied leaves with single keys.
                for _ in 0..random.below(4) {
                    let key = (random.below(u64::from(number) + 10) as u32).to_be_bytes();
                    let value = vec![9; random.below(largest) as usize];
                    store.trees.apply(&[Write::Put { tree: TREE, key: &key, value: &value }]).await.unwrap();
                    model.insert(key.to_vec(), value);
                    number = number.max(u32::from_be_bytes(key) + 1);
                }
                let count = [0, 1, 3, 50, 700][random.below(5) as usize];
                let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
                for _ in 0..count {
                    let mut key = number.to_be_bytes().to_vec();
                    key.extend(vec![7; random.below(largest / 2 + 1) as usize]);
                    let value = vec![round; random.below(largest - key.len().min(largest as usize - 1) as u64) as usize];
                    pairs.push((key, value));
                    number += 1 + random.below(3) as u32;
                }
                let batch = batch(&pairs);
                let mut from = 0;
                while from < batch.len() {
                    let taken = store.trees.append(TREE, &batch, from).await.unwrap();
                    assert!(taken > 0);
                    from += taken;
                }
                model.extend(pairs);
            }
            let all = store.trees.range(TREE, (Bound::Unbounded, Bound::Unbounded), Direction::Up, usize::MAX).await.unwrap();
            assert!(all == model.clone().into_iter().collect::<Vec<_>>(), "seed {seed}");
            let down = store.trees.range(TREE, (Bound::Unbounded, Bound::Unbounded), Direction::Down, usize::MAX).await.unwrap();
            assert_eq!(down.len(), all.len());
            assert_eq!(store.trees.check(|_| {}).await.unwrap().findings, [], "seed {seed}");
            // It can be changed as any other.
            for key in model.keys().step_by(3) {
                store.trees.apply(&[Write::Delete { tree: TREE, key }]).await.unwrap();
            }
            assert_eq!(store.trees.check(|_| {}).await.unwrap().findings, [], "seed {seed}");
        });
    }
}

#[test]
fn what_does_not_fit_or_is_not_behind_the_end() {
    simulate(50, Plan::default(), async |store| {
        store.trees.create_tree(TREE).await.unwrap();
        let large = vec![1; 1990];
        // Out of order: put where they belong.
        for key in [5u8, 3, 4, 9, 9] {
            assert_eq!(store.trees.append(TREE, &batch(&[(vec![key], large.clone())]), 0).await.unwrap(), 1);
        }
        assert_eq!(store.trees.append(TREE, &batch(&[]), 0).await.unwrap(), 0);
        let all = store.trees.range(TREE, (Bound::Unbounded, Bound::Unbounded), Direction::Up, 10).await.unwrap();
        assert_eq!(all.iter().map(|(key, _)| key[0]).collect::<Vec<_>>(), [3, 4, 5, 9]);
        // One that is too large stops those behind it, and is refused itself.
        let pairs = batch(&[(vec![20], vec![1; 10]), (vec![21], vec![1; 2000]), (vec![22], vec![1; 10])]);
        assert_eq!(store.trees.append(TREE, &pairs, 0).await.unwrap(), 1);
        assert!(store.trees.append(TREE, &pairs, 1).await.is_err());
        assert_eq!(store.trees.check(|_| {}).await.unwrap().findings, []);
    });
}
