//! The storage core below the trees: groups on raw pages, crashes, reopening.

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::base::random::Random;
use crate::base::sim::Sim;
use crate::base::{ClusterId, PageId, TreeId};
use crate::cache::wait::Footprint;
use crate::cache::{Committed, Halt};
use crate::disk::memory::{MemoryDisk, MemoryMedia};
use crate::page::{Kind, slotted};
use crate::redo::record::Op;

fn paths() -> StoragePaths {
    StoragePaths { redo: vec![PathBuf::from("redo.1")], data: vec![PathBuf::from("data.0")] }
}

fn shape() -> Shape {
    Shape {
        cluster: ClusterId(*b"storage core tst"),
        threads: 1,
        data_files: 1,
        ring_bytes: 8 << 20,
        data_bytes: 1000 * 8192,
        grow: false,
        created_ms: 0,
    }
}

fn opening(seams: Seams, media: &MemoryMedia) -> Opening {
    Opening {
        disk: Arc::new(MemoryDisk::new(media, seams.clone())),
        seams,
        paths: paths(),
        thread: ThreadId(1),
        options: Options { cache_bytes: 2 << 20, checkpoint_interval_ms: 50, ..Options::default() },
        on_progress: None,
        on_checkpoint: None,
    }
}

/// Puts `value` under `key` into a page, which is formatted first when it is new.
async fn put(cache: &Cache, page: PageId, new: bool, key: &[u8], value: &[u8]) -> Committed {
    let outcome: Result<Committed, Halt> = cache
        .run(Footprint::Group, || {
            let mut group = cache.begin(20_000)?;
            if new {
                group.latch_fresh(page)?;
                let mut body = vec![0; PAGE_SIZE];
                slotted::init(&mut body, 0);
                let (low, heap) = slotted::live_parts(&body);
                group.apply(page, Op::Format { kind: Kind::Tree, tree: TreeId(7), low, heap })?;
            }
            group.latch(page)?;
            match slotted::search(group.page(page), key) {
                Ok(slot) => group.apply(page, Op::SetValue { slot: slot as u16, value })?,
                Err(slot) => group.apply(page, Op::Insert { slot: slot as u16, key, value })?,
            }
            group.commit()
        })
        .await;
    outcome.unwrap()
}

#[test]
fn what_was_committed_is_there_after_closing_and_after_a_crash() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let media = MemoryMedia::new(seed);
        let seams = sim.runtime();
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(&media, seams.clone()));
        sim.run(async { create(disk, &paths(), shape()).await.unwrap() });
        sim.kill_all();
        let mut model = std::collections::BTreeMap::new();
        let mut random = Random::new(seed);
        for life in 0..6u32 {
            let seams = sim.runtime();
            let closed = random.chance(0.3);
            sim.run(async {
                let storage = Storage::open(opening(seams.clone(), &media)).await.unwrap();
                assert_eq!(storage.cache().quarantined().len(), 0);
                for (page, version) in &model {
                    let bytes = read(storage.cache(), PageId::new(0, *page)).await;
                    assert_eq!(&bytes, version, "seed {seed} life {life} page {page}");
                }
                for _ in 0..100 {
                    let page = 1 + random.below(600);
                    let key = random.below(20).to_be_bytes();
                    let value = vec![random.below(256) as u8; random.below(200) as usize];
                    let done = put(storage.cache(), PageId::new(0, page), !model.contains_key(&page), &key, &value).await;
                    storage.committed(done.end).await.unwrap();
                    model.insert(page, read(storage.cache(), PageId::new(0, page)).await);
                }
                if closed {
                    storage.close().await.unwrap();
                } else {
                    seams.sleep(Duration::from_micros(random.below(100))).await;
                }
            });
            media.crash(seed * 100 + u64::from(life));
            sim.kill_all();
        }
    }
}

/// The page without its checksum, which is only kept on disk.
async fn read(cache: &Cache, page: PageId) -> Vec<u8> {
    let bytes: Result<Vec<u8>, Halt> = cache.run(Footprint::Path, || Ok(cache.read(page)?[4..].to_vec())).await;
    bytes.unwrap()
}
