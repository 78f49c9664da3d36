//! Pages on their way between cache and disk: the order of writes as the media saw it (rules 7, 9, 15), the cache under pressure, dropped
//! operations and stores (rule 19).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster_tests::model::{Change, Model};
use cluster_tests::test_named;
use cluster_tests::workload::{Load, Subject, filled};
use cluster_tests::world::{self, DATA, REDO, TREES, close, contents, open, shape, small, sound};
use parking_lot::Mutex;
use regroup::base::limits::{LOG_BLOCK, PAGE_SIZE};
use regroup::base::options::{DoubleWrite, LogMode, Options};
use regroup::base::sim::Sim;
use regroup::base::{Lsn, Random, Scn, ThreadId, TreeId};
use regroup::cache::{CacheError, double_write};
use regroup::disk::Durability;
use regroup::disk::memory::{Event, Fault, FaultKind, Journal, MemoryMedia};
use regroup::node::store::{Store, StoreError};
use regroup::page::header;
use regroup::page::superblock::{CONTROL_SLOTS, DOUBLE_WRITE_AT, DOUBLE_WRITE_IMAGES_AT, PAGES_AT, RING_AT};
use regroup::redo::block::{self, BLOCK_HEADER, LogIdentity};
use regroup::redo::control::Control;
use regroup::redo::record::{Changes, GROUP_HEADER, Group, GroupKind};
use regroup::table::rows::RowError;
use regroup::table::{Direction, TableError};

const RING: u64 = 8 << 20;
const THREAD: ThreadId = ThreadId(1);

fn identity() -> LogIdentity {
    LogIdentity { cluster: shape(64, true).cluster.tag(), thread: THREAD, ring_blocks: RING / LOG_BLOCK as u64 }
}

/// What an audit saw, so that it can't pass by seeing nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Seen {
    pages: u64,
    /// Of these, such that went home without an image.
    bare: u64,
    batches: u64,
    checkpoints: u64,
    blocks: u64,
    reused: u64,
}

/// The change groups that are durable, and which pages they make anew.
#[derive(Default)]
struct Formats {
    /// The next block.
    next: Option<u64>,
    /// Payloads of completed blocks from `next` on.
    blocks: BTreeMap<u64, Vec<u8>>,
    /// Payload of the last blocks, from the first byte of a group on.
    rest: Vec<u8>,
    /// Offsets in `rest` at which blocks begin, with their positions.
    places: Vec<(usize, Lsn)>,
    /// Per page its newest change that formats it: where its group begins, and its version.
    pages: BTreeMap<u64, (Lsn, Scn)>,
}

impl Formats {
    /// A block's write has begun.
    fn submitted(&mut self, number: u64) {
        self.next.get_or_insert(number);
    }

    /// A block is durable.
    fn completed(&mut self, number: u64, payload: &[u8]) {
        self.blocks.insert(number, payload.to_vec());
        while let Some(next) = self.next
            && let Some(payload) = self.blocks.remove(&next)
        {
            self.places.push((self.rest.len(), Lsn(Lsn::of_block(next).0 + BLOCK_HEADER as u64)));
            self.rest.extend(payload);
            self.next = Some(next + 1);
        }
        let mut at = 0;
        while self.rest.len() >= at + GROUP_HEADER {
            let header = Group::decode(&self.rest[at..]).expect("a log holds groups");
            let Some(bytes) = self.rest.get(at..at + header.length) else { break };
            let (from, position) = self.places.iter().rev().find(|(from, _)| *from <= at).expect("each byte has its place");
            let start = Lsn(position.0 + (at - from) as u64);
            if header.kind == GroupKind::Changes {
                for change in Changes::new(&bytes[GROUP_HEADER..], header.items).map(|change| change.expect("it is whole")) {
                    if change.formats() {
                        self.pages.insert(change.page.0, (start, header.scn));
                    }
                }
            }
            at += header.length;
        }
        // What was read goes; of the places, the last one before what is left stays.
        self.rest.drain(..at);
        let last = self.places.iter().rposition(|(from, _)| *from <= at).unwrap_or(0);
        self.places.drain(..last);
        if let Some((from, position)) = self.places.first_mut() {
            *position = Lsn(position.0 + (at - *from) as u64);
            *from = at;
        }
        self.places.iter_mut().for_each(|(from, _)| *from -= at);
    }
}

