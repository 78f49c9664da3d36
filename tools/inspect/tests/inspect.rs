//! The tool on real files: whole ones, damaged ones, none.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use regroup::base::options::{DiskKind, Options};
use regroup::base::threads::ThreadsRuntime;
use regroup::base::{ClusterId, Epoch, Incarnation, PageId, ThreadId, TreeId};
use regroup::cache::wait::Footprint;
use regroup::cache::{Cache, Halt};
use regroup::disk::open_disk;
use regroup::membership::heartbeat::{Heartbeat, Standing, head};
use regroup::membership::sector::{Place, SectorKind, VotingId};
use regroup::membership::view::View;
use regroup::node::guard::voting::create as create_voting;
use regroup::node::storage::{Opening, Storage, create};
use regroup::page::superblock::{CONTROL_SLOTS, PAGES_AT, RING_AT, Shape};
use regroup::page::volume::StoragePaths;
use regroup::page::{Kind, header, slotted, space};
use regroup::redo::apply::image;
use regroup::redo::record::Op;
use regroup::table::DIRECTORY;

struct Fixture {
    folder: tempfile::TempDir,
}

async fn format(cache: &Cache, page: PageId, kind: Kind, tree: TreeId, cell: (&[u8], &[u8])) {
    let mut bytes = vec![0; regroup::base::limits::PAGE_SIZE];
    header::format(&mut bytes, page, kind, tree, 0);
    match kind {
        Kind::Tree => slotted::init(&mut bytes, 0),
        _ => space::init(&mut bytes, ThreadId(1)),
    }
    let (low, heap) = image(&bytes);
    let done = cache.run(Footprint::Group, || {
        let mut group = cache.begin(9000)?;
        group.latch_fresh(page)?;
        group.apply(page, Op::Format { kind, tree, low, heap })?;
        if kind == Kind::Space {
            group.apply(page, Op::SetBit { bit: 1, used: true })?;
            group.apply(page, Op::SetBit { bit: 2, used: true })?;
        } else {
            group.apply(page, Op::Append { key: cell.0, value: cell.1 })?;
        }
        group.commit()
    });
    done.await.map_err(|halt: Halt| format!("{halt:?}")).unwrap();
}

