//! Full opens of a crashed image with one flipped bit (issue 2, item 14; rules 12, 15, 16): every bit of the superblocks, thousands elsewhere.
//!
//! A flip is refused with a typed error, or costs errors on pages, or changes nothing; never is a wrong answer given. Before the log's known
//! end it stops the open, behind it is discarded.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cluster_tests::model::{Contents, Model};
use cluster_tests::seeds::{Test, scaled};
use cluster_tests::test_named;
use cluster_tests::workload::{Load, Subject, changes, filled};
use cluster_tests::world::{DATA, REDO, TREES, contents, open, small};
use parking_lot::Mutex;
use regroup::base::options::Options;
use regroup::base::sim::Sim;
use regroup::base::{Lsn, Random, ThreadId, TreeId};
use regroup::disk::memory::{MemoryDisk, MemoryMedia};
use regroup::disk::{Access, Disk};
use regroup::node::storage::OpenError;
use regroup::node::store::{Store, StoreError};
use regroup::page::superblock::{CONTROL_SLOTS, COPIES, DOUBLE_WRITE_AT, PAGES_AT, RING_AT, SUPERBLOCK, StorageError};
use regroup::recovery::{RecoveryError, RecoveryReport};
use regroup::redo::LogFault;
use regroup::redo::control::ControlFile;

const RING: u64 = 8 << 20;
const LOAD: Load = Load {
    clients: 1,
    groups: 60,
    keys: 1000,
    group_keys: 6,
    value_bytes: 1500,
    deletions: 0.1,
    pause_us: 0,
    checkpoints: 0.0,
    reads: 0.0,
};

/// A crashed store: what it must hold, and where its log lies.
struct Image {
    media: MemoryMedia,
    model: Model,
    /// What it holds once recovered.
    contents: Contents,
    report: RecoveryReport,
}

fn options() -> Options {
    Options { checkpoint_interval_ms: 3_600_000, ..small() }
}

/// A store that was crashed some time after its last commit; `laps`: after its ring went round so often.
fn image(seed: u64, idle: Duration, laps: u64) -> Image {
    let (media, model) = filled(seed, &LOAD);
    let model = Arc::new(Mutex::new(model));
    let sim = Sim::new(seed);
    sim.run(async {
        let store = open(&sim.runtime(), &media, &options()).await.expect("the store can be opened");
        let subject = Subject { seams: sim.runtime(), store, model: model.clone(), media: media.clone() };
        let mut random = Random::new(seed);
        let heavy = Load { group_keys: 20, ..LOAD };
        let mut step = 0;
        while subject.store.storage().log().appended().0 < laps * RING {
            subject.commit(changes(&mut random, &heavy, step)).await.expect("a commit succeeds");
            step += 1;
        }
        for half in 0..2 {
            for _ in 0..LOAD.groups / 2 {
                subject.commit(changes(&mut random, &LOAD, step)).await.expect("a commit succeeds");
                step += 1;
            }
            if half == 0 {
                subject.checkpoint().await.expect("a checkpoint is possible");
            }
        }
        sim.runtime().sleep(idle).await;
    });
    media.crash(seed);
    sim.kill_all();
    let copy = media.clone_image();
    let sim = Sim::new(1);
    let (found, report) = sim.run(async {
        let store = open(&sim.runtime(), &copy, &options()).await.expect("the image can be recovered");
        (contents(&store).await.expect("it can be read"), store.storage().recovery().cloned().expect("it was recovered"))
    });
    let model = model.lock().clone();
    assert_eq!(model.matches(model.acknowledged, &found), Ok(model.groups.len()));
    assert!(report.pages_changed > 20 && report.log_bytes > 100_000, "{report:?}");
    Image { media, model, contents: found, report }
}

/// What became of a flip.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Outcome {
    Refused,
    PageErrors,
    Shorter,
    Right,
}

