//! When this instance proposes the next view, and what stands in it.

use std::time::Duration;

use super::{Member, Pursuit, Stage};
use crate::base::{Epoch, Instant, ThreadId};
use crate::membership::connectivity::{bit, ids};
use crate::membership::heartbeat::Standing;
use crate::membership::io::Output;
use crate::membership::paxos::Refusal;
use crate::membership::view::{Change, Confirmation, Identity, Method, View};

/// Rounds of back-off double up to this many times.
const DOUBLINGS: u32 = 5;

impl Member {
    pub(super) fn propose(&mut self, now: Instant, _out: &mut Vec<Output>) {
        let Some(view) = self.view.clone() else { return };
        if !self.healthy {
            // Rule 4: nothing is decided on what was seen, or not seen, while the own voting I/O stood still.
            self.needed = None;
            return;
        }
        let Some(rank) = self.rank(now, &view) else {
            self.needed = None;
            return;
        };
        let change = self.change(now, &view);
        let wait = match self.hint {
            // Somebody's ballot is accepted somewhere. Finish it, if nobody does: what may be chosen is taken (Disk Paxos), else this
            // instance's own word stands, even when it changes nothing.
            Some(hint) if hint.0 == view.epoch.0 + 1 => rank + 2,
            Some(_) => return,
            None if change.is_empty() => {
                self.needed = None;
                return;
            }
            None => rank,
        };
        let value = view.next(self.start.id, &change);
        let needed = *self.needed.get_or_insert(now);
        let stagger = Duration::from_millis(self.start.options.stagger_ms);
        if self.paxos.proposing().is_some() || now < needed + stagger * wait || now < self.attempt {
            return;
        }
        match self.paxos.begin(Epoch(view.epoch.0 + 1), &view.voting, value) {
            Ok(()) => {}
            Err(Refusal::Unread | Refusal::Superseded(_)) => self.files.values_mut().for_each(|file| file.read_wanted = true),
        }
    }

    /// Somebody tried a higher ballot: wait a random while, longer each time.
    pub(super) fn collided(&mut self, now: Instant) {
        self.collisions = (self.collisions + 1).min(DOUBLINGS);
        let most = self.start.options.stagger_ms << self.collisions;
        self.attempt = now + Duration::from_millis(self.random.within(self.start.options.stagger_ms..most + 1));
    }

    /// How many would-be proposers come before this one; `None` when it isn't one.
    fn rank(&self, now: Instant, view: &View) -> Option<u32> {
        let before = |ids: &mut dyn Iterator<Item = ThreadId>| ids.filter(|id| *id < self.start.id).count() as u32;
        let alive: Vec<Identity> = view.members.iter().copied().filter(|member| !self.is_dead(now, *member)).collect();
        match self.stage {
            Stage::Member if self.is_on_losing_side(now) => None,
            Stage::Member => {
                let others = alive.iter().filter(|member| self.peers.get(&member.id).is_some_and(|peer| peer.mutual(self.start.id)));
                let stays = |id: ThreadId| self.peers.get(&id).is_none_or(|peer| peer.standing() != Standing::Leaving);
                let mut others = others.map(|member| member.id).filter(|id| stays(*id));
                if self.leaving {
                    // Others see to it; the last one does it itself.
                    return Some(others.count() as u32 * 4);
                }
                Some(before(&mut others))
            }
            // A cold start: nobody of the view lives. The lowest of those that wait forms the next.
            Stage::Joining if alive.is_empty() && !self.leaving => {
                let waiting = self.peers.keys().copied().filter(|id| self.may_join(now, *id, bit(self.start.id)));
                Some(before(&mut waiting.into_iter()))
            }
            _ => None,
        }
    }

