//! Who waits for whom: row queues, table locks, and circles among them.
//!
//! All of it lies under one lock, so that a wait and the look for circles are one step: a circle is found when its last wait is entered,
//! and none is seen that isn't there. The youngest transaction of a circle gives up. Only its head waits for a row's holder; those
//! behind wait for those ahead.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::book::Live;
use super::{Interrupt, TableLock, TxnId};
use crate::base::TreeId;

/// Why a wait ended without what was waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitError {
    /// Transactions wait for each other in a circle; this one is the youngest.
    Deadlock {
        /// Who waits for whom.
        circle: String,
    },
    /// The interrupt was set.
    Cancelled,
    /// It is held, and the caller doesn't wait.
    NotAvailable,
    /// The holder's instance is down, and what it left unfinished hasn't been undone.
    Unrecovered {
        /// The holder.
        txn: TxnId,
    },
}

type RowName = (TreeId, Box<[u8]>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum What {
    Row { row: RowName, holder: u64 },
    Table { table: u32, mode: TableLock },
}

struct Waiting {
    what: What,
    notify: Arc<Notify>,
    doomed: Option<String>,
    /// The row may be free, though its holder goes on.
    again: bool,
}

#[derive(Default)]
struct TableQueue {
    granted: Vec<(u64, TableLock)>,
    queue: VecDeque<(u64, TableLock)>,
}

#[derive(Default)]
struct State {
    waiting: FxHashMap<u64, Waiting>,
    rows: FxHashMap<RowName, VecDeque<u64>>,
    tables: FxHashMap<u32, TableQueue>,
    /// Tables that a transaction has locked.
    held: FxHashMap<u64, Vec<u32>>,
}

/// The waits of one instance.
#[derive(Default)]
pub struct Waits {
    state: Mutex<State>,
}

/// Takes a waiter out, however its wait ends.
struct Entered<'w> {
    waits: &'w Waits,
    start: u64,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.waits.state.lock().stop_waiting(self.start);
    }
}

impl TableQueue {
    /// Whether `start` may have `mode` now. Whoever holds a lock here already doesn't queue behind those who wait for him.
    fn is_free(&self, start: u64, mode: TableLock) -> bool {
        let holds = self.granted.iter().any(|(holder, _)| *holder == start);
        let ahead = self.queue.iter().take_while(|(waiter, _)| *waiter != start);
        let clear = |(other, has): &(u64, TableLock)| *other == start || !has.excludes(mode);
        self.granted.iter().all(clear) && (holds || ahead.into_iter().all(clear))
    }
}

impl State {
    /// For whom `start` waits.
    fn edges(&self, start: u64) -> Vec<u64> {
        let Some(waiting) = self.waiting.get(&start).filter(|waiting| waiting.doomed.is_none()) else { return Vec::new() };
        match &waiting.what {
            What::Row { row, holder } => match self.rows.get(row).and_then(|queue| queue.iter().position(|waiter| *waiter == start)) {
                Some(place) if place > 0 => self.rows[row].iter().take(place).copied().collect(),
                // About to look at its row again, it waits for nobody until it has looked.
                _ if waiting.again => Vec::new(),
                _ => vec![*holder],
            },
            What::Table { table, mode } => {
                let Some(queue) = self.tables.get(table) else { return Vec::new() };
                let ahead = queue.queue.iter().take_while(|(waiter, _)| *waiter != start);
                let others = queue.granted.iter().chain(ahead);
                others.filter(|(other, has)| *other != start && has.excludes(*mode)).map(|(other, _)| *other).collect()
            }
        }
    }

    /// A circle through `start`, if there is one.
    fn circle(&self, start: u64) -> Option<Vec<u64>> {
        let mut path = vec![(start, self.edges(start))];
        let mut seen = vec![start];
        while let Some((_, edges)) = path.last_mut() {
            match edges.pop() {
                None => drop(path.pop()),
                Some(next) if next == start => return Some(path.iter().map(|(node, _)| *node).collect()),
                Some(next) if seen.contains(&next) => {}
                Some(next) => {
                    seen.push(next);
                    path.push((next, self.edges(next)));
                }
            }
        }
        None
    }

