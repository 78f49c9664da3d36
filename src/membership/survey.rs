//! What the voting files say: their sectors decoded, and what follows for a reader. For the state machine, the guard and the commands.

use std::collections::BTreeMap;

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
}

impl Snapshot {
    /// Decodes a read of [`region_bytes`] bytes from [`super::sector::SECTORS_AT`] on.
    pub fn decode(cluster: ClusterId, file: VotingId, threads: u16, region: &[u8]) -> Snapshot {
        let mut snapshot = Snapshot { file, instances: Vec::with_capacity(threads.into()), faults: Vec::new() };
        for instance in (1..=threads).map(ThreadId) {
            let mut sectors = Sectors::default();
            for kind in SectorKind::ALL {
                let at = (usize::from(instance.0 - 1) * SECTORS_EACH + kind as usize - 1) * SECTOR;
                let bytes = region.get(at..at + SECTOR).unwrap_or(&[]);
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
    snapshots: BTreeMap<VotingId, Snapshot>,
}

impl Survey {
    /// Of these reads, one per file.
    pub fn of(snapshots: impl IntoIterator<Item = Snapshot>) -> Survey {
        Survey { snapshots: snapshots.into_iter().map(|snapshot| (snapshot.file, snapshot)).collect() }
    }

    /// The newest view that stands in any file: it is decided, since only decided views are written into view sectors.
    pub fn newest(&self) -> Option<&View> {
        self.snapshots.values().filter_map(Snapshot::newest).max_by_key(|view| view.epoch)
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
    pub fn snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.values()
    }

    fn sectors(&self, id: ThreadId) -> impl Iterator<Item = &Sectors> {
        let at = usize::from(id.0.saturating_sub(1));
        self.snapshots.values().filter_map(move |snapshot| snapshot.instances.get(at))
    }
}
