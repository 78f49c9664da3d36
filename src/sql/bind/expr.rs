//! Expressions of every kind.

use sqlparser::ast::{self, Value};

use super::names::Scope;
use super::{Binder, Typed, data_type};
use crate::sql::arrays;
use crate::sql::error::SqlError;
use crate::sql::plan::{Expr, Subplan, Wanted};
use crate::sql::types::{CastContext, Datum, SqlType, input};

fn boolean(expr: Expr) -> Typed {
    Typed { expr, ty: SqlType::BOOL }
}

fn refused(what: impl std::fmt::Display) -> SqlError {
    SqlError::unsupported(what, "Write it with the operators and functions that there are.")
}

/// The text of a string literal, whichever way it was quoted.
pub(super) fn string(value: &Value) -> Option<&str> {
    match value {
        Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) | Value::UnicodeStringLiteral(text) => Some(text),
        Value::NationalStringLiteral(text) => Some(text),
        Value::DollarQuotedString(text) => Some(&text.value),
        _ => None,
    }
}

impl Binder<'_> {
    /// Binds an expression.
    pub(super) fn expr(&mut self, expr: &ast::Expr, scope: &Scope<'_>) -> Result<Typed, SqlError> {
        self.deeper(|binder| binder.one(expr, scope))
    }

    fn one(&mut self, expr: &ast::Expr, scope: &Scope<'_>) -> Result<Typed, SqlError> {
        use ast::Expr as E;
        match expr {
            E::Identifier(name) => self.reference(std::slice::from_ref(name), scope),
            E::CompoundIdentifier(names) => self.reference(names, scope),
            E::Value(value) => self.literal(&value.value).map_err(|error| self.at(error, value.span)),
            E::Nested(inner) => self.expr(inner, scope),
            E::BinaryOp { left, op, right } => self.binary(left, op, right, scope),
            E::UnaryOp { op, expr } => self.unary(*op, expr, scope),
            E::Cast { kind, expr, data_type: ty, format } => match (kind, format) {
                (ast::CastKind::Cast | ast::CastKind::DoubleColon, None) => self.cast_to(expr, ty, scope),
                _ => Err(refused("this kind of CAST")),
            },
            E::Function(function) => self.function(function, scope),
            E::Case { operand, conditions, else_result, .. } => self.case(operand.as_deref(), conditions, else_result.as_deref(), scope),
            E::IsNull(inner) => Ok(boolean(Expr::IsNull(Box::new(self.expr(inner, scope)?.expr)))),
            E::IsNotNull(inner) => {
                let inner = self.expr(inner, scope)?.expr;
                Ok(boolean(Expr::Not(Box::new(Expr::IsNull(Box::new(inner))))))
            }
            E::InList { expr, list, negated } => self.in_list(expr, list, *negated, scope),
            E::Between { expr, negated, low, high } => self.between(expr, *negated, (low, high), scope),
            E::Like { negated, any: false, expr, pattern, escape_char } => {
                let escape = self.escape(escape_char.as_deref())?;
                self.like("~~", (expr, pattern), escape, *negated, scope)
            }
            E::ILike { negated, any: false, expr, pattern, escape_char } => {
                let escape = self.escape(escape_char.as_deref())?;
                self.like("~~*", (expr, pattern), escape, *negated, scope)
            }
            E::AnyOp { left, compare_op, right, .. } => self.quantified((left, right), compare_op, false, scope),
            E::AllOp { left, compare_op, right } => self.quantified((left, right), compare_op, true, scope),
            E::Subquery(query) => {
                let (id, ty) = self.subquery(query, Wanted::Scalar, scope)?;
                Ok(Typed { expr: Expr::Answer(id), ty })
            }
            E::Exists { subquery, negated } => {
                let (id, _) = self.subquery(subquery, Wanted::Exists, scope)?;
                let exists = Expr::Answer(id);
                Ok(boolean(if *negated { Expr::Not(Box::new(exists)) } else { exists }))
            }
            E::InSubquery { expr, subquery, negated } => {
                let left = self.expr(expr, scope)?;
                let found = self.in_query(left, "=", subquery, false, scope)?;
                Ok(if *negated { boolean(Expr::Not(Box::new(found.expr))) } else { found })
            }
            _ => self.rare(expr, scope),
        }
    }

    fn rare(&mut self, expr: &ast::Expr, scope: &Scope<'_>) -> Result<Typed, SqlError> {
        use ast::Expr as E;
        match expr {
            E::IsTrue(inner) => self.is(inner, (true, false), "IS TRUE", scope),
            E::IsNotTrue(inner) => self.is(inner, (true, true), "IS NOT TRUE", scope),
            E::IsFalse(inner) => self.is(inner, (false, false), "IS FALSE", scope),
            E::IsNotFalse(inner) => self.is(inner, (false, true), "IS NOT FALSE", scope),
            E::IsUnknown(inner) | E::IsNotUnknown(inner) => {
                let found = self.expr(inner, scope)?;
                let null = Expr::IsNull(Box::new(self.condition(found, "IS UNKNOWN")?));
                Ok(boolean(if matches!(expr, E::IsUnknown(_)) { null } else { Expr::Not(Box::new(null)) }))
            }
            E::IsDistinctFrom(left, right) | E::IsNotDistinctFrom(left, right) => {
                let sides = vec![self.expr(left, scope)?, self.expr(right, scope)?];
                let (mut sides, ty) = self.unified(sides, "IS DISTINCT FROM")?;
                let (right, left) = (sides.pop().unwrap_or(Expr::NULL), sides.pop().unwrap_or(Expr::NULL));
                let same = Expr::Same(ty, Box::new(left), Box::new(right));
                Ok(boolean(if matches!(expr, E::IsNotDistinctFrom(..)) { same } else { Expr::Not(Box::new(same)) }))
            }
            E::TypedString(typed) => {
                let ty = data_type(&typed.data_type)?;
                let text = string(&typed.value.value).ok_or_else(|| refused("a typed literal that is no string"))?;
                let value = input(ty, text, &self.world.context()).map_err(|error| self.at(error, typed.value.span))?;
                Ok(Typed { expr: Expr::Const(value), ty })
            }
            E::Interval(interval) => self.interval(interval),
            E::Collate { expr, collation } => {
                let name = super::names::parts(collation)?.pop().unwrap_or_default();
                match ["default", "C", "POSIX", "ucs_basic", "c", "posix"].contains(&name.as_str()) {
                    true => self.expr(expr, scope),
                    false => Err(SqlError::new("42704", format!("collation \"{name}\" for encoding \"UTF8\" does not exist"))
                        .hint("Text is ordered by its bytes: collation \"C\".")),
                }
            }
            E::Array(array) => {
                let elements = array.elem.iter().map(|element| self.expr(element, scope)).collect::<Result<Vec<_>, _>>()?;
                if elements.is_empty() {
                    return Ok(Typed { expr: Expr::Const(Datum::Text("{}".into())), ty: SqlType::Unknown });
                }
                let (elements, ty) = self.unified(elements, "ARRAY")?;
                Ok(Typed { expr: Expr::Array(elements, ty), ty: arrays::array_of(ty) })
            }
            E::CompoundFieldAccess { root, access_chain } => self.subscript(root, access_chain, scope),
            E::Tuple(_) => Err(refused("a row as a value")),
            E::SimilarTo { .. } => Err(refused("SIMILAR TO")),
            E::JsonAccess { .. } | E::IsJson { .. } => Err(refused("JSON")),
            other => self.written_out(other, scope),
        }
    }

    /// Functions that have a syntax of their own.
    fn written_out(&mut self, expr: &ast::Expr, scope: &Scope<'_>) -> Result<Typed, SqlError> {
        use ast::Expr as E;
        match expr {
            E::AtTimeZone { timestamp, time_zone } => {
                let args = vec![self.expr(time_zone, scope)?, self.expr(timestamp, scope)?];
                self.call_named("timezone", args)
            }
            E::Extract { field, expr, .. } => {
                let field = Typed { expr: Expr::Const(Datum::Text(field.to_string().to_lowercase())), ty: SqlType::TEXT };
                let args = vec![field, self.expr(expr, scope)?];
                self.call_named("extract", args)
            }
            E::Position { expr, r#in } => {
                let args = vec![self.expr(r#in, scope)?, self.expr(expr, scope)?];
                self.call_named("strpos", args)
            }
            E::Ceil { expr, field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) } => {
                let args = vec![self.expr(expr, scope)?];
                self.call_named("ceil", args)
            }
            E::Floor { expr, field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) } => {
                let args = vec![self.expr(expr, scope)?];
                self.call_named("floor", args)
            }
            E::Substring { expr, substring_from, substring_for, .. } => {
                let mut args = vec![self.expr(expr, scope)?];
                match substring_from {
                    Some(from) => args.push(self.expr(from, scope)?),
                    None => args.push(Typed { expr: Expr::Const(Datum::Int4(1)), ty: SqlType::INT4 }),
                }
                if let Some(length) = substring_for {
                    args.push(self.expr(length, scope)?);
                }
                self.call_named("substring", args)
            }
            E::Trim { trim_where, trim_what, expr, trim_characters } => {
                let name = match trim_where {
                    Some(ast::TrimWhereField::Leading) => "ltrim",
                    Some(ast::TrimWhereField::Trailing) => "rtrim",
                    _ => "btrim",
                };
                let mut args = vec![self.expr(expr, scope)?];
                for what in trim_what.iter().map(|what| &**what).chain(trim_characters.iter().flatten()) {
                    args.push(self.expr(what, scope)?);
                }
                self.call_named(name, args)
            }
            other => Err(refused(format!("the expression {other}"))),
        }
    }

    fn escape<'e>(&self, escape: Option<&'e ast::Expr>) -> Result<Option<&'e ast::ValueWithSpan>, SqlError> {
        match escape {
            None => Ok(None),
            Some(ast::Expr::Value(value)) => Ok(Some(value)),
            Some(_) => Err(refused("an ESCAPE that is no literal")),
        }
    }

    fn is(&mut self, inner: &ast::Expr, (wanted, negated): (bool, bool), what: &str, scope: &Scope<'_>) -> Result<Typed, SqlError> {
        let found = self.expr(inner, scope)?;
        let is = Expr::Is(Box::new(self.condition(found, what)?), wanted);
        Ok(boolean(if negated { Expr::Not(Box::new(is)) } else { is }))
    }

    /// A literal or parameter.
    pub(super) fn literal(&mut self, value: &Value) -> Result<Typed, SqlError> {
        if let Some(text) = string(value) {
            return Ok(Typed { expr: Expr::Const(Datum::Text(text.to_string())), ty: SqlType::Unknown });
        }
        match value {
            Value::Number(text, _) => self.number(text),
            Value::Boolean(value) => Ok(boolean(Expr::Const(Datum::Bool(*value)))),
            Value::Null => Ok(Typed { expr: Expr::NULL, ty: SqlType::Unknown }),
            Value::Placeholder(name) => {
                let number =
                    name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok()).filter(|number| (1..=65535).contains(number));
                let Some(number) = number else { return Err(SqlError::new("42P02", format!("there is no parameter {name}"))) };
                if self.params.len() < number {
                    self.params.resize(number, None);
                }
                self.met.insert(number - 1);
                Ok(Typed { expr: Expr::Param(number - 1), ty: self.params[number - 1].unwrap_or(SqlType::Unknown) })
            }
            Value::HexStringLiteral(_) | Value::SingleQuotedByteStringLiteral(_) => Err(refused("bit strings")),
            other => Err(refused(format!("the literal {other}"))),
        }
    }

    fn number(&mut self, text: &str) -> Result<Typed, SqlError> {
        let (value, ty) = if let Ok(value) = text.parse::<i32>() {
            (Datum::Int4(value), SqlType::INT4)
        } else if let Ok(value) = text.parse::<i64>() {
            (Datum::Int8(value), SqlType::INT8)
        } else {
            (input(SqlType::NUMERIC, text, &self.world.context())?, SqlType::NUMERIC)
        };
        Ok(Typed { expr: Expr::Const(value), ty })
    }

    fn unary(&mut self, op: ast::UnaryOperator, inner: &ast::Expr, scope: &Scope<'_>) -> Result<Typed, SqlError> {
        use ast::UnaryOperator as U;
        if op == U::Not {
            let found = self.expr(inner, scope)?;
            return Ok(boolean(Expr::Not(Box::new(self.condition(found, "NOT")?))));
        }
        if let (U::Minus, ast::Expr::Value(ast::ValueWithSpan { value: Value::Number(text, _), .. })) = (op, inner) {
            return self.number(&format!("-{text}"));
        }
        let found = self.expr(inner, scope)?;
        match op {
            U::Plus => self.operator("+", None, found),
            U::Minus => self.operator("-", None, found),
            U::BitwiseNot => self.operator("~", None, found),
            U::PGAbs => self.operator("@", None, found),
            U::PGSquareRoot => self.operator("|/", None, found),
            U::PGCubeRoot => self.operator("||/", None, found),
            other => Err(refused(format!("operator {other}"))),
        }
    }

    fn cast_to(&mut self, inner: &ast::Expr, ty: &ast::DataType, scope: &Scope<'_>) -> Result<Typed, SqlError> {
        let to = data_type(ty)?;
        let found = self.expr(inner, scope)?;
        let expr = match inner {
            ast::Expr::Value(value) => {
                let span = value.span;
                self.coerce(found, to, CastContext::Explicit).map_err(|error| self.at(error, span))?
            }
            _ => self.coerce(found, to, CastContext::Explicit)?,
        };
        Ok(Typed { expr, ty: to })
    }

    fn between(
        &mut self,
        value: &ast::Expr,
        negated: bool,
        (low, high): (&ast::Expr, &ast::Expr),
        scope: &Scope<'_>,
    ) -> Result<Typed, SqlError> {
        let value = self.expr(value, scope)?;
        let (low, high) = (self.expr(low, scope)?, self.expr(high, scope)?);
        let above = self.operator(">=", Some(value.clone()), low)?.expr;
        let below = self.operator("<=", Some(value), high)?.expr;
        let both = Expr::And(vec![above, below]);
        Ok(boolean(if negated { Expr::Not(Box::new(both)) } else { both }))
    }

    fn case(
        &mut self,
        operand: Option<&ast::Expr>,
        conditions: &[ast::CaseWhen],
        otherwise: Option<&ast::Expr>,
        scope: &Scope<'_>,
    ) -> Result<Typed, SqlError> {
        let operand = operand.map(|operand| self.expr(operand, scope)).transpose()?;
        let mut whens = Vec::new();
        let mut results = Vec::new();
        for branch in conditions {
            let when = self.expr(&branch.condition, scope)?;
            whens.push(match &operand {
                Some(operand) => self.operator("=", Some(operand.clone()), when)?.expr,
                None => self.condition(when, "CASE/WHEN")?,
            });
            results.push(self.expr(&branch.result, scope)?);
        }
        results.push(match otherwise {
            Some(otherwise) => self.expr(otherwise, scope)?,
            None => Typed { expr: Expr::NULL, ty: SqlType::Unknown },
        });
        let (mut results, ty) = self.unified(results, "CASE")?;
        let otherwise = results.pop().unwrap_or(Expr::NULL);
        Ok(Typed { expr: Expr::Case(whens.into_iter().zip(results).collect(), Box::new(otherwise)), ty })
    }

    fn interval(&mut self, interval: &ast::Interval) -> Result<Typed, SqlError> {
        let ast::Expr::Value(value) = &*interval.value else { return Err(refused("an INTERVAL that is no literal")) };
        let text = match &value.value {
            Value::Number(number, _) => number.clone(),
            value => string(value).ok_or_else(|| refused("an INTERVAL that is no literal"))?.to_string(),
        };
        let text = match (&interval.leading_field, &interval.last_field) {
            (None, None) => text,
            (Some(field), None) => format!("{text} {}", field.to_string().to_lowercase()),
            _ => return Err(refused("an INTERVAL with a range of fields")),
        };
        let value = input(SqlType::Interval, &text, &self.world.context())?;
        Ok(Typed { expr: Expr::Const(value), ty: SqlType::Interval })
    }

    fn subscript(&mut self, root: &ast::Expr, chain: &[ast::AccessExpr], scope: &Scope<'_>) -> Result<Typed, SqlError> {
        let array = self.expr(root, scope)?;
        let Some(element) = arrays::element_of(array.ty) else {
            let message = format!("cannot subscript type {} because it does not support subscripting", array.ty.display_name());
            return Err(SqlError::new("42804", message));
        };
        let [ast::AccessExpr::Subscript(ast::Subscript::Index { index })] = chain else {
            return Err(refused("this kind of subscript"));
        };
        let index = self.expr(index, scope)?;
        let index = self.coerce(index, SqlType::INT4, CastContext::Assignment)?;
        let ty = array.ty;
        Ok(Typed { expr: Expr::Element(ty, Box::new(array.expr), Box::new(index)), ty: element })
    }

    /// A subquery as a subplan: its number, and the type of its column.
    pub(super) fn subquery(&mut self, query: &ast::Query, wanted: Wanted, scope: &Scope<'_>) -> Result<(usize, SqlType), SqlError> {
        let (reach, aggregates) = (std::mem::take(&mut self.reach), self.aggregates.take());
        let bound = self.query(query, &Scope::within(scope));
        let inner = std::mem::replace(&mut self.reach, reach);
        self.reach = self.reach.max(inner.saturating_sub(1));
        self.aggregates = aggregates;
        let bound = bound?;
        if wanted != Wanted::Exists && bound.columns.len() != 1 {
            return Err(SqlError::new("42601", "subquery must return only one column"));
        }
        let ty = bound.columns.first().map_or(SqlType::TEXT, |column| column.ty);
        let ty = if ty == SqlType::Unknown { SqlType::TEXT } else { ty };
        let wanted = if let Wanted::Array(_) = wanted { Wanted::Array(ty) } else { wanted };
        let id = self.subplan(Subplan { plan: bound.plan, wanted, args: Vec::new(), correlated: inner > 0 });
        Ok((id, ty))
    }

    /// `left op ANY (query)`, `ALL`, `IN`.
    pub(super) fn in_query(&mut self, left: Typed, op: &str, query: &ast::Query, all: bool, scope: &Scope<'_>) -> Result<Typed, SqlError> {
        let (subplan, ty) = self.subquery(query, Wanted::List, scope)?;
        let (compare, left) = self.list_comparison(op, left, ty)?;
        Ok(boolean(Expr::InAnswer { compare: Box::new(compare), left: Box::new(left), subplan, all }))
    }
}
