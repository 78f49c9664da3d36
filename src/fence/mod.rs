//! L7: fencing. Makes sure that an evicted instance writes nothing and answers nobody any more, and says what that certainty rests on.
//!
//! ```text
//! a view evicts (id, incarnation) -> Fencer: methods in configured order -> Confirmed   recovery may begin (rule 1)
//!                                        guard   kill and proof                Unknown    blocked: try again, or an operator confirms
//!                                        lease   wait, under assumptions       Failed     no method could even try
//! ```
//! Called by `node::member` when the membership core asks for it, again and again until it is confirmed; each attempt is bounded. "Timed out"
//! is never "fenced" (rule 1): an attempt that learns nothing is [`Outcome::Unknown`], and tells an operator what is missing. Each method
//! states whether it ends *writes* and whether it ends *answers* ([`Guarantee`], rule 2); the fence is confirmed when methods that
//! confirmed end both.
//!
//! Not here: the decision whom to fence (`membership`), the guard process itself (`node::guard`), what is done after (`recovery`).

pub mod desk;
pub mod guard;
pub mod host;
pub mod lease;
pub mod locks;
pub mod message;
pub mod options;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use crate::base::{BoxFuture, Epoch, Incarnation, ThreadId};
pub use host::HostId;

/// Who is to be fenced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Victim {
    /// Which instance.
    pub id: ThreadId,
    /// Which life of it; earlier ones are meant too.
    pub incarnation: Incarnation,
    /// The epoch of the view that evicts it.
    pub epoch: Epoch,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instance {}, incarnation {} (evicted by epoch {})", self.id.0, self.incarnation.0, self.epoch.0)
    }
}

/// How far something is ended by a method that confirmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ends {
    /// Not at all.
    No,
    /// For certain.
    Proven,
    /// If these assumptions hold, by name; nothing checks them.
    Assumed(&'static [&'static str]),
}

impl Ends {
    /// Whether it is ended, for certain or by assumptions that were accepted.
    pub fn ends(self) -> bool {
        self != Ends::No
    }
}

/// What a method that confirmed has ended (rule 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guarantee {
    /// The victim's writes to shared storage, those in flight included.
    pub writes: Ends,
    /// The victim's answers to clients.
    pub answers: Ends,
}

/// What a confirmation rests on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum By {
    /// The victim's guard has proven its death and drain.
    Guard,
    /// Its locks were seen free on this host.
    Locks,
    /// Its lease must have run out: the weakest.
    Lease,
}

/// What came of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The victim is fenced, as far as the method's [`Guarantee`] says.
    Confirmed {
        /// What that rests on, as the view that strikes the victim out records it.
        by: By,
        /// The same for people.
        evidence: String,
    },
    /// The method can't be used against this victim: no attempt will do better until something is changed.
    Failed {
        /// What is in the way.
        why: String,
    },
    /// Not known: the victim may be dead, or may be writing. Blocks until a later attempt knows, or an operator does.
    Unknown {
        /// What is missing.
        why: String,
        /// What an operator can do.
        remedy: String,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Confirmed { evidence, .. } => write!(f, "confirmed: {evidence}"),
            Outcome::Failed { why } => write!(f, "failed: {why}"),
            Outcome::Unknown { why, remedy } => write!(f, "unknown: {why}; {remedy}"),
        }
    }
}

/// A way to fence.
pub trait Method: Send + Sync + 'static {
    /// As in the configuration.
    fn name(&self) -> &'static str;
    /// What holds once it has confirmed.
    fn guarantee(&self) -> Guarantee;
    /// Tries, for a bounded time. May be called again for the same victim, and for several victims at once.
    fn fence(&self, victim: Victim) -> BoxFuture<Outcome>;
}

/// Methods in configured order.
pub struct Fencer {
    methods: Vec<Arc<dyn Method>>,
}

/// What an operator can do when nothing else is known.
pub fn remedy(victim: &Victim) -> String {
    format!(
        "start instance {id} again (its guard then proves that incarnation {incarnation} is dead), or make sure that its host is off or cut from \
         the storage and say so: clusterctl fence confirm {id} --incarnation {incarnation} --reason \"...\"",
        id = victim.id.0,
        incarnation = victim.incarnation.0
    )
}

impl Fencer {
    /// Tries `methods` in this order. [`options::FenceOptions`] has checked that together they end writes and answers.
    pub fn new(methods: Vec<Arc<dyn Method>>) -> Fencer {
        Fencer { methods }
    }

    /// One attempt with every method that is needed: until writes and answers are ended. Unknown when that isn't reached and any method may do
    /// better next time; failed when none can.
    pub async fn fence(&self, victim: Victim) -> Outcome {
        let (mut writes, mut answers) = (false, false);
        let (mut evidence, mut missing) = (Vec::new(), Vec::new());
        let mut hopeless = true;
        let mut weakest = By::Guard;
        for method in &self.methods {
            let Guarantee { writes: of_writes, answers: of_answers } = method.guarantee();
            let adds = (of_writes.ends() && !writes) || (of_answers.ends() && !answers);
            if !adds {
                continue;
            }
            let outcome = method.fence(victim).await;
            tracing::info!(%victim, method = method.name(), %outcome, "fence attempt");
            match outcome {
                Outcome::Confirmed { by, evidence: found } => {
                    weakest = weakest.max(by);
                    writes |= of_writes.ends();
                    answers |= of_answers.ends();
                    hopeless = false;
                    evidence.push(format!("{}: {found}", method.name()));
                }
                Outcome::Failed { why } => missing.push(format!("{}: {why}", method.name())),
                Outcome::Unknown { why, .. } => {
                    hopeless = false;
                    missing.push(format!("{}: {why}", method.name()));
                }
            }
            if writes && answers {
                return Outcome::Confirmed { by: weakest, evidence: evidence.join("; ") };
            }
        }
        let open = match (writes, answers) {
            (true, _) => "its answers to clients may go on",
            (_, true) => "its writes may go on",
            _ => "its writes and its answers to clients may go on",
        };
        let why = format!("{victim}: {open}: {}", missing.join("; "));
        if hopeless {
            Outcome::Failed { why: format!("{why}; {}", remedy(&victim)) }
        } else {
            Outcome::Unknown { why, remedy: remedy(&victim) }
        }
    }
}
