//! Stock pgbench, killed under, and its own invariant: every transaction adds the same amount to an account, a teller, a branch and the
//! history.

use std::io::Read;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use crate::endpoint::Endpoint;
use crate::wire;

/// The four sums, and the history's rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sums {
    /// Of accounts, tellers, branches, history.
    pub sums: [i64; 4],
    /// Rows of the history.
    pub history: u64,
}

impl Sums {
    /// All four agree.
    pub fn agree(&self) -> bool {
        self.sums.iter().all(|sum| *sum == self.sums[0])
    }
}

/// Reads the sums.
///
/// # Panics
/// They can't be read.
pub fn sums(plain: &mut wire::Client) -> Sums {
    let mut number = |sql: &str| -> i64 {
        let rows = plain.rows(sql).expect("a sum can be read");
        rows[0][0].as_deref().map_or(0, |text| text.parse().expect("a sum is a number"))
    };
    Sums {
        sums: [
            number("SELECT sum(abalance) FROM pgbench_accounts"),
            number("SELECT sum(tbalance) FROM pgbench_tellers"),
            number("SELECT sum(bbalance) FROM pgbench_branches"),
            number("SELECT sum(delta) FROM pgbench_history"),
        ],
        history: number("SELECT count(*) FROM pgbench_history") as u64,
    }
}

/// `pgbench -i`.
///
/// # Panics
/// It fails.
pub fn init(endpoint: &Endpoint, scale: u32) {
    let made = endpoint
        .program("pgbench")
        .args(["-i", "-s", &scale.to_string(), "-q"])
        .output()
        .expect("pgbench can be run: it is part of package postgresql-15");
    assert!(made.status.success(), "pgbench -i: {}", said(&made));
}

fn said(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A run under way.
pub struct Run {
    child: Child,
}

impl Run {
    /// Starts `clients` clients in this protocol mode (simple, extended, prepared) for up to `seconds`.
    ///
    /// # Panics
    /// pgbench isn't there.
    pub fn start(endpoint: &Endpoint, mode: &str, clients: u32, seconds: u32) -> Run {
        let mut command = endpoint.program("pgbench");
        command.args(["-n", "-M", mode, "-c", &clients.to_string(), "-j", "2", "-T", &seconds.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Run { child: child.expect("pgbench can be run: it is part of package postgresql-15") }
    }

    /// Waits for its end, which comes by itself when the server is gone; how many transactions were acknowledged, and what it said.
    ///
    /// # Panics
    /// It doesn't end within `within`, or doesn't say.
    pub fn acknowledged(mut self, within: Duration) -> (u64, String) {
        let deadline = Instant::now() + within;
        while self.child.try_wait().expect("a child can be waited for").is_none() {
            assert!(Instant::now() < deadline, "pgbench doesn't end within {within:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut text = String::new();
        for stream in
            [self.child.stdout.take().map(|out| Box::new(out) as Box<dyn Read>), self.child.stderr.take().map(|out| Box::new(out) as _)]
        {
            stream.expect("it is piped").read_to_string(&mut text).expect("what pgbench says is text");
        }
        let count = text.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
        let count = count.and_then(|count| count.split('/').next()?.trim().parse().ok());
        (count.unwrap_or_else(|| panic!("pgbench doesn't say how many transactions it did:\n{text}")), text)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Ended already, unless the test fails.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
