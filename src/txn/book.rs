//! Own outcomes and snapshots, in memory: who is under way, who committed when, what a snapshot sees, and what nobody needs any more.
//!
//! ```text
//! assign -> active -> queued (SCN drawn, group appended) -> published (log durable, in the queue's order) -> forgotten (every snapshot sees it)
//!                  -> rolled back, queued -> ........................................................... -> forgotten (no older snapshot)
//! ```
//! A number that isn't known here is visible to every snapshot here. `floor <= numbers known < next`; `local <= clock`. A number has the slot
//! that is its rest by the number of slots; one whose slot is busy is skipped for good. Only this instance's transactions: what became of others'
//! is read from their slots, by `table::rows`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::TxnId;
use crate::base::{Lsn, Scn, ThreadId};

const SHARDS: usize = 64;

/// A transaction under way in this process: whom others wait for.
#[derive(Debug)]
pub struct Live {
    /// Its age: lower is older.
    pub start: u64,
    txn: AtomicU64,
    ended: AtomicBool,
    over: Notify,
}

impl Live {
    /// Its name, once it has written.
    pub fn txn(&self) -> Option<TxnId> {
        Some(TxnId(self.txn.load(Ordering::Acquire))).filter(|txn| *txn != TxnId::FROZEN)
    }

    /// Whether it is over: its rows and tables are free.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Marks it as over.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.over.notify_waiters();
    }

    /// Completes when it is over.
    pub async fn wait_end(&self) {
        loop {
            let over = self.over.notified();
            tokio::pin!(over);
            over.as_mut().enable();
            if self.has_ended() {
                return;
            }
            over.await;
        }
    }
}

/// What became of a transaction.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Committed before every snapshot.
    Everyone,
    /// Committed then.
    Committed(Scn),
    /// Under way.
    Active(Arc<Live>),
    /// Undone: a row that still names it was read before.
    RolledBack,
    /// Left by a crash, not undone yet.
    Loser,
    /// Of another instance: its slot says it.
    Elsewhere,
}

#[derive(Debug)]
enum Status {
    Active(Arc<Live>),
    Committed(Scn),
    RolledBack,
    Loser,
}

/// An end that waits to be published.
#[derive(Debug)]
pub struct Ending<T> {
    /// Who ends; nobody for a loser.
    pub live: Option<Arc<Live>>,
    /// Its name.
    pub txn: TxnId,
    /// Its place in the order.
    pub scn: Scn,
    /// Whether it committed.
    pub committed: bool,
    /// Durable when the log is durable up to here.
    pub end: Lsn,
    /// What is handed back when it is published.
    pub held: T,
}

struct State<T> {
    next: u64,
    slots: Slots,
    starts: u64,
    /// Those under way, by age.
    live: BTreeMap<u64, Arc<Live>>,
    pending: VecDeque<Ending<T>>,
    snapshots: BTreeMap<u64, u32>,
    /// Published ends that a snapshot may still have to tell apart, in the order of their SCNs.
    ended: VecDeque<(u64, u64)>,
    /// Numbers not forgotten yet.
    known: BTreeSet<u64>,
}

/// Which slots have a transaction that isn't published yet.
struct Slots {
    busy: Box<[bool]>,
    free: usize,
}

impl Slots {
    fn place(&self, number: u64) -> usize {
        (number % self.busy.len() as u64) as usize
    }

    /// The first number from `next` on whose slot is free.
    fn take(&mut self, next: u64) -> Option<u64> {
        if self.free == 0 {
            return None;
        }
        let number = (next..).find(|number| !self.busy[self.place(*number)])?;
        self.busy[self.place(number)] = true;
        self.free -= 1;
        Some(number)
    }

    fn give_back(&mut self, number: u64) {
        self.busy[self.place(number)] = false;
        self.free += 1;
    }
}

/// The book of one instance. `T` is what a transaction holds until its end is published.
pub struct Book<T> {
    thread: ThreadId,
    clock: Arc<AtomicU64>,
    floor: AtomicU64,
    shards: Box<[Mutex<FxHashMap<u64, Status>>]>,
    state: Mutex<State<T>>,
}

/// What a snapshot sees, in two parts: `local <= foreign`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// Own transactions that committed up to this: all of these were published.
    pub local: Scn,
    /// Other instances' transactions whose slots say that they committed up to this: the clock.
    pub foreign: Scn,
}

/// What was committed at a moment. Registered in the book until it is dropped.
pub struct Snapshot<T> {
    book: Arc<Book<T>>,
    view: View,
}

