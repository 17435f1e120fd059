//! Who asks: a GRIP proxy or anybody else.

use fastly::Request;
use grip::fields::GRIP_SIG;
use grip::signature::CLOCK_LEEWAY;

use crate::config::{Edge, TrustedProxy};
use crate::{log, now};

/// Who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visitor {
    /// A GRIP proxy, by its signature: it sees instructions.
    Hub,
    /// Anybody else: no instruction may reach it.
    Client,
}

impl Visitor {
    /// Verifies GRIP `Grip-Sig`. A false one is removed and logged; its mere presence is no proof.
    pub(crate) fn identify(request: &mut Request, edge: &Edge) -> Self {
        let Some(token) = request.get_header(&GRIP_SIG) else {
            return Self::Client;
        };
        let signed = |token| edge.proxies.iter().any(|proxy| proxy.signed(token));
        // The SDK's own conversion to text panics where this says that it is none.
        if token.to_str().is_ok_and(signed) {
            return Self::Hub;
        }
        log::event("bad_signature", &[("path", request.get_path())]);
        request.remove_header(GRIP_SIG);
        Self::Client
    }
}

impl TrustedProxy {
    fn signed(&self, token: &str) -> bool {
        let claims = self.key.verify(token, now(), CLOCK_LEEWAY);
        claims.is_ok_and(|claims| self.issuer.is_none() || claims.issuer == self.issuer)
    }
}
