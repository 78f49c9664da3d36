//! The disk drivers against the suite that every disk must pass, and the proof that a killed process holds its locks until its I/O has drained.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster_tests::disk_suite;
use cluster_tests::fuse_disk::{Control, FuseDisk, Operation};
use regroup::base::ThreadId;
use regroup::disk::{Access, Buffer, Disk, DiskError, Durability, lock, threads, uring};

fn uring_disk() -> Arc<dyn Disk> {
    Arc::new(uring::start().expect("io_uring is to be had here"))
}

fn threads_disk() -> Arc<dyn Disk> {
    Arc::new(threads::start().expect("threads are to be had"))
}

/// Temporary directories on the disk that the build goes to: it takes direct I/O, /tmp may not.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(PathBuf::from(env!("CARGO_TARGET_TMPDIR"))).expect("a temporary directory can be made")
}

/// One that lives in memory, where direct I/O is not to be had or means nothing.
fn memory_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a temporary directory can be made")
}

/// One behind FUSE. Its path is that of the mount.
fn fuse_directory() -> FaultyPath {
    FaultyPath(Faulty::new())
}

struct FaultyPath(Faulty);

impl FaultyPath {
    fn path(&self) -> &Path {
        self.0.mount.path()
    }
}

macro_rules! suite {
    ($name:ident, $make:path, $directory:path) => {
        mod $name {
            suite!(@ $make, $directory, reads_back many_in_flight large_transfers grows short_reads locks create_is_exclusive alignment dropped_futures);
        }
    };
    (@ $make:path, $directory:path, $($check:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                let directory = $directory();
                super::disk_suite::$check($make, directory.path()).await;
            }
        )*
    };
}

suite!(over_uring, super::uring_disk, super::directory);
suite!(over_threads, super::threads_disk, super::directory);
suite!(over_uring_in_memory, super::uring_disk, super::memory_directory);
suite!(over_threads_in_memory, super::threads_disk, super::memory_directory);

/// A faulty disk, the directory behind it, and the directory it is mounted at.
struct Faulty {
    disk: FuseDisk,
    backing: tempfile::TempDir,
    mount: tempfile::TempDir,
}

impl Faulty {
    fn new() -> Faulty {
        let (backing, mount) = (directory(), directory());
        let disk = FuseDisk::mount(backing.path(), mount.path()).expect("FUSE is to be had: root and /dev/fuse");
        Faulty { disk, backing, mount }
    }

    fn control(&self) -> Control {
        self.disk.control()
    }
}

