//! A model becomes a plan and a manifest.

use crate::cache::Memo;
use crate::engine::{Backend, BuildJob, Identity, Options};
use crate::fsx;
use crate::mapping::{self, Mapping, Row};
use crate::onnx::Model;
use crate::pipeline::converted;
use crate::pipeline::error::Error;
use crate::pipeline::facts::{marked, note_slots, relative, require_proof, shapes_of_engine};
use crate::pipeline::past;
use crate::plan::{
    self, BaseSource, FORMAT, FileRef, Manifest, ModelRef, PlanRef, ProbeSource, Recipe, WeightRow,
};
use crate::shapes::{Profile, Resolved};
use crate::tensor::Digest;
use crate::watch::{Event, Watch};
use crate::weights::layouts::open_in_layout;
use crate::weights::{self, Source};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What to build, and where to.
pub struct BuildRequest<'a> {
    pub model: &'a Model,
    /// The file that it was read from.
    pub model_path: &'a Path,
    /// The shape spec, tied to the model.
    pub shapes: &'a Resolved,
    /// Where the mapping comes from.
    pub mapping: MappingSource<'a>,
    /// Choices that change what is compiled.
    pub options: &'a Options,
    pub backend: &'a dyn Backend,
    /// Where the plan goes; the manifest goes beside it.
    pub output: &'a Path,
    /// Overwrite a plan of another model, or a file that is no plan.
    pub force: bool,
}

/// Where a plan's mapping comes from.
#[derive(Clone, Copy)]
pub enum MappingSource<'a> {
    /// From the model, and proven against the checkpoint that it was exported from; without files, from the model alone.
    Infer {
        /// The checkpoint; empty for the model alone.
        files: &'a [PathBuf],
        /// It is known to hold only some of the model's parameters.
        partial: bool,
        /// Which of its parts is meant, where several fit.
        component: Option<&'a str>,
        /// A second export that is to prove the mapping as well.
        probe: Option<&'a Probe>,
    },
    /// As an older plan of the same model has it.
    Keep(&'a Manifest),
}

/// A second export of a model with every tensor moved.
#[derive(Debug, Clone)]
pub struct Probe {
    pub model: PathBuf,
    /// The checkpoint that it was exported from.
    pub weights: Vec<PathBuf>,
}

/// What a build did.
pub struct Built {
    /// As it was written beside the plan.
    pub manifest: Manifest,
    /// Time that the backend took; on a hit, time that the copy or the refit took.
    pub compile: Duration,
    /// What the cache had to do with it.
    pub cache: CacheUse,
}

/// What the engine cache did for a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheUse {
    /// It was not used.
    Off,
    /// It had no such engine; the new one was stored where it fitted.
    Miss,
    /// It had this engine with these weights, which was copied.
    Hit,
    /// It had this engine with other weights, and a copy of it was refitted.
    Refitted,
}

/// Compiles a model and puts plan and manifest in place, both or neither. Leaves the cache alone.
///
/// # Errors
/// See [`Error`]; nothing on disk has changed then.
pub fn build(request: &BuildRequest<'_>, watch: &dyn Watch) -> Result<Built, Error> {
    Draft::new(request, None, watch)?.compile(watch)
}

