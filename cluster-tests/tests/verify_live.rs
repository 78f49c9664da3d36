//! Checks of a live store, on a real disk: whatever is written while they run, nothing sound is called wrong, and what is wrong is found.
//! Checks of its files when it is closed: nothing is written to them.

use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use regroup::base::options::{DiskKind, Options};
use regroup::base::random::Random;
use regroup::base::threads::ThreadsRuntime;
use regroup::base::{ClusterId, Seams, ThreadId, TreeId};
use regroup::cli::config::Config;
use regroup::cli::verify::check;
use regroup::cli::verify::findings::{Finding, Listener, Step, Summary};
use regroup::disk::{lock, open_disk};
use regroup::node::storage::Opening;
use regroup::node::store::Store;
use regroup::page::superblock::Shape;
use regroup::page::volume::StoragePaths;
use regroup::table::catalog::{Column, Table};
use regroup::table::datum::{Datum, Type};
use regroup::table::rows::{Interrupt, Rows};
use regroup::table::tables::{KeySpec, TableSpec, Tables};
use regroup::table::{Direction, Write};
use regroup::txn::Isolation;

const TREE: TreeId = TreeId(100);

#[derive(Default)]
struct Heard {
    findings: Vec<Finding>,
}

impl Listener for Heard {
    fn finding(&mut self, finding: &Finding) {
        self.findings.push(finding.clone());
    }

    fn step(&mut self, _step: &Step) {}
}

fn config(paths: &StoragePaths) -> Config {
    let options = Options { cache_bytes: 2 << 20, checkpoint_interval_ms: 50, ..Options::default() };
    Config::alone(paths.clone(), options)
}

/// A store on real files whose cache is far smaller than what is written, so that pages go home and come back all the time.
async fn open(seams: &Seams, kind: DiskKind, folder: &std::path::Path) -> (Arc<Store>, StoragePaths) {
    let paths = StoragePaths { redo: vec![folder.join("redo.1")], data: vec![folder.join("data.0"), folder.join("data.1")] };
    let shape = Shape {
        cluster: ClusterId(*b"verify live test"),
        threads: 1,
        data_files: 2,
        ring_bytes: 16 << 20,
        data_bytes: 1 << 20,
        grow: true,
        created_ms: 0,
    };
    // A disk of its own: files stay locked for as long as the disk that opened them.
    let making = open_disk(kind).expect("the disk driver starts");
    Store::create(seams.clone(), making, &paths, shape).await.expect("storage can be made");
    for path in paths.redo.iter().chain(&paths.data) {
        lock::wait_free(seams, path, ThreadId(1), Duration::from_secs(20)).await.expect("the files become free");
    }
    let disk = open_disk(kind).expect("the disk driver starts");
    let options = config(&paths).options;
    let (on_progress, on_checkpoint) = (None, None);
    let opening = Opening { seams: seams.clone(), disk, paths: paths.clone(), thread: ThreadId(1), options, on_progress, on_checkpoint };
    (Arc::new(Store::open(opening).await.expect("it opens")), paths)
}

