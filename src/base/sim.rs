//! The simulator: one thread, virtual time, everything decided by one seed.
//!
//! A test makes a [`Sim`], gives its [`Seams`] to the code under test and drives it with [`Sim::run`]. At each step one of the ready
//! tasks, picked by the seed, runs to its next await; when none is ready, virtual time jumps to the next timer. Worker jobs are tasks
//! of their own that start after a random delay. A `Sim` hosts several simulated *processes* ([`Sim::process`]); killing one drops all
//! that it had spawned, at one point, as a real crash does.
//!
//! Invariants:
//! - The same seed and the same code give the same [`Sim::trace_hash`]: nothing depends on addresses, threads or the machine's clock.
//! - No code of a task (poll, wake, drop) runs under the simulator's own lock, so destructors may wake, spawn and sleep.
//! - A killed process runs nothing more: its tasks, jobs and timers are gone, what it spawns or sleeps for later is ignored.
//! - What can't end is found: nothing left to run, too many steps, too much virtual time are panics that name the seed.
//!
//! It doesn't simulate parallelism inside one poll (that is for shuttle or loom), nor threads: a blocking wait in a task hangs it.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::random::{Random, mix};
use super::runtime::{BoxFuture, Instant, Job, Runtime, Seams};
use super::threads::panic_text;

/// Where virtual wall clocks start: 2026-01-01T00:00:00Z, in milliseconds since the Unix epoch.
const WALL_START_MS: u64 = 1_767_225_600_000;
/// Longest time that one step takes, in nanoseconds, unless [`Sim::step_time_max`] says otherwise.
const STEP_NANOS_MAX: u64 = 1_000;
/// Longest wait of a job for its start, in nanoseconds.
const JOB_WAIT_NANOS_MAX: u64 = 50_000;
/// The main future's place in the task table belongs to no process, so no kill reaches it.
const NO_PROCESS: usize = usize::MAX;

/// A simulation. See the module's description.
///
/// Dropping it kills all processes.
pub struct Sim {
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    state: Mutex<State>,
}

struct State {
    random: Random,
    now: u64,
    steps: u64,
    hash: u64,
    step_limit: u64,
    time_limit: u64,
    step_nanos_max: u64,
    workers: usize,
    running: bool,
    next_task: u64,
    next_timer: u64,
    tasks: BTreeMap<u64, Task>,
    ready: Vec<u64>,
    timers: BTreeMap<(u64, u64), Timer>,
    processes: Vec<ProcessState>,
    root: usize,
}

struct Task {
    name: &'static str,
    process: usize,
    queued: bool,
    /// Empty while the task is being polled; the main future is never here.
    future: Option<BoxFuture<()>>,
    waker: Waker,
}

struct Timer {
    process: usize,
    waker: Waker,
}

struct ProcessState {
    name: String,
    alive: bool,
    random: Random,
    /// Tasks that would be ready, while it is stopped.
    held: Option<Vec<u64>>,
    /// By how much its monotonic clock is ahead of the simulation's, in nanoseconds.
    clock_ahead: u64,
    /// By how much its wall clock is off, in milliseconds.
    wall_off: i64,
}

struct TaskWaker {
    id: u64,
    shared: Weak<Shared>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(shared) = self.shared.upgrade() {
            shared.state.lock().make_ready(self.id);
        }
    }
}

impl State {
    /// Does nothing for a task that has ended or was killed.
    fn make_ready(&mut self, id: u64) {
        if let Some(task) = self.tasks.get_mut(&id)
            && !task.queued
        {
            task.queued = true;
            let held = self.processes.get_mut(task.process).and_then(|process| process.held.as_mut());
            held.unwrap_or(&mut self.ready).push(id);
        }
    }

    /// Stops a process: none of its tasks runs until it goes on.
    fn stop(&mut self, process: usize) {
        if self.processes[process].held.is_none() {
            let (held, ready) = self.ready.iter().partition(|id| self.tasks[*id].process == process);
            self.ready = ready;
            self.processes[process].held = Some(held);
        }
    }

    /// Takes a task that has ended out of what is to run.
    fn forget_ready(&mut self, id: u64, process: usize) {
        let held = self.processes.get_mut(process).and_then(|process| process.held.as_mut());
        held.unwrap_or(&mut self.ready).retain(|other| *other != id);
    }

