//! `clusterctl verify`: is all of it sound? Every page, every tree, every index.
//!
//! ```text
//! an instance is open    it checks itself while it serves, asked on its admin socket
//! all are stopped        the files are read here, without recovery and without writing anything
//! one is dead            refused, as pages aren't up to date: start it, or --recover, which opens it here, checks, and closes it
//! ```
//! Findings are told as they come. `check` does the work, `findings` says what is told.

pub mod check;
pub mod findings;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args as ClapArgs;
use serde::Serialize;

use self::findings::{Finding, Listener, Step, Summary};
use super::admin::server::Board;
use super::admin::{Answer, Request, State, client};
use super::config::Config;
use super::layout::ClusterDir;
use super::observe::{Observed, observe};
use super::process::Presence;
use super::serve::{DRAIN_PATIENCE, SERVES_SQL};
use super::{CommandError, on_runtime, votes};
use crate::base::Seams;
use crate::disk::{Disk, lock};
use crate::node::storage::Opening;
use crate::node::store::Store;

/// How to verify.
#[derive(ClapArgs)]
pub struct Args {
    /// Recover an instance that crashed, in this process, then verify and close it.
    #[arg(long)]
    recover: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

/// Verifies; false when something was found.
///
/// # Errors
/// It could not be verified.
pub fn run(dir: Option<PathBuf>, args: &Args) -> Result<bool, CommandError> {
    let cluster = ClusterDir::open(dir)?;
    let config = cluster.config(1)?;
    let mut teller = Teller { json: args.json, terminal: std::io::stderr().is_terminal(), ..Teller::default() };
    let summary = on_runtime(config.options.disk, async |seams, disk| {
        let mut all = Vec::new();
        for id in cluster.instances()? {
            all.push(observe(&seams, &disk, &cluster, &cluster.config(id)?).await?);
        }
        verify(&cluster, &config, &all, args.recover, &seams, disk, &mut teller).await
    })?;
    teller.end();
    if args.json {
        println!("{}", serde_json::to_string(&Told { summary: &summary, findings: &teller.findings })?);
    } else {
        println!("{}", summary.show());
    }
    Ok(summary.clean)
}

/// What programs are told.
#[derive(Serialize)]
struct Told<'t> {
    #[serde(flatten)]
    summary: &'t Summary,
    /// The first of them.
    findings: &'t [Finding],
}

async fn verify(
    cluster: &ClusterDir,
    config: &Config,
    all: &[Observed],
    recover: bool,
    seams: &Seams,
    disk: Arc<dyn Disk>,
    teller: &mut Teller,
) -> Result<Summary, CommandError> {
    // Until instances share their caches, only one of them has the storage open.
    if let Some(open) = all.iter().find(|instance| instance.state == State::Open && instance.id == SERVES_SQL) {
        let socket = cluster.instance(open.id).socket();
        let done = client::ask(seams, &socket, &Request::Verify {}, |answer| teller.hear(answer)).await?;
        return Ok(serde_json::from_value(done)?);
    }
    if let Some(busy) = all.iter().find(|instance| !matches!(instance.state, State::Stopped | State::Dead)) {
        let what = match busy.state {
            State::Open => format!("but it is instance {SERVES_SQL} that checks the storage: start that, or stop all"),
            _ => "wait until it is open or stopped".into(),
        };
        return Err(format!("instance {} is {}: {what}", busy.id, busy.state).into());
    }
    match all.iter().find(|instance| instance.state == State::Dead) {
        Some(dead) if recover => recovered(cluster, &cluster.config(dead.id)?, seams, disk, teller).await,
        // Its control block says more than its state does, so that the refusal comes from there.
        _ => check::offline(seams, disk, config, teller).await,
    }
}

/// Runs the dead instance here for as long as it takes to recover, check and close it.
async fn recovered(
    cluster: &ClusterDir,
    config: &Config,
    seams: &Seams,
    disk: Arc<dyn Disk>,
    teller: &mut Teller,
) -> Result<Summary, CommandError> {
    let home = cluster.instance(config.instance);
    let _nobody = votes::claim(config, seams, &disk, DRAIN_PATIENCE).await?;
    let board = Board::new();
    let _presence = Presence::announce(&home, seams).await?;
    let _socket = board.listen(&home, seams)?;
    for path in config.storage.redo.iter().chain(&config.storage.data) {
        // The process that crashed may have left I/O under way.
        lock::wait_free(seams, path, config.thread(), DRAIN_PATIENCE).await?;
    }
    let shown = board.clone();
    let store = Store::open(Opening {
        seams: seams.clone(),
        disk,
        paths: config.storage.paths(),
        thread: config.thread(),
        options: config.options.clone(),
        on_progress: Some(Box::new(move |progress| shown.recovering(progress))),
        on_checkpoint: None,
    })
    .await?;
    if let Some(report) = store.storage().recovery() {
        board.recovered(report);
        super::serve::keep_report(Some(&home), &super::admin::server::show_report(report));
    }
    let outcome = check::live(&store, teller).await;
    board.stopping();
    store.close().await?;
    let mut summary = outcome?;
    summary.live = false;
    Ok(summary)
}

/// Tells people what is found, as it is found; keeps it for programs.
#[derive(Default)]
struct Teller {
    json: bool,
    terminal: bool,
    findings: Vec<Finding>,
    unfinished: bool,
}

impl Teller {
    /// An answer of the instance that checks itself.
    fn hear(&mut self, answer: &Answer) {
        match answer {
            Answer::Finding(value) => match serde_json::from_value::<Finding>(value.clone()) {
                Ok(finding) => self.finding(&finding),
                Err(error) => self.finding(&Finding { part: "?".into(), place: "?".into(), what: format!("{value} ({error})") }),
            },
            Answer::Progress(value) => {
                if let Ok(step) = serde_json::from_value::<Step>(value.clone()) {
                    self.step(&step);
                }
            }
            Answer::Done(_) | Answer::Error(_) => {}
        }
    }

    fn end(&mut self) {
        if self.unfinished {
            self.unfinished = false;
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Listener for Teller {
    fn finding(&mut self, finding: &Finding) {
        self.end();
        if self.json {
            self.findings.push(finding.clone());
        } else {
            println!("FINDING  {}  {}: {}", finding.part, finding.place, finding.what);
        }
    }

    fn step(&mut self, step: &Step) {
        let percent = step.total.filter(|total| *total > 0).map(|total| format!("{:.0} %", step.done as f64 / total as f64 * 100.0));
        let left = step.seconds_left.map_or_else(String::new, |left| format!(", {left:.0} s left"));
        let line = format!("{}: {}{left}", step.part, percent.unwrap_or_else(|| format!("{} done", step.done)));
        // Progress is for people who watch: it doesn't matter if nobody does.
        let _ = if self.terminal { write!(std::io::stderr(), "\r\x1b[K{line}") } else { writeln!(std::io::stderr(), "{line}") };
        self.unfinished = self.terminal;
    }
}
