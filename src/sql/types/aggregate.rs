//! Aggregates: which there are, and computing them row by row.

use std::cmp::Ordering;

use bigdecimal::BigDecimal;

use super::cast::{CastContext, CastRef, find_cast};
use super::compare::compare;
use super::interval::Interval;
use super::resolve::{Candidate, Choice, bind_casts, choose};
use super::{Datum, SqlError, SqlType, Type, fail, mismatch, numeric};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Of rows: `count(*)`.
    CountRows,
    Count,
    /// int2 and int4: in an i64.
    SumSmall,
    /// int8: in an i128, a numeric when done.
    SumLarge,
    SumNumeric,
    SumFloat,
    SumInterval,
    AvgInteger,
    AvgNumeric,
    AvgFloat,
    AvgInterval,
    Min,
    Max,
    And,
    Or,
    StringAgg,
    /// Sample or population, of variance or of its root.
    Spread(bool, bool),
    SpreadFloat(bool, bool),
}

/// An aggregate in the tables.
#[derive(Clone, Copy)]
struct Aggregate {
    name: &'static str,
    arguments: &'static [SqlType],
    result: SqlType,
    kind: Kind,
}

impl Candidate for Aggregate {
    fn arguments(&self) -> &'static [SqlType] {
        self.arguments
    }
}

/// An aggregate found.
#[derive(Clone, Debug)]
pub struct AggregateRef {
    /// Its name.
    pub name: &'static str,
    /// The types of its arguments after conversion.
    pub arguments: Vec<SqlType>,
    /// The conversion of each argument; None where it is taken as it is.
    pub casts: Vec<Option<CastRef>>,
    /// The type of its result.
    pub result: SqlType,
    kind: Kind,
}

/// What an aggregate has seen so far.
#[derive(Clone, Debug)]
pub enum State {
    /// Nothing that counts.
    Empty,
    /// Rows counted.
    Count(i64),
    /// Sum of integers, and how many.
    Integer(i128, i64),
    /// Sum of numerics, and how many.
    Numeric(BigDecimal, i64),
    /// Sum of doubles, and how many.
    Float(f64, i64),
    /// Sum of intervals, and how many.
    Interval(Interval, i64),
    /// How many, sum and sum of squares.
    Squares(i64, BigDecimal, BigDecimal),
    /// How many, sum, and sum of squared differences from the mean (Youngs and Cramer).
    FloatSquares(f64, f64, f64),
    /// The smallest, largest, conjunction or disjunction.
    Value(Datum),
    /// Text joined.
    Text(String),
    /// Bytes joined.
    Bytes(Vec<u8>),
}

const INT2: SqlType = SqlType::INT2;
const INT4: SqlType = SqlType::INT4;
const INT8: SqlType = SqlType::INT8;
const FLOAT8: SqlType = SqlType::FLOAT8;
const NUMERIC: SqlType = SqlType::NUMERIC;
const TEXT: SqlType = SqlType::TEXT;
const BOOL: SqlType = SqlType::BOOL;
const INTERVAL: SqlType = SqlType::Interval;

const fn row(name: &'static str, arguments: &'static [SqlType], result: SqlType, kind: Kind) -> Aggregate {
    Aggregate { name, arguments, result, kind }
}

static AGGREGATES: &[Aggregate] = &[
    row("count", &[], INT8, Kind::CountRows),
    row("count", &[SqlType::Any], INT8, Kind::Count),
    row("sum", &[INT2], INT8, Kind::SumSmall),
    row("sum", &[INT4], INT8, Kind::SumSmall),
    row("sum", &[INT8], NUMERIC, Kind::SumLarge),
    row("sum", &[NUMERIC], NUMERIC, Kind::SumNumeric),
    row("sum", &[FLOAT8], FLOAT8, Kind::SumFloat),
    row("sum", &[INTERVAL], INTERVAL, Kind::SumInterval),
    row("avg", &[INT2], NUMERIC, Kind::AvgInteger),
    row("avg", &[INT4], NUMERIC, Kind::AvgInteger),
    row("avg", &[INT8], NUMERIC, Kind::AvgInteger),
    row("avg", &[NUMERIC], NUMERIC, Kind::AvgNumeric),
    row("avg", &[FLOAT8], FLOAT8, Kind::AvgFloat),
    row("avg", &[INTERVAL], INTERVAL, Kind::AvgInterval),
    row("bool_and", &[BOOL], BOOL, Kind::And),
    row("every", &[BOOL], BOOL, Kind::And),
    row("bool_or", &[BOOL], BOOL, Kind::Or),
    row("string_agg", &[TEXT, TEXT], TEXT, Kind::StringAgg),
    row("string_agg", &[SqlType::BYTEA, SqlType::BYTEA], SqlType::BYTEA, Kind::StringAgg),
];