    fn fold(&mut self, word: u64) {
        self.hash = mix(self.hash.rotate_left(5) ^ word);
    }

    fn add_process(&mut self, name: &str) -> usize {
        let random = self.random.fork();
        self.processes.push(ProcessState { name: name.to_owned(), alive: true, random, held: None, clock_ahead: 0, wall_off: 0 });
        self.processes.len() - 1
    }

    fn add_task(&mut self, shared: &Arc<Shared>, name: &'static str, process: usize, future: Option<BoxFuture<()>>) -> u64 {
        let id = self.next_task;
        self.next_task += 1;
        let waker = Waker::from(Arc::new(TaskWaker { id, shared: Arc::downgrade(shared) }));
        self.tasks.insert(id, Task { name, process, queued: false, future, waker });
        self.make_ready(id);
        id
    }

    fn process_name(&self, process: usize) -> &str {
        self.processes.get(process).map_or("test", |process| &process.name)
    }

    /// Takes everything of the processes that `of` names out of the tables, for the caller to drop without the lock.
    fn take_all(&mut self, of: impl Fn(usize) -> bool) -> (Vec<Task>, Vec<Timer>) {
        for (number, process) in self.processes.iter_mut().enumerate() {
            process.alive &= !of(number);
            if !process.alive {
                process.held = None;
            }
        }
        let ids: Vec<u64> = self.tasks.iter().filter(|(_, task)| of(task.process)).map(|(&id, _)| id).collect();
        let mut tasks: Vec<Task> = ids.iter().filter_map(|id| self.tasks.remove(id)).collect();
        self.ready.retain(|id| self.tasks.contains_key(id));
        let keys: Vec<(u64, u64)> = self.timers.iter().filter(|(_, timer)| of(timer.process)).map(|(&key, _)| key).collect();
        let timers = keys.iter().filter_map(|key| self.timers.remove(key)).collect();
        // Memory of a dying process goes in no particular order.
        self.random.shuffle(&mut tasks);
        (tasks, timers)
    }
}

/// What to poll next.
struct Next {
    id: u64,
    name: &'static str,
    process: usize,
    future: Option<BoxFuture<()>>,
    waker: Waker,
}

impl Sim {
    /// A simulation in which `seed` decides everything. At most 20 million steps and one hour of virtual time, unless set otherwise.
    pub fn new(seed: u64) -> Sim {
        let mut state = State {
            random: Random::new(seed),
            now: 0,
            steps: 0,
            hash: 0,
            step_limit: 20_000_000,
            time_limit: 3_600_000_000_000,
            step_nanos_max: STEP_NANOS_MAX,
            workers: 4,
            running: false,
            next_task: 0,
            next_timer: 0,
            tasks: BTreeMap::new(),
            ready: Vec::new(),
            timers: BTreeMap::new(),
            processes: Vec::new(),
            root: 0,
        };
        state.root = state.add_process("main");
        Sim { shared: Arc::new(Shared { seed, state: Mutex::new(state) }) }
    }

    /// Sets after how many steps, from the start of the simulation, a run counts as a livelock.
    pub fn step_limit(self, steps: u64) -> Sim {
        self.shared.state.lock().step_limit = steps;
        self
    }

    /// Sets after how much virtual time, from the start of the simulation, a run counts as hanging.
    pub fn time_limit(self, limit: Duration) -> Sim {
        self.shared.state.lock().time_limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        self
    }

    /// Sets the longest virtual time that a step takes (default 1 us; each takes a random part of it, so that timers also come due while
    /// tasks are ready). With zero, time passes only when nothing is ready.
    ///
    /// # Panics
    /// When it is more than a second.
    pub fn step_time_max(self, limit: Duration) -> Sim {
        assert!(limit <= Duration::from_secs(1), "a step of {limit:?} makes no sense");
        self.shared.state.lock().step_nanos_max = limit.as_nanos() as u64;
        self
    }

    /// Sets what [`Runtime::workers`] says (default 4). Jobs are interleaved, however many.
    pub fn workers(self, workers: usize) -> Sim {
        self.shared.state.lock().workers = workers;
        self
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.shared.seed
    }

    /// Runtime of the process that is there from the start, `main`; after [`Sim::kill_all`], of its successor.
    pub fn runtime(&self) -> Seams {
        self.main_process().seams()
    }

