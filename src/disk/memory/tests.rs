//! Tests of the simulated disk as a whole: what crashes may and may not take, every kind of fault, locks, recordings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::base::ThreadId;
use crate::base::runtime::join_all;
use crate::base::sim::Sim;
use crate::base::threads::ThreadsRuntime;

const FILE: &str = "data.0";
const T1: ThreadId = ThreadId(1);
const T2: ThreadId = ThreadId(2);

fn page(fill: u8) -> Buffer {
    Buffer::copy_of(&[fill; 8192])
}

/// A simulation, media and a disk in its main process with [`FILE`] of 64 pages open.
struct Bench {
    sim: Sim,
    media: MemoryMedia,
    disk: Arc<MemoryDisk>,
    file: FileId,
}

impl Bench {
    fn new(seed: u64) -> Bench {
        let sim = Sim::new(seed);
        let media = MemoryMedia::new(seed);
        let disk = Arc::new(MemoryDisk::new(&media, sim.runtime()));
        let file = disk.open(Path::new(FILE), Access::Create(T1, 64 * 8192)).unwrap();
        Bench { sim, media, disk, file }
    }

    fn write(&self, page_number: u64, fill: u8, durability: Durability) -> Result<(), DiskError> {
        self.sim.run(self.disk.write(self.file, page_number * 8192, page(fill), durability)).1
    }

    fn read(&self, page_number: u64) -> Result<Vec<u8>, DiskError> {
        let (buffer, result) = self.sim.run(self.disk.read(self.file, page_number * 8192, Buffer::zeroed(8192)));
        result.map(|()| buffer.to_vec())
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.sim.run(self.disk.sync(self.file))
    }

    fn first_byte(&self, page_number: u64) -> u8 {
        self.media.peek(FILE, page_number * 8192, 1)[0]
    }
}

#[test]
fn what_was_written_is_read() {
    let bench = Bench::new(1);
    assert_eq!(bench.disk.kind(), "memory");
    assert_eq!(bench.disk.length(bench.file), Ok(64 * 8192));
    assert_eq!(bench.disk.path(bench.file), Path::new(FILE));
    assert!(bench.read(3).unwrap().iter().all(|&byte| byte == 0));
    for durability in [Durability::Buffered, Durability::Durable] {
        bench.write(3, 7 + durability as u8, durability).unwrap();
        assert_eq!(bench.read(3).unwrap(), vec![7 + durability as u8; 8192]);
    }
    let before = bench.sim.now();
    bench.sync().unwrap();
    assert!(bench.sim.now() > before, "I/O takes time");
}

#[test]
fn what_cannot_be_done_is_said() {
    let bench = Bench::new(1);
    let sim = &bench.sim;
    assert!(matches!(bench.read(64), Err(DiskError::Short { end, .. }) if end == 64 * 8192));
    assert!(matches!(bench.write(64, 1, Durability::Durable), Err(DiskError::Io { errno: EINVAL, .. })));
    let far = sim.run(bench.disk.write(bench.file, u64::MAX - 511, page(1), Durability::Durable)).1;
    assert!(matches!(far, Err(DiskError::Io { errno: EINVAL, .. })));
    let open = |path: &str, access| bench.disk.open(Path::new(path), access);
    assert!(matches!(open("other", Access::Write(T1)), Err(DiskError::Open { errno: ENOENT, .. })));
    assert!(matches!(open(FILE, Access::Create(T2, 8192)), Err(DiskError::Open { errno: EEXIST, .. })));
    let reader = open(FILE, Access::Read).unwrap();
    let refused = sim.run(bench.disk.write(reader, 0, page(1), Durability::Durable)).1;
    assert!(matches!(refused, Err(DiskError::Io { errno: EBADF, .. })));
    assert_eq!(bench.first_byte(0), 0);
}

#[test]
#[should_panic(expected = "not aligned")]
fn an_unaligned_offset_is_our_own_mistake() {
    let bench = Bench::new(1);
    drop(bench.disk.read(bench.file, 100, Buffer::zeroed(512)));
}

#[test]
#[should_panic(expected = "not aligned")]
fn an_unaligned_length_is_our_own_mistake() {
    let bench = Bench::new(1);
    drop(bench.disk.write(bench.file, 512, Buffer::zeroed(100), Durability::Durable));
}

