//! Slotted body of a tree page: sorted cells of key and value, fence keys, a link to the right sibling.
//!
//! ```text
//! 64        96            slots end      heap start                    8192
//! | body hd | slot slot ..|  free space  | cells and fence keys, any order |
//! ```
//! Byte table in `docs/formats/page.md`. Every function is deterministic in the page's bytes, so redo that repeats the calls repeats
//! the bytes. Reading functions trust a page that [`check`] accepted; changing ones refuse what doesn't fit and then change nothing.
//! Keys are compared as byte strings. This module doesn't know trees: order between pages is `table`'s concern.

use std::cmp::Ordering;

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::header::HEADER;
use crate::base::PageId;
use crate::base::limits::PAGE_SIZE;

/// Where the slot array starts, in bytes.
pub const SLOTS: usize = HEADER + 32;
/// Bytes of one slot.
pub const SLOT: usize = 4;
/// Bytes of a cell beside its key and value.
pub const CELL: usize = 2;
/// Length that stands for "no fence": unbounded.
const UNBOUNDED: u16 = u16::MAX;
/// Bytes that slots, cells and fences share.
pub const CAPACITY: usize = PAGE_SIZE - SLOTS;

/// The body header, byte for byte, at offset 64.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Body {
    /// Slots in use.
    slots: U16,
    /// Lowest byte of the heap.
    heap: U16,
    /// Dead bytes in the heap.
    dead: U16,
    /// 0 for leaves.
    level: u8,
    reserved: u8,
    right: U64,
    low_at: U16,
    low_len: U16,
    high_at: U16,
    high_len: U16,
    reserved2: U64,
}

const _: () = assert!(size_of::<Body>() == SLOTS - HEADER);

/// Why a page's body or a change to it is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// The cell doesn't fit.
    #[error("{needed} bytes needed, {free} free")]
    Full {
        /// In bytes, slot included.
        needed: usize,
        /// In bytes.
        free: usize,
    },
    /// There is no such slot.
    #[error("slot {slot} of {slots}")]
    NoSlot {
        /// Asked for.
        slot: usize,
        /// Present.
        slots: usize,
    },
    /// The layout contradicts itself.
    #[error("page body damaged: {what} ({found})")]
    Damaged {
        /// Which rule of the layout is broken.
        what: &'static str,
        /// The offending number.
        found: usize,
    },
}

fn body(page: &[u8]) -> &Body {
    Body::ref_from_bytes(&page[HEADER..SLOTS]).expect("a body header is 32 unaligned bytes")
}

fn body_mut(page: &mut [u8]) -> &mut Body {
    Body::mut_from_bytes(&mut page[HEADER..SLOTS]).expect("a body header is 32 unaligned bytes")
}

#[inline]
fn u16_at(page: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([page[at], page[at + 1]]))
}

