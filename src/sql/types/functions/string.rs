//! Functions of text and bytes.

use super::super::operators::{arity, on};
use super::super::pattern::{self, simple_lower, simple_upper};
use super::super::resolve::Function;
use super::super::text::{decode_hex, write_hex};
use super::super::{Context, Datum, SqlError, SqlType, Type, fail, regex};
use super::{md5_digest, row};

const TEXT: SqlType = SqlType::TEXT;
const BPCHAR: SqlType = SqlType::BPCHAR;
const BYTEA: SqlType = SqlType::BYTEA;
const INT4: SqlType = SqlType::INT4;
const INT8: SqlType = SqlType::INT8;
const BOOL: SqlType = SqlType::BOOL;

/// A text longer than this isn't made, so that one call can't take all memory; PostgreSQL's limit is a gigabyte.
const TEXT_MAX: usize = 1 << 28;

fn text(value: impl Into<String>) -> Result<Datum, SqlError> {
    Ok(Datum::Text(value.into()))
}

fn count(value: usize) -> Result<Datum, SqlError> {
    Ok(Datum::Int4(i32::try_from(value).unwrap_or(i32::MAX)))
}

/// Characters from `start` (from 1, may lie before), `length` of them: `None` to the end.
fn span(start: i32, length: Option<i32>) -> Result<(usize, usize), SqlError> {
    let from = i64::from(start);
    let end = match length {
        None => i64::MAX,
        Some(length) if length < 0 => {
            return fail("22011", "negative substring length not allowed");
        }
        Some(length) => from + i64::from(length),
    };
    let first = from.max(1);
    Ok(((first - 1) as usize, (end - first).max(0) as usize))
}

fn substring(arguments: &[Datum]) -> Result<Datum, SqlError> {
    let length = match arguments.get(2) {
        None => None,
        Some(Datum::Int4(length)) => Some(*length),
        Some(_) => return arity(arguments),
    };
    match arguments {
        [Datum::Text(value), Datum::Int4(start), ..] => {
            let (skip, take) = span(*start, length)?;
            if value.is_ascii() {
                let from = skip.min(value.len());
                return text(&value[from..from.saturating_add(take).min(value.len())]);
            }
            text(value.chars().skip(skip).take(take).collect::<String>())
        }
        [Datum::Bytea(value), Datum::Int4(start), ..] => {
            let (skip, take) = span(*start, length)?;
            Ok(Datum::Bytea(value.iter().skip(skip).take(take).copied().collect()))
        }
        _ => arity(arguments),
    }
}

fn trim(value: &str, set: &str, left: bool, right: bool) -> Result<Datum, SqlError> {
    let inside = |c: char| set.contains(c);
    let value = if left { value.trim_start_matches(inside) } else { value };
    text(if right { value.trim_end_matches(inside) } else { value })
}

/// The first `n` characters, or all but the last `-n`.
fn left(value: &str, n: i32) -> Result<Datum, SqlError> {
    let total = value.chars().count() as i64;
    let keep = if n >= 0 { i64::from(n) } else { (total + i64::from(n)).max(0) };
    text(value.chars().take(keep as usize).collect::<String>())
}

/// The last `n` characters, or all but the first `-n`.
fn right(value: &str, n: i32) -> Result<Datum, SqlError> {
    let total = value.chars().count() as i64;
    let skip = if n >= 0 { (total - i64::from(n)).max(0) } else { -i64::from(n) };
    text(value.chars().skip(skip as usize).collect::<String>())
}

fn too_large<T>() -> Result<T, SqlError> {
    fail("54000", "requested length too large")
}

fn pad(value: &str, length: i32, fill: &str, left: bool) -> Result<Datum, SqlError> {
    let length = length.max(0) as usize;
    if length.saturating_mul(4) > TEXT_MAX {
        return too_large();
    }
    let have = value.chars().count();
    if have >= length || fill.is_empty() {
        return text(value.chars().take(length).collect::<String>());
    }
    let filling: String = fill.chars().cycle().take(length - have).collect();
    text(if left { filling + value } else { value.to_owned() + &filling })
}

fn repeat(value: &str, times: i32) -> Result<Datum, SqlError> {
    let times = times.max(0) as usize;
    if value.len().saturating_mul(times) > TEXT_MAX {
        return too_large();
    }
    text(value.repeat(times))
}

/// Where `part` begins, in characters from 1; 0 for nowhere.
fn strpos(value: &str, part: &str) -> Result<Datum, SqlError> {
    match value.find(part) {
        None => count(0),
        Some(at) => count(value[..at].chars().count() + 1),
    }
}

fn replace(value: &str, from: &str, to: &str) -> Result<Datum, SqlError> {
    text(if from.is_empty() { value.to_owned() } else { value.replace(from, to) })
}

