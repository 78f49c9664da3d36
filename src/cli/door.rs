//! The way in for PostgreSQL clients, as `regroupd` opens and closes it around its storage.
//!
//! It listens before the storage is open, so that clients that come early are told how far the start is. Nothing when the configuration
//! has no section `[postgres]`.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use super::CommandError;
use super::config::Config;
use crate::base::{BoxFuture, Gate, Seams};
use crate::node::store::Store;
use crate::recovery::Progress;
use crate::sql::session::{Admin, Engine, EngineOptions};
use crate::sql::wire::options::PostgresOptions;
use crate::sql::wire::server::Server;

/// What statements ask of the instance. Sessions end before the store closes, but tasks may linger.
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
}

/// The door, and where it is.
#[derive(Clone)]
pub(super) struct Door {
    way: Option<(Server, SocketAddr, PostgresOptions)>,
}

impl Door {
    /// Listens as `config` says.
    pub(super) async fn listen(config: &Config, seams: &Seams, gate: Gate) -> Result<Door, CommandError> {
        let (Some(options), Some(listen)) = (&config.postgres, config.listen()) else { return Ok(Door { way: None }) };
        let server = Server::new(seams.clone(), options.clone(), gate);
        let address = server.listen(listen).await;
        let address = address.map_err(|error| format!("can't listen for clients at {listen} (postgres.listen): {error}"))?;
        Ok(Door { way: Some((server, address, options.clone())) })
    }

    /// Where clients find it.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.way.as_ref().map(|(_, address, _)| *address)
    }

    /// Clients that come now are told so.
    pub(super) fn recovering(&self, progress: &Progress) {
        let Some((server, ..)) = &self.way else { return };
        let Progress { phase, unit, done, .. } = progress;
        let of = progress.total.map(|total| format!(" of {total}")).unwrap_or_default();
        let left = progress.left.map(|left| format!(", about {:.0} s left", left.as_secs_f64().ceil())).unwrap_or_default();
        server.starting(format!("recovery, phase {phase}: {done}{of} {unit}{left}"));
    }

    /// Clients that come are sent to where SQL is served.
    pub(super) fn elsewhere(&self, config: &Config) {
        let Some((server, ..)) = &self.way else { return };
        let at = match config.listen_of(1) {
            Some(address) if address.port() != 0 => format!("at {address}"),
            _ => "where `clusterctl status` shows it".into(),
        };
        server.elsewhere(format!("In this version only instance 1 serves SQL: connect {at}."));
    }

    /// Lets clients in.
    pub(super) async fn open(&self, store: &Arc<Store>, seams: &Seams) -> Result<(), CommandError> {
        let Some((server, _, options)) = &self.way else { return Ok(()) };
        let admin = Arc::new(Instance { store: Arc::downgrade(store) });
        let options = EngineOptions {
            connections_max: options.max_connections,
            work_bytes_max: usize::try_from(options.work_bytes_max).unwrap_or(usize::MAX),
            work_total_bytes_max: usize::try_from(options.work_total_bytes_max).unwrap_or(usize::MAX),
            settings: options.settings(),
            ..EngineOptions::default()
        };
        let engine = Engine::open(store.rows().clone(), seams.clone(), admin, options).await?;
        server.open(engine);
        Ok(())
    }

    /// Ends every session and waits until they are gone.
    pub(super) async fn close(&self) {
        if let Some((server, ..)) = &self.way {
            server.close().await;
        }
    }
}
