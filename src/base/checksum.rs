//! CRC-32C over fixed blocks whose first four bytes are the checksum itself (pages, log blocks, superblocks, control blocks).

/// Checksum of `block` without its first four bytes, where the checksum is kept.
pub fn of_block(block: &[u8]) -> u32 {
    crc32c::crc32c(&block[4..])
}

/// Writes the checksum into the first four bytes of `block`, little-endian.
pub fn seal(block: &mut [u8]) {
    let sum = of_block(block);
    block[..4].copy_from_slice(&sum.to_le_bytes());
}

/// The checksum kept in `block`.
pub fn kept(block: &[u8]) -> u32 {
    u32::from_le_bytes([block[0], block[1], block[2], block[3]])
}

/// Whether the kept checksum fits the contents.
pub fn holds(block: &[u8]) -> bool {
    kept(block) == of_block(block)
}
