//! Compressed messages; RFC 7692, without context from one message to the next.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use http::HeaderValue;
use http::header::{HeaderMap, SEC_WEBSOCKET_EXTENSIONS};

use super::PIECE;

/// What stands behind every compressed message and is not sent; RFC 7692 §7.2.1.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// Windows that the compressor can do.
const WINDOW_BITS: std::ops::RangeInclusive<u8> = 9..=15;
/// The window without which nobody asks for another.
const LARGEST_WINDOW: u8 = 15;

/// How messages of one connection are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Deflate {
    window_bits: u8,
}

impl Deflate {
    /// A window of 2^`bits` bytes, 9 to 15.
    pub(crate) fn with_window_bits(bits: u8) -> Option<Self> {
        WINDOW_BITS
            .contains(&bits)
            .then_some(Self { window_bits: bits })
    }

    /// The window, from 0 for the smallest.
    pub(super) fn index(self) -> usize {
        usize::from(self.window_bits - WINDOW_BITS.start())
    }

    /// The number of windows.
    pub(super) const WINDOWS: usize = 7;

    /// Takes the first of a client's offers that can be met, and says with what answer. No context
    /// is kept either way, so that a message is compressed once for all, and an idle connection
    /// has no memory for it.
    pub(crate) fn negotiate(headers: &HeaderMap) -> Option<(Self, HeaderValue)> {
        headers
            .get_all(SEC_WEBSOCKET_EXTENSIONS)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','))
            .find_map(Self::accept)
    }

    fn accept(offer: &str) -> Option<(Self, HeaderValue)> {
        let mut parts = offer.split(';').map(str::trim);
        if parts.next() != Some("permessage-deflate") {
            return None;
        }
        let mut window_bits = None;
        let mut seen = Vec::new();
        for part in parts {
            let (name, value) = match part.split_once('=') {
                None => (part, None),
                Some((name, value)) => (name.trim(), Some(unquoted(value.trim()))),
            };
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
            match (name, value) {
                (
                    "server_no_context_takeover"
                    | "client_no_context_takeover"
                    | "client_max_window_bits",
                    None,
                ) => {}
                // Any window of the client's can be read.
                ("client_max_window_bits", Some(value)) => drop(bits(value)?),
                ("server_max_window_bits", Some(value)) => window_bits = Some(bits(value)?),
                _ => return None,
            }
        }
        let deflate = Self::with_window_bits(window_bits.unwrap_or(LARGEST_WINDOW))?;
        let window = window_bits.map_or_else(String::new, |bits| {
            format!("; server_max_window_bits={bits}")
        });
        let answer = format!(
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover{window}"
        );
        Some((deflate, HeaderValue::from_str(&answer).ok()?))
    }

    /// The content compressed; `None` if that is no shorter.
    pub(crate) fn compress(self, content: &[u8]) -> Option<Vec<u8>> {
        COMPRESSORS.with_borrow_mut(|compressors| {
            let kept = compressors.get_mut(self.index())?;
            let mut compress = kept.take().unwrap_or_else(|| {
                Compress::new_with_window_bits(Compression::fast(), false, self.window_bits)
            });
            let mut out = Vec::with_capacity(most(content.len()));
            let status = compress.compress_vec(content, &mut out, FlushCompress::Sync);
            let is_all = usize::try_from(compress.total_in()) == Ok(content.len())
                && out.len() < out.capacity();
            if !matches!(status, Ok(Status::Ok)) || !is_all || !out.ends_with(&TAIL) {
                return None;
            }
            // One that had more to give would begin the next message with it, reset or not.
            compress.reset();
            *kept = Some(compress);
            out.truncate(out.len() - TAIL.len());
            (out.len() < content.len()).then_some(out)
        })
    }
}

thread_local! {
    /// One for each window, made when it is needed: each takes a quarter of a megabyte.
    static COMPRESSORS: RefCell<[Option<Compress>; Deflate::WINDOWS]> = RefCell::default();
}

/// What content of this length becomes at most: nine bits a byte, and what stands around it.
fn most(length: usize) -> usize {
    length + length / 8 + 64
}

/// RFC 7692 §7.1.2: 8 to 15, without leading zeros.
fn bits(value: &str) -> Option<u8> {
    let is_plain = value.bytes().all(|byte| byte.is_ascii_digit()) && !value.starts_with('0');
    let bits: u8 = value.parse().ok()?;
    (is_plain && (8..=15).contains(&bits)).then_some(bits)
}

fn unquoted(value: &str) -> &str {
    value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .unwrap_or(value)
}

/// Inflates one message.
#[derive(Debug)]
pub(super) struct Inflater {
    inflate: Decompress,
    /// Bytes of the tail that were fed.
    tail: usize,
}

impl Default for Inflater {
    fn default() -> Self {
        Self {
            inflate: Decompress::new(false),
            tail: 0,
        }
    }
}

