//! The cluster's storage files as one space of pages, and the redo files beside them.
//!
//! Made by `clusterctl init` ([`Volume::create`]) and opened by every instance ([`Volume::open`]), which checks each file's superblock
//! copies, place, cluster and length before anything is written. Callers name pages; how many copies a page has and in which file
//! is known here alone, so that mirrors can be added without them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::superblock::{COPIES, FileKind, PAGES_AT, SUPERBLOCK, Shape, StorageError, StorageFault, Superblock};
use crate::base::limits::{DATA_FILES_MAX, LOG_WRITE_MAX, PAGE_SIZE, THREADS_MAX};
use crate::base::runtime::join_all;
use crate::base::{PageId, ThreadId};
use crate::disk::{Access, Buffer, Disk, DiskError, Durability, FileId, IoOutcome};

/// Where the storage files are, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoragePaths {
    /// Redo file of thread 1, 2, ...
    pub redo: Vec<PathBuf>,
    /// Data file 0, 1, ...
    pub data: Vec<PathBuf>,
}

impl StoragePaths {
    /// Refuses more files than numbers reach.
    fn limited(&self) -> Result<(), StorageError> {
        let lists = [(FileKind::Redo, &self.redo, usize::from(THREADS_MAX)), (FileKind::Data, &self.data, usize::from(DATA_FILES_MAX))];
        for (kind, list, most) in lists {
            if let Some(first_over) = list.get(most) {
                let fault = StorageFault::TooMany { kind, most, found: list.len() };
                return Err(StorageError::Fault { file: first_over.clone(), offset: 0, fault });
            }
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = (FileKind, u16, &PathBuf)> {
        let redo = self.redo.iter().zip(1..).map(|(path, number)| (FileKind::Redo, number, path));
        let data = self.data.iter().zip(0..).map(|(path, number)| (FileKind::Data, number, path));
        redo.chain(data)
    }
}

struct DataFile {
    file: FileId,
    pages: AtomicU64,
}

/// The open storage of a cluster.
pub struct Volume {
    disk: Arc<dyn Disk>,
    shape: Shape,
    redo: Vec<FileId>,
    data: Vec<DataFile>,
}

impl Volume {
    /// Makes all storage files with their superblocks, durable. Redo files get no control block yet, data files no page.
    ///
    /// # Errors
    /// [`StorageError`]; files made so far are left for the caller to remove.
    ///
    /// # Panics
    /// When `paths` and `shape` disagree on the number of files.
    pub async fn create(disk: Arc<dyn Disk>, paths: &StoragePaths, shape: Shape) -> Result<Volume, StorageError> {
        assert!(paths.redo.len() == usize::from(shape.threads) && paths.data.len() == usize::from(shape.data_files));
        let mut volume = Volume { disk: disk.clone(), shape, redo: Vec::new(), data: Vec::new() };
        for (kind, number, path) in paths.all() {
            shape.validate().map_err(|fault| StorageError::Fault { file: path.clone(), offset: 0, fault: fault.into() })?;
            let file = disk.open(path, Access::Create(ThreadId(1), shape.file_bytes(kind)))?;
            let superblock = Superblock { shape, kind, number, voting: 0 };
            if disk.is_device(file)
                && let Ok(found) = read_copy(&disk, file, 0).await?
            {
                let fault = StorageFault::Occupied { cluster: found.shape.cluster };
                return Err(StorageError::Fault { file: path.clone(), offset: 0, fault });
            }
            if kind == FileKind::Redo {
                write_zeroes(&disk, file, shape.file_bytes(kind)).await?;
            }
            for at in COPIES {
                let buffer = Buffer::copy_of(&superblock.encode(at));
                disk.write(file, at, buffer, Durability::Durable).await.1?;
            }
            volume.add(kind, file, shape.file_bytes(kind));
        }
        Ok(volume)
    }

    fn add(&mut self, kind: FileKind, file: FileId, length: u64) {
        match kind {
            FileKind::Redo => self.redo.push(file),
            FileKind::Data => self.data.push(DataFile { file, pages: AtomicU64::new((length - PAGES_AT) / PAGE_SIZE as u64) }),
            // No place of the configuration's lists: nobody adds one, voting files are opened by membership's driver.
            FileKind::Voting => {}
        }
    }

    /// Opens all storage files and checks them against each other and the configuration. `access` is [`Access::Read`] for tools,
    /// [`Access::Write`] for an instance.
    ///
    /// # Errors
    /// [`StorageError`] for the first file that isn't what it must be. Nothing has been written.
    pub async fn open(disk: Arc<dyn Disk>, paths: &StoragePaths, access: Access) -> Result<Volume, StorageError> {
        paths.limited()?;
        let mut volume: Option<Volume> = None;
        for (kind, number, path) in paths.all() {
            let file = disk.open(path, access)?;
            let found = read_superblock(&disk, file).await?;
            let fault = |offset, fault| Err(StorageError::Fault { file: path.clone(), offset, fault });
            let empty = || Volume { disk: disk.clone(), shape: found.shape, redo: Vec::new(), data: Vec::new() };
            let volume = volume.get_or_insert_with(empty);
            let expected = volume.shape;
            if found.shape.cluster != expected.cluster {
                return fault(0, StorageFault::Cluster { expected: expected.cluster, found: found.shape.cluster });
            }
            if (found.kind, found.number) != (kind, number) {
                return fault(
                    0,
                    StorageFault::Place { expected_kind: kind, expected: number, found_kind: found.kind, found: found.number },
                );
            }
            if let Some((field, expected, found)) = first_difference(&expected, &found.shape) {
                return fault(0, StorageFault::Field { field, expected, found });
            }
            let length = disk.length(file)?;
            if let Err(bad) = check_length(&expected, kind, length, disk.is_device(file)) {
                return fault(length, bad);
            }
            volume.add(kind, file, length);
        }
        let Some(volume) = volume else {
            let fault = StorageFault::Count { kind: FileKind::Data, expected: 1, found: 0 };
            return Err(StorageError::Fault { file: PathBuf::new(), offset: 0, fault });
        };
        let counts = [
            (FileKind::Redo, volume.shape.threads.into(), volume.redo.len()),
            (FileKind::Data, volume.shape.data_files.into(), volume.data.len()),
        ];
        for (kind, expected, found) in counts {
            if expected != found {
                let file = paths.data.first().cloned().unwrap_or_default();
                return Err(StorageError::Fault { file, offset: 0, fault: StorageFault::Count { kind, expected, found } });
            }
        }
        Ok(volume)
    }

    /// The cluster's shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The cluster's tag, as every page carries it.
    pub fn tag(&self) -> u64 {
        self.shape.cluster.tag()
    }

    /// The disk below.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The redo file of `thread`, if the cluster has one.
    pub fn redo_file(&self, thread: ThreadId) -> Option<FileId> {
        self.redo.get(usize::from(thread.0).checked_sub(1)?).copied()
    }

    /// Pages that data file `file` has room for at present; 0 for a file that isn't.
    pub fn pages(&self, file: u16) -> u64 {
        self.data.get(usize::from(file)).map_or(0, |data| data.pages.load(Ordering::Acquire))
    }

    /// Whether `page` is inside its data file at present.
    pub fn contains(&self, page: PageId) -> bool {
        page.is_some() && page.index() < self.pages(page.file())
    }

    /// The largest naturally aligned write that no data file tears, in bytes.
    pub fn atomic_write_max(&self) -> usize {
        self.data.iter().map(|data| self.disk.atomic_write_max(data.file)).min().unwrap_or(0)
    }

    /// The file and offset of `page`'s home.
    ///
    /// # Errors
    /// [`DiskError::Short`] when the file doesn't reach that far: the id was damaged or the file truncated.
    pub fn home(&self, page: PageId) -> Result<(FileId, u64), DiskError> {
        let Some(data) = self.data.get(usize::from(page.file())).filter(|_| self.contains(page)) else {
            let end = PAGES_AT + self.pages(page.file()) * PAGE_SIZE as u64;
            let file = self.data.get(usize::from(page.file())).map_or_else(PathBuf::new, |data| self.disk.path(data.file));
            let offset = page.index().saturating_mul(PAGE_SIZE as u64).saturating_add(PAGES_AT);
            return Err(DiskError::Short { file, offset, length: PAGE_SIZE, end });
        };
        Ok((data.file, PAGES_AT + page.index() * PAGE_SIZE as u64))
    }

    /// Reads `buffer.len() / 8192` neighbouring pages from `first` on, unverified.
    ///
    /// # Errors
    /// As [`Disk::read`]; [`DiskError::Short`] when the file doesn't reach that far.
    pub async fn read(&self, first: PageId, buffer: Buffer) -> IoOutcome {
        match self.home(first) {
            Ok((file, offset)) => self.disk.read(file, offset, buffer).await,
            Err(error) => (buffer, Err(error)),
        }
    }

    /// Writes `buffer.len() / 8192` neighbouring pages from `first` on; durable only after [`Volume::sync`].
    ///
    /// # Errors
    /// As [`Disk::write`].
    pub async fn write(&self, first: PageId, buffer: Buffer) -> IoOutcome {
        match self.home(first) {
            Ok((file, offset)) => self.disk.write(file, offset, buffer, Durability::Buffered).await,
            Err(error) => (buffer, Err(error)),
        }
    }

    /// Makes completed page writes of the data files `files` durable.
    ///
    /// # Errors
    /// As [`Disk::sync`], with the number of the data file that failed.
    pub async fn sync(&self, files: impl IntoIterator<Item = u16>) -> Result<(), (u16, DiskError)> {
        let numbers: Vec<u16> = files.into_iter().collect();
        let syncs = numbers.iter().map(|number| self.disk.sync(self.data[usize::from(*number)].file)).collect();
        let outcomes = join_all(syncs).await;
        numbers.into_iter().zip(outcomes).try_for_each(|(number, outcome)| outcome.map_err(|error| (number, error)))
    }

    /// Makes all that reads see of the data files and of redo file `redo` durable, whoever wrote it: a killed process leaves writes in
    /// caches that a power failure would still take away.
    ///
    /// # Errors
    /// As [`Disk::sync`].
    pub async fn flush(&self, redo: FileId) -> Result<(), DiskError> {
        let files = self.data.iter().map(|data| data.file).chain([redo]);
        let outcomes = join_all(files.map(|file| self.disk.sync(file)).collect()).await;
        outcomes.into_iter().collect()
    }

    /// Gives data file `file` room for `pages` pages, durably.
    ///
    /// # Errors
    /// [`DiskError::Full`] when the device has no room, or the files were made not to grow.
    pub async fn grow(&self, file: u16, pages: u64) -> Result<(), DiskError> {
        let data = &self.data[usize::from(file)];
        if pages <= data.pages.load(Ordering::Acquire) {
            return Ok(());
        }
        let length = PAGES_AT + pages * PAGE_SIZE as u64;
        if !self.shape.grow {
            return Err(DiskError::Full { file: self.disk.path(data.file), offset: length, length: 0 });
        }
        self.disk.grow(data.file, length).await?;
        data.pages.fetch_max(pages, Ordering::AcqRel);
        Ok(())
    }
}

/// Writes zeroes over a new redo file. Allocated space that was never written costs a change of metadata at its first write, which
/// would be a commit's.
async fn write_zeroes(disk: &Arc<dyn Disk>, file: FileId, length: u64) -> Result<(), DiskError> {
    let mut buffer = Buffer::zeroed(LOG_WRITE_MAX);
    let mut at = 0;
    while at < length {
        buffer.set_len((length - at).min(LOG_WRITE_MAX as u64) as usize);
        let (back, outcome) = disk.write(file, at, buffer, Durability::Buffered).await;
        outcome?;
        at += back.len() as u64;
        buffer = back;
    }
    disk.sync(file).await
}

/// Whether a file of `kind` may have this length.
///
/// # Errors
/// [`StorageFault::Length`].
pub(super) fn check_length(shape: &Shape, kind: FileKind, found: u64, device: bool) -> Result<(), StorageFault> {
    let expected = shape.file_bytes(kind);
    let at_least = device || kind == FileKind::Data && shape.grow;
    let whole = device || found.saturating_sub(expected).is_multiple_of(PAGE_SIZE as u64);
    let fits = if at_least { found >= expected && whole } else { found == expected };
    if fits { Ok(()) } else { Err(StorageFault::Length { expected, found, at_least }) }
}

fn first_difference(one: &Shape, other: &Shape) -> Option<(&'static str, u64, u64)> {
    let fields = [
        ("redo threads", one.threads.into(), other.threads.into()),
        ("data files", one.data_files.into(), other.data_files.into()),
        ("ring bytes", one.ring_bytes, other.ring_bytes),
        ("data bytes", one.data_bytes, other.data_bytes),
        ("growth flag", one.grow.into(), other.grow.into()),
        ("creation time", one.created_ms, other.created_ms),
    ];
    fields.into_iter().find(|(_, one, other)| one != other)
}

/// Reads both copies of a file's superblock; they must be whole and equal.
///
/// # Errors
/// [`StorageError`] naming the damaged copy's offset.
pub async fn read_superblock(disk: &Arc<dyn Disk>, file: FileId) -> Result<Superblock, StorageError> {
    let mut copies = BTreeMap::new();
    for at in COPIES {
        copies.insert(at, read_copy(disk, file, at).await?);
    }
    let fault = |offset, fault| StorageError::Fault { file: disk.path(file), offset, fault };
    let mut whole = Vec::new();
    for (at, copy) in copies {
        whole.push(copy.map_err(|bad| fault(at, bad))?);
    }
    if whole[0] != whole[1] {
        return Err(fault(COPIES[1], StorageFault::CopiesDiffer));
    }
    Ok(whole[0])
}

/// Reads one copy.
///
/// # Errors
/// Outer: the disk's; inner: what is wrong with the copy.
pub async fn read_copy(disk: &Arc<dyn Disk>, file: FileId, at: u64) -> Result<Result<Superblock, StorageFault>, DiskError> {
    let (buffer, outcome) = disk.read(file, at, Buffer::zeroed(SUPERBLOCK)).await;
    outcome?;
    let bytes: &[u8; SUPERBLOCK] = buffer[..].try_into().expect("read as long as a superblock");
    Ok(Superblock::decode(bytes, at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::sim::Sim;
    use crate::disk::memory::{MemoryDisk, MemoryMedia};

    proptest! {
        #[test]
        fn paths_read_back_from_toml(redo in prop::collection::vec("[a-z/. ]{1,30}", 0..5), data in prop::collection::vec("\\PC{1,30}", 0..5)) {
            let paths = StoragePaths { redo: redo.into_iter().map(Into::into).collect(), data: data.into_iter().map(Into::into).collect() };
            let text = toml::to_string(&paths).unwrap();
            prop_assert_eq!(toml::from_str::<StoragePaths>(&text).unwrap(), paths);
        }

        #[test]
        fn hostile_text_never_panics(text in "\\PC{0,200}") {
            let _ = toml::from_str::<StoragePaths>(&text);
        }
    }

    fn refusal(paths: &StoragePaths) -> StorageError {
        let sim = Sim::new(1);
        let disk = Arc::new(MemoryDisk::new(&MemoryMedia::new(1), sim.runtime()));
        sim.run(Volume::open(disk, paths, Access::Read)).err().expect("refused")
    }

    #[test]
    fn lists_of_files_are_checked_before_any_is_opened() {
        let names = |count: usize| (0..count).map(|number| PathBuf::from(format!("/f{number}"))).collect::<Vec<_>>();
        for (paths, expected) in [
            (StoragePaths { redo: names(65), data: names(1) }, StorageFault::TooMany { kind: FileKind::Redo, most: 64, found: 65 }),
            (
                StoragePaths { redo: names(1), data: names(70_000) },
                StorageFault::TooMany { kind: FileKind::Data, most: 1024, found: 70_000 },
            ),
            (StoragePaths { redo: vec![], data: vec![] }, StorageFault::Count { kind: FileKind::Data, expected: 1, found: 0 }),
        ] {
            match refusal(&paths) {
                StorageError::Fault { fault, .. } => assert_eq!(fault, expected),
                other => panic!("{other}"),
            }
        }
        assert!(toml::from_str::<StoragePaths>("redo = []").is_err(), "data is missing");
        assert!(toml::from_str::<StoragePaths>("redo = []\ndata = []\ndats = []").is_err(), "an unknown name");
    }
}
