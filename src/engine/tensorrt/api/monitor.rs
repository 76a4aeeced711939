//! `nvinfer1::IProgressMonitor` made in Rust: phases of a build as [`Watch`] events.

use super::logger::{cpp, nothing};
use crate::engine::tensorrt::releases::{InterfaceInfo, MonitorForm};
use crate::watch::{Event, Watch};
use std::ffi::{c_char, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The object that a builder config is given for the time of one build.
#[repr(C)]
pub(super) struct Monitor<'w> {
    vtable: *const c_void,
    watch: &'w dyn Watch,
    /// Names of the phases without a parent that are not finished.
    open: Mutex<Vec<String>>,
}

/// Its functions, in order; the plain form begins with the destructors.
#[repr(C)]
struct Functions {
    api_language: extern "C" fn(*const c_void) -> i32,
    interface_info: extern "C" fn(*const c_void) -> InterfaceInfo,
    complete_dtor: extern "C" fn(*mut c_void),
    deleting_dtor: extern "C" fn(*mut c_void),
    phase_start: unsafe extern "C" fn(*const Monitor<'_>, *const c_char, *const c_char, i32),
    step_complete: unsafe extern "C" fn(*const Monitor<'_>, *const c_char, i32) -> bool,
    phase_finish: unsafe extern "C" fn(*const Monitor<'_>, *const c_char),
}

static FUNCTIONS: Functions = Functions {
    api_language: cpp,
    interface_info,
    complete_dtor: nothing,
    deleting_dtor: nothing,
    phase_start,
    step_complete,
    phase_finish,
};

extern "C" fn interface_info(_: *const c_void) -> InterfaceInfo {
    InterfaceInfo {
        kind: c"IProgressMonitor".as_ptr(),
        major: 1,
        minor: 0,
    }
}

/// Phases nest. Those without a parent are reported as steps, with their own steps as progress; the ones inside them come by
/// the hundred and would only flicker.
#[allow(unsafe_code)]
unsafe extern "C" fn phase_start(
    this: *const Monitor<'_>,
    name: *const c_char,
    parent: *const c_char,
    steps: i32,
) {
    // SAFETY: TensorRT gives the monitor that `Monitor::new` made, during the build that it was lent to, and
    // zero-terminated strings that live as long as the call; `parent` is null for a phase on top.
    let (this, name, on_top) = unsafe { (&*this, name_of(name), parent.is_null()) };
    if on_top {
        this.event(Event::Begin {
            step: &name,
            total: u64::try_from(steps).ok(),
        });
        this.open().push(name);
    }
}

#[allow(unsafe_code)]
unsafe extern "C" fn step_complete(
    this: *const Monitor<'_>,
    name: *const c_char,
    _step: i32,
) -> bool {
    // SAFETY: as in `phase_start`.
    let (this, name) = unsafe { (&*this, name_of(name)) };
    let known = this.open().contains(&name);
    if known {
        this.event(Event::Advance(1));
    }
    // Go on building.
    true
}

#[allow(unsafe_code)]
unsafe extern "C" fn phase_finish(this: *const Monitor<'_>, name: *const c_char) {
    // SAFETY: as in `phase_start`.
    let (this, name) = unsafe { (&*this, name_of(name)) };
    let mut open = this.open();
    if let Some(at) = open.iter().rposition(|n| *n == name) {
        open.remove(at);
        drop(open);
        this.event(Event::End);
    }
}

/// # Safety
/// `name` is null or a zero-terminated string that lives as long as the call.
#[allow(unsafe_code)]
unsafe fn name_of(name: *const c_char) -> String {
    // SAFETY: the caller vouches for it.
    unsafe { super::text(name) }.unwrap_or_default()
}

impl<'w> Monitor<'w> {
    /// A monitor that reports to `watch`.
    pub(super) fn new(watch: &'w dyn Watch, form: MonitorForm) -> Monitor<'w> {
        Monitor {
            vtable: match form {
                MonitorForm::Plain => std::ptr::from_ref(&FUNCTIONS.complete_dtor).cast(),
                MonitorForm::Versioned => std::ptr::from_ref(&FUNCTIONS).cast(),
            },
            watch,
            open: Mutex::default(),
        }
    }

    fn event(&self, event: Event<'_>) {
        self.watch.event(event);
    }

    fn open(&self) -> MutexGuard<'_, Vec<String>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn as_ptr(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use super::*;

    struct Collect(Mutex<Vec<String>>);

    impl Watch for Collect {
        fn event(&self, event: Event<'_>) {
            self.0.lock().unwrap().push(format!("{event:?}"));
        }
    }

    #[test]
    fn phases_on_top_become_steps_and_those_inside_do_not() {
        let collect = Collect(Mutex::default());
        let monitor = Monitor::new(&collect, MonitorForm::Versioned);
        // SAFETY: the monitor lives through the calls, the strings are literals.
        unsafe {
            let functions = &**monitor.as_ptr().cast::<&Functions>();
            let this = std::ptr::from_ref(&monitor);
            (functions.phase_start)(this, c"Building".as_ptr(), std::ptr::null(), 2);
            (functions.phase_start)(this, c"Tactics".as_ptr(), c"Building".as_ptr(), 9);
            assert!((functions.step_complete)(this, c"Tactics".as_ptr(), 0));
            (functions.phase_finish)(this, c"Tactics".as_ptr());
            assert!((functions.step_complete)(this, c"Building".as_ptr(), 0));
            (functions.phase_finish)(this, c"Building".as_ptr());
        }
        let events = collect.0.into_inner().unwrap();
        assert_eq!(
            events,
            [
                r#"Begin { step: "Building", total: Some(2) }"#,
                "Advance(1)",
                "End"
            ]
        );
    }
}