/// Random I/O of several tasks: all kinds, faults by chance, marks. Ends after `rounds` operations of each task.
async fn churn(media: MemoryMedia, disk: Arc<MemoryDisk>, file: FileId, seams: Seams, rounds: u64) {
    let mut tasks: Vec<BoxFuture<()>> = Vec::new();
    for task in 0..4u64 {
        let (disk, media) = (disk.clone(), media.clone());
        let mut random = Random::new(seams.random());
        tasks.push(Box::pin(async move {
            for round in 0..rounds {
                let offset = random.below(60) * 8192 + random.below(4) * 512;
                match random.below(10) {
                    0 => drop(disk.sync(file).await),
                    1..=2 => drop(disk.read(file, offset, Buffer::zeroed(8192)).await),
                    3 => drop(disk.grow(file, (64 + random.below(8)) * 8192).await),
                    kind => {
                        let mut buffer = Buffer::zeroed(512 * random.within(1..20) as usize);
                        random.bytes(&mut buffer);
                        let durability = if kind < 6 { Durability::Durable } else { Durability::Buffered };
                        let (_, result) = disk.write(file, offset, buffer, durability).await;
                        if result.is_ok() {
                            media.mark(task * 1000 + round);
                        }
                    }
                }
            }
        }));
    }
    join_all(tasks).await;
}

fn with_all_faults(media: &MemoryMedia) {
    use FaultKind as K;
    let kinds =
        [K::ReadError, K::WriteError, K::Full, K::ShortWrite, K::SyncError, K::GrowError, K::LostWrite, K::MisdirectedWrite, K::Slow(30)];
    for kind in kinds {
        // Rarer operations are struck more often.
        let chance = if matches!(kind, K::ReadError | K::SyncError | K::GrowError) { 0.2 } else { 0.04 };
        media.inject(Fault::new(kind).chance(chance).forever());
    }
}

#[test]
fn the_same_seed_gives_the_same_media_and_others_differ() {
    let run = |seed| {
        let bench = Bench::new(seed);
        with_all_faults(&bench.media);
        bench.sim.run(churn(bench.media.clone(), bench.disk.clone(), bench.file, bench.sim.runtime(), 100));
        bench.media.crash(seed);
        (bench.sim.trace_hash(), bench.media.trace_hash(), bench.media.digest(FILE), bench.media.counters())
    };
    let first = run(1);
    assert_eq!(first, run(1));
    for seed in 2..10 {
        let other = run(seed);
        assert!(other.0 != first.0 && other.1 != first.1 && other.2 != first.2);
    }
    let Counters { read_errors, write_errors, full, short_writes, sync_errors, grow_errors, lost_writes, misdirected_writes, slow, .. } =
        first.3;
    let strikes = [read_errors, write_errors, full, short_writes, sync_errors, grow_errors, lost_writes, misdirected_writes, slow];
    assert!(strikes.iter().all(|&count| count > 0), "every kind of fault is reached: {strikes:?}");
}

#[test]
fn io_overlaps_and_completes_in_any_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..60 {
        let bench = Bench::new(seed);
        let order = Arc::new(Mutex::new(Vec::new()));
        let writes = (0..3u8).map(|number| {
            let write = bench.disk.write(bench.file, u64::from(number) * 8192, page(1), Durability::Durable);
            let order = order.clone();
            Box::pin(async move {
                write.await.1.unwrap();
                order.lock().push(number);
            }) as BoxFuture<()>
        });
        bench.sim.run(join_all(writes.collect()));
        orders.insert(order.lock().clone());
    }
    assert_eq!(orders.len(), 6);
}

#[test]
fn dropping_a_future_does_not_cancel_its_io() {
    let bench = Bench::new(4);
    drop(bench.disk.write(bench.file, 0, page(9), Durability::Durable));
    bench.sim.run(bench.sim.runtime().sleep(Duration::from_millis(20)));
    assert_eq!(bench.first_byte(0), 9);
}

/// What each sector may hold: versions are written to a sector one after another, never two at once.
#[derive(Default)]
struct Model {
    /// By sector: versions submitted so far, and the newest one known durable.
    sectors: BTreeMap<u64, (u32, u32)>,
}

