//! What recovery does to frames: change a page by redo, or give it up.
//!
//! Only recovery calls this, before the cache is opened for changes. A page changed here is dirty from the position of its first
//! redone change on; one that can't be recovered is quarantined and holds the checkpoint at that position, so that its redo is
//! kept until it is repaired (rules 9 and 14).

use std::sync::atomic::Ordering;

use super::Cache;
use super::frame::{Body, Pin, WriteState};
use super::wait::CacheError;
use crate::base::{Lsn, PageId, Scn};

impl Cache {
    /// Lets `change` work on the page of `pin`. When it returns true the page is dirty from `position` on.
    ///
    /// # Errors
    /// What `change` returned: the page must then be given up, as its bytes may be half changed.
    pub(crate) fn redo(
        &self,
        pin: &Pin,
        position: Lsn,
        change: impl FnOnce(&mut [u8]) -> Result<bool, CacheError>,
    ) -> Result<bool, CacheError> {
        let frame = &self.shared.frames[pin.frame as usize];
        let mut body = frame.body.write();
        let changed = change(body.page_mut())?;
        if changed {
            body.fresh = false;
            let page = body.id;
            self.shared.mark_dirty(pin.frame, page, position, false);
        }
        Ok(changed)
    }

    /// Takes the page of `pin` out of the cache, quarantines it with the reason and holds the checkpoint at `position`.
    pub(crate) async fn give_up(&self, pin: Pin, page: PageId, position: Lsn, why: CacheError) {
        let number = pin.frame;
        drop(pin);
        let frame = &self.shared.frames[number as usize];
        loop {
            if let Some(mut body) = frame.body.try_write() {
                let mut state = frame.state.lock();
                // The page writer may have a copy under way: it finds its frame by number when it is done.
                if !state.writing && frame.pins.load(Ordering::Acquire) == 0 {
                    if let Some(dirty) = state.dirty {
                        self.shared.dirty.lock().remove(dirty, page);
                    }
                    *state = WriteState::default();
                    self.shared.table.remove(page);
                    *body = Body::default();
                    break;
                }
            }
            super::wait::yield_now().await;
        }
        self.shared.free.lock().push(number);
        self.hold(page, position, why);
    }

    /// Recovery didn't look at these pages, because the log says that they are durable at home in these versions: whoever reads one makes
    /// sure (rule 16).
    pub(crate) fn expect(&self, pages: impl Iterator<Item = (PageId, Scn)>) {
        self.shared.expected.lock().extend(pages);
    }

    /// Lets `page`, which recovery may have given up for what its home holds, be loaded once more: a change that makes it anew is next, and needs
    /// nothing of the home (rule 8). It was given up only when memory was too small to know of that change in time.
    pub(crate) fn forgive(&self, page: PageId) {
        let mut quarantine = self.shared.quarantine.lock();
        let given_up = matches!(quarantine.get(&page), Some(CacheError::Page(_) | CacheError::Redo(_) | CacheError::Disk(_)));
        if given_up && self.shared.table.get(page).is_none() {
            quarantine.remove(&page);
            self.shared.dirty.lock().let_go(page);
        }
    }

    /// Quarantines a page that isn't resident and holds the checkpoint at `position`.
    pub(crate) fn hold(&self, page: PageId, position: Lsn, why: CacheError) {
        self.shared.dirty.lock().hold(position, page);
        self.quarantine(page, why);
    }
}
