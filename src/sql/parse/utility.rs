//! Statements that are read by hand: transactions, settings, maintenance, COPY, DROP.

use sqlparser::tokenizer::Token;

use super::tokens::Tokens;
use super::{Copy, Dropped, Modes, Parsed, SetTo, SqlError, Utility};
use crate::txn::{Isolation, TableLock};

/// Says that Regroup is under a cluster of its own, and so what to use instead of what isn't there.
const NO_OBJECTS: &str = "Regroup has one database with one schema, `public`, and one role.";

/// The statement, if it is one of those read here.
pub(super) fn parse(tokens: &mut Tokens<'_>) -> Result<Option<Utility>, SqlError> {
    let Some(Token::Word(first)) = tokens.peek() else { return Ok(None) };
    if first.quote_style.is_some() {
        return Ok(None);
    }
    let first = first.value.to_ascii_lowercase();
    let reader: fn(&mut Tokens<'_>) -> Result<Utility, SqlError> = match first.as_str() {
        "begin" => begin,
        "start" => start,
        "commit" | "end" => commit,
        "rollback" | "abort" => rollback,
        "savepoint" => |tokens| Ok(Utility::Savepoint(tokens.name()?)),
        "release" => release,
        "set" => set,
        "show" => show,
        "reset" => reset,
        "copy" => copy,
        "truncate" => truncate,
        "drop" => drop_objects,
        "reindex" => reindex,
        "vacuum" => vacuum,
        "analyze" | "analyse" => analyze,
        "checkpoint" => |_| Ok(Utility::Checkpoint),
        "explain" => explain,
        "discard" => discard,
        "deallocate" => deallocate,
        "lock" => lock,
        "prepare" => prepare,
        "execute" => execute,
        "unlisten" => unlisten,
        "create" => return create(tokens),
        _ => return Ok(None),
    };
    tokens.advance();
    let utility = reader(tokens)?;
    tokens.end()?;
    Ok(Some(utility))
}

fn begin(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    tokens.any_word(&["work", "transaction"]);
    Ok(Utility::Begin { modes: modes(tokens)?, start: false })
}

fn start(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    tokens.expect("transaction")?;
    Ok(Utility::Begin { modes: modes(tokens)?, start: true })
}

/// Transaction modes, possibly none.
fn modes(tokens: &mut Tokens<'_>) -> Result<Modes, SqlError> {
    let mut modes = Modes::default();
    loop {
        if tokens.word("isolation") {
            tokens.expect("level")?;
            modes.isolation = Some(isolation(tokens)?);
        } else if tokens.word("read") {
            modes.read_only = Some(tokens.word("only"));
            if modes.read_only == Some(false) {
                tokens.expect("write")?;
            }
        } else if tokens.word("not") {
            tokens.expect("deferrable")?;
        } else if !tokens.word("deferrable") {
            return Ok(modes);
        }
        tokens.symbol(&Token::Comma);
    }
}

fn isolation(tokens: &mut Tokens<'_>) -> Result<Isolation, SqlError> {
    if tokens.word("serializable") {
        return Err(serializable());
    }
    if tokens.word("repeatable") {
        tokens.expect("read")?;
        return Ok(Isolation::RepeatableRead);
    }
    tokens.expect("read")?;
    match tokens.any_word(&["committed", "uncommitted"]) {
        true => Ok(Isolation::ReadCommitted),
        false => Err(tokens.error()),
    }
}

/// The refusal of isolation level serializable.
pub(in crate::sql) fn serializable() -> SqlError {
    let hint = "Use repeatable read (snapshot isolation), and SELECT .. FOR UPDATE on the rows that a decision rests on.";
    SqlError::unsupported("isolation level serializable", hint)
}

/// `AND [NO] CHAIN`.
fn chain(tokens: &mut Tokens<'_>) -> Result<bool, SqlError> {
    if !tokens.word("and") {
        return Ok(false);
    }
    let no = tokens.word("no");
    tokens.expect("chain")?;
    Ok(!no)
}

fn commit(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    if tokens.word("prepared") {
        return Err(SqlError::unsupported("COMMIT PREPARED", "There are no two-phase transactions."));
    }
    tokens.any_word(&["work", "transaction"]);
    Ok(Utility::Commit { chain: chain(tokens)? })
}

