//! Options of a store: meaning, default, allowed range. Validated once ([`Options::validate`]); a bad value is refused, never clamped.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits;

/// When a commit is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogMode {
    /// When its redo is durable. Never loses an acknowledged commit.
    #[default]
    Commit,
    /// At once; redo becomes durable at the latest `log_batch_interval_ms` later. A crash loses at most that much.
    Batch,
    /// At once; redo becomes durable when the log buffer fills, a page is written or a checkpoint is taken. A crash loses all since then.
    None,
}

/// Which disk driver to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskKind {
    /// io_uring; threads, with a warning that names the reason, where the kernel refuses it.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// Positioned I/O on threads.
    Threads,
}

/// Whether pages go through the double-write area (rule 15).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DoubleWrite {
    /// Unless the device promises atomic writes of a page.
    #[default]
    Auto,
    /// Always.
    On,
}

/// All options of one instance's storage core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Page cache, in bytes. Default 64 MiB; at least 2 MiB.
    pub cache_bytes: u64,
    /// When a commit is acknowledged. Default `commit`.
    pub log_mode: LogMode,
    /// Longest time until redo is durable in mode `batch`, in milliseconds. Default 100; 1 to 10000.
    pub log_batch_interval_ms: u64,
    /// Longest time between two checkpoints while there is something to write, in milliseconds. Default 30000; 10 to 3600000.
    pub checkpoint_interval_ms: u64,
    /// Redo kept behind the checkpoint before page writing is stepped up, in percent of the ring. Default 50; 5 to 80.
    pub checkpoint_log_percent: u8,
    /// Longest time that recovery after a crash may be predicted to take, from the start of opening to service, in milliseconds: pages are
    /// written early enough. The prediction is made from rates measured on this machine; commits are not slowed down for it.
    /// Default 10000; 0 (off) or 500 to 3600000.
    pub recovery_time_target_ms: u64,
    /// Whether pages go through the double-write area. Default `auto`.
    pub double_write: DoubleWrite,
    /// Disk driver. Default `auto`.
    pub disk: DiskKind,
    /// Reads or writes of pages in flight at once. Default 64; 1 to 1024.
    pub page_io_depth: usize,
    /// Memory that recovery may use beyond the page cache, in bytes. Default 64 MiB; at least 16 MiB.
    pub recovery_memory_bytes: u64,
    /// Undo kept for snapshots, in bytes: beyond it the oldest is used again, and snapshots may be too old. Default 4 GiB; at least 1 MiB.
    pub undo_bytes_max: u64,
    /// Parallel redo jobs; 0 means one per worker thread. Default 0; up to 256.
    pub recovery_workers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            cache_bytes: 64 << 20,
            log_mode: LogMode::Commit,
            log_batch_interval_ms: 100,
            checkpoint_interval_ms: 30_000,
            checkpoint_log_percent: 50,
            recovery_time_target_ms: 10_000,
            double_write: DoubleWrite::Auto,
            disk: DiskKind::Auto,
            page_io_depth: 64,
            recovery_memory_bytes: 64 << 20,
            undo_bytes_max: 4 << 30,
            recovery_workers: 0,
        }
    }
}

/// An option outside its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("option {name} is {found}, but must be {allowed}")]
pub struct OptionError {
    /// As in the configuration file.
    pub name: &'static str,
    /// The value given.
    pub found: u64,
    /// The range allowed.
    pub allowed: &'static str,
}

