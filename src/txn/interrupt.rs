//! Stopping a statement from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

#[derive(Default, Debug)]
struct Shared {
    set: AtomicBool,
    notify: Notify,
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

    /// Completes when it is set.
    pub async fn wait(&self) {
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
