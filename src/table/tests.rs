//! Trees under the simulator, against a sorted map.

mod append;
mod crowd;
mod forgiven;
pub(in crate::table) mod harness;
mod model;
