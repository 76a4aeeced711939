//! Builder, network, profile and the plan's bytes.

use super::{Core, Owned, c_string, call, dims_call, text, to_dims};
use crate::engine::Error;
use crate::engine::tensorrt::releases::{Dims32, Dims64, DimsForm};
use crate::tensor::Dtype;
use std::ffi::{c_char, c_void};
use std::rc::Rc;
use std::sync::Arc;

/// `nvinfer1::IBuilder`; what it makes keeps it alive.
pub struct Builder {
    pub(super) owned: Owned,
}

/// Whether element types are inferred (with precision flags as permissions) or taken from the model as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkTyping {
    /// The library chooses among the precisions that flags allow.
    Weak,
    /// The model's own types are what is computed.
    Strong,
}

impl Builder {
    /// A builder.
    ///
    /// # Errors
    /// Where the library has none (a lean runtime), or will not make one (no driver).
    #[allow(unsafe_code)]
    pub fn new(core: &Arc<Core>) -> Result<Rc<Builder>, Error> {
        let create = core
            .loaded
            .create_builder
            .ok_or_else(|| Error::Unavailable {
                backend: core.loaded.product.backend().into(),
                reason: format!(
                    "`{}` has no builder: it only runs engines",
                    core.loaded.path.display()
                ),
                hints: vec!["install the whole library, not the lean runtime".into()],
            })?;
        // SAFETY: the symbol's type is the header's; the logger outlives everything made here, because every object holds
        // the core.
        let ptr = unsafe { create(core.logger.as_ptr(), core.loaded.number) };
        Ok(Rc::new(Builder {
            owned: Owned::handle(core, ptr, "createInferBuilder")?,
        }))
    }

    /// The core that it belongs to.
    pub fn core(&self) -> &Arc<Core> {
        &self.owned.core
    }

    /// Lets the builder use that many threads.
    ///
    /// # Errors
    /// When it refuses the number.
    pub fn set_max_threads(&self, threads: usize) -> Result<(), Error> {
        let core = self.core();
        let n = i32::try_from(threads).unwrap_or(i32::MAX);
        let ok = call!(core, self.owned.this(), builder.set_max_threads as fn(n => i32) -> bool)?;
        core.check(ok, format_args!("setMaxThreads({n}) failed"))
    }

    /// An empty network. Batch is always explicit.
    ///
    /// # Errors
    /// When the library makes none, or strong typing is asked of a version without it.
    pub fn network(self: &Rc<Self>, typing: NetworkTyping) -> Result<Network, Error> {
        let core = self.core();
        let values = &core.table().network_flag;
        let mut flags = 0u32;
        // A release without this flag has no other networks.
        if let Some(bit) = core.entry(&values.explicit_batch) {
            flags |= 1 << bit;
        }
        if typing == NetworkTyping::Strong {
            flags |= 1 << core.number(&values.strongly_typed, "strongly typed networks")?;
        }
        let ptr = call!(core, self.owned.this(), builder.create_network_v2 as fn(flags => u32) -> *mut c_void)?;
        Ok(Network {
            owned: Owned::handle(core, ptr, "createNetworkV2")?,
            _builder: Rc::clone(self),
        })
    }

    /// An empty optimization profile. The builder owns it.
    ///
    /// # Errors
    /// When the library makes none.
    pub fn profile(self: &Rc<Self>) -> Result<Profile, Error> {
        let core = self.core();
        let ptr = call!(
            core,
            self.owned.this(),
            builder.create_optimization_profile as fn() -> *mut c_void
        )?;
        let ptr = core.non_null(ptr, "createOptimizationProfile")?;
        #[allow(unsafe_code)]
        // SAFETY: the call just returned this handle.
        let this = unsafe { super::implementation(ptr) };
        Ok(Profile {
            ptr: ptr.as_ptr(),
            this,
            builder: Rc::clone(self),
        })
    }
}

/// `nvinfer1::INetworkDefinition`, which a parser fills.
pub struct Network {
    owned: Owned,
    _builder: Rc<Builder>,
}

/// An input of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkInput {
    pub name: String,
    pub dtype: Dtype,
    /// Its extents, -1 where dynamic; `None` where TensorRT knows none.
    pub dims: Option<Vec<i64>>,
    /// Whether its values decide shapes.
    pub shape_tensor: bool,
}

impl Network {
    /// The core that it belongs to.
    pub fn core(&self) -> &Arc<Core> {
        &self.owned.core
    }

    pub(super) fn ptr(&self) -> *mut c_void {
        self.owned.ptr.as_ptr()
    }

    pub(super) fn this(&self) -> *mut c_void {
        self.owned.this()
    }

    /// Number of layers.
    ///
    /// # Errors
    /// Never for supported versions.
    pub fn layers(&self) -> Result<usize, Error> {
        let n = call!(
            self.core(),
            self.owned.this(),
            network.get_nb_layers as fn() -> i32
        )?;
        Ok(usize::try_from(n).unwrap_or(0))
    }

