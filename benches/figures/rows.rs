//! What transactions cost, and what undoing them does.

use std::time::Instant;

use regroup::base::options::LogMode;
use regroup::table::rows::{Changed, Interrupt, Isolation, Rows, Transaction};

use super::rig::{Numbers, Rig, TREE, World, create, open, options, scatter};

const ROWS: u64 = 100_000;
const VALUE: [u8; 100] = [7; 100];

fn begin(rows: &Rows) -> Transaction {
    let mut txn = rows.begin(Isolation::ReadCommitted, Interrupt::default());
    txn.begin_statement();
    txn
}

async fn update(txn: &mut Transaction, key: u64) {
    let key = key.to_be_bytes();
    let row = txn.get(TREE, &key).await.expect("readable").expect("there");
    let done = txn.update(TREE, &key, row.version, &VALUE).await.expect("written");
    assert!(matches!(done, Changed::Done(_)));
}

/// Operations undone a second when a transaction of 100 000 updates rolls back; beside it what rows cost otherwise.
pub(crate) fn rollback(rig: &Rig) -> Numbers {
    let world = World::new();
    let folder = rig.folder("rollback");
    world.runtime.block_on(async {
        create(&world.seams, &folder, 512 << 20).await;
        let store = open(&world.seams, &folder, options(256 << 20, LogMode::Commit)).await;
        store.trees().create_tree(TREE).await.expect("a tree");
        let rows = store.rows().clone();
        let mut txn = begin(&rows);
        let inserting = Instant::now();
        for key in 0..ROWS {
            txn.insert(TREE, &key.to_be_bytes(), &VALUE).await.expect("inserted");
        }
        let inserted = ROWS as f64 / inserting.elapsed().as_secs_f64();
        txn.commit().await.expect("committed");
        let mut reader = begin(&rows);
        let reading = Instant::now();
        let reads = rig.scaled(500_000);
        for turn in 0..reads {
            let row = reader.get(TREE, &(scatter(turn) % ROWS).to_be_bytes()).await.expect("readable");
            assert!(row.is_some());
        }
        let read = reads as f64 / reading.elapsed().as_secs_f64();
        reader.end_statement();
        let mut txn = begin(&rows);
        let updating = Instant::now();
        let updates = rig.scaled(100_000);
        for turn in 0..updates {
            update(&mut txn, scatter(turn) % ROWS).await;
        }
        let updated = updates as f64 / updating.elapsed().as_secs_f64();
        let undoing = Instant::now();
        txn.rollback().await.expect("rolled back");
        let undone = updates as f64 / undoing.elapsed().as_secs_f64();
        vec![("undone_per_second", undone), ("updates_per_second", updated), ("inserts_per_second", inserted), ("reads_per_second", read)]
    })
}
