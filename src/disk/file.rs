//! One open storage file: path, descriptor, in-use lock, alignment, and the words for its errors. What every real driver shares.
//!
//! A file is opened without O_DIRECT, locked, and only then switched to O_DIRECT on the same open file description: a file system that
//! refuses O_DIRECT would otherwise leave a file behind that it had just made, and nothing may be done with a file before its lock is held.
//!
//! Not here: I/O (the drivers), numbering (`driver`).

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::buffer::ALIGN;
use super::{Access, DiskError, lock};
use crate::base::ThreadId;

/// `BLKSSZGET` and `BLKGETSIZE64` of `linux/fs.h`: logical block size (int) and size in bytes (u64) of a block device.
const BLKSSZGET: libc::Ioctl = 0x1268;
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272;

/// `STATX_DIOALIGN` of `linux/stat.h`, and where its two answers lie in `struct statx` (which libc doesn't name yet), in 32-bit words.
const STATX_DIOALIGN: u32 = 0x2000;
const STATX_WORDS: usize = 64;
const STX_MASK: usize = 0;
const STX_DIO_MEM_ALIGN: usize = 152 / 4;
const STX_DIO_OFFSET_ALIGN: usize = 156 / 4;

/// An open storage file. The in-use lock is given up when it is dropped; every I/O in flight holds a reference.
pub(super) struct File {
    descriptor: OwnedFd,
    path: PathBuf,
    block_device: bool,
    /// Offsets and lengths of I/O are multiples of it, in bytes.
    align: usize,
    instance: Option<ThreadId>,
}

impl File {
    /// Opens, or makes, locks and prepares a storage file. See [`super::Disk::open`].
    pub(super) fn open(path: &Path, access: Access) -> Result<File, DiskError> {
        match access {
            Access::Read => File::open_existing(path, None),
            Access::Write(instance) => File::open_existing(path, Some(instance)),
            Access::Create(instance, length) => match File::create(path, instance, length) {
                Err(DiskError::Open { errno: libc::EEXIST, .. }) if is_block_device(path) => {
                    let device = File::open_existing(path, Some(instance))?;
                    device.require_length(length)?;
                    Ok(device)
                }
                outcome => outcome,
            },
        }
    }

    fn open_existing(path: &Path, instance: Option<ThreadId>) -> Result<File, DiskError> {
        // Non-blocking, so that a pipe put in a file's place can't hang us; it has no effect on regular files and block devices.
        let opened = OpenOptions::new()
            .read(true)
            .write(instance.is_some())
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(path)
            .map_err(|error| open_error(path, &error))?;
        File::prepare(opened, path, instance)
    }

