//! GROUP BY, HAVING: expressions over rows become expressions over groups.

use sqlparser::ast;

use super::calls::AGGREGATES;
use super::names::{Scope, ident};
use super::order::ordinal;
use super::select::{Item, OrderKey, Value, named};
use super::{Binder, Typed};
use crate::sql::error::SqlError;
use crate::sql::plan::{Aggregate, AggregateCall, Expr, Plan, access};
use crate::sql::types::SqlType;

impl Binder<'_> {
    /// The expressions of GROUP BY; nothing without it.
    pub(super) fn group_keys(
        &mut self,
        group: &ast::GroupByExpr,
        items: &[Item],
        scope: &Scope<'_>,
    ) -> Result<Option<Vec<Typed>>, SqlError> {
        let exprs = match group {
            ast::GroupByExpr::Expressions(exprs, modifiers) if modifiers.is_empty() => exprs,
            _ => return Err(SqlError::unsupported("GROUP BY ALL or with modifiers", "Name the expressions to group by.")),
        };
        if exprs.is_empty() {
            return Ok(None);
        }
        let place = std::mem::replace(&mut self.place, "GROUP BY");
        let mut keys = Vec::with_capacity(exprs.len());
        for expr in exprs {
            if matches!(expr, ast::Expr::GroupingSets(_) | ast::Expr::Cube(_) | ast::Expr::Rollup(_)) {
                return Err(SqlError::unsupported("GROUPING SETS, CUBE and ROLLUP", "Join several queries by UNION ALL."));
            }
            let from_items = |name: &ast::Ident| {
                let name = ident(name);
                // A column of FROM goes before one of the select list.
                let own = scope.relations.iter().any(|relation| relation.columns.iter().any(|column| column.name == name));
                if own { Ok(None) } else { named(items, &name, "GROUP BY") }
            };
            let item = match (ordinal(expr), expr) {
                (Some(number), _) => Some(self.position(number, items.len(), "GROUP BY")?),
                (None, ast::Expr::Identifier(name)) => from_items(name)?,
                _ => None,
            };
            keys.push(match item.map(|at| &items[at]) {
                Some(Item { value: Value::One(expr), output }) => Typed { expr: expr.clone(), ty: output.ty },
                Some(_) => return Err(SqlError::new("0A000", "set-returning functions are not allowed in GROUP BY")),
                None => self.expr(expr, scope)?,
            });
        }
        self.place = place;
        Ok(Some(keys))
    }

    /// The plan of groups; columns, keys of the order and HAVING become expressions over them.
    pub(super) fn grouped(
        &mut self,
        input: Plan,
        calls: Vec<AggregateCall>,
        keys: Option<Vec<Typed>>,
        having: Option<Expr>,
        (items, order): (&mut [Item], &mut [OrderKey]),
        scope: &Scope<'_>,
    ) -> Result<Plan, SqlError> {
        let whole = keys.is_none();
        let input = match (whole, calls.as_slice()) {
            (true, [call]) => access::extreme(input, call),
            _ => input,
        };
        let keys = keys.unwrap_or_default();
        // A table's other columns, which follow, are no `bpchar`, and told apart by its key.
        let apart = |(at, key): (usize, &Typed)| Typed { expr: Expr::Column(at), ty: key.ty }.told_apart();
        let on = keys.iter().any(|key| key.ty == SqlType::BPCHAR).then(|| keys.iter().enumerate().map(apart).collect());
        let mut groups = Groups { keys: keys.into_iter().map(|key| key.expr).collect(), shown: Vec::new() };
        groups.shown = groups.keys.iter().map(|key| format!("{key:?}")).collect();
        self.add_dependent(&mut groups, scope);
        let mut having = having;
        for expr in having.iter_mut() {
            self.over_groups(expr, &mut groups, scope)?;
        }
        for item in items.iter_mut() {
            match &mut item.value {
                Value::One(expr) => self.over_groups(expr, &mut groups, scope)?,
                Value::Set(_, args) => {
                    for arg in args {
                        self.over_groups(arg, &mut groups, scope)?;
                    }
                }
            }
        }
        for key in order.iter_mut() {
            self.over_groups(&mut key.sort.expr, &mut groups, scope)?;
        }
        let width = groups.keys.len();
        let mut settle = |expr: &mut Expr| {
            expr.rewrite(&mut |expr| {
                if let Expr::Column(at) = expr
                    && *at >= AGGREGATES
                {
                    *at = *at - AGGREGATES + width;
                }
            });
        };
        for item in items {
            match &mut item.value {
                Value::One(expr) => settle(expr),
                Value::Set(_, args) => args.iter_mut().for_each(&mut settle),
            }
        }
        order.iter_mut().for_each(|key| settle(&mut key.sort.expr));
        having.iter_mut().for_each(&mut settle);
        let plan = Plan::Aggregate(Box::new(Aggregate { input, keys: groups.keys, on, calls, whole }));
        Ok(match having {
            Some(condition) => Plan::Filter(Box::new(plan), condition),
            None => plan,
        })
    }

    /// With a table's whole primary key among the keys, its other columns are the same in each group: they become keys too.
    fn add_dependent(&self, groups: &mut Groups, scope: &Scope<'_>) {
        for relation in &scope.relations {
            let Some((table, _)) = relation.columns.first().and_then(|column| column.origin) else { continue };
            let Some(key) = self.catalog.by_id(table).and_then(|table| table.key.clone()) else { continue };
            let has = |column: usize| groups.keys.iter().any(|expr| matches!(expr, Expr::Column(at) if *at == column));
            if !key.columns.iter().all(|column| has(relation.offset + usize::from(*column))) {
                continue;
            }
            for at in 0..relation.columns.len() {
                let expr = Expr::Column(relation.offset + at);
                let shown = format!("{expr:?}");
                if relation.used.borrow().contains(&(at as u16)) && !groups.shown.contains(&shown) {
                    groups.shown.push(shown);
                    groups.keys.push(expr);
                }
            }
        }
    }

    /// `expr` over rows becomes one over groups: parts that are keys are their columns, aggregates stay as they are for now.
    fn over_groups(&self, expr: &mut Expr, groups: &mut Groups, scope: &Scope<'_>) -> Result<(), SqlError> {
        let shown = format!("{expr:?}");
        if let Some(at) = groups.shown.iter().position(|key| *key == shown) {
            *expr = Expr::Column(at);
            return Ok(());
        }
        match expr {
            Expr::Column(at) if *at >= AGGREGATES => Ok(()),
            Expr::Column(at) => {
                let relation = scope.relations.iter().rev().find(|relation| relation.offset <= *at);
                let name = relation.map_or_else(String::new, |relation| {
                    let column = relation.columns.get(*at - relation.offset).map_or("?", |column| column.name.as_str());
                    format!("{}.{column}", relation.name)
                });
                let message = format!("column \"{name}\" must appear in the GROUP BY clause or be used in an aggregate function");
                Err(SqlError::new("42803", message))
            }
            Expr::Answer(subplan) | Expr::InAnswer { subplan, .. }
                if self.subplans.get(*subplan).is_some_and(|subplan| subplan.correlated && !subplan.wanted.is_function()) =>
            {
                Err(SqlError::unsupported("a subquery over the columns of a grouped query", "Group in a subquery in FROM."))
            }
            other => {
                let mut failed = None;
                other.children(&mut |child| {
                    if failed.is_none() {
                        failed = self.over_groups(child, groups, scope).err();
                    }
                });
                failed.map_or(Ok(()), Err)
            }
        }
    }
}

/// Keys of groups while expressions are turned to them.
struct Groups {
    keys: Vec<Expr>,
    /// The same as text, to be compared.
    shown: Vec<String>,
}
