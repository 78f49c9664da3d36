//! Binds and evaluates an expression in one go: enough of SQL to try what `types` offers. Not the engine's binder.

use sqlparser::ast::{
    BinaryOperator, CastKind, CeilFloorKind, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, TrimWhereField, UnaryOperator, Value,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::super::compare::{and, compare, or, truth};
use super::super::{
    CastContext, Context, Datum, SqlError, SqlType, common_type, fail, parse_type, resolve_cast, resolve_function, resolve_operator, text,
};

type Typed = (SqlType, Datum);

/// The value of an expression, literals of unknown type as text.
pub(super) fn evaluate(expression: &str, context: &Context<'_>) -> Result<Typed, SqlError> {
    let parsed = Parser::new(&PostgreSqlDialect {}).try_with_sql(expression).and_then(|mut parser| parser.parse_expr());
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return fail("42601", error.to_string()),
    };
    let (ty, value) = walk(&parsed, context)?;
    if ty == SqlType::Unknown { Ok((SqlType::TEXT, value)) } else { Ok((ty, value)) }
}

fn number(text: &str, context: &Context<'_>) -> Result<Typed, SqlError> {
    let whole = text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if whole && let Ok(value) = text.parse::<i32>() {
        return Ok((SqlType::INT4, Datum::Int4(value)));
    }
    if whole && let Ok(value) = text.parse::<i64>() {
        return Ok((SqlType::INT8, Datum::Int8(value)));
    }
    Ok((SqlType::NUMERIC, text::input(SqlType::NUMERIC, text, context)?))
}

/// A type as SQL writes it: `numeric(5,2)`.
pub(super) fn type_of(written: &str) -> Result<SqlType, SqlError> {
    let lower = written.to_ascii_lowercase();
    let (name, rest) = lower.split_once('(').unwrap_or((&lower, ""));
    let modifiers: Vec<i64> = rest.trim_end_matches(')').split(',').filter_map(|part| part.trim().parse().ok()).collect();
    parse_type(name.trim(), false, &modifiers, false)
}

fn cast(value: Typed, to: SqlType, context: CastContext, with: &Context<'_>) -> Result<Typed, SqlError> {
    if value.0 == to {
        return Ok(value);
    }
    Ok((to, resolve_cast(value.0, to, context)?.call(value.1, with)?))
}

fn boolean(value: Typed, what: &str, context: &Context<'_>) -> Result<Option<bool>, SqlError> {
    if !matches!(value.0, SqlType::BOOL | SqlType::Unknown) {
        return fail("42804", format!("argument of {what} must be type boolean, not type {}", value.0.display_name()));
    }
    truth(&cast(value, SqlType::BOOL, CastContext::Implicit, context)?.1)
}

fn from_bool(value: Option<bool>) -> Typed {
    (SqlType::BOOL, value.map_or(Datum::Null, Datum::Bool))
}

fn call(found: super::super::FunctionRef, arguments: Vec<Typed>, context: &Context<'_>) -> Result<Typed, SqlError> {
    let mut values = Vec::new();
    for (cast, (_, value)) in found.casts.iter().zip(arguments) {
        values.push(match cast {
            Some(cast) => cast.call(value, context)?,
            None => value,
        });
    }
    Ok((found.result, found.call(&values, context)?))
}

fn function(name: &str, arguments: Vec<Typed>, context: &Context<'_>) -> Result<Typed, SqlError> {
    let types: Vec<SqlType> = arguments.iter().map(|(ty, _)| *ty).collect();
    call(resolve_function(name, &types)?, arguments, context)
}

fn operator(name: &str, left: Typed, right: Typed, context: &Context<'_>) -> Result<Typed, SqlError> {
    call(resolve_operator(name, Some(left.0), right.0)?, vec![left, right], context)
}

