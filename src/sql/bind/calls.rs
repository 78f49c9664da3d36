//! Functions and aggregates.

use sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments};

use super::names::{Scope, parts};
use super::{Binder, Typed};
use crate::sql::arrays;
use crate::sql::error::SqlError;
use crate::sql::plan::builtins::{Builtin, JSON_BUILD_OBJECT};
use crate::sql::plan::expr::Aggregator;
use crate::sql::plan::{AggregateCall, Expr, Plan, SetFunction, Subplan, Wanted};
use crate::sql::types::aggregate::is_aggregate;
use crate::sql::types::cast::find_cast;
use crate::sql::types::{CastContext, Datum, SqlType, resolve_aggregate, resolve_function};

/// Where positions of aggregates begin, until groups are known.
pub(super) const AGGREGATES: usize = 1 << 40;

/// A function's name without schema; only those of the catalog are known.
pub(super) fn function_name(name: &ast::ObjectName) -> Result<String, SqlError> {
    let mut parts = parts(name)?;
    let last = parts.pop().unwrap_or_default();
    match parts.pop() {
        Some(schema) if schema != "pg_catalog" && schema != "public" => {
            Err(SqlError::new("3F000", format!("schema \"{schema}\" does not exist")))
        }
        _ => Ok(last),
    }
}

/// The arguments, which must be plain expressions.
pub(super) fn plain(args: &[FunctionArg]) -> Result<Vec<&ast::Expr>, SqlError> {
    let plain = |arg| match arg {
        &FunctionArg::Unnamed(FunctionArgExpr::Expr(ref expr)) => Ok(expr),
        _ => Err(SqlError::unsupported("this kind of argument", "Give plain expressions, without names.")),
    };
    args.iter().map(plain).collect()
}

