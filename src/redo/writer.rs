//! Appends change groups to one redo thread and makes them durable: group commit.
//!
//! ```text
//! append -> active buffer --(one write in flight)--> ring --> durable, waiters told
//! checkpoint <= durable <= written <= appended <= checkpoint + ring
//! ```
//! Callers: change groups ([`LogWriter::append`] under their page latches), commits and the page writer ([`LogWriter::force`]),
//! the checkpointer ([`LogWriter::release`]). A write takes the whole active buffer and starts a new block, so a written block never
//! changes; each block carries what was durable before it. After an idle moment another write, if need be an empty block, seals the last
//! one that somebody relies on, so that damage to it can be told from a torn tail. Room is reserved before the first latch of a group (rule 19): [`LogWriter::reserve`] never
//! waits, [`LogWriter::wait_for_room`] does. A failed write ends the thread (rule 14): every later call gets the error.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::block::{self, BLOCK_HEADER, LogIdentity, NO_GROUP, PAYLOAD};
use super::record::{GROUP_HEADER, Group};
use crate::base::limits::{LOG_BLOCK, LOG_WRITE_MAX};
use crate::base::options::LogMode;
use crate::base::runtime::join_all;
use crate::base::{Instant, Lsn, PageId, Scn, Seams, Writer};
use crate::disk::{Buffer, Disk, DiskError, Durability, FileId};
use crate::page::superblock::RING_AT;

/// Idle time after which the last write that somebody relies on is sealed. Nothing depends on it but how soon damage to that write is found.
const SEAL_AFTER: Duration = Duration::from_millis(5);

/// Why the log takes no more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// A write of redo failed or is in doubt: the instance must stop and be recovered (rule 14).
    #[error("redo can't be written, the instance stops and must be recovered: {0}")]
    Failed(DiskError),
    /// The ring is full, and only a person can make room in it. Reading goes on.
    #[error(
        "the redo ring of {ring} bytes is full, and nothing can be changed: page {} needs the log from {} on, as it could not be brought up to date or \
         written ({}). Reading goes on. Put back a whole copy of that page's data file, or mend its disk, and start the instance again; what the \
         page held can be read with `clusterctl salvage`",
        held.page, held.position, held.why
    )]
    Held {
        /// Which page, from where on, and why.
        held: HeldBy,
        /// The ring, in bytes.
        ring: u64,
    },
    /// The log was closed.
    #[error("the redo thread is closed")]
    Closed,
}

/// A page that keeps the ring from being reused until it is repaired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBy {
    /// The page.
    pub page: PageId,
    /// Its redo starts here.
    pub position: Lsn,
    /// Why it can't be written home.
    pub why: String,
}

/// There is no room at present: wait with [`LogWriter::wait_for_room`] and try again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom {
    /// In bytes, as asked for.
    pub bytes: usize,
}

/// Where a thread's log is and where it continues.
pub struct LogPlace {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The redo file.
    pub file: FileId,
    /// Which log.
    pub identity: LogIdentity,
    /// Who writes.
    pub writer: Writer,
    /// Oldest position that replay may need.
    pub checkpoint: Lsn,
    /// Where the first block goes; at the start of a block.
    pub start: Lsn,
    /// Checksum of the block before `start`; 0 when there is none.
    pub start_crc: u32,
    /// Share of the ring in use from which on the checkpointer is called, in percent.
    pub fill_percent: u8,
}

struct State {
    /// Blocks being filled; headers are written when it is taken.
    active: Buffer,
    /// Number of the block at the start of `active`.
    first: u64,
    /// Bytes of `active` in use, headers included; at a multiple of 4096 the next block isn't begun.
    fill: usize,
    /// Per begun block of `active`: offset of the first group that starts in it.
    first_groups: Vec<u16>,
    /// When `active` took its first redo.
    since: Instant,
    /// Bytes promised to groups under way.
    reserved: usize,
    /// Oldest position that replay may need: the ring is not reused before it.
    checkpoint: Lsn,
    /// Highest position that someone waits for.
    wanted: Lsn,
    waiters: VecDeque<(Lsn, oneshot::Sender<Result<(), LogError>>)>,
    /// Checksum of the last block written.
    last_crc: u32,
    /// Bytes of groups appended.
    payload: u64,
    /// What keeps the checkpoint where it is until a person helps.
    held: Option<HeldBy>,
    ended: Option<LogError>,
    closing: bool,
}

