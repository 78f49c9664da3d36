//! A simulated cluster around [`Grd`]: caches that know only modes and versions, a disk, links that keep the order per pair and nothing else.
//!
//! Every step of the world is followed by a look at all instances together ([`World::check`]): the proof obligations of `docs/protocols/cache.md`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::base::{Epoch, Mode, PageId, Random, Scn, ThreadId};
use crate::grd::message::{Block, Message, Source};
use crate::grd::resource::{Resource, SLOTS};
use crate::grd::{Grd, Input, Membership, Output, Verdict, Yielded};

/// A page in a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) mode: Mode,
    pub(super) version: u64,
    /// This instance owes the write.
    pub(super) duty: bool,
    /// The home may be older, and somebody else owes the write.
    pub(super) unwritten: bool,
    /// A past image: mode N, version kept.
    pub(super) image: bool,
    /// A version on its way home.
    pub(super) writing: Option<u64>,
}

/// What the cache has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Asked(Mode),
    /// Granted; to be read from disk.
    Reading(Mode),
}

#[derive(Default)]
pub(super) struct Node {
    pub(super) grd: Option<Grd>,
    pub(super) frames: BTreeMap<Resource, Frame>,
    loads: BTreeMap<Resource, Load>,
    yields: Vec<(Resource, Mode, bool)>,
    /// Pages that a patient operation holds while it waits for a higher one.
    holds: Vec<(Resource, Resource)>,
    /// Views that it has yet to install.
    views: VecDeque<Membership>,
    pub(super) leaving: bool,
}

/// A copy on its way, sent again until there is a verdict.
#[derive(Clone, Copy)]
struct Flight {
    from: ThreadId,
    to: ThreadId,
    block: Block,
}

#[derive(Default, Debug, Clone, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) transfers: u64,
    pub(super) again: u64,
    pub(super) voids: u64,
    pub(super) later: u64,
    pub(super) images: u64,
    pub(super) notices: u64,
    pub(super) reinstated: u64,
    pub(super) crossings: u64,
    pub(super) upgrades: u64,
    pub(super) views: u64,
    pub(super) changes: u64,
    pub(super) parked: u64,
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) nodes: BTreeMap<ThreadId, Node>,
    links: BTreeMap<(ThreadId, ThreadId), VecDeque<(Epoch, Message)>>,
    /// Pairs whose messages don't get through at present.
    stalled: BTreeSet<(ThreadId, ThreadId)>,
    flights: Vec<Flight>,
    pub(super) disk: BTreeMap<Resource, u64>,
    /// The newest version of each page that exists anywhere among the living, or did before a death.
    pub(super) latest: BTreeMap<Resource, u64>,
    clock: u64,
    pub(super) view: Membership,
    pub(super) resources: Vec<Resource>,
    pub(super) counts: Counts,
    pub(super) trace: Vec<String>,
    /// Changes that only a dead instance had: their pages may be parked.
    pub(super) deaths: u64,
}

fn masters(members: &BTreeSet<ThreadId>, old: &[ThreadId; SLOTS]) -> Arc<[ThreadId; SLOTS]> {
    // Every slot of one who has gone moves; who is new gets every so manieth.
    let list: Vec<ThreadId> = members.iter().copied().collect();
    let mut table = *old;
    for (slot, master) in table.iter_mut().enumerate() {
        let new = list[slot % list.len()];
        if !members.contains(master) || !old.contains(&new) && slot % 3 == 0 {
            *master = new;
        }
    }
    Arc::new(table)
}

impl World {
    pub(super) fn new(seed: u64, members: u16, pages: u64) -> World {
        let resources = (0..pages).map(|index| Resource::Page(PageId::new(0, index * 16))).collect();
        let view =
            Membership { epoch: Epoch(0), members: BTreeSet::new(), masters: Arc::new([ThreadId(0); SLOTS]), put_out: BTreeSet::new() };
        let mut world = World {
            random: Random::new(seed),
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            stalled: BTreeSet::new(),
            flights: Vec::new(),
            disk: BTreeMap::new(),
            latest: BTreeMap::new(),
            clock: 0,
            view,
            resources,
            counts: Counts::default(),
            trace: Vec::new(),
            deaths: 0,
        };
        let all: BTreeSet<ThreadId> = (1..=members).map(ThreadId).collect();
        world.change_view(all, BTreeSet::new());
        world
    }

