//! A model folder of Triton: `DIR/config.pbtxt` and `DIR/1/model.plan`.
//!
//! The configuration is text of the protobuf message `inference.ModelConfig`
//! (<https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto>); what shapes and types mean for a
//! TensorRT plan is in <https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html>.

use crate::exit::Exit;
use crate::fault::Explain;
use crate::fsx::{self, Map};
use crate::plan::{self, Manifest};
use crate::shapes::{AxisRange, Profile};
use crate::tensor::{Digest, Dtype, Extent, TensorDecl};
use crate::ui::{self, Report, Screen, Ui};
use crate::watch::{Event, Watch};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// First line of a configuration that this command wrote, by which it is known as ours.
const MARK: &str = "# Written by trtmut";
/// How the lines after it begin that say which plan each version got, by which a plan is known as ours.
const VERSION: &str = "# version ";
/// How the line begins that says the digest of all others, by which an edit is known.
const CONTENTS: &str = "# contents ";
/// No configuration is longer, in bytes.
const LONGEST: u64 = 16 << 20;

/// Arguments of `trtmut export triton`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Triton has to bring the TensorRT that built the plan. After a refit, export again: Triton loads the files when it is told \
    to, or when it polls.\n\n\
    Examples:\n  \
    trtmut export triton engine.plan models/unet\n  \
    trtmut export triton engine.plan models/unet --batch --model-version 2"
)]
pub struct Args {
    /// The plan, of TensorRT
    #[arg(value_parser = crate::commands::plan_path())]
    plan: PathBuf,

    /// The model's folder in Triton's model repository; its name is the model's name
    folder: PathBuf,

    /// The version, a folder in the model's folder
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    model_version: u32,

    /// Let Triton join requests: dimension 0 of every input and output is the batch
    #[arg(long)]
    batch: bool,

    /// Write over files that this command did not write
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Serialize)]
struct ExportReport {
    plan: PathBuf,
    config: PathBuf,
    model: PathBuf,
    name: String,
    version: u32,
    max_batch_size: usize,
    library: String,
    digest: Digest,
}

impl Report for ExportReport {
    const SCHEMA: &'static str = "trtmut.export/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        writeln!(out, "exported {}, version {}", self.name, self.version)?;
        writeln!(out, "  {}", ui::path(&self.config))?;
        writeln!(out, "  {}", ui::path(&self.model))?;
        writeln!(out, "  for a Triton with {}", self.library)
    }
}

/// Why Triton cannot serve a plan.
#[derive(Debug, thiserror::Error, Explain)]
pub enum ExportError {
    /// Not a plan that Triton's TensorRT backend loads.
    #[error("Triton loads plans of TensorRT, and `{plan}` is one of {backend}", plan = plan.display())]
    #[explain(code = "export-backend", class = Input, hint("build it with `trtmut build --backend tensorrt`"))]
    Backend { plan: PathBuf, backend: String },
    /// It has no weights.
    #[error("`{plan}` is stripped: it holds no weights", plan = plan.display())]
    #[explain(code = "export-stripped", class = Input, hint("`trtmut refit {} --base -o filled.plan` makes a plan that can be exported", plan.display()))]
    Stripped { plan: PathBuf },
    /// An input or output that the configuration cannot describe.
    #[error("`{tensor}` {problem}")]
    #[explain(code = "export-tensor", class = Input, hints = [*hint])]
    Tensor {
        tensor: String,
        /// What is wrong with it.
        problem: String,
        hint: &'static str,
    },
    /// Somebody else's file is where one goes.
    #[error("`{path}` exists and was not written by `trtmut export`", path = path.display())]
    #[explain(code = "output-occupied", class = Input, hint("name another folder or --model-version, or overwrite it with --force"))]
    Occupied { path: PathBuf },
    /// Somebody changed the configuration, and the changes would be lost.
    #[error("`{path}` was edited since `trtmut export` wrote it", path = path.display())]
    #[explain(code = "output-edited", class = Input,
        hint("copy your changes, write it anew with --force, and put them in again; a plan alone can be copied over `model.plan`"))]
    Edited { path: PathBuf },
    /// The folder has no name that a model may have.
    #[error("`{folder}` gives the model no name", folder = folder.display())]
    #[explain(code = "export-name", class = Input, hint("name a folder such as `models/unet`: letters, digits, `_`, `-` and `.`"))]
    Name { folder: PathBuf },
}