/// Inserts and deletes until told to stop; returns how many.
async fn write(store: &Store, seed: u64, stop: &AtomicBool, done: &AtomicU64) {
    let mut random = Random::new(seed);
    while !stop.load(Ordering::Relaxed) {
        let key = random.below(40_000).to_be_bytes();
        let mut value = vec![0; random.below(400) as usize];
        random.bytes(&mut value);
        let put = Write::Put { tree: TREE, key: &key, value: &value };
        let delete = Write::Delete { tree: TREE, key: &key };
        store.commit(&[if random.chance(0.4) { delete } else { put }]).await.expect("it commits");
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs `test` on an open store, closes that, and runs `then` on its files.
fn with_store_and_files(
    kind: DiskKind,
    test: impl AsyncFnOnce(Seams, Arc<Store>, StoragePaths),
    then: impl AsyncFnOnce(Seams, StoragePaths),
) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory can be made");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("a runtime can be made");
    let seams = ThreadsRuntime::start(runtime.handle().clone(), 2).expect("workers can be started");
    runtime.block_on(async {
        let (store, paths) = open(&seams, kind, folder.path()).await;
        store.trees().create_tree(TREE).await.expect("a tree can be made");
        test(seams.clone(), store.clone(), paths.clone()).await;
        let store = Arc::into_inner(store).expect("the test is over");
        store.close().await.expect("it closes");
        then(seams.clone(), paths).await;
    });
}

fn with_store(kind: DiskKind, test: impl AsyncFnOnce(Seams, Arc<Store>, StoragePaths)) {
    with_store_and_files(kind, test, async |_, _| {});
}

fn nothing_is_found_under_writes(kind: DiskKind) {
    with_store(kind, async |seams, store, _| {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, mut all_ended) = tokio::sync::mpsc::channel::<()>(1);
        for seed in 0..8 {
            let (store, stop, written, ended) = (store.clone(), stop.clone(), written.clone(), ended.clone());
            seams.spawn(
                "writer",
                Box::pin(async move {
                    write(&store, seed, &stop, &written).await;
                    drop((store, ended));
                }),
            );
        }
        drop(ended);
        let begun = Instant::now();
        let (mut checks, mut newer) = (0, 0);
        while begun.elapsed() < Duration::from_secs(4) {
            let mut heard = Heard::default();
            let summary = check::live(&store, &mut heard).await.expect("the check runs");
            assert!(summary.clean, "check {checks}: {:?}", heard.findings);
            newer += summary.pages.expect("pages were walked").newer_in_cache;
            checks += 1;
        }
        stop.store(true, Ordering::Relaxed);
        assert!(all_ended.recv().await.is_none(), "the writers end");
        let (read, written) = (store.trees().cache().counters().pages_written.load(Ordering::Relaxed), written.load(Ordering::Relaxed));
        println!("{checks} checks during {written} writes, {read} pages written home, {newer} homes excused as the cache had newer pages");
        assert!(
            checks >= 3 && written > 1000 && read > 1000,
            "{checks} checks, {written} writes, {read} pages written: no load to speak of"
        );
    });
}

#[test]
fn nothing_is_found_under_writes_with_io_uring_where_it_is_to_be_had() {
    nothing_is_found_under_writes(DiskKind::Auto);
}

#[test]
fn nothing_is_found_under_writes_on_threads() {
    nothing_is_found_under_writes(DiskKind::Threads);
}

#[test]
fn what_is_damaged_behind_a_live_store_is_found() {
    with_store(DiskKind::Threads, async |_, store, paths| {
        for key in 0..5000u64 {
            store.commit(&[Write::Put { tree: TREE, key: &key.to_be_bytes(), value: &[7; 200] }]).await.expect("it commits");
        }
        store.storage().checkpoint().await.expect("a checkpoint can be taken");
        let mut heard = Heard::default();
        assert!(check::live(&store, &mut heard).await.expect("the check runs").clean, "{:?}", heard.findings);
        let file = std::fs::File::options().read(true).write(true).open(&paths.data[0]).expect("it is there");
        // A page in the middle of the tree's, and one that was never written.
        for page in [20, 100] {
            let at = 8192 * (1 + page) + 77;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("it can be read");
            file.write_all_at(&[byte[0] ^ 1], at).expect("it can be written");
        }
        let mut heard = Heard::default();
        let summary = check::live(&store, &mut heard).await.expect("the check runs");
        assert!(!summary.clean);
        for page in ["p0:20 at offset", "p0:100 at offset"] {
            assert!(heard.findings.iter().any(|found| found.part == "page" && found.place.contains(page)), "{page}: {:?}", heard.findings);
        }
    });
}

