//! How an instance holds something that the cluster shares: a page, or an enqueue.

/// A mode of holding. Stronger ones compare greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Mode {
    /// Not at all.
    #[default]
    None = 0,
    /// For reading, beside others (S).
    Shared = 1,
    /// For changing, alone (X).
    Exclusive = 2,
}

impl Mode {
    /// The mode of this number, if it is one.
    pub fn from_number(number: u8) -> Option<Mode> {
        match number {
            0 => Some(Mode::None),
            1 => Some(Mode::Shared),
            2 => Some(Mode::Exclusive),
            _ => None,
        }
    }
}
