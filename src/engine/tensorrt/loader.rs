//! Finds a TensorRT library, opens it and decides by its file name and version which numbers describe it.
//!
//! Libraries stay loaded until the process ends: TensorRT starts threads and registers exit handlers, so unloading it is not
//! safe, and nothing that it made can outlive it this way.

use super::releases::{Basis, Product, Release, Version};
use super::told::{Search, Tried};
use crate::engine::Error;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::collections::BTreeSet;
use std::ffi::{OsStr, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folders that are searched last; the packages of Debian and Ubuntu, and the vendor's tarball, install there.
pub const SYSTEM_FOLDERS: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/local/tensorrt/lib",
];

/// Folders of Python packages that hold the libraries, inside `site-packages`.
const WHEEL_FOLDERS: &[&str] = &[
    "tensorrt_libs",
    "tensorrt",
    "tensorrt_rtx_libs",
    "tensorrt_rtx",
];

/// Major versions that are known, newest first, for the names that the loader's own path is asked for.
const TENSORRT_MAJORS: &[u32] = &[11, 10, 9, 8];

/// The symbols that a library may have; all are C functions (`NvInferRuntime.h`, `NvInfer.h`, `NvOnnxParser.h`).
pub(super) type Factory2 = unsafe extern "C" fn(*mut c_void, i32) -> *mut c_void;
pub(super) type Factory3 = unsafe extern "C" fn(*mut c_void, *mut c_void, i32) -> *mut c_void;

/// An ONNX parser library that matches its TensorRT library.
#[derive(Debug)]
pub struct ParserLibrary {
    pub(super) create: Factory3,
    /// Of the parser's own refitter, since TensorRT 10.0.
    pub(super) create_refitter: Option<Factory3>,
    pub(super) version: i32,
}

/// An opened TensorRT library whose release is known.
#[derive(Debug)]
pub struct Loaded {
    pub product: Product,
    pub version: Version,
    /// Which numbers describe it, and how that is known.
    pub release: Release,
    /// Where it was found.
    pub path: PathBuf,
    /// The runtime without a builder (`libnvinfer_lean`).
    pub lean: bool,
    pub(super) number: i32,
    pub(super) create_builder: Option<Factory2>,
    pub(super) create_runtime: Option<Factory2>,
    pub(super) create_refitter: Option<Factory3>,
    /// The parser, or why there is none.
    pub(super) parser: Result<ParserLibrary, String>,
}

impl Loaded {
    /// `TensorRT 8.6.0`; what is assumed of it is a part of what it is called, and so of what is recorded.
    pub fn title(&self) -> String {
        let title = format!("{} {}", self.product.title(), self.version);
        match self.release.basis {
            Basis::Assumed(version) => format!("{title} (called as {version} is)"),
            Basis::Exact | Basis::Between(..) => title,
        }
    }

    /// Why ONNX models cannot be parsed with this library, or `None` where they can.
    pub fn parser_problem(&self) -> Option<&str> {
        self.parser.as_ref().err().map(String::as_str)
    }

    /// Whether engines can be built.
    pub fn can_build(&self) -> bool {
        self.create_builder.is_some() && self.parser.is_ok()
    }

    /// Whether engines can be refitted.
    pub fn can_refit(&self) -> bool {
        self.create_refitter.is_some()
    }

    /// Opens what the builder would look for by bare name, so that it finds it beside the library whatever
    /// `LD_LIBRARY_PATH` says. A missing one is not an error here: the builder says so if it needs it.
    pub(super) fn preload_builder_resources(&self, compute_capability: Option<(u32, u32)>) {
        let Some(folder) = self.path.parent() else {
            return;
        };
        let (major, minor, patch) = self.version.parts();
        let suffix = format!("so.{major}.{minor}.{patch}");
        let mut names = vec![format!("libnvinfer_builder_resource.{suffix}")];
        if let Some((cc_major, cc_minor)) = compute_capability {
            names.push(format!(
                "libnvinfer_builder_resource_sm{cc_major}{cc_minor}.{suffix}"
            ));
            names.push(format!("libnvinfer_builder_resource_ptx.{suffix}"));
        }
        for path in names
            .into_iter()
            .map(|n| folder.join(n))
            .filter(|p| p.exists())
        {
            drop(open(path.as_os_str()));
        }
    }
}

/// Opens a library for good.
#[allow(unsafe_code)]
fn open(name: &OsStr) -> Result<ManuallyDrop<Library>, String> {
    // SAFETY: loading runs the library's initialisers. The names tried are those of NVIDIA's libraries, at places that the
    // user or the system administrator chose; that they are what they say is the user's to vouch for, as with any loader path.
    unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) }
        .map(ManuallyDrop::new)
        .map_err(|e| reason(&e))
}

