//! A store without recovery: a new cluster on a simulated disk, its log, cache, page writer and checkpointer.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::base::options::LogMode;
use crate::base::sim::Sim;
use crate::base::{ClusterId, Epoch, Incarnation, Seams, ThreadId, Writer};
use crate::cache::checkpoint::{CheckpointSetup, Checkpointer};
use crate::cache::double_write::DoubleWrite;
use crate::cache::{Cache, CacheSetup, LocalGrants};
use crate::disk::memory::{MemoryDisk, MemoryMedia};
use crate::disk::{Access, Disk};
use crate::page::superblock::Shape;
use crate::page::volume::{StoragePaths, Volume};
use crate::redo::LogWriter;
use crate::redo::block::LogIdentity;
use crate::redo::control::{Control, ControlFile, ThreadState};
use crate::redo::forecast::Means;
use crate::redo::writer::LogPlace;
use crate::table::Trees;

/// What a test store is made from.
#[derive(Clone, Copy)]
pub(in crate::table) struct Plan {
    pub(in crate::table) frames: usize,
    pub(in crate::table) data_files: u16,
    pub(in crate::table) data_pages: u64,
    pub(in crate::table) grow: bool,
    pub(in crate::table) mode: LogMode,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { frames: 256, data_files: 1, data_pages: 64, grow: true, mode: LogMode::None }
    }
}

/// The store and what must live as long.
pub(in crate::table) struct Store {
    pub(in crate::table) trees: Trees,
    pub(in crate::table) cache: Cache,
    checkpointer: Checkpointer,
}

/// The files of a store, and what its instances, which are up one after the other, know of it.
pub(in crate::table) struct Files {
    paths: StoragePaths,
    shape: Shape,
    plan: Plan,
    controls: Vec<Control>,
    /// No instance's clock was higher.
    clock: u64,
}

impl Files {
    /// Makes the files of a store with so many redo threads, and its first pages.
    pub(in crate::table) async fn create(seams: Seams, open: impl Fn() -> Arc<dyn Disk>, plan: Plan, threads: u16) -> Files {
        let paths = StoragePaths {
            redo: (1..=threads).map(|thread| PathBuf::from(format!("redo{thread}"))).collect(),
            data: (0..plan.data_files).map(|number| PathBuf::from(format!("data{number}"))).collect(),
        };
        let shape = Shape {
            cluster: ClusterId([7; 16]),
            threads,
            data_files: plan.data_files,
            ring_bytes: 8 << 20,
            data_bytes: plan.data_pages * 8192,
            grow: plan.grow,
            created_ms: 0,
        };
        Volume::create(open(), &paths, shape).await.unwrap();
        let controls = (1..=threads).map(|thread| Control::new(ThreadId(thread))).collect();
        let mut files = Files { paths, shape, plan, controls, clock: 1 };
        let (cache, checkpointer) = files.start(seams, open(), ThreadId(1)).await;
        Trees::bootstrap(cache.clone(), ThreadId(1)).await.unwrap();
        files.stop(cache, checkpointer).await;
        files
    }

    async fn start(&mut self, seams: Seams, disk: Arc<dyn Disk>, thread: ThreadId) -> (Cache, Checkpointer) {
        let volume = Arc::new(Volume::open(disk.clone(), &self.paths, Access::Write(thread)).await.unwrap());
        let file = volume.redo_file(thread).unwrap();
        let mut control = self.controls[usize::from(thread.0) - 1];
        let writer = Writer { thread, incarnation: Incarnation(control.writer.incarnation.0 + 1), epoch: Epoch(1) };
        (control.state, control.writer) = (ThreadState::Open, writer);
        let control_file = ControlFile::new(disk.clone(), file, volume.tag(), thread);
        control_file.write_both(&mut control).await.unwrap();
        let clock = Arc::new(AtomicU64::new(self.clock));
        let place = LogPlace {
            disk: disk.clone(),
            file,
            identity: LogIdentity { cluster: volume.tag(), thread, ring_blocks: self.shape.ring_bytes / 4096 },
            writer,
            checkpoint: control.checkpoint,
            start: control.checkpoint,
            start_crc: control.end_crc,
            fill_percent: 50,
        };
        let log = LogWriter::start(seams.clone(), place, self.plan.mode, Duration::from_millis(100), clock.clone());
        let setup = CacheSetup {
            seams,
            volume: volume.clone(),
            grants: Arc::new(LocalGrants),
            frames: self.plan.frames,
            io_depth: 32,
            double_write: true,
            clock,
        };
        let cache = Cache::new(setup);
        cache.open_for_changes(log.clone());
        let mut area = DoubleWrite::new(disk, file, volume.tag(), thread);
        area.resume().await.unwrap();
        cache.start_page_writer(area);
        let means = Means { log_bytes: 0, part_pages: 1 };
        let checkpointer = Checkpointer::start(CheckpointSetup {
            cache: cache.clone(),
            log,
            file: control_file,
            control,
            interval: Duration::from_secs(5),
            recovery_time_target: None,
            means,
            payload_share: 1.0,
            on_checkpoint: None,
        });
        (cache, checkpointer)
    }

    async fn stop(&mut self, cache: Cache, checkpointer: Checkpointer) {
        checkpointer.checkpoint().await.unwrap();
        cache.stop_page_writer().await;
        let (_, mut control) = checkpointer.stop().await;
        let log = cache.log().unwrap();
        (control.end, control.end_crc) = log.close().await.unwrap();
        assert_eq!(cache.dirty().0, 0, "everything is written");
        control.checkpoint = control.end;
        self.clock = self.clock.max(cache.now().0);
        let at = usize::from(log.writer().thread.0) - 1;
        self.controls[at] = control;
    }

    /// Opens the store for `thread`.
    pub(in crate::table) async fn open(&mut self, seams: Seams, disk: Arc<dyn Disk>, thread: ThreadId) -> Store {
        let (cache, checkpointer) = self.start(seams, disk, thread).await;
        let trees = Trees::open(cache.clone(), thread).await.unwrap();
        Store { trees, cache, checkpointer }
    }

    /// Closes the store: all of it is on disk then.
    pub(in crate::table) async fn close(&mut self, store: Store) {
        self.stop(store.cache, store.checkpointer).await;
    }
}

/// A new store on what `open` opens: once to make the files, once to use them.
pub(in crate::table) async fn create(seams: Seams, open: impl Fn() -> Arc<dyn Disk>, plan: Plan) -> Store {
    let mut files = Files::create(seams.clone(), &open, plan, 1).await;
    files.open(seams, open(), ThreadId(1)).await
}

/// Runs `test` on a new store in a simulation of `seed`.
pub(in crate::table) fn simulate<F: Future<Output = ()>>(seed: u64, plan: Plan, test: impl FnOnce(Arc<Store>) -> F) {
    let sim = Sim::new(seed);
    let media = MemoryMedia::new(seed);
    let open = || Arc::new(MemoryDisk::new(&media, sim.runtime())) as Arc<dyn Disk>;
    sim.run(async {
        let store = create(sim.runtime(), open, plan).await;
        let store = Arc::new(store);
        test(store.clone()).await;
    });
}