/// Follows the journal of a run in the order in which the media saw it.
struct Audit {
    /// Blocks whose writes have completed.
    blocks: BTreeSet<u64>,
    /// Everything before this is durable.
    durable: u64,
    /// Of the newest control block that is durable.
    checkpoint: Lsn,
    generation: u64,
    /// Images of the last double-write batch that is durable, by page.
    images: BTreeMap<u64, Vec<u8>>,
    formats: Formats,
    /// Versions of pages that are durable at home.
    at_home: BTreeMap<u64, Scn>,
    /// Page writes submitted and not covered by a completed sync.
    homes: BTreeMap<u64, Home>,
    /// Writes in flight: file, offset, bytes.
    flights: BTreeMap<u64, (bool, u64, Arc<[u8]>)>,
    /// Syncs of the data file in flight, with the homes that they cover.
    syncs: BTreeMap<u64, Vec<u64>>,
    double_write: bool,
    seen: Seen,
}

/// A page write that isn't known to be durable.
#[derive(Default)]
struct Home {
    completed: bool,
    versions: Vec<(u64, Scn)>,
    /// From here on the log makes those of its pages anew that have no image.
    needs: Option<Lsn>,
}

impl Audit {
    fn submitted(&mut self, io: u64, redo: bool, offset: u64, bytes: &Arc<[u8]>, durability: Durability) {
        self.flights.insert(io, (redo, offset, bytes.clone()));
        if !redo {
            if offset >= PAGES_AT {
                let needs = bytes.chunks(PAGE_SIZE).filter_map(|page| self.home(page)).min();
                let versions = bytes.chunks(PAGE_SIZE).map(|page| (header::of(page).id().0, header::of(page).version())).collect();
                self.homes.insert(io, Home { completed: false, versions, needs });
            }
            return;
        }
        assert_eq!(durability, Durability::Durable, "own redo at offset {offset} is written without being made durable");
        if offset >= RING_AT {
            for (index, bytes) in bytes.chunks(LOG_BLOCK).enumerate() {
                self.block(bytes, (offset - RING_AT) / LOG_BLOCK as u64 + index as u64);
            }
        } else if offset >= DOUBLE_WRITE_AT {
            assert!(
                self.homes.is_empty(),
                "the double-write area is used again while {} page writes of its last batch aren't durable",
                self.homes.len()
            );
            self.seen.batches += 1;
        } else if CONTROL_SLOTS.contains(&offset) {
            let slot = u8::from(offset == CONTROL_SLOTS[1]);
            let control = Control::decode(bytes, identity().cluster, THREAD, slot).expect("a whole control block is written");
            assert!(
                control.checkpoint <= Lsn::of_block(self.durable).max(self.checkpoint),
                "the checkpoint {} lies behind what is durable",
                control.checkpoint
            );
            assert!(control.checkpoint >= self.checkpoint, "the checkpoint goes back from {} to {}", self.checkpoint, control.checkpoint);
            let needed = self.homes.values().filter_map(|home| home.needs).min();
            assert!(
                needed.is_none_or(|needed| control.checkpoint <= needed),
                "the checkpoint {} leaves out the log from {needed:?} on, which makes pages anew that are on their way home without an image",
                control.checkpoint
            );
        }
    }

