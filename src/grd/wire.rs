//! Bytes of what instances say to each other about resources: batches of messages on the control lane, copies of pages on the block lane.
//!
//! A batch is rkyv, validated; a copy is a head of 64 bytes and the page, sealed as it would be at home. Everything is checked before anything is done (rule
//! 20): a batch that holds one impossible number is refused whole. Frame, epoch, sender and checksum are the link's.

use bytes::Bytes;
use rkyv::rancor::Error;
use rkyv::{Archive, Deserialize, Serialize};
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::holder::Verdict;
use super::message::{Ask, Block, Declared, Message, Receiver, Said, Source};
use super::resource::{Resource, SLOTS, SlotSet};
use crate::base::limits::{NUMBER_MAX, PAGE_SIZE, THREADS_MAX};
use crate::base::{Epoch, Lsn, Mode, PageId, Scn, ThreadId};

/// Frame kind of a [`Batch`], on the control lane.
pub const BATCH: u16 = 0x0300;
/// Frame kind of a copy, on the block lane.
pub const COPY: u16 = 0x0301;
/// Longest batch, in bytes.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Bytes of a copy's head.
const HEAD: usize = 64;

/// A body that isn't what it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireFault {
    /// Not an archived batch, or a copy of another length.
    #[error("not a body of kind {kind:#06x} ({length} bytes)")]
    Shape {
        /// The frame's kind.
        kind: u16,
        /// Bytes received.
        length: usize,
    },
    /// A field is beyond what can be.
    #[error("{field} is {found}")]
    Field {
        /// Which.
        field: &'static str,
        /// Its value.
        found: u64,
    },
}

/// Messages that leave together, and what every message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Its number in its session, from 1; 0 for one that only acknowledges.
    pub number: u64,
    /// All up to this of the other side's have been taken.
    pub acknowledged: u64,
    /// The epoch that the sender was in when it said this.
    pub epoch: Epoch,
    /// The sender's clock when this was encoded.
    pub clock: Scn,
    /// Its redo was durable up to here.
    pub durable: Lsn,
    /// What is said.
    pub messages: Vec<Message>,
}

#[derive(Archive, Serialize, Deserialize, Default)]
struct Item {
    kind: u8,
    enqueue: bool,
    mode: u8,
    source: u8,
    unwritten: bool,
    image: bool,
    receiver: bool,
    receiver_mode: u8,
    id: u16,
    name: u64,
    since: u64,
    ask: u64,
    receiver_ask: u64,
    version: u64,
}

#[derive(Archive, Serialize, Deserialize)]
struct DeclaredItem {
    enqueue: bool,
    mode: u8,
    owner: bool,
    unwritten: bool,
    image: bool,
    yielding: bool,
    refused: bool,
    lost: bool,
    name: u64,
    ask: u64,
    version: u64,
    image_version: u64,
}

#[derive(Archive, Serialize, Deserialize)]
enum Part {
    Of(Item),
    Declare { since: u64, words: [u64; SLOTS / 64], rebuild: bool },
    Declaration { since: u64, items: Vec<DeclaredItem>, last: bool },
}

#[derive(Archive, Serialize, Deserialize)]
struct Body {
    number: u64,
    acknowledged: u64,
    epoch: u64,
    clock: u64,
    durable: u64,
    parts: Vec<Part>,
}

fn number(field: &'static str, found: u64) -> Result<u64, WireFault> {
    if found <= NUMBER_MAX { Ok(found) } else { Err(WireFault::Field { field, found }) }
}

fn mode(found: u8) -> Result<Mode, WireFault> {
    Mode::from_number(found).ok_or(WireFault::Field { field: "mode", found: found.into() })
}

fn instance(found: u16) -> Result<ThreadId, WireFault> {
    if (1..=THREADS_MAX).contains(&found) { Ok(ThreadId(found)) } else { Err(WireFault::Field { field: "instance", found: found.into() }) }
}

fn name_of(resource: Resource) -> (bool, u64) {
    match resource {
        Resource::Page(page) => (false, page.0),
        Resource::Enqueue(number) => (true, number),
    }
}

