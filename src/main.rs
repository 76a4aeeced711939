//! trtmut's entry point.

fn main() {}