impl Inflater {
    /// Appends what `input` becomes, up to about [`PIECE`] bytes in `out`; says how much of it was
    /// used. An error if it is not compressed data.
    pub(super) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, ()> {
        let room = PIECE.saturating_sub(out.len());
        let grown = input.len().saturating_mul(4).clamp(64, PIECE);
        out.reserve(grown.min(room).max(1));
        let before = self.inflate.total_in();
        let flush = FlushDecompress::Sync;
        let status = self
            .inflate
            .decompress_vec(input, out, flush)
            .map_err(|_| ())?;
        let used = usize::try_from(self.inflate.total_in() - before).map_err(|_| ())?;
        if status == Status::StreamEnd {
            // Another stream may follow in the same message.
            self.inflate.reset(false);
        }
        Ok(used)
    }

    /// Appends the end of the message; false if there is more of it.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<bool, ()> {
        while out.len() < PIECE {
            let before = out.len();
            let used = self.feed(TAIL.get(self.tail..).unwrap_or_default(), out)?;
            self.tail += used;
            if used == 0 && out.len() == before {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(offers: &str, expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        for line in offers.split('|') {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, line.parse().unwrap());
        }
        let answer = Deflate::negotiate(&headers).map(|(_, answer)| answer);
        let expected = expected.map(|more| {
            let plain =
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
            format!("{plain}{more}")
        });
        assert_eq!(
            answer.as_ref().map(|it| it.to_str().unwrap()),
            expected.as_deref(),
            "{offers}"
        );
    }

    #[test]
    fn the_first_offer_that_can_be_met_is_taken() {
        check("permessage-deflate", Some(""));
        check("permessage-deflate; client_max_window_bits", Some(""));
        check("permessage-deflate; client_max_window_bits=10", Some(""));
        check(
            "permessage-deflate; server_max_window_bits=10",
            Some("; server_max_window_bits=10"),
        );
        check(
            "permessage-deflate; server_max_window_bits=\"9\"",
            Some("; server_max_window_bits=9"),
        );
        check(
            "x-other, permessage-deflate; server_no_context_takeover",
            Some(""),
        );
        check("x-other|permessage-deflate", Some(""));
        // The compressor has no window of 8 bits.
        check(
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            Some(""),
        );
        check("permessage-deflate; server_max_window_bits=8", None);
    }

    #[test]
    fn an_offer_that_is_not_understood_is_declined() {
        check("x-other", None);
        check("permessage-deflate; new", None);
        check("permessage-deflate; server_max_window_bits", None);
        check("permessage-deflate; server_max_window_bits=16", None);
        check("permessage-deflate; server_max_window_bits=010", None);
        check("permessage-deflate; server_no_context_takeover=1", None);
        check("permessage-deflate; client_max_window_bits=7", None);
        check(
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            None,
        );
    }

    #[test]
    fn what_gets_no_shorter_is_not_compressed() {
        let deflate = Deflate::with_window_bits(15).unwrap();
        assert_eq!(deflate.compress(b""), None);
        assert_eq!(deflate.compress(b"xyz"), None);
        assert!(deflate.compress(&[b'x'; 100]).unwrap().len() < 20);
        // The second is not shorter for knowing the first.
        let first = deflate.compress(b"the same words, the same words");
        assert_eq!(deflate.compress(b"the same words, the same words"), first);
    }

    fn inflated(small: &[u8]) -> Vec<u8> {
        let mut inflater = Inflater::default();
        let (mut sum, mut input) = (Vec::new(), small);
        loop {
            let mut out = Vec::new();
            let used = inflater.feed(input, &mut out).unwrap();
            input = &input[used..];
            if used == 0 && out.is_empty() {
                break;
            }
            sum.append(&mut out);
        }
        while {
            let mut out = Vec::new();
            let is_over = inflater.finish(&mut out).unwrap();
            sum.append(&mut out);
            !is_over
        } {}
        sum
    }

    #[test]
    fn what_cannot_be_compressed_leaves_nothing_behind() {
        let mut state = 1_u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        for bits in WINDOW_BITS {
            let deflate = Deflate::with_window_bits(bits).unwrap();
            for length in (0..40).map(|number| 1000 * (number % 20) + number) {
                let content: Vec<u8> = (0..length).map(|_| noise()).collect();
                assert_eq!(deflate.compress(&content), None);
                // Of all bytes, but few of them.
                let content: Vec<u8> = content.iter().flat_map(|byte| [*byte; 8]).collect();
                if let Some(small) = deflate.compress(&content) {
                    assert!(inflated(&small) == content, "{length} bytes");
                }
            }
        }
    }

    #[test]
    fn any_window_can_be_read() {
        let text = b"some words and some other words, and some more".repeat(1000);
        for bits in WINDOW_BITS {
            let small = Deflate::with_window_bits(bits)
                .unwrap()
                .compress(&text)
                .unwrap();
            assert_eq!(inflated(&small), text, "{bits}");
        }
    }
}
