//! `clusterctl init`: a new cluster in one directory.
//!
//! ```text
//! mark the directory as unfinished -> make and fill the storage files -> take the mark away -> put the configuration in place
//! ```
//! Only the last step makes it a cluster. When a step fails, all that was made is removed again; when the command itself is killed, the
//! mark stays and lets the next one remove the remains: what lies beside a mark was never used.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args as ClapArgs;

use super::devices::{self, Devices};
use super::layout::ClusterDir;
use super::size::{parse_size, show_size};
use super::template::{self, Chosen};
use super::{CommandError, on_runtime};
use crate::base::limits::THREADS_MAX;
use crate::base::options::{DiskKind, Options};
use crate::base::{ClusterId, Seams, ThreadId};
use crate::disk::Disk;
use crate::membership::{View, VotingId};
use crate::net::certificate::Authority;
use crate::node::guard::voting;
use crate::node::store::Store;
use crate::page::superblock::Shape;
use crate::page::volume::StoragePaths;

/// Length of a ring and of a data file's pages, unless chosen.
const RING_BYTES: u64 = 256 << 20;
const DATA_BYTES: u64 = 16 << 20;
/// The port of instance 1, unless another is asked for.
const PORT: u16 = 7432;
/// How long the certificates are valid: as long as clusters live. What ends earlier stops clusters at night.
const VALID_FOR: Duration = Duration::from_secs(30 * 365 * 86_400);

/// What to make.
#[derive(ClapArgs)]
pub struct Args {
    /// Instances that the cluster is for, 1 to 64: each gets a redo file, a directory and a certificate. Their number can't be changed later.
    #[arg(long, value_name = "N", default_value_t = 1)]
    instances: u16,
    /// Voting files, whose majority decides which instances are members: 1, 3 or 5. Three survive the loss of one, when each lies on a storage
    /// device of its own: move them there before the first start, and change their paths in the configuration.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = parse_voting_files)]
    voting_files: u16,
    /// Redo ring of each instance: a multiple of 1 MiB, at least 8 MiB. A longer ring lets checkpoints be rarer. 256MiB when left out.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    ring_size: Option<u64>,
    /// Page cache of each instance, at least 2 MiB; can be changed later in the configuration.
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = parse_size)]
    cache: u64,
    /// Data files, 1 to 1024: their number can't be changed later.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    data_files: u16,
    /// First length of each data file, at least 512 KiB; it grows as needed. 16MiB when left out.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    data_size: Option<u64>,
    /// Where PostgreSQL clients find instance 1; the others have the next ports. Port 0: any free one, shown by `clusterctl status`.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)))]
    listen: SocketAddr,
    /// Disk driver: auto, uring, threads.
    #[arg(long, default_value = "auto", value_parser = parse_disk)]
    disk: DiskKind,
    #[command(flatten)]
    devices: devices::Args,
}

/// What is made: where, and how large.
struct Wanted {
    devices: Devices,
    ring_bytes: u64,
    data_bytes: u64,
}

/// A disk driver by its name.
///
/// # Errors
/// There is none of that name.
pub fn parse_disk(text: &str) -> Result<DiskKind, String> {
    match text {
        "auto" => Ok(DiskKind::Auto),
        "uring" => Ok(DiskKind::Uring),
        "threads" => Ok(DiskKind::Threads),
        other => Err(format!("{other:?} is none of auto, uring, threads")),
    }
}

/// A number of voting files.
fn parse_voting_files(text: &str) -> Result<u16, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        other => Err(format!("{other:?} is none of 1, 3, 5: an even number survives no more failures than one less")),
    }
}

/// Makes the cluster.
///
/// # Errors
/// There is one already, an argument is out of range, or something can't be made; then nothing is left behind.
pub fn run(dir: Option<PathBuf>, args: &Args) -> Result<bool, CommandError> {
    if !(1..=THREADS_MAX).contains(&args.instances) {
        return Err(format!("--instances is {}, but must be 1 to {THREADS_MAX}", args.instances).into());
    }
    if args.listen.port() != 0 && args.listen.port().checked_add(args.instances - 1).is_none() {
        return Err(format!("--listen has port {}, but {} instances need one each, up to 65535", args.listen.port(), args.instances).into());
    }
    let options = Options { cache_bytes: args.cache, disk: args.disk, ..Options::default() };
    options.validate().map_err(|error| format!("--cache: {error}"))?;
    let devices = Devices::named(&args.devices, args.instances, args.data_files, args.voting_files)?;
    let ring_bytes = devices.ring_bytes(args.ring_size, RING_BYTES)?;
    let data_bytes = devices.data_bytes(args.data_size, DATA_BYTES)?;
    let wanted = Wanted { devices, ring_bytes, data_bytes };
    shape(args, &wanted, ClusterId([0; 16]), 0).validate()?;
    let made = on_runtime(args.disk, async |seams, disk| {
        let mut making = Making::begin(ClusterDir::named(dir)?)?;
        let claimed = wanted.devices.claim()?;
        making.everything(args, &wanted, &seams, disk).await?;
        let made = making.keep()?;
        claimed.keep();
        Ok(made)
    })?;
    tell(&made, args, &wanted);
    Ok(true)
}

