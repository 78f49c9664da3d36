//! Text to syntax: what kind of statement it is, and its parts.
//!
//! Queries, INSERT, UPDATE, DELETE and CREATE are read by crate sqlparser; what steers transactions, sessions and maintenance, and COPY, is
//! read here ([`utility`]), as sqlparser takes it otherwise than PostgreSQL does or not at all. Nothing here knows which tables there are.
//! Caller: `session`.

mod tokens;
mod utility;

pub(super) use utility::serializable;

use sqlparser::ast;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, TokenizerError};

use super::error::SqlError;
use crate::txn::{Isolation, TableLock};
use tokens::{Tokens, name_of, position};

/// A statement's syntax.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// SELECT, VALUES, TABLE, with all around them.
    Query(Box<ast::Query>),
    /// INSERT.
    Insert(Box<ast::Insert>),
    /// UPDATE.
    Update(Box<ast::Update>),
    /// DELETE.
    Delete(Box<ast::Delete>),
    /// CREATE TABLE.
    CreateTable(Box<ast::CreateTable>),
    /// CREATE INDEX.
    CreateIndex(Box<ast::CreateIndex>),
    /// ALTER TABLE.
    AlterTable(Box<ast::AlterTable>),
    /// Everything else.
    Utility(Utility),
}

/// BEGIN's and SET TRANSACTION's choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Modes {
    /// The isolation level.
    pub isolation: Option<Isolation>,
    /// Whether writes are refused.
    pub read_only: Option<bool>,
}

/// What a setting is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetTo {
    /// This.
    Value(String),
    /// What it was when the session began.
    Default,
}

/// Where COPY takes rows from or puts them.
#[derive(Clone, Debug, PartialEq)]
pub struct Copy {
    /// The table; for COPY TO it may be a query instead.
    pub table: Option<String>,
    /// The query of `COPY (query) TO`.
    pub query: Option<Box<ast::Query>>,
    /// The columns named.
    pub columns: Vec<String>,
    /// FROM STDIN, or else TO STDOUT.
    pub from: bool,
    /// CSV rather than text.
    pub csv: bool,
    /// Between columns.
    pub delimiter: Option<char>,
    /// What stands for null.
    pub null: Option<String>,
    /// Whether a line of names comes first.
    pub header: bool,
    /// CSV's quote.
    pub quote: Option<char>,
    /// CSV's escape.
    pub escape: Option<char>,
    /// Rows are to be visible to everyone at once.
    pub freeze: bool,
}

/// What DROP drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Tables.
    Table,
    /// Indexes.
    Index,
    /// Sequences.
    Sequence,
}

