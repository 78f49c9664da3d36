//! The holder's and requester's side: what this instance has, asks for and gives away.
//!
//! One [`Held`] per resource that it has anything of. The masters' words come in by [`Holder::told`], the cache's through the other methods; what must
//! be done goes to [`Effects`]. A mode here is never below what the cache uses: it goes up before the cache hears of a grant, and
//! down after the cache has let go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::message::{Ask, Block, Declared, Receiver, Said, Source};
use super::resource::{Resource, SLOTS, SlotSet};
use crate::base::{Epoch, Mode, Scn, ThreadId};

/// What the holder wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// Said to the master of the resource's slot.
    Say(Resource, Said),
    /// A copy, which the cache has just handed over, to a requester.
    Send(ThreadId, Block),
    /// To the cache: granted.
    Granted { resource: Resource, mode: Mode, source: Source, unwritten: bool },
    /// To the cache: go down to this mode.
    Yield { resource: Resource, to: Mode, copy: bool },
    /// To the cache: durable at home.
    Notice { resource: Resource, version: Scn },
    /// To the cache: somebody waits for this to be written.
    Write { resource: Resource },
    /// To the cache: this instance owes the write of its copy, or its past image is the current copy again.
    Reinstate { resource: Resource },
    /// What this instance has of some slots, to their new master.
    Declare { master: ThreadId, since: Epoch, items: Vec<Declared> },
}

/// What became of a copy, told to its sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Taken, now or when it came before.
    Taken,
    /// Its master is none any more: it was not taken, and won't be.
    Void,
    /// This instance doesn't know of its master yet: send it again.
    Later,
}

pub(super) type Effects = Vec<Effect>;

/// What became of a blocking notification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Yielded {
    /// The version of what was held.
    pub version: Scn,
    /// The home is older, and this instance owes, or owed, the write.
    pub dirty: bool,
    /// A past image is kept.
    pub image: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Asking {
    mode: Mode,
    ask: Ask,
    /// The master has been told.
    said: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Yielding {
    to: Mode,
    receiver: Option<Receiver>,
    /// Since when the master that ordered it has the slot.
    since: Epoch,
}

/// A copy on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sent {
    to: ThreadId,
    ask: Ask,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Unknown,
    /// Its receiver refused it.
    Refused,
    /// Its receiver is no member any more.
    Lost,
}

/// What this instance has of a resource.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Held {
    mode: Mode,
    /// The request that was answered so.
    ask: Ask,
    asking: Option<Asking>,
    /// Notifications in their order; the cache obeys the first one. More than one when the first one's receiver got its copy from elsewhere.
    yields: VecDeque<Yielding>,
    owner: bool,
    /// The copy may be newer than the home, and somebody else owes the write.
    unwritten: bool,
    /// Version of a copy held in S, where it is known.
    version: Scn,
    image: Option<Scn>,
    /// A copy that nobody is known to have taken.
    sent: Option<Sent>,
}

impl Held {
    /// A copy that was refused was the current one only as long as its image is.
    fn forget_refusal(&mut self) {
        self.sent = self.sent.filter(|sent| self.image.is_some() || sent.fate == Fate::Unknown);
    }

    fn is_nothing(&self) -> bool {
        let idle = self.asking.is_none() && self.yields.is_empty() && self.sent.is_none();
        idle && self.mode == Mode::None && self.image.is_none()
    }
}

/// A master's question that waits until copies under way have been judged.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Question {
    master: ThreadId,
    since: Epoch,
    slots: SlotSet,
}

/// All that this instance has.
pub(super) struct Holder {
    /// In order, so that what is declared is the same in every run.
    held: BTreeMap<Resource, Held>,
    /// Since when each slot has the master that this instance has declared to; 0: it hasn't.
    since: Box<[Epoch; SLOTS]>,
    asks: u64,
    questions: Vec<Question>,
    /// Requests that were made to masters of earlier epochs and came to nothing.
    voided: BTreeSet<Ask>,
}

impl Default for Holder {
    fn default() -> Holder {
        Holder { held: BTreeMap::new(), since: Box::new([Epoch(0); SLOTS]), asks: 0, questions: Vec::new(), voided: BTreeSet::new() }
    }
}

impl Holder {
    /// Since when `slot` has the master that this instance deals with.
    pub(super) fn since(&self, slot: usize) -> Epoch {
        self.since[slot]
    }

    /// How `resource` is held.
    pub(super) fn mode(&self, resource: Resource) -> Mode {
        self.held.get(&resource).map_or(Mode::None, |held| held.mode)
    }

