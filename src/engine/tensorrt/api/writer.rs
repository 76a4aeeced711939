//! `nvinfer1::IStreamWriter` made in Rust: a plan goes out as it is made.
//!
//! The headers do not say which thread writes. What the thread of the build writes goes out at once; what another one writes is
//! kept until the former writes next or the build is over, because the sink need not be one that threads can share.

use super::logger::{cpp, nothing};
use crate::engine::tensorrt::releases::InterfaceInfo;
use std::cell::RefCell;
use std::ffi::c_void;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::thread::ThreadId;

/// The object that `buildSerializedNetworkToStream` is given for the time of one call.
#[repr(C)]
pub(super) struct Writer<'w> {
    vtable: &'static Functions,
    /// Only ever reached by `thread`.
    out: RefCell<&'w mut dyn Write>,
    thread: ThreadId,
    state: Mutex<State>,
}

/// What every thread may reach.
#[derive(Default)]
struct State {
    /// Bytes of other threads that are to go out next.
    waiting: Vec<u8>,
    /// The first error, for the caller: TensorRT only learns that a write failed.
    error: Option<io::Error>,
}

/// Its functions, in order.
#[repr(C)]
struct Functions {
    api_language: extern "C" fn(*const c_void) -> i32,
    interface_info: extern "C" fn(*const c_void) -> InterfaceInfo,
    complete_dtor: extern "C" fn(*mut c_void),
    deleting_dtor: extern "C" fn(*mut c_void),
    write: unsafe extern "C" fn(*const Writer<'_>, *const u8, i64) -> i64,
}

static FUNCTIONS: Functions = Functions {
    api_language: cpp,
    interface_info,
    complete_dtor: nothing,
    deleting_dtor: nothing,
    write,
};

extern "C" fn interface_info(_: *const c_void) -> InterfaceInfo {
    InterfaceInfo {
        kind: c"IStreamWriter".as_ptr(),
        major: 1,
        minor: 0,
    }
}

/// Takes everything or returns -1, from which TensorRT concludes that the build failed.
#[allow(unsafe_code)]
unsafe extern "C" fn write(this: *const Writer<'_>, data: *const u8, size: i64) -> i64 {
    let Ok(len) = usize::try_from(size) else {
        return -1;
    };
    // SAFETY: TensorRT gives the writer that `Writer::new` made, during the call that it was lent to. The thread's id is never
    // written and the state is behind a lock, so any thread may reach them.
    let (owner, state) = unsafe { (&(*this).thread, &(*this).state) };
    let data = if len == 0 {
        &[][..]
    } else {
        // SAFETY: TensorRT passes `size` readable bytes.
        unsafe { std::slice::from_raw_parts(data, len) }
    };
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    if state.error.is_some() {
        return -1;
    }
    if *owner != std::thread::current().id() {
        state.waiting.extend_from_slice(data);
        return size;
    }
    // SAFETY: as above, and this is the thread that owns `out`.
    let Ok(mut out) = (unsafe { (*this).out.try_borrow_mut() }) else {
        return -1;
    };
    match state.send(&mut **out, data) {
        Ok(()) => size,
        Err(e) => {
            state.error = Some(e);
            -1
        }
    }
}

impl State {
    fn send(&mut self, out: &mut dyn Write, data: &[u8]) -> io::Result<()> {
        out.write_all(&std::mem::take(&mut self.waiting))?;
        out.write_all(data)
    }
}

impl<'w> Writer<'w> {
    /// A writer into `out`, for the build that this thread is about to call.
    pub(super) fn new(out: &'w mut dyn Write) -> Writer<'w> {
        Writer {
            vtable: &FUNCTIONS,
            out: RefCell::new(out),
            thread: std::thread::current().id(),
            state: Mutex::default(),
        }
    }

    /// What the build call takes.
    pub(super) fn as_ptr(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// Sends what is still waiting.
    ///
    /// # Errors
    /// Why a write failed, if one did.
    pub(super) fn finish(self) -> io::Result<()> {
        let mut state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        match state.error.take() {
            Some(e) => Err(e),
            None => state.send(self.out.into_inner(), &[]),
        }
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use super::*;

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn send(writer: &Writer<'_>, data: &[u8]) -> i64 {
        // SAFETY: the writer lives through the call and the bytes are there.
        unsafe {
            (writer.vtable.write)(std::ptr::from_ref(writer), data.as_ptr(), data.len() as i64)
        }
    }

    /// As [`send`], from a thread of TensorRT's own, which only has the address.
    fn send_elsewhere(writer: &Writer<'_>, data: &'static [u8]) -> i64 {
        let (address, write) = (std::ptr::from_ref(writer) as usize, writer.vtable.write);
        let thread = std::thread::spawn(move || {
            // SAFETY: the writer lives until this thread was waited for.
            unsafe {
                write(
                    address as *const Writer<'_>,
                    data.as_ptr(),
                    data.len() as i64,
                )
            }
        });
        thread.join().unwrap()
    }

    #[test]
    fn bytes_arrive_in_order_from_any_thread() {
        let mut out = Vec::new();
        let writer = Writer::new(&mut out);
        assert_eq!(send(&writer, b"a "), 2);
        assert_eq!(send_elsewhere(&writer, b"pl"), 2);
        assert_eq!(send_elsewhere(&writer, b"an"), 2);
        assert_eq!(send(&writer, b" is"), 3);
        assert_eq!(send_elsewhere(&writer, b" whole"), 6);
        assert_eq!(send(&writer, b""), 0);
        assert_eq!(send_elsewhere(&writer, b"."), 1);
        writer.finish().unwrap();
        assert_eq!(out, b"a plan is whole.");
    }

    #[test]
    fn a_full_disk_is_told_and_nothing_is_taken_after_it() {
        let mut full = Full;
        let writer = Writer::new(&mut full);
        assert_eq!(send(&writer, b"plan"), -1);
        assert_eq!(send_elsewhere(&writer, b"more"), -1);
        assert_eq!(
            writer.finish().unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        let mut full = Full;
        let writer = Writer::new(&mut full);
        assert_eq!(send_elsewhere(&writer, b"plan"), 4);
        assert_eq!(
            writer.finish().unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
    }
}
