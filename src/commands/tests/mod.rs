//! What is said of every way of failing: one value of each variant of each error type, as users and programs see it. The texts are in
//! `faults.txt`; `SNAPSHOTS=overwrite cargo test --lib commands::tests` writes it anew.

use super::{Exhausted, UsageError, export::ExportError, refit, run, watch::WatchError};
use crate::cache::{CacheFault, Cause, Damage, RemoteFault};
use crate::diff::{Told, Verdict, WeightState};
use crate::fault::Explain;
use crate::mapping::{Declined, Grade, Proof};
use crate::onnx::half::{self, Half};
use crate::pipeline::{Verification, Verified};
use crate::tensor::{ConvertError, Difference, Digest, Dtype};
use crate::weights::lora::{self, Problem};
use crate::weights::{IndexProblem, NameError, layouts};
use crate::{arrays, engine, fsx, mapping, onnx, pipeline, plan, shapes, ui, weights};
use std::collections::BTreeSet;
use std::fmt::{Debug, Write as _};
use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

/// What is said of the errors so far.
#[derive(Default)]
struct Sheet {
    text: String,
    seen: BTreeSet<String>,
}

/// `trtmut::fsx::Error::Read`.
fn name_of<T: Debug>(value: &T) -> String {
    let variant = format!("{value:?}");
    let end = variant.find(|c: char| !c.is_alphanumeric());
    let variant = &variant[..end.unwrap_or(variant.len())];
    let ty = std::any::type_name::<T>();
    if ty.ends_with(&format!("::{variant}")) {
        return ty.to_owned();
    }
    format!("{ty}::{variant}")
}

impl Sheet {
    fn add<E: Explain + std::error::Error>(&mut self, error: &E) {
        let title = name_of(error);
        self.seen.insert(title.clone());
        self.line(&format!("# {title}"));
        self.line(&error.to_string());
        let mut cause = error.source();
        while let Some(e) = cause {
            self.line(&format!("cause: {e}"));
            cause = e.source();
        }
        self.line(&format!("{}, {:?}", error.code(), error.class()));
        for hint in error.hints() {
            self.line(&format!("hint: {hint}"));
        }
        if let Some(details) = error.details() {
            self.line(&format!("details: {details}"));
        }
        self.text.push('\n');
    }

    /// What is said in the words of another error.
    fn within<T: Debug>(&mut self, parts: &[T]) {
        self.seen.extend(parts.iter().map(name_of));
    }

    fn line(&mut self, text: &str) {
        writeln!(self.text, "{}", text.replace('\n', "\n    ")).unwrap();
    }
}

fn s(text: &str) -> String {
    text.to_owned()
}

fn strings<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(s).to_vec()
}

fn p(path: &str) -> PathBuf {
    PathBuf::from(path)
}

fn io(kind: ErrorKind) -> io::Error {
    kind.into()
}

fn json() -> serde_json::Error {
    serde_json::from_str::<u8>("x").unwrap_err()
}

fn file() -> fsx::Error {
    fsx::Error::read("gone", io(ErrorKind::NotFound))
}

fn files(sheet: &mut Sheet) {
    let kinds = [
        ErrorKind::NotFound,
        ErrorKind::PermissionDenied,
        ErrorKind::StorageFull,
        ErrorKind::QuotaExceeded,
        ErrorKind::OutOfMemory,
        ErrorKind::ReadOnlyFilesystem,
        ErrorKind::IsADirectory,
        ErrorKind::NotADirectory,
        ErrorKind::InvalidInput,
        ErrorKind::InvalidData,
        ErrorKind::Other,
    ];
    for kind in kinds {
        sheet.add(&fsx::Error::read("a/b", io(kind)));
        sheet.add(&fsx::Error::write("a/b", io(kind)));
    }
    sheet.add(&fsx::Error::NotRegular {
        path: p("a"),
        what: "a pipe",
    });
    sheet.add(&fsx::Error::TooLong {
        path: p("a"),
        limit: 7,
    });
    sheet.add(&fsx::Error::Changed { path: p("a") });
    sheet.add(&fsx::Error::IsInput {
        path: p("a"),
        input: p("b"),
    });
    sheet.add(&fsx::Error::SameOutput {
        path: p("a"),
        other: p("b"),
    });
}