    /// Resources held in S, in X, as past images; requests that wait.
    pub(super) fn counts(&self) -> [usize; 4] {
        let count = |test: fn(&Held) -> bool| self.held.values().filter(|held| test(held)).count();
        [
            count(|held| held.mode == Mode::Shared),
            count(|held| held.mode == Mode::Exclusive),
            count(|held| held.image.is_some()),
            count(|held| held.asking.is_some()),
        ]
    }

    fn tidy(&mut self, resource: Resource) {
        if self.held.get(&resource).is_some_and(Held::is_nothing) {
            self.held.remove(&resource);
        }
    }

    /// The cache wants `resource` in `mode`; `have`: it has a copy under the mode that is held.
    pub(super) fn acquire(&mut self, resource: Resource, mode: Mode, have: bool, effects: &mut Effects) {
        self.asks += 1;
        let (ask, has_master) = (Ask(self.asks), self.since[resource.slot()] > Epoch(0));
        let held = self.held.entry(resource).or_default();
        // Evicted while a notification is obeyed: the master hears of that first.
        let said = has_master && (held.mode > Mode::None || held.yields.is_empty());
        if held.mode >= mode && held.yields.is_empty() {
            let source = if have || !resource.has_contents() { Source::Own } else { Source::Disk };
            effects.push(Effect::Granted { resource, mode: held.mode, source, unwritten: held.unwritten });
            return;
        }
        if held.asking.is_some_and(|asking| asking.mode >= mode) {
            return;
        }
        held.asking = Some(Asking { mode, ask, said });
        if said {
            effects.push(Effect::Say(resource, Said::Request { mode, ask }));
        }
    }

    /// The cache has evicted `resource`, which was clean and known to be durable at home.
    pub(super) fn released(&mut self, resource: Resource, effects: &mut Effects) {
        let Some(held) = self.held.get_mut(&resource).filter(|held| held.mode > Mode::None) else { return };
        (held.mode, held.owner, held.unwritten) = (Mode::None, false, false);
        // A notification under way ends first: nothing may be granted again that it could take.
        if held.yields.is_empty() {
            effects.push(Effect::Say(resource, Said::Release));
            self.tidy(resource);
        }
    }

    /// The cache has obeyed a notification; nothing when it had nothing.
    pub(super) fn yielded(&mut self, resource: Resource, result: Option<Yielded>, effects: &mut Effects) {
        let slot = resource.slot();
        let (current, asked) = (self.since[slot], self.questions.iter().any(|question| question.slots.has(slot)));
        let Some(held) = self.held.get_mut(&resource) else { return };
        let Some(Yielding { to, receiver, since }) = held.yields.pop_front() else { return };
        // Ordered by a master of before, which is none any more: a copy would be void. The present one hears what is left, here or by the declaration.
        let (ordered, told) = (since == current, !asked);
        let Some(Yielded { version, dirty, image }) = result else {
            (held.mode, held.owner, held.unwritten) = (Mode::None, false, false);
            held.yields.clear();
            if told {
                effects.push(Effect::Say(resource, Said::Release));
                let asking = held.asking.as_mut().filter(|asking| !asking.said && current > Epoch(0));
                if let Some(asking) = asking {
                    asking.said = true;
                    effects.push(Effect::Say(resource, Said::Request { mode: asking.mode, ask: asking.ask }));
                }
            }
            return self.tidy(resource);
        };
        let unwritten = dirty || held.unwritten;
        held.mode = held.mode.min(to);
        held.version = version;
        if to == Mode::None {
            (held.owner, held.unwritten) = (false, false);
            held.image = Some(version).filter(|_| image);
        } else {
            held.owner = dirty;
        }
        match receiver {
            Some(Receiver { id, ask, mode }) if ordered => {
                held.sent = Some(Sent { to: id, ask, fate: Fate::Unknown });
                effects.push(Effect::Send(id, Block { resource, since, ask, mode, version, unwritten, image }));
            }
            _ => {
                if !ordered && held.image.is_some() {
                    held.sent = Some(Sent { to: ThreadId(0), ask: Ask::NONE, fate: Fate::Refused });
                }
                if told {
                    let said = Said::Yielded { mode: held.mode, version, owner: held.owner, image: held.image.is_some() };
                    effects.push(Effect::Say(resource, said));
                }
            }
        }
        if held.mode == Mode::None {
            // What else was ordered of this grant is answered with that.
            held.yields.clear();
        }
        if let Some(next) = held.yields.front() {
            effects.push(Effect::Yield { resource, to: next.to, copy: next.receiver.is_some() });
        }
        self.tidy(resource);
    }

