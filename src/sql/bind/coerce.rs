//! Types made to agree.

use super::{Binder, Typed};
use crate::sql::arrays;
use crate::sql::error::SqlError;
use crate::sql::plan::Expr;
use crate::sql::plan::builtins::{Builtin, OID_NAME, TO_REGCLASS};
use crate::sql::types::cast::find_cast;
use crate::sql::types::{CastContext, Datum, SqlType, common_type, input, resolve_cast};

/// Whether values of a type are shown as names that only the catalog knows.
pub(super) fn is_shown_otherwise(ty: SqlType) -> bool {
    matches!(ty, SqlType::Regclass | SqlType::Regtype | SqlType::Regnamespace)
}

/// The value as text, if it is shown as a name.
pub(super) fn shown(expr: Expr, ty: SqlType) -> Expr {
    let which = match ty {
        SqlType::Regclass => 0,
        SqlType::Regtype => 1,
        SqlType::Regnamespace => 2,
        _ => return expr,
    };
    Expr::Builtin(Builtin(&OID_NAME), vec![expr, Expr::Const(Datum::Int4(which))])
}

impl Typed {
    /// What values are told apart by where they are hashed: `bpchar` is the same with more blanks at its end.
    pub(super) fn told_apart(self) -> Expr {
        match find_cast(self.ty, SqlType::TEXT, CastContext::Implicit) {
            Some(cast) if self.ty == SqlType::BPCHAR => Expr::Cast(cast, Box::new(self.expr)),
            _ => self.expr,
        }
    }
}

impl Binder<'_> {
    /// The expression as `to`, if that is possible in `context`.
    pub(super) fn coerce(&mut self, from: Typed, to: SqlType, context: CastContext) -> Result<Expr, SqlError> {
        let Typed { expr, ty } = from;
        match (&expr, ty) {
            (Expr::Param(at), SqlType::Unknown) => {
                let at = *at;
                if to == SqlType::Unknown {
                    return Ok(expr);
                }
                match self.params[at] {
                    None => self.params[at] = Some(to.base()),
                    Some(known) if known.base() != to.base() => return self.coerce(Typed { expr, ty: known }, to, context),
                    Some(_) => {}
                }
                if to == to.base() {
                    return Ok(expr);
                }
                return self.cast(expr, to.base(), to, CastContext::Explicit.min(context.max(CastContext::Assignment)));
            }
            (Expr::Const(Datum::Null), _) => return Ok(expr),
            (Expr::Const(Datum::Text(text)), SqlType::Unknown) => {
                if to == SqlType::Regclass {
                    return Ok(Expr::Builtin(Builtin(&TO_REGCLASS), vec![expr]));
                }
                let value = input(to.base(), text, &self.world.context())?;
                return self.cast(Expr::Const(value), to.base(), to, context.max(CastContext::Assignment));
            }
            _ => {}
        }
        self.cast(expr, ty, to, context)
    }

    fn cast(&mut self, expr: Expr, from: SqlType, to: SqlType, context: CastContext) -> Result<Expr, SqlError> {
        if from == to {
            return Ok(expr);
        }
        if to == SqlType::Regclass && from.is_text() {
            return Ok(Expr::Builtin(Builtin(&TO_REGCLASS), vec![expr]));
        }
        if is_shown_otherwise(from) && to.is_text() {
            return Ok(shown(expr, from));
        }
        if let (SqlType::Int2Vector | SqlType::OidVector, SqlType::Array(_)) = (from, to) {
            let array = Expr::OfArray(arrays::Function::FromVector, from, vec![expr]);
            let own = arrays::array_of(arrays::element_of(from).unwrap_or(SqlType::TEXT));
            return self.cast(array, own, to, context);
        }
        let cast = resolve_cast(from, to, context)?;
        if cast.is_noop() {
            return Ok(expr);
        }
        match expr {
            Expr::Const(value) => Ok(Expr::Const(cast.call(value, &self.world.context())?)),
            expr => Ok(Expr::Cast(cast, Box::new(expr))),
        }
    }

    /// As a condition.
    pub(super) fn condition(&mut self, found: Typed, what: &str) -> Result<Expr, SqlError> {
        let ty = found.ty;
        if ty != SqlType::BOOL && ty != SqlType::Unknown {
            let message = format!("argument of {what} must be type boolean, not type {}", ty.display_name());
            return Err(SqlError::new("42804", message));
        }
        self.coerce(found, SqlType::BOOL, CastContext::Implicit)
    }

    /// As a column's new value.
    pub(super) fn assigned(&mut self, found: Typed, to: SqlType, column: &str, table: &str) -> Result<Expr, SqlError> {
        let from = found.ty;
        let possible = from == SqlType::Unknown || from == to || find_cast(from, to, CastContext::Assignment).is_some();
        let possible = possible || (is_shown_otherwise(from) && to.is_text());
        if !possible {
            let (to, from) = (to.display_name(), from.display_name());
            let message = match column {
                "" => format!("parameter of type {from} cannot be coerced to the expected type {to}"),
                _ => format!("column \"{column}\" is of type {to} but expression is of type {from}"),
            };
            let hint = "You will need to rewrite or cast the expression.";
            let mut error = SqlError::new("42804", message).hint(hint);
            if !column.is_empty() {
                error = error.column(column, table);
            }
            return Err(error);
        }
        self.coerce(found, to, CastContext::Assignment)
    }

    /// All as the type they have in common.
    pub(super) fn unified(&mut self, all: Vec<Typed>, what: &str) -> Result<(Vec<Expr>, SqlType), SqlError> {
        let types: Vec<SqlType> = all.iter().map(|typed| typed.ty).collect();
        let common = common_type(&types, what)?;
        let exprs = all.into_iter().map(|typed| self.coerce(typed, common, CastContext::Implicit)).collect::<Result<_, _>>()?;
        Ok((exprs, common))
    }

    /// LIMIT and OFFSET: a bigint.
    pub(super) fn row_count(&mut self, found: Typed, what: &str) -> Result<Expr, SqlError> {
        let ty = found.ty;
        if ty != SqlType::Unknown && find_cast(ty, SqlType::INT8, CastContext::Assignment).is_none() {
            return Err(SqlError::new("42804", format!("argument of {what} must be type bigint, not type {}", ty.display_name())));
        }
        self.coerce(found, SqlType::INT8, CastContext::Assignment)
    }
}
