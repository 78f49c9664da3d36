//! Names of things that appear in formats, messages and logs: one newtype each, one `Display`.
//!
//! Everyone uses these. They are plain numbers with an order; what the order means stands at each.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $repr:ty, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

number!(
    /// A redo thread: one instance's log. 1 to 64; the instance that writes it has the same number.
    ThreadId, u16, "t"
);
number!(
    /// Cluster-wide logical clock (Lamport). Orders change groups; a page's version is the SCN of its newest change.
    Scn, u64, "scn:"
);
number!(
    /// Membership epoch: grows with every view.
    Epoch, u64, "e"
);
number!(
    /// One life of an instance: grows each time it opens the storage for writing.
    Incarnation, u64, "i"
);
number!(
    /// A B+tree.
    TreeId, u32, "tree"
);

impl Scn {
    /// The next tick.
    pub fn next(self) -> Scn {
        Scn(self.0 + 1)
    }
}

/// Position in one redo thread, in bytes: block number x 4096 + offset in that block.
///
/// It never wraps; the ring slot of a block is its number modulo the ring's length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// First byte of log block `block`.
    pub fn of_block(block: u64) -> Lsn {
        Lsn(block * super::limits::LOG_BLOCK as u64)
    }

    /// Number of the log block that this position lies in.
    pub fn block(self) -> u64 {
        self.0 / super::limits::LOG_BLOCK as u64
    }

    /// Offset in its block, in bytes.
    pub fn offset(self) -> usize {
        (self.0 % super::limits::LOG_BLOCK as u64) as usize
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}/{:03x}", self.block(), self.offset())
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A page's home: data file number (high 16 bits, from 0) and page index in that file (low 48 bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId(pub u64);

impl PageId {
    /// No page: ends a chain of links.
    pub const NONE: PageId = PageId(u64::MAX);

    /// The page at `index` of data file `file`.
    pub fn new(file: u16, index: u64) -> PageId {
        debug_assert!(index < 1 << 48);
        PageId(u64::from(file) << 48 | index)
    }

    /// Data file number.
    pub fn file(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Page index in its data file.
    pub fn index(self) -> u64 {
        self.0 & 0xffff_ffff_ffff
    }

    /// False for [`PageId::NONE`].
    pub fn is_some(self) -> bool {
        self != PageId::NONE
    }
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_some() { write!(f, "p{}:{}", self.file(), self.index()) } else { f.write_str("p-") }
    }
}

impl fmt::Debug for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The cluster that a storage file belongs to: 16 random bytes drawn at creation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// Short form carried by every page and log block: the first 8 bytes, little-endian.
    pub fn tag(self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(first)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who writes: stamped into every page and log block, so that what a dead life left behind is told apart (rule 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Writer {
    /// The redo thread, and so the instance.
    pub thread: ThreadId,
    /// Its life.
    pub incarnation: Incarnation,
    /// The epoch it writes in.
    pub epoch: Epoch,
}
