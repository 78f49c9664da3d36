//! Definitions and rows.

use std::ops::Bound;

use super::*;
use crate::table::tables::{Relation, Removed, Updated};

#[test]
fn definitions_are_committed_and_rolled_back() {
    with_tables(1, async |_, tables| {
        let mut spec = people("t", true);
        spec.unique.push(key(&["name", "age"]));
        spec.columns[2].default = Some("18".to_owned());
        let mut txn = begin(&tables);
        let made = tables.create_table(&mut txn, spec.clone()).await.unwrap();
        assert!(made.columns[0].not_null);
        assert_eq!(made.indexes[0].name, "t_name_age_key");
        // Its own transaction sees it, others don't.
        assert_eq!(tables.table(&txn, "t").await.unwrap(), Some(made.clone()));
        assert_eq!(tables.tables(&txn).await.unwrap(), std::slice::from_ref(&made));
        let other = begin(&tables);
        assert_eq!(tables.table(&other, "t").await.unwrap(), None);
        assert!(tables.stamp(&other).is_none(), "definitions are being changed");
        txn.rollback().await.unwrap();
        assert_eq!(tables.table(&other, "t").await.unwrap(), None);

        let again = make(&tables, spec).await;
        assert!(again.id > made.id, "numbers aren't given again");
        let stamp = tables.stamp(&other);
        assert!(stamp.is_some());
        assert_eq!(tables.table(&other, "t").await.unwrap(), Some(again.clone()), "what is committed now, whatever the snapshot");
        assert!(matches!(tables.relation(&other, "t_pkey").await.unwrap(), Some(Relation::PrimaryKey(table)) if table == again));
        assert!(matches!(tables.relation(&other, "t_name_age_key").await.unwrap(), Some(Relation::Index(_, 0))));
        assert_eq!(tables.stamp(&other), stamp);

        let mut txn = begin(&tables);
        let before = txn.savepoint();
        tables.drop_table(&mut txn, "t").await.unwrap();
        assert_eq!(tables.table(&txn, "t").await.unwrap(), None);
        assert_eq!(tables.tables(&txn).await.unwrap(), []);
        txn.rollback_to(before).await.unwrap();
        assert_eq!(tables.table(&txn, "t").await.unwrap(), Some(again));
        tables.drop_table(&mut txn, "t").await.unwrap();
        let remade = tables.create_table(&mut txn, people("t", false)).await.unwrap();
        txn.commit().await.unwrap();
        assert_ne!(tables.stamp(&other), stamp);
        assert_eq!(look_up(&tables, "t").await, remade);
        assert!(check(&tables).await.is_clean());
    });
}

#[test]
fn wrong_definitions_are_refused() {
    with_tables(2, async |_, tables| {
        let mut txn = begin(&tables);
        let mut twice = people("t", true);
        twice.columns.push(column("id", Type::Int8));
        assert_eq!(state(&tables.create_table(&mut txn, twice).await.unwrap_err()), "42701");
        let mut unknown = people("t", false);
        unknown.key = Some(key(&["nobody"]));
        assert_eq!(state(&tables.create_table(&mut txn, unknown).await.unwrap_err()), "42703");
        let many = (0..1601).map(|number| column(&format!("c{number}"), Type::Int4)).collect();
        let many = TableSpec { name: "many".to_owned(), columns: many, key: None, unique: Vec::new() };
        assert_eq!(state(&tables.create_table(&mut txn, many).await.unwrap_err()), "54011");
        let mut long = people("t", false);
        long.columns[0].default = Some("x".repeat(2500));
        let before = txn.savepoint();
        assert_eq!(state(&tables.create_table(&mut txn, long).await.unwrap_err()), "54000");
        txn.rollback_to(before).await.unwrap();
        tables.create_table(&mut txn, people("t", true)).await.unwrap();
        assert_eq!(state(&tables.create_table(&mut txn, people("t", true)).await.unwrap_err()), "42P07");
        assert_eq!(state(&tables.create_table(&mut txn, people("t_pkey", true)).await.unwrap_err()), "42P07");
        assert_eq!(state(&tables.add_primary_key(&mut txn, "t", &key(&["id"])).await.unwrap_err()), "42P16");
        assert_eq!(state(&tables.drop_index(&mut txn, "t_pkey").await.unwrap_err()), "42809");
        assert_eq!(state(&tables.drop_index(&mut txn, "t").await.unwrap_err()), "42704");
        assert_eq!(state(&tables.drop_table(&mut txn, "nothing").await.unwrap_err()), "42P01");
        assert_eq!(state(&tables.drop_table(&mut txn, "t_pkey").await.unwrap_err()), "42809");
        txn.rollback().await.unwrap();
    });
}

