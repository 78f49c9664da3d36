//! Names in scope, and types by name.

use std::cell::RefCell;
use std::collections::BTreeSet;

use sqlparser::ast;

use super::{Binder, Typed};
use crate::sql::error::SqlError;
use crate::sql::plan::Expr;
use crate::sql::types::{Datum, SqlType, parse_type};

/// A column of something in FROM.
#[derive(Clone, Debug)]
pub(super) struct ScopeColumn {
    pub(super) name: String,
    pub(super) ty: SqlType,
    pub(super) origin: Option<(u32, i16)>,
    /// Left out of `*`, and never ambiguous: the other side of USING.
    pub(super) merged: bool,
}

/// Something in FROM.
#[derive(Debug)]
pub(super) struct Relation {
    /// What columns are qualified with.
    pub(super) name: String,
    pub(super) columns: Vec<ScopeColumn>,
    /// Where its columns begin in the joined row.
    pub(super) offset: usize,
    /// Columns that anyone has named.
    pub(super) used: RefCell<BTreeSet<u16>>,
}

/// What names mean in one query.
#[derive(Default)]
pub(super) struct Scope<'p> {
    pub(super) relations: Vec<Relation>,
    /// The query around.
    pub(super) parent: Option<&'p Scope<'p>>,
}

impl<'p> Scope<'p> {
    /// No names.
    pub(super) fn top() -> Scope<'p> {
        Scope::default()
    }

    /// No names of its own, within `parent`.
    pub(super) fn within(parent: &'p Scope<'p>) -> Scope<'p> {
        Scope { relations: Vec::new(), parent: Some(parent) }
    }

    /// Columns of the joined row.
    pub(super) fn width(&self) -> usize {
        self.relations.last().map_or(0, |last| last.offset + last.columns.len())
    }

    fn find(&self, relation: Option<&str>, column: &str) -> Result<Option<(&Relation, usize)>, SqlError> {
        let mut found = None;
        for candidate in self.relations.iter().filter(|candidate| relation.is_none_or(|name| candidate.name == name)) {
            let same = |scoped: &&ScopeColumn| scoped.name == column && (relation.is_some() || !scoped.merged);
            let mut matching = candidate.columns.iter().enumerate().filter(|(_, scoped)| same(scoped));
            if let Some((at, _)) = matching.next() {
                if found.is_some() || matching.next().is_some() {
                    return Err(SqlError::new("42702", format!("column reference \"{column}\" is ambiguous")));
                }
                found = Some((candidate, at));
            }
        }
        Ok(found)
    }

    fn has_relation(&self, name: &str) -> bool {
        self.relations.iter().any(|relation| relation.name == name) || self.parent.is_some_and(|parent| parent.has_relation(name))
    }

    /// All columns are needed.
    pub(super) fn use_all(&self) {
        for relation in &self.relations {
            relation.used.borrow_mut().extend(0..relation.columns.len() as u16);
        }
    }
}

