//! Several storage cores, one cache: real caches, logs, page writers and trees over one simulated disk and network; every instance changes the same trees.
//!
//! Each change group has an SCN and sets what it writes whatever was there, so the order of SCNs says what must be there in the end, wherever it was done.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Directory, DirectoryView, Setup};
use crate::base::options::Options;
use crate::base::random::Random;
use crate::base::sim::{Process, Sim};
use crate::base::{ClusterId, Epoch, Incarnation, ThreadId, TreeId};
use crate::disk::memory::{MemoryDisk, MemoryMedia};
use crate::disk::{Access, Disk};
use crate::grd::Membership;
use crate::membership::slots::Slots;
use crate::net::hello::Local;
use crate::net::memory::{Faults, MemoryNetwork};
use crate::net::{Link, Peer};
use crate::node::storage::{self, Life, OpeningVolume, Part, Storage};
use crate::page::superblock::Shape;
use crate::page::volume::{StoragePaths, Volume};
use crate::table::{Direction, Trees, Write};

const CLUSTER: ClusterId = ClusterId(*b"one cache, many.");
const TREE: TreeId = TreeId(7);

/// What was done: SCN -> keys and their new values.
type History = Arc<Mutex<BTreeMap<u64, Vec<(Vec<u8>, Option<Vec<u8>>)>>>>;

fn paths(instances: u16) -> StoragePaths {
    StoragePaths { redo: (1..=instances).map(|id| PathBuf::from(format!("redo.{id}"))).collect(), data: vec![PathBuf::from("data.0")] }
}

fn options() -> Options {
    Options { cache_bytes: 2 << 20, checkpoint_interval_ms: 100, ..Options::default() }
}

struct Instance {
    id: ThreadId,
    process: Process,
    link: Arc<dyn Link>,
    directory: Directory,
    storage: Storage,
    trees: Trees,
}

struct Cluster {
    sim: Sim,
    media: MemoryMedia,
    network: MemoryNetwork,
    instances: BTreeMap<ThreadId, Instance>,
    most: u16,
    view: Membership,
    lives: BTreeMap<ThreadId, Incarnation>,
    history: History,
}

