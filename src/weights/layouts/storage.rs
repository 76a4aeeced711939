//! What the tensors of a checkpoint are: wrappers taken off their names, 8-bit floats brought
//! together with their scales, and what is quantised in another way, or not merged, refused by
//! name.
//!
//! Scales: ComfyUI's `X.scale_weight` (`comfy/ops.py`), `X.weight_scale` of `ModelOpt`,
//! compressed-tensors and transformers, and `X.scale` beside the f8 tensor `X.weight`: one factor
//! for the tensor or one a row. Scales of activations (`scale_input`, `input_scale`) say nothing
//! about the weight.

use super::super::Source;
use super::super::finder::Finder;
use super::error::{CONTROL_LORA, Error};
use crate::tensor::{Dtype, Stretch, to_f32};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// Every tensor of a file as the file means it, and what is to be said about it. A file may have millions: what is as the file
/// has it is not held again.
#[derive(Debug)]
pub(super) struct Storage {
    pub source: Arc<Source>,
    /// In the order of the file's names.
    tensors: Vec<Stored>,
    others: Vec<Other>,
    /// Indices in the order of the names without wrappers, where any has one.
    by_name: Option<Vec<u32>>,
    finder: Finder,
    pub notes: Vec<String>,
    /// Tensors that only say how activations were quantised.
    pub side: usize,
}

/// One tensor of a file.
#[derive(Debug, Clone, Copy)]
struct Stored {
    /// Its index in the source.
    at: u32,
    /// One more than its index in [`Storage::others`]; 0 where it is as the source has it.
    other: u32,
}

/// What a tensor is that is not as the file has it.
#[derive(Debug, Default)]
struct Other {
    /// Name without wrappers (`base_layer`, `_orig_mod`).
    name: Option<String>,
    /// The tensor that its values are multiplied by.
    scale: Option<String>,
    shape: Option<Vec<usize>>,
}

/// Segments that wrappers put into names: `torch.compile`, PEFT.
const WRAPPERS: [&str; 2] = ["_orig_mod", "base_layer"];

/// Names that show a quantisation that is not undone here.
const QUANTISED: &[(&str, &str)] = &[
    (".quant_state.bitsandbytes__", "bitsandbytes in 4 bits"),
    (".weight.absmax", "bitsandbytes in 4 bits"),
    (".SCB", "bitsandbytes in 8 bits"),
    (".qzeros", "GPTQ or AWQ"),
    (".g_idx", "GPTQ"),
    (".wscales", "SVDQuant (nunchaku)"),
    (".qweight", "GPTQ, AWQ or nunchaku"),
    (".weight_packed", "compressed-tensors in 4 bits"),
    (".weight_scale_2", "NVFP4"),
    (".weight._data", "optimum-quanto"),
    (
        ".weight_scale_inv",
        "blocks of 8-bit floats (`weight_scale_inv`)",
    ),
];

/// Tensors beside an f8 weight that say nothing about its values.
const BESIDE: [&str; 3] = ["scale_input", "input_scale", "comfy_quant"];

/// The name of ComfyUI's mark of a file of f8 weights with scales.
const SCALED: &str = "scaled_fp8";

/// Whether values of this type are decoded.
pub(super) fn is_f8(dtype: Dtype) -> bool {
    matches!(
        dtype,
        Dtype::F8E4M3Fn | Dtype::F8E4M3Fnuz | Dtype::F8E5M2 | Dtype::F8E5M2Fnuz
    )
}

/// Element type of the values as they are read: exporters keep complex numbers as pairs of real ones, which are the same bytes.
fn decoded_type(dtype: Dtype) -> Dtype {
    match dtype {
        Dtype::C64 => Dtype::F32,
        f8 if is_f8(f8) => Dtype::F32,
        other => other,
    }
}

/// The shape of the values as they are read, where it is another: an axis of two more for complex numbers.
fn shape_of(dtype: Dtype, shape: &[usize]) -> Option<Vec<usize>> {
    (dtype == Dtype::C64).then(|| [shape, &[2]].concat())
}

/// The path that messages name: the file, or the folder of several.
pub(super) fn path_of(source: &Source) -> PathBuf {
    match source.files() {
        [one] => one.path().to_owned(),
        files => (files.first().and_then(|f| f.path().parent()))
            .unwrap_or("".as_ref())
            .to_owned(),
    }
}

