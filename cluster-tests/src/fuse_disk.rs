//! A directory seen through a FUSE file system of ours that can be slow, fail, or be cut off: storage faults for real processes.
//!
//! The files themselves lie in a backing directory, which tests may look into behind the mount's back. Faults are ordered through [`Control`].
//! Needs root and /dev/fuse. Only what storage needs: regular files in one directory, no renames.
//!
//! The kernel caches neither data nor attributes (direct I/O, no validity), so what a process sees is what the backing file holds. In-use
//! locks are kept by the kernel, per mount. A write flagged O_DSYNC is answered after the backing file's fdatasync.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    Request, WriteFlags,
};
use parking_lot::Mutex;

use crate::fuse_gate::Gate;
pub use crate::fuse_gate::{Control, Operation};

/// Answers are never valid for longer than the moment.
const NO_TIME: Duration = Duration::ZERO;
/// No caching, and writes of one file may run beside each other.
const OPENED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);

/// A mounted faulty disk. Dropping it lets everything pass that waits and unmounts it, also from under processes that still use it.
pub struct FuseDisk {
    control: Control,
    mount: PathBuf,
    session: Option<BackgroundSession>,
}

impl FuseDisk {
    /// Mounts the directory `backing` at the empty directory `mount`.
    ///
    /// # Errors
    /// Not root, or no /dev/fuse.
    pub fn mount(backing: &Path, mount: &Path) -> io::Result<FuseDisk> {
        let control = Control::default();
        let gate = Gate::new(&control)?;
        let storage = Arc::new(Storage { backing: backing.into(), names: Mutex::default(), open: Mutex::default() });
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("regroup-faulty-disk".into())];
        let session = fuser::spawn_mount(FaultyDisk { storage, gate }, mount, &config)?;
        Ok(FuseDisk { control, mount: mount.into(), session: Some(session) })
    }

    /// The hand on its faults.
    pub fn control(&self) -> Control {
        self.control.clone()
    }
}

impl Drop for FuseDisk {
    fn drop(&mut self) {
        for operation in [Operation::Read, Operation::Write, Operation::Sync, Operation::Metadata] {
            self.control.refuse(operation, 0, 0);
        }
        self.control.restore();
        if let Ok(mount) = std::ffi::CString::new(self.mount.as_os_str().as_bytes()) {
            // SAFETY: a terminated path. Detached, so that a process which still has a file open there can't keep it mounted.
            unsafe { libc::umount2(mount.as_ptr(), libc::MNT_DETACH) };
        }
        // Its thread ends when the last user is gone; waiting for that here could hang a failing test.
        drop(self.session.take());
    }
}

/// The backing directory, its inode numbers and open files.
struct Storage {
    backing: PathBuf,
    names: Mutex<Names>,
    open: Mutex<BTreeMap<u64, Arc<File>>>,
}

/// Inode numbers: 1 is the directory; a file gets the next one when its name is first seen, and loses it when it is removed.
#[derive(Default)]
struct Names {
    by_inode: Vec<OsString>,
    inodes: BTreeMap<OsString, u64>,
}

const FIRST_INODE: u64 = 2;

impl Storage {
    fn inode(&self, name: &OsStr) -> u64 {
        let mut names = self.names.lock();
        if let Some(&inode) = names.inodes.get(name) {
            return inode;
        }
        let inode = names.by_inode.len() as u64 + FIRST_INODE;
        names.by_inode.push(name.into());
        names.inodes.insert(name.into(), inode);
        inode
    }

    fn path(&self, inode: INodeNo) -> io::Result<PathBuf> {
        if inode == INodeNo::ROOT {
            return Ok(self.backing.clone());
        }
        let names = self.names.lock();
        let name = inode.0.checked_sub(FIRST_INODE).and_then(|index| names.by_inode.get(index as usize));
        name.map(|name| self.backing.join(name)).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    }

