//! CRC-32C over fixed blocks whose first four bytes are the checksum itself (pages, log blocks, superblocks, control blocks).

/// Checksum of `block` without its first four bytes, where the checksum is kept.
pub fn of_block(block: &[u8]) -> u32 {
    // A CRC-32 in the low half of a u64; chosen for its speed on whole blocks (docs/PERFORMANCE.md).
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &block[4..]) as u32
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_castagnoli_polynomial() {
        // The check value of CRC-32C (RFC 3720, appendix B.4).
        assert_eq!(of_block(b"....123456789"), 0xe306_9283);
    }
}