pub(super) fn run(args: &Args, ui: &Ui) -> anyhow::Result<Exit> {
    let manifest = plan::open(&args.plan)?;
    let name = model_name(&args.folder)?;
    let config = Config::of(&args.plan, &manifest, &name, args.batch)?;
    let report = ExportReport {
        plan: args.plan.clone(),
        config: args.folder.join("config.pbtxt"),
        model: (args.folder)
            .join(args.model_version.to_string())
            .join("model.plan"),
        max_batch_size: config.max_batch_size,
        name,
        version: args.model_version,
        library: manifest.backend.library.clone(),
        digest: manifest.plan.digest,
    };
    let written = if args.force {
        // Whatever stands there may go; what is noted of other versions stays.
        Versions::of(&report.config).unwrap_or_default()
    } else {
        refuse_foreign(&report)?
    };
    let mut versions = written.unwrap_or_default();
    let folder = report.model.parent().unwrap_or(&args.folder);
    let made = Made::folders(folder)?;
    let outputs = [&report.config, &report.model];
    fsx::claim_apart(outputs)?;
    let inputs = [args.plan.clone(), plan::manifest_path(&args.plan)];
    for output in outputs {
        fsx::claim_output(output, &inputs)?;
    }
    let map = Map::open(&args.plan)?;
    // The plan first: a configuration without one is an error for a Triton that polls.
    fsx::write_atomic(&report.model, |out| {
        let mut done = Ok(());
        map.pieces(&mut |bytes| {
            if done.is_ok() {
                done = out.write_all(bytes);
            }
        });
        done.map_err(|e| fsx::Error::write(&report.model, e))
    })?;
    made.keep();
    versions.0.insert(report.version, report.digest);
    fsx::write_atomic(&report.config, |out| {
        let text = sealed(&config.text(&manifest.backend.library, &versions));
        let done = out.write_all(text.as_bytes());
        done.map_err(|e| fsx::Error::write(&report.config, e))
    })?;
    if manifest.options.contains_key("version-compatible") {
        ui.event(Event::Warn(
            "the plan is version compatible: start Triton with `--backend-config=tensorrt,version-compatible=true`, which runs code that \
             the plan brings",
        ));
    }
    ui.result(&report)?;
    Ok(Exit::Done)
}

/// Which plan this command wrote for each version of a model.
#[derive(Debug, Default, PartialEq)]
struct Versions(BTreeMap<u32, Digest>);

impl Versions {
    /// What the configuration at `path` says; none where it is not there or not ours.
    fn of(path: &Path) -> Result<Option<Versions>, fsx::Error> {
        if !path.exists() {
            return Ok(None);
        }
        let text = fsx::read_bounded(path, LONGEST)?;
        Ok(Versions::read(&String::from_utf8_lossy(&text)))
    }

    fn read(text: &str) -> Option<Versions> {
        let ours = text.starts_with(MARK);
        let of_line = |line: &str| {
            let (number, digest) = line.strip_prefix(VERSION)?.split_once(": ")?;
            Some((number.parse().ok()?, digest.parse().ok()?))
        };
        ours.then(|| Versions(text.lines().filter_map(of_line).collect()))
    }
}

/// `text` with the line that says the digest of the others, before the first that is no comment.
fn sealed(text: &str) -> String {
    let digest = Digest::of(text.as_bytes());
    let end = text.find("\nname: ").map_or(0, |at| at + 1);
    format!("{}{CONTENTS}{digest}\n{}", &text[..end], &text[end..])
}

