//! What is granted: pages, and enqueues; and to which slot of the directory each belongs.

use std::fmt;

use crate::base::PageId;

/// Slots of the directory; the view's table has as many.
pub const SLOTS: usize = 1024;
/// Neighbouring pages that lie in one slot, as a power of two: what is read together is asked for together.
const EXTENT_BITS: u32 = 4;

/// Something that instances hold by grants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// A page.
    Page(PageId),
    /// A lock without contents, by its number.
    Enqueue(u64),
}

impl Resource {
    /// Its slot of the directory.
    pub fn slot(self) -> usize {
        let (kind, name) = match self {
            Resource::Page(page) => (0, page.0 >> EXTENT_BITS),
            Resource::Enqueue(number) => (1, number),
        };
        // Fibonacci hashing; the high bits are the well mixed ones.
        let mixed = (name.wrapping_mul(2) + kind).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> (64 - SLOTS.trailing_zeros())) as usize
    }

    /// Whether copies of it travel.
    pub fn has_contents(self) -> bool {
        matches!(self, Resource::Page(_))
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resource::Page(page) => page.fmt(f),
            Resource::Enqueue(number) => write!(f, "enqueue {number}"),
        }
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A set of slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotSet(Box<[u64; SLOTS / 64]>);

impl Default for SlotSet {
    fn default() -> SlotSet {
        SlotSet(Box::new([0; SLOTS / 64]))
    }
}

impl SlotSet {
    /// The set with these words, 64 slots each.
    pub fn from_words(words: [u64; SLOTS / 64]) -> SlotSet {
        SlotSet(Box::new(words))
    }

    /// Its words.
    pub fn words(&self) -> [u64; SLOTS / 64] {
        *self.0
    }

    /// Puts `slot` in.
    pub fn insert(&mut self, slot: usize) {
        self.0[slot / 64] |= 1 << (slot % 64);
    }

    /// Takes `slot` out.
    pub fn remove(&mut self, slot: usize) {
        self.0[slot / 64] &= !(1 << (slot % 64));
    }

    /// Whether `slot` is in it.
    pub fn has(&self, slot: usize) -> bool {
        self.0[slot / 64] >> (slot % 64) & 1 == 1
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// What is in it, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..SLOTS).filter(|slot| self.has(*slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_slot_and_slots_are_used_evenly() {
        let mut counts = vec![0u32; SLOTS];
        for index in 0..1 << 18 {
            let (page, first) = (Resource::Page(PageId::new(3, index)), Resource::Page(PageId::new(3, index & !15)));
            assert_eq!(page.slot(), first.slot());
            counts[page.slot()] += 1;
        }
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least >= 128 && *most <= 512, "{least} to {most} pages a slot, 256 on average");
    }

    #[test]
    fn sets_hold_what_is_put_in() {
        let mut set = SlotSet::default();
        for slot in [0, 63, 64, 1023] {
            set.insert(slot);
        }
        set.remove(64);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 1023]);
        assert_eq!(SlotSet::from_words(set.words()), set);
        assert!(!set.is_empty() && SlotSet::default().is_empty());
    }
}