    /// Its inputs, in order.
    ///
    /// # Errors
    /// When TensorRT returns no input for an index that it counts.
    pub fn inputs(&self) -> Result<Vec<NetworkInput>, Error> {
        let core = self.core();
        let n = call!(
            core,
            self.owned.this(),
            network.get_nb_inputs as fn() -> i32
        )?;
        (0..n)
            .map(|i| {
                let ptr = call!(core, self.owned.this(), network.get_input as fn(i => i32) -> *mut c_void)?;
                let ptr = core.non_null(ptr, "getInput")?;
                #[allow(unsafe_code)]
                // SAFETY: a tensor handle of this network, which is alive; it is used only here.
                let this = unsafe { super::implementation(ptr) };
                let name = call!(core, this, tensor.get_name as fn() -> *const c_char)?;
                let dtype = call!(core, this, tensor.get_type as fn() -> i32)?;
                let shape_tensor = call!(core, this, tensor.is_shape_tensor as fn() -> bool)?;
                let dims = dims_call!(core, this, tensor.get_dimensions as fn())?;
                #[allow(unsafe_code)]
                // SAFETY: the tensor owns the string, and it is copied here.
                let name = unsafe { text(name) }.unwrap_or_default();
                Ok(NetworkInput { name, dtype: core.dtype(dtype)?, dims, shape_tensor })
            })
            .collect()
    }

    /// Whether [`Network::mark_refittable`] is there.
    pub fn can_mark(&self) -> bool {
        self.core()
            .has(&self.core().table().network.mark_weights_refittable)
    }

    /// Marks the weights of this name refittable. `false`: the network has no weights of this name.
    ///
    /// # Errors
    /// When this version has no such call.
    pub fn mark_refittable(&self, name: &str) -> Result<bool, Error> {
        let core = self.core();
        let name = c_string(core, name)?;
        call!(core, self.owned.this(), network.mark_weights_refittable as fn(name.as_ptr() => *const c_char) -> bool)
    }
}

/// Which end of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selector {
    Min,
    Opt,
    Max,
}

impl Selector {
    /// All, in the order in which they must be set.
    pub const ALL: [Selector; 3] = [Selector::Min, Selector::Opt, Selector::Max];

    pub(super) fn number(self, core: &Core) -> Result<i32, Error> {
        let values = &core.table().selector;
        let entry = match self {
            Selector::Min => &values.min,
            Selector::Opt => &values.opt,
            Selector::Max => &values.max,
        };
        Ok(i32::from(core.number(entry, "such profile selector")?))
    }
}

/// `nvinfer1::IOptimizationProfile`. Its builder owns the object, so it is kept alive and nothing is deleted here.
pub struct Profile {
    pub(super) ptr: *mut c_void,
    this: *mut c_void,
    builder: Rc<Builder>,
}

impl Profile {
    /// Sets one end of an input's range.
    ///
    /// # Errors
    /// [`Error::Input`] for a shape that TensorRT does not take.
    pub fn set(&self, input: &str, selector: Selector, shape: &[usize]) -> Result<(), Error> {
        let core = self.builder.core();
        let name = c_string(core, input)?;
        let which = selector.number(core)?;
        let refuse = |reason| Error::Input {
            name: input.into(),
            reason,
        };
        let ok = match core.form().dims {
            DimsForm::Narrow => {
                let dims =
                    to_dims(shape, |rank, extents| Dims32 { rank, extents }).map_err(refuse)?;
                call!(core, self.this, profile.set_dimensions as
                    fn(name.as_ptr() => *const c_char, which => i32, dims => Dims32) -> bool)?
            }
            DimsForm::Wide => {
                let dims =
                    to_dims(shape, |rank, extents| Dims64 { rank, extents }).map_err(refuse)?;
                call!(core, self.this, profile.set_dimensions as
                    fn(name.as_ptr() => *const c_char, which => i32, &raw const dims => *const Dims64) -> bool)?
            }
        };
        core.check(
            ok,
            format_args!(
                "the profile does not take {selector:?} = {shape:?} for the input `{input}`"
            ),
        )
    }
}

/// `nvinfer1::IHostMemory`: bytes that TensorRT made.
pub struct HostMemory {
    owned: Owned,
    data: *const u8,
    len: usize,
}

impl HostMemory {
    pub(super) fn new(core: &Arc<Core>, ptr: *mut c_void, what: &str) -> Result<HostMemory, Error> {
        let owned = Owned::handle(core, ptr, what)?;
        let data = call!(core, owned.this(), host_memory.data as fn() -> *mut c_void)?;
        let len = call!(core, owned.this(), host_memory.size as fn() -> usize)?;
        core.check(
            !data.is_null() || len == 0,
            format_args!("{what} returned no bytes"),
        )?;
        Ok(HostMemory {
            owned,
            data: data.cast(),
            len,
        })
    }

    #[allow(unsafe_code)]
    pub fn bytes(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: `data` and `len` are what the live object says; it is not written while `self` lives.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }

    /// The core that it belongs to.
    pub fn core(&self) -> &Arc<Core> {
        &self.owned.core
    }
}