fn weight_files(sheet: &mut Sheet) {
    use weights::Error;
    let path = || p("dir/w.bin");
    sheet.add(&Error::Layout(layouts::Error::Twice {
        path: path(),
        to: s("t"),
        first: s("a"),
        second: s("b"),
    }));
    sheet.add(&Error::File(file()));
    sheet.add(&Error::Empty { path: path() });
    let kinds = [
        "a PyTorch pickle",
        "a Git LFS pointer",
        "a web page",
        "a JSON document",
        "a GGUF file",
        "a picture",
    ];
    for kind in kinds {
        let path = path();
        sheet.add(&Error::OtherFormat { path, kind });
    }
    sheet.add(&Error::Header {
        path: path(),
        source: safetensors::SafeTensorError::HeaderTooSmall,
    });
    for (expected, actual) in [(9, 8), (8, 9)] {
        sheet.add(&Error::Length {
            path: path(),
            expected,
            actual,
        });
    }
    sheet.add(&Error::Repeated {
        path: path(),
        names: strings(["a", "b"]),
    });
    sheet.add(&Error::Dtype {
        path: path(),
        tensors: vec![(s("a"), s("U3")), (s("b"), s("U4"))],
    });
    sheet.add(&Error::Duplicate {
        names: vec![(s("a"), p("1"), p("2")), (s("b"), p("1"), p("2"))],
    });
    sheet.add(&Error::None);
    sheet.add(&Error::NothingInFolder { path: path() });
    sheet.add(&Error::SeveralInFolder {
        path: path(),
        found: strings(["1", "2"]),
    });
    sheet.add(&Error::ShardsMissing {
        path: path(),
        shard: s("m-1-of-3.safetensors"),
        missing: strings(["m-2-of-3.safetensors", "m-3-of-3.safetensors"]),
    });
    sheet.add(&Error::IndexSyntax {
        path: path(),
        source: json(),
    });
    let (tensor, shard) = (|| s("t"), || s("s"));
    let problems = [
        IndexProblem::Escapes { shard: shard() },
        IndexProblem::Missing { shard: shard() },
        IndexProblem::Absent {
            tensor: tensor(),
            shard: shard(),
        },
        IndexProblem::Twice {
            tensor: tensor(),
            shard: shard(),
            other: s("o"),
        },
        IndexProblem::Unlisted {
            tensor: tensor(),
            shard: shard(),
        },
        IndexProblem::Repeated { tensor: tensor() },
    ];
    sheet.add(&Error::Index {
        path: path(),
        problems: problems.to_vec(),
    });
    sheet.add(&Error::Index {
        path: p("w"),
        problems: problems[..1].to_vec(),
    });
}

fn weight_layouts(sheet: &mut Sheet) {
    use layouts::Error;
    let path = || p("w");
    sheet.add(&Error::Components {
        path: path(),
        components: strings(["a", "b"]),
    });
    for fitting in [vec![], strings(["a", "b"])] {
        sheet.add(&Error::NoComponent {
            path: path(),
            component: s("c"),
            fitting,
        });
    }
    sheet.add(&Error::Twice {
        path: path(),
        to: s("t"),
        first: s("a"),
        second: s("b"),
    });
    sheet.add(&Error::Uncut {
        path: path(),
        tensor: s("t"),
        shape: vec![3, 4],
        parts: 2,
    });
    sheet.add(&Error::Unmerged {
        path: path(),
        layers: 3,
        first: s("a"),
    });
    sheet.add(&Error::Quantised {
        path: path(),
        kind: "bitsandbytes",
        count: 3,
        first: s("a"),
    });
    for mark in ["lora_controlnet", "difference"] {
        let path = path();
        sheet.add(&Error::Difference { path, mark });
    }
    sheet.add(&Error::PartlyScaled {
        path: path(),
        scaled: 3,
        bare: strings(["a", "b"]),
    });
    sheet.add(&Error::Scale {
        path: path(),
        scale: s("a_scale"),
        tensor: s("a"),
        why: s("it is no number"),
    });
    sheet.add(&NameError::Collapse {
        name: s("n"),
        first: s("a"),
        second: s("b"),
        rules: vec!["one", "two"],
    });
    sheet.add(&NameError::Ambiguous {
        first: vec!["one", "two"],
        second: vec!["three"],
    });
}

fn lora_problems() -> Vec<Problem> {
    let (module, target, key) = (|| s("m"), || s("t"), || s("k"));
    vec![
        Problem::Unmatched {
            module: module(),
            nearest: strings(["n", "o"]),
        },
        Problem::Unmatched {
            module: module(),
            nearest: vec![],
        },
        Problem::Ambiguous {
            module: module(),
            candidates: strings(["a", "b"]),
        },
        Problem::Incomplete {
            module: module(),
            what: s("lacks a factor"),
        },
        Problem::Overlap {
            target: target(),
            modules: strings(["a", "b"]),
        },
        Problem::Shape {
            module: module(),
            target: target(),
            lora: vec![2, 3],
            weight: vec![3, 2],
        },
        Problem::Factors {
            module: module(),
            shapes: vec![(s("a"), vec![2, 3]), (s("b"), vec![])],
        },
        Problem::Unsupported {
            key: key(),
            kind: "a hypernetwork",
        },
        Problem::UnknownKey { key: key() },
        Problem::Value {
            key: key(),
            what: s("is NaN"),
        },
        Problem::Config {
            module: module(),
            what: "rank",
            file: 4.0,
            config: 8.5,
        },
    ]
}

