//! Who is believed to be an origin, and what the hub shows of itself.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tower_service::Service as _;

use super::*;
use crate::upstream::connect::ConnectError;

/// Whoever gives out certificates.
struct Ca {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
struct Pair {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        Pair {
            certificate: params.signed_by(&key, &self.issuer).unwrap(),
            key,
        }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        Arc::new(roots)
    }

    /// An upstream that trusts this one.
    fn upstream(&self) -> Upstream<Full<Bytes>> {
        let ca = vec![self.certificate.clone()];
        upstream(&OriginTls { ca })
    }
}

impl Pair {
    fn write(&self, directory: &TempDir) -> ClientCertificatePaths {
        let paths = ClientCertificatePaths {
            certificate: directory.path().join("certificate.pem"),
            key: directory.path().join("key.pem"),
        };
        std::fs::write(&paths.certificate, self.certificate.pem()).unwrap();
        std::fs::write(&paths.key, self.key.serialize_pem()).unwrap();
        paths
    }
}

#[derive(Clone, Copy)]
enum Clients {
    Anybody,
    Certified,
}

/// An origin that answers with what it was told of the name and the client: `NAME` or
/// `NAME, certified`.
async fn start(
    ca: &Ca,
    names: &[&str],
    clients: Clients,
    version: &'static SupportedProtocolVersion,
) -> u16 {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .unwrap();
    let builder = match clients {
        Clients::Anybody => builder.with_no_client_auth(),
        Clients::Certified => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(ca.roots(), provider)
                .build()
                .unwrap(),
        ),
    };
    let pair = ca.sign(names);
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.key.serialize_der()));
    let chain = vec![pair.certificate.der().clone()];
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    listen(move |stream| serve(acceptor.clone(), stream)).await
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream) {
    match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => {
            let (_, session) = stream.get_ref();
            assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
            let name = session.server_name().unwrap_or("nobody");
            let certified = session.peer_certificates().map_or("", |_| ", certified");
            let body = format!("{name}{certified}");
            let text = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            answer(stream, text, mpsc::unbounded_channel().0).await;
        }
        // What came unread would become a reset, which might overtake the alert.
        Err((_, mut stream)) => while stream.read_u8().await.is_ok() {},
    }
}

fn rules(server_name: &str) -> TlsRules {
    TlsRules {
        server_name: server_name.to_owned(),
        verification: Verification::Check,
        client_certificate: None,
    }
}

fn endpoint(port: u16, rules: TlsRules) -> Endpoint {
    Endpoint {
        host: "127.0.0.1".to_owned(),
        port,
        security: Security::Tls(rules),
    }
}

#[track_caller]
fn check(found: &Result<String, SendError>, expected: Result<&str, &str>) {
    match (found, expected) {
        (Ok(body), Ok(expected)) => assert_eq!(body, expected),
        (Err(SendError::Connect(reason)), Err(text)) => assert!(reason.contains(text), "{reason}"),
        _ => panic!("{found:?}, not {expected:?}"),
    }
}

#[tokio::test]
async fn the_certificate_must_be_for_the_server_name() {
    let ca = Ca::new();
    let port = start(&ca, &["origin.test", "127.0.0.1"], Clients::Anybody, &TLS13).await;
    let upstream = ca.upstream();
    for (name, expected) in [
        ("origin.test", Ok("origin.test")),
        ("127.0.0.1", Ok("nobody")),
        ("elsewhere.test", Err("certificate not valid for name")),
        ("[::1]", Err("certificate not valid for name")),
        ("", Err("is no name")),
        ("a b", Err("is no name")),
    ] {
        check(
            &get(&upstream, &endpoint(port, rules(name))).await,
            expected,
        );
    }
}

#[tokio::test]
async fn the_certificate_must_be_from_somebody_who_is_trusted() {
    let port = start(&Ca::new(), &["origin.test"], Clients::Anybody, &TLS13).await;
    for upstream in [upstream(&OriginTls::default()), Ca::new().upstream()] {
        let answer = get(&upstream, &endpoint(port, rules("origin.test"))).await;
        check(&answer, Err("TLS: invalid peer certificate"));
        assert_eq!(upstream.counters.origin_connections.value(), 0);
    }
}

