//! The header of every frame: what it is, of which epoch and incarnation, and a checksum over all of it.
//!
//! Layout in `docs/formats/frame.md`. [`Head::parse`] looks at a header alone, so that a length is refused before anything is allocated for
//! it; [`Head::verify`] looks at the checksum, once the body is there. QUIC's encryption already keeps others out; the checksum finds
//! our own mistakes and broken memory, which TLS would carry faithfully.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Lane, Refusal};
use crate::base::limits::NUMBER_MAX;
use crate::base::{Epoch, Incarnation};

/// Length of a header, in bytes.
pub const HEADER: usize = 48;
/// First bytes behind the checksum.
pub const MAGIC: [u8; 2] = *b"RG";
/// Version of frames and hello.
pub const VERSION: u8 = 1;

/// What a frame is for the link itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Class {
    /// A heartbeat or a control frame.
    Message = 0,
    /// A request on the block lane.
    Request = 1,
    /// Its answer, with the request's sequence number.
    Answer = 2,
    /// The first frame of a connection, from either side.
    Hello = 3,
}

impl Class {
    fn from_number(number: u8) -> Option<Class> {
        [Class::Message, Class::Request, Class::Answer, Class::Hello].into_iter().find(|class| *class as u8 == number)
    }
}

/// What a header says, but for length and checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The lane of the connection that it is on.
    pub lane: Lane,
    /// What it is for the link.
    pub class: Class,
    /// What it is for the layer above; 0 in a hello.
    pub kind: u16,
    /// The sender's epoch.
    pub epoch: Epoch,
    /// The sender's incarnation.
    pub incarnation: Incarnation,
    /// From 1 on for each connection; a hello has 0.
    pub sequence: u64,
}

/// The header, byte for byte.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    checksum: U64,
    magic: [u8; 2],
    version: u8,
    lane: u8,
    class: u8,
    reserved: u8,
    kind: U16,
    length: U32,
    reserved_too: U32,
    epoch: U64,
    incarnation: U64,
    sequence: U64,
}

const _: () = assert!(size_of::<Layout>() == HEADER);

/// The checksum of a frame: of the header behind it, seeded with the body's and the cluster's tag.
fn checksum(header: &[u8; HEADER], body: &[u8], tag: u64) -> u64 {
    xxh3_64_with_seed(&header[8..], xxh3_64(body) ^ tag)
}

impl Head {
    /// The header of a frame with `body`, in the cluster that `tag` belongs to.
    pub fn encode(&self, body: &[u8], tag: u64) -> [u8; HEADER] {
        debug_assert!(body.len() <= self.lane.body_max());
        let layout = Layout {
            checksum: U64::ZERO,
            magic: MAGIC,
            version: VERSION,
            lane: self.lane as u8,
            class: self.class as u8,
            reserved: 0,
            kind: self.kind.into(),
            length: (body.len() as u32).into(),
            reserved_too: U32::ZERO,
            epoch: self.epoch.0.into(),
            incarnation: self.incarnation.0.into(),
            sequence: self.sequence.into(),
        };
        let mut header = [0; HEADER];
        header.copy_from_slice(layout.as_bytes());
        let sum = checksum(&header, body, tag);
        header[..8].copy_from_slice(&sum.to_le_bytes());
        header
    }

    /// Reads a header that came on `lane`, and the length of the body that must follow. Says nothing of its checksum.
    ///
    /// # Errors
    /// [`Refusal::Garbage`], [`Refusal::Version`], [`Refusal::Oversized`].
    pub fn parse(header: &[u8; HEADER], lane: Lane) -> Result<(Head, usize), Refusal> {
        let layout = Layout::ref_from_bytes(header).map_err(|_| Refusal::Garbage)?;
        if layout.magic != MAGIC {
            return Err(Refusal::Garbage);
        }
        if layout.version != VERSION {
            return Err(Refusal::Version);
        }
        let class = Class::from_number(layout.class).ok_or(Refusal::Garbage)?;
        let numbers = [layout.epoch.get(), layout.incarnation.get(), layout.sequence.get()];
        let wrong = layout.lane != lane as u8
            || (layout.reserved, layout.reserved_too.get()) != (0, 0)
            || numbers.into_iter().any(|number| number > NUMBER_MAX);
        if wrong {
            return Err(Refusal::Garbage);
        }
        let length = layout.length.get() as usize;
        if length > lane.body_max() {
            return Err(Refusal::Oversized);
        }
        let [epoch, incarnation, sequence] = numbers;
        let (epoch, incarnation) = (Epoch(epoch), Incarnation(incarnation));
        Ok((Head { lane, class, kind: layout.kind.get(), epoch, incarnation, sequence }, length))
    }

