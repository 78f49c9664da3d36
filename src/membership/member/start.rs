//! The beginning of a life: what the voting files say about the last one, whether its death is proven, and the announcement of this one.

use std::sync::Arc;
use std::time::Duration;

use super::{Member, Stage};
use crate::base::{Incarnation, Instant};
use crate::membership::heartbeat::{Heartbeat, Standing};
use crate::membership::io::{Event, Output, StopReason};
use crate::membership::sector::{Head, SectorKind};
use crate::membership::survey::Survey;
use crate::membership::view::{Identity, View};

impl Member {
    pub(super) fn starting(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.stage == Stage::Reading {
            self.consider(now, out);
        }
        if self.stage == Stage::Announcing {
            self.announced(out);
        }
    }

    /// Looks at what was read so far.
    fn consider(&mut self, now: Instant, out: &mut Vec<Output>) {
        let survey = Survey::of(self.files.values().filter(|file| !file.lost).filter_map(|file| file.snapshot.clone()));
        let Some(newest) = survey.newest().cloned() else { return };
        // An answer here has the own heartbeat whole, too: it is where the last life announced itself.
        let own = usize::from(self.start.id.0) - 1;
        let answers = newest.voting.iter().filter_map(|id| self.files.get(id)).filter(|file| {
            let heartbeat = file.snapshot.as_ref().and_then(|snapshot| snapshot.instances.get(own)?.heartbeat.as_ref());
            file.answered.is_some() && heartbeat.is_some()
        });
        let answers = answers.count();
        if answers < newest.majority() {
            return;
        }
        let prior = self.prior(&survey, &newest);
        let heartbeat = survey.heartbeat(self.start.id).copied();
        if let Some(watch) = self.must_watch(prior, &survey, &newest) {
            let (age, host) = heartbeat.map_or_else(Default::default, |(head, heartbeat)| (head.age(), heartbeat.host));
            let (first, since) = *self.watched.get_or_insert((age, now));
            if age != first {
                return self.stop(StopReason::LiveIdentity { incarnation: age.0 }, out);
            }
            if now.since(since) < Duration::from_millis(self.start.options.suspicion_floor_ms) {
                return;
            }
            if watch == Watch::Unproven {
                return self.stop(StopReason::Unproven { incarnation: prior, host }, out);
            }
        }
        self.view = Some(Arc::new(newest));
        self.incarnation = Incarnation(prior.0.max(self.start.incarnation_floor.0) + 1);
        self.stage = Stage::Announcing;
    }

    /// The highest life of this identity that anything speaks of.
    fn prior(&self, survey: &Survey, newest: &View) -> Incarnation {
        let at = usize::from(self.start.id.0) - 1;
        let own = survey.snapshots().filter_map(|snapshot| snapshot.instances.get(at));
        let kinds = [SectorKind::Heartbeat, SectorKind::Ballot, SectorKind::View];
        let heads = own.flat_map(|sectors| kinds.into_iter().filter_map(|kind| sectors.head(kind)).map(|head| head.incarnation));
        let guard = survey.guard(self.start.id).map(|(_, record)| record.incarnation);
        let lists = newest.members.iter().chain(&newest.unconfirmed).filter(|identity| identity.id == self.start.id);
        let confirmed = newest.confirmed.iter().filter(|confirmation| confirmation.id == self.start.id);
        let listed = lists.map(|identity| identity.incarnation).chain(confirmed.map(|confirmation| confirmation.incarnation));
        heads.chain(guard).chain(listed).max().unwrap_or_default()
    }

    /// Whether the death and drain of the life `prior` is proven (rule 6), or its heartbeat is to be watched first.
    fn must_watch(&self, prior: Incarnation, survey: &Survey, newest: &View) -> Option<Watch> {
        let last = survey.heartbeat(self.start.id).filter(|(head, _)| head.incarnation == prior);
        let here = |(_, heartbeat): &(Head, Heartbeat)| heartbeat.host.boot == self.start.host.boot;
        let gone = |(_, heartbeat): &(Head, Heartbeat)| heartbeat.standing == Standing::Gone;
        let proven = prior.0 == 0
            // The driver holds the locks of this identity on every storage file, on the same boot of the same kernel.
            || last.is_some_and(here)
            // Its last write, after all others had drained.
            || last.is_some_and(gone)
            || newest.proves(Identity::new(self.start.id, prior))
            || survey.guard(self.start.id).is_some_and(|(_, record)| record.proves(prior))
            || self.start.confirmed.is_some_and(|confirmed| confirmed >= prior);
        if proven {
            return None;
        }
        let machine = self.start.host.machine;
        let rebooted = last.is_some_and(|(_, heartbeat)| machine != [0; 16] && heartbeat.host.machine == machine);
        Some(if rebooted { Watch::Rebooted } else { Watch::Unproven })
    }

    /// The new life stands in a majority: from here on any later life finds it, and takes a higher number.
    fn announced(&mut self, out: &mut Vec<Output>) {
        let Some(view) = self.view.clone() else { return };
        if self.voters().filter(|file| file.acked(SectorKind::Heartbeat) > 0).count() < view.majority() {
            return;
        }
        self.stage = Stage::Joining;
        out.push(Output::Event(Event::Announced { incarnation: self.incarnation, epoch: view.epoch }));
        self.belong(&view, out);
    }
}

/// Why the own old heartbeat is watched before a life begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// The same machine has booted since: dead, unless two machines share an id.
    Rebooted,
    /// It ran elsewhere: watched only to say more than "unproven".
    Unproven,
}
