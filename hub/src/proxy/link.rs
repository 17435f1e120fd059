//! Where links lead; RFC 3986 §5.

use grip::instruct::{Instruct, InstructError};
use http::Uri;
use url::Url;

use crate::errand::{Behalf, Next};

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

/// Which way a link's request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkTarget {
    /// That of the client's request: the link is on the same host, under the route's path.
    Route,
    /// To the link's own host.
    Direct,
}

impl LinkTarget {
    pub(crate) fn of(behalf: &Behalf, link: &Uri) -> Self {
        let is_same = behalf.uri.scheme() == link.scheme()
            && behalf.uri.host() == link.host()
            && port(&behalf.uri) == port(link);
        let path_beg = behalf.route.condition.path_beg.as_deref();
        let is_below = path_beg.is_none_or(|beginning| link.path().starts_with(beginning));
        if is_same && is_below {
            Self::Route
        } else {
            Self::Direct
        }
    }
}

fn port(uri: &Uri) -> u16 {
    let default = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    uri.port_u16().unwrap_or(default)
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
