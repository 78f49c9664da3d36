//! Faults that a test asks of simulated media: which I/O is struck, how, how often.
//!
//! A [`Fault`] is built from a kind and conditions that must all hold; without conditions it strikes the next I/O of its kind, once.
//! Each strike is counted ([`Counters`]), so that a test can prove that it reached what it was written for.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::base::{Instant, Random};

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FaultKind {
    /// A read fails with EIO.
    ReadError,
    /// A write fails with EIO; nothing, part or all of it landed, and what did isn't durable.
    WriteError,
    /// A write, growth or creation finds no room. Nothing lands.
    Full,
    /// The first part of a write lands, not durable; the caller is told EIO.
    ShortWrite,
    /// A sync fails with EIO: each write it covered is durable or lost for good, while reads go on to see it until the crash. Later
    /// syncs succeed and don't bring it back.
    SyncError,
    /// A growth fails with EIO; nothing changed.
    GrowError,
    /// A write is acknowledged and never lands.
    LostWrite,
    /// A write is acknowledged and lands at another offset of the file.
    MisdirectedWrite,
    /// The I/O takes this many times as long.
    Slow(u32),
    /// The I/O doesn't complete before the moment given with [`Fault::until`]: storage that hangs.
    Stall,
}

/// What an I/O does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Operation {
    /// [`crate::disk::Disk::read`]
    Read,
    /// [`crate::disk::Disk::write`]
    Write,
    /// [`crate::disk::Disk::sync`]
    Sync,
    /// [`crate::disk::Disk::grow`]
    Grow,
    /// [`crate::disk::Disk::open`] with creation.
    Create,
}

impl FaultKind {
    fn strikes(self, operation: Operation) -> bool {
        use Operation as O;
        match self {
            FaultKind::ReadError => operation == O::Read,
            FaultKind::WriteError | FaultKind::ShortWrite | FaultKind::LostWrite | FaultKind::MisdirectedWrite => operation == O::Write,
            FaultKind::Full => matches!(operation, O::Write | O::Grow | O::Create),
            FaultKind::SyncError => operation == O::Sync,
            FaultKind::GrowError => operation == O::Grow,
            FaultKind::Slow(_) | FaultKind::Stall => operation != O::Create,
        }
    }
}

/// A fault and when it strikes.
#[derive(Clone, Debug)]
pub struct Fault {
    kind: FaultKind,
    operation: Option<Operation>,
    file: Option<PathBuf>,
    disk: Option<u32>,
    range: Range<u64>,
    from_io: u64,
    until: Instant,
    chance: f64,
    times: u64,
}

impl Fault {
    /// Strikes once, at the next I/O that fits.
    pub fn new(kind: FaultKind) -> Fault {
        Fault {
            kind,
            operation: None,
            file: None,
            disk: None,
            range: 0..u64::MAX,
            from_io: 0,
            until: Instant(u64::MAX),
            chance: 1.0,
            times: 1,
        }
    }

    /// Only this operation (for kinds that strike several).
    pub fn on(self, operation: Operation) -> Fault {
        Fault { operation: Some(operation), ..self }
    }

    /// Only I/O on this file.
    pub fn file(self, path: impl AsRef<Path>) -> Fault {
        Fault { file: Some(path.as_ref().to_owned()), ..self }
    }

    /// Only I/O of this disk ([`super::MemoryDisk::number`]): one process's way to the media.
    pub fn disk(self, number: u32) -> Fault {
        Fault { disk: Some(number), ..self }
    }

    /// Only reads and writes that touch these bytes. Syncs, growths and creations touch no bytes: they count as touching all.
    pub fn range(self, bytes: Range<u64>) -> Fault {
        Fault { range: bytes, ..self }
    }

    /// Not before the I/O with this number, counted over the media's life ([`super::MemoryMedia::io_count`] is the next one's).
    pub fn from_io(self, number: u64) -> Fault {
        Fault { from_io: number, ..self }
    }

    /// Not any more at this time of the disk's runtime.
    pub fn until(self, time: Instant) -> Fault {
        Fault { until: time, ..self }
    }

    /// Each I/O that fits is struck with this probability, drawn from the media's seed.
    pub fn chance(self, probability: f64) -> Fault {
        Fault { chance: probability, ..self }
    }

    /// So many times at most.
    pub fn times(self, times: u64) -> Fault {
        Fault { times, ..self }
    }

    /// Without end.
    pub fn forever(self) -> Fault {
        self.times(u64::MAX)
    }
}

/// What is known of an I/O when faults are chosen.
pub(super) struct Target<'a> {
    pub(super) operation: Operation,
    pub(super) path: &'a Path,
    /// The disk that does it.
    pub(super) disk: u32,
    /// The bytes read or written; all of the file for the others.
    pub(super) range: Range<u64>,
    pub(super) number: u64,
    pub(super) now: Instant,
}