fn loras(sheet: &mut Sheet) {
    use lora::Error;
    let path = || p("l");
    sheet.add(&Error::Source(weights::Error::None));
    sheet.add(&Error::ConfigSyntax {
        path: path(),
        source: json(),
    });
    sheet.add(&Error::ConfigValue {
        path: path(),
        field: s("r"),
    });
    sheet.add(&Error::NoLora { path: path() });
    sheet.add(&Error::Components {
        path: path(),
        components: vec!["unet", "te"],
    });
    sheet.within(&lora_problems());
    let unmatched = lora_problems()[..2].to_vec();
    let alone = lora_problems().into_iter().map(|p| vec![p]);
    for problems in alone.chain([unmatched, lora_problems()]) {
        let path = path();
        sheet.add(&Error::Problems { path, problems });
    }
    sheet.add(&Error::Scale {
        path: path(),
        scale: f64::NAN,
    });
    sheet.add(&Error::BaseDtype {
        name: s("w"),
        dtype: Dtype::I64,
    });
    sheet.add(&Error::BaseShape {
        name: s("w"),
        expected: vec![2, 3],
        actual: vec![],
    });
    sheet.add(&Error::NotFinite {
        name: s("w"),
        dtype: Dtype::F16,
        count: 3,
    });
    sheet.add(&Error::NoPeftOrder {
        name: s("w"),
        why: "two adapters",
    });
}

/// Of the tensor `t`.
fn onnx_tensor_problems() -> Vec<onnx::Problem> {
    use onnx::Problem;
    let (tensor, location) = (|| s("t"), || s("data.bin"));
    vec![
        Problem::UnknownDtype {
            tensor: tensor(),
            code: 99,
        },
        Problem::NegativeExtent {
            tensor: tensor(),
            axis: 1,
            extent: -2,
        },
        Problem::TooLarge {
            tensor: tensor(),
            dims: vec![1, 2],
        },
        Problem::Length {
            tensor: tensor(),
            dtype: Dtype::F32,
            shape: vec![2, 3],
            expected: 24,
            found: 20,
        },
        Problem::StringCount {
            tensor: tensor(),
            expected: 2,
            found: 1,
        },
        Problem::Carrier {
            tensor: tensor(),
            dtype: "string",
            fields: vec!["raw_data", "float_data"],
        },
        Problem::ValueRange {
            tensor: tensor(),
            dtype: Dtype::U8,
            value: 256,
        },
        Problem::Segment { tensor: tensor() },
        Problem::Sparse { tensor: tensor() },
        Problem::ExternalEntry {
            tensor: tensor(),
            reason: s("no location"),
        },
        Problem::ExternalEscape {
            tensor: tensor(),
            location: location(),
        },
        Problem::ExternalFile {
            tensor: tensor(),
            location: location(),
            source: io(ErrorKind::NotFound),
        },
        Problem::ExternalRange {
            tensor: tensor(),
            location: location(),
            offset: 4,
            length: 8,
            file_length: 10,
        },
    ]
}

fn onnx_graph_problems() -> Vec<onnx::Problem> {
    use onnx::Problem;
    let (graph, name) = (|| s("the graph"), || s("n"));
    vec![
        Problem::NoOpset,
        Problem::DomainNotImported {
            operator: s("Op"),
            domain: s("com.x"),
        },
        Problem::Unnamed {
            what: s("initializer 3"),
        },
        Problem::DuplicateInitializer {
            graph: graph(),
            name: name(),
        },
        Problem::ProducedTwice {
            graph: graph(),
            name: name(),
        },
        Problem::NotProduced {
            graph: graph(),
            name: name(),
            reader: s("Add"),
        },
        Problem::Cycle {
            graph: graph(),
            nodes: strings(["a", "b", "c", "d", "e"]),
        },
        Problem::RecursiveFunction { name: name() },
        Problem::Expansion { limit: 9 },
        Problem::DuplicateFunction { name: name() },
        Problem::Constant {
            output: s("o"),
            reason: s("two values"),
        },
        Problem::Attribute {
            node: s("Add"),
            attribute: s("axis"),
        },
        Problem::Interface {
            what: "input",
            name: name(),
            found: s("a map"),
        },
        Problem::WeightMissing { name: name() },
        Problem::WeightDiffers {
            name: name(),
            expected: s("f32 2x4"),
            found: s("f16 2x4"),
        },
    ]
}