struct Shared {
    seams: Seams,
    place: LogPlace,
    mode: LogMode,
    batch_interval: Duration,
    state: Mutex<State>,
    clock: Arc<AtomicU64>,
    durable: AtomicU64,
    bytes_written: AtomicU64,
    writes: AtomicU64,
    /// Wakes the writing task.
    work: Notify,
    /// Wakes those who wait for room.
    room: Notify,
    /// Tells the checkpointer that someone waits for room.
    pressure: Notify,
    /// The writing task has ended.
    gone: Notify,
}

/// One redo thread, open for writing. Clones share it.
#[derive(Clone)]
pub struct LogWriter {
    shared: Arc<Shared>,
}

/// Room for a group, given back when dropped.
pub struct Reservation {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.reserved -= self.bytes;
        drop(state);
        self.shared.room.notify_waiters();
    }
}

/// Where an appended group lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// Its place in the cluster's order.
    pub scn: Scn,
    /// Its first byte.
    pub start: Lsn,
    /// Behind its last byte.
    pub end: Lsn,
}

/// Counters since opening.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogCounters {
    /// Bytes written to the ring.
    pub bytes: u64,
    /// Durable writes.
    pub writes: u64,
}

/// Bytes of blocks that a group of `bytes` takes at worst, alone in its write.
fn worst_case(bytes: usize) -> usize {
    (bytes.div_ceil(PAYLOAD) + 1) * LOG_BLOCK
}

impl LogWriter {
    /// Starts the writing task. `clock` is the instance's Lamport clock.
    pub fn start(seams: Seams, place: LogPlace, mode: LogMode, batch_interval: Duration, clock: Arc<AtomicU64>) -> LogWriter {
        debug_assert_eq!(place.start.offset(), 0);
        let state = State {
            active: Buffer::zeroed(LOG_WRITE_MAX),
            first: place.start.block(),
            fill: 0,
            first_groups: Vec::new(),
            since: Instant::default(),
            reserved: 0,
            checkpoint: place.checkpoint,
            wanted: Lsn(0),
            waiters: VecDeque::new(),
            last_crc: place.start_crc,
            payload: 0,
            held: None,
            ended: None,
            closing: false,
        };
        let shared = Arc::new(Shared {
            seams: seams.clone(),
            durable: AtomicU64::new(place.start.0),
            bytes_written: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            place,
            mode,
            batch_interval,
            state: Mutex::new(state),
            clock,
            work: Notify::new(),
            room: Notify::new(),
            pressure: Notify::new(),
            gone: Notify::new(),
        });
        seams.spawn("log writer", Box::pin(write_loop(shared.clone())));
        LogWriter { shared }
    }

    /// Everything before this is durable.
    pub fn durable(&self) -> Lsn {
        Lsn(self.shared.durable.load(Ordering::Acquire))
    }

    /// Everything before this has been appended: a group appended later starts here or behind.
    pub fn appended(&self) -> Lsn {
        self.shared.state.lock().end()
    }

    /// Which part of the log written since opening is groups, not headers of blocks and what their ends leave free; nothing while that is too
    /// little to tell.
    pub fn payload_share(&self) -> Option<f64> {
        let state = self.shared.state.lock();
        let written = state.end().0 - self.shared.place.start.0;
        (written >= LOG_WRITE_MAX as u64).then(|| state.payload as f64 / written as f64)
    }

    /// Bytes of the ring in use and in all.
    pub fn usage(&self) -> (u64, u64) {
        let state = self.shared.state.lock();
        (self.shared.used(&state), self.shared.ring_bytes())
    }

    /// Oldest position that replay may need.
    pub fn checkpoint(&self) -> Lsn {
        self.shared.state.lock().checkpoint
    }

    /// When a commit is acknowledged.
    pub fn mode(&self) -> LogMode {
        self.shared.mode
    }

    /// Who writes.
    pub fn writer(&self) -> Writer {
        self.shared.place.writer
    }

    /// Counters since opening.
    pub fn counters(&self) -> LogCounters {
        LogCounters { bytes: self.shared.bytes_written.load(Ordering::Relaxed), writes: self.shared.writes.load(Ordering::Relaxed) }
    }

