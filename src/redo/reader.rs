//! Reads a redo thread: validates its blocks, finds its end, hands out its groups.
//!
//! ```text
//! start ... valid blocks ... known durable ... valid blocks ... first invalid block = end
//! ```
//! The end is the first invalid block behind the last one known durable (rule 12). What is known durable comes from the control block and
//! from the blocks themselves, also from those up to one longest write behind an invalid one: if they say that it was durable, the
//! log is damaged and reading stops with the evidence; nothing is skipped. A group that is there only in part is not there. Reads are
//! large and several in flight. Callers: recovery (twice over), verification, dump tools.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use super::block::{self, BLOCK_HEADER, BlockFault, Header, LogIdentity};
use super::control::{Control, ThreadState};
use super::record::{GROUP_HEADER, Group, RecordFault};
use crate::base::limits::{LOG_BLOCK, LOG_WRITE_MAX};
use crate::base::{BoxFuture, Incarnation, Lsn, Writer};
use crate::disk::{Buffer, Disk, DiskError, FileId, IoOutcome};
use crate::page::superblock::RING_AT;

/// Bytes of one read.
pub const READ_BYTES: usize = 1 << 20;
/// Reads in flight.
pub const READ_DEPTH: usize = 6;

/// Why a log can't be read to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogFault {
    /// A block that was durable isn't whole any more.
    #[error(
        "{}: the log is damaged at position {at} (bytes {offset} to {}): {fault}; it was durable up to {durable} according to {evidence}. \
         The database stays closed: restore this redo file from a copy, or read what is left with `clusterctl salvage`",
        file.display(), offset + LOG_BLOCK as u64 - 1
    )]
    Damaged {
        /// The redo file.
        file: PathBuf,
        /// Position of the block.
        at: Lsn,
        /// Where it lies in the file, in bytes.
        offset: u64,
        /// What is wrong with it.
        fault: BlockFault,
        /// Durable up to here.
        durable: Lsn,
        /// Who says so.
        evidence: Evidence,
    },
    /// Valid blocks hold something that isn't a record.
    #[error("{}: position {at}: {fault}. The database stays closed: this is a defect, or memory was damaged when it was written; `clusterctl salvage` reads what is left", file.display())]
    Record {
        /// The redo file.
        file: PathBuf,
        /// Where the record starts.
        at: Lsn,
        /// What is wrong with it.
        fault: RecordFault,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Who says that a position was durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// The control block.
    Control,
    /// A block of the log, by its number.
    Block(u64),
}

impl std::fmt::Display for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Evidence::Control => f.write_str("the control block"),
            Evidence::Block(number) => write!(f, "log block {number:x}"),
        }
    }
}

/// What to read.
pub struct LogSource {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The redo file.
    pub file: FileId,
    /// Which log.
    pub identity: LogIdentity,
    /// First position wanted: the start of a group, or of a block.
    pub start: Lsn,
    /// Durable at least up to here, according to the control block.
    pub durable: Lsn,
    /// Where the log ends, once that is decided; otherwise it is found.
    pub end: Option<Lsn>,
    /// Where the newest life began to write, and which it was: blocks from there on are its own, those before it are not. Nothing when the
    /// log's end is decided.
    pub life: Option<(Lsn, Incarnation)>,
}

impl LogSource {
    /// The log of the thread that `control` describes, from its checkpoint to its end. While a thread is open, its control block keeps where
    /// its life began; otherwise, where the log ends.
    pub fn of(control: &Control, disk: Arc<dyn Disk>, file: FileId, identity: LogIdentity) -> LogSource {
        let open = control.state == ThreadState::Open;
        LogSource {
            disk,
            file,
            identity,
            start: control.checkpoint,
            durable: control.durable,
            end: (!open).then_some(control.end),
            life: control.life(),
        }
    }
}