#[inline]
fn put_u16(page: &mut [u8], at: usize, value: usize) {
    page[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
}

/// Offset and key length of slot `slot`.
#[inline]
fn slot_at(page: &[u8], slot: usize) -> (usize, usize) {
    let at = SLOTS + slot * SLOT;
    (u16_at(page, at), u16_at(page, at + 2))
}

/// Whole length of the cell in slot `slot`.
fn cell_len(page: &[u8], slot: usize) -> usize {
    let (at, key_len) = slot_at(page, slot);
    CELL + key_len + u16_at(page, at)
}

/// Makes the body an empty node without bounds.
pub fn init(page: &mut [u8], level: u8) {
    page[HEADER..].fill(0);
    let body = body_mut(page);
    body.heap.set(PAGE_SIZE as u16);
    body.level = level;
    body.right.set(PageId::NONE.0);
    body.low_len.set(UNBOUNDED);
    body.high_len.set(UNBOUNDED);
}

/// Cells in the page.
#[inline]
pub fn count(page: &[u8]) -> usize {
    u16_at(page, HEADER)
}

/// Height above the leaves.
#[inline]
pub fn level(page: &[u8]) -> u8 {
    page[HEADER + 6]
}

/// Right sibling on the same level.
pub fn right(page: &[u8]) -> PageId {
    PageId(body(page).right.get())
}

/// Key of slot `slot`.
#[inline]
pub fn key(page: &[u8], slot: usize) -> &[u8] {
    let (at, key_len) = slot_at(page, slot);
    &page[at + CELL..at + CELL + key_len]
}

/// Value of slot `slot`.
#[inline]
pub fn value(page: &[u8], slot: usize) -> &[u8] {
    let (at, key_len) = slot_at(page, slot);
    let from = at + CELL + key_len;
    &page[from..from + u16_at(page, at)]
}

/// Lowest key that belongs here; nothing when unbounded.
pub fn low(page: &[u8]) -> Option<&[u8]> {
    let body = body(page);
    fence(page, body.low_at, body.low_len)
}

/// First key that no longer belongs here; nothing when unbounded.
pub fn high(page: &[u8]) -> Option<&[u8]> {
    let body = body(page);
    fence(page, body.high_at, body.high_len)
}

fn fence(page: &[u8], at: U16, len: U16) -> Option<&[u8]> {
    let at = usize::from(at.get());
    (len.get() != UNBOUNDED).then(|| &page[at..at + usize::from(len.get())])
}

/// Whether `wanted` lies between the fences.
pub fn covers(page: &[u8], wanted: &[u8]) -> bool {
    low(page).is_none_or(|low| low <= wanted) && high(page).is_none_or(|high| wanted < high)
}

/// The slot of `wanted`, or where it would go.
///
/// # Errors
/// The slot before which it belongs.
#[inline]
pub fn search(page: &[u8], wanted: &[u8]) -> Result<usize, usize> {
    let (mut from, mut to) = (0, count(page));
    // Most keys differ in their first eight bytes: compared as a number, without a call.
    let head = wanted.first_chunk().map(|eight| u64::from_be_bytes(*eight));
    let compare = |key: &[u8]| match (head, key.first_chunk()) {
        (Some(head), Some(eight)) => u64::from_be_bytes(*eight).cmp(&head).then_with(|| key[8..].cmp(&wanted[8..])),
        _ => key.cmp(wanted),
    };
    while from < to {
        let middle = (from + to) / 2;
        match compare(key(page, middle)) {
            Ordering::Less => from = middle + 1,
            Ordering::Greater => to = middle,
            Ordering::Equal => return Ok(middle),
        }
    }
    Err(from)
}

/// Free bytes, dead ones included.
pub fn free(page: &[u8]) -> usize {
    let body = body(page);
    usize::from(body.heap.get()) - SLOTS - count(page) * SLOT + usize::from(body.dead.get())
}

/// Bytes in use by slots, cells and fences.
pub fn used(page: &[u8]) -> usize {
    CAPACITY - free(page)
}

/// Bytes that a cell takes, slot included.
pub fn cell_size(key_len: usize, value_len: usize) -> usize {
    SLOT + CELL + key_len + value_len
}

/// Whether a cell fits.
pub fn fits(page: &[u8], key_len: usize, value_len: usize) -> bool {
    cell_size(key_len, value_len) <= free(page)
}

/// Takes `len` bytes from the heap, squeezing dead bytes out when needed. The caller knows that they fit beside `slots` slots.
fn take(page: &mut [u8], len: usize, slots: usize) -> usize {
    let heap = usize::from(body(page).heap.get());
    if heap < SLOTS + slots * SLOT + len {
        squeeze(page);
    }
    let at = usize::from(body(page).heap.get()) - len;
    body_mut(page).heap.set(at as u16);
    at
}

fn give_up(page: &mut [u8], len: usize) {
    let body = body_mut(page);
    let dead = usize::from(body.dead.get()) + len;
    body.dead.set(dead as u16);
}

/// Rewrites the heap without dead bytes: fences first, then cells in slot order.
fn squeeze(page: &mut [u8]) {
    let old: [u8; PAGE_SIZE] = page.try_into().expect("a page is 8192 bytes");
    let mut heap = PAGE_SIZE;
    let mut keep = |page: &mut [u8], bytes: &[u8]| {
        heap -= bytes.len();
        page[heap..heap + bytes.len()].copy_from_slice(bytes);
        heap
    };
    if let Some(bytes) = low(&old) {
        let at = keep(page, bytes);
        body_mut(page).low_at.set(at as u16);
    }
    if let Some(bytes) = high(&old) {
        let at = keep(page, bytes);
        body_mut(page).high_at.set(at as u16);
    }
    for slot in 0..count(&old) {
        let (at, _) = slot_at(&old, slot);
        let moved = keep(page, &old[at..at + cell_len(&old, slot)]);
        put_u16(page, SLOTS + slot * SLOT, moved);
    }
    let body = body_mut(page);
    body.heap.set(heap as u16);
    body.dead.set(0);
}

fn need_slot(page: &[u8], slot: usize, slots: usize) -> Result<(), SlotError> {
    if slot < slots { Ok(()) } else { Err(SlotError::NoSlot { slot, slots: count(page) }) }
}

fn need_room(page: &[u8], needed: usize, freed: usize) -> Result<(), SlotError> {
    let free = free(page) + freed;
    if needed <= free { Ok(()) } else { Err(SlotError::Full { needed, free }) }
}

/// Puts a cell before slot `slot`.
///
/// # Errors
/// [`SlotError::Full`], [`SlotError::NoSlot`].
pub fn insert(page: &mut [u8], slot: usize, key: &[u8], value: &[u8]) -> Result<(), SlotError> {
    let slots = count(page);
    need_slot(page, slot, slots + 1)?;
    need_room(page, cell_size(key.len(), value.len()), 0)?;
    let at = take(page, CELL + key.len() + value.len(), slots + 1);
    let array = SLOTS + slot * SLOT;
    page.copy_within(array..SLOTS + slots * SLOT, array + SLOT);
    put_u16(page, array, at);
    put_u16(page, array + 2, key.len());
    put_u16(page, HEADER, slots + 1);
    put_cell(page, at, key, value);
    Ok(())
}

fn put_cell(page: &mut [u8], at: usize, key: &[u8], value: &[u8]) {
    put_u16(page, at, value.len());
    let value_at = at + CELL + key.len();
    page[at + CELL..value_at].copy_from_slice(key);
    page[value_at..value_at + value.len()].copy_from_slice(value);
}

/// Puts cells behind the last one, as many as fit one after the other; each comes with the bytes that must stay free behind it. Returns how
/// many were put. The page must have no dead bytes: one that was just made.
pub fn append_all<'c>(page: &mut [u8], cells: impl Iterator<Item = (&'c [u8], &'c [u8], usize)>) -> usize {
    debug_assert_eq!(body(page).dead.get(), 0);
    let before = count(page);
    let (mut slots, mut heap) = (before, usize::from(body(page).heap.get()));
    for (key, value, room) in cells {
        let len = CELL + key.len() + value.len();
        let array = SLOTS + slots * SLOT;
        if array + SLOT + len + room > heap {
            break;
        }
        heap -= len;
        put_u16(page, array, heap);
        put_u16(page, array + 2, key.len());
        put_cell(page, heap, key, value);
        slots += 1;
    }
    put_u16(page, HEADER, slots);
    body_mut(page).heap.set(heap as u16);
    slots - before
}

