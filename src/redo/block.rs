//! A log block: 4096 bytes that say which cluster, thread, incarnation and position they belong to and what came before.
//!
//! Byte table in `docs/formats/log.md`. A block is written once: the next write starts the next block, so nothing acknowledged can be
//! torn by a later write (`docs/decisions/0002`). The writer seals blocks, the reader opens them (rule 12).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::base::limits::{LOG_BLOCK, NUMBER_MAX, THREADS_MAX};
use crate::base::{Epoch, Incarnation, Lsn, ThreadId, Writer, checksum};

/// Bytes of the block header.
pub const BLOCK_HEADER: usize = 64;
/// Redo bytes that a block holds.
pub const PAYLOAD: usize = LOG_BLOCK - BLOCK_HEADER;
/// Marks a log block of this format.
pub const MAGIC: u32 = 0x3147_4c52;
/// Value of [`Header::first_group`] when no group starts in the block.
pub const NO_GROUP: u16 = u16::MAX;

/// The header, byte for byte.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Layout {
    crc: U32,
    previous_crc: U32,
    magic: U32,
    thread: U16,
    length: U16,
    cluster: U64,
    incarnation: U64,
    epoch: U64,
    number: U64,
    durable: U64,
    lap: U32,
    first_group: U16,
    reserved: U16,
}

const _: () = assert!(size_of::<Layout>() == BLOCK_HEADER);

/// What a valid block says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Its own checksum: the next block names it.
    pub crc: u32,
    /// Checksum of the block before; 0 for the very first of a thread.
    pub previous_crc: u32,
    /// Who wrote it.
    pub writer: Writer,
    /// Its place in the thread.
    pub number: u64,
    /// Everything before this was durable when it was written.
    pub durable: Lsn,
    /// How often the ring had been filled: number / ring blocks.
    pub lap: u32,
    /// Redo bytes in it, at most [`PAYLOAD`].
    pub length: u16,
    /// Offset in the block of the first group that starts in it, or [`NO_GROUP`].
    pub first_group: u16,
}

/// Why a block isn't the one that belongs at a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    /// Torn, flipped, or never written.
    #[error("checksum is {found:08x}, contents give {expected:08x}")]
    Checksum {
        /// Computed.
        expected: u32,
        /// Kept.
        found: u32,
    },
    /// Whole, but of another place, life or log.
    #[error("{field} is {found:x} where {expected:x} belongs")]
    Identity {
        /// Which field.
        field: &'static str,
        /// What it must be.
        expected: u64,
        /// What it is.
        found: u64,
    },
}

/// Which log a block must belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogIdentity {
    /// The cluster's tag.
    pub cluster: u64,
    /// The redo thread.
    pub thread: ThreadId,
    /// Blocks in the ring.
    pub ring_blocks: u64,
}

/// Writes the header into `block`, whose payload is in place and whose rest is zero, and seals it. Returns its checksum.
pub fn seal(block: &mut [u8], log: &LogIdentity, header: &Header) -> u32 {
    let layout = Layout::mut_from_bytes(&mut block[..BLOCK_HEADER]).expect("a block header is 64 unaligned bytes");
    layout.previous_crc.set(header.previous_crc);
    layout.magic.set(MAGIC);
    layout.thread.set(log.thread.0);
    layout.length.set(header.length);
    layout.cluster.set(log.cluster);
    layout.incarnation.set(header.writer.incarnation.0);
    layout.epoch.set(header.writer.epoch.0);
    layout.number.set(header.number);
    layout.durable.set(header.durable.0);
    layout.lap.set((header.number / log.ring_blocks) as u32);
    layout.first_group.set(header.first_group);
    layout.reserved.set(0);
    checksum::seal(block);
    checksum::kept(block)
}

