//! What comes of a request that carries events of a WebSocket to its origin.
//!
//! This is what the engine and those who send its requests say to each other.

use bytes::Bytes;
use grip::websocket::over_http::AnswerFields;
use http::StatusCode;

use crate::upstream::SendError;

/// The fields and the body of an answer of the right status and type, or why there is none.
pub(crate) type Exchanged = Result<(AnswerFields, Bytes), ExchangeError>;

/// Why events were not exchanged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The request did not reach the origin, so it may be sent again.
    #[error("{0}")]
    Unsent(#[source] SendError),
    /// The origin may have got the request, and nothing is known of what it did.
    #[error("{0}")]
    Failed(#[source] Failure),
}

/// What is wrong with an origin's answer to events.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Send(#[source] SendError),
    #[error("the origin answered events with status {0}")]
    Status(StatusCode),
    #[error("the origin answered events with something else")]
    Type,
    #[error("the origin's answer to events broke off or is too large")]
    Body,
    #[error("the origin did not answer events in time")]
    Time,
}

impl From<SendError> for ExchangeError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Connect(_) | SendError::Blocked => Self::Unsent(error),
            SendError::Closed | SendError::Other(_) => Self::Failed(Failure::Send(error)),
        }
    }
}