fn rollback(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    if tokens.word("prepared") {
        return Err(SqlError::unsupported("ROLLBACK PREPARED", "There are no two-phase transactions."));
    }
    tokens.any_word(&["work", "transaction"]);
    if tokens.word("to") {
        tokens.word("savepoint");
        return Ok(Utility::RollbackTo(tokens.name()?));
    }
    Ok(Utility::Rollback { chain: chain(tokens)? })
}

fn release(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    tokens.word("savepoint");
    Ok(Utility::Release(tokens.name()?))
}

/// A setting's name: words with points between.
fn setting(tokens: &mut Tokens<'_>) -> Result<String, SqlError> {
    if tokens.word("time") {
        tokens.expect("zone")?;
        return Ok("timezone".into());
    }
    let mut name = tokens.name()?;
    while tokens.symbol(&Token::Period) {
        name = format!("{name}.{}", tokens.name()?);
    }
    Ok(name)
}

fn set(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    let session = tokens.word("session");
    let local = !session && tokens.word("local");
    if session && tokens.word("characteristics") {
        tokens.expect("as")?;
        tokens.expect("transaction")?;
        return Ok(Utility::SetCharacteristics(modes(tokens)?));
    }
    if session && tokens.word("authorization") {
        return Ok(Utility::Set { local, name: "session_authorization".into(), to: set_to(tokens)? });
    }
    if !session && tokens.word("transaction") {
        if tokens.word("snapshot") {
            return Err(SqlError::unsupported("SET TRANSACTION SNAPSHOT", "Read in one transaction, under repeatable read."));
        }
        return Ok(Utility::SetTransaction(modes(tokens)?));
    }
    if tokens.word("constraints") {
        return Err(SqlError::unsupported("SET CONSTRAINTS", "All constraints are checked at once."));
    }
    let name = setting(tokens)?;
    match name.as_str() {
        "timezone" | "role" => {
            let _ = tokens.word("to") || tokens.symbol(&Token::Eq);
        }
        "names" => return Ok(Utility::Set { local, name: "client_encoding".into(), to: set_to(tokens)? }),
        _ => {
            if !tokens.word("to") {
                tokens.expect_symbol(&Token::Eq)?;
            }
        }
    }
    Ok(Utility::Set { local, name, to: set_to(tokens)? })
}

fn set_to(tokens: &mut Tokens<'_>) -> Result<SetTo, SqlError> {
    if tokens.word("default") {
        return Ok(SetTo::Default);
    }
    let mut value = tokens.value()?;
    while tokens.symbol(&Token::Comma) {
        value = format!("{value}, {}", tokens.value()?);
    }
    Ok(SetTo::Value(value))
}

fn show(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    if tokens.word("all") {
        return Ok(Utility::ShowAll);
    }
    if tokens.word("transaction") {
        tokens.expect("isolation")?;
        tokens.expect("level")?;
        return Ok(Utility::Show("transaction_isolation".into()));
    }
    Ok(Utility::Show(setting(tokens)?))
}

fn reset(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    if tokens.word("all") {
        return Ok(Utility::ResetAll);
    }
    if tokens.word("session") {
        tokens.expect("authorization")?;
        return Ok(Utility::Reset("session_authorization".into()));
    }
    Ok(Utility::Reset(setting(tokens)?))
}

