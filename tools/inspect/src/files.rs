//! Which files are looked at, and what is known of their cluster.
//!
//! Opening is as tolerant as it can be: one whole superblock copy in one of the files is enough to know the shape, so that a damaged file
//! is shown rather than refused. What doesn't fit is a finding.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use regroup::base::ThreadId;
use regroup::base::options::DiskKind;
use regroup::cli::config::Config;
use regroup::disk::{Access, Disk, FileId, open_disk};
use regroup::membership::VotingId;
use regroup::page::superblock::{COPIES, FileKind, Shape, Superblock};
use regroup::page::volume::read_copy;

use crate::output::Output;

/// The files, as given.
#[derive(Args)]
pub(crate) struct Files {
    /// Configuration file that names the storage files.
    #[arg(long, global = true, value_name = "FILE", conflicts_with_all = ["redo", "data", "voting"])]
    config: Option<PathBuf>,
    /// A redo file; may be repeated, in any order: superblocks tell which is which.
    #[arg(long, global = true, value_name = "FILE")]
    redo: Vec<PathBuf>,
    /// A data file; may be repeated, in any order.
    #[arg(long, global = true, value_name = "FILE")]
    data: Vec<PathBuf>,
    /// A voting file; may be repeated, in any order.
    #[arg(long, global = true, value_name = "FILE")]
    voting: Vec<PathBuf>,
}

/// A file, open for reading.
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) file: FileId,
    /// By the command line or configuration.
    pub(crate) kind: FileKind,
    /// By the configuration, where it says so.
    pub(crate) number: Option<u16>,
}

/// All files, open for reading.
pub(crate) struct OpenedFiles {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) files: Vec<Opened>,
}

/// The files and their cluster.
pub(crate) struct Store {
    pub(crate) opened: OpenedFiles,
    pub(crate) shape: Shape,
    /// Redo files with the number of their thread.
    pub(crate) redo: Vec<(ThreadId, usize)>,
    /// Data files with their number.
    pub(crate) data: Vec<(u16, usize)>,
    /// Voting files with the id that views name them by.
    pub(crate) voting: Vec<(VotingId, usize)>,
}

impl Files {
    /// Opens what the arguments name.
    ///
    /// # Errors
    /// A file or the configuration can't be read; nothing was named.
    pub(crate) async fn open(&self) -> Result<OpenedFiles, String> {
        let disk = open_disk(DiskKind::Threads).map_err(|error| error.to_string())?;
        let listed: Vec<(FileKind, Option<u16>, PathBuf)> = match &self.config {
            Some(config) => {
                let paths = Config::load(config).map_err(|error| error.to_string())?.storage;
                let redo = paths.redo.into_iter().enumerate().map(|(at, path)| (FileKind::Redo, u16::try_from(at + 1).ok(), path));
                let data = paths.data.into_iter().enumerate().map(|(at, path)| (FileKind::Data, u16::try_from(at).ok(), path));
                let voting = paths.voting.into_iter().enumerate().map(|(at, path)| (FileKind::Voting, u16::try_from(at).ok(), path));
                redo.chain(data).chain(voting).collect()
            }
            None => {
                let redo = self.redo.iter().map(|path| (FileKind::Redo, None, path.clone()));
                let data = self.data.iter().map(|path| (FileKind::Data, None, path.clone()));
                redo.chain(data).chain(self.voting.iter().map(|path| (FileKind::Voting, None, path.clone()))).collect()
            }
        };
        if listed.is_empty() {
            return Err("no files: name a configuration with --config, or files with --redo, --data and --voting".into());
        }
        let mut files = Vec::new();
        for (kind, number, path) in listed {
            let file = disk.open(&path, Access::Read).map_err(|error| error.to_string())?;
            files.push(Opened { path, file, kind, number });
        }
        Ok(OpenedFiles { disk, files })
    }
}

impl OpenedFiles {
    /// The first whole superblock copy of a file.
    ///
    /// # Errors
    /// The disk's; why neither is whole.
    pub(crate) async fn superblock(&self, opened: &Opened) -> Result<Superblock, String> {
        let mut why = String::new();
        for at in COPIES {
            match read_copy(&self.disk, opened.file, at).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(fault)) => why = fault.to_string(),
                Err(error) => why = error.to_string(),
            }
        }
        Err(format!("{}: no whole superblock copy: {why}", opened.path.display()))
    }
}

impl Store {
    /// Finds out which cluster the files are of and which is which.
    ///
    /// # Errors
    /// No file has a whole superblock copy.
    pub(crate) async fn new(opened: OpenedFiles, out: &mut Output) -> Result<Store, String> {
        let mut shape: Option<Shape> = None;
        let mut unknown = Vec::new();
        let (mut redo, mut data, mut voting) = (Vec::new(), Vec::new(), Vec::new());
        for (at, file) in opened.files.iter().enumerate() {
            let found = match opened.superblock(file).await {
                Ok(found) => found,
                Err(why) => {
                    unknown.push((at, why));
                    continue;
                }
            };
            let expected = *shape.get_or_insert(found.shape);
            if found.shape != expected {
                out.finding("superblock", &name(&file.path), "describes another cluster or shape than the first file; it is left out");
                continue;
            }
            if found.kind != file.kind || file.number.is_some_and(|number| number != found.number) {
                let what = format!("is {} file {}, but is listed as another", found.kind, found.number);
                out.finding("superblock", &name(&file.path), &what);
            }
            match found.kind {
                FileKind::Redo => redo.push((ThreadId(found.number), at)),
                FileKind::Data => data.push((found.number, at)),
                FileKind::Voting => voting.push((VotingId(found.voting), at)),
            }
        }
        let Some(shape) = shape else {
            return Err(unknown.into_iter().map(|(_, why)| why).collect::<Vec<_>>().join("; "));
        };
        for (at, why) in unknown {
            // The place in the configuration has to do.
            let file = &opened.files[at];
            out.finding("superblock", &name(&file.path), &why);
            match (file.kind, file.number) {
                (FileKind::Redo, Some(number)) => redo.push((ThreadId(number), at)),
                (FileKind::Data, Some(number)) => data.push((number, at)),
                // Its id stands in the superblock only.
                (FileKind::Voting, _) | (_, None) => {}
            }
        }
        Ok(Store { opened, shape, redo, data, voting })
    }

    /// The disk.
    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.opened.disk
    }

    /// The file at `at` of the list.
    pub(crate) fn file(&self, at: usize) -> &Opened {
        &self.opened.files[at]
    }

    /// The cluster's tag.
    pub(crate) fn tag(&self) -> u64 {
        self.shape.cluster.tag()
    }
}

/// A path, for messages.
pub(crate) fn name(path: &Path) -> String {
    path.display().to_string()
}
