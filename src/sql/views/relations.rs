//! Tables, columns, indexes, constraints.

use super::{
    BOOL, CHAR, FALSE, INFORMATION, INT2, INT4, INT8S, NAME, NULL, OID, PG_CATALOG, PUBLIC, ROLE, TEXT, TEXTS, TRUE, View, all, int2, int4,
    nothing, oid, text,
};
use crate::sql::plan::Row;
use crate::sql::sequence::is_sequence;
use crate::sql::types::{Datum, SqlType};
use crate::sql::world::World;
use crate::table::catalog::{IndexState, Table};

const FLOAT: SqlType = super::FLOAT8;

/// Number of access method heap, and of btree.
const HEAP: u32 = 2;
const BTREE: u32 = 403;

fn class(id: u32, name: &str, schema: u32, kind: &str, (columns, keyed, indexed): (usize, bool, bool)) -> Row {
    let method = match kind {
        "r" => HEAP,
        "i" => BTREE,
        _ => 0,
    };
    vec![
        oid(id),
        text(name),
        oid(schema),
        oid(0),
        oid(0),
        oid(ROLE),
        oid(method),
        oid(id),
        oid(0),
        int4(0),
        Datum::Float8(-1.0),
        int4(0),
        oid(0),
        Datum::Bool(indexed),
        FALSE,
        text("p"),
        text(kind),
        int2(columns as i16),
        int2(0),
        FALSE,
        FALSE,
        FALSE,
        FALSE,
        FALSE,
        TRUE,
        text(if keyed { "d" } else { "n" }),
        FALSE,
        oid(0),
        oid(0),
        NULL,
        NULL,
        NULL,
        FALSE,
    ]
}

fn kind(table: &Table) -> &'static str {
    if is_sequence(table) { "S" } else { "r" }
}

fn pg_class(world: &World) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in &world.catalog.tables {
        let indexed = table.key.is_some() || !table.indexes.is_empty();
        rows.push(class(table.id, &table.name, PUBLIC, kind(table), (table.columns.len(), table.key.is_some(), indexed)));
        for (id, name, columns, ..) in indexes(table) {
            rows.push(class(id, name, PUBLIC, "i", (columns.len(), false, false)));
        }
    }
    for view in all() {
        let schema = if view.schema == "pg_catalog" { PG_CATALOG } else { INFORMATION };
        rows.push(class(view.oid, view.name, schema, if schema == PG_CATALOG { "r" } else { "v" }, (view.columns.len(), false, false)));
    }
    rows
}

/// Number, name, columns, unique, key, ready.
type Indexed<'t> = (u32, &'t str, &'t [u16], bool, bool, bool);

/// The key and the indexes of a table.
fn indexes(table: &Table) -> Vec<Indexed<'_>> {
    let key = table.key.iter().map(|key| (key.id, key.name.as_str(), key.columns.as_slice(), true, true, true));
    let others = table.indexes.iter().map(|index| {
        let ready = index.state == IndexState::Ready;
        (index.id, index.name.as_str(), index.columns.as_slice(), index.unique, false, ready)
    });
    key.chain(others).collect()
}

fn attribute(relation: u32, name: &str, ty: SqlType, number: usize, (not_null, default): (bool, bool)) -> Row {
    vec![
        oid(relation),
        text(name),
        oid(ty.oid()),
        int4(-1),
        int2(ty.len()),
        int2(number as i16),
        int4(0),
        int4(-1),
        int4(ty.typmod()),
        FALSE,
        text(if ty.len() < 0 { "x" } else { "p" }),
        text("i"),
        text(""),
        Datum::Bool(not_null),
        Datum::Bool(default),
        FALSE,
        text(""),
        text(""),
        FALSE,
        TRUE,
        int4(0),
        oid(if ty.is_text() { super::catalog::COLLATION } else { 0 }),
        NULL,
        NULL,
        NULL,
        NULL,
    ]
}

fn pg_attribute(world: &World) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in &world.catalog.tables {
        for (at, column) in table.columns.iter().enumerate() {
            let about = (column.not_null, column.default.is_some());
            rows.push(attribute(table.id, &column.name, column.ty.into(), at + 1, about));
        }
        for (id, _, columns, ..) in indexes(table) {
            for (at, position) in columns.iter().enumerate() {
                let column = &table.columns[usize::from(*position)];
                rows.push(attribute(id, &column.name, column.ty.into(), at + 1, (false, false)));
            }
        }
    }
    for view in all() {
        rows.extend(view.columns.iter().enumerate().map(|(at, (name, ty))| attribute(view.oid, name, *ty, at + 1, (false, false))));
    }
    rows
}

fn numbers(columns: &[u16]) -> String {
    columns.iter().map(|position| (position + 1).to_string()).collect::<Vec<_>>().join(" ")
}

