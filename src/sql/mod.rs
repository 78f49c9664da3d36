//! L10: SQL over the tables: what clients say, and what comes of it.
//!
//! ```text
//! wire  ->  session  ->  parse  ->  bind  ->  plan  ->  exec  ->  table::tables, table::rows
//!                                  types: values    views: the virtual catalog    settings, sequence, world: what statements know
//! ```
//! Callers: the daemon and tests, by [`session::Engine`]. The wire protocol sees only [`session`].

pub mod arrays;
pub mod bind;
pub mod describe;
pub mod error;
pub mod errors;
pub mod exec;
pub mod parse;
pub mod plan;
pub mod sequence;
pub mod session;
pub mod settings;
pub mod types;
pub mod views;
pub mod wire;
pub mod world;
