//! What sorts, hash tables and gathered rows may take: each of them, and all of the instance together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sql::error::SqlError;
use crate::sql::types::Datum;
use crate::sql::world::World;

/// How much is taken from the pool at a time, in bytes.
const PIECE: usize = 256 << 10;

/// What is left for all statements of the instance together. Clones share everything.
#[derive(Clone)]
pub struct Pool {
    left: Arc<AtomicUsize>,
}

impl Pool {
    /// Of `bytes`.
    pub fn new(bytes: usize) -> Pool {
        Pool { left: Arc::new(AtomicUsize::new(bytes)) }
    }

    fn take(&self, bytes: usize) -> bool {
        self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(bytes)).is_ok()
    }
}

/// Memory of one sort or hash table. What it has of the pool goes back when it is dropped.
pub struct Memory {
    /// Bytes taken by rows.
    used: usize,
    most: usize,
    /// Bytes taken from the pool: at least as many.
    held: usize,
    pool: Pool,
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
        Memory { used: 0, most: world.options.work_bytes_max, held: 0, pool: world.memory.clone() }
    }

    /// Takes as much as a row needs.
    ///
    /// # Errors
    /// 53200: there is no more.
    pub fn take(&mut self, row: &[Datum]) -> Result<(), SqlError> {
        self.take_bytes(row.iter().map(bytes).sum())
    }

    /// As [`Memory::take`], of a row that takes so many bytes.
    ///
    /// # Errors
    /// As [`Memory::take`].
    pub fn take_bytes(&mut self, bytes: usize) -> Result<(), SqlError> {
        let used = self.used + size_of::<Vec<Datum>>() + bytes;
        if used > self.most {
            return Err(SqlError::new("53200", "out of memory")
                .detail(format!("A sort, hash table or list of rows of the statement needs more than {} bytes.", self.most))
                .hint("Take fewer rows at once, use an order that an index has, or raise the option work_bytes_max."));
        }
        while used > self.held {
            if !self.pool.take(PIECE) {
                return Err(SqlError::new("53200", "out of memory")
                    .detail("Sorts, hash tables and lists of rows of all statements together have used up what the instance has for them.")
                    .hint("Try again when others have ended, or raise the option work_total_bytes_max."));
            }
            self.held += PIECE;
        }
        self.used = used;
        Ok(())
    }

    /// Everything is free again.
    pub fn reset(&mut self) {
        self.used = 0;
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.pool.left.fetch_add(self.held, Ordering::AcqRel);
    }
}
