//! What sorts, hash tables and gathered rows of a statement may take.

use crate::sql::error::SqlError;
use crate::sql::types::Datum;
use crate::sql::world::World;

/// Memory of one sort or hash table.
pub struct Memory {
    left: usize,
    most: usize,
}

/// About how many bytes a value takes.
fn bytes(value: &Datum) -> usize {
    let behind = match value {
        Datum::Text(text) => text.len(),
        Datum::Bytea(bytes) => bytes.len(),
        Datum::Numeric(number) => (number.as_bigint_and_scale().0.bits() / 8) as usize + 16,
        _ => 0,
    };
    size_of::<Datum>() + behind
}

impl Memory {
    /// As much as the instance allows.
    pub fn new(world: &World) -> Memory {
        let most = world.options.work_bytes_max;
        Memory { left: most, most }
    }

    /// Takes as much as a row needs.
    ///
    /// # Errors
    /// 53200: there is no more.
    pub fn take(&mut self, row: &[Datum]) -> Result<(), SqlError> {
        let needed = size_of::<Vec<Datum>>() + row.iter().map(bytes).sum::<usize>();
        match self.left.checked_sub(needed) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(SqlError::new("53200", "out of memory")
                .detail(format!("A sort, hash table or list of rows of the statement needs more than {} bytes.", self.most))
                .hint("Take fewer rows at once, use an order that an index has, or raise the option work_bytes_max.")),
        }
    }

    /// Everything is free again.
    pub fn reset(&mut self) {
        self.left = self.most;
    }
}
