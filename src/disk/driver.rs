//! [`Disk`] over real files for any driver: numbering, opening and alignment are the same for all of them; a driver only moves requests.
//!
//! An I/O begins when the method is called, not when its future is first polled.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use super::file::File;
use super::request::Request;
use super::{Access, BoxFuture, Buffer, BufferPool, Disk, DiskError, Durability, FileId, IoOutcome};

/// Carries requests to the kernel and back. Dropping it waits until those in flight are complete.
pub(super) trait Driver: Send + Sync {
    /// As in [`Disk::kind`].
    fn kind(&self) -> &'static str;
    /// Takes over a request; never blocks on I/O.
    fn submit(&self, request: Request);
    /// Hears of a file before any request for it.
    fn opened(&self, number: u32, file: &Arc<File>);
    /// May register the pool's memory with the kernel.
    fn register(&self, pool: &BufferPool);
}

/// A disk of real files. [`super::uring::start`] and [`super::threads::start`] make one.
pub struct FileDisk {
    /// Before `files`: dropped first, so that every request is complete when the files are closed and their locks given up.
    driver: Box<dyn Driver>,
    files: RwLock<Vec<Arc<File>>>,
}

impl FileDisk {
    pub(super) fn over(driver: impl Driver + 'static) -> FileDisk {
        FileDisk { driver: Box::new(driver), files: RwLock::new(Vec::new()) }
    }

    fn file(&self, file: FileId) -> Arc<File> {
        self.files.read()[file.0 as usize].clone()
    }

    fn begin<T>(&self, (request, future): (Request, BoxFuture<T>)) -> BoxFuture<T> {
        if let Some(request) = request.admit() {
            self.driver.submit(request);
        }
        future
    }
}

impl Disk for FileDisk {
    fn open(&self, path: &Path, access: Access) -> Result<FileId, DiskError> {
        let file = Arc::new(File::open(path, access)?);
        let mut files = self.files.write();
        let number = u32::try_from(files.len()).expect("fewer than 2^32 files are opened");
        self.driver.opened(number, &file);
        files.push(file);
        Ok(FileId(number))
    }

    fn length(&self, file: FileId) -> Result<u64, DiskError> {
        self.file(file).length()
    }

    fn is_device(&self, file: FileId) -> bool {
        self.file(file).is_device()
    }

    fn path(&self, file: FileId) -> PathBuf {
        self.file(file).path().into()
    }

    /// 0: `statx` may name a size (STATX_WRITE_ATOMIC), but the promise holds for writes with RWF_ATOMIC only, one page each, and no device that
    /// keeps or breaks it was at hand to show that pages then survive a power cut. The double-write area costs time; a wrong promise costs pages.
    fn atomic_write_max(&self, _file: FileId) -> usize {
        0
    }

    fn read(&self, file: FileId, offset: u64, buffer: Buffer) -> BoxFuture<IoOutcome> {
        self.begin(Request::read(file.0, self.file(file), offset, buffer))
    }

    fn write(&self, file: FileId, offset: u64, buffer: Buffer, durability: Durability) -> BoxFuture<IoOutcome> {
        self.begin(Request::write(file.0, self.file(file), offset, buffer, durability))
    }

    fn sync(&self, file: FileId) -> BoxFuture<Result<(), DiskError>> {
        self.begin(Request::sync(file.0, self.file(file)))
    }

    fn grow(&self, file: FileId, length: u64) -> BoxFuture<Result<(), DiskError>> {
        let handle = self.file(file);
        match handle.length() {
            Ok(present) if present >= length => Box::pin(std::future::ready(Ok(()))),
            Ok(present) => self.begin(Request::grow(file.0, handle, present, length - present)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn register(&self, pool: &BufferPool) {
        self.driver.register(pool);
    }

    fn kind(&self) -> &'static str {
        self.driver.kind()
    }
}
