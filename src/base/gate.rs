//! The park gate: whether this instance may answer anybody right now.
//!
//! Membership keeps it open by leases: each time a majority of voting files has shown that this instance is a member, the gate is open for a
//! while from the moment that the look *began*. When that stops, the gate closes by the clock alone, also when nobody is left to close it. What
//! serves clients asks before it begins work and before an answer leaves (rules 2, 3 and 4); what finds it closed waits, which is what parking
//! is. An instance without membership (a single store, embedded) has a gate that is always open.
//!
//! It ends no I/O: a process that stops between the question and the answer can still send that answer when it wakes up. The fence
//! method says what ends that (`fence`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use super::runtime::{Instant, Seams};

/// Never closes.
const ALWAYS: u64 = u64::MAX;

struct Shared {
    seams: Seams,
    /// Open before this moment, in nanoseconds of the runtime; 0: closed.
    until: AtomicU64,
    opened: Notify,
}

/// Clones are the same gate.
#[derive(Clone)]
pub struct Gate {
    shared: Arc<Shared>,
}

impl Gate {
    fn with(seams: Seams, until: u64) -> Gate {
        Gate { shared: Arc::new(Shared { seams, until: AtomicU64::new(until), opened: Notify::new() }) }
    }

    /// Closed until [`Gate::open_until`].
    pub fn closed(seams: Seams) -> Gate {
        Gate::with(seams, 0)
    }

    /// Open for ever.
    pub fn always_open(seams: Seams) -> Gate {
        Gate::with(seams, ALWAYS)
    }

    /// Lets everybody pass before `until`. Never shortens what was given before.
    pub fn open_until(&self, until: Instant) {
        self.shared.until.fetch_max(until.0, Ordering::AcqRel);
        self.shared.opened.notify_waiters();
    }

    /// Lets nobody pass until it is opened again.
    pub fn close(&self) {
        self.shared.until.store(0, Ordering::Release);
    }

    /// Whether one may pass at this moment.
    pub fn is_open(&self) -> bool {
        let until = self.shared.until.load(Ordering::Acquire);
        until == ALWAYS || self.shared.seams.now().0 < until
    }

    /// Waits until it is open.
    pub async fn pass(&self) {
        loop {
            let mut opened = std::pin::pin!(self.shared.opened.notified());
            opened.as_mut().enable();
            if self.is_open() {
                return;
            }
            opened.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::sim::Sim;

    #[test]
    fn closes_by_the_clock_and_lets_those_who_wait_pass_when_opened() {
        let sim = Sim::new(1);
        let seams = sim.runtime();
        sim.run(async {
            let gate = Gate::closed(seams.clone());
            assert!(!gate.is_open());
            let (waiting, passed) = (gate.clone(), Arc::new(AtomicU64::new(0)));
            let (counted, clock) = (passed.clone(), seams.clone());
            seams.spawn(
                "waiter",
                Box::pin(async move {
                    waiting.pass().await;
                    counted.store(clock.now().0, Ordering::Release);
                }),
            );
            seams.sleep(Duration::from_secs(5)).await;
            assert_eq!(passed.load(Ordering::Acquire), 0);
            let opened = seams.now();
            gate.open_until(opened + Duration::from_secs(1));
            gate.open_until(opened + Duration::from_millis(1));
            seams.sleep(Duration::from_millis(900)).await;
            assert!(passed.load(Ordering::Acquire) >= opened.0, "who waits passes");
            assert!(gate.is_open());
            seams.sleep(Duration::from_millis(200)).await;
            assert!(!gate.is_open(), "nobody closed it but the clock");
            gate.open_until(seams.now() + Duration::from_secs(1));
            gate.close();
            assert!(!gate.is_open());
            assert!(Gate::always_open(seams.clone()).is_open());
        });
    }
}
