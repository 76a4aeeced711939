//! Runtime, engine, execution context.

use super::allocator::OutputAllocator;
use super::builder::{HostMemory, Selector};
use super::profiler::Profiler;
use super::{Core, Owned, c_string, call, dims_call, text, to_dims};
use crate::engine::Error;
use crate::engine::tensorrt::releases::{CallForm, Dims32, Dims64, DimsForm};
use crate::tensor::Dtype;
use std::ffi::{c_char, c_void};
use std::rc::Rc;
use std::sync::Arc;

/// `nvinfer1::IRuntime`, which opens plans.
pub struct Runtime {
    owned: Owned,
}

impl Runtime {
    /// A runtime.
    ///
    /// # Errors
    /// When the library makes none (no driver, no GPU).
    #[allow(unsafe_code)]
    pub fn new(core: &Arc<Core>) -> Result<Rc<Runtime>, Error> {
        let create = core
            .loaded
            .create_runtime
            .ok_or_else(|| core.failed("the library has no runtime"))?;
        // SAFETY: the symbol's type is the header's; the logger outlives everything made here, because every object holds
        // the core.
        let ptr = unsafe { create(core.logger.as_ptr(), core.loaded.number) };
        Ok(Rc::new(Runtime {
            owned: Owned::handle(core, ptr, "createInferRuntime")?,
        }))
    }

    /// The core that it belongs to.
    pub fn core(&self) -> &Arc<Core> {
        &self.owned.core
    }

    /// Lets plans that are opened from now on bring code of their own, as version-compatible ones do (a lean runtime).
    ///
    /// # Errors
    /// When this version has no such call.
    pub fn allow_host_code(&self) -> Result<(), Error> {
        call!(self.core(), self.owned.this(), runtime.set_engine_host_code_allowed as fn(true => bool))
    }

    /// Opens a plan. Its bytes are not needed afterwards.
    ///
    /// # Errors
    /// With TensorRT's own words: another version, another GPU, damaged bytes.
    pub fn deserialize(self: &Rc<Self>, plan: &[u8]) -> Result<CudaEngine, Error> {
        let core = self.core();
        let (data, len) = (plan.as_ptr().cast::<c_void>(), plan.len());
        let ptr = if core.form().calls == CallForm::Factory {
            // The third parameter, a plugin factory, is deprecated and null.
            call!(core, self.owned.this(), runtime.deserialize_cuda_engine as
                fn(data => *const c_void, len => usize, std::ptr::null_mut() => *mut c_void) -> *mut c_void)?
        } else {
            call!(core, self.owned.this(), runtime.deserialize_cuda_engine as
                fn(data => *const c_void, len => usize) -> *mut c_void)?
        };
        Ok(CudaEngine {
            owned: Owned::handle(core, ptr, "deserializeCudaEngine")?,
            _runtime: Rc::clone(self),
        })
    }
}

/// `nvinfer1::ICudaEngine`: a plan that is open.
pub struct CudaEngine {
    owned: Owned,
    _runtime: Rc<Runtime>,
}

/// An input or output of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoTensor {
    pub name: String,
    pub is_input: bool,
    /// Element type as the engine has it.
    pub dtype: Dtype,
    /// Extents, -1 where dynamic.
    pub dims: Vec<i64>,
    /// It lives in host memory (`getTensorLocation`), as tensors whose values are shapes do.
    pub on_host: bool,
}

impl CudaEngine {
    /// The core that it belongs to.
    pub fn core(&self) -> &Arc<Core> {
        &self.owned.core
    }

    pub(super) fn ptr(&self) -> *mut c_void {
        self.owned.ptr.as_ptr()
    }

    /// Whether weights can be replaced.
    ///
    /// # Errors
    /// Never for supported versions.
    pub fn is_refittable(&self) -> Result<bool, Error> {
        call!(
            self.core(),
            self.owned.this(),
            engine.is_refittable as fn() -> bool
        )
    }

    /// Number of layers after fusing.
    ///
    /// # Errors
    /// Never for supported versions.
    pub fn layers(&self) -> Result<usize, Error> {
        let n = call!(
            self.core(),
            self.owned.this(),
            engine.get_nb_layers as fn() -> i32
        )?;
        Ok(usize::try_from(n).unwrap_or(0))
    }

