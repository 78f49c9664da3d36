//! Sectors of a voting file: the header that all kinds share, where they lie, and what makes one valid.
//!
//! Byte tables in `docs/formats/voting.md`. A sector is believed only when it is whole and of this place: checksum, kind, instance,
//! cluster, file and own offset. Anything else, zeroes too, means that **the file did not answer** (rule 3); a sector that was never
//! used is a whole one with sequence 0, written by [`format_region`].

use std::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::view::{self, View};
use crate::base::limits::{LOG_BLOCK, NUMBER_MAX, THREADS_MAX};
use crate::base::{ClusterId, Epoch, Incarnation, ThreadId, checksum};
use crate::page::superblock::VOTING_SECTORS_AT;

/// Bytes of a sector.
pub const SECTOR: usize = LOG_BLOCK;
/// Bytes of a sector's header.
pub const HEADER: usize = 144;
/// Bytes that a kind has for itself.
pub const BODY: usize = SECTOR - HEADER;
/// Offset of the first sector in a voting file.
pub const SECTORS_AT: u64 = VOTING_SECTORS_AT;
/// Sectors of each instance, in the order of [`SectorKind::ALL`].
pub const SECTORS_EACH: usize = 4;
/// Version of the sectors' layout.
pub const VERSION: u8 = 1;
/// Most voting files that a view names.
pub const VOTING_MAX: usize = 5;

/// A voting file, by the random number in its superblock: a file that takes another's place has another number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VotingId(pub u64);

impl fmt::Display for VotingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{:016x}", self.0)
    }
}

impl fmt::Debug for VotingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a sector is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum SectorKind {
    /// Life sign of the instance.
    Heartbeat = 1,
    /// Its Disk Paxos block.
    Ballot = 2,
    /// The newest decided view that it knows.
    View = 3,
    /// What its guard has to say.
    Guard = 4,
}

impl SectorKind {
    /// All, in the order in which they lie.
    pub const ALL: [SectorKind; SECTORS_EACH] = [SectorKind::Heartbeat, SectorKind::Ballot, SectorKind::View, SectorKind::Guard];

    /// Offset of `instance`'s sector of this kind in a voting file, in bytes.
    pub fn at(self, instance: ThreadId) -> u64 {
        debug_assert!((1..=THREADS_MAX).contains(&instance.0));
        SECTORS_AT + (u64::from(instance.0 - 1) * SECTORS_EACH as u64 + self as u64 - 1) * SECTOR as u64
    }
}

impl fmt::Display for SectorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SectorKind::Heartbeat => "heartbeat",
            SectorKind::Ballot => "ballot",
            SectorKind::View => "view",
            SectorKind::Guard => "guard",
        })
    }
}

/// Bytes of the sectors of instances 1 to `threads`: what one read of [`super::Output::Read`] covers, from [`SECTORS_AT`] on.
pub fn region_bytes(threads: u16) -> usize {
    usize::from(threads) * SECTORS_EACH * SECTOR
}

/// Who writes a sector, and which writes of it came before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Head {
    /// The instance's life; for a guard sector the guard's. 0 when the sector was never used.
    pub incarnation: Incarnation,
    /// Grows with every write of this sector by this life, the same on all files. 0 when the sector was never used.
    pub sequence: u64,
    /// The epoch that the writer has installed.
    pub epoch: Epoch,
    /// Highest sequence number of this sector and life whose write each voting file has acknowledged: a file that has less has lost
    /// writes and isn't believed. 0 for an unused entry.
    pub acked: [(VotingId, u64); VOTING_MAX],
}

impl Head {
    /// Orders writes of one sector.
    pub fn age(&self) -> (Incarnation, u64) {
        (self.incarnation, self.sequence)
    }
}

/// A valid sector.
#[derive(Clone, Copy, Debug)]
pub struct Sector<'a> {
    /// Who wrote it.
    pub head: Head,
    /// What its kind keeps in it.
    pub body: &'a [u8; BODY],
}

/// Where a sector belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The cluster.
    pub cluster: ClusterId,
    /// The voting file.
    pub file: VotingId,
    /// The instance.
    pub instance: ThreadId,
    /// What it is for.
    pub kind: SectorKind,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Acked {
    file: U64,
    sequence: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    crc: U32,
    kind: u8,
    version: u8,
    instance: U16,
    cluster: [u8; 16],
    file: U64,
    at: U64,
    incarnation: U64,
    sequence: U64,
    epoch: U64,
    acked: [Acked; VOTING_MAX],
    body: [u8; BODY],
}

const _: () = assert!(size_of::<Layout>() == SECTOR);
const _: () = assert!(size_of::<Layout>() - BODY == HEADER);

