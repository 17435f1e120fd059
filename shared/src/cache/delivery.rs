//! Which headers leave the edge, and towards whom.

use http::header::HeaderMap;
use http::{Method, StatusCode};

use super::storage::{SURROGATE_CONTROL, SURROGATE_KEY};
use crate::Limits;
use crate::fields;
use crate::instruct::{self, Instruct, InstructError, Status};

/// Why an answer cannot be given to a plain client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientRefusal {
    /// The answer asks for a hold, and the edge itself holds nobody.
    #[error("this resource is served through a GRIP proxy only")]
    Hold,
    /// The answer's instructions cannot be followed.
    #[error("the origin's GRIP instructions cannot be followed: {0}")]
    Instruct(#[from] InstructError),
}

impl ClientRefusal {
    /// The status to say it with: a hold is beyond this edge, a bad instruction is the origin's
    /// fault.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Hold => StatusCode::NOT_IMPLEMENTED,
            Self::Instruct(_) => StatusCode::BAD_GATEWAY,
        }
    }
}

/// The headers for the hub: everything, instructions included, but what is for the edge.
pub fn hub_headers(origin: &HeaderMap) -> HeaderMap {
    let mut headers = origin.clone();
    fields::strip_hop_by_hop(&mut headers);
    headers.remove(SURROGATE_CONTROL);
    headers.remove(SURROGATE_KEY);
    headers
}

/// Status and headers for a client that is no GRIP proxy: instructions are followed, never shown.
///
/// # Errors
/// [`ClientRefusal`]; a hold shown to such a client would tell it channel names and leave it with
/// an answer that never goes on.
///
/// HEAD is answered like a GET without a hold: there is nothing to hold it for.
pub fn client_answer(
    method: &Method,
    status: StatusCode,
    origin: &HeaderMap,
) -> Result<(Status, HeaderMap), ClientRefusal> {
    let headers = hub_headers(origin);
    if instruct::has_instruct_type(&headers) {
        return Err(ClientRefusal::Hold);
    }
    if !instruct::is_instruct(&headers) {
        return Ok((Status::new(status), headers));
    }
    let instruct = Instruct::from_headers(&headers, &Limits::default())?;
    let is_held = instruct.hold.is_some() || instruct.next_link.is_some();
    if is_held && *method != Method::HEAD {
        return Err(ClientRefusal::Hold);
    }
    let shown = instruct.client_headers(&headers);
    Ok((
        instruct.status.unwrap_or_else(|| Status::new(status)),
        shown,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::headers_of;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn client(lines: &[(&'static str, &'static str)]) -> Result<(u16, Vec<String>), ClientRefusal> {
        let (status, headers) = client_answer(&Method::GET, StatusCode::OK, &headers_of(lines))?;
        let mut names: Vec<String> = headers.keys().map(ToString::to_string).collect();
        names.sort_unstable();
        Ok((status.code.as_u16(), names))
    }

    #[test]
    fn the_hub_sees_instructions_and_no_surrogate_headers() {
        let origin = headers_of(&[
            ("grip-hold", "stream"),
            ("surrogate-key", "a"),
            ("surrogate-control", "x"),
            ("etag", "1"),
        ]);
        let mut names: Vec<String> = hub_headers(&origin)
            .keys()
            .map(ToString::to_string)
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["etag", "grip-hold"]);
    }

    #[test]
    fn a_client_sees_no_instructions() {
        assert_eq!(
            client(&[
                ("grip-channel", "a"),
                ("grip-status", "404"),
                ("grip-expose-headers", "etag"),
                ("etag", "1"),
                ("x-a", "1")
            ]),
            Ok((404, vec!["etag".to_owned()]))
        );
        assert_eq!(client(&[("etag", "1")]), Ok((200, vec!["etag".to_owned()])));
    }

    #[test]
    fn a_client_gets_no_hold() {
        for hold in [
            ("grip-hold", "stream"),
            ("grip-hold", "response"),
            ("grip-link", "</n>; rel=next"),
            ("content-type", "application/grip-instruct"),
        ] {
            assert_eq!(client(&[hold]), Err(ClientRefusal::Hold), "{hold:?}");
        }
        assert_eq!(ClientRefusal::Hold.status(), StatusCode::NOT_IMPLEMENTED);
    }

    #[test]
    fn head_of_a_hold_is_answered() {
        let origin = headers_of(&[("grip-hold", "stream"), ("etag", "1")]);
        let (status, headers) = client_answer(&Method::HEAD, StatusCode::OK, &origin).unwrap();
        assert_eq!(status, Status::new(StatusCode::OK));
        assert_eq!(headers, headers_of(&[("etag", "1")]));
    }

    #[test]
    fn a_bad_instruction_is_the_origins_fault() {
        let refusal = client(&[("grip-hold", "x")]).unwrap_err();
        assert!(matches!(refusal, ClientRefusal::Instruct(_)));
        assert_eq!(refusal.status(), StatusCode::BAD_GATEWAY);
    }
}
