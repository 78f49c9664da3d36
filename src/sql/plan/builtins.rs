//! Functions that know the session or the catalog; those that know only their arguments are in [`crate::sql::types`].

use crate::sql::error::SqlError;
use crate::sql::plan::expr::Env;
use crate::sql::settings::{self, SERVER_VERSION, Settings};
use crate::sql::types::{Datum, SqlType, names};
use crate::sql::world::{Stop, World};
use crate::sql::{describe, sequence};

type Call = fn(&[Datum], &Env<'_>) -> Result<Datum, SqlError>;

/// A function.
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// Its arguments' types; `Any`: whatever comes, as it is.
    pub arguments: &'static [SqlType],
    /// Its result's type.
    pub result: SqlType,
    volatile: bool,
    call: Call,
}

/// One of them.
#[derive(Clone, Copy)]
pub struct Builtin(pub &'static Function);

impl std::fmt::Debug for Builtin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name)
    }
}

impl Builtin {
    /// Calls it.
    ///
    /// # Errors
    /// What it says.
    pub fn call(self, args: &[Datum], env: &Env<'_>) -> Result<Datum, SqlError> {
        (self.0.call)(args, env)
    }

    /// Whether it may give something else each time.
    pub fn is_volatile(self) -> bool {
        self.0.volatile
    }

    /// Those called `name` with so many arguments.
    pub fn named(name: &str, arguments: usize) -> impl Iterator<Item = Builtin> {
        ALL.iter().filter(move |function| function.name == name && function.arguments.len() == arguments).map(Builtin)
    }

    /// Whether any has that name.
    pub fn exists(name: &str) -> bool {
        ALL.iter().any(|function| function.name == name)
    }
}

/// From a relation's name to its number; an error when there is none.
pub static TO_REGCLASS: Function = stable("regclassin", &[TEXT], SqlType::Regclass, |args, env| match &args[0] {
    Datum::Text(name) => regclass(name, env.world),
    _ => Ok(Datum::Null),
});

/// `json_build_object`: keys and values in turn, any types; as text.
pub static JSON_BUILD_OBJECT: Function = stable("json_build_object", &[], TEXT, |args, env| {
    let mut object = serde_json::Map::new();
    for pair in args.chunks(2) {
        let [key, value] = pair else { return Err(SqlError::new("22023", "argument list must have even number of elements")) };
        let shown = |value: &Datum| crate::sql::types::text::to_string(crate::sql::errors::type_of(value), value, env.context.formats);
        if *key == Datum::Null {
            return Err(SqlError::new("22004", "argument 1 cannot be null").hint("Object keys should be text."));
        }
        let value = match value {
            Datum::Null => serde_json::Value::Null,
            Datum::Bool(value) => (*value).into(),
            Datum::Int2(_) | Datum::Int4(_) | Datum::Int8(_) => number(value).into(),
            Datum::Float8(value) => (*value).into(),
            value => shown(value).into(),
        };
        object.insert(shown(key), value);
    }
    text(serde_json::Value::Object(object).to_string())
});

/// The number of the relation that a text names, for values that come as text.
///
/// # Errors
/// 42P01.
pub fn regclass(name: &str, world: &World) -> Result<Datum, SqlError> {
    relation(name, world).map(Datum::Int8).ok_or_else(|| SqlError::new("42P01", format!("relation \"{name}\" does not exist")))
}

/// From an oid that is shown as a name to that name.
pub static OID_NAME: Function = stable("regclassout", &[SqlType::Any, SqlType::Any], TEXT, |args, env| match &args[0] {
    Datum::Int8(id) => {
        let id = *id as u32;
        let name = match &args[1] {
            Datum::Int4(0) => env.world.catalog.relation_name(id).map(str::to_string).or_else(|| crate::sql::views::name_of(id)),
            Datum::Int4(1) => SqlType::from_oid(id).map(SqlType::display_name),
            Datum::Int4(2) => match id {
                crate::sql::views::PG_CATALOG => Some("pg_catalog".to_string()),
                crate::sql::views::PUBLIC => Some("public".to_string()),
                _ => None,
            },
            _ => None,
        };
        Ok(Datum::Text(name.unwrap_or_else(|| if id == 0 { "-".into() } else { id.to_string() })))
    }
    _ => Ok(Datum::Null),
});

const TEXT: SqlType = SqlType::TEXT;
const NAME: SqlType = SqlType::Name;
const BOOL: SqlType = SqlType::BOOL;
const INT4: SqlType = SqlType::INT4;
const INT8: SqlType = SqlType::INT8;
const OID: SqlType = SqlType::Oid;
const ANY: SqlType = SqlType::Any;

