//! Undoing: back to a savepoint, whole transactions, and what a crash left.
//!
//! A record is applied exactly when the row names it (rule 18), so it doesn't matter who undoes what how often.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::space::{OwnedAction, OwnedRecord};
use super::write::Writes;
use super::{Held, Loser, RowError, Rows, Running, undo_tree};
use crate::base::{Lsn, TreeId};
use crate::cache::CacheError;
use crate::cache::wait::{Footprint, yield_now};
use crate::page::slotted;
use crate::table::change::Change;
use crate::table::descend::{Toward, descend};
use crate::table::error::TableError;
use crate::txn::book::Live;
use crate::txn::slot::SlotState;
use crate::txn::undo::RowHeader;
use crate::txn::{TxnId, UndoPtr};

/// Time until what couldn't be undone is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// Records undone before others get a turn.
const RECORDS_AT_ONCE: u64 = 64;

/// Whether the same may succeed later.
fn may_pass(error: &RowError) -> bool {
    matches!(error, RowError::Table(TableError::Full { .. } | TableError::Cache(CacheError::Disk(_))))
}

impl Rows {
    /// Undoes the records of `txn` from `last` back to, but not with, `until`.
    pub(super) async fn undo_chain(&self, txn: TxnId, last: UndoPtr, until: UndoPtr) -> Result<u64, RowError> {
        let (mut at, mut done) = (last, 0u64);
        while at.is_some() && at != until {
            let missing = || RowError::RollbackMismatch { txn, tree: undo_tree(txn.thread()), at };
            let record = self.record(at, txn).await?.ok_or_else(missing)?;
            self.undo_record(&record).await?;
            (at, done) = (record.previous, done + 1);
            if done.is_multiple_of(RECORDS_AT_ONCE) {
                yield_now().await;
            }
        }
        Ok(done)
    }

