//! Compiles the stand-in for a release, once in a process, and the stand-in for libcuda beside it.

use super::header::header;
use crate::tensorrt::root;
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use tempfile::TempDir;
use trtmut::engine::tensorrt::api::Core;
use trtmut::engine::tensorrt::{Product, TensorRt};
use trtmut::engine::tensorrt::{Search, loader};

/// The recorded interface.
pub static FACTS: LazyLock<Value> = LazyLock::new(|| {
    let path = root().join("fixtures/tensorrt_releases/interface.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the facts are there"))
        .expect("they are JSON")
});

/// Whether there is a C++ compiler.
pub fn compiler() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    *HERE.get_or_init(|| {
        let asked = Command::new("g++").arg("--version").output();
        asked.is_ok_and(|o| o.status.success())
    })
}

/// A release of which a stand-in can be made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Release {
    /// Its name in the facts: `trt-10.8`.
    pub name: String,
    /// Major, minor, patch; of several that are the same, the first.
    pub version: [u32; 3],
}

impl Release {
    /// The release of that name.
    pub fn named(name: &str) -> Release {
        let all = FACTS["releases"].as_array().expect("releases");
        let found = all.iter().find(|r| r["version"] == name);
        let exact = &found.unwrap_or_else(|| panic!("no {name}"))["releases"][0];
        let parts = exact.as_str().expect("a version").split('.');
        let parts: Vec<u32> = parts.map(|p| p.parse().expect("a number")).collect();
        Release {
            name: name.into(),
            version: parts.try_into().expect("three numbers"),
        }
    }

    /// All that are recorded.
    pub fn all() -> Vec<Release> {
        let all = FACTS["releases"].as_array().expect("releases").iter();
        all.map(|r| Release::named(r["version"].as_str().expect("a name")))
            .collect()
    }

    /// Which product it is of.
    pub fn product(&self) -> Product {
        if self.name.starts_with("rtx") {
            Product::Rtx
        } else {
            Product::TensorRt
        }
    }

    /// Whether it is that release of TensorRT or a later one, or TensorRT-RTX, which began after it.
    pub fn since(&self, version: [u32; 3]) -> bool {
        self.product() == Product::Rtx || self.version >= version
    }

    /// What its library's `getInferLibVersion` gives.
    fn number(&self) -> u32 {
        let [major, minor, patch] = self.version;
        let thousands = if self.product() == Product::TensorRt && major < 10 {
            1000
        } else {
            10_000
        };
        major * thousands + minor * 100 + patch
    }

    fn libraries(&self) -> [String; 2] {
        let major = self.version[0];
        match self.product() {
            Product::TensorRt => ["nvinfer", "nvonnxparser"].map(|n| format!("lib{n}.so.{major}")),
            Product::Rtx => {
                ["tensorrt_rtx", "tensorrt_onnxparser_rtx"].map(|n| format!("lib{n}.so.1"))
            }
        }
    }
}

/// A compiled stand-in in its folder.
pub struct StandIn {
    pub release: Release,
    folder: TempDir,
}

type Shared<K, V> = LazyLock<Mutex<HashMap<K, Arc<OnceLock<V>>>>>;

fn shared<K: std::hash::Hash + Eq, V>(all: &Shared<K, V>, key: K) -> Arc<OnceLock<V>> {
    let mut all = all
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    Arc::clone(all.entry(key).or_default())
}

/// The stand-in of a release, compiled when it is first asked for.
pub fn stand_in(release: &Release) -> Arc<StandIn> {
    static ALL: Shared<Release, Arc<StandIn>> = LazyLock::new(Mutex::default);
    let slot = shared(&ALL, release.clone());
    Arc::clone(slot.get_or_init(|| Arc::new(StandIn::compile(release, &[]))))
}