impl Binder<'_> {
    pub(super) fn function(&mut self, function: &ast::Function, scope: &Scope<'_>) -> Result<Typed, SqlError> {
        let name = function_name(&function.name)?;
        if function.over.is_some() {
            return Err(SqlError::unsupported("window functions", "Use GROUP BY, or compute it in the client."));
        }
        if function.null_treatment.is_some() || !function.within_group.is_empty() {
            return Err(SqlError::unsupported("this form of an aggregate", "Use GROUP BY and ORDER BY."));
        }
        let found = match &function.args {
            FunctionArguments::None => self.call(&name, Vec::new()),
            FunctionArguments::Subquery(query) if name == "array" => {
                let (id, ty) = self.subquery(query, Wanted::Array(SqlType::TEXT), scope)?;
                Ok(Typed { expr: Expr::Answer(id), ty: arrays::array_of(ty) })
            }
            FunctionArguments::Subquery(query) => {
                let (id, ty) = self.subquery(query, Wanted::Scalar, scope)?;
                self.call(&name, vec![Typed { expr: Expr::Answer(id), ty }])
            }
            FunctionArguments::List(list) => {
                if is_aggregate(&name) || name == "array_agg" {
                    return self.aggregate(&name, function, list, scope);
                }
                if function.filter.is_some() || list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
                    return Err(SqlError::new(
                        "42809",
                        format!("DISTINCT, FILTER or ORDER BY specified, but {name} is not an aggregate function"),
                    ));
                }
                let args = plain(&list.args)?.into_iter().map(|arg| self.expr(arg, scope)).collect::<Result<Vec<_>, _>>()?;
                self.call(&name, args)
            }
        };
        found.map_err(|error| match function.name.0.first() {
            Some(ast::ObjectNamePart::Identifier(first)) if error.code == "42883" => self.at(error, first.span),
            _ => error,
        })
    }

    /// A function that is no aggregate.
    pub(super) fn call(&mut self, name: &str, args: Vec<Typed>) -> Result<Typed, SqlError> {
        match (name, args.len()) {
            ("coalesce", 1..) => {
                let (args, ty) = self.unified(args, "COALESCE")?;
                return Ok(Typed { expr: Expr::Coalesce(args), ty });
            }
            ("pg_typeof", 1) => {
                let ty = args.first().map_or(SqlType::Unknown, |arg| arg.ty);
                return Ok(Typed { expr: Expr::Const(Datum::Int8(i64::from(ty.oid()))), ty: SqlType::Regtype });
            }
            ("currval", 1) => return self.waiting(Wanted::CurrentValue, args, &[SqlType::Regclass], SqlType::INT8),
            ("lastval", 0) => return self.waiting(Wanted::CurrentValue, args, &[], SqlType::INT8),
            ("nextval", 1) => return self.waiting(Wanted::NextValue, args, &[SqlType::Regclass], SqlType::INT8),
            ("setval", 2) => return self.waiting(Wanted::SetValue, args, &[SqlType::Regclass, SqlType::INT8], SqlType::INT8),
            ("setval", 3) => {
                return self.waiting(Wanted::SetValue, args, &[SqlType::Regclass, SqlType::INT8, SqlType::BOOL], SqlType::INT8);
            }
            ("pg_sleep", 1) => return self.waiting(Wanted::Sleep, args, &[SqlType::FLOAT8], SqlType::Void),
            ("generate_series" | "unnest" | "generate_subscripts" | "regexp_split_to_table" | "string_to_table", _) => {
                return Err(SqlError::unsupported(
                    "a set-returning function inside an expression",
                    "Call it in FROM, or alone as a column.",
                ));
            }
            _ => {}
        }
        if name == "json_build_object" && args.len().is_multiple_of(2) {
            let mut given = Vec::with_capacity(args.len());
            for arg in args {
                let ty = if arg.ty == SqlType::Unknown { SqlType::TEXT } else { arg.ty };
                given.push(self.coerce(arg, ty, CastContext::Implicit)?);
            }
            return Ok(Typed { expr: Expr::Builtin(Builtin(&JSON_BUILD_OBJECT), given), ty: SqlType::TEXT });
        }
        if let Some(found) = self.builtin(name, &args)? {
            return Ok(found);
        }
        if let Some(found) = self.array_function(name, &args)? {
            return Ok(found);
        }
        self.call_named(name, args)
    }

    /// A function of [`crate::sql::types`].
    pub(super) fn call_named(&mut self, name: &str, args: Vec<Typed>) -> Result<Typed, SqlError> {
        let types: Vec<SqlType> = args.iter().map(|arg| arg.ty).collect();
        let found = resolve_function(name, &types);
        let function = match found {
            Ok(function) => function,
            // `type(value)` is a cast.
            Err(error) if error.code == "42883" && args.len() == 1 => {
                let Ok(to) = crate::sql::types::parse_type(name, false, &[], false) else { return Err(error) };
                let arg = args.into_iter().next().ok_or(error)?;
                return Ok(Typed { expr: self.coerce(arg, to, CastContext::Explicit)?, ty: to });
            }
            Err(error) => return Err(error),
        };
        let ty = function.result;
        let args = self.arguments(&function, args)?;
        Ok(Typed { expr: Expr::Call(function, args), ty })
    }

    fn waiting(&mut self, wanted: Wanted, args: Vec<Typed>, types: &[SqlType], ty: SqlType) -> Result<Typed, SqlError> {
        let args = args.into_iter().zip(types).map(|(arg, ty)| self.coerce(arg, *ty, CastContext::Implicit));
        let args = args.collect::<Result<Vec<_>, _>>()?;
        let id = self.subplan(Subplan { plan: Plan::Once, wanted, args, correlated: true });
        Ok(Typed { expr: Expr::Answer(id), ty })
    }

    fn builtin(&mut self, name: &str, args: &[Typed]) -> Result<Option<Typed>, SqlError> {
        let takes = |from: SqlType, to: SqlType| {
            to == SqlType::Any || from == SqlType::Unknown || from == to || find_cast(from, to, CastContext::Implicit).is_some()
        };
        let Some(builtin) =
            Builtin::named(name, args.len()).find(|builtin| args.iter().zip(builtin.0.arguments).all(|(arg, to)| takes(arg.ty, *to)))
        else {
            return Ok(None);
        };
        let mut given = Vec::with_capacity(args.len());
        for (arg, to) in args.iter().zip(builtin.0.arguments) {
            given.push(match *to {
                SqlType::Any => arg.expr.clone(),
                to => self.coerce(arg.clone(), to, CastContext::Implicit)?,
            });
        }
        Ok(Some(Typed { expr: Expr::Builtin(builtin, given), ty: builtin.0.result }))
    }

    /// Functions of arrays of any type.
    fn array_function(&mut self, name: &str, args: &[Typed]) -> Result<Option<Typed>, SqlError> {
        let Some(first) = args.first() else { return Ok(None) };
        let ty = if first.ty == SqlType::Unknown { arrays::array_of(SqlType::TEXT) } else { first.ty };
        if arrays::element_of(ty).is_none() {
            return Ok(None);
        }
        let wanted: &[SqlType] = match (name, args.len()) {
            ("array_to_string", 2) => &[SqlType::TEXT],
            ("array_to_string", 3) => &[SqlType::TEXT, SqlType::TEXT],
            ("array_length" | "array_upper" | "array_lower", 2) => &[SqlType::INT4],
            ("cardinality", 1) => &[],
            _ => return Ok(None),
        };
        let function = arrays::Function::named(name).ok_or_else(|| SqlError::new("XX000", "no such function of arrays"))?;
        let mut given = vec![self.coerce(first.clone(), ty, CastContext::Implicit)?];
        for (arg, to) in args[1..].iter().zip(wanted) {
            given.push(self.coerce(arg.clone(), *to, CastContext::Implicit)?);
        }
        Ok(Some(Typed { expr: Expr::OfArray(function, ty, given), ty: function.result() }))
    }

    fn aggregate(
        &mut self,
        name: &str,
        function: &ast::Function,
        list: &ast::FunctionArgumentList,
        scope: &Scope<'_>,
    ) -> Result<Typed, SqlError> {
        if self.aggregates.is_none() {
            return Err(SqlError::new("42803", format!("aggregate functions are not allowed in {}", self.place)));
        }
        let outer = self.aggregates.take();
        let place = std::mem::replace(&mut self.place, "the arguments of an aggregate: calls cannot be nested");
        let call = self.aggregate_call(name, function, list, scope);
        self.place = place;
        self.aggregates = outer;
        let (call, ty) = call?;
        let calls = self.aggregates.get_or_insert_default();
        let shown = format!("{call:?}");
        let at = calls.iter().position(|other| format!("{other:?}") == shown).unwrap_or_else(|| {
            calls.push(call);
            calls.len() - 1
        });
        Ok(Typed { expr: Expr::Column(AGGREGATES + at), ty })
    }

    fn aggregate_call(
        &mut self,
        name: &str,
        function: &ast::Function,
        list: &ast::FunctionArgumentList,
        scope: &Scope<'_>,
    ) -> Result<(AggregateCall, SqlType), SqlError> {
        let star = matches!(list.args.as_slice(), [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)]);
        let args = if star { Vec::new() } else { plain(&list.args)? };
        if star && name != "count" {
            return Err(SqlError::new("42883", format!("function {name}() does not exist")));
        }
        let args = args.into_iter().map(|arg| self.expr(arg, scope)).collect::<Result<Vec<_>, _>>()?;
        let mut order = Vec::new();
        for clause in &list.clauses {
            match clause {
                ast::FunctionArgumentClause::OrderBy(keys) => {
                    for key in keys {
                        let found = self.expr(&key.expr, scope)?;
                        order.push(super::order::sort_key(found, &key.options));
                    }
                }
                _ => return Err(SqlError::unsupported("this clause of an aggregate", "Use ORDER BY or FILTER.")),
            }
        }
        let filter = match &function.filter {
            Some(filter) => {
                let found = self.expr(filter, scope)?;
                Some(self.condition(found, "FILTER")?)
            }
            None => None,
        };
        let distinct = list.duplicate_treatment == Some(ast::DuplicateTreatment::Distinct);
        if name == "array_agg" {
            let [arg] = <[Typed; 1]>::try_from(args).map_err(|_| SqlError::new("42883", "function array_agg() does not exist"))?;
            let ty = if arg.ty == SqlType::Unknown { SqlType::TEXT } else { arg.ty };
            let expr = self.coerce(arg, ty, CastContext::Implicit)?;
            let call = AggregateCall { function: Aggregator::Array(ty), args: vec![expr], distinct, filter, order };
            return Ok((call, arrays::array_of(ty)));
        }
        let types: Vec<SqlType> = args.iter().map(|arg| arg.ty).collect();
        let found = resolve_aggregate(name, &types)?;
        // Lengths don't outlive an aggregate.
        let ty = found.result.base();
        let mut given = Vec::with_capacity(args.len());
        for (at, arg) in args.into_iter().enumerate() {
            let wanted = found.arguments.get(at).copied().unwrap_or(arg.ty);
            given.push(match (arg.ty, found.casts.get(at).copied().flatten()) {
                (SqlType::Unknown, _) if wanted != SqlType::Unknown => self.coerce(arg, wanted, CastContext::Implicit)?,
                (_, Some(cast)) => Expr::Cast(cast, Box::new(arg.expr)),
                (_, None) => arg.expr,
            });
        }
        Ok((AggregateCall { function: Aggregator::Plain(found), args: given, distinct, filter, order }, ty))
    }

    /// A function that gives rows: what to call, with what, and the type of its column. Nothing if it is none.
    pub(super) fn set_function(
        &mut self,
        name: &str,
        args: &[FunctionArg],
        scope: &Scope<'_>,
    ) -> Result<Option<(SetFunction, Vec<Expr>, SqlType)>, SqlError> {
        if !["generate_series", "unnest", "generate_subscripts", "regexp_split_to_table", "string_to_table"].contains(&name) {
            return Ok(None);
        }
        let mut args = plain(args)?.into_iter().map(|arg| self.expr(arg, scope)).collect::<Result<Vec<_>, _>>()?;
        let missing = || SqlError::new("42883", format!("function {name} does not exist with these arguments"));
        match (name, args.len()) {
            ("generate_series", 2 | 3) => {
                let types: Vec<SqlType> = args.iter().map(|arg| arg.ty).collect();
                let small = types.iter().all(|ty| matches!(*ty, SqlType::INT2 | SqlType::INT4 | SqlType::Unknown));
                let integers = types.iter().all(|ty| matches!(*ty, SqlType::INT2 | SqlType::INT4 | SqlType::INT8 | SqlType::Unknown));
                if !integers {
                    return Err(SqlError::unsupported("generate_series of what is no integer", "Compute the values from integers."));
                }
                let ty = if small { SqlType::INT4 } else { SqlType::INT8 };
                let args = args.into_iter().map(|arg| self.coerce(arg, ty, CastContext::Implicit)).collect::<Result<_, _>>()?;
                Ok(Some((SetFunction::Series(ty), args, ty)))
            }
            ("unnest", 1) | ("generate_subscripts", 1..=3) => {
                let array = args.swap_remove(0);
                let ty = if array.ty == SqlType::Unknown { arrays::array_of(SqlType::TEXT) } else { array.ty };
                let element = arrays::element_of(ty).ok_or_else(missing)?;
                let array = self.coerce(array, ty, CastContext::Implicit)?;
                match name {
                    "unnest" => Ok(Some((SetFunction::Unnest(ty), vec![array], element))),
                    _ => Ok(Some((SetFunction::Subscripts(ty), vec![array], SqlType::INT4))),
                }
            }
            ("regexp_split_to_table" | "string_to_table", _) => {
                let whole = if name == "string_to_table" { "string_to_array" } else { "regexp_split_to_array" };
                let types: Vec<SqlType> = args.iter().map(|arg| arg.ty).collect();
                let function = resolve_function(whole, &types)?;
                let args = self.arguments(&function, args)?;
                Ok(Some((SetFunction::Pieces(Box::new(function)), args, SqlType::TEXT)))
            }
            _ => Err(missing()),
        }
    }
}
