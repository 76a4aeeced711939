//! Draws progress on a terminal.

use super::escape;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Mutex;
use std::time::Duration;

/// One bar or spinner at a time, on stderr.
pub struct Progress(Mutex<Option<ProgressBar>>);

impl Progress {
    pub fn new() -> Progress {
        Progress(Mutex::new(None))
    }

    /// Starts a step, in the place of the one before.
    pub fn begin(&self, step: &str, total: Option<u64>) {
        // Before the new one draws: two at once would take a line each, and one of them would stay.
        self.clear();
        let bar = match total {
            Some(n) => {
                ProgressBar::new(n).with_style(style("{msg} {bar:30} {percent:>3}% {elapsed}"))
            }
            None => ProgressBar::new_spinner().with_style(style("{spinner} {msg} {elapsed}")),
        };
        self.show(step, bar);
    }

    /// Starts a step that is counted in bytes, replacing the one before: with its speed, and how long it will take.
    pub fn begin_bytes(&self, step: &str, bytes: u64) {
        let template = "{msg} {bar:30} {percent:>3}% {binary_bytes_per_sec} {elapsed}, {eta} left";
        self.show(step, ProgressBar::new(bytes).with_style(style(template)));
    }

    fn show(&self, step: &str, bar: ProgressBar) {
        bar.set_message(escape::line(step).into_owned());
        // What was drawn before goes first: its ticks would draw it again.
        self.swap(None);
        bar.enable_steady_tick(Duration::from_millis(120));
        self.swap(Some(bar));
    }

    /// `n` more units are done.
    pub fn advance(&self, n: u64) {
        if let Some(bar) = &*self.lock() {
            bar.inc(n);
        }
    }

    /// Removes what is drawn.
    pub fn clear(&self) {
        self.swap(None);
    }

    fn swap(&self, new: Option<ProgressBar>) {
        if let Some(old) = std::mem::replace(&mut *self.lock(), new) {
            old.finish_and_clear();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        // A panic while drawing leaves nothing that could be inconsistent.
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates in this file are well-formed")
}
