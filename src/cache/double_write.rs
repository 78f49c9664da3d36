//! The double-write area: a batch of page images, durable before their homes are touched (rule 15).
//!
//! ```text
//! fill area, durable -> write homes -> sync homes -> next batch overwrites the area, or the header is voided when idle
//! ```
//! After a crash, a home that isn't whole is restored from the area's image, if the area's batch isn't voided. One batch at a time.
//! Byte table in `docs/formats/double-write.md`. The page writer fills it; recovery reads it.

use std::sync::Arc;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::base::limits::{DOUBLE_WRITE_PAGES, LOG_BLOCK, NUMBER_MAX, PAGE_SIZE};
use crate::base::{BoxFuture, PageId, Scn, ThreadId, checksum};
use crate::disk::{Buffer, Disk, DiskError, Durability, FileId};
use crate::page::header;
use crate::page::superblock::{DOUBLE_WRITE_AT, DOUBLE_WRITE_IMAGES_AT};

/// Marks the header of a batch.
pub const MAGIC: u32 = 0x3157_4452;
/// Bytes from the header to the first image.
pub const IMAGES: usize = (DOUBLE_WRITE_IMAGES_AT - DOUBLE_WRITE_AT) as usize;

/// Bytes of the header behind its items, all zero.
const ZERO: usize = LOG_BLOCK - 32 - DOUBLE_WRITE_PAGES * 16;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    crc: U32,
    magic: U32,
    cluster: U64,
    batch: U64,
    thread: U16,
    count: U16,
    voided: U32,
    items: [Item; DOUBLE_WRITE_PAGES],
    zero: [u8; ZERO],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Item {
    page: U64,
    version: U64,
}

const _: () = assert!(size_of::<Layout>() == LOG_BLOCK);

/// One instance's double-write area.
pub struct DoubleWrite {
    disk: Arc<dyn Disk>,
    file: FileId,
    cluster: u64,
    thread: ThreadId,
    batch: u64,
}

/// What an area's header says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Grows with every batch of this life.
    pub batch: u64,
    /// Whether all homes were durable afterwards.
    pub voided: bool,
    /// The images in order: page and version.
    pub items: Vec<(PageId, Scn)>,
}

impl DoubleWrite {
    /// The area of `thread` in its redo file.
    pub fn new(disk: Arc<dyn Disk>, file: FileId, cluster: u64, thread: ThreadId) -> DoubleWrite {
        DoubleWrite { disk, file, cluster, thread, batch: 0 }
    }

    /// Takes up the numbering of batches where the area on disk left it.
    ///
    /// # Errors
    /// The disk's.
    pub async fn resume(&mut self) -> Result<(), DiskError> {
        self.batch = self.read().await?.map_or(self.batch, |batch| batch.batch.max(self.batch));
        Ok(())
    }

    /// Another handle to the same area; only one of them may fill it.
    pub fn again(&self) -> DoubleWrite {
        DoubleWrite { disk: self.disk.clone(), ..*self }
    }

    /// Fills in the header of `area` (header and images, as they lie on disk) and writes it durably. Images are sealed already.
    ///
    /// # Errors
    /// The disk's. No home has been touched then.
    pub async fn fill(&mut self, mut area: Buffer, pages: usize) -> (Buffer, Result<(), DiskError>) {
        self.batch += 1;
        let items: Vec<(PageId, Scn)> = (0..pages)
            .map(|index| {
                let header = header::of(&area[IMAGES + index * PAGE_SIZE..]);
                (header.id(), header.version())
            })
            .collect();
        let bytes = self.encode(&items, false);
        area[..LOG_BLOCK].copy_from_slice(&bytes);
        area.set_len(IMAGES + pages * PAGE_SIZE);
        self.disk.write(self.file, DOUBLE_WRITE_AT, area, Durability::Durable).await
    }

    /// Marks the last batch as completed: its images are of no use any more.
    ///
    /// # Errors
    /// The disk's.
    pub async fn void(&mut self) -> Result<(), DiskError> {
        let bytes = self.encode(&[], true);
        self.disk.write(self.file, DOUBLE_WRITE_AT, Buffer::copy_of(&bytes), Durability::Durable).await.1
    }

    fn encode(&self, items: &[(PageId, Scn)], voided: bool) -> [u8; LOG_BLOCK] {
        let mut bytes = [0; LOG_BLOCK];
        let layout = Layout::mut_from_bytes(&mut bytes).expect("a batch header is 4096 unaligned bytes");
        layout.magic.set(MAGIC);
        layout.cluster.set(self.cluster);
        layout.batch.set(self.batch);
        layout.thread.set(self.thread.0);
        layout.count.set(items.len() as u16);
        layout.voided.set(voided.into());
        for (item, (page, version)) in layout.items.iter_mut().zip(items) {
            item.page.set(page.0);
            item.version.set(version.0);
        }
        checksum::seal(&mut bytes);
        bytes
    }