fn resource(enqueue: bool, name: u64) -> Result<Resource, WireFault> {
    match (enqueue, PageId(name)) {
        (true, _) => Ok(Resource::Enqueue(name)),
        (false, page) if page.is_some() => Ok(Resource::Page(page)),
        (false, _) => Err(WireFault::Field { field: "page", found: name }),
    }
}

fn item(target: Resource, since: Epoch, said: Said) -> Item {
    let (enqueue, name) = name_of(target);
    let base = Item { enqueue, name, since: since.0, ..Item::default() };
    match said {
        Said::Request { mode, ask } => Item { kind: 1, mode: mode as u8, ask: ask.0, ..base },
        Said::Grant { mode, ask, source, unwritten } => {
            Item { kind: 2, mode: mode as u8, ask: ask.0, source: u8::from(source == Source::Own), unwritten, ..base }
        }
        Said::Yield { of, to, receiver } => {
            let base = Item { kind: 3, mode: to as u8, ask: of.0, ..base };
            match receiver {
                None => base,
                Some(Receiver { id, ask, mode }) => {
                    Item { receiver: true, receiver_mode: mode as u8, receiver_ask: ask.0, id: id.0, ..base }
                }
            }
        }
        Said::Received { ask, sender, version, unwritten, image } => {
            Item { kind: 4, ask: ask.0, id: sender.0, version: version.0, unwritten, image, ..base }
        }
        Said::Yielded { mode, version, owner, image } => {
            Item { kind: 5, mode: mode as u8, version: version.0, unwritten: owner, image, ..base }
        }
        Said::Release => Item { kind: 6, ..base },
        Said::Written { version } => Item { kind: 7, version: version.0, ..base },
        Said::Notice { version } => Item { kind: 8, version: version.0, ..base },
        Said::WriteWanted => Item { kind: 9, ..base },
        Said::Write => Item { kind: 10, ..base },
        Said::Reinstate => Item { kind: 11, ..base },
    }
}

fn said(item: &Item) -> Result<Said, WireFault> {
    let (ask, version) = (Ask(number("request", item.ask)?), Scn(number("version", item.version)?));
    Ok(match item.kind {
        1 => Said::Request { mode: mode(item.mode)?, ask },
        2 => {
            let source = match item.source {
                0 => Source::Disk,
                1 => Source::Own,
                other => return Err(WireFault::Field { field: "source", found: other.into() }),
            };
            Said::Grant { mode: mode(item.mode)?, ask, source, unwritten: item.unwritten }
        }
        3 => {
            let to = || {
                let ask = Ask(number("receiver's request", item.receiver_ask)?);
                Ok::<_, WireFault>(Receiver { id: instance(item.id)?, ask, mode: mode(item.receiver_mode)? })
            };
            Said::Yield { of: ask, to: mode(item.mode)?, receiver: item.receiver.then(to).transpose()? }
        }
        4 => Said::Received { ask, sender: instance(item.id)?, version, unwritten: item.unwritten, image: item.image },
        5 => Said::Yielded { mode: mode(item.mode)?, version, owner: item.unwritten, image: item.image },
        6 => Said::Release,
        7 => Said::Written { version },
        8 => Said::Notice { version },
        9 => Said::WriteWanted,
        10 => Said::Write,
        11 => Said::Reinstate,
        other => return Err(WireFault::Field { field: "kind of message", found: other.into() }),
    })
}

fn declared_item(declared: &Declared) -> DeclaredItem {
    let Declared { resource, mode, ask, owner, unwritten, version, image, yielding, refused, lost } = *declared;
    let (enqueue, name) = name_of(resource);
    let image_version = image.unwrap_or_default().0;
    DeclaredItem {
        enqueue,
        mode: mode as u8,
        owner,
        unwritten,
        image: image.is_some(),
        yielding,
        refused,
        lost,
        name,
        ask: ask.0,
        version: version.0,
        image_version,
    }
}

