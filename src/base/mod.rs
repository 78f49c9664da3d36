//! L0: names, numbers, checksums, limits, options and the seams to clock, tasks and randomness. Imports nothing of ours.

pub mod checksum;
pub mod gate;
pub mod ids;
pub mod limits;
pub mod mode;
pub mod options;
pub mod random;
pub mod runtime;
pub mod sim;
pub mod threads;

pub use gate::Gate;
pub use ids::{ClusterId, Epoch, Incarnation, Lsn, PageId, Scn, ThreadId, TreeId, Writer};
pub use mode::Mode;
pub use random::Random;
pub use runtime::{BoxFuture, Instant, Runtime, Seams};