fn models(sheet: &mut Sheet) {
    use onnx::{Error, WireFault};
    let path = || p("m.onnx");
    sheet.add(&Error::File(file()));
    for hint in [None, Some("name the model")] {
        sheet.add(&Error::NotOnnx {
            path: path(),
            looks_like: "a picture",
            hint,
        });
    }
    let faults = [
        WireFault::Varint,
        WireFault::PastEnd { needed: 9, left: 8 },
        WireFault::Group,
        WireFault::WireType(7),
        WireFault::FieldNumber(0),
        WireFault::Depth { limit: 64 },
        WireFault::Repeated {
            field: "ModelProto.graph",
        },
    ];
    for fault in faults {
        sheet.add(&Error::Wire {
            path: path(),
            offset: 5,
            fault,
        });
    }
    sheet.add(&Error::Protobuf {
        path: path(),
        source: io(ErrorKind::UnexpectedEof).into(),
    });
    let all = || {
        onnx_tensor_problems()
            .into_iter()
            .chain(onnx_graph_problems())
    };
    sheet.within(&all().collect::<Vec<_>>());
    for problems in all().map(|p| vec![p]).chain([all().collect(), vec![]]) {
        let path = path();
        sheet.add(&Error::Invalid { path, problems });
    }
    sheet.add(&Error::Write(io(ErrorKind::StorageFull)));
    sheet.add(&Error::WrittenLength {
        name: s("w"),
        expected: 4,
        found: 3,
    });
    sheet.add(&Error::NotStructural { name: s("w") });
    sheet.add(&Error::TooBig { bytes: 9, limit: 8 });
}

fn spec_shapes(sheet: &mut Sheet) {
    use shapes::{Affine, ArgumentFault, Conflict, Error, ModelFault, Problems};
    sheet.add(&Error::Read {
        path: s("s.json"),
        source: io(ErrorKind::NotFound),
    });
    sheet.add(&Error::TooLarge {
        origin: s("s.json"),
        limit: 9,
    });
    sheet.add(&Error::Spec {
        origin: s("s.json"),
        problems: Problems::default(),
    });
    for origin in [None, Some(s("s.json"))] {
        sheet.add(&Error::Model {
            origin,
            problems: vec![ModelFault::NoRank { input: s("x") }],
            suggestion: s("{\n}"),
        });
    }
    sheet.add(&Error::Arguments(vec![ArgumentFault::Value {
        option: "--dim",
        value: s("a"),
        reason: s("no size"),
    }]));
    let outside = |size, max| Conflict::Outside {
        input: s("x"),
        axis: 0,
        size,
        expr: Affine {
            root: s("n"),
            scale: 2,
            offset: 0,
        },
        min: 4,
        max,
        nearest: vec![4],
    };
    let conflicts = [
        Conflict::Missing { input: s("x") },
        outside(2, None),
        outside(5, Some(8)),
        outside(10, Some(8)),
        Conflict::Dim {
            dim: s("n"),
            value: 3,
            min: 4,
            max: None,
        },
    ];
    for conflict in conflicts {
        sheet.add(&Error::Sizes(vec![conflict.clone()]));
        sheet.add(&Error::Call(vec![conflict.clone()]));
        sheet.add(&Error::NoProfile {
            conflicts: vec![conflict],
            profiles: strings(["a range", "another"]),
        });
    }
    sheet.add(&Error::Profile {
        at: 2,
        reason: s("no"),
    });
    sheet.add(&Error::Unbounded(strings(["n", "m"])));
    sheet.add(&Error::Unbounded(vec![]));
    sheet.add(&Error::Record(s("no roots")));
    sheet.add(&Error::Form {
        form: "torch",
        reason: s("no"),
    });
}

fn tensor_files(sheet: &mut Sheet) {
    use arrays::Error;
    sheet.add(&Error::Kind(p("a.txt")));
    sheet.add(&Error::Pickle(p("a.pt")));
    sheet.add(&Error::Malformed {
        path: p("a.npz"),
        kind: "npz",
        reason: s("no"),
    });
    sheet.add(&Error::Dtype {
        path: p("a.npz"),
        name: s("t"),
        dtype: s("<U3"),
        what: "npz has not",
    });
    sheet.add(&Error::Occupied(p("a.npz")));
    sheet.add(&Error::File(file()));
}

