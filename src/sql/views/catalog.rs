//! Schemas, types, roles, settings, sessions; and what is always empty.

use super::{
    BOOL, CHAR, DATABASE, FALSE, FLOAT8, INFORMATION, INT2, INT4, INT8, NAME, NULL, OID, PG_CATALOG, PUBLIC, ROLE, TEXT, TEXTS, TRUE, View,
    int2, int4, nothing, oid, text,
};
use crate::sql::plan::Row;
use crate::sql::sequence::is_sequence;
use crate::sql::types::{Datum, SqlType, names};
use crate::sql::world::World;

/// Number of the default collation.
pub(super) const COLLATION: u32 = 100;

fn pg_namespace(_: &World) -> Vec<Row> {
    let schemas = [(PG_CATALOG, "pg_catalog"), (PUBLIC, "public"), (INFORMATION, "information_schema")];
    schemas.iter().map(|(id, name)| vec![oid(*id), text(*name), oid(ROLE), NULL]).collect()
}

fn pg_type(_: &World) -> Vec<Row> {
    let mut rows = Vec::new();
    for info in names::TYPES {
        let collation = if info.ty.is_text() { COLLATION } else { 0 };
        let kind = if info.category == 'P' { "p" } else { "b" };
        let mut row = |id: u32, name: String, len: i16, category: char, element: u32, array: u32| {
            rows.push(vec![
                oid(id),
                text(&name),
                oid(PG_CATALOG),
                oid(ROLE),
                int2(len),
                Datum::Bool(len > 0 && len <= 8),
                text(kind),
                text(category),
                Datum::Bool(info.preferred && category != 'A'),
                TRUE,
                text(","),
                oid(0),
                oid(element),
                oid(array),
                text(format!("{name}in")),
                text(format!("{name}out")),
                text(format!("{name}recv")),
                text(format!("{name}send")),
                text("i"),
                text(if len < 0 { "x" } else { "p" }),
                FALSE,
                oid(0),
                int4(-1),
                int4(0),
                oid(collation),
                NULL,
                NULL,
                text("-"),
            ]);
        };
        row(info.oid, info.name.to_string(), info.len, info.category, 0, info.array);
        if info.array != 0 {
            row(info.array, format!("_{}", info.name), -1, 'A', info.oid, 0);
        }
    }
    rows
}

fn pg_database(world: &World) -> Vec<Row> {
    let name = &world.options.database;
    vec![vec![
        oid(DATABASE),
        text(name),
        oid(ROLE),
        int4(6),
        text("c"),
        FALSE,
        TRUE,
        int4(-1),
        oid(0),
        oid(0),
        oid(1663),
        text("C"),
        text("C"),
        NULL,
        NULL,
        NULL,
    ]]
}

fn pg_roles(world: &World) -> Vec<Row> {
    vec![vec![text(&world.options.role), TRUE, TRUE, TRUE, TRUE, TRUE, FALSE, int4(-1), NULL, NULL, TRUE, NULL, oid(ROLE)]]
}

fn pg_user(world: &World) -> Vec<Row> {
    vec![vec![text(&world.options.role), oid(ROLE), TRUE, TRUE, FALSE, TRUE, NULL, NULL, NULL]]
}

fn pg_settings(world: &World) -> Vec<Row> {
    let all = world.client.state.lock().settings.all();
    let row = |(name, value, about): (String, String, &str)| {
        vec![
            text(name),
            text(&value),
            NULL,
            text("Regroup"),
            text(about),
            NULL,
            text("user"),
            text("string"),
            text("default"),
            text(value),
            FALSE,
        ]
    };
    all.into_iter().map(row).collect()
}

fn pg_stat_activity(world: &World) -> Vec<Row> {
    let clients: Vec<_> = world.clients.lock().values().cloned().collect();
    let row = |client: &std::sync::Arc<crate::sql::world::Client>| {
        let state = client.state.lock();
        let (transaction, query, change) = state.times;
        let waits = client.interrupt.is_waited_for();
        vec![
            oid(DATABASE),
            text(&world.options.database),
            int4(client.pid),
            NULL,
            oid(ROLE),
            text(&client.user),
            text(state.settings.get("application_name").unwrap_or_default()),
            NULL,
            NULL,
            NULL,
            Datum::TimestampTz(client.since),
            transaction.map_or(NULL, Datum::TimestampTz),
            Datum::TimestampTz(query),
            Datum::TimestampTz(change),
            if waits { text("Lock") } else { NULL },
            if waits { text("transactionid") } else { NULL },
            text(state.doing),
            NULL,
            NULL,
            NULL,
            text(&*state.query),
            text("client backend"),
        ]
    };
    clients.iter().map(row).collect()
}