/// Takes out the cell of slot `slot`.
///
/// # Errors
/// [`SlotError::NoSlot`].
pub fn delete(page: &mut [u8], slot: usize) -> Result<(), SlotError> {
    let slots = count(page);
    need_slot(page, slot, slots)?;
    let dead = cell_len(page, slot);
    give_up(page, dead);
    let array = SLOTS + slot * SLOT;
    page.copy_within(array + SLOT..SLOTS + slots * SLOT, array);
    put_u16(page, HEADER, slots - 1);
    Ok(())
}

/// Gives the cell of slot `slot` another value.
///
/// # Errors
/// [`SlotError::Full`], [`SlotError::NoSlot`].
pub fn set_value(page: &mut [u8], slot: usize, value: &[u8]) -> Result<(), SlotError> {
    let slots = count(page);
    need_slot(page, slot, slots)?;
    let (at, key_len) = slot_at(page, slot);
    let old = cell_len(page, slot);
    if u16_at(page, at) == value.len() {
        let from = at + CELL + key_len;
        page[from..from + value.len()].copy_from_slice(value);
        return Ok(());
    }
    need_room(page, CELL + key_len + value.len(), old)?;
    let mut kept = [0; PAGE_SIZE];
    kept[..key_len].copy_from_slice(key(page, slot));
    delete(page, slot)?;
    insert(page, slot, &kept[..key_len], value)
}

