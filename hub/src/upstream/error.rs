//! What can go wrong between the hub and an origin, told apart as far as somebody acts on it.

use std::error::Error;

use http::Extensions;
use hyper_util::client::legacy;

use super::connect::{Answer, ConnectError};

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// All addresses of the origin are out of reach; nothing was sent.
    #[error("the origin's address is private, and so it is blocked")]
    Blocked,
    /// There is no connection, and nothing was sent: the name has no address, nobody listens, TLS
    /// fails, or it took too long. With the reason.
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
        if error.is_connect() {
            return match cause.and_then(<dyn Error>::downcast_ref) {
                Some(ConnectError::Blocked) => Self::Blocked,
                _ => Self::Connect(causes(&error)),
            };
        }
        let cause = cause.and_then(<dyn Error>::downcast_ref);
        let is_of_request = cause.is_some_and(hyper::Error::is_user);
        if is_of_request || has_answer_begun(&error) {
            Self::Other(causes(&error))
        } else {
            Self::Closed
        }
    }
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

/// An error and its causes.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
