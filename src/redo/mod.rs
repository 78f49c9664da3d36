//! L3: one instance's log, and what its records do to pages.
//!
//! `record` encodes change groups, `apply` does to a page what a change says, `block` is the unit on disk, `writer` appends and makes
//! durable (group commit), `reader` validates and finds the end, `control` remembers where to start,
//! `forecast` says how long a recovery would take. Formats: `docs/formats/log.md`.
//! Nothing here knows a cache; `apply` is a pure function of page and record.

pub mod apply;
pub mod block;
pub mod control;
pub mod forecast;
pub mod reader;
pub mod record;
pub mod writer;

pub use control::Control;
pub use reader::{LogFault, LogReader};
pub use writer::{LogError, LogWriter};
