//! Typed tables on a simulated disk.

mod builds;
mod checks;
mod model;
mod rows;

use std::sync::Arc;

use super::{Added, IndexSpec, KeySpec, TableSpec, Tables, TablesError, TablesReport};
use crate::base::Seams;
use crate::base::options::Options;
use crate::base::sim::Sim;
use crate::disk::Disk;
use crate::disk::memory::{MemoryDisk, MemoryMedia};
use crate::table::Direction;
use crate::table::catalog::{CATALOG, Column, Table};
use crate::table::datum::key::KeyRange;
use crate::table::datum::row::decode_row;
use crate::table::datum::{Datum, Type};
use crate::table::rows::{Interrupt, Isolation, Row, Rows, Transaction};
use crate::table::tests::harness::{self, Plan};
use crate::txn::elsewhere::Alone;

/// Runs `test` on a new store in a simulation of `seed`.
fn with_tables<F: Future<Output = ()>>(seed: u64, test: impl FnOnce(Seams, Tables) -> F) {
    let sim = Sim::new(seed);
    let media = MemoryMedia::new(seed);
    sim.run(async {
        let open = || Arc::new(MemoryDisk::new(&media, sim.runtime())) as Arc<dyn Disk>;
        let store = harness::create(sim.runtime(), open, Plan { frames: 512, ..Plan::default() }).await;
        store.trees.create_tree(CATALOG).await.unwrap();
        let rows = Rows::open(store.trees.clone(), &Options::default(), Arc::new(Alone)).await.unwrap();
        test(sim.runtime(), Tables::new(rows.clone())).await;
        rows.close().await;
    });
}

fn begin_as(tables: &Tables, isolation: Isolation) -> Transaction {
    let mut txn = tables.rows().begin(isolation, Interrupt::default());
    txn.begin_statement();
    txn
}

fn begin(tables: &Tables) -> Transaction {
    begin_as(tables, Isolation::ReadCommitted)
}

fn column(name: &str, ty: Type) -> Column {
    Column { name: name.to_owned(), ty, not_null: false, default: None }
}

fn key(columns: &[&str]) -> KeySpec {
    KeySpec { name: None, columns: columns.iter().map(ToString::to_string).collect() }
}

/// `t (id int4 primary key, name text, age int4)`; `keyed` false: without the key.
fn people(name: &str, keyed: bool) -> TableSpec {
    let columns = vec![column("id", Type::Int4), column("name", Type::Text), column("age", Type::Int4)];
    TableSpec { name: name.to_owned(), columns, key: keyed.then(|| key(&["id"])), unique: Vec::new() }
}

fn index(table: &str, columns: &[&str], unique: bool) -> IndexSpec {
    let columns = columns.iter().map(ToString::to_string).collect();
    IndexSpec { name: None, table: table.to_owned(), columns, unique }
}

fn person(id: i32, name: &str, age: Option<i32>) -> Vec<Datum> {
    vec![Datum::Int4(id), Datum::Text(name.to_owned()), age.map_or(Datum::Null, Datum::Int4)]
}

/// Makes and commits `t`.
async fn make(tables: &Tables, spec: TableSpec) -> Arc<Table> {
    let mut txn = begin(tables);
    let table = tables.create_table(&mut txn, spec).await.unwrap();
    txn.commit().await.unwrap();
    table
}

async fn look_up(tables: &Tables, name: &str) -> Arc<Table> {
    let txn = begin(tables);
    tables.table(&txn, name).await.unwrap().unwrap()
}

async fn add(tables: &Tables, txn: &mut Transaction, table: &Table, row: &[Datum]) -> Vec<u8> {
    match tables.insert(txn, table, row).await.unwrap() {
        Added::Done(key) => key,
        Added::Duplicate(duplicate) => panic!("{duplicate:?}"),
    }
}

/// Inserts and commits rows.
async fn fill(tables: &Tables, table: &Table, rows: &[Vec<Datum>]) {
    let mut txn = begin(tables);
    for row in rows {
        add(tables, &mut txn, table, row).await;
    }
    txn.commit().await.unwrap();
}

fn values(table: &Table, row: &Row) -> Vec<Datum> {
    decode_row(&row.value, &table.columns).unwrap()
}

async fn scan(tables: &Tables, txn: &Transaction, table: &Table) -> Vec<Row> {
    let mut cursor = tables.scan(txn, table, KeyRange::ALL, Direction::Up);
    let mut found = Vec::new();
    loop {
        let rows = cursor.next(txn).await.unwrap();
        if rows.is_empty() {
            return found;
        }
        found.extend(rows);
    }
}

/// All rows by the table's first index.
async fn by_index(tables: &Tables, txn: &Transaction, table: &Arc<Table>, range: KeyRange) -> Vec<Row> {
    let mut cursor = tables.index_scan(txn, table, &table.indexes[0], range, Direction::Up);
    let mut found = Vec::new();
    loop {
        let rows = cursor.next(txn, 7).await.unwrap();
        if rows.is_empty() {
            return found;
        }
        found.extend(rows);
    }
}

fn ids(table: &Table, rows: &[Row]) -> Vec<i32> {
    let id = |row: &Row| match values(table, row)[0] {
        Datum::Int4(id) => id,
        ref other => panic!("{other:?}"),
    };
    rows.iter().map(id).collect()
}

async fn check(tables: &Tables) -> TablesReport {
    tables.check(&Interrupt::default(), &mut |_| {}).await.unwrap()
}

fn state(error: &TablesError) -> &'static str {
    error.sqlstate()
}