    /// Reserves room for a group of up to `bytes`, without waiting.
    ///
    /// # Errors
    /// Inner: no room at present. Outer: the log has ended.
    pub fn reserve(&self, bytes: usize) -> Result<Result<Reservation, NoRoom>, LogError> {
        let worst = worst_case(bytes);
        let mut state = self.shared.state.lock();
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        if !self.shared.has_room(&state, worst) {
            return Ok(Err(NoRoom { bytes }));
        }
        state.reserved += worst;
        Ok(Ok(Reservation { shared: self.shared.clone(), bytes: worst }))
    }

    /// Waits until a group of `bytes` would have room, pressing for writes and an early checkpoint meanwhile. Others may be faster: reserve again.
    ///
    /// # Errors
    /// The log has ended, or there will be no room before a page is repaired ([`LogError::Held`]).
    pub async fn wait_for_room(&self, bytes: usize) -> Result<(), LogError> {
        let worst = worst_case(bytes);
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut state = self.shared.state.lock();
                if let Some(error) = &state.ended {
                    return Err(error.clone());
                }
                if self.shared.has_room(&state, worst) {
                    return Ok(());
                }
                if let Some(held) = &state.held
                    && !self.shared.ring_takes(&state, worst)
                {
                    return Err(LogError::Held { held: held.clone(), ring: self.shared.ring_bytes() });
                }
                state.wanted = state.end();
            }
            self.shared.work.notify_one();
            self.shared.pressure.notify_one();
            room.await;
        }
    }

    /// Completes when someone waits for room in the ring, or it is filling up.
    pub async fn under_pressure(&self) {
        self.shared.pressure.notified().await;
    }

    /// Appends an encoded group and draws its SCN: above the clock and above `floor`, the newest version among its pages.
    /// Called with the group's pages latched, so that a page's changes lie in the log in the order they were made.
    ///
    /// # Errors
    /// The log has ended; nothing was appended.
    pub fn append(&self, group: &mut [u8], floor: Scn, reservation: &Reservation) -> Result<Appended, LogError> {
        debug_assert!(worst_case(group.len()) <= reservation.bytes, "a group of {} bytes outgrew its reservation", group.len());
        let mut state = self.shared.state.lock();
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        let clock = &self.shared.clock;
        let scn = Scn(clock.load(Ordering::Acquire)).max(floor).next();
        clock.fetch_max(scn.0, Ordering::AcqRel);
        set_scn(group, scn);
        let begun = state.begin(&self.shared);
        let (start, end) = state.put(group);
        let half_full = state.fill >= LOG_WRITE_MAX / 2;
        drop(state);
        if half_full || begun {
            self.shared.work.notify_one();
        }
        Ok(Appended { scn, start, end })
    }

    /// Appends a notice that changes no page, with the clock's present SCN, if there is room without waiting.
    ///
    /// # Errors
    /// The log has ended.
    pub fn append_notice(&self, group: &mut [u8]) -> Result<bool, LogError> {
        let Ok(_reservation) = self.reserve(group.len())? else { return Ok(false) };
        let mut state = self.shared.state.lock();
        set_scn(group, Scn(self.shared.clock.load(Ordering::Acquire)));
        let begun = state.begin(&self.shared);
        state.put(group);
        drop(state);
        if begun {
            self.shared.work.notify_one();
        }
        Ok(true)
    }

    /// Waits until everything before `position` is durable.
    ///
    /// # Errors
    /// The log has ended before.
    pub async fn force(&self, position: Lsn) -> Result<(), LogError> {
        if self.durable() >= position {
            return Ok(());
        }
        let done = {
            let mut state = self.shared.state.lock();
            if self.durable() >= position {
                return Ok(());
            }
            if let Some(error) = &state.ended {
                return Err(error.clone());
            }
            let (tell, done) = oneshot::channel();
            state.waiters.push_back((position, tell));
            state.wanted = state.wanted.max(position);
            done
        };
        self.shared.work.notify_one();
        done.await.unwrap_or(Err(LogError::Closed))
    }

    /// Ends the log because other I/O to the instance's own redo file failed (rule 14).
    pub fn fail(&self, error: DiskError) {
        self.shared.fail(error);
        self.shared.work.notify_one();
    }

    /// Ends the log as it is, without writing what it still holds: whoever owned it is gone.
    pub fn abandon(&self) {
        self.shared.end(&LogError::Closed);
        self.shared.work.notify_one();
    }

    /// Lets the ring be reused up to `checkpoint`, which is durable in the control block.
    pub fn release(&self, checkpoint: Lsn) {
        let mut state = self.shared.state.lock();
        debug_assert!(checkpoint >= state.checkpoint && checkpoint <= state.end());
        state.checkpoint = state.checkpoint.max(checkpoint);
        drop(state);
        self.shared.room.notify_waiters();
    }

    /// The checkpoint can't move until the page is repaired, or nothing of the kind holds it: whoever waits for room in vain hears it.
    pub fn hold(&self, held: Option<HeldBy>) {
        let mut state = self.shared.state.lock();
        let news = held.is_some() && state.held != held;
        state.held = held;
        drop(state);
        if news {
            self.shared.room.notify_waiters();
        }
    }

    /// Whether a group of `bytes` would have room in the ring once nobody else has any reserved.
    pub fn ring_takes(&self, bytes: usize) -> bool {
        self.shared.ring_takes(&self.shared.state.lock(), worst_case(bytes))
    }

    /// Makes everything durable and ends the writing task. Returns where the log ends and the last block's checksum.
    ///
    /// # Errors
    /// The log has failed before or does now.
    pub async fn close(&self) -> Result<(Lsn, u32), LogError> {
        let gone = self.shared.gone.notified();
        tokio::pin!(gone);
        gone.as_mut().enable();
        let running = {
            let mut state = self.shared.state.lock();
            state.closing = true;
            state.ended.is_none()
        };
        if running {
            self.shared.work.notify_one();
            gone.await;
        }
        let state = self.shared.state.lock();
        match &state.ended {
            Some(LogError::Closed) => Ok((Lsn::of_block(state.first), state.last_crc)),
            Some(error) => Err(error.clone()),
            None => Err(LogError::Closed),
        }
    }
}

