//! Which function or operator a name with argument types means, and which type several expressions have in common.
//!
//! PostgreSQL's rules (manual, chapter 10; `func_select_candidate` in parse_func.c): an exact match; else those candidates that take the
//! arguments by implicit conversion, of these the ones with most exact matches, then with most preferred types; literals of unknown type
//! take the string category or what all candidates agree on.

use super::cast::{CastContext, CastRef, find_cast, implicit, output_cast};
use super::{Context, Datum, SqlError, SqlType, fail, functions, operators};

/// What a function does: `ty` is the resolved type of its first argument.
pub(crate) type Call = fn(ty: SqlType, arguments: &[Datum], context: &Context<'_>) -> Result<Datum, SqlError>;

/// Whether a function gives the same result again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Volatility {
    /// Always: calls with constants may be evaluated when the statement is bound.
    Immutable,
    /// Within a statement, under the same settings.
    Stable,
    /// Not at all.
    Volatile,
}

/// A function or operator in the tables.
#[derive(Clone, Copy)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) arguments: &'static [SqlType],
    pub(crate) result: SqlType,
    /// Null where an argument is null, without being called.
    pub(crate) strict: bool,
    pub(crate) volatility: Volatility,
    pub(crate) call: Call,
}

/// A function found: how its arguments are converted, what it gives, and calling it.
#[derive(Clone)]
pub struct FunctionRef {
    /// Its name, or the operator's.
    pub name: &'static str,
    /// The types of its arguments after conversion.
    pub arguments: Vec<SqlType>,
    /// The conversion of each argument; None where it is taken as it is.
    pub casts: Vec<Option<CastRef>>,
    /// The type of its result.
    pub result: SqlType,
    /// Whether it is null where an argument is null.
    pub strict: bool,
    /// Whether it gives the same result again.
    pub volatility: Volatility,
    call: Call,
}

impl std::fmt::Debug for FunctionRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({:?}) -> {:?}", self.name, self.arguments, self.result)
    }
}

impl FunctionRef {
    /// Calls it with arguments already converted by [`FunctionRef::casts`].
    ///
    /// # Errors
    /// What the function says.
    pub fn call(&self, arguments: &[Datum], context: &Context<'_>) -> Result<Datum, SqlError> {
        if self.strict && arguments.contains(&Datum::Null) {
            return Ok(Datum::Null);
        }
        (self.call)(self.arguments.first().copied().unwrap_or(SqlType::Void), arguments, context)
    }
}

/// The names of types, as messages list them.
fn list(types: &[SqlType]) -> String {
    types.iter().map(|ty| ty.display_name()).collect::<Vec<_>>().join(", ")
}

/// The function `name` (lower case) for arguments of these types. A schema `pg_catalog.` is only shown in messages, as PostgreSQL does for
/// EXTRACT, POSITION, SUBSTRING .. FROM, TRIM and AT TIME ZONE.
///
/// # Errors
/// 42883 where there is none, 42725 where several fit equally.
pub fn resolve_function(name: &str, types: &[SqlType]) -> Result<FunctionRef, SqlError> {
    let shown = name;
    let name = name.strip_prefix("pg_catalog.").unwrap_or(name);
    if let Some(special) = functions::special(name, types) {
        return special;
    }
    let candidates: Vec<Function> = functions::tables().flat_map(|table| table.iter()).filter(|f| f.name == name).copied().collect();
    let bases: Vec<SqlType> = types.iter().map(|ty| ty.base()).collect();
    let exact = candidates.iter().find(|f| f.arguments == bases.as_slice()).copied();
    match exact.map_or_else(|| choose(&candidates, &bases), Choice::One) {
        Choice::One(function) => Ok(bind(&function, types)),
        Choice::None => Err(SqlError::new("42883", format!("function {shown}({}) does not exist", list(types)))
            .hint("No function matches the given name and argument types. You might need to add explicit type casts.")),
        Choice::Several => Err(SqlError::new("42725", format!("function {shown}({}) is not unique", list(types)))
            .hint("Could not choose a best candidate function. You might need to add explicit type casts.")),
    }
}

/// Whether any function has that name.
pub fn function_exists(name: &str) -> bool {
    functions::special(name, &[SqlType::TEXT, SqlType::TEXT]).is_some()
        || functions::tables().flat_map(|table| table.iter()).any(|f| f.name == name)
}