const fn stable(name: &'static str, arguments: &'static [SqlType], result: SqlType, call: Call) -> Function {
    Function { name, arguments, result, volatile: false, call }
}

const fn volatile(name: &'static str, arguments: &'static [SqlType], result: SqlType, call: Call) -> Function {
    Function { name, arguments, result, volatile: true, call }
}

fn text(value: impl Into<String>) -> Result<Datum, SqlError> {
    Ok(Datum::Text(value.into()))
}

const TRUE: Call = |_, _| Ok(Datum::Bool(true));
const NULL: Call = |_, _| Ok(Datum::Null);
const USER: Call = |_, env| text(env.world.client.user.clone());
const DATABASE: Call = |_, env| text(env.world.options.database.clone());
const INDEXDEF: Call = |args, env| {
    let column = args.get(1).and_then(number).unwrap_or(0);
    Ok(number(&args[0]).and_then(|id| describe::index(env.world, id as u32, column)).map_or(Datum::Null, Datum::Text))
};
const CONSTRAINTDEF: Call =
    |args, env| Ok(number(&args[0]).and_then(|id| describe::constraint(env.world, id as u32)).map_or(Datum::Null, Datum::Text));
const FIRST: Call = |args, _| Ok(args[0].clone());
const SETTING: Call = |args, env| {
    let Datum::Text(name) = &args[0] else { return Ok(Datum::Null) };
    let value = env.world.client.state.lock().settings.get(name);
    match value {
        Some(value) => text(value),
        None if args.get(1) == Some(&Datum::Bool(true)) => Ok(Datum::Null),
        None => Err(settings::missing(name)),
    }
};
// How much a relation takes isn't counted.
const SIZE: Call = NULL;
const TRANSACTION: Call = |_, env| Ok(Datum::Int8(env.world.transaction as i64));

fn number(value: &Datum) -> Option<i64> {
    match value {
        Datum::Int2(value) => Some(i64::from(*value)),
        Datum::Int4(value) => Some(i64::from(*value)),
        Datum::Int8(value) => Some(*value),
        _ => None,
    }
}

/// The number of a relation by its name as SQL writes it.
fn relation(name: &str, world: &World) -> Option<i64> {
    let bare = name.strip_prefix("public.").unwrap_or(name);
    let folded = match bare.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => bare.to_lowercase(),
    };
    if let Ok(id) = folded.parse::<u32>() {
        return Some(i64::from(id));
    }
    world.catalog.relation_id(&folded).or_else(|| crate::sql::views::number_of(&folded)).map(i64::from)
}

fn format_type(args: &[Datum], _: &Env<'_>) -> Result<Datum, SqlError> {
    let Some(oid) = number(&args[0]) else { return Ok(Datum::Null) };
    let modifier = args.get(1).and_then(number).unwrap_or(-1);
    match SqlType::from_oid(oid as u32) {
        Some(ty) => text(ty.with_typmod(modifier as i32).format_type()),
        None => text(if oid == 0 { "-" } else { "???" }),
    }
}

fn stop(args: &[Datum], env: &Env<'_>, why: Stop) -> Result<Datum, SqlError> {
    let Some(pid) = number(&args[0]) else { return Ok(Datum::Null) };
    let client = i32::try_from(pid).ok().and_then(|pid| env.world.clients.lock().get(&pid).cloned());
    if let Some(client) = &client {
        client.stop(why);
    }
    Ok(Datum::Bool(client.is_some()))
}

fn set_config(args: &[Datum], env: &Env<'_>) -> Result<Datum, SqlError> {
    let (Datum::Text(name), value, local) = (&args[0], &args[1], args[2] == Datum::Bool(true)) else {
        return Err(SqlError::new("22004", "SET requires parameter name"));
    };
    let value = match value {
        Datum::Text(value) => Some(value.as_str()),
        _ => None,
    };
    let mut state = env.world.client.state.lock();
    state.settings.set(name, value, local)?;
    text(state.settings.get(name).unwrap_or_default())
}

fn pretty_size(args: &[Datum], _: &Env<'_>) -> Result<Datum, SqlError> {
    let Some(mut size) = number(&args[0]) else { return Ok(Datum::Null) };
    for unit in ["bytes", "kB", "MB", "GB"] {
        if size.unsigned_abs() < 10240 {
            return text(format!("{size} {unit}"));
        }
        size = size.saturating_add(512) / 1024;
    }
    text(format!("{size} TB"))
}