/// What has a smallest and a largest.
static ORDERED: &[[SqlType; 1]] = &[
    [INT2],
    [INT4],
    [INT8],
    [FLOAT8],
    [NUMERIC],
    [TEXT],
    [SqlType::BPCHAR],
    [SqlType::DATE],
    [SqlType::TIMESTAMP],
    [SqlType::TIMESTAMPTZ],
    [INTERVAL],
    [SqlType::Oid],
];

/// What has a variance, and whether it is computed in doubles.
static SPREAD: &[([SqlType; 1], bool)] = &[([INT2], false), ([INT4], false), ([INT8], false), ([NUMERIC], false), ([FLOAT8], true)];

fn candidates(name: &str) -> Vec<Aggregate> {
    let extreme = |name, kind| ORDERED.iter().map(|of| row(name, of, of[0], kind)).collect();
    let spread = |name, sample, root| {
        let of = |(of, float): &'static ([SqlType; 1], bool)| {
            if *float { row(name, of, FLOAT8, Kind::SpreadFloat(sample, root)) } else { row(name, of, NUMERIC, Kind::Spread(sample, root)) }
        };
        SPREAD.iter().map(of).collect()
    };
    match name {
        "min" => extreme("min", Kind::Min),
        "max" => extreme("max", Kind::Max),
        "variance" => spread("variance", true, false),
        "var_samp" => spread("var_samp", true, false),
        "var_pop" => spread("var_pop", false, false),
        "stddev" => spread("stddev", true, true),
        "stddev_samp" => spread("stddev_samp", true, true),
        "stddev_pop" => spread("stddev_pop", false, true),
        _ => AGGREGATES.iter().filter(|a| a.name == name).copied().collect(),
    }
}

/// Whether a function of that name is an aggregate.
pub fn is_aggregate(name: &str) -> bool {
    !candidates(name).is_empty()
}

/// The aggregate `name` for arguments of these types; none for `count(*)`.
///
/// # Errors
/// 42883 where there is none, 42725 where several fit equally.
pub fn resolve_aggregate(name: &str, types: &[SqlType]) -> Result<AggregateRef, SqlError> {
    let candidates = candidates(name);
    let bases: Vec<SqlType> = types.iter().map(|ty| ty.base()).collect();
    let list = || types.iter().map(|ty| ty.display_name()).collect::<Vec<_>>().join(", ");
    let exact = candidates.iter().find(|a| a.arguments == bases.as_slice()).copied();
    let found = match exact.map_or_else(|| choose(&candidates, &bases), Choice::One) {
        Choice::One(found) => found,
        Choice::None => {
            return Err(SqlError::new("42883", format!("function {name}({}) does not exist", list()))
                .hint("No function matches the given name and argument types. You might need to add explicit type casts."));
        }
        Choice::Several => {
            return Err(SqlError::new("42725", format!("function {name}({}) is not unique", list()))
                .hint("Could not choose a best candidate function. You might need to add explicit type casts."));
        }
    };
    if found.kind == Kind::Count {
        // Anything counts as it is.
        return Ok(AggregateRef { name: found.name, arguments: types.to_vec(), casts: vec![None], result: INT8, kind: found.kind });
    }
    let (mut arguments, mut casts) = bind_casts(found.arguments, types);
    // What comes out has no length: char(n) gets its blanks going in.
    for (argument, cast) in arguments.iter_mut().zip(&mut casts) {
        if let (SqlType::Stored(Type::Char(1..)), None) = (*argument, *cast) {
            *cast = find_cast(*argument, SqlType::BPCHAR, CastContext::Implicit);
            *argument = SqlType::BPCHAR;
        }
    }
    Ok(AggregateRef { name: found.name, arguments, casts, result: found.result, kind: found.kind })
}

impl AggregateRef {
    /// The state before the first row.
    pub fn init(&self) -> State {
        match self.kind {
            Kind::CountRows | Kind::Count => State::Count(0),
            _ => State::Empty,
        }
    }

