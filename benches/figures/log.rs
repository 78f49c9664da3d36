//! What recovery costs.

use std::path::Path;
use std::time::Instant;

use regroup::base::options::{LogMode, Options};
use regroup::base::{Lsn, PageId, ThreadId};
use regroup::disk::Access;
use regroup::node::storage::log_identity;
use regroup::page::superblock::{PAGES_AT, RING_AT};
use regroup::page::volume::Volume;
use regroup::recovery::RecoveryReport;
use regroup::redo::LogReader;
use regroup::redo::control::ControlFile;
use regroup::redo::reader::LogSource;
use regroup::redo::record::{Changes, GroupKind};

use super::rig::{
    Numbers, Rig, TREE, World, apply as put, create, disk, fill, open, open_file, options, paths, read_randomly, read_sequentially, scatter,
};

/// A store whose process died with `log_bytes` of redo behind its checkpoint, over `rows` rows.
fn crashed(rig: &Rig, name: &str, rows: u64, row_bytes: usize, log_bytes: u64, cache: u64) -> std::path::PathBuf {
    let folder = rig.folder(name);
    let world = World::new();
    world.runtime.block_on(async {
        create(&world.seams, &folder, log_bytes * 13 / 10 + (64 << 20)).await;
        let store = open(&world.seams, &folder, options(cache, LogMode::None)).await;
        store.trees().create_tree(TREE).await.expect("a tree");
        fill(&store, rows, row_bytes).await;
        store.storage().checkpoint().await.expect("a checkpoint");
        let from = store.storage().log().appended().0;
        let mut turn = 0;
        while store.storage().log().appended().0 - from < log_bytes {
            let rows: Vec<u64> = (0..8).map(|index| scatter(turn * 8 + index) % rows).collect();
            put(&store, &rows, row_bytes).await;
            turn += 1;
        }
        store.storage().log().force(store.storage().log().appended()).await.expect("durable");
    });
    folder
}

async fn source(folder: &Path) -> LogSource {
    let disk = disk();
    let volume = Volume::open(disk.clone(), &paths(folder), Access::Read).await.expect("the store opens");
    let file = volume.redo_file(ThreadId(1)).expect("there is a redo file");
    let control = ControlFile::new(disk.clone(), file, volume.tag(), ThreadId(1)).read().await.expect("a control block").control;
    LogSource::of(&control, disk, file, log_identity(&volume, ThreadId(1)))
}

/// Reads a log to its end and decodes every change; returns seconds, end, changes and pages.
async fn read_log(folder: &Path) -> (f64, Lsn, u64, Vec<PageId>) {
    let start = Instant::now();
    let mut reader = LogReader::new(source(folder).await);
    let mut changes = 0;
    let mut pages = std::collections::BTreeSet::new();
    let mut collect = Vec::new();
    while reader
        .read(|group| {
            if group.header.kind == GroupKind::Changes {
                for change in Changes::new(group.body, group.header.items) {
                    collect.push(change?.page);
                    changes += 1;
                }
            }
            Ok(())
        })
        .await
        .expect("the log is whole")
    {}
    let took = start.elapsed().as_secs_f64();
    pages.extend(collect);
    (took, reader.end().expect("the end was reached").at, changes, pages.into_iter().collect())
}

/// The scan of a log against reading the same bytes.
pub(crate) fn scan(rig: &Rig) -> Numbers {
    let log_bytes = rig.scaled(512 << 20);
    let folder = crashed(rig, "scan", 100_000, 200, log_bytes, 256 << 20);
    let world = World::new();
    world.runtime.block_on(async {
        let (disk, file) = open_file(&folder.join("redo.1"));
        let before = read_sequentially(&disk, file, RING_AT, log_bytes).await;
        let (scan, end, changes, _) = read_log(&folder).await;
        let after = read_sequentially(&disk, file, RING_AT, log_bytes).await;
        let start = source(&folder).await.start;
        let rate = (end.0 - start.0) as f64 / scan;
        let raw = log_bytes as f64 / ((before + after) / 2.0);
        vec![("ratio", rate / raw), ("scan_mb_per_second", rate / 1e6), ("disk_mb_per_second", raw / 1e6), ("changes", changes as f64)]
    })
}

