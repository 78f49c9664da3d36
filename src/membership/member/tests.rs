//! Many members stepped against simulated voting files and a simulated network.

mod faults;
mod scenarios;
mod world;
