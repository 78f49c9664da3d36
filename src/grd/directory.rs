//! The master's side: entries of the resources in the slots that this instance masters.
//!
//! An entry serves its requests strictly in order, one at a time ([`Entry::serve`]): what stands in the way is asked to yield, then the
//! requester gets a grant, or a copy from a holder, whose arrival it confirms. Orders go to [`Orders`]; whoever carries them keeps the order per receiver.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::message::{Ask, Declared, Receiver, Said, Source};
use super::resource::Resource;
use crate::base::{Mode, Scn, ThreadId};

/// What an entry wants said, and to whom.
pub(super) type Orders = Vec<(ThreadId, Resource, Said)>;

/// A request that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Waiting {
    pub(super) from: ThreadId,
    pub(super) mode: Mode,
    pub(super) ask: Ask,
}

/// What the first request waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Serving {
    /// These have to yield.
    Yields(BTreeSet<ThreadId>),
    /// The requester has to confirm a copy from this holder.
    Transfer(ThreadId),
}

/// What a holder has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Holding {
    mode: Mode,
    /// The request that it got this for.
    ask: Ask,
}

/// One resource.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Entry {
    holders: BTreeMap<ThreadId, Holding>,
    /// Who owes the write; an X holder does anyway.
    pub(super) owner: Option<ThreadId>,
    /// The home is older than the copies, and the last owner has yielded: the next grant carries the duty.
    adrift: bool,
    /// Past images, with their versions.
    pub(super) images: BTreeMap<ThreadId, Scn>,
    /// Copies given while the home was older, with their versions.
    pub(super) unaware: BTreeMap<ThreadId, Scn>,
    /// The version of the copies held in S that were sent; 0 when they came from disk.
    version: Scn,
    /// The highest version known durable at home.
    written: Scn,
    queue: VecDeque<Waiting>,
    serving: Option<Serving>,
    /// Somebody waits for the write.
    write_wanted: bool,
    /// Who was told so last.
    told: Option<ThreadId>,
    /// Touched by a dead instance: nothing is granted before its recovery.
    pub(super) parked: bool,
}

impl Entry {
    /// One that nobody has anything of.
    pub(super) fn new(parked: bool) -> Entry {
        Entry { parked, ..Entry::default() }
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_idle(&self) -> bool {
        self.holders.is_empty() && self.images.is_empty() && self.queue.is_empty() && self.serving.is_none() && !self.parked && !self.adrift
    }

    /// Requests that wait, the one being served included.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    fn exclusive(&self) -> Option<ThreadId> {
        self.holders.iter().find(|(_, held)| held.mode == Mode::Exclusive).map(|(id, _)| *id)
    }

    /// Who owes the write.
    fn owing(&self) -> Option<ThreadId> {
        self.exclusive().or(self.owner)
    }

    /// `from` says something. Its orders are added to `orders`.
    pub(super) fn heard(&mut self, resource: Resource, from: ThreadId, said: Said, orders: &mut Orders) {
        match said {
            Said::Request { mode, ask } => self.queue.push_back(Waiting { from, mode, ask }),
            Said::Received { ask, sender, version, unwritten, image } => {
                self.received(resource, (from, ask), sender, version, (unwritten, image), orders);
            }
            Said::Yielded { mode, version, owner, image } => self.yielded(resource, (from, mode), version, (owner, image), orders),
            Said::Release => self.released(from),
            Said::Written { version } => self.was_written(resource, from, version, orders),
            Said::WriteWanted => self.write_wanted(resource, from, orders),
            // What masters say to holders.
            Said::Grant { .. } | Said::Yield { .. } | Said::Notice { .. } | Said::Write | Said::Reinstate => {}
        }
        self.serve(resource, orders);
        self.appoint(resource, orders);
        self.tell_current(resource, orders);
        let owing = self.owing().filter(|owing| self.write_wanted && self.serving.is_none() && self.told != Some(*owing));
        if let Some(owing) = owing {
            self.told = Some(owing);
            orders.push((owing, resource, Said::Write));
        }
    }