/// Where a log ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogEnd {
    /// The next block goes here.
    pub at: Lsn,
    /// Checksum of the block before; 0 when none was read.
    pub crc: u32,
    /// Everything before was known durable.
    pub durable: Lsn,
    /// The highest incarnation that wrote.
    pub last: Option<Writer>,
}

/// A group as it lies in the log.
pub struct LogGroup<'a> {
    /// Its header.
    pub header: Group,
    /// Its bytes behind the header.
    pub body: &'a [u8],
    /// Behind its last byte.
    pub end: Lsn,
    /// Who wrote it.
    pub writer: Writer,
}

/// A block's payload in the stream.
struct Span {
    /// Where it starts in the stream's present bytes.
    at: usize,
    /// Where it starts in its block.
    from: usize,
    number: u64,
    writer: Writer,
}

/// Reads one redo thread from a position on.
pub struct LogReader {
    source: LogSource,
    /// Reads under way, in order.
    reads: VecDeque<BoxFuture<IoOutcome>>,
    /// Block that the next read to be issued starts at.
    next_read: u64,
    /// Block expected next.
    next_block: u64,
    previous: Option<Header>,
    durable: Lsn,
    evidence: Evidence,
    /// Payloads not yet handed out.
    stream: Vec<u8>,
    /// Bytes of `stream` already handed out.
    taken: usize,
    spans: VecDeque<Span>,
    spare: Vec<Buffer>,
    end: Option<LogEnd>,
}

impl LogReader {
    /// Starts reading; nothing is read yet.
    pub fn new(source: LogSource) -> LogReader {
        let first = source.start.block();
        let durable = source.durable;
        LogReader {
            source,
            reads: VecDeque::new(),
            next_read: first,
            next_block: first,
            previous: None,
            durable,
            evidence: Evidence::Control,
            stream: Vec::new(),
            taken: 0,
            spans: VecDeque::new(),
            spare: Vec::new(),
            end: None,
        }
    }

    /// Where the log ends; known once [`LogReader::read`] has returned false.
    pub fn end(&self) -> Option<LogEnd> {
        self.end
    }

    /// Up to which position blocks have been validated.
    pub fn position(&self) -> Lsn {
        Lsn::of_block(self.next_block)
    }

