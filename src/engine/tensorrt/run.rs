//! An open engine: its inputs and outputs, its weights, and running it.
//!
//! A run copies inputs to the GPU, enqueues the engine between two events, and copies outputs back, through pinned host memory
//! that is kept between runs. Several at a time have an execution context, a stream and memory each.

use super::api::{
    Context, Core, CudaEngine, IoTensor, OutputAllocator, OutputMemory, Profiler, Selector,
};
use super::gpu::{Gpu, cuda};
use super::io::{declaration, narrow, widen};
use super::open::{default_threads, deserialize};
use super::{Known, Product, Settings, list_slots, refit_engine};
use crate::engine::{AtOnce, Engine, Error, Feed, RunOptions, Slot, Way};
use crate::tensor::{NamedTensors, Tensor, TensorDecl, element_count, show_shape};
use crate::watch::Watch;
use cudarc::driver::{
    CudaEvent, CudaGraph, CudaSlice, CudaStream, DevicePtr, PinnedHostSlice, sys,
};
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An open TensorRT plan.
pub struct TensorRtEngine {
    // Dropped in this order: what runs the engine, the engine, the GPU's context.
    ready: Vec<Ready>,
    /// How many of them there are while it is prepared.
    streams: usize,
    engine: Rc<CudaEngine>,
    gpu: Rc<Gpu>,
    io: Vec<IoTensor>,
    inputs: Vec<TensorDecl>,
    outputs: Vec<TensorDecl>,
    known: Known,
    threads: usize,
    cuda_graph: bool,
    profile: bool,
    weight_budget: Option<u64>,
    device_time: Option<Duration>,
    /// Size of the plan that was opened, in bytes.
    plan_size: usize,
}

/// What running takes. One execution context, on one of the plan's profiles at a time.
struct Ready {
    graph: Option<Recorded>,
    context: Context,
    profile: i32,
    /// Dropped after the context, which has its address.
    profiler: Option<Box<Profiler>>,
    buffers: HashMap<String, CudaSlice<u8>>,
    /// Memory of outputs whose shape depends on values.
    growing: HashMap<String, Box<OutputAllocator<Growing>>>,
    /// Between a caller's memory and the GPU's, of the size of the last run.
    pinned: HashMap<String, PinnedHostSlice<u8>>,
    /// Memory of tensors that TensorRT reads and writes on the host; in words, so that any element type is aligned.
    host: HashMap<String, Vec<u64>>,
    start: CudaEvent,
    end: CudaEvent,
    stream: Arc<CudaStream>,
}

/// A caller's tensor, and its bytes in the engine's type.
type Given<'t> = (&'t Tensor, Cow<'t, [u8]>);

/// Shapes of a run's outputs; none of one that depends on values.
type Shapes = Vec<Option<Vec<usize>>>;

/// A CUDA graph and the input shapes that it was recorded for.
struct Recorded {
    graph: CudaGraph,
    shapes: Vec<Vec<usize>>,
}

impl TensorRtEngine {
    pub(super) fn new(
        engine: CudaEngine,
        gpu: Rc<Gpu>,
        known: Known,
        settings: &Settings,
        plan_size: usize,
    ) -> Result<Self, Error> {
        let io = engine.io()?;
        let declare = |input: bool, declared: &[TensorDecl]| {
            io.iter()
                .filter(|t| t.is_input == input)
                .map(|t| declaration(t, declared))
                .collect()
        };
        Ok(TensorRtEngine {
            ready: Vec::new(),
            streams: 1,
            inputs: declare(true, &known.inputs),
            outputs: declare(false, &known.outputs),
            engine: Rc::new(engine),
            gpu,
            io,
            known,
            threads: settings.threads.unwrap_or_else(default_threads),
            cuda_graph: false,
            profile: false,
            weight_budget: None,
            device_time: None,
            plan_size,
        })
    }