/// Writes versions to sectors of its own, keeping the model; `lane` owns pages `lane`, `lane + 4`, ...
async fn versions(disk: Arc<MemoryDisk>, file: FileId, model: Arc<Mutex<Model>>, lane: u64, mut random: Random) {
    loop {
        let first = (random.below(8) * 4 + lane) * 16;
        let start = first + random.below(15);
        let count = random.within(1..17 - (start - first));
        let mut buffer = Buffer::zeroed(512 * count as usize);
        let mut written = Vec::new();
        for (sector, bytes) in (start..).zip(buffer.chunks_mut(512)) {
            let mut model = model.lock();
            let entry = model.sectors.entry(sector).or_default();
            entry.0 += 1;
            written.push((sector, entry.0));
            bytes.chunks_mut(4).for_each(|word| word.copy_from_slice(&entry.0.to_le_bytes()));
        }
        let durability = if random.chance(0.4) { Durability::Durable } else { Durability::Buffered };
        disk.write(file, start * 512, buffer, durability).await.1.unwrap();
        if durability == Durability::Buffered {
            if random.chance(0.7) {
                continue;
            }
            // All of this lane's versions have completed, none is in flight: the sync covers them.
            written = model.lock().sectors.iter().filter(|(sector, _)| *sector / 16 % 4 == lane).map(|(&s, &(top, _))| (s, top)).collect();
            disk.sync(file).await.unwrap();
        }
        written.into_iter().for_each(|(sector, version)| model.lock().sectors.entry(sector).or_default().1 = version);
    }
}

#[test]
fn a_crash_never_takes_what_is_durable_and_never_makes_up_anything() {
    let mut outcomes = Outcomes::default();
    let (mut at_floor, mut newer) = (0, 0);
    for seed in 0..400 {
        let bench = Bench::new(seed);
        let model = Arc::new(Mutex::new(Model::default()));
        for lane in 0..4 {
            let task = versions(bench.disk.clone(), bench.file, model.clone(), lane, Random::new(seed * 4 + lane));
            bench.sim.runtime().spawn("lane", Box::pin(task));
        }
        let stop_at = 20 + Random::new(seed).below(300);
        assert!(bench.sim.run_until(std::future::pending::<()>(), |_| bench.media.event_count() >= stop_at).is_none());
        // The power fails; or the process dies first and the power fails before its I/O has drained; or only the process dies.
        match seed % 4 {
            0..=1 => {
                bench.media.crash(seed);
                bench.sim.kill_all();
            }
            2 => {
                bench.sim.kill_all();
                bench.media.crash(seed);
            }
            _ => {
                bench.sim.kill_all();
                bench.media.settle(seed);
            }
        }
        assert!(bench.disk.is_dead());
        let digest = bench.media.digest(FILE);
        // Nothing of the dead goes on.
        bench.sim.run(bench.sim.runtime().sleep(Duration::from_millis(50)));
        assert_eq!(bench.media.digest(FILE), digest);
        MemoryDisk::new(&bench.media, bench.sim.runtime()).open(Path::new(FILE), Access::Write(T1)).unwrap();
        for (&sector, &(newest, durable)) in &model.lock().sectors {
            let bytes = bench.media.peek(FILE, sector * 512, 512);
            let version = u32::from_le_bytes(bytes[..4].try_into().unwrap());
            assert!(bytes.chunks(4).all(|word| word == &bytes[..4]), "seed {seed}: sector {sector} is torn");
            assert!((durable..=newest).contains(&version), "seed {seed}: sector {sector} holds {version}, not {durable} to {newest}");
            if durable < newest {
                *(if version == durable { &mut at_floor } else { &mut newer }) += 1;
            }
        }
        let found = bench.media.outcomes();
        outcomes.kept += found.kept;
        outcomes.lost += found.lost;
        outcomes.torn_prefix += found.torn_prefix;
        outcomes.torn_sectors += found.torn_sectors;
    }
    assert!(outcomes.kept > 500 && outcomes.lost > 500 && outcomes.torn_prefix > 100 && outcomes.torn_sectors > 100, "{outcomes:?}");
    assert!(at_floor > 1000 && newer > 1000, "both are common: {at_floor} lost, {newer} kept");
}