fn serial_sequence(args: &[Datum], env: &Env<'_>) -> Result<Datum, SqlError> {
    let (Datum::Text(table), Datum::Text(column)) = (&args[0], &args[1]) else { return Ok(Datum::Null) };
    let id = relation(table, env.world).and_then(|id| u32::try_from(id).ok());
    let Some(table) = id.and_then(|id| env.world.catalog.by_id(id)) else {
        return Err(SqlError::new("42P01", format!("relation \"{table}\" does not exist")));
    };
    let Some(position) = table.column(column) else {
        return Err(SqlError::new("42703", format!("column \"{column}\" of relation \"{}\" does not exist", table.name)));
    };
    let sequence = table.columns[position].default.as_deref().and_then(sequence::named_in);
    Ok(sequence.map_or(Datum::Null, |name| Datum::Text(format!("public.{name}"))))
}

static ALL: &[Function] = &[
    stable("version", &[], TEXT, |_, _| {
        text(format!("PostgreSQL {SERVER_VERSION} (Regroup {}) on {}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH))
    }),
    stable("current_database", &[], NAME, DATABASE),
    stable("current_catalog", &[], NAME, DATABASE),
    stable("current_schema", &[], NAME, |_, _| text("public")),
    stable("current_schemas", &[BOOL], SqlType::Array(crate::sql::types::Type::Text), |args, _| match args[0] {
        Datum::Bool(true) => text("{pg_catalog,public}"),
        _ => text("{public}"),
    }),
    stable("current_user", &[], NAME, USER),
    stable("session_user", &[], NAME, USER),
    stable("user", &[], NAME, USER),
    stable("current_role", &[], NAME, USER),
    stable("pg_backend_pid", &[], INT4, |_, env| Ok(Datum::Int4(env.world.client.pid))),
    stable("current_setting", &[TEXT], TEXT, SETTING),
    stable("current_setting", &[TEXT, BOOL], TEXT, SETTING),
    volatile("set_config", &[TEXT, TEXT, BOOL], TEXT, set_config),
    stable("pg_table_is_visible", &[OID], BOOL, |args, _| {
        // Those of information_schema aren't in the search path.
        Ok(number(&args[0]).map_or(Datum::Null, |id| Datum::Bool(!crate::sql::views::is_information(id as u32))))
    }),
    stable("pg_statistics_obj_is_visible", &[OID], BOOL, TRUE),
    stable("pg_type_is_visible", &[OID], BOOL, TRUE),
    stable("pg_function_is_visible", &[OID], BOOL, TRUE),
    stable("pg_operator_is_visible", &[OID], BOOL, TRUE),
    stable("pg_opclass_is_visible", &[OID], BOOL, TRUE),
    stable("pg_opfamily_is_visible", &[OID], BOOL, TRUE),
    stable("pg_conversion_is_visible", &[OID], BOOL, TRUE),
    stable("pg_ts_config_is_visible", &[OID], BOOL, TRUE),
    stable("pg_collation_is_visible", &[OID], BOOL, TRUE),
    stable("pg_get_userbyid", &[OID], NAME, |_, env| text(env.world.options.role.clone())),
    stable("format_type", &[OID, INT4], TEXT, format_type),
    stable("format_type", &[OID, ANY], TEXT, format_type),
    stable("pg_get_expr", &[TEXT, OID], TEXT, FIRST),
    stable("pg_get_expr", &[TEXT, OID, BOOL], TEXT, FIRST),
    stable("pg_get_indexdef", &[OID], TEXT, INDEXDEF),
    stable("pg_get_indexdef", &[OID, INT4, BOOL], TEXT, INDEXDEF),
    stable("pg_get_constraintdef", &[OID], TEXT, CONSTRAINTDEF),
    stable("pg_get_constraintdef", &[OID, BOOL], TEXT, CONSTRAINTDEF),
    stable("pg_get_viewdef", &[OID], TEXT, NULL),
    stable("pg_get_viewdef", &[OID, BOOL], TEXT, NULL),
    stable("pg_get_ruledef", &[OID, BOOL], TEXT, NULL),
    stable("pg_get_triggerdef", &[OID, BOOL], TEXT, NULL),
    stable("pg_get_partkeydef", &[OID], TEXT, NULL),
    stable("pg_get_partition_constraintdef", &[OID], TEXT, NULL),
    stable("pg_get_statisticsobjdef_columns", &[OID], TEXT, NULL),
    stable("pg_get_function_identity_arguments", &[OID], TEXT, NULL),
    stable("pg_get_function_result", &[OID], TEXT, NULL),
    stable("pg_get_function_arguments", &[OID], TEXT, NULL),
    stable("pg_get_serial_sequence", &[TEXT, TEXT], TEXT, serial_sequence),
    stable("pg_relation_is_publishable", &[OID], BOOL, |_, _| Ok(Datum::Bool(false))),
    stable("pg_encoding_to_char", &[INT4], NAME, |_, _| text("UTF8")),
    stable("pg_char_to_encoding", &[NAME], INT4, |_, _| Ok(Datum::Int4(6))),
    stable("getdatabaseencoding", &[], NAME, |_, _| text("UTF8")),
    stable("pg_client_encoding", &[], NAME, |_, _| text("UTF8")),
    stable("obj_description", &[OID], TEXT, NULL),
    stable("obj_description", &[OID, NAME], TEXT, NULL),
    stable("col_description", &[OID, INT4], TEXT, NULL),
    stable("shobj_description", &[OID, NAME], TEXT, NULL),
    stable("pg_relation_size", &[ANY], INT8, SIZE),
    stable("pg_relation_size", &[ANY, TEXT], INT8, SIZE),
    stable("pg_table_size", &[ANY], INT8, SIZE),
    stable("pg_indexes_size", &[ANY], INT8, SIZE),
    stable("pg_total_relation_size", &[ANY], INT8, SIZE),
    stable("pg_database_size", &[ANY], INT8, SIZE),
    stable("pg_tablespace_location", &[OID], TEXT, |_, _| text("")),
    stable("pg_size_pretty", &[INT8], TEXT, pretty_size),
    stable("pg_relation_filenode", &[ANY], OID, FIRST),
    stable("txid_current", &[], INT8, TRANSACTION),
    stable("pg_current_xact_id", &[], INT8, TRANSACTION),
    stable("pg_is_in_recovery", &[], BOOL, |_, _| Ok(Datum::Bool(false))),
    stable("pg_postmaster_start_time", &[], SqlType::TIMESTAMPTZ, |_, env| Ok(Datum::TimestampTz(env.world.engine_start))),
    stable("pg_conf_load_time", &[], SqlType::TIMESTAMPTZ, |_, env| Ok(Datum::TimestampTz(env.world.engine_start))),
    stable("inet_server_addr", &[], TEXT, NULL),
    stable("inet_server_port", &[], INT4, NULL),
    stable("inet_client_addr", &[], TEXT, NULL),
    stable("inet_client_port", &[], INT4, NULL),
    stable("has_table_privilege", &[ANY, TEXT], BOOL, TRUE),
    stable("has_table_privilege", &[ANY, ANY, TEXT], BOOL, TRUE),
    stable("has_schema_privilege", &[ANY, TEXT], BOOL, TRUE),
    stable("has_schema_privilege", &[ANY, ANY, TEXT], BOOL, TRUE),
    stable("has_database_privilege", &[ANY, TEXT], BOOL, TRUE),
    stable("has_database_privilege", &[ANY, ANY, TEXT], BOOL, TRUE),
    stable("has_column_privilege", &[ANY, ANY, TEXT], BOOL, TRUE),
    stable("pg_has_role", &[ANY, TEXT], BOOL, TRUE),
    stable("pg_has_role", &[ANY, ANY, TEXT], BOOL, TRUE),
    stable("to_regclass", &[TEXT], SqlType::Regclass, |args, env| match &args[0] {
        Datum::Text(name) => Ok(relation(name, env.world).map_or(Datum::Null, Datum::Int8)),
        _ => Ok(Datum::Null),
    }),
    stable("to_regtype", &[TEXT], SqlType::Regtype, |args, _| match &args[0] {
        Datum::Text(name) => Ok(names::parse_type(name, false, &[], false).map_or(Datum::Null, |ty| Datum::Int8(i64::from(ty.oid())))),
        _ => Ok(Datum::Null),
    }),
    volatile("pg_cancel_backend", &[INT4], BOOL, |args, env| stop(args, env, Stop::Cancel)),
    volatile("pg_terminate_backend", &[INT4], BOOL, |args, env| stop(args, env, Stop::Terminate)),
    volatile("pg_advisory_unlock_all", &[], SqlType::Void, |_, _| text("")),
    volatile("pg_stat_clear_snapshot", &[], SqlType::Void, |_, _| text("")),
];

/// The proper name of a setting, as the column of SHOW has it.
pub fn shown_setting(name: &str) -> String {
    Settings::proper_name(name)
}
