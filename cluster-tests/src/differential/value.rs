//! Types and values as the generator knows them: drawn by chance, written as literals, sent as text or binary parameters.
//!
//! Values come from small domains, so that rows meet (duplicates, joins, groups), with a few extremes. Equal values have equal texts
//! (no `1.0` beside `1`), so that which of two equals a server shows can't be seen.

use regroup::base::Random;

/// A column's type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "named as in SQL")]
pub enum Kind {
    Int2,
    Int4,
    Int8,
    Float8,
    Numeric(Option<(u16, u16)>),
    Bool,
    Text,
    Varchar(u32),
    Char(u32),
    Bytea,
    Timestamp,
    TimestampTz,
    Date,
    Uuid,
}

/// A value, of a type known from elsewhere.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Unknown.
    Null,
    /// int2, int4, int8.
    Int(i64),
    /// float8.
    Float(f64),
    /// numeric, as digits.
    Numeric(String),
    /// bool.
    Bool(bool),
    /// text, varchar, char.
    Text(String),
    /// bytea.
    Bytea(Vec<u8>),
    /// timestamp, timestamptz: microseconds since 2000.
    Micros(i64),
    /// date: days since 2000.
    Days(i32),
    /// uuid.
    Uuid([u8; 16]),
}

const WORDS: [&str; 14] =
    ["", "a", "b", "ab", "Abc", "x y", "zeta", "é", "日本", "o'clock", "back\\slash", "100%", "under_score", "longer text here"];
const DAY: i64 = 86_400_000_000;

impl Kind {
    /// Any type.
    pub fn any(random: &mut Random) -> Kind {
        match random.below(16) {
            0 => Kind::Int2,
            1..=3 => Kind::Int4,
            4 => Kind::Int8,
            5 => Kind::Float8,
            6 => Kind::Numeric(None),
            7 => Kind::Numeric(Some(*random.pick(&[(4, 0), (6, 2), (10, 3), (20, 10)]))),
            8 => Kind::Bool,
            9 => Kind::Text,
            10 => Kind::Varchar(*random.pick(&[3, 8, 40])),
            11 => Kind::Char(*random.pick(&[1, 5, 20])),
            12 => Kind::Bytea,
            13 => *random.pick(&[Kind::Timestamp, Kind::TimestampTz]),
            14 => Kind::Date,
            _ => Kind::Uuid,
        }
    }

    /// Its name in SQL.
    pub fn sql(self) -> String {
        match self {
            Kind::Int2 => "smallint".into(),
            Kind::Int4 => "integer".into(),
            Kind::Int8 => "bigint".into(),
            Kind::Float8 => "double precision".into(),
            Kind::Numeric(None) => "numeric".into(),
            Kind::Numeric(Some((precision, scale))) => format!("numeric({precision},{scale})"),
            Kind::Bool => "boolean".into(),
            Kind::Text => "text".into(),
            Kind::Varchar(length) => format!("varchar({length})"),
            Kind::Char(length) => format!("char({length})"),
            Kind::Bytea => "bytea".into(),
            Kind::Timestamp => "timestamp".into(),
            Kind::TimestampTz => "timestamptz".into(),
            Kind::Date => "date".into(),
            Kind::Uuid => "uuid".into(),
        }
    }

    /// Object id of the type in PostgreSQL's catalog.
    pub fn oid(self) -> u32 {
        match self {
            Kind::Bool => 16,
            Kind::Bytea => 17,
            Kind::Int8 => 20,
            Kind::Int2 => 21,
            Kind::Int4 => 23,
            Kind::Text => 25,
            Kind::Float8 => 701,
            Kind::Char(_) => 1042,
            Kind::Varchar(_) => 1043,
            Kind::Date => 1082,
            Kind::Timestamp => 1114,
            Kind::TimestampTz => 1184,
            Kind::Numeric(_) => 1700,
            Kind::Uuid => 2950,
        }
    }

    /// It can be summed and averaged.
    pub fn is_number(self) -> bool {
        matches!(self, Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Float8 | Kind::Numeric(_))
    }

    /// int2, int4, int8.
    pub fn is_integer(self) -> bool {
        matches!(self, Kind::Int2 | Kind::Int4 | Kind::Int8)
    }

