//! A simulated network: links between simulated processes, with delay, loss, duplicates, reordering and partitions, all decided by a seed.
//!
//! For tests. A test makes a [`MemoryNetwork`], gives each process a link ([`MemoryNetwork::attach`]) and keeps the network to cut and heal
//! paths. Frames are real bytes and go through the same checks as on a real link; only QUIC and TLS are left out, with what they
//! guarantee: heartbeats may be lost, control frames come in order or the connection breaks, requests are answered or fail.
//!
//! Invariants:
//! - The same seed, code and runtime give the same trace: time, tasks and identities come from the seams, luck from the network's seed.
//! - Killing a simulated process ends its links without a word, as a real kill does: peers hear of it late ([`Faults::idle`]) or, by
//!   [`Faults::reset`], at once. What it had sent still arrives. Dropping a link in a living process tells peers.
//! - A path that is cut carries nothing. A connection over a path that stays cut for [`Faults::idle`], either way, breaks.

mod connection;
mod dial;
mod link;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::Link;
use super::hello::Local;
use crate::base::{Epoch, Random, Seams, ThreadId};
use link::{End, MemoryLink};

/// What the network does to traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// Time one way.
    pub delay: Range<Duration>,
    /// Chance that a packet is lost. A lost control frame or request comes [`Faults::retransmit`] later.
    pub loss: f64,
    /// Chance that a heartbeat comes twice (which the receiver must refuse).
    pub duplicate: f64,
    /// Chance that a heartbeat or request takes [`Faults::reorder_by`] longer, so that later ones overtake it.
    pub reorder: f64,
    /// See [`Faults::reorder`].
    pub reorder_by: Duration,
    /// Until something lost is sent again.
    pub retransmit: Duration,
    /// Chance that peers of a killed process hear of it at once, from its machine; otherwise after [`Faults::idle`].
    pub reset: f64,
    /// Silence after which a connection breaks.
    pub idle: Duration,
}

impl Default for Faults {
    /// A good network: 20 to 60 us one way, nothing lost.
    fn default() -> Self {
        Faults {
            delay: Duration::from_micros(20)..Duration::from_micros(60),
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_by: Duration::from_millis(2),
            retransmit: Duration::from_millis(20),
            reset: 0.5,
            idle: Duration::from_secs(2),
        }
    }
}

/// What the network did so far: tests check that they reached what they mean to test.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Happened {
    /// Packets that arrived.
    pub carried: u64,
    /// Packets lost by chance.
    pub lost: u64,
    /// Heartbeats that came twice.
    pub duplicated: u64,
    /// Packets held back so that others overtook them.
    pub reordered: u64,
    /// Packets that ran into a cut path.
    pub cut: u64,
    /// Connections made.
    pub connected: u64,
    /// Connections that broke because nothing came any more.
    pub silent: u64,
    /// Connections that broke because the machine of a killed process said so.
    pub reset: u64,
    /// Connections that were closed in an orderly way.
    pub closed: u64,
}

/// The network of a simulation: the test's handle on it. Clones are the same network.
#[derive(Clone)]
pub struct MemoryNetwork {
    wires: Arc<Wires>,
}

/// A packet's fate.
enum Fate {
    Lost,
    Arrives { after: Duration, again: Option<Duration> },
}

/// What all links share.
struct Wires {
    state: Mutex<State>,
}

struct State {
    random: Random,
    faults: Faults,
    ends: BTreeMap<SocketAddr, Weak<End>>,
    /// Paths that carry nothing, from host to host, and which cut made them so.
    cuts: BTreeMap<(ThreadId, ThreadId), u64>,
    cuts_made: u64,
    next_port: u16,
    happened: Happened,
}

impl MemoryNetwork {
    /// A good network in which `seed` decides the luck.
    pub fn new(seed: u64) -> MemoryNetwork {
        let state = State {
            random: Random::new(seed),
            faults: Faults::default(),
            ends: BTreeMap::new(),
            cuts: BTreeMap::new(),
            cuts_made: 0,
            next_port: 1000,
            happened: Happened::default(),
        };
        MemoryNetwork { wires: Arc::new(Wires { state: Mutex::new(state) }) }
    }