/// Waits until `reached`, and fails the test when that takes too long.
fn eventually(what: &str, mut reached: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A writer process; killed when the test ends in any way.
struct Writer {
    process: Child,
    words: std::io::Lines<BufReader<ChildStdout>>,
}

impl Writer {
    fn start(kind: &str, file: &Path) -> Writer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_disk_writer"));
        let mut process = command.arg(kind).arg(file).stdout(Stdio::piped()).spawn().expect("the writer can be started");
        let words = BufReader::new(process.stdout.take().expect("its output is a pipe")).lines();
        Writer { process, words }
    }

    fn says(&mut self, word: &str) {
        assert_eq!(self.words.next().expect("the writer lives").expect("its output can be read"), word);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Kills a writer whose write the storage holds back, and sees who can have its lock, when.
fn killed_process_holds_its_lock(kind: &str) {
    const DELAY: Duration = Duration::from_millis(1500);
    let faulty = Faulty::new();
    let control = faulty.control();
    let (file, behind) = (faulty.mount.path().join("storage"), faulty.backing.path().join("storage"));
    std::fs::write(&behind, vec![0_u8; 65536]).unwrap();
    let mut writer = Writer::start(kind, &file);
    writer.says("locked");
    writer.says("wrote 1");
    control.delay(Operation::Write, DELAY);
    // The writes before the delay pass at once; one that waits for long is the delayed one.
    eventually("a delayed write is under way", || {
        let performed = control.performed(Operation::Write);
        std::thread::sleep(Duration::from_millis(100));
        control.waiting(Operation::Write) == 1 && control.performed(Operation::Write) == performed
    });
    let before = std::fs::read(&behind).unwrap()[0];
    let performed = control.performed(Operation::Write);
    assert!(matches!(lock::probe(&file, ThreadId(1)), Err(DiskError::InUse { .. })), "the living writer holds its lock");

    let killed = Instant::now();
    writer.process.kill().unwrap();
    // In a thread of its own: the point is that the lock, and not this, is the proof.
    let mut process = std::mem::replace(&mut writer.process, Command::new("true").spawn().unwrap());
    let waited = std::thread::spawn(move || {
        process.wait().unwrap();
        killed.elapsed()
    });
    let mut refused = 0_u32;
    let freed = loop {
        match lock::probe(&file, ThreadId(1)) {
            Ok(freed) => break freed,
            Err(DiskError::InUse { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(killed.elapsed() < Duration::from_secs(20), "the lock is never given up");
        std::thread::sleep(Duration::from_millis(1));
    };
    let obtained = killed.elapsed();
    let after = std::fs::read(&behind).unwrap();
    assert!(refused > 100, "the lock was free after {obtained:?}, while a write was in flight");
    assert_eq!((control.performed(Operation::Write), control.waiting(Operation::Write)), (performed + 1, 0), "the write has landed");
    assert!(after[0] == before + 1 && after[..4096].iter().all(|&byte| byte == before + 1), "its bytes are there");
    std::thread::sleep(Duration::from_millis(300));
    assert!(std::fs::read(&behind).unwrap() == after, "nothing comes after the lock");
    let waited = waited.join().unwrap();
    println!(
        "{kind}: wait() for the killed process returned after {waited:?}, its lock came free after {obtained:?} ({refused} times refused)"
    );
    drop(freed);
}

/// A write survives its process in the kernel. Whoever took over on `wait()`, or on the process' absence, would have it land over newer data;
/// the in-use lock is given up behind it.
#[test]
fn a_killed_process_holds_its_lock_until_its_io_drained() {
    killed_process_holds_its_lock("uring");
}

/// The same for the fallback driver.
#[test]
fn a_killed_process_with_threads_holds_its_lock_until_its_io_drained() {
    killed_process_holds_its_lock("threads");
}

/// Waiting for a lock ends with the lock, which then excludes everyone else, or with the word that nothing is proven.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_a_lock_ends_with_it_or_says_so() {
    let seams = regroup::base::threads::ThreadsRuntime::start(tokio::runtime::Handle::current(), 1).unwrap();
    let directory = directory();
    let path = directory.path().join("storage");
    let disk = uring_disk();
    disk.open(&path, Access::Create(ThreadId(1), 65536)).unwrap();
    let refused = lock::wait_free(&seams, &path, ThreadId(1), Duration::from_millis(30)).await.unwrap_err();
    assert_eq!(refused, DiskError::InUse { file: path.clone(), instance: ThreadId(1), holder: None });
    let closing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        drop(disk);
    });
    let freed = lock::wait_free(&seams, &path, ThreadId(1), Duration::from_secs(10)).await.unwrap();
    closing.join().unwrap();
    assert!(matches!(uring_disk().open(&path, Access::Write(ThreadId(1))), Err(DiskError::InUse { .. })));
    drop(freed);
    uring_disk().open(&path, Access::Write(ThreadId(1))).unwrap();
}

/// A block device over a file, for as long as this lives.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path) -> Loop {
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output().expect("losetup can be run");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Loop(String::from_utf8(made.stdout).expect("a device's path is text").trim().into())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// A block device is used as it is, if it is long enough; it has locks as a file has, and doesn't grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn block_devices() {
    let directory = directory();
    let image = directory.path().join("image");
    std::fs::write(&image, vec![5_u8; 1 << 20]).unwrap();
    let device = Loop::over(&image);
    for make in [uring_disk, threads_disk] {
        let disk = make();
        let too_short = disk.open(&device.0, Access::Create(ThreadId(1), 2 << 20)).unwrap_err();
        assert_eq!(too_short, DiskError::Full { file: device.0.clone(), offset: 1 << 20, length: 1 << 20 });
        let file = disk.open(&device.0, Access::Create(ThreadId(1), 1 << 19)).unwrap();
        assert_eq!(disk.length(file).unwrap(), 1 << 20);
        assert!(matches!(disk.open(&device.0, Access::Write(ThreadId(1))), Err(DiskError::InUse { .. })));
        disk.open(&device.0, Access::Write(ThreadId(2))).unwrap();
        disk.write(file, 4096, Buffer::copy_of(&[9; 4096]), Durability::Durable).await.1.unwrap();
        let (buffer, result) = disk.read(file, 0, Buffer::zeroed(8192)).await;
        result.unwrap();
        assert!(buffer[..4096] == [5; 4096] && buffer[4096..] == [9; 4096]);
        let end = disk.read(file, (1 << 20) - 4096, Buffer::zeroed(8192)).await.1.unwrap_err();
        assert!(matches!(end, DiskError::Short { end: 0x10_0000, .. }), "{end}");
        disk.grow(file, 1 << 20).await.unwrap();
        disk.grow(file, 2 << 20).await.unwrap_err();
        disk.write(file, 4096, Buffer::copy_of(&[5; 4096]), Durability::Durable).await.1.unwrap();
    }
}

/// Where a file system knows no direct I/O, the page cache serves, and alignment doesn't matter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_direct_io_the_page_cache_serves() {
    let mount = RamFs::new();
    let path = mount.0.path().join("storage");
    std::fs::write(&path, vec![3_u8; 65536]).unwrap();
    for make in [uring_disk, threads_disk] {
        let disk = make();
        let file = disk.open(&path, Access::Write(ThreadId(1))).unwrap();
        disk.write(file, 100, Buffer::copy_of(&[4; 300]), Durability::Durable).await.1.unwrap();
        let (buffer, result) = disk.read(file, 99, Buffer::zeroed(302)).await;
        result.unwrap();
        assert!(buffer[0] == 3 && buffer[1..301] == [4; 300] && buffer[301] == 3);
        let short = disk.read(file, 65000, Buffer::zeroed(1000)).await.1.unwrap_err();
        assert!(matches!(short, DiskError::Short { end: 65536, .. }), "{short}");
        disk.sync(file).await.unwrap();
    }
}

