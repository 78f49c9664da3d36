//! The simulated disk: files in memory, I/O that takes random virtual time and completes in any order, crashes that lose what was not
//! durable, and faults on demand. Everything is decided by seeds.
//!
//! [`MemoryMedia`] is what survives: clone the handle, open a [`MemoryDisk`] over it for each simulated process. Two ends of a process:
//! - **Power failure**: [`MemoryMedia::crash`]. What isn't durable survives or not, by write and by sector. All disks of the media are
//!   dead: what they had in flight never completes.
//! - **Death of the process only** (SIGKILL): kill the process in the simulator, drop its disk. What it had completed stays (page
//!   cache); its I/O in flight is unresolved, and its in-use locks are held, until [`MemoryMedia::settle`] lets it drain.
//!
//! [`MemoryMedia::record`] keeps a [`Journal`], from which the media after a crash at any point can be had.
//!
//! Invariants: a write acknowledged as durable is never lost, unless a fault was injected; reads see the newest completed write; a read
//! that meets a write in flight sees each sector old or new. No lock here is held while code of others runs.
//!
//! It doesn't model a device's own cache below `Durable`, nor order between writes: only syncs order anything.

mod faults;
mod image;
mod journal;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Access, Buffer, BufferPool, Disk, DiskError, Durability, FileId, IoOutcome};
use crate::base::{BoxFuture, Random, Seams, ThreadId};
pub use faults::{Counters, Fault, FaultKind, Operation};
use faults::{Faults, Target};
pub use journal::Journal;
use state::MediaState;
pub use state::{Event, Landing, Outcomes, SECTOR};

const EIO: i32 = 5;
const ENOENT: i32 = 2;
const EBADF: i32 = 9;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;

/// Simulated media. Cloning it gives another handle to the same; [`MemoryMedia::clone_image`] copies.
#[derive(Clone)]
pub struct MemoryMedia {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    state: MediaState,
    random: Random,
    faults: Faults,
    counters: Counters,
    capacity: u64,
    next_io: u64,
    hash: u64,
    recording: Option<(MediaState, Vec<Event>)>,
    events: u64,
    disks: BTreeMap<u32, DiskState>,
    next_disk: u32,
    /// By file and instance: the disk that holds the in-use lock.
    locks: BTreeMap<(u32, ThreadId), u32>,
}

/// What the media know of a disk that has them open.
#[derive(Default)]
struct DiskState {
    /// Its process was killed or it was dropped: it starts nothing more. Its locks go when nothing is in flight.
    dead: bool,
    /// I/O in flight, and whether the task that would complete it is gone.
    flights: BTreeMap<u64, bool>,
}

impl Inner {
    /// The only way to change the state: applied, hashed, recorded.
    fn happen(&mut self, event: Event) {
        self.state.apply(&event);
        self.events += 1;
        self.hash = crate::base::random::mix(self.hash.rotate_left(7) ^ digest(&event));
        if let Some((_, events)) = &mut self.recording {
            events.push(event);
        }
    }

    fn file(&self, path: &Path) -> Option<u32> {
        self.state.files.iter().position(|file| file.path == path).map(|index| index as u32)
    }

    fn allocated(&self) -> u64 {
        self.state.files.iter().map(|file| file.view.length()).sum()
    }

    /// Whether so many more bytes can be allocated.
    fn has_room(&mut self, more: u64) -> bool {
        let room = self.allocated().checked_add(more).is_some_and(|sum| sum <= self.capacity);
        if !room {
            self.counters.full += 1;
        }
        room
    }

    fn release_if_idle(&mut self, disk: u32) {
        if let Some(found) = self.disks.get(&disk)
            && found.dead
            && found.flights.is_empty()
        {
            self.disks.remove(&disk);
            self.locks.retain(|_, holder| *holder != disk);
        }
    }

    /// Completes the I/O unless a crash or the disk's death came first: then its caller must never hear of it.
    fn complete(&mut self, disk: u32, io: u64) -> bool {
        let open = self.disks.get_mut(&disk).is_some_and(|found| found.flights.remove(&io).is_some());
        if open {
            self.release_if_idle(disk);
        }
        open
    }
}

