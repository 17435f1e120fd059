//! The filter `build-id`: ids of the connection's channels, written into content and bodies.

use bytes::Bytes;

use super::template::{self, Names, Renderer, TemplateFault, Vocabulary};
use super::{Context, Filter, FilterError, FilterFault};

/// `%I`: the connection's id, and `%(id)I`: any other, both encoded.
#[derive(Debug)]
struct Ids {
    encoding: Encoding,
    /// The connection's id, encoded.
    current: Vec<u8>,
}

/// How ids are written; subscription metadata `id_encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Plain,
    Hex,
}

impl Ids {
    /// Builds the connection's id as the subscription metadata `id_format` says.
    fn build(context: &Context<'_>) -> Result<Self, FilterFault> {
        let format = context
            .of_subscription("id_format")
            .ok_or(FilterFault::IdFormatMissing)?;
        let names = Names(|channel: &str| context.id_of(channel));
        let id = template::render(Bytes::copy_from_slice(format.as_bytes()), &names)
            .map_err(FilterFault::IdFormat)?;
        let encoding = Encoding::of(context)?;
        let mut current = Vec::new();
        encoding.encode(&id, &mut current);
        Ok(Self { encoding, current })
    }
}

impl Vocabulary for Ids {
    fn expand(
        &self,
        directive: u8,
        argument: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), TemplateFault> {
        match directive {
            b'I' if argument.is_empty() => out.extend_from_slice(&self.current),
            b'I' => self.encoding.encode(argument, out),
            _ => return Err(TemplateFault::UnknownDirective(directive)),
        }
        Ok(())
    }
}

impl Encoding {
    fn of(context: &Context<'_>) -> Result<Self, FilterFault> {
        match context.of_subscription("id_encoding") {
            None => Ok(Self::Plain),
            Some("hex") => Ok(Self::Hex),
            Some(other) => Err(FilterFault::IdEncoding(other.to_owned())),
        }
    }

    fn encode(self, id: &[u8], out: &mut Vec<u8>) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        match self {
            Self::Plain => out.extend_from_slice(id),
            Self::Hex => out.extend(id.iter().flat_map(|byte| {
                [
                    DIGITS[usize::from(byte >> 4)],
                    DIGITS[usize::from(byte & 15)],
                ]
            })),
        }
    }
}

fn failed(fault: FilterFault) -> FilterError {
    Filter::BuildId.error(fault)
}

/// An item's content with its ids.
pub(super) fn filter_content(content: Bytes, context: &Context<'_>) -> Result<Bytes, FilterError> {
    let ids = Ids::build(context).map_err(failed)?;
    template::render(content, &ids).map_err(|error| failed(FilterFault::Content(error)))
}

/// An initial body, or a linked one, as the filters leave that act on those: only
/// [`Filter::BuildId`] does. `filters` are those of all channels; any number of it acts once.
pub fn filter_body(
    filters: &[Filter],
    body: Bytes,
    context: &Context<'_>,
) -> Result<Bytes, FilterError> {
    let Some(mut filter) = BodyFilter::new(filters, context)? else {
        return Ok(body);
    };
    let body = filter.push(body)?;
    filter.finish()?;
    Ok(body)
}

/// As [`filter_body`], for a body that comes in pieces, wherever it is cut.
#[derive(Debug)]
pub struct BodyFilter {
    ids: Ids,
    renderer: Renderer,
}

impl BodyFilter {
    /// `None` if the body stays as it is.
    pub fn new(filters: &[Filter], context: &Context<'_>) -> Result<Option<Self>, FilterError> {
        if !filters.contains(&Filter::BuildId) {
            return Ok(None);
        }
        let ids = Ids::build(context).map_err(failed)?;
        let renderer = Renderer::new();
        Ok(Some(Self { ids, renderer }))
    }

    /// What can be passed on after this piece; may be empty. After an error the body is over.
    pub fn push(&mut self, piece: Bytes) -> Result<Bytes, FilterError> {
        if self.renderer.is_plain(&piece) {
            self.renderer.skip(&piece);
            return Ok(piece);
        }
        let mut out = Vec::with_capacity(piece.len());
        self.renderer
            .push(&piece, &self.ids, &mut out)
            .map_err(|error| failed(FilterFault::Content(error)))?;
        Ok(Bytes::from(out))
    }

