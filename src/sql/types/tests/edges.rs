//! Every function and operator with values at the ends of their ranges: whatever it answers, it answers.

use super::super::interval::Interval;
use super::super::{Datum, Formats, SqlType, Type, Zone, array, functions, input, operators, resolve_aggregate};
use super::context;
use crate::sql::types::calendar::{DATE_END, DATE_MIN, TIMESTAMP_END, TIMESTAMP_MIN};

/// Values of a type: ordinary, extreme and odd ones.
fn values(ty: SqlType) -> Vec<Datum> {
    let formats = Formats::default();
    let read = |texts: &[&str]| texts.iter().map(|t| input(ty, t, &context(&formats)).expect("a value")).collect();
    let texts =
        ["", "a", "hour", "epoch", "week", "century", "+15:59:59", "UTC", "hex", "base64", "%\\_", "ä€\u{1F600}", "(a|b)*c{2,3}", "-1.5"];
    let moments = [0, 1, -1, i64::MIN, i64::MAX, TIMESTAMP_MIN, TIMESTAMP_END - 1, 123_456_789_012_345];
    match ty {
        SqlType::BOOL => vec![Datum::Bool(true), Datum::Bool(false)],
        SqlType::INT2 => [0, 1, -1, 7, i16::MIN, i16::MAX].map(Datum::Int2).to_vec(),
        SqlType::INT4 => [0, 1, -1, 7, 70, i32::MIN, i32::MAX].map(Datum::Int4).to_vec(),
        SqlType::INT8 => [0, 1, -1, 7, i64::MIN, i64::MAX].map(Datum::Int8).to_vec(),
        SqlType::FLOAT8 => {
            [0.0, -0.0, 1.5, -2.5, 1e308, -1e308, 5e-324, 1e20, f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(Datum::Float8).to_vec()
        }
        SqlType::NUMERIC => {
            read(&["0", "0.000", "1", "-1", "1.10", "-0.5", "1e30", "-1e30", "1e-20", "1e2000", "123456789.123456789", "1e131071"])
        }
        SqlType::BYTEA => vec![Datum::Bytea(vec![]), Datum::Bytea(vec![0, 255, b'\\', 3])],
        SqlType::DATE => [0, 1, -1, i32::MIN, i32::MAX, DATE_MIN, DATE_END - 1].map(Datum::Date).to_vec(),
        SqlType::TIMESTAMP => moments.map(Datum::Timestamp).to_vec(),
        SqlType::TIMESTAMPTZ => moments.map(Datum::TimestampTz).to_vec(),
        SqlType::UUID => vec![Datum::Uuid([0; 16])],
        SqlType::Interval => {
            [(0, 0, 0), (1, 1, 1), (-1, 30, -1), (i32::MAX, i32::MAX, i64::MAX), (i32::MIN, i32::MIN, i64::MIN), (7, -40, 1 << 50)]
                .map(|(months, days, micros)| Interval { months, days, micros }.datum())
                .to_vec()
        }
        SqlType::Oid => vec![Datum::Int8(0), Datum::Int8(u32::MAX.into())],
        SqlType::BPCHAR => vec![Datum::Text(String::new()), Datum::Text("ab".into())],
        _ => texts.map(|t| Datum::Text(t.into())).to_vec(),
    }
}

/// Calls with every combination of values.
fn every(function: &super::super::resolve::Function, formats: &Formats) {
    let pools: Vec<Vec<Datum>> = function.arguments.iter().map(|ty| values(*ty)).collect();
    let context = context(formats);
    let mut at = vec![0usize; pools.len()];
    loop {
        let arguments: Vec<Datum> = at.iter().zip(&pools).map(|(at, pool)| pool[*at].clone()).collect();
        if let Ok(value) = (function.call)(function.arguments.first().copied().unwrap_or(SqlType::Void), &arguments, &context) {
            let shown = super::super::text::to_string(function.result, &value, formats);
            let mut bytes = Vec::new();
            super::super::output_binary(function.result, &value, formats, &mut bytes)
                .unwrap_or_else(|error| panic!("{}({arguments:?}) gave {shown}: {error}", function.name));
        }
        let Some(place) = (0..at.len()).find(|place| at[*place] + 1 < pools[*place].len()) else { return };
        at[place] += 1;
        at[..place].fill(0);
    }
}

#[test]
fn functions_and_operators() {
    for east in [0, -57_599, 57_599] {
        let formats = Formats { zone: Zone::fixed(east), ..Formats::default() };
        for function in functions::tables().chain(operators::tables()).flat_map(|table| table.iter()) {
            let zoned = function.arguments.contains(&SqlType::TIMESTAMPTZ) || function.result == SqlType::TIMESTAMPTZ;
            // make_timestamp's many arguments would take long; the zone matters to few.
            if function.arguments.len() < 5 && (zoned || east == 0) {
                every(function, &formats);
            }
        }
    }
}

#[test]
fn casts() {
    let formats = Formats { zone: Zone::fixed(-57_599), ..Formats::default() };
    let context = context(&formats);
    let stored =
        [Type::Varchar(Some(2)), Type::Char(3), Type::Numeric(Some((5, 2))), Type::Numeric(Some((3, -5))), Type::Numeric(Some((2, 5)))];
    let targets: Vec<SqlType> = super::super::names::TYPES
        .iter()
        .map(|row| row.ty)
        .chain(stored.map(SqlType::Stored))
        .chain([SqlType::Array(Type::Int4)])
        .collect();
    for from in &targets {
        for to in &targets {
            let Some(cast) = super::super::find_cast(*from, *to, super::super::CastContext::Explicit) else { continue };
            let mut tried = values(from.base());
            if let SqlType::Array(element) = from {
                tried = vec![array::build(*element, &[Datum::Null, Datum::Int4(3)], &formats)];
            }
            for value in tried {
                if let Ok(value) = cast.call(value, &context) {
                    let _ = super::super::text::to_string(*to, &value, &formats);
                }
            }
        }
    }
}

#[test]
fn aggregates() {
    let names = ["count", "sum", "avg", "min", "max", "stddev", "var_pop", "bool_and", "bool_or"];
    for name in names {
        for row in super::super::names::TYPES {
            let Ok(found) = resolve_aggregate(name, &[row.ty]) else { continue };
            if found.casts.iter().any(Option::is_some) {
                continue;
            }
            let mut state = found.init();
            let stepped: Result<(), _> = values(row.ty).iter().try_for_each(|value| found.step(&mut state, std::slice::from_ref(value)));
            if stepped.is_ok() {
                let _ = found.finish(state);
            }
        }
    }
}
