//! The fallback disk: positioned, blocking I/O on a small fixed pool of operating system threads.
//!
//! For kernels and containers that refuse io_uring. The same requests, the same semantics as `uring`, at a lower rate: at most [`THREADS`]
//! I/Os are with the kernel at once, the others wait in a queue, which is as long as callers have buffers for.

#![expect(clippy::disallowed_methods, reason = "a seam: these threads only carry out I/O, and the simulator has a disk of its own")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::driver::{Driver, FileDisk};
use super::file::{File, answer};
use super::request::{Request, Step};
use super::{BufferPool, DriverError};

/// I/Os with the kernel at once.
const THREADS: usize = 16;

/// Starts a disk whose I/O is done by threads.
///
/// # Errors
/// The system gives no more threads.
pub fn start() -> Result<FileDisk, DriverError> {
    Ok(FileDisk::over(Pool::start()?))
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Request>,
    closing: bool,
}

/// The threads and their queue.
struct Pool {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    fn start() -> Result<Pool, DriverError> {
        let queue = Arc::new(Queue::default());
        let mut pool = Pool { queue: queue.clone(), threads: Vec::new() };
        for number in 0..THREADS {
            let queue = queue.clone();
            let thread = std::thread::Builder::new()
                .name(format!("disk-{number}"))
                .spawn(move || work(&queue))
                .map_err(|error| DriverError::new("threads", "start a thread", &error))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }
}

impl Driver for Pool {
    fn kind(&self) -> &'static str {
        "threads"
    }

    fn submit(&self, request: Request) {
        self.queue.state.lock().waiting.push_back(request);
        self.queue.changed.notify_one();
    }

    fn opened(&self, _number: u32, _file: &Arc<File>) {}

    fn register(&self, _pool: &BufferPool) {}
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.state.lock().closing = true;
        self.queue.changed.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a disk thread panicked");
            }
        }
    }
}

/// Serves requests until the disk is dropped *and* the queue is empty.
fn work(queue: &Queue) {
    loop {
        let mut state = queue.state.lock();
        let request = loop {
            if let Some(request) = state.waiting.pop_front() {
                break request;
            }
            if state.closing {
                return;
            }
            queue.changed.wait(&mut state);
        };
        drop(state);
        carry_out(request);
    }
}

fn carry_out(request: Request) {
    let mut next = Some(request);
    while let Some(mut request) = next {
        let step = request.step();
        let result = perform(request.file(), step);
        next = request.advance(result);
    }
}

/// One system call; a count or a negative errno.
fn perform(file: &File, step: Step) -> i32 {
    let descriptor = file.raw();
    match step {
        Step::Read { at, length, offset } => {
            // SAFETY: the request owns `length` bytes at `at` and outlives the call.
            answer(unsafe { libc::pread(descriptor, at.cast(), length as usize, offset as libc::off_t) })
        }
        Step::Write { at, length, offset, durable } => {
            let part = libc::iovec { iov_base: at.cast_mut().cast(), iov_len: length as usize };
            let flags = if durable { libc::RWF_DSYNC } else { 0 };
            // SAFETY: one iovec over bytes that the request owns and that outlive the call; the kernel only reads them.
            answer(unsafe { libc::pwritev2(descriptor, &raw const part, 1, offset as libc::off_t, flags) })
        }
        Step::SyncData => file.sync_data(),
        Step::Allocate { offset, length } => file.allocate(offset, length),
        Step::SyncAll => file.sync_all(),
    }
}
