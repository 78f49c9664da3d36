//! What types are called: oids, names, lengths, modifiers, categories (PostgreSQL's `pg_type`).

use super::{SqlError, SqlType, Type, fail};

/// One type as `pg_type` has it.
#[derive(Clone, Copy, Debug)]
pub struct TypeInfo {
    /// The type, without length or precision.
    pub ty: SqlType,
    /// `oid`.
    pub oid: u32,
    /// `typname`.
    pub name: &'static str,
    /// What `format_type` gives.
    pub display: &'static str,
    /// `typlen`: bytes, -1 for variable length.
    pub len: i16,
    /// `typcategory`.
    pub category: char,
    /// `typispreferred`.
    pub preferred: bool,
    /// `typarray`: the oid of the array of it, 0 if there is none here.
    pub array: u32,
}

const fn info(ty: SqlType, oid: u32, name: &'static str, display: &'static str, len: i16, kind: (char, bool), array: u32) -> TypeInfo {
    TypeInfo { ty, oid, name, display, len, category: kind.0, preferred: kind.1, array }
}

/// Every type but arrays.
pub static TYPES: &[TypeInfo] = &[
    info(SqlType::BOOL, 16, "bool", "boolean", 1, ('B', true), 1000),
    info(SqlType::BYTEA, 17, "bytea", "bytea", -1, ('U', false), 1001),
    info(SqlType::InternalChar, 18, "char", "\"char\"", 1, ('Z', false), 0),
    info(SqlType::Name, 19, "name", "name", 64, ('S', false), 0),
    info(SqlType::INT8, 20, "int8", "bigint", 8, ('N', false), 1016),
    info(SqlType::INT2, 21, "int2", "smallint", 2, ('N', false), 1005),
    info(SqlType::Int2Vector, 22, "int2vector", "int2vector", -1, ('A', false), 0),
    info(SqlType::INT4, 23, "int4", "integer", 4, ('N', false), 1007),
    info(SqlType::Regproc, 24, "regproc", "regproc", 4, ('N', false), 0),
    info(SqlType::TEXT, 25, "text", "text", -1, ('S', true), 1009),
    info(SqlType::Oid, 26, "oid", "oid", 4, ('N', true), 0),
    info(SqlType::OidVector, 30, "oidvector", "oidvector", -1, ('A', false), 0),
    info(SqlType::FLOAT8, 701, "float8", "double precision", 8, ('N', true), 1022),
    info(SqlType::Unknown, 705, "unknown", "unknown", -2, ('X', false), 0),
    info(SqlType::BPCHAR, 1042, "bpchar", "character", -1, ('S', false), 1014),
    info(SqlType::VARCHAR, 1043, "varchar", "character varying", -1, ('S', false), 1015),
    info(SqlType::DATE, 1082, "date", "date", 4, ('D', false), 1182),
    info(SqlType::TIMESTAMP, 1114, "timestamp", "timestamp without time zone", 8, ('D', false), 1115),
    info(SqlType::TIMESTAMPTZ, 1184, "timestamptz", "timestamp with time zone", 8, ('D', true), 1185),
    info(SqlType::Interval, 1186, "interval", "interval", 16, ('T', true), 0),
    info(SqlType::NUMERIC, 1700, "numeric", "numeric", -1, ('N', false), 1231),
    info(SqlType::Regclass, 2205, "regclass", "regclass", 4, ('N', false), 0),
    info(SqlType::Regtype, 2206, "regtype", "regtype", 4, ('N', false), 0),
    info(SqlType::Any, 2276, "any", "\"any\"", 4, ('P', false), 0),
    info(SqlType::Void, 2278, "void", "void", 4, ('P', false), 0),
    info(SqlType::AnyElement, 2283, "anyelement", "anyelement", 4, ('P', false), 0),
    info(SqlType::UUID, 2950, "uuid", "uuid", 16, ('U', false), 2951),
    info(SqlType::Regnamespace, 4089, "regnamespace", "regnamespace", 4, ('N', false), 0),
];

/// What is known of a type; for an array, of its elements.
pub fn info_of(ty: SqlType) -> &'static TypeInfo {
    let base = match ty.base() {
        SqlType::Array(element) => SqlType::Stored(element),
        other => other,
    };
    // Every variant has a row: a test goes through them. Unknown's row stands in for one forgotten.
    TYPES.iter().find(|row| row.ty == base).unwrap_or(&TYPES[13])
}

