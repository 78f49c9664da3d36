//! ORDER BY, LIMIT, and rows locked.

use sqlparser::ast;

use super::names::Scope;
use super::{Binder, Typed};
use crate::sql::error::SqlError;
use crate::sql::plan::{Limit, RowLock, SortKey};

/// A key of an order.
pub(super) fn sort_key(found: Typed, options: &ast::OrderByOptions) -> SortKey {
    let descending = matches!(options.sort, Some(ast::OrderBySort::Desc));
    // Nulls are larger than everything else.
    SortKey { expr: found.expr, ty: found.ty, descending, nulls_first: options.nulls_first.unwrap_or(descending) }
}

/// The expressions of ORDER BY.
pub(super) fn keys(order: Option<&ast::OrderBy>) -> Result<&[ast::OrderByExpr], SqlError> {
    let Some(order) = order else { return Ok(&[]) };
    match &order.kind {
        ast::OrderByKind::Expressions(keys) => {
            for key in keys {
                if let Some(ast::OrderBySort::Using(_)) = &key.options.sort {
                    return Err(SqlError::unsupported("ORDER BY .. USING", "Use ASC or DESC."));
                }
            }
            Ok(keys)
        }
        ast::OrderByKind::All(_) => Err(SqlError::unsupported("ORDER BY ALL", "Name the columns.")),
    }
}

/// A literal position, as in `ORDER BY 2`.
pub(super) fn ordinal(expr: &ast::Expr) -> Option<&str> {
    match expr {
        ast::Expr::Value(ast::ValueWithSpan { value: ast::Value::Number(number, _), .. }) => Some(number),
        _ => None,
    }
}

impl Binder<'_> {
    /// LIMIT, OFFSET and FETCH.
    pub(super) fn limit(&mut self, query: &ast::Query, scope: &Scope<'_>) -> Result<Option<Limit>, SqlError> {
        let mut limit = Limit::default();
        match &query.limit_clause {
            None => {}
            Some(ast::LimitClause::LimitOffset { limit: count, offset, limit_by }) if limit_by.is_empty() => {
                limit.count = count.as_ref().map(|count| self.one_count(count, "LIMIT", scope)).transpose()?;
                limit.offset = offset.as_ref().map(|offset| self.one_count(&offset.value, "OFFSET", scope)).transpose()?;
            }
            Some(_) => {
                return Err(SqlError::new("42601", "LIMIT #,# syntax is not supported").hint("Use separate LIMIT and OFFSET clauses."));
            }
        }
        if let Some(fetch) = &query.fetch {
            if fetch.with_ties || fetch.percent {
                return Err(SqlError::unsupported("FETCH .. WITH TIES or PERCENT", "Use FETCH FIRST n ROWS ONLY."));
            }
            limit.count = match &fetch.quantity {
                Some(quantity) => Some(self.one_count(quantity, "FETCH", scope)?),
                None => Some(crate::sql::plan::Expr::Const(crate::sql::types::Datum::Int8(1))),
            };
        }
        Ok((limit.count.is_some() || limit.offset.is_some()).then_some(limit))
    }

    fn one_count(&mut self, expr: &ast::Expr, what: &str, scope: &Scope<'_>) -> Result<crate::sql::plan::Expr, SqlError> {
        // Columns of the query itself can't stand here, those around it can; its own level has no row then.
        let names = Scope { relations: Vec::new(), parent: scope.parent };
        let found = self.expr(expr, &names)?;
        self.row_count(found, what)
    }
}

/// FOR UPDATE and its weaker forms, all of which lock the row.
pub(super) fn row_lock(query: &ast::Query) -> Result<Option<RowLock>, SqlError> {
    let mut found = None;
    for lock in &query.locks {
        found = Some(match lock.nonblock {
            None => RowLock::Wait,
            Some(ast::NonBlock::Nowait) => RowLock::NoWait,
            Some(ast::NonBlock::SkipLocked) => RowLock::Skip,
        });
    }
    Ok(found)
}