fn copy(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    let mut copy = Copy {
        table: None,
        query: None,
        columns: Vec::new(),
        from: false,
        csv: false,
        delimiter: None,
        null: None,
        header: false,
        quote: None,
        escape: None,
        freeze: false,
    };
    if tokens.symbol(&Token::LParen) {
        copy.query = Some(tokens.query()?);
    } else {
        copy.table = Some(tokens.relation()?);
        if tokens.symbol(&Token::LParen) {
            loop {
                copy.columns.push(tokens.name()?);
                if !tokens.symbol(&Token::Comma) {
                    break;
                }
            }
            tokens.expect_symbol(&Token::RParen)?;
        }
    }
    copy.from = copy.query.is_none() && tokens.word("from");
    if !copy.from {
        tokens.expect("to")?;
    }
    if !tokens.word(if copy.from { "stdin" } else { "stdout" }) {
        return Err(SqlError::unsupported("COPY from and to files and programs", "Use STDIN and STDOUT, in psql \\copy."));
    }
    tokens.word("with");
    if tokens.symbol(&Token::LParen) {
        loop {
            copy_option(tokens, &mut copy)?;
            if !tokens.symbol(&Token::Comma) {
                break;
            }
        }
        tokens.expect_symbol(&Token::RParen)?;
    } else {
        while tokens.peek().is_some() {
            old_copy_option(tokens, &mut copy)?;
        }
    }
    if tokens.word("where") {
        return Err(SqlError::unsupported("COPY .. WHERE", "Copy all rows, then delete those that aren't wanted."));
    }
    Ok(Utility::Copy(Box::new(copy)))
}

fn copy_option(tokens: &mut Tokens<'_>, copy: &mut Copy) -> Result<(), SqlError> {
    let option = tokens.name()?;
    match option.as_str() {
        "format" => {
            let format = tokens.value()?;
            copy.csv = match format.as_str() {
                "text" => false,
                "csv" => true,
                "binary" => return Err(SqlError::unsupported("COPY in binary format", "Use the text or csv format.")),
                _ => return Err(SqlError::new("22023", format!("COPY format \"{format}\" not recognized"))),
            };
        }
        "freeze" => copy.freeze = boolean(tokens)?,
        "header" => copy.header = boolean(tokens)?,
        "delimiter" => copy.delimiter = Some(one_char(tokens, "delimiter")?),
        "quote" => copy.quote = Some(one_char(tokens, "quote")?),
        "escape" => copy.escape = Some(one_char(tokens, "escape")?),
        "null" => copy.null = Some(tokens.string()?),
        "encoding" => {
            let encoding = tokens.value()?;
            if !["utf8", "utf-8", "sql_ascii"].contains(&encoding.to_lowercase().as_str()) {
                return Err(SqlError::unsupported(format!("COPY encoding {encoding}"), "Use UTF8."));
            }
        }
        "force_quote" | "force_not_null" | "force_null" => {
            return Err(SqlError::unsupported(format!("COPY option {option}"), "Leave it out."));
        }
        _ => return Err(SqlError::new("42601", format!("option \"{option}\" not recognized"))),
    }
    Ok(())
}

/// Options as before PostgreSQL 9.
fn old_copy_option(tokens: &mut Tokens<'_>, copy: &mut Copy) -> Result<(), SqlError> {
    if tokens.word("csv") {
        copy.csv = true;
    } else if tokens.word("header") {
        copy.header = true;
    } else if tokens.word("freeze") {
        copy.freeze = true;
    } else if tokens.word("delimiter") || tokens.word("delimiters") {
        tokens.word("as");
        copy.delimiter = Some(one_char(tokens, "delimiter")?);
    } else if tokens.word("null") {
        tokens.word("as");
        copy.null = Some(tokens.string()?);
    } else if tokens.word("quote") {
        tokens.word("as");
        copy.quote = Some(one_char(tokens, "quote")?);
    } else if tokens.word("escape") {
        tokens.word("as");
        copy.escape = Some(one_char(tokens, "escape")?);
    } else {
        return Err(tokens.error());
    }
    Ok(())
}

/// An option's value: nothing is true.
fn boolean(tokens: &mut Tokens<'_>) -> Result<bool, SqlError> {
    if matches!(tokens.peek(), None | Some(Token::Comma | Token::RParen)) {
        return Ok(true);
    }
    let value = tokens.value()?.to_lowercase();
    match value.as_str() {
        "on" | "true" | "1" | "yes" => Ok(true),
        "off" | "false" | "0" | "no" => Ok(false),
        _ => Err(SqlError::new("42601", format!("a Boolean value is required, not \"{value}\""))),
    }
}

fn one_char(tokens: &mut Tokens<'_>, what: &str) -> Result<char, SqlError> {
    let text = tokens.string()?;
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(char), None) if char.is_ascii() => Ok(char),
        _ => Err(SqlError::new("0A000", format!("COPY {what} must be a single one-byte character"))),
    }
}

