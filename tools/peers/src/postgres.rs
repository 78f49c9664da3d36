//! PostgreSQL, from its package: a cluster of its own in a directory of its own, on a port of its own.
//!
//! Durable as by default (fsync, synchronous_commit and full_page_writes on); its cache as asked for. Checkpoints come from it being told
//! only, as far as `max_wal_size` allows, so that the log to redo is what was written since. All else is default.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::process::{Server, User, is_root, run, run_as};
use super::side::{Door, START_LIMIT, Side, first_answer, free_port, last_lines};

const USER: &str = "postgres";

/// One cluster.
pub(crate) struct Postgres {
    number: usize,
    programs: PathBuf,
    home: PathBuf,
    port: u16,
    options: Vec<(String, String)>,
    user: Option<User>,
    server: Option<Server>,
    /// How long its log was before the newest start, and when that was by the wall clock.
    started: (u64, f64),
}

impl Postgres {
    /// To be made in `home`, which isn't there yet. `options` come after, so over, what is set here.
    pub(crate) fn new(
        number: usize,
        programs: &Path,
        home: PathBuf,
        cache_mib: u64,
        options: &[(String, String)],
    ) -> Result<Postgres, String> {
        let port = free_port()?;
        let own = [
            ("listen_addresses", "127.0.0.1".to_string()),
            ("port", port.to_string()),
            ("unix_socket_directories", home.display().to_string()),
            ("shared_buffers", format!("{cache_mib}MB")),
            ("fsync", "on".into()),
            ("synchronous_commit", "on".into()),
            ("full_page_writes", "on".into()),
            ("max_connections", "120".into()),
            ("checkpoint_timeout", "1d".into()),
            ("max_wal_size", "64GB".into()),
            ("log_line_prefix", "%n ".into()),
            ("log_checkpoints", "on".into()),
            ("logging_collector", "off".into()),
        ];
        let options = own.into_iter().map(|(name, value)| (name.to_string(), value)).chain(options.iter().cloned()).collect();
        let user = if is_root() { Some(User::named(USER).or_else(|_| User::named("nobody"))?) } else { None };
        Ok(Postgres { number, programs: programs.to_path_buf(), home, port, options, user, server: None, started: (0, 0.0) })
    }

    fn log(&self) -> PathBuf {
        self.home.join("server.log")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir("/").env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        run_as(&mut command, self.user);
        command
    }

    fn running(&mut self) -> Result<&mut Server, String> {
        self.server.as_mut().ok_or_else(|| "PostgreSQL isn't running".to_string())
    }

    /// Lines of the newest start, with their wall clock times.
    fn said(&self) -> Vec<(f64, String)> {
        let bytes = std::fs::read(self.log()).unwrap_or_default();
        let new = String::from_utf8_lossy(bytes.get(self.started.0 as usize..).unwrap_or_default()).into_owned();
        let line = |line: &str| {
            let (time, rest) = line.split_once(' ')?;
            Some((time.parse().ok()?, rest.to_string()))
        };
        new.lines().filter_map(line).collect()
    }
}

fn wall() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

impl Side for Postgres {
    fn name(&self) -> String {
        if self.number == 0 { "postgres".to_string() } else { format!("postgres-{}", self.number + 1) }
    }

    fn describe(&self) -> Result<Value, String> {
        let version = run(self.command("postgres").arg("--version"), Duration::from_secs(20))?;
        let options: Vec<String> = self.options.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        Ok(json!({ "name": self.name(), "version": version.trim(), "options": options, "otherwise": "defaults" }))
    }

    fn create(&mut self) -> Result<(), String> {
        std::fs::create_dir_all(&self.home).map_err(|error| format!("{}: {error}", self.home.display()))?;
        if let Some(user) = self.user {
            user.own(&self.home)?;
        }
        let mut init = self.command("initdb");
        init.arg("-D").arg(self.data()).args(["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        run(&mut init, Duration::from_secs(300))?;
        self.start()?;
        first_answer(self, START_LIMIT).map(drop)
    }

    fn start(&mut self) -> Result<Instant, String> {
        let log =
            File::options().append(true).create(true).open(self.log()).map_err(|error| format!("{}: {error}", self.log().display()))?;
        let length = log.metadata().map_err(|error| error.to_string())?.len();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data());
        for (name, value) in &self.options {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdout(log.try_clone().map_err(|error| error.to_string())?).stderr(log);
        self.started = (length, wall());
        let began = Instant::now();
        self.server = Some(Server::start(&mut command)?);
        Ok(began)
    }

    fn stop(&mut self) -> Result<(), String> {
        match self.server.take() {
            Some(server) => server.stop(libc::SIGINT, START_LIMIT),
            None => Ok(()),
        }
    }

    fn kill(&mut self) -> Result<(), String> {
        self.server.take().map_or(Ok(()), Server::kill)
    }

    fn check(&mut self) -> Result<(), String> {
        let log = self.log();
        self.running()?.check().map_err(|error| format!("PostgreSQL: {error}; the end of its log:\n{}", last_lines(&log)))
    }

    fn pause(&self) {
        self.server.iter().for_each(Server::pause);
    }

    fn resume(&self) {
        self.server.iter().for_each(Server::resume);
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn log_bytes(&mut self) -> Result<Option<u64>, String> {
        let answer = self.door().connect()?.query("select (pg_current_wal_insert_lsn() - '0/0')::bigint")?;
        Ok(answer.and_then(|bytes| bytes.parse().ok()))
    }

    fn redone(&mut self, _began: Instant) -> Result<(f64, Value), String> {
        let said = self.said();
        let redo = said
            .iter()
            .find(|(_, line)| line.contains("redo done at"))
            .or_else(|| said.iter().find(|(_, line)| line.contains("redo is not required")));
        let Some((time, _)) = redo else {
            return Err(format!("PostgreSQL didn't say that redo is done:\n{}", last_lines(&self.log())));
        };
        let lines: Vec<&str> =
            said.iter().map(|(_, line)| line.as_str()).filter(|line| line.contains("redo") || line.contains("checkpoint")).collect();
        Ok((time - self.started.1, json!(lines)))
    }

    fn door(&self) -> Door {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        Door { address, user: USER.to_string(), database: "postgres".to_string(), programs: self.programs.clone() }
    }
}
