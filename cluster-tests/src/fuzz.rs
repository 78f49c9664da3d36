//! Fuzz targets: what must hold of every decoder whatever bytes it is given (rule 20): no panic, and what is accepted is possible.
//!
//! Two drivers run the same functions: `fuzz/` (libFuzzer, guided by coverage) and `tests/fuzz.rs` (seeded mutations of [`corpus`] in
//! the test process). Each target looks at the bytes as they are and again with their checksum repaired, since mutations would hardly
//! ever get past it. A target panics when something doesn't hold.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use regroup::base::checksum;
use regroup::base::limits::{LOG_BLOCK, PAGE_SIZE};
use regroup::base::options::Options;
use regroup::base::sim::Sim;
use regroup::base::{BoxFuture, Gate, Lsn, PageId, Scn, TreeId};
use regroup::cache::double_write;
use regroup::cli::config::Config;
use regroup::net::certificate::certified;
use regroup::net::frame::{Class, HEADER as FRAME_HEADER, Head};
use regroup::net::hello::{Admission, Certified, Hello};
use regroup::net::sequence::Sequences;
use regroup::net::{Lane, Refusal};
use regroup::node::store::Store;
use regroup::page::header::{self, HEADER, Kind};
use regroup::page::superblock::{COPIES, SUPERBLOCK, Superblock};
use regroup::page::verify::{verify, verify_stamped};
use regroup::page::volume::StoragePaths;
use regroup::page::{slotted, space};
use regroup::redo::apply::{self, apply_op};
use regroup::redo::block::{self, BLOCK_HEADER};
use regroup::redo::control::Control;
use regroup::redo::record::{Change, Changes, GROUP_HEADER, Group, GroupKind, Op, Ops, written_items};
use regroup::sql::session::{Admin, Engine, EngineOptions};
use regroup::sql::wire::options::PostgresOptions;
use regroup::sql::wire::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{conversation, samples, voting, world};

/// A target's name and function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 10] = [
    ("log_block", log_block),
    ("group", group),
    ("page", page),
    ("superblock", superblock),
    ("control", control),
    ("double_write", double_write),
    ("configuration", configuration),
    ("frontend", frontend),
    ("sector", sector),
    ("frame", frame),
];

/// Inputs for the target of this name to start from.
pub fn corpus(name: &str) -> Vec<Vec<u8>> {
    let group = samples::group();
    match name {
        "log_block" => vec![samples::log_block().to_vec()],
        "group" => vec![group, samples::notice()],
        "page" => {
            let ops: &[u8] = Changes::new(&group[GROUP_HEADER..], 3).next().and_then(Result::ok).map_or(&[], |change| change.ops);
            vec![[&samples::tree_page()[..], ops].concat(), samples::space_page(), samples::tree_page()]
        }
        "superblock" => COPIES.iter().map(|at| samples::superblock().encode(*at).to_vec()).collect(),
        "control" => vec![samples::control().encode(samples::CLUSTER.tag(), 0).to_vec()],
        "double_write" => vec![samples::double_write()],
        "sector" => voting::corpus(),
        "frame" => samples::frames(),
        "frontend" => conversation::corpus().into_iter().map(|bytes| [&[0, 40][..], &bytes].concat()).collect(),
        _ => vec![
            b"instance = 2\n[storage]\nredo = [\"/a\", \"b\"]\ndata = [\"/c\"]\nvoting = [\"v\"]\n[options]\nlog_mode = \"none\"\n"
                .to_vec(),
            b"[storage]\nredo = [\"/a\"]\ndata = [\"/c\"]\nvoting = [\"1\", \"2\", \"3\"]\n[fence]\nmethods = [\"guard\", \"lease\"]\n\
              [guard]\nrestarts_max = 0\n[membership]\nlease_ms = 500\n[interconnect]\nlisten = \"[::1]:0\"\ntls = \"/k\"\n\
              [[instances]]\nid = 1\nguard = \"127.0.0.1:0\"\n"
                .to_vec(),
            b"[storage]\nredo = [\"a\"]\ndata = [\"b\"]\n[postgres]\nlisten = \"[::1]:0\"\nmax_connections = 5\nsend_timeout_ms = 0\n"
                .to_vec(),
            b"redo = [\"/a\", \"/b\"]\ndata = [\"/c\"]\n".to_vec(),
            b"cache_bytes = 67108864\nlog_mode = \"batch\"\npage_io_depth = 64\ndouble_write = \"on\"\ndisk = \"threads\"\n".to_vec(),
        ],
    }
}