/// Replaces the bytes from `at` on in the value of slot `slot`, which keeps its length.
///
/// # Errors
/// [`SlotError::NoSlot`]; [`SlotError::Damaged`] when they don't lie in the value.
pub fn patch(page: &mut [u8], slot: usize, at: usize, bytes: &[u8]) -> Result<(), SlotError> {
    need_slot(page, slot, count(page))?;
    let (cell, key_len) = slot_at(page, slot);
    if at + bytes.len() > u16_at(page, cell) {
        return Err(SlotError::Damaged { what: "a patch outside of its value: its end", found: at + bytes.len() });
    }
    let from = cell + CELL + key_len + at;
    page[from..from + bytes.len()].copy_from_slice(bytes);
    Ok(())
}

/// Drops every cell from slot `from` on and bounds the page by `high`, with `right` as its sibling: the left half of a split.
///
/// # Errors
/// [`SlotError::Full`], [`SlotError::NoSlot`].
pub fn split_off(page: &mut [u8], from: usize, high: Option<&[u8]>, right: PageId) -> Result<(), SlotError> {
    let slots = count(page);
    need_slot(page, from, slots + 1)?;
    let dropped: usize = (from..slots).map(|slot| SLOT + cell_len(page, slot)).sum();
    need_room(page, high.map_or(0, <[u8]>::len), dropped + self::high(page).map_or(0, <[u8]>::len))?;
    let cells: usize = (from..slots).map(|slot| cell_len(page, slot)).sum();
    give_up(page, cells);
    put_u16(page, HEADER, from);
    put_high(page, high);
    body_mut(page).right.set(right.0);
    Ok(())
}

/// Sets the upper fence; the caller knows that it fits.
fn put_high(page: &mut [u8], high: Option<&[u8]>) {
    let old = self::high(page).map_or(0, <[u8]>::len);
    give_up(page, old);
    body_mut(page).high_len.set(UNBOUNDED);
    let Some(bytes) = high else { return };
    let slots = count(page);
    let at = take(page, bytes.len(), slots);
    page[at..at + bytes.len()].copy_from_slice(bytes);
    let body = body_mut(page);
    body.high_at.set(at as u16);
    body.high_len.set(bytes.len() as u16);
}

/// Sets the lower fence of a page that has none yet.
///
/// # Errors
/// [`SlotError::Full`].
pub fn set_low(page: &mut [u8], low: &[u8]) -> Result<(), SlotError> {
    debug_assert!(self::low(page).is_none());
    need_room(page, low.len(), 0)?;
    let slots = count(page);
    let at = take(page, low.len(), slots);
    page[at..at + low.len()].copy_from_slice(low);
    let body = body_mut(page);
    body.low_at.set(at as u16);
    body.low_len.set(low.len() as u16);
    Ok(())
}

/// Sets the upper fence and the right sibling.
///
/// # Errors
/// [`SlotError::Full`].
pub fn set_bounds(page: &mut [u8], high: Option<&[u8]>, right: PageId) -> Result<(), SlotError> {
    let slots = count(page);
    split_off(page, slots, high, right)
}

/// The body's bytes below and above the free space.
pub fn live_parts(page: &[u8]) -> (&[u8], &[u8]) {
    let heap = usize::from(body(page).heap.get());
    (&page[HEADER..SLOTS + count(page) * SLOT], &page[heap..])
}

/// Every byte of the heap has at most one user. Pages whose cells lie in descending order (appended, or squeezed) are seen to be whole
/// without noting anything; otherwise the bytes in use are noted one by one.
struct Users {
    /// Lowest byte in use so far.
    lowest: usize,
    /// Whether each user so far lay below all before.
    descending: bool,
}

impl Users {
    fn add(&mut self, at: usize, end: usize) {
        if at == end {
            return;
        }
        self.descending &= end <= self.lowest;
        self.lowest = self.lowest.min(at);
    }
}

