//! Starts I/O: heartbeats, ballots and views out, reads behind them; and the beats over the network.

use std::time::Duration;

use super::files::File;
use super::{Member, Stage};
use crate::base::{Instant, ThreadId};
use crate::membership::ballot;
use crate::membership::heartbeat::{Heartbeat, Standing, head};
use crate::membership::io::{FileTrouble, Output};
use crate::membership::messages::Beat;
use crate::membership::sector::{Head, Place, SECTOR, SectorKind, VotingId};
use crate::membership::view;

impl Member {
    pub(super) fn pump(&mut self, now: Instant, out: &mut Vec<Output>) {
        let due = self.compose(now);
        let ids: Vec<VotingId> = self.files.keys().copied().collect();
        for id in ids {
            if self.is_voter(id) {
                self.write_beat(now, id, out);
                self.write_view(now, id, out);
                self.write_ballot(now, id, out);
            }
            self.start_read(now, id, due, out);
            self.notice_slowness(now, id, out);
        }
    }

    /// Whether this life writes to the file: it has begun to, and the newest view names it.
    fn is_voter(&self, id: VotingId) -> bool {
        self.stage > Stage::Reading && self.incarnation.0 > 0 && self.view.as_ref().is_some_and(|view| view.voting.contains(&id))
    }

    fn standing(&self) -> Standing {
        match self.stage {
            Stage::Reading | Stage::Announcing => Standing::Starting,
            Stage::Joining => Standing::Joining,
            Stage::Member if self.leaving => Standing::Leaving,
            Stage::Member if self.park.is_some() => Standing::Parked,
            Stage::Member => Standing::Member,
            Stage::Gone | Stage::Stopped => Standing::Gone,
        }
    }

    /// The next heartbeat, when it is due or something changed. True when it is time to read, too.
    fn compose(&mut self, now: Instant) -> bool {
        let heartbeat = Heartbeat { standing: self.standing(), hears: self.ears(), host: self.start.host, address: self.address };
        let epoch = self.view.as_ref().map(|view| view.epoch).unwrap_or_default();
        let due = now >= self.beat_due;
        if self.stage == Stage::Gone && (self.beat.standing == Standing::Gone || !self.is_drained()) {
            // The last one of this life: when nothing else is in flight.
            return due;
        }
        if due || heartbeat != self.beat || epoch != self.beat_epoch {
            self.beat = heartbeat;
            self.beat_epoch = epoch;
            self.beat_sequence += 1;
            self.beat_due = now + Duration::from_millis(self.start.options.disk_interval_ms);
        }
        due
    }

    fn head(&self, kind: SectorKind, sequence: u64) -> Head {
        let voting = self.view.as_ref().map_or(&[][..], |view| &view.voting);
        let acked: Vec<(VotingId, u64)> = voting.iter().map(|id| (*id, self.files.get(id).map_or(0, |file| file.acked(kind)))).collect();
        head(self.incarnation, sequence, self.beat_epoch, &acked)
    }

    fn place(&self, file: VotingId, kind: SectorKind) -> Place {
        Place { cluster: self.start.cluster, file, instance: self.start.id, kind }
    }

    fn write(&mut self, now: Instant, id: VotingId, kind: SectorKind, sequence: u64, bytes: Box<[u8; SECTOR]>, out: &mut Vec<Output>) {
        if let Some(file) = self.files.get_mut(&id) {
            file.write_begins(kind, sequence, now);
            out.push(Output::Write { file: id, at: kind.at(self.start.id), kind, sequence, bytes });
        }
    }

    fn write_beat(&mut self, now: Instant, id: VotingId, out: &mut Vec<Output>) {
        let sequence = self.beat_sequence;
        if !self.files.get(&id).is_some_and(|file| file.may_write(SectorKind::Heartbeat) && file.beat_issued < sequence) {
            return;
        }
        let bytes = self.beat.encode(&self.place(id, SectorKind::Heartbeat), &self.head(SectorKind::Heartbeat, sequence));
        self.files.entry(id).and_modify(|file| file.beat_issued = sequence);
        self.write(now, id, SectorKind::Heartbeat, sequence, bytes, out);
    }

    fn write_view(&mut self, now: Instant, id: VotingId, out: &mut Vec<Output>) {
        let sequence = self.view_sequence;
        if self.stage < Stage::Joining || self.stage >= Stage::Gone {
            return;
        }
        if !self.files.get(&id).is_some_and(|file| file.may_write(SectorKind::View) && file.view_issued < sequence) {
            return;
        }
        let place = self.place(id, SectorKind::View);
        let bytes = view::encode_sector(self.view.as_deref(), &place, &self.head(SectorKind::View, sequence));
        self.files.entry(id).and_modify(|file| file.view_issued = sequence);
        self.write(now, id, SectorKind::View, sequence, bytes, out);
    }

    fn write_ballot(&mut self, now: Instant, id: VotingId, out: &mut Vec<Output>) {
        let Some(file) = self.files.get(&id) else { return };
        // The view that was decided before stands on this file first: who meets the block of a later epoch finds there what was decided.
        if !file.may_write(SectorKind::Ballot) || file.acked(SectorKind::View) < self.view_sequence {
            return;
        }
        let Some(block) = self.paxos.to_write(id).cloned() else { return };
        let stamp = self.paxos.write_begins(id);
        let bytes = ballot::encode_sector(&block, &self.place(id, SectorKind::Ballot), &self.head(SectorKind::Ballot, stamp));
        self.write(now, id, SectorKind::Ballot, stamp, bytes, out);
    }

    fn start_read(&mut self, now: Instant, id: VotingId, due: bool, out: &mut Vec<Output>) {
        let voter = self.is_voter(id);
        let paxos = self.paxos.to_read(id);
        if !voter && self.stage > Stage::Reading && self.replacing.is_none_or(|(_, file)| file != id) {
            return;
        }
        let hinted = self.hint.is_some();
        let Some(file) = self.files.get_mut(&id) else { return };
        // A voter is read behind its heartbeat; what isn't written to is read when a heartbeat would be due.
        file.read_wanted |= file.is_beaten() || paxos || hinted || (due && (!voter || file.answered.is_none()));
        if !file.read_wanted || !file.may_read() {
            return;
        }
        self.tickets += 1;
        file.read_begins(self.tickets, now);
        self.paxos.read_begins(id);
        out.push(Output::Read { file: id, ticket: self.tickets });
    }

    fn notice_slowness(&mut self, now: Instant, id: VotingId, out: &mut Vec<Output>) {
        let stuck = self.files.get(&id).map_or(Duration::ZERO, |file: &File| file.stuck(now));
        if stuck >= self.start.options.lease() {
            self.fails(id, FileTrouble::Slow { ms: stuck.as_millis() as u64 }, out);
        }
    }

    /// Beats to everybody who may listen: members, and who moves.
    pub(super) fn send_beats(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.stage < Stage::Joining || self.stage >= Stage::Gone || now < self.net_due {
            return;
        }
        self.net_due = now + Duration::from_millis(self.start.options.network_interval_ms);
        self.net_sequence += 1;
        let beat = Beat {
            incarnation: self.incarnation,
            epoch: self.beat_epoch,
            sequence: self.net_sequence,
            hears: self.beat.hears,
            standing: self.beat.standing,
        };
        let listens = |id: ThreadId, moves: bool| moves || self.view.as_ref().is_some_and(|view| view.member(id).is_some());
        let to = self.peers.values().filter(|peer| listens(peer.id, peer.moves(now, self.fresh)) && peer.standing() != Standing::Gone);
        out.extend(to.map(|peer| Output::Beat { to: peer.id, beat }));
    }
}
