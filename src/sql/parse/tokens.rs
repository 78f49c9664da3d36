//! A cursor over a statement's tokens, for statements that are read by hand.

use sqlparser::ast;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use super::{Parsed, SqlError, near, statement, wrong};

/// Tokens from a place on; blanks and comments are passed over.
pub(super) struct Tokens<'a> {
    sql: &'a str,
    tokens: &'a [TokenWithSpan],
    next: usize,
}

/// Character position, from 1, of a line and column.
pub(super) fn position(sql: &str, at: Location) -> usize {
    if at.line == 0 {
        return 1;
    }
    let before: usize = sql.split_inclusive('\n').take(at.line as usize - 1).map(|line| line.chars().count()).sum();
    before + (at.column as usize).max(1)
}

/// The token as it stands in the text.
pub(super) fn name_of(sql: &str, token: &TokenWithSpan) -> String {
    let (from, to) = (position(sql, token.span.start) - 1, position(sql, token.span.end) - 1);
    match to > from {
        true => sql.chars().skip(from).take(to - from).collect(),
        false => token.token.to_string(),
    }
}

/// A name as PostgreSQL folds it.
pub(super) fn folded(value: &str, quoted: bool) -> String {
    if quoted { value.to_string() } else { value.to_lowercase() }
}

impl<'a> Tokens<'a> {
    pub(super) fn new(sql: &'a str, tokens: &'a [TokenWithSpan]) -> Tokens<'a> {
        Tokens { sql, tokens, next: 0 }
    }

    fn skip_blanks(&mut self) {
        while self.tokens.get(self.next).is_some_and(|token| matches!(token.token, Token::Whitespace(_))) {
            self.next += 1;
        }
    }

    /// The next token, if any.
    pub(super) fn peek(&mut self) -> Option<&'a Token> {
        self.skip_blanks();
        self.tokens.get(self.next).map(|token| &token.token).filter(|token| **token != Token::EOF)
    }

    pub(super) fn advance(&mut self) {
        self.skip_blanks();
        self.next += 1;
    }

    /// Takes the next token if it is the unquoted word `word`.
    pub(super) fn word(&mut self, word: &str) -> bool {
        let matches =
            matches!(self.peek(), Some(Token::Word(found)) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word));
        if matches {
            self.advance();
        }
        matches
    }

    /// Takes one of `words`.
    pub(super) fn any_word(&mut self, words: &[&str]) -> bool {
        words.iter().any(|word| self.word(word))
    }

    /// Takes `word` or fails.
    pub(super) fn expect(&mut self, word: &str) -> Result<(), SqlError> {
        if self.word(word) { Ok(()) } else { Err(self.error()) }
    }

    /// Takes the next token if it is that one.
    pub(super) fn symbol(&mut self, symbol: &Token) -> bool {
        let matches = self.peek() == Some(symbol);
        if matches {
            self.advance();
        }
        matches
    }

    pub(super) fn expect_symbol(&mut self, symbol: &Token) -> Result<(), SqlError> {
        if self.symbol(symbol) { Ok(()) } else { Err(self.error()) }
    }

    /// A name; unquoted ones come in lower case.
    pub(super) fn name(&mut self) -> Result<String, SqlError> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.advance();
                Ok(folded(&word.value, word.quote_style.is_some()))
            }
            _ => Err(self.error()),
        }
    }

    /// The name of a table or index, possibly with schema `public` or the catalog's before it, which is kept.
    pub(super) fn relation(&mut self) -> Result<String, SqlError> {
        let mut name = self.name()?;
        while self.symbol(&Token::Period) {
            let last = self.name()?;
            name = match name.as_str() {
                "public" => last,
                _ => format!("{name}.{last}"),
            };
        }
        Ok(name)
    }

    /// Names with commas between.
    pub(super) fn relations(&mut self) -> Result<Vec<String>, SqlError> {
        let mut names = Vec::new();
        loop {
            self.word("only");
            names.push(self.relation()?);
            self.symbol(&Token::Mul);
            if !self.symbol(&Token::Comma) {
                return Ok(names);
            }
        }
    }

    /// A value as SET, COPY's options and the like take it: a string, number or word.
    pub(super) fn value(&mut self) -> Result<String, SqlError> {
        let minus = self.symbol(&Token::Minus);
        let found = match self.peek() {
            Some(Token::Word(word)) if !minus => folded(&word.value, word.quote_style.is_some()),
            Some(Token::Number(number, _)) if minus => format!("-{number}"),
            Some(Token::Number(number, _)) => number.clone(),
            Some(Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text)) if !minus => text.clone(),
            _ => return Err(self.error()),
        };
        self.advance();
        Ok(found)
    }

    /// A string, which must be quoted.
    pub(super) fn string(&mut self) -> Result<String, SqlError> {
        match self.peek() {
            Some(Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text)) => {
                self.advance();
                Ok(text.clone())
            }
            _ => Err(self.error()),
        }
    }

    /// Nothing may follow.
    pub(super) fn end(&mut self) -> Result<(), SqlError> {
        if self.peek().is_none() { Ok(()) } else { Err(self.error()) }
    }

    /// The error of the next token, which can't be there.
    pub(super) fn error(&mut self) -> SqlError {
        self.skip_blanks();
        match self.tokens.get(self.next) {
            Some(token) => near(self.sql, token),
            None => SqlError::new("42601", "syntax error at end of input").at(self.sql.chars().count() + 1),
        }
    }

    /// What follows, as a statement.
    pub(super) fn statement(&mut self) -> Result<Parsed, SqlError> {
        self.skip_blanks();
        let rest = self.tokens.get(self.next..).unwrap_or_default();
        self.next = self.tokens.len();
        if rest.is_empty() {
            return Err(self.error());
        }
        statement(self.sql, rest)
    }

    /// What follows up to the matching closing parenthesis, as a query; the opening one is taken already.
    pub(super) fn query(&mut self) -> Result<Box<ast::Query>, SqlError> {
        let (from, mut depth) = (self.next, 1);
        while depth > 0 {
            match self.peek() {
                Some(Token::LParen) => depth += 1,
                Some(Token::RParen) => depth -= 1,
                None => return Err(self.error()),
                _ => {}
            }
            self.advance();
        }
        match statement(self.sql, &self.tokens[from..self.next - 1])? {
            Parsed::Query(query) => Ok(query),
            _ => Err(SqlError::unsupported("COPY of a statement that is no query", "Use a SELECT.")),
        }
    }

    /// Expressions with commas between, up to a closing parenthesis, which is taken; the opening one is taken already.
    pub(super) fn expressions(&mut self) -> Result<Vec<ast::Expr>, SqlError> {
        self.by_parser(|parser| {
            let found = parser.parse_comma_separated(Parser::parse_expr)?;
            parser.expect_token(&Token::RParen)?;
            Ok(found)
        })
    }

    /// Types with commas between, up to a closing parenthesis, which is taken.
    pub(super) fn types(&mut self) -> Result<Vec<ast::DataType>, SqlError> {
        self.by_parser(|parser| {
            let found = parser.parse_comma_separated(Parser::parse_data_type)?;
            parser.expect_token(&Token::RParen)?;
            Ok(found)
        })
    }

    fn by_parser<T>(&mut self, parse: impl FnOnce(&mut Parser<'_>) -> Result<T, sqlparser::parser::ParserError>) -> Result<T, SqlError> {
        let dialect = PostgreSqlDialect {};
        let rest = self.tokens.get(self.next..).unwrap_or_default();
        let mut parser = Parser::new(&dialect).with_tokens_with_locations(rest.to_vec());
        let found = parse(&mut parser).map_err(|error| wrong(self.sql, rest, &error))?;
        self.next += parser.index();
        Ok(found)
    }

    /// This place.
    pub(super) fn mark(&self) -> usize {
        self.next
    }

    /// Back to a place.
    pub(super) fn back_to(&mut self, mark: usize) {
        self.next = mark;
    }
}