    /// Finds an owner for what is adrift and nobody waits for: the last owner gave it up for a change that never was, or obeyed a notification of an earlier master.
    fn appoint(&mut self, resource: Resource, orders: &mut Orders) {
        if !self.adrift || self.serving.is_some() || self.parked {
            return;
        }
        if let Some(holder) = self.unaware.keys().next().copied() {
            // Its copy is as new as any.
            self.unaware.remove(&holder);
            (self.owner, self.adrift) = (Some(holder), false);
            orders.push((holder, resource, Said::Reinstate));
        } else if self.holders.is_empty() {
            self.reinstate(resource, orders);
        }
    }

    /// Where nobody owes the write, the home is current: images and unwritten copies are of no use any more.
    fn tell_current(&mut self, resource: Resource, orders: &mut Orders) {
        if self.owing().is_some() || self.adrift || self.serving.is_some() || self.parked {
            return;
        }
        let lists = [std::mem::take(&mut self.images), std::mem::take(&mut self.unaware)];
        orders.extend(lists.into_iter().flatten().map(|(id, version)| (id, resource, Said::Notice { version })));
    }

    /// Serves requests until one has to wait.
    pub(super) fn serve(&mut self, resource: Resource, orders: &mut Orders) {
        while !self.parked && self.serving.is_none() {
            let Some(first) = self.queue.front().copied() else { return };
            self.tell_current(resource, orders);
            if self.holders.is_empty() && self.adrift {
                self.reinstate(resource, orders);
            }
            match first.mode {
                Mode::None => drop(self.queue.pop_front()),
                Mode::Shared => self.serve_shared(resource, first, orders),
                Mode::Exclusive => self.serve_exclusive(resource, first, orders),
            }
        }
    }

    fn serve_shared(&mut self, resource: Resource, first: Waiting, orders: &mut Orders) {
        if self.holders.contains_key(&first.from) {
            // It has what it asks for: a request from before a view change, or one beside a stronger one.
            return self.grant(resource, first, Source::Own, orders);
        }
        let exclusive = self.exclusive();
        if !resource.has_contents() {
            return match exclusive {
                Some(holder) => self.call_in(resource, [holder], Mode::Shared, orders),
                None => self.grant(resource, first, Source::Own, orders),
            };
        }
        // The owner's copy is as good as any, and says best what is written.
        match exclusive.or(self.owner).or_else(|| self.holders.keys().next().copied()) {
            Some(source) => self.transfer(resource, source, Mode::Shared, first, orders),
            None => self.grant(resource, first, Source::Disk, orders),
        }
    }

    fn serve_exclusive(&mut self, resource: Resource, first: Waiting, orders: &mut Orders) {
        let has_copy = self.holders.contains_key(&first.from);
        let others: Vec<ThreadId> = self.holders.keys().copied().filter(|id| *id != first.from).collect();
        if others.is_empty() {
            let own = has_copy || !resource.has_contents();
            return self.grant(resource, first, if own { Source::Own } else { Source::Disk }, orders);
        }
        if has_copy || !resource.has_contents() {
            return self.call_in(resource, others, Mode::None, orders);
        }
        let source = self.owing().unwrap_or(others[0]);
        match others.len() {
            1 => self.transfer(resource, source, Mode::None, first, orders),
            _ => self.call_in(resource, others.into_iter().filter(|id| *id != source), Mode::None, orders),
        }
    }

    /// The request for which `holder` has what it has.
    fn asked(&self, holder: ThreadId) -> Ask {
        self.holders.get(&holder).map_or(Ask::NONE, |held| held.ask)
    }

    /// Asks `whom` to go down to `to`.
    fn call_in(&mut self, resource: Resource, whom: impl IntoIterator<Item = ThreadId>, to: Mode, orders: &mut Orders) {
        let whom: BTreeSet<ThreadId> = whom.into_iter().collect();
        orders.extend(whom.iter().map(|id| (*id, resource, Said::Yield { of: self.asked(*id), to, receiver: None })));
        self.serving = Some(Serving::Yields(whom));
    }

    /// Lets `source` go down to `to` and send its copy to the first in the queue.
    fn transfer(&mut self, resource: Resource, source: ThreadId, to: Mode, first: Waiting, orders: &mut Orders) {
        let receiver = Some(Receiver { id: first.from, ask: first.ask, mode: first.mode });
        orders.push((source, resource, Said::Yield { of: self.asked(source), to, receiver }));
        self.serving = Some(Serving::Transfer(source));
    }

