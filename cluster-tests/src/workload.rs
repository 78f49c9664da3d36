//! Clients that commit random groups to a store and note them in a [`Model`].
//!
//! Keys overlap between clients; a group is noted in the step in which it was appended, so the model's order is the log's. Readers compare
//! at once: the store must answer what the model says now.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use regroup::base::options::{LogMode, Options};
use regroup::base::sim::Sim;
use regroup::base::{Random, Seams, TreeId};
use regroup::disk::memory::MemoryMedia;
use regroup::node::store::Store;
use regroup::table::TableError;

use crate::model::{Change, Model, writes};
use crate::world::{self, TREES};

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// So many at once.
    pub clients: u64,
    /// Groups of each.
    pub groups: u64,
    /// Keys that there are, over all trees.
    pub keys: u64,
    /// Most keys of a group.
    pub group_keys: u64,
    /// Longest value, in bytes.
    pub value_bytes: u64,
    /// Chance of a deletion.
    pub deletions: f64,
    /// Longest pause between two groups of a client, in microseconds; 0 for none at all.
    pub pause_us: u64,
    /// Chance of a checkpoint after a group.
    pub checkpoints: f64,
    /// Chance of reading a key after a group.
    pub reads: f64,
}

impl Load {
    /// Small groups, some deletions, few checkpoints.
    pub fn usual() -> Load {
        Load {
            clients: 4,
            groups: 60,
            keys: 800,
            group_keys: 20,
            value_bytes: 300,
            deletions: 0.2,
            pause_us: 2000,
            checkpoints: 0.02,
            reads: 0.3,
        }
    }

    /// Anything that is allowed.
    pub fn random(random: &mut Random) -> Load {
        let heavy = random.chance(0.2);
        Load {
            clients: 1 + random.below(8),
            groups: if heavy { 120 } else { 10 + random.below(80) },
            keys: if heavy { 3000 } else { *random.pick(&[5, 60, 800, 4000]) },
            group_keys: *random.pick(&[1, 5, 20]),
            value_bytes: if heavy { 1900 } else { *random.pick(&[0, 40, 300, 1900]) },
            deletions: *random.pick(&[0.0, 0.2, 0.5]),
            pause_us: *random.pick(&[0, 100, 3000, 20_000]),
            checkpoints: *random.pick(&[0.0, 0.02, 0.2]),
            reads: 0.3,
        }
    }
}

/// The key of number `number`: some are empty, long, or share a long head with others.
pub fn key_of(number: u64) -> Vec<u8> {
    let mut draw = Random::new(number);
    match number % 16 {
        0 if number == 0 => Vec::new(),
        1 => {
            let mut key = vec![b'l'; 60 + draw.index(200)];
            key.extend_from_slice(&number.to_be_bytes());
            key
        }
        2 => number.to_le_bytes().to_vec(),
        _ => number.to_be_bytes().to_vec(),
    }
}

/// The changes of one group; `stamp` goes into the values, so that no two groups write the same.
pub fn changes(random: &mut Random, load: &Load, stamp: u64) -> Vec<Change> {
    let count = 1 + random.below(load.group_keys);
    (0..count)
        .map(|_| {
            let number = random.below(load.keys);
            let key = key_of(number);
            let value = (!random.chance(load.deletions)).then(|| {
                let mut value = vec![0; 8 + random.below(load.value_bytes.max(8).min(1990 - key.len() as u64) - 7) as usize];
                random.bytes(&mut value);
                value[..8].copy_from_slice(&stamp.to_le_bytes());
                value
            });
            (TREES[(number % 3) as usize], key, value)
        })
        .collect()
}

/// A store under load.
#[derive(Clone)]
pub struct Subject {
    /// Clock and tasks.
    pub seams: Seams,
    /// The store.
    pub store: Arc<Store>,
    /// What it must hold.
    pub model: Arc<Mutex<Model>>,
    /// Told of each acknowledgement: the number of groups that must survive from there on.
    pub media: MemoryMedia,
}

