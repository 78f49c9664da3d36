//! The fast disk: O_DIRECT through io_uring.
//!
//! One thread owns the ring: it alone submits, and it keeps the buffers of everything in flight, so dropping a future can't free memory that
//! the kernel writes to. Callers hand requests over through a queue; an eventfd that the ring polls wakes the thread where it sleeps, in
//! `io_uring_enter`. Answers go back by oneshot. Per round the thread makes one system call, which submits all that is new and waits.
//!
//! ```text
//! caller -> queue --(eventfd, only when the thread sleeps)--> ring thread -> submission queue -> kernel
//!        <- oneshot <------------------------------------------- slots  <- completion queue <-
//! ```
//!
//! Invariants: at most [`DEPTH`] requests are in flight (the completion queue can't overflow), the rest waits in `backlog`, which is as long as callers have
//! buffers for; a slot is freed only
//! by its completion. Kernel older than 5.13: refused. Dropping the disk waits for what is in flight, for as long as storage takes: giving up
//! the locks or the buffers earlier would be wrong.

#![expect(clippy::disallowed_methods, reason = "a seam: this thread only carries out I/O, and the simulator has a disk of its own")]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use parking_lot::Mutex;

use super::buffer::Arena;
use super::driver::{Driver, FileDisk};
use super::file::File;
use super::request::{Request, Step};
use super::{BufferPool, DriverError};

/// Most requests in flight at once.
const DEPTH: usize = 256;
/// Submission queue entries: [`DEPTH`] requests and the wake-up poll, rounded up. The completion queue has twice as many.
const ENTRIES: u32 = 512;
/// Slots for registered files: all data files and redo threads of a cluster. Files beyond go unregistered.
const FILES_MAX: u32 = 2048;
/// Slots for registered memory, of at most [`PART_MAX`] bytes each.
const PARTS_MAX: u32 = 4096;
/// Memory registered at once, in bytes: while it is pinned no request is served.
const PART_MAX: usize = 16 << 20;
/// Pause of the thread that populates memory, in multiples of the time that it worked; and the longest.
const POPULATE_PAUSE: u32 = 3;
const POPULATE_PAUSE_MAX: Duration = Duration::from_millis(200);
/// Marks completions of the wake-up poll; requests carry their slot number.
const WAKE_UP: u64 = u64::MAX;
/// Pause before a submission that the kernel had no resources for is tried again.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(1);

/// Sets a ring up and starts its thread: a disk whose I/O goes through io_uring.
///
/// # Errors
/// The kernel, or the limits of this process or container, don't allow it.
pub fn start() -> Result<FileDisk, DriverError> {
    Ok(FileDisk::over(Ring::start()?))
}

enum Message {
    Request(Request),
    Opened(u32, Arc<File>),
    /// Memory to be registered: start and length in an arena.
    Register(Arc<Arena>, usize, usize),
}

/// What callers and the ring thread share.
struct Queue {
    state: Mutex<State>,
    /// The ring thread is in, or about to enter, the kernel to wait: whoever puts something in wakes it.
    asleep: AtomicBool,
    wake_up: OwnedFd,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    closing: bool,
    /// The thread is gone, and why.
    stopped: Option<String>,
}

impl Queue {
    fn put(&self, message: Message) {
        let mut state = self.state.lock();
        if let Some(reason) = &state.stopped {
            let reason = reason.clone();
            drop(state);
            if let Message::Request(request) = message {
                request.stop(&reason, false);
            }
            return;
        }
        state.messages.push_back(message);
        drop(state);
        self.wake();
    }

