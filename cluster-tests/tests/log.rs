//! One redo thread by itself: what is acknowledged when, the ring, back-pressure, seals, lives that follow each other (rules 7, 12, 19).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster_tests::test_named;
use parking_lot::Mutex;
use regroup::base::limits::{GROUP_BYTES_MAX, LOG_BLOCK};
use regroup::base::options::LogMode;
use regroup::base::sim::Sim;
use regroup::base::{Epoch, Incarnation, Lsn, PageId, Random, Scn, Seams, ThreadId, Writer};
use regroup::disk::memory::{MemoryDisk, MemoryMedia};
use regroup::disk::{Access, Disk};
use regroup::page::superblock::RING_AT;
use regroup::redo::block::LogIdentity;
use regroup::redo::control::FIRST;
use regroup::redo::reader::{LogEnd, LogSource};
use regroup::redo::record::{GROUP_HEADER, Group, GroupKind, encode_written};
use regroup::redo::writer::{Appended, LogPlace};
use regroup::redo::{LogFault, LogReader, LogWriter};

const FILE: &str = "redo";
const RING: u64 = 8 << 20;
const THREAD: ThreadId = ThreadId(1);
const LOG: LogIdentity = LogIdentity { cluster: 5, thread: THREAD, ring_blocks: RING / LOG_BLOCK as u64 };

fn media(seed: u64) -> MemoryMedia {
    let media = MemoryMedia::new(seed);
    let sim = Sim::new(seed);
    MemoryDisk::new(&media, sim.runtime()).open(Path::new(FILE), Access::Create(THREAD, RING_AT + RING)).expect("a file can be made");
    media
}

/// Where a life starts.
#[derive(Clone, Copy)]
struct Start {
    at: Lsn,
    crc: u32,
    checkpoint: Lsn,
    incarnation: u64,
}

const FRESH: Start = Start { at: FIRST, crc: 0, checkpoint: FIRST, incarnation: 1 };

fn writer_of(incarnation: u64) -> Writer {
    Writer { thread: THREAD, incarnation: Incarnation(incarnation), epoch: Epoch(incarnation) }
}

fn log(seams: &Seams, media: &MemoryMedia, start: Start, mode: LogMode, interval_ms: u64) -> LogWriter {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(media, seams.clone()));
    let file = disk.open(Path::new(FILE), Access::Write(THREAD)).expect("the file can be opened");
    let place = LogPlace {
        disk,
        file,
        identity: LOG,
        writer: writer_of(start.incarnation),
        checkpoint: start.checkpoint,
        start: start.at,
        start_crc: start.crc,
        fill_percent: 50,
    };
    LogWriter::start(seams.clone(), place, mode, Duration::from_millis(interval_ms), Arc::new(AtomicU64::new(1)))
}

/// A group of `bytes` bytes that says `number`.
fn group(number: u64, bytes: usize) -> Vec<u8> {
    let mut group = vec![number as u8; bytes.max(GROUP_HEADER + 8)];
    group[GROUP_HEADER..GROUP_HEADER + 8].copy_from_slice(&number.to_le_bytes());
    Group { length: group.len(), kind: GroupKind::Changes, items: 0, scn: Scn(0) }.encode(&mut group);
    group
}

/// Appends a group once there is room for it.
async fn append(log: &LogWriter, number: u64, bytes: usize) -> Appended {
    let mut group = group(number, bytes);
    loop {
        match log.reserve(group.len()).expect("the log goes on") {
            Ok(reservation) => return log.append(&mut group, Scn(0), &reservation).expect("the log goes on"),
            Err(no_room) => log.wait_for_room(no_room.bytes).await.expect("the log goes on"),
        }
    }
}

/// Numbers and ends of the groups in the log, and where it ends. `life`: where the newest life began, and which it was.
fn read(media: &MemoryMedia, start: Lsn, durable: Lsn, life: Option<(Lsn, u64)>) -> (Vec<(u64, Lsn)>, Result<LogEnd, LogFault>) {
    let sim = Sim::new(1);
    sim.run(async {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(media, sim.runtime()));
        let file = disk.open(Path::new(FILE), Access::Read).expect("the file can be opened");
        let life = life.map(|(from, incarnation)| (from, Incarnation(incarnation)));
        let mut reader = LogReader::new(LogSource { disk, file, identity: LOG, start, durable, end: None, life });
        let mut found = Vec::new();
        loop {
            let more = reader
                .read(|group| {
                    let mut number = [0; 8];
                    number.copy_from_slice(&group.body[..8]);
                    let number = u64::from_le_bytes(number);
                    assert!(group.body[8..].iter().all(|&byte| byte == number as u8), "group {number} is mixed with others");
                    found.push((number, group.end));
                    Ok(())
                })
                .await;
            match more {
                Ok(true) => {}
                Ok(false) => return (found, Ok(reader.end().expect("reading is over"))),
                Err(fault) => return (found, Err(fault)),
            }
        }
    })
}

