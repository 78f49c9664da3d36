//! Stopping a statement from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::base::BoxFuture;

#[derive(Default, Debug)]
struct Shared {
    set: AtomicBool,
    notify: Notify,
    /// Waits under way.
    waits: AtomicUsize,
    /// How long each of them may take.
    limit: Mutex<Option<Alarm>>,
    /// One has taken longer.
    late: AtomicBool,
}

/// Makes futures that complete after a while.
#[derive(Clone)]
pub struct Alarm(pub Arc<dyn Fn() -> BoxFuture<()> + Send + Sync>);

impl std::fmt::Debug for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Alarm")
    }
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

    /// From now on no wait takes longer than the alarm.
    pub fn limit(&self, alarm: Option<Alarm>) {
        *self.shared.limit.lock() = alarm;
    }

    /// Whether a wait has ended because it took too long, since this was last asked.
    pub fn take_late(&self) -> bool {
        self.shared.late.swap(false, Ordering::AcqRel)
    }

    /// Completes when it is set, or the alarm goes off.
    pub async fn wait(&self) {
        self.shared.waits.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.shared);
        let alarm = self.shared.limit.lock().clone();
        match alarm {
            None => self.wait_set().await,
            Some(alarm) => tokio::select! {
                biased;
                () = self.wait_set() => {}
                () = (alarm.0)() => self.shared.late.store(true, Ordering::Release),
            },
        }
    }

    async fn wait_set(&self) {
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
