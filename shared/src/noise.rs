//! Random and damaged input for tests: the same seed gives the same.

use serde_json::{Value, json};

/// A source of it; xorshift64.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// JSON as bytes: of the right syntax with wrong values in one or two places, and every fourth
    /// time with wrong bytes too.
    pub(crate) fn damaged(&mut self, valid: &Value) -> Vec<u8> {
        let mut value = valid.clone();
        for _ in 0..=self.below(2) {
            self.spoil(&mut value);
        }
        let mut bytes = value.to_string().into_bytes();
        if self.below(4) == 0 {
            self.spoil_bytes(&mut bytes);
        }
        bytes
    }

    /// Up to `longest` bytes out of `alphabet`.
    pub(crate) fn text(&mut self, alphabet: &[u8], longest: usize) -> Vec<u8> {
        let length = self.below(longest + 1);
        (0..length)
            .map(|_| alphabet[self.below(alphabet.len())])
            .collect()
    }

    fn spoil(&mut self, value: &mut Value) {
        let part = match value {
            Value::Array(list) => self.pick(list.iter_mut()),
            Value::Object(members) => self.pick(members.values_mut()),
            _ => None,
        };
        match part {
            Some(part) if self.below(8) > 0 => self.spoil(part),
            _ => *value = self.junk(),
        }
    }

    fn pick<'a>(
        &mut self,
        parts: impl ExactSizeIterator<Item = &'a mut Value>,
    ) -> Option<&'a mut Value> {
        let mut parts = parts;
        let at = self.below(parts.len().max(1));
        parts.nth(at)
    }

    fn junk(&mut self) -> Value {
        let mut junk = vec![
            json!(null),
            json!(true),
            json!(0),
            json!(-1),
            json!(0.5),
            json!(1e300),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(""),
            json!("30"),
            json!("\r\n\0ü"),
            json!("/a/0/-"),
            json!("/b"),
            json!("x".repeat(2000)),
            json!([]),
            json!([[]]),
            json!(["a", "b"]),
            json!({}),
            json!({"": null}),
        ];
        junk.swap_remove(self.below(junk.len()))
    }

    fn spoil_bytes(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(4) {
            0 => bytes.truncate(at),
            1 => bytes[at] = self.byte(),
            2 => bytes.insert(at, self.byte()),
            _ => *bytes = (0..at).map(|_| self.byte()).collect(),
        }
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % bound
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
