//! TensorRT's objects as safe types.
//!
//! Every object keeps what it depends on alive: a network keeps its builder, an engine its runtime, a context its engine, and
//! all of them the [`Core`], which holds the library and the logger that TensorRT was given. A null pointer, a `false` and an
//! error record become an [`Error`] with TensorRT's own last messages.

mod allocator;
mod builder;
mod compile;
mod config;
mod layer;
mod logger;
mod monitor;
mod observer;
mod parser;
mod parser_refitter;
mod profiler;
mod refitter;
mod runtime;
mod writer;

pub use allocator::{OutputAllocator, OutputMemory};
pub use builder::{Builder, HostMemory, Network, NetworkInput, NetworkTyping, Profile, Selector};
pub use config::{Config, Flag, TimingCache};
pub use layer::{Layer, LayerTensor};
pub use logger::{Message, Severity};
pub use observer::{Origin, Record};
pub use parser::{ParseError, Parser};
pub use parser_refitter::ParserRefitter;
pub use profiler::Profiler;
pub use refitter::{Prototype, Refitter};
pub use runtime::{Context, CudaEngine, IoTensor, Runtime};

use super::loader::Loaded;
use super::releases::{Basis, Column, Entry, TABLE, Table, Version};
use crate::engine::Error;
use crate::tensor::Dtype;
use logger::Logger;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

/// An opened library and the logger that its objects write to.
pub struct Core {
    loaded: Arc<Loaded>,
    /// Never moves: a core only lives inside its [`Arc`].
    logger: Logger,
}

impl Core {
    /// A core for `loaded`.
    pub fn new(loaded: Arc<Loaded>) -> Arc<Core> {
        let logger = Logger::new(loaded.release.form().logger);
        Arc::new(Core { loaded, logger })
    }

    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Messages since the last call, oldest first; [`Severity::Verbose`] ones are never kept.
    pub fn take_messages(&self) -> Vec<Message> {
        self.logger.take()
    }

    #[allow(
        clippy::unused_self,
        reason = "what is read from it needs the core's release"
    )]
    fn table(&self) -> &'static Table {
        TABLE
    }

    /// How this library's release calls and is called.
    fn form(&self) -> &'static Column {
        self.loaded.release.form()
    }

    /// The `ILogger` that the library writes to.
    pub fn logger(&self) -> *mut c_void {
        self.logger.as_ptr()
    }

    /// Whether the parser tells how each weight comes about.
    pub fn observes_parser(&self) -> bool {
        self.has(&self.table().parser.set_refit_observer)
    }

    /// The number of an entry, where this library's release has it.
    fn entry(&self, entry: &Entry) -> Option<u16> {
        entry.get(self.loaded.release)
    }

    /// Whether this library's release has an entry.
    fn has(&self, entry: &Entry) -> bool {
        self.entry(entry).is_some()
    }

    /// The number of an entry.
    ///
    /// # Errors
    /// [`Error::Library`] when this version has no such entry.
    fn number(&self, entry: &Entry, what: &str) -> Result<u16, Error> {
        self.entry(entry).ok_or_else(|| Error::Library {
            library: self.loaded.title(),
            message: match self.loaded.release.basis {
                Basis::Between(low, high) => format!(
                    "its headers were not read, and those of {low} and {high} do not agree on {what}"
                ),
                Basis::Exact | Basis::Assumed(_) => format!("this version has no {what}"),
            },
        })
    }

    /// An error about `what`, with TensorRT's own messages.
    fn failed(&self, what: impl std::fmt::Display) -> Error {
        let said: Vec<_> = self
            .logger
            .take()
            .into_iter()
            .filter(|m| m.severity <= Severity::Error)
            .map(|m| m.text)
            .collect();
        // The last messages are nearest to the cause; earlier ones are often of other attempts.
        let said = &said[said.len().saturating_sub(4)..];
        let message = if said.is_empty() {
            format!("{what}; it gave no reason")
        } else {
            format!("{what}: {}", said.join("; "))
        };
        Error::Library {
            library: self.loaded.title(),
            message,
        }
    }

    /// That its ONNX parser does not serve, and why.
    fn no_parser(&self, reason: &str) -> Error {
        Error::Unavailable {
            backend: self.loaded.product.backend().into(),
            reason: format!("its ONNX parser cannot be used: {reason}"),
            hints: vec!["put the parser's library, and what it links, beside TensorRT's".into()],
        }
    }

    /// A non-null pointer, or the error.
    fn non_null(&self, ptr: *mut c_void, what: &str) -> Result<NonNull<c_void>, Error> {
        NonNull::new(ptr).ok_or_else(|| self.failed(format_args!("{what} returned nothing")))
    }

    /// `Ok` where TensorRT said true.
    fn check(&self, ok: bool, what: impl std::fmt::Display) -> Result<(), Error> {
        if ok { Ok(()) } else { Err(self.failed(what)) }
    }

    /// `nvinfer1::DataType` of an element type, where this version has it.
    fn data_type(&self, dtype: Dtype) -> Option<i32> {
        let d = &self.table().data_type;
        let entry = match dtype {
            Dtype::F32 => &d.float,
            Dtype::F16 => &d.half,
            Dtype::I8 => &d.int8,
            Dtype::I32 => &d.int32,
            Dtype::Bool => &d.bool,
            Dtype::U8 => &d.uint8,
            Dtype::F8E4M3Fn => &d.fp8,
            Dtype::Bf16 => &d.bf16,
            Dtype::I64 => &d.int64,
            Dtype::I4 => &d.int4,
            Dtype::F4E2M1 => &d.fp4,
            Dtype::F8E8M0 => &d.e8m0,
            _ => return None,
        };
        self.entry(entry).map(i32::from)
    }

    /// The element type of a `nvinfer1::DataType`.
    ///
    /// # Errors
    /// [`Error::Library`] for a number that this version's table does not have.
    fn dtype(&self, number: i32) -> Result<Dtype, Error> {
        Dtype::ALL
            .iter()
            .copied()
            .find(|&d| self.data_type(d) == Some(number))
            .ok_or_else(|| Error::Library {
                library: self.loaded.title(),
                message: format!(
                    "it reports the element type {number}, which this version does not have"
                ),
            })
    }
}

