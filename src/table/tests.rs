//! Trees under the simulator, against a sorted map.

mod harness;
mod model;
