//! A view change: slots that get another master, and what that one is told of them.
//!
//! The new master asks everybody ([`Message::Declare`]), collects what they have ([`Rebuild`]), builds the entries when all have answered, and
//! serves what was asked meanwhile. What a dead instance may have had is parked (`docs/protocols/cache.md`, "View change").

use std::collections::{BTreeMap, BTreeSet};

use super::directory::{Entry, Orders};
use super::holder::Effects;
use super::message::{Declared, Message};
use super::resource::{Resource, SlotSet};
use super::{Grd, Mastered, Membership, Output};
use crate::base::{Epoch, ThreadId};

/// Slots whose entries are being built.
pub(super) struct Rebuild {
    since: Epoch,
    slots: SlotSet,
    waiting: BTreeSet<ThreadId>,
    items: Vec<(ThreadId, Declared)>,
}

impl Grd {
    /// Enters a view.
    pub(super) fn install(&mut self, view: Membership, out: &mut Vec<Output>, effects: &mut Effects) {
        let old = std::mem::replace(&mut self.view, view);
        let gone: BTreeSet<ThreadId> = old.members.difference(&self.view.members).copied().collect();
        for slot in 0..old.masters.len() {
            if old.masters[slot] != self.view.masters[slot] {
                self.holder.lose_master(slot);
            }
        }
        self.holder.lose_members(&gone, &self.view.put_out, effects);
        self.give_up_slots();
        self.lose_members(&gone, out);
        self.take_slots(&old, out);
        self.introduce(&old, out);
        let (now, later) = std::mem::take(&mut self.early).into_iter().partition(|(_, epoch, _)| *epoch <= self.view.epoch);
        self.early = later;
        let now: Vec<(ThreadId, Epoch, Message)> = now;
        for (from, _, message) in now {
            self.heard(from, message, out, effects);
        }
    }

    /// Forgets the slots that another member masters now.
    fn give_up_slots(&mut self) {
        let (me, masters) = (self.me, self.view.masters.clone());
        self.mastered.retain(|slot, _| masters[*slot] == me);
        self.entries.retain(|resource, _| masters[resource.slot()] == me);
        self.stash.retain(|(_, resource, _)| masters[resource.slot()] == me);
        for rebuild in &mut self.rebuilds {
            for slot in rebuild.slots.clone().iter().filter(|slot| masters[*slot] != me) {
                rebuild.slots.remove(slot);
            }
        }
    }

    /// Takes members that have gone out of what is mastered here.
    fn lose_members(&mut self, gone: &BTreeSet<ThreadId>, out: &mut Vec<Output>) {
        if gone.is_empty() {
            return;
        }
        let put_out = self.view.put_out.clone();
        self.stash.retain(|(from, _, _)| !gone.contains(from));
        let mut resources: Vec<Resource> = self.entries.keys().copied().collect();
        resources.sort_unstable();
        for resource in resources {
            let (mut orders, since) = (Orders::new(), self.mastered.get(&resource.slot()).map_or(Epoch(0), |slot| slot.since));
            if let Some(entry) = self.entries.get_mut(&resource) {
                entry.lose(resource, gone, &put_out, &mut orders);
                if entry.is_idle() {
                    self.entries.remove(&resource);
                }
            }
            self.order(orders, since, out);
        }
        for rebuild in &mut self.rebuilds {
            rebuild.waiting.retain(|id| !gone.contains(id));
            rebuild.items.retain(|(id, _)| !gone.contains(id));
            if !put_out.is_empty() {
                // What it had there, or took there, was not told, or is void.
                rebuild.slots.iter().for_each(|slot| {
                    if let Some(mastered) = self.mastered.get_mut(&slot) {
                        mastered.parked = true;
                    }
                });
            }
        }
        self.finish_rebuilds(out);
    }

