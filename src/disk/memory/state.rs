//! What simulated media hold and may lose: a state machine without clock, locks or hidden randomness.
//!
//! Every change goes through [`MediaState::apply`] with an [`Event`] that says all of it, so a journal of events replays to exactly the
//! same state, and [`MediaState::crash`] of that is exactly what a crash at that point could have left.
//!
//! Per file there are two images and a list. `durable` survives anything; `view` is what reads see (a page cache). In between lie the
//! volatile pieces, in order of their completion: each was written, isn't durable, and may survive a crash or not.
//! `durable` + all volatile pieces in order = `view`, except for what a failed sync lost: that stays visible until the crash.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::Durability;
use super::image::Image;
use crate::base::Random;

/// What a device writes without tearing at all.
pub const SECTOR: usize = 512;

/// One thing that happened to the media, complete enough to replay it.
#[derive(Clone, Debug)]
pub enum Event {
    /// A file was made, zeroed, durable. Its number is the count of files made before it.
    Created {
        /// Its path.
        path: PathBuf,
        /// In bytes.
        length: u64,
    },
    /// A write was submitted.
    WriteSubmitted {
        /// Number of the I/O.
        io: u64,
        /// Number of the file.
        file: u32,
        /// In bytes.
        offset: u64,
        /// What is written.
        bytes: Arc<[u8]>,
        /// What was asked for.
        durability: Durability,
    },
    /// It completed: the caller hears of it now.
    WriteCompleted {
        /// Number of the I/O.
        io: u64,
        /// What became of it.
        landing: Landing,
    },
    /// A sync was submitted. It covers the writes of the file that have completed.
    SyncSubmitted {
        /// Number of the I/O.
        io: u64,
        /// Number of the file.
        file: u32,
    },
    /// It completed.
    SyncCompleted {
        /// Number of the I/O.
        io: u64,
        /// When it failed: the seed that says which covered writes are kept and which are lost.
        failed: Option<u64>,
    },
    /// A growth was submitted.
    GrowSubmitted {
        /// Number of the I/O.
        io: u64,
        /// Number of the file.
        file: u32,
        /// New length in bytes.
        length: u64,
    },
    /// It completed.
    GrowCompleted {
        /// Number of the I/O.
        io: u64,
        /// Whether it succeeded; else nothing changed.
        grown: bool,
    },
    /// Bytes changed on the media behind everyone's back (rot, a flipped bit, a test's own doing).
    Poked {
        /// Number of the file.
        file: u32,
        /// In bytes.
        offset: u64,
        /// The new bytes.
        bytes: Arc<[u8]>,
    },
    /// A file was cut behind everyone's back.
    Truncated {
        /// Number of the file.
        file: u32,
        /// New length in bytes.
        length: u64,
    },
    /// The power failed, with this seed.
    Crashed {
        /// Decides what of the not yet durable survives.
        seed: u64,
    },
    /// The I/O of dead processes drained: each landed or never reached the kernel, by this seed; what was completed stays in the page cache.
    Settled {
        /// The I/O concerned.
        ios: Vec<u64>,
        /// Decides.
        seed: u64,
    },
    /// The caller's mark, such as "group 17 is acknowledged".
    Mark(u64),
}

/// What became of a write that completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Landing {
    /// All of it landed where it should.
    Whole,
    /// It landed at another offset.
    Elsewhere(u64),
    /// Nothing landed, whatever was said.
    Lost,
    /// Only this many bytes landed, and the caller was told of an error; not durable.
    Prefix(usize),
    /// An error; which sectors landed is up to this seed; not durable.
    Unclear(u64),
}

/// Part of a write that landed but isn't durable.
#[derive(Clone)]
struct Piece {
    /// Place in the order of completions of this file.
    order: u64,
    offset: u64,
    bytes: Arc<[u8]>,
    /// Which of `bytes` this is; `offset` is that of its start.
    part: Range<usize>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.offset + self.part.len() as u64
    }

    fn data(&self) -> &[u8] {
        &self.bytes[self.part.clone()]
    }

    /// The part of this piece in `range` (relative to its start).
    fn cut(&self, range: Range<usize>) -> Piece {
        let part = self.part.start + range.start..self.part.start + range.end;
        Piece { order: self.order, offset: self.offset + range.start as u64, bytes: self.bytes.clone(), part }
    }
}

