//! Regroup: a shared-disk cluster database core.
//!
//! Several instances open the same disk, each serves transactions and writes its own redo log; when one dies, the survivors redo its
//! log and go on. This crate is an instance with its membership and guard: see `docs/ARCHITECTURE.md` for the layers and what is not here yet.
//! Layers import only downwards: `base`, `disk` and `net`, `page`, `redo`, `cache`, `txn`, `table`, `grd`, `membership` and `fence`,
//! `recovery`, `ops`, `node` and `sql`, `cli`.

pub mod base;
pub mod cache;
pub mod cli;
pub mod disk;
pub mod fence;
pub mod grd;
pub mod membership;
pub mod net;
pub mod node;
pub mod ops;
pub mod page;
pub mod recovery;
pub mod redo;
pub mod sql;
pub mod table;
pub mod txn;
