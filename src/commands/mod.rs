//! One file per command: `Args`, `run()` and the `Report` that it prints, with the columns of its tables in `human`.

pub mod adopt;
pub mod build;
pub mod cache;
pub mod diff;
pub mod doctor;
mod engine_args;
pub mod export;
pub mod inspect;
mod inspect_model;
pub mod map;
mod overlay;
pub mod probe;
pub mod refit;
pub mod run;
mod shape_args;
pub mod shapes;
pub mod shell;
mod tables;
mod trtexec;
mod wanted;
pub mod watch;

use crate::cache::{CacheFault, Memo, RemoteFault};
use crate::fault::Explain;
use crate::ui::{Failure, Ui};
use crate::watch::{Event, Watch};
use crate::{arrays, engine, fsx, mapping, onnx, pipeline, plan, weights};

pub use crate::pipeline::{Environment, without_credentials};
pub use trtexec::suggest;

/// What has to be set before the process has a second thread.
pub fn prepare_process() {
    engine::tensorrt::gpu::load_kernels_lazily();
}

/// Uses this GPU, by the driver's order.
pub fn use_device(ordinal: u32) {
    engine::tensorrt::gpu::choose(ordinal);
}

/// Takes the path of a plan; see [`plan::behind_link`].
fn plan_path() -> impl clap::builder::TypedValueParser<Value = std::path::PathBuf> {
    use clap::builder::TypedValueParser;
    clap::builder::PathBufValueParser::new().map(plan::behind_link)
}

/// Says where a plan is for another GPU than the one that is used. `errors`: also where it does not run here, which what opens it
/// says by itself.
fn tell_other_gpu(plan: &std::path::Path, errors: bool, ui: &Ui) {
    // What is wrong with the manifest is said by what opens the plan.
    let Ok(made) = plan::read_maker(plan) else {
        return;
    };
    match pipeline::check_gpu(plan, &made.backend, &made.options) {
        Ok(Some(said)) => ui.event(Event::Warn(&said)),
        Err(other) if errors => ui.event(Event::Warn(&other.to_string())),
        Ok(None) | Err(_) => {}
    }
}

/// Waits until no other process changes the plan, and keeps others from it. Who reads it need not wait.
fn lock_plan(plan: &std::path::Path, ui: &Ui) -> fsx::FileLock {
    // A change of several plans that was cut short would put another file there. What is wrong with it is said where it is opened.
    let _ = plan::settle(plan);
    fsx::lock_file(plan, || {
        ui.event(Event::Warn(&format!(
            "waiting for another trtmut, which changes `{}`",
            plan.display()
        )));
    })
}

/// The machine has too little of something, as a panic of a library said.
#[derive(Debug, thiserror::Error, Explain)]
pub enum Exhausted {
    /// The system lets this process have no further thread.
    #[error("no thread can be made: {0}")]
    #[explain(code = "no-threads", class = Environment, hint("end other processes of this user, or raise `ulimit -u`"))]
    Threads(String),
    /// A tensor would be larger than any memory.
    #[error("a tensor is larger than the address space of this machine")]
    #[explain(code = "out-of-memory", class = Environment, hint("take smaller shapes, with --shape or --dim"))]
    Memory,
}

/// Where digests of files are remembered: in the engine cache's folder, where there is one that can be written. `rehash` reads the
/// files all the same.
pub(crate) fn memo(environment: &Environment, rehash: bool) -> Option<Memo> {
    // Without it files are read that need not be, which is no reason to fail.
    let store = environment.open_cache(None, None).ok()??;
    Some(store.memo().rehash(rehash))
}

/// A wrong value on the command line that clap cannot see.
#[derive(Debug, thiserror::Error, Explain)]
#[error("{message}")]
#[explain(code = "usage", class = Usage, hint("{hint}"))]
pub struct UsageError {
    pub message: String,
    /// How to say it right.
    pub hint: String,
}

impl UsageError {
    /// An error of this kind.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// From what clap says of a command line that it refuses: the error, then its tips and the usage.
    pub fn refused(text: &str) -> Self {
        // clap's text is the error, an empty line, and then tips and usage.
        let mut parts = text.trim().splitn(2, "\n\n");
        let first = parts.next().unwrap_or_default();
        let rest = parts.next().unwrap_or_default();
        let hints = (rest.lines().map(str::trim))
            .filter(|line| !line.is_empty() && !line.starts_with("For more information"));
        Self {
            message: first.trim_start_matches("error: ").to_owned(),
            hint: hints.collect::<Vec<_>>().join("; "),
        }
    }
}

/// Finds the link of the chain that can explain itself. The outermost one wins: it knows the most.
pub fn explain(error: &anyhow::Error) -> Failure {
    macro_rules! first {
        ($link:expr, $($t:ty),* $(,)?) => {{
            let link = $link;
            $(if let Some(e) = link.downcast_ref::<$t>() { return Failure::new(error, Some(e)); })*
        }};
    }
    for link in error.chain() {
        first!(
            link,
            UsageError,
            Exhausted,
            crate::ui::Error,
            refit::NotEnough,
            run::Unranged,
            watch::WatchError,
            export::ExportError,
            pipeline::Error,
            plan::Error,
            engine::Error,
            crate::shapes::Error,
            onnx::Error,
            weights::Error,
            weights::lora::Error,
            mapping::Error,
            arrays::Error,
            RemoteFault,
            CacheFault,
            fsx::Error,
        );
    }
    Failure::new(error, None)
}

#[cfg(test)]
mod tests;
