//! Programs that this tool runs: with a limit, under another user where need be, and ended by their ids when it is done or fails.
//!
//! A server dies with this tool, whatever ends it (the kernel sees to that). PostgreSQL's helpers are found as children of its
//! first process; nothing is ever looked for by name.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Between two looks at a process.
const EVERY: Duration = Duration::from_millis(5);

/// Who runs a program, when it isn't us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// The user `name`, from /etc/passwd.
    pub(crate) fn named(name: &str) -> Result<User, String> {
        let text = std::fs::read_to_string("/etc/passwd").map_err(|error| format!("/etc/passwd: {error}"))?;
        let line = text.lines().find(|line| line.split(':').next() == Some(name)).ok_or_else(|| format!("there is no user {name}"))?;
        let number = |index: usize| line.split(':').nth(index).and_then(|field| field.parse().ok());
        match (number(2), number(3)) {
            (Some(uid), Some(gid)) => Ok(User { uid, gid }),
            _ => Err(format!("/etc/passwd: can't understand the line of {name}")),
        }
    }

    pub(crate) fn own(self, path: &Path) -> Result<(), String> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid)).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Whether we may become another user.
pub(crate) fn is_root() -> bool {
    // SAFETY: takes nothing and can't fail.
    unsafe { libc::geteuid() == 0 }
}

/// Makes `command` run as `user`.
pub(crate) fn run_as(command: &mut Command, user: Option<User>) {
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
}

/// Runs `command` to its end, at most `limit` long; its output must be text. An exit status other than 0 is an error that shows what it said.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<String, String> {
    let shown = format!("{command:?}");
    let (mut out, mut err) = (tempfile::tempfile().map_err(text)?, tempfile::tempfile().map_err(text)?);
    command.stdin(Stdio::null()).stdout(out.try_clone().map_err(text)?).stderr(err.try_clone().map_err(text)?);
    let mut child = Ended(command.spawn().map_err(|error| format!("{shown}: {error}"))?);
    let status = wait(&mut child.0, limit)?;
    let output = Output { status: status.unwrap_or_default(), stdout: read_back(&mut out)?, stderr: read_back(&mut err)? };
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match status {
        None => Err(format!("{shown}: not done after {limit:?}; it was ended. It said:\n{said}{complained}")),
        Some(status) if !status.success() => Err(format!("{shown}: {status}:\n{said}{complained}")),
        Some(_) => Ok(format!("{said}{complained}")),
    }
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

fn read_back(file: &mut std::fs::File) -> Result<Vec<u8>, String> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(text)?;
    Ok(bytes)
}

/// Ends its process when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the process has ended, at most `limit` long.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>, String> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().map_err(text)? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(EVERY);
    }
}

/// A server and the processes that it started.
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Starts it, so that it doesn't outlive this tool.
    pub(crate) fn start(command: &mut Command) -> Result<Server, String> {
        let shown = format!("{command:?}");
        // SAFETY: between fork and exec only one system call is made, no memory is allocated and no lock taken.
        unsafe {
            command.stdin(Stdio::null()).pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
            });
        }
        Ok(Server { child: command.spawn().map_err(|error| format!("{shown}: {error}"))? })
    }

    /// What it says on standard output, when that is a pipe.
    pub(crate) fn output(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// An error when it has ended.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait().map_err(text)? {
            Some(status) => Err(format!("the server has ended ({status})")),
            None => Ok(()),
        }
    }

    /// It and its children, grandchildren not: nobody here has any.
    fn family(&self) -> Vec<i32> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        std::iter::once(pid as i32).chain(children.split_whitespace().filter_map(|child| child.parse().ok())).collect()
    }

    fn signal(&self, signal: i32) {
        for pid in self.family() {
            send(pid, signal);
        }
    }

    /// Halts it where it is, so that it doesn't disturb the other side's measurement.
    pub(crate) fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Kills it and its children, as a crash would, and waits until they are gone.
    pub(crate) fn kill(mut self) -> Result<(), String> {
        self.end();
        Ok(())
    }

    fn end(&mut self) {
        let family = self.family();
        family.iter().for_each(|pid| send(*pid, libc::SIGKILL));
        let _ = self.child.wait();
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until && family.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            std::thread::sleep(EVERY);
        }
    }

    /// Asks it to close in order and waits for that.
    pub(crate) fn stop(mut self, signal: i32, limit: Duration) -> Result<(), String> {
        send(self.child.id() as i32, signal);
        match wait(&mut self.child, limit)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("the server didn't close in order: {status}")),
            None => Err(format!("the server hasn't closed after {limit:?}")),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

fn send(pid: i32, signal: i32) {
    // SAFETY: a signal to a process that we, or our child, started. It may be gone: then nothing happens.
    unsafe { libc::kill(pid, signal) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_takes_too_long_is_ended_and_one_that_fails_is_shown() {
        let began = Instant::now();
        let late = run(Command::new("sleep").arg("60"), Duration::from_millis(100)).unwrap_err();
        assert!(late.contains("not done after") && began.elapsed() < Duration::from_secs(10), "{late}");
        let failed = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"]), Duration::from_secs(10)).unwrap_err();
        assert!(failed.contains("why") && failed.contains('3'), "{failed}");
        assert_eq!(run(Command::new("echo").arg("said"), Duration::from_secs(10)), Ok("said\n".to_string()));
    }

    #[test]
    fn a_server_is_killed_with_its_children() {
        let server = Server::start(Command::new("sh").args(["-c", "sleep 1000 & sleep 1000"])).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while server.family().len() < 3 && Instant::now() < until {
            std::thread::sleep(EVERY);
        }
        let family = server.family();
        assert_eq!(family.len(), 3);
        server.kill().unwrap();
        // An orphan is reaped by whoever adopted it.
        let gone = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
        assert!(family.iter().all(gone), "{family:?}");
    }
}
