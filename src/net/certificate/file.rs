//! Files with certificates and keys: keys are for their owner only, and a file is replaced at one point.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::CertificateError;

/// Longest file that is read: certificates and keys are a few KiB.
const LENGTH_MAX: u64 = 1 << 20;

fn access(file: &Path, reason: std::io::Error) -> CertificateError {
    CertificateError::Access { file: file.to_path_buf(), reason }
}

/// The text in `file`, which must be its owner's only if it is `secret`.
pub(super) fn read(file: &Path, secret: bool, remedy: &'static str) -> Result<String, CertificateError> {
    let opened = File::open(file).map_err(|reason| match reason.kind() {
        ErrorKind::NotFound => CertificateError::Missing { file: file.to_path_buf(), remedy },
        _ => access(file, reason),
    })?;
    let mode = opened.metadata().map_err(|reason| access(file, reason))?.permissions().mode() & 0o777;
    if secret && mode & 0o077 != 0 {
        return Err(CertificateError::Exposed { file: file.to_path_buf(), mode });
    }
    let mut text = String::new();
    opened.take(LENGTH_MAX).read_to_string(&mut text).map_err(|reason| match reason.kind() {
        ErrorKind::InvalidData => CertificateError::unusable(file, "it is no text"),
        _ => access(file, reason),
    })?;
    Ok(text)
}

fn write(file: &Path, text: &str, secret: bool) -> std::io::Result<()> {
    let mode = if secret { 0o600 } else { 0o644 };
    let mut opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(file)?;
    opened.write_all(text.as_bytes())?;
    opened.sync_all()
}

/// Writes a file that isn't there yet.
pub(super) fn write_new(file: &Path, text: &str, secret: bool) -> Result<(), CertificateError> {
    write(file, text, secret).and_then(|()| sync_folder(file)).map_err(|reason| access(file, reason))
}

/// Writes a secret file in place of one that may be there: readers see the old text or the new one.
pub(super) fn replace(file: &Path, text: &str) -> Result<(), CertificateError> {
    let new = file.with_extension("new");
    // Left by one who didn't get to the end.
    match std::fs::remove_file(&new) {
        Err(reason) if reason.kind() != ErrorKind::NotFound => return Err(access(&new, reason)),
        _ => {}
    }
    write(&new, text, true).map_err(|reason| access(&new, reason))?;
    std::fs::rename(&new, file).and_then(|()| sync_folder(file)).map_err(|reason| access(file, reason))
}

fn sync_folder(file: &Path) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
