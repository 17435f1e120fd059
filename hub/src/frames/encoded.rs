//! A message that many connections get.

use std::sync::OnceLock;

use bytes::Bytes;
use grip::publish::WsMessageKind;

use super::{Deflate, Mask, deflated, message};

/// A published message, encoded once for all clients of all shards.
///
/// It is compressed when the first client wants it so, once for each size of window; whoever comes
/// meanwhile waits for it, which is shorter than to do the same again.
#[derive(Debug)]
pub(crate) struct Encoded {
    kind: WsMessageKind,
    content: Bytes,
    plain: Bytes,
    deflated: [OnceLock<Bytes>; Deflate::WINDOWS],
}

impl Encoded {
    pub(crate) fn new(kind: WsMessageKind, content: &Bytes) -> Self {
        Self {
            kind,
            content: content.clone(),
            plain: message(kind, content, Mask::None),
            deflated: Default::default(),
        }
    }

    /// The frame for a client of this kind.
    pub(crate) fn frame(&self, deflate: Option<Deflate>) -> Bytes {
        let is_data = matches!(self.kind, WsMessageKind::Text | WsMessageKind::Binary);
        let Some(deflate) = deflate.filter(|_| is_data) else {
            return self.plain.clone();
        };
        let Some(known) = self.deflated.get(deflate.index()) else {
            return self.plain.clone();
        };
        let frame = known.get_or_init(|| match deflate.compress(&self.content) {
            Some(compressed) => deflated(self.kind, &compressed),
            None => self.plain.clone(),
        });
        frame.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_clients_of_a_kind_share_the_bytes() {
        let content = Bytes::from_static(&[b'x'; 100]);
        let encoded = Encoded::new(WsMessageKind::Text, &content);
        let deflate = Deflate::with_window_bits(15);
        for deflate in [None, deflate] {
            let (first, second) = (encoded.frame(deflate), encoded.frame(deflate));
            assert_eq!(first.as_ptr(), second.as_ptr());
        }
        assert!(encoded.frame(deflate).len() < encoded.frame(None).len());
    }

    #[test]
    fn pings_and_short_messages_stay_as_they_are() {
        let deflate = Deflate::with_window_bits(15);
        let ping = Encoded::new(WsMessageKind::Ping, &Bytes::from_static(&[b'x'; 100]));
        assert_eq!(ping.frame(deflate), ping.frame(None));
        let short = Encoded::new(WsMessageKind::Text, &Bytes::from_static(b"x"));
        assert_eq!(short.frame(deflate), &b"\x81\x01x"[..]);
    }
}
