//! Build options by name, as choices that a given library version can make.

use super::releases::{Basis, Entry, Product, Release, TABLE, Version};
use crate::engine::{Error, NOTHING_CONVERTED, Options};
use crate::onnx::keep;
use glob::Pattern;

/// How far a plan runs on other GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HardwareLevel {
    /// Every GPU since Ampere.
    AmperePlus,
    /// GPUs of the same compute capability.
    SameComputeCapability,
}

/// How much a plan says of its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    None,
    LayerNames,
    /// Everything that the engine inspector can show.
    Detailed,
}

/// Which weights stay replaceable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refit {
    /// All; some fusions are not done.
    Full,
    /// All, but only with the build's own values (to fill a stripped plan).
    Identical,
    /// Those that are marked.
    Individual,
    /// None of them; another weight is a build.
    None,
}

/// Everything that can be chosen.
///
/// | option | values | default |
/// |---|---|---|
/// | `refit` | `full` (not in 11.3), `identical` (10.0), `individual` (10.2), `none` | `full` |
/// | `strip` | `true`, `false`: leave refittable weights out (10.0) | `false` |
/// | `precision` | `model` (strongly typed: the model's own types, 9.0), or a list of `fp32`, `fp16`, `bf16` (9.0), `int8`: what a weakly typed network may compute in (8.x, 9.x, 10.x) | `model`; 8.x: `fp32`, with `fp16` when the model has fp16 tensors |
/// | `convert` | `fp16`, `bf16` (both 9.0): what the model was converted to before, recorded | none |
/// | `f32-layers` | list of patterns for names of ONNX nodes, with `*` and `?`: what stays in fp32 where less is allowed (8.x, 9.x, 10.x) | none |
/// | `tf32` | `true`, `false` | `false`: torch multiplies matrices in full f32 too |
/// | `opt-level` | `0` … `5` (8.6) | the library's |
/// | `workspace` | bytes, or with `K`, `M`, `G` | the library's |
/// | `hardware-compat` | `none`, `ampere-plus` (8.6), `same-compute-capability` (10.9) | `none` |
/// | `version-compatible` | `true`, `false` (8.6) | `false` |
/// | `plugins` | `standard` and plugin libraries with their digests: recorded, not read | none |
/// | `serialize-plugins` | `true`, `false`: write them into the plan (8.6, with `version-compatible`) | `false` |
/// | `weight-streaming` | `true`, `false`: weights may stay in host memory at run time (10.1; with refit 10.8) | `false` |
/// | `sparsity` | `true`, `false` | `false` |
/// | `compute-capability` | list as `8.9,12.0` (TensorRT-RTX) | that of the GPU here |
/// | `profiling-verbosity` | `none`, `layer-names`, `detailed` | the library's |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choices {
    /// Which weights can be replaced later.
    pub refit: Refit,
    /// Leave refittable weights out.
    pub strip: bool,
    /// `None` is strongly typed.
    pub weak: Option<Precisions>,
    /// The model was converted, so what is f32 in it is meant to be.
    pub converted: bool,
    /// Names of nodes that stay in f32.
    pub f32_layers: Vec<Pattern>,
    /// Matrix products may round their operands to TF32.
    pub tf32: bool,
    /// How hard to search for kernels, 0 to 5; `None` is the library's own.
    pub opt_level: Option<i32>,
    /// Scratch memory limit in bytes.
    pub workspace: Option<usize>,
    /// On which other GPUs the plan runs.
    pub hardware: Option<HardwareLevel>,
    /// The plan runs in later releases too.
    pub version_compatible: bool,
    /// Write plugin libraries into the plan.
    pub serialize_plugins: bool,
    /// Weights may stay in host memory at run time.
    pub weight_streaming: bool,
    /// Look for 2:4 sparsity.
    pub sparsity: bool,
    /// Compute capabilities × 10, sorted.
    pub compute_capabilities: Option<Vec<u32>>,
    /// What the plan says of its layers.
    pub verbosity: Option<Verbosity>,
}

/// Why `f32-layers` is refused.
pub(super) const NOTHING_REDUCED: &str =
    "nothing less than f32 is allowed; pass `--fp16`, `--bf16` or `--int8` too, or leave it out";