    /// Whether `body` is the one that `header` was made for, in the cluster that `tag` belongs to.
    ///
    /// # Errors
    /// [`Refusal::Garbage`].
    pub fn verify(header: &[u8; HEADER], body: &[u8], tag: u64) -> Result<(), Refusal> {
        let mut kept = [0; 8];
        kept.copy_from_slice(&header[..8]);
        if u64::from_le_bytes(kept) == checksum(header, body, tag) { Ok(()) } else { Err(Refusal::Garbage) }
    }

    /// Reads a whole frame that came on `lane`: its header, and its body.
    ///
    /// # Errors
    /// As [`Head::parse`] and [`Head::verify`]; [`Refusal::Garbage`] when bytes are missing or left over.
    pub fn decode(frame: &[u8], lane: Lane, tag: u64) -> Result<(Head, &[u8]), Refusal> {
        let (header, body) = frame.split_first_chunk::<HEADER>().ok_or(Refusal::Garbage)?;
        let (head, length) = Head::parse(header, lane)?;
        if body.len() != length {
            return Err(if body.len() > lane.body_max() { Refusal::Oversized } else { Refusal::Garbage });
        }
        Head::verify(header, body, tag)?;
        Ok((head, body))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(lane: Lane) -> Head {
        Head { lane, class: Class::Message, kind: 7, epoch: Epoch(3), incarnation: Incarnation(9), sequence: 11 }
    }

    fn frame(head: &Head, body: &[u8]) -> Vec<u8> {
        [&head.encode(body, 77)[..], body].concat()
    }

    #[test]
    fn the_bytes_stay_as_they_are() {
        let bytes = frame(&head(Lane::Control), b"body");
        let hex: String = bytes[8..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "52470102000007000400000000000000030000000000000009000000000000000b00000000000000626f6479");
        assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()), 0xfc0c_f661_50b1_d883);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = frame(&head(Lane::Control), b"some body");
        assert!(Head::decode(&good, Lane::Control, 77).is_ok());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Head::decode(&bad, Lane::Control, 77).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_is_refused_for_its_reason() {
        let body = b"body";
        let good = frame(&head(Lane::Control), body);
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Head::decode(&bytes, Lane::Control, 77).map(|(head, _)| head)
        };
        assert_eq!(with(10, 2), Err(Refusal::Version));
        assert_eq!(with(18, 5), Err(Refusal::Oversized));
        assert_eq!(with(9, 0), Err(Refusal::Garbage));
        assert_eq!(with(31, 0x80), Err(Refusal::Garbage), "an epoch beyond any");
        assert_eq!(Head::decode(&good, Lane::Heartbeat, 77), Err(Refusal::Garbage), "another lane's");
        assert_eq!(Head::decode(&good, Lane::Control, 78), Err(Refusal::Garbage), "another cluster's");
        assert_eq!(Head::decode(&good[..good.len() - 1], Lane::Control, 77), Err(Refusal::Garbage));
        assert_eq!(Head::decode(&[], Lane::Control, 77), Err(Refusal::Garbage));
        assert_eq!(Head::decode(&good, Lane::Control, 77), Ok((head(Lane::Control), &body[..])));
    }

    proptest! {
        #[test]
        fn any_frame_reads_back(kind: u16, epoch in 0..=NUMBER_MAX, incarnation in 0..=NUMBER_MAX, sequence in 0..=NUMBER_MAX,
            class in 0u8..4, lane in 1u8..4, body in prop::collection::vec(any::<u8>(), 0..1024), tag: u64) {
            let lane = Lane::from_number(lane).unwrap();
            let class = Class::from_number(class).unwrap();
            let head = Head { lane, class, kind, epoch: Epoch(epoch), incarnation: Incarnation(incarnation), sequence };
            let bytes = [&head.encode(&body, tag)[..], &body].concat();
            prop_assert_eq!(Head::decode(&bytes, lane, tag), Ok((head, &body[..])));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), lane in 1u8..4) {
            let _ = Head::decode(&bytes, Lane::from_number(lane).unwrap(), 77);
        }
    }
}
