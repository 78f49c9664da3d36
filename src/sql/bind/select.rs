//! Queries: SELECT, VALUES, set operations, WITH.

use std::sync::Arc;

use sqlparser::ast::{self, SelectItem, SetExpr};

use super::names::{Scope, ident, parts};
use super::order::{keys, ordinal, row_lock, sort_key};
use super::{Binder, Output, Query, Typed};
use crate::sql::error::SqlError;
use crate::sql::plan::access::conjuncts;
use crate::sql::plan::{Expr, Limit, Plan, Projected, SetFunction, SortKey, access};
use crate::sql::types::{CastContext, SqlType, common_type};
use crate::txn::TableLock;

/// One column of a SELECT.
pub(super) struct Item {
    pub(super) output: Output,
    pub(super) value: Value,
}

/// What a column is.
pub(super) enum Value {
    /// An expression.
    One(Expr),
    /// A function that gives rows.
    Set(SetFunction, Vec<Expr>),
}

impl Item {
    /// Whether it is the same expression.
    fn is_same(&self, other: &Item) -> bool {
        let alike = match (&self.value, &other.value) {
            (Value::One(one), Value::One(two)) => format!("{one:?}") == format!("{two:?}"),
            _ => false,
        };
        alike && self.output.ty == other.output.ty
    }
}

fn refused(what: &str, hint: &str) -> SqlError {
    SqlError::unsupported(what, hint)
}

/// The name that a column gets from its expression.
pub(super) fn column_name(expr: &ast::Expr) -> String {
    use ast::Expr as E;
    match expr {
        E::Identifier(name) => ident(name),
        E::CompoundIdentifier(names) => names.last().map(ident).unwrap_or_default(),
        E::Function(function) => parts(&function.name).ok().and_then(|mut parts| parts.pop()).unwrap_or_default(),
        E::Nested(inner) | E::Collate { expr: inner, .. } => column_name(inner),
        E::Cast { expr: inner, data_type, .. } => match column_name(inner) {
            name if name == "?column?" => super::data_type(data_type).map_or(name, |ty| match ty {
                SqlType::Array(element) => SqlType::Stored(element).base().name(),
                ty => ty.base().name(),
            }),
            name => name,
        },
        E::TypedString(typed) => super::data_type(&typed.data_type).map_or_else(|_| "?column?".into(), |ty| ty.base().name()),
        E::Case { else_result, .. } => match else_result.as_deref().map(column_name) {
            Some(name) if name != "?column?" => name,
            _ => "case".into(),
        },
        E::Extract { .. } => "extract".into(),
        E::Position { .. } => "position".into(),
        E::Substring { .. } => "substring".into(),
        E::Trim { trim_where, .. } => match trim_where {
            Some(ast::TrimWhereField::Leading) => "ltrim".into(),
            Some(ast::TrimWhereField::Trailing) => "rtrim".into(),
            _ => "btrim".into(),
        },
        E::Ceil { .. } => "ceil".into(),
        E::Floor { .. } => "floor".into(),
        E::Exists { .. } => "exists".into(),
        E::Array(_) => "array".into(),
        E::Interval(_) => "interval".into(),
        E::AtTimeZone { .. } => "timezone".into(),
        E::Subquery(query) => match &*query.body {
            SetExpr::Select(select) => match select.projection.first() {
                Some(SelectItem::UnnamedExpr(inner)) => column_name(inner),
                Some(SelectItem::ExprWithAlias { alias, .. }) => ident(alias),
                _ => "?column?".into(),
            },
            _ => "?column?".into(),
        },
        E::CompoundFieldAccess { root, .. } => column_name(root),
        _ => "?column?".into(),
    }
}

/// The column of a SELECT that `what` (ORDER BY, GROUP BY) means by a name; several of that name must be the same.
pub(super) fn named(items: &[Item], name: &str, what: &str) -> Result<Option<usize>, SqlError> {
    let mut found: Option<usize> = None;
    for (at, item) in items.iter().enumerate().filter(|(_, item)| item.output.name == name) {
        match found {
            None => found = Some(at),
            Some(first) if items[first].is_same(item) => {}
            Some(_) => return Err(SqlError::new("42702", format!("{what} \"{name}\" is ambiguous"))),
        }
    }
    Ok(found)
}

