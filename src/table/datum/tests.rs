//! Both codecs against values: what is stored comes back, keys sort as values do, damaged bytes are refused.

use std::cmp::Ordering;
use std::ops::Bound;
use std::str::FromStr;

use bigdecimal::BigDecimal;
use num_bigint::BigInt;
use proptest::prelude::*;

use super::key::{KeyRange, decode_key, encode_key};
use super::row::{decode_column, decode_columns, decode_row, encode_row, raw_column};
use super::{CodecError, Datum, Type};
use crate::table::catalog::Column;

const TYPES: [Type; 14] = [
    Type::Bool,
    Type::Int2,
    Type::Int4,
    Type::Int8,
    Type::Float8,
    Type::Numeric(None),
    Type::Text,
    Type::Varchar(None),
    Type::Char(10),
    Type::Bytea,
    Type::Timestamp,
    Type::TimestampTz,
    Type::Date,
    Type::Uuid,
];

fn numeric() -> impl Strategy<Value = BigDecimal> {
    let small = (-1000i64..1000, -3i64..4).prop_map(|(digits, scale)| BigDecimal::new(digits.into(), scale));
    let large = (any::<i128>(), -200i64..200).prop_map(|(digits, scale)| BigDecimal::new(BigInt::from(digits), scale));
    prop_oneof![small, large]
}

/// Strings of few letters, so that they share beginnings.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::collection::vec(prop_oneof![Just('\0'), Just('a'), Just('\u{1}'), Just('é'), Just('b')], 0..5)
            .prop_map(|chars| chars.into_iter().collect()),
        any::<String>()
    ]
}

fn datum(ty: Type) -> BoxedStrategy<Datum> {
    let value = match ty {
        Type::Bool => any::<bool>().prop_map(Datum::Bool).boxed(),
        Type::Int2 => any::<i16>().prop_map(Datum::Int2).boxed(),
        Type::Int4 => prop_oneof![any::<i32>(), -3..3i32].prop_map(Datum::Int4).boxed(),
        Type::Int8 => prop_oneof![any::<i64>(), -3..3i64].prop_map(Datum::Int8).boxed(),
        Type::Float8 => {
            let special = prop_oneof![Just(0.0), Just(-0.0), Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(-f64::NAN)];
            prop_oneof![any::<f64>(), special].prop_map(Datum::Float8).boxed()
        }
        Type::Numeric(_) => numeric().prop_map(Datum::Numeric).boxed(),
        Type::Text | Type::Varchar(_) => text().prop_map(Datum::Text).boxed(),
        Type::Char(_) => text().prop_map(|text| Datum::Text(text.trim_end_matches(' ').to_owned())).boxed(),
        Type::Bytea => {
            proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()], 0..6).prop_map(Datum::Bytea).boxed()
        }
        Type::Timestamp => any::<i64>().prop_map(Datum::Timestamp).boxed(),
        Type::TimestampTz => any::<i64>().prop_map(Datum::TimestampTz).boxed(),
        Type::Date => any::<i32>().prop_map(Datum::Date).boxed(),
        Type::Uuid => any::<[u8; 16]>().prop_map(Datum::Uuid).boxed(),
    };
    prop_oneof![1 => Just(Datum::Null), 6 => value].boxed()
}

fn types() -> impl Strategy<Value = Vec<Type>> {
    proptest::collection::vec(proptest::sample::select(TYPES.to_vec()), 1..5)
}

fn row_of(types: &[Type]) -> Vec<BoxedStrategy<Datum>> {
    types.iter().map(|ty| datum(*ty)).collect()
}

fn columns(types: &[Type]) -> Vec<Column> {
    let column = |(number, ty): (usize, &Type)| Column { name: format!("c{number}"), ty: *ty, not_null: false, default: None };
    types.iter().enumerate().map(column).collect()
}

/// PostgreSQL's ascending order, nulls last.
fn order(one: &Datum, other: &Datum) -> Ordering {
    match (one, other) {
        (Datum::Null, Datum::Null) => Ordering::Equal,
        (Datum::Null, _) => Ordering::Greater,
        (_, Datum::Null) => Ordering::Less,
        (Datum::Bool(a), Datum::Bool(b)) => a.cmp(b),
        (Datum::Int2(a), Datum::Int2(b)) => a.cmp(b),
        (Datum::Int4(a), Datum::Int4(b)) | (Datum::Date(a), Datum::Date(b)) => a.cmp(b),
        (Datum::Int8(a), Datum::Int8(b)) | (Datum::Timestamp(a), Datum::Timestamp(b)) | (Datum::TimestampTz(a), Datum::TimestampTz(b)) => {
            a.cmp(b)
        }
        (Datum::Float8(a), Datum::Float8(b)) => match (a.is_nan(), b.is_nan()) {
            (false, false) => a.partial_cmp(b).unwrap(),
            (a, b) => a.cmp(&b),
        },
        (Datum::Numeric(a), Datum::Numeric(b)) => a.cmp(b),
        (Datum::Text(a), Datum::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Datum::Bytea(a), Datum::Bytea(b)) => a.cmp(b),
        (Datum::Uuid(a), Datum::Uuid(b)) => a.cmp(b),
        _ => panic!("of different types: {one:?}, {other:?}"),
    }
}