    fn grant(&mut self, resource: Resource, first: Waiting, source: Source, orders: &mut Orders) {
        self.queue.pop_front();
        let mode = self.holders.get(&first.from).map_or(first.mode, |held| held.mode.max(first.mode));
        self.holders.insert(first.from, Holding { mode, ask: first.ask });
        let unwritten = std::mem::take(&mut self.adrift);
        if unwritten || mode == Mode::Exclusive && resource.has_contents() {
            self.owner = Some(first.from);
        }
        if first.mode == Mode::Shared && source == Source::Disk {
            self.version = Scn(0);
        }
        orders.push((first.from, resource, Said::Grant { mode: first.mode, ask: first.ask, source, unwritten }));
    }

    fn received(
        &mut self,
        resource: Resource,
        (from, ask): (ThreadId, Ask),
        sender: ThreadId,
        version: Scn,
        (unwritten, image): (bool, bool),
        orders: &mut Orders,
    ) {
        // Not necessarily from the one asked last: a holder in S may have sent its copy and evicted its own, and the word of that came first.
        if !self.queue.front().is_some_and(|first| first.from == from && first.ask == ask) {
            return;
        }
        self.serving = None;
        let Some(first) = self.queue.pop_front() else { return };
        // The sender may have written it, and said so, before this arrived.
        let unwritten = unwritten && version > self.written;
        self.images.remove(&from);
        match first.mode {
            Mode::Exclusive => {
                self.holders = BTreeMap::from([(from, Holding { mode: Mode::Exclusive, ask })]);
                self.unaware.clear();
                self.owner = Some(from);
                self.adrift = false;
            }
            Mode::Shared | Mode::None => {
                self.version = version;
                if let Some(held) = self.holders.get_mut(&sender)
                    && std::mem::replace(&mut held.mode, Mode::Shared) == Mode::Exclusive
                {
                    self.owner = Some(sender).filter(|_| unwritten);
                }
                self.holders.insert(from, Holding { mode: Mode::Shared, ask });
                if unwritten {
                    self.unaware.insert(from, version);
                } else {
                    orders.push((from, resource, Said::Notice { version: version.max(self.written) }));
                }
            }
        }
        if image {
            self.keep_image(resource, sender, version, orders);
        }
    }

    /// `holder` has a past image of this version, unless that is known to be of no use.
    fn keep_image(&mut self, resource: Resource, holder: ThreadId, version: Scn, orders: &mut Orders) {
        if version > self.written {
            self.images.insert(holder, version);
        } else {
            orders.push((holder, resource, Said::Notice { version: self.written }));
        }
    }

    /// The newest past image becomes the current copy: nobody has a newer one, and the home is older.
    pub(super) fn reinstate(&mut self, resource: Resource, orders: &mut Orders) {
        self.adrift = false;
        let Some((holder, _)) = self.images.iter().max_by_key(|(_, version)| **version).map(|(id, version)| (*id, *version)) else {
            return;
        };
        self.images.remove(&holder);
        self.holders.insert(holder, Holding { mode: Mode::Exclusive, ask: Ask::NONE });
        self.owner = Some(holder);
        orders.push((holder, resource, Said::Reinstate));
    }

    fn yielded(
        &mut self,
        resource: Resource,
        (from, mode): (ThreadId, Mode),
        version: Scn,
        (owner, image): (bool, bool),
        orders: &mut Orders,
    ) {
        let owes = owner && version > self.written;
        if mode > Mode::None {
            if let Some(held) = self.holders.get_mut(&from) {
                held.mode = mode;
                self.version = version;
                if self.owner == Some(from) || owes {
                    self.owner = Some(from).filter(|_| owes);
                }
            }
        } else {
            self.holders.remove(&from);
            self.unaware.remove(&from);
            if self.owner == Some(from) {
                self.owner = None;
            }
            if image {
                self.adrift |= version > self.written;
                self.keep_image(resource, from, version, orders);
            }
        }
        self.has_answered(from);
    }

    fn released(&mut self, from: ThreadId) {
        self.holders.remove(&from);
        self.unaware.remove(&from);
        if self.owner == Some(from) {
            self.owner = None;
        }
        self.has_answered(from);
    }