    /// A link for the process that `seams` belongs to. An instance and its guard are on one host, which bears the instance's number.
    pub fn attach(&self, seams: &Seams, local: Local, epoch: Epoch) -> Arc<dyn Link> {
        let host = Ipv4Addr::new(10, 0, (local.peer.instance.0 >> 8) as u8, local.peer.instance.0 as u8);
        let address = {
            let mut state = self.wires.state.lock();
            state.next_port = state.next_port.checked_add(1).unwrap_or(1000);
            SocketAddr::from((host, state.next_port))
        };
        let end = End::start(self.wires.clone(), seams.clone(), local, address, epoch);
        self.wires.state.lock().ends.insert(address, Arc::downgrade(&end));
        Arc::new(MemoryLink::new(end))
    }

    /// Sets what happens to traffic from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.wires.state.lock().faults = faults;
    }

    /// What happens to traffic.
    pub fn faults(&self) -> Faults {
        self.wires.faults()
    }

    /// Cuts the path from one host to another, one way, or restores it.
    pub fn set_cut(&self, from: ThreadId, to: ThreadId, cut: bool) {
        let made = {
            let mut state = self.wires.state.lock();
            if !cut {
                state.cuts.remove(&(from, to));
                return;
            }
            if state.cuts.contains_key(&(from, to)) {
                return;
            }
            state.cuts_made += 1;
            let made = state.cuts_made;
            state.cuts.insert((from, to), made);
            made
        };
        for end in self.wires.living() {
            end.starve(from, to, made);
        }
    }

    /// Cuts or restores both ways between two hosts.
    pub fn set_parted(&self, one: ThreadId, other: ThreadId, cut: bool) {
        self.set_cut(one, other, cut);
        self.set_cut(other, one, cut);
    }

    /// Restores all paths.
    pub fn heal(&self) {
        self.wires.state.lock().cuts.clear();
    }

    /// What the network did so far.
    pub fn happened(&self) -> Happened {
        self.wires.state.lock().happened
    }
}

impl Wires {
    fn faults(&self) -> Faults {
        self.state.lock().faults.clone()
    }

    /// Links that were not closed or killed, in the order of their addresses.
    fn living(&self) -> Vec<Arc<End>> {
        let mut state = self.state.lock();
        state.ends.retain(|_, end| end.strong_count() > 0);
        state.ends.values().filter_map(Weak::upgrade).filter(|end| end.is_alive()).collect()
    }

    fn end_at(&self, address: SocketAddr) -> Option<Arc<End>> {
        self.state.lock().ends.get(&address).and_then(Weak::upgrade).filter(|end| end.is_alive())
    }

    /// Whether the path has been cut since the cut numbered `made`.
    fn is_cut_since(&self, from: ThreadId, to: ThreadId, made: u64) -> bool {
        self.state.lock().cuts.get(&(from, to)) == Some(&made)
    }

    fn is_cut(&self, from: ThreadId, to: ThreadId) -> bool {
        let mut state = self.state.lock();
        let cut = state.cuts.contains_key(&(from, to));
        state.happened.cut += u64::from(cut);
        cut
    }

    /// What becomes of a packet that is sent now.
    fn fate(&self, from: ThreadId, to: ThreadId) -> Fate {
        if self.is_cut(from, to) {
            return Fate::Lost;
        }
        let mut state = self.state.lock();
        let State { random, faults, happened, .. } = &mut *state;
        if random.chance(faults.loss) {
            happened.lost += 1;
            return Fate::Lost;
        }
        let mut draw = |random: &mut Random| {
            let (least, most) = (faults.delay.start.as_nanos() as u64, faults.delay.end.as_nanos() as u64);
            let late = random.chance(faults.reorder);
            happened.reordered += u64::from(late);
            let by = if late { faults.reorder_by } else { Duration::ZERO };
            Duration::from_nanos(least + random.below((most.saturating_sub(least)).max(1))) + by
        };
        let after = draw(random);
        let again = random.chance(faults.duplicate).then(|| draw(random));
        Fate::Arrives { after, again }
    }

    fn chance(&self, of: impl FnOnce(&Faults) -> f64) -> bool {
        let mut state = self.state.lock();
        let probability = of(&state.faults);
        state.random.chance(probability)
    }

    fn happened(&self, count: impl FnOnce(&mut Happened)) {
        count(&mut self.state.lock().happened);
    }
}
