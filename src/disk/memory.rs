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
mod media;
mod state;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Access, Buffer, BufferPool, Disk, DiskError, Durability, FileId, IoOutcome};
use crate::base::{BoxFuture, Random, Seams};
use faults::Target;
pub use faults::{Counters, Fault, FaultKind, Operation};
pub use journal::Journal;
use media::Inner;
pub use media::MemoryMedia;
pub use state::{Event, Landing, Outcomes, SECTOR};

const EIO: i32 = 5;
const ENOENT: i32 = 2;
const EBADF: i32 = 9;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;

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
            inner.disks.insert(number, media::DiskState::default());
            number
        };
        MemoryDisk { media: media.clone(), seams, number, delays, open: Mutex::new(Vec::new()) }
    }

    /// Its number among the disks of its media, for [`Fault::disk`].
    pub fn number(&self) -> u32 {
        self.number
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
        let now = self.seams.now();
        let target = Target { operation, path, disk: self.number, range, number, now };
        let Inner { faults, random, counters, disks, .. } = inner;
        let strike = faults.strike(&target, random, counters);
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
        let delay = (Duration::from_nanos(usual) * strike.slow).max(strike.held_until.since(now));
        Some(Io { number, delay, fault: strike.fault })
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
                let target = Target { operation: Operation::Create, path, disk: self.number, range: 0..u64::MAX, number, now };
                let Inner { faults, random, counters, .. } = &mut *inner;
                let struck = faults.strike(&target, random, counters).fault.is_some();
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

    fn is_device(&self, _: FileId) -> bool {
        false
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
