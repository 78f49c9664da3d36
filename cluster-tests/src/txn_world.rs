//! A store of rows in the simulator: its trees, what a transaction sees of them, what lies in them, whether they are tidy.

use std::ops::Bound;
use std::time::Duration;

use regroup::base::sim::Sim;
use regroup::base::{Seams, TreeId};
use regroup::disk::memory::MemoryMedia;
use regroup::node::store::Store;
use regroup::table::Direction;
use regroup::table::rows::{Interrupt, Isolation, RowError};
use regroup::txn::undo::RowHeader;

use crate::txn_load::FIXED;
use crate::txn_model::{CATALOG, FIRST_MADE, Rows, difference, tree_named};
use crate::world::{self, close, open, shape, small, sound};

/// Longest time until a store that nobody uses has nothing left to do.
const QUIET: Duration = Duration::from_secs(60);

/// A new store with the trees of the clients.
///
/// # Panics
/// When it can't be made.
pub fn prepare(seed: u64) -> MemoryMedia {
    let media = world::create(seed, shape(64, true));
    let sim = Sim::new(seed);
    sim.run(async {
        let store = open(&sim.runtime(), &media, &small()).await.expect("a new store can be opened");
        for tree in FIXED {
            store.trees().create_tree(TreeId(tree)).await.expect("a tree can be made");
        }
        close(store).await.expect("it can be closed");
    });
    media
}

/// The trees that rows of [`CATALOG`] name.
pub fn named_trees(rows: &Rows) -> Vec<u32> {
    rows.keys().filter(|cell| cell.0 == CATALOG).filter_map(tree_named).collect()
}

/// Waits until nobody has anything left to do: no losers, no waiters, nothing remembered of any transaction.
///
/// # Panics
/// When that doesn't come.
pub async fn quiet(store: &Store, seams: &Seams, what: &str) {
    let since = seams.now();
    loop {
        let status = store.rows().status();
        if status.losers + status.garbage + status.transactions + status.waiting + status.snapshots == 0 {
            return;
        }
        assert!(seams.now().since(since) < QUIET, "{what}: never quiet: {status:?}");
        seams.sleep(Duration::from_millis(20)).await;
    }
}

/// In a quiet store's trees lies what is expected and nothing else: no row of a loser, no deletion that a vacuum leaves, no tree that
/// nobody names; and the structure is sound.
///
/// # Panics
/// When it isn't so.
pub async fn tidy(store: &Store, seams: &Seams, expected: &Rows, what: &str) {
    let named = named_trees(expected);
    let since = seams.now();
    loop {
        let there = made_trees(store).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        if there == named {
            break;
        }
        assert!(seams.now().since(since) < QUIET, "{what}: trees {there:?}, but {named:?} are named");
        seams.sleep(Duration::from_millis(20)).await;
    }
    let trees: Vec<u32> = FIXED.into_iter().chain(named).collect();
    for tree in &trees {
        let (found, kept) =
            store.rows().vacuum(TreeId(*tree), &Interrupt::default()).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(kept, 0, "{what}: {found} deleted rows in tree {tree}, of which some can't go though nobody sees them");
    }
    let (rows, deleted) = raw(store, &trees).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(deleted, 0, "{what}: deleted rows are left after a vacuum");
    assert!(rows == *expected, "{what}: in the trees themselves: {}", difference(expected, &rows));
    sound(store, what).await;
}

/// All that a new transaction sees.
///
/// # Errors
/// As the store.
pub async fn visible(store: &Store) -> Result<Rows, RowError> {
    let mut tx = store.rows().begin(Isolation::RepeatableRead, Interrupt::default());
    tx.begin_statement();
    let (mut rows, mut trees) = (Rows::new(), FIXED.to_vec());
    while let Some(tree) = trees.pop() {
        let mut cursor = tx.cursor(TreeId(tree), Bound::Unbounded, Bound::Unbounded, Direction::Up);
        loop {
            let found = cursor.next(&tx).await?;
            if found.is_empty() {
                break;
            }
            for row in found {
                let cell = (tree, row.key);
                trees.extend(if tree == CATALOG { tree_named(&cell) } else { None });
                rows.insert(cell, row.value);
            }
        }
    }
    tx.rollback().await?;
    Ok(rows)
}

/// All that lies in the trees themselves, without headers; deletions are left out and counted.
///
/// # Errors
/// As the store.
///
/// # Panics
/// When a row isn't one.
pub async fn raw(store: &Store, trees: &[u32]) -> Result<(Rows, u64), RowError> {
    let (mut rows, mut deleted) = (Rows::new(), 0);
    for tree in trees {
        let keep = |key: &[u8], row: &[u8]| {
            let (header, value) = RowHeader::of(row).expect("a row has a header");
            if header.deleted {
                deleted += 1;
            } else {
                rows.insert((*tree, key.to_vec()), value.to_vec());
            }
            std::ops::ControlFlow::Continue(())
        };
        store.trees().scan(TreeId(*tree), (Bound::Unbounded, Bound::Unbounded), Direction::Up, keep).await?;
    }
    Ok((rows, deleted))
}

/// Trees that transactions have made and that are there.
///
/// # Errors
/// As the store.
pub async fn made_trees(store: &Store) -> Result<Vec<u32>, RowError> {
    let known = store.trees().trees().await?;
    Ok(known.into_iter().map(|(tree, _)| tree.0).filter(|tree| (FIRST_MADE..u32::MAX - 16).contains(tree)).collect())
}
