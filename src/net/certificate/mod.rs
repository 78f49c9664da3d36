//! Who may speak on the interconnect: a cluster's own authority, and a certificate for each instance.
//!
//! For `clusterctl`, which makes and renews them, and for the real link, which loads them. A certificate names cluster and instance in one
//! URI, `regroup://CLUSTER/INSTANCE`, and nothing else counts: no host names, so addresses may change. An instance's guard uses the
//! instance's.
//!
//! Files: `ca.pem` (the authority's certificate, for everyone), `ca-key.pem` (its key: only for making certificates; may be kept elsewhere),
//! `instance-N.pem` (certificate and key of instance N together, so that renewing replaces both at once). Those with keys are readable
//! by their owner only, and refused otherwise.
//!
//! Validity is judged by TLS with the machine's wall clock. No safety decision hangs on it (rule 5): who is refused for its dates is silent
//! to its peers, no more.

mod file;
pub(super) mod tls;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Refusal;
use super::hello::Certified;
use crate::base::limits::THREADS_MAX;
use crate::base::{ClusterId, ThreadId};

/// How long before it was made a certificate is valid already: clocks of machines differ.
const BEFORE: Duration = Duration::from_secs(300);
/// Scheme of the name.
const SCHEME: &str = "regroup://";

/// Certificates couldn't be made, kept or loaded. Says which file, what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file isn't there.
    #[error("{} is missing: {remedy}", file.display())]
    Missing {
        /// Which file.
        file: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// The system refused to read or write the file.
    #[error("can't access {}: {reason}", file.display())]
    Access {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// Others than its owner may read the key.
    #[error("{} holds a private key, but its mode is {mode:o}: make it 600 (chmod 600), and renew it if others may have read it", file.display())]
    Exposed {
        /// Which file.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The contents are no certificate or key, or not the right one.
    #[error("{} can't be used: {what}; {remedy}", file.display())]
    Unusable {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A certificate couldn't be made.
    #[error("can't make a certificate: {0}")]
    Making(String),
}

impl CertificateError {
    fn unusable(file: &Path, what: impl Into<String>) -> CertificateError {
        let remedy = "restore it, or renew the instance's certificate on the machine that has the authority's key";
        CertificateError::Unusable { file: file.to_path_buf(), what: what.into(), remedy }
    }

    fn making(error: rcgen::Error) -> CertificateError {
        CertificateError::Making(error.to_string())
    }
}

/// Where the authority's certificate lies.
pub fn authority_file(folder: &Path) -> PathBuf {
    folder.join("ca.pem")
}

/// Where the authority's key lies.
pub fn authority_key_file(folder: &Path) -> PathBuf {
    folder.join("ca-key.pem")
}

/// Where certificate and key of `instance` lie.
pub fn instance_file(folder: &Path, instance: ThreadId) -> PathBuf {
    folder.join(format!("instance-{}.pem", instance.0))
}

/// A cluster's authority: makes certificates.
pub struct Authority {
    cluster: ClusterId,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority for `cluster`, valid for `valid_for` from `wall_ms` on (milliseconds since the Unix epoch).
    ///
    /// # Errors
    /// [`CertificateError::Making`].
    pub fn create(cluster: ClusterId, wall_ms: u64, valid_for: Duration) -> Result<Authority, CertificateError> {
        let key = KeyPair::generate().map_err(CertificateError::making)?;
        let mut params = authority_params(cluster);
        (params.not_before, params.not_after) = period(wall_ms, valid_for)?;
        let certificate = params.self_signed(&key).map_err(CertificateError::making)?.pem();
        Ok(Authority { cluster, certificate, issuer: Issuer::new(params, key) })
    }

    /// Writes `ca.pem` and `ca-key.pem` into `folder`.
    ///
    /// # Errors
    /// [`CertificateError::Access`], also when one of them is there already: making certificates anew needs the old authority.
    pub fn save(&self, folder: &Path) -> Result<(), CertificateError> {
        file::write_new(&authority_key_file(folder), &self.issuer.key().serialize_pem(), true)?;
        file::write_new(&authority_file(folder), &self.certificate, false)
    }

    /// The authority of `cluster` that was saved into `folder`.
    ///
    /// # Errors
    /// Which file is missing or wrong.
    pub fn load(folder: &Path, cluster: ClusterId) -> Result<Authority, CertificateError> {
        let remedy = "certificates are made where clusterctl init ran, or wherever ca-key.pem was moved to";
        let key_file = authority_key_file(folder);
        let key = KeyPair::from_pem(&file::read(&key_file, true, remedy)?)
            .map_err(|error| CertificateError::unusable(&key_file, error.to_string()))?;
        let certificate = file::read(&authority_file(folder), false, remedy)?;
        let issuer = Issuer::new(authority_params(cluster), key);
        let authority = Authority { cluster, certificate, issuer };
        authority.check_own_key(folder)?;
        Ok(authority)
    }

    /// Whether what this key signs is signed by the certificate beside it.
    fn check_own_key(&self, folder: &Path) -> Result<(), CertificateError> {
        let file = authority_file(folder);
        let der = CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .map_err(|error| CertificateError::unusable(&file, format!("no certificate in it: {error}")))?;
        let parsed = parse(&der).ok_or_else(|| CertificateError::unusable(&file, "not an X.509 certificate"))?;
        if parsed.public_key().subject_public_key.data != self.issuer.key().public_key_raw() {
            return Err(CertificateError::unusable(&file, "ca-key.pem is not its key"));
        }
        Ok(())
    }

    /// The authority's certificate, as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Certificate and key of `instance`, as PEM, valid for `valid_for` from `wall_ms` on.
    ///
    /// # Errors
    /// [`CertificateError::Making`].
    pub fn issue(&self, instance: ThreadId, wall_ms: u64, valid_for: Duration) -> Result<String, CertificateError> {
        let key = KeyPair::generate().map_err(CertificateError::making)?;
        let name = format!("{SCHEME}{}/{}", self.cluster, instance.0);
        let name = Ia5String::try_from(name).map_err(CertificateError::making)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(name)];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("regroup instance {}", instance.0));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = period(wall_ms, valid_for)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(CertificateError::making)?;
        Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
    }

    /// Makes a certificate for `instance` and writes `instance-N.pem` into `folder`, replacing an earlier one at one point: how certificates
    /// are renewed. A running process takes the new one when it is told to (`QuicLink::renew`).
    ///
    /// # Errors
    /// [`CertificateError::Making`], [`CertificateError::Access`].
    pub fn renew(&self, folder: &Path, instance: ThreadId, wall_ms: u64, valid_for: Duration) -> Result<(), CertificateError> {
        file::replace(&instance_file(folder, instance), &self.issue(instance, wall_ms, valid_for)?)
    }
}

/// What distinguishes a cluster's authority; with its key this is all that signing needs.
fn authority_params(cluster: ClusterId) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("regroup cluster {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn period(wall_ms: u64, valid_for: Duration) -> Result<(OffsetDateTime, OffsetDateTime), CertificateError> {
    let at = |seconds: u64| {
        let seconds = i64::try_from(seconds).ok();
        seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()).filter(|at| at.year() < 9999)
    };
    let now = wall_ms / 1000;
    let period = at(now.saturating_sub(BEFORE.as_secs())).zip(at(now.saturating_add(valid_for.as_secs())));
    period.ok_or_else(|| CertificateError::Making(format!("no such time: {valid_for:?} from {wall_ms} ms on")))
}

