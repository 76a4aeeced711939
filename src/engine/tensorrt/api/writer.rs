//! `nvinfer1::IStreamWriter` made in Rust: a plan goes out as it is made.

use super::logger::{cpp, nothing};
use crate::engine::tensorrt::abi::InterfaceInfo;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::io::{self, Write};
use std::thread::ThreadId;

/// The object that `buildSerializedNetworkToStream` is given for the time of one call.
#[repr(C)]
pub(super) struct Writer<'w> {
    vtable: &'static Functions,
    out: RefCell<&'w mut dyn Write>,
    /// The first error, for the caller: TensorRT only learns that a write failed.
    error: Cell<Option<io::Error>>,
    /// `out` need not be `Send`, so only the thread that made this may write.
    thread: ThreadId,
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

/// Writes everything or returns -1, from which TensorRT concludes that the build failed.
#[allow(unsafe_code)]
unsafe extern "C" fn write(this: *const Writer<'_>, data: *const u8, size: i64) -> i64 {
    let Ok(len) = usize::try_from(size) else {
        return -1;
    };
    // SAFETY: TensorRT gives the writer that `Writer::new` made, during the call that it was lent to; the thread's id is
    // never written.
    if unsafe { (*this).thread } != std::thread::current().id() {
        return -1;
    }
    // SAFETY: as above, now on the thread that owns it, with `size` readable bytes.
    let (this, data) = unsafe {
        (
            &*this,
            if len == 0 {
                &[][..]
            } else {
                std::slice::from_raw_parts(data, len)
            },
        )
    };
    let Ok(mut out) = this.out.try_borrow_mut() else {
        return -1;
    };
    match out.write_all(data) {
        Ok(()) => size,
        Err(e) => {
            this.error.set(Some(e));
            -1
        }
    }
}

impl<'w> Writer<'w> {
    /// A writer into `out`.
    pub(super) fn new(out: &'w mut dyn Write) -> Writer<'w> {
        Writer {
            vtable: &FUNCTIONS,
            out: RefCell::new(out),
            error: Cell::new(None),
            thread: std::thread::current().id(),
        }
    }

    /// What the build call takes.
    pub(super) fn as_ptr(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// Why a write failed, if one did.
    pub(super) fn into_error(self) -> Option<io::Error> {
        self.error.into_inner()
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

    #[test]
    fn bytes_arrive_and_a_full_disk_is_told() {
        let mut out = Vec::new();
        let writer = Writer::new(&mut out);
        assert_eq!(
            (
                send(&writer, b"pl"),
                send(&writer, b"an"),
                send(&writer, b"")
            ),
            (2, 2, 0)
        );
        assert!(writer.into_error().is_none());
        assert_eq!(out, b"plan");
        let mut full = Full;
        let writer = Writer::new(&mut full);
        assert_eq!(send(&writer, b"plan"), -1);
        assert_eq!(
            writer.into_error().unwrap().kind(),
            io::ErrorKind::StorageFull
        );
    }
}
