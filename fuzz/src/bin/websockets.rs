//! WebSockets in the engine: each byte is an operation or its argument.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gripline_hub::fuzzing::websockets(bytes));