    /// Rule 7, and rule 15. Returns where the log must go on from if the page has no image.
    fn home(&mut self, page: &[u8]) -> Option<Lsn> {
        let stamp = header::of(page);
        assert!(
            stamp.redo() <= Lsn::of_block(self.durable),
            "page {} goes home with redo up to {}, but the log is durable up to block {:x}",
            stamp.id(),
            stamp.redo(),
            self.durable
        );
        self.seen.pages += 1;
        if !self.double_write || self.images.get(&stamp.id().0).is_some_and(|image| image == page) {
            return None;
        }
        // Without an image a torn home is recovered from the log alone: it must have the change that makes the page anew, durable and behind the
        // checkpoint, and recovery must begin there, which it doesn't when a newer version is known to be durable at home.
        let page = stamp.id();
        let formatted = self.formats.pages.get(&page.0);
        let &(position, version) =
            formatted.unwrap_or_else(|| panic!("page {page} goes home without its image in the area, and no log makes it anew"));
        assert!(
            position >= self.checkpoint,
            "page {page} goes home without its image in the area; the log makes it anew at {position}, before the checkpoint {}",
            self.checkpoint
        );
        let at_home = self.at_home.get(&page.0).copied().unwrap_or_default();
        assert!(
            version > at_home,
            "page {page} goes home without its image in the area; it was made anew in version {version}, but {at_home} is durable at home"
        );
        assert!(!self.images.contains_key(&page.0), "page {page} goes home without an image while the area has one of another version");
        self.seen.bare += 1;
        Some(position)
    }

    /// The ring is reused only behind a durable checkpoint (rule 9).
    fn block(&mut self, bytes: &[u8], slot: u64) {
        let header = block::open_any(bytes, &identity(), slot).expect("a whole block is written");
        self.formats.submitted(header.number);
        assert!(!self.blocks.contains(&header.number), "block {:x} is written a second time", header.number);
        if let Some(before) = header.number.checked_sub(identity().ring_blocks).filter(|before| *before > 0) {
            assert!(before < self.checkpoint.block(), "block {before:x} is overwritten, but replay may start at {}", self.checkpoint);
            self.seen.reused += 1;
        }
        assert!(
            header.durable <= Lsn::of_block(self.durable),
            "block {:x} says {} was durable, but it is block {:x}",
            header.number,
            header.durable,
            self.durable
        );
        self.seen.blocks += 1;
    }

    fn completed(&mut self, io: u64) {
        let Some((redo, offset, bytes)) = self.flights.remove(&io) else { return };
        if !redo {
            self.homes.entry(io).and_modify(|home| home.completed = true);
            return;
        }
        if offset >= RING_AT {
            for (index, bytes) in bytes.chunks(LOG_BLOCK).enumerate() {
                let slot = (offset - RING_AT) / LOG_BLOCK as u64 + index as u64;
                let header = block::open_any(bytes, &identity(), slot).expect("a whole block was written");
                self.blocks.insert(header.number);
                self.formats.completed(header.number, &bytes[BLOCK_HEADER..BLOCK_HEADER + usize::from(header.length)]);
            }
            while self.blocks.contains(&self.durable) {
                self.durable += 1;
            }
        } else if offset >= DOUBLE_WRITE_AT {
            let batch = double_write::decode(&bytes[..LOG_BLOCK], identity().cluster, THREAD).expect("a whole batch header is written");
            let first = (DOUBLE_WRITE_IMAGES_AT - DOUBLE_WRITE_AT) as usize;
            self.images = batch
                .items
                .iter()
                .zip(bytes.get(first..).unwrap_or_default().chunks(PAGE_SIZE))
                .map(|((page, _), image)| (page.0, image.to_vec()))
                .collect();
            assert_eq!(self.images.len(), batch.items.len());
        } else if let Some(slot) = CONTROL_SLOTS.iter().position(|at| *at == offset) {
            let control = Control::decode(&bytes, identity().cluster, THREAD, slot as u8).expect("a whole control block was written");
            assert!(control.generation > self.generation);
            (self.generation, self.checkpoint) = (control.generation, control.checkpoint);
            self.seen.checkpoints += 1;
        }
    }
}

