//! The items that are published: their text, and how they are found in what clients receive.

use memchr::memchr;

/// Bytes of an item's content.
pub(crate) const SIZE: usize = 64;
/// Bytes of an item that say which one it is.
const NAMED: usize = 17;
/// The others.
const FILLING: &[u8; SIZE - NAMED] = b"..............................................\n";
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
        let filling = String::from_utf8_lossy(&FILLING[..FILLING.len() - 1]);
        format!("#{channel:08x}{number:08x}{filling}")
    }

    /// `None` if any byte is not as it was published.
    fn read(bytes: &[u8; SIZE]) -> Option<Self> {
        bytes.ends_with(FILLING).then(|| Self {
            channel: hex(&bytes[1..9]),
            number: hex(&bytes[9..NAMED]),
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
#[derive(Debug)]
pub(crate) struct Finder {
    /// The beginning of an item whose rest has not come.
    begun: [u8; SIZE],
    length: u8,
}

impl Default for Finder {
    fn default() -> Self {
        Self {
            begun: [0; SIZE],
            length: 0,
        }
    }
}

impl Finder {
    /// Calls `found` with every whole item that ends in `bytes`.
    pub(crate) fn find(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Item)) {
        if self.length > 0 {
            let have = usize::from(self.length);
            let taken = bytes.len().min(SIZE - have);
            self.begun[have..have + taken].copy_from_slice(&bytes[..taken]);
            self.length += u8::try_from(taken).unwrap_or(0);
            if have + taken < SIZE {
                return;
            }
            self.length = 0;
            let begun = self.begun;
            self.find(&begun, found);
            return self.find(&bytes[taken..], found);
        }
        while let Some(at) = memchr(BEGIN, bytes) {
            bytes = &bytes[at..];
            let Some((whole, rest)) = bytes.split_first_chunk() else {
                self.begun[..bytes.len()].copy_from_slice(bytes);
                self.length = u8::try_from(bytes.len()).unwrap_or(0);
                return;
            };
            if let Some(item) = Item::read(whole) {
                found(item);
                bytes = rest;
            } else {
                bytes = &bytes[1..];
            }
        }
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
                finder.find(piece, &mut |item| found.push(item));
            }
            assert_eq!(found, items, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_not_as_it_was_published_is_not_found() {
        let item = |number| Item { channel: 7, number };
        let [cut, mangled, whole] = [1, 2, 3].map(|number| item(number).text() + "\n");
        let text = cut[..30].to_owned() + &mangled.replace("...", ".,.") + &whole;
        for size in 1..text.len() {
            let mut finder = Finder::default();
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                finder.find(piece, &mut |item| found.push(item));
            }
            assert_eq!(found, [item(3)], "in pieces of {size}");
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
