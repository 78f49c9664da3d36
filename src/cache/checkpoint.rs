//! Fuzzy, incremental checkpoints: dirty pages are written oldest first while work goes on, then the start of replay moves.
//!
//! Triggers: the interval (pages dirtied before the previous interval's end, so that a page written often is written once), the
//! log's fill (a quarter of what is in use), recovery that would take too long (`pace`), a caller. The position is taken before the dirty page table is looked at, and a group marks
//! its pages dirty before it appends, so no change lies between. The control block is written, durable, before the ring is reused
//! (rule 9). Pages that were given away before they were written hold the position back until their new owners have written them: these are asked
//! to once per checkpoint, which then does what is possible; when one of them has written, and the position had to stay, the next checkpoint follows. A page that can't be written is logged anew; one that recovery gave up holds the position back, and says so; when the ring is
//! full for that, whoever waits for room gets an error. The control block also takes down what recovery is predicted to take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use super::Cache;
use super::pace::Pace;
use super::wait::CacheError;
use crate::base::runtime::BoxFuture;
use crate::base::{Lsn, Scn};
use crate::redo::LogWriter;
use crate::redo::control::{Control, ControlFile};
use crate::redo::forecast::{Foretold, Means, Prediction};

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
    /// How long recovery would take after a crash now.
    pub predicted: Duration,
    /// Transactions under way, when somebody counts them ([`Checkpointer::count_transactions`]).
    pub transactions_active: Option<usize>,
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
    /// Recovery would take longer than it may.
    RecoveryTime,
    /// Somebody asked.
    Request,
}

/// Called after each checkpoint.
pub type OnCheckpoint = Box<dyn Fn(&CheckpointReport) + Send + Sync>;

/// Tells how many transactions are under way.
pub type CountTransactions = Box<dyn Fn() -> usize + Send + Sync>;

/// What a checkpointer works with.
pub struct CheckpointSetup {
    /// The pages.
    pub cache: Cache,
    /// Their log.
    pub log: LogWriter,
    /// The control slots.
    pub file: ControlFile,
    /// What they say now.
    pub control: Control,
    /// Longest time between two checkpoints.
    pub interval: Duration,
    /// Longest time that recovery may be predicted to take; none for any.
    pub recovery_time_target: Option<Duration>,
    /// What recovery would have to work with.
    pub means: Means,
    /// Which part of the log behind the checkpoint is change groups, when that is known; else 1.
    pub payload_share: f64,
    /// Told of each checkpoint.
    pub on_checkpoint: Option<OnCheckpoint>,
}

type Request = oneshot::Sender<Result<CheckpointReport, CacheError>>;

/// The checkpointer of one open redo thread.
pub struct Checkpointer {
    requests: mpsc::UnboundedSender<Request>,
    stop: Arc<Notify>,
    ended: Arc<Mutex<Option<(ControlFile, Control)>>>,
    gone: Arc<Notify>,
    transactions: Arc<OnceLock<CountTransactions>>,
    /// What recovery was predicted to take when that was last looked at, in microseconds.
    predicted_us: Arc<AtomicU64>,
}

struct Task {
    cache: Cache,
    log: LogWriter,
    file: ControlFile,
    control: Control,
    interval: Duration,
    pace: Pace,
    on_checkpoint: Option<OnCheckpoint>,
    transactions: Arc<OnceLock<CountTransactions>>,
    predicted_us: Arc<AtomicU64>,
    /// Where the log ended at the last interval.
    last_interval: Lsn,
    /// The last checkpoint fell short of its target, and a page that another instance owes was among the reasons.
    short: bool,
    /// The page that held back the position when that was last said.
    told_held: Option<Lsn>,
}

