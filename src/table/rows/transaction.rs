//! A transaction, as its caller holds it.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::read::{Cursor, Eyes};
use super::write::{Known, Meeting, Noted, Verdict, Want, Writes};
use super::{Changed, Held, Inserted, OnConflict, ROW_MAX, Row, RowError, Rows, Version};
use crate::base::{Lsn, Scn, TreeId};
use crate::cache::wait::Footprint;
use crate::cache::wait::yield_now;
use crate::table::Direction;
use crate::table::change::Change;
use crate::txn::book::{Live, Snapshot};
use crate::txn::slot::{Judged, SlotState};
use crate::txn::undo::Action;
use crate::txn::{Interrupt, Isolation, TableLock, TxnId, UndoPtr};

/// Most deletions that a transaction remembers to have taken out; `Rows::vacuum` finds the others.
const GARBAGE_MAX: usize = 100_000;

/// Looks at the slot of a row's transaction that turns out to be undone, before the row is said to be none.
const LOOKS_MAX: u32 = 1000;

/// A place in a transaction to roll back to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Savepoint {
    records: u64,
    last: UndoPtr,
}

/// A transaction. Dropped without an end, it is rolled back in the background.
pub struct Transaction {
    rows: Rows,
    live: Arc<Live>,
    isolation: Isolation,
    interrupt: Interrupt,
    /// A statement has begun.
    begun: bool,
    snapshot: Option<Snapshot<Held>>,
    pub(super) writes: Option<Writes>,
    tables: Vec<(u32, TableLock)>,
    /// It has asked for a table, and may have got it without having heard.
    asked_for_tables: bool,
    /// What the layer above keeps with it; dropped when its end is complete: committed, or rolled back.
    attachment: Option<Attachment>,
    /// Its end is the rows' business now.
    handed_over: bool,
}

/// Something of the layer above that lives as long as a transaction.
pub(in crate::table) type Attachment = Box<dyn std::any::Any + Send + Sync>;

/// What a repeatable read transaction's change must not be newer than.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Against {
    /// Its snapshot: first updater wins.
    Snapshot,
    /// Nothing: the newest version is changed.
    Now,
}

impl Transaction {
    pub(super) fn new(rows: Rows, isolation: Isolation, interrupt: Interrupt) -> Transaction {
        let live = rows.shared.book.begin();
        Transaction {
            rows,
            live,
            isolation,
            interrupt,
            begun: false,
            snapshot: None,
            writes: None,
            tables: Vec::new(),
            asked_for_tables: false,
            attachment: None,
            handed_over: false,
        }
    }

    /// The rows that it works on.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// What the layer above keeps with it.
    pub(in crate::table) fn attachment(&self) -> Option<&Attachment> {
        self.attachment.as_ref()
    }

    /// The same, to be changed.
    pub(in crate::table) fn attachment_mut(&mut self) -> &mut Option<Attachment> {
        &mut self.attachment
    }

    /// Its name, once it has written.
    pub fn id(&self) -> Option<TxnId> {
        self.live.txn()
    }

    /// What it sees.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Whether no statement of it has begun, and it holds nothing: it may as well be begun anew.
    pub fn is_fresh(&self) -> bool {
        !self.begun && self.writes.is_none() && !self.asked_for_tables
    }

    /// Whether it has changed anything.
    pub fn has_written(&self) -> bool {
        self.writes.as_ref().is_some_and(|writes| writes.first.is_some())
    }

    /// A statement begins: read committed takes a new snapshot, repeatable read its only one at the first statement.
    pub fn begin_statement(&mut self) {
        self.begun = true;
        if self.isolation == Isolation::ReadCommitted {
            // Let go of the old one first: it might be the oldest.
            self.snapshot = None;
        }
        if self.snapshot.is_none() {
            self.snapshot = Some(self.rows.shared.book.snapshot());
        }
    }

    /// The statement is over: read committed lets go of its snapshot.
    pub fn end_statement(&mut self) {
        if self.isolation == Isolation::ReadCommitted {
            self.snapshot = None;
        }
    }

    /// # Panics
    /// Outside of a statement: the caller's mistake.
    pub(super) fn eyes(&self) -> Eyes {
        let snapshot = self.snapshot.as_ref().expect("rows are read and written between begin_statement and end_statement");
        Eyes { me: self.id(), view: snapshot.view() }
    }

    pub(super) fn check_interrupt(&self) -> Result<(), RowError> {
        if self.interrupt.is_set() { Err(RowError::Cancelled) } else { Ok(()) }
    }