    /// The thread says that it will sleep, then looks into the queue; we put something in, then look whether it sleeps. One of us sees the other.
    fn wake(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            let one = 1_u64;
            // SAFETY: an eventfd takes 8 bytes. It can fail only when the counter is at its end, and then it is readable anyway.
            unsafe { libc::write(self.wake_up.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }
}

/// The callers' end of the ring thread.
struct Ring {
    /// Threads that give memory to arenas before they are registered.
    populating: Mutex<Vec<JoinHandle<()>>>,
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Ring {
    fn start() -> Result<Ring, DriverError> {
        let failed = |step| move |error: io::Error| DriverError::new("uring", step, &error);
        // SAFETY: plain numbers; the result is checked before it becomes an owned descriptor.
        let wake_up = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if wake_up < 0 {
            return Err(failed("make an eventfd")(io::Error::last_os_error()));
        }
        // SAFETY: made above, owned by nobody else.
        let wake_up = unsafe { OwnedFd::from_raw_fd(wake_up) };
        let queue = Arc::new(Queue { state: Mutex::default(), asleep: AtomicBool::new(false), wake_up });
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let shared = queue.clone();
        // The ring belongs to the task that makes it (SINGLE_ISSUER), so the thread does.
        let thread = std::thread::Builder::new()
            .name("disk-ring".into())
            .spawn(move || match set_up() {
                Ok(ring) => {
                    let mut worker = Worker::new(ring, shared);
                    // The starter waits for this, so it is there.
                    let _ = ready.send(Ok(()));
                    worker.run();
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            })
            .map_err(failed("start its thread"))?;
        let outcome = is_ready.recv().unwrap_or_else(|_| Err(failed("start its thread")(io::Error::other("it panicked"))));
        let ring = Ring { queue, thread: Some(thread), populating: Mutex::default() };
        outcome.map(|()| ring)
    }
}

impl Driver for Ring {
    fn kind(&self) -> &'static str {
        "uring"
    }

    fn submit(&self, request: Request) {
        self.queue.put(Message::Request(request));
    }

    fn opened(&self, number: u32, file: &Arc<File>) {
        self.queue.put(Message::Opened(number, file.clone()));
    }

    /// Pinning memory that isn't there yet takes long, so a thread of its own touches it first, part by part.
    fn register(&self, pool: &BufferPool) {
        let (arena, queue) = (pool.arena(), self.queue.clone());
        let populate = move || {
            lower_priority();
            let (_, length) = arena.extent();
            for offset in (0..length).step_by(PART_MAX) {
                if queue.state.lock().closing {
                    return;
                }
                let part = PART_MAX.min(length - offset);
                let began = std::time::Instant::now();
                arena.populate(offset, part);
                queue.put(Message::Register(arena.clone(), offset, part));
                // Its priority doesn't help those who share a core's caches and this process's memory map with it.
                std::thread::sleep((began.elapsed() * POPULATE_PAUSE).min(POPULATE_PAUSE_MAX));
            }
        };
        match std::thread::Builder::new().name("disk-memory".into()).spawn(populate) {
            Ok(thread) => self.populating.lock().push(thread),
            Err(error) => tracing::warn!(%error, "no thread to register I/O memory: I/O goes on without, a little slower"),
        }
    }
}

/// Lets every other thread go first.
fn lower_priority() {
    // SAFETY: plain numbers. On Linux a thread has a priority of its own; 0 names the calling one. Refused or not, it goes on.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.queue.state.lock().closing = true;
        self.queue.wake();
        for thread in self.populating.lock().drain(..) {
            // Its panic has been reported by itself.
            let _ = thread.join();
        }
        let Some(thread) = self.thread.take() else { return };
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the ring thread of a disk panicked");
        }
    }
}

/// Makes the ring of this thread.
fn set_up() -> Result<IoUring, DriverError> {
    let failed = |step| move |error: io::Error| DriverError::new("uring", step, &error);
    let ring = match IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(ENTRIES) {
        // A kernel before 6.1 doesn't know these flags; it does the same with more interrupts.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::builder().build(ENTRIES),
        outcome => outcome,
    }
    .map_err(failed("set up a ring"))?;
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(failed("ask for the ring's operations"))?;
    let needed = [opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE, opcode::PollAdd::CODE];
    // Resource tags came with the same kernel (5.13) as polls that stay armed.
    if !needed.iter().all(|&code| probe.is_supported(code)) || !ring.params().is_feature_resource_tagging() {
        let old = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        return Err(failed("use this kernel's io_uring, which is older than 5.13")(old));
    }
    Ok(ring)
}

/// Requests that the kernel has.
#[derive(Default)]
struct Slots {
    slots: Vec<Option<Request>>,
    free: Vec<u32>,
}

impl Slots {
    fn put(&mut self, request: Request) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.slots[slot as usize] = Some(request);
        slot
    }

