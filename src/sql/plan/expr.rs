//! Expressions that are bound: names are positions, operators and functions are found, types agree.
//!
//! The binder makes them, nodes of a plan evaluate them row by row. Evaluation is synchronous: what has to wait (subqueries, `nextval`,
//! `pg_sleep`) is a [`super::Subplan`], answered before the expression is evaluated, and stands here by its number.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::builtins::Builtin;
use crate::sql::arrays;
use crate::sql::error::SqlError;
use crate::sql::types::resolve::Volatility;
use crate::sql::types::{self, AggregateRef, CastRef, Datum, FunctionRef, SqlType};
use crate::sql::world::World;

/// A row under way.
pub type Row = Vec<Datum>;

/// A comparison of two values of one type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compare {
    /// `=`
    Eq,
    /// `<>`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

impl Compare {
    /// The operator of that name.
    pub fn of(operator: &str) -> Option<Compare> {
        Some(match operator {
            "=" => Compare::Eq,
            "<>" | "!=" => Compare::Ne,
            "<" => Compare::Lt,
            "<=" => Compare::Le,
            ">" => Compare::Gt,
            ">=" => Compare::Ge,
            _ => return None,
        })
    }

    /// Whether values in that order satisfy it.
    pub fn holds(self, order: Ordering) -> bool {
        match self {
            Compare::Eq => order.is_eq(),
            Compare::Ne => order.is_ne(),
            Compare::Lt => order.is_lt(),
            Compare::Le => order.is_le(),
            Compare::Gt => order.is_gt(),
            Compare::Ge => order.is_ge(),
        }
    }

    /// The same with its sides exchanged.
    pub fn mirrored(self) -> Compare {
        match self {
            Compare::Lt => Compare::Gt,
            Compare::Le => Compare::Ge,
            Compare::Gt => Compare::Lt,
            Compare::Ge => Compare::Le,
            same => same,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Compare::Eq => "=",
            Compare::Ne => "<>",
            Compare::Lt => "<",
            Compare::Le => "<=",
            Compare::Gt => ">",
            Compare::Ge => ">=",
        }
    }
}

/// A bound expression.
#[derive(Clone, Debug)]
pub enum Expr {
    /// A value.
    Const(Datum),
    /// A column of the row at hand.
    Column(usize),
    /// A parameter, from 0.
    Param(usize),
    /// A column of a row of an enclosing query; `up` 0 is the next one out.
    Outer { up: usize, column: usize },
    /// Two values of the same type compared.
    Compare(Compare, SqlType, Box<Expr>, Box<Expr>),
    /// A function or operator.
    Call(FunctionRef, Vec<Expr>),
    /// A function that knows the session or the catalog.
    Builtin(Builtin, Vec<Expr>),
    /// A conversion.
    Cast(CastRef, Box<Expr>),
    /// All true.
    And(Vec<Expr>),
    /// One true.
    Or(Vec<Expr>),
    /// Not.
    Not(Box<Expr>),
    /// `IS NULL`.
    IsNull(Box<Expr>),
    /// `IS TRUE`, `IS FALSE`: never null.
    Is(Box<Expr>, bool),
    /// `IS NOT DISTINCT FROM`: nulls are equal.
    Same(SqlType, Box<Expr>, Box<Expr>),
    /// `CASE`; what has no branch is the last.
    Case(Vec<(Expr, Expr)>, Box<Expr>),
    /// The first that isn't null.
    Coalesce(Vec<Expr>),
    /// `GREATEST` (`Gt`), `LEAST` (`Lt`).
    Extreme(Compare, SqlType, Vec<Expr>),
    /// `left op ANY (array)` and, with `all`, `left op ALL (array)`; `ty` is the array's type.
    Any { compare: Box<Comparison>, left: Box<Expr>, array: Box<Expr>, ty: SqlType, all: bool },
    /// `ARRAY[..]`.
    Array(Vec<Expr>, SqlType),
    /// An element of an array of that type, by its subscript.
    Element(SqlType, Box<Expr>, Box<Expr>),
    /// A function of an array of that type.
    OfArray(arrays::Function, SqlType, Vec<Expr>),
    /// What a subplan has answered.
    Answer(usize),
    /// `left op ANY (subquery)` and, with `all`, `ALL`.
    InAnswer { compare: Box<Comparison>, left: Box<Expr>, subplan: usize, all: bool },
}

/// How a value is compared with those of a list.
#[derive(Clone, Debug)]
pub enum Comparison {
    /// Both have one type.
    Plain(Compare, SqlType),
    /// By an operator.
    Function(FunctionRef),
}

