//! Draws progress on a terminal.

use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Mutex;
use std::time::Duration;

/// One bar or spinner at a time, on stderr.
pub struct Progress(Mutex<Option<ProgressBar>>);

impl Progress {
    /// Nothing drawn yet.
    pub fn new() -> Progress {
        Progress(Mutex::new(None))
    }

    /// Starts a step, replacing the one before.
    pub fn begin(&self, step: &str, total: Option<u64>) {
        let bar = match total {
            Some(n) => {
                ProgressBar::new(n).with_style(style("{msg} {bar:30} {percent:>3}% {elapsed}"))
            }
            None => ProgressBar::new_spinner().with_style(style("{spinner} {msg} {elapsed}")),
        };
        bar.set_message(step.to_owned());
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