fn pg_am(_: &World) -> Vec<Row> {
    vec![vec![oid(2), text("heap"), text("heap_tableam_handler"), text("t")], vec![oid(403), text("btree"), text("bthandler"), text("i")]]
}

fn pg_collation(_: &World) -> Vec<Row> {
    let row = |id: u32, name: &str, provider: &str| {
        vec![oid(id), text(name), oid(PG_CATALOG), oid(ROLE), text(provider), TRUE, int4(-1), text("C"), text("C"), NULL, NULL]
    };
    vec![row(COLLATION, "default", "d"), row(950, "C", "c")]
}

fn pg_tablespace(_: &World) -> Vec<Row> {
    vec![vec![oid(1663), text("pg_default"), oid(ROLE), NULL, NULL]]
}

fn pg_language(_: &World) -> Vec<Row> {
    vec![vec![oid(14), text("sql"), oid(ROLE), FALSE, TRUE]]
}

fn pg_stat_tables(world: &World) -> Vec<Row> {
    let tables = world.catalog.tables.iter().filter(|table| !is_sequence(table));
    tables.map(|table| vec![oid(table.id), text("public"), text(&table.name)]).collect()
}

const fn view(name: &'static str, number: u32, columns: &'static [(&'static str, SqlType)], make: fn(&World) -> Vec<Row>) -> View {
    View { schema: "pg_catalog", name, oid: number, columns, make }
}

const fn empty(name: &'static str, number: u32, columns: &'static [(&'static str, SqlType)]) -> View {
    view(name, number, columns, nothing)
}

const TYPE: &[(&str, SqlType)] = &[
    ("oid", OID),
    ("typname", NAME),
    ("typnamespace", OID),
    ("typowner", OID),
    ("typlen", INT2),
    ("typbyval", BOOL),
    ("typtype", CHAR),
    ("typcategory", CHAR),
    ("typispreferred", BOOL),
    ("typisdefined", BOOL),
    ("typdelim", CHAR),
    ("typrelid", OID),
    ("typelem", OID),
    ("typarray", OID),
    ("typinput", TEXT),
    ("typoutput", TEXT),
    ("typreceive", TEXT),
    ("typsend", TEXT),
    ("typalign", CHAR),
    ("typstorage", CHAR),
    ("typnotnull", BOOL),
    ("typbasetype", OID),
    ("typtypmod", INT4),
    ("typndims", INT4),
    ("typcollation", OID),
    ("typdefault", TEXT),
    ("typacl", TEXTS),
    ("typsubscript", TEXT),
];

const DATABASES: &[(&str, SqlType)] = &[
    ("oid", OID),
    ("datname", NAME),
    ("datdba", OID),
    ("encoding", INT4),
    ("datlocprovider", CHAR),
    ("datistemplate", BOOL),
    ("datallowconn", BOOL),
    ("datconnlimit", INT4),
    ("datfrozenxid", OID),
    ("datminmxid", OID),
    ("dattablespace", OID),
    ("datcollate", TEXT),
    ("datctype", TEXT),
    ("daticulocale", TEXT),
    ("datcollversion", TEXT),
    ("datacl", TEXTS),
];

const ROLES: &[(&str, SqlType)] = &[
    ("rolname", NAME),
    ("rolsuper", BOOL),
    ("rolinherit", BOOL),
    ("rolcreaterole", BOOL),
    ("rolcreatedb", BOOL),
    ("rolcanlogin", BOOL),
    ("rolreplication", BOOL),
    ("rolconnlimit", INT4),
    ("rolpassword", TEXT),
    ("rolvaliduntil", SqlType::TIMESTAMPTZ),
    ("rolbypassrls", BOOL),
    ("rolconfig", TEXTS),
    ("oid", OID),
];

const ACTIVITY: &[(&str, SqlType)] = &[
    ("datid", OID),
    ("datname", NAME),
    ("pid", INT4),
    ("leader_pid", INT4),
    ("usesysid", OID),
    ("usename", NAME),
    ("application_name", TEXT),
    ("client_addr", TEXT),
    ("client_hostname", TEXT),
    ("client_port", INT4),
    ("backend_start", SqlType::TIMESTAMPTZ),
    ("xact_start", SqlType::TIMESTAMPTZ),
    ("query_start", SqlType::TIMESTAMPTZ),
    ("state_change", SqlType::TIMESTAMPTZ),
    ("wait_event_type", TEXT),
    ("wait_event", TEXT),
    ("state", TEXT),
    ("backend_xid", OID),
    ("backend_xmin", OID),
    ("query_id", INT8),
    ("query", TEXT),
    ("backend_type", TEXT),
];

const SETTINGS: &[(&str, SqlType)] = &[
    ("name", TEXT),
    ("setting", TEXT),
    ("unit", TEXT),
    ("category", TEXT),
    ("short_desc", TEXT),
    ("extra_desc", TEXT),
    ("context", TEXT),
    ("vartype", TEXT),
    ("source", TEXT),
    ("reset_val", TEXT),
    ("pending_restart", BOOL),
];

const COLLATIONS: &[(&str, SqlType)] = &[
    ("oid", OID),
    ("collname", NAME),
    ("collnamespace", OID),
    ("collowner", OID),
    ("collprovider", CHAR),
    ("collisdeterministic", BOOL),
    ("collencoding", INT4),
    ("collcollate", TEXT),
    ("collctype", TEXT),
    ("colliculocale", TEXT),
    ("collversion", TEXT),
];

pub(super) static VIEWS: &[View] = &[
    view("pg_namespace", 2615, &[("oid", OID), ("nspname", NAME), ("nspowner", OID), ("nspacl", TEXTS)], pg_namespace),
    view("pg_type", 1247, TYPE, pg_type),
    view("pg_database", 1262, DATABASES, pg_database),
    view("pg_roles", 12004, ROLES, pg_roles),
    view("pg_authid", 1260, ROLES, pg_roles),
    view(
        "pg_user",
        12005,
        &[
            ("usename", NAME),
            ("usesysid", OID),
            ("usecreatedb", BOOL),
            ("usesuper", BOOL),
            ("userepl", BOOL),
            ("usebypassrls", BOOL),
            ("passwd", TEXT),
            ("valuntil", SqlType::TIMESTAMPTZ),
            ("useconfig", TEXTS),
        ],
        pg_user,
    ),
    view("pg_settings", 12006, SETTINGS, pg_settings),
    view("pg_stat_activity", 12007, ACTIVITY, pg_stat_activity),
    view("pg_am", 2601, &[("oid", OID), ("amname", NAME), ("amhandler", TEXT), ("amtype", CHAR)], pg_am),
    view("pg_collation", 3456, COLLATIONS, pg_collation),
    view(
        "pg_tablespace",
        1213,
        &[("oid", OID), ("spcname", NAME), ("spcowner", OID), ("spcacl", TEXTS), ("spcoptions", TEXTS)],
        pg_tablespace,
    ),
    view(
        "pg_language",
        2612,
        &[("oid", OID), ("lanname", NAME), ("lanowner", OID), ("lanispl", BOOL), ("lanpltrusted", BOOL)],
        pg_language,
    ),
    view("pg_stat_user_tables", 12008, &[("relid", OID), ("schemaname", NAME), ("relname", NAME)], pg_stat_tables),
    empty("pg_description", 2609, &[("objoid", OID), ("classoid", OID), ("objsubid", INT4), ("description", TEXT)]),
    empty("pg_shdescription", 2396, &[("objoid", OID), ("classoid", OID), ("description", TEXT)]),
    empty("pg_inherits", 2611, &[("inhrelid", OID), ("inhparent", OID), ("inhseqno", INT4), ("inhdetachpending", BOOL)]),
    empty(
        "pg_trigger",
        2620,
        &[
            ("oid", OID),
            ("tgrelid", OID),
            ("tgparentid", OID),
            ("tgname", NAME),
            ("tgfoid", OID),
            ("tgtype", INT2),
            ("tgenabled", CHAR),
            ("tgisinternal", BOOL),
            ("tgconstrrelid", OID),
            ("tgconstrindid", OID),
            ("tgconstraint", OID),
            ("tgdeferrable", BOOL),
            ("tginitdeferred", BOOL),
        ],
    ),
    empty(
        "pg_policy",
        3256,
        &[
            ("oid", OID),
            ("polname", NAME),
            ("polrelid", OID),
            ("polcmd", CHAR),
            ("polpermissive", BOOL),
            ("polroles", super::INT8S),
            ("polqual", TEXT),
            ("polwithcheck", TEXT),
        ],
    ),
    empty("pg_rewrite", 2618, &[("oid", OID), ("rulename", NAME), ("ev_class", OID), ("ev_type", CHAR), ("ev_enabled", CHAR)]),
    empty(
        "pg_statistic_ext",
        3381,
        &[
            ("oid", OID),
            ("stxrelid", OID),
            ("stxname", NAME),
            ("stxnamespace", OID),
            ("stxowner", OID),
            ("stxstattarget", INT4),
            ("stxkeys", SqlType::Int2Vector),
            ("stxkind", TEXTS),
            ("stxexprs", TEXT),
        ],
    ),
    empty(
        "pg_publication",
        6104,
        &[
            ("oid", OID),
            ("pubname", NAME),
            ("pubowner", OID),
            ("puballtables", BOOL),
            ("pubinsert", BOOL),
            ("pubupdate", BOOL),
            ("pubdelete", BOOL),
            ("pubtruncate", BOOL),
            ("pubviaroot", BOOL),
        ],
    ),
    empty(
        "pg_publication_rel",
        6106,
        &[("oid", OID), ("prpubid", OID), ("prrelid", OID), ("prqual", TEXT), ("prattrs", SqlType::Int2Vector)],
    ),
    empty("pg_publication_namespace", 6237, &[("oid", OID), ("pnpubid", OID), ("pnnspid", OID)]),
    empty("pg_foreign_table", 3118, &[("ftrelid", OID), ("ftserver", OID), ("ftoptions", TEXTS)]),
    empty("pg_foreign_server", 1417, &[("oid", OID), ("srvname", NAME), ("srvowner", OID), ("srvfdw", OID), ("srvoptions", TEXTS)]),
    empty("pg_partitioned_table", 3350, &[("partrelid", OID), ("partstrat", CHAR), ("partnatts", INT2), ("partdefid", OID)]),
    empty("pg_range", 3541, &[("rngtypid", OID), ("rngsubtype", OID), ("rngmultitypid", OID), ("rngcollation", OID), ("rngsubopc", OID)]),
    empty("pg_enum", 3501, &[("oid", OID), ("enumtypid", OID), ("enumsortorder", FLOAT8), ("enumlabel", NAME)]),
    empty("pg_extension", 3079, &[("oid", OID), ("extname", NAME), ("extowner", OID), ("extnamespace", OID), ("extversion", TEXT)]),
    empty("pg_auth_members", 1261, &[("roleid", OID), ("member", OID), ("grantor", OID), ("admin_option", BOOL)]),
    empty("pg_db_role_setting", 2964, &[("setdatabase", OID), ("setrole", OID), ("setconfig", TEXTS)]),
    empty("pg_opclass", 2616, &[("oid", OID), ("opcmethod", OID), ("opcname", NAME), ("opcnamespace", OID), ("opcdefault", BOOL)]),
    empty(
        "pg_operator",
        2617,
        &[
            ("oid", OID),
            ("oprname", NAME),
            ("oprnamespace", OID),
            ("oprleft", OID),
            ("oprright", OID),
            ("oprkind", CHAR),
            ("oprresult", OID),
            ("oprcode", OID),
        ],
    ),
    empty(
        "pg_cast",
        2605,
        &[("oid", OID), ("castsource", OID), ("casttarget", OID), ("castfunc", OID), ("castcontext", CHAR), ("castmethod", CHAR)],
    ),
    empty(
        "pg_default_acl",
        826,
        &[("oid", OID), ("defaclrole", OID), ("defaclnamespace", OID), ("defaclobjtype", CHAR), ("defaclacl", TEXTS)],
    ),
    empty(
        "pg_depend",
        2608,
        &[
            ("classid", OID),
            ("objid", OID),
            ("objsubid", INT4),
            ("refclassid", OID),
            ("refobjid", OID),
            ("refobjsubid", INT4),
            ("deptype", CHAR),
        ],
    ),
    empty(
        "pg_event_trigger",
        3466,
        &[
            ("oid", OID),
            ("evtname", NAME),
            ("evtevent", NAME),
            ("evtowner", OID),
            ("evtfoid", OID),
            ("evtenabled", CHAR),
            ("evttags", TEXTS),
        ],
    ),
    empty(
        "pg_proc",
        1255,
        &[
            ("oid", OID),
            ("proname", NAME),
            ("pronamespace", OID),
            ("proowner", OID),
            ("prolang", OID),
            ("prokind", CHAR),
            ("proretset", BOOL),
            ("prorettype", OID),
            ("proargtypes", SqlType::OidVector),
            ("pronargs", INT2),
            ("proisagg", BOOL),
        ],
    ),
    empty(
        "pg_prepared_xacts",
        12009,
        &[("transaction", OID), ("gid", TEXT), ("prepared", SqlType::TIMESTAMPTZ), ("owner", NAME), ("database", NAME)],
    ),
];
