//! FROM: tables, subqueries, functions, and how they are joined.

use std::sync::Arc;

use sqlparser::ast::{self, TableFactor};

use super::names::{Relation, Scope, ScopeColumn, ident, parts, qualified};
use super::{Binder, Typed};
use crate::sql::error::SqlError;
use crate::sql::plan::access::{all, conjuncts, scan};
use crate::sql::plan::{Access, Expr, Join, JoinKind, Plan};
use crate::sql::types::SqlType;
use crate::sql::views;
use crate::table::catalog::Table;
use crate::txn::TableLock;

/// Most items of a FROM: joins are nested, and each takes some of the thread's stack.
const RELATIONS_MAX: usize = 64;

/// What FROM names, not yet a plan: conditions still sink into it.
pub(super) enum Tree {
    /// A table: which of the scope's relations it is.
    Table(Arc<Table>, usize),
    /// Anything else that stands for itself.
    Leaf(Plan, usize),
    /// A join, with conditions over the whole row of FROM.
    Join { left: Box<Tree>, right: Box<Tree>, kind: JoinKind, on: Vec<Expr>, lateral: bool },
}

impl Tree {
    /// The first and the last relation in it.
    fn span(&self) -> (usize, usize) {
        match self {
            Tree::Table(_, at) | Tree::Leaf(_, at) => (*at, *at),
            Tree::Join { left, right, .. } => (left.span().0, right.span().1),
        }
    }
}

/// Which columns of the row at hand an expression needs; nothing if it has a subquery, whose needs aren't seen.
fn needs(expr: &Expr) -> Option<Vec<usize>> {
    let (mut columns, mut opaque) = (Vec::new(), false);
    expr.walk(&mut |expr| match expr {
        Expr::Column(column) => columns.push(*column),
        Expr::Answer(_) | Expr::InAnswer { .. } => opaque = true,
        _ => {}
    });
    (!opaque).then_some(columns)
}

fn shift(expr: &mut Expr, by: usize) {
    if by > 0 {
        expr.rewrite(&mut |expr| {
            if let Expr::Column(column) = expr {
                *column -= by;
            }
        });
    }
}