/// Opens a copy of the image with one bit flipped, and reads everything.
fn flip(image: &Image, file: &str, offset: u64, bit: u8, what: &str) -> (Outcome, Option<StoreError>, Option<RecoveryReport>) {
    let media = image.media.clone_image();
    media.flip(file, offset, bit);
    let sim = Sim::new(offset ^ u64::from(bit));
    sim.run(async {
        let store = match open(&sim.runtime(), &media, &options()).await {
            Ok(store) => store,
            Err(error) => return (Outcome::Refused, Some(error), None),
        };
        let report = store.storage().recovery().cloned();
        let found = contents(&store).await;
        if let (Ok(found), true) = (&found, store.storage().cache().quarantined().is_empty()) {
            if *found == image.contents {
                return (Outcome::Right, None, report);
            }
            let number = image.model.matches(0, found).unwrap_or_else(|why| panic!("{what}: wrong data: {why}"));
            assert!(number < image.model.groups.len());
            return (Outcome::Shorter, None, report);
        }
        key_by_key(&store, &image.contents, what).await;
        (Outcome::PageErrors, None, report)
    })
}

/// Each key is right or an error; nothing that isn't there is found.
async fn key_by_key(store: &Store, contents: &Contents, what: &str) {
    let mut errors = 0;
    for tree in TREES {
        for (_, key) in contents.keys().filter(|(of, _)| *of == tree) {
            match store.trees().get(TreeId(tree), key).await {
                Ok(found) => assert!(found.as_ref() == contents.get(&(tree, key.clone())), "{what}: tree {tree} key {key:02x?} is wrong"),
                Err(_) => errors += 1,
            }
        }
    }
    let quarantined = store.storage().cache().quarantined();
    assert!(errors > 0 || !quarantined.is_empty(), "{what}: a scan failed, but every key can be read");
}

/// Flips `count` (scaled) random bits of `range`, judged by `judge`; returns the outcomes.
fn flips(
    test: Test,
    image: &Image,
    file: &str,
    range: std::ops::Range<u64>,
    count: u64,
    judge: impl Fn(u64, Outcome, Option<&StoreError>, &str),
) {
    let mut outcomes: BTreeMap<Outcome, u64> = BTreeMap::new();
    let name = format!("{file} bytes {range:?}");
    // One seed for the image; the flips' own are what is replayed.
    let mut random = Random::new(range.start ^ count);
    for number in 0..scaled(count) {
        let (offset, bit) = (random.within(range.clone()), random.below(8) as u8);
        let what = format!("flip {number} of {file}: bit {bit} of byte {offset}");
        test.seed(0, || {
            let (outcome, error, _) = flip(image, file, offset, bit, &what);
            judge(offset, outcome, error.as_ref(), &what);
            *outcomes.entry(outcome).or_default() += 1;
        });
    }
    println!("{name}: {outcomes:?}");
}

fn any(_: u64, outcome: Outcome, _: Option<&StoreError>, what: &str) {
    assert_ne!(outcome, Outcome::Shorter, "{what}: acknowledged groups are gone");
}

fn untouched(_: u64, outcome: Outcome, error: Option<&StoreError>, what: &str) {
    assert_eq!(outcome, Outcome::Right, "{what}: {error:?}");
}

fn is_damaged_log(error: Option<&StoreError>) -> bool {
    matches!(error, Some(StoreError::Open(OpenError::Recovery(RecoveryError::Log(LogFault::Damaged { .. })))))
}

/// Long enough after the last commit that it is sealed.
const SEALED: Duration = Duration::from_millis(60);

/// File offsets of log positions, which must not wrap.
fn in_ring(from: u64, to: u64) -> std::ops::Range<u64> {
    assert!(from / RING == to / RING);
    RING_AT + from % RING..RING_AT + to % RING
}

#[test]
fn log_and_control() {
    let test = test_named!("log_and_control");
    let image = image(1, SEALED, 0);
    let RecoveryReport { log_from, log_end, .. } = image.report;
    let block = |position: u64| Lsn(position).block() * 4096;
    // The last block of all is the seal: damage to it is a torn tail that nobody relies on.
    let seal = log_end - 4096;
    flips(test, &image, REDO, in_ring(block(log_from), seal), 1200, |_, outcome, error, what| {
        assert!(outcome == Outcome::Refused && is_damaged_log(error), "{what}: {outcome:?} {error:?}");
    });
    flips(test, &image, REDO, in_ring(seal, log_end), 100, untouched);
    flips(test, &image, REDO, in_ring(log_end, log_end + (1 << 20)), 200, untouched);
    flips(test, &image, REDO, CONTROL_SLOTS[0]..CONTROL_SLOTS[1] + 4096, 500, any);
}

