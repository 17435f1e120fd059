//! What waits to be written to one held connection.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf as _, Bytes};

/// What a piece that is not the oldest takes beside its bytes: its place in the queue, and its own
/// memory.
pub(crate) const PIECE: usize = 64;

/// An ordered queue of shared bytes, and the only way to write to a held connection.
///
/// One waiting piece needs no allocation, and an empty outbox owns none: most connections are idle
/// most of the time.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// The oldest piece, without what was written of it. Empty only if all is written.
    first: Bytes,
    rest: Option<Box<Rest>>,
    /// How many items the oldest piece is, if nothing of it was written and it may be left out.
    first_items: u32,
    /// Memory that the last write left.
    left: u32,
}

/// What waits behind the oldest piece.
#[derive(Debug, Default)]
struct Rest {
    pieces: VecDeque<Piece>,
    /// Bytes of all of them.
    bytes: usize,
}

#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    kind: PieceKind,
}

/// Whether what comes behind a piece has a meaning without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PieceKind {
    /// It has: these are so many items as they were published.
    Items(u32),
    Other,
}

impl Outbox {
    /// Appends what must not be left out.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.append(bytes, PieceKind::Other);
    }

    /// Appends so many items, which stay together.
    pub(crate) fn push_items(&mut self, bytes: Bytes, count: u32) {
        self.append(bytes, PieceKind::Items(count));
    }

    fn append(&mut self, bytes: Bytes, kind: PieceKind) {
        if bytes.is_empty() {
            return;
        }
        let piece = Piece { bytes, kind };
        if self.first.is_empty() {
            self.begin(piece);
        } else {
            let rest = self.rest.get_or_insert_default();
            rest.bytes += piece.bytes.len();
            rest.pieces.push_back(piece);
        }
    }

    /// A piece becomes the oldest one.
    fn begin(&mut self, piece: Piece) {
        self.first = piece.bytes;
        self.first_items = match piece.kind {
            PieceKind::Items(count) => count,
            PieceKind::Other => 0,
        };
    }

    /// Appends all that waits in `other`.
    pub(crate) fn take_from(&mut self, other: &mut Self) {
        while let Some(piece) = other.pop_piece() {
            self.append(piece.bytes, piece.kind);
        }
    }

    /// Leaves out the oldest items of which nothing was written, until what waits weighs at most
    /// `allowed` or no such item is left. Says how many.
    pub(crate) fn drop_items(&mut self, allowed: usize) -> u64 {
        let mut dropped = 0;
        while self.first_items > 0 && self.weight() > allowed {
            dropped += u64::from(self.first_items);
            self.next();
        }
        let mut weight = self.weight();
        let Some(rest) = &mut self.rest else {
            return dropped;
        };
        let bytes = &mut rest.bytes;
        rest.pieces.retain(|piece| match piece.kind {
            PieceKind::Items(count) if weight > allowed => {
                *bytes -= piece.bytes.len();
                weight -= piece.bytes.len() + PIECE;
                dropped += u64::from(count);
                false
            }
            PieceKind::Items(_) | PieceKind::Other => true,
        });
        dropped
    }

    /// Notes what a write has left, and says what the last one did: its weight, as far as it can be
    /// counted.
    pub(crate) fn note_left(&mut self, weight: usize) -> usize {
        let left = u32::try_from(weight).unwrap_or(u32::MAX);
        std::mem::replace(&mut self.left, left) as usize
    }

    /// What the last write has left weighs so much; 0 while the client takes all that is written.
    pub(crate) fn left(&self) -> usize {
        self.left as usize
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Bytes that wait.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.first.len() + self.rest.as_ref().map_or(0, |rest| rest.bytes)
    }

    /// Memory that waits, more or less: many small pieces take more than their bytes. The oldest has
    /// its place in the outbox.
    pub(crate) fn weight(&self) -> usize {
        let rest = self.rest.as_ref();
        self.first.len() + rest.map_or(0, |rest| rest.bytes + rest.pieces.len() * PIECE)
    }

    /// The one piece that waits, if it is the only one.
    pub(crate) fn only(&self) -> Option<&[u8]> {
        self.rest.is_none().then_some(&self.first)
    }

    /// Fills `slices` with the oldest pieces and says how many there are.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let rest = self.rest.iter().flat_map(|rest| rest.pieces.iter());
        let pieces = std::iter::once(&self.first)
            .filter(|first| !first.is_empty())
            .chain(rest.map(|piece| &piece.bytes));
        slices
            .iter_mut()
            .zip(pieces)
            .map(|(slice, piece)| *slice = IoSlice::new(piece))
            .count()
    }

    /// Takes the oldest piece out.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        Some(self.pop_piece()?.bytes)
    }

    /// Takes the oldest piece out, or the first `max` bytes of it.
    pub(crate) fn pop_some(&mut self, max: usize) -> Option<Bytes> {
        if self.first.len() <= max {
            return self.pop();
        }
        let some = self.first.slice(..max);
        self.consume(max);
        Some(some)
    }

    fn pop_piece(&mut self) -> Option<Piece> {
        if self.first.is_empty() {
            return None;
        }
        let kind = match self.first_items {
            0 => PieceKind::Other,
            count => PieceKind::Items(count),
        };
        let bytes = std::mem::take(&mut self.first);
        self.next();
        Some(Piece { bytes, kind })
    }

    /// Forgets the oldest `written` bytes; at most [`Self::pending_bytes`].
    pub(crate) fn consume(&mut self, mut written: usize) {
        while written >= self.first.len() {
            written -= self.first.len();
            self.next();
            if self.first.is_empty() {
                return;
            }
        }
        if written > 0 {
            self.first.advance(written);
            self.first_items = 0;
        }
    }

    /// Forgets all that waits.
    pub(crate) fn clear(&mut self) {
        self.consume(self.pending_bytes());
    }

    /// The piece behind the oldest takes its place.
    fn next(&mut self) {
        let next = self.rest.as_mut().and_then(|rest| rest.pop());
        if let Some(next) = next {
            self.begin(next);
        } else {
            self.first = Bytes::new();
            self.first_items = 0;
            self.rest = None;
        }
    }
}