fn shape(args: &Args, wanted: &Wanted, cluster: ClusterId, created_ms: u64) -> Shape {
    Shape {
        cluster,
        threads: args.instances,
        data_files: args.data_files,
        ring_bytes: wanted.ring_bytes,
        data_bytes: wanted.data_bytes,
        grow: true,
        created_ms,
    }
}

/// Draws a cluster's id.
pub(super) fn new_cluster_id(seams: &Seams) -> ClusterId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&seams.random().to_le_bytes());
    id[8..].copy_from_slice(&seams.random().to_le_bytes());
    ClusterId(id)
}

/// The devices, if there are any, else the files; as the configuration names them.
fn places(devices: &[PathBuf], files: impl Iterator<Item = String>) -> Result<Vec<String>, CommandError> {
    if devices.is_empty() {
        return Ok(files.collect());
    }
    let text = |path: &PathBuf| path.to_str().map(str::to_owned).ok_or_else(|| format!("{} isn't UTF-8", path.display()).into());
    devices.iter().map(text).collect()
}

/// Makes the voting files, with a view that nobody belongs to.
async fn make_voting_files(seams: &Seams, disk: &Arc<dyn Disk>, paths: &[PathBuf], shape: Shape) -> Result<(), CommandError> {
    let ids: Vec<VotingId> = paths.iter().map(|_| voting::new_id(seams)).collect();
    let genesis = View::genesis(&ids);
    for ((path, id), number) in paths.iter().zip(&ids).zip(0..) {
        voting::create(disk, path, shape, number, *id, Some(&genesis)).await?;
    }
    Ok(())
}

/// A cluster in the making; dropped before it is kept, it is removed.
struct Making {
    cluster: ClusterDir,
    /// The directories that weren't there before, outermost first.
    directories: Vec<PathBuf>,
    /// Locked while this lives, so that nobody takes it for what a killed init left.
    mark: Option<File>,
    /// The configuration, complete, under another name.
    written: Option<PathBuf>,
    kept: bool,
}

impl Making {
    /// Makes sure that nothing is there, and says that something is being made.
    fn begin(cluster: ClusterDir) -> Result<Making, CommandError> {
        let shown = cluster.path().display().to_string();
        let mut making = Making { cluster, directories: Vec::new(), mark: None, written: None, kept: false };
        let cluster = making.cluster.clone();
        if cluster.config_file().exists() {
            return Err(format!("there is a cluster in {shown} already; it was not touched").into());
        }
        making.make_directory(cluster.path())?;
        let unfinished = cluster.unfinished_file();
        let can_not = |error: std::io::Error| format!("can't write {}: {error}", unfinished.display());
        let remains = unfinished.exists();
        let mark = File::options().write(true).create(true).truncate(false).open(&unfinished).map_err(can_not)?;
        mark.try_lock().map_err(|_| format!("another `clusterctl init` is at work in {shown}"))?;
        making.mark = Some(mark);
        if remains {
            eprintln!("an earlier init in {shown} was cut off: what it left is removed");
            making.remove_storage();
        }
        if cluster.storage().exists() {
            // Not ours: a cluster that lost its configuration, perhaps.
            let what = "has no regroup.toml, but storage files: restore the configuration, or move them away";
            return Err(format!("{shown} {what}; nothing was touched").into());
        }
        Ok(making)
    }

