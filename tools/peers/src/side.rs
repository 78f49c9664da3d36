//! What a measurement asks of either side.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::Client;
use super::process::run;

/// Longest start or stop of a server.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(900);
/// Longest silence on a connection.
const READ_LIMIT: Duration = Duration::from_secs(1800);

/// What a start after a crash took, from exec.
#[derive(Clone, Debug)]
pub(crate) struct Restart {
    /// Until the last page was redone, in seconds.
    pub(crate) redone: f64,
    /// Until the first client had an answer, in seconds.
    pub(crate) served: f64,
    /// What the server said about it.
    pub(crate) said: Value,
}

/// One of the two servers that are compared.
pub(crate) trait Side {
    /// Its name in tables.
    fn name(&self) -> String;

    /// Version and the options that aren't defaults.
    fn describe(&self) -> Result<Value, String>;

    /// Makes an empty cluster and starts it.
    fn create(&mut self) -> Result<(), String>;

    /// Starts it; returns when that was.
    fn start(&mut self) -> Result<Instant, String>;

    /// Closes it in order.
    fn stop(&mut self) -> Result<(), String>;

    /// Kills it.
    fn kill(&mut self) -> Result<(), String>;

    /// An error when it has ended by itself, with what it said.
    fn check(&mut self) -> Result<(), String>;

    /// Halts it where it is.
    fn pause(&self);

    /// Lets it go on.
    fn resume(&self);

    /// Where all of its data is.
    fn data(&self) -> PathBuf;

    /// Log written since it was made, in bytes, if it tells.
    fn log_bytes(&mut self) -> Result<Option<u64>, String>;

    /// Waits until the log of the newest start tells that redo is over: seconds from `began`, and what it said.
    fn redone(&mut self, began: Instant) -> Result<(f64, Value), String>;

    /// Where clients find it, as whom.
    fn door(&self) -> Door;
}

/// Where clients go.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    pub(crate) user: String,
    pub(crate) database: String,
    /// Where `pgbench` is.
    pub(crate) programs: PathBuf,
}

impl Door {
    /// Connects, once.
    pub(crate) fn connect(&self) -> Result<Client, String> {
        Client::connect(self.address, &self.user, &self.database, READ_LIMIT)
    }

    /// `pgbench` with these arguments.
    pub(crate) fn pgbench(&self, arguments: &[&str], limit: Duration) -> Result<String, String> {
        let mut command = Command::new(self.programs.join("pgbench"));
        command.args(["-h", &self.address.ip().to_string(), "-p", &self.address.port().to_string(), "-U", &self.user]);
        command.args(arguments).arg(&self.database).env("PGCONNECT_TIMEOUT", "30").env_remove("PGOPTIONS").current_dir("/");
        run(&mut command, limit)
    }
}

/// Waits until a client gets an answer, asking without a pause.
pub(crate) fn first_answer(side: &mut dyn Side, limit: Duration) -> Result<Instant, String> {
    let until = Instant::now() + limit;
    let door = side.door();
    loop {
        let answer = door.connect().and_then(|mut client| client.query("select 1"));
        match answer {
            Ok(Some(one)) if one == "1" => return Ok(Instant::now()),
            Ok(other) => return Err(format!("{}: select 1 gave {other:?}", side.name())),
            Err(error) => {
                side.check()?;
                if Instant::now() >= until {
                    return Err(format!("{}: no answer after {limit:?}: {error}", side.name()));
                }
                std::thread::sleep(Duration::from_micros(500));
            }
        }
    }
}

/// Starts what was killed, and measures.
pub(crate) fn restart(side: &mut dyn Side) -> Result<Restart, String> {
    let began = side.start()?;
    let served = first_answer(side, START_LIMIT)?.duration_since(began).as_secs_f64();
    let (redone, said) = side.redone(began)?;
    Ok(Restart { redone, served, said })
}

/// A port that is free now.
pub(crate) fn free_port() -> Result<u16, String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    listener.local_addr().map(|address| address.port()).map_err(|error| error.to_string())
}

/// The last lines of a log, for messages.
pub(crate) fn last_lines(path: &Path) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