impl SqlType {
    /// Its `oid`.
    pub fn oid(self) -> u32 {
        match self {
            SqlType::Array(_) => info_of(self).array,
            _ => info_of(self).oid,
        }
    }

    /// The type with this oid, without length or precision.
    pub fn from_oid(oid: u32) -> Option<SqlType> {
        if oid == 0 {
            return None;
        }
        TYPES.iter().find_map(|row| match row.ty {
            ty if row.oid == oid => Some(ty),
            SqlType::Stored(element) if row.array == oid => Some(SqlType::Array(element)),
            _ => None,
        })
    }

    /// `atttypmod`: length, precision and scale as PostgreSQL packs them, -1 for none.
    pub fn typmod(self) -> i32 {
        match self {
            SqlType::Stored(ty) | SqlType::Array(ty) => match ty {
                Type::Varchar(Some(n)) => n as i32 + 4,
                Type::Char(n) if n > 0 => n as i32 + 4,
                Type::Numeric(Some((precision, scale))) => ((i32::from(precision) << 16) | (i32::from(scale) & 0x7ff)) + 4,
                _ => -1,
            },
            _ => -1,
        }
    }

    /// The type with length, precision and scale taken from a typmod.
    pub fn with_typmod(self, typmod: i32) -> SqlType {
        let bare = typmod - 4;
        if bare < 0 {
            return self.base();
        }
        match self.base() {
            SqlType::VARCHAR => SqlType::Stored(Type::Varchar(Some(bare as u32))),
            SqlType::BPCHAR => SqlType::Stored(Type::Char(bare as u32)),
            SqlType::NUMERIC => {
                let scale = ((bare & 0x7ff) ^ 1024) - 1024;
                SqlType::Stored(Type::Numeric(Some(((bare >> 16) as u16, scale as i16))))
            }
            other => other,
        }
    }

    /// `typlen`.
    #[expect(clippy::len_without_is_empty, reason = "it is pg_type's typlen, not the length of a collection")]
    pub fn len(self) -> i16 {
        match self {
            SqlType::Array(_) => -1,
            _ => info_of(self).len,
        }
    }

    /// `typname`.
    pub fn name(self) -> String {
        match self {
            SqlType::Array(_) => format!("_{}", info_of(self).name),
            _ => info_of(self).name.to_owned(),
        }
    }

    /// `typcategory`.
    pub fn category(self) -> char {
        match self {
            SqlType::Array(_) => 'A',
            _ => info_of(self).category,
        }
    }

    /// `typispreferred`.
    pub fn preferred(self) -> bool {
        !matches!(self, SqlType::Array(_)) && info_of(self).preferred
    }

    /// The name without length or precision, as error messages and `pg_typeof` give it.
    pub fn display_name(self) -> String {
        match self {
            SqlType::Array(_) => format!("{}[]", info_of(self).display),
            _ => info_of(self).display.to_owned(),
        }
    }

    /// The name with length and precision: `format_type(oid, typmod)`.
    pub fn format_type(self) -> String {
        let inner = match self {
            SqlType::Stored(Type::Varchar(Some(n))) | SqlType::Array(Type::Varchar(Some(n))) => format!("character varying({n})"),
            SqlType::Stored(Type::Char(n)) | SqlType::Array(Type::Char(n)) if n > 0 => format!("character({n})"),
            SqlType::Stored(Type::Char(_)) | SqlType::Array(Type::Char(_)) => "bpchar".to_owned(),
            SqlType::Stored(Type::Numeric(Some((p, s)))) | SqlType::Array(Type::Numeric(Some((p, s)))) => format!("numeric({p},{s})"),
            _ => info_of(self).display.to_owned(),
        };
        if let SqlType::Array(_) = self { format!("{inner}[]") } else { inner }
    }
}

/// PostgreSQL's limit on the length of `varchar` and `char`.
const LENGTH_MAX: i64 = 10_485_760;

/// The type called `name` with `modifiers` in parentheses, `array` if `[]` follows. The name as SQL has it: lower case, words
/// separated by one blank, without quotes (`"char"` is `char` with `quoted`).
pub fn parse_type(name: &str, quoted: bool, modifiers: &[i64], array: bool) -> Result<SqlType, SqlError> {
    let name = name.strip_prefix("pg_catalog.").unwrap_or(name);
    let ty = if quoted { by_catalog_name(name)? } else { by_sql_name(name, modifiers)? };
    let ty = with_modifiers(ty, name, modifiers, quoted)?;
    match (array, ty) {
        (false, _) => Ok(ty),
        (true, SqlType::Stored(element)) => Ok(SqlType::Array(element)),
        (true, _) => fail("0A000", format!("arrays of {} are not supported", ty.display_name())),
    }
}