fn declared(item: &DeclaredItem) -> Result<Declared, WireFault> {
    let image_version = Scn(number("version", item.image_version)?);
    Ok(Declared {
        resource: resource(item.enqueue, item.name)?,
        mode: mode(item.mode)?,
        ask: Ask(number("request", item.ask)?),
        owner: item.owner,
        unwritten: item.unwritten,
        version: Scn(number("version", item.version)?),
        image: item.image.then_some(image_version),
        yielding: item.yielding,
        refused: item.refused,
        lost: item.lost,
    })
}

fn part(message: &Message) -> Part {
    match message {
        Message::Of { resource, since, said } => Part::Of(item(*resource, *since, *said)),
        Message::Declare { since, slots, rebuild } => Part::Declare { since: since.0, words: slots.words(), rebuild: *rebuild },
        Message::Declaration { since, items, last } => {
            Part::Declaration { since: since.0, items: items.iter().map(declared_item).collect(), last: *last }
        }
    }
}

fn message(part: &Part) -> Result<Message, WireFault> {
    Ok(match part {
        Part::Of(item) => {
            Message::Of { resource: resource(item.enqueue, item.name)?, since: Epoch(number("epoch", item.since)?), said: said(item)? }
        }
        Part::Declare { since, words, rebuild } => {
            Message::Declare { since: Epoch(number("epoch", *since)?), slots: SlotSet::from_words(*words), rebuild: *rebuild }
        }
        Part::Declaration { since, items, last } => Message::Declaration {
            since: Epoch(number("epoch", *since)?),
            items: items.iter().map(declared).collect::<Result<_, _>>()?,
            last: *last,
        },
    })
}

/// About how many bytes `message` takes in a batch.
pub(super) fn weight(message: &Message) -> usize {
    match message {
        Message::Of { .. } => size_of::<ArchivedPart>(),
        Message::Declare { .. } => size_of::<ArchivedPart>(),
        Message::Declaration { items, .. } => size_of::<ArchivedPart>() + items.len() * size_of::<ArchivedDeclaredItem>(),
    }
}

impl Batch {
    /// As a frame's body.
    pub fn encode(&self) -> Bytes {
        let body = Body {
            number: self.number,
            acknowledged: self.acknowledged,
            epoch: self.epoch.0,
            clock: self.clock.0,
            durable: self.durable.0,
            parts: self.messages.iter().map(part).collect(),
        };
        // Numbers and lists of them: nothing in them can fail to be written to memory.
        Bytes::from(rkyv::to_bytes::<Error>(&body).expect("numbers archive").into_vec())
    }

    /// From a frame's body.
    ///
    /// # Errors
    /// [`WireFault`].
    pub fn decode(bytes: &[u8]) -> Result<Batch, WireFault> {
        let wrong = || WireFault::Shape { kind: BATCH, length: bytes.len() };
        if bytes.len() > BATCH_BYTES_MAX {
            return Err(wrong());
        }
        // Aligned as archives must be; frames aren't.
        let mut aligned: rkyv::util::AlignedVec = rkyv::util::AlignedVec::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        let body = rkyv::from_bytes::<Body, Error>(&aligned).map_err(|_| wrong())?;
        Ok(Batch {
            number: number("number of a batch", body.number)?,
            acknowledged: number("acknowledged number", body.acknowledged)?,
            epoch: Epoch(number("epoch", body.epoch)?),
            clock: Scn(number("clock", body.clock)?),
            durable: Lsn(number("durable position", body.durable)?),
            messages: body.parts.iter().map(message).collect::<Result<_, _>>()?,
        })
    }
}

/// The head of a copy, byte for byte.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    page: U64,
    since: U64,
    ask: U64,
    version: U64,
    clock: U64,
    durable: U64,
    mode: u8,
    /// 1: the home is older; 2: the sender keeps a past image.
    flags: u8,
    reserved: U16,
    zero: [u8; 12],
}

const _: () = assert!(size_of::<Head>() == HEAD);

