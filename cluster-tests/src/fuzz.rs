//! Fuzz targets: what must hold of every decoder whatever bytes it is given (rule 20): no panic, and what is accepted is possible.
//!
//! Two drivers run the same functions: `fuzz/` (libFuzzer, guided by coverage) and `tests/fuzz.rs` (seeded mutations of [`corpus`] in
//! the test process). Each target looks at the bytes as they are and again with their checksum repaired, since mutations would hardly
//! ever get past it. A target panics when something doesn't hold.

use std::path::Path;

use regroup::base::checksum;
use regroup::base::limits::{LOG_BLOCK, PAGE_SIZE};
use regroup::base::options::Options;
use regroup::base::{Lsn, PageId, Scn, TreeId};
use regroup::cache::double_write;
use regroup::cli::config::Config;
use regroup::page::header::{self, HEADER, Kind};
use regroup::page::superblock::{COPIES, SUPERBLOCK, Superblock};
use regroup::page::verify::{verify, verify_stamped};
use regroup::page::volume::StoragePaths;
use regroup::page::{slotted, space};
use regroup::redo::apply::{self, apply_op};
use regroup::redo::block::{self, BLOCK_HEADER};
use regroup::redo::control::Control;
use regroup::redo::record::{Change, Changes, GROUP_HEADER, Group, GroupKind, Op, Ops, written_items};

use crate::samples;

/// A target's name and function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 7] = [
    ("log_block", log_block),
    ("group", group),
    ("page", page),
    ("superblock", superblock),
    ("control", control),
    ("double_write", double_write),
    ("configuration", configuration),
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
        _ => vec![
            b"instance = 2\n[storage]\nredo = [\"/a\", \"b\"]\ndata = [\"/c\"]\n[options]\nlog_mode = \"none\"\n".to_vec(),
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