#[test]
fn a_crash_keeps_every_subset_of_three_writes() {
    let mut seen = BTreeSet::new();
    for seed in 0..300 {
        let bench = Bench::new(seed);
        (0..3).for_each(|number| bench.write(number, 1, Durability::Buffered).unwrap());
        bench.media.crash(seed);
        let pages: Vec<Vec<u8>> = (0..3).map(|number| bench.media.peek(FILE, number * 8192, 8192)).collect();
        if pages.iter().all(|page| page.iter().all(|byte| *byte == page[0])) {
            seen.insert(pages.iter().map(|page| page[0]).collect::<Vec<u8>>());
        }
    }
    assert_eq!(seen.len(), 8, "{seen:?}");
}

#[test]
fn a_synced_write_is_durable_and_an_older_one_below_a_durable_one_stays_below() {
    for seed in 0..100 {
        let bench = Bench::new(seed);
        bench.write(0, 1, Durability::Buffered).unwrap();
        bench.sync().unwrap();
        bench.write(1, 1, Durability::Buffered).unwrap();
        bench.write(1, 2, Durability::Durable).unwrap();
        bench.media.crash(seed);
        assert_eq!(bench.media.peek(FILE, 0, 8192), [1; 8192]);
        assert_eq!(bench.media.peek(FILE, 8192, 8192), [2; 8192]);
    }
}

#[test]
fn a_sync_does_not_cover_writes_that_complete_after_its_call() {
    let mut lost = 0;
    for seed in 0..200 {
        let bench = Bench::new(seed);
        let sync = bench.disk.sync(bench.file);
        let write = bench.disk.write(bench.file, 0, page(1), Durability::Buffered);
        bench.sim.run(async {
            sync.await.unwrap();
            write.await.1.unwrap();
        });
        bench.media.crash(seed);
        lost += u32::from(bench.first_byte(0) == 0);
    }
    assert!(lost > 50, "{lost}");
}

#[test]
fn atomic_writes_are_not_torn() {
    let mut torn = 0;
    for seed in 0..200 {
        let bench = Bench::new(seed);
        bench.media.set_atomic_write(16384);
        assert_eq!(bench.disk.atomic_write_max(bench.file), 16384);
        bench.write(2, 1, Durability::Buffered).unwrap();
        let unaligned = bench.disk.write(bench.file, 4 * 8192 + 4096, page(1), Durability::Buffered);
        bench.sim.run(unaligned).1.unwrap();
        bench.media.crash(seed);
        let found = bench.media.peek(FILE, 2 * 8192, 8192);
        assert!(found.iter().all(|&byte| byte == found[0]));
        let found = bench.media.peek(FILE, 4 * 8192 + 4096, 8192);
        torn += u32::from(found.iter().any(|&byte| byte != found[0]));
    }
    assert!(torn > 10, "a write that isn't naturally aligned may tear: {torn}");
}

#[test]
fn after_a_crash_old_io_never_completes_and_new_disks_work() {
    let bench = Bench::new(9);
    let write = bench.disk.write(bench.file, 0, page(1), Durability::Durable);
    bench.media.crash(1);
    let before = bench.media.digest(FILE);
    let seams = bench.sim.runtime();
    let ended = bench.sim.run(async {
        tokio::select! { biased;
            _ = write => true,
            _ = bench.disk.read(bench.file, 0, Buffer::zeroed(512)) => true,
            _ = bench.disk.sync(bench.file) => true,
            () = seams.sleep(Duration::from_secs(10)) => false,
        }
    });
    assert!(!ended);
    assert_eq!(bench.media.digest(FILE), before, "nothing lands after the crash");
    assert!(matches!(bench.disk.open(Path::new(FILE), Access::Read), Err(DiskError::Stopped { .. })));
    let disk = MemoryDisk::new(&bench.media, seams);
    let file = disk.open(Path::new(FILE), Access::Write(T1)).unwrap();
    bench.sim.run(disk.write(file, 0, page(5), Durability::Durable)).1.unwrap();
    assert_eq!(bench.first_byte(0), 5);
}

