//! `nvinfer1::IProfiler` made in Rust: what each layer took.

use super::Core;
use super::logger::{cpp, nothing};
use crate::engine::tensorrt::releases::{InterfaceInfo, ProfilerForm};
use std::ffi::{c_char, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The object that an execution context is given. Its address must not change while the context may call it.
#[repr(C)]
pub struct Profiler {
    vtable: *const c_void,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In the order of the first run.
    layers: Vec<(String, Vec<Duration>)>,
    /// Which layer is told next.
    next: usize,
}

type Report = unsafe extern "C" fn(*const Profiler, *const c_char, f32);

/// Functions of the plain form, in order.
#[repr(C)]
struct Plain {
    report: Report,
    complete_dtor: extern "C" fn(*mut c_void),
    deleting_dtor: extern "C" fn(*mut c_void),
}

/// Functions of the versioned form, in order.
#[repr(C)]
struct Versioned {
    api_language: extern "C" fn(*const c_void) -> i32,
    interface_info: extern "C" fn(*const c_void) -> InterfaceInfo,
    complete_dtor: extern "C" fn(*mut c_void),
    deleting_dtor: extern "C" fn(*mut c_void),
    report: Report,
}

static PLAIN: Plain = Plain {
    report,
    complete_dtor: nothing,
    deleting_dtor: nothing,
};
static VERSIONED: Versioned = Versioned {
    api_language: cpp,
    interface_info,
    complete_dtor: nothing,
    deleting_dtor: nothing,
    report,
};

extern "C" fn interface_info(_: *const c_void) -> InterfaceInfo {
    InterfaceInfo {
        kind: c"IProfiler".as_ptr(),
        major: 1,
        minor: 0,
    }
}

/// Called once a layer and run, in the order of execution. Names need not differ: the place in a run tells layers apart.
#[allow(unsafe_code)]
unsafe extern "C" fn report(this: *const Profiler, name: *const c_char, ms: f32) {
    // SAFETY: TensorRT gives the profiler that it was lent, which lives as long as the context, and a zero-terminated string that
    // lives as long as the call; the state is behind a lock.
    let (this, name) = unsafe { (&*this, super::text(name)) };
    let name = name.unwrap_or_default();
    let time = Duration::from_secs_f32(ms.max(0.0) / 1000.0);
    let mut state = this.lock();
    let at = state.next;
    state.next += 1;
    match state.layers.get_mut(at) {
        Some((known, times)) if *known == name => times.push(time),
        // Another shape may run other layers.
        _ => match state.layers.iter().position(|(known, _)| *known == name) {
            Some(other) => state.layers[other].1.push(time),
            None => state.layers.push((name, vec![time])),
        },
    }
}

impl Profiler {
    /// A profiler of the form that the library takes.
    pub fn new(core: &Core) -> Box<Profiler> {
        Box::new(Profiler {
            vtable: match core.form().profiler {
                ProfilerForm::Plain => std::ptr::from_ref(&PLAIN).cast(),
                ProfilerForm::Versioned => std::ptr::from_ref(&VERSIONED).cast(),
            },
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn as_ptr(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// A run is over: what is told next is the first layer's.
    pub fn end_of_run(&self) {
        self.lock().next = 0;
    }

    /// The layers in the order of the first run, with one time a run.
    pub fn times(&self) -> Vec<(String, Vec<Duration>)> {
        self.lock().layers.clone()
    }
}
