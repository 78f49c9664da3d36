//! The statements: each function writes one.
//!
//! Overlong strings, nulls where none may be, and duplicates come by chance; a row has at most one such fault, and faults of other kinds
//! are the business of `wrong`.

use regroup::base::Random;

use super::expression::{Scope, assigned, condition, scalar};
use super::schema::{Column, Index, Table};
use super::sql::Sql;
use super::value::{Kind, Value};

fn scope(table: &Table, prefix: &str) -> Scope {
    table.columns.iter().map(|column| (format!("{prefix}{}", column.name), column.kind)).collect()
}

/// A value for a column: null where that is allowed, now and then.
fn value_for(random: &mut Random, column: &Column) -> Value {
    if !column.not_null && random.chance(0.12) { Value::Null } else { column.kind.value(random) }
}

/// What the column refuses, or takes only after cutting it to size.
fn refused(column: &Column) -> String {
    match column.kind {
        _ if column.not_null => "NULL".into(),
        Kind::Varchar(length) | Kind::Char(length) => format!("'{}'", "äx".repeat(length as usize)),
        Kind::Numeric(Some((precision, scale))) => format!("1{}.005", "0".repeat(usize::from(precision - scale))),
        Kind::Int2 => "40000".into(),
        Kind::Int4 => "3000000000".into(),
        Kind::Int8 => "9223372036854775808".into(),
        Kind::Bool => "5".into(),
        Kind::Text => "'kept   '".into(),
        Kind::Float8 => "'1e999'".into(),
        _ => "'neither'".into(),
    }
}

/// CREATE TABLE.
pub fn create_table(sql: &mut Sql, random: &mut Random, name: &str) -> Table {
    let mut columns: Vec<Column> = (0..random.within(2..7))
        .map(|position| {
            let kind = Kind::any(random);
            let default = random.chance(0.2).then(|| kind.value(random));
            Column { name: format!("c{position}"), kind, not_null: random.chance(0.25), default }
        })
        .collect();
    let wanted = match random.below(10) {
        0..=2 => 0,
        3..=7 => 1,
        _ => 2,
    };
    // Keys of few values would leave tables all but empty.
    let fit = |kind: Kind| kind != Kind::Bool && kind != Kind::Char(1);
    let mut key: Vec<usize> = (0..columns.len()).filter(|&column| fit(columns[column].kind)).collect();
    random.shuffle(&mut key);
    key.truncate(wanted);
    sql.put(&format!("CREATE TABLE {name} ("));
    let inline = key.len() == 1 && random.chance(0.5);
    for (position, column) in columns.iter().enumerate() {
        sql.put(if position > 0 { ", " } else { "" }).put(&format!("{} {}", column.name, column.kind.sql()));
        if column.not_null {
            sql.put(" NOT NULL");
        }
        if let Some(default) = &column.default {
            sql.put(&format!(" DEFAULT {}", default.literal(column.kind)));
        }
        if inline && key[0] == position {
            sql.put(" PRIMARY KEY");
        }
    }
    if !inline && !key.is_empty() {
        let names: Vec<_> = key.iter().map(|&column| columns[column].name.as_str()).collect();
        sql.put(&format!(", PRIMARY KEY ({})", names.join(", ")));
    }
    sql.put(")");
    key.iter().for_each(|&column| columns[column].not_null = true);
    Table { name: name.into(), columns, key, indexes: Vec::new() }
}

/// CREATE INDEX.
pub fn create_index(sql: &mut Sql, random: &mut Random, table: &Table, name: &str) -> Index {
    let mut columns: Vec<usize> = (0..table.columns.len()).collect();
    random.shuffle(&mut columns);
    columns.truncate(random.within(1..3) as usize);
    let unique = random.chance(0.25);
    sql.put(&format!("CREATE {}INDEX {name} ON {} ({})", if unique { "UNIQUE " } else { "" }, table.name, table.names(&columns)));
    Index { name: name.into(), unique, columns }
}

