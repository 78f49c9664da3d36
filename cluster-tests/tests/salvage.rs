//! A store whose log is damaged before its known end stays closed; salvage reads what is left, and writes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use regroup::base::options::Options;
use regroup::base::sim::Sim;
use regroup::base::{ClusterId, Lsn, PageId, Seams, ThreadId, TreeId};
use regroup::cache::wait::Footprint;
use regroup::cache::{Cache, Halt};
use regroup::disk::memory::{Fault, FaultKind, MemoryDisk, MemoryMedia};
use regroup::disk::{Access, Disk};
use regroup::node::storage::{OpenError, Opening, Storage, create};
use regroup::page::superblock::{CONTROL_SLOTS, PAGES_AT, RING_AT, Shape};
use regroup::page::volume::{StoragePaths, Volume};
use regroup::page::{Kind, header, slotted, space};
use regroup::recovery::RecoveryError;
use regroup::recovery::salvage::{MEMORY_MIN, Row, RowsProgress, Salvage, SalvageError, SalvageReport, UnreadablePage};
use regroup::redo::LogFault;
use regroup::redo::apply::image;
use regroup::redo::record::Op;

const REDO: &str = "/store/redo";
const DATA: &str = "/store/data";
const THREAD: ThreadId = ThreadId(1);
const TREE: TreeId = TreeId(7);
const LEAVES: u64 = 20;

fn paths() -> StoragePaths {
    StoragePaths { redo: vec![REDO.into()], data: vec![DATA.into()] }
}

fn disk(media: &MemoryMedia, seams: Seams) -> Arc<dyn Disk> {
    Arc::new(MemoryDisk::new(media, seams))
}

fn opening(media: &MemoryMedia, sim: &Sim) -> Opening {
    let options = Options { cache_bytes: 4 << 20, recovery_memory_bytes: 16 << 20, ..Options::default() };
    let (seams, disk) = (sim.runtime(), disk(media, sim.runtime()));
    Opening { seams, disk, paths: paths(), thread: THREAD, options, on_progress: None, on_checkpoint: None }
}

fn leaf(index: u64) -> PageId {
    PageId::new(0, 1 + index)
}

/// A body for `Op::Format`, made as it would be in memory.
fn fresh(page: PageId, kind: Kind) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    header::format(&mut bytes, page, kind, TREE, 0);
    match kind {
        Kind::Tree => slotted::init(&mut bytes, 0),
        _ => space::init(&mut bytes, THREAD),
    }
    bytes
}

async fn format(cache: &Cache, page: PageId, kind: Kind) {
    let bytes = fresh(page, kind);
    let (low, heap) = image(&bytes);
    let done = cache.run(Footprint::Group, || {
        let mut group = cache.begin(20_000)?;
        group.latch_fresh(page)?;
        group.apply(page, Op::Format { kind, tree: TREE, low, heap })?;
        if kind == Kind::Space {
            (0..LEAVES).try_for_each(|at| group.apply(page, Op::SetBit { bit: leaf(at).index() as u16, used: true }))?;
        }
        group.commit()
    });
    done.await.map_err(|halt: Halt| format!("{halt:?}")).unwrap();
}

/// What the store held after each group, and where that group ended.
type History = Vec<(Lsn, BTreeMap<Vec<u8>, Vec<u8>>)>;

/// A store that was opened, written to and lost its power: `groups` rows, put to leaf `group % LEAVES`, each group durable by itself.
fn crashed(groups: u64, checkpoints: &[u64]) -> (MemoryMedia, History) {
    let media = MemoryMedia::new(5);
    let sim = Sim::new(5);
    let mut history = History::new();
    sim.run(async {
        let cluster = ClusterId(*b"salvage test 001");
        let shape = Shape { cluster, threads: 1, data_files: 1, ring_bytes: 8 << 20, data_bytes: 8 << 20, grow: false, created_ms: 1 };
        drop(create(disk(&media, sim.runtime()), &paths(), shape).await.unwrap());
    });
    media.crash(1);
    sim.run(async {
        let storage = Storage::open(opening(&media, &sim)).await.unwrap();
        let cache = storage.cache();
        format(cache, PageId::new(0, 0), Kind::Space).await;
        for at in 0..LEAVES {
            format(cache, leaf(at), Kind::Tree).await;
        }
        let mut rows = BTreeMap::new();
        for number in 0..groups {
            let (page, key, value) = (leaf(number % LEAVES), number.to_be_bytes(), [number as u8; 60]);
            let put = cache.run(Footprint::Group, || {
                let mut group = cache.begin(1000)?;
                group.latch(page)?;
                group.apply(page, Op::Append { key: &key, value: &value })?;
                group.commit()
            });
            let committed = put.await.map_err(|halt: Halt| format!("{halt:?}")).unwrap();
            storage.committed(committed.end).await.unwrap();
            rows.insert(key.to_vec(), value.to_vec());
            history.push((committed.end, rows.clone()));
            if checkpoints.contains(&number) {
                storage.checkpoint().await.unwrap();
            }
        }
        // The block that seals the last write tells that it was durable.
        sim.runtime().sleep(std::time::Duration::from_millis(50)).await;
    });
    media.crash(9);
    (media, history)
}