    fn say(&mut self, text: impl FnOnce() -> String) {
        self.trace.push(text());
        if self.trace.len() > 400 {
            self.trace.drain(..200);
        }
    }

    /// The next view: installed by each member at a moment of its own.
    pub(super) fn change_view(&mut self, members: BTreeSet<ThreadId>, put_out: BTreeSet<ThreadId>) {
        let epoch = Epoch(self.view.epoch.0 + 1);
        let masters = masters(&members, &self.view.masters);
        self.view = Membership { epoch, members: members.clone(), masters, put_out };
        self.counts.views += 1;
        self.say(|| format!("view {epoch} {members:?}"));
        for id in members {
            let node = self.nodes.entry(id).or_default();
            node.grd.get_or_insert_with(|| Grd::new(id));
            node.views.push_back(self.view.clone());
        }
    }

    /// `id` is gone, with all that only it had.
    pub(super) fn kill(&mut self, id: ThreadId) {
        self.say(|| format!("{id} dies"));
        self.nodes.remove(&id);
        self.deaths += 1;
        self.links.retain(|(_, to), _| *to != id);
        self.flights.retain(|flight| flight.to != id && flight.from != id);
        let members = self.view.members.iter().copied().filter(|member| *member != id).collect();
        self.change_view(members, BTreeSet::from([id]));
    }

    /// `id`, which has nothing any more and whom nobody owes a word, leaves.
    pub(super) fn leave(&mut self, id: ThreadId) {
        self.nodes.remove(&id);
        self.links.retain(|(from, to), _| *to != id && *from != id);
        self.flights.retain(|flight| flight.to != id);
        let members = self.view.members.iter().copied().filter(|member| *member != id).collect();
        self.change_view(members, BTreeSet::new());
    }

    pub(super) fn is_quit(&self, id: ThreadId) -> bool {
        let node = &self.nodes[&id];
        let said = self.links.iter().any(|((from, to), queue)| (*from == id || *to == id) && !queue.is_empty());
        let idle = node.views.is_empty() && node.loads.is_empty() && node.yields.is_empty();
        // What it took may still be under way in the eyes of who sent it.
        idle && !said && node.frames.is_empty() && !self.flights.iter().any(|flight| flight.from == id)
    }

    fn input(&mut self, id: ThreadId, input: Input) -> Option<Verdict> {
        self.say(|| format!("{id} <- {input:?}"));
        let copied = match &input {
            Input::Arrived(_, block) => Some(*block),
            _ => None,
        };
        let mut out = Vec::new();
        let grd = self.nodes.get_mut(&id).and_then(|node| node.grd.as_mut()).expect("a living instance");
        grd.step(input, &mut out);
        let epoch = grd.epoch();
        let mut verdict = None;
        for output in out {
            match output {
                Output::Verdict(said) => verdict = Some(said),
                other => self.output((id, epoch), other, copied),
            }
        }
        verdict
    }

    fn output(&mut self, (id, epoch): (ThreadId, Epoch), output: Output, copied: Option<Block>) {
        self.say(|| format!("    {id} -> {output:?}"));
        let node = self.nodes.get_mut(&id).expect("a living instance");
        match output {
            Output::Send(to, message) => {
                if self.nodes.contains_key(&to) {
                    self.links.entry((id, to)).or_default().push_back((epoch, message));
                }
            }
            Output::Block(to, block) => {
                self.counts.transfers += 1;
                if self.nodes.contains_key(&to) {
                    self.flights.push(Flight { from: id, to, block });
                }
            }
            Output::Verdict(_) => {}
            Output::Granted { resource, mode, source, unwritten } => self.granted(id, resource, (mode, source, unwritten), copied),
            Output::Yield { resource, to, copy } => node.yields.push((resource, to, copy)),
            Output::Notice(resource, version) => {
                self.counts.notices += 1;
                let disk = self.disk.get(&resource).copied().unwrap_or(0);
                assert!(version.0 <= disk, "{id} is told that version {} of {resource} is durable, the home has {disk}", version.0);
                let Some(frame) = node.frames.get_mut(&resource).filter(|frame| frame.version <= version.0) else { return };
                frame.unwritten = false;
                if frame.image {
                    node.frames.remove(&resource);
                }
            }
            Output::Write(resource) => {
                let frame = node.frames.get(&resource).copied().unwrap_or_default();
                if frame.mode > Mode::None && !frame.duty && !frame.unwritten && frame.version > 0 {
                    // Clean: written before.
                    self.input(id, Input::Written(resource, Scn(frame.version)));
                }
            }
            Output::Reinstate(resource) => {
                self.counts.reinstated += 1;
                let frame = node.frames.get_mut(&resource).expect("a frame to reinstate");
                if frame.image {
                    frame.mode = Mode::Exclusive;
                }
                (frame.image, frame.duty, frame.unwritten) = (false, true, false);
            }
        }
    }

