//! Trees do what a sorted map does.

use std::collections::BTreeMap;

use super::harness::{Plan, simulate};
use crate::base::{Random, TreeId};
use crate::table::Write;

const TREE: TreeId = TreeId(1);

#[test]
fn ascending_keys_are_found() {
    simulate(1, Plan::default(), |store| async move {
        let trees = &store.trees;
        trees.create_tree(TREE).await.unwrap();
        for number in 0..20_000u64 {
            let key = number.to_be_bytes();
            trees.apply(&[Write::Put { tree: TREE, key: &key, value: &[7; 100] }]).await.unwrap();
        }
        for number in 0..20_000u64 {
            assert_eq!(trees.get(TREE, &number.to_be_bytes()).await.unwrap(), Some(vec![7; 100]));
        }
        assert_eq!(trees.get(TREE, b"absent").await.unwrap(), None);
        println!("pages {}", store.cache.volume().pages(0));
    });
}

fn key_of(random: &mut Random, keys: u64) -> Vec<u8> {
    let number = random.below(keys);
    let mut draw = Random::new(number);
    let length = match number % 10 {
        0 => draw.index(1500),
        1..5 => 8 + draw.index(100),
        _ => 8,
    };
    if number == 0 {
        return Vec::new();
    }
    let mut key = vec![b'k'; length];
    key.extend_from_slice(&number.to_be_bytes());
    if number % 3 == 0 {
        key.reverse();
    }
    key
}

#[test]
fn random_batches_against_a_map() {
    for seed in 0..6 {
        simulate(seed, Plan::default(), |store| async move {
            let trees = &store.trees;
            let mut random = Random::new(seed);
            let mut model: BTreeMap<(u32, Vec<u8>), Vec<u8>> = BTreeMap::new();
            for tree in 1..=3 {
                trees.create_tree(TreeId(tree)).await.unwrap();
            }
            for round in 0..3000u64 {
                let deleting = (round / 700) % 2;
                let mut batch = Vec::new();
                for _ in 0..1 + random.index(5) {
                    let tree = 1 + random.below(3) as u32;
                    let key = key_of(&mut random, 2000);
                    let put = random.below(3) > deleting;
                    let most = 2000 - key.len();
                    let most = if random.chance(0.1) { most + 1 } else { most.min(120) + 1 };
                    let value = put.then(|| vec![round as u8; random.index(most)]);
                    batch.push((tree, key, value));
                }
                let writes: Vec<Write<'_>> = batch
                    .iter()
                    .map(|(tree, key, value)| match value {
                        Some(value) => Write::Put { tree: TreeId(*tree), key, value },
                        None => Write::Delete { tree: TreeId(*tree), key },
                    })
                    .collect();
                trees.apply(&writes).await.unwrap();
                for (tree, key, value) in batch {
                    match value {
                        Some(value) => model.insert((tree, key), value),
                        None => model.remove(&(tree, key)),
                    };
                }
                let key = key_of(&mut random, 2000);
                assert_eq!(trees.get(TreeId(1), &key).await.unwrap().as_ref(), model.get(&(1, key)));
            }
            for ((tree, key), value) in &model {
                assert_eq!(trees.get(TreeId(*tree), key).await.unwrap().as_ref(), Some(value));
            }
        });
    }
}
