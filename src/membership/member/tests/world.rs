//! Members, voting files, network and guards in virtual time, from one seed; and what must hold at every moment.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use crate::base::{ClusterId, Epoch, Incarnation, Instant, Random, ThreadId};
use crate::membership::heartbeat::Host;
use crate::membership::io::{Event, FenceOutcome, FileTrouble, Input, Output, StopReason};
use crate::membership::member::{Member, Start};
use crate::membership::options::Options;
use crate::membership::sector::{SECTOR, SECTORS_AT, SectorKind, VotingId, format_region, region_bytes};
use crate::membership::view::{Identity, Method, View};

pub(super) const CLUSTER: ClusterId = ClusterId(*b"membership-tests");

/// What happens at a moment.
enum What {
    Tick { node: usize, life: u64 },
    Input { node: usize, life: u64, input: Input },
    Land { file: VotingId, at: u64, bytes: Box<[u8; SECTOR]>, node: usize, life: u64, kind: SectorKind, sequence: u64 },
    Look { file: VotingId, node: usize, life: u64, ticket: u64 },
    Killed { by: usize, victim: Identity },
    Restart { node: usize },
}

struct Item {
    at: Instant,
    number: u64,
    what: What,
}

impl PartialEq for Item {
    fn eq(&self, other: &Item) -> bool {
        self.number == other.number
    }
}
impl Eq for Item {}
impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Item) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Item {
    fn cmp(&self, other: &Item) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// One instance's process.
pub(super) struct Node {
    pub(super) id: ThreadId,
    pub(super) member: Option<Member>,
    life: u64,
    /// Stopped (SIGSTOP) until then; what arrives waits.
    pub(super) frozen: Option<Instant>,
    waiting: Vec<Input>,
    /// Writes in flight, of any life.
    in_flight: usize,
    pub(super) parked: bool,
    pub(super) events: Vec<(Instant, Event)>,
    pub(super) stops: Vec<(Instant, StopReason)>,
    /// Whether its guard starts it again.
    pub(super) restarts: bool,
    pub(super) host: Host,
    lease: Instant,
}

/// One voting file.
pub(super) struct Disk {
    pub(super) region: Vec<u8>,
    /// I/O that would end before waits until then.
    pub(super) stalled: Instant,
    /// Fails everything.
    pub(super) broken: bool,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) random: Random,
    pub(super) nodes: Vec<Node>,
    pub(super) disks: BTreeMap<VotingId, Disk>,
    queue: BinaryHeap<Reverse<Item>>,
    number: u64,
    pub(super) options: Options,
    /// Cut ways of the network: (from, to).
    pub(super) cut: Vec<(usize, usize)>,
    /// A node's own stalled way to a file.
    pub(super) detached: BTreeMap<(usize, VotingId), Instant>,
    pub(super) loss: f64,
    pub(super) net_delay_us: u64,
    pub(super) io_delay_us: u64,
    pub(super) fences_fail: f64,
    /// Every decided view, and when it was first known.
    pub(super) decided: BTreeMap<Epoch, (Instant, Arc<View>)>,
    pub(super) evictions: Vec<(Instant, Identity, bool)>,
}

impl World {
    /// `count` instances that aren't started, `files` voting files.
    pub(super) fn new(seed: u64, count: u16, files: u64) -> World {
        let ids: Vec<VotingId> = (1..=files).map(|file| VotingId(file * 11)).collect();
        let genesis = View::genesis(&ids);
        let disk = |id| {
            let mut region = format_region(CLUSTER, id, Some(&genesis));
            region.truncate(region_bytes(count));
            (id, Disk { region, stalled: Instant(0), broken: false })
        };
        let node = |id: u16| Node {
            id: ThreadId(id),
            member: None,
            life: 0,
            frozen: None,
            waiting: Vec::new(),
            in_flight: 0,
            parked: true,
            events: Vec::new(),
            stops: Vec::new(),
            restarts: true,
            host: Host { machine: [id as u8; 16], boot: [id as u8; 16] },
            lease: Instant(0),
        };
        World {
            now: Instant(1_000_000_000),
            random: Random::new(seed),
            nodes: (1..=count).map(node).collect(),
            disks: ids.iter().map(|id| disk(*id)).collect(),
            queue: BinaryHeap::new(),
            number: 0,
            options: Options::default(),
            cut: Vec::new(),
            detached: BTreeMap::new(),
            loss: 0.0,
            net_delay_us: 300,
            io_delay_us: 600,
            fences_fail: 0.0,
            decided: BTreeMap::from([(Epoch(0), (Instant(0), Arc::new(genesis)))]),
            evictions: Vec::new(),
        }
    }

