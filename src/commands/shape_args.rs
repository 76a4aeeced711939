//! What the command line says of shapes, for every command that ties a spec to a model.

use crate::pipeline::{self, PrefixedFile};
use crate::shapes::{self, Overrides, Profiles, Resolved, ShapeSpec};
use crate::tensor::TensorDecl;
use anyhow::Context;
use std::path::{Path, PathBuf};

/// Ranges of dims that the command line gives, for a spec or instead of one.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Shapes")]
pub(super) struct ShapeArgs {
    /// Range of a named dim: NAME=min:max, NAME=min:opt:max or NAME=size (repeatable)
    #[arg(short, long, value_name = "NAME=RANGE")]
    dim: Vec<String>,

    /// Size of a named dim to optimise for: NAME=N, several with commas (repeatable)
    #[arg(long, value_name = "NAME=N")]
    opt: Vec<String>,
}

impl ShapeArgs {
    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        self.dim.is_empty() && self.opt.is_empty()
    }

    /// As they were given.
    pub fn words(&self) -> impl Iterator<Item = String> {
        let dims = self.dim.iter().flat_map(|d| ["--dim".into(), d.clone()]);
        dims.chain(self.opt.iter().flat_map(|o| ["--opt".into(), o.clone()]))
    }

    /// Reads them.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn overrides(&self) -> Result<Overrides, shapes::Error> {
        Overrides::from_args(&self.dim, &self.opt)
    }
}

/// Sizes to optimise for, from a call.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Shapes")]
pub(super) struct CallArgs {
    /// Optimise for the sizes of these example inputs (.safetensors or .npz); --opt and --dim go before (repeatable)
    #[arg(long, value_name = "FILE[:PREFIX]")]
    opt_from: Vec<PrefixedFile>,
}

impl CallArgs {
    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        self.opt_from.is_empty()
    }

    /// Files that are read.
    pub fn inputs(&self) -> impl Iterator<Item = PathBuf> {
        self.opt_from.iter().map(|file| file.path.clone())
    }

    /// Ties `spec` to a model, with the sizes of the call where nothing else on the command line gives one.
    ///
    /// # Errors
    /// As [`ShapeSpec::resolve`]; files that cannot be read, and sizes that are in no range.
    pub fn resolve(
        &self,
        spec: &ShapeSpec,
        inputs: &[TensorDecl],
        overrides: &Overrides,
    ) -> anyhow::Result<Resolved> {
        let mut resolved = spec.resolve(inputs, overrides)?;
        for file in &self.opt_from {
            let call = pipeline::example_shapes(file, inputs)?;
            resolved = resolved
                .optimised_for(&call, overrides)
                .with_context(|| format!("--opt-from {}", file.path.display()))?;
        }
        Ok(resolved)
    }
}

/// A profile in trtexec's words, instead of a spec.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Shapes")]
#[allow(
    clippy::struct_field_names,
    reason = "they are called as trtexec calls them"
)]
pub(super) struct ProfileArgs {
    /// Least shapes, as trtexec takes them: NAME:1x4x64x64, several with commas (repeatable)
    #[arg(
        long = "minShapes",
        alias = "min-shapes",
        value_name = "NAME:SHAPE",
        conflicts_with = "shapes"
    )]
    min_shapes: Vec<String>,

    /// Shapes to optimise for, as trtexec takes them; alone they are the least and the greatest too (repeatable)
    #[arg(
        long = "optShapes",
        alias = "opt-shapes",
        value_name = "NAME:SHAPE",
        conflicts_with = "shapes"
    )]
    opt_shapes: Vec<String>,

    /// Greatest shapes, as trtexec takes them (repeatable)
    #[arg(
        long = "maxShapes",
        alias = "max-shapes",
        value_name = "NAME:SHAPE",
        conflicts_with = "shapes"
    )]
    max_shapes: Vec<String>,
}

impl ProfileArgs {
    /// The spec that `path` holds, or that these make.
    ///
    /// # Errors
    /// What is wrong with the file, or with these.
    pub fn spec(
        &self,
        path: Option<&Path>,
        inputs: &[TensorDecl],
    ) -> Result<ShapeSpec, shapes::Error> {
        let profiles = Profiles {
            min: &self.min_shapes,
            opt: &self.opt_shapes,
            max: &self.max_shapes,
        };
        if profiles.is_empty() {
            read_spec(path)
        } else {
            ShapeSpec::from_profiles(&profiles, inputs)
        }
    }
}

/// The spec in a file; none without one.
pub(super) fn read_spec(path: Option<&Path>) -> Result<ShapeSpec, shapes::Error> {
    path.map_or_else(|| Ok(ShapeSpec::none()), ShapeSpec::open)
}

/// What was tried when a spec and a model turned out not to fit.
pub(super) fn misfit(spec: &Path, model: &Path) -> String {
    format!(
        "the shape spec `{}` does not fit `{}`",
        spec.display(),
        model.display()
    )
}
