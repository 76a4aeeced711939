//! Draws progress on a terminal.

use super::escape;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::Mutex;
use std::time::Duration;

/// One bar or spinner at a time, on stderr.
pub struct Progress {
    bar: Mutex<Option<ProgressBar>>,
    /// Where the next one is drawn.
    target: fn() -> ProgressDrawTarget,
}

impl Progress {
    pub fn new() -> Progress {
        Progress {
            bar: Mutex::new(None),
            target: ProgressDrawTarget::stderr,
        }
    }

    /// Starts a step, in the place of the one before.
    pub fn begin(&self, step: &str, total: Option<u64>) {
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
        // What was drawn before goes first, since a message draws at once: two at a time take a line each, and one of them stays.
        self.swap(None);
        bar.set_draw_target((self.target)());
        bar.set_message(escape::line(step).into_owned());
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
        self.bar
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

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::TermLike;
    use std::io;

    const WIDTH: usize = 80;

    /// What a terminal of [`WIDTH`] columns shows, and where its cursor is (row, column).
    static SCREEN: Mutex<(Vec<String>, usize, usize)> = Mutex::new((Vec::new(), 0, 0));

    #[derive(Debug)]
    struct Terminal;

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            WIDTH as u16
        }

        fn move_cursor_up(&self, n: usize) -> io::Result<()> {
            SCREEN.lock().unwrap().1 -= n;
            Ok(())
        }

        fn move_cursor_down(&self, n: usize) -> io::Result<()> {
            SCREEN.lock().unwrap().1 += n;
            Ok(())
        }

        fn move_cursor_right(&self, n: usize) -> io::Result<()> {
            SCREEN.lock().unwrap().2 += n;
            Ok(())
        }

        fn move_cursor_left(&self, n: usize) -> io::Result<()> {
            let mut screen = SCREEN.lock().unwrap();
            screen.2 = screen.2.saturating_sub(n);
            Ok(())
        }

        fn write_line(&self, line: &str) -> io::Result<()> {
            self.write_str(line)?;
            let mut screen = SCREEN.lock().unwrap();
            (screen.1, screen.2) = (screen.1 + 1, 0);
            Ok(())
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            let mut screen = SCREEN.lock().unwrap();
            let (rows, row, column) = &mut *screen;
            for c in text.chars() {
                if *column == WIDTH {
                    (*row, *column) = (*row + 1, 0);
                }
                if rows.len() <= *row {
                    rows.resize(*row + 1, " ".repeat(WIDTH));
                }
                let mut line: Vec<char> = rows[*row].chars().collect();
                line[*column] = c;
                rows[*row] = line.into_iter().collect();
                *column += 1;
            }
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            let mut screen = SCREEN.lock().unwrap();
            let (rows, row, column) = &mut *screen;
            if let Some(line) = rows.get_mut(*row) {
                *line = " ".repeat(WIDTH);
            }
            *column = 0;
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_step_replaces_the_other_and_nothing_stays() {
        let progress = Progress {
            bar: Mutex::new(None),
            target: || ProgressDrawTarget::term_like_with_hz(Box::new(Terminal), 255),
        };
        let shown = || -> Vec<String> {
            let rows = SCREEN.lock().unwrap().0.clone();
            let rows = rows.iter().map(|r| r.trim_end().to_owned());
            rows.filter(|r| !r.is_empty()).collect()
        };
        for _ in 0..20 {
            for (step, begin) in [
                ("reading", (|p, s| p.begin(s, None)) as fn(&Progress, &str)),
                ("checking", |p, s| p.begin(s, Some(3))),
                ("writing", |p, s| p.begin_bytes(s, 1 << 20)),
            ] {
                begin(&progress, step);
                // Its own thread draws it, at once.
                while shown().is_empty() {
                    std::thread::yield_now();
                }
                let now = shown();
                assert!(now.len() == 1 && now[0].contains(step), "{now:?}");
            }
        }
        progress.clear();
        assert_eq!(shown(), Vec::<String>::new());
    }
}