fn audit(journal: &Journal, first_block: u64, redo_file: u32, double_write: bool) -> Seen {
    let mut audit = Audit {
        blocks: BTreeSet::new(),
        durable: first_block,
        checkpoint: Lsn(0),
        generation: 0,
        images: BTreeMap::new(),
        formats: Formats::default(),
        at_home: BTreeMap::new(),
        homes: BTreeMap::new(),
        flights: BTreeMap::new(),
        syncs: BTreeMap::new(),
        double_write,
        seen: Seen::default(),
    };
    for event in journal.events() {
        match event {
            Event::WriteSubmitted { io, file, offset, bytes, durability } => {
                audit.submitted(*io, *file == redo_file, *offset, bytes, *durability)
            }
            Event::WriteCompleted { io, .. } => audit.completed(*io),
            Event::SyncSubmitted { io, file } if *file != redo_file => {
                let covered = audit.homes.iter().filter(|(_, home)| home.completed).map(|(io, _)| *io).collect();
                audit.syncs.insert(*io, covered);
            }
            Event::SyncCompleted { io, failed: None } => {
                for io in audit.syncs.remove(io).unwrap_or_default() {
                    for (page, version) in audit.homes.remove(&io).unwrap_or_default().versions {
                        let known = audit.at_home.entry(page).or_default();
                        *known = version.max(*known);
                    }
                }
            }
            _ => {}
        }
    }
    audit.seen
}

#[test]
fn writes_reach_the_media_in_an_order_that_recovery_can_rely_on() {
    test_named!("writes_reach_the_media_in_an_order_that_recovery_can_rely_on").seeds(12, |seed| {
        let mut random = Random::new(seed);
        let mut load = Load { clients: 4, groups: 60, keys: 2000, value_bytes: 1900, checkpoints: 0.05, ..Load::usual() };
        if seed % 3 == 0 {
            // Several laps of the ring.
            (load.groups, load.clients, load.pause_us) = (200, 8, 0);
        }
        let (media, model) = filled(seed, &load);
        media.set_atomic_write(if seed % 2 == 0 { 0 } else { PAGE_SIZE });
        let options = Options {
            log_mode: *random.pick(&[LogMode::Commit, LogMode::Batch, LogMode::None]),
            checkpoint_interval_ms: *random.pick(&[10, 100]),
            checkpoint_log_percent: *random.pick(&[10, 50, 80]),
            page_io_depth: *random.pick(&[1, 16]),
            ..small()
        };
        let model = Arc::new(Mutex::new(model));
        media.record();
        let sim = Sim::new(seed);
        let first = sim.run(async {
            let store = open(&sim.runtime(), &media, &options).await.expect("the store can be opened");
            let first = store.storage().log().durable().block();
            let subject = Subject { seams: sim.runtime(), store, model: model.clone(), media: media.clone() };
            subject.run(load, seed).await.into_iter().for_each(|outcome| outcome.expect("a commit succeeds"));
            sim.runtime().sleep(Duration::from_millis(random.below(300))).await;
            let Subject { store, .. } = subject;
            close(store).await.expect("the store can be closed");
            first
        });
        let redo = media.paths().iter().position(|path| path.as_os_str() == REDO).expect("there is a redo file") as u32;
        let seen = audit(&media.journal().expect("it was recorded"), first, redo, seed % 2 == 0);
        println!("seed {seed}: {seen:?}");
        assert!(seen.pages > 200 && seen.checkpoints > 3 && seen.blocks > 50, "{seen:?}");
        assert!(seed % 2 != 0 || seen.bare > 0 && seen.bare < seen.pages, "{seen:?}");
        assert!(seen.reused > 0 || seed % 3 != 0, "{seen:?}");
    });
}

/// The first leaf's offset in the data file: a page of the first tree that holds keys.
fn some_leaf(media: &MemoryMedia) -> u64 {
    let length = media.file_length(DATA).expect("there is a data file");
    (PAGES_AT..length)
        .step_by(PAGE_SIZE)
        .find(|at| {
            let page = media.peek(DATA, *at, PAGE_SIZE);
            let stamp = header::of(&page);
            stamp.kind() == Some(header::Kind::Tree) && stamp.tree() == TreeId(TREES[0]) && regroup::page::slotted::level(&page) == 0
        })
        .expect("there is a leaf")
}

fn subject(sim: &Sim, store: Arc<Store>, model: &Arc<Mutex<Model>>, media: &MemoryMedia) -> Subject {
    Subject { seams: sim.runtime(), store, model: model.clone(), media: media.clone() }
}

