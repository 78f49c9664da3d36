//! The seam to the global directory: which pages this instance holds, and in which mode.
//!
//! Upper layers implement [`Grants`]; a single instance grants itself everything ([`LocalGrants`]). The cache asks before a page becomes
//! usable and tells when it has gone; what the directory asks of the cache are methods of [`super::Cache`] (`yielding`).
//!
//! The order of the two directions: once the future of [`Grants::acquire`] is ready the page is held, whether or not anybody has looked at
//! the answer yet. A notification that the directory acts on before it makes the future ready doesn't concern that grant, one that it acts on
//! afterwards does (`asking` sees to that).

use super::wait::CacheError;
pub use crate::base::Mode;
use crate::base::{BoxFuture, PageId, Scn};
use crate::disk::Buffer;

/// Where the newest version of a granted page is.
pub enum Contents {
    /// At home, durable.
    Disk,
    /// In the frame already, held in [`Mode::Shared`] until now.
    Own,
    /// Here, sealed.
    Copy(Buffer),
}

/// An answer of the directory.
pub struct Grant {
    /// At least what was asked for.
    pub mode: Mode,
    /// Where to take the page from.
    pub contents: Contents,
    /// The page may be newer than its home. With [`Mode::Exclusive`] this instance owes the write from now on, otherwise somebody else does
    /// (rule 9).
    pub unwritten: bool,
}

/// What a page was when it was given away ([`super::Cache::yield_page`]).
#[derive(Debug)]
pub struct Yielded {
    /// Its version; 0 when its contents weren't in memory, and so are at home.
    pub version: Scn,
    /// This instance owes the write, or owed it before it gave the page away.
    pub dirty: bool,
    /// The page may be newer than its home, whoever owes the write.
    pub unwritten: bool,
    /// This instance keeps a past image until that version or a newer one is durable at home.
    pub image: bool,
    /// The page, sealed, when a copy was asked for. None when its contents weren't in memory: the home is current then.
    pub copy: Option<Buffer>,
}

/// Who may hold which page.
pub trait Grants: Send + Sync + 'static {
    /// Asks for `page` in at least `mode`. `have`: a usable copy, held in [`Mode::Shared`], is in the frame. One request per page at a time.
    fn acquire(&self, page: PageId, mode: Mode, have: bool) -> BoxFuture<Result<Grant, CacheError>>;

    /// The frame of `page` was emptied: the page was clean, and known to be durable at home. Called under the frame's latch: must not
    /// block, nor call the cache.
    fn released(&self, page: PageId);

    /// These versions are durable at home.
    fn written(&self, pages: &[(PageId, Scn)]);

    /// Somebody here can't go on before `page`, which another instance owes, is written: a past image holds back the checkpoint, or an
    /// unwritten copy keeps its frame. May be said again.
    fn want_written(&self, page: PageId);
}

/// The only instance: everything is its own.
#[derive(Debug, Default)]
pub struct LocalGrants;

impl Grants for LocalGrants {
    fn acquire(&self, _page: PageId, _mode: Mode, _have: bool) -> BoxFuture<Result<Grant, CacheError>> {
        Box::pin(std::future::ready(Ok(Grant { mode: Mode::Exclusive, contents: Contents::Disk, unwritten: false })))
    }

    fn released(&self, _page: PageId) {}

    fn written(&self, _pages: &[(PageId, Scn)]) {}

    fn want_written(&self, _page: PageId) {}
}
