//! A document of `--mapping`. `src/reading.rs` says what is done with it, and replays the corpus as an ordinary test.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trtmut::reading::mapping(data));
