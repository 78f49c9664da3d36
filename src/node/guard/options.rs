//! `[guard]` of the configuration: when a dead instance is started again, and when the guard gives up.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::options::OptionError;

/// How a guard treats its instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuardOptions {
    /// How often in a row an instance that dies is started again; then the guard ends, and the cluster goes on without it. 0: never.
    /// Default 8; up to 1000000.
    pub restarts_max: u32,
    /// Pause before the second restart in a row, in milliseconds (the first comes at once); it doubles each time. Default 200; 1 to 60000.
    pub restart_pause_ms: u64,
    /// Longest pause, in milliseconds. Default 10000; 1 to 3600000.
    pub restart_pause_max_ms: u64,
    /// An instance that has served so long before it died is started at once again, as if it were the first time, in milliseconds.
    /// Default 60000; 1 to 86400000.
    pub restart_forget_ms: u64,
}

impl Default for GuardOptions {
    fn default() -> GuardOptions {
        GuardOptions { restarts_max: 8, restart_pause_ms: 200, restart_pause_max_ms: 10_000, restart_forget_ms: 60_000 }
    }
}

impl GuardOptions {
    /// Checks every range.
    ///
    /// # Errors
    /// The first option that is outside its range.
    pub fn validate(&self) -> Result<(), OptionError> {
        let checks: [(&'static str, u64, std::ops::RangeInclusive<u64>, &'static str); 4] = [
            ("guard.restarts_max", self.restarts_max.into(), 0..=1_000_000, "0 to 1000000"),
            ("guard.restart_pause_ms", self.restart_pause_ms, 1..=60_000, "1 to 60000"),
            ("guard.restart_pause_max_ms", self.restart_pause_max_ms, 1..=3_600_000, "1 to 3600000"),
            ("guard.restart_forget_ms", self.restart_forget_ms, 1..=86_400_000, "1 to 86400000"),
        ];
        for (name, found, range, allowed) in checks {
            if !range.contains(&found) {
                return Err(OptionError { name, found, allowed });
            }
        }
        Ok(())
    }

    /// How long to wait before restart number `restart` in a row, from 1.
    pub fn pause(&self, restart: u32) -> Duration {
        let Some(doublings) = restart.checked_sub(2) else { return Duration::ZERO };
        let factor = 1_u64.checked_shl(doublings).filter(|factor| *factor != 0).unwrap_or(u64::MAX);
        Duration::from_millis(self.restart_pause_ms.saturating_mul(factor).min(self.restart_pause_max_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_limit() {
        let options = GuardOptions::default();
        let pauses: Vec<u64> = (1..=9).map(|restart| options.pause(restart).as_millis() as u64).collect();
        assert_eq!(pauses, [0, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(options.pause(u32::MAX), Duration::from_secs(10));
        assert_eq!(options.validate(), Ok(()));
        let refused = GuardOptions { restart_pause_ms: 0, ..options }.validate().unwrap_err();
        assert_eq!((refused.name, refused.found), ("guard.restart_pause_ms", 0));
    }
}
