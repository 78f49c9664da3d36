//! Voting files as files: made, opened, read. What stands in them is `membership`'s.
//!
//! Called by `clusterctl init`, `voting` and `status`, by the guard, and by whoever else opens voting files. A file is known by the random number
//! in its superblock, never by its path: a wrong path, or a file of another cluster, is refused before anything is believed or written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::runtime::run_job;
use crate::base::{ClusterId, Seams, ThreadId};
use crate::disk::{Access, Buffer, Disk, DiskError, Durability, FileId};
use crate::membership::sector::{SECTORS_AT, format_region, region_bytes};
use crate::membership::survey::Snapshot;
use crate::membership::{View, VotingId};
use crate::page::superblock::{COPIES, FileKind, Shape, StorageError, StorageFault, Superblock};
use crate::page::volume::{read_copy, read_superblock};

/// Bytes written at once while a file is made.
const CHUNK: usize = 64 << 10;

/// A voting file, open.
#[derive(Clone, Debug)]
pub struct VotingFile {
    /// As configured.
    pub path: PathBuf,
    /// For the disk.
    pub file: FileId,
    /// The number that views name it by.
    pub id: VotingId,
    /// The cluster's shape, as its superblock tells.
    pub shape: Shape,
}

/// Draws the number of a new voting file.
pub fn new_id(seams: &Seams) -> VotingId {
    // 0 means that there is no file.
    VotingId(seams.random().max(1))
}

/// Makes one voting file with its superblock and sectors, durable; the superblock comes last. `genesis` is the view of a new cluster, or nothing
/// for a file that takes another's place.
///
/// # Errors
/// It is there already, or can't be made; a file made in part is left for the caller to remove, and isn't taken for a voting file.
pub async fn create(
    disk: &Arc<dyn Disk>,
    path: &Path,
    shape: Shape,
    number: u16,
    id: VotingId,
    genesis: Option<&View>,
) -> Result<(), StorageError> {
    // Nobody is member while it isn't named by a view: any lock will do, and this one keeps two inits apart.
    let file = disk.open(path, Access::Create(ThreadId(1), shape.file_bytes(FileKind::Voting)))?;
    if disk.is_device(file)
        && let Ok(found) = read_copy(disk, file, 0).await?
    {
        let fault = StorageFault::Occupied { cluster: found.shape.cluster };
        return Err(StorageError::Fault { file: path.into(), offset: 0, fault });
    }
    let region = format_region(shape.cluster, id, genesis);
    for (at, chunk) in (SECTORS_AT..).step_by(CHUNK).zip(region.chunks(CHUNK)) {
        disk.write(file, at, Buffer::copy_of(chunk), Durability::Durable).await.1?;
    }
    let superblock = Superblock { shape, kind: FileKind::Voting, number, voting: id.0 };
    for at in COPIES {
        disk.write(file, at, Buffer::copy_of(&superblock.encode(at)), Durability::Durable).await.1?;
    }
    Ok(())
}

/// Opens a voting file, and makes sure that it is one. Opening may hang with the storage: it is done in a job, so that only this waits.
///
/// # Errors
/// It can't be opened, or is something else, or of another cluster than `cluster`.
pub async fn open(
    seams: &Seams,
    disk: &Arc<dyn Disk>,
    path: &Path,
    access: Access,
    cluster: Option<ClusterId>,
) -> Result<VotingFile, StorageError> {
    let (opener, there) = (disk.clone(), path.to_path_buf());
    let file = run_job(seams, move || opener.open(&there, access)).await?;
    identify(disk, path, file, cluster).await
}

/// Makes sure that an open file is a voting file.
///
/// # Errors
/// As [`open`].
pub async fn identify(disk: &Arc<dyn Disk>, path: &Path, file: FileId, cluster: Option<ClusterId>) -> Result<VotingFile, StorageError> {
    let found = read_superblock(disk, file).await?;
    let wrong = |fault| StorageError::Fault { file: path.into(), offset: 0, fault };
    if let Some(expected) = cluster
        && found.shape.cluster != expected
    {
        return Err(wrong(StorageFault::Cluster { expected, found: found.shape.cluster }));
    }
    if found.kind != FileKind::Voting {
        let place = StorageFault::Place { expected_kind: FileKind::Voting, expected: 0, found_kind: found.kind, found: found.number };
        return Err(wrong(place));
    }
    Ok(VotingFile { path: path.into(), file, id: VotingId(found.voting), shape: found.shape })
}

/// Reads all sectors of an open voting file; `before` is what an earlier read gave, so that what hasn't changed isn't decoded again.
///
/// # Errors
/// The disk's.
pub async fn read(disk: &Arc<dyn Disk>, voting: &VotingFile, before: Option<&Snapshot>) -> Result<Snapshot, DiskError> {
    let threads = voting.shape.threads;
    let (buffer, outcome) = disk.read(voting.file, SECTORS_AT, Buffer::zeroed(region_bytes(threads))).await;
    outcome?;
    Ok(Snapshot::decode_after(before, voting.shape.cluster, voting.id, threads, &buffer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::sim::Sim;
    use crate::disk::memory::{MemoryDisk, MemoryMedia};

    fn shape(tag: u8) -> Shape {
        Shape {
            cluster: ClusterId([tag; 16]),
            threads: 3,
            data_files: 1,
            ring_bytes: 8 << 20,
            data_bytes: 1 << 20,
            grow: true,
            created_ms: 1,
        }
    }

    #[test]
    fn a_voting_file_is_what_it_was_made_as_and_no_other() {
        let sim = Sim::new(1);
        let media = MemoryMedia::new(1);
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(&media, sim.runtime()));
        sim.run(async {
            let (path, id) = (Path::new("voting.1"), VotingId(77));
            let genesis = View::genesis(&[id]);
            create(&disk, path, shape(1), 0, id, Some(&genesis)).await.unwrap();
            let opened = open(&sim.runtime(), &disk, path, Access::Read, Some(ClusterId([1; 16]))).await.unwrap();
            assert_eq!((opened.id, opened.shape), (id, shape(1)));
            let snapshot = read(&disk, &opened, None).await.unwrap();
            assert!(snapshot.faults.is_empty(), "{:?}", snapshot.faults);
            assert_eq!(snapshot.newest(), Some(&genesis));
            let foreign = open(&sim.runtime(), &disk, path, Access::Read, Some(ClusterId([2; 16]))).await.unwrap_err();
            assert!(matches!(foreign, StorageError::Fault { fault: StorageFault::Cluster { .. }, .. }), "{foreign}");
            assert!(create(&disk, path, shape(1), 0, id, None).await.is_err(), "it is there already");
        });
    }
}
