//! The refitter: names, types and new bytes of weights.

use super::runtime::CudaEngine;
use super::{Core, Owned, c_string, call, text};
use crate::engine::Error;
use crate::engine::tensorrt::releases::Weights;
use crate::tensor::Dtype;
use std::borrow::Cow;
use std::ffi::c_char;
use std::sync::Arc;

/// `nvinfer1::IRefitter` of one engine. `'b` is the life of the bytes that it was given: TensorRT reads them when
/// [`Refitter::refit`] is called, not before.
pub struct Refitter<'e, 'b> {
    // Dropped first: it points into `bytes`.
    owned: Owned,
    _engine: &'e CudaEngine,
    bytes: Vec<Cow<'b, [u8]>>,
}

/// Element type and count that the engine wants of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prototype {
    pub dtype: Dtype,
    pub count: usize,
}

/// What both lists of names (all, missing) are read with.
type List<'a> = &'a dyn Fn(i32, *mut *const c_char) -> Result<i32, Error>;

impl<'e, 'b> Refitter<'e, 'b> {
    /// A refitter of `engine`.
    ///
    /// # Errors
    /// When the engine is not refittable.
    #[allow(unsafe_code)]
    pub fn new(engine: &'e CudaEngine) -> Result<Refitter<'e, 'b>, Error> {
        let core = Arc::clone(engine.core());
        let create = core
            .loaded
            .create_refitter
            .ok_or_else(|| core.failed("the library has no refitter"))?;
        // SAFETY: the symbol's type is the header's; the engine is borrowed for the refitter's whole life, and the logger is
        // held by the core.
        let ptr = unsafe { create(engine.ptr(), core.logger.as_ptr(), core.loaded.number) };
        Ok(Refitter {
            owned: Owned::handle(&core, ptr, "createInferRefitter")?,
            _engine: engine,
            bytes: Vec::new(),
        })
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.owned.core
    }

    pub(super) fn ptr(&self) -> *mut std::ffi::c_void {
        self.owned.ptr.as_ptr()
    }

    /// Names of all weights that can be replaced; `None` for one that has no name.
    ///
    /// # Errors
    /// Never for supported versions.
    pub fn names(&self) -> Result<Vec<Option<String>>, Error> {
        let core = self.core();
        read_names(
            &|n, to| call!(core, self.owned.this(), refitter.get_all_weights as fn(n => i32, to => *mut *const c_char) -> i32),
        )
    }

    /// Names of the weights that must be given too before a commit: others of their fused layer were given.
    /// TensorRT-RTX may leave some out, so this is no proof that nothing is stale.
    ///
    /// # Errors
    /// Never for supported versions.
    pub fn missing(&self) -> Result<Vec<Option<String>>, Error> {
        let core = self.core();
        read_names(
            &|n, to| call!(core, self.owned.this(), refitter.get_missing_weights as fn(n => i32, to => *mut *const c_char) -> i32),
        )
    }

    /// What the engine wants for `name`; `None` before TensorRT 10, and where it knows no count.
    ///
    /// # Errors
    /// For an element type that the version does not have.
    pub fn prototype(&self, name: &str) -> Result<Option<Prototype>, Error> {
        let core = self.core();
        if !core.has(&core.table().refitter.get_weights_prototype) {
            return Ok(None);
        }
        let name = c_string(core, name)?;
        let w = call!(core, self.owned.this(), refitter.get_weights_prototype as fn(name.as_ptr() => *const c_char) -> Weights)?;
        match usize::try_from(w.count) {
            Err(_) => Ok(None),
            Ok(count) => Ok(Some(Prototype {
                dtype: core.dtype(w.dtype)?,
                count,
            })),
        }
    }

