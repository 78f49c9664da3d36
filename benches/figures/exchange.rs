//! Fetching a block from a peer: a small request, an answer of 8 KiB, over the loopback interface, against bare QUIC in the same run.
//!
//! Bare QUIC is quinn as it comes: mutual TLS with the same certificates, its default transport, a stream for each exchange, answered where it
//! is read; no frames, no checks, no hand-over to another task. `jumbo` is the same with packets of up to 8952 bytes, as they could be on a network
//! that carries them: to see what `payload_max` of the link's options is good for.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, TransportConfig};
use regroup::base::{ClusterId, Epoch, Incarnation, Seams, ThreadId};
use regroup::net::certificate::{Authority, Credentials};
use regroup::net::hello::Local;
use regroup::net::quic::{QuicLink, QuicOptions};
use regroup::net::{Arrival, Lane, Link, Peer, RequestError};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use super::rig::{Numbers, Rig, World};

pub(crate) const CLUSTER: ClusterId = ClusterId(*b"figures figures ");
const BLOCK: usize = 8192;
/// Exchanges at once, for the rate.
const IN_FLIGHT: usize = 64;
/// Longest UDP payload of the jumbo transport.
const PAYLOAD_MAX: u16 = 8952;
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// Now, for certificates.
pub(crate) fn wall_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A link of ours on a free port.
pub(crate) fn link(seams: &Seams, authority: &Authority, instance: u16) -> Arc<QuicLink> {
    let own = authority.issue(ThreadId(instance), wall_ms(), DAY).expect("a certificate");
    let name = Path::new("none");
    let credentials = Credentials::from_pem(name, authority.certificate(), name, &own).expect("credentials");
    let local = Local { cluster: CLUSTER, peer: Peer::instance(ThreadId(instance)), incarnation: Incarnation(1) };
    Arc::new(QuicLink::start(seams, local, Epoch(1), anywhere(), credentials, QuicOptions::default()).expect("a link"))
}

/// One who can be asked for a block.
trait Peers: Clone + Send + 'static {
    fn exchange(&self) -> impl Future<Output = ()> + Send;
}

/// The link under measurement and the peer that answers.
#[derive(Clone)]
struct Ours {
    link: Arc<QuicLink>,
    _peer: Arc<QuicLink>,
}

impl Peers for Ours {
    async fn exchange(&self) {
        let answer = self.link.request(Peer::instance(ThreadId(2)), 1, Bytes::from_static(&[7; 16])).await.expect("an answer");
        assert_eq!(answer.len(), BLOCK);
    }
}

/// Two of our links, connected; the second one's events are taken by one task, as an instance's driver takes them.
async fn ours(seams: &Seams, authority: &Authority) -> Ours {
    let (link, peer) = (link(seams, authority, 1), link(seams, authority, 2));
    link.set_peer(Peer::instance(ThreadId(2)), Some(peer.address()));
    let answering = peer.clone();
    tokio::spawn(async move {
        let page = Bytes::from(vec![5; BLOCK]);
        loop {
            if let Arrival::Frame { lane: Lane::Block, reply: Some(reply), .. } = answering.next().await {
                let _ = reply.send(page.clone());
            }
        }
    });
    while let Err(error) = link.request(Peer::instance(ThreadId(2)), 1, Bytes::new()).await {
        assert_eq!(error, RequestError::NotConnected(Peer::instance(ThreadId(2))));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ours { link, _peer: peer }
}

fn anywhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// A bare connection.
#[derive(Clone)]
struct Bare {
    connection: Connection,
    _endpoints: (Endpoint, Endpoint),
}

impl Peers for Bare {
    async fn exchange(&self) {
        let (mut send, mut receive) = self.connection.open_bi().await.expect("a stream");
        send.write_all(&[7; 16]).await.expect("sent");
        send.finish().expect("open");
        assert_eq!(receive.read_to_end(1 << 20).await.expect("an answer").len(), BLOCK);
    }
}

fn transport(jumbo: bool) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config.max_concurrent_bidi_streams(256u32.into());
    if jumbo {
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(PAYLOAD_MAX);
        config.mtu_discovery_config(Some(mtu)).receive_window((8u32 << 20).into());
    }
    Arc::new(config)
}

