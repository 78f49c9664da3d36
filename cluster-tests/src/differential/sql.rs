//! A statement being written: text, with values inline or as parameters.

use regroup::base::Random;

use super::value::{Kind, Value};
use crate::wire::Parameter;

/// A statement being written.
#[derive(Clone, Debug, Default)]
pub struct Sql {
    /// So far.
    pub text: String,
    /// Values may become parameters (the extended protocol).
    pub parameterised: bool,
    /// Declared types of the parameters so far; 0 where the server is to find out.
    pub types: Vec<u32>,
    /// The parameters so far.
    pub parameters: Vec<Parameter>,
}

impl Sql {
    /// Nothing yet.
    pub fn new(parameterised: bool) -> Sql {
        Sql { parameterised, ..Sql::default() }
    }

    /// Appends `text`.
    pub fn put(&mut self, text: &str) -> &mut Sql {
        self.text.push_str(text);
        self
    }

    /// Appends a value where `kind` is expected and would be inferred (a column's new value, one side of a comparison with a column).
    pub fn value(&mut self, random: &mut Random, kind: Kind, value: &Value) -> &mut Sql {
        if self.parameterised && random.chance(0.75) {
            let declared = if random.chance(0.7) { kind.oid() } else { 0 };
            return self.parameter(random, kind, value, declared);
        }
        // Numbers without a type are int4, int8 or numeric; others need none beside a column.
        let literal = value.literal(kind);
        let cast = *value != Value::Null && random.chance(0.15);
        self.put(&if cast { format!("{literal}::{}", kind.sql()) } else { literal })
    }

    fn parameter(&mut self, random: &mut Random, kind: Kind, value: &Value, declared: u32) -> &mut Sql {
        let binary = random.chance(0.5);
        let bytes = if binary { value.binary(kind) } else { value.text(kind).map(String::into_bytes) };
        self.types.push(declared);
        self.parameters.push((i16::from(binary), bytes));
        let number = self.parameters.len();
        self.put(&format!("${number}"))
    }

    /// Appends what `each` writes for each item, with `between` between them.
    pub fn list<T>(&mut self, between: &str, items: impl IntoIterator<Item = T>, mut each: impl FnMut(&mut Sql, T)) -> &mut Sql {
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.put(between);
            }
            each(self, item);
        }
        self
    }
}
