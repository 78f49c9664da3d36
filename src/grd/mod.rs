//! L7: the global resource directory. Who may read and change which page, across instances (`docs/protocols/cache.md`).
//!
//! ```text
//! resource   what is granted, and its slot          directory  the master's side: entries, queues
//! message    what is said                           holder     the holder's and requester's side
//! remaster   a slot gets another master             session    numbered, acknowledged, sent again
//! wire       bytes                                  mod        one instance: both sides joined
//! ```
//! Sans-I/O: [`Grd::step`] takes what happened and says what to do; it reads no clock, socket or disk. The driver in `node/` carries messages and copies,
//! and joins it to the cache. Deterministic: the same inputs give the same outputs.
//!
//! What it deliberately does not do: decide who is a member (`membership`), hold pages (`cache`), recover what a dead instance had: that is parked.

mod directory;
mod holder;
pub mod message;
mod remaster;
pub mod resource;
pub mod session;
#[cfg(test)]
mod tests;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::base::{Epoch, Mode, Scn, ThreadId};
use directory::{Entry, Orders};
use holder::{Effect, Effects, Holder};
pub use holder::{Verdict, Yielded};
use message::{Ask, Block, Declared, Message, Said, Source};
use remaster::Rebuild;
use resource::{Resource, SLOTS};

/// Most resources in one part of a declaration.
const DECLARED_MAX: usize = 2048;

/// What the directory needs of a view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// Its epoch.
    pub epoch: Epoch,
    /// Who belongs, this instance included.
    pub members: BTreeSet<ThreadId>,
    /// The master of each slot.
    pub masters: Arc<[ThreadId; SLOTS]>,
    /// Members of the view before that were put out, or whose going is in doubt: not those that left.
    pub put_out: BTreeSet<ThreadId>,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A view was installed. Views come in the order of their epochs.
    View(Membership),
    /// The cache wants a resource; `have`: it has a copy under the mode that is held. One request per resource at a time.
    Acquire {
        /// Which.
        resource: Resource,
        /// At least this.
        mode: Mode,
        /// Whether its contents are there.
        have: bool,
    },
    /// The cache has evicted a resource that was clean, written, and not being asked for.
    Released(Resource),
    /// The cache has obeyed [`Output::Yield`]; nothing if it had nothing.
    Yielded(Resource, Option<Yielded>),
    /// The cache has written this, durably.
    Written(Resource, Scn),
    /// The cache can't go on before this is written, which another instance owes.
    WriteWanted(Resource),
    /// A message, each once and in the order in which its sender sent it, with the epoch that its sender was in then.
    Heard(ThreadId, Epoch, Message),
    /// A copy.
    Arrived(ThreadId, Block),
    /// What became of a copy that was sent.
    Judged(Resource, Ask, Verdict),
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this, once and in order, whatever happens to connections; what wasn't sent before a receiver stopped being a member never is.
    Send(ThreadId, Message),
    /// Send the copy that the cache has just handed over, again until there is a verdict.
    Block(ThreadId, Block),
    /// Tell the sender of the copy that has just arrived.
    Verdict(Verdict),
    /// To the cache: it may use this. With [`Source::Copy`]: the copy that has just arrived.
    Granted {
        /// What.
        resource: Resource,
        /// How.
        mode: Mode,
        /// Where its contents are.
        source: Source,
        /// The home is older. In X this instance owes the write.
        unwritten: bool,
    },
    /// To the cache: go down to `to`, then [`Input::Yielded`].
    Yield {
        /// What.
        resource: Resource,
        /// At most this is kept.
        to: Mode,
        /// Whether a copy is needed.
        copy: bool,
    },
    /// To the cache: this version is durable at home.
    Notice(Resource, Scn),
    /// To the cache: write this soon.
    Write(Resource),
    /// To the cache: the past image is the current copy, or this instance owes the write of its copy in S.
    Reinstate(Resource),
}

