//! Certificates that origins are trusted for.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::{self, RootCertStore};

/// Who is trusted to be an origin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OriginTls {
    /// Certificates to trust besides the system's; each can be a root.
    pub ca: Vec<CertificateDer<'static>>,
}

/// Why a file does not say who is trusted.
#[derive(Debug, thiserror::Error)]
pub(super) enum CaError {
    /// It cannot be read, or is no PEM.
    #[error("cannot read {path}: {error}")]
    File { path: String, error: pem::Error },
    /// It has something else, or nothing.
    #[error("{0} holds no certificate; it must be PEM")]
    Empty(String),
    /// A certificate in it cannot be a root.
    #[error("{path} holds a certificate that cannot be used: {error}")]
    Certificate { path: String, error: rustls::Error },
}

impl OriginTls {
    pub(super) fn read(ca: Option<&Path>) -> Result<Self, CaError> {
        let Some(path) = ca else {
            return Ok(Self::default());
        };
        let name = path.display().to_string();
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        let ca: Vec<CertificateDer<'static>> = match read {
            Ok(ca) => ca,
            Err(error) => return Err(CaError::File { path: name, error }),
        };
        if ca.is_empty() {
            return Err(CaError::Empty(name));
        }
        let mut roots = RootCertStore::empty();
        for certificate in &ca {
            if let Err(error) = roots.add(certificate.clone()) {
                return Err(CaError::Certificate { path: name, error });
            }
        }
        Ok(Self { ca })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content: &str, expected: Result<usize, &str>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        std::fs::write(&path, content).unwrap();
        let found = OriginTls::read(Some(&path));
        match (&found, expected) {
            (Ok(found), Ok(count)) => assert_eq!(found.ca.len(), count),
            (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
            _ => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn a_file_holds_one_certificate_or_more() {
        let ca = include_str!("../../testdata/origin-ca.pem");
        check(ca, Ok(1));
        check(&[ca, ca].concat(), Ok(2));
        check("", Err("holds no certificate"));
        check(
            include_str!("../../testdata/ec_pkcs8.pem"),
            Err("holds no certificate"),
        );
        check("-----BEGIN CERTIFICATE-----\n$", Err("cannot read"));
        check(
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            Err("cannot be used"),
        );
        let missing = OriginTls::read(Some(Path::new("/nowhere/ca"))).unwrap_err();
        assert!(
            missing.to_string().contains("cannot read /nowhere/ca"),
            "{missing}"
        );
        assert_eq!(OriginTls::read(None).unwrap(), OriginTls::default());
    }
}
