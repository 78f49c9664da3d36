//! One change of one row: the row, its undo record and, the first time, the transaction's slot, in one change group.

use std::sync::Arc;

use super::slots::{SlotPlace, latch_slot, take_slot};
use super::space::{Segment, need_kind};
use super::{RowError, Rows, Version, undo_tree};
use crate::base::{Scn, TreeId};
use crate::cache::wait::Footprint;
use crate::page::header::Kind;
use crate::page::slotted;
use crate::redo::record::Op;
use crate::table::change::Change;
use crate::table::error::{TableError, raced};
use crate::txn::book::{Live, Outcome, View};
use crate::txn::slot::Judged;
use crate::txn::undo::{Action, EARLIER_BYTES, Record, RowHeader};
use crate::txn::{TxnId, UndoPtr};

/// What a transaction has for writing.
#[derive(Debug)]
pub(super) struct Writes {
    pub(super) txn: TxnId,
    pub(super) slot: SlotPlace,
    /// What ended up to this in its slot nobody needs to tell apart.
    pub(super) horizon: Scn,
    pub(super) segment: Segment,
    /// Sequence of the first undo page that it may write.
    pub(super) from: u64,
    /// Its first record; none before the first change.
    pub(super) first: UndoPtr,
    /// Its last record that still counts.
    pub(super) last: UndoPtr,
    /// Records made, those undone included.
    pub(super) records: u64,
    /// Rows deleted, to be taken out later.
    pub(super) garbage: Vec<(TreeId, Vec<u8>)>,
    /// Trees made, with the number of the record that says so.
    pub(super) made: Vec<(u64, TreeId)>,
    /// Trees to be dropped, likewise.
    pub(super) drops: Vec<(u64, TreeId)>,
    /// What the layer above keeps with the transaction.
    pub(super) attachment: Option<super::transaction::Attachment>,
}

/// What is to become of a row.
#[derive(Clone, Copy, Debug)]
pub(super) enum Want<'w> {
    /// A new row.
    Insert(&'w [u8]),
    /// The row seen as this version gets a value.
    Update(Version, &'w [u8]),
    /// The row seen as this version goes.
    Delete(Version),
    /// The row seen as this version is kept from others.
    Lock(Version),
}

/// Where a record was appended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noted {
    pub(super) at: UndoPtr,
    /// The transaction's first record, if this was its first change.
    pub(super) first: UndoPtr,
}

/// What slots have said of other instances' transactions: of those that are over, so that it stays true.
pub(super) type Known = Vec<(TxnId, Judged)>;

/// How a change may meet the versions of others.
#[derive(Clone, Copy)]
pub(super) struct Meeting<'k> {
    /// Of a repeatable read transaction.
    pub(super) snapshot: Option<View>,
    pub(super) known: &'k [(TxnId, Judged)],
}

/// What became of an attempt.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Done; the record's place.
    Done(Noted),
    /// A row is there already: header's version and value.
    Exists(Version, Vec<u8>),
    /// Not the version seen; nothing if it is gone.
    Moved(Option<(Version, Vec<u8>)>),
    /// Changed after the snapshot.
    Serialization,
    /// Someone has it.
    Held(Arc<Live>),
    /// A loser has it.
    Lost(TxnId),
    /// The undo page is full.
    NoRoom,
    /// Another instance's transaction has changed it: first its slot must say what became of it.
    Judge(TxnId),
    /// A row that isn't one.
    Damaged(crate::txn::undo::UndoFault),
}

/// The row as it is now.
struct Current {
    header: RowHeader,
    row: Vec<u8>,
    value_at: usize,
}

impl Current {
    fn value(&self) -> &[u8] {
        &self.row[self.value_at..]
    }

    fn seen(&self) -> (Version, Vec<u8>) {
        (Version::of(&self.header), self.value().to_vec())
    }

    fn moved(&self) -> Verdict {
        Verdict::Moved((!self.header.deleted).then(|| self.seen()))
    }
}

