//! The grammar that all `Grip-*` header values share: lists, a main value, parameters.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName};

/// Why a piece of a header value has no meaning: a quoted parameter value that never ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unterminated;

/// A main value, verbatim with its quotes, and the parameters behind it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub(crate) main: &'a [u8],
    pub(crate) parameters: Parameters<'a>,
}

/// `name`, `name=token` and `name="quoted"` items in the order given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parameters<'a>(Vec<(&'a [u8], Cow<'a, [u8]>)>);

impl<'a> Piece<'a> {
    /// Cuts a piece at its first `;`. Quotes do not protect that one.
    pub(crate) fn parse(piece: &'a [u8]) -> Result<Self, Unterminated> {
        let (main, rest) = match piece.iter().position(|byte| *byte == b';') {
            Some(at) => (&piece[..at], &piece[at + 1..]),
            None => (piece, &[][..]),
        };
        Ok(Self {
            main: main.trim_ascii(),
            parameters: Parameters::parse(rest)?,
        })
    }
}

impl<'a> Parameters<'a> {
    /// Parses `a=b; c="d"`: every item is a parameter.
    pub(crate) fn parse(mut text: &'a [u8]) -> Result<Self, Unterminated> {
        let mut parameters = Vec::new();
        while !text.is_empty() {
            let name_end = text
                .iter()
                .position(|byte| matches!(byte, b'=' | b';'))
                .unwrap_or(text.len());
            let name = text[..name_end].trim_ascii();
            let value;
            if text.get(name_end) == Some(&b'=') {
                (value, text) = parameter_value(&text[name_end + 1..])?;
            } else {
                value = Cow::Borrowed(&[][..]);
                text = text.get(name_end + 1..).unwrap_or_default();
            }
            if !name.is_empty() {
                parameters.push((name, value));
            }
        }
        Ok(Self(parameters))
    }

    /// The value of the first parameter of this name, letters compared without case.
    pub(crate) fn first(&self, name: &str) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.as_ref())
    }

    /// The values of all parameters of exactly this name.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.0
            .iter()
            .filter(move |(found, _)| *found == name.as_bytes())
            .map(|(_, value)| value.as_ref())
    }

    /// The first parameter, whatever its name.
    pub(crate) fn leading(&self) -> Option<(&'a [u8], &[u8])> {
        self.0.first().map(|(name, value)| (*name, value.as_ref()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The value after `=`, and what follows the `;` behind it.
fn parameter_value(text: &[u8]) -> Result<(Cow<'_, [u8]>, &[u8]), Unterminated> {
    let start = text.trim_ascii_start();
    let Some(quoted) = start.strip_prefix(b"\"") else {
        let (token, rest) = cut(text);
        return Ok((Cow::Borrowed(token.trim_ascii()), rest));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => {
                let (_ignored, rest) = cut(&quoted[at + 1..]);
                return Ok((Cow::Owned(value), rest));
            }
            b'\\' => value.push(*bytes.next().ok_or(Unterminated)?.1),
            other => value.push(*other),
        }
    }
    Err(Unterminated)
}

fn cut(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|byte| *byte == b';') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &[]),
    }
}

/// The pieces of all lines of one header, split at commas outside quotes and trimmed.
pub(crate) fn list<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| split_list(line.as_bytes()))
}

/// Splits one header line at every comma outside a quoted section.
///
/// An empty line and a trailing comma give no piece; an empty piece between commas stays. A quote
/// that never ends makes the rest of the line one piece.
pub(crate) fn split_list(line: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut quoted = false;
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                pieces.push(line[start..at].trim_ascii());
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    let last = line[start..].trim_ascii();
    if !last.is_empty() {
        pieces.push(last);
    }
    pieces
}

