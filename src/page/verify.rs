//! Whether a page read from disk is the page that was asked for, whole (rule 16).
//!
//! Called for every page that enters the cache or recovery, and by the offline check. It can't tell an old version from the newest:
//! that takes redo (rule 8).

use super::header::{self, FORMAT, Kind};
use super::slotted::{self, SlotError};
use super::space;
use crate::base::limits::{NUMBER_MAX, THREADS_MAX};
use crate::base::{PageId, Scn, checksum};

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
    /// Whole and ours, but a number in its header can't be: written wrong.
    #[error("page {page}: {what} is {found}, beyond what can be")]
    Number {
        /// The page asked for.
        page: PageId,
        /// Which field.
        what: &'static str,
        /// What it is.
        found: u64,
    },
    /// Whole and ours, but the log says that a newer version was durable here: a lost write.
    #[error("page {page} has version {found}, but the log says that {expected} was durable at its home: a lost write")]
    Stale {
        /// The page asked for.
        page: PageId,
        /// Durable once.
        expected: Scn,
        /// What is there.
        found: Scn,
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
    for (what, most, found) in [
        ("version", NUMBER_MAX, header.version.get()),
        ("redo position", NUMBER_MAX, header.redo.get()),
        ("epoch", NUMBER_MAX, header.epoch.get()),
        ("incarnation", NUMBER_MAX, header.incarnation.get()),
        ("redo thread", THREADS_MAX.into(), header.thread.get().into()),
        ("reserved field", 0, header.reserved.get().into()),
    ] {
        if found > most {
            return Err(PageFault::Number { page: id, what, found });
        }
    }
    match header.kind() {
        None => Err(PageFault::Unknown { page: id, what: "kind", found: header.kind }),
        Some(Kind::Tree | Kind::Slots | Kind::Undo) => slotted::check(page).map_err(|fault| PageFault::Body { page: id, fault }),
        Some(Kind::Space) => space::check(page).map_err(|fault| PageFault::Body { page: id, fault }),
        Some(Kind::Free) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::PAGE_SIZE;
    use crate::base::{Lsn, Scn, ThreadId, TreeId, Writer};

    const ID: PageId = PageId(3 << 48 | 4096);
    const TAG: u64 = 0x1122_3344;

    fn tree_page() -> Vec<u8> {
        let mut page = vec![0; PAGE_SIZE];
        header::format(&mut page, ID, Kind::Tree, TreeId(4), TAG);
        slotted::init(&mut page, 0);
        slotted::set_bounds(&mut page, Some(b"zz"), PageId(9)).unwrap();
        for at in 0..100u8 {
            slotted::insert(&mut page, usize::from(at), &[at, 1], &[at; 40]).unwrap();
        }
        slotted::delete(&mut page, 50).unwrap();
        sealed(page)
    }

    fn space_page() -> Vec<u8> {
        let mut page = vec![0; PAGE_SIZE];
        header::format(&mut page, ID, Kind::Space, TreeId(0), TAG);
        space::init(&mut page, ThreadId(1));
        (1..300).for_each(|bit| space::set(&mut page, bit, true));
        sealed(page)
    }

    fn sealed(mut page: Vec<u8>) -> Vec<u8> {
        header::stamp(&mut page, Scn(5), Lsn(8192), Writer { thread: ThreadId(1), ..Writer::default() });
        checksum::seal(&mut page);
        page
    }

    #[test]
    fn every_bit_flip_is_found() {
        for mut page in [tree_page(), space_page()] {
            assert_eq!(verify(&page, ID, TAG), Ok(()));
            for bit in 0..PAGE_SIZE * 8 {
                page[bit / 8] ^= 1 << (bit % 8);
                assert!(verify(&page, ID, TAG).is_err(), "flip of bit {bit}");
                page[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn whole_pages_of_another_place_are_refused_by_name() {
        let page = tree_page();
        assert!(matches!(verify(&page, PageId(4), TAG), Err(PageFault::Identity { what: "page id", .. })));
        assert!(matches!(verify(&page, ID, TAG + 1), Err(PageFault::Identity { what: "cluster", .. })));
        assert_eq!(verify(&[0; PAGE_SIZE], ID, TAG), Err(PageFault::Blank { page: ID }));
    }

    /// The fault of a tree page with a valid checksum whose bytes at `at` are `bytes`.
    fn hostile(at: usize, bytes: &[u8]) -> PageFault {
        let mut page = tree_page();
        page[at..at + bytes.len()].copy_from_slice(bytes);
        checksum::seal(&mut page);
        verify(&page, ID, TAG).unwrap_err()
    }

    #[test]
    fn a_right_checksum_is_not_enough() {
        assert!(matches!(hostile(4, &[9]), PageFault::Unknown { what: "kind", .. }));
        assert!(matches!(hostile(5, &[9]), PageFault::Unknown { what: "format", .. }));
        assert!(matches!(hostile(6, &[65, 0]), PageFault::Number { what: "redo thread", .. }));
        assert!(matches!(hostile(16, &[0xff; 8]), PageFault::Number { what: "version", .. }));
        assert!(matches!(hostile(24, &[0xff; 8]), PageFault::Number { what: "redo position", .. }));
        assert!(matches!(hostile(60, &[1]), PageFault::Number { what: "reserved field", .. }));
        assert!(matches!(hostile(64, &[0xff; 2]), PageFault::Body { .. }));
        assert!(matches!(hostile(71, &[1]), PageFault::Body { fault: SlotError::Damaged { what: "reserved bytes set", .. }, .. }));
    }

    #[test]
    fn cells_that_share_bytes_are_refused() {
        // Changing the value of one in place would then change the other's length.
        let mut page = tree_page();
        let first = page[slotted::SLOTS..slotted::SLOTS + 2].to_vec();
        page[slotted::SLOTS + slotted::SLOT..slotted::SLOTS + slotted::SLOT + 2].copy_from_slice(&first);
        checksum::seal(&mut page);
        let fault = verify(&page, ID, TAG).unwrap_err();
        assert!(matches!(fault, PageFault::Body { fault: SlotError::Damaged { what: "two cells share a byte", .. }, .. }), "{fault}");
    }
}
