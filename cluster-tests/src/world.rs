//! A store in the simulator: simulated media, how it is opened, what it holds.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::PathBuf;
use std::sync::Arc;

use regroup::base::options::Options;
use regroup::base::sim::Sim;
use regroup::base::{ClusterId, PageId, Seams, ThreadId, TreeId};
use regroup::cache::wait::Footprint;
use regroup::cache::{CacheError, Halt};
use regroup::disk::Disk;
use regroup::disk::memory::{MemoryDisk, MemoryMedia};
use regroup::node::storage::Opening;
use regroup::node::store::{Store, StoreError};
use regroup::page::superblock::Shape;
use regroup::page::volume::StoragePaths;
use regroup::table::{Direction, TableError};

use crate::model::Contents;

/// The redo file.
pub const REDO: &str = "redo.1";
/// The data file.
pub const DATA: &str = "data.0";
/// The trees that workloads use.
pub const TREES: [u32; 3] = [11, 12, 13];

/// Where the files are.
pub fn paths() -> StoragePaths {
    StoragePaths { redo: vec![PathBuf::from(REDO)], data: vec![PathBuf::from(DATA)] }
}

/// One thread, one data file of `pages` pages, the smallest ring.
pub fn shape(pages: u64, grow: bool) -> Shape {
    let cluster = ClusterId(*b"cluster of tests");
    Shape { cluster, threads: 1, data_files: 1, ring_bytes: 8 << 20, data_bytes: pages * 8192, grow, created_ms: 0 }
}

/// The smallest cache and recovery memory.
pub fn small() -> Options {
    Options { cache_bytes: 2 << 20, recovery_memory_bytes: 16 << 20, ..Options::default() }
}

/// What is needed to open the store on `media`.
pub fn opening(seams: Seams, media: &MemoryMedia, options: &Options) -> Opening {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(media, seams.clone()));
    Opening { seams, disk, paths: paths(), thread: ThreadId(1), options: options.clone(), on_progress: None, on_checkpoint: None }
}

/// Makes a store of that shape with [`TREES`], empty, and closes it.
pub fn create(seed: u64, shape: Shape) -> MemoryMedia {
    let media = MemoryMedia::new(seed);
    let sim = Sim::new(seed);
    sim.run(async {
        let seams = sim.runtime();
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(&media, seams.clone()));
        Store::create(seams.clone(), disk.clone(), &paths(), shape).await.expect("a store can be made");
        drop(disk);
        let store = open(&seams, &media, &small()).await.expect("a new store can be opened");
        for tree in TREES {
            store.trees().create_tree(TreeId(tree)).await.expect("a tree can be made");
        }
        close(store).await.expect("it can be closed");
    });
    media
}

/// Opens the store.
///
/// # Errors
/// As [`Store::open`].
pub async fn open(seams: &Seams, media: &MemoryMedia, options: &Options) -> Result<Arc<Store>, StoreError> {
    Store::open(opening(seams.clone(), media, options)).await.map(Arc::new)
}

/// Closes a store that nobody else has.
///
/// # Errors
/// As [`Store::close`].
pub async fn close(store: Arc<Store>) -> Result<(), StoreError> {
    Arc::into_inner(store).expect("nobody else has the store").close().await
}

/// Everything in [`TREES`], read upwards.
///
/// # Errors
/// The first page that can't be had.
pub async fn contents(store: &Store) -> Result<Contents, TableError> {
    let mut contents = Contents::new();
    for tree in TREES {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let mut last: Option<Vec<u8>> = None;
        let keep = |key: &[u8], value: &[u8]| {
            assert!(last.as_deref().is_none_or(|last| last < key), "tree {tree}: keys out of order");
            last = Some(key.to_vec());
            contents.insert((tree, key.to_vec()), value.to_vec());
            ControlFlow::Continue(())
        };
        store.trees().scan(TreeId(tree), all, Direction::Up, keep).await?;
    }
    Ok(contents)
}

/// Every page that the store has, without its checksum, which is only kept on disk; nothing for one that was never written.
///
/// # Errors
/// A page that can't be had for another reason.
pub async fn pages(store: &Store) -> Result<BTreeMap<u64, Vec<u8>>, CacheError> {
    let cache = store.storage().cache();
    let mut pages = BTreeMap::new();
    for index in 0..cache.volume().pages(0) {
        let page = PageId::new(0, index);
        let bytes: Result<Vec<u8>, Halt> = cache.run(Footprint::Path, || Ok(cache.read(page)?[4..].to_vec())).await;
        match bytes {
            Ok(bytes) => drop(pages.insert(index, bytes)),
            Err(Halt::Failed(CacheError::Page(regroup::page::PageFault::Blank { .. }))) => {}
            Err(Halt::Failed(error)) => return Err(error),
            Err(Halt::Wait(wait)) => unreachable!("an operation ended with {wait:?}"),
        }
    }
    Ok(pages)
}

/// The store's structure is sound and no page is in quarantine.
///
/// # Panics
/// When it isn't, naming what is wrong.
pub async fn sound(store: &Store, what: &str) {
    assert_eq!(store.storage().cache().quarantined(), [], "{what}");
    let report = store.trees().check(|_| {}).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(report.is_sound(), "{what}: {:?}", report.findings);
}
