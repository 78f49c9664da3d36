//! The media behind simulated disks: the state, who has it open, the faults asked for, the recording; the handle that tests use.
//!
//! [`super::MemoryDisk`] drives it. Invariant: every change of the state is an [`Event`] that goes through [`Inner::happen`], so that
//! trace and journal have all of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::faults::{Counters, Fault, Faults};
use super::journal::Journal;
use super::state::{Event, Landing, MediaState, Outcomes};
use crate::base::random::mix;
use crate::base::{Random, ThreadId};

/// Simulated media. Cloning it gives another handle to the same; [`MemoryMedia::clone_image`] copies.
#[derive(Clone)]
pub struct MemoryMedia {
    pub(super) inner: Arc<Mutex<Inner>>,
}

pub(super) struct Inner {
    pub(super) state: MediaState,
    pub(super) random: Random,
    pub(super) faults: Faults,
    pub(super) counters: Counters,
    pub(super) capacity: u64,
    pub(super) next_io: u64,
    pub(super) hash: u64,
    pub(super) recording: Option<(MediaState, Vec<Event>)>,
    pub(super) events: u64,
    pub(super) disks: BTreeMap<u32, DiskState>,
    pub(super) next_disk: u32,
    /// By file and instance: the disk that holds the in-use lock.
    pub(super) locks: BTreeMap<(u32, ThreadId), u32>,
}

/// What the media know of a disk that has them open.
#[derive(Default)]
pub(super) struct DiskState {
    /// Its process was killed or it was dropped: it starts nothing more. Its locks go when nothing is in flight.
    pub(super) dead: bool,
    /// I/O in flight, and whether the task that would complete it is gone.
    pub(super) flights: BTreeMap<u64, bool>,
}

impl Inner {
    /// The only way to change the state: applied, hashed, recorded.
    pub(super) fn happen(&mut self, event: Event) {
        self.state.apply(&event);
        self.events += 1;
        self.hash = mix(self.hash.rotate_left(7) ^ digest(&event));
        if let Some((_, events)) = &mut self.recording {
            events.push(event);
        }
    }

    pub(super) fn file(&self, path: &Path) -> Option<u32> {
        self.state.files.iter().position(|file| file.path == path).map(|index| index as u32)
    }

    fn allocated(&self) -> u64 {
        self.state.files.iter().map(|file| file.view.length()).sum()
    }

    /// Whether so many more bytes can be allocated.
    pub(super) fn has_room(&mut self, more: u64) -> bool {
        let room = self.allocated().checked_add(more).is_some_and(|sum| sum <= self.capacity);
        if !room {
            self.counters.full += 1;
        }
        room
    }

    pub(super) fn release_if_idle(&mut self, disk: u32) {
        if let Some(found) = self.disks.get(&disk)
            && found.dead
            && found.flights.is_empty()
        {
            self.disks.remove(&disk);
            self.locks.retain(|_, holder| *holder != disk);
        }
    }

    /// Completes the I/O unless a crash or the disk's death came first: then its caller must never hear of it.
    pub(super) fn complete(&mut self, disk: u32, io: u64) -> bool {
        let open = self.disks.get_mut(&disk).is_some_and(|found| found.flights.remove(&io).is_some());
        if open {
            self.release_if_idle(disk);
        }
        open
    }
}

