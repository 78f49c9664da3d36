//! A disk that keeps what is written to it in memory, over another disk that it only reads: storage can be opened, recovered and worked with
//! as a try, and the files below stay as they are.
//!
//! Used by `clusterctl verify`, to look at rows through their indexes in files that no instance uses. Files are opened for reading and no
//! lock is taken, whatever access is asked for. Memory is bounded: a write past the bound fails as on a full device. What was written is
//! gone with the overlay. Not here: making files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Access, Buffer, BufferPool, Disk, DiskError, Durability, FileId, IoOutcome};
use crate::base::BoxFuture;
use crate::base::limits::LOG_BLOCK;

/// What is kept together: every offset and length of storage I/O is a multiple of it.
const BLOCK: usize = LOG_BLOCK;

#[derive(Default)]
struct Written {
    blocks: BTreeMap<(FileId, u64), Box<[u8]>>,
    /// Of files that grew.
    lengths: BTreeMap<FileId, u64>,
}

impl Written {
    /// Puts what was written over `bytes`, which were read at `offset`.
    fn patch(&self, file: FileId, offset: u64, bytes: &mut [u8]) {
        let (first, end) = (offset / BLOCK as u64, (offset + bytes.len() as u64).div_ceil(BLOCK as u64));
        for ((_, number), block) in self.blocks.range((file, first)..(file, end)) {
            let at = (number * BLOCK as u64 - offset) as usize;
            bytes[at..at + BLOCK].copy_from_slice(block);
        }
    }
}

/// The overlay.
pub struct OverlayDisk {
    below: Arc<dyn Disk>,
    written: Arc<Mutex<Written>>,
    blocks_max: usize,
}

impl OverlayDisk {
    /// Nothing written yet over `below`; at most `bytes_max` may be.
    pub fn new(below: Arc<dyn Disk>, bytes_max: usize) -> OverlayDisk {
        OverlayDisk { below, written: Arc::default(), blocks_max: bytes_max / BLOCK }
    }

    /// Refuses I/O that isn't in whole blocks inside the file.
    fn admit(&self, file: FileId, operation: &'static str, offset: u64, length: usize) -> Result<(), DiskError> {
        if !offset.is_multiple_of(BLOCK as u64) || !length.is_multiple_of(BLOCK) {
            let message = "not in whole blocks of 4096 bytes".to_string();
            return Err(DiskError::Io { file: self.path(file), operation, offset, length, errno: libc::EINVAL, message });
        }
        let end = self.length(file)?;
        if offset.checked_add(length as u64).is_none_or(|last| last > end) {
            return Err(DiskError::Short { file: self.path(file), offset, length, end });
        }
        Ok(())
    }

    fn keep(&self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.admit(file, "write", offset, bytes.len())?;
        let mut written = self.written.lock();
        for (number, block) in (offset / BLOCK as u64..).zip(bytes.chunks_exact(BLOCK)) {
            if written.blocks.len() >= self.blocks_max && !written.blocks.contains_key(&(file, number)) {
                return Err(DiskError::Full { file: self.path(file), offset, length: bytes.len() });
            }
            written.blocks.insert((file, number), block.into());
        }
        Ok(())
    }
}

impl Disk for OverlayDisk {
    fn open(&self, path: &Path, access: Access) -> Result<FileId, DiskError> {
        match access {
            Access::Read | Access::Write(_) => self.below.open(path, Access::Read),
            Access::Create(..) => {
                Err(DiskError::Open { file: path.into(), errno: libc::EROFS, message: "an overlay makes no files".to_string() })
            }
        }
    }

    fn length(&self, file: FileId) -> Result<u64, DiskError> {
        let below = self.below.length(file)?;
        Ok(self.written.lock().lengths.get(&file).copied().unwrap_or(0).max(below))
    }

    fn is_device(&self, file: FileId) -> bool {
        self.below.is_device(file)
    }

    fn path(&self, file: FileId) -> PathBuf {
        self.below.path(file)
    }

    fn atomic_write_max(&self, file: FileId) -> usize {
        self.below.atomic_write_max(file)
    }

    fn read(&self, file: FileId, offset: u64, mut buffer: Buffer) -> BoxFuture<IoOutcome> {
        let below = self.admit(file, "read", offset, buffer.len()).and_then(|()| self.below.length(file));
        let below = match below {
            Ok(below) => below,
            Err(error) => return Box::pin(std::future::ready((buffer, Err(error)))),
        };
        let length = buffer.len();
        let under = below.saturating_sub(offset).min(length as u64) as usize;
        buffer.set_len(under);
        let reading: BoxFuture<IoOutcome> =
            if under > 0 { self.below.read(file, offset, buffer) } else { Box::pin(std::future::ready((buffer, Ok(())))) };
        let written = self.written.clone();
        Box::pin(async move {
            let (mut buffer, outcome) = reading.await;
            buffer.set_len(length);
            if outcome.is_ok() {
                // What lies behind the end of the file below has only grown.
                buffer[under..].fill(0);
                written.lock().patch(file, offset, &mut buffer);
            }
            (buffer, outcome)
        })
    }

