//! Which conversion there is between two types (PostgreSQL's `pg_cast`), and doing it.

use bigdecimal::BigDecimal;

use super::text::{cut_bytes, limited, to_string};
use super::{Context, Datum, SqlError, SqlType, Type, array, datetime, fail, mismatch, numeric, text};

/// Where a conversion is asked for; each may do what the ones before may.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CastContext {
    /// In an expression, unasked.
    Implicit,
    /// When a value is written into a column.
    Assignment,
    /// `CAST`, `::`.
    Explicit,
}

/// How a value is converted before its length is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    /// It is carried the same way.
    Same,
    /// `char(n)` to `bpchar`: the blanks that its length gave it stand in the value from here on.
    Pad,
    /// `bpchar` to another string: without the blanks at its end.
    Trim,
    /// Read from text.
    Input,
    /// Written as text.
    Output,
    /// Computed.
    Convert,
    /// Element by element.
    Elements,
}

/// A conversion found by [`resolve_cast`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CastRef {
    /// The type converted.
    pub from: SqlType,
    /// The type it becomes.
    pub to: SqlType,
    how: How,
    context: CastContext,
}

/// The conversion from one type to another, None where there is none in that context.
pub fn find_cast(from: SqlType, to: SqlType, context: CastContext) -> Option<CastRef> {
    let (least, how) = path(from.base(), to.base())?;
    let how = match (how, from) {
        (How::Same, SqlType::Stored(Type::Char(1..))) if to == SqlType::BPCHAR => How::Pad,
        (How::Same, SqlType::BPCHAR) if to.base() != SqlType::BPCHAR => How::Trim,
        (how, _) => how,
    };
    (least <= context).then_some(CastRef { from, to, how, context })
}

/// As [`find_cast`].
///
/// # Errors
/// 42846 where there is none.
pub fn resolve_cast(from: SqlType, to: SqlType, context: CastContext) -> Result<CastRef, SqlError> {
    match find_cast(from, to, context) {
        Some(cast) => Ok(cast),
        None => fail("42846", format!("cannot cast type {} to {}", from.display_name(), to.display_name())),
    }
}

/// For `concat` and its like: a value as its type's output shows it.
pub(crate) fn output_cast(from: SqlType) -> CastRef {
    CastRef { from, to: SqlType::TEXT, how: How::Output, context: CastContext::Explicit }
}

/// Whether a value of one type is taken where another is asked for, unasked.
pub(crate) fn implicit(from: SqlType, to: SqlType) -> bool {
    find_cast(from, to, CastContext::Implicit).is_some()
}

/// Types without lengths: the least context that converts, and how.
fn path(from: SqlType, to: SqlType) -> Option<(CastContext, How)> {
    use CastContext::{Assignment, Explicit, Implicit};
    use SqlType as T;
    if from == to {
        return Some((Implicit, How::Same));
    }
    if from == T::Unknown {
        return Some((Implicit, if to.is_text() && to == T::TEXT { How::Same } else { How::Input }));
    }
    let known = match (from, to) {
        (T::INT2, T::INT4 | T::INT8 | T::NUMERIC | T::FLOAT8) => (Implicit, How::Convert),
        (T::INT4, T::INT8 | T::NUMERIC | T::FLOAT8) => (Implicit, How::Convert),
        (T::INT8, T::NUMERIC | T::FLOAT8) => (Implicit, How::Convert),
        (T::NUMERIC, T::FLOAT8) => (Implicit, How::Convert),
        (T::INT4, T::INT2) | (T::INT8, T::INT2 | T::INT4) => (Assignment, How::Convert),
        (T::NUMERIC, T::INT2 | T::INT4 | T::INT8) => (Assignment, How::Convert),
        (T::FLOAT8, T::INT2 | T::INT4 | T::INT8 | T::NUMERIC) => (Assignment, How::Convert),
        (T::BOOL, T::INT4) | (T::INT4, T::BOOL) => (Explicit, How::Convert),
        (T::BOOL, T::TEXT | T::VARCHAR | T::BPCHAR) => (Assignment, How::Convert),
        (T::INT2 | T::INT4 | T::INT8, to) if to.is_oid() => (Implicit, How::Convert),
        (from, T::INT4) if from.is_oid() => (Assignment, How::Convert),
        (from, T::INT8) if from.is_oid() => (if from == T::Oid { Implicit } else { Assignment }, How::Convert),
        (T::Oid, to) if to.is_oid() => (Implicit, How::Same),
        (from, T::Oid) if from.is_oid() => (Implicit, How::Same),
        (T::TEXT | T::VARCHAR, T::Regclass) => (Implicit, How::Input),
        (T::TEXT, T::VARCHAR) | (T::VARCHAR, T::TEXT) | (T::Name, T::TEXT) => (Implicit, How::Same),
        (T::BPCHAR, T::TEXT | T::VARCHAR) => (Implicit, How::Same),
        (T::TEXT | T::VARCHAR, T::BPCHAR) => (Implicit, How::Same),
        (T::TEXT | T::VARCHAR, T::Name) => (Implicit, How::Convert),
        (T::BPCHAR, T::Name) => (Implicit, How::Convert),
        (T::Name, T::VARCHAR | T::BPCHAR) => (Assignment, How::Convert),
        (T::InternalChar, T::TEXT) => (Implicit, How::Same),
        (T::InternalChar, T::VARCHAR | T::BPCHAR) => (Assignment, How::Same),
        (T::TEXT | T::VARCHAR | T::BPCHAR, T::InternalChar) => (Assignment, How::Input),
        (T::InternalChar, T::INT4) | (T::INT4, T::InternalChar) => (Explicit, How::Convert),
        (T::DATE, T::TIMESTAMP | T::TIMESTAMPTZ) | (T::TIMESTAMP, T::TIMESTAMPTZ) => (Implicit, How::Convert),
        (T::TIMESTAMP | T::TIMESTAMPTZ, T::DATE) | (T::TIMESTAMPTZ, T::TIMESTAMP) => (Assignment, How::Convert),
        (T::Array(a), T::Array(b)) => {
            let (context, how) = path(a.into(), b.into())?;
            (context, if how == How::Same { How::Same } else { How::Elements })
        }
        (T::Void | T::Any | T::AnyElement, _) | (_, T::Void | T::Any | T::AnyElement | T::Unknown) => return None,
        // Through text: to a string on assignment, from a string only when asked for.
        (_, T::TEXT | T::VARCHAR | T::BPCHAR | T::Name) => (Assignment, How::Output),
        (T::TEXT | T::VARCHAR | T::BPCHAR | T::Name, _) => (Explicit, How::Input),
        _ => return None,
    };
    Some(known)
}