    /// Ends the body; an error if it ends within a directive. There is nothing left to pass on.
    pub fn finish(self) -> Result<(), FilterError> {
        self.renderer
            .finish()
            .map_err(|error| failed(FilterFault::Content(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const CHANNELS: &[(&str, Option<&str>)] = &[
        ("news", Some("7")),
        ("a)b", Some("é%(x)s")),
        ("fresh", None),
        ("empty", Some("")),
    ];

    /// Metadata as `name=value` words.
    fn meta(words: &[&str]) -> BTreeMap<String, String> {
        let pairs = words.iter().map(|word| word.split_once('=').unwrap());
        pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
    }

    fn with_context<T>(words: &[&str], act: impl FnOnce(&Context<'_>) -> T) -> T {
        act(&Context {
            subscription_meta: &meta(words),
            item_meta: &BTreeMap::new(),
            channels: CHANNELS,
        })
    }

    fn whole(words: &[&str], body: &[u8]) -> Result<Bytes, String> {
        with_context(words, |context| {
            let body = Bytes::copy_from_slice(body);
            filter_body(&[Filter::BuildId], body, context).map_err(|error| error.to_string())
        })
    }

    /// The body in pieces that end at `borders`, and what came of it, also before an error.
    fn in_pieces(words: &[&str], body: &[u8], borders: &[usize]) -> (Vec<u8>, Result<(), String>) {
        with_context(words, |context| {
            let mut made = Vec::new();
            let filter = BodyFilter::new(&[Filter::BuildId], context).unwrap();
            let mut filter = filter.unwrap();
            let mut start = 0;
            for end in borders.iter().copied().chain([body.len()]) {
                match filter.push(Bytes::copy_from_slice(&body[start..end])) {
                    Ok(piece) => made.extend_from_slice(&piece),
                    Err(error) => return (made, Err(error.to_string())),
                }
                start = end;
            }
            (made, filter.finish().map_err(|error| error.to_string()))
        })
    }

    /// Content and body are treated alike.
    #[track_caller]
    fn check(words: &[&str], content: &str, expected: Result<&str, &str>) {
        let expected = expected.map(|text| Bytes::copy_from_slice(text.as_bytes()));
        let expected = expected.map_err(str::to_owned);
        assert_eq!(whole(words, content.as_bytes()), expected, "body");
        let filtered = with_context(words, |context| {
            filter_content(Bytes::copy_from_slice(content.as_bytes()), context)
        });
        assert_eq!(filtered.map_err(|error| error.to_string()), expected);
    }

    #[test]
    fn the_id_is_built_from_those_of_the_channels() {
        check(&["id_format=%(news)s"], "id: %I", Ok("id: 7"));
        check(&["id_format=news:%(news)s"], "%I %I", Ok("news:7 news:7"));
        check(&["id_format=%(news)s,%(empty)s."], "%I", Ok("7,."));
        check(&["id_format=100%%"], "%I", Ok("100%"));
        check(&["id_format="], "[%I]", Ok("[]"));
    }

    #[test]
    fn ids_are_not_read_as_templates() {
        check(&[r"id_format=%(a\)b)s"], "%I", Ok("é%(x)s"));
    }

    #[test]
    fn an_id_may_be_given_in_the_content() {
        let words = &["id_format=%(news)s"];
        check(words, "%(news:8)I", Ok("news:8"));
        check(words, r"%(a\)\\)I", Ok(r"a)\"));
        check(words, "%()I", Ok("7"));
    }

    #[test]
    fn ids_are_in_hexadecimal_if_so_wanted() {
        let words = &["id_format=%(news)s/%(empty)s", "id_encoding=hex"];
        check(words, "%I", Ok("372f"));
        check(words, "<%(R2D2)I> 5%% %(ü)I", Ok("<52324432> 5% c3bc"));
        check(&["id_format=", "id_encoding=hex"], "[%I]", Ok("[]"));
        let bytes: Vec<u8> = [b"%(".as_slice(), b"\x00\x0f\xf0\xff", b")I"].concat();
        assert_eq!(whole(words, &bytes).unwrap(), "000ff0ff");
    }

    #[test]
    fn other_percent_signs_are_written_twice() {
        let words = &["id_format=%(news)s"];
        check(words, "100%% %%I", Ok("100% %I"));
        check(
            words,
            "100% sure",
            Err("build-id: Unknown directive ' ' at position 4"),
        );
        check(
            words,
            "%(news)s",
            Err("build-id: Unknown directive 's' at position 7"),
        );
        check(
            words,
            "100%",
            Err("build-id: Expected directive after '%' at position 3"),
        );
    }

    #[test]
    fn the_format_must_be_there_and_good_whatever_the_content_needs() {
        for content in ["", "no directive", "%I"] {
            for (words, expected) in [
                (&[][..], "build-id: no sub meta 'id_format'"),
                (
                    &["id_format=%(other)s"],
                    "build-id: failed to render ID: No such variable 'other' at position 8",
                ),
                (
                    &["id_format=%(fresh)s"],
                    "build-id: failed to render ID: No such variable 'fresh' at position 8",
                ),
                (
                    &["id_format=%I"],
                    "build-id: failed to render ID: Unknown directive 'I' at position 1",
                ),
                (
                    &["id_format=%(news"],
                    "build-id: failed to render ID: Unterminated field starting at position 1",
                ),
                (
                    &["id_format=x", "id_encoding=base64"],
                    "build-id: unsupported encoding: base64",
                ),
                (
                    &["id_format=x", "id_encoding="],
                    "build-id: unsupported encoding: ",
                ),
            ] {
                check(words, content, Err(expected));
            }
        }
    }

    #[test]
    fn other_filters_leave_bodies_alone() {
        with_context(&[], |context| {
            let body = Bytes::from_static(b"%(x)s %");
            let others = Filter::ALL.map(|filter| match filter {
                Filter::BuildId => Filter::VarSubst,
                other => other,
            });
            assert_eq!(filter_body(&others, body.clone(), context), Ok(body));
            assert!(BodyFilter::new(&others, context).unwrap().is_none());
        });
    }

    #[test]
    fn a_body_is_filtered_once_however_many_channels_want_it() {
        with_context(&["id_format=%(news)s"], |context| {
            let twice = [Filter::BuildId, Filter::SkipSelf, Filter::BuildId];
            let body = filter_body(&twice, Bytes::from_static(b"%%%I"), context);
            assert_eq!(body.unwrap(), "%7");
        });
    }

    #[test]
    fn what_is_known_of_a_body_is_passed_on() {
        with_context(&["id_format=%(news)s"], |context| {
            let filter = BodyFilter::new(&[Filter::BuildId], context).unwrap();
            let mut filter = filter.unwrap();
            for (piece, expected) in [
                ("id: %", "id: "),
                ("", ""),
                ("I, %(a", "7, "),
                (r"\", ""),
                ("))", ""),
                ("I.", "a)."),
                ("plain", "plain"),
                ("%", ""),
                ("%", "%"),
            ] {
                let made = filter.push(Bytes::from_static(piece.as_bytes()));
                assert_eq!(made.unwrap(), expected, "{piece}");
            }
            assert_eq!(filter.finish(), Ok(()));
        });
    }

    #[test]
    fn pieces_without_directives_are_not_copied() {
        with_context(&["id_format=%(news)s"], |context| {
            let filter = BodyFilter::new(&[Filter::BuildId], context).unwrap();
            let piece = Bytes::from_static(b"plain");
            let made = filter.unwrap().push(piece.clone()).unwrap();
            assert_eq!(made.as_ptr(), piece.as_ptr());
        });
    }

    /// A small generator, so that a seed reproduces a run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % bound as u64).unwrap()
        }

        /// A body of parts, most of them good, that are full of what means something.
        fn body(&mut self) -> Vec<u8> {
            const GOOD: &[&[u8]] = &[
                b"text",
                b"I()\\",
                b"%I",
                b"%%",
                b"%(id)I",
                b"%(a\\)%\\\\)I",
                b"\xff\x00",
            ];
            const BAD: &[&[u8]] = &[b"%", b"%(", b"%(id", b"%(id\\", b"%(id)", b"%s", b"%(id)s"];
            let mut body = Vec::new();
            for _ in 0..self.below(12) {
                let parts = if self.below(20) == 0 { BAD } else { GOOD };
                body.extend_from_slice(parts[self.below(parts.len())]);
            }
            body
        }

        fn borders(&mut self, len: usize) -> Vec<usize> {
            let count = self.below(6);
            let mut borders: Vec<usize> = (0..count).map(|_| self.below(len + 1)).collect();
            borders.sort_unstable();
            borders
        }
    }

    #[test]
    fn it_makes_no_difference_where_a_body_is_cut() {
        let words = &["id_format=%(news)s", "id_encoding=hex"];
        for seed in 1..=3000_u64 {
            let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let body = random.body();
            let expected = whole(words, &body);
            let every: Vec<usize> = (0..body.len()).collect();
            for borders in [random.borders(body.len()), every] {
                let (made, end) = in_pieces(words, &body, &borders);
                assert_eq!(
                    end.map(|()| made.into()),
                    expected,
                    "seed {seed}, {borders:?}"
                );
            }
        }
    }
}