fn numbers(found: &[(u64, Lsn)]) -> Vec<u64> {
    found.iter().map(|(number, _)| *number).collect()
}

#[test]
fn in_mode_commit_what_was_forced_survives_any_crash() {
    test_named!("in_mode_commit_what_was_forced_survives_any_crash").seeds(60, |seed| {
        let media = media(seed);
        let sim = Sim::new(seed);
        let log = log(&sim.runtime(), &media, FRESH, LogMode::Commit, 100);
        let (next, forced) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        for client in 0..5 {
            let (log, next, forced, seams) = (log.clone(), next.clone(), forced.clone(), sim.runtime());
            let task = async move {
                let mut random = Random::new(seed * 10 + client);
                loop {
                    let bytes = random.index(*Random::new(client).pick(&[50, 9000, 60_000]));
                    let mut group = group(0, bytes);
                    let reservation = log.reserve(group.len()).unwrap().expect("the ring is large enough for this test");
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    group[GROUP_HEADER..GROUP_HEADER + 8].copy_from_slice(&number.to_le_bytes());
                    group[GROUP_HEADER + 8..].fill(number as u8);
                    let appended = log.append(&mut group, Scn(0), &reservation).unwrap();
                    drop(reservation);
                    if log.force(appended.end).await.is_ok() {
                        assert!(log.durable() >= appended.end);
                        forced.lock().push(number);
                    }
                    seams.sleep(Duration::from_micros(random.below(3000))).await;
                }
            };
            sim.runtime().spawn("client", Box::pin(task));
        }
        let until = 100 + Random::new(seed).below(600);
        sim.run_until(std::future::pending::<()>(), |_| media.event_count() >= until || next.load(Ordering::Relaxed) > 90);
        media.crash(seed);
        sim.kill_all();
        let (found, end) = read(&media, FIRST, FIRST, Some((FIRST, 1)));
        end.unwrap();
        let count = found.len() as u64;
        assert_eq!(numbers(&found), (0..count).collect::<Vec<_>>(), "groups are there in order, from the first on");
        assert!(
            forced.lock().iter().all(|number| *number < count),
            "only {count} groups are there, but of {:?} was said they were durable",
            forced.lock()
        );
    });
}

#[test]
fn in_mode_batch_nothing_waits_longer_than_the_interval() {
    // A client that appends a little now and then restarted the interval each time: nothing was written until a block was full.
    for pause_ms in [1, 3, 15, 30] {
        let media = media(pause_ms);
        let sim = Sim::new(pause_ms);
        sim.run(async {
            let log = log(&sim.runtime(), &media, FRESH, LogMode::Batch, 20);
            let mut waiting: Vec<(Lsn, u64)> = Vec::new();
            for number in 0..300 {
                waiting.push((append(&log, number, 30).await.end, sim.now().0));
                sim.runtime().sleep(Duration::from_millis(pause_ms)).await;
                waiting.retain(|(end, _)| *end > log.durable());
                let oldest = waiting.first().map_or(0, |(_, at)| sim.now().0 - at);
                assert!(oldest < 30_000_000, "pause {pause_ms} ms: group {number}: a group from {} us ago isn't durable", oldest / 1000);
            }
        });
    }
}

#[test]
fn a_batch_that_a_notice_begins_keeps_its_interval() {
    // The page writer's notice was the first redo in the buffer and woke nobody; the groups behind it relied on having been heard of.
    let media = media(9);
    let sim = Sim::new(9);
    sim.run(async {
        let log = log(&sim.runtime(), &media, FRESH, LogMode::Batch, 20);
        log.force(append(&log, 0, 30).await.end).await.unwrap();
        sim.runtime().sleep(Duration::from_millis(50)).await;
        assert_eq!(log.append_notice(&mut encode_written(&[(PageId::new(0, 1), Scn(1))])), Ok(true));
        let end = append(&log, 1, 30).await.end;
        sim.runtime().sleep(Duration::from_millis(30)).await;
        assert!(log.durable() >= end);
    });
}

#[test]
fn in_mode_none_nothing_is_written_unasked() {
    let media = media(3);
    let sim = Sim::new(3);
    sim.run(async {
        let log = log(&sim.runtime(), &media, FRESH, LogMode::None, 20);
        let mut last = append(&log, 0, 1000).await;
        for number in 1..100 {
            last = append(&log, number, 1000).await;
        }
        sim.runtime().sleep(Duration::from_secs(5)).await;
        assert_eq!((log.counters().writes, log.durable()), (0, FIRST));
        log.force(last.end).await.unwrap();
        assert!(log.durable() >= last.end);
        // Half a write's worth goes by itself.
        let before = log.counters().writes;
        for number in 100..120 {
            append(&log, number, 30_000).await;
        }
        sim.runtime().sleep(Duration::from_secs(1)).await;
        assert!(log.counters().writes > before);
    });
}