/// What strikes an I/O.
pub(super) struct Strike {
    /// It takes so many times as long.
    pub(super) slow: u32,
    /// It doesn't complete before.
    pub(super) held_until: Instant,
    /// What else goes wrong: the first fault that fits.
    pub(super) fault: Option<FaultKind>,
}

/// The faults asked for and not used up.
#[derive(Default)]
pub(super) struct Faults {
    rules: Vec<Fault>,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.rules.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// What strikes this I/O; counts and uses it up.
    pub(super) fn strike(&mut self, target: &Target<'_>, random: &mut Random, counters: &mut Counters) -> Strike {
        let mut strike = Strike { slow: 1, held_until: Instant::default(), fault: None };
        for rule in &mut self.rules {
            let is_delay = matches!(rule.kind, FaultKind::Slow(_) | FaultKind::Stall);
            if (strike.fault.is_some() && !is_delay) || !rule.fits(target) || !random.chance(rule.chance) {
                continue;
            }
            rule.times -= 1;
            match rule.kind {
                FaultKind::Slow(factor) => strike.slow = factor.max(strike.slow),
                FaultKind::Stall => strike.held_until = rule.until.max(strike.held_until),
                kind => strike.fault = Some(kind),
            }
            counters.count(rule.kind, target.operation);
        }
        self.rules.retain(|rule| rule.times > 0);
        strike
    }
}

impl Fault {
    fn fits(&self, target: &Target<'_>) -> bool {
        self.times > 0
            && self.kind.strikes(target.operation)
            && self.operation.is_none_or(|operation| operation == target.operation)
            && self.file.as_ref().is_none_or(|file| file == target.path)
            && self.disk.is_none_or(|disk| disk == target.disk)
            && self.range.start < target.range.end
            && target.range.start < self.range.end
            && target.number >= self.from_io
            && target.now < self.until
    }
}

/// How much of what came up: I/O by operation, strikes by kind of fault, outcomes of crashes and reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Reads submitted.
    pub reads: u64,
    /// Writes submitted.
    pub writes: u64,
    /// Syncs submitted.
    pub syncs: u64,
    /// Growths submitted.
    pub grows: u64,
    /// Strikes of [`FaultKind::ReadError`].
    pub read_errors: u64,
    /// Strikes of [`FaultKind::WriteError`].
    pub write_errors: u64,
    /// Strikes of [`FaultKind::Full`], and refusals because of the capacity.
    pub full: u64,
    /// Strikes of [`FaultKind::ShortWrite`].
    pub short_writes: u64,
    /// Strikes of [`FaultKind::SyncError`].
    pub sync_errors: u64,
    /// Strikes of [`FaultKind::GrowError`].
    pub grow_errors: u64,
    /// Strikes of [`FaultKind::LostWrite`].
    pub lost_writes: u64,
    /// Strikes of [`FaultKind::MisdirectedWrite`].
    pub misdirected_writes: u64,
    /// Strikes of [`FaultKind::Slow`].
    pub slow: u64,
    /// Strikes of [`FaultKind::Stall`].
    pub stalls: u64,
    /// Bits flipped by [`super::MemoryMedia::flip`].
    pub flips: u64,
    /// Reads that saw a write in flight, by sector old or new.
    pub mixed_reads: u64,
    /// Crashes.
    pub crashes: u64,
}

impl Counters {
    fn count(&mut self, kind: FaultKind, operation: Operation) {
        let counter = match kind {
            FaultKind::ReadError => &mut self.read_errors,
            FaultKind::WriteError => &mut self.write_errors,
            FaultKind::Full => &mut self.full,
            FaultKind::ShortWrite => &mut self.short_writes,
            FaultKind::SyncError => &mut self.sync_errors,
            FaultKind::GrowError => &mut self.grow_errors,
            FaultKind::LostWrite => &mut self.lost_writes,
            FaultKind::MisdirectedWrite => &mut self.misdirected_writes,
            FaultKind::Slow(_) => &mut self.slow,
            FaultKind::Stall => &mut self.stalls,
        };
        *counter += 1;
        tracing::debug!(?kind, ?operation, "a fault strikes");
    }

    pub(super) fn submitted(&mut self, operation: Operation) {
        match operation {
            Operation::Read => self.reads += 1,
            Operation::Write => self.writes += 1,
            Operation::Sync => self.syncs += 1,
            Operation::Grow => self.grows += 1,
            Operation::Create => {}
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Sync => "sync",
            Operation::Grow => "grow",
            Operation::Create => "create",
        })
    }
}
