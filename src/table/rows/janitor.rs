//! The background task that takes out deleted rows which no snapshot sees any more, and drops trees whose drop was committed.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{RowError, Rows, Running, Shared};
use crate::base::limits::PAGE_SIZE;
use crate::base::{Scn, TreeId};
use crate::cache::wait::Footprint;
use crate::page::slotted;
use crate::table::Direction;
use crate::table::change::Change;
use crate::table::error::TableError;
use crate::table::scan::Walk;
use crate::txn::book::Outcome;
use crate::txn::slot::Judged;
use crate::txn::undo::RowHeader;
use crate::txn::{Interrupt, TxnId};

/// Time until deletions that some snapshot may still see are looked at again.
const AGAIN: Duration = Duration::from_millis(200);

/// What became of a deleted row.
enum Taken {
    /// It isn't there any more.
    Gone,
    /// Some snapshot may see what it was.
    Needed,
    /// The book doesn't know when this transaction ended.
    Unknown(TxnId),
}

impl Rows {
    /// Starts the janitor; it ends when the rows are closed or dropped.
    pub(super) fn start_janitor(&self) {
        let (background, seams) = (self.shared.background.clone(), self.shared.trees.cache().seams().clone());
        let (weak, running, sleeper) = (Arc::downgrade(&self.shared), Running::start(&background), seams.clone());
        let task = async move {
            let _running = running;
            loop {
                let left = match weak.upgrade() {
                    Some(shared) if !background.stop.load(Ordering::Acquire) => tidy(&Rows { shared }).await,
                    _ => return,
                };
                tokio::select! {
                    biased;
                    () = background.wake.notified() => {}
                    () = sleeper.sleep(AGAIN), if left => {}
                }
            }
        };
        seams.spawn("janitor", Box::pin(task));
    }

    /// Drops a tree whose drop was committed, and forgets that it was to be dropped.
    pub(super) async fn drop_condemned(&self, tree: TreeId) {
        let outcome = async {
            match self.shared.trees.drop_tree(tree).await {
                Ok(_) | Err(TableError::UnknownTree { .. }) => self.condemn(tree, None).await,
                Err(error) => Err(error.into()),
            }
        };
        if let Err(error) = outcome.await {
            tracing::error!(%tree, %error, "a dropped tree can't be freed now; the next opening tries again");
        }
    }

    /// Takes a deleted row out, if no snapshot sees it; false when some may.
    async fn take_out(&self, tree: TreeId, key: &[u8]) -> Result<bool, RowError> {
        let horizon = self.horizon();
        // What a look at a slot has said of the row's transaction; believed if the row still names it.
        let mut judged = None;
        loop {
            match self.take_out_if(tree, key, horizon, judged).await? {
                Taken::Gone => return Ok(true),
                Taken::Needed => return Ok(false),
                Taken::Unknown(txn) => match self.judge(tree, txn, horizon).await? {
                    Judged::Before => judged = Some(txn),
                    Judged::After | Judged::Active | Judged::Undone | Judged::Earlier => return Ok(false),
                },
            }
        }
    }

    /// Takes a deleted row out if its transaction ended at or before `horizon`, or is `ended`, of which that is known.
    async fn take_out_if(&self, tree: TreeId, key: &[u8], horizon: Scn, ended: Option<TxnId>) -> Result<Taken, RowError> {
        let mut taken = Taken::Gone;
        // What the book has forgotten is behind its own horizon, which may be ahead of another instance's.
        let own_is_all = self.shared.elsewhere.oldest_snapshot() == Scn(u64::MAX);
        let once = |change: &mut Change<'_>| {
            if change.is_patient() {
                change.latch_root(tree)?;
            }
            taken = Taken::Gone;
            let leaf = change.leaf(tree, key, None)?;
            let Ok(slot) = slotted::search(change.page(leaf), key) else { return Ok(()) };
            let Ok((header, _)) = RowHeader::of(slotted::value(change.page(leaf), slot)) else { return Ok(()) };
            if !header.deleted {
                return Ok(());
            }
            let is_settled = header.txn == TxnId::FROZEN || ended == Some(header.txn) || self.shared.threads.is_settled(header.txn);
            taken = match self.shared.book.outcome(header.txn) {
                _ if is_settled => Taken::Gone,
                Outcome::Everyone if own_is_all => Taken::Gone,
                Outcome::Committed(scn) if scn <= horizon => Taken::Gone,
                Outcome::Everyone | Outcome::Elsewhere => Taken::Unknown(header.txn),
                Outcome::Committed(_) | Outcome::Active(_) | Outcome::RolledBack | Outcome::Loser => Taken::Needed,
            };
            if matches!(taken, Taken::Gone) { change.remove(tree, leaf, slot, key) } else { Ok(()) }
        };
        match self.shared.trees.change(Footprint::Path, 256 + key.len(), once).await {
            Ok(_) => Ok(taken),
            Err(TableError::UnknownTree { .. }) => Ok(Taken::Gone),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes out every deleted row of `tree` that no snapshot sees, also those that a crash made forgotten. Returns how many were found, and how
    /// many must stay. `interrupt` stops it.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn vacuum(&self, tree: TreeId, interrupt: &Interrupt) -> Result<(u64, u64), RowError> {
        let mut walk = Walk::new(tree, Bound::Unbounded, Bound::Unbounded, Direction::Up);
        let mut leaf = vec![0; PAGE_SIZE];
        let (mut found, mut kept) = (0, 0);
        while let Some(slots) = walk.next(&self.shared.trees, &mut leaf).await? {
            if interrupt.is_set() {
                return Err(RowError::Cancelled);
            }
            for slot in slots {
                let (header, _) = RowHeader::of(slotted::value(&leaf, slot)).map_err(|fault| RowError::Damaged { tree, fault })?;
                if header.deleted {
                    found += 1;
                    kept += u64::from(!self.take_out(tree, slotted::key(&leaf, slot)).await?);
                }
            }
        }
        Ok((found, kept))
    }
}

/// Does what can be done now; true when something is left for later.
async fn tidy(rows: &Rows) -> bool {
    let shared: &Shared = &rows.shared;
    let dropped = std::mem::take(&mut *shared.dropped.lock());
    for tree in dropped {
        rows.drop_condemned(tree).await;
    }
    loop {
        let horizon = rows.horizon();
        let next = {
            let mut garbage = shared.garbage.lock();
            match garbage.front() {
                None => return false,
                Some((scn, _)) if *scn > horizon => return true,
                Some(_) => garbage.pop_front(),
            }
        };
        for (tree, key) in next.map(|(_, rows)| rows).unwrap_or_default() {
            if rows.is_stopping() {
                return false;
            }
            if let Err(error) = rows.take_out(tree, &key).await {
                // What can't be taken out is found by the next vacuum.
                tracing::warn!(%tree, %error, "a deleted row could not be taken out");
                return false;
            }
        }
    }
}