    /// text, varchar, char.
    pub fn is_text(self) -> bool {
        matches!(self, Kind::Text | Kind::Varchar(_) | Kind::Char(_))
    }

    /// PostgreSQL 15 has min() and max() of it.
    pub fn has_extremes(self) -> bool {
        !matches!(self, Kind::Bool | Kind::Bytea | Kind::Uuid)
    }

    /// Any value of it but null.
    pub fn value(self, random: &mut Random) -> Value {
        let extreme = random.chance(0.03);
        match self {
            Kind::Int2 if extreme => Value::Int(*random.pick(&[-32768, 32767])),
            Kind::Int4 if extreme => Value::Int(*random.pick(&[i64::from(i32::MIN), i64::from(i32::MAX)])),
            Kind::Int8 if extreme => Value::Int(*random.pick(&[i64::MIN, i64::MAX])),
            Kind::Int2 | Kind::Int4 | Kind::Int8 => {
                Value::Int(if random.chance(0.7) { random.below(12) } else { random.below(2000) } as i64 - 4)
            }
            Kind::Float8 if extreme => Value::Float(*random.pick(&[f64::INFINITY, f64::NAN, 1e10, -12_345_678.75])),
            Kind::Float8 => Value::Float((random.below(80) as f64 - 20.0) / 4.0),
            Kind::Numeric(None) if extreme => Value::Numeric(
                random.pick(&["123456789012345678901234567890.123", "0.000000000000000001", "-99999999999999999999"]).to_string(),
            ),
            Kind::Numeric(None) => Value::Numeric(plain(random.below(900) as i64 - 200, random.below(4) as usize)),
            Kind::Numeric(Some((_, scale))) => {
                Value::Numeric(plain(random.below(900) as i64 - 200, random.below(u64::from(scale) + 1) as usize))
            }
            Kind::Bool => Value::Bool(random.chance(0.5)),
            Kind::Text => Value::Text(word(random, 40)),
            Kind::Varchar(length) | Kind::Char(length) => Value::Text(word(random, length as usize)),
            Kind::Bytea => {
                let mut bytes = vec![0; random.below(5) as usize];
                random.bytes(&mut bytes);
                bytes.iter_mut().for_each(|byte| *byte &= 0x83);
                Value::Bytea(bytes)
            }
            Kind::Timestamp | Kind::TimestampTz => {
                let day = random.below(40) as i64 * 300 - 4000;
                let within = *random.pick(&[0, DAY / 2, 3_661_000_000, 3_661_123_456, DAY - 1]);
                Value::Micros(if extreme { *random.pick(&[i64::MAX, i64::MIN, -730_119 * DAY]) } else { day * DAY + within })
            }
            Kind::Date => {
                Value::Days(if extreme { *random.pick(&[i32::MAX, i32::MIN, -730_119]) } else { random.below(40) as i32 * 300 - 4000 })
            }
            Kind::Uuid => {
                let mut bytes = [0x11; 16];
                bytes[15] = random.below(10) as u8;
                bytes[0] = random.below(3) as u8;
                Value::Uuid(bytes)
            }
        }
    }
}

/// `digits` with `scale` of them behind the point, without zeros at the end.
fn plain(digits: i64, scale: usize) -> String {
    let (mut digits, mut scale) = (digits, scale);
    while scale > 0 && digits % 10 == 0 {
        (digits, scale) = (digits / 10, scale - 1);
    }
    if scale == 0 {
        return digits.to_string();
    }
    let sign = if digits < 0 { "-" } else { "" };
    let text = format!("{:0width$}", digits.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = text.split_at(text.len() - scale);
    format!("{sign}{whole}.{fraction}")
}

/// At most `length` characters; not ending in a blank, which char(n) would not keep.
fn word(random: &mut Random, length: usize) -> String {
    let mut text: String = random.pick(&WORDS).chars().take(length).collect();
    while text.ends_with(' ') {
        text.pop();
    }
    text
}

/// Year, month, day of a day since 2000-01-01 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 10_957 + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, of_year - (153 * shifted_month + 2) / 5 + 1)
}

fn date_text(days: i64) -> String {
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}")
}

