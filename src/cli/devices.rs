//! Block devices that `clusterctl init` is given for storage files: checked, sized, claimed, and emptied.
//!
//! ```text
//! named -> block devices, each once -> claimed (the system and no instance uses it) -> empty, or --force -> zeroed where zeroes are needed
//! ```
//! Nothing is written before *all* of them were found fit. A device is claimed exclusively for as long as init is at work, so that nobody mounts it and no other init
//! takes it; instances don't do that, as several of them use one device. Where init fails the heads of the devices are cleared again: half a
//! cluster is no cluster. Not here: superblocks and sectors (`page::volume`, `node::guard::voting`), which are made as in files.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::CommandError;
use super::size::show_size;
use crate::base::ThreadId;
use crate::base::limits::{LOG_WRITE_MAX, PAGE_SIZE, RING_BYTES_MIN, THREADS_MAX};
use crate::disk::lock;
use crate::fence::locks::guard_lock;
use crate::page::superblock::{PAGES_AT, RING_AT, VOTING_BYTES};

/// `BLKZEROOUT` of `linux/fs.h`: makes a range read as zeroes, by the device itself where it can.
const BLKZEROOUT: libc::Ioctl = 0x127f;
/// So much of a device's beginning tells whether something is on it: file systems, volume managers and partition tables all begin there.
const HEAD: u64 = 1 << 20;
/// Longest ring, as `page::superblock` has it.
const RING_BYTES_MAX: u64 = 1 << 44;
/// Least pages area of a data file.
const DATA_BYTES_MIN: u64 = 64 * PAGE_SIZE as u64;

/// Devices instead of files.
#[derive(ClapArgs, Debug, Default)]
pub struct Args {
    /// A block device for a redo file; once for each instance, in order. Without --ring-size the ring is as long as the smallest of them lets it be.
    #[arg(long, value_name = "DEVICE")]
    redo_device: Vec<PathBuf>,
    /// A block device for a data file; once for each, in order. Without --data-size it is used to the end.
    #[arg(long, value_name = "DEVICE")]
    data_device: Vec<PathBuf>,
    /// A block device for a voting file; once for each.
    #[arg(long, value_name = "DEVICE")]
    voting_device: Vec<PathBuf>,
    /// Take devices on which something is: it is lost. Devices in use are refused all the same.
    #[arg(long)]
    force: bool,
}

/// What the devices are for; nothing where files are made.
pub(super) struct Devices {
    pub(super) redo: Vec<PathBuf>,
    pub(super) data: Vec<PathBuf>,
    pub(super) voting: Vec<PathBuf>,
    force: bool,
}

/// Devices that nobody else has. Dropped before they are kept, what was begun on them is taken away again.
pub(super) struct Claimed {
    devices: Vec<(PathBuf, File)>,
    kept: bool,
}

impl Devices {
    /// Those that were named, of which there must be as many as files of their kind.
    ///
    /// # Errors
    /// Too few, too many, one twice, or something that isn't a block device.
    pub(super) fn named(args: &Args, redo: u16, data: u16, voting: u16) -> Result<Devices, CommandError> {
        let counts = [
            ("--redo-device", &args.redo_device, redo, "--instances"),
            ("--data-device", &args.data_device, data, "--data-files"),
            ("--voting-device", &args.voting_device, voting, "--voting-files"),
        ];
        let mut seen = BTreeSet::new();
        for (option, list, wanted, from) in counts {
            if !list.is_empty() && list.len() != usize::from(wanted) {
                return Err(format!("{option} is given {} times, but {from} is {wanted}: one is needed for each", list.len()).into());
            }
            for path in list {
                let found = path.metadata().map_err(|error| format!("{option} {}: {error}", path.display()))?;
                if !found.file_type().is_block_device() {
                    return Err(format!("{option} {} isn't a block device; files are made by init itself", path.display()).into());
                }
                if !seen.insert(found.rdev()) {
                    return Err(format!("{option} {} is given twice, perhaps by another name", path.display()).into());
                }
            }
        }
        let absolute = |list: &[PathBuf]| list.iter().map(std::path::absolute).collect::<Result<Vec<_>, _>>();
        let (redo, data, voting) = (absolute(&args.redo_device)?, absolute(&args.data_device)?, absolute(&args.voting_device)?);
        Ok(Devices { redo, data, voting, force: args.force })
    }

