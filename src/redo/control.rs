//! The control block of a redo thread: where replay starts, what is known durable, and whether the thread was closed.
//!
//! Two slots, written in turn, the higher generation counts; a torn write leaves the other. Opening and closing write **both**, so that
//! neither can be taken for the other's state when one is damaged later. Byte table in `docs/formats/control.md`. Only the
//! thread's owner writes it, and recovery of a dead owner.

use std::path::PathBuf;
use std::sync::Arc;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::forecast::Forecast;
use crate::base::limits::{LOG_BLOCK, NUMBER_MAX};
use crate::base::{Epoch, Incarnation, Lsn, Scn, ThreadId, Writer, checksum};
use crate::disk::{Buffer, Disk, DiskError, Durability, FileId};
use crate::page::superblock::CONTROL_SLOTS;

/// Marks a control block of this format.
pub const MAGIC: u32 = 0x3143_4352;
/// The first position of a redo thread: block 1, so that position 0 is before everything.
pub const FIRST: Lsn = Lsn(LOG_BLOCK as u64);

/// What the thread's owner was doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ThreadState {
    /// Closed: every page is durable at home, nothing to redo.
    Closed = 1,
    /// In use: after a crash, redo from the checkpoint.
    Open = 2,
    /// Being recovered: the log ends at [`Control::end`], whatever lies behind it.
    Recovering = 3,
}

impl std::fmt::Display for ThreadState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ThreadState::Closed => "closed",
            ThreadState::Open => "open",
            ThreadState::Recovering => "recovering",
        })
    }
}

/// The contents of a control block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Control {
    /// Grows with every write.
    pub generation: u64,
    /// What the owner was doing.
    pub state: ThreadState,
    /// The owner.
    pub writer: Writer,
    /// Replay starts here; everything before is durable in pages.
    pub checkpoint: Lsn,
    /// The log was durable at least up to here.
    pub durable: Lsn,
    /// Where the log ends; while the thread is open, where it ended before.
    pub end: Lsn,
    /// Checksum of the block before [`Control::end`]; 0 when there is none.
    pub end_crc: u32,
    /// The clock had reached this.
    pub clock: Scn,
    /// How fast recoveries are here, and how long one would take.
    pub forecast: Forecast,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    crc: U32,
    magic: U32,
    cluster: U64,
    generation: U64,
    thread: U16,
    slot: u8,
    state: u8,
    end_crc: U32,
    incarnation: U64,
    epoch: U64,
    checkpoint: U64,
    durable: U64,
    end: U64,
    clock: U64,
    forecast: [U64; 9],
    zero: [u8; LOG_BLOCK - 152],
}

const _: () = assert!(size_of::<Layout>() == LOG_BLOCK);

/// What is wrong with a control slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlFault {
    /// Torn or flipped.
    #[error("checksum is {found:08x}, contents give {expected:08x}")]
    Checksum {
        /// Computed.
        expected: u32,
        /// Kept.
        found: u32,
    },
    /// Whole, but of another place, or impossible.
    #[error("{field} is {found:x} where {expected:x} belongs")]
    Field {
        /// Which field.
        field: &'static str,
        /// What it must be.
        expected: u64,
        /// What it is.
        found: u64,
    },
}

