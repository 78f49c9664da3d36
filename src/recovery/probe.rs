//! First numbers for predicting recovery, before there was one: how fast the disk of a new store reads.
//!
//! Reads part of the empty log ring as the scan would (large reads in sequence), then small parts of it in no order, as many at once as
//! redo would. Done once, when a store is made; every recovery refines the numbers. The processor's share is assumed, not measured:
//! the first recoveries tell.

use std::time::Duration;

use crate::base::limits::PAGE_SIZE;
use crate::base::runtime::join_all;
use crate::base::{BoxFuture, Seams};
use crate::cache::load::PARTS_AHEAD;
use crate::disk::{Buffer, Disk, DiskError, FileId, IoOutcome};
use crate::page::superblock::RING_AT;
use crate::redo::forecast::Rates;
use crate::redo::reader::{READ_BYTES, READ_DEPTH};

/// Most bytes read in sequence.
const SEQUENTIAL: u64 = 32 << 20;
/// Most pages read in no order.
const RANDOM: u64 = 1024;
/// A slow disk is asked for less: either kind of reading ends after this time.
const TIME_MAX: Duration = Duration::from_millis(500);

/// Measures the disk under the ring of `ring_bytes` in `file`; `depth` as option `page_io_depth`.
///
/// # Errors
/// The disk's.
pub async fn probe(seams: &Seams, disk: &dyn Disk, file: FileId, ring_bytes: u64, depth: usize) -> Result<Rates, DiskError> {
    let large = SEQUENTIAL.min(ring_bytes) / READ_BYTES as u64;
    let offsets = (0..large).map(|number| RING_AT + number * READ_BYTES as u64);
    let bytes = rate(seams, disk, file, offsets, READ_BYTES, READ_DEPTH).await? * READ_BYTES as f64;
    let slots = ring_bytes / PAGE_SIZE as u64;
    let count = RANDOM.min(slots);
    // An odd number of pages around the ring: no two neighbours one after the other.
    let stride = (slots / count * 3 / 2) | 1;
    let offsets = (0..count).map(|number| RING_AT + number * stride % slots * PAGE_SIZE as u64);
    let pages = rate(seams, disk, file, offsets, PAGE_SIZE, depth * PARTS_AHEAD).await?;
    Ok(Rates::probed(bytes as u64, pages as u64))
}

/// Reads `length` bytes at each of `offsets`, `depth` reads at once and all of them over before the next ones, as redo does it; returns reads
/// a second.
async fn rate(
    seams: &Seams,
    disk: &dyn Disk,
    file: FileId,
    mut offsets: impl Iterator<Item = u64>,
    length: usize,
    depth: usize,
) -> Result<f64, DiskError> {
    let started = seams.now();
    let mut reads = 0;
    while seams.now().since(started) < TIME_MAX {
        let wave: Vec<BoxFuture<IoOutcome>> =
            offsets.by_ref().take(depth).map(|offset| disk.read(file, offset, Buffer::zeroed(length))).collect();
        if wave.is_empty() {
            break;
        }
        reads += wave.len();
        for (_, outcome) in join_all(wave).await {
            outcome?;
        }
    }
    Ok(reads as f64 / seams.now().since(started).as_secs_f64().max(1e-6))
}
