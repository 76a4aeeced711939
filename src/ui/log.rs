//! What is logged, where and how much: `-v`, `-vv`, `RUST_LOG`, `--log-file`.
//!
//! Notes and steps are shown by [`super::Ui`] with `-v`; the log has them too, with what only a log has: which file was opened, how long a
//! step took, what the cache answered. Lines of the log are escaped as everything that is shown, and what happened once is one line.

use super::escape::Lines;
use crate::fsx;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tracing_subscriber::filter::{EnvFilter, FilterExt};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::fmt::time::uptime;
use tracing_subscriber::prelude::*;

/// What [`super::Ui`] says by itself; stderr has it already.
pub(super) const SAID: &str = "trtmut::said";

/// Starts the log, for the whole process; nothing is logged where nothing asks for it. `verbose` is how often `-v` was given.
///
/// # Errors
/// [`fsx::Error`] where the file cannot be appended to.
pub fn start_log(verbose: u8, quiet: bool, file: Option<&Path>) -> Result<(), fsx::Error> {
    let asked = std::env::var("RUST_LOG")
        .ok()
        .filter(|text| !text.is_empty());
    let level = |verbose| match verbose {
        0 => None,
        1 => Some("trtmut=info"),
        2 => Some("trtmut=debug"),
        _ => Some("trace"),
    };
    let filter = |usual: Option<&str>| {
        let text = asked.as_deref().or(usual)?;
        // What is wrong in RUST_LOG is left out: a log is no reason to refuse a command.
        Some(EnvFilter::builder().parse_lossy(text))
    };
    let screen = filter(level(verbose)).filter(|_| !quiet);
    let file = match file {
        Some(path) => Some((fsx::open_log(path)?, filter(level(verbose.max(2))))),
        None => None,
    };
    if screen.is_none() && file.is_none() {
        return Ok(());
    }
    let screen = screen.map(|filter| {
        let said = tracing_subscriber::filter::filter_fn(|meta| meta.target() != SAID);
        tracing_subscriber::fmt::layer()
            // Colours are control characters, which `Lines` writes out.
            .with_ansi(false)
            .with_timer(uptime())
            .with_span_events(FmtSpan::CLOSE)
            .with_writer(|| Lines::new(io::stderr()))
            .with_filter(filter.and(said))
    });
    let file = file.map(|(file, filter)| {
        let file = Arc::new(file);
        tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_span_events(FmtSpan::CLOSE)
            .with_writer(Mutex::new(Lines::new(file)))
            .with_filter(filter)
    });
    // A second one in the same process, as in tests, changes nothing.
    let _ = tracing_subscriber::registry()
        .with(screen)
        .with(file)
        .try_init();
    Ok(())
}