#[test]
fn an_image_from_before_the_area_went_out_of_use_never_comes_back() {
    // Double-writing was switched off (the device promises atomic writes) with a batch in the area that a crash had left there. Pages were then
    // written past it; a damaged one was "restored" to the state it had in that batch.
    let load = Load { keys: 60, ..Load::usual() };
    let (media, model) = filled(3, &load);
    let model = Arc::new(Mutex::new(model));
    media.set_atomic_write(PAGE_SIZE);
    let value = |byte: u8| -> Vec<Change> {
        model.lock().now.keys().map(|(tree, key)| (*tree, key.clone(), Some(vec![byte; 100]))).take(15).collect()
    };
    for (life, double_write) in [(1, DoubleWrite::On), (2, DoubleWrite::Auto)] {
        let sim = Sim::new(life);
        sim.run(async {
            let options = Options { double_write, ..small() };
            let subject = subject(&sim, open(&sim.runtime(), &media, &options).await.expect("it can be opened"), &model, &media);
            for round in 0..4 {
                for part in value(life as u8 * 10 + round).chunks(15) {
                    subject.commit(part.to_vec()).await.expect("a commit succeeds");
                }
                subject.checkpoint().await.expect("a checkpoint is possible");
            }
        });
        media.crash(life);
        sim.kill_all();
    }
    let length = media.file_length(DATA).expect("there is a data file");
    let model = model.lock().clone();
    for at in (PAGES_AT..length).step_by(PAGE_SIZE) {
        let media = media.clone_image();
        media.flip(DATA, at + 1000, 1);
        let sim = Sim::new(at);
        sim.run(async {
            let store = match open(&sim.runtime(), &media, &small()).await {
                Ok(store) => store,
                // A page without which an instance can't serve: no answer is no wrong answer.
                Err(StoreError::Rows(RowError::Table(TableError::Cache(CacheError::Page(_))))) => return,
                Err(other) => panic!("flip in the page at {at}: {other}"),
            };
            for ((tree, key), value) in &model.now {
                if let Ok(found) = store.trees().get(TreeId(*tree), key).await {
                    assert_eq!(found.as_ref(), Some(value), "flip in the page at {at}");
                }
            }
        });
    }
}

#[test]
fn a_cache_of_one_percent_serves_readers_writers_and_scans() {
    let media = world::create(4, shape(64, true));
    let sim = Sim::new(4).step_limit(1_000_000_000);
    let keys = 84_000u64;
    let value = |number: u64, version: u64| {
        let mut value = vec![number as u8; 1900];
        value[..8].copy_from_slice(&version.to_be_bytes());
        value
    };
    sim.run(async {
        let options = Options { log_mode: LogMode::None, ..small() };
        let store = open(&sim.runtime(), &media, &options).await.expect("it can be opened");
        let group = |numbers: std::ops::Range<u64>, version: u64| -> Vec<Change> {
            numbers.map(|number| (TREES[0], number.to_be_bytes().to_vec(), Some(value(number, version)))).collect()
        };
        for start in (0..keys).step_by(40) {
            let changes = group(start..start + 40, 0);
            store.trees().apply(&cluster_tests::model::writes(&changes)).await.expect("a group is applied");
        }
        let pages = store.storage().cache().volume().pages(0);
        assert!(pages > 100 * store.storage().cache().frames() as u64 * 8 / 10, "{pages} pages");
        let (tell, mut done) = tokio::sync::mpsc::unbounded_channel();
        for client in 0..48u64 {
            let (store, tell) = (store.clone(), tell.clone());
            let task = async move {
                let mut random = Random::new(client);
                for step in 0..40 {
                    let number = random.below(keys);
                    match client % 3 {
                        0 => {
                            let changes: Vec<Change> = vec![(TREES[0], number.to_be_bytes().to_vec(), Some(value(number, step)))];
                            store.trees().apply(&cluster_tests::model::writes(&changes)).await.expect("a write succeeds");
                        }
                        1 => {
                            let found = store.trees().get(TreeId(TREES[0]), &number.to_be_bytes()).await.expect("a read succeeds");
                            assert!(found.is_some_and(|found| found[8..].iter().all(|&byte| byte == number as u8)));
                        }
                        _ => {
                            let (from, mut left) = (number.to_be_bytes(), 300);
                            let range = (Bound::Included(&from[..]), Bound::Unbounded);
                            let direction = if step % 2 == 0 { Direction::Up } else { Direction::Down };
                            let see = |_: &[u8], _: &[u8]| {
                                left -= 1;
                                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                            };
                            store.trees().scan(TreeId(TREES[0]), range, direction, see).await.expect("a scan succeeds");
                        }
                    }
                }
                let _ = tell.send(());
            };
            sim.runtime().spawn("client", Box::pin(task));
        }
        drop(tell);
        let mut count = 0;
        while done.recv().await.is_some() {
            count += 1;
        }
        assert_eq!(count, 48);
        assert!(store.storage().cache().counters().evictions.load(Ordering::Relaxed) > 1000);
        assert_eq!(store.storage().cache().quarantined(), []);
    });
}