    /// What became of a copy that was sent.
    pub(super) fn judged(&mut self, resource: Resource, ask: Ask, verdict: Verdict, effects: &mut Effects) {
        let Some(held) = self.held.get_mut(&resource) else { return };
        let Some(sent) = held.sent.as_mut().filter(|sent| sent.ask == ask) else { return };
        match verdict {
            Verdict::Taken => held.sent = None,
            Verdict::Void => {
                sent.fate = Fate::Refused;
                held.forget_refusal();
            }
            Verdict::Later => return,
        }
        self.tidy(resource);
        self.answer(effects);
    }

    /// A copy has come from `sender`. Only with [`Verdict::Taken`] and an effect is it put into the cache.
    pub(super) fn arrived(&mut self, sender: ThreadId, block: &Block, effects: &mut Effects) -> Verdict {
        let Block { resource, since, ask, mode, version, unwritten, image } = *block;
        let current = self.since[resource.slot()];
        if since > current {
            return Verdict::Later;
        }
        if self.voided.contains(&ask) {
            return Verdict::Void;
        }
        let asked = self.held.get_mut(&resource).filter(|held| held.asking.is_some_and(|asking| asking.ask == ask && asking.said));
        // Else it was taken before: a request ends with what answers it, or with its master.
        let Some(held) = asked else { return Verdict::Taken };
        held.asking = None;
        (held.mode, held.ask) = (mode, ask);
        held.owner = mode == Mode::Exclusive;
        held.unwritten = unwritten && mode == Mode::Shared;
        held.version = version;
        // It lives on in the frame, as what holds back the checkpoint.
        held.image = None;
        held.forget_refusal();
        effects.push(Effect::Say(resource, Said::Received { ask, sender, version, unwritten, image }));
        effects.push(Effect::Granted { resource, mode, source: Source::Copy, unwritten });
        Verdict::Taken
    }

    /// These versions are durable at home.
    pub(super) fn written(&mut self, resource: Resource, version: Scn, effects: &mut Effects) {
        if let Some(held) = self.held.get_mut(&resource)
            && held.mode == Mode::Shared
            && version >= held.version
        {
            held.owner = false;
        }
        effects.push(Effect::Say(resource, Said::Written { version }));
    }

    /// The master of its slot says something of `resource`.
    pub(super) fn told(&mut self, resource: Resource, said: Said, effects: &mut Effects) {
        match said {
            Said::Grant { mode, ask, source, unwritten } => self.granted(resource, (mode, ask), source, unwritten, effects),
            Said::Yield { of, to, receiver } => {
                // Else it was evicted, and the master will hear so, or has.
                let since = self.since[resource.slot()];
                let Some(held) = self.held.get_mut(&resource).filter(|held| held.mode > Mode::None && held.ask == of) else { return };
                held.yields.push_back(Yielding { to, receiver, since });
                if held.yields.len() == 1 {
                    effects.push(Effect::Yield { resource, to, copy: receiver.is_some() });
                }
            }
            Said::Notice { version } => {
                if let Some(held) = self.held.get_mut(&resource) {
                    held.image = held.image.filter(|image| *image > version);
                    held.forget_refusal();
                    held.unwritten &= version < held.version;
                    self.tidy(resource);
                }
                effects.push(Effect::Notice { resource, version });
            }
            Said::Write => effects.push(Effect::Write { resource }),
            Said::Reinstate => {
                let Some(held) = self.held.get_mut(&resource) else { return };
                if held.image.take().is_some() {
                    (held.mode, held.ask) = (Mode::Exclusive, Ask::NONE);
                }
                held.forget_refusal();
                (held.owner, held.unwritten) = (true, false);
                effects.push(Effect::Reinstate { resource });
            }
            // What holders say to masters.
            Said::Request { .. }
            | Said::Received { .. }
            | Said::Yielded { .. }
            | Said::Release
            | Said::Written { .. }
            | Said::WriteWanted => {}
        }
    }

    fn granted(&mut self, resource: Resource, (mode, ask): (Mode, Ask), source: Source, unwritten: bool, effects: &mut Effects) {
        let Some(held) = self.held.get_mut(&resource) else { return };
        if held.asking.is_none_or(|asking| asking.ask != ask) {
            if held.ask == ask && held.mode > Mode::None && source == Source::Disk && std::mem::take(&mut held.unwritten) {
                // A copy came first, from a holder that then evicted its own: that was written by then, and the master doesn't know of this one.
                effects.push(Effect::Notice { resource, version: held.version });
            }
            return;
        }
        held.asking = None;
        (held.mode, held.ask) = (held.mode.max(mode), ask);
        held.owner |= held.mode == Mode::Exclusive && resource.has_contents();
        held.unwritten &= held.mode == Mode::Shared && source == Source::Own;
        if source == Source::Disk {
            held.version = Scn(0);
        }
        effects.push(Effect::Granted { resource, mode: held.mode, source, unwritten });
    }

