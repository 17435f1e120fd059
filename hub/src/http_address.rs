//! Addresses of HTTP servers, as `http://HOST:PORT`.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::{Authority, Scheme};

/// Where an HTTP server is, and whether it speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAddress {
    scheme: Scheme,
    authority: Authority,
}

/// Why a text is no [`HttpAddress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HttpAddressError {
    /// Not a URL at all.
    #[error("is no URL")]
    Url,
    /// Neither `http` nor `https`.
    #[error("has no scheme that is supported")]
    Scheme,
    /// A path or a query, which nothing would be done with.
    #[error("has a path")]
    Path,
    /// No host, a port that is none, or credentials.
    #[error("names no host and port to connect to")]
    Authority,
}

impl HttpAddress {
    /// Host and port as given; what belongs in the `Host` field.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The host, an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        self.authority.host()
    }

    /// The port, if only the scheme's; never 0.
    pub fn port(&self) -> u16 {
        let default = if self.is_https() { 443 } else { 80 };
        self.authority.port_u16().unwrap_or(default)
    }

    /// Whether TLS is spoken there.
    pub fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }
}

impl FromStr for HttpAddress {
    type Err = HttpAddressError;

    fn from_str(text: &str) -> Result<Self, HttpAddressError> {
        let parts = text
            .parse::<Uri>()
            .map_err(|_| HttpAddressError::Url)?
            .into_parts();
        let scheme = parts
            .scheme
            .filter(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme))
            .ok_or(HttpAddressError::Scheme)?;
        if parts.path_and_query.is_some_and(|path| path != "/") {
            return Err(HttpAddressError::Path);
        }
        let authority = parts
            .authority
            .filter(is_host_and_port)
            .ok_or(HttpAddressError::Authority)?;
        Ok(Self { scheme, authority })
    }
}

fn is_host_and_port(authority: &Authority) -> bool {
    let port = authority.as_str().strip_prefix(authority.host());
    port.is_some_and(|port| port.is_empty() || authority.port_u16().is_some_and(|port| port > 0))
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, host: &str, port: u16, shown: &str) {
        let address: HttpAddress = text.parse().expect(text);
        assert_eq!((address.host(), address.port()), (host, port), "{text}");
        assert_eq!(address.to_string(), shown);
        assert_eq!(address.is_https(), shown.starts_with("https:"));
    }

    #[track_caller]
    fn check_error(text: &str, expected: HttpAddressError) {
        assert_eq!(text.parse::<HttpAddress>(), Err(expected), "{text}");
    }

    #[test]
    fn the_scheme_decides_on_the_port() {
        check("http://a", "a", 80, "http://a");
        check("https://a/", "a", 443, "https://a");
        check("HTTPS://a:8", "a", 8, "https://a:8");
        check("http://[::1]", "[::1]", 80, "http://[::1]");
        check("http://[::1]:8", "[::1]", 8, "http://[::1]:8");
    }

    #[test]
    fn nothing_but_scheme_host_and_port_is_allowed() {
        check_error("a b", HttpAddressError::Url);
        check_error("", HttpAddressError::Url);
        check_error("a", HttpAddressError::Scheme);
        check_error("ftp://a", HttpAddressError::Scheme);
        check_error("http://a/b", HttpAddressError::Path);
        check_error("http://a?b", HttpAddressError::Path);
        check_error("http://a:0", HttpAddressError::Authority);
        check_error("http://a:65536", HttpAddressError::Authority);
        check_error("http://a:", HttpAddressError::Authority);
        check_error("http://b@a:1", HttpAddressError::Authority);
    }
}
