//! `regroupd`: opens one instance's storage, recovers it if need be, and serves PostgreSQL clients until SIGTERM or SIGINT; then it ends
//! their sessions and closes the storage.
//!
//! Standard output gets one JSON object a line: `listening` (with the address: clients that come before `open` are told how far the start
//! is), `recovering` (with progress), `recovered` (with the report), `open` (with the address again), `closed`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use clap::Args as ClapArgs;
use serde_json::json;

use super::config::Config;
use super::{CommandError, on_runtime};
use crate::base::{BoxFuture, Seams};
use crate::node::storage::Opening;
use crate::node::store::Store;
use crate::recovery::Progress;
use crate::sql::session::{Admin, Engine, EngineOptions};
use crate::sql::wire::options::PostgresOptions;
use crate::sql::wire::server::Server;
use crate::table::rows::Rows;

/// What to run.
#[derive(ClapArgs)]
pub struct Args {
    /// The instance's configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// What statements ask of the instance. The store may be gone when they do: sessions end before it closes, tasks may linger.
struct Instance {
    store: Weak<Store>,
}

impl Admin for Instance {
    fn checkpoint(&self) -> BoxFuture<Result<(), String>> {
        let store = self.store.clone();
        Box::pin(async move {
            let store = store.upgrade().ok_or("the instance is stopping")?;
            store.storage().checkpoint().await.map(|_| ()).map_err(|error| error.to_string())
        })
    }

    fn vacuum(&self) -> BoxFuture<Result<(), String>> {
        // Nothing to do by hand: undo is freed as snapshots end.
        Box::pin(async { Ok(()) })
    }
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

/// The same for clients that come too early.
fn tell_progress(progress: &Progress) -> String {
    let Progress { phase, unit, done, .. } = progress;
    let of = progress.total.map(|total| format!(" of {total}")).unwrap_or_default();
    let left = progress.left.map(|left| format!(", about {:.0} s left", left.as_secs_f64().ceil())).unwrap_or_default();
    format!("recovery, phase {phase}: {done}{of} {unit}{left}")
}

/// Opens the store and recovers it, telling `server`'s clients how far that is.
async fn open(config: Config, seams: Seams, disk: Arc<dyn crate::disk::Disk>, server: &Server) -> Result<Store, CommandError> {
    let server = server.clone();
    let on_progress = move |progress: &Progress| {
        say_progress(progress);
        server.starting(tell_progress(progress));
    };
    let thread = config.thread();
    let on_progress: Option<crate::recovery::OnProgress> = Some(Box::new(on_progress));
    let opening = Opening { seams, disk, paths: config.storage, thread, options: config.options, on_progress, on_checkpoint: None };
    let store = Store::open(opening).await?;
    if let Some(report) = store.storage().recovery() {
        say(&json!({ "event": "recovered", "report": report }));
    }
    Ok(store)
}

async fn engine(store: &Arc<Store>, seams: Seams, options: &PostgresOptions) -> Result<Engine, CommandError> {
    let admin = Arc::new(Instance { store: Arc::downgrade(store) });
    let options = EngineOptions { connections_max: options.max_connections, settings: options.settings(), ..EngineOptions::default() };
    Ok(Engine::open(Rows::new(store.trees().clone()), seams, admin, options).await?)
}

/// Listens where `options` say, with what is wrong with that place in the error.
async fn listen(server: &Server, options: &PostgresOptions) -> Result<SocketAddr, CommandError> {
    let address =
        server.listen().await.map_err(|error| format!("can't listen for clients at {} (postgres.listen): {error}", options.listen))?;
    say(&json!({ "event": "listening", "postgres": address }));
    Ok(address)
}

/// Runs until told to stop.
///
/// # Errors
/// The configuration, the address or the storage can't be used.
pub fn run(args: Args) -> Result<bool, CommandError> {
    let config = Config::load(&args.config)?;
    on_runtime(config.options.disk, async move |seams, disk| {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let instance = config.instance;
        let postgres = config.postgres.clone();
        let server = Server::new(seams.clone(), postgres.clone());
        let address = listen(&server, &postgres).await?;
        let store = Arc::new(open(config, seams.clone(), disk, &server).await?);
        server.open(engine(&store, seams, &postgres).await?);
        let writer = store.storage().writer();
        say(&json!({
            "event": "open", "instance": instance, "incarnation": writer.incarnation.0, "epoch": writer.epoch.0, "postgres": address,
        }));
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            outcome = tokio::signal::ctrl_c() => outcome?,
        }
        server.close().await;
        let store =
            Arc::into_inner(store).ok_or("a task still uses the storage after all sessions have ended: it is left as after a crash")?;
        store.close().await?;
        say(&json!({ "event": "closed", "instance": instance }));
        Ok(true)
    })
}