/// Columns that an INSERT names: all in order without naming them, all shuffled, or all but some that may be left out.
fn inserted_columns(sql: &mut Sql, random: &mut Random, table: &Table) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..table.columns.len()).collect();
    match random.below(3) {
        0 => return columns,
        1 => random.shuffle(&mut columns),
        _ => columns.retain(|&column| {
            let column = &table.columns[column];
            (column.not_null && column.default.is_none()) || random.chance(0.7)
        }),
    }
    if columns.is_empty() {
        columns.push(0);
    }
    sql.put(&format!(" ({})", table.names(&columns)));
    columns
}

/// INSERT of one row or several; with or without ON CONFLICT and RETURNING.
pub fn insert(sql: &mut Sql, random: &mut Random, table: &Table, conflict: bool) {
    sql.put(&format!("INSERT INTO {}", table.name));
    let columns = inserted_columns(sql, random, table);
    sql.put(" VALUES ");
    let rows = if random.chance(0.4) { random.within(2..8) } else { 1 };
    let faulty = (rows == 1 && random.chance(0.08)).then(|| *random.pick(&columns));
    sql.list(", ", 0..rows, |sql, _| {
        sql.put("(");
        sql.list(", ", &columns, |sql, &position| {
            let column = &table.columns[position];
            if faulty == Some(position) {
                sql.put(&refused(column));
                return;
            }
            if random.chance(0.05) && (column.default.is_some() || !column.not_null) {
                sql.put("DEFAULT");
                return;
            }
            let value = value_for(random, column);
            sql.value(random, column.kind, &value);
        });
        sql.put(")");
    });
    if conflict {
        on_conflict(sql, random, table);
    }
    returning(sql, random, table, 0.3);
}

fn on_conflict(sql: &mut Sql, random: &mut Random, table: &Table) {
    let arbiters = table.arbiters();
    if arbiters.is_empty() || random.chance(0.2) {
        sql.put(" ON CONFLICT DO NOTHING");
        return;
    }
    let arbiter = random.pick(&arbiters).clone();
    sql.put(&format!(" ON CONFLICT ({})", table.names(&arbiter)));
    let settable: Vec<&Column> =
        table.columns.iter().enumerate().filter(|(position, _)| !arbiter.contains(position)).map(|(_, column)| column).collect();
    // Where another unique index could fail too, which row meets which first would matter.
    if settable.is_empty() || arbiters.len() > 1 || random.chance(0.3) {
        sql.put(" DO NOTHING");
        return;
    }
    let column = *random.pick(&settable);
    sql.put(&format!(" DO UPDATE SET {} = ", column.name));
    match random.below(3) {
        0 => drop(sql.put(&format!("excluded.{}", column.name))),
        1 if column.kind.is_integer() => drop(sql.put(&format!("{}.{} + 1", table.name, column.name))),
        _ => {
            let value = value_for(random, column);
            sql.value(random, column.kind, &value);
        }
    }
    if random.chance(0.2) {
        sql.put(" WHERE ");
        condition(sql, random, &scope(table, &format!("{}.", table.name)), 0);
    }
}

fn returning(sql: &mut Sql, random: &mut Random, table: &Table, chance: f64) {
    if !random.chance(chance) {
        return;
    }
    if random.chance(0.4) {
        sql.put(" RETURNING *");
        return;
    }
    sql.put(" RETURNING ");
    let scope = scope(table, "");
    sql.list(", ", 0..random.within(1..4), |sql, _| {
        let name = random.pick(&scope).0.clone();
        sql.put(&name);
    });
}

/// WHERE by chance; by the key's equality often, since that is what clients do.
fn filter(sql: &mut Sql, random: &mut Random, table: &Table, chance: f64) {
    if !random.chance(chance) {
        return;
    }
    sql.put(" WHERE ");
    if !table.key.is_empty() && random.chance(0.4) {
        sql.list(" AND ", &table.key, |sql, &column| {
            let column = &table.columns[column];
            let value = column.kind.value(random);
            sql.put(&format!("{} = ", column.name)).value(random, column.kind, &value);
        });
        return;
    }
    condition(sql, random, &scope(table, ""), 2);
}

/// Columns that are in no unique index or key: an UPDATE of many rows may set them without the order of rows mattering.
fn free_columns(table: &Table) -> Vec<&Column> {
    let arbiters = table.arbiters();
    let free = |position: &usize| !arbiters.iter().any(|columns| columns.contains(position));
    (0..table.columns.len()).filter(free).map(|position| &table.columns[position]).collect()
}

