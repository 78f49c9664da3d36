//! Committed definitions, kept between statements.
//!
//! What is cached is a whole [`Catalog`], read in one snapshot. It is good as long as no transaction has changes of definitions under
//! way; each one that ends, however it ends, starts a new generation.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::table::catalog::Catalog;

#[derive(Default)]
struct State {
    generation: u64,
    /// Transactions that have changed definitions and aren't over.
    changing: u32,
    catalog: Option<Arc<Catalog>>,
}

/// The cache.
#[derive(Default)]
pub(super) struct Cache {
    state: RwLock<State>,
}

/// What the cache says.
pub(super) enum Cached {
    /// These are the committed definitions.
    Current(Arc<Catalog>),
    /// Nothing is cached: to be read, and brought to [`Cache::fill`] with this generation.
    Absent(u64),
    /// Definitions are being changed: they have to be read each time.
    Changing,
}

impl Cache {
    pub(super) fn get(&self) -> Cached {
        let state = self.state.read();
        match &state.catalog {
            _ if state.changing > 0 => Cached::Changing,
            Some(catalog) => Cached::Current(catalog.clone()),
            None => Cached::Absent(state.generation),
        }
    }

    /// Which definitions are cached, or would be; nothing while some are being changed.
    pub(super) fn generation(&self) -> Option<u64> {
        let state = self.state.read();
        (state.changing == 0).then_some(state.generation)
    }

    /// Keeps what was read by someone who was told `generation` before.
    pub(super) fn fill(&self, generation: u64, catalog: Arc<Catalog>) {
        let mut state = self.state.write();
        if state.changing == 0 && state.generation == generation {
            state.catalog = Some(catalog);
        }
    }

    pub(super) fn change_begins(&self) {
        let mut state = self.state.write();
        state.changing += 1;
        state.generation += 1;
        state.catalog = None;
    }

    pub(super) fn change_over(&self) {
        let mut state = self.state.write();
        state.changing -= 1;
        state.generation += 1;
    }
}
