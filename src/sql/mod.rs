//! L10: SQL over the tables: what clients say, and what comes of it.
//!
//! ```text
//! wire  ->  session  ->  parse  ->  bind  ->  plan  ->  exec  ->  table::tables, table::rows
//! ```
//! Callers: the daemon and tests, by [`session::Engine`]. The wire protocol sees only [`session`].

pub mod error;
pub mod session;
pub mod types;
pub mod wire;