#[test]
fn scripted_faults_strike_where_and_as_often_as_told() {
    let bench = Bench::new(5);
    let media = &bench.media;
    media.inject(Fault::new(FaultKind::ReadError));
    assert!(matches!(bench.read(0), Err(DiskError::Io { operation: "read", errno: EIO, .. })));
    bench.read(0).unwrap();
    // A range, without end.
    media.inject(Fault::new(FaultKind::WriteError).range(8192..8193).forever());
    for _ in 0..3 {
        assert!(matches!(bench.write(1, 1, Durability::Durable), Err(DiskError::Io { operation: "write", errno: EIO, .. })));
        bench.write(0, 1, Durability::Durable).unwrap();
        bench.write(2, 1, Durability::Durable).unwrap();
    }
    media.clear_faults();
    bench.write(1, 1, Durability::Durable).unwrap();
    // The n-th I/O.
    media.inject(Fault::new(FaultKind::Full).from_io(media.io_count() + 2));
    bench.write(4, 1, Durability::Durable).unwrap();
    bench.write(4, 2, Durability::Durable).unwrap();
    assert!(bench.write(4, 3, Durability::Durable).unwrap_err().is_full());
    assert_eq!(bench.first_byte(4), 2, "nothing lands without room");
    bench.write(4, 4, Durability::Durable).unwrap();
    // Another file's faults don't concern this one.
    media.inject(Fault::new(FaultKind::ReadError).file("elsewhere").forever());
    bench.read(0).unwrap();
    let counters = media.counters();
    assert_eq!((counters.read_errors, counters.write_errors, counters.full), (1, 3, 1));
}

#[test]
fn a_short_write_lands_in_part_and_is_not_durable() {
    let mut landed = BTreeSet::new();
    for seed in 0..100 {
        let bench = Bench::new(seed);
        bench.media.inject(Fault::new(FaultKind::ShortWrite));
        assert!(bench.write(0, 1, Durability::Durable).is_err());
        let found = bench.media.peek(FILE, 0, 8192);
        let count = found.iter().filter(|&&byte| byte == 1).count();
        assert!(found[..count].iter().all(|&byte| byte == 1) && count % 512 == 0 && count < 8192);
        landed.insert(count);
    }
    assert!(landed.len() > 10, "{landed:?}");
}

#[test]
fn a_failed_sync_loses_writes_silently_and_later_ones_do_not_bring_them_back() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..100 {
        let bench = Bench::new(seed);
        bench.write(0, 1, Durability::Buffered).unwrap();
        bench.media.inject(Fault::new(FaultKind::SyncError));
        assert!(matches!(bench.sync(), Err(DiskError::Io { operation: "sync", errno: EIO, .. })));
        assert_eq!(bench.read(0).unwrap()[0], 1, "reads go on to see it");
        bench.sync().unwrap();
        bench.media.crash(seed);
        *(if bench.first_byte(0) == 1 { &mut kept } else { &mut lost }) += 1;
        let outcomes = bench.media.outcomes();
        assert_eq!(outcomes.sync_kept + outcomes.sync_lost, 1);
    }
    assert!(kept > 25 && lost > 25, "{kept} {lost}");
}

#[test]
fn lost_and_misdirected_writes_are_acknowledged() {
    for seed in 0..50 {
        let bench = Bench::new(seed);
        bench.media.inject(Fault::new(FaultKind::LostWrite));
        bench.write(0, 1, Durability::Durable).unwrap();
        assert_eq!(bench.read(0).unwrap()[0], 0);
        bench.media.inject(Fault::new(FaultKind::MisdirectedWrite));
        bench.write(0, 1, Durability::Durable).unwrap();
        assert_eq!(bench.first_byte(0), 0);
        let hit: Vec<u64> = (0..64).filter(|&number| bench.media.peek(FILE, number * 8192, 8192) == [1; 8192]).collect();
        assert_eq!(hit.len(), 1);
        assert_eq!((bench.media.counters().lost_writes, bench.media.counters().misdirected_writes), (1, 1));
    }
}

#[test]
fn a_failed_write_lands_or_not() {
    let mut found = BTreeSet::new();
    for seed in 0..200 {
        let bench = Bench::new(seed);
        bench.media.inject(Fault::new(FaultKind::WriteError));
        assert!(bench.write(0, 1, Durability::Durable).is_err());
        let count = bench.media.peek(FILE, 0, 8192).iter().filter(|&&byte| byte == 1).count();
        found.insert(if count == 0 {
            "none"
        } else if count == 8192 {
            "all"
        } else {
            "part"
        });
    }
    assert_eq!(found.len(), 3);
}

