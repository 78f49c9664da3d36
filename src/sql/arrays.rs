//! Arrays as expressions use them: over [`crate::sql::types::array`], with the vectors of the catalog.

use super::error::SqlError;
use super::types::{Context, Datum, Formats, SqlType, Type, array, text};

/// The type of an array's elements; nothing for what is no array.
pub fn element_of(ty: SqlType) -> Option<SqlType> {
    match ty {
        SqlType::Array(element) => Some(SqlType::Stored(element)),
        SqlType::Int2Vector => Some(SqlType::INT2),
        SqlType::OidVector => Some(SqlType::Oid),
        _ => None,
    }
}

/// The type of an array of such elements. Oids and names are held as what carries them.
pub fn array_of(element: SqlType) -> SqlType {
    SqlType::Array(stored(element))
}

fn stored(element: SqlType) -> Type {
    match element {
        ty if ty.is_oid() => Type::Int8,
        ty => ty.stored().unwrap_or(Type::Text),
    }
}

/// The subscript of an array's first element.
pub fn lower_bound(ty: SqlType) -> i32 {
    i32::from(matches!(ty, SqlType::Array(_)))
}

/// Elements of an array of type `ty`.
///
/// # Errors
/// 22P02: it is none.
pub fn elements(ty: SqlType, value: &Datum, context: &Context<'_>) -> Result<Vec<Datum>, SqlError> {
    let Datum::Text(text) = value else { return Err(SqlError::new("XX000", "an array that is no text")) };
    let invalid = |_| SqlError::new("22P02", format!("invalid vector: \"{text}\""));
    match ty {
        SqlType::Array(element) => array::elements(element, text, context),
        SqlType::Int2Vector => text.split_whitespace().map(|part| part.parse().map(Datum::Int2).map_err(invalid)).collect(),
        _ => text.split_whitespace().map(|part| part.parse().map(Datum::Int8).map_err(invalid)).collect(),
    }
}

/// A function of an array of any type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Function {
    /// `array_to_string`.
    ToString,
    /// `array_length`.
    Length,
    /// `array_upper`.
    Upper,
    /// `array_lower`.
    Lower,
    /// `cardinality`.
    Cardinality,
    /// A vector as an array.
    FromVector,
    /// `array || array`, `array_cat`.
    Concat,
    /// `array || element`, `array_append`: the element comes as an array of one.
    Append,
}

impl Function {
    /// The one of that name.
    pub fn named(name: &str) -> Option<Function> {
        Some(match name {
            "array_to_string" => Function::ToString,
            "array_length" => Function::Length,
            "array_upper" => Function::Upper,
            "array_lower" => Function::Lower,
            "cardinality" => Function::Cardinality,
            _ => return None,
        })
    }

    /// The type of its result.
    pub fn result(self) -> SqlType {
        if self == Function::ToString { SqlType::TEXT } else { SqlType::INT4 }
    }

    /// `array || array`: null is empty, unless both are.
    fn concat(ty: SqlType, args: &[Datum], context: &Context<'_>) -> Result<Datum, SqlError> {
        let mut all = Vec::new();
        for arg in args.iter().filter(|arg| **arg != Datum::Null) {
            all.extend(elements(ty, arg, context)?);
        }
        match args.iter().all(|arg| *arg == Datum::Null) {
            true => Ok(Datum::Null),
            false => Ok(build(element_of(ty).unwrap_or(SqlType::TEXT), &all, context.formats)),
        }
    }

    /// Calls it with an array of type `ty` and more.
    ///
    /// # Errors
    /// 22P02: it is no array.
    pub fn call(self, ty: SqlType, args: &[Datum], context: &Context<'_>) -> Result<Datum, SqlError> {
        if matches!(self, Function::Concat | Function::Append) {
            return Function::concat(ty, args, context);
        }
        let (Some(array @ Datum::Text(_)), false) = (args.first(), args.get(1) == Some(&Datum::Null)) else { return Ok(Datum::Null) };
        let list = elements(ty, array, context)?;
        let (length, first) = (list.len() as i32, lower_bound(ty));
        let one_dimension = args.get(1).is_none_or(|dimension| *dimension == Datum::Int4(1)) && length > 0;
        Ok(match self {
            Function::ToString => {
                let (Datum::Text(between), null) = (&args[1], args.get(2)) else { return Ok(Datum::Null) };
                let element = element_of(ty).unwrap_or(SqlType::TEXT);
                let shown = list.iter().filter_map(|value| match (value, null) {
                    (Datum::Null, Some(Datum::Text(null))) => Some(null.clone()),
                    (Datum::Null, _) => None,
                    (value, _) => Some(text::to_string(element, value, context.formats)),
                });
                Datum::Text(shown.collect::<Vec<_>>().join(between))
            }
            Function::Cardinality => Datum::Int4(length),
            Function::FromVector => build(element_of(ty).unwrap_or(SqlType::TEXT), &list, context.formats),
            _ if !one_dimension => Datum::Null,
            Function::Length => Datum::Int4(length),
            Function::Upper => Datum::Int4(first + length - 1),
            Function::Lower => Datum::Int4(first),
            Function::Concat | Function::Append => Datum::Null,
        })
    }
}

/// An array of `elements` of type `element`.
pub fn build(element: SqlType, elements: &[Datum], formats: &Formats) -> Datum {
    array::build(stored(element), elements, formats)
}