impl CastRef {
    /// Whether values stay as they are: the caller may leave the conversion out.
    pub fn is_noop(&self) -> bool {
        let unlimited = self.to.typmod() < 0 || self.to == self.from;
        self.how == How::Same && unlimited
    }

    /// Converts a value; null stays null.
    ///
    /// # Errors
    /// What reading, range checks and lengths give: 22P02, 22003, 22001, 22007, 22008.
    pub fn call(&self, value: Datum, context: &Context<'_>) -> Result<Datum, SqlError> {
        if value == Datum::Null {
            return Ok(value);
        }
        let converted = match (self.how, value) {
            (How::Same, value) => value,
            (How::Pad, Datum::Text(mut value)) => {
                if let SqlType::Stored(Type::Char(length)) = self.from {
                    pad(&mut value, length);
                }
                Datum::Text(value)
            }
            (How::Trim, Datum::Text(mut value)) => {
                value.truncate(value.trim_end_matches(' ').len());
                Datum::Text(value)
            }
            (How::Pad | How::Trim, other) => return mismatch("text", &other),
            (How::Input, Datum::Text(mut value)) => {
                if let SqlType::Stored(Type::Char(length)) = self.from {
                    pad(&mut value, length);
                }
                text::input(self.to.base(), &value, context)?
            }
            (How::Input, other) => return mismatch("text", &other),
            (How::Output, value) => Datum::Text(to_string(self.from, &value, context.formats)),
            (How::Convert, value) => convert(value, self.from, self.to, context)?,
            (How::Elements, value) => self.elements(&value, context)?,
        };
        self.fit(converted)
    }

    fn elements(&self, value: &Datum, context: &Context<'_>) -> Result<Datum, SqlError> {
        let (SqlType::Array(from), SqlType::Array(to), Datum::Text(text)) = (self.from, self.to, value) else {
            return mismatch("an array", value);
        };
        let cast = resolve_cast(from.into(), to.into(), self.context)?;
        let elements = array::elements(from, text, context)?;
        let converted: Result<Vec<Datum>, SqlError> = elements.into_iter().map(|element| cast.call(element, context)).collect();
        Ok(array::build(to, &converted?, context.formats))
    }

    /// Length, precision and scale.
    fn fit(&self, value: Datum) -> Result<Datum, SqlError> {
        Ok(match (self.to, value) {
            (SqlType::Stored(Type::Numeric(limit @ Some(_))), Datum::Numeric(value)) => Datum::Numeric(numeric::fit(value, limit)?),
            (SqlType::Stored(ty @ (Type::Varchar(Some(limit)) | Type::Char(limit @ 1..))), Datum::Text(mut value)) => {
                if self.context == CastContext::Explicit {
                    if let Some((at, _)) = value.char_indices().nth(limit as usize) {
                        value.truncate(at);
                    }
                } else {
                    let kept = limited(&value, limit, ty)?.len();
                    value.truncate(kept);
                }
                if matches!(ty, Type::Char(_)) {
                    value.truncate(value.trim_end_matches(' ').len());
                }
                Datum::Text(value)
            }
            (SqlType::Name, Datum::Text(mut value)) => {
                let kept = cut_bytes(&value, 63).len();
                value.truncate(kept);
                Datum::Text(value)
            }
            (_, value) => value,
        })
    }
}