/// How an object is reached.
#[derive(Clone, Copy)]
enum Kind {
    /// A handle `{ vtable, mImpl }`; calls go to `mImpl`, and slot 1 of the handle's own vtable deletes it.
    Handle,
    /// A plain virtual class; calls and the deleting destructor are in its own vtable.
    Plain { deleting_dtor: u16 },
}

/// Offset of `mImpl` in a handle; the same in every release.
const IMPL_OFFSET: usize = 8;
/// Slot of the deleting destructor in a handle's own vtable; the same in every release.
const HANDLE_DELETE: u16 = 1;

/// An object of TensorRT that we own and delete.
struct Owned {
    ptr: NonNull<c_void>,
    kind: Kind,
    core: Arc<Core>,
}

impl Owned {
    /// Takes over a handle that a call just returned.
    fn handle(core: &Arc<Core>, ptr: *mut c_void, what: &str) -> Result<Owned, Error> {
        Ok(Owned {
            ptr: core.non_null(ptr, what)?,
            kind: Kind::Handle,
            core: Arc::clone(core),
        })
    }

    /// What calls are made on.
    #[allow(unsafe_code)]
    fn this(&self) -> *mut c_void {
        match self.kind {
            // SAFETY: `ptr` is a live handle of this library, and those are `{ vtable, mImpl }` in every release.
            Kind::Handle => unsafe { implementation(self.ptr) },
            Kind::Plain { .. } => self.ptr.as_ptr(),
        }
    }
}

impl Drop for Owned {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        let slot = match self.kind {
            Kind::Handle => HANDLE_DELETE,
            Kind::Plain { deleting_dtor } => deleting_dtor,
        };
        // SAFETY: `ptr` is live and ours alone; the slot is its deleting destructor; what it depends on is still alive,
        // because owners hold it in fields that are dropped after this one.
        unsafe {
            let delete: unsafe extern "C" fn(*mut c_void) =
                std::mem::transmute::<*const c_void, _>(vtable_slot(self.ptr.as_ptr(), slot));
            delete(self.ptr.as_ptr());
        }
    }
}

/// The `mImpl` of a handle.
///
/// # Safety
/// `handle` is a live handle `{ vtable, mImpl }`.
#[allow(unsafe_code)]
unsafe fn implementation(handle: NonNull<c_void>) -> *mut c_void {
    // SAFETY: the caller vouches for the layout.
    unsafe {
        handle
            .as_ptr()
            .byte_add(IMPL_OFFSET)
            .cast::<*mut c_void>()
            .read()
    }
}

/// Function `slot` of the vtable that the first word of `this` points to.
///
/// # Safety
/// `this` is a live C++ object whose vtable has that slot.
#[allow(unsafe_code)]
unsafe fn vtable_slot(this: *mut c_void, slot: u16) -> *const c_void {
    // SAFETY: the caller vouches for the object and the slot.
    unsafe {
        let table = this.cast::<*const *const c_void>().read();
        table.add(usize::from(slot)).read()
    }
}

