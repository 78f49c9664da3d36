//! The description at the head of every storage file: which cluster, which file of it, and the cluster's shape.
//!
//! Two copies, at offsets 0 and 4096, both whole and saying the same; otherwise the file isn't opened. Every file carries the whole
//! shape, so any one of them tells what the others must be. Byte table in `docs/formats/superblock.md`. Written once, at creation.

use std::path::PathBuf;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::base::limits::{DATA_FILES_MAX, DOUBLE_WRITE_PAGES, LOG_BLOCK, LOG_WRITE_MAX, PAGE_SIZE, RING_BYTES_MIN, THREADS_MAX};
use crate::base::{ClusterId, checksum};
use crate::disk::DiskError;

/// Bytes of one copy.
pub const SUPERBLOCK: usize = LOG_BLOCK;
/// Offsets of the two copies.
pub const COPIES: [u64; 2] = [0, SUPERBLOCK as u64];
/// Version of everything on disk.
pub const FORMAT: u32 = 4;
/// First bytes after the checksum and format.
pub const MAGIC: [u8; 8] = *b"REGROUP1";

/// Offsets of the two control slots in a redo file.
pub const CONTROL_SLOTS: [u64; 2] = [8192, 12288];
/// Offset of the double-write area in a redo file.
pub const DOUBLE_WRITE_AT: u64 = 65536;
/// Offset of the first page image in the double-write area.
pub const DOUBLE_WRITE_IMAGES_AT: u64 = DOUBLE_WRITE_AT + PAGE_SIZE as u64;
/// Offset of the ring in a redo file.
pub const RING_AT: u64 = 2 << 20;
/// Offset of page 0 in a data file.
pub const PAGES_AT: u64 = PAGE_SIZE as u64;

/// Offset of the sectors in a voting file.
pub const VOTING_SECTORS_AT: u64 = 65536;
/// Length of a voting file, in bytes: four sectors for each of 64 instances.
pub const VOTING_BYTES: u64 = VOTING_SECTORS_AT + THREADS_MAX as u64 * 4 * LOG_BLOCK as u64;

const _: () = assert!(DOUBLE_WRITE_IMAGES_AT + (DOUBLE_WRITE_PAGES * PAGE_SIZE) as u64 <= RING_AT);

/// What a storage file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FileKind {
    /// Redo file of one thread: control slots, double-write area, ring.
    Redo = 1,
    /// Pages.
    Data = 2,
    /// Sectors by which membership is decided.
    Voting = 3,
}

impl std::fmt::Display for FileKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FileKind::Redo => "redo",
            FileKind::Data => "data",
            FileKind::Voting => "voting",
        })
    }
}

/// A cluster's storage, described once at creation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Redo threads, 1 to 64.
    pub threads: u16,
    /// Data files, 1 to 1024.
    pub data_files: u16,
    /// Ring of each redo thread, in bytes; a multiple of 1 MiB.
    pub ring_bytes: u64,
    /// Pages area of each data file at creation, in bytes; a multiple of the page size.
    pub data_bytes: u64,
    /// Whether data files grow; otherwise they stay as long as they were made.
    pub grow: bool,
    /// When it was created, in milliseconds since the Unix epoch; for people.
    pub created_ms: u64,
}

/// A shape that can't be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("storage {name} is {found}, but must be {allowed}")]
pub struct ShapeError {
    /// Which field.
    pub name: &'static str,
    /// Its value.
    pub found: u64,
    /// What is allowed.
    pub allowed: &'static str,
}

impl Shape {
    /// Checks every field.
    ///
    /// # Errors
    /// The first field out of range.
    pub fn validate(&self) -> Result<(), ShapeError> {
        let wrong = |name, found, allowed| Err(ShapeError { name, found, allowed });
        if !(1..=THREADS_MAX).contains(&self.threads) {
            return wrong("threads", self.threads.into(), "1 to 64");
        }
        if !(1..=DATA_FILES_MAX).contains(&self.data_files) {
            return wrong("data_files", self.data_files.into(), "1 to 1024");
        }
        if !(RING_BYTES_MIN..=1 << 44).contains(&self.ring_bytes) || !self.ring_bytes.is_multiple_of(LOG_WRITE_MAX as u64) {
            return wrong("ring_bytes", self.ring_bytes, "a multiple of 1 MiB, 8 MiB to 16 TiB");
        }
        if !(64 * PAGE_SIZE as u64..=1 << 50).contains(&self.data_bytes) || !self.data_bytes.is_multiple_of(PAGE_SIZE as u64) {
            return wrong("data_bytes", self.data_bytes, "a multiple of 8192, 512 KiB to 1 PiB");
        }
        Ok(())
    }