fn digest(event: &Event) -> u64 {
    let words = |words: &[u64]| words.iter().fold(0, |hash: u64, word| crate::base::random::mix(hash.rotate_left(9) ^ word));
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

    fn of_state(state: MediaState, seed: u64) -> MemoryMedia {
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

    /// Limits the sum of all files' lengths, in bytes; creating and growing beyond it is [`DiskError::Full`].
    pub fn set_capacity(&self, bytes: u64) {
        self.inner.lock().capacity = bytes;
    }

    /// Makes naturally aligned writes of up to `bytes` atomic ([`Disk::atomic_write_max`]); 0, the default, promises nothing.
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

/// Virtual time that I/O takes, in nanoseconds: drawn evenly from the range, one in a hundred takes ten times as long.
#[derive(Clone, Debug)]
pub struct Delays {
    /// Of a read.
    pub read: std::ops::Range<u64>,
    /// Of a write, durable or not.
    pub write: std::ops::Range<u64>,
    /// Of a sync or growth.
    pub sync: std::ops::Range<u64>,
}

impl Default for Delays {
    fn default() -> Delays {
        Delays { read: 20_000..200_000, write: 20_000..500_000, sync: 100_000..2_000_000 }
    }
}

/// [`Disk`] over [`MemoryMedia`], for one simulated process. Dropping it closes its files.
pub struct MemoryDisk {
    media: MemoryMedia,
    seams: Seams,
    number: u32,
    delays: Delays,
    open: Mutex<Vec<OpenFile>>,
}

#[derive(Clone)]
struct OpenFile {
    path: PathBuf,
    file: u32,
    writable: bool,
}

/// One I/O on its way.
struct Io {
    number: u64,
    delay: Duration,
    fault: Option<FaultKind>,
}

impl MemoryDisk {
    /// A disk of the process whose runtime is `seams`, with the usual [`Delays`].
    pub fn new(media: &MemoryMedia, seams: Seams) -> MemoryDisk {
        MemoryDisk::with_delays(media, seams, Delays::default())
    }

    /// A disk with its own delays.
    pub fn with_delays(media: &MemoryMedia, seams: Seams, delays: Delays) -> MemoryDisk {
        let number = {
            let mut inner = media.inner.lock();
            let number = inner.next_disk;
            inner.next_disk += 1;
            inner.disks.insert(number, DiskState::default());
            number
        };
        MemoryDisk { media: media.clone(), seams, number, delays, open: Mutex::new(Vec::new()) }
    }

    fn file(&self, file: FileId) -> OpenFile {
        self.open.lock()[file.0 as usize].clone()
    }

    /// Whether this disk died, by a crash or with its process.
    pub fn is_dead(&self) -> bool {
        self.media.inner.lock().disks.get(&self.number).is_none_or(|disk| disk.dead)
    }

    /// Numbers the I/O, chooses its faults and its time. Nothing when the disk is dead.
    fn begin(&self, inner: &mut Inner, operation: Operation, path: &Path, offset: u64, length: usize) -> Option<Io> {
        if inner.disks.get(&self.number).is_none_or(|disk| disk.dead) {
            return None;
        }
        let number = inner.next_io;
        inner.next_io += 1;
        inner.counters.submitted(operation);
        let bytes = matches!(operation, Operation::Read | Operation::Write);
        let range = if bytes { offset..offset.saturating_add(length as u64) } else { 0..u64::MAX };
        let target = Target { operation, path, range, number, now: self.seams.now() };
        let Inner { faults, random, counters, disks, .. } = inner;
        let (slow, fault) = faults.strike(&target, random, counters);
        if let Some(disk) = disks.get_mut(&self.number) {
            disk.flights.insert(number, false);
        }
        let mut draw = Random::new(self.seams.random());
        let range = match operation {
            Operation::Read => &self.delays.read,
            Operation::Write => &self.delays.write,
            _ => &self.delays.sync,
        };
        let usual = draw.within(range.clone()) * if draw.chance(0.01) { 10 } else { 1 };
        Some(Io { number, delay: Duration::from_nanos(usual) * slow, fault })
    }

    /// Submits the I/O (`submit` says so to the media) and runs `finish` after the I/O's time, in a task of its own: dropping the
    /// caller's future cancels nothing. When a crash or the death of the process comes first, `finish` doesn't run and the future never
    /// ends.
    fn start<T: Send + 'static>(
        &self,
        io: Io,
        submit: impl FnOnce(&mut Inner),
        finish: impl FnOnce(&mut Inner, &Io) -> T + Send + 'static,
    ) -> BoxFuture<T> {
        let (send, receive) = tokio::sync::oneshot::channel();
        let (go, submitted) = tokio::sync::oneshot::channel();
        let mut flight = FlightGuard { media: self.media.clone(), disk: self.number, io: io.number, over: false };
        let sleep = self.seams.sleep(io.delay);
        let number = io.number;
        self.seams.spawn(
            "disk I/O",
            Box::pin(async move {
                if submitted.await.is_err() {
                    return;
                }
                sleep.await;
                let result = {
                    let mut inner = flight.media.inner.lock();
                    flight.over = true;
                    inner.complete(flight.disk, flight.io).then(|| finish(&mut inner, &io))
                };
                if let Some(result) = result {
                    // The caller may have gone; the I/O happened all the same.
                    let _ = send.send(result);
                }
            }),
        );
        let mut inner = self.media.inner.lock();
        // A killed process drops the task at once. What its destructors submit, a real one would never have got to: it isn't there.
        let orphan = inner.disks.get_mut(&self.number).is_none_or(|disk| disk.flights.get(&number) != Some(&false));
        if orphan {
            inner.complete(self.number, number);
        } else {
            submit(&mut inner);
        }
        drop(inner);
        // The task has the receiver unless it was dropped.
        let _ = go.send(());
        Box::pin(async move {
            match receive.await {
                Ok(result) => result,
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn error(open: &OpenFile, operation: &'static str, offset: u64, length: usize, errno: i32, message: &str) -> DiskError {
        DiskError::Io { file: open.path.clone(), operation, offset, length, errno, message: message.to_owned() }
    }
}

/// Marks the I/O as an orphan when the task that would complete it is dropped: its process was killed.
struct FlightGuard {
    media: MemoryMedia,
    disk: u32,
    io: u64,
    over: bool,
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut inner = self.media.inner.lock();
        if let Some(disk) = inner.disks.get_mut(&self.disk)
            && let Some(orphan) = disk.flights.get_mut(&self.io)
        {
            *orphan = true;
            disk.dead = true;
        }
    }
}

impl Drop for MemoryDisk {
    fn drop(&mut self) {
        let mut inner = self.media.inner.lock();
        if let Some(disk) = inner.disks.get_mut(&self.number) {
            disk.dead = true;
        }
        inner.release_if_idle(self.number);
    }
}

/// Offsets and lengths that don't fit sectors are our own mistake.
fn check_aligned(offset: u64, length: usize) {
    let fits = offset.is_multiple_of(SECTOR as u64) && length.is_multiple_of(SECTOR);
    assert!(fits, "I/O of {length} bytes at offset {offset} is not aligned to {SECTOR} bytes");
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, access: Access) -> Result<FileId, DiskError> {
        let failed = |errno, message: &str| DiskError::Open { file: path.to_owned(), errno, message: message.to_owned() };
        let mut inner = self.media.inner.lock();
        if inner.disks.get(&self.number).is_none_or(|disk| disk.dead) {
            return Err(DiskError::Stopped { file: path.to_owned(), reason: "the simulated process or machine is dead".to_owned() });
        }
        let found = inner.file(path);
        let file = match (access, found) {
            (Access::Create(..), Some(_)) => return Err(failed(EEXIST, "file exists")),
            (Access::Read | Access::Write(_), None) => return Err(failed(ENOENT, "no such file")),
            (Access::Create(_, length), None) => {
                check_aligned(0, length as usize);
                let now = self.seams.now();
                let number = inner.next_io;
                let target = Target { operation: Operation::Create, path, range: 0..u64::MAX, number, now };
                let Inner { faults, random, counters, .. } = &mut *inner;
                let struck = faults.strike(&target, random, counters).1.is_some();
                if struck || !inner.has_room(length) {
                    return Err(DiskError::Full { file: path.to_owned(), offset: 0, length: length as usize });
                }
                inner.happen(Event::Created { path: path.to_owned(), length });
                inner.state.files.len() as u32 - 1
            }
            (_, Some(file)) => file,
        };
        if let Access::Write(instance) | Access::Create(instance, _) = access {
            if let Some(&holder) = inner.locks.get(&(file, instance)) {
                return Err(DiskError::InUse { file: path.to_owned(), instance, holder: Some(holder) });
            }
            inner.locks.insert((file, instance), self.number);
        }
        let mut open = self.open.lock();
        open.push(OpenFile { path: path.to_owned(), file, writable: access != Access::Read });
        Ok(FileId(open.len() as u32 - 1))
    }

    fn length(&self, file: FileId) -> Result<u64, DiskError> {
        let file = self.file(file).file;
        Ok(self.media.inner.lock().state.files[file as usize].view.length())
    }

    fn path(&self, file: FileId) -> PathBuf {
        self.file(file).path
    }

    fn atomic_write_max(&self, _: FileId) -> usize {
        self.media.inner.lock().state.atomic_write
    }

    fn read(&self, file: FileId, offset: u64, mut buffer: Buffer) -> BoxFuture<IoOutcome> {
        check_aligned(offset, buffer.len());
        let open = self.file(file);
        let mut inner = self.media.inner.lock();
        let Some(io) = self.begin(&mut inner, Operation::Read, &open.path, offset, buffer.len()) else {
            return Box::pin(std::future::pending());
        };
        drop(inner);
        let submit = |_: &mut Inner| {};
        self.start(io, submit, move |inner, io| {
            let length = buffer.len();
            let end = inner.state.files[open.file as usize].view.length();
            if io.fault.is_some() {
                // What a failed read leaves in the buffer is undefined: make sure that nobody uses it.
                inner.random.bytes(&mut buffer);
                return (buffer, Err(MemoryDisk::error(&open, "read", offset, length, EIO, "input/output error")));
            }
            if offset.checked_add(length as u64).is_none_or(|last| last > end) {
                return (buffer, Err(DiskError::Short { file: open.path, offset, length, end }));
            }
            let Inner { state, random, counters, .. } = inner;
            if state.read(open.file, offset, &mut buffer, random) {
                counters.mixed_reads += 1;
            }
            (buffer, Ok(()))
        })
    }

    fn write(&self, file: FileId, offset: u64, buffer: Buffer, durability: Durability) -> BoxFuture<IoOutcome> {
        check_aligned(offset, buffer.len());
        let open = self.file(file);
        let length = buffer.len();
        let mut inner = self.media.inner.lock();
        let Some(io) = self.begin(&mut inner, Operation::Write, &open.path, offset, length) else {
            return Box::pin(std::future::pending());
        };
        let end = inner.state.files[open.file as usize].view.length();
        let refused = if !open.writable {
            Some((EBADF, "the file is open for reading only"))
        } else if offset.checked_add(length as u64).is_none_or(|last| last > end) {
            Some((EINVAL, "the write goes beyond the end of the file"))
        } else {
            None
        };
        drop(inner);
        let (number, file) = (io.number, open.file);
        let bytes: Arc<[u8]> = buffer[..].into();
        let submit = |inner: &mut Inner| {
            if refused.is_none() {
                inner.happen(Event::WriteSubmitted { io: number, file, offset, bytes, durability });
            }
        };
        self.start(io, submit, move |inner, io| {
            if let Some((errno, message)) = refused {
                return (buffer, Err(MemoryDisk::error(&open, "write", offset, length, errno, message)));
            }
            let (landing, result) = land(inner, io, &open, offset, length);
            inner.happen(Event::WriteCompleted { io: io.number, landing });
            (buffer, result)
        })
    }

    fn sync(&self, file: FileId) -> BoxFuture<Result<(), DiskError>> {
        let open = self.file(file);
        let mut inner = self.media.inner.lock();
        let Some(io) = self.begin(&mut inner, Operation::Sync, &open.path, 0, 0) else {
            return Box::pin(std::future::pending());
        };
        drop(inner);
        let (number, file) = (io.number, open.file);
        let submit = |inner: &mut Inner| inner.happen(Event::SyncSubmitted { io: number, file });
        self.start(io, submit, move |inner, io| {
            let failed = io.fault.map(|_| inner.random.bits());
            inner.happen(Event::SyncCompleted { io: io.number, failed });
            match failed {
                None => Ok(()),
                Some(_) => Err(MemoryDisk::error(&open, "sync", 0, 0, EIO, "input/output error")),
            }
        })
    }

    fn grow(&self, file: FileId, length: u64) -> BoxFuture<Result<(), DiskError>> {
        check_aligned(length, 0);
        let open = self.file(file);
        let mut inner = self.media.inner.lock();
        let Some(io) = self.begin(&mut inner, Operation::Grow, &open.path, 0, 0) else {
            return Box::pin(std::future::pending());
        };
        drop(inner);
        let (number, file) = (io.number, open.file);
        let submit = |inner: &mut Inner| inner.happen(Event::GrowSubmitted { io: number, file, length });
        self.start(io, submit, move |inner, io| {
            let present = inner.state.files[open.file as usize].view.length();
            let more = length.saturating_sub(present);
            let result = match io.fault {
                Some(FaultKind::GrowError) => Err(MemoryDisk::error(&open, "grow", present, more as usize, EIO, "input/output error")),
                Some(_) => Err(DiskError::Full { file: open.path, offset: present, length: more as usize }),
                None if !inner.has_room(more) => Err(DiskError::Full { file: open.path, offset: present, length: more as usize }),
                None => Ok(()),
            };
            inner.happen(Event::GrowCompleted { io: io.number, grown: result.is_ok() });
            result
        })
    }

    fn register(&self, _: &BufferPool) {}

    fn kind(&self) -> &'static str {
        "memory"
    }
}

/// What becomes of a write that completes, and what its caller is told.
fn land(inner: &mut Inner, io: &Io, open: &OpenFile, offset: u64, length: usize) -> (Landing, Result<(), DiskError>) {
    let failed = |message: &str| Err(MemoryDisk::error(open, "write", offset, length, EIO, message));
    match io.fault {
        None => (Landing::Whole, Ok(())),
        Some(FaultKind::Full) => (Landing::Lost, Err(DiskError::Full { file: open.path.clone(), offset, length })),
        Some(FaultKind::LostWrite) => (Landing::Lost, Ok(())),
        Some(FaultKind::ShortWrite) => {
            let landed = inner.random.index((length / SECTOR).max(1)) * SECTOR;
            (Landing::Prefix(landed), failed(&format!("short write: {landed} of {length} bytes")))
        }
        Some(FaultKind::MisdirectedWrite) => {
            let end = inner.state.files[open.file as usize].view.length();
            let places = end / length as u64;
            let own = offset / length as u64;
            // Another place of the same size; in a file with no other the write is just lost.
            let others: Vec<u64> = (0..4).map(|_| inner.random.below(places.max(1))).filter(|&place| place != own).collect();
            let place = others.first().copied().or_else(|| (0..places).find(|&place| place != own));
            (place.map_or(Landing::Lost, |place| Landing::Elsewhere(place * length as u64)), Ok(()))
        }
        Some(_) => (Landing::Unclear(inner.random.bits()), failed("input/output error")),
    }
}
