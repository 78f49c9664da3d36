//! Random statements on a table with indexes against a list of rows, with savepoints and rollbacks.

use std::collections::BTreeMap;

use super::*;
use crate::base::Random;
use crate::table::tables::{Removed, Updated};

type Model = BTreeMap<i32, (String, Option<i32>)>;

fn free(model: &Model, id: i32, age: Option<i32>, except: Option<i32>) -> bool {
    let age_taken = age.is_some() && model.iter().any(|(other, (_, has))| Some(*other) != except && *has == age);
    let id_taken = except != Some(id) && model.contains_key(&id);
    !age_taken && !id_taken
}

async fn step(tables: &Tables, txn: &mut Transaction, table: &Table, model: &mut Model, random: &mut Random) {
    let (id, age) = (random.below(40) as i32, (random.below(4) != 0).then(|| random.below(60) as i32));
    let name = format!("n{}", random.below(5));
    let row = person(id, &name, age);
    let rows = scan(tables, txn, table).await;
    let pick = (!rows.is_empty()).then(|| random.below(rows.len() as u64) as usize);
    match (random.below(3), pick) {
        (0, _) | (_, None) => {
            let added = tables.insert(txn, table, &row).await.unwrap();
            assert_eq!(matches!(added, Added::Done(_)), free(model, id, age, None), "{added:?}");
            if let Added::Done(_) = added {
                model.insert(id, (name, age));
            }
        }
        (1, Some(at)) => {
            let old = ids(table, &rows[at..=at])[0];
            let updated = tables.update(txn, table, &rows[at], &row).await.unwrap();
            assert_eq!(matches!(updated, Updated::Done { .. }), free(model, id, age, Some(old)), "{updated:?}");
            if let Updated::Done { .. } = updated {
                model.remove(&old);
                model.insert(id, (name, age));
            }
        }
        (_, Some(at)) => {
            assert_eq!(tables.delete(txn, table, &rows[at]).await.unwrap(), Removed::Done);
            model.remove(&ids(table, &rows[at..=at])[0]);
        }
    }
}

async fn same(tables: &Tables, txn: &Transaction, table: &Arc<Table>, model: &Model) {
    let expected: Vec<Vec<Datum>> = model.iter().map(|(id, (name, age))| person(*id, name, *age)).collect();
    let rows: Vec<Vec<Datum>> = scan(tables, txn, table).await.iter().map(|row| values(table, row)).collect();
    assert_eq!(rows, expected);
    let mut by_age: Vec<(bool, Option<i32>, i32)> = model.iter().map(|(id, (_, age))| (age.is_none(), *age, *id)).collect();
    by_age.sort_unstable();
    let expected: Vec<i32> = by_age.into_iter().map(|(_, _, id)| id).collect();
    assert_eq!(ids(table, &by_index(tables, txn, table, KeyRange::ALL).await), expected);
}

#[test]
fn random_statements_with_savepoints() {
    for seed in 0..20 {
        with_tables(200 + seed, async |_, tables| {
            let mut random = Random::new(seed);
            let mut spec = people("t", true);
            spec.unique = vec![key(&["age"])];
            make(&tables, spec).await;
            let mut txn = begin(&tables);
            tables.create_index(&mut txn, &index("t", &["name", "age"], false)).await.unwrap();
            txn.commit().await.unwrap();
            let table = look_up(&tables, "t").await;
            let mut committed = Model::new();
            for _ in 0..12 {
                let mut txn = begin(&tables);
                let mut model = committed.clone();
                let mut savepoints = Vec::new();
                for _ in 0..random.below(25) {
                    match random.below(10) {
                        0 => savepoints.push((txn.savepoint(), model.clone())),
                        1 if !savepoints.is_empty() => {
                            let at = random.below(savepoints.len() as u64) as usize;
                            let (savepoint, then) = savepoints[at].clone();
                            savepoints.truncate(at + 1);
                            txn.rollback_to(savepoint).await.unwrap();
                            model = then;
                        }
                        _ => {
                            txn.end_statement();
                            txn.begin_statement();
                            step(&tables, &mut txn, &table, &mut model, &mut random).await;
                        }
                    }
                    same(&tables, &txn, &table, &model).await;
                }
                if random.below(3) == 0 {
                    txn.rollback().await.unwrap();
                } else {
                    txn.commit().await.unwrap();
                    committed = model;
                }
                let txn = begin(&tables);
                same(&tables, &txn, &table, &committed).await;
            }
            assert_eq!(check(&tables).await.findings, [], "seed {seed}");
        });
    }
}
