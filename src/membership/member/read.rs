//! What a completed read or write of a voting file means.

use super::files::OWN;
use super::{Member, Stage};
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Instant, ThreadId};
use crate::membership::io::{Event, FileTrouble, Output, StopReason};
use crate::membership::member::peers::Peer;
use crate::membership::paxos::{Block, Step};
use crate::membership::sector::{SectorKind, VotingId};
use crate::membership::survey::Snapshot;
use crate::membership::view::View;

impl Member {
    pub(super) fn read(&mut self, now: Instant, id: VotingId, ticket: u64, result: Result<Vec<u8>, FileTrouble>, out: &mut Vec<Output>) {
        let Some(file) = self.files.get_mut(&id) else { return };
        let Some(reading) = file.read_ended(ticket) else { return };
        let region = match result {
            Ok(region) => region,
            Err(why) => return self.fails(id, why, out),
        };
        let snapshot = Snapshot::decode_after(file.snapshot.as_deref(), self.start.cluster, id, self.start.threads, &region);
        let accepted = match file.believe(&reading, &snapshot) {
            Ok(accepted) => accepted,
            Err(why) => {
                self.fails(id, why, out);
                if let Some(file) = self.files.get_mut(&id) {
                    file.lost = true;
                }
                return;
            }
        };
        match snapshot.faults.first() {
            Some((instance, kind, fault)) => {
                let lease = Duration::from_millis(self.start.options.lease_ms);
                if file.torn(now) >= lease {
                    self.fails(id, FileTrouble::Sector { kind: *kind, instance: *instance, fault: fault.clone() }, out);
                }
            }
            None if file.works() => out.push(Output::Event(Event::FileBack { file: id })),
            None => {}
        }
        self.learn_acknowledged(&snapshot);
        if self.is_displaced(&snapshot, out) {
            return;
        }
        self.see_peers(now, &snapshot);
        // While it is read what the last life left, nothing is believed before a majority has answered (start.rs).
        if self.stage > Stage::Reading
            && let Some(newest) = snapshot.newest()
        {
            self.learn(newest.clone(), out);
        }
        if let Some(blocks) = snapshot.blocks() {
            self.answered(now, id, accepted.round, &blocks, out);
        }
        if let Some(file) = self.files.get_mut(&id) {
            file.snapshot = Some(Arc::new(snapshot));
        }
    }

    /// A file gave a whole answer: everybody's block.
    fn answered(&mut self, now: Instant, id: VotingId, round: Option<Instant>, blocks: &[(ThreadId, Block<View>)], out: &mut Vec<Output>) {
        let known = self.view.as_ref().map(|view| view.epoch).unwrap_or_default();
        let newer = blocks.iter().filter_map(|(_, block)| block.may_follow(known)).max();
        if let Some(file) = self.files.get_mut(&id) {
            file.answered = file.answered.max(round.or(Some(file.answered.unwrap_or(now))));
            // A view without this instance may be decided. No lease from such an answer.
            if newer.is_none() {
                file.round = file.round.max(round);
            }
        }
        if self.stage > Stage::Reading {
            self.hint = self.hint.max(newer);
        }
        match self.paxos.read(id, blocks) {
            Step::Waiting | Step::Phase2 => {}
            Step::Chosen(view) => self.learn(view, out),
            Step::Preempted(_) => self.collided(now),
            Step::Superseded(_) => self.files.values_mut().for_each(|file| file.read_wanted = true),
        }
    }

    /// Writers say which of their writes each file has acknowledged.
    fn learn_acknowledged(&mut self, snapshot: &Snapshot) {
        for (instance, sectors) in (1..).map(ThreadId).zip(&snapshot.instances) {
            for kind in [SectorKind::Ballot, SectorKind::View] {
                let Some(head) = sectors.head(kind) else { continue };
                for (file, sequence) in head.acked.iter().filter(|(_, sequence)| *sequence > 0) {
                    if let Some(file) = self.files.get_mut(file) {
                        file.learn((instance, kind), (head.incarnation, *sequence));
                    }
                }
            }
        }
    }

    /// Somebody else writes as this instance: a newer life, or one that can't be.
    fn is_displaced(&mut self, snapshot: &Snapshot, out: &mut Vec<Output>) -> bool {
        if self.stage == Stage::Reading {
            return false;
        }
        let Some(sectors) = snapshot.instances.get(usize::from(self.start.id.0) - 1) else { return false };
        let newest = OWN.into_iter().filter_map(|kind| sectors.head(kind)).map(|head| head.incarnation).max();
        let beaten = sectors.heartbeat.as_ref().is_some_and(|(head, _)| head.age() > (self.incarnation, self.beat_sequence));
        match newest {
            Some(by) if by > self.incarnation || beaten => {
                self.stop(StopReason::Displaced { by }, out);
                true
            }
            _ => false,
        }
    }

    fn see_peers(&mut self, now: Instant, snapshot: &Snapshot) {
        for (id, sectors) in (1..).map(ThreadId).zip(&snapshot.instances) {
            if id == self.start.id {
                continue;
            }
            let used = sectors.heartbeat.filter(|(head, _)| head.sequence > 0);
            let guard = sectors.guard.filter(|(head, _)| head.sequence > 0);
            if used.is_none() && guard.is_none() {
                continue;
            }
            let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id, &self.start.options));
            if let Some((head, heartbeat)) = used {
                peer.saw(head, heartbeat, now, self.fresh, &self.start.options);
            }
            if let Some((head, record)) = guard
                && peer.guard.as_ref().is_none_or(|(known, _)| head.age() > known.age())
            {
                peer.guard = Some((head, record));
            }
        }
    }

    pub(super) fn written(
        &mut self,
        id: VotingId,
        kind: SectorKind,
        sequence: u64,
        result: Result<(), FileTrouble>,
        out: &mut Vec<Output>,
    ) {
        let who = (self.start.id, self.incarnation);
        let Some(file) = self.files.get_mut(&id) else { return };
        let Some(write) = file.write_ended(kind, sequence) else { return };
        match result {
            Ok(()) => {
                file.durable(who, kind, write);
                if kind == SectorKind::Ballot {
                    self.paxos.written(id, sequence);
                }
            }
            Err(why) if kind == SectorKind::Heartbeat => {
                file.write_fails = true;
                self.fails(id, why, out);
            }
            Err(why) => {
                // Rule 14: what the sector holds is unclear, and may still change. Never written again in this life, and no answer from here
                // on: with the last majority this life ends.
                self.fails(id, FileTrouble::Unclear { what: why.to_string() }, out);
                if let Some(file) = self.files.get_mut(&id) {
                    file.lost = true;
                    file.unclear = true;
                }
                let left = self.voters().filter(|file| !file.unclear).count();
                if self.view.as_ref().is_some_and(|view| left < view.majority()) {
                    self.stop(StopReason::FilesFailed, out);
                }
            }
        }
    }

    pub(super) fn fails(&mut self, id: VotingId, why: FileTrouble, out: &mut Vec<Output>) {
        if self.files.get_mut(&id).is_some_and(|file| file.fails(&why)) {
            out.push(Output::Event(Event::FileFailed { file: id, why }));
        }
    }
}
