//! One I/O on its way: owns its buffer from the call to the completion, so that nobody else can touch the memory meanwhile, and knows
//! what is to be done next. The drivers only carry out its [`Step`]s; that short results are continued, and failed writes are not tried again,
//! is decided here, once for all of them.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::file::File;
use super::{Buffer, DiskError, Durability, IoOutcome};
use crate::base::BoxFuture;

/// Longest single transfer handed to the kernel, in bytes; it cuts at 2 GiB - 4 KiB by itself.
const TRANSFER_MAX: usize = 1 << 30;
/// How often a transfer that the kernel did not begin (EINTR, EAGAIN) is offered again before it counts as failed.
const OFFERS_MAX: u32 = 1000;

/// What a driver must do next. Pointers stay valid until it calls [`Request::advance`] or drops the request.
#[derive(Clone, Copy)]
pub(super) enum Step {
    Read { at: *mut u8, length: u32, offset: u64 },
    Write { at: *const u8, length: u32, offset: u64, durable: bool },
    SyncData,
    Allocate { offset: u64, length: u64 },
    SyncAll,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Read,
    Write(Durability),
    Sync,
    Grow { length: u64, allocated: bool },
}

type Finished = (Option<Buffer>, Result<(), DiskError>);

/// An I/O that is not complete.
pub(super) struct Request {
    file: Arc<File>,
    /// The number that the disk gave the file.
    pub(super) number: u32,
    work: Work,
    offset: u64,
    buffer: Option<Buffer>,
    /// Bytes transferred so far.
    done: usize,
    offers: u32,
    reply: oneshot::Sender<Finished>,
}

impl Request {
    pub(super) fn read(number: u32, file: Arc<File>, offset: u64, buffer: Buffer) -> (Request, BoxFuture<IoOutcome>) {
        Request::transfer(number, file, Work::Read, offset, buffer)
    }

    pub(super) fn write(
        number: u32,
        file: Arc<File>,
        offset: u64,
        buffer: Buffer,
        durability: Durability,
    ) -> (Request, BoxFuture<IoOutcome>) {
        Request::transfer(number, file, Work::Write(durability), offset, buffer)
    }

    pub(super) fn sync(number: u32, file: Arc<File>) -> (Request, BoxFuture<Result<(), DiskError>>) {
        Request::bare(number, file, Work::Sync, 0)
    }

    /// Lengthens the file from `from` by `length` bytes.
    pub(super) fn grow(number: u32, file: Arc<File>, from: u64, length: u64) -> (Request, BoxFuture<Result<(), DiskError>>) {
        Request::bare(number, file, Work::Grow { length, allocated: false }, from)
    }

    fn transfer(number: u32, file: Arc<File>, work: Work, offset: u64, buffer: Buffer) -> (Request, BoxFuture<IoOutcome>) {
        let (reply, receive) = oneshot::channel();
        let (lost, length) = (file.clone(), buffer.len());
        let request = Request { file, number, work, offset, buffer: Some(buffer), done: 0, offers: 0, reply };
        let future = Box::pin(async move {
            match receive.await {
                Ok((Some(buffer), result)) => (buffer, result),
                // The buffer itself stays with whatever may still write to it.
                Ok((None, result)) => (Buffer::zeroed(length), result),
                Err(_) => (Buffer::zeroed(length), Err(lost.stopped("its thread panicked"))),
            }
        });
        (request, future)
    }

