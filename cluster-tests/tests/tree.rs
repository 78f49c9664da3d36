//! Trees on a real disk with real threads: readers, writers, scanners and structure checks beside each other.
//!
//! Each writer owns a part of the keys and knows what is in it; everybody reads everything.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use regroup::base::options::{DiskKind, LogMode};
use regroup::base::threads::ThreadsRuntime;
use regroup::base::{ClusterId, Epoch, Incarnation, Random, ThreadId, TreeId, Writer};
use regroup::cache::checkpoint::{CheckpointSetup, Checkpointer};
use regroup::cache::double_write::DoubleWrite;
use regroup::cache::{Cache, CacheSetup, LocalGrants};
use regroup::disk::{Access, open_disk};
use regroup::page::superblock::Shape;
use regroup::page::volume::{StoragePaths, Volume};
use regroup::redo::LogWriter;
use regroup::redo::block::LogIdentity;
use regroup::redo::control::{Control, ControlFile, ThreadState};
use regroup::redo::forecast::Means;
use regroup::redo::writer::LogPlace;
use regroup::table::{Direction, Trees, Write};

const TREE: TreeId = TreeId(1);
const THREAD: ThreadId = ThreadId(1);

struct Store {
    trees: Trees,
    _checkpointer: Checkpointer,
}

/// A new store in `directory`, without recovery.
async fn create(directory: &Path, frames: usize, kind: DiskKind) -> Store {
    let seams = ThreadsRuntime::start(tokio::runtime::Handle::current(), 2).unwrap();
    let paths = StoragePaths { redo: vec![directory.join("redo1")], data: vec![directory.join("data0"), directory.join("data1")] };
    let ring_bytes = 64 << 20;
    let shape =
        Shape { cluster: ClusterId([7; 16]), threads: 1, data_files: 2, ring_bytes, data_bytes: 1 << 20, grow: true, created_ms: 0 };
    Volume::create(open_disk(kind).unwrap(), &paths, shape).await.unwrap();
    let disk = open_disk(kind).unwrap();
    let volume = Arc::new(Volume::open(disk.clone(), &paths, Access::Write(THREAD)).await.unwrap());
    let file = volume.redo_file(THREAD).unwrap();
    let writer = Writer { thread: THREAD, incarnation: Incarnation(1), epoch: Epoch(1) };
    let mut control = Control { state: ThreadState::Open, writer, ..Control::new(THREAD) };
    let control_file = ControlFile::new(disk.clone(), file, volume.tag(), THREAD);
    control_file.write_both(&mut control).await.unwrap();
    let clock = Arc::new(AtomicU64::new(1));
    let place = LogPlace {
        disk: disk.clone(),
        file,
        identity: LogIdentity { cluster: volume.tag(), thread: THREAD, ring_blocks: ring_bytes / 4096 },
        writer,
        checkpoint: control.checkpoint,
        start: control.checkpoint,
        start_crc: 0,
        fill_percent: 50,
    };
    let log = LogWriter::start(seams.clone(), place, LogMode::None, Duration::from_millis(100), clock.clone());
    let (grants, io_depth, tag) = (Arc::new(LocalGrants), 64, volume.tag());
    let cache = Cache::new(CacheSetup { seams, volume, grants, frames, io_depth, double_write: true, clock });
    cache.open_for_changes(log.clone());
    cache.start_page_writer(DoubleWrite::new(disk, file, tag, THREAD));
    let means = Means { log_bytes: 0, part_pages: 1 };
    let checkpointer = Checkpointer::start(CheckpointSetup {
        cache: cache.clone(),
        log,
        file: control_file,
        control,
        interval: Duration::from_secs(2),
        recovery_time_target: None,
        means,
        payload_share: 1.0,
        on_checkpoint: None,
    });
    Trees::bootstrap(cache.clone(), THREAD).await.unwrap();
    let trees = Trees::open(cache, THREAD).await.unwrap();
    trees.create_tree(TREE).await.unwrap();
    Store { trees, _checkpointer: checkpointer }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(PathBuf::from(env!("CARGO_TARGET_TMPDIR"))).unwrap()
}