    fn create(path: &Path, instance: ThreadId, length: u64) -> Result<File, DiskError> {
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_CLOEXEC)
            .open(path)
            .map_err(|error| open_error(path, &error))?;
        let filled = File::prepare(made, path, Some(instance)).and_then(|file| {
            file.allocate_durably(length)?;
            sync_parent(path)?;
            Ok(file)
        });
        if filled.is_err() {
            // We made it just now and nobody was told of it: a half-made file would only stand in the way of the next try.
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(file = %path.display(), %error, "can't remove a storage file that could not be made completely");
            }
        }
        filled
    }

    fn prepare(opened: fs::File, path: &Path, instance: Option<ThreadId>) -> Result<File, DiskError> {
        if let Some(instance) = instance {
            lock::acquire(opened.as_fd(), path, instance)?;
        }
        let kind = opened.metadata().map_err(|error| open_error(path, &error))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let message = "neither a regular file nor a block device".into();
            return Err(DiskError::Open { file: path.into(), errno: libc::EINVAL, message });
        }
        let block_device = kind.is_block_device();
        let align = match direct_alignment(&opened, block_device).and_then(|align| set_direct(&opened).map(|()| align)) {
            Ok(align) if align <= ALIGN => align,
            Ok(align) => {
                let message = format!("its direct I/O must be aligned to {align} bytes, ours is to {ALIGN}");
                return Err(DiskError::Open { file: path.into(), errno: libc::EINVAL, message });
            }
            Err(reason) => {
                tracing::warn!(file = %path.display(), %reason, "no direct I/O here: reads and writes go through the page cache");
                1
            }
        };
        Ok(File { descriptor: opened.into(), path: path.into(), block_device, align, instance })
    }

    fn require_length(&self, wanted: u64) -> Result<(), DiskError> {
        let length = self.length()?;
        if length < wanted {
            return Err(DiskError::Full { file: self.path.clone(), offset: length, length: (wanted - length) as usize });
        }
        Ok(())
    }

    /// Allocates the first `length` bytes and makes that durable, blocking.
    fn allocate_durably(&self, length: u64) -> Result<(), DiskError> {
        if length > 0 {
            let result = self.allocate(0, length);
            if result < 0 {
                return Err(self.error("grow", 0, length as usize, -result));
            }
        }
        let result = self.sync_all();
        if result < 0 { Err(self.error("sync", 0, length as usize, -result)) } else { Ok(()) }
    }

    /// Allocates bytes, lengthening the file; 0 or a negative errno.
    pub(super) fn allocate(&self, offset: u64, length: u64) -> i32 {
        // SAFETY: plain numbers and an open descriptor.
        answer(unsafe { libc::fallocate(self.raw(), 0, offset as libc::off_t, length as libc::off_t) } as isize)
    }

    /// Data and all metadata to durable media; 0 or a negative errno.
    pub(super) fn sync_all(&self) -> i32 {
        // SAFETY: an open descriptor.
        answer(unsafe { libc::fsync(self.raw()) } as isize)
    }

    /// Data, and the metadata needed to reach it, to durable media; 0 or a negative errno.
    pub(super) fn sync_data(&self) -> i32 {
        // SAFETY: an open descriptor.
        answer(unsafe { libc::fdatasync(self.raw()) } as isize)
    }

    /// Whether this is a block device.
    pub(super) fn is_device(&self) -> bool {
        self.block_device
    }

    /// Length in bytes; of a block device, its size.
    pub(super) fn length(&self) -> Result<u64, DiskError> {
        let read = || -> io::Result<u64> {
            if self.block_device {
                let mut size = 0_u64;
                // SAFETY: BLKGETSIZE64 writes one u64.
                let result = unsafe { libc::ioctl(self.raw(), BLKGETSIZE64, &raw mut size) };
                return if result < 0 { Err(io::Error::last_os_error()) } else { Ok(size) };
            }
            // SAFETY: `stat` is plain numbers; `fstat` fills it.
            let mut stat: libc::stat64 = unsafe { std::mem::zeroed() };
            // SAFETY: an open descriptor and a valid place for the answer.
            if unsafe { libc::fstat64(self.raw(), &raw mut stat) } < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(stat.st_size as u64)
        };
        read().map_err(|error| self.error("length", 0, 0, error.raw_os_error().unwrap_or(0)))
    }

    pub(super) fn raw(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Offsets and lengths of I/O are multiples of it, in bytes; 1 where I/O goes through the page cache.
    pub(super) fn align(&self) -> usize {
        self.align
    }

    /// The typed error for a failed operation with a positive `errno`.
    pub(super) fn error(&self, operation: &'static str, offset: u64, length: usize, errno: i32) -> DiskError {
        let file = self.path.clone();
        match errno {
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => DiskError::Full { file, offset, length },
            _ => DiskError::Io { file, operation, offset, length, errno, message: text(errno) },
        }
    }

    /// The error for a file that ended too early.
    pub(super) fn short(&self, offset: u64, length: usize, seen: usize) -> DiskError {
        let end = self.length().unwrap_or(offset + seen as u64).min(offset + seen as u64);
        DiskError::Short { file: self.path.clone(), offset, length, end }
    }

    /// The error of a disk whose threads are gone.
    pub(super) fn stopped(&self, reason: &str) -> DiskError {
        DiskError::Stopped { file: self.path.clone(), reason: reason.into() }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // Nothing is in flight any more (each I/O holds a reference), so an orderly close gives the lock up at once, even where the kernel
        // still drops references of its own in the background.
        if let Some(instance) = self.instance {
            lock::release(self.descriptor.as_fd(), &self.path, instance);
        }
    }
}

