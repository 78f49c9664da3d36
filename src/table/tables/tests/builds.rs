//! Indexes and keys over rows that are there; loads.

use std::ops::Bound;
use std::time::Duration;

use super::*;
use crate::table::catalog::IndexState;
use crate::table::rows::{Inserted, RowError};
use crate::table::tables::sort::{SortError, Sorter};
use crate::table::tables::{Removed, Updated};

/// Rows whose ages are a permutation, with some nulls.
fn crowd(count: i32) -> Vec<Vec<Datum>> {
    (0..count).map(|id| person(id, &format!("name {}", id % 7), (id % 10 != 0).then(|| id * 37 % count))).collect()
}

fn push(sorter: &mut Sorter, key: &[u8], value: &[u8]) {
    let put = |out: &mut Vec<u8>| {
        out.extend_from_slice(key);
        Ok::<(), ()>(())
    };
    assert_eq!(sorter.push(value, put), Ok(()));
}

#[test]
fn the_sorter_sorts_more_than_it_holds() {
    with_tables(20, async |seams, tables| {
        let mut txn = begin(&tables);
        for (count, step, chunk) in [(0u32, 1, 100), (1000, 1, 2000), (1000, 7, 1 << 20), (1000, 7, 2000), (1000, 999, 3000)] {
            let mut sorter = Sorter::with_chunks(&tables, chunk);
            for number in 0..count {
                push(&mut sorter, &(number * step % count).to_be_bytes(), &[7; 5]);
                assert!(sorter.settle(&mut txn).await.is_ok());
            }
            let Ok(tree) = sorter.finish(&mut txn).await else { panic!() };
            let mut cursor = txn.cursor(tree, Bound::Unbounded, Bound::Unbounded, Direction::Up);
            let mut next = 0u32;
            loop {
                let rows = cursor.next(&txn).await.unwrap();
                for row in &rows {
                    assert_eq!((&row.key, &row.value), (&next.to_be_bytes().to_vec(), &vec![7; 5]));
                    next += 1;
                }
                if rows.is_empty() {
                    break;
                }
            }
            assert_eq!(next, count);
        }
        // In order for long, so that much of it is written before the order ends; then all of it once more, backwards.
        let mut sorter = Sorter::with_chunks(&tables, 1 << 20);
        for number in (0..60_000u32).step_by(2).chain((1..60_000).step_by(2).rev()) {
            push(&mut sorter, &number.to_be_bytes(), &[7; 9]);
            assert!(sorter.settle(&mut txn).await.is_ok());
        }
        let Ok(tree) = sorter.finish(&mut txn).await else { panic!() };
        let mut cursor = txn.cursor(tree, Bound::Unbounded, Bound::Unbounded, Direction::Up);
        let mut next = 0u32;
        let mut see = |key: &[u8], value: &[u8]| {
            assert_eq!((key, value), (&next.to_be_bytes()[..], &[7; 9][..]));
            next += 1;
            Ok::<(), RowError>(())
        };
        while cursor.each(&txn, &mut see).await.unwrap() {}
        assert_eq!(next, 60_000);
        // A key that comes twice is found in a chunk, at its border, and while merging.
        for chunk in [1 << 20, 60, 200] {
            let mut sorter = Sorter::with_chunks(&tables, chunk);
            let mut outcome = Ok(());
            for key in [5u8, 9, 3, 1, 9, 2] {
                if outcome.is_ok() {
                    push(&mut sorter, &[key], &[]);
                    outcome = sorter.settle(&mut txn).await;
                }
            }
            let twice = match outcome {
                Ok(()) => sorter.finish(&mut txn).await.map(drop),
                failed => failed,
            };
            assert!(matches!(twice, Err(SortError::Twice(key)) if key == [9]));
        }
        txn.rollback().await.unwrap();
        // Trees of runs are gone with the commit.
        let before = tables.rows().trees().trees().await.unwrap().len();
        let mut txn = begin(&tables);
        let mut sorter = Sorter::with_chunks(&tables, 500);
        for number in 0..100u32 {
            push(&mut sorter, &[(number * 37 % 101) as u8], &[]);
            assert!(sorter.settle(&mut txn).await.is_ok());
        }
        assert!(sorter.finish(&mut txn).await.is_ok());
        txn.commit().await.unwrap();
        seams.sleep(Duration::from_secs(60)).await;
        assert_eq!(tables.rows().trees().trees().await.unwrap().len(), before + 1);
    });
}