    /// Number of optimization profiles.
    ///
    /// # Errors
    /// Never for supported versions.
    pub fn profiles(&self) -> Result<usize, Error> {
        let n = call!(
            self.core(),
            self.owned.this(),
            engine.get_nb_optimization_profiles as fn() -> i32
        )?;
        Ok(usize::try_from(n).unwrap_or(0))
    }

    /// Bytes of weights that may stay in host memory: 0 where the engine was not built for that; `None` where the version has no
    /// such thing.
    ///
    /// # Errors
    /// Never for supported versions.
    pub fn streamable(&self) -> Result<Option<u64>, Error> {
        let core = self.core();
        let table = &core.table().engine;
        if !core.has(&table.set_weight_streaming_budget_v2) {
            return Ok(None);
        }
        let n = call!(
            core,
            self.owned.this(),
            engine.get_streamable_weights_size as fn() -> i64
        )?;
        Ok(Some(u64::try_from(n).unwrap_or(0)))
    }

    /// Says how many bytes of its weights the GPU may hold. To be said while there is no context.
    ///
    /// # Errors
    /// With TensorRT's own words.
    pub fn set_weight_budget(&self, bytes: u64) -> Result<(), Error> {
        let core = self.core();
        let n = i64::try_from(bytes).unwrap_or(i64::MAX);
        let ok = call!(core, self.owned.this(), engine.set_weight_streaming_budget_v2 as fn(n => i64) -> bool)?;
        core.check(ok, format_args!("setWeightStreamingBudgetV2({n}) failed"))
    }

    /// Inputs and outputs, in the engine's order.
    ///
    /// # Errors
    /// When the engine reports something that its version does not have.
    pub fn io(&self) -> Result<Vec<IoTensor>, Error> {
        let core = self.core();
        let this = self.owned.this();
        let input = i32::from(core.number(&core.table().io_mode.input, "input mode")?);
        let host = i32::from(core.number(&core.table().location.host, "host memory")?);
        let n = call!(core, this, engine.get_nb_io_tensors as fn() -> i32)?;
        (0..n)
            .map(|i| {
                let c_name = call!(core, this, engine.get_io_tensor_name as fn(i => i32) -> *const c_char)?;
                #[allow(unsafe_code)]
                // SAFETY: the engine owns the string, and it is copied here.
                let name = unsafe { text(c_name) }
                    .ok_or_else(|| core.failed(format_args!("getIOTensorName({i}) returned nothing")))?;
                let mode = call!(core, this, engine.get_tensor_io_mode as fn(c_name => *const c_char) -> i32)?;
                let dtype = call!(core, this, engine.get_tensor_data_type as fn(c_name => *const c_char) -> i32)?;
                let location = call!(core, this, engine.get_tensor_location as fn(c_name => *const c_char) -> i32)?;
                let dims = dims_call!(core, this, engine.get_tensor_shape as fn(c_name => *const c_char))?
                    .ok_or_else(|| core.failed(format_args!("`{name}` has no shape")))?;
                Ok(IoTensor { is_input: mode == input, dtype: core.dtype(dtype)?, dims, on_host: location == host, name })
            })
            .collect()
    }

    /// One end of an input's range in a profile; `None` where the engine does not say.
    ///
    /// # Errors
    /// Never for supported versions.
    pub fn profile_shape(
        &self,
        input: &str,
        profile: i32,
        selector: Selector,
    ) -> Result<Option<Vec<i64>>, Error> {
        let core = self.core();
        let name = c_string(core, input)?;
        let which = selector.number(core)?;
        dims_call!(core, self.owned.this(), engine.get_profile_shape as
            fn(name.as_ptr() => *const c_char, profile => i32, which => i32))
    }