/// `data` cut or filled up to `N` bytes, as it is and with its checksum repaired.
fn blocks<const N: usize>(data: &[u8]) -> [[u8; N]; 2] {
    let mut raw = [0; N];
    let length = data.len().min(N);
    raw[..length].copy_from_slice(&data[..length]);
    let mut whole = raw;
    checksum::seal(&mut whole);
    [raw, whole]
}

/// A log block and the groups in it.
pub fn log_block(data: &[u8]) {
    let log = samples::log_identity();
    for bytes in blocks::<LOG_BLOCK>(data) {
        let mut eight = [0; 8];
        eight.copy_from_slice(&bytes[40..48]);
        for number in [samples::BLOCK, u64::from_le_bytes(eight) & ((1 << 50) - 1)] {
            let Ok(header) = block::open(&bytes, &log, number) else { continue };
            assert!(header.number == number && usize::from(header.length) <= block::PAYLOAD && header.durable <= Lsn::of_block(number));
            let mut again = bytes;
            block::seal(&mut again, &log, &header);
            assert!(again == bytes, "a header that reads back as other bytes");
            group(&bytes[BLOCK_HEADER..BLOCK_HEADER + usize::from(header.length)]);
        }
    }
}

/// A change group or notice, applied to pages as redo would.
pub fn group(data: &[u8]) {
    if data.len() < GROUP_HEADER {
        return;
    }
    let Ok(header) = Group::decode(data) else { return };
    let mut again = [0; GROUP_HEADER];
    header.encode(&mut again);
    assert!(again == data[..GROUP_HEADER], "a group header that reads back as other bytes");
    if header.length > data.len() {
        return;
    }
    let body = &data[GROUP_HEADER..header.length];
    if header.kind == GroupKind::Written {
        assert_eq!(written_items(body).count(), header.items);
        return;
    }
    for change in Changes::new(body, header.items).map_while(Result::ok) {
        for mut page in [samples::tree_page(), samples::space_page(), vec![0; PAGE_SIZE]] {
            if header::of(&page).kind().is_none() {
                header::format(&mut page, change.page, Kind::Free, TreeId(0), samples::CLUSTER.tag());
            }
            let id = header::of(&page).id();
            header::of_mut(&mut page).version.set(change.previous.0.min(header.scn.0));
            let change = Change { page: id, ..change };
            if apply::redo(&mut page, &change, header.scn, Lsn(99), samples::writer()).is_ok() {
                let found = header::of(&page).version();
                assert!(found >= header.scn);
                assert_eq!(verify_stamped(&page, id, samples::CLUSTER.tag()), Ok(()));
            }
        }
    }
}

/// A page, and behind it operations to apply to it.
pub fn page(data: &[u8]) {
    let (head, ops) = data.split_at(data.len().min(PAGE_SIZE));
    let [raw, mut whole] = blocks::<PAGE_SIZE>(head);
    let _ = verify(&raw, samples::TREE_PAGE, samples::CLUSTER.tag());
    // Identity is repaired like the checksum, so that bodies are reached.
    let id = PageId(u64::from_le_bytes([raw[8], raw[9], raw[10], raw[11], raw[12], raw[13], raw[14], raw[15]]));
    header::of_mut(&mut whole).cluster.set(samples::CLUSTER.tag());
    checksum::seal(&mut whole);
    if verify(&whole, id, samples::CLUSTER.tag()).is_err() {
        return;
    }
    read_body(&whole);
    for op in Ops::new(ops).take(64) {
        let Ok(op) = op else { return };
        let before = whole;
        match apply_op(&mut whole, &op) {
            Ok(()) => assert_eq!(verify_stamped(&whole, id, samples::CLUSTER.tag()), Ok(()), "{op:?}"),
            Err(_) if matches!(op, Op::Format { .. }) => return,
            Err(_) => assert!(whole == before, "a refused operation changed the page: {op:?}"),
        }
        read_body(&whole);
    }
}

