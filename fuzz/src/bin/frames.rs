//! WebSocket frames: a byte for rules and parts, then what a peer sends.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gripline_hub::fuzzing::frames(bytes));
