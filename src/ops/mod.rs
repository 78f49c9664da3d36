//! L9: operations on a whole store, beside serving it: the scrub of all pages. Later repair, backup, standby.

pub mod scrub;