impl Binder<'_> {
    /// Everything in FROM; names go to `scope`.
    pub(super) fn from(&mut self, from: &[ast::TableWithJoins], scope: &mut Scope<'_>) -> Result<Option<Tree>, SqlError> {
        let mut tree = None;
        for item in from {
            let (found, lateral) = self.joined(item, scope)?;
            tree = Some(match tree {
                None => found,
                Some(left) => Tree::Join { left: Box::new(left), right: Box::new(found), kind: JoinKind::Inner, on: Vec::new(), lateral },
            });
        }
        Ok(tree)
    }

    fn joined(&mut self, item: &ast::TableWithJoins, scope: &mut Scope<'_>) -> Result<(Tree, bool), SqlError> {
        let (mut tree, first_lateral) = self.factor(&item.relation, scope)?;
        if first_lateral && !item.joins.is_empty() {
            return Err(SqlError::unsupported("joins behind a lateral item after a comma", "Write them as LEFT or CROSS JOIN LATERAL."));
        }
        for join in &item.joins {
            use ast::JoinOperator as J;
            let (kind, constraint, swap) = match &join.join_operator {
                J::Join(constraint) | J::Inner(constraint) | J::CrossJoin(constraint) => (JoinKind::Inner, constraint, false),
                J::Left(constraint) | J::LeftOuter(constraint) => (JoinKind::Left, constraint, false),
                J::Right(constraint) | J::RightOuter(constraint) => (JoinKind::Left, constraint, true),
                J::FullOuter(constraint) => (JoinKind::Full, constraint, false),
                _ => return Err(SqlError::unsupported("this kind of join", "Use INNER, LEFT, RIGHT, FULL or CROSS JOIN.")),
            };
            if swap {
                return Err(SqlError::unsupported("RIGHT JOIN", "Exchange the tables and use LEFT JOIN."));
            }
            let left_end = scope.relations.len();
            let left_start = tree.span().0;
            let (right, lateral) = self.factor(&join.relation, scope)?;
            let on = self.constraint(constraint, (left_start, left_end), kind, scope)?;
            tree = Tree::Join { left: Box::new(tree), right: Box::new(right), kind, on, lateral };
        }
        Ok((tree, first_lateral))
    }

    fn constraint(
        &mut self,
        constraint: &ast::JoinConstraint,
        (left_start, left_end): (usize, usize),
        kind: JoinKind,
        scope: &mut Scope<'_>,
    ) -> Result<Vec<Expr>, SqlError> {
        let mut on = Vec::new();
        let names: Vec<String> = match constraint {
            ast::JoinConstraint::None => return Ok(on),
            ast::JoinConstraint::On(expr) => {
                let place = std::mem::replace(&mut self.place, "JOIN conditions");
                let found = self.expr(expr, scope)?;
                self.place = place;
                conjuncts(self.condition(found, "JOIN/ON")?, &mut on);
                return Ok(on);
            }
            ast::JoinConstraint::Using(columns) => {
                columns.iter().map(|column| Ok(parts(column)?.pop().unwrap_or_default())).collect::<Result<_, SqlError>>()?
            }
            ast::JoinConstraint::Natural => {
                let left = scope.relations[left_start..left_end].iter().flat_map(|relation| &relation.columns);
                let left: Vec<&str> = left.filter(|column| !column.merged).map(|column| column.name.as_str()).collect();
                let right = scope.relations[left_end..].iter().flat_map(|relation| &relation.columns);
                right.filter(|column| left.contains(&column.name.as_str())).map(|column| column.name.clone()).collect()
            }
        };
        if kind == JoinKind::Full && !names.is_empty() {
            return Err(SqlError::unsupported("FULL JOIN .. USING", "Use ON, and COALESCE in the columns."));
        }
        for name in names {
            let side = |from: usize, to: usize, scope: &Scope<'_>| -> Option<Typed> {
                scope.relations[from..to].iter().find_map(|relation| {
                    let at = relation.columns.iter().position(|column| column.name == name && !column.merged)?;
                    relation.used.borrow_mut().insert(at as u16);
                    Some(Typed { expr: Expr::Column(relation.offset + at), ty: relation.columns[at].ty })
                })
            };
            let missing =
                |side: &str| SqlError::new("42703", format!("column \"{name}\" specified in USING clause does not exist in {side} table"));
            let left = side(left_start, left_end, scope).ok_or_else(|| missing("left"))?;
            let right = side(left_end, scope.relations.len(), scope).ok_or_else(|| missing("right"))?;
            on.push(self.operator("=", Some(left), right)?.expr);
            for relation in &mut scope.relations[left_end..] {
                relation.columns.iter_mut().filter(|column| column.name == name).for_each(|column| column.merged = true);
            }
        }
        Ok(on)
    }

    /// One item; whether it depends on those before.
    fn factor(&mut self, factor: &TableFactor, scope: &mut Scope<'_>) -> Result<(Tree, bool), SqlError> {
        match factor {
            TableFactor::Table { name, alias, args: None, sample: None, version: None, with_ordinality: false, .. } => {
                self.table(name, alias.as_ref(), scope).map(|tree| (tree, false))
            }
            TableFactor::Table { name, alias, args: Some(args), with_ordinality, .. } => {
                self.table_function(name, &args.args, alias.as_ref(), *with_ordinality, scope)
            }
            TableFactor::Function { name, args, alias, with_ordinality, .. } => {
                self.table_function(name, args, alias.as_ref(), *with_ordinality, scope)
            }
            TableFactor::UNNEST { alias, array_exprs, with_offset: false, with_ordinality, .. } if array_exprs.len() == 1 => {
                let name = ast::ObjectName::from(vec![ast::Ident::new("unnest")]);
                let arg = ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(array_exprs[0].clone()));
                self.table_function(&name, &[arg], alias.as_ref(), *with_ordinality, scope)
            }
            TableFactor::Derived { lateral, subquery, alias, .. } => {
                let Some(alias) = alias else {
                    return Err(
                        SqlError::new("42601", "subquery in FROM must have an alias").hint("For example, FROM (SELECT ...) [AS] foo.")
                    );
                };
                let lateral = *lateral && !scope.relations.is_empty();
                let (query, lateral) = if lateral {
                    let reach = std::mem::take(&mut self.reach);
                    let aggregates = self.aggregates.take();
                    let query = self.query(subquery, &Scope::within(scope));
                    self.aggregates = aggregates;
                    let inner = std::mem::replace(&mut self.reach, reach);
                    self.reach = self.reach.max(inner.saturating_sub(1));
                    (query?, inner > 0)
                } else {
                    let aggregates = self.aggregates.take();
                    let query = self.query(subquery, &Scope { relations: Vec::new(), parent: scope.parent });
                    self.aggregates = aggregates;
                    (query?, false)
                };
                let columns = query.columns.into_iter().map(|column| {
                    let ty = if column.ty == SqlType::Unknown { SqlType::TEXT } else { column.ty };
                    ScopeColumn { name: column.name, ty, origin: column.origin, merged: false }
                });
                let at = relate(scope, ident(&alias.name), columns.collect(), Some(alias))?;
                Ok((Tree::Leaf(query.plan, at), lateral))
            }
            TableFactor::NestedJoin { table_with_joins, alias: None } => self.joined(table_with_joins, scope),
            _ => Err(SqlError::unsupported("this kind of item in FROM", "Use tables, subqueries, joins and set-returning functions.")),
        }
    }

    fn table(&mut self, name: &ast::ObjectName, alias: Option<&ast::TableAlias>, scope: &mut Scope<'_>) -> Result<Tree, SqlError> {
        let (schema, bare) = qualified(name, &self.world.options.database)?;
        let called = alias.map_or_else(|| bare.clone(), |alias| ident(&alias.name));
        if schema.is_none()
            && let Some((_, query, columns)) = self.with.iter().rev().find(|(with, ..)| *with == bare).cloned()
        {
            // The query sees only what was there before it.
            let depth = self.with.iter().rposition(|(with, ..)| *with == bare).unwrap_or(0);
            let rest = self.with.split_off(depth);
            let aggregates = self.aggregates.take();
            let bound = self.query(&query, &Scope::top());
            self.aggregates = aggregates;
            self.with.extend(rest);
            let bound = bound?;
            let names = bound.columns.iter().enumerate().map(|(at, column)| ScopeColumn {
                name: columns.get(at).cloned().unwrap_or_else(|| column.name.clone()),
                ty: if column.ty == SqlType::Unknown { SqlType::TEXT } else { column.ty },
                origin: column.origin,
                merged: false,
            });
            let at = relate(scope, called, names.collect(), alias)?;
            return Ok(Tree::Leaf(bound.plan, at));
        }
        if let Some(view) = views::find(schema.as_deref(), &bare).filter(|_| schema.as_deref() != Some("public")) {
            let columns = view.columns.iter().enumerate().map(|(at, (name, ty))| ScopeColumn {
                name: (*name).to_string(),
                ty: *ty,
                origin: Some((view.oid, at as i16 + 1)),
                merged: false,
            });
            let at = relate(scope, called, columns.collect(), alias)?;
            return Ok(Tree::Leaf(Plan::View(view), at));
        }
        let table = self.named_table(name)?;
        self.lock(&table, TableLock::AccessShare);
        let at = relate(scope, called, table_columns(&table), alias)?;
        Ok(Tree::Table(table, at))
    }

    /// The table of that name.
    pub(super) fn named_table(&self, name: &ast::ObjectName) -> Result<Arc<Table>, SqlError> {
        let (schema, bare) = qualified(name, &self.world.options.database)?;
        let span = match name.0.first() {
            Some(ast::ObjectNamePart::Identifier(first)) => first.span,
            _ => sqlparser::tokenizer::Span::empty(),
        };
        let shown = schema.as_ref().map_or_else(|| bare.clone(), |schema| format!("{schema}.{bare}"));
        let found = if schema.as_deref().is_none_or(|schema| schema == "public") { self.catalog.table(&bare) } else { None };
        match found {
            Some(table) => Ok(table.clone()),
            None if self.catalog.relation_id(&bare).is_some() => Err(self.at(
                SqlError::new("42809", format!("cannot open relation \"{bare}\"")).detail("This operation is not supported for indexes."),
                span,
            )),
            None => Err(self.at(SqlError::new("42P01", format!("relation \"{shown}\" does not exist")), span)),
        }
    }

    fn table_function(
        &mut self,
        name: &ast::ObjectName,
        args: &[ast::FunctionArg],
        alias: Option<&ast::TableAlias>,
        ordinality: bool,
        scope: &mut Scope<'_>,
    ) -> Result<(Tree, bool), SqlError> {
        let name = super::calls::function_name(name)?;
        // Arguments see the items before, as the row around.
        let lateral = !scope.relations.is_empty();
        let reach = std::mem::take(&mut self.reach);
        let inner = if lateral { Scope::within(scope) } else { Scope { relations: Vec::new(), parent: scope.parent } };
        let place = std::mem::replace(&mut self.place, "functions in FROM");
        let aggregates = self.aggregates.take();
        let found = self.called_in_from(&name, args, ordinality, &inner);
        self.aggregates = aggregates;
        self.place = place;
        let met = std::mem::replace(&mut self.reach, reach);
        self.reach = self.reach.max(if lateral { met.saturating_sub(1) } else { met });
        let (plan, ty) = found?;
        let called = alias.map_or_else(|| name.clone(), |alias| ident(&alias.name));
        let mut columns = vec![ScopeColumn { name: called.clone(), ty, origin: None, merged: false }];
        if ordinality {
            columns.push(ScopeColumn { name: "ordinality".into(), ty: SqlType::INT8, origin: None, merged: false });
        }
        let at = relate(scope, called, columns, alias)?;
        Ok((Tree::Leaf(plan, at), lateral && met > 0))
    }

    fn called_in_from(
        &mut self,
        name: &str,
        args: &[ast::FunctionArg],
        ordinality: bool,
        scope: &Scope<'_>,
    ) -> Result<(Plan, SqlType), SqlError> {
        if let Some((function, args, ty)) = self.set_function(name, args, scope)? {
            return Ok((Plan::Series { function, args, ordinality }, ty));
        }
        if ordinality {
            return Err(SqlError::unsupported("WITH ORDINALITY of this function", "Use it with unnest or generate_series."));
        }
        let args = super::calls::plain(args)?.into_iter().map(|arg| self.expr(arg, scope)).collect::<Result<Vec<_>, _>>()?;
        let Typed { expr, ty } = self.call(name, args)?;
        Ok((Plan::Values(vec![vec![expr]]), ty))
    }

    /// The plan of everything in FROM, with `conditions` of WHERE sunk into it as deep as they go.
    pub(super) fn plan(&mut self, tree: Tree, conditions: Vec<Expr>, scope: &Scope<'_>) -> Result<Plan, SqlError> {
        let mut top = Vec::new();
        let mut sinking = Vec::new();
        for condition in conditions {
            if needs(&condition).is_some() { sinking.push(condition) } else { top.push(condition) }
        }
        let plan = self.sink(tree, sinking, &mut top, scope, true)?;
        Ok(match all(top) {
            Some(condition) => Plan::Filter(Box::new(plan), condition),
            None => plan,
        })
    }

    /// `conditions` hold for all rows that come out; `top` takes those that have to wait for the whole row, if `inner`.
    fn sink(&mut self, tree: Tree, conditions: Vec<Expr>, top: &mut Vec<Expr>, scope: &Scope<'_>, inner: bool) -> Result<Plan, SqlError> {
        let (first, last) = tree.span();
        let base = scope.relations[first].offset;
        match tree {
            Tree::Table(table, at) => {
                let mut own = conditions;
                own.iter_mut().for_each(|condition| shift(condition, base));
                Ok(Plan::Scan(Box::new(scan(&table, &scope.relations[at].name, own))))
            }
            Tree::Leaf(plan, _) => {
                let mut own = conditions;
                own.iter_mut().for_each(|condition| shift(condition, base));
                Ok(match all(own) {
                    Some(condition) => Plan::Filter(Box::new(plan), condition),
                    None => plan,
                })
            }
            Tree::Join { left, right, kind, on, lateral } => {
                let (middle, end) = (scope.relations[right.span().0].offset, {
                    let relation = &scope.relations[last];
                    relation.offset + relation.columns.len()
                });
                let only = |expr: &Expr, from: usize, to: usize| {
                    needs(expr).is_some_and(|columns| columns.iter().all(|column| (from..to).contains(column)))
                };
                let (mut to_left, mut to_right, mut here) = (Vec::new(), Vec::new(), Vec::new());
                let mut above = Vec::new();
                for condition in conditions {
                    match kind {
                        JoinKind::Inner if only(&condition, base, middle) => to_left.push(condition),
                        JoinKind::Inner if only(&condition, middle, end) && !lateral => to_right.push(condition),
                        JoinKind::Inner => here.push(condition),
                        JoinKind::Left if only(&condition, base, middle) => to_left.push(condition),
                        _ => above.push(condition),
                    }
                }
                for condition in on {
                    match kind {
                        JoinKind::Inner if needs(&condition).is_none() && inner => top.push(condition),
                        _ if needs(&condition).is_none() && base > 0 => {
                            return Err(SqlError::unsupported("a subquery in this ON", "Put it into WHERE."));
                        }
                        JoinKind::Inner if only(&condition, base, middle) => to_left.push(condition),
                        JoinKind::Inner | JoinKind::Left if only(&condition, middle, end) && !lateral => to_right.push(condition),
                        _ => here.push(condition),
                    }
                }
                let left = self.sink(*left, to_left, top, scope, inner && kind != JoinKind::Full)?;
                let right = self.sink(*right, to_right, top, scope, inner && kind == JoinKind::Inner)?;
                let join = join((left, right), (base, middle, end), kind, here, lateral);
                above.iter_mut().for_each(|condition| shift(condition, base));
                Ok(match all(above) {
                    Some(condition) => Plan::Filter(Box::new(join), condition),
                    None => join,
                })
            }
        }
    }

    /// Relations of a scan read only the columns that were named.
    pub(super) fn trim(plan: &mut Plan, scope: &Scope<'_>) {
        match plan {
            Plan::Scan(scan) => {
                let relation = scope.relations.iter().find(|relation| relation.name == scan.alias);
                if let Some(relation) = relation {
                    let mut wanted: Vec<u16> = relation.used.borrow().iter().copied().collect();
                    if wanted.is_empty() && scope.relations.len() > 1 {
                        // Positions in a joined row count on the whole width.
                        wanted.push(0);
                    }
                    scan.wanted = wanted;
                }
            }
            Plan::Filter(input, _) => Self::trim(input, scope),
            Plan::Join(join) => {
                Self::trim(&mut join.left, scope);
                Self::trim(&mut join.right, scope);
                join.lookup.iter_mut().for_each(|lookup| Self::trim(lookup, scope));
            }
            _ => {}
        }
    }
}