/// A copy as a request's body; `page` is sealed.
pub fn encode_copy(block: &Block, clock: Scn, durable: Lsn, page: &[u8]) -> Bytes {
    debug_assert_eq!(page.len(), PAGE_SIZE);
    let (_, name) = name_of(block.resource);
    let head = Head {
        page: name.into(),
        since: block.since.0.into(),
        ask: block.ask.0.into(),
        version: block.version.0.into(),
        clock: clock.0.into(),
        durable: durable.0.into(),
        mode: block.mode as u8,
        flags: u8::from(block.unwritten) | u8::from(block.image) << 1,
        reserved: U16::ZERO,
        zero: [0; 12],
    };
    let mut bytes = Vec::with_capacity(HEAD + PAGE_SIZE);
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(page);
    Bytes::from(bytes)
}

/// What a copy's body says, its sender's clock and durable position, and the page.
///
/// # Errors
/// [`WireFault`]; the page itself isn't looked at.
pub fn decode_copy(bytes: &[u8]) -> Result<(Block, Scn, Lsn, &[u8]), WireFault> {
    let wrong = WireFault::Shape { kind: COPY, length: bytes.len() };
    let (head, page) = bytes.split_at_checked(HEAD).filter(|(_, page)| page.len() == PAGE_SIZE).ok_or(wrong.clone())?;
    let head = Head::ref_from_bytes(head).map_err(|_| wrong)?;
    if head.flags > 3 || head.reserved.get() != 0 || head.zero != [0; 12] {
        return Err(WireFault::Field { field: "flags of a copy", found: head.flags.into() });
    }
    let block = Block {
        resource: resource(false, head.page.get())?,
        since: Epoch(number("epoch", head.since.get())?),
        ask: Ask(number("request", head.ask.get())?),
        mode: mode(head.mode)?,
        version: Scn(number("version", head.version.get())?),
        unwritten: head.flags & 1 != 0,
        image: head.flags & 2 != 0,
    };
    if block.mode == Mode::None {
        return Err(WireFault::Field { field: "mode of a copy", found: 0 });
    }
    Ok((block, Scn(number("clock", head.clock.get())?), Lsn(number("durable position", head.durable.get())?), page))
}

/// A verdict as an answer's body, with the clock of who gives it.
pub fn encode_verdict(verdict: Verdict, clock: Scn) -> Bytes {
    let kind = match verdict {
        Verdict::Taken => 1u8,
        Verdict::Void => 2,
        Verdict::Later => 3,
    };
    Bytes::from([&[kind][..], &clock.0.to_le_bytes()].concat())
}

