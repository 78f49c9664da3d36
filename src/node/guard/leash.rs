//! The line between a guard and its child: one socket pair. What the child says goes up as lines of JSON; nothing comes down but the end of file
//! when the guard is gone, and that ends the child.
//!
//! ```text
//! child -> guard   {"announced":7}    it has drawn incarnation 7
//!                  {"joined":12}      it is a member since epoch 12
//!                  {"leaving":true}   a view without it is its own wish
//! guard gone       the kernel kills the child (PR_SET_PDEATHSIG, see `child`), and if that didn't happen the end of file here does
//! ```
//! Both are needed: the signal is sent also to a child that is stopped or stuck in a system call; the end of file works also where the signal
//! was lost, as it is when credentials change. Neither is part of a fence's proof: locks are.

#![expect(clippy::disallowed_methods, reason = "a thread that only waits for the end of file, so that a stalled runtime can't delay it")]

use std::io::{Read, Write};
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::UnixStream;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::base::{Epoch, Incarnation};

/// Longest line that a guard reads, in bytes.
pub(super) const LINE_MAX: u64 = 256;

/// What a child says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Said {
    /// It has drawn this incarnation.
    Announced(Incarnation),
    /// It is a member since this epoch.
    Joined(Epoch),
    /// It leaves.
    Leaving(bool),
}

/// The child's end. Dropping it changes nothing: the line stays until the process ends.
pub struct Leash {
    line: Mutex<UnixStream>,
}

/// A leash that can't be taken.
#[derive(Debug, thiserror::Error)]
#[error("descriptor {descriptor} isn't the line to a guard: {error}; only a guard starts its instance this way")]
pub struct LeashError {
    descriptor: RawFd,
    error: std::io::Error,
}

impl Leash {
    /// Takes the line that the guard has left open as `descriptor`, and ends this process when the guard is gone.
    ///
    /// # Errors
    /// It isn't a socket.
    pub fn take(descriptor: RawFd) -> Result<Leash, LeashError> {
        let wrong = |error| LeashError { descriptor, error };
        let mut kind: libc::c_int = 0;
        let mut length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the kernel checks the descriptor; it writes one int of the length given.
        let asked = unsafe { libc::getsockopt(descriptor, libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut kind).cast(), &raw mut length) };
        if asked != 0 || descriptor <= 2 {
            return Err(wrong(std::io::Error::last_os_error()));
        }
        // SAFETY: an open socket that the guard made for us; nobody else in this process knows of it.
        let line = unsafe { UnixStream::from_raw_fd(descriptor) };
        // SAFETY: an open descriptor; so that no program started by us holds the line.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        let mut ear = line.try_clone().map_err(wrong)?;
        let thread = std::thread::Builder::new().name("leash".into()).spawn(move || {
            // Nothing is ever said: whatever this returns, the line is over.
            let _ = ear.read(&mut [0]);
            end();
        });
        drop(thread.map_err(wrong)?);
        Ok(Leash { line: Mutex::new(line) })
    }

    /// Tells the guard which life this is: before it is written anywhere but in heartbeat sectors.
    pub fn announced(&self, incarnation: Incarnation) {
        self.say(Said::Announced(incarnation));
    }

    /// Tells the guard that this life is a member since `epoch`.
    pub fn joined(&self, epoch: Epoch) {
        self.say(Said::Joined(epoch));
    }

    /// Tells the guard that this life leaves by itself.
    pub fn leaving(&self) {
        self.say(Said::Leaving(true));
    }

    fn say(&self, what: Said) {
        let mut line = serde_json::to_vec(&what).expect("a number can be written as JSON");
        line.push(b'\n');
        // A guard that is gone ends this process by itself.
        if let Err(error) = self.line.lock().write_all(&line) {
            tracing::warn!(%error, "the guard can't be told");
        }
    }
}

/// Ends this process at once, as a crash would: nobody guards it any more.
fn end() {
    // The log may be a full disk.
    let _ = writeln!(std::io::stderr(), "the guard is gone: this instance ends at once");
    // SAFETY: kills this very process.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}
