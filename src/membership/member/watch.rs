//! Watching the others: who is silent, who lives, which side of a split is best connected.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Member, Stage};
use crate::base::{Instant, ThreadId};
use crate::membership::connectivity::{best_side, bit};
use crate::membership::heartbeat::Standing;
use crate::membership::io::{Event, Output};
use crate::membership::view::Identity;

/// A split of the network among members that live, as this instance sees it.
#[derive(Debug, Default)]
pub(super) struct Split {
    /// Who hears whom, of the members that live.
    hears: BTreeMap<ThreadId, u64>,
    /// Since when that didn't change.
    since: Instant,
    /// The best connected side, as a bitmap.
    pub(super) side: u64,
    /// Since when that isn't everybody.
    broken: Option<Instant>,
}

impl Member {
    pub(super) fn watch(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.tell_addresses(out);
        if self.stage != Stage::Member {
            return;
        }
        self.tell_suspicions(now, out);
        self.weigh_sides(now);
    }

    /// Whether a member is silent, or known to be dead. Only what was seen while the own I/O was well counts (rule 4).
    pub(super) fn is_dead(&self, now: Instant, member: Identity) -> bool {
        if member.id == self.start.id {
            return member.incarnation < self.incarnation;
        }
        let Some(peer) = self.peers.get(&member.id) else {
            // No sector of it was ever seen whole: silent since this instance began to look.
            return self.healthy && now.since(self.fresh) >= Duration::from_millis(self.start.options.suspicion_ceiling_ms);
        };
        peer.incarnation > member.incarnation || peer.is_dead(member.incarnation) || (self.healthy && peer.is_silent(now, self.fresh))
    }

    /// Whether a member that is heard over the network hasn't moved its voting heartbeat for so long that it is out of service.
    pub(super) fn is_cut_off(&self, now: Instant, member: Identity) -> bool {
        let limit = Duration::from_millis(self.start.options.storage_timeout_ms);
        self.healthy && self.peers.get(&member.id).is_some_and(|peer| peer.disk_silence(now, self.fresh) >= limit)
    }

    fn tell_suspicions(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(view) = self.view.clone() else { return };
        let dead: Vec<ThreadId> = view.members.iter().filter(|member| self.is_dead(now, **member)).map(|member| member.id).collect();
        for peer in self.peers.values_mut() {
            let suspect = dead.contains(&peer.id);
            if suspect && !peer.reported {
                let silent_ms = peer.silence(now, self.fresh).as_millis() as u64;
                out.push(Output::Event(Event::Suspected { id: peer.id, silent_ms }));
            } else if !suspect && peer.reported && view.member(peer.id).is_some() {
                out.push(Output::Event(Event::Cleared { id: peer.id }));
            }
            peer.reported = suspect;
        }
    }

    fn tell_addresses(&mut self, out: &mut Vec<Output>) {
        for peer in self.peers.values_mut() {
            let instance = peer.heartbeat.as_ref().and_then(|(_, heartbeat)| heartbeat.address);
            let guard = peer.guard.as_ref().and_then(|(_, record)| record.address);
            let now = (peer.incarnation, instance, guard);
            if now != peer.told && peer.heartbeat.is_some() {
                peer.told = now;
                out.push(Output::Peer { id: peer.id, incarnation: peer.incarnation, instance, guard });
            }
        }
    }

    /// Members whose voting heartbeat moves, with whom they hear, this instance included.
    fn alive(&self, now: Instant) -> BTreeMap<ThreadId, u64> {
        let Some(view) = &self.view else { return BTreeMap::new() };
        let mut alive = BTreeMap::new();
        for member in &view.members {
            if member.id == self.start.id {
                alive.insert(member.id, self.ears());
            } else if let Some(peer) = self.peers.get(&member.id)
                && !self.is_dead(now, *member)
                && (peer.moves(now, self.fresh) || !self.healthy)
                && let Some((_, heartbeat)) = &peer.heartbeat
            {
                alive.insert(member.id, heartbeat.hears);
            }
        }
        alive
    }

    /// Whom this instance hears, itself included.
    pub(super) fn ears(&self) -> u64 {
        self.peers.values().filter(|peer| peer.heard).fold(bit(self.start.id), |bits, peer| bits | bit(peer.id))
    }

    fn weigh_sides(&mut self, now: Instant) {
        let mut hears = self.alive(now);
        let all = hears.keys().fold(0, |bits, id| bits | bit(*id));
        hears.values_mut().for_each(|heard| *heard &= all);
        if hears != self.split.hears {
            self.split.side = best_side(&hears);
            self.split.hears = hears;
            self.split.since = now;
        }
        // A member that just joined may not be heard yet; one that stalls with everybody neither.
        if self.split.side == all || !self.healthy {
            self.split.broken = None;
        } else {
            self.split.broken.get_or_insert(now);
        }
    }

    /// Members that live and belong to another side than the best, once it is clear that the split lasts: who hears whom stood still for
    /// the settling time, or the network flaps for four times as long.
    pub(super) fn losers(&self, now: Instant) -> Vec<ThreadId> {
        let settle = Duration::from_millis(self.start.options.settle_ms);
        let Some(broken) = self.split.broken else { return Vec::new() };
        let lasts = now.since(self.split.since.max(self.fresh)) >= settle || now.since(broken.max(self.fresh)) >= settle * 4;
        if !lasts || !self.healthy {
            return Vec::new();
        }
        self.split.hears.keys().copied().filter(|id| self.split.side & bit(*id) == 0).collect()
    }

    /// Whether another side is better connected: this one stops serving before that one may decide.
    pub(super) fn is_on_losing_side(&self, now: Instant) -> bool {
        let wait = Duration::from_millis(self.start.options.disk_interval_ms);
        self.split.side & bit(self.start.id) == 0 && self.split.broken.is_some_and(|broken| now.since(broken) >= wait)
    }

    /// Whether an instance wants to be a member, lives, and hears and is heard by all of `members` that matter (a bitmap).
    pub(super) fn may_join(&self, now: Instant, id: ThreadId, members: u64) -> bool {
        let Some(peer) = self.peers.get(&id) else { return false };
        let Some((_, heartbeat)) = &peer.heartbeat else { return false };
        let heard_by = |other: &ThreadId| {
            *other == self.start.id
                || self.peers.get(other).and_then(|peer| peer.heartbeat.as_ref()).is_some_and(|(_, theirs)| theirs.hears & bit(id) != 0)
        };
        heartbeat.standing == Standing::Joining
            && peer.moved()
            && peer.moves(now, self.fresh)
            && !peer.is_dead(peer.incarnation)
            && peer.mutual(self.start.id)
            && heartbeat.hears & members == members
            && crate::membership::connectivity::ids(members).all(|other| heard_by(&other))
    }
}