/// What a process shows its peers, and by what it judges theirs.
pub struct Credentials {
    /// Cluster and instance that the certificate names.
    pub certified: Certified,
    /// When the certificate ends, in seconds since the Unix epoch.
    pub ends_at: u64,
    pub(super) authority: CertificateDer<'static>,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// What lies in `folder` for `instance`.
    ///
    /// # Errors
    /// Which file is missing or wrong, and what to do. An expired certificate is loaded: peers will refuse it, and logs say so.
    pub fn load(folder: &Path, instance: ThreadId) -> Result<Credentials, CertificateError> {
        let remedy = "copy it from the machine where the cluster was made, or make one there";
        let (authority_file, own_file) = (authority_file(folder), instance_file(folder, instance));
        let authority = file::read(&authority_file, false, remedy)?;
        let own = file::read(&own_file, true, remedy)?;
        let credentials = Credentials::from_pem(&authority_file, &authority, &own_file, &own)?;
        if credentials.certified.instance != instance {
            let what = format!("it is the certificate of instance {}", credentials.certified.instance.0);
            return Err(CertificateError::unusable(&own_file, what));
        }
        Ok(credentials)
    }

    /// Credentials from the contents of the two files, which are named in errors.
    ///
    /// # Errors
    /// Which of the two is wrong.
    pub fn from_pem(authority_file: &Path, authority: &str, own_file: &Path, own: &str) -> Result<Credentials, CertificateError> {
        let certificate_in = |file: &Path, text: &str| {
            CertificateDer::from_pem_slice(text.as_bytes())
                .map_err(|error| CertificateError::unusable(file, format!("no certificate in it: {error}")))
        };
        let authority = certificate_in(authority_file, authority)?;
        let certificate = certificate_in(own_file, own)?;
        let key = PrivateKeyDer::from_pem_slice(own.as_bytes())
            .map_err(|error| CertificateError::unusable(own_file, format!("no private key in it: {error}")))?;
        let certified = certified(&certificate)
            .ok_or_else(|| CertificateError::unusable(own_file, "its certificate names no instance of a cluster"))?;
        let ends_at = parse(&certificate).map_or(0, |parsed| parsed.validity().not_after.timestamp().max(0) as u64);
        let credentials = Credentials { certified, ends_at, authority, certificate, key };
        tls::server(&credentials).map_err(|error| CertificateError::unusable(own_file, error.to_string()))?;
        tls::check_authority(&credentials).map_err(|error| {
            CertificateError::unusable(own_file, format!("not signed by the authority in {}: {error}", authority_file.display()))
        })?;
        Ok(credentials)
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(certificate).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, parsed)| parsed)
}

/// Cluster and instance that a certificate names: exactly one name, in exactly the form that [`Authority::issue`] gives it.
pub fn certified(certificate: &CertificateDer<'_>) -> Option<Certified> {
    let parsed = parse(certificate)?;
    let names = parsed.subject_alternative_name().ok()??;
    let [GeneralName::URI(name)] = names.value.general_names[..] else { return None };
    let (cluster, instance) = name.strip_prefix(SCHEME)?.split_once('/')?;
    let number: u16 = instance.parse().ok().filter(|number| (1..=THREADS_MAX).contains(number))?;
    let bytes = cluster.as_bytes();
    if bytes.len() != 32 || !bytes.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let id = u128::from_str_radix(cluster, 16).ok()?;
    let certified = Certified { cluster: ClusterId(id.to_be_bytes()), instance: ThreadId(number) };
    (name == format!("{SCHEME}{}/{number}", certified.cluster)).then_some(certified)
}

/// What a peer's certificate proves, as QUIC hands it over after the handshake.
pub(super) fn certified_by(identity: Option<Box<dyn std::any::Any>>) -> Result<Certified, Refusal> {
    let chain = identity.and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    chain.and_then(|chain| certified(chain.first()?)).ok_or(Refusal::Name)
}

#[cfg(test)]
mod tests;
