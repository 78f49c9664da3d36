//! What a snapshot sees: single rows and ranges.

use std::ops::Bound;

use super::{Held, Row, RowError, Rows, Transaction, Version};
use crate::base::limits::PAGE_SIZE;
use crate::base::{Scn, TreeId};
use crate::cache::wait::Footprint;
use crate::page::slotted;
use crate::table::Direction;
use crate::table::descend::{Toward, descend};
use crate::table::scan::Walk;
use crate::txn::TxnId;
use crate::txn::book::{Outcome, Snapshot, View};
use crate::txn::slot::Judged;
use crate::txn::undo::RowHeader;

/// Looks at a row again before its history is said to be gone.
const LOOKS_MAX: u32 = 1000;

/// Whether a version is seen.
enum Sight {
    Seen,
    Hidden,
    /// Its transaction was undone since the row was read.
    Again,
    /// Another instance's transaction made it: its slot says the rest.
    Elsewhere,
}

/// What is known of a row after a look at its leaf.
enum Look<B> {
    /// This is what the snapshot sees.
    Sure(Option<(Version, B)>),
    /// The version in the leaf isn't seen.
    Hidden(B),
    Again,
    /// Its transaction's slot must be looked at.
    Elsewhere(B),
}

impl Look<&[u8]> {
    fn owned(self) -> Look<Vec<u8>> {
        match self {
            Look::Sure(seen) => Look::Sure(seen.map(|(version, value)| (version, value.to_vec()))),
            Look::Hidden(row) => Look::Hidden(row.to_vec()),
            Look::Again => Look::Again,
            Look::Elsewhere(row) => Look::Elsewhere(row.to_vec()),
        }
    }
}

/// The last transaction of another instance that a cursor asked for, under which snapshot, and whether it is seen: of one that is over, so it stays true.
type Memo = Option<(TxnId, Scn, bool)>;

/// Who looks, and when.
#[derive(Clone, Copy)]
pub(super) struct Eyes {
    pub(super) me: Option<TxnId>,
    pub(super) view: View,
}

/// A range of a tree's rows as a transaction's statement sees them, page by page.
pub struct Cursor {
    tree: TreeId,
    walk: Walk,
    leaf: Box<[u8]>,
    /// Its own, instead of the statement's.
    snapshot: Option<Snapshot<Held>>,
    memo: Memo,
}

impl Rows {
    #[inline]
    fn sight(&self, txn: TxnId, eyes: Eyes) -> Sight {
        if self.shared.book.is_settled(txn) || eyes.me == Some(txn) {
            return Sight::Seen;
        }
        match self.shared.book.outcome(txn) {
            Outcome::Everyone => Sight::Seen,
            Outcome::Committed(scn) if scn <= eyes.view.local => Sight::Seen,
            Outcome::Committed(_) | Outcome::Active(_) | Outcome::Loser => Sight::Hidden,
            Outcome::RolledBack => Sight::Again,
            // Undone at or before the horizon, it would not stand in a row read under a snapshot.
            Outcome::Elsewhere if self.shared.threads.is_settled(txn) => Sight::Seen,
            Outcome::Elsewhere => Sight::Elsewhere,
        }
    }

