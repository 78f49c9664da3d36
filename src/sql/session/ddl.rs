//! Definitions: CREATE, ALTER, DROP, TRUNCATE, REINDEX.

use sqlparser::ast::{self, ColumnOption, TableConstraint};

use super::{Portal, Session};
use crate::sql::bind::{self, data_type};
use crate::sql::error::{Severity, SqlError};
use crate::sql::errors::{duplicate, duplicated};
use crate::sql::parse::{self, Dropped, Parsed, Utility};
use crate::sql::sequence::{self, first_row, is_sequence, named_in};
use crate::sql::types::{SqlType, Type};
use crate::table::catalog::{Column, Table};
use crate::table::tables::{Added, IndexSpec, KeySpec, Relation, TableSpec, TablesError};

fn refused(what: impl std::fmt::Display, hint: &str) -> SqlError {
    SqlError::unsupported(what, hint)
}

fn ident(name: &ast::Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

/// The name of a relation in schema `public`.
fn relation_name(name: &ast::ObjectName) -> Result<String, SqlError> {
    let mut parts = Vec::new();
    for part in &name.0 {
        match part {
            ast::ObjectNamePart::Identifier(part) => parts.push(ident(part)),
            ast::ObjectNamePart::Function(_) => return Err(refused("a name that is a function", "Use a plain name.")),
        }
    }
    let last = parts.pop().unwrap_or_default();
    match parts.last().map(String::as_str) {
        None | Some("public") => Ok(last),
        Some("pg_catalog" | "information_schema") => {
            Err(SqlError::new("42501", format!("permission denied to change \"{last}\" of the catalog")))
        }
        Some(schema) => Err(SqlError::new("3F000", format!("schema \"{schema}\" does not exist"))),
    }
}

/// The columns of a key or index, which must be plain.
fn key_columns(columns: &[ast::IndexColumn]) -> Result<Vec<String>, SqlError> {
    let plain = |column: &ast::IndexColumn| {
        let descending = matches!(column.column.options.sort, Some(ast::OrderBySort::Desc));
        if descending || column.column.options.nulls_first == Some(true) {
            return Err(refused("a key or index with DESC or NULLS FIRST", "Leave it out: indexes are read in both directions."));
        }
        if column.operator_class.is_some() {
            return Err(refused("an operator class", "Leave it out: all indexes are B-trees in the order of their type."));
        }
        match &column.column.expr {
            ast::Expr::Identifier(name) => Ok(ident(name)),
            _ => Err(refused("an index of an expression", "Put the value into a column of its own, and index that.")),
        }
    };
    columns.iter().map(plain).collect()
}

/// A type that columns can have; with SERIAL, whose numbers come from a sequence.
fn column_type(ty: &ast::DataType) -> Result<(Type, bool), SqlError> {
    if let ast::DataType::Custom(name, _) = ty {
        let serial = match name.to_string().to_lowercase().as_str() {
            "serial" | "serial4" => Some(Type::Int4),
            "bigserial" | "serial8" => Some(Type::Int8),
            "smallserial" | "serial2" => Some(Type::Int2),
            _ => None,
        };
        if let Some(ty) = serial {
            return Ok((ty, true));
        }
    }
    match data_type(ty)? {
        SqlType::Stored(Type::Char(0)) => Ok((Type::Text, false)),
        SqlType::Stored(ty) => Ok((ty, false)),
        other => {
            let hint =
                "Columns can be int2, int4, int8, float8, numeric, bool, text, varchar, char, bytea, timestamp, timestamptz, date, uuid.";
            Err(refused(format!("a column of type {}", other.display_name()), hint))
        }
    }
}

/// A constraint that is checked at the end of the transaction is refused.
fn not_deferred(characteristics: Option<&ast::ConstraintCharacteristics>) -> Result<(), SqlError> {
    match characteristics {
        Some(_) => Err(refused("a deferrable constraint", "All constraints are checked at once: leave DEFERRABLE and its like out.")),
        None => Ok(()),
    }
}

/// What CREATE TABLE says, taken apart.
struct Draft {
    spec: TableSpec,
    /// Sequences that columns take numbers from.
    sequences: Vec<String>,
}

impl Draft {
    fn key(&mut self, name: Option<String>, columns: Vec<String>) -> Result<(), SqlError> {
        if self.spec.key.is_some() {
            return Err(SqlError::new("42P16", format!("multiple primary keys for table \"{}\" are not allowed", self.spec.name)));
        }
        self.spec.key = Some(KeySpec { name, columns });
        Ok(())
    }

    fn column(&mut self, column: &ast::ColumnDef) -> Result<(), SqlError> {
        let name = ident(&column.name);
        let (ty, serial) = column_type(&column.data_type)?;
        let mut made = Column { name: name.clone(), ty, not_null: serial, default: None };
        let mut numbered = serial;
        for option in &column.options {
            let constraint = option.name.as_ref().map(ident);
            match &option.option {
                ColumnOption::Null => {}
                ColumnOption::NotNull => made.not_null = true,
                ColumnOption::Default(expr) => made.default = Some(expr.to_string()),
                ColumnOption::PrimaryKey(ast::PrimaryKeyConstraint { characteristics, .. })
                | ColumnOption::Unique(ast::UniqueConstraint { characteristics, .. })
                    if characteristics.is_some() =>
                {
                    not_deferred(characteristics.as_ref())?;
                }
                ColumnOption::PrimaryKey(_) => self.key(constraint, vec![name.clone()])?,
                ColumnOption::Unique(_) => self.spec.unique.push(KeySpec { name: constraint, columns: vec![name.clone()] }),
                ColumnOption::Collation(_) => return Err(refused("COLLATE of a column", "Text is ordered by its bytes: collation \"C\".")),
                ColumnOption::Generated { generation_expr: None, .. } | ColumnOption::Identity(_) => {
                    numbered = true;
                    made.not_null = true;
                }
                ColumnOption::Check(_) => return Err(refused("a CHECK constraint", "Check values in the client.")),
                ColumnOption::ForeignKey(_) => return Err(refused("a FOREIGN KEY constraint", "Check references in the client.")),
                other => return Err(refused(format!("column option {other}"), "Leave it out.")),
            }
        }
        if numbered {
            let sequence = format!("{}_{name}_seq", self.spec.name);
            made.default = Some(format!("nextval('{sequence}'::regclass)"));
            self.sequences.push(sequence);
        }
        self.spec.columns.push(made);
        Ok(())
    }

    fn constraint(&mut self, constraint: &TableConstraint) -> Result<(), SqlError> {
        let characteristics = match constraint {
            TableConstraint::PrimaryKey(key) => key.characteristics.as_ref(),
            TableConstraint::Unique(unique) => unique.characteristics.as_ref(),
            _ => None,
        };
        not_deferred(characteristics)?;
        match constraint {
            TableConstraint::PrimaryKey(key) if key.include.is_empty() => {
                self.key(key.name.as_ref().map(ident), key_columns(&key.columns)?)
            }
            TableConstraint::Unique(unique)
                if unique.include.is_empty() && unique.nulls_distinct != ast::NullsDistinctOption::NotDistinct =>
            {
                let columns = key_columns(&unique.columns)?;
                self.spec.unique.push(KeySpec { name: unique.name.as_ref().map(ident), columns });
                Ok(())
            }
            TableConstraint::Check(_) => Err(refused("a CHECK constraint", "Check values in the client.")),
            TableConstraint::ForeignKey(_) => Err(refused("a FOREIGN KEY constraint", "Check references in the client.")),
            other => Err(refused(format!("the constraint {other}"), "Tables have PRIMARY KEY, UNIQUE and NOT NULL.")),
        }
    }
}

impl Session {
    /// An error of the tables, with values where they are known.
    pub(super) fn told(&self, error: TablesError) -> SqlError {
        match &error {
            TablesError::Duplicate { table, duplicate } => duplicated(duplicate, table, &self.world),
            TablesError::Taken { table, duplicate: found } => match self.world.catalog.table(table) {
                Some(table) => duplicate(found, table, &self.world),
                None => error.into(),
            },
            _ => error.into(),
        }
    }

    /// CREATE TABLE, CREATE INDEX, ALTER TABLE: the tag.
    pub(super) async fn run_definition(&mut self, parsed: &Parsed, portal: &Portal) -> Result<&'static str, SqlError> {
        self.refresh_catalog().await?;
        match parsed {
            Parsed::CreateTable(create) => {
                self.refuse_read_only("CREATE TABLE")?;
                self.create_table(create).await
            }
            Parsed::CreateIndex(create) => {
                self.refuse_read_only("CREATE INDEX")?;
                self.create_index(create, portal).await
            }
            Parsed::AlterTable(alter) => {
                self.refuse_read_only("ALTER TABLE")?;
                self.alter_table(alter).await
            }
            _ => Err(SqlError::new("XX000", "a definition that is none")),
        }
    }

    async fn create_table(&mut self, create: &ast::CreateTable) -> Result<&'static str, SqlError> {
        let name = relation_name(&create.name)?;
        if create.temporary || create.query.is_some() || create.like.is_some() || create.inherits.is_some() || create.partition_by.is_some()
        {
            return Err(refused("a temporary, derived or partitioned table", "Use CREATE TABLE with columns, and INSERT .. SELECT."));
        }
        if create.if_not_exists && self.exists(&name).await? {
            self.notice(Severity::Notice, SqlError::new("42P07", format!("relation \"{name}\" already exists, skipping")));
            return Ok("CREATE TABLE");
        }
        let spec = TableSpec { name: name.clone(), columns: Vec::new(), key: None, unique: Vec::new() };
        let mut draft = Draft { spec, sequences: Vec::new() };
        for column in &create.columns {
            draft.column(column)?;
        }
        for constraint in &create.constraints {
            draft.constraint(constraint)?;
        }
        for column in &draft.spec.columns {
            // A default that can't be computed is refused now rather than at the first INSERT; that of a sequence to be made is known.
            if let Some(text) = column.default.as_ref().filter(|text| named_in(text).is_none()) {
                let parsed = parse::expression(text)?;
                bind::bind_constant(text, &parsed, column.ty.into(), &self.world).map_err(|mut error| {
                    error.position = None;
                    error
                })?;
            }
        }
        let tables = self.engine.shared.tables.clone();
        for sequence in &draft.sequences {
            self.make_sequence(sequence, 1, 1).await?;
        }
        let txn = self.transaction();
        txn.begin_statement();
        let made = tables.create_table(txn, draft.spec).await;
        made.map_err(|error| self.told(error))?;
        self.over();
        Ok("CREATE TABLE")
    }

    fn over(&mut self) {
        if let Some(txn) = &mut self.txn {
            txn.end_statement();
        }
    }

    async fn exists(&mut self, name: &str) -> Result<bool, SqlError> {
        let tables = self.engine.shared.tables.clone();
        Ok(tables.relation(self.transaction(), name).await?.is_some())
    }

    /// A sequence that begins at `start`.
    async fn make_sequence(&mut self, name: &str, start: i64, increment: i64) -> Result<(), SqlError> {
        let column = |name: &str| {
            let ty = if name == "is_called" { Type::Bool } else { Type::Int8 };
            Column { name: name.to_string(), ty, not_null: true, default: None }
        };
        let columns = sequence::COLUMNS.iter().map(|name| column(name)).collect();
        let spec = TableSpec { name: name.to_string(), columns, key: None, unique: Vec::new() };
        let tables = self.engine.shared.tables.clone();
        let txn = self.transaction();
        txn.begin_statement();
        let table = tables.create_table(txn, spec).await?;
        match tables.insert(txn, &table, &first_row(start, increment)).await? {
            Added::Done(_) => Ok(()),
            Added::Duplicate(_) => Err(SqlError::new("XX000", format!("sequence \"{name}\" has a row already"))),
        }
    }

    async fn create_index(&mut self, create: &ast::CreateIndex, _portal: &Portal) -> Result<&'static str, SqlError> {
        if create.using.as_ref().is_some_and(|using| !matches!(using, ast::IndexType::BTree)) {
            return Err(refused("this kind of index", "All indexes are B-trees: leave USING out."));
        }
        if create.predicate.is_some() || !create.include.is_empty() || create.nulls_distinct == Some(false) {
            return Err(refused("a partial or covering index, or NULLS NOT DISTINCT", "Index the columns of all rows."));
        }
        let name = create.name.as_ref().map(relation_name).transpose()?;
        if let Some(name) = name.as_ref().filter(|_| create.if_not_exists)
            && self.exists(name).await?
        {
            self.notice(Severity::Notice, SqlError::new("42P07", format!("relation \"{name}\" already exists, skipping")));
            return Ok("CREATE INDEX");
        }
        let table = relation_name(&create.table_name)?;
        let spec = IndexSpec { name, table, columns: key_columns(&create.columns)?, unique: create.unique };
        let tables = self.engine.shared.tables.clone();
        if create.concurrently {
            if self.status() != super::TransactionStatus::Idle {
                return Err(SqlError::new("25001", "CREATE INDEX CONCURRENTLY cannot run inside a transaction block"));
            }
            // It runs in transactions of its own, and would wait for this one.
            self.commit().await?;
            let interrupt = self.world.client.interrupt.clone();
            tables.create_index_online(&spec, &interrupt).await.map_err(|error| self.told(error))?;
            return Ok("CREATE INDEX");
        }
        let txn = self.transaction();
        txn.begin_statement();
        let made = tables.create_index(txn, &spec).await;
        made.map_err(|error| self.told(error))?;
        self.over();
        Ok("CREATE INDEX")
    }

    async fn alter_table(&mut self, alter: &ast::AlterTable) -> Result<&'static str, SqlError> {
        let name = relation_name(&alter.name)?;
        if alter.if_exists && !self.exists(&name).await? {
            self.notice(Severity::Notice, SqlError::new("00000", format!("relation \"{name}\" does not exist, skipping")));
            return Ok("ALTER TABLE");
        }
        let tables = self.engine.shared.tables.clone();
        for operation in &alter.operations {
            match operation {
                ast::AlterTableOperation::AddConstraint { constraint: TableConstraint::PrimaryKey(key), .. } if key.include.is_empty() => {
                    let spec = KeySpec { name: key.name.as_ref().map(ident), columns: key_columns(&key.columns)? };
                    let txn = self.transaction();
                    txn.begin_statement();
                    let made = tables.add_primary_key(txn, &name, &spec).await;
                    made.map_err(|error| self.told(error))?;
                }
                ast::AlterTableOperation::AddConstraint { constraint: TableConstraint::Unique(unique), .. }
                    if unique.include.is_empty() =>
                {
                    let columns = key_columns(&unique.columns)?;
                    let named = unique.name.as_ref().map(ident).unwrap_or_else(|| format!("{name}_{}_key", columns.join("_")));
                    let spec = IndexSpec { name: Some(named), table: name.clone(), columns, unique: true };
                    let txn = self.transaction();
                    txn.begin_statement();
                    let made = tables.create_index(txn, &spec).await;
                    made.map_err(|error| self.told(error))?;
                }
                ast::AlterTableOperation::OwnerTo { .. } => {}
                other => {
                    return Err(refused(format!("ALTER TABLE {other}"), "Make a new table, and copy the rows with INSERT .. SELECT."));
                }
            }
        }
        self.over();
        Ok("ALTER TABLE")
    }

    /// DROP, TRUNCATE, REINDEX, CREATE SEQUENCE: the tag.
    pub(super) async fn run_definition_utility(&mut self, utility: &Utility) -> Result<&'static str, SqlError> {
        self.refresh_catalog().await?;
        match utility {
            Utility::Drop { what, names, if_exists } => {
                self.refuse_read_only("DROP")?;
                for name in names {
                    self.drop_one(*what, name, *if_exists).await?;
                }
                self.over();
                Ok(match what {
                    Dropped::Table => "DROP TABLE",
                    Dropped::Index => "DROP INDEX",
                    Dropped::Sequence => "DROP SEQUENCE",
                })
            }
            Utility::Truncate { tables, restart } => {
                self.refuse_read_only("TRUNCATE TABLE")?;
                for name in tables {
                    self.truncate(name, *restart).await?;
                }
                self.over();
                Ok("TRUNCATE TABLE")
            }
            Utility::ReindexIndex(name) => {
                self.reindex(Some(name), None).await?;
                Ok("REINDEX")
            }
            Utility::ReindexTable(name) => {
                self.reindex(None, Some(name)).await?;
                Ok("REINDEX")
            }
            Utility::ReindexAll => {
                let names: Vec<String> = self.world.catalog.tables.iter().map(|table| table.name.clone()).collect();
                for name in names {
                    self.reindex(None, Some(&name)).await?;
                }
                Ok("REINDEX")
            }
            Utility::CreateSequence { name, if_not_exists, start, increment } => {
                self.refuse_read_only("CREATE SEQUENCE")?;
                if *if_not_exists && self.exists(name).await? {
                    self.notice(Severity::Notice, SqlError::new("42P07", format!("relation \"{name}\" already exists, skipping")));
                    return Ok("CREATE SEQUENCE");
                }
                self.make_sequence(name, *start, *increment).await?;
                self.over();
                Ok("CREATE SEQUENCE")
            }
            other => Err(SqlError::new("XX000", format!("a statement that nobody runs: {other:?}"))),
        }
    }

    async fn reindex(&mut self, index: Option<&str>, table: Option<&str>) -> Result<(), SqlError> {
        self.refuse_read_only("REINDEX")?;
        let tables = self.engine.shared.tables.clone();
        let txn = self.transaction();
        txn.begin_statement();
        let done = match (index, table) {
            (Some(index), _) => tables.reindex(txn, index).await,
            (None, Some(table)) => tables.reindex_table(txn, table).await,
            (None, None) => Ok(()),
        };
        let done = match done {
            // A primary key is the table's own order: there is nothing apart from it to build.
            Err(TablesError::IsPrimaryKey { .. }) => Ok(()),
            done => done,
        };
        done.map_err(|error| self.told(error))?;
        self.over();
        Ok(())
    }

    async fn drop_one(&mut self, what: Dropped, name: &str, if_exists: bool) -> Result<(), SqlError> {
        let tables = self.engine.shared.tables.clone();
        let found = tables.relation(self.transaction(), name).await?;
        let kind = match what {
            Dropped::Table => "table",
            Dropped::Index => "index",
            Dropped::Sequence => "sequence",
        };
        let wrong = || SqlError::new("42809", format!("\"{name}\" is not a{} {kind}", if what == Dropped::Index { "n" } else { "" }));
        match (found, what) {
            (None, _) if if_exists => {
                self.notice(Severity::Notice, SqlError::new("00000", format!("{kind} \"{name}\" does not exist, skipping")));
                Ok(())
            }
            (None, Dropped::Table) => Err(SqlError::new("42P01", format!("table \"{name}\" does not exist"))),
            (None, Dropped::Sequence) => Err(SqlError::new("42P01", format!("sequence \"{name}\" does not exist"))),
            (None, Dropped::Index) => Err(SqlError::new("42704", format!("index \"{name}\" does not exist"))),
            (Some(Relation::Table(table)), Dropped::Table) if !is_sequence(&table) => self.drop_table(&table).await,
            (Some(Relation::Table(table)), Dropped::Sequence) if is_sequence(&table) => {
                let user = self.world.catalog.tables.iter().find(|other| sequences_of(other).iter().any(|used| used == name));
                if let Some(user) = user {
                    let message = format!("cannot drop sequence {name} because other objects depend on it");
                    return Err(SqlError::new("2BP01", message).detail(format!("A default of table {} takes numbers from it.", user.name)));
                }
                let id = table.id;
                let txn = self.transaction();
                txn.begin_statement();
                tables.drop_table(txn, name).await?;
                self.world.sequences.forget(id);
                Ok(())
            }
            (Some(Relation::Index(..)), Dropped::Index) => {
                let txn = self.transaction();
                txn.begin_statement();
                Ok(tables.drop_index(txn, name).await?)
            }
            (Some(Relation::PrimaryKey(table)), Dropped::Index) => {
                let message = format!("cannot drop index {name} because constraint {name} on table {} requires it", table.name);
                Err(SqlError::new("2BP01", message))
            }
            _ => Err(wrong()),
        }
    }

    async fn drop_table(&mut self, table: &Table) -> Result<(), SqlError> {
        let (tables, sequences) = (self.engine.shared.tables.clone(), self.engine.shared.sequences.clone());
        let txn = self.transaction();
        txn.begin_statement();
        tables.drop_table(txn, &table.name).await?;
        for sequence in sequences_of(table) {
            if let Some(Relation::Table(found)) = tables.relation(txn, &sequence).await? {
                tables.drop_table(txn, &found.name).await?;
                sequences.forget(found.id);
            }
        }
        Ok(())
    }

    async fn truncate(&mut self, name: &str, restart: bool) -> Result<(), SqlError> {
        let (tables, sequences) = (self.engine.shared.tables.clone(), self.engine.shared.sequences.clone());
        let txn = self.transaction();
        txn.begin_statement();
        let table = tables.truncate(txn, name).await?;
        if restart {
            for sequence in sequences_of(&table) {
                if let Some(Relation::Table(found)) = tables.relation(txn, &sequence).await? {
                    let emptied = tables.truncate(txn, &found.name).await?;
                    tables.insert(txn, &emptied, &first_row(1, 1)).await?;
                    sequences.forget(found.id);
                }
            }
        }
        Ok(())
    }
}

/// Sequences that belong to a table's columns.
fn sequences_of(table: &Table) -> Vec<String> {
    let own = |column: &Column| {
        let name = column.default.as_deref().and_then(named_in)?;
        (name == format!("{}_{}_seq", table.name, column.name)).then(|| name.to_string())
    };
    table.columns.iter().filter_map(own).collect()
}