/// What a subplan found.
#[derive(Clone, Debug)]
pub enum Answer {
    /// One value.
    Value(Datum),
    /// All values of one column.
    List(Vec<Datum>),
}

/// What an expression is evaluated with.
pub struct Env<'a> {
    /// The statement's parameters.
    pub params: &'a [Datum],
    /// Settings, time, randomness.
    pub context: types::Context<'a>,
    /// Rows of enclosing queries, the outermost first.
    pub outer: &'a [Row],
    /// Answers of subplans, by number.
    pub answers: &'a [Option<Answer>],
    /// Session and catalog.
    pub world: &'a World,
}

const NULL: Datum = Datum::Null;

fn integer(value: &Datum) -> Option<i64> {
    match value {
        Datum::Int2(value) => Some(i64::from(*value)),
        Datum::Int4(value) => Some(i64::from(*value)),
        Datum::Int8(value) => Some(*value),
        _ => None,
    }
}

/// Compares values of type `ty`; integers of any size with each other.
fn compare_values(ty: SqlType, left: &Datum, right: &Datum) -> Result<Ordering, SqlError> {
    match (integer(left), integer(right)) {
        (Some(left), Some(right)) => Ok(left.cmp(&right)),
        _ => types::compare(ty, left, right),
    }
}

fn internal(what: &str) -> SqlError {
    SqlError::new("XX000", format!("expression can't be evaluated: {what}"))
}

fn truth(value: &Datum) -> Result<Option<bool>, SqlError> {
    match value {
        Datum::Null => Ok(None),
        Datum::Bool(value) => Ok(Some(*value)),
        _ => Err(internal("a condition that is no boolean")),
    }
}

fn boolean(value: Option<bool>) -> Datum {
    value.map_or(NULL, Datum::Bool)
}

impl Comparison {
    fn compare(&self, left: &Datum, right: &Datum, env: &Env<'_>) -> Result<Option<bool>, SqlError> {
        match self {
            _ if *left == NULL || *right == NULL => Ok(None),
            Comparison::Plain(compare, ty) => Ok(Some(compare.holds(compare_values(*ty, left, right)?))),
            Comparison::Function(function) => truth(&function.call(&[left.clone(), right.clone()], &env.context)?),
        }
    }

    /// ANY or ALL of `list`.
    fn quantified(&self, left: &Datum, list: &[Datum], all: bool, env: &Env<'_>) -> Result<Datum, SqlError> {
        let mut unknown = false;
        for right in list {
            match self.compare(left, right, env)? {
                None => unknown = true,
                Some(holds) if holds != all => return Ok(Datum::Bool(holds)),
                Some(_) => {}
            }
        }
        Ok(if unknown { NULL } else { Datum::Bool(all) })
    }
}

impl Expr {
    /// The constant null.
    pub const NULL: Expr = Expr::Const(Datum::Null);

    /// Its value for `row`.
    ///
    /// # Errors
    /// What functions and conversions say.
    pub fn eval(&self, row: &[Datum], env: &Env<'_>) -> Result<Datum, SqlError> {
        self.value(row, env).map(Cow::into_owned)
    }

    /// Whether it is true for `row`: null isn't.
    ///
    /// # Errors
    /// As [`Expr::eval`].
    pub fn holds(&self, row: &[Datum], env: &Env<'_>) -> Result<bool, SqlError> {
        Ok(truth(&*self.value(row, env)?)? == Some(true))
    }

