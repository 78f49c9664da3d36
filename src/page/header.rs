//! The 64 bytes at the head of every page: identity, version, who wrote it, checksum.
//!
//! Byte table in `docs/formats/page.md`. Everyone who touches a page goes through these fields; only change groups and redo
//! move `version`, and only the page writer seals the checksum.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::base::limits::PAGE_SIZE;
use crate::base::{Epoch, Incarnation, Lsn, PageId, Scn, ThreadId, TreeId, Writer};

/// Bytes of the header.
pub const HEADER: usize = 64;
/// Version of the page layout.
pub const FORMAT: u8 = 1;

/// What a page holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Nothing: given back to the space map.
    Free = 1,
    /// Which pages of a space group are in use ([`super::space`]).
    Space = 2,
    /// A B+tree node ([`super::slotted`]).
    Tree = 3,
    /// Slots of transactions ([`super::slotted`]).
    Slots = 4,
    /// Undo records ([`super::slotted`]).
    Undo = 5,
}

impl Kind {
    /// Whether its body is cells ([`super::slotted`]).
    pub fn is_slotted(self) -> bool {
        matches!(self, Kind::Tree | Kind::Slots | Kind::Undo)
    }

    /// The kind of number `raw`.
    pub fn from_raw(raw: u8) -> Option<Kind> {
        match raw {
            1 => Some(Kind::Free),
            2 => Some(Kind::Space),
            3 => Some(Kind::Tree),
            4 => Some(Kind::Slots),
            5 => Some(Kind::Undo),
            _ => None,
        }
    }
}

/// The header, byte for byte.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct PageHeader {
    /// CRC-32C of bytes 4..8192.
    pub crc: U32,
    /// [`Kind`].
    pub kind: u8,
    /// [`FORMAT`].
    pub format: u8,
    /// Redo thread of the last writer.
    pub thread: U16,
    /// Which page this is.
    pub page: U64,
    /// SCN of its newest change.
    pub version: U64,
    /// End of that change's group in the writer's redo thread (rule 7).
    pub redo: U64,
    /// Epoch of the last writer.
    pub epoch: U64,
    /// Incarnation of the last writer.
    pub incarnation: U64,
    /// First 8 bytes of the cluster's id.
    pub cluster: U64,
    /// The tree that the page belongs to; 0 for none.
    pub tree: U32,
    /// Zero.
    pub reserved: U32,
}

const _: () = assert!(size_of::<PageHeader>() == HEADER);

/// The header of `page`.
pub fn of(page: &[u8]) -> &PageHeader {
    PageHeader::ref_from_bytes(&page[..HEADER]).expect("a header is 64 unaligned bytes")
}

/// The header of `page`, to change.
pub fn of_mut(page: &mut [u8]) -> &mut PageHeader {
    PageHeader::mut_from_bytes(&mut page[..HEADER]).expect("a header is 64 unaligned bytes")
}

/// Clears `page` and stamps its identity; the version stays 0 until a change group sets it.
pub fn format(page: &mut [u8], id: PageId, kind: Kind, tree: TreeId, cluster: u64) {
    debug_assert_eq!(page.len(), PAGE_SIZE);
    page.fill(0);
    let header = of_mut(page);
    header.kind = kind as u8;
    header.format = FORMAT;
    header.page.set(id.0);
    header.cluster.set(cluster);
    header.tree.set(tree.0);
}

/// Marks a change: version, position and writer.
pub fn stamp(page: &mut [u8], version: Scn, redo: Lsn, writer: Writer) {
    let header = of_mut(page);
    header.version.set(version.0);
    header.redo.set(redo.0);
    header.thread.set(writer.thread.0);
    header.incarnation.set(writer.incarnation.0);
    header.epoch.set(writer.epoch.0);
}

impl PageHeader {
    /// [`PageHeader::version`].
    pub fn version(&self) -> Scn {
        Scn(self.version.get())
    }

    /// [`PageHeader::redo`].
    pub fn redo(&self) -> Lsn {
        Lsn(self.redo.get())
    }

    /// [`PageHeader::page`].
    pub fn id(&self) -> PageId {
        PageId(self.page.get())
    }

    /// [`PageHeader::tree`].
    pub fn tree(&self) -> TreeId {
        TreeId(self.tree.get())
    }

    /// [`PageHeader::kind`], if it is one.
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_raw(self.kind)
    }

    /// Who wrote last.
    pub fn writer(&self) -> Writer {
        Writer { thread: ThreadId(self.thread.get()), incarnation: Incarnation(self.incarnation.get()), epoch: Epoch(self.epoch.get()) }
    }
}
