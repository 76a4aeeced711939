//! Progress as data: work reports events, `ui` draws them, tests collect them.

/// One thing that happened during long work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A step begins; `total` is in the step's own unit (bytes, tensors), `None` when unknown.
    Begin {
        /// What is being done, e.g. `hashing weights`.
        step: &'a str,
        /// Units of work ahead.
        total: Option<u64>,
    },
    /// A step begins whose units are bytes.
    BeginBytes {
        /// What is being done.
        step: &'a str,
        /// Bytes of the whole step.
        bytes: u64,
    },
    /// So many more units of the current step are done.
    Advance(u64),
    /// The current step is over.
    End,
    /// What was done, worth knowing unless `-q`.
    Status(&'a str),
    /// Worth knowing with `-v`.
    Note(&'a str),
    /// Worth knowing always, also with `-q`.
    Warn(&'a str),
}

/// Receives events, also from several threads at once.
pub trait Watch: Sync {
    fn event(&self, event: Event<'_>);
}

pub struct Silent;

impl Watch for Silent {
    fn event(&self, _: Event<'_>) {}
}
