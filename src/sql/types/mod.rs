//! Values as PostgreSQL 15 has them: what they look like as text and bytes, how they compare, add up and convert.
//!
//! ```text
//! names      oids, names, lengths          cast      which conversion there is, and doing it
//! text       text in and out               resolve   which function or operator is meant, common types
//! binary     binary in and out             operators, functions/, aggregate   what there is, as tables
//! number     integers and doubles          numeric/  exact decimals
//! calendar, datetime/, interval            compare, pattern (LIKE), regex, array
//! ```
//! Callers: binder and executor (`sql`), the wire protocol (through the executor), virtual catalogs. All of it is pure: no clock, no
//! randomness, no I/O; what a function needs of these comes in a [`Context`].
//!
//! # How values are carried
//! A value is a [`Datum`]; its [`SqlType`] is known when the statement is bound and never travels with it. Types that tables can't
//! hold are carried by the variants there are:
//!
//! | type | carried as |
//! |---|---|
//! | `unknown`, `name`, `"char"` | `Text` |
//! | `char(n)` | `Text` without trailing blanks; padded on output |
//! | `bpchar` | `Text` with the blanks it came with, which comparisons don't look at |
//! | `interval` | `Bytea` of 16 bytes: see [`interval::Interval`] |
//! | `oid`, `regclass` and its like | `Int8` in 0..2^32 |
//! | arrays, `int2vector`, `oidvector` | `Text` in PostgreSQL's array notation: see [`mod@array`] |
//!
//! `Type::Char(0)` is `bpchar`, without a length: an expression can have it, a column can't. What becomes of `char(n)` where the length
//! gets lost (max, CASE of several lengths, UNION).
//!
//! # What isn't here
//! numeric's NaN and infinities (refused, 0A000), `real`, `time`, collations but C (bytes) with case by Unicode's simple mapping,
//! time zones but fixed offsets, date styles but ISO.

pub mod aggregate;
pub mod array;
pub mod binary;
pub mod calendar;
pub mod cast;
pub mod compare;
pub mod datetime;
pub mod functions;
pub mod interval;
pub mod names;
mod number;
pub mod numeric;
mod operators;
pub mod pattern;
pub mod regex;
pub mod resolve;
#[cfg(test)]
mod tests;
pub mod text;
mod zone;

pub use crate::table::datum::{Datum, Type};
pub use aggregate::{AggregateRef, resolve_aggregate};
pub use binary::{input_binary, output_binary, utf8};
pub use cast::{CastContext, CastRef, find_cast, resolve_cast};
pub use compare::compare;
pub use names::parse_type;
pub use resolve::{FunctionRef, common_type, resolve_function, resolve_operator};
pub use text::{input, output_text};
pub use zone::Zone;

use super::error::SqlError;

/// The type of an expression.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SqlType {
    /// A literal in quotes, null, or a parameter nobody has given a type: takes the type its place asks for.
    Unknown,
    /// What a column can be.
    Stored(Type),
    /// Months, days and microseconds.
    Interval,
    /// An object's number.
    Oid,
    /// At most 63 bytes of text: names in catalogs.
    Name,
    /// `"char"`: one byte.
    InternalChar,
    /// An oid shown as a relation's name.
    Regclass,
    /// An oid shown as a type's name.
    Regtype,
    /// An oid shown as a function's name.
    Regproc,
    /// An oid shown as a schema's name.
    Regnamespace,
    /// Several int2.
    Int2Vector,
    /// Several oids.
    OidVector,
    /// An array.
    Array(Type),
    /// No value.
    Void,
    /// In tables of functions: anything, as text.
    Any,
    /// In tables of functions: anything, the same in all such places.
    AnyElement,
}

impl From<Type> for SqlType {
    fn from(ty: Type) -> SqlType {
        SqlType::Stored(ty)
    }
}

