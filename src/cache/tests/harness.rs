//! Instances over one simulated disk: a redo thread, a cache, a page writer and a checkpointer each.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::directory::{Directory, Seat};
use crate::base::limits::PAGE_SIZE;
use crate::base::options::LogMode;
use crate::base::sim::Sim;
use crate::base::{ClusterId, Epoch, Incarnation, PageId, Scn, ThreadId, TreeId, Writer};
use crate::cache::checkpoint::{CheckpointSetup, Checkpointer};
use crate::cache::double_write::DoubleWrite;
use crate::cache::wait::Footprint;
use crate::cache::{Cache, CacheSetup, Committed, Grants, Halt};
use crate::disk::memory::{MemoryDisk, MemoryMedia};
use crate::disk::{Access, Disk};
use crate::page::header::{self, Kind};
use crate::page::slotted;
use crate::page::superblock::Shape;
use crate::page::volume::{StoragePaths, Volume};
use crate::redo::LogWriter;
use crate::redo::apply::image;
use crate::redo::block::LogIdentity;
use crate::redo::control::{Control, ControlFile, ThreadState};
use crate::redo::forecast::Means;
use crate::redo::record::Op;
use crate::redo::writer::LogPlace;

/// A new store.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) instances: u16,
    pub(super) frames: usize,
    pub(super) pages: u64,
}

/// What lives as long as the simulation.
pub(super) struct Instance {
    pub(super) cache: Cache,
    pub(super) log: LogWriter,
    pub(super) checkpointer: Checkpointer,
    pub(super) disk: u32,
}

/// The instances and what is between them.
pub(super) struct Cluster {
    pub(super) instances: Vec<Instance>,
    pub(super) directory: Arc<Directory>,
}

fn shape(plan: Plan) -> (StoragePaths, Shape) {
    let paths = StoragePaths {
        redo: (1..=plan.instances).map(|number| PathBuf::from(format!("redo{number}"))).collect(),
        data: vec![PathBuf::from("data0")],
    };
    let shape = Shape {
        cluster: ClusterId([7; 16]),
        threads: plan.instances,
        data_files: 1,
        ring_bytes: 8 << 20,
        data_bytes: plan.pages.max(64) * PAGE_SIZE as u64,
        grow: false,
        created_ms: 0,
    };
    (paths, shape)
}

impl Cluster {
    pub(super) async fn create(sim: &Sim, media: &MemoryMedia, plan: Plan) -> Cluster {
        make_files(sim, media, plan).await;
        let directory = Directory::new(sim.runtime());
        let mut instances = Vec::new();
        for thread in 1..=plan.instances {
            let seat = Seat { directory: directory.clone(), me: usize::from(thread) - 1 };
            instances.push(open(sim, media, ThreadId(thread), plan, Arc::new(seat)).await);
        }
        let caches = instances.iter().map(|instance| instance.cache.clone()).collect();
        assert!(directory.caches.set(caches).is_ok());
        Cluster { instances, directory }
    }

    pub(super) fn cache(&self, instance: usize) -> &Cache {
        &self.instances[instance].cache
    }
}

/// Makes the storage files.
pub(super) async fn make_files(sim: &Sim, media: &MemoryMedia, plan: Plan) {
    let (paths, shape) = shape(plan);
    Volume::create(Arc::new(MemoryDisk::new(media, sim.runtime())), &paths, shape).await.unwrap();
}

/// Opens the instance that writes `thread`.
pub(super) async fn open(sim: &Sim, media: &MemoryMedia, thread: ThreadId, plan: Plan, grants: Arc<dyn Grants>) -> Instance {
    let (paths, shape) = shape(plan);
    let seams = sim.process(&format!("i{}", thread.0)).seams();
    let disk = Arc::new(MemoryDisk::new(media, seams.clone()));
    let number = disk.number();
    let disk: Arc<dyn Disk> = disk;
    let volume = Arc::new(Volume::open(disk.clone(), &paths, Access::Write(thread)).await.unwrap());
    let file = volume.redo_file(thread).unwrap();
    let writer = Writer { thread, incarnation: Incarnation(1), epoch: Epoch(1) };
    let mut control = Control { state: ThreadState::Open, writer, ..Control::new(thread) };
    let control_file = ControlFile::new(disk.clone(), file, volume.tag(), thread);
    control_file.write_both(&mut control).await.unwrap();
    let clock = Arc::new(AtomicU64::new(1));
    let place = LogPlace {
        disk: disk.clone(),
        file,
        identity: LogIdentity { cluster: volume.tag(), thread, ring_blocks: shape.ring_bytes / 4096 },
        writer,
        checkpoint: control.checkpoint,
        start: control.checkpoint,
        start_crc: 0,
        fill_percent: 50,
    };
    let log = LogWriter::start(seams.clone(), place, LogMode::None, Duration::from_millis(100), clock.clone());
    let cache =
        Cache::with(CacheSetup { seams, volume: volume.clone(), grants, frames: plan.frames, io_depth: 8, double_write: true, clock });
    cache.open_for_changes(log.clone());
    cache.start_page_writer(DoubleWrite::new(disk, file, volume.tag(), thread));
    let checkpointer = Checkpointer::start(CheckpointSetup {
        cache: cache.clone(),
        log: log.clone(),
        file: control_file,
        control,
        interval: Duration::from_secs(1800),
        recovery_time_target: None,
        means: Means { log_bytes: 0, part_pages: 1 },
        payload_share: 1.0,
        on_checkpoint: None,
    });
    Instance { cache, log, checkpointer, disk: number }
}

/// Makes `page` one with a counter that stands at 0.
pub(super) async fn make(cache: &Cache, page: PageId) -> Committed {
    let mut empty = vec![0; PAGE_SIZE];
    header::format(&mut empty, page, Kind::Undo, TreeId(1), cache.volume().tag());
    slotted::init(&mut empty, 0);
    slotted::insert(&mut empty, 0, b"counter", &0u64.to_le_bytes()).unwrap();
    let (low, heap) = image(&empty);
    let once = || -> Result<Committed, Halt> {
        let mut group = cache.begin(PAGE_SIZE)?;
        group.latch_fresh(page)?;
        group.apply(page, Op::Format { kind: Kind::Undo, tree: TreeId(1), low, heap })?;
        group.commit()
    };
    cache.run(Footprint::Path, once).await.unwrap()
}

/// The counter of a page.
pub(super) fn counter(page: &[u8]) -> u64 {
    u64::from_le_bytes(slotted::value(page, 0).try_into().unwrap())
}

/// Adds one to the counters of `pages`, which it latches in that order. `done` is told in the moment of the commit.
pub(super) async fn add(cache: &Cache, pages: &[PageId], done: impl Fn(Committed)) -> Committed {
    let once = || -> Result<Committed, Halt> {
        let mut group = cache.begin(1024)?;
        for page in pages {
            group.latch(*page)?;
        }
        for page in pages {
            let next = counter(group.page(*page)) + 1;
            group.apply(*page, Op::Patch { slot: 0, at: 0, bytes: &next.to_le_bytes() })?;
        }
        let committed = group.commit()?;
        done(committed);
        Ok(committed)
    };
    cache.run(Footprint::Path, once).await.unwrap()
}

/// The counter of `page` and its version, read through `cache`.
pub(super) async fn read(cache: &Cache, page: PageId) -> (u64, Scn) {
    let once = || -> Result<(u64, Scn), Halt> {
        let bytes = cache.read(page)?;
        Ok((counter(&bytes), header::of(&bytes).version()))
    };
    cache.run(Footprint::Path, once).await.unwrap()
}