/// Opens a plugin library, for good: what it registers stays.
pub(super) fn open_plugin(name: &OsStr) -> Result<ManuallyDrop<Library>, String> {
    open(name)
}

/// The loader's own text, without its wrapping.
fn reason(e: &libloading::Error) -> String {
    std::error::Error::source(e).map_or_else(|| e.to_string(), ToString::to_string)
}

/// The address of a C function.
///
/// # Safety
/// `T` is the function's type.
#[allow(unsafe_code)]
pub(super) unsafe fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
    // SAFETY: the caller vouches for the type; the library is never unloaded, so the copied address stays good.
    unsafe { library.get::<T>(name.as_bytes()) }
        .map(|s| *s)
        .map_err(|_| format!("it has no symbol `{name}`"))
}

/// Product and flavour that a file name says: `libnvinfer.so.10`, `libnvinfer_lean.so.11`, `libtensorrt_rtx.so.1`.
fn by_name(file: &str) -> Option<(Product, bool)> {
    let stem = file
        .split_once(".so")
        .map(|(stem, rest)| (stem, rest.trim_start_matches('.')));
    let (stem, version) = stem?;
    // `libnvinfer.so.bak` is somebody's copy.
    if !version.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return None;
    }
    match stem {
        "libnvinfer" => Some((Product::TensorRt, false)),
        "libnvinfer_lean" => Some((Product::TensorRt, true)),
        "libtensorrt_rtx" => Some((Product::Rtx, false)),
        _ => None,
    }
}

/// Opens the library at `path` (or of that bare name).
fn load(path: &Path, assume: Option<&str>) -> Result<Loaded, String> {
    let file = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let (product, lean) = by_name(file).ok_or_else(|| {
        "the name is not one of `libnvinfer.so.N`, `libnvinfer_lean.so.N`, `libtensorrt_rtx.so.N`".to_owned()
    })?;
    let library = open(path.as_os_str())?;
    #[allow(unsafe_code)]
    // SAFETY: the type is the one that `NvInferRuntimeBase.h` declares in every release.
    let get_version: unsafe extern "C" fn() -> i32 =
        unsafe { symbol(&library, "getInferLibVersion") }?;
    #[allow(unsafe_code)]
    // SAFETY: it takes nothing and returns a constant.
    let number = unsafe { get_version() };
    let version = Version::from_library(product, number)
        .ok_or_else(|| format!("it reports the version {number}, which is none"))?;
    let release = Release::of(product, version, assume)
        .map_err(|why| format!("it is {} {version}: {why}", product.title()))?;
    #[allow(unsafe_code)]
    // SAFETY: the types are those that `NvInferRuntime.h` and `NvInfer.h` declare in every release of these families.
    let (create_builder, create_runtime, create_refitter) = unsafe {
        (
            symbol(&library, "createInferBuilder_INTERNAL"),
            symbol(&library, "createInferRuntime_INTERNAL"),
            symbol(&library, "createInferRefitter_INTERNAL"),
        )
    };
    let path = loaded_path(path, file);
    Ok(Loaded {
        product,
        version,
        release,
        lean,
        number,
        create_builder: create_builder.ok(),
        // Without a runtime nothing can be done; a lean library has no builder and no refitter.
        create_runtime: Some(create_runtime?),
        create_refitter: create_refitter.ok(),
        parser: load_parser(&path, file, product),
        path,
    })
}

/// The parser library beside `library`, whose file name is `file`.
fn load_parser(library: &Path, file: &str, product: Product) -> Result<ParserLibrary, String> {
    let suffix = file.split_once(".so").map_or("", |(_, s)| s);
    let stem = match product {
        Product::TensorRt => "libnvonnxparser",
        Product::Rtx => "libtensorrt_onnxparser_rtx",
    };
    let folder = library.parent().unwrap_or(Path::new(""));
    if product == Product::TensorRt {
        // The parser links the plugin library by bare name; with it open already, no loader path is needed.
        let plugin = folder.join(format!("libnvinfer_plugin.so{suffix}"));
        if plugin.exists() {
            drop(open(plugin.as_os_str()));
        }
    }
    let path = folder.join(format!("{stem}.so{suffix}"));
    let parser = open(path.as_os_str()).map_err(|e| format!("`{}`: {e}", path.display()))?;
    let context = |e: String| format!("`{}`: {e}", path.display());
    #[allow(unsafe_code)]
    // SAFETY: the types are those that `NvOnnxParser.h` declares in every release of these families.
    let (create, create_refitter, version): (
        Factory3,
        Result<Factory3, _>,
        Result<unsafe extern "C" fn() -> c_int, _>,
    ) = unsafe {
        (
            symbol(&parser, "createNvOnnxParser_INTERNAL").map_err(context)?,
            symbol(&parser, "createNvOnnxParserRefitter_INTERNAL"),
            symbol(&parser, "getNvOnnxParserVersion"),
        )
    };
    #[allow(unsafe_code)]
    // SAFETY: it takes nothing and returns a constant.
    let version = version.map_or(0, |f| unsafe { f() });
    Ok(ParserLibrary {
        create,
        create_refitter: create_refitter.ok(),
        version,
    })
}