fn mappings(sheet: &mut Sheet) {
    use mapping::Error;
    let (weight, name) = (|| s("w"), || s("t"));
    let declined = [
        Declined::Unknown { name: name() },
        Declined::Misfit {
            name: name(),
            shape: vec![2],
            weight: weight(),
            expected: vec![3],
        },
        Declined::Orientation {
            name: name(),
            weight: weight(),
        },
        Declined::FoldSuspected {
            name: name(),
            weight: weight(),
            signs: vec![],
        },
        Declined::Folded {
            name: name(),
            weight: weight(),
            sources: strings(["a"]),
        },
        Declined::Computed {
            name: name(),
            weight: weight(),
        },
        Declined::Unsure {
            name: name(),
            weight: weight(),
            grade: Grade::Unproven,
        },
        Declined::Merged {
            name: name(),
            weight: weight(),
            with: s("`u`"),
        },
    ];
    for one in &declined {
        sheet.add(one);
    }
    sheet.add(&Error::Targets {
        declined: declined.to_vec(),
    });
    sheet.add(&Error::NoRecipe {
        weight: weight(),
        grade: Grade::Ambiguous,
    });
    sheet.add(&Error::SourceMissing {
        weight: weight(),
        source_name: name(),
    });
    sheet.add(&Error::Length {
        weight: weight(),
        expected_dtype: Dtype::F32,
        expected: vec![2, 3],
        dtype: Dtype::F16,
        shape: vec![],
    });
    sheet.add(&Error::Overflow {
        weight: weight(),
        source_name: name(),
        dtype: Dtype::F16,
        largest: 7e5,
    });
    sheet.add(&Error::Unsourced {
        weight: weight(),
        changed: strings(["`a`", "`b`"]),
    });
    sheet.add(&Error::Convert {
        weight: weight(),
        cause: too_large(),
    });
    sheet.add(&Error::NotInvertible {
        weight: weight(),
        sources: strings(["`a`", "`b`"]),
    });
    sheet.add(&Error::NotHeld { weight: weight() });
    sheet.add(&Error::UnknownWeights {
        weights: strings(["`a`", "`b`"]),
    });
    sheet.add(&Error::Probe {
        problem: s("it is the same"),
    });
    sheet.add(&Error::Document(json()));
    sheet.add(&Error::Schema {
        found: s("x/2"),
        expected: "x/1",
    });
}

fn too_large() -> ConvertError {
    ConvertError::Overflow {
        to: Dtype::F16,
        largest: s("7e5"),
    }
}

fn engines(sheet: &mut Sheet) {
    use engine::{Error, Refusal};
    let backend = || s("cpu");
    sheet.add(&Error::Unavailable {
        backend: backend(),
        reason: s("no library"),
        hints: strings(["install it", "or not"]),
    });
    for backend in ["cpu", "tensorrt"] {
        let refusal = |n: usize| Refusal {
            node: format!("n{n}"),
            operator: s("Op"),
            reason: s("no"),
        };
        sheet.add(&Error::Refused {
            backend: s(backend),
            refusals: (0..6).map(refusal).collect(),
        });
    }
    let options = [
        ("precision=fp16,bf16", "no"),
        ("precision", "no"),
        ("f32-layers=a", "pass `--convert` too"),
        ("cuda-graph=true", "no"),
        ("weight-budget", "no"),
        ("profile-layers", "no"),
        ("workspace", "no"),
        ("workspace=4", "no"),
    ];
    for (option, reason) in options {
        sheet.add(&Error::Option {
            backend: backend(),
            option: s(option),
            reason: s(reason),
        });
    }
    sheet.add(&Error::Plan {
        path: s("a.plan"),
        reason: s("it is cut short"),
    });
    sheet.add(&Error::HostCode { path: s("a.plan") });
    sheet.add(&Error::Plugin {
        library: s("p.so"),
        reason: s("no"),
    });
    sheet.add(&Error::Weight {
        name: s("w"),
        reason: s("no"),
    });
    sheet.add(&Error::Input {
        name: s("x"),
        reason: s("no"),
    });
    sheet.add(&Error::Library {
        library: s("ONNX Runtime"),
        message: s("no"),
    });
    sheet.add(&Error::Onnx(onnx::Error::TooBig { bytes: 9, limit: 8 }));
    sheet.add(&Error::File(file()));
    sheet.add(&Error::Write(io(ErrorKind::StorageFull)));
    sheet.add(&Error::Write(io(ErrorKind::Other)));
}

/// `folder` has `ftrt.plan`, which is TensorRT's by its first bytes.
fn plans(sheet: &mut Sheet, folder: &Path) {
    use plan::Error;
    for name in ["a.onnx", "ftrt.plan", "other.plan"] {
        sheet.add(&Error::NoManifest {
            plan: folder.join(name),
            manifest: folder.join(name).with_added_extension("json"),
        });
    }
    sheet.add(&Error::Manifest {
        path: p("a.plan.json"),
        reason: s("no"),
    });
    let (plan, manifest) = (|| p("a.plan"), || p("a.plan.json"));
    sheet.add(&Error::Mismatch {
        plan: plan(),
        manifest: manifest(),
        reason: s("other bytes"),
    });
    sheet.add(&Error::HasManifest {
        plan: plan(),
        manifest: manifest(),
    });
    sheet.add(&Error::Occupied {
        path: plan(),
        what: "is a folder",
    });
    sheet.add(&Error::Unfinished {
        journal: p("a.plan.journal"),
        folder: p("other"),
    });
    sheet.add(&Error::File(file()));
}