#[test]
fn slow_io_is_slow_for_its_time() {
    let bench = Bench::new(3);
    let timed = |bench: &Bench| {
        let before = bench.sim.now();
        bench.read(0).unwrap();
        bench.sim.now().since(before)
    };
    assert!(timed(&bench) < Duration::from_millis(3));
    let until = bench.sim.now() + Duration::from_millis(1);
    bench.media.inject(Fault::new(FaultKind::Slow(1000)).on(Operation::Read).until(until).forever());
    assert!(timed(&bench) >= Duration::from_millis(20));
    assert!(timed(&bench) < Duration::from_millis(3));
    assert_eq!(bench.media.counters().slow, 1);
}

#[test]
fn stalled_io_waits_for_the_end_of_the_stall() {
    let bench = Bench::new(4);
    let other = MemoryDisk::new(&bench.media, bench.sim.runtime());
    let file = other.open(Path::new(FILE), Access::Read).unwrap();
    let until = bench.sim.now() + Duration::from_secs(5);
    bench.media.inject(Fault::new(FaultKind::Stall).disk(bench.disk.number()).until(until).forever());
    bench.sim.run(async { other.read(file, 0, Buffer::zeroed(8192)).await.1 }).unwrap();
    assert!(bench.sim.now() < until, "another disk's I/O goes on");
    bench.read(0).unwrap();
    assert!(bench.sim.now() >= until);
    let after = bench.sim.now();
    bench.read(0).unwrap();
    assert!(bench.sim.now().since(after) < Duration::from_millis(3));
    assert_eq!(bench.media.counters().stalls, 1);
}

#[test]
fn room_is_limited() {
    let bench = Bench::new(3);
    bench.media.set_capacity(100 * 8192);
    let create = |path: &str, pages: u64| bench.disk.open(Path::new(path), Access::Create(T1, pages * 8192));
    assert!(create("big", 37).unwrap_err().is_full());
    assert_eq!(bench.media.paths(), [Path::new(FILE)], "nothing is left of it");
    create("small", 20).unwrap();
    let grow = |pages: u64| bench.sim.run(bench.disk.grow(bench.file, pages * 8192));
    assert!(grow(81).unwrap_err().is_full());
    assert_eq!(bench.disk.length(bench.file), Ok(64 * 8192));
    grow(80).unwrap();
    grow(10).unwrap();
    assert_eq!(bench.media.file_length(FILE), Some(80 * 8192));
    bench.media.crash(1);
    assert_eq!(bench.media.file_length(FILE), Some(80 * 8192), "growth is durable");
    assert_eq!(bench.media.counters().full, 2);
}

#[test]
fn a_flip_changes_one_bit_for_good() {
    let bench = Bench::new(3);
    bench.write(0, 0, Durability::Durable).unwrap();
    bench.media.flip(FILE, 100, 3);
    bench.media.crash(1);
    let found = bench.media.peek(FILE, 0, 8192);
    assert_eq!((found[100], found.iter().map(|byte| byte.count_ones()).sum::<u32>()), (8, 1));
    assert_eq!(bench.media.counters().flips, 1);
    bench.media.truncate(FILE, 512);
    assert_eq!(bench.media.file_length(FILE), Some(512));
}

#[test]
fn a_read_beside_a_write_sees_sectors_old_or_new() {
    let (mut patterns, mut mixed) = (BTreeSet::new(), 0);
    for seed in 0..50 {
        let bench = Bench::new(seed);
        bench.write(0, 1, Durability::Durable).unwrap();
        let write = bench.disk.write(bench.file, 0, page(2), Durability::Durable);
        let read = bench.disk.read(bench.file, 0, Buffer::zeroed(8192));
        let (buffer, _) = bench.sim.run(async {
            let (buffer, result) = read.await;
            result.unwrap();
            (buffer, write.await)
        });
        let sectors: Vec<u8> = buffer.chunks(512).map(|sector| sector[0]).collect();
        assert!(buffer.chunks(512).all(|sector| sector.iter().all(|&byte| byte == sector[0] && (1..=2).contains(&byte))));
        patterns.insert(sectors);
        mixed += bench.media.counters().mixed_reads;
    }
    assert!(patterns.len() > 10 && mixed > 10);
}