    /// Length of a file of `kind` at creation, in bytes.
    pub fn file_bytes(&self, kind: FileKind) -> u64 {
        match kind {
            FileKind::Redo => RING_AT + self.ring_bytes,
            FileKind::Data => PAGES_AT + self.data_bytes,
            FileKind::Voting => VOTING_BYTES,
        }
    }
}

/// The block, byte for byte; the rest up to 4096 is zero.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    crc: U32,
    format: U32,
    magic: [u8; 8],
    cluster: [u8; 16],
    at: U64,
    kind: u8,
    grow: u8,
    number: U16,
    threads: U16,
    data_files: U16,
    page_size: U32,
    log_block: U32,
    ring_at: U64,
    ring_bytes: U64,
    double_write_at: U64,
    double_write_pages: U32,
    reserved: U32,
    pages_at: U64,
    data_bytes: U64,
    created_ms: U64,
    voting: U64,
    zero: [u8; SUPERBLOCK - 120],
}

const _: () = assert!(size_of::<Layout>() == SUPERBLOCK);

/// One storage file's superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// The cluster's shape.
    pub shape: Shape,
    /// What this file is.
    pub kind: FileKind,
    /// Which one of its kind: the redo thread's number (from 1), or the data file's or voting file's (from 0).
    pub number: u16,
    /// A voting file's random number, by which views name it: a file that takes another's place has another. 0 for other kinds.
    pub voting: u64,
}

/// What is wrong with a storage file. [`StorageError`] says where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageFault {
    /// Not made by us.
    #[error("expected the magic {MAGIC:02x?}, found {found:02x?}: not a storage file of Regroup")]
    Magic {
        /// What is there.
        found: [u8; 8],
    },
    /// Made by another version.
    #[error("expected format version {FORMAT}, found {found}")]
    Format {
        /// What is there.
        found: u32,
    },
    /// Torn or flipped.
    #[error("superblock damaged: expected checksum {expected:08x}, found {found:08x}")]
    Checksum {
        /// Over the contents.
        expected: u32,
        /// Kept.
        found: u32,
    },
    /// Whole, but a field contradicts what it must be.
    #[error("{field}: expected {expected}, found {found}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What it must be.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// The two copies are whole but differ.
    #[error("the two superblock copies differ")]
    CopiesDiffer,
    /// Of another cluster.
    #[error("expected cluster {expected}, found {found}")]
    Cluster {
        /// This cluster.
        expected: ClusterId,
        /// The file's.
        found: ClusterId,
    },
    /// Another file of the cluster than its place in the configuration says.
    #[error("expected {expected_kind} file {expected}, found {found_kind} file {found}")]
    Place {
        /// By the configuration.
        expected_kind: FileKind,
        /// By the configuration.
        expected: u16,
        /// By its superblock.
        found_kind: FileKind,
        /// By its superblock.
        found: u16,
    },
    /// Shorter or longer than it was made.
    #[error("expected a length of {expected} bytes{}, found {found}", if *at_least { " or more" } else { "" })]
    Length {
        /// By its superblock.
        expected: u64,
        /// By the file system.
        found: u64,
        /// Whether more is fine.
        at_least: bool,
    },
    /// The configuration lists too few or too many files.
    #[error("the cluster has {expected} {kind} files, the configuration lists {found}")]
    Count {
        /// Which files.
        kind: FileKind,
        /// By the superblock.
        expected: usize,
        /// By the configuration.
        found: usize,
    },
    /// The configuration lists more files than any cluster has.
    #[error("the configuration lists {found} {kind} files, a cluster has at most {most}")]
    TooMany {
        /// Which files.
        kind: FileKind,
        /// Limit.
        most: usize,
        /// By the configuration.
        found: usize,
    },
    /// A device that is to become storage holds a cluster's storage already.
    #[error("already holds storage of cluster {cluster}")]
    Occupied {
        /// Whose.
        cluster: ClusterId,
    },
    /// A field is beyond what can be.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl StorageFault {
    /// What an operator can do.
    pub fn remedy(&self) -> &'static str {
        match self {
            StorageFault::Magic { .. } => "check the path in the configuration",
            StorageFault::Format { .. } => "open it with the version of Regroup that made it",
            StorageFault::Checksum { .. } | StorageFault::CopiesDiffer => {
                "if the other copy is whole, `clusterctl superblock --restore` rewrites this one from it; otherwise restore the file from a backup"
            }
            StorageFault::Cluster { .. } | StorageFault::Place { .. } | StorageFault::Count { .. } | StorageFault::TooMany { .. } => {
                "check the order and the paths of the storage files in the configuration"
            }
            StorageFault::Occupied { .. } => "choose another device, or overwrite its first 8 KiB if that cluster isn't needed any more",
            StorageFault::Length { .. } => "the file was truncated or replaced: restore it from a backup or a copy",
            StorageFault::Field { .. } | StorageFault::Shape(_) => {
                "the superblock was not written by this version: check the path, or restore the file"
            }
        }
    }
}

