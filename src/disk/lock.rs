//! In-use locks: an instance's own byte of every storage file.
//!
//! The lock belongs to the *open file description* that the instance's I/O goes through (OFD lock, `fcntl(2)`). The kernel gives it up only
//! when the last reference to that description is gone, and every I/O in flight holds one. So on one host, whoever obtains the lock of an
//! instance has proof that the process which held it is dead (or closed the file) *and* that its I/O has drained. `wait()` for the
//! process is no such proof: io_uring finishes requests after the process is gone. `cluster-tests/tests/disk.rs` shows it.
//!
//! Called by `file` for every file opened for writing, by whoever must prove a death ([`probe`], [`wait_free`]), and by the
//! commands for the file that says which process runs an instance.
//!
//! Not here: other hosts (a network file system may carry these locks or not: fencing doesn't rest on it), and two device nodes
//! for one block device, which are two different files for locks: name a device by one path in all configurations.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::DiskError;
use crate::base::{Seams, ThreadId};

/// The first lock byte: behind any data, and below the largest offset (2^63 - 1) by more than there are instances.
const FIRST: i64 = 1 << 62;

/// Pause between two tries of [`wait_free`]: short against a takeover, long against the cost of a try.
const RETRY_MS: u64 = 2;

fn byte_of(instance: ThreadId, kind: libc::c_int) -> libc::flock {
    // SAFETY: `flock` is plain numbers, for which zero is valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = FIRST + i64::from(instance.0);
    lock.l_len = 1;
    lock
}

fn control(descriptor: BorrowedFd<'_>, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    loop {
        // SAFETY: the descriptor is open, and `lock` is a valid `flock` that the kernel may write to.
        if unsafe { libc::fcntl(descriptor.as_raw_fd(), command, std::ptr::from_mut(lock)) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Locks `instance`'s byte through `descriptor`, which must be open for writing, without waiting.
///
/// # Errors
/// [`DiskError::InUse`] when another open file description holds it, [`DiskError::Open`] when the file system can't lock.
pub(super) fn acquire(descriptor: BorrowedFd<'_>, path: &Path, instance: ThreadId) -> Result<(), DiskError> {
    let error = match control(descriptor, libc::F_OFD_SETLK, &mut byte_of(instance, libc::F_WRLCK)) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Err(DiskError::InUse { file: path.into(), instance, holder: holder(descriptor, instance) }),
        _ => Err(DiskError::Open {
            file: path.into(),
            errno: error.raw_os_error().unwrap_or(0),
            message: format!("its file system refuses the in-use lock: {error}"),
        }),
    }
}

/// Gives the lock up before the description is closed. Only for a description without I/O in flight.
pub(super) fn release(descriptor: BorrowedFd<'_>, path: &Path, instance: ThreadId) {
    if let Err(error) = control(descriptor, libc::F_OFD_SETLK, &mut byte_of(instance, libc::F_UNLCK)) {
        tracing::warn!(file = %path.display(), %instance, %error, "can't give up the in-use lock; closing the file does");
    }
}

/// The process that holds the lock. OFD locks belong to no process and yield none; a classical POSIX lock on the byte does.
fn holder(descriptor: BorrowedFd<'_>, instance: ThreadId) -> Option<u32> {
    let mut lock = byte_of(instance, libc::F_WRLCK);
    control(descriptor, libc::F_OFD_GETLK, &mut lock).ok()?;
    (lock.l_type != libc::F_UNLCK as libc::c_short).then(|| u32::try_from(lock.l_pid).ok()).flatten()
}

/// Proof that no process has `instance`'s lock on the file, and no I/O of one is in flight. It holds the lock itself, so that this
/// stays true until it is dropped.
#[derive(Debug)]
pub struct Freed {
    file: std::fs::File,
    path: PathBuf,
    instance: ThreadId,
}

impl Drop for Freed {
    fn drop(&mut self) {
        release(self.file.as_fd(), &self.path, self.instance);
    }
}

/// Tries once to obtain `instance`'s lock on the storage file `path`, through a descriptor of its own.
///
/// # Errors
/// [`DiskError::InUse`] while it is held, [`DiskError::Open`].
pub fn probe(path: &Path, instance: ThreadId) -> Result<Freed, DiskError> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path).map_err(|error| DiskError::Open {
        file: path.into(),
        errno: error.raw_os_error().unwrap_or(0),
        message: error.to_string(),
    })?;
    acquire(file.as_fd(), path, instance)?;
    Ok(Freed { file, path: path.into(), instance })
}

/// Whether `instance`'s lock on `path` is held by anyone, without taking it.
///
/// # Errors
/// [`DiskError::Open`] when the file can't be opened or its file system can't lock.
pub fn is_held(path: &Path, instance: ThreadId) -> Result<bool, DiskError> {
    let failed =
        |error: io::Error| DiskError::Open { file: path.into(), errno: error.raw_os_error().unwrap_or(0), message: error.to_string() };
    let file = OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC).open(path).map_err(failed)?;
    let mut lock = byte_of(instance, libc::F_WRLCK);
    control(file.as_fd(), libc::F_OFD_GETLK, &mut lock).map_err(failed)?;
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

/// Waits until `instance`'s lock on the storage file `path` is free, at most for `patience`.
///
/// # Errors
/// [`DiskError::InUse`] when it was held to the end: its death and drain are *not* proven. [`DiskError::Open`].
pub async fn wait_free(seams: &Seams, path: &Path, instance: ThreadId, patience: Duration) -> Result<Freed, DiskError> {
    let begun = seams.now();
    loop {
        match probe(path, instance) {
            Err(DiskError::InUse { .. }) if seams.now().since(begun) < patience => {
                seams.sleep(Duration::from_millis(RETRY_MS)).await;
            }
            outcome => return outcome,
        }
    }
}