    /// The row of `key`, as the snapshot sees it.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Row>, RowError> {
        let found = self.rows.visible(tree, key, self.eyes()).await?;
        Ok(found.map(|(version, value)| Row { key: key.to_vec(), value, version }))
    }

    /// The newest committed version of the row of `key`, or its own, whatever the statement's snapshot sees: for definitions, which are
    /// kept from changing by locks.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn get_latest(&self, tree: TreeId, key: &[u8]) -> Result<Option<Row>, RowError> {
        let now = self.rows.shared.book.snapshot();
        let found = self.rows.visible(tree, key, Eyes { me: self.id(), view: now.view() }).await?;
        Ok(found.map(|(version, value)| Row { key: key.to_vec(), value, version }))
    }

    /// The rows of a range.
    pub fn cursor(&self, tree: TreeId, low: Bound<Vec<u8>>, high: Bound<Vec<u8>>, direction: Direction) -> Cursor {
        Cursor::new(tree, low, high, direction, None)
    }

    /// The rows of a range as they are now, as [`Transaction::get_latest`] has them.
    pub fn cursor_latest(&self, tree: TreeId, low: Bound<Vec<u8>>, high: Bound<Vec<u8>>, direction: Direction) -> Cursor {
        Cursor::new(tree, low, high, direction, Some(self.rows.shared.book.snapshot()))
    }

    /// Inserts a row; waits for another transaction that has a row of this key under way.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn insert(&mut self, tree: TreeId, key: &[u8], value: &[u8]) -> Result<Inserted, RowError> {
        need_size(key, value)?;
        match self.write(tree, key, Want::Insert(value), OnConflict::Wait, Against::Snapshot).await? {
            Verdict::Exists(version, value) => Ok(Inserted::Exists(Row { key: key.to_vec(), value, version })),
            _ => Ok(Inserted::Done),
        }
    }

    /// Gives the row seen as `seen` a new value; waits for another transaction that has it under way.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn update(&mut self, tree: TreeId, key: &[u8], seen: Version, value: &[u8]) -> Result<Changed, RowError> {
        need_size(key, value)?;
        self.change(tree, key, Want::Update(seen, value), OnConflict::Wait, Against::Snapshot).await
    }

    /// As [`Transaction::update`], also where the row has changed since a repeatable read transaction's snapshot: for what others are kept from
    /// changing by locks, and is read as it is now.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn update_latest(&mut self, tree: TreeId, key: &[u8], seen: Version, value: &[u8]) -> Result<Changed, RowError> {
        need_size(key, value)?;
        self.change(tree, key, Want::Update(seen, value), OnConflict::Wait, Against::Now).await
    }

    /// Deletes the row seen as `seen`; waits as [`Transaction::update`] does.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn delete(&mut self, tree: TreeId, key: &[u8], seen: Version) -> Result<Changed, RowError> {
        self.take_out(tree, key, seen, Against::Snapshot).await
    }

    /// As [`Transaction::delete`], also where the row has changed since a repeatable read transaction's snapshot: see
    /// [`Transaction::update_latest`].
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn delete_latest(&mut self, tree: TreeId, key: &[u8], seen: Version) -> Result<Changed, RowError> {
        self.take_out(tree, key, seen, Against::Now).await
    }

    async fn take_out(&mut self, tree: TreeId, key: &[u8], seen: Version, against: Against) -> Result<Changed, RowError> {
        let done = self.change(tree, key, Want::Delete(seen), OnConflict::Wait, against).await?;
        if let (Changed::Done(_), Some(writes)) = (&done, &mut self.writes)
            && writes.garbage.len() < GARBAGE_MAX
        {
            writes.garbage.push((tree, key.to_vec()));
        }
        Ok(done)
    }

    /// Locks the row seen as `seen` until the end of the transaction.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn lock(&mut self, tree: TreeId, key: &[u8], seen: Version, conflict: OnConflict) -> Result<Changed, RowError> {
        if self.id() == Some(seen.txn) {
            // Its own already.
            return Ok(Changed::Done(seen));
        }
        self.change(tree, key, Want::Lock(seen), conflict, Against::Snapshot).await
    }

    async fn change(
        &mut self,
        tree: TreeId,
        key: &[u8],
        want: Want<'_>,
        conflict: OnConflict,
        against: Against,
    ) -> Result<Changed, RowError> {
        Ok(match self.write(tree, key, want, conflict, against).await? {
            Verdict::Done(noted) => Changed::Done(Version { txn: self.writing().await?.txn, undo: noted.at }),
            Verdict::Moved(row) => Changed::Moved(row.map(|(version, value)| Row { key: key.to_vec(), value, version })),
            _ => Changed::Moved(None),
        })
    }

    /// Changes a row, waiting for whoever has it.
    async fn write(
        &mut self,
        tree: TreeId,
        key: &[u8],
        want: Want<'_>,
        conflict: OnConflict,
        against: Against,
    ) -> Result<Verdict, RowError> {
        // Given up however this ends: a place that nobody uses would keep those behind it waiting.
        let (rows, live) = (self.rows.clone(), self.live.clone());
        let mut place = Place { rows: &rows, live: &live, row: None };
        self.write_in_turn(tree, key, want, (conflict, against), &mut place).await
    }

    async fn write_in_turn<'k>(
        &mut self,
        tree: TreeId,
        key: &'k [u8],
        want: Want<'_>,
        (conflict, against): (OnConflict, Against),
        place: &mut Place<'_, 'k>,
    ) -> Result<Verdict, RowError> {
        let snapshot = match (self.isolation, against) {
            (Isolation::ReadCommitted, _) | (_, Against::Now) => None,
            (Isolation::RepeatableRead, Against::Snapshot) => Some(self.eyes().view),
        };
        let mut known = Known::new();
        let mut looks = 0;
        loop {
            self.check_interrupt()?;
            let rows = place.rows;
            let writes = self.writing().await?;
            match rows.attempt(writes, tree, key, want, Meeting { snapshot, known: &known }).await? {
                Verdict::Done(noted) => {
                    writes.noted(noted);
                    return Ok(Verdict::Done(noted));
                }
                Verdict::NoRoom => rows.extend(&mut writes.segment).await?,
                Verdict::Serialization => return Err(RowError::Serialization),
                Verdict::Judge(txn) => {
                    looks += 1;
                    // Without a snapshot it is enough to know that it is over.
                    let at = snapshot.map_or(Scn(u64::MAX), |snapshot| snapshot.foreign);
                    match rows.judge(tree, txn, at).await? {
                        over @ (Judged::Before | Judged::After) => known.push((txn, over)),
                        Judged::Active if conflict == OnConflict::NoWait => return Err(RowError::LockNotAvailable),
                        Judged::Active => self.wait_elsewhere(txn).await?,
                        // Its change has been undone since.
                        Judged::Undone if looks < LOOKS_MAX => yield_now().await,
                        Judged::Undone => return Err(RowError::Foreign { tree, txn }),
                        Judged::Earlier => return Err(RowError::SnapshotTooOld),
                    }
                }
                Verdict::Damaged(fault) => return Err(RowError::Damaged { tree, fault }),
                Verdict::Lost(txn) => rows.undo_row(tree, key, txn).await?,
                Verdict::Held(_) if conflict == OnConflict::NoWait => return Err(RowError::LockNotAvailable),
                Verdict::Held(holder) => {
                    place.row = Some((tree, key));
                    rows.shared.waits.row(&self.live, tree, key, &holder, &self.interrupt).await?;
                }
                done @ (Verdict::Exists(..) | Verdict::Moved(_)) => return Ok(done),
            }
        }
    }

    /// Waits for the end of another instance's transaction.
    async fn wait_elsewhere(&self, txn: TxnId) -> Result<(), RowError> {
        tokio::select! {
            biased;
            () = self.interrupt.wait() => Err(RowError::Cancelled),
            ended = self.rows.shared.elsewhere.wait_end(self.live.clone(), txn) => Ok(ended?),
        }
    }

    /// What it has for writing; takes a slot and a segment the first time.
    pub(super) async fn writing(&mut self) -> Result<&mut Writes, RowError> {
        if self.writes.is_none() {
            self.writes = Some(self.rows.take_writes(&self.live)?);
        }
        Ok(self.writes.as_mut().expect("just taken"))
    }

    /// Locks a table until the end of the transaction.
    ///
    /// # Errors
    /// [`RowError::Deadlock`], [`RowError::Cancelled`], [`RowError::LockNotAvailable`].
    pub async fn lock_table(&mut self, table: u32, mode: TableLock, conflict: OnConflict) -> Result<(), RowError> {
        if self.tables.contains(&(table, mode)) {
            return Ok(());
        }
        let wait = conflict == OnConflict::Wait;
        // Cancelled or given up at the very moment of the grant, it has the lock, but nobody tells.
        self.asked_for_tables = true;
        self.rows.shared.waits.table(&self.live, table, mode, wait, &self.interrupt).await?;
        self.tables.push((table, mode));
        Ok(())
    }

    /// Makes a tree, with a number that none had before. It is gone when the transaction rolls back.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn create_tree(&mut self) -> Result<TreeId, RowError> {
        let rows = self.rows.clone();
        let tree = rows.new_tree_number().await?;
        // First the record: a crash in between leaves a record of a tree that isn't there, not a tree that nobody knows.
        let number = self.note(tree, Action::MadeTree).await?;
        rows.shared.trees.create_tree(tree).await?;
        self.writing().await?.made.push((number, tree));
        Ok(tree)
    }

    /// Drops a tree when the transaction commits.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn drop_tree(&mut self, tree: TreeId) -> Result<(), RowError> {
        if self.writing().await?.drops.iter().any(|(_, dropped)| *dropped == tree) {
            // Undone, a second record would take the first one's entry away.
            return Ok(());
        }
        let number = self.note(tree, Action::DropTree).await?;
        let txn = self.writing().await?.txn;
        self.rows.condemn(tree, Some(txn)).await?;
        self.writing().await?.drops.push((number, tree));
        Ok(())
    }

    /// Makes a record that is no row's; returns how many there are then.
    async fn note(&mut self, tree: TreeId, action: Action<'_>) -> Result<u64, RowError> {
        let rows = self.rows.clone();
        let writes = self.writing().await?;
        loop {
            let mut at = None;
            let once = |change: &mut Change<'_>| {
                at = super::write::note(change, writes, tree, action)?;
                Ok(())
            };
            rows.shared.trees.change(Footprint::Path, 512, once).await?;
            match at {
                Some(noted) => {
                    writes.noted(noted);
                    return Ok(writes.records);
                }
                None => rows.extend(&mut writes.segment).await?,
            }
        }
    }

    /// This place, to roll back to. Savepoints cost nothing.
    pub fn savepoint(&self) -> Savepoint {
        self.writes
            .as_ref()
            .map_or(Savepoint { records: 0, last: UndoPtr::NONE }, |writes| Savepoint { records: writes.records, last: writes.last })
    }

    /// Undoes what was done since `savepoint`; row locks taken since fall.
    ///
    /// # Errors
    /// [`RowError`]: then the transaction can only be rolled back.
    pub async fn rollback_to(&mut self, savepoint: Savepoint) -> Result<(), RowError> {
        let Some(writes) = &mut self.writes else { return Ok(()) };
        if writes.last == savepoint.last {
            return Ok(());
        }
        self.rows.undo_chain(writes.txn, writes.last, savepoint.last).await?;
        writes.last = savepoint.last;
        writes.made.retain(|(number, _)| *number <= savepoint.records);
        writes.drops.retain(|(number, _)| *number <= savepoint.records);
        // Rows that were undone, and others that wait for this transaction's end, look again.
        self.rows.shared.waits.rows_freed(&self.live);
        Ok(())
    }

    /// The newest commit that its statement sees.
    pub fn snapshot_scn(&self) -> Option<Scn> {
        self.snapshot.as_ref().map(Snapshot::scn)
    }

    /// Makes it all durable and visible. Returns its place in the order of commits; none when it has written nothing.
    ///
    /// # Errors
    /// [`RowError`]: the log has failed, and whether the transaction is committed shows after recovery.
    pub async fn commit(mut self) -> Result<Option<Scn>, RowError> {
        self.snapshot = None;
        let Some(mut writes) = self.writes.take() else {
            self.leave();
            return Ok(None);
        };
        let rows = self.rows.clone();
        let live = self.live.clone();
        // From here on it ends by itself: whoever waits for the log next publishes it.
        self.handed_over = true;
        writes.attachment = self.attachment.take();
        rows.end(live, writes, true).await
    }

    /// Undoes it all.
    ///
    /// # Errors
    /// [`RowError`]: the rows that could not be undone stay locked; where it may help it is tried again every second, else the next opening
    /// undoes them.
    pub async fn rollback(mut self) -> Result<(), RowError> {
        self.snapshot = None;
        let Some(mut writes) = self.writes.take() else {
            self.leave();
            return Ok(());
        };
        self.handed_over = true;
        writes.attachment = self.attachment.take();
        let (rows, live) = (self.rows.clone(), self.live.clone());
        rows.roll_back(live, writes).await
    }

    /// The end of a transaction that has written nothing.
    fn leave(&mut self) {
        self.handed_over = true;
        self.rows.shared.book.leave(&self.live);
        if self.asked_for_tables {
            self.tables.clear();
            self.rows.shared.waits.ended(&self.live);
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        match self.writes.take() {
            None if self.handed_over => {}
            None => self.leave(),
            Some(mut writes) => {
                writes.attachment = self.attachment.take();
                self.rows.roll_back_later(self.live.clone(), writes);
            }
        }
    }
}

