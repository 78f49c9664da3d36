//! What tree operations answer when they can't do what was asked.

use crate::base::limits::INLINE_MAX;
use crate::base::{PageId, TreeId};
use crate::cache::{CacheError, Halt, Halts, Wait};

/// How a page that passed verification contradicts its place in a tree (rule 20: never a panic).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Not a page of a tree.
    #[error("is of kind {found}, not a tree node")]
    Kind {
        /// Its kind.
        found: u8,
    },
    /// Of another tree.
    #[error("belongs to {found}")]
    Tree {
        /// By its header.
        found: TreeId,
    },
    /// Of another level than its place says.
    #[error("is at level {found}, but {expected} belongs there")]
    Level {
        /// By its place.
        expected: u8,
        /// By its body.
        found: u8,
    },
    /// Higher than a tree can be.
    #[error("is at level {found}, higher than any tree")]
    TooHigh {
        /// By its body.
        found: u8,
    },
    /// An inner node must have children.
    #[error("is an inner node without children")]
    NoChildren,
    /// A child pointer is 8 bytes.
    #[error("has a child pointer of {length} bytes in slot {slot}")]
    ChildPointer {
        /// Where.
        slot: usize,
        /// Its length, in bytes.
        length: usize,
    },
    /// A child pointer to where no node can be.
    #[error("points at {child} in slot {slot}, where no node can be")]
    ChildPlace {
        /// Where.
        slot: usize,
        /// The page that it names.
        child: PageId,
    },
    /// A value of the directory has a fixed length.
    #[error("has a directory entry of {key} and {value} bytes in slot {slot}")]
    DirectoryEntry {
        /// Where.
        slot: usize,
        /// Length of its key, in bytes.
        key: usize,
        /// Length of its value, in bytes.
        value: usize,
    },
    /// A page of transaction slots that says what can't be.
    #[error("has a transaction slot that can't be: {found}")]
    Slot {
        /// What it says.
        found: u64,
    },
    /// It can't be split so that both halves fit: its cells are larger than any that are put in.
    #[error("has cells too large to be split")]
    Unsplittable,
    /// Low fence at or above the high one.
    #[error("has a low fence that isn't below the high one")]
    FencesCross,
    /// Space map pages have their own kind.
    #[error("is of kind {found}, not a space map")]
    NotAMap {
        /// Its kind.
        found: u8,
    },
}

/// Why a tree operation failed. Nothing has been changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The key alone is over the limit.
    #[error("a key of {bytes} bytes is too long: key and value together may have {INLINE_MAX}")]
    KeyTooLong {
        /// Its length.
        bytes: usize,
    },
    /// Key and value together are over the limit.
    #[error("a value of {value_bytes} bytes is too large beside a key of {key_bytes}: together they may have {INLINE_MAX}")]
    ValueTooLarge {
        /// Length of the key.
        key_bytes: usize,
        /// Length of the value.
        value_bytes: usize,
    },
    /// No such tree.
    #[error("there is no {tree}")]
    UnknownTree {
        /// Asked for.
        tree: TreeId,
    },
    /// There is one already.
    #[error("{tree} exists already")]
    TreeExists {
        /// Asked for.
        tree: TreeId,
    },
    /// A tree of this number is being dropped: its pages aren't all free yet.
    #[error("{tree} is still being dropped")]
    BeingDropped {
        /// Asked for.
        tree: TreeId,
    },
    /// A number that trees of callers can't have.
    #[error("{tree} is reserved")]
    ReservedTree {
        /// Asked for.
        tree: TreeId,
    },
    /// No data file has a free page, and none can grow.
    #[error("all {files} data files are full and can't grow: free some space on their devices, add a data file, or delete data")]
    Full {
        /// Data files in all.
        files: u16,
    },
    /// A page contradicts its place.
    #[error("{tree}: page {page} {damage}")]
    Damaged {
        /// Which tree was walked.
        tree: TreeId,
        /// The page.
        page: PageId,
        /// What is wrong with it.
        damage: Damage,
    },
    /// The cache, log or disk can't go on; also [`CacheError::GroupTooLarge`] for a batch over the limits.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Something must be waited for first. Operations wait themselves: callers of the asynchronous functions don't see this.
    #[error("has to wait for {0:?}")]
    Wait(Wait),
}

impl From<Halt> for TableError {
    fn from(halt: Halt) -> TableError {
        match halt {
            Halt::Wait(wait) => TableError::Wait(wait),
            Halt::Failed(error) => TableError::Cache(error),
        }
    }
}

impl Halts for TableError {
    fn into_wait(self) -> Result<Wait, TableError> {
        match self {
            TableError::Wait(wait) => Ok(wait),
            other => Err(other),
        }
    }
}

/// What was found by a look without latches isn't so any more: start over.
pub(super) fn raced() -> TableError {
    TableError::Wait(Wait::Latch)
}