    /// A master has these slots since then. `rebuild`: it wants to hear what this instance has there.
    pub(super) fn question(&mut self, master: ThreadId, since: Epoch, slots: SlotSet, rebuild: bool, effects: &mut Effects) {
        for slot in slots.iter() {
            self.since[slot] = since;
        }
        if rebuild {
            self.questions.push(Question { master, since, slots });
            self.answer(effects);
        } else {
            self.ask_again(&slots, effects);
        }
    }

    /// `slot` has another master now, who hasn't said so yet: requests wait for that.
    pub(super) fn lose_master(&mut self, slot: usize) {
        self.since[slot] = Epoch(0);
        self.questions.iter_mut().for_each(|question| question.slots.remove(slot));
        for (_, held) in self.held.iter_mut().filter(|(resource, _)| resource.slot() == slot) {
            if let Some(asking) = held.asking.as_mut().filter(|asking| asking.said) {
                self.voided.insert(asking.ask);
                asking.said = false;
            }
        }
    }

    /// These are no members any more. Whoever left had no request any more: what was sent to it, it took. Of those put out nobody knows.
    pub(super) fn lose_members(&mut self, gone: &BTreeSet<ThreadId>, put_out: &BTreeSet<ThreadId>, effects: &mut Effects) {
        let resources: Vec<Resource> = self.held.iter().filter(|(_, held)| held.sent.is_some()).map(|(resource, _)| *resource).collect();
        for resource in resources {
            let Some(held) = self.held.get_mut(&resource) else { continue };
            if let Some(sent) = held.sent.as_mut().filter(|sent| gone.contains(&sent.to) && sent.fate == Fate::Unknown) {
                if put_out.contains(&sent.to) {
                    sent.fate = Fate::Lost;
                } else {
                    held.sent = None;
                    self.tidy(resource);
                }
            }
        }
        self.questions.retain(|question| !gone.contains(&question.master));
        self.answer(effects);
    }

    /// Answers questions whose slots have no copy under way any more. A notification under way is not waited for: it may wait for an operation that holds its page
    /// while it waits for one of these very slots; when it is obeyed, the new master is told.
    fn answer(&mut self, effects: &mut Effects) {
        for question in std::mem::take(&mut self.questions) {
            let under_way = |held: &Held| held.sent.is_some_and(|sent| sent.fate == Fate::Unknown);
            if self.held.iter().any(|(resource, held)| question.slots.has(resource.slot()) && under_way(held)) {
                self.questions.push(question);
                continue;
            }
            let items = self.declare(&question.slots);
            effects.push(Effect::Declare { master: question.master, since: question.since, items });
            self.ask_again(&question.slots, effects);
        }
    }

    /// What there is of `slots`; no copy is under way there.
    fn declare(&mut self, slots: &SlotSet) -> Vec<Declared> {
        let mut items = Vec::new();
        for (resource, held) in self.held.iter_mut().filter(|(resource, _)| slots.has(resource.slot())) {
            // Kept until it is reinstated, written or granted anew: this master, too, may lose the slot before it does anything about it.
            let fate = held.sent.map(|sent| sent.fate);
            let (Held { mode, ask, owner, unwritten, version, image, .. }, yielding) = (&*held, !held.yields.is_empty());
            let (mode, ask, owner, unwritten, version, image) = (*mode, *ask, *owner, *unwritten, *version, *image);
            let (refused, lost) = (fate == Some(Fate::Refused) && image.is_some(), fate == Some(Fate::Lost));
            if mode > Mode::None || yielding || image.is_some() || lost {
                items.push(Declared { resource: *resource, mode, ask, owner, unwritten, version, image, yielding, refused, lost });
            }
        }
        self.held.retain(|_, held| !held.is_nothing());
        items
    }

    /// Makes requests that had no master to go to.
    fn ask_again(&mut self, slots: &SlotSet, effects: &mut Effects) {
        for (resource, held) in self.held.iter_mut().filter(|(resource, _)| slots.has(resource.slot())) {
            if let Some(asking) = held.asking.as_mut().filter(|asking| !asking.said) {
                self.asks += 1;
                (asking.ask, asking.said) = (Ask(self.asks), true);
                effects.push(Effect::Say(*resource, Said::Request { mode: asking.mode, ask: asking.ask }));
            }
        }
    }
}
