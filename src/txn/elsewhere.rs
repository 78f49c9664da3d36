//! The seam to what other instances' transactions do: when one of them ends, and which snapshots are in use there.
//!
//! Everything else about them is on disk: rows, undo, slots. Implemented above by whoever talks to the other instances; [`Alone`] is for an
//! instance that has nobody to talk to. Called by `table::rows`, never with a latch (rule 19).

use std::sync::Arc;

use super::TxnId;
use super::book::Live;
use super::waits::WaitError;
use crate::base::{BoxFuture, Scn};

/// Other instances, as far as their transactions are concerned.
pub trait Elsewhere: Send + Sync + 'static {
    /// Waits until `txn`, which another instance's slot said to be under way, has ended or may have: the caller looks again. Given up when dropped.
    /// `waiter` is who waits, for the circles that such waits may make.
    fn wait_end(&self, waiter: Arc<Live>, txn: TxnId) -> BoxFuture<Result<(), WaitError>>;

    /// No other instance has a snapshot older than this, or will ever take one. Never goes down.
    fn oldest_snapshot(&self) -> Scn;
}

/// No other instance is up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Elsewhere for Alone {
    fn wait_end(&self, _waiter: Arc<Live>, txn: TxnId) -> BoxFuture<Result<(), WaitError>> {
        // Whoever could end it is down, and was not recovered.
        Box::pin(async move { Err(WaitError::Unrecovered { txn }) })
    }

    fn oldest_snapshot(&self) -> Scn {
        Scn(u64::MAX)
    }
}
