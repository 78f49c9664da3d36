//! The gate that every request of the faulty FUSE disk passes: here it is delayed, refused, or held while storage is cut off.
//!
//! Used by `fuse_disk`; tests hold a [`Control`]. Delays run from a request's arrival, in parallel, like those of a slow network, and a request is
//! performed at the *end* of its delay: until then it has no effect on the storage. Whether it is refused is decided at that moment too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Requests performed at once.
const WORKERS: usize = 8;

/// Kinds of requests, for which faults are set apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Reads of data.
    Read,
    /// Writes of data, allocation and truncation.
    Write,
    /// fsync and fdatasync.
    Sync,
    /// All else that answers a question or makes, opens or removes a file.
    Metadata,
}

/// What happens to requests of one kind, and what has happened.
#[derive(Clone, Copy, Default)]
struct Kind {
    delay: Duration,
    /// Errno, and for how many more requests.
    refuse: Option<(i32, u64)>,
    waiting: u64,
    performed: u64,
}

/// Performs a request and answers it, or answers it with an errno.
type Job = Box<dyn FnOnce(Option<i32>) + Send>;

#[derive(Default)]
struct State {
    kinds: [Kind; 4],
    cut: bool,
    closing: bool,
    arrivals: u64,
    /// By the time that each is due, then by arrival.
    jobs: BTreeMap<(Instant, u64), (Operation, Job)>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A test's hand on a faulty disk. Clones control the same disk.
#[derive(Clone, Default)]
pub struct Control {
    shared: Arc<Shared>,
}

impl Control {
    /// Delays requests of this kind that arrive from now on.
    pub fn delay(&self, operation: Operation, by: Duration) {
        self.change(|state| state.kinds[operation as usize].delay = by);
    }

    /// Refuses the next `times` requests of this kind with `errno`, without performing them. 0 times ends an earlier order.
    pub fn refuse(&self, operation: Operation, errno: i32, times: u64) {
        self.change(|state| state.kinds[operation as usize].refuse = (times > 0).then_some((errno, times)));
    }

    /// Cuts storage off: every request, also one that waits already, stalls until [`Control::restore`].
    pub fn cut(&self) {
        self.change(|state| state.cut = true);
    }

    /// Ends a cut. What stalled is performed.
    pub fn restore(&self) {
        self.change(|state| state.cut = false);
    }

    /// Requests of this kind that have arrived and are not answered.
    pub fn waiting(&self, operation: Operation) -> u64 {
        self.shared.state.lock().kinds[operation as usize].waiting
    }

    /// Requests of this kind that were carried out; refused ones don't count.
    pub fn performed(&self, operation: Operation) -> u64 {
        self.shared.state.lock().kinds[operation as usize].performed
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state.lock());
        self.shared.changed.notify_all();
    }
}

/// The gate itself. Dropping it performs what waits, at once, cut or not.
pub(crate) struct Gate {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Gate {
    pub(crate) fn new(control: &Control) -> std::io::Result<Gate> {
        let mut gate = Gate { shared: control.shared.clone(), workers: Vec::new() };
        for number in 0..WORKERS {
            let shared = gate.shared.clone();
            gate.workers.push(std::thread::Builder::new().name(format!("fuse-gate-{number}")).spawn(move || work(&shared))?);
        }
        Ok(gate)
    }

    /// Lets a request through when its time has come; never blocks.
    pub(crate) fn pass(&self, operation: Operation, job: impl FnOnce(Option<i32>) + Send + 'static) {
        let mut state = self.shared.state.lock();
        let kind = &mut state.kinds[operation as usize];
        kind.waiting += 1;
        let due = Instant::now() + kind.delay;
        state.arrivals += 1;
        let key = (due, state.arrivals);
        state.jobs.insert(key, (operation, Box::new(job)));
        drop(state);
        self.shared.changed.notify_one();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.changed.notify_all();
        for worker in self.workers.drain(..) {
            // A worker's panic has already failed the request that it served; there is nobody else to tell.
            let _ = worker.join();
        }
    }
}

fn work(shared: &Shared) {
    let mut state = shared.state.lock();
    loop {
        let first = state.jobs.first_key_value().map(|(&key, _)| key);
        let now = Instant::now();
        match first {
            None if state.closing => return,
            Some(key) if state.closing || (!state.cut && key.0 <= now) => {
                let (operation, job) = state.jobs.remove(&key).expect("the first job is there while the lock is held");
                let kind = &mut state.kinds[operation as usize];
                let errno = kind.refuse.map(|(errno, _)| errno);
                kind.refuse = kind.refuse.and_then(|(errno, times)| (times > 1).then_some((errno, times - 1)));
                drop(state);
                job(errno);
                state = shared.state.lock();
                let kind = &mut state.kinds[operation as usize];
                kind.waiting -= 1;
                kind.performed += u64::from(errno.is_none());
            }
            Some((due, _)) if !state.cut => {
                shared.changed.wait_until(&mut state, due);
            }
            _ => shared.changed.wait(&mut state),
        }
    }
}