struct Salvaged {
    report: SalvageReport,
    rows: Vec<Row>,
    unreadable: Vec<UnreadablePage>,
    progress: RowsProgress,
}

fn salvage(media: &MemoryMedia, memory: u64) -> Result<Salvaged, SalvageError> {
    let before: Vec<_> = media.paths().iter().map(|path| media.digest(path)).collect();
    let sim = Sim::new(6);
    let salvaged = sim.run(async {
        let volume = Volume::open(disk(media, sim.runtime()), &paths(), Access::Read).await.unwrap();
        let salvage = Salvage::open(Arc::new(volume), THREAD, memory).await?;
        let mut all = Vec::new();
        let mut rows = salvage.rows();
        while let Some(row) = rows.next().await {
            all.push(row);
        }
        let (progress, unreadable) = (rows.progress(), rows.unreadable().to_vec());
        Ok(Salvaged { report: salvage.report().clone(), rows: all, unreadable, progress })
    });
    let after: Vec<_> = media.paths().iter().map(|path| media.digest(path)).collect();
    assert_eq!(before, after, "salvage wrote something");
    salvaged
}

fn contents(rows: &[Row]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    assert!(rows.iter().all(|row| row.tree == TREE));
    rows.iter().map(|row| (row.key.clone(), row.value.clone())).collect()
}

/// Flips a bit in the log block that `position` lies in.
fn damage(media: &MemoryMedia, position: Lsn) {
    media.flip(REDO, RING_AT + position.block() % 2048 * 4096 + 1000, 3);
}

fn refused(media: &MemoryMedia) -> OpenError {
    let sim = Sim::new(7);
    let outcome = sim.run(async { Storage::open(opening(media, &sim)).await.err() });
    media.settle(7);
    outcome.expect("a store with a damaged log stays closed")
}

#[test]
fn everything_before_the_damage_is_there() {
    for (checkpoints, damaged) in [(&[][..], 300), (&[250], 300), (&[250], 399), (&[], 0)] {
        let (media, history) = crashed(400, checkpoints);
        let (at, _) = history[damaged];
        damage(&media, at);
        assert!(matches!(refused(&media), OpenError::Recovery(RecoveryError::Log(LogFault::Damaged { .. }))));
        let Salvaged { report, rows, unreadable, progress } = salvage(&media, MEMORY_MIN).unwrap();
        let expected = damaged.checked_sub(1).map(|last| history[last].1.clone()).unwrap_or_default();
        assert!(contents(&rows) == expected, "{} rows, {} expected", rows.len(), expected.len());
        assert_eq!(report.log_to, Lsn::of_block(at.block()).0);
        let why = report.damage.as_deref().unwrap_or_default();
        assert!(why.contains(REDO) && why.contains(&Lsn::of_block(at.block()).to_string()), "{why}");
        assert_eq!((report.unreadable.len(), unreadable.len()), (0, 0));
        assert_eq!((progress.pages, progress.rows), (1024, expected.len() as u64));
    }
}

#[test]
fn a_whole_log_is_read_to_its_end() {
    let (media, history) = crashed(100, &[]);
    let Salvaged { report, rows, .. } = salvage(&media, MEMORY_MIN).unwrap();
    assert_eq!((report.damage.as_deref(), report.state.as_deref()), (None, Some("open")));
    assert!(contents(&rows) == history[99].1);
    assert_eq!(report.groups, 100 + LEAVES + 1);
}