impl Binder<'_> {
    /// A query; names that aren't its own are looked for in `around`'s parent.
    pub(super) fn query(&mut self, query: &ast::Query, around: &Scope<'_>) -> Result<Query, SqlError> {
        if query.for_clause.is_some() || query.settings.is_some() || query.format_clause.is_some() || !query.pipe_operators.is_empty() {
            return Err(refused("this clause of a query", "Leave it out."));
        }
        let depth = self.with.len();
        if let Some(with) = &query.with {
            if with.recursive {
                return Err(refused("WITH RECURSIVE", "Ask level by level."));
            }
            for cte in &with.cte_tables {
                let columns = cte.alias.columns.iter().map(|column| ident(&column.name)).collect();
                self.with.push((ident(&cte.alias.name), Arc::new((*cte.query).clone()), columns));
            }
        }
        let found = self.body(query, around);
        self.with.truncate(depth);
        found
    }

    fn body(&mut self, query: &ast::Query, around: &Scope<'_>) -> Result<Query, SqlError> {
        if let SetExpr::Select(select) = &*query.body {
            return self.select(select, Some(query), around);
        }
        let mut found = self.set(&query.body, around)?;
        if !query.locks.is_empty() {
            return Err(SqlError::new("0A000", "FOR UPDATE is not allowed with UNION/INTERSECT/EXCEPT or VALUES"));
        }
        let mut order = Vec::new();
        for key in keys(query.order_by.as_ref())? {
            let at = match (ordinal(&key.expr), &key.expr) {
                (Some(number), _) => self.position(number, found.columns.len(), "ORDER BY")?,
                (None, ast::Expr::Identifier(name)) => {
                    let name = ident(name);
                    let mut all = found.columns.iter().enumerate().filter(|(_, column)| column.name == name);
                    match (all.next(), all.next()) {
                        (Some((at, _)), None) => at,
                        (None, _) => return Err(SqlError::new("42703", format!("column \"{name}\" does not exist"))),
                        (Some(_), Some(_)) => return Err(SqlError::new("42702", format!("ORDER BY \"{name}\" is ambiguous"))),
                    }
                }
                _ => {
                    return Err(SqlError::new("0A000", "invalid UNION/INTERSECT/EXCEPT ORDER BY clause")
                        .detail("Only result column names can be used, not expressions or functions.")
                        .hint("Add the expression/function to every SELECT, or move the UNION into a FROM clause."));
                }
            };
            order.push(sort_key(Typed { expr: Expr::Column(at), ty: found.columns[at].ty }, &key.options));
        }
        let limit = self.limit(query, around)?;
        if !order.is_empty() {
            found.plan = Plan::Sort(Box::new(found.plan), order, limit.clone().map(Box::new));
        }
        if let Some(limit) = limit {
            found.plan = Plan::Limit(Box::new(found.plan), Box::new(limit));
        }
        Ok(found)
    }

    /// A position like that of `ORDER BY 2`, from 0.
    pub(super) fn position(&self, number: &str, columns: usize, what: &str) -> Result<usize, SqlError> {
        match number.parse::<usize>() {
            Ok(at) if (1..=columns).contains(&at) => Ok(at - 1),
            Ok(at) => Err(SqlError::new("42P10", format!("{what} position {at} is not in select list"))),
            Err(_) => Err(SqlError::new("42601", format!("non-integer constant in {what}"))),
        }
    }

    fn set(&mut self, body: &SetExpr, around: &Scope<'_>) -> Result<Query, SqlError> {
        match body {
            SetExpr::Select(select) => self.select(select, None, around),
            SetExpr::Query(query) => self.query(query, around),
            SetExpr::Values(values) => self.values(values, around),
            SetExpr::SetOperation { left, op, set_quantifier, right } => {
                let (left, right) = self.deeper(|binder| Ok((binder.set(left, around)?, binder.set(right, around)?)))?;
                let all = match set_quantifier {
                    ast::SetQuantifier::All => true,
                    ast::SetQuantifier::None | ast::SetQuantifier::Distinct => false,
                    _ => return Err(refused("BY NAME", "Put the columns in the same order.")),
                };
                self.set_operation(left, right, *op, all)
            }
            SetExpr::Table(table) => {
                let name = table.table_name.as_deref().unwrap_or_default();
                let text = match &table.schema_name {
                    Some(schema) => format!("select * from {schema}.{name}"),
                    None => format!("select * from {name}"),
                };
                match crate::sql::parse::single(&text)? {
                    crate::sql::parse::Parsed::Query(query) => self.query(&query, around),
                    _ => Err(SqlError::new("42601", "TABLE needs a table's name")),
                }
            }
            _ => Err(refused("a change inside a query", "Do it in a statement of its own.")),
        }
    }

    fn values(&mut self, values: &ast::Values, around: &Scope<'_>) -> Result<Query, SqlError> {
        let names = Scope { relations: Vec::new(), parent: around.parent };
        let width = values.rows.first().map_or(0, |row| row.content.len());
        let mut rows: Vec<Vec<Typed>> = Vec::with_capacity(values.rows.len());
        for row in &values.rows {
            if row.content.len() != width {
                return Err(SqlError::new("42601", "VALUES lists must all be the same length"));
            }
            rows.push(row.content.iter().map(|expr| self.expr(expr, &names)).collect::<Result<_, _>>()?);
        }
        let mut types = Vec::with_capacity(width);
        for column in 0..width {
            let all: Vec<SqlType> = rows.iter().map(|row| row[column].ty).collect();
            let unknown = all.iter().all(|ty| *ty == SqlType::Unknown);
            types.push(if unknown { SqlType::Unknown } else { common_type(&all, "VALUES")? });
        }
        let mut plan = Vec::with_capacity(rows.len());
        for row in rows {
            let cells = row.into_iter().zip(&types).map(|(cell, ty)| match ty {
                SqlType::Unknown => Ok(cell.expr),
                ty => self.coerce(cell, *ty, CastContext::Implicit),
            });
            plan.push(cells.collect::<Result<Vec<_>, _>>()?);
        }
        let output = |(at, ty): (usize, &SqlType)| Output { name: format!("column{}", at + 1), ty: *ty, origin: None };
        let columns = types.iter().enumerate().map(output).collect();
        Ok(Query { plan: Plan::Values(plan), columns })
    }

    fn set_operation(&mut self, left: Query, right: Query, op: ast::SetOperator, all: bool) -> Result<Query, SqlError> {
        let what = match op {
            ast::SetOperator::Union => "UNION",
            ast::SetOperator::Intersect => "INTERSECT",
            _ => "EXCEPT",
        };
        if left.columns.len() != right.columns.len() {
            return Err(SqlError::new("42601", format!("each {what} query must have the same number of columns")));
        }
        let mut types = Vec::new();
        for (left, right) in left.columns.iter().zip(&right.columns) {
            types.push(common_type(&[left.ty, right.ty], what)?);
        }
        let mut sides = Vec::new();
        let mut columns = Vec::new();
        for query in [left, right] {
            let mut exprs = Vec::new();
            for (at, (column, ty)) in query.columns.iter().zip(&types).enumerate() {
                exprs.push(self.coerce(Typed { expr: Expr::Column(at), ty: column.ty }, *ty, CastContext::Implicit)?);
            }
            if columns.is_empty() {
                columns = query.columns.into_iter().zip(&types).map(|(column, ty)| Output { ty: *ty, origin: None, ..column }).collect();
            }
            let same = exprs.iter().enumerate().all(|(at, expr)| matches!(expr, Expr::Column(column) if *column == at));
            sides.push(if same { query.plan } else { Plan::Project(Box::new(query.plan), exprs) });
        }
        let plan = match (op, sides.pop(), sides.pop()) {
            (ast::SetOperator::Union, Some(right), Some(left)) => {
                let both = Plan::Append(vec![left, right]);
                if all { both } else { Plan::Distinct(Box::new(both), told_apart(&columns)) }
            }
            (op, Some(right), Some(left)) => {
                let except = op != ast::SetOperator::Intersect;
                let on = told_apart(&columns);
                Plan::Combine { left: Box::new(left), right: Box::new(right), except, all, on }
            }
            _ => return Err(SqlError::new("XX000", "a set operation without sides")),
        };
        Ok(Query { plan, columns })
    }

    fn check_select(select: &ast::Select) -> Result<(), SqlError> {
        let strange = select.top.is_some()
            || select.into.is_some()
            || !select.lateral_views.is_empty()
            || select.prewhere.is_some()
            || !select.connect_by.is_empty()
            || !select.cluster_by.is_empty()
            || !select.distribute_by.is_empty()
            || !select.sort_by.is_empty()
            || !select.named_window.is_empty()
            || select.qualify.is_some()
            || select.value_table_mode.is_some()
            || select.exclude.is_some();
        if strange {
            Err(refused("this clause of SELECT", "Regroup has WHERE, GROUP BY, HAVING, ORDER BY, LIMIT and OFFSET."))
        } else {
            Ok(())
        }
    }

    /// A SELECT, with the ORDER BY, LIMIT and FOR UPDATE of the query that it is the whole of.
    fn select(&mut self, select: &ast::Select, query: Option<&ast::Query>, around: &Scope<'_>) -> Result<Query, SqlError> {
        Self::check_select(select)?;
        let mut scope = Scope { relations: Vec::new(), parent: around.parent };
        let outer = self.aggregates.take();
        let tree = self.from(&select.from, &mut scope)?;
        let mut conditions = Vec::new();
        if let Some(selection) = &select.selection {
            let place = std::mem::replace(&mut self.place, "WHERE");
            let found = self.expr(selection, &scope)?;
            conjuncts(self.condition(found, "WHERE")?, &mut conditions);
            self.place = place;
        }
        self.aggregates = Some(Vec::new());
        let mut items = self.items(&select.projection, &scope)?;
        let order = query.map_or(Ok(&[][..]), |query| keys(query.order_by.as_ref()))?;
        let mut order = self.order_keys(order, &items, &scope)?;
        let having = match &select.having {
            Some(having) => {
                let found = self.expr(having, &scope)?;
                Some(self.condition(found, "HAVING")?)
            }
            None => None,
        };
        let calls = self.aggregates.take().unwrap_or_default();
        let group = self.group_keys(&select.group_by, &items, &scope)?;
        let on = match &select.distinct {
            Some(ast::Distinct::On(exprs)) => {
                Some(exprs.iter().map(|expr| self.expr(expr, &scope).map(Typed::told_apart)).collect::<Result<Vec<_>, _>>()?)
            }
            _ => None,
        };
        let limit = query.map_or(Ok(None), |query| self.limit(query, &scope))?;
        let lock = query.map_or(Ok(None), row_lock)?;
        self.aggregates = outer;

        let mut plan = match tree {
            Some(tree) => self.plan(tree, conditions, &scope)?,
            None => match access::all(conditions) {
                Some(condition) => Plan::Filter(Box::new(Plan::Once), condition),
                None => Plan::Once,
            },
        };
        // All columns have been named by now.
        Self::trim(&mut plan, &scope);
        let grouped = !calls.is_empty() || group.is_some() || having.is_some();
        if grouped {
            plan = self.grouped(plan, calls, group, having, (&mut items, &mut order), &scope)?;
        }
        if let Some(lock) = lock {
            self.locked(&mut plan, lock, grouped || select.distinct.is_some())?;
        }
        let once = matches!(select.distinct, Some(ast::Distinct::Distinct));
        Self::arranged(plan, items, order, (once, on), limit)
    }

    /// FOR UPDATE: the scan locks what it finds.
    fn locked(&mut self, plan: &mut Plan, lock: crate::sql::plan::RowLock, grouped: bool) -> Result<(), SqlError> {
        if grouped {
            return Err(SqlError::new("0A000", "FOR UPDATE is not allowed with GROUP BY, DISTINCT or aggregate functions"));
        }
        match plan {
            Plan::Scan(scan) => {
                scan.lock = Some(lock);
                let table = scan.table.clone();
                self.lock(&table, TableLock::RowShare);
                Ok(())
            }
            // A condition that a subquery decides: rows that it refuses are locked too.
            Plan::Filter(input, _) => self.locked(input, lock, false),
            _ => Err(refused("FOR UPDATE of a join", "Lock the rows of each table in a query of its own.")),
        }
    }

    /// The columns of a SELECT; `*` written out.
    pub(super) fn items(&mut self, projection: &[SelectItem], scope: &Scope<'_>) -> Result<Vec<Item>, SqlError> {
        let mut items = Vec::with_capacity(projection.len());
        let place = std::mem::replace(&mut self.place, "the select list");
        for item in projection {
            match item {
                SelectItem::UnnamedExpr(expr) => items.push(self.item(expr, column_name(expr), scope)?),
                SelectItem::ExprWithAlias { expr, alias } => items.push(self.item(expr, ident(alias), scope)?),
                SelectItem::Wildcard(_) => self.wildcard(None, scope, &mut items)?,
                SelectItem::QualifiedWildcard(ast::SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                    let name = parts(name)?.pop().unwrap_or_default();
                    self.wildcard(Some(&name), scope, &mut items)?;
                }
                _ => return Err(refused("this kind of column", "Name columns one by one.")),
            }
        }
        self.place = place;
        Ok(items)
    }

    fn item(&mut self, expr: &ast::Expr, name: String, scope: &Scope<'_>) -> Result<Item, SqlError> {
        if let ast::Expr::Function(function) = expr
            && let ast::FunctionArguments::List(list) = &function.args
        {
            let function = super::calls::function_name(&function.name)?;
            if let Some((function, args, ty)) = self.set_function(&function, &list.args, scope)? {
                return Ok(Item { output: Output { name, ty, origin: None }, value: Value::Set(function, args) });
            }
        }
        let Typed { expr, ty } = self.expr(expr, scope)?;
        let origin = match &expr {
            Expr::Column(at) => {
                let relation = scope.relations.iter().rev().find(|relation| relation.offset <= *at);
                relation.and_then(|relation| relation.columns.get(*at - relation.offset)).and_then(|column| column.origin)
            }
            _ => None,
        };
        Ok(Item { output: Output { name, ty, origin }, value: Value::One(expr) })
    }

    fn wildcard(&mut self, relation: Option<&str>, scope: &Scope<'_>, items: &mut Vec<Item>) -> Result<(), SqlError> {
        let mut any = false;
        for found in scope.relations.iter().filter(|found| relation.is_none_or(|name| found.name == name)) {
            any = true;
            for (at, column) in found.columns.iter().enumerate() {
                if column.merged && relation.is_none() {
                    continue;
                }
                found.used.borrow_mut().insert(at as u16);
                let output = Output { name: column.name.clone(), ty: column.ty, origin: column.origin };
                items.push(Item { output, value: Value::One(Expr::Column(found.offset + at)) });
            }
        }
        match (any, relation) {
            (true, _) => Ok(()),
            (false, Some(name)) => Err(SqlError::new("42P01", format!("missing FROM-clause entry for table \"{name}\""))),
            (false, None) => Err(SqlError::new("42601", "SELECT * with no tables specified is not valid")),
        }
    }

    /// The expressions of ORDER BY: positions and names of columns first, then expressions over FROM.
    fn order_keys(&mut self, order: &[ast::OrderByExpr], items: &[Item], scope: &Scope<'_>) -> Result<Vec<OrderKey>, SqlError> {
        let mut out = Vec::with_capacity(order.len());
        let place = std::mem::replace(&mut self.place, "ORDER BY");
        for key in order {
            let item = match (ordinal(&key.expr), &key.expr) {
                (Some(number), _) => Some(self.position(number, items.len(), "ORDER BY")?),
                (None, ast::Expr::Identifier(name)) => named(items, &ident(name), "ORDER BY")?,
                _ => None,
            };
            let typed = match item {
                Some(at) => match &items[at].value {
                    Value::One(expr) => Typed { expr: expr.clone(), ty: items[at].output.ty },
                    Value::Set(..) => Typed { expr: Expr::NULL, ty: items[at].output.ty },
                },
                None => self.expr(&key.expr, scope)?,
            };
            let mut sort = sort_key(typed, &key.options);
            if sort.ty == SqlType::Unknown {
                sort.ty = SqlType::TEXT;
            }
            out.push(OrderKey { item, sort });
        }
        self.place = place;
        Ok(out)
    }

    /// The query's top: columns, DISTINCT, order, limit.
    fn arranged(
        plan: Plan,
        items: Vec<Item>,
        order: Vec<OrderKey>,
        (once, on): (bool, Option<Vec<Expr>>),
        limit: Option<Limit>,
    ) -> Result<Query, SqlError> {
        let sets = items.iter().any(|item| matches!(item.value, Value::Set(..)));
        let columns: Vec<Output> = items.iter().map(|item| item.output.clone()).collect();
        if sets || once {
            let order = order_over_items(order, &items)?;
            let mut plan = project(plan, items);
            if once {
                plan = Plan::Distinct(Box::new(plan), told_apart(&columns));
            }
            return Ok(Query { plan: ordered(plan, order, limit), columns });
        }
        let keys: Vec<SortKey> = order.into_iter().map(|key| key.sort).collect();
        if let Some(exprs) = on {
            let sorted = if keys.is_empty() { plan } else { Plan::Sort(Box::new(plan), keys, None) };
            let plan = project(Plan::Distinct(Box::new(sorted), Some(exprs)), items);
            return Ok(Query { plan: ordered(plan, Vec::new(), limit), columns });
        }
        let plan = project(sorted(plan, keys, limit.as_ref()), items);
        Ok(Query { plan: ordered(plan, Vec::new(), limit), columns })
    }
}

