//! Waiting for what a test needs: asked again and again, and bounded. Never a fixed time instead.

use std::time::{Duration, Instant};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(10);

/// Waits until `holds`.
///
/// # Panics
/// When that takes longer than `limit`.
#[track_caller]
pub fn wait_within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < limit, "waited {limit:?}: {what}");
        std::thread::sleep(EVERY);
    }
}
