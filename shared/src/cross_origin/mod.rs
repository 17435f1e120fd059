//! Answers for pages of other origins: CORS fields that the application need not write, and JSONP
//! for pages that can load nothing but scripts.
//!
//! Knows one request and one answer; does not know which routes want this. A request is either
//! JSONP, and then its answer is wrapped as [`Jsonp`] says, or its answer gets the fields of
//! [`Cors`]. Read [`JsonpRules::take_apart`] first.

mod cors;
mod jsonp;
mod query;
mod script;

pub use cors::Cors;
pub use jsonp::{JsonpError, JsonpRequest, JsonpRules};
pub use script::{Jsonp, JsonpMode};

/// A header map for tests.
#[cfg(test)]
fn headers_of(lines: &[(&'static str, &str)]) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, http::HeaderValue::from_str(value).unwrap());
    }
    headers
}

/// The lines of a header map in order of their names, for tests.
#[cfg(test)]
fn lines_of(headers: &http::HeaderMap) -> Vec<(&str, &str)> {
    let mut lines: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| {
            let value = std::str::from_utf8(value.as_bytes()).unwrap();
            (name.as_str(), value)
        })
        .collect();
    lines.sort_by_key(|(name, _)| *name);
    lines
}
