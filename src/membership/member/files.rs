//! One voting file as this life uses it: what is in flight, what it has acknowledged, what it last said, whether it is believed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Incarnation, Instant, ThreadId};
use crate::membership::heartbeat::{Heartbeat, Standing};
use crate::membership::io::FileTrouble;
use crate::membership::sector::SectorKind;
use crate::membership::survey::Snapshot;

/// Incarnation and sequence of a sector.
type Age = (Incarnation, u64);
/// Which sector of a file.
type Which = (ThreadId, SectorKind);

/// Kinds that an instance writes.
pub(super) const OWN: [SectorKind; 3] = [SectorKind::Heartbeat, SectorKind::Ballot, SectorKind::View];

/// So many times a file is read again at once because a sector wasn't whole.
const READ_AGAIN: u32 = 4;

/// A write in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writing {
    pub(super) sequence: u64,
    pub(super) since: Instant,
}

/// A read in flight.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) ticket: u64,
    pub(super) since: Instant,
    /// Start of the round that this read would complete: of a heartbeat write that was durable before it began.
    round: Option<Instant>,
    /// What the file had acknowledged, or others said that it had, before the read began: less than that is a file that went back.
    required: BTreeMap<Which, Age>,
}

/// What a read is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Accepted {
    /// The round that it completes.
    pub(super) round: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct File {
    writing: BTreeMap<SectorKind, Writing>,
    acked: BTreeMap<SectorKind, u64>,
    reading: Option<Reading>,
    /// Somebody wants a read that begins from now on.
    pub(super) read_wanted: bool,
    /// Start of a heartbeat write that is durable and not read behind yet.
    beaten: Option<Instant>,
    /// Start of the newest round that got a whole answer, whatever it said; when nothing was written yet, the time of the first answer.
    pub(super) answered: Option<Instant>,
    /// Start of the newest round: heartbeat written, then everything read, whole and without a sign of a newer view.
    pub(super) round: Option<Instant>,
    /// The last answer.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    known: BTreeMap<Which, Age>,
    trouble: Option<FileTrouble>,
    /// Since when, and in how many reads, a sector wasn't whole.
    torn: Option<(Instant, u32)>,
    /// Never again in this life: its contents went back, or a write is unclear.
    pub(super) lost: bool,
    /// Lost, because a write of ours is unclear.
    pub(super) unclear: bool,
    /// The last heartbeat write failed.
    pub(super) write_fails: bool,
    /// Newest heartbeat and view given to a write.
    pub(super) beat_issued: u64,
    pub(super) view_issued: u64,
}

impl File {
    pub(super) fn new() -> File {
        File {
            writing: BTreeMap::new(),
            acked: BTreeMap::new(),
            reading: None,
            read_wanted: true,
            beaten: None,
            answered: None,
            round: None,
            snapshot: None,
            known: BTreeMap::new(),
            trouble: None,
            torn: None,
            lost: false,
            unclear: false,
            write_fails: false,
            beat_issued: 0,
            view_issued: 0,
        }
    }

    /// One write in flight per sector (rule 3).
    pub(super) fn may_write(&self, kind: SectorKind) -> bool {
        !self.lost && !self.writing.contains_key(&kind)
    }

    pub(super) fn may_read(&self) -> bool {
        !self.lost && self.reading.is_none()
    }

    /// Whether the heartbeat of this number, which says "gone", is durable here.
    pub(super) fn says_gone(&self, sequence: u64, beat: &Heartbeat) -> bool {
        beat.standing == Standing::Gone && self.acked(SectorKind::Heartbeat) == sequence
    }

    pub(super) fn is_beaten(&self) -> bool {
        self.beaten.is_some()
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.writing.is_empty()
    }

    pub(super) fn write_begins(&mut self, kind: SectorKind, sequence: u64, now: Instant) {
        self.writing.insert(kind, Writing { sequence, since: now });
    }

    /// The write that was in flight, when this answers it.
    pub(super) fn write_ended(&mut self, kind: SectorKind, sequence: u64) -> Option<Writing> {
        if self.writing.get(&kind)?.sequence != sequence {
            return None;
        }
        self.writing.remove(&kind)
    }

    /// A write is durable.
    pub(super) fn durable(&mut self, who: (ThreadId, Incarnation), kind: SectorKind, write: Writing) {
        let acked = self.acked.entry(kind).or_default();
        *acked = (*acked).max(write.sequence);
        match kind {
            SectorKind::Heartbeat => {
                self.write_fails = false;
                self.beaten = Some(write.since);
            }
            SectorKind::Ballot | SectorKind::View => self.learn((who.0, kind), (who.1, write.sequence)),
            SectorKind::Guard => {}
        }
    }

    /// The file has acknowledged a write of this age.
    pub(super) fn learn(&mut self, which: Which, age: Age) {
        let known = self.known.entry(which).or_default();
        *known = (*known).max(age);
    }

    /// Highest sequence acknowledged.
    pub(super) fn acked(&self, kind: SectorKind) -> u64 {
        self.acked.get(&kind).copied().unwrap_or(0)
    }

    pub(super) fn read_begins(&mut self, ticket: u64, now: Instant) {
        self.read_wanted = false;
        self.reading = Some(Reading { ticket, since: now, round: self.beaten.take(), required: self.known.clone() });
    }

    /// The read that was in flight, when this answers it.
    pub(super) fn read_ended(&mut self, ticket: u64) -> Option<Reading> {
        if self.reading.as_ref()?.ticket != ticket {
            return None;
        }
        self.reading.take()
    }

    /// Whether what was read is believed: nothing that the file had acknowledged is missing.
    ///
    /// # Errors
    /// What went back.
    pub(super) fn believe(&self, reading: &Reading, snapshot: &Snapshot) -> Result<Accepted, FileTrouble> {
        for ((instance, kind), had) in &reading.required {
            let head = usize::from(instance.0).checked_sub(1).and_then(|at| snapshot.instances.get(at)?.head(*kind));
            // Not whole is not an answer either, and said elsewhere.
            if let Some(head) = head
                && head.age() < *had
            {
                return Err(FileTrouble::WentBack { kind: *kind, instance: *instance, had: *had, found: head.age() });
            }
        }
        // What was seen isn't known to be durable: a read beside a write sees old or new, and so may the next one.
        Ok(Accepted { round: reading.round })
    }

    /// How long the oldest I/O has been in flight.
    pub(super) fn stuck(&self, now: Instant) -> Duration {
        let since = self.writing.values().map(|write| write.since).chain(self.reading.iter().map(|read| read.since)).min();
        since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Notes a trouble; true when it is news.
    pub(super) fn fails(&mut self, why: &FileTrouble) -> bool {
        let news = self.trouble.as_ref().is_none_or(|old| std::mem::discriminant(old) != std::mem::discriminant(why));
        if news && !self.lost {
            self.trouble = Some(why.clone());
        }
        news && !self.lost
    }

    /// A sector isn't whole. A read beside a write may see half of it: the next ones tell, a few of them at once. Returns for how long that has
    /// been so.
    pub(super) fn torn(&mut self, now: Instant) -> Duration {
        let (since, reads) = self.torn.unwrap_or((now, 0));
        self.torn = Some((since, reads + 1));
        self.read_wanted |= reads < READ_AGAIN;
        now.since(since)
    }

    /// Notes that all is well; true when it is news.
    pub(super) fn works(&mut self) -> bool {
        self.torn = None;
        !self.lost && !self.write_fails && self.trouble.take().is_some()
    }
}