/// A request that was checked, with all that is known of its result before an engine is there.
pub(super) struct Draft<'a> {
    pub(super) request: &'a BuildRequest<'a>,
    pub(super) structure: Digest,
    /// What the engine is made for.
    shapes: Resolved,
    pub(super) profile: Profile,
    /// Digest of every constant tensor of the model.
    pub(super) digests: HashMap<&'a str, Digest>,
    /// Digest of the ONNX file.
    file: Digest,
    mapping: Mapping,
    base: Option<BaseSource>,
    /// Which weights stay refittable with `--refit individual`: [`BuildJob::mark`].
    pub(super) mark: Option<BTreeSet<String>>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        request: &'a BuildRequest<'a>,
        memo: Option<&Memo>,
        watch: &dyn Watch,
    ) -> Result<Draft<'a>, Error> {
        for said in claim(request)? {
            watch.event(Event::Warn(&said));
        }
        if !request.force {
            refuse_foreign(request.output, request.model.structure_digest())?;
        }
        Draft::unclaimed(request, memo, watch)
    }

    /// As [`Draft::new`], for an output that nothing is written to.
    fn unclaimed(
        request: &'a BuildRequest<'a>,
        memo: Option<&Memo>,
        watch: &dyn Watch,
    ) -> Result<Draft<'a>, Error> {
        // Before weights are hashed and a mapping is proven, which may take minutes.
        if request.backend.needs_bounds() {
            request.shapes.require_bounded()?;
        }
        let (shapes, joined) = match request.shapes.profile_count() {
            // Asking a backend who it is may start its library.
            1 => (request.shapes.clone(), None),
            _ => shapes_of_engine(
                &request.backend.identity().backend,
                request.options,
                request.shapes,
            ),
        };
        if let Some(said) = joined {
            watch.event(Event::Warn(&said));
        }
        let structure = request.model.structure_digest();
        let digests = past::weights(request.model, memo, watch);
        let (mapping, base) = mapping(request, &digests, memo, watch)?;
        // The file that was parsed, where there is one; it may have been replaced since.
        let file = match request.model.files().first() {
            Some(map) => past::file(map, memo),
            None => past::file(&fsx::Map::open(request.model_path)?, memo),
        };
        Ok(Draft {
            request,
            structure,
            profile: shapes.profile(),
            shapes,
            digests,
            mark: marked(request.options, base.is_some(), &mapping.rows),
            file,
            mapping,
            base,
        })
    }

    pub(super) fn compile(&self, watch: &dyn Watch) -> Result<Built, Error> {
        let library = self.request.backend.identity().library;
        let _span = tracing::info_span!("compile", %library).entered();
        let BuildRequest {
            model,
            output,
            backend,
            options,
            ..
        } = *self.request;
        let job = BuildJob {
            model,
            profile: &self.profile,
            options,
            mark: self.mark.as_ref(),
        };
        watch.event(Event::Begin {
            step: "compiling",
            total: None,
        });
        let start = Instant::now();
        let (staged, plan, notes) = converted::stage(backend, &job, output, watch)?;
        let compile = start.elapsed();
        watch.event(Event::End);
        let mut manifest = Manifest {
            notes: notes.notes,
            stripped: notes.stripped,
            folds: notes.folds,
            by_parser: notes.by_parser,
            ..self.manifest(plan, backend.identity())
        };
        note_slots(&mut manifest, model, notes.slots);
        plan::replace(output, staged, &manifest)?;
        Ok(Built {
            manifest,
            compile,
            cache: CacheUse::Off,
        })
    }

    /// The manifest, but for what only the engine tells: slots, notes, and which weights cannot be refitted.
    pub(super) fn manifest(&self, plan: PlanRef, backend: Identity) -> Manifest {
        let BuildRequest { model, output, .. } = *self.request;
        let mapped: HashMap<&str, &Row> = self
            .mapping
            .rows
            .iter()
            .map(|r| (r.name.as_str(), r))
            .collect();
        let weights: Vec<WeightRow> = model
            .weights()
            .iter()
            .map(|w| WeightRow {
                name: w.name.clone(),
                dtype: w.dtype,
                shape: w.shape.clone(),
                digest: self.digests[w.name.as_str()],
                base: None,
                fixed: None,
                unread: false,
                mapping: (mapped.get(w.name.as_str())).map(|&r| Box::new(r.clone())),
            })
            .collect();
        Manifest {
            format: FORMAT.into(),
            tool: concat!("trtmut ", env!("CARGO_PKG_VERSION")).into(),
            plan,
            backend,
            model: ModelRef {
                path: relative(output, self.request.model_path),
                file: self.file,
                structure: self.structure,
                content: Manifest::content_digest(self.structure, &weights),
            },
            shapes: self.shapes.clone(),
            profile: self.profile.clone(),
            options: self.request.options.clone(),
            inputs: model.inputs().to_vec(),
            outputs: model.outputs().to_vec(),
            slots: Vec::new(),
            notes: Vec::new(),
            folds: Vec::new(),
            by_parser: Vec::new(),
            stripped: false,
            unproven: false,
            weights,
            base: self.base.clone(),
            recipe: Recipe::default(),
        }
    }
}

/// The manifest of a plan that is there, but for what its engine says.
///
/// # Errors
/// As [`build()`]; nothing is written.
pub fn describe(
    request: &BuildRequest<'_>,
    plan: PlanRef,
    watch: &dyn Watch,
) -> Result<Manifest, Error> {
    let draft = Draft::unclaimed(request, None, watch)?;
    Ok(draft.manifest(plan, request.backend.identity()))
}

