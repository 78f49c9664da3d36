//! Isolation, seen from outside: clients run transactions through SQL while the server is killed, and checkers judge what they saw.
//!
//! - `history`: what was asked and answered, and the same as crate adya wants it
//! - `checks`: our own checker of list-append histories, independent of adya
//! - `outcome`: what an error says about a transaction: rolled back for certain, or unknown
//! - `arena`: a server that can be crashed under many clients
//! - `lists`: the list-append workload
//! - `bank`: the bank workload, with its checks

pub mod arena;
pub mod bank;
pub mod checks;
pub mod history;
pub mod lists;
pub mod outcome;

/// An isolation level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Each statement has its snapshot.
    ReadCommitted,
    /// Each transaction has its snapshot, and may not overwrite what it doesn't see.
    RepeatableRead,
}

impl Level {
    /// The statement that begins a transaction of this level.
    pub fn begin(self) -> &'static str {
        match self {
            Level::ReadCommitted => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Level::RepeatableRead => "BEGIN ISOLATION LEVEL REPEATABLE READ",
        }
    }
}
