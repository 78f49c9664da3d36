//! How this process connects: one task for each peer and lane, which tries again with back-off for as long as the peer's address stands.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{ConnectionError, SendStream};

use super::accept::{read_hello, send_hello};
use super::send::Outgoing;
use super::{Core, transport};
use crate::base::Epoch;
use crate::net::backoff::Backoff;
use crate::net::certificate::certified_by;
use crate::net::hello::{Certified, Hello};
use crate::net::inbox::{Culprit, count};
use crate::net::{Arrival, DownReason, Lane, Peer, Refusal};

/// Why an attempt failed: refused by the peer, which is in that epoch; or nothing was heard, or we refused the peer.
type Failed = Option<(Refusal, Epoch)>;

/// Connects to `peer`, again and again, until its address is given anew (`turn` is over) or the link is closed.
pub(super) async fn keep_connected(core: Arc<Core>, peer: Peer, lane: Lane, address: SocketAddr, turn: u64) {
    let mut backoff = Backoff::default();
    while core.is_turn(peer, turn) {
        let attempt = core.within(core.options.hello_timeout, attempt(&core, peer, lane, address)).await;
        match attempt.unwrap_or(Err(None)) {
            Ok((connection, answer, stream)) => {
                backoff = Backoff::default();
                hold(&core, peer, turn, (connection, answer, stream)).await;
            }
            Err(Some((reason, epoch))) if lane == Lane::Control => core.tell_refused(peer, reason, epoch),
            Err(_) => {}
        }
        if !core.is_turn(peer, turn) {
            return;
        }
        core.seams.sleep(backoff.next(core.seams.random())).await;
    }
}

/// A connection whose hello was answered, the answer, and the stream for control frames.
type Made = (quinn::Connection, Hello, SendStream);

/// Keeps a connection in use until it is over.
async fn hold(core: &Arc<Core>, peer: Peer, turn: u64, (connection, answer, stream): Made) {
    let (lane, identity) = (answer.lane, answer.identity());
    let (outgoing, queued) = Outgoing::new(lane, identity, connection, core.options.queue_frames);
    let outgoing = Arc::new(outgoing);
    if !core.use_connection(peer, turn, &outgoing) {
        transport::close(&outgoing.connection, core.inbox.epoch());
        return;
    }
    count(&core.inbox.tally().connected);
    if lane != Lane::Control {
        if outgoing.over().await == DownReason::Silent && lane == Lane::Heartbeat {
            core.silence(peer, identity.incarnation);
        }
        drop(stream);
        return;
    }
    core.inbox.put(Arrival::Up { identity }, None);
    let writer = outgoing.clone();
    let ((), reason) = tokio::join!(
        async {
            tokio::select! {
                biased;
                _ = writer.over() => {}
                () = writer.write(core, queued, stream) => {}
            }
        },
        outgoing.over()
    );
    core.inbox.put(Arrival::Down { peer, incarnation: identity.incarnation, reason }, None);
}

async fn attempt(core: &Core, peer: Peer, lane: Lane, address: SocketAddr) -> Result<Made, Failed> {
    let expected = Certified { cluster: core.local.cluster, instance: peer.instance };
    // Neither fails with credentials that were loaded and an address that is one.
    let config = transport::client(&core.credentials(), &core.options, expected, (lane, peer.role)).map_err(|_| None)?;
    let connecting = core.endpoint.connect_with(config, address, "regroup").map_err(|_| None)?;
    let failed = |error: &ConnectionError| {
        if let Some(reason) = transport::refused_by_us(error) {
            core.inbox.refuse(Culprit::Peer(peer), reason);
        }
        transport::refused_by_peer(error)
    };
    let connection = connecting.await.map_err(|error| failed(&error))?;
    let greeted = greet(core, peer, lane, &connection).await;
    match greeted {
        Ok((answer, stream)) => Ok((connection, answer, stream)),
        Err(Some(reason)) => {
            core.refuse(Culprit::Peer(peer), &connection, reason);
            Err(None)
        }
        Err(None) => Err(match connection.close_reason() {
            Some(error) => failed(&error),
            None => None,
        }),
    }
}

/// Says hello and hears the answer. The error is our refusal of it; nothing when the connection broke.
async fn greet(core: &Core, peer: Peer, lane: Lane, connection: &quinn::Connection) -> Result<(Hello, SendStream), Option<Refusal>> {
    let certified = certified_by(connection.peer_identity()).map_err(Some)?;
    let tag = core.local.cluster.tag();
    let (mut send, mut receive) = connection.open_bi().await.map_err(|_| None)?;
    let hello = core.local.hello(peer, lane, core.inbox.epoch());
    send_hello(&mut send, &hello, tag).await.map_err(|_| None)?;
    let answer = read_hello(&mut receive, Some(lane), tag).await?;
    let newer = core.inbox.admission.lock().confirm(&answer, certified, peer, lane).map_err(Some)?;
    if newer {
        core.supersede(peer, answer.incarnation);
    }
    Ok((answer, send))
}
