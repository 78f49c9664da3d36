//! The disk drivers against the suite that every disk must pass, and the proof that a killed process holds its locks until its I/O has drained.

use std::path::PathBuf;
use std::sync::Arc;

use cluster_tests::disk_suite;
use regroup::disk::{Disk, threads, uring};

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

macro_rules! suite {
    ($name:ident, $make:path, $directory:path) => {
        mod $name {
            suite!(@ $make, $directory, reads_back many_in_flight large_transfers grows short_reads locks create_is_exclusive alignment dropped_futures);
        }
    };
    (@ $make:path, $directory:path, $($check:ident)*) => {
        $(
            #[tokio::test]
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