#[test]
fn one_of_two_who_create_the_same_table_gets_42p07() {
    for commit in [true, false] {
        with_tables(3, async |seams, tables| {
            let mut first = begin(&tables);
            tables.create_table(&mut first, people("t", true)).await.unwrap();
            let (send, receive) = tokio::sync::oneshot::channel();
            let other = tables.clone();
            seams.spawn(
                "second",
                Box::pin(async move {
                    let mut txn = begin(&other);
                    let made = other.create_table(&mut txn, people("t", true)).await;
                    if made.is_ok() {
                        txn.commit().await.unwrap();
                    }
                    send.send(made.map(drop)).unwrap();
                }),
            );
            seams.sleep(std::time::Duration::from_millis(100)).await;
            if commit {
                first.commit().await.unwrap();
            } else {
                first.rollback().await.unwrap();
            }
            let second = receive.await.unwrap();
            assert_eq!(second.as_ref().map_err(state), if commit { Err("42P07") } else { Ok(&()) });
            let txn = begin(&tables);
            assert_eq!(tables.tables(&txn).await.unwrap().len(), 1);
            drop(txn);
            assert!(check(&tables).await.is_clean());
        });
    }
}

#[test]
fn rows_with_index_entries() {
    with_tables(4, async |_, tables| {
        let mut spec = people("t", true);
        spec.unique.push(key(&["age"]));
        let table = make(&tables, spec).await;
        let mut txn = begin(&tables);
        for (id, age) in [(1, Some(30)), (2, None), (3, None), (4, Some(20))] {
            add(&tables, &mut txn, &table, &person(id, "x", age)).await;
        }
        // A duplicate in the key, and one in the index, leave nothing behind.
        let Added::Duplicate(taken) = tables.insert(&mut txn, &table, &person(1, "y", Some(1))).await.unwrap() else { panic!() };
        assert_eq!((taken.constraint.as_str(), &taken.values), ("t_pkey", &vec![Datum::Int4(1)]));
        assert_eq!(values(&table, &taken.row.unwrap()), person(1, "x", Some(30)));
        let Added::Duplicate(taken) = tables.insert(&mut txn, &table, &person(9, "y", Some(20))).await.unwrap() else { panic!() };
        assert_eq!(
            (taken.constraint.as_str(), &taken.columns, &taken.values),
            ("t_age_key", &vec!["age".to_owned()], &vec![Datum::Int4(20)])
        );
        let there = tables.get(&txn, &table, &taken.key).await.unwrap().unwrap();
        assert_eq!(values(&table, &there)[0], Datum::Int4(4));
        assert_eq!(ids(&table, &scan(&tables, &txn, &table).await), [1, 2, 3, 4]);
        // By age, nulls last.
        assert_eq!(ids(&table, &by_index(&tables, &txn, &table, KeyRange::ALL).await), [4, 1, 2, 3]);
        let range = KeyRange::between(&[], Bound::Excluded(&Datum::Int4(20)), Bound::Unbounded, &[Type::Int4]).unwrap();
        assert_eq!(ids(&table, &by_index(&tables, &txn, &table, range).await), [1]);

        let rows = scan(&tables, &txn, &table).await;
        // In place; with another key; to a taken value; deleted.
        assert!(matches!(tables.update(&mut txn, &table, &rows[0], &person(1, "z", Some(40))).await.unwrap(), Updated::Done { .. }));
        assert!(matches!(tables.update(&mut txn, &table, &rows[1], &person(7, "z", None)).await.unwrap(), Updated::Done { .. }));
        let Updated::Duplicate(taken) = tables.update(&mut txn, &table, &rows[2], &person(3, "z", Some(40))).await.unwrap() else {
            panic!()
        };
        assert_eq!(taken.constraint, "t_age_key");
        let Updated::Duplicate(taken) = tables.update(&mut txn, &table, &rows[2], &person(7, "z", Some(50))).await.unwrap() else {
            panic!()
        };
        assert_eq!(taken.constraint, "t_pkey");
        assert_eq!(tables.delete(&mut txn, &table, &rows[3]).await.unwrap(), Removed::Done);
        txn.commit().await.unwrap();

        let mut txn = begin(&tables);
        assert_eq!(ids(&table, &by_index(&tables, &txn, &table, KeyRange::ALL).await), [1, 3, 7]);
        let report = check(&tables).await;
        assert_eq!(report.findings, []);
        assert_eq!(report.tables[0].rows, 3);
        // A value freed by the own transaction can be taken at once.
        let rows = scan(&tables, &txn, &table).await;
        assert_eq!(tables.delete(&mut txn, &table, &rows[0]).await.unwrap(), Removed::Done);
        add(&tables, &mut txn, &table, &person(11, "w", Some(40))).await;
        txn.rollback().await.unwrap();
        let txn = begin(&tables);
        assert_eq!(ids(&table, &by_index(&tables, &txn, &table, KeyRange::ALL).await), [1, 3, 7]);
        drop(txn);
        assert_eq!(check(&tables).await.findings, []);
    });
}

