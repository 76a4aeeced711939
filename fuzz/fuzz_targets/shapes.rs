//! A shape spec from hostile text. `src/shapes/tests/hostile.rs` replays the corpus as an ordinary test.

#![no_main]
#![allow(dead_code, unused_imports)]

#[path = "../../src/shapes/tests/exercise.rs"]
mod exercise;
#[path = "../../src/fault.rs"]
mod fault;
#[path = "../../src/shapes/mod.rs"]
mod shapes;
#[path = "../../src/tensor/mod.rs"]
mod tensor;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        exercise::exercise(text);
    }
});