/// A name as PostgreSQL folds it.
pub(super) fn ident(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// The parts of a name.
pub(super) fn parts(name: &ast::ObjectName) -> Result<Vec<String>, SqlError> {
    let part = |part: &ast::ObjectNamePart| match part {
        ast::ObjectNamePart::Identifier(name) => Ok(ident(name)),
        ast::ObjectNamePart::Function(_) => Err(SqlError::unsupported("a name that is a function", "Use a plain name.")),
    };
    name.0.iter().map(part).collect()
}

/// Schema, if given, and name.
pub(super) fn qualified(name: &ast::ObjectName, database: &str) -> Result<(Option<String>, String), SqlError> {
    let mut parts = parts(name)?;
    let last = parts.pop().unwrap_or_default();
    let schema = parts.pop();
    match parts.pop() {
        Some(other) if other != database => {
            Err(SqlError::new("0A000", format!("cross-database references are not implemented: \"{other}\""))
                .hint("There is one database."))
        }
        _ => Ok((schema, last)),
    }
}

impl Binder<'_> {
    /// A column, here or in a query around.
    pub(super) fn column(&mut self, relation: Option<&str>, column: &str, scope: &Scope<'_>) -> Result<Option<(Typed, String)>, SqlError> {
        let (mut at, mut level) = (Some(scope), 0);
        while let Some(here) = at {
            if let Some((found, position)) = here.find(relation, column)? {
                found.used.borrow_mut().insert(position as u16);
                self.reach = self.reach.max(level);
                let index = found.offset + position;
                let expr = if level == 0 { Expr::Column(index) } else { Expr::Outer { up: level - 1, column: index } };
                let scoped = &found.columns[position];
                return Ok(Some((Typed { expr, ty: scoped.ty }, scoped.name.clone())));
            }
            if let ("tableoid", Some(name)) = (column, relation)
                && let Some(found) = here.relations.iter().find(|found| found.name == name)
                && let Some((table, _)) = found.columns.first().and_then(|column| column.origin)
            {
                let expr = Expr::Const(Datum::Int8(i64::from(table)));
                return Ok(Some((Typed { expr, ty: SqlType::Oid }, column.to_string())));
            }
            at = here.parent;
            level += 1;
        }
        Ok(None)
    }

    /// The column that some identifiers name.
    pub(super) fn reference(&mut self, idents: &[ast::Ident], scope: &Scope<'_>) -> Result<Typed, SqlError> {
        let span = idents.first().map_or_else(sqlparser::tokenizer::Span::empty, |first| first.span);
        let names: Vec<String> = idents.iter().map(ident).collect();
        let (relation, column) = match names.as_slice() {
            [column] => (None, column),
            [relation, column] => (Some(relation.as_str()), column),
            [.., relation, column] => (Some(relation.as_str()), column),
            [] => return Err(SqlError::new("42601", "a column without a name")),
        };
        match self.column(relation, column, scope) {
            Ok(Some((found, _))) => Ok(found),
            Ok(None) => {
                let error = match relation {
                    Some(relation) if !scope.has_relation(relation) => {
                        SqlError::new("42P01", format!("missing FROM-clause entry for table \"{relation}\""))
                    }
                    Some(relation) => SqlError::new("42703", format!("column {relation}.{column} does not exist")),
                    None => SqlError::new("42703", format!("column \"{column}\" does not exist")),
                };
                Err(self.at(error, span))
            }
            Err(error) => Err(self.at(error, span)),
        }
    }
}

/// The type that the syntax names.
///
/// # Errors
/// 42704, 0A000, 22023.
pub fn data_type(ty: &ast::DataType) -> Result<SqlType, SqlError> {
    if let ast::DataType::Array(ast::ArrayElemTypeDef::SquareBracket(element, _)) = ty {
        return match data_type(element)? {
            SqlType::Stored(element) => Ok(SqlType::Array(element)),
            other => Ok(crate::sql::arrays::array_of(other)),
        };
    }
    if let ast::DataType::Custom(name, modifiers) = ty {
        let mut parts = parts(name)?;
        let quoted = name.0.last().is_some_and(|part| matches!(part, ast::ObjectNamePart::Identifier(last) if last.quote_style.is_some()));
        let last = parts.pop().unwrap_or_default();
        let numbers = modifiers.iter().map(|modifier| modifier.trim().parse::<i64>()).collect::<Result<Vec<_>, _>>();
        let numbers = numbers.map_err(|_| SqlError::new("42601", "invalid type modifier"))?;
        let quoted = quoted || parts.last().is_some_and(|schema| schema == "pg_catalog");
        return parse_type(&last, quoted, &numbers, false);
    }
    let shown = ty.to_string().to_lowercase();
    let (name, modifiers) = match (shown.find('('), shown.find(')')) {
        (Some(open), Some(close)) => {
            let numbers = shown[open + 1..close].split(',').map(|number| number.trim().parse::<i64>()).collect::<Result<Vec<_>, _>>();
            let numbers = numbers.map_err(|_| SqlError::new("42601", "invalid type modifier"))?;
            (format!("{}{}", &shown[..open], &shown[close + 1..]), numbers)
        }
        _ => (shown, Vec::new()),
    };
    parse_type(name.trim(), false, &modifiers, false)
}
