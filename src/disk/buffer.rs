//! Memory that a device can read and write directly: aligned, owned by whoever has the I/O in hand.
//!
//! A buffer moves into an I/O and comes back with its result, so nothing else can touch it while the device does.
//! Buffers of a [`BufferPool`] lie in one arena, which a disk may register with the kernel once ([`super::Disk::register`]).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::Mutex;

/// Alignment of every buffer, in bytes: enough for any device's O_DIRECT.
pub const ALIGN: usize = 4096;

/// Length from which on an arena gets pages of its own from the kernel, zeroed when first touched, aligned for huge ones.
const MAPPED_MIN: usize = 2 << 20;

/// One aligned allocation, zeroed when made.
pub(super) struct Arena {
    start: NonNull<u8>,
    length: usize,
    /// What to unmap, when it was mapped: start and length.
    mapping: Option<(NonNull<u8>, usize)>,
}

// SAFETY: an arena is plain memory; who may touch which part is decided by ownership of `Buffer`s.
unsafe impl Send for Arena {}
// SAFETY: as above; the arena itself hands out no references.
unsafe impl Sync for Arena {}

fn layout(length: usize) -> Layout {
    Layout::from_size_align(length, ALIGN).expect("a buffer's size fits the address space")
}

impl Arena {
    fn new(length: usize) -> Arena {
        let length = length.max(1).next_multiple_of(ALIGN);
        if length >= MAPPED_MIN {
            return Arena::mapped(length);
        }
        // SAFETY: the layout has a non-zero size.
        let start = unsafe { alloc_zeroed(layout(length)) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout(length)) };
        Arena { start, length, mapping: None }
    }

    fn mapped(length: usize) -> Arena {
        // Room to begin at a huge page.
        let whole = length + MAPPED_MIN;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that exists.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), whole, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        let Some(base) = NonNull::new(mapped.cast::<u8>()).filter(|_| mapped != libc::MAP_FAILED) else {
            handle_alloc_error(layout(length))
        };
        let skip = base.align_offset(MAPPED_MIN);
        // SAFETY: `skip` is below MAPPED_MIN, and the mapping is longer by that.
        let start = unsafe { base.add(skip) };
        Arena { start, length, mapping: Some((base, whole)) }
    }

    /// Start and length, for registration with the kernel.
    pub(super) fn extent(&self) -> (*const u8, usize) {
        (self.start.as_ptr(), self.length)
    }

    /// Gives the `length` bytes at `offset` memory now, huge pages where nothing is there yet and the kernel has some; what they hold stays.
    /// A hint: where it is refused, memory comes when it is touched.
    pub(super) fn populate(&self, offset: usize, length: usize) {
        assert!(offset + length <= self.length);
        // SAFETY: the range lies in the arena; neither call changes its contents.
        unsafe {
            let start = self.start.as_ptr().add(offset).cast();
            libc::madvise(start, length, libc::MADV_HUGEPAGE);
            libc::madvise(start, length, libc::MADV_POPULATE_WRITE);
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        match self.mapping {
            // SAFETY: mapped in `mapped` with this extent; every `Buffer` in it keeps the arena alive through an `Arc`.
            Some((base, whole)) => unsafe {
                libc::munmap(base.as_ptr().cast(), whole);
            },
            // SAFETY: allocated in `new` with this layout; likewise.
            None => unsafe { dealloc(self.start.as_ptr(), layout(self.length)) },
        }
    }
}

/// A fixed number of buffers of one size in one arena.
pub struct BufferPool {
    arena: Arc<Arena>,
    size: usize,
    free: Arc<Mutex<Vec<u32>>>,
}

impl BufferPool {
    /// `count` buffers of `size` bytes each (rounded up to [`ALIGN`]).
    pub fn new(count: usize, size: usize) -> BufferPool {
        let size = size.next_multiple_of(ALIGN);
        let free = (0..u32::try_from(count).expect("fewer than 2^32 buffers")).rev().collect();
        BufferPool { arena: Arc::new(Arena::new(count * size)), size, free: Arc::new(Mutex::new(free)) }
    }

    /// A free buffer with whatever its last owner left in it, or nothing when all are out.
    pub fn take(&self) -> Option<Buffer> {
        let slot = self.free.lock().pop()?;
        // SAFETY: `slot` is below `count`, so the offset stays inside the arena.
        let start = unsafe { self.arena.start.add(slot as usize * self.size) };
        Some(Buffer { start, len: self.size, capacity: self.size, home: Some((slot, self.free.clone())), _arena: self.arena.clone() })
    }

    /// The memory behind the buffers. A disk that registers it keeps this handle for as long as it is registered: memory allocated
    /// later at the same addresses would be other pages than those that the kernel pinned.
    pub(super) fn arena(&self) -> Arc<Arena> {
        self.arena.clone()
    }
}

/// Aligned bytes, owned. Dropping one of a pool puts it back.
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
    capacity: usize,
    home: Option<(u32, Arc<Mutex<Vec<u32>>>)>,
    /// Keeps the bytes alive.
    _arena: Arc<Arena>,
}

// SAFETY: a buffer owns its bytes exclusively.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zeroed bytes outside any pool.
    pub fn zeroed(len: usize) -> Buffer {
        let arena = Arc::new(Arena::new(len));
        Buffer { start: arena.start, len, capacity: len, home: None, _arena: arena }
    }

    /// A buffer outside any pool that holds `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::zeroed(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// Makes the buffer `len` bytes long, shorter or longer, up to what it was made with. Bytes keep what they last held.
    ///
    /// # Panics
    /// When `len` is more than it was made with.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "a buffer of {} bytes can't be {len} long", self.capacity);
        self.len = len;
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start..start+len` lies in the arena, initialised (zeroed at allocation), owned by this buffer.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some((slot, free)) = self.home.take() {
            free.lock().push(slot);
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_buffers_are_aligned_apart_and_come_back() {
        let pool = BufferPool::new(3, 8192);
        let mut held: Vec<Buffer> = (0..3).map(|_| pool.take().unwrap()).collect();
        assert!(pool.take().is_none());
        for (number, buffer) in held.iter_mut().enumerate() {
            assert_eq!(buffer.as_ptr() as usize % ALIGN, 0);
            buffer.fill(number as u8);
        }
        for (number, buffer) in held.iter().enumerate() {
            assert!(buffer.iter().all(|&byte| byte == number as u8));
        }
        held.pop();
        assert!(pool.take().is_some());
    }

    #[test]
    fn a_buffer_outlives_its_pool() {
        let pool = BufferPool::new(1, 4096);
        let mut buffer = pool.take().unwrap();
        drop(pool);
        buffer.fill(7);
        assert_eq!(buffer[4095], 7);
    }
}
