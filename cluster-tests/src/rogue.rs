//! A peer that says what it likes on the interconnect: raw QUIC with any certificate, to see that links refuse it.
//!
//! Also [`Cluster`], the authority and folder of certificates that tests of links share.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, SanType};
use regroup::base::{ClusterId, Epoch, Incarnation, Seams, ThreadId};
use regroup::net::certificate::{Authority, Credentials, authority_key_file};
use regroup::net::frame::{Class, HEADER, Head};
use regroup::net::hello::{Hello, Local};
use regroup::net::quic::{QuicLink, QuicOptions};
use regroup::net::{Lane, Peer, Refusal};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tempfile::TempDir;

/// A day.
pub const DAY: Duration = Duration::from_secs(86_400);
/// The cluster of all tests of links.
pub const CLUSTER: ClusterId = ClusterId(*b"links under test");

/// Now, in milliseconds since the Unix epoch.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970").as_millis() as u64
}

/// A cluster's authority and a folder with its files.
pub struct Cluster {
    /// Makes certificates.
    pub authority: Authority,
    folder: TempDir,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster::new()
    }
}

impl Cluster {
    /// A new authority.
    pub fn new() -> Cluster {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::create(CLUSTER, wall_ms(), DAY).expect("an authority");
        authority.save(folder.path()).expect("the authority is saved");
        Cluster { authority, folder }
    }

    /// Certificate and key of an instance, as PEM.
    pub fn issue(&self, instance: u16) -> String {
        self.authority.issue(ThreadId(instance), wall_ms(), DAY).expect("a certificate")
    }

    /// The same, expired.
    pub fn issue_expired(&self, instance: u16) -> String {
        let long_ago = wall_ms() - 30 * DAY.as_millis() as u64;
        self.authority.issue(ThreadId(instance), long_ago, DAY).expect("a certificate")
    }

    /// A certificate with any names, signed by this authority.
    pub fn issue_names(&self, names: &[String]) -> String {
        let key = std::fs::read_to_string(authority_key_file(self.folder.path())).expect("the authority's key");
        let mut signer = CertificateParams::default();
        signer.distinguished_name = DistinguishedName::new();
        signer.distinguished_name.push(DnType::CommonName, format!("regroup cluster {CLUSTER}"));
        let issuer = Issuer::new(signer, KeyPair::from_pem(&key).expect("a key"));
        let own = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.iter().map(|name| SanType::URI(Ia5String::try_from(name.as_str()).expect("ASCII"))).collect();
        let certificate = params.signed_by(&own, &issuer).expect("a certificate");
        format!("{}{}", certificate.pem(), own.serialize_pem())
    }

    /// Credentials of an instance.
    pub fn credentials(&self, instance: u16) -> Credentials {
        let own = self.issue(instance);
        Credentials::from_pem(Path::new("ca.pem"), self.authority.certificate(), Path::new("own.pem"), &own).expect("credentials")
    }

    /// A link on a free port of the loopback interface.
    pub fn link(&self, seams: &Seams, peer: Peer, incarnation: u64, epoch: u64, options: QuicOptions) -> QuicLink {
        let local = Local { cluster: CLUSTER, peer, incarnation: Incarnation(incarnation) };
        let credentials = self.credentials(peer.instance.0);
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        QuicLink::start(seams, local, Epoch(epoch), anywhere, credentials, options).expect("a link")
    }
}

/// Believes any server.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// How a rogue sets up QUIC, with the certificate and key in `pem` or without any; `protocol` is what it wants to speak (ALPN).
pub fn client_config(pem: Option<&str>, protocol: &[u8]) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(provider)));
    let mut config = match pem {
        Some(pem) => {
            let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
            let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a key");
            config.with_client_auth_cert(vec![certificate], key).expect("the key fits")
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    config.enable_early_data = true;
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).expect("TLS 1.3 is there")))
}

/// A client that says what it likes.
pub struct Rogue {
    /// Its endpoint.
    pub endpoint: Endpoint,
    /// Its connection to the link under test.
    pub connection: Connection,
    sequence: u64,
}

impl Rogue {
    /// Connects with the certificate and key in `pem`; TLS may yet fail on the other side.
    pub async fn connect(to: SocketAddr, pem: Option<&str>) -> Rogue {
        let endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a socket");
        let config = client_config(pem, b"regroup/1");
        let connection = endpoint.connect_with(config, to, "regroup").expect("an address").await.expect("QUIC");
        Rogue { endpoint, connection, sequence: 0 }
    }

    /// Connects and says a hello that is accepted.
    pub async fn accepted(to: SocketAddr, pem: &str, hello: &Hello) -> (Rogue, SendStream, RecvStream) {
        let rogue = Rogue::connect(to, Some(pem)).await;
        let (mut send, mut receive) = rogue.connection.open_bi().await.expect("a stream");
        send.write_all(&hello_frame(hello)).await.expect("hello");
        let mut answer = vec![0; hello_frame(hello).len()];
        receive.read_exact(&mut answer).await.expect("the hello is answered");
        (rogue, send, receive)
    }

    /// Sends these bytes as the first of the first stream.
    pub async fn say(&self, bytes: &[u8]) {
        let (mut send, _receive) = self.connection.open_bi().await.expect("a stream");
        send.write_all(bytes).await.expect("said");
        let _ = send.finish();
        self.connection.closed().await;
    }

    /// Waits until the other side hangs up; the refusal that it gave.
    pub async fn hung_up(&self) -> Option<Refusal> {
        match self.connection.closed().await {
            quinn::ConnectionError::ApplicationClosed(closed) => Refusal::from_number(closed.error_code.into_inner()),
            _ => None,
        }
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }
}

/// A hello from `from` to instance 1 in epoch 5.
pub fn hello(from: Peer, incarnation: u64, lane: Lane) -> Hello {
    let to = Peer::instance(ThreadId(1));
    Hello { cluster: CLUSTER, from, to, lane, incarnation: Incarnation(incarnation), epoch: Epoch(5) }
}

/// A hello as it goes over the wire.
pub fn hello_frame(hello: &Hello) -> Vec<u8> {
    let (class, kind, sequence) = (Class::Hello, 0, 0);
    let head = Head { lane: hello.lane, class, kind, epoch: hello.epoch, incarnation: hello.incarnation, sequence };
    frame(&head, &hello.encode())
}

/// A frame as it goes over the wire, in our cluster.
pub fn frame(head: &Head, body: &[u8]) -> Vec<u8> {
    [&head.encode(body, CLUSTER.tag())[..], body].concat()
}

/// Writes `length` into a frame's header as that of its body, with a checksum that fits.
pub fn claim_length(frame: &mut [u8], length: u32) {
    use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};
    frame[16..20].copy_from_slice(&length.to_le_bytes());
    let sum = xxh3_64_with_seed(&frame[8..HEADER], xxh3_64(&frame[HEADER..]) ^ CLUSTER.tag());
    frame[..8].copy_from_slice(&sum.to_le_bytes());
}