impl Rest {
    fn pop(&mut self) -> Option<Piece> {
        let piece = self.pieces.pop_front()?;
        self.bytes -= piece.bytes.len();
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(outbox: &Outbox) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 8];
        let count = outbox.slices(&mut slices);
        slices[..count]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    #[test]
    fn any_way_of_writing_keeps_order_and_bytes() {
        let pieces: [&'static str; 4] = ["ab", "", "cde", "f"];
        for first in 0..=6 {
            for second in 0..=6 - first {
                let mut outbox = Outbox::default();
                for piece in pieces {
                    outbox.push(Bytes::from_static(piece.as_bytes()));
                }
                outbox.consume(first);
                outbox.consume(second);
                assert_eq!(content(&outbox), &b"abcdef"[first + second..]);
                assert_eq!(outbox.pending_bytes(), 6 - first - second);
                assert_eq!(outbox.is_empty(), first + second == 6);
            }
        }
    }

    #[test]
    fn an_empty_outbox_owns_no_memory() {
        let mut outbox = Outbox::default();
        for _ in 0..3 {
            outbox.push(Bytes::from_static(b"x"));
        }
        outbox.consume(3);
        assert!(outbox.rest.is_none());
    }

    #[test]
    fn small_pieces_weigh_more_than_their_bytes() {
        let mut outbox = Outbox::default();
        for _ in 0..1000 {
            outbox.push(Bytes::from_static(b"xy"));
        }
        assert_eq!(outbox.pending_bytes(), 2000);
        assert!(outbox.weight() > 60_000);
        outbox.consume(2000);
        assert_eq!(outbox.weight(), 0);
    }

    #[test]
    fn items_are_left_out_and_nothing_else() {
        let mut outbox = Outbox::default();
        outbox.push_items(Bytes::from_static(b"ab"), 1);
        outbox.push_items(Bytes::from_static(b"cd"), 2);
        outbox.push(Bytes::from_static(b"-"));
        outbox.push_items(Bytes::from_static(b"ef"), 1);
        outbox.consume(1);
        assert_eq!(outbox.drop_items(6 + 3 * PIECE), 0);
        assert_eq!(outbox.drop_items(4 + 2 * PIECE), 2);
        assert_eq!(content(&outbox), b"b-ef");
        assert_eq!(outbox.drop_items(0), 1);
        assert_eq!(content(&outbox), b"b-");
        assert_eq!(outbox.pending_bytes(), 2);
        outbox.consume(2);
        assert_eq!(outbox.drop_items(0), 0);
    }

    #[test]
    fn the_oldest_item_is_left_out_unless_it_has_begun() {
        let mut outbox = Outbox::default();
        outbox.push_items(Bytes::from_static(b"ab"), 1);
        outbox.push_items(Bytes::from_static(b"cd"), 2);
        outbox.consume(0);
        assert_eq!(outbox.drop_items(3 + PIECE), 1);
        assert_eq!(content(&outbox), b"cd");
        outbox.push_items(Bytes::from_static(b"ef"), 3);
        outbox.consume(2);
        assert_eq!(outbox.drop_items(0), 3);
        assert!(outbox.is_empty() && outbox.rest.is_none());
        outbox.push_items(Bytes::from_static(b"gh"), 1);
        outbox.consume(1);
        assert_eq!(outbox.drop_items(0), 0);
        assert_eq!(content(&outbox), b"h");
    }

    #[test]
    fn what_moves_to_another_outbox_stays_what_it_is() {
        let (mut outbox, mut waiting) = (Outbox::default(), Outbox::default());
        outbox.push(Bytes::from_static(b"-"));
        waiting.push_items(Bytes::from_static(b"ab"), 1);
        waiting.push(Bytes::from_static(b"-"));
        waiting.push_items(Bytes::from_static(b"cd"), 2);
        outbox.take_from(&mut waiting);
        assert!(waiting.is_empty() && waiting.rest.is_none());
        assert_eq!(content(&outbox), b"-ab-cd");
        assert_eq!(outbox.drop_items(0), 3);
        assert_eq!(content(&outbox), b"--");
    }

    #[test]
    fn slices_stop_at_the_room_there_is() {
        let mut outbox = Outbox::default();
        for _ in 0..5 {
            outbox.push(Bytes::from_static(b"x"));
        }
        assert_eq!(outbox.slices(&mut [IoSlice::new(&[]); 3]), 3);
    }
}
