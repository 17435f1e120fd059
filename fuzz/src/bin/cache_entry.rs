//! Metadata of stored answers: what can be read is written as it was read.
#![no_main]

use grip::cache::{Entry, EntryError};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(entry) = Entry::decode(bytes) else {
        return;
    };
    match entry.encode() {
        Ok(encoded) => assert_eq!(Entry::decode(&encoded), Ok(entry)),
        Err(error) => assert!(matches!(error, EntryError::TooLarge(_)), "{error}"),
    }
});