/// UPDATE: of columns outside keys by any condition, or of a key's column in the row of one key.
pub fn update(sql: &mut Sql, random: &mut Random, table: &Table) {
    let free = free_columns(table);
    sql.put(&format!("UPDATE {} SET ", table.name));
    if !table.key.is_empty() && (free.is_empty() || random.chance(0.2)) {
        let column = &table.columns[*random.pick(&table.key)];
        let value = column.kind.value(random);
        sql.put(&format!("{} = ", column.name)).value(random, column.kind, &value);
        sql.put(" WHERE ");
        sql.list(" AND ", &table.key, |sql, &column| {
            let column = &table.columns[column];
            let value = column.kind.value(random);
            sql.put(&format!("{} = ", column.name)).value(random, column.kind, &value);
        });
    } else if free.is_empty() {
        // Every column is in a unique index, and there is no key: change nothing.
        sql.put(&format!("{0} = {0}", table.columns[0].name));
    } else {
        let column = *random.pick(&free);
        let second = free.iter().find(|other| other.name != column.name).filter(|_| random.chance(0.3));
        sql.list(", ", [Some(&column), second].into_iter().flatten(), |sql, column| {
            sql.put(&format!("{} = ", column.name));
            assigned(sql, random, &column.name, column.kind);
        });
        filter(sql, random, table, 0.9);
    }
    returning(sql, random, table, 0.2);
}

/// DELETE.
pub fn delete(sql: &mut Sql, random: &mut Random, table: &Table) {
    sql.put(&format!("DELETE FROM {}", table.name));
    filter(sql, random, table, 0.97);
    returning(sql, random, table, 0.2);
}

/// SELECT from one table. True when its rows come in one order only.
pub fn select(sql: &mut Sql, random: &mut Random, table: &Table) -> bool {
    let all = scope(table, "");
    let limited = random.chance(0.3);
    sql.put("SELECT ");
    if random.chance(0.3) {
        sql.put("*");
    } else {
        sql.list(", ", 0..random.within(1..5), |sql, _| {
            // What a limit leaves out may be evaluated or not.
            if limited || random.chance(0.5) {
                let name = random.pick(&all).0.clone();
                sql.put(&name);
            } else {
                scalar(sql, random, &all);
            }
        });
    }
    sql.put(&format!(" FROM {}", table.name));
    filter(sql, random, table, 0.7);
    if !limited && random.chance(0.5) {
        return false;
    }
    let ordered = order_by(sql, random, table);
    if limited && ordered {
        sql.put(&format!(" LIMIT {}", random.below(8)));
        if random.chance(0.3) {
            sql.put(&format!(" OFFSET {}", random.below(5)));
        }
    }
    ordered
}

/// ORDER BY that leaves no choice. False when equal rows could look different (numerics without a scale).
fn order_by(sql: &mut Sql, random: &mut Random, table: &Table) -> bool {
    let mut columns: Vec<usize> = (0..table.columns.len()).collect();
    random.shuffle(&mut columns);
    columns.truncate(2);
    let mut identity = table.identity();
    identity.retain(|column| !columns.contains(column));
    if !table.key.is_empty() && random.chance(0.3) {
        columns.clear();
        identity = table.key.clone();
    }
    sql.put(" ORDER BY ");
    sql.list(", ", columns.iter().chain(&identity), |sql, &column| {
        sql.put(&table.columns[column].name);
        sql.put(random.pick::<&str>(&["", "", " ASC", " DESC", " DESC"]));
        sql.put(random.pick::<&str>(&["", "", "", " NULLS FIRST", " NULLS LAST"]));
    });
    true
}

/// SELECT FOR UPDATE; whether it may wait for somebody.
pub fn select_for_update(sql: &mut Sql, random: &mut Random, table: &Table) -> bool {
    sql.put(&format!("SELECT * FROM {}", table.name));
    filter(sql, random, table, 0.9);
    let busy = *random.pick(&["", " NOWAIT", " SKIP LOCKED"]);
    sql.put(" FOR UPDATE").put(busy);
    busy.is_empty()
}

