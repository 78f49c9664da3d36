//! Connections that peers make: admitted by rate, then by TLS, then by their hello.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use quinn::{Incoming as Knock, RecvStream, SendStream};

use super::rate::Rates;
use super::{Core, receive, transport};
use crate::base::{Epoch, ThreadId};
use crate::net::certificate::certified_by;
use crate::net::frame::{Class, HEADER, Head};
use crate::net::hello::{HELLO, Hello};
use crate::net::inbox::{Culprit, Incoming, count};
use crate::net::{Lane, Peer, Refusal};

/// Who knocks how often.
struct Door {
    addresses: Mutex<Rates<IpAddr>>,
    certificates: Mutex<Rates<ThreadId>>,
    pending: AtomicU32,
}

/// One handshake that is going on.
struct Pending<'a>(&'a AtomicU32);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts connections until the link is closed.
pub(super) async fn accept_all(core: Arc<Core>) {
    let door = Arc::new(Door {
        addresses: Mutex::new(Rates::new(core.options.address_rate)),
        certificates: Mutex::new(Rates::new(core.options.certificate_rate)),
        pending: AtomicU32::new(0),
    });
    while let Some(knock) = core.endpoint.accept().await {
        let address = knock.remote_address().ip();
        let pending = door.pending.load(Ordering::Relaxed);
        if pending >= core.options.pending_max || !door.addresses.lock().admit(address, core.seams.now()) {
            core.inbox.refuse(Culprit::Address(address), Refusal::Handshakes);
            knock.refuse();
            continue;
        }
        if pending >= core.options.pending_max / 2 && !knock.remote_address_validated() && knock.may_retry() {
            // Many handshakes at once may be forged: let the address prove itself before it costs us cryptography.
            let _ = knock.retry();
            continue;
        }
        door.pending.fetch_add(1, Ordering::Relaxed);
        core.seams.spawn("handshake", Box::pin(answer(core.clone(), door.clone(), knock)));
    }
}

/// From the first packet to the end of the connection.
async fn answer(core: Arc<Core>, door: Arc<Door>, knock: Knock) {
    let address = knock.remote_address().ip();
    let met = {
        let _pending = Pending(&door.pending);
        core.within(core.options.hello_timeout, meet(&core, &door, knock)).await
    };
    let Some(met) = met else {
        core.inbox.refuse(Culprit::Address(address), Refusal::Late);
        return;
    };
    if let Some((connection, hello, stream)) = met {
        let incoming = Arc::new(Incoming::new(&hello, core.quota(hello.from)));
        receive::receive(&core, &connection, incoming, stream).await;
        core.forget_connection(&hello, &connection);
    }
}

/// An accepted connection, its hello, and the stream that the hello came on.
type Met = (quinn::Connection, Hello, RecvStream);

async fn meet(core: &Core, door: &Door, knock: Knock) -> Option<Met> {
    let address = Culprit::Address(knock.remote_address().ip());
    let connection = match knock.accept() {
        Ok(connecting) => connecting.await,
        Err(error) => Err(error),
    };
    let connection = match connection {
        Ok(connection) => connection,
        Err(error) => {
            // A peer that hung up, or that refused us, is no refusal of ours.
            if let Some(reason) = transport::refused_by_us(&error) {
                core.inbox.refuse(address, reason);
            }
            return None;
        }
    };
    // When the time is up before the hello came, this future is dropped: the connection must end with a reason then.
    let mut deadline = Deadline { connection: Some(connection.clone()), epoch: core.inbox.epoch() };
    let met = listen(core, door, &connection).await;
    deadline.connection = None;
    match met {
        Ok((hello, send, receive)) => {
            let met = accept(core, &connection, hello, send).await;
            met.then_some((connection, hello, receive))
        }
        Err((culprit, Some(reason))) => {
            core.refuse(culprit.unwrap_or(address), &connection, reason);
            None
        }
        Err((_, None)) => None,
    }
}