impl Options {
    /// Checks every range.
    ///
    /// # Errors
    /// The first option that is outside its range.
    pub fn validate(&self) -> Result<(), OptionError> {
        let cache_min = (limits::CACHE_FRAMES_MIN * limits::PAGE_SIZE) as u64;
        let checks: [(&'static str, u64, std::ops::RangeInclusive<u64>, &'static str); 8] = [
            ("cache_bytes", self.cache_bytes, cache_min..=1 << 44, "2097152 (2 MiB) to 2^44"),
            ("log_batch_interval_ms", self.log_batch_interval_ms, 1..=10_000, "1 to 10000"),
            ("checkpoint_interval_ms", self.checkpoint_interval_ms, 10..=3_600_000, "10 to 3600000"),
            ("checkpoint_log_percent", u64::from(self.checkpoint_log_percent), 5..=80, "5 to 80"),
            ("page_io_depth", self.page_io_depth as u64, 1..=1024, "1 to 1024"),
            ("recovery_memory_bytes", self.recovery_memory_bytes, 16 << 20..=1 << 40, "16777216 (16 MiB) to 2^40"),
            ("undo_bytes_max", self.undo_bytes_max, 1 << 20..=1 << 50, "1048576 (1 MiB) to 2^50"),
            ("recovery_workers", self.recovery_workers as u64, 0..=256, "0 to 256"),
        ];
        for (name, found, range, allowed) in checks {
            if !range.contains(&found) {
                return Err(OptionError { name, found, allowed });
            }
        }
        let target = self.recovery_time_target_ms;
        if target != 0 && !(500..=3_600_000).contains(&target) {
            return Err(OptionError { name: "recovery_time_target_ms", found: target, allowed: "0 (off), or 500 to 3600000" });
        }
        Ok(())
    }

    /// Frames in the page cache.
    pub fn cache_frames(&self) -> usize {
        (self.cache_bytes / limits::PAGE_SIZE as u64) as usize
    }

    /// [`Options::log_batch_interval_ms`] as a duration.
    pub fn log_batch_interval(&self) -> Duration {
        Duration::from_millis(self.log_batch_interval_ms)
    }

    /// [`Options::recovery_time_target_ms`] as a duration; none when it is off.
    pub fn recovery_time_target(&self) -> Option<Duration> {
        (self.recovery_time_target_ms > 0).then(|| Duration::from_millis(self.recovery_time_target_ms))
    }

    /// [`Options::checkpoint_interval_ms`] as a duration.
    pub fn checkpoint_interval(&self) -> Duration {
        Duration::from_millis(self.checkpoint_interval_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_options_read_back_from_toml(cache_bytes in 2u64 << 20..1 << 44, mode in 0usize..3, interval in 1u64..=10_000, percent in 5u8..=80,
            depth in 1usize..=1024, workers in 0usize..=256, double_write: bool, disk in 0usize..3) {
            let options = Options {
                cache_bytes,
                log_mode: [LogMode::Commit, LogMode::Batch, LogMode::None][mode],
                log_batch_interval_ms: interval,
                checkpoint_log_percent: percent,
                double_write: if double_write { DoubleWrite::On } else { DoubleWrite::Auto },
                disk: [DiskKind::Auto, DiskKind::Uring, DiskKind::Threads][disk],
                page_io_depth: depth,
                recovery_workers: workers,
                ..Options::default()
            };
            prop_assert_eq!(options.validate(), Ok(()));
            let text = toml::to_string(&options).unwrap();
            prop_assert_eq!(toml::from_str::<Options>(&text).unwrap(), options);
        }

        #[test]
        fn hostile_text_never_panics(text in "\\PC{0,200}", name in "[a-z_]{1,20}", value in any::<i64>()) {
            let _ = toml::from_str::<Options>(&text).map(|options| options.validate());
            let _ = toml::from_str::<Options>(&format!("{name} = {value}")).map(|options| options.validate());
        }
    }

    #[test]
    fn what_is_left_out_has_its_default_and_what_is_unknown_is_refused_by_name() {
        assert_eq!(toml::from_str::<Options>("").unwrap(), Options::default());
        let error = toml::from_str::<Options>("cache_byte = 1").unwrap_err().to_string();
        assert!(error.contains("cache_byte") && error.contains("line 1"), "{error}");
        assert!(toml::from_str::<Options>("page_io_depth = -1").is_err());
        let zero: Options = toml::from_str("page_io_depth = 0").unwrap();
        assert_eq!(zero.validate(), Err(OptionError { name: "page_io_depth", found: 0, allowed: "1 to 1024" }));
        let hasty: Options = toml::from_str("recovery_time_target_ms = 499").unwrap();
        assert!(hasty.validate().is_err_and(|error| error.name == "recovery_time_target_ms" && error.found == 499));
        let off: Options = toml::from_str("recovery_time_target_ms = 0").unwrap();
        assert_eq!((off.validate(), off.recovery_time_target()), (Ok(()), None));
    }
}