/// Reads the names of `source`.
///
/// # Errors
/// [`Error::Unmerged`], [`Error::Quantised`], [`Error::PartlyScaled`], [`Error::Scale`],
/// [`Error::Twice`].
pub(super) fn read(source: Arc<Source>) -> Result<Storage, Error> {
    refuse_unmerged(&source)?;
    // Before scales are looked for: those of other quantisations would be told of as unknown names.
    refuse_quantised(&source)?;
    refuse_integers(&source)?;
    refuse_differences(&source)?;
    let scales = scales(&source)?;
    let (mut tensors, mut others) = (Vec::new(), Vec::new());
    let (mut side, mut decoded) = (0, 0);
    for (at, name) in source.names().enumerate() {
        if scales.aside.contains(name) {
            side += 1;
            continue;
        }
        let unwrapped = without_wrappers(name);
        // Said twice, and alike: once is enough. What differs is refused below.
        let twin = unwrapped.as_deref().and_then(|bare| source.get(bare));
        let is_scaled = |name: &str| scales.of.contains_key(name);
        let scaled = is_scaled(name) || unwrapped.as_deref().is_some_and(is_scaled);
        if !scaled && twin.is_some() && twin == source.get(name) {
            continue;
        }
        let (dtype, shape) = source.describe_at(at);
        decoded += usize::from(is_f8(dtype));
        let other = Other {
            name: unwrapped,
            scale: scales.of.get(name).cloned(),
            shape: shape_of(dtype, shape),
        };
        let differs = other.name.is_some() || other.scale.is_some() || other.shape.is_some();
        others.extend(differs.then_some(other));
        let short = |n: usize| u32::try_from(n).expect("a header names fewer tensors");
        tensors.push(Stored {
            at: short(at),
            other: if differs { short(others.len()) } else { 0 },
        });
    }
    let mut notes = Vec::new();
    if decoded > 0 {
        notes.push(if scales.of.is_empty() {
            format!("{decoded} f8 tensors have no scales and are taken for what they say")
        } else {
            format!("{decoded} f8 tensors are multiplied by their scales")
        });
    }
    let mut storage = Storage {
        source,
        tensors,
        others,
        by_name: None,
        finder: Finder::default(),
        notes,
        side,
    };
    if storage.others.iter().any(|o| o.name.is_some()) {
        storage.by_name = Some(storage.sorted()?);
    }
    Ok(storage)
}

/// The name without wrappers, where it has one.
fn without_wrappers(name: &str) -> Option<String> {
    if !WRAPPERS.iter().any(|w| name.contains(w)) {
        return None;
    }
    let segments = name.split('.').filter(|s| !WRAPPERS.contains(s));
    let clean = segments.collect::<Vec<_>>().join(".");
    (clean != name).then_some(clean)
}

impl Storage {
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    fn other(&self, at: usize) -> Option<&Other> {
        self.others
            .get((self.tensors[at].other as usize).checked_sub(1)?)
    }

    fn at(&self, at: usize) -> usize {
        self.tensors[at].at as usize
    }

    /// The name of a tensor, without wrappers.
    pub fn name(&self, at: usize) -> &str {
        let own = self.other(at).and_then(|o| o.name.as_deref());
        own.unwrap_or_else(|| self.source_name(at))
    }

    /// Its name in the file.
    pub fn source_name(&self, at: usize) -> &str {
        self.source.name_at(self.at(at))
    }

    /// The tensor that its values are multiplied by.
    pub fn scale(&self, at: usize) -> Option<&str> {
        self.other(at)?.scale.as_deref()
    }

    /// Element type of the values: f32 for 8-bit floats, which are decoded; pairs of real numbers for complex ones.
    pub fn dtype(&self, at: usize) -> Dtype {
        decoded_type(self.source.describe_at(self.at(at)).0)
    }

    pub fn shape(&self, at: usize) -> &[usize] {
        let own = self.other(at).and_then(|o| o.shape.as_deref());
        own.unwrap_or_else(|| self.source.describe_at(self.at(at)).1)
    }

    /// Every name without wrappers, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        (0..self.len()).map(|nth| self.name(self.nth(nth)))
    }

    /// The tensor that is in this place in the order of names.
    fn nth(&self, nth: usize) -> usize {
        self.by_name.as_ref().map_or(nth, |o| o[nth] as usize)
    }

    /// The tensor of that name without wrappers.
    pub fn find(&self, name: &str) -> Option<usize> {
        let compare = |nth: usize| self.name(self.nth(nth)).cmp(name);
        Some(self.nth(self.finder.find(self.len(), compare)?))
    }

    /// Indices in the order of names without wrappers.
    fn sorted(&self) -> Result<Vec<u32>, Error> {
        let mut order: Vec<u32> = (0..).take(self.len()).collect();
        let name = |at: u32| self.name(at as usize);
        // Of equal names the file's first stays the first.
        order.sort_by(|&a, &b| name(a).cmp(name(b)));
        // Of several such names, the one whose second comes first in the file.
        let again = (order.windows(2).filter(|w| name(w[0]) == name(w[1])))
            .map(|w| (w[1], w[0]))
            .min();
        match again {
            None => Ok(order),
            Some((second, first)) => Err(Error::Twice {
                path: path_of(&self.source),
                to: name(second).to_owned(),
                first: self.source_name(first as usize).to_owned(),
                second: self.source_name(second as usize).to_owned(),
            }),
        }
    }

    /// Whether the file holds the values as they are.
    pub fn is_plain(&self, at: usize) -> bool {
        !is_f8(self.source.describe_at(self.at(at)).0)
    }

    /// Where its bytes are in the files.
    pub fn stretch(&self, at: usize) -> Stretch {
        self.source.stretch_at(self.at(at))
    }
}