    /// Reads and validates the next stretch and gives its complete groups to `sink`; false when the end was reached before.
    ///
    /// # Errors
    /// [`LogFault`]. What `sink` was given is valid all the same.
    pub async fn read(&mut self, mut sink: impl FnMut(LogGroup<'_>) -> Result<(), RecordFault>) -> Result<bool, LogFault> {
        if self.end.is_some() {
            return Ok(false);
        }
        let Some((mut buffer, first)) = self.next_buffer().await? else {
            self.finish();
            return Ok(false);
        };
        let mut invalid = None;
        for (bytes, number) in buffer.chunks_exact(LOG_BLOCK).zip(first..) {
            match self.validate(bytes, number) {
                Ok(header) => {
                    if self.previous.is_some_and(|previous| previous.writer.incarnation != header.writer.incarnation) {
                        // What the life before left unfinished was never there.
                        self.hand_out(&mut sink)?;
                        self.stream.clear();
                        self.spans.clear();
                        self.taken = 0;
                    }
                    self.take(bytes, header);
                }
                Err(fault) => {
                    invalid = Some((number, fault));
                    break;
                }
            }
        }
        self.hand_out(&mut sink)?;
        if let Some((number, fault)) = invalid {
            self.judge(number, fault).await?;
            self.finish();
            return Ok(true);
        }
        buffer.set_len(READ_BYTES);
        self.spare.push(buffer);
        Ok(true)
    }

    /// Block behind the last that may be read.
    fn limit(&self) -> u64 {
        let lap = self.source.start.block() + self.source.identity.ring_blocks;
        self.source.end.map_or(lap, |end| end.block().min(lap))
    }

    /// The next stretch, with reads ahead of it kept in flight.
    async fn next_buffer(&mut self) -> Result<Option<(Buffer, u64)>, LogFault> {
        while self.reads.len() < READ_DEPTH && self.next_read < self.limit() {
            let (blocks, read) = self.issue(self.next_read, self.limit());
            self.next_read += blocks;
            self.reads.push_back(read);
        }
        let first = self.next_block;
        let Some(read) = self.reads.pop_front() else { return Ok(None) };
        let (buffer, outcome) = read.await;
        outcome?;
        Ok(Some((buffer, first)))
    }

    /// Starts a read at block `number`, as long as possible without passing `limit` or the ring's end.
    fn issue(&mut self, number: u64, limit: u64) -> (u64, BoxFuture<IoOutcome>) {
        let ring = self.source.identity.ring_blocks;
        let slot = number % ring;
        let blocks = ((READ_BYTES / LOG_BLOCK) as u64).min(limit - number).min(ring - slot);
        let bytes = blocks as usize * LOG_BLOCK;
        let reusable = self.spare.pop().filter(|buffer| buffer.len() >= bytes);
        let mut buffer = reusable.unwrap_or_else(|| Buffer::zeroed(READ_BYTES));
        buffer.set_len(bytes);
        (blocks, self.source.disk.read(self.source.file, RING_AT + slot * LOG_BLOCK as u64, buffer))
    }

    /// The header of block `number`, if it is that block and follows the one before.
    fn validate(&self, bytes: &[u8], number: u64) -> Result<Header, BlockFault> {
        let header = block::open(bytes, &self.source.identity, number)?;
        if let Some((start, newest)) = self.source.life {
            // What lies behind the end of the life before looks just like a continuation where there is no predecessor to compare with.
            let own = number >= start.block();
            if own != (header.writer.incarnation == newest) {
                let found = header.writer.incarnation.0;
                return Err(BlockFault::Identity { field: "incarnation", expected: newest.0, found });
            }
        }
        let Some(previous) = &self.previous else { return Ok(header) };
        let rules = [
            ("checksum of the predecessor", u64::from(previous.crc), u64::from(header.previous_crc)),
            ("incarnation", previous.writer.incarnation.0.max(header.writer.incarnation.0), header.writer.incarnation.0),
            ("durable position", previous.durable.max(header.durable).0, header.durable.0),
        ];
        match rules.into_iter().find(|(_, expected, found)| expected != found) {
            Some((field, expected, found)) => Err(BlockFault::Identity { field, expected, found }),
            None => Ok(header),
        }
    }

    /// Adds a valid block's payload to the stream.
    fn take(&mut self, bytes: &[u8], header: Header) {
        let first = header.number == self.source.start.block();
        let from = if first { self.source.start.offset().max(BLOCK_HEADER) } else { BLOCK_HEADER };
        let to = BLOCK_HEADER + usize::from(header.length);
        if from < to {
            self.spans.push_back(Span { at: self.stream.len(), from, number: header.number, writer: header.writer });
            self.stream.extend_from_slice(&bytes[from..to]);
        }
        if header.durable > self.durable {
            (self.durable, self.evidence) = (header.durable, Evidence::Block(header.number));
        }
        self.next_block = header.number + 1;
        self.previous = Some(header);
    }

    /// Gives every complete group in the stream to `sink`.
    fn hand_out(&mut self, sink: &mut impl FnMut(LogGroup<'_>) -> Result<(), RecordFault>) -> Result<(), LogFault> {
        while self.stream.len() - self.taken >= GROUP_HEADER {
            let rest = &self.stream[self.taken..];
            let decoded = Group::decode(rest);
            let (Some(span), fits) = (self.spans.front(), decoded.as_ref().is_ok_and(|header| header.length <= rest.len())) else {
                break;
            };
            let start = span.lsn(self.taken);
            let damaged = |fault| LogFault::Record { file: self.source.disk.path(self.source.file), at: start, fault };
            let header = decoded.map_err(damaged)?;
            if !fits {
                break;
            }
            let to = self.taken + header.length;
            while self.spans.get(1).is_some_and(|next| next.at < to) {
                self.spans.pop_front();
            }
            let (end, writer) = (self.spans[0].lsn(to), self.spans[0].writer);
            let body = &self.stream[self.taken + GROUP_HEADER..to];
            sink(LogGroup { header, body, end, writer }).map_err(damaged)?;
            self.taken = to;
            if self.spans.get(1).is_some_and(|next| next.at == to) {
                self.spans.pop_front();
            }
        }
        self.stream.drain(..self.taken);
        self.spans.iter_mut().for_each(|span| span.at = span.at.wrapping_sub(self.taken));
        self.taken = 0;
        if self.stream.is_empty() {
            self.spans.clear();
        }
        Ok(())
    }

    /// Decides whether invalid block `number` is the end of the log or damage: damage if anything says that it was durable.
    async fn judge(&mut self, number: u64, fault: BlockFault) -> Result<(), LogFault> {
        let at = Lsn::of_block(number);
        if self.durable <= at {
            self.look_ahead(at).await?;
        }
        if self.durable <= at {
            return Ok(());
        }
        Err(LogFault::Damaged {
            file: self.source.disk.path(self.source.file),
            at,
            offset: RING_AT + number % self.source.identity.ring_blocks * LOG_BLOCK as u64,
            fault,
            durable: self.durable,
            evidence: self.evidence,
        })
    }

    /// Looks in one longest write from `at` on for blocks that say that `at` was durable: later ones of the same write or the next, and
    /// blocks of a later lap in the place of those that belong there.
    async fn look_ahead(&mut self, at: Lsn) -> Result<(), LogFault> {
        self.reads.clear();
        let limit = (at.block() + 1 + (LOG_WRITE_MAX / LOG_BLOCK) as u64).min(self.limit());
        let mut number = at.block();
        while number < limit {
            let (blocks, read) = self.issue(number, limit);
            let (buffer, outcome) = read.await;
            outcome?;
            for (bytes, number) in buffer.chunks_exact(LOG_BLOCK).zip(number..) {
                if let Ok(header) = block::open_any(bytes, &self.source.identity, number % self.source.identity.ring_blocks)
                    && header.durable > at
                    && header.durable > self.durable
                {
                    (self.durable, self.evidence) = (header.durable, Evidence::Block(header.number));
                }
            }
            number += blocks;
        }
        Ok(())
    }

    fn finish(&mut self) {
        self.reads.clear();
        let previous = self.previous;
        self.end = Some(LogEnd {
            at: Lsn::of_block(self.next_block),
            crc: previous.map_or(0, |header| header.crc),
            durable: self.durable,
            last: previous.map(|header| header.writer),
        });
    }
}

impl Span {
    /// The position of byte `at` of the stream, which lies in this span or right behind it.
    fn lsn(&self, at: usize) -> Lsn {
        // The start of a span whose head was handed out already lies before the stream's, as a wrapped number.
        Lsn(Lsn::of_block(self.number).0 + (self.from + at.wrapping_sub(self.at)) as u64)
    }
}

const _: () = assert!(READ_BYTES.is_multiple_of(LOG_BLOCK));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::sim::Sim;
    use crate::base::{Epoch, Incarnation, PageId, Scn, ThreadId};
    use crate::disk::memory::{MemoryDisk, MemoryMedia};
    use crate::disk::{Access, Durability};
    use crate::redo::block::{NO_GROUP, PAYLOAD};
    use crate::redo::record::{CHANGE_HEADER, Changes, GroupKind, Op};

    const IDENTITY: LogIdentity = LogIdentity { cluster: 5, thread: ThreadId(1), ring_blocks: 2048 };

    /// A change group of about `bytes` bytes.
    fn group(scn: u64, bytes: usize) -> Vec<u8> {
        let mut ops = Vec::new();
        while ops.len() < bytes {
            Op::Free.encode(&mut ops);
        }
        let mut group = vec![0; GROUP_HEADER];
        group.extend_from_slice(&PageId(scn).0.to_le_bytes());
        group.extend_from_slice(&[0; 8]);
        group.extend_from_slice(&(ops.len() as u32).to_le_bytes());
        group.extend_from_slice(&ops);
        assert_eq!(group.len(), GROUP_HEADER + CHANGE_HEADER + ops.len());
        Group { length: group.len(), kind: GroupKind::Changes, items: 1, scn: Scn(scn) }.encode(&mut group);
        group
    }

    /// The blocks of `stream`, from block 1 on.
    fn blocks(stream: &[u8]) -> Vec<u8> {
        let writer = Writer { thread: IDENTITY.thread, incarnation: Incarnation(1), epoch: Epoch(1) };
        let mut all = Vec::new();
        let mut previous_crc = 0;
        for (payload, number) in stream.chunks(PAYLOAD).zip(1..) {
            let mut bytes = [0; LOG_BLOCK];
            bytes[BLOCK_HEADER..BLOCK_HEADER + payload.len()].copy_from_slice(payload);
            let (durable, length) = (Lsn::of_block(1), payload.len() as u16);
            let header = Header { crc: 0, previous_crc, writer, number, durable, lap: 0, length, first_group: NO_GROUP };
            previous_crc = block::seal(&mut bytes, &IDENTITY, &header);
            all.extend_from_slice(&bytes);
        }
        all
    }

    #[test]
    fn groups_across_reads_are_handed_out_whole_with_their_positions() {
        // A group whose head lay in one read, behind the head of its block, and whose tail lay in the next stopped the reader by an
        // overflow. Sizes are such that reads of 256 blocks cut groups at many places.
        let mut stream = Vec::new();
        let mut ends = Vec::new();
        for scn in 1..600 {
            stream.extend_from_slice(&group(scn, (scn as usize * 977) % 9000 + 4));
            let last = stream.len() - 1;
            ends.push(Lsn(Lsn::of_block(1 + (last / PAYLOAD) as u64).0 + (BLOCK_HEADER + last % PAYLOAD + 1) as u64));
        }
        assert!(stream.len() > 2 * READ_BYTES);
        let media = MemoryMedia::new(1);
        let sim = Sim::new(1);
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(&media, sim.runtime()));
        let found = sim.run(async {
            let length = RING_AT + IDENTITY.ring_blocks * LOG_BLOCK as u64;
            let file = disk.open("/redo".as_ref(), Access::Create(IDENTITY.thread, length)).unwrap();
            let bytes = Buffer::copy_of(&blocks(&stream));
            disk.write(file, RING_AT + LOG_BLOCK as u64, bytes, Durability::Durable).await.1.unwrap();
            let start = Lsn::of_block(1);
            let (disk, end, life) = (disk.clone(), None, None);
            let mut reader = LogReader::new(LogSource { disk, file, identity: IDENTITY, start, durable: start, end, life });
            let mut found = Vec::new();
            let more = async |reader: &mut LogReader, found: &mut Vec<(Scn, Lsn)>| {
                let sink = |group: LogGroup<'_>| {
                    found.push((group.header.scn, group.end));
                    Changes::new(group.body, group.header.items).try_for_each(|change| change.map(|_| ()))
                };
                reader.read(sink).await.unwrap()
            };
            while more(&mut reader, &mut found).await {}
            assert_eq!(reader.end().unwrap().at, Lsn::of_block(1 + stream.len().div_ceil(PAYLOAD) as u64));
            found
        });
        let expected: Vec<_> = (1..).map(Scn).zip(ends).collect();
        assert!(found == expected, "{} groups of {}", found.len(), expected.len());
    }
}