fn set_scn(group: &mut [u8], scn: Scn) {
    debug_assert!(group.len() >= GROUP_HEADER && Group::decode(group).is_ok_and(|header| header.length == group.len()));
    group[8..16].copy_from_slice(&scn.0.to_le_bytes());
}

impl State {
    /// Behind the last appended byte.
    fn end(&self) -> Lsn {
        Lsn(Lsn::of_block(self.first).0 + self.fill as u64)
    }

    /// Notes when the buffer takes its first redo, from which the batch interval counts. Returns whether the writing task must hear of it:
    /// whatever comes later in the same buffer relies on that.
    fn begin(&mut self, shared: &Shared) -> bool {
        let begun = self.fill == 0 && shared.mode == LogMode::Batch;
        if begun {
            self.since = shared.seams.now();
        }
        begun
    }

    /// Copies a group behind the last one, over as many blocks as it takes. Room was reserved.
    fn put(&mut self, group: &[u8]) -> (Lsn, Lsn) {
        let mut start = None;
        self.payload += group.len() as u64;
        let mut rest = group;
        while !rest.is_empty() {
            if self.fill.is_multiple_of(LOG_BLOCK) {
                self.fill += BLOCK_HEADER;
                self.first_groups.push(NO_GROUP);
            }
            let at = self.fill % LOG_BLOCK;
            if start.is_none() {
                start = Some(self.end());
                let first = self.first_groups.last_mut().expect("a block was begun");
                if *first == NO_GROUP {
                    *first = at as u16;
                }
            }
            let (now, later) = rest.split_at(rest.len().min(LOG_BLOCK - at));
            self.active[self.fill..self.fill + now.len()].copy_from_slice(now);
            self.fill += now.len();
            rest = later;
        }
        (start.unwrap_or_else(|| self.end()), self.end())
    }
}

/// What one write takes along.
struct Batch {
    buffer: Buffer,
    first: u64,
    fill: usize,
    first_groups: Vec<u16>,
}

enum Next {
    /// Write this. Whether anybody relies on it: then it is to be sealed.
    Write(Batch, bool),
    Wait(Option<Duration>),
    End,
}

