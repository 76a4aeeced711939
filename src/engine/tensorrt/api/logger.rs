//! `nvinfer1::ILogger` made in Rust: a C++ object whose functions collect messages.

use crate::engine::tensorrt::releases::{InterfaceInfo, LoggerForm};
use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, PoisonError};

/// `ILogger::Severity`; the numbers are the same in every release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// An error of TensorRT's own making; what was asked for is lost.
    Internal,
    /// What was asked for failed.
    Error,
    /// Something was repaired or may surprise.
    Warning,
    /// What is going on.
    Info,
    /// Details for TensorRT's developers.
    Verbose,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub severity: Severity,
    pub text: String,
}

/// How many messages are kept; the newest win.
const KEPT: usize = 256;

/// The object that TensorRT is given. Its address must not change, and it must outlive every object that got it.
#[repr(C)]
pub(super) struct Logger {
    vtable: *const c_void,
    messages: Mutex<VecDeque<Message>>,
}

type Log = unsafe extern "C" fn(*const Logger, i32, *const c_char);

/// Functions of the plain form, in order.
#[repr(C)]
struct Plain {
    log: Log,
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
    log: Log,
}

static PLAIN: Plain = Plain {
    log,
    complete_dtor: nothing,
    deleting_dtor: nothing,
};
static VERSIONED: Versioned = Versioned {
    api_language: cpp,
    interface_info,
    complete_dtor: nothing,
    deleting_dtor: nothing,
    log,
};

/// TensorRT never deletes what it was lent; we do.
pub(super) extern "C" fn nothing(_: *mut c_void) {}

/// Says `APILanguage::kCPP` (`NvInferRuntimeBase.h`): these objects pass for C++.
pub(super) extern "C" fn cpp(_: *const c_void) -> i32 {
    0
}

extern "C" fn interface_info(_: *const c_void) -> InterfaceInfo {
    InterfaceInfo {
        kind: c"ILogger".as_ptr(),
        major: 1,
        minor: 0,
    }
}

/// `ILogger::log`. TensorRT calls it from any of its threads.
#[allow(unsafe_code)]
unsafe extern "C" fn log(this: *const Logger, severity: i32, text: *const c_char) {
    let severity = match severity {
        i32::MIN..=0 => Severity::Internal,
        1 => Severity::Error,
        2 => Severity::Warning,
        3 => Severity::Info,
        // Thousands a second during a build: not worth a copy.
        _ => return,
    };
    if this.is_null() || text.is_null() {
        return;
    }
    // SAFETY: `this` is the object that `Logger::new` made, alive as long as any object that calls it; only shared access is
    // taken, and the messages are behind a lock. `text` is a zero-terminated string for the time of the call.
    let (logger, text) = unsafe { (&*this, CStr::from_ptr(text)) };
    let text = text.to_string_lossy().trim_end().to_owned();
    let mut messages = logger
        .messages
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if messages.len() == KEPT {
        messages.pop_front();
    }
    messages.push_back(Message { severity, text });
}

impl Logger {
    /// Its owner gives it a fixed address before it lends it.
    pub(super) fn new(form: LoggerForm) -> Logger {
        let vtable = match form {
            LoggerForm::Plain => std::ptr::from_ref(&PLAIN).cast(),
            LoggerForm::Versioned => std::ptr::from_ref(&VERSIONED).cast(),
        };
        Logger {
            vtable,
            messages: Mutex::default(),
        }
    }

    /// What TensorRT's factories take.
    pub(super) fn as_ptr(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// All messages, oldest first; they are gone then.
    pub(super) fn take(&self) -> Vec<Message> {
        self.messages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .collect()
    }
}

// SAFETY: the vtable pointer goes to a static that is never written, and the messages are behind a lock.
#[allow(unsafe_code)]
unsafe impl Send for Logger {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Logger {}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use super::*;

    /// Calls `log` through the object's table, as TensorRT does.
    fn through_table(logger: &Logger, slot: usize, severity: i32, text: &CStr) {
        // SAFETY: `slot` holds `log` in the form under test.
        unsafe {
            let table = *logger.as_ptr().cast::<*const Log>();
            (*table.add(slot))(std::ptr::from_ref(logger), severity, text.as_ptr());
        }
    }

    #[test]
    fn both_forms_reach_the_same_function() {
        for (form, slot) in [(LoggerForm::Plain, 0), (LoggerForm::Versioned, 4)] {
            let logger = Logger::new(form);
            through_table(&logger, slot, 1, c"bad weights\n");
            through_table(&logger, slot, 4, c"not kept");
            let expected = Message {
                severity: Severity::Error,
                text: "bad weights".into(),
            };
            assert_eq!(logger.take(), [expected]);
            assert!(logger.take().is_empty());
        }
    }

    #[test]
    fn many_threads_may_log_and_the_newest_are_kept() {
        let logger = Logger::new(LoggerForm::Plain);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..200).for_each(|_| through_table(&logger, 0, 2, c"w")));
            }
        });
        through_table(&logger, 0, 0, c"last");
        let all = logger.take();
        assert_eq!(
            (all.len(), all[KEPT - 1].severity),
            (KEPT, Severity::Internal)
        );
    }
}