fn zeros(columns: &[u16]) -> String {
    vec!["0"; columns.len()].join(" ")
}

fn pg_index(world: &World) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in &world.catalog.tables {
        for (id, _, columns, unique, primary, ready) in indexes(table) {
            rows.push(vec![
                oid(id),
                oid(table.id),
                int2(columns.len() as i16),
                int2(columns.len() as i16),
                Datum::Bool(unique),
                FALSE,
                Datum::Bool(primary),
                FALSE,
                TRUE,
                FALSE,
                Datum::Bool(ready),
                FALSE,
                TRUE,
                TRUE,
                FALSE,
                text(numbers(columns)),
                text(zeros(columns)),
                text(zeros(columns)),
                text(zeros(columns)),
                NULL,
                NULL,
            ]);
        }
    }
    rows
}

fn pg_constraint(world: &World) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in &world.catalog.tables {
        for (id, name, columns, unique, primary, _) in indexes(table) {
            // A unique index made by a constraint is named so.
            if !(primary || unique && name.ends_with("_key")) {
                continue;
            }
            let list = columns.iter().map(|position| (position + 1).to_string()).collect::<Vec<_>>().join(",");
            rows.push(vec![
                oid(id),
                text(name),
                oid(PUBLIC),
                text(if primary { "p" } else { "u" }),
                FALSE,
                FALSE,
                TRUE,
                oid(table.id),
                oid(0),
                oid(id),
                oid(0),
                oid(0),
                text(" "),
                text(" "),
                text(" "),
                TRUE,
                int4(0),
                TRUE,
                text(format!("{{{list}}}")),
                NULL,
                NULL,
            ]);
        }
    }
    rows
}

fn pg_attrdef(world: &World) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in &world.catalog.tables {
        for (at, column) in table.columns.iter().enumerate() {
            if let Some(default) = &column.default {
                let number = at as i16 + 1;
                rows.push(vec![oid((table.id << 11) + number as u32), oid(table.id), int2(number), text(default.clone())]);
            }
        }
    }
    rows
}

fn pg_tables(world: &World) -> Vec<Row> {
    let tables = world.catalog.tables.iter().filter(|table| !is_sequence(table));
    let row = |table: &std::sync::Arc<Table>| {
        let indexed = table.key.is_some() || !table.indexes.is_empty();
        vec![text("public"), text(&table.name), text(&world.options.role), NULL, Datum::Bool(indexed), FALSE, FALSE, FALSE]
    };
    tables.map(row).collect()
}

fn pg_indexes(world: &World) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in &world.catalog.tables {
        for (id, name, ..) in indexes(table) {
            let definition = crate::sql::describe::index(world, id, 0).unwrap_or_default();
            rows.push(vec![text("public"), text(&table.name), text(name), NULL, text(definition)]);
        }
    }
    rows
}

fn pg_sequence(world: &World) -> Vec<Row> {
    let sequences = world.catalog.tables.iter().filter(|table| is_sequence(table));
    let eight = |value| Datum::Int8(value);
    let row = |table: &std::sync::Arc<Table>| {
        vec![oid(table.id), oid(SqlType::INT8.oid()), eight(1), eight(1), eight(i64::MAX), eight(1), eight(1), FALSE]
    };
    sequences.map(row).collect()
}

