//! Operators between expressions.

use sqlparser::ast::{self, BinaryOperator};

use super::names::Scope;
use super::{Binder, Typed};
use crate::sql::arrays;
use crate::sql::error::SqlError;
use crate::sql::plan::Expr;
use crate::sql::plan::expr::{Compare, Comparison};
use crate::sql::types::{CastContext, FunctionRef, SqlType, common_type, resolve_operator};

fn is_integer(ty: SqlType) -> bool {
    matches!(ty, SqlType::INT2 | SqlType::INT4 | SqlType::INT8)
}

/// What a literal or parameter is when it is compared with a value of `ty`.
fn beside(ty: SqlType) -> SqlType {
    if ty.base() == SqlType::VARCHAR { SqlType::TEXT } else { ty.base() }
}

fn boolean(expr: Expr) -> Typed {
    Typed { expr, ty: SqlType::BOOL }
}

/// An operator's name, as the tables of operators have it.
pub(super) fn operator_name(op: &BinaryOperator) -> Result<String, SqlError> {
    use BinaryOperator as B;
    Ok(match op {
        B::PGCustomBinaryOperator(parts) => parts.last().cloned().unwrap_or_default(),
        B::Custom(name) => name.clone(),
        B::PGExp => "^".into(),
        B::PGLikeMatch => "~~".into(),
        B::PGILikeMatch => "~~*".into(),
        B::PGNotLikeMatch => "!~~".into(),
        B::PGNotILikeMatch => "!~~*".into(),
        other => other.to_string(),
    })
}

