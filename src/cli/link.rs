//! The interconnect of a process: QUIC with the certificate of its instance, where the configuration says.

use std::net::SocketAddr;
use std::sync::Arc;

use super::CommandError;
use super::config::Config;
use crate::base::{ClusterId, Epoch, Incarnation, Seams};
use crate::net::certificate::Credentials;
use crate::net::hello::Local;
use crate::net::quic::{QuicLink, QuicOptions};
use crate::net::{Link, Peer, Role};

/// Opens this process's end of the interconnect: of the instance, or of its guard.
///
/// # Errors
/// Its certificate can't be used, or is another's; its address can't be had.
pub(super) fn connect(
    config: &Config,
    cluster: ClusterId,
    role: Role,
    life: Incarnation,
    epoch: Epoch,
    seams: &Seams,
) -> Result<Arc<dyn Link>, CommandError> {
    let instance = config.thread();
    let bind: SocketAddr = match role {
        Role::Instance => config.interconnect(),
        Role::Guard => config.guard_listen(),
    };
    let credentials = Credentials::load(&config.interconnect.tls, instance)?;
    let local = Local { cluster, peer: Peer { instance, role }, incarnation: life };
    let link = QuicLink::start(seams, local, epoch, bind, credentials, QuicOptions::default())?;
    Ok(Arc::new(link))
}