    fn take(&mut self, slot: u64) -> Option<Request> {
        let request = self.slots.get_mut(usize::try_from(slot).ok()?)?.take()?;
        self.free.push(slot as u32);
        Some(request)
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

/// Memory that the kernel has registered or is to register when nothing else is to do.
#[derive(Default)]
struct Registered {
    /// By first address: the address behind the last, and the slot number.
    parts: BTreeMap<usize, (usize, u16)>,
    /// Keeps the memory from being freed, and its addresses from being used again, while registered.
    arenas: Vec<Arc<Arena>>,
    /// First address and length of what is not registered yet.
    waiting: VecDeque<(usize, usize)>,
    refused: bool,
}

impl Registered {
    fn slot_of(&self, at: *const u8, length: u32) -> Option<u16> {
        let (first, end) = (at as usize, at as usize + length as usize);
        let (_, &(part_end, slot)) = self.parts.range(..=first).next_back()?;
        (end <= part_end).then_some(slot)
    }
}

/// The ring thread's own state.
struct Worker {
    slots: Slots,
    ring: IoUring,
    queue: Arc<Queue>,
    backlog: VecDeque<Request>,
    inbox: VecDeque<Message>,
    files_max: u32,
    memory: Registered,
    armed: bool,
    /// What requests hear that come or are left when this is dropped.
    reason: String,
}

impl Worker {
    fn new(ring: IoUring, queue: Arc<Queue>) -> Worker {
        let files_max = match ring.submitter().register_files_sparse(FILES_MAX) {
            Ok(()) => FILES_MAX,
            Err(error) => {
                tracing::warn!(%error, "the kernel refuses a table of registered files: I/O goes on without, a little slower");
                0
            }
        };
        let refused = match ring.submitter().register_buffers_sparse(PARTS_MAX) {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(%error, "the kernel refuses a table of registered memory: I/O goes on without, a little slower");
                true
            }
        };
        Worker {
            slots: Slots::default(),
            ring,
            queue,
            backlog: VecDeque::new(),
            inbox: VecDeque::new(),
            files_max,
            memory: Registered { refused, ..Registered::default() },
            armed: false,
            reason: "its thread panicked".into(),
        }
    }

    fn run(&mut self) {
        self.reason = match self.serve() {
            Ok(()) => "it was closed".into(),
            Err(error) => {
                tracing::error!(%error, in_flight = self.slots.in_flight(), "the ring failed: this disk takes no further work");
                format!("its ring failed: {error}")
            }
        };
    }

    /// Until the disk is dropped and nothing is left to do.
    fn serve(&mut self) -> io::Result<()> {
        loop {
            let closing = self.take_messages();
            self.arm();
            self.submit_backlog();
            if closing && self.slots.in_flight() == 0 && self.backlog.is_empty() {
                return Ok(());
            }
            if self.slots.in_flight() == 0 && self.register_memory() {
                continue;
            }
            // A full house can't take more: only completions count, no wake-up is needed.
            let room = self.slots.in_flight() < DEPTH;
            let wait = !room || self.fall_asleep();
            let entered = self.ring.submit_and_wait(usize::from(wait));
            self.queue.asleep.store(false, Ordering::SeqCst);
            match entered {
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => std::thread::sleep(SHORTAGE_PAUSE),
                    _ => return Err(error),
                },
            }
            self.take_completions();
        }
    }

    /// Announces the sleep; true when there is still nothing to do. See [`Queue::wake`].
    fn fall_asleep(&self) -> bool {
        self.queue.asleep.store(true, Ordering::SeqCst);
        let state = self.queue.state.lock();
        let idle = state.messages.is_empty() && (!state.closing || self.slots.in_flight() > 0);
        drop(state);
        if !idle {
            self.queue.asleep.store(false, Ordering::SeqCst);
        }
        idle
    }

    fn take_messages(&mut self) -> bool {
        let mut state = self.queue.state.lock();
        std::mem::swap(&mut state.messages, &mut self.inbox);
        let closing = state.closing;
        drop(state);
        while let Some(message) = self.inbox.pop_front() {
            match message {
                Message::Request(request) => self.backlog.push_back(request),
                Message::Opened(number, file) => self.register_file(number, &file),
                Message::Register(arena, offset, length) => self.note_memory(arena, offset, length),
            }
        }
        closing
    }

    fn register_file(&mut self, number: u32, file: &File) {
        if number >= self.files_max {
            return;
        }
        if let Err(error) = self.ring.submitter().register_files_update(number, &[file.raw()]) {
            tracing::warn!(%error, file = %file.path().display(), "the kernel refuses to register files: I/O goes on without, a little slower");
            // Numbers grow: those registered before stay so.
            self.files_max = number;
        }
    }

    /// Notes memory to be registered when the ring has nothing else to do.
    fn note_memory(&mut self, arena: Arc<Arena>, offset: usize, length: usize) {
        let (start, _) = arena.extent();
        self.memory.waiting.push_back((start as usize + offset, length));
        self.memory.arenas.push(arena);
    }

