//! The state directory: one file that holds key, certificate and authority together, so that no crash leaves a mixed
//! pair. It belongs to one machine: a copy is put aside, and the machine enrols by itself.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use preflight_core::plan::sha256;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

/// The agent's key and certificate, and the authority that it trusts.
#[derive(Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The private key, PKCS#8. Its `Debug` shows nothing of it.
    pub key: PrivatePkcs8KeyDer<'static>,
    /// The leaf.
    pub certificate: CertificateDer<'static>,
    /// The authority's root, the one that the controller must chain to.
    pub authority: CertificateDer<'static>,
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self { key: self.key.clone_key(), certificate: self.certificate.clone(), authority: self.authority.clone() }
    }
}

/// What the state directory held.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// What this machine stored.
    Credentials(Credentials),
    /// Something of no use here; it is kept under another name.
    PutAside {
        /// What was wrong with it.
        why: &'static str,
        /// Where it is now.
        to: PathBuf,
    },
}

/// An operation on a file that failed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Reading or writing failed.
    #[error("{} {}: {error}", operation, path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What came of it.
        error: io::Error,
    },
    /// Two agents would share one certificate, which the controller takes for a stolen key.
    #[error("another preflight-agent uses the state directory {}; give each its own", path.display())]
    InUse {
        /// Which directory.
        path: PathBuf,
    },
}

/// A state directory, locked for this process.
#[derive(Debug)]
pub struct StateDir {
    dir: PathBuf,
    machine: String,
    _lock: File,
}

impl StateDir {
    const FILE: &'static str = "identity.pem";
    const TEMPORARY: &'static str = "identity.pem.new";
    const MACHINE: &'static str = "machine ";

