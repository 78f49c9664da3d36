//! One connection's bytes: input that arrives, output that waits, and what may end the waiting.
//!
//! Callers: `startup` and `conversation`. Nothing here knows what messages mean. The connection is any byte stream; time comes from the
//! seams.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::backend::Out;
use super::frontend::{Cut, FRAME_HEADER, Frame, Malformed, cut};
use super::port::Stopper;
use crate::base::{BoxFuture, Gate, Instant, Seams};

/// Room made for one read; after a read that filled it, [`BUSY_READ`].
const READ: usize = 8 << 10;

/// Room made for one read while much comes in, and the most that is read ahead while a statement is under way.
const BUSY_READ: usize = 64 << 10;

/// Capacity that an empty buffer keeps.
const KEEP: usize = BUSY_READ / 2;

/// What a connection's patience ran out with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Timeout {
    /// The client doesn't say who it is.
    Authentication,
    /// The client says nothing, outside of a transaction.
    IdleSession,
    /// The client says nothing, inside a transaction.
    IdleInTransaction,
    /// The client doesn't take its results, or doesn't send what its COPY promised.
    Stalled,
}

/// Why a connection is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The client closed it without a word, or it broke.
    Gone,
    /// The client said goodbye.
    Quit,
    /// The server ends it.
    Stopped,
    /// It took too long.
    Timeout(Timeout),
    /// It doesn't follow the protocol.
    Malformed(Malformed),
}

impl From<Malformed> for End {
    fn from(malformed: Malformed) -> End {
        End::Malformed(malformed)
    }
}

/// How long to wait for a client, and how to call it when that was too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Patience {
    /// For ever.
    Endless,
    /// Until then, whatever it sends.
    Until(Instant, Timeout),
    /// As long as it isn't quiet for so long.
    Quiet(Duration, Timeout),
}

impl Patience {
    /// With a client that may be quiet for so long; `None`: for ever.
    pub(super) fn quiet(limit: Option<Duration>, timeout: Timeout) -> Patience {
        limit.map_or(Patience::Endless, |limit| Patience::Quiet(limit, timeout))
    }
}

/// What ends waiting for a client: the server, or time.
pub(super) struct Guard {
    seams: Seams,
    /// Nothing once it has completed.
    stopped: Option<BoxFuture<()>>,
    /// A timer and when it goes off. Kept when no longer needed, so that most waits don't make one: a later deadline is looked at again
    /// when it goes off.
    timer: Option<(Instant, BoxFuture<()>)>,
    stall: Option<Duration>,
    pub(super) gate: Gate,
}

impl Guard {
    /// `stopped` completes when the connection is to be ended; `stall` is how long a client may be [`Timeout::Stalled`]; while `gate` is
    /// closed, nothing is begun and nothing leaves.
    pub(super) fn new(seams: Seams, stopped: BoxFuture<()>, stall: Option<Duration>, gate: Gate) -> Guard {
        Guard { seams, stopped: Some(stopped), timer: None, stall, gate }
    }

    /// Waits while the instance is parked.
    ///
    /// # Errors
    /// [`End::Stopped`] when the connection is to be ended meanwhile.
    pub(super) async fn parked(&mut self) -> Result<(), End> {
        if self.gate.is_open() {
            return Ok(());
        }
        let gate = self.gate.clone();
        let mut opened = pin!(gate.pass());
        let mut due = None;
        poll_fn(|context| match opened.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => self.poll(context, Patience::Endless, &mut due).map_or(Poll::Pending, |end| Poll::Ready(Err(end))),
        })
        .await
    }

    /// From now on something else says when to end.
    pub(super) fn stopped_by(&mut self, stopped: BoxFuture<()>) {
        self.stopped = Some(stopped);
    }

    /// With a client that has something to send or take right now.
    pub(super) fn stall(&self) -> Patience {
        Patience::quiet(self.stall, Timeout::Stalled)
    }

    /// Whether to stop waiting; if not, the task is woken when that changes. `due` is when patience ends, found out at the first wait, and
    /// to be forgotten by the caller when the client moves.
    fn poll(&mut self, context: &mut Context<'_>, patience: Patience, due: &mut Option<Instant>) -> Option<End> {
        if self.stopped.as_mut().is_none_or(|stopped| stopped.as_mut().poll(context).is_ready()) {
            self.stopped = None;
            return Some(End::Stopped);
        }
        let (deadline, timeout) = match patience {
            Patience::Endless => return None,
            Patience::Until(deadline, timeout) => (deadline, timeout),
            Patience::Quiet(limit, timeout) => (*due.get_or_insert_with(|| self.seams.now() + limit), timeout),
        };
        loop {
            match &mut self.timer {
                Some((at, timer)) if *at <= deadline => {
                    if timer.as_mut().poll(context).is_pending() {
                        return None;
                    }
                    self.timer = None;
                }
                _ => {
                    let now = self.seams.now();
                    if now >= deadline {
                        return Some(End::Timeout(timeout));
                    }
                    self.timer = Some((deadline, self.seams.sleep(deadline.since(now))));
                }
            }
        }
    }
}

/// Bytes received and not yet used.
#[derive(Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
    /// The last read filled all the room there was.
    busy: bool,
}