/// The folder of the stand-in for libcuda.
pub fn cuda() -> &'static Path {
    static CUDA: OnceLock<TempDir> = OnceLock::new();
    let folder = CUDA.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let library = folder.path().join("libcuda.so.1");
        compile(
            Command::new("gcc").args(["-std=gnu11", "-O1", "-w"]),
            &source("cuda.c"),
            &library,
        );
        std::os::unix::fs::symlink(&library, folder.path().join("libcuda.so")).expect("a link");
        folder
    });
    folder.path()
}

fn source(name: &str) -> PathBuf {
    root().join("tests/trials/tensorrt/standin").join(name)
}

fn compile(command: &mut Command, source: &Path, to: &Path) {
    let command = command
        .args(["-shared", "-fPIC", "-fvisibility=hidden", "-o"])
        .arg(to)
        .arg(source);
    let done = command
        .arg("-ldl")
        .arg("-lpthread")
        .output()
        .expect("the compiler starts");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

impl StandIn {
    /// With `switches` beside those of the release.
    pub fn compile(release: &Release, switches: &[&str]) -> StandIn {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("interface.h"), header(&FACTS, &release.name))
            .expect("the folder takes files");
        let [library, parser] = release.libraries();
        let [major, minor, patch] = release.version;
        let mut command = Command::new("g++");
        command
            .args(["-std=c++17", "-O0", "-w"])
            .arg(format!("-DNAME=\"{major}.{minor}.{patch}\""))
            .arg(format!("-DMAJOR={major}"))
            .arg(format!("-DMINOR={minor}"))
            .arg(format!("-DPATCH={patch}"))
            .arg(format!("-DVERSION={}", release.number()))
            .arg(format!(
                "-DRTX={}",
                u8::from(release.product() == Product::Rtx)
            ))
            .args(switches)
            .arg("-I")
            .arg(folder.path());
        compile(&mut command, &source("standin.cpp"), &at(&library));
        // One library under both names: its classes know each other.
        std::os::unix::fs::symlink(&library, at(&parser)).expect("a link");
        if release.product() == Product::TensorRt {
            let plugins = format!("libnvinfer_plugin.so.{major}");
            std::os::unix::fs::symlink(&library, at(&plugins)).expect("a link");
        }
        StandIn {
            release: release.clone(),
            folder,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn search(&self) -> Search {
        Search {
            explicit: Some(self.path().to_owned()),
            ..Search::default()
        }
    }

    pub fn core(&self) -> Arc<Core> {
        let found = loader::find(self.release.product(), &self.search());
        Core::new(found.expect("the stand-in loads"))
    }

    pub fn backend(&self) -> TensorRt {
        TensorRt::find(self.release.product(), &self.search()).expect("the stand-in loads")
    }

    fn symbol<T: Copy>(&self, name: &str) -> T {
        let library = self.path().join(&self.release.libraries()[0]);
        #[allow(unsafe_code)]
        // SAFETY: standin.cpp, which stays open while the trial's objects do; the callers name its functions' types.
        unsafe {
            let library = libloading::Library::new(library).expect("it opens");
            let symbol = *library
                .get::<T>(name.as_bytes())
                .expect("standin.cpp has it");
            std::mem::forget(library);
            symbol
        }
    }

    /// What goes wrong from now on, on this thread; nothing for an empty name.
    pub fn set_fault(&self, name: &str) {
        let name = std::ffi::CString::new(name).expect("no zero");
        #[allow(unsafe_code)]
        // SAFETY: it copies the string.
        unsafe {
            self.symbol::<unsafe extern "C" fn(*const std::ffi::c_char)>("standin_set_fault")(
                name.as_ptr(),
            );
        }
    }

    /// How many objects of this thread are alive.
    pub fn live(&self) -> i32 {
        self.number_of("standin_live")
    }

    /// 10 × what the precision of a layer was set to + what its output's type was, each `DataType` + 1.
    pub fn pinned(&self) -> i32 {
        self.number_of("standin_pinned")
    }

    fn number_of(&self, name: &str) -> i32 {
        #[allow(unsafe_code)]
        // SAFETY: functions of this form take nothing.
        unsafe {
            self.symbol::<unsafe extern "C" fn() -> i32>(name)()
        }
    }
}