    /// Makes a directory and those above it, as far as they aren't there.
    fn make_directory(&mut self, path: &Path) -> Result<(), CommandError> {
        let missing: Vec<PathBuf> =
            path.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.exists()).map(Path::to_path_buf).collect();
        for directory in missing.into_iter().rev() {
            let made = std::fs::DirBuilder::new().mode(0o700).create(&directory);
            made.map_err(|error| format!("can't make {}: {error}", directory.display()))?;
            self.directories.push(directory);
        }
        if path.is_dir() { Ok(()) } else { Err(format!("{} is no directory", path.display()).into()) }
    }

    async fn everything(&mut self, args: &Args, wanted: &Wanted, seams: &Seams, disk: Arc<dyn Disk>) -> Result<(), CommandError> {
        self.make_directory(&self.cluster.storage())?;
        for id in 1..=args.instances {
            self.make_directory(self.cluster.instance(id).path())?;
        }
        let Devices { redo, data, voting, .. } = &wanted.devices;
        let redo = places(redo, (1..=args.instances).map(|number| format!("storage/redo.{number}")))?;
        let voting = places(voting, (1..=args.voting_files).map(|number| format!("storage/voting.{number}")))?;
        let data = places(data, (0..args.data_files).map(|number| format!("storage/data.{number}")))?;
        let paths_of = |files: &[String]| files.iter().map(|file| self.cluster.path().join(file)).collect::<Vec<PathBuf>>();
        let paths = StoragePaths { redo: paths_of(&redo), data: paths_of(&data) };
        let shape = shape(args, wanted, new_cluster_id(seams), seams.wall_ms());
        Store::create(seams.clone(), disk.clone(), &paths, shape).await?;
        make_voting_files(seams, &disk, &paths_of(&voting), shape).await?;
        self.make_certificates(shape.cluster, args.instances, shape.created_ms)?;
        let mut options = vec![("cache_bytes", args.cache.to_string())];
        if args.disk != DiskKind::Auto {
            options.push(("disk", toml::Value::try_from(args.disk)?.to_string()));
        }
        let text =
            template::render(&Chosen { cluster: shape.cluster.to_string(), redo, data, voting, options: &options, listen: args.listen });
        let written = self.cluster.config_file().with_extension("toml.new");
        self.written = Some(written.clone());
        let mut file = File::create(&written)?;
        let wrote = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        wrote.map_err(|error| format!("can't write {}: {error}", written.display()).into())
    }

    /// The cluster's authority, and a certificate for each instance.
    fn make_certificates(&mut self, cluster: ClusterId, instances: u16, now_ms: u64) -> Result<(), CommandError> {
        let folder = self.cluster.tls();
        self.make_directory(&folder)?;
        let authority = Authority::create(cluster, now_ms, VALID_FOR)?;
        authority.save(&folder)?;
        for id in (1..=instances).map(ThreadId) {
            authority.renew(&folder, id, now_ms, VALID_FOR)?;
        }
        Ok(())
    }

    /// The last step: from here on it is a cluster.
    fn keep(mut self) -> Result<ClusterDir, CommandError> {
        let cluster = self.cluster.clone();
        let written = self.written.take().ok_or("the configuration wasn't written")?;
        // Files made so far must not be lost behind a configuration that is durable; and the mark goes first, as what lies beside it may be removed.
        for directory in [cluster.storage(), cluster.tls()] {
            sync_directory(&directory)?;
        }
        std::fs::remove_file(cluster.unfinished_file())?;
        let renamed = std::fs::rename(&written, cluster.config_file());
        renamed.map_err(|error| format!("can't make {}: {error}", cluster.config_file().display()))?;
        self.kept = true;
        sync_directory(cluster.path())?;
        for directory in &self.directories {
            sync_directory(directory.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        }
        Ok(cluster)
    }

    fn remove_storage(&self) {
        let instances = (1..=THREADS_MAX).map(|id| self.cluster.instance(id).path().to_path_buf());
        for path in [self.cluster.storage(), self.cluster.tls()].into_iter().chain(instances) {
            complain(&path, std::fs::remove_dir_all(&path));
        }
        let half_written = self.cluster.config_file().with_extension("toml.new");
        complain(&half_written, std::fs::remove_file(&half_written));
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if self.mark.is_some() {
            if self.directories.contains(&self.cluster.storage()) {
                self.remove_storage();
            }
            let mark = self.cluster.unfinished_file();
            complain(&mark, std::fs::remove_file(&mark));
        }
        for directory in self.directories.iter().rev().filter(|directory| directory.exists()) {
            complain(directory, std::fs::remove_dir(directory));
        }
    }
}

/// Says what could not be cleaned up; what isn't there needs no cleaning.
fn complain(path: &Path, outcome: std::io::Result<()>) {
    match outcome {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            eprintln!("{} could not be removed: {error}; remove it by hand", path.display());
        }
        _ => {}
    }
}

fn sync_directory(path: &Path) -> Result<(), CommandError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|error| format!("can't make {} durable: {error}", path.display()).into())
}

fn tell(cluster: &ClusterDir, args: &Args, wanted: &Wanted) {
    let shown = cluster.path().display();
    let count = |number: u16, what: &str| if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") };
    println!("made a cluster of {} in {shown}", count(args.instances, "instance"));
    println!(
        "  redo ring {}, page cache {}, {}, {}",
        show_size(wanted.ring_bytes),
        show_size(args.cache),
        count(args.data_files, "data file"),
        count(args.voting_files, "voting file")
    );
    println!("  certificates: {} (ca-key.pem signs new ones: keep it safe)", cluster.tls().display());
    println!("  configuration: {} (explains itself)", cluster.config_file().display());
    println!("  {}", super::WHO_MAY_ENTER);
    println!("next: clusterctl --dir {shown} start");
}
