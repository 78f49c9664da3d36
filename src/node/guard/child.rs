//! The instance's process: started so that it can't outlive the guard, waited for by descriptor, killed when it must be.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream as Socket;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;

use super::core::Ending;
use super::leash::{LINE_MAX, Said};

/// How to signal the child.
pub(super) struct Child {
    process: std::sync::Arc<OwnedFd>,
    /// For people.
    pub(super) pid: u32,
}

/// How to hear of the child: first what it says, then its end.
pub(super) struct Hearing {
    child: std::process::Child,
    process: AsyncFd<std::sync::Arc<OwnedFd>>,
    line: Option<BufReader<UnixStream>>,
}

/// What is heard.
pub(super) enum Heard {
    Said(Said),
    Ended(Ending),
}

/// Starts `command` with its end of the line as the last argument.
///
/// Must be called on the guard's main thread: the kernel kills the child when the *thread* that started it ends.
pub(super) fn start(mut command: Command) -> io::Result<(Child, Hearing)> {
    let (ours, theirs) = Socket::pair()?;
    let descriptor = theirs.as_raw_fd();
    command.arg(descriptor.to_string());
    let guard = std::process::id();
    // SAFETY: between fork and exec only system calls are made, no memory is allocated and no lock taken.
    unsafe { command.pre_exec(move || tie(guard, descriptor)) };
    let child = command.spawn()?;
    drop(theirs);
    let pid = child.id();
    // Before anybody waits for it, this id is certainly our child's.
    // SAFETY: takes two numbers and touches no memory of ours.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, libc::O_NONBLOCK) };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else owns it.
    let process = std::sync::Arc::new(unsafe { OwnedFd::from_raw_fd(opened as libc::c_int) });
    ours.set_nonblocking(true)?;
    let line = Some(BufReader::new(UnixStream::from_std(ours)?));
    Ok((Child { process: process.clone(), pid }, Hearing { child, process: AsyncFd::new(process)?, line }))
}

/// In the child, before it runs the program.
fn tie(guard: u32, descriptor: libc::c_int) -> io::Result<()> {
    // SAFETY: these take and return numbers.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
        // The guard may have died before the line above took effect.
        if libc::getppid() as u32 != guard {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        if libc::fcntl(descriptor, libc::F_SETFD, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

impl Child {
    /// Sends a signal to the child and nobody else; nothing when it is gone already.
    pub(super) fn signal(&self, signal: libc::c_int) {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open, and the information pointer may be null.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.process.as_raw_fd(), signal, none, 0) };
        if sent != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ESRCH) {
                tracing::error!(pid = self.pid, signal, %error, "the instance's process can't be signalled");
            }
        }
    }
}

impl Hearing {
    /// The next thing heard. After [`Heard::Ended`] there is nothing more to ask for.
    pub(super) async fn next(&mut self) -> Heard {
        while let Some(line) = &mut self.line {
            let mut said = Vec::new();
            match line.take(LINE_MAX).read_until(b'\n', &mut said).await {
                Ok(0) | Err(_) => self.line = None,
                Ok(_) => match serde_json::from_slice(&said) {
                    Ok(said) => return Heard::Said(said),
                    Err(error) => tracing::error!(%error, "the instance's process says something that its guard doesn't understand"),
                },
            }
        }
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Heard::Ended(ending(status)),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "can't ask how the instance's process is"),
            }
            match self.process.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(error) => tracing::error!(%error, "can't wait for the instance's process"),
            }
        }
    }
}

fn ending(status: ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Code(code),
        (None, Some(signal)) => Ending::Signal(signal),
        // Neither can't be of a process that has ended.
        (None, None) => Ending::Code(-1),
    }
}
