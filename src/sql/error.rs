//! What a client is told when a statement fails: PostgreSQL's error fields.
//!
//! Everyone in `sql` uses it. The codes are PostgreSQL 15's SQLSTATEs; drivers decide by them whether to try again.

use std::fmt;

/// An error or, as a [`Notice`], a remark, in PostgreSQL's terms. Its fields are in a box: nearly every function here returns
/// `Result<_, SqlError>`, and results are moved for every value of every row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SqlError(Box<Fields>);

/// What an error says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fields {
    /// SQLSTATE: five characters.
    pub code: &'static str,
    /// The primary message: one line, no full stop.
    pub message: String,
    /// More of what happened.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where in the statement's text, in characters from 1.
    pub position: Option<usize>,
    /// The constraint that was violated.
    pub constraint: Option<String>,
    /// The table it is about.
    pub table: Option<String>,
    /// The column it is about.
    pub column: Option<String>,
}

impl std::ops::Deref for SqlError {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.0
    }
}

impl std::ops::DerefMut for SqlError {
    fn deref_mut(&mut self) -> &mut Fields {
        &mut self.0
    }
}

impl SqlError {
    /// An error with that SQLSTATE and message.
    pub fn new(code: &'static str, message: impl Into<String>) -> SqlError {
        let message = message.into();
        SqlError(Box::new(Fields { code, message, detail: None, hint: None, position: None, constraint: None, table: None, column: None }))
    }

    /// 0A000: what Regroup doesn't do, with a hint at what to do instead.
    pub fn unsupported(what: impl fmt::Display, hint: impl Into<String>) -> SqlError {
        let what = what.to_string();
        let several = what.ends_with('s') && !what.ends_with("ss") && what.starts_with(|c: char| c.is_ascii_lowercase());
        SqlError::new("0A000", format!("{what} {} not supported", if several { "are" } else { "is" })).hint(hint)
    }

    /// With a detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> SqlError {
        self.detail = Some(detail.into());
        self
    }

    /// With a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> SqlError {
        self.hint = Some(hint.into());
        self
    }

    /// With a position in the statement's text, in characters from 1.
    #[must_use]
    pub fn at(mut self, position: usize) -> SqlError {
        self.position = Some(position);
        self
    }

    /// With the constraint, and its table, that was violated.
    #[must_use]
    pub fn constraint(mut self, constraint: impl Into<String>, table: impl Into<String>) -> SqlError {
        self.constraint = Some(constraint.into());
        self.table = Some(table.into());
        self
    }

    /// With the column of the table that it is about.
    #[must_use]
    pub fn column(mut self, column: impl Into<String>, table: impl Into<String>) -> SqlError {
        self.column = Some(column.into());
        self.table = Some(table.into());
        self
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for SqlError {}

/// How important a [`Notice`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// NOTICE.
    Notice,
    /// WARNING.
    Warning,
}

/// A remark to the client that is no error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// How important it is.
    pub severity: Severity,
    /// What it says; its code is 00000 or a warning's.
    pub what: SqlError,
}
