//! L1: bytes to durable media.
//!
//! [`Disk`] is the whole boundary: a few methods over numbered files. `uring` and `threads` are the real ones, `memory` is the
//! simulated one with seeded faults, `overlay` keeps writes to itself. A disk knows nothing of pages or logs. It never retries a failed write or flush (rule 14):
//! it reports, the owner of the bytes decides.

pub mod buffer;
mod driver;
mod file;
pub mod lock;
pub mod memory;
pub mod overlay;
mod request;
pub mod threads;
pub mod uring;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::options::DiskKind;
use crate::base::{BoxFuture, ThreadId};
pub use buffer::{Buffer, BufferPool};
pub use driver::FileDisk;

/// A storage file that a disk has open; valid for that disk only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub u32);

/// How to open a storage file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// For reading only; takes no lock.
    Read,
    /// For reading and writing, holding the in-use lock of this instance for as long as the file is open *or I/O on it is in flight*.
    Write(ThreadId),
    /// As `Write`, making the file first with this length in bytes, preallocated; it must not exist. A block device is used as it is, if it is long enough.
    Create(ThreadId, u64),
}

/// What a write's completion means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// The device may still lose it; a later [`Disk::sync`] of the file makes it durable.
    Buffered,
    /// On durable media.
    Durable,
}

/// What a disk could not do, with the evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The operating system's answer to an I/O.
    #[error("{operation} of {length} bytes at offset {offset} of {}: {message} (errno {errno})", file.display())]
    Io {
        /// The storage file.
        file: PathBuf,
        /// `read`, `write`, `sync`, `grow`.
        operation: &'static str,
        /// In bytes.
        offset: u64,
        /// In bytes.
        length: usize,
        /// Positive errno.
        errno: i32,
        /// Its text.
        message: String,
    },
    /// The file ends before the bytes asked for.
    #[error("{} ends at byte {end}, but {length} bytes at offset {offset} were to be read: it was truncated", file.display())]
    Short {
        /// The storage file.
        file: PathBuf,
        /// In bytes.
        offset: u64,
        /// In bytes.
        length: usize,
        /// Where the file ended, in bytes.
        end: u64,
    },
    /// No room on the device, or a file size limit.
    #[error("no space left for {length} bytes at offset {offset} of {}: free some, or add a data file", file.display())]
    Full {
        /// The storage file.
        file: PathBuf,
        /// In bytes.
        offset: u64,
        /// In bytes.
        length: usize,
    },
    /// Opening failed.
    #[error("can't open {}: {message} (errno {errno})", file.display())]
    Open {
        /// The storage file.
        file: PathBuf,
        /// Positive errno.
        errno: i32,
        /// Its text.
        message: String,
    },
    /// Another process uses the file under the same instance number, or its last I/O has not drained.
    #[error("{} is in use by instance {instance} of another process{}: stop it first (its I/O must have drained)", file.display(), holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    InUse {
        /// The storage file.
        file: PathBuf,
        /// Whose lock it is.
        instance: ThreadId,
        /// Who holds it, when the system tells.
        holder: Option<u32>,
    },
    /// The disk stopped: its ring or threads are gone.
    #[error("the disk of {} has stopped: {reason}", file.display())]
    Stopped {
        /// The storage file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
}

impl DiskError {
    /// Whether the device had no room.
    pub fn is_full(&self) -> bool {
        matches!(self, DiskError::Full { .. })
    }
}

/// A disk driver that could not be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {driver} disk driver can't {step}: {message} (errno {errno}){}", hint(*errno))]
pub struct DriverError {
    /// `uring`, `threads`.
    pub driver: &'static str,
    /// What it was doing.
    pub step: &'static str,
    /// Positive errno.
    pub errno: i32,
    /// Its text.
    pub message: String,
}

impl DriverError {
    fn new(driver: &'static str, step: &'static str, error: &std::io::Error) -> DriverError {
        DriverError { driver, step, errno: error.raw_os_error().unwrap_or(0), message: error.to_string() }
    }
}