#[test]
fn what_a_row_may_not_be() {
    with_tables(5, async |_, tables| {
        let table = make(&tables, people("t", true)).await;
        let mut txn = begin(&tables);
        let null = tables.insert(&mut txn, &table, &[Datum::Null, Datum::Null, Datum::Null]).await.unwrap_err();
        assert_eq!((state(&null), null.to_string().contains("\"id\"")), ("23502", true));
        let large = tables.insert(&mut txn, &table, &person(1, &"x".repeat(3000), None)).await.unwrap_err();
        assert_eq!(state(&large), "54000");
        assert!(large.to_string().contains("30") && large.to_string().contains(&crate::table::rows::ROW_MAX.to_string()), "{large}");
        let wrong = tables.insert(&mut txn, &table, &[Datum::Int8(1), Datum::Null, Datum::Null]).await.unwrap_err();
        assert_eq!(state(&wrong), "XX000");
        tables.create_index(&mut txn, &index("t", &["name"], false)).await.unwrap();
        let table = tables.table(&txn, "t").await.unwrap().unwrap();
        let before = txn.savepoint();
        let large = tables.insert(&mut txn, &table, &person(1, &"x".repeat(1900), None)).await;
        // The row fits, its entry too: the same bytes once more.
        assert!(matches!(large, Ok(Added::Done(_))), "{large:?}");
        let large = tables.insert(&mut txn, &table, &person(2, &"\0".repeat(1900), None)).await.unwrap_err();
        assert_eq!(state(&large), "54000");
        txn.rollback_to(before).await.unwrap();
        txn.commit().await.unwrap();
        assert_eq!(check(&tables).await.findings, []);
    });
}

#[test]
fn tables_without_a_key_keep_the_order_of_insertion() {
    with_tables(6, async |_, tables| {
        let table = make(&tables, people("t", false)).await;
        fill(&tables, &table, &[person(5, "a", None), person(3, "b", None), person(5, "a", None)]).await;
        // Another process goes on behind what is there.
        let later = Tables::new(tables.rows().clone());
        fill(&later, &table, &[person(1, "c", None)]).await;
        let mut txn = begin(&tables);
        let rows = scan(&tables, &txn, &table).await;
        assert_eq!(ids(&table, &rows), [5, 3, 5, 1]);
        assert_eq!(rows[0].key, (1u64 << 48 | 1).to_be_bytes());
        let Updated::Done { key, .. } = tables.update(&mut txn, &table, &rows[2], &person(6, "a", None)).await.unwrap() else { panic!() };
        assert_eq!(key, rows[2].key);
        assert_eq!(tables.delete(&mut txn, &table, &rows[0]).await.unwrap(), Removed::Done);
        assert_eq!(ids(&table, &scan(&tables, &txn, &table).await), [3, 6, 1]);
    });
}

