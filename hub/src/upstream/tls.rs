//! Who is trusted, and how an origin proves to be who it is.

/// What all TLS connections of the hub have in common.
#[derive(Debug, Default)]
pub(crate) struct TlsConfig {}