/// What a weakly typed network may compute in, beside fp32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Precisions {
    /// Nothing was asked for, so the model's tensors decide.
    pub by_model: bool,
    pub fp16: bool,
    pub bf16: bool,
    pub int8: bool,
}

impl Precisions {
    /// Whether anything less than f32 may be computed in, as far as can be told without the model.
    fn reduced(self) -> bool {
        self.by_model || self.fp16 || self.bf16 || self.int8
    }
}

/// Compute capabilities × 10 that some TensorRT-RTX compiles for.
const RTX_CAPABILITIES: &[u32] = &[75, 80, 86, 89, 120, 121];

/// A library, as far as options depend on it.
#[derive(Clone, Copy)]
struct Library {
    product: Product,
    version: Version,
    release: Release,
}

impl Library {
    fn title(self) -> String {
        format!("{} {}", self.product.title(), self.version)
    }

    fn has(self, entry: &Entry) -> bool {
        entry.get(self.release).is_some()
    }

    /// That the library has something, or which one does.
    fn needs(self, entry: &Entry, what: &str) -> Result<(), String> {
        if self.has(entry) {
            return Ok(());
        }
        let came = match (entry.since(self.product), self.release.basis) {
            (Some(first), Basis::Between(low, high)) if first <= self.version => {
                format!(
                    "; what is known of it, from {low} and {high}, does not say how to ask for it"
                )
            }
            (Some(first), _) if first > self.version => {
                let (major, minor, _) = first.parts();
                format!("; it came with {major}.{minor}")
            }
            (Some(_), _) => "; earlier releases had it".into(),
            (None, _) => String::new(),
        };
        Err(format!("{} has no {what}{came}", self.title()))
    }

    fn strongly_typed(self) -> bool {
        self.has(&TABLE.network_flag.strongly_typed)
    }

    /// TensorRT-RTX had the flags at first, and computed in the model's own types all the same.
    fn weakly_typed(self) -> bool {
        self.product == Product::TensorRt && self.has(&TABLE.flag.fp16)
    }
}

impl Choices {
    /// Reads `options` for a library.
    ///
    /// # Errors
    /// [`Error::Option`] for a name or value that this version does not take.
    pub fn parse(
        product: Product,
        version: Version,
        release: Release,
        options: &Options,
    ) -> Result<Choices, Error> {
        let library = Library {
            product,
            version,
            release,
        };
        let mut c = Choices {
            refit: Refit::Full,
            strip: false,
            weak: (!library.strongly_typed()).then(|| Precisions {
                by_model: true,
                ..Precisions::default()
            }),
            converted: false,
            f32_layers: Vec::new(),
            tf32: false,
            opt_level: None,
            workspace: None,
            hardware: None,
            version_compatible: false,
            serialize_plugins: false,
            weight_streaming: false,
            sparsity: false,
            compute_capabilities: None,
            verbosity: None,
        };
        for (name, value) in options {
            c.set(library, name, value)
                .map_err(|reason| refuse(product, name, value, reason))?;
        }
        c.consistent(product, version, options)
            .map_err(|(name, reason)| {
                refuse(
                    product,
                    name,
                    options.get(name).map_or("full", String::as_str),
                    reason,
                )
            })?;
        Ok(c)
    }

    /// Whether some weights of the engine can be replaced.
    pub fn keeps_refit(&self) -> bool {
        self.refit != Refit::None || self.strip
    }