#[test]
fn a_unique_value_is_waited_for() {
    for commit in [true, false] {
        with_tables(7, async |seams, tables| {
            let mut spec = people("t", true);
            spec.unique.push(key(&["age"]));
            let table = make(&tables, spec).await;
            let mut first = begin(&tables);
            add(&tables, &mut first, &table, &person(1, "a", Some(5))).await;
            let (send, receive) = tokio::sync::oneshot::channel();
            let (others, other_table) = (tables.clone(), table.clone());
            seams.spawn(
                "second",
                Box::pin(async move {
                    let mut txn = begin(&others);
                    let added = others.insert(&mut txn, &other_table, &person(2, "b", Some(5))).await.unwrap();
                    txn.commit().await.unwrap();
                    send.send(added).unwrap();
                }),
            );
            seams.sleep(std::time::Duration::from_millis(50)).await;
            if commit {
                first.commit().await.unwrap()
            } else {
                first.rollback().await.map(|()| None).unwrap()
            };
            match receive.await.unwrap() {
                Added::Duplicate(duplicate) => assert!(commit && duplicate.constraint == "t_age_key"),
                Added::Done(_) => assert!(!commit),
            }
            let txn = begin(&tables);
            assert_eq!(ids(&table, &scan(&tables, &txn, &table).await), [if commit { 1 } else { 2 }]);
            drop(txn);
            assert_eq!(check(&tables).await.findings, []);
        });
    }
}

#[test]
fn a_row_changed_by_another_is_decided_anew_with_its_entries() {
    with_tables(8, async |_, tables| {
        let table = make(&tables, people("t", true)).await;
        let mut txn = begin(&tables);
        tables.create_index(&mut txn, &index("t", &["age"], false)).await.unwrap();
        txn.commit().await.unwrap();
        let table_now = look_up(&tables, "t").await;
        assert_eq!((table_now.id, table_now.tree), (table.id, table.tree));
        fill(&tables, &table_now, &[person(1, "a", Some(1))]).await;
        let mut slow = begin(&tables);
        let seen = scan(&tables, &slow, &table_now).await.remove(0);
        let mut quick = begin(&tables);
        let Updated::Done { .. } = tables.update(&mut quick, &table_now, &seen, &person(1, "b", Some(2))).await.unwrap() else { panic!() };
        quick.commit().await.unwrap();
        let Updated::Moved(Some(newest)) = tables.update(&mut slow, &table_now, &seen, &person(1, "c", Some(3))).await.unwrap() else {
            panic!()
        };
        assert_eq!(values(&table_now, &newest), person(1, "b", Some(2)));
        // The entry of the newest version isn't in the statement's snapshot, and is found all the same.
        let updated = tables.update(&mut slow, &table_now, &newest, &person(1, "c", Some(3))).await.unwrap();
        assert!(matches!(updated, Updated::Done { .. }), "{updated:?}");
        slow.commit().await.unwrap();
        assert_eq!(check(&tables).await.findings, []);

        let mut repeatable = begin_as(&tables, Isolation::RepeatableRead);
        let seen = scan(&tables, &repeatable, &table_now).await.remove(0);
        let mut quick = begin(&tables);
        tables.delete(&mut quick, &table_now, &seen).await.unwrap();
        quick.commit().await.unwrap();
        assert_eq!(state(&tables.delete(&mut repeatable, &table_now, &seen).await.unwrap_err()), "40001");
    });
}

#[test]
fn truncate_empties_and_rolls_back() {
    with_tables(9, async |_, tables| {
        let table = make(&tables, people("t", false)).await;
        let mut txn = begin(&tables);
        tables.create_index(&mut txn, &index("t", &["age"], false)).await.unwrap();
        txn.commit().await.unwrap();
        let table = tables.table_by_id(&begin(&tables), table.id).await.unwrap().unwrap();
        fill(&tables, &table, &[person(1, "a", Some(1)), person(2, "b", Some(2))]).await;
        let mut txn = begin(&tables);
        let before = txn.savepoint();
        let empty = tables.truncate(&mut txn, "t").await.unwrap();
        assert_eq!(scan(&tables, &txn, &empty).await, []);
        add(&tables, &mut txn, &empty, &person(3, "c", Some(3))).await;
        txn.rollback_to(before).await.unwrap();
        assert_eq!(tables.table(&txn, "t").await.unwrap(), Some(table.clone()));
        assert_eq!(ids(&table, &scan(&tables, &txn, &table).await), [1, 2]);
        let empty = tables.truncate(&mut txn, "t").await.unwrap();
        add(&tables, &mut txn, &empty, &person(4, "d", Some(4))).await;
        txn.commit().await.unwrap();
        let table = look_up(&tables, "t").await;
        assert_eq!(table, empty);
        let txn = begin(&tables);
        assert_eq!(ids(&table, &by_index(&tables, &txn, &table, KeyRange::ALL).await), [4]);
        drop(txn);
        assert_eq!(check(&tables).await.findings, []);
    });
}