fn by_catalog_name(name: &str) -> Result<SqlType, SqlError> {
    if let Some(element) = name.strip_prefix('_')
        && let Some(SqlType::Stored(ty)) = TYPES.iter().find(|row| row.name == element).map(|row| row.ty)
    {
        return Ok(SqlType::Array(ty));
    }
    let found = TYPES.iter().find(|row| row.name == name && !matches!(row.ty, SqlType::Any | SqlType::AnyElement));
    found.map_or_else(|| fail("42704", format!("type \"{name}\" does not exist")), |row| Ok(row.ty))
}

fn by_sql_name(name: &str, modifiers: &[i64]) -> Result<SqlType, SqlError> {
    Ok(match name {
        "int" | "integer" => SqlType::INT4,
        "bigint" => SqlType::INT8,
        "smallint" => SqlType::INT2,
        "boolean" => SqlType::BOOL,
        "double precision" => SqlType::FLOAT8,
        "float" => match modifiers {
            [] => SqlType::FLOAT8,
            [digits] if *digits < 1 => return fail("22023", "precision for type float must be at least 1 bit"),
            [digits] if *digits > 53 => return fail("22023", "precision for type float must be less than 54 bits"),
            [digits] if *digits > 24 => SqlType::FLOAT8,
            _ => return fail("0A000", "type real is not supported"),
        },
        "real" | "float4" => return fail("0A000", "type real is not supported"),
        "decimal" | "dec" => SqlType::NUMERIC,
        "character varying" | "char varying" | "nchar varying" | "national character varying" => SqlType::VARCHAR,
        "char" | "character" | "nchar" | "national character" | "national char" => SqlType::BPCHAR,
        "timestamp without time zone" => SqlType::TIMESTAMP,
        "timestamp with time zone" => SqlType::TIMESTAMPTZ,
        other => by_catalog_name(other)?,
    })
}

fn with_modifiers(ty: SqlType, name: &str, modifiers: &[i64], quoted: bool) -> Result<SqlType, SqlError> {
    let length = |what: &str| match modifiers {
        [n] if *n < 1 => fail("22023", format!("length for type {what} must be at least 1")),
        [n] if *n > LENGTH_MAX => fail("22023", format!("length for type {what} cannot exceed {LENGTH_MAX}")),
        [n] => Ok(*n as u32),
        _ => fail("22023", "invalid type modifier"),
    };
    Ok(match ty {
        SqlType::VARCHAR if !modifiers.is_empty() => SqlType::Stored(Type::Varchar(Some(length("varchar")?))),
        SqlType::BPCHAR if !modifiers.is_empty() => SqlType::Stored(Type::Char(length("char")?)),
        SqlType::BPCHAR if name != "bpchar" && !quoted => SqlType::Stored(Type::Char(1)),
        SqlType::NUMERIC => SqlType::Stored(Type::Numeric(precision(modifiers)?)),
        SqlType::FLOAT8 if name == "float" => ty,
        // Fewer digits than six behind the second would need rounding on every store: refused rather than not done.
        SqlType::TIMESTAMP | SqlType::TIMESTAMPTZ | SqlType::Interval => match modifiers {
            [] | [6] => ty,
            [n] if *n < 0 => return fail("22023", format!("TIMESTAMP({n}) precision must not be negative")),
            _ => return fail("0A000", format!("type {name} with precision is not supported")),
        },
        _ if modifiers.is_empty() => ty,
        _ => return fail("42601", format!("type modifier is not allowed for type \"{}\"", info_of(ty).name)),
    })
}

fn precision(modifiers: &[i64]) -> Result<Option<(u16, i16)>, SqlError> {
    let (precision, scale) = match modifiers {
        [] => return Ok(None),
        [precision] => (*precision, 0),
        [precision, scale] => (*precision, *scale),
        _ => return fail("22023", "invalid NUMERIC type modifier"),
    };
    if !(1..=1000).contains(&precision) {
        return fail("22023", format!("NUMERIC precision {precision} must be between 1 and 1000"));
    }
    if !(-1000..=1000).contains(&scale) {
        return fail("22023", format!("NUMERIC scale {scale} must be between -1000 and 1000"));
    }
    Ok(Some((precision as u16, scale as i16)))
}