/// Calls a virtual function: `call!(core, this, group.slot as fn(args: types) -> ret)`. Evaluates to
/// `Result<ret, Error>`; the error is that this version has no such slot.
///
/// `this` must be a live object of the class that `group` describes and the types those of its header; that is what makes the
/// `unsafe` in the expansion hold, together with the slot being looked up in the table of the library's own version.
macro_rules! call {
    ($core:expr, $this:expr, $group:ident.$slot:ident as fn($($arg:expr => $ty:ty),*) $(-> $ret:ty)?) => {{
        let core: &$crate::engine::tensorrt::api::Core = $core;
        let this: *mut std::ffi::c_void = $this;
        core.number(&core.table().$group.$slot, concat!(stringify!($group), ".", stringify!($slot))).map(|slot| {
            #[allow(unsafe_code)]
            // SAFETY: see the macro's own documentation.
            unsafe {
                let function: unsafe extern "C" fn(*mut std::ffi::c_void $(, $ty)*) $(-> $ret)? =
                    std::mem::transmute::<*const std::ffi::c_void, _>(
                        $crate::engine::tensorrt::api::vtable_slot(this, slot),
                    );
                function(this $(, $arg)*)
            }
        })
    }};
}
use call;

/// A C string for a call.
///
/// # Errors
/// [`Error::Library`] for a name with a zero byte, which C cannot carry.
fn c_string(core: &Core, name: &str) -> Result<CString, Error> {
    CString::new(name).map_err(|_| Error::Library {
        library: core.loaded.title(),
        message: format!("the name `{}` holds a zero byte", name.escape_debug()),
    })
}

/// A path as the library opens it: its bytes, which need not be text.
///
/// # Errors
/// For a path with a zero in it.
fn c_path(core: &Core, path: &std::path::Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| Error::Library {
        library: core.loaded.title(),
        message: format!("the path `{}` holds a zero byte", path.display()),
    })
}

/// A copy of a C string that TensorRT returned; `None` for null.
///
/// # Safety
/// `ptr` is null or a zero-terminated string that stays alive during the call.
#[allow(unsafe_code)]
unsafe fn text(ptr: *const c_char) -> Option<String> {
    // SAFETY: the caller vouches for the string.
    (!ptr.is_null()).then(|| {
        unsafe { CStr::from_ptr(ptr) }
            .to_string_lossy()
            .into_owned()
    })
}

/// Reads `{ rank, extents }` into extents; `None` is TensorRT's "invalid" (rank -1).
fn extents(rank: i32, all: impl IntoIterator<Item = i64>) -> Option<Vec<i64>> {
    let rank = usize::try_from(rank).ok()?;
    Some(all.into_iter().take(rank).collect())
}

/// Calls a method that returns `Dims`, in the width that this release has.
macro_rules! dims_call {
    ($core:expr, $this:expr, $group:ident.$slot:ident as fn($($arg:expr => $ty:ty),*)) => {
        match $core.form().dims {
            $crate::engine::tensorrt::releases::DimsForm::Narrow => {
                $crate::engine::tensorrt::api::call!($core, $this, $group.$slot as fn($($arg => $ty),*) -> $crate::engine::tensorrt::releases::Dims32)
                    .map(|d| $crate::engine::tensorrt::api::extents(d.rank, d.extents.map(i64::from)))
            }
            $crate::engine::tensorrt::releases::DimsForm::Wide => {
                $crate::engine::tensorrt::api::call!($core, $this, $group.$slot as fn($($arg => $ty),*) -> $crate::engine::tensorrt::releases::Dims64)
                    .map(|d| $crate::engine::tensorrt::api::extents(d.rank, d.extents))
            }
        }
    };
}
use dims_call;

/// `extents` as the wide or narrow `Dims`.
///
/// # Errors
/// A sentence when there are more than eight, or one does not fit.
fn to_dims<D, T: Copy + Default + TryFrom<usize>>(
    shape: &[usize],
    make: impl Fn(i32, [T; super::releases::MAX_DIMS]) -> D,
) -> Result<D, String> {
    let mut all = [T::default(); super::releases::MAX_DIMS];
    if shape.len() > all.len() {
        return Err(format!(
            "it has {} axes, and TensorRT takes at most {}",
            shape.len(),
            all.len()
        ));
    }
    for (to, &from) in all.iter_mut().zip(shape) {
        *to = T::try_from(from)
            .map_err(|_| format!("the size {from} is too large for this version"))?;
    }
    Ok(make(shape.len() as i32, all))
}

impl Core {
    /// Version of the loaded library.
    pub fn version(&self) -> Version {
        self.loaded.version
    }
}
