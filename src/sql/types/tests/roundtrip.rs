//! Every value reads back as itself, as text and in binary.

use bigdecimal::BigDecimal;
use num_bigint::BigInt;
use proptest::prelude::*;

use super::super::calendar::{DATE_END, DATE_MIN, TIMESTAMP_END, TIMESTAMP_MIN};
use super::super::compare::same;
use super::super::interval::Interval;
use super::super::{Datum, Formats, SqlType, Type, Zone, array, input, input_binary, output_binary, text};
use super::context;

fn number() -> impl Strategy<Value = Datum> {
    (any::<i128>(), 0i64..40).prop_map(|(digits, scale)| Datum::Numeric(BigDecimal::new(BigInt::from(digits), scale)))
}

fn value() -> impl Strategy<Value = (SqlType, Datum)> {
    let text = "[ -~äöü€\u{1F600}]{0,20}";
    prop_oneof![
        any::<bool>().prop_map(|v| (SqlType::BOOL, Datum::Bool(v))),
        any::<i16>().prop_map(|v| (SqlType::INT2, Datum::Int2(v))),
        any::<i32>().prop_map(|v| (SqlType::INT4, Datum::Int4(v))),
        any::<i64>().prop_map(|v| (SqlType::INT8, Datum::Int8(v))),
        any::<f64>().prop_map(|v| (SqlType::FLOAT8, Datum::Float8(v))),
        number().prop_map(|v| (SqlType::NUMERIC, v)),
        text.prop_map(|v| (SqlType::TEXT, Datum::Text(v))),
        text.prop_map(|v| (SqlType::Stored(Type::Varchar(Some(20))), Datum::Text(v))),
        text.prop_map(|v| (SqlType::Stored(Type::Char(20)), Datum::Text(v.trim_end_matches(' ').to_owned()))),
        any::<Vec<u8>>().prop_map(|v| (SqlType::BYTEA, Datum::Bytea(v))),
        (TIMESTAMP_MIN..TIMESTAMP_END).prop_map(|v| (SqlType::TIMESTAMP, Datum::Timestamp(v))),
        (TIMESTAMP_MIN..TIMESTAMP_END).prop_map(|v| (SqlType::TIMESTAMPTZ, Datum::TimestampTz(v))),
        (DATE_MIN..DATE_END).prop_map(|v| (SqlType::DATE, Datum::Date(v))),
        any::<[u8; 16]>().prop_map(|v| (SqlType::UUID, Datum::Uuid(v))),
        (any::<i32>(), any::<i32>(), any::<i64>())
            .prop_map(|(months, days, micros)| (SqlType::Interval, Interval { months, days, micros }.datum())),
        any::<u32>().prop_map(|v| (SqlType::Oid, Datum::Int8(v.into()))),
        proptest::collection::vec(prop_oneof![1 => Just(Datum::Null), 5 => text.prop_map(Datum::Text)], 0..6)
            .prop_map(|values| (SqlType::Array(Type::Text), array::build(Type::Text, &values, &Formats::default()))),
    ]
}

/// The same bits, but for the many NaNs, of which text knows one.
fn equal(ty: SqlType, a: &Datum, b: &Datum) -> bool {
    a == b || (ty == SqlType::FLOAT8 && same(ty, a, b).expect("two doubles"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn text_and_binary((ty, value) in value(), east in -14i32..=14) {
        let formats = Formats { zone: Zone::fixed(east * 3600 + 1800), ..Formats::default() };
        let context = context(&formats);
        let written = text::to_string(ty, &value, &formats);
        // Near the ends of the range the local time has left it: that can't be read back, in PostgreSQL neither.
        let far = matches!(value, Datum::TimestampTz(v) if !(TIMESTAMP_MIN + 86_400_000_000..TIMESTAMP_END - 86_400_000_000).contains(&v));
        if !far {
            let read = input(ty, &written, &context);
            prop_assert!(read.as_ref().is_ok_and(|read| equal(ty, read, &value)), "{written} reads as {read:?}, was {value:?}");
        }
        let mut bytes = Vec::new();
        output_binary(ty, &value, &formats, &mut bytes).expect("a value of its type");
        let read = input_binary(ty, &bytes, &context);
        prop_assert!(read.as_ref().is_ok_and(|read| equal(ty, read, &value)), "{bytes:?} reads as {read:?}, was {value:?}");
    }

    #[test]
    fn no_input_panics(text in "\\PC{0,12}|[-+0-9:. eEPTYMDHS/adny]{0,24}", bytes in any::<Vec<u8>>()) {
        let formats = Formats::default();
        let context = context(&formats);
        for ty in super::super::names::TYPES {
            let _ = input(ty.ty, &text, &context);
            let _ = input_binary(ty.ty, &bytes, &context);
            if let SqlType::Stored(element) = ty.ty {
                let _ = input(SqlType::Array(element), &text, &context);
                let _ = input_binary(SqlType::Array(element), &bytes, &context);
            }
        }
    }
}
