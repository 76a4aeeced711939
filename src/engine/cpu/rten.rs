//! The embedded engine: the only file that names the crate `rten`.
//!
//! rten holds f32, i32, i8 and u8. The lowered graph goes to it as protobuf; the weights, converted where they must be, as one
//! buffer of external data that it reads in place.

use super::LIBRARY;
use super::lower::{Lowered, lower};
use super::narrow::{computed_in, overflows};
use super::plan::{Session, Weights};
use super::proto::{held, subgraphs_mut};
use super::walk::{Must, RunCheck};
use crate::engine::{Error, Refusal, RunOptions, Slot};
use crate::onnx::{Model, weight_name};
use crate::tensor::{self, Dtype, Tensor, element_count};
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{GraphProto, Message, StringStringEntryProto, TensorProto};
use rten::{ModelOptions, NodeId, ThreadPool, Value, ValueOrView};
use rten_tensor::AsView;
use rten_tensor::Layout;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Name under which the graph refers to the weights; rten wants an extension that it knows.
const DATA: &str = "weights.data";

/// Alignment of a weight in the buffer.
const ALIGN: usize = 64;

/// A model that rten has loaded.
pub struct RtenSession {
    model: rten::Model,
    inputs: Vec<(NodeId, String)>,
    outputs: Vec<(NodeId, Dtype)>,
    /// A vector, and what each of its elements must be.
    told: Option<(NodeId, Vec<RunCheck>)>,
    pool: Option<Arc<ThreadPool>>,
}

/// Gives the bytes of a weight; `None` where any will do, and zeros take no memory.
type BytesOf<'a, 'b> = dyn Fn(&Slot) -> Result<Option<Cow<'b, [u8]>>, Error> + 'a;

impl RtenSession {
    /// Lowers `model` and loads it with `weights`.
    pub fn start(
        model: &Model,
        weights: &Weights,
        options: &RunOptions,
    ) -> Result<Box<dyn Session>, Error> {
        let lowered = lower(model.proto());
        let bytes_of = |slot: &Slot| weights.bytes(slot).map(Some);
        let session = RtenSession::load(model, lowered, weights.slots(), &bytes_of, options)?;
        Ok(Box::new(session))
    }

    /// Loads `model`, lowered, with the weights `slots`.
    pub fn load(
        model: &Model,
        lowered: Lowered,
        slots: &[Slot],
        bytes_of: &BytesOf<'_, '_>,
        options: &RunOptions,
    ) -> Result<RtenSession, Error> {
        let Lowered {
            model: mut proto,
            refusals,
            told,
            ..
        } = lowered;
        if !refusals.is_empty() {
            return Err(Error::Refused {
                backend: super::CPU.into(),
                refusals,
            });
        }
        let (places, total) = place(slots)?;
        if let Some(graph) = proto.graph.as_mut() {
            refer(graph, &places)?;
        }
        let open = |optimised: bool| -> Result<RtenSession, Error> {
            let mut config = ModelOptions::with_all_ops();
            config.enable_optimization(optimised);
            if total > 0 {
                config.external_data(DATA, fill(bytes_of, &places, total)?);
            }
            let bytes = proto.write_to_bytes().map_err(|e| failed(&e))?;
            let loaded = guarded(|| config.load(bytes))?.map_err(|e| failed(&e))?;
            let outputs: Vec<&str> = proto.graph.output.iter().map(|v| v.name.as_str()).collect();
            RtenSession::of(model, loaded, &outputs, told.as_ref(), options)
        };
        // Its optimiser merges outputs that it finds to be equal, and then refuses the graph for having an output twice.
        open(true).or_else(|first| open(false).map_err(|_| first))
    }

    fn of(
        model: &Model,
        loaded: rten::Model,
        outputs: &[&str],
        told: Option<&(String, Vec<RunCheck>)>,
        options: &RunOptions,
    ) -> Result<RtenSession, Error> {
        let find = |name: &str| loaded.node_id(name).map_err(|e| failed(&e));
        let outputs = outputs
            .iter()
            .zip(model.outputs())
            .map(|(name, declared)| Ok((find(name)?, declared.dtype)))
            .collect::<Result<_, Error>>()?;
        let inputs = model
            .inputs()
            .iter()
            .map(|d| Ok((find(&d.name)?, d.name.clone())))
            .collect::<Result<_, Error>>()?;
        let told = told
            .map(|(name, checks)| Ok::<_, Error>((find(name)?, checks.clone())))
            .transpose()?;
        let session = RtenSession {
            inputs,
            outputs,
            told,
            pool: options
                .threads
                .map(|n| Arc::new(ThreadPool::with_num_threads(n.max(1)))),
            model: loaded,
        };
        // What it cannot plan it would only say when it runs.
        let wanted = session.wanted();
        guarded(|| session.model.partial_run(Vec::new(), &wanted, None))?
            .map_err(|e| failed(&e))?;
        Ok(session)
    }

    fn wanted(&self) -> Vec<NodeId> {
        self.outputs
            .iter()
            .map(|(id, _)| *id)
            .chain(self.told.iter().map(|(id, _)| *id))
            .collect()
    }
}