    /// Its value, borrowed where it stands somewhere already.
    ///
    /// # Errors
    /// As [`Expr::eval`].
    pub fn value<'a>(&'a self, row: &'a [Datum], env: &Env<'a>) -> Result<Cow<'a, Datum>, SqlError> {
        let found = match self {
            Expr::Const(value) => return Ok(Cow::Borrowed(value)),
            Expr::Column(column) => return row.get(*column).map(Cow::Borrowed).ok_or_else(|| internal("no such column")),
            Expr::Param(param) => return env.params.get(*param).map(Cow::Borrowed).ok_or_else(|| internal("no such parameter")),
            Expr::Outer { up, column } => {
                let level = env.outer.len().checked_sub(up + 1).ok_or_else(|| internal("no such enclosing query"))?;
                return env.outer[level].get(*column).map(Cow::Borrowed).ok_or_else(|| internal("no such outer column"));
            }
            Expr::Compare(compare, ty, left, right) => {
                let (left, right) = (left.value(row, env)?, right.value(row, env)?);
                match *left == NULL || *right == NULL {
                    true => NULL,
                    false => Datum::Bool(compare.holds(compare_values(*ty, &left, &right)?)),
                }
            }
            Expr::Call(function, args) => call(function, args, row, env)?,
            Expr::Builtin(builtin, args) => {
                let args = args.iter().map(|arg| arg.eval(row, env)).collect::<Result<Vec<_>, _>>()?;
                builtin.call(&args, env)?
            }
            Expr::Cast(cast, arg) => match arg.value(row, env)? {
                value if *value == NULL => NULL,
                value => cast.call(value.into_owned(), &env.context)?,
            },
            Expr::Is(arg, wanted) => Datum::Bool(truth(&*arg.value(row, env)?)? == Some(*wanted)),
            Expr::IsNull(arg) => Datum::Bool(*arg.value(row, env)? == NULL),
            Expr::Not(arg) => boolean(truth(&*arg.value(row, env)?)?.map(|value| !value)),
            _ => return self.rare(row, env),
        };
        Ok(Cow::Owned(found))
    }

    fn rare<'a>(&'a self, row: &'a [Datum], env: &Env<'a>) -> Result<Cow<'a, Datum>, SqlError> {
        let found = match self {
            Expr::And(args) => connect(args, true, row, env)?,
            Expr::Or(args) => connect(args, false, row, env)?,
            Expr::Same(ty, left, right) => {
                let (left, right) = (left.value(row, env)?, right.value(row, env)?);
                Datum::Bool(match (*left == NULL, *right == NULL) {
                    (false, false) => compare_values(*ty, &left, &right)?.is_eq(),
                    (left, right) => left == right,
                })
            }
            Expr::Case(branches, otherwise) => {
                for (when, then) in branches {
                    if when.holds(row, env)? {
                        return then.value(row, env);
                    }
                }
                return otherwise.value(row, env);
            }
            Expr::Coalesce(args) => {
                for arg in args {
                    let value = arg.value(row, env)?;
                    if *value != NULL {
                        return Ok(value);
                    }
                }
                NULL
            }
            Expr::Extreme(compare, ty, args) => extreme(*compare, *ty, args, row, env)?,
            Expr::Any { compare, left, array, ty, all } => {
                let (left, array) = (left.value(row, env)?, array.value(row, env)?);
                match &*array {
                    Datum::Null => NULL,
                    array => {
                        let list = arrays::elements(*ty, array, &env.context)?;
                        compare.quantified(&left, &list, *all, env)?
                    }
                }
            }
            Expr::Array(args, element) => {
                let values = args.iter().map(|arg| arg.eval(row, env)).collect::<Result<Vec<_>, _>>()?;
                arrays::build(*element, &values, env.context.formats)
            }
            Expr::Element(ty, array, index) => {
                let (array, index) = (array.value(row, env)?, index.value(row, env)?);
                match (&*array, &*index) {
                    (Datum::Text(_), Datum::Int4(index)) => {
                        let at = usize::try_from(i64::from(*index) - i64::from(arrays::lower_bound(*ty)));
                        let list = arrays::elements(*ty, &array, &env.context)?;
                        at.ok().and_then(|at| list.into_iter().nth(at)).unwrap_or(NULL)
                    }
                    _ => NULL,
                }
            }
            Expr::OfArray(function, ty, args) => {
                let args = args.iter().map(|arg| arg.eval(row, env)).collect::<Result<Vec<_>, _>>()?;
                function.call(*ty, &args, &env.context)?
            }
            Expr::Answer(subplan) => match env.answers.get(*subplan) {
                Some(Some(Answer::Value(value))) => value.clone(),
                _ => return Err(internal("a subquery has no answer")),
            },
            Expr::InAnswer { compare, left, subplan, all } => match env.answers.get(*subplan) {
                Some(Some(Answer::List(list))) => compare.quantified(&*left.value(row, env)?, list, *all, env)?,
                _ => return Err(internal("a subquery has no list")),
            },
            _ => return Err(internal("no such expression")),
        };
        Ok(Cow::Owned(found))
    }

    /// Shows `visit` this expression and all within.
    pub fn walk(&self, visit: &mut dyn FnMut(&Expr)) {
        visit(self);
        match self {
            Expr::Const(_) | Expr::Column(_) | Expr::Param(_) | Expr::Outer { .. } | Expr::Answer(_) => {}
            Expr::Compare(_, _, left, right) | Expr::Same(_, left, right) | Expr::Element(_, left, right) => {
                left.walk(visit);
                right.walk(visit);
            }
            Expr::Any { left, array, .. } => {
                left.walk(visit);
                array.walk(visit);
            }
            Expr::Cast(_, arg) | Expr::Not(arg) | Expr::IsNull(arg) | Expr::Is(arg, _) | Expr::InAnswer { left: arg, .. } => {
                arg.walk(visit)
            }
            Expr::Case(branches, otherwise) => {
                branches.iter().for_each(|(when, then)| {
                    when.walk(visit);
                    then.walk(visit);
                });
                otherwise.walk(visit);
            }
            Expr::Call(_, args) | Expr::Builtin(_, args) | Expr::OfArray(_, _, args) => args.iter().for_each(|arg| arg.walk(visit)),
            Expr::And(args) | Expr::Or(args) | Expr::Coalesce(args) | Expr::Extreme(_, _, args) | Expr::Array(args, _) => {
                args.iter().for_each(|arg| arg.walk(visit));
            }
        }
    }

    /// Shows `change` the expressions right within this one.
    pub fn children(&mut self, change: &mut dyn FnMut(&mut Expr)) {
        match self {
            Expr::Const(_) | Expr::Column(_) | Expr::Param(_) | Expr::Outer { .. } | Expr::Answer(_) => {}
            Expr::Compare(_, _, left, right) | Expr::Same(_, left, right) | Expr::Element(_, left, right) => {
                change(left);
                change(right);
            }
            Expr::Any { left, array, .. } => {
                change(left);
                change(array);
            }
            Expr::Cast(_, arg) | Expr::Not(arg) | Expr::IsNull(arg) | Expr::Is(arg, _) | Expr::InAnswer { left: arg, .. } => change(arg),
            Expr::Case(branches, otherwise) => {
                branches.iter_mut().for_each(|(when, then)| {
                    change(when);
                    change(then);
                });
                change(otherwise);
            }
            Expr::Call(_, args) | Expr::Builtin(_, args) | Expr::OfArray(_, _, args) => args.iter_mut().for_each(change),
            Expr::And(args) | Expr::Or(args) | Expr::Coalesce(args) | Expr::Extreme(_, _, args) | Expr::Array(args, _) => {
                args.iter_mut().for_each(change);
            }
        }
    }

    /// Changes this expression and all within, innermost first.
    pub fn rewrite(&mut self, change: &mut dyn FnMut(&mut Expr)) {
        self.children(&mut |child| child.rewrite(change));
        change(self);
    }

    /// Whether it gives the same for all rows of a statement: no columns, no subqueries, nothing volatile.
    pub fn is_fixed(&self) -> bool {
        let mut fixed = true;
        self.walk(&mut |expr| match expr {
            Expr::Column(_) | Expr::Answer(_) | Expr::InAnswer { .. } => fixed = false,
            Expr::Call(function, _) => fixed &= function.volatility != Volatility::Volatile,
            Expr::Builtin(builtin, _) => fixed &= !builtin.is_volatile(),
            _ => {}
        });
        fixed
    }
}