/// Statements without expressions.
#[derive(Clone, Debug, PartialEq)]
pub enum Utility {
    /// Nothing at all.
    Empty,
    /// BEGIN; `start`: as START TRANSACTION.
    Begin { modes: Modes, start: bool },
    /// COMMIT, END; with `AND CHAIN`.
    Commit { chain: bool },
    /// ROLLBACK, ABORT.
    Rollback { chain: bool },
    /// SAVEPOINT.
    Savepoint(String),
    /// RELEASE.
    Release(String),
    /// ROLLBACK TO.
    RollbackTo(String),
    /// SET TRANSACTION.
    SetTransaction(Modes),
    /// SET SESSION CHARACTERISTICS AS TRANSACTION.
    SetCharacteristics(Modes),
    /// SET.
    Set { local: bool, name: String, to: SetTo },
    /// SHOW.
    Show(String),
    /// SHOW ALL.
    ShowAll,
    /// RESET.
    Reset(String),
    /// RESET ALL.
    ResetAll,
    /// COPY.
    Copy(Box<Copy>),
    /// TRUNCATE.
    Truncate { tables: Vec<String>, restart: bool },
    /// DROP TABLE, INDEX, SEQUENCE.
    Drop { what: Dropped, names: Vec<String>, if_exists: bool },
    /// REINDEX INDEX.
    ReindexIndex(String),
    /// REINDEX TABLE.
    ReindexTable(String),
    /// REINDEX DATABASE, SCHEMA.
    ReindexAll,
    /// VACUUM.
    Vacuum { tables: Vec<String> },
    /// ANALYZE.
    Analyze { tables: Vec<String> },
    /// CHECKPOINT.
    Checkpoint,
    /// EXPLAIN.
    Explain { analyze: bool, statement: Box<Parsed> },
    /// DISCARD ALL.
    DiscardAll,
    /// DISCARD of what there is none of: PLANS, SEQUENCES, TEMP.
    DiscardNothing(&'static str),
    /// DEALLOCATE; `None`: all.
    Deallocate(Option<String>),
    /// LOCK TABLE.
    Lock { tables: Vec<String>, mode: TableLock, nowait: bool },
    /// PREPARE.
    Prepare { name: String, types: Vec<ast::DataType>, statement: Box<Parsed> },
    /// EXECUTE.
    Execute { name: String, arguments: Vec<ast::Expr> },
    /// UNLISTEN: nobody listens, as LISTEN is refused.
    Unlisten,
    /// CREATE SEQUENCE.
    CreateSequence { name: String, if_not_exists: bool, start: i64, increment: i64 },
}

impl Utility {
    /// Whether it may run in a failed transaction block.
    pub fn ends_transaction(&self) -> bool {
        matches!(self, Utility::Commit { .. } | Utility::Rollback { .. } | Utility::RollbackTo(_))
    }
}

/// The statements of `sql`, in order. Empty ones are left out; a text without any gives none.
///
/// # Errors
/// 42601, with the position of what is wrong.
pub fn statements(sql: &str) -> Result<Vec<Parsed>, SqlError> {
    let dialect = PostgreSqlDialect {};
    let all = Tokenizer::new(&dialect, sql).tokenize_with_location().map_err(|error| unreadable(sql, &error))?;
    let mut found = Vec::new();
    for part in all.split(|token| token.token == Token::SemiColon) {
        let significant = part.iter().any(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF));
        if significant {
            found.push(statement(sql, part)?);
        }
    }
    Ok(found)
}

/// The one statement of `sql`; [`Utility::Empty`] when there is none.
///
/// # Errors
/// 42601: it can't be read, or there are several.
pub fn single(sql: &str) -> Result<Parsed, SqlError> {
    let mut all = statements(sql)?;
    if all.len() > 1 {
        return Err(SqlError::new("42601", "cannot insert multiple commands into a prepared statement"));
    }
    Ok(all.pop().unwrap_or(Parsed::Utility(Utility::Empty)))
}

/// An expression on its own: a column's default as the catalog keeps it.
///
/// # Errors
/// 42601.
pub fn expression(sql: &str) -> Result<ast::Expr, SqlError> {
    let dialect = PostgreSqlDialect {};
    let tokens = Tokenizer::new(&dialect, sql).tokenize_with_location().map_err(|error| unreadable(sql, &error))?;
    let mut parser = Parser::new(&dialect).with_tokens_with_locations(tokens);
    let expr = parser.parse_expr().map_err(|error| wrong(sql, &[], &error))?;
    finished(sql, &mut parser)?;
    Ok(expr)
}

/// Most operators of a statement that make its syntax deeper. What the parser makes of a chain leans to the left, and is freed by
/// recursion.
const CHAIN_MAX: usize = 5000;

fn statement(sql: &str, tokens: &[TokenWithSpan]) -> Result<Parsed, SqlError> {
    let deepens = |token: &&TokenWithSpan| match &token.token {
        Token::Word(word) => matches!(word.keyword, Keyword::AND | Keyword::OR | Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT),
        Token::StringConcat | Token::Plus | Token::DoubleColon | Token::Div => true,
        _ => false,
    };
    if tokens.len() > CHAIN_MAX && tokens.iter().filter(deepens).count() > CHAIN_MAX {
        let hint = format!("A statement may have {CHAIN_MAX} operators; use = ANY(..) of an array, or several statements.");
        return Err(SqlError::new("54001", "stack depth limit exceeded").hint(hint));
    }
    let mut cursor = Tokens::new(sql, tokens);
    if let Some(utility) = utility::parse(&mut cursor)? {
        return Ok(Parsed::Utility(utility));
    }
    by_crate(sql, tokens)
}