#[tokio::test]
async fn any_certificate_will_do_where_verification_is_skipped() {
    for version in [&TLS12, &TLS13] {
        let port = start(&Ca::new(), &["origin.test"], Clients::Anybody, version).await;
        let upstream = upstream(&OriginTls::default());
        let rules = TlsRules {
            verification: Verification::Skip,
            ..rules("elsewhere.test")
        };
        let strict = TlsRules {
            verification: Verification::Check,
            ..rules.clone()
        };
        let answer = get(&upstream, &endpoint(port, rules)).await;
        check(&answer, Ok("elsewhere.test"));
        // The connection of the careless is nothing for the careful.
        let answer = get(&upstream, &endpoint(port, strict)).await;
        check(&answer, Err("TLS: invalid peer certificate"));
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_there_is_one() {
    let ca = Ca::new();
    let directory = TempDir::new().unwrap();
    let paths = ca.sign(&["hub.test"]).write(&directory);
    for version in [&TLS12, &TLS13] {
        let port = start(&ca, &["origin.test"], Clients::Certified, version).await;
        let upstream = ca.upstream();
        let anonymous = rules("origin.test");
        let certified = TlsRules {
            client_certificate: Some(paths.clone()),
            ..anonymous.clone()
        };
        let answer = get(&upstream, &endpoint(port, anonymous)).await;
        check(&answer, Err("received fatal alert"));
        let answer = get(&upstream, &endpoint(port, certified)).await;
        check(&answer, Ok("origin.test, certified"));
    }
}

#[tokio::test]
async fn a_client_certificate_from_the_wrong_issuer_is_refused() {
    let ca = Ca::new();
    let directory = TempDir::new().unwrap();
    let stranger = TlsRules {
        client_certificate: Some(Ca::new().sign(&["hub.test"]).write(&directory)),
        ..rules("origin.test")
    };
    let port = start(&ca, &["origin.test"], Clients::Certified, &TLS13).await;
    let answer = get(&ca.upstream(), &endpoint(port, stranger)).await;
    check(&answer, Err("received fatal alert"));
}

#[tokio::test]
async fn a_client_certificate_is_read_until_it_is_good() {
    let ca = Ca::new();
    let port = start(&ca, &["origin.test"], Clients::Certified, &TLS13).await;
    let upstream = ca.upstream();
    let directory = TempDir::new().unwrap();
    let paths = ClientCertificatePaths {
        certificate: directory.path().join("certificate.pem"),
        key: directory.path().join("key.pem"),
    };
    let rules = TlsRules {
        client_certificate: Some(paths.clone()),
        ..rules("origin.test")
    };
    let endpoint = endpoint(port, rules);
    let write = |path: &Path, content: String| std::fs::write(path, content).unwrap();

    check(&get(&upstream, &endpoint).await, Err("certificate.pem: "));
    write(&paths.certificate, String::new());
    check(&get(&upstream, &endpoint).await, Err("certificate.pem: "));
    let (good, other) = (ca.sign(&["hub.test"]), ca.sign(&["hub.test"]));
    write(&paths.certificate, good.certificate.pem());
    check(&get(&upstream, &endpoint).await, Err("key.pem: "));
    write(&paths.key, other.key.serialize_pem());
    check(&get(&upstream, &endpoint).await, Err("cannot be used"));
    write(&paths.key, good.key.serialize_pem());
    check(
        &get(&upstream, &endpoint).await,
        Ok("origin.test, certified"),
    );
}

#[tokio::test]
async fn a_connection_with_tls_is_used_again_too() {
    let ca = Ca::new();
    let port = start(&ca, &["origin.test"], Clients::Anybody, &TLS13).await;
    let upstream = ca.upstream();
    let endpoint = endpoint(port, rules("origin.test"));
    for _ in 0..2 {
        check(&get(&upstream, &endpoint).await, Ok("origin.test"));
    }
    assert_eq!(upstream.counters.origin_requests.value(), 2);
    assert_eq!(upstream.counters.origin_connections.value(), 1);
}

#[tokio::test]
async fn an_upgraded_connection_with_tls_is_given_away_too() {
    let ca = Ca::new();
    for version in [&TLS12, &TLS13] {
        let port = start(&ca, &["origin.test"], Clients::Anybody, version).await;
        check_upgrade(&ca.upstream(), &endpoint(port, rules("origin.test"))).await;
    }
}

#[tokio::test]
async fn an_https_address_means_a_certificate_for_its_host() {
    let ca = Ca::new();
    let port = start(&ca, &["localhost"], Clients::Anybody, &TLS13).await;
    let endpoint_at = |host: &str| {
        let address: HttpAddress = format!("https://{host}:{port}").parse().unwrap();
        Endpoint::from(&address)
    };
    let upstream = ca.upstream();
    let answer = get(&upstream, &endpoint_at("localhost")).await;
    check(&answer, Ok("localhost"));
    let answer = get(&upstream, &endpoint_at("127.0.0.1")).await;
    check(&answer, Err("certificate not valid for name"));
}

#[tokio::test]
async fn whoever_does_not_speak_tls_is_no_origin() {
    let port =
        listen(async |mut stream| stream.write_all(b"HTTP/1.1 400 \r\n\r\n").await.unwrap()).await;
    let answer = get(&Ca::new().upstream(), &endpoint(port, rules("origin.test"))).await;
    check(&answer, Err("TLS: "));
}

#[tokio::test]
async fn a_handshake_without_end_is_given_up() {
    // The kernel accepts; nobody reads.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let endpoint = endpoint(port, rules("origin.test"));
    let tls = Arc::new(TlsConfig::new(&OriginTls::default()));
    let mut connector = Connector::new(&endpoint, Reach::Any, &tls, Arc::default());
    connector.timeout = Duration::from_millis(1);
    let error = connector
        .call(Uri::from_static("http://origin"))
        .await
        .err();
    assert!(matches!(error, Some(ConnectError::Timeout(_))), "{error:?}");
}