/// A file on the media.
#[derive(Clone)]
pub(super) struct FileState {
    pub(super) path: PathBuf,
    durable: Image,
    pub(super) view: Image,
    volatile: Vec<Piece>,
    completions: u64,
}

/// An I/O that was submitted and has not completed.
#[derive(Clone)]
enum Flight {
    Write { file: u32, offset: u64, bytes: Arc<[u8]>, durability: Durability },
    Sync { file: u32, upto: u64 },
    Grow { file: u32, length: u64 },
}

/// How often each outcome of a crash, sync or read came up: tests check that the interesting ones are reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcomes {
    /// Writes that a crash kept whole.
    pub kept: u64,
    /// Writes that a crash lost whole.
    pub lost: u64,
    /// Writes of which a crash kept the first sectors only.
    pub torn_prefix: u64,
    /// Writes of which a crash kept some sectors.
    pub torn_sectors: u64,
    /// Writes that a failed sync made durable all the same.
    pub sync_kept: u64,
    /// Writes that a failed sync lost.
    pub sync_lost: u64,
}

/// The media at one point.
#[derive(Clone, Default)]
pub(super) struct MediaState {
    pub(super) files: Vec<FileState>,
    flights: BTreeMap<u64, Flight>,
    pub(super) outcomes: Outcomes,
    pub(super) atomic_write: usize,
}

impl FileState {
    fn new(path: PathBuf, length: u64) -> FileState {
        FileState { path, durable: Image::new(length), view: Image::new(length), volatile: Vec::new(), completions: 0 }
    }

    /// A piece landed in the page cache.
    fn land(&mut self, offset: u64, bytes: &Arc<[u8]>, part: Range<usize>) {
        self.view.write(offset, &bytes[part.clone()]);
        self.volatile.push(Piece { order: self.completions, offset, bytes: bytes.clone(), part });
    }

    /// Bytes landed on durable media: older pieces below them can't come up again.
    fn land_durable(&mut self, offset: u64, bytes: &[u8]) {
        self.view.write(offset, bytes);
        self.durable.write(offset, bytes);
        let end = offset + bytes.len() as u64;
        let overlaps = |piece: &Piece| piece.offset < end && piece.end() > offset;
        if !self.volatile.iter().any(overlaps) {
            return;
        }
        let pieces = std::mem::take(&mut self.volatile);
        for piece in pieces {
            if !overlaps(&piece) {
                self.volatile.push(piece);
                continue;
            }
            if piece.offset < offset {
                self.volatile.push(piece.cut(0..(offset - piece.offset) as usize));
            }
            if piece.end() > end {
                self.volatile.push(piece.cut((end - piece.offset) as usize..piece.part.len()));
            }
        }
    }

    /// Takes out the pieces that a sync submitted at `upto` covers.
    fn take_covered(&mut self, upto: u64) -> Vec<Piece> {
        let (covered, rest) = std::mem::take(&mut self.volatile).into_iter().partition(|piece| piece.order <= upto);
        self.volatile = rest;
        covered
    }
}

