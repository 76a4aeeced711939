//! Which backend compiles, and which one opens a plan again.