/// A table of 300 people with an index on their ages.
async fn people(tables: &Tables) -> Arc<Table> {
    let column = |name: &str, ty| Column { name: name.into(), ty, not_null: false, default: None };
    let key = |column: &str| KeySpec { name: None, columns: vec![column.into()] };
    let columns = vec![column("id", Type::Int4), column("age", Type::Int4)];
    let spec = TableSpec { name: "people".into(), columns, key: Some(key("id")), unique: vec![key("age")] };
    let mut txn = tables.rows().begin(Isolation::ReadCommitted, Interrupt::default());
    txn.begin_statement();
    let table = tables.create_table(&mut txn, spec).await.expect("a table can be made");
    for number in 0..300 {
        tables.insert(&mut txn, &table, &[Datum::Int4(number), Datum::Int4(1000 - number)]).await.expect("a row can be inserted");
    }
    txn.commit().await.expect("it commits");
    table
}

/// Deletes the first entry of the table's index, which no SQL does.
async fn lose_an_entry(rows: &Rows, table: &Table) {
    let tree = table.indexes[0].tree;
    let mut txn = rows.begin(Isolation::ReadCommitted, Interrupt::default());
    txn.begin_statement();
    let entries = txn.cursor(tree, Bound::Unbounded, Bound::Unbounded, Direction::Up).next(&txn).await.expect("it can be read");
    let first = entries.first().expect("there are entries");
    txn.delete(tree, &first.key, first.version).await.expect("it can be deleted");
    txn.commit().await.expect("it commits");
}

fn contents(paths: &StoragePaths) -> Vec<Vec<u8>> {
    paths.redo.iter().chain(&paths.data).map(|path| std::fs::read(path).expect("it can be read")).collect()
}

async fn offline(seams: &Seams, paths: &StoragePaths) -> (Summary, Vec<Finding>) {
    for path in paths.redo.iter().chain(&paths.data) {
        lock::wait_free(seams, path, ThreadId(1), Duration::from_secs(20)).await.expect("the files become free");
    }
    let before = contents(paths);
    let mut heard = Heard::default();
    let disk = open_disk(DiskKind::Threads).expect("the disk driver starts");
    let summary = check::offline(seams, disk, &config(paths), &mut heard).await.expect("the check runs");
    assert!(contents(paths) == before, "the check has written to the files");
    (summary, heard.findings)
}

#[test]
fn an_index_that_disagrees_with_its_table_is_found_live_and_offline() {
    let live = async |_: Seams, store: Arc<Store>, _: StoragePaths| {
        let tables = Tables::new(store.rows().clone());
        let table = people(&tables).await;
        let mut heard = Heard::default();
        let summary = check::live(&store, &mut heard).await.expect("the check runs");
        assert!(summary.clean, "{:?}", heard.findings);
        assert_eq!((summary.tables, summary.rows, summary.index_entries), (Some(1), 300, 300));
        lose_an_entry(store.rows(), &table).await;
        let summary = check::live(&store, &mut heard).await.expect("the check runs");
        assert_eq!((summary.clean, summary.findings_total), (false, 1), "{:?}", heard.findings);
        assert!(heard.findings[0].part == "index" && heard.findings[0].what.contains("people_age_key"), "{:?}", heard.findings);
    };
    with_store_and_files(DiskKind::Threads, live, async |seams, paths| {
        let (summary, findings) = offline(&seams, &paths).await;
        assert_eq!((summary.clean, summary.rows, summary.index_entries), (false, 300, 299), "{findings:?}");
        assert!(findings.len() == 1 && findings[0].what.contains("people_age_key"), "{findings:?}");
    });
}

#[test]
fn a_check_of_sound_files_is_clean_and_writes_nothing() {
    let live = async |_: Seams, store: Arc<Store>, _: StoragePaths| drop(people(&Tables::new(store.rows().clone())).await);
    with_store_and_files(DiskKind::Threads, live, async |seams, paths| {
        let (summary, findings) = offline(&seams, &paths).await;
        assert!(summary.clean && findings.is_empty(), "{findings:?}");
        assert_eq!((summary.tables, summary.rows), (Some(1), 300));
    });
}