/// What is wrong with a sector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectorFault {
    /// Torn, flipped, or never formatted.
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
        /// What it must be, or may be at most.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// Not a whole sector.
    #[error("{found} bytes where {SECTOR} belong")]
    Short {
        /// Bytes there.
        found: usize,
    },
}

/// A fault of `field` unless `found` is `expected`.
pub(super) fn equal(field: &'static str, expected: u64, found: u64) -> Result<(), SectorFault> {
    if expected == found { Ok(()) } else { Err(SectorFault::Field { field, expected, found }) }
}

/// A fault of `field` unless `found` is at most `most`.
pub(super) fn at_most(field: &'static str, most: u64, found: u64) -> Result<u64, SectorFault> {
    if found <= most { Ok(found) } else { Err(SectorFault::Field { field, expected: most, found }) }
}

/// The sector of `place` with this head and body.
pub fn encode(place: &Place, head: &Head, body: &[u8; BODY]) -> Box<[u8; SECTOR]> {
    let mut bytes = Box::new([0; SECTOR]);
    let layout = Layout::mut_from_bytes(&mut bytes[..]).expect("a sector is 4096 unaligned bytes");
    layout.kind = place.kind as u8;
    layout.version = VERSION;
    layout.instance.set(place.instance.0);
    layout.cluster = place.cluster.0;
    layout.file.set(place.file.0);
    layout.at.set(place.kind.at(place.instance));
    layout.incarnation.set(head.incarnation.0);
    layout.sequence.set(head.sequence);
    layout.epoch.set(head.epoch.0);
    for (slot, (file, sequence)) in layout.acked.iter_mut().zip(head.acked) {
        *slot = Acked { file: file.0.into(), sequence: sequence.into() };
    }
    layout.body = *body;
    checksum::seal(&mut bytes[..]);
    bytes
}

/// Reads the sector that belongs at `place`.
///
/// # Errors
/// The first [`SectorFault`].
pub fn decode<'a>(place: &Place, bytes: &'a [u8]) -> Result<Sector<'a>, SectorFault> {
    let layout = Layout::ref_from_bytes(bytes).map_err(|_| SectorFault::Short { found: bytes.len() })?;
    let (expected, found) = (checksum::of_block(bytes), checksum::kept(bytes));
    if expected != found {
        return Err(SectorFault::Checksum { expected, found });
    }
    equal("kind", place.kind as u64, layout.kind.into())?;
    equal("version", VERSION.into(), layout.version.into())?;
    equal("instance", place.instance.0.into(), layout.instance.get().into())?;
    equal("cluster", place.cluster.tag(), ClusterId(layout.cluster).tag())?;
    equal("cluster, second half", second_half(&place.cluster.0), second_half(&layout.cluster))?;
    equal("voting file", place.file.0, layout.file.get())?;
    equal("own offset", place.kind.at(place.instance), layout.at.get())?;
    at_most("incarnation", NUMBER_MAX, layout.incarnation.get())?;
    at_most("sequence", NUMBER_MAX, layout.sequence.get())?;
    at_most("epoch", NUMBER_MAX, layout.epoch.get())?;
    let mut acked = [(VotingId(0), 0); VOTING_MAX];
    for (slot, found) in acked.iter_mut().zip(&layout.acked) {
        *slot = (VotingId(found.file.get()), at_most("acknowledged sequence", NUMBER_MAX, found.sequence.get())?);
    }
    let head = Head {
        incarnation: Incarnation(layout.incarnation.get()),
        sequence: layout.sequence.get(),
        epoch: Epoch(layout.epoch.get()),
        acked,
    };
    Ok(Sector { head, body: &layout.body })
}

fn second_half(cluster: &[u8; 16]) -> u64 {
    let mut half = [0; 8];
    half.copy_from_slice(&cluster[8..]);
    u64::from_le_bytes(half)
}

/// All sectors of a new voting file, for instances 1 to 64, to be written from [`SECTORS_AT`] on before the file is used. `genesis` is
/// the view of epoch 0 for the files that a cluster is made with, `None` for one that takes another's place.
pub fn format_region(cluster: ClusterId, file: VotingId, genesis: Option<&View>) -> Vec<u8> {
    let mut region = Vec::with_capacity(region_bytes(THREADS_MAX));
    for instance in (1..=THREADS_MAX).map(ThreadId) {
        for kind in SectorKind::ALL {
            let mut body = [0; BODY];
            if let (SectorKind::View, Some(genesis)) = (kind, genesis) {
                view::encode_into(Some(genesis), &mut body);
            }
            region.extend_from_slice(&encode(&Place { cluster, file, instance, kind }, &Head::default(), &body)[..]);
        }
    }
    region
}
