//! Which running kernel a process is under: its boot id. Two processes with the same one can prove each other's death by locks.

use std::fmt;

/// A kernel's boot id: another host, or the same one after a reboot, has another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct HostId(pub [u8; 16]);

/// The boot id can't be read.
#[derive(Debug, thiserror::Error)]
#[error("can't tell which host this is: {PATH}: {why}")]
pub struct HostError {
    why: String,
}

const PATH: &str = "/proc/sys/kernel/random/boot_id";

impl HostId {
    /// Of this process.
    ///
    /// # Errors
    /// `/proc` isn't there, or says something else than a UUID.
    pub fn own() -> Result<HostId, HostError> {
        let text = std::fs::read_to_string(PATH).map_err(|error| HostError { why: error.to_string() })?;
        HostId::parse(text.trim()).ok_or_else(|| HostError { why: format!("{:?} is no UUID", text.trim()) })
    }

    /// The machine's id (`/etc/machine-id`), which outlives reboots; zeroes when it has none.
    pub fn machine() -> [u8; 16] {
        let text = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        HostId::parse(text.trim()).unwrap_or_default().0
    }

    /// From a UUID's text.
    pub fn parse(text: &str) -> Option<HostId> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
        if digits.len() != 32 {
            return None;
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(HostId(id))
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_knows_itself() {
        assert_eq!(HostId::own().unwrap(), HostId::own().unwrap());
        assert_ne!(HostId::own().unwrap(), HostId::default());
        assert_eq!(HostId::parse("00112233-4455-6677-8899-aabbccddeeff").unwrap().to_string(), "00112233445566778899aabbccddeeff");
        for wrong in [
            "",
            "00112233",
            "x0112233-4455-6677-8899-aabbccddeeff",
            "++112233-4455-6677-8899-aabbccddeeff",
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
        ] {
            assert_eq!(HostId::parse(wrong), None, "{wrong}");
        }
    }
}