impl SqlType {
    /// `boolean`.
    pub const BOOL: SqlType = SqlType::Stored(Type::Bool);
    /// `smallint`.
    pub const INT2: SqlType = SqlType::Stored(Type::Int2);
    /// `integer`.
    pub const INT4: SqlType = SqlType::Stored(Type::Int4);
    /// `bigint`.
    pub const INT8: SqlType = SqlType::Stored(Type::Int8);
    /// `double precision`.
    pub const FLOAT8: SqlType = SqlType::Stored(Type::Float8);
    /// `numeric` of any precision.
    pub const NUMERIC: SqlType = SqlType::Stored(Type::Numeric(None));
    /// `text`.
    pub const TEXT: SqlType = SqlType::Stored(Type::Text);
    /// `character varying` of any length.
    pub const VARCHAR: SqlType = SqlType::Stored(Type::Varchar(None));
    /// `character` of any length.
    pub const BPCHAR: SqlType = SqlType::Stored(Type::Char(0));
    /// `bytea`.
    pub const BYTEA: SqlType = SqlType::Stored(Type::Bytea);
    /// `timestamp without time zone`.
    pub const TIMESTAMP: SqlType = SqlType::Stored(Type::Timestamp);
    /// `timestamp with time zone`.
    pub const TIMESTAMPTZ: SqlType = SqlType::Stored(Type::TimestampTz);
    /// `date`.
    pub const DATE: SqlType = SqlType::Stored(Type::Date);
    /// `uuid`.
    pub const UUID: SqlType = SqlType::Stored(Type::Uuid);

    /// The type without its length, precision and scale.
    pub fn base(self) -> SqlType {
        match self {
            SqlType::Stored(Type::Numeric(_)) => SqlType::NUMERIC,
            SqlType::Stored(Type::Varchar(_)) => SqlType::VARCHAR,
            SqlType::Stored(Type::Char(_)) => SqlType::BPCHAR,
            SqlType::Array(Type::Numeric(_)) => SqlType::Array(Type::Numeric(None)),
            SqlType::Array(Type::Varchar(_)) => SqlType::Array(Type::Varchar(None)),
            SqlType::Array(Type::Char(_)) => SqlType::Array(Type::Char(0)),
            other => other,
        }
    }

    /// Whether a value of it is carried as [`Datum::Text`].
    pub fn is_text(self) -> bool {
        use SqlType::{InternalChar, Name, Stored, Unknown};
        matches!(self, Unknown | Name | InternalChar | Stored(Type::Text | Type::Varchar(_) | Type::Char(_)))
    }

    /// Whether it is an oid, or an oid shown as a name.
    pub fn is_oid(self) -> bool {
        matches!(self, SqlType::Oid | SqlType::Regclass | SqlType::Regtype | SqlType::Regproc | SqlType::Regnamespace)
    }

    /// What a column of it would be: `unknown` becomes text, as in the result of a query. None if tables can't hold it.
    pub fn stored(self) -> Option<Type> {
        match self {
            SqlType::Stored(ty) => Some(ty),
            SqlType::Unknown => Some(Type::Text),
            _ => None,
        }
    }
}

/// A session's settings that change what values look like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Formats {
    /// `TimeZone`.
    pub zone: Zone,
    /// `extra_float_digits`, -15..=3; above 0 a double prints the shortest digits that read back as itself.
    pub extra_float_digits: i8,
    /// `bytea_output = escape`.
    pub bytea_escape: bool,
}

impl Default for Formats {
    fn default() -> Formats {
        Formats { zone: Zone::utc(), extra_float_digits: 1, bytea_escape: false }
    }
}

/// What comes from outside while an expression is evaluated.
pub trait Outside: Send + Sync {
    /// The wall clock: microseconds since 2000-01-01 00:00 UTC.
    fn clock(&self) -> i64;
    /// 64 random bits nobody can foretell.
    fn bits(&self) -> u64;
}

/// What an expression is evaluated with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The session's settings.
    pub formats: &'a Formats,
    /// `now()`: when the transaction began, microseconds since 2000-01-01 00:00 UTC.
    pub transaction_start: i64,
    /// `statement_timestamp()`, likewise.
    pub statement_start: i64,
    /// Clock and randomness for functions that ask each time.
    pub outside: &'a dyn Outside,
}

/// An error with only a code and a message.
pub(crate) fn fail<T>(code: &'static str, message: impl Into<String>) -> Result<T, SqlError> {
    Err(SqlError::new(code, message))
}

/// A value isn't carried as its type says: a defect of the binder, reported instead of a panic.
pub(crate) fn mismatch<T>(wanted: &str, found: &Datum) -> Result<T, SqlError> {
    fail("XX000", format!("expected {wanted}, found {found:?}"))
}
