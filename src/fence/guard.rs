//! Method `guard`: has the victim's guard kill it, and takes no less than proof that it is dead and its I/O has drained.
//!
//! ```text
//!                    +-- demand over the control lane, repeated ------> the victim's guard: SIGKILL, wait, locks (node::guard)
//!  fence(victim) ----+                                                      | report            | its guard sector
//!                    |<-- desk: report, or guard sector --------------------+-------------------+ (also when it read the view by itself)
//!                    +-- same host: the victim's locks on all storage files (locks): also when guard and child died together
//! ```
//! Any one of them confirms; all are looked at until the attempt's time is over. It ends writes and answers, both for certain: a process that
//! is gone does neither, and what it had given to the kernel has drained.
//!
//! When it stays unknown: the victim's host is gone or cut off, or it is this host with its storage on block devices and the guard died, too
//! (`locks` says why peers don't use locks of block devices). The remedy says what an operator can do.

use std::sync::Arc;
use std::time::Duration;

use super::desk::Desk;
use super::locks::{Locks, Look};
use super::{By, Ends, Guarantee, HostId, Method, Outcome, Victim, remedy};
use crate::base::{BoxFuture, Seams};

/// Between two looks at what is known: short against a takeover.
const EVERY: Duration = Duration::from_millis(2);
/// Between two demands: a frame may be lost with its connection.
const DEMAND_EVERY: Duration = Duration::from_millis(100);

/// Carries demands to guards.
pub trait Demands: Send + Sync + 'static {
    /// Asks the victim's guard to kill it. Never waits.
    ///
    /// # Errors
    /// Why it can't be asked now.
    fn demand(&self, victim: Victim) -> Result<(), String>;
}

/// Method `guard`.
#[derive(Clone)]
pub struct Guard {
    /// Clock and workers.
    pub seams: Seams,
    /// What guards have said and written.
    pub desk: Arc<Desk>,
    /// The way to guards.
    pub demands: Arc<dyn Demands>,
    /// The locks on the storage files, where this process can look at them.
    pub locks: Option<Arc<dyn Locks>>,
    /// This host.
    pub host: HostId,
    /// Longest time of one attempt.
    pub attempt: Duration,
}

impl Guard {
    async fn attempt(self, victim: Victim) -> Outcome {
        let begun = self.seams.now();
        let locks = self.locks_of(&victim);
        let mut demanded = None;
        let mut refused = None;
        loop {
            if let Some(evidence) = self.desk.evidence(&victim) {
                return Outcome::Confirmed { by: By::Guard, evidence };
            }
            if demanded.is_none_or(|at| self.seams.now().since(at) >= DEMAND_EVERY) && !self.desk.is_dead(&victim) {
                demanded = Some(self.seams.now());
                refused = self.demands.demand(victim).err();
            }
            let mut seen = None;
            if let Ok(locks) = &locks {
                match locks.look(victim.id).await {
                    Look::Drained => {
                        let evidence = "its locks on all storage files are free on this host: it is dead and its I/O has drained";
                        return Outcome::Confirmed { by: By::Locks, evidence: evidence.into() };
                    }
                    other => seen = Some(other),
                }
            }
            if self.seams.now().since(begun) >= self.attempt {
                return Outcome::Unknown { why: self.missing(&victim, refused, &locks, seen), remedy: remedy(&victim) };
            }
            self.seams.sleep(EVERY).await;
        }
    }

    /// The locks that prove the victim's death here, or why none do.
    fn locks_of(&self, victim: &Victim) -> Result<Arc<dyn Locks>, String> {
        let locks = self.locks.as_ref().ok_or("locks can't be looked at here")?;
        match self.desk.host(victim) {
            Some(host) if host == self.host => {}
            Some(_) => return Err("it ran on another host, so its locks tell nothing here".into()),
            None => return Err("it isn't known which host it ran on, so its locks tell nothing".into()),
        }
        locks.prove_between_peers()?;
        Ok(locks.clone())
    }

    fn missing(&self, victim: &Victim, refused: Option<String>, locks: &Result<Arc<dyn Locks>, String>, seen: Option<Look>) -> String {
        let asked = match refused {
            _ if self.desk.is_dead(victim) => "its guard reports that it is dead, but not yet that its I/O has drained".to_string(),
            Some(why) => format!("its guard can't be asked: {why}"),
            None => format!("its guard was asked, and has not answered within {} ms", self.attempt.as_millis()),
        };
        let looked = match (locks, seen) {
            (Err(why), _) => why.clone(),
            (Ok(_), Some(Look::Held(path))) => format!("it still has {} in use", path.display()),
            (Ok(_), Some(Look::Unclear(why))) => format!("its locks can't be looked at: {why}"),
            (Ok(_), _) => "its locks were not looked at".into(),
        };
        format!("{asked}; {looked}; no guard sector says that it is dead")
    }
}

impl Method for Guard {
    fn name(&self) -> &'static str {
        "guard"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee { writes: Ends::Proven, answers: Ends::Proven }
    }

    fn fence(&self, victim: Victim) -> BoxFuture<Outcome> {
        Box::pin(self.clone().attempt(victim))
    }
}
