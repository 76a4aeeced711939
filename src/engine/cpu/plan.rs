//! What the CPU backends have in common: an open plan, its weights as they are now, and a session made from both.

use super::container::{self, Container};
use super::writer::{self, Content, Contents};
use crate::engine::{Engine, Error, Feed, RunOptions, Slot, Way, Written};
use crate::onnx::{Model, WeightBytes};
use crate::tensor::{
    Digest, Dtype, Extent, NamedTensors, Tensor, TensorDecl, TensorView, element_count, show_shape,
};
use crate::watch::{Event, Watch};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

/// A plan's weights: what a refit gave, else what the file holds.
pub struct Weights {
    container: Arc<Container>,
    feed: Option<Arc<dyn Feed>>,
}

impl Weights {
    /// The weights, in file order.
    pub fn slots(&self) -> &[Slot] {
        self.container.slots()
    }

    /// The bytes of one of [`Weights::slots`].
    ///
    /// # Errors
    /// What the feed reports, or bytes that do not fit the slot.
    pub fn bytes(&self, slot: &Slot) -> Result<Cow<'_, [u8]>, Error> {
        if let Some(feed) = &self.feed
            && let Some(bytes) = feed.bytes(slot)?
        {
            container::fits(slot, &bytes)?;
            return Ok(bytes);
        }
        self.container
            .bytes(&slot.name)
            .map(Cow::Borrowed)
            .ok_or_else(|| Error::Weight {
                name: slot.name.clone(),
                reason: "the plan does not hold it".into(),
            })
    }
}

impl Weights {
    /// The bytes of the weight `name`.
    ///
    /// # Errors
    /// As [`Weights::bytes`], or no such weight.
    pub fn named(&self, name: &str) -> Result<Cow<'_, [u8]>, Error> {
        match self.container.slot(name) {
            Some(slot) => self.bytes(slot),
            None => Err(Error::Weight {
                name: name.into(),
                reason: "the plan does not hold it".into(),
            }),
        }
    }
}

impl Contents for Weights {
    fn kept(&self, slot: &Slot) -> Option<Digest> {
        let feed = self.feed.as_ref().filter(|f| !f.differs(slot))?;
        feed.digest(slot)
    }

    fn of(&self, slot: &Slot) -> Result<Content<'_>, Error> {
        if let Some(digest) = self.kept(slot) {
            return Ok(Content::Kept(digest));
        }
        let decided = self.feed.as_ref().and_then(|f| f.digest(slot));
        Ok(Content::Bytes(self.bytes(slot)?, decided))
    }
}

/// The weights as the file has them, for reading the graph.
struct Stored(Arc<Container>);

impl WeightBytes for Stored {
    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let slot = self.0.slot(name)?;
        Some(TensorView {
            dtype: slot.dtype,
            shape: slot.shape.as_deref()?,
            data: self.0.bytes(name)?,
        })
    }

    fn describe(&self, name: &str) -> Option<(Dtype, &[usize], usize)> {
        let slot = self.0.slot(name)?;
        Some((
            slot.dtype,
            slot.shape.as_deref()?,
            self.0.range(name)?.len(),
        ))
    }
}

pub trait Session {
    /// Runs once; `inputs` in graph order and checked, outputs in graph order with their declared dtypes.
    fn run(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, Error>;
}

/// Makes a session from a graph and weights.
pub type Start = Box<dyn Fn(&Model, &Weights, &RunOptions) -> Result<Box<dyn Session>, Error>>;

/// An open plan of a CPU backend.
pub struct PlanEngine {
    backend: &'static str,
    model: Model,
    weights: Weights,
    start: Start,
    options: RunOptions,
    session: Option<Box<dyn Session>>,
}

impl PlanEngine {
    /// The engine of an open container.
    pub fn new(
        backend: &'static str,
        container: Container,
        start: Start,
    ) -> Result<PlanEngine, Error> {
        let container = Arc::new(container);
        let stored = Box::new(Stored(Arc::clone(&container)));
        let model =
            Model::from_graph(container.graph(), stored, container.path()).map_err(|e| {
                Error::Plan {
                    path: container.path().display().to_string(),
                    reason: format!("its graph cannot be read ({e})"),
                }
            })?;
        Ok(PlanEngine {
            backend,
            model,
            weights: Weights {
                container,
                feed: None,
            },
            start,
            options: RunOptions::default(),
            session: None,
        })
    }
}

impl Engine for PlanEngine {
    fn inputs(&self) -> &[TensorDecl] {
        self.model.inputs()
    }

    fn outputs(&self) -> &[TensorDecl] {
        self.model.outputs()
    }

    fn slots(&self) -> Result<Vec<Slot>, Error> {
        Ok(self.weights.slots().to_vec())
    }