#[test]
fn double_write_and_gaps() {
    let test = test_named!("double_write_and_gaps");
    let image = image(2, Duration::from_millis(1), 0);
    flips(test, &image, REDO, CONTROL_SLOTS[1] + 4096..DOUBLE_WRITE_AT, 100, untouched);
    // Homes are whole in this image: what the area says about them doesn't matter.
    flips(test, &image, REDO, DOUBLE_WRITE_AT..RING_AT, 600, untouched);
}

#[test]
fn control_after_the_ring_went_round() {
    let test = test_named!("control_after_the_ring_went_round");
    let image = image(3, SEALED, 2);
    flips(test, &image, REDO, CONTROL_SLOTS[0]..CONTROL_SLOTS[1] + 4096, 300, any);
}

#[test]
fn pages() {
    let test = test_named!("pages");
    let image = image(4, SEALED, 0);
    let length = image.media.file_length(DATA).expect("there is a data file");
    flips(test, &image, DATA, PAGES_AT..length, 2200, any);
    // The first pages: space map, directory, roots.
    flips(test, &image, DATA, PAGES_AT..PAGES_AT + 8 * 8192, 400, any);
}

#[test]
fn every_bit_of_every_superblock() {
    let image = image(5, SEALED, 0);
    let media = &image.media;
    let digests: Vec<_> = [REDO, DATA].map(|file| media.digest(file)).into();
    let writes = media.counters().writes;
    let mut sim = Sim::new(5);
    let mut opens = 0u64;
    for file in [REDO, DATA] {
        for copy in COPIES {
            for bit in 0..SUPERBLOCK as u64 * 8 {
                let offset = copy + bit / 8;
                media.flip(file, offset, (bit % 8) as u8);
                let error = sim.run(async { open(&sim.runtime(), media, &options()).await }).err();
                match error {
                    Some(StoreError::Open(OpenError::Storage(StorageError::Fault { file: named, offset: at, fault }))) => {
                        assert_eq!((named.as_path(), at), (Path::new(file), copy), "bit {bit}: {fault}");
                    }
                    other => panic!("{file}, bit {bit} of the copy at {copy}: {other:?}"),
                }
                media.flip(file, offset, (bit % 8) as u8);
                opens += 1;
                if opens.is_multiple_of(1000) {
                    let now: Vec<_> = [REDO, DATA].map(|file| media.digest(file)).into();
                    assert_eq!(now, digests);
                    sim = Sim::new(opens);
                }
            }
        }
    }
    assert_eq!(opens, 4 * 32768);
    assert_eq!(media.counters().writes, writes, "an open that was refused wrote something");
    println!("{opens} opens refused, nothing written");
}

#[test]
fn the_undecidable_flip_is_a_torn_tail_and_the_report_shows_the_end() {
    // Crashed right after the last acknowledgement: nothing says yet that its blocks were durable.
    let image = image(6, Duration::ZERO, 0);
    let last = image.model.groups.last().expect("there are groups");
    let before = image.model.groups[image.model.groups.len() - 2].end;
    let offset = RING_AT + (last.end.0 - 20) % RING;
    let (outcome, _, report) = flip(&image, REDO, offset, 4, "the last group");
    assert_eq!(outcome, Outcome::Shorter);
    let report = report.expect("it was recovered");
    assert!(report.log_end < last.end.0 && report.log_end >= before.0, "{} {} {}", report.log_end, before, last.end);
    // The same flip once the group is sealed.
    let image = self::image(6, SEALED, 0);
    let (outcome, error, _) = flip(&image, REDO, offset, 4, "the last group, sealed");
    assert!(outcome == Outcome::Refused && is_damaged_log(error.as_ref()), "{outcome:?} {error:?}");
}

#[test]
fn the_control_block_says_where_the_images_differ() {
    // What the other tests rely on: the image isn't closed, and its checkpoint lies behind the log's start.
    let image = image(7, SEALED, 0);
    let sim = Sim::new(7);
    let control = sim.run(async {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(&image.media, sim.runtime()));
        let file = disk.open(Path::new(REDO), Access::Read).expect("it can be opened");
        let cluster = cluster_tests::world::shape(64, true).cluster.tag();
        ControlFile::new(disk, file, cluster, ThreadId(1)).read().await.expect("a slot is whole").control
    });
    assert_eq!(control.state, regroup::redo::control::ThreadState::Open);
    assert!(control.checkpoint > control.end && control.checkpoint.0 == image.report.log_from);
}
