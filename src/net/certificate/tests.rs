//! Certificates: what is made reads back, what is wrong is refused with the file and the remedy.

use std::os::unix::fs::PermissionsExt;

use super::*;

const CLUSTER: ClusterId = ClusterId(*b"certified ones..");
const WALL_MS: u64 = 1_800_000_000_000;
const YEAR: Duration = Duration::from_secs(365 * 86_400);

fn saved() -> (tempfile::TempDir, Authority) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::create(CLUSTER, WALL_MS, 10 * YEAR).unwrap();
    authority.save(folder.path()).unwrap();
    authority.renew(folder.path(), ThreadId(2), WALL_MS, YEAR).unwrap();
    (folder, authority)
}

fn told(result: Result<Credentials, CertificateError>) -> String {
    result.err().map(|error| error.to_string()).unwrap_or_else(|| "no error".into())
}

#[test]
fn what_was_saved_loads_and_names_its_instance() {
    let (folder, _) = saved();
    let credentials = Credentials::load(folder.path(), ThreadId(2)).unwrap();
    assert_eq!(credentials.certified, Certified { cluster: CLUSTER, instance: ThreadId(2) });
    assert_eq!(credentials.ends_at, (WALL_MS / 1000) + YEAR.as_secs());
    for (name, mode) in [("ca.pem", 0o644), ("ca-key.pem", 0o600), ("instance-2.pem", 0o600)] {
        assert_eq!(folder.path().join(name).metadata().unwrap().permissions().mode() & 0o777, mode, "{name}");
    }
}

#[test]
fn renewal_replaces_the_certificate_under_the_same_authority() {
    let (folder, _) = saved();
    let before = Credentials::load(folder.path(), ThreadId(2)).unwrap();
    let authority = Authority::load(folder.path(), CLUSTER).unwrap();
    authority.renew(folder.path(), ThreadId(2), WALL_MS + 1000, 2 * YEAR).unwrap();
    let after = Credentials::load(folder.path(), ThreadId(2)).unwrap();
    assert!(after.ends_at > before.ends_at && after.certificate != before.certificate && after.authority == before.authority);
    // An authority is never made over another.
    assert!(authority.save(folder.path()).is_err());
}

#[test]
fn errors_name_the_file_and_the_remedy() {
    let (folder, _) = saved();
    let own = instance_file(folder.path(), ThreadId(2));
    let missing = told(Credentials::load(folder.path(), ThreadId(3)));
    assert!(missing.contains("instance-3.pem is missing") && missing.contains("copy it"), "{missing}");
    std::fs::copy(&own, instance_file(folder.path(), ThreadId(3))).unwrap();
    let other = told(Credentials::load(folder.path(), ThreadId(3)));
    assert!(other.contains("certificate of instance 2"), "{other}");
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o640)).unwrap();
    let exposed = told(Credentials::load(folder.path(), ThreadId(2)));
    assert!(exposed.contains("instance-2.pem") && exposed.contains("640") && exposed.contains("chmod 600"), "{exposed}");
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = std::fs::read_to_string(&own).unwrap();
    std::fs::write(&own, &text[..text.len() / 3]).unwrap();
    let torn = told(Credentials::load(folder.path(), ThreadId(2)));
    assert!(torn.contains("instance-2.pem") && torn.contains("no certificate"), "{torn}");
    std::fs::write(&own, [0xff, 0xfe]).unwrap();
    assert!(told(Credentials::load(folder.path(), ThreadId(2))).contains("no text"));
}

#[test]
fn another_authority_and_another_key_are_found_when_loading() {
    let (folder, authority) = saved();
    let (other_folder, other) = saved();
    let path = Path::new("x.pem");
    let (own, foreign) = (authority.issue(ThreadId(2), WALL_MS, YEAR).unwrap(), other.issue(ThreadId(2), WALL_MS, YEAR).unwrap());
    let from = |authority: &str, own: &str| told(Credentials::from_pem(Path::new("ca.pem"), authority, path, own));
    assert!(from(authority.certificate(), &foreign).contains("not signed by the authority in ca.pem"));
    let (certificate, key) = (own.split_once("-----BEGIN PRIVATE").unwrap().0, foreign.split_once("-----BEGIN PRIVATE").unwrap().1);
    let mixed = from(authority.certificate(), &format!("{certificate}-----BEGIN PRIVATE{key}"));
    assert!(mixed.contains("x.pem can't be used"), "{mixed}");
    std::fs::copy(authority_key_file(other_folder.path()), authority_key_file(folder.path())).unwrap();
    let error = Authority::load(folder.path(), CLUSTER).err().unwrap().to_string();
    assert!(error.contains("ca-key.pem is not its key"), "{error}");
}

#[test]
fn only_exact_names_count() {
    let key = KeyPair::generate().unwrap();
    let named = |names: &[&str]| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.iter().map(|name| SanType::URI(Ia5String::try_from(*name).unwrap())).collect();
        certified(params.self_signed(&key).unwrap().der())
    };
    let good = format!("regroup://{CLUSTER}/2");
    assert_eq!(named(&[&good]), Some(Certified { cluster: CLUSTER, instance: ThreadId(2) }));
    let upper = format!("regroup://{}/2", CLUSTER.to_string().to_uppercase());
    let bad = [
        format!("regroup://{CLUSTER}/0"),
        format!("regroup://{CLUSTER}/65"),
        format!("regroup://{CLUSTER}/+2"),
        format!("regroup://{CLUSTER}/02"),
        format!("regroup://{CLUSTER}/2/3"),
        format!("http://{CLUSTER}/2"),
        upper,
        "regroup://é/2".replace('é', "e"),
    ];
    for name in &bad {
        assert_eq!(named(&[name]), None, "{name}");
    }
    assert_eq!(named(&[&good, &good]), None);
    assert_eq!(named(&[]), None);
    assert_eq!(certified(&CertificateDer::from(vec![0x30, 0x82, 0xff, 0xff])), None);
}
