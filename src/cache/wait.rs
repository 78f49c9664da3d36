//! Why synchronous code on pages can't go on, and what makes it able to.
//!
//! An operation returns a [`Halt`]; [`Cache::run`] satisfies its [`Wait`] with nothing latched and runs the operation again from its
//! start. Pages loaded for an operation stay pinned until it is done, so that it gets on however small the cache is; the
//! pins of all waiting operations together are bounded to half the frames, and are given up before waiting for log room.
//!
//! Nobody waits in a circle (rule 19), as pages can be taken away by other instances at any time but this: the page that was just loaded is *held* until the
//! operation has run once with it, which it does without waiting. An operation that has lost more pages that way than it may becomes
//! *patient* (`patience`): it holds all that it needs while it asks for more, in one order of pages that is the same for all.

use std::future::Future;
use std::pin::Pin as StdPin;
use std::task::{Context, Poll};

use super::Cache;
use super::grants::Mode;
use super::patience::{Held, Need};
use crate::base::PageId;
use crate::base::limits::GROUP_PAGES_MAX;
use crate::disk::DiskError;
use crate::page::PageFault;
use crate::redo::LogError;
use crate::redo::apply::ApplyFault;

/// What a page's old contents are needed for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Load {
    /// Read them.
    Contents,
    /// Read them if there are any: a home that was never written will do.
    IfAny,
    /// They will be replaced as a whole: a frame with the page's identity is enough.
    Fresh,
}

/// Something that takes time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wait {
    /// A page must become resident.
    Page {
        /// Which.
        page: PageId,
        /// Held at least so.
        mode: Mode,
        /// With or without its contents.
        load: Load,
    },
    /// Another operation holds a latch that must not be waited for here.
    Latch,
    /// A group of so many bytes needs room in the log.
    Log {
        /// In bytes.
        bytes: usize,
    },
    /// A data file must have room for so many pages.
    Space {
        /// Its number.
        file: u16,
        /// In pages.
        pages: u64,
    },
}

/// Why the cache can't do something, for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// The page on disk isn't what it must be.
    #[error(transparent)]
    Page(#[from] PageFault),
    /// Redo doesn't fit the page.
    #[error(transparent)]
    Redo(#[from] ApplyFault),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The page's home could not be written; it stays in memory, and its redo is kept.
    #[error("page {page} can't be written to its home: {error}; it is kept in memory, and its contents in the log")]
    Unwritable {
        /// The page.
        page: PageId,
        /// What the disk said.
        error: DiskError,
    },
    /// The log has ended.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Changes aren't possible yet, or at all.
    #[error("the storage is open for reading only")]
    ReadOnly,
    /// A change group grew too large.
    #[error(
        "a change group of {bytes} bytes over {pages} pages is too large: at most {} bytes, {GROUP_PAGES_MAX} pages; split it",
        crate::base::limits::GROUP_BYTES_MAX
    )]
    GroupTooLarge {
        /// Encoded, in bytes.
        bytes: usize,
        /// Pages touched.
        pages: usize,
    },
}

/// Why an operation stopped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Halt {
    /// Try again after this.
    Wait(Wait),
    /// It can't be done.
    Failed(CacheError),
}

impl From<CacheError> for Halt {
    fn from(error: CacheError) -> Halt {
        Halt::Failed(error)
    }
}

impl From<LogError> for Halt {
    fn from(error: LogError) -> Halt {
        Halt::Failed(error.into())
    }
}

/// Errors of operations that [`Cache::run`] can run.
pub trait Halts: From<Halt> {
    /// What to wait for before another try; otherwise the error itself.
    ///
    /// # Errors
    /// The error, when waiting doesn't help.
    fn into_wait(self) -> Result<Wait, Self>;
}

impl Halts for Halt {
    fn into_wait(self) -> Result<Wait, Halt> {
        match self {
            Halt::Wait(wait) => Ok(wait),
            failed @ Halt::Failed(_) => Err(failed),
        }
    }
}

/// How many pages an operation may need at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Footprint {
    /// A path from root to leaf.
    Path,
    /// A change group.
    Group,
}

impl Footprint {
    pub(super) fn pages(self) -> usize {
        match self {
            Footprint::Path => 8,
            Footprint::Group => GROUP_PAGES_MAX,
        }
    }
}

impl Cache {
    /// Runs `operation` until it succeeds or fails for good.
    ///
    /// # Errors
    /// The operation's own, or what made a wait impossible.
    pub async fn run<T, E: Halts>(&self, footprint: Footprint, mut operation: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        let mut held = Held::default();
        loop {
            match operation() {
                Ok(value) => return Ok(value),
                Err(error) => {
                    let wait = error.into_wait()?;
                    self.satisfy(wait, footprint, &mut held).await.map_err(|error| E::from(Halt::Failed(error)))?;
                }
            }
        }
    }

    async fn satisfy(&self, wait: Wait, footprint: Footprint, held: &mut Held) -> Result<(), CacheError> {
        match wait {
            Wait::Page { page, mode, load } => self.get(Need { page, mode, load }, footprint, held).await?,
            Wait::Latch => {
                // Whoever has the latch runs without waiting: a patient operation keeps what it holds, as that can't be waited for.
                held.let_go_unless_patient();
                held.tries += 1;
                yield_now().await;
                if held.tries.is_multiple_of(64) {
                    // The holder may be waiting for a processor that this task keeps busy.
                    self.shared.seams.sleep(std::time::Duration::from_micros(50)).await;
                }
            }
            Wait::Log { bytes } => {
                held.release();
                self.log()?.wait_for_room(bytes).await?;
            }
            Wait::Space { file, pages } => {
                held.release();
                self.shared.volume.grow(file, pages).await?;
            }
        }
        Ok(())
    }
}

/// Lets other tasks run first.
pub fn yield_now() -> impl Future<Output = ()> + Send {
    struct Yield(bool);
    impl Future for Yield {
        type Output = ();
        fn poll(mut self: StdPin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            if self.0 {
                return Poll::Ready(());
            }
            self.0 = true;
            context.waker().wake_by_ref();
            Poll::Pending
        }
    }
    Yield(false)
}
