//! The GPU through the driver's own API: what is there, and the memory, streams and events that a run needs.

use super::told::Facts;
use crate::engine::Error;
use cudarc::driver::{CudaContext, DriverError, result::device, sys};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

/// The GPU that is used, its primary context held and current on the thread that opened it.
#[derive(Debug, Clone)]
pub struct Gpu {
    context: Arc<CudaContext>,
    facts: Facts,
}

/// Once opened, the primary context is kept until the process ends: TensorRT's own CUDA runtime lives in it, and would not
/// survive its being torn down and set up again.
static GPU: OnceLock<Result<Gpu, String>> = OnceLock::new();

/// Which GPU is used, by the driver's order (`CUDA_DEVICE_ORDER`, of those that `CUDA_VISIBLE_DEVICES` lets through).
static ORDINAL: AtomicU32 = AtomicU32::new(0);

/// Uses another GPU than the first. To be said before any is opened: a process uses one.
pub fn choose(ordinal: u32) {
    ORDINAL.store(ordinal, Ordering::Relaxed);
}

/// All GPUs, in the driver's order. None is opened.
///
/// # Errors
/// Why there is none, in one fragment.
pub fn all() -> Result<Vec<Facts>, String> {
    driver()?;
    let asked = |e: DriverError| match e.0 {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => "the driver finds no GPU".to_owned(),
        _ => format!("the GPU cannot be used: {}", describe(e)),
    };
    cudarc::driver::result::init().map_err(asked)?;
    let count = device::get_count().map_err(asked)?;
    (0..count).map(|i| Facts::of(i).map_err(asked)).collect()
}

/// The GPU that is used. It is not opened, which takes long.
///
/// # Errors
/// Why there is none, in one fragment.
pub fn chosen() -> Result<Facts, String> {
    let ordinal = ORDINAL.load(Ordering::Relaxed);
    let mut gpus = all()?;
    let count = gpus.len();
    if (ordinal as usize) < count {
        return Ok(gpus.swap_remove(ordinal as usize));
    }
    Err(match (count, ordinal) {
        (0, _) => "the driver finds no GPU".to_owned(),
        (1, n) => format!("there is no GPU {n}: the driver finds one, which is GPU 0"),
        (count, n) => format!(
            "there is no GPU {n}: the driver finds {count}, GPU 0 to {}",
            count - 1
        ),
    })
}

/// That there is a driver.
fn driver() -> Result<(), String> {
    #[allow(unsafe_code)]
    // SAFETY: it only tries to open the driver's library, which has no load-time side effects to break.
    let present = unsafe { sys::is_culib_present() };
    if present {
        Ok(())
    } else {
        Err("no NVIDIA driver is installed (libcuda.so.1 cannot be opened)".into())
    }
}

/// Has the driver load each kernel when it is first called, unless the user said otherwise: a refit needs few of those that
/// come with TensorRT. It is the driver's own default since CUDA 12.2, but not for what was linked with an older runtime, as
/// TensorRT 8.6 is. (`CUDA_MODULE_LOADING` in the CUDA C++ Programming Guide, "Lazy Loading".)
///
/// To be called when the process starts: once there is a second thread, nothing is done.
pub fn load_kernels_lazily() {
    const VARIABLE: &str = "CUDA_MODULE_LOADING";
    // The environment may only be changed while nobody else can read it.
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if alone && std::env::var_os(VARIABLE).is_none() {
        #[allow(unsafe_code)]
        // SAFETY: this is the only thread, so nobody reads the environment meanwhile.
        unsafe {
            std::env::set_var(VARIABLE, "LAZY");
        }
    }
}

impl Gpu {
    /// Opens the GPU that is used, once in a process.
    ///
    /// # Errors
    /// Why there is none, in one fragment.
    pub fn open() -> Result<Gpu, String> {
        GPU.get_or_init(Gpu::try_open).clone()
    }

    fn try_open() -> Result<Gpu, String> {
        let facts = chosen()?;
        let ordinal = ORDINAL.load(Ordering::Relaxed);
        let context = CudaContext::new(ordinal as usize)
            .map_err(|e| format!("the GPU cannot be used: {}", describe(e)))?;
        Ok(Gpu { context, facts })
    }

    /// What is known of it.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The CUDA context, made current on this thread.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn context(&self) -> Result<&Arc<CudaContext>, DriverError> {
        self.context.bind_to_thread()?;
        Ok(&self.context)
    }

    /// Free and total memory in bytes.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn memory(&self) -> Result<(usize, usize), DriverError> {
        self.context.mem_get_info()
    }
}

impl Facts {
    /// Of the GPU with this number; the driver has been started.
    #[allow(unsafe_code)]
    fn of(ordinal: i32) -> Result<Facts, DriverError> {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        let gpu = device::get(ordinal)?;
        // SAFETY: the driver just gave the handle.
        let (major, minor, memory) = unsafe {
            (
                device::get_attribute(gpu, MAJOR)?,
                device::get_attribute(gpu, MINOR)?,
                device::total_mem(gpu)?,
            )
        };
        let mut version = 0;
        // SAFETY: it writes one int, which is ours.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
        let cuda = format!("{}.{}", version / 1000, version % 1000 / 10);
        let text = crate::fsx::read_system("/proc/driver/nvidia/version").unwrap_or_default();
        Ok(Facts {
            name: device::get_name(gpu)?,
            compute_capability: (major as u32, minor as u32),
            driver: driver_version(&text).unwrap_or_else(|| format!("CUDA {cuda}")),
            cuda,
            memory: memory as u64,
        })
    }
}

/// The version in `/proc/driver/nvidia/version`: the first word of its first line that is numbers joined by dots.
fn driver_version(text: &str) -> Option<String> {
    text.lines()
        .next()?
        .split_whitespace()
        .find(|w| {
            w.contains('.')
                && w.split('.')
                    .all(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit()))
        })
        .map(ToOwned::to_owned)
}

/// What the driver says of an error, with its name.
fn describe(e: DriverError) -> String {
    let name = e
        .error_name()
        .ok()
        .map(|s| s.to_string_lossy().into_owned());
    let text = e
        .error_string()
        .ok()
        .map(|s| s.to_string_lossy().into_owned());
    match (text, name) {
        (Some(text), Some(name)) => format!("{text} ({name})"),
        _ => format!("CUDA error {:?}", e.0),
    }
}

/// A driver error as the engine's.
pub(super) fn cuda(e: DriverError) -> Error {
    Error::Library {
        library: "CUDA".into(),
        message: describe(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_version_is_found_in_both_forms_of_the_line() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:  12.2.0\n";
        let open =
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build\n";
        assert_eq!(driver_version(closed).as_deref(), Some("550.54.15"));
        assert_eq!(driver_version(open).as_deref(), Some("580.82.07"));
        assert_eq!(driver_version(""), None);
    }

    #[test]
    fn without_a_driver_there_is_a_reason_and_no_panic() {
        match Gpu::open() {
            Ok(gpu) => assert!(!gpu.facts().name.is_empty()),
            Err(reason) => assert!(
                reason.contains("driver") || reason.contains("GPU"),
                "{reason}"
            ),
        }
    }
}