/// A signed decimal number of 32 bits, blanks around it allowed.
pub(crate) fn integer(text: &[u8]) -> Option<i32> {
    std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Noise;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[track_caller]
    fn check_list(line: &str, expected: &[&str]) {
        let found: Vec<String> = split_list(line.as_bytes())
            .into_iter()
            .map(|piece| String::from_utf8_lossy(piece).into_owned())
            .collect();
        assert_eq!(found, expected, "{line:?}");
    }

    #[test]
    fn lists_split_at_commas_outside_quotes() {
        check_list("", &[]);
        check_list("  ", &[]);
        check_list("a", &["a"]);
        check_list("a, b ,c", &["a", "b", "c"]);
        check_list("a,,b", &["a", "", "b"]);
        check_list("a,", &["a"]);
        check_list(r#"a="x,y", b"#, &[r#"a="x,y""#, "b"]);
        check_list(r#"a="x\",y", b"#, &[r#"a="x\",y""#, "b"]);
        check_list(r#"a, b="c, d"#, &["a", r#"b="c, d"#]);
    }

    #[track_caller]
    fn check_parameter(piece: &str, name: &str, expected: Option<&str>) {
        let piece = Piece::parse(piece.as_bytes()).unwrap();
        let found = piece.parameters.first(name);
        assert_eq!(found, expected.map(str::as_bytes));
    }

    #[test]
    fn parameters_are_tokens_or_quoted() {
        check_parameter("a; prev-id=5", "prev-id", Some("5"));
        check_parameter("a;PREV-ID = 5 ; x", "prev-id", Some("5"));
        check_parameter(r#"a; prev-id="x;y""#, "prev-id", Some("x;y"));
        check_parameter(r#"a; prev-id="x\"y" ignored; b=c"#, "b", Some("c"));
        check_parameter(r#"a; prev-id="x\"y""#, "prev-id", Some("x\"y"));
        check_parameter("a; flag", "flag", Some(""));
        check_parameter("a", "flag", None);
        check_parameter("a; x=1; x=2", "x", Some("1"));
    }

    #[test]
    fn the_main_value_keeps_its_quotes() {
        assert_eq!(Piece::parse(br#" "a b" ;c"#).unwrap().main, br#""a b""#);
    }

    #[test]
    fn a_quote_without_end_makes_the_piece_unparsable() {
        assert_eq!(Piece::parse(br#"a; prev-id="x"#), Err(Unterminated));
        assert_eq!(Piece::parse(br#"a; prev-id="x\"#), Err(Unterminated));
    }

    #[test]
    fn integers_fit_32_bits() {
        assert_eq!(integer(b" 7 "), Some(7));
        assert_eq!(integer(b"+7"), Some(7));
        assert_eq!(integer(b"-7"), Some(-7));
        for bad in ["", "1.5", "x", "99999999999", "0x1"] {
            assert_eq!(integer(bad.as_bytes()), None, "{bad}");
        }
    }
    /// A main value and parameters, as one writes them who quotes every parameter's value.
    fn written(main: &[u8], parameters: &[(&[u8], Cow<'_, [u8]>)]) -> Vec<u8> {
        let mut piece = main.to_vec();
        for (name, value) in parameters {
            piece.extend([b"; ", *name, b"=\""].concat());
            for byte in value.iter() {
                if matches!(byte, b'"' | b'\\') {
                    piece.push(b'\\');
                }
                piece.push(*byte);
            }
            piece.push(b'"');
        }
        piece
    }

    #[test]
    fn what_is_quoted_is_read_back() {
        const NAMES: [&[u8]; 3] = [b"a", b"prev-id", b"filter"];
        for seed in 0..2000 {
            let mut noise = Noise::new(seed);
            let mains: Vec<Vec<u8>> = (0..=noise.below(3))
                .map(|_| [b"m".to_vec(), noise.text(b"ab=<>\\\xff", 5)].concat())
                .collect();
            let mut pieces = Vec::new();
            for main in &mains {
                let parameters: Vec<(&[u8], Cow<'_, [u8]>)> = (0..noise.below(4))
                    .map(|_| {
                        let value = noise.text(b"ab \t,;=\"\\\xc3\xff", 8);
                        (NAMES[noise.below(NAMES.len())], value.into())
                    })
                    .collect();
                pieces.push((main.as_slice(), parameters));
            }
            let lines: Vec<Vec<u8>> = pieces.iter().map(|(m, p)| written(m, p)).collect();
            let line = lines.join(&b", "[..]);
            let found = split_list(&line).into_iter().map(Piece::parse);
            let expected = pieces.into_iter().map(|(main, parameters)| {
                let parameters = Parameters(parameters);
                Ok(Piece { main, parameters })
            });
            let text = String::from_utf8_lossy(&line);
            assert!(found.eq(expected), "seed {seed}: {text}");
        }
    }
}