    /// Takes one option, or says why this library does not.
    fn set(&mut self, library: Library, name: &str, value: &str) -> Result<(), String> {
        match name {
            "refit" => self.refit = refit(library, value)?,
            "strip" => {
                self.strip = boolean(value)?;
                if self.strip {
                    library.needs(&TABLE.flag.strip_plan, "stripped plans")?;
                }
            }
            "precision" if value == "model" => {
                library.needs(
                    &TABLE.network_flag.strongly_typed,
                    "strongly typed networks",
                )?;
            }
            "precision" => self.weak = Some(weak(library, value)?),
            "convert" => {
                self.converted = true;
                if !library.strongly_typed() {
                    return Err(format!(
                        "{} chooses types itself, whatever the model says; pass `--fp16` instead",
                        library.title()
                    ));
                }
            }
            "f32-layers" => self.f32_layers = keep::patterns(value)?,
            "tf32" => self.tf32 = boolean(value)?,
            "opt-level" => self.opt_level = Some(opt_level(library, value)?),
            "workspace" => self.workspace = Some(bytes(value)?),
            "hardware-compat" => self.hardware = hardware(library, value)?,
            "version-compatible" => {
                self.version_compatible = boolean(value)?;
                if self.version_compatible {
                    library.needs(&TABLE.flag.version_compatible, "version compatibility")?;
                }
            }
            // What they are goes into keys and manifests; that they are loaded is not decided here.
            "plugins" => {}
            "serialize-plugins" => {
                self.serialize_plugins = boolean(value)?;
                if self.serialize_plugins {
                    library.needs(
                        &TABLE.config.set_plugins_to_serialize,
                        "plugin libraries in plans",
                    )?;
                }
            }
            "weight-streaming" => {
                self.weight_streaming = boolean(value)?;
                if self.weight_streaming {
                    library.needs(
                        &TABLE.engine.set_weight_streaming_budget_v2,
                        "weight streaming with a budget",
                    )?;
                }
            }
            "sparsity" => self.sparsity = boolean(value)?,
            "compute-capability" => {
                if library.product != Product::Rtx {
                    return Err(format!(
                        "{} compiles for the GPU that it runs on",
                        library.title()
                    ));
                }
                self.compute_capabilities = Some(capabilities(value)?);
            }
            "profiling-verbosity" => {
                self.verbosity = Some(one_of(
                    value,
                    &[
                        ("none", Verbosity::None),
                        ("layer-names", Verbosity::LayerNames),
                        ("detailed", Verbosity::Detailed),
                    ],
                )?);
            }
            _ => return Err("there is no such option".into()),
        }
        Ok(())
    }

    /// Choices that exclude each other.
    fn consistent(
        &self,
        product: Product,
        version: Version,
        options: &Options,
    ) -> Result<(), (&'static str, String)> {
        let before_10 = product == Product::TensorRt && version < Version::new(10, 0, 0);
        if before_10 && self.version_compatible && self.refit != Refit::None {
            return Err((
                "version-compatible",
                "before TensorRT 10 a version-compatible engine cannot be refitted; pass `--refit none`"
                    .into(),
            ));
        }
        // An engine with both gives a "misaligned address" before 10.8 (pytorch/TensorRT issue 3305); identical refits do not.
        let before_10_8 = product == Product::TensorRt && version < Version::new(10, 8, 0);
        if before_10_8
            && self.weight_streaming
            && matches!(self.refit, Refit::Full | Refit::Individual)
        {
            return Err((
                "weight-streaming",
                "before TensorRT 10.8 an engine that can be refitted fails when its weights are streamed; pass \
                 `--refit none`"
                    .into(),
            ));
        }
        if self.serialize_plugins && !self.version_compatible {
            // Where such a plan cannot be refitted, that alone would be refused next.
            let needed = if before_10 && self.refit != Refit::None {
                "`--version-compatible --refit none`"
            } else {
                "`--version-compatible`"
            };
            return Err((
                "serialize-plugins",
                format!(
                    "plugin libraries go into version-compatible plans only; pass {needed} too"
                ),
            ));
        }
        if self.weight_streaming && self.weak.is_some() {
            return Err((
                "weight-streaming",
                "it needs the model's own types; leave `--fp16`, `--bf16` and `--int8` out".into(),
            ));
        }
        // Known Issues of the 11.3.0 release notes: "refitting-engines", box "Important".
        if product == Product::TensorRt
            && version.parts().0 == 11
            && version.parts().1 == 3
            && self.refit == Refit::Full
        {
            return Err((
                "refit",
                "TensorRT 11.3 may drop the bias of a matrix product from an engine that is built so, and its outputs \
                 are wrong then; pass `--refit identical --strip` (weights go back in as they were), `--refit none`, or \
                 use 11.4"
                    .into(),
            ));
        }
        if self.strip && self.refit == Refit::None && options.contains_key("refit") {
            return Err((
                "strip",
                "a stripped plan is filled by a refit, so `--refit none` excludes it".into(),
            ));
        }
        let reducing = self.weak.is_some_and(|w| w.fp16 || w.bf16 || w.int8);
        if self.converted && reducing {
            return Err((
                "convert",
                "a converted model says itself what is computed in half precision; leave `--fp16`, `--bf16` and `--int8` out"
                    .into(),
            ));
        }
        if !self.f32_layers.is_empty()
            && !self.converted
            && !self.weak.is_some_and(Precisions::reduced)
        {
            // Later releases, and TensorRT-RTX, compute in the model's own types.
            let permits = product == Product::TensorRt && version < Version::new(11, 0, 0);
            let why = if permits {
                NOTHING_REDUCED
            } else {
                NOTHING_CONVERTED
            };
            return Err(("f32-layers", why.into()));
        }
        if !self.strip && self.refit == Refit::Identical {
            return Err((
                "refit",
                "an engine that takes only its own values back is of use with `--strip`; pass `full`".into(),
            ));
        }
        Ok(())
    }
}