impl Cluster {
    /// The files of a cluster for `most` instances, with one empty tree.
    fn new(seed: u64, most: u16) -> Cluster {
        let (sim, media) = (Sim::new(seed).step_limit(200_000_000).time_limit(Duration::from_secs(3600)), MemoryMedia::new(seed));
        let shape = Shape {
            cluster: CLUSTER,
            threads: most,
            data_files: 1,
            ring_bytes: 8 << 20,
            // Two tasks of an instance may each claim a group at first.
            data_bytes: 4096 * 8192 * u64::from(4 * most),
            grow: false,
            created_ms: 0,
        };
        let maker = sim.process("maker");
        let seams = maker.seams();
        sim.run(async {
            let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(&media, seams.clone()));
            let volume = storage::create(disk, &paths(most), shape).await.unwrap();
            let opening = OpeningVolume { seams, volume, thread: ThreadId(1), options: options(), on_progress: None, on_checkpoint: None };
            let storage = Storage::open_volume(opening).await.unwrap();
            Trees::bootstrap(storage.cache().clone(), ThreadId(1)).await.unwrap();
            let trees = Trees::open(storage.cache().clone(), ThreadId(1)).await.unwrap();
            trees.create_tree(TREE).await.unwrap();
            drop(trees);
            storage.close().await.unwrap();
        });
        maker.kill();
        let network = MemoryNetwork::new(seed);
        let masters = Arc::new([ThreadId(0); crate::grd::resource::SLOTS]);
        let view = Membership { epoch: Epoch(1), members: Default::default(), masters, put_out: Default::default() };
        Cluster { sim, media, network, instances: BTreeMap::new(), most, view, lives: BTreeMap::new(), history: History::default() }
    }

    /// The next view, with these members: everybody hears of it.
    fn change_view(&mut self, change: impl FnOnce(&mut Membership)) {
        change(&mut self.view);
        self.view.epoch = Epoch(self.view.epoch.0 + 1);
        let ids: Vec<ThreadId> = self.view.members.iter().copied().collect();
        let before: [u8; crate::grd::resource::SLOTS] = std::array::from_fn(|slot| self.view.masters[slot].0 as u8);
        let slots = Slots::from_bytes(&before).assigned_to(&ids);
        self.view.masters = Arc::new(std::array::from_fn(|slot| slots.master(slot)));
        for instance in self.instances.values().filter(|instance| self.view.members.contains(&instance.id)) {
            instance.directory.install(DirectoryView { membership: self.view.clone(), lives: self.lives.clone() });
        }
    }

    /// Instance `number` joins.
    fn join(&mut self, number: u16) {
        let (id, life) = (ThreadId(number), Incarnation(u64::from(number) * 10 + self.view.epoch.0));
        let process = self.sim.process(&format!("instance {number}"));
        let seams = process.seams();
        let local = Local { cluster: CLUSTER, peer: Peer::instance(id), incarnation: life };
        let link = self.network.attach(&seams, local, self.view.epoch);
        for other in self.instances.values() {
            other.link.set_peer(Peer::instance(id), Some(link.address()));
            link.set_peer(Peer::instance(other.id), Some(other.link.address()));
        }
        let clock = Arc::<AtomicU64>::default();
        let setup = Setup { seams: seams.clone(), link: link.clone(), me: id, clock: clock.clone(), tag: CLUSTER.tag() };
        let directory = Directory::start(setup);
        let part = Part { clock, grants: directory.grants() };
        let (media, most, epoch) = (self.media.clone(), self.most, self.view.epoch);
        let storage = self.sim.run(async {
            let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(&media, seams.clone()));
            let volume = Volume::open(disk, &paths(most), Access::Write(id)).await.unwrap();
            let opening =
                OpeningVolume { seams: seams.clone(), volume, thread: id, options: options(), on_progress: None, on_checkpoint: None };
            Storage::open_part(opening, Life { incarnation: life, epoch }, part).await.unwrap()
        });
        directory.attach(storage.cache());
        self.lives.insert(id, life);
        let trees = Trees::open(storage.cache().clone(), id);
        let trees = self.sim.run(trees).unwrap();
        self.instances.insert(id, Instance { id, process, link, directory, storage, trees });
        self.change_view(|view| _ = view.members.insert(id));
    }

    /// Instance `number` writes all it owes, lets go of all, and leaves.
    fn leave(&mut self, number: u16) {
        let id = ThreadId(number);
        let instance = self.instances.remove(&id).expect("a member");
        let seams = instance.process.seams();
        let Instance { process, directory, storage, trees, .. } = instance;
        drop(trees);
        let (mut late, others) = (seams.sleep(Duration::from_secs(60)), self.describe());
        self.sim.run(async {
            let leaving = async {
                storage.let_go().await.unwrap();
                while directory.unfinished() > 0 {
                    seams.sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                biased;
                () = leaving => {}
                () = &mut late => {
                    let (dirty, left) = (storage.cache().dirty(), (directory.status(), directory.unfinished()));
                    panic!("instance {number} can't leave: dirty {dirty:?}, {left:?}; others before:\n{others}");
                }
            }
            storage.close().await.unwrap();
        });
        directory.close();
        process.kill();
        self.change_view(|view| _ = view.members.remove(&id));
    }

    /// Starts `tasks` tasks on every instance that change and read the tree, `rounds` times each; the result counts those that haven't ended.
    fn work(&self, seed: u64, tasks: u64, rounds: u64, keys: u64) -> Arc<AtomicU64> {
        let running = Arc::new(AtomicU64::new(0));
        for id in self.instances.keys() {
            self.work_on(*id, &running, seed, (tasks, rounds, keys));
        }
        running
    }

    fn work_on(&self, id: ThreadId, running: &Arc<AtomicU64>, seed: u64, (tasks, rounds, keys): (u64, u64, u64)) {
        let instance = &self.instances[&id];
        for task in 0..tasks {
            running.fetch_add(1, Ordering::AcqRel);
            let (trees, history, running) = (instance.trees.clone(), self.history.clone(), running.clone());
            let mut random = Random::new(seed ^ (u64::from(instance.id.0) << 32) ^ task);
            let seams = instance.process.seams();
            let pause = seams.clone();
            let work = async move {
                for _ in 0..rounds {
                    one(&trees, &history, &mut random, keys).await;
                    if random.chance(0.3) {
                        pause.sleep(Duration::from_micros(random.below(500))).await;
                    }
                }
                running.fetch_sub(1, Ordering::AcqRel);
            };
            seams.spawn("worker", Box::pin(work));
        }
    }

    fn wait(&self, running: &AtomicU64) {
        let seams = self.sim.runtime();
        let done = self.sim.run(async {
            for _ in 0..6000 {
                if running.load(Ordering::Acquire) == 0 {
                    return true;
                }
                seams.sleep(Duration::from_millis(10)).await;
            }
            false
        });
        assert!(done, "it doesn't end; {}", self.describe());
    }

    fn describe(&self) -> String {
        let one = |instance: &Instance| {
            let (dirty, _) = instance.storage.cache().dirty();
            format!("{}: {:?}, {} unfinished, {dirty} dirty\n", instance.id, instance.directory.status(), instance.directory.unfinished())
        };
        self.instances.values().map(one).collect()
    }

    /// What every instance sees must be what the history says.
    fn check(&self) {
        let mut expected: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (key, value) in self.history.lock().values().flatten() {
            match value {
                Some(value) => drop(expected.insert(key.clone(), value.clone())),
                None => drop(expected.remove(key)),
            }
        }
        for instance in self.instances.values() {
            let found = self
                .sim
                .run(instance.trees.range(TREE, (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded), Direction::Up, usize::MAX))
                .unwrap();
            let found: BTreeMap<Vec<u8>, Vec<u8>> = found.into_iter().collect();
            let wrong: Vec<_> = expected.iter().filter(|(key, value)| found.get(*key) != Some(value)).take(3).collect();
            assert!(found == expected, "{}: {} keys, {} expected; first wrong: {wrong:?}", instance.id, found.len(), expected.len());
            assert_eq!(instance.storage.cache().quarantined(), []);
            assert_eq!(instance.directory.refused(), 0);
        }
    }
}