/// Where the loader found a bare name: the mapping of this process that ends in it.
fn loaded_path(path: &Path, file: &str) -> PathBuf {
    // A bare name was found by the loader, and the parser is to come from the same folder.
    if path.components().count() > 1 {
        return path.to_owned();
    }
    crate::fsx::read_system("/proc/self/maps")
        .unwrap_or_default()
        .lines()
        .filter_map(|l| {
            l.split_once('/')
                .map(|(_, p)| PathBuf::from(format!("/{p}")))
        })
        .find(|p| {
            p.file_name()
                .and_then(OsStr::to_str)
                .is_some_and(|n| n.starts_with(file))
        })
        .map_or_else(|| path.to_owned(), |p| p.with_file_name(file))
}

/// Libraries in `folder` by the names that [`by_name`] knows: whole ones before lean ones, newest first, each once.
fn in_folder(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let (_, lean) = by_name(&name)?;
            let numbers: Vec<u32> = name.split('.').filter_map(|p| p.parse().ok()).collect();
            // `libnvinfer.so` serves too, but the parser's name is told by the number, so numbered names go first.
            Some((
                lean,
                numbers.is_empty(),
                std::cmp::Reverse(numbers.first().copied()),
                numbers.len(),
                e.path(),
            ))
        })
        .collect();
    found.sort();
    let mut seen = BTreeSet::new();
    found
        .into_iter()
        .map(|f| f.4)
        // `.so`, `.so.10` and `.so.10.13.0` are one file under three names.
        .filter(|p| seen.insert(p.canonicalize().unwrap_or_else(|_| p.clone())))
        .collect()
}

/// Every place to try, in order.
fn places(search: &Search) -> Vec<PathBuf> {
    if let Some(path) = &search.explicit {
        return if path.is_dir() {
            in_folder(path)
        } else {
            vec![path.clone()]
        };
    }
    let mut out = Vec::new();
    if search.system {
        out.extend(
            TENSORRT_MAJORS
                .iter()
                .map(|n| PathBuf::from(format!("libnvinfer.so.{n}"))),
        );
        out.push("libtensorrt_rtx.so.1".into());
    }
    for site in &search.site_packages {
        for folder in WHEEL_FOLDERS {
            out.extend(in_folder(&site.join(folder)));
        }
    }
    if search.system {
        for folder in SYSTEM_FOLDERS {
            out.extend(in_folder(Path::new(folder)));
        }
    }
    out
}

