//! Keys and values on their way into a tree, in one piece of memory.
//!
//! Callers: loads, sorting. A load of millions of rows must not ask for memory for each of them; here a pair is three numbers and its bytes.

/// Where a pair lies in a batch's bytes: its key begins, its value begins, it ends.
#[derive(Clone, Copy, Debug)]
struct Place {
    key: u32,
    value: u32,
    end: u32,
}

/// Keys with their values, in the order in which they were pushed, or sorted.
#[derive(Clone, Default, Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

/// A pair being written behind the last one of a batch. It is there only once it is [`Begun::finish`]ed.
pub(crate) struct Begun<'b> {
    batch: &'b mut Batch,
    key: usize,
    value: usize,
}

impl Batch {
    /// Pairs in it.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes of keys and values.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Memory that it takes, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.len() + self.places.len() * size_of::<Place>()
    }

    /// Pair `at`'s key.
    ///
    /// # Panics
    /// When there is no such pair.
    #[inline]
    pub fn key(&self, at: usize) -> &[u8] {
        let place = &self.places[at];
        &self.bytes[place.key as usize..place.value as usize]
    }

    /// Pair `at`'s value.
    ///
    /// # Panics
    /// When there is no such pair.
    #[inline]
    pub fn value(&self, at: usize) -> &[u8] {
        let place = &self.places[at];
        &self.bytes[place.value as usize..place.end as usize]
    }

    /// The last pair's key.
    pub(crate) fn last_key(&self) -> Option<&[u8]> {
        Some(self.key(self.len().checked_sub(1)?))
    }

    /// Puts a pair behind the last one.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        self.push_parts(key, value, &[]);
    }

    /// Puts a pair behind the last one whose value comes in two parts.
    pub(crate) fn push_parts(&mut self, key: &[u8], head: &[u8], rest: &[u8]) {
        let mut begun = self.begin();
        begun.out().extend_from_slice(key);
        begun.key_is_whole();
        begun.out().extend_from_slice(head);
        begun.out().extend_from_slice(rest);
        begun.finish();
    }

    /// Begins a pair.
    pub(crate) fn begin(&mut self) -> Begun<'_> {
        let at = self.bytes.len();
        Begun { batch: self, key: at, value: at }
    }

    /// Bytes of keys and values from pair `from` on, in a batch that wasn't sorted.
    pub(crate) fn bytes_from(&self, from: usize) -> usize {
        self.places.get(from).map_or(0, |place| self.bytes.len() - place.key as usize)
    }

    /// Takes the first `count` pairs out of a batch that wasn't sorted.
    pub(crate) fn drop_front(&mut self, count: usize) {
        let gone = self.bytes.len() - self.bytes_from(count);
        self.bytes.drain(..gone);
        self.places.drain(..count);
        for place in &mut self.places {
            place.key -= gone as u32;
            place.value -= gone as u32;
            place.end -= gone as u32;
        }
    }

    /// Empties it; its memory stays.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.places.clear();
    }

    /// Sorts the pairs by key.
    pub(crate) fn sort(&mut self) {
        let bytes = &self.bytes;
        let key = |place: &Place| &bytes[place.key as usize..place.value as usize];
        self.places.sort_unstable_by(|one, other| key(one).cmp(key(other)));
    }
}

impl Begun<'_> {
    /// Where the pair's bytes go: append only.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.batch.bytes
    }

    /// What was put so far is the key; the value follows.
    pub(crate) fn key_is_whole(&mut self) {
        self.value = self.batch.bytes.len();
    }

    /// The key, once it is whole.
    pub(crate) fn key(&self) -> &[u8] {
        &self.batch.bytes[self.key..self.value]
    }

    /// Bytes of the value so far.
    pub(crate) fn value_bytes(&self) -> usize {
        self.batch.bytes.len() - self.value
    }

    /// Whether the key lies behind the last pair's.
    pub(crate) fn ascends(&self) -> bool {
        self.batch.last_key().is_none_or(|last| last < self.key())
    }

    /// Takes the pair into the batch.
    pub(crate) fn finish(mut self) {
        let end = self.batch.bytes.len();
        let place = Place { key: self.key as u32, value: self.value as u32, end: end as u32 };
        assert!(end <= u32::MAX as usize, "a batch of {end} bytes");
        self.batch.places.push(place);
        self.key = end;
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        // What was begun and not finished is taken back; of a finished pair nothing.
        self.batch.bytes.truncate(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_back_sorted_and_what_was_not_finished_is_gone() {
        let mut batch = Batch::default();
        batch.push(b"b", b"2");
        let mut begun = batch.begin();
        begun.out().extend_from_slice(b"never");
        drop(begun);
        batch.push(b"", b"");
        batch.push(b"a", b"1");
        assert_eq!((batch.len(), batch.bytes(), batch.last_key()), (3, 4, Some(&b"a"[..])));
        let mut rest = batch.clone();
        assert_eq!((rest.bytes_from(0), rest.bytes_from(1), rest.bytes_from(3)), (4, 2, 0));
        rest.drop_front(1);
        assert_eq!((rest.len(), rest.bytes(), rest.key(0), rest.key(1), rest.value(1)), (2, 2, &b""[..], &b"a"[..], &b"1"[..]));
        rest.drop_front(2);
        assert!(rest.is_empty() && rest.bytes() == 0);
        batch.sort();
        let pairs: Vec<_> = (0..batch.len()).map(|at| (batch.key(at), batch.value(at))).collect();
        assert_eq!(pairs, [(&b""[..], &b""[..]), (b"a", b"1"), (b"b", b"2")]);
        let mut begun = batch.begin();
        begun.out().push(b'x');
        begun.key_is_whole();
        assert!(begun.ascends() && begun.value_bytes() == 0);
        begun.finish();
        assert!(!batch.is_empty() && batch.key(3) == b"x");
    }
}