impl Session for RtenSession {
    fn run(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, Error> {
        let mut values: Vec<(NodeId, ValueOrView<'_>)> = Vec::with_capacity(inputs.len());
        for ((id, name), tensor) in self.inputs.iter().zip(inputs) {
            values.push((*id, to_value(name, tensor)?.into()));
        }
        let wanted = self.wanted();
        let options = self
            .pool
            .clone()
            .map(|pool| rten::RunOptions::default().with_thread_pool(Some(pool)));
        let mut results =
            guarded(|| self.model.run(values, &wanted, options))?.map_err(|e| failed(&e))?;
        if let Some((_, checks)) = &self.told {
            verify(checks, results.pop())?;
        }
        self.outputs
            .iter()
            .zip(results)
            .map(|((_, dtype), value)| from_value(*dtype, value))
            .collect()
    }
}

fn failed(error: &dyn std::error::Error) -> Error {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        message = format!("{message}: {inner}");
        source = inner.source();
    }
    Error::Library {
        library: LIBRARY.into(),
        message,
    }
}

/// Turns a panic of the library into an error.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|cause| {
        let message = cause
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| cause.downcast_ref::<&str>().copied())
            .unwrap_or("for an unknown reason");
        Error::Library {
            library: LIBRARY.into(),
            message: format!("it panicked: {message}"),
        }
    })
}

struct Place {
    slot: Slot,
    offset: usize,
    length: usize,
}

/// Where every weight goes in the buffer.
fn place(slots: &[Slot]) -> Result<(BTreeMap<String, Place>, usize), Error> {
    let mut places = BTreeMap::new();
    let mut total = 0usize;
    for slot in slots {
        let offset = total.next_multiple_of(ALIGN);
        let length = computed_in(slot.dtype)
            .bytes_for(slot.count)
            .filter(|n| offset.checked_add(*n).is_some())
            .ok_or_else(|| Error::Weight {
                name: slot.name.clone(),
                reason: "it is too large for this machine".into(),
            })?;
        total = offset + length;
        let slot = slot.clone();
        places.insert(
            slot.name.clone(),
            Place {
                slot,
                offset,
                length,
            },
        );
    }
    Ok((places, total))
}

fn fill(
    bytes_of: &BytesOf<'_, '_>,
    places: &BTreeMap<String, Place>,
    total: usize,
) -> Result<Vec<u8>, Error> {
    let mut buffer = vec![0u8; total];
    for place in places.values() {
        let Some(bytes) = bytes_of(&place.slot)? else {
            continue;
        };
        let target = &mut buffer[place.offset..place.offset + place.length];
        let dtype = place.slot.dtype;
        if computed_in(dtype) == dtype {
            target.copy_from_slice(&bytes);
        } else {
            target.copy_from_slice(&convert(&place.slot, &bytes)?);
        }
    }
    Ok(buffer)
}

/// A weight in the type that the engine computes in.
fn convert(slot: &Slot, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let bad = |reason: String| Error::Weight {
        name: slot.name.clone(),
        reason,
    };
    if slot.dtype == Dtype::I64 {
        return bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| held(i64::from_le_bytes(*b)))
            .collect::<Option<Vec<_>>>()
            .map(|v| v.into_iter().flat_map(i32::to_le_bytes).collect())
            .ok_or_else(|| bad("it holds an i64 that does not fit 32 bits".into()));
    }
    if slot.dtype == Dtype::Bool {
        return Ok(bytes
            .iter()
            .flat_map(|&b| i32::from(b != 0).to_le_bytes())
            .collect());
    }
    let values = tensor::to_f32(slot.dtype, bytes).map_err(|e| bad(e.to_string()))?;
    if slot.dtype == Dtype::F64 && overflows(bytes, &values) {
        return Err(bad("it holds an f64 that does not fit f32".into()));
    }
    Ok(values.into_iter().flat_map(f32::to_le_bytes).collect())
}

/// Points the places of weights in `graph` to the buffer.
fn refer(graph: &mut GraphProto, places: &BTreeMap<String, Place>) -> Result<(), Error> {
    for tensor in &mut graph.initializer {
        point(tensor, places)?;
    }
    // A `Constant` node holds its tensor as an attribute.
    for node in &mut graph.node {
        for tensor in node.attribute.iter_mut().filter_map(|a| a.t.as_mut()) {
            point(tensor, places)?;
        }
        for inner in subgraphs_mut(node) {
            refer(inner, places)?;
        }
    }
    Ok(())
}

fn point(tensor: &mut TensorProto, places: &BTreeMap<String, Place>) -> Result<(), Error> {
    let Some(name) = weight_name(tensor) else {
        return Ok(());
    };
    let Some(place) = places.get(name) else {
        return Err(Error::Weight {
            name: name.into(),
            reason: "the plan does not hold it".into(),
        });
    };
    tensor.data_type = computed_in(place.slot.dtype).onnx();
    tensor.data_location = DataLocation::EXTERNAL.into();
    tensor.external_data = [
        ("location", DATA.to_string()),
        ("offset", place.offset.to_string()),
        ("length", place.length.to_string()),
    ]
    .map(|(key, value)| StringStringEntryProto {
        key: key.into(),
        value,
        ..StringStringEntryProto::new()
    })
    .into();
    Ok(())
}