    /// What the next view should change.
    fn change(&self, now: Instant, view: &View) -> Change {
        let mut change = Change::default();
        let losers = self.losers(now);
        for member in &view.members {
            let peer = self.peers.get(&member.id);
            let proof = match peer {
                None if member.id == self.start.id => (member.incarnation < self.incarnation).then_some(Method::Successor),
                None => None,
                Some(peer) => peer.proof(member.incarnation),
            };
            let leaving = |heartbeat: Standing| heartbeat == Standing::Leaving;
            if proof.is_some() || self.is_dead(now, *member) || losers.contains(&member.id) || self.is_cut_off(now, *member) {
                change.evict.push((*member, proof.or_else(|| self.confirmations.get(member).copied())));
            } else if (member.id == self.start.id && self.leaving) || peer.is_some_and(|peer| leaving(peer.standing())) {
                change.leave.push(*member);
            }
        }
        for out in &view.unconfirmed {
            let successor = (out.id == self.start.id && out.incarnation < self.incarnation).then_some(Method::Successor);
            let seen = self.peers.get(&out.id).and_then(|peer| peer.proof(out.incarnation));
            if let Some(method) = self.confirmations.get(out).copied().or(seen).or(successor) {
                change.confirm.push(Confirmation { id: out.id, incarnation: out.incarnation, method });
            }
        }
        let stays = |member: &&Identity| !change.evict.iter().any(|(out, _)| out == *member) && !change.leave.contains(member);
        let staying = view.members.iter().filter(stays).fold(0, |bits, member| bits | bit(member.id));
        change.join = self.joiners(now, view, &change, staying);
        change.replace = self.replacing.filter(|(position, file)| {
            let answers = self.files.get(file).is_some_and(|file| !file.lost && file.answered.is_some());
            answers && usize::from(*position) < view.voting.len() && !view.voting.contains(file)
        });
        change
    }

    /// Who may come in, given who stays.
    fn joiners(&self, now: Instant, view: &View, change: &Change, staying: u64) -> Vec<Identity> {
        let mut join = Vec::new();
        // Together with whoever comes in before: all hear each other.
        let mut all = staying;
        let free = |id: ThreadId| {
            let there = view.members.iter().chain(&view.unconfirmed).filter(|identity| identity.id == id);
            let proven = |identity: &Identity| {
                change.evict.iter().any(|(out, proof)| out == identity && proof.is_some())
                    || change.confirm.iter().any(|confirmation| (confirmation.id, confirmation.incarnation) == (id, identity.incarnation))
            };
            there.clone().count() == 0 || there.clone().all(proven)
        };
        if self.stage == Stage::Joining && free(self.start.id) {
            join.push(self.identity());
            all |= bit(self.start.id);
        }
        for peer in self.peers.values() {
            if free(peer.id) && !view.has(Identity::new(peer.id, peer.incarnation)) && self.may_join(now, peer.id, all) {
                join.push(Identity::new(peer.id, peer.incarnation));
                all |= bit(peer.id);
            }
        }
        debug_assert!(ids(all).count() <= 64);
        join
    }

    /// Fences whom the view has evicted: its proposer, while it is a member and lives, else the lowest that does.
    pub(super) fn pursue(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(view) = self.view.clone().filter(|_| self.stage == Stage::Member) else { return };
        let lives = |member: &&Identity| member.id == self.start.id || !self.is_dead(now, **member);
        let coordinator = view.members.iter().filter(lives).find(|member| member.id == view.coordinator);
        let fencer = coordinator.or_else(|| view.members.iter().find(lives));
        if fencer.is_none_or(|fencer| fencer.id != self.start.id) {
            return;
        }
        for whom in view.unconfirmed.iter().filter(|whom| !self.confirmations.contains_key(whom)) {
            let due =
                self.pursuits.get(whom).is_none_or(|pursuit| pursuit.asked < view.epoch || pursuit.again.is_some_and(|again| now >= again));
            if due {
                self.pursuits.insert(*whom, Pursuit { asked: view.epoch, again: None });
                out.push(Output::Fence { id: whom.id, incarnation: whom.incarnation, epoch: view.epoch });
            }
        }
    }
}