/// Keys interleave, so that neighbours belong to different writers; some are long, so that inner nodes split too.
fn key_of(writer: u64, number: u64) -> Vec<u8> {
    let mut key = (number % 4096).to_be_bytes()[6..].to_vec();
    key.extend(std::iter::repeat_n(b'x', (number * 37 % 200) as usize));
    key.extend_from_slice(&number.to_be_bytes());
    key.extend_from_slice(&writer.to_be_bytes());
    key
}

async fn write(trees: Trees, writer: u64, rounds: u64, seed: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut random = Random::new(seed);
    let mut model = BTreeMap::new();
    for round in 0..rounds {
        let shrinking = (round * 4 / rounds) % 2 == 1;
        let batch: Vec<_> = (0..1 + random.index(4))
            .map(|_| {
                let key = key_of(writer, random.below(6000));
                let put = random.chance(if shrinking { 0.2 } else { 0.8 });
                (key, put.then(|| vec![round as u8; random.index(400)]))
            })
            .collect();
        let writes: Vec<Write<'_>> = batch
            .iter()
            .map(|(key, value)| match value {
                Some(value) => Write::Put { tree: TREE, key, value },
                None => Write::Delete { tree: TREE, key },
            })
            .collect();
        trees.apply(&writes).await.unwrap();
        for (key, value) in batch {
            match value {
                Some(value) => model.insert(key, value),
                None => model.remove(&key),
            };
        }
        let key = key_of(writer, random.below(6000));
        assert_eq!(trees.get(TREE, &key).await.unwrap().as_ref(), model.get(&key), "writer {writer}, seed {seed}");
    }
    model
}

async fn look(trees: Trees, over: Arc<AtomicBool>, seed: u64) {
    let mut random = Random::new(seed);
    while !over.load(Ordering::Relaxed) {
        for _ in 0..100 {
            drop(trees.get(TREE, &key_of(random.below(3), random.below(6000))).await.unwrap());
        }
        let (mut last, mut left) = (None::<Vec<u8>>, 2000);
        let direction = if random.chance(0.5) { Direction::Up } else { Direction::Down };
        let from = key_of(0, random.below(6000));
        let range = match direction {
            Direction::Up => (Bound::Excluded(&from[..]), Bound::Unbounded),
            Direction::Down => (Bound::Unbounded, Bound::Excluded(&from[..])),
        };
        let see = |key: &[u8], _: &[u8]| {
            let rising = last.as_ref().is_none_or(|last| (direction == Direction::Up) == (key > &last[..]));
            assert!(rising, "a scan goes one way, seed {seed}");
            last = Some(key.to_vec());
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        trees.scan(TREE, range, direction, see).await.unwrap();
        tokio::task::yield_now().await;
    }
}

async fn readers_writers_and_scanners(frames: usize, kind: DiskKind, seed: u64) {
    println!("seed {seed}");
    let directory = directory();
    let store = create(directory.path(), frames, kind).await;
    let trees = store.trees.clone();
    let over = Arc::new(AtomicBool::new(false));
    let lookers: Vec<_> = (0..2).map(|number| tokio::spawn(look(trees.clone(), over.clone(), seed + number))).collect();
    let checks = tokio::spawn({
        let (trees, over) = (trees.clone(), over.clone());
        async move {
            while !over.load(Ordering::Relaxed) {
                assert_eq!(trees.check(|_| {}).await.unwrap().findings, [], "live check, seed {seed}");
            }
        }
    });
    let writers: Vec<_> = (0..3).map(|writer| tokio::spawn(write(trees.clone(), writer, 6000, seed * 31 + writer))).collect();
    let mut expected = BTreeMap::new();
    for writer in writers {
        expected.extend(writer.await.unwrap());
    }
    over.store(true, Ordering::Relaxed);
    for looker in lookers {
        looker.await.unwrap();
    }
    checks.await.unwrap();
    let all = trees.range(TREE, (Bound::Unbounded, Bound::Unbounded), Direction::Up, usize::MAX).await.unwrap();
    assert!(all == expected.into_iter().collect::<Vec<_>>(), "contents, seed {seed}");
    let report = trees.check(|_| {}).await.unwrap();
    assert_eq!(report.findings, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_in_a_large_cache() {
    readers_writers_and_scanners(8192, DiskKind::Auto, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn many_threads_in_the_smallest_cache() {
    readers_writers_and_scanners(256, DiskKind::Auto, 2).await;
}
