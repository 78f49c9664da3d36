//! What is known of each other instance: its heartbeats over the network and on the voting files, its guard's word.

use std::net::SocketAddr;
use std::time::Duration;

use crate::base::{Incarnation, Instant, ThreadId};
use crate::membership::connectivity::bit;
use crate::membership::guard::{Child, GuardRecord};
use crate::membership::heartbeat::{Heartbeat, Standing};
use crate::membership::messages::Beat;
use crate::membership::options::Options;
use crate::membership::phi::{Accrual, Tuning};
use crate::membership::sector::Head;

/// Beats in a row after which a peer that wasn't heard counts as heard again: a flapping link doesn't flip at every beat.
const AGAIN: u32 = 2;

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: ThreadId,
    /// Newest life seen, on the voting files or by an authenticated beat.
    pub(super) incarnation: Incarnation,
    /// Newest heartbeat on any voting file.
    pub(super) heartbeat: Option<(Head, Heartbeat)>,
    disk: Accrual,
    net: Accrual,
    /// Changes of the counter seen, of this life.
    changes: u32,
    sequence: u64,
    streak: u32,
    /// Whether it is heard over the network.
    pub(super) heard: bool,
    /// Its guard's record, the newest on any file.
    pub(super) guard: Option<(Head, GuardRecord)>,
    /// Its guard's word over the network: this life ended, drained or not.
    pub(super) died: Option<(Incarnation, bool)>,
    /// Reported as suspected.
    pub(super) reported: bool,
    /// Addresses as reported last.
    pub(super) told: (Incarnation, Option<SocketAddr>, Option<SocketAddr>),
}

impl Peer {
    pub(super) fn new(id: ThreadId, options: &Options) -> Peer {
        let tuning = |interval_ms| Tuning {
            interval: Duration::from_millis(interval_ms),
            floor: Duration::from_millis(options.suspicion_floor_ms),
            ceiling: Duration::from_millis(options.suspicion_ceiling_ms),
            phi: f64::from(options.suspicion_phi),
        };
        Peer {
            id,
            incarnation: Incarnation(0),
            heartbeat: None,
            disk: Accrual::new(tuning(options.disk_interval_ms)),
            net: Accrual::new(tuning(options.network_interval_ms)),
            changes: 0,
            sequence: 0,
            streak: 0,
            heard: false,
            guard: None,
            died: None,
            reported: false,
            told: (Incarnation(0), None, None),
        }
    }

    /// A newer life was seen: what was known of the old one says nothing about it.
    fn reborn(&mut self, incarnation: Incarnation, options: &Options) {
        let fresh = Peer::new(self.id, options);
        *self = Peer { incarnation, guard: self.guard.take(), died: self.died, reported: self.reported, told: self.told, ..fresh };
    }

    /// Its heartbeat sector as read from one file.
    pub(super) fn saw(&mut self, head: Head, heartbeat: Heartbeat, now: Instant, fresh: Instant, options: &Options) {
        if head.incarnation > self.incarnation {
            self.reborn(head.incarnation, options);
        }
        let newer = head.incarnation == self.incarnation && self.heartbeat.as_ref().is_none_or(|(known, _)| head.age() > known.age());
        if newer {
            self.changes += u32::from(self.heartbeat.is_some());
            self.heartbeat = Some((head, heartbeat));
            self.disk.heard(now, fresh);
        }
    }

    /// A beat over the network.
    pub(super) fn beat(&mut self, beat: &Beat, now: Instant, fresh: Instant, options: &Options) {
        if beat.incarnation > self.incarnation {
            self.reborn(beat.incarnation, options);
        }
        if beat.incarnation < self.incarnation || beat.sequence <= self.sequence {
            return;
        }
        self.sequence = beat.sequence;
        self.streak = if self.net.last().is_none() || self.net.is_suspect(now, fresh) { 1 } else { self.streak.saturating_add(1) };
        self.net.heard(now, fresh);
        self.heard |= self.streak >= AGAIN;
    }

    /// Looks whether it is still heard.
    pub(super) fn listen(&mut self, now: Instant, fresh: Instant) {
        self.heard &= !self.net.is_suspect(now, fresh);
    }

    pub(super) fn standing(&self) -> Standing {
        self.heartbeat.as_ref().map_or(Standing::Unused, |(_, heartbeat)| heartbeat.standing)
    }

    /// Whether its voting heartbeat moves. Before it moved once, only for as long as suspicion takes: what lies there may be old.
    pub(super) fn moves(&self, now: Instant, fresh: Instant) -> bool {
        self.heartbeat.is_some() && !self.disk.is_suspect(now, fresh)
    }

    /// Whether its voting heartbeat was seen to move at all: somebody is alive there.
    pub(super) fn moved(&self) -> bool {
        self.changes > 0
    }

    /// Silence on the voting files.
    pub(super) fn disk_silence(&self, now: Instant, fresh: Instant) -> Duration {
        self.disk.silence(now, fresh)
    }

    /// Silent in both ways.
    pub(super) fn is_silent(&self, now: Instant, fresh: Instant) -> bool {
        self.disk.is_suspect(now, fresh) && self.net.is_suspect(now, fresh)
    }

    /// The shorter of both silences.
    pub(super) fn silence(&self, now: Instant, fresh: Instant) -> Duration {
        self.disk.silence(now, fresh).min(self.net.silence(now, fresh))
    }

    /// Whether it and `me` hear each other, by its bitmap and our ears.
    pub(super) fn mutual(&self, me: ThreadId) -> bool {
        self.heard && self.heartbeat.as_ref().is_some_and(|(_, heartbeat)| heartbeat.hears & bit(me) != 0)
    }

    /// What proves that this life is dead and drained: a guard, or a newer life.
    pub(super) fn proof(&self, incarnation: Incarnation) -> Option<crate::membership::view::Method> {
        use crate::membership::view::Method;
        let reported = self.died.is_some_and(|(died, drained)| died == incarnation && drained);
        if reported || self.guard.as_ref().is_some_and(|(_, record)| record.proves(incarnation)) {
            return Some(Method::Guard);
        }
        // Rule 6: a newer life wrote, so the older is proven dead.
        self.heartbeat.as_ref().is_some_and(|(head, _)| head.incarnation > incarnation).then_some(Method::Successor)
    }

    /// Whether this life ended, by its guard's word, drained or not.
    pub(super) fn is_dead(&self, incarnation: Incarnation) -> bool {
        let recorded = self.guard.as_ref().is_some_and(|(_, record)| record.child >= Child::Dead && record.incarnation == incarnation);
        recorded || self.died.is_some_and(|(died, _)| died == incarnation)
    }
}
