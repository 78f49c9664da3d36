//! What every [`Disk`] must do, as one suite: `tests/disk.rs` runs it over io_uring and threads; any other disk can be plugged in.
//!
//! Each check gets a maker of disks (some need two, as two instances would have) and an empty directory of its own.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use regroup::base::ThreadId;
use regroup::disk::{Access, Buffer, BufferPool, Disk, DiskError, Durability, FileId};

/// Makes a disk of the kind under test.
pub type Maker = fn() -> Arc<dyn Disk>;

/// Enough for any device's alignment.
const BLOCK: usize = 4096;
const ONE: ThreadId = ThreadId(1);
const TWO: ThreadId = ThreadId(2);

/// A block that tells which one it is.
fn block(seed: u64, number: u64) -> Buffer {
    let mut buffer = Buffer::zeroed(BLOCK);
    for (index, word) in buffer.chunks_exact_mut(8).enumerate() {
        let value = (seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(index as u64).rotate_left(23);
        word.copy_from_slice(&value.to_le_bytes());
    }
    buffer
}

fn create(disk: &dyn Disk, directory: &Path, length: u64) -> (FileId, PathBuf) {
    let path = directory.join("storage");
    (disk.open(&path, Access::Create(ONE, length)).expect("a new file can be made"), path)
}

async fn write(disk: &dyn Disk, file: FileId, offset: u64, buffer: Buffer, durability: Durability) {
    disk.write(file, offset, buffer, durability).await.1.expect("a write inside the file succeeds");
}

async fn read(disk: &dyn Disk, file: FileId, offset: u64, length: usize) -> Buffer {
    let (buffer, result) = disk.read(file, offset, Buffer::zeroed(length)).await;
    result.expect("a read inside the file succeeds");
    buffer
}

/// What was written is read, by the same disk and by another one; what was not, is zero.
pub async fn reads_back(make: Maker, directory: &Path) {
    let disk = make();
    let (file, path) = create(&*disk, directory, 1 << 20);
    assert_eq!((disk.length(file).unwrap(), disk.path(file)), (1 << 20, path.clone()));
    write(&*disk, file, 0, block(1, 0), Durability::Durable).await;
    write(&*disk, file, 8192, block(1, 2), Durability::Buffered).await;
    disk.sync(file).await.unwrap();
    let other = make();
    let same = other.open(&path, Access::Read).unwrap();
    for (disk, file) in [(&disk, file), (&other, same)] {
        let all = read(&**disk, file, 0, 3 * BLOCK).await;
        assert!(
            all[..BLOCK] == block(1, 0)[..] && all[BLOCK..2 * BLOCK].iter().all(|&byte| byte == 0) && all[2 * BLOCK..] == block(1, 2)[..]
        );
    }
}

/// More I/Os than any queue is deep, all at once, land where they belong, in memory of a registered pool and outside of it.
pub async fn many_in_flight(make: Maker, directory: &Path) {
    const COUNT: u64 = 2000;
    let disk = make();
    let (file, _) = create(&*disk, directory, COUNT * BLOCK as u64);
    let pools = [BufferPool::new(500, BLOCK), BufferPool::new(300, BLOCK)];
    pools.iter().for_each(|pool| disk.register(pool));
    let mut writes = Vec::new();
    for number in 0..COUNT {
        let content = block(7, number);
        let buffer = match pools[number as usize % 2].take() {
            Some(mut buffer) => {
                buffer.copy_from_slice(&content);
                buffer
            }
            None => content,
        };
        writes.push(disk.write(file, number * BLOCK as u64, buffer, Durability::Buffered));
    }
    for write in writes {
        write.await.1.unwrap();
    }
    assert!(pools.iter().all(|pool| pool.take().is_some()), "buffers go back to their pools");
    disk.sync(file).await.unwrap();
    let take = |number: u64| pools[number as usize % 2].take().unwrap_or_else(|| Buffer::zeroed(BLOCK));
    let reads: Vec<_> = (0..COUNT).rev().map(|number| (number, disk.read(file, number * BLOCK as u64, take(number)))).collect();
    for (number, read) in reads {
        let (buffer, result) = read.await;
        result.unwrap();
        assert!(buffer[..] == block(7, number)[..], "block {number}");
    }
}

/// Large transfers, also of a part of a pool's buffer.
pub async fn large_transfers(make: Maker, directory: &Path) {
    const LENGTH: usize = 8 << 20;
    let disk = make();
    let (file, _) = create(&*disk, directory, 2 * LENGTH as u64);
    let pool = BufferPool::new(2, LENGTH);
    disk.register(&pool);
    let mut buffer = pool.take().unwrap();
    buffer.chunks_exact_mut(BLOCK).enumerate().for_each(|(number, part)| part.copy_from_slice(&block(3, number as u64)));
    buffer.set_len(LENGTH - BLOCK);
    write(&*disk, file, LENGTH as u64, buffer, Durability::Durable).await;
    let back = read(&*disk, file, LENGTH as u64, LENGTH).await;
    for (number, part) in back.chunks_exact(BLOCK).enumerate() {
        let last = number == LENGTH / BLOCK - 1;
        assert!(if last { part.iter().all(|&byte| byte == 0) } else { part == &block(3, number as u64)[..] }, "block {number}");
    }
}

/// A file grows by zeroes, and never shrinks.
pub async fn grows(make: Maker, directory: &Path) {
    let disk = make();
    let (file, path) = create(&*disk, directory, 65536);
    write(&*disk, file, 65536 - BLOCK as u64, block(5, 0), Durability::Durable).await;
    disk.grow(file, 1 << 20).await.unwrap();
    assert_eq!(disk.length(file).unwrap(), 1 << 20);
    disk.grow(file, 4096).await.unwrap();
    assert_eq!(disk.length(file).unwrap(), 1 << 20);
    assert_eq!(std::fs::metadata(&path).map_or(1 << 20, |metadata| metadata.len()), 1 << 20);
    assert!(read(&*disk, file, 65536 - BLOCK as u64, BLOCK).await[..] == block(5, 0)[..]);
    assert!(read(&*disk, file, 65536, (1 << 20) - 65536).await.iter().all(|&byte| byte == 0));
    let refused = disk.grow(file, 1 << 60).await.unwrap_err();
    assert!(refused.is_full(), "{refused}");
}

/// A read past the end says where the file ends, and brings its buffer back.
pub async fn short_reads(make: Maker, directory: &Path) {
    let disk = make();
    let (file, path) = create(&*disk, directory, 3 * BLOCK as u64);
    for (offset, length) in [(2 * BLOCK as u64, 2 * BLOCK), (3 * BLOCK as u64, BLOCK), (100 * BLOCK as u64, BLOCK)] {
        let (buffer, result) = disk.read(file, offset, Buffer::zeroed(length)).await;
        assert_eq!(buffer.len(), length);
        let short = DiskError::Short { file: path.clone(), offset, length, end: 3 * BLOCK as u64 };
        assert_eq!(result, Err(short));
    }
}

/// Two writers under one instance number exclude each other, two instances don't, readers disturb nobody; closing frees the lock at once.
pub async fn locks(make: Maker, directory: &Path) {
    let (first, second) = (make(), make());
    let (file, path) = create(&*first, directory, 65536);
    for disk in [&first, &second] {
        let refused = disk.open(&path, Access::Write(ONE)).unwrap_err();
        assert_eq!(refused, DiskError::InUse { file: path.clone(), instance: ONE, holder: None });
    }
    second.open(&path, Access::Write(TWO)).unwrap();
    second.open(&path, Access::Read).unwrap();
    first.open(&path, Access::Read).unwrap();
    write(&*first, file, 0, block(1, 1), Durability::Durable).await;
    for _ in 0..20 {
        let third = make();
        let refused = third.open(&path, Access::Write(TWO)).unwrap_err();
        assert!(matches!(refused, DiskError::InUse { .. }), "{refused}");
    }
    drop(first);
    for _ in 0..20 {
        let again = make();
        let file = again.open(&path, Access::Write(ONE)).expect("a closed disk holds no lock");
        drop(again.write(file, 0, block(1, 2), Durability::Buffered));
    }
}

/// Making a file that is there is refused and leaves it alone; opening one that isn't is refused.
pub async fn create_is_exclusive(make: Maker, directory: &Path) {
    let disk = make();
    let (file, path) = create(&*disk, directory, 65536);
    write(&*disk, file, 0, block(2, 2), Durability::Durable).await;
    drop(disk);
    let disk = make();
    let refused = disk.open(&path, Access::Create(ONE, 1 << 20)).unwrap_err();
    assert!(matches!(refused, DiskError::Open { errno: libc::EEXIST, .. }), "{refused}");
    let missing = disk.open(&directory.join("missing"), Access::Write(ONE)).unwrap_err();
    assert!(matches!(missing, DiskError::Open { errno: libc::ENOENT, .. }), "{missing}");
    let file = disk.open(&path, Access::Write(ONE)).unwrap();
    assert_eq!(disk.length(file).unwrap(), 65536);
    assert!(read(&*disk, file, 0, BLOCK).await[..] == block(2, 2)[..]);
}

/// I/O that is not aligned is refused with the buffer, where alignment matters.
pub async fn alignment(make: Maker, directory: &Path) {
    let disk = make();
    let (file, _) = create(&*disk, directory, 65536);
    for (offset, length) in [(1, BLOCK), (0, 100)] {
        let (buffer, result) = disk.write(file, offset, Buffer::zeroed(length), Durability::Buffered).await;
        assert_eq!(buffer.len(), length);
        assert!(matches!(result, Ok(()) | Err(DiskError::Io { errno: libc::EINVAL, .. })), "{result:?}");
        let (_, result) = disk.read(file, offset, Buffer::zeroed(length)).await;
        assert!(matches!(result, Ok(()) | Err(DiskError::Io { errno: libc::EINVAL, .. })), "{result:?}");
    }
    let (buffer, result) = disk.read(file, 0, Buffer::zeroed(0)).await;
    assert_eq!((buffer.len(), result), (0, Ok(())));
}

/// An I/O whose future is dropped, polled or not, is carried out all the same, and touches no memory but its own.
pub async fn dropped_futures(make: Maker, directory: &Path) {
    const COUNT: u64 = 400;
    let disk = make();
    let (file, path) = create(&*disk, directory, COUNT * BLOCK as u64);
    let pool = BufferPool::new(32, BLOCK);
    disk.register(&pool);
    for number in 0..COUNT {
        let mut future = disk.write(file, number * BLOCK as u64, block(9, number), Durability::Buffered);
        if number % 2 == 0 {
            let _ = pin!(&mut future).poll(&mut Context::from_waker(Waker::noop()));
        }
        drop(future);
        if let Some(buffer) = pool.take() {
            drop(disk.read(file, number * BLOCK as u64, buffer));
        }
        // Memory that the allocator hands out again while those reads are in flight.
        let witness = vec![0xa5_u8; BLOCK];
        assert!(std::hint::black_box(witness).iter().all(|&byte| byte == 0xa5));
    }
    // Dropping the disk waits for all of them.
    drop(disk);
    assert_eq!((0..).map_while(|_| pool.take()).take(33).collect::<Vec<_>>().len(), 32);
    let disk = make();
    let file = disk.open(&path, Access::Write(ONE)).unwrap();
    for number in 0..COUNT {
        assert!(read(&*disk, file, number * BLOCK as u64, BLOCK).await[..] == block(9, number)[..], "block {number}");
    }
}