fn digest(event: &Event) -> u64 {
    let words = |words: &[u64]| words.iter().fold(0, |hash: u64, word| mix(hash.rotate_left(9) ^ word));
    let bytes = |bytes: &[u8]| xxhash_rust::xxh3::xxh3_64(bytes);
    match event {
        Event::Created { path, length } => words(&[1, bytes(path.as_os_str().as_encoded_bytes()), *length]),
        Event::WriteSubmitted { io, file, offset, bytes: written, durability } => {
            words(&[2, *io, u64::from(*file), *offset, bytes(written), *durability as u64])
        }
        Event::WriteCompleted { io, landing } => match landing {
            Landing::Whole => words(&[3, *io]),
            Landing::Elsewhere(at) => words(&[4, *io, *at]),
            Landing::Lost => words(&[5, *io]),
            Landing::Prefix(count) => words(&[6, *io, *count as u64]),
            Landing::Unclear(seed) => words(&[7, *io, *seed]),
        },
        Event::SyncSubmitted { io, file } => words(&[8, *io, u64::from(*file)]),
        Event::SyncCompleted { io, failed } => words(&[9, *io, failed.map_or(0, |seed| seed | 1)]),
        Event::GrowSubmitted { io, file, length } => words(&[10, *io, u64::from(*file), *length]),
        Event::GrowCompleted { io, grown } => words(&[11, *io, u64::from(*grown)]),
        Event::Poked { file, offset, bytes: poked } => words(&[12, u64::from(*file), *offset, bytes(poked)]),
        Event::Truncated { file, length } => words(&[13, u64::from(*file), *length]),
        Event::Crashed { seed } => words(&[14, *seed]),
        Event::Settled { ios, seed } => words(&[15, words(ios), *seed]),
        Event::Mark(mark) => words(&[16, *mark]),
    }
}

impl MemoryMedia {
    /// Empty media; `seed` decides about faults by chance and what concurrent reads see.
    pub fn new(seed: u64) -> MemoryMedia {
        MemoryMedia::of_state(MediaState::default(), seed)
    }