    /// Takes in a row's arguments, converted by [`AggregateRef::casts`].
    ///
    /// # Errors
    /// 22003 where a sum leaves its type.
    pub fn step(&self, state: &mut State, arguments: &[Datum]) -> Result<(), SqlError> {
        let value = match (self.kind, arguments.first()) {
            (Kind::CountRows, _) | (_, None) => &Datum::Bool(true),
            (_, Some(Datum::Null)) => return Ok(()),
            (_, Some(value)) => value,
        };
        match self.kind {
            Kind::CountRows | Kind::Count => {
                if let State::Count(count) = state {
                    *count += 1;
                }
                Ok(())
            }
            Kind::SumSmall | Kind::SumLarge | Kind::AvgInteger => add_integer(state, value),
            Kind::SumNumeric | Kind::AvgNumeric => match (&mut *state, value) {
                (State::Numeric(sum, count), Datum::Numeric(value)) => {
                    *sum = numeric::add(sum, value)?;
                    *count += 1;
                    Ok(())
                }
                (_, Datum::Numeric(value)) => {
                    *state = State::Numeric(value.clone(), 1);
                    Ok(())
                }
                (_, other) => mismatch("a numeric", other),
            },
            Kind::SumFloat | Kind::AvgFloat => add_float(state, value),
            Kind::SumInterval | Kind::AvgInterval => {
                let value = Interval::from_datum(value)?;
                *state = match state {
                    State::Interval(sum, count) => State::Interval(sum.plus(value)?, *count + 1),
                    _ => State::Interval(value, 1),
                };
                Ok(())
            }
            Kind::Min => self.extreme(state, value, Ordering::Less),
            Kind::Max => self.extreme(state, value, Ordering::Greater),
            Kind::And | Kind::Or => {
                let stop = Datum::Bool(self.kind == Kind::Or);
                if !matches!(state, State::Value(seen) if *seen == stop) {
                    *state = State::Value(value.clone());
                }
                Ok(())
            }
            Kind::StringAgg => join(state, value, arguments.get(1)),
            Kind::Spread(..) => add_square(state, value),
            Kind::SpreadFloat(..) => add_float_square(state, value),
        }
    }

    fn extreme(&self, state: &mut State, value: &Datum, wanted: Ordering) -> Result<(), SqlError> {
        let ty = self.arguments.first().copied().unwrap_or(SqlType::Void);
        let better = match state {
            State::Value(best) => compare(ty, value, best)? == wanted,
            _ => true,
        };
        if better {
            *state = State::Value(value.clone());
        }
        Ok(())
    }

    /// The result.
    ///
    /// # Errors
    /// 22003 where a sum leaves its type.
    pub fn finish(&self, state: State) -> Result<Datum, SqlError> {
        Ok(match (self.kind, state) {
            (_, State::Count(count)) => Datum::Int8(count),
            (_, State::Empty) => Datum::Null,
            (Kind::SumSmall, State::Integer(sum, _)) => match i64::try_from(sum) {
                Ok(sum) => Datum::Int8(sum),
                Err(_) => return fail("22003", "bigint out of range"),
            },
            (Kind::AvgInteger, State::Integer(sum, count)) => {
                Datum::Numeric(numeric::div(&BigDecimal::from(sum), &BigDecimal::from(count))?)
            }
            (_, State::Integer(sum, _)) => Datum::Numeric(BigDecimal::from(sum)),
            (Kind::AvgNumeric, State::Numeric(sum, count)) => Datum::Numeric(numeric::div(&sum, &BigDecimal::from(count))?),
            (_, State::Numeric(sum, _)) => Datum::Numeric(sum),
            (Kind::AvgFloat, State::Float(sum, count)) => Datum::Float8(sum / count as f64),
            (_, State::Float(sum, _)) => Datum::Float8(sum),
            (Kind::AvgInterval, State::Interval(sum, count)) => sum.scale(1.0 / count as f64)?.datum(),
            (_, State::Interval(sum, _)) => sum.datum(),
            (_, State::Value(value)) => value,
            (_, State::Text(text)) => Datum::Text(text),
            (_, State::Bytes(bytes)) => Datum::Bytea(bytes),
            (Kind::Spread(sample, root), State::Squares(count, sum, squares)) => spread(count, &sum, &squares, sample, root)?,
            (Kind::SpreadFloat(sample, root), State::FloatSquares(count, _, squares)) => {
                if sample && count <= 1.0 {
                    return Ok(Datum::Null);
                }
                let variance = squares / if sample { count - 1.0 } else { count };
                Datum::Float8(if root { variance.sqrt() } else { variance })
            }
            (kind, state) => return fail("XX000", format!("aggregate {kind:?} ended in {state:?}")),
        })
    }
}

