//! The process that is killed: clients that write as fast as they can and say on standard output what was acknowledged.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args as ClapArgs;

use super::plan::{CLIENTS, Plan, TREES};
use crate::base::TreeId;
use crate::cli::config::Config;
use crate::cli::{CommandError, on_runtime, votes};
use crate::node::storage::Opening;
use crate::node::store::Store;
use crate::table::{TableError, Write};

/// What to run.
#[derive(ClapArgs)]
pub struct Args {
    /// The instance's configuration file.
    #[arg(long)]
    config: PathBuf,
    /// Decides what is written.
    #[arg(long)]
    seed: u64,
    /// Concurrent clients.
    #[arg(long)]
    clients: u32,
    /// Rows of each client.
    #[arg(long)]
    rows: u64,
}

/// Writes until killed.
///
/// # Errors
/// The storage can't be opened, or a commit failed.
pub fn run(args: Args) -> Result<bool, CommandError> {
    let config = Config::load(&args.config)?;
    on_runtime(config.options.disk, async move |seams, disk| {
        let thread = config.thread();
        let _nobody = votes::claim(&config, &seams, &disk, super::DRAIN_PATIENCE).await?;
        let opening = Opening {
            seams: seams.clone(),
            disk,
            paths: config.storage.paths(),
            thread,
            options: config.options,
            on_progress: None,
            on_checkpoint: None,
        };
        let store = Arc::new(Store::open(opening).await?);
        let present: Vec<TreeId> = store.trees().trees().await?.into_iter().map(|(tree, _)| tree).collect();
        for tree in TREES {
            if !present.contains(&tree) {
                store.trees().create_tree(tree).await?;
            }
        }
        let plan = Plan { seed: args.seed, rows: args.rows };
        let (failed, mut failure) = tokio::sync::mpsc::unbounded_channel();
        for client in 0..args.clients {
            let (store, failed) = (store.clone(), failed.clone());
            seams.spawn(
                "client",
                Box::pin(async move {
                    // The main task listens until the process ends.
                    let _ = failed.send(write(&store, &plan, client).await);
                }),
            );
        }
        match failure.recv().await {
            Some(Err(error)) => Err(error.into()),
            Some(Ok(())) | None => Ok(true),
        }
    })
}

/// One client: goes on behind the last step that the store has, for as long as somebody reads what it says.
async fn write(store: &Store, plan: &Plan, client: u32) -> Result<(), TableError> {
    let mut step = last_step(store, client).await?;
    loop {
        step += 1;
        let changes = plan.changes(client, step);
        let writes: Vec<Write<'_>> = changes
            .iter()
            .map(|(tree, key, value)| match value {
                Some(value) => Write::Put { tree: *tree, key, value },
                None => Write::Delete { tree: *tree, key },
            })
            .collect();
        store.commit(&writes).await?;
        // One write of less than a pipe's atomic size: lines of several clients don't mix, and a kill leaves no half line behind a whole one.
        if std::io::stdout().lock().write_all(format!("{client} {step}\n").as_bytes()).is_err() {
            return Ok(());
        }
    }
}

/// The last step of `client` that the store has.
pub(super) async fn last_step(store: &Store, client: u32) -> Result<u64, TableError> {
    let value = store.trees().get(CLIENTS, &client.to_be_bytes()).await?;
    Ok(value.and_then(|value| value.try_into().ok()).map_or(0, u64::from_be_bytes))
}
