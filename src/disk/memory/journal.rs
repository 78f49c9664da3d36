//! A recording of all that happened to simulated media, and what a crash at each of its points would have left.
//!
//! One run recorded, a thousand crashes examined: [`Journal::image_at`] replays the events up to a point and fails the power there.
//! The replay goes through the same state machine as the run, so the image is one that a real crash at that point with that seed gives.
//! Going through the points in ascending order costs one replay in all; snapshots (copy on write) make going back cheap too.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::Durability;
use super::MemoryMedia;
use super::state::{Event, MediaState};

/// Events between two kept snapshots.
const SNAPSHOT_EVERY: usize = 256;

/// What was recorded since [`MemoryMedia::record`].
pub struct Journal {
    events: Arc<[Event]>,
    /// State before the event with that index; always holds index 0.
    snapshots: Mutex<BTreeMap<usize, MediaState>>,
    /// Where the last replay stopped.
    cursor: Mutex<(usize, MediaState)>,
}

impl Journal {
    pub(super) fn new(start: MediaState, events: Vec<Event>) -> Journal {
        let cursor = Mutex::new((0, start.clone()));
        Journal { events: events.into(), snapshots: Mutex::new(BTreeMap::from([(0, start)])), cursor }
    }

    /// All events, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Points worth crashing at: every submission, and every completion of a durable write, a sync or a growth. A point is the number of
    /// events that have happened, so `p` is right after event `p - 1`. Ascending.
    pub fn crash_points(&self) -> Vec<usize> {
        let mut durable = std::collections::BTreeSet::new();
        let mut points = Vec::new();
        for (index, event) in self.events.iter().enumerate() {
            let wanted = match event {
                Event::WriteSubmitted { io, durability, .. } => {
                    if *durability == Durability::Durable {
                        durable.insert(*io);
                    }
                    true
                }
                Event::WriteCompleted { io, .. } => durable.contains(io),
                Event::SyncSubmitted { .. } | Event::SyncCompleted { .. } => true,
                Event::GrowSubmitted { .. } | Event::GrowCompleted { .. } | Event::Created { .. } => true,
                Event::Poked { .. } | Event::Truncated { .. } | Event::Crashed { .. } | Event::Settled { .. } | Event::Mark(_) => false,
            };
            if wanted {
                points.push(index + 1);
            }
        }
        points
    }

    /// The marks set before `point`, in order.
    pub fn marks_before(&self, point: usize) -> Vec<u64> {
        let marks = self.events[..point.min(self.events.len())].iter();
        marks.filter_map(|event| if let Event::Mark(mark) = event { Some(*mark) } else { None }).collect()
    }

    /// The media after a power failure at `point`, in which `seed` says what of the not yet durable survived. No disk has it open.
    ///
    /// # Panics
    /// When `point` is greater than the number of events.
    pub fn image_at(&self, point: usize, seed: u64) -> MemoryMedia {
        let mut state = self.state_at(point);
        state.crash(seed);
        MemoryMedia::of_state(state, seed)
    }

    /// The state after the first `point` events.
    fn state_at(&self, point: usize) -> MediaState {
        assert!(point <= self.events.len(), "point {point} lies behind the last of {} events", self.events.len());
        let mut cursor = self.cursor.lock();
        let mut snapshots = self.snapshots.lock();
        let (nearest, snapshot) = snapshots.range(..=point).next_back().expect("the first snapshot is at 0");
        if cursor.0 > point || cursor.0 < *nearest {
            *cursor = (*nearest, snapshot.clone());
        }
        let (at, state) = &mut *cursor;
        while *at < point {
            if *at % SNAPSHOT_EVERY == 0 && !snapshots.contains_key(at) {
                snapshots.insert(*at, state.clone());
            }
            state.apply(&self.events[*at]);
            *at += 1;
        }
        state.clone()
    }
}