/// The operator between two expressions (`left` None: before one). LIKE is `~~`, ILIKE `~~*`, their opposites `!~~` and `!~~*`.
///
/// # Errors
/// 42883 where there is none, 42725 where several fit equally.
pub fn resolve_operator(name: &str, left: Option<SqlType>, right: SqlType) -> Result<FunctionRef, SqlError> {
    let name = if name == "!=" { "<>" } else { name };
    let types: Vec<SqlType> = left.into_iter().chain([right]).collect();
    let candidates: Vec<Function> = operators::candidates(name, types.len());
    let mut bases: Vec<SqlType> = types.iter().map(|ty| ty.base()).collect();
    // A literal beside a known type is first taken to be of that type.
    if let [a, b] = bases.as_mut_slice() {
        match (*a, *b) {
            (SqlType::Unknown, known) => *a = known,
            (known, SqlType::Unknown) => *b = known,
            _ => {}
        }
    }
    let exact = candidates.iter().find(|f| f.arguments == bases.as_slice() && bases[0] != SqlType::Unknown).copied();
    let bases: Vec<SqlType> = types.iter().map(|ty| ty.base()).collect();
    let shown = || match types.as_slice() {
        [a, b] => format!("{} {name} {}", a.display_name(), b.display_name()),
        _ => format!("{name} {}", list(&types)),
    };
    match exact.map_or_else(|| choose(&candidates, &bases), Choice::One) {
        Choice::One(function) => Ok(bind(&function, &types)),
        Choice::None => Err(SqlError::new("42883", format!("operator does not exist: {}", shown())).hint(if types.len() == 2 {
            "No operator matches the given name and argument types. You might need to add explicit type casts."
        } else {
            "No operator matches the given name and argument type. You might need to add an explicit type cast."
        })),
        Choice::Several => Err(SqlError::new("42725", format!("operator is not unique: {}", shown()))
            .hint("Could not choose a best candidate operator. You might need to add explicit type casts.")),
    }
}

/// Arguments converted to what a function takes; `char(n)` keeps its length where it is taken as it is.
pub(crate) fn bind_casts(wanted: &[SqlType], types: &[SqlType]) -> (Vec<SqlType>, Vec<Option<CastRef>>) {
    let mut arguments = Vec::with_capacity(types.len());
    let mut casts = Vec::with_capacity(types.len());
    for (&from, &to) in types.iter().zip(wanted) {
        let cast = match to {
            SqlType::Any => Some(output_cast(from)),
            SqlType::AnyElement => find_cast(from, SqlType::TEXT, CastContext::Explicit),
            _ if from.base() == to => None,
            _ => find_cast(from, to, CastContext::Implicit),
        };
        arguments.push(cast.map_or(from, |cast| cast.to));
        casts.push(cast.filter(|cast| !cast.is_noop()));
    }
    (arguments, casts)
}

fn bind(function: &Function, types: &[SqlType]) -> FunctionRef {
    let (arguments, casts) = bind_casts(function.arguments, types);
    let Function { name, strict, volatility, call, result, .. } = *function;
    FunctionRef { name, arguments, casts, result, strict, volatility, call }
}

/// A function that the tables can't describe, all of whose arguments become `to`.
pub(crate) fn bind_all(function: &Function, types: &[SqlType], to: SqlType, result: SqlType) -> Result<FunctionRef, SqlError> {
    let casts =
        types.iter().map(|&from| if from == to { Ok(None) } else { super::resolve_cast(from, to, CastContext::Implicit).map(Some) });
    let casts: Result<Vec<Option<CastRef>>, SqlError> = casts.collect();
    let Function { name, strict, volatility, call, .. } = *function;
    Ok(FunctionRef { name, arguments: vec![to; types.len()], casts: casts?, result, strict, volatility, call })
}

/// A function of anything, given as text.
pub(crate) fn bind_text(function: &Function, types: &[SqlType]) -> FunctionRef {
    let casts = types.iter().map(|&from| (!matches!(from, SqlType::TEXT | SqlType::Unknown)).then(|| output_cast(from))).collect();
    let Function { name, strict, volatility, call, result, .. } = *function;
    FunctionRef { name, arguments: vec![SqlType::TEXT; types.len()], casts, result, strict, volatility, call }
}

pub(crate) enum Choice<T> {
    None,
    One(T),
    Several,
}

/// What [`choose`] needs to know of a candidate.
pub(crate) trait Candidate: Copy {
    /// The types it takes.
    fn arguments(&self) -> &'static [SqlType];
}

impl Candidate for Function {
    fn arguments(&self) -> &'static [SqlType] {
        self.arguments
    }
}

fn takes(from: SqlType, to: SqlType) -> bool {
    match to {
        SqlType::Any => true,
        SqlType::AnyElement => !matches!(from, SqlType::Array(_)),
        _ => implicit(from, to),
    }
}