    /// The plan, with the weights that the engine holds now, those of a stripped plan that was filled too. A refittable engine
    /// stays refittable where the version can say so (from 10.14 on) or its plan was not stripped.
    ///
    /// # Errors
    /// With TensorRT's own words.
    pub fn serialize(&self) -> Result<HostMemory, Error> {
        let core = self.core();
        let table = core.table();
        // Only weights that can be replaced can be left out, so only there a flag has to say that
        // they are not.
        if !core.has(&table.engine.serialize_with_config) || !self.is_refittable()? {
            let ptr = call!(
                core,
                self.owned.this(),
                engine.serialize as fn() -> *mut c_void
            )?;
            return HostMemory::new(core, ptr, "serialize");
        }
        let config = call!(
            core,
            self.owned.this(),
            engine.create_serialization_config as fn() -> *mut c_void
        )?;
        let config = Owned::handle(core, config, "createSerializationConfig")?;
        let flags = &table.serialization_flag;
        // The configuration of an engine that came from a stripped plan is born with this flag, and a filled plan that is
        // written with it computes zeros (pytorch/TensorRT issue 3217).
        let exclude = i32::from(core.number(&flags.exclude_weights, "flag for weights")?);
        let ok = call!(core, config.this(), serialization_config.clear_flag as fn(exclude => i32) -> bool)?;
        core.check(ok, "the serialization flag for weights was refused")?;
        if let Some(flag) = core.entry(&flags.include_refit) {
            let ok = call!(core, config.this(), serialization_config.set_flag as fn(i32::from(flag) => i32) -> bool)?;
            core.check(
                ok,
                "the serialization flag for refittable plans was refused",
            )?;
        }
        let ptr = call!(core, self.owned.this(), engine.serialize_with_config as
            fn(config.ptr.as_ptr() => *mut c_void) -> *mut c_void)?;
        HostMemory::new(core, ptr, "serializeWithConfig")
    }

    /// What the engine inspector says of all layers, as JSON. Detail depends on the profiling verbosity of the build.
    ///
    /// # Errors
    /// With TensorRT's own words.
    pub fn inspect(&self) -> Result<String, Error> {
        let core = self.core();
        let inspector = call!(
            core,
            self.owned.this(),
            engine.create_engine_inspector as fn() -> *mut c_void
        )?;
        let inspector = Owned::handle(core, inspector, "createEngineInspector")?;
        let json = i32::from(core.number(&core.table().layer_format.json, "JSON inspector")?);
        let ptr = call!(core, inspector.this(), inspector.get_engine_information as fn(json => i32) -> *const c_char)?;
        #[allow(unsafe_code)]
        // SAFETY: the inspector, alive here, owns the string, and it is copied.
        let text = unsafe { text(ptr) };
        text.ok_or_else(|| core.failed("getEngineInformation returned nothing"))
    }

