//! The tasks around the directory: what is heard, what is given away, what is sent again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{LOOK_EVERY, Shared, epoch, send};
use crate::base::limits::PAGE_SIZE;
use crate::base::{Mode, PageId, ThreadId};
use crate::cache::Cache;
use crate::disk::Buffer;
use crate::grd::message::Block;
use crate::grd::resource::Resource;
use crate::grd::wire::{self, BATCH, Batch, COPY};
use crate::grd::{Input, Verdict, Yielded};
use crate::net::{Arrival, Identity, Lane, Peer, Reply};
use crate::page::verify;

/// Time until a copy that could not be delivered is sent again.
const SEND_AGAIN: Duration = Duration::from_millis(5);

/// Starts the tasks that listen, look after the sessions, and do what was queued under a latch.
pub(super) fn start(shared: &Arc<Shared>) {
    let listener = shared.clone();
    shared.seams.spawn("directory listener", Box::pin(async move { listen(&listener).await }));
    let looker = shared.clone();
    shared.seams.spawn("directory sessions", Box::pin(async move { look(&looker).await }));
    let actor = shared.clone();
    shared.seams.spawn(
        "directory effects",
        Box::pin(async move {
            while !actor.closing.load(Ordering::Acquire) {
                actor.queued.notified().await;
                actor.act();
            }
        }),
    );
}

async fn look(shared: &Arc<Shared>) {
    while !shared.closing.load(Ordering::Acquire) {
        shared.seams.sleep(LOOK_EVERY).await;
        let now = shared.now();
        let mut state = shared.state.lock();
        let epoch = state.grd.epoch();
        for (id, side) in &mut state.sides {
            send(&*shared.link, *id, side.session.look(epoch, now));
        }
    }
}

async fn listen(shared: &Arc<Shared>) {
    while !shared.closing.load(Ordering::Acquire) {
        match shared.link.next().await {
            Arrival::Up { identity } => {
                let now = shared.now();
                if let Some(side) = shared.state.lock().sides.get_mut(&identity.peer.instance) {
                    send(&*shared.link, identity.peer.instance, side.session.again(now));
                }
            }
            Arrival::Frame { from, lane: Lane::Control, kind: BATCH, body, .. } => heard(shared, from, &body),
            Arrival::Frame { from, lane: Lane::Block, kind: COPY, body, reply: Some(reply) } => arrived(shared, from, &body, reply),
            Arrival::Frame { from, lane, kind, .. } => {
                tracing::warn!(peer = %from.peer, ?lane, kind, "a frame that the directory doesn't know");
                shared.refused.fetch_add(1, Ordering::Relaxed);
            }
            Arrival::Down { .. } | Arrival::Refused { .. } => {}
        }
    }
}

fn refuse(shared: &Shared, from: Identity, why: &dyn std::fmt::Display) {
    // Logged once in a while only: whoever sends such things sends many.
    if shared.refused.fetch_add(1, Ordering::Relaxed).is_power_of_two() {
        tracing::warn!(peer = %from.peer, why = %why, "a frame of the directory is refused");
    }
}

fn heard(shared: &Arc<Shared>, from: Identity, body: &[u8]) {
    let batch = match Batch::decode(body) {
        Ok(batch) => batch,
        Err(fault) => return refuse(shared, from, &fault),
    };
    let (id, epoch) = (from.peer.instance, batch.epoch);
    let messages = {
        let mut state = shared.state.lock();
        let Some(side) = state.sides.get_mut(&id).filter(|side| side.incarnation == from.incarnation) else { return };
        shared.clock.fetch_max(batch.clock.0, Ordering::AcqRel);
        side.session.heard(batch)
    };
    for message in messages {
        shared.take(Input::Heard(id, epoch, message), None);
    }
    shared.act();
}

fn arrived(shared: &Arc<Shared>, from: Identity, body: &[u8], reply: Reply) {
    let (block, clock, page) = match wire::decode_copy(body) {
        Ok((block, clock, _, page)) => (block, clock, page),
        Err(fault) => return refuse(shared, from, &fault),
    };
    let id = from.peer.instance;
    let known = shared.state.lock().sides.get(&id).is_some_and(|side| side.incarnation == from.incarnation);
    let Resource::Page(number) = block.resource else { return };
    if !known {
        return;
    }
    // Before it is taken: a copy that isn't whole is sent again.
    if let Err(fault) = verify(page, number, shared.tag) {
        return refuse(shared, from, &fault);
    }
    shared.clock.fetch_max(clock.0.max(block.version.0), Ordering::AcqRel);
    let left = shared.step(Input::Arrived(id, block), Some(Buffer::copy_of(page)));
    if let Some(verdict) = left.verdict {
        // Lost or too late, it is asked for again.
        let _ = reply.send(wire::encode_verdict(verdict, shared.now().clock));
    }
    shared.act();
}

/// Lets the cache obey a notification.
pub(super) fn start_yield(shared: &Arc<Shared>, cache: &Cache, page: PageId, to: Mode, copy: bool) {
    let (shared, cache) = (shared.clone(), cache.clone());
    let seams = shared.seams.clone();
    seams.spawn("yield a page", Box::pin(async move { yield_page(&shared, &cache, page, to, copy).await }));
}

async fn yield_page(shared: &Arc<Shared>, cache: &Cache, page: PageId, to: Mode, copy: bool) {
    let mut outcome = cache.yield_page(page, to, copy).await;
    if copy && matches!(&outcome, Ok(Some(yielded)) if yielded.copy.is_none()) {
        // Held without contents: the home is current, and the requester reads that.
        outcome = cache.yield_page(page, Mode::None, false).await.map(|_| None);
    }
    match outcome {
        Ok(None) => drop(shared.take(Input::Yielded(Resource::Page(page), None), None)),
        Ok(Some(given)) => {
            let yielded = Yielded { version: given.version, dirty: given.dirty, image: given.image };
            shared.take(Input::Yielded(Resource::Page(page), Some(yielded)), given.copy.as_ref());
        }
        // The own log has ended: this instance stops, and is recovered; until then nobody gets the page (rules 7 and 14).
        Err(error) => tracing::error!(%page, %error, "a page can't be given away"),
    }
    shared.act();
}

/// Sends a copy until its receiver has judged it, or is no member any more.
pub(super) fn send_copy(shared: &Arc<Shared>, to: ThreadId, block: Block, page: &Buffer) {
    debug_assert_eq!(page.len(), PAGE_SIZE);
    shared.given.fetch_add(1, Ordering::Relaxed);
    let (shared, page) = (shared.clone(), page[..].to_vec());
    let seams = shared.seams.clone();
    let task = async move {
        loop {
            let now = shared.now();
            let body = wire::encode_copy(&block, now.clock, now.durable, &page);
            let answer = shared.link.request(Peer::instance(to), COPY, body).await;
            let verdict = answer.ok().and_then(|answer| wire::decode_verdict(&answer).ok());
            match verdict {
                Some((verdict @ (Verdict::Taken | Verdict::Void), clock)) => {
                    shared.clock.fetch_max(clock.0, Ordering::AcqRel);
                    shared.take(Input::Judged(block.resource, block.ask, verdict), None);
                    return shared.act();
                }
                Some((Verdict::Later, _)) | None => {}
            }
            let gone = !shared.state.lock().sides.contains_key(&to);
            if gone || shared.closing.load(Ordering::Acquire) {
                return;
            }
            tracing::debug!(%block.resource, to = to.0, epoch = epoch(&shared).0, "a copy is sent again");
            shared.seams.sleep(SEND_AGAIN).await;
        }
    };
    seams.spawn("send a page", Box::pin(task));
}