    /// The process behind [`Sim::runtime`].
    pub fn main_process(&self) -> Process {
        let number = self.shared.state.lock().root;
        Process { shared: self.shared.clone(), number }
    }

    /// Starts another simulated process. Names may repeat: a restarted process is a new one.
    pub fn process(&self, name: &str) -> Process {
        let number = self.shared.state.lock().add_process(name);
        Process { shared: self.shared.clone(), number }
    }

    /// Kills one process: [`Process::kill`].
    pub fn kill(&self, process: &Process) {
        process.kill();
    }

    /// Kills all processes at one point. [`Sim::runtime`] then gives a new `main`; runtimes handed out before are dead.
    pub fn kill_all(&self) {
        let taken = {
            let mut state = self.shared.state.lock();
            state.fold(mix(0x6b69_6c6c));
            let taken = state.take_all(|process| process != NO_PROCESS);
            state.root = state.add_process("main");
            taken
        };
        drop(taken);
    }

    /// Virtual time since the start.
    pub fn now(&self) -> Instant {
        Instant(self.shared.state.lock().now)
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.shared.state.lock().steps
    }

    /// Puts an event of the caller into the trace.
    pub fn trace(&self, bytes: &[u8]) {
        let digest = xxhash_rust::xxh3::xxh3_64(bytes);
        self.shared.state.lock().fold(digest);
    }

    /// Hash of all that happened: each step with its time and task, kills, events given to [`Sim::trace`].
    pub fn trace_hash(&self) -> u64 {
        self.shared.state.lock().hash
    }

    /// Names of the tasks that have not ended, as `process/task`.
    pub fn pending(&self) -> Vec<String> {
        let state = self.shared.state.lock();
        state.tasks.values().map(|task| format!("{}/{}", state.process_name(task.process), task.name)).collect()
    }

    /// Runs until `future` completes. Other tasks stay where they are; another `run` goes on with them.
    ///
    /// The future itself belongs to no process (a kill doesn't reach it), and may borrow.
    ///
    /// # Panics
    /// With the seed, when any task panics, when nothing can run any more, when a limit is reached.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        self.run_until(future, |_| false).expect("a run that is never stopped ends with a result")
    }

    /// Like [`Sim::run`], but asks `stop` before each step, and drops `future` and returns nothing once that says yes.
    ///
    /// Tests crash a process at the n-th event this way: stop when a counter is there, then [`Sim::kill_all`] or [`Process::kill`].
    ///
    /// # Panics
    /// As [`Sim::run`].
    pub fn run_until<F: Future>(&self, future: F, mut stop: impl FnMut(&Sim) -> bool) -> Option<F::Output> {
        let main = MainTask::enter(self);
        let mut future = pin!(future);
        loop {
            if stop(self) {
                return None;
            }
            let next = self.next();
            if next.id != main.id {
                self.poll_task(next);
                continue;
            }
            let mut context = Context::from_waker(&next.waker);
            match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context))) {
                Ok(Poll::Ready(value)) => return Some(value),
                Ok(Poll::Pending) => {}
                Err(payload) => self.fail(format_args!("the main future panicked: {}", panic_text(&*payload))),
            }
        }
    }

    /// Picks the next ready task, moving time on when there is none.
    fn next(&self) -> Next {
        loop {
            let mut state = self.shared.state.lock();
            let now = state.now;
            let mut due = Vec::new();
            while let Some(timer) = state.timers.first_entry()
                && timer.key().0 <= now
            {
                due.push(timer.remove().waker);
            }
            if !due.is_empty() {
                drop(state);
                due.into_iter().for_each(Waker::wake);
                continue;
            }
            if !state.ready.is_empty() {
                if state.steps >= state.step_limit {
                    drop(state);
                    self.fail(format_args!("the step limit is reached: a livelock, or the limit is too low"));
                }
                return pick(&mut state);
            }
            let next_due = state.timers.first_key_value().map(|(key, _)| key.0);
            match next_due {
                Some(at) if at <= state.time_limit => state.now = at,
                found => {
                    drop(state);
                    let why = if found.is_some() { "the limit of virtual time is reached" } else { "deadlock: nothing can run any more" };
                    self.fail(format_args!("{why}"));
                }
            }
        }
    }

    fn poll_task(&self, next: Next) {
        let Next { id, name, process, future, waker } = next;
        let Some(mut future) = future else { return };
        let mut context = Context::from_waker(&waker);
        let poll = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
        let mut state = self.shared.state.lock();
        // The entries are dropped after the lock is released: a destructor may come back here.
        let ended = match poll {
            Ok(Poll::Pending) => match state.tasks.get_mut(&id) {
                Some(task) => {
                    task.future = Some(future);
                    None
                }
                // Killed while it ran.
                None => Some((Some(future), None)),
            },
            Ok(Poll::Ready(())) => {
                let task = state.tasks.remove(&id);
                if task.as_ref().is_some_and(|task| task.queued) {
                    // Woken in its last poll, as by a branch of a select that lost.
                    state.forget_ready(id, process);
                }
                Some((Some(future), task))
            }
            Err(payload) => {
                let process = state.process_name(process).to_owned();
                drop(state);
                self.fail(format_args!("task {process}/{name} panicked: {}", panic_text(&*payload)));
            }
        };
        drop(state);
        drop(ended);
    }

    /// Ends the run, naming what replays it.
    fn fail(&self, why: fmt::Arguments<'_>) -> ! {
        let (now, steps) = (self.now(), self.steps());
        let pending = self.pending().join(", ");
        panic!("simulation with seed {:#x}: {why} (virtual time {} ns, step {steps}, pending tasks: {pending})", self.seed(), now.0);
    }
}

