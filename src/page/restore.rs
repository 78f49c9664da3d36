//! Gives a damaged superblock copy its contents back from the whole one.
//!
//! Called by `clusterctl superblock --restore`, never on opening: a file that isn't whole isn't opened (`docs/formats/superblock.md`).
//! Only a copy that is torn or flipped is replaced, and only by one that is whole and fits the file's length. Copies that are
//! whole but differ are a decision that nobody can make here. Restoring again is harmless, so it can be cut off anywhere.

use std::sync::Arc;

use super::superblock::{COPIES, SUPERBLOCK, StorageError, StorageFault, Superblock};
use super::volume::{check_length, read_copy};
use crate::base::checksum;
use crate::disk::{Buffer, Disk, DiskError, Durability, FileId};

/// What [`restore_copy`] found and did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestoredCopy {
    /// What both copies say now.
    pub superblock: Superblock,
    /// Offset of the copy that was rewritten, with what had been wrong with it; nothing when both were whole and equal.
    pub restored: Option<(u64, StorageFault)>,
}

/// Rewrites the damaged superblock copy of `file` (opened for writing, so that nobody uses it) from the whole one, durably, and reads it back.
///
/// # Errors
/// [`StorageError`] when neither copy is whole, when both are whole but differ, when the damaged one is a whole block of something else
/// (another version, another file), or when the file's length isn't what the whole copy says. Nothing has been written then.
pub async fn restore_copy(disk: &Arc<dyn Disk>, file: FileId) -> Result<RestoredCopy, StorageError> {
    let fault = |offset, fault| StorageError::Fault { file: disk.path(file), offset, fault };
    let first = read_copy(disk, file, COPIES[0]).await?;
    let second = read_copy(disk, file, COPIES[1]).await?;
    let (superblock, at, bad) = match (first, second) {
        (Ok(one), Ok(other)) if one == other => return Ok(RestoredCopy { superblock: one, restored: None }),
        (Ok(_), Ok(_)) => return Err(fault(COPIES[1], StorageFault::CopiesDiffer)),
        (Ok(whole), Err(bad)) => (whole, COPIES[1], bad),
        (Err(bad), Ok(whole)) => (whole, COPIES[0], bad),
        (Err(bad), Err(_)) => return Err(fault(COPIES[0], bad)),
    };
    let length = disk.length(file)?;
    check_length(&superblock.shape, superblock.kind, length, disk.is_device(file)).map_err(|bad| fault(length, bad))?;
    if checksum::holds(&read(disk, file, at).await?) {
        return Err(fault(at, bad));
    }
    disk.write(file, at, Buffer::copy_of(&superblock.encode(at)), Durability::Durable).await.1?;
    let again = read_copy(disk, file, at).await?.map_err(|bad| fault(at, bad))?;
    if again != superblock {
        return Err(fault(at, StorageFault::CopiesDiffer));
    }
    Ok(RestoredCopy { superblock, restored: Some((at, bad)) })
}

