//! Sizes that formats and protocols depend on. Changing one is a new format version.

/// A page, in bytes.
pub const PAGE_SIZE: usize = 8192;
/// A log block, a superblock and a control block, in bytes: the unit of durable writes outside pages.
pub const LOG_BLOCK: usize = 4096;
/// Most redo threads (so instances) of a cluster.
pub const THREADS_MAX: u16 = 64;
/// Most data files of a cluster.
pub const DATA_FILES_MAX: u16 = 1024;
/// Longest single write of a redo thread, in bytes. The reader looks this far past an invalid block for evidence that it was durable (rule 12).
pub const LOG_WRITE_MAX: usize = 1 << 20;
/// Largest change group, in bytes of encoded redo.
pub const GROUP_BYTES_MAX: usize = 512 << 10;
/// Most pages that one change group touches.
pub const GROUP_PAGES_MAX: usize = 64;
/// Highest position, SCN, epoch, incarnation or generation that a decoder accepts: no real one comes near, and counting on from it never
/// overflows, so that damaged numbers can't stop an instance by arithmetic (rule 20).
pub const NUMBER_MAX: u64 = 1 << 62;
/// Pages in one double-write batch.
pub const DOUBLE_WRITE_PAGES: usize = 128;
/// Pages governed by one space map page, itself included: 32 MiB of data.
pub const SPACE_GROUP_PAGES: u64 = 4096;
/// Smallest ring of a redo thread, in bytes: room for several largest groups and writes beside each other.
pub const RING_BYTES_MIN: u64 = 8 << 20;
/// Smallest page cache, in frames: two change groups of the largest kind and their readers at once.
pub const CACHE_FRAMES_MIN: usize = 256;
/// Longest key plus value kept inline in a tree: a quarter of a page's body.
pub const INLINE_MAX: usize = 2000;