    fn tell(&self, circle: &[u64]) -> String {
        let parts = circle.iter().enumerate().map(|(at, node)| {
            let next = circle[(at + 1) % circle.len()];
            let what = match self.waiting.get(node).map(|waiting| &waiting.what) {
                Some(What::Row { row, .. }) => format!("a row of {}", row.0),
                Some(What::Table { table, mode }) => format!("{mode:?} on table {table}"),
                None => "nothing".into(),
            };
            format!("transaction {node} waits for {what}, held by transaction {next}")
        });
        parts.collect::<Vec<_>>().join("; ")
    }

    /// Ends circles through `start`, by dooming the youngest of each; the error if that is `start` itself.
    fn break_circles(&mut self, start: u64) -> Result<(), WaitError> {
        while let Some(circle) = self.circle(start) {
            let text = self.tell(&circle);
            let victim = circle.iter().copied().max().unwrap_or(start);
            if victim == start {
                return Err(WaitError::Deadlock { circle: text });
            }
            if let Some(waiting) = self.waiting.remove(&victim) {
                self.leave(victim, &waiting.what);
                waiting.notify.notify_one();
                // Found again by the victim itself when it wakes up.
                let what = waiting.what;
                self.waiting.insert(victim, Waiting { what, notify: waiting.notify, doomed: Some(text), again: false });
            }
        }
        Ok(())
    }

    /// Takes `start` out of the queue for `what`.
    fn leave(&mut self, start: u64, what: &What) {
        match what {
            What::Row { row, .. } => self.leave_row(start, row),
            What::Table { table, .. } => {
                if let Some(queue) = self.tables.get_mut(table) {
                    queue.queue.retain(|(waiter, _)| *waiter != start);
                }
                self.grant(*table);
            }
        }
    }

    fn leave_row(&mut self, start: u64, row: &RowName) {
        let Some(queue) = self.rows.get_mut(row) else { return };
        let was_head = queue.front() == Some(&start);
        queue.retain(|waiter| *waiter != start);
        if let Some(head) = queue.front() {
            if was_head && let Some(waiting) = self.waiting.get(head) {
                waiting.notify.notify_one();
            }
        } else {
            self.rows.remove(row);
        }
    }

    /// Gives a table's lock to those who wait for it and may have it now.
    fn grant(&mut self, table: u32) {
        let Some(queue) = self.tables.get_mut(&table) else { return };
        let candidates: Vec<(u64, TableLock)> = queue.queue.iter().copied().collect();
        for (start, mode) in candidates {
            if queue.is_free(start, mode) {
                queue.queue.retain(|(waiter, _)| *waiter != start);
                queue.granted.push((start, mode));
                self.held.entry(start).or_default().push(table);
                if let Some(waiting) = self.waiting.remove(&start) {
                    waiting.notify.notify_one();
                }
            }
        }
        if queue.granted.is_empty() && queue.queue.is_empty() {
            self.tables.remove(&table);
        }
    }

    fn stop_waiting(&mut self, start: u64) {
        let Some(waiting) = self.waiting.remove(&start) else { return };
        // A row's waiter keeps its place: it is about to look at the row.
        if matches!(waiting.what, What::Table { .. }) {
            self.leave(start, &waiting.what);
        }
    }

    /// Whether the wait of `start` for a row is over, and how.
    fn row_turn(&mut self, start: u64, row: &RowName, holder: &Live) -> Option<Result<(), WaitError>> {
        let Some(waiting) = self.waiting.get_mut(&start) else { return Some(Ok(())) };
        if let Some(circle) = waiting.doomed.take() {
            return Some(Err(WaitError::Deadlock { circle }));
        }
        let is_head = self.rows.get(row).and_then(VecDeque::front) == Some(&start);
        (is_head && (holder.has_ended() || waiting.again)).then_some(Ok(()))
    }
}