/// Adds the blanks that `char(length)` is shown with.
pub(crate) fn pad(value: &mut String, length: u32) {
    let have = value.chars().count();
    value.extend(std::iter::repeat_n(' ', (length as usize).saturating_sub(have)));
}

/// A double as an integer: to the nearest, half to even.
fn float_to_int(value: f64, min: i64, max: i64, name: &str) -> Result<i64, SqlError> {
    let rounded = value.round_ties_even();
    // -2^63 is a double, 2^63 - 1 isn't: the upper bound is compared as what it rounds to, exclusively.
    if rounded.is_nan() || rounded < min as f64 || rounded >= max as f64 + 1.0 {
        return fail("22003", format!("{name} out of range"));
    }
    Ok(rounded as i64)
}

fn int(value: i64, to: SqlType) -> Result<Datum, SqlError> {
    let range = |name: &str| fail("22003", format!("{name} out of range"));
    match to.base() {
        SqlType::INT2 => i16::try_from(value).map_or_else(|_| range("smallint"), |v| Ok(Datum::Int2(v))),
        SqlType::INT4 => i32::try_from(value).map_or_else(|_| range("integer"), |v| Ok(Datum::Int4(v))),
        SqlType::INT8 => Ok(Datum::Int8(value)),
        SqlType::FLOAT8 => Ok(Datum::Float8(value as f64)),
        SqlType::NUMERIC => Ok(Datum::Numeric(BigDecimal::from(value))),
        SqlType::BOOL => Ok(Datum::Bool(value != 0)),
        SqlType::InternalChar => Ok(Datum::Text(u8::try_from(value).map(|b| char::from(b).to_string()).unwrap_or_default())),
        to if to.is_oid() => match value {
            value if (i64::from(i32::MIN)..=i64::from(u32::MAX)).contains(&value) => Ok(Datum::Int8(i64::from(value as u32))),
            _ => fail("22003", "OID out of range"),
        },
        to => fail("XX000", format!("no conversion from an integer to {}", to.display_name())),
    }
}

/// The bounds of an integer type, and its name.
fn bounds(to: SqlType) -> Option<(i64, i64, &'static str)> {
    match to {
        SqlType::INT2 => Some((i16::MIN.into(), i16::MAX.into(), "smallint")),
        SqlType::INT4 => Some((i32::MIN.into(), i32::MAX.into(), "integer")),
        SqlType::INT8 => Some((i64::MIN, i64::MAX, "bigint")),
        _ => None,
    }
}

fn convert(value: Datum, from: SqlType, to: SqlType, context: &Context<'_>) -> Result<Datum, SqlError> {
    let zone = &context.formats.zone;
    let base = to.base();
    match value {
        Datum::Int2(value) => int(value.into(), to),
        Datum::Int4(value) => int(value.into(), to),
        // An oid as an int4 keeps its bits.
        Datum::Int8(value) => int(value, to),
        Datum::Bool(value) => match base {
            SqlType::INT4 => Ok(Datum::Int4(value.into())),
            _ => Ok(Datum::Text(if value { "true" } else { "false" }.into())),
        },
        Datum::Float8(value) => match bounds(base) {
            Some((min, max, name)) => int(float_to_int(value, min, max, name)?, to),
            None => numeric::from_float(value).map(Datum::Numeric),
        },
        Datum::Numeric(value) => match bounds(base) {
            Some((min, max, name)) => int(numeric::to_int(&value, min, max, name)?, to),
            None => numeric::to_float(&value).map(Datum::Float8),
        },
        Datum::Text(value) => match base {
            SqlType::INT4 => Ok(Datum::Int4(value.bytes().next().map_or(0, |b| i32::from(b as i8)))),
            _ if matches!(from, SqlType::Stored(Type::Char(_))) => Ok(Datum::Text(value.trim_end_matches(' ').to_owned())),
            _ => Ok(Datum::Text(value)),
        },
        Datum::Date(value) => {
            let moment = datetime::date_to_timestamp(value)?;
            match base {
                SqlType::TIMESTAMP => Ok(Datum::Timestamp(moment)),
                _ => datetime::from_local(moment, zone).map(Datum::TimestampTz),
            }
        }
        Datum::Timestamp(value) => match base {
            SqlType::DATE => Ok(Datum::Date(datetime::timestamp_to_date(value))),
            _ => datetime::from_local(value, zone).map(Datum::TimestampTz),
        },
        Datum::TimestampTz(value) => {
            let local = datetime::to_local(value, zone)?;
            match base {
                SqlType::DATE => Ok(Datum::Date(datetime::timestamp_to_date(local))),
                _ => Ok(Datum::Timestamp(local)),
            }
        }
        other => mismatch(&format!("what converts to {}", to.display_name()), &other),
    }
}
