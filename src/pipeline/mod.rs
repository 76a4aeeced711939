//! Where the parts are joined: a model becomes a plan, a plan becomes an open engine, files become inputs.
//!
//! Which value is tracked where, and what a change of it means:
//!
//! | value | structure digest | content digest | manifest | a change means |
//! |---|---|---|---|---|
//! | graph, opset, attributes, structural constants | x | x | x | recompile |
//! | dim ranges | | | x | live inside what was built, else recompile |
//! | options, backend, library, device | | | x | recompile |
//! | weight bytes | | x | x | refit where the weight is refittable, else recompile |
//! | dtype or shape of a weight | x | x | x | recompile |
//! | node names, doc strings, paths, times | | | x | nothing |

mod adopt;
mod backends;
mod build;
mod compare;
mod converted;
mod environment;
mod environment_variables;
mod error;
mod facts;
mod feed;
mod look;
mod measure;
pub mod next;
mod open;
mod other_gpu;
mod past;
mod plugins;
mod refit;
mod run;
mod verification;
mod verify;
mod watched;
mod written;

pub use adopt::{AdoptRequest, Adopted, adopt};
pub use backends::{
    BackendChoice, choose, compiler, keep_timings, onnxruntime, reopen, search, worth_caching,
};
pub use build::{
    BuildRequest, Built, CacheRequest, CacheUse, MappingSource, Probe, build, build_cached,
    key_fields, with_checkpoint,
};
pub use compare::{CompareRequest, Compared, Left, Measured, compare};
pub use environment::Environment;
pub use environment_variables::{VARIABLES, Variable, without_credentials};
pub use error::Error;
pub use facts::shapes_of_engine;
pub use look::{ThingKind, is_model, is_plan, kind_of};
pub use measure::Moved;
pub use open::{OpenPlan, open};
pub use other_gpu::check_gpu;
pub use plugins::with_plugins;
pub use refit::{
    Opening, Overlay, OverlayRequest, Part, Prepared, Ready, Refitted, SourceModel, Stated,
    counted, prepare, prepare_all, put_in_place, refusal, source_model, source_model_at, stage_one,
};
pub use run::{
    InputRequest, Inputs, PrefixedFile, TensorFile, example_shapes, gather_inputs, pick_expected,
    recompile,
};
pub use verification::{Verification, Verified};
pub use verify::{VerifyRequest, require_reference, verify_outputs};

/// Bounds the threads that hashing and compiling use; without a bound all cores. Only the first call of a process counts.
pub fn limit_threads(threads: Option<usize>) {
    if let Some(n) = threads {
        // It fails only where the pool is up already, and then its size is settled.
        let _ = rayon::ThreadPoolBuilder::new()
            .num_threads(n)
            .build_global();
    }
}
