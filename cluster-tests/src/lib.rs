//! Shared parts of the cluster tests: scenarios, checkers, the faulty FUSE disk.

pub mod disk_suite;
pub mod fuse_disk;
mod fuse_gate;
pub mod fuzz;
pub mod model;
pub mod samples;
pub mod seeds;
pub mod txn_load;
pub mod txn_model;
pub mod txn_world;
pub mod workload;
pub mod world;