    /// Becomes master of the slots that the view gives to this instance, and asks everybody what there is.
    fn take_slots(&mut self, old: &Membership, out: &mut Vec<Output>) {
        let since = self.view.epoch;
        let mut slots = SlotSet::default();
        for slot in 0..self.view.masters.len() {
            if self.view.masters[slot] != self.me || self.mastered.contains_key(&slot) {
                continue;
            }
            let before = old.masters[slot];
            // Who is new doesn't know who had the slot.
            let doubt = self.view.put_out.contains(&before) || before == ThreadId(0) && !self.view.put_out.is_empty();
            self.mastered.insert(slot, Mastered { since, frozen: true, parked: doubt });
            slots.insert(slot);
        }
        if slots.is_empty() {
            return;
        }
        let waiting = self.view.members.clone();
        for id in &waiting {
            self.send(*id, Message::Declare { since, slots: slots.clone(), rebuild: true }, out);
        }
        self.rebuilds.push(Rebuild { since, slots, waiting, items: Vec::new() });
    }

    /// Tells new members which slots this instance has had before.
    fn introduce(&mut self, old: &Membership, out: &mut Vec<Output>) {
        let mut by_since: BTreeMap<Epoch, SlotSet> = BTreeMap::new();
        for (slot, mastered) in self.mastered.iter().filter(|(_, mastered)| mastered.since < self.view.epoch) {
            by_since.entry(mastered.since).or_default().insert(*slot);
        }
        let joined: Vec<ThreadId> = self.view.members.difference(&old.members).copied().filter(|id| *id != self.me).collect();
        for id in joined {
            for (since, slots) in &by_since {
                self.send(id, Message::Declare { since: *since, slots: slots.clone(), rebuild: false }, out);
            }
        }
    }

    /// A part of what `from` has.
    pub(super) fn declared(&mut self, from: ThreadId, since: Epoch, items: Vec<Declared>, last: bool, out: &mut Vec<Output>) {
        let Some(rebuild) = self.rebuilds.iter_mut().find(|rebuild| rebuild.since == since && rebuild.waiting.contains(&from)) else {
            return;
        };
        rebuild.items.extend(items.into_iter().map(|item| (from, item)));
        if last {
            rebuild.waiting.remove(&from);
            self.finish_rebuilds(out);
        }
    }

    fn finish_rebuilds(&mut self, out: &mut Vec<Output>) {
        let (done, left) = std::mem::take(&mut self.rebuilds).into_iter().partition(|rebuild| rebuild.waiting.is_empty());
        self.rebuilds = left;
        let done: Vec<Rebuild> = done;
        for rebuild in done {
            self.thaw(rebuild, out);
        }
    }

    /// Builds the entries and serves what was asked meanwhile.
    fn thaw(&mut self, rebuild: Rebuild, out: &mut Vec<Output>) {
        let Rebuild { since, slots, items, .. } = rebuild;
        let mut by_resource: BTreeMap<Resource, Vec<(ThreadId, Declared)>> = BTreeMap::new();
        for (id, item) in items.into_iter().filter(|(_, item)| slots.has(item.resource.slot())) {
            by_resource.entry(item.resource).or_default().push((id, item));
        }
        for (resource, items) in by_resource {
            let doubt = self.mastered.get(&resource.slot()).is_some_and(|slot| slot.parked);
            let mut orders = Orders::new();
            let entry = Entry::rebuilt(resource, &items, doubt, &mut orders);
            if !entry.is_idle() {
                self.entries.insert(resource, entry);
            }
            self.order(orders, since, out);
        }
        for slot in slots.iter() {
            if let Some(mastered) = self.mastered.get_mut(&slot) {
                mastered.frozen = false;
            }
        }
        let (now, later) = std::mem::take(&mut self.stash).into_iter().partition(|(_, resource, _)| slots.has(resource.slot()));
        self.stash = later;
        let now: Vec<_> = now;
        for (from, resource, said) in now {
            self.heard_as_master(from, resource, since, said, out);
        }
    }
}
