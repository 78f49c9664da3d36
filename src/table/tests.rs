//! Trees under the simulator, against a sorted map.

mod crowd;
mod harness;
mod model;
