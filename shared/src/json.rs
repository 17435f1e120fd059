//! Typed access to JSON that publishers and origins send, with the reference proxy's error texts.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

/// Headers that one answer in JSON may bring, as many as are read from an origin; bounds the
/// header map that they become, which holds no more than 32,768.
const MAX_HEADERS: usize = 100;

/// Header fields in the order given.
pub(crate) type Headers = Vec<(HeaderName, HeaderValue)>;

/// Why a JSON object is not of the shape that its reader needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// Something else stands where an object is needed.
    #[error("{0} is not an object")]
    NotAnObject(&'static str),
    /// A required member is absent.
    #[error("{of} does not contain '{member}'")]
    Missing {
        /// What lacks the member.
        of: &'static str,
        /// The member's name.
        member: &'static str,
    },
    /// A member is of another JSON type than it must be.
    #[error("{of} contains '{member}' with wrong type")]
    WrongType {
        /// What holds the member.
        of: &'static str,
        /// The member's name.
        member: String,
    },
    /// A member is of the right type, but out of range.
    #[error("{of} contains '{member}' with invalid value")]
    InvalidValue {
        /// What holds the member.
        of: &'static str,
        /// The member's name.
        member: &'static str,
    },
    /// A member holds a word that has no meaning there.
    #[error("{of} contains '{member}' with unknown value")]
    UnknownValue {
        /// What holds the member.
        of: &'static str,
        /// The member's name.
        member: &'static str,
    },
    /// A list holds an element of another JSON type than it must be.
    #[error("{0} contains element with wrong type")]
    ElementType(&'static str),
    /// A header in a list is not a pair.
    #[error("headers contains list with wrong number of elements")]
    HeaderPair,
    /// A header's name in a list is not a string.
    #[error("header contains name element with wrong type")]
    HeaderNameType,
    /// A header's value in a list is not a string.
    #[error("header contains value element with wrong type")]
    HeaderValueType,
    /// A header's name or value may not stand in an HTTP message.
    #[error("headers contains '{0}', which is not a valid header")]
    HeaderInvalid(String),
    /// More headers than one answer may bring.
    #[error("headers contains {found} headers, at most {allowed} are allowed")]
    TooManyHeaders {
        /// Headers given.
        found: usize,
        /// Headers allowed.
        allowed: usize,
    },
}

/// An object and how error texts call it.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    pub(crate) name: &'static str,
    members: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    pub(crate) fn new(name: &'static str, value: &'a Value) -> Result<Self, ShapeError> {
        match value {
            Value::Object(members) => Ok(Self { name, members }),
            _ => Err(ShapeError::NotAnObject(name)),
        }
    }

    pub(crate) fn is_empty(self) -> bool {
        self.members.is_empty()
    }

    /// The member as it stands, `null` included.
    pub(crate) fn raw(self, member: &str) -> Option<&'a Value> {
        self.members.get(member)
    }

    /// The member; `null` counts as absent.
    pub(crate) fn present(self, member: &str) -> Option<&'a Value> {
        self.raw(member).filter(|value| !value.is_null())
    }

    pub(crate) fn string(self, member: &str) -> Result<Option<&'a str>, ShapeError> {
        self.typed(member, self.raw(member), Value::as_str)
    }

    /// As [`Self::string`], where `null` counts as absent.
    pub(crate) fn nullable_string(self, member: &str) -> Result<Option<&'a str>, ShapeError> {
        self.typed(member, self.present(member), Value::as_str)
    }

    pub(crate) fn boolean(self, member: &str) -> Result<Option<bool>, ShapeError> {
        self.typed(member, self.raw(member), Value::as_bool)
    }

    pub(crate) fn list(self, member: &str) -> Result<Option<&'a Vec<Value>>, ShapeError> {
        self.typed(member, self.raw(member), Value::as_array)
    }

    /// The member as an object, which error texts of its own members call `name`.
    pub(crate) fn object(
        self,
        member: &str,
        name: &'static str,
    ) -> Result<Option<Self>, ShapeError> {
        let members = self.typed(member, self.raw(member), Value::as_object)?;
        Ok(members.map(|members| Self { name, members }))
    }

    /// An integer, given as a number (a fraction is rounded) or as a numeric string, because
    /// widely used libraries write `"code": "200"`.
    pub(crate) fn integer(self, member: &str) -> Result<Option<i64>, ShapeError> {
        self.typed(member, self.raw(member), integer)
    }

    /// Bytes, given as base64 in the member `binary` or else as text in the member `text`.
    pub(crate) fn bytes(self, binary: &str, text: &str) -> Result<Option<Bytes>, ShapeError> {
        if let Some(digits) = self.string(binary)? {
            return Ok(Some(decode_base64_leniently(digits.as_bytes())));
        }
        let text = self.string(text)?;
        Ok(text.map(|text| Bytes::copy_from_slice(text.as_bytes())))
    }

    /// The member `code` as the status of an answer, 100 to 999.
    pub(crate) fn status_code(self) -> Result<Option<StatusCode>, ShapeError> {
        let Some(code) = self.integer("code")? else {
            return Ok(None);
        };
        u16::try_from(code)
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok())
            // A final answer has no code below 200; RFC 9110 §15.2.
            .filter(|code| !code.is_informational())
            .map(Some)
            .ok_or_else(|| self.invalid_value("code"))
    }

    /// The member `reason` as the reason phrase of an answer; empty counts as absent.
    pub(crate) fn reason_phrase(self) -> Result<Option<String>, ShapeError> {
        let reason = self.string("reason")?.filter(|reason| !reason.is_empty());
        // A line end in the reason would forge headers.
        if reason.is_some_and(|reason| reason.chars().any(char::is_control)) {
            return Err(self.invalid_value("reason"));
        }
        Ok(reason.map(str::to_owned))
    }

    /// The member `headers` of an answer: an object, or a list of pairs.
    pub(crate) fn headers(self) -> Result<Headers, ShapeError> {
        let pairs: Vec<(&str, &str)> = match self.raw("headers") {
            None => Vec::new(),
            Some(Value::Object(members)) => members
                .iter()
                .map(header_member)
                .collect::<Result<_, _>>()?,
            Some(Value::Array(list)) => list.iter().map(header_pair).collect::<Result<_, _>>()?,
            Some(_) => return Err(self.wrong_type("headers")),
        };
        if pairs.len() > MAX_HEADERS {
            return Err(ShapeError::TooManyHeaders {
                found: pairs.len(),
                allowed: MAX_HEADERS,
            });
        }
        pairs
            .into_iter()
            .map(|(name, value)| header(name, value))
            .collect()
    }

    /// All members, each of which has to be a string.
    pub(crate) fn strings(self) -> Result<BTreeMap<String, String>, ShapeError> {
        self.members
            .iter()
            .map(|(name, value)| {
                let value = value.as_str().ok_or_else(|| self.wrong_type(name))?;
                Ok((name.clone(), value.to_owned()))
            })
            .collect()
    }

    pub(crate) fn invalid_value(self, member: &'static str) -> ShapeError {
        ShapeError::InvalidValue {
            of: self.name,
            member,
        }
    }

    pub(crate) fn wrong_type(self, member: &str) -> ShapeError {
        ShapeError::WrongType {
            of: self.name,
            member: member.to_owned(),
        }
    }

    fn typed<T>(
        self,
        member: &str,
        value: Option<&'a Value>,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ShapeError> {
        match value {
            None => Ok(None),
            Some(value) => convert(value)
                .map(Some)
                .ok_or_else(|| self.wrong_type(member)),
        }
    }
}