impl<T> Snapshot<T> {
    /// Own commits up to this are seen.
    pub fn scn(&self) -> Scn {
        self.view.local
    }

    /// What is seen.
    pub fn view(&self) -> View {
        self.view
    }
}

impl<T> Drop for Snapshot<T> {
    fn drop(&mut self) {
        let mut state = self.book.state.lock();
        if let Some(users) = state.snapshots.get_mut(&self.view.local.0) {
            *users -= 1;
            if *users == 0 {
                state.snapshots.remove(&self.view.local.0);
                self.book.forget(&mut state);
            }
        }
    }
}

impl<T> Book<T> {
    /// The book of `thread`, which has `slots` slots, and whose transactions before `next` are all visible to everyone but `losers`.
    pub fn new(thread: ThreadId, clock: Arc<AtomicU64>, slots: usize, next: u64, losers: &[TxnId]) -> Book<T> {
        let mut slots = Slots { busy: vec![false; slots].into(), free: slots };
        for loser in losers {
            slots.take(loser.number());
        }
        let known: BTreeSet<u64> = losers.iter().map(|txn| txn.number()).collect();
        let floor = known.first().copied().unwrap_or(next);
        let shards: Box<[Mutex<FxHashMap<u64, Status>>]> = (0..SHARDS).map(|_| Mutex::default()).collect();
        for number in &known {
            shards[*number as usize % SHARDS].lock().insert(*number, Status::Loser);
        }
        let (pending, ended) = (VecDeque::new(), VecDeque::new());
        let state = State { next, slots, starts: 0, live: BTreeMap::new(), pending, snapshots: BTreeMap::new(), ended, known };
        Book { thread, clock, floor: AtomicU64::new(floor), shards, state: Mutex::new(state) }
    }

    fn shard(&self, number: u64) -> &Mutex<FxHashMap<u64, Status>> {
        &self.shards[number as usize % SHARDS]
    }

    /// A transaction begins: it has an age, and a name when it first writes.
    pub fn begin(&self) -> Arc<Live> {
        let mut state = self.state.lock();
        state.starts += 1;
        let start = state.starts;
        let live = Arc::new(Live { start, txn: AtomicU64::new(0), ended: AtomicBool::new(false), over: Notify::new() });
        state.live.insert(start, live.clone());
        live
    }

    /// A transaction that has written nothing is over.
    pub fn leave(&self, live: &Live) {
        self.state.lock().live.remove(&live.start);
        live.end();
    }

    /// How many of those under way have written.
    pub fn writing(&self) -> usize {
        self.state.lock().live.values().filter(|live| live.txn().is_some()).count()
    }

    /// Those under way now.
    pub fn live(&self) -> Vec<Arc<Live>> {
        self.state.lock().live.values().cloned().collect()
    }

    /// Names a transaction that is about to write; nothing when all slots are busy.
    pub fn assign(&self, live: &Arc<Live>) -> Option<TxnId> {
        let mut state = self.state.lock();
        let next = state.next;
        let number = state.slots.take(next)?;
        state.next = number + 1;
        state.known.insert(number);
        self.shard(number).lock().insert(number, Status::Active(live.clone()));
        let txn = TxnId::new(self.thread, number);
        live.txn.store(txn.0, Ordering::Release);
        Some(txn)
    }

    /// Whether `txn` is an own one that every snapshot here sees, by what is quickly known.
    #[inline]
    pub fn is_settled(&self, txn: TxnId) -> bool {
        txn == TxnId::FROZEN || (txn.thread() == self.thread && txn.number() < self.floor.load(Ordering::Acquire))
    }

    /// What became of `txn`.
    pub fn outcome(&self, txn: TxnId) -> Outcome {
        if self.is_settled(txn) {
            return Outcome::Everyone;
        }
        if txn.thread() != self.thread {
            return Outcome::Elsewhere;
        }
        match self.shard(txn.number()).lock().get(&txn.number()) {
            None => Outcome::Everyone,
            Some(Status::Active(live)) => Outcome::Active(live.clone()),
            Some(Status::Committed(scn)) => Outcome::Committed(*scn),
            Some(Status::RolledBack) => Outcome::RolledBack,
            Some(Status::Loser) => Outcome::Loser,
        }
    }