fn local_cache(sheet: &mut Sheet) {
    let path = || p("cache");
    sheet.add(&CacheFault::NotOwned {
        path: path(),
        owner: 1,
        user: 2,
    });
    sheet.add(&CacheFault::Exposed {
        path: path(),
        mode: 0o777,
    });
    sheet.add(&CacheFault::Foreign {
        path: path(),
        found: p("x"),
    });
    sheet.add(&CacheFault::Link { path: path() });
    let kinds = [
        ErrorKind::StorageFull,
        ErrorKind::QuotaExceeded,
        ErrorKind::FileTooLarge,
        ErrorKind::PermissionDenied,
        ErrorKind::ReadOnlyFilesystem,
        ErrorKind::NotADirectory,
        ErrorKind::AlreadyExists,
        ErrorKind::Other,
    ];
    for kind in kinds {
        sheet.add(&CacheFault::Io {
            action: "write",
            path: path(),
            source: io(kind),
        });
    }
    let text = || s("x");
    let damages = [
        Damage::Name,
        Damage::Missing { file: "plan" },
        Damage::Record { why: text() },
        Damage::Seal,
        Damage::Format { found: text() },
        Damage::Key { found: text() },
        Damage::Length {
            file: "plan",
            expected: 9,
            found: 8,
        },
        Damage::Digest { file: "plan" },
    ];
    for damage in damages {
        sheet.add(&CacheFault::Damaged {
            entry: s("0123"),
            damage,
            quarantine: None,
        });
    }
    sheet.add(&CacheFault::Damaged {
        entry: s("0123"),
        damage: Damage::Seal,
        quarantine: Some(p("away")),
    });
    sheet.add(&CacheFault::TooLarge {
        bytes: 9000,
        limit: 8,
    });
    sheet.add(&CacheFault::NoRoom {
        bytes: 9000,
        limit: 8,
        held: 7,
    });
    sheet.add(&CacheFault::UnknownKey { text: text() });
    sheet.add(&CacheFault::AmbiguousKey {
        text: text(),
        matches: strings(["x1", "x2"]),
    });
    sheet.add(&CacheFault::Size { text: text() });
    sheet.add(&CacheFault::Age { text: text() });
}

fn remote_cache(sheet: &mut Sheet) {
    let (url, text) = (|| s("s3://b"), || s("x"));
    sheet.add(&RemoteFault::Url {
        url: url(),
        why: text(),
    });
    sheet.add(&RemoteFault::PlainHttp { url: url() });
    let reasons = [
        "no answer from 169.254.169.254",
        "NoSuchBucket",
        "403 Forbidden",
        "401 Unauthorized",
        "URL scheme is not allowed",
        "the request timed out",
        "something  else\nhappened",
    ];
    for reason in reasons {
        sheet.add(&RemoteFault::Failed {
            action: "read",
            url: url(),
            source: Cause::of(&io::Error::other(reason)),
        });
    }
    sheet.add(&RemoteFault::Damaged {
        url: url(),
        damage: Damage::Seal,
    });
    sheet.add(&RemoteFault::UnknownKey {
        url: url(),
        text: text(),
    });
    sheet.add(&RemoteFault::LeftOut);
    sheet.add(&RemoteFault::Cache(CacheFault::Age { text: text() }));
}

fn told() -> Told {
    Told {
        verdict: Verdict::NeedsRecompile,
        reasons: vec![],
        unused: strings(["u"]),
        lost: strings(["l"]),
        ignored: vec![],
        missing: vec![],
    }
}

fn conversions(sheet: &mut Sheet) {
    let overflow = |half, readers: Option<&str>| half::Fault::Overflow {
        weight: s("w"),
        cause: too_large(),
        readers: readers.map(s),
        half,
    };
    let causes = [
        half::Fault::Already {
            value: s("v"),
            dtype: Dtype::F16,
        },
        half::Fault::Nothing,
        half::Fault::Opset {
            half: Half::Bf16,
            found: 9,
            needed: 13,
        },
        half::Fault::Pattern {
            pattern: s("["),
            reason: s("no"),
        },
        overflow(Half::Fp16, Some("a*")),
        overflow(Half::Fp16, None),
        overflow(Half::Bf16, Some("a*")),
        half::Fault::Model(onnx::Error::TooBig { bytes: 9, limit: 8 }),
    ];
    sheet.within(&causes);
    for cause in causes {
        sheet.add(&pipeline::Error::Convert {
            half: Half::Fp16,
            cause: Box::new(cause),
        });
    }
}