/// What an operator can do about the usual refusals of io_uring.
fn hint(errno: i32) -> &'static str {
    match errno {
        libc::EPERM | libc::ENOSYS => "; a container's seccomp profile or kernel.io_uring_disabled forbids io_uring",
        libc::ENOMEM => "; raise RLIMIT_MEMLOCK",
        _ => "",
    }
}

/// Starts the disk driver that the options ask for. [`DiskKind::Auto`] goes on with threads, warning why, where io_uring can't be had.
///
/// # Errors
/// The driver asked for can't be started here.
pub fn open_disk(kind: DiskKind) -> Result<Arc<dyn Disk>, DriverError> {
    match kind {
        DiskKind::Uring => Ok(Arc::new(uring::start()?)),
        DiskKind::Threads => Ok(Arc::new(threads::start()?)),
        DiskKind::Auto => match uring::start() {
            Ok(disk) => Ok(Arc::new(disk)),
            Err(reason) => {
                tracing::warn!(%reason, "io_uring is not to be had: storage I/O goes through threads, at a lower rate");
                Ok(Arc::new(threads::start()?))
            }
        },
    }
}

/// The result of an I/O together with its buffer, which always comes back.
pub type IoOutcome = (Buffer, Result<(), DiskError>);

/// Storage files as numbered arrays of bytes.
///
/// Offsets and lengths are multiples of the file's alignment (4096 always suffices). Several I/Os may be in flight; they complete in any
/// order, and overlapping ones have no defined result. An I/O is under way when its method returns, whether its future is polled or
/// not; dropping the future doesn't cancel it.
pub trait Disk: Send + Sync + 'static {
    /// Opens or makes a file; a lock asked for is taken before anything else is done with it.
    ///
    /// # Errors
    /// [`DiskError::Open`], [`DiskError::InUse`], [`DiskError::Full`].
    fn open(&self, path: &Path, access: Access) -> Result<FileId, DiskError>;

    /// Length in bytes; of a block device, its size.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    fn length(&self, file: FileId) -> Result<u64, DiskError>;

    /// Whether the file is a block device, which has the length that it has.
    fn is_device(&self, file: FileId) -> bool;

    /// The path given to [`Disk::open`], for messages.
    fn path(&self, file: FileId) -> PathBuf;

    /// Largest naturally aligned write that the device never tears, in bytes; 0 when it promises nothing.
    fn atomic_write_max(&self, file: FileId) -> usize;

    /// Reads `buffer.len()` bytes at `offset`.
    ///
    /// # Errors
    /// [`DiskError::Io`], [`DiskError::Short`], [`DiskError::Stopped`]; the buffer's contents are then undefined.
    fn read(&self, file: FileId, offset: u64, buffer: Buffer) -> BoxFuture<IoOutcome>;

    /// Writes all of `buffer` at `offset`, inside the file's present length.
    ///
    /// # Errors
    /// [`DiskError::Io`], [`DiskError::Full`], [`DiskError::Stopped`]; what is on media is then unknown (rule 14).
    fn write(&self, file: FileId, offset: u64, buffer: Buffer, durability: Durability) -> BoxFuture<IoOutcome>;

    /// Makes every write of this file that completed before the call durable.
    ///
    /// # Errors
    /// [`DiskError::Io`], [`DiskError::Stopped`]: those writes may be lost, also after a later sync that succeeds.
    fn sync(&self, file: FileId) -> BoxFuture<Result<(), DiskError>>;

    /// Lengthens the file to `length` bytes of zeroes, allocated and durable. Does nothing when it is as long already.
    ///
    /// # Errors
    /// [`DiskError::Full`], [`DiskError::Io`].
    fn grow(&self, file: FileId, length: u64) -> BoxFuture<Result<(), DiskError>>;

    /// Lets the disk register the pool's arena with the kernel. A hint: I/O works without.
    fn register(&self, pool: &BufferPool);

    /// What this disk is, for status output: `uring`, `threads`, `memory`.
    fn kind(&self) -> &'static str;
}