fn by_crate(sql: &str, tokens: &[TokenWithSpan]) -> Result<Parsed, SqlError> {
    let dialect = PostgreSqlDialect {};
    let mut parser = Parser::new(&dialect).with_tokens_with_locations(tokens.to_vec());
    let parsed = parser.parse_statement().map_err(|error| wrong(sql, tokens, &error))?;
    finished(sql, &mut parser)?;
    Ok(match parsed {
        ast::Statement::Query(query) => Parsed::Query(query),
        ast::Statement::Insert(insert) => Parsed::Insert(Box::new(insert)),
        ast::Statement::Update(update) => Parsed::Update(Box::new(update)),
        ast::Statement::Delete(delete) => Parsed::Delete(Box::new(delete)),
        ast::Statement::CreateTable(table) => Parsed::CreateTable(Box::new(table)),
        ast::Statement::CreateIndex(index) => Parsed::CreateIndex(Box::new(index)),
        ast::Statement::AlterTable(table) => Parsed::AlterTable(Box::new(table)),
        _ => {
            let words: Vec<&str> = sql_words(tokens).take(2).collect();
            return Err(SqlError::unsupported(words.join(" ").to_uppercase(), "Regroup has tables, indexes and queries over them only."));
        }
    })
}

fn sql_words(tokens: &[TokenWithSpan]) -> impl Iterator<Item = &str> {
    tokens.iter().filter_map(|token| match &token.token {
        Token::Word(word) => Some(word.value.as_str()),
        _ => None,
    })
}

/// The parser has read everything.
fn finished(sql: &str, parser: &mut Parser<'_>) -> Result<(), SqlError> {
    let next = parser.peek_token();
    match next.token {
        Token::EOF => Ok(()),
        _ => Err(near(sql, &next)),
    }
}

/// `syntax error at or near` that token.
fn near(sql: &str, token: &TokenWithSpan) -> SqlError {
    let at = position(sql, token.span.start);
    match token.token {
        Token::EOF => SqlError::new("42601", "syntax error at end of input").at(sql.chars().count() + 1),
        _ => SqlError::new("42601", format!("syntax error at or near \"{}\"", name_of(sql, token))).at(at),
    }
}

/// What PostgreSQL would say of text that has no tokens.
fn unreadable(sql: &str, error: &TokenizerError) -> SqlError {
    let at = position(sql, error.location);
    let rest: String = sql.chars().skip(at.saturating_sub(1)).collect();
    let what = if error.message.contains("string literal") {
        format!("unterminated quoted string at or near \"{rest}\"")
    } else if error.message.contains("comment") {
        format!("unterminated /* comment at or near \"{rest}\"")
    } else if error.message.contains("delimiter") {
        format!("unterminated quoted identifier at or near \"{rest}\"")
    } else {
        format!("syntax error: {}", error.message)
    };
    SqlError::new("42601", what).at(at)
}

/// What PostgreSQL would say where sqlparser says `error`: its message ends with the place.
fn wrong(sql: &str, tokens: &[TokenWithSpan], error: &ParserError) -> SqlError {
    let text = match error {
        ParserError::ParserError(text) | ParserError::TokenizerError(text) => text.as_str(),
        ParserError::RecursionLimitExceeded => {
            return SqlError::new("54001", "stack depth limit exceeded").hint("The statement's expressions are nested too deeply.");
        }
    };
    let Some((_, place)) = text.rsplit_once(" at Line: ") else {
        return match text.contains("found: EOF") {
            true => SqlError::new("42601", "syntax error at end of input").at(sql.chars().count() + 1),
            false => SqlError::new("42601", format!("syntax error: {text}")),
        };
    };
    let mut numbers = place.split(", Column: ").map(|number| number.trim().parse::<u64>());
    let (Some(Ok(line)), Some(Ok(column))) = (numbers.next(), numbers.next()) else {
        return SqlError::new("42601", format!("syntax error: {text}"));
    };
    let found = tokens.iter().find(|token| token.span.start.line == line && token.span.start.column == column);
    match found {
        Some(token) => near(sql, token),
        None => SqlError::new("42601", format!("syntax error: {text}")),
    }
}

/// Where a span begins, in characters from 1; nothing for an empty one.
pub fn place(sql: &str, span: sqlparser::tokenizer::Span) -> Option<usize> {
    (span.start.line > 0).then(|| position(sql, span.start))
}
