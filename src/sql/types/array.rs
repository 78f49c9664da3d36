//! Arrays of one dimension, carried as PostgreSQL's text (`{1,2,NULL,"a b"}`), with lower bound 1. More dimensions are refused.

use super::{Context, Datum, Formats, SqlError, SqlType, Type, binary, fail, text};

fn malformed<T>(text: &str) -> Result<T, SqlError> {
    fail("22P02", format!("malformed array literal: \"{text}\""))
}

/// An array's elements; null where an element is null.
///
/// # Errors
/// 22P02 for what is no array, and what reading an element gives.
pub fn elements(element: Type, array: &str, context: &Context<'_>) -> Result<Vec<Datum>, SqlError> {
    let pieces = split(array)?;
    pieces.into_iter().map(|piece| piece.map_or(Ok(Datum::Null), |piece| text::input(element.into(), &piece, context))).collect()
}

/// From elements to an array.
pub fn build(element: Type, elements: &[Datum], formats: &Formats) -> Datum {
    let mut out = String::from("{");
    for (index, value) in elements.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        if *value == Datum::Null {
            out.push_str("NULL");
            continue;
        }
        quote(&mut out, &text::to_string(element.into(), value, formats));
    }
    out.push('}');
    Datum::Text(out)
}

fn quote(out: &mut String, piece: &str) {
    let special = |c: char| matches!(c, '{' | '}' | ',' | '"' | '\\') || c.is_ascii_whitespace() || c == '\u{b}';
    if !piece.is_empty() && !piece.contains(special) && !piece.eq_ignore_ascii_case("null") {
        return out.push_str(piece);
    }
    out.push('"');
    for c in piece.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// Takes an array's text apart; None is a null.
fn split(array: &str) -> Result<Vec<Option<String>>, SqlError> {
    let inner = array.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let Some(inner) = inner else { return malformed(array) };
    if inner.trim().is_empty() {
        return Ok(Vec::new());
    }
    let mut pieces = Vec::new();
    let mut chars = inner.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        let (mut piece, mut quoted, mut kept) = (String::new(), false, 0);
        loop {
            match chars.next() {
                Some('"') if !quoted && piece.trim().is_empty() => {
                    quoted = true;
                    piece.clear();
                    loop {
                        match chars.next() {
                            Some('"') => break,
                            Some('\\') => match chars.next() {
                                Some(c) => piece.push(c),
                                None => return malformed(array),
                            },
                            Some(c) => piece.push(c),
                            None => return malformed(array),
                        }
                    }
                    kept = piece.len();
                }
                Some('\\') if !quoted => {
                    match chars.next() {
                        Some(c) => piece.push(c),
                        None => return malformed(array),
                    }
                    kept = piece.len();
                }
                Some('{') if !quoted => return fail("0A000", "arrays of more than one dimension are not supported"),
                Some('}' | '"') => return malformed(array),
                Some(',') => {
                    pieces.push(finish(piece, quoted, kept, array)?);
                    break;
                }
                Some(c) if quoted && !c.is_ascii_whitespace() => return malformed(array),
                Some(_) if quoted => {}
                Some(c) => {
                    piece.push(c);
                    if !c.is_ascii_whitespace() {
                        kept = piece.len();
                    }
                }
                None => {
                    pieces.push(finish(piece, quoted, kept, array)?);
                    return Ok(pieces);
                }
            }
        }
    }
}

fn finish(mut piece: String, quoted: bool, kept: usize, array: &str) -> Result<Option<String>, SqlError> {
    piece.truncate(kept);
    if quoted {
        return Ok(Some(piece));
    }
    if piece.is_empty() {
        return malformed(array);
    }
    Ok(if piece.eq_ignore_ascii_case("null") { None } else { Some(piece) })
}

/// Reads an array and writes it as PostgreSQL would.
pub(crate) fn input(element: Type, array: &str, context: &Context<'_>) -> Result<Datum, SqlError> {
    Ok(build(element, &elements(element, array, context)?, context.formats))
}

/// Dimensions i32, has nulls i32, element's oid u32; per dimension length and lower bound; then length (-1 for null) and bytes of each.
pub(crate) fn write_binary(element: Type, array: &str, formats: &Formats, out: &mut Vec<u8>) -> Result<(), SqlError> {
    let outside = NoOutside;
    let context = Context { formats, transaction_start: 0, statement_start: 0, outside: &outside };
    let values = elements(element, array, &context)?;
    write_values(element.into(), &values, formats, out, 1)
}

fn write_values(ty: SqlType, values: &[Datum], formats: &Formats, out: &mut Vec<u8>, lower: i32) -> Result<(), SqlError> {
    let word = |out: &mut Vec<u8>, value: i32| out.extend_from_slice(&value.to_be_bytes());
    word(out, i32::from(!values.is_empty()));
    word(out, i32::from(values.contains(&Datum::Null)));
    word(out, ty.oid() as i32);
    if !values.is_empty() {
        word(out, values.len() as i32);
        word(out, lower);
    }
    for value in values {
        if *value == Datum::Null {
            word(out, -1);
            continue;
        }
        let at = out.len();
        word(out, 0);
        binary::output_binary(ty, value, formats, out)?;
        let length = (out.len() - at - 4) as i32;
        out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

/// `int2vector` and `oidvector`: numbers separated by blanks, as an array with lower bound 0.
pub(crate) fn write_vector_binary(ty: SqlType, vector: &str, out: &mut Vec<u8>) -> Result<(), SqlError> {
    let short = ty == SqlType::Int2Vector;
    let mut values = Vec::new();
    for word in vector.split_ascii_whitespace() {
        let Ok(number) = word.parse::<i64>() else { return malformed(vector) };
        values.push(if short { Datum::Int2(number as i16) } else { Datum::Int8(number) });
    }
    write_values(if short { SqlType::INT2 } else { SqlType::Oid }, &values, &Formats::default(), out, 0)
}

/// Reads the binary format.
pub(crate) fn read_binary(element: Type, bytes: &[u8], context: &Context<'_>) -> Result<Datum, SqlError> {
    let mut rest = bytes;
    let word = |rest: &mut &[u8]| match rest.split_first_chunk::<4>() {
        Some((head, tail)) => {
            *rest = tail;
            Ok(i32::from_be_bytes(*head))
        }
        None => fail("08P01", "insufficient data left in message"),
    };
    let dimensions = word(&mut rest)?;
    word(&mut rest)?;
    word(&mut rest)?;
    if dimensions == 0 {
        return Ok(Datum::Text("{}".into()));
    }
    if dimensions != 1 {
        return fail("0A000", "arrays of more than one dimension are not supported");
    }
    let count = word(&mut rest)?;
    if word(&mut rest)? != 1 {
        return fail("0A000", "arrays that don't begin at 1 are not supported");
    }
    let mut values = Vec::new();
    for _ in 0..count {
        let length = word(&mut rest)?;
        if length < 0 {
            values.push(Datum::Null);
            continue;
        }
        let Some((piece, tail)) = rest.split_at_checked(length as usize) else {
            return fail("08P01", "insufficient data left in message");
        };
        values.push(binary::input_binary(element.into(), piece, context)?);
        rest = tail;
    }
    if rest.is_empty() { Ok(build(element, &values, context.formats)) } else { fail("22P03", "incorrect binary data format") }
}

/// Elements are read back from our own text, which asks for no clock.
struct NoOutside;

impl super::Outside for NoOutside {
    fn clock(&self) -> i64 {
        0
    }
    fn bits(&self) -> u64 {
        0
    }
}