    fn refit(&mut self, feed: Arc<dyn Feed>, watch: &dyn Watch) -> Result<Way, Error> {
        // It has the old weights.
        self.session = None;
        self.weights.feed = Some(Arc::clone(&feed));
        watch.event(Event::Begin {
            step: "checking weights",
            total: Some(self.weights.slots().len() as u64),
        });
        for slot in self.weights.slots() {
            // Bytes that were decided on were computed before, and had the right length.
            if feed.digest(slot).is_none() {
                self.weights.bytes(slot)?;
            }
            watch.event(Event::Advance(1));
        }
        watch.event(Event::End);
        Ok(Way::ByName)
    }

    fn serialize(&self, out: &mut dyn Write) -> Result<(), Error> {
        container::write(
            out,
            self.backend,
            self.weights.container.graph(),
            self.weights.slots(),
            |slot| self.weights.bytes(slot),
        )
    }

    fn serialize_into(&self, file: &File, watch: &dyn Watch) -> Result<Option<Written>, Error> {
        let container = &self.weights.container;
        let written = writer::write(
            file,
            self.backend,
            container.graph(),
            self.weights.slots(),
            &self.weights,
            Some(container),
            watch,
        );
        written.map(Some)
    }

    fn check_options(&self, options: &RunOptions) -> Result<(), Error> {
        let given = [
            (options.cuda_graph, "cuda-graph"),
            (options.weight_budget.is_some(), "weight-budget"),
            (options.profile, "profile-layers"),
        ];
        match given.iter().find(|(given, _)| *given) {
            Some((_, option)) => Err(Error::Option {
                backend: self.backend.into(),
                option: (*option).into(),
                reason: "it computes on the CPU".into(),
            }),
            None if options.streams > 1 => Err(Error::Option {
                backend: self.backend.into(),
                option: format!("streams={}", options.streams),
                reason: "it computes on the CPU, where one run takes all cores".into(),
            }),
            None => Ok(()),
        }
    }

    fn prepare(&mut self, options: &RunOptions) -> Result<(), Error> {
        self.check_options(options)?;
        // The old session goes first: two at a time would hold the weights twice.
        self.session = None;
        self.options = options.clone();
        self.session = Some((self.start)(&self.model, &self.weights, options)?);
        Ok(())
    }

    fn run(&mut self, inputs: &NamedTensors) -> Result<NamedTensors, Error> {
        let ordered = check_inputs(self.model.inputs(), inputs)?;
        let session = match &mut self.session {
            Some(session) => session,
            none => none.insert((self.start)(&self.model, &self.weights, &self.options)?),
        };
        let outputs = session.run(&ordered)?;
        Ok(self
            .model
            .outputs()
            .iter()
            .map(|d| d.name.clone())
            .zip(outputs)
            .collect())
    }
}

/// The given inputs in graph order.
fn check_inputs<'t>(
    declared: &[TensorDecl],
    given: &'t NamedTensors,
) -> Result<Vec<&'t Tensor>, Error> {
    let bad = |name: &str, reason: String| Error::Input {
        name: name.into(),
        reason,
    };
    let known = || {
        declared
            .iter()
            .map(|d| format!("`{}`", d.name))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut seen = BTreeSet::new();
    for (name, _) in given {
        if !declared.iter().any(|d| d.name == *name) {
            return Err(bad(
                name,
                format!("the model has no such input; it has {}", known()),
            ));
        }
        if !seen.insert(name) {
            return Err(bad(name, "it is given twice".into()));
        }
    }
    let mut symbols: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    let mut ordered = Vec::with_capacity(declared.len());
    for decl in declared {
        let Some((_, tensor)) = given.iter().find(|(name, _)| *name == decl.name) else {
            return Err(bad(&decl.name, "it is not given".into()));
        };
        if tensor.dtype != decl.dtype {
            return Err(bad(
                &decl.name,
                format!("it is `{}`, the model wants `{}`", tensor.dtype, decl.dtype),
            ));
        }
        let bytes = element_count(&tensor.shape).and_then(|n| tensor.dtype.bytes_for(n));
        if bytes != Some(tensor.data.len()) {
            return Err(bad(&decl.name, "its bytes do not fit its shape".into()));
        }
        if let Some(dims) = &decl.dims {
            if dims.len() != tensor.shape.len() {
                return Err(bad(
                    &decl.name,
                    format!(
                        "its shape {} has {} axes, the model wants {}",
                        show_shape(&tensor.shape),
                        tensor.shape.len(),
                        decl.show_dims()
                    ),
                ));
            }
            for (axis, (dim, &size)) in dims.iter().zip(&tensor.shape).enumerate() {
                match dim {
                    Extent::Fixed(n) if *n != size => {
                        return Err(bad(
                            &decl.name,
                            format!("axis {axis} is {size}, the model wants {n}"),
                        ));
                    }
                    Extent::Symbol(symbol) => {
                        let (first, of) = *symbols.entry(symbol).or_insert((size, &decl.name));
                        if first != size {
                            return Err(bad(
                                &decl.name,
                                format!(
                                    "axis {axis} (`{symbol}`) is {size}, but {first} in `{of}`"
                                ),
                            ));
                        }
                    }
                    _ => {}
                }
            }
        }
        ordered.push(tensor);
    }
    Ok(ordered)
}