fn refuse(product: Product, name: &str, value: &str, reason: String) -> Error {
    Error::Option {
        backend: product.backend().into(),
        option: format!("{name}={value}"),
        reason,
    }
}

fn one_of<T: Copy>(value: &str, all: &[(&str, T)]) -> Result<T, String> {
    all.iter()
        .find(|(name, _)| *name == value)
        .map(|(_, v)| *v)
        .ok_or_else(|| {
            format!(
                "it is one of {}",
                all.iter()
                    .map(|(n, _)| format!("`{n}`"))
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        })
}

fn refit(library: Library, value: &str) -> Result<Refit, String> {
    let refit = one_of(
        value,
        &[
            ("full", Refit::Full),
            ("identical", Refit::Identical),
            ("individual", Refit::Individual),
            ("none", Refit::None),
        ],
    )?;
    match refit {
        Refit::Identical => library.needs(&TABLE.flag.refit_identical, "identical refit")?,
        Refit::Individual => {
            library.needs(&TABLE.flag.refit_individual, "refit of single weights")?;
        }
        Refit::Full | Refit::None => {}
    }
    Ok(refit)
}

fn weak(library: Library, value: &str) -> Result<Precisions, String> {
    if !library.weakly_typed() {
        let instead = if value.contains("fp16") {
            "pass `--convert fp16` instead, which converts the model"
        } else if value.contains("bf16") {
            "pass `--convert bf16` instead, which converts the model"
        } else {
            "quantise the model itself: int8 is what its `QuantizeLinear` nodes say"
        };
        return Err(format!(
            "{} computes in the model's own types; {instead}",
            library.title(),
        ));
    }
    let p = precisions(value)?;
    if p.bf16 {
        library.needs(&TABLE.flag.bf16, "bf16")?;
    }
    Ok(p)
}

fn opt_level(library: Library, value: &str) -> Result<i32, String> {
    library.needs(
        &TABLE.config.set_builder_optimization_level,
        "optimization level",
    )?;
    let level = value.parse().ok().filter(|level| (0..=5).contains(level));
    level.ok_or_else(|| "it is a number from 0 to 5".into())
}

fn hardware(library: Library, value: &str) -> Result<Option<HardwareLevel>, String> {
    let level = one_of(
        value,
        &[
            ("none", None),
            ("ampere-plus", Some(HardwareLevel::AmperePlus)),
            (
                "same-compute-capability",
                Some(HardwareLevel::SameComputeCapability),
            ),
        ],
    )?;
    let table = &TABLE.hardware;
    match level {
        Some(HardwareLevel::AmperePlus) => {
            library.needs(&table.ampere_plus, "hardware compatibility")?;
        }
        Some(HardwareLevel::SameComputeCapability) => library.needs(
            &table.same_compute_capability,
            "compatibility within a compute capability",
        )?,
        None => {}
    }
    Ok(level)
}

fn boolean(value: &str) -> Result<bool, String> {
    one_of(value, &[("true", true), ("false", false)])
}

fn precisions(value: &str) -> Result<Precisions, String> {
    let mut p = Precisions::default();
    for part in value.split(',') {
        match part {
            "fp32" => {}
            "fp16" => p.fp16 = true,
            "bf16" => p.bf16 = true,
            "int8" => p.int8 = true,
            _ => return Err("it is `model`, or a list of `fp32`, `fp16`, `bf16`, `int8`".into()),
        }
    }
    Ok(p)
}

/// `8589934592`, `512M`, `8G`; units are powers of 1024.
///
/// # Errors
/// What it has to be, in one fragment.
pub fn bytes(value: &str) -> Result<usize, String> {
    let (digits, shift) = match value.as_bytes().last() {
        Some(b'K') => (&value[..value.len() - 1], 10),
        Some(b'M') => (&value[..value.len() - 1], 20),
        Some(b'G') => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    digits
        .parse::<usize>()
        .ok()
        .filter(|&n| n > 0)
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| "it is a number of bytes, or one with `K`, `M` or `G`".into())
}

pub(super) fn capabilities(value: &str) -> Result<Vec<u32>, String> {
    let known = || {
        RTX_CAPABILITIES
            .iter()
            .map(|c| format!("{}.{}", c / 10, c % 10))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut all = value
        .split(',')
        .map(|part| {
            let (major, minor) = part.trim().split_once('.')?;
            let cc = major
                .parse::<u32>()
                .ok()?
                .checked_mul(10)?
                .checked_add(minor.parse().ok().filter(|m| *m < 10)?)?;
            RTX_CAPABILITIES.contains(&cc).then_some(cc)
        })
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| {
            format!(
                "TensorRT-RTX compiles for {}; give a list such as `8.6,8.9`",
                known()
            )
        })?;
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRT: Product = Product::TensorRt;

    fn parse(
        product: Product,
        version: (u32, u32, u32),
        options: &[(&str, &str)],
    ) -> Result<Choices, Error> {
        let options = options
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect();
        let version = Version::new(version.0, version.1, version.2);
        let release = Release::of(product, version, None).expect("it is known");
        Choices::parse(product, version, release, &options)
    }

    #[test]
    fn defaults_keep_torch_numerics_and_refit() {
        let v8 = parse(TRT, (8, 6, 0), &[]).unwrap();
        assert_eq!((v8.refit, v8.tf32, v8.strip), (Refit::Full, false, false));
        assert!(v8.weak.unwrap().by_model);
        // What the refusal for 11.3 names is taken.
        for options in [
            &[("refit", "identical"), ("strip", "true")][..],
            &[("refit", "none")],
        ] {
            parse(TRT, (11, 3, 0), options).unwrap();
        }
        for (product, version) in [
            (TRT, (9, 0, 1)),
            (TRT, (10, 0, 0)),
            (TRT, (11, 4, 0)),
            (Product::Rtx, (1, 7, 1)),
        ] {
            assert_eq!(parse(product, version, &[]).unwrap().weak, None);
        }
    }

    #[test]
    fn every_option_is_read() {
        let c = parse(
            TRT,
            (10, 13, 0),
            &[
                ("refit", "individual"),
                ("strip", "true"),
                ("precision", "fp16,bf16"),
                ("f32-layers", "*norm*, /out/?"),
                ("tf32", "true"),
                ("opt-level", "2"),
                ("workspace", "2G"),
                ("hardware-compat", "same-compute-capability"),
                ("version-compatible", "true"),
                ("sparsity", "true"),
                ("profiling-verbosity", "detailed"),
            ],
        )
        .unwrap();
        assert_eq!(
            (c.refit, c.strip, c.tf32, c.opt_level),
            (Refit::Individual, true, true, Some(2))
        );
        assert_eq!(
            c.weak,
            Some(Precisions {
                fp16: true,
                bf16: true,
                ..Precisions::default()
            })
        );
        let kept: Vec<_> = c.f32_layers.iter().map(Pattern::as_str).collect();
        assert_eq!(kept, ["*norm*", "/out/?"]);
        assert_eq!(
            (c.workspace, c.hardware),
            (Some(2 << 30), Some(HardwareLevel::SameComputeCapability))
        );
        assert!(c.version_compatible && c.sparsity && c.verbosity == Some(Verbosity::Detailed));
        let rtx = parse(
            Product::Rtx,
            (1, 7, 1),
            &[("compute-capability", "12.0, 8.9,8.9")],
        )
        .unwrap();
        assert_eq!(rtx.compute_capabilities.unwrap(), [89, 120]);
    }

    #[test]
    fn what_a_version_does_not_take_is_refused_with_the_reason() {
        type Case<'a> = (Product, (u32, u32, u32), &'a [(&'a str, &'a str)], &'a str);
        let cases: &[Case<'_>] = &[
            (TRT, (8, 6, 0), &[("refit", "individual")], "came with 10.2"),
            (
                TRT,
                (10, 0, 0),
                &[("refit", "individual")],
                "came with 10.2",
            ),
            (TRT, (8, 6, 0), &[("refit", "identical")], "came with 10.0"),
            (TRT, (11, 0, 0), &[("refit", "identical")], "--strip"),
            (TRT, (8, 6, 0), &[("strip", "true")], "came with 10.0"),
            (
                TRT,
                (11, 0, 0),
                &[("strip", "true"), ("refit", "none")],
                "excludes it",
            ),
            (TRT, (8, 6, 0), &[("precision", "model")], "came with 9.0"),
            (TRT, (8, 6, 0), &[("precision", "bf16")], "came with 9.0"),
            (
                TRT,
                (10, 8, 0),
                &[("hardware-compat", "same-compute-capability")],
                "came with 10.9",
            ),
            (TRT, (11, 3, 0), &[], "drop the bias"),
            (
                TRT,
                (11, 3, 0),
                &[("refit", "full")],
                "--refit identical --strip",
            ),
            (
                TRT,
                (11, 0, 0),
                &[("precision", "fp16")],
                "the model's own types; pass `--convert fp16`",
            ),
            (TRT, (11, 0, 0), &[("precision", "int8")], "QuantizeLinear"),
            (
                Product::Rtx,
                (1, 7, 1),
                &[("precision", "bf16")],
                "the model's own types; pass `--convert bf16`",
            ),
            (TRT, (8, 6, 0), &[("convert", "fp16")], "pass `--fp16`"),
            (
                TRT,
                (10, 0, 0),
                &[("convert", "fp16"), ("precision", "fp16")],
                "leave `--fp16`",
            ),
            (TRT, (10, 0, 0), &[("precision", "fp8")], "a list of"),
            (TRT, (10, 0, 0), &[("f32-layers", "*")], "--fp16"),
            (TRT, (11, 1, 0), &[("f32-layers", "*")], "--convert fp16"),
            (
                Product::Rtx,
                (1, 4, 0),
                &[("f32-layers", "*")],
                "--convert fp16",
            ),
            (
                TRT,
                (8, 6, 0),
                &[("precision", "fp32"), ("f32-layers", "*")],
                "--fp16",
            ),
            (TRT, (8, 6, 0), &[("f32-layers", "a,,b")], "empty"),
            (TRT, (8, 6, 0), &[("f32-layers", "a***")], "no pattern"),
            (TRT, (8, 5, 3), &[("opt-level", "3")], "came with 8.6"),
            (TRT, (8, 6, 0), &[("opt-level", "6")], "from 0 to 5"),
            (TRT, (8, 6, 0), &[("workspace", "0")], "number of bytes"),
            (
                TRT,
                (8, 6, 0),
                &[("workspace", "99999999999999999999G")],
                "number of bytes",
            ),
            (TRT, (8, 6, 0), &[("workspace", "é")], "number of bytes"),
            (TRT, (8, 6, 0), &[("tf32", "yes")], "`true`, `false`"),
            (
                TRT,
                (8, 6, 0),
                &[("compute-capability", "8.9")],
                "the GPU that it runs on",
            ),
            (
                Product::Rtx,
                (1, 7, 1),
                &[("compute-capability", "9.0")],
                "8.6, 8.9",
            ),
            (
                Product::Rtx,
                (1, 7, 1),
                &[("compute-capability", "89")],
                "8.6, 8.9",
            ),
            (
                TRT,
                (8, 5, 3),
                &[("hardware-compat", "ampere-plus")],
                "came with 8.6",
            ),
            (
                TRT,
                (8, 6, 0),
                &[("version-compatible", "true")],
                "--refit none",
            ),
            (
                TRT,
                (8, 6, 0),
                &[("profiling-verbosity", "loud")],
                "`detailed`",
            ),
            (TRT, (8, 6, 0), &[("turbo", "true")], "no such option"),
        ];
        for (product, version, options, reason) in cases {
            let e = parse(*product, *version, options).unwrap_err();
            assert!(
                matches!(e, Error::Option { .. }) && e.to_string().contains(reason),
                "{options:?}: {e}"
            );
        }
    }
}