impl Checkpointer {
    /// Starts the checkpointer.
    pub fn start(setup: CheckpointSetup) -> Checkpointer {
        let CheckpointSetup { cache, log, file, control, interval, recovery_time_target, means, payload_share, on_checkpoint } = setup;
        let (requests, receive) = mpsc::unbounded_channel();
        let (stop, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (ended, transactions) = (Arc::new(Mutex::new(None)), Arc::new(OnceLock::new()));
        let predicted_us = Arc::new(AtomicU64::new(0));
        let last_interval = log.appended();
        let mut pace = Pace::new(recovery_time_target, control.forecast.rates, means, cache.seams().now(), last_interval);
        pace.learn_share(payload_share);
        let task = Task {
            cache: cache.clone(),
            log,
            file,
            control,
            interval,
            pace,
            on_checkpoint,
            transactions: transactions.clone(),
            predicted_us: predicted_us.clone(),
            last_interval,
            short: false,
            told_held: None,
        };
        let (stop_task, gone_task, ended_task) = (stop.clone(), gone.clone(), ended.clone());
        cache.seams().spawn(
            "checkpointer",
            Box::pin(async move {
                let task = task.run(receive, &stop_task).await;
                *ended_task.lock() = Some((task.file, task.control));
                gone_task.notify_one();
            }),
        );
        Checkpointer { requests, stop, ended, gone, transactions, predicted_us }
    }

    /// How long recovery would take, as predicted when that was last looked at: several times in the target's time, and at checkpoints.
    pub fn predicted(&self) -> Duration {
        Duration::from_micros(self.predicted_us.load(Ordering::Relaxed))
    }

    /// From now on `count` tells checkpoints how many transactions are under way. The first one given stays.
    pub fn count_transactions(&self, count: CountTransactions) {
        // A second one would count the same.
        let _ = self.transactions.set(count);
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

/// What the task does next.
enum Turn {
    Stop,
    /// Take a checkpoint, and tell whoever asked.
    Checkpoint(Cause, Option<Request>),
    /// Look whether recovery would take too long.
    Look,
}

impl Task {
    async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>, stop: &Notify) -> Task {
        let seams = self.cache.seams().clone();
        let mut tick = seams.sleep(self.interval);
        let every = self.pace.every();
        let next_look =
            || -> BoxFuture<()> { every.map_or_else(|| Box::pin(std::future::pending()) as BoxFuture<()>, |every| seams.sleep(every)) };
        let mut look = next_look();
        loop {
            let short = self.short;
            let turn = tokio::select! {
                biased;
                () = stop.notified() => Turn::Stop,
                // When the handle is dropped nobody asks any more, but the interval and the log's fill still do.
                Some(request) = requests.recv() => Turn::Checkpoint(Cause::Request, Some(request)),
                () = self.log.under_pressure() => Turn::Checkpoint(Cause::LogSize, None),
                () = self.cache.shared.image_gone.notified(), if short => Turn::Checkpoint(Cause::LogSize, None),
                () = &mut tick => Turn::Checkpoint(Cause::Interval, None),
                () = &mut look => Turn::Look,
            };
            let failed = match turn {
                Turn::Stop => return self,
                Turn::Checkpoint(cause, request) => {
                    if cause == Cause::Interval {
                        tick = seams.sleep(self.interval);
                    }
                    let target = self.target(cause);
                    let outcome = self.checkpoint(cause, target).await;
                    let failed = outcome.as_ref().err().cloned();
                    if let Some(request) = request {
                        // Whoever asked may have gone.
                        let _ = request.send(outcome);
                    }
                    failed
                }
                Turn::Look => {
                    let failed = self.look().await.err();
                    look = next_look();
                    failed
                }
            };
            if let Some(error) = failed {
                tracing::error!(%error, "no checkpoint");
                refuse(requests, stop, &error).await;
                return self;
            }
        }
    }

    /// Pages whose first unwritten position lies before this are to be written.
    fn target(&mut self, cause: Cause) -> Lsn {
        let now = self.log.appended();
        match cause {
            Cause::Request | Cause::RecoveryTime => now,
            Cause::Interval => std::mem::replace(&mut self.last_interval, now),
            Cause::LogSize => {
                let (used, _) = self.log.usage();
                Lsn(self.log.checkpoint().0 + used / 4).min(now)
            }
        }
    }

    /// Writes pages when recovery would take too long; otherwise takes down what it would take, if that is news.
    async fn look(&mut self) -> Result<(), CacheError> {
        let now = self.cache.seams().now();
        if let Some(share) = self.log.payload_share() {
            self.pace.learn_share(share);
        }
        let (checkpoint, end) = (self.control.checkpoint, self.log.appended());
        let goal = self.pace.goal(now, checkpoint, end, &self.cache.shared.dirty.lock());
        if let Some(goal) = goal {
            self.checkpoint(Cause::RecoveryTime, goal).await?;
        }
        let predicted = self.predict().total();
        if self.pace.is_news(Duration::from_micros(self.control.forecast.foretold.total_us), predicted) {
            self.write_control().await?;
        }
        Ok(())
    }

    /// What recovery would take now.
    fn predict(&self) -> Prediction {
        let (pages, _) = self.cache.dirty();
        let predicted = self.pace.predict(self.control.checkpoint, self.log.appended(), pages);
        self.predicted_us.store(predicted.total().as_micros() as u64, Ordering::Relaxed);
        predicted
    }

    /// Writes the control block, with what is known durable and predicted now.
    async fn write_control(&mut self) -> Result<(), CacheError> {
        let predicted = self.predict();
        let control = &mut self.control;
        control.durable = self.log.durable().max(control.checkpoint).max(control.durable);
        control.clock = Scn(self.cache.now().0);
        control.forecast.foretold = Foretold {
            total_us: predicted.total().as_micros() as u64,
            pages: self.cache.dirty().0 as u64,
            position: self.log.appended().0,
            target_ms: self.pace.target_ms(),
        };
        if let Err(error) = self.file.write(control).await {
            self.log.fail(error.clone());
            return Err(error.into());
        }
        Ok(())
    }

    async fn checkpoint(&mut self, cause: Cause, target: Lsn) -> Result<CheckpointReport, CacheError> {
        let started = self.cache.seams().now();
        let from = self.control.checkpoint;
        self.cache.want_images_before(target);
        self.cache.write_before(target).await?;
        self.cache.carry_forward(target).await?;
        let now = self.log.appended();
        let (dirty, oldest) = self.cache.dirty();
        let to = oldest.unwrap_or(now).min(now);
        if to > from {
            self.log.force(to).await?;
            self.control.checkpoint = to;
            self.write_control().await?;
            self.log.release(to);
        }
        self.short = to < target && !self.cache.shared.dirty.lock().images_before(target).is_empty();
        if to < target {
            self.tell_held(to);
        }
        self.log.hold(if to < target { self.cache.held_for_good(to) } else { None });
        let took = self.cache.seams().now().since(started);
        let predicted = self.predict().total();
        let transactions_active = self.transactions.get().map(|count| count());
        let report = CheckpointReport { cause, from, to, dirty, predicted, transactions_active, took };
        tracing::debug!(?cause, %from, %to, dirty, ?predicted, ?took, "checkpoint");
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
