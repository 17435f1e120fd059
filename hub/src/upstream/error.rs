//! What can go wrong between the hub and an origin, told apart as far as somebody acts on it.

use std::error::Error;
use std::io;

use http::Extensions;
use hyper_util::client::legacy;
use tokio_rustls::rustls::{self, AlertDescription};

use super::connect::{Answer, ConnectError, chain};

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// All addresses of the origin are out of reach; nothing was sent.
    #[error("the origin's address is private, and so it is blocked")]
    Blocked,
    /// There is no connection, and the origin has seen no request: the name has no address, nobody
    /// listens, TLS fails, or it took too long. With the reason.
    #[error("no connection to the origin: {0}")]
    Connect(String),
    /// The connection was closed before the first byte of an answer. The origin may have handled
    /// the request.
    #[error("the origin closed the connection without an answer")]
    Closed,
    /// The head of the answer broke off or is not HTTP, or the request's body failed. With the
    /// reason.
    #[error("no answer from the origin: {0}")]
    Other(String),
}

impl From<legacy::Error> for SendError {
    fn from(error: legacy::Error) -> Self {
        let cause = error.source();
        if let Some(ConnectError::Blocked) = cause.and_then(<dyn Error>::downcast_ref) {
            return Self::Blocked;
        }
        let of_http = cause.and_then(<dyn Error>::downcast_ref);
        let is_of_request = of_http.is_some_and(hyper::Error::is_user);
        if error.is_connect() || of_http.is_some_and(is_refusal_of_client) {
            Self::Connect(causes(&error))
        } else if is_of_request || has_answer_begun(&error) {
            Self::Other(causes(&error))
        } else {
            Self::Closed
        }
    }
}

/// Whether the origin does not accept the client certificate, or wants one. TLS 1.3 says so only
/// when the hub believes that the handshake is over.
fn is_refusal_of_client(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(<dyn Error>::downcast_ref);
    let cause = cause
        .and_then(io::Error::get_ref)
        .and_then(|cause| cause.downcast_ref());
    let Some(rustls::Error::AlertReceived(alert)) = cause else {
        return false;
    };
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
    )
}

fn has_answer_begun(error: &legacy::Error) -> bool {
    let mut extensions = Extensions::new();
    if let Some(connection) = error.connect_info() {
        connection.get_extras(&mut extensions);
    }
    // Without a connection, the request was refused before one was looked for.
    extensions.get().is_none_or(Answer::has_begun)
}

/// What is behind the client's error, which itself only says at which step it happened.
fn causes(error: &legacy::Error) -> String {
    match error.source() {
        Some(cause) => chain(cause),
        None => error.to_string(),
    }
}
