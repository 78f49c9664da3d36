//! Outcomes and snapshots, in memory: who is under way, who committed when, what a snapshot sees, and what nobody needs any more.
//!
//! ```text
//! assign -> active -> queued (SCN drawn, group appended) -> published (log durable, in the queue's order) -> forgotten (every snapshot sees it)
//!                  -> rolled back, queued -> ........................................................... -> forgotten (no older snapshot)
//! ```
//! A number that isn't known here is visible to everyone. `floor <= numbers known < next`; `visible <= clock`.
//! Only this instance's transactions: those of others are read from their slots, which is a later part's.

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
    /// Of another instance: not known here.
    Foreign,
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
    starts: u64,
    /// Those under way, by age.
    live: BTreeMap<u64, Arc<Live>>,
    pending: VecDeque<Ending<T>>,
    snapshots: BTreeMap<u64, u32>,
    /// Published ends that a snapshot may still have to tell apart, in the order of their SCNs.
    ended: VecDeque<(u64, u64)>,
    /// Numbers not forgotten yet.
    known: BTreeSet<u64>,
    /// Snapshots were let go: there may be something to clean.
    horizon: u64,
}

/// The book of one instance. `T` is what a transaction holds until its end is published.
pub struct Book<T> {
    thread: ThreadId,
    clock: Arc<AtomicU64>,
    visible: AtomicU64,
    floor: AtomicU64,
    shards: Box<[Mutex<FxHashMap<u64, Status>>]>,
    state: Mutex<State<T>>,
}

/// What was committed at a moment. Registered in the book until it is dropped.
pub struct Snapshot<T> {
    book: Arc<Book<T>>,
    scn: Scn,
}

impl<T> Snapshot<T> {
    /// Commits up to this are seen.
    pub fn scn(&self) -> Scn {
        self.scn
    }
}

impl<T> Drop for Snapshot<T> {
    fn drop(&mut self) {
        let mut state = self.book.state.lock();
        if let Some(users) = state.snapshots.get_mut(&self.scn.0) {
            *users -= 1;
            if *users == 0 {
                state.snapshots.remove(&self.scn.0);
                self.book.forget(&mut state);
            }
        }
    }
}

impl<T> Book<T> {
    /// The book of `thread`, whose transactions before `next` are all visible to everyone but `losers`.
    pub fn new(thread: ThreadId, clock: Arc<AtomicU64>, next: u64, losers: &[TxnId]) -> Book<T> {
        let now = clock.load(Ordering::Acquire);
        let known: BTreeSet<u64> = losers.iter().map(|txn| txn.number()).collect();
        let floor = known.first().copied().unwrap_or(next);
        let shards: Box<[Mutex<FxHashMap<u64, Status>>]> = (0..SHARDS).map(|_| Mutex::default()).collect();
        for number in &known {
            shards[*number as usize % SHARDS].lock().insert(*number, Status::Loser);
        }
        let (pending, ended) = (VecDeque::new(), VecDeque::new());
        let state = State { next, starts: 0, live: BTreeMap::new(), pending, snapshots: BTreeMap::new(), ended, known, horizon: now };
        Book { thread, clock, visible: AtomicU64::new(now), floor: AtomicU64::new(floor), shards, state: Mutex::new(state) }
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

    /// Names a transaction that is about to write.
    pub fn assign(&self, live: &Arc<Live>) -> TxnId {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.known.insert(number);
        self.shard(number).lock().insert(number, Status::Active(live.clone()));
        let txn = TxnId::new(self.thread, number);
        live.txn.store(txn.0, Ordering::Release);
        txn
    }

    /// Whether `txn` is visible to everyone, by what is quickly known.
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
            return Outcome::Foreign;
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
        let scn = self.visible.load(Ordering::Acquire);
        *state.snapshots.entry(scn).or_default() += 1;
        Snapshot { book: self.clone(), scn: Scn(scn) }
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
            self.visible.store(ending.scn.0, Ordering::Release);
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
        let horizon = state.snapshots.first_key_value().map_or(self.visible.load(Ordering::Acquire), |(scn, _)| *scn);
        state.horizon = horizon;
        while let Some((_, number)) = state.ended.front().copied().filter(|(scn, _)| *scn <= horizon) {
            state.ended.pop_front();
            state.known.remove(&number);
            self.shard(number).lock().remove(&number);
        }
        self.floor.store(state.known.first().copied().unwrap_or(state.next), Ordering::Release);
    }

    /// Everything that ended up to this is seen alike by all snapshots.
    pub fn horizon(&self) -> Scn {
        Scn(self.state.lock().horizon)
    }

    /// The newest commit published.
    pub fn visible(&self) -> Scn {
        Scn(self.visible.load(Ordering::Acquire))
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
        Arc::new(Book::new(ThreadId(1), Arc::new(AtomicU64::new(10)), 1, &[]))
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
        let (ta, tb) = (book.assign(&a), book.assign(&b));
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
        let ta = book.assign(&a);
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
        let ta = book.assign(&a);
        book.assign(&b);
        end(&book, &a, true, 100);
        end(&book, &b, false, 0);
        assert!(book.publish(Lsn(0)).is_empty());
        assert!(matches!(book.outcome(ta), Outcome::Active(_)));
        assert_eq!(book.publish(Lsn(100)).len(), 2);
    }
}
