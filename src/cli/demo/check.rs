//! The checker: a process of its own that opens (and so recovers) the store and holds it against the journal.
//!
//! For each client: every acknowledged step is there; at most one step more is, as a whole; rows and steps are exactly what the plan says
//! for that step; nothing else is in any tree; the structure check is clean. Prints one JSON object.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde::{Deserialize, Serialize};

use super::load::last_step;
use super::plan::{CLIENTS, Plan, ROWS, STEPS};
use crate::base::TreeId;
use crate::cli::config::Config;
use crate::cli::{CommandError, on_runtime, votes};
use crate::node::storage::Opening;
use crate::node::store::Store;
use crate::recovery::RecoveryReport;
use crate::table::{Direction, TableError};

/// What to check.
#[derive(ClapArgs)]
pub struct Args {
    /// The instance's configuration file.
    #[arg(long)]
    config: PathBuf,
    /// The journal: a line per acknowledged step, client and step.
    #[arg(long)]
    journal: PathBuf,
    /// As the load had.
    #[arg(long)]
    seed: u64,
    /// As the load had.
    #[arg(long)]
    clients: u32,
    /// As the load had.
    #[arg(long)]
    rows: u64,
}

/// What the checker found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Everything wrong, in words; empty when all holds.
    pub findings: Vec<String>,
    /// Acknowledged steps in the journal.
    pub acknowledged: u64,
    /// Steps that are there, acknowledged or not.
    pub present: u64,
    /// Rows compared.
    pub rows: u64,
    /// What recovery did; nothing when the store had been closed.
    pub recovery: Option<RecoveryReport>,
}

/// Checks and prints the outcome; false when something is wrong.
///
/// # Errors
/// The journal can't be read, or the storage not opened.
pub fn run(args: Args) -> Result<bool, CommandError> {
    let config = Config::load(&args.config)?;
    let journal = read_journal(&std::fs::read_to_string(&args.journal)?)?;
    on_runtime(config.options.disk, async move |seams, disk| {
        let thread = config.thread();
        let _nobody = votes::claim(&config, &seams, &disk, super::DRAIN_PATIENCE).await?;
        let opening =
            Opening { seams, disk, paths: config.storage.paths(), thread, options: config.options, on_progress: None, on_checkpoint: None };
        let store = Store::open(opening).await?;
        let plan = Plan { seed: args.seed, rows: args.rows };
        let mut outcome = Outcome { recovery: store.storage().recovery().cloned(), ..Outcome::default() };
        compare(&store, &plan, args.clients, &journal, &mut outcome).await?;
        let structure = store.trees().check(|_| {}).await?;
        outcome.findings.extend(structure.findings.iter().map(|finding| format!("structure: {finding}")));
        outcome.findings.extend(store.storage().cache().quarantined().iter().map(|(page, why)| format!("{page} is quarantined: {why}")));
        store.close().await?;
        println!("{}", serde_json::to_string(&outcome)?);
        Ok(outcome.findings.is_empty())
    })
}

/// Per client, its last acknowledged step. Steps of a client are acknowledged in order, each once.
fn read_journal(text: &str) -> Result<BTreeMap<u32, u64>, CommandError> {
    let mut last = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(client), Some(step), None) = (words.next(), words.next(), words.next()) else {
            return Err(format!("the journal has a line that is no acknowledgement: {line:?}").into());
        };
        let (client, step): (u32, u64) = (client.parse()?, step.parse()?);
        last.insert(client, step.max(last.get(&client).copied().unwrap_or(0)));
    }
    Ok(last)
}

async fn compare(store: &Store, plan: &Plan, clients: u32, journal: &BTreeMap<u32, u64>, outcome: &mut Outcome) -> Result<(), TableError> {
    let present = store.trees().trees().await?;
    if !present.iter().any(|(tree, _)| *tree == CLIENTS) {
        if journal.values().any(|step| *step > 0) {
            outcome.findings.push("acknowledged steps, but no tree of clients".to_string());
        }
        return Ok(());
    }
    let (mut rows, mut steps) = (BTreeMap::new(), BTreeMap::new());
    for client in 0..clients {
        let acknowledged = journal.get(&client).copied().unwrap_or(0);
        let found = last_step(store, client).await?;
        outcome.acknowledged += acknowledged;
        outcome.present += found;
        if !(acknowledged..=acknowledged + 1).contains(&found) {
            outcome.findings.push(format!("client {client}: acknowledged up to step {acknowledged}, but the store has step {found}"));
        }
        for (row, value) in plan.rows_after(client, found) {
            let key = Plan::key(client, row).to_vec();
            steps.insert(key.clone(), value[..8].to_vec());
            rows.insert(key, value);
        }
    }
    for (tree, expected) in [(ROWS, rows), (STEPS, steps)] {
        compare_tree(store, tree, expected, outcome).await?;
    }
    Ok(())
}

async fn compare_tree(
    store: &Store,
    tree: TreeId,
    mut expected: BTreeMap<Vec<u8>, Vec<u8>>,
    outcome: &mut Outcome,
) -> Result<(), TableError> {
    let all = (Bound::Unbounded, Bound::Unbounded);
    let look = |key: &[u8], value: &[u8]| {
        outcome.rows += 1;
        match expected.remove(key) {
            None => outcome.findings.push(format!("{tree}: key {key:02x?} should not be there")),
            Some(wanted) if wanted != value => {
                outcome.findings.push(format!("{tree}: key {key:02x?} has another value than its last step wrote"));
            }
            Some(_) => {}
        }
        ControlFlow::Continue(())
    };
    store.trees().scan(tree, all, Direction::Up, look).await?;
    outcome.findings.extend(expected.keys().map(|key| format!("{tree}: key {key:02x?} is missing")));
    Ok(())
}