/// A mounted ramfs, which knows no direct I/O.
struct RamFs(tempfile::TempDir);

impl RamFs {
    fn new() -> RamFs {
        let directory = directory();
        let done = Command::new("mount").args(["-t", "ramfs", "ramfs"]).arg(directory.path()).status().expect("mount can be run");
        assert!(done.success());
        RamFs(directory)
    }
}

impl Drop for RamFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// What storage refuses comes back typed, once, without a second try; the disk works on afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_storage_are_reported_and_not_retried() {
    for make in [uring_disk, threads_disk] {
        let faulty = Faulty::new();
        let control = faulty.control();
        let disk = make();
        let path = faulty.mount.path().join("storage");
        let file = disk.open(&path, Access::Create(ThreadId(1), 65536)).unwrap();
        let write = |durability| disk.write(file, 4096, Buffer::zeroed(4096), durability);
        control.refuse(Operation::Write, libc::EIO, 1);
        let failed = write(Durability::Durable).await.1.unwrap_err();
        assert!(matches!(&failed, DiskError::Io { operation: "write", offset: 4096, length: 4096, errno: libc::EIO, .. }), "{failed}");
        for errno in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
            control.refuse(Operation::Write, errno, 1);
            assert!(write(Durability::Buffered).await.1.unwrap_err().is_full());
        }
        control.refuse(Operation::Sync, libc::EIO, 1);
        let failed = disk.sync(file).await.unwrap_err();
        assert!(matches!(&failed, DiskError::Io { operation: "sync", errno: libc::EIO, .. }), "{failed}");
        control.refuse(Operation::Read, libc::EIO, 1);
        let failed = disk.read(file, 0, Buffer::zeroed(4096)).await.1.unwrap_err();
        assert!(matches!(&failed, DiskError::Io { operation: "read", errno: libc::EIO, .. }), "{failed}");
        // An interrupted durable write may have been cut off in its flush: it counts as failed. A read is just done again.
        control.refuse(Operation::Write, libc::EINTR, 1);
        let failed = write(Durability::Durable).await.1.unwrap_err();
        assert!(matches!(&failed, DiskError::Io { operation: "write", errno: libc::EINTR, .. }), "{failed}");
        control.refuse(Operation::Read, libc::EINTR, 1);
        disk.read(file, 0, Buffer::zeroed(4096)).await.1.unwrap();
        write(Durability::Durable).await.1.unwrap();
        disk.sync(file).await.unwrap();
    }
}

/// Storage that is cut off stalls I/O and fails none; when it is back, everything completes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_stalls_and_a_restore_resumes() {
    for make in [uring_disk, threads_disk] {
        let faulty = Faulty::new();
        let control = faulty.control();
        let disk = make();
        let file = disk.open(&faulty.mount.path().join("storage"), Access::Create(ThreadId(1), 1 << 20)).unwrap();
        control.cut();
        let write = disk.write(file, 0, Buffer::copy_of(&[7; 4096]), Durability::Durable);
        let read = disk.read(file, 8192, Buffer::zeroed(4096));
        eventually("both wait", || control.waiting(Operation::Write) == 1 && control.waiting(Operation::Read) == 1);
        let mut both = tokio::spawn(async move { (write.await.1, read.await.1) });
        assert!(tokio::time::timeout(Duration::from_millis(200), &mut both).await.is_err(), "storage is cut off");
        control.restore();
        assert_eq!(both.await.unwrap(), (Ok(()), Ok(())));
        drop(disk);
        assert_eq!(std::fs::read(faulty.backing.path().join("storage")).unwrap()[..4096], [7; 4096]);
    }
}

suite!(over_uring_on_fuse, super::uring_disk, super::fuse_directory);
suite!(over_threads_on_fuse, super::threads_disk, super::fuse_directory);