/// Whether a configuration is as this command wrote it.
fn is_sealed(text: &str) -> bool {
    let is_seal = |line: &&str| line.starts_with(CONTENTS);
    let others: String = text
        .split_inclusive('\n')
        .filter(|line| !is_seal(line))
        .collect();
    sealed(&others) == text
}

/// What is there and was not written by this command stays, and so does what was edited. Returns which versions were.
fn refuse_foreign(report: &ExportReport) -> anyhow::Result<Option<Versions>> {
    let occupied = |path: &Path| ExportError::Occupied {
        path: path.to_owned(),
    };
    let versions = Versions::of(&report.config)?;
    anyhow::ensure!(
        versions.is_some() || !report.config.exists(),
        occupied(&report.config)
    );
    if versions.is_some() {
        let text = fsx::read_bounded(&report.config, LONGEST)?;
        let edited = || ExportError::Edited {
            path: report.config.clone(),
        };
        anyhow::ensure!(is_sealed(&String::from_utf8_lossy(&text)), edited());
    }
    if report.model.exists() {
        // By its contents: a plan of somebody else's may stand where ours stood, or beside it as another version.
        let there = plan::reference(&report.model)?.digest;
        let ours = versions.as_ref().and_then(|v| v.0.get(&report.version));
        // Where the same plan is, nothing is lost: an export that was cut short has not noted it yet.
        anyhow::ensure!(
            ours == Some(&there) || there == report.digest,
            occupied(&report.model)
        );
    }
    Ok(versions)
}

/// Folders that were made for what is to be written; they go away again where it is not.
#[derive(Debug)]
struct Made(Vec<PathBuf>);

