//! Which of two values is larger. Text compares by its bytes (collation C), `char(n)` without the blanks at its end.

use std::cmp::Ordering;

use super::interval::Interval;
use super::{Datum, SqlError, SqlType, Type, mismatch, numeric};

/// Compares two values of one type, neither null; NaN equals itself and is larger than all other doubles.
///
/// # Errors
/// XX000 when the values aren't carried by the same variant.
pub fn compare(ty: SqlType, a: &Datum, b: &Datum) -> Result<Ordering, SqlError> {
    Ok(match (a, b) {
        (Datum::Int4(a), Datum::Int4(b)) => a.cmp(b),
        (Datum::Int8(a), Datum::Int8(b)) => a.cmp(b),
        (Datum::Text(a), Datum::Text(b)) if matches!(ty, SqlType::Stored(Type::Char(_))) => {
            a.trim_end_matches(' ').as_bytes().cmp(b.trim_end_matches(' ').as_bytes())
        }
        (Datum::Text(a), Datum::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Datum::Int2(a), Datum::Int2(b)) => a.cmp(b),
        (Datum::Bool(a), Datum::Bool(b)) => a.cmp(b),
        (Datum::Float8(a), Datum::Float8(b)) => compare_floats(*a, *b),
        (Datum::Numeric(a), Datum::Numeric(b)) => numeric::compare(a, b),
        (Datum::Bytea(a), Datum::Bytea(b)) if ty == SqlType::Interval => match (Interval::from_bytes(a), Interval::from_bytes(b)) {
            (Some(a), Some(b)) => a.span().cmp(&b.span()),
            _ => return mismatch("two intervals", &Datum::Bytea(a.clone())),
        },
        (Datum::Bytea(a), Datum::Bytea(b)) => a.cmp(b),
        (Datum::Timestamp(a), Datum::Timestamp(b)) | (Datum::TimestampTz(a), Datum::TimestampTz(b)) => a.cmp(b),
        (Datum::Date(a), Datum::Date(b)) => a.cmp(b),
        (Datum::Uuid(a), Datum::Uuid(b)) => a.cmp(b),
        _ => return mismatch(&format!("two values of type {}", ty.display_name()), if *a == Datum::Null { b } else { a }),
    })
}

/// PostgreSQL's order of doubles.
pub(crate) fn compare_floats(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        // -0 equals 0 here, unlike in total_cmp.
        (false, false) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
    }
}

/// For ORDER BY: as [`compare`], nulls last (PostgreSQL's default for ascending).
///
/// # Errors
/// As [`compare`].
pub fn order(ty: SqlType, a: &Datum, b: &Datum) -> Result<Ordering, SqlError> {
    match (a, b) {
        (Datum::Null, Datum::Null) => Ok(Ordering::Equal),
        (Datum::Null, _) => Ok(Ordering::Greater),
        (_, Datum::Null) => Ok(Ordering::Less),
        _ => compare(ty, a, b),
    }
}

/// `NOT (a IS DISTINCT FROM b)`: two nulls are the same.
///
/// # Errors
/// As [`compare`].
pub fn same(ty: SqlType, a: &Datum, b: &Datum) -> Result<bool, SqlError> {
    Ok(order(ty, a, b)? == Ordering::Equal)
}

/// Three-valued AND; None is unknown.
pub fn and(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

/// Three-valued OR; None is unknown.
pub fn or(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

/// A condition's value: None for null.
///
/// # Errors
/// XX000 when it isn't a boolean.
pub fn truth(value: &Datum) -> Result<Option<bool>, SqlError> {
    match value {
        Datum::Null => Ok(None),
        Datum::Bool(value) => Ok(Some(*value)),
        other => mismatch("a boolean", other),
    }
}
