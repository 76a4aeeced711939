//! What is to be compiled: the arguments of `build` that its cache key depends on, for every command that gives the key of a build.

use super::engine_args::EngineArgs;
use super::shape_args::{CallArgs, ProfileArgs, ShapeArgs, misfit};
use crate::onnx::Model;
use crate::pipeline::{BackendChoice, MappingSource, Probe};
use crate::shapes::Resolved;
use anyhow::Context;
use std::path::PathBuf;

/// A model, what proves its mapping, who compiles it, its shapes and its options.
#[derive(Debug, clap::Args)]
pub(super) struct WantedArgs {
    /// The ONNX model
    pub model: PathBuf,

    /// The checkpoint that the model was exported from: every constant is proven by it, and refits rest on that (repeatable)
    #[arg(short = 'w', long, alias = "weights", value_name = "FILE")]
    pub base_weights: Vec<PathBuf>,

    /// The base weights are known to hold only some of the model's parameters
    #[arg(long)]
    partial: bool,

    /// Which part of the base weights is meant where several fit: denoiser, text-encoder, text-encoder-2, vae, …
    #[arg(long, value_name = "PART", requires = "base_weights")]
    component: Option<String>,

    /// A second export of the same model with every tensor moved: what it proves too rests on no assumption (`trtmut probe --print` makes one)
    #[arg(long, value_name = "ONNX", requires_all = ["probe_weights", "base_weights"])]
    probe: Option<PathBuf>,

    /// The checkpoint that the probe was exported from (repeatable)
    #[arg(long, value_name = "FILE", requires = "probe")]
    probe_weights: Vec<PathBuf>,

    /// Who compiles it
    #[arg(short, long, value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,

    /// Dynamic-shape spec (JSON); needed where the model has dynamic axes
    #[arg(short, long, value_name = "FILE", help_heading = "Shapes")]
    shapes: Option<PathBuf>,

    #[command(flatten)]
    ranges: ShapeArgs,

    #[command(flatten)]
    call: CallArgs,

    #[command(flatten)]
    profile: ProfileArgs,

    #[command(flatten)]
    pub engine: EngineArgs,
}

impl WantedArgs {
    /// Files that a build of `model` reads.
    pub fn inputs(&self, model: &Model) -> Vec<PathBuf> {
        let mut inputs = vec![self.model.clone()];
        inputs.extend(model.files().iter().map(|file| file.path().to_owned()));
        inputs.extend(self.call.inputs());
        inputs.extend(self.shapes.iter().chain(&self.base_weights).cloned());
        inputs.extend(self.probe.iter().chain(&self.probe_weights).cloned());
        inputs
    }

    /// The shapes, tied to the model.
    ///
    /// # Errors
    /// Of the spec and of what stands in its place, and where they do not fit the model.
    pub fn resolve(&self, model: &Model) -> anyhow::Result<Resolved> {
        let spec = (self.profile).spec(self.shapes.as_deref(), model.inputs())?;
        let overrides = self.ranges.overrides()?;
        (self.call)
            .resolve(&spec, model.inputs(), &overrides)
            .with_context(|| match &self.shapes {
                Some(spec) => misfit(spec, &self.model),
                None => format!("`{}` needs a shape spec", self.model.display()),
            })
    }

    pub fn probe(&self) -> Option<Probe> {
        self.probe.clone().map(|model| Probe {
            model,
            weights: self.probe_weights.clone(),
        })
    }

    /// Where the mapping comes from, with what [`WantedArgs::probe`] gave.
    pub fn mapping<'a>(&'a self, probe: Option<&'a Probe>) -> MappingSource<'a> {
        MappingSource::Infer {
            files: &self.base_weights,
            partial: self.partial,
            component: self.component.as_deref(),
            probe,
        }
    }
}
