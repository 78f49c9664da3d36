//! The guard.

pub mod core;
pub mod options;
#[cfg(test)]
mod tests;
