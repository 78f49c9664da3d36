//! What no run of a cluster may show, checked as it happens; and what came up, counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use regroup::base::sim::Process;
use regroup::base::{Epoch, Incarnation, ThreadId};
use regroup::disk::memory::MemoryMedia;
use regroup::membership::view::Identity;
use regroup::membership::{Event, ParkReason, StopReason, View};

/// A life of an instance, as the simulator knows it.
struct Life {
    process: Process,
    disks: Vec<u32>,
    epoch: Epoch,
}

#[derive(Default)]
struct State {
    views: BTreeMap<Epoch, Arc<View>>,
    lives: BTreeMap<(ThreadId, Incarnation), Life>,
    /// Fenced for certain, by some view.
    confirmed: BTreeSet<(ThreadId, Incarnation)>,
    evictions: u64,
    answers: u64,
    counts: BTreeMap<&'static str, u64>,
}

/// Watches a run.
pub struct Oracle {
    media: MemoryMedia,
    state: Mutex<State>,
}

impl Oracle {
    /// Nothing seen yet.
    pub fn new(media: &MemoryMedia) -> Oracle {
        Oracle { media: media.clone(), state: Mutex::default() }
    }

    /// Something came up.
    pub fn count(&self, what: &'static str) {
        *self.state.lock().counts.entry(what).or_default() += 1;
    }

    /// What came up, and how often.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().counts.clone()
    }

    /// Members that were evicted.
    pub fn evictions(&self) -> u64 {
        self.state.lock().evictions
    }

    /// Answers given to clients.
    pub fn answers(&self) -> u64 {
        self.state.lock().answers
    }

    /// A life has drawn its incarnation. All earlier ones must be dead and drained (rule 6).
    pub fn announced(&self, id: ThreadId, incarnation: Incarnation, process: &Process, disks: &[u32]) {
        let mut state = self.state.lock();
        for ((of, earlier), life) in &state.lives {
            assert!(*of != id || *earlier != incarnation || life.process.name() == process.name(), "{id} drew {incarnation} twice");
        }
        state.lives.insert((id, incarnation), Life { process: process.clone(), disks: disks.to_vec(), epoch: Epoch(0) });
    }

    /// A life has an event.
    pub fn event(&self, id: ThreadId, incarnation: Incarnation, event: &Event) {
        self.count(match event {
            Event::Announced { .. } => "announced",
            Event::Installed(_) => "installed",
            Event::Parked(ParkReason::Starting) => "parked: starting",
            Event::Parked(ParkReason::NoMajority) => "parked: no majority",
            Event::Parked(ParkReason::Stalled) => "parked: stalled",
            Event::Parked(ParkReason::LosingSide) => "parked: losing side",
            Event::Unparked => "unparked",
            Event::Suspected { .. } => "suspected",
            Event::Cleared { .. } => "cleared",
            Event::FileFailed { .. } => "voting file failed",
            Event::FileBack { .. } => "voting file back",
            Event::Stop(StopReason::Evicted { .. }) => "stopped: evicted",
            Event::Stop(StopReason::Left { .. }) => "stopped: left",
            Event::Stop(StopReason::Displaced { .. }) => "stopped: displaced",
            Event::Stop(StopReason::LiveIdentity { .. }) => "stopped: live identity",
            Event::Stop(StopReason::Unproven { .. }) => "stopped: unproven",
            Event::Stop(StopReason::FilesFailed) => "stopped: files failed",
        });
        if let Event::Installed(view) = event {
            self.installed(id, incarnation, view);
        }
    }

    fn installed(&self, id: ThreadId, incarnation: Incarnation, view: &Arc<View>) {
        view.validate().unwrap_or_else(|fault| panic!("{id} {incarnation} installed a view that can't be: {fault}"));
        let mut state = self.state.lock();
        if let Some(life) = state.lives.get_mut(&(id, incarnation)) {
            assert!(view.epoch > life.epoch, "{id} {incarnation} went from {} to {}", life.epoch, view.epoch);
            life.epoch = view.epoch;
        }
        assert!(view.has(Identity::new(id, incarnation)), "{id} {incarnation} installed {}, to which it doesn't belong", view.epoch);
        if let Some(other) = state.views.get(&view.epoch) {
            assert_eq!(other, view, "two views of {}", view.epoch);
            return;
        }
        state.views.insert(view.epoch, view.clone());
        state.evictions += view.unconfirmed.len() as u64 + view.confirmed.len() as u64;
        for gone in &view.confirmed {
            state.confirmed.insert((gone.id, gone.incarnation));
        }
        // Rules 1, 2 and 6: who is fenced for certain, or has a successor, is dead, and all it wrote has landed.
        for ((of, life), found) in &state.lives {
            let fenced = view.confirmed.iter().any(|gone| gone.id == *of && gone.incarnation >= *life);
            let succeeded = view.members.iter().any(|member| member.id == *of && member.incarnation > *life);
            if fenced || succeeded {
                let why = if fenced { "its fence is confirmed" } else { "it has a successor" };
                assert!(!found.process.is_alive(), "{}: {why}, but {of} {life} lives", view.epoch);
                let drained = found.disks.iter().all(|disk| self.media.is_drained(*disk));
                assert!(drained, "{}: {why}, but I/O of {of} {life} is in flight", view.epoch);
            }
        }
    }

    /// A life has answered a client.
    pub fn answered(&self, id: ThreadId, incarnation: Incarnation) {
        let mut state = self.state.lock();
        state.answers += 1;
        assert!(!state.confirmed.contains(&(id, incarnation)), "{id} {incarnation} answers a client after its fence was confirmed");
    }

    /// The newest view that anybody has installed.
    pub fn newest(&self) -> Option<Arc<View>> {
        self.state.lock().views.last_key_value().map(|(_, view)| view.clone())
    }
}
