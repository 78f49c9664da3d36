//! The steps of `check` and `fix`, each timed, each told apart in the output.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::{dependencies, text};

type Step<'a> = (&'static str, Box<dyn Fn() -> Result<String, String> + 'a>);

const CLIPPY: [&str; 5] = ["clippy", "--release", "--workspace", "--all-targets", "--locked"];

/// Runs every step, cheapest first.
///
/// # Errors
/// The names of the steps that failed; their findings are on standard error by then.
pub(crate) fn check(root: &Path, quick: bool) -> Result<(), String> {
    let mut steps: Vec<Step> = vec![
        ("text", Box::new(|| text::check(root))),
        ("format", Box::new(|| cargo(root, &["fmt", "--all", "--", "--check"], &[]))),
        ("dependencies", Box::new(|| dependencies::check(root))),
        ("mutations", Box::new(|| cargo(root, &["run", "--release", "--locked", "--quiet", "-p", "mutate", "--", "--check"], &[]))),
    ];
    if !quick {
        steps.push(("clippy", Box::new(|| cargo(root, &[&CLIPPY[..], &["--", "-D", "warnings"]].concat(), &[]))));
        // Readers of these pages have the source: links to private items are welcome, as long as they lead somewhere.
        let doc = ["doc", "--release", "--workspace", "--no-deps", "--document-private-items", "--locked", "--quiet"];
        steps.push(("doc", Box::new(move || cargo(root, &doc, &[("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links")]))));
    }
    let mut failed = Vec::new();
    for (name, step) in steps {
        let started = Instant::now();
        let outcome = step();
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(note) => println!("gate: {name:<12} ok      {seconds:6.1} s  {note}"),
            Err(findings) => {
                eprintln!("{findings}");
                println!("gate: {name:<12} FAILED  {seconds:6.1} s");
                failed.push(name);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {} (`gate fix` repairs formatting and some lints)", failed.join(", "))) }
}

/// Applies what the tools can repair by themselves.
///
/// # Errors
/// The first tool that failed.
pub(crate) fn fix(root: &Path) -> Result<(), String> {
    cargo(root, &[&CLIPPY[..], &["--fix", "--allow-dirty", "--allow-staged"]].concat(), &[])?;
    cargo(root, &["fmt", "--all"], &[])?;
    Ok(())
}

/// Runs cargo in the workspace; its output goes where ours goes.
fn cargo(root: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Result<String, String> {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let status = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(root)
        .status()
        .map_err(|error| format!("can't run cargo {}: {error}", arguments[0]))?;
    if status.success() { Ok(String::new()) } else { Err(format!("cargo {} ended with {status}", arguments.join(" "))) }
}

/// Runs a program in the workspace and gives back what it printed.
///
/// # Errors
/// When it can't be started, fails, or prints something that is not UTF-8.
pub(crate) fn output(root: &Path, program: &str, arguments: &[&str]) -> Result<String, String> {
    let line = format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).current_dir(root).output().map_err(|error| format!("can't run {line}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{line} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("{line}: {error}"))
}