fn need_size(key: &[u8], value: &[u8]) -> Result<(), RowError> {
    let bytes = key.len() + value.len();
    if bytes > ROW_MAX { Err(RowError::RowTooLarge { bytes }) } else { Ok(()) }
}

/// Where a transaction stands in a row's queue.
struct Place<'p, 'k> {
    rows: &'p Rows,
    live: &'p Live,
    row: Option<(TreeId, &'k [u8])>,
}

impl Drop for Place<'_, '_> {
    fn drop(&mut self) {
        if let Some((tree, key)) = self.row {
            self.rows.shared.waits.leave_row(self.live, tree, key);
        }
    }
}

/// A transaction whose end isn't in the log yet.
struct Undecided<'r> {
    rows: &'r Rows,
    live: Arc<Live>,
    writes: Option<Writes>,
    /// How long to wait before it is undone: its end couldn't be written.
    delay: Duration,
}

impl Drop for Undecided<'_> {
    fn drop(&mut self) {
        if let Some(writes) = self.writes.take() {
            self.rows.roll_back_after(self.delay, self.live.clone(), writes);
        }
    }
}

impl Writes {
    /// What is kept until the end is published.
    fn into_held(self) -> Held {
        let Writes { segment, from, garbage, drops, attachment, .. } = self;
        let drops = drops.into_iter().map(|(_, tree)| tree).collect();
        Held { segment: Some(segment), from, garbage, drops, _attachment: attachment }
    }