/// A key of ORDER BY, and which column of the SELECT it is.
pub(super) struct OrderKey {
    item: Option<usize>,
    pub(super) sort: SortKey,
}

/// In order, by the scan itself if it can.
fn sorted(mut plan: Plan, keys: Vec<SortKey>, limit: Option<&Limit>) -> Plan {
    if keys.is_empty() {
        return plan;
    }
    let by_scan = match &mut plan {
        Plan::Scan(scan) => access::order(scan, &keys, limit.is_some()),
        Plan::Filter(input, _) => match &mut **input {
            Plan::Scan(scan) => access::order(scan, &keys, limit.is_some()),
            _ => false,
        },
        _ => false,
    };
    if by_scan { plan } else { Plan::Sort(Box::new(plan), keys, limit.cloned().map(Box::new)) }
}

/// What rows of these columns are told apart by, if not by the values as they are.
fn told_apart(columns: &[Output]) -> Option<Vec<Expr>> {
    let whole = columns.iter().all(|column| column.ty != SqlType::BPCHAR);
    let one = |(at, column): (usize, &Output)| Typed { expr: Expr::Column(at), ty: column.ty }.told_apart();
    (!whole).then(|| columns.iter().enumerate().map(one).collect())
}

fn ordered(plan: Plan, keys: Vec<SortKey>, limit: Option<Limit>) -> Plan {
    let plan = if keys.is_empty() { plan } else { Plan::Sort(Box::new(plan), keys, limit.clone().map(Box::new)) };
    match limit {
        Some(limit) => Plan::Limit(Box::new(plan), Box::new(limit)),
        None => plan,
    }
}

