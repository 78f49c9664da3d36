//! L10: joins the state machines to disk and clock.
//!
//! `storage` opens and closes one instance's storage core: volume, recovery, log, cache, page writer, checkpointer.
//! `store` is that core with its trees: what a process serves from. `database` is the API for programs that embed it.

pub mod database;
pub mod grd;
pub mod guard;
pub mod member;
pub mod storage;
pub mod store;
