//! INSERT, UPDATE, DELETE.

use std::sync::Arc;

use sqlparser::ast::{self, SelectItem, SetExpr};

use super::from::{relate, table_columns};
use super::names::{Relation, Scope, ident, parts};
use super::select::Value;
use super::{Binder, Output, Typed};
use crate::sql::error::SqlError;
use crate::sql::parse;
use crate::sql::plan::access::{all, conjuncts, could_meet, scan};
use crate::sql::plan::{Action, Conflict, Delete, Expr, Insert, Plan, Target, Update};
use crate::sql::types::SqlType;
use crate::table::catalog::Table;
use crate::txn::TableLock;

/// What RETURNING gives: values, and what they look like.
type Returned = Option<(Vec<Expr>, Vec<Output>)>;
type Bound = Result<(Action, Option<Vec<Output>>), SqlError>;

fn refused(what: &str, hint: &str) -> SqlError {
    SqlError::unsupported(what, hint)
}

fn is_default(expr: &ast::Expr) -> bool {
    matches!(expr, ast::Expr::Identifier(name) if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("default"))
}

impl Binder<'_> {
    /// A column's default.
    fn default_value(&mut self, table: &Table, column: usize) -> Result<Expr, SqlError> {
        let Some(text) = &table.columns[column].default else { return Ok(Expr::NULL) };
        let parsed = parse::expression(text)?;
        let found = self.expr(&parsed, &Scope::top())?;
        self.assigned(found, table.columns[column].ty.into(), &table.columns[column].name, &table.name)
    }

    /// The position of a column that a statement writes.
    fn written(&self, name: &ast::ObjectName, table: &Table) -> Result<usize, SqlError> {
        let column = parts(name)?.pop().unwrap_or_default();
        table.column(&column).ok_or_else(|| {
            let error = SqlError::new("42703", format!("column \"{column}\" of relation \"{}\" does not exist", table.name));
            match name.0.last() {
                Some(ast::ObjectNamePart::Identifier(last)) => self.at(error, last.span),
                _ => error,
            }
        })
    }

    fn returning(&mut self, returning: Option<&Vec<SelectItem>>, scope: &Scope<'_>) -> Result<Returned, SqlError> {
        let Some(returning) = returning else { return Ok(None) };
        let place = std::mem::replace(&mut self.place, "RETURNING");
        let items = self.items(returning, scope)?;
        self.place = place;
        let mut exprs = Vec::with_capacity(items.len());
        let mut columns = Vec::with_capacity(items.len());
        for item in items {
            let Value::One(expr) = item.value else {
                return Err(SqlError::new("0A000", "set-returning functions are not allowed in RETURNING"));
            };
            let shown = super::coerce::shown(expr, item.output.ty);
            let textual = item.output.ty == SqlType::Unknown || super::coerce::is_shown_otherwise(item.output.ty);
            exprs.push(shown);
            columns.push(Output { ty: if textual { SqlType::TEXT } else { item.output.ty }, ..item.output });
        }
        Ok(Some((exprs, columns)))
    }

    pub(super) fn insert(&mut self, insert: &ast::Insert) -> Bound {
        let strange = insert.or.is_some()
            || insert.ignore
            || insert.overwrite
            || insert.partitioned.is_some()
            || insert.replace_into
            || !insert.assignments.is_empty()
            || insert.output.is_some()
            || insert.multi_table_insert_type.is_some()
            || insert.insert_alias.is_some();
        if strange {
            return Err(refused("this form of INSERT", "Use INSERT INTO .. VALUES or SELECT, with ON CONFLICT and RETURNING."));
        }
        let ast::TableObject::TableName(name) = &insert.table else { return Err(refused("INSERT into what is no table", "Name a table.")) };
        let table = self.named_table(name)?;
        self.lock(&table, TableLock::RowExclusive);
        let mut targets = Vec::new();
        for column in &insert.columns {
            let at = self.written(column, &table)?;
            if targets.contains(&at) {
                return Err(SqlError::new("42701", format!("column \"{}\" specified more than once", table.columns[at].name)));
            }
            targets.push(at);
        }
        if insert.columns.is_empty() {
            targets = (0..table.columns.len()).collect();
        }
        let source = self.source(insert.source.as_deref(), &table, &targets, !insert.columns.is_empty())?;
        let own = reads(&source, table.id) || self.subplans.iter().any(|subplan| reads(&subplan.plan, table.id));
        let alias = insert.table_alias.as_ref().map_or_else(|| table.name.clone(), |alias| ident(&alias.alias));
        let conflict = match &insert.on {
            None => None,
            Some(ast::OnInsert::OnConflict(conflict)) => Some(self.conflict(conflict, &table, &alias)?),
            Some(_) => return Err(refused("ON DUPLICATE KEY", "Use ON CONFLICT.")),
        };
        let mut scope = Scope::top();
        relate(&mut scope, alias, table_columns(&table), None)?;
        let (returning, columns) = self.returning(insert.returning.as_ref(), &scope)?.unzip();
        Ok((Action::Insert(Box::new(Insert { table, source, conflict, returning, own })), columns))
    }

    /// Rows of the whole table, from VALUES or a query.
    fn source(&mut self, source: Option<&ast::Query>, table: &Arc<Table>, targets: &[usize], named: bool) -> Result<Plan, SqlError> {
        let too_many = || SqlError::new("42601", "INSERT has more expressions than target columns");
        let too_few = || SqlError::new("42601", "INSERT has more target columns than expressions");
        let Some(query) = source else {
            let row = (0..table.columns.len()).map(|column| self.default_value(table, column)).collect::<Result<Vec<_>, _>>()?;
            return Ok(Plan::Values(vec![row]));
        };
        let plain = query.order_by.is_none() && query.limit_clause.is_none() && query.with.is_none();
        if let (SetExpr::Values(values), true) = (&*query.body, plain) {
            let mut rows = Vec::with_capacity(values.rows.len());
            let defaults = (0..table.columns.len()).map(|_| None).collect::<Vec<Option<Expr>>>();
            let mut shared = defaults;
            for row in &values.rows {
                if row.content.len() > targets.len() {
                    return Err(too_many());
                }
                if named && row.content.len() < targets.len() {
                    return Err(too_few());
                }
                let mut cells: Vec<Option<Expr>> = vec![None; table.columns.len()];
                for (expr, at) in row.content.iter().zip(targets) {
                    if is_default(expr) {
                        continue;
                    }
                    let column = &table.columns[*at];
                    let found = self.expr(expr, &Scope::top())?;
                    let value = self.assigned(found, column.ty.into(), &column.name, &table.name);
                    cells[*at] = Some(value.map_err(|error| match expr {
                        ast::Expr::Value(value) => self.at(error, value.span),
                        _ => error,
                    })?);
                }
                let mut whole = Vec::with_capacity(cells.len());
                for (at, cell) in cells.into_iter().enumerate() {
                    whole.push(match cell {
                        Some(cell) => cell,
                        None => {
                            if shared[at].is_none() {
                                shared[at] = Some(self.default_value(table, at)?);
                            }
                            shared[at].clone().unwrap_or(Expr::NULL)
                        }
                    });
                }
                rows.push(whole);
            }
            return Ok(Plan::Values(rows));
        }
        let found = self.query(query, &Scope::top())?;
        if found.columns.len() > targets.len() {
            return Err(too_many());
        }
        if named && found.columns.len() < targets.len() {
            return Err(too_few());
        }
        let mut whole: Vec<Option<Expr>> = vec![None; table.columns.len()];
        for (at, (column, target)) in found.columns.iter().zip(targets).enumerate() {
            let wanted = &table.columns[*target];
            let typed = Typed { expr: Expr::Column(at), ty: column.ty };
            whole[*target] = Some(self.assigned(typed, wanted.ty.into(), &wanted.name, &table.name)?);
        }
        let mut exprs = Vec::with_capacity(whole.len());
        for (at, expr) in whole.into_iter().enumerate() {
            exprs.push(match expr {
                Some(expr) => expr,
                None => self.default_value(table, at)?,
            });
        }
        Ok(Plan::Project(Box::new(found.plan), exprs))
    }

    fn conflict(&mut self, conflict: &ast::OnConflict, table: &Arc<Table>, alias: &str) -> Result<Conflict, SqlError> {
        let target = match &conflict.conflict_target {
            None => None,
            Some(ast::ConflictTarget::Columns(columns)) => {
                let mut wanted = Vec::new();
                for column in columns {
                    let name = ident(column);
                    let at = table
                        .column(&name)
                        .ok_or_else(|| self.at(SqlError::new("42703", format!("column \"{name}\" does not exist")), column.span))?;
                    wanted.push(at as u16);
                }
                wanted.sort_unstable();
                wanted.dedup();
                let same = |columns: &[u16]| {
                    let mut columns = columns.to_vec();
                    columns.sort_unstable();
                    columns == wanted
                };
                let index = table.indexes.iter().position(|index| index.unique && same(&index.columns));
                match (table.key.as_ref().is_some_and(|key| same(&key.columns)), index) {
                    (true, _) => Some(None),
                    (false, Some(index)) => Some(Some(index)),
                    (false, None) => {
                        let message = "there is no unique or exclusion constraint matching the ON CONFLICT specification";
                        return Err(SqlError::new("42P10", message));
                    }
                }
            }
            Some(ast::ConflictTarget::OnConstraint(name)) => {
                let name = parts(name)?.pop().unwrap_or_default();
                let index = table.indexes.iter().position(|index| index.unique && index.name == name);
                match (table.key.as_ref().is_some_and(|key| key.name == name), index) {
                    (true, _) => Some(None),
                    (false, Some(index)) => Some(Some(index)),
                    (false, None) => {
                        let message = format!("constraint \"{name}\" for table \"{}\" does not exist", table.name);
                        return Err(SqlError::new("42704", message));
                    }
                }
            }
        };
        let ast::OnConflictAction::DoUpdate(update) = &conflict.action else {
            return Ok(Conflict { target, update: None, condition: None });
        };
        if target.is_none() {
            let message = "ON CONFLICT DO UPDATE requires inference specification or constraint name";
            return Err(SqlError::new("42601", message).hint("For example, ON CONFLICT (column_name)."));
        }
        let mut scope = Scope::top();
        relate(&mut scope, alias.to_string(), table_columns(table), None)?;
        // A bare name is the table's own column, not the refused row's.
        let mut excluded = table_columns(table);
        excluded.iter_mut().for_each(|column| column.merged = true);
        let offset = scope.width();
        scope.relations.push(Relation { name: "excluded".into(), columns: excluded, offset, used: Default::default() });
        let set = self.assignments(&update.assignments, table, &scope)?;
        let condition = match &update.selection {
            Some(selection) => {
                let found = self.expr(selection, &scope)?;
                Some(self.condition(found, "WHERE")?)
            }
            None => None,
        };
        Ok(Conflict { target, update: Some(set), condition })
    }

    fn assignments(&mut self, assignments: &[ast::Assignment], table: &Table, scope: &Scope<'_>) -> Result<Vec<(u16, Expr)>, SqlError> {
        let mut set: Vec<(u16, Expr)> = Vec::new();
        for assignment in assignments {
            let pairs: Vec<(&ast::ObjectName, &ast::Expr)> = match (&assignment.target, &assignment.value) {
                (ast::AssignmentTarget::ColumnName(name), value) => vec![(name, value)],
                (ast::AssignmentTarget::Tuple(names), ast::Expr::Tuple(values)) if names.len() == values.len() => {
                    names.iter().zip(values).collect()
                }
                _ => return Err(refused("this kind of assignment", "Assign the columns one by one.")),
            };
            for (name, value) in pairs {
                let at = self.written(name, table)?;
                if set.iter().any(|(other, _)| usize::from(*other) == at) {
                    return Err(SqlError::new("42601", format!("multiple assignments to same column \"{}\"", table.columns[at].name)));
                }
                let column = &table.columns[at];
                let expr = if is_default(value) {
                    self.default_value(table, at)?
                } else {
                    let place = std::mem::replace(&mut self.place, "UPDATE");
                    let found = self.expr(value, scope)?;
                    self.place = place;
                    self.assigned(found, column.ty.into(), &column.name, &table.name)?
                };
                set.push((at as u16, expr));
            }
        }
        Ok(set)
    }

    /// The table that UPDATE or DELETE names, as the first relation of a scope.
    fn target_table(&mut self, factor: &ast::TableFactor, scope: &mut Scope<'_>) -> Result<Arc<Table>, SqlError> {
        let ast::TableFactor::Table { name, alias, args: None, .. } = factor else {
            return Err(refused("changing what is no table", "Name a table."));
        };
        let table = self.named_table(name)?;
        self.lock(&table, TableLock::RowExclusive);
        let called = alias.as_ref().map_or_else(|| table.name.clone(), |alias| ident(&alias.name));
        relate(scope, called, table_columns(&table), alias.as_ref())?;
        Ok(table)
    }

    fn target(
        &mut self,
        table: &Arc<Table>,
        from: &[ast::TableWithJoins],
        selection: Option<&ast::Expr>,
        scope: &mut Scope<'_>,
    ) -> Result<Target, SqlError> {
        let own = table.columns.len();
        // Other tables are read apart, without the row to be changed.
        let mut others = Scope::top();
        let tree = self.from(from, &mut others)?;
        let plan = match tree {
            Some(tree) => {
                others.use_all();
                let mut plan = self.plan(tree, Vec::new(), &others)?;
                Self::trim(&mut plan, &others);
                Some(plan)
            }
            None => None,
        };
        for mut relation in others.relations {
            relation.offset += own;
            if scope.relations.iter().any(|other| other.name == relation.name) {
                return Err(SqlError::new("42712", format!("table name \"{}\" specified more than once", relation.name)));
            }
            scope.relations.push(relation);
        }
        let mut conditions = Vec::new();
        if let Some(selection) = selection {
            let place = std::mem::replace(&mut self.place, "WHERE");
            let found = self.expr(selection, scope)?;
            self.place = place;
            conjuncts(self.condition(found, "WHERE")?, &mut conditions);
        }
        let (mut on_target, mut on_both) = (Vec::new(), Vec::new());
        for condition in conditions {
            let mut mine = plan.is_none();
            if !mine {
                mine = true;
                condition.walk(&mut |expr| match expr {
                    Expr::Column(at) if *at < own => {}
                    Expr::Column(_) | Expr::Answer(_) | Expr::InAnswer { .. } => mine = false,
                    _ => {}
                });
            }
            if mine { on_target.push(condition) } else { on_both.push(condition) }
        }
        let alias = scope.relations.first().map_or_else(|| table.name.clone(), |relation| relation.name.clone());
        Ok(Target { scan: scan(table, &alias, on_target), from: plan, condition: all(on_both), collect: false })
    }

    pub(super) fn update(&mut self, update: &ast::Update) -> Bound {
        if !update.table.joins.is_empty()
            || update.or.is_some()
            || update.output.is_some()
            || !update.order_by.is_empty()
            || update.limit.is_some()
        {
            return Err(refused("this form of UPDATE", "Use UPDATE .. SET .. FROM .. WHERE .. RETURNING."));
        }
        let mut scope = Scope::top();
        let table = self.target_table(&update.table.relation, &mut scope)?;
        let from = match &update.from {
            None => &[][..],
            Some(ast::UpdateTableFromKind::AfterSet(from) | ast::UpdateTableFromKind::BeforeSet(from)) => from,
        };
        let mut target = self.target(&table, from, update.selection.as_ref(), &mut scope)?;
        let set = self.assignments(&update.assignments, &table, &scope)?;
        let columns: Vec<u16> = set.iter().map(|(column, _)| *column).collect();
        target.collect = could_meet(&target.scan, &columns) || self.subplans.iter().any(|subplan| reads(&subplan.plan, table.id));
        let (returning, columns) = self.returning(update.returning.as_ref(), &scope)?.unzip();
        Ok((Action::Update(Box::new(Update { target, set, returning })), columns))
    }

    pub(super) fn delete(&mut self, delete: &ast::Delete) -> Bound {
        if !delete.tables.is_empty() || delete.output.is_some() || !delete.order_by.is_empty() || delete.limit.is_some() {
            return Err(refused("this form of DELETE", "Use DELETE FROM .. USING .. WHERE .. RETURNING."));
        }
        let (ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from)) = &delete.from;
        let [item] = from.as_slice() else { return Err(refused("DELETE from several tables", "Delete from one at a time.")) };
        if !item.joins.is_empty() {
            return Err(refused("DELETE from a join", "Use USING."));
        }
        let mut scope = Scope::top();
        let table = self.target_table(&item.relation, &mut scope)?;
        let using = delete.using.as_deref().unwrap_or_default();
        let mut target = self.target(&table, using, delete.selection.as_ref(), &mut scope)?;
        target.collect = self.subplans.iter().any(|subplan| reads(&subplan.plan, table.id));
        let (returning, columns) = self.returning(delete.returning.as_ref(), &scope)?.unzip();
        Ok((Action::Delete(Box::new(Delete { target, returning })), columns))
    }
}

/// Whether a plan reads the table of that number.
fn reads(plan: &Plan, table: u32) -> bool {
    match plan {
        Plan::Scan(scan) => scan.table.id == table,
        Plan::Once | Plan::Values(_) | Plan::View(_) | Plan::Series { .. } => false,
        Plan::Filter(input, _)
        | Plan::Project(input, _)
        | Plan::ProjectSet(input, _)
        | Plan::Sort(input, ..)
        | Plan::Distinct(input, _)
        | Plan::Limit(input, _) => reads(input, table),
        Plan::Join(join) => reads(&join.left, table) || reads(&join.right, table),
        Plan::Aggregate(aggregate) => reads(&aggregate.input, table),
        Plan::Append(inputs) => inputs.iter().any(|input| reads(input, table)),
        Plan::Combine { left, right, .. } => reads(left, table) || reads(right, table),
    }
}