impl Input {
    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(super) fn skip(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(KEEP);
            self.start = 0;
        }
    }

    /// Moves the body of `frame`, which is at the front, to the end of `body`.
    pub(super) fn take(&mut self, frame: Frame, body: &mut Vec<u8>) {
        body.extend_from_slice(&self.unread()[FRAME_HEADER..FRAME_HEADER + frame.body]);
        self.skip(FRAME_HEADER + frame.body);
    }

    /// Reads once. 0 bytes: the other side is done.
    fn poll_read(&mut self, io: &mut (impl AsyncRead + Unpin), context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        // At most doubles what has been received: a length that was announced makes no room by itself.
        self.bytes.reserve(if self.busy { BUSY_READ } else { READ });
        let room = self.bytes.capacity() - self.bytes.len();
        let read = pin!(io.read_buf(&mut self.bytes)).poll(context);
        if let Poll::Ready(Ok(count)) = read {
            self.busy = count == room;
        }
        read
    }
}

/// The connection's incoming side.
pub(super) struct Line<S> {
    io: S,
    pub(super) input: Input,
    /// The other side has closed it, or it is broken.
    pub(super) gone: bool,
}

impl<S: AsyncRead + Unpin> Line<S> {
    /// Reads what has come while a statement is under way, up to a bound; stops the statement when the client is gone.
    fn poll_ahead(&mut self, context: &mut Context<'_>, stopper: &dyn Stopper) {
        while !self.gone && self.input.unread().len() < BUSY_READ {
            match self.input.poll_read(&mut self.io, context) {
                Poll::Pending => return,
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.gone = true;
                    stopper.stop();
                }
            }
        }
    }
}

/// Runs `work` of a session to its end, however long it takes: when the client goes away meanwhile, the session is told to stop, and the
/// end comes soon.
///
/// The work comes in a box: its state is large, and would otherwise be part of, and be moved with, that of every caller.
pub(super) async fn watch<S: AsyncRead + Unpin, T>(
    line: &mut Line<S>,
    stopper: &dyn Stopper,
    mut work: Pin<Box<impl Future<Output = T>>>,
) -> T {
    poll_fn(|context| {
        let poll = work.as_mut().poll(context);
        if poll.is_pending() {
            line.poll_ahead(context, stopper);
        }
        poll
    })
    .await
}

/// A connection.
pub(super) struct Stream<S> {
    pub(super) line: Line<S>,
    pub(super) out: Out,
    /// Longest message.
    most: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
    pub(super) fn new(io: S, most: usize) -> Stream<S> {
        Stream { line: Line { io, input: Input::default(), gone: false }, out: Out::default(), most }
    }

    /// Waits until at least `count` bytes have come and are unread.
    pub(super) async fn fill(&mut self, count: usize, guard: &mut Guard, patience: Patience) -> Result<(), End> {
        let mut due = None;
        poll_fn(|context| {
            while self.line.input.unread().len() < count {
                if self.line.gone {
                    return Poll::Ready(Err(End::Gone));
                }
                match self.line.input.poll_read(&mut self.line.io, context) {
                    Poll::Ready(Ok(1..)) => due = None,
                    Poll::Ready(Ok(0) | Err(_)) => self.line.gone = true,
                    Poll::Pending => match guard.poll(context, patience, &mut due) {
                        Some(end) => return Poll::Ready(Err(end)),
                        None => return Poll::Pending,
                    },
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// The next frame, once it is all there; it stays at the front of the input. `patience` is for its first byte: what follows is owed.
    pub(super) async fn frame(&mut self, guard: &mut Guard, patience: Patience) -> Result<Frame, End> {
        self.fill(1, guard, patience).await?;
        let patience = guard.stall();
        loop {
            match cut(self.line.input.unread(), self.most)? {
                Cut::Whole(frame) => return Ok(frame),
                Cut::Needs(count) => self.fill(count, guard, patience).await?,
            }
        }
    }

    /// The frame at the front, if all of it has come already.
    pub(super) fn frame_there(&self) -> Result<Option<Frame>, End> {
        match cut(self.line.input.unread(), self.most)? {
            Cut::Whole(frame) => Ok(Some(frame)),
            Cut::Needs(_) => Ok(None),
        }
    }

    /// Sends all that waits, once the instance may answer.
    pub(super) async fn flush(&mut self, guard: &mut Guard) -> Result<(), End> {
        guard.parked().await?;
        let (patience, mut due) = (guard.stall(), None);
        poll_fn(|context| {
            while !self.out.waiting().is_empty() {
                match Pin::new(&mut self.line.io).poll_write(context, self.out.waiting()) {
                    Poll::Ready(Ok(count @ 1..)) => {
                        self.out.wrote(count);
                        due = None;
                    }
                    Poll::Ready(Ok(0) | Err(_)) => {
                        self.line.gone = true;
                        return Poll::Ready(Err(End::Gone));
                    }
                    Poll::Pending => match guard.poll(context, patience, &mut due) {
                        Some(end) => return Poll::Ready(Err(end)),
                        None => return Poll::Pending,
                    },
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Sends what waits if the client takes it within `patience`: the last words of a connection that ends anyhow.
    pub(super) async fn flush_last(&mut self, seams: &Seams, patience: Duration, gate: &Gate) {
        // What waits may include rows: none leaves a parked instance.
        if !gate.is_open() {
            return;
        }
        let gate = Gate::always_open(seams.clone());
        let mut guard = Guard::new(seams.clone(), Box::pin(std::future::pending()), Some(patience), gate);
        // Whether they arrive is the client's affair: the connection is closed either way.
        let _ = self.flush(&mut guard).await;
    }
}
