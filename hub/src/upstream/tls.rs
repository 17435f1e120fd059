//! TLS with origins: who is trusted, who is not asked, and who the hub says it is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::{ClientCertificatePaths, TlsRules, Verification};
use crate::config;

/// The only protocol that is spoken to origins.
const ALPN: &[u8] = b"http/1.1";

/// What all TLS connections of the hub have in common.
#[derive(Debug)]
pub(crate) struct TlsConfig {
    provider: Arc<CryptoProvider>,
    /// Trusted besides the system's.
    ca: Vec<CertificateDer<'static>>,
    /// Read when first needed, and not at all by a hub whose origins are plain.
    roots: OnceLock<Arc<RootCertStore>>,
}

impl TlsConfig {
    pub(crate) fn new(config: &config::OriginTls) -> Self {
        Self {
            provider: Arc::new(ring::default_provider()),
            ca: config.ca.clone(),
            roots: OnceLock::new(),
        }
    }

    /// Reads files, so it may block.
    fn client(&self, rules: &TlsRules) -> Result<Arc<ClientConfig>, TlsError> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has all cipher suites that are safe");
        let builder = match rules.verification {
            Verification::Check => builder.with_root_certificates(Arc::clone(self.roots())),
            Verification::Skip => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(TrustAnybody(self.schemes()))),
        };
        let mut config = match &rules.client_certificate {
            None => builder.with_no_client_auth(),
            Some(paths) => {
                let (chain, key) = read_pair(paths)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| TlsError::Pair {
                        path: paths.certificate.clone(),
                        error,
                    })?
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self) -> &Arc<RootCertStore> {
        self.roots.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            let (count, _) = roots.add_parsable_certificates(found.certs);
            if count == 0 {
                tracing::warn!(errors = ?found.errors, "the system trusts no certificates, and so only origins with one from origin_tls.ca can be reached over TLS");
            }
            roots.add_parsable_certificates(self.ca.iter().cloned());
            Arc::new(roots)
        })
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Why TLS cannot be spoken with an origin.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// Nothing that a certificate can be for.
    #[error("{0:?} is no name that a certificate may be for")]
    ServerName(String),
    /// The client certificate or its key is not there, or is not PEM.
    #[error("cannot read {}: {error}", path.display())]
    File { path: PathBuf, error: pem::Error },
    /// The client certificate and its key do not belong together.
    #[error("the client certificate {} cannot be used: {error}", path.display())]
    Pair { path: PathBuf, error: rustls::Error },
    /// One side refuses the other, or the origin does not speak TLS.
    #[error("TLS: {0}")]
    Handshake(#[from] io::Error),
}

/// TLS with one endpoint.
#[derive(Debug)]
pub(super) struct Handshake {
    config: Arc<TlsConfig>,
    rules: TlsRules,
    /// Made for the first connection that works; so the client certificate is read again when the
    /// endpoint was forgotten, or as long as reading fails.
    client: OnceCell<Arc<ClientConfig>>,
}

impl Handshake {
    pub(super) fn new(config: Arc<TlsConfig>, rules: TlsRules) -> Self {
        Self {
            config,
            rules,
            client: OnceCell::new(),
        }
    }

    /// Speaks TLS on a connection that has just been opened.
    pub(super) async fn perform(
        &self,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        let name = without_brackets(&self.rules.server_name);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| TlsError::ServerName(name.to_owned()))?;
        let client = self.client.get_or_try_init(|| self.prepare()).await?;
        let connector = TlsConnector::from(Arc::clone(client));
        Ok(connector.connect(name, stream).await?)
    }

    async fn prepare(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let (config, rules) = (Arc::clone(&self.config), self.rules.clone());
        tokio::task::spawn_blocking(move || config.client(&rules))
            .await
            .map_err(io::Error::from)?
    }
}

fn read_pair(
    paths: &ClientCertificatePaths,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |error| TlsError::File { path, error }
    };
    let chain = read_certificates(&paths.certificate).map_err(failed(&paths.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&paths.key).map_err(failed(&paths.key))?;
    Ok((chain, key))
}

/// All certificates of a PEM file, at least one.
fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)?.collect::<Result<_, _>>()?;
    if certificates.is_empty() {
        return Err(pem::Error::NoItemsFound);
    }
    Ok(certificates)
}

/// [`Verification::Skip`].
#[derive(Debug)]
struct TrustAnybody(Vec<SignatureScheme>);

impl ServerCertVerifier for TrustAnybody {
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

    // What a key signed proves nothing when the key may be anybody's.
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
        self.0.clone()
    }
}

/// An IPv6 address as it stands outside of URIs; all else as it is.
pub(super) fn without_brackets(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host)
}
