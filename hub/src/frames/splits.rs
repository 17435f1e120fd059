//! That what is read does not depend on how it comes; for fuzzing.

use super::decode::FrameError;
use super::{Decoder, Deflate, Input, Masking, PIECE, Payload, Place, Rules};

/// What the bytes are, messages joined.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    inputs: Vec<Input>,
    end: Result<(), FrameError>,
}

/// Reads the bytes behind the first at once and in parts, and in parts of which at most the first
/// is heard; that byte chooses rules and parts.
///
/// # Panics
/// If it makes a difference beside what is not heard.
pub(crate) fn check_splits(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else {
        return;
    };
    let rules = Rules {
        masking: if choice & 1 == 0 {
            Masking::Required
        } else {
            Masking::Forbidden
        },
        deflate: (choice & 2 != 0)
            .then(|| Deflate::with_window_bits(15))
            .flatten(),
        payload: Payload::Heard,
    };
    let step = 1 + usize::from(choice >> 2);
    let whole = read(bytes, rules, bytes.len().max(1));
    let parts = read(bytes, rules, step);
    for heard in 0..2 {
        check_skipped(&parts, &read_first(bytes, rules, step, heard));
    }
    match (whole.end, parts.end) {
        // A part may show that a text is wrong before another shows that it is not compressed.
        (Err(_), Err(_)) if rules.deflate.is_some() => {}
        _ => assert_eq!(whole, parts, "{rules:?}"),
    }
}

/// Frames are told apart alike; but where nobody looks, nothing is wrong with a message.
fn check_skipped(heard: &Reading, skipped: &Reading) {
    let is_message_wrong = matches!(heard.end, Err(FrameError::Utf8 | FrameError::Deflate));
    if !is_message_wrong {
        assert_eq!(heard.controls(), skipped.controls());
        assert_eq!(heard.end, skipped.end);
    }
}

impl Reading {
    fn controls(&self) -> Vec<&Input> {
        let is_control = |input: &&Input| !matches!(input, Input::Piece(_));
        self.inputs.iter().filter(is_control).collect()
    }
}

fn read(bytes: &[u8], rules: Rules, step: usize) -> Reading {
    read_first(bytes, rules, step, usize::MAX)
}

/// Hears that many of the parts.
fn read_first(bytes: &[u8], mut rules: Rules, step: usize, heard: usize) -> Reading {
    let mut decoder = Decoder::default();
    let mut inputs = Vec::new();
    for (number, mut part) in bytes.chunks(step).enumerate() {
        if number >= heard {
            rules.payload = Payload::Skipped;
        }
        loop {
            match decoder.decode(&mut part, rules) {
                Ok(None) => {
                    assert!(part.is_empty(), "all is read");
                    break;
                }
                Ok(Some(input)) => join(&mut inputs, input),
                Err(error) => {
                    return Reading {
                        inputs,
                        end: Err(error),
                    };
                }
            }
        }
    }
    Reading {
        inputs,
        end: Ok(()),
    }
}

/// A piece goes to the message that it belongs to, control frames between them or not.
fn join(inputs: &mut Vec<Input>, input: Input) {
    let Input::Piece(piece) = input else {
        return inputs.push(input);
    };
    assert!(piece.bytes.len() <= 2 * PIECE, "no piece is large");
    let is_text = piece.kind == super::MessageKind::Text;
    assert!(!is_text || std::str::from_utf8(&piece.bytes).is_ok());
    let last = inputs.iter_mut().rev().find_map(|input| match input {
        Input::Piece(piece) => Some(piece),
        _ => None,
    });
    let begun = last.filter(|last| matches!(last.place, Place::First | Place::Middle));
    match (begun, piece.place) {
        (Some(begun), Place::Middle | Place::Last) => {
            assert_eq!(begun.kind, piece.kind);
            begun.bytes = [&begun.bytes[..], &piece.bytes].concat().into();
            if piece.place == Place::Last {
                begun.place = Place::Whole;
            }
        }
        (None, Place::Whole | Place::First) => {
            inputs.push(Input::Piece(piece));
        }
        (begun, _) => panic!("{piece:?} behind {begun:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_make_no_difference() {
        for choice in 0..=255 {
            for frames in [
                &b"\x01\x02a\xce\x89\x01p\x00\x00\x80\x01\xba\x88\x00"[..],
                b"\x41\x03\xf2\x48\xcd\x80\x04\xc9\xc9\x07\x00\x81\x01x",
                b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\x82\x80\0\0\0\0\x83",
            ] {
                check_splits(&[&[choice], frames].concat());
            }
        }
    }
}