    /// Free and total memory of the GPU, in bytes.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn gpu_memory(&self) -> Result<(usize, usize), Error> {
        self.gpu.memory().map_err(cuda)
    }

    /// Whether weights can be replaced.
    ///
    /// # Errors
    /// Never for supported versions.
    pub fn is_refittable(&self) -> Result<bool, Error> {
        self.engine.is_refittable()
    }

    /// Number of layers after fusing.
    ///
    /// # Errors
    /// Never for supported versions.
    pub fn layer_count(&self) -> Result<usize, Error> {
        self.engine.layers()
    }

    /// Number of optimization profiles; 1 or more.
    ///
    /// # Errors
    /// Never for supported versions.
    pub fn profiles(&self) -> Result<i32, Error> {
        // An engine without dynamic inputs may have none.
        Ok(i32::try_from(self.engine.profiles()?).unwrap_or(1).max(1))
    }

    /// The ends of an input's range in a profile; `None` where the engine does not say.
    fn ends(&self, input: &str, profile: i32) -> Option<[Vec<usize>; 2]> {
        let end = |selector| {
            let shape = self.engine.profile_shape(input, profile, selector).ok()??;
            let sizes = shape.iter().map(|&e| usize::try_from(e).ok());
            sizes.collect::<Option<Vec<_>>>()
        };
        Some([end(Selector::Min)?, end(Selector::Max)?])
    }

    /// The range of an input's sizes in all profiles, for messages: `1x4x8x8 to 3x4x32x32`.
    fn range(&self, input: &str) -> String {
        let show = |profile| match self.ends(input, profile) {
            Some([min, max]) if min == max => show_shape(&min),
            Some([min, max]) => format!("{} to {}", show_shape(&min), show_shape(&max)),
            None => "unknown".into(),
        };
        let all: Vec<String> = (0..self.profiles().unwrap_or(1)).map(show).collect();
        match &all[..] {
            [one] => one.clone(),
            all => {
                let each = all.iter().enumerate();
                let each = each.map(|(i, range)| format!("profile {}: {range}", i + 1));
                each.collect::<Vec<_>>().join("; ")
            }
        }
    }

    /// The first profile that holds the inputs.
    fn profile_for(&self, given: &[Given<'_>]) -> Result<i32, Error> {
        let inputs = || self.io.iter().filter(|t| t.is_input).zip(given);
        // Where the engine says no range, `setInputShape` is left to refuse.
        let holds = |profile: i32, io: &IoTensor, shape: &[usize]| {
            let Some([min, max]) = self.ends(&io.name, profile) else {
                return true;
            };
            let mut axes = shape.iter().zip(min.iter().zip(&max));
            shape.len() == min.len() && axes.all(|(n, (min, max))| (min..=max).contains(&n))
        };
        let all = 0..self.profiles()?;
        let found = all
            .clone()
            .find(|&p| inputs().all(|(io, (tensor, _))| holds(p, io, &tensor.shape)));
        if let Some(profile) = found {
            return Ok(profile);
        }
        // The input that no profile holds, or else the first that varies: each is held, and never together.
        let outside = inputs().find(|(io, (t, _))| !all.clone().any(|p| holds(p, io, &t.shape)));
        let Some((io, (tensor, _))) = outside.or_else(|| inputs().next()) else {
            return Ok(0);
        };
        let together = match outside {
            None => ", together with the other inputs,",
            Some(_) => "",
        };
        Err(Error::Input {
            name: io.name.clone(),
            reason: format!(
                "{}{together} is outside what the engine was built for ({})",
                show_shape(&tensor.shape),
                self.range(&io.name)
            ),
        })
    }

    /// Inputs in the engine's order and types.
    fn take_inputs<'t>(&self, inputs: &'t NamedTensors) -> Result<Vec<Given<'t>>, Error> {
        let fail = |name: &str, reason: String| Error::Input {
            name: name.into(),
            reason,
        };
        if let Some((name, _)) = inputs
            .iter()
            .find(|(n, _)| !self.io.iter().any(|t| t.is_input && t.name == *n))
        {
            return Err(fail(name, "the engine has no such input".into()));
        }
        self.io
            .iter()
            .filter(|t| t.is_input)
            .map(|t| {
                let (_, tensor) = inputs
                    .iter()
                    .find(|(name, _)| *name == t.name)
                    .ok_or_else(|| fail(&t.name, "it is not given".into()))?;
                let expected = element_count(&tensor.shape).and_then(|n| tensor.dtype.bytes_for(n));
                if expected != Some(tensor.data.len()) {
                    return Err(fail(
                        &t.name,
                        format!(
                            "{} of {} do not take {} bytes",
                            show_shape(&tensor.shape),
                            tensor.dtype,
                            tensor.data.len()
                        ),
                    ));
                }
                let bytes = narrow(tensor, t.dtype).map_err(|reason| fail(&t.name, reason))?;
                Ok((tensor, bytes))
            })
            .collect()
    }

    /// Makes what running on all streams takes, as far as it is not there.
    fn make_ready(&mut self) -> Result<(), Error> {
        if self.ready.is_empty()
            && let Some(bytes) = self.weight_budget
        {
            self.gpu.context().map_err(cuda)?;
            self.engine.set_weight_budget(bytes)?;
        }
        while self.ready.len() < self.streams {
            let one = self.new_ready().map_err(|e| match e {
                Error::Library { library, message } if !self.ready.is_empty() => Error::Library {
                    library,
                    message: format!("for stream {}: {message}", self.ready.len() + 1),
                },
                e => e,
            })?;
            self.ready.push(one);
        }
        Ok(())
    }

    fn new_ready(&self) -> Result<Ready, Error> {
        let context = self.gpu.context().map_err(cuda)?;
        let stream = context.new_stream().map_err(cuda)?;
        let event = || {
            context
                .new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))
                .map_err(cuda)
        };
        let running = self.engine.context()?;
        let profiler = self.profile.then(|| Profiler::new(self.engine.core()));
        if let Some(profiler) = &profiler {
            #[allow(unsafe_code)]
            // SAFETY: it is boxed, kept until `self` is dropped, and dropped after the context.
            unsafe {
                running.set_profiler(profiler)?;
            }
        }
        Ok(Ready {
            graph: None,
            context: running,
            profile: 0,
            profiler,
            buffers: HashMap::new(),
            growing: HashMap::new(),
            pinned: HashMap::new(),
            host: HashMap::new(),
            start: event()?,
            end: event()?,
            stream,
        })
    }

    /// Why there cannot be so many streams; `None` where there can.
    fn too_many(&self, streams: usize) -> Option<&'static str> {
        // `PreviewFeature::kPROFILE_SHARING_0806` is off before TensorRT 10 and on since.
        let shares = self.engine.core().version().parts().0 >= 10
            || self.engine.core().loaded().product != Product::TensorRt;
        let varies = self.io.iter().any(|t| t.is_input && t.dims.contains(&-1));
        (streams > 1 && varies && !shares).then_some(
            "before TensorRT 10 each stream takes an optimization profile of its own where sizes vary; export the model for one size, or use TensorRT 10",
        )
    }
}

