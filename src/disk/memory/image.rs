//! Sparse contents of one simulated file: segments of chunks, shared between copies until one of them is written.
//!
//! Used by the media's state and so by every crash image. A clone costs one reference per written MiB, whatever the file's length.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a chunk: the unit that is copied on write.
const CHUNK: usize = 4096;
/// Chunks of a segment: the unit that a clone shares.
const SEGMENT_CHUNKS: usize = 256;
const SEGMENT: u64 = (CHUNK * SEGMENT_CHUNKS) as u64;

type Chunk = Arc<[u8; CHUNK]>;

#[derive(Clone)]
struct Segment {
    chunks: Vec<Option<Chunk>>,
}

/// Contents of a file. What was never written reads as zeroes.
#[derive(Clone, Default)]
pub(super) struct Image {
    segments: BTreeMap<u64, Arc<Segment>>,
    length: u64,
}

/// Cuts `range` at chunk borders: segment, chunk in it, range in the chunk, offset from the start of `range`.
fn pieces(start: u64, length: usize) -> impl Iterator<Item = (u64, usize, Range<usize>, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = start + done as u64;
        let from = (at % CHUNK as u64) as usize;
        let count = (CHUNK - from).min(length - done);
        let piece = (at / SEGMENT, (at % SEGMENT) as usize / CHUNK, from..from + count, done);
        done += count;
        Some(piece)
    })
}

impl Image {
    /// Zeroes.
    pub(super) fn new(length: u64) -> Image {
        Image { segments: BTreeMap::new(), length }
    }

    /// In bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Cuts the file, or lengthens it with zeroes.
    pub(super) fn set_length(&mut self, length: u64) {
        if length < self.length {
            let whole = length.div_ceil(SEGMENT);
            self.segments.split_off(&whole);
            // What a later growth uncovers is zeroes again.
            let end = (whole * SEGMENT).min(self.length);
            self.zero(length, (end - length) as usize);
        }
        self.length = length;
    }

    fn zero(&mut self, offset: u64, length: usize) {
        for (segment, chunk, range, _) in pieces(offset, length) {
            let Some(found) = self.segments.get_mut(&segment) else { continue };
            let slot = &mut Arc::make_mut(found).chunks[chunk];
            if let Some(bytes) = slot {
                Arc::make_mut(bytes)[range].fill(0);
            }
        }
    }

    /// Writes inside the length; what lies behind it is the caller's mistake and is left out.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let room = self.length.saturating_sub(offset).min(bytes.len() as u64) as usize;
        for (segment, chunk, range, from) in pieces(offset, room) {
            let segment = self.segments.entry(segment).or_insert_with(|| Arc::new(Segment { chunks: vec![None; SEGMENT_CHUNKS] }));
            let slot = &mut Arc::make_mut(segment).chunks[chunk];
            let new = &bytes[from..from + range.len()];
            match slot {
                Some(old) => Arc::make_mut(old)[range].copy_from_slice(new),
                None => {
                    let mut fresh = [0; CHUNK];
                    fresh[range].copy_from_slice(new);
                    *slot = Some(Arc::new(fresh));
                }
            }
        }
    }

    /// Reads; zeroes behind the end.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) {
        for (segment, chunk, range, from) in pieces(offset, into.len()) {
            let into = &mut into[from..from + range.len()];
            match self.segments.get(&segment).and_then(|segment| segment.chunks[chunk].as_ref()) {
                Some(bytes) => into.copy_from_slice(&bytes[range]),
                None => into.fill(0),
            }
        }
    }

    /// Depends on length and contents only, not on what was written how often.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        hasher.update(&self.length.to_le_bytes());
        for (number, segment) in &self.segments {
            for (chunk, bytes) in segment.chunks.iter().enumerate() {
                if let Some(bytes) = bytes
                    && bytes.iter().any(|&byte| byte != 0)
                {
                    hasher.update(&(number * SEGMENT_CHUNKS as u64 + chunk as u64).to_le_bytes());
                    hasher.update(&bytes[..]);
                }
            }
        }
        hasher.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;

    #[test]
    fn it_behaves_as_an_array_of_bytes() {
        let length = 3 * SEGMENT as usize + 512;
        let (mut model, mut image) = (vec![0u8; length], Image::new(length as u64));
        let mut random = Random::new(1);
        for _ in 0..300 {
            let offset = random.index(length);
            let count = random.index(20_000).min(length - offset);
            let mut bytes = vec![0; count];
            random.bytes(&mut bytes);
            model[offset..offset + count].copy_from_slice(&bytes);
            image.write(offset as u64, &bytes);
        }
        let mut all = vec![1; length];
        image.read(0, &mut all);
        assert!(all == model);
    }

    #[test]
    fn copies_are_apart_and_digests_canonical() {
        let mut one = Image::new(2 * SEGMENT);
        one.write(100, &[7; 5000]);
        let mut two = one.clone();
        assert_eq!(one.digest(), two.digest());
        two.write(SEGMENT + 1, &[1]);
        assert_ne!(one.digest(), two.digest());
        two.write(SEGMENT + 1, &[0]);
        assert_eq!(one.digest(), two.digest(), "zeroes written and never written are the same");
        two.set_length(2 * SEGMENT + 1);
        assert_ne!(one.digest(), two.digest());
    }

    #[test]
    fn cutting_forgets_what_was_behind() {
        let mut image = Image::new(2 * SEGMENT);
        image.write(0, &[9; 2 * SEGMENT as usize]);
        image.set_length(1000);
        image.set_length(2 * SEGMENT);
        let mut all = vec![1; 2 * SEGMENT as usize];
        image.read(0, &mut all);
        assert!(all[..1000].iter().all(|&byte| byte == 9) && all[1000..].iter().all(|&byte| byte == 0));
        image.write(2 * SEGMENT - 1, &[3, 4]);
        assert_eq!(image.length(), 2 * SEGMENT);
    }
}
