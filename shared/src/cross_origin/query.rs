//! A query string whose parameters are taken out one by one.

use http::uri::PathAndQuery;

/// The parameters that are left, in the order and the spelling of the request.
#[derive(Debug)]
pub(super) struct Query<'a>(Vec<&'a str>);

impl<'a> Query<'a> {
    pub(super) fn of(path_and_query: &'a PathAndQuery) -> Self {
        Self(
            path_and_query
                .query()
                .unwrap_or_default()
                .split('&')
                .collect(),
        )
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|parameter| is_named(parameter, name))
    }

    /// Removes all parameters of this name and returns the value of the first, still encoded.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a str> {
        let first = self
            .0
            .iter()
            .find(|parameter| is_named(parameter, name))
            .map(|parameter| split(parameter).1);
        self.0.retain(|parameter| !is_named(parameter, name));
        first
    }

    /// The path with the parameters that are left behind it.
    pub(super) fn behind(&self, path: &str) -> PathAndQuery {
        let mut text = path.to_owned();
        if self.0.iter().any(|parameter| !parameter.is_empty()) {
            text.push('?');
            text.push_str(&self.0.join("&"));
        }
        PathAndQuery::try_from(text)
            .expect("a path stays valid behind which there is less of a valid query")
    }
}

fn is_named(parameter: &str, name: &str) -> bool {
    decode(split(parameter).0).as_deref() == Some(name.as_bytes())
}

fn split(parameter: &str) -> (&str, &str) {
    parameter.split_once('=').unwrap_or((parameter, ""))
}

/// Decodes `%XX` and `+` as forms write them; absent: a `%` without two hexadecimal digits.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => 16 * digit(bytes.next()?)? + digit(bytes.next()?)?,
            other => other,
        });
    }
    Some(decoded)
}

fn digit(byte: u8) -> Option<u8> {
    u8::try_from(char::from(byte).to_digit(16)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[track_caller]
    fn check_decode(text: &str, expected: Option<&[u8]>) {
        assert_eq!(decode(text).as_deref(), expected, "{text}");
    }

    #[test]
    fn escapes_are_decoded() {
        check_decode("", Some(b""));
        check_decode("a+b", Some(b"a b"));
        check_decode("a%20b%2B%2b", Some(b"a b++"));
        check_decode("%00%ff%C3%A9", Some(b"\0\xff\xc3\xa9"));
        check_decode("\u{e9}", Some("\u{e9}".as_bytes()));
        for bad in ["%", "%4", "a%", "%4g", "%g4", "%%41", "%+1", "%4\u{e9}"] {
            check_decode(bad, None);
        }
    }

    #[test]
    fn whatever_is_escaped_is_read_back() {
        let every_byte: Vec<u8> = (0..=u8::MAX).collect();
        let escapes: Vec<String> = every_byte.iter().map(|it| format!("%{it:02x}")).collect();
        let lower = escapes.concat();
        check_decode(&lower, Some(&every_byte));
        check_decode(&lower.to_uppercase(), Some(&every_byte));
        for end in 0..lower.len() {
            let expected = (end % 3 == 0).then(|| &every_byte[..end / 3]);
            check_decode(&lower[..end], expected);
        }
    }

    /// Takes parameter `p` out.
    #[track_caller]
    fn check_take(target: &str, expected: Option<&str>, rest: &str) {
        let target = PathAndQuery::try_from(target).unwrap();
        let mut query = Query::of(&target);
        assert_eq!(query.has("p"), expected.is_some());
        assert_eq!(query.take("p"), expected, "{target}");
        assert_eq!(query.behind(target.path()), rest, "{target}");
        assert!(!query.has("p"));
    }

    #[test]
    fn what_is_not_taken_stays_as_it_was() {
        check_take("/a", None, "/a");
        check_take("/a?", None, "/a");
        check_take("/a?p", Some(""), "/a");
        check_take("/a?p=1", Some("1"), "/a");
        check_take("/a?p=1=2", Some("1=2"), "/a");
        check_take("/a?%70=%31", Some("%31"), "/a");
        check_take("/a?p=1&p=2", Some("1"), "/a");
        check_take("/a?z=%41+&p=1&b&a=?&p=2", Some("1"), "/a?z=%41+&b&a=?");
        check_take("/a?%7=1&P=2&pp=3&=p", None, "/a?%7=1&P=2&pp=3&=p");
        check_take("/a?&p=1&", Some("1"), "/a");
        check_take("/a?b&&p=1", Some("1"), "/a?b&");
        check_take("?p=1&b", Some("1"), "/?b");
    }
}