fn to_value(name: &str, tensor: &Tensor) -> Result<Value, Error> {
    let bad = |reason: String| Error::Input {
        name: name.into(),
        reason,
    };
    let data = &tensor.data;
    let shape = tensor.shape.as_slice();
    let value = match tensor.dtype {
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::F64 => {
            let values = tensor::to_f32(tensor.dtype, data).map_err(|e| bad(e.to_string()))?;
            if tensor.dtype == Dtype::F64 && overflows(data, &values) {
                return Err(bad(
                    "it holds an f64 that does not fit f32, in which the embedded engine computes"
                        .into(),
                ));
            }
            shaped(shape, values)
        }
        Dtype::I64 => {
            let values = data
                .as_chunks::<8>()
                .0
                .iter()
                .map(|b| held(i64::from_le_bytes(*b)))
                .collect::<Option<Vec<i32>>>()
                .ok_or_else(|| {
                    bad("it holds an i64 that does not fit the 32 bits of the embedded engine; use the backend `onnxruntime`".into())
                })?;
            shaped(shape, values)
        }
        Dtype::I32 => shaped(
            shape,
            data.as_chunks::<4>()
                .0
                .iter()
                .map(|b| i32::from_le_bytes(*b))
                .collect::<Vec<_>>(),
        ),
        Dtype::Bool => shaped(
            shape,
            data.iter().map(|&b| i32::from(b != 0)).collect::<Vec<_>>(),
        ),
        Dtype::I8 => shaped(shape, data.iter().map(|&b| b as i8).collect::<Vec<_>>()),
        Dtype::U8 => shaped(shape, data.clone()),
        other => {
            return Err(bad(format!("the embedded engine does not hold `{other}`")));
        }
    };
    value.ok_or_else(|| bad("its bytes do not fit its shape".into()))
}

fn shaped<T>(shape: &[usize], data: Vec<T>) -> Option<Value>
where
    Value: From<rten_tensor::Tensor<T>>,
{
    rten_tensor::Tensor::try_from_data(shape, data)
        .ok()
        .map(Value::from)
}

/// A result in the type that the model declares; narrow floats are rounded once, here.
fn from_value(dtype: Dtype, value: Value) -> Result<Tensor, Error> {
    let mismatch = |got: &str| Error::Library {
        library: LIBRARY.into(),
        message: format!("an output is {got}, the model declares `{dtype}`"),
    };
    let (shape, data) = match value {
        Value::FloatTensor(t) => {
            let shape = t.shape().to_vec();
            let data = tensor::from_f32(dtype, &t.to_vec()).map_err(|_| mismatch("f32"))?;
            if !dtype.is_float() {
                return Err(mismatch("f32"));
            }
            (shape, data)
        }
        Value::Int32Tensor(t) => {
            let shape = t.shape().to_vec();
            let values = t.to_vec();
            let data = match dtype {
                Dtype::I32 => values.into_iter().flat_map(i32::to_le_bytes).collect(),
                Dtype::I64 => values
                    .into_iter()
                    .flat_map(|v| i64::from(v).to_le_bytes())
                    .collect(),
                Dtype::Bool => values.into_iter().map(|v| u8::from(v != 0)).collect(),
                _ => return Err(mismatch("i32")),
            };
            (shape, data)
        }
        Value::Int8Tensor(t) if dtype == Dtype::I8 => (
            t.shape().to_vec(),
            t.to_vec().into_iter().map(|v| v as u8).collect(),
        ),
        Value::UInt8Tensor(t) if dtype == Dtype::U8 => (t.shape().to_vec(), t.to_vec()),
        Value::Int8Tensor(_) => return Err(mismatch("i8")),
        Value::UInt8Tensor(_) => return Err(mismatch("u8")),
        _ => return Err(mismatch("no tensor")),
    };
    debug_assert_eq!(
        element_count(&shape).and_then(|n| dtype.bytes_for(n)),
        Some(data.len())
    );
    Ok(Tensor { dtype, shape, data })
}

fn verify(checks: &[RunCheck], told: Option<Value>) -> Result<(), Error> {
    let numbers: Vec<i32> = match told {
        Some(Value::Int32Tensor(t)) => t.to_vec(),
        _ => Vec::new(),
    };
    let refusals: Vec<Refusal> = checks
        .iter()
        .enumerate()
        .filter(|(i, check)| !numbers.get(*i).is_some_and(|n| check.must.holds(*n)))
        .map(|(_, check)| Refusal {
            node: check.node.clone(),
            operator: check.operator.clone(),
            reason: match check.must {
                Must::Fit => "an i64 result does not fit the 32 bits of the embedded engine",
                Must::BeMatrix => {
                    "its second input is a vector, which the embedded engine computes wrongly"
                }
            }
            .into(),
        })
        .collect();
    if refusals.is_empty() && numbers.len() == checks.len() {
        return Ok(());
    }
    Err(Error::Refused {
        backend: super::CPU.into(),
        refusals,
    })
}