#[test]
fn in_use_locks_are_per_instance_and_end_with_the_io() {
    let bench = Bench::new(6);
    let open = |disk: &MemoryDisk, instance| disk.open(Path::new(FILE), Access::Write(instance));
    let process = bench.sim.process("second");
    let second = MemoryDisk::new(&bench.media, process.seams());
    assert!(matches!(open(&second, T1), Err(DiskError::InUse { instance: T1, holder: Some(0), .. })));
    assert!(matches!(open(&bench.disk, T1), Err(DiskError::InUse { .. })), "a second opening of one's own is refused as well");
    second.open(Path::new(FILE), Access::Read).unwrap();
    let file = open(&second, T2).unwrap();
    // Dropped in an orderly way, but with a write on its way: held until that is done.
    let write = second.write(file, 0, page(3), Durability::Durable);
    drop(second);
    assert!(matches!(open(&bench.disk, T2), Err(DiskError::InUse { .. })));
    bench.sim.run(write).1.unwrap();
    open(&bench.disk, T2).unwrap();
}

#[test]
fn a_killed_process_holds_its_locks_until_its_io_has_drained() {
    let mut found = BTreeSet::new();
    for seed in 0..100 {
        let sim = Sim::new(seed);
        let media = MemoryMedia::new(seed);
        let victim = sim.process("victim");
        let disk = MemoryDisk::new(&media, victim.seams());
        let file = disk.open(Path::new(FILE), Access::Create(T1, 8 * 8192)).unwrap();
        sim.run(disk.write(file, 0, page(1), Durability::Buffered)).1.unwrap();
        let write = disk.write(file, 8192, page(2), Durability::Durable);
        victim.kill();
        assert!(disk.is_dead());
        drop((disk, write));
        let next = MemoryDisk::new(&media, sim.runtime());
        let again = || next.open(Path::new(FILE), Access::Write(T1));
        assert!(matches!(again(), Err(DiskError::InUse { .. })));
        media.settle(seed);
        again().unwrap();
        assert_eq!(media.peek(FILE, 0, 8192), [1; 8192], "the page cache survives the process");
        let count = media.peek(FILE, 8192, 8192).iter().filter(|&&byte| byte == 2).count();
        found.insert(if count == 0 {
            "none"
        } else if count == 8192 {
            "all"
        } else {
            "part"
        });
    }
    assert_eq!(found.len(), 3);
}

/// Writes when dropped, as a destructor of a killed process might.
struct WritesWhenDropped(Arc<MemoryDisk>, FileId);

impl Drop for WritesWhenDropped {
    fn drop(&mut self) {
        drop(self.0.write(self.1, 0, page(66), Durability::Durable));
    }
}

#[test]
fn destructors_of_a_killed_process_write_nothing() {
    for seed in 0..50 {
        let sim = Sim::new(seed);
        let media = MemoryMedia::new(seed);
        let victim = sim.process("victim");
        let disk = Arc::new(MemoryDisk::new(&media, victim.seams()));
        let file = disk.open(Path::new(FILE), Access::Create(T1, 8 * 8192)).unwrap();
        for number in 0..3 {
            let held = WritesWhenDropped(disk.clone(), file);
            victim.seams().spawn(
                "writer",
                Box::pin(async move {
                    loop {
                        held.0.write(held.1, (number + 1) * 8192, page(1), Durability::Durable).await.1.unwrap();
                    }
                }),
            );
        }
        drop(disk);
        sim.run(sim.runtime().sleep(Duration::from_millis(2)));
        let writes = media.event_count();
        victim.kill();
        assert_eq!(media.event_count(), writes);
        media.settle(seed);
        assert_eq!(media.peek(FILE, 0, 8192), [0; 8192]);
        MemoryDisk::new(&media, sim.runtime()).open(Path::new(FILE), Access::Write(T1)).unwrap();
    }
}

fn recorded(seed: u64, stop_at: u64) -> Bench {
    let bench = Bench::new(seed);
    with_all_faults(&bench.media);
    bench.media.record();
    let churn = churn(bench.media.clone(), bench.disk.clone(), bench.file, bench.sim.runtime(), 80);
    bench.sim.run_until(churn, |_| bench.media.event_count() >= stop_at);
    bench
}