    #[inline]
    fn look<'r>(&self, tree: TreeId, row: &'r [u8], eyes: Eyes) -> Result<Look<&'r [u8]>, RowError> {
        let (header, value) = RowHeader::of(row).map_err(|fault| RowError::Damaged { tree, fault })?;
        Ok(match self.sight(header.txn, eyes) {
            Sight::Seen => Look::Sure((!header.deleted).then(|| (Version::of(&header), value))),
            Sight::Hidden => Look::Hidden(row),
            Sight::Again => Look::Again,
            Sight::Elsewhere => Look::Elsewhere(row),
        })
    }

    /// Asks the slot of another instance's transaction, with nothing latched, what it is to the snapshot.
    async fn ask_slot<'r>(&self, tree: TreeId, row: &'r [u8], eyes: Eyes, memo: &mut Memo) -> Result<Look<&'r [u8]>, RowError> {
        let (header, value) = RowHeader::of(row).map_err(|fault| RowError::Damaged { tree, fault })?;
        let (txn, at) = (header.txn, eyes.view.foreign);
        let seen = match memo {
            Some((of, under, seen)) if *of == txn && *under == at => *seen,
            _ => match self.judge(tree, txn, at).await? {
                Judged::Before => true,
                Judged::After => false,
                Judged::Active => return Ok(Look::Hidden(row)),
                Judged::Undone => return Ok(Look::Again),
                Judged::Earlier => return Err(RowError::SnapshotTooOld),
            },
        };
        *memo = Some((txn, at, seen));
        Ok(if seen { Look::Sure((!header.deleted).then(|| (Version::of(&header), value))) } else { Look::Hidden(row) })
    }

    /// What the snapshot sees of the row of `key`.
    pub(super) async fn visible(&self, tree: TreeId, key: &[u8], eyes: Eyes) -> Result<Option<(Version, Vec<u8>)>, RowError> {
        let shared = &*self.shared.trees.shared;
        for _ in 0..LOOKS_MAX {
            let once = || {
                let (_, leaf) = descend(&shared.cache, &shared.roots, tree, Toward::Key(key), 0)?;
                match slotted::search(&leaf, key) {
                    Err(_) => Ok(Look::Sure(None)),
                    Ok(slot) => self.look(tree, slotted::value(&leaf, slot), eyes).map(Look::owned),
                }
            };
            let look = shared.cache.run(Footprint::Path, once).await?;
            if let Some(found) = self.history(tree, look, eyes).await? {
                return Ok(found);
            }
        }
        Err(RowError::SnapshotTooOld)
    }

    /// Goes back through undo to the version that is seen; nothing when the row must be looked at again.
    async fn history(&self, tree: TreeId, mut look: Look<Vec<u8>>, eyes: Eyes) -> Result<Option<Option<(Version, Vec<u8>)>>, RowError> {
        loop {
            let row = match look {
                Look::Sure(found) => return Ok(Some(found)),
                Look::Again => return Ok(None),
                Look::Hidden(row) => row,
                Look::Elsewhere(row) => {
                    look = self.ask_slot(tree, &row, eyes, &mut None).await?.owned();
                    continue;
                }
            };
            let (header, _) = RowHeader::of(&row).map_err(|fault| RowError::Damaged { tree, fault })?;
            if !header.undo.is_some() {
                return Ok(Some(None));
            }
            let record = self.record(header.undo, header.txn).await?;
            let before = match record.map(|record| record.action) {
                Some(super::space::OwnedAction::Row { before, .. }) => before,
                Some(_) | None => {
                    return match self.shared.book.outcome(header.txn) {
                        Outcome::Committed(_) | Outcome::Everyone => Err(RowError::SnapshotTooOld),
                        // Undone since.
                        Outcome::RolledBack | Outcome::Active(_) | Outcome::Loser => Ok(None),
                        Outcome::Elsewhere => match self.judge(tree, header.txn, eyes.view.foreign).await? {
                            Judged::Before | Judged::After | Judged::Earlier => Err(RowError::SnapshotTooOld),
                            Judged::Undone | Judged::Active => Ok(None),
                        },
                    };
                }
            };
            let Some(before) = before else { return Ok(Some(None)) };
            look = self.look(tree, &before, eyes)?.owned();
        }
    }
}

impl Cursor {
    pub(super) fn new(
        tree: TreeId,
        low: Bound<Vec<u8>>,
        high: Bound<Vec<u8>>,
        direction: Direction,
        snapshot: Option<Snapshot<Held>>,
    ) -> Cursor {
        Cursor { tree, walk: Walk::new(tree, low, high, direction), leaf: vec![0; PAGE_SIZE].into_boxed_slice(), snapshot, memo: None }
    }

    /// The next rows, about a page of them; none at the end.
    ///
    /// # Errors
    /// [`RowError`].
    pub async fn next(&mut self, txn: &Transaction) -> Result<Vec<Row>, RowError> {
        let mut found = Vec::new();
        let keep = |key: &[u8], value: &[u8], version| {
            found.push(Row { key: key.to_vec(), value: value.to_vec(), version });
            Ok::<(), RowError>(())
        };
        self.visit(txn, keep).await?;
        Ok(found)
    }

    /// Shows `visit` keys and values of the next rows, about a page of them; false at the end, when there was none.
    ///
    /// # Errors
    /// [`RowError`]; what `visit` says.
    pub async fn each<E: From<RowError>>(
        &mut self,
        txn: &Transaction,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<bool, E> {
        self.visit(txn, |key, value, _| visit(key, value)).await
    }

    async fn visit<E: From<RowError>>(
        &mut self,
        txn: &Transaction,
        mut visit: impl FnMut(&[u8], &[u8], Version) -> Result<(), E>,
    ) -> Result<bool, E> {
        let rows = txn.rows();
        let own = self.snapshot.as_ref().map(|snapshot| Eyes { me: txn.id(), view: snapshot.view() });
        let eyes = own.unwrap_or_else(|| txn.eyes());
        while let Some(slots) = self.walk.next(rows.trees(), &mut self.leaf).await.map_err(RowError::from)? {
            txn.check_interrupt()?;
            let mut any = false;
            let (first, count) = (slots.start, slots.len());
            for at in 0..count {
                let slot = match self.walk.direction() {
                    Direction::Up => first + at,
                    Direction::Down => first + count - 1 - at,
                };
                let key = slotted::key(&self.leaf, slot);
                let look = match rows.look(self.tree, slotted::value(&self.leaf, slot), eyes)? {
                    Look::Elsewhere(row) => rows.ask_slot(self.tree, row, eyes, &mut self.memo).await?,
                    look => look,
                };
                let seen = match look {
                    Look::Sure(Some((version, value))) => {
                        visit(key, value, version)?;
                        any = true;
                        continue;
                    }
                    Look::Sure(None) => continue,
                    hidden => match rows.history(self.tree, hidden.owned(), eyes).await? {
                        Some(seen) => seen,
                        None => rows.visible(self.tree, key, eyes).await?,
                    },
                };
                if let Some((version, value)) = seen {
                    visit(key, &value, version)?;
                    any = true;
                }
            }
            if any {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
