//! One sample of every structure on disk, always the same bytes: what golden tests pin down and fuzzing starts from.

use std::sync::Arc;

use regroup::base::limits::{LOG_BLOCK, PAGE_SIZE};
use regroup::base::sim::Sim;
use regroup::base::{ClusterId, Epoch, Incarnation, Lsn, PageId, Scn, ThreadId, TreeId, Writer, checksum};
use regroup::cache::double_write::{DoubleWrite, IMAGES};
use regroup::disk::memory::{MemoryDisk, MemoryMedia};
use regroup::disk::{Access, Buffer, Disk};
use regroup::net::frame::{Class, Head};
use regroup::net::hello::{Hello, Local};
use regroup::net::{Lane, Peer};
use regroup::page::superblock::{DOUBLE_WRITE_AT, FileKind, Shape, Superblock};
use regroup::page::{Kind, header, slotted, space};
use regroup::redo::block::{self, BLOCK_HEADER, LogIdentity};
use regroup::redo::control::{Control, ThreadState};
use regroup::redo::forecast::{Forecast, Foretold, Rates};
use regroup::redo::record::{GROUP_HEADER, Group, GroupKind, Op, encode_written};

/// The cluster of all samples.
pub const CLUSTER: ClusterId = ClusterId(*b"golden regroup 1");
/// The redo thread of all samples.
pub const THREAD: ThreadId = ThreadId(2);
/// The tree page.
pub const TREE_PAGE: PageId = PageId(1 << 48 | 4097);
/// The space map page.
pub const SPACE_PAGE: PageId = PageId(1 << 48 | 4096);
/// Number of the log block.
pub const BLOCK: u64 = 2051;

/// The log of all samples.
pub fn log_identity() -> LogIdentity {
    LogIdentity { cluster: CLUSTER.tag(), thread: THREAD, ring_blocks: 2048 }
}

/// The writer of all samples.
pub fn writer() -> Writer {
    Writer { thread: THREAD, incarnation: Incarnation(7), epoch: Epoch(9) }
}

/// A data file's superblock.
pub fn superblock() -> Superblock {
    let (ring_bytes, data_bytes, created_ms) = (8 << 20, 1 << 20, 1_700_000_000_000);
    let shape = Shape { cluster: CLUSTER, threads: 2, data_files: 3, ring_bytes, data_bytes, grow: true, created_ms };
    Superblock { shape, kind: FileKind::Data, number: 1, voting: 0 }
}

/// A control block in the state `Recovering`.
pub fn control() -> Control {
    let rates = Rates { scan_bytes: 0x1111_1111, read_pages: 0x2222, apply_bytes: 0x3333_3333, restore_us: 0x4444, open_us: 0x5555 };
    let foretold = Foretold { total_us: 0x66_6666, pages: 0x7777, position: 3 * 4096 + 90, target_ms: 10_000 };
    Control {
        generation: 11,
        state: ThreadState::Recovering,
        writer: writer(),
        checkpoint: Lsn(8192 + 64),
        durable: Lsn(3 * 4096 + 100),
        end: Lsn(5 * 4096),
        end_crc: 0x1234_5678,
        clock: Scn(0x0102_0304),
        forecast: Forecast { rates, foretold },
    }
}