/// Opens every library that can be found; what failed is listed with its reason.
pub fn survey(search: &Search) -> (Vec<Arc<Loaded>>, Vec<Tried>) {
    let (mut found, mut tried): (Vec<Arc<Loaded>>, Vec<Tried>) = (Vec::new(), Vec::new());
    for place in places(search) {
        match load(&place, search.assume.as_deref()) {
            // The loader's path and a folder of the system often lead to the same one.
            Ok(l) if found.iter().any(|f| same_file(&f.path, &l.path)) => {}
            Ok(l) => found.push(Arc::new(l)),
            Err(reason) => tried.push(Tried {
                place: place.display().to_string(),
                reason,
            }),
        }
    }
    (found, tried)
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b
        || a.canonicalize()
            .ok()
            .is_some_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

/// Opens the first library of `product` that the search finds.
///
/// # Errors
/// [`Error::Unavailable`] with everything that was tried.
pub fn find(product: Product, search: &Search) -> Result<Arc<Loaded>, Error> {
    let mut tried = Vec::new();
    for place in places(search) {
        let named = place.file_name().and_then(OsStr::to_str).and_then(by_name);
        // A name that says the other product is skipped; one that says nothing is tried, for its reason.
        if named.is_some_and(|(p, _)| p != product) {
            if search.explicit.is_some() {
                tried.push(Tried {
                    place: place.display().to_string(),
                    reason: format!("it is not {}", product.title()),
                });
            }
            continue;
        }
        match load(&place, search.assume.as_deref()) {
            Ok(l) => return Ok(Arc::new(l)),
            Err(reason) => tried.push(Tried {
                place: place.display().to_string(),
                reason,
            }),
        }
    }
    Err(not_found(product, search, &tried))
}

fn not_found(product: Product, search: &Search, tried: &[Tried]) -> Error {
    let reason = match (&search.explicit, tried) {
        (Some(path), []) if !path.exists() => format!("`{}` does not exist", path.display()),
        (Some(path), []) => format!("`{}` holds no {} library", path.display(), product.title()),
        (None, []) => format!("no {} library was found", product.title()),
        (_, tried) => format!(
            "no {} library could be used; tried {}",
            product.title(),
            tried
                .iter()
                .map(|t| format!("`{}` ({})", t.place, t.reason))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    let wheel = match product {
        Product::TensorRt => "tensorrt",
        Product::Rtx => "tensorrt-rtx",
    };
    Error::Unavailable {
        backend: product.backend().into(),
        reason,
        hints: vec![
            format!("install {} (e.g. `pip install {wheel}`)", product.title()),
            "or name the library or its folder with `--tensorrt PATH` or TRTMUT_TENSORRT".into(),
            "`trtmut doctor` lists what was found".into(),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Explain;

    fn unavailable(e: &Error) -> String {
        assert!(matches!(e, Error::Unavailable { .. }) && !e.hints().is_empty());
        e.to_string()
    }

    #[test]
    fn names_tell_the_product() {
        assert_eq!(by_name("libnvinfer.so.8"), Some((Product::TensorRt, false)));
        assert_eq!(
            by_name("libnvinfer.so.10.13.3"),
            Some((Product::TensorRt, false))
        );
        assert_eq!(
            by_name("libnvinfer_lean.so.11"),
            Some((Product::TensorRt, true))
        );
        assert_eq!(by_name("libtensorrt_rtx.so.1"), Some((Product::Rtx, false)));
        for other in [
            "libnvinfer_plugin.so.8",
            "libnvinfer.a",
            "libnvinfer.so.8.bak",
            "nvinfer.so",
            "",
        ] {
            assert_eq!(by_name(other), None, "{other}");
        }
    }

    #[test]
    fn an_explicit_place_is_the_only_one_tried() {
        let folder = tempfile::tempdir().unwrap();
        let at = |p: PathBuf| Search {
            explicit: Some(p),
            system: true,
            ..Search::default()
        };
        let text = unavailable(&find(Product::TensorRt, &at(folder.path().into())).unwrap_err());
        assert!(text.contains("holds no TensorRT library"), "{text}");
        let gone = folder.path().join("libnvinfer.so.8");
        let text = unavailable(&find(Product::TensorRt, &at(gone.clone())).unwrap_err());
        assert!(
            text.contains("libnvinfer.so.8") && text.contains("cannot open shared object"),
            "{text}"
        );
        std::fs::write(&gone, b"not a library").unwrap();
        let text = unavailable(&find(Product::TensorRt, &at(gone.clone())).unwrap_err());
        assert!(text.contains("libnvinfer.so.8"), "{text}");
        let text = unavailable(&find(Product::Rtx, &at(gone)).unwrap_err());
        assert!(text.contains("it is not TensorRT-RTX"), "{text}");
        let odd = folder.path().join("libfoo.so");
        let text = unavailable(&find(Product::Rtx, &at(odd)).unwrap_err());
        assert!(text.contains("the name is not one of"), "{text}");
    }

    #[test]
    fn wheels_are_searched_newest_first() {
        let site = tempfile::tempdir().unwrap();
        let folder = site.path().join("tensorrt_libs");
        std::fs::create_dir(&folder).unwrap();
        for name in [
            "libnvinfer.so.8",
            "libnvinfer.so.10",
            "libnvinfer_lean.so.11",
            "libnvinfer_plugin.so.8",
        ] {
            std::fs::write(folder.join(name), name).unwrap();
        }
        let search = Search {
            site_packages: vec![site.path().into()],
            ..Search::default()
        };
        let names: Vec<_> = places(&search)
            .iter()
            .map(|p| p.file_name().unwrap().to_owned())
            .collect();
        assert_eq!(
            names,
            [
                "libnvinfer.so.10",
                "libnvinfer.so.8",
                "libnvinfer_lean.so.11"
            ]
        );
        let (found, tried) = survey(&search);
        assert!(found.is_empty() && tried.len() == 3);
    }
}
