//! Several caches over one simulated disk, with a directory that is a table in the test.

mod directory;
mod harness;
mod model;
mod yields;