impl Subject {
    /// Commits one group, noting it, and waits until it is acknowledged.
    ///
    /// # Errors
    /// As the store.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<(), TableError> {
        let done = self.store.trees().apply(&writes(&changes)).await?;
        let number = self.model.lock().appended(done, self.seams.now(), changes);
        self.store.storage().committed(done.end).await?;
        if self.store.storage().log().mode() == LogMode::Commit {
            self.model.lock().acknowledge(number);
            self.media.mark(number as u64 + 1);
        }
        Ok(())
    }

    /// Takes a checkpoint; what lies before it must survive.
    ///
    /// # Errors
    /// As the store.
    pub async fn checkpoint(&self) -> Result<(), TableError> {
        let report = self.store.storage().checkpoint().await?;
        let mut model = self.model.lock();
        model.durable(report.to);
        self.media.mark(model.acknowledged as u64);
        Ok(())
    }

    /// Reads a key and holds it against the model.
    ///
    /// # Errors
    /// As the store.
    ///
    /// # Panics
    /// When the store answers something else than the model.
    pub async fn read(&self, number: u64) -> Result<(), TableError> {
        let (tree, key) = (TREES[(number % 3) as usize], key_of(number));
        let found = self.store.trees().get(TreeId(tree), &key).await?;
        let expected = self.model.lock().now.get(&(tree, key)).cloned();
        assert!(found == expected, "tree {tree}, key number {number}: the store has {found:02x?}, but should have {expected:02x?}");
        Ok(())
    }

    /// One client.
    async fn client(&self, load: Load, seed: u64) -> Result<(), TableError> {
        let mut random = Random::new(seed);
        for step in 0..load.groups {
            if load.pause_us > 0 {
                self.seams.sleep(Duration::from_micros(random.below(load.pause_us))).await;
            }
            self.commit(changes(&mut random, &load, seed.rotate_left(32) ^ step)).await?;
            if random.chance(load.reads) {
                self.read(random.below(load.keys)).await?;
            }
            if random.chance(load.checkpoints) {
                self.checkpoint().await?;
            }
        }
        Ok(())
    }

    /// Runs the clients to their ends and gives what became of each.
    pub async fn run(&self, load: Load, seed: u64) -> Vec<Result<(), TableError>> {
        let mut random = Random::new(seed);
        let (tell, mut done) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..load.clients {
            let (subject, seed, tell) = (self.clone(), random.bits(), tell.clone());
            self.seams.spawn(
                "client",
                Box::pin(async move {
                    let outcome = subject.client(load, seed).await;
                    drop(subject);
                    let _ = tell.send(outcome);
                }),
            );
        }
        drop(tell);
        let mut outcomes = Vec::new();
        while let Some(outcome) = done.recv().await {
            outcomes.push(outcome);
        }
        outcomes
    }
}

/// A store that holds about `load.keys` keys, closed, and what it holds.
///
/// # Panics
/// When it can't be made.
pub fn filled(seed: u64, load: &Load) -> (MemoryMedia, Model) {
    let media = world::create(seed, world::shape(64, true));
    let sim = Sim::new(seed);
    let model = Arc::new(Mutex::new(Model::default()));
    sim.run(async {
        let store = world::open(&sim.runtime(), &media, &Options { log_mode: LogMode::None, ..world::small() })
            .await
            .expect("the store can be opened");
        let subject = Subject { seams: sim.runtime(), store, model: model.clone(), media: media.clone() };
        let mut random = Random::new(seed);
        for step in 0..load.keys / 8 {
            subject.commit(changes(&mut random, &Load { deletions: 0.0, ..*load }, step)).await.expect("a commit succeeds");
        }
        let Subject { store, .. } = subject;
        world::close(store).await.expect("the store can be closed");
    });
    let mut model = Arc::into_inner(model).expect("the run is over").into_inner();
    let all = model.groups.len();
    model.settle(all);
    (media, model)
}