/// Takes a random ready task, which must exist, and accounts for the step.
fn pick(state: &mut State) -> Next {
    let index = state.random.index(state.ready.len());
    let id = state.ready.swap_remove(index);
    let most = state.step_nanos_max;
    state.now += if most > 0 { state.random.below(most + 1) } else { 0 };
    state.steps += 1;
    let (step, now) = (state.steps, state.now);
    let task = state.tasks.get_mut(&id).expect("a ready task is in the table");
    task.queued = false;
    let next = Next { id, name: task.name, process: task.process, future: task.future.take(), waker: task.waker.clone() };
    let name = xxhash_rust::xxh3::xxh3_64(next.name.as_bytes());
    [step, now, id, name].into_iter().for_each(|word| state.fold(word));
    next
}

impl Drop for Sim {
    fn drop(&mut self) {
        let taken = self.shared.state.lock().take_all(|_| true);
        drop(taken);
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sim(seed {:#x}, step {})", self.seed(), self.steps())
    }
}

/// The main future's entry in the task table, there for as long as the run lasts.
struct MainTask<'a> {
    sim: &'a Sim,
    id: u64,
}

impl MainTask<'_> {
    fn enter(sim: &Sim) -> MainTask<'_> {
        let mut state = sim.shared.state.lock();
        assert!(!state.running, "a simulation can't run inside itself");
        state.running = true;
        let id = state.add_task(&sim.shared, "main future", NO_PROCESS, None);
        MainTask { sim, id }
    }
}

impl Drop for MainTask<'_> {
    fn drop(&mut self) {
        let mut state = self.sim.shared.state.lock();
        state.running = false;
        state.ready.retain(|&id| id != self.id);
        let task = state.tasks.remove(&self.id);
        drop(state);
        drop(task);
    }
}

/// A simulated process: a scope of tasks, jobs and timers that die together.
#[derive(Clone)]
pub struct Process {
    shared: Arc<Shared>,
    number: usize,
}

impl Process {
    /// The runtime that code in this process uses.
    pub fn seams(&self) -> Seams {
        Arc::new(ProcessRuntime { shared: self.shared.clone(), process: self.number })
    }

    /// Whether it was not killed.
    pub fn is_alive(&self) -> bool {
        self.shared.state.lock().processes[self.number].alive
    }

    /// Starts another process of the simulation: for what restarts processes from within.
    pub fn sibling(&self, name: &str) -> Process {
        let number = self.shared.state.lock().add_process(name);
        Process { shared: self.shared.clone(), number }
    }

    /// The name given.
    pub fn name(&self) -> String {
        self.shared.state.lock().processes[self.number].name.clone()
    }

    /// Drops all tasks, jobs and timers of this process, at once and without running them further. Later spawns of its runtime are
    /// dropped, its sleeps never end.
    ///
    /// Destructors do run, as they can't be left out; they may wake tasks of other processes (who see a channel closed, as from a broken
    /// connection). A task that kills its own process is dropped when it next awaits.
    pub fn kill(&self) {
        let taken = {
            let mut state = self.shared.state.lock();
            state.fold(mix(self.number as u64));
            state.take_all(|process| process == self.number)
        };
        drop(taken);
    }
}