/// The result of a system call as io_uring would give it: a count, or a negative errno.
pub(super) fn answer(result: isize) -> i32 {
    if result < 0 { -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) } else { i32::try_from(result).unwrap_or(i32::MAX) }
}

/// The text of an errno, without the number that `io::Error` appends.
fn text(errno: i32) -> String {
    let full = io::Error::from_raw_os_error(errno).to_string();
    full.split(" (os error").next().unwrap_or_default().into()
}

fn open_error(path: &Path, error: &io::Error) -> DiskError {
    let errno = error.raw_os_error().unwrap_or(0);
    if matches!(errno, libc::ENOSPC | libc::EDQUOT) {
        return DiskError::Full { file: path.into(), offset: 0, length: 0 };
    }
    DiskError::Open { file: path.into(), errno, message: text(errno) }
}

fn is_block_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// Makes a new name in the directory of `path` durable.
fn sync_parent(path: &Path) -> Result<(), DiskError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::File::open(parent).and_then(|directory| directory.sync_all()).map_err(|error| open_error(parent, &error))
}

fn set_direct(opened: &fs::File) -> Result<(), String> {
    let descriptor = opened.as_raw_fd();
    // SAFETY: an open descriptor; F_GETFL takes no argument.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
    // SAFETY: as above; F_SETFL takes flags. O_NONBLOCK was for opening only.
    if flags < 0 || unsafe { libc::fcntl(descriptor, libc::F_SETFL, (flags | libc::O_DIRECT) & !libc::O_NONBLOCK) } < 0 {
        return Err(format!("the file system refuses O_DIRECT: {}", io::Error::last_os_error()));
    }
    Ok(())
}

/// What direct I/O on this file must be aligned to, in bytes, or why there is none.
fn direct_alignment(opened: &fs::File, block_device: bool) -> Result<usize, String> {
    if let Some((memory, offset)) = asked_alignment(opened) {
        if offset == 0 {
            return Err("the file system says that this file can't be read and written directly".into());
        }
        return Ok(memory.max(offset) as usize);
    }
    if block_device {
        let mut size: libc::c_int = 0;
        // SAFETY: BLKSSZGET writes one int.
        if unsafe { libc::ioctl(opened.as_raw_fd(), BLKSSZGET, &raw mut size) } == 0 && size > 0 {
            return Ok(size as usize);
        }
    }
    Ok(ALIGN)
}

/// Memory and offset alignment as `statx` tells them; nothing where the kernel or the file system doesn't know.
fn asked_alignment(opened: &fs::File) -> Option<(u32, u32)> {
    let mut words = [0_u32; STATX_WORDS];
    let empty = CString::default();
    // SAFETY: an open descriptor, an empty path (AT_EMPTY_PATH), and 256 bytes, the size of `struct statx`, for the answer.
    let result = unsafe {
        libc::syscall(libc::SYS_statx, opened.as_raw_fd(), empty.as_ptr(), libc::AT_EMPTY_PATH, STATX_DIOALIGN, words.as_mut_ptr())
    };
    (result == 0 && words[STX_MASK] & STATX_DIOALIGN != 0).then(|| (words[STX_DIO_MEM_ALIGN], words[STX_DIO_OFFSET_ALIGN]))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn refuses_what_is_no_storage_file() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let name = CString::new(fifo.as_os_str().as_bytes()).unwrap();
        // SAFETY: a valid, terminated path.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        for path in [directory.path().to_path_buf(), fifo, PathBuf::from("/dev/null")] {
            assert!(matches!(File::open(&path, Access::Read), Err(DiskError::Open { .. })), "{}", path.display());
        }
    }

    #[test]
    fn a_file_that_can_not_be_allocated_is_not_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("huge");
        let refused = File::open(&path, Access::Create(ThreadId(1), 1 << 60)).err().unwrap();
        assert!(refused.is_full(), "{refused}");
        assert!(!path.exists());
    }
}