/// The first byte that two of `ranges` use.
fn first_shared(ranges: impl Iterator<Item = (usize, usize)>) -> Option<usize> {
    let mut taken = [0u64; PAGE_SIZE / 64];
    for (mut at, end) in ranges {
        while at < end {
            let bits = (64 - at % 64).min(end - at);
            let mask = (u64::MAX >> (64 - bits)) << (at % 64);
            if taken[at / 64] & mask != 0 {
                return Some(at);
            }
            taken[at / 64] |= mask;
            at += bits;
        }
    }
    None
}

/// Checks the whole layout, so that the other functions can trust it: every offset and length inside the page, nothing overlapping
/// the slots or each other, live plus dead bytes adding up, reserved bytes zero. The order of the keys is the trees' concern.
///
/// # Errors
/// [`SlotError::Damaged`] with the first contradiction.
pub fn check(page: &[u8]) -> Result<(), SlotError> {
    let page: &[u8; PAGE_SIZE] = page.try_into().map_err(|_| SlotError::Damaged { what: "length of the page", found: page.len() })?;
    let damaged = |what, found| Err(SlotError::Damaged { what, found });
    if body(page).reserved != 0 || body(page).reserved2.get() != 0 {
        return damaged("reserved bytes set", usize::from(body(page).reserved));
    }
    let slots = count(page);
    let heap = usize::from(body(page).heap.get());
    let dead = usize::from(body(page).dead.get());
    if heap > PAGE_SIZE || SLOTS + slots * SLOT > heap {
        return damaged("heap overlaps slots", heap);
    }
    let mut live = 0;
    let mut users = Users { lowest: PAGE_SIZE, descending: true };
    for (at, len, what) in [
        (body(page).low_at.get(), body(page).low_len.get(), "low fence outside the heap"),
        (body(page).high_at.get(), body(page).high_len.get(), "high fence outside the heap"),
    ] {
        if len == UNBOUNDED {
            continue;
        }
        if usize::from(at) < heap || usize::from(at) + usize::from(len) > PAGE_SIZE {
            return damaged(what, usize::from(at));
        }
        users.add(usize::from(at), usize::from(at) + usize::from(len));
        live += usize::from(len);
    }
    for slot in page[SLOTS..SLOTS + slots * SLOT].chunks_exact(SLOT) {
        let (at, key_len) = (u16_at(slot, 0), u16_at(slot, 2));
        if at < heap || at + CELL > PAGE_SIZE {
            return damaged("cell outside the heap", at);
        }
        let length = CELL + key_len + u16_at(page, at);
        if at + length > PAGE_SIZE {
            return damaged("cell ends outside the page", at + length);
        }
        users.add(at, at + length);
        live += length;
    }
    if !users.descending {
        let fence_at = |fence: Option<&[u8]>, at: U16| fence.map(|bytes| (usize::from(at.get()), usize::from(at.get()) + bytes.len()));
        let fences = fence_at(low(page), body(page).low_at).into_iter().chain(fence_at(high(page), body(page).high_at));
        let cells = (0..slots).map(|slot| (slot_at(page, slot).0, slot_at(page, slot).0 + cell_len(page, slot)));
        if let Some(byte) = first_shared(fences.chain(cells)) {
            return damaged("two cells share a byte", byte);
        }
    }
    if live + dead != PAGE_SIZE - heap {
        return damaged("live and dead bytes don't add up", live + dead);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn empty() -> Vec<u8> {
        let mut page = vec![0; PAGE_SIZE];
        init(&mut page, 0);
        page
    }

    #[test]
    fn cells_stay_sorted_and_found() {
        let mut page = empty();
        for key in [5u8, 1, 9, 3] {
            let at = search(&page, &[key]).unwrap_err();
            insert(&mut page, at, &[key], &[key; 3]).unwrap();
        }
        assert_eq!((0..4).map(|slot| key(&page, slot)[0]).collect::<Vec<_>>(), [1, 3, 5, 9]);
        assert_eq!(search(&page, &[5]), Ok(2));
        assert_eq!(value(&page, 2), [5; 3]);
        check(&page).unwrap();
    }

    #[test]
    fn a_full_page_says_so_and_changes_nothing() {
        let mut page = empty();
        while fits(&page, 4, 100) {
            let at = count(&page);
            insert(&mut page, at, &(at as u32).to_be_bytes(), &[1; 100]).unwrap();
        }
        let before = page.clone();
        assert!(matches!(insert(&mut page, 0, &[0; 4], &[1; 100]), Err(SlotError::Full { .. })));
        assert!(matches!(set_value(&mut page, 0, &[1; 400]), Err(SlotError::Full { .. })));
        assert_eq!(page, before);
    }

    #[test]
    fn cells_put_at_once_are_those_put_one_by_one() {
        for (value_len, room) in [(0, 0), (1, 7), (30, 3), (700, 1), (2000, 9), (8100, 0)] {
            let (mut one, mut other) = (empty(), empty());
            set_low(&mut one, b"low").unwrap();
            set_low(&mut other, b"low").unwrap();
            insert(&mut one, 0, b"\0", b"first").unwrap();
            insert(&mut other, 0, b"\0", b"first").unwrap();
            let keys: Vec<[u8; 4]> = (1..4000u32).map(u32::to_be_bytes).collect();
            let value = vec![9; value_len];
            let mut expected = 0;
            while cell_size(4, value_len) + room <= free(&one) {
                let at = count(&one);
                insert(&mut one, at, &keys[expected], &value).unwrap();
                expected += 1;
            }
            assert_eq!(append_all(&mut other, keys.iter().map(|key| (&key[..], &value[..], room))), expected);
            assert!(one == other);
            check(&other).unwrap();
        }
    }

    #[test]
    fn splitting_frees_what_it_drops() {
        let mut page = empty();
        for at in 0..20u8 {
            insert(&mut page, usize::from(at), &[at], &[at; 50]).unwrap();
        }
        split_off(&mut page, 10, Some(&[10]), PageId(77)).unwrap();
        check(&page).unwrap();
        assert_eq!((count(&page), right(&page), high(&page)), (10, PageId(77), Some(&[10][..])));
        assert!(covers(&page, &[9]) && !covers(&page, &[10]));
        assert_eq!(free(&page), CAPACITY - 10 * cell_size(1, 50) - 1);
    }

    proptest! {
        /// Against a sorted map, with bounds changed in between; after each step the layout holds.
        #[test]
        fn behaves_as_a_sorted_map(steps in prop::collection::vec((0u8..5, prop::collection::vec(0u8..4, 0..6), 0usize..900), 1..150)) {
            let mut page = empty();
            let mut model = BTreeMap::new();
            for (step, wanted, len) in steps {
                let bytes = vec![len as u8; len];
                match (step, search(&page, &wanted)) {
                    (0 | 1, Err(at)) if insert(&mut page, at, &wanted, &bytes).is_ok() => { model.insert(wanted, bytes); }
                    (0..=2, Ok(at)) if set_value(&mut page, at, &bytes).is_ok() => { model.insert(wanted, bytes); }
                    (3, Ok(at)) => { delete(&mut page, at).unwrap(); model.remove(&wanted); }
                    (4, _) => {
                        // A bound that drops nothing: above every key.
                        let _ = set_bounds(&mut page, Some(&[9; 40][..len % 40 + 1]), PageId(len as u64));
                    }
                    _ => {}
                }
                prop_assert_eq!(check(&page), Ok(()));
                let found: Vec<_> = (0..count(&page)).map(|slot| (key(&page, slot).to_vec(), value(&page, slot).to_vec())).collect();
                prop_assert_eq!(&found, &model.clone().into_iter().collect::<Vec<_>>());
            }
        }

        /// No bytes make `check` panic, and what it accepts can be read.
        #[test]
        fn hostile_bytes_are_refused_or_readable(bytes in prop::collection::vec(any::<u8>(), 40), slots in 0u16..6) {
            let mut page = empty();
            page[HEADER..HEADER + 40].copy_from_slice(&bytes);
            page[HEADER..HEADER + 2].copy_from_slice(&slots.to_le_bytes());
            if check(&page).is_ok() {
                for slot in 0..count(&page) { let _ = (key(&page, slot), value(&page, slot)); }
                let _ = (low(&page), high(&page), free(&page));
            }
        }
    }
}