#[test]
fn operations_that_are_dropped_midway_leave_the_cache_whole() {
    // A dropped read gave its frame back while its buffer was still with the disk: the next one who took the frame found no buffer, and panicked.
    let load = Load { keys: 4000, value_bytes: 1500, ..Load::usual() };
    let (media, model) = filled(5, &load);
    let model = Arc::new(Mutex::new(model));
    let dropped = Arc::new(AtomicU64::new(0));
    for seed in 0..5 {
        let media = media.clone_image();
        let sim = Sim::new(seed);
        sim.run(async {
            let subject = subject(&sim, open(&sim.runtime(), &media, &small()).await.expect("it can be opened"), &model, &media);
            let cache = subject.store.storage().cache();
            assert!(cache.volume().pages(0) > cache.frames() as u64 * 5 / 4);
            let (tell, mut done) = tokio::sync::mpsc::unbounded_channel();
            for client in 0..300u64 {
                let (subject, tell, dropped) = (subject.clone(), tell.clone(), dropped.clone());
                let task = async move {
                    let mut random = Random::new(client);
                    for _ in 0..10 {
                        let late = subject.seams.sleep(Duration::from_micros(random.below(250)));
                        let tree = TreeId(TREES[random.index(3)]);
                        let work = async {
                            if random.chance(0.2) {
                                let all = (Bound::Unbounded, Bound::Unbounded);
                                subject.store.trees().scan(tree, all, Direction::Up, |_, _| ControlFlow::Continue(())).await
                            } else {
                                subject.read(random.below(4000)).await
                            }
                        };
                        tokio::select! {
                            biased;
                            outcome = work => outcome.expect("a read succeeds"),
                            () = late => drop(dropped.fetch_add(1, Ordering::Relaxed)),
                        }
                    }
                    let _ = tell.send(());
                };
                sim.runtime().spawn("client", Box::pin(task));
            }
            drop(tell);
            while done.recv().await.is_some() {}
            assert_eq!(contents(&subject.store).await.expect("all of it can be read"), model.lock().now);
        });
    }
    let dropped = dropped.load(Ordering::Relaxed);
    assert!(dropped > 1000, "only {dropped} operations were dropped midway");
}

#[test]
fn readers_of_one_page_share_one_read() {
    let load = Load { keys: 4000, value_bytes: 1500, ..Load::usual() };
    let (media, model) = filled(6, &load);
    let model = Arc::new(Mutex::new(model));
    let sim = Sim::new(6);
    sim.run(async {
        let subject = subject(&sim, open(&sim.runtime(), &media, &small()).await.expect("it can be opened"), &model, &media);
        let before = subject.store.storage().cache().counters().pages_read.load(Ordering::Relaxed);
        let (tell, mut done) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..100 {
            let (subject, tell) = (subject.clone(), tell.clone());
            sim.runtime().spawn("client", Box::pin(async move { drop(tell.send(subject.read(33).await)) }));
        }
        drop(tell);
        while let Some(outcome) = done.recv().await {
            outcome.expect("a read succeeds");
        }
        let read = subject.store.storage().cache().counters().pages_read.load(Ordering::Relaxed) - before;
        assert!((1..=5).contains(&read), "{read} pages were read for one leaf");
    });
}

