//! The items that are published: their text, and how they are found in what clients receive.

use memchr::memchr;

/// Bytes of an item's content.
pub(crate) const SIZE: usize = 64;
/// Bytes of an item that say which one it is.
const NAMED: usize = 17;
/// Begins an item, and stands nowhere else in what servers send.
const BEGIN: u8 = b'#';

/// Which item of which channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) channel: u32,
    /// From 1.
    pub(crate) number: u32,
}

impl Item {
    /// Its content without the line end that belongs to it.
    pub(crate) fn text(self) -> String {
        let Self { channel, number } = self;
        let dots = SIZE - NAMED - 1;
        format!("#{channel:08x}{number:08x}{:.<dots$}", "")
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            channel: hex(bytes.get(1..9)?),
            number: hex(bytes.get(9..17)?),
        })
    }
}

fn hex(digits: &[u8]) -> u32 {
    digits.iter().fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            _ => digit.wrapping_sub(b'a') + 10,
        };
        value << 4 | u32::from(digit & 15)
    })
}

/// Finds items in bytes that come in pieces.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    /// The beginning of an item whose rest has not come.
    begun: [u8; NAMED],
    length: u8,
}

impl Finder {
    /// Calls `found` with every item that begins in `bytes` or ended in them.
    pub(crate) fn find(&mut self, mut bytes: &[u8], mut found: impl FnMut(Item)) {
        if self.length > 0 {
            let have = usize::from(self.length);
            let taken = bytes.len().min(NAMED - have);
            self.begun[have..have + taken].copy_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if have + taken < NAMED {
                self.keep(have + taken);
                return;
            }
            self.length = 0;
            Item::read(&self.begun).map(&mut found);
        }
        while let Some(at) = memchr(BEGIN, bytes) {
            bytes = &bytes[at..];
            let Some(item) = Item::read(bytes) else {
                self.begun[..bytes.len()].copy_from_slice(bytes);
                return self.keep(bytes.len());
            };
            found(item);
            bytes = bytes.get(SIZE - 1..).unwrap_or_default();
        }
    }

    fn keep(&mut self, length: usize) {
        self.length = u8::try_from(length).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_found_wherever_they_are_cut() {
        let items = [1, 2, 0xdead_beef].map(|number| Item { channel: 7, number });
        let text: String = items
            .iter()
            .map(|item| "40\r\n".to_owned() + &item.text() + "\n\r\n")
            .collect();
        for size in 1..text.len() {
            let mut finder = Finder::default();
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                finder.find(piece, |item| found.push(item));
            }
            assert_eq!(found, items, "in pieces of {size}");
        }
    }

    #[test]
    fn an_item_is_as_long_as_it_says() {
        let item = Item {
            channel: u32::MAX,
            number: u32::MAX,
        };
        assert_eq!(item.text().len() + 1, SIZE);
    }
}
