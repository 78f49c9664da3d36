//! Trees under the simulator, against a sorted map.

mod append;
mod crowd;
pub(in crate::table) mod harness;
mod model;