fn join((left, right): (Plan, Plan), (base, middle, end): (usize, usize, usize), kind: JoinKind, on: Vec<Expr>, lateral: bool) -> Plan {
    use crate::sql::plan::expr::Compare;
    let (mut keys, mut rest, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    let side = |expr: &Expr, from: usize, to: usize| {
        needs(expr).is_some_and(|columns| !columns.is_empty() && columns.iter().all(|column| (from..to).contains(column)))
    };
    for mut condition in on {
        if let (Expr::Compare(Compare::Eq, ty, one, two), false) = (&condition, lateral) {
            // Integers of different sizes share their hash; intervals that are equal needn't.
            if *ty != SqlType::Interval {
                let pair = if side(one, base, middle) && side(two, middle, end) {
                    Some((one, two))
                } else if side(two, base, middle) && side(one, middle, end) {
                    Some((two, one))
                } else {
                    None
                };
                if let Some((left, right)) = pair {
                    let (mut left, mut right) = ((**left).clone(), (**right).clone());
                    shift(&mut left, base);
                    shift(&mut right, middle);
                    pairs.push((*ty, left.clone(), right.clone()));
                    let apart = |expr| Typed { expr, ty: *ty }.told_apart();
                    keys.push((apart(left), apart(right)));
                    continue;
                }
            }
        }
        shift(&mut condition, base);
        rest.push(condition);
    }
    let (left_width, right_width) = (middle - base, end - middle);
    let lookup = if kind == JoinKind::Full { None } else { lookup(&right, &pairs) };
    Plan::Join(Box::new(Join { left, right, left_width, right_width, kind, keys, condition: all(rest), lateral, lookup }))
}

/// The right side of a join found by key or index for one row of the left, which is its next outer row; nothing if it can't be. `pairs` are equal:
/// a type, an expression over the left's row, one over the right's.
fn lookup(right: &Plan, pairs: &[(SqlType, Expr, Expr)]) -> Option<Plan> {
    use crate::sql::plan::expr::Compare;
    let Plan::Scan(whole) = right else { return None };
    // What is outer here is one further out then.
    let outward = |expr: &Expr| {
        let mut expr = expr.clone();
        needs(&expr)?;
        expr.rewrite(&mut |expr| {
            if let Expr::Outer { up, .. } = expr {
                *up += 1;
            }
        });
        Some(expr)
    };
    let mut conditions = Vec::new();
    if let Some(condition) = &whole.condition {
        conjuncts(outward(condition)?, &mut conditions);
    }
    for (ty, left, right) in pairs {
        let mut value = outward(left)?;
        value.rewrite(&mut |expr| {
            if let Expr::Column(column) = *expr {
                *expr = Expr::Outer { up: 0, column };
            }
        });
        conditions.push(Expr::Compare(Compare::Eq, *ty, Box::new(outward(right)?), Box::new(value)));
    }
    let found = scan(&whole.table, &whole.alias, conditions);
    let Access::Range(range) = &found.access else { return None };
    let mut by_left = false;
    range.equal.iter().for_each(|expr| expr.walk(&mut |expr| by_left |= matches!(expr, Expr::Outer { up: 0, .. })));
    by_left.then(|| Plan::Scan(Box::new(found)))
}

/// The columns of a table, as a scope has them.
pub(super) fn table_columns(table: &Table) -> Vec<ScopeColumn> {
    let column = |(at, column): (usize, &crate::table::catalog::Column)| ScopeColumn {
        name: column.name.clone(),
        ty: column.ty.into(),
        origin: Some((table.id, at as i16 + 1)),
        merged: false,
    };
    table.columns.iter().enumerate().map(column).collect()
}

/// Puts a relation into the scope; its number there.
pub(super) fn relate(
    scope: &mut Scope<'_>,
    name: String,
    mut columns: Vec<ScopeColumn>,
    alias: Option<&ast::TableAlias>,
) -> Result<usize, SqlError> {
    if scope.relations.iter().any(|relation| relation.name == name) {
        return Err(SqlError::new("42712", format!("table name \"{name}\" specified more than once")));
    }
    for (at, renamed) in alias.iter().flat_map(|alias| &alias.columns).enumerate() {
        match columns.get_mut(at) {
            Some(column) => column.name = ident(&renamed.name),
            None => {
                let (found, given) = (columns.len(), alias.map_or(0, |alias| alias.columns.len()));
                return Err(SqlError::new(
                    "42P10",
                    format!("table \"{name}\" has {found} columns available but {given} columns specified"),
                ));
            }
        }
    }
    if scope.relations.len() >= RELATIONS_MAX {
        return Err(SqlError::new("54001", format!("more than {RELATIONS_MAX} items in FROM")).hint("Join in several steps."));
    }
    let offset = scope.width();
    scope.relations.push(Relation { name, columns, offset, used: Default::default() });
    Ok(scope.relations.len() - 1)
}