fn read_body(page: &[u8]) {
    match header::of(page).kind() {
        Some(Kind::Tree | Kind::Slots | Kind::Undo) => {
            for slot in 0..slotted::count(page) {
                let key = slotted::key(page, slot);
                assert!(key.len() + slotted::value(page, slot).len() <= slotted::CAPACITY);
                let _ = slotted::search(page, key);
            }
            let _ = (slotted::low(page), slotted::high(page), slotted::covers(page, b"k"), slotted::right(page), slotted::level(page));
            assert!(slotted::free(page) <= slotted::CAPACITY && slotted::used(page) <= slotted::CAPACITY);
        }
        Some(Kind::Space) => {
            let free = space::find_free(page, 0);
            assert!(free.is_none_or(|bit| !space::used(page, bit)));
            assert!(space::count_used(page) >= 1);
        }
        Some(Kind::Free) | None => {}
    }
    let (low, heap) = apply::image(page);
    assert!(low.len() + heap.len() <= PAGE_SIZE - HEADER);
}

/// A superblock copy.
pub fn superblock(data: &[u8]) {
    for bytes in blocks::<SUPERBLOCK>(data) {
        for at in COPIES {
            let Ok(found) = Superblock::decode(&bytes, at) else { continue };
            assert_eq!(found.shape.validate(), Ok(()));
            assert!(found.encode(at) == bytes, "a superblock that reads back as other bytes");
        }
    }
}

/// A control slot.
pub fn control(data: &[u8]) {
    for bytes in blocks::<LOG_BLOCK>(data) {
        for slot in [0, 1] {
            let Ok(found) = Control::decode(&bytes, samples::CLUSTER.tag(), samples::THREAD, slot) else { continue };
            assert!(found.checkpoint <= found.durable);
            assert!(found.encode(samples::CLUSTER.tag(), slot) == bytes, "a control block that reads back as other bytes");
        }
    }
}

/// A double-write header.
pub fn double_write(data: &[u8]) {
    for bytes in blocks::<LOG_BLOCK>(data) {
        if let Some(batch) = double_write::decode(&bytes, samples::CLUSTER.tag(), samples::THREAD) {
            assert!(
                batch.items.len() <= regroup::base::limits::DOUBLE_WRITE_PAGES && batch.items.iter().all(|(_, version)| *version >= Scn(0))
            );
        }
    }
}

/// A configuration file, and its parts by themselves.
pub fn configuration(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(config) = Config::parse(&text, Path::new("/etc/regroup/config.toml")) {
        assert!((1..=config.storage.redo.len()).contains(&usize::from(config.instance)));
        let again = toml::to_string(&config).expect("what was read can be written");
        assert_eq!(Config::parse(&again, Path::new("/")).expect("what was written can be read"), config);
    }
    let _ = toml::from_str::<StoragePaths>(&text);
    if let Ok(options) = toml::from_str::<Options>(&text)
        && options.validate().is_ok()
    {
        assert!(options.cache_frames() >= regroup::base::limits::CACHE_FRAMES_MIN && !options.log_batch_interval().is_zero());
    }
}

/// A frame as peers send it, behind a byte that picks the lane; as it is, and with length and checksum repaired. A hello in it is judged, any other
/// frame counted. What follows is read as a certificate.
pub fn frame(data: &[u8]) {
    let Some((lane, bytes)) = data.split_first() else { return };
    let lane = Lane::ALL[usize::from(*lane) % Lane::ALL.len()];
    let _ = certified(&bytes.into());
    let tag = samples::CLUSTER.tag();
    frame_as_it_is(bytes, lane, tag);
    let Some((header, body)) = bytes.split_first_chunk::<FRAME_HEADER>() else { return };
    let body = &body[..body.len().min(lane.body_max())];
    let mut repaired = *header;
    repaired[16..20].copy_from_slice(&(body.len() as u32).to_le_bytes());
    let Ok((head, length)) = Head::parse(&repaired, lane) else { return };
    assert_eq!(length, body.len());
    frame_as_it_is(&[&head.encode(body, tag)[..], body].concat(), lane, tag);
}