#[test]
fn an_index_over_rows_that_are_there() {
    with_tables(21, async |_, tables| {
        let table = make(&tables, people("t", true)).await;
        fill(&tables, &table, &crowd(300)).await;
        let mut old = begin_as(&tables, Isolation::RepeatableRead);
        let mut txn = begin(&tables);
        let made = tables.create_index(&mut txn, &index("t", &["age"], true)).await.unwrap();
        assert_eq!(made.name, "t_age_idx");
        txn.commit().await.unwrap();
        let table = look_up(&tables, "t").await;
        // The snapshot from before can't use it, a new one can.
        assert!(!tables.readable(&mut old, &table, &table.indexes[0]).await.unwrap());
        drop(old);
        let mut txn = begin(&tables);
        assert!(tables.readable(&mut txn, &table, &table.indexes[0]).await.unwrap());
        let rows = by_index(&tables, &txn, &table, KeyRange::ALL).await;
        assert_eq!(rows.len(), 300);
        let ages: Vec<Datum> = rows.iter().map(|row| values(&table, row).remove(2)).collect();
        assert!(ages[..270].windows(2).all(|pair| matches!((&pair[0], &pair[1]), (Datum::Int4(a), Datum::Int4(b)) if a < b)));
        assert!(ages[270..].iter().all(|age| *age == Datum::Null));
        // Duplicates are named; nothing is left of the attempt.
        let error = tables.create_index(&mut txn, &index("t", &["name"], true)).await.unwrap_err();
        assert_eq!(state(&error), "23505");
        assert!(error.to_string().contains("t_name_idx"), "{error}");
        txn.rollback().await.unwrap();
        assert_eq!(check(&tables).await.findings, []);
        let mut txn = begin(&tables);
        tables.create_index(&mut txn, &index("t", &["name"], false)).await.unwrap();
        tables.create_index(&mut txn, &index("t", &["name"], false)).await.unwrap();
        tables.reindex(&mut txn, "t_name_idx").await.unwrap();
        tables.drop_index(&mut txn, "t_age_idx").await.unwrap();
        txn.commit().await.unwrap();
        let table = look_up(&tables, "t").await;
        let names: Vec<&str> = table.indexes.iter().map(|index| index.name.as_str()).collect();
        assert_eq!(names, ["t_name_idx", "t_name_idx1"]);
        assert_eq!(check(&tables).await.findings, []);
    });
}

#[test]
fn a_primary_key_added_later() {
    with_tables(22, async |_, tables| {
        let mut spec = people("t", false);
        spec.columns[0].not_null = false;
        let table = make(&tables, spec).await;
        let mut shuffled = crowd(300);
        shuffled.reverse();
        fill(&tables, &table, &shuffled).await;
        let mut txn = begin(&tables);
        tables.create_index(&mut txn, &index("t", &["age"], false)).await.unwrap();
        let before = txn.savepoint();
        let nulls = tables.add_primary_key(&mut txn, "t", &key(&["age"])).await.unwrap_err();
        assert_eq!((state(&nulls), nulls.to_string().contains("contains null values")), ("23502", true));
        txn.rollback_to(before).await.unwrap();
        let twice = tables.add_primary_key(&mut txn, "t", &key(&["name"])).await.unwrap_err();
        assert_eq!(state(&twice), "23505");
        txn.rollback_to(before).await.unwrap();
        let keyed = tables.add_primary_key(&mut txn, "t", &key(&["id"])).await.unwrap();
        assert_eq!(keyed.key.as_ref().unwrap().name, "t_pkey");
        txn.commit().await.unwrap();
        let table = look_up(&tables, "t").await;
        assert_eq!(table, keyed);
        let txn = begin(&tables);
        assert_eq!(ids(&table, &scan(&tables, &txn, &table).await), (0..300).collect::<Vec<_>>());
        assert_eq!(by_index(&tables, &txn, &table, KeyRange::ALL).await.len(), 300);
        drop(txn);
        assert_eq!(check(&tables).await.findings, []);
    });
}