fn refuse_unmerged(source: &Source) -> Result<(), Error> {
    // Factors alone are a LoRA. Beside the layer that they wrap they are a model that was saved
    // before it was merged.
    let beside =
        |module: &str, layer: &str| !source.under(&format!("{module}.{layer}.")).is_empty();
    let layer = |n: &str| -> Option<String> {
        let factor = ADAPTERS.iter().find_map(|a| n.split_once(a));
        let wrapped = factor.filter(|(module, _)| beside(module, "base_layer"));
        let kept = || {
            n.split_once(".modules_to_save.")
                .filter(|(module, _)| beside(module, "original_module"))
        };
        Some(wrapped.or_else(kept)?.0.to_owned())
    };
    let layers: BTreeSet<String> = source.names().filter_map(layer).collect();
    match layers.first() {
        None => Ok(()),
        Some(first) => Err(Error::Unmerged {
            path: path_of(source),
            layers: layers.len(),
            first: first.clone(),
        }),
    }
}

/// What PEFT's adapters call their factors, under the module.
const ADAPTERS: [&str; 6] = [
    ".lora_A",
    ".lora_B",
    ".lora_embedding_A",
    ".lora_embedding_B",
    ".hada_w1_a",
    ".lokr_w1",
];

fn refuse_quantised(source: &Source) -> Result<(), Error> {
    for (mark, kind) in QUANTISED {
        // bitsandbytes ends the name with the type: `bitsandbytes__nf4`, `bitsandbytes__fp4`.
        let has = |n: &&str| n.ends_with(mark) || (mark.ends_with("__") && n.contains(mark));
        let mut found = source.names().filter(has);
        if let Some(first) = found.next() {
            return Err(Error::Quantised {
                path: path_of(source),
                kind,
                count: 1 + found.count(),
                first: first.to_owned(),
            });
        }
    }
    Ok(())
}

/// `ComfyUI` adds the UNet's weights to such a file when it loads it (`comfy/controlnet.py`).
fn refuse_differences(source: &Source) -> Result<(), Error> {
    let whole = source.names().any(|n| n.starts_with("control_model."));
    let marks = [("difference", whole), (CONTROL_LORA, true)];
    let mut found = marks
        .iter()
        .filter(|(mark, meant)| *meant && source.shape(mark).is_some());
    match found.next() {
        None => Ok(()),
        Some((mark, _)) => Err(Error::Difference {
            path: path_of(source),
            mark,
        }),
    }
}

/// Integers with scales: `ComfyUI`'s `int8_tensorwise`, `convrot_w4a4`, `asym_w4a8_int8`, `awq_w4a16` (`comfy/quant_ops.py`), and
/// the same names elsewhere.
fn refuse_integers(source: &Source) -> Result<(), Error> {
    let quantised = |(at, name): &(usize, &str)| {
        let integer = matches!(
            source.describe_at(*at).0,
            Dtype::I8 | Dtype::U8 | Dtype::I16 | Dtype::U16 | Dtype::I32 | Dtype::U32
        );
        let beside = |module: &str| {
            let of = |end: &&str| source.shape(&format!("{module}.{end}")).is_some();
            INTEGER_MARKS.iter().any(of)
        };
        integer && name.strip_suffix(".weight").is_some_and(beside)
    };
    let mut found = source.names().enumerate().filter(quantised);
    match found.next() {
        None => Ok(()),
        Some((_, first)) => Err(Error::Quantised {
            path: path_of(source),
            kind: "integers with scales",
            count: 1 + found.count(),
            first: first.to_owned(),
        }),
    }
}

/// What stands beside the integers of a quantised weight.
const INTEGER_MARKS: [&str; 3] = ["weight_scale", "comfy_quant", "scale_weight"];

#[derive(Default)]
struct Scales {
    /// Name of an f8 tensor to name of its scale.
    of: BTreeMap<String, String>,
    /// Tensors that are no weights.
    aside: BTreeSet<String>,
}