impl Rows {
    /// Tries to change a row.
    pub(super) async fn attempt(
        &self,
        writes: &Writes,
        tree: TreeId,
        key: &[u8],
        want: Want<'_>,
        meeting: Meeting<'_>,
    ) -> Result<Verdict, RowError> {
        let value = match want {
            Want::Insert(value) | Want::Update(_, value) => value.len(),
            Want::Delete(_) | Want::Lock(_) => 0,
        };
        // The row as it was is copied into undo: its size isn't known yet, but is mostly that of the new one.
        let bytes = 512 + 2 * key.len() + 2 * value;
        let mut verdict = Verdict::NoRoom;
        let once = |change: &mut Change<'_>| {
            verdict = self.try_change(change, writes, (tree, key), want, meeting)?;
            Ok(())
        };
        self.shared.trees.change(Footprint::Path, bytes, once).await?;
        Ok(verdict)
    }

    fn try_change(
        &self,
        change: &mut Change<'_>,
        writes: &Writes,
        (tree, key): (TreeId, &[u8]),
        want: Want<'_>,
        meeting: Meeting<'_>,
    ) -> Result<Verdict, TableError> {
        if change.is_patient() {
            change.latch_root(tree)?;
        }
        let leaf = change.leaf(tree, key, None)?;
        let current = match slotted::search(change.page(leaf), key) {
            Err(_) => None,
            Ok(slot) => {
                let row = slotted::value(change.page(leaf), slot).to_vec();
                match RowHeader::of(&row) {
                    Err(fault) => return Ok(Verdict::Damaged(fault)),
                    Ok((header, value)) => Some(Current { header, value_at: row.len() - value.len(), row }),
                }
            }
        };
        if let Some(verdict) = self.decide(change, writes.txn, current.as_ref(), want, meeting)? {
            return Ok(verdict);
        }
        let action = Action::Row { key, before: current.as_ref().map(|current| &current.row[..]) };
        let Some(noted) = note(change, writes, tree, action)? else { return Ok(Verdict::NoRoom) };
        let undo = noted.at;
        let header = RowHeader { txn: writes.txn, undo, deleted: matches!(want, Want::Delete(_)), locked: matches!(want, Want::Lock(_)) };
        let row = match want {
            Want::Insert(value) | Want::Update(_, value) => header.row(value),
            Want::Delete(_) => header.row(&[]),
            Want::Lock(_) => header.row(current.as_ref().map_or(&[], Current::value)),
        };
        change.put(tree, leaf, key, &row)?;
        Ok(Verdict::Done(noted))
    }

    /// What keeps the change from being made; nothing if it may be.
    fn decide(
        &self,
        change: &Change<'_>,
        me: TxnId,
        current: Option<&Current>,
        want: Want<'_>,
        Meeting { snapshot, known: judged }: Meeting<'_>,
    ) -> Result<Option<Verdict>, TableError> {
        let seen = match want {
            Want::Insert(_) => None,
            Want::Update(seen, _) | Want::Delete(seen) | Want::Lock(seen) => Some(seen),
        };
        let Some(current) = current else { return Ok(seen.map(|_| Verdict::Moved(None))) };
        let header = current.header;
        if header.txn != me {
            match self.shared.book.outcome(header.txn) {
                Outcome::Everyone | Outcome::Committed(_) => {}
                Outcome::Active(live) => return Ok(Some(Verdict::Held(live))),
                Outcome::Loser => return Ok(Some(Verdict::Lost(header.txn))),
                // Whatever else it may be, it is over: the row still names it, so it has committed.
                Outcome::Elsewhere if self.judged(header.txn, judged).is_some() => {}
                Outcome::Elsewhere => return Ok(Some(Verdict::Judge(header.txn))),
                // It was undone between the look at the row and the look at the book.
                Outcome::RolledBack => return Err(raced()),
            }
        }
        let Some(seen) = seen else {
            let exists = || {
                let (version, value) = current.seen();
                Verdict::Exists(version, value)
            };
            return Ok((!header.deleted).then(exists));
        };
        let (known, met) = self.beneath_locks(change, me, header, seen)?;
        if let Some(snapshot) = snapshot.filter(|_| known.txn != me) {
            match self.shared.book.outcome(known.txn) {
                Outcome::Committed(scn) if scn > snapshot.local => return Ok(Some(Verdict::Serialization)),
                Outcome::Elsewhere => match self.judged(known.txn, judged) {
                    Some(Judged::Before) => {}
                    Some(_) => return Ok(Some(Verdict::Serialization)),
                    None => return Ok(Some(Verdict::Judge(known.txn))),
                },
                _ => {}
            }
        }
        // Locks that others have let go don't count in repeatable read: it may have seen the row under an older one of them.
        let same = seen == Version::of(&header) || (met && snapshot.is_some());
        Ok((!same || header.deleted).then(|| current.moved()))
    }

    /// What is known of another instance's transaction that is over.
    fn judged(&self, txn: TxnId, known: &[(TxnId, Judged)]) -> Option<Judged> {
        if self.shared.threads.is_settled(txn) {
            return Some(Judged::Before);
        }
        known.iter().find(|(other, _)| *other == txn).map(|(_, judged)| *judged)
    }

    /// The version of a row that others have locked only, and let go; and whether `seen` is it or one of the locks on it.
    fn beneath_locks(&self, change: &Change<'_>, me: TxnId, mut header: RowHeader, seen: Version) -> Result<(RowHeader, bool), TableError> {
        use crate::table::node::Pages;
        let mut met = seen == Version::of(&header);
        while header.locked && header.txn != me && header.undo.is_some() {
            let page = change.view(header.undo.page)?;
            let slot = usize::from(header.undo.slot);
            if need_kind(&page, undo_tree(header.txn.thread()), header.undo.page, Kind::Undo).is_err() || slot >= slotted::count(&page) {
                break;
            }
            // A record that is gone was behind the horizon: the lock stands for what is visible to everyone.
            let Ok(Record { txn, action: Action::Row { before: Some(before), .. }, .. }) =
                Record::decode(slotted::key(&page, slot), slotted::value(&page, slot))
            else {
                break;
            };
            let Some((below, _)) = RowHeader::of(before).ok().filter(|_| txn == header.txn) else { break };
            header = below;
            met |= seen == Version::of(&header);
        }
        Ok((header, met))
    }
}