#[test]
fn lost_pages_are_named_and_cost_only_their_own_rows() {
    let (media, history) = crashed(400, &[250]);
    damage(&media, history[300].0);
    // Leaf 3's home is damaged and only changed by the log; leaf 4 can't be read; leaf 19 lost its write.
    media.flip(DATA, PAGES_AT + leaf(3).index() * 8192 + 500, 1);
    media.inject(Fault::new(FaultKind::ReadError).file(DATA).range(at(4)..at(5)).forever());
    media.poke(DATA, at(19), &[0; 8192]);
    // Their double-write images are gone too.
    media.poke(REDO, regroup::page::superblock::DOUBLE_WRITE_AT, &[0; 4096]);
    let Salvaged { report, rows, unreadable, .. } = salvage(&media, MEMORY_MIN).unwrap();
    let lost = [3, 4, 19];
    let expected: BTreeMap<_, _> = history[299]
        .1
        .clone()
        .into_iter()
        .filter(|(key, _)| !lost.contains(&(u64::from(key[7]) + 256 * u64::from(key[6])).rem_euclid(LEAVES)))
        .collect();
    assert!(contents(&rows) == expected, "{} rows, {} expected", rows.len(), expected.len());
    let names: Vec<_> = unreadable.iter().map(|lost| lost.page.clone()).collect();
    assert_eq!(names, lost.map(|at| leaf(at).to_string()), "{unreadable:?}");
    assert_eq!(report.unreadable.len(), 3, "{:?}", report.unreadable);
    assert!(unreadable[2].why.contains("all zeroes") && unreadable[1].why.contains("errno 5"), "{unreadable:?}");
}

fn at(index: u64) -> u64 {
    PAGES_AT + leaf(index).index() * 8192
}

#[test]
fn torn_homes_come_from_the_double_write_area() {
    // The second one: pages that were new when they went home have no image.
    let (media, history) = crashed(400, &[199, 399]);
    // Some home of the last batch is torn; the area still has its image, as the thread was not closed.
    let torn = (0..LEAVES).filter(|index| {
        media.poke(DATA, at(*index) + 4096, &[0x55; 512]);
        true
    });
    assert_eq!(torn.count() as u64, LEAVES);
    damage(&media, history[399].0);
    let Salvaged { report, rows, unreadable, .. } = salvage(&media, MEMORY_MIN).unwrap();
    assert!(contents(&rows).iter().all(|(key, value)| history[399].1.get(key) == Some(value)));
    assert_eq!(unreadable.len() as u64 * 20 + rows.len() as u64, 400, "{report:?}");
    assert!(unreadable.len() < LEAVES as usize, "at least the last batch comes back: {unreadable:?}");
}

#[test]
fn without_control_slots_pages_are_all_there_is() {
    let (media, history) = crashed(100, &[50]);
    for at in CONTROL_SLOTS {
        media.flip(REDO, at + 40, 2);
    }
    assert!(matches!(refused(&media), OpenError::Control(_)));
    let Salvaged { report, rows, .. } = salvage(&media, MEMORY_MIN).unwrap();
    assert!(report.damage.is_some_and(|why| why.contains("neither control slot is whole")));
    assert_eq!(report.state, None);
    // What the checkpoint wrote is there; later rows may be.
    assert!(history[50].1.keys().all(|key| rows.iter().any(|row| row.key == *key)));
}

#[test]
fn memory_is_bounded_and_the_error_says_what_to_do() {
    let media = MemoryMedia::new(5);
    let sim = Sim::new(5);
    let shape = Shape {
        cluster: ClusterId(*b"salvage test 002"),
        threads: 1,
        data_files: 1,
        ring_bytes: 8 << 20,
        data_bytes: 16 << 20,
        grow: false,
        created_ms: 1,
    };
    sim.run(async { create(disk(&media, sim.runtime()), &paths(), shape).await.unwrap() });
    media.crash(1);
    sim.run(async {
        let mut opening = opening(&media, &sim);
        // Nothing is written home before the crash.
        opening.options.cache_bytes = 32 << 20;
        let storage = Storage::open(opening).await.unwrap();
        for index in 0..600 {
            format(storage.cache(), PageId::new(0, 1 + index), Kind::Tree).await;
        }
        storage.committed(storage.log().appended()).await.unwrap();
    });
    media.crash(1);
    let error = salvage(&media, MEMORY_MIN).err().expect("600 pages don't fit into 4 MiB").to_string();
    assert!(error.contains("4194304 bytes") && error.contains("--memory-bytes"), "{error}");
    assert_eq!(salvage(&media, 16 << 20).unwrap().report.pages_changed, 600);
}
