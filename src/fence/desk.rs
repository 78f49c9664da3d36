//! What is known of the instances' deaths: by their guards' reports, and by the guard sectors on the voting files.
//!
//! `node::member` brings every report and every guard sector that it reads; method `guard` looks here. What is kept only grows: an incarnation
//! that is dead stays dead.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::message::{MessageError, REPORT, Report};
use super::{HostId, Victim};
use crate::base::{Incarnation, ThreadId};

/// The collected knowledge. Shared by reference.
#[derive(Default)]
pub struct Desk {
    known: Mutex<BTreeMap<ThreadId, Known>>,
}

#[derive(Default)]
struct Known {
    /// The last incarnation that is dead and drained, and how that is known.
    drained: Option<(Incarnation, &'static str)>,
    /// The last incarnation that is dead; its I/O may be in flight.
    dead: Option<Incarnation>,
    /// Where an incarnation runs, or ran.
    host: Option<(Incarnation, HostId)>,
}

/// Why a guard's frame has no effect.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// It can't be read.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A guard speaks for its own instance only.
    #[error("the guard of instance {} reports of instance {}", from.0, of.0)]
    Foreign {
        /// Whose guard sent it.
        from: ThreadId,
        /// Of whom it speaks.
        of: ThreadId,
    },
    /// Not a kind that guards send.
    #[error("a guard sent a frame of kind {kind:#06x}")]
    Kind {
        /// Which.
        kind: u16,
    },
}

impl Desk {
    /// Takes in a frame that the guard of instance `from` sent; `net` has proven that it did. Returns the report if it says more than was known.
    ///
    /// # Errors
    /// It isn't a report of its own instance: no effect.
    pub fn heard(&self, from: ThreadId, kind: u16, body: &[u8]) -> Result<Option<Report>, Refused> {
        if kind != REPORT {
            return Err(Refused::Kind { kind });
        }
        let report = Report::decode(body)?;
        if report.id() != from {
            return Err(Refused::Foreign { from, of: report.id() });
        }
        let mut known = self.known.lock();
        let known = known.entry(from).or_default();
        let news = if report.drained() { known.learn_drained(report.dead(), "its guard reports") } else { known.learn_dead(report.dead()) };
        Ok(news.then_some(report))
    }

    /// A guard sector says that every incarnation of `id` up to `dead` is dead and drained. True when that is news.
    pub fn recorded(&self, id: ThreadId, dead: Incarnation) -> bool {
        self.known.lock().entry(id).or_default().learn_drained(dead, "its guard has recorded on the voting files")
    }

    /// `incarnation` of `id` runs on `host`, by its heartbeat sector.
    pub fn runs_on(&self, id: ThreadId, incarnation: Incarnation, host: HostId) {
        let mut known = self.known.lock();
        let known = known.entry(id).or_default();
        if known.host.is_none_or(|(newest, _)| newest <= incarnation) {
            known.host = Some((incarnation, host));
        }
    }

    /// How it is known that the victim is dead and drained; nothing if it isn't known.
    pub fn evidence(&self, victim: &Victim) -> Option<String> {
        let known = self.known.lock();
        let (dead, how) = known.get(&victim.id)?.drained?;
        (dead >= victim.incarnation).then(|| format!("{how} that incarnation {} is dead and its I/O has drained", dead.0))
    }

    /// Whether the victim's process is known to be gone, drained or not.
    pub fn is_dead(&self, victim: &Victim) -> bool {
        let known = self.known.lock();
        known.get(&victim.id).and_then(|known| known.dead).is_some_and(|dead| dead >= victim.incarnation)
    }

    /// The host that the victim ran on. Nothing when that isn't known of this very incarnation: another one may have run elsewhere.
    pub fn host(&self, victim: &Victim) -> Option<HostId> {
        let known = self.known.lock();
        let (incarnation, host) = known.get(&victim.id)?.host?;
        (incarnation == victim.incarnation).then_some(host)
    }
}

impl Known {
    fn learn_drained(&mut self, dead: Incarnation, how: &'static str) -> bool {
        self.learn_dead(dead);
        let news = self.drained.is_none_or(|(known, _)| known < dead);
        if news {
            self.drained = Some((dead, how));
        }
        news
    }

    fn learn_dead(&mut self, dead: Incarnation) -> bool {
        let news = self.dead.is_none_or(|known| known < dead);
        if news {
            self.dead = Some(dead);
        }
        news
    }
}