fn split_part(value: &str, separator: &str, n: i32) -> Result<Datum, SqlError> {
    if n == 0 {
        return fail("22023", "field position must not be zero");
    }
    if separator.is_empty() {
        return text(if n == 1 || n == -1 { value } else { "" });
    }
    let parts: Vec<&str> = value.split(separator).collect();
    let at = if n > 0 { i64::from(n) - 1 } else { parts.len() as i64 + i64::from(n) };
    text(usize::try_from(at).ok().and_then(|at| parts.get(at)).copied().unwrap_or(""))
}

fn translate(value: &str, from: &str, to: &str) -> Result<Datum, SqlError> {
    let to: Vec<char> = to.chars().collect();
    let from: Vec<char> = from.chars().collect();
    let mapped = value.chars().filter_map(|c| match from.iter().position(|f| *f == c) {
        None => Some(c),
        Some(at) => to.get(at).copied(),
    });
    text(mapped.collect::<String>())
}

fn initcap(value: &str) -> Result<Datum, SqlError> {
    let mut inside = false;
    let mapped = value.chars().map(|c| {
        let mapped = if inside { simple_lower(c) } else { simple_upper(c) };
        inside = c.is_alphanumeric();
        mapped
    });
    text(mapped.collect::<String>())
}

fn chr(code: i32) -> Result<Datum, SqlError> {
    match code {
        0 => fail("54000", "null character not permitted"),
        code if code < 0 => fail("22023", "character number must be positive"),
        code => match char::from_u32(code as u32) {
            Some(c) => text(c),
            None if code > 0x10_ffff => fail("54000", format!("requested character too large for encoding: {code}")),
            None => fail("54000", format!("requested character not valid for encoding: {code}")),
        },
    }
}

fn md5(bytes: &[u8]) -> Result<Datum, SqlError> {
    let mut out = Vec::with_capacity(32);
    write_hex(&mut out, &md5_digest(bytes));
    text(String::from_utf8_lossy(&out))
}

fn unknown_encoding<T>(name: &str) -> Result<T, SqlError> {
    fail("22023", format!("unrecognized encoding: \"{name}\""))
}