/// Appends an undo record; before the transaction's first one takes its slot. Nothing when the page has no room.
pub(super) fn note(change: &mut Change<'_>, writes: &Writes, tree: TreeId, action: Action<'_>) -> Result<Option<Noted>, TableError> {
    let Some(page) = writes.segment.tail() else { return Ok(None) };
    change.latch(page)?;
    let was = if writes.first.is_some() { None } else { Some(latch_slot(change, writes)?) };
    // Those who had the slot before, and which some snapshot may have to tell apart, are found through it.
    let earlier = was.filter(|was| was.scn > writes.horizon);
    let name = writes.txn.0.to_le_bytes();
    let record = Record { txn: writes.txn, previous: writes.last, tree, action }.encode();
    let room = earlier.map_or(0, |_| slotted::cell_size(name.len(), EARLIER_BYTES)) + slotted::cell_size(name.len(), record.len());
    if room > slotted::free(change.page(page)) {
        return Ok(None);
    }
    let next = |change: &Change<'_>| UndoPtr { page, slot: slotted::count(change.page(page)) as u16 };
    let first = next(change);
    if let Some(earlier) = earlier {
        let took = Record { txn: writes.txn, previous: UndoPtr::NONE, tree: TreeId(0), action: Action::TookSlot(earlier) }.encode();
        change.apply(page, Op::Append { key: &name, value: &took })?;
    }
    let at = next(change);
    change.apply(page, Op::Append { key: &name, value: &record })?;
    if let Some(was) = was {
        take_slot(change, writes, &was, first, earlier.is_some())?;
    }
    Ok(Some(Noted { at, first }))
}