fn walk(expression: &Expr, context: &Context<'_>) -> Result<Typed, SqlError> {
    let value = |e: &Expr| walk(e, context);
    match expression {
        Expr::Nested(inner) => value(inner),
        Expr::Value(literal) => literal_value(&literal.value, context),
        Expr::TypedString(typed) => {
            let text = literal_value(&typed.value.value, context)?;
            cast(text, type_of(&typed.data_type.to_string())?, CastContext::Explicit, context)
        }
        Expr::Interval(interval) => {
            let (_, text) = value(&interval.value)?;
            let Datum::Text(mut text) = text else { return fail("42601", "interval") };
            if let Some(unit) = &interval.leading_field {
                text.push_str(&format!(" {unit}"));
            }
            cast((SqlType::Unknown, Datum::Text(text)), SqlType::Interval, CastContext::Explicit, context)
        }
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => {
            cast(value(expr)?, type_of(&data_type.to_string())?, CastContext::Explicit, context)
        }
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => Ok(from_bool(boolean(value(expr)?, "NOT", context)?.map(|b| !b))),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } if is_number(expr) => number(&format!("-{expr}"), context),
        Expr::UnaryOp { op, expr } => {
            let operand = value(expr)?;
            call(resolve_operator(&op.to_string(), None, operand.0)?, vec![operand], context)
        }
        Expr::BinaryOp { left, op, right } => binary(left, op, right, context),
        Expr::AtTimeZone { timestamp, time_zone } => function("pg_catalog.timezone", vec![value(time_zone)?, value(timestamp)?], context),
        Expr::Extract { field, expr, .. } => {
            let field = field.to_string().to_ascii_lowercase();
            function("pg_catalog.extract", vec![(SqlType::Unknown, Datum::Text(field)), value(expr)?], context)
        }
        Expr::Ceil { expr, field: CeilFloorKind::DateTimeField(_) } => function("ceil", vec![value(expr)?], context),
        Expr::Floor { expr, field: CeilFloorKind::DateTimeField(_) } => function("floor", vec![value(expr)?], context),
        Expr::Position { expr, r#in } => function("pg_catalog.position", vec![value(r#in)?, value(expr)?], context),
        Expr::Substring { expr, substring_from, substring_for, shorthand, .. } => {
            let mut arguments = vec![value(expr)?];
            for part in [substring_from, substring_for].into_iter().flatten() {
                arguments.push(value(part)?);
            }
            function(if *shorthand { "substr" } else { "pg_catalog.substring" }, arguments, context)
        }
        Expr::Trim { trim_where, trim_what, expr, .. } => {
            let name = match trim_where {
                Some(TrimWhereField::Leading) => "ltrim",
                Some(TrimWhereField::Trailing) => "rtrim",
                _ => "btrim",
            };
            let mut arguments = vec![value(expr)?];
            for what in trim_what.iter() {
                arguments.push(value(what)?);
            }
            function(name, arguments, context)
        }
        Expr::Function(called) => {
            let mut arguments = Vec::new();
            if let FunctionArguments::List(list) = &called.args {
                for argument in &list.args {
                    match argument {
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) => arguments.push(value(argument)?),
                        _ => return fail("42601", "argument"),
                    }
                }
            }
            function(&called.name.to_string().to_ascii_lowercase(), arguments, context)
        }
        Expr::Like { negated, expr, pattern, escape_char, .. } => {
            like(if *negated { "!~~" } else { "~~" }, expr, pattern, escape_char.as_deref(), context)
        }
        Expr::ILike { negated, expr, pattern, escape_char, .. } => {
            like(if *negated { "!~~*" } else { "~~*" }, expr, pattern, escape_char.as_deref(), context)
        }
        Expr::Case { operand, conditions, else_result, .. } => case(operand.as_deref(), conditions, else_result.as_deref(), context),
        other => tests(other, context),
    }
}

/// As PostgreSQL's grammar does: a sign before a number belongs to it, so -2147483648 is an integer.
fn is_number(expression: &Expr) -> bool {
    matches!(expression, Expr::Value(literal) if matches!(literal.value, Value::Number(..)))
}

fn like(name: &str, left: &Expr, pattern: &Expr, escape: Option<&Expr>, context: &Context<'_>) -> Result<Typed, SqlError> {
    let (left, mut pattern) = (walk(left, context)?, walk(pattern, context)?);
    if let Some(escape) = escape {
        pattern = function("like_escape", vec![pattern, walk(escape, context)?], context)?;
    }
    operator(name, left, pattern, context)
}

