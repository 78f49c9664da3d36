//! The directory under a simulated cluster: seeds, and single races by hand.

mod races;
mod seeds;
mod world;