/// A change group with every operation, over three pages.
pub fn group() -> Vec<u8> {
    let image = tree_page();
    let (low, heap) = slotted::live_parts(&image);
    let changes: [(PageId, &[Op<'_>]); 3] = [
        (
            TREE_PAGE,
            &[
                Op::Format { kind: Kind::Tree, tree: TreeId(5), low, heap },
                Op::Insert { slot: 0, key: b"a", value: b"first" },
                Op::Append { key: b"k", value: b"" },
                Op::SetValue { slot: 1, value: b"second" },
                Op::Delete { slot: 2 },
                Op::SplitOff { from: 2, right: PageId(8), high: Some(b"cc") },
                Op::SetBounds { right: PageId::NONE, high: None },
            ],
        ),
        (SPACE_PAGE, &[Op::SetBit { bit: 300, used: true }, Op::SetBit { bit: 1, used: false }]),
        (PageId(6), &[Op::Free]),
    ];
    let mut bytes = vec![0; GROUP_HEADER];
    for (page, ops) in changes {
        let mut encoded = Vec::new();
        ops.iter().for_each(|op| op.encode(&mut encoded));
        bytes.extend_from_slice(&page.0.to_le_bytes());
        bytes.extend_from_slice(&40u64.to_le_bytes());
        bytes.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&encoded);
    }
    Group { length: bytes.len(), kind: GroupKind::Changes, items: 3, scn: Scn(41) }.encode(&mut bytes);
    bytes
}

/// A notice that two pages are durable at home.
pub fn notice() -> Vec<u8> {
    let mut bytes = encode_written(&[(TREE_PAGE, Scn(41)), (PageId(6), Scn(40))]);
    Group { length: bytes.len(), kind: GroupKind::Written, items: 2, scn: Scn(41) }.encode(&mut bytes);
    bytes
}

/// A log block that holds [`group`] and [`notice`].
pub fn log_block() -> [u8; LOG_BLOCK] {
    let mut bytes = [0; LOG_BLOCK];
    let payload = [group(), notice()].concat();
    bytes[BLOCK_HEADER..BLOCK_HEADER + payload.len()].copy_from_slice(&payload);
    let durable = Lsn::of_block(BLOCK - 1);
    let length = payload.len() as u16;
    let header =
        block::Header { crc: 0, previous_crc: 0x0bad_cafe, writer: writer(), number: BLOCK, durable, lap: 1, length, first_group: 64 };
    block::seal(&mut bytes, &log_identity(), &header);
    bytes
}

/// A leaf with both fences, a right sibling, dead bytes and three cells.
pub fn tree_page() -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE];
    header::format(&mut page, TREE_PAGE, Kind::Tree, TreeId(5), CLUSTER.tag());
    slotted::init(&mut page, 0);
    let done = slotted::set_low(&mut page, b"a")
        .and_then(|()| slotted::set_bounds(&mut page, Some(b"zebra"), PageId(1 << 48 | 5000)))
        .and_then(|()| slotted::insert(&mut page, 0, b"ape", b"1"))
        .and_then(|()| slotted::insert(&mut page, 1, b"bee", b"22"))
        .and_then(|()| slotted::insert(&mut page, 2, b"cat", b"333"))
        .and_then(|()| slotted::insert(&mut page, 1, b"bat", b""))
        .and_then(|()| slotted::delete(&mut page, 2));
    done.expect("they fit an empty page");
    sealed(page)
}

/// A space map of thread 2 with some pages in use.
pub fn space_page() -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE];
    header::format(&mut page, SPACE_PAGE, Kind::Space, TreeId(0), CLUSTER.tag());
    space::init(&mut page, THREAD);
    [1, 2, 3, 64, 4095].into_iter().for_each(|bit| space::set(&mut page, bit, true));
    sealed(page)
}

fn sealed(mut page: Vec<u8>) -> Vec<u8> {
    header::stamp(&mut page, Scn(41), Lsn(BLOCK * 4096 + 900), writer());
    checksum::seal(&mut page);
    page
}

/// The header of a double-write batch with the tree page and the space page, as the page writer leaves it.
pub fn double_write() -> Vec<u8> {
    let media = MemoryMedia::new(1);
    let sim = Sim::new(1);
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(&media, sim.runtime()));
    sim.run(async {
        let file = disk.open("/redo".as_ref(), Access::Create(THREAD, 2 << 20)).expect("a new file");
        let mut area = DoubleWrite::new(disk.clone(), file, CLUSTER.tag(), THREAD);
        let mut bytes = Buffer::zeroed(IMAGES + 2 * PAGE_SIZE);
        bytes[IMAGES..IMAGES + PAGE_SIZE].copy_from_slice(&tree_page());
        bytes[IMAGES + PAGE_SIZE..].copy_from_slice(&space_page());
        area.fill(bytes, 2).await.1.expect("the memory disk takes it");
    });
    media.peek("/redo", DOUBLE_WRITE_AT, LOG_BLOCK)
}

/// A hello of the writer of all samples to instance 1.
pub fn hello() -> Hello {
    let (from, to) = (Peer::instance(THREAD), hello_to().peer);
    Hello { cluster: CLUSTER, from, to, lane: Lane::Control, incarnation: writer().incarnation, epoch: writer().epoch }
}

/// Instance 1, whom the hello is for.
pub fn hello_to() -> Local {
    Local { cluster: CLUSTER, peer: Peer::instance(ThreadId(1)), incarnation: Incarnation(3) }
}

/// A hello and a frame of each lane, each behind the byte that picks the lane in the fuzz target `frame`.
pub fn frames() -> Vec<Vec<u8>> {
    let frame = |lane: Lane, class, sequence, body: &[u8]| {
        let Writer { incarnation, epoch, .. } = writer();
        let kind = if class == Class::Hello { 0 } else { 0x0304 };
        let head = Head { lane, class, kind, epoch, incarnation, sequence };
        [&[lane as u8 - 1][..], &head.encode(body, CLUSTER.tag()), body].concat()
    };
    vec![
        frame(Lane::Control, Class::Hello, 0, &hello().encode()),
        frame(Lane::Heartbeat, Class::Message, 17, b"still here"),
        frame(Lane::Control, Class::Message, 1, b"a control frame"),
        frame(Lane::Block, Class::Request, 5, b"which block"),
        frame(Lane::Block, Class::Answer, 5, &[8; 600]),
    ]
}