fn frame_as_it_is(bytes: &[u8], lane: Lane, tag: u64) {
    let Ok((head, body)) = Head::decode(bytes, lane, tag) else { return };
    assert!(head.lane == lane && body.len() <= lane.body_max());
    assert!(head.encode(body, tag)[..] == bytes[..FRAME_HEADER], "a header that reads back as other bytes");
    if head.class == Class::Hello {
        let Ok(hello) = Hello::decode(body) else { return };
        assert!(hello.encode()[..] == *body, "a hello that reads back as other bytes");
        assert!(hello.lane.joins(hello.from.role, hello.to.role));
        let own = samples::hello_to();
        let certificate = Certified { cluster: samples::CLUSTER, instance: samples::hello().from.instance };
        let mut admission = Admission::new(own);
        if admission.admit(&hello, certificate, samples::writer().epoch).is_ok() {
            assert!(hello.cluster == own.cluster && hello.to == own.peer && hello.from != own.peer);
            assert!(hello.from.instance == certificate.instance && hello.epoch >= samples::writer().epoch);
            assert!(
                !admission.is_current(hello.from, regroup::base::Incarnation(hello.incarnation.0.wrapping_sub(1)))
                    || hello.incarnation.0 == 0
            );
        }
        return;
    }
    let mut sequences = Sequences::new(lane);
    if sequences.accept(head.sequence).is_ok() {
        assert_eq!(sequences.accept(head.sequence), Err(Refusal::Replay), "a frame counted twice");
    }
}

/// An instance in the simulator that is open for clients.
struct Door {
    sim: Sim,
    server: Server,
    /// Stays open as long as the server.
    _store: Arc<Store>,
}

/// What statements ask of an instance, which this one has no use for.
struct NoAdmin;

impl Admin for NoAdmin {
    fn checkpoint(&self) -> BoxFuture<Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

impl Door {
    fn open() -> Door {
        let media = world::create(1, world::shape(2048, false));
        let sim = Sim::new(1).step_limit(u64::MAX).time_limit(Duration::MAX);
        let seams = sim.runtime();
        let server = Server::new(
            seams.clone(),
            PostgresOptions { message_bytes_max: 1 << 16, ..PostgresOptions::default() },
            Gate::always_open(seams.clone()),
        );
        let store = sim.run(async {
            let store = world::open(&seams, &media, &world::small()).await.expect("the store can be opened");
            let rows = store.rows().clone();
            let engine = Engine::open(rows, seams.clone(), Arc::new(NoAdmin), EngineOptions::default()).await;
            server.open(engine.expect("the engine can be opened"));
            store
        });
        Door { sim, server, _store: store }
    }

    /// Sends `data` in pieces of up to `piece` bytes, reads while it does, hangs up; gives what was said.
    async fn talk(&self, data: &[u8], piece: usize) -> Vec<u8> {
        let (near, far) = tokio::io::duplex(1 << 12);
        let server = self.server.clone();
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        self.sim.runtime().spawn("connection", Box::pin(async move { server.serve(far, peer).await }));
        let (mut from, mut to) = tokio::io::split(near);
        let pieces: Vec<Vec<u8>> = data.chunks(piece.max(1)).map(<[u8]>::to_vec).collect();
        let seams = self.sim.runtime();
        let pause = seams.clone();
        seams.spawn(
            "client",
            Box::pin(async move {
                for piece in pieces {
                    // The server may have closed, and a statement may be given the time that it needs.
                    if to.write_all(&piece).await.is_err() {
                        return;
                    }
                    pause.sleep(Duration::from_millis(50)).await;
                }
                let _ = to.shutdown().await;
            }),
        );
        let mut said = Vec::new();
        from.read_to_end(&mut said).await.expect("a pipe can be read");
        said
    }
}

thread_local! {
    static DOOR: Door = Door::open();
}

/// A client's bytes from the first on; before them a byte whose lowest bit says that a proper start is sent first, and one for the size of
/// the pieces in which they come. Whatever they are, the server says only whole messages, hangs up and keeps nothing.
pub fn frontend(data: &[u8]) {
    let [how, piece, rest @ ..] = data else { return };
    let bytes = if how & 1 == 1 { [&conversation::startup(), rest].concat() } else { rest.to_vec() };
    DOOR.with(|door| {
        let said = door.sim.run(door.talk(&bytes, 1 + usize::from(*piece) * 16));
        assert!(is_framed(&said), "the server said {said:?}");
        assert_eq!(door.server.connections(), (0, 0));
    });
}

/// Whether `said` is refusals of encryption, then whole messages of types that servers send.
fn is_framed(said: &[u8]) -> bool {
    let mut rest = said;
    while let [b'N', tail @ ..] = rest
        && !matches!(tail, [0, ..])
    {
        rest = tail;
    }
    while let [kind, a, b, c, d, ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if !b"RSKvZ123snCDEGHINTtdc".contains(kind) || length < 4 || length >= rest.len() {
            return false;
        }
        rest = &rest[1 + length..];
    }
    rest.is_empty()
}

/// A sector of a voting file, or the body of a message about it.
pub fn sector(data: &[u8]) {
    voting::fuzz(data);
}