impl Binder<'_> {
    /// A function's arguments as it takes them.
    pub(super) fn arguments(&mut self, function: &FunctionRef, args: Vec<Typed>) -> Result<Vec<Expr>, SqlError> {
        let mut out = Vec::with_capacity(args.len());
        for (at, arg) in args.into_iter().enumerate() {
            let wanted = function.arguments.get(at).copied().unwrap_or(arg.ty);
            let cast = function.casts.get(at).copied().flatten();
            out.push(match (&arg.expr, arg.ty, cast) {
                (_, SqlType::Unknown, _) => self.coerce(arg, wanted, CastContext::Implicit)?,
                (_, _, None) => arg.expr,
                (Expr::Const(value), _, Some(cast)) => Expr::Const(cast.call(value.clone(), &self.world.context())?),
                (_, _, Some(cast)) => match super::coerce::is_shown_otherwise(arg.ty) && wanted.is_text() {
                    true => super::coerce::shown(arg.expr, arg.ty),
                    false => Expr::Cast(cast, Box::new(arg.expr)),
                },
            });
        }
        Ok(out)
    }

    /// An operator that is no AND, OR or NOT.
    pub(super) fn operator(&mut self, name: &str, left: Option<Typed>, right: Typed) -> Result<Typed, SqlError> {
        if let (Some(left), Some(compare)) = (&left, Compare::of(name)) {
            let (left, right) = (left.clone(), right.clone());
            return self.comparison(compare, left, right).map(boolean);
        }
        if let ("||", Some(one)) = (name, &left) {
            let (from, to) = (arrays::element_of(one.ty).map(|_| one.ty), arrays::element_of(right.ty).map(|_| right.ty));
            if let Some(ty) = from.or(to) {
                return self.array_concat(one.clone(), right, ty);
            }
        }
        let function = resolve_operator(name, left.as_ref().map(|left| left.ty), right.ty)?;
        let result = function.result;
        let args = self.arguments(&function, left.into_iter().chain([right]).collect())?;
        Ok(Typed { expr: Expr::Call(function, args), ty: result })
    }

    /// `||` of arrays, or of an array and an element.
    fn array_concat(&mut self, left: Typed, right: Typed, ty: SqlType) -> Result<Typed, SqlError> {
        let element = arrays::element_of(ty).unwrap_or(SqlType::TEXT);
        let mut sides = Vec::with_capacity(2);
        for side in [left, right] {
            sides.push(match arrays::element_of(side.ty) {
                None if side.ty != SqlType::Unknown => Expr::Array(vec![self.coerce(side, element, CastContext::Implicit)?], element),
                _ => self.coerce(side, ty, CastContext::Implicit)?,
            });
        }
        Ok(Typed { expr: Expr::OfArray(arrays::Function::Concat, ty, sides), ty })
    }

    /// How two types are compared, and the sides as that takes them.
    fn comparison(&mut self, compare: Compare, left: Typed, right: Typed) -> Result<Expr, SqlError> {
        if is_integer(left.ty) && is_integer(right.ty) {
            return Ok(Expr::Compare(compare, SqlType::INT8, Box::new(left.expr), Box::new(right.expr)));
        }
        let (left, right) = match (left.ty, right.ty) {
            // What is known of one side holds for the other.
            (SqlType::Unknown, ty) if ty != SqlType::Unknown => {
                let expr = self.coerce(left, beside(ty), CastContext::Implicit)?;
                (Typed { expr, ty: beside(ty) }, right)
            }
            (ty, SqlType::Unknown) if ty != SqlType::Unknown => {
                let expr = self.coerce(right, beside(ty), CastContext::Implicit)?;
                (left, Typed { expr, ty: beside(ty) })
            }
            (left_ty, right_ty) if left_ty.is_oid() || right_ty.is_oid() => {
                let left = Typed { expr: self.coerce(left, SqlType::Oid, CastContext::Implicit)?, ty: SqlType::Oid };
                (left, Typed { expr: self.coerce(right, SqlType::Oid, CastContext::Implicit)?, ty: SqlType::Oid })
            }
            _ => (left, right),
        };
        let same = left.ty.base() == right.ty.base() && left.ty != SqlType::Unknown;
        if same && !matches!(left.ty, SqlType::Void | SqlType::Any) {
            return Ok(Expr::Compare(compare, left.ty.base(), Box::new(left.expr), Box::new(right.expr)));
        }
        let function = resolve_operator(compare.name(), Some(left.ty), right.ty)?;
        let types: Vec<SqlType> = function.arguments.iter().map(|ty| ty.base()).collect();
        let mut args = self.arguments(&function, vec![left, right])?;
        if types.len() == 2 && types[0] == types[1] && args.len() == 2 {
            let (right, left) = (args.pop().unwrap_or(Expr::NULL), args.pop().unwrap_or(Expr::NULL));
            return Ok(Expr::Compare(compare, types[0], Box::new(left), Box::new(right)));
        }
        Ok(Expr::Call(function, args))
    }

    /// How a value is compared with those of a list of type `element`; the value as that takes it.
    pub(super) fn list_comparison(&mut self, name: &str, left: Typed, element: SqlType) -> Result<(Comparison, Expr), SqlError> {
        if let Some(compare) = Compare::of(name) {
            if is_integer(left.ty) && is_integer(element) {
                return Ok((Comparison::Plain(compare, SqlType::INT8), left.expr));
            }
            let oids = left.ty.is_oid() && (element.is_oid() || is_integer(element)) || element.is_oid() && is_integer(left.ty);
            if oids {
                let expr = self.coerce(left, SqlType::Oid, CastContext::Implicit)?;
                return Ok((Comparison::Plain(compare, SqlType::INT8), expr));
            }
            let blanks = [left.ty, element].map(|ty| ty.base() == SqlType::BPCHAR);
            if left.ty.is_text() && element.is_text() && left.ty != SqlType::Unknown && blanks != [true, true] {
                return Ok((Comparison::Plain(compare, SqlType::TEXT), left.expr));
            }
            if left.ty == SqlType::Unknown || left.ty.base() == element.base() {
                let expr = self.coerce(left, element.base(), CastContext::Implicit)?;
                return Ok((Comparison::Plain(compare, element.base()), expr));
            }
        }
        let function = resolve_operator(name, Some(left.ty), element)?;
        if function.casts.get(1).copied().flatten().is_some() {
            let wanted = function.arguments.get(1).copied().unwrap_or(element);
            let message = format!("comparison of {} with elements of type {}", left.ty.display_name(), element.display_name());
            return Err(SqlError::unsupported(message, format!("Cast the list to {}.", wanted.display_name())));
        }
        let mut one = function.clone();
        one.arguments.truncate(1);
        one.casts.truncate(1);
        let left = self.arguments(&one, vec![left])?.pop().unwrap_or(Expr::NULL);
        Ok((Comparison::Function(function), left))
    }

    pub(super) fn binary(
        &mut self,
        left: &ast::Expr,
        op: &BinaryOperator,
        right: &ast::Expr,
        scope: &Scope<'_>,
    ) -> Result<Typed, SqlError> {
        match op {
            BinaryOperator::And | BinaryOperator::Or => {
                let what = if *op == BinaryOperator::And { "AND" } else { "OR" };
                let mut args = Vec::new();
                // The syntax of a long chain leans to the left: it is walked, not descended.
                let (mut sides, mut first) = (vec![right], left);
                while let ast::Expr::BinaryOp { left, op: same, right } = first
                    && same == op
                {
                    sides.push(right);
                    first = left;
                }
                sides.push(first);
                for side in sides.into_iter().rev() {
                    let found = self.expr(side, scope)?;
                    match self.condition(found, what)? {
                        Expr::And(more) if what == "AND" => args.extend(more),
                        Expr::Or(more) if what == "OR" => args.extend(more),
                        one => args.push(one),
                    }
                }
                Ok(boolean(if what == "AND" { Expr::And(args) } else { Expr::Or(args) }))
            }
            _ => {
                if let (ast::Expr::Tuple(left), ast::Expr::Tuple(right)) = (left, right) {
                    return self.rows(op, left, right, scope);
                }
                let name = operator_name(op)?;
                let left = self.expr(left, scope)?;
                let right = self.expr(right, scope)?;
                self.operator(&name, Some(left), right)
            }
        }
    }

    /// `(a, b) = (1, 2)`.
    fn rows(&mut self, op: &BinaryOperator, left: &[ast::Expr], right: &[ast::Expr], scope: &Scope<'_>) -> Result<Typed, SqlError> {
        if left.len() != right.len() {
            return Err(SqlError::new("42601", "unequal number of entries in row expressions"));
        }
        let mut equal = Vec::new();
        for (left, right) in left.iter().zip(right) {
            let (left, right) = (self.expr(left, scope)?, self.expr(right, scope)?);
            equal.push(self.comparison(Compare::Eq, left, right)?);
        }
        match op {
            BinaryOperator::Eq => Ok(boolean(Expr::And(equal))),
            BinaryOperator::NotEq => Ok(boolean(Expr::Not(Box::new(Expr::And(equal))))),
            _ => Err(SqlError::unsupported("an order of rows", "Compare the columns one by one.")),
        }
    }

    pub(super) fn in_list(&mut self, left: &ast::Expr, list: &[ast::Expr], negated: bool, scope: &Scope<'_>) -> Result<Typed, SqlError> {
        let mut any = Vec::with_capacity(list.len());
        if let ast::Expr::Tuple(_) = left {
            for right in list {
                any.push(self.binary(left, &BinaryOperator::Eq, right, scope)?.expr);
            }
        } else {
            let left = self.expr(left, scope)?;
            let list = list.iter().map(|right| self.expr(right, scope)).collect::<Result<Vec<_>, _>>()?;
            for right in self.of_one_type(&left, list)? {
                any.push(self.comparison(Compare::Eq, left.clone(), right)?);
            }
        }
        let any = if any.len() == 1 { any.remove(0) } else { Expr::Or(any) };
        Ok(boolean(if negated { Expr::Not(Box::new(any)) } else { any }))
    }

    /// Elements of an IN list as PostgreSQL takes them (transformAExprIn): several that have no columns become an array, and so get the
    /// type that they and the left side have in common. If there is none, each is compared by itself.
    fn of_one_type(&mut self, left: &Typed, list: Vec<Typed>) -> Result<Vec<Typed>, SqlError> {
        let alone = |typed: &Typed| {
            let mut columns = false;
            typed.expr.walk(&mut |expr| columns |= matches!(expr, Expr::Column(_)));
            !columns
        };
        let mut types: Vec<SqlType> = list.iter().filter(|typed| alone(typed)).map(|typed| typed.ty).collect();
        if types.len() < 2 {
            return Ok(list);
        }
        types.insert(0, left.ty);
        let Ok(common) = common_type(&types, "IN").map(SqlType::base) else { return Ok(list) };
        let one = |typed: Typed| match alone(&typed) {
            true => Ok(Typed { expr: self.coerce(typed, common, CastContext::Implicit)?, ty: common }),
            false => Ok(typed),
        };
        list.into_iter().map(one).collect()
    }

    /// `left op ANY (right)`, `ALL`.
    pub(super) fn quantified(
        &mut self,
        (left, right): (&ast::Expr, &ast::Expr),
        op: &BinaryOperator,
        all: bool,
        scope: &Scope<'_>,
    ) -> Result<Typed, SqlError> {
        let name = operator_name(op)?;
        let left = self.expr(left, scope)?;
        if let ast::Expr::Subquery(query) = right {
            return self.in_query(left, &name, query, all, scope);
        }
        let right = self.expr(right, scope)?;
        let ty = match arrays::element_of(right.ty) {
            Some(_) => right.ty,
            None if right.ty == SqlType::Unknown => match left.ty {
                SqlType::Unknown => arrays::array_of(SqlType::TEXT),
                ty => arrays::array_of(ty.base()),
            },
            None => return Err(SqlError::new("42809", "op ANY/ALL (array) requires array on right side")),
        };
        let array = self.coerce(right, ty, CastContext::Implicit)?;
        let element = arrays::element_of(ty).unwrap_or(SqlType::TEXT);
        let (compare, left) = self.list_comparison(&name, left, element)?;
        Ok(boolean(Expr::Any { compare: Box::new(compare), left: Box::new(left), array: Box::new(array), ty, all }))
    }

    /// LIKE and its like.
    pub(super) fn like(
        &mut self,
        name: &str,
        (left, pattern): (&ast::Expr, &ast::Expr),
        escape: Option<&ast::ValueWithSpan>,
        negated: bool,
        scope: &Scope<'_>,
    ) -> Result<Typed, SqlError> {
        let left = self.expr(left, scope)?;
        let mut pattern = self.expr(pattern, scope)?;
        if let Some(escape) = escape {
            let escape = self.literal(&escape.value)?;
            pattern = self.call_named("like_escape", vec![pattern, escape])?;
        }
        let name = if negated { format!("!{name}") } else { name.to_string() };
        self.operator(&name, Some(left), pattern)
    }
}
