//! Method `lease`: waits until the victim must have stopped by its own clock.
//!
//! An instance parks when it could not write its heartbeat to, and read the views from, a majority of voting files within the lease time,
//! by its own monotonic clock, counted from *before* that round began (`membership`). So once a view without it is chosen:
//!
//! ```text
//! fencer   ---- view chosen, durable on a majority ----------------- fence() called ------------------------ confirmed
//!                     T                                              F >= T                                  F + wait
//! victim   -- round began before T, the last that shows no such view ---- R < T -------- parked at R + lease
//!             (a round that begins after T reads the view from a majority: it ends the victim at once)
//! ```
//! `R + lease < T + lease <= F + lease`, so waiting for the lease time from F is enough on equal clocks; [`wait`] adds for clocks that run
//! apart. The wait is counted from the call, by the fencer's monotonic clock; no wall clock is compared (rule 5).
//!
//! **What that is worth.** Parking stops answers and new writes of a process that *runs*. A process that is paused between looking at its lease
//! and the system call, or a write that is queued in a kernel, a network or a controller, doesn't look at any clock (rule 2). So by itself `lease`
//! ends answers, and writes only under [`ASSUMPTIONS`]; it is refused as the only method unless the configuration accepts these by name.

use std::time::Duration;

use super::{By, Ends, Guarantee, Method, Outcome, Victim};
use crate::base::{BoxFuture, Seams};

/// What must be true for `lease` to end writes: name, and what it says.
pub const ASSUMPTIONS: [(&str, &str); 3] = [
    ("clock-rate", "the monotonic clocks of any two hosts run at rates that differ by less than 10 %"),
    (
        "no-pause",
        "no instance is paused (SIGSTOP, VM pause, swap) between looking at its lease and the end of the system call that it allowed",
    ),
    ("bounded-io", "no write reaches the storage later than one lease time after the system call that issued it"),
];

/// The names alone.
const NAMES: [&str; 3] = [ASSUMPTIONS[0].0, ASSUMPTIONS[1].0, ASSUMPTIONS[2].0];

/// Method `lease`.
pub struct Lease {
    seams: Seams,
    lease: Duration,
    accepted: bool,
}

/// How long to wait for a lease of this length.
///
/// Timeline: the victim's clock may run slower than ours by 10 % (`clock-rate`), so its lease ends at most `lease x 10 / 9` after F by our
/// clock; what it had issued by then may take another lease time to arrive (`bounded-io`), `lease x 10 / 9 + lease < lease x 9 / 4`. Without accepted
/// assumptions the second part buys nothing, but a wait that is too long is only slow.
pub fn wait(lease: Duration) -> Duration {
    lease * 9 / 4
}

impl Lease {
    /// For leases of `lease`. `accepted`: whether the assumptions were accepted, so that it counts as ending writes.
    pub fn new(seams: Seams, lease: Duration, accepted: bool) -> Lease {
        Lease { seams, lease, accepted }
    }
}

impl Method for Lease {
    fn name(&self) -> &'static str {
        "lease"
    }

    fn guarantee(&self) -> Guarantee {
        let assumed = Ends::Assumed(&NAMES);
        Guarantee { writes: if self.accepted { assumed } else { Ends::No }, answers: assumed }
    }

    fn fence(&self, _: Victim) -> BoxFuture<Outcome> {
        let (seams, lease) = (self.seams.clone(), self.lease);
        Box::pin(async move {
            seams.sleep(wait(lease)).await;
            let evidence = format!(
                "its lease of {} ms has run out, by waiting {} ms since it was evicted",
                lease.as_millis(),
                wait(lease).as_millis()
            );
            Outcome::Confirmed { by: By::Lease, evidence }
        })
    }
}