#[test]
fn loads_go_in_batches_or_one_by_one() {
    with_tables(23, async |_, tables| {
        for keyed in [true, false] {
            for own in [true, false] {
                let name = format!("t_{keyed}_{own}");
                let mut txn = begin(&tables);
                let mut table = tables.create_table(&mut txn, people(&name, keyed)).await.unwrap();
                tables.create_index(&mut txn, &index(&name, &["age"], false)).await.unwrap();
                if !own {
                    txn.commit().await.unwrap();
                    txn = begin(&tables);
                }
                table = tables.table(&txn, &table.name).await.unwrap().unwrap();
                let mut loader = tables.loader(&mut txn, &table, false, true).await.unwrap();
                // The last ones aren't in order.
                for row in crowd(500).iter().skip(100).chain(&crowd(100)) {
                    loader.push(&mut txn, row).await.unwrap();
                }
                assert_eq!(loader.finish(&mut txn).await.unwrap(), 500);
                assert_eq!(scan(&tables, &txn, &table).await.len(), 500);
                let mut loader = tables.loader(&mut txn, &table, false, true).await.unwrap();
                if keyed {
                    let error = loader.push(&mut txn, &person(3, "x", None)).await.unwrap_err();
                    assert_eq!(state(&error), "23505");
                } else {
                    loader.push(&mut txn, &person(3, "x", None)).await.unwrap();
                    assert_eq!(loader.finish(&mut txn).await.unwrap(), 1);
                }
                txn.commit().await.unwrap();
            }
        }
        let report = check(&tables).await;
        assert_eq!(report.findings, []);
        assert_eq!(report.tables.iter().map(|table| table.rows).sum::<u64>(), 2002);
    });
}

/// Writers that go on while an index is built.
async fn write_on(tables: Tables, seams: Seams, seed: u64, rounds: u32) {
    let mut random = crate::base::Random::new(seed);
    for _ in 0..rounds {
        let mut txn = begin(&tables);
        let mut table = look_up(&tables, "t").await;
        loop {
            match tables.lock(&mut txn, table, crate::txn::TableLock::RowExclusive, Default::default()).await.unwrap() {
                Some(locked) => {
                    table = locked;
                    break;
                }
                None => table = look_up(&tables, "t").await,
            }
        }
        txn.begin_statement();
        for _ in 0..1 + random.below(3) {
            let id = random.below(600) as i32;
            let row = person(id, "w", Some(random.below(1000) as i32));
            let key = {
                let mut key = Vec::new();
                crate::table::datum::key::encode_key(&row[..1], &[Type::Int4], &mut key).unwrap();
                key
            };
            let outcome = match tables.get(&txn, &table, &key).await.unwrap() {
                Some(seen) if random.below(3) == 0 => tables.delete(&mut txn, &table, &seen).await.map(|removed| removed == Removed::Done),
                Some(seen) => tables.update(&mut txn, &table, &seen, &row).await.map(|updated| matches!(updated, Updated::Done { .. })),
                None => tables.insert(&mut txn, &table, &row).await.map(|added| matches!(added, Added::Done(_))),
            };
            match outcome {
                Ok(_) => {}
                Err(error) => assert_eq!(state(&error), "40P01", "{error}"),
            }
            seams.sleep(Duration::from_micros(random.below(300))).await;
        }
        if random.below(4) == 0 { txn.rollback().await.unwrap() } else { txn.commit().await.map(drop).unwrap() }
    }
}

