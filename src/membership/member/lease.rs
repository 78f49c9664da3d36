//! Health of the own voting I/O, the lease, and parking.
//!
//! ```text
//! own clock      r: heartbeat write issued --- durable --- everything read, whole, no sign of a newer view      r + lease: park
//! any observer        sees the counter change at r or later ------------- silence of the floor or more ---> may decide, > r + lease
//! decision at T  an accepted ballot stands in a majority from T on: rounds that start later don't count -----> no lease past T + lease
//! ```
//! `lease <= 9/10 of the floor` (options) leaves a tenth for clocks that run at different speeds.

use super::{Member, Stage};
use crate::base::Instant;
use crate::membership::io::{Event, Output, ParkReason};

impl Member {
    pub(super) fn keep_lease(&mut self, now: Instant, out: &mut Vec<Output>) {
        let lease = self.start.options.lease();
        let healthy = self.majority_of(|file| file.answered).is_some_and(|answered| now < answered + lease);
        if healthy && !self.healthy {
            // Silence seen while nothing could be read was our own (rule 4).
            self.fresh = now;
        }
        if !healthy {
            self.paxos.abandon();
        }
        self.healthy = healthy;
        if self.stage != Stage::Member {
            return;
        }
        let until = self.majority_of(|file| file.round).map(|round| round + lease);
        let holds = until.is_some_and(|until| now < until);
        self.stalled &= !holds;
        let reason = match (holds, self.is_on_losing_side(now)) {
            (_, true) => Some(ParkReason::LosingSide),
            (true, false) => None,
            (false, false) if self.stalled => Some(ParkReason::Stalled),
            (false, false) if self.lease.is_none() && self.park == Some(ParkReason::Starting) => Some(ParkReason::Starting),
            (false, false) => Some(ParkReason::NoMajority),
        };
        match (self.park, reason) {
            (None, Some(reason)) => {
                self.park = Some(reason);
                out.push(Output::Event(Event::Parked(reason)));
            }
            (Some(_), None) => {
                self.park = None;
                out.push(Output::Event(Event::Unparked));
            }
            // Why it isn't served may change; that it isn't was said.
            (Some(_), Some(_)) | (None, None) => {}
        }
        if self.park.is_none() && until > self.lease {
            self.lease = until;
            out.extend(until.map(|until| Output::Lease { until }));
        }
    }
}