#[test]
fn an_image_from_the_journal_is_what_a_crash_at_that_point_leaves() {
    for seed in 0..3 {
        let whole = recorded(seed, u64::MAX);
        // One event, the creation of the file, came before the recording.
        let journal = whole.media.journal().unwrap();
        let points = journal.crash_points();
        assert!(points.len() > 200 && points.is_sorted());
        for &point in points.iter().step_by(7) {
            let crashed = recorded(seed, point as u64 + 1);
            let reached = crashed.media.event_count() - 1;
            let marks = crashed.media.journal().unwrap().marks_before(usize::MAX);
            crashed.media.crash(point as u64);
            let image = journal.image_at(reached as usize, point as u64);
            assert_eq!(image.digest(FILE), crashed.media.digest(FILE), "seed {seed}, point {point}");
            assert_eq!(journal.marks_before(reached as usize), marks);
        }
    }
}

#[test]
fn images_come_in_any_order_and_differ_by_seed() {
    let journal = recorded(1, u64::MAX).media.journal().unwrap();
    let points = journal.crash_points();
    let forward: Vec<_> = points.iter().map(|&point| journal.image_at(point, 1).digest(FILE)).collect();
    let mut backward: Vec<_> = points.iter().rev().map(|&point| journal.image_at(point, 1).digest(FILE)).collect();
    backward.reverse();
    assert_eq!(forward, backward);
    let last = *points.last().unwrap();
    let variants: BTreeSet<_> = (0..50).map(|seed| journal.image_at(last, seed).digest(FILE)).collect();
    assert!(variants.len() > 20, "{}", variants.len());
    assert!(recorded(1, u64::MAX).media.journal().is_some());
    assert!(MemoryMedia::new(1).journal().is_none());
}

#[test]
fn an_image_is_media_of_its_own() {
    let bench = Bench::new(1);
    bench.write(0, 1, Durability::Buffered).unwrap();
    let copy = bench.media.clone_image();
    assert_eq!(copy.digest(FILE), bench.media.digest(FILE));
    bench.write(0, 2, Durability::Durable).unwrap();
    copy.crash(1);
    assert_eq!(copy.peek(FILE, 0, 8192), [1; 8192], "a copy is all durable");
    assert_eq!(bench.first_byte(0), 2);
    assert!(copy.digest("no such file").is_none());
}

#[test]
fn a_thousand_crash_points_of_a_big_file_are_cheap() {
    let sim = Sim::new(1);
    let media = MemoryMedia::new(1);
    let disk = MemoryDisk::new(&media, sim.runtime());
    let pages = 6000;
    let file = disk.open(Path::new(FILE), Access::Create(T1, pages * 8192)).unwrap();
    media.record();
    sim.run(async {
        let mut random = Random::new(1);
        for batch in 0..pages / 50 {
            let writes = (0..50).map(|number| {
                let mut buffer = Buffer::zeroed(8192);
                random.bytes(&mut buffer);
                let write = disk.write(file, (batch * 50 + number) * 8192, buffer, Durability::Buffered);
                Box::pin(async move { write.await.1.unwrap() }) as BoxFuture<()>
            });
            join_all(writes.collect()).await;
            disk.sync(file).await.unwrap();
        }
    });
    let journal = media.journal().unwrap();
    let points = journal.crash_points();
    let seams = sim.runtime();
    let images: Vec<MemoryMedia> = points.iter().step_by(points.len() / 1000).map(|&point| journal.image_at(point, 7)).collect();
    assert!(images.len() >= 1000);
    // All of them together share what they have in common: this would be 48 GB otherwise.
    let disk = MemoryDisk::new(&images[999], seams);
    assert!(disk.open(Path::new(FILE), Access::Write(T1)).is_ok());
}

#[test]
fn it_works_on_real_threads_too() {
    let tokio_runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let seams = ThreadsRuntime::start(tokio_runtime.handle().clone(), 1).unwrap();
    let media = MemoryMedia::new(1);
    let disk = Arc::new(MemoryDisk::new(&media, seams.clone()));
    let file = disk.open(Path::new(FILE), Access::Create(T1, 256 * 8192)).unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let writes = (0..256u64).map(|number| {
        let (disk, done) = (disk.clone(), done.clone());
        Box::pin(async move {
            disk.write(file, number * 8192, page(number as u8), Durability::Durable).await.1.unwrap();
            done.fetch_add(1, Ordering::SeqCst);
        }) as BoxFuture<()>
    });
    tokio_runtime.block_on(join_all(writes.collect()));
    assert_eq!(done.load(Ordering::SeqCst), 256);
    assert!((0..256u64).all(|number| media.peek(FILE, number * 8192 + 8191, 1)[0] == number as u8));
}