fn call(function: &FunctionRef, args: &[Expr], row: &[Datum], env: &Env<'_>) -> Result<Datum, SqlError> {
    match args {
        [one] => function.call(&[one.eval(row, env)?], &env.context),
        [one, two] => function.call(&[one.eval(row, env)?, two.eval(row, env)?], &env.context),
        _ => {
            let values = args.iter().map(|arg| arg.eval(row, env)).collect::<Result<Vec<_>, _>>()?;
            function.call(&values, &env.context)
        }
    }
}

/// AND (`all`) or OR: stops at what decides; null if nothing does and something is unknown.
fn connect(args: &[Expr], all: bool, row: &[Datum], env: &Env<'_>) -> Result<Datum, SqlError> {
    let mut unknown = false;
    for arg in args {
        match truth(&*arg.value(row, env)?)? {
            None => unknown = true,
            Some(value) if value != all => return Ok(Datum::Bool(value)),
            Some(_) => {}
        }
    }
    Ok(if unknown { NULL } else { Datum::Bool(all) })
}

fn extreme(compare: Compare, ty: SqlType, args: &[Expr], row: &[Datum], env: &Env<'_>) -> Result<Datum, SqlError> {
    let mut best = NULL;
    for arg in args {
        let value = arg.eval(row, env)?;
        if value != NULL && (best == NULL || compare.holds(compare_values(ty, &value, &best)?)) {
            best = value;
        }
    }
    Ok(best)
}

/// How a group's rows become a value.
#[derive(Clone, Debug)]
pub enum Aggregator {
    /// An aggregate that knows only its arguments.
    Plain(AggregateRef),
    /// `array_agg` of that type.
    Array(SqlType),
}

/// An aggregate in a plan.
#[derive(Clone, Debug)]
pub struct AggregateCall {
    /// Which.
    pub function: Aggregator,
    /// Its arguments; none for `count(*)`.
    pub args: Vec<Expr>,
    /// Each value once.
    pub distinct: bool,
    /// Only rows for which this is true.
    pub filter: Option<Expr>,
    /// In this order.
    pub order: Vec<super::SortKey>,
}