impl Value {
    /// As text, as a parameter or between quotes; None for null.
    pub fn text(&self, kind: Kind) -> Option<String> {
        Some(match self {
            Value::Null => return None,
            Value::Int(value) => value.to_string(),
            Value::Float(value) if value.is_infinite() => if *value > 0.0 { "Infinity" } else { "-Infinity" }.into(),
            Value::Float(value) => value.to_string(),
            Value::Numeric(text) | Value::Text(text) => text.clone(),
            Value::Bool(value) => if *value { "t" } else { "false" }.into(),
            Value::Bytea(bytes) => format!("\\x{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
            Value::Micros(i64::MAX) | Value::Days(i32::MAX) => "infinity".into(),
            Value::Micros(i64::MIN) | Value::Days(i32::MIN) => "-infinity".into(),
            Value::Days(days) => date_text(i64::from(*days)),
            Value::Micros(micros) => {
                let zone = if kind == Kind::TimestampTz { "+00" } else { "" };
                let (date, within) = (date_text(micros.div_euclid(DAY)), micros.rem_euclid(DAY));
                let (seconds, fraction) = (within / 1_000_000, within % 1_000_000);
                let point = if fraction > 0 { format!(".{fraction:06}") } else { String::new() };
                format!("{date} {:02}:{:02}:{:02}{point}{zone}", seconds / 3600, seconds / 60 % 60, seconds % 60)
            }
            Value::Uuid(bytes) => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
            }
        })
    }

    /// As a literal that fits where `kind` is expected.
    pub fn literal(&self, kind: Kind) -> String {
        match (self, self.text(kind)) {
            (_, None) => "NULL".into(),
            (Value::Int(value), Some(_)) if *value == i64::MIN => "'-9223372036854775808'".into(),
            (Value::Int(_) | Value::Numeric(_), Some(text)) if text.starts_with('-') => format!("({text})"),
            (Value::Float(value), Some(text)) if !value.is_finite() => format!("'{text}'"),
            (Value::Float(_), Some(text)) if text.starts_with('-') => format!("({text})"),
            (Value::Int(_) | Value::Float(_) | Value::Numeric(_), Some(text)) => text,
            (Value::Bool(value), Some(_)) => value.to_string(),
            (_, Some(text)) => format!("'{}'", text.replace('\'', "''")),
        }
    }

    /// As a binary parameter; None for null.
    pub fn binary(&self, kind: Kind) -> Option<Vec<u8>> {
        Some(match self {
            Value::Null => return None,
            Value::Int(value) => match kind {
                Kind::Int2 => (*value as i16).to_be_bytes().to_vec(),
                Kind::Int4 => (*value as i32).to_be_bytes().to_vec(),
                _ => value.to_be_bytes().to_vec(),
            },
            Value::Float(value) => value.to_be_bytes().to_vec(),
            Value::Numeric(text) => numeric_binary(text),
            Value::Bool(value) => vec![u8::from(*value)],
            Value::Text(text) => text.clone().into_bytes(),
            Value::Bytea(bytes) => bytes.clone(),
            Value::Micros(micros) => micros.to_be_bytes().to_vec(),
            Value::Days(days) => days.to_be_bytes().to_vec(),
            Value::Uuid(bytes) => bytes.to_vec(),
        })
    }
}

/// numeric's wire format: digits of base 10000, weight of the first, sign, digits behind the point.
fn numeric_binary(text: &str) -> Vec<u8> {
    let (sign, digits) = text.strip_prefix('-').map_or((0u16, text), |rest| (0x4000, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let padded = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
    let tail = format!("{fraction}{}", "0".repeat((4 - fraction.len() % 4) % 4));
    let all = format!("{padded}{tail}");
    let mut groups: Vec<u16> =
        all.as_bytes().chunks(4).map(|four| four.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'))).collect();
    let mut weight = (padded.len() / 4) as i16 - 1;
    while groups.first() == Some(&0) {
        groups.remove(0);
        weight -= 1;
    }
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let weight = if groups.is_empty() { 0 } else { weight };
    let head = [groups.len() as u16, weight as u16, sign, fraction.len() as u16];
    head.iter().chain(&groups).flat_map(|word| word.to_be_bytes()).collect()
}
