//! What every figure needs: a runtime, a disk, stores made and crashed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use regroup::base::options::{DiskKind, LogMode, Options};
use regroup::base::threads::ThreadsRuntime;
use regroup::base::{ClusterId, Seams, ThreadId, TreeId};
use regroup::disk::{Access, Buffer, Disk, FileId, open_disk};
use regroup::node::storage::Opening;
use regroup::node::store::Store;
use regroup::page::superblock::Shape;
use regroup::page::volume::StoragePaths;
use regroup::table::Write;
use tokio::runtime::Runtime;

/// Named numbers of one measurement; the first is the figure.
pub(crate) type Numbers = Vec<(&'static str, f64)>;

/// The tree that figures write to.
pub(crate) const TREE: TreeId = TreeId(100);

/// Where figures are measured.
pub(crate) struct Rig {
    root: PathBuf,
    own: bool,
    pub(crate) scale: f64,
}

/// A runtime with its seams; ends with all its tasks.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) seams: Seams,
}

impl World {
    pub(crate) fn new() -> World {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let seams = ThreadsRuntime::start(runtime.handle().clone(), 0).expect("a worker pool");
        World { runtime, seams }
    }
}

impl Rig {
    pub(crate) fn new(dir: Option<&Path>, scale: f64) -> Rig {
        let root = dir.map_or_else(|| std::env::temp_dir().join(format!("regroup-figures-{}", std::process::id())), Path::to_path_buf);
        std::fs::create_dir_all(&root).expect("a folder for storage files");
        Rig { root, own: dir.is_none(), scale }
    }

    /// A number of things, scaled.
    pub(crate) fn scaled(&self, standard: u64) -> u64 {
        ((standard as f64 * self.scale) as u64).max(1)
    }

    /// An empty folder.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let folder = self.root.join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).expect("the folder can be removed");
        }
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        folder
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.own {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }
}

/// The storage files in `folder`.
pub(crate) fn paths(folder: &Path) -> StoragePaths {
    StoragePaths { redo: vec![folder.join("redo.1")], data: vec![folder.join("data.0")] }
}

/// The disk of all figures.
pub(crate) fn disk() -> Arc<dyn Disk> {
    open_disk(DiskKind::Auto).expect("a disk")
}

/// Makes a store in `folder`.
pub(crate) async fn create(seams: &Seams, folder: &Path, ring_bytes: u64) {
    let shape = Shape {
        cluster: ClusterId(*b"figures figures "),
        threads: 1,
        data_files: 1,
        ring_bytes: ring_bytes.next_multiple_of(1 << 20).max(8 << 20),
        data_bytes: 32 << 20,
        grow: true,
        created_ms: 0,
    };
    Store::create(seams.clone(), disk(), &paths(folder), shape).await.expect("a store");
}

/// Options that leave checkpoints to whoever asks for them.
pub(crate) fn options(cache_bytes: u64, log_mode: LogMode) -> Options {
    Options { cache_bytes, log_mode, checkpoint_interval_ms: 3_600_000, checkpoint_log_percent: 80, ..Options::default() }
}

/// Opens the store in `folder`.
pub(crate) async fn open(seams: &Seams, folder: &Path, options: Options) -> Store {
    let opening = Opening {
        seams: seams.clone(),
        disk: disk(),
        paths: paths(folder),
        thread: ThreadId(1),
        options,
        on_progress: None,
        on_checkpoint: None,
    };
    Store::open(opening).await.expect("the store opens")
}

/// Puts rows 0..count of `bytes` bytes, 32 a group.
pub(crate) async fn fill(store: &Store, count: u64, bytes: usize) {
    let rows: Vec<u64> = (0..count).collect();
    for part in rows.chunks(32) {
        apply(store, part, bytes).await;
    }
}

/// Puts rows of `bytes` bytes as one group, without waiting for durability.
pub(crate) async fn apply(store: &Store, rows: &[u64], bytes: usize) {
    let keys: Vec<[u8; 8]> = rows.iter().map(|row| row.to_be_bytes()).collect();
    let value = vec![rows[0] as u8; bytes];
    let writes: Vec<Write<'_>> = keys.iter().map(|key| Write::Put { tree: TREE, key, value: &value }).collect();
    store.trees().apply(&writes).await.expect("rows are put");
}

/// Puts one row and waits until it is acknowledged.
pub(crate) async fn commit(store: &Store, row: u64, bytes: usize) {
    let (key, value) = (row.to_be_bytes(), vec![row as u8; bytes]);
    store.commit(&[Write::Put { tree: TREE, key: &key, value: &value }]).await.expect("committed");
}

/// A cheap sequence of numbers without order.
pub(crate) fn scatter(number: u64) -> u64 {
    regroup::base::random::mix(number)
}

/// Seconds that `work` takes.
pub(crate) fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Reads `bytes` from `offset` on in reads of 1 MiB, eight in flight: the disk's own sequential rate. Returns seconds.
pub(crate) async fn read_sequentially(disk: &Arc<dyn Disk>, file: FileId, offset: u64, bytes: u64) -> f64 {
    let start = Instant::now();
    let mut flying = std::collections::VecDeque::new();
    let mut at = 0;
    while at < bytes || !flying.is_empty() {
        while at < bytes && flying.len() < 8 {
            let length = (bytes - at).min(1 << 20) as usize;
            flying.push_back(disk.read(file, offset + at, Buffer::zeroed(length)));
            at += length as u64;
        }
        if let Some(read) = flying.pop_front() {
            read.await.1.expect("the file can be read");
        }
    }
    start.elapsed().as_secs_f64()
}

/// Reads the 8 KiB at each of `offsets`, 32 in flight. Returns seconds.
pub(crate) async fn read_randomly(disk: &Arc<dyn Disk>, file: FileId, offsets: &[u64]) -> f64 {
    let start = Instant::now();
    let mut flying = std::collections::VecDeque::new();
    let mut next = offsets.iter();
    loop {
        while flying.len() < 32
            && let Some(offset) = next.next()
        {
            flying.push_back(disk.read(file, *offset, Buffer::zeroed(8192)));
        }
        let Some(read) = flying.pop_front() else { break };
        read.await.1.expect("the file can be read");
    }
    start.elapsed().as_secs_f64()
}

/// Opens a file for reading on a disk of its own.
pub(crate) fn open_file(path: &Path) -> (Arc<dyn Disk>, FileId) {
    let disk = disk();
    let file = disk.open(path, Access::Read).expect("the file opens");
    (disk, file)
}