/// A slot that this instance masters.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mastered {
    since: Epoch,
    /// Entries aren't built yet: what is heard waits.
    frozen: bool,
    /// A dead instance mastered it: what no survivor holds exclusively waits for recovery.
    parked: bool,
}

/// Counts for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GrdStatus {
    /// Slots mastered.
    pub slots: usize,
    /// Entries in them.
    pub entries: usize,
    /// Requests that wait in them.
    pub waiting: usize,
    /// Entries that wait for a dead instance's recovery.
    pub parked: usize,
    /// Resources held in S.
    pub shared: usize,
    /// Resources held in X.
    pub exclusive: usize,
    /// Past images.
    pub images: usize,
    /// Own requests that wait.
    pub asking: usize,
}

/// One instance's part of the directory.
pub struct Grd {
    me: ThreadId,
    view: Membership,
    entries: FxHashMap<Resource, Entry>,
    mastered: BTreeMap<usize, Mastered>,
    rebuilds: Vec<Rebuild>,
    /// Heard of frozen slots.
    stash: Vec<(ThreadId, Resource, Said)>,
    /// Said in an epoch that isn't installed here yet.
    early: Vec<(ThreadId, Epoch, Message)>,
    holder: Holder,
    /// Said by this instance to itself.
    inner: VecDeque<Message>,
}

impl Grd {
    /// Instance `me`, before its first view.
    pub fn new(me: ThreadId) -> Grd {
        let view =
            Membership { epoch: Epoch(0), members: BTreeSet::new(), masters: Arc::new([ThreadId(0); SLOTS]), put_out: BTreeSet::new() };
        Grd {
            me,
            view,
            entries: FxHashMap::default(),
            mastered: BTreeMap::new(),
            rebuilds: Vec::new(),
            stash: Vec::new(),
            early: Vec::new(),
            holder: Holder::default(),
            inner: VecDeque::new(),
        }
    }

    /// How `resource` is held here.
    pub fn mode(&self, resource: Resource) -> Mode {
        self.holder.mode(resource)
    }

    /// How things stand.
    pub fn status(&self) -> GrdStatus {
        let [shared, exclusive, images, asking] = self.holder.counts();
        GrdStatus {
            slots: self.mastered.len(),
            entries: self.entries.len(),
            waiting: self.entries.values().map(Entry::waiting).sum(),
            parked: self.entries.values().filter(|entry| entry.parked).count(),
            shared,
            exclusive,
            images,
            asking,
        }
    }

    /// The epoch that it is in: what it says from now on is said there.
    pub fn epoch(&self) -> Epoch {
        self.view.epoch
    }

    /// Takes what happened and says what to do, in this order.
    pub fn step(&mut self, input: Input, out: &mut Vec<Output>) {
        let mut effects = Effects::new();
        match input {
            Input::View(view) => self.install(view, out, &mut effects),
            Input::Acquire { resource, mode, have } => self.holder.acquire(resource, mode, have, &mut effects),
            Input::Released(resource) => self.holder.released(resource, &mut effects),
            Input::Yielded(resource, result) => self.holder.yielded(resource, result, &mut effects),
            Input::Written(resource, version) => self.holder.written(resource, version, &mut effects),
            Input::WriteWanted(resource) => effects.push(Effect::Say(resource, Said::WriteWanted)),
            // What was said there may rest on who masters what there.
            Input::Heard(from, epoch, message) if epoch > self.view.epoch => self.early.push((from, epoch, message)),
            Input::Heard(from, _, message) => self.heard(from, message, out, &mut effects),
            Input::Arrived(from, block) => {
                let verdict = self.holder.arrived(from, &block, &mut effects);
                out.push(Output::Verdict(verdict));
            }
            Input::Judged(resource, ask, verdict) => self.holder.judged(resource, ask, verdict, &mut effects),
        }
        self.carry_out(effects, out);
        while let Some(message) = self.inner.pop_front() {
            let mut effects = Effects::new();
            self.heard(self.me, message, out, &mut effects);
            self.carry_out(effects, out);
        }
    }

