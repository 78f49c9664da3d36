//! Which process runs an instance: found out without trusting a number in a file.
//!
//! The process locks its `process` file for as long as it lives (an OFD lock, as on storage: see `disk::lock`), so *whether* one lives is
//! known from the kernel. *Which* it is stands in the file: process id, start time, boot. A process id alone may have been given to
//! someone else since; the three together name one process for ever, and they are checked through a pidfd before a signal is sent. The
//! file has one fixed size and is written in place, so that a full disk doesn't keep an instance from starting.
//!
//! An instance has two processes with a file each: its guard (`guard`) and itself (`process`). Both use [`Presence`], commands use [`find`] and
//! [`find_guard`]. What the instance is doing, its admin socket tells.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::CommandError;
use super::layout::InstanceDir;
use crate::base::{Seams, ThreadId};
use crate::disk::lock::{self, Freed};

/// Length of the file, in bytes; what isn't used is spaces.
const LENGTH: usize = 256;
/// How long a starting process tries to obtain the lock: another may be giving it up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Names one process for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Its process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
    /// Since which boot of which host.
    pub boot: String,
}

/// The instance's own process holds this for as long as it lives.
pub struct Presence {
    _lock: Freed,
}

/// What is known of an instance's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// None lives.
    Nobody,
    /// One lives. Its identity is missing for the moment between its first two steps, or when the file was damaged.
    Somebody(Option<Identity>),
}

impl Identity {
    /// This process.
    ///
    /// # Errors
    /// `/proc` can't be read.
    pub fn own() -> Result<Identity, CommandError> {
        let pid = std::process::id();
        let started = started(pid).ok_or("can't read /proc/self/stat: is /proc mounted?")?;
        Ok(Identity { pid, started, boot: boot()? })
    }

    /// Whether the process that has this process id now is the one that is meant.
    pub fn is_alive(&self) -> bool {
        boot().is_ok_and(|boot| boot == self.boot) && started(self.pid) == Some(self.started)
    }

    /// Whether it lives and nothing has begun to end it: a process that was sent SIGKILL holds its locks for a moment longer.
    pub fn stays(&self) -> bool {
        self.is_alive() && !is_ending(self.pid)
    }

    /// Sends a signal to this process and to no other. False when it is gone.
    ///
    /// # Errors
    /// The system refuses: most likely it belongs to another user.
    pub fn signal(&self, signal: libc::c_int) -> Result<bool, CommandError> {
        let refused = |error: std::io::Error| format!("can't signal process {}: {error}", self.pid);
        // SAFETY: `pidfd_open` takes two numbers and touches no memory of ours.
        let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid as libc::pid_t, 0) };
        if opened < 0 {
            let error = std::io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ESRCH) { Ok(false) } else { Err(refused(error).into()) };
        }
        // SAFETY: the kernel has just given us this descriptor, and nobody else owns it.
        let process = unsafe { OwnedFd::from_raw_fd(libc::c_int::try_from(opened)?) };
        // The descriptor is of one process for ever: if it is ours now, it stays ours.
        if !self.is_alive() {
            return Ok(false);
        }
        // SAFETY: the descriptor is open, and the information pointer may be null.
        let sent =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0) };
        if sent == 0 {
            return Ok(true);
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ESRCH) { Ok(false) } else { Err(refused(error).into()) }
    }
}

impl Presence {
    /// Takes the lock and says who we are.
    ///
    /// # Errors
    /// Another process runs this instance; the file can't be written.
    pub async fn announce(home: &InstanceDir, seams: &Seams) -> Result<Presence, CommandError> {
        Presence::in_file(home, home.process_file(), seams).await
    }

    /// The same for the instance's guard.
    ///
    /// # Errors
    /// Another process guards this instance; the file can't be written.
    pub async fn announce_guard(home: &InstanceDir, seams: &Seams) -> Result<Presence, CommandError> {
        Presence::in_file(home, home.guard_file(), seams).await
    }