    fn attributes(&self, inode: INodeNo) -> io::Result<FileAttr> {
        let metadata = fs::symlink_metadata(self.path(inode)?)?;
        let kind = FileType::from_std(metadata.file_type()).ok_or_else(|| io::Error::from_raw_os_error(libc::EIO))?;
        Ok(FileAttr {
            ino: inode,
            size: metadata.len(),
            blocks: metadata.blocks(),
            atime: metadata.accessed().unwrap_or(UNIX_EPOCH),
            mtime: metadata.modified().unwrap_or(UNIX_EPOCH),
            ctime: metadata.modified().unwrap_or(UNIX_EPOCH),
            crtime: UNIX_EPOCH,
            kind,
            perm: (metadata.permissions().mode() & 0o7777) as u16,
            nlink: 1,
            uid: metadata.uid(),
            gid: metadata.gid(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn attributes_of(&self, name: &OsStr) -> io::Result<FileAttr> {
        fs::symlink_metadata(self.backing.join(name))?;
        self.attributes(INodeNo(self.inode(name)))
    }

    fn keep_open(&self, file: File) -> FileHandle {
        use std::os::fd::AsRawFd;
        let handle = file.as_raw_fd() as u64;
        self.open.lock().insert(handle, Arc::new(file));
        FileHandle(handle)
    }

    fn file(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        self.open.lock().get(&handle.0).cloned().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    fn create(&self, name: &OsStr, mode: u32, flags: i32) -> io::Result<(FileAttr, FileHandle)> {
        let path = self.backing.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .create_new(flags & libc::O_EXCL != 0)
            .truncate(flags & libc::O_TRUNC != 0)
            .mode(mode)
            .open(path)?;
        Ok((self.attributes_of(name)?, self.keep_open(file)))
    }

    fn open(&self, inode: INodeNo, flags: OpenFlags) -> io::Result<FileHandle> {
        let write = flags.0 & libc::O_ACCMODE != libc::O_RDONLY;
        let options = OpenOptions::new().read(true).write(write).truncate(write && flags.0 & libc::O_TRUNC != 0).open(self.path(inode)?)?;
        Ok(self.keep_open(options))
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        fs::remove_file(self.backing.join(name))?;
        self.names.lock().inodes.remove(name);
        Ok(())
    }

    fn read(&self, handle: FileHandle, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        let file = self.file(handle)?;
        let mut bytes = vec![0; length as usize];
        let mut done = 0;
        while done < bytes.len() {
            match file.read_at(&mut bytes[done..], offset + done as u64)? {
                0 => break,
                count => done += count,
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    fn write(&self, handle: FileHandle, offset: u64, bytes: &[u8], flags: OpenFlags) -> io::Result<u32> {
        let file = self.file(handle)?;
        file.write_all_at(bytes, offset)?;
        if flags.0 & libc::O_DSYNC != 0 {
            file.sync_data()?;
        }
        Ok(bytes.len() as u32)
    }

    fn allocate(&self, handle: FileHandle, offset: u64, length: u64, mode: i32) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let file = self.file(handle)?;
        // SAFETY: an open descriptor and plain numbers.
        let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as libc::off_t, length as libc::off_t) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn truncate(&self, inode: INodeNo, length: Option<u64>) -> io::Result<FileAttr> {
        if let Some(length) = length {
            OpenOptions::new().write(true).open(self.path(inode)?)?.set_len(length)?;
        }
        self.attributes(inode)
    }

    fn list(&self) -> io::Result<Vec<(u64, OsString)>> {
        let mut names = fs::read_dir(&self.backing)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names.into_iter().map(|name| (self.inode(&name), name)).collect())
    }
}

/// The file system: each request passes the gate, then meets the storage.
struct FaultyDisk {
    storage: Arc<Storage>,
    gate: Gate,
}

impl FaultyDisk {
    /// `work` on the storage when the gate lets it, then `answer` with its result or with the gate's errno.
    fn pass<T>(
        &self,
        operation: Operation,
        work: impl FnOnce(&Storage) -> io::Result<T> + Send + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let storage = self.storage.clone();
        self.gate.pass(operation, move |refused| match refused {
            Some(errno) => answer(Err(Errno::from_i32(errno))),
            None => answer(work(&storage).map_err(Errno::from)),
        });
    }
}

macro_rules! answer {
    ($reply:ident, $value:pat => $good:expr) => {
        move |result| match result {
            Ok($value) => $good,
            Err(errno) => $reply.error(errno),
        }
    };
}

impl Filesystem for FaultyDisk {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without it a process' asynchronous I/O would wait in the kernel one by one.
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(|_| io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }

    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        let work = move |storage: &Storage| storage.attributes_of(&name);
        self.pass(Operation::Metadata, work, answer!(reply, attributes => reply.entry(&NO_TIME, &attributes, Generation(0))));
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let work = move |storage: &Storage| storage.attributes(inode);
        self.pass(Operation::Metadata, work, answer!(reply, attributes => reply.attr(&NO_TIME, &attributes)));
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<fuser::TimeOrNow>,
        _mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let operation = if size.is_some() { Operation::Write } else { Operation::Metadata };
        let work = move |storage: &Storage| storage.truncate(inode, size);
        self.pass(operation, work, answer!(reply, attributes => reply.attr(&NO_TIME, &attributes)));
    }

    fn create(&self, _request: &Request, _parent: INodeNo, name: &OsStr, mode: u32, umask: u32, flags: i32, reply: ReplyCreate) {
        let name = name.to_owned();
        let work = move |storage: &Storage| storage.create(&name, mode & !umask, flags);
        let answer = answer!(reply, (attributes, handle) => reply.created(&NO_TIME, &attributes, Generation(0), handle, OPENED));
        self.pass(Operation::Metadata, work, answer);
    }

    fn open(&self, _request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let work = move |storage: &Storage| storage.open(inode, flags);
        self.pass(Operation::Metadata, work, answer!(reply, handle => reply.opened(handle, OPENED)));
    }

    fn unlink(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.pass(Operation::Metadata, move |storage| storage.remove(&name), answer!(reply, () => reply.ok()));
    }

    fn readdir(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let answer = move |result: Result<Vec<(u64, OsString)>, Errno>| match result {
            Ok(entries) => {
                for (position, (inode, name)) in entries.iter().enumerate().skip(offset as usize) {
                    if reply.add(INodeNo(*inode), position as u64 + 1, FileType::RegularFile, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        };
        self.pass(Operation::Metadata, Storage::list, answer);
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.pass(Operation::Read, move |storage| storage.read(handle, offset, size), answer!(reply, bytes => reply.data(&bytes)));
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let bytes = data.to_vec();
        let work = move |storage: &Storage| storage.write(handle, offset, &bytes, flags);
        self.pass(Operation::Write, work, answer!(reply, count => reply.written(count)));
    }

    fn fallocate(&self, _request: &Request, _inode: INodeNo, handle: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        self.pass(Operation::Write, move |storage| storage.allocate(handle, offset, length, mode), answer!(reply, () => reply.ok()));
    }

    fn fsync(&self, _request: &Request, _inode: INodeNo, handle: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let work = move |storage: &Storage| {
            let file = storage.file(handle)?;
            if datasync { file.sync_data() } else { file.sync_all() }
        };
        self.pass(Operation::Sync, work, answer!(reply, () => reply.ok()));
    }

    fn fsyncdir(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.pass(Operation::Sync, |storage| File::open(&storage.backing)?.sync_all(), answer!(reply, () => reply.ok()));
    }

    /// Closing never waits: a process that dies must be able to.
    fn flush(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.storage.open.lock().remove(&handle.0);
        reply.ok();
    }
}