/// A mapping, and the files that prove it.
pub(super) struct Proven {
    pub(super) mapping: Mapping,
    base: Arc<Source>,
    probe: Option<Probed>,
}

/// A second export that was asked.
struct Probed {
    path: PathBuf,
    model: Model,
    weights: Arc<Source>,
}

/// The mapping of `model`, whose weights have these digests, proven as `from` says; none where no checkpoint proves it.
///
/// # Errors
/// What cannot be read, and what is not proven.
pub(super) fn prove(
    model: &Model,
    from: MappingSource<'_>,
    digests: &HashMap<&str, Digest>,
    memo: Option<&Memo>,
    watch: &dyn Watch,
) -> Result<Option<Proven>, Error> {
    let MappingSource::Infer {
        files: files @ [_, ..],
        partial,
        component,
        probe,
    } = from
    else {
        return Ok(None);
    };
    let base = Arc::new(Source::open_all(files)?);
    let mut mapping = past::mapping(model, &base, component, digests, memo, watch)?;
    let probe = match probe {
        Some(probe) => Some(ask(model, probe, &base, component, &mut mapping)?),
        None => None,
    };
    // After the probe, which takes away what it disproves.
    require_proof(&mapping, files, partial)?;
    Ok(Some(Proven {
        mapping,
        base,
        probe,
    }))
}

fn mapping(
    request: &BuildRequest<'_>,
    digests: &HashMap<&str, Digest>,
    memo: Option<&Memo>,
    watch: &dyn Watch,
) -> Result<(Mapping, Option<BaseSource>), Error> {
    let component = match request.mapping {
        MappingSource::Keep(manifest) => {
            let rows = (manifest.weights.iter()).filter_map(|w| w.mapping.as_deref());
            let mapping = Mapping {
                against_base: manifest.base.is_some(),
                rows: rows.cloned().collect(),
                ..mapping::infer(request.model, None)?
            };
            return Ok((mapping, manifest.base.clone()));
        }
        MappingSource::Infer { component, .. } => component,
    };
    let Some(proven) = prove(request.model, request.mapping, digests, memo, watch)? else {
        return Ok((mapping::infer(request.model, None)?, None));
    };
    let Proven {
        mapping,
        base,
        probe,
    } = proven;
    let named = |path: &Path, digest| FileRef {
        path: relative(request.output, path),
        digest,
    };
    let probe = probe.map(|probe| ProbeSource {
        model: named(&probe.path, Digest::of(&probe.model.files()[0])),
        weights: (probe.weights.files().iter())
            .map(|f| named(f.path(), f.digest()))
            .collect(),
    });
    let base = BaseSource {
        inventory: mapping.inventory.clone().unwrap_or_default(),
        unsourced_integers: mapping.unsourced_integers.clone(),
        component: component.map(ToOwned::to_owned),
        probe,
        files: (base.files().iter())
            .map(|f| named(f.path(), past::file(f.map(), memo)))
            .collect(),
    };
    Ok((mapping, Some(base)))
}

/// Proves `mapping` by a second export as well.
fn ask(
    model: &Model,
    probe: &Probe,
    base: &Arc<Source>,
    component: Option<&str>,
    mapping: &mut Mapping,
) -> Result<Probed, Error> {
    let other = Model::open(&probe.model)?;
    let moved = Arc::new(Source::open_all(&probe.weights)?);
    let wanted = mapping::infer(model, None)?.wanted();
    let view = |source: &Arc<Source>, wanted: &[(String, Vec<usize>)]| {
        open_in_layout(Arc::clone(source), wanted, component).map_err(weights::Error::from)
    };
    let (base, moved_view) = (view(base, &wanted)?, view(&moved, &mapping.wanted())?);
    let first = mapping::Export {
        model,
        weights: &base,
    };
    let second = mapping::Export {
        model: &other,
        weights: &moved_view,
    };
    *mapping = mapping::probe(mapping, first, second)?;
    Ok(Probed {
        path: probe.model.clone(),
        model: other,
        weights: moved,
    })
}

