//! Pages whose homes can't be written, or of which nobody knows what is there now: their contents go into the log.
//!
//! A failed write may have torn the home, and the next batch overwrites the image in the double-write area: then redo would have nothing to
//! start from. So the page writer logs a change group that formats the page with all that it holds, durable before the area is used again
//! (rule 14: saved durably before the thread moves on). Recovery starts such a page there and doesn't look at its home. While recovery itself
//! When other instances read the page too, it can't be changed here: then the instance stops, and its recovery holds the page. While recovery itself
//! is under way there is no log: then writing pauses, and who needs a frame gets the error. Checkpoints log such a page anew
//! ([`Cache::carry_forward`]), so that it doesn't keep the ring from being reused.

use super::frame::{Body, Frame};
use super::grants::Mode;
use super::page_writer::PageWriter;
use super::{Cache, CacheError, Halt, Load};
use crate::base::limits::PAGE_SIZE;
use crate::base::{Lsn, PageId};
use crate::page::header::{self, Kind};
use crate::redo::apply::image;
use crate::redo::record::Op;
use crate::redo::writer::HeldBy;

/// Redo of an image beside the page's own bytes, in bytes; plenty.
const OVERHEAD: usize = 256;

impl PageWriter {
    /// Saves the contents of the doubtful pages.
    pub(super) async fn preserve(&mut self) -> Result<(), CacheError> {
        let Some((page, error)) = self.doubtful.first().cloned() else { return Ok(()) };
        let cache = Cache { shared: self.shared.clone() };
        while cache.shared.log.get().is_none() {
            *cache.shared.stuck.lock() = Some(CacheError::Unwritable { page, error: error.clone() });
            cache.shared.freed.notify_waiters();
            cache.shared.write.notified().await;
        }
        *cache.shared.stuck.lock() = None;
        let mut end = Lsn(0);
        let doubtful = std::mem::take(&mut self.doubtful);
        let pages: Vec<PageId> = doubtful.iter().map(|(page, _)| *page).collect();
        for (page, error) in doubtful {
            match log_image(&cache, page, true) {
                Ok(logged) => end = end.max(logged),
                // Others read the page too, so it can't be changed here, or there is no room. Waiting for room could be waiting for this very task. The area still has the image: recovery takes it from there.
                Err(Halt::Wait(_)) => return Err(self.fatal(error)),
                Err(Halt::Failed(failed)) => return Err(failed),
            }
        }
        cache.log()?.force(end).await?;
        for page in pages {
            let Some(pin) = cache.shared.pin_if(page, |_, _| true) else { continue };
            let mut state = cache.shared.frames[pin.frame as usize].state.lock();
            (state.doubtful, state.writing, state.redirtied) = (false, false, None);
        }
        cache.shared.written.notify_waiters();
        Ok(())
    }
}

impl Cache {
    /// Logs anew the contents of resident pages that can't be written and whose redo starts before `position`, durably: then the log before
    /// that isn't needed for them. A page that has no contents, because recovery gave it up, keeps its position.
    ///
    /// # Errors
    /// The log has ended.
    pub(super) async fn carry_forward(&self, position: Lsn) -> Result<(), CacheError> {
        let held = self.shared.dirty.lock().held_before(position);
        for page in held {
            let Some(pin) = self.pin_resident(page, Mode::Exclusive, Load::Contents) else { continue };
            let from = self.log()?.appended();
            match log_image(self, page, false) {
                Ok(end) => self.log()?.force(end).await?,
                // No room, or in use: the next checkpoint tries again.
                Err(Halt::Wait(_)) => continue,
                Err(Halt::Failed(failed)) => return Err(failed),
            }
            let mut state = self.shared.frames[pin.frame as usize].state.lock();
            state.dirty = Some(from);
            self.shared.dirty.lock().hold(from, page);
        }
        Ok(())
    }
}

impl Cache {
    /// The page that holds the checkpoint at `position` and that only a repair can move, with the reason: recovery gave it up, so it has no
    /// contents to log anew, or the ring is too full to take them.
    pub(super) fn held_for_good(&self, position: Lsn) -> Option<HeldBy> {
        let page = self.shared.dirty.lock().held_at(position)?;
        let resident = self.shared.table.get(page).is_some();
        if resident && self.log().is_ok_and(|log| log.ring_takes(PAGE_SIZE + OVERHEAD)) {
            return None;
        }
        let why = self.shared.quarantine.lock().get(&page).map_or_else(|| "it can't be written".to_string(), ToString::to_string);
        Some(HeldBy { page, position, why })
    }
}

/// Logs a change that makes `page`, which is resident and stays so, what it is. Returns where its redo ends. `leaving`: also when it is being given away by the only
/// one who has it, which waits for this.
fn log_image(cache: &Cache, page: PageId, leaving: bool) -> Result<Lsn, Halt> {
    let mut group = cache.begin(PAGE_SIZE + OVERHEAD)?;
    let alone = |frame: &Frame, body: &Body| body.mode == Mode::None && frame.state.lock().alone;
    if leaving && cache.shared.pin_if(page, alone).is_some() {
        group.latch_leaving(page)?;
    } else {
        group.latch(page)?;
    }
    let bytes = group.page(page).to_vec();
    let header = header::of(&bytes);
    let (low, heap) = image(&bytes);
    let kind = header.kind().unwrap_or(Kind::Free);
    group.apply(page, Op::Format { kind, tree: header.tree(), low, heap })?;
    Ok(group.commit()?.end)
}