    /// The bytes that a weight has; `None` where the library gives none back, as those of this writing do for what was not given
    /// to this refitter before, and where they are on the GPU or of another type.
    ///
    /// # Errors
    /// Never for supported versions.
    #[allow(unsafe_code)]
    pub fn value(&self, name: &str, dtype: Dtype) -> Result<Option<&[u8]>, Error> {
        let core = self.core();
        let table = &core.table().refitter;
        if !core.has(&table.get_named_weights) || !core.has(&table.get_weights_location) {
            return Ok(None);
        }
        let host = i32::from(core.number(&core.table().location.host, "host memory")?);
        let name = c_string(core, name)?;
        let w = call!(core, self.owned.this(), refitter.get_named_weights as fn(name.as_ptr() => *const c_char) -> Weights)?;
        // What it says of a weight that it does not give is no news.
        drop(core.take_messages());
        let size = usize::try_from(w.count)
            .ok()
            .and_then(|n| dtype.bytes_for(n));
        let Some(size) =
            size.filter(|_| !w.values.is_null() && core.data_type(dtype) == Some(w.dtype))
        else {
            return Ok(None);
        };
        let location = call!(core, self.owned.this(), refitter.get_weights_location as fn(name.as_ptr() => *const c_char) -> i32)?;
        if location != host {
            return Ok(None);
        }
        // SAFETY: the library says that so many elements of this type are there, in host memory; it keeps them while the
        // refitter lives, and nothing is given to it while this borrow of it does.
        Ok(Some(unsafe {
            std::slice::from_raw_parts(w.values.cast(), size)
        }))
    }

    /// Lets the refit use that many threads.
    ///
    /// # Errors
    /// When it refuses the number.
    pub fn set_max_threads(&self, threads: usize) -> Result<(), Error> {
        let core = self.core();
        let n = i32::try_from(threads).unwrap_or(i32::MAX);
        let ok = call!(core, self.owned.this(), refitter.set_max_threads as fn(n => i32) -> bool)?;
        core.check(ok, format_args!("setMaxThreads({n}) failed"))
    }

    /// Gives the bytes of one weight: `count` elements of `dtype`.
    ///
    /// # Errors
    /// [`Error::Weight`] when TensorRT refuses, or the bytes are not as many as `dtype` and `count` say.
    pub fn set(
        &mut self,
        name: &str,
        dtype: Dtype,
        count: usize,
        bytes: Cow<'b, [u8]>,
    ) -> Result<(), Error> {
        let core = self.core();
        let refuse = |reason: String| Error::Weight {
            name: name.into(),
            reason,
        };
        if dtype.bytes_for(count) != Some(bytes.len()) {
            return Err(refuse(format!(
                "{count} elements of {dtype} do not take {} bytes",
                bytes.len()
            )));
        }
        let number = core.data_type(dtype).ok_or_else(|| {
            refuse(format!(
                "{} has no element type {dtype}",
                core.loaded.title()
            ))
        })?;
        let weights = Weights {
            dtype: number,
            values: bytes.as_ptr().cast(),
            count: count as i64,
        };
        let c_name = c_string(core, name)?;
        let ok = call!(core, self.owned.this(), refitter.set_named_weights as
            fn(c_name.as_ptr() => *const c_char, weights => Weights) -> bool)?;
        if ok {
            // What a `Cow` points to stays where it is when the `Cow` is moved.
            self.bytes.push(bytes);
            return Ok(());
        }
        Err(match core.failed("it does not take these weights") {
            Error::Library { library, message } => refuse(format!("{library}: {message}")),
            other => other,
        })
    }

    /// Replaces the weights; no work of the engine is pending then ([`super::Context::enqueue`] asks for that). After an error some may have been replaced: the engine must be thrown away.
    ///
    /// # Errors
    /// With TensorRT's own words.
    pub fn refit(&self) -> Result<(), Error> {
        let core = self.core();
        let ok = call!(
            core,
            self.owned.this(),
            refitter.refit_cuda_engine as fn() -> bool
        )?;
        core.check(ok, "refitCudaEngine failed")
    }
}

/// Asks for the number of names, then for the names.
fn read_names(list: List<'_>) -> Result<Vec<Option<String>>, Error> {
    let n = list(0, std::ptr::null_mut())?;
    let mut names = vec![std::ptr::null::<c_char>(); usize::try_from(n).unwrap_or(0)];
    let got = list(names.len() as i32, names.as_mut_ptr())?;
    names.truncate(usize::try_from(got).unwrap_or(0));
    #[allow(unsafe_code)]
    // SAFETY: each is null or a string that the refitter, alive here, owns; it is copied.
    Ok(names.into_iter().map(|p| unsafe { text(p) }).collect())
}
