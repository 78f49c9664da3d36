//! The instance's process: started so that it can't outlive the guard, waited for by descriptor, killed when it must be.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream as Socket;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;

use super::core::Ending;
use super::leash::{LINE_MAX, Said};
use super::{Heard, Host, Signal, Started};
use crate::base::{BoxFuture, Incarnation};

/// Starts instances as processes of this program.
pub struct Processes<F> {
    /// Makes the command for a life above this incarnation; the descriptor of the line becomes its last argument.
    pub command: F,
}

impl<F: FnMut(Incarnation) -> Command + Send + 'static> Host for Processes<F> {
    fn start(&mut self, above: Incarnation) -> Result<Started, String> {
        let command = (self.command)(above);
        let program = command.get_program().to_string_lossy().into_owned();
        let (child, hearing) = start(command).map_err(|error| format!("can't run {program}: {error}"))?;
        tracing::info!(pid = child.pid, "the instance's process was started");
        Ok((Box::new(child), Box::new(hearing)))
    }
}

/// How to signal the process.
struct Child {
    process: Arc<OwnedFd>,
    /// For people.
    pid: u32,
}

/// How to hear of the process: first what it says, then its end.
struct Hearing {
    child: std::process::Child,
    process: AsyncFd<Arc<OwnedFd>>,
    line: Option<BufReader<UnixStream>>,
}

/// Starts `command` with its end of the line as the last argument.
///
/// Must be called on the guard's main thread: the kernel kills the child when the *thread* that started it ends.
fn start(mut command: Command) -> io::Result<(Child, Hearing)> {
    let (ours, theirs) = Socket::pair()?;
    let descriptor = theirs.as_raw_fd();
    command.arg(descriptor.to_string());
    let guard = std::process::id();
    // SAFETY: between fork and exec only system calls are made, no memory is allocated and no lock taken.
    unsafe { command.pre_exec(move || tie(guard, descriptor)) };
    let child = command.spawn()?;
    drop(theirs);
    let pid = child.id();
    // SAFETY: takes two numbers and touches no memory of ours. Nobody has waited for the child, so the id is certainly its own.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, libc::O_NONBLOCK) };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else owns it.
    let process = Arc::new(unsafe { OwnedFd::from_raw_fd(opened as libc::c_int) });
    ours.set_nonblocking(true)?;
    let line = Some(BufReader::new(UnixStream::from_std(ours)?));
    // SAFETY: the descriptor stays open, and the same, for as long as the registration lives: it owns a share of it.
    let watched = unsafe { AsyncFd::register(process.clone()) }?;
    Ok((Child { process, pid }, Hearing { child, process: watched, line }))
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

impl super::Child for Child {
    fn signal(&self, signal: Signal) {
        let signal = match signal {
            Signal::Terminate => libc::SIGTERM,
            Signal::Kill => libc::SIGKILL,
        };
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

impl super::Hearing for Hearing {
    fn next(mut self: Box<Self>) -> BoxFuture<(Box<dyn super::Hearing>, Heard)> {
        Box::pin(async move {
            let heard = self.hear().await;
            (self as Box<dyn super::Hearing>, heard)
        })
    }
}

impl Hearing {
    async fn hear(&mut self) -> Heard {
        while let Some(line) = &mut self.line {
            let mut said = Vec::new();
            match line.take(LINE_MAX).read_until(b'\n', &mut said).await {
                Ok(0) | Err(_) => self.line = None,
                Ok(_) => match serde_json::from_slice(&said) {
                    Ok(Said::Announced(incarnation)) => return Heard::Announced(incarnation),
                    Ok(Said::Joined(epoch)) => return Heard::Joined(epoch),
                    Ok(Said::Leaving(_)) => return Heard::Leaving,
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