/// Keeps the candidates with the highest score.
fn best<T: Candidate>(candidates: Vec<T>, score: impl Fn(&T) -> usize) -> Vec<T> {
    let top = candidates.iter().map(&score).max().unwrap_or(0);
    candidates.into_iter().filter(|candidate| score(candidate) == top).collect()
}

/// The best of several candidates.
pub(crate) fn choose<T: Candidate>(candidates: &[T], types: &[SqlType]) -> Choice<T> {
    let fits = |f: &&T| f.arguments().len() == types.len() && types.iter().zip(f.arguments()).all(|(&from, &to)| takes(from, to));
    let fitting: Vec<T> = candidates.iter().filter(fits).copied().collect();
    let one = |fitting: &[T]| match fitting {
        [] => Some(Choice::None),
        [only] => Some(Choice::One(*only)),
        _ => None,
    };
    if let Some(choice) = one(&fitting) {
        return choice;
    }
    let known = |f: &T, good: &dyn Fn(SqlType, SqlType) -> bool| {
        types.iter().zip(f.arguments()).filter(|(from, to)| **from != SqlType::Unknown && good(**from, **to)).count()
    };
    let fitting = best(fitting, |f| known(f, &|from, to| from == to));
    if let Some(choice) = one(&fitting) {
        return choice;
    }
    let fitting = best(fitting, |f| known(f, &|from, to| from == to || (to.preferred() && to.category() == from.category())));
    if let Some(choice) = one(&fitting) {
        return choice;
    }
    if !types.contains(&SqlType::Unknown) {
        return Choice::Several;
    }
    let fitting = unknowns(fitting, types);
    if let Some(choice @ Choice::One(_)) = one(&fitting) {
        return choice;
    }
    // All known arguments of one type: the literals are taken to be of it too.
    let mut known_types = types.iter().filter(|ty| **ty != SqlType::Unknown);
    if let Some(first) = known_types.next()
        && known_types.all(|ty| ty == first)
    {
        let same: Vec<T> = fitting.iter().filter(|f| f.arguments().iter().all(|&to| takes(*first, to))).copied().collect();
        if let Some(choice @ Choice::One(_)) = one(&same) {
            return choice;
        }
    }
    Choice::Several
}

/// Lets each literal of unknown type take the string category, or the one that all candidates have.
fn unknowns<T: Candidate>(fitting: Vec<T>, types: &[SqlType]) -> Vec<T> {
    let mut slots: Vec<Option<(char, bool)>> = Vec::with_capacity(types.len());
    for (index, ty) in types.iter().enumerate() {
        if *ty != SqlType::Unknown {
            slots.push(None);
            continue;
        }
        let here: Vec<SqlType> = fitting.iter().map(|f| f.arguments()[index]).collect();
        let first = here.first().map_or('X', |ty| ty.category());
        let category = if here.iter().any(|ty| ty.category() == 'S') {
            'S'
        } else if here.iter().all(|ty| ty.category() == first) {
            first
        } else {
            return fitting;
        };
        slots.push(Some((category, here.iter().any(|ty| ty.category() == category && ty.preferred()))));
    }
    let fits = |f: &T| {
        slots
            .iter()
            .zip(f.arguments())
            .all(|(slot, to)| slot.is_none_or(|(category, preferred)| to.category() == category && (!preferred || to.preferred())))
    };
    let kept: Vec<T> = fitting.iter().filter(|f| fits(f)).copied().collect();
    if kept.is_empty() { fitting } else { kept }
}

/// The type that several expressions (of UNION, CASE, COALESCE, VALUES, IN, GREATEST) have in common; `what` names the construct in
/// messages. All unknown gives text.
///
/// # Errors
/// 42804 where they have none.
pub fn common_type(types: &[SqlType], what: &str) -> Result<SqlType, SqlError> {
    let mut known = types.iter().copied().filter(|ty| *ty != SqlType::Unknown);
    let Some(first) = known.next() else { return Ok(SqlType::TEXT) };
    // A literal or a null has no length: beside one, others lose theirs.
    let mut common = if types.contains(&SqlType::Unknown) { first.base() } else { first };
    for ty in known {
        if ty.base() == common.base() {
            // Lengths survive only where they agree.
            if ty != common {
                common = common.base();
            }
            continue;
        }
        if ty.category() != common.category() {
            return fail("42804", format!("{what} types {} and {} cannot be matched", common.display_name(), ty.display_name()));
        }
        if !common.preferred() && implicit(common, ty) && !implicit(ty, common) {
            common = ty;
        }
        common = common.base();
    }
    for &ty in types {
        if ty.base() != common.base() && !implicit(ty, common) {
            return fail("42846", format!("{what} could not convert type {} to {}", ty.display_name(), common.display_name()));
        }
    }
    Ok(common)
}