/// Bare configurations for both sides, with the same kind of certificates.
fn bare_configs(authority: &Authority, jumbo: bool) -> (quinn::ServerConfig, quinn::ClientConfig) {
    let pem = authority.issue(ThreadId(1), wall_ms(), DAY).expect("a certificate");
    let chain = || vec![CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")];
    let key = || PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a key");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes()).expect("a certificate")).expect("an authority");
    let roots = Arc::new(roots);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build().expect("a verifier");
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(), key())
        .expect("the key fits");
    let client = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_client_auth_cert(chain(), key())
        .expect("the key fits");
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).expect("TLS 1.3")));
    let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).expect("TLS 1.3")));
    server.transport_config(transport(jumbo));
    client.transport_config(transport(jumbo));
    (server, client)
}

async fn bare(authority: &Authority, jumbo: bool) -> Bare {
    let (server, client) = bare_configs(authority, jumbo);
    let endpoint = |server| {
        let mut config = EndpointConfig::default();
        if jumbo {
            config.max_udp_payload_size(PAYLOAD_MAX).expect("in range");
        }
        let socket = std::net::UdpSocket::bind(anywhere()).expect("a socket");
        Endpoint::new(config, server, socket, quinn::default_runtime().expect("tokio")).expect("an endpoint")
    };
    let (near, far) = (endpoint(None), endpoint(Some(server)));
    let accepting = far.clone();
    tokio::spawn(async move {
        let page = Bytes::from(vec![5; BLOCK]);
        let connection = accepting.accept().await.expect("a client").await.expect("connected");
        while let Ok((mut send, mut receive)) = connection.accept_bi().await {
            let page = page.clone();
            tokio::spawn(async move {
                receive.read_to_end(1 << 20).await.expect("a request");
                send.write_chunk(page).await.expect("sent");
                send.finish().expect("open");
            });
        }
    });
    let address = far.local_addr().expect("bound");
    let connection = near.connect_with(client, address, "regroup").expect("an address").await.expect("connected");
    Bare { connection, _endpoints: (near, far) }
}

/// Median time of one exchange at a time, in microseconds.
async fn median(peers: &impl Peers, time: Duration) -> f64 {
    let (mut times, start) = (Vec::new(), Instant::now());
    while start.elapsed() < time {
        let begun = Instant::now();
        peers.exchange().await;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// Exchanges a second with many in flight.
async fn rate(peers: &impl Peers, time: Duration) -> f64 {
    let start = Instant::now();
    let tasks: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let peers = peers.clone();
            tokio::spawn(async move {
                let mut done = 0u64;
                while start.elapsed() < time {
                    peers.exchange().await;
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.expect("the task ends");
    }
    done as f64 / start.elapsed().as_secs_f64()
}

/// All numbers, in turn and several times, as the machine's speed changes while one looks: medians of each.
fn measure(rig: &Rig) -> [(f64, f64); 3] {
    let world = World::new();
    let slice = Duration::from_secs_f64(0.3 * rig.scale);
    world.runtime.block_on(async {
        let authority = Authority::create(CLUSTER, wall_ms(), DAY).expect("an authority");
        let ours = ours(&world.seams, &authority).await;
        let (bare, jumbo) = (bare(&authority, false).await, bare(&authority, true).await);
        // Path MTU discovery and congestion windows settle.
        for _ in 0..3 {
            tokio::join!(rate(&ours, slice / 4), rate(&bare, slice / 4), rate(&jumbo, slice / 4));
        }
        let mut found: [Vec<(f64, f64)>; 3] = Default::default();
        for _ in 0..5 {
            found[0].push((median(&ours, slice).await, rate(&ours, slice).await));
            found[1].push((median(&bare, slice).await, rate(&bare, slice).await));
            found[2].push((median(&jumbo, slice).await, rate(&jumbo, slice).await));
        }
        found.map(|pairs| {
            let middle = |mut values: Vec<f64>| {
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            (middle(pairs.iter().map(|pair| pair.0).collect()), middle(pairs.iter().map(|pair| pair.1).collect()))
        })
    })
}

/// One exchange at a time.
pub(crate) fn one(rig: &Rig) -> Numbers {
    let [ours, bare, jumbo] = measure(rig);
    vec![("ratio", ours.0 / bare.0), ("link_p50_us", ours.0), ("bare_p50_us", bare.0), ("bare_jumbo_p50_us", jumbo.0)]
}

/// Many in flight.
pub(crate) fn many(rig: &Rig) -> Numbers {
    let [ours, bare, jumbo] = measure(rig);
    vec![("ratio", ours.1 / bare.1), ("link_per_second", ours.1), ("bare_per_second", bare.1), ("bare_jumbo_per_second", jumbo.1)]
}

/// Believes any server: the reference has no names to check.
#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