#[test]
fn an_online_build_misses_nothing_that_others_write() {
    for seed in 0..12 {
        with_tables(100 + seed, async |seams, tables| {
            let table = make(&tables, people("t", true)).await;
            fill(&tables, &table, &crowd(500)).await;
            let mut done = Vec::new();
            for writer in 0..4 {
                let (send, receive) = tokio::sync::oneshot::channel();
                let writing = write_on(tables.clone(), seams.clone(), seed * 10 + writer, 60);
                seams.spawn(
                    "writer",
                    Box::pin(async move {
                        writing.await;
                        send.send(()).unwrap();
                    }),
                );
                done.push(receive);
            }
            seams.sleep(Duration::from_millis(2)).await;
            let built = tables.create_index_online(&index("t", &["age"], false), &Interrupt::default()).await.unwrap();
            assert_eq!(built.state, IndexState::Ready);
            let report = check(&tables).await;
            assert_eq!(report.findings, [], "seed {seed}, while others write");
            for receive in done {
                receive.await.unwrap();
            }
            let report = check(&tables).await;
            assert_eq!(report.findings, [], "seed {seed}");
            assert_eq!(report.tables[0].entries, [("t_age_idx".to_owned(), report.tables[0].rows)]);
        });
    }
}

#[test]
fn a_failed_online_build_stays_and_can_be_mended() {
    with_tables(24, async |_, tables| {
        let table = make(&tables, people("t", true)).await;
        fill(&tables, &table, &[person(1, "a", Some(1)), person(2, "b", Some(1)), person(3, "c", Some(3))]).await;
        let error = tables.create_index_online(&index("t", &["age"], true), &Interrupt::default()).await.unwrap_err();
        assert_eq!(state(&error), "23505");
        let table = look_up(&tables, "t").await;
        assert_eq!(table.indexes[0].state, IndexState::Building);
        let report = check(&tables).await;
        assert!(report.is_clean() && report.findings[0].to_string().contains("REINDEX"), "{report:?}");
        // Writers keep it up: neither of the two is kept from being deleted, and the other one's entry stays what it is.
        let mut txn = begin(&tables);
        assert!(!tables.readable(&mut txn, &table, &table.indexes[0]).await.unwrap());
        let rows = scan(&tables, &txn, &table).await;
        assert_eq!(tables.delete(&mut txn, &table, &rows[1]).await.unwrap(), Removed::Done);
        tables.reindex(&mut txn, "t_age_idx").await.unwrap();
        txn.commit().await.unwrap();
        let report = check(&tables).await;
        assert_eq!(report.findings, []);
        assert_eq!(report.tables[0].entries, [("t_age_idx".to_owned(), 2)]);
        let interrupt = Interrupt::default();
        interrupt.set();
        let cut = tables.create_index_online(&index("t", &["name"], false), &interrupt).await.unwrap_err();
        assert_eq!(state(&cut), "57014");
    });
}

#[test]
fn row_numbers_of_others_are_refused_where_they_are_taken() {
    with_tables(25, async |_, tables| {
        let table = make(&tables, people("t", false)).await;
        let mut txn = begin(&tables);
        add(&tables, &mut txn, &table, &person(1, "a", None)).await;
        let next = (1u64 << 48 | 2).to_be_bytes();
        assert_eq!(txn.insert(table.tree, &next, b"").await.unwrap(), Inserted::Done);
        assert_eq!(state(&tables.insert(&mut txn, &table, &person(2, "b", None)).await.unwrap_err()), "XX002");
    });
}

#[test]
fn an_index_made_under_an_old_snapshot_is_for_those_that_come_after() {
    with_tables(29, async |_, tables| {
        let table = make(&tables, people("t", true)).await;
        fill(&tables, &table, &crowd(50)).await;
        let mut txn = begin_as(&tables, Isolation::RepeatableRead);
        let made = tables.create_index(&mut txn, &index("t", &["age"], false)).await.unwrap();
        let own = tables.table(&txn, "t").await.unwrap().unwrap();
        // It holds what is there now, not what the snapshot sees.
        assert!(!tables.readable(&mut txn, &own, &own.indexes[0]).await.unwrap());
        txn.commit().await.unwrap();
        let table = look_up(&tables, "t").await;
        let mut txn = begin_as(&tables, Isolation::RepeatableRead);
        assert_eq!(table.indexes[0].id, made.id);
        assert!(tables.readable(&mut txn, &table, &table.indexes[0]).await.unwrap());
        assert_eq!(by_index(&tables, &txn, &table, KeyRange::ALL).await.len(), 50);
    });
}
