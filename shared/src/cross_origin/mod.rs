//! Answers for pages of other origins: CORS fields that the application need not write.
//!
//! Knows one request and one answer; does not know which routes want this. Read [`Cors`] first.

mod cors;

pub use cors::Cors;

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
