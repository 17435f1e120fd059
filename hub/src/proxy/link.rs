//! Where links lead; RFC 3986 §5.

use grip::instruct::{Instruct, InstructError};
use http::Uri;
use url::Url;

use crate::errand::{Behalf, Next, Way};

/// The absolute URI of a link in an answer of `base`.
///
/// # Errors
/// [`InstructError::LinkUri`] if it is none, or of another scheme than HTTP's.
pub(crate) fn resolve(base: &Uri, link: &str) -> Result<Uri, InstructError> {
    let base = Url::parse(&base.to_string()).map_err(|_| InstructError::LinkUri)?;
    let mut link = base.join(link).map_err(|_| InstructError::LinkUri)?;
    link.set_fragment(None);
    if !matches!(link.scheme(), "http" | "https") {
        return Err(InstructError::LinkUri);
    }
    link.as_str().parse().map_err(|_| InstructError::LinkUri)
}

/// An instruction's links, resolved.
#[derive(Debug, Default)]
pub(crate) struct Links {
    pub(crate) next: Option<Next>,
    pub(crate) gone: Option<Uri>,
}

impl Links {
    pub(crate) fn of(instruct: &Instruct, base: &Uri) -> Result<Self, InstructError> {
        let next = match &instruct.next_link {
            None => None,
            Some(link) => Some(Next {
                uri: resolve(base, &link.uri)?,
                timeout: link.timeout,
            }),
        };
        let gone = match &instruct.gone_link {
            None => None,
            Some(link) => Some(resolve(base, link)?),
        };
        Ok(Self { next, gone })
    }
}

/// How a link is reached: like the URI that it is relative to, unless it is on another host.
pub(crate) fn way(behalf: &Behalf, link: &Uri) -> Way {
    // Written in the way in which links are, so that the same host looks the same.
    let base = Url::parse(&behalf.uri.to_string()).map(|url| url.origin());
    let link = Url::parse(&link.to_string()).map(|url| url.origin());
    match (base, link) {
        (Ok(base), Ok(link)) if base != link => Way::Direct,
        _ => behalf.way,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(link: &str, expected: &str) {
        let base = Uri::from_static("http://a:8080/b/c?d=e");
        let found = resolve(&base, link).map(|uri| uri.to_string());
        assert_eq!(found.as_deref().unwrap_or("error"), expected, "{link}");
    }

    #[test]
    fn links_are_relative_to_the_request() {
        check("/x", "http://a:8080/x");
        check("x?y=1", "http://a:8080/b/x?y=1");
        check("?y=1", "http://a:8080/b/c?y=1");
        check("//other/x", "http://other/x");
        check("https://other/x#part", "https://other/x");
        check("../../x", "http://a:8080/x");
        check("zürich", "http://a:8080/b/z%C3%BCrich");
        check("ftp://a/x", "error");
        check("javascript:x", "error");
        check("http://", "error");
    }
}