/// Claims the output, which is none of the files that the build reads.
fn claim(request: &BuildRequest<'_>) -> Result<Vec<String>, Error> {
    let mut inputs = vec![request.model_path.to_owned()];
    inputs.extend(request.model.files().iter().map(|f| f.path().to_owned()));
    let mut in_place = None;
    match request.mapping {
        MappingSource::Infer { files, probe, .. } => {
            inputs.extend(files.iter().cloned());
            if let Some(probe) = probe {
                inputs.push(probe.model.clone());
                inputs.extend(probe.weights.iter().cloned());
            }
        }
        MappingSource::Keep(_) => in_place = Some(request.output),
    }
    Ok(plan::claim(
        request.output,
        &inputs,
        in_place,
        request.force,
    )?)
}

/// An existing output may be overwritten without being asked only by a plan of the same model.
fn refuse_foreign(output: &Path, structure: Digest) -> Result<(), Error> {
    let occupied = |what| {
        Err(Error::Occupied {
            path: output.to_owned(),
            what,
        })
    };
    if !output.exists() {
        return Ok(());
    }
    match plan::read_manifest(output) {
        Ok(m) if m.model.structure != structure => occupied("holds a plan of another model"),
        // What is no plan of ours was judged by `claim`.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{self, BuildNotes, Engine};
    use crate::fault::Explain;
    use crate::onnx::Role;
    use crate::shapes::{Overrides, ShapeSpec};
    use std::collections::BTreeMap;
    use std::io::Write;

    /// A backend that wants bounds, and that nothing reaches without them.
    struct Bounded;

    impl Backend for Bounded {
        fn identity(&self) -> Identity {
            unreachable!()
        }

        fn needs_bounds(&self) -> bool {
            true
        }

        fn build(
            &self,
            _: &BuildJob<'_>,
            _: &mut dyn Write,
            _: &dyn Watch,
        ) -> Result<BuildNotes, engine::Error> {
            unreachable!()
        }

        fn open(&self, _: &Path) -> Result<Box<dyn Engine>, engine::Error> {
            unreachable!()
        }
    }

    #[test]
    fn a_dim_without_a_max_is_refused_where_the_backend_needs_one() {
        let path = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/fixtures/resnet/model.ts.onnx"
        ));
        let model = Model::open(path).unwrap();
        let ranges = Overrides::from_args(&["B=1:4", "H=16:", "W=16:"], &[]).unwrap();
        let shapes = ShapeSpec::none().resolve(model.inputs(), &ranges).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let request = BuildRequest {
            model: &model,
            model_path: path,
            shapes: &shapes,
            mapping: MappingSource::Infer {
                files: &[],
                partial: false,
                component: None,
                probe: None,
            },
            options: &BTreeMap::new(),
            backend: &Bounded,
            output: &dir.path().join("engine.plan"),
            force: false,
        };
        let error = build(&request, &crate::watch::Silent).err().unwrap();
        assert_eq!(error.code(), "shapes-unbounded");
        assert!(error.to_string().contains("`H`, `W`"), "{error}");
        assert!(error.hints()[0].contains("--dim H=min:opt:max"));
    }

    #[test]
    fn only_what_the_base_checkpoint_maps_to_is_marked() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/dit");
        let model = Model::open(fixture.join("model.ts.onnx")).unwrap();
        let base = Source::open_all(&[fixture.join("base.safetensors")]).unwrap();
        let rows = mapping::infer(&model, Some(&base)).unwrap().rows;
        let options = |refit: &str| Options::from([("refit".to_owned(), refit.to_owned())]);
        assert_eq!(marked(&options("full"), true, &rows), None);
        assert_eq!(marked(&options("individual"), false, &rows), None);
        let names = marked(&options("individual"), true, &rows).unwrap();
        let weights = model.weights().iter().filter(|w| w.role == Role::Weight);
        let (mapped, other): (Vec<_>, Vec<_>) = weights.partition(|w| names.contains(&w.name));
        assert_eq!(mapped.len(), names.len());
        assert!(!mapped.is_empty() && !other.is_empty());
    }

    #[test]
    fn relative_paths_lead_back() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for sub in ["a/b", "c"] {
            std::fs::create_dir_all(root.join(sub)).unwrap();
        }
        let model = root.join("c/m.onnx");
        std::fs::write(&model, b"").unwrap();
        let plan = root.join("a/b/engine.plan");
        assert_eq!(relative(&plan, &model), "../../c/m.onnx");
        assert_eq!(relative(&root.join("c/e.plan"), &model), "m.onnx");
    }
}