/// `CASCADE | RESTRICT`. Nothing depends on anything but indexes on their table, which always go with it.
fn behavior(tokens: &mut Tokens<'_>) {
    tokens.any_word(&["cascade", "restrict"]);
}

fn truncate(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    tokens.word("table");
    let tables = tokens.relations()?;
    let restart = tokens.word("restart");
    if restart || tokens.word("continue") {
        tokens.expect("identity")?;
    }
    behavior(tokens);
    Ok(Utility::Truncate { tables, restart })
}

fn drop_objects(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    let what = if tokens.word("table") {
        Dropped::Table
    } else if tokens.word("index") {
        tokens.word("concurrently");
        Dropped::Index
    } else if tokens.word("sequence") {
        Dropped::Sequence
    } else {
        let what = tokens.name()?;
        return Err(SqlError::unsupported(format!("DROP {}", what.to_uppercase()), NO_OBJECTS));
    };
    let if_exists = tokens.word("if");
    if if_exists {
        tokens.expect("exists")?;
    }
    let names = tokens.relations()?;
    behavior(tokens);
    Ok(Utility::Drop { what, names, if_exists })
}

/// Options in parentheses that change how, not what: `VACUUM (VERBOSE, PARALLEL 2)`. Gives their names.
fn options(tokens: &mut Tokens<'_>) -> Result<Vec<String>, SqlError> {
    let mut names = Vec::new();
    if !tokens.symbol(&Token::LParen) {
        return Ok(names);
    }
    loop {
        let name = tokens.name()?;
        let off = match tokens.peek() {
            Some(Token::Comma | Token::RParen) => false,
            _ => ["off", "false", "0", "no"].contains(&tokens.value()?.to_lowercase().as_str()),
        };
        if !off {
            names.push(name);
        }
        if !tokens.symbol(&Token::Comma) {
            break;
        }
    }
    tokens.expect_symbol(&Token::RParen)?;
    Ok(names)
}

fn reindex(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    options(tokens)?;
    let what = tokens.name()?;
    tokens.word("concurrently");
    match what.as_str() {
        "index" => Ok(Utility::ReindexIndex(tokens.relation()?)),
        "table" => Ok(Utility::ReindexTable(tokens.relation()?)),
        "schema" | "database" => {
            if tokens.peek().is_some() {
                tokens.name()?;
            }
            Ok(Utility::ReindexAll)
        }
        _ => Err(SqlError::unsupported(format!("REINDEX {}", what.to_uppercase()), "REINDEX an INDEX, TABLE or DATABASE.")),
    }
}

fn vacuum(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    options(tokens)?;
    while tokens.any_word(&["full", "freeze", "verbose", "analyze", "analyse"]) {}
    Ok(Utility::Vacuum { tables: analyzed(tokens)? })
}

/// Tables with, possibly, columns.
fn analyzed(tokens: &mut Tokens<'_>) -> Result<Vec<String>, SqlError> {
    let mut tables = Vec::new();
    while tokens.peek().is_some() {
        tables.push(tokens.relation()?);
        if tokens.symbol(&Token::LParen) {
            while !tokens.symbol(&Token::RParen) {
                tokens.name()?;
                tokens.symbol(&Token::Comma);
            }
        }
        if !tokens.symbol(&Token::Comma) {
            break;
        }
    }
    Ok(tables)
}

fn analyze(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    options(tokens)?;
    tokens.word("verbose");
    Ok(Utility::Analyze { tables: analyzed(tokens)? })
}

fn explain(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    let options = options(tokens)?;
    let mut analyze = options.iter().any(|name| name == "analyze");
    if options.iter().any(|name| name == "format") {
        return Err(SqlError::unsupported("EXPLAIN (FORMAT ..)", "Plans are shown as text only: leave it out."));
    }
    analyze |= tokens.any_word(&["analyze", "analyse"]);
    tokens.word("verbose");
    let statement = Box::new(tokens.statement()?);
    Ok(Utility::Explain { analyze, statement })
}

fn discard(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    if tokens.word("all") {
        return Ok(Utility::DiscardAll);
    }
    for (word, tag) in
        [("plans", "DISCARD PLANS"), ("sequences", "DISCARD SEQUENCES"), ("temp", "DISCARD TEMP"), ("temporary", "DISCARD TEMP")]
    {
        if tokens.word(word) {
            return Ok(Utility::DiscardNothing(tag));
        }
    }
    Err(tokens.error())
}

