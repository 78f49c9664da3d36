//! What commits cost.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use regroup::base::ThreadId;
use regroup::base::options::{LogMode, Options};
use regroup::disk::{Access, Buffer, Durability};
use regroup::node::store::Store;

use super::rig::{Numbers, Rig, TREE, World, commit, create, disk, fill, open, options, scatter};

const ROWS: u64 = 100_000;
const BYTES: usize = 100;

async fn store_with_rows(world: &World, folder: &Path, options: Options) -> Arc<Store> {
    create(&world.seams, folder, 512 << 20).await;
    let store = open(&world.seams, folder, options).await;
    store.trees().create_tree(TREE).await.expect("a tree");
    fill(&store, ROWS, BYTES).await;
    store.storage().checkpoint().await.expect("a checkpoint");
    Arc::new(store)
}

/// Median seconds of a 4 KiB durable write and of a commit, in turn.
pub(crate) fn one_client(rig: &Rig) -> Numbers {
    let world = World::new();
    let folder = rig.folder("commit-1");
    world.runtime.block_on(async {
        let store = store_with_rows(&world, &folder, options(256 << 20, LogMode::Commit)).await;
        let raw = disk();
        let path = folder.join("raw");
        let file = raw.open(&path, Access::Create(ThreadId(1), 64 << 20)).expect("a file");
        for at in 0..64 {
            raw.write(file, at << 20, Buffer::zeroed(1 << 20), Durability::Durable).await.1.expect("written");
        }
        let (mut writes, mut commits) = (Vec::new(), Vec::new());
        let mut buffer = Buffer::zeroed(4096);
        for turn in 0..rig.scaled(2000) {
            let start = Instant::now();
            let (back, outcome) = raw.write(file, turn % 16384 * 4096, buffer, Durability::Durable).await;
            outcome.expect("written");
            writes.push(start.elapsed().as_secs_f64());
            buffer = back;
            let start = Instant::now();
            commit(&store, scatter(turn) % ROWS, BYTES).await;
            commits.push(start.elapsed().as_secs_f64());
        }
        let (write, commit) = (median(&mut writes), median(&mut commits));
        vec![("ratio", commit / write), ("write_us", write * 1e6), ("commit_us", commit * 1e6)]
    })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Commits a second of `tasks` tasks for `time`.
async fn rate(world: &World, store: &Arc<Store>, tasks: u64, time: Duration) -> f64 {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut running = Vec::new();
    let start = Instant::now();
    for task in 0..tasks {
        let (store, stop, done) = (store.clone(), stop.clone(), done.clone());
        running.push(tokio::spawn(async move {
            let mut turn = task << 32;
            while !stop.load(Ordering::Relaxed) {
                turn += 1;
                commit(&store, scatter(turn) % ROWS, BYTES).await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    world.seams.sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    for task in running {
        task.await.expect("the task ends");
    }
    done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

/// Group commit: 64 tasks against one, and against not waiting for durability at all.
pub(crate) fn sixty_four(rig: &Rig) -> Numbers {
    let world = World::new();
    let time = Duration::from_secs_f64(2.0 * rig.scale);
    let mut rates = Vec::new();
    for (name, mode, tasks) in [("one", LogMode::Commit, 1), ("many", LogMode::Commit, 64), ("none", LogMode::None, 64)] {
        let folder = rig.folder("commit-64");
        let rate = world.runtime.block_on(async {
            let store = store_with_rows(&world, &folder, options(256 << 20, mode)).await;
            rate(&world, &store, tasks, time).await
        });
        rates.push((name, rate));
    }
    let (one, many, none) = (rates[0].1, rates[1].1, rates[2].1);
    vec![
        ("ratio", many / one),
        ("of_mode_none", many / none),
        ("one_per_second", one),
        ("many_per_second", many),
        ("none_per_second", none),
    ]
}

/// 64 tasks with a checkpoint every five seconds (six times as often as by default) against none, in turn.
pub(crate) fn checkpoint(rig: &Rig) -> Numbers {
    let world = World::new();
    let time = Duration::from_secs_f64(12.0 * rig.scale);
    let mut rates = Vec::new();
    for interval in [3_600_000, 5000] {
        let folder = rig.folder("checkpoint");
        let options = Options { checkpoint_interval_ms: interval, ..options(256 << 20, LogMode::Commit) };
        rates.push(world.runtime.block_on(async {
            let store = store_with_rows(&world, &folder, options).await;
            rate(&world, &store, 64, time).await
        }));
    }
    vec![("lost", 1.0 - rates[1] / rates[0]), ("without_per_second", rates[0]), ("with_per_second", rates[1])]
}
