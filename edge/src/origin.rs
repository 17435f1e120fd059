//! Requests to the origin.

use std::io::Read as _;
use std::time::{Duration, Instant};

use fastly::http::request::SendError;
use fastly::{Body, Request, Response};
use grip::cache::{GRIPLINE_HOPS, Lookup, fill_headers, next_hop, pass_headers};
use grip::fields::{self, GRIP_FEATURE, GRIP_FEATURES, GRIP_SIG};
use grip::signature::grip_sig;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::Edge;
use crate::now;
use crate::visit::{Visit, Visitor};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The headers of a message as a map.
pub(crate) fn headers_of<'a>(
    headers: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name, value.clone());
    }
    map
}

/// Asks the origin on behalf of everybody. Always signed, whoever asked: an origin that sees no
/// proxy answers without instructions, and that would be stored for all.
///
/// `conditions` are those by which it may say that what is stored is good still.
pub(crate) fn fill(
    visit: &Visit<'_>,
    lookup: &Lookup,
    conditions: &[(HeaderName, HeaderValue)],
) -> Result<Response, SendError> {
    let mut headers = fill_headers(visit.headers(), lookup);
    for (name, value) in conditions {
        headers.insert(name.clone(), value.clone());
    }
    sign(&mut headers, visit.edge);
    let mut url = visit.url().clone();
    match lookup.path_and_query.split_once('?') {
        // As it is: what is set is escaped, but not again.
        Some((_, query)) => url.set_query(Some(query)),
        None => url.set_query(None),
    }
    send(Request::new(http::Method::GET, url), &headers, visit.edge)
}

/// Passes one visitor's request on, body streamed.
pub(crate) fn pass(visit: &Visit<'_>) -> Result<Response, SendError> {
    let mut headers = pass_headers(visit.headers());
    if visit.visitor == Visitor::Client {
        fields::strip_grip(&mut headers);
        sign(&mut headers, visit.edge);
        forward_for(&mut headers, visit);
    }
    let mut passed = Request::new(visit.method().clone(), visit.url().clone());
    if let Some(body) = visit.take_body() {
        passed.set_body(body);
    }
    send(passed, &headers, visit.edge)
}

fn send(mut request: Request, headers: &HeaderMap, edge: &Edge) -> Result<Response, SendError> {
    for (name, value) in headers {
        request.append_header(name, value);
    }
    // A request that must go no further was refused before.
    let hop = next_hop(headers).unwrap_or(u8::MAX);
    request.set_header(GRIPLINE_HOPS, hop.to_string());
    // The platform's own cache would keep a second copy, out of reach of every rule here.
    request.set_pass(true);
    request.send(&*edge.origin)
}

fn sign(headers: &mut HeaderMap, edge: &Edge) {
    let token = grip_sig(&edge.grip_key, &edge.grip_issuer, now());
    if let Ok(token) = HeaderValue::from_str(&token) {
        headers.insert(GRIP_SIG, token);
    }
    headers.insert(GRIP_FEATURE, HeaderValue::from_static(GRIP_FEATURES));
}

/// Says for whom a request is.
pub(crate) fn forward_for(headers: &mut HeaderMap, visit: &Visit<'_>) {
    if let Some(address) = visit.client_ip()
        && let Ok(address) = HeaderValue::from_str(&address.to_string())
    {
        headers.append(X_FORWARDED_FOR, address);
    }
    if let Ok(scheme) = HeaderValue::from_str(visit.url().scheme()) {
        headers.insert(X_FORWARDED_PROTO, scheme);
    }
}

/// How long a body is waited for. All who wait for the same answer wait as long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// What was read of a body.
pub(crate) enum Complete {
    /// All of it.
    Yes(Vec<u8>),
    /// It is too long, or takes too long: what was read, and the rest behind it.
    No(Body),
}

/// Reads a body to its end, unless it is longer than `limit` or takes longer than [`PATIENCE`]: a
/// stream may never end, and its reader shall see its beginning.
///
/// # Errors
/// When the origin breaks off.
pub(crate) fn complete(mut body: Body, limit: usize) -> std::io::Result<Complete> {
    let began = Instant::now();
    let mut read = Vec::new();
    let mut chunk = vec![0; CHUNK];
    while read.len() <= limit && began.elapsed() < PATIENCE {
        match body.read(&mut chunk)? {
            0 => return Ok(Complete::Yes(read)),
            length => read.extend_from_slice(&chunk[..length]),
        }
    }
    let mut whole = Body::from(read);
    whole.append(body);
    Ok(Complete::No(whole))
}