    /// What is committed now.
    pub fn snapshot(self: &Arc<Self>) -> Snapshot<T> {
        let mut state = self.state.lock();
        // In this order: the clock moves meanwhile, and `local` is not to be behind it.
        let local = self.local(&state);
        let foreign = self.clock.load(Ordering::Acquire);
        *state.snapshots.entry(local).or_default() += 1;
        Snapshot { book: self.clone(), view: View { local: Scn(local), foreign: Scn(foreign) } }
    }

    /// All own ends up to this are published, and every later one will be above it: what is drawn is drawn under the state's lock.
    fn local(&self, state: &State<T>) -> u64 {
        state.pending.front().map_or_else(|| self.clock.load(Ordering::Acquire), |first| first.scn.0 - 1)
    }

    /// Draws an SCN, lets `append` put it into the log, and queues the end, all in one order.
    ///
    /// # Errors
    /// Those of `append`: then nothing is queued.
    pub fn queue<E>(
        &self,
        ending: impl FnOnce(Scn, Lsn) -> Ending<T>,
        append: impl FnOnce(Scn) -> Result<Lsn, E>,
    ) -> Result<(Scn, Lsn), E> {
        let mut state = self.state.lock();
        let scn = Scn(self.clock.fetch_add(1, Ordering::AcqRel) + 1);
        let end = append(scn)?;
        let ending = ending(scn, end);
        debug_assert_eq!(ending.scn, scn);
        if !ending.committed {
            self.shard(ending.txn.number()).lock().insert(ending.txn.number(), Status::RolledBack);
        }
        state.pending.push_back(ending);
        Ok((scn, end))
    }

    /// Publishes what the log has durably up to `durable`, in order, and returns it.
    pub fn publish(&self, durable: Lsn) -> Vec<Ending<T>> {
        let mut state = self.state.lock();
        let mut published = Vec::new();
        while state.pending.front().is_some_and(|first| first.end <= durable || !first.committed) {
            let Some(ending) = state.pending.pop_front() else { break };
            let number = ending.txn.number();
            if ending.committed {
                self.shard(number).lock().insert(number, Status::Committed(ending.scn));
            }
            state.slots.give_back(number);
            state.ended.push_back((ending.scn.0, number));
            if let Some(live) = &ending.live {
                state.live.remove(&live.start);
                live.end();
            }
            published.push(ending);
        }
        if !published.is_empty() {
            self.forget(&mut state);
        }
        published
    }

    /// Forgets ends that no snapshot tells apart any more.
    fn forget(&self, state: &mut State<T>) {
        let horizon = self.oldest(state);
        while let Some((_, number)) = state.ended.front().copied().filter(|(scn, _)| *scn <= horizon) {
            state.ended.pop_front();
            state.known.remove(&number);
            self.shard(number).lock().remove(&number);
        }
        self.floor.store(state.known.first().copied().unwrap_or(state.next), Ordering::Release);
    }

    fn oldest(&self, state: &State<T>) -> u64 {
        state.snapshots.first_key_value().map_or_else(|| self.local(state), |(local, _)| *local)
    }

    /// Everything that ended up to this is seen alike by all snapshots here, those still to be taken included. Never goes down.
    pub fn horizon(&self) -> Scn {
        Scn(self.oldest(&self.state.lock()))
    }

    /// All own ends so far are at or before this.
    pub fn now(&self) -> Scn {
        Scn(self.clock.load(Ordering::Acquire))
    }

