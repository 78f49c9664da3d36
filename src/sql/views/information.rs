//! `information_schema`: tables, columns, constraints as the standard has them.

use super::{INT4, NAME, NULL, TEXT, View, int4, text};
use crate::sql::plan::Row;
use crate::sql::sequence::is_sequence;
use crate::sql::types::{SqlType, Type};
use crate::sql::world::World;

fn schemata(world: &World) -> Vec<Row> {
    let row = |name: &str| vec![text(&world.options.database), text(name), text(&world.options.role)];
    ["pg_catalog", "public", "information_schema"].into_iter().map(row).collect()
}

fn tables(world: &World) -> Vec<Row> {
    let row = |schema: &str, name: &str, kind: &str| {
        vec![text(&world.options.database), text(schema), text(name), text(kind), text("YES"), text("NO")]
    };
    let own = world.catalog.tables.iter().filter(|table| !is_sequence(table)).map(|table| row("public", &table.name, "BASE TABLE"));
    own.chain(super::all().map(|view| row(view.schema, view.name, "VIEW"))).collect()
}

fn columns(world: &World) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in world.catalog.tables.iter().filter(|table| !is_sequence(table)) {
        for (at, column) in table.columns.iter().enumerate() {
            let ty = SqlType::from(column.ty);
            let length = match column.ty {
                Type::Varchar(Some(length)) | Type::Char(length) => int4(length as i32),
                _ => NULL,
            };
            let (precision, scale) = match column.ty {
                Type::Int2 => (int4(16), int4(0)),
                Type::Int4 => (int4(32), int4(0)),
                Type::Int8 => (int4(64), int4(0)),
                Type::Float8 => (int4(53), NULL),
                Type::Numeric(Some((precision, scale))) => (int4(i32::from(precision)), int4(i32::from(scale))),
                _ => (NULL, NULL),
            };
            rows.push(vec![
                text(&world.options.database),
                text("public"),
                text(&table.name),
                text(&column.name),
                int4(at as i32 + 1),
                column.default.clone().map_or(NULL, text),
                text(if column.not_null { "NO" } else { "YES" }),
                text(ty.display_name()),
                length,
                precision,
                scale,
                text(ty.base().name()),
                text("NO"),
            ]);
        }
    }
    rows
}

/// Table, constraint, kind and columns of all keys and unique constraints.
fn constraints(world: &World) -> Vec<(&str, &str, &'static str, Vec<&str>)> {
    let mut found = Vec::new();
    for table in &world.catalog.tables {
        let names = |positions: &[u16]| positions.iter().map(|at| table.columns[usize::from(*at)].name.as_str()).collect();
        if let Some(key) = &table.key {
            found.push((table.name.as_str(), key.name.as_str(), "PRIMARY KEY", names(&key.columns)));
        }
        for index in table.indexes.iter().filter(|index| index.unique && index.name.ends_with("_key")) {
            found.push((table.name.as_str(), index.name.as_str(), "UNIQUE", names(&index.columns)));
        }
    }
    found
}

fn table_constraints(world: &World) -> Vec<Row> {
    let database = &world.options.database;
    let row = |(table, name, kind, _): (&str, &str, &str, Vec<&str>)| {
        vec![text(database), text("public"), text(name), text(database), text("public"), text(table), text(kind), text("NO"), text("NO")]
    };
    constraints(world).into_iter().map(row).collect()
}

fn key_column_usage(world: &World) -> Vec<Row> {
    let database = &world.options.database;
    let mut rows = Vec::new();
    for (table, name, _, columns) in constraints(world) {
        for (at, column) in columns.iter().enumerate() {
            rows.push(vec![text(database), text("public"), text(name), text("public"), text(table), text(*column), int4(at as i32 + 1)]);
        }
    }
    rows
}

const fn view(name: &'static str, oid: u32, columns: &'static [(&'static str, SqlType)], make: fn(&World) -> Vec<Row>) -> View {
    View { schema: "information_schema", name, oid, columns, make }
}

pub(super) static VIEWS: &[View] = &[
    view("schemata", 13001, &[("catalog_name", NAME), ("schema_name", NAME), ("schema_owner", NAME)], schemata),
    view(
        "tables",
        13002,
        &[
            ("table_catalog", NAME),
            ("table_schema", NAME),
            ("table_name", NAME),
            ("table_type", TEXT),
            ("is_insertable_into", TEXT),
            ("is_typed", TEXT),
        ],
        tables,
    ),
    view(
        "columns",
        13003,
        &[
            ("table_catalog", NAME),
            ("table_schema", NAME),
            ("table_name", NAME),
            ("column_name", NAME),
            ("ordinal_position", INT4),
            ("column_default", TEXT),
            ("is_nullable", TEXT),
            ("data_type", TEXT),
            ("character_maximum_length", INT4),
            ("numeric_precision", INT4),
            ("numeric_scale", INT4),
            ("udt_name", NAME),
            ("is_identity", TEXT),
        ],
        columns,
    ),
    view(
        "table_constraints",
        13004,
        &[
            ("constraint_catalog", NAME),
            ("constraint_schema", NAME),
            ("constraint_name", NAME),
            ("table_catalog", NAME),
            ("table_schema", NAME),
            ("table_name", NAME),
            ("constraint_type", TEXT),
            ("is_deferrable", TEXT),
            ("initially_deferred", TEXT),
        ],
        table_constraints,
    ),
    view(
        "key_column_usage",
        13005,
        &[
            ("constraint_catalog", NAME),
            ("constraint_schema", NAME),
            ("constraint_name", NAME),
            ("table_schema", NAME),
            ("table_name", NAME),
            ("column_name", NAME),
            ("ordinal_position", INT4),
        ],
        key_column_usage,
    ),
];
