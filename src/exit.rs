//! The exit codes. They are part of the interface; scripts may rely on every line. `cli.rs`, the README, `docs/formats.md` and
//! `docs/ci.md` tell of all of them, which `tests/docs.rs` checks.

use crate::fault::Class;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    /// The files or values given are wrong; nothing on disk changed.
    BadInput = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The machine lacks something: library, driver, GPU, space, permission, lock.
    Environment = 3,
    /// `diff --exit-code`: a refit is enough.
    NeedsRefit = 10,
    /// `diff --exit-code`: a recompile is needed; `refit` refused for that reason.
    NeedsRecompile = 20,
    /// `diff --exit-code`: it cannot be decided.
    Unknown = 30,
    /// `run --expect`, `--verify`: outputs differ.
    Differs = 40,
    /// Our own bug, as is every error that explains nothing of itself.
    Bug = 70,
    /// Ended by SIGINT; temporary files are gone.
    Interrupted = 130,
    /// Ended by SIGTERM; temporary files are gone.
    Terminated = 143,
}

impl From<Class> for Exit {
    fn from(class: Class) -> Self {
        match class {
            Class::Input => Exit::BadInput,
            Class::Usage => Exit::Usage,
            Class::Environment => Exit::Environment,
            Class::NeedsRecompile => Exit::NeedsRecompile,
            Class::Differs => Exit::Differs,
            Class::Bug => Exit::Bug,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit as u8)
    }
}