fn between_parts(sheet: &mut Sheet) {
    use pipeline::Error;
    let (problems, hints) = (|| strings(["one", "two"]), || strings(["do", "or"]));
    sheet.add(&Error::Occupied {
        path: p("a.plan"),
        what: "is a folder",
    });
    sheet.add(&Error::Inputs {
        problems: problems(),
        hints: hints(),
    });
    sheet.add(&Error::Overlay {
        problems: problems(),
        hints: hints(),
    });
    sheet.add(&Error::Blocked {
        problems: problems(),
        hints: hints(),
        decision: Box::new(told()),
    });
    sheet.add(&Error::Reshaped {
        problems: problems(),
        decision: Box::new(told()),
    });
    let difference = Difference {
        max_abs: 1.0,
        relative_l2: 0.5,
        cosine: 1.0,
        mismatches: 1,
        first_mismatch: None,
        values_there: None,
    };
    sheet.add(&Error::Unverified(Verification {
        reference: s("ONNX Runtime"),
        outputs: vec![Verified {
            output: s("y"),
            difference,
            equal: false,
        }],
    }));
    let boxed = Box::new(mapping::Error::NotHeld { weight: s("w") });
    sheet.add(&Error::MappingFile {
        path: p("map.json"),
        cause: boxed,
    });
}

fn of_one_plan(sheet: &mut Sheet) {
    use pipeline::Error;
    let problems = || strings(["one", "two"]);
    let (plan, model) = (|| p("a.plan"), || p("m.onnx"));
    let last_refit = || Error::LastRefit {
        plan: plan(),
        library: s("TensorRT-RTX 1.2"),
    };
    sheet.add(&Error::Source {
        plan: plan(),
        model: model(),
        reason: "is gone",
    });
    sheet.add(&Error::OtherStructure {
        plan: plan(),
        model: model(),
    });
    sheet.add(&Error::TooLarge {
        plan: plan(),
        weight: s("w"),
        cause: too_large(),
    });
    sheet.add(&Error::Recipe {
        plan: plan(),
        reason: s("no"),
    });
    for proven in [0, 3] {
        let proof = Proof {
            parameters: 9,
            proven,
            unproven: strings(["a", "b", "c", "d"]),
            contradicted: strings(["e"]),
            unsourced: vec![],
            probed: 0,
        };
        sheet.add(&Error::BaseUnproven {
            files: vec![p("1"), p("2")],
            proof,
        });
    }
    sheet.add(&Error::Stripped { plan: plan() });
    sheet.add(&last_refit());
    let components = || lora::Error::Components {
        path: p("l"),
        components: vec!["unet", "te"],
    };
    let causes = [
        last_refit(),
        Error::Lora(components()),
        Error::Stripped { plan: plan() },
        Error::Reshaped {
            problems: problems(),
            decision: Box::new(told()),
        },
    ];
    for cause in causes {
        sheet.add(&Error::OfPlan {
            plan: p("b.plan"),
            cause: Box::new(cause),
        });
    }
    for device in [None, Some(1)] {
        sheet.add(&Error::OtherGpu {
            plan: plan(),
            built: s("A"),
            here: s("B"),
            device,
        });
    }
    for problems in [strings(["one"]), problems()] {
        sheet.add(&Error::NotOfModel {
            plan: plan(),
            model: model(),
            problems,
        });
    }
}

fn of_parts(sheet: &mut Sheet) {
    use pipeline::Error;
    sheet.add(&Error::Onnx(onnx::Error::TooBig { bytes: 9, limit: 8 }));
    sheet.add(&Error::Shapes(shapes::Error::Record(s("no"))));
    sheet.add(&Error::Engine(engine::Error::HostCode { path: s("a") }));
    sheet.add(&Error::Plan(plan::Error::Unfinished {
        journal: p("j"),
        folder: p("f"),
    }));
    sheet.add(&Error::Weights(weights::Error::None));
    sheet.add(&Error::Lora(lora::Error::NoLora { path: p("l") }));
    sheet.add(&Error::Mapping(mapping::Error::Probe { problem: s("no") }));
    sheet.add(&Error::Arrays(arrays::Error::Pickle(p("a"))));
    sheet.add(&Error::File(file()));
}

