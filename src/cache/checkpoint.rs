//! Fuzzy, incremental checkpoints: dirty pages are written oldest first while work goes on, then the start of replay moves.
//!
//! Triggers: the interval (pages dirtied before the previous interval's end, so that a page written often is written once), the
//! log's fill (a quarter of what is in use), a caller. The position is taken before the dirty page table is looked at, and a group marks
//! its pages dirty before it appends, so no change lies between. The control block is written, durable, before the ring is reused
//! (rule 9). A page that can't be written is logged anew; one that recovery gave up holds the position back, and says so.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use super::Cache;
use super::wait::CacheError;
use crate::base::{Lsn, Scn};
use crate::redo::LogWriter;
use crate::redo::control::{Control, ControlFile};

/// What a checkpoint did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointReport {
    /// Why it was taken.
    pub cause: Cause,
    /// Replay started here before.
    pub from: Lsn,
    /// Replay starts here now.
    pub to: Lsn,
    /// Pages still dirty.
    pub dirty: usize,
    /// How long it took.
    pub took: Duration,
}

/// Why a checkpoint is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The interval has passed.
    Interval,
    /// The ring is filling up.
    LogSize,
    /// Somebody asked.
    Request,
}

/// Called after each checkpoint.
pub type OnCheckpoint = Box<dyn Fn(&CheckpointReport) + Send + Sync>;

type Request = oneshot::Sender<Result<CheckpointReport, CacheError>>;

/// The checkpointer of one open redo thread.
pub struct Checkpointer {
    requests: mpsc::UnboundedSender<Request>,
    stop: Arc<Notify>,
    ended: Arc<Mutex<Option<(ControlFile, Control)>>>,
    gone: Arc<Notify>,
}

struct Task {
    cache: Cache,
    log: LogWriter,
    file: ControlFile,
    control: Control,
    interval: Duration,
    on_checkpoint: Option<OnCheckpoint>,
    /// Where the log ended at the last interval.
    last_interval: Lsn,
    /// The page that held back the position when that was last said.
    told_held: Option<Lsn>,
}

impl Checkpointer {
    /// Starts the checkpointer. `control` is what the control block says now.
    pub fn start(
        cache: Cache,
        log: LogWriter,
        file: ControlFile,
        control: Control,
        interval: Duration,
        on_checkpoint: Option<OnCheckpoint>,
    ) -> Checkpointer {
        let (requests, receive) = mpsc::unbounded_channel();
        let (stop, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let ended = Arc::new(Mutex::new(None));
        let last_interval = log.appended();
        let task = Task { log, file, control, interval, on_checkpoint, last_interval, told_held: None, cache: cache.clone() };
        let (stop_task, gone_task, ended_task) = (stop.clone(), gone.clone(), ended.clone());
        cache.seams().spawn(
            "checkpointer",
            Box::pin(async move {
                let task = task.run(receive, &stop_task).await;
                *ended_task.lock() = Some((task.file, task.control));
                gone_task.notify_one();
            }),
        );
        Checkpointer { requests, stop, ended, gone }
    }

    /// Takes a checkpoint of all that is dirty now.
    ///
    /// # Errors
    /// The log has failed, or the control block can't be written.
    pub async fn checkpoint(&self) -> Result<CheckpointReport, CacheError> {
        let (tell, done) = oneshot::channel();
        if self.requests.send(tell).is_err() {
            return Err(CacheError::Log(crate::redo::LogError::Closed));
        }
        done.await.unwrap_or(Err(CacheError::Log(crate::redo::LogError::Closed)))
    }

    /// What tells the task to end, for whoever drops the handle without [`Checkpointer::stop`].
    pub fn stopper(&self) -> Arc<Notify> {
        self.stop.clone()
    }

    /// Ends the task and hands back the control block and what it says.
    pub async fn stop(self) -> (ControlFile, Control) {
        self.stop.notify_one();
        self.gone.notified().await;
        let ended = self.ended.lock().take();
        ended.expect("the task leaves the control block when it ends")
    }
}

impl Task {
    async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>, stop: &Notify) -> Task {
        let seams = self.cache.seams().clone();
        let mut tick = seams.sleep(self.interval);
        loop {
            let (cause, request) = tokio::select! {
                biased;
                () = stop.notified() => return self,
                // When the handle is dropped nobody asks any more, but the interval and the log's fill still do.
                Some(request) = requests.recv() => (Cause::Request, Some(request)),
                () = self.log.under_pressure() => (Cause::LogSize, None),
                () = &mut tick => {
                    tick = seams.sleep(self.interval);
                    (Cause::Interval, None)
                }
            };
            let outcome = self.checkpoint(cause).await;
            if let Err(error) = &outcome {
                tracing::error!(%error, "no checkpoint");
            }
            let failed = outcome.as_ref().err().cloned();
            if let Some(request) = request {
                // Whoever asked may have gone.
                let _ = request.send(outcome);
            }
            if let Some(error) = failed {
                refuse(requests, stop, &error).await;
                return self;
            }
        }
    }

    /// Pages whose first unwritten position lies before this are to be written.
    fn target(&mut self, cause: Cause) -> Lsn {
        let now = self.log.appended();
        match cause {
            Cause::Request => now,
            Cause::Interval => std::mem::replace(&mut self.last_interval, now),
            Cause::LogSize => {
                let (used, _) = self.log.usage();
                Lsn(self.log.checkpoint().0 + used / 4).min(now)
            }
        }
    }

    async fn checkpoint(&mut self, cause: Cause) -> Result<CheckpointReport, CacheError> {
        let started = self.cache.seams().now();
        let from = self.control.checkpoint;
        let target = self.target(cause);
        self.cache.write_before(target).await?;
        self.cache.carry_forward(target).await?;
        let now = self.log.appended();
        let (dirty, oldest) = self.cache.dirty();
        let to = oldest.unwrap_or(now).min(now);
        if to > from {
            self.log.force(to).await?;
            self.control.checkpoint = to;
            self.control.durable = self.log.durable().max(to);
            self.control.clock = Scn(self.cache.now().0);
            if let Err(error) = self.file.write(&mut self.control).await {
                self.log.fail(error.clone());
                return Err(error.into());
            }
            self.log.release(to);
        }
        if to < target {
            self.tell_held(to);
        }
        let took = self.cache.seams().now().since(started);
        let report = CheckpointReport { cause, from, to, dirty, took };
        tracing::debug!(?cause, %from, %to, dirty, ?took, "checkpoint");
        if let Some(tell) = &self.on_checkpoint {
            tell(&report);
        }
        Ok(report)
    }

    fn tell_held(&mut self, at: Lsn) {
        if self.told_held.replace(at) == Some(at) {
            return;
        }
        for (page, why) in self.cache.quarantined() {
            tracing::error!(%page, %why, checkpoint = %at, "the log can't be reused behind this position until the page is repaired");
        }
    }
}

/// Answers everyone with what made checkpoints impossible, until told to stop.
async fn refuse(mut requests: mpsc::UnboundedReceiver<Request>, stop: &Notify, error: &CacheError) {
    loop {
        tokio::select! {
            biased;
            () = stop.notified() => return,
            Some(request) = requests.recv() => {
                // Whoever asked may have gone.
                let _ = request.send(Err(error.clone()));
            }
        }
    }
}
