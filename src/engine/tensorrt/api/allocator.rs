//! `nvinfer1::IOutputAllocator` made in Rust: memory for an output whose size is known only once its values are.

use super::Core;
use super::logger::{cpp, nothing};
use crate::engine::tensorrt::releases::{AllocatorForm, Dims32, Dims64, DimsForm, InterfaceInfo};
use std::ffi::{c_char, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the memory comes from.
pub trait OutputMemory {
    /// The address of at least `size` bytes of device memory, which stays good until the next call; `None` where there is not
    /// enough.
    fn reserve(&mut self, size: usize) -> Option<u64>;
}

/// The object that an execution context is given for one output. Its address must not change while the context may call it.
#[repr(C)]
pub struct OutputAllocator<M> {
    vtable: *const c_void,
    dims: DimsForm,
    state: Mutex<State<M>>,
}

struct State<M> {
    memory: M,
    shape: Option<Vec<usize>>,
}

type Reallocate<M> =
    unsafe extern "C" fn(*const OutputAllocator<M>, *const c_char, *mut c_void, u64, u64) -> u64;
type ReallocateAsync<M> = unsafe extern "C" fn(
    *const OutputAllocator<M>,
    *const c_char,
    *mut c_void,
    u64,
    u64,
    *mut c_void,
) -> u64;
type Notify<M> = unsafe extern "C" fn(*const OutputAllocator<M>, *const c_char, *const c_void);

/// Functions of the plain form, in order.
#[repr(C)]
struct Plain<M> {
    version: extern "C" fn(*const c_void) -> i32,
    reallocate: Reallocate<M>,
    notify: Notify<M>,
    complete_dtor: extern "C" fn(*mut c_void),
    deleting_dtor: extern "C" fn(*mut c_void),
}

/// Functions of the versioned form, in order.
#[repr(C)]
struct Versioned<M> {
    api_language: extern "C" fn(*const c_void) -> i32,
    interface_info: extern "C" fn(*const c_void) -> InterfaceInfo,
    complete_dtor: extern "C" fn(*mut c_void),
    deleting_dtor: extern "C" fn(*mut c_void),
    reallocate: Reallocate<M>,
    reallocate_async: ReallocateAsync<M>,
    notify: Notify<M>,
}

/// Functions of the form of TensorRT-RTX, in order.
#[repr(C)]
struct AsyncOnly<M> {
    api_language: extern "C" fn(*const c_void) -> i32,
    interface_info: extern "C" fn(*const c_void) -> InterfaceInfo,
    complete_dtor: extern "C" fn(*mut c_void),
    deleting_dtor: extern "C" fn(*mut c_void),
    reallocate_async: ReallocateAsync<M>,
    notify: Notify<M>,
}

/// `IOutputAllocator::getInterfaceVersion` of 8.5 to 9.3 (`NvInferRuntime.h`).
extern "C" fn version(_: *const c_void) -> i32 {
    1
}

extern "C" fn interface_info(_: *const c_void) -> InterfaceInfo {
    InterfaceInfo {
        kind: c"IOutputAllocator".as_ptr(),
        major: 1,
        minor: 0,
    }
}

/// 0 is null, from which TensorRT concludes that there is not enough memory.
#[allow(unsafe_code)]
unsafe extern "C" fn reallocate<M: OutputMemory>(
    this: *const OutputAllocator<M>,
    _: *const c_char,
    _: *mut c_void,
    size: u64,
    _alignment: u64,
) -> u64 {
    // SAFETY: TensorRT gives the allocator that it was lent, which lives as long as the context; the state is behind a lock.
    // Device memory comes aligned to 256 bytes at least, which is what TensorRT asks for at most.
    let this = unsafe { &*this };
    // An output without elements wants an address too.
    usize::try_from(size)
        .ok()
        .and_then(|n| this.lock().memory.reserve(n.max(1)))
        .unwrap_or(0)
}

#[allow(unsafe_code)]
unsafe extern "C" fn reallocate_async<M: OutputMemory>(
    this: *const OutputAllocator<M>,
    name: *const c_char,
    current: *mut c_void,
    size: u64,
    alignment: u64,
    _stream: *mut c_void,
) -> u64 {
    // SAFETY: the same call; memory that is there at once is there in the stream's order too.
    unsafe { reallocate(this, name, current, size, alignment) }
}

#[allow(unsafe_code)]
unsafe extern "C" fn notify<M>(
    this: *const OutputAllocator<M>,
    _: *const c_char,
    dims: *const c_void,
) {
    // SAFETY: as above; `dims` points to the release's form of `Dims` for the time of the call.
    let (this, shape) = unsafe {
        let this = &*this;
        let shape = match this.dims {
            DimsForm::Narrow => {
                let d = &*dims.cast::<Dims32>();
                super::extents(d.rank, d.extents.map(i64::from))
            }
            DimsForm::Wide => {
                let d = &*dims.cast::<Dims64>();
                super::extents(d.rank, d.extents)
            }
        };
        (this, shape)
    };
    let known = |all: Vec<i64>| all.into_iter().map(|e| usize::try_from(e).ok()).collect();
    this.lock().shape = shape.and_then(known);
}

impl<M: OutputMemory> OutputAllocator<M> {
    const PLAIN: Plain<M> = Plain {
        version,
        reallocate,
        notify,
        complete_dtor: nothing,
        deleting_dtor: nothing,
    };
    const VERSIONED: Versioned<M> = Versioned {
        api_language: cpp,
        interface_info,
        complete_dtor: nothing,
        deleting_dtor: nothing,
        reallocate,
        reallocate_async,
        notify,
    };
    const ASYNC_ONLY: AsyncOnly<M> = AsyncOnly {
        api_language: cpp,
        interface_info,
        complete_dtor: nothing,
        deleting_dtor: nothing,
        reallocate_async,
        notify,
    };

    /// An allocator of the form that the library takes.
    pub fn new(core: &Core, memory: M) -> Box<OutputAllocator<M>>
    where
        M: 'static,
    {
        let vtable = match core.form().allocator {
            AllocatorForm::Plain => std::ptr::from_ref(const { &Self::PLAIN }).cast(),
            AllocatorForm::Versioned => std::ptr::from_ref(const { &Self::VERSIONED }).cast(),
            AllocatorForm::AsyncOnly => std::ptr::from_ref(const { &Self::ASYNC_ONLY }).cast(),
        };
        Box::new(OutputAllocator {
            vtable,
            dims: core.form().dims,
            state: Mutex::new(State {
                memory,
                shape: None,
            }),
        })
    }
}

impl<M> OutputAllocator<M> {
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn as_ptr(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// What the last run said of the output's shape, once: `None` where it said nothing.
    pub fn take_shape(&self) -> Option<Vec<usize>> {
        self.lock().shape.take()
    }

    /// Does something with the memory that was reserved.
    pub fn with_memory<T>(&self, use_it: impl FnOnce(&mut M) -> T) -> T {
        use_it(&mut self.lock().memory)
    }
}
