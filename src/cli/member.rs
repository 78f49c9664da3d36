//! The instance's part in its cluster: its membership (`node::member`) on a thread of its own, so that load can't delay a heartbeat.
//!
//! The thread has its own runtime, workers, disk driver and endpoint; the rest of the process shares nothing with it but the CPUs. It lives until the
//! process ends: the locks that it holds on the voting files are what others see of this process's life.

#![expect(clippy::disallowed_methods, reason = "membership runs beside the process's runtime, on a thread and a runtime of its own")]

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::CommandError;
use super::admin::server::Membership;
use super::config::Config;
use super::fence::Word;
use crate::base::threads::ThreadsRuntime;
use crate::base::{BoxFuture, Epoch, Incarnation, Seams, ThreadId};
use crate::disk::{Disk, open_disk};
use crate::fence::desk::Desk;
use crate::fence::guard::{Demands, Guard};
use crate::fence::lease::Lease;
use crate::fence::locks::FileLocks;
use crate::fence::options::MethodName;
use crate::fence::{Fencer, HostId, Method};
use crate::membership::heartbeat::Host;
use crate::membership::view::Identity;
use crate::net::Role;
use crate::node::member::{Member, MemberError, Setup};
use crate::page::superblock::Shape;

/// Workers for what may block: looking at locks, opening files.
const WORKERS: usize = 4;
/// The code by which views record a confirmation given at a command line; the reason stands in `fences.jsonl` and in the log.
const BY_COMMAND: u8 = 1;

/// Why there is no membership.
pub(super) enum StartError {
    /// Membership says so.
    Member(MemberError),
    /// Its thread can't be started.
    Thread(CommandError),
}

/// Begins a life of instance `config.instance`, above incarnation `above`. The caller holds this instance's locks on all redo and data files.
/// `words` are what operators have said of lives that are over.
pub(super) async fn start(config: &Config, shape: &Shape, above: Incarnation, words: &[Word]) -> Result<Arc<Member>, StartError> {
    let confirmed = words.iter().filter(|word| word.id == config.instance).map(|word| Incarnation(word.incarnation)).max();
    let (send, receive) = tokio::sync::oneshot::channel();
    let (config, shape) = (config.clone(), *shape);
    let thread = std::thread::Builder::new().name("membership".into()).spawn(move || {
        let begin = || -> Result<(tokio::runtime::Runtime, Seams, Arc<dyn Disk>), CommandError> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let seams = ThreadsRuntime::start(runtime.handle().clone(), WORKERS)?;
            let disk = open_disk(config.options.disk)?;
            Ok((runtime, seams, disk))
        };
        // Who asked for it may be gone already, told to stop.
        let (runtime, seams, disk) = match begin() {
            Ok(begun) => begun,
            Err(error) => return drop(send.send(Err(StartError::Thread(error)))),
        };
        runtime.block_on(async move {
            let setup = match setup(&config, &shape, (above, confirmed), seams, disk) {
                Ok(setup) => setup,
                Err(error) => return drop(send.send(Err(StartError::Thread(error)))),
            };
            let started = Member::start(setup).await.map(Arc::new).map_err(StartError::Member);
            let lives = started.is_ok();
            drop(send.send(started));
            if lives {
                std::future::pending::<()>().await;
            }
        });
    });
    drop(thread.map_err(|error| StartError::Thread(error.into()))?);
    receive.await.unwrap_or_else(|_| Err(StartError::Thread("the membership thread ended".into())))
}

fn setup(
    config: &Config,
    shape: &Shape,
    (above, confirmed): (Incarnation, Option<Incarnation>),
    seams: Seams,
    disk: Arc<dyn Disk>,
) -> Result<Setup, CommandError> {
    let boot = HostId::own()?;
    let (cluster, own) = (shape.cluster, config.clone());
    let (for_link, for_fencer, fenced) = (seams.clone(), seams.clone(), config.clone());
    Ok(Setup {
        seams,
        disk,
        voting: config.storage.voting.clone(),
        cluster,
        instance: config.thread(),
        instances: shape.threads,
        options: config.membership.clone(),
        host: Host { machine: HostId::machine(), boot: boot.0 },
        above,
        confirmed,
        link: Box::new(move |life, epoch| {
            let link = super::link::connect(&own, cluster, Role::Instance, life, epoch, &for_link);
            Box::pin(async move { link.map_err(|error| error.to_string()) })
        }),
        fencer: Box::new(move |desk, demands| fencer(&fenced, &for_fencer, boot, desk, demands)),
    })
}

/// Says in every view that waits for it what operators have said before this instance ran.
pub(super) fn carry_out(member: &Arc<Member>, words: Vec<Word>, seams: &Seams) {
    if words.is_empty() {
        return;
    }
    let member = member.clone();
    let task = async move {
        let mut view = member.view();
        loop {
            let waiting = view.borrow_and_update().as_ref().map(|view| view.unconfirmed.clone()).unwrap_or_default();
            let said = |life: &&Identity| words.iter().any(|word| (word.id, word.incarnation) == (life.id.0, life.incarnation.0));
            for life in waiting.iter().filter(said) {
                match member.confirm_fence(life.id, life.incarnation, BY_COMMAND).await {
                    Ok(epoch) => tracing::warn!(%life, epoch = epoch.0, "the fence is confirmed by an operator's word in fences.jsonl"),
                    // Somebody else has confirmed it meanwhile, or this life is over.
                    Err(why) => tracing::info!(%life, why, "an operator's word in fences.jsonl isn't carried out"),
                }
            }
            if view.changed().await.is_err() {
                return;
            }
        }
    };
    seams.spawn("operators' words", Box::pin(task));
}

/// The configured methods, in their order.
fn fencer(config: &Config, seams: &Seams, host: HostId, desk: Arc<Desk>, demands: Arc<dyn Demands>) -> Fencer {
    let method = |name: &MethodName| -> Arc<dyn Method> {
        match name {
            MethodName::Guard => Arc::new(Guard {
                seams: seams.clone(),
                desk: desk.clone(),
                demands: demands.clone(),
                locks: Some(Arc::new(FileLocks { seams: seams.clone(), files: config.locks() })),
                host,
                attempt: config.fence.guard_attempt(),
            }),
            MethodName::Lease => Arc::new(Lease::new(seams.clone(), config.membership.lease(), config.fence.lease_is_accepted())),
        }
    };
    Fencer::new(config.fence.methods.iter().map(method).collect())
}

/// What operators see of it and ask of it.
pub(super) struct Seen(pub(super) Arc<Member>);

impl Membership for Seen {
    fn status(&self) -> Value {
        serde_json::to_value(self.0.status()).unwrap_or(Value::Null)
    }

    fn confirm_fence(&self, id: ThreadId, incarnation: Incarnation, reason: String) -> BoxFuture<Result<Epoch, String>> {
        let member = self.0.clone();
        Box::pin(async move {
            let epoch = member.confirm_fence(id, incarnation, BY_COMMAND).await?;
            tracing::warn!(id = id.0, incarnation = incarnation.0, epoch = epoch.0, reason, "the fence is confirmed by an operator's word");
            Ok(epoch)
        })
    }

    fn replace_voting(&self, position: u8, path: PathBuf) -> BoxFuture<Result<Epoch, String>> {
        let member = self.0.clone();
        Box::pin(async move { member.replace_voting(position, path).await })
    }
}
