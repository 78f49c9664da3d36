//! Shared parts of the cluster tests: scenarios, checkers, servers to talk to, the faulty FUSE disk.

pub mod commands;
pub mod conversation;
pub mod differential;
pub mod disk_suite;
pub mod endpoint;
pub mod fuse_disk;
mod fuse_gate;
pub mod fuzz;
pub mod identities;
pub mod isolation;
pub mod model;
pub mod pgbench;
pub mod postgres;
pub mod regroup;
pub mod samples;
pub mod seeds;
pub mod sessions;
pub mod stock;
pub mod txn_load;
pub mod txn_model;
pub mod txn_world;
pub mod voting;
pub mod wire;
pub mod workload;
pub mod world;