async fn read(disk: &Arc<dyn Disk>, file: FileId, at: u64) -> Result<Buffer, DiskError> {
    let (bytes, outcome) = disk.read(file, at, Buffer::zeroed(SUPERBLOCK)).await;
    outcome.map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::sim::Sim;
    use crate::base::{ClusterId, ThreadId};
    use crate::disk::Access;
    use crate::disk::memory::{MemoryDisk, MemoryMedia};
    use crate::page::superblock::{FORMAT, FileKind, Shape};
    use crate::page::volume::{StoragePaths, Volume};

    const DATA: &str = "/store/data";

    fn shape() -> Shape {
        let cluster = ClusterId(*b"0123456789abcdef");
        Shape { cluster, threads: 1, data_files: 1, ring_bytes: 8 << 20, data_bytes: 1 << 20, grow: false, created_ms: 1 }
    }

    fn store() -> MemoryMedia {
        let media = MemoryMedia::new(1);
        let sim = Sim::new(1);
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(&media, sim.runtime()));
        let paths = StoragePaths { redo: vec!["/store/redo".into()], data: vec![DATA.into()] };
        sim.run(async { Volume::create(disk, &paths, shape()).await.unwrap() });
        media.settle(1);
        media
    }

    fn restore(media: &MemoryMedia) -> Result<RestoredCopy, StorageError> {
        let sim = Sim::new(2);
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(media, sim.runtime()));
        let outcome = sim.run(async {
            let file = disk.open(DATA.as_ref(), Access::Write(ThreadId(1)))?;
            restore_copy(&disk, file).await
        });
        drop(disk);
        media.settle(2);
        outcome
    }

    #[test]
    fn each_copy_comes_back_from_the_other_whatever_bit_was_flipped() {
        let media = store();
        let good = media.peek(DATA, 0, 2 * SUPERBLOCK);
        // A bit in every field, at its first and last byte, and in the zeroes behind.
        let bytes = (0..112).chain([112, 1000, SUPERBLOCK as u64 - 1]);
        for (at, byte) in COPIES.into_iter().flat_map(|at| bytes.clone().map(move |byte| (at, byte))) {
            media.flip(DATA, at + byte, (byte % 8) as u8);
            let done = restore(&media).unwrap();
            assert_eq!(done.restored.as_ref().map(|(offset, _)| *offset), Some(at), "byte {byte}");
            assert!(matches!(done.restored, Some((_, StorageFault::Checksum { .. }))), "byte {byte}: {done:?}");
            assert!(media.peek(DATA, 0, 2 * SUPERBLOCK) == good, "byte {byte}");
        }
        assert_eq!(restore(&media).unwrap().restored, None);
    }

    #[test]
    fn a_copy_that_was_overwritten_comes_back() {
        let media = store();
        let good = media.peek(DATA, 0, 2 * SUPERBLOCK);
        for at in COPIES {
            media.poke(DATA, at, &[0; SUPERBLOCK]);
            assert!(matches!(restore(&media).unwrap().restored, Some((_, StorageFault::Magic { .. }))));
            assert!(media.peek(DATA, 0, 2 * SUPERBLOCK) == good);
        }
    }

    /// What `restore` says of a file whose bytes are `first` and `second`; nothing may have been written.
    fn refusal(media: &MemoryMedia, first: &[u8], second: &[u8]) -> StorageFault {
        media.poke(DATA, COPIES[0], first);
        media.poke(DATA, COPIES[1], second);
        let outcome = restore(media);
        assert!(media.peek(DATA, 0, SUPERBLOCK) == first && media.peek(DATA, COPIES[1], SUPERBLOCK) == second, "something was written");
        match outcome {
            Err(StorageError::Fault { fault, .. }) => fault,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_can_not_be_decided_is_refused() {
        let media = store();
        let superblock = Superblock { shape: shape(), kind: FileKind::Data, number: 0, voting: 0 };
        let (first, second) = (superblock.encode(COPIES[0]), superblock.encode(COPIES[1]));
        let flipped = |mut bytes: [u8; SUPERBLOCK]| {
            bytes[40] ^= 1;
            bytes
        };
        assert!(matches!(refusal(&media, &flipped(first), &flipped(second)), StorageFault::Checksum { .. }));
        let other = Superblock { number: 1, ..superblock };
        assert_eq!(refusal(&media, &first, &other.encode(COPIES[1])), StorageFault::CopiesDiffer);
        let mut newer = second;
        newer[4] = FORMAT as u8 + 1;
        checksum::seal(&mut newer);
        assert_eq!(refusal(&media, &first, &newer), StorageFault::Format { found: FORMAT + 1 });
        assert!(matches!(refusal(&media, &first, &first), StorageFault::Field { field: "own offset", .. }));
        // The whole copy describes a file of another length.
        let long = Superblock { shape: Shape { data_bytes: 2 << 20, ..shape() }, ..superblock };
        let fault = refusal(&media, &long.encode(COPIES[0]), &flipped(long.encode(COPIES[1])));
        assert!(matches!(fault, StorageFault::Length { .. }), "{fault}");
    }
}