/// The verdict in an answer's body, and the clock.
///
/// # Errors
/// [`WireFault`].
pub fn decode_verdict(bytes: &[u8]) -> Result<(Verdict, Scn), WireFault> {
    let wrong = WireFault::Shape { kind: COPY, length: bytes.len() };
    let [kind, clock @ ..] = bytes else { return Err(wrong) };
    let clock: [u8; 8] = clock.try_into().map_err(|_| wrong)?;
    let verdict = match kind {
        1 => Verdict::Taken,
        2 => Verdict::Void,
        3 => Verdict::Later,
        other => return Err(WireFault::Field { field: "verdict", found: (*other).into() }),
    };
    Ok((verdict, Scn(number("clock", u64::from_le_bytes(clock))?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn every(numbers: [u64; 3], number: u16, flags: [bool; 2]) -> Vec<Message> {
        let [a, b, c] = numbers;
        let (ask, version, [one, two]) = (Ask(a), Scn(b), flags);
        let (id, mode) = (ThreadId(number), if one { Mode::Shared } else { Mode::Exclusive });
        let receiver = Some(Receiver { id, ask: Ask(c), mode });
        let said = [
            Said::Request { mode, ask },
            Said::Grant { mode, ask, source: if two { Source::Own } else { Source::Disk }, unwritten: one },
            Said::Yield { of: ask, to: Mode::None, receiver },
            Said::Yield { of: ask, to: Mode::Shared, receiver: None },
            Said::Received { ask, sender: id, version, unwritten: one, image: two },
            Said::Yielded { mode: Mode::None, version, owner: two, image: one },
            Said::Release,
            Said::Written { version },
            Said::Notice { version },
            Said::WriteWanted,
            Said::Write,
            Said::Reinstate,
        ];
        let of = |(at, said): (usize, Said)| {
            let resource = if at % 2 == 0 { Resource::Page(PageId(c)) } else { Resource::Enqueue(u64::MAX - c) };
            Message::Of { resource, since: Epoch(b), said }
        };
        let mut slots = SlotSet::default();
        slots.insert(a as usize % SLOTS);
        let item = Declared {
            resource: Resource::Page(PageId(a)),
            mode,
            ask,
            owner: one,
            unwritten: two,
            version,
            image: two.then_some(version),
            yielding: two,
            refused: one,
            lost: two,
        };
        let declares = [
            Message::Declare { since: Epoch(a), slots, rebuild: two },
            Message::Declaration { since: Epoch(c), items: vec![item; 3], last: one },
            Message::Declaration { since: Epoch(c), items: vec![], last: two },
        ];
        said.into_iter().enumerate().map(of).chain(declares).collect()
    }

    fn copy(numbers: [u64; 3], flags: [bool; 2]) -> Block {
        let [a, b, c] = numbers;
        let (resource, since) = (Resource::Page(PageId(a)), Epoch(b));
        Block { resource, since, ask: Ask(c), mode: Mode::Shared, version: Scn(a), unwritten: flags[0], image: flags[1] }
    }

    proptest! {
        #[test]
        fn what_is_said_reads_back(numbers in prop::array::uniform3(0..=NUMBER_MAX), id in 1..=THREADS_MAX, flags: [bool; 2], page in prop::collection::vec(any::<u8>(), PAGE_SIZE)) {
            let [a, b, c] = numbers;
            let batch = Batch { number: a, acknowledged: b, epoch: Epoch(c), clock: Scn(a), durable: Lsn(b), messages: every(numbers, id, flags) };
            prop_assert_eq!(Batch::decode(&batch.encode()).unwrap(), batch);
            let block = copy(numbers, flags);
            let bytes = encode_copy(&block, Scn(b), Lsn(c), &page);
            prop_assert_eq!(decode_copy(&bytes).unwrap(), (block, Scn(b), Lsn(c), &page[..]));
            for verdict in [Verdict::Taken, Verdict::Void, Verdict::Later] {
                prop_assert_eq!(decode_verdict(&encode_verdict(verdict, Scn(a))).unwrap(), (verdict, Scn(a)));
            }
        }

        #[test]
        fn hostile_bodies_are_refused_or_possible(bytes in prop::collection::vec(any::<u8>(), 0..400), at: prop::sample::Index, byte: u8, numbers in prop::array::uniform3(0..=NUMBER_MAX)) {
            let near = |good: Bytes| { let mut bad = good.to_vec(); let at = at.index(bad.len()); bad[at] = byte; bad };
            let batch = Batch { number: 1, acknowledged: 2, epoch: Epoch(3), clock: Scn(4), durable: Lsn(5), messages: every(numbers, 3, [true, false]) };
            for bytes in [bytes.clone(), near(batch.encode())] {
                if let Ok(batch) = Batch::decode(&bytes) {
                    prop_assert!(batch.number.max(batch.clock.0).max(batch.epoch.0) <= NUMBER_MAX);
                }
            }
            for bytes in [bytes.clone(), near(encode_copy(&copy(numbers, [true, true]), Scn(1), Lsn(2), &[7; PAGE_SIZE]))] {
                if let Ok((block, ..)) = decode_copy(&bytes) {
                    prop_assert!(block.version.0 <= NUMBER_MAX && block.mode > Mode::None && block.resource.has_contents());
                }
            }
            let _ = decode_verdict(&bytes);
        }
    }

    #[test]
    fn weights_are_not_below_what_is_taken() {
        let messages = every([NUMBER_MAX; 3], 64, [true, true]);
        let weight: usize = messages.iter().map(weight).sum();
        let batch = Batch { number: 1, acknowledged: 2, epoch: Epoch(3), clock: Scn(4), durable: Lsn(5), messages };
        let bytes = batch.encode().len();
        assert!(bytes <= weight + size_of::<ArchivedBody>() + 64, "{bytes} bytes of weight {weight}");
    }
}