fn add_integer(state: &mut State, value: &Datum) -> Result<(), SqlError> {
    let value = match value {
        Datum::Int2(value) => i128::from(*value),
        Datum::Int4(value) => i128::from(*value),
        Datum::Int8(value) => i128::from(*value),
        other => return mismatch("an integer", other),
    };
    if let State::Integer(sum, count) = state {
        *sum += value;
        *count += 1;
    } else {
        *state = State::Integer(value, 1);
    }
    Ok(())
}

fn add_float(state: &mut State, value: &Datum) -> Result<(), SqlError> {
    let Datum::Float8(value) = value else { return mismatch("a double", value) };
    if let State::Float(sum, count) = state {
        let before = *sum;
        *sum += value;
        *count += 1;
        if sum.is_infinite() && !before.is_infinite() && !value.is_infinite() {
            return fail("22003", "value out of range: overflow");
        }
    } else {
        *state = State::Float(*value, 1);
    }
    Ok(())
}

fn join(state: &mut State, value: &Datum, separator: Option<&Datum>) -> Result<(), SqlError> {
    match (&mut *state, value) {
        (State::Text(text), Datum::Text(value)) => {
            if let Some(Datum::Text(separator)) = separator {
                text.push_str(separator);
            }
            text.push_str(value);
        }
        (State::Bytes(bytes), Datum::Bytea(value)) => {
            if let Some(Datum::Bytea(separator)) = separator {
                bytes.extend_from_slice(separator);
            }
            bytes.extend_from_slice(value);
        }
        (_, Datum::Text(value)) => *state = State::Text(value.clone()),
        (_, Datum::Bytea(value)) => *state = State::Bytes(value.clone()),
        (_, other) => return mismatch("text", other),
    }
    Ok(())
}

fn add_square(state: &mut State, value: &Datum) -> Result<(), SqlError> {
    let value = match value {
        Datum::Int2(value) => BigDecimal::from(*value),
        Datum::Int4(value) => BigDecimal::from(*value),
        Datum::Int8(value) => BigDecimal::from(*value),
        Datum::Numeric(value) => value.clone(),
        other => return mismatch("a number", other),
    };
    let square = numeric::mul(&value, &value)?;
    *state = match state {
        State::Squares(count, sum, squares) => State::Squares(*count + 1, numeric::add(sum, &value)?, numeric::add(squares, &square)?),
        _ => State::Squares(1, value, square),
    };
    Ok(())
}

fn add_float_square(state: &mut State, value: &Datum) -> Result<(), SqlError> {
    let Datum::Float8(value) = value else { return mismatch("a double", value) };
    *state = match state {
        State::FloatSquares(count, sum, squares) => {
            let (count, sum) = (*count + 1.0, *sum + value);
            let apart = value * count - sum;
            State::FloatSquares(count, sum, *squares + apart * apart / (count * (count - 1.0)))
        }
        _ => State::FloatSquares(1.0, *value, if value.is_finite() { 0.0 } else { f64::NAN }),
    };
    Ok(())
}

/// `numeric_stddev_internal`: (n * squares - sum^2) / (n * (n - 1)).
fn spread(count: i64, sum: &BigDecimal, squares: &BigDecimal, sample: bool, root: bool) -> Result<Datum, SqlError> {
    if sample && count <= 1 {
        return Ok(Datum::Null);
    }
    let n = BigDecimal::from(count);
    let top = numeric::sub(&numeric::mul(&n, squares)?, &numeric::mul(sum, sum)?)?;
    if numeric::compare(&top, &BigDecimal::from(0)) != Ordering::Greater {
        return Ok(Datum::Numeric(BigDecimal::from(0)));
    }
    let below = if sample { BigDecimal::from(count - 1) } else { n.clone() };
    let variance = numeric::div(&top, &numeric::mul(&n, &below)?)?;
    Ok(Datum::Numeric(if root { numeric::sqrt_to(&variance, variance.fractional_digit_count())? } else { variance }))
}