#[test]
fn the_ring_goes_round_and_replay_from_a_checkpoint_has_everything_behind_it() {
    test_named!("the_ring_goes_round_and_replay_from_a_checkpoint_has_everything_behind_it").seeds(25, |seed| {
        let media = media(seed);
        let sim = Sim::new(seed);
        let mut random = Random::new(seed);
        let ends: Arc<Mutex<Vec<Lsn>>> = Arc::default();
        let stop = random.below(4000);
        let released = Arc::new(Mutex::new(FIRST));
        let run = async {
            let log = log(&sim.runtime(), &media, FRESH, LogMode::Commit, 20);
            let (checkpointer, cleaner, seams) = (log.clone(), released.clone(), sim.runtime());
            let mut pace = Random::new(seed + 1);
            let task = async move {
                loop {
                    // Only when asked: the ring is full before.
                    checkpointer.under_pressure().await;
                    seams.sleep(Duration::from_micros(pace.below(20_000))).await;
                    let position = checkpointer.durable();
                    *cleaner.lock() = position;
                    checkpointer.release(position);
                }
            };
            sim.runtime().spawn("checkpointer", Box::pin(task));
            for number in 0..2500 {
                let most = *random.pick(&[100, 4000, 40_000, GROUP_BYTES_MAX]);
                let appended = append(&log, number, random.index(most)).await;
                ends.lock().push(appended.end);
                let (used, all) = log.usage();
                assert!(used <= all, "{used} bytes of {all} are in use");
                if random.chance(0.2) {
                    log.force(appended.end).await.unwrap();
                }
            }
        };
        sim.run_until(run, |_| media.event_count() >= stop);
        media.crash(seed);
        sim.kill_all();
        let (checkpoint, ends) = (*released.lock(), ends.lock().clone());
        let (found, end) = read(&media, checkpoint, checkpoint, Some((FIRST, 1)));
        end.unwrap();
        let first = ends.partition_point(|end| *end <= checkpoint) as u64;
        let expected: Vec<u64> = (first..first + found.len() as u64).collect();
        assert_eq!(numbers(&found), expected, "of {} groups, from the checkpoint at {checkpoint} on", ends.len());
        assert!(found.iter().all(|(number, end)| ends[*number as usize] == *end));
    });
}

#[test]
fn a_full_ring_stops_the_writers_and_overwrites_nothing() {
    let media = media(4);
    let sim = Sim::new(4);
    let written = Arc::new(AtomicU64::new(0));
    let log = log(&sim.runtime(), &media, FRESH, LogMode::Commit, 20);
    for client in 0..3u64 {
        let (log, written) = (log.clone(), written.clone());
        let task = async move {
            loop {
                let mut group = group(0, 20_000 + client as usize * 9000);
                let reservation = match log.reserve(group.len()).unwrap() {
                    Ok(reservation) => reservation,
                    Err(no_room) => {
                        log.wait_for_room(no_room.bytes).await.unwrap();
                        continue;
                    }
                };
                let number = written.fetch_add(1, Ordering::Relaxed);
                group[GROUP_HEADER..GROUP_HEADER + 8].copy_from_slice(&number.to_le_bytes());
                group[GROUP_HEADER + 8..].fill(number as u8);
                log.append(&mut group, Scn(0), &reservation).unwrap();
            }
        };
        sim.runtime().spawn("client", Box::pin(task));
    }
    sim.run(sim.runtime().sleep(Duration::from_secs(10)));
    let full = written.load(Ordering::Relaxed);
    let (used, all) = log.usage();
    assert!(used <= all && used > all * 8 / 10, "{used} of {all} bytes are in use when nothing fits any more");
    sim.run(async { log.force(log.appended()).await.unwrap() });
    let (found, end) = read(&media, FIRST, FIRST, Some((FIRST, 1)));
    end.unwrap();
    assert_eq!(numbers(&found), (0..full).collect::<Vec<_>>());
    log.release(found[found.len() / 2].1);
    sim.run(sim.runtime().sleep(Duration::from_secs(10)));
    assert!(written.load(Ordering::Relaxed) > full + full / 3, "the writers go on behind the checkpoint");
}