    fn granted(&mut self, id: ThreadId, resource: Resource, grant: (Mode, Source, bool), copied: Option<Block>) {
        let (mode, source, unwritten) = grant;
        let latest = self.latest.get(&resource).copied().unwrap_or(0);
        let node = self.nodes.get_mut(&id).expect("a living instance");
        let frame = node.frames.entry(resource).or_default();
        assert!(matches!(node.loads.get(&resource), Some(Load::Asked(_))), "{id} was granted {resource} unasked");
        let version = match source {
            Source::Disk => {
                assert!(!frame.duty && !frame.image && frame.mode == Mode::None, "{id} reads {resource} from disk over {frame:?}");
                node.loads.insert(resource, Load::Reading(mode));
                return;
            }
            Source::Own => {
                assert!(frame.mode > Mode::None, "{id} upgrades {resource} from {frame:?}");
                self.counts.upgrades += 1;
                frame.version
            }
            Source::Copy => copied.expect("a copy has come").version.0,
        };
        assert_eq!(version, latest, "{id} got an old version of {resource}");
        // A past image that comes back keeps its log position: so its frame stays as it was for the checkpoint, which is not modelled.
        let owes = mode == Mode::Exclusive && (unwritten || frame.duty);
        *frame = Frame {
            mode,
            version,
            duty: owes || frame.duty && mode == Mode::Shared && source == Source::Own,
            unwritten: unwritten && mode == Mode::Shared,
            image: false,
            writing: frame.writing,
        };
        node.loads.remove(&resource);
    }

    /// One thing happens, chosen by `choice` among what can.
    pub(super) fn happen(&mut self, work: bool) {
        let ids: Vec<ThreadId> = self.nodes.keys().copied().collect();
        if !work {
            self.stalled.clear();
        } else if self.random.chance(0.02) {
            let pair = (*self.random.pick(&ids), *self.random.pick(&ids));
            if !self.stalled.remove(&pair) {
                self.stalled.insert(pair);
            }
        }
        match self.random.below(if work { 10 } else { 7 }) {
            0 | 1 => self.deliver(),
            2 => self.fly(),
            3 => {
                let id = *self.random.pick(&ids);
                self.finish_yield(id);
            }
            4 => {
                let id = *self.random.pick(&ids);
                self.write(id, !work);
            }
            5 => {
                let id = *self.random.pick(&ids);
                self.finish_read(id);
            }
            6 => {
                let id = *self.random.pick(&ids);
                if let Some(view) = self.nodes.get_mut(&id).and_then(|node| node.views.pop_front()) {
                    self.input(id, Input::View(view));
                }
            }
            _ => {
                let (id, resource) = (*self.random.pick(&ids), *self.random.pick(&self.resources.clone()));
                if !self.nodes[&id].leaving {
                    self.use_page(id, resource);
                }
            }
        }
        self.check();
    }