impl Process {
    /// Stops it as SIGSTOP would: none of its tasks runs, its timers go off unheard. What its disk has in flight completes for it when it
    /// goes on, which is the worst that a slow device can do.
    pub fn pause(&self) {
        let mut state = self.shared.state.lock();
        state.fold(mix(0x7374_6f70 ^ self.number as u64));
        if state.processes[self.number].alive {
            state.stop(self.number);
        }
    }

    /// Lets it go on after [`Process::pause`]: all that has come due meanwhile is there at once.
    pub fn resume(&self) {
        let mut state = self.shared.state.lock();
        state.fold(mix(0x676f ^ self.number as u64));
        let held = state.processes[self.number].held.take().unwrap_or_default();
        state.ready.extend(held);
    }

    /// Moves its monotonic clock ahead, as when its machine was suspended. Timers that run keep their time.
    pub fn advance_clock(&self, by: Duration) {
        let mut state = self.shared.state.lock();
        state.fold(by.as_nanos() as u64);
        state.processes[self.number].clock_ahead += by.as_nanos() as u64;
    }

    /// Sets its wall clock off by so many milliseconds.
    pub fn set_wall_clock(&self, off_ms: i64) {
        let mut state = self.shared.state.lock();
        state.fold(off_ms as u64);
        state.processes[self.number].wall_off = off_ms;
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({}, {})", self.number, self.name())
    }
}

struct ProcessRuntime {
    shared: Arc<Shared>,
    process: usize,
}

impl Runtime for ProcessRuntime {
    fn now(&self) -> Instant {
        let state = self.shared.state.lock();
        Instant(state.now + state.processes[self.process].clock_ahead)
    }

    fn wall_ms(&self) -> u64 {
        let state = self.shared.state.lock();
        (WALL_START_MS + state.now / 1_000_000).saturating_add_signed(state.processes[self.process].wall_off)
    }

    fn sleep(&self, for_: Duration) -> BoxFuture<()> {
        let nanos = u64::try_from(for_.as_nanos()).unwrap_or(u64::MAX);
        let at = self.shared.state.lock().now.saturating_add(nanos);
        Box::pin(Sleep { shared: self.shared.clone(), process: self.process, at, key: None })
    }

    fn spawn(&self, name: &'static str, task: BoxFuture<()>) {
        let mut state = self.shared.state.lock();
        if !state.processes[self.process].alive {
            drop(state);
            // Dropped without the lock: its destructors may come back here.
            drop(task);
            return;
        }
        state.add_task(&self.shared, name, self.process, Some(task));
    }

    fn work(&self, job: Job) {
        let wait = self.shared.state.lock().random.below(JOB_WAIT_NANOS_MAX);
        let start = self.sleep(Duration::from_nanos(wait));
        self.spawn(
            "worker job",
            Box::pin(async move {
                start.await;
                job();
            }),
        );
    }

    fn workers(&self) -> usize {
        self.shared.state.lock().workers
    }

    fn random(&self) -> u64 {
        self.shared.state.lock().processes[self.process].random.bits()
    }
}

/// Ends when virtual time reaches `at`, but never in the poll that starts it: even a sleep of zero lets others run.
struct Sleep {
    shared: Arc<Shared>,
    process: usize,
    at: u64,
    key: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let waker = context.waker().clone();
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        if let Some(key) = self.key {
            let Some(timer) = state.timers.get_mut(&key) else {
                // Fired, unless the process was killed.
                let alive = state.processes[self.process].alive;
                return if alive { Poll::Ready(()) } else { Poll::Pending };
            };
            let old = std::mem::replace(&mut timer.waker, waker);
            drop(state);
            drop(old);
            return Poll::Pending;
        }
        if !state.processes[self.process].alive {
            return Poll::Pending;
        }
        let key = (self.at, state.next_timer);
        state.next_timer += 1;
        state.timers.insert(key, Timer { process: self.process, waker });
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let timer = self.shared.state.lock().timers.remove(&key);
            drop(timer);
        }
    }
}

#[cfg(test)]
mod tests;
