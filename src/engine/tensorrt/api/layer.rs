//! Layers of a network, as far as their precision can be pinned.

use super::builder::Network;
use super::{Core, call, text};
use crate::engine::Error;
use crate::tensor::Dtype;
use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

/// `nvinfer1::ILayer`. Its network owns the object.
pub struct Layer<'n> {
    network: &'n Network,
    this: *mut c_void,
    /// Tensors that it reads; those that are left out are not listed.
    pub inputs: Vec<LayerTensor>,
    /// Tensors that it makes.
    pub outputs: Vec<LayerTensor>,
}

/// A tensor between layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerTensor {
    /// Its name: the ONNX value's where it is one, otherwise the library's own.
    pub name: String,
    /// Its element type, before the build decides.
    pub dtype: Dtype,
}

impl Network {
    /// Whether [`Layer::pin`] is there: where networks are weakly typed.
    pub fn can_pin(&self) -> bool {
        let layer = &self.core().table().layer;
        self.core().has(&layer.set_precision) && self.core().has(&layer.set_output_type)
    }

    /// One layer.
    ///
    /// # Errors
    /// When TensorRT returns none for an index that it counts, or a tensor of an unknown element type.
    pub fn layer(&self, index: usize) -> Result<Layer<'_>, Error> {
        let core = self.core();
        let index = i32::try_from(index).unwrap_or(i32::MAX);
        let ptr = call!(core, self.this(), network.get_layer as fn(index => i32) -> *mut c_void)?;
        let ptr = core.non_null(ptr, "getLayer")?;
        #[allow(unsafe_code)]
        // SAFETY: a layer handle of this network, which `Layer` keeps borrowed. Every layer class begins with `ILayer`.
        let this = unsafe { super::implementation(ptr) };
        let tensors = |inputs: bool| -> Result<Vec<LayerTensor>, Error> {
            let n = if inputs {
                call!(core, this, layer.get_nb_inputs as fn() -> i32)?
            } else {
                call!(core, this, layer.get_nb_outputs as fn() -> i32)?
            };
            (0..n)
                .map(|i| {
                    if inputs {
                        call!(core, this, layer.get_input as fn(i => i32) -> *mut c_void)
                    } else {
                        call!(core, this, layer.get_output as fn(i => i32) -> *mut c_void)
                    }
                })
                // An optional input that is not given is null.
                .filter_map(|ptr| ptr.map(NonNull::new).transpose())
                .map(|ptr| tensor(core, ptr?))
                .collect()
        };
        Ok(Layer {
            network: self,
            this,
            inputs: tensors(true)?,
            outputs: tensors(false)?,
        })
    }
}

fn tensor(core: &Core, ptr: NonNull<c_void>) -> Result<LayerTensor, Error> {
    #[allow(unsafe_code)]
    // SAFETY: a tensor handle of a network that the caller borrows; it is used only here.
    let this = unsafe { super::implementation(ptr) };
    let name = call!(core, this, tensor.get_name as fn() -> *const c_char)?;
    #[allow(unsafe_code)]
    // SAFETY: the tensor owns the string, and it is copied here.
    let name = unsafe { text(name) }.unwrap_or_default();
    let dtype = core.dtype(call!(core, this, tensor.get_type as fn() -> i32)?)?;
    Ok(LayerTensor { name, dtype })
}

impl Layer<'_> {
    /// Asks for the first output in this type, and, where `computes`, for the computation too.
    ///
    /// # Errors
    /// Where the version has no such type or call.
    pub fn pin(&self, dtype: Dtype, computes: bool) -> Result<(), Error> {
        let core = self.network.core();
        let number = core.data_type(dtype).ok_or_else(|| Error::Library {
            library: core.loaded().title(),
            message: format!("it has no element type {dtype}"),
        })?;
        if computes {
            call!(core, self.this, layer.set_precision as fn(number => i32))?;
        }
        call!(core, self.this, layer.set_output_type as fn(0 => i32, number => i32))
    }
}
