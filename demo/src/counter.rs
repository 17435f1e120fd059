//! Counters: their names, their values, and how both are written for clients.

use std::fmt;

use serde::Serialize;

/// Bytes in the longest name; bounds keys in the store and channel names in the hub.
const MAX_NAME_BYTES: usize = 64;

/// The name of a counter: letters, digits, `-` and `_`, so that it needs no escaping as a path
/// segment, in GRIP `Grip-Channel` and in a surrogate key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CounterName(String);

/// Why a text is no counter name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No text at all.
    #[error("the counter name is empty")]
    Empty,
    /// Longer than a name may be.
    #[error("the counter name has {found} bytes, {MAX_NAME_BYTES} are allowed")]
    TooLong {
        /// Bytes in the text.
        found: usize,
    },
    /// A character that would need escaping somewhere.
    #[error("the counter name contains {0:?}, allowed are A-Z, a-z, 0-9, - and _")]
    Character(char),
}

impl CounterName {
    /// The name in a path segment.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong { found: text.len() });
        }
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        match text.chars().find(|c| !is_allowed(*c)) {
            Some(character) => Err(NameError::Character(character)),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The channel on which this counter's updates are published.
    pub fn channel(&self) -> String {
        format!("counter-{}", self.0)
    }
}

impl fmt::Display for CounterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The value of a counter at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Whose value.
    pub name: CounterName,
    /// How many increments there have been.
    pub value: u64,
}

/// [`Count`] as clients read it.
#[derive(Serialize)]
struct CountJson<'a> {
    name: &'a str,
    value: u64,
}

impl Count {
    /// The count as a JSON object.
    pub fn to_json(&self) -> String {
        let json = CountJson {
            name: self.name.as_str(),
            value: self.value,
        };
        serde_json::to_string(&json).expect("a string and a number are JSON")
    }

    /// The count as a server-sent event.
    ///
    /// The value is the id: it grows with each event, so a client can tell an old event from a new one.
    pub fn to_event(&self) -> String {
        format!("id: {}\ndata: {}\n\n", self.value, self.to_json())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(text: &str, expected: NameError) {
        assert_eq!(CounterName::parse(text), Err(expected), "{text:?}");
    }

    #[test]
    fn names_that_need_escaping_are_refused() {
        check_refused("", NameError::Empty);
        check_refused("a b", NameError::Character(' '));
        check_refused("a%20b", NameError::Character('%'));
        check_refused("a/b", NameError::Character('/'));
        check_refused("a,b", NameError::Character(','));
        check_refused("a;b", NameError::Character(';'));
        check_refused("ä", NameError::Character('ä'));
        check_refused("a\r\n", NameError::Character('\r'));
    }

    #[test]
    fn names_have_at_most_64_bytes() {
        assert!(CounterName::parse(&"x".repeat(64)).is_ok());
        check_refused(&"x".repeat(65), NameError::TooLong { found: 65 });
    }

    #[test]
    fn an_event_carries_its_value_as_id() {
        let count = Count {
            name: CounterName::parse("clicks").unwrap(),
            value: 41,
        };
        assert_eq!(
            count.to_event(),
            "id: 41\ndata: {\"name\":\"clicks\",\"value\":41}\n\n"
        );
    }
}
