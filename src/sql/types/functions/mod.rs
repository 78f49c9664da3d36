//! The functions there are, as tables: `math`, `string`, `moment` (dates and times), and those that tables can't describe.

mod math;
mod md5;
mod moment;
mod string;

use super::compare::compare;
use super::operators::arity;
use super::resolve::{Call, Function, FunctionRef, Volatility, bind_all, bind_text, common_type};
use super::{Context, Datum, SqlError, SqlType};

pub(crate) use md5::digest as md5_digest;

pub(crate) const fn row(name: &'static str, arguments: &'static [SqlType], result: SqlType, call: Call) -> Function {
    Function { name, arguments, result, strict: true, volatility: Volatility::Immutable, call }
}

pub(crate) const fn unstable(
    name: &'static str,
    arguments: &'static [SqlType],
    result: SqlType,
    volatility: Volatility,
    call: Call,
) -> Function {
    Function { name, arguments, result, strict: true, volatility, call }
}

/// All tables.
pub(crate) fn tables() -> impl Iterator<Item = &'static [Function]> {
    [math::FUNCTIONS, string::FUNCTIONS, moment::FUNCTIONS].into_iter()
}

const fn special_row(name: &'static str, result: SqlType, call: Call) -> Function {
    Function { name, arguments: &[], result, strict: false, volatility: Volatility::Immutable, call }
}

/// Functions of any number of arguments, or whose type is that of their arguments. None if `name` is none of them.
pub(crate) fn special(name: &str, types: &[SqlType]) -> Option<Result<FunctionRef, SqlError>> {
    let any_type = |name: &'static str, what: &str, call: Call| {
        let common = common_type(types, what);
        Some(common.and_then(|common| bind_all(&special_row(name, common, call), types, common, common)))
    };
    match name {
        "coalesce" => any_type("coalesce", "COALESCE", |_, arguments, _| {
            Ok(arguments.iter().find(|value| **value != Datum::Null).cloned().unwrap_or(Datum::Null))
        }),
        "greatest" => any_type("greatest", "GREATEST", |ty, arguments, _| extreme(ty, arguments, std::cmp::Ordering::Greater)),
        "least" => any_type("least", "LEAST", |ty, arguments, _| extreme(ty, arguments, std::cmp::Ordering::Less)),
        "nullif" => Some(nullif(types)),
        "concat" if !types.is_empty() => Some(Ok(bind_text(&special_row("concat", SqlType::TEXT, concat), types))),
        "concat_ws" if types.len() > 1 => Some(Ok(bind_text(&special_row("concat_ws", SqlType::TEXT, concat_ws), types))),
        "num_nulls" | "num_nonnulls" => Some(Ok(counting(name, types))),
        _ => None,
    }
}

fn counting(name: &str, types: &[SqlType]) -> FunctionRef {
    if name == "num_nulls" {
        return bind_text(&special_row("num_nulls", SqlType::INT4, |_, arguments, _| Ok(nulls(arguments, true))), types);
    }
    bind_text(&special_row("num_nonnulls", SqlType::INT4, |_, arguments, _| Ok(nulls(arguments, false))), types)
}

fn nulls(arguments: &[Datum], null: bool) -> Datum {
    Datum::Int4(arguments.iter().filter(|value| (**value == Datum::Null) == null).count() as i32)
}

fn extreme(ty: SqlType, arguments: &[Datum], wanted: std::cmp::Ordering) -> Result<Datum, SqlError> {
    let mut best: Option<&Datum> = None;
    for value in arguments.iter().filter(|value| **value != Datum::Null) {
        if best.map_or(Ok(true), |best| compare(ty, value, best).map(|order| order == wanted))? {
            best = Some(value);
        }
    }
    Ok(best.cloned().unwrap_or(Datum::Null))
}

/// `nullif(a, b)`: compares as `=` does; the result has a's type. The arguments are compared at the type that `=` takes.
fn nullif(types: &[SqlType]) -> Result<FunctionRef, SqlError> {
    let [a, b] = types else {
        return super::fail("42601", "NULLIF requires two arguments");
    };
    let equal = super::resolve_operator("=", Some(*a), *b)?;
    let result = equal.arguments.first().copied().unwrap_or(*a);
    let call: Call = |ty, arguments, _| match arguments {
        [Datum::Null, _] => Ok(Datum::Null),
        [a, Datum::Null] => Ok(a.clone()),
        [a, b] => Ok(if compare(ty, a, b)? == std::cmp::Ordering::Equal { Datum::Null } else { a.clone() }),
        _ => arity(arguments),
    };
    bind_all(&special_row("nullif", result, call), types, result, result)
}

fn concat(_: SqlType, arguments: &[Datum], _: &Context<'_>) -> Result<Datum, SqlError> {
    let mut text = String::new();
    for value in arguments {
        if let Datum::Text(value) = value {
            text.push_str(value);
        }
    }
    Ok(Datum::Text(text))
}

fn concat_ws(_: SqlType, arguments: &[Datum], _: &Context<'_>) -> Result<Datum, SqlError> {
    let Some((Datum::Text(separator), rest)) = arguments.split_first() else { return Ok(Datum::Null) };
    let pieces: Vec<&str> =
        rest.iter().filter_map(|value| if let Datum::Text(value) = value { Some(value.as_str()) } else { None }).collect();
    Ok(Datum::Text(pieces.join(separator)))
}
