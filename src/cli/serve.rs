//! `regroupd`: opens one instance's storage, recovers it if need be, and holds it until SIGTERM or SIGINT, then closes it.
//!
//! Standard output gets one JSON object a line: `recovering` (with progress), `recovered` (with the report), `open`, `closed`. Clients
//! can't connect yet: the PostgreSQL door is a later part.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::json;

use super::config::Config;
use super::{CommandError, on_runtime};
use crate::node::storage::Opening;
use crate::node::store::Store;
use crate::recovery::Progress;

/// What to run.
#[derive(ClapArgs)]
pub struct Args {
    /// The instance's configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Says something on standard output as a line of JSON.
pub(super) fn say(event: &serde_json::Value) {
    println!("{event}");
}

pub(super) fn say_progress(progress: &Progress) {
    say(&json!({
        "event": "recovering", "phase": progress.phase, "unit": progress.unit, "done": progress.done, "total": progress.total,
        "seconds": progress.elapsed.as_secs_f64(), "seconds_left": progress.left.map(|left| left.as_secs_f64()),
    }));
}

/// Runs until told to stop.
///
/// # Errors
/// The configuration or the storage can't be used.
pub fn run(args: Args) -> Result<bool, CommandError> {
    let config = Config::load(&args.config)?;
    on_runtime(config.options.disk, async move |seams, disk| {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let thread = config.thread();
        let opening = Opening {
            seams,
            disk,
            paths: config.storage,
            thread,
            options: config.options,
            on_progress: Some(Box::new(say_progress)),
            on_checkpoint: None,
        };
        let store = Store::open(opening).await?;
        if let Some(report) = store.storage().recovery() {
            say(&json!({ "event": "recovered", "report": report }));
        }
        let writer = store.storage().writer();
        say(&json!({ "event": "open", "instance": thread.0, "incarnation": writer.incarnation.0, "epoch": writer.epoch.0 }));
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            outcome = tokio::signal::ctrl_c() => outcome?,
        }
        store.close().await?;
        say(&json!({ "event": "closed", "instance": thread.0 }));
        Ok(true)
    })
}