    /// Whatever the first request waited for from `holder` won't come, or has.
    fn has_answered(&mut self, holder: ThreadId) {
        let over = match &mut self.serving {
            Some(Serving::Yields(left)) => {
                left.remove(&holder);
                left.is_empty()
            }
            Some(Serving::Transfer(source)) => *source == holder,
            None => false,
        };
        if over {
            self.serving = None;
        }
    }

    fn was_written(&mut self, resource: Resource, from: ThreadId, version: Scn, orders: &mut Orders) {
        self.written = self.written.max(version);
        if self.owner == Some(from) && self.holders.get(&from).is_some_and(|held| held.mode == Mode::Shared) && version >= self.version {
            self.owner = None;
        }
        let written = self.written;
        for list in [&mut self.images, &mut self.unaware] {
            list.retain(|id, version| {
                let still = *version > written;
                if !still {
                    orders.push((*id, resource, Said::Notice { version: written }));
                }
                still
            });
        }
        if self.images.is_empty() && self.unaware.is_empty() {
            self.write_wanted = false;
        }
        if self.told == Some(from) {
            // What is still wanted needs another write.
            self.told = None;
        }
    }

    fn write_wanted(&mut self, resource: Resource, from: ThreadId, orders: &mut Orders) {
        if self.images.contains_key(&from) || self.unaware.contains_key(&from) {
            // Whoever was told may not have had it yet.
            (self.write_wanted, self.told) = (true, None);
        } else {
            // A notice that is under way says it already; this one does no harm.
            orders.push((from, resource, Said::Notice { version: self.written }));
        }
    }

    /// What survivors declared of a resource whose slot has a new master. `doubt`: a dead instance mastered it.
    pub(super) fn rebuilt(resource: Resource, items: &[(ThreadId, Declared)], doubt: bool, orders: &mut Orders) -> Entry {
        let mut entry = Entry::default();
        for (id, item) in items {
            if item.mode > Mode::None {
                entry.holders.insert(*id, Holding { mode: item.mode, ask: item.ask });
            }
            if item.owner {
                entry.owner = Some(*id);
            }
            if item.unwritten {
                entry.unaware.insert(*id, item.version);
            }
            entry.images.extend(item.image.map(|version| (*id, version)));
            entry.version = entry.version.max(item.version);
        }
        let exclusive = entry.exclusive();
        let contradiction = exclusive.is_some() && entry.holders.len() > 1;
        let lost = items.iter().any(|(_, item)| item.lost);
        entry.parked = contradiction || exclusive.is_none() && (doubt || lost);
        let yielding: BTreeSet<ThreadId> = items.iter().filter(|(_, item)| item.yielding).map(|(id, _)| *id).collect();
        if !yielding.is_empty() {
            entry.serving = Some(Serving::Yields(yielding));
        }
        if entry.parked || entry.owing().is_some() {
            return entry;
        }
        entry.adrift = !entry.unaware.is_empty() || items.iter().any(|(_, item)| item.refused);
        entry.appoint(resource, orders);
        // Whoever took over the write else has written, and has gone: the word of that was lost with the old master.
        entry.tell_current(resource, orders);
        entry
    }

    /// `gone` are members no more. `put_out`: nobody knows what they did last.
    pub(super) fn lose(&mut self, resource: Resource, gone: &BTreeSet<ThreadId>, put_out: &BTreeSet<ThreadId>, orders: &mut Orders) {
        let dead = |id: ThreadId| put_out.contains(&id);
        let receiver = self.queue.front().map(|first| first.from);
        let transfer = matches!(self.serving, Some(Serving::Transfer(source)) if dead(source) || receiver.is_some_and(dead));
        self.parked |= self.owing().is_some_and(dead) || transfer || self.adrift && receiver.is_some_and(dead);
        if matches!(self.serving, Some(Serving::Transfer(_))) && receiver.is_some_and(|id| gone.contains(&id)) {
            self.serving = None;
        }
        self.queue.retain(|waiting| !gone.contains(&waiting.from));
        for id in gone {
            self.images.remove(id);
            self.released(*id);
        }
        self.serve(resource, orders);
    }
}