fn scales(source: &Source) -> Result<Scales, Error> {
    let mut found = Scales::default();
    let mut bare = Vec::new();
    let f8: Vec<&str> = (source.names().enumerate())
        .filter(|(at, _)| is_f8(source.describe_at(*at).0))
        .map(|(_, name)| name)
        .collect();
    // ComfyUI's mark of such a file, which is f32 in some (`comfy/utils.py`, `convert_old_quants`).
    let mark = |n: &&str| *n == SCALED || n.strip_suffix(SCALED).is_some_and(|p| p.ends_with('.'));
    (found.aside).extend(source.names().filter(mark).map(ToOwned::to_owned));
    for &name in &f8 {
        if mark(&name) {
            continue;
        }
        let scale = find_scale(source, name, &mut found.aside)?;
        match scale {
            Some(scale) => {
                found.aside.insert(scale.clone());
                found.of.insert(name.to_owned(), scale);
            }
            None => bare.push(name.to_owned()),
        }
    }
    // Whether the others have a scale of 1 or lost theirs, the file does not say.
    if !found.of.is_empty() && !bare.is_empty() {
        return Err(Error::PartlyScaled {
            path: path_of(source),
            scaled: found.of.len(),
            bare,
        });
    }
    Ok(found)
}

/// The scale of the f8 tensor `name`; what else stands beside it and is no weight goes to `aside`.
fn find_scale(
    source: &Source,
    name: &str,
    aside: &mut BTreeSet<String>,
) -> Result<Option<String>, Error> {
    let Some(module) = name.strip_suffix(".weight") else {
        return Ok(None);
    };
    let refuse = |scale: &str, why: String| Error::Scale {
        path: path_of(source),
        scale: scale.to_owned(),
        tensor: name.to_owned(),
        why,
    };
    for beside in BESIDE.map(|b| format!("{module}.{b}")) {
        let Some(view) = source.get(&beside) else {
            continue;
        };
        // `{"format": "float8_e4m3fn"}` as bytes (`comfy/quant_ops.py`).
        let format = String::from_utf8_lossy(view.data);
        if beside.ends_with("comfy_quant") && !format.contains("float8_e") {
            return Err(refuse(&beside, format!("it says {format}")));
        }
        aside.insert(beside);
    }
    let known = [
        format!("{module}.scale_weight"),
        format!("{module}.weight_scale"),
        format!("{name}.scale"),
        format!("{module}.scale"),
    ];
    let present: Vec<&String> = known.iter().filter(|k| source.shape(k).is_some()).collect();
    let shape = source.shape(name).unwrap_or_default();
    let under = format!("{module}.");
    // A scale of an unknown name may be one that the values need.
    let mut beside = source.under(&under).map(|at| source.name_at(at));
    let other = beside.find(|n| {
        n.strip_prefix(&under).is_some_and(|rest| {
            rest.contains("scale")
                && !rest.trim_start_matches("weight.").contains('.')
                && !known.iter().any(|k| k == n)
                && !aside.contains(*n)
        })
    });
    if let Some(other) = other {
        return Err(refuse(other, "its name is unknown".into()));
    }
    match present[..] {
        [] => Ok(None),
        [scale] => {
            let view = source.get(scale).expect("it was just found");
            let count: usize = view.shape.iter().product();
            let flat = view.shape.iter().skip(1).all(|&e| e == 1);
            let rows = shape.first().copied();
            let fits = count == 1 || (flat && Some(count) == rows && view.shape[0] == count);
            if !fits || to_f32(view.dtype, view.data).is_err() {
                return Err(refuse(
                    scale,
                    format!(
                        "it is {} {}, neither one number nor one a row",
                        view.dtype,
                        crate::tensor::show_shape(view.shape)
                    ),
                ));
            }
            Ok(Some(scale.clone()))
        }
        [first, second, ..] => Err(refuse(second, format!("there is `{first}` as well"))),
    }
}

impl Storage {
    /// The rows `from..to` of a tensor's values; all of a scalar. Borrowed where the file holds them as
    /// they are.
    pub fn rows(&self, at: usize, from: usize, to: usize) -> Cow<'_, [u8]> {
        let view = self.source.get_at(self.at(at));
        let total = self.shape(at).first().copied().unwrap_or(1).max(1);
        let row = view.data.len() / total;
        let data = &view.data[from * row..to * row];
        if !is_f8(view.dtype) {
            return Cow::Borrowed(data);
        }
        let mut values = to_f32(view.dtype, data).unwrap_or_default();
        let scales = self.scale(at).and_then(|s| self.source.get(s));
        if let Some(scale) = scales {
            let scales = to_f32(scale.dtype, scale.data).unwrap_or_default();
            let rows = (to - from).max(1);
            let width = (values.len() / rows).max(1);
            for (i, line) in values.chunks_mut(width).enumerate() {
                let factor = if let [one] = scales[..] {
                    one
                } else {
                    scales[from + i]
                };
                for value in line {
                    *value *= factor;
                }
            }
        }
        Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub fn bytes(&self, at: usize) -> Cow<'_, [u8]> {
        let rows = self.shape(at).first().copied().unwrap_or(1);
        self.rows(at, 0, rows.max(1))
    }
}
