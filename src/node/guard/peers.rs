//! The other instances, as a guard speaks with them: it answers their demands, and tells them of its child's death.
//!
//! Where they are stands on the voting files. A guard speaks with instances only, on the control lane. What is lost is not sent again: a peer that
//! comes back is told what is known, a demand is repeated by who made it, and the guard sector says the same.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::core::Input;
use crate::base::{Epoch, Seams, ThreadId};
use crate::fence::message::{DEMAND, Demand, REPORT, Report};
use crate::membership::heartbeat::Standing;
use crate::membership::survey::Survey;
use crate::net::{Arrival, Identity, Lane, Link, Peer, Refusal, Role, SendError};

/// The way to the other instances.
pub(super) struct Peers {
    id: ThreadId,
    threads: u16,
    link: Arc<dyn Link>,
}

impl Peers {
    /// Listens on `link` from now on.
    pub(super) fn start(seams: &Seams, id: ThreadId, threads: u16, link: Arc<dyn Link>, inputs: mpsc::Sender<Input>) -> Peers {
        let peers = Peers { id, threads, link: link.clone() };
        let listen = async move {
            // Peers whose frames had no effect: that is said once of each.
            let mut told = Vec::new();
            loop {
                let input = match link.next().await {
                    Arrival::Up { identity: Identity { peer, .. } } if peer.role == Role::Instance => Input::Up(peer),
                    Arrival::Frame { from, kind, body, .. } => match demand(from, kind, &body) {
                        Ok(input) => input,
                        Err(why) => {
                            if !told.contains(&from.peer) {
                                told.push(from.peer);
                                tracing::warn!(%from, why, "a frame to the guard has no effect; more of this peer are not told");
                            }
                            continue;
                        }
                    },
                    // The peer has proven who it is; it is further than what was read of the voting files so far.
                    Arrival::Refused { reason: Refusal::StaleEpoch, epoch, .. } => {
                        link.set_epoch(epoch);
                        continue;
                    }
                    _ => continue,
                };
                if inputs.send(input).await.is_err() {
                    return;
                }
            }
        };
        seams.spawn("guard's interconnect", Box::pin(listen));
        peers
    }

    /// What the voting files say of where the others are, and of the epoch.
    pub(super) fn found(&self, survey: &Survey, epoch: Epoch) {
        self.link.set_epoch(epoch);
        for id in (1..=self.threads).map(ThreadId).filter(|id| *id != self.id) {
            let Some((_, beat)) = survey.heartbeat(id) else { continue };
            let there = !matches!(beat.standing, Standing::Unused | Standing::Gone);
            self.link.set_peer(Peer::instance(id), beat.address.filter(|_| there));
        }
    }

    /// Sends a report to one instance, or to all.
    pub(super) fn report(&self, to: Option<Peer>, report: &Report) {
        let body = report.encode();
        let all = (1..=self.threads).map(ThreadId).filter(|id| *id != self.id).map(Peer::instance);
        for peer in all.filter(|peer| to.is_none_or(|to| to == *peer)) {
            match self.link.send(peer, Lane::Control, REPORT, body.clone()) {
                // It isn't there: the guard sector tells it when it comes.
                Ok(()) | Err(SendError::NotConnected(_)) => {}
                Err(error) => tracing::warn!(%peer, %error, "a death can't be reported; the peer finds it in the guard sector"),
            }
        }
    }
}

/// Reads a frame that an instance sent.
fn demand(from: Identity, kind: u16, body: &[u8]) -> Result<Input, String> {
    if from.peer.role != Role::Instance || kind != DEMAND {
        return Err(format!("kind {kind:#06x} isn't for a guard"));
    }
    let victim = Demand::decode(body).map_err(|error| error.to_string())?.victim();
    Ok(Input::Demand { from: from.peer, victim })
}