    fn noted(&mut self, noted: Noted) {
        if !self.first.is_some() {
            self.first = noted.first;
        }
        self.last = noted.at;
        self.records += 1;
    }
}

impl Rows {
    fn take_writes(&self, live: &Arc<Live>) -> Result<Writes, RowError> {
        let all = || RowError::TooManyTransactions { slots: self.shared.book.counts().0 };
        let mut segments = self.shared.segments.lock();
        let mut segment = segments.take().ok_or_else(all)?;
        let Some(txn) = self.shared.book.assign(live) else {
            segments.put_back(segment);
            return Err(all());
        };
        drop(segments);
        segment.begin();
        Ok(Writes {
            txn,
            slot: self.shared.slots.place(txn.number()),
            horizon: self.horizon(),
            from: segment.tail_sequence(),
            segment,
            first: UndoPtr::NONE,
            last: UndoPtr::NONE,
            records: 0,
            garbage: Vec::new(),
            made: Vec::new(),
            drops: Vec::new(),
            attachment: None,
        })
    }

    /// Writes a transaction's end into its slot and waits until it is published. Given up before the end is in the log, it is undone.
    pub(super) async fn end(&self, live: Arc<Live>, writes: Writes, committed: bool) -> Result<Option<Scn>, RowError> {
        let (txn, first) = (writes.txn, writes.first);
        // What was never written needs no end in the log.
        let place = first.is_some().then_some(writes.slot);
        let state = if committed && first.is_some() { SlotState::Committed } else { SlotState::RolledBack };
        let mut undecided = Undecided { rows: self, live: live.clone(), writes: Some(writes), delay: Duration::ZERO };
        let hand_over = || undecided.writes.take().map(Writes::into_held);
        let ended = self.end_slot(place, (txn, state), Some(live), hand_over).await;
        if ended.is_err() {
            undecided.delay = super::undo::RETRY;
        }
        let (scn, end) = ended?;
        if state == SlotState::Committed {
            self.publish_when_durable(end).await?;
            Ok(Some(scn))
        } else {
            self.settle(Lsn(0));
            Ok(None)
        }
    }

    /// Waits for the log; should the waiting be given up, a task of its own publishes the commit.
    async fn publish_when_durable(&self, end: Lsn) -> Result<(), RowError> {
        struct Forgotten<'r>(&'r Rows, Lsn);
        impl Drop for Forgotten<'_> {
            fn drop(&mut self) {
                self.0.publish_later(self.1);
            }
        }
        let forgotten = Forgotten(self, end);
        let outcome = self.make_durable(end).await;
        std::mem::forget(forgotten);
        outcome
    }
}