    pub(super) fn of_state(state: MediaState, seed: u64) -> MemoryMedia {
        let inner = Inner {
            state,
            random: Random::new(seed),
            faults: Faults::default(),
            counters: Counters::default(),
            capacity: u64::MAX,
            next_io: 0,
            hash: 0,
            recording: None,
            events: 0,
            disks: BTreeMap::new(),
            next_disk: 0,
            locks: BTreeMap::new(),
        };
        MemoryMedia { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Asks for a fault. Several may be waiting; the first that fits an I/O strikes it (slowness adds to any other).
    pub fn inject(&self, fault: Fault) {
        self.inner.lock().faults.add(fault);
    }

    /// Forgets all faults asked for.
    pub fn clear_faults(&self) {
        self.inner.lock().faults.clear();
    }

    /// Limits the sum of all files' lengths, in bytes; creating and growing beyond it is [`crate::disk::DiskError::Full`].
    pub fn set_capacity(&self, bytes: u64) {
        self.inner.lock().capacity = bytes;
    }

    /// Makes naturally aligned writes of up to `bytes` atomic ([`crate::disk::Disk::atomic_write_max`]); 0, the default, promises nothing.
    pub fn set_atomic_write(&self, bytes: usize) {
        self.inner.lock().state.atomic_write = bytes;
    }

    /// How much of what came up.
    pub fn counters(&self) -> Counters {
        self.inner.lock().counters
    }

    /// What crashes and failed syncs did, over this media's whole history.
    pub fn outcomes(&self) -> Outcomes {
        self.inner.lock().state.outcomes
    }

    /// I/O submitted so far; the next one has this number.
    pub fn io_count(&self) -> u64 {
        self.inner.lock().next_io
    }

    /// Events so far: for crashing at the n-th.
    pub fn event_count(&self) -> u64 {
        self.inner.lock().events
    }

    /// Hash of all events with their contents: the same run gives the same.
    pub fn trace_hash(&self) -> u64 {
        self.inner.lock().hash
    }

    /// Starts a journal, dropping one that was being kept.
    pub fn record(&self) {
        let mut inner = self.inner.lock();
        inner.recording = Some((inner.state.clone(), Vec::new()));
    }

    /// Puts a mark into the journal, if one is kept. Set it *after* what it stands for has happened, as "group N is acknowledged".
    pub fn mark(&self, mark: u64) {
        self.inner.lock().happen(Event::Mark(mark));
    }

    /// Ends the recording and gives it; nothing when [`MemoryMedia::record`] was not called.
    pub fn journal(&self) -> Option<Journal> {
        let (start, events) = self.inner.lock().recording.take()?;
        Some(Journal::new(start, events))
    }

    /// The power fails now: what isn't durable survives or not, as `seed` says. All disks are dead and all locks gone.
    pub fn crash(&self, seed: u64) {
        let mut inner = self.inner.lock();
        inner.counters.crashes += 1;
        inner.happen(Event::Crashed { seed });
        inner.disks.clear();
        inner.locks.clear();
    }

    /// Lets the I/O drain whose process was killed: each landed, in part or whole, or never reached the kernel, as `seed` says. Locks of
    /// disks whose process is dead, or that were dropped, are free afterwards.
    pub fn settle(&self, seed: u64) {
        let mut inner = self.inner.lock();
        let mut ios = Vec::new();
        for disk in inner.disks.values_mut() {
            let orphans: Vec<u64> = disk.flights.iter().filter(|(_, orphan)| **orphan).map(|(&io, _)| io).collect();
            disk.flights.retain(|_, orphan| !*orphan);
            ios.extend(orphans);
        }
        inner.happen(Event::Settled { ios, seed });
        let disks: Vec<u32> = inner.disks.keys().copied().collect();
        disks.into_iter().for_each(|disk| inner.release_if_idle(disk));
    }

    /// A copy of what reads see, as after an orderly end: all durable, nothing in flight, no faults, no disks. Cheap.
    pub fn clone_image(&self) -> MemoryMedia {
        let (mut state, seed) = {
            let mut inner = self.inner.lock();
            (inner.state.clone(), inner.random.bits())
        };
        state.flush();
        MemoryMedia::of_state(state, seed)
    }

    /// Whether somebody holds the in-use lock of `instance` on a file.
    pub fn is_locked(&self, path: impl AsRef<Path>, instance: ThreadId) -> bool {
        let inner = self.inner.lock();
        inner.file(path.as_ref()).is_some_and(|file| inner.locks.contains_key(&(file, instance)))
    }

    /// Whether the disk of this number is gone and nothing of it is in flight: what it wrote has landed, and nothing follows.
    pub fn is_drained(&self, disk: u32) -> bool {
        self.inner.lock().disks.get(&disk).is_none_or(|found| found.dead && found.flights.is_empty())
    }

    /// The files, in order of their creation.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.inner.lock().state.files.iter().map(|file| file.path.clone()).collect()
    }

    /// Length of a file in bytes, if it exists.
    pub fn file_length(&self, path: impl AsRef<Path>) -> Option<u64> {
        let inner = self.inner.lock();
        inner.file(path.as_ref()).map(|file| inner.state.files[file as usize].view.length())
    }

    /// Hash of a file's length and contents as reads see them, if it exists.
    pub fn digest(&self, path: impl AsRef<Path>) -> Option<u64> {
        let inner = self.inner.lock();
        inner.file(path.as_ref()).map(|file| inner.state.files[file as usize].view.digest())
    }

    /// Bytes of a file as reads see them; zeroes behind its end.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn peek(&self, path: impl AsRef<Path>, offset: u64, length: usize) -> Vec<u8> {
        let inner = self.inner.lock();
        let file = inner.file(path.as_ref()).expect("the file peeked at exists");
        let mut bytes = vec![0; length];
        inner.state.files[file as usize].view.read(offset, &mut bytes);
        bytes
    }

    /// Changes bytes behind everyone's back, durably.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn poke(&self, path: impl AsRef<Path>, offset: u64, bytes: &[u8]) {
        let mut inner = self.inner.lock();
        let file = inner.file(path.as_ref()).expect("the file poked exists");
        inner.happen(Event::Poked { file, offset, bytes: bytes.into() });
    }

    /// Flips bit `bit` (0 to 7) of the byte at `offset`, durably.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn flip(&self, path: impl AsRef<Path>, offset: u64, bit: u8) {
        let byte = self.peek(path.as_ref(), offset, 1)[0] ^ (1 << bit);
        self.poke(path, offset, &[byte]);
        self.inner.lock().counters.flips += 1;
    }

    /// Cuts or lengthens a file behind everyone's back.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn truncate(&self, path: impl AsRef<Path>, length: u64) {
        let mut inner = self.inner.lock();
        let file = inner.file(path.as_ref()).expect("the file cut exists");
        inner.happen(Event::Truncated { file, length });
    }
}