impl Made {
    /// Makes `folder` and what it is in, as far as they are not there.
    fn folders(folder: &Path) -> Result<Made, fsx::Error> {
        let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let missing: Vec<&Path> = folder.ancestors().take_while(missing).collect();
        let mut made = Made(Vec::new());
        for path in missing.into_iter().rev() {
            match std::fs::create_dir(path) {
                Ok(()) => made.0.push(path.to_owned()),
                // Somebody else was quicker.
                Err(_) if path.is_dir() => {}
                Err(e) => return Err(fsx::Error::write(path, e)),
            }
        }
        Ok(made)
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            // One that somebody put something into stays.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// The last part of the path, which Triton takes for the model's name.
fn model_name(folder: &Path) -> Result<String, ExportError> {
    let refused = || ExportError::Name {
        folder: folder.to_owned(),
    };
    let absolute = std::path::absolute(folder).map_err(|_| refused())?;
    let name = absolute.file_name().and_then(|name| name.to_str());
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    match name {
        Some(name) if name != ".." && name.chars().all(fits) => Ok(name.to_owned()),
        _ => Err(refused()),
    }
}

/// What Triton is told of a model.
struct Config {
    name: String,
    /// 0 where Triton leaves the batch to the client.
    max_batch_size: usize,
    inputs: Vec<Described>,
    outputs: Vec<Described>,
    /// How many optimization profiles the engine has.
    profiles: usize,
}

/// One input or output.
struct Described {
    name: String,
    data_type: &'static str,
    /// −1 where the size is free.
    dims: Vec<i64>,
}

impl Config {
    fn of(
        path: &Path,
        manifest: &Manifest,
        name: &str,
        batch: bool,
    ) -> Result<Config, ExportError> {
        if manifest.backend.backend != "tensorrt" {
            return Err(ExportError::Backend {
                plan: path.to_owned(),
                backend: manifest.backend.library.clone(),
            });
        }
        if manifest.stripped {
            return Err(ExportError::Stripped {
                plan: path.to_owned(),
            });
        }
        let has_i64 = major(&manifest.backend.library) >= 10;
        let describe = |decl: &TensorDecl| -> Result<Described, ExportError> {
            Ok(Described {
                name: decl.name.clone(),
                data_type: data_type(decl, has_i64)?,
                dims: dims(decl, &manifest.profile)?,
            })
        };
        let all = |decls: &[TensorDecl]| decls.iter().map(describe).collect::<Result<Vec<_>, _>>();
        let mut config = Config {
            name: name.to_owned(),
            max_batch_size: 0,
            inputs: all(&manifest.inputs)?,
            outputs: all(&manifest.outputs)?,
            profiles: manifest.profile.several.len().max(1),
        };
        if batch {
            config.max_batch_size =
                largest_batch(&manifest.inputs, &manifest.outputs, &manifest.profile)?;
            // With a largest batch Triton puts that dimension in front of `dims` itself.
            for tensor in config.inputs.iter_mut().chain(&mut config.outputs) {
                tensor.dims.remove(0);
            }
        }
        Ok(config)
    }

    fn text(&self, library: &str, versions: &Versions) -> String {
        let mut text = format!("{MARK} {}, for {library}\n", env!("CARGO_PKG_VERSION"));
        for (number, digest) in &versions.0 {
            let _ = writeln!(text, "{VERSION}{number}: {digest}");
        }
        let _ = writeln!(
            text,
            "name: {}\nplatform: \"tensorrt_plan\"\nmax_batch_size: {}",
            quoted(&self.name),
            self.max_batch_size
        );
        for (list, tensors) in [("input", &self.inputs), ("output", &self.outputs)] {
            for tensor in tensors {
                let dims: Vec<String> = tensor.dims.iter().map(ToString::to_string).collect();
                let _ = writeln!(
                    text,
                    "{list} {{\n  name: {}\n  data_type: {}",
                    quoted(&tensor.name),
                    tensor.data_type
                );
                // `dims` may not be empty: a scalar is one number for the client and none for the model.
                let _ = match dims.len() {
                    0 => writeln!(text, "  dims: [ 1 ]\n  reshape {{ shape: [ ] }}\n}}"),
                    _ => writeln!(text, "  dims: [ {} ]\n}}", dims.join(", ")),
                };
            }
        }
        // Triton takes the first alone unless it is told of the others.
        if self.profiles > 1 {
            let names: Vec<String> = (0..self.profiles).map(|i| format!("\"{i}\"")).collect();
            let _ = writeln!(
                text,
                "instance_group {{\n  kind: KIND_GPU\n  profile: [ {} ]\n}}",
                names.join(", ")
            );
        }
        if self.max_batch_size > 0 {
            text.push_str("dynamic_batching { }\n");
        }
        text
    }
}

/// `10` of `TensorRT 10.3.0`, and of `TensorRT 12.0.0 (called as 11.4.0 is)` its own.
fn major(library: &str) -> u32 {
    let version = library.split(' ').nth(1).unwrap_or_default();
    let major = version.split('.').next().unwrap_or_default();
    // What cannot be read is taken for new: only old releases lack a type.
    major.parse().unwrap_or(u32::MAX)
}

/// The type as the engine has it: before version 10, TensorRT has no 64-bit integers and makes 32-bit ones of them.
fn data_type(decl: &TensorDecl, has_i64: bool) -> Result<&'static str, ExportError> {
    Ok(match decl.dtype {
        Dtype::F32 => "TYPE_FP32",
        Dtype::F16 => "TYPE_FP16",
        Dtype::Bf16 => "TYPE_BF16",
        Dtype::I64 if has_i64 => "TYPE_INT64",
        Dtype::I64 | Dtype::I32 => "TYPE_INT32",
        Dtype::I8 => "TYPE_INT8",
        Dtype::U8 => "TYPE_UINT8",
        Dtype::Bool => "TYPE_BOOL",
        other => {
            return Err(ExportError::Tensor {
                tensor: decl.name.clone(),
                problem: format!("is {}, which Triton has no type for", other.name()),
                hint: "export the model with inputs and outputs of f32, f16, bf16, bool, or integers of 8, 32 or 64 bits",
            });
        }
    })
}

/// Sizes, outermost first: a number where the model has one or the range is a single size.
fn dims(decl: &TensorDecl, profile: &Profile) -> Result<Vec<i64>, ExportError> {
    let Some(extents) = &decl.dims else {
        return Err(ExportError::Tensor {
            tensor: decl.name.clone(),
            problem: "has no stated number of dimensions".into(),
            hint: "state the shapes of inputs and outputs in the ONNX file, as `onnx.shape_inference.infer_shapes` does",
        });
    };
    let axes = axes(decl, profile);
    let sizes = extents.iter().enumerate().map(|(axis, extent)| {
        let range = axes.and_then(|axes| axes.get(axis));
        match (extent, range) {
            (Extent::Fixed(n), _) => *n as i64,
            (_, Some(range)) if range.max == Some(range.min) => range.min as i64,
            _ => -1,
        }
    });
    Ok(sizes.collect())
}

/// Ranges of an input; an output has none.
fn axes<'a>(decl: &TensorDecl, profile: &'a Profile) -> Option<&'a [AxisRange]> {
    let input = profile.inputs.iter().find(|i| i.name == decl.name);
    input.map(|input| input.axes.as_slice())
}

