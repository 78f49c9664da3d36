//! The guard.

pub mod core;
pub mod options;