    /// Undoes one record, if that hasn't been done.
    async fn undo_record(&self, record: &OwnedRecord) -> Result<(), RowError> {
        match &record.action {
            OwnedAction::Row { key, before } => self.undo_change(record, key, before.as_deref()).await,
            OwnedAction::MadeTree => match self.shared.trees.drop_tree(record.tree).await {
                Ok(_) | Err(TableError::UnknownTree { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            },
            OwnedAction::DropTree => self.condemn(record.tree, None).await,
            OwnedAction::TookSlot(_) => Ok(()),
        }
    }

    async fn undo_change(&self, record: &OwnedRecord, key: &[u8], before: Option<&[u8]>) -> Result<(), RowError> {
        let tree = record.tree;
        let header_of = |row: &[u8]| RowHeader::of(row).map(|(header, _)| header).map_err(|fault| RowError::Damaged { tree, fault });
        let owner_before = before.map(header_of).transpose()?.map(|header| header.txn);
        let mut fault = None;
        let once = |change: &mut Change<'_>| {
            if change.is_patient() {
                change.latch_root(tree)?;
            }
            let leaf = change.leaf(tree, key, None)?;
            let Ok(slot) = slotted::search(change.page(leaf), key) else { return Ok(()) };
            let header = match header_of(slotted::value(change.page(leaf), slot)) {
                Ok(header) => header,
                Err(error) => {
                    fault = Some(error);
                    return Ok(());
                }
            };
            if header.txn == record.txn && header.undo == record.at {
                return match before {
                    Some(row) => change.put(tree, leaf, key, row),
                    None => change.remove(tree, leaf, slot, key),
                };
            }
            // The first record of the transaction for this row: all later ones have been undone, so the row must be free of it.
            if header.txn == record.txn && owner_before != Some(record.txn) {
                fault = Some(RowError::RollbackMismatch { txn: record.txn, tree, at: record.at });
            }
            Ok(())
        };
        match self.shared.trees.change(Footprint::Path, 512 + before.map_or(0, <[u8]>::len) + key.len(), once).await {
            // Its tree was made by the same transaction, and is gone.
            Ok(_) | Err(TableError::UnknownTree { .. }) => fault.map_or(Ok(()), Err),
            Err(error) => Err(error.into()),
        }
    }

    /// Undoes what loser `txn` did to a row that someone waits for.
    pub(super) async fn undo_row(&self, tree: TreeId, key: &[u8], txn: TxnId) -> Result<(), RowError> {
        loop {
            let shared = &*self.shared.trees.shared;
            let once = || {
                let (_, leaf) = descend(&shared.cache, &shared.roots, tree, Toward::Key(key), 0)?;
                let Ok(slot) = slotted::search(&leaf, key) else { return Ok(None) };
                let found = RowHeader::of(slotted::value(&leaf, slot)).map_err(|fault| RowError::Damaged { tree, fault })?;
                Ok::<_, RowError>(Some(found.0))
            };
            let header = shared.cache.run(Footprint::Path, once).await?;
            let Some(header) = header.filter(|header| header.txn == txn) else { return Ok(()) };
            let missing = || RowError::RollbackMismatch { txn, tree, at: header.undo };
            let record = self.record(header.undo, txn).await?.ok_or_else(missing)?;
            self.undo_record(&record).await?;
        }
    }

    /// Undoes a transaction of this process and ends it.
    pub(super) async fn roll_back(&self, live: Arc<Live>, writes: Writes) -> Result<(), RowError> {
        struct Unfinished<'r>(&'r Rows, Option<(Arc<Live>, Writes)>);
        impl Drop for Unfinished<'_> {
            fn drop(&mut self) {
                if let Some((live, writes)) = self.1.take() {
                    self.0.roll_back_later(live, writes);
                }
            }
        }
        let (txn, last) = (writes.txn, writes.last);
        let mut unfinished = Unfinished(self, Some((live, writes)));
        if let Err(error) = self.undo_chain(txn, last, UndoPtr::NONE).await {
            let undone = unfinished.1.take();
            match undone {
                Some((live, writes)) if may_pass(&error) => {
                    tracing::error!(%txn, %error, "a transaction can't be undone now: its rows stay locked; it is tried again");
                    self.roll_back_after(RETRY, live, writes);
                }
                undone => {
                    tracing::error!(%txn, %error, "a transaction can't be undone: its rows stay locked until the next opening undoes them");
                    // Kept as it is: the slot stays active, so the next opening undoes it. Its rows are held by someone who never ends.
                    std::mem::forget(undone);
                }
            }
            return Err(error);
        }
        match unfinished.1.take() {
            Some((live, writes)) => self.end(live, writes, false).await.map(drop),
            None => Ok(()),
        }
    }

    /// As [`Rows::roll_back`], by a task of its own.
    pub(super) fn roll_back_later(&self, live: Arc<Live>, writes: Writes) {
        self.roll_back_after(Duration::ZERO, live, writes);
    }

    /// As [`Rows::roll_back_later`], after a while.
    pub(super) fn roll_back_after(&self, delay: Duration, live: Arc<Live>, writes: Writes) {
        let (rows, running) = (self.clone(), Running::start(&self.shared.background));
        let seams = self.shared.trees.cache().seams().clone();
        let sleep = (!delay.is_zero()).then(|| seams.sleep(delay));
        let task = async move {
            let _running = running;
            if let Some(sleep) = sleep {
                sleep.await;
                if rows.is_stopping() {
                    return;
                }
            }
            // The error has been logged; nobody else is there to hear it.
            let _ = rows.roll_back(live, writes).await;
        };
        seams.spawn("rollback", Box::pin(task));
    }

    /// Publishes a commit whose own task has gone.
    pub(super) fn publish_later(&self, end: Lsn) {
        let (rows, running) = (self.clone(), Running::start(&self.shared.background));
        let task = async move {
            let _running = running;
            if let Err(error) = rows.make_durable(end).await {
                tracing::error!(%error, "a commit could not be made durable after its client had gone");
            }
        };
        self.shared.trees.cache().seams().spawn("publish", Box::pin(task));
    }

    /// Undoes losers one after the other, then drops trees whose drop a crash cut off.
    pub(super) fn start_undoing(&self, losers: Vec<TxnId>, condemned: Vec<TreeId>) {
        if losers.is_empty() && condemned.is_empty() {
            return;
        }
        let (rows, running) = (self.clone(), Running::start(&self.shared.background));
        let sleeper = self.shared.trees.cache().seams().clone();
        let task = async move {
            let _running = running;
            let mut left = losers;
            while !left.is_empty() {
                let mut again = Vec::new();
                for txn in left {
                    if rows.is_stopping() {
                        return;
                    }
                    if let Err(error) = rows.undo_loser(txn).await {
                        tracing::error!(%txn, %error, "what a crash left unfinished can't be undone now: its rows stay locked; it is tried again, \
                            at the latest by the next opening");
                        again.extend(may_pass(&error).then_some(txn));
                    }
                }
                left = again;
                if !left.is_empty() {
                    sleeper.sleep(RETRY).await;
                }
            }
            for tree in condemned {
                rows.drop_condemned(tree).await;
            }
        };
        self.shared.trees.cache().seams().spawn("undo losers", Box::pin(task));
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.shared.background.stop.load(Ordering::Acquire)
    }

    /// A full pass over a loser's records, newest first, then its slot.
    async fn undo_loser(&self, txn: TxnId) -> Result<(), RowError> {
        let found = self.shared.losers.lock().get(&txn).copied();
        let Some(Loser { slot, first }) = found else { return Ok(()) };
        let missing = || RowError::RollbackMismatch { txn, tree: undo_tree(txn.thread()), at: first };
        let pages = self.shared.segments.lock().of_loser(first.page).ok_or_else(missing)?;
        let mut undone = 0u64;
        for page in pages.iter().rev() {
            let from = if *page == first.page { first.slot } else { 0 };
            for record in self.records(*page, txn, from).await?.iter().rev() {
                if self.is_stopping() {
                    return Ok(());
                }
                self.undo_record(record).await?;
                undone += 1;
            }
            yield_now().await;
        }
        let mut held = Some(Held { segment: None, from: 0, garbage: Vec::new(), drops: Vec::new(), _attachment: None });
        self.end_slot(Some(slot), (txn, SlotState::RolledBack), None, || held.take()).await?;
        self.shared.losers.lock().remove(&txn);
        self.settle(Lsn(0));
        self.shared.undone.notify_waiters();
        let now = self.shared.book.now();
        self.shared.segments.lock().loser_ended(first.page, now);
        tracing::info!(%txn, records = undone, "undone what a crash had left unfinished");
        Ok(())
    }
}
