//! What the demonstration's clients write: a function of seed, client and step, so that a checker can work it out by itself.
//!
//! Each client has keys of its own. A step is one change group over two trees and the client's step counter: some keys get values made
//! of (seed, client, step, key), some are deleted; the second tree says which step last touched a key.

use std::collections::BTreeMap;

use crate::base::TreeId;
use crate::base::random::{Random, mix};

/// Rows.
pub const ROWS: TreeId = TreeId(100);
/// Which step last touched a row.
pub const STEPS: TreeId = TreeId(17);
/// Per client: its last step.
pub const CLIENTS: TreeId = TreeId(18);
/// All of them.
pub const TREES: [TreeId; 3] = [ROWS, STEPS, CLIENTS];

/// The plan of one run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// Rows of each client.
    pub rows: u64,
}

/// One client's rows: key number to value.
pub type Rows = BTreeMap<u64, Vec<u8>>;

impl Plan {
    /// The key of a client's row.
    pub fn key(client: u32, row: u64) -> [u8; 12] {
        let mut key = [0; 12];
        key[..4].copy_from_slice(&client.to_be_bytes());
        key[4..].copy_from_slice(&row.to_be_bytes());
        key
    }

    /// What step `step` of `client` does: row and new value, nothing for a deletion.
    pub fn step(&self, client: u32, step: u64) -> Vec<(u64, Option<Vec<u8>>)> {
        let mut random = Random::new(mix(mix(self.seed ^ u64::from(client)) ^ step));
        let count = 1 + random.below(6);
        (0..count)
            .map(|_| {
                let row = random.below(self.rows);
                let value = (!random.chance(0.15)).then(|| {
                    let mut value = vec![0; 8 + random.below(300) as usize];
                    random.bytes(&mut value);
                    value[..8].copy_from_slice(&step.to_be_bytes());
                    value
                });
                (row, value)
            })
            .collect()
    }

    /// What a step writes: tree, key and new value, nothing for a deletion.
    pub fn changes(&self, client: u32, step: u64) -> Vec<(TreeId, Vec<u8>, Option<Vec<u8>>)> {
        let mut changes = Vec::new();
        for (row, value) in self.step(client, step) {
            let key = Plan::key(client, row).to_vec();
            let touched = value.is_some().then(|| step.to_be_bytes().to_vec());
            changes.push((STEPS, key.clone(), touched));
            changes.push((ROWS, key, value));
        }
        changes.push((CLIENTS, client.to_be_bytes().to_vec(), Some(step.to_be_bytes().to_vec())));
        changes
    }

    /// A client's rows after `steps` steps.
    pub fn rows_after(&self, client: u32, steps: u64) -> Rows {
        let mut rows = Rows::new();
        for step in 1..=steps {
            for (row, value) in self.step(client, step) {
                match value {
                    Some(value) => rows.insert(row, value),
                    None => rows.remove(&row),
                };
            }
        }
        rows
    }
}
