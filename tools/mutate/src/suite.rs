//! Builds tests in a copy of the tree and runs them until the first failure or a time limit.
//!
//! Cargo builds; the test programs are run without it, so that the process to be ended is a child of ours, known by its id. One test
//! at a time, so that it is certain which one failed, hung or aborted. Built with few optimisations and incrementally: each
//! mutation needs the product built anew, and what it shows doesn't depend on speed.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Last bytes of a failed test's standard error that are shown.
const TAIL: usize = 3000;

/// Where tests are built and run.
pub(crate) struct Suite {
    tree: PathBuf,
    target: PathBuf,
}

/// What became of a run.
#[derive(Debug)]
pub(crate) enum Ran {
    /// All passed.
    Passed {
        /// So many.
        tests: usize,
        /// Without the build.
        took: Duration,
    },
    /// One failed, or its process ended otherwise.
    Failed {
        /// Which.
        test: String,
        /// The end of what it said.
        output: String,
    },
    /// One didn't end in time.
    Late {
        /// Which.
        test: String,
    },
    /// The tree doesn't compile.
    NotBuilt {
        /// What the compiler said.
        errors: String,
    },
}

/// A test program.
struct Program {
    path: PathBuf,
    /// The folder of its package: where cargo would run it.
    package: PathBuf,
    name: String,
}

/// Ends its process when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Suite {
    /// Tests of the tree in `tree`, built in `target`.
    pub(crate) fn new(tree: PathBuf, target: &Path) -> Suite {
        Suite { tree, target: target.to_owned() }
    }

    /// Builds and runs what `arguments` say.
    ///
    /// # Errors
    /// Cargo or a test program can't be run, or no test is run at all.
    pub(crate) fn run(&self, arguments: &str, limit: Duration) -> Result<Ran, String> {
        let (build, rest) = arguments.split_once(" -- ").unwrap_or((arguments, ""));
        let programs = match self.build(build)? {
            Ok(programs) => programs,
            Err(errors) => return Ok(Ran::NotBuilt { errors }),
        };
        let started = Instant::now();
        let mut all = 0;
        for program in programs {
            match run(&program, rest, limit.saturating_sub(started.elapsed()))? {
                Ran::Passed { tests, .. } => all += tests,
                other => return Ok(other),
            }
        }
        if all == 0 {
            return Err(format!("no test is run by {arguments:?}"));
        }
        Ok(Ran::Passed { tests: all, took: started.elapsed() })
    }

    /// Builds; inner error: what the compiler said.
    fn build(&self, arguments: &str) -> Result<Result<Vec<Program>, String>, String> {
        let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let output = Command::new(program)
            .args(["test", "--release", "--locked", "--no-run", "--quiet", "--message-format", "json-render-diagnostics"])
            .args(arguments.split_ascii_whitespace())
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_INCREMENTAL", "1")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .output()
            .map_err(|error| format!("can't run cargo: {error}"))?;
        if !output.status.success() {
            return Ok(Err(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(Ok(text.lines().filter_map(test_program).collect()))
    }
}

/// The test program that a line of cargo's messages tells of.
fn test_program(line: &str) -> Option<Program> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let path = PathBuf::from(message["executable"].as_str()?);
    let package = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    Some(Program { path, package, name: message["target"]["name"].as_str()?.to_owned() })
}

/// What the reader of a test program's output saw.
enum Seen {
    Started(String),
    Passed,
    Failed,
}

/// Follows the output of the standard test runner with one thread: `test NAME ... ok`, of which the first half comes when the test starts.
fn follow(output: impl Read, tell: &mpsc::Sender<Seen>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    // Up to the space in front of the outcome: the name is said before there is one.
    while output.read_until(b' ', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line);
        let last = text.rsplit('\n').next().unwrap_or_default();
        if let Some(name) = last.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... ")) {
            let _ = tell.send(Seen::Started(name.to_owned()));
            line.clear();
            if output.read_until(b'\n', &mut line).is_err() {
                return;
            }
            let seen = if line.starts_with(b"ok") { Seen::Passed } else { Seen::Failed };
            let _ = tell.send(seen);
            line.clear();
        }
    }
}

fn run(program: &Program, arguments: &str, limit: Duration) -> Result<Ran, String> {
    let mut child = Command::new(&program.path);
    child.args(["--test-threads", "1"]).args(arguments.split_ascii_whitespace()).current_dir(&program.package);
    child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = child.spawn().map_err(|error| format!("can't run {}: {error}", program.path.display()))?;
    let mut running = Running(child);
    let started = Instant::now();
    let (stdout, mut stderr) = match (running.0.stdout.take(), running.0.stderr.take()) {
        (Some(stdout), Some(stderr)) => (stdout, stderr),
        _ => unreachable!("both were asked for"),
    };
    let (tell, seen) = mpsc::channel();
    std::thread::spawn(move || follow(stdout, &tell));
    // Read, so that the test isn't held up by a full pipe; ends with the process.
    let errors = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stderr.read_to_end(&mut bytes);
        bytes
    });
    let (mut tests, mut test) = (0, program.name.clone());
    loop {
        match seen.recv_timeout(limit.saturating_sub(started.elapsed())) {
            Ok(Seen::Started(name)) => test = format!("{} {name}", program.name),
            Ok(Seen::Passed) => tests += 1,
            Ok(Seen::Failed) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => return Ok(Ran::Late { test }),
            // The output is at its end: so is the process, or soon.
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let status = running.0.wait().map_err(|error| format!("{}: {error}", program.path.display()))?;
                if status.success() {
                    return Ok(Ran::Passed { tests, took: started.elapsed() });
                }
                break;
            }
        }
    }
    drop(running);
    let bytes = errors.join().unwrap_or_default();
    let output = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL)..]).into_owned();
    Ok(Ran::Failed { test, output })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(output: &str) -> Vec<String> {
        let (tell, seen) = mpsc::channel();
        follow(output.as_bytes(), &tell);
        drop(tell);
        seen.iter()
            .map(|seen| match seen {
                Seen::Started(name) => name,
                Seen::Passed => "passed".into(),
                Seen::Failed => "failed".into(),
            })
            .collect()
    }

    #[test]
    fn the_runner_is_followed_test_by_test() {
        let output = "\nrunning 2 tests\ntest a::b ... ok\ntest c ... FAILED\n\nfailures:\n\n---- c stdout ----\nwhy\n\ntest result: FAILED. 1 passed;";
        assert_eq!(followed(output), ["a::b", "passed", "c", "failed"]);
        assert_eq!(followed("running 1 test\ntest hangs ... "), ["hangs", "failed"], "a process that ends within a test has failed");
        assert_eq!(followed("running 0 tests\n\ntest result: ok. 0 passed; 0 failed;"), [""; 0]);
    }

    #[test]
    fn only_test_programs_are_taken_from_the_messages_of_cargo() {
        let message = |test: bool| {
            serde_json::json!({"reason": "compiler-artifact", "profile": {"test": test}, "executable": "/t/x", "manifest_path": "/p/Cargo.toml", "target": {"name": "x"}})
                .to_string()
        };
        assert!(test_program(&message(true)).is_some_and(|program| program.package == Path::new("/p")));
        assert!(test_program(&message(false)).is_none() && test_program("{}").is_none() && test_program("warning").is_none());
    }
}
