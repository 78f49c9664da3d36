//! The interconnect of a process, as the configuration says.

use std::net::SocketAddr;
use std::sync::Arc;

use super::CommandError;
use super::config::Config;
use crate::base::{ClusterId, Epoch, Incarnation, Seams};
use crate::net::{Link, Peer};

/// Opens this process's end of the interconnect.
pub(super) fn connect(
    config: &Config,
    cluster: ClusterId,
    listen: SocketAddr,
    own: Peer,
    life: Incarnation,
    epoch: Epoch,
    seams: &Seams,
) -> Result<Arc<dyn Link>, CommandError> {
    let _ = (config, cluster, own, life, seams);
    Ok(Arc::new(Nowhere { address: listen, epoch: parking_lot::Mutex::new(epoch) }))
}

/// Until the real link is there.
struct Nowhere {
    address: SocketAddr,
    epoch: parking_lot::Mutex<Epoch>,
}

impl Link for Nowhere {
    fn address(&self) -> SocketAddr {
        self.address
    }
    fn set_peer(&self, _: Peer, _: Option<SocketAddr>) {}
    fn set_epoch(&self, epoch: Epoch) {
        *self.epoch.lock() = epoch;
    }
    fn epoch(&self) -> Epoch {
        *self.epoch.lock()
    }
    fn refuse_below(&self, _: Peer, _: Incarnation) {}
    fn send(&self, to: Peer, _: crate::net::Lane, _: u16, _: bytes::Bytes) -> Result<(), crate::net::SendError> {
        Err(crate::net::SendError::NotConnected(to))
    }
    fn request(&self, to: Peer, _: u16, _: bytes::Bytes) -> crate::base::BoxFuture<Result<bytes::Bytes, crate::net::RequestError>> {
        Box::pin(async move { Err(crate::net::RequestError::NotConnected(to)) })
    }
    fn next(&self) -> crate::base::BoxFuture<crate::net::Arrival> {
        Box::pin(std::future::pending())
    }
    fn counters(&self) -> crate::net::Counters {
        Default::default()
    }
    fn close(&self) {}
}