    fn deliver(&mut self) {
        let waiting = self.links.iter().filter(|(pair, queue)| !queue.is_empty() && !self.stalled.contains(pair));
        let pairs: Vec<(ThreadId, ThreadId)> = waiting.map(|(pair, _)| *pair).collect();
        if pairs.is_empty() {
            return;
        }
        let (from, to) = *self.random.pick(&pairs);
        let (epoch, message) = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front).expect("it isn't empty");
        if self.nodes.contains_key(&to) {
            self.input(to, Input::Heard(from, epoch, message));
        }
    }

    fn fly(&mut self) {
        if self.flights.is_empty() {
            return;
        }
        let at = self.random.index(self.flights.len());
        let flight = self.flights[at];
        let Some(verdict) =
            self.nodes.contains_key(&flight.to).then(|| self.input(flight.to, Input::Arrived(flight.from, flight.block))).flatten()
        else {
            self.flights.swap_remove(at);
            return;
        };
        match verdict {
            Verdict::Later => self.counts.later += 1,
            Verdict::Void => self.counts.voids += 1,
            Verdict::Taken => {}
        }
        // The verdict may be lost: then it is sent again.
        if verdict == Verdict::Later || self.random.chance(0.2) {
            self.counts.again += 1;
            return;
        }
        self.flights.swap_remove(at);
        if self.nodes.contains_key(&flight.from) {
            self.input(flight.from, Input::Judged(flight.block.resource, flight.block.ask, verdict));
        }
    }

    fn finish_yield(&mut self, id: ThreadId) {
        let node = self.nodes.get_mut(&id).expect("a living instance");
        if node.yields.is_empty() {
            return;
        }
        let at = self.random.index(node.yields.len());
        let (resource, to, copy) = node.yields[at];
        // A load whose grant was given ends first; a write in flight, too, before the duty moves.
        if matches!(node.loads.get(&resource), Some(Load::Reading(_))) {
            return;
        }
        let loads = &node.loads;
        node.holds.retain(|(_, wanted)| loads.contains_key(wanted));
        let frame = node.frames.get(&resource).copied().filter(|frame| frame.mode > Mode::None);
        if frame.is_some_and(|frame| frame.mode > to) && node.holds.iter().any(|(held, _)| *held == resource) {
            return;
        }
        if to == Mode::None && frame.is_some_and(|frame| frame.writing.is_some()) {
            return;
        }
        node.yields.swap_remove(at);
        let result = frame.map(|mut frame| {
            assert!(!copy || frame.version > 0 || self.latest.get(&resource).copied().unwrap_or(0) == 0);
            let yielded = Yielded { version: Scn(frame.version), dirty: frame.duty, image: frame.duty && to == Mode::None };
            frame.mode = frame.mode.min(to);
            if to == Mode::None {
                (frame.image, frame.duty, frame.unwritten) = (frame.duty, false, false);
            }
            if frame.mode == Mode::None && !frame.image {
                node.frames.remove(&resource);
            } else {
                node.frames.insert(resource, frame);
            }
            yielded
        });
        if result.is_none() {
            self.counts.crossings += 1;
        }
        self.counts.images += u64::from(result.is_some_and(|result| result.image));
        self.input(id, Input::Yielded(resource, result));
    }

    fn finish_read(&mut self, id: ThreadId) {
        let node = self.nodes.get_mut(&id).expect("a living instance");
        let reading: Vec<(Resource, Mode)> = node
            .loads
            .iter()
            .filter_map(|(resource, load)| match load {
                Load::Reading(mode) => Some((*resource, *mode)),
                Load::Asked(_) => None,
            })
            .collect();
        if reading.is_empty() {
            return;
        }
        let (resource, mode) = *self.random.pick(&reading);
        let version = self.disk.get(&resource).copied().unwrap_or(0);
        assert_eq!(version, self.latest.get(&resource).copied().unwrap_or(0), "{id} reads an old version of {resource} from disk");
        node.frames.insert(resource, Frame { mode, version, ..Frame::default() });
        node.loads.remove(&resource);
    }

    /// Writes home what is owed, in two steps; evicts what may go; asks for what is wanted.
    fn write(&mut self, id: ThreadId, all: bool) {
        let node = self.nodes.get_mut(&id).expect("a living instance");
        let resources: Vec<Resource> = node.frames.keys().copied().collect();
        if resources.is_empty() {
            return;
        }
        let resource = *self.random.pick(&resources);
        let frame = node.frames.get_mut(&resource).expect("just listed");
        if let Some(version) = frame.writing {
            frame.writing = None;
            frame.duty &= frame.version != version;
            let home = self.disk.entry(resource).or_default();
            assert!(*home <= version, "{id} writes version {version} of {resource} over {home}");
            *home = version;
            self.input(id, Input::Written(resource, Scn(version)));
        } else if frame.duty && frame.mode > Mode::None && (all || self.random.chance(0.4)) {
            frame.writing = Some(frame.version);
        } else if frame.image || frame.unwritten {
            if all || self.random.chance(0.3) {
                self.input(id, Input::WriteWanted(resource));
            }
        } else if !frame.duty && frame.mode > Mode::None && !node.loads.contains_key(&resource) && (node.leaving || self.random.chance(0.3))
        {
            node.frames.remove(&resource);
            self.input(id, Input::Released(resource));
        }
    }

    fn use_page(&mut self, id: ThreadId, resource: Resource) {
        let mode = if self.random.chance(0.5) { Mode::Shared } else { Mode::Exclusive };
        let patient = self.random.chance(0.3);
        let node = self.nodes.get_mut(&id).expect("a living instance");
        if node.loads.contains_key(&resource) {
            return;
        }
        let frame = node.frames.get(&resource).copied().unwrap_or_default();
        if frame.mode < mode {
            node.loads.insert(resource, Load::Asked(mode));
            let lower = node.frames.iter().find(|(other, frame)| **other < resource && frame.mode > Mode::None).map(|(other, _)| *other);
            node.holds.extend(lower.filter(|_| patient).map(|lower| (lower, resource)));
            self.input(id, Input::Acquire { resource, mode, have: frame.mode > Mode::None });
            return;
        }
        let latest = self.latest.get(&resource).copied().unwrap_or(0);
        assert_eq!(frame.version, latest, "{id} uses an old version of {resource}");
        if mode == Mode::Exclusive {
            self.clock += 1;
            self.counts.changes += 1;
            let node = self.nodes.get_mut(&id).expect("a living instance");
            let frame = node.frames.get_mut(&resource).expect("it is held");
            (frame.version, frame.duty) = (self.clock, true);
            self.latest.insert(resource, self.clock);
        }
    }

    /// The obligations, over all instances together.
    fn check(&mut self) {
        for resource in &self.resources {
            let (mut exclusive, mut shared, mut writers, mut newest) = (0, 0, 0, 0);
            let latest = self.latest.get(resource).copied().unwrap_or(0);
            for (id, node) in &self.nodes {
                let grd = node.grd.as_ref().expect("it lives");
                let Some(frame) = node.frames.get(resource) else { continue };
                assert!(
                    frame.mode <= grd.mode(*resource),
                    "{id} uses {resource} in {:?}, granted is {:?}",
                    frame.mode,
                    grd.mode(*resource)
                );
                exclusive += u32::from(frame.mode == Mode::Exclusive);
                shared += u32::from(frame.mode == Mode::Shared);
                writers += u32::from(frame.writing.is_some());
                newest = newest.max(frame.version);
            }
            assert!(exclusive <= 1 && (exclusive == 0 || shared == 0), "{resource}: {exclusive} X and {shared} S holders");
            assert!(writers <= 1, "{resource} is written home by {writers} at once");
            if self.deaths == 0 {
                let home = self.disk.get(resource).copied().unwrap_or(0);
                assert_eq!(newest.max(home), latest, "the newest version of {resource} is nowhere any more");
                let owned = self
                    .nodes
                    .values()
                    .filter_map(|node| node.frames.get(resource))
                    .any(|frame| frame.duty || frame.image || frame.unwritten);
                assert!(home == latest || owned, "nobody remembers that {resource} must be written");
            }
        }
        self.counts.parked = self
            .nodes
            .values()
            .filter_map(|node| node.grd.as_ref())
            .map(|grd| grd.status().parked as u64)
            .sum::<u64>()
            .max(self.counts.parked);
    }

    /// Lets everything end. Panics when something doesn't.
    pub(super) fn settle(&mut self) {
        for round in 0.. {
            for _ in 0..200 {
                self.happen(false);
            }
            let busy = self.links.values().any(|queue| !queue.is_empty()) || !self.flights.is_empty();
            let waiting = self.nodes.values().any(|node| !node.loads.is_empty() || !node.yields.is_empty() || !node.views.is_empty());
            let dirty = self.nodes.values().flat_map(|node| node.frames.values()).any(|frame| frame.duty || frame.image || frame.unwritten);
            if !busy && !waiting && !dirty {
                return;
            }
            assert!(round < 600, "it doesn't end: busy {busy}, waiting {waiting}, dirty {dirty}; {}", self.describe());
        }
    }

    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        for (id, node) in &self.nodes {
            text += &format!(
                "\n{id}: {:?} {:?} loads {:?} yields {:?} frames {:?}",
                node.grd.as_ref().map(Grd::status),
                node.grd.as_ref().map(|g| g.entries.clone()),
                node.loads,
                node.yields,
                node.frames
            );
        }
        text + "\n" + &self.trace.join("\n")
    }
}
