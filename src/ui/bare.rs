//! The streams without Rust's runtime: before `main`, where it would hide a closed stdout, and at an end that may not allocate.

use super::Error;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

static STDOUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether stdout is there at all.
///
/// # Errors
/// [`Error::Stdout`] where the process was started without one: a result that goes nowhere is no result.
pub fn check_streams() -> Result<(), Error> {
    if STDOUT_WAS_CLOSED.load(Ordering::Relaxed) {
        return Err(Error::Stdout(io::Error::other("it is closed")));
    }
    Ok(())
}

/// Looks at stdout before Rust's runtime opens `/dev/null` in its place.
extern "C" fn look() {
    let closed = rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_err();
    STDOUT_WAS_CLOSED.store(closed, Ordering::Relaxed);
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
// SAFETY: the system's loader calls each function in this section once, before `main`, with no other thread; this one makes one
// call into the kernel and needs nothing of Rust's runtime.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// Prints a failure without allocating and without a lock that anybody may hold. The texts are printed as they are.
pub fn last_words(json: bool, code: &str, exit_code: u8, message: &str, hint: &str) {
    let digits = [b'0' + exit_code / 10, b'0' + exit_code % 10];
    let digits = if exit_code < 10 {
        &digits[1..]
    } else {
        &digits[..]
    };
    let (out, parts): (_, [&[u8]; 9]) = if json {
        let out = rustix::stdio::stdout();
        let parts: [&[u8]; 9] = [
            b"{\n  \"schema\": \"trtmut.error/1\",\n  \"code\": \"",
            code.as_bytes(),
            b"\",\n  \"exit_code\": ",
            digits,
            b",\n  \"message\": \"",
            message.as_bytes(),
            b"\",\n  \"causes\": [],\n  \"hints\": [\n    \"",
            hint.as_bytes(),
            b"\"\n  ]\n}\n",
        ];
        (out, parts)
    } else {
        let out = rustix::stdio::stderr();
        let parts: [&[u8]; 9] = [
            b"error: ",
            message.as_bytes(),
            b"\nhint: ",
            hint.as_bytes(),
            b"\n",
            b"",
            b"",
            b"",
            b"",
        ];
        (out, parts)
    };
    for part in parts {
        // There is nowhere left to say that this failed.
        let _ = rustix::io::write(out, part);
    }
}
