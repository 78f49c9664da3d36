//! What an operation has got between its tries, and what it does when others keep taking it away.
//!
//! An ordinary operation asks for one page at a time and holds only the one that came last, for one try. When pages that it had got were taken away
//! more than [`LOST_MAX`] times, it is patient: it remembers all pages that it needed, asks for them in ascending order, and holds each while it asks for
//! the next. A page below the highest one held makes it let go of all and begin again with that one among them. All who hold while they wait
//! do so in that one order: no circle (rule 19). It waits for no frame, log room or space while it holds: frames for all that it lacks are taken before the first hold.
//!
//! That it can only wait for another operation's load of the same page, and that load for a frame, is no circle: frames come free by writes, here or elsewhere,
//! and these wait for no holder.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::OwnedSemaphorePermit;

use super::Cache;
use super::frame::Pin;
use super::grants::Mode;
use super::wait::{CacheError, Footprint, Load};
use crate::base::PageId;

/// Pages that an operation may lose before it becomes patient.
const LOST_MAX: u32 = 8;

/// A page that an operation can't go on without.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    pub(super) page: PageId,
    pub(super) mode: Mode,
    pub(super) load: Load,
}

/// What an operation under way has between its tries.
#[derive(Default)]
pub(super) struct Held {
    /// What it has asked for: since it last let go of its pins, or, when it is patient, in all.
    needs: Vec<Need>,
    /// Pages that stay resident; of a patient operation, one for each of the first `needs`, all held.
    pins: Vec<Pin>,
    permit: Option<OwnedSemaphorePermit>,
    pub(super) tries: u32,
    /// Pages that it had got and has to ask for again.
    lost: u32,
}

impl Held {
    fn is_patient(&self) -> bool {
        self.lost > LOST_MAX
    }

    /// Ends the holds, unless it is patient.
    pub(super) fn let_go_unless_patient(&mut self) {
        if !self.is_patient() {
            self.pins.iter_mut().for_each(Pin::let_go);
        }
    }

    /// Gives up everything but what it knows to need.
    pub(super) fn release(&mut self) {
        self.pins.clear();
        self.permit = None;
        if !self.is_patient() {
            self.needs.clear();
        }
    }

    /// Notes what is needed. A page that was there in that mode was lost.
    fn note(&mut self, need: Need) {
        match self.needs.iter_mut().find(|known| known.page == need.page) {
            Some(known) if known.mode >= need.mode && known.load <= need.load => self.lost += 1,
            Some(known) => {
                known.mode = known.mode.max(need.mode);
                known.load = known.load.min(need.load);
            }
            None => self.needs.push(need),
        }
    }
}

impl Cache {
    /// Gets what an operation asks for.
    pub(super) async fn get(&self, need: Need, footprint: Footprint, held: &mut Held) -> Result<(), CacheError> {
        held.let_go_unless_patient();
        if held.permit.is_none() {
            let pages = footprint.pages() as u32;
            // The semaphore is never closed: an error can't come.
            held.permit = Arc::clone(&self.shared.pins).acquire_many_owned(pages).await.ok();
        }
        let was_patient = held.is_patient();
        held.note(need);
        if held.is_patient() {
            if !was_patient {
                held.pins.clear();
                self.shared.counters.patient.fetch_add(1, Ordering::Relaxed);
            }
            return self.get_in_order(need, footprint, held).await;
        }
        if held.pins.len() >= footprint.pages() {
            // More than the footprint says: the oldest go, which are the least likely to be needed again.
            held.pins.drain(..footprint.pages() / 2);
            held.needs.drain(..held.needs.len() / 2);
        }
        held.pins.push(self.load(need.page, need.mode, need.load, None).await?);
        Ok(())
    }

    /// Gets all that a patient operation needs, `need` among it, in the order of pages.
    async fn get_in_order(&self, need: Need, footprint: Footprint, held: &mut Held) -> Result<(), CacheError> {
        let highest = held.pins.len().checked_sub(1).map(|last| held.needs[last].page);
        if highest.is_some_and(|highest| need.page <= highest) {
            held.pins.clear();
        }
        if held.needs.len() > footprint.pages() {
            // What it needed at first it may not need any more.
            held.pins.clear();
            held.needs = vec![need];
        }
        held.needs.sort_unstable_by_key(|need| need.page);
        'anew: loop {
            let mut frames = Vec::new();
            while frames.len() < held.needs.len() - held.pins.len() {
                if held.pins.is_empty() {
                    frames.push(self.shared.take_frame().await?);
                } else if let Some(frame) = self.shared.try_take_frame() {
                    frames.push(frame);
                } else {
                    held.pins.clear();
                    frames.clear();
                }
            }
            for at in held.pins.len()..held.needs.len() {
                let Need { page, mode, load } = held.needs[at];
                match self.load(page, mode, load, frames.pop()).await {
                    Ok(pin) => held.pins.push(pin),
                    Err(error) if page == need.page => return Err(error),
                    Err(_) => {
                        // Perhaps it isn't needed any more; whoever needs it gets the error.
                        held.pins.clear();
                        held.needs.remove(at);
                        continue 'anew;
                    }
                }
            }
            return Ok(());
        }
    }
}