    /// An execution context, with its own scratch memory, on profile 0.
    ///
    /// # Errors
    /// With TensorRT's own words: not enough memory, or a second context on the only profile (8.6).
    pub fn context(self: &Rc<Self>) -> Result<Context, Error> {
        let core = self.core();
        let ptr = if core.form().calls == CallForm::Factory {
            call!(
                core,
                self.owned.this(),
                engine.create_execution_context as fn() -> *mut c_void
            )?
        } else {
            let strategy =
                i32::from(core.number(&core.table().allocation.r#static, "static allocation")?);
            call!(core, self.owned.this(), engine.create_execution_context as fn(strategy => i32) -> *mut c_void)?
        };
        Ok(Context {
            owned: Owned::handle(core, ptr, "createExecutionContext")?,
            _engine: Rc::clone(self),
        })
    }
}

/// `nvinfer1::IExecutionContext`: one run at a time.
pub struct Context {
    owned: Owned,
    _engine: Rc<CudaEngine>,
}

impl Context {
    fn core(&self) -> &Arc<Core> {
        &self.owned.core
    }

    /// Chooses an optimization profile. Shapes and addresses of inputs are set anew afterwards.
    ///
    /// # Safety
    /// `stream` is a live stream of the engine's device, and nothing that this context enqueued is running.
    ///
    /// # Errors
    /// With TensorRT's own words.
    #[allow(unsafe_code)]
    pub unsafe fn set_profile(&self, profile: i32, stream: *mut c_void) -> Result<(), Error> {
        let core = self.core();
        let ok = call!(core, self.owned.this(), context.set_optimization_profile_async as
            fn(profile => i32, stream => *mut c_void) -> bool)?;
        core.check(
            ok,
            format_args!("setOptimizationProfileAsync({profile}) failed"),
        )
    }

    /// Says how large an input is. `false`: outside the profile's range.
    ///
    /// # Errors
    /// [`Error::Input`] for more axes than TensorRT has.
    pub fn set_input_shape(&self, input: &str, shape: &[usize]) -> Result<bool, Error> {
        let core = self.core();
        let name = c_string(core, input)?;
        let refuse = |reason| Error::Input {
            name: input.into(),
            reason,
        };
        match core.form().dims {
            DimsForm::Narrow => {
                let dims =
                    to_dims(shape, |rank, extents| Dims32 { rank, extents }).map_err(refuse)?;
                call!(core, self.owned.this(), context.set_input_shape as
                    fn(name.as_ptr() => *const c_char, &raw const dims => *const Dims32) -> bool)
            }
            DimsForm::Wide => {
                let dims =
                    to_dims(shape, |rank, extents| Dims64 { rank, extents }).map_err(refuse)?;
                call!(core, self.owned.this(), context.set_input_shape as
                    fn(name.as_ptr() => *const c_char, &raw const dims => *const Dims64) -> bool)
            }
        }
    }

    /// The shape of an input or output for the input shapes that were set; -1 where it depends on values
    /// ([`Context::set_output_allocator`]).
    ///
    /// # Errors
    /// When the shapes of inputs do not determine it.
    pub fn shape(&self, tensor: &str) -> Result<Vec<i64>, Error> {
        let core = self.core();
        let name = c_string(core, tensor)?;
        dims_call!(core, self.owned.this(), context.get_tensor_shape as fn(name.as_ptr() => *const c_char))?
            .ok_or_else(|| core.failed(format_args!("the shape of `{tensor}` is not determined")))
    }

    /// Computes output shapes.
    ///
    /// # Errors
    /// When an input's shape or address is missing, or shapes do not fit together.
    pub fn infer_shapes(&self) -> Result<(), Error> {
        let core = self.core();
        let n = call!(core, self.owned.this(), context.infer_shapes as
            fn(0 => i32, std::ptr::null_mut() => *mut *const c_char) -> i32)?;
        core.check(n == 0, "the shapes of the inputs do not fit together")
    }

    /// Says where an input or output lies.
    ///
    /// # Safety
    /// `address` is device memory (host memory for [`IoTensor::on_host`]), large enough for the tensor's shape, and stays
    /// so until the work that [`Context::enqueue`] starts is done.
    ///
    /// # Errors
    /// When the engine has no such tensor.
    #[allow(unsafe_code)]
    pub unsafe fn set_address(&self, tensor: &str, address: *mut c_void) -> Result<(), Error> {
        let core = self.core();
        let name = c_string(core, tensor)?;
        let ok = call!(core, self.owned.this(), context.set_tensor_address as
            fn(name.as_ptr() => *const c_char, address => *mut c_void) -> bool)?;
        core.check(ok, format_args!("setTensorAddress failed for `{tensor}`"))
    }

    /// Has memory for an output asked of `allocator`, from the next [`Context::enqueue`] on.
    ///
    /// # Safety
    /// `allocator` lives, at its address, as long as this context.
    ///
    /// # Errors
    /// When the engine has no such output.
    #[allow(unsafe_code)]
    pub unsafe fn set_output_allocator<M>(
        &self,
        output: &str,
        allocator: &OutputAllocator<M>,
    ) -> Result<(), Error> {
        let core = self.core();
        let name = c_string(core, output)?;
        let ok = call!(core, self.owned.this(), context.set_output_allocator as
            fn(name.as_ptr() => *const c_char, allocator.as_ptr() => *mut c_void) -> bool)?;
        core.check(ok, format_args!("setOutputAllocator failed for `{output}`"))
    }

    /// Has each layer's time told to `profiler`. The computation is then waited for in [`Context::enqueue`].
    ///
    /// # Safety
    /// `profiler` lives, at its address, as long as this context.
    ///
    /// # Errors
    /// Never for supported versions.
    #[allow(unsafe_code)]
    pub unsafe fn set_profiler(&self, profiler: &Profiler) -> Result<(), Error> {
        call!(self.core(), self.owned.this(), context.set_profiler as fn(profiler.as_ptr() => *mut c_void))
    }

    /// Starts the computation on a CUDA stream.
    ///
    /// # Safety
    /// `stream` is a live stream of the engine's device (or null, the default stream), and every tensor's address was set
    /// as [`Context::set_address`] asks. The stream is waited for before the engine is refitted and before the context is
    /// dropped.
    ///
    /// # Errors
    /// With TensorRT's own words.
    #[allow(unsafe_code)]
    pub unsafe fn enqueue(&self, stream: *mut c_void) -> Result<(), Error> {
        let core = self.core();
        let ok = call!(core, self.owned.this(), context.enqueue_v3 as fn(stream => *mut c_void) -> bool)?;
        core.check(ok, "enqueueV3 failed")
    }
}
