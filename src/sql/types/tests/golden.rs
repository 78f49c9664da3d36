//! PostgreSQL 15's answers. Lines: expression, tab, type, tab, value; or expression, tab, `!` SQLSTATE, tab, message. `@zone` sets
//! the session's time zone for the lines after it. `\n`, `\t`, `\\` stand for themselves, `\N` for null.

use super::super::array::elements;
use super::super::{
    CastContext, Datum, Formats, SqlError, SqlType, Zone, find_cast, input, input_binary, output_binary, resolve_aggregate, text,
};
use super::context;
use super::evaluate::{evaluate, type_of};

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t")
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => {}
            },
            (c, false) => out.push(c),
        }
    }
    out
}

/// What we make of an expression, as the golden file would have it.
fn answer(expression: &str, formats: &Formats) -> String {
    let result: Result<String, SqlError> = evaluate(expression, &context(formats)).map(|(ty, value)| {
        let shown = if value == Datum::Null { "\\N".to_owned() } else { escape(&text::to_string(ty, &value, formats)) };
        format!("{}\t{shown}", ty.display_name())
    });
    result.unwrap_or_else(|error| format!("!{}\t{}", error.code, escape(&error.message)))
}

fn differences(file: &str) -> (usize, Vec<String>) {
    let mut formats = Formats::default();
    let (mut count, mut differences) = (0, Vec::new());
    for line in file.lines() {
        if let Some(zone) = line.strip_prefix("@zone ") {
            formats.zone = Zone::parse(zone).expect("a zone we know");
            continue;
        }
        let (expression, expected) = line.split_once('\t').expect("a tab");
        let found = answer(&unescape(expression), &formats);
        count += 1;
        if found != expected {
            differences.push(format!("{expression}\n    expected {expected}\n    found    {found}"));
        }
    }
    (count, differences)
}

#[test]
fn as_postgresql() {
    let (count, differences) = differences(include_str!("golden.txt"));
    assert!(differences.is_empty(), "{} of {count} differ:\n{}", differences.len(), differences.join("\n"));
}

/// Where we mean to differ: the expected side is ours.
#[test]
fn where_we_differ() {
    let (count, differences) = differences(include_str!("ours.txt"));
    assert!(differences.is_empty(), "{} of {count} differ:\n{}", differences.len(), differences.join("\n"));
}

/// `aggregates.txt`: aggregate, type, `[values]`; then as in `golden.txt`.
fn aggregate(key: &str, formats: &Formats) -> Result<String, SqlError> {
    let context = context(formats);
    let (name, rest) = key.split_once(' ').expect("a name");
    let (ty, values) = rest.split_once(" [").expect("values");
    let ty = type_of(ty)?;
    let types = if name == "string_agg" { vec![ty, SqlType::Unknown] } else { vec![ty] };
    let found = resolve_aggregate(name, &types)?;
    let mut state = found.init();
    let values = values.strip_suffix(']').expect("the end");
    for value in values.split(',').filter(|_| !values.is_empty()) {
        let value = if value == "\\N" { Datum::Null } else { input(ty, value, &context)? };
        let mut arguments = vec![value, Datum::Text("-".into())];
        arguments.truncate(types.len());
        for (argument, cast) in arguments.iter_mut().zip(&found.casts) {
            if let Some(cast) = cast {
                *argument = cast.call(argument.clone(), &context)?;
            }
        }
        found.step(&mut state, &arguments)?;
    }
    let value = found.finish(state)?;
    let shown = if value == Datum::Null { "\\N".to_owned() } else { escape(&text::to_string(found.result, &value, formats)) };
    Ok(format!("{}\t{shown}", found.result.display_name()))
}

#[test]
fn aggregates_as_postgresql() {
    let formats = Formats::default();
    let mut differences = Vec::new();
    for line in include_str!("aggregates.txt").lines() {
        let (key, expected) = line.split_once('\t').expect("a tab");
        let found = aggregate(&unescape(key).replace(",N", ",\\N").replace("[N", "[\\N"), &formats)
            .unwrap_or_else(|error| format!("!{}\t{}", error.code, escape(&error.message)));
        if found != expected {
            differences.push(format!("{key}\n    expected {expected}\n    found    {found}"));
        }
    }
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

/// `binary.txt`: type, text, and what PostgreSQL sends in binary; read back it is the value again.
#[test]
fn binary_as_postgresql() {
    let formats = Formats::default();
    let context = context(&formats);
    for line in include_str!("binary.txt").lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, written, expected] = fields.as_slice() else { panic!("three fields in {line}") };
        let ty = match name.strip_suffix("[]") {
            Some(element) => SqlType::Array(type_of(element).expect("a type").stored().expect("a column's type")),
            None => type_of(name).expect("a type"),
        };
        let value = input(ty, &unescape(written), &context).expect("a value");
        let mut bytes = Vec::new();
        output_binary(ty, &value, &formats, &mut bytes).expect("a value of its type");
        let mut hex = Vec::new();
        text::write_hex(&mut hex, &bytes);
        assert_eq!(String::from_utf8_lossy(&hex), *expected, "{line}");
        if !matches!(ty, SqlType::Int2Vector) {
            let read = input_binary(ty, &bytes, &context).expect("our own bytes");
            let shown = text::to_string(ty, &read, &formats);
            assert_eq!(shown, text::to_string(ty, &value, &formats), "{line}");
        }
    }
}

/// Every type is in the table of types, and is found again by oid and name.
#[test]
fn types_are_known() {
    for row in super::super::names::TYPES {
        assert_eq!(SqlType::from_oid(row.oid), Some(row.ty));
        assert_eq!(row.ty.oid(), row.oid);
        assert!(find_cast(row.ty, row.ty, CastContext::Implicit).is_some());
    }
    for modified in ["numeric(5,2)", "numeric(3,-2)", "varchar(7)", "char(3)"] {
        let ty = type_of(modified).expect("a type");
        assert_eq!(ty.base().with_typmod(ty.typmod()), ty);
        assert_eq!(type_of(&ty.format_type()).expect("its own name"), ty);
    }
    for array in [1000, 1005, 1007, 1009, 1016, 1231] {
        assert_eq!(SqlType::from_oid(array).map(SqlType::oid), Some(array));
    }
    let formats = Formats::default();
    let values = elements(super::super::Type::Int4, "{1, 2,NULL}", &context(&formats)).expect("an array");
    assert_eq!(values, [Datum::Int4(1), Datum::Int4(2), Datum::Null]);
}
