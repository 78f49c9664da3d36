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
    pub(in crate::table) _checkpointer: Checkpointer,
}

/// A new store on what `open` opens: once to make the files, once to use them.
pub(in crate::table) async fn create(seams: Seams, open: impl Fn() -> Arc<dyn Disk>, plan: Plan) -> Store {
    let thread = ThreadId(1);
    let paths = StoragePaths {
        redo: vec![PathBuf::from("redo1")],
        data: (0..plan.data_files).map(|number| PathBuf::from(format!("data{number}"))).collect(),
    };
    let shape = Shape {
        cluster: ClusterId([7; 16]),
        threads: 1,
        data_files: plan.data_files,
        ring_bytes: 8 << 20,
        data_bytes: plan.data_pages * 8192,
        grow: plan.grow,
        created_ms: 0,
    };
    Volume::create(open(), &paths, shape).await.unwrap();
    let disk = open();
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
    let log = LogWriter::start(seams.clone(), place, plan.mode, Duration::from_millis(100), clock.clone());
    let setup = CacheSetup {
        seams,
        volume: volume.clone(),
        grants: Arc::new(LocalGrants),
        frames: plan.frames,
        io_depth: 32,
        double_write: true,
        clock,
    };
    let cache = Cache::new(setup);
    cache.open_for_changes(log.clone());
    cache.start_page_writer(DoubleWrite::new(disk, file, volume.tag(), thread));
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
    Trees::bootstrap(cache.clone(), thread).await.unwrap();
    let trees = Trees::open(cache.clone(), thread).await.unwrap();
    Store { trees, cache, _checkpointer: checkpointer }
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