impl Engine for TensorRtEngine {
    fn inputs(&self) -> &[TensorDecl] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorDecl] {
        &self.outputs
    }

    fn slots(&self) -> Result<Vec<Slot>, Error> {
        self.gpu.context().map_err(cuda)?;
        list_slots(&self.engine, &self.known)
    }

    fn refit(&mut self, feed: Arc<dyn Feed>, watch: &dyn Watch) -> Result<Way, Error> {
        self.gpu.context().map_err(cuda)?;
        drop(self.engine.core().take_messages());
        // Waits for whatever runs. A recorded graph may hold old weights, and before TensorRT 9.1
        // no context may be used after a refit.
        self.ready.clear();
        refit_engine(
            &self.engine,
            &self.known,
            feed.as_ref(),
            self.threads,
            watch,
        )
    }

    fn serialize(&self, out: &mut dyn Write) -> Result<(), Error> {
        self.gpu.context().map_err(cuda)?;
        // Old messages would be taken for the reasons of new failures.
        drop(self.engine.core().take_messages());
        let plan = self.engine.serialize()?;
        if self.known.stripped {
            self.check_filled(plan.bytes())?;
        }
        out.write_all(plan.bytes())?;
        Ok(())
    }

    fn check_options(&self, options: &RunOptions) -> Result<(), Error> {
        let refuse = |option: String, reason: &str| {
            Err(Error::Option {
                backend: self.engine.core().loaded().product.backend().into(),
                option,
                reason: reason.into(),
            })
        };
        if options.profile && options.cuda_graph {
            return refuse(
                "profile-layers".into(),
                "layers that are replayed as a CUDA graph are not measured; leave `--cuda-graph` out",
            );
        }
        if options.profile && options.streams > 1 {
            return refuse(
                "profile-layers".into(),
                "layers are measured one run at a time; leave `--streams` out",
            );
        }
        if let Some(why) = self.too_many(options.streams) {
            return refuse(format!("streams={}", options.streams), why);
        }
        let Some(budget) = options.weight_budget else {
            return Ok(());
        };
        let option = format!("weight-budget={budget}");
        match self.engine.streamable()? {
            None => refuse(
                option,
                "weight streaming with a budget came with TensorRT 10.1",
            ),
            Some(0) => refuse(option, "the plan was not built with `--weight-streaming`"),
            Some(_) => Ok(()),
        }
    }

    fn prepare(&mut self, options: &RunOptions) -> Result<(), Error> {
        self.check_options(options)?;
        self.cuda_graph = options.cuda_graph;
        if (self.weight_budget, self.profile) != (options.weight_budget, options.profile) {
            // Both are of a context from its beginning.
            self.ready.clear();
            (self.weight_budget, self.profile) = (options.weight_budget, options.profile);
        }
        self.streams = options.streams.max(1);
        self.ready.truncate(self.streams);
        self.make_ready()
    }

    fn layer_times(&self) -> Vec<(String, Vec<Duration>)> {
        let profiler = self.ready.first().and_then(|r| r.profiler.as_ref());
        profiler.map_or_else(Vec::new, |p| p.times())
    }

    fn layers(&self) -> Result<Option<serde_json::Value>, Error> {
        self.gpu.context().map_err(cuda)?;
        let json = self.engine.inspect()?;
        let value = serde_json::from_str(&json).map_err(|e| Error::Library {
            library: self.engine.core().loaded().title(),
            message: format!("the engine inspector gives no JSON ({e})"),
        })?;
        Ok(Some(value))
    }

    fn device_time(&self) -> Option<Duration> {
        self.device_time
    }

    fn run(&mut self, inputs: &NamedTensors) -> Result<NamedTensors, Error> {
        let given = self.take_inputs(inputs)?;
        self.make_ready()?;
        // After a failure they are made anew.
        let mut all = std::mem::take(&mut self.ready);
        let outputs = self.run_with(&mut all[0], &given)?;
        self.ready = all;
        Ok(outputs)
    }

    fn run_at_once(
        &mut self,
        inputs: &NamedTensors,
        more: &mut dyn FnMut(usize) -> bool,
    ) -> Result<AtOnce, Error> {
        let given = self.take_inputs(inputs)?;
        self.make_ready()?;
        let mut all = std::mem::take(&mut self.ready);
        let done = self.run_all(&mut all, &given, more)?;
        self.ready = all;
        Ok(done)
    }
}

