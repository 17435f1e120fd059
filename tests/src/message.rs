//! HTTP/1.1 messages, read without any of the libraries that the system under test uses.

use std::fmt;

/// A start line and fields, as they came.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    start: String,
    fields: Vec<(String, String)>,
}

impl Head {
    /// A head of these parts.
    pub(crate) fn new(start: String, fields: Vec<(String, String)>) -> Self {
        Self { start, fields }
    }

    /// Takes a complete head from the beginning of `input`; `None` if more is needed.
    pub(crate) fn take_from(input: &mut Vec<u8>) -> Option<Self> {
        let length = find(input, b"\r\n\r\n")?;
        let text = String::from_utf8_lossy(&input[..length]).into_owned();
        input.drain(..length + 4);
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let fields = lines
            .map(|line| {
                let (name, value) = line
                    .split_once(':')
                    .unwrap_or_else(|| panic!("no field: {line:?} in\n{text}"));
                (name.to_owned(), value.trim().to_owned())
            })
            .collect();
        Some(Self { start, fields })
    }

    /// The request line or status line.
    pub fn start(&self) -> &str {
        &self.start
    }

    /// A word of the start line; the last of its three may contain blanks.
    pub(crate) fn word(&self, index: usize) -> &str {
        self.start.splitn(3, ' ').nth(index).unwrap_or_default()
    }

    /// All fields in order.
    pub fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    /// All values of a field.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The only value of a field; `None` if there is none.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() <= 1, "{name} is there more than once: {self}");
        values.first().copied()
    }

    /// The names of all fields that begin so, whatever the case.
    pub fn names_beginning(&self, prefix: &str) -> Vec<&str> {
        self.fields
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| name.to_lowercase().starts_with(prefix))
            .collect()
    }

    fn is_chunked(&self) -> bool {
        self.field("Transfer-Encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }

    fn length(&self) -> Option<usize> {
        let length = self.field("Content-Length")?;
        Some(
            length
                .parse()
                .unwrap_or_else(|_| panic!("Content-Length is {length:?}")),
        )
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.start)?;
        for (name, value) in &self.fields {
            writeln!(f, "{name}: {value}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// By its length.
    Sized(usize),
    /// By the last chunk.
    Chunked,
    /// By the end of the connection.
    ToEnd,
}

impl Framing {
    pub(crate) fn of_request(head: &Head) -> Self {
        match head.length() {
            _ if head.is_chunked() => Self::Chunked,
            None | Some(0) => Self::Empty,
            Some(length) => Self::Sized(length),
        }
    }

    pub(crate) fn of_response(head: &Head, method: &str) -> Self {
        let is_bodiless = matches!(head.word(1).as_bytes(), [b'1', ..] | b"204" | b"304");
        match head.length() {
            _ if is_bodiless || method == "HEAD" => Self::Empty,
            _ if head.is_chunked() => Self::Chunked,
            Some(0) => Self::Empty,
            Some(length) => Self::Sized(length),
            None => Self::ToEnd,
        }
    }
}

/// What comes next of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A chunk, or whatever was there.
    Data(Vec<u8>),
    /// The end as the framing says; never of [`Framing::ToEnd`].
    End,
}

/// Takes a body out of a connection's bytes.
#[derive(Debug)]
pub(crate) struct Decoder {
    framing: Framing,
}

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        Self { framing }
    }

    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    /// The next piece in `input`; `None` if more is needed.
    pub(crate) fn next(&mut self, input: &mut Vec<u8>) -> Option<Piece> {
        match &mut self.framing {
            Framing::Empty => Some(Piece::End),
            Framing::Sized(left) => {
                let count = input.len().min(*left);
                *left -= count;
                if *left == 0 {
                    self.framing = Framing::Empty;
                }
                take(input, count)
            }
            Framing::ToEnd => {
                let count = input.len();
                take(input, count)
            }
            Framing::Chunked => self.next_chunk(input),
        }
    }

    fn next_chunk(&mut self, input: &mut Vec<u8>) -> Option<Piece> {
        let line = find(input, b"\r\n")?;
        let size = String::from_utf8_lossy(&input[..line]).into_owned();
        let size = usize::from_str_radix(&size, 16)
            .unwrap_or_else(|_| panic!("{size:?} is no size of a chunk"));
        let begin = line + 2;
        let end = begin + size;
        if input.len() < end + 2 {
            return None;
        }
        assert_eq!(&input[end..end + 2], b"\r\n", "a chunk's end is missing");
        let data = input[begin..end].to_vec();
        input.drain(..end + 2);
        if data.is_empty() {
            self.framing = Framing::Empty;
            return Some(Piece::End);
        }
        Some(Piece::Data(data))
    }
}

fn take(input: &mut Vec<u8>, count: usize) -> Option<Piece> {
    (count > 0).then(|| Piece::Data(input.drain(..count).collect()))
}

/// Where `pattern` begins in `bytes`.
pub(crate) fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}
