//! A shape spec from hostile text. `src/shapes/tests/hostile.rs` replays the corpus as an ordinary test.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        trtmut_fuzz::exercise::exercise(text);
    }
});