    fn at(&mut self, at: Instant, what: What) {
        self.number += 1;
        self.queue.push(Reverse(Item { at, number: self.number, what }));
    }

    fn delay(&mut self, typical_us: u64) -> Duration {
        let tail = if self.random.chance(0.01) { 8 } else { 1 };
        Duration::from_micros(self.random.within(typical_us / 2..typical_us * 2 + 1) * tail)
    }

    /// Starts an instance; its locks prove that its last life is dead and drained.
    pub(super) fn start(&mut self, node: usize) {
        let at = self.now;
        self.at(at, What::Restart { node });
    }

    pub(super) fn start_all(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.start(node));
    }

    /// SIGKILL: writes in flight land or don't.
    pub(super) fn kill(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.member = None;
        it.life += 1;
        it.frozen = None;
        it.waiting.clear();
        it.parked = true;
        it.lease = Instant(0);
    }

    pub(super) fn freeze(&mut self, node: usize, for_ms: u64) {
        self.nodes[node].frozen = Some(self.now + Duration::from_millis(for_ms));
    }

    /// Gives an input to a running member.
    pub(super) fn give(&mut self, node: usize, input: Input) {
        let life = self.nodes[node].life;
        let at = self.now;
        self.at(at, What::Input { node, life, input });
    }

    pub(super) fn run_ms(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while self.queue.peek().is_some_and(|next| next.0.at <= end) {
            let item = self.queue.pop().expect("peeked").0;
            self.now = self.now.max(item.at);
            self.happen(item.what);
            self.check();
        }
        self.now = end;
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Tick { node, life } => {
                if self.nodes[node].life == life {
                    self.step(node, Input::Tick);
                    let jitter = self.random.within(0..3000);
                    let next = self.nodes[node].frozen.unwrap_or(self.now).max(self.now)
                        + Duration::from_millis(self.options.tick_ms)
                        + Duration::from_micros(jitter);
                    self.at(next, What::Tick { node, life });
                }
            }
            What::Input { node, life, input } => {
                if self.nodes[node].life == life {
                    self.step(node, input);
                }
            }
            What::Land { file, at, bytes, node, life, kind, sequence } => self.land(file, at, &bytes, (node, life, kind, sequence)),
            What::Look { file, node, life, ticket } => {
                let disk = &self.disks[&file];
                let result = if disk.broken { Err(FileTrouble::Io { what: "broken".into() }) } else { Ok(disk.region.clone()) };
                let back = self.now + self.delay_const();
                self.at(back, What::Input { node, life, input: Input::Read { file, ticket, result } });
            }
            What::Killed { by, victim } => self.confirm(by, victim),
            What::Restart { node } => self.boot(node),
        }
    }

    fn delay_const(&mut self) -> Duration {
        let typical = self.io_delay_us / 4 + 1;
        self.delay(typical)
    }

    fn boot(&mut self, node: usize) {
        if self.nodes[node].member.is_some() {
            return;
        }
        if self.nodes[node].in_flight > 0 {
            // The locks aren't free before the last write of the old life has drained.
            let later = self.now + Duration::from_millis(20);
            return self.at(later, What::Restart { node });
        }
        let (random, threads) = (self.random.bits(), self.nodes.len() as u16);
        let it = &mut self.nodes[node];
        it.life += 1;
        let start = Start {
            cluster: CLUSTER,
            id: it.id,
            threads,
            host: it.host,
            files: self.disks.keys().copied().collect(),
            incarnation_floor: Incarnation(0),
            confirmed: None,
            random,
            options: self.options.clone(),
        };
        let life = it.life;
        it.member = Some(Member::new(start, self.now));
        let now = self.now;
        self.at(now, What::Tick { node, life });
    }

    fn land(&mut self, file: VotingId, at: u64, bytes: &[u8; SECTOR], (node, life, kind, sequence): (usize, u64, SectorKind, u64)) {
        let dead = self.nodes[node].life != life;
        let lands = !dead || self.random.chance(0.5);
        let disk = self.disks.get_mut(&file).expect("a file");
        let broken = disk.broken;
        if lands && !broken {
            let from = (at - SECTORS_AT) as usize;
            disk.region[from..from + SECTOR].copy_from_slice(bytes);
        }
        self.nodes[node].in_flight -= 1;
        let result = if broken { Err(FileTrouble::Io { what: "broken".into() }) } else { Ok(()) };
        let back = self.now + self.delay_const();
        self.at(back, What::Input { node, life, input: Input::Written { file, kind, sequence, result } });
    }

    /// The fence of `victim`: its guard kills it; confirmed when its writes have drained.
    fn confirm(&mut self, by: usize, victim: Identity) {
        let node = usize::from(victim.id.0) - 1;
        if self.random.chance(self.fences_fail) {
            return self.give(by, Input::Fenced { id: victim.id, incarnation: victim.incarnation, outcome: FenceOutcome::Unknown });
        }
        let runs = self.nodes[node].member.as_ref().is_some_and(|member| member.identity() == victim);
        if runs {
            self.kill(node);
            self.plan_restart(node);
        }
        if self.nodes[node].in_flight > 0 && self.nodes[node].member.is_none() {
            let later = self.now + Duration::from_millis(5);
            return self.at(later, What::Killed { by, victim });
        }
        let outcome = FenceOutcome::Confirmed(Method::Guard);
        self.give(by, Input::Fenced { id: victim.id, incarnation: victim.incarnation, outcome });
    }

    fn plan_restart(&mut self, node: usize) {
        if self.nodes[node].restarts {
            let later = self.now + Duration::from_millis(self.random.within(50..400));
            self.at(later, What::Restart { node });
        }
    }

    fn step(&mut self, node: usize, input: Input) {
        let it = &mut self.nodes[node];
        if it.frozen.is_some_and(|until| self.now < until) {
            it.waiting.push(input);
            return;
        }
        let mut inputs = Vec::new();
        if it.frozen.take().is_some() {
            inputs.append(&mut it.waiting);
        }
        inputs.push(input);
        for input in inputs {
            let mut out = Vec::new();
            match &mut self.nodes[node].member {
                Some(member) => member.step(self.now, input, &mut out),
                None => return,
            }
            for output in out {
                self.act(node, output);
            }
        }
        self.note(node);
    }

    fn note(&mut self, node: usize) {
        if let Some(view) = self.nodes[node].member.as_ref().and_then(|member| member.view().cloned()) {
            self.decide(view);
        }
    }

    fn decide(&mut self, view: Arc<View>) {
        let before = self.decided.values().next_back().map(|(_, view)| view.clone());
        let known = self.decided.entry(view.epoch).or_insert_with(|| (self.now, view.clone()));
        assert_eq!(known.1, view, "two views of {}", view.epoch);
        if let Some(before) = before.filter(|before| before.epoch < view.epoch) {
            assert_eq!(before.epoch.0 + 1, view.epoch.0, "an epoch was skipped");
            for out in before.members.iter().filter(|member| !view.has(**member)) {
                let node = &self.nodes[usize::from(out.id.0) - 1];
                let ran = node.member.as_ref().is_some_and(|member| member.incarnation() == out.incarnation) && node.frozen.is_none();
                self.evictions.push((self.now, *out, ran && !view.unconfirmed.is_empty()));
            }
        }
    }

    fn act(&mut self, node: usize, output: Output) {
        let life = self.nodes[node].life;
        match output {
            Output::Beat { to, beat } => {
                let target = usize::from(to.0) - 1;
                if self.cut.contains(&(node, target)) || self.random.chance(self.loss) {
                    return;
                }
                let at = self.now + self.delay(self.net_delay_us);
                let life = self.nodes[target].life;
                self.at(at, What::Input { node: target, life, input: Input::Beat { from: self.nodes[node].id, beat } });
            }
            Output::Read { file, ticket } => {
                let at = self.io_end(node, file);
                self.at(at, What::Look { file, node, life, ticket });
            }
            Output::Write { file, at, kind, sequence, bytes } => {
                self.nodes[node].in_flight += 1;
                let end = self.io_end(node, file);
                self.at(end, What::Land { file, at, bytes, node, life, kind, sequence });
            }
            Output::Fence { id, incarnation, .. } => {
                let at = self.now + self.delay(2000);
                self.at(at, What::Killed { by: node, victim: Identity { id, incarnation } });
            }
            Output::Lease { until } => self.nodes[node].lease = until,
            Output::Peer { .. } => {}
            Output::Event(event) => self.event(node, event),
        }
    }

    fn io_end(&mut self, node: usize, file: VotingId) -> Instant {
        let delay = self.delay(self.io_delay_us);
        let stalled = self.disks[&file].stalled.max(self.detached.get(&(node, file)).copied().unwrap_or_default());
        stalled.max(self.now) + delay
    }

    fn event(&mut self, node: usize, event: Event) {
        self.note(node);
        match &event {
            Event::Installed(view) => self.decide(view.clone()),
            Event::Parked(_) => self.nodes[node].parked = true,
            Event::Unparked => self.nodes[node].parked = false,
            Event::Stop(reason) => {
                self.nodes[node].stops.push((self.now, reason.clone()));
                let left = matches!(reason, StopReason::Left { .. });
                self.nodes[node].events.push((self.now, event));
                self.kill(node);
                if !left {
                    self.plan_restart(node);
                }
                return;
            }
            _ => {}
        }
        self.nodes[node].events.push((self.now, event));
    }

    /// Whether an instance serves at this moment, as its gate would say.
    pub(super) fn serves(&self, node: usize) -> bool {
        let it = &self.nodes[node];
        it.member.is_some() && !it.parked && self.now < it.lease && it.frozen.is_none_or(|until| self.now >= until)
    }

    /// Nobody serves longer than a lease beyond a decision without it.
    fn check(&mut self) {
        let Some((_, newest)) = self.decided.values().next_back() else { return };
        for (node, it) in self.nodes.iter().enumerate() {
            let Some(member) = &it.member else { continue };
            if !self.serves(node) || newest.has(member.identity()) {
                continue;
            }
            let out = self.decided.values().rev().take_while(|(_, view)| !view.has(member.identity())).last();
            let since = out.map_or(Instant(0), |(at, _)| *at);
            assert!(self.now < since + self.options.lease(), "{} serves after its eviction and lease", member.identity());
        }
    }

    pub(super) fn newest(&self) -> &Arc<View> {
        &self.decided.values().next_back().expect("genesis").1
    }

    pub(super) fn member_ids(&self) -> Vec<u16> {
        self.newest().members.iter().map(|member| member.id.0).collect()
    }

    pub(super) fn node_of(&mut self, id: u16) -> &mut Node {
        &mut self.nodes[usize::from(id) - 1]
    }

    /// Cuts both ways between two sides (instance numbers).
    pub(super) fn split(&mut self, one: &[u16], other: &[u16]) {
        for a in one {
            for b in other {
                self.cut.push((usize::from(*a) - 1, usize::from(*b) - 1));
                self.cut.push((usize::from(*b) - 1, usize::from(*a) - 1));
            }
        }
    }

    pub(super) fn count(&self, matches: impl Fn(&Event) -> bool) -> usize {
        self.nodes.iter().flat_map(|node| &node.events).filter(|(_, event)| matches(event)).count()
    }
}