fn deallocate(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    tokens.word("prepare");
    if tokens.word("all") {
        return Ok(Utility::Deallocate(None));
    }
    Ok(Utility::Deallocate(Some(tokens.name()?)))
}

fn lock(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    tokens.word("table");
    let tables = tokens.relations()?;
    let mut mode = TableLock::AccessExclusive;
    if tokens.word("in") {
        let mut words = Vec::new();
        while !tokens.word("mode") {
            words.push(tokens.name()?);
        }
        mode = match words.join(" ").as_str() {
            "access share" => TableLock::AccessShare,
            "row share" => TableLock::RowShare,
            "row exclusive" => TableLock::RowExclusive,
            "share update exclusive" => TableLock::ShareUpdateExclusive,
            "share" => TableLock::Share,
            // There are no modes between: a stronger one gives all that was asked for.
            "share row exclusive" | "exclusive" | "access exclusive" => TableLock::AccessExclusive,
            _ => return Err(tokens.error()),
        };
    }
    Ok(Utility::Lock { tables, mode, nowait: tokens.word("nowait") })
}

fn prepare(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    if tokens.word("transaction") {
        return Err(SqlError::unsupported("PREPARE TRANSACTION", "There are no two-phase transactions."));
    }
    let name = tokens.name()?;
    let types = if tokens.symbol(&Token::LParen) { tokens.types()? } else { Vec::new() };
    tokens.expect("as")?;
    let statement = tokens.statement()?;
    match statement {
        Parsed::Query(_) | Parsed::Insert(_) | Parsed::Update(_) | Parsed::Delete(_) => {
            Ok(Utility::Prepare { name, types, statement: Box::new(statement) })
        }
        _ => Err(SqlError::new("42601", "only queries, INSERT, UPDATE and DELETE can be prepared")),
    }
}

fn execute(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    let name = tokens.name()?;
    let arguments = if tokens.symbol(&Token::LParen) { tokens.expressions()? } else { Vec::new() };
    Ok(Utility::Execute { name, arguments })
}

fn unlisten(tokens: &mut Tokens<'_>) -> Result<Utility, SqlError> {
    if !tokens.symbol(&Token::Mul) {
        tokens.name()?;
    }
    Ok(Utility::Unlisten)
}

/// CREATE SEQUENCE is read here, other CREATEs are not.
fn create(tokens: &mut Tokens<'_>) -> Result<Option<Utility>, SqlError> {
    let start = tokens.mark();
    tokens.advance();
    if !tokens.word("sequence") {
        tokens.back_to(start);
        return Ok(None);
    }
    let if_not_exists = tokens.word("if");
    if if_not_exists {
        tokens.expect("not")?;
        tokens.expect("exists")?;
    }
    let name = tokens.relation()?;
    let (mut start, mut increment) = (None, 1);
    while tokens.peek().is_some() {
        if tokens.word("start") {
            tokens.word("with");
            start = Some(integer(tokens)?);
        } else if tokens.word("increment") {
            tokens.word("by");
            increment = integer(tokens)?;
        } else if tokens.word("cache") {
            integer(tokens)?;
        } else if tokens.word("no") {
            if !tokens.any_word(&["cycle", "minvalue", "maxvalue"]) {
                return Err(tokens.error());
            }
        } else {
            let what = tokens.name()?;
            let hint = "CREATE SEQUENCE takes START, INCREMENT and CACHE.";
            return Err(SqlError::unsupported(format!("sequence option {}", what.to_uppercase()), hint));
        }
    }
    if increment == 0 {
        return Err(SqlError::new("22023", "INCREMENT must not be zero"));
    }
    Ok(Some(Utility::CreateSequence { name, if_not_exists, start: start.unwrap_or(1), increment }))
}

fn integer(tokens: &mut Tokens<'_>) -> Result<i64, SqlError> {
    let text = tokens.value()?;
    text.parse().map_err(|_| SqlError::new("42601", format!("\"{text}\" is not an integer")))
}