fn aggregate(sql: &mut Sql, random: &mut Random, scope: &Scope) {
    let (name, kind) = random.pick(scope).clone();
    match random.below(6) {
        0 => drop(sql.put("count(*)")),
        1..=2 if kind.is_number() => drop(sql.put(&format!("{}({name})", random.pick(&["sum", "avg"])))),
        3..=4 if kind.has_extremes() => drop(sql.put(&format!("{}({name})", random.pick(&["min", "max"])))),
        _ => drop(sql.put(&format!("count({name})"))),
    }
    if random.chance(0.2) {
        sql.put(&format!(" AS a{}", random.below(100)));
    }
}

/// SELECT of aggregates over one table.
pub fn aggregates(sql: &mut Sql, random: &mut Random, table: &Table) {
    sql.put("SELECT ");
    let all = scope(table, "");
    // One alone may be found by an index.
    let count = if random.chance(0.4) { 1 } else { random.within(2..4) };
    sql.list(", ", 0..count, |sql, _| aggregate(sql, random, &all));
    sql.put(&format!(" FROM {}", table.name));
    filter(sql, random, table, 0.5);
}

/// SELECT .. GROUP BY. True when its rows come in one order only.
pub fn grouped(sql: &mut Sql, random: &mut Random, table: &Table) -> bool {
    let all = scope(table, "");
    let (group, _) = random.pick(&all).clone();
    sql.put(&format!("SELECT {group}, "));
    sql.list(", ", 0..random.within(1..3), |sql, _| aggregate(sql, random, &all));
    sql.put(&format!(" FROM {}", table.name));
    filter(sql, random, table, 0.4);
    sql.put(&format!(" GROUP BY {group}"));
    if random.chance(0.2) {
        sql.put(&format!(" HAVING count(*) > {}", random.below(3)));
    }
    let ordered = random.chance(0.5);
    if ordered {
        sql.put(&format!(" ORDER BY {}{}", random.pick(&[group.as_str(), "1"]), random.pick(&["", " DESC"])));
    }
    ordered
}

/// SELECT from two tables (or one with itself); none when they have no columns to compare.
pub fn join(sql: &mut Sql, random: &mut Random, left: &Table, right: &Table) -> Option<()> {
    let (a, b) = (scope(left, "a."), scope(right, "b."));
    let comparable = |left: Kind, right: Kind| left == right || (left.is_integer() && right.is_integer());
    let pairs: Vec<(String, String)> =
        a.iter().flat_map(|x| b.iter().filter(move |y| comparable(x.1, y.1)).map(move |y| (x.0.clone(), y.0.clone()))).collect();
    if pairs.is_empty() {
        return None;
    }
    let (x, y) = random.pick(&pairs).clone();
    let both: Scope = a.into_iter().chain(b).collect();
    sql.put("SELECT ");
    if random.chance(0.2) {
        sql.put("count(*)");
    } else {
        sql.list(", ", 0..random.within(1..5), |sql, _| {
            let name = random.pick(&both).0.clone();
            sql.put(&name);
        });
    }
    if random.chance(0.25) {
        sql.put(&format!(" FROM {} a, {} b WHERE {x} = {y}", left.name, right.name));
    } else {
        let kind = *random.pick(&["JOIN", "INNER JOIN", "LEFT JOIN"]);
        sql.put(&format!(" FROM {} a {kind} {} AS b ON {x} = {y} WHERE ", left.name, right.name));
        condition(sql, random, &both, 1);
        return Some(());
    }
    if random.chance(0.5) {
        sql.put(" AND ");
        condition(sql, random, &both, 1);
    }
    Some(())
}

/// What COPY FROM STDIN gets for some rows of these columns, in text format.
pub fn copy_rows(random: &mut Random, table: &Table, columns: &[usize]) -> String {
    let mut rows = String::new();
    for _ in 0..random.within(1..6) {
        let fields: Vec<String> = columns
            .iter()
            .map(|&column| {
                let column = &table.columns[column];
                let text = value_for(random, column).text(column.kind);
                text.map_or("\\N".into(), |text| text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n"))
            })
            .collect();
        rows.push_str(&fields.join("\t"));
        rows.push('\n');
    }
    rows
}