fn encode(bytes: &[u8], encoding: &str) -> Result<Datum, SqlError> {
    match encoding.to_ascii_lowercase().as_str() {
        "hex" => {
            let mut out = Vec::with_capacity(bytes.len() * 2);
            write_hex(&mut out, bytes);
            text(String::from_utf8_lossy(&out))
        }
        "base64" => text(base64(bytes)),
        "escape" => {
            let mut out = String::new();
            for &byte in bytes {
                match byte {
                    b'\\' => out.push_str("\\\\"),
                    0 | 0x80.. => {
                        out.push('\\');
                        for shift in [6, 3, 0] {
                            out.push(char::from(b'0' + (byte >> shift & 7)));
                        }
                    }
                    _ => out.push(char::from(byte)),
                }
            }
            text(out)
        }
        _ => unknown_encoding(encoding),
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// MIME: lines of 76 characters.
fn base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (index, three) in bytes.chunks(3).enumerate() {
        if index > 0 && index % 19 == 0 {
            out.push('\n');
        }
        let word = three.iter().fold(0u32, |word, b| word << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let c = if place <= three.len() { char::from(ALPHABET[(word >> (18 - 6 * place) & 63) as usize]) } else { '=' };
            out.push(c);
        }
    }
    out
}

fn unbase64(value: &str) -> Result<Vec<u8>, SqlError> {
    let (mut out, mut word, mut have, mut ended) = (Vec::new(), 0u32, 0, false);
    for c in value.chars().filter(|c| !matches!(c, ' ' | '\t' | '\n' | '\r')) {
        if c == '=' {
            ended = true;
            continue;
        }
        let Some(digit) = ALPHABET.iter().position(|known| char::from(*known) == c).filter(|_| !ended) else {
            return fail("22023", format!("invalid symbol \"{c}\" found while decoding base64 sequence"));
        };
        word = word << 6 | digit as u32;
        have += 1;
        if have == 4 {
            out.extend_from_slice(&word.to_be_bytes()[1..]);
            (word, have) = (0, 0);
        }
    }
    match have {
        0 => {}
        2 if ended => out.push((word >> 4) as u8),
        3 if ended => out.extend_from_slice(&((word >> 2) as u16).to_be_bytes()),
        _ => {
            return Err(SqlError::new("22023", "invalid base64 end sequence")
                .hint("Input data is missing padding, is truncated, or is otherwise corrupted."));
        }
    }
    Ok(out)
}

fn decode(value: &str, encoding: &str) -> Result<Datum, SqlError> {
    match encoding.to_ascii_lowercase().as_str() {
        "hex" => decode_hex(value).map(Datum::Bytea),
        "base64" => unbase64(value).map(Datum::Bytea),
        "escape" => {
            let bytes = value.as_bytes();
            let (mut out, mut at) = (Vec::new(), 0);
            while let Some(&byte) = bytes.get(at) {
                match bytes[at..] {
                    [b'\\', b'\\', ..] => {
                        out.push(b'\\');
                        at += 2;
                    }
                    [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                        out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                        at += 4;
                    }
                    [b'\\', ..] => return fail("22P02", "invalid input syntax for type bytea"),
                    _ => {
                        out.push(byte);
                        at += 1;
                    }
                }
            }
            Ok(Datum::Bytea(out))
        }
        _ => unknown_encoding(encoding),
    }
}

/// A name as it must be written in SQL.
pub(crate) fn quote_ident(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !RESERVED.contains(&name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Words that can't be names without quotes.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "between",
    "bigint",
    "binary",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "dec",
    "decimal",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "false",
    "fetch",
    "float",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "greatest",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "inout",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "least",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "national",
    "natural",
    "nchar",
    "none",
    "normalize",
    "not",
    "notnull",
    "null",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "out",
    "outer",
    "overlaps",
    "overlay",
    "placing",
    "position",
    "precision",
    "primary",
    "real",
    "references",
    "returning",
    "right",
    "row",
    "select",
    "session_user",
    "setof",
    "similar",
    "smallint",
    "some",
    "substring",
    "symmetric",
    "table",
    "tablesample",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "treat",
    "trim",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "values",
    "varchar",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlnamespaces",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];

/// A text as a literal in SQL.
pub(crate) fn quote_literal(value: &str) -> String {
    let quoted = format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"));
    if value.contains('\\') { format!("E{quoted}") } else { quoted }
}

/// A LIKE pattern with another escape character, rewritten for `\`.
fn like_escape(value: &str, escape: &str) -> Result<Datum, SqlError> {
    let escape = pattern::escape(escape)?;
    let mut out = String::with_capacity(value.len() + 4);
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            out.push('\\');
            if let Some(next) = chars.next() {
                out.push(next);
            }
        } else {
            if c == '\\' {
                out.push('\\');
            }
            out.push(c);
        }
    }
    text(out)
}

fn substring_regex(value: &str, pattern: &str) -> Result<Datum, SqlError> {
    let regex = regex::Regex::new(pattern, false)?;
    if regex.captures() {
        // PostgreSQL gives what the first group matched.
        return fail("0A000", "groups in the regular expression of substring are not supported");
    }
    Ok(match regex.find(value) {
        Some((from, to)) => Datum::Text(value[from..to].to_owned()),
        None => Datum::Null,
    })
}

/// `octet_length(char(n))`: with the padding.
fn padded_length(ty: SqlType, arguments: &[Datum], _: &Context<'_>) -> Result<Datum, SqlError> {
    match (ty, arguments) {
        (SqlType::Stored(Type::Char(n)), [Datum::Text(value)]) => count(value.len() + (n as usize).saturating_sub(value.chars().count())),
        _ => arity(arguments),
    }
}

pub(crate) static FUNCTIONS: &[Function] = &[
    row("length", &[TEXT], INT4, on!(Text(a) => count(a.chars().count()))),
    row("length", &[BPCHAR], INT4, on!(Text(a) => count(a.trim_end_matches(' ').chars().count()))),
    row("length", &[BYTEA], INT4, on!(Bytea(a) => count(a.len()))),
    row("char_length", &[TEXT], INT4, on!(Text(a) => count(a.chars().count()))),
    row("char_length", &[BPCHAR], INT4, on!(Text(a) => count(a.trim_end_matches(' ').chars().count()))),
    row("character_length", &[TEXT], INT4, on!(Text(a) => count(a.chars().count()))),
    row("character_length", &[BPCHAR], INT4, on!(Text(a) => count(a.trim_end_matches(' ').chars().count()))),
    row("octet_length", &[TEXT], INT4, on!(Text(a) => count(a.len()))),
    row("octet_length", &[BPCHAR], INT4, padded_length),
    row("octet_length", &[BYTEA], INT4, on!(Bytea(a) => count(a.len()))),
    row("bit_length", &[TEXT], INT4, on!(Text(a) => count(a.len() * 8))),
    row("bit_length", &[BYTEA], INT4, on!(Bytea(a) => count(a.len() * 8))),
    row("lower", &[TEXT], TEXT, on!(Text(a) => text(a.chars().map(simple_lower).collect::<String>()))),
    row("upper", &[TEXT], TEXT, on!(Text(a) => text(a.chars().map(simple_upper).collect::<String>()))),
    row("initcap", &[TEXT], TEXT, on!(Text(a) => initcap(a))),
    row("substr", &[TEXT, INT4], TEXT, |_, a, _| substring(a)),
    row("substr", &[TEXT, INT4, INT4], TEXT, |_, a, _| substring(a)),
    row("substr", &[BYTEA, INT4], BYTEA, |_, a, _| substring(a)),
    row("substr", &[BYTEA, INT4, INT4], BYTEA, |_, a, _| substring(a)),
    row("substring", &[TEXT, INT4], TEXT, |_, a, _| substring(a)),
    row("substring", &[TEXT, INT4, INT4], TEXT, |_, a, _| substring(a)),
    row("substring", &[BYTEA, INT4], BYTEA, |_, a, _| substring(a)),
    row("substring", &[BYTEA, INT4, INT4], BYTEA, |_, a, _| substring(a)),
    row("substring", &[TEXT, TEXT], TEXT, on!(Text(a), Text(b) => substring_regex(a, b))),
    row("btrim", &[TEXT], TEXT, on!(Text(a) => trim(a, " ", true, true))),
    row("btrim", &[TEXT, TEXT], TEXT, on!(Text(a), Text(b) => trim(a, b, true, true))),
    row("ltrim", &[TEXT], TEXT, on!(Text(a) => trim(a, " ", true, false))),
    row("ltrim", &[TEXT, TEXT], TEXT, on!(Text(a), Text(b) => trim(a, b, true, false))),
    row("rtrim", &[TEXT], TEXT, on!(Text(a) => trim(a, " ", false, true))),
    row("rtrim", &[TEXT, TEXT], TEXT, on!(Text(a), Text(b) => trim(a, b, false, true))),
    row("replace", &[TEXT, TEXT, TEXT], TEXT, on!(Text(a), Text(b), Text(c) => replace(a, b, c))),
    row("position", &[TEXT, TEXT], INT4, on!(Text(a), Text(b) => strpos(a, b))),
    row("strpos", &[TEXT, TEXT], INT4, on!(Text(a), Text(b) => strpos(a, b))),
    row("left", &[TEXT, INT4], TEXT, on!(Text(a), Int4(n) => left(a, *n))),
    row("right", &[TEXT, INT4], TEXT, on!(Text(a), Int4(n) => right(a, *n))),
    row("lpad", &[TEXT, INT4], TEXT, on!(Text(a), Int4(n) => pad(a, *n, " ", true))),
    row("lpad", &[TEXT, INT4, TEXT], TEXT, on!(Text(a), Int4(n), Text(fill) => pad(a, *n, fill, true))),
    row("rpad", &[TEXT, INT4], TEXT, on!(Text(a), Int4(n) => pad(a, *n, " ", false))),
    row("rpad", &[TEXT, INT4, TEXT], TEXT, on!(Text(a), Int4(n), Text(fill) => pad(a, *n, fill, false))),
    row("repeat", &[TEXT, INT4], TEXT, on!(Text(a), Int4(n) => repeat(a, *n))),
    row("reverse", &[TEXT], TEXT, on!(Text(a) => text(a.chars().rev().collect::<String>()))),
    row("split_part", &[TEXT, TEXT, INT4], TEXT, on!(Text(a), Text(b), Int4(n) => split_part(a, b, *n))),
    row("translate", &[TEXT, TEXT, TEXT], TEXT, on!(Text(a), Text(b), Text(c) => translate(a, b, c))),
    row("starts_with", &[TEXT, TEXT], BOOL, on!(Text(a), Text(b) => Ok(Datum::Bool(a.starts_with(b.as_str()))))),
    row("ascii", &[TEXT], INT4, on!(Text(a) => Ok(Datum::Int4(a.chars().next().map_or(0, |c| c as i32))))),
    row("chr", &[INT4], TEXT, on!(Int4(code) => chr(*code))),
    row("md5", &[TEXT], TEXT, on!(Text(a) => md5(a.as_bytes()))),
    row("md5", &[BYTEA], TEXT, on!(Bytea(a) => md5(a))),
    row("encode", &[BYTEA, TEXT], TEXT, on!(Bytea(a), Text(b) => encode(a, b))),
    row("decode", &[TEXT, TEXT], BYTEA, on!(Text(a), Text(b) => decode(a, b))),
    row("to_hex", &[INT4], TEXT, on!(Int4(a) => text(format!("{a:x}")))),
    row("to_hex", &[INT8], TEXT, on!(Int8(a) => text(format!("{a:x}")))),
    row("quote_ident", &[TEXT], TEXT, on!(Text(a) => text(quote_ident(a)))),
    row("quote_literal", &[TEXT], TEXT, on!(Text(a) => text(quote_literal(a)))),
    row("quote_literal", &[SqlType::AnyElement], TEXT, on!(Text(a) => text(quote_literal(a)))),
    row("like_escape", &[TEXT, TEXT], TEXT, on!(Text(a), Text(b) => like_escape(a, b))),
];
