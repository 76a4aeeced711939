//! What the library promises, without the binary: verdicts, the ledger, the cache on disk, and how the code is laid out.

mod cache_faults;
mod cache_keys;
mod cache_race;
mod cache_store;
mod layers;
mod ledger;
mod verdicts;