#[test]
fn a_damaged_page_is_an_error_for_itself_alone_and_is_read_once() {
    let load = Load { keys: 4000, value_bytes: 1500, ..Load::usual() };
    let (media, model) = filled(7, &load);
    let at = some_leaf(&media);
    media.flip(DATA, at + 4000, 2);
    let sim = Sim::new(7);
    sim.run(async {
        let store = open(&sim.runtime(), &media, &small()).await.expect("it can be opened");
        let (mut errors, mut first) = (0, 0);
        for round in 0..2 {
            for ((tree, key), value) in &model.now {
                match store.trees().get(TreeId(*tree), key).await {
                    Ok(found) => assert_eq!(found.as_ref(), Some(value)),
                    Err(TableError::Cache(CacheError::Page(_))) => errors += 1,
                    Err(other) => panic!("{other}"),
                }
            }
            if round == 0 {
                first = errors;
            }
        }
        assert!(first > 0 && errors == 2 * first && first < 50, "{errors} errors");
        assert_eq!(store.storage().cache().quarantined().len(), 1);
    });
}

#[test]
fn a_store_that_is_dropped_lets_go_of_its_files() {
    // Its tasks went on and held the files and their locks.
    let load = Load { keys: 300, ..Load::usual() };
    let (media, model) = filled(8, &load);
    let model = Arc::new(Mutex::new(model));
    let sim = Sim::new(8);
    sim.run(async {
        for life in 0..4 {
            let store = open(&sim.runtime(), &media, &small()).await.unwrap_or_else(|error| panic!("life {life}: {error}"));
            sound(&store, "opened").await;
            let found = contents(&store).await.expect("it can be read");
            {
                let mut model = model.lock();
                let number = model.matches(model.acknowledged, &found).expect("nothing is lost");
                model.settle(number);
            }
            let subject = subject(&sim, store, &model, &media);
            subject
                .run(Load { groups: 5, checkpoints: 0.1, ..load }, life)
                .await
                .into_iter()
                .for_each(|outcome| outcome.expect("a commit succeeds"));
            drop(subject);
            sim.runtime().sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn nobody_hangs_once_redo_can_not_be_written() {
    let load = Load { keys: 4000, value_bytes: 1500, ..Load::usual() };
    let (media, model) = filled(9, &load);
    let model = Arc::new(Mutex::new(model));
    let sim = Sim::new(9);
    sim.run(async {
        let options = Options { log_mode: LogMode::None, ..small() };
        let subject = subject(&sim, open(&sim.runtime(), &media, &options).await.expect("it can be opened"), &model, &media);
        media.inject(Fault::new(FaultKind::WriteError).file(REDO).forever());
        let outcomes = subject.run(Load { clients: 20, reads: 1.0, ..load }, 9).await;
        assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
        // The cache is full of pages that can't be written any more: reading the others is an error, not a wait without end.
        for number in 0..4000 {
            drop(subject.read(number).await);
        }
        assert!(subject.checkpoint().await.is_err() && subject.checkpoint().await.is_err());
        let Subject { store, .. } = subject;
        assert!(close(store).await.is_err());
    });
}

#[test]
fn a_dropped_read_does_not_take_a_buffer_with_it() {
    // It gave its frame back while its buffer was still with the disk: whoever took the frame next found no buffer, and panicked.
    let load = Load { keys: 4000, value_bytes: 1500, ..Load::usual() };
    let (media, model) = filled(10, &load);
    let keys: Vec<_> = model.now.keys().cloned().collect();
    let sim = Sim::new(10);
    sim.run(async {
        let store = open(&sim.runtime(), &media, &small()).await.expect("it can be opened");
        for (tree, key) in &keys {
            store.trees().get(TreeId(*tree), key).await.expect("a read succeeds");
        }
        let mut dropped = 0;
        for pair in keys.chunks(2) {
            let [(first_tree, first), (tree, key)] = pair else { break };
            let late = sim.runtime().sleep(Duration::from_micros(5));
            tokio::select! {
                biased;
                found = store.trees().get(TreeId(*first_tree), first) => drop(found.expect("a read succeeds")),
                () = late => dropped += 1,
            }
            store.trees().get(TreeId(*tree), key).await.expect("a read succeeds");
        }
        assert!(dropped > 20, "only {dropped} reads were dropped midway");
    });
}
