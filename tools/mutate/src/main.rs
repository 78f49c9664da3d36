//! Breaks a safety rule in a copy of the source and shows that the suite notices (issue 2, item 18).
//!
//! ```text
//! mutations.toml --(every text still occurs once)--> copy of the tree --(tests pass)--> one mutation at a time --(tests must fail)--> table
//! ```
//! Called by people, and with `--check` by the gate. A mutation that the tests survive shows a hole in the suite; one that doesn't
//! compile, or whose text is gone, shows nothing and is an error. The working tree itself is never touched. How to add one: `README.md`.

mod list;
mod report;
mod suite;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;

use list::Mutation;
use report::{Outcome, Row};
use suite::{Ran, Suite};
use tree::Tree;

/// The list, from the root of the checkout.
const LIST: &str = "tools/mutate/mutations.toml";

#[derive(Parser)]
#[command(about = "Applies each mutation to a copy of the source and expects the tests to fail")]
struct Arguments {
    /// Only the mutations of these names.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only check that every mutation's text still occurs exactly once; builds and runs nothing.
    #[arg(long)]
    check: bool,
    /// Print the list and stop.
    #[arg(long)]
    list: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Longest run of one mutation's tests in seconds; without it four times what they took unmutated, and a minute more.
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,
}

/// The checkout that we are in (not the one that this was compiled in: builds may be shared).
fn root() -> Result<PathBuf, String> {
    let output = Command::new("git").args(["rev-parse", "--show-toplevel"]).output().map_err(|error| format!("can't run git: {error}"))?;
    if !output.status.success() {
        return Err(format!("git rev-parse: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end()))
}

/// What each distinct test arguments' tests took on the unmutated tree.
fn baselines(suite: &Suite, mutations: &[Mutation]) -> Result<BTreeMap<String, Duration>, String> {
    let mut took = BTreeMap::new();
    for mutation in mutations {
        if took.contains_key(&mutation.test) {
            continue;
        }
        eprintln!("mutate: unmutated: {}", mutation.test);
        let ran = suite.run(&mutation.test, Duration::from_secs(900))?;
        match ran {
            Ran::Passed { took: time, .. } => drop(took.insert(mutation.test.clone(), time)),
            Ran::Failed { test, output, .. } => {
                return Err(format!("{output}\n{test} fails on the unmutated tree: what kills a mutation must pass without it"));
            }
            Ran::Late { test } => return Err(format!("{test} doesn't end on the unmutated tree within 15 minutes")),
            Ran::NotBuilt { errors } => return Err(format!("{errors}\nthe unmutated tree can't be built")),
        }
    }
    Ok(took)
}

/// Applies one mutation, runs its tests, takes it back.
fn try_one(tree: &Tree, suite: &Suite, mutation: &Mutation, limit: Duration) -> Result<Row, String> {
    let started = Instant::now();
    tree.apply(mutation)?;
    let ran = suite.run(&mutation.test, limit);
    tree.restore(mutation)?;
    let outcome = match ran? {
        Ran::Passed { tests, .. } => Outcome::Survived { tests },
        Ran::Failed { test, .. } => Outcome::Killed { by: test },
        Ran::Late { test } => Outcome::Killed { by: format!("{test} (time limit of {} s)", limit.as_secs()) },
        Ran::NotBuilt { errors } => {
            eprintln!("{errors}");
            Outcome::Invalid
        }
    };
    Ok(Row { name: mutation.name.clone(), rules: mutation.rules.clone(), outcome, seconds: started.elapsed().as_secs_f64() })
}

fn run_all(root: &Path, mutations: &[Mutation], arguments: &Arguments) -> Result<bool, String> {
    let tree = Tree::copy(root)?;
    let suite = Suite::new(tree.path(), &tree.target());
    let took = baselines(&suite, mutations)?;
    let mut rows = Vec::new();
    for mutation in mutations {
        let usual = took.get(&mutation.test).copied().unwrap_or_default();
        let limit = arguments.limit.map_or(usual * 4 + Duration::from_secs(60), Duration::from_secs);
        let row = try_one(&tree, &suite, mutation, limit)?;
        eprintln!("mutate: {}", report::line(&row));
        rows.push(row);
    }
    let killed = rows.iter().all(|row| matches!(row.outcome, Outcome::Killed { .. }));
    if arguments.json {
        println!("{}", report::json(&rows))
    } else {
        print!("{}", report::table(&rows))
    }
    Ok(killed)
}

fn run(arguments: &Arguments) -> Result<bool, String> {
    let root = root()?;
    let text = std::fs::read_to_string(root.join(LIST)).map_err(|error| format!("{LIST}: {error}"))?;
    let all = list::parse(&text)?;
    list::check(&all, |file| std::fs::read_to_string(root.join(file)).map_err(|error| error.to_string()))?;
    if let Some(unknown) = arguments.only.iter().find(|name| !all.iter().any(|mutation| mutation.name == **name)) {
        return Err(format!("no mutation is called {unknown}; `--list` names them"));
    }
    let chosen: Vec<Mutation> =
        all.into_iter().filter(|mutation| arguments.only.is_empty() || arguments.only.contains(&mutation.name)).collect();
    if arguments.check {
        println!("mutate: {} mutations, each text occurs exactly once", chosen.len());
        return Ok(true);
    }
    if arguments.list {
        if arguments.json {
            println!("{}", report::list_json(&chosen))
        } else {
            print!("{}", report::list(&chosen))
        }
        return Ok(true);
    }
    run_all(&root, &chosen, arguments)
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("mutate: not every mutation was killed");
            ExitCode::FAILURE
        }
        Err(message) => {
            eprintln!("mutate: {message}");
            ExitCode::FAILURE
        }
    }
}
