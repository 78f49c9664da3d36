//! How a simulated process connects: one task for each peer and lane, which tries again with back-off for as long as the peer's address stands.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Fate;
use super::connection::Connection;
use super::link::End;
use crate::base::{Epoch, ThreadId};
use crate::net::backoff::Backoff;
use crate::net::hello::{Certified, Hello};
use crate::net::inbox::{Culprit, count};
use crate::net::{Arrival, Lane, Peer, Refusal};

/// Why an attempt failed: refused by the peer, which is in that epoch; or nothing was heard.
type Failed = Option<(Refusal, Epoch)>;

/// Connects to `peer`, again and again, until its address is given anew (`turn` is over) or the process closes its link.
pub(super) async fn keep_connected(end: Arc<End>, peer: Peer, lane: Lane, address: SocketAddr, turn: u64) {
    let mut backoff = Backoff::default();
    while end.is_turn(peer, turn) {
        match attempt(&end, peer, lane, address).await {
            Ok(connection) if end.is_turn(peer, turn) => {
                backoff = Backoff::default();
                hold(&end, peer, turn, connection).await;
            }
            Ok(connection) => connection.refuse(),
            Err(Some((reason, epoch))) => end.tell_refused(peer, lane, reason, epoch),
            Err(None) => {}
        }
        if !end.is_turn(peer, turn) {
            return;
        }
        end.seams.sleep(backoff.next(end.seams.random())).await;
    }
}

/// Keeps a connection until it breaks.
async fn hold(end: &Arc<End>, peer: Peer, turn: u64, connection: Arc<Connection>) {
    let (lane, identity) = (connection.lane, connection.answer.identity());
    if !end.use_connection(peer, turn, &connection) {
        connection.refuse();
        return;
    }
    count(&end.inbox.tally().connected);
    end.wires.happened(|happened| happened.connected += 1);
    if lane == Lane::Control {
        end.inbox.put(Arrival::Up { identity }, None);
    }
    let reason = connection.over().await;
    connection.refuse();
    if lane == Lane::Control {
        end.inbox.put(Arrival::Down { peer, incarnation: identity.incarnation, reason }, None);
    }
}

/// One packet of a handshake, sent again while it is lost; false when it doesn't get through in time.
async fn leg(end: &End, from: ThreadId, to: ThreadId) -> bool {
    let faults = end.wires.faults();
    let mut left = faults.idle;
    loop {
        match end.wires.fate(from, to) {
            Fate::Arrives { after, .. } => {
                end.seams.sleep(after).await;
                return true;
            }
            Fate::Lost => {
                let wait = faults.retransmit.max(Duration::from_millis(1));
                end.seams.sleep(wait).await;
                left = left.saturating_sub(wait);
                if left.is_zero() {
                    return false;
                }
            }
        }
    }
}

async fn attempt(end: &Arc<End>, peer: Peer, lane: Lane, address: SocketAddr) -> Result<Arc<Connection>, Failed> {
    let (here, there) = (end.host(), peer.instance);
    if !leg(end, here, there).await {
        return Err(None);
    }
    let Some(to) = end.wires.end_at(address) else {
        end.seams.sleep(end.wires.faults().idle).await;
        return Err(None);
    };
    let said = end.local.hello(peer, lane, end.inbox.epoch()).encode();
    let certified = Certified { cluster: end.local.cluster, instance: end.local.peer.instance };
    let met = Hello::decode(&said).and_then(|hello| {
        let newer = to.inbox.admission.lock().admit(&hello, certified, to.inbox.epoch())?;
        Ok((hello, newer))
    });
    let (hello, newer) = match met {
        Ok(met) => met,
        Err(reason) => {
            to.inbox.refuse(Culprit::Peer(end.local.peer), reason);
            let epoch = to.inbox.epoch();
            return Err(leg(end, there, here).await.then_some((reason, epoch)));
        }
    };
    if newer {
        to.supersede(hello.from, hello.incarnation);
    }
    let answer = to.local.hello(end.local.peer, lane, to.inbox.epoch());
    let connection = Connection::new(end, &to, &hello, answer);
    to.take_connection(&connection);
    count(&to.inbox.tally().accepted);
    drop(to);
    if !leg(end, there, here).await || !connection.is_open() {
        connection.refuse();
        return Err(None);
    }
    let certified = Certified { cluster: answer.cluster, instance: answer.from.instance };
    match Hello::decode(&answer.encode()).and_then(|answer| end.inbox.admission.lock().confirm(&answer, certified, peer, lane)) {
        Ok(true) => end.supersede(peer, answer.incarnation),
        Ok(false) => {}
        Err(reason) => {
            end.inbox.refuse(Culprit::Peer(peer), reason);
            connection.refuse();
            return Err(None);
        }
    }
    Ok(connection)
}