    fn bare(number: u32, file: Arc<File>, work: Work, offset: u64) -> (Request, BoxFuture<Result<(), DiskError>>) {
        let (reply, receive) = oneshot::channel();
        let lost = file.clone();
        let request = Request { file, number, work, offset, buffer: None, done: 0, offers: 0, reply };
        let future = Box::pin(async move {
            match receive.await {
                Ok((_, result)) => result,
                Err(_) => Err(lost.stopped("its thread panicked")),
            }
        });
        (request, future)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The request back, if there is something to do; one that is void or not aligned is answered here.
    pub(super) fn admit(self) -> Option<Request> {
        let Some(buffer) = &self.buffer else { return Some(self) };
        let align = self.file.align();
        if !self.offset.is_multiple_of(align as u64)
            || !buffer.len().is_multiple_of(align)
            || !(buffer.as_ptr() as usize).is_multiple_of(align)
        {
            self.fail(libc::EINVAL);
            return None;
        }
        if buffer.is_empty() {
            self.finish(Ok(()));
            return None;
        }
        Some(self)
    }

    /// What is to be done now.
    pub(super) fn step(&mut self) -> Step {
        let (done, offset) = (self.done, self.offset + self.done as u64);
        let mut rest = || {
            let rest = &mut self.buffer.as_mut().expect("a transfer has a buffer")[done..];
            let length = rest.len().min(TRANSFER_MAX) as u32;
            (rest.as_mut_ptr(), length)
        };
        match self.work {
            Work::Read => {
                let (at, length) = rest();
                Step::Read { at, length, offset }
            }
            Work::Write(durability) => {
                let (at, length) = rest();
                Step::Write { at, length, offset, durable: durability == Durability::Durable }
            }
            Work::Sync => Step::SyncData,
            Work::Grow { length, allocated: false } => Step::Allocate { offset: self.offset, length },
            Work::Grow { allocated: true, .. } => Step::SyncAll,
        }
    }

    /// Takes the result of the last step (a count or a negative errno). The request comes back when there is a further step.
    pub(super) fn advance(mut self, result: i32) -> Option<Request> {
        if result < 0 {
            if self.may_offer_again(-result) {
                self.offers += 1;
                return Some(self);
            }
            self.fail(-result);
            return None;
        }
        match self.work {
            Work::Read | Work::Write(_) => self.advance_transfer(result as usize),
            Work::Grow { length, allocated: false } => {
                self.work = Work::Grow { length, allocated: true };
                Some(self)
            }
            Work::Sync | Work::Grow { .. } => {
                self.finish(Ok(()));
                None
            }
        }
    }

    /// EINTR and EAGAIN say that nothing was begun. Not so for what ends in a flush: there it may be the flush that was cut off, and
    /// a second flush that succeeds proves nothing about the first (rule 14).
    fn may_offer_again(&self, errno: i32) -> bool {
        let flushes = matches!(self.work, Work::Sync | Work::Write(Durability::Durable) | Work::Grow { allocated: true, .. });
        matches!(errno, libc::EINTR | libc::EAGAIN) && !flushes && self.offers < OFFERS_MAX
    }

    fn advance_transfer(mut self, count: usize) -> Option<Request> {
        let length = self.buffer.as_ref().map_or(0, |buffer| buffer.len());
        self.done += count;
        if self.done >= length {
            self.finish(Ok(()));
            return None;
        }
        let ended = count == 0 || !self.done.is_multiple_of(self.file.align());
        match (ended, self.work) {
            (false, _) => Some(self),
            (true, Work::Read) => {
                let short = self.file.short(self.offset, length, self.done);
                self.finish(Err(short));
                None
            }
            // A write that stops without an error, or inside a sector, leaves nothing that could be continued.
            (true, _) => {
                self.fail(libc::EIO);
                None
            }
        }
    }

    fn fail(self, errno: i32) {
        let (operation, length) = match self.work {
            Work::Read => ("read", self.buffer.as_ref().map_or(0, |buffer| buffer.len())),
            Work::Write(_) => ("write", self.buffer.as_ref().map_or(0, |buffer| buffer.len())),
            Work::Sync => ("sync", 0),
            Work::Grow { length, .. } => ("grow", length as usize),
        };
        let error = self.file.error(operation, self.offset, length, errno);
        self.finish(Err(error));
    }

    /// Answers that the disk has stopped. With `in_flight`, the kernel may still use the buffer: it is leaked.
    pub(super) fn stop(mut self, reason: &str, in_flight: bool) {
        if in_flight {
            std::mem::forget(self.buffer.take());
        }
        let error = self.file.stopped(reason);
        self.finish(Err(error));
    }

    fn finish(self, result: Result<(), DiskError>) {
        let Request { file, buffer, reply, .. } = self;
        // Before the answer: whoever has it and drops the disk finds the lock free.
        drop(file);
        // Nobody waits any more when the future was dropped; the buffer then goes back to its pool here.
        let _ = reply.send((buffer, result));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::ThreadId;
    use crate::disk::Access;

    const LENGTH: usize = 16384;

    fn file(directory: &Path) -> Arc<File> {
        Arc::new(File::open(&directory.join("storage"), Access::Create(ThreadId(1), 65536)).unwrap())
    }

    fn place(request: &mut Request) -> (u64, u32) {
        match request.step() {
            Step::Read { length, offset, .. } | Step::Write { length, offset, .. } => (offset, length),
            _ => panic!("no transfer"),
        }
    }

    #[tokio::test]
    async fn short_results_are_continued_where_they_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(directory.path());
        for write in [false, true] {
            let (request, future) = match write {
                false => Request::read(0, file.clone(), 8192, Buffer::zeroed(LENGTH)),
                true => Request::write(0, file.clone(), 8192, Buffer::zeroed(LENGTH), Durability::Durable),
            };
            let mut request = request.admit().unwrap();
            assert_eq!(place(&mut request), (8192, 16384));
            let mut request = request.advance(4096).unwrap();
            assert_eq!(place(&mut request), (12288, 12288));
            let mut request = request.advance(8192).unwrap();
            assert_eq!(place(&mut request), (20480, 4096));
            assert!(request.advance(4096).is_none());
            let (buffer, result) = future.await;
            assert_eq!((buffer.len(), result), (LENGTH, Ok(())));
        }
    }

    #[tokio::test]
    async fn a_failed_flush_is_final_and_a_transfer_that_did_not_begin_is_offered_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(directory.path());
        for errno in [libc::EINTR, libc::EAGAIN] {
            let (request, future) = Request::write(0, file.clone(), 0, Buffer::zeroed(LENGTH), Durability::Durable);
            assert!(request.advance(-errno).is_none());
            assert!(matches!(future.await.1, Err(DiskError::Io { operation: "write", .. })));
            let (request, future) = Request::sync(0, file.clone());
            assert!(request.advance(-errno).is_none());
            assert!(matches!(future.await, Err(DiskError::Io { operation: "sync", .. })));

            let (mut request, future) = Request::write(0, file.clone(), 0, Buffer::zeroed(LENGTH), Durability::Buffered);
            for _ in 0..OFFERS_MAX {
                request = request.advance(-errno).unwrap();
            }
            assert!(request.advance(-errno).is_none(), "not for ever");
            assert!(matches!(future.await.1, Err(DiskError::Io { operation: "write", .. })));
        }
    }

