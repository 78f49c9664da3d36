//! Where a PostgreSQL server listens, be it PostgreSQL or Regroup, and the ways to it: the raw client, tokio-postgres, stock programs.
//!
//! Used by `postgres` and `regroup`, which start servers, and by everything that talks to one. It connects; it starts nothing.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::{postgres, wire};

/// How to reach it.
#[derive(Clone, Debug)]
pub enum Listener {
    /// A socket `.s.PGSQL.<port>` in a folder.
    Unix(PathBuf, u16),
    /// A port of 127.0.0.1.
    Tcp(u16),
}

/// A server, and as whom to enter which of its databases.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// How to reach it.
    pub listener: Listener,
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
}

/// A connection of tokio-postgres; its driver task ends with it.
pub struct Connection {
    /// To ask.
    pub client: tokio_postgres::Client,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Endpoint {
    /// A raw connection; every answer must come within `patience`.
    ///
    /// # Errors
    /// Nobody listens, or the server refuses.
    pub fn wire(&self, patience: Duration) -> io::Result<wire::Client> {
        wire::Client::connect(self, patience)
    }

    /// A connection of tokio-postgres.
    ///
    /// # Errors
    /// Nobody listens, or the server refuses.
    pub async fn connect(&self) -> Result<Connection, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.user(&self.user).dbname(&self.database).connect_timeout(Duration::from_secs(10));
        match &self.listener {
            Listener::Unix(folder, port) => config.host_path(folder).port(*port),
            Listener::Tcp(port) => config.host("127.0.0.1").port(*port),
        };
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        let driver = tokio::spawn(async move {
            // Its end, good or bad, is seen by the client's next request.
            drop(connection.await);
        });
        Ok(Connection { client, driver })
    }

    /// A connection of tokio-postgres, tried again until `until`: for servers that are being restarted.
    ///
    /// # Errors
    /// The last one.
    pub async fn reconnect(&self, until: Instant) -> Result<Connection, tokio_postgres::Error> {
        loop {
            match self.connect().await {
                Ok(connection) => return Ok(connection),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// A stock program of PostgreSQL 15 (`psql`, `pgbench`) that is to talk to this server: told by the environment, deaf to the user's own
    /// files.
    ///
    /// # Panics
    /// PostgreSQL 15 isn't installed.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(postgres::programs().join(name));
        match &self.listener {
            Listener::Unix(folder, port) => command.env("PGHOST", folder).env("PGPORT", port.to_string()),
            Listener::Tcp(port) => command.env("PGHOST", "127.0.0.1").env("PGPORT", port.to_string()),
        };
        command.env("PGUSER", &self.user).env("PGDATABASE", &self.database).env("PSQLRC", "/dev/null").env("PGCONNECT_TIMEOUT", "10");
        command
    }
}