fn commands(sheet: &mut Sheet) {
    sheet.add(&ui::Error::Stdout(io(ErrorKind::StorageFull)));
    sheet.add(&ui::Error::File(file()));
    sheet.add(&Exhausted::Threads(s("no")));
    sheet.add(&Exhausted::Memory);
    sheet.add(&UsageError::new("wrong", "do it right"));
    sheet.add(&WatchError::Watch {
        path: p("w"),
        source: notify::Error::generic("no"),
    });
    sheet.add(&WatchError::Start {
        what: s("sh"),
        source: io(ErrorKind::NotFound),
    });
    for status in [libc::SIGKILL, libc::SIGSEGV] {
        sheet.add(&WatchError::CutShort {
            status: ExitStatusExt::from_raw(status),
        });
    }
    sheet.add(&WatchError::Exec {
        command: s("false"),
        status: ExitStatusExt::from_raw(256),
    });
    let plan = || p("a.plan");
    sheet.add(&ExportError::Backend {
        plan: plan(),
        backend: s("cpu"),
    });
    sheet.add(&ExportError::Stripped { plan: plan() });
    sheet.add(&ExportError::Tensor {
        tensor: s("t"),
        problem: s("is odd"),
        hint: "make it even",
    });
    sheet.add(&ExportError::Occupied { path: p("config") });
    sheet.add(&ExportError::Edited { path: p("config") });
    sheet.add(&ExportError::Name { folder: p("..") });
    for (model, source) in [
        ("m.onnx", shapes::Error::Record(s("no"))),
        (
            "a b.onnx",
            shapes::Error::Model {
                origin: None,
                problems: vec![],
                suggestion: s("{}"),
            },
        ),
    ] {
        sheet.add(&run::Unranged {
            model: p(model),
            source,
        });
    }
    let fixed = |n: usize| WeightState {
        name: format!("w{n}"),
        holds: Digest([0; 32]),
        wanted: Digest([1; 32]),
        fixed: Some(s("it is folded")),
        recipe: None,
    };
    for plan in [None, Some(plan())] {
        sheet.add(&refit::NotEnough {
            plan,
            fixed: (0..6).map(fixed).collect(),
            decision: Box::new(told()),
        });
    }
}

#[test]
fn what_is_said_of_every_error_stays() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ftrt.plan"), header()).unwrap();
    let mut sheet = Sheet::default();
    files(&mut sheet);
    weight_files(&mut sheet);
    weight_layouts(&mut sheet);
    loras(&mut sheet);
    models(&mut sheet);
    spec_shapes(&mut sheet);
    tensor_files(&mut sheet);
    mappings(&mut sheet);
    engines(&mut sheet);
    plans(&mut sheet, folder.path());
    local_cache(&mut sheet);
    remote_cache(&mut sheet);
    conversions(&mut sheet);
    between_parts(&mut sheet);
    of_one_plan(&mut sheet);
    of_parts(&mut sheet);
    commands(&mut sheet);

    let missing: Vec<String> = variants().difference(&sheet.seen).cloned().collect();
    assert!(missing.is_empty(), "no value of {}", missing.join(", "));
    let text = sheet.text.replace(folder.path().to_str().unwrap(), "[TMP]");
    snapbox::assert_data_eq!(text, snapbox::file!["faults.txt"].raw());
}

/// The first bytes of a plan of TensorRT 10.
fn header() -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[..4].copy_from_slice(b"ftrt");
    bytes[24..28].copy_from_slice(&[10, 3, 0, 26]);
    bytes
}

/// Every variant of the error types in the sources that explain themselves.
fn variants() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let module = path.strip_prefix(&root).unwrap().with_extension("");
            let module = module.to_str().unwrap().replace('/', "::");
            let module = module.strip_suffix("::mod").unwrap_or(&module).to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            if !text.contains("Explain") {
                continue;
            }
            for (ty, variant) in explained(&text) {
                found.insert(format!("trtmut::{module}::{ty}{variant}"));
            }
        }
    }
    assert!(found.len() > 100, "the sources were not found");
    found
}

/// Type and `::Variant` (nothing for a struct) of what explains itself in a source file.
fn explained(text: &str) -> Vec<(String, String)> {
    let by_hand = regex::Regex::new(r"(?m)^impl Explain for (\w+)").unwrap();
    let item = regex::Regex::new(
        r"(?ms)^#\[derive\(([^)]*)\)\]\n(?:(?:#|//| |\)).*?\n)*?pub (enum|struct) (\w+)(.*?)^\}",
    )
    .unwrap();
    let variant = regex::Regex::new(r"(?m)^    ([A-Z]\w*)").unwrap();
    let by_hand: Vec<&str> = (by_hand.captures_iter(text))
        .map(|c| c.get(1).unwrap().as_str())
        .collect();
    let mut found = Vec::new();
    for parts in item.captures_iter(text) {
        let name = &parts[3];
        if !by_hand.contains(&name) && !parts[1].contains("Explain") {
            continue;
        }
        if &parts[2] == "struct" {
            found.push((name.to_owned(), String::new()));
        }
        for at in variant.captures_iter(&parts[4]) {
            found.push((name.to_owned(), format!("::{}", &at[1])));
        }
    }
    found
}