/// IS, IN, BETWEEN.
fn tests(expression: &Expr, context: &Context<'_>) -> Result<Typed, SqlError> {
    let value = |e: &Expr| walk(e, context);
    let condition = |e: &Expr, what: &str| boolean(walk(e, context)?, what, context);
    let known = |value: bool| Ok((SqlType::BOOL, Datum::Bool(value)));
    match expression {
        Expr::IsNull(e) => known(value(e)?.1 == Datum::Null),
        Expr::IsNotNull(e) => known(value(e)?.1 != Datum::Null),
        Expr::IsTrue(e) => known(condition(e, "IS TRUE")? == Some(true)),
        Expr::IsNotTrue(e) => known(condition(e, "IS NOT TRUE")? != Some(true)),
        Expr::IsFalse(e) => known(condition(e, "IS FALSE")? == Some(false)),
        Expr::IsNotFalse(e) => known(condition(e, "IS NOT FALSE")? != Some(false)),
        Expr::IsUnknown(e) => known(condition(e, "IS UNKNOWN")?.is_none()),
        Expr::IsDistinctFrom(a, b) | Expr::IsNotDistinctFrom(a, b) => {
            let (a, b) = (value(a)?, value(b)?);
            let same = match (a.1 == Datum::Null, b.1 == Datum::Null) {
                (true, true) => true,
                (false, false) => operator("=", a, b, context)?.1 == Datum::Bool(true),
                _ => false,
            };
            known(same == matches!(expression, Expr::IsNotDistinctFrom(..)))
        }
        Expr::InList { expr, list, negated } => {
            let items: Result<Vec<Typed>, SqlError> = list.iter().map(value).collect();
            let (subject, items) = (value(expr)?, items?);
            let types: Vec<SqlType> = std::iter::once(subject.0).chain(items.iter().map(|(ty, _)| *ty)).collect();
            let common = common_type(&types, "IN")?;
            let mut found = Some(false);
            for item in items {
                let item = cast(item, common, CastContext::Implicit, context)?;
                found = or(found, truth(&operator("=", subject.clone(), item, context)?.1)?);
            }
            Ok(from_bool(if *negated { found.map(|b| !b) } else { found }))
        }
        Expr::Between { expr, negated, low, high } => {
            let low = truth(&operator(">=", value(expr)?, value(low)?, context)?.1)?;
            let high = truth(&operator("<=", value(expr)?, value(high)?, context)?.1)?;
            let inside = and(low, high);
            Ok(from_bool(if *negated { inside.map(|b| !b) } else { inside }))
        }
        other => fail("42601", format!("{other:?}")),
    }
}

fn literal_value(value: &Value, context: &Context<'_>) -> Result<Typed, SqlError> {
    match value {
        Value::Number(digits, _) => number(digits, context),
        Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Ok((SqlType::Unknown, Datum::Text(text.clone()))),
        Value::Boolean(value) => Ok((SqlType::BOOL, Datum::Bool(*value))),
        Value::Null => Ok((SqlType::Unknown, Datum::Null)),
        other => fail("42601", format!("{other:?}")),
    }
}

fn binary(left: &Expr, op: &BinaryOperator, right: &Expr, context: &Context<'_>) -> Result<Typed, SqlError> {
    let (left, right) = (walk(left, context)?, walk(right, context)?);
    match op {
        BinaryOperator::And => Ok(from_bool(and(boolean(left, "AND", context)?, boolean(right, "AND", context)?))),
        BinaryOperator::Or => Ok(from_bool(or(boolean(left, "OR", context)?, boolean(right, "OR", context)?))),
        op => operator(&op.to_string(), left, right, context),
    }
}

fn case(
    operand: Option<&Expr>,
    whens: &[sqlparser::ast::CaseWhen],
    other: Option<&Expr>,
    context: &Context<'_>,
) -> Result<Typed, SqlError> {
    let mut results: Vec<Typed> = other.map(|e| walk(e, context)).transpose()?.into_iter().collect();
    for when in whens {
        results.push(walk(&when.result, context)?);
    }
    let types: Vec<SqlType> = results.iter().map(|(ty, _)| *ty).collect();
    let common = common_type(&types, "CASE")?;
    let mut converted = Vec::new();
    for result in results {
        converted.push(cast(result, common, CastContext::Implicit, context)?);
    }
    let fallback = if other.is_some() { converted.remove(0) } else { (common, Datum::Null) };
    for (when, result) in whens.iter().zip(converted) {
        let condition = walk(&when.condition, context)?;
        let holds = match operand {
            None => boolean(condition, "CASE/WHEN", context)?,
            Some(operand) => truth(&operator("=", walk(operand, context)?, condition, context)?.1)?,
        };
        if holds == Some(true) {
            return Ok(result);
        }
    }
    Ok(fallback)
}

/// The tests' own comparison of equals: kept here so that `compare` is seen to be total on what we evaluate.
#[test]
fn compares_with_itself() {
    let formats = super::super::Formats::default();
    for expression in ["1", "1.5", "'x'::text", "date '2000-01-01'", "interval '1 day'", "1::float8"] {
        let (ty, value) = evaluate(expression, &super::context(&formats)).expect("it is right");
        assert_eq!(compare(ty, &value, &value).expect("of one type"), std::cmp::Ordering::Equal);
    }
}