/// Reads the block that should have number `number` in `log`.
///
/// # Errors
/// [`BlockFault`] when it is damaged or isn't that block.
pub fn open(block: &[u8], log: &LogIdentity, number: u64) -> Result<Header, BlockFault> {
    let (expected, found) = (checksum::of_block(block), checksum::kept(block));
    if expected != found {
        return Err(BlockFault::Checksum { expected, found });
    }
    let layout = Layout::ref_from_bytes(&block[..BLOCK_HEADER]).expect("a block header is 64 unaligned bytes");
    let first_group = layout.first_group.get();
    let first_group_fits = first_group == NO_GROUP || (BLOCK_HEADER..LOG_BLOCK).contains(&usize::from(first_group));
    let fields: [(&'static str, u64, u64); 11] = [
        ("magic", MAGIC.into(), layout.magic.get().into()),
        ("cluster", log.cluster, layout.cluster.get()),
        ("thread", log.thread.0.into(), layout.thread.get().into()),
        ("block number", number, layout.number.get()),
        ("lap", (number / log.ring_blocks) & 0xffff_ffff, layout.lap.get().into()),
        ("redo length", layout.length.get().min(PAYLOAD as u16).into(), layout.length.get().into()),
        ("first group", if first_group_fits { first_group.into() } else { NO_GROUP.into() }, first_group.into()),
        ("incarnation", layout.incarnation.get().min(NUMBER_MAX), layout.incarnation.get()),
        ("epoch", layout.epoch.get().min(NUMBER_MAX), layout.epoch.get()),
        ("reserved field", 0, layout.reserved.get().into()),
        ("durable position", layout.durable.get().min(Lsn::of_block(number).0), layout.durable.get()),
    ];
    for (field, expected, found) in fields {
        if expected != found {
            return Err(BlockFault::Identity { field, expected, found });
        }
    }
    debug_assert!(log.thread.0 <= THREADS_MAX);
    Ok(Header {
        crc: found,
        previous_crc: layout.previous_crc.get(),
        writer: Writer { thread: log.thread, incarnation: Incarnation(layout.incarnation.get()), epoch: Epoch(layout.epoch.get()) },
        number,
        durable: Lsn(layout.durable.get()),
        lap: layout.lap.get(),
        length: layout.length.get(),
        first_group,
    })
}

/// Reads a block of `log` that lies in slot `slot` of the ring, of whichever lap.
///
/// # Errors
/// [`BlockFault`] when it is damaged or doesn't belong there.
pub fn open_any(block: &[u8], log: &LogIdentity, slot: u64) -> Result<Header, BlockFault> {
    let layout = Layout::ref_from_bytes(&block[..BLOCK_HEADER]).expect("a block header is 64 unaligned bytes");
    let number = layout.number.get();
    if number % log.ring_blocks != slot || number > NUMBER_MAX / LOG_BLOCK as u64 {
        return Err(BlockFault::Identity { field: "block number", expected: slot, found: number });
    }
    open(block, log, number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOG: LogIdentity = LogIdentity { cluster: 77, thread: ThreadId(2), ring_blocks: 100 };

    fn sample() -> ([u8; LOG_BLOCK], Header) {
        let writer = Writer { thread: ThreadId(2), incarnation: Incarnation(5), epoch: Epoch(3) };
        let mut header =
            Header { crc: 0, previous_crc: 9, writer, number: 250, durable: Lsn::of_block(249), lap: 2, length: 100, first_group: 64 };
        let mut block = [0; LOG_BLOCK];
        block[BLOCK_HEADER..BLOCK_HEADER + 100].fill(0xab);
        header.crc = seal(&mut block, &LOG, &header);
        (block, header)
    }

    #[test]
    fn reads_back() {
        let (block, header) = sample();
        assert_eq!(open(&block, &LOG, 250), Ok(header));
    }

    #[test]
    fn every_bit_flip_is_found() {
        let (block, _) = sample();
        for bit in 0..LOG_BLOCK * 8 {
            let mut bad = block;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&bad, &LOG, 250).is_err(), "flip of bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_header_reads_back(number in 1u64..1 << 50, previous_crc: u32, incarnation in 0..NUMBER_MAX, epoch in 0..NUMBER_MAX,
            length in 0..=PAYLOAD as u16, group in prop::option::of(64u16..4096)) {
            let writer = Writer { thread: LOG.thread, incarnation: Incarnation(incarnation), epoch: Epoch(epoch) };
            let first_group = group.unwrap_or(NO_GROUP);
            let (durable, lap) = (Lsn::of_block(number - 1), (number / LOG.ring_blocks) as u32);
            let mut header = Header { crc: 0, previous_crc, writer, number, durable, lap, length, first_group };
            let mut block = [7; LOG_BLOCK];
            header.crc = seal(&mut block, &LOG, &header);
            prop_assert_eq!(open(&block, &LOG, number), Ok(header));
        }

        #[test]
        fn hostile_headers_with_a_right_checksum_never_panic(bytes in prop::collection::vec(any::<u8>(), 60), at in 0usize..60, number: u64) {
            let (mut block, _) = sample();
            block[4 + at..64].copy_from_slice(&bytes[..60 - at]);
            checksum::seal(&mut block);
            let _ = (open(&block, &LOG, 250), open(&block, &LOG, number >> 12), open_any(&block, &LOG, number % 100));
        }
    }

    #[test]
    fn numbers_that_can_not_be_are_refused() {
        for (at, field) in [(24, "incarnation"), (32, "epoch"), (62, "reserved field")] {
            let (mut block, _) = sample();
            block[at..at + 2].fill(0xff);
            block[(at + 7).min(63)] = 0xff;
            checksum::seal(&mut block);
            assert!(matches!(open(&block, &LOG, 250), Err(BlockFault::Identity { field: found, .. }) if found == field), "{field}");
        }
    }

    #[test]
    fn a_block_of_the_last_lap_is_not_taken_for_this_one() {
        let (block, _) = sample();
        assert!(matches!(open(&block, &LOG, 350), Err(BlockFault::Identity { field: "block number", .. })));
    }
}
