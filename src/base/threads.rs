//! The real runtime: the machine's boot-time clock (monotonic, and it goes on while the machine is suspended, so that leases run out then), tokio's timers and tasks, a rayon pool of its own for jobs.
//!
//! Made once by each `main` (and by tests of real drivers). Invariant: a task or job that panics ends the process at once, by abort: a
//! panicking instance dies and is recovered; it never limps on with a lock poisoned or a loop gone. Nothing here stops tasks; whoever
//! needs that gives them a way to hear it, and dropping the tokio runtime drops what is left.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the seam itself: time, tasks, workers and randomness come in here"
)]

use std::any::Any;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::runtime::{BoxFuture, Instant, Job, Runtime, Seams};

/// [`Runtime`] over a tokio runtime (which must have its time driver enabled) and a rayon pool.
pub struct ThreadsRuntime {
    handle: tokio::runtime::Handle,
    /// Boot time when this was made.
    start: Duration,
    pool: rayon::ThreadPool,
    entropy: RandomState,
}

/// The worker threads could not be started.
#[derive(Debug, thiserror::Error)]
#[error("can't start {workers} worker threads: {reason}")]
pub struct PoolError {
    /// How many were asked for; 0 means one per core.
    pub workers: usize,
    /// What the system said.
    pub reason: String,
}

impl ThreadsRuntime {
    /// A runtime over `handle` with `workers` worker threads; 0 means one per core.
    ///
    /// # Errors
    /// [`PoolError`] when the system refuses the threads.
    pub fn start(handle: tokio::runtime::Handle, workers: usize) -> Result<Seams, PoolError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(workers)
            .thread_name(|number| format!("worker-{number}"))
            .panic_handler(|payload| die("worker job", &*payload))
            .build()
            .map_err(|error| PoolError { workers, reason: error.to_string() })?;
        Ok(Arc::new(ThreadsRuntime { handle, start: boot_time(), pool, entropy: RandomState::new() }))
    }
}

/// Time since the machine booted, suspension included.
fn boot_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Says who panicked and ends the process.
fn die(name: &str, payload: &(dyn Any + Send)) -> ! {
    let what = panic_text(payload);
    tracing::error!(task = name, panic = what, "a task panicked: this instance stops at once and has to be recovered");
    // The log may go nowhere; whoever looks at the terminal or the service manager's journal must see it too.
    eprintln!("regroup: {name} panicked: {what}; this instance stops at once and has to be recovered");
    std::process::abort();
}

/// The text that a panic was raised with.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&'static str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(a panic without text)")
}

impl Runtime for ThreadsRuntime {
    fn now(&self) -> Instant {
        Instant((boot_time() - self.start).as_nanos() as u64)
    }

    fn wall_ms(&self) -> u64 {
        // A clock set before 1970 reads as 0: this is for people only.
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    fn sleep(&self, for_: Duration) -> BoxFuture<()> {
        // The timer takes its driver from the entered runtime, so that a caller outside of tokio's threads may sleep too.
        let _entered = self.handle.enter();
        Box::pin(tokio::time::sleep(for_))
    }

    fn spawn(&self, name: &'static str, mut task: BoxFuture<()>) {
        self.handle.spawn(std::future::poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))) {
            Ok(poll) => poll,
            Err(payload) => die(name, &*payload),
        }));
    }

    fn work(&self, job: Job) {
        self.pool.spawn(job);
    }

    fn workers(&self) -> usize {
        self.pool.current_num_threads()
    }

    fn random(&self) -> u64 {
        // SipHash under 128 key bits from the operating system, of a counter: unforeseeable enough for identities and jitter, without
        // a system call each time.
        static COUNTER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        self.entropy.hash_one(COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::super::runtime::{join_all, run_job};
    use super::*;

    fn tokio_runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
    }

    #[test]
    fn clock_timers_tasks_and_jobs_work() {
        let tokio_runtime = tokio_runtime();
        let seams = ThreadsRuntime::start(tokio_runtime.handle().clone(), 2).unwrap();
        assert_eq!(seams.workers(), 2);
        assert!(seams.wall_ms() > 1_700_000_000_000);
        assert_ne!(seams.random(), seams.random());
        let before = seams.now();
        // Made outside of the tokio runtime, awaited inside.
        let sleep = seams.sleep(Duration::from_millis(20));
        tokio_runtime.block_on(sleep);
        assert!(seams.now().since(before) >= Duration::from_millis(20));
        let (send, receive) = tokio::sync::oneshot::channel();
        seams.spawn("sender", Box::pin(async move { send.send(5).unwrap() }));
        assert_eq!(tokio_runtime.block_on(receive).unwrap(), 5);
        let sums = tokio_runtime.block_on(async {
            let jobs = (0..10u64).map(|n| {
                let seams = seams.clone();
                Box::pin(async move { run_job(&seams, move || (0..=n).sum::<u64>()).await }) as BoxFuture<u64>
            });
            join_all(jobs.collect()).await
        });
        assert_eq!(sums, [0, 1, 3, 6, 10, 15, 21, 28, 36, 45]);
    }

    /// Runs this test binary again, only the test `name`, told by an environment variable to really panic; returns its standard error.
    fn die_in_child(name: &str) -> String {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env("REGROUP_TEST_DIE", "1")
            .output()
            .unwrap();
        assert!(!child.status.success());
        assert!(std::os::unix::process::ExitStatusExt::signal(&child.status).is_some(), "aborted, not exited: {:?}", child.status);
        String::from_utf8_lossy(&child.stderr).into_owned()
    }

    #[test]
    fn a_panicking_task_ends_the_process() {
        if std::env::var_os("REGROUP_TEST_DIE").is_none() {
            let said = die_in_child("base::threads::tests::a_panicking_task_ends_the_process");
            assert!(said.contains("bad task panicked: on purpose"), "{said}");
            return;
        }
        let tokio_runtime = tokio_runtime();
        let seams = ThreadsRuntime::start(tokio_runtime.handle().clone(), 1).unwrap();
        seams.spawn("bad task", Box::pin(async { panic!("on purpose") }));
        tokio_runtime.block_on(seams.sleep(Duration::from_secs(20)));
    }

    #[test]
    fn a_panicking_job_ends_the_process() {
        if std::env::var_os("REGROUP_TEST_DIE").is_none() {
            let said = die_in_child("base::threads::tests::a_panicking_job_ends_the_process");
            assert!(said.contains("worker job panicked: on purpose"), "{said}");
            return;
        }
        let tokio_runtime = tokio_runtime();
        let seams = ThreadsRuntime::start(tokio_runtime.handle().clone(), 1).unwrap();
        seams.work(Box::new(|| panic!("{}", "on purpose")));
        tokio_runtime.block_on(seams.sleep(Duration::from_secs(20)));
    }
}
