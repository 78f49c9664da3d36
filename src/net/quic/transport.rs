//! How QUIC is set up for the interconnect, and what its errors mean to us.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{AckFrequencyConfig, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use super::{QuicError, QuicOptions};
use crate::base::Epoch;
use crate::net::certificate::{Credentials, tls};
use crate::net::frame::HEADER;
use crate::net::hello::Certified;
use crate::net::{DownReason, Lane, Refusal, Role};

/// Requests of a peer that may be in flight: streams on the block lane.
pub(super) const REQUESTS_MAX: u32 = 256;
/// UDP payloads that peers may send us, at least: what fits an Ethernet frame.
const PAYLOAD_MIN: u16 = 1472;
/// Bytes that one stream may have under way: the longest frame, and as much again so that it flows.
const STREAM_WINDOW: u32 = 2 * (HEADER + Lane::Block.body_max()) as u32;
/// Bytes that a connection may have under way once its hello is accepted.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Close code of an orderly end.
const CLOSED: u32 = 0;
/// First of the codes that QUIC has for TLS alerts.
const CRYPTO_ERROR: u64 = 0x100;

/// How much longer than the heartbeat lane the other lanes between two instances bear silence.
const PATIENCE: u32 = 4;

/// The transport of connections that we make to a process of the role `to`, on the lane given; without them, of those that peers make.
fn transport(options: &QuicOptions, made: Option<(Lane, Role)>) -> Arc<TransportConfig> {
    // The shorter of what both sides say counts, and it is the maker that knows the lane.
    let silence = match made {
        Some((Lane::Heartbeat, _) | (_, Role::Guard)) => options.idle_timeout,
        _ => options.idle_timeout * PATIENCE,
    };
    let mut config = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(options.payload_max);
    let mut congestion = CubicConfig::default();
    congestion.initial_window(256 << 10);
    // An idle time-out in range is checked with the options.
    let idle = IdleTimeout::try_from(silence).unwrap_or_else(|_| VarInt::from_u32(2000).into());
    config
        .max_idle_timeout(Some(idle))
        // One of them may be lost. Who accepts doesn't need any: its peer's come.
        .keep_alive_interval(made.map(|_| silence * 2 / 5))
        // Until the hello is accepted a peer may open one stream, for it.
        .max_concurrent_bidi_streams(1u32.into())
        .max_concurrent_uni_streams(0u32.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(STREAM_WINDOW.into())
        .send_window(u64::from(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(Some(256 << 10))
        .datagram_send_buffer_size(64 << 10)
        .initial_rtt(Duration::from_millis(20))
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(Arc::new(congestion));
    if made.is_some_and(|(lane, _)| lane == Lane::Heartbeat) {
        // Quinn acknowledges within 25 ms, so each heartbeat by itself; at once is cheaper than waking up for it later.
        let mut acknowledgements = AckFrequencyConfig::default();
        acknowledgements.ack_eliciting_threshold(0u32.into());
        config.ack_frequency_config(Some(acknowledgements));
    }
    Arc::new(config)
}

/// Lets the accepted peer use what its lane needs.
pub(super) fn widen(connection: &quinn::Connection, lane: Lane) {
    if lane == Lane::Block {
        connection.set_max_concurrent_bi_streams((REQUESTS_MAX + 1).into());
    }
    if lane != Lane::Heartbeat {
        connection.set_receive_window(CONNECTION_WINDOW.into());
    }
}

/// For connections that peers make.
pub(super) fn server(credentials: &Credentials, options: &QuicOptions) -> Result<quinn::ServerConfig, QuicError> {
    let tls = tls::server(credentials).map_err(|error| QuicError::Tls(error.to_string()))?;
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| QuicError::Tls(error.to_string()))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(transport(options, None))
        // A process doesn't move while it lives.
        .migration(false)
        .max_incoming(options.pending_max as usize)
        .incoming_buffer_size(64 << 10)
        .incoming_buffer_size_total(4 << 20);
    Ok(config)
}

/// For a connection on `lane` to the process of the role `to` that `expected` names.
pub(super) fn client(
    credentials: &Credentials,
    options: &QuicOptions,
    expected: Certified,
    (lane, to): (Lane, Role),
) -> Result<quinn::ClientConfig, QuicError> {
    let tls = tls::client(credentials, expected).map_err(|error| QuicError::Tls(error.to_string()))?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| QuicError::Tls(error.to_string()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport(options, Some((lane, to))));
    Ok(config)
}

/// A socket on `bind` with QUIC on it.
pub(super) fn endpoint(bind: SocketAddr, server: quinn::ServerConfig, options: &QuicOptions) -> Result<Endpoint, QuicError> {
    let refused = |reason: std::io::Error| QuicError::Bind { address: bind, reason };
    let runtime = quinn::default_runtime().ok_or(QuicError::NoRuntime)?;
    let socket = UdpSocket::bind(bind).map_err(refused)?;
    // As much as the system allows: bursts of blocks shouldn't be lost in the socket.
    let sized = socket2::SockRef::from(&socket);
    let _ = sized.set_recv_buffer_size(4 << 20);
    let _ = sized.set_send_buffer_size(4 << 20);
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(options.payload_max.max(PAYLOAD_MIN)).map_err(|error| QuicError::Tls(error.to_string()))?;
    Endpoint::new(config, Some(server), socket, runtime).map_err(refused)
}

/// Ends a connection in an orderly way.
pub(super) fn close(connection: &quinn::Connection, epoch: Epoch) {
    connection.close(CLOSED.into(), &epoch.0.to_le_bytes());
}

/// Ends a connection for a reason.
pub(super) fn close_for(connection: &quinn::Connection, reason: Refusal, epoch: Epoch) {
    connection.close((reason as u32).into(), &epoch.0.to_le_bytes());
}

/// The refusal, and the epoch that came with it, that ended a connection or handshake on the other side.
pub(super) fn refused_by_peer(error: &ConnectionError) -> Option<(Refusal, Epoch)> {
    match error {
        ConnectionError::ApplicationClosed(closed) => {
            let epoch = <[u8; 8]>::try_from(&closed.reason[..]).map_or(0, u64::from_le_bytes);
            Some((Refusal::from_number(closed.error_code.into_inner())?, Epoch(epoch)))
        }
        ConnectionError::ConnectionClosed(closed) => Some((of_tls(u64::from(closed.error_code))?, Epoch(0))),
        _ => None,
    }
}

/// The refusal with which this side's TLS ended a handshake.
pub(super) fn refused_by_us(error: &ConnectionError) -> Option<Refusal> {
    match error {
        ConnectionError::TransportError(error) => of_tls(u64::from(error.code)),
        _ => None,
    }
}

/// What a TLS alert means (RFC 8446, section 6).
fn of_tls(code: u64) -> Option<Refusal> {
    match code.checked_sub(CRYPTO_ERROR)? {
        45 => Some(Refusal::Expired),
        // Unknown authority, or one that calls itself ours: its signature doesn't verify.
        48 | 51 => Some(Refusal::Authority),
        // Our verifier, for a certificate that is good but another's.
        49 => Some(Refusal::Instance),
        0..=255 => Some(Refusal::Tls),
        _ => None,
    }
}

/// What the end of a connection means to its maker.
pub(super) fn down_reason(error: &ConnectionError) -> DownReason {
    if let Some((reason, _)) = refused_by_peer(error) {
        return DownReason::Refused(reason);
    }
    match error {
        ConnectionError::TimedOut => DownReason::Silent,
        ConnectionError::Reset => DownReason::Reset,
        ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed | ConnectionError::ConnectionClosed(_) => DownReason::Closed,
        ConnectionError::VersionMismatch | ConnectionError::TransportError(_) | ConnectionError::CidsExhausted => {
            DownReason::Refused(Refusal::Garbage)
        }
    }
}