/// Why storage can't be opened. Nothing has been written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// A file isn't what it must be.
    #[error("{}, offset {offset}: {fault}; {}", file.display(), fault.remedy())]
    Fault {
        /// The storage file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        fault: StorageFault,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Superblock {
    /// The bytes of the copy at `at`.
    pub fn encode(&self, at: u64) -> [u8; SUPERBLOCK] {
        let shape = &self.shape;
        let mut bytes = [0; SUPERBLOCK];
        let layout = Layout::mut_from_bytes(&mut bytes).expect("a superblock is 4096 unaligned bytes");
        layout.format.set(FORMAT);
        layout.magic = MAGIC;
        layout.cluster = shape.cluster.0;
        layout.at.set(at);
        layout.kind = self.kind as u8;
        layout.grow = shape.grow.into();
        layout.number.set(self.number);
        layout.threads.set(shape.threads);
        layout.data_files.set(shape.data_files);
        layout.page_size.set(PAGE_SIZE as u32);
        layout.log_block.set(LOG_BLOCK as u32);
        layout.ring_at.set(RING_AT);
        layout.ring_bytes.set(shape.ring_bytes);
        layout.double_write_at.set(DOUBLE_WRITE_AT);
        layout.double_write_pages.set(DOUBLE_WRITE_PAGES as u32);
        layout.pages_at.set(PAGES_AT);
        layout.data_bytes.set(shape.data_bytes);
        layout.created_ms.set(shape.created_ms);
        layout.voting.set(self.voting);
        checksum::seal(&mut bytes);
        bytes
    }

    /// Reads the copy that lies at `at`.
    ///
    /// # Errors
    /// The first [`StorageFault`]; the magic is looked at first, so that a foreign file is called foreign, then checksum, then format.
    pub fn decode(bytes: &[u8; SUPERBLOCK], at: u64) -> Result<Superblock, StorageFault> {
        let layout = Layout::ref_from_bytes(bytes).expect("a superblock is 4096 unaligned bytes");
        let (expected, found) = (checksum::of_block(bytes), checksum::kept(bytes));
        if expected != found {
            let ours = layout.magic == MAGIC || layout.magic.iter().zip(MAGIC).filter(|(a, b)| **a == *b).count() >= 6;
            return Err(if ours { StorageFault::Checksum { expected, found } } else { StorageFault::Magic { found: layout.magic } });
        }
        if layout.magic != MAGIC {
            return Err(StorageFault::Magic { found: layout.magic });
        }
        if layout.format.get() != FORMAT {
            return Err(StorageFault::Format { found: layout.format.get() });
        }
        let kind = match layout.kind {
            1 => FileKind::Redo,
            2 => FileKind::Data,
            3 => FileKind::Voting,
            other => return Err(StorageFault::Field { field: "file kind", expected: 1, found: other.into() }),
        };
        let fixed: [(&'static str, u64, u64); 10] = [
            ("own offset", at, layout.at.get()),
            ("page size", PAGE_SIZE as u64, layout.page_size.get().into()),
            ("log block size", LOG_BLOCK as u64, layout.log_block.get().into()),
            ("ring offset", RING_AT, layout.ring_at.get()),
            ("double-write offset", DOUBLE_WRITE_AT, layout.double_write_at.get()),
            ("double-write pages", DOUBLE_WRITE_PAGES as u64, layout.double_write_pages.get().into()),
            ("pages offset", PAGES_AT, layout.pages_at.get()),
            ("growth flag", u64::from(layout.grow & 1), layout.grow.into()),
            ("voting file's number present", u64::from(kind == FileKind::Voting), u64::from(layout.voting.get() != 0)),
            ("reserved bytes set", 0, layout.zero.iter().filter(|byte| **byte != 0).count() as u64 + u64::from(layout.reserved.get())),
        ];
        for (field, expected, found) in fixed {
            if expected != found {
                return Err(StorageFault::Field { field, expected, found });
            }
        }
        let shape = Shape {
            cluster: ClusterId(layout.cluster),
            threads: layout.threads.get(),
            data_files: layout.data_files.get(),
            ring_bytes: layout.ring_bytes.get(),
            data_bytes: layout.data_bytes.get(),
            grow: layout.grow == 1,
            created_ms: layout.created_ms.get(),
        };
        shape.validate()?;
        Ok(Superblock { shape, kind, number: layout.number.get(), voting: layout.voting.get() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_superblock_reads_back(cluster: [u8; 16], threads in 1u16..=64, data_files in 1u16..=1024, ring in 8u64..1 << 24,
            pages in 64u64..1 << 37, grow: bool, created_ms: u64, number: u16, copy in 0usize..2, kind in 0usize..3, voting in 1u64..) {
            let cluster = ClusterId(cluster);
            let (ring_bytes, data_bytes) = (ring << 20, pages * PAGE_SIZE as u64);
            let shape = Shape { cluster, threads, data_files, ring_bytes, data_bytes, grow, created_ms };
            let kind = [FileKind::Redo, FileKind::Data, FileKind::Voting][kind];
            let superblock = Superblock { shape, kind, number, voting: if kind == FileKind::Voting { voting } else { 0 } };
            prop_assert_eq!(Superblock::decode(&superblock.encode(COPIES[copy]), COPIES[copy]), Ok(superblock));
        }

        #[test]
        fn hostile_blocks_with_a_right_checksum_are_refused_or_possible(bytes in prop::collection::vec(any::<u8>(), 120), from in 4usize..120) {
            let mut block = sample().encode(0);
            block[from..120].copy_from_slice(&bytes[from..]);
            checksum::seal(&mut block);
            if let Ok(superblock) = Superblock::decode(&block, 0) {
                prop_assert_eq!(superblock.shape.validate(), Ok(()));
            }
        }
    }

    fn sample() -> Superblock {
        let shape = Shape {
            cluster: ClusterId(*b"0123456789abcdef"),
            threads: 3,
            data_files: 2,
            ring_bytes: 64 << 20,
            data_bytes: 16 << 20,
            grow: true,
            created_ms: 1_700_000_000_000,
        };
        Superblock { shape, kind: FileKind::Redo, number: 3, voting: 0 }
    }

    #[test]
    fn reads_back() {
        assert_eq!(Superblock::decode(&sample().encode(4096), 4096), Ok(sample()));
    }

    #[test]
    fn every_bit_flip_is_found() {
        let good = sample().encode(0);
        for bit in 0..SUPERBLOCK * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::decode(&bad, 0).is_err(), "flip of bit {bit}");
        }
    }

    #[test]
    fn a_copy_in_the_wrong_place_is_refused() {
        let fault = Superblock::decode(&sample().encode(0), 4096).unwrap_err();
        assert_eq!(fault, StorageFault::Field { field: "own offset", expected: 4096, found: 0 });
    }
}