fn order_rows(one: &[Datum], other: &[Datum]) -> Ordering {
    one.iter().zip(other).map(|(one, other)| order(one, other)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn key(values: &[Datum], types: &[Type]) -> Vec<u8> {
    let mut key = Vec::new();
    encode_key(values, types, &mut key).unwrap();
    key
}

proptest! {
    #[test]
    fn keys_sort_as_their_values(((one, other), types) in types().prop_flat_map(|types| ((row_of(&types), row_of(&types)), Just(types)))) {
        prop_assert_eq!(key(&one, &types).cmp(&key(&other, &types)), order_rows(&one, &other));
    }

    #[test]
    fn no_key_begins_another((one, other, types) in types().prop_flat_map(|types| (row_of(&types), row_of(&types), Just(types)))) {
        let (one, other) = (key(&one, &types), key(&other, &types));
        prop_assert!(one == other || !other.starts_with(&one));
    }

    #[test]
    fn numerics_sort_exactly(a in numeric(), b in numeric()) {
        let of = |value: &BigDecimal| key(&[Datum::Numeric(value.clone())], &[Type::Numeric(None)]);
        prop_assert_eq!(of(&a).cmp(&of(&b)), a.cmp(&b));
    }

    #[test]
    fn keys_read_back((values, types, behind) in types().prop_flat_map(|types| (row_of(&types), Just(types), any::<Vec<u8>>()))) {
        let mut bytes = key(&values, &types);
        bytes.extend(&behind);
        let (read, rest) = decode_key(&bytes, &types).unwrap();
        prop_assert_eq!(rest, &behind);
        prop_assert_eq!(order_rows(&values, &read), Ordering::Equal);
    }

    #[test]
    fn ranges_hold_what_they_say((equal, low, high, value, types, inclusive) in types().prop_flat_map(|types| {
        let last = *types.last().unwrap();
        (row_of(&types[..types.len() - 1]), proptest::option::of(datum(last)), proptest::option::of(datum(last)), row_of(&types), Just(types), any::<[bool; 2]>())
    })) {
        let not_null = |datum: Option<Datum>| datum.filter(|datum| *datum != Datum::Null);
        let (low, high) = (not_null(low), not_null(high));
        let bound = |datum: &Option<Datum>, inclusive: bool| match datum {
            None => Bound::Unbounded,
            Some(datum) if inclusive => Bound::Included(datum.clone()),
            Some(datum) => Bound::Excluded(datum.clone()),
        };
        let (low, high) = (bound(&low, inclusive[0]), bound(&high, inclusive[1]));
        let range = KeyRange::between(&equal, low.as_ref(), high.as_ref(), &types).unwrap();
        let last = value.last().unwrap();
        let all = low == Bound::Unbounded && high == Bound::Unbounded;
        let above = match &low { Bound::Included(low) => order(low, last).is_le(), Bound::Excluded(low) => order(low, last).is_lt(), Bound::Unbounded => true };
        let below = match &high { Bound::Included(high) => order(last, high).is_le(), Bound::Excluded(high) => order(last, high).is_lt(), Bound::Unbounded => true };
        let expected = order_rows(&equal, &value).is_eq() && (all || (*last != Datum::Null && above && below));
        // Entries have more behind their columns.
        let mut entry = key(&value, &types);
        for _ in 0..2 {
            let above = match &range.low { Bound::Included(low) => *low <= entry, Bound::Excluded(low) => *low < entry, Bound::Unbounded => true };
            let below = match &range.high { Bound::Included(high) => entry <= *high, Bound::Excluded(high) => entry < *high, Bound::Unbounded => true };
            prop_assert_eq!(above && below, expected);
            entry.push(0xff);
        }
    }

    #[test]
    fn rows_read_back((row, types) in types().prop_flat_map(|types| (row_of(&types), Just(types)))) {
        let columns = columns(&types);
        let mut bytes = Vec::new();
        encode_row(&row, &columns, &mut bytes).unwrap();
        let same = |one: &Datum, other: &Datum| match (one, other) {
            (Datum::Float8(one), Datum::Float8(other)) => one.to_bits() == other.to_bits(),
            // The scale counts: 1.0 isn't 1.00 here.
            (Datum::Numeric(one), Datum::Numeric(other)) => one.as_bigint_and_exponent() == other.as_bigint_and_exponent(),
            _ => one == other,
        };
        let read = decode_row(&bytes, &columns).unwrap();
        prop_assert!(row.iter().zip(&read).all(|(one, other)| same(one, other)), "{:?} became {:?}", row, read);
        for (position, datum) in row.iter().enumerate() {
            prop_assert!(same(datum, &decode_column(&bytes, &columns, position).unwrap()));
            prop_assert_eq!(raw_column(&bytes, &columns, position).unwrap().is_none(), *datum == Datum::Null);
        }
        let mut last = Vec::new();
        decode_columns(&bytes, &columns, &[row.len() as u16 - 1], &mut last).unwrap();
        prop_assert!(same(&last[0], row.last().unwrap()));
    }

    #[test]
    fn damaged_bytes_are_no_panic(types in types(), bytes in any::<Vec<u8>>(), version in any::<bool>()) {
        let mut row = bytes.clone();
        if let (true, Some(first)) = (version, row.first_mut()) {
            *first = super::row::ROW_FORMAT;
        }
        let _ = decode_row(&row, &columns(&types));
        let _ = decode_key(&bytes, &types);
    }

    #[test]
    fn flipped_rows_are_no_panic((row, types) in types().prop_flat_map(|types| (row_of(&types), Just(types))), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = Vec::new();
        encode_row(&row, &columns(&types), &mut bytes).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = decode_row(&bytes, &columns(&types));
        bytes.truncate(at);
        let cut = decode_row(&bytes, &columns(&types));
        prop_assert!(cut.is_err() || row.is_empty() || at == bytes.len());
    }
}

#[test]
fn equal_numbers_have_equal_keys_and_keep_their_scale() {
    let numbers = ["1", "1.0", "1.00", "100e-2"].map(|text| BigDecimal::from_str(text).unwrap());
    let keys = numbers.clone().map(|number| key(&[Datum::Numeric(number)], &[Type::Numeric(None)]));
    assert!(keys.iter().all(|other| *other == keys[0]));
    let columns = columns(&[Type::Numeric(None)]);
    let mut row = Vec::new();
    encode_row(&[Datum::Numeric(numbers[2].clone())], &columns, &mut row).unwrap();
    let Datum::Numeric(read) = decode_column(&row, &columns, 0).unwrap() else { panic!() };
    assert_eq!(read.as_bigint_and_exponent().1, 2);
}

#[test]
fn blanks_at_the_end_of_char_do_not_count() {
    let of = |text: &str| key(&[Datum::Text(text.to_owned())], &[Type::Char(5)]);
    assert_eq!(of("ab"), of("ab   "));
    assert!(of("ab") < of("ab c"));
}

#[test]
fn a_value_of_another_type_is_refused() {
    let mut out = Vec::new();
    let refused = encode_row(&[Datum::Int4(1)], &columns(&[Type::Int8]), &mut out);
    assert_eq!(refused, Err(CodecError::Mismatch { ty: Type::Int8, found: "Int4(1)".to_owned() }));
    assert!(matches!(encode_key(&[Datum::Bool(true)], &[Type::Text], &mut out), Err(CodecError::Mismatch { .. })));
    assert!(matches!(encode_row(&[], &columns(&[Type::Int8]), &mut out), Err(CodecError::Columns { expected: 1, found: 0 })));
    let far = Datum::Numeric(BigDecimal::new(1.into(), super::SCALE_MAX + 1));
    assert!(matches!(encode_row(&[far], &columns(&[Type::Numeric(None)]), &mut out), Err(CodecError::Scale { .. })));
}

#[test]
fn a_row_from_before_a_column_was_added_has_null_there() {
    let (before, after) = (columns(&[Type::Int4]), columns(&[Type::Int4, Type::Text]));
    let mut row = Vec::new();
    encode_row(&[Datum::Int4(7)], &before, &mut row).unwrap();
    assert_eq!(decode_row(&row, &after).unwrap(), [Datum::Int4(7), Datum::Null]);
    encode_row(&[Datum::Int4(7), Datum::Null], &after, {
        row.clear();
        &mut row
    })
    .unwrap();
    assert_eq!(decode_row(&row, &before), Err(CodecError::Columns { expected: 1, found: 2 }));
    row[0] = 9;
    assert_eq!(decode_row(&row, &after), Err(CodecError::Format { expected: 1, found: 9 }));
}

/// The layout of docs/formats/row.md, byte by byte.
#[test]
fn golden_bytes() {
    let types = [Type::Int4, Type::Bool, Type::Numeric(None), Type::Text, Type::Int2];
    let number = Datum::Numeric(BigDecimal::from_str("-12.50").unwrap());
    let values = [Datum::Int4(-2), Datum::Null, number, Datum::Text("a\0".to_owned()), Datum::Int2(1)];
    let mut row = Vec::new();
    encode_row(&values, &columns(&types), &mut row).unwrap();
    // format, columns, nulls, -2, length 6: scale 2, -1250; length 2: a 0; 1
    assert_eq!(row, [1, 5, 0b10, 0xfe, 0xff, 0xff, 0xff, 6, 2, 0, 0, 0, 0xfb, 0x1e, 2, b'a', 0, 1, 0]);
    let golden = [
        &[1, 0x7f, 0xff, 0xff, 0xfe][..],
        &[2],
        // minus; exponent 2, digits 12 50, end, all complemented
        &[1, 0, !130, !13, !51, !0],
        &[1, b'a', 0, 0xff, 0, 1],
        &[1, 0x80, 1],
    ];
    assert_eq!(key(&values, &types), golden.concat());
}