/// Why a thread's control block can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Neither slot is whole.
    #[error(
        "{}: neither control slot is whole: offset {}: {first}; offset {}: {second}; restore the redo file from a copy, or `clusterctl salvage` what the pages hold",
        file.display(), CONTROL_SLOTS[0], CONTROL_SLOTS[1]
    )]
    Damaged {
        /// The redo file.
        file: PathBuf,
        /// What is wrong with the first slot.
        first: ControlFault,
        /// What is wrong with the second slot.
        second: ControlFault,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Control {
    /// Where the life that the thread is open for began to write, and which it is: [`super::reader::LogSource::life`].
    pub fn life(&self) -> Option<(Lsn, Incarnation)> {
        // An open thread's control block keeps the end of the life before.
        (self.state == ThreadState::Open).then_some((self.end, self.writer.incarnation))
    }

    /// The control block of a thread that was never used.
    pub fn new(thread: ThreadId) -> Control {
        Control {
            generation: 0,
            state: ThreadState::Closed,
            writer: Writer { thread, incarnation: Incarnation(0), epoch: Epoch(0) },
            checkpoint: FIRST,
            durable: FIRST,
            end: FIRST,
            end_crc: 0,
            clock: Scn(0),
            forecast: Forecast::default(),
        }
    }

    /// The bytes of slot `slot` (0 or 1).
    pub fn encode(&self, cluster: u64, slot: u8) -> [u8; LOG_BLOCK] {
        let mut bytes = [0; LOG_BLOCK];
        let layout = Layout::mut_from_bytes(&mut bytes).expect("a control block is 4096 unaligned bytes");
        layout.magic.set(MAGIC);
        layout.cluster.set(cluster);
        layout.generation.set(self.generation);
        layout.thread.set(self.writer.thread.0);
        layout.slot = slot;
        layout.state = self.state as u8;
        layout.end_crc.set(self.end_crc);
        layout.incarnation.set(self.writer.incarnation.0);
        layout.epoch.set(self.writer.epoch.0);
        layout.checkpoint.set(self.checkpoint.0);
        layout.durable.set(self.durable.0);
        layout.end.set(self.end.0);
        layout.clock.set(self.clock.0);
        layout.forecast = self.forecast.numbers().map(U64::new);
        checksum::seal(&mut bytes);
        bytes
    }

    /// Reads slot `slot` of `thread`.
    ///
    /// # Errors
    /// [`ControlFault`], also for positions that contradict each other (the checkpoint is validated when read).
    pub fn decode(bytes: &[u8], cluster: u64, thread: ThreadId, slot: u8) -> Result<Control, ControlFault> {
        let (expected, found) = (checksum::of_block(bytes), checksum::kept(bytes));
        if expected != found {
            return Err(ControlFault::Checksum { expected, found });
        }
        let layout = Layout::ref_from_bytes(bytes).map_err(|_| ControlFault::Field {
            field: "length",
            expected: LOG_BLOCK as u64,
            found: bytes.len() as u64,
        })?;
        let state = match layout.state {
            1 => ThreadState::Closed,
            2 => ThreadState::Open,
            3 => ThreadState::Recovering,
            other => return Err(ControlFault::Field { field: "state", expected: 1, found: other.into() }),
        };
        let (checkpoint, durable, end) = (layout.checkpoint.get(), layout.durable.get(), layout.end.get());
        let end_min = if state == ThreadState::Open { 0 } else { durable };
        let set = layout.zero.iter().filter(|byte| **byte != 0).count();
        let bounded = |value: u64| value.min(NUMBER_MAX);
        let fields: [(&'static str, u64, u64); 14] = [
            ("magic", MAGIC.into(), layout.magic.get().into()),
            ("cluster", cluster, layout.cluster.get()),
            ("thread", thread.0.into(), layout.thread.get().into()),
            ("slot", slot.into(), layout.slot.into()),
            ("reserved bytes set", 0, set as u64),
            ("generation", bounded(layout.generation.get()), layout.generation.get()),
            ("incarnation", bounded(layout.incarnation.get()), layout.incarnation.get()),
            ("epoch", bounded(layout.epoch.get()), layout.epoch.get()),
            ("clock", bounded(layout.clock.get()), layout.clock.get()),
            ("durable position", bounded(durable.max(end)), durable.max(end)),
            ("durable position", durable.max(FIRST.0), durable),
            ("checkpoint", checkpoint.clamp(FIRST.0, durable.max(FIRST.0)), checkpoint),
            ("log end", end.max(end_min), end),
            ("log end in its block", 0, if state == ThreadState::Open { 0 } else { Lsn(end).offset() as u64 }),
        ];
        for (field, expected, found) in fields {
            if expected != found {
                return Err(ControlFault::Field { field, expected, found });
            }
        }
        let numbers = layout.forecast.map(|number| number.get());
        let Some(forecast) = Forecast::of(numbers) else {
            let found = numbers.into_iter().max().unwrap_or_default();
            return Err(ControlFault::Field { field: "forecast", expected: bounded(found), found });
        };
        Ok(Control {
            generation: layout.generation.get(),
            state,
            writer: Writer { thread, incarnation: Incarnation(layout.incarnation.get()), epoch: Epoch(layout.epoch.get()) },
            checkpoint: Lsn(checkpoint),
            durable: Lsn(durable),
            end: Lsn(end),
            end_crc: layout.end_crc.get(),
            clock: Scn(layout.clock.get()),
            forecast,
        })
    }
}

/// The two slots of one redo file.
pub struct ControlFile {
    disk: Arc<dyn Disk>,
    file: FileId,
    cluster: u64,
    thread: ThreadId,
}

/// What the slots held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlRead {
    /// The newer whole one.
    pub control: Control,
    /// A slot that isn't whole, with why: a torn write of a crash, or damage. The other one is used.
    pub damaged: Option<(u8, ControlFault)>,
}

impl ControlFile {
    /// The control slots of `thread` in its redo file.
    pub fn new(disk: Arc<dyn Disk>, file: FileId, cluster: u64, thread: ThreadId) -> ControlFile {
        ControlFile { disk, file, cluster, thread }
    }

    /// Reads both slots and takes the newer whole one.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn read(&self) -> Result<ControlRead, ControlError> {
        let first = self.read_slot(0).await?;
        let second = self.read_slot(1).await?;
        Ok(match (first, second) {
            (Ok(one), Ok(other)) => ControlRead { control: if one.generation > other.generation { one } else { other }, damaged: None },
            (Ok(control), Err(fault)) => ControlRead { control, damaged: Some((1, fault)) },
            (Err(fault), Ok(control)) => ControlRead { control, damaged: Some((0, fault)) },
            (Err(first), Err(second)) => return Err(ControlError::Damaged { file: self.disk.path(self.file), first, second }),
        })
    }

    /// Reads one slot.
    ///
    /// # Errors
    /// Outer: the disk's; inner: what is wrong with the slot.
    pub async fn read_slot(&self, slot: u8) -> Result<Result<Control, ControlFault>, DiskError> {
        let at = CONTROL_SLOTS[usize::from(slot)];
        let (bytes, outcome) = self.disk.read(self.file, at, Buffer::zeroed(LOG_BLOCK)).await;
        outcome?;
        Ok(Control::decode(&bytes, self.cluster, self.thread, slot))
    }

    /// Writes `control` with the next generation into the slot whose turn it is, durably.
    ///
    /// # Errors
    /// The disk's: what is in that slot is then unknown (rule 14), the other slot is untouched.
    pub async fn write(&self, control: &mut Control) -> Result<(), DiskError> {
        control.generation += 1;
        let slot = (control.generation % 2) as u8;
        let buffer = Buffer::copy_of(&control.encode(self.cluster, slot));
        self.disk.write(self.file, CONTROL_SLOTS[usize::from(slot)], buffer, Durability::Durable).await.1
    }

    /// Writes `control` into both slots, one after the other: for a change of state.
    ///
    /// # Errors
    /// As [`ControlFile::write`].
    pub async fn write_both(&self, control: &mut Control) -> Result<(), DiskError> {
        self.write(control).await?;
        self.write(control).await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_control_block_reads_back(state in 1u8..4, slot in 0u8..2, numbers in prop::array::uniform5(0..NUMBER_MAX), blocks in prop::array::uniform3(1u64..1 << 40), end_crc: u32,
            forecast in prop::array::uniform9(0..=NUMBER_MAX)) {
            let mut positions = blocks.map(Lsn::of_block);
            positions.sort();
            let [generation, incarnation, epoch, clock, _] = numbers;
            let [checkpoint, durable, end] = positions;
            let state = [ThreadState::Closed, ThreadState::Open, ThreadState::Recovering][usize::from(state) - 1];
            let writer = Writer { thread: ThreadId(64), incarnation: Incarnation(incarnation), epoch: Epoch(epoch) };
            let control = Control { generation, state, writer, checkpoint, durable, end, end_crc, clock: Scn(clock), forecast: Forecast::of(forecast).unwrap() };
            prop_assert_eq!(Control::decode(&control.encode(1, slot), 1, ThreadId(64), slot), Ok(control));
        }

        #[test]
        fn hostile_blocks_with_a_right_checksum_never_panic(bytes in prop::collection::vec(any::<u8>(), 152), from in 4usize..152) {
            let mut block = Control::new(ThreadId(1)).encode(1, 0);
            block[from..152].copy_from_slice(&bytes[from..]);
            checksum::seal(&mut block);
            if let Ok(control) = Control::decode(&block, 1, ThreadId(1), 0) {
                prop_assert!(control.durable >= control.checkpoint && control.checkpoint >= FIRST);
                prop_assert!(control.generation <= NUMBER_MAX && control.clock.0 <= NUMBER_MAX && control.end.0 <= NUMBER_MAX);
            }
        }
    }

    #[test]
    fn numbers_near_the_end_of_their_range_are_refused() {
        // The next opening would have counted on from the incarnation.
        let writer = Writer { thread: ThreadId(1), incarnation: Incarnation(u64::MAX), epoch: Epoch(0) };
        let control = Control { writer, ..Control::new(ThreadId(1)) };
        let fault = Control::decode(&control.encode(1, 0), 1, ThreadId(1), 0).unwrap_err();
        assert!(matches!(fault, ControlFault::Field { field: "incarnation", .. }));
    }

    #[test]
    fn reads_back_and_every_bit_flip_is_found() {
        let mut control = Control::new(ThreadId(4));
        control.generation = 7;
        let bytes = control.encode(99, 1);
        assert_eq!(Control::decode(&bytes, 99, ThreadId(4), 1), Ok(control));
        for bit in 0..LOG_BLOCK * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Control::decode(&bad, 99, ThreadId(4), 1).is_err(), "flip of bit {bit}");
        }
    }

    #[test]
    fn positions_that_contradict_each_other_are_refused() {
        let control = Control { checkpoint: Lsn(FIRST.0 * 9), ..Control::new(ThreadId(4)) };
        let fault = Control::decode(&control.encode(1, 0), 1, ThreadId(4), 0).unwrap_err();
        assert!(matches!(fault, ControlFault::Field { field: "checkpoint", .. }));
    }
}
