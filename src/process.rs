//! What surrounds a command: its memory, its stack and its threads, signals, panics, and streams that nobody reads.

use crate::commands;
use crate::exit::Exit;
use crate::ui::Ui;
use crate::{children, fsx, memory};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stack of the thread that the command runs on, in bytes. Graphs are walked by recursion in places, here and in the embedded engine:
/// a chain of a million nodes fits. It is address space; memory is taken only for what is used.
const STACK: usize = 1 << 30;

/// Stack of every other thread, in bytes: the embedded engine walks graphs on threads of its own.
const OTHER_STACKS: &str = "268435456";

static JSON: AtomicBool = AtomicBool::new(false);

/// Sets what libraries read from the environment. To be called first: once there is a second thread, nothing is done.
pub fn prepare() {
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if !alone {
        return;
    }
    let variables = [
        // onnxruntime writes a device's number into the home folder otherwise, whatever its interface was told.
        ("ORT_DISABLE_TELEMETRY", "1"),
        ("RUST_MIN_STACK", OTHER_STACKS),
    ];
    for (name, value) in variables {
        if std::env::var_os(name).is_none() {
            #[allow(unsafe_code)]
            // SAFETY: this is the only thread, so nobody reads the environment meanwhile.
            unsafe {
                std::env::set_var(name, value);
            }
        }
    }
}

/// Runs `work` as a command of the program runs. `memory` is the limit that the user set, in bytes.
pub fn run(
    json: bool,
    memory_limit: Option<u64>,
    work: impl FnOnce() -> ExitCode + Send,
) -> ExitCode {
    JSON.store(json, Ordering::Relaxed);
    fsx::guard_sources();
    memory::share_arenas();
    if let Some(bytes) = memory_limit.or_else(memory::available) {
        memory::limit(usize::try_from(bytes).unwrap_or(usize::MAX), out_of_memory);
    }
    if memory_limit.is_some() {
        memory::state_limit();
    }
    raise_open_files();
    note_panics();
    end_on_signals();
    let work = || {
        let work = || {
            start_threads();
            work()
        };
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| say_panic(json, payload))
    };
    with_stack(work)
}

/// Runs `work` on a thread with a deep stack; where there can be no such thread, on this one.
fn with_stack(work: impl FnOnce() -> ExitCode + Send) -> ExitCode {
    let work = Mutex::new(Some(work));
    let take = || {
        let work = work.lock().ok().and_then(|mut w| w.take());
        work.map_or(Exit::Bug.into(), |work| work())
    };
    for stack in [STACK, STACK / 8] {
        let done = std::thread::scope(|scope| {
            let builder = std::thread::Builder::new()
                .name("main".into())
                .stack_size(stack);
            let thread = builder.spawn_scoped(scope, take).ok()?;
            Some(thread.join().unwrap_or(Exit::Bug.into()))
        });
        if let Some(exit) = done {
            return exit;
        }
    }
    take()
}

/// One pool of threads for all; where they cannot be made, everything happens on one.
fn start_threads() {
    // A pool for all that fails once cannot be had again, so it is tried with one for nobody.
    if rayon::ThreadPoolBuilder::new().build().is_err() {
        let _ = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .use_current_thread()
            .build_global();
    }
}

/// A model may have its weights in thousands of files.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Where the last panic was, for [`say_panic`].
static PLACE: Mutex<String> = Mutex::new(String::new());

/// Notes where a panic happens, and prints nothing unless a trace is asked for: one that is caught, as the embedded engine's are, is an
/// ordinary error.
fn note_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v != "0") {
            usual(info);
        }
        if let (Ok(mut place), Some(l)) = (PLACE.lock(), info.location()) {
            *place = format!("{}:{}", l.file(), l.line());
        }
    }));
}

/// Reports what ended the command in the middle: an error of reading, which comes this way, or a bug. One failure, as for any other.
fn say_panic(json: bool, payload: Box<dyn Any + Send>) -> ExitCode {
    let error = match payload.downcast::<fsx::Error>() {
        Ok(error) => anyhow::Error::new(*error),
        Err(payload) => {
            let text = (payload.downcast_ref::<&str>().map(ToString::to_string))
                .or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "it ended without a message".into());
            if text.contains("failed to spawn thread") || text.contains("ThreadPoolBuildError") {
                commands::Exhausted::Threads(text).into()
            } else if text == "capacity overflow" {
                commands::Exhausted::Memory.into()
            } else {
                let place = PLACE.lock().map_or_else(|_| String::new(), |p| p.clone());
                anyhow::anyhow!("{text} ({place})")
            }
        }
    };
    let failure = commands::explain(&error);
    Ui::new(json, crate::ui::Verbosity::Quiet, false).failure(&failure);
    failure.exit().into()
}

/// Ends the process on SIGINT, SIGTERM and SIGHUP, without leaving temporary files or processes behind; a full disk or a limit on file sizes is an
/// error of the write that meets it.
fn end_on_signals() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    let ignored = std::sync::Arc::new(AtomicBool::new(false));
    let _ = signal_hook::flag::register(SIGXFSZ, ignored);
    // Without a thread to wait for them, signals do what they always do.
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) else {
        return;
    };
    let waiting = std::thread::Builder::new().spawn(move || {
        if let Some(signal) = signals.forever().next() {
            children::end(signal);
            fsx::abandon();
            end_now(128 + signal);
        }
    });
    if waiting.is_err() {
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let _ = signal_hook::flag::register_conditional_default(
                signal,
                std::sync::Arc::new(AtomicBool::new(true)),
            );
        }
    }
}

/// Ends the process at once: other threads are in the middle of something, and must not be waited for.
fn end_now(code: i32) -> ! {
    #[allow(unsafe_code)]
    // SAFETY: `_exit` may be called at any time, and does not return.
    unsafe {
        libc::_exit(code)
    }
}

/// Says that memory is not enough, and ends the process.
fn out_of_memory(message: &str) {
    const HINT: &str = "take smaller shapes, free some memory, or raise the limit with --memory";
    fsx::abandon();
    let code = Exit::Environment as u8;
    crate::ui::last_words(
        JSON.load(Ordering::Relaxed),
        "out-of-memory",
        code,
        message,
        HINT,
    );
    end_now(i32::from(code));
}
