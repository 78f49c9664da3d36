//! The seam to the global directory: which pages this instance holds, and in which mode.
//!
//! Upper layers implement [`Grants`]; a single instance grants itself everything ([`LocalGrants`]). The cache asks before a page
//! becomes resident and tells when it has gone.

use crate::base::{BoxFuture, PageId};
use crate::disk::Buffer;

/// How a page is held.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Mode {
    /// Not at all.
    #[default]
    None,
    /// For reading, beside others.
    Shared,
    /// For changing, alone.
    Exclusive,
}

/// An answer of the directory.
pub struct Grant {
    /// At least what was asked for.
    pub mode: Mode,
    /// The newest version, when it isn't the disk's; it is dirty for its receiver (rule 9).
    pub copy: Option<Buffer>,
}

/// Who may hold which page.
pub trait Grants: Send + Sync + 'static {
    /// Asks for `page` in at least `mode`.
    fn acquire(&self, page: PageId, mode: Mode) -> BoxFuture<Grant>;
    /// The page has left the cache, clean.
    fn evicted(&self, page: PageId);
}

/// The only instance: everything is its own.
#[derive(Debug, Default)]
pub struct LocalGrants;

impl Grants for LocalGrants {
    fn acquire(&self, _page: PageId, _mode: Mode) -> BoxFuture<Grant> {
        Box::pin(async { Grant { mode: Mode::Exclusive, copy: None } })
    }

    fn evicted(&self, _page: PageId) {}
}
