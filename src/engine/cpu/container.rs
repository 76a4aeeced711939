//! The plan file of the CPU backends: a safetensors file (<https://github.com/huggingface/safetensors#format>).
//!
//! Its tensors are the model's weights under their ONNX names, and `trtmut.graph` (U8): the ONNX graph without them. A refit
//! replaces bytes, and any safetensors reader can look inside. Metadata: `format` = `trtmut.plan/2`, `backend`, and, where a
//! weight's element type is none of safetensors' byte-wide ones, `trtmut.packed`: JSON `{name: {"dtype", "shape"}}` of weights
//! that are stored as plain bytes. The same model gives the same bytes.

use crate::engine::{Error, Slot};
use crate::fsx::Map;
use crate::tensor::{Digest, Dtype, LabelledHasher, Stretch, digests_of, element_count};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use serde_json::{Map as Json, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

/// Version of the layout that is written. A plan of it is known by [`digest`].
const FORMAT: &str = "trtmut.plan/2";
/// The version of 0.1.0: the same, but known by the digest of the whole file.
const FORMAT_1: &str = "trtmut.plan/1";
/// Name of the tensor that is the graph.
const GRAPH: &str = "trtmut.graph";
/// Metadata key of the weights that are stored as plain bytes.
const PACKED: &str = "trtmut.packed";

/// An open plan file, validated once.
#[derive(Debug)]
pub struct Container {
    map: Map,
    graph: Range<usize>,
    slots: Vec<Slot>,
    /// Index into `slots`, and where the bytes are.
    places: BTreeMap<String, (usize, Range<usize>)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Packed {
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Container {
    /// Opens the plan of `backend` at `path`.
    ///
    /// # Errors
    /// [`Error::Plan`] for a file that is cut short, damaged, of another format or another backend; [`Error::File`] when it
    /// cannot be read.
    pub fn open(path: &Path, backend: &str) -> Result<Container, Error> {
        let map = Map::open(path)?;
        let bad = |reason: String| Error::Plan {
            path: path.display().to_string(),
            reason,
        };
        let stated = map[..map.len().min(8)]
            .try_into()
            .map_or(0, u64::from_le_bytes);
        let start =
            map.beginning(usize::try_from(stated.saturating_add(8)).unwrap_or(usize::MAX))?;
        let (header, tensors) = SafeTensors::read_metadata(&start)
            .map_err(|e| bad(format!("it is cut short, damaged, or no plan at all ({e})")))?;
        let start = size_of::<u64>() + header;
        let none = std::collections::HashMap::new();
        let metadata = tensors.metadata().as_ref().unwrap_or(&none);
        match metadata.get("format").map(String::as_str) {
            Some(FORMAT | FORMAT_1) => {}
            Some(other) => {
                return Err(bad(format!("its format is `{other}`, not `{FORMAT}`")));
            }
            None => return Err(bad("it is a safetensors file, but no plan".into())),
        }
        let made_by = metadata.get("backend").map_or("", String::as_str);
        if made_by != backend {
            return Err(bad(format!(
                "it was built by the backend `{made_by}`, not `{backend}`"
            )));
        }
        let packed: BTreeMap<String, Packed> = match metadata.get(PACKED) {
            None => BTreeMap::new(),
            Some(text) => serde_json::from_str(text)
                .map_err(|e| bad(format!("its `{PACKED}` is damaged ({e})")))?,
        };
        let mut graph = None;
        let mut slots = Vec::new();
        let mut places = BTreeMap::new();
        for name in tensors.offset_keys() {
            let info = tensors
                .info(&name)
                .ok_or_else(|| bad(format!("its header does not describe `{name}`")))?;
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            if name == GRAPH {
                graph = Some(range);
                continue;
            }
            let (dtype, shape) = match packed.get(&name) {
                Some(p) => (p.dtype, p.shape.clone()),
                None => (
                    Dtype::from_safetensors(&info.dtype.to_string()).ok_or_else(|| {
                        bad(format!("`{name}` is of the unknown type `{}`", info.dtype))
                    })?,
                    info.shape.clone(),
                ),
            };
            let count = element_count(&shape)
                .filter(|&n| dtype.bytes_for(n) == Some(range.len()))
                .ok_or_else(|| bad(format!("the bytes of `{name}` do not fit its shape")))?;
            slots.push(Slot {
                name: name.clone(),
                dtype,
                shape: Some(shape),
                count,
                refittable: true,
            });
            places.insert(name, (slots.len() - 1, range));
        }
        let graph = graph.ok_or_else(|| bad("it holds no graph".into()))?;
        Ok(Container {
            map,
            graph,
            slots,
            places,
        })
    }

    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// The ONNX graph without its weights.
    pub fn graph(&self) -> &[u8] {
        &self.map[self.graph.clone()]
    }

    /// The weights, in file order.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(super) fn map(&self) -> &Map {
        &self.map
    }

    /// Where a weight is in the file; `None` for a name that it does not have.
    pub(super) fn range(&self, name: &str) -> Option<Range<usize>> {
        self.places.get(name).map(|(_, range)| range.clone())
    }

    /// The bytes of a weight as the file has them; `None` for a name that it does not have.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.places.get(name).map(|(_, r)| &self.map[r.clone()])
    }

    /// The slot of a weight.
    pub fn slot(&self, name: &str) -> Option<&Slot> {
        self.places.get(name).map(|(i, _)| &self.slots[*i])
    }
}

/// Whether a weight of this type is stored as plain bytes: safetensors has no type of that name that every reader knows.
fn is_packed(dtype: Dtype) -> bool {
    dtype.bits() == 4
        || matches!(
            dtype,
            Dtype::F8E4M3Fnuz | Dtype::F8E5M2Fnuz | Dtype::F8E8M0 | Dtype::C128
        )
}

/// Where everything of a plan goes.
pub(super) struct Layout<'s> {
    /// Length of the header, and the header.
    pub start: Vec<u8>,
    /// The weights in file order, with their places.
    pub places: Vec<(&'s Slot, Range<usize>)>,
    /// The graph's place, after all weights.
    pub graph: Range<usize>,
    /// Length of the file.
    pub length: usize,
}

impl<'s> Layout<'s> {
    /// Lays out a plan of `backend`.
    ///
    /// # Errors
    /// [`Error::Weight`] for a weight whose name cannot be used, or that is too large.
    pub fn of(backend: &str, graph: &[u8], slots: &'s [Slot]) -> Result<Layout<'s>, Error> {
        // Wide elements first keeps every tensor aligned without holes, which the format forbids.
        let mut order: Vec<&Slot> = slots.iter().collect();
        order.sort_by_key(|s| std::cmp::Reverse(width(s.dtype)));

        let mut header = Json::new();
        let mut packed = BTreeMap::new();
        let mut tensors = Json::new();
        let mut places = Vec::with_capacity(order.len());
        let mut offset = 0usize;
        for slot in order {
            let shape = slot.shape.clone().unwrap_or_else(|| vec![slot.count]);
            let length = length(slot)?;
            if slot.name == GRAPH || slot.name == "__metadata__" || tensors.contains_key(&slot.name)
            {
                return Err(Error::Weight {
                    name: slot.name.clone(),
                    reason: "the name cannot be used in a plan".into(),
                });
            }
            let named = slot.dtype.safetensors().filter(|_| !is_packed(slot.dtype));
            let (dtype, stored) = if let Some(name) = named {
                (name, shape)
            } else {
                let dtype = slot.dtype;
                packed.insert(slot.name.clone(), Packed { dtype, shape });
                ("U8", vec![length])
            };
            tensors.insert(
                slot.name.clone(),
                json!({"dtype": dtype, "shape": stored, "data_offsets": [offset, offset + length]}),
            );
            places.push((slot, offset..offset + length));
            offset += length;
        }
        tensors.insert(
            GRAPH.into(),
            json!({"dtype": "U8", "shape": [graph.len()], "data_offsets": [offset, offset + graph.len()]}),
        );
        let mut metadata = json!({"format": FORMAT, "backend": backend});
        if !packed.is_empty() {
            metadata[PACKED] = Value::String(json!(packed).to_string());
        }
        header.insert("__metadata__".into(), metadata);
        header.extend(tensors);

        let mut text = Value::Object(header).to_string().into_bytes();
        // The format allows blanks at the end of its header; with them the tensors begin aligned.
        text.resize(text.len().next_multiple_of(8), b' ');
        let start = [&(text.len() as u64).to_le_bytes()[..], &text].concat();
        for (_, range) in &mut places {
            *range = start.len() + range.start..start.len() + range.end;
        }
        let graph = start.len() + offset..start.len() + offset + graph.len();
        Ok(Layout {
            start,
            places,
            length: graph.end,
            graph,
        })
    }
}

/// The digest by which a plan of format 2 is known: of its header and of the digests of its tensors, in file order.
pub(super) fn digest(header: &[u8], tensors: &[Digest]) -> Digest {
    let mut h = LabelledHasher::new(FORMAT);
    h.field("header", header);
    for tensor in tensors {
        h.field("tensor", &tensor.0);
    }
    h.finish()
}

/// The header of the file in `map` where it is a plan of format 2, and the places of its tensors in file order.
fn known_by_tensors(map: &Map) -> Option<(Vec<u8>, Vec<Stretch>)> {
    let stated = u64::from_le_bytes(map.get(0..8.min(map.len())).ok()?.try_into().ok()?);
    let length = usize::try_from(stated.checked_add(8)?).ok()?;
    // A header that reaches beyond the file or is not JSON is not one of ours.
    if length > map.len() || map.get(8..9).ok()? != b"{" {
        return None;
    }
    let start = map.beginning(length).ok()?;
    let (header, tensors) = SafeTensors::read_metadata(&start).ok()?;
    if tensors.metadata().as_ref()?.get("format")? != FORMAT {
        return None;
    }
    let begin = size_of::<u64>() + header;
    let place = |name: &String| {
        let (from, to) = tensors.info(name)?.data_offsets;
        let range = begin + from..begin + to;
        Some(Stretch { file: 0, range })
    };
    let places = tensors.offset_keys().iter().filter_map(place).collect();
    Some((start[size_of::<u64>()..begin].to_vec(), places))
}

/// Whether [`digest_of`] gives a digest; reads the header only.
pub fn is_known_by_tensors(map: &Map) -> bool {
    known_by_tensors(map).is_some()
}

/// The digest of the file in `map`, where it is a plan of format 2; it is read on all cores, and nothing of it is kept.
pub fn digest_of(map: &Map) -> Option<Digest> {
    let (header, places) = known_by_tensors(map)?;
    let hashed = digests_of(&places, |_, at, into| map.copy_to(at, into), |_| ());
    Some(digest(&header, &hashed))
}

/// Writes a plan of `backend` front to back: the header first, then every weight as `bytes` gives it, one at a time.
///
/// # Errors
/// What `bytes` reports, a weight whose bytes do not fit its slot, or a failed write.
pub fn write<'b>(
    out: &mut dyn Write,
    backend: &str,
    graph: &[u8],
    slots: &[Slot],
    mut bytes: impl FnMut(&Slot) -> Result<Cow<'b, [u8]>, Error>,
) -> Result<(), Error> {
    let layout = Layout::of(backend, graph, slots)?;
    out.write_all(&layout.start)?;
    for (slot, _) in layout.places {
        let data = bytes(slot)?;
        fits(slot, &data)?;
        out.write_all(&data)?;
    }
    out.write_all(graph)?;
    Ok(())
}

/// Checks that `data` is as long as `slot` wants.
///
/// # Errors
/// [`Error::Weight`] when it is not.
pub fn fits(slot: &Slot, data: &[u8]) -> Result<(), Error> {
    let wanted = length(slot)?;
    if data.len() == wanted {
        return Ok(());
    }
    Err(Error::Weight {
        name: slot.name.clone(),
        reason: format!("{} bytes given where {wanted} are needed", data.len()),
    })
}

fn length(slot: &Slot) -> Result<usize, Error> {
    slot.dtype
        .bytes_for(slot.count)
        .ok_or_else(|| Error::Weight {
            name: slot.name.clone(),
            reason: "it is too large for this machine".into(),
        })
}

/// Alignment of an element in the file.
fn width(dtype: Dtype) -> usize {
    if is_packed(dtype) {
        1
    } else {
        dtype.bits() / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str, dtype: Dtype, shape: &[usize]) -> Slot {
        Slot {
            name: name.into(),
            dtype,
            shape: Some(shape.to_vec()),
            count: shape.iter().product(),
            refittable: true,
        }
    }

    fn sample() -> (Vec<Slot>, Vec<u8>) {
        let slots = vec![
            slot("a/\"quoted\" ü", Dtype::I8, &[3]),
            slot("w", Dtype::F32, &[2, 300]),
            slot("four", Dtype::I4, &[3]),
            slot("half", Dtype::Bf16, &[5]),
            slot("empty", Dtype::F32, &[0, 4]),
            slot("scalar", Dtype::F16, &[]),
        ];
        let mut out = Vec::new();
        write(&mut out, "cpu", b"graph", &slots, |s| {
            let n = s.dtype.bytes_for(s.count).unwrap();
            Ok(Cow::Owned(
                (0..n).map(|i| i as u8 ^ s.name.len() as u8).collect(),
            ))
        })
        .unwrap();
        (slots, out)
    }

    fn open(bytes: &[u8]) -> Result<Container, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Container::open(file.path(), "cpu")
    }

    #[test]
    fn what_was_written_is_read_back() {
        let (slots, bytes) = sample();
        let plan = open(&bytes).unwrap();
        assert_eq!(plan.graph(), b"graph");
        let mut read: Vec<Slot> = plan.slots().to_vec();
        let mut wrote = slots;
        read.sort_by(|a, b| a.name.cmp(&b.name));
        wrote.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(read, wrote);
        assert_eq!(plan.bytes("half").unwrap()[1], 1 ^ 4);
        assert_eq!(plan.bytes("none"), None);
        let start = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        assert_eq!(start % 8, 0);
        assert_eq!(sample().1, bytes);
        // Written again from the open file, in the file's own order, the bytes are the same.
        let mut again = Vec::new();
        write(&mut again, "cpu", plan.graph(), plan.slots(), |s| {
            Ok(Cow::Borrowed(plan.bytes(&s.name).unwrap()))
        })
        .unwrap();
        assert_eq!(again, bytes);
    }

    #[test]
    fn every_cut_and_every_longer_file_is_refused() {
        let (_, bytes) = sample();
        for cut in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
            assert!(
                matches!(open(&bytes[..cut]), Err(Error::Plan { .. })),
                "cut at {cut}"
            );
        }
        assert!(matches!(
            open(&[bytes, vec![0]].concat()),
            Err(Error::Plan { .. })
        ));
    }

    #[test]
    fn a_damaged_header_byte_never_panics() {
        let (_, bytes) = sample();
        let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        for i in 0..header {
            for flip in [1u8, 0x20, 0x80] {
                let mut damaged = bytes.clone();
                damaged[i] ^= flip;
                let _ = open(&damaged);
            }
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        let reason = |bytes: &[u8]| match open(bytes) {
            Err(Error::Plan { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        let header =
            |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        assert!(reason(&header("{}")).contains("no plan"));
        let other = header(r#"{"__metadata__":{"format":"trtmut.plan/3","backend":"cpu"}}"#);
        assert!(reason(&other).contains("`trtmut.plan/3`"));
        let other =
            header(r#"{"__metadata__":{"format":"trtmut.plan/1","backend":"onnxruntime"}}"#);
        assert!(reason(&other).contains("`onnxruntime`"));
        let empty = header(r#"{"__metadata__":{"format":"trtmut.plan/1","backend":"cpu"}}"#);
        assert!(reason(&empty).contains("no graph"));
    }

    #[test]
    fn wrong_lengths_and_reserved_names_are_refused() {
        let mut out = Vec::new();
        let short = write(&mut out, "cpu", b"", &[slot("w", Dtype::F32, &[2])], |_| {
            Ok(Cow::Borrowed(&[0; 7]))
        });
        assert!(matches!(short, Err(Error::Weight { .. })));
        for name in [GRAPH, "__metadata__"] {
            let taken = write(&mut out, "cpu", b"", &[slot(name, Dtype::U8, &[0])], |_| {
                Ok(Cow::Borrowed(&[]))
            });
            assert!(matches!(taken, Err(Error::Weight { .. })));
        }
    }
}