    /// Transactions whose ends aren't forgotten, snapshots in use.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.known.len(), state.snapshots.values().map(|users| *users as usize).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Arc<Book<()>> {
        Arc::new(Book::new(ThreadId(1), Arc::new(AtomicU64::new(10)), 4, 1, &[]))
    }

    fn end(book: &Book<()>, live: &Arc<Live>, committed: bool, at: u64) {
        let txn = live.txn().unwrap();
        let queued =
            book.queue(|scn, end| Ending { live: Some(live.clone()), txn, scn, committed, end, held: () }, |_| Ok::<_, ()>(Lsn(at)));
        assert_eq!(queued.map(|(_, end)| end), Ok(Lsn(at)));
    }

    #[test]
    fn commits_are_published_in_the_order_of_the_log_and_only_when_durable() {
        let book = book();
        let (a, b) = (book.begin(), book.begin());
        let (ta, tb) = (book.assign(&a).unwrap(), book.assign(&b).unwrap());
        let before = book.snapshot();
        end(&book, &a, true, 100);
        end(&book, &b, true, 200);
        assert!(book.publish(Lsn(99)).is_empty());
        assert!(matches!(book.outcome(ta), Outcome::Active(_)));
        assert_eq!(book.publish(Lsn(200)).len(), 2);
        let after = book.snapshot();
        let seen = |snapshot: &Snapshot<()>, txn| matches!(book.outcome(txn), Outcome::Committed(scn) if scn <= snapshot.scn());
        assert!(!seen(&before, ta) && !seen(&before, tb) && seen(&after, ta) && seen(&after, tb));
        drop(before);
        assert!(matches!(book.outcome(ta), Outcome::Everyone));
        assert!(matches!(book.outcome(tb), Outcome::Everyone));
        assert_eq!(book.counts(), (0, 1));
    }

    #[test]
    fn a_rollback_is_remembered_while_a_snapshot_from_before_is_in_use() {
        let book = book();
        let a = book.begin();
        let ta = book.assign(&a).unwrap();
        let before = book.snapshot();
        end(&book, &a, false, 0);
        book.publish(Lsn(0));
        assert!(matches!(book.outcome(ta), Outcome::RolledBack));
        let after = book.snapshot();
        assert!(after.scn() > before.scn());
        drop(before);
        assert!(matches!(book.outcome(ta), Outcome::Everyone));
    }

    #[test]
    fn a_rollback_does_not_overtake_a_commit_that_waits_for_the_log() {
        let book = book();
        let (a, b) = (book.begin(), book.begin());
        let ta = book.assign(&a).unwrap();
        book.assign(&b).unwrap();
        end(&book, &a, true, 100);
        end(&book, &b, false, 0);
        assert!(book.publish(Lsn(0)).is_empty());
        assert!(matches!(book.outcome(ta), Outcome::Active(_)));
        assert_eq!(book.publish(Lsn(100)).len(), 2);
    }

    #[test]
    fn a_number_whose_slot_is_busy_is_skipped_for_good_and_never_comes_back() {
        let book = book();
        let mut lives: Vec<_> = (0..4).map(|_| book.begin()).collect();
        let numbers: Vec<u64> = lives.iter().map(|live| book.assign(live).unwrap().number()).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        assert_eq!(book.assign(&book.begin()), None);
        // Slots 0 (of 4) and 3 are free again: 5 and 6 would have those of 1 and 2.
        let (four, three) = (lives.pop().unwrap(), lives.pop().unwrap());
        end(&book, &four, true, 1);
        end(&book, &three, false, 0);
        assert_eq!(book.assign(&book.begin()), None, "not published yet");
        book.publish(Lsn(1));
        let next: Vec<u64> = (0..2).map(|_| book.assign(&book.begin()).unwrap().number()).collect();
        assert_eq!(next, [7, 8]);
        assert_eq!(book.assign(&book.begin()), None);
    }

    #[test]
    fn losers_keep_their_slots() {
        let losers = [TxnId::new(ThreadId(1), 5), TxnId::new(ThreadId(1), 6)];
        let book: Book<()> = Book::new(ThreadId(1), Arc::new(AtomicU64::new(10)), 4, 8, &losers);
        let given: Vec<u64> = (0..2).map(|_| book.assign(&book.begin()).unwrap().number()).collect();
        assert_eq!(given, [8, 11]);
        assert_eq!(book.assign(&book.begin()), None);
        assert!(matches!(book.outcome(losers[0]), Outcome::Loser));
    }

    #[test]
    fn an_instance_that_writes_nothing_holds_nothing_back() {
        let clock = Arc::new(AtomicU64::new(10));
        let book: Arc<Book<()>> = Arc::new(Book::new(ThreadId(1), clock.clone(), 4, 1, &[]));
        assert_eq!(book.horizon(), Scn(10));
        clock.store(50, Ordering::Release);
        let snapshot = book.snapshot();
        assert_eq!(snapshot.view(), View { local: Scn(50), foreign: Scn(50) });
        clock.store(90, Ordering::Release);
        assert_eq!(book.horizon(), Scn(50));
        drop(snapshot);
        let live = book.begin();
        book.assign(&live).unwrap();
        end(&book, &live, true, 100);
        clock.store(200, Ordering::Release);
        // The commit at 91 isn't published: own ones are seen up to 90, other instances' up to now.
        assert_eq!((book.horizon(), book.snapshot().view()), (Scn(90), View { local: Scn(90), foreign: Scn(200) }));
        book.publish(Lsn(100));
        assert_eq!(book.horizon(), Scn(200));
    }
}
