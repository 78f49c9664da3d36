//! Column types and values.
//!
//! `row` has rows as bytes, `key` values as bytes that sort as they do; `codec` is what they share. Callers: [`super::tables`], SQL.

mod codec;
pub mod key;
pub mod row;
#[cfg(test)]
mod tests;

pub use codec::{CodecError, SCALE_MAX};

use bigdecimal::BigDecimal;
use serde::{Deserialize, Serialize};

/// A column's type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Type {
    /// true or false.
    Bool,
    /// 16 bits.
    Int2,
    /// 32 bits.
    Int4,
    /// 64 bits.
    Int8,
    /// IEEE 754 double.
    Float8,
    /// Exact decimal; optionally at most `precision` digits, `scale` of them behind the point.
    Numeric(Option<(u16, i16)>),
    /// Any string.
    Text,
    /// At most so many characters.
    Varchar(Option<u32>),
    /// Exactly so many characters, padded with blanks that don't count.
    Char(u32),
    /// Bytes.
    Bytea,
    /// Microseconds since 2000-01-01 00:00, no zone.
    Timestamp,
    /// The same, UTC.
    TimestampTz,
    /// Days since 2000-01-01.
    Date,
    /// 16 bytes.
    Uuid,
}

/// A value.
#[derive(Clone, PartialEq, Debug)]
pub enum Datum {
    /// Unknown.
    Null,
    /// [`Type::Bool`].
    Bool(bool),
    /// [`Type::Int2`].
    Int2(i16),
    /// [`Type::Int4`].
    Int4(i32),
    /// [`Type::Int8`].
    Int8(i64),
    /// [`Type::Float8`].
    Float8(f64),
    /// [`Type::Numeric`]; NaN and infinities are not supported.
    Numeric(BigDecimal),
    /// [`Type::Text`], [`Type::Varchar`], [`Type::Char`] (without its padding).
    Text(String),
    /// [`Type::Bytea`].
    Bytea(Vec<u8>),
    /// [`Type::Timestamp`]; i64::MIN and i64::MAX are the infinities.
    Timestamp(i64),
    /// [`Type::TimestampTz`]; likewise.
    TimestampTz(i64),
    /// [`Type::Date`]; i32::MIN and i32::MAX are the infinities.
    Date(i32),
    /// [`Type::Uuid`].
    Uuid([u8; 16]),
}