impl TensorRtEngine {
    /// Whether the plan of an engine that was stripped and then refitted holds its weights: leaving them out again is no error
    /// to the library, and such a plan computes zeros.
    fn check_filled(&self, plan: &[u8]) -> Result<(), Error> {
        let core = self.engine.core();
        let fail = |message: String| {
            Err(Error::Library {
                library: core.loaded().title(),
                message: format!("the refitted plan is not whole: {message}"),
            })
        };
        let given = self.known.slots.iter().filter(|s| s.refittable);
        let weights: usize = given.filter_map(|s| s.dtype.bytes_for(s.count)).sum();
        // The library may keep weights in a quarter of their size (int8), and never in less than half a byte an element.
        let least = self.plan_size + weights / 16;
        if weights > 0 && plan.len() <= least {
            return fail(format!(
                "it has {} bytes, {} without its weights, and they are {weights}",
                plan.len(),
                self.plan_size
            ));
        }
        let again = deserialize(core, &self.gpu, plan, self.known.host_code)?;
        if again.is_refittable()? {
            let missing = super::api::Refitter::new(&again)?.missing()?;
            if let Some(name) = missing.first() {
                return fail(format!(
                    "opened again, it has no bytes for `{}` and {} other weights",
                    name.as_deref().unwrap_or("(without a name)"),
                    missing.len() - 1
                ));
            }
        }
        Ok(())
    }