/// A log with some forced groups, the last of them `last` bytes long, idle since for `idle_ms`; the place of the last group's first block.
fn forced_then_idle(idle_ms: u64, unforced: bool) -> (MemoryMedia, u64) {
    let media = media(6);
    let sim = Sim::new(6);
    let at = sim.run(async {
        let log = log(&sim.runtime(), &media, FRESH, LogMode::Commit, 20);
        let mut start = FIRST;
        for number in 0..5 {
            let appended = append(&log, number, 6000).await;
            log.force(appended.end).await.unwrap();
            start = appended.start;
        }
        if unforced {
            append(&log, 5, 100).await;
        }
        sim.runtime().sleep(Duration::from_millis(idle_ms)).await;
        RING_AT + Lsn::of_block(start.block()).0 % RING
    });
    media.crash(1);
    (media, at)
}

#[test]
fn a_flip_in_the_last_write_is_a_torn_tail_until_it_is_sealed() {
    let (media, at) = forced_then_idle(0, false);
    media.flip(FILE, at + 100, 3);
    let (found, end) = read(&media, FIRST, FIRST, Some((FIRST, 1)));
    assert_eq!(numbers(&found), [0, 1, 2, 3], "the undecidable case: as a torn tail, the last group isn't there");
    end.unwrap();
    let (media, at) = forced_then_idle(20, false);
    media.flip(FILE, at + 100, 3);
    let (_, end) = read(&media, FIRST, FIRST, Some((FIRST, 1)));
    assert!(matches!(end, Err(LogFault::Damaged { offset, .. }) if offset == at), "{end:?}");
}

#[test]
fn redo_that_nobody_waits_for_does_not_keep_the_last_write_unsealed() {
    // The page writer's notice lay in the buffer, nobody forced it, and so no seal was written however long the instance was idle: a flip in
    // an acknowledged group was taken for a torn tail.
    let (media, at) = forced_then_idle(1000, true);
    media.flip(FILE, at + 100, 3);
    let (_, end) = read(&media, FIRST, FIRST, Some((FIRST, 1)));
    assert!(matches!(end, Err(LogFault::Damaged { offset, .. }) if offset == at), "{end:?}");
}

#[test]
fn what_a_life_left_unfinished_is_never_continued_by_the_next() {
    let media = media(7);
    let sim = Sim::new(7);
    let (begin, end) = sim.run(async {
        let log = log(&sim.runtime(), &media, FRESH, LogMode::Commit, 20);
        let first = append(&log, 0, 100).await;
        log.force(first.end).await.unwrap();
        let long = append(&log, 1, 20_000).await;
        log.force(long.end).await.unwrap();
        (long.start, long.end)
    });
    media.crash(1);
    sim.kill_all();
    // The second of its blocks never landed; those behind it did.
    assert!(end.block() >= begin.block() + 4);
    media.poke(FILE, RING_AT + Lsn::of_block(begin.block() + 1).0, &[0; LOG_BLOCK]);
    let (found, ended) = read(&media, FIRST, FIRST, Some((FIRST, 1)));
    let ended = ended.unwrap();
    assert_eq!((numbers(&found), ended.at), (vec![0], Lsn::of_block(begin.block() + 1)));
    // The next life writes one block there. Behind it lies one of the life before, whole, with the right number.
    let position = sim.run(async {
        let start = Start { at: ended.at, crc: ended.crc, checkpoint: FIRST, incarnation: 2 };
        let log = log(&sim.runtime(), &media, start, LogMode::Commit, 20);
        let appended = append(&log, 2, 100).await;
        log.force(appended.end).await.unwrap();
        log.durable()
    });
    media.crash(2);
    sim.kill_all();
    let (found, again) = read(&media, FIRST, FIRST, Some((ended.at, 2)));
    assert_eq!((numbers(&found), again.unwrap().at), (vec![0, 2], position));
    // A checkpoint at that very position: the old block is the first that is read, and has no predecessor to contradict it.
    let (found, again) = read(&media, position, position, Some((ended.at, 2)));
    assert_eq!((numbers(&found), again.unwrap().at), (vec![], position));
}

#[test]
fn an_old_position_whose_blocks_were_overwritten_is_no_empty_log() {
    // One control slot was damaged; the other said where replay began a lap ago. The first block there was of a later lap, so the log seemed
    // to end where it began.
    let media = media(8);
    let sim = Sim::new(8);
    let end = sim.run(async {
        let log = log(&sim.runtime(), &media, FRESH, LogMode::Commit, 20);
        for number in 0..300 {
            log.force(append(&log, number, 60_000).await.end).await.unwrap();
            log.release(log.durable());
        }
        log.durable()
    });
    assert!(end.0 > 2 * RING);
    media.crash(1);
    let (found, ended) = read(&media, FIRST, FIRST, Some((FIRST, 1)));
    assert!(matches!(ended, Err(LogFault::Damaged { at, .. }) if at == FIRST), "{found:?} {ended:?}");
}