fn project(plan: Plan, items: Vec<Item>) -> Plan {
    if items.iter().all(|item| matches!(item.value, Value::One(_))) {
        let one = |item: Item| match item.value {
            Value::One(expr) => expr,
            Value::Set(..) => Expr::NULL,
        };
        return Plan::Project(Box::new(plan), items.into_iter().map(one).collect());
    }
    let columns = items.into_iter().map(|item| match item.value {
        Value::One(expr) => Projected::One(expr),
        Value::Set(function, args) => Projected::Set(function, args),
    });
    Plan::ProjectSet(Box::new(plan), columns.collect())
}

/// Keys over the columns that come out.
fn order_over_items(order: Vec<OrderKey>, items: &[Item]) -> Result<Vec<SortKey>, SqlError> {
    let find = |key: &OrderKey| {
        let shown = format!("{:?}", key.sort.expr);
        let same = |item: &Item| matches!(&item.value, Value::One(expr) if format!("{expr:?}") == shown);
        key.item.or_else(|| items.iter().position(same))
    };
    let mut keys = Vec::with_capacity(order.len());
    for key in order {
        let Some(at) = find(&key) else {
            return Err(SqlError::new("42P10", "for SELECT DISTINCT, ORDER BY expressions must appear in select list"));
        };
        keys.push(SortKey { expr: Expr::Column(at), ..key.sort });
    }
    Ok(keys)
}
