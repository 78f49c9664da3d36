//! What the voting files say: their sectors decoded, and what follows for a reader. For the state machine, the guard and the commands.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ballot;
use super::guard::GuardRecord;
use super::heartbeat::Heartbeat;
use super::paxos::Block;
use super::sector::{Head, Place, SECTOR, SECTORS_EACH, SectorFault, SectorKind, VotingId, decode, region_bytes};
use super::view::{self, View};
use crate::base::{ClusterId, ThreadId};

/// One instance's sectors in one file. What isn't whole has its fault in [`Snapshot::faults`].
#[derive(Clone, Debug, Default)]
pub struct Sectors {
    /// Its heartbeat.
    pub heartbeat: Option<(Head, Heartbeat)>,
    /// Its Disk Paxos block.
    pub ballot: Option<(Head, Block<View>)>,
    /// The newest view that it knows, if any.
    pub view: Option<(Head, Option<View>)>,
    /// Its guard's record.
    pub guard: Option<(Head, GuardRecord)>,
}

/// One read of one voting file.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The file.
    pub file: VotingId,
    /// Sectors of instances 1, 2, ...
    pub instances: Vec<Sectors>,
    /// What isn't whole.
    pub faults: Vec<(ThreadId, SectorKind, SectorFault)>,
    /// What was decoded.
    region: Vec<u8>,
}

impl Snapshot {
    /// Decodes a read of [`region_bytes`] bytes from [`super::sector::SECTORS_AT`] on.
    pub fn decode(cluster: ClusterId, file: VotingId, threads: u16, region: &[u8]) -> Snapshot {
        Snapshot::decode_after(None, cluster, file, threads, region)
    }

    /// The same, after an earlier read of the same file of the same cluster: sectors with the very bytes that were found whole then aren't
    /// decoded again. Nearly all are such, and this is most of what an idle cluster would do.
    pub fn decode_after(before: Option<&Snapshot>, cluster: ClusterId, file: VotingId, threads: u16, region: &[u8]) -> Snapshot {
        let before = before.filter(|before| before.file == file);
        let instances = Vec::with_capacity(threads.into());
        let mut snapshot = Snapshot { file, instances, faults: Vec::new(), region: region.to_vec() };
        for instance in (1..=threads).map(ThreadId) {
            let mut sectors = Sectors::default();
            let old = before.and_then(|before| before.instances.get(usize::from(instance.0) - 1).map(|old| (old, &before.region)));
            for kind in SectorKind::ALL {
                let at = (usize::from(instance.0 - 1) * SECTORS_EACH + kind as usize - 1) * SECTOR;
                let bytes = region.get(at..at + SECTOR).unwrap_or(&[]);
                if let Some((old, _)) = old.filter(|(old, had)| old.head(kind).is_some() && had.get(at..at + SECTOR) == Some(bytes)) {
                    sectors.keep(kind, old);
                    continue;
                }
                if let Err(fault) = sectors.read(&Place { cluster, file, instance, kind }, bytes) {
                    snapshot.faults.push((instance, kind, fault));
                }
            }
            snapshot.instances.push(sectors);
        }
        debug_assert!(region_bytes(threads) == usize::from(threads) * SECTORS_EACH * SECTOR);
        snapshot
    }

    /// Everybody's block; `None` when one isn't whole: then this file did not answer (rule 3).
    pub fn blocks(&self) -> Option<Vec<(ThreadId, Block<View>)>> {
        let with_id = (1..).map(ThreadId).zip(&self.instances);
        with_id.map(|(id, sectors)| sectors.ballot.as_ref().map(|(_, block)| (id, block.clone()))).collect()
    }

    /// The newest decided view that stands here.
    pub fn newest(&self) -> Option<&View> {
        self.instances.iter().filter_map(|sectors| sectors.view.as_ref()?.1.as_ref()).max_by_key(|view| view.epoch)
    }
}

impl Sectors {
    fn read(&mut self, place: &Place, bytes: &[u8]) -> Result<(), SectorFault> {
        let sector = decode(place, bytes)?;
        match place.kind {
            SectorKind::Heartbeat => self.heartbeat = Some((sector.head, Heartbeat::decode(&sector)?)),
            SectorKind::Ballot => self.ballot = Some((sector.head, ballot::decode_body(&sector)?)),
            SectorKind::View => self.view = Some((sector.head, view::decode_body(&sector)?)),
            SectorKind::Guard => self.guard = Some((sector.head, GuardRecord::decode(&sector)?)),
        }
        Ok(())
    }

    /// Takes over what was decoded before.
    fn keep(&mut self, kind: SectorKind, old: &Sectors) {
        match kind {
            SectorKind::Heartbeat => self.heartbeat = old.heartbeat,
            SectorKind::Ballot => self.ballot.clone_from(&old.ballot),
            SectorKind::View => self.view.clone_from(&old.view),
            SectorKind::Guard => self.guard = old.guard,
        }
    }