    /// Registers the next part of noted memory; false when there is none.
    fn register_memory(&mut self) -> bool {
        let Some((start, length)) = self.memory.waiting.pop_front() else { return false };
        let slot = self.memory.parts.len();
        let Some(number) = u16::try_from(slot).ok().filter(|_| slot < PARTS_MAX as usize && !self.memory.refused) else {
            self.memory.waiting.clear();
            return false;
        };
        let part = libc::iovec { iov_base: std::ptr::without_provenance_mut::<u8>(start).cast(), iov_len: length };
        // SAFETY: the part lies in one of `memory.arenas`, which are kept for as long as the ring exists.
        match unsafe { self.ring.submitter().register_buffers_update(slot as u32, &[part], None) } {
            Ok(()) => {
                self.memory.parts.insert(start, (start + length, number));
            }
            Err(error) => {
                tracing::warn!(%error, bytes = length, "the kernel refuses to register I/O memory (RLIMIT_MEMLOCK?): I/O goes on without, a little slower");
                self.memory.refused = true;
            }
        }
        true
    }

    /// Keeps the poll of the wake-up eventfd armed. It fires on each write to it; the counter is never read, so no further system call is needed.
    fn arm(&mut self) {
        if self.armed {
            return;
        }
        let poll =
            opcode::PollAdd::new(types::Fd(self.queue.wake_up.as_raw_fd()), libc::POLLIN as u32).multi(true).build().user_data(WAKE_UP);
        // SAFETY: the eventfd lives in `queue`, which outlives the ring.
        self.armed = unsafe { self.ring.submission().push(&poll) }.is_ok();
    }

    fn submit_backlog(&mut self) {
        while self.slots.in_flight() < DEPTH {
            let Some(mut request) = self.backlog.pop_front() else { return };
            let entry = self.entry(&mut request);
            let slot = self.slots.put(request);
            let entry = entry.user_data(u64::from(slot));
            // SAFETY: buffer and descriptor belong to the request, which stays in its slot until the kernel has answered.
            if unsafe { self.ring.submission().push(&entry) }.is_err() {
                // Entries that the kernel has not taken yet fill the queue: next round.
                self.backlog.extend(self.slots.take(u64::from(slot)));
                return;
            }
        }
    }

    fn entry(&self, request: &mut Request) -> squeue::Entry {
        let step = request.step();
        if request.number < self.files_max {
            // The number in the table of registered files stands in the place of the descriptor.
            self.entry_on(types::Fd(request.number as i32), step).flags(squeue::Flags::FIXED_FILE)
        } else {
            self.entry_on(types::Fd(request.file().raw()), step)
        }
    }

    fn entry_on(&self, file: types::Fd, step: Step) -> squeue::Entry {
        match step {
            Step::Read { at, length, offset } => match self.memory.slot_of(at, length) {
                Some(slot) => opcode::ReadFixed::new(file, at, length, slot).offset(offset).build(),
                None => opcode::Read::new(file, at, length).offset(offset).build(),
            },
            Step::Write { at, length, offset, durable } => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                match self.memory.slot_of(at, length) {
                    Some(slot) => opcode::WriteFixed::new(file, at, length, slot).offset(offset).rw_flags(flags).build(),
                    None => opcode::Write::new(file, at, length).offset(offset).rw_flags(flags).build(),
                }
            }
            Step::SyncData => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
            Step::Allocate { offset, length } => opcode::Fallocate::new(file, length).offset(offset).build(),
            Step::SyncAll => opcode::Fsync::new(file).build(),
        }
    }

    fn take_completions(&mut self) {
        for completion in self.ring.completion() {
            if completion.user_data() == WAKE_UP {
                self.armed = cqueue::more(completion.flags());
                continue;
            }
            let request = self.slots.take(completion.user_data()).expect("the kernel answers a request that it has, once");
            // A rest of a transfer goes before what came later.
            if let Some(unfinished) = request.advance(completion.result()) {
                self.backlog.push_front(unfinished);
            }
        }
    }
}

impl Drop for Worker {
    /// At the orderly end nothing is left. After a panic or a failure of the ring, everyone who waits is told, and the buffers of what is
    /// in flight are leaked: the kernel may still use them.
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        state.stopped = Some(self.reason.clone());
        let left = std::mem::take(&mut state.messages);
        drop(state);
        for message in self.inbox.drain(..).chain(left) {
            if let Message::Request(request) = message {
                request.stop(&self.reason, false);
            }
        }
        for request in self.backlog.drain(..) {
            request.stop(&self.reason, false);
        }
        for request in self.slots.slots.drain(..).flatten() {
            request.stop(&self.reason, true);
        }
        // So that the kernel gives its references to the files up now, and not some time after the ring is closed.
        if self.files_max > 0
            && let Err(error) = self.ring.submitter().unregister_files()
        {
            tracing::warn!(%error, "can't empty the table of registered files");
        }
    }
}