/// The most that Triton may join: dimension 0 of all is one named size that may be 1.
fn largest_batch(
    inputs: &[TensorDecl],
    outputs: &[TensorDecl],
    profile: &Profile,
) -> Result<usize, ExportError> {
    let mut batch: Option<(&str, &str)> = None;
    let refused = |decl: &TensorDecl, problem: String| ExportError::Tensor {
        tensor: decl.name.clone(),
        problem,
        hint: "leave out --batch: Triton then passes requests on as they are, with the batch in their shapes",
    };
    let mut largest = usize::MAX;
    for decl in inputs.iter().chain(outputs) {
        let first = decl.dims.as_ref().and_then(|dims| dims.first());
        let Some(Extent::Symbol(symbol)) = first else {
            let problem = "has no named dimension 0 that could be the batch".to_owned();
            return Err(refused(decl, problem));
        };
        match batch {
            Some((other, of)) if other != symbol => {
                let problem = format!("has `{symbol}` for dimension 0, where `{of}` has `{other}`");
                return Err(refused(decl, problem));
            }
            _ => batch = Some((symbol, &decl.name)),
        }
        if let Some(range) = axes(decl, profile).and_then(<[_]>::first) {
            if range.min > 1 {
                let problem = format!("takes {} at least in dimension 0", range.min);
                return Err(refused(decl, problem));
            }
            largest = largest.min(range.max.unwrap_or(largest));
        }
    }
    Ok(largest)
}

