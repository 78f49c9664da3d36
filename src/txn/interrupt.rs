//! Stopping a statement from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

#[derive(Default, Debug)]
struct Shared {
    set: AtomicBool,
    notify: Notify,
    /// Waits under way.
    waits: AtomicUsize,
}

/// Counted while it lives.
struct Waiting<'s>(&'s Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waits.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Tells a transaction's waits and scans to stop. Clones share it.
#[derive(Clone, Default, Debug)]
pub struct Interrupt {
    shared: Arc<Shared>,
}

impl Interrupt {
    /// Stops the statement under way at its next wait or page.
    pub fn set(&self) {
        self.shared.set.store(true, Ordering::Release);
        self.shared.notify.notify_waiters();
    }

    /// Forgets an interrupt that came too late.
    pub fn clear(&self) {
        self.shared.set.store(false, Ordering::Release);
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.shared.set.load(Ordering::Acquire)
    }

    /// Whether somebody waits for another transaction, and would be stopped by it.
    pub fn is_waited_for(&self) -> bool {
        self.shared.waits.load(Ordering::Acquire) > 0
    }

    /// Completes when it is set.
    pub async fn wait(&self) {
        self.shared.waits.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.shared);
        loop {
            let notified = self.shared.notify.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.is_set() {
                return;
            }
            notified.await;
        }
    }
}
