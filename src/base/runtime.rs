//! The seam to clock, timers, tasks, randomness and worker threads.
//!
//! Everything above asks this trait instead of the operating system, so that the same code runs under tokio
//! ([`super::threads`]) and under the seeded simulator ([`super::sim`]). Nothing here reads a wall clock for a decision (rule 5):
//! [`Runtime::wall_ms`] is for reports that people read.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A boxed future that may move between threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// A job for the worker pool.
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// Time since the runtime started, in nanoseconds; monotonic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// Time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, by: Duration) -> Instant {
        Instant(self.0 + by.as_nanos() as u64)
    }
}

/// Clock, timers, tasks, randomness, workers.
pub trait Runtime: Send + Sync + 'static {
    /// Monotonic time.
    fn now(&self) -> Instant;
    /// Milliseconds since the Unix epoch, for people; virtual in simulation.
    fn wall_ms(&self) -> u64;
    /// Completes after `for_` has passed.
    fn sleep(&self, for_: Duration) -> BoxFuture<()>;
    /// Starts a task. It runs to its end by itself; whoever needs to stop it gives it a way to hear so.
    fn spawn(&self, name: &'static str, task: BoxFuture<()>);
    /// Starts CPU-bound work on the worker pool (a simulated task of its own in simulation). Must not block on other jobs.
    fn work(&self, job: Job);
    /// How many jobs run truly in parallel.
    fn workers(&self) -> usize;
    /// 64 random bits: seeded in simulation.
    fn random(&self) -> u64;
}

/// How the layers hold their runtime.
pub type Seams = Arc<dyn Runtime>;

/// Runs `job` on the worker pool and waits for its result.
///
/// # Panics
/// When the job panicked: a panicking instance dies and is recovered.
pub async fn run_job<T: Send + 'static>(seams: &Seams, job: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = tokio::sync::oneshot::channel();
    seams.work(Box::new(move || {
        // The receiver is gone only when the caller was dropped: nobody needs the result then.
        let _ = send.send(job());
    }));
    receive.await.expect("a worker job panicked")
}

/// Waits for all of `tasks`, in order of completion; results come back in the order given.
pub async fn join_all<T>(tasks: Vec<BoxFuture<T>>) -> Vec<T> {
    let mut pending: Vec<Option<BoxFuture<T>>> = tasks.into_iter().map(Some).collect();
    let mut done: Vec<Option<T>> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        let mut open = false;
        for (slot, result) in pending.iter_mut().zip(done.iter_mut()) {
            let Some(future) = slot else { continue };
            match future.as_mut().poll(context) {
                std::task::Poll::Ready(value) => {
                    *result = Some(value);
                    *slot = None;
                }
                std::task::Poll::Pending => open = true,
            }
        }
        if open {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(done.drain(..).map(|value| value.expect("every slot was filled")).collect())
    })
    .await
}
