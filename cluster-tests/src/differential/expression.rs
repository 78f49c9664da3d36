//! Conditions and scalar expressions over the columns in scope.
//!
//! Conditions can't fail, because which rows a plan evaluates them on is its own business; scalar expressions may (overflow), and are used
//! where every row that qualifies is evaluated, by whatever plan.

use regroup::base::Random;

use super::sql::Sql;
use super::value::Kind;

/// Columns in scope: how to name them, and their types.
pub type Scope = Vec<(String, Kind)>;

const COMPARISONS: [&str; 7] = ["=", "=", "<>", "<", "<=", ">", ">="];

/// A condition that any row can be asked.
pub fn condition(sql: &mut Sql, random: &mut Random, scope: &Scope, depth: u32) {
    if depth > 0 && random.chance(0.4) {
        match random.below(5) {
            0 => {
                sql.put("NOT (");
                condition(sql, random, scope, depth - 1);
                sql.put(")");
            }
            1..=2 => joined(sql, random, scope, depth, " AND "),
            _ => joined(sql, random, scope, depth, " OR "),
        }
        return;
    }
    let (name, kind) = random.pick(scope).clone();
    match random.below(10) {
        0 => drop(sql.put(&name).put(if random.chance(0.5) { " IS NULL" } else { " IS NOT NULL" })),
        1 => {
            sql.put(&name).put(if random.chance(0.8) { " BETWEEN " } else { " NOT BETWEEN " });
            let (low, high) = (kind.value(random), kind.value(random));
            sql.value(random, kind, &low).put(" AND ").value(random, kind, &high);
        }
        2 => {
            sql.put(&name).put(if random.chance(0.8) { " IN (" } else { " NOT IN (" });
            for item in 0..=random.below(3) {
                sql.put(if item > 0 { ", " } else { "" });
                let value = kind.value(random);
                sql.value(random, kind, &value);
            }
            sql.put(")");
        }
        3 if kind.is_integer() || matches!(kind, Kind::Text | Kind::Date | Kind::Uuid) => {
            let values: Vec<String> = (0..random.below(4)).map(|_| kind.value(random).literal(kind)).collect();
            sql.put(&format!("{name} = ANY (ARRAY[{}]::{}[])", values.join(", "), kind.sql()));
        }
        3 if kind.is_text() => like(sql, random, &name),
        4 if kind == Kind::Bool => drop(sql.put(&name)),
        5 if kind.is_integer() => {
            let divisor = random.within(2..6);
            sql.put(&format!("{name} % {divisor} = {}", random.below(divisor)));
        }
        6 if kind.is_number() && kind != Kind::Float8 => {
            let value = Kind::Int4.value(random).literal(Kind::Int4);
            sql.put(&format!(
                "{name}::numeric {} {value} {} {}",
                random.pick(&["+", "-", "*"]),
                random.pick(&COMPARISONS),
                random.below(20)
            ));
        }
        7 => {
            // Two columns of one type, or a column with itself, which asks about nulls.
            let others: Vec<_> = scope.iter().filter(|other| other.1 == kind).collect();
            sql.put(&format!("{name} {} {}", random.pick(&COMPARISONS), random.pick(&others).0));
        }
        8 if kind.is_text() => drop(sql.put(&format!("length({name}) {} {}", random.pick(&COMPARISONS), random.below(6)))),
        _ => {
            let value = kind.value(random);
            let comparison = *random.pick(&COMPARISONS);
            if random.chance(0.8) {
                sql.put(&format!("{name} {comparison} ")).value(random, kind, &value);
            } else {
                sql.value(random, kind, &value).put(&format!(" {comparison} {name}"));
            }
        }
    }
}

fn joined(sql: &mut Sql, random: &mut Random, scope: &Scope, depth: u32, word: &str) {
    sql.put("(");
    condition(sql, random, scope, depth - 1);
    sql.put(word);
    condition(sql, random, scope, depth - 1);
    sql.put(")");
}

fn like(sql: &mut Sql, random: &mut Random, name: &str) {
    let pattern = *random.pick(&["a%", "%a%", "%b", "_", "__", "%", "", "x y", "100\\%", "under\\_%", "é"]);
    sql.put(&format!("{name} {} '{pattern}'", if random.chance(0.8) { "LIKE" } else { "NOT LIKE" }));
}

/// An expression for a select list.
pub fn scalar(sql: &mut Sql, random: &mut Random, scope: &Scope) {
    let (name, kind) = random.pick(scope).clone();
    match (random.below(9), kind) {
        (0, _) if kind.is_number() => {
            let operator = *random.pick(&["+", "-", "*"]);
            let other = number(random, kind);
            sql.put(&format!("{name} {operator} {other}"));
        }
        (1, _) if kind.is_integer() => {
            let divisor = random.within(2..6);
            sql.put(&format!("{name} {} {divisor}", random.pick(&["/", "%"])));
        }
        (1, Kind::Numeric(_)) => drop(sql.put(&format!("{name} / {}", random.pick(&["3", "7.5", "100"])))),
        (2, _) if kind.is_number() => drop(sql.put(&format!("-{name}"))),
        (3, _) if kind.is_text() => drop(sql.put(&format!("{}({name})", random.pick(&["length", "upper", "lower"])))),
        (4, Kind::Text | Kind::Varchar(_)) => drop(sql.put(&format!("{name} || '-' || {name}"))),
        (5, _) => {
            sql.put(&format!("coalesce({name}, "));
            let value = kind.value(random);
            sql.value(random, kind, &value).put(")");
        }
        (6, _) => {
            sql.put("CASE WHEN ");
            condition(sql, random, scope, 1);
            sql.put(&format!(" THEN {name} ELSE NULL END"));
        }
        (7, _) => drop(sql.put(&format!("{name}::text"))),
        (8, _) => {
            condition(sql, random, scope, 1);
            if random.chance(0.5) {
                sql.put(" AS flag");
            }
        }
        _ => drop(sql.put(&name)),
    }
}

/// A number to reckon with beside a column of `kind`, of whose type there is no doubt.
fn number(random: &mut Random, kind: Kind) -> String {
    match kind {
        Kind::Float8 => format!("{}::float8", random.pick(&["0.5", "2", "1.25"])),
        Kind::Numeric(_) => random.pick(&["0.5", "2", "1.25", "10.00"]).to_string(),
        _ => random.pick(&["1", "2", "3", "10", "2::bigint", "1.5"]).to_string(),
    }
}

/// A new value for a column, from its row: for UPDATE's SET. Equal values must keep equal texts, so numerics without scale get
/// literals only.
pub fn assigned(sql: &mut Sql, random: &mut Random, name: &str, kind: Kind) {
    match kind {
        Kind::Int2 | Kind::Int4 | Kind::Int8 if random.chance(0.5) => {
            sql.put(&format!("{name} {} {}", random.pick(&["+", "-"]), random.within(1..5)));
        }
        Kind::Numeric(Some(_)) if random.chance(0.4) => drop(sql.put(&format!("{name} + {}", random.pick(&["1", "0.5", "-2.25"])))),
        Kind::Float8 if random.chance(0.4) => drop(sql.put(&format!("{name} + 0.5"))),
        Kind::Bool if random.chance(0.4) => drop(sql.put(&format!("NOT {name}"))),
        Kind::Text if random.chance(0.3) => drop(sql.put(&format!("{name} || 'x'"))),
        _ => {
            let value = kind.value(random);
            sql.value(random, kind, &value);
        }
    }
}