impl MediaState {
    /// Takes in one event. Events of I/O that is not in flight (any more) change nothing.
    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Created { path, length } => self.files.push(FileState::new(path.clone(), *length)),
            Event::WriteSubmitted { io, file, offset, bytes, durability } => {
                let flight = Flight::Write { file: *file, offset: *offset, bytes: bytes.clone(), durability: *durability };
                self.flights.insert(*io, flight);
            }
            Event::SyncSubmitted { io, file } => {
                let upto = self.files[*file as usize].completions;
                self.flights.insert(*io, Flight::Sync { file: *file, upto });
            }
            Event::GrowSubmitted { io, file, length } => {
                self.flights.insert(*io, Flight::Grow { file: *file, length: *length });
            }
            Event::WriteCompleted { io, landing } => self.write_completed(*io, *landing),
            Event::SyncCompleted { io, failed } => self.sync_completed(*io, *failed),
            Event::GrowCompleted { io, grown } => {
                if let Some(Flight::Grow { file, length }) = self.flights.remove(io)
                    && *grown
                {
                    self.grow(file, length);
                }
            }
            Event::Poked { file, offset, bytes } => {
                let file = &mut self.files[*file as usize];
                file.view.write(*offset, bytes);
                file.durable.write(*offset, bytes);
            }
            Event::Truncated { file, length } => {
                let file = &mut self.files[*file as usize];
                file.view.set_length(*length);
                file.durable.set_length(*length);
            }
            Event::Crashed { seed } => self.crash(*seed),
            Event::Settled { ios, seed } => self.settle(ios, *seed),
            Event::Mark(_) => {}
        }
    }

    fn write_completed(&mut self, io: u64, landing: Landing) {
        let Some(Flight::Write { file, offset, bytes, durability }) = self.flights.remove(&io) else { return };
        let file = &mut self.files[file as usize];
        file.completions += 1;
        let at = match landing {
            Landing::Whole => offset,
            Landing::Elsewhere(at) => at,
            Landing::Lost => return,
            Landing::Prefix(count) => {
                file.land(offset, &bytes, 0..count);
                return;
            }
            Landing::Unclear(seed) => {
                let fate = Fate::draw(&mut Random::new(seed), 0.5, bytes.len() / SECTOR);
                fate.ranges().for_each(|range| file.land(offset + range.start as u64, &bytes, range));
                return;
            }
        };
        match durability {
            Durability::Buffered => file.land(at, &bytes, 0..bytes.len()),
            Durability::Durable => file.land_durable(at, &bytes),
        }
    }

    fn sync_completed(&mut self, io: u64, failed: Option<u64>) {
        let Some(Flight::Sync { file, upto }) = self.flights.remove(&io) else { return };
        let file = &mut self.files[file as usize];
        let mut random = failed.map(Random::new);
        for piece in file.take_covered(upto) {
            let kept = random.as_mut().is_none_or(|random| random.chance(0.5));
            if kept {
                file.durable.write(piece.offset, piece.data());
            }
            if failed.is_some() {
                *(if kept { &mut self.outcomes.sync_kept } else { &mut self.outcomes.sync_lost }) += 1;
            }
        }
    }

    fn grow(&mut self, file: u32, length: u64) {
        let file = &mut self.files[file as usize];
        if length > file.view.length() {
            file.view.set_length(length);
            file.durable.set_length(length);
        }
    }

    /// Bytes as a read that completes now sees them: of each sector that a write in flight covers, old or new by `random`.
    /// Returns whether there was such a choice.
    pub(super) fn read(&self, file: u32, offset: u64, into: &mut [u8], random: &mut Random) -> bool {
        self.files[file as usize].view.read(offset, into);
        let (end, mut mixed) = (offset + into.len() as u64, false);
        for flight in self.flights.values() {
            let Flight::Write { file: other, offset: start, bytes, .. } = flight else { continue };
            let (from, to) = (offset.max(*start), end.min(start + bytes.len() as u64));
            if *other != file || from >= to {
                continue;
            }
            mixed = true;
            for sector in (from..to).step_by(SECTOR) {
                if random.chance(0.5) {
                    let source = (sector - start) as usize;
                    let target = (sector - offset) as usize;
                    into[target..target + SECTOR].copy_from_slice(&bytes[source..source + SECTOR]);
                }
            }
        }
        mixed
    }

    /// The power fails: what is not durable survives or not, by write and by sector, as `seed` says. Nothing is in flight afterwards.
    ///
    /// Each crash first draws how much it keeps (from nothing to all), so that the extremes come up as well as every mixture.
    pub(super) fn crash(&mut self, seed: u64) {
        let mut random = Random::new(seed);
        let keep = *random.pick(&[0.0, 0.1, 0.5, 0.5, 0.9, 1.0]);
        for file in &mut self.files {
            for piece in std::mem::take(&mut file.volatile) {
                let fate = self.outcomes.draw(&mut random, keep, &piece, self.atomic_write);
                fate.ranges().for_each(|range| {
                    let part = piece.cut(range);
                    file.durable.write(part.offset, part.data());
                });
            }
        }
        let mut flights: Vec<Flight> = std::mem::take(&mut self.flights).into_values().collect();
        random.shuffle(&mut flights);
        for flight in flights {
            match flight {
                Flight::Write { file, offset, bytes, .. } => {
                    let part = 0..bytes.len();
                    let piece = Piece { order: 0, offset, bytes, part };
                    let fate = self.outcomes.draw(&mut random, keep, &piece, self.atomic_write);
                    let image = &mut self.files[file as usize].durable;
                    fate.ranges().for_each(|range| {
                        let part = piece.cut(range);
                        image.write(part.offset, part.data());
                    });
                }
                Flight::Sync { .. } => {}
                Flight::Grow { file, length } => {
                    if random.chance(keep) {
                        self.grow(file, length);
                    }
                }
            }
        }
        for file in &mut self.files {
            file.view = file.durable.clone();
        }
    }

    /// A process died with `ios` in flight, the machine did not: each of them is done as a whole, in part (a prefix) or not at all.
    fn settle(&mut self, ios: &[u64], seed: u64) {
        let mut random = Random::new(seed);
        let mut ios = ios.to_vec();
        random.shuffle(&mut ios);
        for io in ios {
            let done = random.chance(0.6);
            match self.flights.get(&io) {
                Some(Flight::Write { offset, bytes, .. }) => {
                    let atomic = bytes.len() <= self.atomic_write && offset.is_multiple_of(bytes.len() as u64);
                    let landing = match random.below(10) {
                        _ if done => Landing::Whole,
                        0 if !atomic => Landing::Prefix(random.index(bytes.len() / SECTOR) * SECTOR),
                        _ => Landing::Lost,
                    };
                    self.write_completed(io, landing);
                }
                Some(Flight::Sync { .. }) if done => self.sync_completed(io, None),
                Some(Flight::Grow { file, length }) if done => {
                    let (file, length) = (*file, *length);
                    self.grow(file, length);
                }
                _ => {}
            }
            self.flights.remove(&io);
        }
    }

    /// Makes everything that reads see durable, and forgets what is in flight: the media after an orderly end.
    pub(super) fn flush(&mut self) {
        self.flights.clear();
        for file in &mut self.files {
            file.volatile.clear();
            file.durable = file.view.clone();
        }
    }
}

