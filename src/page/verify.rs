//! Whether a page read from disk is the page that was asked for, whole (rule 16).
//!
//! Called for every page that enters the cache or recovery, and by the offline check. It can't tell an old version from the newest:
//! that takes redo (rule 8).

use super::header::{self, FORMAT, Kind};
use super::slotted::{self, SlotError};
use crate::base::{PageId, checksum};

/// What is wrong with a page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageFault {
    /// All zeroes: never written, or its write was lost.
    #[error("page {page} is all zeroes: it was never written, or its writes were lost")]
    Blank {
        /// The page asked for.
        page: PageId,
    },
    /// Checksum and contents differ: torn or flipped.
    #[error("page {page}: checksum is {found:08x}, contents give {expected:08x}: torn or damaged")]
    Checksum {
        /// The page asked for.
        page: PageId,
        /// Computed over the contents.
        expected: u32,
        /// Kept in the page.
        found: u32,
    },
    /// A whole page, but another one: a misdirected write, or another cluster's.
    #[error("page {page}: holds {what} {found:x} where {expected:x} belongs: a misdirected write, or another cluster's page")]
    Identity {
        /// The page asked for.
        page: PageId,
        /// Which field.
        what: &'static str,
        /// What the field must be.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// Whole and ours, but not a layout that this version knows.
    #[error("page {page}: {what} {found} is unknown to this version")]
    Unknown {
        /// The page asked for.
        page: PageId,
        /// Which field.
        what: &'static str,
        /// What it is.
        found: u8,
    },
    /// Whole and ours, but its body contradicts itself: written wrong.
    #[error("page {page}: {fault}")]
    Body {
        /// The page asked for.
        page: PageId,
        /// The contradiction.
        fault: SlotError,
    },
}

/// Checks checksum, identity and layout of `page`, which was read as `id` of the cluster with tag `cluster`.
///
/// # Errors
/// The first [`PageFault`] found.
pub fn verify(page: &[u8], id: PageId, cluster: u64) -> Result<(), PageFault> {
    let expected = checksum::of_block(page);
    let found = checksum::kept(page);
    if expected != found {
        let blank = page.iter().all(|&byte| byte == 0);
        return Err(if blank { PageFault::Blank { page: id } } else { PageFault::Checksum { page: id, expected, found } });
    }
    verify_stamped(page, id, cluster)
}

/// As [`verify`] without the checksum: for a page in memory whose checksum isn't kept current.
///
/// # Errors
/// The first [`PageFault`] found.
pub fn verify_stamped(page: &[u8], id: PageId, cluster: u64) -> Result<(), PageFault> {
    let header = header::of(page);
    for (what, expected, found) in [("page id", id.0, header.page.get()), ("cluster", cluster, header.cluster.get())] {
        if expected != found {
            return Err(PageFault::Identity { page: id, what, expected, found });
        }
    }
    if header.format != FORMAT {
        return Err(PageFault::Unknown { page: id, what: "format", found: header.format });
    }
    match header.kind() {
        None => Err(PageFault::Unknown { page: id, what: "kind", found: header.kind }),
        Some(Kind::Tree) => slotted::check(page).map_err(|fault| PageFault::Body { page: id, fault }),
        Some(Kind::Free | Kind::Space) => Ok(()),
    }
}
