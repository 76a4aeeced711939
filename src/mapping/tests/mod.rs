//! Tests of the whole mapping, on fixtures and on generated models.

mod adversary;
mod fixtures;
mod planted;
mod property;