/// Redo of many small changes to pages that are all in memory.
pub(crate) fn apply(rig: &Rig) -> Numbers {
    let folder = crashed(rig, "apply", 20_000, 16, rig.scaled(256 << 20), 64 << 20);
    let world = World::new();
    world.runtime.block_on(async {
        let options = Options { recovery_memory_bytes: 2 << 30, ..options(64 << 20, LogMode::Commit) };
        let store = open(&world.seams, &folder, options).await;
        let report = store.storage().recovery().expect("it was recovered");
        let (scan, redo) = (phase(report, "scan"), phase(report, "redo"));
        vec![
            ("applied_per_second", report.changes_applied as f64 / redo),
            ("with_scan_per_second", report.changes_applied as f64 / (redo + scan)),
            ("applied", report.changes_applied as f64),
            ("pages", report.pages_in_log as f64),
        ]
    })
}

fn phase(report: &RecoveryReport, name: &str) -> f64 {
    report.phases.iter().find(|phase| phase.name == name).map_or(0.0, |phase| phase.seconds)
}

/// Recovery from disk against its own floor.
pub(crate) fn recovery(rig: &Rig) -> Numbers {
    let log_bytes = rig.scaled(512 << 20);
    let folder = crashed(rig, "recovery", 2_500_000 * log_bytes / (1 << 30), 100, log_bytes, 1 << 30);
    let world = World::new();
    world.runtime.block_on(async {
        let (_, end, _, pages) = read_log(&folder).await;
        let start = source(&folder).await.start;
        let length = (end.0 - start.0).next_multiple_of(4096);
        let (redo, redo_file) = open_file(&folder.join("redo.1"));
        let sequential = read_sequentially(&redo, redo_file, RING_AT, length).await;
        let (data, data_file) = open_file(&folder.join("data.0"));
        let mut offsets: Vec<u64> = pages.iter().map(|page| PAGES_AT + page.index() * 8192).collect();
        offsets.sort_by_key(|offset| scatter(*offset));
        let random = read_randomly(&data, data_file, &offsets).await;
        let started = Instant::now();
        let store = open(&world.seams, &folder, options(1 << 30, LogMode::Commit)).await;
        let took = started.elapsed().as_secs_f64();
        let report = store.storage().recovery().expect("it was recovered");
        let floor = sequential * f64::from(report.readings) + random;
        vec![
            ("ratio", took / floor),
            ("one_reading_ratio", took / (sequential + random)),
            ("seconds", took),
            ("scan_seconds", phase(report, "scan")),
            ("restore_seconds", phase(report, "restore")),
            ("redo_seconds", phase(report, "redo")),
            ("log_mb", length as f64 / 1e6),
            ("pages", pages.len() as f64),
            ("pages_read", report.pages_read as f64),
            ("seqread_seconds", sequential),
            ("randread_seconds", random),
            ("readings", f64::from(report.readings)),
        ]
    })
}

/// Resident memory beyond the configured cache, of a process that recovers more pages than its cache holds.
pub(crate) fn growth(rig: &Rig) -> Numbers {
    let folder = crashed(rig, "growth", 600_000, 200, rig.scaled(4 << 30), 512 << 20);
    let program = std::env::current_exe().expect("this program's path");
    let output = std::process::Command::new(program).arg("--recover").arg(&folder).output().expect("it runs again");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).expect("text");
    let mut numbers = said.split_whitespace().map(|word| word.parse::<f64>().expect("a number"));
    let mut next = || numbers.next().expect("four numbers");
    let (peak, log, pages, seconds) = (next(), next(), next(), next());
    let growth = peak - GROWTH_CACHE as f64;
    vec![("growth_mb", growth / 1e6), ("peak_mb", peak / 1e6), ("log_mb", log / 1e6), ("pages", pages), ("seconds", seconds)]
}

/// Page cache of the process whose memory is measured, in bytes.
const GROWTH_CACHE: u64 = 64 << 20;

/// That process: recovers the store in `folder`, prints its peak resident bytes, log bytes, pages and seconds.
pub(crate) fn recover_once(folder: &Path) {
    let world = World::new();
    world.runtime.block_on(async {
        let started = Instant::now();
        let store = open(&world.seams, folder, options(GROWTH_CACHE, LogMode::Commit)).await;
        let took = started.elapsed().as_secs_f64();
        let report = store.storage().recovery().expect("it was recovered");
        let status = std::fs::read_to_string("/proc/self/status").expect("the kernel tells");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells the peak");
        let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
        println!("{} {} {} {took}", kilobytes * 1024, report.log_bytes, report.pages_in_log);
    });
}