    /// Length of the rings, taken from the devices unless it is given.
    ///
    /// # Errors
    /// A device is too small.
    pub(super) fn ring_bytes(&self, given: Option<u64>, otherwise: u64) -> Result<u64, CommandError> {
        let Some(least) = fitting(&self.redo, RING_AT + given.unwrap_or(RING_BYTES_MIN), "redo")? else {
            return Ok(given.unwrap_or(otherwise));
        };
        let unit = LOG_WRITE_MAX as u64;
        Ok(given.unwrap_or(((least - RING_AT) / unit * unit).min(RING_BYTES_MAX)))
    }

    /// Length of the data files' pages, taken from the devices unless it is given.
    ///
    /// # Errors
    /// A device is too small.
    pub(super) fn data_bytes(&self, given: Option<u64>, otherwise: u64) -> Result<u64, CommandError> {
        let Some(least) = fitting(&self.data, PAGES_AT + given.unwrap_or(DATA_BYTES_MIN), "data")? else {
            return Ok(given.unwrap_or(otherwise));
        };
        let unit = PAGE_SIZE as u64;
        Ok(given.unwrap_or((least - PAGES_AT) / unit * unit))
    }

    /// Takes all devices, looks what is on them, and empties them as far as that is needed.
    ///
    /// # Errors
    /// One is in use, too small, or holds something; then nothing has been written.
    pub(super) fn claim(&self) -> Result<Claimed, CommandError> {
        fitting(&self.voting, VOTING_BYTES, "voting")?;
        let mut devices = Vec::new();
        for path in self.redo.iter().chain(&self.data).chain(&self.voting) {
            devices.push((path.clone(), self.fit(path)?));
        }
        let claimed = Claimed { devices, kept: false };
        for (path, device) in &claimed.devices {
            // Pages that were never used must read as zeroes; of the others init writes all that is ever read.
            let length = if self.data.contains(path) { length(device)? } else { HEAD.min(length(device)?) };
            zero_out(device, length).map_err(|error| format!("can't empty {}: {error}", path.display()))?;
        }
        Ok(claimed)
    }

    fn fit(&self, path: &Path) -> Result<File, CommandError> {
        let shown = path.display();
        let opened = File::options().read(true).write(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(path);
        let mut device = match opened {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                return Err(format!("{shown} is in use: it is mounted, part of something else, or another init is at work on it").into());
            }
            opened => opened.map_err(|error| format!("can't open {shown}: {error}"))?,
        };
        for id in (1..=THREADS_MAX).map(ThreadId) {
            if lock::is_held(path, id)? || lock::is_held(path, guard_lock(id))? {
                return Err(format!("{shown} is in use by instance {} of a cluster: stop it first", id.0).into());
            }
        }
        let mut head = vec![0; usize::try_from(HEAD.min(length(&device)?))?];
        device
            .seek(SeekFrom::Start(0))
            .and_then(|_| device.read_exact(&mut head))
            .map_err(|error| format!("can't read {shown}: {error}"))?;
        if !self.force && head.iter().any(|byte| *byte != 0) {
            let ways = format!("look at it (`clusterctl superblock {shown}`, `blkid {shown}`), and give --force if it may be lost");
            return Err(format!("{shown} holds something; nothing was touched: {ways}").into());
        }
        Ok(device)
    }
}

impl Claimed {
    /// They are a cluster's now.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        for (path, device) in self.devices.iter_mut().filter(|_| !self.kept) {
            let cleared =
                device.seek(SeekFrom::Start(0)).and_then(|_| device.write_all(&[0; 2 * PAGE_SIZE])).and_then(|()| device.sync_all());
            if let Err(error) = cleared {
                eprintln!("{} can't be cleared again: {error}; the next init needs --force", path.display());
            }
        }
    }
}

/// The length of the smallest device; nothing without any.
fn fitting(devices: &[PathBuf], needed: u64, kind: &str) -> Result<Option<u64>, CommandError> {
    let mut least = None;
    for path in devices {
        let opened = File::open(path).map_err(|error| format!("can't open {}: {error}", path.display()))?;
        let found = length(&opened)?;
        if found < needed {
            let (found, needed) = (show_size(found), show_size(needed));
            return Err(format!("{} is too small for a {kind} file: it has {found}, and {needed} are needed", path.display()).into());
        }
        least = Some(least.map_or(found, |least: u64| least.min(found)));
    }
    Ok(least)
}

fn length(mut device: &File) -> std::io::Result<u64> {
    device.seek(SeekFrom::End(0))
}

fn zero_out(device: &File, length: u64) -> std::io::Result<()> {
    let range = [0_u64, length];
    // SAFETY: an open descriptor; BLKZEROOUT reads two u64, start and length.
    if unsafe { libc::ioctl(device.as_raw_fd(), BLKZEROOUT, range.as_ptr()) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    device.sync_all()
}