impl Outcomes {
    fn draw(&mut self, random: &mut Random, keep: f64, piece: &Piece, atomic_write: usize) -> Fate {
        let length = piece.part.len();
        let whole = length <= atomic_write && length.is_power_of_two() && piece.offset.is_multiple_of(length as u64);
        let fate = if whole || length <= SECTOR {
            if random.chance(keep) { Fate::Whole(length) } else { Fate::Nothing }
        } else {
            Fate::draw(random, keep, length / SECTOR)
        };
        match fate {
            Fate::Whole(_) => self.kept += 1,
            Fate::Nothing => self.lost += 1,
            Fate::Prefix(_) => self.torn_prefix += 1,
            Fate::Sectors(_) => self.torn_sectors += 1,
        }
        fate
    }
}

/// Which part of a write survives.
enum Fate {
    Nothing,
    Whole(usize),
    Prefix(usize),
    Sectors(Vec<bool>),
}

impl Fate {
    fn draw(random: &mut Random, keep: f64, sectors: usize) -> Fate {
        // Torn only where the crash is neither the mildest nor the harshest.
        let torn = keep > 0.0 && keep < 1.0 && sectors > 1;
        match random.below(10) {
            0..=1 if torn => Fate::Prefix(random.within(1..sectors as u64) as usize * SECTOR),
            2..=4 if torn => Fate::Sectors((0..sectors).map(|_| random.chance(keep)).collect()),
            _ if random.chance(keep) => Fate::Whole(sectors * SECTOR),
            _ => Fate::Nothing,
        }
    }

    /// The surviving byte ranges.
    fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let (first, rest): (usize, &[bool]) = match self {
            Fate::Nothing => (0, &[]),
            Fate::Whole(length) | Fate::Prefix(length) => (*length, &[]),
            Fate::Sectors(sectors) => (0, sectors),
        };
        let sectors = rest.iter().enumerate().filter(|(_, kept)| **kept).map(move |(number, _)| number * SECTOR..(number + 1) * SECTOR);
        std::iter::once(0..first).filter(|range| !range.is_empty()).chain(sectors)
    }
}
