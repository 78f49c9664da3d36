//! Intervals and time-outs: meaning, default, range, and the relations between them that safety or usefulness depend on.
//!
//! Refused, never clamped. Which step each relation upholds is argued in `docs/protocols/membership.md`, "Timelines".

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Options of membership. All times in milliseconds, by the local monotonic clock (rule 5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// How often the state machine looks at the clock. Default 25; 1 to 1000.
    pub tick_ms: u64,
    /// Between two heartbeats over the network. Default 100; 10 to 10000.
    pub network_interval_ms: u64,
    /// Between two heartbeats on the voting files. Default 200; 10 to 10000.
    pub disk_interval_ms: u64,
    /// Least silence, by network and by voting files, before a peer is suspected. Default 600; 3 network intervals and 2.5 disk
    /// intervals or more; more than the lease.
    pub suspicion_floor_ms: u64,
    /// Silence after which a peer is suspected however much jitter there was. Default 5000; the floor to 600000.
    pub suspicion_ceiling_ms: u64,
    /// Suspicion level (phi) at which a peer is suspected: 8 means that so long a silence has a chance of 10^-8. Default 8; 1 to 16.
    pub suspicion_phi: u8,
    /// A majority of voting files must have been written and read within this time, else this instance parks. Default 500; 2 disk
    /// intervals or more, at most 9/10 of the suspicion floor.
    pub lease_ms: u64,
    /// This instance counts as having stalled when it looked at the clock no more often than that. Default 300; 2 ticks or more, at most
    /// the lease.
    pub stall_ms: u64,
    /// How long who hears whom must stay unchanged before a network split is decided by it. Default 450; 2 disk intervals or more.
    pub settle_ms: u64,
    /// A peer that is heard over the network while its voting heartbeat stands still is evicted after this. Default 10000; 2 suspicion
    /// floors to 600000.
    pub storage_timeout_ms: u64,
    /// Between two would-be proposers, so that they don't collide. Default 50; 1 to 10000.
    pub stagger_ms: u64,
    /// Between two attempts at a fence. Default 1000; 10 to 600000.
    pub fence_retry_ms: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            tick_ms: 25,
            network_interval_ms: 100,
            disk_interval_ms: 200,
            suspicion_floor_ms: 600,
            suspicion_ceiling_ms: 5000,
            suspicion_phi: 8,
            lease_ms: 500,
            stall_ms: 300,
            settle_ms: 450,
            storage_timeout_ms: 10_000,
            stagger_ms: 50,
            fence_retry_ms: 1000,
        }
    }
}

/// A value, or a relation between two, that can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("option {name} is {found}, but must be {allowed}")]
pub struct OptionError {
    /// Which option.
    pub name: &'static str,
    /// Its value.
    pub found: u64,
    /// What is allowed.
    pub allowed: String,
}

impl Options {
    /// Checks every value and relation.
    ///
    /// # Errors
    /// The first that doesn't hold.
    pub fn validate(&self) -> Result<(), OptionError> {
        let checks: [(&'static str, u64, u64, u64, &str); 12] = [
            ("tick_ms", self.tick_ms, 1, 1000, ""),
            ("network_interval_ms", self.network_interval_ms, 10, 10_000, ""),
            ("disk_interval_ms", self.disk_interval_ms, 10, 10_000, ""),
            (
                "suspicion_floor_ms",
                self.suspicion_floor_ms,
                (3 * self.network_interval_ms).max((5 * self.disk_interval_ms).div_ceil(2)),
                600_000,
                " (3 network intervals and 2.5 disk intervals or more)",
            ),
            ("suspicion_ceiling_ms", self.suspicion_ceiling_ms, self.suspicion_floor_ms, 600_000, " (not below suspicion_floor_ms)"),
            ("suspicion_phi", self.suspicion_phi.into(), 1, 16, ""),
            (
                "lease_ms",
                self.lease_ms,
                2 * self.disk_interval_ms,
                self.suspicion_floor_ms * 9 / 10,
                " (2 disk intervals to 9/10 of suspicion_floor_ms)",
            ),
            ("stall_ms", self.stall_ms, 2 * self.tick_ms, self.lease_ms, " (2 ticks to lease_ms)"),
            ("settle_ms", self.settle_ms, 2 * self.disk_interval_ms, 600_000, " (2 disk intervals or more)"),
            ("storage_timeout_ms", self.storage_timeout_ms, 2 * self.suspicion_floor_ms, 600_000, " (2 suspicion floors or more)"),
            ("stagger_ms", self.stagger_ms, 1, 10_000, ""),
            ("fence_retry_ms", self.fence_retry_ms, 10, 600_000, ""),
        ];
        for (name, found, least, most, why) in checks {
            if found < least || found > most {
                return Err(OptionError { name, found, allowed: format!("{least} to {most}{why}") });
            }
        }
        Ok(())
    }

    /// The lease.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold() {
        assert_eq!(Options::default().validate(), Ok(()));
    }

    #[test]
    fn a_lease_that_outlasts_suspicion_is_refused_with_the_relation() {
        let options = Options { lease_ms: 560, ..Options::default() };
        let error = options.validate().unwrap_err();
        assert_eq!(error.to_string(), "option lease_ms is 560, but must be 400 to 540 (2 disk intervals to 9/10 of suspicion_floor_ms)");
    }

    #[test]
    fn every_relation_is_checked() {
        let good = Options::default();
        let bad = [
            Options { tick_ms: 0, ..good.clone() },
            Options { network_interval_ms: 250, ..good.clone() },
            Options { disk_interval_ms: 260, ..good.clone() },
            Options { suspicion_ceiling_ms: 599, ..good.clone() },
            Options { suspicion_phi: 0, ..good.clone() },
            Options { lease_ms: 399, ..good.clone() },
            Options { stall_ms: 501, ..good.clone() },
            Options { stall_ms: 49, ..good.clone() },
            Options { settle_ms: 399, ..good.clone() },
            Options { storage_timeout_ms: 1199, ..good.clone() },
            Options { stagger_ms: 0, ..good.clone() },
            Options { fence_retry_ms: 5, ..good },
        ];
        for options in bad {
            assert!(options.validate().is_err(), "{options:?}");
        }
    }
}