    #[tokio::test]
    async fn growing_ends_with_a_flush() {
        let directory = tempfile::tempdir().unwrap();
        let (mut request, future) = Request::grow(0, file(directory.path()), 65536, 4096);
        assert!(matches!(request.step(), Step::Allocate { offset: 65536, length: 4096 }));
        let mut request = request.advance(0).unwrap();
        assert!(matches!(request.step(), Step::SyncAll));
        assert!(request.advance(-libc::EIO).is_none());
        assert!(matches!(future.await, Err(DiskError::Io { operation: "grow", errno: libc::EIO, .. })));
    }

    #[tokio::test]
    async fn a_write_that_stops_without_an_error_is_not_continued() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(directory.path());
        for stopped_at in [0, 100] {
            let (request, future) = Request::write(0, file.clone(), 0, Buffer::zeroed(LENGTH), Durability::Buffered);
            assert!(request.advance(stopped_at).is_none());
            assert!(matches!(future.await.1, Err(DiskError::Io { errno: libc::EIO, .. })));
        }
    }

    #[tokio::test]
    async fn whoever_waits_for_a_stopped_disk_hears_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(directory.path());
        let stopped = file.stopped("why");
        for in_flight in [false, true] {
            let (request, future) = Request::read(0, file.clone(), 0, Buffer::zeroed(LENGTH));
            request.stop("why", in_flight);
            let (buffer, result) = future.await;
            assert_eq!((buffer.len(), result), (LENGTH, Err(stopped.clone())));
        }
        let (request, future) = Request::read(0, file.clone(), 0, Buffer::zeroed(LENGTH));
        drop(request);
        assert!(matches!(future.await.1, Err(DiskError::Stopped { .. })));
    }
}