    /// Opens the directory, making it (0700) if it does not exist. `machine` is [`machine_fingerprint`]'s.
    pub fn open(dir: &Path, machine: String) -> Result<Self, StateError> {
        let at = |operation, path: &Path| {
            let path = path.to_owned();
            move |error| StateError::Io { operation, path, error }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at("cannot make", dir))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.map_err(at("cannot open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), machine, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(StateError::InUse { path: dir.to_owned() }),
            Err(fs::TryLockError::Error(source)) => Err(at("cannot lock", &path)(source)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Reads what is there. What is broken or another machine's is put aside.
    pub fn load(&self) -> Result<Found, StateError> {
        let path = self.dir.join(Self::FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(StateError::Io { operation: "cannot read", path, error }),
        };
        match parse(&text) {
            None => self.put_aside("corrupt"),
            Some((machine, _)) if machine != self.machine => self.put_aside("another-machine"),
            Some((_, credentials)) => {
                // A file that was copied or restored may have lost its mode.
                let tightened = fs::set_permissions(&path, Permissions::from_mode(0o600));
                tightened.map_err(|error| StateError::Io { operation: "cannot make private", path, error })?;
                Ok(Found::Credentials(credentials))
            }
        }
    }

    /// Replaces what is there, whole or not at all.
    pub fn store(&self, credentials: &Credentials) -> Result<(), StateError> {
        let (path, temporary) = (self.dir.join(Self::FILE), self.dir.join(Self::TEMPORARY));
        let text = render(&self.machine, credentials);
        let write = || -> io::Result<()> {
            // A leftover may have another mode, and `mode` holds for new files only.
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|error| StateError::Io { operation: "cannot write", path: path.clone(), error })
    }

    /// Renames what is there to `identity.pem.WHY`.
    fn put_aside(&self, why: &'static str) -> Result<Found, StateError> {
        let (path, to) = (self.dir.join(Self::FILE), self.dir.join(format!("{}.{why}", Self::FILE)));
        match fs::rename(&path, &to) {
            Ok(()) => Ok(Found::PutAside { why, to }),
            Err(error) => Err(StateError::Io { operation: "cannot put aside", path, error }),
        }
    }
}

/// What tells this machine from others: SHA-256 over `/etc/machine-id`, the host's name and, in Kubernetes, the pod's
/// uid (`POD_UID`). A host that is renamed enrols anew.
pub fn machine_fingerprint() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let pod = std::env::var("POD_UID").unwrap_or_default();
    let parts = [read("/etc/machine-id"), read("/proc/sys/kernel/hostname"), pod];
    sha256(parts.join("\n").as_bytes())
}

/// PEM readers skip text outside the sections (RFC 7468, 2), so the machine goes before them.
fn render(machine: &str, credentials: &Credentials) -> String {
    let section = |label: &str, der: &[u8]| {
        let encoded = base64(der);
        let lines = encoded.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n");
        format!("-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n")
    };
    [
        "preflight-agent's key and certificate: private, of use on one machine only\n".to_owned(),
        format!("{}{machine}\n", StateDir::MACHINE),
        section("PRIVATE KEY", credentials.key.secret_pkcs8_der()),
        section("CERTIFICATE", &credentials.certificate),
        section("CERTIFICATE", &credentials.authority),
    ]
    .concat()
}

fn parse(text: &[u8]) -> Option<(String, Credentials)> {
    let mut lines = std::str::from_utf8(text).ok()?.lines();
    let machine = lines.find_map(|line| line.strip_prefix(StateDir::MACHINE))?.to_owned();
    let key = PrivatePkcs8KeyDer::from_pem_slice(text).ok()?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().ok()?;
    let [certificate, authority] = certificates.try_into().ok()?;
    Some((machine, Credentials { key, certificate, authority }))
}

/// Base64 (RFC 4648, 4) with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = (group >> (18 - 6 * place)) as usize & 63;
            text.push(if place <= chunk.len() { char::from(ALPHABET[digit]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(size: usize) -> Credentials {
        Credentials {
            key: PrivatePkcs8KeyDer::from(vec![1; size]),
            certificate: CertificateDer::from(vec![2; size + 1]),
            authority: CertificateDer::from(vec![3; size + 2]),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_stored_comes_back_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let state = StateDir::open(&path, "m1".into()).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(state.load().unwrap(), Found::Nothing);
        for size in 40..44 {
            state.store(&credentials(size)).unwrap();
            assert_eq!(state.load().unwrap(), Found::Credentials(credentials(size)));
        }
        assert_eq!(mode(&path.join(StateDir::FILE)), 0o600);
        fs::set_permissions(path.join(StateDir::FILE), Permissions::from_mode(0o644)).unwrap();
        state.load().unwrap();
        assert_eq!(mode(&path.join(StateDir::FILE)), 0o600);
        assert!(!format!("{:?}", credentials(40)).contains("[1, 1"), "the key does not reach a log");
    }

    #[test]
    fn a_leftover_of_a_crash_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path(), "m1".into()).unwrap();
        state.store(&credentials(40)).unwrap();
        let leftover = dir.path().join(StateDir::TEMPORARY);
        fs::write(&leftover, "half of a").unwrap();
        fs::set_permissions(&leftover, Permissions::from_mode(0o666)).unwrap();
        assert_eq!(state.load().unwrap(), Found::Credentials(credentials(40)));
        state.store(&credentials(41)).unwrap();
        assert_eq!(state.load().unwrap(), Found::Credentials(credentials(41)));
        assert_eq!(mode(&dir.path().join(StateDir::FILE)), 0o600);
    }

    #[test]
    fn a_copy_on_another_machine_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        StateDir::open(dir.path(), "m1".into()).unwrap().store(&credentials(40)).unwrap();
        let copy = StateDir::open(dir.path(), "m2".into()).unwrap();
        let to = dir.path().join("identity.pem.another-machine");
        assert_eq!(copy.load().unwrap(), Found::PutAside { why: "another-machine", to: to.clone() });
        assert_eq!(mode(&to), 0o600);
        assert_eq!(copy.load().unwrap(), Found::Nothing);
    }

    #[test]
    fn what_is_corrupt_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path(), "m1".into()).unwrap();
        state.store(&credentials(40)).unwrap();
        let whole = fs::read(dir.path().join(StateDir::FILE)).unwrap();
        for text in [&b""[..], b"\xff\xfe", &whole[..whole.len() / 2], &whole[100..]] {
            fs::write(dir.path().join(StateDir::FILE), text).unwrap();
            let Found::PutAside { why: "corrupt", to } = state.load().unwrap() else { panic!() };
            assert_eq!(fs::read(to).unwrap(), text);
        }
    }

    #[test]
    fn two_agents_cannot_share_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path(), "m1".into()).unwrap();
        assert!(matches!(StateDir::open(dir.path(), "m1".into()), Err(StateError::InUse { .. })));
        drop(first);
        assert!(StateDir::open(dir.path(), "m1".into()).is_ok());
    }
}
