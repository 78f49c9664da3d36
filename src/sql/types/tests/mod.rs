//! Tests of values. `golden.txt` holds expressions with what PostgreSQL 15 makes of them: `golden` evaluates each and compares.

mod edges;
mod evaluate;
mod golden;
mod roundtrip;

use super::{Context, Formats, Outside};

/// A clock that stands still and bits that are all the same.
struct Still;

impl Outside for Still {
    fn clock(&self) -> i64 {
        0
    }
    fn bits(&self) -> u64 {
        0x0123_4567_89ab_cdef
    }
}

/// A context at 2000-01-01 00:00 UTC.
fn context(formats: &Formats) -> Context<'_> {
    Context { formats, transaction_start: 0, statement_start: 0, outside: &Still }
}