impl Shared {
    fn ring_bytes(&self) -> u64 {
        self.place.identity.ring_blocks * LOG_BLOCK as u64
    }

    /// Bytes of the ring in use, the block being filled counted whole.
    fn used(&self, state: &State) -> u64 {
        let end = Lsn::of_block(state.first).0 + state.fill.next_multiple_of(LOG_BLOCK) as u64;
        end - Lsn::of_block(state.checkpoint.block()).0
    }

    /// Whether `worst` more bytes of blocks fit into the active buffer and into the ring. One block stays free for sealing.
    fn has_room(&self, state: &State, worst: usize) -> bool {
        let asked = state.reserved + worst;
        let in_buffer = state.fill.next_multiple_of(LOG_BLOCK) + asked <= LOG_WRITE_MAX;
        in_buffer && self.used(state) + (asked + 2 * LOG_BLOCK) as u64 <= self.ring_bytes()
    }

    /// Whether `worst` more bytes of blocks fit into the ring when what others have reserved comes back unused.
    fn ring_takes(&self, state: &State, worst: usize) -> bool {
        self.used(state) + (worst + 2 * LOG_BLOCK) as u64 <= self.ring_bytes()
    }

    /// What to do now. `spare` replaces the active buffer when that is taken.
    fn next(&self, spare: &mut Option<Buffer>, sealed: bool, idle_over: bool) -> Next {
        let mut state = self.state.lock();
        if state.ended.is_some() {
            return Next::End;
        }
        let asked = state.wanted > self.durable() || state.closing || state.fill >= LOG_WRITE_MAX / 2;
        let waited = self.seams.now().since(state.since);
        let left = (self.mode == LogMode::Batch && state.fill > 0).then(|| self.batch_interval.saturating_sub(waited));
        if state.fill > 0 && (asked || left == Some(Duration::ZERO)) {
            return Next::Write(state.take(spare), true);
        }
        if !sealed && (idle_over || state.closing) {
            if state.fill == 0 {
                // An empty block: only its header says something.
                state.fill = BLOCK_HEADER;
                state.first_groups.push(NO_GROUP);
            }
            // Else what nobody waits for seals as well. In mode `batch` time alone makes groups count as durable: they are to be sealed too.
            let relied_on = state.fill > BLOCK_HEADER && self.mode == LogMode::Batch;
            return Next::Write(state.take(spare), relied_on);
        }
        let seal = (!sealed).then_some(SEAL_AFTER);
        if state.fill > 0 || seal.is_some() {
            return Next::Wait(left.into_iter().chain(seal).min());
        }
        if state.closing {
            state.ended = Some(LogError::Closed);
            return Next::End;
        }
        Next::Wait(None)
    }

    fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// Seals the blocks of `batch`; returns the last one's checksum and the bytes to write.
    fn seal(&self, batch: &mut Batch, previous_crc: u32) -> (u32, usize) {
        let blocks = batch.fill.div_ceil(LOG_BLOCK);
        let bytes = blocks * LOG_BLOCK;
        batch.buffer[batch.fill..bytes].fill(0);
        let durable = self.durable();
        let mut crc = previous_crc;
        for (index, first_group) in batch.first_groups.iter().enumerate() {
            let number = batch.first + index as u64;
            let length = (batch.fill - index * LOG_BLOCK).min(LOG_BLOCK) - BLOCK_HEADER;
            let header = block::Header {
                crc: 0,
                previous_crc: crc,
                writer: self.place.writer,
                number,
                durable,
                lap: 0,
                length: length as u16,
                first_group: *first_group,
            };
            let at = index * LOG_BLOCK;
            crc = block::seal(&mut batch.buffer[at..at + LOG_BLOCK], &self.place.identity, &header);
        }
        (crc, bytes)
    }