    async fn in_file(home: &InstanceDir, path: PathBuf, seams: &Seams) -> Result<Presence, CommandError> {
        home.make()?;
        let can_not = |error: std::io::Error| format!("can't write {}: {error}", path.display());
        let mut file = std::fs::OpenOptions::new();
        let mut file = file.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(can_not)?;
        let lock = match lock::wait_free(seams, &path, ThreadId(home.id), PATIENCE).await {
            Ok(lock) => lock,
            Err(crate::disk::DiskError::InUse { .. }) => {
                let who = read(&path).map_or_else(String::new, |identity| format!(" (process {})", identity.pid));
                return Err(format!("instance {} is running already{who}", home.id).into());
            }
            Err(error) => return Err(error.into()),
        };
        let mut text = serde_json::to_string(&Identity::own()?)?.into_bytes();
        text.resize(LENGTH - 1, b' ');
        text.push(b'\n');
        file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&text)).and_then(|()| file.set_len(LENGTH as u64)).map_err(can_not)?;
        Ok(Presence { _lock: lock })
    }
}

/// Who runs the instance.
///
/// # Errors
/// Its directory can't be looked at.
pub fn find(home: &InstanceDir) -> Result<Found, CommandError> {
    find_in(home, &home.process_file())
}

/// Who guards the instance.
///
/// # Errors
/// Its directory can't be looked at.
pub fn find_guard(home: &InstanceDir) -> Result<Found, CommandError> {
    find_in(home, &home.guard_file())
}

fn find_in(home: &InstanceDir, path: &Path) -> Result<Found, CommandError> {
    match lock::is_held(path, ThreadId(home.id)) {
        Ok(true) => Ok(Found::Somebody(read(path))),
        Ok(false) => Ok(Found::Nobody),
        Err(crate::disk::DiskError::Open { errno: libc::ENOENT, .. }) => Ok(Found::Nobody),
        Err(error) => Err(error.into()),
    }
}

/// What the file says; nothing when it isn't whole.
fn read(path: &Path) -> Option<Identity> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(LENGTH as u64).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Start time of the process that has this id now, in clock ticks since boot; nothing when none has, or only its remains (a zombie) do.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold anything. Behind it: state (3rd), ..., start time (22nd).
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let alive = !matches!(fields.next()?, "Z" | "X");
    fields.nth(18).filter(|_| alive)?.parse().ok()
}

/// Whether the process exits, or has SIGKILL waiting for it. One that isn't there has ended.
fn is_ending(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    let kill = 1_u64 << (libc::SIGKILL - 1);
    let pending = ["SigPnd:", "ShdPnd:"].iter().any(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & kill != 0)
    });
    // Its memory goes first: a process without any is on its way out.
    pending || !status.lines().any(|line| line.starts_with("VmSize:"))
}

fn boot() -> Result<String, CommandError> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(std::fs::read_to_string(path).map_err(|error| format!("can't read {path}: {error}"))?.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_another_that_has_its_number() {
        let own = Identity::own().unwrap();
        assert!(own.is_alive());
        assert!(own.signal(0).unwrap());
        assert!(own.stays());
        let earlier = Identity { started: own.started - 1, ..own.clone() };
        assert!(!earlier.is_alive());
        assert!(!earlier.signal(libc::SIGKILL).unwrap(), "or this test would be dead now");
        let before_reboot = Identity { boot: "another".into(), ..own };
        assert!(!before_reboot.signal(libc::SIGKILL).unwrap());
    }

    #[test]
    fn nobody_runs_an_instance_whose_file_names_a_living_process_without_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let home = super::super::layout::ClusterDir::at(folder.path().into()).instance(1);
        assert_eq!(find(&home).unwrap(), Found::Nobody);
        home.make().unwrap();
        std::fs::write(home.process_file(), serde_json::to_string(&Identity::own().unwrap()).unwrap()).unwrap();
        assert_eq!(find(&home).unwrap(), Found::Nobody);
        let held = lock::probe(&home.process_file(), ThreadId(1)).unwrap();
        assert_eq!(find(&home).unwrap(), Found::Somebody(Some(Identity::own().unwrap())));
        std::fs::write(home.process_file(), "{\"pid\": ").unwrap();
        assert_eq!(find(&home).unwrap(), Found::Somebody(None));
        drop(held);
        assert_eq!(find(&home).unwrap(), Found::Nobody);
    }
}