fn header_member<'a>(
    (name, value): (&'a String, &'a Value),
) -> Result<(&'a str, &'a str), ShapeError> {
    let value = value.as_str().ok_or_else(|| ShapeError::WrongType {
        of: "headers",
        member: name.clone(),
    })?;
    Ok((name, value))
}

fn header_pair(value: &Value) -> Result<(&str, &str), ShapeError> {
    let pair = value.as_array().ok_or(ShapeError::ElementType("headers"))?;
    let [name, value] = pair.as_slice() else {
        return Err(ShapeError::HeaderPair);
    };
    Ok((
        name.as_str().ok_or(ShapeError::HeaderNameType)?,
        value.as_str().ok_or(ShapeError::HeaderValueType)?,
    ))
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), ShapeError> {
    let invalid = || ShapeError::HeaderInvalid(name.to_owned());
    Ok((
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?,
        HeaderValue::from_bytes(value.as_bytes()).map_err(|_| invalid())?,
    ))
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| rounded(number.as_f64()?)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the range is checked before the cast"
)]
fn rounded(number: f64) -> Option<i64> {
    let rounded = number.round();
    (rounded.abs() < 1e15).then_some(rounded as i64)
}

/// Decodes standard base64 as far as it is base64: other bytes are skipped, padding is optional.
pub(crate) fn decode_base64_leniently(text: &[u8]) -> Bytes {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let mut digits: Vec<u8> = text
        .iter()
        .copied()
        .filter(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
        .collect();
    if digits.len() % 4 == 1 {
        // Six bits are no byte.
        digits.pop();
    }
    Bytes::from(LENIENT.decode(digits).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn base64_is_decoded_leniently() {
        for (text, decoded) in [
            ("AAH/", &[0, 1, 255][..]),
            ("aGk=", b"hi"),
            ("aGk", b"hi"),
            ("a G\nk=!", b"hi"),
            ("aGkx_-YQ==", b"hi1a"),
            ("a", b""),
            ("", b""),
        ] {
            assert_eq!(decode_base64_leniently(text.as_bytes()), decoded, "{text}");
        }
    }
}
