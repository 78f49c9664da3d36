//! The embedding API on a simulated disk.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::base::sim::Sim;
use crate::disk::memory::{MemoryDisk, MemoryMedia};
use crate::table::Direction;
use crate::table::catalog::Column;
use crate::table::datum::{Datum, Type};
use crate::table::tables::{IndexSpec, KeySpec, TableSpec};

fn spec() -> TableSpec {
    let column = |name: &str, ty| Column { name: name.to_owned(), ty, not_null: false, default: None };
    let key = KeySpec { name: None, columns: vec!["region".to_owned(), "id".to_owned()] };
    let columns = vec![column("region", Type::Text), column("id", Type::Int4), column("size", Type::Int8)];
    TableSpec { name: "places".to_owned(), columns, key: Some(key), unique: Vec::new() }
}

fn place(region: &str, id: i32, size: i64) -> [Datum; 3] {
    [Datum::Text(region.to_owned()), Datum::Int4(id), Datum::Int8(size)]
}

async fn all(scan: Result<Scan<'_>, DatabaseError>) -> Vec<i64> {
    let mut scan = scan.unwrap();
    let mut sizes = Vec::new();
    while let Some(row) = scan.next().await.unwrap() {
        match row[2] {
            Datum::Int8(size) => sizes.push(size),
            ref other => panic!("{other:?}"),
        }
    }
    sizes
}

/// Opens the database in a life of its own, runs `test` on it, and crashes or closes.
fn live<F: Future<Output = Database>>(media: &MemoryMedia, seed: u64, first: bool, test: impl FnOnce(Database) -> F, close: bool) {
    let sim = Sim::new(seed);
    sim.run(async {
        let disk = || Arc::new(MemoryDisk::new(media, sim.runtime())) as Arc<dyn Disk>;
        let directory = Path::new("db");
        if first {
            Database::create(sim.runtime(), disk(), directory).await.unwrap();
        }
        let options = Options { cache_bytes: 8 << 20, ..Options::default() };
        let database = Database::open(sim.runtime(), disk(), directory, options).await.unwrap();
        let database = test(database).await;
        if close {
            database.close().await.unwrap();
        } else {
            media.crash(seed);
        }
    });
}

#[test]
fn what_was_committed_is_there_after_a_crash_and_nothing_else() {
    let media = MemoryMedia::new(5);
    let first = async |database: Database| {
        let mut txn = database.begin(Isolation::ReadCommitted);
        txn.create_table(spec()).await.unwrap();
        for (number, region) in ["north", "south", "north", "south"].into_iter().enumerate() {
            txn.insert("places", &place(region, number as i32, 10 * number as i64)).await.unwrap();
        }
        let index = IndexSpec { name: None, table: "places".to_owned(), columns: vec!["size".to_owned()], unique: true };
        txn.create_index(&index).await.unwrap();
        txn.commit().await.unwrap();
        let mut lost = database.begin(Isolation::ReadCommitted);
        lost.insert("places", &place("west", 9, 90)).await.unwrap();
        assert!(lost.delete("places", &place("north", 0, 0)[..2]).await.unwrap());
        // Cut off by the crash, with the transaction under way: nobody waits for its end.
        let (send, receive) = tokio::sync::oneshot::channel::<()>();
        let seams = database.tables().rows().trees().cache().seams().clone();
        seams.spawn(
            "transaction under way",
            Box::pin(async move {
                let _lost = lost;
                let _ = receive.await;
            }),
        );
        let mut txn = database.begin(Isolation::ReadCommitted);
        txn.insert("places", &place("east", 5, 50)).await.unwrap();
        txn.commit().await.unwrap();
        std::mem::forget(send);
        database
    };
    live(&media, 5, true, first, false);
    let second = async |database: Database| {
        assert!(database.recovery().is_some());
        let mut txn = database.begin(Isolation::RepeatableRead);
        assert_eq!(all(txn.scan("places", Range::ALL).await).await, [50, 0, 20, 10, 30]);
        let north = Range { equal: vec![Datum::Text("north".to_owned())], direction: Direction::Down, ..Range::ALL };
        assert_eq!(all(txn.scan("places", north).await).await, [20, 0]);
        let small = Range { low: Bound::Excluded(Datum::Int8(0)), high: Bound::Included(Datum::Int8(30)), ..Range::ALL };
        assert_eq!(all(txn.scan_index("places", "places_size_idx", small).await).await, [10, 20, 30]);
        txn.rollback().await.unwrap();
        assert!(database.check(&mut |_| {}).await.unwrap().is_clean());
        database
    };
    live(&media, 6, false, second, true);
    let third = async |database: Database| {
        assert!(database.recovery().is_none());
        let mut txn = database.begin(Isolation::ReadCommitted);
        let taken = txn.insert("places", &place("east", 5, 51)).await.unwrap_err();
        assert_eq!(taken.sqlstate(), "23505");
        let taken = txn.insert("places", &place("east", 6, 50)).await.unwrap_err();
        assert!(taken.to_string().contains("places_size_idx"), "{taken}");
        // The failed statements left nothing, and the transaction goes on.
        assert_eq!(txn.get("places", &place("east", 6, 0)[..2]).await.unwrap(), None);
        assert_eq!(txn.get_for_update("places", &place("east", 5, 0)[..2]).await.unwrap(), Some(place("east", 5, 50).to_vec()));
        assert!(txn.update("places", &place("east", 5, 0)[..2], |row| row[2] = Datum::Int8(55)).await.unwrap());
        assert!(!txn.update("places", &place("east", 7, 0)[..2], |row| row[2] = Datum::Int8(55)).await.unwrap());
        assert_eq!(txn.get("places", &[Datum::Int4(5)]).await.unwrap_err().sqlstate(), "42601");
        assert_eq!(txn.get("nowhere", &[]).await.unwrap_err().sqlstate(), "42P01");
        let made = txn.table("places").await.unwrap().unwrap();
        txn.drop_index("places_size_idx").await.unwrap();
        txn.drop_table("places").await.unwrap();
        let again = txn.create_table(spec()).await.unwrap();
        assert!(again.id > made.id);
        txn.commit().await.unwrap();
        database
    };
    live(&media, 7, false, third, true);
}
