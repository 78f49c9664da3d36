//! Why an operation on tables failed, with the SQLSTATE that a client is told.

use crate::base::TreeId;
use crate::table::TableError;
use crate::table::datum::{CodecError, Datum};
use crate::table::rows::RowError;

/// Two rows would have the same values in a unique index or primary key.
#[derive(Clone, PartialEq, Debug)]
pub struct Duplicate {
    /// The index or constraint.
    pub constraint: String,
    /// Names of its columns.
    pub columns: Vec<String>,
    /// The values that both rows have.
    pub values: Vec<Datum>,
    /// Key of the row that is there already, in the table's tree.
    pub key: Vec<u8>,
    /// That row, newest version, when the conflict is in the primary key.
    pub row: Option<crate::table::rows::Row>,
}

/// Why an operation on tables failed. Unless said otherwise the transaction can go on after rolling back to a savepoint.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TablesError {
    /// The rows below.
    #[error(transparent)]
    Row(#[from] RowError),
    /// No such table.
    #[error("relation \"{name}\" does not exist")]
    UndefinedTable {
        /// As asked for.
        name: String,
    },
    /// It is there, but it is an index.
    #[error("\"{name}\" is not a table")]
    NotATable {
        /// As asked for.
        name: String,
    },
    /// No such index.
    #[error("index \"{name}\" does not exist")]
    UndefinedIndex {
        /// As asked for.
        name: String,
    },
    /// The name is taken, by a table or an index.
    #[error("relation \"{name}\" already exists")]
    DuplicateRelation {
        /// The name.
        name: String,
    },
    /// A column is named twice.
    #[error("column \"{name}\" specified more than once")]
    DuplicateColumn {
        /// The name.
        name: String,
    },
    /// No such column.
    #[error("column \"{column}\" of relation \"{table}\" does not exist")]
    UndefinedColumn {
        /// The table.
        table: String,
        /// As asked for.
        column: String,
    },
    /// It has a primary key already.
    #[error("multiple primary keys for table \"{table}\" are not allowed")]
    SecondPrimaryKey {
        /// The table.
        table: String,
    },
    /// The index of a primary key can't be dropped or rebuilt apart from its table.
    #[error("\"{name}\" is the primary key of table \"{table}\", which is the table's own order")]
    IsPrimaryKey {
        /// The constraint.
        name: String,
        /// The table.
        table: String,
    },
    /// Rows were asked for by a key that the table doesn't have.
    #[error("table \"{table}\" has no primary key")]
    NoPrimaryKey {
        /// The table.
        table: String,
    },
    /// Rows were asked for by a key of other columns.
    #[error("{found} values for the primary key of table \"{table}\", which has {expected} columns")]
    KeyColumns {
        /// The table.
        table: String,
        /// Columns of its key.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// A definition is over a limit.
    #[error("{what}: {found}, {most} at most")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// A null where none may be.
    #[error("null value in column \"{column}\" of relation \"{table}\" violates not-null constraint")]
    NotNull {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A column of a new primary key has nulls.
    #[error("column \"{column}\" of relation \"{table}\" contains null values")]
    ContainsNull {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// While loading: another row has the same values.
    #[error("duplicate key value violates unique constraint \"{}\"", duplicate.constraint)]
    Taken {
        /// The table.
        table: String,
        /// What and where.
        duplicate: Box<Duplicate>,
    },
    /// While building an index or a key: two rows with the same values.
    #[error("could not create unique index \"{}\": ({}) occurs twice", duplicate.constraint, duplicate.columns.join(", "))]
    Duplicate {
        /// The table.
        table: String,
        /// What and where.
        duplicate: Box<Duplicate>,
    },
    /// A row that doesn't fit.
    #[error("row is too big for table \"{table}\": {bytes} bytes with its key, at most {most}")]
    RowTooLarge {
        /// The table.
        table: String,
        /// Key and value, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        most: usize,
    },
    /// An index entry that doesn't fit.
    #[error("index row is too big for index \"{index}\": {bytes} bytes, at most {most}")]
    EntryTooLarge {
        /// The index.
        index: String,
        /// Key and value, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        most: usize,
    },
    /// A definition that doesn't fit into the catalog.
    #[error("the definition of \"{name}\" is too long: {bytes} bytes, at most {most}")]
    DefinitionTooLarge {
        /// Of what.
        name: String,
        /// In bytes.
        bytes: usize,
        /// The limit, in bytes.
        most: usize,
    },
    /// Stored bytes that are no row or key of their table.
    #[error("table \"{table}\": {error}; the structure check tells more")]
    Codec {
        /// The table.
        table: String,
        /// What is wrong.
        error: CodecError,
    },
    /// A row of the catalog that can't be read.
    #[error("damaged catalog entry {key}: {reason}")]
    Catalog {
        /// Its key, in hexadecimal.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// An index that doesn't fit its table.
    #[error("index \"{index}\" does not agree with table \"{table}\": {what}; REINDEX mends it")]
    IndexDisagrees {
        /// The table.
        table: String,
        /// The index.
        index: String,
        /// How so.
        what: &'static str,
    },
    /// What rebuilds a table or index needs to see all rows, which an old snapshot doesn't.
    #[error("{what} cannot run in a repeatable read transaction")]
    NeedsReadCommitted {
        /// The command.
        what: &'static str,
    },
    /// The table was rebuilt after the transaction's snapshot was taken.
    #[error("could not serialize access: {tree}, which the snapshot needs, has been dropped since")]
    TableReplaced {
        /// The tree that is gone.
        tree: TreeId,
    },
}

impl TablesError {
    /// What PostgreSQL calls it.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            TablesError::Row(error) => row_sqlstate(error),
            TablesError::UndefinedTable { .. } => "42P01",
            TablesError::NotATable { .. } | TablesError::IsPrimaryKey { .. } => "42809",
            TablesError::UndefinedIndex { .. } | TablesError::NoPrimaryKey { .. } => "42704",
            TablesError::KeyColumns { .. } => "42601",
            TablesError::DuplicateRelation { .. } => "42P07",
            TablesError::DuplicateColumn { .. } => "42701",
            TablesError::UndefinedColumn { .. } => "42703",
            TablesError::SecondPrimaryKey { .. } => "42P16",
            TablesError::TooMany { .. } => "54011",
            TablesError::NotNull { .. } | TablesError::ContainsNull { .. } => "23502",
            TablesError::Duplicate { .. } | TablesError::Taken { .. } => "23505",
            TablesError::RowTooLarge { .. } | TablesError::EntryTooLarge { .. } | TablesError::DefinitionTooLarge { .. } => "54000",
            TablesError::Codec { error: CodecError::Mismatch { .. } | CodecError::Scale { .. }, .. } => "XX000",
            TablesError::Codec { .. } | TablesError::Catalog { .. } => "XX001",
            TablesError::IndexDisagrees { .. } => "XX002",
            TablesError::NeedsReadCommitted { .. } => "25001",
            TablesError::TableReplaced { .. } => "40001",
        }
    }

    /// `error` of `table`'s bytes.
    pub(in crate::table) fn codec(table: &crate::table::catalog::Table, error: CodecError) -> TablesError {
        TablesError::Codec { table: table.name.clone(), error }
    }
}

fn row_sqlstate(error: &RowError) -> &'static str {
    match error {
        RowError::Table(TableError::Full { .. }) => "53100",
        RowError::Table(TableError::KeyTooLong { .. } | TableError::ValueTooLarge { .. }) => "54000",
        RowError::Table(TableError::Damaged { .. } | TableError::UnknownTree { .. }) => "XX001",
        RowError::Table(TableError::Cache(_)) => "58030",
        RowError::Table(_) => "XX000",
        RowError::Serialization => "40001",
        RowError::Deadlock { .. } => "40P01",
        RowError::Cancelled => "57014",
        RowError::LockNotAvailable | RowError::HeldElsewhere { .. } => "55P03",
        RowError::SnapshotTooOld => "72000",
        RowError::TooManyTransactions { .. } => "53300",
        RowError::RowTooLarge { .. } => "54000",
        RowError::Damaged { .. } | RowError::Slot { .. } => "XX001",
        RowError::Foreign { .. } | RowError::RollbackMismatch { .. } => "XX001",
        RowError::NotPrivate { .. } => "XX000",
    }
}
