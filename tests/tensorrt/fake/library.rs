//! Compiles `fake.c` with the slot numbers of one release.

use crate::root;
use serde_json::Value;
use std::fmt::Write as _;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;
use trtmut::engine::tensorrt::api::Core;
use trtmut::engine::tensorrt::loader::{self, Search};
use trtmut::engine::tensorrt::{Product, TensorRt};

/// A release, what its library reports, and its product.
pub type Release = (&'static str, i32, Product);

/// A compiled fake in its folder.
pub struct Fake {
    pub folder: TempDir,
    pub product: Product,
}

impl Fake {
    pub fn new(release: Release, switches: &[&str]) -> Fake {
        let folder = tempfile::tempdir().expect("a folder");
        let (name, version, product) = release;
        std::fs::write(folder.path().join("slots.h"), slots_header(name))
            .expect("the folder takes files");
        let (main, parser) = match product {
            Product::TensorRt => {
                let major = name
                    .trim_start_matches("trt-")
                    .split('.')
                    .next()
                    .expect("a major version");
                (
                    format!("libnvinfer.so.{major}"),
                    format!("libnvonnxparser.so.{major}"),
                )
            }
            Product::Rtx => (
                "libtensorrt_rtx.so.1".into(),
                "libtensorrt_onnxparser_rtx.so.1".into(),
            ),
        };
        for (library, more) in [(&main, None), (&parser, Some("-DPARSER"))] {
            let done = Command::new("cc")
                .args(["-std=c11", "-shared", "-fPIC", "-fvisibility=hidden", "-w"])
                .arg(format!("-DVERSION={version}"))
                .args(form_switches(name))
                .args(switches)
                .args(more)
                .arg("-I")
                .arg(folder.path())
                .arg("-o")
                .arg(folder.path().join(library))
                .arg(root().join("tests/tensorrt/fake/fake.c"))
                .output()
                .expect("cc starts");
            assert!(
                done.status.success(),
                "{}",
                String::from_utf8_lossy(&done.stderr)
            );
        }
        Fake { folder, product }
    }

    pub fn search(&self) -> Search {
        Search {
            explicit: Some(self.folder.path().to_owned()),
            ..Search::default()
        }
    }

    pub fn core(&self) -> Arc<Core> {
        Core::new(loader::find(self.product, &self.search()).expect("the fake loads"))
    }

    pub fn backend(&self) -> TensorRt {
        TensorRt::find(self.product, &self.search()).expect("the fake loads")
    }

    /// How many objects are alive and how many rules were broken.
    pub fn counts(&self) -> (i32, i32) {
        (self.ask("fake_live"), self.ask("fake_violations"))
    }

    /// 10 × what the precision of its layer was set to + what its output's type was, each `DataType` + 1.
    pub fn pinned(&self) -> i32 {
        self.ask("fake_pinned")
    }

    /// The sum of what both libraries answer.
    fn ask(&self, function: &str) -> i32 {
        let files = std::fs::read_dir(self.folder.path()).expect("it is there");
        let libraries = files
            .flatten()
            .filter(|f| f.file_name().to_string_lossy().contains(".so"));
        libraries
            .map(|file| {
                #[allow(unsafe_code)]
                // SAFETY: fake.c, open already; its functions of this form take nothing and return an int.
                unsafe {
                    let library =
                        libloading::Library::new(file.path()).expect("it is open already");
                    let f: libloading::Symbol<'_, unsafe extern "C" fn() -> i32> =
                        library.get(function.as_bytes()).expect("fake.c has it");
                    f()
                }
            })
            .sum()
    }
}

pub fn facts(release: &str) -> Value {
    let path = root().join("fixtures/abi").join(format!("{release}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("the facts are there"))
        .expect("they are JSON")
}

/// `#define SLOT_VBuilder_setMaxThreads 20`, for every slot in the facts. The last of overloads wins only where it is the
/// one that takes bytes.
pub fn slots_header(release: &str) -> String {
    let facts = facts(release);
    let mut text = String::new();
    for (class, slots) in facts["vtables"].as_object().expect("classes") {
        for (slot, signature) in slots.as_object().expect("slots") {
            let signature = signature.as_str().expect("text");
            let name = match signature.split_once('(') {
                Some((head, _)) => head
                    .rsplit([' ', '*', '&'])
                    .next()
                    .expect("a name")
                    .to_owned(),
                None => signature.replace(' ', "_"),
            };
            writeln!(
                text,
                "#define SLOT_{class}_{name} {}",
                slot.trim_start_matches('0').parse().unwrap_or(0u32)
            )
            .expect("to a string");
        }
    }
    text
}

pub fn form_switches(release: &str) -> Vec<&'static str> {
    let facts = facts(release);
    let mut switches = Vec::new();
    if facts["structs"].get("nvinfer1::Dims64").is_some() {
        switches.push("-DWIDE");
    }
    if facts["vtables"]["ILogger"]["04"].is_string() {
        switches.push("-DVERSIONED_LOGGER");
    }
    switches
}