pub(super) static VIEWS: &[View] = &[
    View {
        schema: "pg_catalog",
        name: "pg_class",
        oid: 1259,
        columns: &[
            ("oid", OID),
            ("relname", NAME),
            ("relnamespace", OID),
            ("reltype", OID),
            ("reloftype", OID),
            ("relowner", OID),
            ("relam", OID),
            ("relfilenode", OID),
            ("reltablespace", OID),
            ("relpages", INT4),
            ("reltuples", FLOAT),
            ("relallvisible", INT4),
            ("reltoastrelid", OID),
            ("relhasindex", BOOL),
            ("relisshared", BOOL),
            ("relpersistence", CHAR),
            ("relkind", CHAR),
            ("relnatts", INT2),
            ("relchecks", INT2),
            ("relhasrules", BOOL),
            ("relhastriggers", BOOL),
            ("relhassubclass", BOOL),
            ("relrowsecurity", BOOL),
            ("relforcerowsecurity", BOOL),
            ("relispopulated", BOOL),
            ("relreplident", CHAR),
            ("relispartition", BOOL),
            ("relfrozenxid", OID),
            ("relminmxid", OID),
            ("relacl", TEXTS),
            ("reloptions", TEXTS),
            ("relpartbound", TEXT),
            ("relhasoids", BOOL),
        ],
        make: pg_class,
    },
    View {
        schema: "pg_catalog",
        name: "pg_attribute",
        oid: 1249,
        columns: &[
            ("attrelid", OID),
            ("attname", NAME),
            ("atttypid", OID),
            ("attstattarget", INT4),
            ("attlen", INT2),
            ("attnum", INT2),
            ("attndims", INT4),
            ("attcacheoff", INT4),
            ("atttypmod", INT4),
            ("attbyval", BOOL),
            ("attstorage", CHAR),
            ("attalign", CHAR),
            ("attcompression", CHAR),
            ("attnotnull", BOOL),
            ("atthasdef", BOOL),
            ("atthasmissing", BOOL),
            ("attidentity", CHAR),
            ("attgenerated", CHAR),
            ("attisdropped", BOOL),
            ("attislocal", BOOL),
            ("attinhcount", INT4),
            ("attcollation", OID),
            ("attacl", TEXTS),
            ("attoptions", TEXTS),
            ("attfdwoptions", TEXTS),
            ("attmissingval", TEXT),
        ],
        make: pg_attribute,
    },
    View {
        schema: "pg_catalog",
        name: "pg_index",
        oid: 2610,
        columns: &[
            ("indexrelid", OID),
            ("indrelid", OID),
            ("indnatts", INT2),
            ("indnkeyatts", INT2),
            ("indisunique", BOOL),
            ("indnullsnotdistinct", BOOL),
            ("indisprimary", BOOL),
            ("indisexclusion", BOOL),
            ("indimmediate", BOOL),
            ("indisclustered", BOOL),
            ("indisvalid", BOOL),
            ("indcheckxmin", BOOL),
            ("indisready", BOOL),
            ("indislive", BOOL),
            ("indisreplident", BOOL),
            ("indkey", SqlType::Int2Vector),
            ("indcollation", SqlType::OidVector),
            ("indclass", SqlType::OidVector),
            ("indoption", SqlType::Int2Vector),
            ("indexprs", TEXT),
            ("indpred", TEXT),
        ],
        make: pg_index,
    },
    View {
        schema: "pg_catalog",
        name: "pg_constraint",
        oid: 2606,
        columns: &[
            ("oid", OID),
            ("conname", NAME),
            ("connamespace", OID),
            ("contype", CHAR),
            ("condeferrable", BOOL),
            ("condeferred", BOOL),
            ("convalidated", BOOL),
            ("conrelid", OID),
            ("contypid", OID),
            ("conindid", OID),
            ("conparentid", OID),
            ("confrelid", OID),
            ("confupdtype", CHAR),
            ("confdeltype", CHAR),
            ("confmatchtype", CHAR),
            ("conislocal", BOOL),
            ("coninhcount", INT4),
            ("connoinherit", BOOL),
            ("conkey", INT8S),
            ("confkey", INT8S),
            ("conbin", TEXT),
        ],
        make: pg_constraint,
    },
    View {
        schema: "pg_catalog",
        name: "pg_attrdef",
        oid: 2604,
        columns: &[("oid", OID), ("adrelid", OID), ("adnum", INT2), ("adbin", TEXT)],
        make: pg_attrdef,
    },
    View {
        schema: "pg_catalog",
        name: "pg_tables",
        oid: 12000,
        columns: &[
            ("schemaname", NAME),
            ("tablename", NAME),
            ("tableowner", NAME),
            ("tablespace", NAME),
            ("hasindexes", BOOL),
            ("hasrules", BOOL),
            ("hastriggers", BOOL),
            ("rowsecurity", BOOL),
        ],
        make: pg_tables,
    },
    View {
        schema: "pg_catalog",
        name: "pg_indexes",
        oid: 12001,
        columns: &[("schemaname", NAME), ("tablename", NAME), ("indexname", NAME), ("tablespace", NAME), ("indexdef", TEXT)],
        make: pg_indexes,
    },
    View {
        schema: "pg_catalog",
        name: "pg_sequence",
        oid: 2224,
        columns: &[
            ("seqrelid", OID),
            ("seqtypid", OID),
            ("seqstart", super::INT8),
            ("seqincrement", super::INT8),
            ("seqmax", super::INT8),
            ("seqmin", super::INT8),
            ("seqcache", super::INT8),
            ("seqcycle", BOOL),
        ],
        make: pg_sequence,
    },
    View {
        schema: "pg_catalog",
        name: "pg_views",
        oid: 12002,
        columns: &[("schemaname", NAME), ("viewname", NAME), ("viewowner", NAME), ("definition", TEXT)],
        make: nothing,
    },
    View {
        schema: "pg_catalog",
        name: "pg_matviews",
        oid: 12003,
        columns: &[("schemaname", NAME), ("matviewname", NAME), ("matviewowner", NAME), ("definition", TEXT)],
        make: nothing,
    },
];