async fn one(trees: &Trees, history: &History, random: &mut Random, keys: u64) {
    if random.chance(0.3) {
        let key = random.below(keys).to_be_bytes();
        trees.get(TREE, &key).await.unwrap();
        return;
    }
    let mut writes: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
    for _ in 0..1 + random.below(3) {
        let key = random.below(keys).to_be_bytes().to_vec();
        let value = random.chance(0.8).then(|| vec![random.below(256) as u8; 20 + random.below(300) as usize]);
        writes.insert(key, value);
    }
    let list: Vec<Write<'_>> = writes
        .iter()
        .map(|(key, value)| match value {
            Some(value) => Write::Put { tree: TREE, key, value },
            None => Write::Delete { tree: TREE, key },
        })
        .collect();
    let done = trees.apply(&list).await.unwrap();
    // A group that changed nothing has the SCN of the present.
    let mut history = history.lock();
    history.entry(done.scn.0).or_default().extend(writes);
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    number("REGROUP_SEED").map_or(0..number("REGROUP_SEEDS").unwrap_or(60), |seed| seed..seed + 1)
}

fn faults(seed: u64) -> Faults {
    match seed % 3 {
        0 => Faults::default(),
        1 => Faults { delay: Duration::from_micros(20)..Duration::from_millis(2), reorder: 0.2, ..Faults::default() },
        _ => Faults { loss: 0.05, reorder: 0.1, ..Faults::default() },
    }
}

#[test]
fn instances_change_one_tree_at_once() {
    let mut given = 0;
    for seed in seeds() {
        eprintln!("REGROUP_SEED={seed} replays this");
        let instances = 2 + (seed % 3) as u16;
        let mut cluster = Cluster::new(seed, instances);
        cluster.network.set_faults(faults(seed));
        (1..=instances).for_each(|number| cluster.join(number));
        // Few keys: everybody wants the same leaves. Many: trees grow and split.
        let keys = if seed % 2 == 0 { 8 } else { 600 };
        let running = cluster.work(seed, 3, 40, keys);
        cluster.wait(&running);
        cluster.check();
        given += cluster.instances.values().map(|instance| instance.directory.given()).sum::<u64>();
        // One after the other leaves; the last one has everything.
        for number in 1..instances {
            cluster.leave(number);
            cluster.check();
        }
        cluster.leave(instances);
    }
    assert!(given > 0, "no page went from one instance to another");
}

#[test]
fn instances_join_and_leave_while_others_work() {
    for seed in seeds() {
        eprintln!("REGROUP_SEED={seed} replays this");
        let mut cluster = Cluster::new(seed, 4);
        cluster.network.set_faults(faults(seed));
        cluster.join(1);
        cluster.join(2);
        let keys = if seed % 2 == 0 { 20 } else { 500 };
        let (short, long) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        cluster.work_on(ThreadId(1), &short, seed, (2, 15, keys));
        cluster.work_on(ThreadId(2), &long, seed, (3, 90, keys));
        for number in [3, 4] {
            cluster.join(number);
            cluster.work_on(ThreadId(number), &long, seed, (2, 40, keys));
        }
        cluster.wait(&short);
        cluster.leave(1);
        cluster.join(1);
        cluster.work_on(ThreadId(1), &short, seed + 1, (2, 15, keys));
        cluster.wait(&short);
        cluster.leave(1);
        cluster.wait(&long);
        cluster.check();
        (2..=4).for_each(|number| cluster.leave(number));
    }
}