impl Waits {
    /// Waits until `holder` has ended or it is this one's turn to look at the row again; then the caller has a place at the head of the row's
    /// queue, and gives it up with [`Waits::leave_row`] when it has written or given up.
    ///
    /// # Errors
    /// [`WaitError`]; the place in the queue is gone then.
    pub async fn row(&self, me: &Live, tree: TreeId, key: &[u8], holder: &Live, interrupt: &Interrupt) -> Result<(), WaitError> {
        let row: RowName = (tree, key.into());
        let notify = Arc::new(Notify::new());
        let mut place = {
            let mut state = self.state.lock();
            let queue = state.rows.entry(row.clone()).or_default();
            if !queue.contains(&me.start) {
                queue.push_back(me.start);
            }
            let place = queue.iter().position(|waiter| *waiter == me.start).unwrap_or_default();
            if place == 0 && holder.has_ended() {
                return Ok(());
            }
            let what = What::Row { row: row.clone(), holder: holder.start };
            state.waiting.insert(me.start, Waiting { what, notify: notify.clone(), doomed: None, again: false });
            if let Err(error) = state.break_circles(me.start) {
                state.stop_waiting(me.start);
                state.leave_row(me.start, &row);
                return Err(error);
            }
            place
        };
        let _entered = Entered { waits: self, start: me.start };
        loop {
            tokio::select! {
                biased;
                () = interrupt.wait() => {
                    self.leave_row(me, tree, key);
                    return Err(WaitError::Cancelled);
                }
                () = notify.notified() => {}
            }
            let mut state = self.state.lock();
            if place > 0 && state.rows.get(&row).and_then(VecDeque::front) == Some(&me.start) {
                // At the head now: whoever has the row is looked at anew.
                place = 0;
                if state.waiting.get(&me.start).is_some_and(|waiting| waiting.doomed.is_none()) {
                    return Ok(());
                }
            }
            if let Some(outcome) = state.row_turn(me.start, &row, holder) {
                return outcome;
            }
        }
    }

    /// Gives up a place in a row's queue.
    pub fn leave_row(&self, me: &Live, tree: TreeId, key: &[u8]) {
        let mut state = self.state.lock();
        state.leave_row(me.start, &(tree, key.into()));
    }

    /// Locks a table until [`Waits::ended`].
    ///
    /// # Errors
    /// [`WaitError`].
    pub async fn table(&self, me: &Live, table: u32, mode: TableLock, wait: bool, interrupt: &Interrupt) -> Result<(), WaitError> {
        let notify;
        {
            let mut state = self.state.lock();
            let queue = state.tables.entry(table).or_default();
            // Nearly always.
            if queue.is_free(me.start, mode) {
                queue.granted.push((me.start, mode));
                state.held.entry(me.start).or_default().push(table);
                return Ok(());
            }
            if !wait {
                return Err(WaitError::NotAvailable);
            }
            queue.queue.push_back((me.start, mode));
            notify = Arc::new(Notify::new());
            state
                .waiting
                .insert(me.start, Waiting { what: What::Table { table, mode }, notify: notify.clone(), doomed: None, again: false });
            if let Err(error) = state.break_circles(me.start) {
                state.stop_waiting(me.start);
                return Err(error);
            }
        }
        let _entered = Entered { waits: self, start: me.start };
        loop {
            tokio::select! {
                biased;
                () = interrupt.wait() => {
                    // It may have been granted at this very moment: then it is released with the transaction.
                    return Err(WaitError::Cancelled);
                }
                () = notify.notified() => {}
            }
            match self.state.lock().waiting.get_mut(&me.start) {
                None => return Ok(()),
                Some(waiting) => {
                    if let Some(circle) = waiting.doomed.take() {
                        return Err(WaitError::Deadlock { circle });
                    }
                }
            }
        }
    }

    /// A transaction is over: its tables are free, and those who waited for its rows look again.
    pub fn ended(&self, live: &Live) {
        let mut state = self.state.lock();
        for table in state.held.remove(&live.start).unwrap_or_default() {
            if let Some(queue) = state.tables.get_mut(&table) {
                queue.granted.retain(|(holder, _)| *holder != live.start);
            }
            state.grant(table);
        }
        for waiting in state.waiting.values() {
            if matches!(waiting.what, What::Row { holder, .. } if holder == live.start) {
                waiting.notify.notify_one();
            }
        }
    }

    /// A transaction has undone some of its changes: those who wait for its rows look again.
    pub fn rows_freed(&self, live: &Live) {
        let mut state = self.state.lock();
        for waiting in state.waiting.values_mut() {
            if matches!(waiting.what, What::Row { holder, .. } if holder == live.start) {
                waiting.again = true;
                waiting.notify.notify_one();
            }
        }
    }

    /// Transactions that wait, rows with a queue, tables locked.
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = self.state.lock();
        (state.waiting.len(), state.rows.len(), state.tables.len())
    }
}
