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
    if number.is_multiple_of(3) {
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

mod scans_and_checks {
    use std::ops::Bound;

    use super::*;
    use crate::table::Direction;

    /// Owned bounds: `None` is unbounded, true is included.
    type Edge = Option<(Vec<u8>, bool)>;

    fn bound(edge: &Edge) -> Bound<&[u8]> {
        match edge {
            None => Bound::Unbounded,
            Some((key, true)) => Bound::Included(key),
            Some((key, false)) => Bound::Excluded(key),
        }
    }

    #[test]
    fn scans_are_ranges_of_a_map_and_everything_is_freed() {
        for seed in 10..14 {
            simulate(seed, Plan::default(), move |store| async move {
                let trees = &store.trees;
                let mut random = Random::new(seed);
                let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
                trees.create_tree(TREE).await.unwrap();
                let mut pages = Vec::new();
                for round in 0..3 {
                    for _ in 0..6000 {
                        let key = key_of(&mut random, 20_000);
                        let value = vec![round; random.index(300.min(2001 - key.len()))];
                        trees.apply(&[Write::Put { tree: TREE, key: &key, value: &value }]).await.unwrap();
                        model.insert(key, value);
                    }
                    for _ in 0..30 {
                        let mut edge = || random.chance(0.8).then(|| (key_of(&mut random, 20_000), random.chance(0.5)));
                        let (low, high) = (edge(), edge());
                        let most = random.index(3000);
                        if let (Some((low, _)), Some((high, _))) = (&low, &high)
                            && low >= high
                        {
                            continue;
                        }
                        let range = (bound(&low), bound(&high));
                        let all: Vec<_> = model.range::<[u8], _>(range).map(|(key, value)| (key.clone(), value.clone())).collect();
                        let up = trees.range(TREE, range, Direction::Up, most).await.unwrap();
                        assert!(up == all[..most.min(all.len())], "up {range:?}");
                        let down = trees.range(TREE, range, Direction::Down, most).await.unwrap();
                        assert!(down == all.iter().rev().take(most).cloned().collect::<Vec<_>>(), "down {range:?}");
                    }
                    let report = trees.check(|_| {}).await.unwrap();
                    assert_eq!(report.findings, []);
                    println!("{:?} fill {}", report.trees[1], report.trees[1].leaf_fill());
                    pages.push(store.cache.volume().pages(0));
                    let mut keys: Vec<_> = std::mem::take(&mut model).into_keys().collect();
                    random.shuffle(&mut keys);
                    for key in keys {
                        trees.apply(&[Write::Delete { tree: TREE, key: &key }]).await.unwrap();
                    }
                    let report = trees.check(|_| {}).await.unwrap();
                    assert_eq!(report.findings, []);
                    println!("empty {:?} marked {}", report.trees[1], report.pages_marked);
                    assert!(report.pages_marked < 30);
                }
                assert_eq!(pages[0], pages[2], "the second filling used the pages of the first");
                for number in 0..5000u32 {
                    trees.apply(&[Write::Put { tree: TREE, key: &number.to_be_bytes(), value: &[1; 500] }]).await.unwrap();
                }
                trees.drop_tree(TREE).await.unwrap();
                let report = trees.check(|_| {}).await.unwrap();
                assert_eq!((report.findings.len(), report.pages_marked), (0, 2));
                trees.create_tree(TREE).await.unwrap();
                assert_eq!(trees.get(TREE, &1u32.to_be_bytes()).await.unwrap(), None);
            });
        }
    }
}