    /// The head of the sector of this kind.
    pub fn head(&self, kind: SectorKind) -> Option<&Head> {
        match kind {
            SectorKind::Heartbeat => self.heartbeat.as_ref().map(|(head, _)| head),
            SectorKind::Ballot => self.ballot.as_ref().map(|(head, _)| head),
            SectorKind::View => self.view.as_ref().map(|(head, _)| head),
            SectorKind::Guard => self.guard.as_ref().map(|(head, _)| head),
        }
    }
}

/// Reads of several files together: what a guard or a command may believe.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    snapshots: BTreeMap<VotingId, Arc<Snapshot>>,
}

impl Survey {
    /// Of these reads, one per file.
    pub fn of(snapshots: impl IntoIterator<Item = impl Into<Arc<Snapshot>>>) -> Survey {
        let snapshots = snapshots.into_iter().map(Into::into);
        Survey { snapshots: snapshots.map(|snapshot: Arc<Snapshot>| (snapshot.file, snapshot)).collect() }
    }

    /// The newest view that stands in any file: it is decided, since only decided views are written into view sectors.
    pub fn newest(&self) -> Option<&View> {
        self.snapshots.values().filter_map(|snapshot| snapshot.newest()).max_by_key(|view| view.epoch)
    }

    /// Whether a majority of the voting files of [`Survey::newest`] answered, and no accepted ballot hints at a newer view: then that view
    /// was the newest when the reads began.
    pub fn is_certain(&self) -> bool {
        let Some(newest) = self.newest() else { return false };
        let answers = newest.voting.iter().filter_map(|file| self.snapshots.get(file)?.blocks());
        let settled = answers.filter(|blocks| blocks.iter().all(|(_, block)| block.may_follow(newest.epoch).is_none()));
        settled.count() >= newest.majority()
    }

    /// The newest heartbeat of an instance in any file.
    pub fn heartbeat(&self, id: ThreadId) -> Option<&(Head, Heartbeat)> {
        self.sectors(id).filter_map(|sectors| sectors.heartbeat.as_ref()).max_by_key(|(head, _)| head.age())
    }

    /// The newest record of an instance's guard in any file.
    pub fn guard(&self, id: ThreadId) -> Option<&(Head, GuardRecord)> {
        self.sectors(id).filter_map(|sectors| sectors.guard.as_ref()).max_by_key(|(head, _)| head.age())
    }

    /// The reads.
    pub fn snapshots(&self) -> impl Iterator<Item = &Arc<Snapshot>> {
        self.snapshots.values()
    }

    fn sectors(&self, id: ThreadId) -> impl Iterator<Item = &Sectors> {
        let at = usize::from(id.0.saturating_sub(1));
        self.snapshots.values().filter_map(move |snapshot| snapshot.instances.get(at))
    }
}

#[cfg(test)]
mod tests {
    use super::super::heartbeat::Standing;
    use super::super::sector::{Head, format_region};
    use super::*;
    use crate::base::{Epoch, Incarnation};

    const CLUSTER: ClusterId = ClusterId([7; 16]);
    const FILE: VotingId = VotingId(5);

    fn same(one: &Snapshot, other: &Snapshot) -> bool {
        format!("{:?}{:?}", one.instances, one.faults) == format!("{:?}{:?}", other.instances, other.faults)
    }

    #[test]
    fn what_was_decoded_before_is_taken_over_only_where_no_byte_has_changed() {
        let mut region = format_region(CLUSTER, FILE, Some(&View::genesis(&[FILE])));
        let first = Snapshot::decode(CLUSTER, FILE, 3, &region);
        assert!(first.faults.is_empty());
        let instance = ThreadId(2);
        let place = Place { cluster: CLUSTER, file: FILE, instance, kind: SectorKind::Heartbeat };
        let head = Head { incarnation: Incarnation(4), sequence: 9, epoch: Epoch(1), ..Head::default() };
        let at = (SECTORS_EACH + SectorKind::Heartbeat as usize - 1) * SECTOR;
        let beat = Heartbeat { standing: Standing::Member, ..Heartbeat::default() };
        region[at..at + SECTOR].copy_from_slice(&beat.encode(&place, &head)[..]);
        let second = Snapshot::decode_after(Some(&first), CLUSTER, FILE, 3, &region);
        assert!(same(&second, &Snapshot::decode(CLUSTER, FILE, 3, &region)));
        assert_eq!(second.instances[1].head(SectorKind::Heartbeat), Some(&head));
        // A flip in what has been whole so far is found, stays found, and its end too.
        for (bit, faults) in [(1, 1), (0, 1), (1, 0)] {
            region[3 * SECTOR + 100] ^= bit;
            let before = second.clone();
            let third = Snapshot::decode_after(Some(&before), CLUSTER, FILE, 3, &region);
            assert_eq!(third.faults.len(), faults);
            assert!(same(&third, &Snapshot::decode(CLUSTER, FILE, 3, &region)));
            assert!(same(&Snapshot::decode_after(Some(&third), CLUSTER, FILE, 3, &region), &third));
        }
        let other = Snapshot::decode_after(Some(&second), CLUSTER, VotingId(6), 3, &region);
        assert_eq!(other.faults.len(), 12, "sectors of another file");
    }
}