/// Closes a connection as late when it is dropped with one.
struct Deadline {
    connection: Option<quinn::Connection>,
    epoch: Epoch,
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            transport::close_for(connection, Refusal::Late, self.epoch);
        }
    }
}

/// Who is to blame, if that is known, and for what; nothing when the peer just left.
type Unheard = (Option<Culprit>, Option<Refusal>);

/// Hears the hello and judges it.
async fn listen(core: &Core, door: &Door, connection: &quinn::Connection) -> Result<(Hello, SendStream, RecvStream), Unheard> {
    let certified = certified_by(connection.peer_identity()).map_err(|reason| (None, Some(reason)))?;
    let known = Some(Culprit::Peer(Peer::instance(certified.instance)));
    if !door.certificates.lock().admit(certified.instance, core.seams.now()) {
        return Err((known, Some(Refusal::Handshakes)));
    }
    let (send, mut receive) = connection.accept_bi().await.map_err(|_| (known, None))?;
    let hello = read_hello(&mut receive, None, core.local.cluster.tag()).await.map_err(|reason| (known, reason))?;
    let epoch = core.inbox.epoch();
    let admitted = core.inbox.admission.lock().admit(&hello, certified, epoch);
    // What is certain is the certificate; the role is only said.
    let newer = admitted.map_err(|reason| (known, Some(reason)))?;
    if newer {
        core.supersede(hello.from, hello.incarnation);
    }
    Ok((hello, send, receive))
}

/// Answers the hello. False when that fails, or when another connection of this peer was quicker.
async fn accept(core: &Core, connection: &quinn::Connection, hello: Hello, mut send: SendStream) -> bool {
    if !core.take_connection(&hello, connection) {
        core.refuse(Culprit::Peer(hello.from), connection, Refusal::OldIncarnation);
        return false;
    }
    transport::widen(connection, hello.lane);
    count(&core.inbox.tally().accepted);
    let answer = core.local.hello(hello.from, hello.lane, core.inbox.epoch());
    send_hello(&mut send, &answer, core.local.cluster.tag()).await.is_ok() && send.finish().is_ok()
}

/// Sends a hello as the first frame of its stream.
pub(super) async fn send_hello(send: &mut SendStream, hello: &Hello, tag: u64) -> Result<(), quinn::WriteError> {
    let (class, kind, sequence) = (Class::Hello, 0, 0);
    let head = Head { lane: hello.lane, class, kind, epoch: hello.epoch, incarnation: hello.incarnation, sequence };
    let body = hello.encode();
    send.write_all(&[&head.encode(&body, tag)[..], &body].concat()).await
}

/// Reads a hello, the first frame of its stream; on `lane`, or on the one that its header names. The error is nothing when the stream broke.
pub(super) async fn read_hello(receive: &mut RecvStream, lane: Option<Lane>, tag: u64) -> Result<Hello, Option<Refusal>> {
    let broken = |error: quinn::ReadExactError| match error {
        quinn::ReadExactError::FinishedEarly(_) => Some(Refusal::Garbage),
        quinn::ReadExactError::ReadError(_) => None,
    };
    let mut header = [0; HEADER];
    receive.read_exact(&mut header).await.map_err(broken)?;
    let lane = lane.or(Lane::from_number(header[super::receive::LANE_AT])).ok_or(Some(Refusal::Garbage))?;
    let (head, length) = Head::parse(&header, lane).map_err(Some)?;
    if head.class != Class::Hello || head.sequence != 0 || head.kind != 0 {
        return Err(Some(Refusal::Garbage));
    }
    if length != HELLO {
        return Err(Some(if length > HELLO { Refusal::Oversized } else { Refusal::Garbage }));
    }
    let mut body = [0; HELLO];
    receive.read_exact(&mut body).await.map_err(broken)?;
    Head::verify(&header, &body, tag).map_err(Some)?;
    let hello = Hello::decode(&body).map_err(Some)?;
    if (hello.lane, hello.epoch, hello.incarnation) != (head.lane, head.epoch, head.incarnation) {
        return Err(Some(Refusal::Garbage));
    }
    Ok(hello)
}