    fn run_with(&mut self, ready: &mut Ready, given: &[Given<'_>]) -> Result<NamedTensors, Error> {
        let shapes = self.begin(ready, given)?;
        let (outputs, on_gpu) = self.end(ready, shapes)?;
        self.device_time = Some(on_gpu);
        Ok(outputs)
    }

    /// Keeps a run under way on each stream, in turn.
    fn run_all(
        &self,
        all: &mut [Ready],
        given: &[Given<'_>],
        more: &mut dyn FnMut(usize) -> bool,
    ) -> Result<AtOnce, Error> {
        let mut done = AtOnce {
            outputs: vec![NamedTensors::new(); all.len()],
            ..AtOnce::default()
        };
        let mut under_way: Vec<Option<(Shapes, Instant)>> = all.iter().map(|_| None).collect();
        let (mut begun, start) = (0, Instant::now());
        loop {
            for (at, ready) in all.iter_mut().enumerate() {
                if let Some((shapes, since)) = under_way[at].take() {
                    let (outputs, on_gpu) = self.end(ready, shapes)?;
                    done.outputs[at] = outputs;
                    done.latencies.push(since.elapsed());
                    done.on_gpu.push(on_gpu);
                }
                // Asked of each, since who is asked may count.
                if more(begun) || begun <= at {
                    let since = Instant::now();
                    under_way[at] = Some((self.begin(ready, given)?, since));
                    begun += 1;
                }
            }
            if under_way.iter().all(Option::is_none) {
                done.elapsed = start.elapsed();
                return Ok(done);
            }
        }
    }

    /// Hands a run over to the stream; nothing is waited for. The shapes of the outputs.
    fn begin(&self, ready: &mut Ready, given: &[Given<'_>]) -> Result<Shapes, Error> {
        self.gpu.context().map_err(cuda)?;
        // Old messages would be taken for the reasons of new failures.
        drop(self.engine.core().take_messages());
        // Before the shapes of inputs, which another profile forgets.
        ready.choose(self.profile_for(given)?)?;
        let inputs = || self.io.iter().filter(|t| t.is_input).zip(given);
        for (io, (tensor, bytes)) in inputs() {
            if !ready.context.set_input_shape(&io.name, &tensor.shape)? {
                return Err(Error::Input {
                    name: io.name.clone(),
                    reason: format!(
                        "{} is outside what the engine was built for ({})",
                        show_shape(&tensor.shape),
                        self.range(&io.name)
                    ),
                });
            }
            ready.place(io, bytes.len())?;
            ready.upload(io, bytes)?;
        }
        ready.context.infer_shapes()?;
        let mut shapes = Vec::new();
        for io in self.io.iter().filter(|t| !t.is_input) {
            let shape = ready.context.shape(&io.name)?;
            let shape: Option<Vec<usize>> =
                shape.iter().map(|&e| usize::try_from(e).ok()).collect();
            if let Some(shape) = &shape {
                ready.place(io, size_of_output(io, shape)?)?;
            } else {
                ready.let_grow(self.engine.core(), io)?;
            }
            shapes.push(shape);
        }
        let sizes: Vec<Vec<usize>> = given.iter().map(|(t, _)| t.shape.clone()).collect();
        ready.start.record(&ready.stream).map_err(cuda)?;
        ready.compute(&sizes, self.cuda_graph)?;
        ready.end.record(&ready.stream).map_err(cuda)?;
        let outputs = self.io.iter().filter(|t| !t.is_input).zip(&shapes);
        for (io, shape) in outputs {
            if let Some(shape) = shape {
                ready.begin_download(io, size_of_output(io, shape)?)?;
            }
        }
        Ok(shapes)
    }

    /// Waits for the run of a stream: its outputs, and what the GPU took.
    fn end(&self, ready: &mut Ready, shapes: Shapes) -> Result<(NamedTensors, Duration), Error> {
        ready.stream.synchronize().map_err(cuda)?;
        if let Some(profiler) = &ready.profiler {
            profiler.end_of_run();
        }
        let ms = ready.start.elapsed_ms(&ready.end).map_err(cuda)?;
        let outputs = self
            .io
            .iter()
            .filter(|t| !t.is_input)
            .zip(shapes)
            .zip(&self.outputs)
            .map(|((io, shape), declared)| {
                let (shape, data) = match shape {
                    Some(shape) => {
                        let data = ready.downloaded(io, size_of_output(io, &shape)?)?;
                        (shape, data)
                    }
                    None => ready.download_grown(self.engine.core(), io)?,
                };
                let data =
                    widen(data, io.dtype, declared.dtype).map_err(|reason| Error::Input {
                        name: io.name.clone(),
                        reason,
                    })?;
                Ok((
                    io.name.clone(),
                    Tensor {
                        dtype: declared.dtype,
                        shape,
                        data,
                    },
                ))
            })
            .collect::<Result<NamedTensors, Error>>()?;
        Ok((outputs, Duration::from_secs_f32(ms.max(0.0) / 1000.0)))
    }
}

/// Bytes of an output.
fn size_of_output(io: &IoTensor, shape: &[usize]) -> Result<usize, Error> {
    element_count(shape)
        .and_then(|n| io.dtype.bytes_for(n))
        .ok_or_else(|| Error::Input {
            name: io.name.clone(),
            reason: format!("{} is too large for memory", show_shape(shape)),
        })
}

/// Device memory that grows as an output turns out to need it.
struct Growing {
    stream: Arc<CudaStream>,
    memory: Option<CudaSlice<u8>>,
}

impl OutputMemory for Growing {
    fn reserve(&mut self, size: usize) -> Option<u64> {
        if self.memory.as_ref().is_none_or(|m| m.len() < size) {
            // The old one first: there may not be room for both.
            self.memory = None;
            self.memory = Some(self.stream.alloc_zeros::<u8>(size).ok()?);
        }
        let memory = self.memory.as_ref()?;
        Some(memory.device_ptr(&self.stream).0)
    }
}

impl Ready {
    /// Runs on this profile from now on.
    #[allow(unsafe_code)]
    fn choose(&mut self, profile: i32) -> Result<(), Error> {
        if self.profile == profile {
            return Ok(());
        }
        self.graph = None;
        // SAFETY: the stream is alive and of the engine's device, and a run is waited for before the next one.
        unsafe {
            self.context
                .set_profile(profile, self.stream.cu_stream().cast())?;
        }
        self.profile = profile;
        Ok(())
    }

    /// Has the engine ask for an output's memory when it knows its size.
    #[allow(unsafe_code)]
    fn let_grow(&mut self, core: &Core, io: &IoTensor) -> Result<(), Error> {
        // What is recorded has addresses in it.
        self.graph = None;
        if self.growing.contains_key(&io.name) {
            return Ok(());
        }
        let memory = Growing {
            stream: Arc::clone(&self.stream),
            memory: None,
        };
        let allocator = OutputAllocator::new(core, memory);
        // SAFETY: it is boxed, kept until `self` is dropped, and dropped after the context (see the order of fields).
        unsafe {
            self.context.set_output_allocator(&io.name, &allocator)?;
        }
        self.growing.insert(io.name.clone(), allocator);
        Ok(())
    }

    /// Shape and bytes of such an output, after a run.
    fn download_grown(
        &mut self,
        core: &Core,
        io: &IoTensor,
    ) -> Result<(Vec<usize>, Vec<u8>), Error> {
        let allocator = &self.growing[&io.name];
        let shape = allocator.take_shape().ok_or_else(|| Error::Library {
            library: core.loaded().title(),
            message: format!("it said nothing of the shape of the output `{}`", io.name),
        })?;
        let size = size_of_output(io, &shape)?;
        let stream = &self.stream;
        let data = allocator.with_memory(|growing| match &growing.memory {
            _ if size == 0 => Ok(Vec::new()),
            Some(memory) if memory.len() >= size => {
                stream.clone_dtoh(&memory.slice(..size)).map_err(cuda)
            }
            _ => Err(Error::Library {
                library: core.loaded().title(),
                message: format!("it asked for less memory than `{}` takes", io.name),
            }),
        })?;
        self.stream.synchronize().map_err(cuda)?;
        Ok((shape, data))
    }

    /// Gives a tensor memory of at least `size` bytes. What is recorded as a graph has the old addresses in it.
    #[allow(unsafe_code)]
    fn place(&mut self, io: &IoTensor, size: usize) -> Result<(), Error> {
        // TensorRT wants an address even for tensors without elements.
        let size = size.max(1);
        let address = if io.on_host {
            let words = size.div_ceil(size_of::<u64>());
            let memory = self.host.entry(io.name.clone()).or_default();
            if memory.len() < words {
                memory.resize(words, 0);
                self.graph = None;
            }
            memory.as_mut_ptr() as u64
        } else {
            if self.buffers.get(&io.name).is_none_or(|b| b.len() < size) {
                // The old one first: there may not be room for both.
                self.buffers.remove(&io.name);
                self.graph = None;
                let buffer = self.stream.alloc_zeros::<u8>(size).map_err(cuda)?;
                self.buffers.insert(io.name.clone(), buffer);
            }
            self.buffers[&io.name].device_ptr(&self.stream).0
        };
        // SAFETY: device memory, or host memory for tensors on the host, of `size` bytes or more; it is only replaced by
        // another call of this function, which sets the new address, and freed after the context (see the order of fields:
        // a run is always waited for before anything is dropped).
        unsafe {
            self.context
                .set_address(&io.name, address as *mut std::ffi::c_void)
        }
    }

    fn upload(&mut self, io: &IoTensor, bytes: &[u8]) -> Result<(), Error> {
        if io.on_host {
            let memory = self.host.get_mut(&io.name).expect("placed before");
            bytemuck::cast_slice_mut::<u64, u8>(memory)[..bytes.len()].copy_from_slice(bytes);
        } else if !bytes.is_empty() {
            self.pin(io, bytes.len())?;
            let pinned = self.pinned.get_mut(&io.name).expect("just pinned");
            pinned.as_mut_slice().map_err(cuda)?.copy_from_slice(bytes);
            let memory = self.buffers.get_mut(&io.name).expect("placed before");
            self.stream.memcpy_htod(pinned, memory).map_err(cuda)?;
        }
        Ok(())
    }

    /// Has an output copied when it is computed.
    fn begin_download(&mut self, io: &IoTensor, size: usize) -> Result<(), Error> {
        if io.on_host || size == 0 {
            return Ok(());
        }
        self.pin(io, size)?;
        let pinned = self.pinned.get_mut(&io.name).expect("just pinned");
        let view = self.buffers[&io.name].slice(..size);
        self.stream.memcpy_dtoh(&view, pinned).map_err(cuda)
    }

    /// An output whose copy was begun, after the run.
    fn downloaded(&self, io: &IoTensor, size: usize) -> Result<Vec<u8>, Error> {
        if io.on_host {
            return Ok(bytemuck::cast_slice::<u64, u8>(&self.host[&io.name])[..size].to_vec());
        }
        if size == 0 {
            return Ok(Vec::new());
        }
        // Waits for the copy.
        Ok(self.pinned[&io.name].as_slice().map_err(cuda)?.to_vec())
    }

    /// Has pinned memory of exactly `size` bytes for a tensor.
    #[allow(unsafe_code)]
    fn pin(&mut self, io: &IoTensor, size: usize) -> Result<(), Error> {
        if self.pinned.get(&io.name).is_some_and(|p| p.len() == size) {
            return Ok(());
        }
        self.pinned.remove(&io.name);
        let context = self.stream.context();
        // SAFETY: every byte is written, by `upload` or by the copy that `download` starts, before any is read.
        let pinned = unsafe { context.alloc_pinned_with_flags(size, 0) }.map_err(cuda)?;
        self.pinned.insert(io.name.clone(), pinned);
        Ok(())
    }

    /// Enqueues the engine, or replays it.
    fn compute(&mut self, shapes: &[Vec<usize>], as_graph: bool) -> Result<(), Error> {
        if let Some(recorded) = self
            .graph
            .as_ref()
            .filter(|g| as_graph && g.shapes == shapes)
        {
            return recorded.graph.launch().map_err(cuda);
        }
        self.graph = None;
        self.enqueue()?;
        // An output that grows has no address to be recorded.
        if as_graph && self.growing.is_empty() {
            // Only after one plain run at these shapes: the first one sets things up that cannot be recorded.
            self.stream.synchronize().map_err(cuda)?;
            self.graph = self.record(shapes);
        }
        Ok(())
    }

    /// `None` where the engine does something that cannot be recorded; it then goes on running plainly.
    fn record(&self, shapes: &[Vec<usize>]) -> Option<Recorded> {
        // Another thread's work does not disturb this one.
        self.stream
            .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .ok()?;
        let enqueued = self.enqueue();
        let graph = self
            .stream
            .end_capture(sys::CUgraphInstantiate_flags(0))
            .ok()
            .flatten()?;
        enqueued.ok()?;
        Some(Recorded {
            graph,
            shapes: shapes.to_vec(),
        })
    }

    #[allow(unsafe_code)]
    fn enqueue(&self) -> Result<(), Error> {
        // SAFETY: the stream is alive and of the engine's device; every tensor has its memory (`place`). A run waits for the
        // stream, and so does dropping `self`, without which the engine is neither refitted nor dropped.
        unsafe { self.context.enqueue(self.stream.cu_stream().cast()) }
    }
}

impl Drop for Ready {
    /// Waits, so that nothing that is still being computed loses its memory.
    fn drop(&mut self) {
        // A failure here is one that a run has already told.
        let _ = self.stream.synchronize();
    }
}