    /// Sends `message`; to itself without a wire.
    fn send(&mut self, to: ThreadId, message: Message, out: &mut Vec<Output>) {
        if to == self.me {
            self.inner.push_back(message);
        } else {
            out.push(Output::Send(to, message));
        }
    }

    fn carry_out(&mut self, effects: Effects, out: &mut Vec<Output>) {
        for effect in effects {
            match effect {
                Effect::Say(resource, said) => self.say_to_master(resource, said, out),
                Effect::Send(to, block) => out.push(Output::Block(to, block)),
                Effect::Granted { resource, mode, source, unwritten } => out.push(Output::Granted { resource, mode, source, unwritten }),
                Effect::Yield { resource, to, copy } => out.push(Output::Yield { resource, to, copy }),
                Effect::Notice { resource, version } => out.push(Output::Notice(resource, version)),
                Effect::Write { resource } => out.push(Output::Write(resource)),
                Effect::Reinstate { resource } => out.push(Output::Reinstate(resource)),
                Effect::Declare { master, since, items } => self.send_declaration(master, since, &items, out),
            }
        }
    }

    fn say_to_master(&mut self, resource: Resource, said: Said, out: &mut Vec<Output>) {
        let slot = resource.slot();
        let since = self.holder.since(slot);
        // Between two masters nothing needs to be said: the next one asks for all that there is.
        if since > Epoch(0) {
            self.send(self.view.masters[slot], Message::Of { resource, since, said }, out);
        }
    }

    fn send_declaration(&mut self, master: ThreadId, since: Epoch, items: &[Declared], out: &mut Vec<Output>) {
        let parts = items.len().div_ceil(DECLARED_MAX).max(1);
        for part in 0..parts {
            let items = items.iter().skip(part * DECLARED_MAX).take(DECLARED_MAX).copied().collect();
            self.send(master, Message::Declaration { since, items, last: part + 1 == parts }, out);
        }
    }

    fn order(&mut self, orders: Orders, since: Epoch, out: &mut Vec<Output>) {
        for (to, resource, said) in orders {
            self.send(to, Message::Of { resource, since, said }, out);
        }
    }

    fn heard(&mut self, from: ThreadId, message: Message, out: &mut Vec<Output>, effects: &mut Effects) {
        if !self.view.members.contains(&from) {
            return;
        }
        match message {
            Message::Of { resource, since, said } => match said {
                Said::Request { .. }
                | Said::Received { .. }
                | Said::Yielded { .. }
                | Said::Release
                | Said::Written { .. }
                | Said::WriteWanted => self.heard_as_master(from, resource, since, said, out),
                Said::Grant { .. } | Said::Yield { .. } | Said::Notice { .. } | Said::Write | Said::Reinstate => {
                    let slot = resource.slot();
                    if self.holder.since(slot) == since && self.view.masters[slot] == from {
                        self.holder.told(resource, said, effects);
                    }
                }
            },
            Message::Declare { since, mut slots, rebuild } => {
                for slot in slots.clone().iter() {
                    // Another view has taken it from the one who asks, who will hear so too.
                    if self.view.masters[slot] != from || self.holder.since(slot) >= since {
                        slots.remove(slot);
                    }
                }
                if rebuild || !slots.is_empty() {
                    self.holder.question(from, since, slots, rebuild, effects);
                }
            }
            Message::Declaration { since, items, last } => self.declared(from, since, items, last, out),
        }
    }

    fn heard_as_master(&mut self, from: ThreadId, resource: Resource, since: Epoch, said: Said, out: &mut Vec<Output>) {
        let Some(slot) = self.mastered.get(&resource.slot()).filter(|slot| slot.since == since) else { return };
        if slot.frozen {
            self.stash.push((from, resource, said));
            return;
        }
        let parked = slot.parked;
        let entry = self.entries.entry(resource).or_insert_with(|| Entry::new(parked));
        let mut orders = Orders::new();
        entry.heard(resource, from, said, &mut orders);
        if entry.is_idle() {
            self.entries.remove(&resource);
        }
        self.order(orders, since, out);
    }
}
