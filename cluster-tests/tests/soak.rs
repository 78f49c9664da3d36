//! A mesh on a machine whose every core is wanted by four busy processes: nobody is evicted (issue 4 item 12).
//!
//! Five minutes; `REGROUP_SOAK_SECONDS` sets another time (an hour: 3600).

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use cluster_tests::hosts::Hosts;

/// Busy processes for each core, beside the cluster's own.
const OVERSUBSCRIBED: usize = 4;

fn seconds() -> u64 {
    std::env::var("REGROUP_SOAK_SECONDS").ok().map_or(300, |text| text.parse().expect("REGROUP_SOAK_SECONDS is a number"))
}

/// Processes that do nothing but compute; ended with the value.
struct Busy(Vec<Child>);

impl Busy {
    fn start() -> Busy {
        let cores = std::thread::available_parallelism().expect("a machine has cores").get();
        let start = |_| {
            let mut command = Command::new("sh");
            // It ends by itself when the test was killed.
            command.args([
                "-c",
                &format!(
                    "end=$(($(date +%s) + {})); while [ $(date +%s) -lt $end ]; do i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; done",
                    seconds() + 120
                ),
            ]);
            command.spawn().expect("a shell can be started")
        };
        Busy((0..cores * OVERSUBSCRIBED).map(start).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}

#[test]
fn a_starved_mesh_evicts_nobody() {
    let hosts = Hosts::start(3, false);
    let before = hosts.view();
    let busy = Busy::start();
    let until = Instant::now() + Duration::from_secs(seconds());
    while Instant::now() < until {
        std::thread::sleep(Duration::from_secs(2).min(until - Instant::now()));
        assert_eq!(hosts.view(), before, "a false eviction\n{}", hosts.logs());
    }
    drop(busy);
    hosts.whole();
    assert_eq!(hosts.view(), before, "{}", hosts.logs());
}
