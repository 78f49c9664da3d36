//! Body of a space map page: which of the 4096 pages of its group are in use, and whose group it is.
//!
//! Page 0 of every group of [`SPACE_GROUP_PAGES`] pages is its map. A group belongs to one redo thread, which alone allocates from it,
//! so that instances that insert don't fight over space pages. Byte table in `docs/formats/page.md`. Changing a bit is a redo
//! operation like any other; this module only reads and writes the bytes.

use super::header::HEADER;
use super::slotted::SlotError;
use crate::base::limits::{SPACE_GROUP_PAGES, THREADS_MAX};
use crate::base::{PageId, ThreadId};

/// Where the owner's number lies: u16.
pub const OWNER: usize = HEADER;
/// Where the bitmap starts; one bit a page, set when in use.
pub const BITS: usize = HEADER + 16;
/// Where it ends.
pub const BITS_END: usize = BITS + SPACE_GROUP_PAGES as usize / 8;

/// The space map page that governs `page`.
pub fn map_of(page: PageId) -> PageId {
    PageId::new(page.file(), page.index() / SPACE_GROUP_PAGES * SPACE_GROUP_PAGES)
}

/// Whether `page` is itself a space map page.
pub fn is_map(page: PageId) -> bool {
    page.index().is_multiple_of(SPACE_GROUP_PAGES)
}

/// The bit of `page` in its map.
pub fn bit_of(page: PageId) -> usize {
    (page.index() % SPACE_GROUP_PAGES) as usize
}

/// Makes the body of a new map that belongs to `owner`, with only the map itself in use.
pub fn init(page: &mut [u8], owner: ThreadId) {
    page[HEADER..].fill(0);
    page[OWNER..OWNER + 2].copy_from_slice(&owner.0.to_le_bytes());
    page[BITS] = 1;
}

/// Checks what can be checked of a map: its owner is a redo thread, it counts itself as in use, reserved bytes are zero.
///
/// # Errors
/// [`SlotError::Damaged`] with the first contradiction.
pub fn check(page: &[u8]) -> Result<(), SlotError> {
    let damaged = |what, found: usize| Err(SlotError::Damaged { what, found });
    if !(1..=THREADS_MAX).contains(&owner(page).0) {
        return damaged("owner of a space group", owner(page).0.into());
    }
    if !used(page, 0) {
        return damaged("a space map that is not in use itself", 0);
    }
    match page[OWNER + 2..BITS].iter().position(|byte| *byte != 0) {
        Some(at) => damaged("reserved bytes set", OWNER + 2 + at),
        None => Ok(()),
    }
}

/// The redo thread that allocates here.
pub fn owner(page: &[u8]) -> ThreadId {
    ThreadId(u16::from_le_bytes([page[OWNER], page[OWNER + 1]]))
}

/// Whether bit `bit` is set.
pub fn used(page: &[u8], bit: usize) -> bool {
    page[BITS + bit / 8] >> (bit % 8) & 1 == 1
}

/// Sets or clears bit `bit`.
pub fn set(page: &mut [u8], bit: usize, used: bool) {
    let mask = 1 << (bit % 8);
    let byte = &mut page[BITS + bit / 8];
    *byte = if used { *byte | mask } else { *byte & !mask };
}

/// The first clear bit from `from` on.
pub fn find_free(page: &[u8], from: usize) -> Option<usize> {
    let bits = SPACE_GROUP_PAGES as usize;
    let mut bit = from;
    while bit < bits {
        if bit.is_multiple_of(64) {
            let at = BITS + bit / 8;
            if page[at..at + 8] == [0xff; 8] {
                bit += 64;
                continue;
            }
        }
        if !used(page, bit) {
            return Some(bit);
        }
        bit += 1;
    }
    None
}

/// Bits set.
pub fn count_used(page: &[u8]) -> u64 {
    page[BITS..BITS_END].iter().map(|byte| u64::from(byte.count_ones())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::PAGE_SIZE;

    #[test]
    fn bits_are_found_set_and_cleared() {
        let mut page = vec![0; PAGE_SIZE];
        init(&mut page, ThreadId(3));
        assert_eq!(owner(&page), ThreadId(3));
        assert_eq!(find_free(&page, 0), Some(1));
        for bit in 1..SPACE_GROUP_PAGES as usize {
            set(&mut page, bit, true);
        }
        assert_eq!(find_free(&page, 0), None);
        assert_eq!(count_used(&page), SPACE_GROUP_PAGES);
        set(&mut page, 700, false);
        assert_eq!(find_free(&page, 0), Some(700));
        assert_eq!(find_free(&page, 701), None);
    }

    #[test]
    fn pages_know_their_map() {
        let page = PageId::new(2, SPACE_GROUP_PAGES * 5 + 17);
        assert_eq!(map_of(page), PageId::new(2, SPACE_GROUP_PAGES * 5));
        assert_eq!(bit_of(page), 17);
        assert!(is_map(map_of(page)) && !is_map(page));
    }
}
