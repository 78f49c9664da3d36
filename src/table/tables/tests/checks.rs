//! The check finds what is broken on purpose.

use super::*;
use crate::table::tables::TableFinding;
use crate::table::tables::entry;
use crate::table::tables::newest;

/// Breaks something in a table of three rows with an index on age; returns what the check finds.
fn break_it(broken: impl AsyncFnOnce(&Tables, &mut Transaction, &Table)) -> TablesReport {
    let mut report = TablesReport::default();
    with_tables(30, async |_, tables| {
        let mut spec = people("t", true);
        spec.unique.push(key(&["age"]));
        let table = make(&tables, spec).await;
        fill(&tables, &table, &[person(1, "a", Some(10)), person(2, "b", Some(20)), person(3, "c", None)]).await;
        let mut txn = begin(&tables);
        broken(&tables, &mut txn, &table).await;
        txn.commit().await.unwrap();
        report = check(&tables).await;
    });
    assert!(!report.is_clean());
    report
}

fn found(broken: impl AsyncFnOnce(&Tables, &mut Transaction, &Table)) -> Vec<String> {
    break_it(broken).findings.iter().map(ToString::to_string).collect()
}

fn entry_of(table: &Table, row: &[Datum]) -> entry::Entry {
    let key = entry::primary_key(table, &[0], row).unwrap();
    entry::entry(table, &table.indexes[0], row, &key).unwrap()
}

const ROW_2: &str = "0180000002";

#[test]
fn a_missing_entry() {
    let found = found(async |_, txn, table| {
        let entry = entry_of(table, &person(2, "b", Some(20)));
        newest::delete(txn, table.indexes[0].tree, &entry.key).await.unwrap();
    });
    assert_eq!(found, [format!("index \"t_age_key\" of table \"t\" has no entry for row {ROW_2}")]);
}

#[test]
fn a_stray_entry() {
    let found = found(async |_, txn, table| {
        let entry = entry_of(table, &person(4, "b", Some(40)));
        txn.insert(table.indexes[0].tree, &entry.key, &entry.value).await.unwrap();
        let old = entry_of(table, &person(2, "b", Some(21)));
        txn.insert(table.indexes[0].tree, &old.key, &old.value).await.unwrap();
        txn.insert(table.indexes[0].tree, b"\x09nonsense", b"").await.unwrap();
    });
    let all = found.join("\n");
    assert_eq!(found.len(), 3, "{all}");
    assert!(all.contains("leads to a row that isn't there") && all.contains("other values") && all.contains("can't be read"), "{all}");
}

#[test]
fn two_rows_with_one_unique_value() {
    let report = break_it(async |_, txn, table| {
        let row = person(7, "x", Some(20));
        let (row_key, value) = (entry::primary_key(table, &[0], &row).unwrap(), entry::row_value(table, &row, 0).unwrap());
        txn.insert(table.tree, &row_key, &value).await.unwrap();
    });
    assert!(matches!(&report.findings[..], [TableFinding::TwoRows { other, .. }] if other == ROW_2), "{:?}", report.findings);
}

#[test]
fn rows_that_are_wrong_by_themselves() {
    let found = found(async |_, txn, table| {
        let key_of = |id| entry::primary_key(table, &[0], &person(id, "", None)).unwrap();
        newest::put(txn, table.tree, &key_of(1), b"\x09nonsense").await.unwrap();
        newest::put(txn, table.tree, &key_of(2), &entry::row_value(table, &person(8, "b", Some(20)), 0).unwrap()).await.unwrap();
        let mut null = person(3, "c", None);
        null[0] = Datum::Null;
        newest::put(txn, table.tree, &key_of(3), &entry::row_value(table, &null, 0).unwrap()).await.unwrap();
    });
    let all = found.join("\n");
    assert!(all.contains("row has format 9"), "{all}");
    assert!(all.contains(&format!("row {ROW_2}: its place should be 0180000008")), "{all}");
    assert!(all.contains("null in column \"id\""), "{all}");
}

#[test]
fn a_row_without_a_row_number() {
    with_tables(31, async |_, tables| {
        let table = make(&tables, people("t", false)).await;
        let mut txn = begin(&tables);
        txn.insert(table.tree, b"key", &entry::row_value(&table, &person(1, "a", None), 0).unwrap()).await.unwrap();
        txn.commit().await.unwrap();
        let report = check(&tables).await;
        assert!(matches!(&report.findings[..], [TableFinding::WrongKey { key, .. }] if key == "6b6579"), "{report:?}");
    });
}

#[test]
fn definitions_that_contradict_each_other() {
    let name = break_it(async |_, txn, _| crate::table::catalog::release_name(txn, "t").await.unwrap());
    assert!(matches!(&name.findings[..], [TableFinding::Nameless { name, .. }] if name == "t"), "{name:?}");
    let dangling = break_it(async |tables, txn, table| {
        let _ = tables;
        crate::table::catalog::remove_index(txn, table.id, table.indexes[0].id).await.unwrap();
    });
    assert!(matches!(&dangling.findings[..], [TableFinding::DanglingName { .. }]), "{dangling:?}");
    let unreadable = break_it(async |_, txn, _| newest::put(txn, CATALOG, b"\x07", b"?").await.unwrap());
    assert!(matches!(&unreadable.findings[..], [TableFinding::Catalog { .. }]), "{unreadable:?}");
    let tree = break_it(async |_, txn, table| {
        let mut elsewhere = table.clone();
        elsewhere.tree = crate::base::TreeId(999);
        crate::table::catalog::put_table(txn, &elsewhere).await.unwrap();
    });
    assert!(matches!(&tree.findings[..], [TableFinding::NoTree { .. }, TableFinding::Stopped { .. }]), "{tree:?}");
}
