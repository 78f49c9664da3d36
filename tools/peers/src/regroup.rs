//! Regroup: a cluster of one instance made by `clusterctl init`, run in the foreground by `clusterctl run`.
//!
//! What it says on standard output, one JSON object a line, is timed as it comes in.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::process::{Server, run};
use super::side::{Door, START_LIMIT, Side, first_answer, free_port, last_lines};

type Events = Arc<Mutex<VecDeque<(Instant, Value)>>>;

/// What a Regroup cluster is made with.
pub(crate) struct Setup {
    /// Its programs.
    pub(crate) clusterctl: PathBuf,
    /// PostgreSQL's client programs.
    pub(crate) programs: PathBuf,
    /// Page cache, in MiB.
    pub(crate) cache_mib: u64,
    /// Redo ring, in MiB.
    pub(crate) ring_mib: u64,
    /// Lines for `[options]`.
    pub(crate) options: Vec<(String, String)>,
}

/// One cluster.
pub(crate) struct Regroup {
    number: usize,
    setup: Setup,
    home: PathBuf,
    port: u16,
    server: Option<Server>,
    events: Events,
}

impl Regroup {
    /// To be made in `home`, which isn't there yet.
    pub(crate) fn new(number: usize, setup: Setup, home: PathBuf) -> Result<Regroup, String> {
        if !setup.clusterctl.is_file() {
            let shown = setup.clusterctl.display();
            return Err(format!("there is no {shown}: build it with `cargo build --release`, or name its folder with --regroup"));
        }
        Ok(Regroup { number, setup, home, port: free_port()?, server: None, events: Events::default() })
    }

    fn log(&self) -> PathBuf {
        self.home.join("server.log")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.setup.clusterctl);
        command.arg("--dir").arg(self.data());
        command
    }

    /// Puts the options into the configuration, in place of the comments that show their defaults.
    fn configure(&self) -> Result<(), String> {
        let file = self.data().join("regroup.toml");
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let text = with_options(&text, &self.setup.options)?;
        std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))
    }

    fn event(&self, name: &str) -> Option<(Instant, Value)> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().find(|(_, event)| event["event"] == name).cloned()
    }
}

/// `text`, a configuration file, with these lines first under `[options]`, and what said otherwise taken out.
fn with_options(text: &str, options: &[(String, String)]) -> Result<String, String> {
    let mut lines: Vec<String> = Vec::new();
    let mut section = String::new();
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.trim().to_string();
        }
        let name = line.split('=').next().unwrap_or_default().trim();
        if section == "[options]" && options.iter().any(|(set, _)| set == name) {
            continue;
        }
        lines.push(line.to_string());
        if line.trim() == "[options]" {
            lines.extend(options.iter().map(|(name, value)| format!("{name} = {value}")));
        }
    }
    if !options.is_empty() && !lines.iter().any(|line| line.trim() == "[options]") {
        return Err("the configuration has no [options]".to_string());
    }
    Ok(lines.join("\n") + "\n")
}

impl Side for Regroup {
    fn name(&self) -> String {
        if self.number == 0 { "regroup".to_string() } else { format!("regroup-{}", self.number + 1) }
    }

    fn describe(&self) -> Result<Value, String> {
        let version = run(Command::new(&self.setup.clusterctl).arg("--version"), Duration::from_secs(20))?;
        let mut options = vec![format!("cache {} MiB", self.setup.cache_mib), format!("ring {} MiB", self.setup.ring_mib)];
        options.extend(self.setup.options.iter().map(|(name, value)| format!("{name} = {value}")));
        Ok(json!({ "name": self.name(), "version": version.trim(), "options": options, "otherwise": "defaults" }))
    }

    fn create(&mut self) -> Result<(), String> {
        std::fs::create_dir_all(&self.home).map_err(|error| format!("{}: {error}", self.home.display()))?;
        let Setup { cache_mib, ring_mib, .. } = self.setup;
        let mut init = self.command();
        init.args(["init", "--instances", "1", "--cache", &format!("{cache_mib}MiB"), "--ring-size", &format!("{ring_mib}MiB")]);
        init.args(["--listen", &format!("127.0.0.1:{}", self.port)]);
        run(&mut init, START_LIMIT)?;
        self.configure()?;
        self.start()?;
        first_answer(self, START_LIMIT).map(drop)
    }

    fn start(&mut self) -> Result<Instant, String> {
        let log =
            File::options().append(true).create(true).open(self.log()).map_err(|error| format!("{}: {error}", self.log().display()))?;
        let mut command = self.command();
        command.args(["run", "--instance", "1"]).stdout(Stdio::piped()).stderr(log);
        self.events = Events::default();
        let began = Instant::now();
        let mut server = Server::start(&mut command)?;
        let output = server.output().ok_or("the server's output isn't a pipe")?;
        let events = self.events.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let now = Instant::now();
                // A line that isn't JSON is not one of the events that are waited for.
                if let Ok(event) = serde_json::from_str(&line) {
                    events.lock().unwrap_or_else(PoisonError::into_inner).push_back((now, event));
                }
            }
        });
        self.server = Some(server);
        Ok(began)
    }

    fn stop(&mut self) -> Result<(), String> {
        match self.server.take() {
            Some(server) => server.stop(libc::SIGTERM, START_LIMIT),
            None => Ok(()),
        }
    }

    fn kill(&mut self) -> Result<(), String> {
        self.server.take().map_or(Ok(()), Server::kill)
    }

    fn check(&mut self) -> Result<(), String> {
        let log = self.log();
        let server = self.server.as_mut().ok_or("Regroup isn't running")?;
        server.check().map_err(|error| format!("Regroup: {error}; the end of its log:\n{}", last_lines(&log)))
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
        Ok(None)
    }

    fn redone(&mut self, began: Instant) -> Result<(f64, Value), String> {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some((at, event)) = self.event("recovered") {
                return Ok((at.duration_since(began).as_secs_f64(), event["report"].clone()));
            }
            if Instant::now() >= until {
                return Err(format!("Regroup didn't say that it recovered; the end of its log:\n{}", last_lines(&self.log())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn door(&self) -> Door {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        Door { address, user: "regroup".to_string(), database: "regroup".to_string(), programs: self.setup.programs.clone() }
    }
}

/// `clusterctl` in `folder`, or beside this program.
pub(crate) fn clusterctl(folder: Option<&Path>) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let folder = folder.or(own.parent()).ok_or("this program is in no folder")?;
    Ok(folder.join("clusterctl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_replace_what_the_file_says() {
        let text = "[storage]\ncache_bytes = 1\n\n[options]\n# about it\ncache_bytes = 5\n# log_mode = \"commit\"\n[door]\nx = 1\n";
        let set = with_options(text, &[("cache_bytes".to_string(), "7".to_string())]).unwrap();
        assert_eq!(set, "[storage]\ncache_bytes = 1\n\n[options]\ncache_bytes = 7\n# about it\n# log_mode = \"commit\"\n[door]\nx = 1\n");
        assert!(with_options("[storage]\n", &[("cache_bytes".to_string(), "7".to_string())]).is_err());
    }
}
