//! L10: SQL as PostgreSQL speaks it.

pub mod error;
pub mod types;