/// A string of the text format.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(byte as char);
            }
            b' '..=b'~' => out.push(byte as char),
            // Octal, always three digits: what follows cannot be taken for one.
            _ => {
                let _ = write!(out, "\\{byte:03o}");
            }
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice::from_ref;

    fn report(folder: &Path, version: u32, digest: Digest) -> ExportReport {
        ExportReport {
            plan: "e.plan".into(),
            config: folder.join("config.pbtxt"),
            model: folder.join(version.to_string()).join("model.plan"),
            name: "m".into(),
            version,
            max_batch_size: 0,
            library: "TensorRT 8.6.0".into(),
            digest,
        }
    }

    #[test]
    fn what_others_put_there_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let digest = |text: &str| Digest::of(text.as_bytes());
        let known = |version| refuse_foreign(&report(dir.path(), version, digest("new")));
        let refused = |version| {
            let error = known(version).unwrap_err();
            let Some(ExportError::Occupied { path }) = error.downcast_ref() else {
                panic!("{error}")
            };
            path.strip_prefix(dir.path()).unwrap().to_owned()
        };
        assert_eq!(known(1).unwrap(), None);
        write("1/model.plan", "theirs");
        assert_eq!(refused(1), Path::new("1/model.plan"));
        write("config.pbtxt", "name: \"m\"\n");
        assert_eq!(refused(2), Path::new("config.pbtxt"));
        let config = Config {
            name: "m".into(),
            max_batch_size: 0,
            inputs: Vec::new(),
            outputs: Vec::new(),
            profiles: 1,
        };
        let versions = || Versions([(1, digest("ours")), (3, digest("gone"))].into());
        let written = sealed(&config.text("TensorRT 8.6.0", &versions()));
        for edited in [
            written.replace("platform", "# platform"),
            format!("{written}instance_group {{ count: 2 }}\n"),
            config.text("TensorRT 8.6.0", &versions()),
        ] {
            write("config.pbtxt", &edited);
            let error = known(3).unwrap_err();
            assert!(
                matches!(error.downcast_ref(), Some(ExportError::Edited { .. })),
                "{error}"
            );
        }
        write("config.pbtxt", &written);
        assert_eq!(refused(1), Path::new("1/model.plan"));
        write("1/model.plan", "ours");
        assert_eq!(known(1).unwrap(), Some(versions()));
        // What is exported now was written before, by an export that did not come to note it.
        write("1/model.plan", "new");
        assert_eq!(known(1).unwrap(), Some(versions()));
        write("2/model.plan", "theirs");
        assert_eq!(refused(2), Path::new("2/model.plan"));
        assert_eq!(known(3).unwrap(), Some(versions()));
    }

    #[test]
    fn folders_go_away_unless_they_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        drop(Made::folders(&at("a/b/1")).unwrap());
        assert!(!at("a").exists());
        Made::folders(&at("a/b")).unwrap().keep();
        let made = Made::folders(&at("a/b/c/1")).unwrap();
        std::fs::write(at("a/b/c/mine"), "x").unwrap();
        drop(made);
        assert!(at("a/b/c/mine").exists() && !at("a/b/c/1").exists());
        let long = at("d/e").join("x".repeat(300));
        Made::folders(&long).unwrap_err();
        assert!(!at("d").exists());
    }

    #[test]
    fn strings_are_quoted() {
        assert_eq!(quoted("a.b"), "\"a.b\"");
        assert_eq!(quoted("a\"\\\n1é"), "\"a\\\"\\\\\\0121\\303\\251\"");
    }

    #[test]
    fn models_are_named_by_their_folder() {
        assert_eq!(
            model_name(Path::new("models/unet-2.x/")).unwrap(),
            "unet-2.x"
        );
        for bad in ["/", "a b", "models/é"] {
            assert!(model_name(Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn releases_are_read() {
        assert_eq!(major("TensorRT 8.6.0"), 8);
        assert_eq!(major("TensorRT 12.0.0 (called as 11.4.0 is)"), 12);
    }

    fn decl(name: &str, dtype: Dtype, dims: &[&str]) -> TensorDecl {
        let extent = |d: &&str| match (d.parse(), *d) {
            (Ok(n), _) => Extent::Fixed(n),
            (_, "?") => Extent::Unknown,
            (_, symbol) => Extent::Symbol(symbol.into()),
        };
        TensorDecl {
            name: name.into(),
            dtype,
            dims: Some(dims.iter().map(extent).collect()),
        }
    }

    /// One range of (min, max) for each axis of each input.
    fn profile(inputs: &[(&TensorDecl, &[(usize, usize)])]) -> Profile {
        let inputs = inputs
            .iter()
            .map(|(decl, ranges)| crate::shapes::ProfileInput {
                name: decl.name.clone(),
                dtype: decl.dtype,
                axes: (ranges.iter())
                    .map(|&(min, max)| AxisRange {
                        min,
                        opt: min,
                        max: Some(max),
                    })
                    .collect(),
            });
        Profile {
            inputs: inputs.collect(),
            ..Profile::default()
        }
    }

    #[test]
    fn sizes_are_fixed_where_the_engine_has_one() {
        let x = decl("x", Dtype::F32, &["B", "3", "H", "?"]);
        let y = decl("y", Dtype::F32, &["B", "7", "?"]);
        let profile = profile(&[(&x, &[(1, 4), (3, 3), (32, 32), (2, 8)])]);
        assert_eq!(dims(&x, &profile).unwrap(), [-1, 3, 32, -1]);
        assert_eq!(dims(&y, &profile).unwrap(), [-1, 7, -1]);
        let unknown = TensorDecl { dims: None, ..y };
        let error = dims(&unknown, &profile).unwrap_err();
        assert!(error.to_string().contains("`y` has no stated number"));
    }

    #[test]
    fn types_are_those_of_the_engine() {
        let name = |dtype, has_i64| data_type(&decl("x", dtype, &[]), has_i64);
        assert_eq!(name(Dtype::I64, true).unwrap(), "TYPE_INT64");
        assert_eq!(name(Dtype::I64, false).unwrap(), "TYPE_INT32");
        assert_eq!(name(Dtype::Bf16, true).unwrap(), "TYPE_BF16");
        let error = name(Dtype::F8E4M3Fn, true).unwrap_err();
        assert!(error.to_string().contains("f8e4m3fn"));
    }

    #[test]
    fn requests_are_joined_only_along_one_batch() {
        let x = decl("x", Dtype::F32, &["B", "3"]);
        let y = decl("y", Dtype::F32, &["B", "7"]);
        let largest = |inputs: &[TensorDecl], outputs: &[TensorDecl], least| {
            let range = [(least, 8)];
            let ranges: Vec<_> = (inputs.iter())
                .map(|i| (i, &range[..i.dims.as_ref().map_or(0, |d| d.len().min(1))]))
                .collect();
            largest_batch(inputs, outputs, &profile(&ranges))
        };
        assert_eq!(largest(from_ref(&x), from_ref(&y), 1).unwrap(), 8);
        let refused = |inputs: &[TensorDecl], outputs: &[TensorDecl], least, says: &str| {
            let error = largest(inputs, outputs, least).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        };
        refused(from_ref(&x), from_ref(&y), 2, "`x` takes 2 at least");
        let other = decl("t", Dtype::F32, &["T"]);
        let pair = [x.clone(), other];
        refused(
            &pair,
            from_ref(&y),
            1,
            "`t` has `T` for dimension 0, where `x` has `B`",
        );
        let scalar = [x.clone(), decl("s", Dtype::F32, &[])];
        refused(&scalar, &[y], 1, "`s` has no named dimension 0");
        let reduced = [decl("y", Dtype::F32, &["7"])];
        refused(&[x], &reduced, 1, "`y` has no named dimension 0");
    }

    #[test]
    fn a_scalar_is_one_number_for_the_client() {
        let described = |name: &str, dims: &[i64]| Described {
            name: name.into(),
            data_type: "TYPE_FP32",
            dims: dims.to_vec(),
        };
        let config = Config {
            name: "m".into(),
            max_batch_size: 0,
            inputs: vec![described("t", &[])],
            outputs: vec![described("y", &[-1, 4])],
            profiles: 2,
        };
        let text = config.text("TensorRT 8.6.0", &Versions::default());
        assert!(
            text.contains("dims: [ 1 ]\n  reshape { shape: [ ] }"),
            "{text}"
        );
        assert!(text.contains("dims: [ -1, 4 ]\n}"), "{text}");
        assert!(!text.contains("dynamic_batching"), "{text}");
        assert!(text.contains("profile: [ \"0\", \"1\" ]"), "{text}");
    }
}