    /// Reads the area's header. Nothing when there is no whole one: never written, or torn before any home was touched.
    ///
    /// # Errors
    /// The disk's.
    pub async fn read(&self) -> Result<Option<Batch>, DiskError> {
        let (bytes, outcome) = self.disk.read(self.file, DOUBLE_WRITE_AT, Buffer::zeroed(LOG_BLOCK)).await;
        outcome?;
        Ok(decode(&bytes, self.cluster, self.thread))
    }

    /// Reads image `index` of the area, unverified.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_image(&self, index: usize) -> BoxFuture<Result<Buffer, DiskError>> {
        let at = DOUBLE_WRITE_IMAGES_AT + (index * PAGE_SIZE) as u64;
        let read = self.disk.read(self.file, at, Buffer::zeroed(PAGE_SIZE));
        Box::pin(async move {
            let (bytes, outcome) = read.await;
            outcome.map(|()| bytes)
        })
    }
}

/// The header in `bytes`, if it is whole and belongs here.
pub fn decode(bytes: &[u8], cluster: u64, thread: ThreadId) -> Option<Batch> {
    let layout = Layout::ref_from_bytes(bytes).ok()?;
    let ours = layout.magic.get() == MAGIC && layout.cluster.get() == cluster && layout.thread.get() == thread.0;
    let count = usize::from(layout.count.get());
    // A number near the end of its range would stop the counting on from it (rule 20).
    let possible = count <= DOUBLE_WRITE_PAGES && layout.voided.get() <= 1 && layout.batch.get() <= NUMBER_MAX;
    (checksum::holds(bytes) && ours && possible && layout.zero == [0; ZERO]).then(|| Batch {
        batch: layout.batch.get(),
        voided: layout.voided.get() != 0,
        items: layout.items[..count].iter().map(|item| (PageId(item.page.get()), Scn(item.version.get()))).collect(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::sim::Sim;
    use crate::disk::Access;
    use crate::disk::memory::{MemoryDisk, MemoryMedia};

    const TAG: u64 = 21;
    const THREAD: ThreadId = ThreadId(3);

    fn area(batch: u64) -> DoubleWrite {
        let media = MemoryMedia::new(1);
        let sim = Sim::new(1);
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(&media, sim.runtime()));
        let file = disk.open("/redo".as_ref(), Access::Create(THREAD, 1 << 20)).unwrap();
        DoubleWrite { batch, ..DoubleWrite::new(disk, file, TAG, THREAD) }
    }

    fn items(count: usize) -> Vec<(PageId, Scn)> {
        (0..count as u64).map(|at| (PageId(at * 3), Scn(at + 100))).collect()
    }

    #[test]
    fn every_bit_flip_of_the_header_is_found() {
        let mut bytes = area(5).encode(&items(DOUBLE_WRITE_PAGES), false);
        assert_eq!(decode(&bytes, TAG, THREAD).map(|batch| batch.items.len()), Some(DOUBLE_WRITE_PAGES));
        for bit in 0..LOG_BLOCK * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes, TAG, THREAD), None, "flip of bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(decode(&bytes, TAG + 1, THREAD), None);
        assert_eq!(decode(&bytes, TAG, ThreadId(4)), None);
        assert_eq!(decode(&bytes[..100], TAG, THREAD), None);
    }

    proptest! {
        #[test]
        fn any_batch_reads_back(batch in 0..NUMBER_MAX, voided: bool, count in 0..=DOUBLE_WRITE_PAGES) {
            let expected = Batch { batch, voided, items: items(count) };
            prop_assert_eq!(decode(&area(batch).encode(&items(count), voided), TAG, THREAD), Some(expected));
        }

        #[test]
        fn hostile_headers_with_a_right_checksum_never_panic(bytes in prop::collection::vec(any::<u8>(), 64), from in 4usize..64) {
            let mut block = area(5).encode(&items(3), false);
            block[from..64].copy_from_slice(&bytes[from..]);
            checksum::seal(&mut block);
            if let Some(batch) = decode(&block, TAG, THREAD) {
                prop_assert!(batch.items.len() <= DOUBLE_WRITE_PAGES && batch.batch <= NUMBER_MAX);
            }
        }
    }
}