    fn write(&self, file: FileId, offset: u64, buffer: Buffer, _durability: Durability) -> BoxFuture<IoOutcome> {
        let outcome = self.keep(file, offset, &buffer);
        Box::pin(std::future::ready((buffer, outcome)))
    }

    fn sync(&self, _file: FileId) -> BoxFuture<Result<(), DiskError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn grow(&self, file: FileId, length: u64) -> BoxFuture<Result<(), DiskError>> {
        let known = self.written.lock().lengths.get(&file).copied().unwrap_or(0);
        self.written.lock().lengths.insert(file, known.max(length));
        Box::pin(std::future::ready(Ok(())))
    }

    fn register(&self, pool: &BufferPool) {
        self.below.register(pool);
    }

    fn kind(&self) -> &'static str {
        "overlay"
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::disk::threads;

    const BLOCKS: u64 = 8;

    /// A file of blocks that each hold their number, and an overlay over it.
    fn overlay(folder: &Path, bytes_max: usize) -> (OverlayDisk, FileId, Vec<u8>) {
        let path = folder.join("file");
        let bytes: Vec<u8> = (0..BLOCKS as u8).flat_map(|number| vec![number + 1; BLOCK]).collect();
        std::fs::write(&path, &bytes).unwrap();
        let disk = OverlayDisk::new(Arc::new(threads::start().unwrap()), bytes_max);
        let file = disk.open(&path, Access::Write(crate::base::ThreadId(1))).unwrap();
        (disk, file, bytes)
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write { at: u64, count: u64, byte: u8 },
        Grow { blocks: u64 },
        Read { at: u64, count: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let place = (0..BLOCKS + 6, 1..5u64);
        prop_oneof![
            (place.clone(), any::<u8>()).prop_map(|((at, count), byte)| Step::Write { at, count, byte }),
            (0..BLOCKS + 6).prop_map(|blocks| Step::Grow { blocks }),
            place.prop_map(|(at, count)| Step::Read { at, count }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_reads_as_a_file_that_was_written_would_and_the_file_stays(steps in prop::collection::vec(step(), 1..30)) {
            let folder = tempfile::tempdir().unwrap();
            let (disk, file, before) = overlay(folder.path(), 1 << 20);
            let mut model = before.clone();
            let size = BLOCK as u64;
            for step in steps {
                match step {
                    Step::Write { at, count, byte } => {
                        let buffer = Buffer::copy_of(&vec![byte; (count * size) as usize]);
                        let (_, outcome) = run(disk.write(file, at * size, buffer, Durability::Durable));
                        let fits = (at + count) * size <= model.len() as u64;
                        prop_assert_eq!(outcome.is_ok(), fits);
                        if fits {
                            model[(at * size) as usize..((at + count) * size) as usize].fill(byte);
                        }
                    }
                    Step::Grow { blocks } => {
                        run(disk.grow(file, blocks * size)).unwrap();
                        model.resize(model.len().max((blocks * size) as usize), 0);
                    }
                    Step::Read { at, count } => {
                        let (buffer, outcome) = run(disk.read(file, at * size, Buffer::copy_of(&vec![0xee; (count * size) as usize])));
                        let fits = (at + count) * size <= model.len() as u64;
                        prop_assert_eq!(outcome.is_ok(), fits);
                        if fits {
                            prop_assert_eq!(&buffer[..], &model[(at * size) as usize..((at + count) * size) as usize]);
                        }
                    }
                }
                prop_assert_eq!(disk.length(file).unwrap(), model.len() as u64);
            }
            prop_assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), before);
        }
    }

    #[test]
    fn its_memory_is_bounded_and_it_makes_no_files() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, file, _) = overlay(folder.path(), 2 * BLOCK);
        let write = |at: u64| run(disk.write(file, at * BLOCK as u64, Buffer::zeroed(BLOCK), Durability::Durable)).1;
        assert_eq!((write(0), write(5)), (Ok(()), Ok(())));
        assert!(write(6).unwrap_err().is_full());
        assert_eq!(write(5), Ok(()), "again in the same place takes no more");
        assert!(matches!(run(disk.read(file, 7, Buffer::zeroed(BLOCK))).1, Err(DiskError::Io { .. })));
        let new = folder.path().join("new");
        assert!(disk.open(&new, Access::Create(crate::base::ThreadId(1), 4096)).is_err());
        assert!(!new.exists());
    }
}