impl Fixture {
    /// A store with a space map (page 0), the directory (page 1) and a tree of one leaf (page 2), closed or not.
    fn new(close: bool) -> Fixture {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let fixture = Fixture { folder };
        let paths = StoragePaths { redo: vec![fixture.path("redo")], data: vec![fixture.path("data")] };
        let config = "instance = 1\n[storage]\nredo = [\"redo\"]\ndata = [\"data\"]\n";
        std::fs::write(fixture.path("config.toml"), config).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let cluster = ClusterId(*b"inspected store!");
            let shape = Shape { cluster, threads: 1, data_files: 1, ring_bytes: 8 << 20, data_bytes: 1 << 20, grow: true, created_ms: 1 };
            drop(create(open_disk(DiskKind::Threads).unwrap(), &paths, shape).await.unwrap());
            let seams = ThreadsRuntime::start(tokio::runtime::Handle::current(), 1).unwrap();
            let disk = open_disk(DiskKind::Threads).unwrap();
            let options = Options { cache_bytes: 4 << 20, ..Options::default() };
            let opening = Opening { seams, disk, paths, thread: ThreadId(1), options, on_progress: None, on_checkpoint: None };
            let storage = Storage::open(opening).await.unwrap();
            let entry = (3u32.to_be_bytes(), 2u64.to_le_bytes());
            format(storage.cache(), PageId::new(0, 0), Kind::Space, TreeId(0), (&[], &[])).await;
            format(storage.cache(), PageId::new(0, 1), Kind::Tree, DIRECTORY, (&entry.0, &entry.1)).await;
            format(storage.cache(), PageId::new(0, 2), Kind::Tree, TreeId(3), (b"key", b"some value")).await;
            storage.committed(storage.log().appended()).await.unwrap();
            if close {
                storage.close().await.unwrap();
            } else {
                // The seal behind the last write, then the end of the process.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        });
        drop(runtime);
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn flip(&self, name: &str, at: u64) {
        let file = OpenOptions::new().read(true).write(true).open(self.path(name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    }

    fn inspect(&self, arguments: &[&str]) -> (i32, String) {
        let before = [self.bytes("redo"), self.bytes("data")];
        let output = inspect(&[&["--config", self.path("config.toml").to_str().unwrap()], arguments].concat());
        assert!(before == [self.bytes("redo"), self.bytes("data")], "the tool wrote something");
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), text)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
}

fn inspect(arguments: &[&str]) -> Output {
    Command::new(Path::new(env!("CARGO_BIN_EXE_regroup-inspect"))).args(arguments).output().unwrap()
}

#[test]
fn a_closed_store_is_clean() {
    let store = Fixture::new(true);
    let (code, text) = store.inspect(&["check"]);
    assert!(code == 0 && text.contains("0 findings") && text.contains("2 tree, 0 undo, 1 space maps, 0 free, 125 never written"), "{text}");
    let (code, text) = store.inspect(&["superblock"]);
    assert!(code == 0 && text.matches("of cluster").count() == 4, "{text}");
    let (code, text) = store.inspect(&["control"]);
    assert!(code == 0 && text.matches(", closed, i1 e1").count() == 2, "{text}");
    let (code, text) = store.inspect(&["page", "p0:2", "--cells"]);
    assert!(code == 0 && text.contains("page p0:2: Tree, tree3") && text.contains("0: key = some value"), "{text}");
    let (code, text) = store.inspect(&["--json", "page", "0:0"]);
    assert!(code == 0 && text.contains("\"used\":3"), "{text}");
    assert_eq!(store.inspect(&["double-write"]).0, 0);
    assert_eq!(store.inspect(&["pages"]).0, 0);
}

#[test]
fn the_log_of_an_unclosed_store_is_shown_down_to_its_operations() {
    let store = Fixture::new(false);
    let (code, text) = store.inspect(&["log", "--operations", "--blocks"]);
    assert_eq!(code, 0, "{text}");
    for expected in ["format Tree of tree3", "append \"key\" = \"some value\"", "bit 1 in use", "block 1: ", "3 groups with 3 changes"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let (code, text) = store.inspect(&["--json", "log", "--from", "1/000", "--to", "2/000"]);
    assert!(code == 0 && text.lines().all(|line| line.starts_with('{')), "{text}");
    assert_eq!(store.inspect(&["log", "--from", "nonsense"]).0, 2);
    assert_eq!(store.inspect(&["check"]).0, 0);
}

#[test]
fn damage_is_found_and_named() {
    for (name, at, said) in [
        ("data", 4096 + 50, "copy at 4096"),
        ("redo", CONTROL_SLOTS[1] + 30, "slot 1"),
        ("redo", RING_AT + 4096 + 200, "log is damaged at position 1/000"),
    ] {
        let store = Fixture::new(false);
        store.flip(name, at);
        let (code, text) = store.inspect(&["check"]);
        assert!(code == 1 && text.contains(said), "{said}: {text}");
        assert!(text.contains("1 findings"), "{text}");
        let (code, text) = store.inspect(&["--json", "check"]);
        assert!(code == 1 && text.lines().all(|line| line.starts_with('{')), "{text}");
    }
    let store = Fixture::new(true);
    store.flip("data", PAGES_AT + 8192 + 100);
    let (code, text) = store.inspect(&["check"]);
    assert!(code == 1 && text.contains("FINDING  page  p0:1") && text.contains("torn or damaged"), "{text}");
    assert_eq!(store.inspect(&["page", "p0:1"]).0, 1);
}

#[test]
fn a_lost_page_is_told_from_one_that_was_never_written() {
    let store = Fixture::new(true);
    let file = OpenOptions::new().write(true).open(store.path("data")).unwrap();
    file.write_all_at(&[0; 8192], PAGES_AT + 8192).unwrap();
    let (code, text) = store.inspect(&["pages"]);
    assert!(code == 1 && text.contains("page p0:1 is all zeroes") && text.contains("125 never written"), "{text}");
}

#[test]
fn what_can_not_be_opened_is_another_exit_code() {
    let store = Fixture::new(true);
    assert_eq!(inspect(&["check"]).status.code(), Some(2));
    assert_eq!(inspect(&["--redo", "/nowhere/redo", "check"]).status.code(), Some(2));
    assert_eq!(store.inspect(&["page", "p7:1"]).0, 2);
    // Files by name, in any order.
    let (redo, data) = (store.path("redo"), store.path("data"));
    let output = inspect(&["--data", data.to_str().unwrap(), "--redo", redo.to_str().unwrap(), "check"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // Both copies of a superblock gone: the others still tell the shape.
    store.flip("data", 100);
    store.flip("data", 4196);
    let (code, text) = store.inspect(&["check"]);
    assert!(code == 1 && text.contains("no whole superblock copy"), "{text}");
    let help = String::from_utf8(inspect(&["--help"]).stdout).unwrap();
    assert!(help.contains("Exit code") && help.contains("read-only"), "{help}");
}

#[test]
fn sectors_of_a_voting_file_are_shown_and_checked() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("voting");
    let (cluster, id, instance) = (ClusterId(*b"inspected votes!"), VotingId(0xabc), ThreadId(2));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let shape = Shape { cluster, threads: 2, data_files: 1, ring_bytes: 8 << 20, data_bytes: 1 << 20, grow: true, created_ms: 1 };
        let disk = open_disk(DiskKind::Threads).unwrap();
        create_voting(&disk, &path, shape, 0, id, Some(&View::genesis(&[id]))).await.unwrap();
    });
    let place = Place { cluster, file: id, instance, kind: SectorKind::Heartbeat };
    let beat = Heartbeat { standing: Standing::Joining, hears: 0b10, ..Heartbeat::default() };
    let bytes = beat.encode(&place, &head(Incarnation(7), 9, Epoch(3), &[]));
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.write_all_at(&bytes[..], SectorKind::Heartbeat.at(instance)).unwrap();
    let voting = |json: &[&str]| {
        let output = inspect(&[json, &["--voting", path.to_str().unwrap(), "voting"]].concat());
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = voting(&[]);
    assert!(code == 0 && text.contains("instance 2 heartbeat: incarnation 7, write 9, in epoch 3: joining, hears [2]"), "{text}");
    assert_eq!(text.matches("epoch 0 by instance 0: members none").count(), 2, "{text}");
    let (code, text) = voting(&["--json"]);
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let beat = lines.iter().find(|line| line["sector"] == "heartbeat").unwrap();
    assert!(code == 0 && beat["instance"] == 2 && beat["standing"] == "joining" && beat["sequence"] == 9, "{text}");
    file.write_all_at(&[bytes[100] ^ 1], SectorKind::Heartbeat.at(instance) + 100).unwrap();
    let (code, text) = voting(&[]);
    assert!(code == 1 && text.contains("FINDING  voting") && text.contains("heartbeat sector of instance 2"), "{text}");
}