    /// Writes the first `bytes` of `buffer` durably to the ring from block `first` on; at the ring's end it goes on at its start.
    async fn write(&self, mut buffer: Buffer, first: u64, bytes: usize) -> (Buffer, Result<(), DiskError>) {
        let ring = self.ring_bytes();
        let at = Lsn::of_block(first).0 % ring;
        let ahead = (ring - at).min(bytes as u64) as usize;
        let place = &self.place;
        if ahead == bytes {
            buffer.set_len(bytes);
            let (mut buffer, outcome) = place.disk.write(place.file, RING_AT + at, buffer, Durability::Durable).await;
            buffer.set_len(LOG_WRITE_MAX);
            return (buffer, outcome);
        }
        let behind = Buffer::copy_of(&buffer[ahead..bytes]);
        buffer.set_len(ahead);
        let both = vec![
            place.disk.write(place.file, RING_AT + at, buffer, Durability::Durable),
            place.disk.write(place.file, RING_AT, behind, Durability::Durable),
        ];
        let mut outcomes = join_all(both).await.into_iter();
        let (mut buffer, one) = outcomes.next().expect("two writes were made");
        let (_, other) = outcomes.next().expect("two writes were made");
        buffer.set_len(LOG_WRITE_MAX);
        (buffer, one.and(other))
    }

    /// Marks everything before `end` as durable and tells those who wait for it.
    fn written(&self, end: Lsn, crc: u32, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.durable.store(end.0, Ordering::Release);
        let mut told = Vec::new();
        {
            let mut state = self.state.lock();
            state.last_crc = crc;
            let waiters = std::mem::take(&mut state.waiters);
            for (position, tell) in waiters {
                if position <= end { told.push(tell) } else { state.waiters.push_back((position, tell)) }
            }
        }
        // A waiter that was dropped doesn't want to know.
        told.into_iter().for_each(|tell| drop(tell.send(Ok(()))));
        self.room.notify_waiters();
        if self.filling_up() {
            self.pressure.notify_one();
        }
    }

    /// Whether more of the ring is in use than the checkpointer should leave.
    fn filling_up(&self) -> bool {
        let state = self.state.lock();
        self.used(&state) * 100 > self.ring_bytes() * u64::from(self.place.fill_percent)
    }

    fn fail(&self, error: DiskError) {
        tracing::error!(thread = %self.place.identity.thread, %error, "redo can't be written; the instance stops and must be recovered");
        self.end(&LogError::Failed(error));
    }

    /// Ends the log with `error`, if it hasn't ended before, and tells everyone who waits for a write.
    fn end(&self, error: &LogError) {
        let waiters = {
            let mut state = self.state.lock();
            state.ended.get_or_insert(error.clone());
            std::mem::take(&mut state.waiters)
        };
        waiters.into_iter().for_each(|(_, tell)| drop(tell.send(Err(error.clone()))));
    }
}

impl State {
    fn take(&mut self, spare: &mut Option<Buffer>) -> Batch {
        let fresh = spare.take().expect("one write is in flight at a time");
        let batch = Batch {
            buffer: std::mem::replace(&mut self.active, fresh),
            first: self.first,
            fill: self.fill,
            first_groups: std::mem::take(&mut self.first_groups),
        };
        self.first += batch.first_groups.len() as u64;
        self.fill = 0;
        batch
    }
}

async fn write_loop(shared: Arc<Shared>) {
    let mut spare = Some(Buffer::zeroed(LOG_WRITE_MAX));
    let mut previous_crc = shared.place.start_crc;
    let mut sealed = true;
    let mut idle_over = false;
    loop {
        match shared.next(&mut spare, sealed, idle_over) {
            Next::End => break,
            Next::Wait(limit) => {
                idle_over = wait(&shared, limit).await;
            }
            Next::Write(mut batch, relied_on) => {
                idle_over = false;
                sealed = !relied_on;
                let (crc, bytes) = shared.seal(&mut batch, previous_crc);
                let (buffer, outcome) = shared.write(batch.buffer, batch.first, bytes).await;
                if let Err(error) = outcome {
                    shared.fail(error);
                    break;
                }
                spare = Some(buffer);
                previous_crc = crc;
                shared.written(Lsn::of_block(batch.first + batch.first_groups.len() as u64), crc, bytes);
            }
        }
    }
    shared.room.notify_waiters();
    shared.pressure.notify_one();
    shared.gone.notify_waiters();
}

/// Waits for work or until `limit` has passed; true when it has.
async fn wait(shared: &Shared, limit: Option<Duration>) -> bool {
    let Some(limit) = limit else {
        shared.work.notified().await;
        return false;
    };
    let late = shared.seams.sleep(limit);
    tokio::select! {
        biased;
        () = shared.work.notified() => false,
        () = late => true,
    }
}
